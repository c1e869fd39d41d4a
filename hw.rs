// SPDX-License-Identifier: GPL-2.0

//! Hardware: all knowledge of registers, errata and delays.
//!
//! Functions here take a [`Gpu`](crate::device::Gpu) or, during probe, the bare register mapping.
//! They wait in bounded loops only. A register that reads as all ones means that the device is no
//! longer on the bus ([`ENODEV`](kernel::error::code::ENODEV)).

pub(crate) mod mali;
