// SPDX-License-Identifier: GPL-2.0

//! All heaps of a device: its reserve of chunks, and the workers that get memory and give it back.
//!
//! Locks, in order: the list, a heap, the reserve. The fault path takes the last two, under which
//! nobody waits for memory; the shrinker takes the first two if it gets them at once.
//!
//! The workers have the device from the heaps in the list, so they do nothing when there are none.
//! [`HeapSet::settle`] ends them.
//!
//! Refill and the deadlines of the heaps are on one queue, which may come down to one thread when memory
//! is short. So neither waits there: refill does one step at a time, and a pause is a delay of the next.

use core::mem;

use kernel::{
    device,
    dma_buf::fence::Signalling,
    drm::gem::uma::{
        Chunk,
        Chunks, //
    },
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        Mutex, //
    },
    time::{
        msecs_to_jiffies,
        Instant,
        Monotonic, //
    },
    workqueue::{
        self,
        impl_has_delayed_work,
        impl_has_work,
        new_delayed_work,
        new_work,
        DelayedWork,
        KeepsQueue,
        OwnedQueue,
        Work,
        WorkItem, //
    }, //
};

use super::{
    at_once,
    patiently,
    policy,
    stall::Given,
    urgently,
    wait,
    Heap,
    CHUNK_PAGES, //
};
use crate::{
    device::{
        with_gpu,
        Gpu, //
    },
    shrinker, //
};

/// Gets memory for stalled jobs and for the reserve.
const REFILL: u64 = 1;
/// Gives back what idle heaps have.
const TRIM: u64 = 2;
/// Takes memory from others for stalled jobs.
const RECLAIM: u64 = 3;

/// Pause after the page allocator had nothing.
const RETRY_MS: u32 = 10;

/// What refill does next.
enum Next {
    /// The next step.
    Step,
    /// The same again, after a pause.
    Pause,
    /// Nothing, until it is asked to.
    Rest,
}

/// The heaps of a device.
#[pin_data]
pub(crate) struct HeapSet {
    /// Heaps that have an address.
    #[pin]
    list: Mutex<KVec<Arc<Heap>>>,
    /// A stack of chunks for whoever has no credit.
    #[pin]
    reserve: Mutex<Chunks>,
    /// Number of chunks in the reserve, for looks without the lock.
    in_reserve: Atomic<usize>,
    /// Pages that [`Self::scan`] could free.
    pages: Atomic<usize>,
    /// Milliseconds that a job waits for memory.
    stall_ms: u32,
    /// Zero of the clock.
    epoch: Instant<Monotonic>,
    /// No worker is started any more.
    settled: Atomic<bool>,
    /// For what stalled jobs wait for. The last reference to it goes after [`Self::settle`], hence not
    /// with one of its items.
    pub(super) queue: OwnedQueue,
    #[pin]
    refill: DelayedWork<HeapSet, REFILL>,
    #[pin]
    trim: DelayedWork<HeapSet, TRIM>,
    #[pin]
    reclaim: Work<HeapSet, RECLAIM>,
}

impl_has_work! {
    impl HasWork<Self, 3> for HeapSet { self.reclaim }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 1> for HeapSet { self.refill }
    impl HasDelayedWork<Self, 2> for HeapSet { self.trim }
}

impl KeepsQueue for HeapSet {
    fn queue(&self) -> &OwnedQueue {
        &self.queue
    }
}

