// SPDX-License-Identifier: GPL-2.0

//! Address spaces: registers, commands, translation, faults.
//!
//! A command is active for a while and takes effect at its end; until then all accesses in that
//! address space wait, as do accesses to a locked region. `UPDATE` makes the table registers take
//! effect. `UNLOCK` and the two flushes drop the cached leaves and tables of the region in
//! `LOCKADDR`, end the lock and retry accesses that faulted; `UPDATE` retries them as well, but
//! drops cached tables only. `FLUSH_MEM` also writes out the stores of the address space, see
//! [`stores`]. A driver must lock the region before a flush, as Arm's own driver and C panfrost
//! always do; a flush without a lock is counted as a violation.
//!
//! Locks: none of its own, part of the GPU's state.

pub mod steps;
pub mod stores;
pub mod tlb;
pub mod view;
pub mod walk;

use crate::host::GuestMemory;
use crate::job::Access;
use crate::job::FaultKind;
use crate::product::Product;
use crate::product::SPACES;
use crate::regs;

use self::steps::Steps;
use self::stores::Stores;
use self::tlb::Tlb;
use self::walk::Format;
use self::walk::Leaf;
use self::walk::Tables;
use self::walk::WalkError;

/// How an address space translates addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every access fails, silently.
    Unmapped,
    /// The address is used as the bus address.
    Identity,
    /// The tables are used.
    Tables(Tables),
}

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// A command is active or the region is locked: retry when that has ended.
    Wait,
    /// The address space is disabled: the access fails permanently.
    Unmapped,
    /// There is no memory at the bus address: the access fails permanently.
    Bus,
    /// An MMU fault, which is reported to the driver.
    Fault(MmuFault),
}

/// An MMU fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmuFault {
    /// The address.
    pub va: u64,
    /// The kind of access.
    pub access: Access,
    /// The code in `AS_FAULTSTATUS`.
    pub code: u8,
}

impl MmuFault {
    /// Returns whether this is a bus error of the walk, which has its own interrupt bits.
    pub fn is_bus(&self) -> bool {
        self.code & 0xf8 == 0xd0
    }

    /// Returns the kind of fault for the executor of jobs.
    pub fn kind(&self) -> FaultKind {
        match self.code & 0xf8 {
            0xc0 => FaultKind::Translation {
                level: self.code & 7,
            },
            0xc8 => FaultKind::Permission,
            0xd0 => FaultKind::Bus,
            0xd8 => FaultKind::AccessFlag,
            0xe0 => FaultKind::AddressSize,
            _ => FaultKind::MemAttr,
        }
    }
}

impl From<WalkError> for u8 {
    fn from(error: WalkError) -> u8 {
        match error {
            WalkError::Translation(level) => 0xc0 + level,
            WalkError::Bus(level) => 0xd0 + level,
            WalkError::AccessFlag(level) => 0xd8 + level,
            WalkError::AddressSize(level) => 0xe4 + level,
            WalkError::MemAttr(level) => 0xe8 + level,
        }
    }
}

/// A command of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `AS_COMMAND_UPDATE`.
    Update,
    /// `AS_COMMAND_LOCK`.
    Lock,
    /// `AS_COMMAND_UNLOCK`.
    Unlock,
    /// `AS_COMMAND_FLUSH_PT`.
    FlushPt,
    /// `AS_COMMAND_FLUSH_MEM`.
    FlushMem,
}

impl Command {
    /// Decodes a register value.
    pub fn new(value: u32) -> Option<Self> {
        Some(match value {
            regs::AS_COMMAND_UPDATE => Self::Update,
            regs::AS_COMMAND_LOCK => Self::Lock,
            regs::AS_COMMAND_UNLOCK => Self::Unlock,
            regs::AS_COMMAND_FLUSH_PT => Self::FlushPt,
            regs::AS_COMMAND_FLUSH_MEM => Self::FlushMem,
            _ => return None,
        })
    }

    /// Returns whether accesses that faulted are retried at its end.
    pub fn retries(self) -> bool {
        self != Self::Lock
    }
}

/// log2 of the smallest region that can be locked, in bytes.
const LOCK_MIN_SHIFT: u32 = 15;

/// One address space.
pub struct Space {
    transtab: u64,
    memattr: u64,
    lockaddr: u64,
    transcfg: u64,
    fault_status: u32,
    fault_address: u64,
    mode: Mode,
    /// The active command.
    pub active: Option<Command>,
    locked: Option<(u64, u64)>,
    tlb: Tlb,
    steps: Steps,
}

impl Default for Space {
    fn default() -> Self {
        Self {
            transtab: 0,
            memattr: 0,
            lockaddr: 0,
            transcfg: 0,
            fault_status: 0,
            fault_address: 0,
            mode: Mode::Unmapped,
            active: None,
            locked: None,
            tlb: Tlb::default(),
            steps: Steps::default(),
        }
    }
}

impl Space {
    fn region(&self) -> (u64, u64) {
        // The field is log2(size) - 1, and 63 means everything.
        let shift = (self.lockaddr as u32 & 0x3f) + 1;
        let mask = u64::MAX
            .checked_shr(64 - shift.max(LOCK_MIN_SHIFT))
            .unwrap_or(u64::MAX);
        let start = self.lockaddr & !mask;
        (start, start | mask)
    }
}

