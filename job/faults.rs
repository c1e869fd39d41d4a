// SPDX-License-Identifier: GPL-2.0

//! Ends the jobs of address spaces in which the GPU has faulted.
//!
//! [`mmu::fault`] handles the faults and turns address spaces off; the jobs of these would end by
//! themselves at their next memory access.
//!
//! Runs in the thread of the MMU interrupt, and in the timer while that interrupt stays masked.
//! This is a fence-signalling section.

use kernel::{
    dma_buf::fence::Signalling,
    drm::job_queue::{
        Position,
        Running,
        Stop, //
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
        Device,
        Gpu, //
    },
    hw::{
        Runner,
        MAX_AS,
        MAX_SLOTS, //
    },
    mmu, //
};

use super::{
    dump::Why,
    queue::QueueOwner,
    slots,
    subject::Subject,
    Jobs, //
};

/// The time between two attempts to end jobs while the GPU is being reset.
const PAUSE: Delta = Delta::from_micros(500);

impl Jobs {
    /// Handles faults of the MMU, and ends the jobs of address spaces that are turned off because
    /// of them. The caller unmasks the interrupt. Returns whether there was any fault.
    ///
    /// While a reset holds [`Jobs::slots_lock`], it may wait for a chain that another fault has
    /// stalled until its heap grows. So faults are handled while this waits for the reset.
    pub(crate) fn handle_faults(&self, drm: &Device, gpu: &Gpu<'_>) -> bool {
        let mut faults = mmu::fault::handle(drm, gpu);

        loop {
            for nr in 0..MAX_AS {
                // There are 16 numbers.
                if faults.failed & 1 << nr != 0 && self.fault(drm, gpu, nr as u8) {
                    faults.failed &= !(1 << nr);
                }
            }
            if faults.failed == 0 {
                return faults.any;
            }
            fsleep(PAUSE);
            faults.add(mmu::fault::handle(drm, gpu));
        }
    }

    /// Ends the jobs of an address space that the MMU code has turned off after a fault.
    ///
    /// They would end by themselves at their next memory access. All of them are hard-stopped as
    /// well, in case they make none. Process context.
    ///
    /// Returns false, and does nothing, if [`Jobs::slots_lock`] is taken.
    #[must_use]
    fn fault(&self, drm: &Device, gpu: &Gpu<'_>, as_nr: u8) -> bool {
        let Ok(started) = self.started() else {
            return true;
        };
        let _signalling = Signalling::begin();
        let Some(lock) = self.slots_lock.try_lock() else {
            return false;
        };
        let mut hit = [const { None }; MAX_SLOTS];

        started.queue.update(&self.access(started, gpu), |loaded| {
            // The jobs may have ended already, and a later job may have turned the space on again.
            // With the queue locked, no job can do so from here on.
            if drm.address_spaces.faulty() & 1 << as_nr == 0 {
                return;
            }
            let of_space = |running: &Running<'_, QueueOwner>| {
                running.job.as_nr.load(Relaxed) == u32::from(as_nr)
            };

            for (slot, hit) in slots().zip(&mut hit) {
                // A job that has not begun is not at fault. It runs again once the others are gone.
                if loaded
                    .get(slot, Position::Next)
                    .is_some_and(|next| of_space(&next))
                {
                    loaded.withdraw(slot);
                }
                for position in [Position::Current, Position::Next] {
                    let Some(running) = loaded.get(slot, position).filter(of_space) else {
                        continue;
                    };
                    let now = started.workers.now();

                    running.job.faulted.store(true, Relaxed);
                    hit.get_or_insert_with(|| Subject::new(slot, running.job));
                    // The job at fault is not known. It is most likely a current one.
                    if position == Position::Current {
                        started.dumps.begin(Why::SpaceFault, gpu, &running, now);
                    }
                    loaded.stop(slot, position, Stop::Hard);
                }
            }
        });
        // The hard stops may have hidden a failure after which the GPU needs a reset.
        if hit.iter().any(Option::is_some) && gpu.hides_failures() {
            started.workers.queue_reset();
        }
        drop(lock);

        for subject in hit.into_iter().flatten() {
            if subject.may_be_logged() {
                dev_notice!(
                    gpu.dev(),
                    "AS {}: the fault ends a job: {}\n",
                    as_nr,
                    subject
                );
            }
        }
        true
    }
}
