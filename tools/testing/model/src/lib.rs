// SPDX-License-Identifier: GPL-2.0

//! A software model of Job-Manager Mali GPUs.
//!
//! [`gpu::Gpu`] is the register file with everything behind it: interrupt blocks, power domains,
//! address spaces, job slots. It is driven by register accesses and by [`engine::Engine`], which
//! lets jobs run and time pass, and it is given memory, interrupts and time through the traits in
//! [`host`]. [`desc`] and [`job`] are what is in memory: the descriptors, and what executing them
//! does. [`control`] is how tests order faults.
//!
//! The program `mali-model` puts all this behind a vfio-user socket, so that an emulator sees a
//! PCI function.
//!
//! Locks: one, in [`engine`], around the whole GPU.

#![deny(unsafe_code)]

pub mod control;
pub mod desc;
pub mod engine;
pub mod gpu;
pub mod host;
pub mod irq;
pub mod job;
pub mod mmu;
mod orders;
pub mod perfcnt;
pub mod power;
pub mod product;
mod registers;
pub mod regs;
pub mod slot;
pub mod testing;
pub mod timer;
