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
//! - User space maps them by page faults; its mappings are taken away before the pages go.
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
    device::{
        self,
        Bound, //
    },
    drm::{
        self,
        driver::{
            AllocImpl,
            AllocOps, //
        },
        private::Sealed, //
    },
    error::{
        from_result,
        to_result, //
    },
    page::page_align,
    prelude::*,
    scatterlist::SGTable,
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
mod chunk;
mod dma;
mod lru;
mod mmap;
mod state;

pub use chunk::{
    Chunk,
    ChunkMem,
    Chunks, //
};
pub use dma::DmaSpace;
pub use lru::Lru;
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

/// What [`Object::for_each()`] tells of an object.
pub struct Info<'a, T> {
    /// The driver's data.
    pub data: &'a T,
    /// Its size in bytes.
    pub size: usize,
    /// The list that it is in.
    pub lru: Lru,
    /// Where the pages are.
    pub state: State,
    /// How often the device has the pages.
    pub maps: usize,
    /// How often others have them.
    pub pins: usize,
    /// Whether user space gave up the content.
    pub dont_need: bool,
    /// Handles that all files have for it.
    pub handles: usize,
}

impl<T: ObjectOps> Object<T> {
    const FUNCS: bindings::drm_gem_object_funcs = bindings::drm_gem_object_funcs {
        free: Some(Self::free_callback),
        open: Some(super::open_callback::<T>),
        close: Some(super::close_callback::<T>),
        print_info: None,
        export: Some(Self::export_callback),
        pin: Some(Self::pin_callback),
        unpin: Some(unpin_callback),
        get_sg_table: Some(get_sg_table_callback),
        vmap: Some(vmap_callback),
        vunmap: Some(vunmap_callback),
        mmap: Some(Self::mmap_callback),
        status: Some(Self::status_callback),
        rss: Some(Self::rss_callback),
        vm_ops: &raw const mmap::VM_OPS,
        evict: None,
    };

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

