// SPDX-License-Identifier: GPL-2.0

//! Device coredumps: the state of the GPU and of a job that has hung or failed, for user space.
//!
//! A dump is made in two phases, as fences depend on the places where a job is found to have
//! failed. There, registers are read into memory that was set aside at probe, and the job is marked
//! ([`Dumps::begin`]). Nothing is allocated, and nothing waited for. When the job is dropped
//! afterwards, it leaves its mappings to the dump ([`Dumps::give`]) instead of dropping them. A
//! worker that no fence depends on then copies the memory and publishes the dump ([`report`]).
//! Until that is done, the mappings are kept like those of any job that has ended: reclaim may
//! evict or purge the memory of BOs that have a handle, and a dump says so. Those whose last handle
//! is closed meanwhile stay mapped until the dump is made, so that a client which gives up or is
//! killed after a hang does not take the reason along.
//!
//! Triggers are: a job that did not stop softly in time, or whose chain runs in a circle; a job
//! that faults, or whose address space does; and a reset that fails while a job runs. There is one
//! dump at a time: nothing is begun while another dump is being made, or can still be read, nor for
//! a while after a dump could not be made or published.
//!
//! Lock: a spinlock, which nests inside that of the queue and is a leaf.

mod report;

use core::mem;

use kernel::{
    devcoredump::Coredump,
    drm::job_queue::{
        Position,
        QueueSlot,
        Running, //
    },
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::{
    device::{
        with_gpu,
        Device,
        Gpu, //
    },
    gem,
    hw::dump::{
        DumpFormat,
        Inspect, //
    }, //
};

use super::{
    queue::QueueOwner,
    subject::Subject,
    Jobs,
    Started, //
};

/// The time for which no dump is begun after one that could not be made.
const FAILED_PAUSE: Delta = Delta::from_secs(1);

/// The time for which no dump is begun after one that was dropped at once: dumps are disabled, or
/// there still is one from before the driver was bound.
const DROPPED_PAUSE: Delta = Delta::from_secs(30);

/// The registers of the GPU.
type Snapshot = <Gpu<'static> as Inspect>::Snapshot;

/// The properties of dumps.
#[derive(Clone, Copy)]
pub(crate) struct Config {
    /// The layout.
    pub(crate) format: DumpFormat,
    /// The number of bytes of memory that a dump has at most. No dumps are made if it is 0.
    pub(crate) limit: usize,
}

/// The reason for a dump.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The job did not stop softly in time. The registers were read before the hard stop.
    Hang,
    /// The chain was seen to run in a circle. It has stopped.
    Circle,
    /// The job has failed by itself.
    Fault,
    /// There was a fault in the address space, which has been turned off.
    SpaceFault,
    /// A reset has failed. The registers were read before it.
    Reset,
}

impl Why {
    /// Returns the text for the dump.
    fn text(self) -> &'static str {
        match self {
            Self::Hang => "hang: the job has run for too long and did not stop softly",
            Self::Circle => "hang: the job has run for too long, and its chain runs in a circle",
            Self::Fault => "fault: the job has failed",
            Self::SpaceFault => {
                "fault: an access by this job, or another of its address space, has failed"
            }
            Self::Reset => "reset: the GPU could not be reset",
        }
    }
}

/// A job in a slot, and the registers, at the moment at which something went wrong.
pub(super) struct Record {
    why: Why,
    slot: QueueSlot,
    subject: Subject,
    /// GPU address of the first job of the chain.
    chain: u64,
    /// GPU address at which the chain was started last.
    head: u64,
    /// Number of the job's AS.
    as_nr: u8,
    /// Identifies the timeline of the job's fence.
    timeline: u64,
    /// How long the job has run in all.
    ran: Delta,
    /// The number of attempts to stop it.
    strikes: u8,
    /// When the registers were read.
    taken: Instant<Monotonic>,
    registers: Snapshot,
}

