// SPDX-License-Identifier: GPL-2.0

//! The life of a BO's pages, as a table.
//!
//! What happens to pages is decided here and nowhere else: who wants to bring pages in, let a heap
//! grow, or take pages away asks [`State::after`] first, under the lock that guards the state, and
//! stores the answer once the deed is done. The table knows nothing of pages, locks or hardware, and
//! the tests at the end compare all of it with a second one.

use kernel::prelude::*;

/// Where the content of a BO is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nowhere: the BO was never used. It reads as zeros.
    None,
    /// In pages, all of them.
    Resident,
    /// In those chunks of a heap that faults asked for.
    Partial,
    /// Lost, as user space allowed. For good.
    Purged,
    /// With shmem, in memory or swap. It comes back on demand.
    Evicted,
    /// With the driver that exported it.
    Imported,
}

/// What can happen to the pages of a BO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(CONFIG_KUNIT = "y"),
    expect(dead_code, reason = "nothing takes pages away yet")
)]
pub(crate) enum Event {
    /// All pages are brought in, and kept as long as somebody pins them.
    Populate,
    /// A heap gets a chunk.
    Grow,
    /// A heap gives its last chunk back.
    Empty,
    /// Pages are dropped with their content.
    Purge,
    /// Pages are left to shmem.
    Evict,
}

impl State {
    /// The state after `event`.
    ///
    /// `EINVAL` if the event makes no sense in this state: nothing may be done then.
    pub(crate) fn after(self, event: Event) -> Result<Self> {
        match (self, event) {
            (Self::None | Self::Resident | Self::Evicted, Event::Populate) => Ok(Self::Resident),
            (Self::None | Self::Partial, Event::Grow) => Ok(Self::Partial),
            (Self::Partial, Event::Empty) => Ok(Self::None),
            (Self::Resident | Self::Partial | Self::Evicted, Event::Purge) => Ok(Self::Purged),
            (Self::Resident, Event::Evict) => Ok(Self::Evicted),
            // The exporter keeps the pages in as long as the import lasts.
            (Self::Imported, Event::Populate) => Ok(Self::Imported),
            _ => Err(EINVAL),
        }
    }
}

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

    const STATES: [State; 6] = [
        State::None,
        State::Resident,
        State::Partial,
        State::Purged,
        State::Evicted,
        State::Imported,
    ];
    const EVENTS: [Event; 5] = [
        Event::Populate,
        Event::Grow,
        Event::Empty,
        Event::Purge,
        Event::Evict,
    ];

    /// Row: state, column: event, both in the order above; the number of the next state, or -1.
    const TABLE: [[i8; 5]; 6] = [
        [1, 2, -1, -1, -1],
        [1, -1, -1, 3, 4],
        [-1, 2, 0, 3, -1],
        [-1, -1, -1, -1, -1],
        [1, -1, -1, 3, -1],
        [5, -1, -1, -1, -1],
    ];

    #[test]
    fn every_transition() {
        for (state, row) in STATES.iter().zip(TABLE) {
            for (event, next) in EVENTS.iter().zip(row) {
                let expected = STATES.get(usize::try_from(next).unwrap_or(usize::MAX));
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
        assert!(State::Imported.after(Event::Purge).is_err());
        assert!(State::Imported.after(Event::Evict).is_err());
    }

    #[test]
    fn advice_from_user_space() {
        assert_eq!(Advice::try_from(0), Ok(Advice::WillNeed));
        assert_eq!(Advice::try_from(1), Ok(Advice::DontNeed));
        assert!(Advice::try_from(2).is_err());
        assert!(Advice::try_from(u32::MAX).is_err());
    }
}
