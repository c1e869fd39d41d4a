// SPDX-License-Identifier: GPL-2.0

//! How jobs end: by themselves, by the timer, by a fault, with a reset.
//!
//! # Policy
//!
//! The smallest means comes first. A job that runs for longer than the module's parameter
//! `job_timeout_ms` is soft-stopped: it ends where one job of its chain ends and the next would begin.
//! If it is still there after a quarter of that time, it is hard-stopped; after another quarter the GPU
//! is reset. However it ends, its fence gets `ECANCELED`; jobs in the other slots go on until the reset.
//!
//! Chains that are running when the GPU is to be reset are soft-stopped first, so that those which
//! obey go on where they were; the others begin anew with the job that they were at. Only chains
//! that somebody had tried to end fail, and those that were hit by [`MAX_HITS`](super::MAX_HITS)
//! resets: that did not stop softly, or could not be started because the MMU was stuck. What makes
//! the hardware hang in other ways than by running for too long would go on for ever otherwise.
//!
//! A context is closed with the [`HANG_LIMIT`](super::HANG_LIMIT)th of its jobs that the timer had
//! to stop: its waiting jobs fail, submissions to it get `ECANCELED`, and the log says whose it was.
//! Jobs that fault end by themselves at once and never count.
//! [`FORGIVE_AFTER`](super::FORGIVE_AFTER) jobs in a row that end well make up for one that has
//! hung. User space gets on with another context; context 0, which it can neither destroy nor
//! create, is made anew ten seconds after the first submission that was refused.
//!
//! # Contexts
//!
//! Everything here runs in process context and, but for [`Jobs::retire`], in fence-signalling sections:
//! fences wait for it, so it allocates nothing and waits for no other fence. There, [`Jobs::hardware`]
//! is held over all but [`Jobs::run`], so that nobody reads the slots while the GPU is being reset.

use kernel::{
    dma_buf::fence::Signalling,
    drm::job_queue::{
        Hardware,
        Position,
        Stop,
        Verdict, //
    },
    prelude::*,
    sync::atomic::Relaxed,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    device::{
        with_gpu,
        Device,
        Gpu, //
    },
    hw::mali::{
        job::{
            self as hw,
            Slot,
            Status, //
        },
        Exception, //
    }, //
};

use super::{
    queue::{
        slot_for,
        Client,
        Engine, //
    },
    status::{
        outcome,
        Outcome, //
    },
    Job,
    Jobs,
    Started, //
};

/// How often pending interrupts are read in one go; a GPU that always has more is broken.
const MAX_ROUNDS: usize = 64;

/// How often a slot is looked at while it is to stop before a reset, and how long between.
const STOP_POLLS: usize = 100;
const STOP_POLL_US: i64 = 100;

/// The queue's view of the slots, locked.
type Slots<'l, 'a, 'g> = Hardware<'l, Client, Engine<'a, 'g>>;

/// What happened in a slot since its interrupts were first read.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// A chain was done.
    done: bool,
    /// The last thing that happened was a failure.
    failed: bool,
    /// Chains that the slot had in it then.
    left: usize,
}

impl Jobs {
    /// Starts what has become ready.
    pub(super) fn run(&self, gpu: &Gpu<'_>) {
        if let Ok(started) = self.started() {
            started.queue.run(&self.engine(started, gpu));
        }
    }

    /// Drops the jobs that have ended. When it returns, nothing is held by a job any more whose fence
    /// had signalled before. Sleeps. No lock is held that a job needs to be dropped.
    pub(crate) fn retire(&self, drm: &Device) {
        if let Ok(started) = self.started() {
            let _retiring = self.retiring.lock();
            let retired = started.queue.take_retired();

            retired.for_each_closing(|job| {
                if self.log.allows() {
                    with_gpu(drm, |gpu| report_closed(gpu, job));
                }
            });
        }
    }

