// SPDX-License-Identifier: GPL-2.0

//! Turns the outcome of a test into a verdict.

use super::Outcome;
use super::Stop;

/// How a test counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Well.
    Passed,
    /// Not at all, for this reason.
    Skipped(String),
    /// It failed for this reason, as was expected of the peer because of this.
    Expected(String, String),
    /// As a failure of the run.
    Failed(String),
}

impl Verdict {
    /// `broken`: the rules of the board that were. `excuse`: why the peer may fail.
    pub(super) fn new(outcome: Outcome, broken: &[String], excuse: Option<&str>) -> Self {
        let broken = (!broken.is_empty()).then(|| broken.join(", "));
        let (failure, excuse) = match (outcome, broken) {
            (Ok(()), None) => (None, excuse),
            (Err(Stop::Skip(reason)), None) => return Self::Skipped(reason),
            (Err(Stop::Fail(message)), None) => (Some(message), excuse),
            // The peer's excuse is for what it says, not for this.
            (Ok(()) | Err(Stop::Skip(_)), Some(broken)) => (Some(broken), None),
            (Err(Stop::Fail(message)), Some(broken)) => {
                (Some(format!("{message}\n{broken}")), None)
            }
        };
        match (failure, excuse) {
            (None, _) => Self::Passed,
            (Some(message), Some(excuse)) => {
                Self::Expected(message, format!("C panfrost: {excuse}"))
            }
            (Some(message), None) => Self::Failed(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(why: &str) -> Outcome {
        Err(Stop::Fail(why.into()))
    }

    #[test]
    fn a_broken_rule_fails_whatever_the_outcome() {
        let broken = ["R1".to_owned()];
        let skip = Err(Stop::Skip("none".into()));
        let r1 = || Verdict::Failed("R1".into());
        assert_eq!(Verdict::new(Ok(()), &broken, None), r1());
        assert_eq!(Verdict::new(skip, &broken, None), r1());
        assert_eq!(Verdict::new(Ok(()), &broken, Some("why")), r1());
        let both = Verdict::Failed("bad\nR1".into());
        assert_eq!(Verdict::new(failed("bad"), &broken, Some("why")), both);
    }

    #[test]
    fn the_peer_may_be_excused() {
        let expected = Verdict::Expected("bad".into(), "C panfrost: why".into());
        assert_eq!(Verdict::new(failed("bad"), &[], Some("why")), expected);
        assert_eq!(Verdict::new(Ok(()), &[], Some("why")), Verdict::Passed);
    }
}