/// Counters for the statistics registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct MmuStats {
    /// Faults reported to the driver.
    pub faults: u32,
    /// Translations answered by a TLB.
    pub tlb_hits: u32,
    /// Translations that needed a walk.
    pub tlb_misses: u32,
    /// `FLUSH_PT` and `FLUSH_MEM`.
    pub flushes: u32,
    /// `UPDATE`.
    pub updates: u32,
    /// `LOCK`.
    pub locks: u32,
    /// Commands written while another was active, which are lost.
    pub lost_commands: u32,
    /// Flushes of a region that was not locked.
    pub unlocked_flushes: u32,
    /// Walks that used a cached entry which differs from that in memory.
    pub stale_walks: u32,
}

/// An ordered translation fault.
#[derive(Clone, Copy, Debug)]
pub struct OrderedFault {
    /// Any address in the 4 KiB page.
    pub va: u64,
    /// The number of faults that remain.
    pub count: u32,
}

/// All address spaces.
pub struct Mmu {
    product: &'static Product,
    spaces: [Space; SPACES],
    /// Counters.
    pub stats: MmuStats,
    /// The ordered fault, if any.
    pub ordered: Option<OrderedFault>,
    /// Stores of jobs that have not reached memory.
    pub stores: Stores,
}

fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

/// Replaces the low or the high half.
pub(crate) fn set_half(value: &mut u64, upper: bool, half: u32) {
    *value = if upper {
        *value & 0xffff_ffff | u64::from(half) << 32
    } else {
        *value & !0xffff_ffff | u64::from(half)
    };
}

impl Mmu {
    /// Creates the address spaces, all disabled.
    pub fn new(product: &'static Product) -> Self {
        Self {
            product,
            spaces: Default::default(),
            stats: MmuStats::default(),
            ordered: None,
            stores: Stores::default(),
        }
    }

    /// Resets all address spaces. Stores that have not reached memory are lost.
    pub fn reset(&mut self) {
        self.spaces = Default::default();
        self.stores.lose();
    }

    /// Returns address space `n`, which must be valid.
    pub fn space(&self, n: usize) -> &Space {
        &self.spaces[n]
    }

    /// Reads a register of an address space.
    pub fn read(&self, n: usize, offset: u32) -> u32 {
        let s = &self.spaces[n];
        let transcfg = if self.product.has_transcfg {
            s.transcfg
        } else {
            0
        };
        match offset {
            regs::AS_TRANSTAB => low(s.transtab),
            0x04 => high(s.transtab),
            regs::AS_MEMATTR => low(s.memattr),
            0x0c => high(s.memattr),
            regs::AS_LOCKADDR => low(s.lockaddr),
            0x14 => high(s.lockaddr),
            regs::AS_FAULTSTATUS => s.fault_status,
            regs::AS_FAULTADDRESS => low(s.fault_address),
            0x24 => high(s.fault_address),
            regs::AS_STATUS if s.active.is_some() => regs::AS_STATUS_ACTIVE,
            regs::AS_TRANSCFG => low(transcfg),
            0x34 => high(transcfg),
            _ => 0,
        }
    }

    /// Writes a register of an address space. Returns a command that has become active.
    pub fn write(&mut self, n: usize, offset: u32, value: u32) -> Option<Command> {
        if self.product.as_present & 1 << n == 0 {
            return None;
        }
        let s = &mut self.spaces[n];
        let upper = offset & 4 != 0;
        match offset {
            0x00 | 0x04 => set_half(&mut s.transtab, upper, value),
            0x08 | 0x0c => set_half(&mut s.memattr, upper, value),
            0x10 | 0x14 => set_half(&mut s.lockaddr, upper, value),
            0x30 | 0x34 => set_half(&mut s.transcfg, upper, value),
            regs::AS_COMMAND => {
                let command = Command::new(value)?;
                if s.active.is_some() {
                    self.stats.lost_commands += 1;
                    return None;
                }
                s.active = Some(command);
                return Some(command);
            }
            _ => (),
        }
        None
    }

    /// Ends the active command of an address space: it takes effect. Returns the command.
    pub fn complete(&mut self, mem: &dyn GuestMemory, n: usize) -> Option<Command> {
        let mode = self.mode_from_registers(n);
        let s = &mut self.spaces[n];
        let command = s.active.take()?;
        match command {
            Command::Update => {
                self.stats.updates += 1;
                let before = std::mem::replace(&mut s.mode, mode);
                s.steps.clear();
                // Other tables: stores may be late now. If the space was disabled instead, its
                // pages are not reused yet.
                if mode != Mode::Unmapped && mode != before {
                    self.mark_late(mem, n, 0, u64::MAX);
                }
            }
            Command::Lock => {
                self.stats.locks += 1;
                s.locked = Some(s.region());
            }
            Command::Unlock | Command::FlushPt | Command::FlushMem => {
                let locked = s.locked.take();
                let (start, last) = locked.unwrap_or_else(|| s.region());
                s.tlb.invalidate(start, last);
                s.steps.invalidate(start, last);
                if command != Command::Unlock {
                    self.stats.flushes += 1;
                    self.stats.unlocked_flushes += u32::from(locked.is_none());
                }
                if command == Command::FlushMem {
                    self.stores.drain(mem, n);
                } else {
                    self.mark_late(mem, n, start, last);
                }
            }
        }
        Some(command)
    }

