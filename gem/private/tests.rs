// SPDX-License-Identifier: GPL-2.0

//! Tests of the use of private BOs, without BOs.

use core::ptr;

use kernel::dma_buf::fence::{
    ArmedFence,
    FenceAlloc,
    FenceContext, //
};

use super::*;

#[kunit_tests(drm_gpu_private)]
mod suite {
    use super::*;

    fn new_lock() -> Result<Pin<KBox<SpinLock<Uses>>>> {
        KBox::pin_init(Uses::new(), GFP_KERNEL)
    }

    fn new_timeline() -> FenceContext {
        FenceContext::new(c"kunit", c"private")
    }

    /// Stands for the locks of an address space, which no other task uses here.
    struct OwnVm;

    impl VmLocked for OwnVm {}

    /// Looks at `bos`, the shared ones of which are locked.
    fn look_at(lock: &SpinLock<Uses>, bos: &[&LastUse]) -> Result<Before> {
        look(lock, &OwnVm, bos.iter().copied(), SharedResvs::Locked)?.ok_or(EINVAL)
    }

    /// Publishes a job.
    fn submit(
        lock: &SpinLock<Uses>,
        timeline: &FenceContext,
        bos: &[&LastUse],
    ) -> Result<ArmedFence> {
        let prepared = look_at(lock, bos)?.prepare()?;
        let armed = FenceAlloc::new(GFP_KERNEL)?.arm(timeline);

        prepared.publish(lock, &OwnVm, armed.fence(), bos.iter().copied());
        Ok(armed)
    }

    /// Returns whether the next job that lists `bos` waits for `jobs`, and for no others.
    fn waits_for(lock: &SpinLock<Uses>, bos: &[&LastUse], jobs: &[&ArmedFence]) -> Result<bool> {
        let before = look_at(lock, bos)?;
        let has = |job: &ArmedFence| before.fences().any(|fence| ptr::eq(&**fence, job.fence()));

        Ok(before.fences().count() == jobs.len() && jobs.iter().all(|&job| has(job)))
    }

    #[test]
    fn a_job_waits_for_the_last_one() -> Result {
        let lock = new_lock()?;
        let (bo, other) = (LastUse::new(&lock, false), LastUse::new(&lock, false));

        assert!(waits_for(&lock, &[&bo], &[])?);
        assert!(!bo.is_busy(&lock));

        let job = submit(&lock, &new_timeline(), &[&bo])?;
        assert!(waits_for(&lock, &[&other, &bo], &[&job])?);
        assert!(waits_for(&lock, &[&other], &[])?);
        assert!(bo.is_busy(&lock));
        assert!(bo
            .pending(&lock)
            .is_some_and(|fence| ptr::eq(&*fence, job.fence())));
        let users = bo.users(&lock).ok_or(EINVAL)?;
        assert_eq!(users.wait(0)?, Waited::TimedOut);

        job.signal(Ok(()));
        assert!(waits_for(&lock, &[&bo, &other], &[])?);
        assert!(!bo.is_busy(&lock));
        assert!(bo.pending(&lock).is_none());
        assert!(users.wait(0)?.is_signaled());
        Ok(())
    }

    #[test]
    fn a_cancelled_job_leaves_those_before_it() -> Result {
        let lock = new_lock()?;
        let bo = LastUse::new(&lock, false);
        let a = submit(&lock, &new_timeline(), &[&bo])?;
        let b = submit(&lock, &new_timeline(), &[&bo])?;

        // Were this not so, a job that is submitted now and waits for `b` alone would begin with
        // the end of `b`.
        assert!(waits_for(&lock, &[&bo], &[&a, &b])?);
        let c = submit(&lock, &new_timeline(), &[&bo])?;

        b.signal(Err(ECANCELED));
        assert!(waits_for(&lock, &[&bo], &[&a, &c])?);
        c.signal(Err(ECANCELED));
        assert!(waits_for(&lock, &[&bo], &[&a])?);
        assert!(bo.is_busy(&lock));
        assert_eq!(bo.users(&lock).ok_or(EINVAL)?.wait(0)?, Waited::TimedOut);

        a.signal(Ok(()));
        assert!(waits_for(&lock, &[&bo], &[])?);
        assert!(!bo.is_busy(&lock));
        Ok(())
    }

