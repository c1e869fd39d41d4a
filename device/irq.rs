// SPDX-License-Identifier: GPL-2.0

//! The three interrupts: jobs, MMU, GPU.
//!
//! The hard halves read their status and mask their block. The threads do the work and unmask.
//! Both the job and the MMU thread are fence-signalling sections: fences wait for them.

use kernel::{
    dma_buf::fence::Signalling,
    irq::{
        IrqReturn,
        ThreadedHandler,
        ThreadedIrqReturn, //
    },
    prelude::*,
    sync::aref::ARef, //
};

use super::{
    threaded_irq,
    Device,
    Gpu,
    ThreadedIrq, //
};
use crate::{
    hw::mali::irq,
    mmu, //
};

/// Handler of the job interrupt.
struct Job<'a> {
    gpu: Gpu<'a>,
    drm: ARef<Device>,
}

impl ThreadedHandler for Job<'_> {
    fn handle(&self) -> ThreadedIrqReturn {
        wake_if(!self.gpu.stopped() && irq::take_job(self.gpu.io()))
    }

    fn handle_threaded(&self) -> IrqReturn {
        self.drm.jobs.irq(&self.gpu);
        IrqReturn::Handled
    }
}

/// Handler of the MMU interrupt.
struct Mmu<'a> {
    gpu: Gpu<'a>,
    drm: ARef<Device>,
}

impl ThreadedHandler for Mmu<'_> {
    fn handle(&self) -> ThreadedIrqReturn {
        wake_if(!self.gpu.stopped() && irq::take_mmu(self.gpu.io()))
    }

    fn handle_threaded(&self) -> IrqReturn {
        let _signalling = Signalling::begin();

        mmu::fault::handle(&self.drm, &self.gpu);
        self.drm.slots.unmask(&self.gpu);
        IrqReturn::Handled
    }
}

/// Handler of the GPU interrupt.
struct Fault<'a> {
    gpu: Gpu<'a>,
}

impl ThreadedHandler for Fault<'_> {
    fn handle(&self) -> ThreadedIrqReturn {
        wake_if(!self.gpu.stopped() && irq::take_gpu(self.gpu.io()))
    }

    fn handle_threaded(&self) -> IrqReturn {
        if self.gpu.halted() {
            return IrqReturn::Handled;
        }
        if let Some(fault) = irq::take_gpu_fault(self.gpu.io()) {
            if self.gpu.log.allows() {
                dev_notice!(
                    self.gpu.dev(),
                    "GPU fault {:#x} ({}) at {:#018x}{}\n",
                    fault.exception.0,
                    fault.exception.name(),
                    fault.address,
                    if fault.multiple { ", and more" } else { "" }
                );
            }
        }
        if !self.gpu.halted() {
            irq::unmask_gpu(self.gpu.io());
        }
        IrqReturn::Handled
    }
}

/// Wakes the thread if the interrupt was ours.
fn wake_if(ours: bool) -> ThreadedIrqReturn {
    if ours {
        ThreadedIrqReturn::WakeThread
    } else {
        ThreadedIrqReturn::None
    }
}

/// The registered interrupts.
pub(super) struct Irqs<'a> {
    job: ThreadedIrq<'a, Job<'a>>,
    mmu: ThreadedIrq<'a, Mmu<'a>>,
    gpu: ThreadedIrq<'a, Fault<'a>>,
}

impl<'a> Irqs<'a> {
    /// Registers all three. The GPU raises none before it is told to.
    pub(super) fn new(gpu: &Gpu<'a>, drm: &ARef<Device>) -> Result<Self> {
        let job = Job {
            gpu: gpu.clone(),
            drm: drm.clone(),
        };
        let mmu = Mmu {
            gpu: gpu.clone(),
            drm: drm.clone(),
        };
        let fault = Fault { gpu: gpu.clone() };

        Ok(Self {
            job: threaded_irq(gpu, c"job", c"drm_gpu-job", job)?,
            mmu: threaded_irq(gpu, c"mmu", c"drm_gpu-mmu", mmu)?,
            gpu: threaded_irq(gpu, c"gpu", c"drm_gpu-gpu", fault)?,
        })
    }

    /// Waits until no handler and no thread of one runs.
    pub(super) fn synchronize(&self) {
        self.job.synchronize();
        self.mmu.synchronize();
        self.gpu.synchronize();
    }
}
