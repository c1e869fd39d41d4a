// SPDX-License-Identifier: GPL-2.0

//! The numbers and rules for when heaps get memory and when they give it back. Nothing here touches
//! memory or hardware.

use core::mem;

use kernel::prelude::*;

use super::CHUNK;

/// The number of chunks of credit beyond the last high-water mark.
pub(super) const SPARE: usize = 1;

/// The largest number of chunks of credit: 32 MiB. A frame that needs more gets the rest on faults.
pub(super) const MAX_CREDIT: usize = 16;

/// For how long a submission tries to get credit for the heaps of its job, in milliseconds. After
/// that it goes on with the credit that there is.
pub(super) const TOP_UP_MS: i64 = 2_000;

/// The number of chunks that a heap keeps when it is idle.
pub(super) const WORKING_SET: usize = 1;

/// The number of chunks in the device's reserve, for faults on heaps without credit.
pub(super) const RESERVE: usize = 2;

/// The time in milliseconds for which content must be dead before it is given back.
pub(super) const IDLE_MS: u32 = 2000;

/// The initial period in milliseconds between probes of a heap that is never idle. It grows up to
/// [`MAX_PROBE_MS`].
pub(super) const PROBE_MS: u64 = 5000;
/// The longest period between probes, see [`PROBE_MS`].
pub(super) const MAX_PROBE_MS: u64 = 32 * PROBE_MS;

/// Returns how many milliseconds a job that has `timeout_ms` to run may wait for memory. This is
/// three quarters of the timeout, so that a lack of memory ends the job, and is logged, before the
/// timeout does, unless the job had run for more than a quarter of its time when it stalled.
pub(super) const fn stall_ms(timeout_ms: u32) -> u32 {
    timeout_ms - timeout_ms / 4
}

/// Returns the number of chunks of credit that a heap should have for a job. `len` is the largest
/// number of chunks, `resident` the number that the heap has, and `high` its high-water mark.
pub(super) fn credit(len: usize, resident: usize, high: usize) -> usize {
    high.max(resident)
        .saturating_add(SPARE)
        .min(len)
        .saturating_sub(resident)
        .min(MAX_CREDIT)
}

/// An estimate of the memory that a heap needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct HighWater {
    /// The largest number of chunks in the last period.
    last: usize,
    /// The largest number of chunks in the current period.
    now: usize,
}

impl HighWater {
    /// Records that the heap has `chunks` chunks.
    pub(super) fn record(&mut self, chunks: usize) {
        self.now = self.now.max(chunks);
    }

    /// Ends a period: the heap was idle or was probed, and has `chunks` chunks left.
    pub(super) fn idle(&mut self, chunks: usize) {
        self.last = mem::replace(&mut self.now, chunks);
    }

    /// Returns the number of chunks that the next job may need.
    pub(super) fn peak(&self) -> usize {
        self.last.max(self.now)
    }
}

/// Finds out how much memory a heap needs that is never idle for long.
///
/// The driver cannot see which chunks a frame uses. So once in a period, half of the chunks are
/// taken from the heap when it is dead. If it has grown again by the end of the next period, it
/// needs them, nothing is taken, and the period is doubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeapProbe {
    /// When the current period began, in milliseconds.
    since: u64,
    period: u64,
    /// The number of chunks left by the last probe, if that took any.
    left: Option<usize>,
}

impl HeapProbe {
    /// Creates a probe whose first period begins at `now`.
    pub(super) fn new(now: u64) -> Self {
        Self {
            since: now,
            period: PROBE_MS,
            left: None,
        }
    }

    /// Returns whether the period has ended.
    pub(super) fn is_due(&self, now: u64) -> bool {
        now.saturating_sub(self.since) >= self.period
    }

