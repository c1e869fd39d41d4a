// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The queue's entry points. Each takes the lock, does its work, fills the slots, and then delivers
//! the jobs that have ended: it signals their fences without the lock.
//!
//! A second spinlock is held while one job is taken from those that have ended and its fence is
//! signalled. Fences thus signal in the order in which jobs have ended, on whichever CPUs that is
//! noticed. No CPU waits for another for longer than one fence takes, since the holder of the lock
//! is not preempted.
//!
//! A client's task may hardly ever be scheduled, so it delivers nothing and leaves that to the
//! queue's owner. Thousands of jobs can end at once because their context was closed: these are
//! delivered after all others, and in batches.
//!
//! A job that waits for another job of the queue learns of its end through the mailbox while the
//! fence is signalled. The one who signals it looks into the mailbox after that, and starts the
//! waiting job itself. Until then, notices do not [kick](Kind::kick) the owner.
//!
//! Locks, in order: that second spinlock, then that of the state. Those of the ended jobs and of
//! the timelines are leaves. Process context. The entry points that start jobs or signal fences are
//! fence-signalling sections and do not sleep; dropping the queue may.

use super::{
    context::{
        Context,
        Entity,
        Job, //
    },
    loaded::LoadedJobs,
    retired::Retired,
    state::QueueState,
    turns::Share,
    Config,
    Kind,
    Priority,
    QueueSlot,
    Running,
    SlotOps,
    Verdict,
    MAX_SLOTS, //
};
use crate::{
    dma_buf::fence::{
        self,
        Deadlines,
        Signalling, //
    },
    error::code,
    list::{
        List,
        ListArc, //
    },
    prelude::*,
    rbtree::RBTree,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        static_lock_class,
        Arc,
        LockClassKey,
        SpinLock,
        SpinLockGuard, //
    },
};

/// Passes a notice of the mailbox on to the queue's owner, unless somebody will look into the
/// mailbox anyway.
pub(super) struct Kick<K: Kind> {
    kind: K,
    /// The number of callers that are delivering jobs, and will look into the mailbox after that.
    lookers: Atomic<u32>,
}

impl<K: Kind> fence::Kick for Kick<K> {
    fn kick(&self) {
        // The addition of the notice was fully ordered: if this reads the number from before a
        // looker was taken off, then that looker finds the notice.
        if self.lookers.load(Relaxed) == 0 {
            self.kind.kick();
        }
    }
}

/// The mailbox to which met dependencies deliver the entity that waits for them.
pub(super) type Mailbox<K> = fence::Mailbox<Arc<Entity<K>>, Kick<K>>;

/// Notices taken from the mailbox.
pub(super) type Notices<K> = fence::Drain<Arc<Entity<K>>, Kick<K>>;

/// Waits for a dependency.
pub(super) type Watch<K> = fence::FenceWatch<Arc<Entity<K>>, Kick<K>>;

/// The name and the key of a lock class.
pub(super) type LockClass = (&'static CStr, Pin<&'static LockClassKey>);

/// Returns the lock classes of a queue: those of its state, of delivery, of the list of ended jobs,
/// and of the FIFOs by their timelines.
///
/// Generic code has a copy of its literals in each crate that instantiates it, but one copy of its
/// statics. Lockdep requires one name for a key, so both have to come from here.
#[inline(never)]
fn lock_classes() -> [LockClass; 4] {
    [
        (c"JobQueue::state", static_lock_class!()),
        (c"JobQueue::delivery", static_lock_class!()),
        (c"JobQueue::retired", static_lock_class!()),
        (c"JobQueue::timelines", static_lock_class!()),
    ]
}

/// The maximum number of fences of closed contexts that are signalled before the queue looks for
/// other work again.
const BATCH: usize = 64;

/// The maximum number of times that a caller starts jobs which waited for those that it has
/// delivered. The owner is asked to do the rest.
const ROUNDS: usize = 4;

/// Which of the ended jobs a caller delivers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Deliver {
    /// None: it is a client's task. The owner is asked to do it.
    Nothing,
    /// Those that did not end because their context was closed. The owner is asked to do the rest.
    Done,
    /// The same, and a batch of those of closed contexts.
    Some,
    /// All of them.
    All,
}

/// The part that contexts and jobs share with the queue.
#[pin_data]
pub(super) struct Shared<K: Kind> {
    #[pin]
    pub(super) state: SpinLock<QueueState<K>>,
    /// Held while a job is taken from those that have ended and its fence is signalled. Taken
    /// before the lock of the state.
    #[pin]
    delivery: SpinLock<()>,
    /// Ended jobs. The lock is a leaf, taken with the one above held.
    #[pin]
    retired: SpinLock<List<Job<K>>>,
    /// The FIFOs of all contexts, by the timelines of their fences. The lock is a leaf.
    #[pin]
    pub(super) timelines: SpinLock<RBTree<u64, Arc<Entity<K>>>>,
    pub(super) mailbox: Arc<Mailbox<K>>,
    /// Collects the deadlines that are set on the fences of all jobs.
    pub(super) deadlines: Deadlines,
    pub(super) config: Config,
    /// The owner is gone: nothing takes the retired jobs any more.
    orphaned: Atomic<bool>,
}

