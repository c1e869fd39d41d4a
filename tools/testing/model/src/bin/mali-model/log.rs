// SPDX-License-Identifier: GPL-2.0

//! The transaction log: one line per register access (`R`, `W`; `CR`, `CW` for the control
//! channel), interrupt (`I`), DMA map (`D`) and event of the GPU (`#`).
//!
//! Each line begins with the time of the guest's kernel log, so that the two logs can be compared;
//! it is dashes until the guest has reported its time. With `--sync` there are no times, so that
//! two runs can be compared.
//!
//! Locks: one around the file, innermost.

use std::fmt;
use std::fs::File;
use std::io;
use std::io::LineWriter;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use model::control;
use model::host::Trace;

/// The guest's time, as far as it was reported.
#[derive(Debug, Default)]
struct GuestTime {
    low: u32,
    /// A moment, and the guest's time at that moment.
    known: Option<(Instant, Duration)>,
}

impl GuestTime {
    /// Handles a write of the guest to one of the time registers.
    fn write(&mut self, offset: u32, value: u32, now: Instant) {
        match offset {
            control::GUEST_TIME_LO => self.low = value,
            control::GUEST_TIME_HI => {
                let ns = u64::from(value) << 32 | u64::from(self.low);
                self.known = Some((now, Duration::from_nanos(ns)));
            }
            _ => (),
        }
    }

    /// Formats a moment as the guest's log does.
    fn stamp(&self, now: Instant) -> String {
        match self.known {
            Some((then, time)) => {
                let time = time + now.saturating_duration_since(then);
                format!("[{:5}.{:06}] ", time.as_secs(), time.subsec_micros())
            }
            None => "[-----.------] ".into(),
        }
    }
}

struct State {
    file: LineWriter<File>,
    /// `None` if no times are logged.
    time: Option<GuestTime>,
}

/// The log's file.
pub(crate) struct Log(Mutex<State>);

impl Log {
    /// Begins a log, with times or without.
    pub(crate) fn create(path: &Path, times: bool) -> io::Result<Self> {
        Ok(Self(Mutex::new(State {
            file: LineWriter::new(File::create(path)?),
            time: times.then(GuestTime::default),
        })))
    }

    /// Adds a line. Errors are ignored, so that a full disk does not end a test.
    pub(crate) fn line(&self, what: fmt::Arguments<'_>) {
        if let Ok(mut state) = self.0.lock() {
            let time = state.time.as_ref().map(|time| time.stamp(Instant::now()));
            let _ = writeln!(state.file, "{}{what}", time.unwrap_or_default());
        }
    }

    /// Handles a write of the guest to the control channel, which may be its time.
    pub(crate) fn control_write(&self, offset: u32, value: u32) {
        if let Ok(mut state) = self.0.lock() {
            if let Some(time) = &mut state.time {
                time.write(offset, value, Instant::now());
            }
        }
    }
}

impl Trace for Log {
    fn event(&self, what: fmt::Arguments<'_>) {
        self.line(format_args!("# {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_time_of_the_guest() {
        let mut time = GuestTime::default();
        let now = Instant::now();
        assert_eq!(time.stamp(now), "[-----.------] ");
        let ns: u64 = 12_345_678_000;
        time.write(control::GUEST_TIME_LO, ns as u32, now);
        assert_eq!(time.stamp(now), "[-----.------] ");
        time.write(control::GUEST_TIME_HI, (ns >> 32) as u32, now);
        assert_eq!(time.stamp(now), "[   12.345678] ");
        let later = now + Duration::from_millis(1500);
        assert_eq!(time.stamp(later), "[   13.845678] ");
    }
}
