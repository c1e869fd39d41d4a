// SPDX-License-Identifier: GPL-2.0

//! A range as the notifier and the lists of its mirror know it.
//!
//! All that happens to the pages of a range happens here, under the lock of the mirror.

use super::{
    Access,
    Device,
    MapError, //
};
use crate::{
    bindings,
    device::{
        self,
        Bound, //
    },
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
    time::msecs_to_jiffies,
    types::Opaque, //
};
use core::{
    mem,
    ptr, //
};

/// Several ranges may have the same page, and each maps it.
const ATTRS: c_ulong = bindings::DMA_ATTR_DEBUGGING_IGNORE_CACHELINES as c_ulong;

/// What a range is, and in which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In none: not added yet, or removed.
    Nowhere,
    /// In `stale`: the device does not have the pages.
    Stale,
    /// In `valid`: it does.
    Valid,
    /// In `lost`: it does, or may, and cannot be stopped. The pages have been leaked.
    Lost,
}

/// What the lock of a mirror guards. Every range but those which are nowhere is in one list.
pub(super) struct Lists<T: Device> {
    /// The device is being unbound.
    pub(super) closed: bool,
    /// Whose memory the ranges are. Only compared; the ranges keep it.
    pub(super) owner: *mut bindings::mm_struct,
    /// Number of ranges.
    pub(super) len: usize,
    /// Number of changes of ranges that wait for the device.
    pub(super) changing: usize,
    pub(super) stale: List<Node<T>>,
    pub(super) valid: List<Node<T>>,
    pub(super) lost: List<Node<T>>,
}

// SAFETY: `owner` is not dereferenced, and the rest can be sent.
unsafe impl<T: Device> Send for Lists<T> {}

impl<T: Device> Lists<T> {
    fn list(&mut self, place: Place) -> Option<&mut List<Node<T>>> {
        match place {
            Place::Nowhere => None,
            Place::Stale => Some(&mut self.stale),
            Place::Valid => Some(&mut self.valid),
            Place::Lost => Some(&mut self.lost),
        }
    }
}

/// The name and the key of the class of [`Shared::lists`].
///
/// Generic code has a copy of its literals in each crate that instantiates it, but one copy of its
/// statics. Lockdep insists on one name for a key.
#[inline(never)]
fn lists_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"mm::Mirror", static_lock_class!())
}

/// The same of [`Shared::settled`].
#[inline(never)]
fn settled_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"mm::Mirror::settled", static_lock_class!())
}

/// What a [`Mirror`] and its ranges share.
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
                    },
                    name,
                    key,
                ),
                settled <- CondVar::new(settled_name, settled_key),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes so many changes from those that wait.
    pub(super) fn settle(&self, lists: &mut Lists<T>, changes: usize) {
        lists.changing -= changes;
        if lists.changing == 0 {
            self.settled.notify_all();
        }
    }
}

/// What the lock of its mirror guards of a range.
pub(super) struct State {
    pub(super) place: Place,
    /// Nobody wants it any more.
    pub(super) revoked: bool,
    /// Number of its changes that wait for the device.
    pub(super) changing: usize,
    /// The pages, as HMM knows them, while the range is valid or lost.
    pub(super) pfns: KVVec<c_ulong>,
    /// Their DMA addresses, while the range is valid or lost.
    pub(super) dma: KVVec<DmaAddress>,
}

/// A range, as the lists and the notifier know it.
///
/// # Invariants
///
/// - While the range is valid, the pages in `state` are those of the process, which thus are not
///   freed, and they are mapped for `shared.dev`. The notifier ends that before they change.
/// - While it is lost, they are mapped, too, and have a reference that is never dropped.
/// - `state.place` says which list of `shared` the node is in.
#[pin_data]
pub(super) struct Node<T: Device> {
    #[pin]
    links: ListLinks,
    pub(super) sub: Opaque<bindings::mmu_interval_notifier>,
    pub(super) shared: Arc<Shared<T>>,
    start: usize,
    /// Number of pages.
    pub(super) count: usize,
    pub(super) access: Access,
    pub(super) state: LockedBy<State, Lists<T>>,
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
    pub(super) const OPS: bindings::mmu_interval_notifier_ops =
        bindings::mmu_interval_notifier_ops {
            invalidate: Some(Self::invalidate_callback),
            invalidate_start: None,
            invalidate_finish: None,
        };

