// SPDX-License-Identifier: GPL-2.0

//! Page-table walks.
//!
//! Two formats, both with a granule of 4 KiB, 9 bits of address per level and 8-byte entries:
//!
//! * Legacy ("Mali LPAE"): always four levels. Bits 1:0 are 3 for a table, 1 for a leaf of any
//!   size, also on the last level. Bit 6 allows reads, bit 7 writes, bit 54 forbids execution.
//!   There is no access flag.
//! * VMSAv8-64: as many levels as the input size needs. Leaves are 1 above the last level and 3
//!   there. Bit 6 must be set (unprivileged access), bit 7 makes it read-only, bit 10 is the
//!   access flag, bit 54 forbids execution.
//!
//! Source: `drivers/iommu/io-pgtable-arm.c` of the kernel, which writes both.
//!
//! Locks: none. Reads guest memory.

use crate::host::GuestMemory;
use crate::job::Access;

use super::steps::shift_of;
use super::steps::Steps;

/// The accesses that a leaf permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perms {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Perms {
    /// All accesses.
    pub const ALL: Perms = Perms {
        read: true,
        write: true,
        execute: true,
    };

    /// Returns whether `access` is permitted.
    pub fn allow(self, access: Access) -> bool {
        match access {
            Access::Read => self.read,
            Access::Write => self.write,
            Access::Execute => self.execute,
            Access::Atomic => self.read && self.write,
        }
    }
}

/// A page or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The bus address at which it begins.
    pub pa: u64,
    /// log2 of its size: 12, 21 or 30.
    pub shift: u32,
    /// The accesses that it permits.
    pub perms: Perms,
}

impl Leaf {
    /// Returns the level that it is on.
    pub fn level(&self) -> u8 {
        match self.shift {
            30 => 1,
            21 => 2,
            _ => 3,
        }
    }
}

/// Why a walk found no usable leaf; the number is the level, 0 being the top of a four-level table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The entry is not valid.
    Translation(u8),
    /// The table could not be read.
    Bus(u8),
    /// The access flag is clear.
    AccessFlag(u8),
    /// The entry points beyond the physical address size.
    AddressSize(u8),
    /// The entry's memory attribute is the one that faults.
    MemAttr(u8),
}

/// The format of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Mali LPAE.
    Legacy,
    /// VMSAv8-64.
    Aarch64 {
        /// Whether a clear access flag does not fault.
        ignore_access_flag: bool,
    },
}

/// The tables of one address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The format of entries.
    pub format: Format,
    /// Bus address of the first table.
    pub root: u64,
    /// Bits of a virtual address.
    pub va_bits: u32,
    /// Bits of a bus address.
    pub pa_bits: u32,
    /// The eight memory attributes.
    pub memattr: u64,
}

const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
const LAST_LEVEL: u8 = 3;

impl Tables {
    fn first_level(&self) -> u8 {
        match self.format {
            Format::Legacy => 0,
            Format::Aarch64 { .. } => match self.va_bits {
                ..22 => 3,
                ..31 => 2,
                ..40 => 1,
                _ => 0,
            },
        }
    }

    /// Looks up the leaf that covers `va` in memory.
    pub fn walk(&self, mem: &dyn GuestMemory, va: u64) -> Result<Leaf, WalkError> {
        self.walk_with(mem, va, &mut Steps::default()).0
    }

    /// Looks up the leaf that covers `va`, using cached entries in `steps` and adding to them. The
    /// second value says whether one of the entries used differs from that in memory.
    pub fn walk_with(
        &self,
        mem: &dyn GuestMemory,
        va: u64,
        steps: &mut Steps,
    ) -> (Result<Leaf, WalkError>, bool) {
        let mut stale = false;
        let leaf = self.walk_on(mem, va, steps, &mut stale);
        (leaf, stale)
    }

