// SPDX-License-Identifier: GPL-2.0

//! The states of a BO's pages.
//!
//! A [`PageState`] says where the pages are, and an [`Event`] changes it. The table of transitions
//! is that of [`uma`](kernel::drm::gem::uma), which also keeps the state of BOs that have a file. A
//! heap keeps its own state.

pub(crate) use kernel::drm::gem::uma::{
    Event,
    PageState, //
};

/// The advice of user space about the content of a BO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// The content is needed, and must be kept if it is still there.
    WillNeed,
    /// The content may be dropped when memory is short. Withdrawn by [`Self::WillNeed`].
    DontNeed,
}