    /// Makes a node that is nowhere, without a notifier.
    pub(super) fn new(
        shared: &Arc<Shared<T>>,
        start: usize,
        count: usize,
        access: Access,
        data: T,
    ) -> Result<ListArc<Self>> {
        let state = State {
            place: Place::Nowhere,
            revoked: false,
            changing: 0,
            pfns: KVVec::new(),
            dma: KVVec::from_elem(0, count, GFP_KERNEL)?,
        };

        ListArc::pin_init(
            try_pin_init!(Self {
                links <- ListLinks::new(),
                sub: Opaque::zeroed(),
                state: LockedBy::new(&shared.lists, state),
                shared: shared.clone(),
                start,
                count,
                access,
                data,
            }? Error),
            GFP_KERNEL,
        )
    }

    /// The first node of a list.
    pub(super) fn first(list: &mut List<Self>) -> Option<Arc<Self>> {
        list.cursor_front()
            .peek_next()
            .map(|next| next.arc().into())
    }

    /// Moves the node from the list that it is in to another.
    pub(super) fn move_to(&self, lists: &mut Lists<T>, place: Place) {
        let old = mem::replace(&mut self.state.access_mut(lists).place, place);

        let item = match lists.list(old) {
            // SAFETY: By the type invariants it is in this list.
            Some(list) => unsafe { list.remove(self) },
            None => None,
        };
        if let (Some(item), Some(list)) = (item, lists.list(place)) {
            list.push_back(item);
        }
        // A node that leaves the lists is not freed here: the caller has a reference.
    }

    /// Undoes the DMA mapping of a range that is valid or lost.
    pub(super) fn unmap_dma(&self, lists: &mut Lists<T>) {
        let state = self.state.access_mut(lists);

        self.unmap_pages(&state.pfns, &state.dma);
    }

    /// Undoes the DMA mapping of these pages, which `Node::map_page()` has made.
    fn unmap_pages(&self, pfns: &[c_ulong], dma: &[DmaAddress]) {
        for (&pfn, &address) in pfns.iter().zip(dma) {
            // SAFETY: The page is mapped, so the device is bound, and the page was not freed.
            unsafe {
                bindings::dma_unmap_page_attrs(
                    self.shared.dev.as_raw(),
                    address,
                    PAGE_SIZE,
                    self.access.direction().into(),
                    ATTRS,
                );
                // The CPU's page tables do not know what the device has written. Not blocking, as
                // when an entry of theirs is cleared.
                if self.access == Access::ReadWrite {
                    bindings::set_page_dirty(bindings::hmm_pfn_to_page(pfn));
                }
            }
        }
    }

