// SPDX-License-Identifier: GPL-2.0

//! Register accesses, dispatched to the parts of the GPU.
//!
//! Locks: none of its own, part of the GPU's state.

use crate::gpu::Gpu;
use crate::irq::Vector;
use crate::mmu::Command;
use crate::power::Unit;
use crate::product::SLOTS;
use crate::product::SPACES;
use crate::regs;
use crate::slot;
use crate::slot::Slot;
use crate::timer::Event;

/// How much longer a command of an address space takes for each store that has not reached memory.
const STORE_NS: u64 = 5_000;

/// Registers that only hold the value that was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plain {
    /// The configuration registers from 0xf00 on.
    pub(crate) config: [u32; 4],
    /// `COHERENCY_ENABLE`.
    pub(crate) coherency: u32,
    /// Whether `PWR_KEY` was written with the key, for the next write of an override.
    pub(crate) unlocked: bool,
    /// `PWR_OVERRIDE0` and `PWR_OVERRIDE1`.
    pub(crate) pwr_override: [u32; 2],
    /// `JOB_INT_THROTTLE`.
    pub(crate) throttle: u32,
}

impl Gpu {
    /// Reads a GPU register. `offset` must be a multiple of 4.
    pub fn read32(&mut self, offset: u32) -> u32 {
        self.clock.access();
        self.tick();
        self.stats.reg_reads = self.stats.reg_reads.wrapping_add(1);
        if !self.board.runs() {
            self.stats.violations = self.stats.violations.wrapping_add(1);
            return !0;
        }
        if self.orders.all_ones {
            return !0;
        }
        if let Some((n, offset)) = slot::decode(offset) {
            return self.slot_read(n, offset);
        }
        if let Some((n, offset)) = decode_space(offset) {
            return self.mmu.read(n, offset);
        }
        match offset {
            regs::GPU_INT_RAWSTAT..=regs::GPU_INT_STAT => self.irq_read(Vector::Gpu, offset & 0xf),
            regs::JOB_INT_RAWSTAT..=regs::JOB_INT_STAT => self.irq_read(Vector::Job, offset & 0xf),
            regs::MMU_INT_RAWSTAT..=regs::MMU_INT_STAT => self.irq_read(Vector::Mmu, offset & 0xf),
            regs::JOB_INT_JS_STATE => self.js_state,
            regs::JOB_INT_THROTTLE => self.plain.throttle,
            _ => self.read_control(offset),
        }
    }

    fn read_control(&self, offset: u32) -> u32 {
        let p = self.product;
        let half = |value: u64| (value >> (8 * (offset & 4))) as u32;
        if let Some((unit, what)) = decode_power(offset & !4) {
            return half(match what {
                PowerRegister::Present => self.power.present(unit),
                PowerRegister::Ready => self.power.ready(unit),
                PowerRegister::Trans => self.power.trans(unit),
                PowerRegister::Active if self.slots.iter().any(Slot::active) => {
                    self.power.ready(unit)
                }
                _ => 0,
            });
        }
        match offset {
            regs::GPU_ID => p.gpu_id(),
            regs::GPU_L2_FEATURES => p.l2_features,
            regs::GPU_CORE_FEATURES => p.core_features,
            regs::GPU_TILER_FEATURES => p.tiler_features,
            regs::GPU_MEM_FEATURES => p.mem_features,
            regs::GPU_MMU_FEATURES => p.mmu_features,
            regs::GPU_AS_PRESENT => p.as_present,
            regs::GPU_JS_PRESENT => (1 << SLOTS) - 1,
            regs::GPU_STATUS => self.status(),
            regs::GPU_LATEST_FLUSH_ID if p.has_flush_id => self.flush_id,
            regs::GPU_AFBC_FEATURES => p.afbc_features,
            regs::GPU_PWR_OVERRIDE0 => self.plain.pwr_override[0],
            regs::GPU_PWR_OVERRIDE1 => self.plain.pwr_override[1],
            0x060..=0x07c => self.perfcnt.read(offset),
            regs::GPU_CYCLE_COUNT_LO | regs::GPU_CYCLE_COUNT_HI => {
                (self.cycles() >> (8 * (offset & 4))) as u32
            }
            regs::GPU_TIMESTAMP_LO | regs::GPU_TIMESTAMP_HI => half(self.timestamp()),
            regs::GPU_THREAD_MAX_THREADS
            | regs::GPU_THREAD_MAX_WORKGROUP_SIZE
            | regs::GPU_THREAD_MAX_BARRIER_SIZE => p.max_threads,
            regs::GPU_THREAD_FEATURES => p.thread_features,
            regs::GPU_THREAD_TLS_ALLOC => p.thread_tls_alloc,
            0x0b0..=0x0bc => p.texture_features[(offset as usize & 0xf) / 4],
            0x0c0..=0x0fc => {
                let n = (offset - regs::GPU_JS_FEATURES) as usize / 4;
                p.js_features.get(n).copied().unwrap_or(0)
            }
            regs::GPU_COHERENCY_FEATURES => p.coherency_features,
            regs::GPU_COHERENCY_ENABLE => self.plain.coherency,
            0xf00..=0xf0c => self.plain.config[(offset as usize & 0xf) / 4],
            _ => 0,
        }
    }

