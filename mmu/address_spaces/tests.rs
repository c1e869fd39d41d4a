// SPDX-License-Identifier: GPL-2.0

//! Tests of the assignment of address spaces, without a GPU.

use kernel::drm::job_queue::QueueSlot;

use super::{
    fake::{
        Bench,
        Did,
        RANGE, //
    },
    *, //
};
use crate::hw::Flush;

#[kunit_tests(drm_gpu_mmu_address_spaces)]
mod suite {
    use super::*;

    #[test]
    fn the_least_recently_used_one_is_replaced() -> Result {
        let bench = Bench::new(0b1011)?;
        let (a, b, c) = (bench.space(1)?, bench.space(2)?, bench.space(3)?);
        let (d, e, f) = (bench.space(4)?, bench.space(5)?, bench.space(6)?);

        for (space, nr) in [(&a, 0), (&b, 1), (&c, 3)] {
            assert_eq!(bench.run(space), Ok(nr));
        }
        assert!(bench.gpu.did(&[
            Did::Clear(0),
            Did::Enable(0, 1),
            Did::Clear(1),
            Did::Enable(1, 2),
            Did::Clear(3),
            Did::Enable(3, 3),
        ]));
        // It is still there.
        assert_eq!(bench.run(&a), Ok(0));
        assert!(bench.gpu.did(&[]));

        assert_eq!(bench.get(&d), Ok(1));
        assert_eq!(bench.get(&e), Ok(3));
        assert_eq!(bench.get(&f), Ok(0));
        assert!(bench.gpu.did(&[
            Did::Clear(1),
            Did::Enable(1, 4),
            Did::Clear(3),
            Did::Enable(3, 5),
            Did::Clear(0),
            Did::Enable(0, 6),
        ]));

        // All have jobs.
        assert_eq!(bench.get(&a), Err(EBUSY));
        bench.manager.put(&e);
        assert_eq!(bench.get(&a), Ok(3));
        Ok(())
    }

    #[test]
    fn jobs_of_a_space_share_its_as() -> Result {
        let bench = Bench::new(1)?;
        let (a, b) = (bench.space(1)?, bench.space(2)?);

        assert_eq!(bench.get(&a), Ok(0));
        assert_eq!(bench.get(&a), Ok(0));
        assert!(bench.gpu.did(&[Did::Clear(0), Did::Enable(0, 1)]));
        assert!(bench.manager.has_jobs(&a));
        bench.manager.put(&a);
        assert_eq!(bench.get(&b), Err(EBUSY));
        bench.manager.put(&a);
        assert!(!bench.manager.has_jobs(&a));
        assert_eq!(bench.get(&b), Ok(0));

        bench.gpu.halted.set(true);
        assert_eq!(bench.get(&b), Err(ENODEV));
        Ok(())
    }

    #[test]
    fn flushes_are_as_thorough_as_needed() -> Result {
        let bench = Bench::new(1)?;
        let gpu = &bench.gpu;
        let a = bench.space(1)?;

        // Without an AS.
        assert_eq!(bench.flush(&a, Change::Unmapped), Ok(()));
        assert_eq!(bench.exclude(&a), (Ok(()), true));
        assert!(gpu.did(&[]));

        bench.get(&a)?;
        assert!(gpu.did(&[Did::Clear(0), Did::Enable(0, 1)]));
        assert_eq!(bench.flush(&a, Change::Mapped), Ok(()));
        assert!(gpu.did(&[Did::Flush(0, Flush::Translations)]));
        assert_eq!(bench.flush(&a, Change::Unmapped), Ok(()));
        assert!(gpu.did(&[Did::Flush(0, Flush::Accesses)]));
        assert_eq!(bench.exclude(&a), (Ok(()), true));
        assert!(gpu.did(&[Did::Exclude(0, Flush::Accesses)]));

        // The end of a job waits for its accesses on most hardware.
        bench.manager.put(&a);
        assert_eq!(bench.flush(&a, Change::Unmapped), Ok(()));
        assert!(gpu.did(&[Did::Flush(0, Flush::Translations)]));
        gpu.leaves_accesses.set(true);
        assert_eq!(bench.flush(&a, Change::Unmapped), Ok(()));
        assert_eq!(bench.flush(&a, Change::Mapped), Ok(()));
        assert!(gpu.did(&[
            Did::Flush(0, Flush::Accesses),
            Did::Flush(0, Flush::Translations),
        ]));

        // A GPU that is gone needs no flush, nor does one that has stopped.
        gpu.result.set(Err(ENODEV));
        assert_eq!(bench.flush(&a, Change::Unmapped), Ok(()));
        gpu.stopped.set(true);
        assert!(gpu.did(&[Did::Flush(0, Flush::Accesses)]));
        assert_eq!(bench.flush(&a, Change::Unmapped), Ok(()));
        assert_eq!(bench.release(&a), Ok(()));
        assert!(gpu.did(&[Did::Clear(0)]));
        Ok(())
    }

