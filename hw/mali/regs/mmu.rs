// SPDX-License-Identifier: GPL-2.0

//! MMU: interrupts and the address spaces.

use kernel::{
    bitfield,
    num::Bounded,
    register, //
};

use crate::hw::{
    mali::Exception,
    MAX_AS, //
};

/// Distance between the registers of two address spaces, in bytes.
const STRIDE: usize = 0x40;

interrupt_registers! {
    MMU_INT_RAWSTAT @ 0x2000,
    MMU_INT_CLEAR @ 0x2004,
    MMU_INT_MASK @ 0x2008,
    MMU_INT_STAT @ 0x200c,
    {
        /// Address spaces with a page fault, as a bitmap by number.
        15:0    page_fault => u16;
        /// Address spaces with a bus error, as a bitmap by number (kbase).
        31:16   bus_error => u16;
    }
}

field_values! {
    /// Values of [`AS_COMMAND`].
    pub(crate) enum MmuCommand: Bounded<u32, 8> {
        /// Does nothing.
        Nop = 0x00,
        /// Makes the register values of the address space take effect.
        Update = 0x01,
        /// Blocks accesses to the region.
        Lock = 0x02,
        /// Unlocks the region.
        Unlock = 0x03,
        /// Flushes cached translations of the locked region, then unlocks it. Does not wait for
        /// accesses that were translated before.
        FlushPt = 0x04,
        /// Like [`Self::FlushPt`], but also waits for all accesses and writes back the data caches.
        FlushMem = 0x05,
    }
}

/// Kind of an access that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessType {
    /// Read and written at once, or unknown on Midgard.
    Atomic = 0,
    /// Executed.
    Execute = 1,
    /// Read.
    Read = 2,
    /// Written.
    Write = 3,
}

impl From<Bounded<u32, 2>> for AccessType {
    fn from(value: Bounded<u32, 2>) -> Self {
        match value.get() {
            0 => Self::Atomic,
            1 => Self::Execute,
            2 => Self::Read,
            _ => Self::Write,
        }
    }
}

impl From<AccessType> for Bounded<u32, 2> {
    fn from(value: AccessType) -> Self {
        match value {
            AccessType::Atomic => Self::new::<0>(),
            AccessType::Execute => Self::new::<1>(),
            AccessType::Read => Self::new::<2>(),
            AccessType::Write => Self::new::<3>(),
        }
    }
}

register! {
    /// Root of the page table, low word. The format depends on the mode: io-pgtable's
    /// `arm_mali_lpae_cfg` and `arm_lpae_s1_cfg` make the value.
    pub(crate) AS_TRANSTAB_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2400 { 31:0 table; }
    /// Root of the page table, high word.
    pub(crate) AS_TRANSTAB_HI(u32)[MAX_AS, stride = STRIDE] @ 0x2404 { 31:0 table; }
    /// Memory attributes, low word: one byte for each index of 0 to 3. In the AArch64 format, a
    /// byte is a [`Memattr`].
    pub(crate) AS_MEMATTR_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2408 { 31:0 attributes; }
    /// Memory attributes, high word: one byte for each index of 4 to 7.
    pub(crate) AS_MEMATTR_HI(u32)[MAX_AS, stride = STRIDE] @ 0x240c { 31:0 attributes; }
    /// Region that a command applies to, low word; see [`LockAddr`].
    pub(crate) AS_LOCKADDR_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2410 { 31:0 region; }
    /// Region that a command applies to, high word.
    pub(crate) AS_LOCKADDR_HI(u32)[MAX_AS, stride = STRIDE] @ 0x2414 { 31:0 region; }

    /// Commands.
    pub(crate) AS_COMMAND(u32)[MAX_AS, stride = STRIDE] @ 0x2418 {
        /// The command.
        7:0     command ?=> MmuCommand;
    }

    /// Why the last access failed (kbase).
    pub(crate) AS_FAULTSTATUS(u32)[MAX_AS, stride = STRIDE] @ 0x241c {
        /// Exception code.
        7:0     exception => Exception;
        /// Kind of access.
        9:8     access => AccessType;
        /// The fault came from a decoder, not from a bus slave.
        10:10   decoder => bool;
        /// Unit that made the access.
        31:16   source;
    }

    /// Address of the access that failed, low word.
    pub(crate) AS_FAULTADDRESS_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2420 { 31:0 address; }
    /// Address of the access that failed, high word.
    pub(crate) AS_FAULTADDRESS_HI(u32)[MAX_AS, stride = STRIDE] @ 0x2424 { 31:0 address; }

    /// Status of the address space.
    pub(crate) AS_STATUS(u32)[MAX_AS, stride = STRIDE] @ 0x2428 {
        /// A command is being executed.
        0:0     active => bool;
    }

    /// Translation configuration (Bifrost and later), low word; see [`TransCfg`].
    pub(crate) AS_TRANSCFG_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2430 { 31:0 config; }
    /// Translation configuration (Bifrost and later), high word.
    pub(crate) AS_TRANSCFG_HI(u32)[MAX_AS, stride = STRIDE] @ 0x2434 { 31:0 config; }
}

