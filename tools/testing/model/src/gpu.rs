// SPDX-License-Identifier: GPL-2.0

//! The GPU: its register file, and what ties the parts together.
//!
//! A [`Gpu`] does nothing by itself. [`Gpu::read32`] and [`Gpu::write32`] are register accesses;
//! [`Gpu::tick`] lets events happen that are due; [`Gpu::step`] lets one chain do one step.
//! [`crate::engine`] calls them.
//!
//! Locks: none of its own; the engine has one around all of it. The host's memory, interrupt sink
//! and clock are called from inside.

use std::fmt;
use std::sync::Arc;

use crate::control::Board;
use crate::control::Orders;
use crate::host::Clock;
use crate::host::GuestMemory;
use crate::host::IrqSink;
use crate::host::Vector;
use crate::irq::Irqs;
use crate::job::Arch;
use crate::job::Env;
use crate::mmu::Mmu;
use crate::perfcnt::Perfcnt;
use crate::power::Power;
use crate::power::Transition;
use crate::product::Product;
use crate::product::SLOTS;
use crate::product::SPACES;
use crate::regs;
use crate::slot::Slot;
use crate::timer::Event;
use crate::timer::Timers;

/// How long things take, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A reset.
    pub reset: u64,
    /// A power transition.
    pub power: u64,
    /// A command of an address space.
    pub as_command: u64,
    /// A cache clean, a counter sample.
    pub caches: u64,
    /// From a soft stop to its effect, if the chain is not in the middle of something.
    pub soft_stop: u64,
    /// From a message to its ordered duplicate.
    pub duplicate: u64,
}

impl Timing {
    /// Tens of microseconds.
    pub const USUAL: Timing = Timing {
        reset: 20_000,
        power: 10_000,
        as_command: 3_000,
        caches: 10_000,
        soft_stop: 2_000,
        duplicate: 200_000,
    };

    /// Everything is done before the register write is answered.
    pub const NONE: Timing = Timing {
        reset: 0,
        power: 0,
        as_command: 0,
        caches: 0,
        soft_stop: 0,
        duplicate: 200_000,
    };
}

/// Receives a line for everything of note.
pub trait Trace: Send + Sync {
    /// One event.
    fn event(&self, what: fmt::Arguments<'_>);
}

/// Counters that are not kept elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) violations: u32,
    pub(crate) reg_reads: u32,
    pub(crate) reg_writes: u32,
    pub(crate) jobs_done: u32,
    pub(crate) jobs_failed: u32,
    pub(crate) chains_done: u32,
    pub(crate) chains_failed: u32,
    pub(crate) soft_stops: u32,
    pub(crate) hard_stops: u32,
    pub(crate) soft_resets: u32,
    pub(crate) hard_resets: u32,
    pub(crate) power_transitions: u32,
    pub(crate) dma_bytes: u64,
    pub(crate) heap_bytes: u64,
    pub(crate) heap_mismatches: u32,
}

/// Cycle counter and timestamp. Both stand still unless started, as the GPU saves their power.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    running: bool,
    /// Cycles until `since`.
    cycles: u64,
    /// When the counter was started, or its frequency changed.
    since: u64,
    /// The timestamp when it was stopped.
    timestamp: u64,
}

/// Registers that only hold what was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plain {
    pub(crate) config: [u32; 4],
    pub(crate) coherency: u32,
    pub(crate) unlocked: bool,
    pub(crate) pwr_override: [u32; 2],
    pub(crate) throttle: u32,
}

/// What a step of a job is told of the GPU.
pub(crate) struct JobEnv {
    arch: Arch,
    cycles: u64,
    timestamp: u64,
}

impl JobEnv {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        Self {
            arch: gpu.product.arch,
            cycles: gpu.cycles(),
            timestamp: gpu.timestamp(),
        }
    }
}

impl Env for JobEnv {
    fn arch(&self) -> Arch {
        self.arch
    }

    fn cycles(&self) -> u64 {
        self.cycles
    }

    fn timestamp(&self) -> u64 {
        self.timestamp
    }
}

/// Frequency of the timestamp in Hz.
pub const TIMESTAMP_HZ: u64 = 1_000_000_000;

/// The GPU.
pub struct Gpu {
    pub(crate) product: &'static Product,
    pub(crate) mem: Arc<dyn GuestMemory>,
    pub(crate) clock: Arc<dyn Clock>,
    tracer: Option<Arc<dyn Trace>>,
    pub(crate) timing: Timing,
    pub(crate) irqs: Irqs,
    pub(crate) power: Power,
    pub(crate) mmu: Mmu,
    pub(crate) slots: [Slot; SLOTS],
    pub(crate) perfcnt: Perfcnt,
    pub(crate) timers: Timers,
    pub(crate) board: Board,
    pub(crate) orders: Orders,
    pub(crate) stats: Stats,
    pub(crate) flush_id: u32,
    pub(crate) js_state: u32,
    pub(crate) resetting: bool,
    /// Events that will not happen unless an order is taken back.
    pub(crate) stuck: Vec<Event>,
    pub(crate) args: [u32; 4],
    pub(crate) inject_result: u32,
    counter: Counter,
    pub(crate) plain: Plain,
    turn: usize,
}

