// SPDX-License-Identifier: GPL-2.0

//! Reset controls.
//!
//! C header: [`include/linux/reset.h`](srctree/include/linux/reset.h)
//!
//! See [Reset controller API](https://docs.kernel.org/driver-api/reset.html) for more information.

use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*, //
};

/// How the reset lines of a device are used.
///
/// Either kind can be required or optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The lines belong to this device alone, which may thus assert them at any time.
    Exclusive,
    /// The lines may be shared among several devices. They are asserted while *all* users ask for
    /// it, hence a call of [`ResetArray::assert`] must be preceded by one of
    /// [`ResetArray::deassert`].
    Shared,
}

/// All reset lines of a device as one.
///
/// Suitable for devices whose lines are always changed together, in any order.
///
/// # Invariants
///
/// `self.0` is either null, which the C API takes for a reset control without any line, or a valid
/// `struct reset_control` to which `self` owns a reference.
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::{
///         Bound,
///         Device, //
///     },
///     prelude::*,
///     reset::{
///         ResetArray,
///         Usage, //
///     }, //
/// };
///
/// fn power_on(dev: &Device<Bound>) -> Result<ResetArray> {
///     let reset = ResetArray::get_optional(dev, Usage::Exclusive)?;
///     reset.deassert()?;
///     Ok(reset)
/// }
/// ```
pub struct ResetArray(*mut bindings::reset_control);

// SAFETY: A reset control may be used and put from any thread.
unsafe impl Send for ResetArray {}

// SAFETY: The C functions that the methods call may run in parallel on the same reset control: they
// only read it, except for counters, which are atomic, and leave serialisation to the controller.
unsafe impl Sync for ResetArray {}

impl ResetArray {
    /// Gets the reset lines of `dev`.
    ///
    /// Returns [`ENOENT`] if the firmware describes none, [`EPROBE_DEFER`] if a controller is not
    /// available yet, and [`EBUSY`] if a line is already in exclusive use.
    pub fn get(dev: &Device<Bound>, usage: Usage) -> Result<Self> {
        let flags = match usage {
            Usage::Exclusive => bindings::reset_control_flags_RESET_CONTROL_EXCLUSIVE,
            Usage::Shared => bindings::reset_control_flags_RESET_CONTROL_SHARED,
        };

        Self::get_with_flags(dev, flags)?.ok_or(ENOENT)
    }

    /// Gets the reset lines of `dev`, if there are any.
    ///
    /// Without a line all methods of the returned value succeed and do nothing. Errors are those of
    /// [`ResetArray::get`] except [`ENOENT`].
    pub fn get_optional(dev: &Device<Bound>, usage: Usage) -> Result<Self> {
        let flags = match usage {
            Usage::Exclusive => bindings::reset_control_flags_RESET_CONTROL_OPTIONAL_EXCLUSIVE,
            Usage::Shared => bindings::reset_control_flags_RESET_CONTROL_OPTIONAL_SHARED,
        };

        // INVARIANT: A null pointer stands for no line.
        Ok(Self::get_with_flags(dev, flags)?.unwrap_or(Self(core::ptr::null_mut())))
    }

    fn get_with_flags(
        dev: &Device<Bound>,
        flags: bindings::reset_control_flags,
    ) -> Result<Option<Self>> {
        // Without a firmware node, no reset line is described.
        let Some(fwnode) = dev.fwnode() else {
            return Ok(None);
        };

        // SAFETY: `fwnode` is valid for the duration of this call.
        let ptr = from_err_ptr(unsafe {
            bindings::fwnode_reset_control_array_get(fwnode.as_raw(), flags)
        })?;

        if ptr.is_null() {
            Ok(None)
        } else {
            // INVARIANT: The pointer is valid and comes with a reference, which `Self` now owns.
            Ok(Some(Self(ptr)))
        }
    }

    /// Returns whether there is any reset line.
    #[inline]
    pub fn is_present(&self) -> bool {
        !self.0.is_null()
    }

    /// Asserts all lines: the device is held in reset, if no other device shares them.
    ///
    /// May sleep.
    pub fn assert(&self) -> Result {
        // SAFETY: By the type invariants, `self.0` is null or a valid reset control.
        to_result(unsafe { bindings::reset_control_assert(self.0) })
    }

    /// Deasserts all lines: the device runs. If one of them fails, the others are asserted again.
    ///
    /// May sleep.
    pub fn deassert(&self) -> Result {
        // SAFETY: By the type invariants, `self.0` is null or a valid reset control.
        to_result(unsafe { bindings::reset_control_deassert(self.0) })
    }
}

impl Drop for ResetArray {
    fn drop(&mut self) {
        if self.is_present() {
            // SAFETY: By the type invariants, `self.0` is a valid reset control to which we own a
            // reference.
            unsafe { bindings::reset_control_put(self.0) };
        }
    }
}

#[macros::kunit_tests(rust_reset)]
mod tests {
    use super::*;
    use crate::faux;

    #[test]
    fn device_without_resets() -> Result {
        let faux = faux::Registration::new(c"rust_reset_kunit", None)?;
        let dev: &Device<Bound> = faux.as_ref().as_ref();

        assert_eq!(ResetArray::get(dev, Usage::Exclusive).err(), Some(ENOENT));

        let reset = ResetArray::get_optional(dev, Usage::Shared)?;
        assert!(!reset.is_present());
        assert_eq!(reset.deassert(), Ok(()));
        assert_eq!(reset.assert(), Ok(()));

        Ok(())
    }
}
