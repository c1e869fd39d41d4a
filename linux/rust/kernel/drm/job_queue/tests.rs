// SPDX-License-Identifier: GPL-2.0

//! Tests of the job queue against an engine and a clock that the tests move by hand.

use super::*;
use crate::{
    dma_buf::fence::{
        ArmedFence,
        FenceAlloc,
        FenceContext,
        FenceWatch,
        Kick,
        Mailbox, //
    },
    new_spinlock,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
    workqueue, //
};

const S0: Slot = Slot(0);
const S1: Slot = Slot(1);

const TIMEOUT: u64 = 1000;
const GRACE: u64 = 100;

static SLOTS: [SlotConfig; 2] = [
    SlotConfig { name: c"first" },
    SlotConfig { name: c"second" },
];
static LADDER: [Stop; 2] = [Stop::Soft, Stop::Hard];

/// A job that has a number and counts itself.
struct TestJob {
    id: u32,
    alive: Arc<Atomic<i32>>,
}

impl Drop for TestJob {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Relaxed);
    }
}

/// Counts what the queue asks for.
struct Owner {
    kicks: Atomic<u32>,
    retires: Atomic<u32>,
    deadline: Atomic<u64>,
    /// To see whether it was dropped.
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

/// What the fake hardware does and has seen.
struct Log {
    now: u64,
    events: KVec<Event>,
    /// Every start fails with this.
    refuse: Option<StartError>,
    /// The next job can be taken back.
    withdrawable: bool,
    /// The flags of the last two starts of each slot.
    flags: [[bool; 2]; MAX_SLOTS],
    /// Two jobs of a slot had the same flag, or a position was taken twice.
    broken: bool,
    /// Number of jobs in each slot.
    loaded: [usize; MAX_SLOTS],
}

#[pin_data]
struct Fake {
    #[pin]
    log: SpinLock<Log>,
}

impl Engine<Owner> for Fake {
    fn now(&self) -> u64 {
        self.log.lock().now
    }

    fn start(&self, job: &Running<'_, Owner>) -> Result<(), StartError> {
        let mut log = self.log.lock();
        if let Some(error) = log.refuse {
            return Err(error);
        }
        let _ = log
            .events
            .push_within_capacity(Event::Start(job.job.id, job.position));
        let slot = job.slot.index();
        if job.position == Position::Next && log.flags[slot][1] == job.flag {
            log.broken = true;
        }
        log.flags[slot] = [log.flags[slot][1], job.flag];
        log.broken |= log.loaded[slot] != job.position as usize;
        log.loaded[slot] += 1;
        Ok(())
    }

    fn finish(&self, job: &Running<'_, Owner>) {
        let mut log = self.log.lock();
        let _ = log.events.push_within_capacity(Event::Finish(job.job.id));
        let slot = job.slot.index();
        log.broken |= log.loaded[slot] == 0;
        log.loaded[slot] = log.loaded[slot].saturating_sub(1);
    }

