// SPDX-License-Identifier: GPL-2.0

//! How jobs end: by themselves, by the timer, by a fault, or with a reset.
//!
//! # Policy
//!
//! The mildest measure is tried first. The family says for how long a job may run in a slot, if
//! there is a limit, and may take the module parameter `job_timeout_ms` for that. If the family
//! then finds that the job has progressed, the job may run for as long again, up to three times in
//! one turn. Otherwise the job is soft-stopped, which stops it between two jobs of its chain or
//! between two pieces of one. A job that does stop is merely slow: it continues from there once
//! others of its priority have had their turn. Once it has run for `job_limit_ms` in all it is
//! ended, which is no hang. A job that has not stopped after a quarter of `job_timeout_ms` (but no
//! less than [`MIN_GRACE_MS`](super::MIN_GRACE_MS)) has hung: it is hard-stopped, and after the
//! same time again the GPU is reset. A job whose chain was seen to run in a circle has hung as
//! well, although it stops. The fence of a job that is ended gets `ECANCELED`. Jobs in the other
//! slots keep running until the reset.
//!
//! Before a reset, all running chains are soft-stopped, so that those that stop can continue where
//! they were. A chain that does not stop starts over if none of its jobs is done yet; otherwise its
//! progress is unknown, and it fails. It fails as well if the timer, a cancellation or a fault had
//! tried to stop it before, or if it was hit by [`MAX_HITS`](super::MAX_HITS) resets because it did
//! not stop softly or because the MMU was stuck when its turn came. Without that limit, a chain
//! that makes the hardware hang in another way than by running for too long would do so for ever.
//!
//! The [`HANG_LIMIT`](super::HANG_LIMIT)th job that has hung closes its context, unless the context
//! has high priority: its waiting jobs fail, submissions to it get `ECANCELED`, and the log names
//! its owner. Jobs that fault end by themselves at once and do not count.
//! [`FORGIVE_AFTER`](super::FORGIVE_AFTER) jobs in a row that end well make up for one that has
//! hung. User space can continue with another context. A closed one is also recreated ten seconds
//! after the first submission that it refused, since user space can neither destroy nor create
//! context 0.
//!
//! If the reset fails, the [GPU is lost](crate::device): all jobs fail with `ENODEV`, and so do
//! submissions until the GPU works again. A worker tries to bring it back at once, and then every
//! [`FIND_MS`] milliseconds. After [`FIND_ATTEMPTS`], it gives the GPU up and tells user space by a
//! uevent. Only binding the driver again helps then.
//!
//! If an interrupt stays asserted although there is nothing to handle, it is masked and the GPU is
//! reset. If that does not help, the timer polls the slots and the MMU while jobs run, until the
//! next reset.
//!
//! # Contexts
//!
//! Everything here runs in process context. Stopping, resetting and reading the slots happens in
//! fence-signalling sections: fences depend on it, so it allocates nothing and waits for no other
//! fence. [`Jobs::slots_lock`] is held there, so that the slots are not read while the GPU is being
//! reset. [`Jobs::run`] is such a section too, but does not take that mutex. [`Jobs::retire`],
//! [`Jobs::retire_users`] and [`Jobs::find`] are no such sections and may wait for memory.

use kernel::{
    dma_buf::fence::Signalling,
    drm::job_queue::{
        Position,
        Retired,
        SlotOps as _,
        Stop,
        Verdict, //
    },
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Relaxed,
            Release, //
        },
        MutexGuard, //
    },
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
    gem,
    hw::{
        Resume,
        Runner,
        SlotStatus,
        MAX_SLOTS, //
    }, //
};

use super::{
    dump::Record,
    events::{
        take_events,
        take_unreported,
        Events, //
    },
    queue::{
        QueueOwner,
        Stopping, //
    },
    slots,
    subject::Subject,
    Job,
    Jobs,
    Started,
    LADDER, //
};

/// The number of times that the slots are polled before a reset, and the pause between polls in
/// microseconds. A soft stop takes until the pieces of work that have begun are done; the polls
/// allow at least 150 ms for that.
const STOP_POLLS: usize = 300;
const STOP_POLL_US: i64 = 500;

