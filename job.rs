// SPDX-License-Identifier: GPL-2.0

//! Jobs: submission, contexts, the queue of the job slots, recovery.
//!
//! # A job's life
//!
//! A client first obtains a place in a [context](Contexts). [`submit`](submit::Admission::submit)
//! then locks the BOs that the job uses, collects the fences it depends on and allocates; only
//! after that does it arm the job's fence, publish it and push the job to its context. From there
//! the [job queue](kernel::drm::job_queue) owns the job: it starts the job, immediately or later,
//! through the [`SlotAccess`] passed in by a caller that can reach the hardware. The interrupt
//! thread reports how the job ended ([`recovery`]), the fence signals, and a
//! [worker](workers) drops the job. A job that has hung or failed leaves its state to a [`dump`].
//!
//! # Locks, in order
//!
//! 1. [`Jobs::retiring`] (mutex): held while ended jobs, and the references they hold, are dropped;
//!    [`Jobs::retiring_turn`] (mutex) is held while waiting for it
//! 2. dma_resv of the address space and of the shared BOs: held by a submission; the spinlock of
//!    [`gem::private`] nests inside and is a leaf
//! 3. [`Jobs::slots_lock`] (mutex): serialises reading how jobs ended with resetting and halting
//!    the GPU; the mutex of the reset itself nests inside
//! 4. the submission order of a context and slot (mutex in the queue): held from arming to pushing
//! 5. the job queue (spinlock); the locks that a `SlotAccess` takes nest inside: the hardware's
//!    address spaces, the cycle counter; and that of [`dump`]
//!
//! Nothing is allocated under 3 to 5, and no fence is signalled under 5. A task that waits for a
//! place in a context holds none of these locks; the queue's mutex for that wait is a leaf, which
//! is also taken when a job is dropped.
//!
//! # End
//!
//! The device owns the workers, and from the first submission on the workers hold a reference to
//! the DRM device. [`Jobs::stop`] breaks that cycle and fails all jobs; [`Jobs::settle`] waits for
//! the workers.

mod circles;
mod context;
mod dump;
mod events;
mod faults;
mod locks;
mod queue;
mod recovery;
mod show;
mod status;
mod subject;
mod submit;
mod workers;

use core::{
    array,
    mem,
    ptr, //
};

use kernel::{
    drm::{
        self,
        job_queue::{
            Config,
            JobQueue,
            QueueSlot,
            Stop, //
        },
        wedge::Recovery, //
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
        Mutex,
        SetOnce, //
    }, //
};

use crate::{
    device::{
        Device,
        Driver,
        Gpu,
        Ratelimit, //
    },
    gem,
    hw::Runner, //
};

use dump::{
    Dumps,
    JobMemory, //
};
use queue::{
    QueueOwner,
    SlotAccess, //
};
use subject::Process;
use workers::Workers;

pub(crate) use context::Contexts;
pub(crate) use dump::Config as DumpConfig;
pub(crate) use submit::Request;

/// The state of a job slot.
type Status = <Gpu<'static> as Runner>::Status;

