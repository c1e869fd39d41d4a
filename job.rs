// SPDX-License-Identifier: GPL-2.0

//! Jobs: submission, contexts, the queue of the job slots, recovery.
//!
//! # A job's life
//!
//! [`submit`](submit::submit) looks up all that the client names, locks its BOs, gathers what to
//! wait for, allocates, and only then makes the job's fence, publishes it and pushes the job to its
//! [context](Contexts). From there the [job queue](kernel::drm::job_queue) has it: it starts the
//! job at once or when its time comes, through the [`Engine`](queue::Engine), which is handed in by
//! whoever has the hardware. The interrupt thread says how the job ended ([`recovery`]), its fence
//! signals, and a [worker](workers) drops it.
//!
//! # Locks, in order
//!
//! 1. [`Jobs::retiring`] (mutex): ended jobs are dropped, and with them what they hold
//! 2. dma_resv of the address space and of the BOs, held by a submission
//! 3. [`Jobs::hardware`] (mutex): one thread at a time reads how jobs ended, or resets or halts the GPU;
//!    then the mutex of the reset itself
//! 4. the order of a context (mutex in the queue), from arming to pushing
//! 5. the job queue (spinlock), then what an `Engine` takes: address-space slots, cycle counter
//!
//! Nothing is allocated under 3 to 5. No fence is signalled under 5. Who waits for a place in a context
//! holds none of them; the queue's mutex for that is a leaf, taken when a job is dropped.
//!
//! # End
//!
//! Workers refer to the DRM device, and the device owns them, from the first submission on.
//! [`Jobs::stop`] ends that, and all jobs; [`Jobs::settle`] waits for the workers.

mod context;
mod queue;
mod recovery;
mod status;
mod submit;
mod workers;

use kernel::{
    drm::job_queue::{
        Config,
        JobQueue,
        SlotConfig,
        Stop, //
    },
    fmt,
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
    },
    task::Pid, //
};

use crate::{
    device::{
        Gpu,
        Ratelimit, //
    },
    gem,
    hw,
    mmu, //
};

use queue::{
    Client,
    Engine, //
};
use workers::Workers;

pub(crate) use context::Contexts;
pub(crate) use submit::{
    submit,
    SubmitArgs, //
};

/// Slots, by number.
static SLOTS: [SlotConfig; hw::mali::job::SLOTS] = [
    SlotConfig { name: c"fragment" },
    SlotConfig {
        name: c"vertex-tiler",
    },
    SlotConfig {
        name: c"compute-only",
    },
];

/// What is tried on a job that runs for too long, before the GPU is reset.
static LADDER: [Stop; 2] = [Stop::Soft, Stop::Hard];

/// Most jobs that a context can have, before a submission has to wait.
const MAX_JOBS: u32 = 4096;

/// With so many jobs that hang, a context is closed.
const HANG_LIMIT: u32 = 3;

/// So many jobs that end well, one after the other, make up for one that has hung.
const FORGIVE_AFTER: u32 = 64;

/// How long the hardware may take to stop a job, at least; more if jobs have long to run.
const MIN_GRACE_MS: u64 = 50;

const NSEC_PER_MSEC: u64 = 1_000_000;

/// A job that was hit by so many resets is taken to be what causes them, and fails.
const MAX_HITS: u32 = 5;

/// A job chain, with all that must live until it has ended.
pub(crate) struct Job {
    /// Where the chain begins; where it goes on, once it was soft-stopped.
    head: Atomic<u64>,
    /// Counts cycles while it runs.
    counts_cycles: bool,
    /// Flush count when it was submitted.
    flush_id: u32,
    /// Who has submitted it: process, and context of the file. For logs.
    process: Pid,
    context: u32,
    /// Its address-space slot while it is in the hardware.
    as_nr: Atomic<u32>,
    /// Resets that it was hit by: it ran then, or could not be started before.
    hits: Atomic<u32>,
    /// The number of the reset that a failed start counts for.
    missed: Atomic<u32>,
    /// Keeps what is in its heaps. Goes before their mappings.
    heaps: gem::heap::Use,
    /// Keeps what it uses mapped.
    _mappings: KVVec<Arc<gem::Mapping>>,
    vm: Arc<mmu::Vm>,
}

impl Job {
    /// A reset hits the job. Whether it may try again.
    fn survives(&self) -> bool {
        self.hits.fetch_add(1, Relaxed) + 1 < MAX_HITS
    }
}