/// The number of ended jobs that are dropped in one go. A task that waits for one of them waits for
/// all of them.
const RETIRE_BATCH: usize = 16;

/// The number of mappings that the jobs which are dropped in one go may hold. Each may be the last
/// reference to a BO, which is then freed.
const RETIRE_MAPPINGS: usize = 256;

/// The time between two attempts to bring back a lost GPU, in milliseconds.
const FIND_MS: u32 = 2000;

/// The number of attempts after which a lost GPU is given up.
const FIND_ATTEMPTS: u32 = 5;

/// The time after which a raised job interrupt that has not been handled is late, in milliseconds.
const LATE_MS: i64 = 2;

/// Returns whether the job interrupt is raised and is not being handled. May sleep.
fn is_late(gpu: &Gpu<'_>) -> bool {
    let waits = || gpu.while_on(|_| gpu.is_raised()).unwrap_or(false);

    waits() && {
        fsleep(Delta::from_millis(LATE_MS));
        waits()
    }
}

impl Jobs {
    /// Starts the jobs that have become ready. Does not sleep.
    pub(super) fn run(&self, gpu: &Gpu<'_>) {
        if let Ok(started) = self.started() {
            started.queue.run(&self.access(started, gpu));
        }
    }

    /// Drops the jobs that have ended.
    ///
    /// A job whose fence had signalled before the call holds nothing any more when this returns.
    /// Sleeps. The caller may hold no lock that dropping a job takes.
    pub(crate) fn retire(&self, drm: &Device) {
        if let Ok(started) = self.started() {
            drm.address_spaces.drop_orphans();

            loop {
                let _retiring = self.lock_retiring();
                let retired = started.queue.take_some_retired(RETIRE_BATCH);

                if retired.is_empty() {
                    break;
                }
                self.drop_retired(drm, started, retired);
            }
        }
    }

    /// Takes a mapping from those jobs of `vm` that have ended and hold it.
    ///
    /// A job whose fence had signalled before the call does not hold the mapping any more when this
    /// returns, although a dump of the job may, until it is made. Sleeps. Waits for no more than
    /// [`RETIRE_BATCH`] jobs of others that are being dropped, or the part of one that has
    /// [`RETIRE_MAPPINGS`]. The caller may hold no lock that dropping a mapping takes.
    ///
    /// `mapping` is only compared, never dereferenced, so it may dangle.
    pub(crate) fn retire_users(&self, vm: &gem::Vm, mapping: *const gem::Mapping) {
        if let Ok(started) = self.started() {
            let _retiring = self.lock_retiring();
            let mut retired = started
                .queue
                .take_retired_where(|job| job.uses(vm, mapping));

            retired.for_each_mut(|job| job.release(mapping));
            // The worker that drops them cannot have looked for them meanwhile.
            started.queue.put_back_retired(retired);
        }
    }

    /// Locks [`Jobs::retiring`]. A task that does so again and again does not keep others from it:
    /// by itself, a mutex can go to the task that has just released it, any number of times.
    pub(super) fn lock_retiring(&self) -> MutexGuard<'_, ()> {
        let _turn = self.retiring_turn.lock();

