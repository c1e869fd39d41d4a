// SPDX-License-Identifier: GPL-2.0

//! Heaps: BOs that get their memory when the GPU touches it.
//!
//! The tiler writes as much as a frame needs, which nobody knows before. A heap BO is a range of
//! addresses; each 2 MiB of it, a chunk, get memory on the first access. Chunks are zeroed, mapped
//! for DMA, and belong to the BO: a second file that maps the same heap sees the same memory.
//!
//! A fault arrives in the MMU's interrupt thread, while the fence of the job waits for it: nothing
//! there may wait for memory ([`Region::grow`] uses `GFP_NOWAIT`). If there is none at once, the job
//! stays stalled, which is harmless, and a worker gets the memory by ordinary means. It tries
//! [`TRIES`] times, each bounded by the page allocator's own patience, and then gives up: it has the
//! access made again, and if that faults once more and there still is no memory, it is a fault like
//! any other. So no job is ended but one that waits at that very moment.
//!
//! Objects: [`Heap`] is the memory, held by the BO and by each [`Region`]. A [`Region`] is a heap in
//! one address space, held by the [`Mapping`](super::mapping::Mapping) and by the VA tree, where the
//! fault finds it. It may outlive the mapping for as long as a fault looks at it, hence
//! [`Region::close`]: nothing is mapped after that, and the worker does not run.
//!
//! Locks, in order: the region's, the heap's, those of the page table. Under the first two only
//! `GFP_NOWAIT` is used, as the interrupt thread waits for them.

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
    impl_has_work,
    new_mutex,
    new_work,
    page::Page,
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
        Work,
        WorkItem, //
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

/// Bytes by which a heap grows.
pub(crate) const CHUNK: usize = Chunk::SIZE;

/// How often the worker tries to get memory for a stalled job. Each try may reclaim.
const TRIES: usize = 8;

/// What a fault has led to.
pub(crate) enum Growth {
    /// The memory is mapped now, and the flush that ends the mapping lets the access go on.
    Mapped,
    /// The memory was mapped already: the access has to be made again.
    Present,
    /// A worker gets the memory. It lets the access go on, or ends the job.
    Stalled,
}

/// The memory of a heap.
#[pin_data]
pub(crate) struct Heap {
    /// Number of chunks at most.
    len: usize,
    /// Bytes of memory, for statistics.
    resident: Atomic<usize>,
    #[pin]
    inner: Mutex<Inner>,
}

/// What a heap's lock guards.
struct Inner {
    state: State,
    chunks: Chunks,
}

