// SPDX-License-Identifier: GPL-2.0

//! Reset of the GPU by command. What drives its reset line is in [`device`](crate::device).
//!
//! A reset turns all cores off and forgets address spaces, job slots, configuration and interrupt
//! masks. Functions sleep and allocate nothing.

use kernel::{
    device::Device,
    io::{
        poll::read_poll_timeout,
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

/// Time between two looks at the interrupt status.
const POLL: Delta = Delta::from_micros(20);
/// Time that a soft reset gets. It waits for accesses in flight.
const SOFT_TIMEOUT: Delta = Delta::from_millis(50);
/// Time that a hard reset gets.
const HARD_TIMEOUT: Delta = Delta::from_millis(50);

/// Resets the GPU: orderly, and if that takes too long, at once. Leaves all its interrupts masked.
///
/// `caps` is [`None`] before the GPU is known. `ENODEV`: the device is gone. `ETIMEDOUT`: it does
/// not react, and may still access memory.
pub(crate) fn reset(dev: &Device, io: &IoMem<'_>, caps: Option<&Caps>) -> Result {
    io.write_reg(GPU_INT_MASK::from_raw(0));

    if caps.is_some_and(|c| c.issue(Issue::Tmix8463)) {
        // Tried, not required: a cache that never settles is a reason to reset.
        let _ = power::settle_l2(dev, io);
    }

    match command(io, cmd::SOFT_RESET, SOFT_TIMEOUT) {
        Err(e) if e == ETIMEDOUT => {
            dev_warn!(dev, "soft reset timed out, trying a hard one\n");
            command(io, cmd::HARD_RESET, HARD_TIMEOUT)
        }
        result => result,
    }
    .inspect_err(|&e| {
        // That a device has left is no error of it.
        if e != ENODEV {
            dev_err!(dev, "reset failed: {:?}\n", e);
        }
    })?;

    io.write_reg(GPU_INT_CLEAR::from_raw(int::ALL));
    Ok(())
}

/// Gives a reset command and waits until it is over.
fn command(io: &IoMem<'_>, command: u32, timeout: Delta) -> Result {
    io.write_reg(GPU_INT_CLEAR::from_raw(int::RESET_COMPLETED));
    io.write_reg(GPU_COMMAND::from_raw(command));

    read_poll_timeout(
        || match io.read(GPU_INT_RAWSTAT) {
            gone if gone.into_raw() == u32::MAX => Err(ENODEV),
            status => Ok(status),
        },
        |status| status.reset_completed(),
        POLL,
        timeout,
    )?;
    Ok(())
}
