// SPDX-License-Identifier: GPL-2.0

//! Reset of the GPU by command. The reset line is driven by [`device`](crate::device).
//!
//! A reset turns all cores off and clears address spaces, job slots, configuration and interrupt
//! masks. For its three steps see [`Chip`](crate::hw::Chip). No function allocates.

use kernel::{
    device::Device,
    io::{
        poll::{
            read_poll_timeout,
            read_poll_timeout_atomic, //
        },
        Io, //
    },
    prelude::*,
    time::Delta, //
};

use super::{
    power,
    regs::gpu::*,
    Caps,
    IoMem,
    Issue, //
};

/// Time between two reads of the interrupt status.
const POLL: Delta = Delta::from_micros(20);
/// Number of reads during which [`soft`] waits: 10 ms, which is the whole timeout of C panfrost. A
/// reset normally takes a few microseconds.
const SOFT_POLLS: usize = 500;
/// Additional timeout of a soft reset, which waits for accesses in flight.
const SOFT_TIMEOUT: Delta = Delta::from_millis(50);
/// Timeout of a hard reset.
const HARD_TIMEOUT: Delta = Delta::from_millis(50);

/// Prepares the GPU for a reset. Sleeps.
pub(super) fn prepare(dev: &Device, io: &IoMem<'_>, caps: &Caps) {
    io.write_reg(GPU_INT_MASK::zeroed());

    if caps.issue(Issue::Tmix8463) {
        // Errors are ignored: a cache that never settles is one more reason to reset.
        let _ = power::settle_l2(dev, io);
    }
}

/// Starts a soft reset and busy-waits for up to 10 ms. Does not sleep.
///
/// `ENODEV`: the device is gone. `ETIMEDOUT`: the reset is not over yet; [`finish`] continues.
pub(super) fn soft(io: &IoMem<'_>) -> Result {
    give(io, GpuCommand::SoftReset);
    read_poll_timeout_atomic(|| status(io), is_over, POLL, SOFT_POLLS)?;
    forget(io);
    Ok(())
}

/// Waits for the reset that [`soft`] has started, and does a hard reset if that takes too long.
/// Sleeps. `ENODEV`: the device is gone. `ETIMEDOUT`: the GPU does not respond, and may still
/// access memory.
pub(super) fn finish(dev: &Device, io: &IoMem<'_>) -> Result {
    match read_poll_timeout(|| status(io), is_over, POLL, SOFT_TIMEOUT) {
        Err(ETIMEDOUT) => {
            dev_warn!(dev, "soft reset timed out, trying a hard one\n");
            give(io, GpuCommand::HardReset);
            read_poll_timeout(|| status(io), is_over, POLL, HARD_TIMEOUT)
        }
        result => result,
    }
    .inspect_err(|&e| {
        // A device that has been removed is not an error.
        if e != ENODEV {
            dev_err!(dev, "reset failed: {:?}\n", e);
        }
    })?;
    forget(io);
    Ok(())
}

/// Masks and clears the interrupts of the GPU block after a reset, by command or by the reset line.
pub(super) fn forget(io: &IoMem<'_>) {
    io.write_reg(GPU_INT_MASK::zeroed());
    io.write_reg(GPU_INT_CLEAR::ALL);
}

/// Gives a reset command.
fn give(io: &IoMem<'_>, command: GpuCommand) {
    io.write_reg(GPU_INT_CLEAR::zeroed().with_reset_completed(true));
    io.write_reg(GPU_COMMAND::zeroed().with_command(command));
}

/// Reads the raw interrupt status. `ENODEV` if the device is gone.
fn status(io: &IoMem<'_>) -> Result<GPU_INT_RAWSTAT> {
    match io.read(GPU_INT_RAWSTAT) {
        gone if gone.into_raw() == u32::MAX => Err(ENODEV),
        status => Ok(status),
    }
}

/// Returns whether the reset is over.
fn is_over(status: &GPU_INT_RAWSTAT) -> bool {
    status.reset_completed()
}
