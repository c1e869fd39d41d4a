// SPDX-License-Identifier: GPL-2.0

//! The effects of the control channel on the GPU. The layout is in [`crate::control`].
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
use crate::irq::Vector;
use crate::mmu::OrderedFault;
use crate::power::Unit;
use crate::product::SLOTS;
use crate::timer::Event;

/// Statistics that are not kept elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    /// See [`Stat::Violations`].
    pub(crate) violations: u32,
    /// See [`Stat::RegReads`].
    pub(crate) reg_reads: u32,
    /// See [`Stat::RegWrites`].
    pub(crate) reg_writes: u32,
    /// See [`Stat::JobsDone`].
    pub(crate) jobs_done: u32,
    /// See [`Stat::JobsFailed`].
    pub(crate) jobs_failed: u32,
    /// See [`Stat::ChainsDone`].
    pub(crate) chains_done: u32,
    /// See [`Stat::ChainsFailed`].
    pub(crate) chains_failed: u32,
    /// See [`Stat::SoftStops`].
    pub(crate) soft_stops: u32,
    /// See [`Stat::HardStops`].
    pub(crate) hard_stops: u32,
    /// See [`Stat::SoftResets`].
    pub(crate) soft_resets: u32,
    /// See [`Stat::HardResets`].
    pub(crate) hard_resets: u32,
    /// See [`Stat::PowerTransitions`].
    pub(crate) power_transitions: u32,
    /// See [`Stat::DmaBytesLo`] and [`Stat::DmaBytesHi`].
    pub(crate) dma_bytes: u64,
    /// See [`Stat::HeapBytesLo`] and [`Stat::HeapBytesHi`].
    pub(crate) heap_bytes: u64,
    /// See [`Stat::HeapMismatches`].
    pub(crate) heap_mismatches: u32,
    /// See [`Stat::PowerCuts`].
    pub(crate) power_cuts: u32,
}

impl Gpu {
    /// Reads a register of the control block. `offset` must be a multiple of 4.
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
            // If the GPU was pulled out, its cores cannot be turned off any more.
            control::CORES => u32::from(!self.power.all_off() && !self.orders.all_ones),
            control::HABITS if self.silicon => control::HABITS_SILICON,
            control::INJECT_RESULT => self.inject_result,
            control::ARG0..0x120 => self.args[(offset - control::ARG0) as usize / 4],
            control::STATS.. => self.stat((offset - control::STATS) as usize / 4),
            _ => 0,
        }
    }

    /// Writes a register of the control block. `offset` must be a multiple of 4.
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

    /// Returns the statistic with this number, or 0 if there is none.
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
            self.mmu.stores.late,
            self.mmu.stores.lost,
            self.mmu.stores.len() as u32,
            mmu.stale_walks,
            mmu.unlocked_flushes,
            stats.power_cuts,
        ];
        const { assert!(control::STAT_NAMES.len() == Stat::PowerCuts as usize + 1) };
        all.get(n).copied().unwrap_or(0)
    }

    /// Changes the inputs that the board drives.
    fn feed(&mut self, board: Board) {
        let before = std::mem::replace(&mut self.board, board);
        if before.supplied() && !board.supplied() && !self.orders.all_ones {
            self.power_cut();
        }
        if before.powered() && !board.powered() {
            self.forget(true);
        }
        if before.supplied() && !board.supplied() {
            self.orders.wedged = false;
        }
        if before.runs() != board.runs() {
            let power = board.power;
            let reset = board.reset;
            self.trace(format_args!("board: power {power:#x} reset {reset}"));
        }
    }

    /// Handles the loss of the domain or the regulator. If the L2 cache is not down by then, its
    /// stores are lost.
    fn power_cut(&mut self) {
        if !self.power.l2_alive() {
            return;
        }
        let held = self.mmu.stores.len();
        self.stats.power_cuts += 1;
        self.stats.violations = self.stats.violations.wrapping_add(u32::from(held != 0));
        self.trace(format_args!(
            "power cut with L2 not down, {held} stores lost"
        ));
    }

    /// Resets everything to the state at power-on, except statistics, because the machine is reset.
    pub fn machine_reset(&mut self) {
        self.function_reset();
        self.orders = Orders::default();
        self.mmu.ordered = None;
        self.irqs.tamper_no_more();
        self.board = Board::new(self.board.controlled);
        self.args = [0; 4];
        self.inject_result = 0;
    }

    /// Resets the function as the bus does: like a power cycle, but the board's inputs and the
    /// orders stay.
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
        let unit = || match Unit::ALL.get(a as usize) {
            Some(&unit) => Ok(unit as usize),
            None => Err(EINVAL),
        };
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
            Opcode::SpuriousIrq => {
                let pending = self.irqs.remind(vector()?, b);
                self.send_later(vector()?, pending);
            }
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
            Opcode::LoseDone => orders.lose_done = next()?,
            Opcode::LoseStopStatus => orders.lose_stop_status = flag()?,
            Opcode::DelayStart => {
                orders.start = Delay::new(a);
                if orders.start != Delay::Never {
                    self.unstick(|event| matches!(event, Event::Take(..)));
                }
            }
            Opcode::Wedge => orders.wedged = flag()?,
            Opcode::RationJobs => {
                let ration = orders.rations.get_mut(a as usize).ok_or(EINVAL)?;
                *ration = Some(ration.unwrap_or(0).saturating_add(b));
                self.slot_continue(a as usize);
            }
            Opcode::StickIrq => {
                let pending = self.irqs.stick(vector()?, b);
                self.send_later(vector()?, pending);
            }
            Opcode::LateIrq => self.irqs.delay(vector()?, u64::from(b) * 1000, c.max(1)),
            Opcode::DelayPowerOnce => orders.power_once = Some(u64::from(a) * 1000),
            Opcode::NeverUp | Opcode::NeverDown => {
                let before = orders.manner;
                let cores = if opcode == Opcode::NeverUp {
                    &mut orders.manner.never_up
                } else {
                    &mut orders.manner.never_down
                };
                cores[unit()?] = b.into();
                self.power.unstick(&before);
                self.power_advance();
            }
            Opcode::ClearAll => {
                self.power.unstick(&self.orders.manner);
                self.orders = Orders::default();
                self.power_advance();
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
