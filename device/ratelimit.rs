// SPDX-License-Identifier: GPL-2.0

//! Limits how much the driver logs: a burst of lines, then none until the interval has passed. The
//! next line after that is preceded by the number of lines that were suppressed.
//!
//! Each file has a limit for messages about its jobs, so that one client cannot suppress messages
//! about another. Messages about the hardware have a limit of their own, as have those about resets
//! and about closed contexts, which jobs that hang bring about.
//!
//! One spinlock, a leaf.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::SpinLock,
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// Number of lines allowed per interval.
const BURST: u32 = 10;
/// Length of the interval.
const INTERVAL: Delta = Delta::from_secs(5);

/// The current interval, and the lines counted in it.
struct Window {
    /// When the interval began.
    since: Instant<Monotonic>,
    /// Number of lines in the interval so far, including those suppressed.
    lines: u32,
}

/// A limit.
#[pin_data]
pub(crate) struct Ratelimit {
    #[pin]
    window: SpinLock<Window>,
}

impl Ratelimit {
    /// Creates a limit against which nothing was counted yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            window <- new_spinlock!(
                Window {
                    since: Instant::now(),
                    lines: 0,
                },
                "drm_gpu::log"
            ),
        })
    }

    /// Counts a line. Returns whether it may be logged. If an interval with suppressed lines has
    /// ended, logs their number first. Process context.
    pub(crate) fn allows(&self) -> bool {
        let (allowed, left_out) = self.window.lock().count(Instant::now());

        if left_out != 0 {
            pr_notice!("{} message(s) like the next one suppressed\n", left_out);
        }
        allowed
    }
}

impl Window {
    /// Counts a line. Returns whether it may be logged, and the number of lines suppressed in the
    /// previous interval if this line begins a new one.
    fn count(&mut self, now: Instant<Monotonic>) -> (bool, u32) {
        let mut left_out = 0;

        if now - self.since > INTERVAL {
            left_out = self.lines.saturating_sub(BURST);
            self.since = now;
            self.lines = 0;
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= BURST, left_out)
    }
}

#[kunit_tests(drm_gpu_ratelimit)]
mod tests {
    use super::*;

    #[test]
    fn lines_left_out_are_told() {
        let start = Instant::now();
        let mut window = Window {
            since: start,
            lines: 0,
        };

        for _ in 0..BURST {
            assert!(window.count(start) == (true, 0));
        }
        for _ in 0..3 {
            assert!(window.count(start) == (false, 0));
        }
        let later = start + INTERVAL + Delta::from_millis(1);
        assert!(window.count(later) == (true, 3));
        assert!(window.count(later) == (true, 0));
        assert!(window.count(later + INTERVAL + Delta::from_millis(1)) == (true, 0));
    }
}
