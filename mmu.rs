// SPDX-License-Identifier: GPL-2.0

//! GPU address spaces.
//!
//! - [`Vm`] is the address space of a file. While it exists, so do its addresses and its claim on
//!   the hardware. It treats the owner's data about the memory in it as opaque.
//! - [`VmShared`] is the part of a [`Vm`] that the hardware and the fault path share: page table
//!   and VA tree. The entry of an AS and the fault path hold references to it, and never keep the
//!   [`Vm`] alive.
//! - [`VaNode`] is a range of addresses, held by a mapping of a BO.
//! - [`AddressSpaces`] are those of the hardware, of which there are fewer than files. A space gets
//!   one of them, its *AS*, when a job of it is about to run, and keeps it until another space
//!   needs it. The table of them is an [`AsTable`](as_table::AsTable). Both touch the hardware only
//!   through a [`Walker`](crate::hw::Walker), which tests replace.
//! - [`Orphans`](orphans::Orphans) keeps memory that has no owner any more, but that the hardware
//!   may still reach.
//! - [`Change`](change::Change) decides how thorough a flush has to be.
//! - [`closing`] removes the mappings of a BO, or of a whole file.
//! - [`Occupants`](occupants::Occupants) tracks which jobs of a space are in the hardware.
//! - [`fault`] is the thread of the MMU interrupt.
//!
//! # Locks
//!
//! The VA tree has a spinlock, and [`AddressSpaces`] has one; neither nests in the other. Code that
//! maps or unmaps holds the [`VaNode`] of the range. While it writes to the page table it also
//! holds the spinlock of the table, inside which that of [`AddressSpaces`] may be taken.
//!
//! # Teardown order
//!
//! A table of 4 KiB entries is freed only while the accesses through it are locked out. A range is
//! unmapped before its [`VaNode`] is dropped, and flushed before its pages are freed; if jobs of
//! the space run, the flush also waits for their accesses and writes the GPU's caches back.
//! [`VmShared::unmap`] does all of that; if it fails, the hardware may still reach the pages until
//! it is reset, and they are [kept](VmShared::keep). A [`Vm`] gives its AS back before its page
//! table can be freed.

pub(crate) mod address_spaces;
mod as_table;
mod change;
mod closing;
pub(crate) mod fault;
mod occupants;
mod orphans;
mod page_table;
mod vm;

pub(crate) use fault::{
    Grow,
    Growth, //
};
pub(crate) use occupants::RunningJobs;
pub(crate) use orphans::Keepable;
pub(crate) use page_table::{
    PageTables,
    Prot, //
};
pub(crate) use vm::{
    VaNode,
    Vm,
    VmShared, //
};

/// The address spaces of the hardware, assigned to those of files.
pub(crate) type AddressSpaces = address_spaces::AddressSpaces<VmShared>;
