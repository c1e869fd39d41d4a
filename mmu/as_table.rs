// SPDX-License-Identifier: GPL-2.0

//! The table of the hardware's address spaces: which space is in which, and in what state.
//!
//! Touches no register. The spinlock of [`AddressSpaces`](super::AddressSpaces) protects it.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    change::Change,
    occupants::RunningJobs,
    orphans::Linked, //
};
use crate::hw::MAX_AS;

/// An address space as the hardware uses it: a [`VmShared`](super::VmShared), or what stands for
/// one in tests.
pub(crate) trait Space: Linked {
    /// See [`Walker::Config`](crate::hw::Walker::Config).
    type Config;

    /// Returns the configuration with which the hardware reads the table of the space.
    fn config(&self) -> &Self::Config;

    /// Returns the jobs of the space that are running now.
    fn running_jobs(&self) -> RunningJobs;
}

/// State of an AS and of the space in it, as far as the driver knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AsState {
    /// The hardware translates with the table of the space. Its cached translations are as current
    /// as the last flush, so each change of the table needs one.
    ///
    /// Left for [`Faulty`](Self::Faulty) by a fault, and for [`Off`](Self::Off) by reclaim, by the
    /// removal of several mappings in a row, or by a reset.
    Live,
    /// Turned off after a fault, so that the jobs of the space end with errors; its interrupts are
    /// masked. While these are still running, pages that are removed need a flush: between the
    /// flush and the last command of turning it off, the hardware may have translated accesses. If
    /// turning it off has failed, the AS is also [`stuck`](AsEntry::stuck).
    ///
    /// Left for [`Live`](Self::Live) by the next job of the space, which has to wait until all jobs
    /// in the hardware have ended, and for [`Off`](Self::Off) by a reset.
    Faulty,
    /// The hardware has no translations of the space, after a reset or because the AS was turned
    /// off while idle. No flush is needed, nor a command to remove the space.
    ///
    /// Left for [`Live`](Self::Live) by the next job of the space.
    Off,
    /// Assigning the AS to the space has failed: the hardware may use the table of this space or
    /// of the one before, and nothing may be assumed. The space before is kept as an orphan.
    ///
    /// Left for [`Live`](Self::Live) if a later attempt succeeds, and for [`Off`](Self::Off) by a
    /// reset.
    Unknown,
}

/// Entry of the table for an AS in use.
pub(super) struct AsEntry<S> {
    pub(super) space: Arc<S>,
    /// Number of jobs of the space in the hardware.
    pub(super) jobs: u32,
    /// Value of [`AsTable::stamp`] when a job last used the AS.
    pub(super) stamp: u64,
    pub(super) state: AsState,
    /// A mapping was removed, or its memory taken, since the last job began.
    pub(super) closed: bool,
    /// A command has timed out. Until a reset, the hardware takes no other command, and may still
    /// use the translations that it had.
    pub(super) stuck: bool,
}

impl<S> AsEntry<S> {
    /// Returns whether a change of the table needs a flush.
    pub(super) fn needs_flush(&self, change: Change) -> bool {
        match self.state {
            AsState::Live => true,
            AsState::Faulty => change == Change::Unmapped && self.jobs != 0,
            AsState::Off | AsState::Unknown => false,
        }
    }

    /// Marks the AS as stuck if `result`, that of a command, is a timeout. Returns `result`.
    pub(super) fn note_timeout(&mut self, result: Result) -> Result {
        self.stuck |= result == Err(ETIMEDOUT);
        result
    }
}

/// The hardware's address spaces, by number.
pub(super) struct AsTable<S> {
    pub(super) entries: [Option<AsEntry<S>>; MAX_AS],
    /// Number of times that an AS was asked for; orders them by last use.
    pub(super) stamp: u64,
}

impl<S> AsTable<S> {
    /// Returns the entry of the AS that a space is in, with its number.
    pub(super) fn find(&mut self, space: &S) -> Option<(u8, &mut AsEntry<S>)> {
        self.entries.iter_mut().enumerate().find_map(|(nr, entry)| {
            let entry = entry.as_mut()?;
            // There are 16 numbers.
            core::ptr::eq(&*entry.space, space).then_some((nr as u8, entry))
        })
    }

    /// Like [`Self::find`], but the caller can also take the entry out of the table.
    pub(super) fn find_entry(&mut self, space: &S) -> Option<(u8, &mut Option<AsEntry<S>>)> {
        let nr = self.find(space)?.0;

        Some((nr, self.entries.get_mut(usize::from(nr))?))
    }

    /// Chooses an AS for another space: a free one if there is any, else the least recently used.
    /// Those that do not exist, are stuck, or have a job are left out.
    pub(super) fn choose(&mut self, present: u32) -> Option<(u8, &mut Option<AsEntry<S>>)> {
        self.entries
            .iter_mut()
            .enumerate()
            .filter(|(nr, _)| present & 1 << nr != 0)
            .filter(|(_, entry)| entry.as_ref().is_none_or(|e| e.jobs == 0 && !e.stuck))
            .min_by_key(|(_, entry)| entry.as_ref().map(|e| e.stamp))
            .map(|(nr, entry)| (nr as u8, entry))
    }

    /// Returns which address spaces were turned off after a fault, as a bitmap by number.
    pub(super) fn faulty(&self) -> u16 {
        self.entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.as_ref().is_some_and(|e| e.state == AsState::Faulty))
            .fold(0, |mask, (nr, _)| mask | 1 << nr)
    }
}