    /// Returns whether the object was ever exported as a dma-buf.
    pub fn is_exported(&self) -> bool {
        self.base.is_exported()
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

    /// Takes the word of user space on whether the content is needed. Returns whether it is still there,
    /// as far as the pages of the object's file are concerned.
    ///
    /// If it is needed and there, then it stays.
    pub fn advise(&self, needed: bool) -> bool {
        self.base.update(|holders| {
            let there = holders.state() != State::Purged;

            if there {
                holders.dont_need.store(!needed, Relaxed);
            }
            there
        })
    }

    /// Returns whether user space gave up the content. Needs no lock: the answer may be outdated.
    pub fn is_given_up(&self) -> bool {
        self.base.holders.dont_need.load(Relaxed)
    }

    /// Brings the pages in, maps them for `dev`, and keeps them until the result is dropped.
    ///
    /// May sleep and reclaim memory; takes no reservation lock.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `dev` is not the parent device, the object has no file, or was purged; `ENODEV` if unbind has
    /// undone the object's mapping, which takes a device that was bound again since; `ENOMEM`; what
    /// DMA mapping returns.
    pub fn pin(&self, dev: &device::Device<Bound>) -> Result<Pinned<T>> {
        if !self.base.space.is_for(dev) {
            return Err(EINVAL);
        }

        let mut backing = self.base.backing.lock();
        if self.is_imported() {
            backing
                .dma
                .as_ref()
                .and_then(|dma| dma.sgt())
                .ok_or(ENODEV)?;
        } else {
            self.base.map_dma(&mut backing, dev)?;
        }
        self.base.hold_map(&backing);

        // INVARIANT: The pages are mapped and are held for this.
        Ok(Pinned { obj: self.into() })
    }

    /// Writes back, and drops if `invalidate`, what the CPU's caches hold of the `len` bytes from
    /// `offset` on.
    ///
    /// For user space that maps the pages [`Caching::Cached`] although the device is not coherent.
    /// Does nothing for other objects, or if the device has not seen the pages yet. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is not within the object, the object is imported, or `dev` is not the
    /// parent device.
    pub fn sync(
        &self,
        dev: &device::Device<Bound>,
        offset: usize,
        len: usize,
        invalidate: bool,
    ) -> Result {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > super::BaseObject::size(self) || self.is_imported() || !self.base.space.is_for(dev)
        {
            return Err(EINVAL);
        }

        if len != 0 && self.base.caching == Caching::Cached {
            self.base.sync(dev, offset..end, invalidate);
        }
        Ok(())
    }

    /// Drops the pages and their content, if user space gave it up. Does not wait for the object's lock.
    ///
    /// Returns the number of pages. They never come back: [`Object::pin()`] and page faults fail from now
    /// on.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the content is needed, or the pages are held or being worked on.
    pub fn purge(&self) -> Result<usize> {
        self.base.try_drop_pages(Event::Purge)
    }

    /// Leaves the pages to shmem, which may swap them out. Does not wait for the object's lock.
    ///
    /// Returns the number of pages. They come back with the next [`Object::pin()`] or page fault.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the pages are held or being worked on.
    pub fn evict(&self) -> Result<usize> {
        self.base.try_drop_pages(Event::Evict)
    }

    /// Returns the pages of all objects of `dev` that are in a list. Takes no lock.
    pub fn reclaimable(dev: &drm::Device<T::Driver>, lru: Lru) -> usize {
        let lrus = T::dma_space(dev).inner().lrus();

        match lrus.belong_to(dev.as_raw()) {
            true => lrus.pages(lru),
            false => 0,
        }
    }

    /// Calls `f` with the objects of `dev` in a list, beginning with the one that was not used for the
    /// longest time, each once, until the numbers of pages that it returns add up to `target` or it
    /// returns [`None`]. Returns the sum.
    ///
    /// For reclaim: waits for no lock but that of the lists, which is not held while `f` is called.
    pub fn scan(
        dev: &drm::Device<T::Driver>,
        lru: Lru,
        target: usize,
        mut f: impl FnMut(&Self) -> Option<usize>,
    ) -> usize
    where
        T::Driver: drm::Driver<Object = Self>,
    {
        let lrus = T::dma_space(dev).inner().lrus();

        if !lrus.belong_to(dev.as_raw()) {
            return 0;
        }
        // SAFETY: `dev` is the device of the lists.
        unsafe {
            lru::scan(lrus, dev.as_raw(), lru, target, |obj| {
                // SAFETY: All objects in the lists are of `dev`, and those of its driver are of this
                // type. There is a reference as long as this runs.
                f(Self::from_raw(obj))
            })
        }
    }

    /// Tells that objects of `dev` are used just now: reclaim is to come to them last. Waits for no lock
    /// but that of the lists.
    pub fn touch<'a>(dev: &drm::Device<T::Driver>, objects: impl Iterator<Item = &'a Self>) {
        let bases = objects
            .filter(|obj| core::ptr::eq(obj.dev().as_raw(), dev.as_raw()))
            .map(|obj| &obj.base);

        // SAFETY: `dev` is valid, and the objects are its own.
        unsafe { lru::touch(dev.as_raw(), bases) };
    }