    /// The thread of the job interrupt, which is masked. Unmasks it in the end: under the lock, as a reset
    /// must not be disturbed, and a GPU that it could not bring back is not to be touched.
    pub(crate) fn irq(&self, gpu: &Gpu<'_>) {
        if let Ok(started) = self.started() {
            let _signalling = Signalling::begin();
            let _hardware = self.hardware.lock();

            if self.handle_events(started, gpu) {
                started.workers.queue_reset();
            }
            hw::unmask(gpu);
        }
    }

    /// Takes what the slots have to report. [`Jobs::hardware`] is held. Returns whether the GPU has to
    /// be reset.
    fn handle_events(&self, started: &Started, gpu: &Gpu<'_>) -> bool {
        if gpu.stopped() {
            return false;
        }
        let events = started
            .queue
            .update(&self.engine(started, gpu), |slots| take_events(slots, gpu));

        self.spurious.add(events.spurious, Relaxed);
        // With no spinlock held: a console can be slow.
        for (&slot, status) in Slot::ALL.iter().zip(&events.failures) {
            if let Some(status) = status {
                report(gpu, slot, status);
            }
        }
        events.reset
    }

    /// The MMU has turned an address space off after a fault: its jobs have to end.
    ///
    /// They do so by themselves as soon as they access memory; those that do not are stopped.
    /// Process context; does not sleep for long.
    pub(crate) fn fault(&self, drm: &Device, gpu: &Gpu<'_>, as_nr: u8) {
        let Ok(started) = self.started() else {
            return;
        };
        let _signalling = Signalling::begin();
        let hardware = self.hardware.lock();
        let mut hit = [const { None }; hw::SLOTS];

        started.queue.update(&self.engine(started, gpu), |slots| {
            // The jobs may have ended already, and the next one have turned the space on again. With
            // the queue locked, that cannot happen now.
            if drm.slots.faulty() & 1 << as_nr == 0 {
                return;
            }
            for (slot, hit) in Slot::ALL.into_iter().filter_map(slot_for).zip(&mut hit) {
                for position in [Position::Current, Position::Next] {
                    let Some(job) = slots
                        .get(slot, position)
                        .map(|running| running.job)
                        .filter(|job| job.as_nr.load(Relaxed) == u32::from(as_nr))
                    else {
                        continue;
                    };

                    hit.get_or_insert((job.context, job.process));
                    slots.stop(slot, position, Stop::Hard);
                }
            }
        });
        drop(hardware);

        for (context, process) in hit.into_iter().flatten() {
            if gpu.log.allows() {
                dev_notice!(
                    gpu.dev(),
                    "AS {}: it ends jobs of context {} of process {}\n",
                    as_nr,
                    context,
                    process
                );
            }
        }
    }

    /// Asks for a reset of the GPU. Any context.
    pub(crate) fn request_reset(&self) {
        if let Ok(started) = self.started() {
            started.workers.queue_reset();
        }
    }

    /// The timer: stops what runs for too long. Comes again as long as something runs.
    pub(super) fn expire(&self, drm: &Device, gpu: &Gpu<'_>) {
        let Ok(started) = self.started() else {
            return;
        };
        let stopped = {
            let _signalling = Signalling::begin();
            let _hardware = self.hardware.lock();

            // An interrupt may be late, or lost.
            let reset = self.handle_events(started, gpu);
            let expired = started.queue.expire(&self.engine(started, gpu));

            if expired.reset || reset {
                started.workers.want_reset();
            }
            expired.stopped
        };

        self.overdue
            .add(u32::try_from(stopped).unwrap_or(u32::MAX), Relaxed);
        if stopped > 0 && gpu.log.allows() {
            dev_notice!(
                gpu.dev(),
                "{} stop(s) of jobs that ran for too long\n",
                stopped
            );
        }
        self.reset(drm, gpu);
    }

