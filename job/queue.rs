// SPDX-License-Identifier: GPL-2.0

//! The driver's side of the job queue.
//!
//! [`QueueOwner`] lives in the queue and queues the workers. A [`SlotAccess`] is created for each
//! call by a caller that can reach the hardware. Its methods run under the queue's spinlock; the
//! spinlocks of the hardware's address spaces, of the cycle counter and of the dump nest inside.
//! The owner is called in any context and with spinlocks held, so it only queues work items.

use core::cell::Cell;

use kernel::{
    drm::job_queue::{
        self,
        Kind,
        Position,
        Running,
        StartError,
        Stop, //
    },
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    }, //
};

use crate::{
    device::Gpu,
    hw::{
        Chain,
        Runner,
        MAX_SLOTS, //
    }, //
};

use super::{
    dump::Why,
    subject::Subject,
    workers::Workers,
    Job,
    Jobs,
    Status, //
};

/// The owner as the queue knows it: passes the queue's requests on to the workers.
pub(crate) struct QueueOwner(Arc<Workers>);

impl QueueOwner {
    /// Creates an owner that passes requests on to `workers`.
    pub(super) fn new(workers: Arc<Workers>) -> Self {
        Self(workers)
    }
}

impl Kind for QueueOwner {
    type Job = Job;

    fn kick(&self) {
        self.0.queue_run();
    }

    fn retire(&self) {
        self.0.queue_retire();
    }

    fn arm_timer(&self, deadline: u64) {
        self.0.queue_timer(deadline);
    }
}

/// The job slots of a GPU, for a caller that can reach it.
pub(crate) struct SlotAccess<'a, 'g> {
    gpu: &'a Gpu<'g>,
    jobs: &'a Jobs,
    workers: &'a Arc<Workers>,
    /// The last stop in each slot, if [`Self::recording_stops`] asked for it.
    stops: Option<Stops>,
}

/// The last stop in each slot.
type Stops = [Cell<Option<Stopping>>; MAX_SLOTS];

/// An attempt to stop a job, for the log.
pub(super) struct Stopping {
    /// The kind of stop.
    pub(super) how: Stop,
    /// The status of the slot before the stop.
    pub(super) status: Status,
    /// The job.
    pub(super) subject: Subject,
}

impl<'a, 'g> SlotAccess<'a, 'g> {
    /// Creates the access for one call, which does not record stops.
    pub(super) fn new(gpu: &'a Gpu<'g>, jobs: &'a Jobs, workers: &'a Arc<Workers>) -> Self {
        Self {
            gpu,
            jobs,
            workers,
            stops: None,
        }
    }

    /// Records stops from now on, for [`Self::into_stops`]: they are those of jobs that have run
    /// for too long. Begins a dump with a hard stop.
    pub(super) fn recording_stops(self) -> Self {
        Self {
            stops: Some([const { Cell::new(None) }; MAX_SLOTS]),
            ..self
        }
    }

    /// Returns the last recorded stop of each slot.
    pub(super) fn into_stops(self) -> impl Iterator<Item = Stopping> {
        self.stops
            .into_iter()
            .flatten()
            .filter_map(Cell::into_inner)
    }

    /// Records a stop for the log, unless it is a soft stop of a job that has had a turn before.
    fn record_stop(&self, how: Stop, running: &Running<'_, QueueOwner>) {
        if how == Stop::Soft && running.ran_ns != 0 {
            return;
        }
        if let Some(stop) = self
            .stops
            .as_ref()
            .and_then(|stops| stops.get(running.slot.index()))
        {
            stop.set(Some(Stopping {
                how,
                status: self.gpu.status(running.slot),
                subject: Subject::new(running.slot, running.job),
            }));
        }
    }

    /// Requests a reset, because the hardware cannot take a job, which is not necessarily the job's
    /// fault. The job counts one hit for each reset that it has to wait for, and fails with `error`
    /// if there are too many.
    fn wait_for_reset(&self, job: &Job, error: Error) -> StartError {
        self.workers.queue_reset();
        let reset = self.workers.resets();
        if job.missed.xchg(reset, Relaxed) == reset || job.survives() {
            StartError::Busy
        } else {
            StartError::Failed(error)
        }
    }
}

impl job_queue::SlotOps<QueueOwner> for SlotAccess<'_, '_> {
    fn now(&self) -> u64 {
        self.workers.now()
    }

    fn start(&self, running: &Running<'_, QueueOwner>) -> Result<(), StartError> {
        // Unbind, or the loss of the GPU, is about to fail the job.
        if self.jobs.is_parked() {
            return Err(StartError::Busy);
        }

        let job = running.job;
        let as_nr = job.vm.as_get(self.gpu).map_err(|error| {
            if error == EBUSY {
                return StartError::Busy;
            }
            // Only jobs of this address space have to wait, until a fault has ended those that run.
            if error == EAGAIN {
                return StartError::Blocked;
            }
            if error == ENODEV {
                return StartError::Failed(error);
            }
            // The MMU is stuck.
            self.wait_for_reset(job, error)
        })?;

        job.as_nr.store(u32::from(as_nr), Relaxed);
        job.heaps.started();
        let chain = Chain {
            head: job.head.load(Relaxed),
            as_nr,
            flush_id: job.flush_id,
            flag: running.flag,
            counts_cycles: job.counts_cycles,
        };
        job.vm.occupants().enter(running.slot);
        self.gpu.start(running.slot, &chain).map_err(|error| {
            job.vm.occupants().take_back(running.slot);
            job.vm.as_put();
            if error != EBUSY {
                return StartError::Failed(error);
            }
            // The slot has not taken the previous chain from its second entry yet. If there is no
            // previous chain, the slot is stuck.
            match running.position {
                Position::Current => self.wait_for_reset(job, EIO),
                Position::Next => {
                    self.jobs.missed_entries.add(1, Relaxed);
                    StartError::Busy
                }
            }
        })
    }

    fn finish(&self, running: &Running<'_, QueueOwner>) {
        match running.position {
            Position::Current => running.job.vm.occupants().leave(running.slot),
            Position::Next => running.job.vm.occupants().take_back(running.slot),
        }
        // It has held the AS and the cycle counter while it was in the hardware.
        self.gpu.finish(running.job.counts_cycles);
        running.job.vm.as_put();
    }

    fn progressed(&self, running: &Running<'_, QueueOwner>) -> bool {
        !self.gpu.off_limits() && self.gpu.progressed(running.slot)
    }

    fn stop(&self, running: &Running<'_, QueueOwner>, how: Stop) {
        // A reset, the loss of the GPU or unbind is about to take the jobs from the hardware.
        if self.gpu.off_limits() {
            return;
        }
        self.record_stop(how, running);
        if let (Stop::Hard, Some(_), Ok(started)) = (how, &self.stops, self.jobs.started()) {
            let now = self.workers.now();

            started.dumps.begin(Why::Hang, self.gpu, running, now);
        }
        self.gpu.stop(running.slot, how, running.flag);
    }

    fn withdraw(&self, running: &Running<'_, QueueOwner>) -> bool {
        !self.gpu.off_limits() && self.gpu.withdraw(running.slot)
    }
}