    /// Probes a dead heap with `chunks` chunks, if the period has ended. Returns how many it may
    /// keep, or [`None`] if it keeps all.
    pub(super) fn run(&mut self, now: u64, chunks: usize) -> Option<usize> {
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

/// Returns the number of the chunk that contains `va`, in a heap of `len` chunks at `start`.
pub(super) fn chunk_of(start: u64, len: usize, va: u64) -> Option<usize> {
    let index = usize::try_from(va.checked_sub(start)? / CHUNK as u64).ok()?;

    (index < len).then_some(index)
}

/// The effect on the content of a heap of a job that listed the heap and has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// None: the job never ran.
    Nothing,
    /// The job may have written to the heap.
    Wrote,
    /// The job was a fragment job, which has consumed the content.
    Drew,
}

/// The use of a heap by the jobs of one context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// The number of the context, which is unique.
    context: u64,
    /// The number of jobs of the context that list the heap and have not ended.
    users: usize,
    /// The highest number of a job that listed the heap, may have written to it, and has ended; or
    /// 0.
    written: u64,
    /// The highest number of a fragment job that listed the heap and has ended; or 0.
    drawn: u64,
}

impl Frame {
    fn is_live(&self) -> bool {
        self.users != 0 || self.written > self.drawn
    }
}

/// Tracks whether the content of a heap is live, that is, may still be needed.
///
/// User space submits the chain that fills the heap and the chain that draws from it separately. In
/// between no job uses the heap, but the frame exists only there. So the content is live until a
/// fragment job of the *same context* that lists the heap has ended. Fragment jobs of other
/// contexts of the file, and those that do not list the heap, may run in between at any time, for
/// instance to clear a buffer, and do not affect this frame. Jobs of a file are numbered in the
/// order of their submission, from 1.
///
/// Content that is never drawn is live until its context is destroyed or the heap is closed. The
/// client is charged for the memory for as long.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// The live frames, in no order. The capacity is kept, so that successive frames need no
    /// allocation.
    frames: KVec<Frame>,
    /// The highest number of a job that may have written to the heap without listing it; or 0.
    unlisted: u64,
    /// The highest number of a fragment job of any context that listed the heap and has ended; or
    /// 0.
    drawn: u64,
}

impl Life {
    fn find(&self, context: u64) -> Option<usize> {
        self.frames
            .iter()
            .position(|frame| frame.context == context)
    }

    /// Notes that a job of `context` is about to use the heap. Returns whether there was room for
    /// the note; if not, the caller makes room with [`Self::swap_room`] and tries again. Allocates
    /// nothing.
    #[must_use]
    pub(super) fn begin(&mut self, context: u64) -> bool {
        if let Some(frame) = self.find(context).and_then(|at| self.frames.get_mut(at)) {
            frame.users += 1;
            return true;
        }

        let frame = Frame {
            context,
            users: 1,
            written: 0,
            drawn: 0,
        };
        self.frames.push_within_capacity(frame).is_ok()
    }

    /// Returns the number of frames that a list for [`Self::swap_room`] should have room for.
    pub(super) fn wanted_room(&self) -> usize {
        self.frames.len().saturating_mul(2).max(4)
    }

    /// Exchanges the memory of the list for that of `room`, an empty list, if that has a larger
    /// capacity. The caller must free `room` with no lock held.
    pub(super) fn swap_room(&mut self, room: &mut KVec<Frame>) {
        if room.capacity() <= self.frames.capacity() {
            return;
        }
        for frame in self.frames.drain_all() {
            // Cannot fail, as `room` has the larger capacity.
            let _ = room.push_within_capacity(frame);
        }
        mem::swap(&mut self.frames, room);
    }

    /// Notes that a job of `context`, which listed the heap, has ended.
    pub(super) fn end(&mut self, context: u64, job: u64, effect: Effect) {
        if effect == Effect::Drew {
            self.drawn = self.drawn.max(job);
        }

        let Some(at) = self.find(context) else {
            return;
        };
        let Some(frame) = self.frames.get_mut(at) else {
            return;
        };
        frame.users = frame.users.saturating_sub(1);
        match effect {
            Effect::Nothing => (),
            Effect::Wrote => frame.written = frame.written.max(job),
            Effect::Drew => frame.drawn = frame.drawn.max(job),
        }
        if !frame.is_live() {
            // Later jobs have higher numbers, so these two numbers are no longer needed.
            let _ = self.frames.remove(at);
        }
    }

