// SPDX-License-Identifier: GPL-2.0

//! Limits how much clients can make the driver log: some lines at once, then silence for a while.
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

/// Lines per interval.
const BURST: u32 = 10;
/// The interval.
const INTERVAL: Delta = Delta::from_secs(5);

/// State of the limit.
struct State {
    /// When the interval began.
    since: Instant<Monotonic>,
    /// Lines in it so far.
    lines: u32,
}

/// A limit.
#[pin_data]
pub(crate) struct Ratelimit {
    #[pin]
    state: SpinLock<State>,
}

impl Ratelimit {
    /// A limit that nothing was counted against.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock!(
                State {
                    since: Instant::now(),
                    lines: 0,
                },
                "drm_gpu::log"
            ),
        })
    }

    /// Whether one more line may be logged. Process context.
    pub(crate) fn allows(&self) -> bool {
        let mut state = self.state.lock();

        if state.since.elapsed() > INTERVAL {
            state.since = Instant::now();
            state.lines = 0;
        }
        state.lines = state.lines.saturating_add(1);
        state.lines <= BURST
    }
}
