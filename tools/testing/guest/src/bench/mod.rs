// SPDX-License-Identifier: GPL-2.0

//! The costs of things, as a rule in instructions.
//!
//! Under `vm --icount --cpus 1` a nanosecond of the guest's clock is an instruction and the GPU
//! answers at once, so what is measured is the path through the kernel, and numbers of two drivers
//! can be compared. Elsewhere they mean nothing.
//!
//! There are two kinds of rows. Those that use [`time`] are the time until a call returns. The
//! program has real-time priority then, above interrupt threads and workers, so work that a driver
//! leaves to them is not counted unless the call waits for it. Those that use [`total`] are all
//! that is executed, by anybody, until the machine is quiet again. They need `profile.c`, which
//! counts.
//!
//! A row is measured many times and the median is taken: ticks and other interrupts fall on some of
//! the samples. The first samples, which warm caches of all kinds up, are not among them.
//!
//! [`total`]: count::total

use crate::harness::Gpu;
use crate::harness::Stop;
use crate::sys;

mod buffers;
mod count;
mod frames;
pub mod growth;
mod jobs;
mod latency;
mod reclaim;
mod sizes;
mod tables;

/// The aim of a row, compared with C panfrost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    /// The most that it may be, in hundredths of C panfrost's.
    pub percent: u32,
    /// Whether that is of what either has above its own row [`BASE`].
    pub above_base: bool,
    /// Why it is not a half.
    pub reason: &'static str,
}

impl Aim {
    /// Half of C panfrost's.
    pub const HALF: Self = Self::at_most(50, "");

    /// So many hundredths, because of something.
    const fn at_most(percent: u32, reason: &'static str) -> Self {
        Self {
            percent,
            above_base: false,
            reason,
        }
    }

    /// As much as C panfrost's, because of something.
    const fn same(reason: &'static str) -> Self {
        Self::at_most(100, reason)
    }

    /// The same aim for what is above [`BASE`].
    const fn above_base(mut self) -> Self {
        self.above_base = true;
        self
    }
}

/// The unit of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Executed by the guest, or nanoseconds of its clock.
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

/// When the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Before interrupt threads and workers: a job ends, for the driver, once the program waits.
    First,
    /// As any program: an interrupt thread preempts it, so jobs that take no time end at once.
    Ordinary,
    /// After all else: whatever is woken preempts it at once, workers included.
    Last,
}

/// The row of the cheapest ioctl: what entering the kernel and the DRM core cost.
pub const BASE: &str = "ioctl";

/// A row of the table.
pub struct Row {
    /// `subject-what`.
    pub name: &'static str,
    /// For whoever reads the table.
    pub what: &'static str,
    /// Its aim.
    pub aim: Aim,
    /// Its unit.
    pub unit: Unit,
    /// With which priority the program runs.
    pub priority: Priority,
    /// Whether it is only measured when it is named: it has to be the first in a guest, or wants
    /// more of the plugin than the others.
    pub alone: bool,
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
            priority: Priority::First,
            alone: false,
            run,
        }
    }

    /// The same row, in another unit.
    const fn unit(mut self, unit: Unit) -> Self {
        self.unit = unit;
        self
    }

    /// The same row, of a program with ordinary priority.
    const fn ordinary(mut self) -> Self {
        self.priority = Priority::Ordinary;
        self
    }

    /// The same row, of a program that lets everybody go first.
    const fn last(mut self) -> Self {
        self.priority = Priority::Last;
        self
    }

    /// The same row, in a guest without others.
    const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }
}

/// All rows, in the table's order.
pub fn all() -> impl Iterator<Item = &'static Row> {
    [
        frames::ROWS,
        jobs::ROWS,
        latency::ROWS,
        buffers::ROWS,
        tables::ROWS,
        reclaim::ROWS,
        sizes::ROWS,
    ]
    .into_iter()
    .flatten()
}

/// Samples that are taken before those that count.
const WARM_UP: usize = 3;

/// The median of `count` samples.
fn median(count: usize, sample: impl FnMut() -> Result<u64, Stop>) -> Result<u64, Stop> {
    Ok(samples(count, sample)?[count / 2])
}

/// So many samples, in the order of their size.
fn samples(count: usize, mut sample: impl FnMut() -> Result<u64, Stop>) -> Result<Vec<u64>, Stop> {
    for _ in 0..WARM_UP {
        sample()?;
    }
    let mut samples = (0..count)
        .map(|_| sample())
        .collect::<Result<Vec<_>, _>>()?;
    samples.sort_unstable();
    Ok(samples)
}

/// How long something takes.
fn time<T>(what: impl FnOnce() -> sys::Result<T>) -> Result<(u64, T), Stop> {
    let start = sys::now_ns();
    let result = marked(what);
    Ok((sys::now_ns().abs_diff(start), result?))
}

/// Calls something between two marks, within which a profiler (`profile.c`) counts.
fn marked<T>(what: impl FnOnce() -> T) -> T {
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
    result
}