impl Heap {
    /// Makes a heap of `size` bytes, a multiple of [`CHUNK`], without memory. Sleeps.
    pub(super) fn new(gpu: &Gpu<'_>, size: usize) -> Result<Arc<Self>> {
        let len = size / CHUNK;
        let chunks = Chunks::new(gpu.dev(), len)?;

        Arc::pin_init(
            pin_init!(Self {
                len,
                resident: Atomic::new(0),
                inner <- new_mutex!(
                    Inner {
                        state: State::None,
                        chunks,
                    },
                    "drm_gpu::heap"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// Bytes of memory that the heap has. Needs no lock.
    pub(crate) fn resident(&self) -> usize {
        self.resident.load(Relaxed)
    }

    /// Where the content is.
    pub(super) fn state(&self) -> State {
        self.inner.lock().state
    }
}

/// Which chunks of a region are mapped.
pub(super) struct Mapped {
    words: KVec<u64>,
}

impl Mapped {
    fn new(len: usize) -> Result<Self> {
        Ok(Self {
            words: KVec::from_elem(0, len.div_ceil(64), GFP_KERNEL)?,
        })
    }

    const fn empty() -> Self {
        Self { words: KVec::new() }
    }

    fn contains(&self, index: usize) -> bool {
        self.words
            .get(index / 64)
            .is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    fn insert(&mut self, index: usize) {
        if let Some(word) = self.words.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// The addresses of the chunks in ascending order, if the region begins at `start`.
    pub(super) fn ranges(&self, start: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        (0..self.words.len() * 64)
            .filter(|&index| self.contains(index))
            .map(move |index| {
                let at = start + (index * CHUNK) as u64;

                at..at + CHUNK as u64
            })
    }
}

/// A fault that waits for memory.
struct Stall {
    space: Arc<Space>,
    va: u64,
}

/// What a region's lock guards.
struct Place {
    /// First address; none before the region has addresses, and when it has lost them.
    start: Option<u64>,
    mapped: Mapped,
    stall: Option<Stall>,
    /// The chunk that the worker found no memory for. The next fault on it does not wait.
    given_up: Option<usize>,
}

/// A heap in an address space.
#[pin_data]
pub(crate) struct Region {
    drm: ARef<Device>,
    heap: Arc<Heap>,
    #[pin]
    place: Mutex<Place>,
    #[pin]
    refill: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Region { self.refill }
}

impl Region {
    /// Makes a region that has no addresses yet.
    pub(super) fn new(drm: &Device, heap: &Arc<Heap>) -> Result<Arc<Self>> {
        let mapped = Mapped::new(heap.len)?;

        Arc::pin_init(
            pin_init!(Self {
                drm: drm.into(),
                heap: heap.clone(),
                place <- new_mutex!(
                    Place {
                        start: None,
                        mapped,
                        stall: None,
                        given_up: None,
                    },
                    "drm_gpu::heap_region"
                ),
                refill <- new_work!("drm_gpu::heap_refill"),
            }),
            GFP_KERNEL,
        )
    }

    /// From now on the region is at `start`, and faults can make it grow.
    pub(super) fn place(&self, start: u64) {
        self.place.lock().start = Some(start);
    }

    /// Ends the region: nothing is mapped from now on, and the worker is done with it. Returns what
    /// is mapped. Sleeps, for as long as the worker needs for the try it is at.
    pub(super) fn close(self: &Arc<Self>) -> Mapped {
        let (mapped, stall) = {
            let mut place = self.place.lock();

            place.start = None;
            (
                mem::replace(&mut place.mapped, Mapped::empty()),
                place.stall.take(),
            )
        };

        workqueue::cancel_sync(self.as_arc_borrow());
        // The worker will not look after it any more: the access is to fail.
        if let Some(stall) = stall {
            with_gpu(&self.drm, |gpu| stall.space.retry(gpu, stall.va));
        }
        mapped
    }

    /// Gives memory to the chunk around `va`, on which a job waits, or has that done.
    ///
    /// For the interrupt thread: never waits for memory. `EFAULT`: the address is not, or not any
    /// more, one of this region.
    pub(crate) fn grow(
        self: &Arc<Self>,
        gpu: &Gpu<'_>,
        space: &Arc<Space>,
        va: u64,
    ) -> Result<Growth> {
        let gfp = GFP_NOWAIT | __GFP_NOWARN;
        let mut place = self.place.lock();

        let err = match self.fill(gpu, space, &mut place, va, || Chunk::new(gpu.dev(), gfp)) {
            Ok(growth) => return Ok(growth),
            Err(err) => err,
        };
        if err != ENOMEM {
            return Err(err);
        }

        let index = place
            .start
            .and_then(|start| chunk_of(start, self.heap.len, va));
        if place.given_up.take().is_some_and(|i| Some(i) == index) {
            if gpu.log.allows() {
                dev_notice!(
                    gpu.dev(),
                    "no memory for the heap at {:#x} of address space {}\n",
                    va,
                    space.id()
                );
            }
            return Err(err);
        }

        place.stall = Some(Stall {
            space: space.clone(),
            va,
        });

        // With the lock held, so that `close()` cancels it. If it is queued already, it has yet to
        // look.
        let _ = workqueue::system_dfl().enqueue(self.clone());
        Ok(Growth::Stalled)
    }

    /// Maps the chunk around `va`, which `alloc` provides if the heap does not have it. Does not
    /// sleep if `alloc` does not.
    fn fill<'a>(
        &self,
        gpu: &Gpu<'_>,
        space: &Space,
        place: &mut Place,
        va: u64,
        alloc: impl FnOnce() -> Result<Chunk<'a>>,
    ) -> Result<Growth> {
        let start = place.start.ok_or(EFAULT)?;
        let index = chunk_of(start, self.heap.len, va).ok_or(EFAULT)?;

        if place.mapped.contains(index) {
            return Ok(Growth::Present);
        }

        let mut heap = self.heap.inner.lock();
        let heap = &mut *heap;
        let dev = gpu.dev();

        if heap.chunks.get(dev, index).is_none() {
            let state = heap.state.after(Event::Grow)?;

            heap.chunks.fill(dev, index, alloc()?)?;
            heap.state = state;
            self.heap
                .resident
                .store(heap.chunks.filled() * CHUNK, Relaxed);
        }

        // A chunk that cannot be mapped now stays in the heap for the next try.
        let chunk = heap.chunks.get(dev, index).ok_or(ENODEV)?;
        let at = start + (index * CHUNK) as u64;
        space
            .map(
                gpu,
                at..at + CHUNK as u64,
                chunk.segments(),
                Prot { exec: false },
                GFP_NOWAIT | __GFP_NOWARN,
            )
            .map_err(|e| {
                if e.leak {
                    mem::forget(self.heap.clone());
                }
                e.error
            })?;
        place.mapped.insert(index);
        place.given_up = None;
        Ok(Growth::Mapped)
    }

    /// Gets memory for a stalled job. May sleep and reclaim, with no lock held.
    fn refill(&self, gpu: &Gpu<'_>, stall: &Stall) -> Result {
        let gfp: Flags = GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;

        for _ in 0..TRIES {
            // Unbind ends the job, and waits for us.
            if gpu.halted() {
                return Ok(());
            }

            let mut chunk = Chunk::new(gpu.dev(), gfp).ok();

            let ret = self.fill(gpu, &stall.space, &mut self.place.lock(), stall.va, || {
                chunk.take().ok_or(ENOMEM)
            });
            match ret {
                Err(ENOMEM) => (),
                // What was mapped before us has let the access go on.
                Ok(Growth::Mapped | Growth::Present | Growth::Stalled) => return Ok(()),
                Err(err) => return Err(err),
            }

            // The page table found no memory. It may not wait for it under the locks; but what is
            // reclaimed here is free for its next try.
            drop(Page::alloc_page(gfp));
        }
        Err(ENOMEM)
    }
}

impl WorkItem for Region {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let Some(stall) = this.place.lock().stall.take() else {
            return;
        };

        // Without hardware nobody waits.
        let ret = with_gpu(&this.drm, |gpu| this.refill(gpu, &stall));

        match ret {
            None | Some(Ok(())) => (),
            // Also if the region was closed meanwhile: a job that uses it all the same still waits.
            Some(Err(_)) => {
                {
                    let mut place = this.place.lock();

                    place.given_up = place
                        .start
                        .and_then(|start| chunk_of(start, this.heap.len, stall.va));
                }
                with_gpu(&this.drm, |gpu| stall.space.retry(gpu, stall.va));
            }
        }
    }
}

/// The number of the chunk that `va` lies in, of `len` from `start` on.
fn chunk_of(start: u64, len: usize, va: u64) -> Option<usize> {
    let index = usize::try_from(va.checked_sub(start)? / CHUNK as u64).ok()?;

    (index < len).then_some(index)
}

#[kunit_tests(drm_gpu_heap)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_addresses() {
        const START: u64 = 0x400_0000;
        const SIZE: u64 = CHUNK as u64;

        assert_eq!(chunk_of(START, 3, START), Some(0));
        assert_eq!(chunk_of(START, 3, START + SIZE - 1), Some(0));
        assert_eq!(chunk_of(START, 3, START + SIZE), Some(1));
        assert_eq!(chunk_of(START, 3, START + 3 * SIZE - 1), Some(2));
        assert_eq!(chunk_of(START, 3, START + 3 * SIZE), None);
        assert_eq!(chunk_of(START, 3, START - 1), None);
        assert_eq!(chunk_of(START, 3, 0), None);
        assert_eq!(chunk_of(START, 3, u64::MAX), None);
    }

    #[test]
    fn mapped_chunks_are_listed() -> Result {
        let mut mapped = Mapped::new(130)?;
        for index in [0, 63, 64, 129] {
            assert!(!mapped.contains(index));
            mapped.insert(index);
            assert!(mapped.contains(index));
        }
        assert!(!mapped.contains(1));
        assert!(!mapped.contains(100_000));
        // Out of reach: nothing happens.
        mapped.insert(100_000);

        const SIZE: u64 = CHUNK as u64;
        let mut ranges = mapped.ranges(SIZE);
        for index in [0, 63, 64, 129] {
            let at = SIZE * (index + 1);
            assert_eq!(ranges.next(), Some(at..at + SIZE));
        }
        assert_eq!(ranges.next(), None);
        assert_eq!(Mapped::empty().ranges(0).next(), None);
        Ok(())
    }
}