/// Returns the job slots.
fn slots() -> impl Iterator<Item = QueueSlot> {
    (0..<Gpu<'static> as Runner>::SLOTS.len()).map_while(QueueSlot::new)
}

/// The attempts to stop a job that runs for too long, in order, before the GPU is reset.
static LADDER: [Stop; 2] = [Stop::Soft, Stop::Hard];

/// The number of jobs that a context can have before a submission has to wait.
const MAX_JOBS: u32 = 4096;

/// The number of hung jobs that closes a context.
const HANG_LIMIT: u32 = 3;

/// The number of jobs in a row that have to end well to make up for one that has hung.
const FORGIVE_AFTER: u32 = 64;

/// The least time that the hardware is given to stop a job. It gets a quarter of the job timeout if
/// that is more.
const MIN_GRACE_MS: u64 = 50;

/// The time for which jobs of higher priorities may keep those of lower priorities from a slot.
const PATIENCE_MS: u64 = 1000;

/// A job is urgent if the deadline of its fence is at most this far away. Several frames of any
/// display.
const NEAR_MS: u64 = 100;

/// The amount of slot time by which a client may be ahead of the one whose turn it is, and still
/// have its urgent job go first.
const LEAD_MS: u64 = 100;

const NSEC_PER_MSEC: u64 = 1_000_000;

/// The number of resets that a job may be hit by. With the last one it is taken to be their cause,
/// and fails.
const MAX_HITS: u32 = 5;

/// A job chain, and everything that must live until the chain has ended.
pub(crate) struct Job {
    /// GPU address of the first job of the chain.
    chain: u64,
    /// GPU address at which the chain is started next. Differs from `chain` after a soft stop from
    /// which the chain continues.
    head: Atomic<u64>,
    /// The GPU counts cycles while the job is in the hardware.
    counts_cycles: bool,
    /// Flush count of the GPU when the job was submitted.
    flush_id: u32,
    /// The submitting process, and below it the handle of the context. For logs only.
    process: Process,
    context: u32,
    /// Number of its AS. Valid only while the job is in the hardware.
    as_nr: Atomic<u32>,
    /// It was stopped because of a fault in its address space.
    faulted: Atomic<bool>,
    /// Its chain was seen to run in a circle.
    circles: Atomic<bool>,
    /// It was soft-stopped and continues, or will continue, from `head`.
    resumed: Atomic<bool>,
    /// A reset interrupted it at an unknown place, so that it cannot be run again.
    lost: Atomic<bool>,
    /// Number of resets that it was hit by: those during which it ran, and those requested because
    /// it could not be started.
    hits: Atomic<u32>,
    /// Number of the reset that the last failed start was counted for, so that it counts once.
    missed: Atomic<u32>,
    /// The dumps of the device, if a dump of this job was begun.
    dump: SetOnce<Arc<Dumps>>,
    /// Keeps the content of its heaps. Dropped before their mappings, unless these are dropped in
    /// parts because they are many.
    heaps: gem::heap::Use,
    /// Keeps its BOs mapped.
    mappings: KVVec<Arc<gem::Mapping>>,
    vm: Arc<gem::Vm>,
}

impl Job {
    /// Returns whether the job holds this mapping, which is one of `vm`.
    fn uses(&self, vm: &gem::Vm, mapping: *const gem::Mapping) -> bool {
        ptr::eq(&*self.vm, vm) && self.position(mapping).is_some()
    }

    fn position(&self, mapping: *const gem::Mapping) -> Option<usize> {
        self.mappings
            .iter()
            .position(|used| ptr::eq(Arc::as_ptr(used), mapping))
    }

    /// Drops a mapping that the job, which has ended, may hold, unless it is for a dump. Sleeps.
    fn release(&mut self, mapping: *const gem::Mapping) {
        if self.dump.as_ref().is_some() {
            return;
        }
        if let Some(index) = self.position(mapping) {
            drop(self.mappings.remove(index));
        }
    }

    /// Returns the error of the fence of a job that the driver ends.
    fn end(&self) -> Error {
        match self.faulted.load(Relaxed) {
            true => EINVAL,
            false => ECANCELED,
        }
    }

    /// Counts a reset that hits the job. Returns whether the job may run again.
    fn survives(&self) -> bool {
        self.hits.fetch_add(1, Relaxed) + 1 < MAX_HITS
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(dumps) = self.dump.as_ref() {
            dumps.give(JobMemory {
                mappings: mem::take(&mut self.mappings),
                vm: self.vm.clone(),
            });
        }
    }
}

/// The parts of [`Jobs`] that are created once the GPU has been identified.
struct Started {
    queue: JobQueue<QueueOwner>,
    workers: Arc<Workers>,
    dumps: Arc<Dumps>,
    /// The time that a job may run in all its turns together, in nanoseconds.
    limit_ns: u64,
}

/// The job side of a device.
#[pin_data]
pub(crate) struct Jobs {
    started: SetOnce<Started>,
    /// Held while the state of the slots is read or jobs are stopped, and across a reset.
    #[pin]
    slots_lock: Mutex<()>,
    /// Held while ended jobs are dropped. Taking it waits until jobs being dropped are gone.
    #[pin]
    retiring: Mutex<()>,
    /// Held while waiting for `retiring`: see [`Self::lock_retiring`].
    #[pin]
    retiring_turn: Mutex<()>,
    /// No job is started any more: unbind has begun. Never cleared. Checked under the queue's lock.
    parked: Atomic<bool>,
    /// The GPU is lost: no job is started until [`find`](Self::find) clears this.
    lost_gpu: Atomic<bool>,
    /// Number of attempts in a row to bring back a lost GPU that have failed. Used by
    /// [`find`](Self::find) only.
    failed_finds: Atomic<u32>,
    /// Number of times that a job was told to stop because it ran for too long. Wraps.
    overdue: Atomic<u32>,
    /// Number of those times that it was a hard stop. Wraps.
    hard_stops: Atomic<u32>,
    /// Number of times that a long job was stopped to let others go first. Wraps.
    yielded: Atomic<u32>,
    /// Number of interrupts for chains that a slot did not have. Wraps.
    spurious: Atomic<u32>,
    /// Number of chain ends found by the timer without an interrupt that reported them. Wraps.
    lost: Atomic<u32>,
    /// Number of times that a chain could not be written to a slot's second entry, because that was
    /// still taken. Wraps.
    missed_entries: Atomic<u32>,
    /// Limits the messages about closed contexts. They have a limit of their own, since the hangs
    /// that precede them would have used up any other.
    #[pin]
    log: Ratelimit,
    /// Limits the messages about resets. They have a limit of their own, since clients whose jobs
    /// hang would use up that of the messages about the hardware.
    #[pin]
    reset_log: Ratelimit,
}

impl Jobs {
    /// Returns the job side without a queue. Submissions fail with `ENODEV` until
    /// [`start`](Self::start) is called.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            started: SetOnce::new(),
            slots_lock <- new_mutex!((), "drm_gpu::job::slots_lock"),
            retiring <- new_mutex!((), "drm_gpu::job::retiring"),
            retiring_turn <- new_mutex!((), "drm_gpu::job::retiring_turn"),
            parked: Atomic::new(false),
            lost_gpu: Atomic::new(false),
            failed_finds: Atomic::new(0),
            overdue: Atomic::new(0),
            hard_stops: Atomic::new(0),
            yielded: Atomic::new(0),
            spurious: Atomic::new(0),
            lost: Atomic::new(0),
            missed_entries: Atomic::new(0),
            log <- Ratelimit::new(),
            reset_log <- Ratelimit::new(),
        })
    }

    /// Creates the queue. Called once, before there are interrupts and clients; a second call fails
    /// with `EBUSY`. May sleep.
    ///
    /// `timeout_ms` is the time that a job may run in one turn, unless the family has another limit
    /// for the slot; `limit_ms` is the time that a job may run in all its turns together.
    pub(crate) fn start(
        &self,
        gpu: &Gpu<'_>,
        timeout_ms: u64,
        limit_ms: u64,
        dumps: DumpConfig,
    ) -> Result {
        let workers = Workers::new()?;
        let dumps = Dumps::new(dumps)?;
        let queue = JobQueue::new(
            Config {
                driver: <Driver as drm::Driver>::INFO.name,
                slots: <Gpu<'static> as Runner>::SLOTS,
                two_deep: gpu.depth() > 1,
                timeouts_ns: array::from_fn(|index| {
                    let slot = slots().nth(index)?;
                    let ms = gpu.timeout_ms(slot, timeout_ms)?;

                    Some(ms.saturating_mul(NSEC_PER_MSEC))
                }),
                grace_ns: (timeout_ms / 4)
                    .max(MIN_GRACE_MS)
                    .saturating_mul(NSEC_PER_MSEC),
                ladder: &LADDER,
                patience_ns: PATIENCE_MS.saturating_mul(NSEC_PER_MSEC),
                near_ns: NEAR_MS.saturating_mul(NSEC_PER_MSEC),
                lead_ns: LEAD_MS.saturating_mul(NSEC_PER_MSEC),
                max_jobs: MAX_JOBS,
                hang_limit: HANG_LIMIT,
                forgive_after: FORGIVE_AFTER,
            },
            QueueOwner::new(workers.clone()),
        )?;

        let limit_ns = limit_ms.saturating_mul(NSEC_PER_MSEC);
        let started = Started {
            queue,
            workers,
            dumps,
            limit_ns,
        };

        if self.started.populate(started) {
            Ok(())
        } else {
            Err(EBUSY)
        }
    }

    fn started(&self) -> Result<&Started> {
        self.started.as_ref().ok_or(ENODEV)
    }

    /// Returns the access to the job slots that the queue takes.
    fn access<'a, 'g>(&'a self, started: &'a Started, gpu: &'a Gpu<'g>) -> SlotAccess<'a, 'g> {
        SlotAccess::new(gpu, self, &started.workers)
    }

    /// Keeps jobs from being started, for good. The first step of unbind.
    ///
    /// No caller of the queue is still starting a job when this returns. Process context; does not
    /// sleep.
    pub(crate) fn park_for_ever(&self) {
        self.parked.store(true, Release);
        if let Ok(started) = self.started() {
            // Takes the queue's lock, so that every later holder of the lock sees the flag.
            started.queue.park();
        }
    }

    /// Cancels the worker that looks for a lost GPU, which cuts the GPU's power, and waits for it.
    /// Called after [`park_for_ever`](Self::park_for_ever). Sleeps.
    pub(crate) fn stop_looking(&self) {
        if let Ok(started) = self.started() {
            started.workers.cancel_find();
        }
    }

    /// Runs `f` with [`Self::slots_lock`] held: no other thread resets the GPU or reads the state
    /// of its slots meanwhile. Sleeps.
    pub(crate) fn exclude(&self, f: impl FnOnce()) {
        let _slots = self.slots_lock.lock();

        f();
    }

    /// Tells user space that the GPU is wedged: the driver has tried in vain whatever it can.
    /// Binding it again does a little more, since it turns the regulators off as well. No bus can
    /// reset the GPU.
    ///
    /// The caller holds no lock that a fence depends on. Sleeps, and may wait for memory.
    fn tell_given_up(&self, drm: &Device) {
        // Without the guard, it is being unbound, as the event would ask for.
        let Some(drm) = drm.registration_guard() else {
            return;
        };

        if let Err(e) = drm.wedged_event(Recovery::REBIND) {
            dev_err!(drm.as_ref(), "user space cannot be told: {:?}\n", e);
        }
    }

    /// Returns whether [`park_for_ever`](Self::park_for_ever) was called or the GPU is lost.
    fn is_parked(&self) -> bool {
        self.parked.load(Acquire) || self.lost_gpu.load(Acquire)
    }

    /// Fails all jobs with `ENODEV`. The GPU must have stopped for good.
    ///
    /// Detaches the workers from the device and waits for those that run. May sleep.
    pub(crate) fn stop(&self) {
        self.park_for_ever();
        if let Ok(started) = self.started() {
            started.workers.detach();
            started
                .queue
                .kill(ENODEV, |running| running.job.vm.as_put());
            self.settle();
        }
    }

    /// Drops the jobs that have ended and waits for the workers.
    ///
    /// Called once more after [`stop`](Self::stop), when no ioctl can run any more. May sleep.
    pub(crate) fn settle(&self) {
        if let Ok(started) = self.started() {
            // A task that looks for the jobs of a mapping has the others out of the list meanwhile.
            let drop_retired = || {
                let _retiring = self.lock_retiring();

                drop(started.queue.take_retired());
            };

            // Dropping the jobs also removes their callbacks on fences, which could queue a worker.
            drop_retired();
            started.workers.cancel();
            drop_retired();
            // No job leaves anything to a dump any more that the worker would have to make.
            started.dumps.clear();
        }
    }
}
