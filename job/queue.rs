// SPDX-License-Identifier: GPL-2.0

//! What the job queue is told about this hardware.
//!
//! [`Client`] is what lives in the queue, [`Engine`] is made for each call by whoever has the
//! hardware. The engine's methods run under the queue's spinlock, and take the locks of the
//! address-space slots and of the cycle counter inside.

use kernel::{
    drm::job_queue::{
        self,
        Kind,
        Position,
        Running,
        Slot,
        StartError,
        Stop, //
    },
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

use crate::{
    device::Gpu,
    hw::mali::{
        counter,
        job::{
            self as hw,
            Chain, //
        }, //
    }, //
};

use super::{
    workers::Workers,
    Job, //
};

/// Passes the queue's wishes on to the workers.
pub(crate) struct Client(Arc<Workers>);

impl Client {
    pub(super) fn new(workers: Arc<Workers>) -> Self {
        Self(workers)
    }
}

impl Kind for Client {
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

/// The job slots of a GPU that can be reached.
pub(crate) struct Engine<'a, 'g> {
    gpu: &'a Gpu<'g>,
    parked: &'a Atomic<bool>,
    workers: &'a Arc<Workers>,
}

impl<'a, 'g> Engine<'a, 'g> {
    pub(super) fn new(
        gpu: &'a Gpu<'g>,
        parked: &'a Atomic<bool>,
        workers: &'a Arc<Workers>,
    ) -> Self {
        Self {
            gpu,
            parked,
            workers,
        }
    }

    /// Gives back what a job has while it is in the hardware.
    fn release(&self, running: &Running<'_, Client>) {
        if running.job.counts_cycles {
            counter::cycle_counter_put(self.gpu);
        }
        running.job.vm.as_put();
    }
}

/// The hardware's name of a slot. The queue has no others, so there always is one.
fn slot_of(slot: Slot) -> Option<hw::Slot> {
    hw::Slot::new(slot.index())
}

/// The queue's name of a slot.
pub(super) fn slot_for(slot: hw::Slot) -> Option<Slot> {
    Slot::new(slot.index())
}

impl job_queue::Engine<Client> for Engine<'_, '_> {
    fn now(&self) -> u64 {
        self.workers.now()
    }

    fn start(&self, running: &Running<'_, Client>) -> Result<(), StartError> {
        // It will be failed before long.
        if self.parked.load(Acquire) {
            return Err(StartError::Busy);
        }

        let job = running.job;
        let slot = slot_of(running.slot).ok_or(StartError::Failed(EINVAL))?;
        let as_nr = job.vm.as_get(self.gpu).map_err(|error| {
            if error == EBUSY {
                return StartError::Busy;
            }
            if error == ENODEV {
                return StartError::Failed(error);
            }
            // Whoever has brought the MMU down, it need not be this job.
            self.workers.queue_reset();
            let reset = self.workers.resets();
            if job.missed.xchg(reset, Relaxed) == reset || job.survives() {
                StartError::Busy
            } else {
                StartError::Failed(error)
            }
        })?;

        job.as_nr.store(u32::from(as_nr), Relaxed);
        job.heaps.started();
        if job.counts_cycles {
            counter::cycle_counter_get(self.gpu);
        }
        let chain = Chain {
            head: job.head.load(Relaxed),
            as_nr,
            flush_id: job.flush_id,
            flag: running.flag,
        };
        job.vm.occupants().enter(slot);
        hw::submit(self.gpu, slot, &chain).map_err(|error| {
            job.vm.occupants().take_back(slot);
            self.release(running);
            if error != EBUSY {
                return StartError::Failed(error);
            }
            // The slot has not begun with the chain before this one yet. Without such a chain it has
            // lost its way.
            if running.position == Position::Current {
                self.workers.queue_reset();
            }
            StartError::Busy
        })
    }

    fn finish(&self, running: &Running<'_, Client>) {
        if let Some(slot) = slot_of(running.slot) {
            match running.position {
                Position::Current => running.job.vm.occupants().leave(slot),
                Position::Next => running.job.vm.occupants().take_back(slot),
            }
        }
        self.release(running);
    }

    fn stop(&self, running: &Running<'_, Client>, how: Stop) {
        // All jobs are ended before long.
        if self.gpu.halted() {
            return;
        }
        if let Some(slot) = slot_of(running.slot) {
            match how {
                Stop::Soft => hw::soft_stop(self.gpu, slot, running.flag),
                Stop::Hard => hw::hard_stop(self.gpu, slot, running.flag),
            }
        }
    }

    fn withdraw(&self, running: &Running<'_, Client>) -> bool {
        slot_of(running.slot).is_some_and(|slot| {
            if self.gpu.halted() {
                return false;
            }
            hw::cancel_next(self.gpu, slot);
            !hw::has_begun(self.gpu, slot, running.flag)
        })
    }
}
