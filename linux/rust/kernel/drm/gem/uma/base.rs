// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The part of a buffer that does not depend on the driver's type: its pages.
//!
//! A [`Base`] owns the pages, their DMA mapping and the kernel's mapping of them, all of which is
//! in its [`Backing`]. Locks: the mutex of the backing, which nests inside the reservation lock and
//! under which memory is allocated; the number of holders and the state change under the lock of
//! the lists, inside of it. Process context.

use super::{
    backing::Backing,
    dma::{
        DmaMapping,
        DmaSpaceInner, //
    },
    groups::Membership,
    holders::{
        count,
        Holders, //
    },
    state::{
        Event,
        PageState, //
    },
    Caching, //
};
use crate::{
    alloc::Flags,
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SHIFT,
    prelude::*,
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
use core::ptr::{
    self,
    NonNull, //
};

/// A GEM object in system memory, without the driver's data.
///
/// # Invariants
///
/// - `obj` is initialized once [`Base::init()`] has returned `Ok`, and until [`Base::release()`].
/// - `space` is for the parent device of the object's DRM device, and its lists are those of the
///   latter; `membership` is of one of its groups.
/// - If there is a file, the state is [`PageState::Resident`] if, and only if, `backing.pages` is
///   present, except within a section that holds the lock of `backing`.
/// - As long as the pages are held, they are present and `backing.pages` does not change. Taking a
///   hold needs the lock of `backing`.
#[repr(C)]
#[pin_data]
pub(super) struct Base {
    #[pin]
    pub(super) obj: Opaque<bindings::drm_gem_object>,
    /// The caching mode in which user space and the kernel map the pages.
    pub(super) caching: Caching,
    /// Where DMA mappings are registered.
    pub(super) space: Arc<DmaSpaceInner>,
    /// The group that pays for the pages, with the lists that the object can be in.
    pub(super) membership: Membership,
    /// The holders of the pages, and the state.
    pub(super) holders: Holders,
    /// The tick in which the object was last used.
    pub(super) touched: Atomic<usize>,
    /// The pages. The lock nests inside the reservation lock; memory is allocated under it, so
    /// reclaim must only try to take it.
    #[pin]
    pub(super) backing: Mutex<Backing>,
}

// SAFETY: A GEM object may be used and freed by any thread.
unsafe impl Send for Base {}

// SAFETY: Everything mutable is protected by locks, some of them on the C side.
unsafe impl Sync for Base {}

/// Returns the flags with which shmem allocates pages.
///
/// While the device uses them, the pages cannot move: keep them out of movable zones. A failed
/// allocation is reported to user space and must not invoke the OOM killer.
fn page_flags() -> Flags {
    GFP_HIGHUSER | __GFP_RETRY_MAYFAIL | __GFP_NOWARN
}

/// Returns the flags with which shmem allocates pages that a full group of others is to pay for,
/// to be tried one after the other.
///
/// Reclaim from the group has just failed. With flags that allow it, it would be repeated for each
/// page, at least twice, and many times with those of [`page_flags()`]. So these allow it only if
/// too few pages are free.
fn forced_flags() -> [Flags; 2] {
    let at_hand = GFP_ATOMIC | __GFP_HIGHMEM | __GFP_NOWARN;

    [at_hand, at_hand | GFP_HIGHUSER | __GFP_NORETRY]
}

/// Returns the name and the key of the class of [`Base::backing`].
///
/// The initialiser that [`Base::new()`] returns runs in generic code, of which each crate has its
/// own copy with its own literals, but one copy of the statics. Lockdep requires one name for a
/// key.
#[inline(never)]
fn backing_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"uma::Base::backing", static_lock_class!())
}

