// SPDX-License-Identifier: GPL-2.0

//! GPU address spaces.
//!
//! - [`Vm`] belongs to a file: while it exists, so do its addresses and its claim on the hardware.
//! - [`Space`] is what it consists of: page table and VA tree. The hardware slots and the fault
//!   path share it, and never keep a [`Vm`] alive.
//! - [`VaNode`] is a range of addresses, held by a mapping of a BO.
//! - [`Slots`] are the address spaces of the hardware, of which there are fewer than files. A space
//!   gets one when a job of it runs, and keeps it until another needs it.
//! - [`Occupants`](occupants::Occupants) are the jobs of a space that are in the hardware.
//! - [`fault`] is the thread of the MMU interrupt.
//!
//! # Locks
//!
//! The VA tree has a spinlock, the slots have one; neither nests in the other. Page tables have
//! none: whoever maps or unmaps holds the [`VaNode`] of the range, so ranges are disjoint, and the
//! table code is built for that.
//!
//! # What must go before what
//!
//! A table is freed while accesses through it are locked out. A range is unmapped before its
//! [`VaNode`] is dropped, and flushed before its pages are freed. [`Space::unmap`] does both; if it fails, the hardware may still reach the pages and they must be
//! leaked. A [`Vm`] gives its slot back before its page table can go.

pub(crate) mod fault;
mod occupants;
mod page_table;
pub(crate) mod slots;
mod va;
mod vm;

pub(crate) use occupants::Seen;
pub(crate) use page_table::Prot;
pub(crate) use slots::Slots;
pub(crate) use vm::{
    Space,
    VaNode,
    Vm, //
};