impl Gpu {
    /// A GPU at power-on. `board`: how it is fed. `tracer` is told of everything of note.
    pub fn new(
        product: &'static Product,
        mem: Arc<dyn GuestMemory>,
        irqs: Arc<dyn IrqSink>,
        clock: Arc<dyn Clock>,
        timing: Timing,
        board: Board,
        tracer: Option<Arc<dyn Trace>>,
    ) -> Self {
        Self {
            product,
            mem,
            clock,
            tracer,
            timing,
            irqs: Irqs::new(irqs),
            power: Power::new(product),
            mmu: Mmu::new(product),
            slots: Default::default(),
            perfcnt: Perfcnt::default(),
            timers: Timers::default(),
            board,
            orders: Orders::default(),
            stats: Stats::default(),
            flush_id: 0,
            js_state: 0,
            resetting: false,
            stuck: Vec::new(),
            args: [0; 4],
            inject_result: 0,
            counter: Counter::default(),
            plain: Plain::default(),
            turn: 0,
        }
    }

    /// The product it is.
    pub fn product(&self) -> &'static Product {
        self.product
    }

    /// Its clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn trace(&self, what: fmt::Arguments<'_>) {
        if let Some(tracer) = &self.tracer {
            tracer.event(what);
        }
    }

    /// Whether anything happens at all.
    fn alive(&self) -> bool {
        self.board.runs() && !self.orders.all_ones
    }

    // Interrupts.

    fn duplicate_if(&mut self, due: bool, vector: Vector) {
        if due {
            let when = self.clock.now() + self.timing.duplicate;
            self.timers.add(when, Event::Duplicate(vector));
        }
    }

    pub(crate) fn raise(&mut self, vector: Vector, bits: u32) {
        let due = self.irqs.set(vector, bits);
        self.duplicate_if(due, vector);
    }

    pub(crate) fn irq_read(&self, vector: Vector, offset: u32) -> u32 {
        let block = self.irqs.block(vector);
        match offset {
            0x0 => block.raw,
            0x8 => block.mask,
            0xc => block.stat(),
            _ => 0,
        }
    }

    pub(crate) fn irq_write(&mut self, vector: Vector, offset: u32, value: u32) {
        let due = match offset {
            0x4 => {
                let due = self.irqs.clear(vector, value);
                match vector {
                    Vector::Job => self.slots_cleared(value),
                    Vector::Mmu => {
                        for space in 0..SPACES {
                            if value & 0x1_0001 << space != 0 {
                                self.slot_report(space);
                            }
                        }
                    }
                    Vector::Gpu => (),
                }
                due
            }
            0x8 => self.irqs.set_mask(vector, value),
            _ => false,
        };
        self.duplicate_if(due, vector);
    }

    // Counters.

    pub(crate) fn cycles(&self) -> u64 {
        if !self.counter.running {
            return self.counter.cycles;
        }
        let ns = u128::from(self.clock.now() - self.counter.since);
        let cycles = ns * u128::from(self.board.freq_khz) / 1_000_000;
        self.counter.cycles.wrapping_add(cycles as u64)
    }

    pub(crate) fn timestamp(&self) -> u64 {
        if self.counter.running {
            self.clock.now()
        } else {
            self.counter.timestamp
        }
    }

    pub(crate) fn count(&mut self, running: bool) {
        self.counter = Counter {
            running,
            cycles: self.cycles(),
            since: self.clock.now(),
            timestamp: self.timestamp(),
        };
    }

    // Time.

    /// `event` happens after `delay`, or when it is released.
    pub(crate) fn later(&mut self, delay: Option<u64>, event: Event) {
        match delay {
            Some(ns) => {
                let when = self.clock.now() + ns;
                self.timers.add(when, event);
            }
            None => self.stuck.push(event),
        }
    }

    /// Lets what will not happen, and for which `f` holds, happen now.
    pub(crate) fn unstick(&mut self, f: impl Fn(&Event) -> bool) {
        let now = self.clock.now();
        for event in std::mem::take(&mut self.stuck) {
            if f(&event) {
                self.timers.add(now, event);
            } else {
                self.stuck.push(event);
            }
        }
    }

    /// When something is due next, if the GPU is left alone.
    pub fn deadline(&self) -> Option<u64> {
        if !self.alive() {
            return None;
        }
        let now = self.clock.now();
        let slots = (0..SLOTS)
            .filter_map(|n| self.slot_deadline(n))
            .filter(|&when| when > now);
        slots.chain(self.timers.next()).min()
    }

    /// Lets happen what is due.
    pub fn tick(&mut self) {
        while self.alive() {
            let Some(event) = self.timers.pop(self.clock.now()) else {
                return;
            };
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Reset => {
                self.resetting = false;
                self.trace(format_args!("reset completed"));
                self.raise(Vector::Gpu, regs::GPU_IRQ_RESET_COMPLETED);
            }
            Event::Power(transition) => {
                self.power.finish(transition);
                let Transition { unit, cores } = transition;
                self.trace(format_args!("power: {unit:?} {cores:#x} changed"));
                self.power_advance();
                let all = if self.power.active() {
                    0
                } else {
                    regs::GPU_IRQ_POWER_CHANGED_ALL
                };
                self.raise(Vector::Gpu, regs::GPU_IRQ_POWER_CHANGED | all);
            }
            Event::AsCommand(space) => {
                if let Some(command) = self.mmu.complete(space) {
                    self.slot_retry(space, command.retries());
                }
            }
            Event::SoftStop(n) => self.slot_soft_stop(n),
            Event::CleanCaches => {
                self.flush_id = self.flush_id.wrapping_add(1);
                self.raise(Vector::Gpu, regs::GPU_IRQ_CLEAN_CACHES_COMPLETED);
            }
            Event::Sample => self.perfcnt_sample(),
            Event::Duplicate(vector) => self.irqs.send(vector),
        }
    }

    /// Whether [`Gpu::step`] would do something.
    pub fn runnable(&self) -> bool {
        let now = self.clock.now();
        self.alive() && (0..SLOTS).any(|n| self.slot_runnable(n, now))
    }

    /// Lets one chain do one step; slots take turns. Returns whether there was one.
    pub fn step(&mut self) -> bool {
        if !self.alive() {
            return false;
        }
        let now = self.clock.now();
        for _ in 0..SLOTS {
            self.turn = (self.turn + 1) % SLOTS;
            if self.slot_runnable(self.turn, now) {
                self.slot_step(self.turn, now);
                return true;
            }
        }
        false
    }

    // Power and reset.

    pub(crate) fn power_advance(&mut self) {
        if self.resetting {
            return;
        }
        let busy = self.slots.iter().any(Slot::active);
        while let Some(transition) = self.power.begin(busy) {
            self.stats.power_transitions = self.stats.power_transitions.wrapping_add(1);
            let delay = self.orders.power.or(self.timing.power);
            self.later(delay, Event::Power(transition));
        }
    }

    /// Forgets everything that a reset forgets. The mask of the GPU's own interrupts survives, so
    /// that the end of a reset can be waited for, unless `mask_too`.
    pub(crate) fn forget(&mut self, mask_too: bool) {
        self.irqs.reset(Vector::Job, true);
        self.irqs.reset(Vector::Mmu, true);
        self.irqs.reset(Vector::Gpu, mask_too);
        self.power = Power::new(self.product);
        self.mmu.reset();
        self.slots_forget();
        self.perfcnt = Perfcnt::default();
        self.count(false);
        self.counter.cycles = 0;
        self.plain = Plain::default();
        self.js_state = 0;
        self.flush_id = 0;
        self.resetting = false;
        let keep = |event: &Event| matches!(event, Event::Duplicate(_));
        self.timers.retain(keep);
        self.stuck.retain(keep);
    }

    fn reset(&mut self, hard: bool) {
        if hard {
            self.stats.hard_resets += 1;
        } else {
            self.stats.soft_resets += 1;
        }
        self.trace(format_args!("{} reset", if hard { "hard" } else { "soft" }));
        self.forget(false);
        self.resetting = true;
        let delay = if hard && self.orders.spare_hard_reset {
            Some(self.timing.reset)
        } else {
            self.orders.reset.or(self.timing.reset)
        };
        self.later(delay, Event::Reset);
    }

    pub(crate) fn command(&mut self, command: u32) {
        match command {
            regs::GPU_CMD_SOFT_RESET => return self.reset(false),
            regs::GPU_CMD_HARD_RESET => return self.reset(true),
            _ if self.resetting => return,
            _ => (),
        }
        let caches = Some(self.timing.caches);
        match command {
            regs::GPU_CMD_PERFCNT_CLEAR => self.perfcnt.clear(),
            regs::GPU_CMD_PERFCNT_SAMPLE => self.later(caches, Event::Sample),
            regs::GPU_CMD_CYCLE_COUNT_START if !self.counter.running => self.count(true),
            regs::GPU_CMD_CYCLE_COUNT_STOP => self.count(false),
            regs::GPU_CMD_CLEAN_CACHES | regs::GPU_CMD_CLEAN_INV_CACHES => {
                self.later(caches, Event::CleanCaches);
            }
            _ => (),
        }
    }

    pub(crate) fn status(&self) -> u32 {
        let mut status = 0;
        if self.slots.iter().any(Slot::active) || self.resetting {
            status |= regs::GPU_STATUS_GPU_ACTIVE;
        }
        if self.power.active() {
            status |= regs::GPU_STATUS_PWR_ACTIVE;
        }
        if self.timers.has(|event| *event == Event::Sample) {
            status |= regs::GPU_STATUS_PRFCNT_ACTIVE;
        }
        if self.counter.running {
            status |= regs::GPU_STATUS_CYCLE_COUNT_ACTIVE;
        }
        status
    }

    /// The clock's frequency changes.
    pub(crate) fn set_frequency(&mut self, khz: u32) {
        self.count(self.counter.running);
        self.board.freq_khz = khz;
    }
}

#[cfg(test)]
#[path = "gpu_tests.rs"]
mod tests;
