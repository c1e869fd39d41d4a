// SPDX-License-Identifier: GPL-2.0

//! Heaps: BOs that get memory when the GPU touches them, and give it back.
//!
//! The tiler writes as much as a frame needs, which is not known in advance. A heap BO is a range
//! of addresses, divided into chunks of 2 MiB. Each chunk gets memory on the first access, in any
//! order. This memory is zeroed and mapped for DMA, and comes with a page for the page table that
//! it may need.
//!
//! # Growth
//!
//! A fault is handled in the MMU's interrupt thread, and the fence of the faulting job depends on
//! it, so nothing there may wait for memory. Memory is therefore allocated in advance: before a job
//! with a heap is armed, [`Use::prepare`] gives the heap *credit*, which is a stock of unmapped
//! chunks. A fault takes a chunk from the credit, else from the device's reserve, else from the
//! page allocator without waiting. If all of these fail, the job stays stalled, which is harmless,
//! and the refill worker collects memory piece by piece, as it is freed by kswapd and by a second
//! worker. The second worker reclaims memory, and no fence depends on it. The heap that has waited
//! for the longest time is served first. At the deadline the access is retried, and if there still
//! is no memory, the fault is handled like any other. So a job is only ended if it is stalled at
//! that moment.
//!
//! # Give-back
//!
//! [`policy`] defines whether the content of a heap is *live* or dead. The chunks and the credit of
//! a dead heap may be freed: most of them after a while, all of them when memory is short. The
//! chunks are unmapped, then flushed from the GPU's TLB with one command for all of them, if the
//! address space is in the hardware, and then freed. If the GPU does not answer, it may still write
//! to the chunks: they are *stuck*, and are kept until a later flush succeeds. A heap that is
//! closed with stuck chunks is kept until the next reset.
//!
//! # Accounting
//!
//! The memory is charged to the control group of the task that has created the heap: see [`pay`].
//! Content that is never drawn stays live, and stays charged.
//!
//! # Parts
//!
//! A [`Heap`] belongs to one file, as it can be neither exported nor mapped twice. It has addresses
//! for the lifetime of its [`Mapping`](super::mapping::Mapping), and the VA tree is used to find it
//! on a fault. [`set`] manages all heaps of the device, [`uses`] those of a file and of a job, and
//! [`stall`] the stalled jobs; [`policy`] and [`wait`] contain the rules and numbers.
//!
//! Locks, in order: [`Heap::inner`], the reserve, those of the page table. The interrupt thread
//! takes them, so code that holds one of them must not wait for memory.

mod dump;
mod give_back;
mod list;
mod pay;
mod payers;
mod policy;
mod set;
mod show;
mod stall;
mod uses;
mod wait;

use core::ops::Range;

use kernel::{
    alloc::Flags,
    bitmap::BitmapVec,
    drm::gem::uma::{
        Chunk,
        Chunks, //
    },
    iommu::pgtable::Reserved,
    mm::memcg::{
        MemCgroup,
        ObjCgroup, //
    },
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
    workqueue::{
        impl_has_delayed_work,
        new_delayed_work,
        DelayedWork, //
    }, //
};

use super::backing::{
    Event,
    PageState, //
};
use crate::{
    device::{
        with_gpu,
        Device,
        Gpu, //
    },
    mmu::{
        Grow,
        Growth,
        Keepable,
        Prot,
        VmShared, //
    }, //
};

use give_back::Remains;
use payers::Contribution;
use policy::{
    Effect,
    HeapProbe,
    HighWater,
    Life, //
};
use wait::{
    Wait,
    Waits, //
};

pub(crate) use set::HeapSet;
pub(crate) use uses::{
    FileHeaps,
    Stream,
    Use, //
};

/// The number of bytes by which a heap grows.
pub(crate) const CHUNK: usize = Chunk::SIZE;

/// The number of pages of a chunk.
const CHUNK_PAGES: usize = CHUNK / kernel::page::PAGE_SIZE;

/// The value of [`Heap::stalled`] if no job waits.
const NOT_STALLED: u64 = u64::MAX;

/// The addresses of a heap: its address space, the first address, and the list of the file.
#[derive(Clone)]
struct Addresses {
    space: Arc<VmShared>,
    file_heaps: Arc<FileHeaps>,
    start: u64,
}

impl Addresses {
    fn range(&self, index: usize) -> Range<u64> {
        let at = self.start + (index * CHUNK) as u64;

        at..at + CHUNK as u64
    }
}

