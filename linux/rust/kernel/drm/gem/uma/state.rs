// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The life of a buffer's pages, as a table.
//!
//! All transitions are defined here: code that brings pages in, lets a buffer grow, or takes pages
//! away calls [`PageState::after`] first, under the lock that protects the state. The table does
//! not depend on pages, locks or hardware, and the tests at the end compare it with a second one.

use crate::prelude::*;

/// Where the content of a buffer is.
///
/// An [`Object`](super::Object) keeps the state of its file itself. For an object without a file,
/// whose memory the driver provides, the driver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// Nowhere: the buffer has no content and reads as zeros. Left when it is populated, grows, or
    /// is found to be an import.
    None,
    /// In pages, all of which are present. Left when the buffer is purged or evicted.
    Resident,
    /// In the parts that a growing buffer has been given so far. Left when the last part is given
    /// back.
    Partial,
    /// Lost, as user space permitted. Final.
    Purged,
    /// With shmem, in memory or swap. Left when the buffer is populated again, or purged.
    Evicted,
    /// With the driver that exported it, which keeps the pages as long as the import lasts. Final.
    Imported,
    /// With the process whose memory it is. Final.
    User,
}

/// An event in the life of a buffer's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// All pages are brought in.
    Populate,
    /// A part of a buffer gets memory.
    Grow,
    /// The last part of a buffer gives back its memory.
    Empty,
    /// The content is dropped, be it in pages or with shmem.
    Purge,
    /// The pages are given back to shmem.
    Evict,
    /// The buffer is found to belong to another driver.
    Import,
}

impl Event {
    /// All events, for exhaustive tests.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) const ALL: [Self; 6] = [
        Self::Populate,
        Self::Grow,
        Self::Empty,
        Self::Purge,
        Self::Evict,
        Self::Import,
    ];
}

impl PageState {
    pub(super) const ALL: [Self; 7] = [
        Self::None,
        Self::Resident,
        Self::Partial,
        Self::Purged,
        Self::Evicted,
        Self::Imported,
        Self::User,
    ];

    /// Returns the state after `event`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the event is not possible in this state. The caller must not touch the pages
    /// then.
    pub fn after(self, event: Event) -> Result<Self> {
        match (self, event) {
            (Self::None | Self::Resident | Self::Evicted, Event::Populate) => Ok(Self::Resident),
            (Self::None | Self::Partial, Event::Grow) => Ok(Self::Partial),
            (Self::Partial, Event::Empty) => Ok(Self::None),
            (Self::Resident | Self::Evicted, Event::Purge) => Ok(Self::Purged),
            (Self::Resident, Event::Evict) => Ok(Self::Evicted),
            (Self::None, Event::Import) => Ok(Self::Imported),
            // The exporter keeps the pages as long as the import lasts; the notifier of the
            // process's memory says when they change. Neither may be dropped by us.
            (Self::Imported | Self::User, Event::Populate) => Ok(self),
            _ => Err(EINVAL),
        }
    }

    /// Returns the state with this number.
    #[inline]
    pub(super) fn from_index(index: u32) -> Self {
        usize::try_from(index)
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
            .unwrap_or(Self::None)
    }

    /// Returns the number of the state.
    pub(super) const fn index(self) -> u32 {
        self as u32
    }
}

#[macros::kunit_tests(rust_drm_gem_uma_state)]
mod tests {
    use super::*;

    /// Row: state, column: event, both in the order above; the number of the next state, or -1.
    const TABLE: [[i8; 6]; 7] = [
        [1, 2, -1, -1, -1, 5],
        [1, -1, -1, 3, 4, -1],
        [-1, 2, 0, -1, -1, -1],
        [-1, -1, -1, -1, -1, -1],
        [1, -1, -1, 3, -1, -1],
        [5, -1, -1, -1, -1, -1],
        [6, -1, -1, -1, -1, -1],
    ];

    #[test]
    fn every_transition() {
        for (state, row) in PageState::ALL.iter().zip(TABLE) {
            for (event, next) in Event::ALL.iter().zip(row) {
                let expected = PageState::ALL.get(usize::try_from(next).unwrap_or(usize::MAX));
                assert_eq!(state.after(*event).ok(), expected.copied());
            }
        }
    }

    #[test]
    fn purged_is_for_good() {
        for event in Event::ALL {
            assert!(PageState::Purged.after(event).is_err());
        }
    }

    #[test]
    fn others_memory_is_not_ours_to_drop() {
        for state in [PageState::Imported, PageState::User] {
            assert!(state.after(Event::Purge).is_err());
            assert!(state.after(Event::Evict).is_err());
        }
    }

    #[test]
    fn numbers() {
        for state in PageState::ALL {
            assert_eq!(PageState::from_index(state.index()), state);
        }
    }
}
