// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of the job queue, with fake hardware and a clock that the tests advance.

use super::*;
use crate::{
    dma_buf::{
        fence::{
            self,
            ArmedFence,
            FenceAlloc,
            FenceContext,
            FenceWatch,
            Kick,
            Mailbox, //
        },
        Waited, //
    },
    new_spinlock,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        SpinLock, //
    },
    workqueue, //
};

mod conduct;
mod deadlines;
mod delivery;
mod ending;
mod lending;
mod starting;
mod stopping;
mod turns;
mod waiting;

impl<K: Kind> JobQueue<K> {
    /// Returns the earliest time at which the time of a job is up, on the clock of
    /// [`SlotOps::now`].
    fn next_deadline(&self) -> Option<u64> {
        self.shared.state.lock().deadline()
    }

    /// Returns whether [`kill`](Self::kill) was called and not reverted since.
    fn is_dead(&self) -> bool {
        self.shared.state.lock().is_dead()
    }

    /// Returns whether no job waits or runs.
    fn is_idle(&self) -> bool {
        self.shared.state.lock().is_idle()
    }
}

const S0: QueueSlot = QueueSlot(0);
const S1: QueueSlot = QueueSlot(1);

const TIMEOUT: u64 = 1000;
const GRACE: u64 = 100;
const PATIENCE: u64 = 10_000;
/// An hour, as deadlines are in real time.
const NEAR: u64 = 3_600_000_000_000;
const LEAD: u64 = 1000;
const MAX_JOBS: u32 = 600;
const HANG_LIMIT: u32 = 3;
const FORGIVE_AFTER: u32 = 5;

static SLOT_CONFIGS: [SlotConfig; 2] = [
    SlotConfig { name: c"first" },
    SlotConfig { name: c"second" },
];
static LADDER: [Stop; 2] = [Stop::Soft, Stop::Hard];

/// A job with a number, which is counted while it exists.
struct TestJob {
    id: u32,
    alive: Arc<Atomic<i32>>,
}

impl Drop for TestJob {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Relaxed);
    }
}

/// Counts the requests of the queue.
struct Owner {
    kicks: Atomic<u32>,
    /// Kicks that were answered by [`Bench::work`].
    answered: Atomic<u32>,
    retires: Atomic<u32>,
    deadline: Atomic<u64>,
    /// Tells whether it was dropped.
    _life: Arc<()>,
}

impl Kind for Owner {
    type Job = TestJob;

    fn kick(&self) {
        self.kicks.add(1, Relaxed);
    }

    fn retire(&self) {
        self.retires.add(1, Relaxed);
    }

    fn arm_timer(&self, deadline: u64) {
        self.deadline.store(deadline, Relaxed);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Start(u32, Position),
    Finish(u32),
    Stop(u32, Stop),
    Withdraw(u32),
}

/// The behaviour of the fake hardware, and a record of the calls.
struct Log {
    now: u64,
    events: KVec<Event>,
    /// Every start fails with this.
    refuse: Option<StartError>,
    /// The start of the job with this id fails with this.
    refuse_job: (u32, StartError),
    /// The next job can be taken back.
    withdrawable: bool,
    /// The id of the job that progresses.
    progresses: Option<u32>,
    /// The number of times that the queue has asked whether a job progresses.
    asked: u32,
    /// The ids and flags of the jobs in each slot, in any order.
    loaded: [[Option<(u32, bool)>; MAX_DEPTH]; MAX_SLOTS],
    /// Set if two jobs of a slot had the same flag, a position was filled twice, a job left a slot
    /// that it was not in, or one was asked about that did not run or had been told to stop.
    broken: bool,
}

#[pin_data]
struct Fake {
    #[pin]
    log: SpinLock<Log>,
}

impl SlotOps<Owner> for Fake {
    fn now(&self) -> u64 {
        self.log.lock().now
    }

    fn start(&self, job: &Running<'_, Owner>) -> Result<(), StartError> {
        let mut log = self.log.lock();
        if let Some(error) = log.refuse {
            return Err(error);
        }
        if job.job.id == log.refuse_job.0 {
            return Err(log.refuse_job.1);
        }
        let _ = log
            .events
            .push_within_capacity(Event::Start(job.job.id, job.position));
        let loaded = &mut log.loaded[job.slot.index()];
        let confused = loaded.iter().flatten().count() != job.position as usize
            || loaded.iter().flatten().any(|(_, flag)| *flag == job.flag);
        if let Some(free) = loaded.iter_mut().find(|entry| entry.is_none()) {
            *free = Some((job.job.id, job.flag));
        }
        log.broken |= confused;
        Ok(())
    }