/// The data guarded by the lock of a heap.
struct Inner {
    /// [`None`] before the heap gets its addresses, and after it has lost them.
    addresses: Option<Addresses>,
    state: PageState,
    /// The chunks, by number. Those that are present are either mapped or stuck.
    chunks: Chunks,
    /// The numbers of the chunks that were unmapped, but that the GPU may still reach.
    stuck: BitmapVec,
    /// Keeps the heap if it is closed with chunks that the GPU may still reach.
    remains: Option<Keepable<Remains>>,
    /// A stack of chunks that are not mapped yet.
    credit: Chunks,
    /// Memory for the [upper tables](Heap::upper_tables), while the heap has addresses.
    tables: Reserved,
    high: HighWater,
    life: Life,
    probe: HeapProbe,
    /// When the content died, if it is dead, in milliseconds of the set's clock.
    dead_since: u64,
    waits: Waits,
}

impl Inner {
    fn chunk_of(&self, len: usize, va: u64) -> Option<usize> {
        policy::chunk_of(self.addresses.as_ref()?.start, len, va)
    }

    /// Returns whether the chunk with this number was unmapped, but may still be reached by the
    /// GPU.
    fn is_stuck(&self, index: usize) -> bool {
        self.stuck.next_bit(index) == Some(index)
    }

    /// Returns the numbers of the mapped chunks, in ascending order.
    fn mapped<'a>(&'a self, gpu: &'a Gpu<'_>) -> impl Iterator<Item = usize> + 'a {
        self.chunks
            .indices(gpu.dev())
            .filter(|&index| !self.is_stuck(index))
    }

    /// Returns the number of all chunks: mapped, stuck, and in the credit.
    fn filled(&self) -> usize {
        self.chunks.filled() + self.credit.filled()
    }
}

/// The memory of a heap, and its addresses.
#[pin_data]
pub(crate) struct Heap {
    drm: ARef<Device>,
    /// The contribution to the sum of the control group that is charged, if any.
    contribution: Contribution<Option<ARef<ObjCgroup>>>,
    /// The largest number of chunks.
    len: usize,
    /// The number of bytes of memory, credit included, for statistics.
    resident: Atomic<usize>,
    /// The number of pages that could be given back, as last reported to `contribution`. Changed
    /// with `inner` locked.
    idle: Atomic<usize>,
    /// When the longest-waiting job stalled, in milliseconds of the set's clock, or
    /// [`NOT_STALLED`]. Written with `inner` locked, and read without.
    stalled: Atomic<u64>,
    /// Its index in the list of all heaps. Accessed with the list locked.
    index: Atomic<usize>,
    /// Its index in the list of its file. Accessed with the list locked.
    file_index: Atomic<usize>,
    #[pin]
    inner: Mutex<Inner>,
    #[pin]
    deadline: DelayedWork<Heap>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Heap { self.deadline }
}

/// Returns the allocation flags for code that a fence depends on: take what is free, wake kswapd,
/// never block.
fn at_once() -> Flags {
    GFP_NOWAIT | __GFP_NOWARN
}

/// Returns the allocation flags for stalled jobs: like [`at_once()`], but may use up to half of the
/// emergency reserves of the page allocator. Allocations that can block leave nothing else free.
fn urgently() -> Flags {
    GFP_ATOMIC | __GFP_NOWARN
}

/// Returns the allocation flags for code that no fence depends on: reclaim and retry, but never
/// invoke the OOM killer.
fn patiently() -> Flags {
    GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN
}

/// Returns the allocation flags for a worker that serves all clients in turn: reclaim, but do not
/// try again.
fn once() -> Flags {
    GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN
}