impl<K: Kind> Shared<K> {
    /// Returns the owner of the queue.
    pub(super) fn kind(&self) -> &K {
        &self.mailbox.kicker().kind
    }

    /// Returns the slots of this queue.
    pub(super) fn slots(&self) -> impl Iterator<Item = QueueSlot> {
        (0..self.config.slots.len()).map_while(QueueSlot::new)
    }

    /// Returns the number of strikes after which all steps to stop a job were taken.
    pub(super) fn ladder_len(&self) -> u8 {
        u8::try_from(self.config.ladder.len()).unwrap_or(u8::MAX)
    }

    /// Runs `f` with the lock held, fills the slots, and delivers the jobs that have ended. Then
    /// starts the jobs that waited for these.
    ///
    /// The caller must be in a signalling section.
    pub(super) fn enter<O: SlotOps<K> + ?Sized, R>(
        &self,
        ops: &O,
        deliver: Deliver,
        f: impl FnOnce(&mut QueueState<K>, &Self) -> R,
    ) -> R {
        let mut state = self.state.lock();

        let has_notices = state.advance_some(self);
        let result = f(&mut state, self);
        self.fill_slots(&mut state, ops, has_notices);

        let mut retire = false;
        let mut rounds = ROUNDS;
        loop {
            let (is_first, has_mail) = self.deliver_and_look(state, deliver);

            retire |= is_first;
            if !has_mail {
                break;
            }
            if rounds == 0 {
                self.kind().kick();
                break;
            }
            rounds -= 1;
            state = self.state.lock();
            let has_notices = state.advance_some(self);
            self.fill_slots(&mut state, ops, has_notices);
        }
        // Only now: to wake a worker takes longer than to start a job.
        if retire {
            self.kind().retire();
        }
        result
    }

    /// Fills the slots and processes what else is pending, in part. Asks the owner for another call
    /// if something is left, or if the caller `has_notices` left.
    fn fill_slots<O: SlotOps<K> + ?Sized>(
        &self,
        state: &mut QueueState<K>,
        ops: &O,
        has_notices: bool,
    ) {
        let has_hints = state.heed_some(self);
        let is_unswept = state.sweep_some();
        state.lend_some();
        for slot in self.slots() {
            state.fill(self, ops, slot);
        }
        // The jobs behind those that were started may wait for others.
        if state.lend_some() || has_hints || has_notices || is_unswept {
            self.kind().kick();
        }
        state.check_timer(self.kind());
    }

    /// Delivers jobs like [`signal_ended`](Self::signal_ended), and returns the same. Also returns
    /// whether the caller has to look into the mailbox, since the owner may not have been told of
    /// the notices there.
    fn deliver_and_look(
        &self,
        state: SpinLockGuard<'_, QueueState<K>>,
        deliver: Deliver,
    ) -> (bool, bool) {
        if !matches!(deliver, Deliver::Done | Deliver::Some) || !state.has_ended() {
            return (self.signal_ended(state, deliver), false);
        }
        let lookers = &self.mailbox.kicker().lookers;

        lookers.add(1, Relaxed);
        let is_first = self.signal_ended(state, deliver);
        // Ordered before the look into the mailbox: a notice that is added later than that look
        // finds one looker less.
        lookers.fetch_sub(1, Full);
        (is_first, !self.mailbox.is_empty())
    }

    /// Delivers the jobs that have ended: signals their fences and moves them to the retired list.
    /// Releases the lock of the state first.
    ///
    /// The caller must be in a signalling section.
    pub(super) fn deliver(&self, state: SpinLockGuard<'_, QueueState<K>>, deliver: Deliver) {
        if self.signal_ended(state, deliver) {
            self.kind().retire();
        }
    }

    /// Implements [`deliver`](Self::deliver). Returns whether the caller has to call
    /// [`Kind::retire`].
    fn signal_ended(&self, state: SpinLockGuard<'_, QueueState<K>>, deliver: Deliver) -> bool {
        let deliver = match deliver {
            // A dead queue's owner is not asked any more.
            Deliver::Nothing if state.is_dead() => Deliver::All,
            deliver => deliver,
        };
        // With `Deliver::All`, the caller may depend on a fence that another CPU is signalling:
        // wait for that below.
        if !state.has_ended() && deliver != Deliver::All {
            return false;
        }
        drop(state);

        let mut cancelled = match deliver {
            Deliver::Nothing => {
                self.kind().kick();
                return false;
            }
            Deliver::Done => 0,
            Deliver::Some => BATCH,
            Deliver::All => usize::MAX,
        };
        let mut retire = false;
        let left = loop {
            let _delivery = self.delivery.lock();
            let mut state = self.state.lock();

            let Some(job) = state.take_ended(&mut cancelled) else {
                break state.has_ended();
            };
            drop(state);
            retire |= self.signal(job);
        };
        if left {
            self.kind().kick();
        }
        retire
    }