    fn walk_on(
        &self,
        mem: &dyn GuestMemory,
        va: u64,
        steps: &mut Steps,
        stale: &mut bool,
    ) -> Result<Leaf, WalkError> {
        let first = self.first_level();
        if va.checked_shr(self.va_bits).unwrap_or(0) != 0 {
            return Err(WalkError::Translation(first));
        }
        let mut table = self.root;
        for level in first..=LAST_LEVEL {
            let index = va >> shift_of(level) & 0x1ff;
            let mut entry = [0; 8];
            let read = mem.read(table | index << 3, &mut entry);
            let now = u64::from_le_bytes(entry);
            let entry = match steps.lookup(level, va) {
                Some(known) => {
                    *stale |= read.is_err() || known != now;
                    known
                }
                None => {
                    read.map_err(|_| WalkError::Bus(level))?;
                    now
                }
            };
            let next = entry & ADDRESS;
            let is_leaf = match (entry & 3, level, self.format) {
                (3, LAST_LEVEL, Format::Aarch64 { .. }) => true,
                (1, LAST_LEVEL, Format::Aarch64 { .. }) => false,
                (1, 1.., _) => true,
                (3, ..LAST_LEVEL, _) => {
                    if next.checked_shr(self.pa_bits).unwrap_or(0) != 0 {
                        return Err(WalkError::AddressSize(level));
                    }
                    steps.insert(level, va, entry);
                    table = next;
                    continue;
                }
                _ => false,
            };
            if !is_leaf {
                return Err(WalkError::Translation(level));
            }
            return self.leaf(entry, level);
        }
        Err(WalkError::Translation(LAST_LEVEL))
    }

