// SPDX-License-Identifier: GPL-2.0

//! A family of GPUs that do not exist. It refuses every GPU in [`Chip::new`], so no other function
//! of it is ever called: they return what makes their caller give up.

use core::{
    iter,
    marker::PhantomData,
    ops::Range, //
};

use kernel::{
    device::{
        Bound,
        Device, //
    },
    drm::{
        job_queue::{
            QueueSlot,
            SlotConfig,
            Stop, //
        },
        mm::{
            AnyColor,
            Placement, //
        }, //
    },
    fmt::{
        self,
        Display,
        Formatter, //
    },
    io::mem::IoRequest,
    iommu::pgtable::{
        IoPageTable,
        TablePool,
        ARM64LPAES1, //
    },
    of,
    prelude::*,
    sizes::SZ_4K,
    sync::Arc, //
};

use crate::{
    device::Gpu,
    hw::{
        dump::{
            Inspect,
            Memory,
            Snapshot, //
        },
        AccessFault,
        Chain,
        Chip,
        FamilyTable,
        Flush,
        JobsInSlots,
        Outcome,
        Reports,
        Resume,
        Root,
        Runner,
        SlotStatus,
        Soc,
        System,
        Tables,
        Walker, //
    }, //
};

/// A SoC like that of most Mali GPUs.
const SOC: Soc<()> = Soc {
    supplies: &[c"mali"],
    domains: &[],
    quirks: (),
};

kernel::of_device_table!(
    OF_IDS,
    Soc<()>,
    [
        // The GPUs of the virtual board stand for the absent ones.
        (of::DeviceId::new(c"arm,mali-bifrost"), SOC),
    ]
);

/// The identity of a GPU, and the configuration of an address space.
#[derive(Clone)]
pub(crate) struct Unknown;

/// A GPU of the family.
pub(crate) struct Absent<'a>(PhantomData<&'a ()>);

impl<'a> Chip<'a> for Absent<'a> {
    type Quirks = ();
    type Identity = Unknown;
    type Error = Nothing;

    const OF_TABLE: of::IdTable<Soc<()>> = &OF_IDS;
    const DEFAULT_SOC: Soc<()> = SOC;

    /// Maps the registers, as a family does that reads them, and refuses the GPU.
    fn new(dev: &'a Device<Bound>, registers: IoRequest<'a>, _system: System<()>) -> Result<Self> {
        let _io = registers.iomap_exclusive_sized::<{ SZ_4K }>()?;

        dev_info!(dev, "no GPU of this family\n");
        Err(ENODEV)
    }

    fn identity(&self) -> &Unknown {
        &Unknown
    }

    fn dma_bits(&self) -> u32 {
        32
    }

    fn prepare_reset(&self) {}

    fn start_reset(&self) -> Result {
        Err(ENODEV)
    }

    fn finish_reset(&self) -> Result {
        Err(ENODEV)
    }

    fn clear_errors(&self) {}

    fn power_on(&self) -> Result {
        Err(ENODEV)
    }

    fn power_off(&self) {}

    fn restart_counters(&self) {}

    fn mask_all(&self) {}

    fn clear_interrupts(&self) {}

    fn unmask_all_but_jobs(&self) {}

    fn take_jobs(&self) -> bool {
        false
    }

    fn take_faults(&self) -> bool {
        false
    }

    fn take_errors(&self) -> bool {
        false
    }

    fn take_error(&self) -> Option<Nothing> {
        None
    }

    fn unmask_errors(&self) {}
}

/// The error, the failed access and the state of a slot.
#[derive(Clone, Copy)]
pub(crate) struct Nothing;

impl Display for Nothing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

impl AccessFault for Nothing {
    fn address(&self) -> u64 {
        0
    }

    fn misses_translation(&self) -> bool {
        false
    }
}