    /// Signals a job's fence. Adds the job to the retired list before that, so that it can be taken
    /// as soon as the fence has signalled. Returns whether it is the first one there. Called
    /// without the lock of the state.
    fn signal(&self, mut job: ListArc<Job<K>>) -> bool {
        let inner = job.inner();
        let (fence, result) = (inner.fence.take(), inner.result);
        let first = {
            let mut retired = self.retired.lock();
            let first = retired.is_empty();

            retired.push_back(job);
            first
        };

        if let Some(fence) = fence {
            fence.signal(result);
        }
        first
    }

    /// Takes the ended jobs for which `f` returns `true`.
    fn take_retired_where(&self, mut f: impl FnMut(&K::Job) -> bool) -> Retired<K> {
        let mut all = core::mem::take(&mut *self.retired.lock());
        let (mut taken, mut rest) = (List::new(), List::new());

        while let Some(job) = all.pop_front() {
            match f(&job.payload) {
                true => taken.push_back(job),
                false => rest.push_back(job),
            }
        }
        if !rest.is_empty() {
            self.put_back(rest);
            // Another caller may have found the list empty in the meantime.
            self.kind().retire();
        }
        Retired(taken)
    }

    /// Adds jobs to the ended ones, in front of those that were added in the meantime.
    fn put_back(&self, mut jobs: List<Job<K>>) {
        let mut retired = self.retired.lock();

        jobs.push_all_back(&mut retired);
        *retired = jobs;
    }

    fn take_retired(&self) -> Retired<K> {
        Retired(core::mem::take(&mut *self.retired.lock()))
    }

    /// Drops ended jobs and notices if the owner is gone. May sleep if there are any.
    pub(super) fn drain_orphans(&self) {
        if self.orphaned.load(Acquire) {
            drop(self.take_retired());
            // The jobs' watches were stopped when the jobs were dropped, so they add no more
            // notices. A notice references an entity, which leads back to the mailbox: draining
            // breaks the cycle.
            let notices = self.state.lock().notices.take();
            drop(notices);
            drop(self.mailbox.drain());
        }
    }

    fn kill(&self, error: Error, gone: impl FnMut(&Running<'_, K>)) {
        let _signalling = Signalling::begin();
        let mut state = self.state.lock();

        state.kill(self, error, gone);
        self.deliver(state, Deliver::All);
    }
}

/// The result of [`JobQueue::expire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// A job did not stop after all steps were taken: the hardware has to be reset.
    pub reset: bool,
    /// The number of jobs that were told to stop.
    pub stopped: usize,
}

/// A device's job queue: its owner's handle. See the [module](super) for how it works.
///
/// Dropping it fails all jobs with `ENODEV`, as [`kill`](Self::kill) does, and drops them.
pub struct JobQueue<K: Kind> {
    pub(super) shared: Arc<Shared<K>>,
}

