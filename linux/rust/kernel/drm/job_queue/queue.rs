// SPDX-License-Identifier: GPL-2.0

//! The queue's entry points. Each takes the lock, does its work, fills the slots, and then delivers
//! what has ended: signals it without the lock.
//!
//! Only one CPU delivers at a time, and does so for the others as well. Fences thus signal in the
//! order in which jobs have ended, whichever CPUs have seen that.

use super::{
    context::{
        Context,
        Entity,
        Job, //
    },
    hardware::Hardware,
    state::State,
    turns::Share,
    Config,
    Engine,
    Kind,
    Priority,
    Running,
    Slot,
    Verdict,
    MAX_SLOTS, //
};
use crate::{
    dma_buf::fence::{
        self,
        Signalling, //
    },
    error::code,
    list::List,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
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

/// Passes a notice of the mailbox on to the queue's owner.
pub(super) struct Kick<K: Kind>(pub(super) K);

impl<K: Kind> fence::Kick for Kick<K> {
    fn kick(&self) {
        self.0.kick();
    }
}

/// Where dependencies that were met leave the entity that waits for them.
pub(super) type Mailbox<K> = fence::Mailbox<Arc<Entity<K>>, Kick<K>>;

/// Waits for a dependency.
pub(super) type Watch<K> = fence::FenceWatch<Arc<Entity<K>>, Kick<K>>;

/// The name and the key of a lock class.
pub(super) type LockClass = (&'static CStr, Pin<&'static LockClassKey>);

/// The lock classes of a queue: those of its state, and of the list of ended jobs.
///
/// Generic code has a copy of its literals in each crate that instantiates it, but one copy of its
/// statics. Lockdep insists on one name for a key, so both have to come from here.
#[inline(never)]
fn lock_classes() -> (LockClass, LockClass) {
    (
        (c"JobQueue::state", static_lock_class!()),
        (c"JobQueue::retired", static_lock_class!()),
    )
}

/// What contexts and jobs share with the queue.
#[pin_data]
pub(super) struct Shared<K: Kind> {
    #[pin]
    pub(super) state: SpinLock<State<K>>,
    /// Ended jobs. Its lock is taken with no other held.
    #[pin]
    retired: SpinLock<List<Job<K>>>,
    pub(super) mailbox: Arc<Mailbox<K>>,
    pub(super) config: Config,
    /// The owner is gone: nobody asks for the retired jobs.
    orphaned: Atomic<bool>,
}

impl<K: Kind> Shared<K> {
    pub(super) fn kind(&self) -> &K {
        &self.mailbox.kicker().0
    }

    /// The slots of this queue.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        (0..self.config.slots.len()).map_while(Slot::new)
    }

    /// Strikes after which all means to stop a job were tried.
    pub(super) fn ladder_len(&self) -> u8 {
        u8::try_from(self.config.ladder.len()).unwrap_or(u8::MAX)
    }

    /// Takes the notices of dependencies that were met.
    fn drain(&self, state: &mut State<K>) {
        if !self.mailbox.is_empty() {
            for notice in self.mailbox.drain() {
                state.advance(&notice);
            }
        }
    }

    /// Runs `f` with the lock held, fills the slots, and delivers what came of it.
    ///
    /// The caller is in a signalling section.
    pub(super) fn enter<E: Engine<K> + ?Sized, R>(
        &self,
        engine: &E,
        f: impl FnOnce(&mut State<K>, &Self) -> R,
    ) -> R {
        let mut guard = self.state.lock();
        let state = &mut *guard;

        self.drain(state);
        let result = f(state, self);
        for slot in self.slots() {
            state.fill(self, engine, slot);
        }
        state.check_timer(self.kind());
        self.deliver(guard);
        result
    }

    /// Signals the fences of the jobs that have ended and hands the jobs to whoever drops them,
    /// without the lock. If another CPU does that just now, it is left to go on with these.
    ///
    /// The caller is in a signalling section.
    pub(super) fn deliver<'a>(&'a self, mut state: SpinLockGuard<'a, State<K>>) {
        if state.delivering {
            return;
        }
        while !state.done.is_empty() {
            state.delivering = true;
            let batch = core::mem::take(&mut state.done);
            drop(state);
            self.signal(batch);
            state = self.state.lock();
        }
        state.delivering = false;
    }

    /// Signals jobs in their order. Each is on the list of those to drop before that, so that who
    /// sees the fence signal can have them dropped. No lock is held.
    fn signal(&self, mut batch: List<Job<K>>) {
        let mut first = false;

        while let Some(mut job) = batch.pop_front() {
            let inner = job.inner();
            let (fence, result) = (inner.fence.take(), inner.result);

            {
                let mut retired = self.retired.lock();
                first |= retired.is_empty();
                retired.push_back(job);
            }
            if let Some(fence) = fence {
                fence.signal(result);
            }
        }
        if first {
            self.kind().retire();
        }
    }

    fn take_retired(&self) -> Retired<K> {
        Retired(core::mem::take(&mut *self.retired.lock()))
    }

    /// Drops ended jobs and notices, when nobody else will do that any more. May sleep if there are
    /// such.
    pub(super) fn drain_orphans(&self) {
        if self.orphaned.load(Acquire) {
            drop(self.take_retired());
            // Those of the jobs above are complete: with the jobs, their watches have stopped. A
            // notice has a reference to an entity, which leads back to the mailbox.
            drop(self.mailbox.drain());
        }
    }

    fn kill(&self, error: Error, gone: impl FnMut(&Running<'_, K>)) {
        let _signalling = Signalling::begin();
        let mut state = self.state.lock();

        state.kill(self, error, gone);
        self.deliver(state);
    }
}

