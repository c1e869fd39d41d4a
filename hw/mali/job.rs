// SPDX-License-Identifier: GPL-2.0

//! Job slots: starting and stopping chains, and reading the state of a slot.
//!
//! Implements [`Runner`], which says in which contexts.

use kernel::{
    drm::job_queue::{
        QueueSlot,
        SlotConfig,
        Stop, //
    },
    io::{
        register::{
            Array,
            RegisterArray, //
        },
        Io, //
    },
    prelude::*, //
};

use super::{
    collect,
    counter::{
        self,
        read_u64, //
    },
    hi,
    join,
    lo,
    regs::job::*,
    status::{
        self,
        Status, //
    },
    Caps,
    Exception,
    Feature,
    Issue, //
};
use crate::{
    device::Gpu,
    hw::{
        Chain,
        JobsInSlots,
        Outcome,
        Reports,
        Runner,
        MAX_SLOTS, //
    }, //
};

const _: () = assert!(NR_SLOTS <= MAX_SLOTS);

/// A job slot.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Slot {
    /// Fragment jobs.
    Fragment = 0,
    /// Vertex, tiler and compute jobs.
    Tiler = 1,
    /// Compute jobs on a core group of their own. No ioctl uses this slot.
    Compute = 2,
}

impl Slot {
    /// All slots, by number.
    pub(super) const ALL: [Slot; NR_SLOTS] = [Slot::Fragment, Slot::Tiler, Slot::Compute];

    /// Returns the slot that the queue has under its number.
    fn of(slot: QueueSlot) -> Self {
        match slot.index() {
            0 => Slot::Fragment,
            1 => Slot::Tiler,
            // The queue has no others.
            _ => Slot::Compute,
        }
    }

    /// Returns the number of the slot.
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Returns the slot as the queue has it.
    pub(crate) const fn in_queue(self) -> QueueSlot {
        // The compiler evaluates these.
        match self {
            Slot::Fragment => const { QueueSlot::new(Slot::Fragment.index()).unwrap() },
            Slot::Tiler => const { QueueSlot::new(Slot::Tiler.index()).unwrap() },
            Slot::Compute => const { QueueSlot::new(Slot::Compute.index()).unwrap() },
        }
    }

    /// Returns the name of the slot that user space sees.
    const fn name(self) -> &'static str {
        match self {
            Slot::Fragment => "fragment",
            Slot::Tiler => "vertex-tiler",
            Slot::Compute => "compute-only",
        }
    }

    /// Returns the bit of the slot in the fields of the interrupt registers and of the state
    /// register.
    pub(super) const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// Bits of all slots.
pub(super) const ALL_SLOTS: u16 = (1 << NR_SLOTS) - 1;

/// The configuration of the slots, by number.
static SLOT_CONFIGS: [SlotConfig; NR_SLOTS] = [
    SlotConfig { name: c"fragment" },
    SlotConfig {
        name: c"vertex-tiler",
    },
    SlotConfig {
        name: c"compute-only",
    },
];

