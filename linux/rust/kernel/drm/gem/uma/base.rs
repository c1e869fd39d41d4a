// SPDX-License-Identifier: GPL-2.0

//! The part of a buffer that does not depend on the driver's type: its pages.

use super::{
    dma::{
        DmaMapping,
        Space, //
    },
    lru::{
        count,
        Holders, //
    },
    state::{
        Event,
        State, //
    },
    Caching, //
};
use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::{
        DataDirection,
        DmaAddress, //
    },
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    scatterlist::SGTable,
    static_lock_class,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        LockClassKey,
        Mutex, //
    },
    types::Opaque, //
};
use core::{
    ops::Range,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// A GEM object in system memory, without the driver's data.
///
/// # Invariants
///
/// - `obj` is initialized once [`Base::init()`] has returned `Ok`, and until [`Base::release()`].
/// - `space` is for the parent device of the object's DRM device, and its lists are those of the latter.
/// - If there is a file, then the state is [`State::Resident`] if, and only if, `backing.pages` is there.
/// - As long as somebody holds the pages, they are there and `backing.pages` does not change. Who has
///   not held them before needs the lock of `backing` to begin with it.
#[repr(C)]
#[pin_data]
pub(super) struct Base {
    #[pin]
    pub(super) obj: Opaque<bindings::drm_gem_object>,
    /// How user space and the kernel map the pages.
    pub(super) caching: Caching,
    /// Where DMA mappings are registered.
    pub(super) space: Arc<Space>,
    /// Who holds the pages, and where they are.
    pub(super) holders: Holders,
    /// The tick in which the object was last used.
    pub(super) touched: Atomic<usize>,
    /// The pages. Inside of the reservation lock, outside of everything that allocates.
    #[pin]
    pub(super) backing: Mutex<Backing>,
}

// SAFETY: A GEM object may be used and freed by any thread.
unsafe impl Send for Base {}

// SAFETY: What is mutable is under locks, the C side's included.
unsafe impl Sync for Base {}

/// Pages of a buffer and what is built on them.
///
/// # Invariants
///
/// - `pages` is what `drm_gem_get_pages()` returned for the object.
/// - `dma` maps `pages`, or the dma-buf if the object is imported; while the device holds the pages it
///   is not taken away.
/// - `vaddr` maps `pages` and is there if, and only if, `vmaps` is not 0.
#[derive(Default)]
pub(super) struct Backing {
    pages: Option<NonNull<*mut bindings::page>>,
    pub(super) dma: Option<DmaMapping>,
    vaddr: Option<NonNull<c_void>>,
    /// Each holds the pages.
    vmaps: usize,
    /// The CPU's caches hold nothing of `pages`: they were handed to the device once.
    flushed: bool,
    /// The pages came in after the device had gone: CPU mappings are cached.
    orphaned: bool,
}

// SAFETY: Pages and mappings belong to no thread.
unsafe impl Send for Backing {}

impl Backing {
    /// Returns page `index`, or [`None`] if the pages are not there or `index` is not below
    /// `count`, which must be the object's number of pages.
    fn page(&self, index: usize, count: usize) -> Option<*mut bindings::page> {
        if index >= count {
            return None;
        }
        // SAFETY: By the type invariants, the array has as many entries as the object has pages.
        Some(unsafe { *self.pages?.as_ptr().add(index) })
    }

    /// Returns the frame number of page `index`.
    pub(super) fn pfn(&self, index: usize, count: usize) -> Option<usize> {
        let page = self.page(index, count)?;

        // SAFETY: The page is valid while the pages are there.
        Some(unsafe { bindings::page_to_pfn(page) })
    }

    /// Returns the frame number of page `index` if a block of `1 << order` pages of one folio begins
    /// there.
    pub(super) fn block(&self, index: usize, count: usize, order: u32) -> Option<usize> {
        let pages = 1usize.checked_shl(order)?;
        let page = self.page(index, count)?;
        let last = self.page(index.checked_add(pages - 1)?, count)?;

        // SAFETY: Both pages are valid while the pages are there.
        let (pfn, last, folio) = unsafe {
            (
                bindings::page_to_pfn(page),
                bindings::page_to_pfn(last),
                bindings::page_folio(page),
            )
        };
        // SAFETY: The folio is valid while the pages are there.
        let large = unsafe { bindings::folio_order(folio) } >= order;

        (large && pfn & (pages - 1) == 0 && last == pfn + pages - 1).then_some(pfn)
    }
}

/// The name and the key of the class of [`Base::backing`].
///
/// What [`Base::new()`] returns runs in generic code, of which each crate has its own copy with its own
/// literals, but one copy of the statics. Lockdep insists on one name for a key.
#[inline(never)]
fn backing_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"uma::Base::backing", static_lock_class!())
}

