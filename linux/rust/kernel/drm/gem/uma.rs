// SPDX-License-Identifier: GPL-2.0

//! GEM objects in system memory, with pages that come and go.
//!
//! For devices that share the system's memory (UMA). An [`Object`] is a `struct drm_gem_object` with
//! its shmem file, and the driver's data. Its pages are brought in when they are needed and can be
//! given back to shmem, which may swap them out, or be dropped for good, as long as nobody holds
//! them:
//!
//! - The device has them for as long as there is a [`Pinned`], which also is the only way to get at
//!   the DMA addresses.
//! - Other drivers have them for as long as they are attached to the exported dma-buf.
//! - User space maps them by page faults, also through a dma-buf; its mappings are taken away before
//!   the pages go.
//!
//! An imported dma-buf is an [`Object`] like any other, with data that the driver makes for it
//! ([`ObjectOps::import_args()`]); its memory is the exporter's and always there.
//!
//! Objects without a file ([`Config::backed`]) have no pages of their own at all. With the [`Chunk`]s
//! of this module a driver can build buffers that grow where blocking is not possible.
//!
//! Where the pages of an object are is its [`State`]. For reclaim, all objects of a device are in the
//! lists of [`Lru`]: [`Object::reclaimable()`] tells how much is to be had, [`Object::scan()`] finds the
//! objects to give to [`Object::purge()`] and [`Object::evict()`].
//!
//! Nothing here takes the reservation lock of an object that was not imported. Lock order: mmap lock
//! or reservation lock, then the lock of the object's pages, then those of shmem and DMA. The lock of
//! the lists is the innermost, and the only one that reclaim may wait for.
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

mod base;
mod callbacks;
mod chunk;
mod dma;
mod lru;
mod mmap;
mod pinned;
mod reclaim;
mod state;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

pub use chunk::{
    Chunk,
    ChunkMem,
    Chunks, //
};
pub use dma::DmaSpace;
pub use lru::{
    Lru,
    Scanned, //
};
pub use pinned::Pinned;
pub use reclaim::Info;
pub use state::{
    Event,
    State, //
};

/// How the CPU maps the pages of an object, in user space and in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Write-combined: what is written reaches a device that is not coherent.
    WriteCombined,
    /// Cached: the device is coherent, or user space does the maintenance itself.
    Cached,
}

/// Properties of a new object.
pub struct Config<'a, T: ObjectOps> {
    /// How the CPU maps the pages.
    pub caching: Caching,
    /// Whether the object has a shmem file. Without one it cannot be pinned, mapped or exported.
    pub backed: bool,
    /// Use the reservation object of this one, which lives at least as long as the new object then.
    ///
    /// Such an object cannot be exported. Dropping the last reference to it may drop the last one to
    /// the parent: do not do that with the reservation locked.
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

/// What a driver that uses [`Object`] implements in addition to [`DriverObject`].
#[vtable]
pub trait ObjectOps: DriverObject {
    /// Returns the space in which the DMA mappings of objects of `dev` are kept.
    ///
    /// It must have been made for the parent device of `dev`.
    fn dma_space(dev: &drm::Device<Self::Driver>) -> &DmaSpace;

    /// Returns the arguments for [`DriverObject::new()`] of an imported buffer of `size` bytes.
    ///
    /// An error refuses the import. Process context.
    fn import_args(dev: &drm::Device<Self::Driver>, size: usize) -> Result<Self::Args>;

    /// Decides whether `obj` may be exported as a dma-buf. Process context.
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
    /// Without this it is the size if the pages are there, else 0.
    fn resident_size(_obj: &Object<Self>) -> usize {
        0
    }
}

/// A GEM object in system memory.
///
/// # Invariants
///
/// - `base` is initialized, except while the object is created or freed.
/// - `dev` is the DRM device of the GEM object.
/// - If `parent` is there, the GEM object uses its reservation object.
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
    /// `EINVAL` if `size` is 0, or the [`DmaSpace`] is that of another device or in use by another DRM
    /// device; `EOVERFLOW` if `size` cannot be rounded up; `ENOMEM`; what [`DriverObject::new()`]
    /// returns.
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
                // INVARIANT: The device of `space` is the parent and the lists are those of `dev`, as was
                // checked.
                base <- Base::new(space.clone(), config.caching),
                inner <- T::new(dev, size, args),
                parent: config.parent_resv.map(ARef::from),
                dev: dev.into(),
            }),
            GFP_KERNEL,
        )?;

        let resv = config
            .parent_resv
            .map_or(ptr::null_mut(), |parent| parent.raw_dma_resv());

        // SAFETY: Nobody else has seen the object. `dev` is valid and kept alive by the object, as is
        // the parent. `size` is a multiple of the page size.
        unsafe {
            new.base
                .init(dev.as_raw(), &Self::FUNCS, resv, size, config.backed)
        }?;

        // Puts it into the list where it belongs.
        new.base.update(|_| ());

        // SAFETY: The object is never moved out of its box from here on.
        let new = KBox::into_raw(unsafe { Pin::into_inner_unchecked(new) });

        // SAFETY: `new` is not null; we own the reference that `init()` made.
        Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(new)) })
    }

    /// Returns the DRM device that the object belongs to.
    pub fn dev(&self) -> &drm::Device<T::Driver> {
        &self.dev
    }

    /// Returns how the CPU maps the pages.
    pub fn caching(&self) -> Caching {
        self.base.caching
    }

    /// Returns whether the memory is another driver's.
    pub fn is_imported(&self) -> bool {
        self.base.is_imported()
    }

    /// Returns whether the object has pages right now. Needs no lock: the answer may be outdated.
    pub fn is_resident(&self) -> bool {
        self.base.is_resident()
    }

    /// Returns where the pages of an object with a file or of an imported one are. Needs no lock: the
    /// answer may be outdated, but for [`State::Purged`], which lasts.
    pub fn state(&self) -> State {
        self.base.holders.state()
    }

    /// Returns how many [`Pinned`]s there are. Needs no lock: the answer may be outdated.
    pub fn maps(&self) -> usize {
        self.base.holders.maps.load(Relaxed)
    }

    /// Returns whether others than the device have the pages. Needs no lock: the answer may be outdated.
    pub fn is_shared(&self) -> bool {
        self.base.holders.pins.load(Relaxed) != 0
    }
}

/// Makes the shmem files of all objects of `dev` that are created from now on use huge pages where
/// they fit.
///
/// Returns whether there are huge pages: if the kernel is built without, the answer is no.
///
/// # Errors
///
/// Those of mounting tmpfs with this option. The device can be used all the same.
pub fn use_huge_pages<T: drm::Driver>(dev: &drm::UnregisteredDevice<T>) -> Result<bool> {
    let raw = dev.as_raw();

    // SAFETY: The device is valid, and nobody else uses it yet.
    to_result(unsafe { bindings::drm_gem_huge_mnt_create(raw, c"within_size".as_char_ptr()) })?;

    // SAFETY: The device is valid.
    Ok(!unsafe { bindings::drm_gem_get_huge_mnt(raw) }.is_null())
}
