// SPDX-License-Identifier: GPL-2.0 OR MIT

//! GEM objects in system memory, with pages that come and go.
//!
//! For devices that share the system's memory (UMA). An [`Object`] is a `struct drm_gem_object`
//! with its shmem file, and the driver's data. Its pages are brought in when they are needed. While
//! they are not held, they can be given back to shmem, which may swap them out, or be dropped
//! permanently. The holders are:
//!
//! - The device, as long as there is a [`Pinned`], which also is the only way to get the DMA
//!   addresses.
//! - Other drivers, as long as they are attached to the exported dma-buf.
//! - Mappings of the kernel.
//!
//! User space maps pages by page faults, also through a dma-buf. Its mappings do not hold the
//! pages: they are removed before the pages go.
//!
//! An imported dma-buf is an [`Object`] like any other, with data that the driver creates for it
//! ([`ObjectOps::import_args()`]); its memory belongs to the exporter and is always present.
//!
//! Objects without a file ([`Config::backed`]) have no pages of their own. With the [`Chunk`]s of
//! this module a driver can build buffers that grow where blocking is not possible.
//!
//! The [`PageState`] of an object says where its content is. For reclaim, all objects of a device
//! are in the lists of [`Lru`]: [`Object::reclaimable()`] returns how much can be reclaimed,
//! [`Object::scan()`] finds the objects to pass to [`Object::purge()`] and [`Object::evict()`].
//! Each control group has lists of its own: with [`DmaSpace::set_shrinker()`], memory management
//! can reclaim from one group.
//!
//! The reservation lock of an object that was not imported is taken here only for cache maintenance
//! that users of its dma-buf request. Lock order: mmap lock or reservation lock, then the lock of
//! the object's pages, then those of shmem and DMA. The lock of the lists and, in it, that of the
//! control groups are the innermost, and the only ones that reclaim may wait for.
//!
//! C header: [`include/drm/drm_gem.h`](srctree/include/drm/drm_gem.h)

use super::{
    BaseObjectPrivate,
    DriverObject,
    IntoGEMObject, //
};
use crate::{
    bindings,
    drm::{
        self,
        private::Sealed, //
    },
    error::to_result,
    page::page_align,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::Relaxed, //
    }, //
};
use base::Base;
use core::{
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};
use groups::Membership;

mod backing;
mod base;
mod callbacks;
mod chunk;
mod dma;
mod export;
mod groups;
mod holders;
mod lru;
mod mmap;
mod pinned;
mod read;
mod reclaim;
mod state;
mod sync;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

pub use chunk::{
    Chunk,
    ChunkMem,
    ChunkSpace,
    Chunks,
    Partial, //
};
pub use dma::DmaSpace;
pub use lru::{
    Limit,
    Lru,
    Scanned, //
};
pub use pinned::Pinned;
pub use reclaim::Info;
pub use state::{
    Event,
    PageState, //
};

/// The caching mode in which the CPU maps the pages of an object, in user space and in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Write-combined, so that writes reach a device that is not coherent.
    WriteCombined,
    /// Cached, for a coherent device, or if user space requests cache maintenance itself.
    Cached,
}

/// Properties of a new object.
pub struct Config<'a, T: ObjectOps> {
    /// The caching mode in which the CPU maps the pages.
    pub caching: Caching,
    /// Whether the object has a shmem file. Without one it cannot be pinned, mapped or exported.
    pub backed: bool,
    /// An object whose reservation object to use. It is kept alive by the new object.
    ///
    /// Such an object cannot be exported. Dropping its last reference may drop the last one to the
    /// parent, so do not do that with the reservation locked.
    pub parent_resv: Option<&'a Object<T>>,
}

impl<T: ObjectOps> Default for Config<'_, T> {
    fn default() -> Self {
        Self {
            caching: Caching::WriteCombined,
            backed: true,
            parent_resv: None,
        }
    }
}

/// The operations that a driver with this [`Object`] implements in addition to [`DriverObject`].
#[vtable]
pub trait ObjectOps: DriverObject {
    /// Returns the space in which the DMA mappings of objects of `dev` are kept.
    ///
    /// It must have been created for the parent device of `dev`.
    fn dma_space(dev: &drm::Device<Self::Driver>) -> &DmaSpace;

    /// Returns the arguments for [`DriverObject::new()`] of an imported buffer of `size` bytes.
    ///
    /// An error refuses the import. Process context.
    fn import_args(dev: &drm::Device<Self::Driver>, size: usize) -> Result<Self::Args>;

    /// Prepares `obj` for its export as a dma-buf, with no lock of DRM held. Process context.
    ///
    /// The export can still fail. Nor is it certain that [`Self::export`] is called for the same
    /// object: user space may give the handle to another one in between.
    fn before_export(_obj: &Object<Self>) -> Result {
        Ok(())
    }

    /// Decides whether `obj` may be exported as a dma-buf. Process context.
    ///
    /// Locks of DRM are held that all clients of the device need, so this should not wait for one
    /// client: see [`Self::before_export`].
    fn export(_obj: &Object<Self>) -> Result {
        Ok(())
    }

    /// Decides whether another driver may attach to `obj`. The reservation is locked.
    fn attach(_obj: &Object<Self>) -> Result {
        Ok(())
    }

    /// Decides whether user space may map `obj`. The mmap lock is held for writing.
    fn mmap(_obj: &Object<Self>) -> Result {
        Ok(())
    }

    /// Returns the bytes of memory that `obj` occupies, for statistics. Atomic context.
    ///
    /// If not implemented, the size is counted if the pages are present, else 0.
    fn resident_size(_obj: &Object<Self>) -> usize {
        0
    }

