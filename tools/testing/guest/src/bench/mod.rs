// SPDX-License-Identifier: GPL-2.0

//! What things cost, as a rule in nanoseconds of the guest's clock.
//!
//! Under `vm --icount --cpus 1` a nanosecond is an instruction and the GPU answers at once, so what
//! is measured is the path through the kernel, and numbers of two drivers can be compared.
//! Elsewhere they mean nothing.
//!
//! A row is measured many times and the median is taken: ticks and other interrupts fall on some of
//! the samples. The first samples, which warm caches of all kinds up, are not among them.

use crate::harness::Gpu;
use crate::harness::Stop;
use crate::sys;

mod buffers;
mod jobs;
mod reclaim;
mod tables;

/// What a row should come to, compared with C panfrost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// No more than half.
    Half,
    /// No more than half of what is above the row [`BASE`].
    HalfAboveBase,
    /// No more than as much.
    Same,
}

impl Aim {
    /// As the table's program reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::HalfAboveBase => "half-above-base",
            Self::Same => "same",
        }
    }
}

/// What a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds of the guest's clock.
    Instructions,
    /// Bytes of memory.
    Bytes,
    /// Registers of the GPU that were read or written.
    Accesses,
}

impl Unit {
    /// As the table's program reads it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Bytes => "bytes",
            Self::Accesses => "accesses",
        }
    }
}

/// The row of the cheapest ioctl: what entering the kernel and the DRM core cost.
pub const BASE: &str = "ioctl";

/// A row of the table.
pub struct Row {
    /// `subject-what`.
    pub name: &'static str,
    /// For whoever reads the table.
    pub what: &'static str,
    /// What it should come to.
    pub aim: Aim,
    /// What is counted.
    pub unit: Unit,
    /// Measures it.
    pub run: fn(&Gpu) -> Result<u64, Stop>,
}

impl Row {
    const fn new(
        name: &'static str,
        what: &'static str,
        aim: Aim,
        run: fn(&Gpu) -> Result<u64, Stop>,
    ) -> Self {
        Self {
            name,
            what,
            aim,
            unit: Unit::Instructions,
            run,
        }
    }

    /// The same row, in another unit.
    const fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }
}

/// All rows, in the table's order.
pub fn all() -> impl Iterator<Item = &'static Row> {
    [jobs::ROWS, buffers::ROWS, tables::ROWS, reclaim::ROWS]
        .into_iter()
        .flatten()
}

/// Samples that are taken before those that count.
const WARM_UP: usize = 3;

/// The median of `count` samples.
fn median(count: usize, mut sample: impl FnMut() -> Result<u64, Stop>) -> Result<u64, Stop> {
    for _ in 0..WARM_UP {
        sample()?;
    }
    let mut samples = (0..count)
        .map(|_| sample())
        .collect::<Result<Vec<_>, _>>()?;
    samples.sort_unstable();
    Ok(samples[count / 2])
}

/// How long something takes. What a profiler (`profile.c`) counts is between the two marks.
fn time<T>(what: impl FnOnce() -> sys::Result<T>) -> Result<(u64, T), Stop> {
    let start = sys::now_ns();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: does nothing.
    unsafe {
        core::arch::asm!("nopl 0x62656e01(%rax)", options(att_syntax, nomem, nostack));
    }
    let result = what();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: does nothing.
    unsafe {
        core::arch::asm!("nopl 0x62656e02(%rax)", options(att_syntax, nomem, nostack));
    }
    Ok((sys::now_ns().abs_diff(start), result?))
}
