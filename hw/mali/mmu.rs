// SPDX-License-Identifier: GPL-2.0

//! Address spaces of the hardware: turning one on and off, flushing it, and reading why an access
//! failed.
//!
//! Implements [`Walker`], which says in which contexts. Functions wait in bounded busy loops.

use core::ops::Range;

use kernel::{
    bitfield,
    fmt::{
        self,
        Display,
        Formatter, //
    },
    io::{
        poll::read_poll_timeout_atomic,
        Io, //
    },
    prelude::*,
    time::Delta, //
};

use super::{
    hi,
    irq::{
        bit,
        pending_mmu,
        unmask_mmu, //
    },
    job,
    join,
    lo,
    regs::{
        mmu::*,
        read_at,
        write_at, //
    },
    Caps,
    Exception,
    Feature,
    Issue, //
};
use crate::{
    device::Gpu,
    hw::{
        AccessFault,
        Flush,
        Walker, //
    }, //
};

/// Time between two reads of the status of a command.
const POLL: Delta = Delta::from_micros(5);
/// Number of reads after which a command counts as stuck, at least 100 ms. A flush of a full cache
/// at a low clock rate takes a good part of that.
const POLLS: usize = 20_000;

/// Configuration with which an address space reads its page table.
#[derive(Clone, Copy)]
pub(crate) struct Config {
    /// Root of the table, as the register takes it.
    transtab: u64,
    /// Memory attributes, as the register takes them.
    memattr: u64,
    /// Translation configuration, for GPUs that have the register.
    transcfg: TransCfg,
}

impl Config {
    /// Creates the configuration for tables in Midgard's own format.
    pub(super) fn legacy(transtab: u64, memattr: u64) -> Self {
        Self {
            transtab,
            memattr,
            transcfg: TransCfg::zeroed().with_mode(AddressMode::Legacy),
        }
    }

    /// Creates the configuration for 64-bit Arm tables with a granule of 4 KiB. `va_bits`: width of
    /// virtual addresses. `coherent`: the GPU snoops the CPUs' caches.
    ///
    /// `EOVERFLOW`: the hardware has no such width.
    pub(super) fn aarch64_4k(ttbr: u64, mair: u64, va_bits: u32, coherent: bool) -> Result<Self> {
        let shareability = if coherent {
            WalkShareability::Outer
        } else {
            WalkShareability::None
        };
        let transcfg = TransCfg::zeroed()
            .with_mode(AddressMode::Aarch64Granule4K)
            .try_with_ina_bits(55u32.saturating_sub(va_bits))?
            .with_ptw_memattr(WalkMemattr::WriteBack)
            .with_ptw_sh(shareability)
            .with_ptw_ra(true);

        Ok(Self {
            transtab: ttbr,
            memattr: memattr_of(mair, coherent),
            transcfg,
        })
    }
}

bitfield! {
    /// Byte of `MAIR` for normal memory (Arm Architecture Reference Manual).
    struct MairAttr(u8) {
        /// Allocates on writes, at the inner level.
        0:0     inner_alloc_w => bool;
        /// Allocates on reads, at the inner level.
        1:1     inner_alloc_r => bool;
        /// Write-back rather than write-through, at the inner level.
        2:2     inner_write_back => bool;
        /// Allocates on writes (lower bit) and reads, at the outer level. Neither is set for memory
        /// that is not cached, and for device memory.
        5:4     outer_alloc;
        /// Write-back rather than write-through, at the outer level.
        6:6     outer_write_back => bool;
    }
}

/// Translates the CPU's memory attributes (`MAIR`) to the GPU's, byte by byte.
///
/// Only memory that is write-back at both levels is cached; all other memory, including device
/// memory, is not. Without coherency, write-back memory must not be inner-shareable with the CPUs,
/// so "inner" is set to mean the GPU only.
fn memattr_of(mair: u64, coherent: bool) -> u64 {
    u64::from_le_bytes(mair.to_le_bytes().map(|attr| {
        let attr = MairAttr::from_raw(attr);
        let out = Memattr::zeroed().with_alloc(AllocPolicy::Explicit);

        if attr.outer_alloc() == 0 || !attr.outer_write_back() || !attr.inner_write_back() {
            out.with_memory_type(MemoryType::NonCacheable)
                .with_inner_domain(InnerDomain::Gpu)
                .into_raw()
        } else {
            let domain = if coherent {
                InnerDomain::Cpu
            } else {
                InnerDomain::Gpu
            };
            out.with_memory_type(MemoryType::WriteBack)
                .with_inner_domain(domain)
                .with_alloc_w(attr.inner_alloc_w())
                .with_alloc_r(attr.inner_alloc_r())
                .into_raw()
        }
    }))
}

/// Log2 of the size of the smallest region that can be locked.
const MIN_REGION_LOG2: u32 = 15;