impl HeapSet {
    /// Without heaps. `timeout_ms`: how long jobs may run. Sleeps.
    pub(crate) fn new(dev: &device::Device<device::Bound>, timeout_ms: u32) -> Result<Arc<Self>> {
        let reserve = Chunks::new(dev, policy::RESERVE)?;
        let queue = OwnedQueue::for_reclaim(c"drm_gpu_heap")?;

        Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(KVec::new(), "drm_gpu::heap::list"),
                reserve <- new_mutex!(reserve, "drm_gpu::heap::reserve"),
                in_reserve: Atomic::new(0),
                pages: Atomic::new(0),
                stall_ms: policy::stall_ms(timeout_ms),
                epoch: Instant::now(),
                settled: Atomic::new(false),
                queue,
                refill <- new_delayed_work!("drm_gpu::heap::refill"),
                trim <- new_delayed_work!("drm_gpu::heap::trim"),
                reclaim <- new_work!("drm_gpu::heap::reclaim"),
            }),
            GFP_KERNEL,
        )
    }

    /// Number of pages in dead chunks and in credit that nobody needs. Takes no lock.
    pub(crate) fn pages(&self) -> usize {
        self.pages.load(Relaxed)
    }

    /// Frees up to `nr` pages of [`Self::pages`], in whole chunks. Returns how many.
    ///
    /// For the shrinker: waits for no lock but spinlocks, and allocates nothing. Content that may
    /// still be needed stays. A chunk leaves when the GPU has forgotten it; if it does not answer, the
    /// chunk is lost.
    pub(crate) fn scan(&self, gpu: &Gpu<'_>, nr: usize) -> usize {
        let mut freed = 0;
        let Some(list) = self.list.try_lock() else {
            return 0;
        };

        for heap in list.iter() {
            if freed >= nr {
                break;
            }
            freed += heap.try_give_back(gpu, nr - freed);
        }
        freed
    }

    /// Calls `f` for each heap, with a lock held, until it fails. [`None`] if the lock was not free.
    pub(super) fn try_for_each<E>(
        &self,
        f: impl FnMut(&Arc<Heap>) -> Result<(), E>,
    ) -> Option<Result<(), E>> {
        Some(self.list.try_lock()?.iter().try_for_each(f))
    }

    /// Number of chunks in the reserve.
    pub(super) fn in_reserve(&self) -> usize {
        self.in_reserve.load(Relaxed)
    }

    /// Milliseconds that a job waits for memory.
    pub(super) fn stall_ms(&self) -> u32 {
        self.stall_ms
    }

    /// Milliseconds of a monotonic clock.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(0)
    }

    /// What `scan` can free changes, as the contribution of a heap goes from `old` to `new` pages.
    pub(super) fn count(&self, old: usize, new: usize) {
        // The sum wraps back.
        self.pages.add(new.wrapping_sub(old), Relaxed);
    }

    /// Adds a heap that has an address. Sleeps.
    pub(super) fn add(&self, heap: &Arc<Heap>) -> Result {
        let mut room = KVec::new();

        // Stalled jobs wait for the lock: nobody waits for memory with it held.
        loop {
            let mut list = self.list.lock();

            if list.len() == list.capacity() && list.len() < room.capacity() {
                for heap in list.drain_all() {
                    // There is room.
                    let _ = room.push_within_capacity(heap);
                }
                mem::swap(&mut *list, &mut room);
            }
            if list.len() < list.capacity() {
                return list.push_within_capacity(heap.clone()).map_err(|_| ENOMEM);
            }
            let wanted = list.len().saturating_mul(2).max(4);

            drop(list);
            room = KVec::with_capacity(wanted, GFP_KERNEL)?;
        }
    }

    /// Removes a heap that has lost its address. With the last one goes the reserve. Sleeps.
    pub(super) fn remove(&self, gpu: Option<&Gpu<'_>>, heap: &Heap) {
        if super::remove(&self.list, heap) {
            // Without hardware, unbind has done it.
            if let Some(gpu) = gpu {
                self.drain(gpu);
            }
        }
    }

    /// Takes a chunk from the reserve. Waits for no memory.
    pub(super) fn take<'a>(&self, gpu: &'a Gpu<'_>) -> Option<Chunk<'a>> {
        let mut reserve = self.reserve.lock();
        let chunk = reserve.pop(gpu.dev());

        self.in_reserve.store(reserve.filled(), Relaxed);
        chunk
    }

    /// Puts a chunk into the reserve, or frees it if there are enough.
    pub(super) fn put(&self, gpu: &Gpu<'_>, chunk: Chunk<'_>) {
        let mut reserve = self.reserve.lock();

        // A chunk that does not fit is freed.
        let _ = reserve.push(gpu.dev(), chunk);
        self.in_reserve.store(reserve.filled(), Relaxed);
    }

    /// Has the reserve filled if it is not full. Any context.
    pub(super) fn keep_reserve(self: &Arc<Self>) {
        if self.in_reserve() < policy::RESERVE {
            self.queue_refill();
        }
    }

    /// Has memory found for stalled jobs, then for the reserve. Any context.
    pub(super) fn queue_refill(self: &Arc<Self>) {
        self.queue_refill_in(0);
    }

    fn queue_refill_in(self: &Arc<Self>, ms: u32) {
        if !self.settled.load(Acquire) {
            // If it is queued already, it has yet to look, after a pause at the latest.
            let _ = OwnedQueue::enqueue_delayed::<_, REFILL>(self.clone(), msecs_to_jiffies(ms));
        }
    }

    /// Has memory taken from others for stalled jobs, if there are any. Any context.
    fn queue_reclaim(self: &Arc<Self>) {
        if !self.settled.load(Acquire) {
            let _ = workqueue::system_dfl().enqueue::<Arc<Self>, RECLAIM>(self.clone());
        }
    }

    /// Has idle heaps looked after before long. Any context.
    pub(super) fn queue_trim(self: &Arc<Self>) {
        if !self.settled.load(Acquire) {
            let _ = workqueue::system_dfl().enqueue_delayed::<Arc<Self>, TRIM>(
                self.clone(),
                msecs_to_jiffies(policy::IDLE_MS),
            );
        }
    }

    /// Ends the workers. To be called when there are no ioctls, interrupts and jobs any more. Sleeps.
    pub(crate) fn settle(self: &Arc<Self>) {
        self.settled.store(true, Release);
        workqueue::cancel_delayed_sync::<_, REFILL>(self.as_arc_borrow());
        workqueue::cancel_delayed_sync::<_, TRIM>(self.as_arc_borrow());
        // Refill queues it.
        workqueue::cancel_sync::<_, RECLAIM>(self.as_arc_borrow());
    }

    /// The heap whose job has waited for memory for the longest time, and any heap.
    fn find(&self) -> (Option<Arc<Heap>>, Option<Arc<Heap>>) {
        let list = self.list.lock();
        let waiting = list.iter().map(|heap| (heap, heap.stalled_since()));

        (wait::first(waiting).cloned(), list.first().cloned())
    }

    /// Gets a chunk for a heap whose job waits for it.
    ///
    /// The fence of the job waits for this, and reclaim may wait for the fence. So this one never
    /// reclaims memory itself.
    fn serve(&self, gpu: &Gpu<'_>, heap: &Heap) -> Next {
        // Unbind ends the job.
        if gpu.halted() {
            return Next::Rest;
        }
        let chunk = self
            .take(gpu)
            .or_else(|| Chunk::new(gpu.dev(), urgently()).ok());
        let Some(chunk) = chunk else {
            return Next::Pause;
        };

        match heap.give(gpu, chunk) {
            Given::Taken => (),
            Given::Spare(chunk) => self.put(gpu, chunk),
            Given::NotEnough => return Next::Pause,
        }
        Next::Step
    }

    /// Gets a chunk for the reserve, if there is one at once.
    fn fill_reserve(&self, gpu: &Gpu<'_>) -> Next {
        if self.in_reserve() >= policy::RESERVE || gpu.halted() {
            return Next::Rest;
        }
        let Ok(chunk) = Chunk::new(gpu.dev(), at_once()) else {
            // The next job asks again.
            return Next::Rest;
        };

        self.keep(gpu, chunk);
        Next::Step
    }

    /// Puts a chunk into the reserve, unless the last heap went meanwhile.
    fn keep(&self, gpu: &Gpu<'_>, chunk: Chunk<'_>) {
        self.put(gpu, chunk);
        if self.find().1.is_none() {
            self.drain(gpu);
        }
    }

    /// Takes memory from others: first what clients of this device do not need, for which this waits for
    /// nobody, then what reclaim finds. May wait for long, and find nothing.
    fn reclaim_for(&self, gpu: &Gpu<'_>, heap: &Heap) {
        if gpu.halted() {
            return;
        }
        shrinker::shrink(heap.drm(), CHUNK_PAGES, at_once());
        if heap.stalled_since().is_none() {
            return;
        }
        if let Ok(chunk) = Chunk::new(gpu.dev(), patiently()) {
            self.keep(gpu, chunk);
        }
    }

    /// Frees the reserve.
    fn drain(&self, gpu: &Gpu<'_>) {
        while self.take(gpu).is_some() {}
    }
}

