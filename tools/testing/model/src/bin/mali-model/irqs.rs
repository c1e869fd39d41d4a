// SPDX-License-Identifier: GPL-2.0

//! MSI-X vectors as eventfds.
//!
//! The emulator takes all eventfds away and gives them back whenever the guest enables one more
//! vector. A message that falls into such a gap is kept and sent when the vector has its eventfd
//! again.
//!
//! Locks: one around the table, inside of the GPU's.

use std::fs::File;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use model::host::IrqSink;

use crate::log::Log;
use crate::sys;

#[derive(Default)]
struct Line {
    fd: Option<File>,
    pending: bool,
}

/// The table of eventfds.
pub(crate) struct Eventfds {
    lines: Mutex<Vec<Line>>,
    /// The names of the vectors, by number.
    names: &'static [&'static str],
    log: Option<Arc<Log>>,
}

impl Eventfds {
    /// Creates a table without eventfds, for vectors with these names.
    pub(crate) fn new(names: &'static [&'static str], log: Option<Arc<Log>>) -> Self {
        Self {
            lines: Mutex::new(names.iter().map(|_| Line::default()).collect()),
            names,
            log,
        }
    }

    /// Returns the number of vectors.
    pub(crate) fn vectors(&self) -> usize {
        self.names.len()
    }

    fn with<R>(&self, f: impl FnOnce(&mut [Line]) -> R) -> R {
        f(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets or takes away one eventfd. `vector` is below [`Eventfds::vectors`].
    pub(crate) fn set(&self, vector: usize, fd: Option<File>) {
        self.with(|lines| {
            let line = &mut lines[vector];
            line.fd = fd;
            if let (true, Some(fd)) = (line.pending, &line.fd) {
                sys::signal(fd);
                line.pending = false;
            }
        });
    }

    /// Takes all eventfds away.
    pub(crate) fn clear(&self) {
        self.with(|lines| lines.iter_mut().for_each(|line| line.fd = None));
    }

    /// Drops messages that were kept.
    pub(crate) fn reset(&self) {
        self.with(|lines| lines.iter_mut().for_each(|line| line.pending = false));
    }

    /// Sends one message without logging it.
    pub(crate) fn trigger(&self, vector: usize) {
        self.with(|lines| {
            let line = &mut lines[vector];
            match &line.fd {
                Some(fd) => sys::signal(fd),
                None => line.pending = true,
            }
        });
    }
}

impl IrqSink for Eventfds {
    fn raise(&self, vector: usize) {
        if let Some(log) = &self.log {
            log.line(format_args!("I {}", self.names[vector]));
        }
        self.trigger(vector);
    }
}