/// What exists once the product is known.
struct Started {
    queue: JobQueue<Client>,
    workers: Arc<Workers>,
}

/// The job side of a device.
#[pin_data]
pub(crate) struct Jobs {
    started: SetOnce<Started>,
    /// Held while jobs are taken from the hardware because of an interrupt, and over a reset.
    #[pin]
    hardware: Mutex<()>,
    /// Held while ended jobs are dropped, so that somebody can wait for that.
    #[pin]
    retiring: Mutex<()>,
    /// No job is started any more. Checked under the queue's lock.
    parked: Atomic<bool>,
    /// How often a job was told to stop because it ran for too long. It wraps.
    overdue: Atomic<u32>,
    /// Interrupts for chains that a slot did not have. It wraps.
    spurious: Atomic<u32>,
    /// Limits what is logged of closed contexts: apart, as the hangs before them fill any other limit.
    #[pin]
    log: Ratelimit,
}

impl Jobs {
    /// Nothing works yet; see [`start`](Self::start).
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            started: SetOnce::new(),
            hardware <- new_mutex!((), "drm_gpu::job::hardware"),
            retiring <- new_mutex!((), "drm_gpu::job::retiring"),
            parked: Atomic::new(false),
            overdue: Atomic::new(0),
            spurious: Atomic::new(0),
            log <- Ratelimit::new(),
        })
    }

    /// Makes the queue. Called once, before there are interrupts and clients. May sleep.
    ///
    /// `depth`: how many chains a slot can hold without confusing them, one or two.
    pub(crate) fn start(&self, depth: usize, timeout_ms: u64) -> Result {
        let workers = Workers::new()?;
        let queue = JobQueue::new(
            Config {
                driver: c"panfrost",
                slots: &SLOTS,
                two_deep: depth > 1,
                timeout_ns: timeout_ms.saturating_mul(NSEC_PER_MSEC),
                grace_ns: (timeout_ms / 4)
                    .max(MIN_GRACE_MS)
                    .saturating_mul(NSEC_PER_MSEC),
                ladder: &LADDER,
                max_jobs: MAX_JOBS,
                hang_limit: HANG_LIMIT,
                forgive_after: FORGIVE_AFTER,
            },
            Client::new(workers.clone()),
        )?;

        if self.started.populate(Started { queue, workers }) {
            Ok(())
        } else {
            Err(EBUSY)
        }
    }

    fn started(&self) -> Result<&Started> {
        self.started.as_ref().ok_or(ENODEV)
    }

    /// The engine for calls of the queue.
    fn engine<'a, 'g>(&'a self, started: &'a Started, gpu: &'a Gpu<'g>) -> Engine<'a, 'g> {
        Engine::new(gpu, &self.parked, &started.workers)
    }

    /// From here on no job is started. Unbind begins with this.
    ///
    /// When it returns, nobody is about to write to a slot. Process context; does not sleep.
    pub(crate) fn park_for_ever(&self) {
        self.parked.store(true, Release);
        if let Ok(started) = self.started() {
            // Whoever takes the queue's lock after this sees the flag.
            started.queue.park();
        }
    }

    /// Runs `f` while nobody resets the GPU or reads what its slots report. Sleeps.
    pub(crate) fn exclude(&self, f: impl FnOnce()) {
        let _hardware = self.hardware.lock();

        f();
    }

    /// Whether [`park_for_ever`](Self::park_for_ever) was called.
    fn is_parked(&self) -> bool {
        self.parked.load(Acquire)
    }

    /// Writes down what went wrong so far. Any context; takes no lock.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overdue = self.overdue.load(Relaxed);
        let resets = self.started().map_or(0, |started| started.workers.resets());
        let spurious = self.spurious.load(Relaxed);

        writeln!(f, "stops of jobs that ran for too long: {overdue}")?;
        writeln!(f, "resets: {resets}")?;
        writeln!(f, "spurious interrupts: {spurious}")
    }

    /// Fails all jobs with `ENODEV`. The GPU must have stopped for good.
    ///
    /// May sleep: waits for the workers, which wait for nobody.
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
    /// To be called once more after [`stop`](Self::stop), when no ioctl can run any more. May
    /// sleep.
    pub(crate) fn settle(&self) {
        if let Ok(started) = self.started() {
            // With the jobs go their callbacks on fences, which could start a worker.
            drop(started.queue.take_retired());
            started.workers.cancel();
            drop(started.queue.take_retired());
        }
    }
}
