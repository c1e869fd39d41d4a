// SPDX-License-Identifier: GPL-2.0

//! The interrupt blocks: GPU, MMU and jobs.
//!
//! Each block has a status, a mask and a clear register. The hard half of a handler masks its whole
//! block with `take_*`. The interrupt thread clears the sources that it has handled, and unmasks
//! the block.
//!
//! No locks, and nothing sleeps. Any context in which registers may be accessed.

use kernel::{
    fmt::{
        self,
        Display,
        Formatter, //
    },
    io::Io,
    prelude::*, //
};

use super::{
    join,
    regs::{
        gpu::*,
        job::{
            JOB_INT_CLEAR,
            JOB_INT_MASK,
            JOB_INT_STAT, //
        },
        mmu::{
            MMU_INT_CLEAR,
            MMU_INT_MASK,
            MMU_INT_RAWSTAT,
            MMU_INT_STAT, //
        }, //
    },
    Exception,
    IoMem, //
};

/// Returns whether a status register reports an interrupt. All ones mean that the device is gone.
fn raised(status: u32) -> bool {
    status != 0 && status != u32::MAX
}

/// Masks the job block and returns true if it raised the interrupt. For the hard half of the
/// handler.
pub(super) fn take_job(io: &IoMem<'_>) -> bool {
    let ours = raised(io.read(JOB_INT_STAT).into_raw());
    if ours {
        io.write_reg(JOB_INT_MASK::zeroed());
    }
    ours
}

/// Masks the MMU block and returns true if it raised the interrupt. For the hard half of the
/// handler.
pub(super) fn take_mmu(io: &IoMem<'_>) -> bool {
    let ours = raised(io.read(MMU_INT_STAT).into_raw());
    if ours {
        io.write_reg(MMU_INT_MASK::zeroed());
    }
    ours
}

/// Masks the GPU block and returns true if it raised the interrupt. For the hard half of the
/// handler.
pub(super) fn take_gpu(io: &IoMem<'_>) -> bool {
    let ours = raised(io.read(GPU_INT_STAT).into_raw());
    if ours {
        io.write_reg(GPU_INT_MASK::zeroed());
    }
    ours
}

/// Masks all blocks.
pub(super) fn mask_all(io: &IoMem<'_>) {
    io.write_reg(JOB_INT_MASK::zeroed());
    io.write_reg(MMU_INT_MASK::zeroed());
    io.write_reg(GPU_INT_MASK::zeroed());
}

/// Clears the interrupts of the MMU and the job slots that are left from before a reset.
pub(super) fn clear(io: &IoMem<'_>) {
    io.write_reg(
        MMU_INT_CLEAR::zeroed()
            .with_page_fault(u16::MAX)
            .with_bus_error(u16::MAX),
    );
    io.write_reg(
        JOB_INT_CLEAR::zeroed()
            .with_done(u16::MAX)
            .with_failed(u16::MAX),
    );
}

/// Unmasks the faults of the GPU block, and no other source.
pub(super) fn unmask_gpu(io: &IoMem<'_>) {
    io.write_reg(
        GPU_INT_MASK::zeroed()
            .with_fault(true)
            .with_multiple_fault(true),
    );
}

/// Unmasks the MMU block, except for the address spaces in the bitmap `except`.
pub(super) fn unmask_mmu(io: &IoMem<'_>, except: u16) {
    io.write_reg(
        MMU_INT_MASK::zeroed()
            .with_page_fault(!except)
            .with_bus_error(!except),
    );
}

/// Pending interrupts of the address spaces.
#[derive(Clone, Copy)]
pub(super) struct MmuEvents(MMU_INT_RAWSTAT);

impl MmuEvents {
    /// Returns the address spaces in which an access has caused a page fault, as a bitmap.
    pub(super) fn page_faults(self) -> u16 {
        self.0.page_fault()
    }

    /// Returns the address spaces in which an access has failed on the bus, as a bitmap.
    pub(super) fn bus_errors(self) -> u16 {
        self.0.bus_error()
    }
}

/// Returns the bit of an address space in the fields of the MMU block.
pub(super) fn bit(nr: u8) -> u16 {
    1u16.wrapping_shl(nr.into())
}

/// Returns the pending interrupts of the address spaces, whether masked or not.
///
/// `ENODEV` if the device is gone.
pub(super) fn pending_mmu(io: &IoMem<'_>) -> Result<MmuEvents> {
    match io.read(MMU_INT_RAWSTAT) {
        gone if gone.into_raw() == u32::MAX => Err(ENODEV),
        status => Ok(MmuEvents(status)),
    }
}

/// A fault that is reported neither by an address space nor by a job slot.
pub(crate) struct GpuFault {
    /// The kind of fault.
    exception: Exception,
    /// Address of the access, if the GPU knows it.
    address: u64,
    /// Further faults were not recorded.
    multiple: bool,
}

impl Display for GpuFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:#x} ({}) at {:#018x}{}",
            self.exception.0,
            self.exception.name(),
            self.address,
            if self.multiple { ", and more" } else { "" }
        )
    }
}

/// Reads and clears the pending interrupts of the GPU block. Returns [`None`] if there is no fault
/// among them.
pub(super) fn take_gpu_fault(io: &IoMem<'_>) -> Option<GpuFault> {
    let pending = io.read(GPU_INT_RAWSTAT);
    if !raised(pending.into_raw()) {
        return None;
    }

    let fault = (pending.fault() || pending.multiple_fault()).then(|| GpuFault {
        exception: io.read(GPU_FAULT_STATUS).exception(),
        address: join(
            io.read(GPU_FAULT_ADDRESS_LO).into_raw(),
            io.read(GPU_FAULT_ADDRESS_HI).into_raw(),
        ),
        multiple: pending.multiple_fault(),
    });
    // A reset polls for its own bit, which must stay set.
    io.write_reg(GPU_INT_CLEAR::from_raw(pending.into_raw()).with_reset_completed(false));
    fault
}
