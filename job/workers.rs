// SPDX-License-Identifier: GPL-2.0

//! The work items of the job side.
//!
//! A callback on a fence wants a worker to run, in whatever context and with the fence's lock held.
//! So to queue an item takes no lock but the workqueue's, and nothing that has to be looked up: the
//! items live in an [`Arc`] of their own, together with their queue. What they work on, the DRM
//! device, they find under a spinlock when they run. It is set by the first submission and removed by
//! [`Workers::detach`], which ends the cycle from the device to its workers and back.
//!
//! What fences wait for runs on a queue of its own, which gets on without memory. Ended jobs are dropped
//! elsewhere, since that may wait for memory.
//!
//! The last reference goes after [`Workers::cancel`], hence never with one of the items.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        SpinLock, //
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

use crate::device::{
    with_gpu,
    Device, //
};

use super::NSEC_PER_MSEC;

/// Starts what has become ready.
const RUN: u64 = 1;
/// Drops ended jobs.
const RETIRE: u64 = 2;
/// Stops overdue jobs.
const TIMER: u64 = 3;
/// Resets the GPU.
const RESET: u64 = 4;

/// Where the workers find the device.
enum Owner {
    /// Nobody has submitted anything yet.
    None,
    /// Here.
    Device(ARef<Device>),
    /// Nowhere any more.
    Detached,
}

/// The work items.
#[pin_data]
pub(super) struct Workers {
    #[pin]
    run: Work<Workers, RUN>,
    #[pin]
    retire: Work<Workers, RETIRE>,
    #[pin]
    timer: DelayedWork<Workers, TIMER>,
    #[pin]
    reset: Work<Workers, RESET>,
    /// Runs all of them but `retire`.
    queue: OwnedQueue,
    #[pin]
    owner: SpinLock<Owner>,
    /// `owner` is not [`Owner::None`].
    attached: Atomic<bool>,
    /// No item is queued any more.
    detached: Atomic<bool>,
    /// Somebody wants a reset that has not begun.
    reset_wanted: Atomic<bool>,
    /// Number of resets so far.
    resets: Atomic<u32>,
    /// Zero of the clock.
    epoch: Instant<Monotonic>,
}

impl_has_work! {
    impl HasWork<Self, 1> for Workers { self.run }
    impl HasWork<Self, 2> for Workers { self.retire }
    impl HasWork<Self, 4> for Workers { self.reset }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 3> for Workers { self.timer }
}

impl KeepsQueue for Workers {
    fn queue(&self) -> &OwnedQueue {
        &self.queue
    }
}

impl Workers {
    /// Without a device.
    pub(super) fn new() -> Result<Arc<Self>> {
        let queue = OwnedQueue::for_reclaim(c"drm_gpu")?;

        Arc::pin_init(
            pin_init!(Self {
                run <- new_work!("drm_gpu::job::run"),
                retire <- new_work!("drm_gpu::job::retire"),
                timer <- new_delayed_work!("drm_gpu::job::timer"),
                reset <- new_work!("drm_gpu::job::reset"),
                queue,
                owner <- new_spinlock!(Owner::None, "drm_gpu::job::owner"),
                attached: Atomic::new(false),
                detached: Atomic::new(false),
                reset_wanted: Atomic::new(false),
                resets: Atomic::new(0),
                epoch: Instant::now(),
            }),
            GFP_KERNEL,
        )
    }

    /// Tells the workers which device they are for. The first call counts.
    pub(super) fn attach(&self, drm: &Device) {
        if !self.attached.load(Acquire) {
            let mut owner = self.owner.lock();
            if let Owner::None = *owner {
                *owner = Owner::Device(drm.into());
            }
            self.attached.store(true, Release);
        }
    }

    /// Takes the device from the workers. Nothing is queued any more.
    pub(super) fn detach(&self) {
        self.detached.store(true, Release);
        let owner = core::mem::replace(&mut *self.owner.lock(), Owner::Detached);
        self.attached.store(true, Release);
        drop(owner);
    }

