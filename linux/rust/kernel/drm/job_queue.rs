// SPDX-License-Identifier: GPL-2.0 OR MIT

//! A job queue for GPUs that take jobs through hardware slots.
//!
//! A [`JobQueue`] lives as long as the device. Clients hold [`Context`]s; a context has one FIFO
//! for each hardware slot. A job goes through these steps:
//!
//! 1. [`Context::admit`] waits until the context has room for one more job, and
//!    [`Context::prepare`] allocates everything that the job will ever need. This is the last step
//!    that can fail.
//! 2. [`Prepared::arm`] arms the job's fence. The caller publishes [`Armed::fence`] wherever user
//!    space or other drivers look for it. From here until the fence signals, nothing may block on
//!    memory allocation; [`Armed`] carries the fence-signalling annotation.
//! 3. [`Armed::push`] appends the job to its FIFO, and starts it right away if it is the first
//!    there, its dependencies are met and the slot has room: no thread has to be woken for that.
//! 4. The interrupt thread reports what the hardware has done through [`JobQueue::update`]. The
//!    slot's next job is started in the same call, and so are jobs that waited for the one that has
//!    ended.
//! 5. The job's fence is signalled and the job moves to a list of retired jobs. The owner takes it
//!    from there ([`JobQueue::take_retired`]) and drops it in an ordinary worker, since dropping
//!    may sleep.
//!
//! Each slot holds one job, or two when the hardware has a register set for the next job as well
//! ([`Position::Next`]); the hardware starts that job by itself when the first ends.
//!
//! # Guarantees
//!
//! * The jobs of one context and slot run in the order in which they were pushed, and their fences
//!   always signal in that order, also after failure, cancellation, reset, or removal of the
//!   device. (`dma_resv` replaces a fence by a later one of the same timeline, so a fence that
//!   signals early would tell a waiter that an earlier job no longer uses its buffers.)
//! * A job starts after all its dependencies have signalled. Errors of dependencies are ignored.
//! * Among contexts that have a job ready, the higher [`Priority`] goes first. Starvation is
//!   bounded: when jobs of higher priorities have occupied the slot for [`Config::patience_ns`]
//!   while a lower priority had a job ready, one job of that priority gets a turn. It gets the next
//!   one after another [`Config::patience_ns`] or 31 times as long as its last job took, whichever
//!   is longer.
//! * Among contexts of the same priority, the one whose [`Share`] has used the slot for the least
//!   time goes first; if they have used the same time, the one that has waited longest.
//! * A job that the first job of another FIFO waits for inherits that job's priority, if it is
//!   higher. So do the jobs before it in its FIFO, and the jobs that those wait for.
//! * A job whose fence has a deadline that is [near](Config::near_ns) is urgent, and so are the
//!   jobs that it waits for. An urgent job goes out of turn, before others of the same priority,
//!   but only one at a time: the next one may do so after others have had the slot in turn for as
//!   long. An urgent job does not overtake a job whose [`Share`] has used the slot for
//!   [`Config::lead_ns`] less than its own.
//! * Unused time is not saved: a party that submits again is treated as if it had used at least as
//!   much as the party that had the last turn. A party that submits for the first time is placed
//!   behind that by the time that other parties have recently used with their first jobs, and by no
//!   more than [`Config::lead_ns`]. So a client that creates a new party for each job cannot starve
//!   the others.
//! * A context whose jobs repeatedly run for too long is closed, see [`Config::hang_limit`].
//! * The fence of every armed job is signalled exactly once: dropping an [`Armed`] pushes the job
//!   and cancels it; dropping the [`JobQueue`] fails all remaining jobs.
//! * A context has no more than [`Config::max_jobs`] jobs.
//! * Nothing is allocated after [`Context::prepare`], and no entry point panics.
//!
//! # Access to the hardware
//!
//! The queue does not own the hardware: every entry point that may need it takes [`SlotOps`] from a
//! caller that can prove that the hardware is accessible (an ioctl, an interrupt thread, a worker
//! with a guard). The queue can therefore outlive the hardware.
//!
//! # Locks and contexts
//!
//! * One spinlock for each queue. It is taken in process context only and is held while the
//!   methods of [`SlotOps`] run; locks that these take nest inside it.
//! * A mutex for each context and slot, held from arming to pushing, keeps the fences' sequence
//!   numbers in FIFO order. Nothing is allocated under it. All of these mutexes are one lockdep
//!   class, so a task can have only one [`Armed`] at a time.
//! * Another spinlock, which the queue's spinlock nests in, is held while one fence is signalled;
//!   the queue's spinlock is not. Clients' tasks do not signal fences, so that no fence has to wait
//!   until such a task is scheduled: [`Kind::kick`] asks the owner to do so. Only after the queue
//!   was killed do they signal fences themselves, possibly with the mutex held. No callback can
//!   want that mutex, since callbacks must not sleep.
//! * A deadline can be set on a job's fence in any context. That takes no lock: the fence puts
//!   itself on a lock-free list, which the next entry into the queue processes.
//! * The callback on a dependency takes no lock: it posts a preallocated node to a lock-free
//!   mailbox and calls [`Kind::kick`], unless the queue itself is signalling fences: whoever does
//!   so looks into the mailbox afterwards, and starts the jobs that waited. The spinlock is held
//!   while a callback is added, so the locks of fences nest inside it, and it is never taken with a
//!   fence's lock held.
//!
//! # Dropping
//!
//! Contexts may outlive the [`JobQueue`]. Jobs keep their context's FIFOs alive, which keep the
//! shared part of the queue alive; this cycle is broken when the queue is killed or dropped.
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     dma_buf::fence::Fence,
//!     drm::job_queue::{
//!         Config,
//!         Dependencies,
//!         JobQueue,
//!         Kind,
//!         Priority,
//!         QueueSlot,
//!         Running,
//!         Share,
//!         SlotConfig,
//!         SlotOps,
//!         StartError,
//!         Stop,
//!         MAX_SLOTS, //
//!     },
//!     sync::aref::ARef, //
//! };
//!
//! struct Ring;
//!
//! impl Kind for Ring {
//!     /// Where the commands are.
//!     type Job = u64;
//!
//!     // A driver queues work items that call `run`, `take_retired` and `expire`.
//!     fn kick(&self) {}
//!     fn retire(&self) {}
//!     fn arm_timer(&self, _deadline: u64) {}
//! }
//!
//! /// The registers of a bound device.
//! struct Registers;
//!
//! impl SlotOps<Ring> for Registers {
//!     fn now(&self) -> u64 {
//!         0
//!     }
//!
//!     fn start(&self, running: &Running<'_, Ring>) -> Result<(), StartError> {
//!         pr_debug!("write {:#x} to slot {}\n", running.job, running.slot.index());
//!         Ok(())
//!     }
//!
//!     fn finish(&self, _running: &Running<'_, Ring>) {}
//!
//!     fn progressed(&self, _running: &Running<'_, Ring>) -> bool {
//!         false
//!     }
//!
//!     fn stop(&self, _running: &Running<'_, Ring>, _how: Stop) {}
//!
//!     fn withdraw(&self, _running: &Running<'_, Ring>) -> bool {
//!         false
//!     }
//! }
//!
//! static SLOT_CONFIGS: [SlotConfig; 1] = [SlotConfig { name: c"ring" }];
//!
//! // When the device is probed.
//! let queue = JobQueue::new(
//!     Config {
//!         driver: c"example",
//!         slots: &SLOT_CONFIGS,
//!         two_deep: false,
//!         timeouts_ns: [Some(500_000_000); MAX_SLOTS],
//!         grace_ns: 50_000_000,
//!         ladder: &[Stop::Hard],
//!         patience_ns: 1_000_000_000,
//!         near_ns: 100_000_000,
//!         lead_ns: 100_000_000,
//!         max_jobs: 1024,
//!         hang_limit: 3,
//!         forgive_after: 64,
//!     },
//!     Ring,
//! )?;
//!
//! // When a client opens the device, and when it submits.
//! let context = queue.context(&Share::new()?, Priority::Medium)?;
//! let slot = QueueSlot::new(0).ok_or(EINVAL)?;
//! let armed = context
//!     .prepare(context.admit()?, slot, 0x1000, Dependencies::new())?
//!     .arm();
//! let fence: ARef<Fence> = armed.fence().into();
//! armed.push(&Registers);
//!
//! // In the interrupt thread.
//! queue.update(&Registers, |loaded| loaded.finish(slot, Ok(())));
//! assert!(fence.is_signaled());
//!
//! // In a worker.
//! drop(queue.take_retired());
//! # Ok::<(), Error>(())
//! ```

