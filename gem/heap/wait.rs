// SPDX-License-Identifier: GPL-2.0

//! The rules for which job waits for memory, and for how long. Nothing here touches memory or
//! hardware.
//!
//! A fault reports an address and an address space, but not the job that made the access. It is
//! attributed to the job of an earlier fault if it is for the same chunk, and if a job of the
//! address space has stayed in the hardware since. If none has, the job that waited has left, and
//! the new fault gets the full time.

use kernel::prelude::*;

use crate::mmu;

/// A job that waits for a chunk of a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// The faulting address.
    pub(super) va: u64,
    /// The number of the chunk that contains the address.
    pub(super) index: usize,
    /// The jobs of the address space that ran at the time of the fault.
    pub(super) jobs: mmu::RunningJobs,
    /// When the job began to wait, in milliseconds.
    pub(super) since: u64,
}

impl Wait {
    /// Returns whether the job of this fault can be that of an `earlier` one.
    fn is_still(&self, earlier: &Wait) -> bool {
        self.index == earlier.index && self.jobs.has_one_of(&earlier.jobs)
    }
}

/// The result of [`Waits::expire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// No job waits.
    Nobody,
    /// All jobs have time left; the first one has waited since the given time.
    NotYet(u64),
    /// There was no memory in time for an access to this address, which has to be retried. Other
    /// jobs may have expired as well.
    GivenUp(u64),
}

/// One entry for each job that can run at a time.
type Entries = [Option<Wait>; mmu::RunningJobs::MAX];

/// The jobs that wait for memory of a heap, with one entry for each chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    now: Entries,
    /// Jobs that got no memory in time: their next fault fails instead of waiting.
    given_up: Entries,
}

/// Stores an entry where there is none, or replaces the oldest one, whose job has most likely left.
fn put(entries: &mut Entries, wait: Wait) {
    let target = entries
        .iter_mut()
        .min_by_key(|entry| entry.map(|old| old.since));

    if let Some(target) = target {
        *target = Some(wait);
    }
}

impl Waits {
    /// Returns the entry that has waited for the longest time.
    pub(super) fn first(&self) -> Option<&Wait> {
        self.now.iter().flatten().min_by_key(|wait| wait.since)
    }

    /// Notes that there is no memory for a fault. Returns whether its job waits. A job that already
    /// waited for this chunk keeps its earlier start; one that was given up does not wait again.
    pub(super) fn begin(&mut self, wait: Wait) -> bool {
        // Entries of other jobs stay, as their faults may still come.
        for entry in &mut self.given_up {
            if entry.take_if(|old| wait.is_still(old)).is_some() {
                return false;
            }
        }

        let mut since = wait.since;
        for entry in &mut self.now {
            let old = entry.take_if(|old| {
                // Either its job has left, or `wait` replaces the entry.
                !wait.jobs.has_one_of(&old.jobs) || old.index == wait.index
            });
            if let Some(old) = old.filter(|old| wait.is_still(old)) {
                since = old.since;
            }
        }
        put(&mut self.now, Wait { since, ..wait });
        true
    }

    /// Ends the waits for a chunk, which is present. Jobs that wait for other chunks continue to
    /// wait.
    pub(super) fn end_for(&mut self, index: usize) {
        for entry in Iterator::chain(self.now.iter_mut(), &mut self.given_up) {
            entry.take_if(|wait| wait.index == index);
        }
    }

    /// Ends all waits. Returns the addresses whose accesses were stalled.
    pub(super) fn end(&mut self) -> impl Iterator<Item = u64> {
        let all = core::mem::take(self).now;

        all.into_iter().flatten().map(|wait| wait.va)
    }

    /// Gives up on the longest-waiting job, if it has waited for `limit` milliseconds.
    pub(super) fn expire(&mut self, now: u64, limit: u64) -> Expired {
        let Some(&wait) = self.first() else {
            return Expired::Nobody;
        };

        if now.saturating_sub(wait.since) < limit {
            return Expired::NotYet(wait.since);
        }
        for entry in &mut self.now {
            entry.take_if(|old| *old == wait);
        }
        put(&mut self.given_up, wait);
        Expired::GivenUp(wait.va)
    }
}

/// Returns the longest-waiting item: the one with the earliest start. Items without a start do not
/// wait.
pub(super) fn first<T>(waiting: impl Iterator<Item = (T, Option<u64>)>) -> Option<T> {
    waiting
        .filter_map(|(who, since)| Some((who, since?)))
        .min_by_key(|(_, since)| *since)
        .map(|(who, _)| who)
}

#[kunit_tests(drm_gpu_heap_wait)]
mod tests {
    use super::*;

    const LIMIT: u64 = 375;

    fn wait(index: usize, job: u32, since: u64) -> Wait {
        Wait {
            va: index as u64 * 0x20_0000,
            index,
            jobs: mmu::RunningJobs([None, Some(job), None]),
            since,
        }
    }

    /// Returns when the job of a fault began to wait, if it waits.
    fn since(waits: &mut Waits, wait: Wait) -> Option<u64> {
        let index = wait.index;

        waits.begin(wait).then_some(())?;
        waits
            .now
            .iter()
            .flatten()
            .find(|wait| wait.index == index)
            .map(|wait| wait.since)
    }

