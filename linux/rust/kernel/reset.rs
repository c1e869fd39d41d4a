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

/// All reset lines of a device as one.
///
/// Suitable for devices whose lines are always changed together, in any order, and belong to that
/// device alone.
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
///     reset::ResetArray, //
/// };
///
/// fn power_on(dev: &Device<Bound>) -> Result<ResetArray> {
///     let reset = ResetArray::get_optional_exclusive(dev)?;
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
    /// Gets the reset lines of `dev`, if there are any.
    ///
    /// Without a line all methods of the returned value succeed and do nothing. Returns
    /// [`EPROBE_DEFER`] if a controller is not available yet, and [`EBUSY`] if a line is already in
    /// use.
    pub fn get_optional_exclusive(dev: &Device<Bound>) -> Result<Self> {
        // Without a firmware node, no reset line is described.
        let Some(fwnode) = dev.fwnode() else {
            // INVARIANT: A null pointer stands for no line.
            return Ok(Self(core::ptr::null_mut()));
        };

        // SAFETY: `fwnode` is valid for the duration of this call.
        let ptr = from_err_ptr(unsafe {
            bindings::fwnode_reset_control_array_get(
                fwnode.as_raw(),
                bindings::reset_control_flags_RESET_CONTROL_OPTIONAL_EXCLUSIVE,
            )
        })?;

        // INVARIANT: The pointer is null if there is no line. Otherwise it is valid and comes with
        // a reference, which `Self` now owns.
        Ok(Self(ptr))
    }

    /// Returns whether there is any reset line.
    #[inline]
    pub fn is_present(&self) -> bool {
        !self.0.is_null()
    }

    /// Asserts all lines: the device is held in reset.
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

        let reset = ResetArray::get_optional_exclusive(dev)?;
        assert!(!reset.is_present());
        assert_eq!(reset.deassert(), Ok(()));
        assert_eq!(reset.assert(), Ok(()));

        Ok(())
    }
}