impl Walker for Gpu<'_> {
    type Config = Unknown;
    type Fault = Nothing;

    fn present(&self) -> u32 {
        0
    }

    fn leaves_accesses(&self) -> bool {
        false
    }

    fn enable(&self, _nr: u8, _config: &Unknown) -> Result {
        Err(ENODEV)
    }

    fn disable(&self, _nr: u8) -> Result {
        Err(ENODEV)
    }

    fn flush(&self, _nr: u8, _range: &Range<u64>, _how: Flush) -> Result {
        Err(ENODEV)
    }

    fn exclude(&self, _nr: u8, _range: &Range<u64>, _how: Flush, _f: &mut dyn FnMut()) -> Result {
        Err(ENODEV)
    }

    fn pending_faults(&self) -> Result<u16> {
        Err(ENODEV)
    }

    fn take_fault(&self, _nr: u8) -> Option<Nothing> {
        None
    }

    fn clear_faults(&self, _nr: u8) {}

    fn unmask_faults(&self, _except: u16) {}

    fn job_slots_of(&self, _nr: u8) -> u32 {
        0
    }
}

impl Tables for Gpu<'_> {
    type First = ARM64LPAES1;
    type Second = ARM64LPAES1;
    type Rules = AnyColor;

    fn placement(size: u64, _exec: bool) -> Placement {
        Placement::new(size)
    }

    fn new_table<'a>(
        &self,
        _dev: &'a Device<Bound>,
        _pool: Arc<TablePool>,
    ) -> Result<FamilyTable<'a, Self>> {
        Err(EOVERFLOW)
    }

    fn first_root<'a>() -> Root<'a, ARM64LPAES1> {
        IoPageTable::<'a, ARM64LPAES1>::ttbr
    }

    fn second_root<'a>() -> Root<'a, ARM64LPAES1> {
        IoPageTable::<'a, ARM64LPAES1>::ttbr
    }

    fn walk(&self, _table: &FamilyTable<'_, Self>, _root: u64) -> Result<Unknown> {
        Err(EOVERFLOW)
    }
}

impl SlotStatus for Nothing {
    fn is_fault(&self) -> bool {
        false
    }

    fn resume(&self, _first: u64) -> Resume {
        Resume::Nowhere
    }
}

impl Runner for Gpu<'_> {
    const SLOTS: &'static [SlotConfig] = &[SlotConfig { name: c"nothing" }];

    type Status = Nothing;

    fn slot_name(_slot: QueueSlot) -> &'static str {
        "nothing"
    }

    fn depth(&self) -> usize {
        1
    }

    fn timeout_ms(&self, _slot: QueueSlot, _job_timeout_ms: u64) -> Option<u64> {
        None
    }

    fn progressed(&self, _slot: QueueSlot) -> bool {
        false
    }

    fn hides_failures(&self) -> bool {
        false
    }

    fn latest_flush_id(&self) -> Result<u32> {
        Err(ENODEV)
    }

    fn start(&self, _slot: QueueSlot, _chain: &Chain) -> Result {
        Err(ENODEV)
    }

    fn finish(&self, _counts_cycles: bool) {}

    fn stop(&self, _slot: QueueSlot, _how: Stop, _flag: bool) {}

    fn withdraw(&self, _slot: QueueSlot) -> bool {
        true
    }

    fn withdraw_waiting(&self, _slot: QueueSlot) {}

    fn status(&self, _slot: QueueSlot) -> Nothing {
        Nothing
    }

    fn collect(&self, _jobs: &mut impl JobsInSlots<Nothing>) -> Reports {
        Reports::default()
    }

    fn collect_unreported(&self, _jobs: &mut impl JobsInSlots<Nothing>) -> u32 {
        0
    }

    fn outcome(
        &self,
        _slot: QueueSlot,
        _status: &Nothing,
        to_end: Option<Error>,
        _resumed: bool,
    ) -> Outcome {
        Outcome::Ended(Err(to_end.unwrap_or(ECANCELED)))
    }

    fn last_begun(&self, _slot: QueueSlot) -> u64 {
        0
    }

    fn is_raised(&self) -> bool {
        false
    }

    fn mask_jobs(&self) {}

    fn unmask_jobs(&self) {}
}

impl Snapshot for Nothing {
    fn product(&self) -> u32 {
        0
    }

    fn registers(&self) -> impl Iterator<Item = (u32, u32)> {
        iter::empty()
    }
}

impl Inspect for Gpu<'_> {
    type Snapshot = Nothing;

    fn snapshot(&self, _slot: QueueSlot, _as_nr: u8) -> Nothing {
        Nothing
    }

    fn show_chain(_chain: u64, _memory: &dyn Memory, _f: &mut Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