    /// Calls `f` with all objects of `dev`. For debugging.
    ///
    /// The lock of the lists is held all the time, which keeps reclaim waiting: `f` must not wait for
    /// any lock.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the lock is taken: this does not wait for it.
    pub fn for_each(dev: &drm::Device<T::Driver>, mut f: impl FnMut(Info<'_, T>)) -> Result
    where
        T::Driver: drm::Driver<Object = Self>,
    {
        let lrus = T::dma_space(dev).inner().lrus();

        if !lrus.belong_to(dev.as_raw()) {
            return Ok(());
        }
        // SAFETY: `dev` is the device of the lists.
        unsafe {
            lru::for_each(lrus, dev.as_raw(), |lru, obj| {
                // SAFETY: All objects in the lists are of `dev`, and those of its driver are of this
                // type. Its last reference may be gone, but then it waits for the lock to leave the
                // list, and the data goes after that. `Info` gives no way to get a reference.
                let this = Self::from_raw(obj);
                let holders = &this.base.holders;

                f(Info {
                    data: &this.inner,
                    // SAFETY: As above.
                    size: (*obj).size,
                    lru,
                    state: holders.state(),
                    maps: holders.maps.load(Relaxed),
                    pins: holders.pins.load(Relaxed),
                    dont_need: holders.dont_need.load(Relaxed),
                    // SAFETY: As above; a count that changes meanwhile is read in one piece.
                    handles: (&raw const (*obj).handle_count).read_volatile() as usize,
                });
            })
        }
    }

    extern "C" fn free_callback(obj: *mut bindings::drm_gem_object) {
        // SAFETY: The callback is set for objects of this type only.
        let this: *const Self = unsafe { Self::from_raw(obj) };

        // SAFETY: DRM calls this with no reference left.
        unsafe { (*this).base.release() };

        // SAFETY: Objects come from `KBox::into_raw()` in `new()`. The GEM object was released; what
        // it needed of `parent` and `dev` is still there.
        drop(unsafe { KBox::from_raw(this.cast_mut()) });
    }

    extern "C" fn export_callback(
        obj: *mut bindings::drm_gem_object,
        flags: c_int,
    ) -> *mut bindings::dma_buf {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        let ret: Result = (|| {
            // SAFETY: The object is valid.
            if this.parent.is_some() || unsafe { (*obj).filp }.is_null() {
                return Err(EINVAL);
            }
            T::export(this)?;

            // Mappings through the dma-buf use the same offsets.
            //
            // SAFETY: The object is valid.
            to_result(unsafe { bindings::drm_gem_create_mmap_offset(obj) })?;
            this.base.set_exported();
            Ok(())
        })();

        match ret {
            // SAFETY: The object is valid.
            Ok(()) => unsafe { bindings::drm_gem_prime_export(obj, flags) },
            Err(err) => err.to_ptr(),
        }
    }

    extern "C" fn pin_callback(obj: *mut bindings::drm_gem_object) -> c_int {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        from_result(|| {
            T::attach(this)?;

            let mut backing = this.base.backing.lock();
            this.base.get_pages(&mut backing)?;
            this.base.hold_pin(&backing);
            Ok(0)
        })
    }

    extern "C" fn mmap_callback(
        obj: *mut bindings::drm_gem_object,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        if let Err(err) = T::mmap(this) {
            return err.to_errno();
        }

        if this.is_imported() {
            // SAFETY: `vma` is being set up for this object, which is imported.
            return unsafe { this.base.mmap_imported(vma) };
        }

        // SAFETY: `vma` is being set up for this object.
        match unsafe { this.base.mmap(vma) } {
            Ok(()) => 0,
            Err(err) => err.to_errno(),
        }
    }

    extern "C" fn status_callback(
        obj: *mut bindings::drm_gem_object,
    ) -> bindings::drm_gem_object_status {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        let mut status = 0;
        if this.is_imported() || this.occupied() != 0 {
            status |= bindings::drm_gem_object_status_DRM_GEM_OBJECT_RESIDENT;
        }
        if this.is_given_up() {
            status |= bindings::drm_gem_object_status_DRM_GEM_OBJECT_PURGEABLE;
        }
        status
    }

    extern "C" fn rss_callback(obj: *mut bindings::drm_gem_object) -> usize {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        this.occupied()
    }

    /// Returns the bytes of memory that the object occupies.
    fn occupied(&self) -> usize {
        if T::HAS_RESIDENT_SIZE {
            T::resident_size(self)
        } else if self.is_resident() {
            super::BaseObject::size(self)
        } else {
            0
        }
    }
}

impl<T: ObjectOps> Object<T>
where
    T::Driver: drm::Driver<Object = Self>,
{
    extern "C" fn import_callback(
        dev: *mut bindings::drm_device,
        dma_buf: *mut bindings::dma_buf,
    ) -> *mut bindings::drm_gem_object {
        let mut idx = 0;

        // The buffer is mapped for the parent device, which hence must be bound.
        //
        // SAFETY: DRM calls this with a valid device.
        if !unsafe { bindings::drm_dev_enter(dev, &mut idx) } {
            return ENODEV.to_ptr();
        }

        // SAFETY: DRM calls this with a valid device and a valid dma-buf. If the dma-buf was exported
        // by this device, then from an object with a handle, which is one of this type.
        let obj = unsafe { bindings::drm_gem_prime_import(dev, dma_buf) };

        // SAFETY: `idx` is what `drm_dev_enter()` returned.
        unsafe { bindings::drm_dev_exit(idx) };
        obj
    }

    extern "C" fn import_sg_table_callback(
        dev: *mut bindings::drm_device,
        attach: *mut bindings::dma_buf_attachment,
        sgt: *mut bindings::sg_table,
    ) -> *mut bindings::drm_gem_object {
        // SAFETY: The callback is set in drivers whose objects are of this type only, hence the
        // device is one of that driver.
        let dev = unsafe { drm::Device::<T::Driver>::from_raw(dev) };

        // SAFETY: DRM calls this with a valid attachment.
        let size = unsafe { (*(*attach).dmabuf).size };

        let ret: Result<ARef<Self>> = (|| {
            let args = T::import_args(dev, size)?;
            let space = T::dma_space(dev).inner();
            let dma = dma::DmaMapping::prepare_import(space, attach, sgt)?;

            let config = Config {
                caching: Caching::WriteCombined,
                backed: false,
                parent_resv: None,
            };
            let obj = Self::new(dev, size, config, args)?;

            // SAFETY: The attachment is mapped with this table. When we return successfully, the
            // caller leaves the mapping to us and the attachment to the object, which drops the
            // mapping first.
            obj.base.backing.lock().dma = Some(unsafe { dma.link() }?);
            obj.base
                .update(|holders| holders.set_state(State::Imported));

            Ok(obj)
        })();

        match ret {
            Ok(obj) => {
                let obj = ARef::into_raw(obj);

                // SAFETY: We own a reference to the object, which goes to the caller.
                unsafe { obj.as_ref() }.as_raw()
            }
            Err(err) => err.to_ptr(),
        }
    }
}

impl<T: ObjectOps> AllocImpl for Object<T>
where
    T::Driver: drm::Driver<Object = Self>,
{
    type Driver = T::Driver;

    const ALLOC_OPS: AllocOps = AllocOps {
        gem_create_object: None,
        prime_handle_to_fd: None,
        prime_fd_to_handle: None,
        gem_prime_import: Some(Self::import_callback),
        gem_prime_import_sg_table: Some(Self::import_sg_table_callback),
        dumb_create: None,
        dumb_map_offset: None,
    };
}

extern "C" fn unpin_callback(obj: *mut bindings::drm_gem_object) {
    // SAFETY: The callback is set for objects of this class only.
    let base = unsafe { Base::from_raw(obj) };

    base.release_pin();
}

extern "C" fn get_sg_table_callback(obj: *mut bindings::drm_gem_object) -> *mut bindings::sg_table {
    // SAFETY: The callback is set for objects of this class only.
    let base = unsafe { Base::from_raw(obj) };

    base.pages_to_sg()
}

extern "C" fn vmap_callback(
    obj: *mut bindings::drm_gem_object,
    map: *mut bindings::iosys_map,
) -> c_int {
    // SAFETY: The callback is set for objects of this class only.
    let base = unsafe { Base::from_raw(obj) };

    if base.is_imported() {
        // SAFETY: The attachment of an imported object lives as long as the object, and the
        // reservation, which is the dma-buf's, is locked.
        return unsafe { bindings::dma_buf_vmap((*(*obj).import_attach).dmabuf, map) };
    }

    from_result(|| {
        let vaddr = base.vmap()?;

        // SAFETY: `map` is valid for writing.
        unsafe {
            *map = bindings::iosys_map {
                is_iomem: false,
                __bindgen_anon_1: bindings::iosys_map__bindgen_ty_1 {
                    vaddr: vaddr.as_ptr(),
                },
            }
        };
        Ok(0)
    })
}

extern "C" fn vunmap_callback(obj: *mut bindings::drm_gem_object, map: *mut bindings::iosys_map) {
    // SAFETY: The callback is set for objects of this class only.
    let base = unsafe { Base::from_raw(obj) };

    if base.is_imported() {
        // SAFETY: As in `vmap_callback()`.
        unsafe { bindings::dma_buf_vunmap((*(*obj).import_attach).dmabuf, map) };
    } else {
        base.vunmap();
    }
}

/// Keeps the pages of an object where they are, and mapped for its device.
///
/// Dropping it takes no lock but that of the lists, unless it drops the last reference to the object:
/// then it may sleep.
///
/// # Invariants
///
/// `obj` has its pages mapped, and counts this as one of the device's holds on them.
pub struct Pinned<T: ObjectOps> {
    obj: ARef<Object<T>>,
}

impl<T: ObjectOps> Pinned<T> {
    /// Returns the pages as DMA addresses of `dev`.
    ///
    /// The table of an imported buffer may cover less than the object's size.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `dev` is not the parent device. `ENODEV` if unbind has undone the mapping, which
    /// takes a device that was bound again since.
    pub fn sg_table<'a>(&'a self, dev: &'a device::Device<Bound>) -> Result<&'a SGTable> {
        if !self.obj.base.space.is_for(dev) {
            return Err(EINVAL);
        }

        let backing = self.obj.base.backing.lock();
        let sgt = backing
            .dma
            .as_ref()
            .and_then(|dma| dma.sgt())
            .ok_or(ENODEV)?;

        // SAFETY: By the type invariants, the mapping stays where it is as long as `self` lives,
        // unless the device is unbound, which the borrow of `dev` excludes. Nobody writes to the
        // table.
        Ok(unsafe { SGTable::from_raw(sgt) })
    }
}

impl<T: ObjectOps> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.obj.base.release_map();
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

#[kunit_tests(rust_drm_gem_uma)]
mod tests {
    use super::*;
    use crate::{
        drm::{
            gem::BaseObject,
            UnregisteredDevice, //
        },
        faux,
        page::PAGE_SIZE, //
    };

    #[pin_data]
    struct TestData {
        space: DmaSpace,
    }
    struct TestDriver;
    struct TestFile;
    #[pin_data]
    struct TestObject {
        tag: u32,
    }

    impl drm::file::DriverFile for TestFile {
        type Driver = TestDriver;

        fn open(
            _dev: &drm::Device<TestDriver, drm::Ioctl>,
            _client: &drm::file::Client,
        ) -> Result<Pin<KBox<Self>>> {
            Ok(KBox::new(Self, GFP_KERNEL)?.into())
        }
    }

    impl DriverObject for TestObject {
        type Driver = TestDriver;
        type Args = u32;

        fn new(
            _dev: &drm::Device<TestDriver>,
            _size: usize,
            tag: u32,
        ) -> impl PinInit<Self, Error> {
            try_pin_init!(Self { tag })
        }
    }

    #[vtable]
    impl ObjectOps for TestObject {
        fn dma_space(dev: &drm::Device<TestDriver>) -> &DmaSpace {
            &dev.space
        }

        fn import_args(_dev: &drm::Device<TestDriver>, _size: usize) -> Result<u32> {
            Ok(0)
        }
    }

    #[vtable]
    impl drm::Driver for TestDriver {
        type Data = TestData;
        type RegistrationData<'a> = ();
        type File = TestFile;
        type Object = Object<TestObject>;
        type ParentDevice<Ctx: device::DeviceContext> = faux::Device<Ctx>;

        const INFO: drm::DriverInfo = drm::DriverInfo {
            major: 0,
            minor: 0,
            patchlevel: 0,
            name: c"kunit-uma",
            desc: c"KUnit",
        };
        const IOCTLS: &'static [drm::ioctl::DrmIoctlDescriptor] = &[];
    }

    fn device() -> Result<(faux::Registration, UnregisteredDevice<TestDriver>)> {
        let reg = faux::Registration::new(c"kunit-uma", None)?;
        let parent = reg.as_ref();
        let data = try_pin_init!(TestData {
            space: DmaSpace::new(parent.as_ref())?,
        });
        let drm = UnregisteredDevice::new(parent, data)?;

        Ok((reg, drm))
    }

    #[test]
    fn size_is_whole_pages() -> Result {
        let (_reg, drm) = device()?;

        let obj = Object::<TestObject>::new(&drm, 1, Config::default(), 7)?;
        assert_eq!(obj.size(), PAGE_SIZE);
        assert_eq!(obj.tag, 7);
        assert!(!obj.is_imported());
        assert!(!obj.is_exported());

        assert!(Object::<TestObject>::new(&drm, 0, Config::default(), 0).is_err());
        assert!(Object::<TestObject>::new(&drm, usize::MAX, Config::default(), 0).is_err());
        Ok(())
    }

    #[test]
    fn pages_come_and_go() -> Result {
        let (_reg, drm) = device()?;
        let obj = Object::<TestObject>::new(&drm, 5 * PAGE_SIZE, Config::default(), 0)?;

        assert_eq!(obj.state(), State::None);
        assert_eq!(obj.evict()?, 0);

        populate(&obj)?;
        assert_eq!(obj.state(), State::Resident);
        assert_eq!(obj.evict()?, 5);
        assert_eq!(obj.state(), State::Evicted);

        // Who holds the pages keeps them, be it the device or others.
        populate(&obj)?;
        assert!(obj.advise(false));
        for counter in [&obj.base.holders.maps, &obj.base.holders.pins] {
            obj.base.update(|_| lru::count(counter, true));
            assert_eq!(obj.purge(), Err(EBUSY));
            assert_eq!(obj.evict(), Err(EBUSY));
            obj.base.update(|_| lru::count(counter, false));
        }

        // Purged is what user space gave up only.
        assert!(obj.advise(true));
        assert_eq!(obj.purge(), Err(EBUSY));
        assert!(obj.advise(false));
        assert_eq!(obj.purge()?, 5);
        assert_eq!(obj.state(), State::Purged);
        assert!(!obj.advise(true));
        assert!(populate(&obj).is_err());
        Ok(())
    }

    #[test]
    fn nobody_waits_for_the_lock_of_pages() -> Result {
        let (_reg, drm) = device()?;
        let obj = Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?;

        populate(&obj)?;
        let backing = obj.base.backing.lock();
        assert!(obj.advise(false));
        assert_eq!(obj.purge(), Err(EBUSY));
        assert_eq!(obj.evict(), Err(EBUSY));
        drop(backing);
        assert_eq!(obj.purge()?, 1);
        Ok(())
    }

    /// Brings the pages of an object in.
    fn populate(obj: &Object<TestObject>) -> Result {
        obj.base.get_pages(&mut obj.base.backing.lock())
    }

    /// The tags of the objects in a list.
    fn tags(drm: &drm::Device<TestDriver>, lru: Lru) -> Result<KVec<u32>> {
        let mut tags = KVec::new();
        let mut ret = Ok(());

        let sum = Object::<TestObject>::scan(drm, lru, 1, |obj| {
            ret = ret.and(tags.push(obj.tag, GFP_KERNEL).map_err(Into::into));
            Some(0)
        });
        assert_eq!(sum, 0);
        ret.map(|()| tags)
    }

    #[test]
    fn lists() -> Result {
        let (_reg, drm) = device()?;
        let new = |tag| {
            // To be mapped by the CPU without the device.
            let config = Config {
                caching: Caching::Cached,
                ..Config::default()
            };
            Object::<TestObject>::new(&drm, 3 * PAGE_SIZE, config, tag)
        };
        let pages = |lru| Object::<TestObject>::reclaimable(&drm, lru);
        let (a, b) = (new(1)?, new(2)?);

        assert_eq!(tags(&drm, Lru::Unbacked)?.as_slice(), &[1, 2]);
        populate(&b)?;
        populate(&a)?;
        assert_eq!(tags(&drm, Lru::WillNeed)?.as_slice(), &[2, 1]);
        assert_eq!(pages(Lru::WillNeed), 6);
        assert_eq!(pages(Lru::DontNeed), 0);

        // What was used last comes last.
        Object::<TestObject>::touch(&drm, [&*b].into_iter());
        assert_eq!(tags(&drm, Lru::WillNeed)?.as_slice(), &[1, 2]);

        a.advise(false);
        assert_eq!(tags(&drm, Lru::DontNeed)?.as_slice(), &[1]);
        assert_eq!(pages(Lru::DontNeed), 3);
        a.base.vmap()?;
        assert_eq!(tags(&drm, Lru::Pinned)?.as_slice(), &[1]);
        a.base.vunmap();
        assert_eq!(tags(&drm, Lru::DontNeed)?.as_slice(), &[1]);
        a.purge()?;
        assert_eq!(tags(&drm, Lru::Unbacked)?.as_slice(), &[1]);

        drop(b);
        assert_eq!(pages(Lru::WillNeed), 0);
        assert!(tags(&drm, Lru::WillNeed)?.is_empty());
        Ok(())
    }

    #[test]
    fn scan_stops_when_it_has_enough() -> Result {
        let (_reg, drm) = device()?;
        let mut objects = KVec::new();

        for tag in 0..4 {
            let obj = Object::<TestObject>::new(&drm, 2 * PAGE_SIZE, Config::default(), tag)?;
            populate(&obj)?;
            objects.push(obj, GFP_KERNEL)?;
        }
        // One that cannot go does not hold up the others, and keeps its place.
        objects[0]
            .base
            .update(|holders| lru::count(&holders.maps, true));
        let evict = |obj: &Object<TestObject>| Some(obj.evict().unwrap_or(0));
        assert_eq!(Object::<TestObject>::scan(&drm, Lru::WillNeed, 3, evict), 4);
        assert_eq!(tags(&drm, Lru::Unbacked)?.as_slice(), &[1, 2]);
        assert_eq!(Object::<TestObject>::reclaimable(&drm, Lru::WillNeed), 4);

        // Nor does one with which it is to end.
        assert_eq!(
            Object::<TestObject>::scan(&drm, Lru::WillNeed, 3, |_| None),
            0
        );

        // The last reference goes while it is looked at.
        let mut last = objects.pop();
        objects[0]
            .base
            .update(|holders| lru::count(&holders.maps, false));
        assert_eq!(
            Object::<TestObject>::scan(&drm, Lru::WillNeed, 100, |obj| {
                if obj.tag == 3 {
                    last.take();
                }
                evict(obj)
            }),
            4
        );
        assert!(last.is_none());
        assert_eq!(tags(&drm, Lru::Unbacked)?.len(), 3);
        Ok(())
    }

    #[test]
    fn all_objects_are_listed() -> Result {
        let (_reg, drm) = device()?;
        let a = Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 1)?;
        let config = Config {
            backed: false,
            ..Config::default()
        };
        let _b = Object::<TestObject>::new(&drm, 2 * PAGE_SIZE, config, 2)?;
        let list = || -> Result<(u32, usize)> {
            let (mut tags, mut resident) = (0, 0);

            Object::<TestObject>::for_each(&drm, |info| {
                tags += info.data.tag;
                resident += match info.state {
                    State::Resident => info.size,
                    _ => 0,
                };
            })?;
            Ok((tags, resident))
        };

        assert_eq!(list()?, (3, 0));
        populate(&a)?;
        assert_eq!(list()?, (3, PAGE_SIZE));
        drop(a);
        assert_eq!(list()?, (2, 0));

        // Who has the lock is not waited for.
        let ret = Object::<TestObject>::for_each(&drm, |_| {
            assert_eq!(list(), Err(EBUSY));
        });
        assert!(ret.is_ok());
        Ok(())
    }

    #[test]
    fn content_survives_eviction_only() -> Result {
        let (_reg, drm) = device()?;
        let config = Config {
            caching: Caching::Cached,
            ..Config::default()
        };
        let obj = Object::<TestObject>::new(&drm, PAGE_SIZE, config, 0)?;

        let read = || -> Result<u8> {
            let vaddr = obj.base.vmap()?;
            // SAFETY: The mapping has a page, and nobody else uses it.
            let byte = unsafe { vaddr.cast::<u8>().read_volatile() };
            obj.base.vunmap();
            Ok(byte)
        };

        let vaddr = obj.base.vmap()?;
        // SAFETY: The mapping has a page, and nobody else uses it.
        unsafe { vaddr.cast::<u8>().write_volatile(0xa5) };
        assert_eq!(obj.evict(), Err(EBUSY));
        obj.base.vunmap();

        assert_eq!(obj.evict()?, 1);
        assert_eq!(read()?, 0xa5);
        assert!(obj.advise(false));
        assert_eq!(obj.purge()?, 1);
        // Nobody gets another content for the lost one.
        assert!(read().is_err());
        Ok(())
    }

    #[test]
    fn unbacked_has_no_pages() -> Result {
        let (_reg, drm) = device()?;
        let config = Config {
            backed: false,
            ..Config::default()
        };
        let obj = Object::<TestObject>::new(&drm, PAGE_SIZE, config, 0)?;

        assert!(obj.base.vmap().is_err());
        assert!(!obj.is_resident());
        assert_eq!(obj.purge()?, 0);
        assert_eq!(tags(&drm, Lru::Foreign)?.len(), 1);
        Ok(())
    }

    #[test]
    fn other_device_is_refused() -> Result {
        let (_reg, drm) = device()?;
        let other = faux::Registration::new(c"kunit-uma-other", None)?;
        let obj = Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?;

        assert!(obj.pin(other.as_ref().as_ref()).is_err());
        assert!(!obj.is_resident());
        Ok(())
    }

    #[test]
    fn unbind_ends_mappings() -> Result {
        let (reg, drm) = device()?;
        let dev: &device::Device<Bound> = reg.as_ref().as_ref();
        // SAFETY: Nobody else uses the device, and it lives longer than the pointer to its field.
        unsafe {
            let dev = dev.as_raw();
            (*dev).dma_mask = &raw mut (*dev).coherent_dma_mask;
            to_result(bindings::dma_set_mask_and_coherent(dev, u64::MAX))?;
        }

        let (mapped, unmapped) = (
            Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?,
            Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?,
        );
        assert!(mapped.pin(dev)?.sg_table(dev).is_ok());
        let pinned = mapped.pin(dev)?;

        // What unbind does, after which the device could be bound again.
        drm.space.undo_all();
        assert_eq!(pinned.sg_table(dev).err(), Some(ENODEV));
        assert_eq!(mapped.pin(dev).err(), Some(ENODEV));
        assert_eq!(unmapped.pin(dev).err(), Some(ENODEV));

        drop(pinned);
        assert_eq!(mapped.maps(), 0);
        Ok(())
    }

    #[test]
    fn parent_outlives_child() -> Result {
        let (_reg, drm) = device()?;
        let parent = Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?;
        let config = Config {
            parent_resv: Some(&*parent),
            ..Config::default()
        };
        let child = Object::<TestObject>::new(&drm, PAGE_SIZE, config, 0)?;

        assert!(ptr::eq(parent.raw_dma_resv(), child.raw_dma_resv()));
        drop(parent);
        assert!(!child.raw_dma_resv().is_null());
        Ok(())
    }
}