impl Base {
    /// Makes an object that [`Base::init()`] has yet to initialize.
    pub(super) fn new(space: Arc<Space>, caching: Caching) -> impl PinInit<Self> {
        let (name, key) = backing_class();

        pin_init!(Self {
            obj <- Opaque::init_zeroed(),
            caching,
            space,
            holders: Holders::new(),
            touched: Atomic::new(0),
            backing <- Mutex::new(Backing::default(), name, key),
        })
    }

    /// Initializes the GEM object with room for `size` bytes, in a shmem file if `backed`.
    ///
    /// # Safety
    ///
    /// The object must be fresh from [`Base::new()`] and not shared yet. `dev` must be a valid DRM
    /// device. `resv` must be null or live longer than the object. `size` must be a multiple of the
    /// page size. On success the caller owns the one reference.
    pub(super) unsafe fn init(
        &self,
        dev: *mut bindings::drm_device,
        funcs: &'static bindings::drm_gem_object_funcs,
        resv: *mut bindings::dma_resv,
        size: usize,
        backed: bool,
    ) -> Result {
        let obj = self.obj.get();

        // SAFETY: Nobody else sees the object yet.
        unsafe {
            (*obj).funcs = funcs;
            (*obj).resv = resv;
        }

        if !backed {
            // SAFETY: The caller promises valid arguments.
            unsafe { bindings::drm_gem_private_object_init(dev, obj, size) };
            return Ok(());
        }

        // SAFETY: The caller promises valid arguments.
        to_result(unsafe { bindings::drm_gem_object_init(dev, obj, size) }).inspect_err(|_| {
            // SAFETY: `drm_gem_object_init()` initializes the private part before it fails.
            unsafe { bindings::drm_gem_private_object_fini(obj) }
        })?;

        // While the device uses them, the pages cannot move: keep them out of movable zones. A
        // failed allocation is reported to user space; it is no reason to kill.
        //
        // SAFETY: The object has a file as `drm_gem_object_init()` was successful.
        unsafe {
            bindings::mapping_set_gfp_mask(
                (*(*obj).filp).f_mapping,
                (GFP_HIGHUSER | __GFP_RETRY_MAYFAIL | __GFP_NOWARN).as_raw(),
            )
        };

        Ok(())
    }

