// SPDX-License-Identifier: GPL-2.0

//! Fences signal in order, whichever CPUs see the jobs end.

use super::*;

#[kunit_tests(rust_drm_job_queue_delivery)]
mod suite {
    use super::*;

    /// Drops every kick.
    struct Deaf;

    impl Kick for Deaf {
        fn kick(&self) {}
    }

    /// What one CPU has to signal while another one does so is left to that one.
    #[test]
    fn one_delivers_for_all() -> Result {
        let (bench, context) = Bench::with_context(true)?;
        let mailbox = Arc::new(Mailbox::new(Deaf), GFP_KERNEL)?;
        let mut watches = KVec::new();
        for id in 1..=3 {
            let fence = bench.push(&context, id)?;
            let mut watch = FenceWatch::new(mailbox.clone(), id, GFP_KERNEL)?;
            assert!(watch.start(&fence)?);
            watches.push(watch, GFP_KERNEL)?;
        }

        bench.queue.shared.state.lock().delivering = true;
        bench.end(Ok(()));
        bench.end(Ok(()));
        context.cancel_running(&*bench.fake);
        bench.queue.kill(ENODEV, |_| ());
        assert!(mailbox.is_empty());
        assert_eq!(bench.queue.kind().retires.load(Relaxed), 0);

        // The other one goes on.
        let mut state = bench.queue.shared.state.lock();
        state.delivering = false;
        bench.queue.shared.deliver(state);
        assert!(mailbox.drain().map(|mail| *mail).eq(1..=3));
        assert!(!bench.queue.shared.state.lock().delivering);
        assert_eq!(bench.alive(), 0);
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
