// SPDX-License-Identifier: GPL-2.0

//! The address space of a file: addresses, page table, and its claim on the hardware.
//!
//! One spinlock protects the VA tree; nothing that takes another lock is called with it held.
//! Addresses are allocated and freed in process context, where sleeping is allowed. Looking up,
//! mapping from reserved memory, and the functions that take a [`Gpu`] to unmap or flush are also
//! for the interrupt threads.

use core::ops::{
    Deref,
    Range, //
};

use kernel::{
    alloc::Flags,
    dma::{
        Coherent,
        DmaAddress, //
    },
    dma_buf::resv::Resv,
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
    iommu::pgtable::Reserved,
    new_spinlock,
    page::page_align,
    prelude::*,
    sizes::SZ_4K,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        LockedBy,
        SpinLock, //
    }, //
};

use super::{
    as_table::Space,
    change::Change,
    closing::Closing,
    fault::Grow,
    occupants::{
        Occupants,
        RunningJobs, //
    },
    orphans::{
        Keepable,
        Link,
        Linked,
        Lists, //
    },
    page_table::{
        PageTable,
        Prot,
        TableMemory,
        WalkConfig, //
    }, //
};
use crate::{
    device::{
        with_gpu,
        Device,
        DeviceData,
        Gpu,
        Ratelimit, //
    },
    hw::Tables, //
};

/// Payload of a node in the VA tree: the memory that grows on faults there, if any.
type Growing = Option<Arc<dyn Grow>>;

/// Rules of the family for the addresses in the tree.
type Rules = <Gpu<'static> as Tables>::Rules;

/// The error with which a mapping failed, and what the caller has to do about the pages.
pub(crate) struct MapError {
    /// The reason of the failure.
    pub(crate) error: Error,
    /// The hardware does not answer and may still reach the pages: they must be
    /// [kept](VmShared::keep).
    pub(crate) leak: bool,
}

/// The part of a [`Vm`] that the hardware and the fault path share: page table and VA tree.
#[pin_data]
pub(crate) struct VmShared {
    /// Number of the address space in the log.
    id: u64,
    pub(super) drm: ARef<Device>,
    /// How the hardware reads the table.
    config: WalkConfig,
    table: PageTable,
    occupants: Occupants,
    /// Limits what is logged about the file.
    log: Arc<Ratelimit>,
    link: LockedBy<Link<Self>, Lists<Self>>,
    #[pin]
    tree: SpinLock<Mm<Growing, Rules>>,
}

impl Linked for VmShared {
    fn link(&self) -> &LockedBy<Link<Self>, Lists<Self>> {
        &self.link
    }
}

impl Space for VmShared {
    type Config = WalkConfig;

    fn config(&self) -> &WalkConfig {
        &self.config
    }

    fn running_jobs(&self) -> RunningJobs {
        self.occupants.running()
    }
}

impl VmShared {
    /// Returns the number of the address space, for the log.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Returns the limit for what is logged about the file.
    pub(crate) fn log(&self) -> &Arc<Ratelimit> {
        &self.log
    }

    /// Returns the record of the jobs that the space has in the hardware.
    pub(crate) fn occupants(&self) -> &Occupants {
        &self.occupants
    }

    /// Returns the memory that grows on faults at `va`, if any. O(log n).
    pub(super) fn lookup(&self, va: u64) -> Option<Arc<dyn Grow>> {
        let tree = self.tree.lock();
        let memory: &Growing = tree.find(va)?;

        memory.clone()
    }

    /// Returns the range of the BO that contains `va`, else of the nearest one below it, for the
    /// log. O(log n).
    pub(crate) fn nearest(&self, va: u64) -> Option<Range<u64>> {
        let tree = self.tree.lock();

        Some(tree.find_at_or_below(va)?.range())
    }

    /// Maps segments of DMA memory one after the other, from the start of `range`, in blocks of 2
    /// MiB where possible. Returns the number of bytes mapped. On error the entries are removed
    /// again; see [`MapError`].
    ///
    /// The range must lie in the caller's [`VaNode`], be empty, and be large enough for all
    /// segments. The segments must stay mapped for the device until [`Self::unmap`] has succeeded,
    /// or the pages are [kept](Self::keep). `EINVAL` if the address or size of one is not a
    /// multiple of 4 KiB. Sleeps if `gfp` allows it; takes no sleeping lock.
    ///
    /// Flushes once at the end if the space is in the hardware. The MMU has no translations of the
    /// new pages, but may have cached empty entries of the upper levels. The flush also lets
    /// stalled accesses go on.
    pub(crate) fn map(
        &self,
        gpu: &Gpu<'_>,
        range: Range<u64>,
        segments: impl Iterator<Item = (DmaAddress, usize)>,
        prot: Prot,
        gfp: Flags,
    ) -> Result<u64, MapError> {
        let memory = TableMemory {
            reserved: &mut Reserved::new(),
            gfp,
        };

        self.map_with(gpu, range, segments, prot, memory)
    }

