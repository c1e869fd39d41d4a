// SPDX-License-Identifier: GPL-2.0

//! Counters that user space can read: cycles, timestamp, cache flushes.
//!
//! The cycle counter costs power and runs only while somebody needs it. Its users are counted under
//! a spinlock of its own, which nests inside all others.

use kernel::{
    io::Io,
    prelude::*,
    sync::SpinLock, //
};

use super::{
    join,
    regs::gpu::*,
    Feature,
    IoMem, //
};
use crate::device::Gpu;

/// Reads a number in two words that may change meanwhile, again until the upper one has kept still.
///
/// `ENODEV` if the device is gone, `EIO` if it changes faster than it can be read.
pub(super) fn read_u64(mut low: impl FnMut() -> u32, mut high: impl FnMut() -> u32) -> Result<u64> {
    let mut hi = high();

    for _ in 0..4 {
        let lo = low();
        let again = high();

        if again == hi {
            return match join(lo, hi) {
                u64::MAX => Err(ENODEV),
                value => Ok(value),
            };
        }
        hi = again;
    }
    Err(EIO)
}

/// The system timestamp, in ticks of the system counter.
pub(crate) fn timestamp(gpu: &Gpu<'_>) -> Result<u64> {
    let io = gpu.io();

    read_u64(
        || io.read(TIMESTAMP_LO).into_raw(),
        || io.read(TIMESTAMP_HI).into_raw(),
    )
}

/// Number of cache flushes so far, for jobs that can skip theirs; 0 if the GPU does not count.
///
/// `ENODEV` if the GPU has halted.
pub(crate) fn latest_flush_id(gpu: &Gpu<'_>) -> Result<u32> {
    if gpu.halted() {
        Err(ENODEV)
    } else if gpu.caps.feature(Feature::FlushReduction) {
        Ok(gpu.io().read(LATEST_FLUSH_ID).into_raw())
    } else {
        Ok(0)
    }
}

/// Starts the cycle counter for one more user.
pub(crate) fn cycle_counter_get(gpu: &Gpu<'_>) {
    let mut users = gpu.cycle_users.lock();

    if *users == 0 {
        gpu.io()
            .write_reg(GPU_COMMAND::from_raw(cmd::CYCLE_COUNT_START));
    }
    *users = users.saturating_add(1);
}

/// Ends one use of the cycle counter, and stops it after the last. One call too many is harmless.
pub(crate) fn cycle_counter_put(gpu: &Gpu<'_>) {
    let mut users = gpu.cycle_users.lock();

    if *users == 1 {
        gpu.io()
            .write_reg(GPU_COMMAND::from_raw(cmd::CYCLE_COUNT_STOP));
    }
    *users = users.saturating_sub(1);
}

/// A reset has stopped the counter: starts it again if somebody uses it.
pub(crate) fn restart(io: &IoMem<'_>, users: &SpinLock<u32>) {
    let users = users.lock();

    if *users != 0 {
        io.write_reg(GPU_COMMAND::from_raw(cmd::CYCLE_COUNT_START));
    }
}