/// Writes a register of a slot. The build checks that there is one for each slot.
fn write<R>(gpu: &Gpu<'_>, slot: Slot, value: R)
where
    R: RegisterArray<Storage = u32> + Array,
{
    match slot {
        Slot::Fragment => gpu.chip.io.write(R::at(0), value),
        Slot::Tiler => gpu.chip.io.write(R::at(1), value),
        Slot::Compute => gpu.chip.io.write(R::at(2), value),
    }
}

/// Reads a register of a slot. The build checks that there is one for each slot.
pub(super) fn read<R>(gpu: &Gpu<'_>, slot: Slot) -> R
where
    R: RegisterArray<Storage = u32> + Array,
{
    match slot {
        Slot::Fragment => gpu.chip.io.read(R::at(0)),
        Slot::Tiler => gpu.chip.io.read(R::at(1)),
        Slot::Compute => gpu.chip.io.read(R::at(2)),
    }
}

/// Number of times that the second entry of a slot is read until it is free. A slot takes a chain
/// from there a few cycles after the command.
const ENTRY_LOOKS: usize = 16;

/// Waits for the time of a few register reads until the second entry of a slot is free. `EBUSY`: it
/// is still in use. `ENODEV`: the device is gone.
fn wait_for_entry(gpu: &Gpu<'_>, slot: Slot) -> Result {
    for _ in 0..ENTRY_LOOKS {
        match read::<JS_COMMAND_NEXT>(gpu, slot) {
            free if free == JS_COMMAND_NEXT::zeroed() => return Ok(()),
            gone if gone.into_raw() == u32::MAX => return Err(ENODEV),
            _ => (),
        }
    }
    Err(EBUSY)
}

/// Writes a chain to the second entry of a slot, from where the hardware takes it. For the errors
/// see [`Runner::start`].
fn submit(gpu: &Gpu<'_>, slot: Slot, chain: &Chain) -> Result {
    if gpu.halted() {
        return Err(ENODEV);
    }
    let config = config(&gpu.chip.caps, chain)?;
    wait_for_entry(gpu, slot)?;

    write(gpu, slot, JS_HEAD_NEXT_LO::from_raw(lo(chain.head)));
    write(gpu, slot, JS_HEAD_NEXT_HI::from_raw(hi(chain.head)));

    let cores = gpu.chip.id.shader_mask();
    write(gpu, slot, JS_AFFINITY_NEXT_LO::from_raw(lo(cores)));
    write(gpu, slot, JS_AFFINITY_NEXT_HI::from_raw(hi(cores)));

    write(gpu, slot, config);

    if config.enable_flush_reduction() {
        write(gpu, slot, JS_FLUSH_ID_NEXT::from_raw(chain.flush_id));
    }

    let start = JS_COMMAND_NEXT::zeroed().with_command(JobCommand::Start);
    write(gpu, slot, start);
    Ok(())
}

/// Returns the configuration for a chain. `EOVERFLOW` if its address space does not exist.
fn config(caps: &Caps, chain: &Chain) -> Result<JS_CONFIG_NEXT> {
    let flag = chain.flag && caps.feature(Feature::JobchainDisambiguation);

    Ok(JS_CONFIG_NEXT::zeroed()
        .try_with_address_space(chain.as_nr)?
        .with_start_flush(JobFlush::CleanInvalidate)
        .with_start_mmu(caps.issue(Issue::T10649))
        .with_job_chain_flag(flag)
        .with_end_flush(JobFlush::CleanInvalidate)
        .with_enable_flush_reduction(caps.feature(Feature::FlushReduction))
        .with_const_thread_priority::<{ JS_CONFIG_NEXT::THREAD_PRIORITY_MEDIUM }>())
}

/// Withdraws the chain in the second entry, unless it has begun. Its registers keep their values.
fn cancel_next(gpu: &Gpu<'_>, slot: Slot) {
    let nop = JS_COMMAND_NEXT::zeroed().with_command(JobCommand::Nop);
    write(gpu, slot, nop);
}

/// Returns whether the chain that was in the second entry has moved up. Meaningful after
/// [`cancel_next`]. The hardware clears the address in the entry when the chain moves up; other
/// registers cannot be read back on all GPUs.
fn has_begun(gpu: &Gpu<'_>, slot: Slot) -> bool {
    join(
        read::<JS_HEAD_NEXT_LO>(gpu, slot).into_raw(),
        read::<JS_HEAD_NEXT_HI>(gpu, slot).into_raw(),
    ) == 0
}

/// Returns whether the chains of a slot can be stopped softly. On some GPUs that could damage a
/// chain, or let it resume at a wrong place.
fn can_stop_softly(caps: &Caps, slot: Slot) -> bool {
    match slot {
        Slot::Fragment => !caps.issue(Issue::T10969),
        _ => !caps.issue(Issue::T8408),
    }
}

/// Requests that the current chain stop at a point from which it can be resumed, if it can be
/// stopped softly. `flag` selects the chain on GPUs that have the chain flag.
fn soft_stop(gpu: &Gpu<'_>, slot: Slot, flag: bool) {
    if !can_stop_softly(&gpu.chip.caps, slot) {
        return;
    }
    let command = match (gpu.chip.caps.feature(Feature::JobchainDisambiguation), flag) {
        (false, _) => JobCommand::SoftStop,
        (true, false) => JobCommand::SoftStop0,
        (true, true) => JobCommand::SoftStop1,
    };
    write(gpu, slot, JS_COMMAND::zeroed().with_command(command));
}

/// Ends the current chain for good. As with [`soft_stop`], `flag` selects the chain.
fn hard_stop(gpu: &Gpu<'_>, slot: Slot, flag: bool) {
    let command = match (gpu.chip.caps.feature(Feature::JobchainDisambiguation), flag) {
        (false, _) => JobCommand::HardStop,
        (true, false) => JobCommand::HardStop0,
        (true, true) => JobCommand::HardStop1,
    };
    write(gpu, slot, JS_COMMAND::zeroed().with_command(command));
}

/// Reads the state of a slot.
pub(super) fn status_of(gpu: &Gpu<'_>, slot: Slot) -> Status {
    Status {
        exception: code(gpu, slot),
        head: join(
            read::<JS_HEAD_LO>(gpu, slot).into_raw(),
            read::<JS_HEAD_HI>(gpu, slot).into_raw(),
        ),
        tail: tail(gpu, slot),
    }
}

/// Returns the last job of a slot's chain that has begun, or 0 if that cannot be read.
fn tail(gpu: &Gpu<'_>, slot: Slot) -> u64 {
    // It changes while the chain is running.
    read_u64(
        || read::<JS_TAIL_LO>(gpu, slot).into_raw(),
        || read::<JS_TAIL_HI>(gpu, slot).into_raw(),
    )
    .unwrap_or(0)
}

/// Returns the exception code of a slot.
pub(super) fn code(gpu: &Gpu<'_>, slot: Slot) -> Exception {
    read::<JS_STATUS>(gpu, slot).exception()
}

/// Returns the slots whose current chain uses an address space, as a bitmap by number.
pub(super) fn slots_of(gpu: &Gpu<'_>, as_nr: u8) -> u32 {
    Slot::ALL
        .iter()
        .filter(|&&slot| {
            code(gpu, slot) == Exception::ACTIVE
                && read::<JS_CONFIG>(gpu, slot).address_space() == u32::from(as_nr)
        })
        .fold(0, |mask, slot| mask | 1 << slot.index())
}

impl Runner for Gpu<'_> {
    const SLOTS: &'static [SlotConfig] = &SLOT_CONFIGS;

    type Status = Status;

    fn slot_name(slot: QueueSlot) -> &'static str {
        Slot::of(slot).name()
    }

    fn depth(&self) -> usize {
        // Without the chain flag, a stop command could hit the wrong one of two chains in a slot.
        if self.chip.caps.feature(Feature::JobchainDisambiguation) {
            2
        } else {
            1
        }
    }

    fn timeout_ms(&self, _slot: QueueSlot, job_timeout_ms: u64) -> Option<u64> {
        Some(job_timeout_ms)
    }

    fn progressed(&self, _slot: QueueSlot) -> bool {
        // The registers do not show it, as a large fragment job is a single job. A chain that makes
        // progress stops softly.
        false
    }

    fn hides_failures(&self) -> bool {
        // A bus fault.
        self.chip.caps.issue(Issue::Ttrx3076)
    }

    fn latest_flush_id(&self) -> Result<u32> {
        counter::latest_flush_id(self)
    }

    fn start(&self, slot: QueueSlot, chain: &Chain) -> Result {
        if chain.counts_cycles {
            counter::cycle_counter_get(self);
        }
        submit(self, Slot::of(slot), chain).inspect_err(|_| self.finish(chain.counts_cycles))
    }

    fn finish(&self, counts_cycles: bool) {
        if counts_cycles {
            counter::cycle_counter_put(self);
        }
    }

    fn stop(&self, slot: QueueSlot, how: Stop, flag: bool) {
        match how {
            Stop::Soft => soft_stop(self, Slot::of(slot), flag),
            Stop::Hard => hard_stop(self, Slot::of(slot), flag),
        }
    }

    fn withdraw(&self, slot: QueueSlot) -> bool {
        let slot = Slot::of(slot);

        cancel_next(self, slot);
        !has_begun(self, slot)
    }

    fn withdraw_waiting(&self, slot: QueueSlot) {
        cancel_next(self, Slot::of(slot));
    }

    fn status(&self, slot: QueueSlot) -> Status {
        status_of(self, Slot::of(slot))
    }

    fn collect(&self, jobs: &mut impl JobsInSlots<Status>) -> Reports {
        collect::collect(self, jobs)
    }

    fn collect_unreported(&self, jobs: &mut impl JobsInSlots<Status>) -> u32 {
        collect::collect_unreported(self, jobs)
    }

    fn outcome(
        &self,
        slot: QueueSlot,
        status: &Status,
        to_end: Option<Error>,
        resumed: bool,
    ) -> Outcome {
        let lacks_tiles = resumed && status::may_lack_tiles(&self.chip.caps, Slot::of(slot));

        status::outcome(status.exception, to_end, lacks_tiles)
    }

    fn last_begun(&self, slot: QueueSlot) -> u64 {
        tail(self, Slot::of(slot))
    }

    fn is_raised(&self) -> bool {
        !matches!(self.chip.io.read(JOB_INT_STAT).into_raw(), 0 | u32::MAX)
    }

    fn mask_jobs(&self) {
        self.chip.io.write_reg(JOB_INT_MASK::zeroed());
    }

    fn unmask_jobs(&self) {
        if !self.halted() {
            self.chip.io.write_reg(
                JOB_INT_MASK::zeroed()
                    .with_done(ALL_SLOTS)
                    .with_failed(ALL_SLOTS),
            );
        }
    }
}

