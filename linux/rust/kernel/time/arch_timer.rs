// SPDX-License-Identifier: GPL-2.0

//! The Arm architected timer.
//!
//! C header: `asm/arch_timer.h` of arm and arm64.

/// Returns the frequency in Hz at which the system counter of the Arm architecture runs, or
/// [`None`] on an architecture without one.
///
/// Other devices of an Arm system, GPUs among them, count with the same clock.
#[inline]
pub fn frequency() -> Option<u32> {
    #[cfg(CONFIG_ARM_ARCH_TIMER)]
    {
        // SAFETY: The function only reads a register.
        Some(unsafe { crate::bindings::arch_timer_get_cntfrq() })
    }

    #[cfg(not(CONFIG_ARM_ARCH_TIMER))]
    {
        None
    }
}
