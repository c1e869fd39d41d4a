// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of starting jobs in order.

use super::*;

#[kunit_tests(rust_drm_job_queue_starting)]
mod suite {
    use super::*;

    #[test]
    fn slots_are_bounded() -> Result {
        assert!(QueueSlot::new(MAX_SLOTS).is_none());
        assert_eq!(QueueSlot::new(3).map(QueueSlot::index), Some(3));

        let (bench, context) = Bench::with_context(true)?;
        assert!(bench.prepare(&context, QueueSlot(2), 1, &[]).is_err());
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn two_deep_keeps_both_filled() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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
        let (bench, context) = Bench::with_context(false)?;
        bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        assert!(bench.ids(S0) == (Some(1), None));
        bench.end(Ok(()));
        assert!(bench.ids(S0) == (Some(2), None));
        Ok(())
    }

    #[test]
    fn slots_do_not_wait_for_each_other() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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
    fn failed_start_keeps_order() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let a = bench.push(&context, 1)?;
        bench.fake.log.lock().refuse = Some(StartError::Failed(EIO));
        let b = bench.push(&context, 2)?;
        bench.fake.log.lock().refuse = None;
        // It has failed, but the one before it runs.
        assert!(b.status().is_none());
        let c = bench.push(&context, 3)?;
        assert!(bench.ends_around_failure([&a, &b, &c]));
        Ok(())
    }

    #[test]
    fn failed_start_alone() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        bench.fake.log.lock().refuse = Some(StartError::Failed(EIO));
        let a = bench.push(&context, 1)?;
        bench.work();
        assert!(a.status() == failed(EIO));
        assert!(bench.queue.is_idle());
        Ok(())
    }

    /// Jobs that fail to start do not delay those of other contexts.
    #[test]
    fn failed_start_is_a_turn() -> Result {
        let bench = Bench::new(false)?;
        let a = bench.context(Priority::Medium)?;
        let b = bench.context(Priority::Medium)?;
        bench.queue.park();
        let first = bench.push(&a, 1)?;
        let second = bench.push(&a, 2)?;
        bench.push(&b, 11)?;
        bench.fake.log.lock().refuse_job = (1, StartError::Failed(EIO));
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        bench.queue.run(&*bench.fake);
        assert!(first.status() == failed(EIO) && second.status().is_none());
        assert!(bench.ids(S0) == (Some(11), None));
        Ok(())
    }

    #[test]
    fn busy_engine_is_asked_again() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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

    /// A blocked job does not hold up jobs that do not need the missing resource.
    #[test]
    fn others_pass_one_that_is_blocked() -> Result {
        let bench = Bench::new(true)?;
        let blocked = bench.context(Priority::High)?;
        let other = bench.context(Priority::Medium)?;
        bench.push_after(&other, S1, 21, &[])?;
        bench.fake.log.lock().refuse_job = (1, StartError::Blocked);
        let a = bench.push(&blocked, 1)?;
        let b = bench.push(&blocked, 2)?;
        for id in 11..15 {
            bench.push(&other, id)?;
        }
        assert!(bench.ids(S0) == (Some(11), Some(12)));
        // Tried again, without success.
        bench.end(Ok(()));
        assert!(bench.ids(S0) == (Some(12), Some(13)));

        // It is tried when a job has left any slot, and not before.
        bench.fake.log.lock().refuse_job.0 = u32::MAX;
        bench.queue.run(&*bench.fake);
        bench.end_in(S1, Ok(()));
        bench.end(Ok(()));
        assert!(bench.ids(S0) == (Some(13), Some(1)));

        // A blocked job can be cancelled, too.
        bench.fake.log.lock().refuse_job = (2, StartError::Blocked);
        bench.end(Ok(()));
        bench.end(Ok(()));
        assert!(a.status() == OK && bench.ids(S0) == (Some(14), None));
        blocked.cancel();
        bench.queue.run(&*bench.fake);
        assert!(b.status() == failed(ECANCELED));
        while bench.end(Ok(())) {}
        assert!(bench.queue.is_idle());
        assert_eq!(bench.alive(), 0);
        assert!(bench.is_sound());
        Ok(())
    }

    /// A blocked job is tried again when a job has left the hardware, and not before.
    #[test]
    fn blocked_waits_for_an_end() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.context(Priority::Medium)?;
        bench.push_after(&context, S1, 21, &[])?;
        bench.fake.log.lock().refuse_job = (1, StartError::Blocked);
        bench.push(&context, 1)?;
        bench.fake.log.lock().refuse_job.0 = u32::MAX;
        bench.queue.run(&*bench.fake);
        assert!(bench.ids(S0) == (None, None));
        bench.end_in(S1, Ok(()));
        assert!(bench.ids(S0) == (Some(1), None));
        Ok(())
    }

    #[test]
    fn spurious_completion() -> Result {
        let bench = Bench::new(true)?;
        assert!(!bench.end(Ok(())));
        let context = bench.context(Priority::Medium)?;
        let a = bench.push(&context, 1)?;
        assert!(!bench.end_in(S1, Ok(())));
        assert!(!bench.end_in(QueueSlot(3), Ok(())));
        assert!(a.status().is_none());
        assert!(!bench
            .queue
            .update(&*bench.fake, |loaded| loaded.requeue(S0, Position::Next)));
        Ok(())
    }

    #[test]
    fn retire_is_asked_for_once() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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

    /// Ended jobs can be taken in parts and by a condition.
    #[test]
    fn retired_in_parts() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        for id in 0..10 {
            bench.push(&context, id)?;
            bench.end(Ok(()));
        }
        let ids = |retired: &Retired<Owner>| {
            let mut sum = 0;
            for job in &retired.0 {
                sum = sum * 10 + job.payload.id;
            }
            sum
        };
        let retires = || bench.queue.kind().retires.load(Relaxed);
        let before = retires();
        let even = bench.queue.take_retired_where(|job| job.id % 2 == 0);
        assert!(ids(&even) == 2468 && retires() == before + 1);
        bench.push(&context, 10)?;
        bench.end(Ok(()));
        assert_eq!(ids(&bench.queue.take_some_retired(2)), 13);
        assert!(bench.queue.take_retired_where(|job| job.id > 10).is_empty());
        assert_eq!(ids(&bench.queue.take_retired()), 5800);
        assert!(bench.queue.take_some_retired(1).is_empty());
        let after = retires();
        assert!(bench.queue.take_retired_where(|_| true).is_empty() && retires() == after);
        drop(even);
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    /// Jobs that were taken can be dropped in part, and put back where they were.
    #[test]
    fn retired_and_put_back() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let end = |id| -> Result {
            bench.push(&context, id)?;
            bench.end(Ok(()));
            Ok(())
        };
        for id in 1..=4 {
            end(id)?;
        }
        let mut taken = bench.queue.take_some_retired(3);
        end(5)?;
        let mut seen = 0;
        taken.drop_while(|job| {
            seen = seen * 10 + job.id;
            job.id += 10;
            job.id < 12
        });
        assert!(seen == 12 && bench.alive.load(Relaxed) == 4);
        taken.for_each_mut(|job| job.id += 10);
        bench.queue.put_back_retired(taken);

        // The one that was kept is as it was left, and so is the one behind it.
        seen = 0;
        let mut all = bench.queue.take_retired();
        all.drop_while(|job| {
            seen = seen * 100 + job.id;
            true
        });
        assert!(seen == 22_130_405 && all.is_empty());
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    #[test]
    fn completion_while_parked() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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
}
