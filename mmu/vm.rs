// SPDX-License-Identifier: GPL-2.0

//! The address space of a file: addresses, page table, and its claim on the hardware.
//!
//! Two spinlocks, that of the VA tree and that of the list of mappings which have lost their memory;
//! nothing is called with one held. Contexts: allocating and
//! dropping are for process context, looking up, mapping without waiting and unmapping are also for
//! the interrupt threads.

use core::{
    mem,
    ops::{
        Deref,
        Range, //
    }, //
};

use kernel::{
    alloc::Flags,
    dma::{
        Coherent,
        DmaAddress, //
    },
    dma_buf::resv::{
        Resv,
        ResvLocked, //
    },
    drm::{
        gem::{
            BaseObject,
            ResvObject, //
        },
        mm::{
            Mm,
            NodeAlloc, //
        }, //
    },
    iommu::pgtable::TablePage,
    new_spinlock,
    page::page_align,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sizes::SZ_4K,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SetOnce,
        SpinLock, //
    }, //
};

use super::{
    occupants::Occupants,
    page_table::{
        PageTable,
        Prot, //
    },
    va, //
};
use crate::{
    device::{
        with_gpu,
        Device,
        Gpu, //
    },
    gem::{
        heap,
        userptr,
        Mapping, //
    },
    hw::mali::mmu, //
};

/// What the VA tree knows of a range: the heap that grows in it, if it is one.
type Entry = Option<Arc<heap::Heap>>;

/// Why pages could not be mapped.
pub(crate) struct MapError {
    /// What has failed.
    pub(crate) error: Error,
    /// The hardware does not answer and may still reach the pages: they must be leaked.
    pub(crate) leak: bool,
}

/// Page table and VA tree of an address space.
#[pin_data]
pub(crate) struct Space {
    /// For logs.
    id: u64,
    drm: ARef<Device>,
    /// How the hardware is to read the table.
    pub(super) config: mmu::Config,
    table: PageTable,
    occupants: Occupants,
    #[pin]
    tree: SpinLock<Mm<Entry, va::Rules>>,
}

impl Space {
    /// Number of the address space, for logs.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The jobs of the space that are in the hardware.
    pub(crate) fn occupants(&self) -> &Occupants {
        &self.occupants
    }

    /// The heap that `va` lies in, and where its range starts. O(log n).
    ///
    /// [`None`] if nothing is there, or something that is not a heap.
    pub(crate) fn lookup(&self, va: u64) -> Option<(Arc<heap::Heap>, u64)> {
        let tree = self.tree.lock();
        let node = tree.find(va)?;
        let heap: &Entry = node;

        Some((heap.clone()?, node.start()))
    }

    /// The range of the BO next to `va` at or below it, for logs.
    pub(crate) fn nearest(&self, va: u64) -> Option<Range<u64>> {
        let tree = self.tree.lock();
        let nearest = match tree.find(va) {
            Some(node) => Some(node.range()),
            None => tree
                .iter()
                .map(|node| node.range())
                .take_while(|range| range.start <= va)
                .last(),
        };

        nearest
    }

    /// Maps segments of DMA memory one after the other, from the start of `range`, in blocks of 2 MiB
    /// where possible. Returns how many bytes it were. On error nothing of it stays mapped; see
    /// [`MapError`].
    ///
    /// The range must lie in the caller's [`VaNode`], with nothing mapped there, and hold all
    /// segments. These are mapped for the device until [`Self::unmap`] has returned. `EINVAL` if one is
    /// no multiple of 4 KiB. Sleeps if `gfp` allows it; takes no sleeping lock.
    ///
    /// One flush at the end if the space is in the hardware: it holds no translations that were not
    /// there, but may hold table entries on the way to them; and accesses that wait for the
    /// mapping go on.
    pub(crate) fn map(
        &self,
        gpu: &Gpu<'_>,
        range: Range<u64>,
        segments: impl Iterator<Item = (DmaAddress, usize)>,
        prot: Prot,
        gfp: Flags,
    ) -> Result<u64, MapError> {
        let dev = gpu.dev();
        let (mapped, result) = self
            .table
            .map(dev, range, segments, (prot, gfp), |range, f| {
                self.drm
                    .slots
                    .exclude(gpu, self, range, f)
                    .inspect_err(|&e| self.ask_for_reset(e))
            });

        result
            .and_then(|()| self.flush(gpu, &mapped))
            .map(|()| mapped.end - mapped.start)
            .map_err(|error| {
                // Whatever runs may have found these pages.
                let undone = self
                    .table
                    .unmap(dev, mapped.clone())
                    .and_then(|()| self.flush(gpu, &mapped));

                MapError {
                    error,
                    leak: undone.is_err() && !mapped.is_empty(),
                }
            })
    }

