// SPDX-License-Identifier: GPL-2.0

//! The GPU, which connects its parts.
//!
//! A [`Gpu`] does nothing by itself. [`Gpu::read32`] and [`Gpu::write32`] are register accesses;
//! [`Gpu::tick`] lets due events happen; [`Gpu::step`] runs one step of one chain.
//! [`crate::engine`] calls them.
//!
//! Locks: none of its own; the engine's lock protects all of it. The host's memory, interrupt sink
//! and clock are called with that lock held.

use std::fmt;
use std::sync::Arc;

use crate::control::Board;
use crate::control::Orders;
use crate::control::SCALE_FREQ_KHZ;
use crate::host::Clock;
use crate::host::GuestMemory;
use crate::host::IrqSink;
use crate::host::Trace;
use crate::irq::Irqs;
use crate::irq::Vector;
use crate::job::Arch;
use crate::job::Env;
use crate::mmu::Command;
use crate::mmu::Mmu;
use crate::orders::Stats;
use crate::perfcnt::Perfcnt;
use crate::power::Manner;
use crate::power::Power;
use crate::power::Transition;
use crate::power::Unit;
use crate::product::Product;
use crate::product::SLOTS;
use crate::registers::Plain;
use crate::regs;
use crate::slot::Slot;
use crate::timer::Event;
use crate::timer::Timers;

/// The durations of operations, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A reset.
    pub reset: u64,
    /// A power transition, except those of `core_up`.
    pub power: u64,
    /// Powering up the L2 cache or shader cores.
    pub core_up: u64,
    /// A command of an address space.
    pub as_command: u64,
    /// A cache clean or a counter sample.
    pub caches: u64,
    /// From a soft stop to its effect, if the chain can be stopped.
    pub soft_stop: u64,
    /// From a hard stop to the end of the chain's last access.
    pub hard_stop: u64,
    /// From an access in a disabled address space to the end of the chain.
    pub unmapped: u64,
    /// From `START` until the job manager takes the next chain of a slot.
    pub take: u64,
    /// From a message to its ordered duplicate.
    pub duplicate: u64,
}

impl Timing {
    /// The usual durations, of tens of microseconds.
    pub const USUAL: Timing = Timing {
        reset: 20_000,
        power: 10_000,
        core_up: 10_000,
        as_command: 3_000,
        caches: 10_000,
        soft_stop: 2_000,
        hard_stop: 0,
        unmapped: 0,
        take: 0,
        duplicate: 200_000,
    };

    /// As slow as GPUs have been observed to be. C panfrost, which works on all of them, allows 10
    /// ms for a reset, 20 ms for the L2 cache and again for the shader cores to come up (here up to
    /// four, one by one), 1 ms for the tiler, and 2 ms for each unit to go down.
    pub const SILICON: Timing = Timing {
        reset: 500_000,
        power: 300_000,
        core_up: 1_200_000,
        as_command: 20_000,
        caches: 100_000,
        hard_stop: 300_000,
        unmapped: 3_000_000,
        take: 2_000,
        ..Timing::USUAL
    };

    /// Everything is done before the register write is answered, except duplicate interrupts.
    pub const NONE: Timing = Timing {
        reset: 0,
        power: 0,
        core_up: 0,
        as_command: 0,
        caches: 0,
        soft_stop: 0,
        hard_stop: 0,
        unmapped: 0,
        take: 0,
        duplicate: 200_000,
    };
}

/// The cycle counter and the timestamp. Both only run when started, as on hardware, where this
/// saves power.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    running: bool,
    /// The number of cycles until `since`.
    cycles: u64,
    /// When the counter was started, or its frequency changed.
    since: u64,
    /// The timestamp when it was stopped.
    timestamp: u64,
}

/// The view that a step of a job has of the GPU.
pub(crate) struct JobEnv {
    arch: Arch,
    cycles: u64,
    timestamp: u64,
}