    /// Maps a page for DMA.
    ///
    /// # Safety
    ///
    /// `pfn` must be what HMM says of a page that is not freed before it is unmapped. The device must
    /// be bound until then.
    unsafe fn map_page(&self, pfn: c_ulong) -> Result<DmaAddress> {
        // SAFETY: By the safety requirements.
        unsafe {
            let page = bindings::hmm_pfn_to_page(pfn);

            // The memory of another device.
            if bindings::is_pci_p2pdma_page(page) {
                return Err(EFAULT);
            }
            let dev = self.shared.dev.as_raw();
            let address = bindings::dma_map_page_attrs(
                dev,
                page,
                0,
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

    /// Takes the pages of a valid range from the device: it is stale then, or lost.
    pub(super) fn take_away(&self, lists: &mut Lists<T>) {
        if self.data.unmap().is_err() {
            self.lose(lists);
        } else {
            self.unmap_dma(lists);
            self.move_to(lists, Place::Stale);
        }
    }

    /// Leaks the pages, which the device may access for ever.
    fn lose(&self, lists: &mut Lists<T>) {
        for &pfn in self.state.access_mut(lists).pfns.iter() {
            // SAFETY: The range is valid, or about to be, so the page was not freed.
            unsafe { bindings::get_page(bindings::hmm_pfn_to_page(pfn)) };
        }
        self.move_to(lists, Place::Lost);
    }

    /// Makes a stale range valid. `mm` must be that of the range.
    pub(super) fn populate(&self, mm: &MmWithUser) -> Result {
        // SAFETY: Written before the node was shared.
        if unsafe { (*self.sub.get()).mm } != mm.as_raw() {
            return Err(EPERM);
        }

        let mut pfns = KVVec::from_elem(0, self.count, GFP_KERNEL)?;
        loop {
            let mut range = bindings::hmm_range {
                notifier: self.sub.get(),
                notifier_seq: 0,
                start: self.start,
                end: self.start + (self.count << PAGE_SHIFT),
                hmm_pfns: pfns.as_mut_ptr(),
                default_flags: self.access.request(),
                pfn_flags_mask: 0,
                dev_private_owner: ptr::null_mut(),
            };
            let timeout = msecs_to_jiffies(bindings::HMM_RANGE_DEFAULT_TIMEOUT);

            // SAFETY: The notifier is registered for this range of `mm`, which has users, and the
            // array has an entry for each page.
            to_result(unsafe { bindings::hmm_range_fault_unlocked_timeout(&mut range, timeout) })
                .map_err(|e| match e {
                // It may be read, but not written.
                EPERM => EFAULT,
                EBUSY => EAGAIN,
                e => e,
            })?;

            let mut lists = self.shared.lists.lock();
            if lists.closed {
                return Err(ENODEV);
            }
            if self.state.access_mut(&mut lists).place != Place::Stale {
                return Ok(());
            }
            // SAFETY: The callback takes the same lock.
            if !unsafe { bindings::mmu_interval_read_retry(self.sub.get(), range.notifier_seq) } {
                return self.show(&mut lists, &mut pfns);
            }
            drop(lists);

            if kernel::current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
        }
    }

    /// Shows the device the pages of a stale range, which are current.
    fn show(&self, lists: &mut Lists<T>, pfns: &mut KVVec<c_ulong>) -> Result {
        let State { pfns: own, dma, .. } = self.state.access_mut(lists);

        // What was there before is freed by the caller, with the lock released.
        mem::swap(own, pfns);
        for (index, &pfn) in own.iter().enumerate() {
            // SAFETY: The page is current, and the notifier needs our lock before that changes.
            // Unbind does as well before it ends, and has not had it yet.
            let address = match unsafe { self.map_page(pfn) } {
                Ok(address) => address,
                Err(e) => {
                    self.unmap_pages(own, dma.get(..index).unwrap_or_default());
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
                self.move_to(lists, Place::Valid);
                Ok(())
            }
            Err(MapError { error, leak: true }) => {
                self.lose(lists);
                Err(error)
            }
            Err(MapError { error, leak: false }) => {
                self.unmap_dma(lists);
                Err(error)
            }
        }
    }

    /// The memory changes. Returns whether it may.
    ///
    /// # Safety
    ///
    /// To be called by the notifier of a node, with valid arguments.
    unsafe extern "C" fn invalidate_callback(
        sub: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        cur_seq: c_ulong,
    ) -> bool {
        // SAFETY: The notifier is in a node, which is not freed before the notifier was removed, and
        // that waits for us.
        let this = unsafe { &*crate::container_of!(Opaque::cast_from(sub), Self, sub) };
        // SAFETY: The range is valid.
        let may_block = unsafe { bindings::mmu_notifier_range_blockable(range) };
        let lists = match may_block {
            true => Some(this.shared.lists.lock()),
            false => this.shared.lists.try_lock(),
        };
        let Some(mut lists) = lists else {
            return false;
        };

        // SAFETY: This is the notifier's number, and the lock is that of `populate()`.
        unsafe { bindings::mmu_interval_set_seq(sub, cur_seq) };
        if this.state.access_mut(&mut lists).place != Place::Valid {
            return true;
        }
        if this.data.quiesce(false) {
            this.take_away(&mut lists);
            return true;
        }
        if !may_block {
            return false;
        }

        // Nothing is published meanwhile, and the range cannot become valid anew.
        this.state.access_mut(&mut lists).changing += 1;
        lists.changing += 1;
        drop(lists);
        let done = this.data.quiesce(true);
        let mut lists = this.shared.lists.lock();
        let state = this.state.access_mut(&mut lists);

        if !state.revoked {
            state.changing -= 1;
            this.shared.settle(&mut lists, 1);
        }
        // It may have been taken away by somebody else.
        if this.state.access_mut(&mut lists).place != Place::Valid {
            return true;
        }
        this.take_away(&mut lists);
        if !done {
            // The change of the next range would wait as long, for the same work.
            while let Some(node) = Self::first(&mut lists.valid) {
                node.take_away(&mut lists);
            }
        }
        true
    }
}
