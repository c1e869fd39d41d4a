// SPDX-License-Identifier: GPL-2.0

//! The life of a BO's pages.
//!
//! Where they are is a [`State`], what happens to them an [`Event`]; the table of both is that of
//! [`uma`](kernel::drm::gem::uma), which keeps the state of BOs that have a file. A heap has its own.

use kernel::prelude::*;

pub(crate) use kernel::drm::gem::uma::{
    Event,
    State, //
};

/// What user space says about the content of a BO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// It is needed.
    WillNeed,
    /// It may be dropped when memory is short.
    DontNeed,
}

impl TryFrom<u32> for Advice {
    type Error = Error;

    fn try_from(madv: u32) -> Result<Self> {
        match madv {
            kernel::uapi::PANFROST_MADV_WILLNEED => Ok(Self::WillNeed),
            kernel::uapi::PANFROST_MADV_DONTNEED => Ok(Self::DontNeed),
            _ => Err(EINVAL),
        }
    }
}

#[kunit_tests(drm_gpu_backing)]
mod tests {
    use super::*;

    #[test]
    fn advice_from_user_space() {
        assert_eq!(Advice::try_from(0), Ok(Advice::WillNeed));
        assert_eq!(Advice::try_from(1), Ok(Advice::DontNeed));
        assert!(Advice::try_from(2).is_err());
        assert!(Advice::try_from(u32::MAX).is_err());
    }
}
