// SPDX-License-Identifier: GPL-2.0

//! Register definitions, one file per unit. Offsets are from the start of the register file.
//!
//! 64-bit registers are pairs of 32-bit ones on the bus and are declared so: `_LO` and `_HI`.

pub(super) mod gpu;
pub(super) mod job;
pub(super) mod mmu;

use kernel::{
    io::{
        register::{
            RegisterArray,
            RegisterArrayLoc, //
        },
        Io, //
    },
    prelude::*, //
};

use super::IoMem;

/// Reads element `n` of a register array. `EINVAL` for an element that does not exist.
pub(super) fn read_at<R>(io: &IoMem<'_>, n: usize) -> Result<R>
where
    R: RegisterArray<Storage = u32>,
{
    Ok(io.read(RegisterArrayLoc::<R>::try_new(n).ok_or(EINVAL)?))
}

/// Writes element `n` of a register array. `EINVAL` for an element that does not exist.
pub(super) fn write_at<R>(io: &IoMem<'_>, n: usize, value: R) -> Result
where
    R: RegisterArray<Storage = u32>,
{
    io.write(RegisterArrayLoc::<R>::try_new(n).ok_or(EINVAL)?, value);
    Ok(())
}