/// What [`JobQueue::expire`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// A job does not react to any means: the hardware has to be reset.
    pub reset: bool,
    /// How many jobs were told to stop.
    pub stopped: usize,
}

/// Jobs that have ended. Dropping it drops them, which may sleep if that of [`Kind::Job`] may.
pub struct Retired<K: Kind>(List<Job<K>>);

impl<K: Kind> Retired<K> {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `f` for each job that hung once too often, so that its context was closed with it.
    pub fn for_each_closing(&self, mut f: impl FnMut(&K::Job)) {
        for job in &self.0 {
            if job.closing.load(Relaxed) {
                f(&job.payload);
            }
        }
    }
}

/// A device's job queue: its owner's handle. See the [module](super) for how it works.
///
/// Dropping it fails all jobs with `ENODEV`, as [`kill`](Self::kill) does, and drops them.
pub struct JobQueue<K: Kind> {
    pub(super) shared: Arc<Shared<K>>,
}

impl<K: Kind> JobQueue<K> {
    /// Makes an empty queue. May sleep. Fails with `ENOMEM`, or with `EINVAL` for more than
    /// [`MAX_SLOTS`] slots or none.
    pub fn new(config: Config, kind: K) -> Result<Self> {
        if config.slots.is_empty() || config.slots.len() > MAX_SLOTS {
            return Err(EINVAL);
        }
        let mailbox = Arc::new(Mailbox::new(Kick(kind)), GFP_KERNEL)?;
        let ((state_name, state_key), (retired_name, retired_key)) = lock_classes();
        let shared = Arc::pin_init(
            pin_init!(Shared {
                state <- SpinLock::new(State::new(), state_name, state_key),
                retired <- SpinLock::new(List::new(), retired_name, retired_key),
                mailbox,
                config,
                orphaned: Atomic::new(false),
            }),
            GFP_KERNEL,
        )?;
        Ok(Self { shared })
    }

    /// What the queue was made with.
    pub fn kind(&self) -> &K {
        self.shared.kind()
    }

    /// Makes a context of the party that `share` stands for. May sleep; fails with `ENOMEM`.
    pub fn context(&self, share: &Share, priority: Priority) -> Result<Context<K>> {
        Context::new(&self.shared, share, priority)
    }

    /// Looks for jobs whose dependencies were met and starts them: what [`Kind::kick`] asks for.
    ///
    /// Process context; does not sleep.
    pub fn run<E: Engine<K> + ?Sized>(&self, engine: &E) {
        let _signalling = Signalling::begin();
        self.shared.enter(engine, |_, _| ());
    }

    /// Lets `f` tell what the hardware has done, then starts what can be started.
    ///
    /// `f` runs with the queue's lock held, so that no job is started while it reads the hardware's
    /// state. Process context, such as an interrupt thread; does not sleep.
    pub fn update<E: Engine<K> + ?Sized, R>(
        &self,
        engine: &E,
        f: impl FnOnce(&mut Hardware<'_, K, E>) -> R,
    ) -> R {
        let _signalling = Signalling::begin();
        self.shared.enter(engine, |state, shared| {
            f(&mut Hardware {
                state,
                shared,
                engine,
            })
        })
    }

    /// The earliest time at which a job is overdue, in that of [`Engine::now`].
    pub fn next_deadline(&self) -> Option<u64> {
        self.shared.state.lock().deadline()
    }

    /// Stops the jobs that have run for too long: each time that one is found overdue, with the
    /// next step of [`Config::ladder`]. Asks for the next call with [`Kind::arm_timer`].
    ///
    /// Process context; does not sleep.
    pub fn expire<E: Engine<K> + ?Sized>(&self, engine: &E) -> Expired {
        let _signalling = Signalling::begin();
        self.shared
            .enter(engine, |state, shared| state.expire(shared, engine))
    }

    /// From here to [`restart`](Self::restart) no job is started.
    ///
    /// Jobs can still be pushed, and what the hardware ends is still taken by
    /// [`update`](Self::update). Does not wait for anything.
    pub fn park(&self) {
        self.shared.state.lock().park();
    }

    /// Takes all jobs out of the hardware, which must not work on any of them any more, and lets
    /// jobs start again.
    ///
    /// [`Engine::finish`] is called for each of them, then `verdict` says whether it runs again.
    /// Those that do keep their place. Process context; does not sleep.
    pub fn restart<E: Engine<K> + ?Sized>(
        &self,
        engine: &E,
        verdict: impl FnMut(&Running<'_, K>) -> Verdict,
    ) {
        let _signalling = Signalling::begin();
        self.shared.enter(engine, |state, shared| {
            state.restart(shared, engine, verdict);
        });
    }

    /// Fails all jobs with `error`, now and in future. For hardware that is gone, or surely will
    /// not work on any of them any more.
    ///
    /// `gone` is called for each job that was in the hardware, with the lock held. If another CPU
    /// signals fences just now, then it goes on with these, perhaps after this has returned.
    /// Process context; does not sleep.
    pub fn kill(&self, error: Error, gone: impl FnMut(&Running<'_, K>)) {
        self.shared.kill(error, gone);
    }

    /// Whether [`kill`](Self::kill) was called.
    pub fn is_dead(&self) -> bool {
        self.shared.state.lock().is_dead()
    }

    /// Whether no job waits or runs.
    pub fn is_idle(&self) -> bool {
        self.shared.state.lock().is_idle()
    }

    /// The jobs that have ended since the last call: what [`Kind::retire`] asks for.
    pub fn take_retired(&self) -> Retired<K> {
        self.shared.take_retired()
    }
}

impl<K: Kind> Drop for JobQueue<K> {
    fn drop(&mut self) {
        self.shared.kill(code::ENODEV, |_| ());
        self.shared.orphaned.store(true, Release);
        self.shared.drain_orphans();
    }
}
