// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of contexts whose jobs hang.

use super::*;

#[kunit_tests(rust_drm_job_queue_conduct)]
mod suite {
    use super::*;

    #[test]
    fn closed_when_it_hangs_too_often() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let other = bench.context(Priority::Medium)?;
        let never = foreign()?;
        let runs = bench.push_after(&context, S1, 1, &[])?;
        let waits = bench.push_after(&context, S1, 2, &[never.fence()])?;
        let behind = bench.push_after(&context, S1, 3, &[])?;
        bench.hang(&context, HANG_LIMIT - 1)?;
        assert!(!context.is_closed());
        drop(context.admit()?);

        bench.push(&context, 4)?;
        let ready = bench.push(&context, 5)?;
        let innocent = bench.push(&other, 6)?;
        bench.advance_clock(TIMEOUT);
        bench.queue.expire(&*bench.fake);
        bench.queue.update(&*bench.fake, |loaded| {
            // As drivers do before they report a stopped job.
            loaded.requeue(S0, Position::Next);
            loaded.finish(S0, Err(ECANCELED));
        });
        assert!(context.is_closed());
        assert!(context.admit().is_err_and(|error| error == ECANCELED));
        bench.work();
        assert!(ready.status() == failed(ECANCELED));
        // The job that runs in another slot is not to blame; the jobs that wait behind it fail when
        // it ends.
        assert!(runs.status().is_none() && waits.status().is_none());
        bench.end_in(S1, Ok(()));
        assert!(runs.status() == OK);
        bench.work();
        assert!(waits.status() == failed(ECANCELED) && behind.status() == failed(ECANCELED));
        let late = bench.push(&context, 7)?;
        bench.work();
        assert!(late.status() == failed(ECANCELED));

