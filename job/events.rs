// SPDX-License-Identifier: GPL-2.0

//! The reports of the slots: chains that are done, have failed, or have stopped.
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
        mali::job::{
            self as js,
            Slot,
            Status, //
        },
        Runner, //
    }, //
};

use super::{
    queue::{
        QueueOwner,
        SlotAccess, //
    },
    status::{
        outcome,
        resume,
        stopped,
        unreported,
        Outcome,
        Resume,
        Stopped,
        Told, //
    },
    subject::Subject,
    Started,
    LADDER, //
};

/// The number of times that pending interrupts are read in one go. A GPU that still has more is
/// broken.
const MAX_ROUNDS: usize = 64;

/// The jobs in the slots, with the queue locked.
type LoadedJobs<'l, 'a, 'g> = job_queue::LoadedJobs<'l, QueueOwner, SlotAccess<'a, 'g>>;

/// The events of a slot that [`take_events`] has read and not yet applied to the queue.
#[derive(Clone, Copy, Default)]
struct SlotEvents {
    /// A chain is done, and the queue has not been told yet.
    done: bool,
    /// The last event was a failure or a stop.
    failed: bool,
    /// The number of chains that the slot held when its interrupts were last cleared.
    left: usize,
}

/// The result of [`take_events`].
#[derive(Default)]
pub(super) struct Events {
    /// The GPU has to be reset.
    pub(super) reset: bool,
    /// The last failure in each slot, if it was a fault.
    pub(super) failures: [Option<(Status, Subject)>; js::NR_SLOTS],
    /// Number of jobs that have stopped and continue after others.
    pub(super) yielded: u32,
    /// Number of reported ends of chains that the slots did not have.
    pub(super) spurious: u32,
    /// There was a report that was not spurious.
    pub(super) any: bool,
}

impl Events {
    /// Counts a report, `real` unless it was spurious.
    fn count(&mut self, real: bool) {
        self.spurious += u32::from(!real);
        self.any |= real;
    }
}

/// Reads and clears the interrupts of the slots until none are pending, and tells the queue.
///
/// The queue's lock, which `loaded` stands for, keeps chains from entering a slot meanwhile. The
/// hardware latches the state of a slot when its interrupts are cleared. More can have happened
/// since, so only the last reading counts.
pub(super) fn take_events(
    loaded: &mut LoadedJobs<'_, '_, '_>,
    started: &Started,
    gpu: &Gpu<'_>,
) -> Events {
    let mut noted = [SlotEvents::default(); js::NR_SLOTS];
    let mut taken = Events::default();
    let mut failures = [const { None }; js::NR_SLOTS];

    for _ in 0..MAX_ROUNDS {
        // A device that is gone has nothing to report.
        let Ok(events) = js::pending(gpu) else {
            break;
        };
        if events.is_empty() {
            break;
        }
        for ((&slot, noted), failure) in Slot::ALL.iter().zip(&mut noted).zip(&mut failures) {
            if !events.any(slot) {
                continue;
            }
            noted.failed = false;
            if events.failed(slot) {
                // The slot does not go on before the interrupt is cleared, so a chain that is done
                // precedes the one that has failed.
                if events.done(slot) || noted.done {
                    taken.count(finish(loaded, slot));
                    noted.done = false;
                }
                noted.failed = true;
                let status = js::status(gpu, slot);
                let subject = loaded
                    .get(slot.in_queue(), Position::Current)
                    .map(|running| Subject::new(running.slot, running.job));
                let ended = take_failure(loaded, started, gpu, slot, &status);

                taken.count(ended.is_some());
                if let Some(yields) = ended {
                    taken.yielded += u32::from(yields);
                    taken.reset |= js::needs_reset(&gpu.caps, slot, status.exception);
                    *failure = subject
                        .filter(|_| status.exception.is_fault())
                        .map(|subject| (status, subject));
                }
            } else {
                if noted.done {
                    // Two chains have ended, one after the other.
                    taken.count(finish(loaded, slot));
                }
                noted.done = true;
            }
        }
        let active = js::acknowledge(gpu, events);
        for (&slot, noted) in Slot::ALL.iter().zip(&mut noted) {
            if events.any(slot) {
                noted.left = active.count(slot);
            }
        }
    }

    for (&slot, noted) in Slot::ALL.iter().zip(&noted) {
        if noted.done && !noted.failed {
            taken.count(finish_all_but(loaded, slot, noted.left));
        }
    }
    taken.failures = failures;
    taken
}

