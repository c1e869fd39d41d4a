// SPDX-License-Identifier: GPL-2.0

//! Synchronisation of accesses to shared buffers.
//!
//! - [`fence`]: work that a device will complete ([`struct dma_fence`]).
//! - [`resv`]: the fences that a buffer has, and the lock of the buffer ([`struct dma_resv`]).
//!
//! [`struct dma_fence`]: srctree/include/linux/dma-fence.h
//! [`struct dma_resv`]: srctree/include/linux/dma-resv.h

use crate::{
    error::{
        code::EINVAL,
        to_result,
        Result, //
    },
    ffi::{
        c_int,
        c_long, //
    },
    task::MAX_SCHEDULE_TIMEOUT,
    time::Jiffies, //
};

pub mod fence;
pub mod resv;

/// How a wait with a time limit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// Everything waited for has signalled. Holds the jiffies of the limit that were left, at
    /// least one.
    Signaled(Jiffies),

    /// The limit has passed.
    TimedOut,
}

impl Waited {
    /// Decodes what the C functions return: the jiffies left, zero or an error.
    fn from_ret(ret: c_long) -> Result<Self> {
        match ret {
            0 => Ok(Self::TimedOut),
            // CAST: Positive, hence the value does not change.
            1.. => Ok(Self::Signaled(ret as Jiffies)),
            _ => {
                // CAST: The negative values are error codes, which fit.
                to_result(ret as c_int)?;
                Err(EINVAL)
            }
        }
    }

    /// Returns whether everything waited for has signalled.
    pub fn is_signaled(self) -> bool {
        matches!(self, Self::Signaled(_))
    }
}

/// Converts `timeout` for the C functions. A value out of their range means no limit.
fn clamp_timeout(timeout: Jiffies) -> c_long {
    c_long::try_from(timeout).unwrap_or(MAX_SCHEDULE_TIMEOUT)
}
