// SPDX-License-Identifier: GPL-2.0

//! What the control channel does to the GPU. The layout is in [`crate::control`].
//!
//! Locks: none of its own, part of the GPU's state.

use crate::control;
use crate::control::Board;
use crate::control::Delay;
use crate::control::NextJobs;
use crate::control::Opcode;
use crate::control::Order;
use crate::control::Orders;
use crate::control::Stat;
use crate::control::EINVAL;
use crate::gpu::Gpu;
use crate::host::Vector;
use crate::mmu::OrderedFault;
use crate::product::SLOTS;
use crate::timer::Event;

impl Gpu {
    /// Reads a register of the control block. `offset` is a multiple of 4.
    pub fn control_read32(&mut self, offset: u32) -> u32 {
        self.tick();
        match offset {
            control::MAGIC => control::MAGIC_VALUE,
            control::VERSION => control::VERSION_VALUE,
            control::PRODUCT => u32::from(self.product.id),
            control::POWER if self.board.controlled => self.board.power | control::POWER_CONTROLLED,
            control::POWER => self.board.power,
            control::RESET_LINE => u32::from(self.board.reset),
            control::FREQ_KHZ => self.board.freq_khz,
            control::INJECT_RESULT => self.inject_result,
            control::ARG0..0x120 => self.args[(offset - control::ARG0) as usize / 4],
            control::STATS.. => self.stat((offset - control::STATS) as usize / 4),
            _ => 0,
        }
    }

    /// Writes a register of the control block. `offset` is a multiple of 4.
    pub fn control_write32(&mut self, offset: u32, value: u32) {
        self.tick();
        match offset {
            control::POWER => {
                self.feed(Board {
                    power: value & control::POWER_ALL,
                    ..self.board
                });
            }
            control::RESET_LINE => {
                self.feed(Board {
                    reset: value & 1 != 0,
                    ..self.board
                });
            }
            control::FREQ_KHZ => self.set_frequency(value),
            control::INJECT => {
                let args = self.args;
                self.inject_result = match Opcode::new(value) {
                    Some(opcode) => self.order((opcode, args)).err().unwrap_or(0),
                    None => EINVAL,
                };
            }
            control::ARG0..0x120 => self.args[(offset - control::ARG0) as usize / 4] = value,
            _ => (),
        }
        self.tick();
    }

    /// One of the statistics, by its number; 0 if there is none.
    pub fn stat(&self, n: usize) -> u32 {
        let (stats, mmu) = (&self.stats, &self.mmu.stats);
        // In the order of `Stat`.
        let all = [
            stats.violations,
            stats.reg_reads,
            stats.reg_writes,
            stats.jobs_done,
            stats.jobs_failed,
            mmu.faults,
            mmu.tlb_hits,
            mmu.tlb_misses,
            mmu.flushes,
            self.irqs.raised[Vector::Job as usize],
            self.irqs.raised[Vector::Mmu as usize],
            self.irqs.raised[Vector::Gpu as usize],
            stats.soft_stops,
            stats.hard_stops,
            stats.soft_resets,
            stats.hard_resets,
            stats.dma_bytes as u32,
            (stats.dma_bytes >> 32) as u32,
            mmu.updates,
            mmu.locks,
            mmu.lost_commands,
            stats.chains_done,
            stats.chains_failed,
            stats.heap_bytes as u32,
            (stats.heap_bytes >> 32) as u32,
            stats.heap_mismatches,
            stats.power_transitions,
        ];
        const { assert!(control::STAT_NAMES.len() == Stat::PowerTransitions as usize + 1) };
        all.get(n).copied().unwrap_or(0)
    }

    /// The board changes how the GPU is fed.
    fn feed(&mut self, board: Board) {
        let before = std::mem::replace(&mut self.board, board);
        if before.powered() && !board.powered() {
            self.forget(true);
        }
        if before.runs() != board.runs() {
            let power = board.power;
            let reset = board.reset;
            self.trace(format_args!("board: power {power:#x} reset {reset}"));
        }
    }

    /// The whole machine is reset: as at power-on. Statistics stay.
    pub fn machine_reset(&mut self) {
        self.function_reset();
        self.orders = Orders::default();
        self.mmu.ordered = None;
        self.irqs.tamper_no_more();
        self.board = Board::new(self.board.controlled);
        self.args = [0; 4];
        self.inject_result = 0;
    }

    /// The function is reset by the bus: as a power cycle, but the board's lines and the orders
    /// stay.
    pub fn function_reset(&mut self) {
        self.trace(format_args!("function reset"));
        self.forget(true);
    }

    /// Performs an order. The error is an errno value.
    pub fn order(&mut self, (opcode, args): Order) -> Result<(), u32> {
        self.trace(format_args!("order {opcode:?} {args:x?}"));
        let [a, b, c, _] = args;
        let flag = || match a {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(EINVAL),
        };
        let vector = || Vector::new(a).ok_or(EINVAL);
        let next = || match a {
            control::ANY_SLOT => Ok(NextJobs::new(a, b.max(1))),
            a if (a as usize) < SLOTS => Ok(NextJobs::new(a, b.max(1))),
            _ => Err(EINVAL),
        };
        let orders = &mut self.orders;
        match opcode {
            Opcode::HangNextJob => orders.hang = next()?,
            Opcode::IgnoreSoftStop => orders.ignore_soft_stop = flag()?,
            Opcode::IgnoreHardStop => orders.ignore_hard_stop = flag()?,
            Opcode::BusFaultNextJob => orders.bus_fault = next()?,
            Opcode::TranslationFaultAt => {
                self.mmu.ordered = Some(OrderedFault {
                    va: u64::from(b) << 32 | u64::from(a),
                    count: c.max(1),
                });
            }
            Opcode::LoseIrq => self.irqs.lose(vector()?, b),
            Opcode::DuplicateIrq => self.irqs.duplicate(vector()?, b),
            Opcode::SpuriousIrq => self.raise(vector()?, b),
            Opcode::DelayReset => {
                if b > 1 {
                    return Err(EINVAL);
                }
                orders.reset = Delay::new(a);
                orders.spare_hard_reset = b == 1;
                if orders.reset != Delay::Never {
                    self.unstick(|event| *event == Event::Reset);
                }
            }
            Opcode::DelayPower => {
                orders.power = Delay::new(a);
                if orders.power != Delay::Never {
                    self.unstick(|event| matches!(event, Event::Power(_)));
                }
            }
            Opcode::AllOnes => orders.all_ones = flag()?,
            Opcode::StickAsCommand => {
                orders.stick_as = flag()?;
                if !orders.stick_as {
                    self.unstick(|event| matches!(event, Event::AsCommand(_)));
                }
            }
            Opcode::SlowJobs => orders.slow_jobs = u64::from(a) * 1000,
            Opcode::Release => self.slot_release(),
            Opcode::ClearAll => {
                self.orders = Orders::default();
                self.mmu.ordered = None;
                self.irqs.tamper_no_more();
                self.unstick(|_| true);
                self.slot_release();
            }
        }
        self.tick();
        Ok(())
    }
}