    #[test]
    fn an_idle_space_rests() -> Result {
        let bench = Bench::new(1)?;
        let (gpu, manager) = (&bench.gpu, &bench.manager);
        let a = bench.space(1)?;

        // While it has a job, its AS stays on.
        bench.get(&a)?;
        gpu.did(&[]);
        assert_eq!(bench.rest(&a), Ok(()));
        assert!(gpu.did(&[Did::Flush(0, Flush::Accesses)]));
        manager.put(&a);
        assert_eq!(bench.rest(&a), Ok(()));
        assert!(gpu.did(&[Did::Disable(0)]));
        // One command is enough for any number of ranges.
        assert_eq!(bench.rest(&a), Ok(()));
        assert_eq!(bench.flush(&a, Change::Unmapped), Ok(()));
        assert!(gpu.did(&[]));

        bench.run(&a)?;
        assert!(gpu.did(&[Did::Clear(0), Did::Enable(0, 1)]));
        // The second mapping that is removed turns it off.
        for _ in 0..3 {
            assert_eq!(manager.flush_closed(gpu, &a, &RANGE), Ok(()));
        }
        assert!(gpu.did(&[Did::Flush(0, Flush::Translations), Did::Disable(0)]));
        // There is nothing left to turn off.
        assert_eq!(bench.release(&a), Ok(()));
        assert!(gpu.did(&[Did::Clear(0)]));
        Ok(())
    }

    #[test]
    fn a_stuck_mmu_gets_no_command_until_a_reset() -> Result {
        let bench = Bench::new(1)?;
        let (gpu, manager) = (&bench.gpu, &bench.manager);
        let (a, b) = (bench.space(1)?, bench.space(2)?);

        bench.run(&a)?;
        gpu.result.set(Err(ETIMEDOUT));
        gpu.did(&[]);
        assert_eq!(bench.flush(&a, Change::Unmapped), Err(ETIMEDOUT));
        assert!(gpu.did(&[Did::Flush(0, Flush::Translations)]));

        gpu.result.set(Ok(()));
        // Added pages are found after the reset, but removed ones may still be used.
        assert_eq!(bench.flush(&a, Change::Mapped), Ok(()));
        assert_eq!(bench.flush(&a, Change::Unmapped), Err(ETIMEDOUT));
        assert_eq!(bench.rest(&a), Err(ETIMEDOUT));
        assert_eq!(bench.exclude(&a), (Err(EBUSY), false));
        assert_eq!(bench.get(&a), Err(ETIMEDOUT));
        // No end of a job would free the AS.
        assert_eq!(bench.get(&b), Err(ETIMEDOUT));
        assert!(gpu.did(&[]));

        manager.forget_all();
        assert_eq!(bench.flush(&a, Change::Unmapped), Ok(()));
        assert!(gpu.did(&[]));
        assert_eq!(bench.run(&a), Ok(0));
        assert!(gpu.did(&[Did::Clear(0), Did::Enable(0, 1)]));

        gpu.result.set(Err(ETIMEDOUT));
        assert_eq!(bench.release(&a), Err(ETIMEDOUT));
        assert!(gpu.did(&[Did::Disable(0), Did::Clear(0)]));
        Ok(())
    }

