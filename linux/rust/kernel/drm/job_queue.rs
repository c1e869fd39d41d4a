// SPDX-License-Identifier: GPL-2.0

//! Job queue for GPUs that take jobs through hardware slots.
//!
//! A [`JobQueue`] lives as long as the device. Clients hold [`Context`]s; a context has one FIFO
//! for each hardware slot. A job goes through these steps:
//!
//! 1. [`Context::admit`] waits until the context has room for one more job, and
//!    [`Context::prepare`] allocates all that the job will ever need. This is the last step that can
//!    fail.
//! 2. [`Prepared::arm`] makes the job's fence real. The caller publishes [`Armed::fence`] wherever
//!    user space or other drivers look for it. From here to the signalling of the fence nothing
//!    may allocate blocking or wait for memory; [`Armed`] carries the fence-signalling annotation.
//! 3. [`Armed::push`] puts the job at the end of its FIFO, and straight into the hardware when its
//!    dependencies are met and the slot has room: no thread has to wake up for that.
//! 4. The interrupt thread reports what the hardware has done through [`JobQueue::update`], and the
//!    slot's next job is started in the same call.
//! 5. The job's fence is signalled and the job goes to a list of retired jobs, from which the owner
//!    drops it in an ordinary worker ([`JobQueue::take_retired`]), since that may sleep.
//!
//! Each slot holds one job, or two when the hardware has a register set for the next job as well
//! ([`Position::Next`]); that one begins to run when the first ends, without software.
//!
//! # What is guaranteed
//!
//! * The jobs of one context and slot run in the order of their pushing, and their fences signal in
//!   that order, whatever happens: completion, failure, cancellation, reset, removal of the device.
//!   (`dma_resv` replaces a fence by a later one of the same timeline, so a fence that signals
//!   early would tell a waiter that an earlier job no longer uses its buffers.)
//! * A job starts after all its dependencies have signalled. Their errors are not looked at.
//! * Among contexts that have a job ready, the higher [`Priority`] goes first. Of those of the same
//!   priority it is the turn of the one whose [`Share`] has used the slot for the least time; of those
//!   that have used the same, the turn of the one that has waited for the longest time.
//! * What is not used is not saved: a party that begins to submit has used as much as the one whose
//!   turn it was last.
//! * A context whose jobs run for too long again and again is closed: see [`Config::hang_limit`].
//! * Every armed job's fence is signalled once: an [`Armed`] that is dropped counts as pushed and
//!   cancelled; dropping the [`JobQueue`] fails what is left.
//! * A context has no more than [`Config::max_jobs`] jobs.
//! * Nothing is allocated after [`Context::prepare`], and no entry point panics.
//!
//! # Engine
//!
//! The queue does not hold the hardware: every entry point that may need it takes an [`Engine`]
//! from a caller who can prove that the hardware can be reached (an ioctl, an interrupt thread, a
//! worker with a guard). The queue can therefore outlive the hardware.
//!
//! # Locks and contexts
//!
//! * One spinlock for each queue. It is taken in process context only and is held while the
//!   [`Engine`]'s methods run; what these take nests inside.
//! * A mutex for each context and slot, held from arming to pushing, makes the order of the fences'
//!   sequence numbers the order of the FIFO. Nothing is allocated under it. All of them are one class
//!   for lockdep: a task has one [`Armed`] at a time.
//! * Fences are signalled without the spinlock, by one CPU at a time. [`Armed::push`] may signal with
//!   the mutex held, which no callback can want, since that must not sleep.
//! * The callback on a dependency takes no lock: it posts a preallocated node to a lock-free
//!   mailbox and calls [`Kind::kick`]. The spinlock is held while a callback is added, so the
//!   locks of fences nest inside it, and no fence's lock is ever held around it.
//!
//! # Dropping
//!
//! Contexts may outlive the [`JobQueue`]. Jobs keep their context's FIFOs alive, and these the
//! shared part of the queue; the cycle ends when the queue is killed or dropped.
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     dma_buf::fence::Fence,
//!     drm::job_queue::{
//!         Config,
//!         Dependencies,
//!         Engine,
//!         JobQueue,
//!         Kind,
//!         Priority,
//!         Running,
//!         Share,
//!         Slot,
//!         SlotConfig,
//!         StartError,
//!         Stop, //
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
//! impl Engine<Ring> for Registers {
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
//!     fn stop(&self, _running: &Running<'_, Ring>, _how: Stop) {}
//!
//!     fn withdraw(&self, _running: &Running<'_, Ring>) -> bool {
//!         false
//!     }
//! }
//!
//! static SLOTS: [SlotConfig; 1] = [SlotConfig { name: c"ring" }];
//!
//! // When the device is probed.
//! let queue = JobQueue::new(
//!     Config {
//!         driver: c"example",
//!         slots: &SLOTS,
//!         two_deep: false,
//!         timeout_ns: 500_000_000,
//!         grace_ns: 50_000_000,
//!         ladder: &[Stop::Hard],
//!         max_jobs: 1024,
//!         hang_limit: 3,
//!         forgive_after: 64,
//!     },
//!     Ring,
//! )?;
//!
//! // When a client opens the device, and when it submits.
//! let context = queue.context(&Share::new()?, Priority::Medium)?;
//! let slot = Slot::new(0).ok_or(EINVAL)?;
//! let armed = context
//!     .prepare(context.admit()?, slot, 0x1000, Dependencies::new())?
//!     .arm();
//! let fence: ARef<Fence> = armed.fence().into();
//! armed.push(&Registers);
//!
//! // In the interrupt thread.
//! queue.update(&Registers, |hardware| hardware.finish(slot, Ok(())));
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