        assert!(!other.is_closed());
        bench.end(Ok(()));
        assert!(innocent.status() == OK);
        let retired = bench.queue.take_retired();
        let mut closing = (0, 0);
        retired.for_each_closing(|job| closing = (closing.0 + 1, job.id));
        assert!(closing == (1, 4));
        drop(retired);
        assert_eq!(bench.alive(), 0);
        assert!(bench.is_sound());
        Ok(())
    }

    /// When a context is closed, the lock is not held until all FIFOs have been looked at. None of
    /// its jobs is started meanwhile.
    #[test]
    fn closed_among_many() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let other = bench.context(Priority::Medium)?;
        let gate = foreign()?;
        let mut crowd = KVec::new();
        for id in 0..600 {
            let one = bench.context(Priority::Medium)?;
            bench.push_after(&one, S1, 10_000 + id, &[gate.fence()])?;
            crowd.push(one, GFP_KERNEL)?;
        }
        bench.hang(&context, HANG_LIMIT - 1)?;
        for id in 1..=2 {
            bench.push_after(&other, S1, id, &[])?;
        }
        let ready = [
            bench.push_after(&context, S1, 3, &[])?,
            bench.push_after(&context, S1, 4, &[])?,
        ];
        bench.hang(&context, 1)?;
        assert!(context.is_closed());
        bench.end_in(S1, Ok(()));
        assert!(bench.fake.log.lock().loaded[S1.index()]
            .iter()
            .flatten()
            .eq([&(2, true)]));
        bench.end_in(S1, Ok(()));
        bench.work();
        assert!(ready
            .iter()
            .all(|fence| fence.status() == failed(ECANCELED)));
        Ok(())
    }

    /// The same for one whose jobs wait.
    #[test]
    fn closed_while_it_waits() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let gate = foreign()?;
        let mut crowd = KVec::new();
        let mut waits = None;
        for id in 0..700 {
            let one = bench.context(Priority::Medium)?;
            bench.push_after(&one, S1, 10_000 + id, &[gate.fence()])?;
            crowd.push(one, GFP_KERNEL)?;
            if id == 600 {
                waits = Some(bench.push_after(&context, S1, 1, &[gate.fence()])?);
            }
        }
        let waits = waits.ok_or(EINVAL)?;
        bench.hang(&context, HANG_LIMIT)?;
        assert!(context.is_closed());
        // 256 more, which is not enough.
        bench.queue.run(&*bench.fake);
        assert!(waits.status().is_none());
        bench.work();
        assert!(waits.status() == failed(ECANCELED));
        // The others wait on.
        gate.signal(Ok(()));
        bench.work();
        while bench.end_in(S1, Ok(())) {}
        drop(crowd);
        assert_eq!(bench.alive(), 0);
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn good_jobs_make_up_for_hangs() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        for _ in 0..3 * HANG_LIMIT {
            bench.hang(&context, 1)?;
            for id in 0..FORGIVE_AFTER {
                bench.push(&context, id)?;
                bench.end(Ok(()));
            }
        }
        assert!(!context.is_closed());
        // One hung job less does not close it.
        for _ in 0..HANG_LIMIT {
            bench.hang(&context, 1)?;
            for id in 1..FORGIVE_AFTER {
                if !context.is_closed() {
                    bench.push(&context, id)?;
                    bench.end(Ok(()));
                }
            }
        }
        assert!(context.is_closed());
        Ok(())
    }

    #[test]
    fn faults_are_no_hangs() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        for id in 0..100 {
            bench.push(&context, id)?;
            bench.end(Err(EINVAL));
        }
        // Nor do jobs that succeed after all count.
        for id in 0..10 {
            bench.push(&context, id)?;
            bench.advance_clock(TIMEOUT);
            bench.queue.expire(&*bench.fake);
            bench.end(Ok(()));
        }
        // Nor do jobs that the owner stops.
        for id in 0..10 {
            bench.push(&context, id)?;
            bench.queue.update(&*bench.fake, |loaded| {
                loaded.stop(S0, Position::Current, Stop::Hard);
            });
            bench.end(Err(ECANCELED));
        }
        assert!(!context.is_closed());
        Ok(())
    }

    #[test]
    fn jobs_that_have_stopped_are_no_hangs() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        for id in 0..3 * HANG_LIMIT {
            let fence = bench.push(&context, id)?;
            bench.advance_clock(TIMEOUT);
            bench.queue.expire(&*bench.fake);
            assert!(bench
                .queue
                .update(&*bench.fake, |loaded| loaded.finish_stopped(S0, ECANCELED)));
            bench.work();
            assert!(fence.status() == failed(ECANCELED));
        }
        assert!(!context.is_closed());
        // Nor do they make up for any.
        bench.hang(&context, HANG_LIMIT - 1)?;
        assert!(!context.is_closed());
        bench.hang(&context, 1)?;
        assert!(context.is_closed());
        assert!(!bench
            .queue
            .update(&*bench.fake, |loaded| loaded.finish_stopped(S0, ECANCELED)));
        Ok(())
    }

    #[test]
    fn high_priority_is_never_closed() -> Result {
        let bench = Bench::new(true)?;
        let context = bench.context(Priority::High)?;
        bench.hang(&context, 3 * HANG_LIMIT)?;
        assert!(!context.is_closed());
        let fence = bench.push(&context, 1)?;
        bench.end(Ok(()));
        assert!(fence.status() == OK);
        Ok(())
    }

    #[test]
    fn resets_count_for_the_guilty_alone() -> Result {
        let bench = Bench::new(true)?;
        let guilty = bench.context(Priority::Medium)?;
        let innocent = bench.context(Priority::Medium)?;
        for id in 0..HANG_LIMIT {
            assert!(!guilty.is_closed());
            bench.push(&guilty, id)?;
            bench.advance_clock(TIMEOUT / 2);
            bench.push_after(&innocent, S1, 100 + id, &[])?;
            bench.advance_clock(TIMEOUT / 2);
            for _ in 0..LADDER.len() {
                assert!(!bench.queue.expire(&*bench.fake).reset);
                bench.advance_clock(GRACE);
            }
            assert!(bench.queue.expire(&*bench.fake).reset);
            bench.queue.park();
            bench.queue.restart(&*bench.fake, |running| {
                if running.strikes > 0 {
                    Verdict::Done(Err(ECANCELED))
                } else {
                    Verdict::Requeue
                }
            });
            assert!(bench.ids(S1) == (Some(100 + id), None));
            bench.end_in(S1, Ok(()));
        }
        assert!(guilty.is_closed() && !innocent.is_closed());
        bench.work();
        assert_eq!(bench.alive(), 0);
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn resumed_job_gets_the_rest_of_its_time() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        bench.push(&context, 1)?;
        bench.advance_clock(600);
        bench
            .queue
            .update(&*bench.fake, |loaded| loaded.requeue(S0, Position::Current));
        // It is resumed at once.
        assert_eq!(bench.queue.next_deadline(), Some(610 + TIMEOUT - 600));
        bench.advance_clock(390);
        bench
            .queue
            .update(&*bench.fake, |loaded| loaded.requeue(S0, Position::Current));
        // It gets at least the time for a stop.
        assert_eq!(bench.queue.next_deadline(), Some(1000 + GRACE));
        // A job that starts from the beginning has all of the time.
        bench.queue.park();
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        assert_eq!(bench.queue.next_deadline(), Some(1000 + TIMEOUT));
        Ok(())
    }
}