impl Base {
    /// Creates an object that [`Base::init()`] has yet to initialize.
    pub(super) fn new(
        space: Arc<DmaSpaceInner>,
        membership: Membership,
        caching: Caching,
    ) -> impl PinInit<Self> {
        let (name, key) = backing_class();

        pin_init!(Self {
            obj <- Opaque::init_zeroed(),
            caching,
            space,
            membership,
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

        // SAFETY: The object is not shared yet.
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

        self.set_page_flags(page_flags());
        Ok(())
    }

    /// Sets the flags with which shmem allocates the pages, if the object has a file.
    fn set_page_flags(&self, flags: Flags) {
        // SAFETY: By the type invariants, the object is initialized; a file stays.
        unsafe {
            let file = (*self.obj.get()).filp;

            if !file.is_null() {
                bindings::mapping_set_gfp_mask((*file).f_mapping, flags.as_raw());
            }
        }
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

    /// Returns whether the pages belong to another driver, which has exported them.
    pub(super) fn is_imported(&self) -> bool {
        // SAFETY: By the type invariants, the object is initialized; the field is written before
        // the object is shared.
        unsafe { !(*self.obj.get()).import_attach.is_null() }
    }

    /// Returns whether the pages are in memory. Takes no lock, so the answer may be outdated.
    pub(super) fn is_resident(&self) -> bool {
        self.holders.state() == PageState::Resident
    }

    /// Runs `f` with the parent device if it is bound.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is gone.
    pub(super) fn with_bound<R>(&self, f: impl FnOnce(&Device<Bound>) -> Result<R>) -> Result<R> {
        let mut idx = 0;

        // SAFETY: By the type invariants, the object is initialized.
        let dev = unsafe { (*self.obj.get()).dev };

        // SAFETY: An object's DRM device lives at least as long as the object.
        if !unsafe { bindings::drm_dev_enter(dev, &mut idx) } {
            return Err(ENODEV);
        }

        // SAFETY: The device of `space` is the DRM device's parent by the type invariants. This is
        // called for CPU mappings of an object that was reachable through an open file or a
        // dma-buf, so the DRM device was registered. Unbind begins with `drm_dev_unplug()`, which
        // waits for `drm_dev_exit()`: the parent is bound until then.
        let ret = f(unsafe { self.space.dev().as_bound() });

        // SAFETY: `idx` is what `drm_dev_enter()` returned.
        unsafe { bindings::drm_dev_exit(idx) };
        ret
    }

    /// Gets the pages from shmem, which allocates those that are missing, or reads them from swap.
    /// May sleep and reclaim memory.
    ///
    /// The caller owns the array, and must not have it already. Fails with `EINVAL` if the object
    /// has no file.
    fn get_from_shmem(&self) -> Result<NonNull<*mut bindings::page>> {
        // SAFETY: By the type invariants, the object is initialized.
        if unsafe { (*self.obj.get()).filp }.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: The object has a file, as was just checked.
        let pages = from_err_ptr(unsafe { bindings::drm_gem_get_pages(self.obj.get()) })?;

        NonNull::new(pages).ok_or(ENOMEM)
    }

    /// Brings the pages in. May sleep and reclaim memory.
    ///
    /// Fails with `EINVAL` if the object has no file, or has lost its content.
    pub(super) fn get_pages(&self, backing: &mut Backing) -> Result {
        if backing.pages.is_some() {
            return Ok(());
        }
        self.holders.facts().after(Event::Populate)?;

        // A page that comes back from swap is charged to the group that has paid for it before,
        // whoever brings it back. If that group is full, a task of another one cannot make room
        // there, and must not fail for it: `__GFP_HIGH` charges the group nevertheless. No other
        // task allocates meanwhile, as the pages are locked.
        let mut pages = self.get_from_shmem();
        if matches!(pages, Err(ENOMEM)) && self.membership.group().is_of_others() {
            for flags in forced_flags() {
                self.set_page_flags(flags);
                pages = self.get_from_shmem();
                if !matches!(pages, Err(ENOMEM)) {
                    break;
                }
            }
            self.set_page_flags(page_flags());
        }
        let pages = pages?;

        // INVARIANT: These are the object's pages.
        backing.pages = Some(pages);
        backing.account(self.count(), 1);

        // Still possible, as the state does not change while `backing` is locked.
        self.update(|holders| holders.apply(Event::Populate))
            .inspect_err(|_| self.drop_pages(backing, false))
    }

    /// Increments the number of device mappings. `_backing` proves that the pages are locked; they
    /// must be present.
    pub(super) fn hold_map(&self, _backing: &Backing) {
        self.update(|holders| count(&holders.maps, true));
    }

    /// Undoes [`Base::hold_map()`]. Takes only the lock of the lists.
    pub(super) fn release_map(&self) {
        self.update(|holders| count(&holders.maps, false));
    }

    /// Increments the number of other holders of the pages. `_backing` proves that the pages are
    /// locked; they must be present.
    pub(super) fn hold_pin(&self, _backing: &Backing) {
        self.update(|holders| count(&holders.pins, true));
    }

    /// Undoes [`Base::hold_pin()`]. Takes only the lock of the lists.
    pub(super) fn release_pin(&self) {
        self.update(|holders| count(&holders.pins, false));
    }

    /// Brings the pages in and maps them for the device. May sleep and reclaim memory.
    ///
    /// Fails with `ENODEV` if unbind has undone the mapping: the object belongs to an earlier
    /// binding of the device and does not get a new mapping.
    pub(super) fn map_dma(&self, backing: &mut Backing, dev: &Device<Bound>) -> Result {
        if let Some(dma) = &backing.dma {
            return dma.sgt().map(|_| ()).ok_or(ENODEV);
        }

        self.get_pages(backing)?;
        let pages = backing.pages.ok_or(EINVAL)?;

        // SAFETY: The array has as many pages as the object. `drop_pages()` drops the mapping
        // first.
        let dma = unsafe { DmaMapping::new(self, dev, pages.as_ptr()) }?;

        // INVARIANT: It maps the object's pages.
        backing.dma = Some(dma);
        backing.flushed = true;
        Ok(())
    }

    /// Gives the pages back to shmem, `dirty` if their content is worth keeping.
    ///
    /// The caller must have changed the state and made sure that the pages are not mapped.
    fn drop_pages(&self, backing: &mut Backing, dirty: bool) {
        if self.is_imported() {
            return;
        }

        // Data that user space has written may still be in the caches.
        if let (true, Caching::Cached, Some(dma)) = (dirty, self.caching, &backing.dma) {
            dma.clean();
        }
        backing.dma = None;
        backing.flushed = false;
        backing.orphaned = false;

        backing.account(self.count(), -1);
        if let Some(pages) = backing.pages.take() {
            // SAFETY: By the type invariants, these are the object's pages. The function takes
            // ownership of the array.
            unsafe { bindings::drm_gem_put_pages(self.obj.get(), pages.as_ptr(), dirty, false) };
        }
    }

    /// Returns whether pages can be mapped for the CPU without further preparation.
    pub(super) fn is_cpu_ready(&self, backing: &Backing) -> bool {
        backing.pages.is_some()
            && (self.caching == Caching::Cached || backing.flushed || backing.orphaned)
    }

    /// Returns whether CPU mappings must be write-combined.
    pub(super) fn is_write_combined(&self, backing: &Backing) -> bool {
        self.caching == Caching::WriteCombined && !backing.orphaned
    }

    /// Brings the pages in and prepares them to be mapped for the CPU. May sleep.
    ///
    /// Pages that come out of shmem may have dirty lines in the CPU's caches. Before such a page is
    /// mapped write-combined, these have to be written back, which mapping it for a device that is
    /// not coherent does. Once the device is gone, coherency does not matter any more, and the
    /// mapping is cached instead.
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

    /// Removes all CPU mappings of user space. Page faults bring them back.
    ///
    /// This includes those through a dma-buf: `drm_gem_dmabuf_export()` gives its file the device's
    /// inode as well, where they have the same offset.
    pub(super) fn zap(&self) {
        // SAFETY: By the type invariants the object and its DRM device are valid; the inode lives
        // as long as the device.
        unsafe {
            let obj = self.obj.get();
            bindings::drm_vma_node_unmap(
                &raw mut (*obj).vma_node,
                (*(*(*obj).dev).anon_inode).i_mapping,
            )
        };
    }

    /// Purges or evicts the pages, as `event` says, if they are not held. Does not wait for the
    /// lock of the pages.
    ///
    /// Returns the number of pages that were released.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the pages are held, locked, or, for a purge, have content that is needed.
    pub(super) fn try_drop_pages(&self, event: Event) -> Result<usize> {
        let mut backing = self.backing.try_lock().ok_or(EBUSY)?;
        let resident = backing.pages.is_some();

        // Without pages, there may be content in shmem.
        if !resident && (event != Event::Purge || self.holders.state() != PageState::Evicted) {
            return Ok(0);
        }

        // From here on no new hold on the pages can be taken, as that needs the lock of `backing`.
        // Nor can `advise()` report purged content as present any more.
        self.update(|holders| holders.apply(event))?;

        if resident {
            self.zap();
            self.drop_pages(&mut backing, event != Event::Purge);
        }
        if event == Event::Purge {
            // SAFETY: An object that has or had pages has a file.
            unsafe {
                let inode = (*(*(*self.obj.get()).filp).f_mapping).host;
                bindings::shmem_truncate_range(inode, 0, u64::MAX)
            };
        }

        Ok(if resident { self.count() } else { 0 })
    }

    /// Records that the object is being exported: others may use its content, which is never given
    /// up from now on.
    pub(super) fn set_exported(&self) {
        self.update(|holders| {
            holders.exported.store(true, Relaxed);
            holders.dont_need.store(false, Relaxed);
        });
    }

    /// Creates a table of the pages for another driver, which frees it. The pages must be pinned.
    pub(super) fn pages_to_sg(&self) -> *mut bindings::sg_table {
        let backing = self.backing.lock();
        let (Some(pages), Ok(count)) = (backing.pages, self.count().try_into()) else {
            return EINVAL.to_ptr();
        };

        // SAFETY: By the type invariants of `Backing`, these are `count` valid pages. The object's
        // device is valid.
        unsafe { bindings::drm_prime_pages_to_sg((*self.obj.get()).dev, pages.as_ptr(), count) }
    }

    /// Returns a kernel mapping of all pages. May sleep and reclaim memory.
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

    /// Undoes [`Base::vmap()`].
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

        // Reclaim may have dropped the last reference, and must not wait for this lock. It cannot
        // be contended here, and lockdep does not treat a trylock as a wait.
        let dma = self.backing.try_lock().and_then(|mut backing| {
            if let Some(vaddr) = backing.vaddr.take() {
                // SAFETY: `vaddr` comes from `vmap()`. There are no users left.
                unsafe { bindings::vunmap(vaddr.as_ptr()) };
            }
            // The file is released as well: there is no content to keep, and no state.
            self.drop_pages(&mut backing, false);
            backing.dma.take()
        });

        // For an imported buffer this takes the exporter's reservation lock, which is taken before
        // the lock of the backing elsewhere.
        drop(dma);

        if self.is_imported() {
            // The table was unmapped with `dma`; only the attachment remains.
            //
            // SAFETY: The object was imported through `drm_gem_prime_import()`.
            unsafe { bindings::drm_prime_gem_destroy(obj, ptr::null_mut()) };
        }

        // SAFETY: The object is initialized and has no users left.
        unsafe { bindings::drm_gem_object_release(obj) };
    }
}
