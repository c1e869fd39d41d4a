// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of jobs that wait for fences.

use super::*;

#[kunit_tests(rust_drm_job_queue_waiting)]
mod suite {
    use super::*;

    #[test]
    fn looks_at_all_jobs() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let never = foreign()?;
        for id in 1..=3 {
            bench.push(&context, id)?;
        }
        bench.push_after(&context, S1, 4, &[never.fence()])?;
        bench.push(&context, 5)?;

        let mut seen = KVec::with_capacity(8, GFP_KERNEL)?;
        let count = bench.queue.look(&mut seen, |look| {
            let at = match look.at {
                Whereabouts::Loaded(position) => position as u64,
                Whereabouts::Ready => 10,
                Whereabouts::Queued => 11,
                Whereabouts::WaitsFor(fence) => 100 + fence.seqno(),
            };
            (look.slot.index(), look.job.id, at)
        });
        assert_eq!(count, Some(5));
        for expected in [
            (0, 1, 0),
            (0, 2, 1),
            (0, 3, 10),
            (0, 5, 11),
            (1, 4, 100 + never.fence().seqno()),
        ] {
            assert!(seen.iter().any(|&found| found == expected));
        }
        // There may be fewer positions.
        let mut one = KVec::with_capacity(1, GFP_KERNEL)?;
        let room = one.capacity();
        assert_eq!(bench.queue.look(&mut one, |look| look.timeline), Some(5));
        assert_eq!(one.len(), room.min(5));
        while bench.end(Ok(())) {}
        Ok(())
    }

    #[test]
    fn waits_for_every_dependency() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let other = bench.context(Priority::Medium)?;
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
        let done = foreign()?;
        let signaled = ARef::from(done.fence());
        done.signal(Ok(()));
        dependencies.add(&signaled)?;
        assert_eq!(dependencies.len(), 1);
        assert!(dependencies
            .fences
            .iter()
            .all(|fence| fence.seqno() == second.fence().seqno()));

        // A FIFO does not wait for itself.
        let (bench, context) = Bench::with_context(true)?;
        let a = bench.push(&context, 1)?;
        bench.push_after(&context, S0, 2, &[&a])?;
        assert!(bench.ids(S0) == (Some(1), Some(2)));
        Ok(())
    }

    /// The members of a container count, not the container.
    #[test]
    fn containers_are_taken_apart() -> Result {
        let (x, y) = (foreign()?, foreign()?);
        let array = fence::tests::array(&[x.fence(), y.fence()])?;
        let mut dependencies = Dependencies::new();
        dependencies.add(x.fence())?;
        dependencies.add(&array)?;
        assert!(dependencies.len() == 2);
        assert!(dependencies
            .fences
            .iter()
            .all(|fence| fence.context() != array.context()));

        // A container can be added any number of times, but not for ever.
        dependencies.members = Dependencies::MAX_MEMBERS - 1;
        dependencies.add(&array)?;
        assert!(dependencies.add(&array) == Err(ENOMEM));
        // A fence that is none does not count.
        dependencies.add(x.fence())?;

        let (bench, context) = Bench::with_context(true)?;
        bench.push_after(&context, S0, 1, &[&array])?;
        x.signal(Ok(()));
        bench.queue.run(&*bench.fake);
        assert!(bench.ids(S0) == (None, None));
        y.signal(Ok(()));
        bench.queue.run(&*bench.fake);
        assert!(bench.ids(S0) == (Some(1), None));
        Ok(())
    }

    /// The maximum number of timelines, and one more in a container.
    #[test]
    fn dependencies_are_bounded() -> Result {
        let mut fences = KVec::new();
        let mut dependencies = Dependencies::new();
        for _ in 0..Dependencies::MAX {
            let fence = foreign()?;
            dependencies.add(fence.fence())?;
            fences.push(fence, GFP_KERNEL)?;
        }
        let more = foreign()?;
        assert_eq!(dependencies.add(more.fence()), Err(ENOMEM));
        let array = fence::tests::array(&[fences[0].fence(), more.fence()])?;
        assert_eq!(dependencies.add(&array), Err(ENOMEM));
        assert_eq!(dependencies.len(), Dependencies::MAX);
        Ok(())
    }

    #[test]
    fn dependency_between_slots() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let a = bench.push_after(&context, S1, 1, &[])?;
        bench.push_after(&context, S0, 2, &[&a])?;
        assert!(bench.ids(S0) == (None, None));
        bench.end_in(S1, Ok(()));
        bench.queue.run(&*bench.fake);
        assert!(bench.ids(S0) == (Some(2), None));
        Ok(())
    }

    /// Returns the ids of the jobs in a slot of the hardware. Unlike [`Bench::ids`], does not enter
    /// the queue, which would process notices.
    fn in_hardware(bench: &Bench, slot: QueueSlot) -> [Option<u32>; MAX_DEPTH] {
        bench.fake.log.lock().loaded[slot.index()].map(|loaded| Some(loaded?.0))
    }

    /// The caller that reports the end of a job also starts the job that waits for it.
    #[test]
    fn no_worker_between_jobs() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let a = bench.push_after(&context, S1, 1, &[])?;
        let b = bench.push_after(&context, S0, 2, &[&a])?;
        bench.push_after(&context, S1, 3, &[&b])?;
        bench.end_in(S1, Ok(()));
        assert!(in_hardware(&bench, S0) == [Some(2), None]);
        bench.end(Ok(()));
        assert!(in_hardware(&bench, S1) == [Some(3), None]);
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), 0);
        // Reset and timer do so as well.
        let c = bench.push_after(&context, S1, 4, &[])?;
        bench.push_after(&context, S0, 5, &[&c])?;
        bench
            .queue
            .restart(&*bench.fake, |_| Verdict::Done(Err(EIO)));
        assert!(in_hardware(&bench, S0) == [Some(5), None]);
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), 0);
        // After that, a notice kicks again.
        let x = foreign()?;
        bench.push_after(&context, S1, 6, &[x.fence()])?;
        x.signal(Ok(()));
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), 1);
        Ok(())
    }

    /// A parked queue starts nothing, whoever signals.
    #[test]
    fn no_start_while_parked() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let a = bench.push_after(&context, S1, 1, &[])?;
        bench.push_after(&context, S0, 2, &[&a])?;
        bench.queue.park();
        bench.end_in(S1, Ok(()));
        assert!(a.status() == OK);
        assert!(in_hardware(&bench, S0) == [None, None]);
        bench.queue.restart(&*bench.fake, |_| Verdict::Requeue);
        assert!(in_hardware(&bench, S0) == [Some(2), None]);
        Ok(())
    }

    /// Jobs that fail as soon as they are started, each of which waits for the one before: one
    /// caller does not end all of them.
    #[test]
    fn long_chains_are_left_to_the_owner() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let mut fences = KVec::new();
        let mut last = bench.push(&context, 0)?;
        for id in 1..20 {
            let slot = if id % 2 == 0 { S0 } else { S1 };
            last = bench.push_after(&context, slot, id, &[&last])?;
            fences.push(last.clone(), GFP_KERNEL)?;
        }
        let ended = || {
            let ended = fences.iter().filter(|fence| fence.status() == failed(EIO));
            ended.count()
        };
        bench.fake.log.lock().refuse = Some(StartError::Failed(EIO));
        bench.end(Ok(()));
        assert!((1..=8).contains(&ended()));
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), 1);
        bench.work();
        assert_eq!(ended(), fences.len());
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    /// A fence of others signals while the end of a job is delivered. Whether or not that kicks,
    /// the job that waits for it is started.
    #[test]
    fn no_notice_is_lost_during_delivery() -> Result {
        const ROUNDS: u32 = 300;

        let (bench, context) = Bench::with_context(true)?;
        let pause = |rounds| {
            for _ in 0..rounds * 20 {
                core::hint::spin_loop();
            }
        };
        for round in 0..ROUNDS {
            bench.push(&context, 2 * round)?;
            let x = foreign()?;
            let id = 2 * round + 1;
            bench.push_after(&context, S1, id, &[x.fence()])?;
            let stage = Arc::new(Atomic::new(0_u32), GFP_KERNEL)?;
            let there = stage.clone();
            workqueue::system_dfl().try_spawn(GFP_KERNEL, move || {
                there.store(1, Release);
                pause(ROUNDS - round);
                x.signal(Ok(()));
                there.store(2, Release);
            })?;
            let reach = |aim| {
                while stage.load(Acquire) < aim {
                    core::hint::spin_loop();
                }
            };
            reach(1);
            pause(round);
            bench.end(Ok(()));
            reach(2);
            bench.work();
            assert!(in_hardware(&bench, S1) == [Some(id), None]);
            bench.end_in(S1, Ok(()));
            assert_eq!(bench.alive(), 0);
        }
        assert!(bench.is_sound());
        Ok(())
    }

    #[test]
    fn chain_through_two_queues() -> Result {
        let one = Bench::new(true)?;
        let two = Bench::new(true)?;
        let first = one.context(Priority::Medium)?;
        let second = two.context(Priority::Medium)?;
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
    fn late_notice_is_harmless() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let some = foreign()?;
        bench.push_after(&context, S0, 1, &[some.fence()])?;
        some.signal(Ok(()));
        context.cancel();
        drop(context);
        bench.work();
        assert_eq!(bench.alive(), 0);
        assert!(bench.started(&[]));
        Ok(())
    }

    /// A dependency that signals when the mailbox is no longer drained.
    #[test]
    fn notice_left_behind() -> Result {
        for context_first in [true, false] {
            let (bench, context) = Bench::with_context(true)?;
            let x = foreign()?;
            let a = bench.push_after(&context, S0, 1, &[x.fence()])?;
            x.signal(Ok(()));
            assert_eq!(bench.queue.kind().kicks.load(Relaxed), 1);

            assert!(bench.ends_clean(context, context_first));
            assert!(a.status() == failed(ENODEV));
        }
        Ok(())
    }

    /// Creates contexts, each with a job that waits for all of these fences.
    fn crowd(bench: &Bench, size: u32, fences: &[&Fence]) -> Result<KVec<Context<Owner>>> {
        let mut crowd = KVec::new();

        for id in 0..size {
            let context = bench.context(Priority::Medium)?;
            bench.push_after(&context, S0, id, fences)?;
            crowd.push(context, GFP_KERNEL)?;
        }
        Ok(crowd)
    }

    /// Returns the number of jobs that wait for a fence as far as the queue knows.
    fn waiting(bench: &Bench) -> Result<usize> {
        let mut waiting = KVec::with_capacity(1024, GFP_KERNEL)?;

        bench.queue.look(&mut waiting, |look| {
            matches!(look.at, Whereabouts::WaitsFor(_))
        });
        Ok(waiting.iter().filter(|&&waits| waits).count())
    }

    /// Runs the queue as long as it asks for that. Returns the numbers of jobs that had stopped
    /// waiting after each run, of which there are at most `N`.
    fn parts<const N: usize>(bench: &Bench) -> Result<[usize; N]> {
        let owner = bench.queue.kind();
        let mut parts = [0; N];

        for part in &mut parts {
            let (before, kicks) = (waiting(bench)?, owner.kicks.load(Relaxed));
            bench.queue.run(&*bench.fake);
            *part = before - waiting(bench)?;
            if owner.kicks.load(Relaxed) == kicks {
                break;
            }
        }
        Ok(parts)
    }

    /// The lock is not held until all have been told.
    #[test]
    fn many_wait_for_one() -> Result {
        let bench = Bench::new(true)?;
        let gate = foreign()?;
        let crowd = crowd(&bench, 600, &[gate.fence()])?;
        gate.signal(Ok(()));
        assert!(parts(&bench)? == [256, 256, 88, 0]);
        assert!(bench.id(S0, Position::Next).is_some());
        while bench.end(Ok(())) {}
        drop(crowd);
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    /// A job whose dependencies were met out of order takes as long as many jobs.
    #[test]
    fn some_wait_for_many() -> Result {
        let bench = Bench::new(true)?;
        // Timelines are waited for in the order in which they were created.
        let gate = foreign()?;
        let mut others = KVec::new();
        for _ in 0..300 {
            others.push(foreign()?, GFP_KERNEL)?;
        }
        let mut fences = KVec::new();
        fences.push(gate.fence(), GFP_KERNEL)?;
        for other in &others {
            fences.push(other.fence(), GFP_KERNEL)?;
        }
        let _crowd = crowd(&bench, 3, &fences)?;
        drop(fences);
        for other in others {
            other.signal(Ok(()));
        }
        gate.signal(Ok(()));
        assert!(parts(&bench)? == [1, 1, 1, 0]);
        Ok(())
    }

    /// A queue that ends after some of many notices.
    #[test]
    fn notices_left_over() -> Result {
        for context_first in [true, false] {
            let (bench, context) = Bench::with_context(true)?;
            let gate = foreign()?;
            let crowd = crowd(&bench, 600, &[gate.fence()])?;
            gate.signal(Ok(()));
            bench.queue.run(&*bench.fake);
            assert!(waiting(&bench)? > 0);
            drop(crowd);
            assert!(bench.ends_clean(context, context_first));
        }
        Ok(())
    }

    /// Each of two CPUs drives one of the queues; each job waits for the one before it, which is in
    /// the other queue. For lockdep: one queue's fences signal into the other, both ways at once.
    #[test]
    fn chain_between_queues_and_cpus() -> Result {
        const JOBS: u32 = 100;

        let benches = [
            Arc::new(Bench::new(true)?, GFP_KERNEL)?,
            Arc::new(Bench::new(true)?, GFP_KERNEL)?,
        ];
        let contexts = [
            benches[0].context(Priority::Medium)?,
            benches[1].context(Priority::Medium)?,
        ];
        let gate = foreign()?;
        let mut last = ARef::from(gate.fence());
        for id in 0..JOBS {
            let which = (id % 2) as usize;
            last = benches[which].push_after(&contexts[which], S0, id, &[&last])?;
        }

        let (other, end) = (benches[1].clone(), last.clone());
        workqueue::system_dfl().try_spawn(GFP_KERNEL, move || {
            other.work_until(&end);
        })?;
        gate.signal(Ok(()));
        benches[0].work_until(&last);
        for bench in &benches {
            assert!(bench.is_sound());
            assert!(bench.queue.is_idle());
        }
        Ok(())
    }
}
