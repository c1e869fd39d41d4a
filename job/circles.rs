// SPDX-License-Identifier: GPL-2.0

//! Chains that never end.
//!
//! A chain whose jobs point to each other in a circle stops softly, like one that is merely slow,
//! and would get turns until it has used up the time that a job may run in all. It can be detected
//! while it runs, when its slot is found at a job that it had left. The slots are sampled over
//! several milliseconds, since jobs need time to move on. Larger circles, and circles of slow jobs,
//! are not detected and end at that limit.
//!
//! Process context. [`Jobs::slots_lock`] and the queue's lock are held for each sample, and no lock
//! in between.

use core::mem;

use kernel::{
    dma_buf::fence::Signalling,
    drm::job_queue::Position,
    prelude::*,
    sync::atomic::Relaxed,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    device::Gpu,
    hw::{
        Runner,
        MAX_SLOTS, //
    }, //
};

use super::{
    slots,
    Jobs,
    Started,
    NSEC_PER_MSEC, //
};

/// The number of samples, and the pause between them in microseconds.
const LOOKS: usize = 32;
const LOOK_US: i64 = 500;

/// Chains that have run for less time than this are not sampled.
const LOOK_AFTER_NS: u64 = 25 * NSEC_PER_MSEC;

impl Jobs {
    /// Marks the running jobs whose chains are seen to run in a circle. Sleeps, for some tens of
    /// milliseconds at most, and waits for [`Jobs::slots_lock`].
    pub(super) fn look_for_circles(&self, started: &Started, gpu: &Gpu<'_>) {
        let mut tracks = [const { Track::new() }; MAX_SLOTS];

        for _ in 0..LOOKS {
            let mut again = false;
            {
                let _signalling = Signalling::begin();
                let _slots = self.slots_lock.lock();

                if gpu.halted() {
                    return;
                }
                let now = started.workers.now();
                started.queue.update(&self.access(started, gpu), |loaded| {
                    for (slot, track) in slots().zip(&mut tracks) {
                        let running = loaded.get(slot, Position::Current);
                        let Some(running) = running.filter(|running| {
                            running.strikes == 0
                                && now.saturating_sub(running.started) >= LOOK_AFTER_NS
                                && !running.job.circles.load(Relaxed)
                        }) else {
                            continue;
                        };
                        let chain = (running.timeline, running.started);

                        again = true;
                        if track.comes_back(chain, gpu.last_begun(slot)) {
                            running.job.circles.store(true, Relaxed);
                        }
                    }
                });
            }
            if !again {
                return;
            }
            fsleep(Delta::from_micros(LOOK_US));
        }
    }
}

/// The last two jobs at which a chain was seen.
struct Track {
    /// Identifies the chain: the timeline of its fence, and the time at which it was started.
    chain: (u64, u64),
    left: u64,
    at: u64,
}

impl Track {
    const fn new() -> Self {
        Self {
            chain: (0, 0),
            left: 0,
            at: 0,
        }
    }

    /// Records that `chain` is at `job`, or at 0 if the job is not known. Returns whether the chain
    /// was there before and had left.
    fn comes_back(&mut self, chain: (u64, u64), job: u64) -> bool {
        if self.chain != chain {
            *self = Self {
                chain,
                ..Self::new()
            };
        }
        if job == 0 || job == self.at {
            return false;
        }
        let left = mem::replace(&mut self.left, mem::replace(&mut self.at, job));

        job == left
    }
}

#[kunit_tests(drm_gpu_job_circles)]
mod tests {
    use super::*;

    #[test]
    fn circles() {
        let circle = |jobs: &[u64]| {
            let mut track = Track::new();

            jobs.iter().any(|&job| track.comes_back((1, 2), job))
        };

        assert!(!circle(&[]));
        assert!(!circle(&[1, 1, 2, 2, 3]));
        // The job is not known in between.
        assert!(!circle(&[1, 0, 1, 2, 0, 2]));
        assert!(circle(&[1, 2, 1]));
        assert!(circle(&[1, 1, 2, 0, 2, 1]));
        assert!(circle(&[5, 1, 2, 1]));
    }

    #[test]
    fn chains_at_the_same_addresses() {
        let mut track = Track::new();

        assert!(!track.comes_back((1, 2), 1));
        assert!(!track.comes_back((1, 2), 2));
        assert!(!track.comes_back((3, 4), 1));
        assert!(!track.comes_back((3, 4), 2));
        assert!(track.comes_back((3, 4), 1));
    }
}
