// SPDX-License-Identifier: GPL-2.0

//! DMA mappings of buffers, undone when the device is unbound or when their owner is done with
//! them, whichever comes first.
//!
//! A [`Devres`](kernel::devres::Devres) for each buffer would do the same, but its removal walks the
//! list of all resources of the device: with ten thousand buffers, freeing them would take time
//! proportional to the square of that. Here each device has one list ([`DmaSpace`]) from which a
//! mapping removes itself in constant time, and one resource that empties the list on unbind.
//!
//! Locks: that of one mapping, held while the mapping is undone, and the list's spinlock, held for
//! no more than linking. Whoever unlinks a mapping undoes it first, so that unbind either still finds
//! it in the list and waits for its lock, or has nothing left to do.

use super::lru::Lrus;
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
/// A driver makes one in `probe()`, before the first buffer, and hands it to each buffer of one DRM
/// device by [`ObjectOps::dma_space()`](super::ObjectOps::dma_space). When the device is unbound, every DMA
/// mapping and every mapping of an imported buffer that still exists is undone before the device's
/// resources are gone.
pub struct DmaSpace(Arc<Space>);

impl DmaSpace {
    /// Creates the empty space of `dev`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &Device<Bound>) -> Result<Self> {
        let space = Arc::pin_init(
            pin_init!(Space {
                dev: dev.into(),
                maps <- new_spinlock!(
                    Maps {
                        list: List::new(),
                        closed: false,
                    },
                    "uma::Space::maps"
                ),
                lrus <- Lrus::new(),
            }),
            GFP_KERNEL,
        )?;

        devres::register(dev, Teardown(space.clone()), GFP_KERNEL)?;

        Ok(Self(space))
    }

    pub(super) fn inner(&self) -> &Arc<Space> {
        &self.0
    }

    /// Does what unbind does.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn undo_all(&self) {
        drop(Teardown(self.0.clone()));
    }
}

/// What a [`DmaSpace`] and the mappings in it share.
#[pin_data]
pub(super) struct Space {
    /// The device that the mappings are for.
    dev: ARef<Device>,
    #[pin]
    maps: SpinLock<Maps>,
    /// The buffers whose mappings these are.
    #[pin]
    lrus: Lrus,
}

/// The list of mappings.
struct Maps {
    list: List<DmaMap>,
    /// The device is being unbound: nothing may be added.
    closed: bool,
}

impl Space {
    /// Returns the device that the mappings are for.
    pub(super) fn dev(&self) -> &Device {
        &self.dev
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
        // SAFETY: A `DmaMap` is linked by `Space::add()` only, and only into the space that its
        // `DmaMapping` names, which is the one that calls this.
        let item = unsafe { self.maps.lock().list.remove(item) };

        // The last reference may be this one: it goes after the lock.
        drop(item);
    }

    fn pop(&self) -> Option<ListArc<DmaMap>> {
        let mut maps = self.maps.lock();
        maps.closed = true;
        maps.list.pop_front()
    }
}

/// Undoes all mappings of a space when its device is unbound.
struct Teardown(Arc<Space>);

impl Drop for Teardown {
    fn drop(&mut self) {
        while let Some(map) = self.0.pop() {
            map.unmap(&self.0);
        }
    }
}

/// A table of pages.
///
/// # Invariants
///
/// The table is valid.
struct PageTable(Opaque<bindings::sg_table>);

impl Drop for PageTable {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, the table is valid. It is not mapped: the owner of the
        // mapping is dropped before.
        unsafe { bindings::sg_free_table(self.0.get()) };
    }
}

/// What is mapped.
enum Table {
    /// Pages of our own.
    Pages(PageTable),
    /// A dma-buf of somebody else; the table is the exporter's and exists while it is mapped.
    Import {
        attach: *mut bindings::dma_buf_attachment,
        sgt: *mut bindings::sg_table,
    },
}

/// One DMA mapping.
///
/// # Invariants
///
/// While `mapped` is true, the table is mapped for the device of the space that the `DmaMap` was made
/// for; for `Table::Import`, `attach` and `sgt` are valid.
#[pin_data]
struct DmaMap {
    #[pin]
    links: ListLinks,
    /// Written under `undo`. Read without: as long as the device is bound, it turns false only when
    /// the owner lets go.
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

// SAFETY: All shared access to what is mutable is under a lock.
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
            GFP_KERNEL,
        )
    }

    fn sgt(&self) -> *mut bindings::sg_table {
        match &self.table {
            Table::Pages(sgt) => sgt.0.get(),
            Table::Import { sgt, .. } => *sgt,
        }
    }

    /// Undoes the mapping if that was not done yet.
    fn unmap(&self, space: &Space) {
        let _undo = self.undo.lock();
        if !self.mapped.xchg(false, Relaxed) {
            return;
        }

        match &self.table {
            // SAFETY: By the type invariants, the table is mapped for this device. The device is
            // bound: unbind waits for `undo`, which we hold, before it ends.
            Table::Pages(sgt) => unsafe {
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

/// Owner of a DMA mapping: dropping it undoes the mapping, unless unbind did so before.
///
/// Dropping may sleep.
pub(super) struct DmaMapping {
    map: Arc<DmaMap>,
    space: Arc<Space>,
}

impl DmaMapping {
    /// Maps `count` pages of system memory for `dev`, both directions.
    ///
    /// # Safety
    ///
    /// `pages` must point to an array of `count` valid pages, which stay so for as long as the
    /// returned object lives.
    pub(super) unsafe fn new(
        space: &Arc<Space>,
        dev: &Device<Bound>,
        pages: *mut *mut bindings::page,
        count: usize,
    ) -> Result<Self> {
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
                // As for the pages: it is no reason to kill.
                (GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN).as_raw(),
            )
        })?;

        // INVARIANT: The table was just made.
        let sgt = PageTable(sgt);

        // The class differs from that of imported buffers: there the exporter's reservation lock
        // nests inside, here this lock may nest inside of our own.
        let item = DmaMap::new(Table::Pages(sgt), new_mutex!((), "uma::DmaMap::undo"))?;

        // SAFETY: The table is valid and not mapped, `dev` is bound.
        to_result(unsafe {
            bindings::dma_map_sgtable(
                dev.as_raw(),
                item.sgt(),
                DataDirection::Bidirectional.into(),
                0,
            )
        })?;
        // INVARIANT: The table was just mapped for the device of `space`.
        item.mapped.store(true, Relaxed);

        Self::link(space, item)
    }

    /// Prepares to own the mapping `sgt` of `attach`, a dma-buf that was mapped for the device of
    /// `space`.
    pub(super) fn prepare_import(
        space: &Arc<Space>,
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

    fn link(space: &Arc<Space>, item: ListArc<DmaMap>) -> Result<Self> {
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

impl Drop for DmaMapping {
    fn drop(&mut self) {
        // In this order: see the head of this file.
        self.map.unmap(&self.space);
        self.space.remove(&self.map);
    }
}

/// All memory that the owner of an imported mapping needs, before it owns it.
pub(super) struct Unlinked {
    item: ListArc<DmaMap>,
    space: Arc<Space>,
}

impl Unlinked {
    /// Takes over the mapping.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the device is being unbound; the mapping is still the caller's then.
    ///
    /// # Safety
    ///
    /// The attachment must be mapped, with the table given to [`DmaMapping::prepare_import()`], and
    /// live until the returned object was dropped. The caller gives the mapping away.
    pub(super) unsafe fn link(self) -> Result<DmaMapping> {
        let map = self.item.clone_arc();

        // From when unbind finds it in the list, it must be one to undo; until then, it must not.
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
