// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A GEM object without memory.
//!
//! Some structures have a reservation object but no buffer: that of an address space, for instance,
//! collects the fences of all jobs that run in it. As [`drm::exec`](crate::drm::exec) locks GEM
//! objects, such a structure uses a GEM object that only provides the resv.
//!
//! Takes no lock. Process context: creating one sleeps, and so may dropping the last reference.

use super::IntoGEMObject;
use crate::{
    bindings,
    drm::{
        self,
        DeviceContext, //
    },
    prelude::*,
    sync::aref::ARef,
    types::Opaque, //
};
use core::ptr::NonNull;

/// A GEM object that has a [`Resv`](crate::dma_buf::resv::Resv), but no pages and no handle.
///
/// It has a reference to its device. Its last reference must not be dropped in atomic context.
///
/// # Invariants
///
/// The `struct drm_gem_object` is initialised, was allocated by [`new`](Self::new), and has a
/// reference to its device.
#[repr(transparent)]
pub struct ResvObject(Opaque<bindings::drm_gem_object>);

// SAFETY: A GEM object may be used and released by any thread.
unsafe impl Send for ResvObject {}
// SAFETY: All that can be done with a shared GEM object is synchronised by the C side.
unsafe impl Sync for ResvObject {}

impl ResvObject {
    const FUNCS: bindings::drm_gem_object_funcs = bindings::drm_gem_object_funcs {
        free: Some(Self::free_callback),
        open: None,
        close: None,
        print_info: None,
        export: None,
        pin: None,
        unpin: None,
        get_sg_table: None,
        vmap: None,
        vunmap: None,
        mmap: None,
        status: None,
        vm_ops: core::ptr::null_mut(),
        evict: None,
        rss: None,
    };

    /// Allocates an object, charged to the task's memory cgroup. Sleeps; fails with [`ENOMEM`].
    pub fn new<T: drm::Driver, C: DeviceContext>(dev: &drm::Device<T, C>) -> Result<ARef<Self>> {
        let obj = KBox::new(
            Self(Opaque::new(bindings::drm_gem_object::default())),
            GFP_KERNEL_ACCOUNT,
        )?;
        let obj = KBox::into_raw(obj);
        // SAFETY: The object is zeroed and not shared yet. The device is valid; the object gets a
        // reference to it.
        unsafe {
            let raw = (*obj).0.get();
            (*raw).funcs = &Self::FUNCS;
            bindings::drm_dev_get(dev.as_raw());
            bindings::drm_gem_private_object_init(dev.as_raw(), raw, 0);
        }
        // INVARIANT: Initialised above.
        // SAFETY: `obj` is not NULL, and the initial reference moves into the `ARef`.
        Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(obj)) })
    }

    /// # Safety
    ///
    /// Must only be called by the C side, when the last reference of a valid `Self` is dropped.
    unsafe extern "C" fn free_callback(obj: *mut bindings::drm_gem_object) {
        // SAFETY: By the type invariants.
        let dev = unsafe { (*obj).dev };
        // SAFETY: There are no references any more, and the device still exists.
        unsafe { bindings::drm_gem_object_release(obj) };
        // SAFETY: By the type invariants it was allocated as a `KBox<Self>`; the type is
        // transparent.
        drop(unsafe { KBox::from_raw(obj.cast::<Self>()) });
        // SAFETY: The reference that the object had.
        unsafe { bindings::drm_dev_put(dev) };
    }
}

impl crate::drm::private::Sealed for ResvObject {}

impl IntoGEMObject for ResvObject {
    #[inline]
    fn as_raw(&self) -> *mut bindings::drm_gem_object {
        self.0.get()
    }

    #[inline]
    unsafe fn from_raw<'a>(self_ptr: *mut bindings::drm_gem_object) -> &'a Self {
        // SAFETY: By the requirements; the type is transparent.
        unsafe { &*self_ptr.cast() }
    }
}

super::impl_aref_for_gem_obj! {
    impl for ResvObject
}
