// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Telling user space that a device is wedged.
//!
//! A device is *wedged* if it does not work and its driver has tried in vain whatever it can to
//! change that. User space can be told by a uevent, with the method by which it may bring the
//! device back. "Device Wedging" in `Documentation/gpu/drm-uapi.rst` says what a driver has to do
//! before that, and what user space is expected to do.
//!
//! C header: [`include/drm/drm_drv.h`](srctree/include/drm/drm_drv.h)

use crate::{
    bindings,
    drm,
    error::to_result,
    prelude::*, //
};
use core::ptr;

/// A method by which user space may bring a device back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recovery(usize);

impl Recovery {
    /// Unbinding the driver and binding it again.
    pub const REBIND: Self = Self(bindings::DRM_WEDGE_RECOVERY_REBIND);
}

impl<T: drm::Driver> drm::Device<T, drm::Registered> {
    /// Tells user space that the device is wedged, and how it may bring the device back.
    ///
    /// The driver has signalled all fences of the device before, and has made sure that the device
    /// does not access memory. It refuses new work, and leaves the device alone until user space
    /// has done its part. Sleeps and may wait for memory, so no fence may depend on the caller.
    /// Errors: `ENOMEM`.
    pub fn wedged_event(&self, method: Recovery) -> Result {
        // SAFETY:
        // - `self.as_raw()` is a valid device. It has a primary minor, as no driver in Rust sets
        //   `DRIVER_COMPUTE_ACCEL`, and the minor's `struct device` lives as long as the device.
        // - The information about a task may be missing.
        to_result(unsafe {
            bindings::drm_dev_wedged_event(self.as_raw(), method.0, ptr::null_mut())
        })
    }
}
