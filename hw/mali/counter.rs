// SPDX-License-Identifier: GPL-2.0

//! Counters that user space can read: cycles, timestamp, cache flushes.
//!
//! The cycle counter costs power, so it runs only while it has users. A spinlock protects their
//! number, and nests inside all others, that of the job queue included. Process context; only
//! [`latest_flush_id`] sleeps, as it may wait for a reset.

use kernel::{
    io::Io,
    prelude::*, //
};

use super::{
    join,
    regs::gpu::*,
    Feature,
    IoMem,
    Mali, //
};
use crate::device::Gpu;

/// Reads a 64-bit value that may change between the reads of its halves. Repeats until the upper
/// half has the same value before and after.
///
/// `ENODEV` if the device is gone, `EIO` if the upper half keeps changing.
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

/// Returns the system timestamp, in ticks of the system counter. `ENODEV` if the GPU has halted or
/// is gone.
pub(crate) fn timestamp(gpu: &Gpu<'_>) -> Result<u64> {
    let read = |chip: &Mali<'_>| {
        read_u64(
            || chip.io.read(TIMESTAMP_LO).into_raw(),
            || chip.io.read(TIMESTAMP_HI).into_raw(),
        )
    };

    gpu.while_on(read).unwrap_or(Err(ENODEV))
}

/// See [`Runner::latest_flush_id`](crate::hw::Runner::latest_flush_id).
pub(super) fn latest_flush_id(gpu: &Gpu<'_>) -> Result<u32> {
    if gpu.halted() {
        return Err(ENODEV);
    }
    if !gpu.chip.caps.feature(Feature::FlushReduction) {
        return Ok(0);
    }

    let read = || gpu.while_on(|chip| chip.io.read(LATEST_FLUSH_ID).into_raw());
    read().or_else(|| gpu.between_resets(read)).ok_or(ENODEV)
}

/// Adds a user of the cycle counter, and starts the counter for the first one.
pub(crate) fn cycle_counter_get(gpu: &Gpu<'_>) {
    let mut users = gpu.chip.cycle_users.lock();

    // If the GPU has halted, [`restart`] starts the counter after the next successful reset.
    if *users == 0 && !gpu.off_limits() {
        give(&gpu.chip.io, GpuCommand::CycleCountStart);
    }
    *users = users.saturating_add(1);
}

/// Removes a user of the cycle counter, and stops the counter after the last one. Does nothing if
/// there are no users.
pub(crate) fn cycle_counter_put(gpu: &Gpu<'_>) {
    let mut users = gpu.chip.cycle_users.lock();

    // If the GPU has halted, a reset has stopped the counter or will.
    if *users == 1 && !gpu.off_limits() {
        give(&gpu.chip.io, GpuCommand::CycleCountStop);
    }
    *users = users.saturating_sub(1);
}

/// Starts the cycle counter again after a reset, if it has users.
pub(super) fn restart(chip: &Mali<'_>) {
    let users = chip.cycle_users.lock();

    if *users != 0 {
        give(&chip.io, GpuCommand::CycleCountStart);
    }
}

/// Gives a command to the GPU.
fn give(io: &IoMem<'_>, command: GpuCommand) {
    io.write_reg(GPU_COMMAND::zeroed().with_command(command));
}