    /// Marks the stores that are late because their addresses no longer lead to the same place.
    fn mark_late(&mut self, mem: &dyn GuestMemory, n: usize, start: u64, last: u64) {
        let mode = self.spaces[n].mode;
        self.stores.mark(n, start, last, |va, pa| match mode {
            Mode::Unmapped => false,
            Mode::Identity => va == pa,
            Mode::Tables(tables) => tables
                .walk(mem, va)
                .is_ok_and(|leaf| leaf.perms.write && locate(&leaf, va).0 == pa),
        });
    }

    fn mode_from_registers(&self, n: usize) -> Mode {
        let s = &self.spaces[n];
        let tables = Tables {
            format: Format::Legacy,
            root: s.transtab & 0x0000_ffff_ffff_f000,
            va_bits: self.product.va_bits(),
            pa_bits: self.product.pa_bits(),
            memattr: s.memattr,
        };
        let transcfg = if self.product.has_transcfg {
            s.transcfg
        } else {
            0
        };
        match transcfg & 0xf {
            regs::ADRMODE_LEGACY => match s.transtab & 3 {
                regs::TRANSTAB_IDENTITY => Mode::Identity,
                regs::TRANSTAB_TABLE => Mode::Tables(tables),
                _ => Mode::Unmapped,
            },
            regs::ADRMODE_IDENTITY => Mode::Identity,
            regs::ADRMODE_AARCH64_4K => Mode::Tables(Tables {
                format: Format::Aarch64 {
                    ignore_access_flag: transcfg & regs::TRANSCFG_DISABLE_AF_FAULT != 0,
                },
                va_bits: 55u32.saturating_sub((transcfg >> 6 & 0x1f) as u32).min(48),
                ..tables
            }),
            _ => Mode::Unmapped,
        }
    }

    /// Translates one address. Returns the bus address, and how many bytes from there on have the
    /// same leaf.
    pub fn translate(
        &mut self,
        mem: &dyn GuestMemory,
        n: usize,
        va: u64,
        access: Access,
    ) -> Result<(u64, u64), Miss> {
        let fault = |code| Miss::Fault(MmuFault { va, access, code });
        let s = &mut self.spaces[n];
        if s.active.is_some() {
            return Err(Miss::Wait);
        }
        if s.locked
            .is_some_and(|(start, last)| (start..=last).contains(&va))
        {
            return Err(Miss::Wait);
        }
        let tables = match s.mode {
            Mode::Unmapped => return Err(Miss::Unmapped),
            Mode::Identity => return Ok((va, 0x1000 - (va & 0xfff))),
            Mode::Tables(tables) => tables,
        };
        if let Some(ordered) = &mut self.ordered {
            if ordered.va >> 12 == va >> 12 {
                ordered.count = ordered.count.saturating_sub(1);
                if ordered.count == 0 {
                    self.ordered = None;
                }
                return Err(fault(0xc3));
            }
        }
        let leaf = match s.tlb.lookup(va) {
            Some(leaf) => {
                self.stats.tlb_hits = self.stats.tlb_hits.wrapping_add(1);
                leaf
            }
            None => {
                self.stats.tlb_misses = self.stats.tlb_misses.wrapping_add(1);
                let (leaf, stale) = tables.walk_with(mem, va, &mut s.steps);
                self.stats.stale_walks = self.stats.stale_walks.wrapping_add(stale.into());
                let leaf = leaf.map_err(|e| fault(e.into()))?;
                s.tlb.insert(va, leaf);
                leaf
            }
        };
        if !leaf.perms.allow(access) {
            return Err(fault(0xc8 + leaf.level()));
        }
        Ok(locate(&leaf, va))
    }

    /// Reports a fault to the driver: sets the registers and returns the interrupt bits. `source`
    /// identifies the unit that made the access.
    pub fn report(&mut self, n: usize, fault: &MmuFault, source: u16) -> u32 {
        let access = match fault.access {
            Access::Atomic => 0,
            Access::Execute => 1,
            Access::Read => 2,
            Access::Write => 3,
        };
        let s = &mut self.spaces[n];
        s.fault_status = u32::from(source) << 16 | access << 8 | u32::from(fault.code);
        s.fault_address = fault.va;
        self.stats.faults = self.stats.faults.wrapping_add(1);
        if fault.is_bus() {
            1 << (n + 16)
        } else {
            1 << n
        }
    }
}

fn locate(leaf: &Leaf, va: u64) -> (u64, u64) {
    let size = 1u64 << leaf.shift;
    let offset = va & (size - 1);
    (leaf.pa | offset, size - offset)
}

#[cfg(test)]
mod tests;