    #[test]
    fn a_cancelled_job_leaves_other_bos_idle() -> Result {
        let lock = new_lock()?;
        let bos = [(); 3].map(|()| LastUse::new(&lock, false));
        let [first, second, fresh] = &bos;
        let a = submit(&lock, &new_timeline(), &[first])?;
        let b = submit(&lock, &new_timeline(), &[second])?;
        let c = submit(&lock, &new_timeline(), &[first, fresh, second])?;

        c.signal(Err(ECANCELED));
        assert!(waits_for(&lock, &[first], &[&a])?);
        assert!(waits_for(&lock, &[second], &[&b])?);
        assert!(first.is_busy(&lock) && second.is_busy(&lock));
        assert!(!fresh.is_busy(&lock));

        let d = submit(&lock, &new_timeline(), &[fresh, first, second])?;
        b.signal(Ok(()));
        d.signal(Err(ECANCELED));
        assert!(first.is_busy(&lock));
        assert!(!second.is_busy(&lock) && !fresh.is_busy(&lock));
        a.signal(Ok(()));
        assert!(!first.is_busy(&lock));
        Ok(())
    }

    #[test]
    fn only_bos_with_earlier_jobs_keep_a_record() -> Result {
        let lock = new_lock()?;
        let bos = [(); 2].map(|()| LastUse::new(&lock, false));
        let [used, fresh] = &bos;
        let has_record =
            |bo: &LastUse| Ok::<_, Error>(bo.users(&lock).ok_or(EINVAL)?.record.is_some());

        let first = submit(&lock, &new_timeline(), &[used])?;
        assert!(!has_record(used)?);
        let second = submit(&lock, &new_timeline(), &[used, fresh])?;
        assert!(has_record(used)?);
        assert!(!has_record(fresh)?);

        first.signal(Ok(()));
        second.signal(Ok(()));
        let third = submit(&lock, &new_timeline(), &[used, fresh])?;
        assert!(!has_record(used)? && !has_record(fresh)?);
        assert!(waits_for(&lock, &[used, fresh], &[&third])?);
        Ok(())
    }

    #[test]
    fn the_last_job_has_a_number() -> Result {
        let lock = new_lock()?;
        let bos = [(); 3].map(|()| LastUse::new(&lock, false));
        let [first, second, unused] = &bos;

        assert!(first.unfinished_job(&lock).is_none());
        let a = submit(&lock, &new_timeline(), &[first, second])?;
        let number = first.unfinished_job(&lock).ok_or(EINVAL)?;
        assert!(first.is_last_job(number) && second.is_last_job(number));
        assert!(!unused.is_last_job(number));

        // An attempt that fails has a number, too, but does not use the BO.
        drop(look_at(&lock, &[second])?.prepare()?);
        assert!(second.is_last_job(number));

        let b = submit(&lock, &new_timeline(), &[second])?;
        assert!(first.is_last_job(number) && !second.is_last_job(number));

        // Cancelled, but the BO is still busy with the job before, which other BOs need not be.
        b.signal(Err(ECANCELED));
        assert!(second.unfinished_job(&lock).is_none() && second.is_busy(&lock));

        first.share(&lock, &mut OwnVm, |_, _| Ok(()))?;
        assert!(!first.is_last_job(number) && first.unfinished_job(&lock).is_none());
        a.signal(Ok(()));
        Ok(())
    }

    #[test]
    fn a_failed_attempt_changes_nothing() -> Result {
        let lock = new_lock()?;
        let bo = LastUse::new(&lock, false);
        let job = submit(&lock, &new_timeline(), &[&bo])?;

        drop(look_at(&lock, &[&bo])?.prepare()?);
        assert!(waits_for(&lock, &[&bo], &[&job])?);
        Ok(())
    }

    #[test]
    fn one_fence_for_each_timeline() -> Result {
        let lock = new_lock()?;
        let timeline = new_timeline();
        let bo = LastUse::new(&lock, false);

        let first = submit(&lock, &timeline, &[&bo])?;
        assert!(waits_for(&lock, &[&bo], &[&first])?);
        let second = submit(&lock, &timeline, &[&bo])?;
        assert!(waits_for(&lock, &[&bo], &[&second])?);
        let third = submit(&lock, &new_timeline(), &[&bo])?;
        assert!(waits_for(&lock, &[&bo], &[&second, &third])?);
        let fourth = submit(&lock, &timeline, &[&bo])?;
        assert!(waits_for(&lock, &[&bo], &[&third, &fourth])?);
        Ok(())
    }

