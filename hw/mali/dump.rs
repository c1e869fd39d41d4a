// SPDX-License-Identifier: GPL-2.0

//! The registers that dumps contain.
//!
//! Implements [`Inspect`], which says in which contexts.

use kernel::{
    drm::job_queue::QueueSlot,
    fmt::{
        self,
        Display,
        Formatter, //
    },
    io::{
        register::{
            Register,
            RegisterArray, //
        },
        Io, //
    },
    prelude::*, //
};

use super::{
    chain,
    regs::{
        gpu::*,
        job::*,
        mmu::*, //
    }, //
};
use crate::{
    device::Gpu,
    hw::dump::{
        Inspect,
        Memory,
        Snapshot, //
    }, //
};

/// Which one of several equal registers is in a dump.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    /// The one with this number, always.
    Number(usize),
    /// That of the slot of the job.
    Slot,
    /// That of the address space of the job.
    Space,
}

/// A register in a dump.
struct Entry {
    name: &'static str,
    offset: usize,
    stride: usize,
    which: Which,
    /// Writes the fields of a value.
    show: Option<Show>,
}

/// Writes the fields of the value of a register.
type Show = fn(u32, &mut Formatter<'_>) -> fmt::Result;

impl Entry {
    /// Returns a register that there is one of.
    const fn one<R: Register>(name: &'static str) -> Self {
        Self {
            name,
            offset: R::OFFSET,
            stride: 0,
            which: Which::Number(0),
            show: None,
        }
    }

    /// Returns one of an array of registers.
    const fn of<R: RegisterArray>(name: &'static str, which: Which) -> Self {
        Self {
            name,
            offset: R::OFFSET,
            stride: R::STRIDE,
            which,
            show: None,
        }
    }

    /// Returns the same register, shown with its fields.
    const fn shown(self, show: Show) -> Self {
        Self {
            show: Some(show),
            ..self
        }
    }

    /// Returns the offset of the register for a slot and an address space.
    fn offset(&self, slot: usize, space: usize) -> usize {
        let number = match self.which {
            Which::Number(number) => number,
            Which::Slot => slot,
            Which::Space => space,
        };

        self.offset + number * self.stride
    }
}

use Which::{
    Number,
    Slot,
    Space, //
};

/// The number of registers at the beginning of [`ENTRIES`] that user space knows.
const KNOWN: usize = 31;
/// The number of all registers.
const COUNT: usize = 61;

/// The registers. The first [`KNOWN`] are those that C panfrost dumps, in the same order.
static ENTRIES: [Entry; COUNT] = [
    Entry::of::<SHADER_READY>("SHADER_READY_LO", Number(0)),
    Entry::of::<SHADER_READY>("SHADER_READY_HI", Number(1)),
    Entry::of::<TILER_READY>("TILER_READY_LO", Number(0)),
    Entry::of::<TILER_READY>("TILER_READY_HI", Number(1)),
    Entry::of::<L2_READY>("L2_READY_LO", Number(0)),
    Entry::of::<L2_READY>("L2_READY_HI", Number(1)),
    Entry::one::<JOB_INT_MASK>("JOB_INT_MASK"),
    Entry::one::<JOB_INT_STAT>("JOB_INT_STAT").shown(job_interrupts),
    Entry::of::<JS_HEAD_LO>("JS_HEAD_LO", Slot),
    Entry::of::<JS_HEAD_HI>("JS_HEAD_HI", Slot),
    Entry::of::<JS_TAIL_LO>("JS_TAIL_LO", Slot),
    Entry::of::<JS_TAIL_HI>("JS_TAIL_HI", Slot),
    Entry::of::<JS_AFFINITY_LO>("JS_AFFINITY_LO", Slot),
    Entry::of::<JS_AFFINITY_HI>("JS_AFFINITY_HI", Slot),
    Entry::of::<JS_CONFIG>("JS_CONFIG", Slot).shown(config),
    Entry::of::<JS_STATUS>("JS_STATUS", Slot).shown(status),
    Entry::of::<JS_HEAD_NEXT_LO>("JS_HEAD_NEXT_LO", Slot),
    Entry::of::<JS_HEAD_NEXT_HI>("JS_HEAD_NEXT_HI", Slot),
    Entry::of::<JS_AFFINITY_NEXT_LO>("JS_AFFINITY_NEXT_LO", Slot),
    Entry::of::<JS_AFFINITY_NEXT_HI>("JS_AFFINITY_NEXT_HI", Slot),
    Entry::of::<JS_CONFIG_NEXT>("JS_CONFIG_NEXT", Slot).shown(config),
    Entry::one::<MMU_INT_MASK>("MMU_INT_MASK"),
    Entry::one::<MMU_INT_STAT>("MMU_INT_STAT").shown(mmu_interrupts),
    Entry::of::<AS_TRANSTAB_LO>("AS_TRANSTAB_LO", Space),
    Entry::of::<AS_TRANSTAB_HI>("AS_TRANSTAB_HI", Space),
    Entry::of::<AS_MEMATTR_LO>("AS_MEMATTR_LO", Space),
    Entry::of::<AS_MEMATTR_HI>("AS_MEMATTR_HI", Space),
    Entry::of::<AS_FAULTSTATUS>("AS_FAULTSTATUS", Space).shown(fault),
    Entry::of::<AS_FAULTADDRESS_LO>("AS_FAULTADDRESS_LO", Space),
    Entry::of::<AS_FAULTADDRESS_HI>("AS_FAULTADDRESS_HI", Space),
    Entry::of::<AS_STATUS>("AS_STATUS", Space).shown(space_status),
    // Those that only the text has.
    Entry::one::<GPU_ID>("GPU_ID"),
    Entry::one::<GPU_INT_RAWSTAT>("GPU_INT_RAWSTAT"),
    Entry::one::<GPU_STATUS>("GPU_STATUS").shown(gpu_status),
    Entry::one::<GPU_FAULT_STATUS>("GPU_FAULT_STATUS").shown(gpu_fault),
    Entry::one::<GPU_FAULT_ADDRESS_LO>("GPU_FAULT_ADDRESS_LO"),
    Entry::one::<GPU_FAULT_ADDRESS_HI>("GPU_FAULT_ADDRESS_HI"),
    Entry::of::<SHADER_PWRTRANS>("SHADER_PWRTRANS_LO", Number(0)),
    Entry::of::<SHADER_PWRTRANS>("SHADER_PWRTRANS_HI", Number(1)),
    Entry::of::<TILER_PWRTRANS>("TILER_PWRTRANS_LO", Number(0)),
    Entry::of::<TILER_PWRTRANS>("TILER_PWRTRANS_HI", Number(1)),
    Entry::of::<L2_PWRTRANS>("L2_PWRTRANS_LO", Number(0)),
    Entry::of::<L2_PWRTRANS>("L2_PWRTRANS_HI", Number(1)),
    Entry::one::<JOB_INT_RAWSTAT>("JOB_INT_RAWSTAT").shown(job_interrupts),
    Entry::one::<JOB_INT_JS_STATE>("JOB_INT_JS_STATE").shown(job_state),
    Entry::one::<MMU_INT_RAWSTAT>("MMU_INT_RAWSTAT").shown(mmu_interrupts),
    Entry::of::<JS_HEAD_LO>("JS0_HEAD_LO", Number(0)),
    Entry::of::<JS_HEAD_HI>("JS0_HEAD_HI", Number(0)),
    Entry::of::<JS_TAIL_LO>("JS0_TAIL_LO", Number(0)),
    Entry::of::<JS_TAIL_HI>("JS0_TAIL_HI", Number(0)),
    Entry::of::<JS_STATUS>("JS0_STATUS", Number(0)).shown(status),
    Entry::of::<JS_HEAD_LO>("JS1_HEAD_LO", Number(1)),
    Entry::of::<JS_HEAD_HI>("JS1_HEAD_HI", Number(1)),
    Entry::of::<JS_TAIL_LO>("JS1_TAIL_LO", Number(1)),
    Entry::of::<JS_TAIL_HI>("JS1_TAIL_HI", Number(1)),
    Entry::of::<JS_STATUS>("JS1_STATUS", Number(1)).shown(status),
    Entry::of::<JS_HEAD_LO>("JS2_HEAD_LO", Number(2)),
    Entry::of::<JS_HEAD_HI>("JS2_HEAD_HI", Number(2)),
    Entry::of::<JS_TAIL_LO>("JS2_TAIL_LO", Number(2)),
    Entry::of::<JS_TAIL_HI>("JS2_TAIL_HI", Number(2)),
    Entry::of::<JS_STATUS>("JS2_STATUS", Number(2)).shown(status),
];

fn job_interrupts(value: u32, f: &mut Formatter<'_>) -> fmt::Result {
    let interrupts = JOB_INT_RAWSTAT::from_raw(value);

    write!(
        f,
        "done {:#x}, failed {:#x}",
        interrupts.done(),
        interrupts.failed()
    )
}

fn job_state(value: u32, f: &mut Formatter<'_>) -> fmt::Result {
    let state = JOB_INT_JS_STATE::from_raw(value);

    write!(
        f,
        "current {:#x}, next {:#x}",
        state.current(),
        state.next()
    )
}

fn mmu_interrupts(value: u32, f: &mut Formatter<'_>) -> fmt::Result {
    let interrupts = MMU_INT_RAWSTAT::from_raw(value);

    write!(
        f,
        "page faults {:#x}, bus errors {:#x}",
        interrupts.page_fault(),
        interrupts.bus_error()
    )
}

fn config(value: u32, f: &mut Formatter<'_>) -> fmt::Result {
    let config = JS_CONFIG_NEXT::from_raw(value);

    write!(f, "AS {}", config.address_space().get())?;
    if config.job_chain_flag() {
        write!(f, ", chain flag")?;
    }
    if config.enable_flush_reduction() {
        write!(f, ", may skip the flush")?;
    }
    Ok(())
}

fn status(value: u32, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_str(JS_STATUS::from_raw(value).exception().name())
}

fn fault(value: u32, f: &mut Formatter<'_>) -> fmt::Result {
    let fault = AS_FAULTSTATUS::from_raw(value);

    if value == 0 {
        return f.write_str("none");
    }
    write!(
        f,
        "{}, {:?} by source {:#x}",
        fault.exception().name(),
        fault.access(),
        fault.source().get()
    )
}

fn space_status(value: u32, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_str(match AS_STATUS::from_raw(value).active() {
        true => "executes a command",
        false => "idle",
    })
}

fn gpu_status(value: u32, f: &mut Formatter<'_>) -> fmt::Result {
    let status = GPU_STATUS::from_raw(value);

    f.write_str(
        match (status.perfcnt_active(), status.cycle_count_active()) {
            (false, false) => "no counters",
            (false, true) => "cycle counter",
            (true, false) => "performance counters",
            (true, true) => "cycle and performance counters",
        },
    )
}

fn gpu_fault(value: u32, f: &mut Formatter<'_>) -> fmt::Result {
    f.write_str(GPU_FAULT_STATUS::from_raw(value).exception().name())
}

/// The values of the registers, as they were when they were read.
#[derive(Clone, Copy)]
pub(crate) struct Registers {
    product: u16,
    slot: u8,
    space: u8,
    values: [u32; COUNT],
}

impl Registers {
    /// Returns the registers with offset and value.
    fn iter(&self) -> impl Iterator<Item = (&'static Entry, usize, u32)> + '_ {
        let (slot, space) = (self.slot.into(), self.space.into());

        ENTRIES
            .iter()
            .zip(self.values)
            .map(move |(entry, value)| (entry, entry.offset(slot, space), value))
    }
}

impl Snapshot for Registers {
    fn product(&self) -> u32 {
        self.product.into()
    }

    fn registers(&self) -> impl Iterator<Item = (u32, u32)> {
        self.iter()
            .take(KNOWN)
            // The registers have less than 64 KiB.
            .map(|(_, offset, value)| (offset as u32, value))
    }
}

impl Display for Registers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (entry, offset, value) in self.iter() {
            write!(f, "{offset:#06x} {:<20} {value:#010x}", entry.name)?;
            if let Some(show) = entry.show {
                f.write_str(" ")?;
                show(value, f)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Inspect for Gpu<'_> {
    type Snapshot = Registers;

    fn snapshot(&self, slot: QueueSlot, as_nr: u8) -> Registers {
        let mut registers = Registers {
            product: self.chip.id.product_id,
            // There are no more than `MAX_SLOTS`.
            slot: slot.index() as u8,
            space: as_nr,
            values: [0; COUNT],
        };

        for (entry, value) in ENTRIES.iter().zip(&mut registers.values) {
            let offset = entry.offset(slot.index(), as_nr.into());

            // All of them exist: there are as many slots and address spaces as numbers of them.
            *value = self.chip.io.try_read32(offset).unwrap_or(0);
        }
        registers
    }

    fn show_chain(chain: u64, memory: &dyn Memory, f: &mut Formatter<'_>) -> fmt::Result {
        chain::show(chain, memory, f)
    }
}

#[kunit_tests(drm_gpu_hw_dump)]
mod tests {
    use super::*;
    use kernel::str::CString;

    fn registers(slot: u8, space: u8) -> Registers {
        Registers {
            product: 0x7212,
            slot,
            space,
            values: [0x58; COUNT],
        }
    }

    /// The offsets are those that C panfrost writes for slot 1 and address space 2.
    #[test]
    fn offsets_of_the_peer() {
        const OFFSETS: [u32; KNOWN] = [
            0x140, 0x144, 0x150, 0x154, 0x160, 0x164, 0x1008, 0x100c, 0x1880, 0x1884, 0x1888,
            0x188c, 0x1890, 0x1894, 0x1898, 0x18a4, 0x18c0, 0x18c4, 0x18d0, 0x18d4, 0x18d8, 0x2008,
            0x200c, 0x2480, 0x2484, 0x2488, 0x248c, 0x249c, 0x24a0, 0x24a4, 0x24a8,
        ];

        assert!(registers(1, 2)
            .registers()
            .map(|(offset, _)| offset)
            .eq(OFFSETS));
    }

    #[test]
    fn fields_are_named() -> Result {
        let shown = CString::try_from_fmt(fmt!("{}", registers(0, 0)))?;
        let mut lines = shown.to_bytes().split(|&byte| byte == b'\n');
        let mut has = |line: &[u8]| lines.any(|shown| shown == line);

        assert!(has(b"0x0140 SHADER_READY_LO      0x00000058"));
        assert!(has(
            b"0x1824 JS_STATUS            0x00000058 DATA_INVALID_FAULT"
        ));
        Ok(())
    }
}
