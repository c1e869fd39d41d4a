// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of the order of turns.

use super::*;

#[kunit_tests(rust_drm_job_queue_turns)]
mod suite {
    use super::*;

    #[test]
    fn priorities_go_first() -> Result {
        let bench = Bench::new(false)?;
        let low = bench.context(Priority::Low)?;
        let medium = bench.context(Priority::Medium)?;
        let high = bench.context(Priority::High)?;
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
        let a = bench.context(Priority::Medium)?;
        let b = bench.context(Priority::Medium)?;
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

    /// Ends a number of jobs in the first slot. Those with an id below `few` take 10 ns, the others
    /// 100.
    fn work(bench: &Bench, jobs: u32, few: u32) {
        for _ in 0..jobs {
            let quick = bench.id(S0, Position::Current).is_some_and(|id| id < few);

            bench.advance_clock(if quick { 10 } else { 100 });
            bench.end(Ok(()));
        }
    }

    #[test]
    fn parties_get_the_same_time() -> Result {
        for two_deep in [true, false] {
            let bench = Bench::new(two_deep)?;
            let (quick, slow) = (Share::new()?, Share::new()?);
            let a = bench.queue.context(&quick, Priority::Medium)?;
            let b = bench.queue.context(&slow, Priority::Medium)?;
            for id in 0..200 {
                bench.push(&a, id)?;
                bench.push(&b, 1000 + id)?;
            }
            work(&bench, 150, 1000);
            // 150 jobs in turns would be 750 and 7,500.
            let (quick, slow) = (quick.used_ns(S0), slow.used_ns(S0));
            assert!(quick > 1000 && quick.abs_diff(slow) <= 200);
        }
        Ok(())
    }

    #[test]
    fn more_contexts_are_not_more_time() -> Result {
        let bench = Bench::new(true)?;
        let (many, one) = (Share::new()?, Share::new()?);
        let mut contexts = KVec::new();
        for _ in 0..10 {
            contexts.push(bench.queue.context(&many, Priority::Medium)?, GFP_KERNEL)?;
        }
        let alone = bench.queue.context(&one, Priority::Medium)?;
        for id in 0..50 {
            for context in &contexts {
                bench.push(context, id)?;
            }
            bench.push(&alone, id)?;
        }
        work(&bench, 60, 1000);
        assert!(many.used_ns(S0).abs_diff(one.used_ns(S0)) <= 20);
        // Each of the ten had its turn.
        work(&bench, 500, 1000);
        while bench.end(Ok(())) {}
        assert_eq!(bench.alive(), 0);
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn time_is_not_saved() -> Result {
        let bench = Bench::new(false)?;
        let a = bench.context(Priority::Medium)?;
        let b = bench.context(Priority::Medium)?;
        for id in 0..40 {
            bench.push(&a, id)?;
        }
        work(&bench, 30, 1000);
        // The newcomer has not used any time, but does not get all of it now.
        for id in 0..10 {
            bench.push(&b, 100 + id)?;
        }
        work(&bench, 10, 1000);
        let log = bench.fake.log.lock();
        let last = log.events.iter().rev().take(21);
        let of_a = last
            .filter(|event| matches!(event, Event::Finish(id) if *id < 100))
            .count();
        assert!((4..=6).contains(&of_a));
        Ok(())
    }

    /// A client that creates a new party for each job does not starve a party that has used the
    /// slot before, and gets its share itself.
    #[test]
    fn new_parties_do_not_go_first_for_ever() -> Result {
        for two_deep in [true, false] {
            let bench = Bench::new(two_deep)?;
            let steady = Share::new()?;
            let a = bench.queue.context(&steady, Priority::Medium)?;
            for id in 0..100 {
                bench.push(&a, id)?;
            }
            work(&bench, 10, 0);
            let before = steady.used_ns(S0);
            let mut fresh = KVec::new();
            for id in 1000..1064 {
                let context = bench.context(Priority::Medium)?;
                bench.push(&context, id)?;
                fresh.push(context, GFP_KERNEL)?;
                // Four jobs wait at first. From then on, one job ends for each that is pushed.
                if id >= 1004 {
                    work(&bench, 1, 0);
                }
            }
            let used = steady.used_ns(S0) - before;
            assert!((2000..=4000).contains(&used));
        }
        Ok(())
    }

    /// A job that takes long yields the slot to others, even to those that have used it for longer.
    #[test]
    fn long_job_yields_its_turn() -> Result {
        let bench = Bench::new(true)?;
        let (long, other) = (Share::new()?, Share::new()?);
        let a = bench.queue.context(&long, Priority::Medium)?;
        let b = bench.queue.context(&other, Priority::Medium)?;
        bench.push(&b, 10)?;
        bench.advance_clock(5 * TIMEOUT);
        bench.push(&a, 1)?;
        bench.end(Ok(()));
        bench.push(&a, 2)?;
        bench.push(&b, 11)?;
        assert!(bench.ids(S0) == (Some(1), Some(2)));

        for turn in 1..=3 {
            bench.advance_clock(TIMEOUT);
            bench.queue.expire(&*bench.fake);
            assert!(bench.ends_with(&[Event::Stop(1, Stop::Soft)]));
            let yielded = bench.queue.update(&*bench.fake, |loaded| {
                // Refused as long as the next job would overtake it.
                (turn > 1 || !loaded.yield_turn(S0))
                    && loaded.requeue(S0, Position::Next)
                    && loaded.yield_turn(S0)
                    && !loaded.yield_turn(S0)
            });
            assert!(yielded);
            assert_eq!(long.used_ns(S0), turn * TIMEOUT);
            assert!(bench.ids(S0) == (Some(10 + turn as u32), Some(1)));
            bench.push(&b, 11 + turn as u32)?;
            bench.advance_clock(10);
            bench.end(Ok(()));

            // It has the slot, all of its time, and no strikes.
            let (strikes, ran_ns) = bench.queue.update(&*bench.fake, |loaded| {
                loaded
                    .get(S0, Position::Current)
                    .map_or((9, 0), |running| (running.strikes, running.ran_ns))
            });
            assert!(strikes == 0 && ran_ns == turn * TIMEOUT);
            let now = bench.fake.log.lock().now;
            assert_eq!(bench.queue.next_deadline(), Some(now + TIMEOUT));
        }
        // A job that starts from the beginning has not run.
        bench.queue.park();
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        let ran_ns = bench.queue.update(&*bench.fake, |loaded| {
            loaded
                .get(S0, Position::Current)
                .map(|running| running.ran_ns)
        });
        assert_eq!(ran_ns, Some(0));
        assert!(!a.is_closed());
        while bench.end(Ok(())) {}
        assert_eq!(bench.alive(), 0);
        assert!(bench.is_sound());
        Ok(())
    }

    /// Time that a party is attributed in a line that was busy for long counts in that line only.
    #[test]
    fn priorities_are_shared_one_by_one() -> Result {
        let bench = Bench::new(false)?;
        let low = bench.context(Priority::Low)?;
        for id in 0..100 {
            bench.push(&low, id)?;
        }
        work(&bench, 100, 0);
        let share = Share::new()?;
        let x_low = bench.queue.context(&share, Priority::Low)?;
        let x = bench.queue.context(&share, Priority::Medium)?;
        let z = bench.context(Priority::Medium)?;
        bench.push(&x_low, 100)?;
        work(&bench, 1, 0);
        assert!(bench.queue.is_idle());
        bench.fake.log.lock().events.clear();

        bench.queue.park();
        for id in 1..=5 {
            bench.push(&x, id)?;
            bench.push(&z, 10 + id)?;
        }
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        work(&bench, 10, 0);
        assert!(bench.started(&[1, 11, 2, 12, 3, 13, 4, 14, 5, 15]));
        assert!(bench.queue.is_idle() && share.used_ns(S0) == 600);
        Ok(())
    }

    /// A job of low priority gets its turn although there always is one of a higher priority.
    #[test]
    fn nobody_starves() -> Result {
        let bench = Bench::new(false)?;
        let high = bench.context(Priority::High)?;
        let medium = bench.context(Priority::Medium)?;
        let low = bench.context(Priority::Low)?;
        bench.push(&high, 0)?;
        bench.push(&high, 1)?;
        for id in 0..3 {
            bench.push(&medium, 1000 + id)?;
            bench.push(&low, 2000 + id)?;
        }
        let finished = |id| {
            let log = bench.fake.log.lock();
            log.events.contains(&Event::Finish(id))
        };
        let mut ended = 0;
        let mut until = |id| -> Result<u64> {
            let before = ended;
            while !finished(id) {
                work(&bench, 1, 0);
                bench.push(&high, 2 + ended as u32)?;
                ended += 1;
            }
            Ok(ended - before)
        };
        // Jobs of 100 ns. The first ones have waited for the same time; then each gets one in 32.
        assert_eq!(until(1000)?, PATIENCE / 100 + 1);
        assert_eq!(until(2000)?, 1);
        // The next ones get theirs after `PATIENCE` again, as 31 times 100 ns are less.
        assert_eq!(until(1001)?, PATIENCE / 100 + 1);
        assert_eq!(until(2001)?, 1);
        Ok(())
    }

    /// A line whose favoured job took long has to wait for longer the next time.
    #[test]
    fn favours_are_a_small_share() -> Result {
        let bench = Bench::new(false)?;
        let high = bench.context(Priority::High)?;
        let low = bench.context(Priority::Low)?;
        let mut used = [0, 0];
        for id in 0..2 {
            bench.push(&high, id)?;
        }
        for id in 0..20 {
            bench.push(&low, 10_000 + id)?;
        }
        for id in 2..2000 {
            let is_low = bench
                .id(S0, Position::Current)
                .is_some_and(|id| id >= 10_000);
            let time = if is_low { 900 } else { 100 };
            used[usize::from(is_low)] += time;
            bench.advance_clock(time);
            bench.end(Ok(()));
            bench.push(&high, id)?;
            drop(bench.queue.take_retired());
        }
        // The first came after `PATIENCE`, each other after 31 times 900 ns.
        assert_eq!(used[1] / 900, 1 + (used[0] - PATIENCE) / (31 * 900));
        Ok(())
    }

    /// A job that cannot start does not use up the turn of a line that was passed over: another one
    /// of the line has it, or the same one at the next attempt.
    #[test]
    fn favours_are_not_lost() -> Result {
        for error in [StartError::Blocked, StartError::Busy] {
            let bench = Bench::new(false)?;
            let high = bench.context(Priority::High)?;
            let (first, second) = (bench.context(Priority::Low)?, bench.context(Priority::Low)?);
            bench.push_after(&high, S1, 0, &[])?;
            for id in 1..=3 {
                bench.push(&high, id)?;
            }
            bench.push(&first, 11)?;
            bench.push(&second, 12)?;
            bench.fake.log.lock().refuse_job = (11, error);
            bench.advance_clock(PATIENCE);
            bench.end(Ok(()));
            if error == StartError::Busy {
                assert!(bench.ids(S0) == (None, None));
                bench.fake.log.lock().refuse_job = (u32::MAX, error);
                bench.queue.run(&*bench.fake);
                assert!(bench.ids(S0) == (Some(11), None));
            } else {
                assert!(bench.ids(S0) == (Some(12), None));
            }
            // It was one turn.
            bench.end(Ok(()));
            assert!(bench.ids(S0) == (Some(2), None));
        }
        Ok(())
    }

    #[test]
    fn slots_are_shared_one_by_one() -> Result {
        let bench = Bench::new(false)?;
        let a = bench.context(Priority::Medium)?;
        let b = bench.context(Priority::Medium)?;
        bench.push_after(&a, S1, 1, &[])?;
        bench.advance_clock(500);
        bench.end_in(S1, Ok(()));
        // The time used there does not count here.
        bench.queue.park();
        bench.push(&a, 2)?;
        bench.push(&b, 3)?;
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        while bench.end(Ok(())) {}
        assert!(bench.started(&[1, 2, 3]));
        Ok(())
    }
}
