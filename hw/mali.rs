// SPDX-License-Identifier: GPL-2.0

//! Arm Mali GPUs with a Job Manager (architectures 4 to 9).
//!
//! Facts about registers come from the register headers that Arm published with its kernel driver
//! under the GPL, and from the panfrost driver, which has them in `panfrost_regs.h`.
//!
//! - [`identity`]: the identity and feature registers,
//! - [`product`]: names, features and errata by product and revision, which no register tells,
//! - [`chip`]: the above of one GPU, and its registers,
//! - [`power`] and [`reset`]: turning cores on and off, and resetting the GPU,
//! - [`mmu`]: commands to the hardware address spaces,
//! - [`tables`]: the page tables that they walk, and [`va`] the rules for addresses in them,
//! - [`job`]: the job slots; [`collect`] reads their reports, and [`status`] decodes their state,
//! - [`irq`]: the three interrupt blocks,
//! - [`counter`]: cycle counter and timestamp,
//! - [`dump`]: registers for dumps; [`chain`] decodes the jobs in memory,
//! - [`soc`]: the devices to which the driver binds, and their SoCs,
//! - [`exception`]: exception codes and their names.
//!
//! Only [`counter`] takes a lock, its own.

mod chain;
mod chip;
mod collect;
mod counter;
mod dump;
mod exception;
mod identity;
mod irq;
pub(crate) mod job;
mod mmu;
mod power;
mod product;
mod regs;
mod reset;
mod soc;
mod status;
mod tables;
mod va;

use kernel::sizes::SZ_16K;

pub(crate) use chip::Mali;
pub(crate) use counter::{
    cycle_counter_get,
    cycle_counter_put,
    timestamp, //
};
use exception::Exception;
use identity::Identity;
use product::{
    Caps,
    Feature,
    Issue, //
};

/// Size of the register file that the driver needs, in bytes. The highest register in use is the
/// last of address space 15; the devicetree binding requires at least 16 KiB.
const REGS_SIZE: usize = SZ_16K;

/// Mapping of the register file.
type IoMem<'a> = kernel::io::mem::ExclusiveIoMem<'a, REGS_SIZE>;

/// Joins the two halves of a 64-bit value.
const fn join(lo: u32, hi: u32) -> u64 {
    ((hi as u64) << 32) | lo as u64
}

/// Returns the lower half of a 64-bit value.
const fn lo(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// Returns the upper half of a 64-bit value.
const fn hi(value: u64) -> u32 {
    (value >> 32) as u32
}
