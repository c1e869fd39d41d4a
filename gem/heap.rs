// SPDX-License-Identifier: GPL-2.0

//! Heaps: BOs that get their memory when the GPU touches it, and give it back.
//!
//! The tiler writes as much as a frame needs, which nobody knows before. A heap BO is a range of
//! addresses; each 2 MiB of it, a chunk, get memory on the first access, in whatever order. A chunk is
//! zeroed, mapped for DMA, and brings the page along that its page table may take.
//!
//! # Growth
//!
//! A fault arrives in the MMU's interrupt thread, while the fence of the job waits for it: nothing
//! there may wait for memory. So it is paid for in advance: before a job with a heap is armed, the
//! heap is given *credit*, chunks that wait for their place ([`Use::prepare`]). A fault takes one of
//! these; if there is none, one of the device's reserve; then what the page allocator has at once. If
//! it has nothing, the job stays stalled, which is harmless, and a worker asks again and again for
//! what others free: kswapd, and a second worker, which reclaims and which nobody waits for. Who has
//! waited for the longest time gets it first. If there is nothing within the deadline, the access is
//! made again, and if there still is no memory then, that fault is one like any other. So no job is
//! ended but one that waits at that very moment.
//!
//! # Give-back
//!
//! What is in a heap is *live* as [`policy`] tells. When it is dead, its chunks may go, and the credit
//! with them: most of them after a while, all of them when memory is short. They are unmapped, the
//! GPU is made to forget them with one flush for all, if it knows the address space at all, and then
//! they are free. If the GPU does not answer, they are leaked, for it may still write to them.
//!
//! # Parts
//!
//! A [`Heap`] belongs to one file, as it can be neither exported nor mapped twice; it has its
//! addresses as long as a [`Mapping`](super::mapping::Mapping) does, and the VA tree leads faults to
//! it. [`set`] has all heaps of the device, [`uses`] those of a file and of a job, [`stall`] the jobs
//! that wait, and [`policy`] and [`wait`] the rules and numbers.
//!
//! Locks, in order: [`Heap::inner`], the reserve, those of the page table. Under them nobody waits for
//! memory, as the interrupt thread takes them.

mod give_back;
mod policy;
mod set;
mod show;
mod stall;
mod uses;
mod wait;

use core::{
    mem,
    ops::Range, //
};

use kernel::{
    alloc::Flags,
    drm::gem::uma::{
        Chunk,
        Chunks, //
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
        self,
        impl_has_delayed_work,
        new_delayed_work,
        DelayedWork, //
    }, //
};

use super::backing::{
    Event,
    State, //
};
use crate::{
    device::{
        with_gpu,
        Device,
        Gpu, //
    },
    mmu::{
        Prot,
        Space, //
    }, //
};

use policy::{
    HighWater,
    Life,
    Probe, //
};
use wait::{
    Wait,
    Waits, //
};

pub(crate) use set::HeapSet;
pub(crate) use uses::{
    Client,
    Use, //
};

/// Bytes by which a heap grows.
pub(crate) const CHUNK: usize = Chunk::SIZE;

/// Pages of a chunk.
const CHUNK_PAGES: usize = CHUNK / kernel::page::PAGE_SIZE;

/// See [`Heap::stalled`].
const NOT_STALLED: u64 = u64::MAX;

/// What a fault has led to.
pub(crate) enum Growth {
    /// The memory is mapped now, and the flush that ends the mapping lets the access go on.
    Mapped,
    /// The memory was mapped already: the access has to be made again.
    Present,
    /// A worker gets the memory. It lets the access go on, or ends the job.
    Stalled,
}

/// Where a heap is.
#[derive(Clone)]
struct Place {
    space: Arc<Space>,
    client: Arc<Client>,
    start: u64,
}

impl Place {
    fn range(&self, index: usize) -> Range<u64> {
        let at = self.start + (index * CHUNK) as u64;

        at..at + CHUNK as u64
    }
}

/// What a heap's lock guards.
struct Inner {
    /// None before the heap has addresses, and when it has lost them.
    place: Option<Place>,
    state: State,
    /// By number. Those that are there are mapped.
    chunks: Chunks,
    /// A stack of chunks that wait for a place.
    credit: Chunks,
    high: HighWater,
    life: Life,
    probe: Probe,
    /// Since when the content is dead, if it is: milliseconds of the set's clock.
    dead_since: u64,
    waits: Waits,
    /// Pages that were reported to the set.
    counted: usize,
}

impl Inner {
    fn chunk_of(&self, len: usize, va: u64) -> Option<usize> {
        policy::chunk_of(self.place.as_ref()?.start, len, va)
    }

    /// Chunks, wherever they are.
    fn filled(&self) -> usize {
        self.chunks.filled() + self.credit.filled()
    }
}

/// The memory of a heap, and where it is mapped.
#[pin_data]
pub(crate) struct Heap {
    drm: ARef<Device>,
    /// Number of chunks at most.
    len: usize,
    /// Bytes of memory, credit included, for statistics.
    resident: Atomic<usize>,
    /// Since when a job waits for memory, for looks without the lock: milliseconds of the set's clock,
    /// or [`NOT_STALLED`].
    stalled: Atomic<u64>,
    #[pin]
    inner: Mutex<Inner>,
    #[pin]
    deadline: DelayedWork<Heap>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Heap { self.deadline }
}

