// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of jobs with a deadline.

use super::*;
use crate::dma_buf::fence::tests::set_deadline;

#[kunit_tests(rust_drm_job_queue_deadlines)]
mod suite {
    use super::*;

    /// The time that each job takes.
    const NS: u64 = 100;

    /// Lets the first slot end its jobs, each after [`NS`], until `count` have ended or none is
    /// left.
    fn work(bench: &Bench, count: usize) {
        for _ in 0..count {
            bench.advance_clock(NS);
            if !bench.end(Ok(())) {
                break;
            }
            bench.work();
        }
    }

    /// Creates a queue with one job each of some parties, with ids from 100 on, none of which has
    /// started.
    fn crowd(parties: u32) -> Result<(Bench, KVec<Context<Owner>>)> {
        let bench = Bench::new(false)?;
        let mut crowd = KVec::new();
        bench.queue.park();
        for id in 0..parties {
            let context = bench.context(Priority::Medium)?;
            bench.push(&context, 100 + id)?;
            crowd.push(context, GFP_KERNEL)?;
        }
        Ok((bench, crowd))
    }

    fn restart(bench: &Bench) {
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
    }

    /// Returns whether these were the first jobs to start.
    fn starts_with(bench: &Bench, ids: &[u32]) -> bool {
        let log = bench.fake.log.lock();
        let starts = log.events.iter().filter_map(|event| match event {
            Event::Start(id, _) => Some(*id),
            _ => None,
        });
        starts.take(ids.len()).eq(ids.iter().copied())
    }

