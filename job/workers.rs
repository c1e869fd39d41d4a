// SPDX-License-Identifier: GPL-2.0

//! The work items of the job side.
//!
//! Callbacks on fences queue workers, in any context and with the fence's lock held. Queuing an
//! item therefore takes no lock but the workqueue's and needs no lookup: the items live in an
//! [`Arc`] of their own, together with their queue. When an item runs, it looks up the DRM device
//! under a spinlock. The first submission sets that reference and [`Workers::detach`] removes it,
//! which breaks the cycle between the device and its workers.
//!
//! Items that fences depend on run on a workqueue of their own with a rescuer, so that they make
//! progress when memory is short. Ended jobs are dropped on a system workqueue, since that may wait
//! for memory, and dumps are made on one.
//!
//! The last reference is dropped after [`Workers::cancel`], so no item ever destroys the workqueue
//! that it runs on.

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
        Delta,
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

/// Starts jobs that have become ready.
const RUN: u64 = 1;
/// Drops ended jobs.
const RETIRE: u64 = 2;
/// Stops overdue jobs.
const TIMER: u64 = 3;
/// Resets the GPU.
const RESET: u64 = 4;
/// Tries to bring back a lost GPU.
const FIND: u64 = 5;
/// Makes a dump.
const DUMP: u64 = 6;

/// The time between two looks of the timer while it polls, in nanoseconds.
const POLL_NS: u64 = 20 * NSEC_PER_MSEC;

/// The device that the workers work for, if they are attached to one.
enum Attachment {
    /// Nothing was submitted yet, so items do nothing. Left with the first [`Workers::attach`], or
    /// with [`Workers::detach`].
    None,
    /// Holds a reference to the device, which keeps it from being freed, not from being unbound.
    /// Left with [`Workers::detach`].
    Device(ARef<Device>),
    /// The device is being unbound: items do nothing, and no more are queued. Never left.
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
    #[pin]
    find: DelayedWork<Workers, FIND>,
    #[pin]
    dump: Work<Workers, DUMP>,
    /// Runs all of the items but `retire` and `dump`.
    queue: OwnedQueue,
    #[pin]
    attachment: SpinLock<Attachment>,
    /// `attachment` is not [`Attachment::None`].
    attached: Atomic<bool>,
    /// Set for good by [`Workers::detach`]: requests to queue an item are ignored.
    detached: Atomic<bool>,
    /// A reset was requested and has not begun.
    reset_wanted: Atomic<bool>,
    /// The timer polls, because an interrupt is masked.
    polls: Atomic<bool>,
    /// Number of resets so far.
    resets: Atomic<u32>,
    /// The zero of the clock of [`Workers::now`].
    epoch: Instant<Monotonic>,
}

impl_has_work! {
    impl HasWork<Self, 1> for Workers { self.run }
    impl HasWork<Self, 2> for Workers { self.retire }
    impl HasWork<Self, 4> for Workers { self.reset }
    impl HasWork<Self, 6> for Workers { self.dump }
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self, 3> for Workers { self.timer }
    impl HasDelayedWork<Self, 5> for Workers { self.find }
}

impl KeepsQueue for Workers {
    fn queue(&self) -> &OwnedQueue {
        &self.queue
    }
}

impl Workers {
    /// Creates the workers and their workqueue, without a device. May sleep.
    pub(super) fn new() -> Result<Arc<Self>> {
        let queue = OwnedQueue::for_reclaim(c"drm_gpu")?;

        Arc::pin_init(
            pin_init!(Self {
                run <- new_work!("drm_gpu::job::run"),
                retire <- new_work!("drm_gpu::job::retire"),
                timer <- new_delayed_work!("drm_gpu::job::timer"),
                reset <- new_work!("drm_gpu::job::reset"),
                find <- new_delayed_work!("drm_gpu::job::find"),
                dump <- new_work!("drm_gpu::job::dump"),
                queue,
                attachment <- new_spinlock!(Attachment::None, "drm_gpu::job::attachment"),
                attached: Atomic::new(false),
                detached: Atomic::new(false),
                reset_wanted: Atomic::new(false),
                polls: Atomic::new(false),
                resets: Atomic::new(0),
                epoch: Instant::now(),
            }),
            GFP_KERNEL,
        )
    }

    /// Tells the workers which device they work for. Only the first call has an effect.
    pub(super) fn attach(&self, drm: &Device) {
        if !self.attached.load(Acquire) {
            let mut attachment = self.attachment.lock();
            if let Attachment::None = *attachment {
                *attachment = Attachment::Device(drm.into());
            }
            self.attached.store(true, Release);
        }
    }

    /// Drops the workers' reference to the device, for good. Items that are queued later are
    /// ignored.
    pub(super) fn detach(&self) {
        self.detached.store(true, Release);
        let attachment = core::mem::replace(&mut *self.attachment.lock(), Attachment::Detached);
        self.attached.store(true, Release);
        drop(attachment);
    }

