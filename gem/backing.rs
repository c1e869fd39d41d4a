// SPDX-License-Identifier: GPL-2.0

//! The states of a BO's pages.
//!
//! A [`PageState`] says where the pages are, and an [`Event`] changes it. The table of transitions
//! is that of [`uma`](kernel::drm::gem::uma), which also keeps the state of BOs that have a file. A
//! heap keeps its own state.
//!
//! Locks: none, these are values only. Any context.

pub(crate) use kernel::drm::gem::uma::{
    Event,
    PageState, //
};

/// Returns the name of a state, as debugfs and dumps show it.
pub(crate) fn state_name(state: PageState) -> &'static str {
    match state {
        PageState::None => "none",
        PageState::Resident => "resident",
        PageState::Partial => "partial",
        PageState::Purged => "purged",
        PageState::Evicted => "evicted",
        PageState::Imported => "imported",
        PageState::User => "user",
    }
}

/// The advice of user space about the content of a BO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// The content is needed, and must be kept if it is still there.
    WillNeed,
    /// The content may be dropped when memory is short. Withdrawn by [`Self::WillNeed`].
    DontNeed,
}
