// SPDX-License-Identifier: GPL-2.0

//! Register offsets and bits of Job-Manager Malis.
//!
//! Sources: `panfrost_regs.h` of the kernel's C driver and, for bits that it does not use
//! (`GPU_STATUS`, raw access codes), Arm's public GPL driver for the same GPUs.
//!
//! Locks: none, constants only.

/// Size of the register space that is decoded, in bytes.
pub const REGISTER_SPACE: u64 = 0x1_0000;

/// Product and revision.
pub const GPU_ID: u32 = 0x000;
/// Level 2 cache features.
pub const GPU_L2_FEATURES: u32 = 0x004;
/// Shader core features.
pub const GPU_CORE_FEATURES: u32 = 0x008;
/// Tiler features.
pub const GPU_TILER_FEATURES: u32 = 0x00c;
/// Memory system features.
pub const GPU_MEM_FEATURES: u32 = 0x010;
/// VA bits in 7:0, PA bits in 15:8.
pub const GPU_MMU_FEATURES: u32 = 0x014;
/// Mask of address spaces.
pub const GPU_AS_PRESENT: u32 = 0x018;
/// Mask of job slots.
pub const GPU_JS_PRESENT: u32 = 0x01c;

/// GPU interrupts, raw.
pub const GPU_INT_RAWSTAT: u32 = 0x020;
/// Write ones to clear.
pub const GPU_INT_CLEAR: u32 = 0x024;
/// GPU interrupt mask.
pub const GPU_INT_MASK: u32 = 0x028;
/// Raw and mask.
pub const GPU_INT_STAT: u32 = 0x02c;
/// A bus or access fault of the GPU itself.
pub const GPU_IRQ_FAULT: u32 = 1 << 0;
/// More than one such fault.
pub const GPU_IRQ_MULTIPLE_FAULT: u32 = 1 << 7;
/// A soft or hard reset finished.
pub const GPU_IRQ_RESET_COMPLETED: u32 = 1 << 8;
/// A power domain finished a transition.
pub const GPU_IRQ_POWER_CHANGED: u32 = 1 << 9;
/// All power domains finished their transitions.
pub const GPU_IRQ_POWER_CHANGED_ALL: u32 = 1 << 10;
/// A counter sample has been written.
pub const GPU_IRQ_PERFCNT_SAMPLE_COMPLETED: u32 = 1 << 16;
/// A cache clean finished.
pub const GPU_IRQ_CLEAN_CACHES_COMPLETED: u32 = 1 << 17;

/// Command register.
pub const GPU_CMD: u32 = 0x030;
/// `GPU_CMD`: no operation.
pub const GPU_CMD_NOP: u32 = 0x00;
/// `GPU_CMD`: finish bus transactions, then reset.
pub const GPU_CMD_SOFT_RESET: u32 = 0x01;
/// `GPU_CMD`: reset at once.
pub const GPU_CMD_HARD_RESET: u32 = 0x02;
/// `GPU_CMD`: zero the performance counters.
pub const GPU_CMD_PERFCNT_CLEAR: u32 = 0x03;
/// `GPU_CMD`: write the performance counters to memory.
pub const GPU_CMD_PERFCNT_SAMPLE: u32 = 0x04;
/// `GPU_CMD`: start the cycle counter and the timestamp.
pub const GPU_CMD_CYCLE_COUNT_START: u32 = 0x05;
/// `GPU_CMD`: stop them.
pub const GPU_CMD_CYCLE_COUNT_STOP: u32 = 0x06;
/// `GPU_CMD`: clean the caches.
pub const GPU_CMD_CLEAN_CACHES: u32 = 0x07;
/// `GPU_CMD`: clean and invalidate the caches.
pub const GPU_CMD_CLEAN_INV_CACHES: u32 = 0x08;

