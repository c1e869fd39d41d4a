// SPDX-License-Identifier: GPL-2.0

//! When heaps get memory and when they give it back: numbers and rules, without memory or hardware.

use core::mem;

use kernel::prelude::*;

use super::CHUNK;

/// Chunks of credit beyond what the heap had at its last high-water mark.
pub(super) const SPARE: usize = 1;

/// Most chunks of credit: 32 MiB. What a frame needs beyond that it gets on the way.
pub(super) const MAX_CREDIT: usize = 16;

/// Chunks that a heap keeps when it is idle.
pub(super) const WORKING_SET: usize = 1;

/// Chunks that the device has for faults on heaps without credit.
pub(super) const RESERVE: usize = 2;

/// Milliseconds for which the content of a heap is dead before it goes.
pub(super) const IDLE_MS: u32 = 2000;

/// Milliseconds after which a heap that is never idle is asked what it needs, at first; at most
/// [`MAX_PROBE_MS`].
pub(super) const PROBE_MS: u64 = 5000;
/// See [`PROBE_MS`].
pub(super) const MAX_PROBE_MS: u64 = 32 * PROBE_MS;

/// Milliseconds that a job waits for memory, if it has `timeout_ms` to run. A quarter less, so that
/// it is the lack of memory that ends the job, and the log says so, unless the job has used more
/// than that quarter before.
pub(super) const fn stall_ms(timeout_ms: u32) -> u32 {
    timeout_ms - timeout_ms / 4
}

/// The chunks of credit that a heap is to have for a job. `len`: chunks at most; `resident`: those
/// that it has; `high`: its high-water mark.
pub(super) fn credit(len: usize, resident: usize, high: usize) -> usize {
    high.max(resident)
        .saturating_add(SPARE)
        .min(len)
        .saturating_sub(resident)
        .min(MAX_CREDIT)
}

/// How much memory a heap needs, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HighWater {
    /// Most chunks between the last two times that the heap was idle.
    last: usize,
    /// Most chunks since.
    now: usize,
}

impl HighWater {
    /// The heap has so many chunks.
    pub(super) fn see(&mut self, chunks: usize) {
        self.now = self.now.max(chunks);
    }

    /// The heap is idle, and has so many chunks left.
    pub(super) fn idle(&mut self, chunks: usize) {
        self.last = mem::replace(&mut self.now, chunks);
    }

    /// Chunks that the next job may need.
    pub(super) fn mark(&self) -> usize {
        self.last.max(self.now)
    }
}

/// Finds out what a heap needs that is in use again and again.
///
/// Nobody sees which chunks a frame reads. So from time to time the heap loses half of them when it is
/// dead. If it has grown again after that time, it needs them, and is left alone for twice as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// When it was last asked, in milliseconds.
    since: u64,
    period: u64,
    /// Chunks that it was left with.
    left: Option<usize>,
}

impl Probe {
    pub(super) fn new(now: u64) -> Self {
        Self {
            since: now,
            period: PROBE_MS,
            left: None,
        }
    }

    /// Whether it is time to ask.
    pub(super) fn is_due(&self, now: u64) -> bool {
        now.saturating_sub(self.since) >= self.period
    }

    /// Asks a dead heap with so many chunks. Returns how many it may keep, if it is to lose some.
    pub(super) fn ask(&mut self, now: u64, chunks: usize) -> Option<usize> {
        if !self.is_due(now) {
            return None;
        }
        self.since = now;
        match self.left.take() {
            Some(left) if chunks > left => {
                self.period = (self.period * 2).min(MAX_PROBE_MS);
                return None;
            }
            Some(_) => self.period = PROBE_MS,
            None => (),
        }
        if chunks <= WORKING_SET {
            return None;
        }
        self.left = Some((chunks / 2).max(WORKING_SET));
        self.left
    }
}

/// The number of the chunk that `va` lies in, of `len` from `start` on.
pub(super) fn chunk_of(start: u64, len: usize, va: u64) -> Option<usize> {
    let index = usize::try_from(va.checked_sub(start)? / CHUNK as u64).ok()?;

    (index < len).then_some(index)
}

/// Whether somebody needs what is in a heap.
///
/// User space submits the chain that fills the heap and the chain that draws from it one by one. In
/// between no job uses the heap, but its content is all there is of the frame. So it lives until a
/// fragment job of the same file, which was submitted later, has ended. Jobs of a file are counted in
/// the order of their submission, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// Jobs that have the heap in their list, and have not ended.
    users: usize,
    /// The last job that may have written to it.
    written: u64,
    /// The last fragment job of the file that has ended.
    drawn: u64,
}

impl Life {
    /// A job is about to use the heap.
    pub(super) fn begin(&mut self) {
        self.users += 1;
    }

    /// A job has ended that used the heap. `wrote`: it ran, and was no fragment job.
    pub(super) fn end(&mut self, job: u64, wrote: bool) {
        self.users = self.users.saturating_sub(1);
        if wrote {
            self.written = self.written.max(job);
        }
    }

    /// A job made the heap grow. If no job has it in its list, it was one that has not, and no later
    /// one than `last`.
    pub(super) fn grow(&mut self, last: u64) {
        if self.users == 0 {
            self.written = self.written.max(last);
        }
    }

    /// A fragment job of the file has run and ended.
    pub(super) fn drawn(&mut self, job: u64) {
        self.drawn = self.drawn.max(job);
    }

    /// Whether the content has to stay.
    pub(super) fn is_live(&self) -> bool {
        self.users != 0 || self.written > self.drawn
    }
}