    fn finish(&self, job: &Running<'_, Owner>) {
        let mut log = self.log.lock();
        let _ = log.events.push_within_capacity(Event::Finish(job.job.id));
        let this = Some((job.job.id, job.flag));
        match log.loaded[job.slot.index()]
            .iter_mut()
            .find(|entry| **entry == this)
        {
            Some(entry) => *entry = None,
            None => log.broken = true,
        }
    }

    fn progressed(&self, job: &Running<'_, Owner>) -> bool {
        let mut log = self.log.lock();
        log.asked += 1;
        log.broken |= job.position != Position::Current || job.strikes != 0;
        log.progresses == Some(job.job.id)
    }

    fn stop(&self, job: &Running<'_, Owner>, how: Stop) {
        let mut log = self.log.lock();
        let _ = log
            .events
            .push_within_capacity(Event::Stop(job.job.id, how));
        // The hardware only knows the flag.
        let hit = log.loaded[job.slot.index()].iter().flatten();
        let missed = !hit
            .filter(|(_, flag)| *flag == job.flag)
            .eq([&(job.job.id, job.flag)]);
        log.broken |= missed;
    }

    fn withdraw(&self, job: &Running<'_, Owner>) -> bool {
        let mut log = self.log.lock();
        let _ = log.events.push_within_capacity(Event::Withdraw(job.job.id));
        log.withdrawable
    }
}

/// A queue, its hardware, and the number of jobs that exist.
struct Bench {
    queue: JobQueue<Owner>,
    fake: Pin<KBox<Fake>>,
    alive: Arc<Atomic<i32>>,
    /// Unique once the queue's owner was dropped.
    life: Arc<()>,
}

impl Bench {
    fn new(two_deep: bool) -> Result<Self> {
        Self::with_timeouts(two_deep, [Some(TIMEOUT); MAX_SLOTS])
    }

    /// Creates a bench whose slots have these time limits.
    fn with_timeouts(two_deep: bool, timeouts_ns: [Option<u64>; MAX_SLOTS]) -> Result<Self> {
        let events = KVec::with_capacity(4096, GFP_KERNEL)?;
        let life = Arc::new((), GFP_KERNEL)?;
        Ok(Self {
            queue: JobQueue::new(
                Config {
                    driver: c"test",
                    slots: &SLOT_CONFIGS,
                    two_deep,
                    timeouts_ns,
                    grace_ns: GRACE,
                    ladder: &LADDER,
                    patience_ns: PATIENCE,
                    near_ns: NEAR,
                    lead_ns: LEAD,
                    max_jobs: MAX_JOBS,
                    hang_limit: HANG_LIMIT,
                    forgive_after: FORGIVE_AFTER,
                },
                Owner {
                    kicks: Atomic::new(0),
                    answered: Atomic::new(0),
                    retires: Atomic::new(0),
                    deadline: Atomic::new(0),
                    _life: life.clone(),
                },
            )?,
            fake: KBox::pin_init(
                pin_init!(Fake {
                    log <- new_spinlock!(Log {
                        now: 10,
                        events,
                        refuse: None,
                        refuse_job: (u32::MAX, StartError::Busy),
                        withdrawable: true,
                        progresses: None,
                        asked: 0,
                        loaded: [[None; MAX_DEPTH]; MAX_SLOTS],
                        broken: false,
                    }),
                }),
                GFP_KERNEL,
            )?,
            alive: Arc::new(Atomic::new(0), GFP_KERNEL)?,
            life,
        })
    }

    /// Creates the usual bench, with a context of medium priority.
    fn with_context(two_deep: bool) -> Result<(Self, Context<Owner>)> {
        let bench = Self::new(two_deep)?;
        let context = bench.context(Priority::Medium)?;
        Ok((bench, context))
    }

    /// Creates a context of a party of its own.
    fn context(&self, priority: Priority) -> Result<Context<Owner>> {
        self.queue.context(&Share::new()?, priority)
    }

    fn job(&self, id: u32) -> TestJob {
        self.alive.add(1, Relaxed);
        TestJob {
            id,
            alive: self.alive.clone(),
        }
    }

