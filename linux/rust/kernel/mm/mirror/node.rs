// SPDX-License-Identifier: GPL-2.0

//! A range as the notifier and the lists of its mirror know it.
//!
//! Everything that changes the pages of a range is here, and runs under the lock of the mirror,
//! which the notifier takes as well, in reclaim for instance. [`Node::populate`] allocates and
//! faults pages in before it takes that lock, and sleeps.

use super::{
    lost::LostPages,
    Access,
    Device,
    MapError,
    Teardown, //
};
use crate::{
    alloc::Flags,
    bindings,
    device::{
        self,
        Bound, //
    },
    devres::DevresItem,
    dma::DmaAddress,
    error::to_result,
    ffi::c_ulong,
    list::{
        impl_list_arc_safe,
        impl_list_item,
        List,
        ListArc,
        ListLinks, //
    },
    mm::MmWithUser,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    static_lock_class,
    sync::{
        aref::ARef,
        Arc,
        CondVar,
        LockClassKey,
        LockedBy,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    },
    types::Opaque, //
};
use core::{
    mem,
    ptr, //
};

/// The CPU keeps using the pages while the device has them, so the mapping must not need cache
/// maintenance or bounce buffers. Several ranges may contain the same page, and each maps it.
const ATTRS: c_ulong = (bindings::DMA_ATTR_REQUIRE_COHERENT
    | bindings::DMA_ATTR_DEBUGGING_IGNORE_CACHELINES) as c_ulong;

/// Returns the allocation flags for arrays with an entry for each page of a range.
///
/// User space chooses their size, and may have far less memory in the range: charge them to the
/// caller, and fail rather than invoke the OOM killer.
fn array_flags() -> Flags {
    GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN
}

/// The number of pages that are faulted in at once.
const PIECE: usize = 1024;

/// The list that a range is in, which tells whether the device has its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeList {
    /// In no list: not added yet, or revoked.
    Nowhere,
    /// In `stale`: the device does not have the pages. Left by validation or revocation.
    Stale,
    /// In `valid`: the device has the pages. Left when the memory changes, when the range is
    /// revoked, and on unbind.
    Valid,
    /// In `lost`: the device may still have the pages, which could not be taken from it. There are
    /// [`LostPages`]. Left when these are dropped, when the range is revoked, and on unbind.
    Lost,
    /// In `abandoned`: lost and revoked. Left when the [`LostPages`] are dropped, and on unbind.
    Abandoned,
}

/// The state that the lock of a mirror protects. Every range is in one list, except those that are
/// [`RangeList::Nowhere`].
pub(super) struct Lists<T: Device> {
    /// Whether the device is being unbound, or the mirror is gone: no range becomes valid any more.
    pub(super) closed: bool,
    /// The process whose memory this is. Only compared; the notifiers of the ranges keep it alive.
    pub(super) owner: *mut bindings::mm_struct,
    /// The number of ranges that were not revoked.
    pub(super) len: usize,
    /// The number of changes of ranges that wait for the device.
    pub(super) changing: usize,
    pub(super) stale: List<Node<T>>,
    pub(super) valid: List<Node<T>>,
    pub(super) lost: List<Node<T>>,
    pub(super) abandoned: List<Node<T>>,
    /// The number of [`LostPages`].
    pub(super) kept: usize,
    /// The remains of the mirror, as long as there are [`LostPages`] that have outlived it. They
    /// also keep this alive, so that it is never dropped by itself.
    pub(super) teardown: Option<DevresItem<Teardown<T>>>,
}

// SAFETY: `owner` is not dereferenced, and the rest can be sent.
unsafe impl<T: Device> Send for Lists<T> {}

impl<T: Device> Lists<T> {
    /// Takes all valid ranges from the device, and lets none become valid any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        while let Some(node) = Node::first(&mut self.valid) {
            node.take_away(self);
        }
    }

    fn list(&mut self, which: RangeList) -> Option<&mut List<Node<T>>> {
        match which {
            RangeList::Nowhere => None,
            RangeList::Stale => Some(&mut self.stale),
            RangeList::Valid => Some(&mut self.valid),
            RangeList::Lost => Some(&mut self.lost),
            RangeList::Abandoned => Some(&mut self.abandoned),
        }
    }
}

/// Returns the name and the key of the class of [`Shared::lists`].
///
/// Generic code has a copy of its literals in each crate that instantiates it, but one copy of its
/// statics. Lockdep requires one name for a key.
#[inline(never)]
fn lists_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"mm::Mirror", static_lock_class!())
}

