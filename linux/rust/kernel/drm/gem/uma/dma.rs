// SPDX-License-Identifier: GPL-2.0 OR MIT

//! DMA mappings of buffers, which are undone on unbind or when their owner drops them, whichever
//! comes first.
//!
//! A [`Devres`](kernel::devres::Devres) for each buffer would do the same, but its removal walks
//! the list of all resources of the device: with ten thousand buffers, freeing them would take time
//! proportional to the square of that. Here each device has one list ([`DmaSpace`]) from which a
//! mapping removes itself in constant time, and one resource that empties the list on unbind.
//!
//! Undoing a mapping for a device that is not coherent drops the CPU's cache lines of the pages. To
//! keep the content, these are written back first, and the CPU must not write in between: its
//! mappings are removed before that, and kept from coming back.
//!
//! Locks: that of an object's pages, then that of one mapping, held while the mapping is undone,
//! and the list's spinlock, held only for linking and unlinking. The owner of a mapping undoes it
//! before unlinking it, so that unbind either still finds it in the list and waits for its lock, or
//! has nothing left to do.
//!
//! Process context; may sleep. Undoing the mapping of an imported buffer takes the reservation lock
//! of its exporter, inside the lock of that mapping.

use super::{
    base::Base,
    groups::Groups,
    lru::Lrus,
    Caching, //
};
use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    devres,
    dma::DataDirection,
    error::to_result,
    list::{
        impl_list_arc_safe,
        impl_list_item,
        List,
        ListArc,
        ListLinks, //
    },
    mm::shrinker,
    new_mutex,
    new_spinlock,
    page::PAGE_SHIFT,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        SpinLock, //
    },
    types::Opaque, //
};

/// The DMA mappings of the buffers of one device.
///
/// A driver creates one in `probe()`, before the first buffer, and provides it to the buffers of
/// one DRM device through [`ObjectOps::dma_space()`](super::ObjectOps::dma_space). When the device
/// is unbound, all remaining DMA mappings and mappings of imported buffers are undone before the
/// device's resources are released.
pub struct DmaSpace(Arc<DmaSpaceInner>);

impl DmaSpace {
    /// Creates an empty space for `dev`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &Device<Bound>) -> Result<Self> {
        let space = Arc::pin_init(
            pin_init!(DmaSpaceInner {
                dev: dev.into(),
                maps <- new_spinlock!(
                    Maps {
                        list: List::new(),
                        closed: false,
                    },
                    "uma::DmaSpace::maps"
                ),
                lrus <- Lrus::new(),
            }),
            GFP_KERNEL,
        )?;

        devres::register(dev, Teardown(space.clone()), GFP_KERNEL)?;

        Ok(Self(space))
    }

    /// Makes memory management call a shrinker, which must be aware of control groups, when memory
    /// of a control group is wanted that has buffers here.
    pub fn set_shrinker(&self, shrinker: shrinker::Id) {
        self.0.groups().set_shrinker(shrinker);
    }

    /// Returns the part that mappings refer to.
    pub(super) fn inner(&self) -> &Arc<DmaSpaceInner> {
        &self.0
    }

    /// Undoes all mappings, as unbind does.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn undo_all(&self) {
        drop(Teardown(self.0.clone()));
    }
}

/// The part that a [`DmaSpace`] and the mappings in it share.
#[pin_data]
pub(super) struct DmaSpaceInner {
    /// The device that the mappings are for.
    dev: ARef<Device>,
    #[pin]
    maps: SpinLock<Maps>,
    /// The lists of the buffers that the mappings belong to.
    #[pin]
    lrus: Lrus,
}

/// The list of mappings.
struct Maps {
    list: List<DmaMap>,
    /// Whether the device is being unbound, so that nothing may be added.
    closed: bool,
}

impl DmaSpaceInner {
    /// Returns the device that the mappings are for.
    pub(super) fn dev(&self) -> &Device {
        &self.dev
    }

    /// Returns the control groups that pay for the buffers.
    pub(super) fn groups(&self) -> &Groups {
        &self.lrus.groups
    }