    #[test]
    fn two_slots_wait_in_one_heap() {
        let mut waits = Waits::default();
        let both = |index, since| Wait {
            jobs: mmu::RunningJobs([Some(1), Some(7), None]),
            ..wait(index, 7, since)
        };

        assert_eq!(since(&mut waits, both(3, 1000)), Some(1000));
        assert_eq!(since(&mut waits, both(5, 1200)), Some(1200));
        // Retried because of a mapping for another job.
        assert_eq!(since(&mut waits, both(3, 1300)), Some(1000));
        assert_eq!(since(&mut waits, both(5, 1301)), Some(1200));
        assert_eq!(waits.first(), Some(&both(3, 1000)));

        // The first job is served, the second one has its own deadline.
        waits.end_for(3);
        assert_eq!(waits.expire(1500, LIMIT), Expired::NotYet(1200));
        assert_eq!(waits.expire(1575, LIMIT), Expired::GivenUp(5 * 0x20_0000));
        assert_eq!(waits.expire(1575, LIMIT), Expired::Nobody);
    }

    #[test]
    fn both_are_given_up_in_turn() {
        let mut waits = Waits::default();
        let both = |index, since| Wait {
            jobs: mmu::RunningJobs([Some(1), Some(7), None]),
            ..wait(index, 7, since)
        };

        assert_eq!(since(&mut waits, both(3, 1000)), Some(1000));
        assert_eq!(since(&mut waits, both(5, 1001)), Some(1001));
        assert_eq!(waits.expire(2000, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        assert_eq!(waits.expire(2000, LIMIT), Expired::GivenUp(5 * 0x20_0000));
        assert_eq!(waits.expire(2000, LIMIT), Expired::Nobody);
        assert_eq!(since(&mut waits, both(5, 2001)), None);
        assert_eq!(since(&mut waits, both(3, 2001)), None);
        assert_eq!(waits, Waits::default());
    }

    #[test]
    fn a_retried_access_goes_on_waiting() {
        let mut waits = Waits::default();

        assert_eq!(since(&mut waits, wait(3, 7, 1000)), Some(1000));
        assert_eq!(since(&mut waits, wait(3, 7, 1300)), Some(1000));
        assert_eq!(waits.expire(1374, LIMIT), Expired::NotYet(1000));
        assert_eq!(waits.expire(1375, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        assert_eq!(since(&mut waits, wait(3, 7, 1376)), None);
        // A job is given up only once.
        assert_eq!(waits, Waits::default());
    }

    #[test]
    fn the_next_job_has_its_own_time() {
        let mut waits = Waits::default();

        // The first job has ended by itself.
        assert_eq!(since(&mut waits, wait(3, 7, 1000)), Some(1000));
        assert_eq!(since(&mut waits, wait(3, 8, 1300)), Some(1300));
        assert_eq!(waits.expire(1375, LIMIT), Expired::NotYet(1300));
    }

    #[test]
    fn the_next_job_is_not_given_up() {
        let mut waits = Waits::default();

        assert_eq!(since(&mut waits, wait(3, 7, 1000)), Some(1000));
        assert_eq!(waits.expire(2000, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        assert_eq!(since(&mut waits, wait(3, 8, 2001)), Some(2001));
    }

    #[test]
    fn jobs_of_other_slots_change_nothing() {
        let mut waits = Waits::default();
        let beside = |fragment, since| Wait {
            jobs: mmu::RunningJobs([fragment, Some(7), None]),
            ..wait(3, 7, since)
        };

        assert_eq!(since(&mut waits, beside(Some(1), 1000)), Some(1000));
        assert_eq!(since(&mut waits, beside(None, 1100)), Some(1000));
        assert_eq!(waits.expire(1375, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        // A fault for another chunk comes first.
        assert_eq!(since(&mut waits, wait(4, 7, 1376)), Some(1376));
        assert_eq!(since(&mut waits, beside(Some(2), 1377)), None);
    }

    #[test]
    fn memory_ends_the_wait_for_it() {
        let mut waits = Waits::default();

        assert_eq!(since(&mut waits, wait(3, 7, 1000)), Some(1000));
        waits.end_for(4);
        assert_eq!(waits.first(), Some(&wait(3, 7, 1000)));
        waits.end_for(3);
        assert_eq!(waits.first(), None);
        assert_eq!(waits.expire(5000, LIMIT), Expired::Nobody);

        assert_eq!(since(&mut waits, wait(3, 7, 6000)), Some(6000));
        assert_eq!(waits.expire(7000, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        // There was memory after all.
        waits.end_for(3);
        assert_eq!(since(&mut waits, wait(3, 7, 7001)), Some(7001));
    }

    #[test]
    fn nothing_is_left_in_the_end() {
        let mut waits = Waits::default();

        assert_eq!(since(&mut waits, wait(3, 7, 1000)), Some(1000));
        assert!(waits.end().eq([3 * 0x20_0000]));
        assert_eq!(since(&mut waits, wait(3, 7, 2000)), Some(2000));
        assert_eq!(waits.expire(3000, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        assert_eq!(waits.end().count(), 0);
        assert_eq!(since(&mut waits, wait(3, 7, 3001)), Some(3001));
    }

    #[test]
    fn first_come_first_served() {
        let all = [
            ("a", Some(30)),
            ("b", None),
            ("c", Some(10)),
            ("d", Some(20)),
        ];

        assert_eq!(first(all.into_iter()), Some("c"));
        assert_eq!(first([("a", None)].into_iter()), None);
    }
}