impl Record {
    /// Reads the registers. `now` is the time of the queue, whose lock is held. The registers are
    /// not off limits.
    fn new(why: Why, gpu: &Gpu<'_>, running: &Running<'_, QueueOwner>, now: u64) -> Self {
        let Running { slot, job, .. } = *running;
        let ran_ns = running
            .ran_ns
            .saturating_add(now.saturating_sub(running.started));
        // There are 16 numbers.
        let as_nr = job.as_nr.load(Relaxed) as u8 & 0xf;

        Self {
            why,
            slot,
            subject: Subject::new(slot, job),
            chain: job.chain,
            head: job.head.load(Relaxed),
            as_nr,
            timeline: running.timeline,
            ran: Delta::from_nanos(i64::try_from(ran_ns).unwrap_or(i64::MAX)),
            strikes: running.strikes,
            taken: Instant::now(),
            registers: gpu.snapshot(slot, as_nr),
        }
    }
}

/// The memory that a job leaves to a dump.
///
/// Dropping it sleeps, like dropping the job.
pub(super) struct JobMemory {
    /// The mappings of the BOs that the job listed. Dropped before the address space.
    pub(super) mappings: KVVec<Arc<gem::Mapping>>,
    pub(super) vm: Arc<gem::Vm>,
}

/// How far the dump is that is being made.
///
/// [`Dumps::clear`] goes back to [`Idle`](Self::Idle) from any stage, once the worker does not run
/// any more.
enum Stage {
    /// There is no dump. Left for [`Begun`](Self::Begun) when a job is marked.
    Idle,
    /// The job is marked, and has not been dropped yet. The registers of the record are as they
    /// were when it was made; the memory is still that of the job.
    ///
    /// Left for [`Ready`](Self::Ready) by [`Dumps::give`].
    Begun(Record),
    /// The job has been dropped and has left its mappings, which are kept; the content of the BOs
    /// may have been evicted or purged. The worker is queued, or will be.
    ///
    /// Left for [`Making`](Self::Making) by the worker ([`Dumps::take`]).
    Ready(Record, JobMemory),
    /// The worker has the record and the mappings, and makes the dump from them.
    ///
    /// Left for [`Idle`](Self::Idle) by [`Dumps::finish`], whether the dump was published or not.
    Making,
}

/// The data guarded by the lock of [`Dumps`].
struct Inner {
    stage: Stage,
    /// The reset after that in which the record was made has failed.
    lost: bool,
    /// The dump that was published last.
    last: Option<Coredump>,
    /// When the last dump could not be made or published, and for how long none is begun after
    /// that. [`None`] if it was published.
    pause: Option<(Instant<Monotonic>, Delta)>,
}

/// The dumps of a device.
#[pin_data]
pub(super) struct Dumps {
    config: Config,
    /// The stage is [`Stage::Ready`]. Read without the lock.
    ready: Atomic<bool>,
    #[pin]
    inner: SpinLock<Inner>,
}