    /// Returns the lists of the buffers.
    pub(super) fn lrus(&self) -> &Lrus {
        &self.lrus
    }

    /// Returns whether `dev` is the device that the mappings are for.
    pub(super) fn is_for(&self, dev: &Device<Bound>) -> bool {
        self.dev.as_raw() == dev.as_raw()
    }

    fn add(&self, item: ListArc<DmaMap>) -> Result<(), ListArc<DmaMap>> {
        let mut maps = self.maps.lock();
        if maps.closed {
            return Err(item);
        }
        maps.list.push_back(item);
        Ok(())
    }

    fn remove(&self, item: &DmaMap) {
        // SAFETY: Only `DmaSpaceInner::add()` links a `DmaMap`, and only into the space of its
        // `DmaMapping`, which is the caller.
        let item = unsafe { self.maps.lock().list.remove(item) };

        // This may be the last reference: drop it after the lock was released.
        drop(item);
    }

    /// Takes a mapping out of the list, with a reference to the object whose pages it maps, unless
    /// that is already being freed or the mapping is an import. Nothing can be added afterwards.
    fn pop(&self) -> Option<(ListArc<DmaMap>, Option<Owner>)> {
        let mut maps = self.maps.lock();
        maps.closed = true;
        let map = maps.list.pop_front()?;
        let owner = match &map.table {
            // SAFETY: The memory of the object is valid: before it is freed, its mapping is removed
            // from the list, which takes the lock that we hold.
            Table::Pages(_, obj) => unsafe { Owner::get(*obj) },
            Table::Import { .. } => None,
        };

        Some((map, owner))
    }
}

/// A reference to the object whose pages are mapped.
///
/// # Invariants
///
/// The pointer is to the GEM object of a [`Base`], and the reference is ours.
struct Owner(*mut bindings::drm_gem_object);

impl Owner {
    /// Takes a reference, unless the last one was dropped.
    ///
    /// # Safety
    ///
    /// `obj` must be the GEM object of a [`Base`], the memory of which is valid.
    unsafe fn get(obj: *mut bindings::drm_gem_object) -> Option<Self> {
        // SAFETY: By the safety requirements.
        let got = unsafe { bindings::kref_get_unless_zero(&raw mut (*obj).refcount) } != 0;

        // INVARIANT: The reference was taken above.
        got.then_some(Self(obj))
    }

    fn base(&self) -> &Base {
        // SAFETY: By the type invariants.
        unsafe { Base::from_raw(self.0) }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::drm_gem_object_put(self.0) };
    }
}

/// Undoes all mappings of a space when its device is unbound.
struct Teardown(Arc<DmaSpaceInner>);

impl Drop for Teardown {
    fn drop(&mut self) {
        while let Some((map, owner)) = self.0.pop() {
            // While this lock is held, page faults cannot restore the CPU mappings of user space.
            // They will later.
            let _backing = owner.as_ref().map(|owner| {
                let backing = owner.base().backing.lock();

                if owner.base().caching == Caching::Cached {
                    owner.base().zap();
                    map.clean(&self.0);
                }
                backing
            });
            map.unmap(&self.0);
        }
    }
}

/// A scatterlist table.
///
/// # Invariants
///
/// The table is valid.
struct SgTable(Opaque<bindings::sg_table>);

impl Drop for SgTable {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the table is valid. It is not mapped: the mapping is
        // undone first.
        unsafe { bindings::sg_free_table(self.0.get()) };
    }
}

/// The memory that is mapped.
enum Table {
    /// Pages of the object with this GEM object.
    Pages(SgTable, *mut bindings::drm_gem_object),
    /// A dma-buf of another driver; the table belongs to the exporter and exists while it is
    /// mapped.
    Import {
        attach: *mut bindings::dma_buf_attachment,
        sgt: *mut bindings::sg_table,
    },
}