    /// Like [`Self::map`], but takes the memory for page tables from `tables`, where unused pages
    /// stay. If there are too few, tries to allocate more, without waiting for memory.
    pub(crate) fn map_reserved(
        &self,
        gpu: &Gpu<'_>,
        range: Range<u64>,
        segments: impl Iterator<Item = (DmaAddress, usize)>,
        prot: Prot,
        tables: &mut Reserved,
    ) -> Result<u64, MapError> {
        let memory = TableMemory {
            reserved: tables,
            gfp: GFP_NOWAIT | __GFP_NOWARN,
        };

        self.map_with(gpu, range, segments, prot, memory)
    }

    /// Implements [`Self::map`] and [`Self::map_reserved`].
    fn map_with(
        &self,
        gpu: &Gpu<'_>,
        range: Range<u64>,
        segments: impl Iterator<Item = (DmaAddress, usize)>,
        prot: Prot,
        memory: TableMemory<'_>,
    ) -> Result<u64, MapError> {
        let dev = gpu.dev();
        let (mapped, result) = self
            .table
            .map(dev, range, segments, (prot, memory), |range, f| {
                self.drm
                    .address_spaces
                    .exclude(gpu, self, range, f)
                    .inspect_err(|&e| {
                        // For `EBUSY` the reset has been requested.
                        if e != EBUSY {
                            self.ask_for_reset(e);
                        }
                    })
            });

        result
            .and_then(|()| self.flush(gpu, &mapped, Change::Mapped))
            .map(|()| mapped.end - mapped.start)
            .map_err(|error| {
                // Running jobs may have accessed these pages.
                let undone = self
                    .table
                    .unmap(dev, mapped.clone())
                    .and_then(|()| self.flush(gpu, &mapped, Change::Unmapped));

                MapError {
                    error,
                    leak: undone.is_err() && !mapped.is_empty(),
                }
            })
    }

    /// Allocates the page tables for 4 KiB pages in a range, so that pages can be mapped there
    /// later without allocating. The range must lie in the caller's [`VaNode`] and be empty.
    /// Sleeps.
    pub(crate) fn reserve(&self, gpu: &Gpu<'_>, range: &Range<u64>) -> Result {
        let page = Coherent::<u8>::zeroed_slice(gpu.dev(), SZ_4K, GFP_KERNEL)?;
        let page = Keepable::new(page, GFP_KERNEL)?;
        let result = self.table.reserve(gpu.dev(), range, page.dma_address());

        // The GPU may have cached a translation to the page. If the MMU is stuck, a reset makes it
        // forget that before any other job runs.
        if let Err(e) = self.flush(gpu, range, Change::Unmapped) {
            self.keep(page);
            if e != ETIMEDOUT {
                return Err(e);
            }
        }
        result
    }

    /// Keeps pages, or the object that owns them, that the GPU may still reach after an error. Does
    /// not sleep.
    ///
    /// They are dropped after the next reset. One that was requested when the error occurred may be
    /// over by now, so this requests another.
    pub(crate) fn keep(&self, pages: Keepable<impl Send + 'static>) {
        self.drm.address_spaces.keep(pages);
        self.drm.address_spaces.ask_for_reset(&self.drm);
    }

    /// Unmaps ranges, all of which must be mapped completely, and flushes once for all of them if
    /// the space is in the hardware. Needs only a few flushes for many calls if the space has no
    /// jobs there. After unbind there is nothing to unmap: the GPU has stopped for good, or is
    /// abandoned, which is an error.
    ///
    /// An error means that the GPU may still reach the pages: they must be [kept](Self::keep). May
    /// sleep.
    pub(crate) fn unmap(&self, ranges: impl Iterator<Item = Range<u64>>) -> Result {
        with_gpu(&self.drm, |gpu| self.unmap_with(gpu, ranges))
            .unwrap_or_else(|| self.drm.address_spaces.check())
    }