    fn prepare<'c>(
        &self,
        context: &'c Context<Owner>,
        slot: QueueSlot,
        id: u32,
        fences: &[&Fence],
    ) -> Result<Prepared<'c, Owner>> {
        let mut dependencies = Dependencies::new();
        for fence in fences {
            dependencies.add(fence)?;
        }
        let place = context.try_admit().ok_or(EBUSY)?;
        Ok(context.prepare(place, slot, self.job(id), dependencies)?)
    }

    /// Pushes a job with dependencies.
    fn push_after(
        &self,
        context: &Context<Owner>,
        slot: QueueSlot,
        id: u32,
        fences: &[&Fence],
    ) -> Result<ARef<Fence>> {
        let armed = self.prepare(context, slot, id, fences)?.arm();
        let fence = ARef::from(armed.fence());
        armed.push(&*self.fake);
        Ok(fence)
    }

    /// Pushes a job for the first slot.
    fn push(&self, context: &Context<Owner>, id: u32) -> Result<ARef<Fence>> {
        self.push_after(context, S0, id, &[])
    }

    /// Does the work of the owner's worker, as long as it is kicked.
    fn work(&self) {
        let owner = self.queue.kind();

        while owner.answered.load(Relaxed) != owner.kicks.load(Relaxed) {
            owner.answered.store(owner.kicks.load(Relaxed), Relaxed);
            self.queue.run(&*self.fake);
        }
    }

    /// Ends the first slot's current job.
    fn end(&self, result: Result) -> bool {
        self.end_in(S0, result)
    }

    fn end_in(&self, slot: QueueSlot, result: Result) -> bool {
        self.queue
            .update(&*self.fake, |loaded| loaded.finish(slot, result))
    }

    fn id(&self, slot: QueueSlot, position: Position) -> Option<u32> {
        self.queue.update(&*self.fake, |loaded| {
            loaded.get(slot, position).map(|running| running.job.id)
        })
    }

    /// Returns both jobs of a slot.
    fn ids(&self, slot: QueueSlot) -> (Option<u32>, Option<u32>) {
        (
            self.id(slot, Position::Current),
            self.id(slot, Position::Next),
        )
    }

    fn advance_clock(&self, ns: u64) {
        self.fake.log.lock().now += ns;
    }

    /// Ends jobs until the fence has signalled.
    fn work_until(&self, fence: &Fence) {
        while fence.wait_timeout_uninterruptible(1) == Waited::TimedOut {
            self.queue.run(&*self.fake);
            self.end(Ok(()));
        }
    }

    /// Lets jobs of a context in the first slot run for too long, one after the other, until they
    /// are stopped. The slot must have no other jobs.
    fn hang(&self, context: &Context<Owner>, times: u32) -> Result {
        for id in 0..times {
            self.push(context, 1000 + id)?;
            self.advance_clock(TIMEOUT);
            self.queue.expire(&*self.fake);
            self.end(Err(ECANCELED));
        }
        Ok(())
    }

    /// Ends the first of three jobs, of which the second has failed with `EIO`. Returns whether
    /// that is reported now, the third job runs, and nothing is left in the end.
    fn ends_around_failure(&self, [a, b, c]: [&Fence; 3]) -> bool {
        self.end(Ok(()));
        let told = a.status() == OK && b.status() == failed(EIO);
        let runs = self.ids(S0) == (Some(3), None);
        self.end(Ok(()));
        told && runs && c.status() == OK && self.alive() == 0
    }

    /// Drops the queue and its one context, in either order. Returns whether nothing is left of
    /// them and their jobs.
    fn ends_clean(self, context: Context<Owner>, context_first: bool) -> bool {
        let Self {
            queue, alive, life, ..
        } = self;
        if context_first {
            drop(context);
            drop(queue);
        } else {
            drop(queue);
            drop(context);
        }
        alive.load(Relaxed) == 0 && Arc::into_unique_or_drop(life).is_some()
    }

    /// Returns whether these are the last events.
    fn ends_with(&self, events: &[Event]) -> bool {
        self.fake.log.lock().events.ends_with(events)
    }

    /// Returns the ids of all started jobs, in order.
    fn started(&self, ids: &[u32]) -> bool {
        let log = self.fake.log.lock();
        let starts = log.events.iter().filter_map(|event| match event {
            Event::Start(id, _) => Some(*id),
            _ => None,
        });
        starts.eq(ids.iter().copied())
    }

    /// Drops retired jobs. Returns the number of jobs that still exist.
    fn alive(&self) -> i32 {
        drop(self.queue.take_retired());
        self.alive.load(Relaxed)
    }

    fn is_sound(&self) -> bool {
        !self.fake.log.lock().broken
    }
}

/// Creates a fence that the test signals.
fn foreign() -> Result<ArmedFence> {
    let timeline = FenceContext::new(c"foreign", c"foreign");
    Ok(FenceAlloc::new(GFP_KERNEL)?.arm(&timeline))
}

const OK: Option<Result> = Some(Ok(()));

fn failed(error: Error) -> Option<Result> {
    Some(Err(error))
}
