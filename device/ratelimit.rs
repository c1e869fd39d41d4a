// SPDX-License-Identifier: GPL-2.0

//! Limits how much the driver logs: a burst of lines, then none until the interval has passed. The
//! next line after that is preceded by the number of lines that were suppressed.
//!
//! Each file has a limit for messages about its jobs, so that one file cannot suppress messages
//! about another. All files together have a larger one, so that a client that opens one file after
//! the other cannot keep a slow console busy; by that, it can have messages about others' faults
//! suppressed. Messages about hangs do not count against it: each takes a slot for longer than the
//! job timeout, so there cannot be many. Messages about the hardware have a limit of their own, as
//! have those about resets and about closed contexts, which jobs that hang bring about.
//!
//! One spinlock for each limit, leaves, which are also taken with the spinlock of the hardware's
//! address spaces held. Process context, that of the interrupt threads included.

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

/// Number of lines allowed per interval.
const BURST: u32 = 10;
/// Number of lines about the jobs of all files that are allowed per interval.
const BURST_OF_ALL: u32 = 10 * BURST;
/// Length of the interval.
const INTERVAL: Delta = Delta::from_secs(5);

/// The current interval, and the lines counted in it.
struct Window {
    /// Number of lines allowed per interval.
    burst: u32,
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
    /// A limit that lines within this one count against as well.
    of_all: Option<Arc<Self>>,
}

impl Ratelimit {
    /// Creates a limit against which nothing was counted yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        Self::with(BURST, None)
    }

    /// Creates the limit of all files together.
    pub(crate) fn of_all_files() -> impl PinInit<Self> {
        Self::with(BURST_OF_ALL, None)
    }

    /// Creates the limit of one file, given that of all files.
    pub(crate) fn of_file(of_all: &Arc<Self>) -> impl PinInit<Self> {
        Self::with(BURST, Some(of_all.clone()))
    }

    fn with(burst: u32, of_all: Option<Arc<Self>>) -> impl PinInit<Self> {
        pin_init!(Self {
            window <- new_spinlock!(Window::new(burst, Instant::now()), "drm_gpu::log"),
            of_all,
        })
    }

    /// Counts a line. Returns whether it may be logged. If an interval with suppressed lines has
    /// ended, logs their number first. Process context.
    pub(crate) fn allows(&self) -> bool {
        self.allows_alone() && self.of_all.as_ref().is_none_or(|of_all| of_all.allows())
    }

    /// Like [`Self::allows`], for a line that does not count against the limit of all files.
    pub(crate) fn allows_alone(&self) -> bool {
        let (allowed, left_out) = self.window.lock().count(Instant::now());

        if left_out != 0 {
            pr_notice!("{} message(s) like the next one suppressed\n", left_out);
        }
        allowed
    }
}

impl Window {
    /// Creates the window of a limit whose first interval begins `now`.
    fn new(burst: u32, now: Instant<Monotonic>) -> Self {
        Self {
            burst,
            since: now,
            lines: 0,
        }
    }

    /// Counts a line. Returns whether it may be logged, and the number of lines suppressed in the
    /// previous interval if this line begins a new one.
    fn count(&mut self, now: Instant<Monotonic>) -> (bool, u32) {
        let mut left_out = 0;

        if now - self.since > INTERVAL {
            left_out = self.lines.saturating_sub(self.burst);
            self.since = now;
            self.lines = 0;
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= self.burst, left_out)
    }
}

#[kunit_tests(drm_gpu_ratelimit)]
mod tests {
    use super::*;

    #[test]
    fn lines_left_out_are_told() {
        let start = Instant::now();
        let mut window = Window::new(BURST, start);

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

    #[test]
    fn files_share_a_limit() -> Result {
        let all = Arc::pin_init(Ratelimit::with(3, None), GFP_KERNEL)?;
        let allowed = |file: &Ratelimit| (0..2).filter(|_| file.allows()).count();
        let first = Arc::pin_init(Ratelimit::of_file(&all), GFP_KERNEL)?;
        let second = Arc::pin_init(Ratelimit::of_file(&all), GFP_KERNEL)?;

        assert!(allowed(&first) == 2);
        assert!(allowed(&second) == 1);
        // A rare line is logged all the same.
        assert!(second.allows_alone());
        assert!(!second.allows());
        Ok(())
    }
}