    #[test]
    fn a_space_that_may_still_be_walked_is_kept() -> Result {
        let bench = Bench::new(1)?;
        let (gpu, manager) = (&bench.gpu, &bench.manager);
        let (a, b) = (bench.space(1)?, bench.space(2)?);

        bench.run(&a)?;
        gpu.result.set(Err(ETIMEDOUT));
        assert_eq!(bench.get(&b), Err(ETIMEDOUT));
        drop(a);
        manager.drop_orphans();
        assert_eq!(bench.gone(), 0);
        manager.forget_all();
        assert_eq!(bench.gone(), 0);
        manager.drop_orphans();
        assert_eq!(bench.gone(), 1);

        // The AS is not used by a job.
        gpu.result.set(Ok(()));
        gpu.did(&[]);
        assert!(!manager.has_jobs(&b));
        assert_eq!(bench.run(&b), Ok(0));
        assert!(gpu.did(&[Did::Clear(0), Did::Enable(0, 2)]));
        Ok(())
    }

    #[test]
    fn a_reset_makes_the_hardware_forget() -> Result {
        let bench = Bench::new(1)?;
        let (gpu, manager) = (&bench.gpu, &bench.manager);
        let (a, b) = (bench.space(1)?, bench.space(2)?);

        bench.get(&a)?;
        assert_eq!(manager.reset(|| Ok(())), Ok(()));
        gpu.did(&[]);
        assert_eq!(bench.flush(&a, Change::Unmapped), Ok(()));
        assert!(gpu.did(&[]));
        // The job that was in the hardware still counts.
        assert_eq!(bench.get(&b), Err(EBUSY));
        manager.put(&a);
        assert_eq!(bench.run(&b), Ok(0));

        // A reset that is not over takes no command either.
        gpu.did(&[]);
        assert_eq!(manager.reset(|| Err(ETIMEDOUT)), Err(ETIMEDOUT));
        assert_eq!(bench.flush(&b, Change::Unmapped), Err(ETIMEDOUT));
        assert!(gpu.did(&[]));
        manager.forget_all();
        assert_eq!(bench.flush(&b, Change::Unmapped), Ok(()));
        assert!(gpu.did(&[]));
        Ok(())
    }

    #[test]
    fn an_abandoned_gpu_is_left_alone() -> Result {
        let bench = Bench::new(1)?;
        let (gpu, manager) = (&bench.gpu, &bench.manager);
        let a = bench.space(1)?;

        bench.run(&a)?;
        manager.abandon();
        gpu.did(&[]);
        assert!(manager.is_abandoned());
        assert_eq!(bench.flush(&a, Change::Mapped), Err(EIO));
        assert_eq!(bench.flush(&a, Change::Unmapped), Err(EIO));
        assert_eq!(bench.rest(&a), Err(EIO));
        assert_eq!(manager.flush_closed(gpu, &a, &RANGE), Err(EIO));
        assert_eq!(bench.exclude(&a), (Err(EIO), false));
        assert_eq!(bench.release(&a), Err(EIO));
        assert!(gpu.did(&[]));

        // After unbind, its memory stays until it was stopped after all.
        manager.forget(&a);
        manager.keep_space(a, manager.orphans.take());
        manager.settle();
        assert_eq!(bench.gone(), 0);
        manager.unabandon();
        manager.settle();
        assert_eq!(bench.gone(), 1);
        assert!(gpu.did(&[]));
        Ok(())
    }