    /// [`Self::map`] for who has paid for the tables before: `table` is the memory for one, beyond what
    /// was [set aside](Self::set_aside). Returns it if it was not needed. Does not wait for memory.
    pub(crate) fn map_paid(
        &self,
        gpu: &Gpu<'_>,
        range: Range<u64>,
        segments: impl Iterator<Item = (DmaAddress, usize)>,
        prot: Prot,
        table: Option<TablePage>,
    ) -> (Result<u64, MapError>, Option<TablePage>) {
        let pool = self.table.pool();
        let paid = table.is_some();

        if let Some(table) = table {
            pool.deposit(table);
        }
        let result = self.map(gpu, range, segments, prot, GFP_NOWAIT | __GFP_NOWARN);

        (result, if paid { pool.withdraw() } else { None })
    }

    /// Sets memory aside for so many tables, for [`Self::map_paid`]. Sleeps.
    ///
    /// To be followed by [`Self::put_back`].
    pub(crate) fn set_aside(&self, tables: usize) -> Result {
        for done in 0..tables {
            let page = TablePage::new(GFP_KERNEL).inspect_err(|_| self.put_back(done))?;

            self.table.pool().deposit(page);
        }
        Ok(())
    }

    /// Frees what is left of memory that was set aside.
    pub(crate) fn put_back(&self, tables: usize) {
        for _ in 0..tables {
            drop(self.table.pool().withdraw());
        }
    }

    /// Makes the tables for 4 KiB pages in a range, which lies in the caller's [`VaNode`] and where
    /// nothing is mapped: pages can be mapped there without memory then. Sleeps.
    pub(crate) fn reserve(&self, gpu: &Gpu<'_>, range: &Range<u64>) -> Result {
        let page = Coherent::<u8>::zeroed_slice(gpu.dev(), SZ_4K, GFP_KERNEL)?;
        let result = self.table.reserve(gpu.dev(), range, page.dma_address());

        // The GPU may have found the page.
        if let Err(e) = self.flush(gpu, range) {
            mem::forget(page);
            return Err(e);
        }
        result
    }

    /// Unmaps ranges that are mapped completely. One flush over all of them, if the space is in the
    /// hardware. Nothing to do after unplug: the GPU has stopped for good by then, or never will.
    ///
    /// An error means that the GPU may still reach the pages: they must be leaked. May sleep.
    pub(crate) fn unmap(&self, ranges: impl Iterator<Item = Range<u64>>) -> Result {
        with_gpu(&self.drm, |gpu| self.unmap_with(gpu, ranges))
            .unwrap_or_else(|| self.drm.slots.check())
    }

    /// [`Self::unmap`] for callers who have the hardware at hand. Does not sleep.
    pub(crate) fn unmap_with(
        &self,
        gpu: &Gpu<'_>,
        ranges: impl Iterator<Item = Range<u64>>,
    ) -> Result {
        let mut hull: Option<Range<u64>> = None;

        for range in ranges {
            hull = Some(match hull {
                Some(hull) => hull.start.min(range.start)..hull.end.max(range.end),
                None => range.clone(),
            });
            self.clear(gpu, range)?;
        }

        match hull {
            Some(hull) => self.flush(gpu, &hull),
            None => Ok(()),
        }
    }

    /// [`Self::unmap`] for reclaim, in a space that no job uses. Takes it out of the hardware, if that
    /// has it, until its next job: so one flush will do for all that is unmapped before that.
    pub(crate) fn unmap_idle(&self, range: Range<u64>) -> Result {
        with_gpu(&self.drm, |gpu| {
            self.clear(gpu, range.clone())?;
            self.drm
                .slots
                .rest(gpu, self, &range)
                .inspect_err(|&e| self.ask_for_reset(e))
        })
        .unwrap_or_else(|| self.drm.slots.check())
    }

    /// Takes a range out of the page table. The hardware may know it still.
    fn clear(&self, gpu: &Gpu<'_>, range: Range<u64>) -> Result {
        self.table
            .unmap(gpu.dev(), range)
            .inspect_err(|e| dev_err!(gpu.dev(), "address space {}: unmap: {:?}\n", self.id, e))
    }

