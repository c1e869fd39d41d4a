// SPDX-License-Identifier: GPL-2.0

//! Record of which jobs of an address space are in the hardware.
//!
//! A fault reports an address and an address space, but not the job that made the access. It can
//! come from the same job as an earlier fault only if some job has stayed in its slot in between,
//! which this record shows.
//!
//! No lock of its own: the record is changed with the spinlock of the job queue held, and may be
//! read in any context.

use kernel::{
    drm::job_queue::QueueSlot,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

use crate::hw::MAX_SLOTS;

/// Counts of the jobs in one job slot. Both wrap.
struct Counts {
    /// Number of jobs given to the slot, without those taken back before they began.
    entered: Atomic<u32>,
    /// Number of those jobs that have left the slot.
    left: Atomic<u32>,
}

/// The jobs of an address space that are in the hardware.
///
/// Changed with the job queue locked. May be read at any time.
pub(crate) struct Occupants([Counts; MAX_SLOTS]);

/// The jobs that were running at some moment: for each job slot, the number of the job that ran in
/// it, counted by departures from the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunningJobs(pub(crate) [Option<u32>; MAX_SLOTS]);

impl Occupants {
    /// Creates a record without jobs.
    pub(super) fn new() -> Self {
        Self(
            [const {
                Counts {
                    entered: Atomic::new(0),
                    left: Atomic::new(0),
                }
            }; MAX_SLOTS],
        )
    }

    fn of(&self, slot: QueueSlot) -> Option<&Counts> {
        self.0.get(slot.index())
    }

    /// Records that a job is about to be given to the hardware.
    pub(crate) fn enter(&self, slot: QueueSlot) {
        if let Some(counts) = self.of(slot) {
            counts.entered.add(1, Relaxed);
        }
    }

    /// Undoes [`Self::enter`] for a job that the hardware did not take, or that was taken back
    /// before it began.
    pub(crate) fn take_back(&self, slot: QueueSlot) {
        if let Some(counts) = self.of(slot) {
            let entered = counts.entered.load(Relaxed);

            counts.entered.store(entered.wrapping_sub(1), Relaxed);
        }
    }

    /// Records that the running job of a slot has left the hardware.
    pub(crate) fn leave(&self, slot: QueueSlot) {
        if let Some(counts) = self.of(slot) {
            counts.left.add(1, Relaxed);
        }
    }

    /// Returns the jobs that are running now.
    pub(crate) fn running(&self) -> RunningJobs {
        RunningJobs(self.0.each_ref().map(|counts| {
            let left = counts.left.load(Relaxed);

            (counts.entered.load(Relaxed) != left).then_some(left)
        }))
    }
}

impl RunningJobs {
    /// Largest number of jobs that run at the same time.
    pub(crate) const MAX: usize = MAX_SLOTS;

    /// Returns whether one of the jobs in `earlier` is still running.
    pub(crate) fn has_one_of(&self, earlier: &RunningJobs) -> bool {
        let mut slots = self.0.iter().zip(&earlier.0);

        slots.any(|(now, then)| now.is_some() && now == then)
    }
}

#[kunit_tests(drm_gpu_mmu_occupants)]
mod tests {
    use super::*;

    fn slots() -> Result<(QueueSlot, QueueSlot)> {
        let slot = |index| QueueSlot::new(index).ok_or(EINVAL);

        Ok((slot(0)?, slot(1)?))
    }

    #[test]
    fn a_job_that_stays_is_still_there() -> Result {
        let (fragment, tiler) = slots()?;
        let jobs = Occupants::new();

        assert!(!jobs.running().has_one_of(&jobs.running()));
        jobs.enter(tiler);
        let alone = jobs.running();
        assert!(jobs.running().has_one_of(&alone));

        // Other jobs come and go.
        jobs.enter(fragment);
        jobs.enter(tiler);
        jobs.leave(fragment);
        jobs.take_back(tiler);
        assert!(jobs.running().has_one_of(&alone));
        Ok(())
    }

    #[test]
    fn the_next_job_is_another_one() -> Result {
        let (_, tiler) = slots()?;
        let jobs = Occupants::new();

        jobs.enter(tiler);
        jobs.enter(tiler);
        let first = jobs.running();
        jobs.leave(tiler);
        let next = jobs.running();
        assert!(!next.has_one_of(&first));
        jobs.leave(tiler);
        assert!(!jobs.running().has_one_of(&next));
        assert_eq!(jobs.running(), RunningJobs::default());
        Ok(())
    }
}
