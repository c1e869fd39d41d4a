// SPDX-License-Identifier: GPL-2.0

//! A software model of Job-Manager Mali GPUs.
//!
//! [`gpu::Gpu`] is the register file with everything behind it: interrupt blocks, power domains,
//! address spaces, job slots. It is driven by register accesses and by [`engine::Engine`], which
//! runs jobs and events and knows a GPU by the trait [`machine::Machine`] only. It accesses memory,
//! interrupts and time through the traits in [`host`]. [`desc`] has the descriptors in memory,
//! [`job`] executes them. Tests inject faults through [`control`]. [`names`] makes logs readable.
//!
//! The program `mali-model` exposes all this through a vfio-user socket, so that an emulator sees a
//! PCI function.
//!
//! Locks: one, in [`engine`], around the whole GPU.

#![deny(unsafe_code)]

pub mod control;
pub mod desc;
pub mod engine;
pub mod gpu;
pub mod help;
pub mod host;
pub mod irq;
pub mod job;
pub mod machine;
mod mali;
pub mod mmu;
pub mod names;
mod orders;
pub mod perfcnt;
pub mod power;
pub mod product;
mod registers;
pub mod regs;
pub mod slot;
pub mod testing;
pub mod timer;