    /// Like [`Self::unmap`], for callers that have a [`Gpu`]. Does not sleep.
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
            Some(hull) => self.flush_closed(gpu, &hull),
            None => Ok(()),
        }
    }

    /// Like [`Self::unmap`], for reclaim. If the space has an AS and no jobs, turns the AS off
    /// until the next job of the space, so that no further flush is needed until then.
    pub(crate) fn unmap_idle(&self, range: Range<u64>) -> Result {
        with_gpu(&self.drm, |gpu| {
            self.clear(gpu, range.clone())?;
            self.drm
                .address_spaces
                .rest(gpu, self, &range)
                .inspect_err(|&e| self.ask_for_reset(e))
        })
        .unwrap_or_else(|| self.drm.address_spaces.check())
    }

    /// Removes a range from the page table, without a flush. The hardware may still have
    /// translations of it.
    pub(super) fn clear(&self, gpu: &Gpu<'_>, range: Range<u64>) -> Result {
        self.table
            .unmap(gpu.dev(), range)
            .inspect_err(|e| dev_err!(gpu.dev(), "address space {}: unmap: {:?}\n", self.id, e))
    }

    /// Flushes the hardware's translations of a range, and lets stalled accesses go on. Requests a
    /// reset on error.
    fn flush(&self, gpu: &Gpu<'_>, range: &Range<u64>, change: Change) -> Result {
        self.drm
            .address_spaces
            .flush(gpu, self, range, change)
            .inspect_err(|&e| self.ask_for_reset(e))
    }

    /// Flushes a range that was removed from the page table, as one of perhaps many: see
    /// [`AddressSpaces::flush_closed`](super::AddressSpaces::flush_closed).
    pub(super) fn flush_closed(&self, gpu: &Gpu<'_>, range: &Range<u64>) -> Result {
        self.drm
            .address_spaces
            .flush_closed(gpu, self, range)
            .inspect_err(|&e| self.ask_for_reset(e))
    }

    /// Flushes the hardware's translations of a range that was removed from the page table without
    /// a successful flush.
    ///
    /// An error means that the GPU may still reach the pages: they must be [kept](Self::keep). May
    /// sleep.
    pub(crate) fn forget(&self, range: Range<u64>) -> Result {
        with_gpu(&self.drm, |gpu| self.forget_with(gpu, &range))
            .unwrap_or_else(|| self.drm.address_spaces.check())
    }

    /// Like [`Self::forget`], for callers that have a [`Gpu`]. Does not sleep.
    pub(crate) fn forget_with(&self, gpu: &Gpu<'_>, range: &Range<u64>) -> Result {
        self.flush(gpu, range, Change::Unmapped)
    }

    /// Requests a reset after an error of the hardware, unless the device is gone.
    pub(super) fn ask_for_reset(&self, error: Error) {
        if error != ENODEV {
            self.drm.address_spaces.ask_for_reset(&self.drm);
        }
    }

    /// Retries the access stalled on the page containing `va`, if any. Does not sleep. An error
    /// needs no handling, because the GPU is reset then.
    pub(crate) fn retry(&self, gpu: &Gpu<'_>, va: u64) {
        let page = va & !(SZ_4K as u64 - 1);

        let _ = self.flush(gpu, &(page..page + SZ_4K as u64), Change::Mapped);
    }
}

/// The address space of a file, with its owner's data `M` about the memory mapped in it.
#[pin_data(PinnedDrop)]
pub(crate) struct Vm<M> {
    space: Arc<VmShared>,
    /// Contains the fences of all jobs of the space.
    resv: ARef<ResvObject>,
    #[pin]
    memory: M,
    #[pin]
    pub(super) closing: Closing,
}

impl<M> Deref for Vm<M> {
    type Target = Arc<VmShared>;

    fn deref(&self) -> &Arc<VmShared> {
        &self.space
    }
}

