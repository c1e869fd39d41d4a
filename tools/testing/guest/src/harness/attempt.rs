// SPDX-License-Identifier: GPL-2.0

//! One attempt at a test, and what is seen of it.

use std::time::Duration;

use super::Gpu;
use super::KernelLog;
use super::Outcome;
use super::Process;
use super::Stop;
use super::Test;
use crate::board;
use crate::board::Rules;
use crate::sys;
use crate::sys::Errno;

/// Messages of C panfrost when something took longer than it waits. Its limits are fixed, half a
/// second for a job, a tenth for a command of the MMU, and may be too short on a busy host. It
/// then resets the GPU, whoever else has a job on it.
const PEER_LATE: &[&str] = &[
    "gpu sched timeout",
    "unexpectedly high interrupt latency",
    "AS_ACTIVE bit stuck",
    "Soft-stop failed",
    "power transition timeout",
    "reset timed out",
];

/// Runs single tests.
pub(super) struct Runner<'a> {
    pub(super) gpu: &'a Gpu,
    /// The time that a test may take.
    pub(super) timeout: Duration,
    pub(super) log: KernelLog,
    /// The counts of the board's rules. Never set back, so that nothing happens unseen between two
    /// tests.
    pub(super) rules: Rules,
}

/// How a test went.
pub(super) struct Attempt {
    pub(super) outcome: Outcome,
    /// The kernel's log.
    pub(super) lines: Vec<String>,
    /// The rules of the board that were broken, other than those that C panfrost is known to break.
    pub(super) broken: Vec<String>,
    /// C panfrost has said that it was late.
    pub(super) late: bool,
}

impl Runner<'_> {
    /// Runs a test. `before`: what the kernel has logged before it. `was_late`: C panfrost was late
    /// in an earlier attempt.
    pub(super) fn attempt(
        &mut self,
        test: &Test,
        before: Vec<String>,
        excuse: Option<&str>,
        was_late: bool,
    ) -> Attempt {
        let c_driver = self.gpu.is_c_driver();
        let outcome = run_in_child(self.gpu, test, self.timeout, excuse.is_some());
        let mut lines = self.log.lines();
        // A job that the test before has left behind may be late now.
        if c_driver {
            lines.splice(0..0, before);
        }
        let says = |line: &String| PEER_LATE.iter().any(|late| line.contains(late));
        let late = c_driver && lines.iter().any(says);
        let mut broken = match Rules::now() {
            Ok(now) => {
                let broken = now.since(&self.rules);
                self.rules = now;
                broken
            }
            Err(errno) => vec![unread(errno)],
        };
        if c_driver {
            // It was seen to read a register of a GPU that is off after that, and not without it.
            let why = test
                .peer_breaks
                .or((late || was_late).then_some("a job took too long for it"));
            let known: Vec<String>;
            (known, broken) = broken
                .into_iter()
                .partition(|line| why.is_some() || board::only_recorded_of_peer(line));
            if !known.is_empty() {
                let why = why.unwrap_or("it does not wait for stores");
                println!("# known of C panfrost: {} ({why})", known.join(", "));
            }
        }
        Attempt {
            outcome,
            lines,
            broken,
            late,
        }
    }
}

impl Attempt {
    /// Why it has failed, if it has for another reason than the excuse.
    pub(super) fn failure(&self, excuse: Option<&str>) -> Option<String> {
        match &self.outcome {
            Err(Stop::Fail(message)) if excuse.is_none() => Some(message.clone()),
            _ => (!self.broken.is_empty()).then(|| self.broken.join(", ")),
        }
    }
}

/// The message when it is not known whether a rule was broken.
pub(super) fn unread(errno: Errno) -> String {
    format!("the counts of the board's rules cannot be read: {errno}")
}

/// Runs a test in a process of its own, so that all its files close with it however it ends.
/// `hurried`: it is expected to fail, and need not wait for long.
fn run_in_child(gpu: &Gpu, test: &Test, timeout: Duration, hurried: bool) -> Outcome {
    let run = || {
        sys::outlive_reader();
        if hurried {
            sys::hurry();
        }
        (test.run)(gpu)
    };
    // SAFETY: this process has one thread.
    unsafe { Process::start(run)? }.finish(timeout)
}