impl<K: Kind> JobQueue<K> {
    /// Creates an empty queue. May sleep. Fails with `ENOMEM`, or with `EINVAL` for no slots or
    /// more than [`MAX_SLOTS`].
    pub fn new(config: Config, kind: K) -> Result<Self> {
        if config.slots.is_empty() || config.slots.len() > MAX_SLOTS {
            return Err(EINVAL);
        }
        let kick = Kick {
            kind,
            lookers: Atomic::new(0),
        };
        let mailbox = Arc::new(Mailbox::new(kick), GFP_KERNEL)?;
        let deadlines = Deadlines::new(GFP_KERNEL)?;
        let [state_class, delivery_class, retired_class, timelines_class] = lock_classes();
        let shared = Arc::pin_init(
            pin_init!(Shared {
                state <- SpinLock::new(QueueState::new(), state_class.0, state_class.1),
                delivery <- SpinLock::new((), delivery_class.0, delivery_class.1),
                retired <- SpinLock::new(List::new(), retired_class.0, retired_class.1),
                timelines <- SpinLock::new(RBTree::new(), timelines_class.0, timelines_class.1),
                mailbox,
                deadlines,
                config,
                orphaned: Atomic::new(false),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self { shared })
    }

    /// Returns the [`Kind`] that the queue was created with.
    pub fn kind(&self) -> &K {
        self.shared.kind()
    }

    /// Creates a context of the party that `share` stands for. The memory is charged to the task's
    /// memory cgroup. May sleep; fails with `ENOMEM`.
    pub fn context(&self, share: &Share, priority: Priority) -> Result<Context<K>> {
        Context::new(&self.shared, share, priority)
    }

    /// Looks for jobs whose dependencies were met and starts them, and signals the fences that
    /// clients' tasks have left to the owner. Called in response to [`Kind::kick`].
    ///
    /// Process context; does not sleep.
    pub fn run<O: SlotOps<K> + ?Sized>(&self, ops: &O) {
        let _signalling = Signalling::begin();
        self.shared.enter(ops, Deliver::Some, |_, _| ());
    }

    /// Lets `f` report what the hardware has done, then starts the jobs that can be started.
    ///
    /// `f` runs with the queue's lock held, so that no job is started while it reads the hardware's
    /// state. Process context, such as an interrupt thread, but not a client's task: the jobs of
    /// others can wait until this returns. Does not sleep.
    pub fn update<O: SlotOps<K> + ?Sized, R>(
        &self,
        ops: &O,
        f: impl FnOnce(&mut LoadedJobs<'_, K, O>) -> R,
    ) -> R {
        let _signalling = Signalling::begin();
        self.shared.enter(ops, Deliver::Done, |state, shared| {
            f(&mut LoadedJobs { state, shared, ops })
        })
    }

    /// Stops the jobs that have run for too long. A job whose time is up is overdue unless it has
    /// [progressed](SlotOps::progressed). Each time that a job is found overdue, the next step of
    /// [`Config::ladder`] is taken. Asks for the next call with [`Kind::arm_timer`].
    ///
    /// Process context; does not sleep.
    pub fn expire<O: SlotOps<K> + ?Sized>(&self, ops: &O) -> Expired {
        let _signalling = Signalling::begin();
        self.shared.enter(ops, Deliver::Done, |state, shared| {
            state.expire(shared, ops)
        })
    }

    /// Prevents jobs from being started until [`restart`](Self::restart).
    ///
    /// Jobs can still be pushed, and jobs that end are still reported through
    /// [`update`](Self::update). Does not wait for anything.
    pub fn park(&self) {
        self.shared.state.lock().park();
    }

    /// Takes all jobs out of the hardware, which must have stopped working on them, and lets jobs
    /// start again.
    ///
    /// [`SlotOps::finish`] is called for each of them, then `verdict` says whether it runs again.
    /// Those that do keep their place in line. Process context; does not sleep.
    pub fn restart<O: SlotOps<K> + ?Sized>(
        &self,
        ops: &O,
        verdict: impl FnMut(&Running<'_, K>) -> Verdict,
    ) {
        let _signalling = Signalling::begin();
        self.shared.enter(ops, Deliver::Done, |state, shared| {
            state.restart(shared, ops, verdict);
        });
    }

    /// Fails all jobs with `error`, now and until [`revive`](Self::revive). Meant for hardware that
    /// is gone, or that is known not to work on any of them any more.
    ///
    /// `gone` is called for each job that was in the hardware, with the lock held. When this
    /// returns, the fences of all jobs that were pushed before have signalled. Process context;
    /// does not sleep.
    pub fn kill(&self, error: Error, gone: impl FnMut(&Running<'_, K>)) {
        self.shared.kill(error, gone);
    }

    /// Reverts [`kill`](Self::kill): jobs that are pushed from here on can run. Jobs that have
    /// failed stay failed.
    pub fn revive(&self) {
        self.shared.state.lock().revive();
    }

    /// Takes the jobs that have ended since the last call. Called in response to [`Kind::retire`].
    pub fn take_retired(&self) -> Retired<K> {
        self.shared.take_retired()
    }

    /// Takes at most the oldest `most` of the ended jobs. If there are more, [`Kind::retire`] is
    /// not called again for these.
    pub fn take_some_retired(&self, most: usize) -> Retired<K> {
        let mut taken = List::new();
        let mut retired = self.shared.retired.lock();

        for _ in 0..most {
            let Some(job) = retired.pop_front() else {
                break;
            };
            taken.push_back(job);
        }
        Retired(taken)
    }

    /// Puts jobs back that were taken, in front of the other ended jobs. [`Kind::retire`] is not
    /// called for them.
    pub fn put_back_retired(&self, jobs: Retired<K>) {
        self.shared.put_back(jobs.0);
    }

    /// Takes the ended jobs for which `f` returns `true`. Walks all ended jobs. [`Kind::retire`] is
    /// called again if others are left.
    pub fn take_retired_where(&self, f: impl FnMut(&K::Job) -> bool) -> Retired<K> {
        self.shared.take_retired_where(f)
    }
}

impl<K: Kind> Drop for JobQueue<K> {
    fn drop(&mut self) {
        self.shared.kill(code::ENODEV, |_| ());
        self.shared.orphaned.store(true, Release);
        self.shared.drain_orphans();
    }
}