/// Returns the name and the key of the class of [`Shared::settled`].
#[inline(never)]
fn settled_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"mm::Mirror::settled", static_lock_class!())
}

/// The part that a [`Mirror`](super::Mirror) and its ranges share.
#[pin_data]
pub(super) struct Shared<T: Device> {
    pub(super) dev: ARef<device::Device>,
    #[pin]
    pub(super) lists: Mutex<Lists<T>>,
    /// Notified when no change waits any more.
    #[pin]
    pub(super) settled: CondVar,
}

impl<T: Device> Shared<T> {
    /// Creates the shared part of a mirror without ranges. Sleeps.
    pub(super) fn new(dev: &device::Device<Bound>) -> Result<Arc<Self>> {
        let (name, key) = lists_class();
        let (settled_name, settled_key) = settled_class();

        Arc::pin_init(
            pin_init!(Self {
                dev: dev.into(),
                lists <- Mutex::new(
                    Lists {
                        closed: false,
                        owner: ptr::null_mut(),
                        len: 0,
                        changing: 0,
                        stale: List::new(),
                        valid: List::new(),
                        lost: List::new(),
                        abandoned: List::new(),
                        kept: 0,
                        teardown: None,
                    },
                    name,
                    key,
                ),
                settled <- CondVar::new(settled_name, settled_key),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Removes `changes` from the number of those that wait.
    pub(super) fn settle(&self, lists: &mut Lists<T>, changes: usize) {
        lists.changing -= changes;
        if lists.changing == 0 {
            self.settled.notify_all();
        }
    }
}

/// The state of a range that the lock of its mirror protects.
pub(super) struct RangeState {
    pub(super) list: RangeList,
    /// Whether it was revoked.
    pub(super) revoked: bool,
    /// The number of its changes that wait for the device.
    pub(super) changing: usize,
    /// When a change began that [`Node::finish`] stands for, and that has not ended.
    pub(super) finishing: Option<Instant<Monotonic>>,
    /// Whether the process was killed, and its memory goes.
    pub(super) killed: bool,
    /// Whether there are [`LostPages`] of the range.
    pub(super) kept: bool,
    /// The pages, as HMM knows them, while the range is valid or there are [`LostPages`].
    pub(super) pfns: KVVec<c_ulong>,
    /// Their DMA addresses, while the range is valid, lost or abandoned.
    pub(super) dma: KVVec<DmaAddress>,
}

/// A range, as the lists and the notifier know it.
///
/// # Invariants
///
/// - While the range is valid, the pages in `state` are those of the process, which thus are not
///   freed, and they are mapped for `shared.dev`. The notifier ends that before they change.
/// - While it is lost or abandoned, they are mapped, too. While there are [`LostPages`], each has a
///   reference owned by the node.
/// - `state.list` says which list of `shared` the node is in.
#[pin_data]
pub(super) struct Node<T: Device> {
    #[pin]
    links: ListLinks,
    pub(super) sub: Opaque<bindings::mmu_interval_notifier>,
    /// Part of the list of changes to finish, while [`RangeState::finishing`] is set.
    pub(super) finish: Opaque<bindings::mmu_interval_notifier_finish>,
    pub(super) shared: Arc<Shared<T>>,
    start: usize,
    /// Number of pages.
    pub(super) count: usize,
    pub(super) access: Access,
    pub(super) state: LockedBy<RangeState, Lists<T>>,
    pub(super) data: T,
}

impl_list_arc_safe! {
    impl{T: Device} ListArcSafe<0> for Node<T> { untracked; }
}
impl_list_item! {
    impl{T: Device} ListItem<0> for Node<T> { using ListLinks { self.links }; }
}

// SAFETY: `sub` may be used by any thread, and the rest can be sent.
unsafe impl<T: Device> Send for Node<T> {}

// SAFETY: `sub` is synchronised by C, `links` and `state` by the lock of the mirror.
unsafe impl<T: Device> Sync for Node<T> {}

impl<T: Device> Node<T> {
    /// Creates a node that is in no list, with its notifier not registered.
    pub(super) fn new(
        shared: &Arc<Shared<T>>,
        start: usize,
        count: usize,
        access: Access,
        data: T,
    ) -> Result<ListArc<Self>> {
        let state = RangeState {
            list: RangeList::Nowhere,
            revoked: false,
            changing: 0,
            finishing: None,
            killed: false,
            kept: false,
            pfns: KVVec::new(),
            dma: KVVec::from_elem(0, count, array_flags())?,
        };

        ListArc::pin_init(
            try_pin_init!(Self {
                links <- ListLinks::new(),
                sub: Opaque::zeroed(),
                finish: Opaque::zeroed(),
                state: LockedBy::new(&shared.lists, state),
                shared: shared.clone(),
                start,
                count,
                access,
                data,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the first node of a list.
    pub(super) fn first(list: &mut List<Self>) -> Option<Arc<Self>> {
        list.cursor_front()
            .peek_next()
            .map(|next| next.arc().into())
    }

    /// Takes the node out of its list. The caller must add it to the list `to`.
    fn take_out(&self, lists: &mut Lists<T>, to: RangeList) -> Option<ListArc<Self>> {
        let old = mem::replace(&mut self.state.access_mut(lists).list, to);

        match lists.list(old) {
            // SAFETY: By the type invariants it is in this list.
            Some(list) => unsafe { list.remove(self) },
            None => None,
        }
    }

    /// Moves the node from its list to the list `to`.
    pub(super) fn move_to(&self, lists: &mut Lists<T>, to: RangeList) {
        let item = self.take_out(lists, to);

        if let (Some(item), Some(list)) = (item, lists.list(to)) {
            list.push_back(item);
        }
        // A node that leaves the lists is not freed here: the caller has a reference.
    }

    /// Undoes the DMA mapping of a range that is valid, lost or abandoned.
    pub(super) fn unmap_dma(&self, lists: &mut Lists<T>) {
        let state = self.state.access_mut(lists);

        self.unmap_pages(&state.dma);
    }

    /// Undoes the DMA mapping of these pages, which `Node::map_page()` has created.
    fn unmap_pages(&self, dma: &[DmaAddress]) {
        for &address in dma {
            // SAFETY: The page is mapped, so the device is bound.
            unsafe {
                bindings::dma_unmap_phys(
                    self.shared.dev.as_raw(),
                    address,
                    PAGE_SIZE,
                    self.access.direction().into(),
                    ATTRS,
                );
            }
        }
    }

    /// Marks the pages of a range dirty that is valid, or about to be, since the CPU's page tables
    /// do not record writes of the device.
    fn mark_dirty(&self, lists: &mut Lists<T>) {
        if self.access != Access::ReadWrite {
            return;
        }
        for &pfn in self.state.access_mut(lists).pfns.iter() {
            // SAFETY: The page belongs to the process: it was neither freed nor removed from its
            // file, which the notifier would have announced. This does not sleep; it is called in
            // the same way when a page table entry is cleared.
            unsafe { bindings::set_page_dirty(bindings::hmm_pfn_to_page(pfn)) };
        }
    }

    /// Maps a page for DMA.
    ///
    /// # Errors
    ///
    /// `EFAULT` if a device must not access it; `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `pfn` must be the HMM entry of a page that is not freed before it is unmapped. The device
    /// must be bound until then.
    unsafe fn map_page(&self, pfn: c_ulong) -> Result<DmaAddress> {
        // SAFETY: By the safety requirements.
        unsafe {
            let page = bindings::hmm_pfn_to_page(pfn);

            // Memory of another device.
            if bindings::is_pci_p2pdma_page(page) {
                return Err(EFAULT);
            }
            // Memory that is hidden from everything but the process, even from the kernel. The
            // folio keeps its mapping as long as the page is current.
            if bindings::page_is_secretmem(page) {
                return Err(EFAULT);
            }

            let dev = self.shared.dev.as_raw();
            let address = bindings::dma_map_phys(
                dev,
                bindings::hmm_pfn_to_phys(pfn),
                PAGE_SIZE,
                self.access.direction().into(),
                ATTRS,
            );

            match bindings::dma_mapping_error(dev, address) {
                0 => Ok(address),
                _ => Err(ENOMEM),
            }
        }
    }

    /// Takes the pages of a valid range from the device. Afterwards the range is stale, or lost if
    /// that fails.
    pub(super) fn take_away(&self, lists: &mut Lists<T>) {
        let result = self.data.unmap();

        self.mark_dirty(lists);
        if result.is_err() {
            self.lose(lists);
        } else {
            self.unmap_dma(lists);
            self.move_to(lists, RangeList::Stale);
        }
    }

    /// Passes the pages, which the device may still access, to the driver to keep.
    fn lose(&self, lists: &mut Lists<T>) {
        let state = self.state.access_mut(lists);

        for &pfn in state.pfns.iter() {
            // SAFETY: The range is valid, or about to be, so the page was not freed.
            unsafe { bindings::get_page(bindings::hmm_pfn_to_page(pfn)) };
        }
        state.kept = true;
        if let Some(item) = self.take_out(lists, RangeList::Lost) {
            let pages = LostPages::new(item.clone_arc());

            lists.kept += 1;
            lists.lost.push_back(item);
            self.data.keep(pages);
        }
    }

    /// Makes a stale range valid. `mm` must be that of the range.
    ///
    /// Also returns `ENOMEM` if the memory keeps changing for longer than `patience`.
    pub(super) fn populate(&self, mm: &MmWithUser, patience: Delta) -> Result {
        // SAFETY: Written before the node was shared.
        if unsafe { (*self.sub.get()).mm } != mm.as_raw() {
            return Err(EPERM);
        }

        let mut pfns = KVVec::from_elem(0, self.count, array_flags())?;
        let mut setback = None;
        loop {
            if let Some(seq) = self.fault_in(&mut pfns)? {
                let mut lists = self.shared.lists.lock();

                if lists.closed {
                    return Err(ENODEV);
                }
                if self.state.access_mut(&mut lists).list != RangeList::Stale {
                    return Ok(());
                }
                // SAFETY: The callback takes the same lock.
                if !unsafe { bindings::mmu_interval_read_retry(self.sub.get(), seq) } {
                    return self.show(&mut lists, &mut pfns);
                }
            }

            if kernel::current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            // If the first pages are always reclaimed while the last are faulted in, there is not
            // enough memory.
            let setback: &mut Instant<Monotonic> = setback.get_or_insert_with(Instant::now);
            if setback.elapsed() >= patience {
                return Err(ENOMEM);
            }
        }
    }

    /// Faults in all pages. Returns the sequence number of the notifier for which they are current,
    /// or [`None`] if something has changed in the meantime.
    ///
    /// The caller must be in the process of the range.
    fn fault_in(&self, pfns: &mut [c_ulong]) -> Result<Option<c_ulong>> {
        let timeout = msecs_to_jiffies(bindings::HMM_RANGE_DEFAULT_TIMEOUT);
        let mut start = self.start;
        let mut seq = None;

        for piece in pfns.chunks_mut(PIECE) {
            // Cannot overflow: this is within the range, which does not wrap.
            let end = start + (piece.len() << PAGE_SHIFT);
            let mut range = bindings::hmm_range {
                notifier: self.sub.get(),
                notifier_seq: 0,
                start,
                end,
                hmm_pfns: piece.as_mut_ptr(),
                default_flags: self.access.request(),
                pfn_flags_mask: 0,
                dev_private_owner: ptr::null_mut(),
            };

            // SAFETY: The notifier is registered for a range of the process's memory that contains
            // this one, and the array has an entry for each page.
            match to_result(unsafe {
                bindings::hmm_range_fault_unlocked_timeout(&mut range, timeout)
            }) {
                Ok(()) => (),
                Err(EBUSY) => return Ok(None),
                // The memory may be read, but not written.
                Err(EPERM) => return Err(EFAULT),
                Err(e) => return Err(e),
            }
            // The earlier pieces may be outdated.
            if *seq.get_or_insert(range.notifier_seq) != range.notifier_seq {
                return Ok(None);
            }
            start = end;
        }
        Ok(seq)
    }

    /// Gives the device access to the pages of a stale range, which must be current.
    fn show(&self, lists: &mut Lists<T>, pfns: &mut KVVec<c_ulong>) -> Result {
        let RangeState { pfns: own, dma, .. } = self.state.access_mut(lists);

        // The caller frees the old array, with the lock released.
        mem::swap(own, pfns);
        for (index, &pfn) in own.iter().enumerate() {
            // SAFETY: The page is current, and the notifier needs our lock before that changes. The
            // device is bound: unbind needs our lock as well, and has not had it yet.
            let address = match unsafe { self.map_page(pfn) } {
                Ok(address) => address,
                Err(e) => {
                    self.unmap_pages(dma.get(..index).unwrap_or_default());
                    return Err(e);
                }
            };
            if let Some(place) = dma.get_mut(index) {
                *place = address;
            }
        }

        match self.data.map(dma) {
            Ok(()) => {
                // INVARIANT: The pages are current and mapped.
                self.move_to(lists, RangeList::Valid);
                Ok(())
            }
            Err(MapError { error, leak }) => {
                // Earlier work may already have written to the pages.
                self.mark_dirty(lists);
                match leak {
                    true => self.lose(lists),
                    false => self.unmap_dma(lists),
                }
                Err(error)
            }
        }
    }
}
