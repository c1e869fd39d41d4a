// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Sync objects.
//!
//! A sync object is a container for a fence, to which user space has a handle. The fence can be
//! replaced.
//!
//! # Locks and contexts
//!
//! Process context. [`SyncObj::replace_fence`] does not allocate and cannot fail, so it may come
//! after the point of no return of a submission.
//!
//! C header: [`include/drm/drm_syncobj.h`](srctree/include/drm/drm_syncobj.h)

use crate::{
    bindings,
    dma_buf::fence::Fence,
    drm::file::{
        DriverFile,
        File, //
    },
    error::to_result,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};
use core::ptr::{
    self,
    NonNull, //
};

/// Checks that the device of `file` supports sync objects, that is, that `file` is set up for them.
fn check_feature<F: DriverFile>(file: &File<F>) -> Result {
    // SAFETY: An open file has a minor with a device with a driver.
    let features = unsafe {
        let dev = (*(*file.as_raw()).minor).dev;
        (*dev).driver_features & (*(*dev).driver).driver_features
    };
    if features & bindings::drm_driver_feature_DRIVER_SYNCOBJ == 0 {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}

/// A sync object.
///
/// # Invariants
///
/// The `struct drm_syncobj` is valid and refcounted.
#[repr(transparent)]
pub struct SyncObj(Opaque<bindings::drm_syncobj>);

// SAFETY: A sync object may be used and released by any thread.
unsafe impl Send for SyncObj {}
// SAFETY: All that can be done with a shared sync object is synchronised by the C side.
unsafe impl Sync for SyncObj {}

// SAFETY: The reference count is that of the `struct drm_syncobj`.
unsafe impl AlwaysRefCounted for SyncObj {
    fn inc_ref(&self) {
        // SAFETY: A shared reference proves that the reference count is not zero.
        unsafe { bindings::drm_syncobj_get(self.0.get()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller hands over a reference.
        unsafe { bindings::drm_syncobj_put(obj.cast().as_ptr()) };
    }
}

impl SyncObj {
    /// Creates a sync object that holds `fence`, without a handle.
    ///
    /// Sleeps; fails with [`ENOMEM`].
    pub fn new(fence: Option<&Fence>) -> Result<ARef<Self>> {
        let mut obj = ptr::null_mut();
        let fence = fence.map_or(ptr::null_mut(), Fence::as_raw);
        // SAFETY: The fence is NULL or valid. Without the flag, NULL stays NULL.
        to_result(unsafe { bindings::drm_syncobj_create(&mut obj, 0, fence) })?;
        // SAFETY: The function has set `obj` to a new object with a reference that is ours.
        Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(obj.cast())) })
    }

    /// Returns the sync object that has `handle` in `file`.
    ///
    /// Fails with [`ENOENT`] if there is none, and with [`EOPNOTSUPP`] if the driver does not
    /// support sync objects.
    pub fn lookup<F: DriverFile>(file: &File<F>, handle: u32) -> Result<ARef<Self>> {
        check_feature(file)?;
        // SAFETY: The file is open, and set up for sync objects. The function returns a reference
        // or NULL.
        let obj = unsafe { bindings::drm_syncobj_find(file.as_raw(), handle) };
        let obj = NonNull::new(obj).ok_or(ENOENT)?;
        // SAFETY: The reference that the function returned is ours.
        Ok(unsafe { ARef::from_raw(obj.cast()) })
    }

    /// Returns the fence at `point` of the sync object that has `handle` in `file`.
    ///
    /// `point` is zero for a sync object that is not a timeline. If the point has been reached, the
    /// returned fence has signalled.
    ///
    /// # Errors
    ///
    /// - [`ENOENT`]: there is no such handle.
    /// - [`EINVAL`]: there is no fence, or none for this point yet.
    /// - [`EOPNOTSUPP`]: the driver does not support sync objects.
    pub fn find_fence<F: DriverFile>(
        file: &File<F>,
        handle: u32,
        point: u64,
    ) -> Result<ARef<Fence>> {
        check_feature(file)?;
        let mut fence = ptr::null_mut();
        // SAFETY: The file is open, and set up for sync objects.
        to_result(unsafe {
            bindings::drm_syncobj_find_fence(file.as_raw(), handle, point, 0, &mut fence)
        })?;
        // SAFETY: The function has set `fence` to a reference that is ours.
        unsafe { Fence::from_raw_owned(fence) }.ok_or(EINVAL)
    }

    /// Returns the current fence, if any.
    pub fn fence(&self) -> Option<ARef<Fence>> {
        // SAFETY: The object is valid. The function returns a reference or NULL.
        unsafe { Fence::from_raw_owned(bindings::drm_syncobj_fence_get(self.0.get())) }
    }

    /// Replaces the fence and wakes tasks that wait for a fence to be set.
    pub fn replace_fence(&self, fence: Option<&Fence>) {
        let fence = fence.map_or(ptr::null_mut(), Fence::as_raw);
        // SAFETY: The object is valid, and the fence is NULL or valid. The function takes its own
        // reference.
        unsafe { bindings::drm_syncobj_replace_fence(self.0.get(), fence) };
    }
}

#[macros::kunit_tests(rust_drm_syncobj)]
mod tests {
    use super::*;
    use crate::dma_buf::fence::{
        ArmedFence,
        FenceAlloc,
        FenceContext, //
    };

    fn arm() -> Result<ArmedFence> {
        let context = FenceContext::new(c"kunit", c"syncobj");
        Ok(FenceAlloc::new(GFP_KERNEL)?.arm(&context))
    }

    #[test]
    fn replaces() -> Result {
        let syncobj = SyncObj::new(None)?;
        assert!(syncobj.fence().is_none());

        let (first, second) = (arm()?, arm()?);
        for armed in [&first, &second] {
            syncobj.replace_fence(Some(armed.fence()));
            assert!(syncobj
                .fence()
                .is_some_and(|fence| fence.as_raw() == armed.fence().as_raw()));
        }
        syncobj.replace_fence(None);
        assert!(syncobj.fence().is_none());
        Ok(())
    }

    #[test]
    fn holds_fence() -> Result {
        let armed = arm()?;
        let syncobj = SyncObj::new(Some(armed.fence()))?;
        armed.signal(Err(EIO));
        assert_eq!(syncobj.fence().and_then(|fence| fence.error()), Some(EIO));
        Ok(())
    }
}
