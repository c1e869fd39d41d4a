// SPDX-License-Identifier: GPL-2.0

//! Job control: interrupts of the job slots, and the slots themselves.
//!
//! A slot has two entries. The chain in the current one runs. The chain in the other, whose
//! registers are called `NEXT`, moves up by itself when the current chain has ended without an
//! error.

use kernel::register;

use crate::hw::mali::Exception;

/// Number of job slots whose registers are declared here, which the driver uses.
pub(crate) const NR_SLOTS: usize = 3;
/// Distance between the registers of two slots, in bytes.
const STRIDE: usize = 0x80;

// Writing `JOB_INT_CLEAR` also updates `JOB_INT_JS_STATE` for the slots whose bits are set (kbase).
interrupt_registers! {
    JOB_INT_RAWSTAT @ 0x1000,
    JOB_INT_CLEAR @ 0x1004,
    JOB_INT_MASK @ 0x1008,
    JOB_INT_STAT @ 0x100c,
    {
        /// Slots of which a chain is done, as a bitmap by number.
        15:0    done => u16;
        /// Slots of which a chain has failed or was stopped, as a bitmap by number.
        31:16   failed => u16;
    }
}

field_values! {
    /// Values of [`JS_COMMAND`] and [`JS_COMMAND_NEXT`].
    pub(crate) enum JobCommand: Bounded<u32, 8> {
        /// No command. In [`JS_COMMAND_NEXT`], withdraws the chain.
        Nop = 0x00,
        /// Starts the chain. Ignored in [`JS_COMMAND`] (kbase).
        Start = 0x01,
        /// Stops the chain between two jobs or parts of a job, so that it can be resumed.
        SoftStop = 0x02,
        /// Stops the chain at once.
        HardStop = 0x03,
        /// [`Self::SoftStop`] if the chain flag is clear.
        SoftStop0 = 0x04,
        /// [`Self::HardStop`] if the chain flag is clear.
        HardStop0 = 0x05,
        /// [`Self::SoftStop`] if the chain flag is set.
        SoftStop1 = 0x06,
        /// [`Self::HardStop`] if the chain flag is set.
        HardStop1 = 0x07,
    }
}

field_values! {
    /// Cache maintenance before the first job of a chain, or after the last.
    pub(crate) enum JobFlush: Bounded<u32, 2> {
        /// None.
        None = 0,
        /// Writes the caches back.
        Clean = 1,
        /// Empties the caches of the shader cores, only before a chain and on some GPUs (kbase).
        InvalidateShader = 2,
        /// Writes the caches back and empties them.
        CleanInvalidate = 3,
    }
}

register! {
    /// Chains that the slots had when [`JOB_INT_CLEAR`] was last written.
    pub(crate) JOB_INT_JS_STATE(u32) @ 0x1010 {
        /// Slots with a current chain, as a bitmap by number.
        15:0    current => u16;
        /// Slots with a next chain, as a bitmap by number.
        31:16   next => u16;
    }

    /// First job of the current chain that has not completed, low word.
    pub(crate) JS_HEAD_LO(u32)[NR_SLOTS, stride = STRIDE] @ 0x1800 { 31:0 address; }
    /// First job of the current chain that has not completed, high word.
    pub(crate) JS_HEAD_HI(u32)[NR_SLOTS, stride = STRIDE] @ 0x1804 { 31:0 address; }
    /// Last job of the current chain that has begun, low word.
    pub(crate) JS_TAIL_LO(u32)[NR_SLOTS, stride = STRIDE] @ 0x1808 { 31:0 address; }
    /// Last job of the current chain that has begun, high word.
    pub(crate) JS_TAIL_HI(u32)[NR_SLOTS, stride = STRIDE] @ 0x180c { 31:0 address; }

    /// Shader cores of the current chain, low word.
    pub(crate) JS_AFFINITY_LO(u32)[NR_SLOTS, stride = STRIDE] @ 0x1810 { 31:0 cores; }
    /// Shader cores of the current chain, high word.
    pub(crate) JS_AFFINITY_HI(u32)[NR_SLOTS, stride = STRIDE] @ 0x1814 { 31:0 cores; }

    /// Configuration of the current chain, as it was in [`JS_CONFIG_NEXT`]. Not all of it reads
    /// back on all GPUs.
    pub(crate) JS_CONFIG(u32)[NR_SLOTS, stride = STRIDE] @ 0x1818 {
        /// Address space.
        3:0     address_space;
    }

    /// Commands to the current chain. The hardware uses bits 2:0 (kbase).
    pub(crate) JS_COMMAND(u32)[NR_SLOTS, stride = STRIDE] @ 0x1820 {
        /// The command.
        7:0     command ?=> JobCommand;
    }

    /// State of the current chain, or end of the last one.
    pub(crate) JS_STATUS(u32)[NR_SLOTS, stride = STRIDE] @ 0x1824 {
        /// Exception code.
        7:0     exception => Exception;
    }

    /// First job of the next chain, low word; 0 once that has moved up.
    pub(crate) JS_HEAD_NEXT_LO(u32)[NR_SLOTS, stride = STRIDE] @ 0x1840 { 31:0 address; }
    /// First job of the next chain, high word; 0 once that has moved up.
    pub(crate) JS_HEAD_NEXT_HI(u32)[NR_SLOTS, stride = STRIDE] @ 0x1844 { 31:0 address; }
    /// Shader cores of the next chain, low word.
    pub(crate) JS_AFFINITY_NEXT_LO(u32)[NR_SLOTS, stride = STRIDE] @ 0x1850 { 31:0 cores; }
    /// Shader cores of the next chain, high word.
    pub(crate) JS_AFFINITY_NEXT_HI(u32)[NR_SLOTS, stride = STRIDE] @ 0x1854 { 31:0 cores; }

    /// Configuration of the next chain.
    pub(crate) JS_CONFIG_NEXT(u32)[NR_SLOTS, stride = STRIDE] @ 0x1858 {
        /// Address space.
        3:0     address_space;
        /// Cache maintenance before the first job.
        9:8     start_flush ?=> JobFlush;
        /// Starts the MMU (erratum 10649).
        10:10   start_mmu => bool;
        /// Chain flag, which tells the two chains of one slot apart in stop commands.
        11:11   job_chain_flag => bool;
        /// Cache maintenance after the last job.
        13:12   end_flush ?=> JobFlush;
        /// Skips the maintenance before the first job if the flush count has moved on.
        14:14   enable_flush_reduction => bool;
        /// Does not write the descriptors of the jobs back.
        15:15   disable_descriptor_wr_bk => bool;
        /// Thread priority. No driver uses another value than
        /// [`Self::THREAD_PRIORITY_MEDIUM`], and the width of the field is not public.
        19:16   thread_priority;
    }

    /// Commands to the next chain; reads as 0 when there is none.
    pub(crate) JS_COMMAND_NEXT(u32)[NR_SLOTS, stride = STRIDE] @ 0x1860 {
        /// The command.
        7:0     command ?=> JobCommand;
    }

    /// Flush count at which the memory of the next chain was last known to be clean.
    pub(crate) JS_FLUSH_ID_NEXT(u32)[NR_SLOTS, stride = STRIDE] @ 0x1870 { 31:0 flush_id; }
}

impl JS_CONFIG_NEXT {
    /// Thread priority in the middle of the range.
    pub(crate) const THREAD_PRIORITY_MEDIUM: u32 = 8;
}