use crate::{
    dma_buf::fence::Fence,
    error::code,
    prelude::*,
    sync::aref::ARef, //
};
use core::{
    mem,
    ptr, //
};

mod account;
mod context;
mod lending;
mod loaded;
mod look;
mod queue;
mod retired;
mod state;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;
mod turns;

pub use self::account::Place;
pub use self::context::{
    Armed,
    Context,
    Prepared,
    Refused, //
};
pub use self::loaded::LoadedJobs;
pub use self::look::{
    Look,
    Whereabouts, //
};
pub use self::queue::{
    Expired,
    JobQueue, //
};
pub use self::retired::Retired;
pub use self::turns::Share;

/// The maximum number of slots of a queue.
pub const MAX_SLOTS: usize = 4;

/// The number of jobs that a slot's registers can hold.
const MAX_DEPTH: usize = 2;

/// The number of times in one turn that a job which progresses is given more time.
const MAX_EXTENSIONS: u8 = 3;

/// A hardware slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSlot(u8);

impl QueueSlot {
    /// Returns the slot with this number, or [`None`] if it is not below [`MAX_SLOTS`].
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_SLOTS {
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// Returns the slot's number, which is less than [`MAX_SLOTS`].
    #[inline]
    pub const fn index(self) -> usize {
        // The mask has no effect except to let the compiler elide bounds checks.
        self.0 as usize & (MAX_SLOTS - 1)
    }
}

const _: () = assert!(MAX_SLOTS.is_power_of_two());

/// The priority of a context: a lower one runs when no higher one has a job ready, or after it has
/// been passed over for [`Config::patience_ns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before all others.
    High = 0,
    /// The default.
    Medium = 1,
    /// After all others.
    Low = 2,
}