/// How memory is got where a fence depends on it: what there is, and kswapd is to see to more.
fn at_once() -> Flags {
    GFP_NOWAIT | __GFP_NOWARN
}

/// The same for a job that has stalled: it may use what the page allocator keeps for those who cannot
/// wait, up to a half. Those who can wait leave nothing but that.
fn urgently() -> Flags {
    GFP_ATOMIC | __GFP_NOWARN
}

/// How memory is got where no fence depends on it: the page allocator does what it can, but ends no
/// process for it.
fn patiently() -> Flags {
    GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN
}

/// Removes a heap from a list. True if the list is empty now.
fn remove(list: &Mutex<KVec<Arc<Heap>>>, heap: &Heap) -> bool {
    let (removed, empty) = {
        let mut list = list.lock();
        let index = list.iter().position(|this| core::ptr::eq(&**this, heap));

        (
            index.and_then(|index| list.remove(index).ok()),
            list.is_empty(),
        )
    };

    // With the lock released.
    drop(removed);
    empty
}

impl Heap {
    /// Makes a heap of `size` bytes, a multiple of [`CHUNK`], without memory and addresses. Sleeps.
    pub(super) fn new(drm: &Device, gpu: &Gpu<'_>, size: usize) -> Result<Arc<Self>> {
        let len = size / CHUNK;
        let inner = Inner {
            place: None,
            state: State::None,
            chunks: Chunks::new(gpu.dev(), len)?,
            credit: Chunks::new(gpu.dev(), len.min(policy::MAX_CREDIT))?,
            high: HighWater::default(),
            life: Life::default(),
            probe: Probe::new(drm.heaps.now()),
            dead_since: 0,
            waits: Waits::default(),
            counted: 0,
        };

        Arc::pin_init(
            pin_init!(Self {
                drm: drm.into(),
                len,
                resident: Atomic::new(0),
                stalled: Atomic::new(NOT_STALLED),
                inner <- new_mutex!(inner, "drm_gpu::heap"),
                deadline <- new_delayed_work!("drm_gpu::heap::deadline"),
            }),
            GFP_KERNEL,
        )
    }

    /// Bytes of memory that the heap has, credit included. Needs no lock.
    pub(crate) fn resident(&self) -> usize {
        self.resident.load(Relaxed)
    }

    fn drm(&self) -> &Device {
        &self.drm
    }

    /// Since when a job waits for memory, if one does, in milliseconds of the set's clock.
    fn stalled_since(&self) -> Option<u64> {
        Some(self.stalled.load(Relaxed)).filter(|&since| since != NOT_STALLED)
    }

    /// Tells those who look without the lock whether a job waits.
    fn note_wait(&self, inner: &Inner) {
        let since = inner.waits.now().map_or(NOT_STALLED, |wait| wait.since);

        self.stalled.store(since, Relaxed);
    }

    /// Pages for tables that the heap can need before the first chunk that is not one block: those
    /// between the root and the tables of its chunks.
    fn upper_tables(&self, start: u64) -> usize {
        const GIB: u64 = kernel::sizes::SZ_1G as u64;
        let last = start
            .saturating_add((self.len * CHUNK) as u64)
            .saturating_sub(1);

        1 + usize::try_from(last / GIB - start / GIB + 1).unwrap_or(1)
    }

    /// From now on the heap is at `start`, and faults make it grow. Sleeps.
    ///
    /// `EINVAL` if it is somewhere else: a heap is for one file at a time. `ENOMEM`.
    pub(super) fn place(
        self: &Arc<Self>,
        space: &Arc<Space>,
        client: &Arc<Client>,
        start: u64,
    ) -> Result {
        let tables = self.upper_tables(start);

        space.set_aside(tables)?;
        {
            let mut inner = self.inner.lock();
            if inner.place.is_some() {
                drop(inner);
                space.put_back(tables);
                return Err(EINVAL);
            }
            inner.place = Some(Place {
                space: space.clone(),
                client: client.clone(),
                start,
            });
            // It is empty, and each file counts its own jobs.
            inner.life = Life::default();
        }

        let added = client.add(self).and_then(|()| self.drm.heaps.add(self));
        if added.is_err() {
            self.close();
        }
        added
    }

    /// Ends the heap: it loses its addresses and its memory. Sleeps.
    pub(super) fn close(self: &Arc<Self>) {
        let place = self.inner.lock().place.clone();
        let Some(place) = place else {
            return;
        };

        place.client.remove(self);
        with_gpu(&self.drm, |gpu| {
            self.drm.heaps.remove(Some(gpu), self);

            let mut inner = self.inner.lock();
            let gone = inner.waits.end();
            self.note_wait(&inner);
            self.release(gpu, &mut inner, &place, 0, usize::MAX);
            inner.place = None;
            self.recount(&mut inner);
            drop(inner);

            // Nobody looks after it any more: the access is to fail.
            if let Some(va) = gone {
                place.space.retry(gpu, va);
            }
        })
        .unwrap_or_else(|| {
            // The memory went with the hardware, or stays if that does not stop.
            self.drm.heaps.remove(None, self);

            let mut inner = self.inner.lock();
            inner.place = None;
            self.recount(&mut inner);
        });
        place.space.put_back(self.upper_tables(place.start));
        workqueue::cancel_delayed_sync::<_, 0>(self.as_arc_borrow());
    }