mod account;
mod context;
mod hardware;
mod queue;
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
pub use self::hardware::Hardware;
pub use self::queue::{
    Expired,
    JobQueue,
    Retired, //
};
pub use self::turns::Share;

/// Most slots that a queue can have.
pub const MAX_SLOTS: usize = 4;

/// Number of jobs that a slot's registers can hold.
const MAX_DEPTH: usize = 2;

/// A hardware slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u8);

impl Slot {
    /// The slot with this number; [`None`] from [`MAX_SLOTS`] on.
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_SLOTS {
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// Its number, less than [`MAX_SLOTS`].
    #[inline]
    pub const fn index(self) -> usize {
        // The mask changes nothing; it lets the compiler see that arrays are not overrun.
        self.0 as usize & (MAX_SLOTS - 1)
    }
}

const _: () = assert!(MAX_SLOTS.is_power_of_two());

/// Which contexts go first. Strict: a lower one runs when no higher one has a job ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before all others.
    High = 0,
    /// The usual one.
    Medium = 1,
    /// When nothing else is ready.
    Low = 2,
}

/// Number of priorities.
const PRIORITIES: usize = 3;

/// Where in a slot a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The job that the slot works on.
    Current = 0,
    /// The job that the hardware starts when the current one ends.
    Next = 1,
}

/// How to end a job that is in the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At a point from which it can be continued.
    Soft,
    /// Now, for good.
    Hard,
}

/// Why [`Engine::start`] did not start a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Something that running jobs hold is missing. The job stays the first of its FIFO and is
    /// tried again at the next entry into the queue, such as the next completion.
    Busy,
    /// The job fails with this error, after the jobs before it have ended.
    Failed(Error),
}

/// What becomes of a job that was in the hardware when it was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs again.
    Requeue,
    /// It has ended, with this result.
    Done(Result),
}

/// What a queue is made of besides its jobs: who is told when something has to be done.
///
/// The value lives as long as the queue's shared part, which may be longer than the [`JobQueue`].
pub trait Kind: Sized + Send + Sync + 'static {
    /// A job: what [`Engine::start`] needs to start it, and what must live until it has ended.
    ///
    /// It is dropped by whoever drops [`Retired`], or with a [`Prepared`] job.
    type Job: Send + Sync;

    /// A dependency was met: [`JobQueue::run`] is to be called soon.
    ///
    /// Called in any context, with the lock of some fence held and interrupts off: to queue a work
    /// item is about all that may be done here.
    fn kick(&self);

    /// [`JobQueue::take_retired`] has something to drop.
    ///
    /// Called in process context, in a fence-signalling section, without the queue's spinlock.
    fn retire(&self);

    /// [`JobQueue::expire`] is to be called at `deadline`, in the nanoseconds of [`Engine::now`],
    /// instead of when it was to be called before.
    ///
    /// Called when a job has begun to run, or is to be stopped, and no call of `expire` is
    /// outstanding or only a later one; and by `expire` itself for the next time. Called with the
    /// queue's spinlock held, so that the latest call is the one that counts: to set the timer of a
    /// work item is about all that may be done here.
    fn arm_timer(&self, deadline: u64);
}

/// The hardware.
///
/// All methods are called with the queue's spinlock held: they must not sleep, allocate, signal a
/// fence or call the queue.
pub trait Engine<K: Kind> {
    /// Nanoseconds of a monotonic clock.
    fn now(&self) -> u64;