    /// Takes all items from their queues and waits for those that run.
    pub(super) fn cancel(self: &Arc<Self>) {
        let this = self.as_arc_borrow();
        workqueue::cancel_sync::<_, RUN>(this);
        workqueue::cancel_delayed_sync::<_, TIMER>(this);
        workqueue::cancel_sync::<_, RESET>(this);
        workqueue::cancel_sync::<_, RETIRE>(this);
    }

    fn device(&self) -> Option<ARef<Device>> {
        match &*self.owner.lock() {
            Owner::Device(drm) => Some(drm.clone()),
            Owner::None | Owner::Detached => None,
        }
    }

    fn is_detached(&self) -> bool {
        self.detached.load(Acquire)
    }

    /// Asks for a reset, for whoever calls [`Jobs::reset`](super::Jobs::reset) next. Any context.
    pub(super) fn want_reset(&self) {
        self.reset_wanted.store(true, Release);
    }

    /// Whether a reset was asked for. What is asked for from here on means another one.
    pub(super) fn take_reset(&self) -> bool {
        self.reset_wanted.xchg(false, Acquire)
    }

    /// The GPU was reset.
    pub(super) fn count_reset(&self) {
        self.resets.add(1, Relaxed);
    }

    /// Number of resets so far; it wraps.
    pub(super) fn resets(&self) -> u32 {
        self.resets.load(Relaxed)
    }

    /// Nanoseconds of a monotonic clock.
    pub(super) fn now(&self) -> u64 {
        u64::try_from((Instant::now() - self.epoch).as_nanos()).unwrap_or(0)
    }

    // An item that is queued already stays so.

    /// Queues the item that starts what has become ready. Any context.
    pub(super) fn queue_run(self: &Arc<Self>) {
        if !self.is_detached() {
            let _ = self.queue.enqueue::<Arc<Self>, RUN>(self.clone());
        }
    }

    /// Queues the item that drops ended jobs. Any context.
    pub(super) fn queue_retire(self: &Arc<Self>) {
        if !self.is_detached() {
            let _ = workqueue::system_percpu().enqueue::<Arc<Self>, RETIRE>(self.clone());
        }
    }

    /// Queues the item that resets the GPU. Any context.
    pub(super) fn queue_reset(self: &Arc<Self>) {
        self.want_reset();
        if !self.is_detached() {
            let _ = self.queue.enqueue::<Arc<Self>, RESET>(self.clone());
        }
    }

    /// Sets the timer to a time of [`now`](Self::now), wherever it was before. Any context. Calls
    /// are serialised by the caller.
    pub(super) fn queue_timer(self: &Arc<Self>, deadline: u64) {
        if !self.is_detached() {
            let ns = deadline.saturating_sub(self.now());
            // Rather a little late than twice.
            let ms = u32::try_from(ns / NSEC_PER_MSEC + 1).unwrap_or(u32::MAX);
            workqueue::cancel_delayed::<_, TIMER>(self.as_arc_borrow());
            let _ = OwnedQueue::enqueue_delayed::<_, TIMER>(self.clone(), msecs_to_jiffies(ms));
        }
    }
}

impl WorkItem<RUN> for Workers {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if let Some(drm) = this.device() {
            with_gpu(&drm, |gpu| drm.jobs.run(gpu));
        }
    }
}

impl WorkItem<RETIRE> for Workers {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if let Some(drm) = this.device() {
            drm.jobs.retire(&drm);
        }
    }
}

impl WorkItem<TIMER> for Workers {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if let Some(drm) = this.device() {
            with_gpu(&drm, |gpu| drm.jobs.expire(&drm, gpu));
        }
    }
}

impl WorkItem<RESET> for Workers {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if let Some(drm) = this.device() {
            with_gpu(&drm, |gpu| drm.jobs.reset(&drm, gpu));
        }
    }
}