    /// Notes that a context has been destroyed: content that its jobs have left will not be drawn.
    pub(super) fn forget(&mut self, context: u64) {
        self.frames.retain(|frame| frame.context != context);
    }

    /// Notes that a job made the heap grow. If no unfinished job lists the heap, the job was one
    /// that does not list it, with a number of at most `last`. Its content is live until a later
    /// fragment job that lists the heap has ended.
    pub(super) fn grow(&mut self, last: u64) {
        if self.frames.iter().all(|frame| frame.users == 0) {
            self.unlisted = self.unlisted.max(last);
        }
    }

    /// Returns whether the content may still be needed.
    pub(super) fn is_live(&self) -> bool {
        !self.frames.is_empty() || self.unlisted > self.drawn
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
        // A heap that has as much as before.
        assert_eq!(credit(64, 5, 5), SPARE);
        assert_eq!(credit(64, 5, 0), SPARE);
        // A heap that has given some back.
        assert_eq!(credit(64, 1, 5), 4 + SPARE);
        assert_eq!(credit(64, 1, 60), MAX_CREDIT);
    }

    #[test]
    fn high_water_marks_last_for_two_periods() {
        let mut high = HighWater::default();

        high.record(3);
        high.record(40);
        high.record(7);
        assert_eq!(high.peak(), 40);
        // The heavy frame is remembered, but not for ever.
        high.idle(WORKING_SET);
        assert_eq!(high.peak(), 40);
        high.record(2);
        high.idle(WORKING_SET);
        assert_eq!(high.peak(), 2);
    }

    #[test]
    fn heaps_in_use_lose_what_they_do_not_need() {
        let mut probe = HeapProbe::new(0);
        let (mut chunks, mut now) = (20, 0);

        assert_eq!(probe.run(PROBE_MS - 1, chunks), None);
        for left in [10, 5, 2, 1] {
            now += PROBE_MS;
            assert_eq!(probe.run(now, chunks), Some(left));
            assert_eq!(probe.run(now, chunks), None);
            chunks = left;
        }
        assert_eq!(probe.run(now + PROBE_MS, chunks), None);
    }

