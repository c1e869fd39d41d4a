// SPDX-License-Identifier: GPL-2.0

//! Job slots: start a chain, stop it, see how it ended.
//!
//! No function sleeps, and none takes a lock: the caller holds the lock of the job queue, or keeps
//! the queue parked.

use kernel::{
    io::Io,
    prelude::*, //
};

use super::{
    counter::read_u64,
    hi,
    join,
    lo,
    regs::{
        job::*,
        read_at,
        write_at, //
    },
    Exception,
    Feature,
    Issue, //
};
use crate::device::Gpu;

/// Number of job slots that the driver uses.
pub(crate) const SLOTS: usize = 3;

/// A job slot.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Slot {
    /// Fragment jobs.
    Fragment = 0,
    /// Vertex, tiler and compute jobs.
    Tiler = 1,
    /// Compute jobs on a core group of their own. No ioctl leads here.
    Compute = 2,
}

impl Slot {
    /// All slots, by number.
    pub(crate) const ALL: [Slot; SLOTS] = [Slot::Fragment, Slot::Tiler, Slot::Compute];

    /// The slot with a number.
    pub(crate) fn new(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// Number of the slot.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Name of the engine, as user space knows it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Slot::Fragment => "fragment",
            Slot::Tiler => "vertex-tiler",
            Slot::Compute => "compute-only",
        }
    }

    /// Bits of the slot in the interrupt and state registers: done or current, failed or next.
    const fn bits(self) -> u32 {
        0x1_0001 << self as u32
    }
}

/// Bits of all slots.
const ALL_SLOTS: u32 = 0x7_0007;

/// What a slot is to run.
pub(crate) struct Chain {
    /// GPU address of the first job.
    pub(crate) head: u64,
    /// Address space.
    pub(crate) as_nr: u8,
    /// Flush count when user space last saw its memory clean; 0 asks for a flush.
    pub(crate) flush_id: u32,
    /// Tells the two chains of one slot apart; must alternate.
    pub(crate) flag: bool,
}

/// Writes a register of a slot. The array has an element for each [`Slot`], so this cannot fail.
macro_rules! put {
    ($gpu:expr, $slot:expr, $reg:ident, $value:expr) => {
        let _ = write_at($gpu.io(), $slot.index(), $reg::from_raw($value));
    };
}

/// Reads a register of a slot. The array has an element for each [`Slot`], so the default is
/// never used.
macro_rules! get {
    ($gpu:expr, $slot:expr, $reg:ident) => {
        read_at::<$reg>($gpu.io(), $slot.index()).map_or(0, |r| r.into_raw())
    };
}

/// Starts a chain, behind the one that runs, if one does.
///
/// `EBUSY`: the slot's second entry is taken. `ENODEV`: the device is gone, or about to go.
pub(crate) fn submit(gpu: &Gpu<'_>, slot: Slot, chain: &Chain) -> Result {
    if gpu.halted() {
        return Err(ENODEV);
    }
    match get!(gpu, slot, JS_COMMAND_NEXT) {
        cmd::NOP => (),
        u32::MAX => return Err(ENODEV),
        _ => return Err(EBUSY),
    }

    put!(gpu, slot, JS_HEAD_NEXT_LO, lo(chain.head));
    put!(gpu, slot, JS_HEAD_NEXT_HI, hi(chain.head));

    let cores = gpu.id.shader_mask();
    put!(gpu, slot, JS_AFFINITY_NEXT_LO, lo(cores));
    put!(gpu, slot, JS_AFFINITY_NEXT_HI, hi(cores));

    let flush_reduction = gpu.caps.feature(Feature::FlushReduction);
    let mut config = u32::from(chain.as_nr)
        | config::THREAD_PRIORITY_MEDIUM
        | config::START_FLUSH_CLEAN_INVALIDATE
        | config::END_FLUSH_CLEAN_INVALIDATE;
    if chain.flag && gpu.caps.feature(Feature::JobchainDisambiguation) {
        config |= config::JOB_CHAIN_FLAG;
    }
    if flush_reduction {
        config |= config::ENABLE_FLUSH_REDUCTION;
    }
    if gpu.caps.issue(Issue::T10649) {
        config |= config::START_MMU;
    }
    put!(gpu, slot, JS_CONFIG_NEXT, config);

    if flush_reduction {
        put!(gpu, slot, JS_FLUSH_ID_NEXT, chain.flush_id);
    }

    put!(gpu, slot, JS_COMMAND_NEXT, cmd::START);
    Ok(())
}

/// Withdraws the chain in the second entry, unless it has begun. Its registers keep their values.
pub(crate) fn cancel_next(gpu: &Gpu<'_>, slot: Slot) {
    put!(gpu, slot, JS_COMMAND_NEXT, cmd::NOP);
}

/// Whether the chain with this flag, which was in the second entry, has moved up. To be asked after
/// [`cancel_next`], with a chain of the other flag before it. Always true where the hardware cannot
/// tell chains apart, so that nobody takes back what may run.
pub(crate) fn has_begun(gpu: &Gpu<'_>, slot: Slot, flag: bool) -> bool {
    let current = get!(gpu, slot, JS_CONFIG) & config::JOB_CHAIN_FLAG != 0;

    !gpu.caps.feature(Feature::JobchainDisambiguation) || current == flag
}

