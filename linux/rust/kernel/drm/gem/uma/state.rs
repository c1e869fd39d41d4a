// SPDX-License-Identifier: GPL-2.0

//! The life of a buffer's pages, as a table.
//!
//! What happens to pages is decided here and nowhere else: who wants to bring pages in, let a buffer
//! grow, or take pages away asks [`State::after`] first, under the lock that guards the state. The
//! table knows nothing of pages, locks or hardware, and the tests at the end compare all of it with
//! a second one.

use crate::prelude::*;

/// Where the content of a buffer is.
///
/// An [`Object`](super::Object) keeps the state of its file itself. Those without one, whose memory
/// the driver provides, have it with the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nowhere: the buffer was never used. It reads as zeros.
    None,
    /// In pages, all of them.
    Resident,
    /// In those parts that were asked for so far: a buffer that grows.
    Partial,
    /// Lost, as user space allowed. For good.
    Purged,
    /// With shmem, in memory or swap. It comes back on demand.
    Evicted,
    /// With the driver that exported it.
    Imported,
    /// With the process whose memory it is.
    User,
}

/// What can happen to the pages of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// All pages are brought in, and kept as long as somebody holds them.
    Populate,
    /// A part of a buffer gets memory.
    Grow,
    /// The last part gives its memory back.
    Empty,
    /// Pages are dropped with their content.
    Purge,
    /// Pages are left to shmem.
    Evict,
}

impl State {
    const ALL: [Self; 7] = [
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
    /// `EINVAL` if the event makes no sense in this state: nothing may be done then.
    pub fn after(self, event: Event) -> Result<Self> {
        match (self, event) {
            (Self::None | Self::Resident | Self::Evicted, Event::Populate) => Ok(Self::Resident),
            (Self::None | Self::Partial, Event::Grow) => Ok(Self::Partial),
            (Self::Partial, Event::Empty) => Ok(Self::None),
            (Self::Resident, Event::Purge) => Ok(Self::Purged),
            (Self::Resident, Event::Evict) => Ok(Self::Evicted),
            // The exporter keeps the pages in as long as the import lasts, the notifier of the
            // process's memory tells when they change. Neither is ours to drop.
            (Self::Imported | Self::User, Event::Populate) => Ok(self),
            _ => Err(EINVAL),
        }
    }

    /// The state with this number.
    pub(super) fn from_index(index: u32) -> Self {
        usize::try_from(index)
            .ok()
            .and_then(|index| Self::ALL.get(index).copied())
            .unwrap_or(Self::None)
    }

    /// The number of the state.
    pub(super) const fn index(self) -> u32 {
        self as u32
    }
}

#[macros::kunit_tests(rust_drm_gem_uma_state)]
mod tests {
    use super::*;

    const EVENTS: [Event; 5] = [
        Event::Populate,
        Event::Grow,
        Event::Empty,
        Event::Purge,
        Event::Evict,
    ];

    /// Row: state, column: event, both in the order above; the number of the next state, or -1.
    const TABLE: [[i8; 5]; 7] = [
        [1, 2, -1, -1, -1],
        [1, -1, -1, 3, 4],
        [-1, 2, 0, -1, -1],
        [-1, -1, -1, -1, -1],
        [1, -1, -1, -1, -1],
        [5, -1, -1, -1, -1],
        [6, -1, -1, -1, -1],
    ];

    #[test]
    fn every_transition() {
        for (state, row) in State::ALL.iter().zip(TABLE) {
            for (event, next) in EVENTS.iter().zip(row) {
                let expected = State::ALL.get(usize::try_from(next).unwrap_or(usize::MAX));
                assert_eq!(state.after(*event).ok(), expected.copied());
            }
        }
    }

    #[test]
    fn purged_is_for_good() {
        for event in EVENTS {
            assert!(State::Purged.after(event).is_err());
        }
    }

    #[test]
    fn others_memory_is_not_ours_to_drop() {
        for state in [State::Imported, State::User] {
            assert!(state.after(Event::Purge).is_err());
            assert!(state.after(Event::Evict).is_err());
        }
    }

    #[test]
    fn numbers() {
        for state in State::ALL {
            assert_eq!(State::from_index(state.index()), state);
        }
    }
}
