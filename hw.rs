// SPDX-License-Identifier: GPL-2.0

//! Hardware: everything that knows a register, an erratum or a delay.
//!
//! Functions here take a [`Gpu`](crate::device::Gpu) or, during probe, the bare register mapping.
//! They wait in bounded loops only, and they treat a register that reads as all ones as what it
//! is: a device that is no longer on the bus ([`ENODEV`](kernel::error::code::ENODEV)).

pub(crate) mod mali;