    fn leaf(&self, entry: u64, level: u8) -> Result<Leaf, WalkError> {
        let shift = shift_of(level);
        let pa = entry & ADDRESS & !((1 << shift) - 1);
        if pa.checked_shr(self.pa_bits).unwrap_or(0) != 0 {
            return Err(WalkError::AddressSize(level));
        }
        let execute = entry & 1 << 54 == 0;
        let perms = match self.format {
            Format::Legacy => Perms {
                read: entry & 1 << 6 != 0,
                write: entry & 1 << 7 != 0,
                execute,
            },
            Format::Aarch64 { ignore_access_flag } => {
                let attribute = self.memattr >> (8 * (entry >> 2 & 7)) & 0xff;
                if attribute >> 6 == 3 {
                    return Err(WalkError::MemAttr(level));
                }
                if entry & 1 << 10 == 0 && !ignore_access_flag {
                    return Err(WalkError::AccessFlag(level));
                }
                let user = entry & 1 << 6 != 0;
                Perms {
                    read: user,
                    write: user && entry & 1 << 7 == 0,
                    execute: user && execute,
                }
            }
        };
        Ok(Leaf { pa, shift, perms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Ram;

    const ROOT: u64 = 0x1000;

    fn legacy() -> Tables {
        Tables {
            format: Format::Legacy,
            root: ROOT,
            va_bits: 48,
            pa_bits: 40,
            memattr: 0x8888_8888_8888_8d88,
        }
    }

    fn aarch64(va_bits: u32) -> Tables {
        Tables {
            format: Format::Aarch64 {
                ignore_access_flag: false,
            },
            va_bits,
            memattr: 0x4c,
            ..legacy()
        }
    }

    /// Writes the tables on the path to `va`, one per level, with a leaf on `leaf_level`.
    fn path(ram: &Ram, va: u64, leaf_level: u8, leaf: u64) {
        for level in 0..leaf_level {
            let table = ROOT + 0x1000 * u64::from(level);
            ram.put64(
                table + (va >> shift_of(level) & 0x1ff) * 8,
                (table + 0x1000) | 3,
            );
        }
        let table = ROOT + 0x1000 * u64::from(leaf_level);
        ram.put64(table + (va >> shift_of(leaf_level) & 0x1ff) * 8, leaf);
    }

    #[test]
    fn legacy_leaves_of_all_sizes() {
        let va = 0x1234_5678_9abc;
        for (level, shift) in [(3, 12), (2, 21), (1, 30)] {
            let ram = Ram::new(0, 0x10_0000);
            path(&ram, va, level, 0x40_0000_0000 | 1 | 0xc0);
            let leaf = legacy().walk(&ram, va).unwrap();
            assert_eq!(
                (leaf.pa, leaf.shift, leaf.level()),
                (0x40_0000_0000, shift, level)
            );
            assert_eq!(leaf.perms, Perms::ALL);
        }
    }

    #[test]
    fn legacy_has_no_type_3_leaf() {
        let ram = Ram::new(0, 0x10_0000);
        path(&ram, 0x2000, 3, 0x5000 | 3 | 0xc0);
        assert_eq!(legacy().walk(&ram, 0x2000), Err(WalkError::Translation(3)));
    }

    #[test]
    fn a_hole_is_reported_with_its_level() {
        let ram = Ram::new(0, 0x10_0000);
        path(&ram, 0x2000, 3, 0);
        assert_eq!(legacy().walk(&ram, 0x2000), Err(WalkError::Translation(3)));
        assert_eq!(
            legacy().walk(&ram, 0x40_0000),
            Err(WalkError::Translation(2))
        );
        assert_eq!(
            legacy().walk(&ram, 0x1_0000_0000),
            Err(WalkError::Translation(1))
        );
        assert_eq!(
            legacy().walk(&ram, 0xdead_beef_0000),
            Err(WalkError::Translation(0))
        );
        assert_eq!(legacy().walk(&ram, 1 << 48), Err(WalkError::Translation(0)));
    }

    #[test]
    fn tables_outside_of_memory() {
        let ram = Ram::new(0, 0x10_0000);
        path(&ram, 0, 1, 0x80_0000_0000 | 3);
        assert_eq!(legacy().walk(&ram, 0), Err(WalkError::Bus(2)));
        path(&ram, 0, 1, 0x100_0000_0000 | 3);
        assert_eq!(legacy().walk(&ram, 0), Err(WalkError::AddressSize(1)));
        path(&ram, 0, 3, 0x100_0000_0000 | 1);
        assert_eq!(legacy().walk(&ram, 0), Err(WalkError::AddressSize(3)));
    }

    #[test]
    fn legacy_permissions() {
        let ram = Ram::new(0, 0x10_0000);
        path(&ram, 0, 3, 0x5000 | 1 | 0x40 | 3 << 53);
        let perms = legacy().walk(&ram, 0).unwrap().perms;
        assert!(perms.allow(Access::Read));
        assert!(!perms.allow(Access::Write));
        assert!(!perms.allow(Access::Atomic));
        assert!(!perms.allow(Access::Execute));
    }

    #[test]
    fn aarch64_leaves_and_flags() {
        let va = 0x1234_5678_9abc;
        let ram = Ram::new(0, 0x10_0000);
        path(&ram, va, 3, 0x5000 | 3 | 1 << 6 | 1 << 10);
        assert_eq!(aarch64(48).walk(&ram, va).unwrap().perms, Perms::ALL);
        path(&ram, va, 3, 0x5000 | 3 | 1 << 6 | 1 << 7 | 1 << 10);
        assert!(!aarch64(48).walk(&ram, va).unwrap().perms.write);
        path(&ram, va, 3, 0x5000 | 3 | 1 << 6);
        assert_eq!(aarch64(48).walk(&ram, va), Err(WalkError::AccessFlag(3)));
        path(&ram, va, 3, 0x5000 | 1 | 1 << 6 | 1 << 10);
        assert_eq!(aarch64(48).walk(&ram, va), Err(WalkError::Translation(3)));
        path(&ram, va, 2, 0x20_0000 | 1 | 1 << 6 | 1 << 10);
        assert_eq!(aarch64(48).walk(&ram, va).unwrap().shift, 21);
        let faulting = Tables {
            memattr: 0xc0,
            ..aarch64(48)
        };
        assert_eq!(faulting.walk(&ram, va), Err(WalkError::MemAttr(2)));
    }

    #[test]
    fn aarch64_starts_where_the_input_size_says() {
        let ram = Ram::new(0, 0x10_0000);
        // 35 bits: three levels, the root is a level 1 table.
        ram.put64(ROOT + 7 * 8, 0x4000_0000 | 1 | 1 << 6 | 1 << 10);
        let leaf = aarch64(35).walk(&ram, 0x1_c000_0000).unwrap();
        assert_eq!((leaf.pa, leaf.shift), (0x4000_0000, 30));
        assert_eq!(
            aarch64(35).walk(&ram, 1 << 35),
            Err(WalkError::Translation(1))
        );
    }
}