impl Heap {
    /// Creates a heap of `size` bytes, a multiple of [`CHUNK`], without memory and addresses. Its
    /// memory will be charged to the control group of the current task. Sleeps.
    pub(super) fn new(drm: &Device, gpu: &Gpu<'_>, size: usize) -> Result<Arc<Self>> {
        let len = size / CHUNK;
        let inner = Inner {
            addresses: None,
            state: PageState::None,
            chunks: Chunks::new(&drm.heaps.space, gpu.dev(), len)?,
            stuck: BitmapVec::new(len, GFP_KERNEL_ACCOUNT)?,
            remains: Some(Remains::new()?),
            credit: Chunks::new(&drm.heaps.space, gpu.dev(), len.min(policy::MAX_CREDIT))?,
            tables: Reserved::new(),
            high: HighWater::default(),
            life: Life::default(),
            probe: HeapProbe::new(drm.heaps.now()),
            dead_since: 0,
            waits: Waits::default(),
        };

        Arc::pin_init(
            try_pin_init!(Self {
                drm: drm.into(),
                contribution: drm.heaps.payers.open(ObjCgroup::current())?,
                len,
                resident: Atomic::new(0),
                idle: Atomic::new(0),
                stalled: Atomic::new(NOT_STALLED),
                index: Atomic::new(0),
                file_index: Atomic::new(0),
                inner <- new_mutex!(inner, "drm_gpu::heap"),
                deadline <- new_delayed_work!("drm_gpu::heap::deadline"),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the number of bytes of memory that the heap has, credit included. Takes no lock.
    pub(crate) fn resident(&self) -> usize {
        self.resident.load(Relaxed)
    }

    /// Returns whether `of` pays for the memory; [`None`] matches any group.
    fn is_of(&self, of: Option<&MemCgroup>) -> bool {
        of.is_none_or(|of| of.pays_for(self.contribution.group().as_deref()))
    }

    fn drm(&self) -> &Device {
        &self.drm
    }

    /// Returns when the longest-waiting job stalled, if one waits, in milliseconds of the set's
    /// clock. Takes no lock.
    fn stalled_since(&self) -> Option<u64> {
        Some(self.stalled.load(Relaxed)).filter(|&since| since != NOT_STALLED)
    }

    /// Updates [`Heap::stalled`], which is read without the lock.
    fn note_wait(&self, inner: &Inner) {
        let since = inner.waits.first().map_or(NOT_STALLED, |wait| wait.since);

        self.stalled.store(since, Relaxed);
    }

    /// Returns the largest number of pages for the tables between the root and the tables of the
    /// chunks: one, and one for each GiB that the heap touches.
    fn upper_tables(&self, start: u64) -> usize {
        const GIB: u64 = kernel::sizes::SZ_1G as u64;
        let last = start
            .saturating_add((self.len * CHUNK) as u64)
            .saturating_sub(1);

        1 + usize::try_from(last / GIB - start / GIB + 1).unwrap_or(1)
    }

    /// Gives the heap its addresses, from `start` on. From then on faults make it grow. Sleeps.
    ///
    /// Errors: `EINVAL` if the heap has or has had addresses, as it can be used by one file only;
    /// `ENOMEM`.
    pub(super) fn set_addresses(
        self: &Arc<Self>,
        space: &Arc<VmShared>,
        file_heaps: &Arc<FileHeaps>,
        start: u64,
    ) -> Result {
        let tables = Reserved::with_pages(self.upper_tables(start), GFP_KERNEL_ACCOUNT)?;
        {
            let mut inner = self.inner.lock();
            // Closing a heap takes what it would need to be closed once more.
            if inner.addresses.is_some() || inner.remains.is_none() {
                return Err(EINVAL);
            }
            inner.tables = tables;
            inner.addresses = Some(Addresses {
                space: space.clone(),
                file_heaps: file_heaps.clone(),
                start,
            });
            // The heap is empty, and job numbers are only comparable within one file.
            inner.life = Life::default();
        }

        let added = file_heaps.add(self).and_then(|()| self.drm.heaps.add(self));
        if added.is_err() {
            self.close();
        }
        added
    }

    /// Causes unbind to leak the chunks that are mapped or stuck, as the GPU may still write to
    /// them. Sleeps.
    fn leak(&self, gpu: &Gpu<'_>) {
        self.inner.lock().chunks.leak(gpu.dev());
    }

    /// Updates the resident size, and the sum of the pages that the heaps of the payer could give
    /// back.
    fn recount(&self, inner: &mut Inner) {
        let pages = match inner.addresses {
            Some(_) if !inner.life.is_live() => inner.filled() * CHUNK_PAGES,
            _ => 0,
        };

        self.resident.store(inner.filled() * CHUNK, Relaxed);
        self.contribution
            .count(self.idle.xchg(pages, Relaxed), pages);
    }

    /// Applies `f` to the life of the content. If the content dies, queues the trim worker, and
    /// probes the heap if that is due. Sleeps.
    fn update_life(&self, f: impl FnOnce(&mut Life)) {
        let mut inner = self.inner.lock();
        let was_live = inner.life.is_live();

        f(&mut inner.life);
        let dies = was_live && !inner.life.is_live();
        if dies {
            inner.dead_since = self.drm.heaps.now();
            self.drm.heaps.queue_trim();
        }
        self.recount(&mut inner);

        if dies && inner.probe.is_due(inner.dead_since) {
            drop(inner);
            with_gpu(&self.drm, |gpu| self.probe(gpu));
        }
    }

    /// Notes that a job of a context is about to use the heap: nothing is given back until it has
    /// ended. Sleeps. Returns `ENOMEM` if there is no memory for the note.
    fn begin(&self, context: u64) -> Result {
        let mut room = KVec::new();

        loop {
            let mut begun = false;
            let mut wanted = 0;

            // The fault path takes the lock, so memory is allocated without it.
            self.update_life(|life| {
                life.swap_room(&mut room);
                begun = life.begin(context);
                wanted = life.wanted_room();
            });
            if begun {
                return Ok(());
            }
            room = KVec::with_capacity(wanted, GFP_KERNEL_ACCOUNT)?;
        }
    }

    /// Notes that a job of a context, which used the heap, has ended. Sleeps.
    fn end(&self, context: u64, job: u64, effect: Effect) {
        self.update_life(|life| life.end(context, job, effect));
    }

    /// Notes that a context has been destroyed, and all of its jobs have ended. Sleeps.
    fn forget(&self, context: u64) {
        self.update_life(|life| life.forget(context));
    }

    /// Backs the chunk that contains `va` with memory, or leaves that to refill: see
    /// [`Grow::grow`]. Does not wait for memory.
    ///
    /// Errors: `EFAULT` if the heap does not contain the address, or has lost its addresses;
    /// `ENOMEM` if there was no memory by the deadline; those of the hardware.
    fn grow_at(self: &Arc<Self>, gpu: &Gpu<'_>, va: u64) -> Result<Growth> {
        let heaps = &self.drm.heaps;
        let mut inner = self.inner.lock();
        let index = inner.chunk_of(self.len, va).ok_or(EFAULT)?;
        let addresses = inner.addresses.clone().ok_or(EFAULT)?;

        if inner.chunks.get(gpu.dev(), index).is_some() {
            if !inner.is_stuck(index) {
                return Ok(Growth::Present);
            }
            self.free_stuck(gpu, &mut inner, &addresses)?;
        }
        inner.life.grow(addresses.file_heaps.last_job());

        let chunk = inner.credit.pop(gpu.dev()).or_else(|| self.take_one(gpu));
        let result = match chunk {
            Some(chunk) => self.insert(gpu, &mut inner, &addresses, index, chunk),
            None => Err(ENOMEM),
        };
        self.recount(&mut inner);
        match result {
            Ok(()) => {
                heaps.keep_reserve();
                return Ok(Growth::Mapped);
            }
            Err(e) if e != ENOMEM => return Err(e),
            Err(_) => (),
        }

        let wait = Wait {
            va,
            index,
            jobs: addresses.space.occupants().running(),
            since: heaps.now(),
        };
        let waits = inner.waits.begin(wait);
        self.note_wait(&inner);
        if !waits {
            if addresses.space.log().allows() {
                dev_notice!(
                    gpu.dev(),
                    "no memory for the heap at {:#x} of address space {} in {} ms\n",
                    va,
                    addresses.space.id(),
                    heaps.stall_ms()
                );
            }
            return Err(ENOMEM);
        }

        if let Some(first) = inner.waits.first() {
            self.queue_deadline(first.since);
        }
        heaps.queue_refill();
        Ok(Growth::Stalled)
    }

    /// Puts a chunk in its place and maps it. If that fails, the chunk becomes credit, is freed if
    /// there is no room for credit, or becomes stuck if the GPU may reach it. Does not wait for
    /// memory.
    fn insert(
        &self,
        gpu: &Gpu<'_>,
        inner: &mut Inner,
        addresses: &Addresses,
        index: usize,
        mut chunk: Chunk<'_>,
    ) -> Result {
        let dev = gpu.dev();
        let state = inner.state.after(Event::Grow)?;
        let table = chunk.take_table();

        inner.chunks.fill(dev, index, chunk)?;
        let mem = inner.chunks.get(dev, index).ok_or(ENODEV)?;
        if let Some(table) = table {
            inner.tables.push(table);
        }
        let prot = Prot {
            exec: false,
            write: true,
        };
        let result = addresses.space.map_reserved(
            gpu,
            addresses.range(index),
            mem.segments(),
            prot,
            &mut inner.tables,
        );
        // Keep no more than the upper tables: another page is that of the chunk, or an equivalent
        // one.
        let table = match inner.tables.len() > self.upper_tables(addresses.start) {
            true => inner.tables.pop(),
            false => None,
        };

        if let Err(e) = result {
            if let Some(mut chunk) = inner.chunks.take(dev, index) {
                if let Some(table) = table {
                    chunk.put_table(table);
                }
                if e.leak {
                    inner.chunks.fill(dev, index, chunk)?;
                    inner.stuck.set_bit(index);
                } else {
                    // The chunk is freed if there is no room.
                    let _ = inner.credit.push(dev, chunk);
                }
            }
            return Err(e.error);
        }
        inner.state = state;
        inner.high.record(inner.chunks.filled());
        inner.waits.end_for(index);
        self.note_wait(inner);
        Ok(())
    }
}

impl Grow for Heap {
    fn grow(self: Arc<Self>, gpu: &Gpu<'_>, va: u64) -> Result<Growth> {
        self.grow_at(gpu, va)
    }
}
