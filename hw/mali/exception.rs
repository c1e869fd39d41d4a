// SPDX-License-Identifier: GPL-2.0

//! Exception codes: how a job chain ended, or why an access failed.
//!
//! The same codes appear in `JS_STATUS`, in the fault status of an address space, in
//! `GPU_FAULT_STATUS` and in the header of a job in memory.

use kernel::{
    num::Bounded,
    prelude::*, //
};

/// An exception code. Every value is valid; most have no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exception(pub(crate) u8);

impl Exception {
    /// No exception.
    pub(crate) const OK: Self = Self(0x00);
    /// The chain has completed.
    pub(crate) const DONE: Self = Self(0x01);
    /// The chain was soft-stopped and can be resumed.
    pub(crate) const STOPPED: Self = Self(0x03);
    /// The chain was hard-stopped.
    pub(crate) const TERMINATED: Self = Self(0x04);
    /// The chain is running.
    pub(crate) const ACTIVE: Self = Self(0x08);
    /// An access of the chain failed on the bus, or its address space was turned off.
    pub(crate) const JOB_BUS_FAULT: Self = Self(0x48);

    /// A fragment job has a tile outside of its framebuffer.
    pub(crate) const TILE_RANGE_FAULT: Self = Self(0x59);

    /// Returns whether the code reports a fault.
    pub(crate) fn is_fault(self) -> bool {
        self.0 > 0x3f
    }

    /// Returns whether the code reports an address without a translation, which a heap can resolve
    /// by growing.
    pub(crate) fn is_translation_fault(self) -> bool {
        self.0 & 0xf8 == 0xc0
    }

    /// Returns the name of the code for the log.
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            0x00 => "OK",
            0x01 => "DONE",
            0x02 => "INTERRUPTED",
            0x03 => "STOPPED",
            0x04 => "TERMINATED",
            0x05 => "KABOOM",
            0x06 => "EUREKA",
            0x08 => "ACTIVE",
            0x40 => "JOB_CONFIG_FAULT",
            0x41 => "JOB_POWER_FAULT",
            0x42 => "JOB_READ_FAULT",
            0x43 => "JOB_WRITE_FAULT",
            0x44 => "JOB_AFFINITY_FAULT",
            0x48 => "JOB_BUS_FAULT",
            0x50 => "INSTR_INVALID_PC",
            0x51 => "INSTR_INVALID_ENC",
            0x52 => "INSTR_TYPE_MISMATCH",
            0x53 => "INSTR_OPERAND_FAULT",
            0x54 => "INSTR_TLS_FAULT",
            0x55 => "INSTR_BARRIER_FAULT",
            0x56 => "INSTR_ALIGN_FAULT",
            0x58 => "DATA_INVALID_FAULT",
            0x59 => "TILE_RANGE_FAULT",
            0x5a => "ADDR_RANGE_FAULT",
            0x5b => "IMPRECISE_FAULT",
            0x60 => "OUT_OF_MEMORY",
            0x61 => "OUT_OF_MEMORY_AFBC",
            0x80 => "DELAYED_BUS_FAULT",
            0x88 => "GPU_SHAREABILITY_FAULT",
            0x89 => "SYSTEM_SHAREABILITY_FAULT",
            0x8a => "GPU_CACHEABILITY_FAULT",
            0xc0..=0xc4 => "TRANSLATION_FAULT",
            0xc7 => "TRANSLATION_FAULT_IDENTITY",
            0xc8..=0xcb => "PERMISSION_FAULT",
            0xd0..=0xd3 => "TRANSTAB_BUS_FAULT",
            0xd8..=0xdb => "ACCESS_FLAG",
            0xe0..=0xe3 => "ADDRESS_SIZE_FAULT_IN",
            0xe4..=0xe7 => "ADDRESS_SIZE_FAULT_OUT",
            0xe8..=0xeb => "MEMORY_ATTRIBUTE_FAULT",
            0xec..=0xef => "MEMORY_ATTRIBUTE_NONCACHEABLE",
            _ => "UNKNOWN",
        }
    }
}

impl From<Bounded<u32, 8>> for Exception {
    fn from(code: Bounded<u32, 8>) -> Self {
        Self(code.into())
    }
}

impl From<Exception> for Bounded<u32, 8> {
    fn from(exception: Exception) -> Self {
        exception.0.into()
    }
}

#[kunit_tests(drm_gpu_exception)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        assert!(!Exception(0x01).is_fault());
        assert!(!Exception::TERMINATED.is_fault());
        assert!(Exception::JOB_BUS_FAULT.is_fault());
        assert!(Exception(0xc2).is_translation_fault());
        assert!(Exception(0xc7).is_translation_fault());
        assert!(!Exception(0xc8).is_translation_fault());
        assert!(Exception(0xff).name() == "UNKNOWN");
    }
}