#[kunit_tests(drm_gpu_heap_policy)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_addresses() {
        const START: u64 = 0x400_0000;
        const SIZE: u64 = CHUNK as u64;

        assert_eq!(chunk_of(START, 3, START), Some(0));
        assert_eq!(chunk_of(START, 3, START + SIZE - 1), Some(0));
        assert_eq!(chunk_of(START, 3, START + SIZE), Some(1));
        assert_eq!(chunk_of(START, 3, START + 3 * SIZE - 1), Some(2));
        assert_eq!(chunk_of(START, 3, START + 3 * SIZE), None);
        assert_eq!(chunk_of(START, 3, START - 1), None);
        assert_eq!(chunk_of(START, 3, 0), None);
        assert_eq!(chunk_of(START, 3, u64::MAX), None);
    }

    #[test]
    fn credit_follows_the_high_water_mark() {
        // The first job.
        assert_eq!(credit(64, 0, 0), SPARE);
        // A heap that has what it had.
        assert_eq!(credit(64, 5, 5), SPARE);
        assert_eq!(credit(64, 5, 0), SPARE);
        // One that gave some back.
        assert_eq!(credit(64, 1, 5), 4 + SPARE);
        assert_eq!(credit(64, 1, 60), MAX_CREDIT);
    }

    #[test]
    fn high_water_marks_last_for_two_periods() {
        let mut high = HighWater::default();

        high.see(3);
        high.see(40);
        high.see(7);
        assert_eq!(high.mark(), 40);
        // The heavy frame is remembered, but not for ever.
        high.idle(WORKING_SET);
        assert_eq!(high.mark(), 40);
        high.see(2);
        high.idle(WORKING_SET);
        assert_eq!(high.mark(), 2);
    }

    #[test]
    fn heaps_in_use_lose_what_they_do_not_need() {
        let mut probe = Probe::new(0);
        let (mut chunks, mut now) = (20, 0);

        assert_eq!(probe.ask(PROBE_MS - 1, chunks), None);
        for left in [10, 5, 2, 1] {
            now += PROBE_MS;
            assert_eq!(probe.ask(now, chunks), Some(left));
            assert_eq!(probe.ask(now, chunks), None);
            chunks = left;
        }
        assert_eq!(probe.ask(now + PROBE_MS, chunks), None);
    }

    #[test]
    fn heaps_that_need_it_are_left_alone() {
        let mut probe = Probe::new(0);
        let (mut now, mut asked) = (0, 0);

        // Always back to 20.
        while now < 100 * MAX_PROBE_MS {
            now += PROBE_MS;
            asked += usize::from(probe.ask(now, 20).is_some());
        }
        assert!((40..60).contains(&asked));
    }

    #[test]
    fn credit_fits_into_the_heap() {
        assert_eq!(credit(1, 0, 0), 1);
        assert_eq!(credit(1, 1, 1), 0);
        assert_eq!(credit(4, 3, 4), 1);
        assert_eq!(credit(0, 0, 0), 0);
        assert_eq!(credit(usize::MAX, 0, usize::MAX), MAX_CREDIT);
    }

    #[test]
    fn memory_is_waited_for_within_the_timeout() {
        assert_eq!(stall_ms(500), 375);
        for timeout in [50, 51, 600_000] {
            assert!(stall_ms(timeout) > 0 && stall_ms(timeout) < timeout);
        }
    }

    #[test]
    fn unused_heaps_are_dead() {
        assert!(!Life::default().is_live());
    }

    #[test]
    fn content_lives_from_tiler_to_fragment() {
        let mut life = Life::default();

        life.begin();
        assert!(life.is_live());
        life.end(1, true);
        assert!(life.is_live());
        // The fragment job, whether or not it has the heap in its list.
        life.begin();
        life.drawn(2);
        assert!(life.is_live());
        life.end(2, false);
        assert!(!life.is_live());
    }

    #[test]
    fn earlier_fragment_jobs_do_not_count() {
        let mut life = Life::default();

        life.begin();
        life.end(5, true);
        life.drawn(4);
        assert!(life.is_live());
        life.drawn(6);
        assert!(!life.is_live());
        // A late report of an early job changes nothing.
        life.drawn(3);
        assert!(!life.is_live());
    }

    #[test]
    fn the_order_of_reports_does_not_matter() {
        let (mut a, mut b) = (Life::default(), Life::default());

        for life in [&mut a, &mut b] {
            life.begin();
        }
        a.end(1, true);
        a.drawn(2);
        b.drawn(2);
        b.end(1, true);
        assert_eq!(a, b);
        assert!(!a.is_live());
    }

    #[test]
    fn jobs_that_never_ran_leave_nothing() {
        let mut life = Life::default();

        life.begin();
        life.end(1, false);
        assert!(!life.is_live());
    }

    #[test]
    fn the_next_frame_is_live_again() {
        let mut life = Life::default();

        life.begin();
        life.end(1, true);
        life.drawn(2);
        life.begin();
        life.end(3, true);
        assert!(life.is_live());
        life.drawn(4);
        assert!(!life.is_live());
    }

    #[test]
    fn unlisted_use_counts() {
        let mut life = Life::default();

        life.grow(7);
        assert!(life.is_live());
        life.drawn(8);
        assert!(!life.is_live());
    }

    #[test]
    fn growth_of_listed_heaps_is_that_of_the_job() {
        let mut life = Life::default();

        // Jobs 2 and 3 wait behind it, 3 does not draw.
        life.begin();
        life.grow(3);
        life.end(1, true);
        assert!(life.is_live());
        life.drawn(2);
        assert!(!life.is_live());
    }
}
