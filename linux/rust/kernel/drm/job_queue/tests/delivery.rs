// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of delivery: fences signal in order, on whichever CPUs jobs end, and none waits for a
//! client's task.

use super::*;

#[kunit_tests(rust_drm_job_queue_delivery)]
mod suite {
    use super::*;

    /// Drops every kick.
    struct Deaf;

    impl Kick for Deaf {
        fn kick(&self) {}
    }

    /// Counts the fences that have signalled.
    fn signalled(fences: &[ARef<Fence>]) -> usize {
        fences.iter().filter(|fence| fence.is_signaled()).count()
    }

    /// A task that destroys a context signals no fences, neither those of the context nor those of
    /// others, so no fence waits for it.
    #[test]
    fn no_task_delivers() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let other = bench.context(Priority::Medium)?;
        let gate = foreign()?;
        let mut fences = KVec::new();
        for id in 0..200 {
            let fence = bench.push_after(&context, S0, id, &[gate.fence()])?;
            fences.push(fence, GFP_KERNEL)?;
        }
        let innocent = bench.push(&other, 1000)?;
        context.cancel_running(&*bench.fake);
        assert_eq!(bench.queue.kind().kicks.load(Relaxed), 1);
        assert_eq!(signalled(&fences), 0);

        // Jobs that ended by themselves are delivered first, by the task that reports the end.
        bench.end(Ok(()));
        assert!(innocent.status() == OK);
        assert_eq!(signalled(&fences), 0);

        // The rest is delivered in batches, between which there is time for other work.
        let mut parts = 0;
        while signalled(&fences) < fences.len() {
            let before = signalled(&fences);
            let innocent = bench.push(&other, 1001 + parts)?;
            bench.queue.run(&*bench.fake);
            let after = signalled(&fences);
            assert!(after > before && after - before <= 64);
            // In order.
            assert_eq!(signalled(&fences[..after]), after);
            bench.end(Ok(()));
            assert!(innocent.status() == OK && signalled(&fences) == after);
            parts += 1;
        }
        assert!(parts == 4);
        // There was one kick for each batch.
        bench.work();

        // A job that is pushed too late is treated in the same way.
        let late = bench.push(&context, 2000)?;
        assert!(late.status().is_none());
        bench.work();
        assert!(late.status() == failed(ECANCELED));
        assert_eq!(bench.alive(), 0);
        Ok(())
    }

    /// A job that runs when its context is closed is delivered before those that do not.
    #[test]
    fn done_before_cancelled() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let mailbox = Arc::new(Mailbox::new(Deaf), GFP_KERNEL)?;
        let mut watches = KVec::new();
        for id in 1..=4 {
            let fence = bench.push(&context, id)?;
            let mut watch = FenceWatch::new(mailbox.clone(), id, GFP_KERNEL)?;
            assert!(watch.start(&fence)?);
            watches.push(watch, GFP_KERNEL)?;
        }
        bench.fake.log.lock().withdrawable = false;
        context.cancel_running(&*bench.fake);
        bench.work();
        assert!(mailbox.is_empty());
        bench.end(Ok(()));
        assert!(mailbox.drain().map(|mail| *mail).eq([1]));
        bench.end(Ok(()));
        assert!(mailbox.drain().map(|mail| *mail).eq([2]));
        bench.work();
        assert!(mailbox.drain().map(|mail| *mail).eq([3, 4]));
        Ok(())
    }

    /// All fences have signalled when the queue was killed, even if another CPU delivers
    /// concurrently.
    #[test]
    fn killed_while_others_deliver() -> Result {
        for round in 0..50 {
            let bench = Arc::new(Bench::new(true)?, GFP_KERNEL)?;
            let context = bench.context(Priority::Medium)?;
            let mut fences = KVec::new();
            for id in 0..100 {
                fences.push(bench.push(&context, id)?, GFP_KERNEL)?;
            }
            if round % 2 == 0 {
                context.cancel_running(&*bench.fake);
            }
            let begun = Arc::new(Atomic::new(false), GFP_KERNEL)?;
            let (other, there) = (bench.clone(), begun.clone());
            workqueue::system_dfl().try_spawn(GFP_KERNEL, move || {
                there.store(true, Relaxed);
                for _ in 0..100 {
                    other.end(Ok(()));
                    other.queue.run(&*other.fake);
                }
            })?;
            while !begun.load(Relaxed) {
                core::hint::spin_loop();
            }
            bench.queue.kill(ENODEV, |_| ());
            assert_eq!(signalled(&fences), fences.len());
        }
        Ok(())
    }

    /// The jobs of one FIFO end on several CPUs.
    #[test]
    fn order_between_cpus() -> Result {
        let bench = Arc::new(Bench::new(true)?, GFP_KERNEL)?;
        let context = bench.context(Priority::Medium)?;
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
}