    /// Resets the GPU if somebody has asked for it since the last time. Jobs that somebody has tried to
    /// end fail, the others run again. May sleep.
    pub(super) fn reset(&self, drm: &Device, gpu: &Gpu<'_>) {
        let Ok(started) = self.started() else {
            return;
        };
        let _signalling = Signalling::begin();
        let _hardware = self.hardware.lock();

        if self.is_parked() || !started.workers.take_reset() {
            return;
        }
        if gpu.log.allows() {
            dev_notice!(gpu.dev(), "resetting the GPU\n");
        }
        started.queue.park();
        hw::mask(gpu);
        self.stop_softly(started, gpu);
        self.note_progress(started, gpu);
        // This one is for those, too, who have asked meanwhile.
        started.workers.take_reset();

        let result = gpu.recover(drm);
        if let Err(error) = result {
            // Unbind has begun meanwhile. It fails the jobs when the GPU has stopped for good.
            if self.is_parked() {
                return;
            }
            if error != ENODEV {
                dev_err!(gpu.dev(), "the reset has failed: {:?}\n", error);
            }
            // Nothing can be done with it any more, and nothing is taken for it.
            self.park_for_ever();
            started
                .queue
                .kill(ENODEV, |running| running.job.vm.as_put());
            return;
        }
        started.workers.count_reset();
        started
            .queue
            .restart(&self.engine(started, gpu), |running| {
                // A job that has not begun has done nothing wrong.
                let survives = running.position == Position::Next || running.job.survives();

                if running.strikes > 0 || !survives {
                    Verdict::Done(Err(ECANCELED))
                } else {
                    Verdict::Requeue
                }
            });
        hw::unmask(gpu);
    }

    /// Gives running chains a moment to stop where they can go on. The queue is parked.
    fn stop_softly(&self, started: &Started, gpu: &Gpu<'_>) {
        let engine = self.engine(started, gpu);

        started.queue.update(&engine, |slots| {
            for slot in Slot::ALL.into_iter().filter_map(slot_for) {
                slots.withdraw(slot);
                for position in [Position::Current, Position::Next] {
                    slots.stop(slot, position, Stop::Soft);
                }
            }
        });

        for _ in 0..STOP_POLLS {
            // What needs a reset gets it next.
            self.handle_events(started, gpu);
            let empty = started.queue.update(&engine, |slots| {
                Slot::ALL
                    .into_iter()
                    .filter_map(slot_for)
                    .all(|slot| slots.get(slot, Position::Current).is_none())
            });
            if empty {
                return;
            }
            fsleep(Delta::from_micros(STOP_POLL_US));
        }
    }

    /// What did not stop begins again with the job of its chain that it is at: the hardware refuses
    /// jobs that it has done already. The queue is parked.
    fn note_progress(&self, started: &Started, gpu: &Gpu<'_>) {
        // What has ended at the last moment would only run again, and be refused.
        self.handle_events(started, gpu);

        let engine = self.engine(started, gpu);

        started.queue.update(&engine, |slots| {
            for &slot in &Slot::ALL {
                let running = slot_for(slot).and_then(|slot| slots.get(slot, Position::Current));
                let Some(running) = running else {
                    continue;
                };
                let status = hw::status(gpu, slot);

                // Or it has stopped just now, which nobody will be told any more.
                if matches!(status.exception, Exception::ACTIVE | Exception::STOPPED)
                    && status.head == running.job.head.load(Relaxed)
                    && status.tail != 0
                {
                    running.job.head.store(status.tail, Relaxed);
                }
            }
        });
    }
}

/// What the slots had to report.
#[derive(Default)]
struct Events {
    /// The GPU has to be reset.
    reset: bool,
    /// The last failure of each slot.
    failures: [Option<Status>; hw::SLOTS],
    /// Ends of chains that the slots did not have.
    spurious: u32,
}