#[kunit_tests(drm_gpu_hw_job)]
mod tests {
    use super::*;

    /// On T600, only fragment chains are stopped softly, and not even these on one release.
    #[test]
    fn soft_stops() {
        let slots = |id, revision| {
            let caps = Caps::find(id, revision)?;

            Some(Slot::ALL.map(|slot| can_stop_softly(&caps, slot)))
        };

        assert!(slots(0x0600, 0) == Some([true, false, false]));
        assert!(slots(0x0600, 1) == Some([false; NR_SLOTS]));
        for id in [0x0620, 0x0720, 0x0750, 0x0860, 0x7212, 0x9093] {
            assert!(slots(id, 0) == Some([true; NR_SLOTS]));
        }
    }

    /// The values are those that C panfrost writes.
    #[test]
    fn configs() {
        let config = |id, as_nr, flag| {
            let chain = Chain {
                head: 0,
                as_nr,
                flush_id: 0,
                flag,
                counts_cycles: false,
            };
            config(&Caps::find(id, 0)?, &chain)
                .ok()
                .map(JS_CONFIG_NEXT::into_raw)
        };

        assert!(config(0x0600, 1, true) == Some(0x8_3701));
        assert!(config(0x0860, 2, true) == Some(0x8_3b02));
        assert!(config(0x7402, 15, true) == Some(0x8_7b0f));
        assert!(config(0x7402, 0, false) == Some(0x8_7300));
        assert!(config(0x7402, 16, false).is_none());
    }
}