    fn stop(&self, job: &Running<'_, Owner>, how: Stop) {
        let _ = self
            .log
            .lock()
            .events
            .push_within_capacity(Event::Stop(job.job.id, how));
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
        let events = KVec::with_capacity(4096, GFP_KERNEL)?;
        let life = Arc::new((), GFP_KERNEL)?;
        Ok(Self {
            queue: JobQueue::new(
                Config {
                    driver: c"test",
                    slots: &SLOTS,
                    two_deep,
                    timeout_ns: TIMEOUT,
                    grace_ns: GRACE,
                    ladder: &LADDER,
                },
                Owner {
                    kicks: Atomic::new(0),
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
                        withdrawable: true,
                        flags: [[true, false]; MAX_SLOTS],
                        broken: false,
                        loaded: [0; MAX_SLOTS],
                    }),
                }),
                GFP_KERNEL,
            )?,
            alive: Arc::new(Atomic::new(0), GFP_KERNEL)?,
            life,
        })
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
        slot: Slot,
        id: u32,
        fences: &[&Fence],
    ) -> Result<Prepared<'c, Owner>> {
        let mut dependencies = Dependencies::new();
        for fence in fences {
            dependencies.add(fence)?;
        }
        context.prepare(slot, self.job(id), dependencies)
    }

    /// Pushes a job with dependencies.
    fn push_after(
        &self,
        context: &Context<Owner>,
        slot: Slot,
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

    /// The hardware ends the first slot's current job.
    fn end(&self, result: Result) -> bool {
        self.end_in(S0, result)
    }

    fn end_in(&self, slot: Slot, result: Result) -> bool {
        self.queue
            .update(&*self.fake, |hardware| hardware.finish(slot, result))
    }

    fn id(&self, slot: Slot, position: Position) -> Option<u32> {
        self.queue.update(&*self.fake, |hardware| {
            hardware.get(slot, position).map(|running| running.job.id)
        })
    }

    /// Both jobs of a slot.
    fn ids(&self, slot: Slot) -> (Option<u32>, Option<u32>) {
        (
            self.id(slot, Position::Current),
            self.id(slot, Position::Next),
        )
    }

    fn advance_clock(&self, ns: u64) {
        self.fake.log.lock().now += ns;
    }

    /// Whether the last events are these.
    fn ends_with(&self, events: &[Event]) -> bool {
        self.fake.log.lock().events.ends_with(events)
    }

    /// The ids of all starts, in their order.
    fn started(&self, ids: &[u32]) -> bool {
        let log = self.fake.log.lock();
        let starts = log.events.iter().filter_map(|event| match event {
            Event::Start(id, _) => Some(*id),
            _ => None,
        });
        starts.eq(ids.iter().copied())
    }

    /// Drops retired jobs; the number of jobs that still exist.
    fn alive(&self) -> i32 {
        drop(self.queue.take_retired());
        self.alive.load(Relaxed)
    }

    fn is_sound(&self) -> bool {
        !self.fake.log.lock().broken
    }
}

/// A fence that the test signals.
fn foreign() -> Result<ArmedFence> {
    let timeline = FenceContext::new(c"foreign", c"foreign");
    Ok(FenceAlloc::new(GFP_KERNEL)?.arm(&timeline))
}

const OK: Option<Result> = Some(Ok(()));

fn failed(error: Error) -> Option<Result> {
    Some(Err(error))
}

#[kunit_tests(rust_drm_job_queue)]
mod suite {
    use super::*;

    #[test]
    fn slots_are_bounded() -> Result {
        assert!(Slot::new(MAX_SLOTS).is_none());
        assert_eq!(Slot::new(3).map(Slot::index), Some(3));

        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        assert!(bench.prepare(&context, Slot(2), 1, &[]).is_err());
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn two_deep_keeps_both_filled() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        let b = bench.push(&context, 2)?;
        let c = bench.push(&context, 3)?;
        assert!(bench.ids(S0) == (Some(1), Some(2)));
        assert!(bench.end(Ok(())));
        assert!(bench.ids(S0) == (Some(2), Some(3)));
        assert!(a.status() == OK);
        assert!(b.status().is_none());
        assert!(bench.end(Err(EINVAL)));
        assert!(b.status() == failed(EINVAL));
        assert!(bench.end(Ok(())));
        assert!(c.status() == OK);
        assert!(bench.queue.is_idle());
        assert!(bench.is_sound());
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn one_deep_holds_one() -> Result {
        let bench = Bench::new(false)?;
        let context = bench.queue.context(Priority::Medium)?;
        bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        assert!(bench.ids(S0) == (Some(1), None));
        bench.end(Ok(()));
        assert!(bench.ids(S0) == (Some(2), None));
        Ok(())
    }

    #[test]
    fn slots_do_not_wait_for_each_other() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        let b = bench.push_after(&context, S1, 2, &[])?;
        assert!(bench.ids(S1) == (Some(2), None));
        bench.end_in(S1, Ok(()));
        assert!(a.status().is_none());
        assert!(b.status() == OK);
        assert!(a.context() != b.context());
        Ok(())
    }

    #[test]
    fn waits_for_every_dependency() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let other = bench.queue.context(Priority::Medium)?;
        let (x, y, z) = (foreign()?, foreign()?, foreign()?);
        let a = bench.push_after(&context, S0, 1, &[x.fence(), y.fence(), z.fence()])?;
        bench.push(&context, 2)?;
        assert!(bench.ids(S0) == (None, None));
        // Others are not held up.
        bench.push(&other, 3)?;
        assert!(bench.ids(S0) == (Some(3), None));
        bench.end(Ok(()));