    #[test]
    fn twice_is_an_error() -> Result {
        let lock = new_lock()?;
        let (bo, other) = (LastUse::new(&lock, false), LastUse::new(&lock, false));

        assert_eq!(
            submit(&lock, &new_timeline(), &[&bo, &other, &bo]).err(),
            Some(EALREADY)
        );
        // The look of the submission that has failed does not count for the next one.
        let job = submit(&lock, &new_timeline(), &[&bo, &other])?;
        assert!(waits_for(&lock, &[&bo], &[&job])?);
        Ok(())
    }

    #[test]
    fn sharing_moves_what_is_pending() -> Result {
        let lock = new_lock()?;
        let (bo, other) = (LastUse::new(&lock, false), LastUse::new(&lock, false));
        let a = submit(&lock, &new_timeline(), &[&bo])?;
        let b = submit(&lock, &new_timeline(), &[&bo, &other])?;
        let c = submit(&lock, &new_timeline(), &[&bo])?;
        let mut moved = KVec::new();

        b.signal(Err(ECANCELED));
        // Without room in its resv, the BO stays what it is.
        assert_eq!(bo.share(&lock, &mut OwnVm, |_, _| Err(ENOMEM)), Err(ENOMEM));
        assert!(bo.is_private());
        assert!(waits_for(&lock, &[&bo], &[&a, &c])?);

        bo.share(&lock, &mut OwnVm, |_, fence| {
            Ok(moved.push(ARef::from(fence), GFP_KERNEL)?)
        })?;
        assert!(!bo.is_private());
        assert_eq!(moved.len(), 2);
        for job in [&a, &c] {
            assert!(moved.iter().any(|fence| ptr::eq(&**fence, job.fence())));
        }

        for bos in [[&bo, &other], [&other, &bo]] {
            assert!(look(&lock, &OwnVm, bos.into_iter(), SharedResvs::Unlocked)?.is_none());
        }
        // From here on, jobs are none of our business.
        assert!(!bo.is_busy(&lock) && bo.users(&lock).is_none());
        let job = submit(&lock, &new_timeline(), &[&bo])?;
        assert!(waits_for(&lock, &[&bo], &[])?);
        assert!(waits_for(&lock, &[&bo, &other], &[])?);
        bo.share(&lock, &mut OwnVm, |_, _| Err(EINVAL))?;
        drop(job);
        Ok(())
    }

    #[test]
    fn any_number_of_bos_and_jobs() -> Result {
        const BOS: usize = 3 * BATCH + 1;

        let lock = new_lock()?;
        let timeline = new_timeline();
        let mut bos = KVec::new();
        let mut jobs = KVec::new();

        for _ in 0..BOS {
            bos.push(LastUse::new(&lock, false), GFP_KERNEL)?;
        }
        for bo in &bos {
            jobs.push(submit(&lock, &new_timeline(), &[bo])?, GFP_KERNEL)?;
        }
        let before = look(&lock, &OwnVm, bos.iter(), SharedResvs::Unlocked)?.ok_or(EINVAL)?;
        assert_eq!(before.fences().count(), BOS);

        // The job that lists all of them takes the place of the others.
        let armed = FenceAlloc::new(GFP_KERNEL)?.arm(&timeline);
        before
            .prepare()?
            .publish(&lock, &OwnVm, armed.fence(), bos.iter());
        for (index, bo) in bos.iter().enumerate() {
            let earlier = match index < GROUPS {
                true => 1,
                // Too many to tell them apart.
                false => BOS - GROUPS,
            };

            assert_eq!(look_at(&lock, &[bo])?.fences().count(), earlier + 1);
        }
        for job in jobs {
            job.signal(Ok(()));
        }
        assert!(waits_for(&lock, &[&bos[BOS - 1]], &[&armed])?);
        armed.signal(Ok(()));
        assert!(bos.iter().all(|bo| !bo.is_busy(&lock)));
        Ok(())
    }
}
