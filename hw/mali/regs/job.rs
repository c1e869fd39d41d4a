// SPDX-License-Identifier: GPL-2.0

//! Job control: interrupts of the job slots, and the slots themselves.
//!
//! A slot has two entries. The chain in the current one runs. The chain in the other, whose
//! registers are called `NEXT`, moves up by itself when the current chain has ended without an
//! error.

use kernel::register;

/// Number of job slots whose registers are declared here.
const SLOTS: usize = 3;
/// Distance between the registers of two slots, in bytes.
const STRIDE: usize = 0x80;

register! {
    /// Interrupt sources, whether masked or not: done in bits 2:0, failed in bits 18:16.
    pub(crate) JOB_INT_RAWSTAT(u32) @ 0x1000 { 31:0 value; }
    /// Clears interrupt sources. Also updates `JOB_INT_JS_STATE` for the slots whose bits are set.
    pub(crate) JOB_INT_CLEAR(u32) @ 0x1004 { 31:0 value; }
    /// Interrupt sources that may raise the line.
    pub(crate) JOB_INT_MASK(u32) @ 0x1008 { 31:0 value; }
    /// Interrupt sources that raise the line now.
    pub(crate) JOB_INT_STAT(u32) @ 0x100c { 31:0 value; }
    /// Slots with a current chain (bits 2:0) and with a next one (bits 18:16), when last updated.
    pub(crate) JOB_INT_JS_STATE(u32) @ 0x1010 { 31:0 value; }

    /// First job of the current chain that has not completed, low word.
    pub(crate) JS_HEAD_LO(u32)[SLOTS, stride = STRIDE] @ 0x1800 { 31:0 value; }
    /// First job of the current chain that has not completed, high word.
    pub(crate) JS_HEAD_HI(u32)[SLOTS, stride = STRIDE] @ 0x1804 { 31:0 value; }
    /// Last job of the current chain that has begun, low word.
    pub(crate) JS_TAIL_LO(u32)[SLOTS, stride = STRIDE] @ 0x1808 { 31:0 value; }
    /// Last job of the current chain that has begun, high word.
    pub(crate) JS_TAIL_HI(u32)[SLOTS, stride = STRIDE] @ 0x180c { 31:0 value; }
    /// Configuration of the current chain; see [`config`].
    pub(crate) JS_CONFIG(u32)[SLOTS, stride = STRIDE] @ 0x1818 { 31:0 value; }
    /// Commands to the current chain; see [`cmd`].
    pub(crate) JS_COMMAND(u32)[SLOTS, stride = STRIDE] @ 0x1820 { 31:0 value; }
    /// Exception code with which the slot ended its last chain.
    pub(crate) JS_STATUS(u32)[SLOTS, stride = STRIDE] @ 0x1824 { 31:0 value; }
    /// First job of the next chain, low word; 0 once that has moved up.
    pub(crate) JS_HEAD_NEXT_LO(u32)[SLOTS, stride = STRIDE] @ 0x1840 { 31:0 value; }
    /// First job of the next chain, high word; 0 once that has moved up.
    pub(crate) JS_HEAD_NEXT_HI(u32)[SLOTS, stride = STRIDE] @ 0x1844 { 31:0 value; }
    /// Shader cores of the next chain, low word.
    pub(crate) JS_AFFINITY_NEXT_LO(u32)[SLOTS, stride = STRIDE] @ 0x1850 { 31:0 value; }
    /// Shader cores of the next chain, high word.
    pub(crate) JS_AFFINITY_NEXT_HI(u32)[SLOTS, stride = STRIDE] @ 0x1854 { 31:0 value; }
    /// Configuration of the next chain; see [`config`].
    pub(crate) JS_CONFIG_NEXT(u32)[SLOTS, stride = STRIDE] @ 0x1858 { 31:0 value; }
    /// Commands to the next chain; reads as 0 when there is none.
    pub(crate) JS_COMMAND_NEXT(u32)[SLOTS, stride = STRIDE] @ 0x1860 { 31:0 value; }
    /// Flush count at which the memory of the next chain was last known to be clean.
    pub(crate) JS_FLUSH_ID_NEXT(u32)[SLOTS, stride = STRIDE] @ 0x1870 { 31:0 value; }
}

/// Fields of `JS_CONFIG`. Bits 3:0 are the address space.
pub(crate) mod config {
    /// Clean and invalidate caches before the first job.
    pub(crate) const START_FLUSH_CLEAN_INVALIDATE: u32 = 3 << 8;
    /// Start the MMU (erratum 10649).
    pub(crate) const START_MMU: u32 = 1 << 10;
    /// Chain flag, which tells the two chains of one slot apart in stop commands.
    pub(crate) const JOB_CHAIN_FLAG: u32 = 1 << 11;
    /// Clean and invalidate caches after the last job.
    pub(crate) const END_FLUSH_CLEAN_INVALIDATE: u32 = 3 << 12;
    /// Skip the first flush if the flush count has moved on.
    pub(crate) const ENABLE_FLUSH_REDUCTION: u32 = 1 << 14;
    /// Thread priority in the middle of the range.
    pub(crate) const THREAD_PRIORITY_MEDIUM: u32 = 8 << 16;
}

/// Values of `JS_COMMAND` and `JS_COMMAND_NEXT`.
pub(crate) mod cmd {
    /// No command. In `JS_COMMAND_NEXT`, withdraws the chain.
    pub(crate) const NOP: u32 = 0x00;
    /// Starts the chain.
    pub(crate) const START: u32 = 0x01;
    /// Stops the chain between two jobs or parts of a job, so that it can be resumed.
    pub(crate) const SOFT_STOP: u32 = 0x02;
    /// Stops the chain at once.
    pub(crate) const HARD_STOP: u32 = 0x03;
    /// `SOFT_STOP` if the chain flag is clear.
    pub(crate) const SOFT_STOP_0: u32 = 0x04;
    /// `HARD_STOP` if the chain flag is clear.
    pub(crate) const HARD_STOP_0: u32 = 0x05;
    /// `SOFT_STOP` if the chain flag is set.
    pub(crate) const SOFT_STOP_1: u32 = 0x06;
    /// `HARD_STOP` if the chain flag is set.
    pub(crate) const HARD_STOP_1: u32 = 0x07;
}