    /// Hands a job to the hardware.
    ///
    /// Only called for a position that is free, and for [`Position::Next`] only while the current
    /// one is taken.
    fn start(&self, job: &Running<'_, K>) -> Result<(), StartError>;

    /// A started job is no longer in the hardware. Undoes what [`start`](Self::start) took.
    fn finish(&self, job: &Running<'_, K>);

    /// Asks the hardware to end a job. Its end is reported as any other, by [`Hardware::finish`] or
    /// [`Hardware::requeue`].
    fn stop(&self, job: &Running<'_, K>, how: Stop);

    /// Takes a job at [`Position::Next`] back. False when it has begun to run already.
    fn withdraw(&self, job: &Running<'_, K>) -> bool;
}

/// A job in the hardware, or about to enter it.
pub struct Running<'a, K: Kind> {
    /// The slot.
    pub slot: Slot,
    /// Where in the slot the queue believes it to be. The hardware may be one step ahead.
    pub position: Position,
    /// Differs between one start and the next in the same slot, hence between its two jobs.
    pub flag: bool,
    /// How often [`JobQueue::expire`] or a cancellation has tried to stop it.
    pub strikes: u8,
    /// When it began to run, in the time of [`Engine::now`]. For [`Position::Next`], when it was
    /// handed to the hardware.
    pub started: u64,
    /// Identifies the context and slot: the id of their fences' timeline.
    pub timeline: u64,
    /// The job.
    pub job: &'a K::Job,
}

/// How a slot is called.
pub struct SlotConfig {
    /// The timeline name of its jobs' fences.
    pub name: &'static CStr,
}

/// What a queue needs to know of its hardware.
pub struct Config {
    /// The driver name of all fences.
    pub driver: &'static CStr,
    /// One for each slot, at most [`MAX_SLOTS`].
    pub slots: &'static [SlotConfig],
    /// Whether the slots have a [`Position::Next`].
    pub two_deep: bool,
    /// How long a job may run, in nanoseconds, before [`JobQueue::expire`] begins to stop it.
    /// The time it waits is not counted.
    pub timeout_ns: u64,
    /// How long each attempt to stop a job may take, in nanoseconds.
    pub grace_ns: u64,
    /// What is tried on an overdue job, in this order, before a reset is asked for.
    pub ladder: &'static [Stop],
    /// Most jobs that a context can have, be they waiting, running, or ended and not dropped yet.
    pub max_jobs: u32,
    /// How many jobs of a context may have to be stopped by [`JobQueue::expire`], or end with the reset
    /// that it asks for. With the last one the context is closed: its waiting jobs fail with
    /// `ECANCELED`, and no more are admitted.
    pub hang_limit: u32,
    /// How many jobs have to end well, with none that hangs between them, for one that has hung to be
    /// forgotten.
    pub forgive_after: u32,
}

/// The fences that a job waits for.
///
/// Signalled ones are left out, and of several fences of one timeline only the latest is kept.
///
/// # Invariants
///
/// Sorted by timeline, each of which is there once.
#[derive(Default)]
pub struct Dependencies(KVec<ARef<Fence>>);

impl Dependencies {
    /// Most timelines that a job can wait for: all of them may be looked at with the queue's lock
    /// held.
    pub const MAX: usize = 4096;

    /// None yet.
    pub const fn new() -> Self {
        // INVARIANT: It is empty.
        Self(KVec::new())
    }

    /// Adds a fence. May sleep; fails with `ENOMEM`, also for more than [`MAX`](Self::MAX)
    /// timelines. Takes O(log n) comparisons.
    pub fn add(&mut self, fence: &Fence) -> Result {
        if fence.is_signaled() {
            return Ok(());
        }
        // INVARIANT: A known timeline keeps its place; a new one gets that which the search found.
        match self
            .0
            .binary_search_by_key(&fence.context(), |known| known.context())
        {
            Ok(index) => {
                if let Some(known) = self.0.get_mut(index) {
                    if !known.is_later_or_same(fence) {
                        *known = ARef::from(fence);
                    }
                }
                Ok(())
            }
            Err(_) if self.0.len() >= Self::MAX => Err(ENOMEM),
            Err(index) => {
                self.0.reserve(1, GFP_KERNEL)?;
                // There is room, and the place is at most the end.
                self.0
                    .insert_within_capacity(index, ARef::from(fence))
                    .map_err(|_| ENOMEM)
            }
        }
    }

    /// Number of fences to wait for.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Leaves out the fences of one timeline.
    fn without(mut self, context: u64) -> KVec<ARef<Fence>> {
        // INVARIANT: The order stays.
        self.0.retain(|fence| fence.context() != context);
        self.0
    }
}

/// The error of a job that was cancelled before it ran, and of a context that is closed.
const CANCELLED: Error = code::ECANCELED;