/// Returns the smallest region that contains `range`. The encoding is the same for both table
/// formats.
fn lock_region(range: &Range<u64>) -> Result<LockAddr> {
    let last = range.end.saturating_sub(1).max(range.start);
    let log2 = (u64::BITS - (range.start ^ last).leading_zeros()).max(MIN_REGION_LOG2);
    let base = match u64::MAX.checked_shl(log2) {
        Some(mask) => range.start & mask,
        None => 0,
    };

    LockAddr::from_raw(base).try_with_size(log2 - 1)
}

/// The range of all addresses.
const EVERYTHING: Range<u64> = 0..u64::MAX;

/// Writes the configuration of an address space and makes the hardware use it.
fn configure(gpu: &Gpu<'_>, nr: u8, config: &Config) -> Result {
    let (io, n) = (&gpu.chip.io, usize::from(nr));

    write_at(io, n, AS_TRANSTAB_LO::from_raw(lo(config.transtab)))?;
    write_at(io, n, AS_TRANSTAB_HI::from_raw(hi(config.transtab)))?;
    write_at(io, n, AS_MEMATTR_LO::from_raw(lo(config.memattr)))?;
    write_at(io, n, AS_MEMATTR_HI::from_raw(hi(config.memattr)))?;
    if gpu.chip.caps.feature(Feature::Aarch64Mmu) {
        let transcfg = config.transcfg.into_raw();

        write_at(io, n, AS_TRANSCFG_LO::from_raw(lo(transcfg)))?;
        write_at(io, n, AS_TRANSCFG_HI::from_raw(hi(transcfg)))?;
    }
    command(gpu, nr, MmuCommand::Update)
}

/// Returns whether accesses of a job may still be under way when it has ended: with the erratum,
/// the end of a chain that fails does not write the caches back.
fn leaves_accesses(caps: &Caps) -> bool {
    caps.issue(Issue::T6787)
}

/// Returns the command that does a flush.
fn flush_command(how: Flush) -> MmuCommand {
    match how {
        Flush::Translations => MmuCommand::FlushPt,
        Flush::Accesses => MmuCommand::FlushMem,
    }
}

/// Blocks accesses in the region that contains `range` until the next flush.
fn lock(gpu: &Gpu<'_>, nr: u8, range: &Range<u64>) -> Result {
    let (io, n) = (&gpu.chip.io, usize::from(nr));
    let region = lock_region(range)?.into_raw();

    write_at(io, n, AS_LOCKADDR_LO::from_raw(lo(region)))?;
    write_at(io, n, AS_LOCKADDR_HI::from_raw(hi(region)))?;
    command(gpu, nr, MmuCommand::Lock)
}

/// Gives a command and waits until it completes.
fn command(gpu: &Gpu<'_>, nr: u8, command: MmuCommand) -> Result {
    let (io, n) = (&gpu.chip.io, usize::from(nr));

    write_at(io, n, AS_COMMAND::zeroed().with_command(command))?;
    read_poll_timeout_atomic(
        || match read_at::<AS_STATUS>(io, n)? {
            gone if gone.into_raw() == u32::MAX => Err(ENODEV),
            status => Ok(status),
        },
        |status| !status.active(),
        POLL,
        POLLS,
    )
    .inspect_err(|&e| {
        // A device that has been removed is not an error.
        if e != ENODEV && gpu.log.allows() {
            dev_err!(
                gpu.dev(),
                "AS {}: MMU command {} failed: {:?}\n",
                nr,
                command as u32,
                e
            );
        }
    })?;
    Ok(())
}

/// A failed access in an address space.
pub(crate) struct Fault {
    /// The access failed on the bus.
    bus_error: bool,
    /// Raw fault status.
    status: u32,
    /// The kind of failure.
    exception: Exception,
    /// GPU address of the access.
    address: u64,
    /// Name of the kind of access, for the log.
    access: &'static str,
    /// Unit that made the access.
    source: u32,
}

impl AccessFault for Fault {
    fn address(&self) -> u64 {
        self.address
    }

    fn misses_translation(&self) -> bool {
        !self.bus_error && self.exception.is_translation_fault()
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at {:#018x}: {} ({:#x}), {} by source {:#x}",
            if self.bus_error {
                "MMU bus error"
            } else {
                "GPU page fault"
            },
            self.address,
            self.exception.name(),
            self.status,
            self.access,
            self.source
        )
    }
}

/// Reads the fault of an address space and clears its interrupts.
fn read_fault(gpu: &Gpu<'_>, nr: u8, bus_error: bool) -> Result<Fault> {
    let (io, n) = (&gpu.chip.io, usize::from(nr));
    let status = read_at::<AS_FAULTSTATUS>(io, n)?;
    let fault = Fault {
        bus_error,
        status: status.into_raw(),
        exception: status.exception(),
        address: join(
            read_at::<AS_FAULTADDRESS_LO>(io, n)?.into_raw(),
            read_at::<AS_FAULTADDRESS_HI>(io, n)?.into_raw(),
        ),
        access: match status.access() {
            AccessType::Atomic if gpu.chip.caps.feature(Feature::Aarch64Mmu) => "ATOMIC",
            AccessType::Atomic => "UNKNOWN",
            AccessType::Execute => "EXECUTE",
            AccessType::Read => "READ",
            AccessType::Write => "WRITE",
        },
        source: status.source().get(),
    };

    gpu.clear_faults(nr);
    Ok(fault)
}