impl Dumps {
    /// Prepares for dumps. Sleeps.
    pub(super) fn new(config: Config) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                config,
                ready: Atomic::new(false),
                inner <- new_spinlock!(
                    Inner {
                        stage: Stage::Idle,
                        lost: false,
                        last: None,
                        pause: None,
                    },
                    "drm_gpu::job::dumps"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns whether a dump may be begun.
    fn is_wanted(&self, inner: &Inner) -> bool {
        self.config.limit != 0
            && matches!(inner.stage, Stage::Idle)
            && !inner.last.as_ref().is_some_and(Coredump::exists)
            && inner.pause.is_none_or(|(at, pause)| at.elapsed() >= pause)
    }

    /// Begins the dump of a job in a slot, unless there is a dump already. `now` is the time of the
    /// queue, whose lock is held, as is [`Jobs::slots_lock`]. Does not sleep and allocates nothing.
    pub(super) fn begin(
        self: &Arc<Self>,
        why: Why,
        gpu: &Gpu<'_>,
        running: &Running<'_, QueueOwner>,
        now: u64,
    ) {
        let mut inner = self.inner.lock();

        if self.is_wanted(&inner) && !gpu.off_limits() {
            let record = Record::new(why, gpu, running, now);

            self.adopt(&mut inner, running, record);
        }
    }

    /// Reads the registers before a reset, in case that it fails. The conditions are those of
    /// [`Self::begin`].
    pub(super) fn look(
        &self,
        gpu: &Gpu<'_>,
        running: &Running<'_, QueueOwner>,
        now: u64,
    ) -> Option<Record> {
        let wanted = self.is_wanted(&self.inner.lock()) && !gpu.off_limits();

        wanted.then(|| Record::new(Why::Reset, gpu, running, now))
    }

    /// Notes that a reset has failed, with a job in the hardware that fails now. Begins the dump of
    /// the job if it is that of `before`, which is taken then. The conditions are those of
    /// [`Self::begin`], but registers may be off limits.
    pub(super) fn reset_failed(
        self: &Arc<Self>,
        before: &mut Option<Record>,
        running: &Running<'_, QueueOwner>,
    ) {
        let mut inner = self.inner.lock();
        let is_same = |record: &mut Record| {
            running.position == Position::Current
                && record.slot == running.slot
                && record.timeline == running.timeline
        };

        if self.is_wanted(&inner) {
            if let Some(record) = before.take_if(is_same) {
                self.adopt(&mut inner, running, record);
            }
        }
        inner.lost = !matches!(inner.stage, Stage::Idle);
    }

    /// Marks the job, so that it leaves its memory to the dump.
    fn adopt(
        self: &Arc<Self>,
        inner: &mut Inner,
        running: &Running<'_, QueueOwner>,
        record: Record,
    ) {
        // Fails if the job was marked before; then its memory was asked for once and is not again.
        if running.job.dump.populate(self.clone()) {
            inner.stage = Stage::Begun(record);
            inner.lost = false;
        }
    }

    /// Takes the memory of the job that was marked, or drops it if there is no dump any more.
    /// Sleeps.
    pub(super) fn give(&self, memory: JobMemory) {
        let refused = {
            let mut inner = self.inner.lock();

            match mem::replace(&mut inner.stage, Stage::Idle) {
                Stage::Begun(record) => {
                    inner.stage = Stage::Ready(record, memory);
                    self.ready.store(true, Relaxed);
                    None
                }
                other => {
                    inner.stage = other;
                    Some(memory)
                }
            }
        };

        // With the lock released.
        drop(refused);
    }

    /// Returns whether the worker has something to do. Takes no lock.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Takes the record and the memory of a dump, for the worker, which calls [`Self::finish`].
    /// Also returns whether a reset has failed.
    fn take(&self) -> Option<(Record, JobMemory, bool)> {
        let mut inner = self.inner.lock();

        match mem::replace(&mut inner.stage, Stage::Making) {
            Stage::Ready(record, memory) => {
                self.ready.store(false, Relaxed);
                Some((record, memory, inner.lost))
            }
            other => {
                inner.stage = other;
                None
            }
        }
    }

    /// Ends the dump that was [taken](Self::take). `published` is what [`report::publish`] has
    /// returned.
    fn finish(&self, published: Result<Coredump>) {
        let mut inner = self.inner.lock();
        let pause = match published {
            Ok(dump) => {
                inner.last = Some(dump);
                None
            }
            Err(EBUSY) => Some(DROPPED_PAUSE),
            Err(_) => Some(FAILED_PAUSE),
        };

        inner.stage = Stage::Idle;
        inner.pause = pause.map(|pause| (Instant::now(), pause));
    }

    /// Drops what a dump has that is not published yet. The worker does not run any more. Sleeps.
    pub(super) fn clear(&self) {
        let old = mem::replace(&mut self.inner.lock().stage, Stage::Idle);

        self.ready.store(false, Relaxed);
        // With the lock released.
        drop(old);
    }
}

impl Jobs {
    /// Queues the worker if a job that was dropped has left its memory to a dump. Does not sleep.
    pub(super) fn queue_dump(&self, started: &Started) {
        if started.dumps.is_ready() {
            started.workers.queue_dump();
        }
    }

    /// Makes the dump that was begun and publishes it. For the worker. Sleeps, and waits for
    /// memory.
    pub(super) fn dump(&self, drm: &Device) {
        let Ok(started) = self.started() else {
            return;
        };
        let Some((record, memory, lost)) = started.dumps.take() else {
            return;
        };
        // Unbind waits for this, but does not have to wait for long.
        let published = with_gpu(drm, |gpu| {
            report::publish(self, started, gpu, &record, &memory, lost)
        });

        // Without the guard: this may drop the last reference to a BO, and freeing that can wait
        // for tasks that wait for the guard.
        drop(memory);
        started.dumps.finish(published.unwrap_or(Err(ENODEV)));
    }
}
