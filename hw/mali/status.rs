// SPDX-License-Identifier: GPL-2.0

//! The meaning of a job slot's state: why a chain has ended, and where it continues.
//!
//! No locks, no registers; for any context.

use kernel::{
    fmt::{
        self,
        Display,
        Formatter, //
    },
    prelude::*, //
};

use super::{
    job::Slot,
    Caps,
    Exception,
    Issue, //
};
use crate::hw::{
    Outcome,
    Resume,
    SlotStatus, //
};

/// State of the current chain of a slot, or of the last one if none is running.
#[derive(Clone, Copy)]
pub(crate) struct Status {
    /// The reason why the chain ended, or [`Exception::ACTIVE`].
    pub(super) exception: Exception,
    /// First job of the chain that has not completed.
    pub(super) head: u64,
    /// Last job of the chain that has begun, or 0 if that cannot be read.
    pub(super) tail: u64,
}

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({:#x}), head {:#x}, tail {:#x}",
            self.exception.name(),
            self.exception.0,
            self.head,
            self.tail
        )
    }
}

impl SlotStatus for Status {
    fn is_fault(&self) -> bool {
        self.exception.is_fault()
    }

    fn resume(&self, first: u64) -> Resume {
        resume(self.exception, self.head, self.tail, first)
    }
}

/// Decodes the status of a slot that has reported a failure; see
/// [`Runner::outcome`](crate::hw::Runner::outcome).
///
/// `lacks_tiles`: the chain continued after a soft stop, on a GPU that may then report a tile as
/// out of range ([`may_lack_tiles`]).
///
/// No other status means success, not even [`Exception::DONE`], since it came with a failure: some
/// GPUs report a hard-stopped job as one that has not begun (erratum PRLAM-10673).
pub(super) fn outcome(exception: Exception, to_end: Option<Error>, lacks_tiles: bool) -> Outcome {
    match (exception, to_end) {
        (Exception::ACTIVE, _) => Outcome::Runs,
        (Exception::STOPPED, None) => Outcome::Stopped,
        (Exception::TILE_RANGE_FAULT, _) if lacks_tiles => Outcome::Ended(Ok(())),
        (fault, _) if fault.is_fault() => Outcome::Ended(Err(EINVAL)),
        (_, error) => Outcome::Ended(Err(error.unwrap_or(ECANCELED))),
    }
}

/// Decides where a chain continues, from the status of its slot and the values of `JS_HEAD` and
/// `JS_TAIL`. `first` is the job where it was started last.
///
/// `JS_HEAD` is the first job that is not done, `JS_TAIL` the last one that was begun, as the
/// hardware works on several jobs of a chain at a time. Jobs before `JS_TAIL` are therefore known
/// to be done only if the two are equal, as they are after every orderly soft stop.
fn resume(exception: Exception, head: u64, tail: u64, first: u64) -> Resume {
    match exception {
        Exception::STOPPED if tail != 0 && head == tail => Resume::At(tail),
        Exception::ACTIVE if head == first && tail == first => Resume::Anew,
        Exception::STOPPED | Exception::ACTIVE => Resume::Nowhere,
        _ => Resume::Anew,
    }
}

/// Returns whether the GPU must be reset after a chain has ended with `exception`.
pub(super) fn needs_reset(caps: &Caps, slot: Slot, exception: Exception) -> bool {
    match exception {
        Exception::JOB_BUS_FAULT => caps.issue(Issue::Ttrx3076),
        // Some GPUs report a hard-stopped chain as one that has not begun.
        Exception::TERMINATED | Exception::OK => {
            caps.issue(Issue::T9510) || slot == Slot::Fragment && caps.issue(Issue::T76x3542)
        }
        _ => false,
    }
}

/// Returns whether a chain that is resumed after a soft stop can wrongly fail with
/// [`Exception::TILE_RANGE_FAULT`].
pub(super) fn may_lack_tiles(caps: &Caps, slot: Slot) -> bool {
    slot == Slot::Fragment && caps.issue(Issue::T10959)
}

#[kunit_tests(drm_gpu_hw_status)]
mod tests {
    use super::*;
    use crate::hw::mali::regs::job::NR_SLOTS;

    #[test]
    fn ends() {
        // OK and DONE, which do not fit a failure.
        for code in [0x00, 0x01] {
            assert!(outcome(Exception(code), None, false) == Outcome::Ended(Err(ECANCELED)));
            assert!(
                outcome(Exception(code), Some(ECANCELED), false) == Outcome::Ended(Err(ECANCELED))
            );
        }
        assert!(outcome(Exception::TERMINATED, None, false) == Outcome::Ended(Err(ECANCELED)));
        assert!(outcome(Exception::JOB_BUS_FAULT, None, false) == Outcome::Ended(Err(EINVAL)));
        // All ones, read from a device that was just removed.
        assert!(outcome(Exception(0xff), Some(ECANCELED), false) == Outcome::Ended(Err(EINVAL)));
    }

    #[test]
    fn stops() {
        assert!(outcome(Exception::STOPPED, None, false) == Outcome::Stopped);
        assert!(
            outcome(Exception::STOPPED, Some(ECANCELED), false) == Outcome::Ended(Err(ECANCELED))
        );
        assert!(outcome(Exception::ACTIVE, Some(ECANCELED), false) == Outcome::Runs);
    }

    #[test]
    fn ends_with_its_address_space() {
        for exception in [
            Exception::OK,
            Exception::STOPPED,
            Exception::TERMINATED,
            Exception::JOB_BUS_FAULT,
        ] {
            assert!(outcome(exception, Some(EINVAL), false) == Outcome::Ended(Err(EINVAL)));
        }
    }

    #[test]
    fn tiles_out_of_range() {
        assert!(outcome(Exception::TILE_RANGE_FAULT, None, true) == Outcome::Ended(Ok(())));
        assert!(outcome(Exception::TILE_RANGE_FAULT, None, false) == Outcome::Ended(Err(EINVAL)));
        assert!(outcome(Exception::JOB_BUS_FAULT, None, true) == Outcome::Ended(Err(EINVAL)));
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

    /// The GPU is reset after the same exceptions as in Arm's own driver.
    #[test]
    fn resets() {
        let slots = |id, revision, exception| {
            let caps = Caps::find(id, revision)?;

            Some(Slot::ALL.map(|slot| needs_reset(&caps, slot, exception)))
        };
        let (all, none) = (Some([true; NR_SLOTS]), Some([false; NR_SLOTS]));
        let fragment = Some([true, false, false]);

        for stopped in [Exception::TERMINATED, Exception::OK] {
            assert!(slots(0x0600, 0x0000, stopped) == all);
            assert!(slots(0x0750, 0x0000, stopped) == fragment);
            assert!(slots(0x0750, 0x0030, stopped) == fragment);
            for (id, revision) in [(0x0620, 0), (0x0750, 0x1000), (0x0860, 0), (0x9093, 0)] {
                assert!(slots(id, revision, stopped) == none);
            }
        }
        for id in [0x9093, 0x9003] {
            assert!(slots(id, 0, Exception::JOB_BUS_FAULT) == all);
        }
        for id in [0x0600, 0x0750, 0x0860, 0x7212] {
            assert!(slots(id, 0, Exception::JOB_BUS_FAULT) == none);
        }
        for id in [0x0600, 0x0750, 0x9093] {
            for other in [Exception::DONE, Exception::STOPPED] {
                assert!(slots(id, 0, other) == none);
            }
        }
    }
}