bitfield! {
    /// Value of `AS_LOCKADDR`: a region whose size is a power of two, and which is aligned to it.
    pub(crate) struct LockAddr(u64) {
        /// Log2 of the size in bytes, less one.
        5:0     size;
        /// Address in pages of 4 KiB. The hardware ignores the bits below the size.
        63:12   base;
    }
}

field_values! {
    /// Format of the page table.
    pub(crate) enum AddressMode: Bounded<u64, 4> {
        /// Midgard's own format.
        Legacy = 0,
        /// None: every access faults.
        Unmapped = 1,
        /// None: every address is translated to itself.
        Identity = 2,
        /// 64-bit Arm tables with a granule of 4 KiB.
        Aarch64Granule4K = 6,
        /// 64-bit Arm tables with a granule of 64 KiB.
        Aarch64Granule64K = 8,
    }
}

field_values! {
    /// How the MMU reads tables.
    pub(crate) enum WalkMemattr: Bounded<u64, 2> {
        /// Not valid while tables are in use (Tyr).
        Invalid = 0,
        /// Through no cache.
        NonCacheable = 1,
        /// Through write-back caches.
        WriteBack = 2,
    }
}

field_values! {
    /// With whom the MMU shares tables.
    pub(crate) enum WalkShareability: Bounded<u64, 2> {
        /// Nobody.
        None = 0,
        /// The outer-shareable domain: the CPUs.
        Outer = 2,
        /// The inner-shareable domain.
        Inner = 3,
    }
}

bitfield! {
    /// Value of `AS_TRANSCFG`: how tables are walked.
    pub(crate) struct TransCfg(u64) {
        /// Format of the table.
        3:0     mode ?=> AddressMode;
        /// Width of input addresses: 55 less the number of bits.
        10:6    ina_bits;
        /// Width of output addresses.
        18:14   outa_bits;
        /// Concatenates tables of the first level.
        22:22   sl_concat => bool;
        /// How tables are read.
        25:24   ptw_memattr ?=> WalkMemattr;
        /// With whom tables are shared.
        29:28   ptw_sh ?=> WalkShareability;
        /// Allocates tables in caches when they are read.
        30:30   ptw_ra => bool;
        /// Ignores permissions in tables above the last level.
        33:33   disable_hier_ap => bool;
        /// Does not fault if the access flag is clear.
        34:34   disable_af_fault => bool;
        /// Does not execute pages that can be written.
        35:35   wxn => bool;
        /// Executes pages that can be read.
        36:36   xreadable => bool;
    }
}

field_values! {
    /// Allocation policy of the inner caches.
    pub(crate) enum AllocPolicy: Bounded<u8, 2> {
        /// As the implementation wants.
        Implementation = 2,
        /// As the two allocation bits say.
        Explicit = 3,
    }
}

field_values! {
    /// Meaning of inner-shareable.
    pub(crate) enum InnerDomain: Bounded<u8, 2> {
        /// Shared among the cores of the GPU.
        Gpu = 0,
        /// Shared with the CPUs.
        Cpu = 1,
        /// Shared with the CPUs, and coherent among the shader cores.
        CpuShaderCoherent = 2,
    }
}

field_values! {
    /// Type of memory.
    pub(crate) enum MemoryType: Bounded<u8, 2> {
        /// Shared.
        Shared = 0,
        /// Not cached.
        NonCacheable = 1,
        /// Cached with write-back.
        WriteBack = 2,
        /// Every access faults.
        Fault = 3,
    }
}

bitfield! {
    /// Byte of `AS_MEMATTR` in the AArch64 format.
    pub(crate) struct Memattr(u8) {
        /// Allocates on writes, with [`AllocPolicy::Explicit`].
        0:0     alloc_w => bool;
        /// Allocates on reads, with [`AllocPolicy::Explicit`].
        1:1     alloc_r => bool;
        /// Allocation policy.
        3:2     alloc ?=> AllocPolicy;
        /// Meaning of inner-shareable.
        5:4     inner_domain ?=> InnerDomain;
        /// Type of memory.
        7:6     memory_type ?=> MemoryType;
    }
}
