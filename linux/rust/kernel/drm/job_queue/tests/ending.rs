// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of jobs, contexts and queues that end in any state.

use super::*;

#[kunit_tests(rust_drm_job_queue_ending)]
mod suite {
    use super::*;

    #[test]
    fn cancel_waits_for_what_runs() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let other = bench.context(Priority::Medium)?;
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
        bench.work();
        assert!(b.status() == failed(ECANCELED));
        assert!(c.status() == failed(ECANCELED));
        assert!(late.status() == failed(ECANCELED));
        assert!(bench.ids(S0) == (Some(4), None));
        bench.end(Ok(()));
        assert!(d.status() == OK);
        // Nothing runs any more, so it ends at once.
        let later = bench.push(&context, 6)?;
        bench.work();
        assert!(later.status() == failed(ECANCELED));
        assert_eq!(bench.alive(), 0);
        // The callback was removed with its job.
        let kicks = bench.queue.kind().kicks.load(Relaxed);
        never.signal(Ok(()));
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), kicks);
        Ok(())
    }

    #[test]
    fn cancel_running_withdraws_and_stops() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let other = bench.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        let b = bench.push(&context, 2)?;
        bench.push(&other, 3)?;
        context.cancel_running(&*bench.fake);
        assert!(bench.ids(S0) == (Some(1), Some(3)));
        assert!(a.status().is_none() && b.status().is_none());
        assert_eq!(bench.queue.next_deadline(), Some(10 + GRACE));
        // Earlier than the time that was asked for when it started.
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 10 + GRACE);
        bench.end(Err(ECANCELED));
        bench.work();
        assert!(a.status() == failed(ECANCELED) && b.status() == failed(ECANCELED));
        assert!(bench.ids(S0) == (Some(3), None));

        // A job that does not stop leads to a reset.
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
        bench.work();
        assert_eq!(bench.alive(), 0);
        assert!(bench.is_sound());
        Ok(())
    }

    /// Contexts come and go behind a running job, which is not affected.
    #[test]
    fn ends_nothing_of_others() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let runs = bench.push(&context, 1)?;
        for id in 2..10 {
            let other = bench.context(Priority::Medium)?;
            let fence = bench.push(&other, id)?;
            assert!(bench.ids(S0) == (Some(1), Some(id)));
            // Every second job cannot be taken back, and is stopped in place.
            bench.fake.log.lock().withdrawable = id % 2 == 0;
            other.cancel_running(&*bench.fake);
            if id % 2 == 1 {
                assert!(bench.ends_with(&[Event::Withdraw(id), Event::Stop(id, Stop::Hard)]));
                bench
                    .queue
                    .update(&*bench.fake, |loaded| loaded.requeue(S0, Position::Next));
            }
            bench.queue.run(&*bench.fake);
            assert!(fence.status() == failed(ECANCELED));
            assert!(bench.ids(S0) == (Some(1), None));
        }
        bench.end(Ok(()));
        assert!(runs.status() == OK);
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn kill_ends_everything() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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
        // And it continues.
        bench.queue.revive();
        assert!(!bench.queue.is_dead());
        let runs = bench.push(&context, 8)?;
        assert!(bench.ids(S0) == (Some(8), None));
        bench.end(Ok(()));
        assert!(runs.status() == OK);

        bench.queue.kill(EIO, |_| ());
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        assert!(bench.started(&[1, 2, 5, 8]));
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn dropped_before_and_after_arming() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let x = foreign()?;
        drop(bench.prepare(&context, S0, 1, &[x.fence()])?);
        assert_eq!(bench.alive(), 0);

        let a = bench.push(&context, 2)?;
        let armed = bench.prepare(&context, S0, 3, &[x.fence()])?.arm();
        let b = ARef::from(armed.fence());
        drop(armed);
        let c = bench.push(&context, 4)?;
        // It fails in its turn.
        assert!(b.status().is_none());
        assert!(bench.queue.kind().kicks.load(Relaxed) > 0);
        bench.end(Ok(()));
        assert!(a.status() == OK && b.status() == failed(ECANCELED));
        assert!(bench.ids(S0) == (Some(4), None));
        bench.end(Ok(()));
        assert!(c.status() == OK);

        let armed = bench.prepare(&context, S0, 5, &[])?.arm();
        let d = ARef::from(armed.fence());
        drop(armed);
        bench.work();
        assert!(d.status() == failed(ECANCELED));
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn contexts_outlive_the_queue() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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
        let armed = context
            .prepare(context.admit()?, S0, job, Dependencies::new())?
            .arm();
        let c = ARef::from(armed.fence());
        armed.push(&*fake);
        assert!(c.status() == failed(ENODEV));
        drop(context);
        assert_eq!(alive.load(Relaxed), 0);
        x.signal(Ok(()));
        Ok(())
    }

    #[test]
    fn context_dropped_with_jobs() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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

    /// In random sequences of events, the signalled fences of each FIFO are the first ones, and all
    /// signal in the end.
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
                bench.context(Priority::High)?,
                bench.context(Priority::Medium)?,
                bench.context(Priority::Medium)?,
                bench.context(Priority::Low)?,
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
                            .prepare(
                                contexts[which].try_admit().ok_or(EBUSY)?,
                                QueueSlot(slot as u8),
                                bench.job(step),
                                dependencies,
                            )?
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
                        bench.end_in(QueueSlot(slot as u8), Ok(()));
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
                            bench.end_in(QueueSlot(slot as u8), Err(EIO));
                        }
                        bench.queue.restart(&*bench.fake, |_| match random(3) {
                            0 => Verdict::Done(Err(EIO)),
                            _ => Verdict::Requeue,
                        });
                    }
                    13 => {
                        bench.queue.update(&*bench.fake, |loaded| {
                            loaded.requeue(QueueSlot(slot as u8), Position::Next)
                        });
                    }
                    14 => {
                        bench.fake.log.lock().refuse = match random(4) {
                            0 => Some(StartError::Busy),
                            1 => Some(StartError::Failed(EIO)),
                            2 => Some(StartError::Blocked),
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

            // Finish, by work or by force.
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
            bench.work();
            assert!(fences
                .iter()
                .flatten()
                .flatten()
                .all(|fence| fence.is_signaled()));
            assert_eq!(bench.alive(), 0);
        }
        Ok(())
    }

    #[test]
    fn places_bound_the_jobs() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let other = bench.context(Priority::Medium)?;
        let gate = foreign()?;
        for id in 0..MAX_JOBS {
            bench.push_after(&context, S0, id, &[gate.fence()])?;
        }
        assert!(context.try_admit().is_none());
        // A place of one context cannot be used in another.
        let place = other.admit()?;
        let refused = context.prepare(place, S0, bench.job(0), Dependencies::new());
        assert!(refused.is_err_and(|refused| refused.error == EINVAL && refused.job.id == 0));

        gate.signal(Ok(()));
        bench.queue.run(&*bench.fake);
        bench.end(Ok(()));
        // It still takes memory.
        assert!(context.try_admit().is_none());
        drop(bench.queue.take_retired());
        let place = context.admit()?;
        assert!(context.try_admit().is_none());
        drop(place);

        context.cancel_running(&*bench.fake);
        assert!(context.admit().is_err_and(|error| error == ECANCELED));
        bench.end(Ok(()));
        bench.work();
        assert_eq!(bench.alive(), 0);
        assert!(context.try_admit().is_some());
        Ok(())
    }

    #[test]
    fn waits_for_a_place() -> Result {
        let bench = Arc::new(Bench::new(true)?, GFP_KERNEL)?;
        let context = bench.context(Priority::Medium)?;
        for id in 0..MAX_JOBS {
            bench.push(&context, id)?;
        }
        let places = Arc::new(Atomic::new(0_u32), GFP_KERNEL)?;
        let (other, given) = (bench.clone(), places.clone());
        workqueue::system_dfl().try_spawn(GFP_KERNEL, move || {
            for _ in 0..100 {
                given.fetch_add(1, Relaxed);
                other.end(Ok(()));
                drop(other.queue.take_retired());
            }
        })?;
        let mut taken = KVec::new();
        for n in 0..100 {
            taken.push(context.admit()?, GFP_KERNEL)?;
            assert!(places.load(Relaxed) > n);
        }
        assert!(context.try_admit().is_none());
        Ok(())
    }

    /// The state of the queue when it ends.
    #[derive(Clone, Copy)]
    enum When {
        Running,
        Waiting,
        EngineBusy,
        Parked,
        Stopping,
        Cancelled,
        Closed,
        NotRetired,
    }

    #[test]
    fn teardown_in_any_state() -> Result {
        for when in [
            When::Running,
            When::Waiting,
            When::EngineBusy,
            When::Parked,
            When::Stopping,
            When::Cancelled,
            When::Closed,
            When::NotRetired,
        ] {
            for context_first in [true, false] {
                let (bench, context) = Bench::with_context(true)?;
                let never = foreign()?;
                let mut fences = KVec::new();

                if let When::EngineBusy = when {
                    bench.fake.log.lock().refuse = Some(StartError::Busy);
                }
                for id in 0..4 {
                    fences.push(bench.push(&context, id)?, GFP_KERNEL)?;
                }
                match when {
                    When::Running | When::EngineBusy => (),
                    When::Waiting => {
                        let fence = bench.push_after(&context, S1, 9, &[never.fence()])?;
                        fences.push(fence, GFP_KERNEL)?;
                    }
                    When::Parked => bench.queue.park(),
                    When::Stopping => {
                        bench.advance_clock(TIMEOUT);
                        bench.queue.expire(&*bench.fake);
                    }
                    When::Cancelled => context.cancel_running(&*bench.fake),
                    When::Closed => bench.hang(&context, HANG_LIMIT)?,
                    When::NotRetired => {
                        bench.end(Ok(()));
                    }
                }

                assert!(bench.ends_clean(context, context_first));
                assert!(fences.iter().all(|fence| fence.is_signaled()));
            }
        }
        Ok(())
    }
}