/// The number of priorities.
const PRIORITIES: usize = 3;

impl Priority {
    /// All priorities, the highest first.
    const ALL: [Self; PRIORITIES] = [Self::High, Self::Medium, Self::Low];
}

/// The position of a job in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The job that the slot is executing.
    Current = 0,
    /// The job that the hardware starts when the current one ends.
    Next = 1,
}

/// How to stop a job that is in the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At a point from which the job can be resumed.
    Soft,
    /// At once, without the possibility to resume.
    Hard,
}

/// Why [`SlotOps::start`] did not start a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// A resource that running jobs hold is missing, for this job and for any other. The job stays
    /// the next one of the slot and is tried again at the next entry into the queue, such as the
    /// next completion.
    Busy,
    /// As [`Busy`](Self::Busy), but other jobs may not need the resource and are tried in the
    /// meantime. The job is tried again when a job has left the hardware, in any slot.
    Blocked,
    /// The job fails with this error, after the jobs before it have ended.
    Failed(Error),
}

/// The fate of a job that was in the hardware when the hardware was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs again.
    Requeue,
    /// It has ended, with this result.
    Done(Result),
}

/// The owner's side of a queue: the type of its jobs, and notifications of work to do.
///
/// The value lives as long as the queue's shared part, which may be longer than the [`JobQueue`].
pub trait Kind: Sized + Send + Sync + 'static {
    /// A job: everything that [`SlotOps::start`] needs to start it, and everything that must live
    /// until it has ended.
    ///
    /// It is dropped with the [`Retired`] jobs, or with a [`Prepared`] job.
    type Job: Send + Sync;

    /// Asks for a call of [`JobQueue::run`]: a dependency was met, a client's task has ended jobs,
    /// or an entry point has left work to do. Fences of any client depend on that call, so a worker
    /// with a high priority should make it.
    ///
    /// Called in any context, possibly with interrupts disabled and with the lock of some fence or
    /// the queue's spinlock held: this should only queue a work item.
    fn kick(&self);

    /// Asks for a call of [`JobQueue::take_retired`], which has jobs to return.
    ///
    /// Called in process context, without the queue's spinlocks, usually in a fence-signalling
    /// section: it must not sleep.
    fn retire(&self);

    /// Asks for a call of [`JobQueue::expire`] at `deadline`, in the nanoseconds of
    /// [`SlotOps::now`], which replaces the time that was asked for before.
    ///
    /// Called when a job has begun to run, or has to be stopped, and no call of `expire` is
    /// outstanding or only a later one; and by `expire` itself for the next time. Called with the
    /// queue's spinlock held, so that calls are ordered: this should only set the timer of a work
    /// item.
    fn arm_timer(&self, deadline: u64);
}