    /// Returns whether `obj` is used by a job whose fence is not in the object's reservation, for
    /// statistics. Atomic context.
    fn is_active(_obj: &Object<Self>) -> bool {
        false
    }
}

/// A GEM object in system memory.
///
/// # Invariants
///
/// - `base` is initialized, except while the object is created or freed.
/// - `dev` is the DRM device of the GEM object.
/// - If there is a `parent`, the GEM object uses its reservation object.
#[repr(C)]
#[pin_data]
pub struct Object<T: ObjectOps> {
    #[pin]
    base: Base,
    #[pin]
    inner: T,
    parent: Option<ARef<Object<T>>>,
    dev: ARef<drm::Device<T::Driver>>,
}

super::impl_aref_for_gem_obj! {
    impl<T> for Object<T>
    where
        T: ObjectOps
}

impl<T: ObjectOps> Sealed for Object<T> {}

impl<T: ObjectOps> IntoGEMObject for Object<T> {
    fn as_raw(&self) -> *mut bindings::drm_gem_object {
        self.base.obj.get()
    }

    unsafe fn from_raw<'a>(self_ptr: *mut bindings::drm_gem_object) -> &'a Self {
        // SAFETY: The caller promises that `self_ptr` is embedded in an `Object<T>`.
        let base: *const Base = unsafe { Base::from_raw(self_ptr) };

        // SAFETY: As above.
        unsafe { &*crate::container_of!(base, Self, base) }
    }
}

impl<T: ObjectOps> Deref for Object<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ObjectOps> Object<T> {
    /// Creates an object with room for `size` bytes, rounded up to whole pages.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `size` is 0, or if the [`DmaSpace`] is for another device or in use by another
    /// DRM device; `EOVERFLOW` if `size` cannot be rounded up; `ENOMEM`; the errors of
    /// [`DriverObject::new()`].
    pub fn new(
        dev: &drm::Device<T::Driver>,
        size: usize,
        config: Config<'_, T>,
        args: T::Args,
    ) -> Result<ARef<Self>>
    where
        T::Driver: drm::Driver<Object = Self>,
    {
        if size == 0 {
            return Err(EINVAL);
        }
        let size = page_align(size).ok_or(EOVERFLOW)?;
        let space = T::dma_space(dev).inner();

        // SAFETY: `dev` is a valid DRM device.
        if unsafe { (*dev.as_raw()).dev } != space.dev().as_raw()
            || !space.lrus().claim(dev.as_raw())
        {
            return Err(EINVAL);
        }

        let new = KBox::try_pin_init(
            try_pin_init!(Self {
                // INVARIANT: The device of `space` is the parent of `dev`, and its lists and groups
                // are those of `dev`, as was checked above.
                base <- Base::new(space.clone(), Membership::new(space)?, config.caching),
                inner <- T::new(dev, size, args),
                parent: config.parent_resv.map(ARef::from),
                dev: dev.into(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;

        let resv = config
            .parent_resv
            .map_or(ptr::null_mut(), |parent| parent.raw_dma_resv());

        // SAFETY: The object is not shared yet. `dev` is valid and kept alive by the object, as is
        // the parent. `size` is a multiple of the page size.
        unsafe {
            new.base
                .init(dev.as_raw(), &Self::FUNCS, resv, size, config.backed)
        }?;

        // Adds the object to the list where it belongs.
        new.base.update(|_| ());

        // SAFETY: The object is never moved out of its box from here on.
        let new = KBox::into_raw(unsafe { Pin::into_inner_unchecked(new) });

        // SAFETY: `new` is not null; we own the reference that `init()` has created.
        Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(new)) })
    }

    /// Returns the DRM device that the object belongs to.
    pub fn dev(&self) -> &drm::Device<T::Driver> {
        &self.dev
    }

    /// Returns the caching mode in which the CPU maps the pages.
    pub fn caching(&self) -> Caching {
        self.base.caching
    }

    /// Returns whether the memory belongs to another driver.
    pub fn is_imported(&self) -> bool {
        self.base.is_imported()
    }

    /// Returns whether the object currently has pages. Takes no lock, so the answer may be
    /// outdated.
    pub fn is_resident(&self) -> bool {
        self.base.is_resident()
    }

    /// Returns the state of an object that has a file or was imported. Takes no lock, so the answer
    /// may be outdated, except for [`PageState::Purged`], which is final.
    pub fn state(&self) -> PageState {
        self.base.holders.state()
    }

    /// Returns the number of [`Pinned`]s. Takes no lock, so the answer may be outdated.
    pub fn maps(&self) -> usize {
        self.base.holders.maps.load(Relaxed)
    }

    /// Returns whether the pages are held by anything but the device. Takes no lock, so the answer
    /// may be outdated.
    pub fn is_shared(&self) -> bool {
        self.base.holders.pins.load(Relaxed) != 0
    }
}

/// Makes the shmem files of all objects of `dev` that are created later use huge pages where they
/// fit.
///
/// Returns whether there are huge pages: `false` if the kernel is built without support for them.
///
/// # Errors
///
/// Those of mounting tmpfs with this option. The device can be used nevertheless.
pub fn use_huge_pages<T: drm::Driver>(dev: &drm::UnregisteredDevice<T>) -> Result<bool> {
    let raw = dev.as_raw();

    // SAFETY: The device is valid, and not registered yet.
    to_result(unsafe { bindings::drm_gem_huge_mnt_create(raw, c"within_size".as_char_ptr()) })?;

    // SAFETY: The device is valid.
    Ok(!unsafe { bindings::drm_gem_get_huge_mnt(raw) }.is_null())
}