/// Ends the slot's current job successfully. Returns false if there is none.
fn finish(loaded: &mut LoadedJobs<'_, '_, '_>, slot: Slot) -> bool {
    loaded.finish(slot.in_queue(), Ok(()))
}

/// Ends jobs successfully until a slot that has reported the end of a chain has `left` jobs.
///
/// A slot proceeds from one chain to the next by itself, so one report can stand for two. Returns
/// false if the report was spurious: the slot still holds all the chains that it should.
fn finish_all_but(loaded: &mut LoadedJobs<'_, '_, '_>, slot: Slot, left: usize) -> bool {
    let in_queue = slot.in_queue();
    let expected = count_loaded(loaded, in_queue);

    for _ in left..expected {
        loaded.finish(in_queue, Ok(()));
    }
    left < expected
}

/// Ends the jobs that the slots have finished without an interrupt. Returns their number.
///
/// Some hardware loses the interrupt, and a slot should be asked before its job is taken for hung.
pub(super) fn take_unreported(loaded: &mut LoadedJobs<'_, '_, '_>, gpu: &Gpu<'_>) -> u32 {
    let mut ended = 0;

    for slot in Slot::ALL {
        let in_queue = slot.in_queue();
        let expected = count_loaded(loaded, in_queue);
        // A pending interrupt reports the end of the job.
        if expected == 0 || js::pending(gpu).map_or(true, |events| events.any(slot)) {
            continue;
        }
        let active = js::sample(gpu, slot);
        // An interrupt reports a chain that has failed meanwhile. It is pending by now if that was
        // before the sample.
        let failed = js::pending(gpu).map_or(true, |events| events.failed(slot));
        let gone = unreported(
            expected,
            active.running(slot),
            active.next(slot),
            failed || !js::was_done(gpu, slot),
        );

        for _ in 0..gone {
            ended += u32::from(loaded.finish(in_queue, Ok(())));
        }
    }
    ended
}

/// Returns the number of jobs that the slot should hold.
fn count_loaded(loaded: &LoadedJobs<'_, '_, '_>, slot: QueueSlot) -> usize {
    [Position::Current, Position::Next]
        .into_iter()
        .filter(|&position| loaded.get(slot, position).is_some())
        .count()
}

/// Handles the report that the slot's current chain has failed or was stopped.
///
/// Returns [`None`] if the report was spurious: the chain still runs, or there is none. Otherwise
/// returns whether the chain was stopped and yields its turn to others.
fn take_failure(
    loaded: &mut LoadedJobs<'_, '_, '_>,
    started: &Started,
    gpu: &Gpu<'_>,
    slot: Slot,
    status: &Status,
) -> Option<bool> {
    let in_queue = slot.in_queue();
    let running = loaded.get(in_queue, Position::Current);
    let told = running.as_ref().map_or(Told::default(), |running| Told {
        to_end: (usize::from(running.strikes) >= LADDER.len()).then(|| running.job.end()),
        lacks_tiles: running.job.resumed.load(Relaxed) && js::may_lack_tiles(&gpu.caps, slot),
    });
    // A fault is no hang, even if it comes after the job should have stopped: it may have been
    // stalled, waiting for memory.
    let faults = running.is_some_and(|running| {
        let goes_on = usize::from(running.strikes) < LADDER.len();

        running.job.faulted.load(Relaxed) || goes_on && status.exception.is_fault()
    });
    let outcome = outcome(status.exception, told);

    if outcome == Outcome::Runs {
        return None;
    }
    // The slot has not begun the next chain, and must not before the queue hands it over again.
    gpu.withdraw_waiting(in_queue);
    loaded.requeue(in_queue, Position::Next);
    match outcome {
        Outcome::Runs => None,
        Outcome::Stopped => take_stopped(loaded, started, in_queue, status),
        Outcome::Ended(Err(error)) if faults => {
            loaded.finish_stopped(in_queue, error).then_some(false)
        }
        Outcome::Ended(result) => loaded.finish(in_queue, result).then_some(false),
    }
}

/// Handles the current chain of a slot having stopped softly. Returns the same as [`take_failure`].
fn take_stopped(
    loaded: &mut LoadedJobs<'_, '_, '_>,
    started: &Started,
    slot: QueueSlot,
    status: &Status,
) -> Option<bool> {
    let running = loaded.get(slot, Position::Current)?;
    let now = started.workers.now();
    let ran_ns = running
        .ran_ns
        .saturating_add(now.saturating_sub(running.started));
    let circles = running.job.circles.load(Relaxed);

    match resume(status.exception, status.head, status.tail, 0) {
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
        Stopped::Hangs => loaded.finish(slot, Err(ECANCELED)).then_some(false),
    }
}
