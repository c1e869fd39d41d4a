// SPDX-License-Identifier: GPL-2.0

//! Who waits for memory, and for how long: rules, without memory or hardware.
//!
//! A fault tells an address and an address space, but not which job has made the access. It is taken to be
//! the job of an earlier fault if it is for the same chunk, and a job of the address space has stayed in
//! the hardware in between. If none has, the one that waited has gone, and this one has all of its time
//! before it.

use kernel::prelude::*;

use crate::mmu;

/// A job that waits for a chunk of a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wait {
    /// The address that it has touched.
    pub(super) va: u64,
    /// The chunk around that, by number.
    pub(super) index: usize,
    /// The jobs of the address space that ran then.
    pub(super) jobs: mmu::Seen,
    /// Since when, in milliseconds.
    pub(super) since: u64,
}

impl Wait {
    /// Whether it is the same job that waits.
    fn is_still(&self, earlier: &Wait) -> bool {
        self.index == earlier.index && self.jobs.has_one_of(&earlier.jobs)
    }
}

/// What the deadline finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// Nobody waits.
    Nobody,
    /// There is time left for who waits since then.
    NotYet(u64),
    /// There was no memory in time for an access to this address.
    GivenUp(u64),
}

/// The job that waits for memory of a heap. If there are two, in two job slots, it is the last that was
/// heard of: what is mapped for that one has the other's access made again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    now: Option<Wait>,
    /// There was no memory for it in time: its next fault does not wait.
    given_up: Option<Wait>,
}

impl Waits {
    /// The one that waits.
    pub(super) fn now(&self) -> Option<&Wait> {
        self.now.as_ref()
    }

    /// There is no memory for a fault. Returns since when its job waits: since before `wait` if it is the
    /// same that waited already. [`None`] if that was given up, and is not to wait any more.
    pub(super) fn begin(&mut self, wait: Wait) -> Option<u64> {
        // What is for another one stays: that may come after this.
        if self.given_up.take_if(|old| wait.is_still(old)).is_some() {
            return None;
        }

        let since = match &self.now {
            Some(old) if wait.is_still(old) => old.since,
            _ => wait.since,
        };
        self.now = Some(Wait { since, ..wait });
        Some(since)
    }

    /// The chunk is there. Who waits for another one goes on to wait.
    pub(super) fn served(&mut self, index: usize) {
        self.now.take_if(|wait| wait.index == index);
        self.given_up.take_if(|wait| wait.index == index);
    }

    /// Nobody waits any more. Returns the address that somebody has waited for.
    pub(super) fn end(&mut self) -> Option<u64> {
        self.given_up = None;
        self.now.take().map(|wait| wait.va)
    }

    /// Gives up who has waited for `limit` milliseconds.
    pub(super) fn expire(&mut self, now: u64, limit: u64) -> Expired {
        let Some(wait) = self.now else {
            return Expired::Nobody;
        };

        if now.saturating_sub(wait.since) < limit {
            return Expired::NotYet(wait.since);
        }
        self.given_up = self.now.take();
        Expired::GivenUp(wait.va)
    }
}

/// Who has waited for the longest time, of all that wait, as told by since when.
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
            jobs: mmu::Seen([None, Some(job), None]),
            since,
        }
    }

    #[test]
    fn who_is_tried_again_goes_on_to_wait() {
        let mut waits = Waits::default();

        assert_eq!(waits.begin(wait(3, 7, 1000)), Some(1000));
        assert_eq!(waits.begin(wait(3, 7, 1300)), Some(1000));
        assert_eq!(waits.expire(1374, LIMIT), Expired::NotYet(1000));
        assert_eq!(waits.expire(1375, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        assert_eq!(waits.begin(wait(3, 7, 1376)), None);
        // That was said once.
        assert_eq!(waits, Waits::default());
    }

    #[test]
    fn the_next_job_has_its_own_time() {
        let mut waits = Waits::default();

        // The first one has ended by itself.
        assert_eq!(waits.begin(wait(3, 7, 1000)), Some(1000));
        assert_eq!(waits.begin(wait(3, 8, 1300)), Some(1300));
        assert_eq!(waits.expire(1375, LIMIT), Expired::NotYet(1300));
    }

    #[test]
    fn the_next_job_is_not_given_up() {
        let mut waits = Waits::default();

        assert_eq!(waits.begin(wait(3, 7, 1000)), Some(1000));
        assert_eq!(waits.expire(2000, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        assert_eq!(waits.begin(wait(3, 8, 2001)), Some(2001));
    }

    #[test]
    fn jobs_of_other_slots_change_nothing() {
        let mut waits = Waits::default();
        let beside = |fragment, since| Wait {
            jobs: mmu::Seen([fragment, Some(7), None]),
            ..wait(3, 7, since)
        };

        assert_eq!(waits.begin(beside(Some(1), 1000)), Some(1000));
        assert_eq!(waits.begin(beside(None, 1100)), Some(1000));
        assert_eq!(waits.expire(1375, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        // One that waits for another chunk is heard of first.
        assert_eq!(waits.begin(wait(4, 7, 1376)), Some(1376));
        assert_eq!(waits.begin(beside(Some(2), 1377)), None);
    }

    #[test]
    fn memory_ends_the_wait_for_it() {
        let mut waits = Waits::default();

        assert_eq!(waits.begin(wait(3, 7, 1000)), Some(1000));
        waits.served(4);
        assert_eq!(waits.now(), Some(&wait(3, 7, 1000)));
        waits.served(3);
        assert_eq!(waits.now(), None);
        assert_eq!(waits.expire(5000, LIMIT), Expired::Nobody);

        assert_eq!(waits.begin(wait(3, 7, 6000)), Some(6000));
        assert_eq!(waits.expire(7000, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        // There was some after all.
        waits.served(3);
        assert_eq!(waits.begin(wait(3, 7, 7001)), Some(7001));
    }

    #[test]
    fn nothing_is_left_in_the_end() {
        let mut waits = Waits::default();

        assert_eq!(waits.begin(wait(3, 7, 1000)), Some(1000));
        assert_eq!(waits.end(), Some(3 * 0x20_0000));
        assert_eq!(waits.begin(wait(3, 7, 2000)), Some(2000));
        assert_eq!(waits.expire(3000, LIMIT), Expired::GivenUp(3 * 0x20_0000));
        assert_eq!(waits.end(), None);
        assert_eq!(waits.begin(wait(3, 7, 3001)), Some(3001));
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
