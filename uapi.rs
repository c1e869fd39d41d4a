// SPDX-License-Identifier: GPL-2.0

//! What user space asks for: ioctls and fdinfo.
//!
//! The modules here take arguments apart, check what can be checked without asking anybody, and call
//! the core. They keep no state and take no lock.

pub(crate) mod fdinfo;
pub(crate) mod panfrost;