/// Access to the hardware: starts the jobs in its slots and stops them.
///
/// All methods are called with the queue's spinlock held: they must not sleep, allocate, signal a
/// fence or call the queue.
pub trait SlotOps<K: Kind> {
    /// Returns the time of a monotonic clock in nanoseconds.
    fn now(&self) -> u64;

    /// Hands a job to the hardware.
    ///
    /// Only called for a position that is free, and for [`Position::Next`] only while the current
    /// one is taken.
    fn start(&self, job: &Running<'_, K>) -> Result<(), StartError>;

    /// Releases everything that [`start`](Self::start) acquired. The job is no longer in the
    /// hardware.
    fn finish(&self, job: &Running<'_, K>);

    /// Returns whether a job whose time is up has progressed since it began to run, or since this
    /// was last called for it. If so, it gets the time of its slot once more.
    ///
    /// Only called for a job at [`Position::Current`] that was not told to stop, and at most three
    /// times in one turn. After these it is overdue even if it progresses. Nor is it called for a
    /// job that was stopped and resumed within its turn.
    fn progressed(&self, job: &Running<'_, K>) -> bool;

    /// Asks the hardware to stop a job. Its end is reported like any other, by
    /// [`LoadedJobs::finish`] or [`LoadedJobs::requeue`].
    fn stop(&self, job: &Running<'_, K>, how: Stop);

    /// Takes back a job at [`Position::Next`]. Returns `false` if it has already begun to run.
    fn withdraw(&self, job: &Running<'_, K>) -> bool;
}

/// A job in the hardware, or about to enter it.
pub struct Running<'a, K: Kind> {
    /// The slot.
    pub slot: QueueSlot,
    /// Its position in the slot, as far as the queue knows. The hardware may be one step ahead.
    pub position: Position,
    /// Differs between the two jobs of a slot, so that a stop can be directed at one of them.
    pub flag: bool,
    /// The number of attempts to stop it by [`JobQueue::expire`]; any other [`Stop::Hard`] counts
    /// as the whole [`Config::ladder`].
    pub strikes: u8,
    /// Nanoseconds that it ran before `started`, in turns that ended with a soft stop from which it
    /// was resumed.
    pub ran_ns: u64,
    /// When it began to run, in the time of [`SlotOps::now`]. For [`Position::Next`], when it was
    /// handed to the hardware.
    pub started: u64,
    /// Identifies the context and slot: the id of their fences' timeline.
    pub timeline: u64,
    /// The job.
    pub job: &'a K::Job,
}

/// The description of a slot.
pub struct SlotConfig {
    /// The timeline name of its jobs' fences.
    pub name: &'static CStr,
}

/// Everything that a queue needs to know about its hardware.
pub struct Config {
    /// The driver name of all fences.
    pub driver: &'static CStr,
    /// One for each slot, at most [`MAX_SLOTS`].
    pub slots: &'static [SlotConfig],
    /// Whether the slots have a [`Position::Next`].
    pub two_deep: bool,
    /// How long a job may run in each slot, in nanoseconds, before [`JobQueue::expire`] begins to
    /// stop it. The time it waits is not counted. [`None`]: for as long as it takes; `expire` then
    /// concerns itself with a job only if it was told to stop.
    pub timeouts_ns: [Option<u64>; MAX_SLOTS],
    /// How long each attempt to stop a job may take, in nanoseconds, before the next step is taken.
    pub grace_ns: u64,
    /// The steps taken to stop an overdue job, in this order, before a reset is asked for.
    pub ladder: &'static [Stop],
    /// For how long jobs of higher priorities may occupy a slot, in nanoseconds, while a job of a
    /// lower priority is ready for it, before the latter gets a turn.
    pub patience_ns: u64,
    /// A job is urgent if its fence has a deadline that is at most this many nanoseconds from now.
    pub near_ns: u64,
    /// How much more time than the [`Share`] of the job whose turn it is, in nanoseconds, that of
    /// an urgent job may have used to overtake that job. Also the maximum time by which a party
    /// that submits for the first time is placed behind the party that had the last turn.
    pub lead_ns: u64,
    /// The maximum number of jobs of a context, be they waiting, running, or ended and not dropped
    /// yet.
    pub max_jobs: u32,
    /// The number of hung jobs with which a context is closed: its waiting jobs fail with
    /// `ECANCELED`, and no more are admitted. A job counts as hung if [`JobQueue::expire`] has
    /// tried to stop it and it ends with an error, other than by [`LoadedJobs::finish_stopped`].
    /// Jobs of [`Priority::High`] do not count.
    pub hang_limit: u32,
    /// The number of jobs that have to succeed, without a hang in between, for one hung job to be
    /// forgiven.
    pub forgive_after: u32,
}

/// The fences that a job waits for.
///
/// Signalled ones are left out, and of several fences of one timeline only the latest is kept.
/// Containers are replaced by their members.
///
/// # Invariants
///
/// The fences are sorted by timeline, with at most one fence for each.
#[derive(Default)]
pub struct Dependencies {
    fences: KVec<ARef<Fence>>,
    /// The number of members of containers that were added, without the first of each.
    members: usize,
}

impl Dependencies {
    /// The maximum number of timelines that a job can wait for. It is bounded because all of them
    /// may be checked with the queue's lock held.
    pub const MAX: usize = 4096;

    /// The maximum number of members of all containers together, without the first of each. It is
    /// bounded because a task that adds them heeds no signal: a container can have any number of
    /// members, and can be added any number of times.
    pub const MAX_MEMBERS: usize = 1 << 18;

    /// Creates an empty set.
    pub const fn new() -> Self {
        // INVARIANT: It is empty.
        Self {
            fences: KVec::new(),
            members: 0,
        }
    }

    /// Adds a fence, or its members if it is a container.
    ///
    /// May sleep. Fails with `ENOMEM`, also for more than [`MAX`](Self::MAX) timelines or
    /// [`MAX_MEMBERS`](Self::MAX_MEMBERS) members of containers; some members of a container may
    /// have been added then. Takes O(log n) comparisons for each fence.
    pub fn add(&mut self, fence: &Fence) -> Result {
        let mut is_first = true;

        // Buffers that are used together have the same fences.
        if self
            .known(fence.context())
            .is_some_and(|known| ptr::eq(known, fence))
        {
            return Ok(());
        }
        fence.for_each_contained(|fence| {
            if !mem::replace(&mut is_first, false) {
                if self.members >= Self::MAX_MEMBERS {
                    return Err(ENOMEM);
                }
                self.members += 1;
            }
            self.add_one(fence)
        })
    }

    /// Returns the index of the fence of a timeline, or where it would have to be inserted.
    fn search(&self, context: u64) -> Result<usize, usize> {
        self.fences
            .binary_search_by_key(&context, |known| known.context())
    }

    /// Returns the fence of a timeline, if there is one.
    fn known(&self, context: u64) -> Option<&Fence> {
        let index = self.search(context).ok()?;
        Some(self.fences.get(index)?)
    }

    /// Adds a fence that is not a container.
    fn add_one(&mut self, fence: &Fence) -> Result {
        let is_covered = self
            .known(fence.context())
            .is_some_and(|known| known.is_later_or_same(fence));

        if is_covered || fence.is_signaled() {
            return Ok(());
        }
        // This may run arbitrary code of the fence's driver, which must not run under the queue's
        // lock.
        fence.enable_signaling();
        // INVARIANT: A known timeline keeps its index; a new one is inserted at the index that the
        // search found.
        match self.search(fence.context()) {
            Ok(index) => {
                if let Some(known) = self.fences.get_mut(index) {
                    *known = ARef::from(fence);
                }
                Ok(())
            }
            Err(_) if self.fences.len() >= Self::MAX => Err(ENOMEM),
            Err(index) => {
                self.fences.reserve(1, GFP_KERNEL_ACCOUNT)?;
                // Cannot fail: there is room, and the index is not beyond the end.
                self.fences
                    .insert_within_capacity(index, ARef::from(fence))
                    .map_err(|_| ENOMEM)
            }
        }
    }

    /// Returns the number of fences to wait for.
    pub fn len(&self) -> usize {
        self.fences.len()
    }

    /// Returns whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.fences.is_empty()
    }

    /// Returns the fences except that of one timeline.
    fn without(mut self, context: u64) -> KVec<ARef<Fence>> {
        // INVARIANT: This keeps the order.
        self.fences.retain(|fence| fence.context() != context);
        self.fences
    }
}

/// The error of a job that was cancelled before it ran, and of a context that is closed.
const CANCELLED: Error = code::ECANCELED;
