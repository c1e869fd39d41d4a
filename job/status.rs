// SPDX-License-Identifier: GPL-2.0

//! Decides about jobs that have stopped softly. No locks, no hardware.

use kernel::prelude::*;

/// The fate of a job that has stopped softly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// It keeps its turn, and continues as soon as the slot is free.
    GoesOn,
    /// It gives up its turn, and continues when others of its priority have had theirs.
    Yields,
    /// It is ended with `ECANCELED` because it has used up its time. That is no hang.
    Ends,
    /// It is ended with `ECANCELED` because it would never end, which is a hang.
    Hangs,
}

/// Decides about a job that has stopped softly.
///
/// `overdue`: it had used up its turn; otherwise it was stopped for a reset. `circles`: its chain
/// was seen to come back to a job that it had left, so it would run for ever. `ran_ns`: the time
/// that it has run in all its turns, of which it may have `limit_ns`.
///
/// The hardware stops a chain between two jobs or between two pieces of one, so a job that has
/// stopped is making progress. The registers do not show how much, as a large fragment job is a
/// single job.
pub(super) fn stopped(overdue: bool, circles: bool, ran_ns: u64, limit_ns: u64) -> Stopped {
    if !overdue {
        Stopped::GoesOn
    } else if circles {
        Stopped::Hangs
    } else if ran_ns >= limit_ns {
        Stopped::Ends
    } else {
        Stopped::Yields
    }
}

#[kunit_tests(drm_gpu_job_status)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_not_hung() {
        // Before a reset.
        assert!(stopped(false, false, 0, 100) == Stopped::GoesOn);
        assert!(stopped(false, true, 200, 100) == Stopped::GoesOn);
        // By the timer.
        assert!(stopped(true, false, 99, 100) == Stopped::Yields);
        assert!(stopped(true, false, 100, 100) == Stopped::Ends);
        // A circle is a hang, however long it has run.
        assert!(stopped(true, true, 0, 100) == Stopped::Hangs);
        assert!(stopped(true, true, 100, 100) == Stopped::Hangs);
    }
}