/// Status register.
pub const GPU_STATUS: u32 = 0x034;
/// `GPU_STATUS`: a job or command is active.
pub const GPU_STATUS_GPU_ACTIVE: u32 = 1 << 0;
/// `GPU_STATUS`: a power transition is active.
pub const GPU_STATUS_PWR_ACTIVE: u32 = 1 << 1;
/// `GPU_STATUS`: a counter sample is being written.
pub const GPU_STATUS_PRFCNT_ACTIVE: u32 = 1 << 2;
/// `GPU_STATUS`: the cycle counter runs.
pub const GPU_STATUS_CYCLE_COUNT_ACTIVE: u32 = 1 << 6;
/// Number of the latest cache flush.
pub const GPU_LATEST_FLUSH_ID: u32 = 0x038;
/// Exception code of a GPU fault.
pub const GPU_FAULT_STATUS: u32 = 0x03c;
/// Address of a GPU fault, low word.
pub const GPU_FAULT_ADDRESS_LO: u32 = 0x040;
/// Address of a GPU fault, high word.
pub const GPU_FAULT_ADDRESS_HI: u32 = 0x044;
/// Zero means that AFBC is supported.
pub const GPU_AFBC_FEATURES: u32 = 0x04c;
/// Unlocks the override registers.
pub const GPU_PWR_KEY: u32 = 0x050;
/// The value that unlocks the override registers.
pub const GPU_PWR_KEY_UNLOCK: u32 = 0x2968_a819;
/// Power manager override 0.
pub const GPU_PWR_OVERRIDE0: u32 = 0x054;
/// Power manager override 1.
pub const GPU_PWR_OVERRIDE1: u32 = 0x058;

/// GPU VA of the counter sample, low word.
pub const GPU_PERFCNT_BASE_LO: u32 = 0x060;
/// GPU VA of the counter sample, high word.
pub const GPU_PERFCNT_BASE_HI: u32 = 0x064;
/// Mode in 3:0, address space in 7:4, counter set in 11:8.
pub const GPU_PERFCNT_CFG: u32 = 0x068;
/// Enabled job manager counters.
pub const GPU_PRFCNT_JM_EN: u32 = 0x06c;
/// Enabled shader core counters.
pub const GPU_PRFCNT_SHADER_EN: u32 = 0x070;
/// Enabled tiler counters.
pub const GPU_PRFCNT_TILER_EN: u32 = 0x074;
/// Enabled L2 and MMU counters.
pub const GPU_PRFCNT_MMU_L2_EN: u32 = 0x07c;

/// Cycle counter, low word.
pub const GPU_CYCLE_COUNT_LO: u32 = 0x090;
/// Cycle counter, high word.
pub const GPU_CYCLE_COUNT_HI: u32 = 0x094;
/// System timestamp, low word.
pub const GPU_TIMESTAMP_LO: u32 = 0x098;
/// System timestamp, high word.
pub const GPU_TIMESTAMP_HI: u32 = 0x09c;

/// Threads per core.
pub const GPU_THREAD_MAX_THREADS: u32 = 0x0a0;
/// Threads per work group.
pub const GPU_THREAD_MAX_WORKGROUP_SIZE: u32 = 0x0a4;
/// Threads at a barrier.
pub const GPU_THREAD_MAX_BARRIER_SIZE: u32 = 0x0a8;
/// Thread features.
pub const GPU_THREAD_FEATURES: u32 = 0x0ac;
/// Texture features 0 to 3.
pub const GPU_TEXTURE_FEATURES: u32 = 0x0b0;
/// Job slot features 0 to 15.
pub const GPU_JS_FEATURES: u32 = 0x0c0;
/// Threads for which thread storage is needed.
pub const GPU_THREAD_TLS_ALLOC: u32 = 0x310;
/// Supported coherency protocols.
pub const GPU_COHERENCY_FEATURES: u32 = 0x300;
/// Selected coherency protocol.
pub const GPU_COHERENCY_ENABLE: u32 = 0x304;

/// Shader cores present (low word; the high word follows at +4, as in every register pair below).
pub const SHADER_PRESENT: u32 = 0x100;
/// Tilers present.
pub const TILER_PRESENT: u32 = 0x110;
/// L2 caches present.
pub const L2_PRESENT: u32 = 0x120;
/// Core stacks present.
pub const STACK_PRESENT: u32 = 0xe00;

