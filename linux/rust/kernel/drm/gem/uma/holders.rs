// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The holders of an object's pages, and the operations that they permit.
//!
//! [`Facts`] is a snapshot of everything that matters for that. Its functions depend on nothing
//! else, and the tests at the end cover every combination. [`Holders`] keeps the facts of an
//! object. They only change under the lock of the lists, in
//! [`Base::update()`](super::base::Base::update).

use super::{
    lru::Lru,
    state::{
        Event,
        PageState, //
    }, //
};
use crate::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// Everything that determines what may happen to the pages of an object with a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Where the content is.
    pub(super) state: PageState,
    /// The device holds the pages.
    pub(super) mapped: bool,
    /// Others hold the pages: an attached driver, or a mapping of the kernel.
    pub(super) pinned: bool,
    /// User space has given up the content.
    pub(super) dont_need: bool,
    /// A dma-buf was exported at some time, so others may use the content.
    pub(super) exported: bool,
}

impl Facts {
    /// Returns whether the content may be lost.
    fn is_given_up(self) -> bool {
        self.dont_need && !self.exported
    }

    /// Returns the state after `event`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the event is not possible in this state; `EBUSY` if the pages are held, or the
    /// content is needed. The caller must not touch the pages then.
    pub(super) fn after(self, event: Event) -> Result<PageState> {
        let next = self.state.after(event)?;

        match event {
            Event::Purge | Event::Evict if self.mapped || self.pinned => Err(EBUSY),
            Event::Purge if !self.is_given_up() => Err(EBUSY),
            _ => Ok(next),
        }
    }

    /// Returns the list that the object belongs to.
    #[inline]
    pub(super) fn lru(self) -> Lru {
        if self.state != PageState::Resident {
            Lru::Unbacked
        } else if self.pinned {
            Lru::Pinned
        } else if self.is_given_up() {
            Lru::DontNeed
        } else {
            Lru::WillNeed
        }
    }
}

/// The [`Facts`] of an object.
///
/// Each field can be read without a lock, and may be outdated then.
pub(super) struct Holders {
    /// The number of device mappings.
    pub(super) maps: Atomic<usize>,
    /// The number of other holders.
    pub(super) pins: Atomic<usize>,
    /// See [`Facts::dont_need`]. Never set if the object was exported.
    pub(super) dont_need: Atomic<bool>,
    /// See [`Facts::exported`].
    pub(super) exported: Atomic<bool>,
    /// The number of the [`PageState`]. Changed with the lock of the pages held as well.
    state: Atomic<u32>,
}

impl Holders {
    /// Creates the facts of a new object.
    pub(super) fn new() -> Self {
        Self {
            maps: Atomic::new(0),
            pins: Atomic::new(0),
            dont_need: Atomic::new(false),
            exported: Atomic::new(false),
            state: Atomic::new(PageState::None.index()),
        }
    }

    /// Returns where the content is.
    #[inline]
    pub(super) fn state(&self) -> PageState {
        PageState::from_index(self.state.load(Relaxed))
    }

    /// Returns the facts. They are consistent if the lock of the lists is held.
    #[inline]
    pub(super) fn facts(&self) -> Facts {
        Facts {
            state: self.state(),
            mapped: self.maps.load(Relaxed) != 0,
            pinned: self.pins.load(Relaxed) != 0,
            dont_need: self.dont_need.load(Relaxed),
            exported: self.exported.load(Relaxed),
        }
    }

    /// Applies `event` to the state, if it is permitted.
    ///
    /// # Errors
    ///
    /// Those of [`Facts::after()`].
    pub(super) fn apply(&self, event: Event) -> Result {
        let next = self.facts().after(event)?;

        self.state.store(next.index(), Relaxed);
        Ok(())
    }
}

/// Changes a counter by one.
pub(super) fn count(counter: &Atomic<usize>, up: bool) {
    let old = counter.load(Relaxed);

    counter.store(
        match up {
            true => old.saturating_add(1),
            false => old.saturating_sub(1),
        },
        Relaxed,
    );
}

#[macros::kunit_tests(rust_drm_gem_uma_holders)]
mod tests {
    use super::*;

    /// Calls `f` with every combination of facts.
    fn all(mut f: impl FnMut(Facts)) {
        for state in PageState::ALL {
            for bits in 0..16 {
                f(Facts {
                    state,
                    mapped: bits & 1 != 0,
                    pinned: bits & 2 != 0,
                    dont_need: bits & 4 != 0,
                    exported: bits & 8 != 0,
                });
            }
        }
    }

    #[test]
    fn holders_decide_on_purge_and_evict() {
        all(|facts| {
            let free = !facts.mapped && !facts.pinned;
            let given_up = facts.dont_need && !facts.exported;

            for event in Event::ALL {
                let expected = match (event, facts.state) {
                    (Event::Purge, PageState::Resident | PageState::Evicted)
                        if free && given_up =>
                    {
                        Ok(PageState::Purged)
                    }
                    (Event::Evict, PageState::Resident) if free => Ok(PageState::Evicted),
                    (Event::Purge, PageState::Resident | PageState::Evicted)
                    | (Event::Evict, PageState::Resident) => Err(EBUSY),
                    // Other events do not depend on the holders.
                    _ => facts.state.after(event),
                };

                assert_eq!(facts.after(event), expected);
            }
        });
    }

    #[test]
    fn held_pages_stay() {
        all(|facts| {
            if facts.state == PageState::Resident && (facts.mapped || facts.pinned) {
                for event in Event::ALL {
                    assert!(
                        facts.after(event).unwrap_or(PageState::Resident) == PageState::Resident
                    );
                }
            }
        });
    }

    #[test]
    fn lists_promise_what_can_be_had() {
        all(|facts| {
            // The driver can unmap the object from the device.
            let unmapped = Facts {
                mapped: false,
                ..facts
            };
            let purge = unmapped.after(Event::Purge).is_ok();
            let evict = unmapped.after(Event::Evict).is_ok();

            match facts.lru() {
                Lru::DontNeed => assert!(purge && evict),
                Lru::WillNeed => assert!(!purge && evict),
                // Evicted content is with shmem and takes no memory that could be freed here.
                Lru::Unbacked => assert!(!evict && facts.state != PageState::Resident),
                Lru::Pinned => assert!(!evict && facts.pinned),
                // `Foreign` is for objects without a file.
                lru => assert!(lru != Lru::Foreign),
            }
        });
    }
}
