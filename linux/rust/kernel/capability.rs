// SPDX-License-Identifier: GPL-2.0

//! Capabilities.
//!
//! C header: [`include/linux/capability.h`](srctree/include/linux/capability.h)

use crate::{
    bindings,
    ffi::c_int, //
};

/// A capability, one of the parts into which the privileges of root are divided.
///
/// See `capabilities(7)` for what each of them permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(c_int);

impl Capability {
    /// `CAP_SYS_NICE`.
    pub const SYS_NICE: Self = Self(bindings::CAP_SYS_NICE as c_int);
}

/// Returns whether the current task has a capability in the initial user namespace, and if so,
/// records that it has used its privileges.
///
/// Process context. This should come last among the conditions for a permission, since a refusal
/// may be logged by a security module.
///
/// # Examples
///
/// ```
/// use kernel::capability::{
///     capable,
///     Capability, //
/// };
///
/// fn may_raise_priority(is_master: bool) -> bool {
///     is_master || capable(Capability::SYS_NICE)
/// }
/// ```
#[inline]
pub fn capable(capability: Capability) -> bool {
    // SAFETY: There is always a current task here, and the argument is a valid capability.
    unsafe { bindings::capable(capability.0) }
}
