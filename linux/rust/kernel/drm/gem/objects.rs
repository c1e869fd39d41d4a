// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Objects that user space names in an array of handles.
//!
//! [`Objects`] own the array that DRM allocates, and a reference to each object. Lock: that of the
//! file's table of handles, during the lookup only. Process context: both the lookup and dropping
//! the last reference to an object may sleep.

use super::IntoGEMObject;
use crate::{
    bindings,
    drm::{
        self,
        driver::AllocImpl,
        file::DriverFile, //
    },
    error::to_result,
    prelude::*,
    uaccess::UserPtr, //
};
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};

/// References to the objects of an array of handles, in the same order.
///
/// The file's handle lock is taken only once for all of them.
///
/// # Invariants
///
/// `objects` points to `count` pointers to objects of type `T`, each with a reference that is ours,
/// in memory from `kvmalloc()`, which is ours as well. It dangles if `count` is 0.
pub struct Objects<T: IntoGEMObject> {
    objects: NonNull<*mut bindings::drm_gem_object>,
    count: usize,
    _references: PhantomData<T>,
}

// SAFETY: References to GEM objects may be used and released by any thread.
unsafe impl<T: IntoGEMObject + Send + Sync> Send for Objects<T> {}

// SAFETY: A shared reference only gives access to shared references to the objects.
unsafe impl<T: IntoGEMObject + Send + Sync> Sync for Objects<T> {}

impl<T: IntoGEMObject> Objects<T> {
    /// Looks up the objects of the `count` handles at `handles`, which are 32-bit numbers. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOENT` for a handle that `file` does not have, `EFAULT` if the array cannot be read,
    /// `ENOMEM`.
    pub fn lookup<D, F>(file: &drm::File<F>, handles: UserPtr, count: u32) -> Result<Self>
    where
        T: AllocImpl<Driver = D>,
        D: drm::Driver<Object = T, File = F>,
        F: DriverFile<Driver = D>,
    {
        const MAX: usize = c_int::MAX as usize / size_of::<*mut bindings::drm_gem_object>();

        // More would make the kernel warn about the size of the array.
        let len = match c_int::try_from(count) {
            Ok(len) if usize::try_from(count)? <= MAX => len,
            _ => return Err(ENOMEM),
        };
        let mut objects = ptr::null_mut();

        // SAFETY: The file is valid. The function checks what it reads from user space, and sets
        // `objects` to an array that is ours, or leaves it unchanged if there is an error or no
        // handle.
        to_result(unsafe {
            bindings::drm_gem_objects_lookup(
                file.as_raw().cast(),
                handles.as_mut_ptr(),
                len,
                &mut objects,
            )
        })?;

        // INVARIANT: The function has returned such an array. The objects of the file's driver are
        // of type `T`.
        Ok(Self {
            objects: NonNull::new(objects).unwrap_or(NonNull::dangling()),
            count: usize::try_from(count)?,
            _references: PhantomData,
        })
    }

    fn pointers(&self) -> &[*mut bindings::drm_gem_object] {
        // SAFETY: By the type invariants.
        unsafe { slice::from_raw_parts(self.objects.as_ptr(), self.count) }
    }

    /// Returns the objects.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &T> {
        self.pointers().iter().map(|&obj| {
            // SAFETY: By the type invariants; the references live as long as `self`.
            unsafe { T::from_raw(obj) }
        })
    }
}

impl<T: IntoGEMObject> Drop for Objects<T> {
    fn drop(&mut self) {
        for &obj in self.pointers() {
            // SAFETY: By the type invariants the reference is ours.
            unsafe { bindings::drm_gem_object_put(obj) };
        }
        if self.count != 0 {
            // SAFETY: By the type invariants.
            unsafe { bindings::kvfree(self.objects.as_ptr().cast()) };
        }
    }
}
