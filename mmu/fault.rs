// SPDX-License-Identifier: GPL-2.0

//! The thread of the MMU interrupt.
//!
//! A fault stalls the job that made the access. If it hit a heap, the heap grows and the access is
//! made again. Any other fault ends the jobs of the address space, because the hardware offers
//! nothing finer: the address space is turned off, all accesses in it fail, and the next job that is
//! submitted to it turns it on again.
//!
//! Fences wait for what happens here: nothing blocks on memory or on another fence. No lock is held
//! when a heap is asked to grow.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::Space;
use crate::{
    device::{
        Device,
        Gpu, //
    },
    gem::heap::Growth,
    hw::mali::{
        irq,
        job,
        mmu::{
            self,
            Fault,
            MAX_AS, //
        },
        Exception, //
    }, //
};

/// How often the status is read before the thread returns. The interrupt comes again if there is
/// more.
const ROUNDS: usize = 32;

/// Handles faults until there are none. The caller unmasks.
pub(crate) fn handle(drm: &Device, gpu: &Gpu<'_>) {
    for _ in 0..ROUNDS {
        if gpu.halted() {
            return;
        }
        let ignored = drm.slots.faulty();
        // A device that is gone has no faults to handle.
        let Ok(pending) = irq::pending_mmu(gpu.io()) else {
            return;
        };
        let pending = pending & !(ignored | ignored << 16);
        if pending == 0 {
            return;
        }

        for nr in 0..MAX_AS {
            let (page, bus) = (pending & 1 << nr != 0, pending & 1 << (nr + 16) != 0);

            if page || bus {
                // There are 16 numbers.
                handle_one(drm, gpu, nr as u8, bus);
            }
        }
    }
}

/// Handles the fault of one address space.
fn handle_one(drm: &Device, gpu: &Gpu<'_>, nr: u8, bus_error: bool) {
    let Ok(fault) = mmu::take_fault(gpu, nr) else {
        return;
    };
    // An interrupt without an owner, or without a cause, has been cleared, and that was all.
    let Some(space) = drm.slots.space(nr) else {
        return;
    };
    if !bus_error && fault.exception == Exception::OK {
        return;
    }

    if !bus_error && fault.exception.is_translation_fault() && mend(gpu, &space, &fault) {
        return;
    }

    report(gpu, nr, &space, &fault, bus_error);
    if drm.slots.fail_at(gpu, nr, &space) {
        drm.jobs.fault(drm, gpu, nr);
    }
}

/// Lets the heap grow that was hit. Whether that has mended the fault, or will.
fn mend(gpu: &Gpu<'_>, space: &Arc<Space>, fault: &Fault) -> bool {
    let Some((heap, _)) = space.lookup(fault.address) else {
        return false;
    };

    match heap.grow(gpu, fault.address) {
        // Another flush here would make the next fault of the job appear twice.
        Ok(Growth::Mapped | Growth::Stalled) => true,
        Ok(Growth::Present) => {
            space.retry(gpu, fault.address);
            true
        }
        Err(_) => false,
    }
}

/// Logs a fault that ends jobs.
fn report(gpu: &Gpu<'_>, nr: u8, space: &Space, fault: &Fault, bus_error: bool) {
    if !gpu.log.allows() {
        return;
    }

    dev_notice!(
        gpu.dev(),
        "{} at {:#018x}: {} ({:#x}), {} by source {:#x}; AS {}, address space {}, job slots {:#x}\n",
        if bus_error { "MMU bus error" } else { "GPU page fault" },
        fault.address,
        fault.exception.name(),
        fault.status,
        fault.access,
        fault.source,
        nr,
        space.id(),
        job::slots_of(gpu, nr)
    );
    match space.nearest(fault.address) {
        Some(bo) if bo.contains(&fault.address) => dev_notice!(
            gpu.dev(),
            "it lies in the BO at {:#x} to {:#x}\n",
            bo.start,
            bo.end
        ),
        Some(bo) => dev_notice!(
            gpu.dev(),
            "the BO below it is at {:#x} to {:#x}\n",
            bo.start,
            bo.end
        ),
        None => (),
    }
}
