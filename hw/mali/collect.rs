// SPDX-License-Identifier: GPL-2.0

//! The reports of the job slots: chains that are done, have failed, or have stopped.
//!
//! The queue is locked, which keeps chains from entering a slot meanwhile; see
//! [`Runner::collect`](crate::hw::Runner::collect).

use kernel::{
    io::Io,
    prelude::*, //
};

use super::{
    job::{
        code,
        read,
        status_of,
        Slot,
        ALL_SLOTS, //
    },
    regs::job::*,
    status::{
        needs_reset,
        Status, //
    },
    Exception,
    Issue, //
};
use crate::{
    device::Gpu,
    hw::{
        JobsInSlots,
        Reports, //
    }, //
};

/// The number of times that pending interrupts are read in one go. A GPU that still has more is
/// broken.
const MAX_ROUNDS: usize = 64;

/// The events of a slot that [`collect`] has read and not yet applied to the queue.
#[derive(Clone, Copy, Default)]
struct SlotEvents {
    /// A chain is done, and the queue has not been told yet.
    done: bool,
    /// The last event was a failure or a stop.
    failed: bool,
    /// The number of chains that the slot held when its interrupts were last cleared.
    left: usize,
}

impl Reports {
    /// Counts a report, `real` unless it was spurious.
    fn count(&mut self, real: bool) {
        self.spurious += u32::from(!real);
        self.any |= real;
    }
}

/// See [`Runner::collect`](crate::hw::Runner::collect).
///
/// The hardware latches the state of a slot when its interrupts are cleared. More can have happened
/// since, so only the last reading counts.
pub(super) fn collect(gpu: &Gpu<'_>, jobs: &mut impl JobsInSlots<Status>) -> Reports {
    let mut noted = [SlotEvents::default(); NR_SLOTS];
    let mut taken = Reports::default();

    for _ in 0..MAX_ROUNDS {
        // A device that is gone has nothing to report.
        let Ok(events) = pending(gpu) else {
            break;
        };
        if events.is_empty() {
            break;
        }
        for (&slot, noted) in Slot::ALL.iter().zip(&mut noted) {
            if !events.any(slot) {
                continue;
            }
            noted.failed = false;
            if events.failed(slot) {
                // The slot does not go on before the interrupt is cleared, so a chain that is done
                // precedes the one that has failed.
                if events.done(slot) || noted.done {
                    taken.count(jobs.finish(slot.in_queue()));
                    noted.done = false;
                }
                noted.failed = true;
                let status = status_of(gpu, slot);
                let real = jobs.fail(slot.in_queue(), status);

                taken.count(real);
                taken.reset |= real && needs_reset(&gpu.chip.caps, slot, status.exception);
            } else {
                if noted.done {
                    // Two chains have ended, one after the other.
                    taken.count(jobs.finish(slot.in_queue()));
                }
                noted.done = true;
            }
        }
        let active = acknowledge(gpu, events);
        for (&slot, noted) in Slot::ALL.iter().zip(&mut noted) {
            if events.any(slot) {
                noted.left = active.count(slot);
            }
        }
    }

    for (&slot, noted) in Slot::ALL.iter().zip(&noted) {
        if noted.done && !noted.failed {
            taken.count(finish_all_but(jobs, slot, noted.left));
        }
    }
    taken
}

/// Finishes jobs until a slot that has reported the end of a chain has `left` jobs.
///
/// A slot proceeds from one chain to the next by itself, so one report can stand for two. Returns
/// false if the report was spurious: the slot still holds all the chains that it should.
fn finish_all_but(jobs: &mut impl JobsInSlots<Status>, slot: Slot, left: usize) -> bool {
    let expected = jobs.count(slot.in_queue());

    for _ in left..expected {
        jobs.finish(slot.in_queue());
    }
    left < expected
}

/// See [`Runner::collect_unreported`](crate::hw::Runner::collect_unreported).
pub(super) fn collect_unreported(gpu: &Gpu<'_>, jobs: &mut impl JobsInSlots<Status>) -> u32 {
    let mut ended = 0;

    for slot in Slot::ALL {
        let expected = jobs.count(slot.in_queue());
        // A pending interrupt reports the end of the job.
        if expected == 0 || pending(gpu).map_or(true, |events| events.any(slot)) {
            continue;
        }
        let active = sample(gpu, slot);
        // An interrupt reports a chain that has failed meanwhile. It is pending by now if that was
        // before the sample.
        let failed = pending(gpu).map_or(true, |events| events.failed(slot));
        let gone = unreported(
            expected,
            active.running(slot),
            active.next(slot),
            failed || !was_done(gpu, slot),
        );

        for _ in 0..gone {
            ended += u32::from(jobs.finish(slot.in_queue()));
        }
    }
    ended
}

/// Returns how many of the `loaded` chains of a slot have ended well without a report.
///
/// `running` and `next`: the slot had a current and a next chain when it was sampled, with no
/// interrupt pending just before. `failed`: after the sample, an interrupt reported a failure, or
/// the status of the slot was not that of a chain that is done.
///
/// A slot that has failed runs nothing until the interrupt is cleared. So if nothing was running,
/// the failed chain is the last of those that are gone, and its interrupt will report it; otherwise
/// it was still running when the slot was sampled.
fn unreported(loaded: usize, running: bool, next: bool, failed: bool) -> usize {
    let gone = loaded.saturating_sub(usize::from(running) + usize::from(next));

    gone.saturating_sub(usize::from(!running && failed))
}