    /// Writes a GPU register. `offset` must be a multiple of 4.
    pub fn write32(&mut self, offset: u32, value: u32) {
        self.clock.access();
        self.tick();
        self.stats.reg_writes = self.stats.reg_writes.wrapping_add(1);
        if !self.board.runs() {
            self.stats.violations = self.stats.violations.wrapping_add(1);
            return;
        }
        if self.orders.all_ones {
            return;
        }
        if let Some((n, offset)) = slot::decode(offset) {
            if let Some(value) = self.slot_understands(offset, value) {
                self.slot_write(n, offset, value);
            }
        } else if let Some((n, offset)) = decode_space(offset) {
            self.space_write(n, offset, value);
        } else {
            match offset {
                regs::GPU_INT_RAWSTAT..=regs::GPU_INT_STAT => {
                    self.irq_write(Vector::Gpu, offset & 0xf, value)
                }
                regs::JOB_INT_RAWSTAT..=regs::JOB_INT_STAT => {
                    self.irq_write(Vector::Job, offset & 0xf, value)
                }
                regs::MMU_INT_RAWSTAT..=regs::MMU_INT_STAT => {
                    self.irq_write(Vector::Mmu, offset & 0xf, value)
                }
                regs::JOB_INT_THROTTLE => self.plain.throttle = value,
                _ => self.write_control(offset, value),
            }
        }
        self.tick();
    }

    /// Returns the effective value of a write to a slot register, if any: a GPU that cannot
    /// distinguish a slot's two chains has neither the flag nor the stops that depend on it.
    fn slot_understands(&self, offset: u32, value: u32) -> Option<u32> {
        match offset {
            _ if self.product.has_chain_flag => Some(value),
            regs::JS_CONFIG_NEXT => Some(value & !regs::JS_CONFIG_JOB_CHAIN_FLAG),
            regs::JS_COMMAND if value > regs::JS_COMMAND_HARD_STOP => None,
            _ => Some(value),
        }
    }

    fn space_write(&mut self, n: usize, offset: u32, value: u32) {
        let Some(command) = self.mmu.write(n, offset, value) else {
            return;
        };
        if command == Command::FlushMem || command == Command::FlushPt {
            self.flush_id = self.flush_id.wrapping_add(1);
        }
        // All commands except UPDATE wait for stores in progress.
        let under_way = if self.silicon && command != Command::Update {
            self.mmu.stores.of(n) as u64
        } else {
            0
        };
        let time = self.timing.as_command + under_way * STORE_NS;
        let delay = (!self.orders.stick_as).then_some(time);
        self.later(delay, Event::AsCommand(n));
    }

    fn write_control(&mut self, offset: u32, value: u32) {
        if let Some((unit, what)) = decode_power(offset & !4) {
            let cores = u64::from(value) << (8 * (offset & 4));
            match what {
                _ if self.resetting => return,
                PowerRegister::On => self.power.on(unit, cores),
                PowerRegister::Off => self.power.off(unit, cores),
                _ => return,
            }
            self.power_advance();
            return;
        }
        match offset {
            regs::GPU_CMD => self.command(value),
            regs::GPU_PWR_KEY => self.plain.unlocked = value == regs::GPU_PWR_KEY_UNLOCK,
            regs::GPU_PWR_OVERRIDE0 | regs::GPU_PWR_OVERRIDE1 => {
                // One write per key.
                if std::mem::take(&mut self.plain.unlocked) {
                    self.plain.pwr_override[usize::from(offset == regs::GPU_PWR_OVERRIDE1)] = value;
                }
            }
            0x060..=0x07c => self.perfcnt.write(offset, value),
            regs::GPU_COHERENCY_ENABLE => self.plain.coherency = value,
            0xf00..=0xf0c => self.plain.config[(offset as usize & 0xf) / 4] = value,
            _ => (),
        }
    }
}

fn decode_space(offset: u32) -> Option<(usize, u32)> {
    let offset = offset.checked_sub(regs::AS_BASE)?;
    let n = (offset / regs::AS_STRIDE) as usize;
    (n < SPACES).then_some((n, offset % regs::AS_STRIDE))
}

/// The kinds of power registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PowerRegister {
    Present,
    Ready,
    On,
    Off,
    Trans,
    Active,
}

/// Decodes the offset of a power register. From 0x100 on, there is a row of 0x40 bytes for each
/// kind of register, with shader cores, tilers and L2 caches 0x10 apart; those of the core stacks
/// are 0x10 apart from 0xe00 on.
fn decode_power(offset: u32) -> Option<(Unit, PowerRegister)> {
    use PowerRegister::*;
    const ROWS: [PowerRegister; 6] = [Present, Ready, On, Off, Trans, Active];
    let (unit, row) = match offset {
        0x100..0x280 => {
            let unit = match offset & 0x3f {
                0x00 => Unit::Shader,
                0x10 => Unit::Tiler,
                0x20 => Unit::L2,
                _ => return None,
            };
            (unit, (offset - 0x100) / 0x40)
        }
        0xe00..0xe50 if offset & 0xf == 0 => (Unit::Stack, (offset - 0xe00) / 0x10),
        _ => return None,
    };
    Some((unit, *ROWS.get(row as usize)?))
}