impl<M> Vm<M> {
    /// Creates an empty address space. Works while the GPU is lost, too: the client can use the
    /// space as soon as the GPU has recovered. Sleeps.
    pub(crate) fn new(drm: &Device, gpu: &Gpu<'_>, memory: impl PinInit<M>) -> Result<Arc<Self>> {
        static NEXT_ID: Atomic<u64> = Atomic::new(1);

        let (table, config) = PageTable::new(drm, gpu)?;
        let tree = Mm::new(DeviceData::ADDRESSES)?;
        let log = Arc::pin_init(Ratelimit::of_file(&drm.client_log), GFP_KERNEL_ACCOUNT)?;
        let space = Arc::pin_init(
            try_pin_init!(VmShared {
                id: NEXT_ID.fetch_add(1, Relaxed),
                drm: drm.into(),
                config,
                table,
                occupants: Occupants::new(),
                log,
                link: drm.address_spaces.link(),
                tree <- new_spinlock!(tree, "drm_gpu::va"),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;

        let resv = ResvObject::new(drm)?;

        Arc::pin_init(
            pin_init!(Self {
                space,
                resv,
                memory <- memory,
                closing <- Closing::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the owner's data about the memory in the space.
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the GEM object that carries the reservation lock of the space. Lock it before those
    /// of BOs.
    ///
    /// The resv contains the fences of all jobs of the space, as `Usage::Bookkeep`: a job can reach
    /// everything that is mapped, whether or not its submission lists it. So a BO is idle when no
    /// job lists it and the resvs of all address spaces that map it are idle. While this one is
    /// locked, no job of the space is published.
    pub(crate) fn resv_object(&self) -> &ResvObject {
        &self.resv
    }

    /// Returns the resv of the space; see [`Self::resv_object`].
    pub(crate) fn resv(&self) -> &Resv {
        self.resv.resv()
    }

    /// Allocates addresses for a BO of `size` bytes, rounded up to pages. `exec`: shaders can run
    /// from it. `grows`: the memory that grows on faults there, if any.
    ///
    /// `EINVAL` for a size of 0, `ENOSPC` when there is no room, `ENOMEM`. Sleeps.
    pub(crate) fn alloc_va(
        self: &Arc<Self>,
        size: usize,
        exec: bool,
        grows: Option<Arc<dyn Grow>>,
    ) -> Result<VaNode<M>> {
        let size = page_align(size).filter(|&s| s != 0).ok_or(EINVAL)? as u64;
        let node = NodeAlloc::new(GFP_KERNEL_ACCOUNT)?;

        let inserted = self
            .tree
            .lock()
            .insert(node, &Gpu::placement(size, exec), |_| grows)
            .map(|node| node.range());
        // An error carries the memory of the node, which is freed here, with the lock released.
        let range = inserted.map_err(|(e, _)| e)?;

        Ok(VaNode {
            vm: self.clone(),
            range,
        })
    }

    /// Assigns an AS to the space for a job that is about to run. Returns its number.
    ///
    /// The caller balances each success with one [`Self::as_put`]. Does not sleep; the lock of the
    /// job queue may be held. `EBUSY`: all are in use, and one becomes free when its jobs end.
    /// `EAGAIN`: the space has faulted, and the jobs that it has in the hardware must end first.
    /// `ETIMEDOUT`: the MMU is stuck and needs a reset. `ENODEV`: the GPU has halted or the device
    /// is gone.
    pub(crate) fn as_get(&self, gpu: &Gpu<'_>) -> Result<u8> {
        self.drm.address_spaces.get(gpu, &self.space)
    }

    /// Balances [`Self::as_get`] when the job has left the hardware. Does not sleep, touches no
    /// register.
    pub(crate) fn as_put(&self) {
        self.drm.address_spaces.put(&self.space);
    }
}

#[pinned_drop]
impl<M> PinnedDrop for Vm<M> {
    fn drop(self: Pin<&mut Self>) {
        let drm = &self.space.drm;
        let released = with_gpu(drm, |gpu| drm.address_spaces.release(gpu, &self.space));

        let released = released.unwrap_or_else(|| {
            // After unbind the GPU does not walk the table, unless it was abandoned.
            drm.address_spaces.forget(&self.space);
            drm.address_spaces.check()
        });
        let last = self.closing.take();
        match released {
            Ok(()) => drop(last),
            Err(_) => {
                // The hardware may still walk the table.
                drm.address_spaces.keep_space(self.space.clone(), last);
                drm.address_spaces.ask_for_reset(drm);
            }
        }
    }
}

/// A range of addresses. The range must be unmapped before this is dropped, which frees the
/// addresses. Process context.
pub(crate) struct VaNode<M> {
    vm: Arc<Vm<M>>,
    range: Range<u64>,
}

impl<M> VaNode<M> {
    /// Returns the first address.
    pub(crate) fn start(&self) -> u64 {
        self.range.start
    }

    /// Returns the size in bytes, a multiple of 4 KiB.
    pub(crate) fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Returns the range of addresses.
    pub(crate) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Returns the address space.
    pub(crate) fn vm(&self) -> &Arc<Vm<M>> {
        &self.vm
    }
}

impl<M> Drop for VaNode<M> {
    fn drop(&mut self) {
        let removed = self.vm.tree.lock().remove(self.range.start);

        // This may drop the last reference to memory that grows, which must not happen under the
        // lock.
        drop(removed);
    }
}
