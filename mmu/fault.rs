// SPDX-License-Identifier: GPL-2.0

//! The thread of the MMU interrupt. While that is masked because of a storm, the timer of the job
//! side does the same.
//!
//! A fault stalls the job that made the access. If the address belongs to memory that
//! [grows](Grow), such as a heap, the memory is mapped there and the access is retried. Any other
//! fault ends all jobs of the address space, because the hardware has no finer means: the address
//! space is turned off, so that all accesses in it fail, and the next job of the space turns it on
//! again.
//!
//! This is a fence-signalling section: nothing here waits for memory or for another fence.
//! [`Grow::grow`] is called without any lock held.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    address_spaces,
    VmShared, //
};
use crate::{
    device::{
        Device,
        Gpu, //
    },
    hw::{
        AccessFault,
        Walker,
        MAX_AS, //
    }, //
};

/// A failed access.
type Fault = <Gpu<'static> as Walker>::Fault;

/// A fault, and the space in which it has happened.
type TakenFault = address_spaces::TakenFault<Fault, VmShared>;

/// Memory that grows when the GPU touches it, such as a heap.
pub(crate) trait Grow: Send + Sync {
    /// Maps memory around `va`, where a job is stalled, or has a worker do so. An error ends the
    /// jobs of the address space.
    ///
    /// Called by the interrupt thread or the timer with no lock held. Must not wait for memory or
    /// for a fence.
    fn grow(self: Arc<Self>, gpu: &Gpu<'_>, va: u64) -> Result<Growth>;
}

/// The outcome of a fault on memory that grows.
pub(crate) enum Growth {
    /// Memory was mapped, and the flush after that has let the access go on.
    Mapped,
    /// Memory was mapped there before: the caller has to retry the access.
    Present,
    /// A worker allocates the memory. It then lets the access go on, or ends the job.
    Stalled,
}

/// Number of times the status is read before the thread returns. Faults that are still pending
/// raise the interrupt again.
const ROUNDS: usize = 32;

/// The result of [`handle`].
#[derive(Default)]
pub(crate) struct Faults {
    /// There was a fault.
    pub(crate) any: bool,
    /// The hardware's address spaces that were turned off, as a bitmap by number: the jobs in them
    /// have to end.
    pub(crate) failed: u32,
}

impl Faults {
    /// Adds those of another call.
    pub(crate) fn add(&mut self, more: Self) {
        self.any |= more.any;
        self.failed |= more.failed;
    }
}

/// Handles faults until none are pending, for at most [`ROUNDS`] rounds. The caller unmasks the
/// interrupt, and ends the jobs of the address spaces that were turned off: it may have to wait for
/// that, while memory in others has to grow.
pub(crate) fn handle(drm: &Device, gpu: &Gpu<'_>) -> Faults {
    let mut faults = Faults::default();

    for _ in 0..ROUNDS {
        let ignored = drm.address_spaces.faulty();
        // A device that is gone or has halted has no faults to handle.
        let Some(Ok(pending)) = gpu.while_on(|_| gpu.pending_faults()) else {
            break;
        };
        let pending = pending & !ignored;
        if pending == 0 {
            break;
        }

        let mut handled = false;
        for nr in 0..MAX_AS {
            // There are 16 numbers.
            let nr = nr as u8;

            if pending & 1 << nr == 0 {
                continue;
            }
            match handle_one(drm, gpu, nr) {
                Handled::Nothing => continue,
                Handled::Mended => (),
                Handled::Failed => faults.failed |= 1 << nr,
            }
            handled = true;
        }
        // Interrupts without a cause may never end.
        if !handled {
            break;
        }
        faults.any = true;
    }
    faults
}

/// The outcome of [`handle_one`].
enum Handled {
    /// There was no fault.
    Nothing,
    /// The fault was resolved, or will be, or its space has left the AS.
    Mended,
    /// The AS was turned off.
    Failed,
}

/// Handles the fault of one AS, if it is still pending: handling those before it may have taken a
/// while.
fn handle_one(drm: &Device, gpu: &Gpu<'_>, nr: u8) -> Handled {
    let Some(taken) = drm.address_spaces.take_fault(gpu, nr) else {
        return Handled::Nothing;
    };
    let TakenFault { fault, space, .. } = &taken;

    if fault.misses_translation() && mend(gpu, space, fault.address()) {
        return Handled::Mended;
    }

    let job_slots = gpu.while_on(|_| gpu.job_slots_of(nr)).unwrap_or(0);
    if let Some(turned_off) = drm.address_spaces.fail_at(gpu, nr, &taken) {
        if turned_off == Err(ETIMEDOUT) {
            drm.address_spaces.ask_for_reset(drm);
        }
        // Writing the log may take long enough for other jobs of the space to begin.
        report(gpu, nr, &taken, job_slots);
        return Handled::Failed;
    }
    // If a job made the access that had not begun as far as is known, it makes it again.
    space.retry(gpu, fault.address());
    Handled::Mended
}

/// Grows the memory at `va`, the address of a fault, if it can grow. Returns whether that resolves
/// the fault, now or through a worker.
fn mend(gpu: &Gpu<'_>, space: &Arc<VmShared>, va: u64) -> bool {
    let Some(memory) = space.lookup(va) else {
        return false;
    };

    match memory.grow(gpu, va) {
        // Not another flush: it would make the next fault of the job appear twice.
        Ok(Growth::Mapped | Growth::Stalled) => true,
        Ok(Growth::Present) => {
            space.retry(gpu, va);
            true
        }
        Err(_) => false,
    }
}

/// Logs a fault that ends jobs. `job_slots`: those that used the address space, as a bitmap.
fn report(gpu: &Gpu<'_>, nr: u8, taken: &TakenFault, job_slots: u32) {
    let TakenFault { fault, space, .. } = taken;
    if !space.log().allows() {
        return;
    }

    dev_notice!(
        gpu.dev(),
        "{}; AS {}, address space {}, job slots {:#x}\n",
        fault,
        nr,
        space.id(),
        job_slots
    );
    match space.nearest(fault.address()) {
        Some(bo) if bo.contains(&fault.address()) => dev_notice!(
            gpu.dev(),
            "the address is in the BO at {:#x} to {:#x}\n",
            bo.start,
            bo.end
        ),
        Some(bo) => dev_notice!(
            gpu.dev(),
            "the next BO below the address is at {:#x} to {:#x}\n",
            bo.start,
            bo.end
        ),
        None => (),
    }
}
