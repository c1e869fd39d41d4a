// SPDX-License-Identifier: GPL-2.0

//! The cached leaves of an address space.
//!
//! Entries are kept until they are invalidated, so that a missing flush is noticed: the GPU
//! continues to use the old page. Everything is dropped only when [`CAPACITY`] is reached. As in
//! hardware, invalid entries are not kept: a fault is retried with the tables.
//!
//! Locks: none of its own, part of the GPU's state.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;

use super::walk::Leaf;

/// The maximum number of entries of one size.
pub const CAPACITY: usize = 1 << 16;

/// A hasher for page numbers, which are not chosen by an adversary.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 29;
    }
}

type Pages = HashMap<u64, Leaf, BuildHasherDefault<PageHasher>>;

/// log2 of the three leaf sizes: 4 KiB, 2 MiB, 1 GiB.
const SHIFTS: [u32; 3] = [12, 21, 30];

/// The entries of one address space.
#[derive(Default)]
pub struct Tlb {
    pages: [Pages; 3],
    last: Option<(u64, Leaf)>,
}

impl Tlb {
    /// Returns the leaf that covers `va`, if known.
    pub fn lookup(&mut self, va: u64) -> Option<Leaf> {
        if let Some((page, leaf)) = self.last {
            if va >> leaf.shift == page {
                return Some(leaf);
            }
        }
        for (pages, shift) in self.pages.iter().zip(SHIFTS) {
            if pages.is_empty() {
                continue;
            }
            if let Some(&leaf) = pages.get(&(va >> shift)) {
                self.last = Some((va >> shift, leaf));
                return Some(leaf);
            }
        }
        None
    }

    /// Remembers the leaf that covers `va`.
    pub fn insert(&mut self, va: u64, leaf: Leaf) {
        let Some(size) = SHIFTS.iter().position(|&shift| shift == leaf.shift) else {
            return;
        };
        let pages = &mut self.pages[size];
        if pages.len() >= CAPACITY {
            pages.clear();
        }
        pages.insert(va >> leaf.shift, leaf);
        self.last = Some((va >> leaf.shift, leaf));
    }

    /// Forgets all leaves that cover any part of `start..=last`.
    pub fn invalidate(&mut self, start: u64, last: u64) {
        self.last = None;
        for (pages, shift) in self.pages.iter_mut().zip(SHIFTS) {
            let (from, to) = (start >> shift, last >> shift);
            if to - from < pages.len() as u64 {
                for page in from..=to {
                    pages.remove(&page);
                }
            } else {
                pages.retain(|&page, _| page < from || page > to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::walk::Perms;

    fn leaf(pa: u64, shift: u32) -> Leaf {
        Leaf {
            pa,
            shift,
            perms: Perms::ALL,
        }
    }

    #[test]
    fn keeps_until_told() {
        let mut tlb = Tlb::default();
        tlb.insert(0x1234, leaf(0x8000, 12));
        tlb.insert(0x40_0000, leaf(0x20_0000, 21));
        assert_eq!(tlb.lookup(0x1fff).unwrap().pa, 0x8000);
        assert_eq!(tlb.lookup(0x5f_ffff).unwrap().pa, 0x20_0000);
        assert!(tlb.lookup(0x2000).is_none());
        tlb.invalidate(0x2000, 0x3f_ffff);
        assert!(tlb.lookup(0x1000).is_some());
        assert!(tlb.lookup(0x40_0000).is_some());
        tlb.invalidate(0x41_0000, 0x41_0fff);
        assert!(tlb.lookup(0x40_0000).is_none());
        tlb.invalidate(0, u64::MAX);
        assert!(tlb.lookup(0x1000).is_none());
    }
}