    /// Makes the hardware forget its translations of a range, and try again what waits for one.
    pub(super) fn flush(&self, gpu: &Gpu<'_>, range: &Range<u64>) -> Result {
        self.drm
            .slots
            .flush(gpu, self, range)
            .inspect_err(|&e| self.ask_for_reset(e))
    }

    /// Makes the hardware forget its translations of a range that was unmapped, if that did not work then.
    ///
    /// An error means that the GPU may still reach the pages: they must be leaked. May sleep.
    pub(crate) fn forget(&self, range: Range<u64>) -> Result {
        with_gpu(&self.drm, |gpu| self.flush(gpu, &range)).unwrap_or_else(|| self.drm.slots.check())
    }

    /// After an error of the hardware: a reset helps, unless the device has gone.
    fn ask_for_reset(&self, error: Error) {
        if error != ENODEV {
            self.drm.jobs.request_reset();
        }
    }

    /// Has an access made again that waits for the page of `va`, if there still is one. Does not
    /// sleep. After an error the GPU will be reset, which is as good.
    pub(crate) fn retry(&self, gpu: &Gpu<'_>, va: u64) {
        let page = va & !(SZ_4K as u64 - 1);

        let _ = self.flush(gpu, &(page..page + SZ_4K as u64));
    }
}

/// The address space of a file.
#[pin_data(PinnedDrop)]
pub(crate) struct Vm {
    space: Arc<Space>,
    /// Has the fences of all jobs that run in the space.
    resv: ARef<ResvObject>,
    heaps: Arc<heap::Client>,
    /// By address, the mappings that reclaim has taken the memory from. With the last handle of its BO,
    /// a mapping leaves.
    #[pin]
    evicted: SpinLock<RBTree<u64, Arc<Mapping>>>,
    /// The user memory in the space, once there is some.
    user_memory: SetOnce<userptr::Mirror>,
}

impl Deref for Vm {
    type Target = Arc<Space>;

    fn deref(&self) -> &Arc<Space> {
        &self.space
    }
}