/// Pending interrupts of the slots.
#[derive(Clone, Copy)]
struct Events(JOB_INT_RAWSTAT);

impl Events {
    /// Returns the event that a chain of the slot is done, and no other.
    fn done_of(slot: Slot) -> Self {
        Self(JOB_INT_RAWSTAT::zeroed().with_done(slot.bit()))
    }

    /// Returns whether no event is pending.
    fn is_empty(self) -> bool {
        self.0 == JOB_INT_RAWSTAT::zeroed()
    }

    /// Returns whether a chain of the slot is done.
    fn done(self, slot: Slot) -> bool {
        self.0.done() & slot.bit() != 0
    }

    /// Returns whether a chain of the slot has failed or was stopped.
    fn failed(self, slot: Slot) -> bool {
        self.0.failed() & slot.bit() != 0
    }

    /// Returns whether any event of the slot is pending.
    fn any(self, slot: Slot) -> bool {
        self.done(slot) || self.failed(slot)
    }
}

/// The chains that the slots had when their interrupts were last cleared.
#[derive(Clone, Copy)]
struct Active(JOB_INT_JS_STATE);

impl Active {
    /// Returns whether the slot has a current chain.
    fn running(self, slot: Slot) -> bool {
        self.0.current() & slot.bit() != 0
    }

    /// Returns whether the slot has a next chain.
    fn next(self, slot: Slot) -> bool {
        self.0.next() & slot.bit() != 0
    }

    /// Returns the number of chains in the slot.
    fn count(self, slot: Slot) -> usize {
        usize::from(self.running(slot)) + usize::from(self.next(slot))
    }
}

/// Returns the pending interrupts, whether masked or not. Clears those of slots that the driver
/// does not use.
///
/// `ENODEV` if the device is gone.
fn pending(gpu: &Gpu<'_>) -> Result<Events> {
    let status = gpu.chip.io.read(JOB_INT_RAWSTAT);

    if status.into_raw() == u32::MAX {
        return Err(ENODEV);
    }
    let others = JOB_INT_CLEAR::zeroed()
        .with_done(status.done() & !ALL_SLOTS)
        .with_failed(status.failed() & !ALL_SLOTS);
    if others != JOB_INT_CLEAR::zeroed() {
        gpu.chip.io.write_reg(others);
    }
    Ok(Events(
        status
            .with_done(status.done() & ALL_SLOTS)
            .with_failed(status.failed() & ALL_SLOTS),
    ))
}

/// Number of times that a slot is sampled again while it reports a current chain that has already
/// ended.
const STALE_LOOKS: usize = 4;

/// Clears interrupts. Returns the chains that the slots had at that moment.
fn acknowledge(gpu: &Gpu<'_>, events: Events) -> Active {
    let mut active = clear(gpu, events);

    if gpu.chip.caps.issue(Issue::T10883) {
        for slot in Slot::ALL.into_iter().filter(|&slot| events.any(slot)) {
            for _ in 0..STALE_LOOKS {
                // A running chain has a different status.
                if !active.running(slot) || code(gpu, slot) != Exception::OK {
                    break;
                }
                active = clear(gpu, Events::done_of(slot));
            }
        }
    }
    active
}

/// Samples a slot without a pending interrupt. If a chain completes at that moment, its interrupt
/// is cleared as well.
fn sample(gpu: &Gpu<'_>, slot: Slot) -> Active {
    acknowledge(gpu, Events::done_of(slot))
}

fn clear(gpu: &Gpu<'_>, events: Events) -> Active {
    gpu.chip
        .io
        .write_reg(JOB_INT_CLEAR::from_raw(events.0.into_raw()));
    active(gpu)
}

/// Returns whether the last chain of an idle slot has completed. Returns false after a reset, which
/// also clears the configuration of the slot.
fn was_done(gpu: &Gpu<'_>, slot: Slot) -> bool {
    let code = code(gpu, slot);

    // `OK` is the status of a chain whose completion was not reported.
    (code == Exception::DONE || code == Exception::OK)
        && read::<JS_CONFIG>(gpu, slot).into_raw() != 0
}

/// Returns the chains that the slots had when their interrupts were last cleared.
fn active(gpu: &Gpu<'_>) -> Active {
    Active(gpu.chip.io.read(JOB_INT_JS_STATE))
}

#[kunit_tests(drm_gpu_hw_collect)]
mod tests {
    use super::*;

    #[test]
    fn ends_without_a_report() {
        // Nothing has ended.
        assert!(unreported(2, true, true, false) == 0);
        assert!(unreported(1, false, true, false) == 0);
        // Of two, the first, then both.
        assert!(unreported(2, true, false, false) == 1);
        assert!(unreported(2, false, true, false) == 1);
        assert!(unreported(2, false, false, false) == 2);
        // The first has failed, and the second one waits.
        assert!(unreported(2, false, true, true) == 0);
        // The first is done, and the second one has failed.
        assert!(unreported(2, false, false, true) == 1);
        assert!(unreported(2, true, false, true) == 1);
        // The only one has failed.
        assert!(unreported(1, false, false, true) == 0);
    }
}