/// Reads and clears interrupts until there are none.
///
/// Under the queue's lock, so that no chain enters a slot meanwhile. The state of the slots is
/// what it was when their interrupts were cleared; as more can have happened since, only the
/// last reading counts.
fn take_events(slots: &mut Slots<'_, '_, '_>, gpu: &Gpu<'_>) -> Events {
    let mut seen = [Seen::default(); hw::SLOTS];
    let mut taken = Events::default();

    for _ in 0..MAX_ROUNDS {
        // A device that is gone has nothing to report.
        let Ok(events) = hw::pending(gpu) else {
            break;
        };
        if events.is_empty() {
            break;
        }
        for ((&slot, seen), failure) in Slot::ALL.iter().zip(&mut seen).zip(&mut taken.failures) {
            if !events.any(slot) {
                continue;
            }
            seen.failed = false;
            if events.failed(slot) {
                // The slot waits for the interrupt to be cleared before it goes on. What is
                // done is older than what has failed.
                if events.done(slot) || seen.done {
                    taken.spurious += u32::from(!finish(slots, slot));
                    seen.done = false;
                }
                seen.failed = true;
                let status = hw::status(gpu, slot);
                if take_failure(slots, gpu, slot, &status) {
                    taken.reset |= status.exception.needs_reset(&gpu.caps);
                    *failure = Some(status);
                } else {
                    taken.spurious += 1;
                }
            } else {
                if seen.done {
                    // Two have ended, one after the other.
                    taken.spurious += u32::from(!finish(slots, slot));
                }
                seen.done = true;
            }
        }
        let active = hw::acknowledge(gpu, events);
        for (&slot, seen) in Slot::ALL.iter().zip(&mut seen) {
            if events.any(slot) {
                seen.left = usize::from(active.running(slot)) + usize::from(active.next(slot));
            }
        }
    }

    for (&slot, seen) in Slot::ALL.iter().zip(&seen) {
        if seen.done && !seen.failed {
            taken.spurious += u32::from(!finish_all_but(slots, slot, seen.left));
        }
    }
    taken
}

/// The slot's oldest job has ended well. False if there is none.
fn finish(slots: &mut Slots<'_, '_, '_>, slot: Slot) -> bool {
    slot_for(slot).is_some_and(|slot| slots.finish(slot, Ok(())))
}

/// The slot has reported the end of a chain, and has `left` chains in it. A slot goes from one
/// chain to the next by itself, so one report can stand for two; and one that has as many
/// chains as it should was mistaken: false.
fn finish_all_but(slots: &mut Slots<'_, '_, '_>, slot: Slot, left: usize) -> bool {
    let Some(in_queue) = slot_for(slot) else {
        return false;
    };
    let expected = [Position::Current, Position::Next]
        .iter()
        .filter(|&&position| slots.get(in_queue, position).is_some())
        .count();

    for _ in left..expected {
        slots.finish(in_queue, Ok(()));
    }
    left < expected
}

/// The slot's current chain has failed or was stopped. False if it has not, or if there is none.
fn take_failure(slots: &mut Slots<'_, '_, '_>, gpu: &Gpu<'_>, slot: Slot, status: &Status) -> bool {
    let Some(in_queue) = slot_for(slot) else {
        return false;
    };
    let condemned = slots
        .get(in_queue, Position::Current)
        .is_some_and(|running| running.strikes > 0);
    let outcome = outcome(status.exception, condemned);

    if outcome == Outcome::Runs {
        return false;
    }
    // The slot has not begun with the next chain, and shall not before the queue says so.
    hw::cancel_next(gpu, slot);
    slots.requeue(in_queue, Position::Next);
    match outcome {
        Outcome::Runs => false,
        Outcome::Stopped => {
            if let Some(running) = slots.get(in_queue, Position::Current) {
                if status.tail != 0 {
                    running.job.head.store(status.tail, Relaxed);
                }
            }
            slots.requeue(in_queue, Position::Current)
        }
        Outcome::Ended(result) => slots.finish(in_queue, result),
    }
}

/// Logs how a chain ended.
fn report(gpu: &Gpu<'_>, slot: Slot, status: &Status) {
    if status.exception.is_fault() && gpu.log.allows() {
        dev_notice!(
            gpu.dev(),
            "a job of slot {} has failed: {} ({:#x}), chain at {:#x}, job at {:#x}\n",
            slot.name(),
            status.exception.name(),
            status.exception.0,
            status.head,
            status.tail
        );
    }
}

/// Logs that a context was closed for its conduct, with a job of it that hung.
fn report_closed(gpu: &Gpu<'_>, job: &Job) {
    dev_notice!(
        gpu.dev(),
        "context {} of process {} (address space {}) is closed: too many of its jobs have hung\n",
        job.context,
        job.process,
        job.vm.id()
    );
}
