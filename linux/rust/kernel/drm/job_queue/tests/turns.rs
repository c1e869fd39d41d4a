// SPDX-License-Identifier: GPL-2.0

//! Whose turn it is.

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

    /// Lets the first slot end a number of jobs. Those with an id below `few` take 10 ns, the others
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
        // It has used nothing yet, and does not get all of it now.
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

    #[test]
    fn slots_are_shared_one_by_one() -> Result {
        let bench = Bench::new(false)?;
        let a = bench.context(Priority::Medium)?;
        let b = bench.context(Priority::Medium)?;
        bench.push_after(&a, S1, 1, &[])?;
        bench.advance_clock(500);
        bench.end_in(S1, Ok(()));
        // What was used there says nothing here.
        bench.queue.park();
        bench.push(&a, 2)?;
        bench.push(&b, 3)?;
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        while bench.end(Ok(())) {}
        assert!(bench.started(&[1, 2, 3]));
        Ok(())
    }
}
