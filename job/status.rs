// SPDX-License-Identifier: GPL-2.0

//! What the end of a chain means for its job. No locks, no hardware.

use kernel::prelude::*;

use crate::hw::mali::Exception;

/// What becomes of a job whose slot has reported an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The report was wrong: it goes on.
    Runs,
    /// It was stopped and can be continued.
    Stopped,
    /// It has ended.
    Ended(Result),
}

/// Decodes the status of a slot that has reported a failure.
///
/// `condemned`: somebody has tried to end the job; it is not to run again. The errors are those of
/// the C driver: `ECANCELED` for a job that was stopped, `EINVAL` for one that has failed.
pub(super) fn outcome(exception: Exception, condemned: bool) -> Outcome {
    match exception {
        Exception::ACTIVE => Outcome::Runs,
        Exception::STOPPED if !condemned => Outcome::Stopped,
        Exception::STOPPED | Exception::TERMINATED => Outcome::Ended(Err(ECANCELED)),
        fault if fault.is_fault() => Outcome::Ended(Err(EINVAL)),
        _ => Outcome::Ended(Ok(())),
    }
}

#[kunit_tests(drm_gpu_job_status)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        // DONE.
        assert!(outcome(Exception(0x01), false) == Outcome::Ended(Ok(())));
        assert!(outcome(Exception::TERMINATED, false) == Outcome::Ended(Err(ECANCELED)));
        assert!(outcome(Exception::JOB_BUS_FAULT, false) == Outcome::Ended(Err(EINVAL)));
        // All ones, from a device that has just left.
        assert!(outcome(Exception(0xff), true) == Outcome::Ended(Err(EINVAL)));
    }

    #[test]
    fn stops() {
        assert!(outcome(Exception::STOPPED, false) == Outcome::Stopped);
        assert!(outcome(Exception::STOPPED, true) == Outcome::Ended(Err(ECANCELED)));
        assert!(outcome(Exception::ACTIVE, true) == Outcome::Runs);
    }
}