/// Asks the current chain to stop where it can go on later. An interrupt tells when it has.
///
/// `flag` is the chain's own: another chain that has moved up meanwhile is not touched. GPUs that
/// cannot tell chains apart stop whatever runs.
pub(crate) fn soft_stop(gpu: &Gpu<'_>, slot: Slot, flag: bool) {
    let command = match (gpu.caps.feature(Feature::JobchainDisambiguation), flag) {
        (false, _) => cmd::SOFT_STOP,
        (true, false) => cmd::SOFT_STOP_0,
        (true, true) => cmd::SOFT_STOP_1,
    };
    put!(gpu, slot, JS_COMMAND, command);
}

/// Ends the current chain. As for [`soft_stop`], an interrupt tells when.
pub(crate) fn hard_stop(gpu: &Gpu<'_>, slot: Slot, flag: bool) {
    let command = match (gpu.caps.feature(Feature::JobchainDisambiguation), flag) {
        (false, _) => cmd::HARD_STOP,
        (true, false) => cmd::HARD_STOP_0,
        (true, true) => cmd::HARD_STOP_1,
    };
    put!(gpu, slot, JS_COMMAND, command);
}

/// How the last chain of a slot ended, or how the current one does.
pub(crate) struct Status {
    /// Why it ended, or [`Exception::ACTIVE`].
    pub(crate) exception: Exception,
    /// First job of the chain.
    pub(crate) head: u64,
    /// Job that the slot was at: where a stopped chain goes on. 0 if it cannot be read.
    pub(crate) tail: u64,
}

/// Reads the state of a slot.
pub(crate) fn status(gpu: &Gpu<'_>, slot: Slot) -> Status {
    Status {
        // The code is in the lowest byte.
        exception: Exception((get!(gpu, slot, JS_STATUS) & 0xff) as u8),
        head: join(get!(gpu, slot, JS_HEAD_LO), get!(gpu, slot, JS_HEAD_HI)),
        // It moves as long as the chain runs.
        tail: read_u64(
            || get!(gpu, slot, JS_TAIL_LO),
            || get!(gpu, slot, JS_TAIL_HI),
        )
        .unwrap_or(0),
    }
}

/// Interrupts of the slots.
#[derive(Clone, Copy)]
pub(crate) struct Events(u32);

impl Events {
    /// Nothing has happened.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// A chain of the slot is done.
    pub(crate) fn done(self, slot: Slot) -> bool {
        self.0 & slot.bits() & 0xffff != 0
    }

    /// A chain of the slot has failed or was stopped.
    pub(crate) fn failed(self, slot: Slot) -> bool {
        self.0 & slot.bits() & !0xffff != 0
    }

    /// Either.
    pub(crate) fn any(self, slot: Slot) -> bool {
        self.0 & slot.bits() != 0
    }
}

/// What the slots had in them when their interrupts were last cleared.
#[derive(Clone, Copy)]
pub(crate) struct Active(u32);

impl Active {
    /// The slot has a current chain.
    pub(crate) fn running(self, slot: Slot) -> bool {
        self.0 & slot.bits() & 0xffff != 0
    }

    /// The slot has a next chain.
    pub(crate) fn next(self, slot: Slot) -> bool {
        self.0 & slot.bits() & !0xffff != 0
    }
}

/// Interrupts that are pending. Those of slots that the driver does not use are cleared away.
///
/// `ENODEV` if the device is gone.
pub(crate) fn pending(gpu: &Gpu<'_>) -> Result<Events> {
    let status = gpu.io().read(JOB_INT_RAWSTAT).into_raw();

    if status == u32::MAX {
        return Err(ENODEV);
    }
    if status & !ALL_SLOTS != 0 {
        gpu.io()
            .write_reg(JOB_INT_CLEAR::from_raw(status & !ALL_SLOTS));
    }
    Ok(Events(status & ALL_SLOTS))
}

/// Clears interrupts. Says what the slots had in them then.
pub(crate) fn acknowledge(gpu: &Gpu<'_>, events: Events) -> Active {
    gpu.io().write_reg(JOB_INT_CLEAR::from_raw(events.0));
    active(gpu)
}

/// What the slots had in them when their interrupts were last cleared.
pub(crate) fn active(gpu: &Gpu<'_>) -> Active {
    Active(gpu.io().read(JOB_INT_JS_STATE).into_raw() & ALL_SLOTS)
}

/// Masks the job interrupts.
pub(crate) fn mask(gpu: &Gpu<'_>) {
    gpu.io().write_reg(JOB_INT_MASK::from_raw(0));
}

/// Unmasks the job interrupts, unless the GPU was halted.
pub(crate) fn unmask(gpu: &Gpu<'_>) {
    if !gpu.halted() {
        gpu.io().write_reg(JOB_INT_MASK::from_raw(ALL_SLOTS));
    }
}

/// Slots whose current chain is in an address space, as a bitmap by number.
pub(crate) fn slots_of(gpu: &Gpu<'_>, as_nr: u8) -> u32 {
    Slot::ALL
        .iter()
        .filter(|&&slot| {
            get!(gpu, slot, JS_STATUS) & 0xff == u32::from(Exception::ACTIVE.0)
                && get!(gpu, slot, JS_CONFIG) & 0xf == u32::from(as_nr)
        })
        .fold(0, |mask, slot| mask | 1 << slot.index())
}