    #[test]
    fn heaps_that_need_it_are_left_alone() {
        let mut probe = HeapProbe::new(0);
        let (mut now, mut probes) = (0, 0);

        // The heap always grows back to 20 chunks.
        while now < 100 * MAX_PROBE_MS {
            now += PROBE_MS;
            probes += usize::from(probe.run(now, 20).is_some());
        }
        assert!((40..60).contains(&probes));
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

    /// Contexts of one file.
    const A: u64 = 7;
    const B: u64 = 9;

    /// Begins a job, and makes room if necessary.
    fn begin(life: &mut Life, context: u64) -> Result {
        if !life.begin(context) {
            let mut room = KVec::with_capacity(life.wanted_room(), GFP_KERNEL)?;

            life.swap_room(&mut room);
            assert!(room.is_empty());
            assert!(life.begin(context));
        }
        Ok(())
    }

    /// Begins and ends a job.
    fn run(life: &mut Life, context: u64, job: u64, effect: Effect) -> Result {
        begin(life, context)?;
        assert!(life.is_live());
        life.end(context, job, effect);
        Ok(())
    }

    #[test]
    fn unused_heaps_are_dead() {
        assert!(!Life::default().is_live());
    }

    #[test]
    fn content_lives_from_tiler_to_fragment() -> Result {
        let mut life = Life::default();

        run(&mut life, A, 1, Effect::Wrote)?;
        assert!(life.is_live());
        run(&mut life, A, 2, Effect::Drew)?;
        assert!(!life.is_live());
        // The next frame.
        run(&mut life, A, 3, Effect::Wrote)?;
        assert!(life.is_live());
        run(&mut life, A, 4, Effect::Drew)?;
        assert!(!life.is_live());
        Ok(())
    }

    #[test]
    fn fragment_jobs_of_other_contexts_do_not_count() -> Result {
        let mut life = Life::default();

        run(&mut life, A, 1, Effect::Wrote)?;
        run(&mut life, B, 2, Effect::Drew)?;
        assert!(life.is_live());
        run(&mut life, B, 3, Effect::Wrote)?;
        run(&mut life, A, 4, Effect::Drew)?;
        assert!(life.is_live());
        run(&mut life, B, 5, Effect::Drew)?;
        assert!(!life.is_live());
        Ok(())
    }

    #[test]
    fn earlier_fragment_jobs_do_not_count() -> Result {
        let mut life = Life::default();

        begin(&mut life, A)?;
        begin(&mut life, A)?;
        life.end(A, 5, Effect::Wrote);
        life.end(A, 4, Effect::Drew);
        assert!(life.is_live());
        run(&mut life, A, 6, Effect::Drew)?;
        assert!(!life.is_live());
        Ok(())
    }

    #[test]
    fn the_order_of_reports_does_not_matter() -> Result {
        let jobs = [(1, Effect::Wrote), (2, Effect::Drew)];

        for (first, second) in [(0, 1), (1, 0)] {
            let mut life = Life::default();

            begin(&mut life, A)?;
            begin(&mut life, A)?;
            life.end(A, jobs[first].0, jobs[first].1);
            assert!(life.is_live());
            life.end(A, jobs[second].0, jobs[second].1);
            assert!(!life.is_live());
        }
        Ok(())
    }

    #[test]
    fn jobs_that_never_ran_leave_nothing() -> Result {
        let mut life = Life::default();

        run(&mut life, A, 1, Effect::Nothing)?;
        assert!(!life.is_live());
        // They do not draw, either.
        run(&mut life, A, 2, Effect::Wrote)?;
        run(&mut life, A, 3, Effect::Nothing)?;
        assert!(life.is_live());
        Ok(())
    }

    #[test]
    fn content_goes_with_its_context() -> Result {
        let mut life = Life::default();

        run(&mut life, A, 1, Effect::Wrote)?;
        run(&mut life, B, 2, Effect::Wrote)?;
        life.forget(A);
        assert!(life.is_live());
        life.forget(B);
        assert!(!life.is_live());
        // A late report for a context that was forgotten changes nothing.
        life.end(A, 3, Effect::Wrote);
        assert!(!life.is_live());
        Ok(())
    }

    #[test]
    fn many_contexts_find_room() -> Result {
        let mut life = Life::default();

        for context in 0..65 {
            run(&mut life, context, context + 1, Effect::Wrote)?;
        }
        for context in 0..65 {
            assert!(life.is_live());
            run(&mut life, context, context + 100, Effect::Drew)?;
        }
        assert!(!life.is_live());
        // The room is kept.
        assert!(life.begin(A));
        Ok(())
    }

    #[test]
    fn unlisted_use_lives_until_a_listed_fragment_job() -> Result {
        let mut life = Life::default();

        life.grow(7);
        assert!(life.is_live());
        run(&mut life, A, 6, Effect::Drew)?;
        run(&mut life, A, 8, Effect::Nothing)?;
        assert!(life.is_live());
        run(&mut life, B, 9, Effect::Drew)?;
        assert!(!life.is_live());
        Ok(())
    }

    #[test]
    fn growth_of_listed_heaps_is_that_of_the_job() -> Result {
        let mut life = Life::default();

        // Jobs 2 and 3 are queued behind job 1, and job 3 does not draw.
        begin(&mut life, A)?;
        life.grow(3);
        life.end(A, 1, Effect::Wrote);
        assert!(life.is_live());
        run(&mut life, A, 2, Effect::Drew)?;
        assert!(!life.is_live());
        Ok(())
    }
}