    #[test]
    fn a_fault_turns_the_as_off() -> Result {
        let bench = Bench::new(0b11)?;
        let (gpu, manager) = (&bench.gpu, &bench.manager);
        let tiler = QueueSlot::new(1).ok_or(EINVAL)?;
        let (a, b) = (bench.space(1)?, bench.space(2)?);

        // In an AS that is free.
        gpu.faults.set(0b11);
        assert!(manager.take_fault(gpu, 0).is_none());
        assert_eq!(gpu.faults.get(), 0b10);
        bench.get(&a)?;
        // The fault of another owner is forgotten.
        bench.get(&b)?;
        assert!(manager.take_fault(gpu, 1).is_none());
        gpu.faults.set(0b10);
        b.jobs.enter(tiler);
        gpu.did(&[]);
        assert!(manager.take_fault(gpu, 0).is_none());
        let taken = manager.take_fault(gpu, 1).ok_or(EINVAL)?;
        assert!(taken.fault.0 == 1 && taken.space.number == 2);

        assert!(manager.fail_at(gpu, 1, &taken) == Some(Ok(())));
        assert!(gpu.did(&[Did::Disable(1)]));
        assert_eq!(manager.faulty(), 0b10);
        manager.unmask(gpu);
        assert!(gpu.did(&[Did::Unmask(0b10)]));
        // The jobs that the fault ends have to leave first.
        assert_eq!(bench.get(&b), Err(EAGAIN));
        // They may have accesses under way.
        assert_eq!(bench.flush(&b, Change::Unmapped), Ok(()));
        assert_eq!(bench.exclude(&b), (Ok(()), true));
        assert!(gpu.did(&[
            Did::Flush(1, Flush::Accesses),
            Did::Exclude(1, Flush::Accesses),
        ]));
        assert_eq!(bench.flush(&b, Change::Mapped), Ok(()));
        manager.put(&b);
        assert_eq!(bench.flush(&b, Change::Unmapped), Ok(()));
        assert!(gpu.did(&[]));
        assert_eq!(bench.run(&b), Ok(1));
        assert!(gpu.did(&[Did::Clear(1), Did::Enable(1, 2), Did::Unmask(0)]));

        // The job that has faulted has gone.
        gpu.faults.set(0b10);
        let taken = manager.take_fault(gpu, 1).ok_or(EINVAL)?;
        b.jobs.leave(tiler);
        assert!(manager.fail_at(gpu, 1, &taken).is_none());
        assert!(gpu.did(&[]));
        Ok(())
    }

    #[test]
    fn a_faulty_as_is_given_to_another_space() -> Result {
        let bench = Bench::new(1)?;
        let (gpu, manager) = (&bench.gpu, &bench.manager);
        let (a, b) = (bench.space(1)?, bench.space(2)?);

        for space in [&a, &b] {
            bench.run(space)?;
            gpu.faults.set(1);
            let taken = manager.take_fault(gpu, 0).ok_or(EINVAL)?;
            gpu.did(&[]);
            assert!(manager.fail_at(gpu, 0, &taken) == Some(Ok(())));
            assert!(gpu.did(&[Did::Disable(0)]));
        }
        assert_eq!(bench.run(&a), Ok(0));
        assert!(gpu.did(&[Did::Clear(0), Did::Enable(0, 1), Did::Unmask(0)]));

        // A stuck MMU takes no command, and its jobs end with the reset.
        gpu.faults.set(1);
        let taken = manager.take_fault(gpu, 0).ok_or(EINVAL)?;
        gpu.result.set(Err(ETIMEDOUT));
        assert!(manager.fail_at(gpu, 0, &taken) == Some(Err(ETIMEDOUT)));
        assert!(gpu.did(&[Did::Disable(0)]));
        assert!(manager.fail_at(gpu, 0, &taken) == Some(Ok(())));
        assert!(gpu.did(&[]));
        gpu.result.set(Ok(()));
        assert_eq!(bench.release(&a), Err(ETIMEDOUT));
        assert!(gpu.did(&[Did::Clear(0), Did::Unmask(0)]));
        Ok(())
    }
}