    #[test]
    fn urgent_one_goes_out_of_turn() -> Result {
        let (bench, _crowd) = crowd(3)?;
        let late = bench.context(Priority::Medium)?;
        let fence = bench.push(&late, 1)?;
        bench.push(&late, 2)?;
        set_deadline(&fence, 0);
        restart(&bench);
        work(&bench, 10);
        // The job behind it is not urgent, and its party has used some time by then.
        assert!(bench.started(&[1, 100, 101, 102, 2]));
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    /// The jobs before an urgent one in its FIFO are urgent, too.
    #[test]
    fn with_those_before_it() -> Result {
        let (bench, _crowd) = crowd(4)?;
        let late = bench.context(Priority::Medium)?;
        bench.push(&late, 1)?;
        let fence = bench.push(&late, 2)?;
        set_deadline(&fence, 0);
        restart(&bench);
        work(&bench, 10);
        // One at a time.
        assert!(bench.started(&[1, 100, 2, 101, 102, 103]));
        Ok(())
    }

    /// An urgent job goes before all others of its priority, but not before those of a higher one.
    #[test]
    fn within_its_priority() -> Result {
        let (bench, _crowd) = crowd(2)?;
        let high = bench.context(Priority::High)?;
        let low = bench.context(Priority::Low)?;
        let other = bench.context(Priority::Low)?;
        bench.push(&other, 1)?;
        let fence = bench.push(&low, 2)?;
        bench.push(&high, 3)?;
        set_deadline(&fence, 0);
        restart(&bench);
        work(&bench, 10);
        assert!(bench.started(&[3, 100, 101, 2, 1]));
        Ok(())
    }

    /// A job of another FIFO, in another slot, waits for an urgent one.
    #[test]
    fn inherited_by_what_it_waits_for() -> Result {
        let (bench, _crowd) = crowd(3)?;
        let client = bench.context(Priority::Medium)?;
        let low = bench.context(Priority::Low)?;
        let between = bench.context(Priority::Medium)?;
        let waiter = bench.context(Priority::Medium)?;
        let x = bench.push(&client, 1)?;
        let y = bench.push(&low, 2)?;
        let z = bench.push_after(&between, S1, 3, &[&x, &y])?;
        let last = bench.push_after(&waiter, S1, 4, &[&z])?;
        set_deadline(&last, 0);
        restart(&bench);
        work(&bench, 20);
        // The job of low priority was lent the priority, too.
        assert!(starts_with(&bench, &[1, 100, 2, 101]));
        for _ in 0..2 {
            bench.end_in(S1, Ok(()));
            bench.work();
        }
        assert!(last.is_signaled());
        Ok(())
    }

    /// A deadline counts once it is near.
    #[test]
    fn far_deadline_does_not_count() -> Result {
        let far = i64::try_from(NEAR)? * 2;
        let (bench, _crowd) = crowd(2)?;
        let late = bench.context(Priority::Medium)?;
        let fence = bench.push(&late, 1)?;
        set_deadline(&fence, far);
        restart(&bench);
        assert!(bench.ids(S0) == (Some(100), None));
        set_deadline(&fence, 1);
        bench.push(&late, 2)?;
        work(&bench, 10);
        assert!(bench.started(&[100, 1, 101, 2]));
        Ok(())
    }

    /// A job may become urgent before it can run, and before it is pushed.
    #[test]
    fn before_it_is_ready() -> Result {
        let (bench, _crowd) = crowd(2)?;
        let late = bench.context(Priority::Medium)?;
        let gate = foreign()?;
        let fence = bench.push_after(&late, S0, 1, &[gate.fence()])?;
        set_deadline(&fence, 0);
        let early = bench.context(Priority::Medium)?;
        let armed = bench.prepare(&early, S0, 2, &[])?.arm();
        set_deadline(armed.fence(), 0);
        bench.queue.run(&*bench.fake);
        armed.push(&*bench.fake);
        gate.signal(Ok(()));
        restart(&bench);
        work(&bench, 10);
        assert!(bench.started(&[2, 100, 1, 101]));
        Ok(())
    }

    /// A party whose jobs are all urgent gets no more time in the long run, except for its lead.
    #[test]
    fn nobody_gets_more_time() -> Result {
        let bench = Bench::new(false)?;
        let (greedy, honest) = (Share::new()?, Share::new()?);
        let a = bench.queue.context(&greedy, Priority::Medium)?;
        let b = bench.queue.context(&honest, Priority::Medium)?;
        let c = bench.context(Priority::Medium)?;
        bench.queue.park();
        for id in 0..100 {
            let fence = bench.push(&a, id)?;
            set_deadline(&fence, 0);
            bench.push(&b, 1000 + id)?;
            bench.push(&c, 2000 + id)?;
        }
        restart(&bench);
        work(&bench, 30);
        let (used, others) = (greedy.used_ns(S0), honest.used_ns(S0));
        assert!(used >= others + LEAD / 2);
        for _ in 0..5 {
            work(&bench, 30);
            let (used, others) = (greedy.used_ns(S0), honest.used_ns(S0));
            assert!(used <= others + LEAD + 2 * NS);
        }
        Ok(())
    }

    /// Nor do many such parties deprive another one of its share.
    #[test]
    fn nobody_starves() -> Result {
        for two_deep in [false, true] {
            let bench = Bench::new(two_deep)?;
            let mut crowd = KVec::new();
            let victim = Share::new()?;
            let context = bench.queue.context(&victim, Priority::Medium)?;
            bench.queue.park();
            for id in 0..30 {
                bench.push(&context, id)?;
            }
            for party in 0..10 {
                let greedy = bench.context(Priority::Medium)?;
                for id in 0..30 {
                    let fence = bench.push(&greedy, 100 * party + 1000 + id)?;
                    set_deadline(&fence, 0);
                }
                crowd.push(greedy, GFP_KERNEL)?;
            }
            restart(&bench);
            // As good as without deadlines, or better.
            for round in 1..=25 {
                work(&bench, 11);
                assert!(victim.used_ns(S0) + 2 * NS >= round * NS);
            }
            assert!(bench.is_sound());
        }
        Ok(())
    }

    /// After a long urgent job, others get their turns first.
    #[test]
    fn long_one_is_paid_for() -> Result {
        let (bench, _crowd) = crowd(6)?;
        let (x, y) = (
            bench.context(Priority::Medium)?,
            bench.context(Priority::Medium)?,
        );
        let fences = [bench.push(&x, 1)?, bench.push(&y, 2)?];
        for fence in &fences {
            set_deadline(fence, 0);
            // In turn.
            bench.queue.run(&*bench.fake);
        }
        restart(&bench);
        bench.advance_clock(3 * NS);
        work(&bench, 20);
        assert!(bench.started(&[1, 100, 101, 102, 103, 2, 104, 105]));
        Ok(())
    }

    /// Deadlines may be pending when the queue or a context ends.
    #[test]
    fn ends_with_deadlines() -> Result {
        for context_first in [true, false] {
            let (bench, context) = Bench::with_context(false)?;
            let gate = foreign()?;
            let fences = [
                bench.push(&context, 1)?,
                bench.push_after(&context, S1, 2, &[gate.fence()])?,
            ];
            for fence in &fences {
                set_deadline(fence, 0);
            }
            assert!(bench.ends_clean(context, context_first));
            set_deadline(&fences[0], -1);
        }
        Ok(())
    }
}