impl WorkItem<REFILL> for HeapSet {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let (stalled, any) = {
            let _signalling = Signalling::begin();
            this.find()
        };
        let Some(heap) = stalled.as_ref().or(any.as_ref()) else {
            return;
        };
        let next = with_gpu(heap.drm(), |gpu| {
            let _signalling = Signalling::begin();

            match &stalled {
                Some(heap) => this.serve(gpu, heap),
                None => this.fill_reserve(gpu),
            }
        });

        match next {
            Some(Next::Step) => this.queue_refill(),
            Some(Next::Pause) => {
                this.queue_reclaim();
                this.queue_refill_in(RETRY_MS);
            }
            Some(Next::Rest) | None => (),
        }
    }
}

impl WorkItem<RECLAIM> for HeapSet {
    type Pointer = Arc<Self>;

    /// No fence waits for this, as refill does not: it looks again from time to time.
    fn run(this: Arc<Self>) {
        if let Some(heap) = this.find().0 {
            with_gpu(heap.drm(), |gpu| this.reclaim_for(gpu, &heap));
        }
    }
}

impl WorkItem<TRIM> for HeapSet {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let Some(first) = this.find().1 else {
            return;
        };
        // The heaps of the list have one device.
        let again = with_gpu(first.drm(), |gpu| {
            let list = this.list.lock();

            // Of all, not of those up to the first.
            list.iter()
                .fold(false, |again, heap| heap.trim(gpu) || again)
        });

        if again == Some(true) {
            this.queue_trim();
        }
    }
}
