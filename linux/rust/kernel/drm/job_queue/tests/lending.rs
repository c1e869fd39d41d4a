// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of lending: jobs inherit the priority of jobs that wait for them.

use super::*;

#[kunit_tests(rust_drm_job_queue_lending)]
mod suite {
    use super::*;

    /// Creates a queue whose first slot has one of ten jobs of medium priority, with ids from 100
    /// on.
    fn flooded() -> Result<(Bench, Context<Owner>)> {
        let (bench, flood) = Bench::with_context(false)?;
        for id in 100..110 {
            bench.push(&flood, id)?;
        }
        Ok((bench, flood))
    }

    /// Works until nothing is left. The worker notices met dependencies only after the slot was
    /// filled, so one other job may run between a job and the one that waits for it.
    fn work_off(bench: &Bench) {
        while bench.end(Ok(())) {
            bench.work();
        }
    }

    #[test]
    fn a_high_one_waits_for_a_low_one() -> Result {
        let (bench, _flood) = flooded()?;
        let low = bench.context(Priority::Low)?;
        let high = bench.context(Priority::High)?;
        let x = bench.push(&low, 1)?;
        bench.push(&low, 2)?;
        bench.push_after(&high, S0, 3, &[&x])?;
        work_off(&bench);
        // The next job of low priority was lent nothing.
        assert!(bench.started(&[100, 1, 101, 3, 102, 103, 104, 105, 106, 107, 108, 109, 2]));
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    /// Priority is lent to all jobs before the blocker, and to those that they wait for.
    #[test]
    fn through_fifos_and_slots() -> Result {
        let (bench, _flood) = flooded()?;
        let low = bench.context(Priority::Low)?;
        let other = bench.context(Priority::Low)?;
        let high = bench.context(Priority::High)?;
        bench.push(&low, 1)?;
        let x = bench.push(&low, 2)?;
        let y = bench.push_after(&other, S1, 3, &[&x])?;
        bench.push_after(&other, S0, 4, &[])?;
        let z = bench.push_after(&other, S0, 5, &[&y])?;
        bench.push_after(&high, S0, 6, &[&z])?;

        bench.end(Ok(()));
        bench.work();
        // Both FIFOs are in the line of high priority; the first was there earlier.
        for _ in 0..4 {
            bench.end(Ok(()));
            bench.work();
            bench.end_in(S1, Ok(()));
            bench.work();
        }
        work_off(&bench);
        let log = bench.fake.log.lock();
        let before = |id| {
            let starts = log.events.iter().filter_map(|event| match event {
                Event::Start(id, _) => Some(*id),
                _ => None,
            });
            starts
                .take_while(|start| *start != id)
                .filter(|id| *id >= 100)
                .count()
        };
        // One job of the flood was in the slot, and another runs after each dependency.
        assert!(before(1) == 1 && before(2) == 1 && before(4) == 1);
        assert!(before(5) <= 3 && before(6) <= 5);
        Ok(())
    }

    /// A job that already waits passes on a priority that it is lent later.
    #[test]
    fn lends_more_when_it_gets_more() -> Result {
        let (bench, _flood) = flooded()?;
        let low = bench.context(Priority::Low)?;
        let medium = bench.context(Priority::Medium)?;
        let high = bench.context(Priority::High)?;
        let x = bench.push(&low, 1)?;
        let y = bench.push_after(&medium, S1, 2, &[&x])?;
        // With the medium priority that it was lent, it is one of many.
        bench.end(Ok(()));
        bench.work();
        assert!(bench.ids(S0) == (Some(1), None) || bench.ids(S0) == (Some(101), None));
        let low = bench.context(Priority::Low)?;
        let x = bench.push(&low, 3)?;
        let z = bench.push_after(&medium, S1, 4, &[&x])?;
        bench.push_after(&high, S0, 5, &[&y, &z])?;
        work_off_both(&bench);
        let log = bench.fake.log.lock();
        let place = |id| {
            let found = log
                .events
                .iter()
                .position(|event| *event == Event::Start(id, Position::Current));
            found.unwrap_or(usize::MAX)
        };
        assert!(place(1) < place(103) && place(3) < place(106) && place(5) < place(108));
        Ok(())
    }

    /// Works like [`work_off`], with both slots.
    fn work_off_both(bench: &Bench) {
        let mut busy = true;
        while busy {
            busy = bench.end(Ok(()));
            bench.work();
            busy |= bench.end_in(S1, Ok(()));
            bench.work();
        }
    }

    /// A job that waits for more jobs than are processed at once.
    #[test]
    fn to_very_many() -> Result {
        const MANY: usize = 600;

        let (bench, _flood) = flooded()?;
        let high = bench.context(Priority::High)?;
        let mut contexts = KVec::new();
        let mut fences = KVec::new();
        for id in 0..MANY {
            let low = bench.context(Priority::Low)?;
            fences.push(bench.push(&low, 1000 + id as u32)?, GFP_KERNEL)?;
            contexts.push(low, GFP_KERNEL)?;
        }
        let mut waits = KVec::new();
        for fence in &fences {
            waits.push(&**fence, GFP_KERNEL)?;
        }
        let last = bench.push_after(&high, S0, 1, &waits)?;
        bench.work();
        for _ in 0..=MANY {
            bench.end(Ok(()));
        }
        // All of them ran before the second job of the flood.
        assert!(fences.iter().all(|fence| fence.is_signaled()));
        assert!(last.status().is_none());
        bench.work();
        bench.end(Ok(()));
        bench.end(Ok(()));
        assert!(last.is_signaled());
        work_off(&bench);
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    /// Loans may be pending when the queue or a context ends.
    #[test]
    fn ends_while_lending() -> Result {
        for context_first in [true, false] {
            let (bench, flood) = flooded()?;
            {
                let low = bench.context(Priority::Low)?;
                let high = bench.context(Priority::High)?;
                let x = bench.push(&low, 1)?;
                bench.push_after(&high, S0, 2, &[&x])?;
                high.cancel_running(&*bench.fake);
            }
            assert!(bench.ends_clean(flood, context_first));
        }
        Ok(())
    }
}