    /// Cancels all items and waits for those that run. Sleeps.
    pub(super) fn cancel(self: &Arc<Self>) {
        let this = self.as_arc_borrow();
        workqueue::cancel_sync::<_, RUN>(this);
        workqueue::cancel_delayed_sync::<_, TIMER>(this);
        workqueue::cancel_sync::<_, RESET>(this);
        workqueue::cancel_delayed_sync::<_, FIND>(this);
        workqueue::cancel_sync::<_, RETIRE>(this);
        workqueue::cancel_sync::<_, DUMP>(this);
    }

    /// Cancels the item that brings back a lost GPU, and waits for it if it runs. Sleeps.
    pub(super) fn cancel_find(self: &Arc<Self>) {
        workqueue::cancel_delayed_sync::<_, FIND>(self.as_arc_borrow());
    }

    fn device(&self) -> Option<ARef<Device>> {
        match &*self.attachment.lock() {
            Attachment::Device(drm) => Some(drm.clone()),
            Attachment::None | Attachment::Detached => None,
        }
    }

    fn is_detached(&self) -> bool {
        self.detached.load(Acquire)
    }

    /// Requests a reset, without queuing the item. The next call of
    /// [`Jobs::reset`](super::Jobs::reset) performs it. Any context.
    pub(super) fn want_reset(&self) {
        self.reset_wanted.store(true, Release);
    }

    /// Takes the request for a reset, and returns whether there was one. A later request means
    /// another reset.
    pub(super) fn take_reset(&self) -> bool {
        self.reset_wanted.xchg(false, Acquire)
    }

    /// Sets whether the timer polls: whether it fires every [`POLL_NS`] while jobs run. Takes
    /// effect when the timer is set the next time. Any context.
    pub(super) fn poll(&self, polls: bool) {
        self.polls.store(polls, Relaxed);
    }

    /// Returns whether the timer polls.
    pub(super) fn polls(&self) -> bool {
        self.polls.load(Relaxed)
    }

    /// Counts a reset of the GPU.
    pub(super) fn count_reset(&self) {
        self.resets.add(1, Relaxed);
    }

    /// Returns the number of resets so far. Wraps.
    pub(super) fn resets(&self) -> u32 {
        self.resets.load(Relaxed)
    }

    /// Returns the nanoseconds of a monotonic clock that began with the workers.
    pub(super) fn now(&self) -> u64 {
        u64::try_from((Instant::now() - self.epoch).as_nanos()).unwrap_or(0)
    }

    // Queuing an item that is already queued has no effect, hence the results are ignored.

    /// Queues the item that starts jobs that have become ready. Any context.
    pub(super) fn queue_run(self: &Arc<Self>) {
        if !self.is_detached() {
            let _ = self.queue.enqueue::<Arc<Self>, RUN>(self.clone());
        }
    }

    /// Queues the item that drops ended jobs. Any context.
    pub(super) fn queue_retire(self: &Arc<Self>) {
        if !self.is_detached() {
            let _ = workqueue::system_dfl().enqueue::<Arc<Self>, RETIRE>(self.clone());
        }
    }

    /// Queues the item that makes a dump. Any context.
    pub(super) fn queue_dump(self: &Arc<Self>) {
        if !self.is_detached() {
            let _ = workqueue::system_dfl().enqueue::<Arc<Self>, DUMP>(self.clone());
        }
    }

    /// Requests a reset and queues the item that performs it. Any context.
    pub(super) fn queue_reset(self: &Arc<Self>) {
        self.want_reset();
        if !self.is_detached() {
            let _ = self.queue.enqueue::<Arc<Self>, RESET>(self.clone());
        }
    }

    /// Queues the item that brings back a lost GPU, to run in `ms` milliseconds. Any context.
    pub(super) fn queue_find(self: &Arc<Self>, ms: u32) {
        if !self.is_detached() {
            let _ = OwnedQueue::enqueue_delayed::<_, FIND>(self.clone(), msecs_to_jiffies(ms));
        }
    }

    /// Sets the timer to `deadline`, in the time of [`now`](Self::now), or to an earlier time if it
    /// [polls](Self::poll). Replaces any earlier setting. Does not sleep. The caller serialises
    /// calls.
    pub(super) fn queue_timer(self: &Arc<Self>, deadline: u64) {
        if !self.is_detached() {
            let most = if self.polls() { POLL_NS } else { u64::MAX };
            let ns = deadline.saturating_sub(self.now()).min(most);
            let ns = i64::try_from(ns).unwrap_or(i64::MAX);
            // Rounds up: a timer that fires too early would have to be set again.
            let ms = u32::try_from(Delta::from_nanos(ns).as_millis() + 1).unwrap_or(u32::MAX);
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

impl WorkItem<DUMP> for Workers {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if let Some(drm) = this.device() {
            drm.jobs.dump(&drm);
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

impl WorkItem<FIND> for Workers {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        if let Some(drm) = this.device() {
            with_gpu(&drm, |gpu| drm.jobs.find(&drm, gpu));
        }
    }
}
