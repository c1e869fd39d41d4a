// SPDX-License-Identifier: GPL-2.0

//! The transaction log: one line per register access (`R`, `W`), interrupt (`I`), DMA map (`D`)
//! and event of the GPU (`#`). There are no times in it, so that two synchronous runs can be
//! compared.
//!
//! Locks: one around the file, innermost.

use std::fmt;
use std::fs::File;
use std::io;
use std::io::LineWriter;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use model::gpu::Trace;

/// The log's file.
pub(crate) struct Log(Mutex<LineWriter<File>>);

impl Log {
    /// Begins a log.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(Mutex::new(LineWriter::new(File::create(path)?))))
    }

    /// Adds a line. A disk that is full ends no test.
    pub(crate) fn line(&self, what: fmt::Arguments<'_>) {
        if let Ok(mut file) = self.0.lock() {
            let _ = writeln!(file, "{what}");
        }
    }
}

impl Trace for Log {
    fn event(&self, what: fmt::Arguments<'_>) {
        self.line(format_args!("# {what}"));
    }
}