        self.retiring.lock()
    }

    /// Drops ended jobs, and logs the contexts that hung jobs among them have closed. If the jobs
    /// hold more than [`RETIRE_MAPPINGS`], drops that many, and puts the rest back into the list of
    /// ended jobs. [`Jobs::retiring`] is held.
    fn drop_retired(&self, drm: &Device, started: &Started, mut retired: Retired<QueueOwner>) {
        let mut room = RETIRE_MAPPINGS;

        retired.for_each_closing(|job| {
            if self.log.allows() {
                with_gpu(drm, |gpu| report_closed(gpu, job));
            }
        });
        retired.drop_while(|job| {
            // A dump takes all mappings, and frees them in its own worker. Only if unbind has
            // cleared the dump are all of them freed here.
            if job.dump.as_ref().is_some() {
                return true;
            }
            let left = job.mappings.len().saturating_sub(room);

            if left != 0 {
                job.mappings.truncate(left);
                return false;
            }
            room -= job.mappings.len();
            true
        });
        if !retired.is_empty() {
            started.queue.put_back_retired(retired);
        }
        self.queue_dump(started);
    }

    /// Handles the job interrupt in its thread, with the interrupt masked.
    ///
    /// Calls `unmasks` with whether there was anything to handle. If that returns true, unmasks the
    /// interrupt again, with [`Jobs::slots_lock`] held, so as not to disturb a reset nor touch a
    /// GPU that a reset could not bring back.
    pub(crate) fn irq(&self, gpu: &Gpu<'_>, unmasks: impl FnOnce(bool) -> bool) {
        if let Ok(started) = self.started() {
            let _signalling = Signalling::begin();
            let events = {
                let _slots = self.slots_lock.lock();

                let events = self.handle_events(started, gpu);
                if events.reset {
                    started.workers.queue_reset();
                }
                if unmasks(events.any) {
                    gpu.unmask_jobs();
                }
                events
            };

            log_failures(gpu, &events);
        }
    }

    /// Has the timer poll the slots and the MMU until the next reset, because an interrupt stays
    /// masked. Does not sleep.
    pub(crate) fn poll(&self, gpu: &Gpu<'_>) {
        if let Ok(started) = self.started() {
            started.workers.poll(true);
            // The timer may be set to a later time.
            started.queue.update(&self.access(started, gpu), |_| {
                started.workers.queue_timer(0);
            });
        }
    }

    /// Processes the pending interrupts of the slots. [`Jobs::slots_lock`] is held. The caller
    /// [logs](log_failures) the failures.
    fn handle_events(&self, started: &Started, gpu: &Gpu<'_>) -> Events {
        if gpu.stopped() {
            return Events::default();
        }
        let events = started.queue.update(&self.access(started, gpu), |loaded| {
            take_events(loaded, started, gpu)
        });

        self.yielded.add(events.yielded, Relaxed);
        self.spurious.add(events.spurious, Relaxed);
        events
    }

    /// Ends the jobs that the slots have finished without an interrupt. Returns their number.
    /// [`Jobs::slots_lock`] is held.
    fn handle_unreported(&self, started: &Started, gpu: &Gpu<'_>) -> u32 {
        if gpu.halted() {
            return 0;
        }
        started.queue.update(&self.access(started, gpu), |loaded| {
            take_unreported(loaded, started, gpu)
        })
    }

    /// Requests a reset of the GPU. Any context.
    pub(crate) fn request_reset(&self) {
        if let Ok(started) = self.started() {
            started.workers.queue_reset();
        }
    }

    /// Handles the timer: stops jobs that run for too long, and resets the GPU if that does not
    /// help. The queue rearms the timer while jobs run. Sleeps.
    pub(super) fn expire(&self, drm: &Device, gpu: &Gpu<'_>) {
        let Ok(started) = self.started() else {
            return;
        };
        if started.workers.polls() {
            let _signalling = Signalling::begin();

            self.handle_faults(drm, gpu);
        }
        let late = is_late(gpu);
        // Checked before they are stopped: a circular chain that has stopped looks like one that is
        // slow.
        self.look_for_circles(started, gpu);
        let stops;
        let events;
        let stopped = {
            let _signalling = Signalling::begin();
            let _slots = self.slots_lock.lock();

            // An interrupt may be late or lost.
            events = self.handle_events(started, gpu);
            let unreported = self.handle_unreported(started, gpu);
            self.lost.add(unreported.max(late.into()), Relaxed);
            let access = self.access(started, gpu).recording_stops();
            let expired = started.queue.expire(&access);

            if expired.reset || events.reset {
                started.workers.want_reset();
            }
            stops = access.into_stops();
            expired.stopped
        };

        log_failures(gpu, &events);
        if late && gpu.log.allows() {
            dev_notice!(
                gpu.dev(),
                "the job interrupt is late or was lost: the timer has found a job that has ended\n"
            );
        }
        self.overdue
            .add(u32::try_from(stopped).unwrap_or(u32::MAX), Relaxed);
        for Stopping {
            how,
            status,
            subject,
        } in stops
        {
            if how == Stop::Hard {
                self.hard_stops.add(1, Relaxed);
            }
            if subject.hang_may_be_logged() {
                let how = match how {
                    Stop::Soft => "soft",
                    Stop::Hard => "hard",
                };
                dev_notice!(
                    gpu.dev(),
                    "{} stop of a job that has run for too long: {}; {}\n",
                    how,
                    status,
                    subject
                );
            }
        }
        self.reset(drm, gpu);
    }

    /// Resets the GPU if a reset was requested since the last one.
    ///
    /// Jobs that the timer, a cancellation or a fault had tried to stop fail, and so do those that
    /// cannot be continued; the others run again. May sleep.
    pub(super) fn reset(&self, drm: &Device, gpu: &Gpu<'_>) {
        let Ok(started) = self.started() else {
            return;
        };
        let _signalling = Signalling::begin();
        let _slots = self.slots_lock.lock();

        if self.is_parked() || !started.workers.take_reset() {
            return;
        }
        if self.reset_log.allows() {
            dev_notice!(gpu.dev(), "resetting the GPU\n");
        }
        started.queue.park();
        gpu.mask_jobs();
        self.stop_softly(started, gpu);
        self.note_progress(started, gpu);
        let mut before = self.look_before_reset(started, gpu);
        // Requests made in the meantime are served by this reset.
        started.workers.take_reset();
        // It unmasks the interrupts. Cleared before, not to miss a storm that comes right after.
        started.workers.poll(false);

        if let Err(error) = drm.recover(gpu) {
            // Unbind has begun meanwhile. It fails the jobs once the GPU has stopped for good.
            if self.is_parked() {
                return;
            }
            // The removal of a device is not an error.
            if error == ENODEV {
                dev_notice!(gpu.dev(), "the GPU is gone\n");
            } else {
                dev_err!(gpu.dev(), "the GPU is lost: {:?}\n", error);
            }
            // No job is started, and submissions are refused, until the GPU is found again.
            self.lost_gpu.store(true, Release);
            let access = self.access(started, gpu);
            started.queue.kill(ENODEV, |running| {
                started.dumps.reset_failed(&mut before, running);
                access.finish(running);
            });
            started.workers.queue_find(0);
            return;
        }
        started.workers.count_reset();
        // Pages kept back because the GPU might still have reached them can be dropped now.
        started.workers.queue_retire();
        let mut guilty = [const { None }; MAX_SLOTS];
        started
            .queue
            .restart(&self.access(started, gpu), |running| {
                if running.strikes > 0 {
                    if let Some(guilty) = guilty.get_mut(running.slot.index()) {
                        *guilty = Some(Subject::new(running.slot, running.job));
                    }
                }
                // A job that has not begun cannot be the cause of the reset.
                let survives = running.position == Position::Next
                    || running.job.survives() && !running.job.lost.load(Relaxed);

                if running.strikes > 0 || !survives {
                    Verdict::Done(Err(running.job.end()))
                } else {
                    Verdict::Requeue
                }
            });
        gpu.unmask_jobs();
        for subject in guilty.iter().flatten() {
            if subject.hang_may_be_logged() {
                dev_notice!(gpu.dev(), "a job was ended by the reset: {}\n", subject);
            }
        }
    }

    /// Tries to bring back a lost GPU. Accepts jobs again if that succeeds. If not, queues another
    /// attempt, or gives the GPU up. Sleeps, and may wait for memory.
    pub(super) fn find(&self, drm: &Device, gpu: &Gpu<'_>) {
        let Ok(started) = self.started() else {
            return;
        };
        let is_lost = || !self.parked.load(Acquire) && self.lost_gpu.load(Acquire);

        // All jobs have failed, so no fence depends on this. Cycling the power may wait for memory,
        // so it is done with no lock held that a fence depends on.
        if is_lost() {
            let slots = self.slots_lock.lock();
            gpu.lock_out();
            drop(slots);
            gpu.cycle_power();
        }
        let slots = self.slots_lock.lock();

        // Checked with the mutex held, under which unbind stops the GPU.
        if !is_lost() {
            return;
        }
        started.workers.poll(false);
        // Requests made so far are served by the reset that this makes.
        started.workers.take_reset();
        if let Err(e) = drm.find(gpu) {
            // A GPU that has left the bus cannot be bound again, but may come back by itself. One
            // that may still access memory is not what user space expects after the uevent.
            let can_rebind = e != ENODEV && !drm.address_spaces.is_abandoned();
            let attempts = self.failed_finds.load(Relaxed).saturating_add(1);

            self.failed_finds.store(attempts, Relaxed);
            if attempts < FIND_ATTEMPTS || !can_rebind {
                started.workers.queue_find(FIND_MS);
                return;
            }
            drop(slots);
            dev_err!(
                gpu.dev(),
                "the GPU is given up until the driver is bound again\n"
            );
            self.tell_given_up(drm);
            return;
        }
        dev_notice!(gpu.dev(), "the GPU works again\n");
        self.failed_finds.store(0, Relaxed);
        started.workers.count_reset();
        started.workers.queue_retire();
        self.lost_gpu.store(false, Release);
        started.queue.revive();
        gpu.unmask_jobs();
    }

    /// Reads the registers for a dump of a job that has not stopped, in case that the reset fails.
    /// The queue is parked, and [`Jobs::slots_lock`] is held.
    fn look_before_reset(&self, started: &Started, gpu: &Gpu<'_>) -> Option<Record> {
        started.queue.update(&self.access(started, gpu), |loaded| {
            slots().find_map(|slot| {
                let running = loaded.get(slot, Position::Current)?;

                started.dumps.look(gpu, &running, started.workers.now())
            })
        })
    }

    /// Soft-stops the running chains and waits for a limited time until they have stopped. The
    /// queue is parked, and [`Jobs::slots_lock`] is held. Sleeps.
    fn stop_softly(&self, started: &Started, gpu: &Gpu<'_>) {
        let access = self.access(started, gpu);

        started.queue.update(&access, |loaded| {
            for slot in slots() {
                loaded.withdraw(slot);
                for position in [Position::Current, Position::Next] {
                    loaded.stop(slot, position, Stop::Soft);
                }
            }
        });

        for _ in 0..STOP_POLLS {
            // Whether it asks for a reset can be ignored, since that comes next in any case.
            log_failures(gpu, &self.handle_events(started, gpu));
            let waits = started.queue.update(&access, |loaded| {
                // A chain that was told to end is not waited for. One that was told to stop softly
                // may have been told just before, and be about to.
                slots()
                    .filter_map(|slot| loaded.get(slot, Position::Current))
                    .any(|running| usize::from(running.strikes) < LADDER.len())
            });
            if !waits {
                return;
            }
            fsleep(Delta::from_micros(STOP_POLL_US));
        }
    }

    /// Records from where the chains that did not stop can be restarted, or that they cannot be:
    /// the hardware refuses to run a job that is done. The queue is parked, and
    /// [`Jobs::slots_lock`] is held.
    fn note_progress(&self, started: &Started, gpu: &Gpu<'_>) {
        // Collects late completions, since the hardware would refuse to run those jobs again.
        log_failures(gpu, &self.handle_events(started, gpu));

        let access = self.access(started, gpu);

        started.queue.update(&access, |loaded| {
            for slot in slots() {
                let Some(running) = loaded.get(slot, Position::Current) else {
                    continue;
                };
                let status = gpu.status(slot);
                let job = running.job;
                let first = job.head.load(Relaxed);

                // It may have stopped after the last interrupts were read, which will not be
                // reported any more.
                match status.resume(first) {
                    Resume::At(head) => {
                        job.head.store(head, Relaxed);
                        job.resumed.store(true, Relaxed);
                    }
                    Resume::Anew => (),
                    Resume::Nowhere => job.lost.store(true, Relaxed),
                }
            }
        });
    }
}

/// Logs the failures of jobs. No spinlock is held, since a console can be slow.
fn log_failures(gpu: &Gpu<'_>, events: &Events) {
    for (status, subject) in events.failures.iter().flatten() {
        if subject.may_be_logged() {
            dev_notice!(gpu.dev(), "a job has failed: {}; {}\n", status, subject);
        }
    }
}

/// Logs that a context was closed because of its hung jobs, the last of which is `job`.
fn report_closed(gpu: &Gpu<'_>, job: &Job) {
    dev_notice!(
        gpu.dev(),
        "context {} of process {} (address space {}) is closed: too many of its jobs have hung\n",
        job.context,
        job.process,
        job.vm.id()
    );
}