    /// Reports to the set what could be given back.
    fn recount(&self, inner: &mut Inner) {
        let pages = match inner.place {
            Some(_) if !inner.life.is_live() => inner.filled() * CHUNK_PAGES,
            _ => 0,
        };

        self.resident.store(inner.filled() * CHUNK, Relaxed);
        self.drm
            .heaps
            .count(mem::replace(&mut inner.counted, pages), pages);
    }

    /// Changes the life of the content. Sleeps.
    fn live(&self, f: impl FnOnce(&mut Life)) {
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

    /// A job is about to use the heap: nothing is given back.
    fn begin(&self) {
        self.live(Life::begin);
    }

    /// A job has ended that used the heap. `wrote`: it has run, and was no fragment job.
    fn end(&self, job: u64, wrote: bool) {
        self.live(|life| life.end(job, wrote));
    }

    /// A fragment job of the file has run and ended.
    fn drawn(&self, job: u64) {
        self.live(|life| life.drawn(job));
    }

    /// Gives the heap its credit for a job, as far as there is memory. Sleeps, and reclaims.
    fn top_up(&self, gpu: &Gpu<'_>) {
        loop {
            {
                let inner = self.inner.lock();
                let wanted = policy::credit(self.len, inner.chunks.filled(), inner.high.mark());
                if inner.credit.filled() >= wanted {
                    break;
                }
            }
            let Ok(chunk) = Chunk::new(gpu.dev(), patiently()) else {
                break;
            };
            let mut inner = self.inner.lock();
            if inner.credit.push(gpu.dev(), chunk).is_err() {
                break;
            }
            self.recount(&mut inner);
        }
        self.drm.heaps.keep_reserve();
    }

    /// Gives memory to the chunk around `va`, on which a job waits, or has that done.
    ///
    /// For the interrupt thread: never waits for memory. `EFAULT`: the address is not, or not any
    /// more, one of this heap. `ENOMEM`: there was none in time.
    pub(crate) fn grow(self: &Arc<Self>, gpu: &Gpu<'_>, va: u64) -> Result<Growth> {
        let heaps = &self.drm.heaps;
        let mut inner = self.inner.lock();
        let index = inner.chunk_of(self.len, va).ok_or(EFAULT)?;
        let place = inner.place.clone().ok_or(EFAULT)?;

        if inner.chunks.get(gpu.dev(), index).is_some() {
            return Ok(Growth::Present);
        }
        inner.life.grow(place.client.last_job());

        let chunk = inner
            .credit
            .pop(gpu.dev())
            .or_else(|| heaps.take(gpu))
            .or_else(|| Chunk::new(gpu.dev(), at_once()).ok());

        let result = match chunk {
            Some(chunk) => self.insert(gpu, &mut inner, &place, index, chunk),
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
            jobs: place.space.occupants().seen(),
            since: heaps.now(),
        };
        let since = inner.waits.begin(wait);
        self.note_wait(&inner);
        let Some(since) = since else {
            if gpu.log.allows() {
                dev_notice!(
                    gpu.dev(),
                    "no memory for the heap at {:#x} of address space {} in {} ms\n",
                    va,
                    place.space.id(),
                    heaps.stall_ms()
                );
            }
            return Err(ENOMEM);
        };

        self.queue_deadline(since);
        heaps.queue_refill();
        Ok(Growth::Stalled)
    }

    /// Puts a chunk in its place and maps it. If that fails, it is credit, or is freed. Does not wait
    /// for memory.
    fn insert(
        &self,
        gpu: &Gpu<'_>,
        inner: &mut Inner,
        place: &Place,
        index: usize,
        mut chunk: Chunk<'_>,
    ) -> Result {
        let dev = gpu.dev();
        let state = inner.state.after(Event::Grow)?;
        let table = chunk.take_table();

        inner.chunks.fill(dev, index, chunk)?;
        let mem = inner.chunks.get(dev, index).ok_or(ENODEV)?;
        let prot = Prot {
            exec: false,
            write: true,
        };
        let (result, table) =
            place
                .space
                .map_paid(gpu, place.range(index), mem.segments(), prot, table);

        if let Err(e) = result {
            if let Some(mut chunk) = inner.chunks.take(dev, index) {
                if let Some(table) = table {
                    chunk.put_table(table);
                }
                if e.leak {
                    mem::forget(chunk);
                } else {
                    // Freed if there is no room.
                    let _ = inner.credit.push(dev, chunk);
                }
            }
            return Err(e.error);
        }
        inner.state = state;
        inner.high.see(inner.chunks.filled());
        inner.waits.served(index);
        self.note_wait(inner);
        Ok(())
    }
}
