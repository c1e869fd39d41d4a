// SPDX-License-Identifier: GPL-2.0

//! MMU: interrupts and the address spaces.

use kernel::register;

/// Number of address spaces in the register layout. [`AS_PRESENT`](super::gpu::AS_PRESENT) tells
/// which exist.
pub(crate) const MAX_AS: usize = 16;
/// Distance between the registers of two address spaces, in bytes.
const STRIDE: usize = 0x40;

register! {
    /// Interrupt sources, whether masked or not: page faults in bits 15:0, bus errors in bits
    /// 31:16.
    pub(crate) MMU_INT_RAWSTAT(u32) @ 0x2000 { 31:0 value; }
    /// Clears interrupt sources.
    pub(crate) MMU_INT_CLEAR(u32) @ 0x2004 { 31:0 value; }
    /// Interrupt sources that may raise the line.
    pub(crate) MMU_INT_MASK(u32) @ 0x2008 { 31:0 value; }
    /// Interrupt sources that raise the line now.
    pub(crate) MMU_INT_STAT(u32) @ 0x200c { 31:0 value; }

    /// Root of the page table, low word.
    pub(crate) AS_TRANSTAB_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2400 { 31:0 value; }
    /// Root of the page table, high word.
    pub(crate) AS_TRANSTAB_HI(u32)[MAX_AS, stride = STRIDE] @ 0x2404 { 31:0 value; }
    /// Memory attributes, a byte per index; low word.
    pub(crate) AS_MEMATTR_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2408 { 31:0 value; }
    /// Memory attributes, a byte per index; high word.
    pub(crate) AS_MEMATTR_HI(u32)[MAX_AS, stride = STRIDE] @ 0x240c { 31:0 value; }
    /// Region that a command applies to, low word: address, and in bits 5:0 log2 of the size, less
    /// one.
    pub(crate) AS_LOCKADDR_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2410 { 31:0 value; }
    /// Region that a command applies to, high word.
    pub(crate) AS_LOCKADDR_HI(u32)[MAX_AS, stride = STRIDE] @ 0x2414 { 31:0 value; }
    /// Commands; see [`cmd`].
    pub(crate) AS_COMMAND(u32)[MAX_AS, stride = STRIDE] @ 0x2418 { 31:0 value; }
    /// Why the last access failed.
    pub(crate) AS_FAULTSTATUS(u32)[MAX_AS, stride = STRIDE] @ 0x241c {
        /// Exception code.
        7:0     exception;
        /// Kind of access: 0 atomic, 1 execute, 2 read, 3 write.
        9:8     access;
        /// The fault came from a decoder, not from a bus slave.
        10:10   decoder => bool;
        /// Unit that made the access.
        31:16   source;
    }
    /// Address of the access that failed, low word.
    pub(crate) AS_FAULTADDRESS_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2420 { 31:0 value; }
    /// Address of the access that failed, high word.
    pub(crate) AS_FAULTADDRESS_HI(u32)[MAX_AS, stride = STRIDE] @ 0x2424 { 31:0 value; }
    /// Status of the address space.
    pub(crate) AS_STATUS(u32)[MAX_AS, stride = STRIDE] @ 0x2428 {
        /// A command is being executed.
        0:0     active => bool;
    }
    /// How the table is walked (Bifrost and later), low word.
    pub(crate) AS_TRANSCFG_LO(u32)[MAX_AS, stride = STRIDE] @ 0x2430 { 31:0 value; }
    /// How the table is walked (Bifrost and later), high word.
    pub(crate) AS_TRANSCFG_HI(u32)[MAX_AS, stride = STRIDE] @ 0x2434 { 31:0 value; }
}

/// Values of [`AS_COMMAND`].
pub(crate) mod cmd {
    /// Makes the register values of the address space take effect.
    pub(crate) const UPDATE: u32 = 0x01;
    /// Blocks accesses to the region.
    pub(crate) const LOCK: u32 = 0x02;
    /// Flushes cached translations of the locked region, then unlocks it. Does not wait for
    /// accesses that were translated before.
    pub(crate) const FLUSH_PT: u32 = 0x04;
    /// Like `FLUSH_PT`, but also waits for all accesses and writes back the data caches.
    pub(crate) const FLUSH_MEM: u32 = 0x05;
}

/// Fields of `AS_TRANSCFG`.
pub(crate) mod transcfg {
    /// Midgard's own page-table format.
    pub(crate) const ADRMODE_LEGACY: u64 = 0;
    /// Every access faults.
    pub(crate) const ADRMODE_UNMAPPED: u64 = 1;
    /// 64-bit Arm tables with a granule of 4 KiB.
    pub(crate) const ADRMODE_AARCH64_4K: u64 = 6;
    /// Shift of the field for the width of input addresses, which holds 55 less the number of bits.
    pub(crate) const INA_BITS_SHIFT: u32 = 6;
    /// Tables are read through write-back caches.
    pub(crate) const PTW_MEMATTR_WB: u64 = 2 << 24;
    /// Tables are shared with the CPUs.
    pub(crate) const PTW_SH_OS: u64 = 2 << 28;
    /// Tables are allocated in caches when read.
    pub(crate) const PTW_RA: u64 = 1 << 30;
}

/// Fields of one byte of `AS_MEMATTR` in the AArch64 format.
pub(crate) mod memattr {
    /// Write-allocate, with [`ALLOC_EXPLICIT`].
    pub(crate) const ALLOC_W: u8 = 1 << 0;
    /// Read-allocate, with [`ALLOC_EXPLICIT`].
    pub(crate) const ALLOC_R: u8 = 1 << 1;
    /// Allocation policy as given by [`ALLOC_W`] and [`ALLOC_R`].
    pub(crate) const ALLOC_EXPLICIT: u8 = 3 << 2;
    /// Inner-shareable means shared among the cores of the GPU.
    pub(crate) const SH_MIDGARD_INNER: u8 = 0 << 4;
    /// Inner-shareable means shared with the CPUs.
    pub(crate) const SH_CPU_INNER: u8 = 1 << 4;
    /// Not cached.
    pub(crate) const NON_CACHEABLE: u8 = 1 << 6;
    /// Write-back.
    pub(crate) const WRITE_BACK: u8 = 2 << 6;
}
