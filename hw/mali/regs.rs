// SPDX-License-Identifier: GPL-2.0

//! Register definitions, one file per unit. Offsets are from the start of the register file.
//!
//! 64-bit registers are pairs of 32-bit ones on the bus and are declared so: `_LO` and `_HI`. If a
//! 64-bit value has fields, it has a type of its own, made with [`bitfield!`](kernel::bitfield!).
//!
//! # Sources
//!
//! Offsets, fields and values are those of C panfrost (`panfrost_regs.h`), unless a source is
//! named:
//!
//! - kbase: Arm's own driver, published under the GPL. Its headers are
//!   `mali_kbase_gpu_regmap.h` and `mali_kbase_regmap_jm_macros.h`; `mali_kbase_gpuprops.c` decodes
//!   the feature registers.
//! - Tyr: `drivers/gpu/drm/tyr/regs.rs`, for registers that newer GPUs share.

/// Declares an enum for the values of a field, and its conversions from and to the field. A value
/// that is not listed is read as `EINVAL`.
macro_rules! field_values {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident: Bounded<$storage:ty, $bits:literal> {
            $($(#[$variant_meta:meta])* $variant:ident = $value:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$variant_meta])* $variant = $value,)*
        }

        impl TryFrom<::kernel::num::Bounded<$storage, $bits>> for $name {
            type Error = ::kernel::error::Error;

            fn try_from(
                value: ::kernel::num::Bounded<$storage, $bits>,
            ) -> ::kernel::error::Result<Self> {
                match value.get() {
                    $($value => Ok(Self::$variant),)*
                    _ => Err(::kernel::error::code::EINVAL),
                }
            }
        }

        impl From<$name> for ::kernel::num::Bounded<$storage, $bits> {
            #[inline(always)]
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => Self::new::<$value>(),)*
                }
            }
        }
    };
}

/// Declares the four registers of an interrupt block, which have the same fields.
macro_rules! interrupt_registers {
    (
        $rawstat:ident @ $rawstat_offset:literal,
        $clear:ident @ $clear_offset:literal,
        $mask:ident @ $mask_offset:literal,
        $stat:ident @ $stat_offset:literal,
        { $($fields:tt)* }
    ) => {
        ::kernel::register! {
            /// Interrupt sources, whether masked or not.
            pub(crate) $rawstat(u32) @ $rawstat_offset { $($fields)* }
            /// Clears interrupt sources.
            pub(crate) $clear(u32) @ $clear_offset { $($fields)* }
            /// Interrupt sources that may raise the line.
            pub(crate) $mask(u32) @ $mask_offset { $($fields)* }
            /// Interrupt sources that raise the line now.
            pub(crate) $stat(u32) @ $stat_offset { $($fields)* }
        }
    };
}

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
