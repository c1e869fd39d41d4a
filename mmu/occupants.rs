// SPDX-License-Identifier: GPL-2.0

//! Which jobs of an address space are in the hardware.
//!
//! A fault tells an address and an address space, but not which job has made the access. Whether it can be
//! the same as that of an earlier fault is told by whether a job has stayed in its slot in between.

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

use crate::hw::mali::job::{
    Slot,
    SLOTS, //
};

/// Jobs of one job slot; both wrap.
struct Counts {
    /// How many were given to it, and not taken back before they began.
    entered: Atomic<u32>,
    /// How many of these have left it.
    left: Atomic<u32>,
}

/// The jobs of an address space that are in the hardware.
///
/// Whoever changes it has locked the job queue; others may look on at any time.
pub(crate) struct Occupants([Counts; SLOTS]);

/// The jobs that were in the hardware at some moment: by slot, the number of the one that ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen(pub(crate) [Option<u32>; SLOTS]);

impl Occupants {
    /// None.
    pub(super) fn new() -> Self {
        Self(
            [const {
                Counts {
                    entered: Atomic::new(0),
                    left: Atomic::new(0),
                }
            }; SLOTS],
        )
    }

    fn of(&self, slot: Slot) -> Option<&Counts> {
        self.0.get(slot.index())
    }

    /// A job is about to be given to the hardware.
    pub(crate) fn enter(&self, slot: Slot) {
        if let Some(counts) = self.of(slot) {
            counts.entered.add(1, Relaxed);
        }
    }

    /// A job was not taken by the hardware, or taken back before it had begun.
    pub(crate) fn take_back(&self, slot: Slot) {
        if let Some(counts) = self.of(slot) {
            let entered = counts.entered.load(Relaxed);

            counts.entered.store(entered.wrapping_sub(1), Relaxed);
        }
    }

    /// The job that ran has left the hardware.
    pub(crate) fn leave(&self, slot: Slot) {
        if let Some(counts) = self.of(slot) {
            counts.left.add(1, Relaxed);
        }
    }

    /// The jobs that run now.
    pub(crate) fn seen(&self) -> Seen {
        Seen(self.0.each_ref().map(|counts| {
            let left = counts.left.load(Relaxed);

            (counts.entered.load(Relaxed) != left).then_some(left)
        }))
    }
}

impl Seen {
    /// Whether a job that ran earlier is still there.
    pub(crate) fn has_one_of(&self, earlier: &Seen) -> bool {
        let mut slots = self.0.iter().zip(&earlier.0);

        slots.any(|(now, then)| now.is_some() && now == then)
    }
}

#[kunit_tests(drm_gpu_mmu_occupants)]
mod tests {
    use super::*;

    #[test]
    fn who_stays_is_still_there() {
        let jobs = Occupants::new();

        assert!(!jobs.seen().has_one_of(&jobs.seen()));
        jobs.enter(Slot::Tiler);
        let alone = jobs.seen();
        assert!(jobs.seen().has_one_of(&alone));

        // Others come and go.
        jobs.enter(Slot::Fragment);
        jobs.enter(Slot::Tiler);
        jobs.leave(Slot::Fragment);
        jobs.take_back(Slot::Tiler);
        assert!(jobs.seen().has_one_of(&alone));
    }

    #[test]
    fn who_comes_next_is_another_one() {
        let jobs = Occupants::new();

        jobs.enter(Slot::Tiler);
        jobs.enter(Slot::Tiler);
        let first = jobs.seen();
        jobs.leave(Slot::Tiler);
        let next = jobs.seen();
        assert!(!next.has_one_of(&first));
        jobs.leave(Slot::Tiler);
        assert!(!jobs.seen().has_one_of(&next));
        assert_eq!(jobs.seen(), Seen::default());
    }
}
