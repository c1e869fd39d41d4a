// SPDX-License-Identifier: GPL-2.0

//! The reports of the slots, as the queue is told of them: chains that are done, have failed, or
//! have stopped.
//!
//! Everything here runs with [`Jobs::slots_lock`](super::Jobs::slots_lock) held and the queue
//! locked, so that no chain enters a slot meanwhile. Nothing is logged here, since a console can be
//! slow.

use kernel::{
    drm::job_queue::{
        self,
        Position,
        QueueSlot, //
    },
    prelude::*,
    sync::atomic::Relaxed, //
};

use crate::{
    device::Gpu,
    hw::{
        JobsInSlots,
        Outcome,
        Resume,
        Runner,
        SlotStatus,
        MAX_SLOTS, //
    }, //
};

use super::{
    dump::Why,
    queue::{
        QueueOwner,
        SlotAccess, //
    },
    status::{
        stopped,
        Stopped, //
    },
    subject::Subject,
    Started,
    Status,
    LADDER, //
};

/// The jobs in the slots, with the queue locked.
type LoadedJobs<'l, 'a, 'g> = job_queue::LoadedJobs<'l, QueueOwner, SlotAccess<'a, 'g>>;

/// The result of [`take_events`].
#[derive(Default)]
pub(super) struct Events {
    /// The GPU has to be reset.
    pub(super) reset: bool,
    /// The last failure in each slot, if it was a fault.
    pub(super) failures: [Option<(Status, Subject)>; MAX_SLOTS],
    /// Number of jobs that have stopped and continue after others.
    pub(super) yielded: u32,
    /// Number of reported ends of chains that the slots did not have.
    pub(super) spurious: u32,
    /// There was a report that was not spurious.
    pub(super) any: bool,
}

/// Applies reports to the jobs in the slots.
struct Reporter<'r, 'l, 'a, 'g> {
    loaded: &'r mut LoadedJobs<'l, 'a, 'g>,
    started: &'r Started,
    gpu: &'r Gpu<'r>,
    events: Events,
}

impl JobsInSlots<Status> for Reporter<'_, '_, '_, '_> {
    fn count(&self, slot: QueueSlot) -> usize {
        [Position::Current, Position::Next]
            .into_iter()
            .filter(|&position| self.loaded.get(slot, position).is_some())
            .count()
    }

    fn finish(&mut self, slot: QueueSlot) -> bool {
        self.loaded.finish(slot, Ok(()))
    }

    fn fail(&mut self, slot: QueueSlot, status: Status) -> bool {
        let subject = self
            .loaded
            .get(slot, Position::Current)
            .map(|running| Subject::new(slot, running.job));
        let Some(yields) = take_failure(self.loaded, self.started, self.gpu, slot, &status) else {
            return false;
        };

        self.events.yielded += u32::from(yields);
        if let Some(failure) = self.events.failures.get_mut(slot.index()) {
            *failure = subject
                .filter(|_| status.is_fault())
                .map(|subject| (status, subject));
        }
        true
    }
}

/// Reads and clears the reports of the slots until there are none, and tells the queue, whose lock
/// `loaded` stands for.
pub(super) fn take_events(
    loaded: &mut LoadedJobs<'_, '_, '_>,
    started: &Started,
    gpu: &Gpu<'_>,
) -> Events {
    let mut reporter = Reporter {
        loaded,
        started,
        gpu,
        events: Events::default(),
    };
    let reports = gpu.collect(&mut reporter);

    Events {
        reset: reports.reset,
        spurious: reports.spurious,
        any: reports.any,
        ..reporter.events
    }
}

/// Ends the jobs that the slots have finished without a report. Returns their number.
pub(super) fn take_unreported(
    loaded: &mut LoadedJobs<'_, '_, '_>,
    started: &Started,
    gpu: &Gpu<'_>,
) -> u32 {
    gpu.collect_unreported(&mut Reporter {
        loaded,
        started,
        gpu,
        events: Events::default(),
    })
}

/// Handles the report that the slot's current chain has failed or was stopped.
///
/// Returns [`None`] if the report was spurious: the chain still runs, or there is none. Otherwise
/// returns whether the chain was stopped and yields its turn to others.
fn take_failure(
    loaded: &mut LoadedJobs<'_, '_, '_>,
    started: &Started,
    gpu: &Gpu<'_>,
    slot: QueueSlot,
    status: &Status,
) -> Option<bool> {
    let running = loaded.get(slot, Position::Current);
    let goes_on = |strikes: u8| usize::from(strikes) < LADDER.len();
    let to_end = running
        .as_ref()
        .filter(|running| !goes_on(running.strikes))
        .map(|running| running.job.end());
    let resumed = running
        .as_ref()
        .is_some_and(|running| running.job.resumed.load(Relaxed));
    // A fault is no hang, even if it comes after the job should have stopped: it may have been
    // stalled, waiting for memory.
    let faults = running.is_some_and(|running| {
        running.job.faulted.load(Relaxed) || goes_on(running.strikes) && status.is_fault()
    });
    let outcome = gpu.outcome(slot, status, to_end, resumed);

    if outcome == Outcome::Runs {
        return None;
    }
    if faults && matches!(outcome, Outcome::Ended(Err(_))) {
        begin_dump(loaded, started, gpu, slot, Why::Fault);
    }
    // The slot has not begun the next chain, and must not before the queue hands it over again.
    gpu.withdraw_waiting(slot);
    loaded.requeue(slot, Position::Next);
    match outcome {
        Outcome::Runs => None,
        Outcome::Stopped => take_stopped(loaded, started, gpu, slot, status),
        Outcome::Ended(Err(error)) if faults => loaded.finish_stopped(slot, error).then_some(false),
        Outcome::Ended(result) => loaded.finish(slot, result).then_some(false),
    }
}

/// Begins a dump of the current job of a slot.
fn begin_dump(
    loaded: &LoadedJobs<'_, '_, '_>,
    started: &Started,
    gpu: &Gpu<'_>,
    slot: QueueSlot,
    why: Why,
) {
    if let Some(running) = loaded.get(slot, Position::Current) {
        started
            .dumps
            .begin(why, gpu, &running, started.workers.now());
    }
}

/// Handles the current chain of a slot having stopped softly. Returns the same as [`take_failure`].
fn take_stopped(
    loaded: &mut LoadedJobs<'_, '_, '_>,
    started: &Started,
    gpu: &Gpu<'_>,
    slot: QueueSlot,
    status: &Status,
) -> Option<bool> {
    let running = loaded.get(slot, Position::Current)?;
    let now = started.workers.now();
    let ran_ns = running
        .ran_ns
        .saturating_add(now.saturating_sub(running.started));
    let circles = running.job.circles.load(Relaxed);

    match status.resume(0) {
        Resume::At(head) => {
            running.job.head.store(head, Relaxed);
            running.job.resumed.store(true, Relaxed);
        }
        Resume::Anew | Resume::Nowhere => {
            return loaded.finish(slot, Err(ECANCELED)).then_some(false);
        }
    }
    match stopped(running.strikes > 0, circles, ran_ns, started.limit_ns) {
        Stopped::GoesOn => loaded.requeue(slot, Position::Current).then_some(false),
        Stopped::Yields => loaded.yield_turn(slot).then_some(true),
        Stopped::Ends => loaded.finish_stopped(slot, ECANCELED).then_some(false),
        Stopped::Hangs => {
            begin_dump(loaded, started, gpu, slot, Why::Circle);
            loaded.finish(slot, Err(ECANCELED)).then_some(false)
        }
    }
}