impl Walker for Gpu<'_> {
    type Config = Config;
    type Fault = Fault;

    fn present(&self) -> u32 {
        self.chip.id.as_present
    }

    fn leaves_accesses(&self) -> bool {
        leaves_accesses(&self.chip.caps)
    }

    fn enable(&self, nr: u8, config: &Config) -> Result {
        self.flush(nr, &EVERYTHING, Flush::Accesses)?;
        configure(self, nr, config)
    }

    fn disable(&self, nr: u8) -> Result {
        self.flush(nr, &EVERYTHING, Flush::Accesses)?;
        configure(
            self,
            nr,
            &Config {
                transtab: 0,
                memattr: 0,
                transcfg: TransCfg::zeroed().with_mode(AddressMode::Unmapped),
            },
        )
    }

    fn flush(&self, nr: u8, range: &Range<u64>, how: Flush) -> Result {
        lock(self, nr, range)?;
        command(self, nr, flush_command(how))
    }

    fn exclude(&self, nr: u8, range: &Range<u64>, how: Flush, f: &mut dyn FnMut()) -> Result {
        lock(self, nr, range)?;
        f();
        command(self, nr, flush_command(how))
    }

    fn pending_faults(&self) -> Result<u16> {
        let pending = pending_mmu(&self.chip.io)?;

        Ok(pending.page_faults() | pending.bus_errors())
    }

    fn take_fault(&self, nr: u8) -> Option<Fault> {
        let pending = pending_mmu(&self.chip.io).ok()?;
        let bus_error = pending.bus_errors() & bit(nr) != 0;

        if !bus_error && pending.page_faults() & bit(nr) == 0 {
            return None;
        }
        let fault = read_fault(self, nr, bus_error).ok()?;

        (bus_error || fault.exception != Exception::OK).then_some(fault)
    }

    fn clear_faults(&self, nr: u8) {
        let bit = bit(nr);

        self.chip.io.write_reg(
            MMU_INT_CLEAR::zeroed()
                .with_page_fault(bit)
                .with_bus_error(bit),
        );
    }

    fn unmask_faults(&self, except: u16) {
        unmask_mmu(&self.chip.io, except);
    }

    fn job_slots_of(&self, nr: u8) -> u32 {
        job::slots_of(self, nr)
    }
}

#[kunit_tests(drm_gpu_hw_mmu)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        let lock_region = |range: &Range<u64>| lock_region(range).map_or(0, LockAddr::into_raw);

        // One page: the smallest region, 32 KiB.
        assert!(lock_region(&(0x1000..0x2000)) == 14);
        assert!(lock_region(&(0x9000..0xa000)) == 0x8000 | 14);
        // 2 MiB, aligned.
        assert!(lock_region(&(0x20_0000..0x40_0000)) == 0x20_0000 | 20);
        // Two pages across a boundary of 2 MiB need 4 MiB.
        assert!(lock_region(&(0x1f_f000..0x20_1000)) == 21);
        assert!(lock_region(&(0..u64::MAX)) == 63);
        // An empty range is as good as one byte.
        assert!(lock_region(&(0x8000..0x8000)) == 0x8000 | 14);
    }

    #[test]
    fn failed_chains_of_t60x_leave_stores_in_the_caches() {
        let leaves = |id, revision| Caps::find(id, revision).map(|caps| leaves_accesses(&caps));

        assert!(leaves(0x0600, 0x0010) == Some(true));
        assert!(leaves(0x7402, 0) == Some(false));
    }

    #[test]
    fn attributes() {
        // Device, non-cacheable, write-back with both allocations.
        assert!(memattr_of(0x04, false) & 0xff == 0x4c);
        assert!(memattr_of(0x44, false) & 0xff == 0x4c);
        assert!(memattr_of(0xff, false) & 0xff == 0x8f);
        assert!(memattr_of(0xff, true) & 0xff == 0x9f);
        // Write-back without an allocation on writes, write-through, and one level of two.
        assert!(memattr_of(0xee, false) & 0xff == 0x8e);
        assert!(memattr_of(0xbb, false) & 0xff == 0x4c);
        assert!(memattr_of(0xf4, false) & 0xff == 0x8c);
        assert!(memattr_of(0x4f, false) & 0xff == 0x4c);
    }

    /// The values are those that C panfrost writes.
    #[test]
    fn configs() {
        let config = |va_bits, coherent| {
            Config::aarch64_4k(0, 0, va_bits, coherent)
                .ok()
                .map(|config| config.transcfg.into_raw())
        };

        assert!(config(48, false) == Some(0x4200_01c6));
        assert!(config(33, true) == Some(0x6200_0586));
        assert!(config(20, false).is_none());
        assert!(Config::legacy(0, 0).transcfg.into_raw() == 0);
    }
}
