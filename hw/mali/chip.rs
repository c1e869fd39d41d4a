// SPDX-License-Identifier: GPL-2.0

//! A GPU whose clocks and supplies are on: its registers, and what is known of it.
//!
//! Implements [`Chip`], which says in which contexts.

use kernel::{
    device::{
        Bound,
        Device, //
    },
    io::mem::IoRequest,
    new_spinlock,
    of,
    prelude::*,
    sync::SpinLock, //
};

use super::{
    counter,
    irq::{
        self,
        GpuFault, //
    },
    power,
    reset,
    soc::{
        self,
        Quirks, //
    },
    Caps,
    Feature,
    Identity,
    IoMem,
    REGS_SIZE, //
};
use crate::hw::{
    Chip,
    Soc,
    System, //
};

/// The registers of a GPU, and what is known of it.
pub(crate) struct Mali<'a> {
    /// The identity and feature registers.
    pub(super) id: Identity,
    /// Features and errata of the product.
    pub(super) caps: Caps,
    /// Properties of the system around the GPU.
    pub(super) system: System<Quirks>,
    /// Users of the cycle counter.
    pub(super) cycle_users: Pin<KBox<SpinLock<u32>>>,
    pub(super) io: IoMem<'a>,
    dev: &'a Device<Bound>,
}

impl<'a> Chip<'a> for Mali<'a> {
    type Quirks = Quirks;
    type Identity = Identity;
    type Error = GpuFault;

    const OF_TABLE: of::IdTable<Soc<Quirks>> = soc::OF_TABLE;
    const DEFAULT_SOC: Soc<Quirks> = soc::DEFAULT;

    fn new(
        dev: &'a Device<Bound>,
        registers: IoRequest<'a>,
        system: System<Quirks>,
    ) -> Result<Self> {
        let io = registers
            .iomap_exclusive_sized::<{ REGS_SIZE }>()
            .inspect_err(|e| dev_err!(dev, "cannot map the registers: {:?}\n", e))?;
        let (id, caps) = Identity::read(dev, &io, system.coherent)?;

        if system.quirks.aarch64_tables && !caps.feature(Feature::Aarch64Mmu) {
            dev_err!(
                dev,
                "this GPU has no AArch64 page tables, which its system needs\n"
            );
            return Err(EINVAL);
        }
        Ok(Self {
            id,
            caps,
            system,
            cycle_users: KBox::pin_init(new_spinlock!(0, "drm_gpu::cycle_users"), GFP_KERNEL)?,
            io,
            dev,
        })
    }

    fn identity(&self) -> &Identity {
        &self.id
    }

    fn dma_bits(&self) -> u32 {
        self.id.pa_bits()
    }

    fn prepare_reset(&self) {
        reset::prepare(self.dev, &self.io, &self.caps);
    }

    fn start_reset(&self) -> Result {
        reset::soft(&self.io)
    }

    fn finish_reset(&self) -> Result {
        reset::finish(self.dev, &self.io)
    }

    fn clear_errors(&self) {
        reset::forget(&self.io);
    }

    fn power_on(&self) -> Result {
        power::on(self.dev, &self.io, &self.id, &self.caps, self.system.quirks)
    }

    fn power_off(&self) {
        // A reset turns off the cores that the command does not, such as those that are stuck on
        // the way up. Errors have been logged.
        if power::off(self.dev, &self.io, &self.id).is_err_and(|e| e != ENODEV) {
            let _ = self.reset();
        }
    }

    fn restart_counters(&self) {
        counter::restart(self);
    }

    fn mask_all(&self) {
        irq::mask_all(&self.io);
    }

    fn clear_interrupts(&self) {
        irq::clear(&self.io);
    }

    fn unmask_all_but_jobs(&self) {
        irq::unmask_gpu(&self.io);
        irq::unmask_mmu(&self.io, 0);
    }

    fn take_jobs(&self) -> bool {
        irq::take_job(&self.io)
    }

    fn take_faults(&self) -> bool {
        irq::take_mmu(&self.io)
    }

    fn take_errors(&self) -> bool {
        irq::take_gpu(&self.io)
    }

    fn take_error(&self) -> Option<GpuFault> {
        irq::take_gpu_fault(&self.io)
    }

    fn unmask_errors(&self) {
        irq::unmask_gpu(&self.io);
    }
}