impl Vm {
    /// Makes an empty address space. Sleeps. `ENODEV` also if the GPU has halted.
    pub(crate) fn new(drm: &Device, gpu: &Gpu<'_>) -> Result<Arc<Self>> {
        static NEXT_ID: Atomic<u64> = Atomic::new(1);

        if gpu.halted() {
            return Err(ENODEV);
        }

        let (table, config) = PageTable::new(drm, gpu)?;
        let tree = Mm::new(va::RANGE)?;
        let space = Arc::pin_init(
            try_pin_init!(Space {
                id: NEXT_ID.fetch_add(1, Relaxed),
                drm: drm.into(),
                config,
                table,
                occupants: Occupants::new(),
                tree <- new_spinlock!(tree, "drm_gpu::va"),
            }? Error),
            GFP_KERNEL,
        )?;

        let resv = ResvObject::new(drm)?;
        let heaps = heap::Client::new()?;

        Arc::pin_init(
            pin_init!(Self {
                space,
                resv,
                heaps,
                evicted <- new_spinlock!(RBTree::new(), "drm_gpu::evicted"),
                user_memory: SetOnce::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// The heaps of the file.
    pub(crate) fn heaps(&self) -> &Arc<heap::Client> {
        &self.heaps
    }

    /// The user memory in the space, if there ever was some.
    pub(crate) fn user_memory(&self) -> Option<&userptr::Mirror> {
        self.user_memory.as_ref()
    }

    /// The user memory in the space. Sleeps.
    pub(crate) fn user_memory_or_new(&self, gpu: &Gpu<'_>) -> Result<&userptr::Mirror> {
        loop {
            if let Some(mirror) = self.user_memory() {
                return Ok(mirror);
            }
            // Another task may be faster.
            self.user_memory.populate(userptr::Mirror::new(gpu)?);
        }
    }

    /// What has the resv of the space, to be locked together with BOs, before them.
    ///
    /// It has the fences of all jobs that run in the space, as `Usage::Bookkeep`: a job can reach all
    /// that is mapped, whether or not its submit has listed it. So a BO is idle when its own resv is,
    /// and that of each address space that maps it. As long as this one is locked, no job is
    /// published.
    pub(crate) fn resv_object(&self) -> &ResvObject {
        &self.resv
    }

    /// The resv of the space; see [`Self::resv_object`].
    pub(crate) fn resv(&self) -> &Resv {
        self.resv.resv()
    }

    /// Notes that the mapping in `node` has lost its memory. The resv is locked.
    pub(crate) fn add_evicted(&self, node: RBTreeNode<u64, Arc<Mapping>>) {
        let old = self.evicted.lock().insert(node);

        // None, as a mapping is added once.
        drop(old);
    }

    /// Forgets that the mapping at `va` has lost its memory, if it has. Drop what is returned with no
    /// lock held.
    pub(crate) fn take_evicted(&self, va: u64) -> Option<RBTreeNode<u64, Arc<Mapping>>> {
        self.evicted.lock().remove_node(&va)
    }

    /// Whether reclaim has taken memory from the space. The answer may be outdated.
    pub(crate) fn misses_memory(&self) -> bool {
        !self.evicted.lock().is_empty()
    }

    /// Brings back all memory that reclaim has taken from the space, so that a job can use it. `locked`
    /// proves that the resv is locked, so reclaim takes nothing until the fence of the job is there.
    ///
    /// Sleeps. After an error the rest is still noted.
    pub(crate) fn restore(&self, gpu: &Gpu<'_>, locked: ResvLocked<'_>) -> Result {
        loop {
            let next = {
                let evicted = self.evicted.lock();
                let first = evicted.cursor_front();

                first.map(|first| first.current().1.clone())
            };
            let Some(mapping) = next else {
                return Ok(());
            };

            mapping.restore(gpu, locked)?;
        }
    }

    /// Finds a place for a BO of `size` bytes, which is rounded up to pages. `exec`: shaders can run
    /// from it. `heap`: what grows on faults there.
    ///
    /// `EINVAL` for a size of 0, `ENOSPC` when there is no room.
    pub(crate) fn alloc_va(
        self: &Arc<Self>,
        size: usize,
        exec: bool,
        heap: Option<Arc<heap::Heap>>,
    ) -> Result<VaNode> {
        let size = page_align(size).filter(|&s| s != 0).ok_or(EINVAL)? as u64;
        let node = NodeAlloc::new(GFP_KERNEL)?;

        let inserted = self
            .tree
            .lock()
            .insert(node, &va::placement(size, exec), |_| heap)
            .map(|node| node.range());
        // An error carries the node's memory, which goes here, with the lock released.
        let range = inserted.map_err(|(e, _)| e)?;

        Ok(VaNode {
            vm: self.clone(),
            range,
        })
    }

    /// Gives the space a slot of the hardware for a job that is about to run. Returns its number.
    ///
    /// Every success is to be followed by one [`Self::as_put`]. Does not sleep; the lock of the job
    /// queue may be held. `EBUSY`: all slots have running jobs, or that of the space has some which a
    /// fault has to end; one of them will end. `ETIMEDOUT`: the MMU is stuck, only a reset helps.
    /// `ENODEV`: the device has gone.
    pub(crate) fn as_get(&self, gpu: &Gpu<'_>) -> Result<u8> {
        self.drm.slots.get(gpu, &self.space)
    }

    /// The job has left the hardware. Does not sleep, touches no register.
    pub(crate) fn as_put(&self) {
        self.drm.slots.put(&self.space);
    }
}

#[pinned_drop]
impl PinnedDrop for Vm {
    fn drop(self: Pin<&mut Self>) {
        let drm = &self.space.drm;
        let released = with_gpu(drm, |gpu| drm.slots.release(gpu, &self.space));

        match released {
            Some(Ok(())) => (),
            // Without hardware, nobody walks the table.
            None => drm.slots.forget(&self.space),
            Some(Err(_)) => {
                // The hardware may still walk the table. It stays until unbind, which takes the
                // power away first.
                mem::forget(self.space.clone());
                drm.jobs.request_reset();
            }
        }
    }
}

/// A range of addresses. Dropping it frees them: unmap them first. Process context.
pub(crate) struct VaNode {
    vm: Arc<Vm>,
    range: Range<u64>,
}

impl VaNode {
    /// First address.
    pub(crate) fn start(&self) -> u64 {
        self.range.start
    }

    /// Size in bytes, a multiple of 4 KiB.
    pub(crate) fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The address space.
    pub(crate) fn vm(&self) -> &Arc<Vm> {
        &self.vm
    }
}

impl Drop for VaNode {
    fn drop(&mut self) {
        let removed = self.vm.tree.lock().remove(self.range.start);

        // A heap can go with it, which must not happen under the lock.
        drop(removed);
    }
}