/// Job manager configuration.
pub const GPU_JM_CONFIG: u32 = 0xf00;
/// Shader core configuration.
pub const GPU_SHADER_CONFIG: u32 = 0xf04;
/// Tiler configuration.
pub const GPU_TILER_CONFIG: u32 = 0xf08;
/// L2 and MMU configuration.
pub const GPU_L2_MMU_CONFIG: u32 = 0xf0c;

/// Job interrupts, raw: slot n done in bit n, failed in bit 16 + n.
pub const JOB_INT_RAWSTAT: u32 = 0x1000;
/// Write ones to clear; samples `JOB_INT_JS_STATE`.
pub const JOB_INT_CLEAR: u32 = 0x1004;
/// Job interrupt mask.
pub const JOB_INT_MASK: u32 = 0x1008;
/// Raw and mask.
pub const JOB_INT_STAT: u32 = 0x100c;
/// Which slots were active (bit n) or had a next job (bit 16 + n) at the last clear.
pub const JOB_INT_JS_STATE: u32 = 0x1010;
/// Interrupt throttling.
pub const JOB_INT_THROTTLE: u32 = 0x1014;

/// First job slot.
pub const JS_BASE: u32 = 0x1800;
/// Bytes from slot to slot.
pub const JS_STRIDE: u32 = 0x80;
/// The oldest job of the chain that is not over, 64 bits.
pub const JS_HEAD: u32 = 0x00;
/// The last job of the chain that was read, 64 bits; after a soft stop, where the chain is resumed.
pub const JS_TAIL: u32 = 0x08;
/// Core mask, 64 bits.
pub const JS_AFFINITY: u32 = 0x10;
/// Configuration.
pub const JS_CONFIG: u32 = 0x18;
/// Extended affinity.
pub const JS_XAFFINITY: u32 = 0x1c;
/// Command for the running chain.
pub const JS_COMMAND: u32 = 0x20;
/// Exception code.
pub const JS_STATUS: u32 = 0x24;
/// Head of the next chain, 64 bits. 0 once it has been taken.
pub const JS_HEAD_NEXT: u32 = 0x40;
/// Core mask of the next chain, 64 bits.
pub const JS_AFFINITY_NEXT: u32 = 0x50;
/// Configuration of the next chain.
pub const JS_CONFIG_NEXT: u32 = 0x58;
/// Extended affinity of the next chain.
pub const JS_XAFFINITY_NEXT: u32 = 0x5c;
/// Command for the next chain.
pub const JS_COMMAND_NEXT: u32 = 0x60;
/// Flush number of the next chain.
pub const JS_FLUSH_ID_NEXT: u32 = 0x70;

/// `JS_CONFIG`: the address space.
pub const JS_CONFIG_AS_MASK: u32 = 0xf;
/// `JS_CONFIG`: the bits that read back on silicon. The threads' priority above them does not.
pub const JS_CONFIG_KEPT: u32 = 0xffff;
/// `JS_CONFIG`: clean and invalidate the caches at the start of the chain (clean only: the lower
/// one of the two bits).
pub const JS_CONFIG_START_FLUSH: u32 = 3 << 8;
/// `JS_CONFIG`: clean and invalidate the caches at the end of each job (clean only: the lower one
/// of the two bits).
pub const JS_CONFIG_END_FLUSH: u32 = 3 << 12;
/// `JS_CONFIG`: which of two chains this is, for the stop commands that depend on it.
pub const JS_CONFIG_JOB_CHAIN_FLAG: u32 = 1 << 11;