/// One DMA mapping.
///
/// # Invariants
///
/// While `mapped` is true, the table is mapped for the device of the space that the `DmaMap` was
/// created for; for `Table::Import`, `attach` and `sgt` are valid.
#[pin_data]
struct DmaMap {
    #[pin]
    links: ListLinks,
    /// Written under `undo`, but also read without it: as long as the device is bound, only the
    /// owner clears it, when it is dropped.
    mapped: Atomic<bool>,
    /// Held while the mapping is undone.
    #[pin]
    undo: Mutex<()>,
    table: Table,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for DmaMap { untracked; }
}
impl_list_item! {
    impl ListItem<0> for DmaMap { using ListLinks { self.links }; }
}

// SAFETY: The pointers are to objects that can be used from any thread, and are used under a lock.
unsafe impl Send for DmaMap {}

// SAFETY: All shared access to mutable fields is atomic or under a lock.
unsafe impl Sync for DmaMap {}

impl DmaMap {
    fn new(table: Table, undo: impl PinInit<Mutex<()>>) -> Result<ListArc<Self>> {
        // INVARIANT: Nothing is mapped yet.
        ListArc::pin_init(
            try_pin_init!(Self {
                links <- ListLinks::new(),
                mapped: Atomic::new(false),
                undo <- undo,
                table,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn sgt(&self) -> *mut bindings::sg_table {
        match &self.table {
            Table::Pages(sgt, _) => sgt.0.get(),
            Table::Import { sgt, .. } => *sgt,
        }
    }

    /// Writes back the CPU's cache lines of the pages, if they are still mapped.
    fn clean(&self, space: &DmaSpaceInner) {
        let _undo = self.undo.lock();

        if let (Table::Pages(sgt, _), true) = (&self.table, self.mapped.load(Relaxed)) {
            // SAFETY: As in `unmap()`. The table is mapped for both directions.
            unsafe {
                bindings::dma_sync_sgtable_for_device(
                    space.dev.as_raw(),
                    sgt.0.get(),
                    DataDirection::ToDevice.into(),
                )
            };
        }
    }

    /// Undoes the mapping, unless that was already done.
    fn unmap(&self, space: &DmaSpaceInner) {
        let _undo = self.undo.lock();
        if !self.mapped.xchg(false, Relaxed) {
            return;
        }

        match &self.table {
            // SAFETY: By the type invariants, the table is mapped for this device. The device is
            // bound: unbind waits for `undo`, which we hold, before it ends.
            Table::Pages(sgt, _) => unsafe {
                bindings::dma_unmap_sgtable(
                    space.dev.as_raw(),
                    sgt.0.get(),
                    DataDirection::Bidirectional.into(),
                    0,
                )
            },
            // SAFETY: By the type invariants, the pointers are valid and the attachment is mapped.
            Table::Import { attach, sgt } => unsafe {
                bindings::dma_buf_unmap_attachment_unlocked(
                    *attach,
                    *sgt,
                    DataDirection::Bidirectional.into(),
                )
            },
        }
    }
}

/// The owner of a DMA mapping. Dropping it undoes the mapping, unless unbind already did.
///
/// Dropping may sleep.
pub(super) struct DmaMapping {
    map: Arc<DmaMap>,
    space: Arc<DmaSpaceInner>,
}

impl DmaMapping {
    /// Maps the pages of an object for `dev`, for both directions.
    ///
    /// # Safety
    ///
    /// `pages` must point to an array of as many valid pages as `base` has, which stay valid as
    /// long as the returned mapping exists. The mapping must be dropped before `base` is.
    pub(super) unsafe fn new(
        base: &Base,
        dev: &Device<Bound>,
        pages: *mut *mut bindings::page,
    ) -> Result<Self> {
        let (space, count) = (&base.space, base.count());

        if count == 0 || !space.is_for(dev) {
            return Err(EINVAL);
        }

        // SAFETY: `dev.as_raw()` is a valid pointer to a `struct device`.
        let max_segment = match unsafe { bindings::dma_max_mapping_size(dev.as_raw()) } {
            0 => u32::MAX,
            max => u32::try_from(max).unwrap_or(u32::MAX),
        };

        let sgt = Opaque::zeroed();
        // SAFETY: `sgt` is valid for writing, the caller promises `count` valid pages, and `count`
        // is not 0.
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                sgt.get(),
                pages,
                count.try_into()?,
                0,
                count << PAGE_SHIFT,
                max_segment,
                // As for the pages, do not invoke the OOM killer.
                (GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN).as_raw(),
            )
        })?;

        // INVARIANT: The table was created above.
        let sgt = SgTable(sgt);

        // The lock class differs from that of imported buffers: the exporter's reservation lock
        // nests inside the latter, while this one may nest inside our own reservation lock.
        let table = Table::Pages(sgt, base.obj.get());
        let item = DmaMap::new(table, new_mutex!((), "uma::DmaMap::undo"))?;

        // SAFETY: The table is valid and not mapped, `dev` is bound.
        to_result(unsafe {
            bindings::dma_map_sgtable(
                dev.as_raw(),
                item.sgt(),
                DataDirection::Bidirectional.into(),
                0,
            )
        })?;
        // INVARIANT: The table was mapped above for the device of `space`.
        item.mapped.store(true, Relaxed);

        Self::link(space, item)
    }

    /// Prepares to own the mapping `sgt` of `attach`, a dma-buf that was mapped for the device of
    /// `space`.
    pub(super) fn prepare_import(
        space: &Arc<DmaSpaceInner>,
        attach: *mut bindings::dma_buf_attachment,
        sgt: *mut bindings::sg_table,
    ) -> Result<Unlinked> {
        let item = DmaMap::new(
            Table::Import { attach, sgt },
            new_mutex!((), "uma::DmaMap::undo (imported)"),
        )?;

        Ok(Unlinked {
            item,
            space: space.clone(),
        })
    }

    fn link(space: &Arc<DmaSpaceInner>, item: ListArc<DmaMap>) -> Result<Self> {
        let map = item.clone_arc();
        let this = Self {
            map,
            space: space.clone(),
        };

        // On failure, dropping `this` undoes the mapping.
        space.add(item).map_err(|_| ENODEV)?;
        Ok(this)
    }

    /// Returns the mapped table, or [`None`] if unbind undid the mapping.
    ///
    /// The table stays mapped as long as `self` lives and the device is bound.
    pub(super) fn sgt(&self) -> Option<*mut bindings::sg_table> {
        self.map.mapped.load(Relaxed).then(|| self.map.sgt())
    }
}

impl DmaMapping {
    /// Writes back the CPU's cache lines of the pages, so that undoing the mapping does not lose
    /// them. May sleep.
    pub(super) fn clean(&self) {
        self.map.clean(&self.space);
    }
}

impl Drop for DmaMapping {
    fn drop(&mut self) {
        // The order matters, see the module documentation.
        self.map.unmap(&self.space);
        self.space.remove(&self.map);
    }
}

/// The memory for an imported mapping whose ownership was not taken over yet.
pub(super) struct Unlinked {
    item: ListArc<DmaMap>,
    space: Arc<DmaSpaceInner>,
}

impl Unlinked {
    /// Takes over the mapping.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is being unbound. The caller keeps ownership of the mapping then.
    ///
    /// # Safety
    ///
    /// The attachment must be mapped, with the table given to [`DmaMapping::prepare_import()`], and
    /// live until the returned object was dropped. On success, the caller transfers ownership of
    /// the mapping.
    pub(super) unsafe fn link(self) -> Result<DmaMapping> {
        let map = self.item.clone_arc();

        // Once unbind can find the mapping in the list, it must undo it; if adding fails, it must
        // not be undone. Holding `undo` makes both changes appear at once.
        let undo = map.undo.lock();
        self.space.add(self.item).map_err(|_| ENODEV)?;
        // INVARIANT: By the safety requirements.
        map.mapped.store(true, Relaxed);
        drop(undo);

        Ok(DmaMapping {
            map,
            space: self.space,
        })
    }
}
