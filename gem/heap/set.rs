// SPDX-License-Identifier: GPL-2.0

//! All heaps of a device, its reserve of chunks, and the workers that get memory and give it back.
//!
//! Locks, in order: the list, a heap, the reserve. The fault path takes the last two, so code that
//! holds one of them must not wait for memory; the shrinker only tries to get the first two. The
//! lock of [`HeapSet::partial`] is taken alone.
//!
//! The workers get at the device through the heaps in the list, so they do nothing when the list is
//! empty. [`HeapSet::settle`] ends them.
//!
//! Refill and the deadlines of the heaps share one queue, which may be down to one thread when
//! memory is short. So neither sleeps to pass the time: refill does one step at a time, and queues
//! the next one with a delay if it needs a pause.

use kernel::{
    alloc::Flags,
    device,
    dma_buf::fence::Signalling,
    drm::gem::uma::{
        Chunk,
        ChunkSpace,
        Chunks,
        Partial, //
    },
    mm::memcg::{
        Charge,
        ObjCgroup, //
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sizes::SZ_64K,
    sync::{
        aref::ARef,
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
    list::IndexedList,
    once,
    patiently,
    payers::Payers,
    policy,
    stall::Given,
    urgently,
    wait,
    Heap,
    CHUNK_PAGES, //
};
use crate::device::{
    with_gpu,
    Device,
    Gpu, //
};

/// Work item that gets memory for stalled jobs and for the reserve.
const REFILL: u64 = 1;
/// Work item that gives back the memory of idle heaps.
const TRIM: u64 = 2;
/// Work item that reclaims memory for stalled jobs.
const RECLAIM: u64 = 3;

/// Pause in milliseconds before refill tries again to get memory.
const RETRY_MS: u32 = 10;

/// The number of pages allocated at a time when a whole chunk is not available at once.
pub(super) const STEP_PAGES: usize = if SZ_64K > PAGE_SIZE {
    SZ_64K / PAGE_SIZE
} else {
    1
};

/// The next action of refill.
enum Next {
    /// Take the next step at once.
    Step,
    /// There was no memory or no charge: start reclaim, and try again after a pause.
    Pause,
    /// Do nothing until refill is queued again.
    Rest,
}

/// Takes up to a number of pages from clients of the device, as memory management would with these
/// allocation flags. Returns the number of pages taken.
pub(crate) type Shrink = fn(&Device, usize, Flags) -> usize;

/// The heaps whose jobs wait for memory, as found by [`HeapSet::find`].
struct Found {
    /// The heap whose job has waited for the longest time, of those whose payer could be charged
    /// for a chunk, with that charge.
    stalled: Option<(Arc<Heap>, Option<Charge>)>,
    /// A heap whose job waits, but whose payer is at its limit.
    unpaid: Option<Arc<Heap>>,
    /// Any heap, which gives access to the device.
    any: Option<Arc<Heap>>,
}

/// The heaps of a device.
#[pin_data]
pub(crate) struct HeapSet {
    /// The heaps that have an address, or stuck chunks.
    #[pin]
    pub(super) list: Mutex<IndexedList<Heap>>,
    /// The memory of all chunks of the device.
    pub(super) space: ChunkSpace,
    /// A stack of chunks for heaps without credit. These are not charged to any group.
    #[pin]
    reserve: Mutex<Chunks>,
    /// The part of the next chunk that refill has collected. Code that holds the lock must neither
    /// wait for memory nor take another lock.
    #[pin]
    partial: Mutex<Partial>,
    /// The number of chunks in the reserve. Written with `reserve` locked, and read without.
    in_reserve: Atomic<usize>,
    /// The control groups that pay for the heaps, with the numbers of pages that [`Self::scan`]
    /// could free.
    pub(super) payers: Arc<Payers<Option<ARef<ObjCgroup>>>>,
    /// How long a job waits for memory, in milliseconds.
    stall_ms: u32,
    /// Takes memory that clients of the device do not need.
    shrink: Shrink,
    /// The zero of the set's clock.
    epoch: Instant<Monotonic>,
    /// Set when no more workers may be started.
    settled: Atomic<bool>,
    /// The queue for the work that stalled jobs depend on. Its last reference is dropped after
    /// [`Self::settle`], hence not by one of its own items.
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
    /// Creates a set without heaps. Jobs may run for `timeout_ms`. Sleeps.
    pub(crate) fn new(
        dev: &device::Device<device::Bound>,
        timeout_ms: u32,
        shrink: Shrink,
    ) -> Result<Arc<Self>> {
        let space = ChunkSpace::new(dev)?;
        let reserve = Chunks::new(&space, dev, policy::RESERVE)?;
        let partial = Partial::new(&space, dev)?;
        let payers = Payers::new()?;
        let queue = OwnedQueue::for_reclaim(c"drm_gpu_heap")?;

        Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(
                    IndexedList::new(|heap: &Heap| &heap.index),
                    "drm_gpu::heap::list"
                ),
                space,
                reserve <- new_mutex!(reserve, "drm_gpu::heap::reserve"),
                partial <- new_mutex!(partial, "drm_gpu::heap::partial"),
                in_reserve: Atomic::new(0),
                payers,
                stall_ms: policy::stall_ms(timeout_ms),
                shrink,
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

    /// Calls `f` for each heap, with the list locked, until it fails. Returns [`None`] if the lock
    /// is taken.
    pub(super) fn try_for_each<E>(
        &self,
        f: impl FnMut(&Arc<Heap>) -> Result<(), E>,
    ) -> Option<Result<(), E>> {
        Some(self.list.try_lock()?.iter().try_for_each(f))
    }

    /// Returns the number of chunks in the reserve. Takes no lock.
    pub(super) fn in_reserve(&self) -> usize {
        self.in_reserve.load(Relaxed)
    }

    /// Returns how long a job waits for memory, in milliseconds.
    pub(super) fn stall_ms(&self) -> u32 {
        self.stall_ms
    }

    /// Returns the time of the set's clock, which is monotonic, in milliseconds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(0)
    }

    /// Adds a heap that has an address. Sleeps. Returns `ENOMEM` if there is no memory for the
    /// list.
    pub(super) fn add(&self, heap: &Arc<Heap>) -> Result {
        let mut room = KVVec::new();

        // Refill takes the lock for stalled jobs, so memory is allocated without it.
        loop {
            let mut list = self.list.lock();

            list.move_into(&mut room);
            if list.has_room() {
                return list.push(heap.clone());
            }
            let wanted = list.len().saturating_mul(2).max(4);

            drop(list);
            room = KVVec::with_capacity(wanted, GFP_KERNEL | __GFP_NOWARN)?;
        }
    }

    /// Removes a heap that has lost its address, and frees the reserve with the last one. Sleeps.
    pub(super) fn remove(&self, gpu: Option<&Gpu<'_>>, heap: &Heap) {
        let (removed, is_empty) = {
            let mut list = self.list.lock();

            (list.remove(heap), list.is_empty())
        };

        // Drop the reference with the lock released.
        drop(removed);
        if is_empty {
            // Without hardware there is no reserve: unbind has freed it.
            if let Some(gpu) = gpu {
                self.drain(gpu);
            }
        }
    }

    /// Takes a chunk from the reserve. Does not wait for memory.
    pub(super) fn take<'a>(&self, gpu: &'a Gpu<'_>) -> Option<Chunk<'a>> {
        let mut reserve = self.reserve.lock();
        let chunk = reserve.pop(gpu.dev());

        self.in_reserve.store(reserve.filled(), Relaxed);
        chunk
    }

    /// Puts a chunk into the reserve, or frees it if the reserve is full. A charge for the chunk is
    /// returned.
    pub(super) fn put(&self, gpu: &Gpu<'_>, mut chunk: Chunk<'_>) {
        chunk.pay(None);
        let mut reserve = self.reserve.lock();

        // A chunk that does not fit is freed.
        let _ = reserve.push(gpu.dev(), chunk);
        self.in_reserve.store(reserve.filled(), Relaxed);
    }

    /// Queues refill if the reserve is not full. Callable from any context.
    pub(super) fn keep_reserve(self: &Arc<Self>) {
        if self.in_reserve() < policy::RESERVE {
            self.queue_refill();
        }
    }

    /// Queues refill, which gets memory for stalled jobs, then for the reserve. Callable from any
    /// context.
    pub(super) fn queue_refill(self: &Arc<Self>) {
        self.queue_refill_in(0);
    }

    fn queue_refill_in(self: &Arc<Self>, ms: u32) {
        if !self.settled.load(Acquire) {
            // If refill is already queued, it has yet to look for stalled jobs, and does so after a
            // pause at the latest.
            let _ = OwnedQueue::enqueue_delayed::<_, REFILL>(self.clone(), msecs_to_jiffies(ms));
        }
    }

    /// Queues reclaim for stalled jobs. Callable from any context.
    fn queue_reclaim(self: &Arc<Self>) {
        if !self.settled.load(Acquire) {
            let _ = workqueue::system_dfl().enqueue::<Arc<Self>, RECLAIM>(self.clone());
        }
    }

    /// Queues the trimming of idle heaps, after [`policy::IDLE_MS`]. Callable from any context.
    pub(super) fn queue_trim(self: &Arc<Self>) {
        if !self.settled.load(Acquire) {
            let _ = workqueue::system_dfl().enqueue_delayed::<Arc<Self>, TRIM>(
                self.clone(),
                msecs_to_jiffies(policy::IDLE_MS),
            );
        }
    }

    /// Ends the workers. Must be called when there are no more ioctls, interrupts and jobs. Sleeps.
    pub(crate) fn settle(self: &Arc<Self>) {
        self.settled.store(true, Release);
        workqueue::cancel_delayed_sync::<_, REFILL>(self.as_arc_borrow());
        workqueue::cancel_delayed_sync::<_, TRIM>(self.as_arc_borrow());
        // Cancelled after refill, which queues it.
        workqueue::cancel_sync::<_, RECLAIM>(self.as_arc_borrow());
    }

    /// Looks for heaps whose jobs wait for memory. Does not wait for memory itself.
    fn find(&self) -> Found {
        let list = self.list.lock();
        let mut unpaid = None;
        // There are no more of these heaps than jobs in the hardware. Unused charges are returned.
        let paid = list.iter().filter_map(|heap| {
            let since = heap.stalled_since()?;

            match heap.charge(at_once()) {
                Ok(charge) => Some(((heap.clone(), charge), Some(since))),
                Err(_) => {
                    unpaid = Some(heap.clone());
                    None
                }
            }
        });

        Found {
            stalled: wait::first(paid),
            unpaid,
            any: list.first().cloned(),
        }
    }

    /// Allocates memory for a chunk without waiting. Returns [`None`] if the chunk is still
    /// incomplete; the memory allocated so far is kept for the next call.
    ///
    /// Only a few pages at a time are taken from the emergency reserves of the page allocator, as
    /// others need these as well.
    fn collect<'a>(&self, gpu: &'a Gpu<'_>) -> Option<Chunk<'a>> {
        let mut partial = self.partial.lock();

        match partial.grow(gpu.dev(), CHUNK_PAGES, at_once()) {
            Ok(Some(chunk)) => Some(chunk),
            _ => partial.grow(gpu.dev(), STEP_PAGES, urgently()).ok()?,
        }
    }

    /// Gets a chunk for a heap whose job waits for one. `charge` is the charge for it.
    ///
    /// The fence of the job depends on this, and reclaim may wait for the fence. So this never
    /// reclaims memory itself.
    fn serve(&self, gpu: &Gpu<'_>, heap: &Heap, charge: Option<Charge>) -> Next {
        // Unbind will end the job.
        if gpu.halted() {
            return Next::Rest;
        }
        let Some(mut chunk) = self.take(gpu).or_else(|| self.collect(gpu)) else {
            return Next::Pause;
        };

        chunk.pay(charge);
        match heap.give(gpu, chunk) {
            Given::Taken => (),
            Given::Spare(chunk) => self.put(gpu, chunk),
            Given::NotEnough => return Next::Pause,
        }
        Next::Step
    }

    /// Adds a chunk to the reserve, if one can be allocated without waiting.
    fn fill_reserve(&self, gpu: &Gpu<'_>) -> Next {
        if self.in_reserve() >= policy::RESERVE || gpu.halted() {
            return Next::Rest;
        }
        let chunk = self.partial.lock().grow(gpu.dev(), CHUNK_PAGES, at_once());
        let Ok(Some(chunk)) = chunk else {
            // The next job with a heap queues refill again.
            return Next::Rest;
        };

        self.keep(gpu, chunk);
        Next::Step
    }

    /// Puts a chunk into the reserve, unless the last heap was removed in the meantime.
    fn keep(&self, gpu: &Gpu<'_>, chunk: Chunk<'_>) {
        self.put(gpu, chunk);
        if self.list.lock().is_empty() {
            self.drain(gpu);
        }
    }

    /// Reclaims memory for the reserve: first from clients of this device, then by an allocation
    /// that may reclaim from anybody. May take long, and find nothing.
    fn reclaim_for(&self, heap: &Heap) {
        let mut partial = None;

        with_gpu(heap.drm(), |gpu| {
            if !gpu.halted() {
                // The flags permit waiting for writeback, without which the shrinker does not purge
                // content that was given up. They also let it wait for busy BOs, for a bounded
                // time.
                (self.shrink)(heap.drm(), CHUNK_PAGES, patiently());
            }
        });
        // Each step has its own guard, so that unbind waits for no more than one of them.
        while heap.stalled_since().is_some() {
            let goes_on = with_gpu(heap.drm(), |gpu| self.reclaim_step(gpu, &mut partial));

            if goes_on != Some(true) {
                break;
            }
        }
    }

    /// Does one step of [`Self::reclaim_for`]. Returns whether another one is needed.
    fn reclaim_step(&self, gpu: &Gpu<'_>, partial: &mut Option<Partial>) -> bool {
        if gpu.halted() {
            return false;
        }
        let partial = match partial {
            Some(partial) => partial,
            None => match Partial::new(&self.space, gpu.dev()) {
                Ok(new) => partial.insert(new),
                Err(_) => return false,
            },
        };

        match partial.grow(gpu.dev(), STEP_PAGES, patiently()) {
            Ok(None) => true,
            Ok(Some(chunk)) => {
                self.keep(gpu, chunk);
                false
            }
            Err(_) => false,
        }
    }

    /// Reclaims memory of the payer of a heap, which is at its limit, to charge the payer for a
    /// chunk. Others wait for this, so it reclaims once: refill asks again after a pause.
    fn pay_for(&self, heap: &Heap) {
        let Ok(charge) = heap.charge(once()) else {
            return;
        };

        // If there is no chunk, refill looks for one; the charge is then returned.
        with_gpu(heap.drm(), |gpu| self.serve(gpu, heap, charge));
    }

    /// Causes unbind to leak all mapped and stuck chunks, for a GPU that cannot be stopped and may
    /// continue to write to them. Called during unbind, when there are no more jobs. Sleeps.
    pub(crate) fn leak(&self, gpu: &Gpu<'_>) {
        for heap in self.list.lock().iter() {
            heap.leak(gpu);
        }
    }

    /// Frees the reserve, and the part of a chunk that refill has collected.
    fn drain(&self, gpu: &Gpu<'_>) {
        while self.take(gpu).is_some() {}
        self.partial.lock().clear(gpu.dev());
    }
}

impl WorkItem<REFILL> for HeapSet {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let found = {
            let _signalling = Signalling::begin();
            this.find()
        };
        let waits = found.stalled.is_some() || found.unpaid.is_some();
        let Some(any) = found.any else {
            return;
        };
        // The heaps of the list have one device.
        let next = with_gpu(any.drm(), |gpu| {
            let _signalling = Signalling::begin();

            match found.stalled {
                Some((heap, charge)) => this.serve(gpu, &heap, charge),
                None => match this.fill_reserve(gpu) {
                    // A payer that was at its limit may have room later.
                    Next::Rest if waits && !gpu.halted() => Next::Pause,
                    next => next,
                },
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

    /// No fence depends on this, as refill does not wait for it: it looks for memory again from
    /// time to time.
    fn run(this: Arc<Self>) {
        let found = this.find();

        if let Some((heap, charge)) = found.stalled {
            // Refill makes a new charge when there is a chunk.
            drop(charge);
            this.reclaim_for(&heap);
        }
        if let Some(heap) = found.unpaid {
            this.pay_for(&heap);
        }
    }
}

impl WorkItem<TRIM> for HeapSet {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let Some(first) = this.list.lock().first().cloned() else {
            return;
        };
        // The heaps of the list have one device.
        let again = with_gpu(first.drm(), |gpu| {
            let list = this.list.lock();

            // Trim every heap: `||` must not skip the rest after the first one that needs another
            // look.
            list.iter()
                .fold(false, |again, heap| heap.trim(gpu) || again)
        });

        if again == Some(true) {
            this.queue_trim();
        }
    }
}