/// Slot command: nothing; on the next set, cancels it.
pub const JS_COMMAND_NOP: u32 = 0x00;
/// Slot command: start the next chain as soon as the slot is free.
pub const JS_COMMAND_START: u32 = 0x01;
/// Slot command: stop at the next boundary, resumable.
pub const JS_COMMAND_SOFT_STOP: u32 = 0x02;
/// Slot command: stop now, not resumable.
pub const JS_COMMAND_HARD_STOP: u32 = 0x03;
/// Slot command: soft stop if the chain flag is 0.
pub const JS_COMMAND_SOFT_STOP_0: u32 = 0x04;
/// Slot command: hard stop if the chain flag is 0.
pub const JS_COMMAND_HARD_STOP_0: u32 = 0x05;
/// Slot command: soft stop if the chain flag is 1.
pub const JS_COMMAND_SOFT_STOP_1: u32 = 0x06;
/// Slot command: hard stop if the chain flag is 1.
pub const JS_COMMAND_HARD_STOP_1: u32 = 0x07;

/// MMU interrupts, raw: page fault of AS n in bit n, bus error of its table walk in bit 16 + n.
pub const MMU_INT_RAWSTAT: u32 = 0x2000;
/// Write ones to clear.
pub const MMU_INT_CLEAR: u32 = 0x2004;
/// MMU interrupt mask.
pub const MMU_INT_MASK: u32 = 0x2008;
/// Raw and mask.
pub const MMU_INT_STAT: u32 = 0x200c;

/// First address space.
pub const AS_BASE: u32 = 0x2400;
/// Bytes from address space to address space.
pub const AS_STRIDE: u32 = 0x40;
/// Root table, 64 bits.
pub const AS_TRANSTAB: u32 = 0x00;
/// Memory attributes, 64 bits.
pub const AS_MEMATTR: u32 = 0x08;
/// Region to lock, 64 bits: log2(size) - 1 in 5:0, the base above.
pub const AS_LOCKADDR: u32 = 0x10;
/// Command register.
pub const AS_COMMAND: u32 = 0x18;
/// Exception code in 7:0, access in 9:8, source in 31:16.
pub const AS_FAULTSTATUS: u32 = 0x1c;
/// Faulting VA, 64 bits.
pub const AS_FAULTADDRESS: u32 = 0x20;
/// Bit 0: a command is active.
pub const AS_STATUS: u32 = 0x28;
/// Bifrost and later: translation configuration, 64 bits.
pub const AS_TRANSCFG: u32 = 0x30;
/// Bifrost and later: secondary fault address, 64 bits.
pub const AS_FAULTEXTRA: u32 = 0x38;

/// AS command: none.
pub const AS_COMMAND_NOP: u32 = 0x00;
/// AS command: make `TRANSTAB`, `MEMATTR` and `TRANSCFG` take effect.
pub const AS_COMMAND_UPDATE: u32 = 0x01;
/// AS command: stall accesses to the region in `LOCKADDR`.
pub const AS_COMMAND_LOCK: u32 = 0x02;
/// AS command: end the lock and drop cached translations of the region.
pub const AS_COMMAND_UNLOCK: u32 = 0x03;
/// AS command: like unlock, and flush the L2.
pub const AS_COMMAND_FLUSH_PT: u32 = 0x04;
/// AS command: like unlock, and wait for accesses and flush L1 and L2.
pub const AS_COMMAND_FLUSH_MEM: u32 = 0x05;

/// `AS_STATUS`: a command is active.
pub const AS_STATUS_ACTIVE: u32 = 1;

/// `AS_TRANSCFG` 3:0: the mode is in `AS_TRANSTAB`.
pub const ADRMODE_LEGACY: u64 = 0;
/// `AS_TRANSCFG` 3:0: every access fails.
pub const ADRMODE_UNMAPPED: u64 = 1;
/// `AS_TRANSCFG` 3:0: VA is PA.
pub const ADRMODE_IDENTITY: u64 = 2;
/// `AS_TRANSCFG` 3:0: VMSAv8-64 tables of 4 KiB granule.
pub const ADRMODE_AARCH64_4K: u64 = 6;
/// `AS_TRANSCFG`: a clear access flag does not fault.
pub const TRANSCFG_DISABLE_AF_FAULT: u64 = 1 << 34;

/// Legacy `AS_TRANSTAB` 1:0: VA is PA.
pub const TRANSTAB_IDENTITY: u64 = 2;
/// Legacy `AS_TRANSTAB` 1:0: a table.
pub const TRANSTAB_TABLE: u64 = 3;
