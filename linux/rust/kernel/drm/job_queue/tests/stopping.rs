// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of timeouts, stops and restarts.

use super::*;

#[kunit_tests(rust_drm_job_queue_stopping)]
mod suite {
    use super::*;

    #[test]
    fn only_running_time_counts() -> Result {
        let bench = Bench::new(true)?;
        let share = Share::new()?;
        let context = bench.queue.context(&share, Priority::Medium)?;
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
        assert_eq!(share.used_ns(S0), 1000);
        // It is asked for again.
        bench.push(&context, 4)?;
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 1010 + TIMEOUT);
        Ok(())
    }

    #[test]
    fn overdue_job_is_stopped_harder_and_harder() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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

        // The guilty job fails, the innocent one runs again.
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
        let a = bench.context(Priority::Medium)?;
        let b = bench.context(Priority::Medium)?;
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

    /// The FIFO that caused the reset has had its turn: its waiting jobs do not go before others.
    #[test]
    fn restart_is_no_turn_for_the_guilty() -> Result {
        let bench = Bench::new(true)?;
        let guilty = bench.context(Priority::Medium)?;
        let innocent = bench.context(Priority::Medium)?;
        bench.push(&guilty, 1)?;
        bench.push(&innocent, 11)?;
        bench.push(&guilty, 2)?;
        bench.push(&guilty, 3)?;
        bench.advance_clock(TIMEOUT + 2 * GRACE);
        for withdraw in [true, false] {
            bench.queue.park();
            bench
                .queue
                .update(&*bench.fake, |loaded| withdraw && loaded.withdraw(S0));
            bench
                .queue
                .restart(&*bench.fake, |running| match running.job.id {
                    1 => Verdict::Done(Err(ECANCELED)),
                    _ => Verdict::Requeue,
                });
            assert!(bench.ids(S0) == (Some(11), Some(2)));
        }
        // The jobs that were in the hardware keep their place, although their party has used the
        // most time.
        bench.end(Ok(()));
        assert!(bench.ids(S0) == (Some(2), Some(3)));
        bench.queue.park();
        bench.push(&innocent, 12)?;
        bench
            .queue
            .restart(&*bench.fake, |running| match running.job.id {
                2 => Verdict::Done(Err(ECANCELED)),
                _ => Verdict::Requeue,
            });
        assert!(bench.ids(S0) == (Some(3), Some(12)));
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn restart_does_not_signal_early() -> Result {
        let (bench, context) = Bench::with_context(true)?;
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
        assert!(bench.ends_around_failure([&a, &b, &c]));
        Ok(())
    }

    #[test]
    fn requeue_after_soft_stop() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let high = bench.context(Priority::High)?;
        bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        bench.queue.park();
        bench.push(&high, 3)?;
        // The second would overtake the first.
        assert!(!bench
            .queue
            .update(&*bench.fake, |loaded| loaded.requeue(S0, Position::Current)));
        assert!(bench.queue.update(&*bench.fake, |loaded| {
            loaded.requeue(S0, Position::Next) && loaded.requeue(S0, Position::Current)
        }));
        assert!(bench.ids(S0) == (None, None));
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        while bench.end(Ok(())) {}
        assert!(bench.started(&[1, 2, 3, 1, 2]));
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn stop_by_the_owner() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        bench.push(&context, 1)?;
        bench.advance_clock(TIMEOUT / 2);
        bench.queue.update(&*bench.fake, |loaded| {
            loaded.stop(S0, Position::Current, Stop::Soft);
            loaded.stop(S0, Position::Next, Stop::Hard);
        });
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Soft)]));
        assert_eq!(
            bench.queue.kind().deadline.load(Relaxed),
            10 + TIMEOUT / 2 + GRACE
        );
        bench.advance_clock(GRACE);
        // It did not help.
        assert!(!bench.queue.expire(&*bench.fake).reset);
        bench.queue.update(&*bench.fake, |loaded| {
            loaded.stop(S0, Position::Current, Stop::Hard);
        });
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Hard)]));
        bench.advance_clock(GRACE);
        assert!(bench.queue.expire(&*bench.fake).reset);
        Ok(())
    }

    /// Calls [`JobQueue::expire`]. Returns whether no job was overdue, and the only job has all of
    /// the time of its slot from now on.
    fn extends(bench: &Bench) -> bool {
        let none = Expired {
            reset: false,
            stopped: 0,
        };
        let expired = bench.queue.expire(&*bench.fake);
        let deadline = bench.fake.log.lock().now + TIMEOUT;
        expired == none
            && bench.queue.next_deadline() == Some(deadline)
            && bench.queue.kind().deadline.load(Relaxed) == deadline
    }

    #[test]
    fn progress_extends_the_time_three_times() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        bench.fake.log.lock().progresses = Some(1);
        bench.push(&context, 1)?;
        for asked in 1..=3 {
            // Too early.
            bench.advance_clock(TIMEOUT - 1);
            bench.queue.expire(&*bench.fake);
            assert_eq!(bench.fake.log.lock().asked, asked - 1);
            bench.advance_clock(1);
            assert!(extends(&bench));
            assert_eq!(bench.fake.log.lock().asked, asked);
        }
        bench.advance_clock(TIMEOUT);
        assert_eq!(bench.queue.expire(&*bench.fake).stopped, 1);
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Soft)]));
        bench.advance_clock(GRACE);
        assert_eq!(bench.queue.expire(&*bench.fake).stopped, 1);
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Hard)]));
        bench.advance_clock(GRACE);
        assert!(bench.queue.expire(&*bench.fake).reset);
        assert_eq!(bench.fake.log.lock().asked, 3);
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn overdue_at_once_without_progress() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        bench.push(&context, 1)?;
        bench.push_after(&context, S1, 2, &[])?;
        bench.fake.log.lock().progresses = Some(2);
        bench.advance_clock(TIMEOUT);
        assert_eq!(bench.queue.expire(&*bench.fake).stopped, 1);
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Soft)]));
        assert_eq!(bench.fake.log.lock().asked, 2);
        // It is not asked any more.
        bench.fake.log.lock().progresses = Some(1);
        bench.advance_clock(GRACE);
        assert_eq!(bench.queue.expire(&*bench.fake).stopped, 1);
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Hard)]));
        assert_eq!(bench.fake.log.lock().asked, 2);
        assert!(bench.is_sound());
        Ok(())
    }

    /// One extension does not lead to another if there is no progress since.
    #[test]
    fn overdue_when_progress_ends() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        bench.push(&context, 1)?;
        bench.fake.log.lock().progresses = Some(1);
        bench.advance_clock(TIMEOUT);
        assert!(extends(&bench));
        bench.fake.log.lock().progresses = None;
        bench.advance_clock(TIMEOUT);
        assert_eq!(bench.queue.expire(&*bench.fake).stopped, 1);
        assert_eq!(bench.fake.log.lock().asked, 2);
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Soft)]));
        Ok(())
    }

    #[test]
    fn extensions_are_for_one_turn() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        bench.fake.log.lock().progresses = Some(1);
        bench.push(&context, 1)?;
        bench.advance_clock(TIMEOUT);
        assert!(extends(&bench));
        // Resumed at once, it goes on with the same turn.
        bench
            .queue
            .update(&*bench.fake, |loaded| loaded.requeue(S0, Position::Current));
        bench.advance_clock(GRACE);
        assert_eq!(bench.queue.expire(&*bench.fake).stopped, 1);
        assert!(bench.ends_with(&[Event::Stop(1, Stop::Soft)]));
        assert_eq!(bench.fake.log.lock().asked, 1);
        // In its next turn it gets three again.
        bench
            .queue
            .update(&*bench.fake, |loaded| loaded.yield_turn(S0));
        for _ in 0..3 {
            bench.advance_clock(TIMEOUT);
            assert!(extends(&bench));
        }
        bench.advance_clock(TIMEOUT);
        assert_eq!(bench.queue.expire(&*bench.fake).stopped, 1);
        // So it does when it starts from the beginning.
        bench.queue.park();
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        bench.advance_clock(TIMEOUT);
        assert!(extends(&bench));
        assert!(bench.is_sound());
        Ok(())
    }

    /// A job that its owner has told to stop gets no more time for its progress.
    #[test]
    fn stop_by_the_owner_is_not_extended() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        bench.fake.log.lock().progresses = Some(1);
        bench.push(&context, 1)?;
        bench.queue.update(&*bench.fake, |loaded| {
            loaded.stop(S0, Position::Current, Stop::Soft);
        });
        bench.advance_clock(GRACE);
        assert_eq!(bench.queue.expire(&*bench.fake).stopped, 1);
        assert_eq!(bench.fake.log.lock().asked, 0);
        Ok(())
    }

    #[test]
    fn slot_without_a_limit() -> Result {
        let bench = Bench::with_timeouts(true, [None, Some(TIMEOUT), None, None])?;
        let context = bench.context(Priority::Medium)?;
        let fence = bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        bench.advance_clock(1000 * TIMEOUT);
        let expired = bench.queue.expire(&*bench.fake);
        assert!(!expired.reset && expired.stopped == 0);
        // There is no reason to look at it.
        assert_eq!(bench.queue.next_deadline(), None);
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 0);
        assert!(bench.ids(S0) == (Some(1), Some(2)));

        // The other slot has a limit.
        bench.push_after(&context, S1, 3, &[])?;
        bench.advance_clock(TIMEOUT);
        assert_eq!(bench.queue.expire(&*bench.fake).stopped, 1);
        assert!(bench.ends_with(&[Event::Stop(3, Stop::Soft)]));
        bench.end_in(S1, Ok(()));
        assert_eq!(bench.fake.log.lock().asked, 1);

        // The next job has no limit either.
        bench.end(Ok(()));
        assert!(fence.status() == OK);
        assert!(bench.ids(S0) == (Some(2), None));
        assert_eq!(bench.queue.next_deadline(), None);
        // A job that was told to stop has the time for that.
        bench.queue.update(&*bench.fake, |loaded| {
            loaded.stop(S0, Position::Current, Stop::Hard);
        });
        let now = bench.fake.log.lock().now;
        assert_eq!(bench.queue.next_deadline(), Some(now + GRACE));
        bench.advance_clock(GRACE);
        assert!(bench.queue.expire(&*bench.fake).reset);
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn soft_stop_while_next_is_followed_up() -> Result {
        let bench = Bench::with_timeouts(true, [None, None, None, None])?;
        let context = bench.context(Priority::Medium)?;
        bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        bench.queue.update(&*bench.fake, |loaded| {
            loaded.stop(S0, Position::Next, Stop::Soft);
        });
        assert_eq!(bench.queue.next_deadline(), None);

        bench.advance_clock(TIMEOUT);
        bench.end(Ok(()));
        assert!(bench.ids(S0) == (Some(2), None));
        let now = bench.fake.log.lock().now;
        assert_eq!(bench.queue.next_deadline(), Some(now + GRACE));
        Ok(())
    }

    #[test]
    fn stopped_while_next() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        bench.push(&context, 1)?;
        bench.push(&context, 2)?;
        bench.queue.update(&*bench.fake, |loaded| {
            loaded.stop(S0, Position::Next, Stop::Hard);
        });
        // The time of a job that does not run does not count.
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 10 + TIMEOUT);
        bench.end(Ok(()));
        assert_eq!(bench.queue.kind().deadline.load(Relaxed), 10 + GRACE);
        Ok(())
    }
}
