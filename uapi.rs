// SPDX-License-Identifier: GPL-2.0

//! The interface to user space: ioctls and fdinfo.
//!
//! The modules here decode arguments, check those that can be checked without consulting the core,
//! and call the core. They keep no state and have no locks of their own.

pub(crate) mod fdinfo;
pub(crate) mod panfrost;
