// SPDX-License-Identifier: GPL-2.0

//! Decides what the end of a chain means for its job. No locks, no hardware.

use kernel::prelude::*;

use crate::hw::mali::Exception;

/// The meaning of a slot's report that its job has failed or was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The report was spurious: the job is still running, and nothing may be concluded about it.
    Runs,
    /// The job was soft-stopped and has left the hardware. [`resume`] decides whether it can
    /// continue.
    Stopped,
    /// The job has ended, and its fence gets this result. Final.
    Ended(Result),
}

/// The history of a job before its slot reported an end.
#[derive(Clone, Copy, Default)]
pub(super) struct Told {
    /// It was told to end with this error, not just to stop, and must not run again.
    pub(super) to_end: Option<Error>,
    /// It continued after a soft stop, on a GPU that may then report a tile as out of range
    /// ([`Issue::T10959`](crate::hw::mali::Issue::T10959)).
    pub(super) lacks_tiles: bool,
}

/// Decodes the status of a slot that has reported a failure.
///
/// The errors are those of the C driver: `ECANCELED` for a job that was stopped, `EINVAL` for one
/// that failed by itself or because of its address space.
///
/// No other status means success, not even [`Exception::DONE`], since it came with a failure: some
/// GPUs report a hard-stopped job as one that has not begun (erratum PRLAM-10673).
pub(super) fn outcome(exception: Exception, told: Told) -> Outcome {
    match (exception, told.to_end) {
        (Exception::ACTIVE, _) => Outcome::Runs,
        (Exception::STOPPED, None) => Outcome::Stopped,
        (Exception::TILE_RANGE_FAULT, _) if told.lacks_tiles => Outcome::Ended(Ok(())),
        (fault, _) if fault.is_fault() => Outcome::Ended(Err(EINVAL)),
        (_, error) => Outcome::Ended(Err(error.unwrap_or(ECANCELED))),
    }
}

/// Returns how many of the `loaded` chains of a slot have ended well without a report.
///
/// `running` and `next`: the slot had a current and a next chain when it was sampled, with no
/// interrupt pending just before. `failed`: after the sample, an interrupt reported a failure, or
/// the status of the slot was not that of a chain that is done.
///
/// A slot that has failed runs nothing until the interrupt is cleared. So if nothing was running,
/// the failed chain is the last of those that are gone, and its interrupt will report it; otherwise
/// it was still running when the slot was sampled.
pub(super) fn unreported(loaded: usize, running: bool, next: bool, failed: bool) -> usize {
    let gone = loaded.saturating_sub(usize::from(running) + usize::from(next));

    gone.saturating_sub(usize::from(!running && failed))
}

/// The place from which an interrupted chain continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// At the job with this GPU address. The jobs before it are done.
    At(u64),
    /// At the job where it was started last: it has not begun, or none of its jobs is done.
    Anew,
    /// Unknown. Continuing too late would skip jobs, and the hardware refuses to run a job twice,
    /// so the chain has to fail.
    Nowhere,
}

/// Decides where a chain continues, from the status of its slot and the values of `JS_HEAD` and
/// `JS_TAIL`. `first` is the job where it was started last.
///
/// `JS_HEAD` is the first job that is not done, `JS_TAIL` the last one that was begun, as the
/// hardware works on several jobs of a chain at a time. Jobs before `JS_TAIL` are therefore known
/// to be done only if the two are equal, as they are after every orderly soft stop.
pub(super) fn resume(exception: Exception, head: u64, tail: u64, first: u64) -> Resume {
    match exception {
        Exception::STOPPED if tail != 0 && head == tail => Resume::At(tail),
        Exception::ACTIVE if head == first && tail == first => Resume::Anew,
        Exception::STOPPED | Exception::ACTIVE => Resume::Nowhere,
        _ => Resume::Anew,
    }
}

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

    /// The job was told to stop at most.
    const STOP: Told = Told {
        to_end: None,
        lacks_tiles: false,
    };
    /// The job was told to end.
    const END: Told = Told {
        to_end: Some(ECANCELED),
        lacks_tiles: false,
    };

    #[test]
    fn ends() {
        // OK and DONE, which do not fit a failure.
        for code in [0x00, 0x01] {
            assert!(outcome(Exception(code), STOP) == Outcome::Ended(Err(ECANCELED)));
            assert!(outcome(Exception(code), END) == Outcome::Ended(Err(ECANCELED)));
        }
        assert!(outcome(Exception::TERMINATED, STOP) == Outcome::Ended(Err(ECANCELED)));
        assert!(outcome(Exception::JOB_BUS_FAULT, STOP) == Outcome::Ended(Err(EINVAL)));
        // All ones, read from a device that was just removed.
        assert!(outcome(Exception(0xff), END) == Outcome::Ended(Err(EINVAL)));
    }

    #[test]
    fn stops() {
        assert!(outcome(Exception::STOPPED, STOP) == Outcome::Stopped);
        assert!(outcome(Exception::STOPPED, END) == Outcome::Ended(Err(ECANCELED)));
        assert!(outcome(Exception::ACTIVE, END) == Outcome::Runs);
    }

    #[test]
    fn ends_with_its_address_space() {
        let told = Told {
            to_end: Some(EINVAL),
            ..STOP
        };

        for exception in [
            Exception::OK,
            Exception::STOPPED,
            Exception::TERMINATED,
            Exception::JOB_BUS_FAULT,
        ] {
            assert!(outcome(exception, told) == Outcome::Ended(Err(EINVAL)));
        }
    }

    #[test]
    fn tiles_out_of_range() {
        let told = Told {
            lacks_tiles: true,
            ..STOP
        };

        assert!(outcome(Exception::TILE_RANGE_FAULT, told) == Outcome::Ended(Ok(())));
        assert!(outcome(Exception::TILE_RANGE_FAULT, STOP) == Outcome::Ended(Err(EINVAL)));
        assert!(outcome(Exception::JOB_BUS_FAULT, told) == Outcome::Ended(Err(EINVAL)));
    }

    #[test]
    fn interrupted_chains() {
        let stopped = |head, tail| resume(Exception::STOPPED, head, tail, 0x100);
        let active = |head, tail| resume(Exception::ACTIVE, head, tail, 0x100);

        assert!(stopped(0x100, 0x100) == Resume::At(0x100));
        assert!(stopped(0x180, 0x180) == Resume::At(0x180));
        assert!(stopped(0x100, 0x180) == Resume::Nowhere);
        assert!(stopped(0, 0) == Resume::Nowhere);
        assert!(active(0x100, 0x100) == Resume::Anew);
        assert!(active(0x100, 0x180) == Resume::Nowhere);
        assert!(active(0x180, 0x180) == Resume::Nowhere);
        // The slot still shows the end of the previous chain.
        assert!(resume(Exception(0x01), 0x40, 0x80, 0x100) == Resume::Anew);
    }

    #[test]
    fn ends_without_a_report() {
        // Nothing has ended.
        assert!(unreported(2, true, true, false) == 0);
        assert!(unreported(1, false, true, false) == 0);
        // Of two, the first, then both.
        assert!(unreported(2, true, false, false) == 1);
        assert!(unreported(2, false, true, false) == 1);
        assert!(unreported(2, false, false, false) == 2);
        // The first has failed, and the second one waits.
        assert!(unreported(2, false, true, true) == 0);
        // The first is done, and the second one has failed.
        assert!(unreported(2, false, false, true) == 1);
        assert!(unreported(2, true, false, true) == 1);
        // The only one has failed.
        assert!(unreported(1, false, false, true) == 0);
    }

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
