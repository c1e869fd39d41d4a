// SPDX-License-Identifier: GPL-2.0

//! The state of heaps, for debugfs.
//!
//! Locks are only tried, and nothing is allocated under them.

use kernel::fmt;

use super::{
    policy,
    Heap,
    HeapSet,
    CHUNK, //
};

impl Heap {
    /// Writes the line of a heap.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(inner) = self.inner.try_lock() else {
            return writeln!(f, "busy");
        };
        // The heap is about to be removed from the set.
        let Some(addresses) = &inner.addresses else {
            return Ok(());
        };

        writeln!(
            f,
            "{:>5} {:>#11x} {:>11} {:>11} {:>7} {:>7} {:>5}  {}",
            addresses.space.id(),
            addresses.start,
            self.len * CHUNK,
            self.resident(),
            inner.chunks.filled(),
            inner.credit.filled(),
            inner.high.peak(),
            match inner.waits.first() {
                Some(_) => "stalled",
                None if inner.life.is_live() => "live",
                None => "dead",
            }
        )
    }
}

impl HeapSet {
    /// Writes the numbers of the policy, the state of the reserve, and a line for each heap.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chunk: {CHUNK} bytes")?;
        writeln!(
            f,
            "reserve: {} of {} chunks",
            self.in_reserve(),
            policy::RESERVE
        )?;
        writeln!(f, "reclaimable: {} pages", self.pages(None))?;
        writeln!(
            f,
            "credit: {} more than the high-water mark, at most {}",
            policy::SPARE,
            policy::MAX_CREDIT
        )?;
        writeln!(
            f,
            "idle: {} chunks after {} ms",
            policy::WORKING_SET,
            policy::IDLE_MS
        )?;
        writeln!(
            f,
            "in use: half after {} to {} ms",
            policy::PROBE_MS,
            policy::MAX_PROBE_MS
        )?;
        writeln!(f, "deadline: {} ms", self.stall_ms())?;
        writeln!(
            f,
            "\nspace       start        size    resident  chunks  credit  high  state"
        )?;

        let shown = self.try_for_each(|heap| heap.show(f));
        shown.unwrap_or_else(|| writeln!(f, "busy"))
    }
}