impl JobEnv {
    /// Takes the view at this time.
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

/// The frequency of the timestamp in Hz.
pub const TIMESTAMP_HZ: u64 = 1_000_000_000;

/// The GPU.
pub struct Gpu {
    /// The product, which decides the properties of the parts.
    pub(crate) product: &'static Product,
    /// The guest's memory.
    pub(crate) mem: Arc<dyn GuestMemory>,
    /// Tells the time to everything here.
    pub(crate) clock: Arc<dyn Clock>,
    /// Receives notable events.
    tracer: Option<Arc<dyn Trace>>,
    /// The durations of operations.
    pub(crate) timing: Timing,
    /// Whether the GPU is as slow and as weakly ordered as silicon, see
    /// [`Gpu::with_silicon_habits`].
    pub(crate) silicon: bool,
    /// The interrupt blocks.
    pub(crate) irqs: Irqs,
    /// The power domains.
    pub(crate) power: Power,
    /// The address spaces.
    pub(crate) mmu: Mmu,
    /// The job slots.
    pub(crate) slots: [Slot; SLOTS],
    /// The performance counters.
    pub(crate) perfcnt: Perfcnt,
    /// The events that are due later.
    pub(crate) timers: Timers,
    /// The inputs that the board drives.
    pub(crate) board: Board,
    /// The orders in force.
    pub(crate) orders: Orders,
    /// See [`Stats`].
    pub(crate) stats: Stats,
    /// The `LATEST_FLUSH_ID` register, which counts flushes.
    pub(crate) flush_id: u32,
    /// The `JOB_INT_JS_STATE` register.
    pub(crate) js_state: u32,
    /// Whether a reset is under way.
    pub(crate) resetting: bool,
    /// Events that do not happen unless an order is taken back.
    pub(crate) stuck: Vec<Event>,
    /// The arguments of the next order.
    pub(crate) args: [u32; 4],
    /// The error of the last order, or 0.
    pub(crate) inject_result: u32,
    /// See [`Counter`].
    counter: Counter,
    /// See [`Plain`].
    pub(crate) plain: Plain,
    /// The slot that ran a step last.
    turn: usize,
}

impl Gpu {
    /// Creates a GPU at power-on. `board` says how it is supplied; `tracer` receives notable
    /// events.
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
            silicon: false,
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

    /// Makes the GPU as slow and as weakly ordered as silicon.
    pub fn with_silicon_habits(mut self) -> Self {
        self.silicon = true;
        self.timing = Timing::SILICON;
        self
    }

    /// Returns the product.
    pub fn product(&self) -> &'static Product {
        self.product
    }

    /// Returns the clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Reports a notable event to the tracer, if there is one.
    pub(crate) fn trace(&self, what: fmt::Arguments<'_>) {
        if let Some(tracer) = &self.tracer {
            tracer.event(what);
        }
    }

    /// Returns whether the GPU runs at all.
    fn alive(&self) -> bool {
        self.board.runs() && !self.orders.all_ones
    }

    // Counters.

    /// Returns the value of the cycle counter.
    pub(crate) fn cycles(&self) -> u64 {
        if !self.counter.running {
            return self.counter.cycles;
        }
        let ns = u128::from(self.clock.now() - self.counter.since);
        let cycles = ns * u128::from(self.board.freq_khz) / 1_000_000;
        self.counter.cycles.wrapping_add(cycles as u64)
    }

    /// Returns the value of the timestamp.
    pub(crate) fn timestamp(&self) -> u64 {
        if self.counter.running {
            self.clock.now()
        } else {
            self.counter.timestamp
        }
    }

    /// Starts or stops the cycle counter and the timestamp.
    pub(crate) fn count(&mut self, running: bool) {
        self.counter = Counter {
            running,
            cycles: self.cycles(),
            since: self.clock.now(),
            timestamp: self.timestamp(),
        };
    }

    // Time.

    /// Schedules `event` after `delay`, or until it is released if there is none.
    pub(crate) fn later(&mut self, delay: Option<u64>, event: Event) {
        match delay {
            Some(ns) => {
                let when = self.clock.now() + ns;
                self.timers.add(when, event);
            }
            None => self.stuck.push(event),
        }
    }

