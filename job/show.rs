// SPDX-License-Identifier: GPL-2.0

//! The jobs as debugfs shows them.
//!
//! Owns nothing. Lock: that of the queue, which is only tried, and under which jobs are copied into
//! memory allocated before; the text is printed without it. Process context; may sleep.

use kernel::{
    alloc::Flags,
    drm::job_queue::{
        Position,
        Whereabouts, //
    },
    fmt,
    prelude::*,
    sync::atomic::Relaxed, //
};

use super::{
    subject::Subject,
    Jobs,
    Started, //
};

/// The number of jobs that are shown at most.
const MAX_SHOWN: usize = 256;

/// The whereabouts of a job, copied so that it can be printed without the queue's lock.
enum At {
    /// In the slot's registers as the current job. The hardware may be one step ahead.
    Runs,
    /// In the slot's registers as the next job. It may have begun already.
    Next,
    /// First in its FIFO with all dependencies met. Waits for its turn.
    Ready,
    /// Waits for jobs before it in its FIFO or in the slot. Its own dependencies are not shown.
    Queued,
    /// First in its FIFO, waiting for a fence with this timeline and number, and possibly for
    /// others.
    Waits(u64, u64),
}

impl From<Whereabouts<'_>> for At {
    fn from(at: Whereabouts<'_>) -> Self {
        match at {
            Whereabouts::Loaded(Position::Current) => Self::Runs,
            Whereabouts::Loaded(Position::Next) => Self::Next,
            Whereabouts::Ready => Self::Ready,
            Whereabouts::Queued => Self::Queued,
            Whereabouts::WaitsFor(fence) => Self::Waits(fence.context(), fence.seqno()),
        }
    }
}

/// Prints the jobs that have not ended: where each is, whose it is, and the timeline of its fence.
/// Allocates memory with `flags`.
pub(super) fn show_jobs(
    started: &Started,
    flags: Flags,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    // A failure is shown as text and is not an error, since the reader can try again.
    let Ok(mut jobs) = KVec::with_capacity(MAX_SHOWN, flags) else {
        return writeln!(f, "no memory to list the jobs");
    };
    let count = started.queue.look(&mut jobs, |look| {
        let subject = Subject::new(look.slot, look.job);

        (At::from(look.at), subject, look.timeline)
    });
    let Some(count) = count else {
        return writeln!(f, "the queue is busy");
    };

    writeln!(f, "jobs: {count}")?;
    for (at, subject, timeline) in &jobs {
        match at {
            At::Runs => write!(f, "runs")?,
            At::Next => write!(f, "next")?,
            At::Ready => write!(f, "ready")?,
            At::Queued => write!(f, "queued")?,
            At::Waits(timeline, number) => write!(f, "waits for fence {timeline}:{number}")?,
        }
        f.write_fmt(fmt!(": {subject}"))?;
        writeln!(f, ", timeline {timeline}")?;
    }
    if count > jobs.len() {
        writeln!(f, "and {} more", count - jobs.len())?;
    }
    Ok(())
}

impl Jobs {
    /// Prints counts of what went wrong so far, and the jobs that have not ended. May sleep to
    /// allocate memory; only tries to take the queue's lock.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overdue = self.overdue.load(Relaxed);
        let hard_stops = self.hard_stops.load(Relaxed);
        let resets = self.started().map_or(0, |started| started.workers.resets());
        let yielded = self.yielded.load(Relaxed);
        let spurious = self.spurious.load(Relaxed);
        let lost = self.lost.load(Relaxed);
        let missed_entries = self.missed_entries.load(Relaxed);

        writeln!(f, "stops of jobs that ran for too long: {overdue}")?;
        writeln!(f, "hard stops among them: {hard_stops}")?;
        writeln!(f, "turns of jobs that go on later: {yielded}")?;
        writeln!(f, "resets: {resets}")?;
        writeln!(f, "spurious interrupts: {spurious}")?;
        writeln!(f, "interrupts lost or late: {lost}")?;
        writeln!(f, "second entries that were not free yet: {missed_entries}")?;
        match self.started() {
            Ok(started) => show_jobs(started, GFP_KERNEL, f),
            Err(_) => Ok(()),
        }
    }
}
