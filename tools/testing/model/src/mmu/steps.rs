// SPDX-License-Identifier: GPL-2.0

//! The cached table entries of an address space.
//!
//! Like the TLB, this keeps entries until they are invalidated, so that the use of a table that a
//! driver freed before the flush is noticed. Only entries that lead to a table are kept. Each entry
//! that is used is compared with memory: a walk through an entry that has changed is counted as
//! stale. A stale walk does not prove a mistake of the driver, since a job may use addresses that
//! are being unmapped; it does if the job only uses addresses that it may.
//!
//! Locks: none of its own, part of the GPU's state.

use std::collections::HashMap;

/// The maximum number of entries.
pub const CAPACITY: usize = 1 << 12;

/// The entries of one address space, by the level of their table and the part of the address that
/// leads to them.
#[derive(Debug, Default)]
pub struct Steps(HashMap<(u8, u64), u64>);

/// Returns log2 of the size that an entry on a level covers, 3 being the last level.
pub fn shift_of(level: u8) -> u32 {
    12 + 9 * u32::from(3 - level.min(3))
}

impl Steps {
    /// Returns the entry for `va` on `level`, if known.
    pub fn lookup(&self, level: u8, va: u64) -> Option<u64> {
        self.0.get(&(level, va >> shift_of(level))).copied()
    }

    /// Remembers the entry for `va` on `level`.
    pub fn insert(&mut self, level: u8, va: u64, entry: u64) {
        if self.0.len() >= CAPACITY {
            self.0.clear();
        }
        self.0.insert((level, va >> shift_of(level)), entry);
    }

    /// Forgets all entries that cover any part of `start..=last`.
    pub fn invalidate(&mut self, start: u64, last: u64) {
        self.0.retain(|&(level, part), _| {
            let shift = shift_of(level);
            part < start >> shift || part > last >> shift
        });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_until_told() {
        let mut steps = Steps::default();
        steps.insert(0, 0x20_1000, 0x1003);
        steps.insert(2, 0x20_1000, 0x3003);
        assert_eq!(steps.lookup(2, 0x3f_ffff), Some(0x3003));
        assert_eq!(steps.lookup(2, 0x40_0000), None);
        assert_eq!(steps.lookup(1, 0x20_0000), None);
        steps.invalidate(0x40_0000, 0x40_0fff);
        assert_eq!(steps.lookup(2, 0x20_0000), Some(0x3003));
        // The entry above covers that range as well.
        assert_eq!(steps.lookup(0, 0x20_0000), None);
        steps.invalidate(0x20_8000, 0x20_8fff);
        assert_eq!(steps.lookup(2, 0x20_0000), None);
        steps.insert(1, 0, 0x2003);
        steps.clear();
        assert_eq!(steps.lookup(1, 0), None);
    }
}