        // Out of order, one of them with an error.
        y.signal(Err(EIO));
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), 0);
        x.signal(Ok(()));
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), 1);
        bench.queue.run(&*bench.fake);
        assert!(bench.ids(S0) == (None, None));
        z.signal(Ok(()));
        bench.queue.run(&*bench.fake);
        assert!(bench.ids(S0) == (Some(1), Some(2)));
        bench.end(Ok(()));
        assert!(a.status() == OK);
        Ok(())
    }

    #[test]
    fn dependencies_are_condensed() -> Result {
        let timeline = FenceContext::new(c"foreign", c"foreign");
        let first = FenceAlloc::new(GFP_KERNEL)?.arm(&timeline);
        let second = FenceAlloc::new(GFP_KERNEL)?.arm(&timeline);
        let mut dependencies = Dependencies::new();
        dependencies.add(second.fence())?;
        dependencies.add(first.fence())?;
        dependencies.add(&Fence::stub())?;
        assert_eq!(dependencies.len(), 1);
        assert!(dependencies
            .0
            .iter()
            .all(|fence| fence.seqno() == second.fence().seqno()));

        // A FIFO does not wait for itself.
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        bench.push_after(&context, S0, 2, &[&a])?;
        assert!(bench.ids(S0) == (Some(1), Some(2)));
        Ok(())
    }

    #[test]
    fn dependency_between_slots() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let a = bench.push_after(&context, S1, 1, &[])?;
        bench.push_after(&context, S0, 2, &[&a])?;
        assert!(bench.ids(S0) == (None, None));
        bench.end_in(S1, Ok(()));
        bench.queue.run(&*bench.fake);
        assert!(bench.ids(S0) == (Some(2), None));
        Ok(())
    }

    #[test]
    fn chain_through_two_queues() -> Result {
        let one = Bench::new(true)?;
        let two = Bench::new(true)?;
        let first = one.queue.context(Priority::Medium)?;
        let second = two.queue.context(Priority::Medium)?;
        let a = one.push(&first, 1)?;
        let b = two.push_after(&second, S0, 2, &[&a])?;
        let c = one.push_after(&first, S0, 3, &[&b])?;
        one.end(Ok(()));
        two.queue.run(&*two.fake);
        assert!(two.ids(S0) == (Some(2), None));
        two.end(Ok(()));
        one.queue.run(&*one.fake);
        assert!(one.ids(S0) == (Some(3), None));
        one.end(Ok(()));
        assert!(c.status() == OK);
        Ok(())
    }

    #[test]
    fn priorities_go_first() -> Result {
        let bench = Bench::new(false)?;
        let low = bench.queue.context(Priority::Low)?;
        let medium = bench.queue.context(Priority::Medium)?;
        let high = bench.queue.context(Priority::High)?;
        bench.queue.park();
        bench.push(&low, 1)?;
        bench.push(&medium, 2)?;
        bench.push(&high, 3)?;
        bench.push(&high, 4)?;
        assert!(bench.ids(S0) == (None, None));
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        while bench.end(Ok(())) {}
        assert!(bench.started(&[3, 4, 2, 1]));
        Ok(())
    }

    #[test]
    fn contexts_take_turns() -> Result {
        let bench = Bench::new(true)?;
        let a = bench.queue.context(Priority::Medium)?;
        let b = bench.queue.context(Priority::Medium)?;
        bench.queue.park();
        for id in [1, 2, 3] {
            bench.push(&a, id)?;
        }
        for id in [11, 12, 13] {
            bench.push(&b, id)?;
        }
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        while bench.end(Ok(())) {}
        assert!(bench.started(&[1, 11, 2, 12, 3, 13]));
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn failed_start_keeps_order() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        bench.fake.log.lock().refuse = Some(StartError::Failed(EIO));
        let b = bench.push(&context, 2)?;
        bench.fake.log.lock().refuse = None;
        // It has failed, but the one before it runs.
        assert!(b.status().is_none());
        let c = bench.push(&context, 3)?;
        bench.end(Ok(()));
        assert!(a.status() == OK);
        assert!(b.status() == failed(EIO));
        assert!(bench.ids(S0) == (Some(3), None));
        bench.end(Ok(()));
        assert!(c.status() == OK);
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn failed_start_alone() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        bench.fake.log.lock().refuse = Some(StartError::Failed(EIO));
        let a = bench.push(&context, 1)?;
        assert!(a.status() == failed(EIO));
        assert!(bench.queue.is_idle());
        Ok(())
    }

    #[test]
    fn busy_engine_is_asked_again() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        bench.fake.log.lock().refuse = Some(StartError::Busy);
        let a = bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        assert!(a.status().is_none());
        bench.queue.run(&*bench.fake);
        bench.fake.log.lock().refuse = None;
        bench.queue.run(&*bench.fake);
        assert!(bench.ids(S0) == (Some(1), Some(2)));
        assert!(bench.started(&[1, 2]));
        Ok(())
    }

    #[test]
    fn spurious_completion() -> Result {
        let bench = Bench::new(true)?;
        assert!(!bench.end(Ok(())));
        let context = bench.queue.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        assert!(!bench.end_in(S1, Ok(())));
        assert!(!bench.end_in(Slot(3), Ok(())));
        assert!(a.status().is_none());
        assert!(!bench
            .queue
            .update(&*bench.fake, |hw| hw.requeue(S0, Position::Next)));
        Ok(())
    }

    #[test]
    fn retire_is_asked_for_once() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        bench.end(Ok(()));
        bench.end(Ok(()));
        assert_eq!(bench.queue.kind().retires.load(Relaxed), 1);
        assert_eq!(bench.alive.load(Relaxed), 2);
        assert_eq!(bench.alive(), 0);
        assert!(bench.queue.take_retired().is_empty());
        bench.push(&context, 3)?;
        bench.end(Ok(()));
        assert_eq!(bench.queue.kind().retires.load(Relaxed), 2);
        Ok(())
    }

    #[test]
    fn only_running_time_counts() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        assert_eq!(bench.queue.next_deadline(), None);
        bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        bench.push(&context, 3)?;
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 10 + TIMEOUT);
        assert_eq!(bench.queue.next_deadline(), Some(10 + TIMEOUT));
        bench.advance_clock(900);
        bench.end(Ok(()));
        assert_eq!(bench.queue.next_deadline(), Some(910 + TIMEOUT));
        // The timer was started once and comes too early for the second job.
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 10 + TIMEOUT);
        bench.advance_clock(100);
        assert!(!bench.queue.expire(&*bench.fake).reset);
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 910 + TIMEOUT);
        bench.end(Ok(()));
        bench.end(Ok(()));
        bench.queue.expire(&*bench.fake);
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 910 + TIMEOUT);
        assert_eq!(context.used_ns(S0), 1000);
        // It is asked for anew.
        bench.push(&context, 4)?;
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 1010 + TIMEOUT);
        Ok(())
    }

    #[test]
    fn overdue_job_is_stopped_harder_and_harder() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        bench.push(&context, 1)?;
        bench.push_after(&context, S1, 2, &[])?;
        bench.advance_clock(TIMEOUT / 2);
        bench.end_in(S1, Ok(()));
        bench.push_after(&context, S1, 3, &[])?;
        bench.advance_clock(TIMEOUT / 2);
        let expired = bench.queue.expire(&*bench.fake);
        assert!(!expired.reset);
        assert_eq!(
            bench.queue.kind().deadline.load(Relaxed),
            10 + TIMEOUT + GRACE
        );
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Soft)]));
        // Too early.
        bench.queue.expire(&*bench.fake);
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Soft)]));
        bench.advance_clock(GRACE);
        assert!(!bench.queue.expire(&*bench.fake).reset);
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Hard)]));
        bench.advance_clock(GRACE);
        assert!(bench.queue.expire(&*bench.fake).reset);

        // The guilty one fails, the innocent one runs again.
        bench.queue.park();
        assert_eq!(bench.queue.next_deadline(), None);
        bench.queue.restart(&*bench.fake, |running| {
            if running.strikes > 0 {
                Verdict::Done(Err(ETIMEDOUT))
            } else {
                Verdict::Requeue
            }
        });
        assert!(bench.ids(S0) == (None, None));
        assert!(bench.ids(S1) == (Some(3), None));
        assert!(bench.queue.next_deadline().is_some());
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn restart_keeps_order() -> Result {
        let bench = Bench::new(true)?;
        let a = bench.queue.context(Priority::Medium)?;
        let b = bench.queue.context(Priority::Medium)?;
        bench.push(&a, 1)?;
        bench.push(&a, 2)?;
        bench.push(&b, 11)?;
        bench.push(&a, 3)?;
        bench.queue.park();
        bench.push(&b, 12)?;
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        assert!(bench.ids(S0).0 == Some(1));
        while bench.end(Ok(())) {}
        assert!(bench.is_sound());
        let mut last = [0; 2];
        let mut ordered = true;
        for event in bench.fake.log.lock().events.iter() {
            if let Event::Finish(id) = event {
                // The first two were taken out by the restart as well.
                let of = &mut last[usize::from(*id > 10)];
                ordered &= *id >= *of || *id == 1;
                *of = *id;
            }
        }
        assert!(ordered);
        Ok(())
    }

    #[test]
    fn restart_does_not_signal_early() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        let b = bench.push(&context, 2)?;
        let c = bench.push(&context, 3)?;
        bench.queue.park();
        bench
            .queue
            .restart(&*bench.fake, |running| match running.job.id {
                2 => Verdict::Done(Err(EIO)),
                _ => Verdict::Requeue,
            });
        assert!(a.status().is_none() && b.status().is_none());
        assert!(bench.ids(S0).0 == Some(1));
        bench.end(Ok(()));
        assert!(a.status() == OK && b.status() == failed(EIO));
        assert!(bench.ids(S0) == (Some(3), None));
        bench.end(Ok(()));
        assert!(c.status() == OK);
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn completion_while_parked() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        bench.push(&context, 3)?;
        bench.queue.park();
        bench.end(Ok(()));
        assert!(a.status() == OK);
        assert!(bench.ids(S0) == (Some(2), None));
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        assert!(bench.ids(S0) == (Some(2), Some(3)));
        Ok(())
    }

    #[test]
    fn requeue_after_soft_stop() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let high = bench.queue.context(Priority::High)?;
        bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        bench.queue.park();
        bench.push(&high, 3)?;
        // The second would overtake the first.
        assert!(!bench
            .queue
            .update(&*bench.fake, |hw| hw.requeue(S0, Position::Current)));
        assert!(bench.queue.update(&*bench.fake, |hw| {
            hw.requeue(S0, Position::Next) && hw.requeue(S0, Position::Current)
        }));
        assert!(bench.ids(S0) == (None, None));
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        while bench.end(Ok(())) {}
        assert!(bench.started(&[1, 2, 3, 1, 2]));
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn cancel_waits_for_what_runs() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let other = bench.queue.context(Priority::Medium)?;
        let never = foreign()?;
        let a = bench.push(&context, 1)?;
        let b = bench.push_after(&context, S0, 2, &[never.fence()])?;
        let c = bench.push(&context, 3)?;
        let d = bench.push(&other, 4)?;
        context.cancel();
        assert!(b.status().is_none() && c.status().is_none());
        let late = bench.push(&context, 5)?;
        assert!(late.status().is_none());
        bench.end(Ok(()));
        assert!(a.status() == OK);
        assert!(b.status() == failed(ECANCELED));
        assert!(c.status() == failed(ECANCELED));
        assert!(late.status() == failed(ECANCELED));
        assert!(bench.ids(S0) == (Some(4), None));
        bench.end(Ok(()));
        assert!(d.status() == OK);
        // Nothing runs any more: at once.
        let later = bench.push(&context, 6)?;
        assert!(later.status() == failed(ECANCELED));
        assert_eq!(bench.alive(), 0);
        // The callback was removed with its job.
        never.signal(Ok(()));
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn late_notice_is_harmless() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let some = foreign()?;
        bench.push_after(&context, S0, 1, &[some.fence()])?;
        some.signal(Ok(()));
        context.cancel();
        assert_eq!(bench.alive(), 0);
        drop(context);
        bench.queue.run(&*bench.fake);
        assert!(bench.started(&[]));
        Ok(())
    }

    #[test]
    fn cancel_running_withdraws_and_stops() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let other = bench.queue.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        let b = bench.push(&context, 2)?;
        bench.push(&other, 3)?;
        context.cancel_running(&*bench.fake);
        assert!(bench.ids(S0) == (Some(1), Some(3)));
        assert!(a.status().is_none() && b.status().is_none());
        assert_eq!(bench.queue.next_deadline(), Some(10 + GRACE));
        // Earlier than what was asked for when it started.
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 10 + GRACE);
        bench.end(Err(ECANCELED));
        assert!(a.status() == failed(ECANCELED) && b.status() == failed(ECANCELED));
        assert!(bench.ids(S0) == (Some(3), None));

        // A job that does not stop: a reset.
        bench.push(&other, 4)?;
        bench.fake.log.lock().withdrawable = false;
        other.cancel_running(&*bench.fake);
        assert!(bench.ends_with(&[
            Event::Withdraw(4),
            Event::Stop(4, Stop::Hard),
            Event::Stop(3, Stop::Hard),
        ]));
        bench.advance_clock(GRACE);
        assert!(bench.queue.expire(&*bench.fake).reset);
        bench.queue.park();
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        // Cancelled jobs do not run again, whatever the verdict.
        assert!(bench.queue.is_idle());
        assert_eq!(bench.alive(), 0);
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn stop_by_the_owner() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        bench.push(&context, 1)?;
        bench.advance_clock(TIMEOUT / 2);
        bench.queue.update(&*bench.fake, |hw| {
            hw.stop(S0, Position::Current, Stop::Soft);
            hw.stop(S0, Position::Next, Stop::Hard);
        });
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Soft)]));
        assert_eq!(
            bench.queue.kind().deadline.load(Relaxed),
            10 + TIMEOUT / 2 + GRACE
        );
        bench.advance_clock(GRACE);
        // It did not help.
        assert!(!bench.queue.expire(&*bench.fake).reset);
        bench.queue.update(&*bench.fake, |hw| {
            hw.stop(S0, Position::Current, Stop::Hard);
        });
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Hard)]));
        bench.advance_clock(GRACE);
        assert!(bench.queue.expire(&*bench.fake).reset);
        Ok(())
    }

    #[test]
    fn stopped_while_next() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        bench.queue.update(&*bench.fake, |hw| {
            hw.stop(S0, Position::Next, Stop::Hard);
        });
        // The time of a job that does not run does not count.
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 10 + TIMEOUT);
        bench.end(Ok(()));
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 10 + GRACE);
        Ok(())
    }

    #[test]
    fn kill_ends_everything() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let never = foreign()?;
        let fences = [
            bench.push(&context, 1)?,
            bench.push(&context, 2)?,
            bench.push_after(&context, S0, 3, &[never.fence()])?,
            bench.push(&context, 4)?,
            bench.push_after(&context, S1, 5, &[])?,
        ];
        let prepared = bench.prepare(&context, S0, 6, &[])?;
        let mut gone = 0;
        bench.queue.kill(ENODEV, |_| gone += 1);
        assert_eq!(gone, 3);
        assert!(fences.iter().all(|fence| fence.status() == failed(ENODEV)));
        assert!(bench.queue.is_dead() && bench.queue.is_idle());
        let late = bench.push(&context, 7)?;
        assert!(late.status() == failed(ENODEV));
        let armed = prepared.arm();
        let fence = ARef::from(armed.fence());
        armed.push(&*bench.fake);
        assert!(fence.status() == failed(ENODEV));
        bench.queue.kill(EIO, |_| ());
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        assert!(bench.started(&[1, 2, 5]));
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn dropped_before_and_after_arming() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let x = foreign()?;
        drop(bench.prepare(&context, S0, 1, &[x.fence()])?);
        assert_eq!(bench.alive(), 0);

        let a = bench.push(&context, 2)?;
        let armed = bench.prepare(&context, S0, 3, &[x.fence()])?.arm();
        let b = ARef::from(armed.fence());
        drop(armed);
        let c = bench.push(&context, 4)?;
        // In its turn.
        assert!(b.status().is_none());
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), 1);
        bench.end(Ok(()));
        assert!(a.status() == OK && b.status() == failed(ECANCELED));
        assert!(bench.ids(S0) == (Some(4), None));
        bench.end(Ok(()));
        assert!(c.status() == OK);

        let armed = bench.prepare(&context, S0, 5, &[])?.arm();
        let d = ARef::from(armed.fence());
        drop(armed);
        assert!(d.status() == failed(ECANCELED));
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn contexts_outlive_the_queue() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let x = foreign()?;
        let a = bench.push(&context, 1)?;
        let b = bench.push_after(&context, S1, 2, &[x.fence()])?;
        let Bench {
            queue, fake, alive, ..
        } = bench;
        drop(queue);
        assert!(a.status() == failed(ENODEV) && b.status() == failed(ENODEV));
        assert_eq!(alive.load(Relaxed), 0);

        alive.add(1, Relaxed);
        let job = TestJob {
            id: 3,
            alive: alive.clone(),
        };
        let armed = context.prepare(S0, job, Dependencies::new())?.arm();
        let c = ARef::from(armed.fence());
        armed.push(&*fake);
        assert!(c.status() == failed(ENODEV));
        drop(context);
        assert_eq!(alive.load(Relaxed), 0);
        x.signal(Ok(()));
        Ok(())
    }

    /// A dependency that signals when nobody looks into the mailbox any more.
    #[test]
    fn notice_left_behind() -> Result {
        for context_first in [true, false] {
            let bench = Bench::new(true)?;
            let context = bench.queue.context(Priority::Medium)?;
            let x = foreign()?;
            let a = bench.push_after(&context, S0, 1, &[x.fence()])?;
            x.signal(Ok(()));
            assert_eq!(bench.queue.kind().kicks.load(Relaxed), 1);

            let Bench {
                queue, alive, life, ..
            } = bench;
            if context_first {
                drop(context);
                drop(queue);
            } else {
                drop(queue);
                drop(context);
            }
            assert!(a.status() == failed(ENODEV));
            assert_eq!(alive.load(Relaxed), 0);
            assert!(Arc::into_unique_or_drop(life).is_some());
        }
        Ok(())
    }

    /// Drops every kick.
    struct Deaf;

    impl Kick for Deaf {
        fn kick(&self) {}
    }

    /// What one CPU has to signal while another one does so is left to that one.
    #[test]
    fn one_delivers_for_all() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let mailbox = Arc::new(Mailbox::new(Deaf), GFP_KERNEL)?;
        let mut watches = KVec::new();
        for id in 1..=3 {
            let fence = bench.push(&context, id)?;
            let mut watch = FenceWatch::new(mailbox.clone(), id, GFP_KERNEL)?;
            assert!(watch.start(&fence)?);
            watches.push(watch, GFP_KERNEL)?;
        }

        bench.queue.shared.state.lock().delivering = true;
        bench.end(Ok(()));
        bench.end(Ok(()));
        context.cancel_running(&*bench.fake);
        bench.queue.kill(ENODEV, |_| ());
        assert!(mailbox.is_empty());
        assert_eq!(bench.queue.kind().retires.load(Relaxed), 0);

        // The other one goes on.
        let mut state = bench.queue.shared.state.lock();
        state.delivering = false;
        bench.queue.shared.deliver(state);
        assert!(mailbox.drain().map(|mail| *mail).eq(1..=3));
        assert!(!bench.queue.shared.state.lock().delivering);
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    /// The jobs of one FIFO end on several CPUs.
    #[test]
    fn order_between_cpus() -> Result {
        let bench = Arc::new(Bench::new(true)?, GFP_KERNEL)?;
        let context = bench.queue.context(Priority::Medium)?;
        let mailbox = Arc::new(Mailbox::new(Deaf), GFP_KERNEL)?;
        let mut watches = [
            FenceWatch::new(mailbox.clone(), 0, GFP_KERNEL)?,
            FenceWatch::new(mailbox.clone(), 1, GFP_KERNEL)?,
        ];

        for round in 0..200 {
            let fences = [
                bench.push(&context, 2 * round)?,
                bench.push(&context, 2 * round + 1)?,
            ];
            for (watch, fence) in watches.iter_mut().zip(&fences) {
                assert!(watch.start(fence)?);
            }
            let other = bench.clone();
            workqueue::system_dfl().try_spawn(GFP_KERNEL, move || {
                other.end(Ok(()));
            })?;
            bench.end(Ok(()));
            for (watch, fence) in watches.iter_mut().zip(&fences) {
                fence.wait()?;
                // The callback may still run.
                watch.stop();
            }
            assert!(mailbox.drain().map(|mail| *mail).eq(0..2));
        }
        assert!(bench.is_sound());
        assert!(bench.queue.is_idle());
        Ok(())
    }

    #[test]
    fn context_dropped_with_jobs() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.queue.context(Priority::Medium)?;
        let x = foreign()?;
        let a = bench.push(&context, 1)?;
        let b = bench.push_after(&context, S0, 2, &[x.fence()])?;
        drop(context);
        bench.end(Ok(()));
        x.signal(Ok(()));
        bench.queue.run(&*bench.fake);
        bench.end(Ok(()));
        assert!(a.status() == OK && b.status() == OK);
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    /// Whatever happens: in each FIFO the signalled fences are the first ones, and all end.
    #[test]
    fn any_order_of_events() -> Result {
        let mut seed: u32 = 0x1234_5678;
        let mut random = move |limit: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) % limit
        };

        for round in 0..8 {
            let bench = Bench::new(round % 2 == 0)?;
            let contexts = [
                bench.queue.context(Priority::High)?,
                bench.queue.context(Priority::Medium)?,
                bench.queue.context(Priority::Medium)?,
                bench.queue.context(Priority::Low)?,
            ];
            let mut fences: [[KVec<ARef<Fence>>; 2]; 4] = Default::default();
            let mut pending: KVec<ArmedFence> = KVec::new();
            let mut ordered = true;

            for step in 0..400 {
                let which = random(4) as usize;
                let slot = random(2) as usize;
                match random(16) {
                    0..=5 => {
                        let wait = foreign()?;
                        let other = fences[random(4) as usize][1 - slot].last().cloned();
                        let mut dependencies = Dependencies::new();
                        if random(3) == 0 {
                            dependencies.add(wait.fence())?;
                            pending.push(wait, GFP_KERNEL)?;
                        }
                        if let (Some(other), 0) = (other, random(3)) {
                            dependencies.add(&other)?;
                        }
                        let fifo = &mut fences[which][slot];
                        fifo.reserve(1, GFP_KERNEL)?;
                        let armed = contexts[which]
                            .prepare(Slot(slot as u8), bench.job(step), dependencies)?
                            .arm();
                        // Nothing may be allocated from here to the push.
                        let _ = fifo.push_within_capacity(ARef::from(armed.fence()));
                        if random(20) == 0 {
                            drop(armed);
                        } else {
                            armed.push(&*bench.fake);
                        }
                    }
                    6..=9 => {
                        bench.end_in(Slot(slot as u8), Ok(()));
                    }
                    10 | 11 => {
                        if let Some(fence) = pending.pop() {
                            fence.signal(Ok(()));
                        }
                        bench.queue.run(&*bench.fake);
                    }
                    12 => {
                        bench.queue.park();
                        if random(2) == 0 {
                            bench.end_in(Slot(slot as u8), Err(EIO));
                        }
                        bench.queue.restart(&*bench.fake, |_| match random(3) {
                            0 => Verdict::Done(Err(EIO)),
                            _ => Verdict::Requeue,
                        });
                    }
                    13 => {
                        bench.queue.update(&*bench.fake, |hw| {
                            hw.requeue(Slot(slot as u8), Position::Next)
                        });
                    }
                    14 => {
                        bench.fake.log.lock().refuse = match random(3) {
                            0 => Some(StartError::Busy),
                            1 => Some(StartError::Failed(EIO)),
                            _ => None,
                        };
                    }
                    _ => {
                        if step > 300 && round % 3 == 0 {
                            contexts[which].cancel_running(&*bench.fake);
                        }
                        drop(bench.queue.take_retired());
                    }
                }
                for fifo in fences.iter().flatten() {
                    let signalled = fifo.iter().take_while(|fence| fence.is_signaled()).count();
                    ordered &= fifo
                        .iter()
                        .skip(signalled)
                        .all(|fence| !fence.is_signaled());
                }
            }
            assert!(ordered);
            assert!(bench.is_sound());

            // To the end, by work or by force.
            bench.fake.log.lock().refuse = None;
            if round % 4 == 3 {
                bench.queue.kill(ENODEV, |_| ());
            } else {
                while let Some(fence) = pending.pop() {
                    fence.signal(Ok(()));
                }
                let mut steps = 0;
                while !bench.queue.is_idle() && steps < 10_000 {
                    bench.queue.run(&*bench.fake);
                    bench.end_in(S0, Ok(()));
                    bench.end_in(S1, Ok(()));
                    steps += 1;
                }
            }
            assert!(bench.queue.is_idle());
            assert!(fences
                .iter()
                .flatten()
                .flatten()
                .all(|fence| fence.is_signaled()));
            assert_eq!(bench.alive(), 0);
        }
        Ok(())
    }
}