    /// Scales a duration of `ns` nanoseconds at [`SCALE_FREQ_KHZ`] to the current frequency. The
    /// frequency only matters with the habits of silicon.
    pub(crate) fn scaled(&self, ns: u64) -> u64 {
        if !self.silicon {
            return ns;
        }
        let scaled =
            u128::from(ns) * u128::from(SCALE_FREQ_KHZ) / u128::from(self.board.freq_khz.max(1));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// Schedules stuck events for which `f` holds to happen now.
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

    /// Returns the time at which something happens next, without further register accesses.
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

    /// Lets due events happen.
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
                if unit == Unit::L2 && self.power.ready(unit) == 0 {
                    // The cache has written out its stores.
                    self.mmu.stores.drain_all(&*self.mem);
                } else if unit == Unit::L2 && !self.orders.stick_as {
                    self.unstick(|event| matches!(event, Event::AsCommand(_)));
                }
                self.power_advance();
                let all = if self.power.active() {
                    0
                } else {
                    regs::GPU_IRQ_POWER_CHANGED_ALL
                };
                self.raise(Vector::Gpu, regs::GPU_IRQ_POWER_CHANGED | all);
            }
            Event::AsCommand(space) => self.space_complete(space),
            Event::Take(n, serial) => self.slot_take(n, serial),
            Event::SoftStop(n) => self.slot_soft_stop(n),
            Event::HardStop(n) => self.slot_hard_stop(n),
            Event::Unmapped(n) => self.slot_unmapped(n),
            Event::CleanCaches => {
                self.flush_id = self.flush_id.wrapping_add(1);
                self.mmu.stores.drain_all(&*self.mem);
                self.raise(Vector::Gpu, regs::GPU_IRQ_CLEAN_CACHES_COMPLETED);
            }
            Event::Sample => self.perfcnt_sample(),
            Event::Message(vector) => self.irqs.send(vector),
        }
        self.tell_late_stores();
    }

    /// Ends the command of an address space, unless it is a flush and the L2 cache is not up.
    fn space_complete(&mut self, space: usize) {
        let flush = matches!(
            self.mmu.space(space).active,
            Some(Command::FlushPt | Command::FlushMem)
        );
        if self.silicon && flush && self.power.ready(Unit::L2) == 0 {
            self.stuck.push(Event::AsCommand(space));
            return;
        }
        let unlocked = self.mmu.stats.unlocked_flushes;
        if let Some(command) = self.mmu.complete(&*self.mem, space) {
            if self.mmu.stats.unlocked_flushes != unlocked {
                self.stats.violations = self.stats.violations.wrapping_add(1);
                self.trace(format_args!("AS {space}: {command:?} without a lock"));
            }
            self.slot_retry(space, command.retries());
        }
    }

    fn tell_late_stores(&mut self) {
        for store in self.mmu.stores.take_late() {
            self.trace(format_args!(
                "AS {}: late store to {:#x}, bus address {:#x}, which it does not map any more",
                store.space, store.va, store.pa
            ));
        }
    }

    /// Returns whether [`Gpu::step`] would do something.
    pub fn runnable(&self) -> bool {
        let now = self.clock.now();
        self.alive() && (0..SLOTS).any(|n| self.slot_runnable(n, now))
    }

    /// Runs one step of one chain; slots take turns. Returns whether there was one to run.
    pub fn step(&mut self) -> bool {
        if !self.alive() {
            return false;
        }
        let now = self.clock.now();
        for _ in 0..SLOTS {
            self.turn = (self.turn + 1) % SLOTS;
            if self.slot_runnable(self.turn, now) {
                self.slot_step(self.turn, now);
                self.tell_late_stores();
                return true;
            }
        }
        false
    }

    // Power and reset.

    /// Begins the power transitions that can begin, unless a reset is under way.
    pub(crate) fn power_advance(&mut self) {
        if self.resetting {
            return;
        }
        let busy = self.slots.iter().any(Slot::active);
        let manner = Manner {
            one_by_one: self.silicon,
            ..self.orders.manner
        };
        while let Some(transition) = self.power.begin(busy, &manner) {
            self.stats.power_transitions = self.stats.power_transitions.wrapping_add(1);
            let usual = match transition.unit {
                Unit::L2 | Unit::Shader if self.power.rises(transition) => self.timing.core_up,
                _ => self.timing.power,
            };
            let delay = match self.orders.power_once.take() {
                _ if self.orders.wedged => None,
                Some(ns) => Some(ns),
                None => self.orders.power.or(usual),
            };
            self.later(delay, Event::Power(transition));
        }
    }

    /// Clears all state that a reset clears, including stores that have not reached memory. The
    /// mask of the GPU's own interrupts is kept unless `mask_too`, so that the end of a reset can
    /// be waited for.
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
        let keep = |event: &Event| matches!(event, Event::Message(_));
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
        if !self.silicon {
            self.mmu.stores.drain_all(&*self.mem);
        }
        self.forget(self.silicon);
        self.resetting = true;
        let delay = if self.orders.wedged {
            None
        } else if hard && self.orders.spare_hard_reset {
            Some(self.timing.reset)
        } else {
            self.orders.reset.or(self.timing.reset)
        };
        self.later(delay, Event::Reset);
    }

    /// Handles a write of `GPU_COMMAND`.
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

    /// Returns the `GPU_STATUS` register.
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

    /// Changes the clock's frequency.
    pub(crate) fn set_frequency(&mut self, khz: u32) {
        self.count(self.counter.running);
        self.board.freq_khz = khz;
    }
}

#[cfg(test)]
#[path = "gpu_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "gpu_harsh_tests.rs"]
mod harsh_tests;