    /// Gets the base of a GEM object.
    ///
    /// # Safety
    ///
    /// `obj` must be embedded in a [`Base`] and valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(obj: *mut bindings::drm_gem_object) -> &'a Self {
        // SAFETY: By the safety requirements.
        unsafe { &*crate::container_of!(Opaque::cast_from(obj), Self, obj) }
    }

    /// Returns the number of pages of the object.
    pub(super) fn count(&self) -> usize {
        // SAFETY: By the type invariants, the object is initialized.
        unsafe { (*self.obj.get()).size >> PAGE_SHIFT }
    }

    pub(super) fn is_imported(&self) -> bool {
        // SAFETY: By the type invariants, the object is initialized; the field is written before
        // anybody else sees the object.
        unsafe { !(*self.obj.get()).import_attach.is_null() }
    }

    pub(super) fn is_resident(&self) -> bool {
        self.holders.state() == State::Resident
    }

    /// Runs `f` with the parent device if it is bound.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone.
    fn with_bound<R>(&self, f: impl FnOnce(&Device<Bound>) -> Result<R>) -> Result<R> {
        let mut idx = 0;

        // SAFETY: By the type invariants, the object is initialized.
        let dev = unsafe { (*self.obj.get()).dev };

        // SAFETY: An object's DRM device lives at least as long as the object.
        if !unsafe { bindings::drm_dev_enter(dev, &mut idx) } {
            return Err(ENODEV);
        }

        // SAFETY: The device of `space` is the DRM device's parent by the type invariants. This is
        // called for the CPU mappings of an object that an open file knows, hence the DRM device was
        // registered, and unbind begins with `drm_dev_unplug()`: the parent is bound until
        // `drm_dev_exit()`.
        let ret = f(unsafe { self.space.dev().as_bound() });

        // SAFETY: `idx` is what `drm_dev_enter()` returned.
        unsafe { bindings::drm_dev_exit(idx) };
        ret
    }

    /// Brings the pages in. May sleep, and reclaim.
    ///
    /// Fails with `EINVAL` if the object has no file, or has lost its content.
    pub(super) fn get_pages(&self, backing: &mut Backing) -> Result {
        if backing.pages.is_some() {
            return Ok(());
        }
        let state = self.holders.state().after(Event::Populate)?;

        // SAFETY: By the type invariants, the object is initialized.
        if unsafe { (*self.obj.get()).filp }.is_null() {
            return Err(EINVAL);
        }

        // SAFETY: The object has a file, as was just checked.
        let pages = from_err_ptr(unsafe { bindings::drm_gem_get_pages(self.obj.get()) })?;

        // INVARIANT: These are the object's pages.
        backing.pages = Some(NonNull::new(pages).ok_or(ENOMEM)?);
        self.update(|holders| holders.set_state(state));
        Ok(())
    }

    /// Notes that the device has the pages mapped once more. `_backing` proves that they are there.
    pub(super) fn hold_map(&self, _backing: &Backing) {
        self.update(|holders| count(&holders.maps, true));
    }

    /// Undoes [`Base::hold_map()`]. Takes no lock but that of the lists.
    pub(super) fn release_map(&self) {
        self.update(|holders| count(&holders.maps, false));
    }

    /// Notes that somebody other than the device has the pages. `_backing` proves that they are there.
    pub(super) fn hold_pin(&self, _backing: &Backing) {
        self.update(|holders| count(&holders.pins, true));
    }

    /// Undoes [`Base::hold_pin()`]. Takes no lock but that of the lists.
    pub(super) fn release_pin(&self) {
        self.update(|holders| count(&holders.pins, false));
    }

    /// Brings the pages in and maps them for the device. May sleep, and reclaim.
    ///
    /// Fails with `ENODEV` if unbind has undone the mapping: the object belongs to an earlier
    /// binding of the device, and gets no other mapping.
    pub(super) fn map_dma(&self, backing: &mut Backing, dev: &Device<Bound>) -> Result {
        if let Some(dma) = &backing.dma {
            return dma.sgt().map(|_| ()).ok_or(ENODEV);
        }

        self.get_pages(backing)?;
        let pages = backing.pages.ok_or(EINVAL)?;

        // SAFETY: There are as many pages as the object has. `drop_pages()` drops the mapping first.
        let dma = unsafe { DmaMapping::new(&self.space, dev, pages.as_ptr(), self.count()) }?;

        // INVARIANT: It maps the object's pages.
        backing.dma = Some(dma);
        backing.flushed = true;
        Ok(())
    }

    /// Gives the pages back to shmem, `dirty` if their content is worth keeping.
    ///
    /// The caller makes sure that nobody maps them, and has changed the state.
    fn drop_pages(&self, backing: &mut Backing, dirty: bool) {
        if self.is_imported() {
            return;
        }

        backing.dma = None;
        backing.flushed = false;
        backing.orphaned = false;

        if let Some(pages) = backing.pages.take() {
            // SAFETY: By the type invariants, these are the object's pages; the array is given away.
            unsafe { bindings::drm_gem_put_pages(self.obj.get(), pages.as_ptr(), dirty, false) };
        }
    }

    /// Returns whether pages can be mapped for the CPU right now.
    pub(super) fn is_cpu_ready(&self, backing: &Backing) -> bool {
        backing.pages.is_some()
            && (self.caching == Caching::Cached || backing.flushed || backing.orphaned)
    }

    /// Returns whether CPU mappings are to be write-combined.
    pub(super) fn is_write_combined(&self, backing: &Backing) -> bool {
        self.caching == Caching::WriteCombined && !backing.orphaned
    }

    /// Brings the pages in, in a state in which they can be mapped for the CPU. May sleep.
    ///
    /// Pages that come out of shmem may have dirty lines in the CPU's caches. Before such a page is
    /// mapped write-combined, they have to be written back: that is what mapping it for a device
    /// that is not coherent does. Once the device has gone there is nobody left to be incoherent
    /// with, and the mapping is cached instead.
    pub(super) fn prepare_cpu(&self, backing: &mut Backing) -> Result {
        self.get_pages(backing)?;

        if self.is_cpu_ready(backing) {
            return Ok(());
        }

        match self.with_bound(|dev| self.map_dma(backing, dev)) {
            Err(ENODEV) => {
                backing.orphaned = true;
                Ok(())
            }
            ret => ret,
        }
    }

    /// Takes away all CPU mappings that user space has. They come back by faults.
    ///
    /// Those through a dma-buf are among them: `drm_gem_dmabuf_export()` gives its file the device's
    /// inode, too, and they have the same offset there.
    pub(super) fn zap(&self) {
        // SAFETY: By the type invariants the object and its DRM device are valid; the device's inode
        // lives as long as it does.
        unsafe {
            let obj = self.obj.get();
            bindings::drm_vma_node_unmap(
                &raw mut (*obj).vma_node,
                (*(*(*obj).dev).anon_inode).i_mapping,
            )
        };
    }

    /// Lets the pages go, if nobody holds them, because of `event`. Does not wait for the lock of the
    /// pages.
    ///
    /// Returns the number of pages.
    pub(super) fn try_drop_pages(&self, event: Event) -> Result<usize> {
        let mut backing = self.backing.try_lock().ok_or(EBUSY)?;

        if backing.pages.is_none() {
            return Ok(0);
        }

        // From here on nobody can begin to hold them, as that takes the lock of `backing`. What user
        // space has been told of a content that is still there stays true.
        self.update(|holders| {
            let given_up = holders.dont_need.load(Relaxed);

            if !holders.none() || event == Event::Purge && !given_up {
                return Err(EBUSY);
            }
            holders.set_state(holders.state().after(event)?);
            Ok(())
        })?;

        self.zap();
        self.drop_pages(&mut backing, event != Event::Purge);

        if event == Event::Purge {
            // SAFETY: An object that had pages has a file.
            unsafe {
                let inode = (*(*(*self.obj.get()).filp).f_mapping).host;
                bindings::shmem_truncate_range(inode, 0, u64::MAX)
            };
        }

        Ok(self.count())
    }

    /// Notes that the object is being exported: its content is others', too, and stays from now on.
    pub(super) fn set_exported(&self) {
        self.update(|holders| {
            holders.exported.store(true, Relaxed);
            holders.dont_need.store(false, Relaxed);
        });
    }

    /// Writes back, and drops if `invalidate`, what the CPU's caches hold of the bytes in `range`.
    ///
    /// `range` must be within the object, which must not be imported.
    pub(super) fn sync(&self, dev: &Device<Bound>, range: Range<usize>, invalidate: bool) {
        let backing = self.backing.lock();

        // What was never mapped for the device is flushed when it will be.
        let Some(sgt) = backing.dma.as_ref().and_then(|dma| dma.sgt()) else {
            return;
        };

        // SAFETY: The table stays mapped as long as `backing` is locked and `dev` bound.
        let table = unsafe { SGTable::from_raw(sgt) };
        let mut at = 0;

        for entry in table.iter() {
            // Lengths of segments of memory fit.
            let len = entry.dma_len() as usize;
            let from = range.start.clamp(at, at + len) - at;
            let to = range.end.clamp(at, at + len) - at;
            at += len;

            if from == to {
                continue;
            }
            let address = entry.dma_address() + from as DmaAddress;

            // SAFETY: The range is part of a segment that is mapped for `dev`, both directions.
            unsafe {
                bindings::dma_sync_single_for_device(
                    dev.as_raw(),
                    address,
                    to - from,
                    DataDirection::ToDevice.into(),
                );
                if invalidate {
                    bindings::dma_sync_single_for_cpu(
                        dev.as_raw(),
                        address,
                        to - from,
                        DataDirection::FromDevice.into(),
                    );
                }
            }
        }
    }

    /// Makes a table of the pages for another driver, which frees it. The pages must be pinned.
    pub(super) fn pages_to_sg(&self) -> *mut bindings::sg_table {
        let backing = self.backing.lock();
        let (Some(pages), Ok(count)) = (backing.pages, self.count().try_into()) else {
            return EINVAL.to_ptr();
        };

        // SAFETY: By the type invariants of `Backing`, these are `count` valid pages. The object's
        // device is valid.
        unsafe { bindings::drm_prime_pages_to_sg((*self.obj.get()).dev, pages.as_ptr(), count) }
    }

    /// Gets a kernel mapping of all pages.
    pub(super) fn vmap(&self) -> Result<NonNull<c_void>> {
        let mut backing = self.backing.lock();

        if backing.vaddr.is_none() {
            self.prepare_cpu(&mut backing)?;
            let pages = backing.pages.ok_or(EINVAL)?;

            // SAFETY: No preconditions.
            let mut prot = unsafe { bindings::PAGE_KERNEL() };
            if self.is_write_combined(&backing) {
                // SAFETY: No preconditions.
                prot = unsafe { bindings::pgprot_writecombine(prot) };
            }

            // SAFETY: By the type invariants of `Backing`, these are `count()` valid pages.
            let vaddr = unsafe {
                bindings::vmap(
                    pages.as_ptr(),
                    self.count().try_into()?,
                    bindings::VM_MAP as usize,
                    prot,
                )
            };
            backing.vaddr = Some(NonNull::new(vaddr).ok_or(ENOMEM)?);
        }

        backing.vmaps += 1;
        self.hold_pin(&backing);
        backing.vaddr.ok_or(ENOMEM)
    }

    /// Gives back what [`Base::vmap()`] returned.
    pub(super) fn vunmap(&self) {
        let mut backing = self.backing.lock();

        backing.vmaps = backing.vmaps.saturating_sub(1);
        self.release_pin();
        if backing.vmaps == 0 {
            if let Some(vaddr) = backing.vaddr.take() {
                // SAFETY: `vaddr` comes from `vmap()`, and its last user is gone.
                unsafe { bindings::vunmap(vaddr.as_ptr()) };
            }
        }
    }

    /// Releases everything but the memory of the object.
    ///
    /// # Safety
    ///
    /// The last reference must be gone.
    pub(super) unsafe fn release(&self) {
        let obj = self.obj.get();

        // Reclaim may have had the last reference, and must not wait for this lock. Nobody has it, and
        // lockdep takes no attempt for a wait.
        let dma = self.backing.try_lock().and_then(|mut backing| {
            if let Some(vaddr) = backing.vaddr.take() {
                // SAFETY: `vaddr` comes from `vmap()`. There are no more users.
                unsafe { bindings::vunmap(vaddr.as_ptr()) };
            }
            // The file goes as well: there is no content to keep, and no state.
            self.drop_pages(&mut backing, false);
            backing.dma.take()
        });

        // Of an imported buffer: this takes the exporter's reservation lock, in which the lock of
        // the backing nests elsewhere.
        drop(dma);

        if self.is_imported() {
            // The table was unmapped with `dma`: what remains is the attachment.
            //
            // SAFETY: The object was imported through `drm_gem_prime_import()`.
            unsafe { bindings::drm_prime_gem_destroy(obj, ptr::null_mut()) };
        }

        // SAFETY: The object is initialized and has no more users.
        unsafe { bindings::drm_gem_object_release(obj) };
    }
}
