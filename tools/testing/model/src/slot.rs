// SPDX-License-Identifier: GPL-2.0

//! Job slots.
//!
//! A slot has a set of registers for the running chain and one for the next chain. `START` in the
//! next set moves that chain over as soon as the slot is free: at once, when the running chain
//! succeeds or, after a chain has failed or was stopped, when its interrupt is cleared.
//! `JS_HEAD_NEXT` reads as 0 then; it keeps its value if the chain is taken back before.
//!
//! A chain runs in steps, see [`crate::job::Chain`]. Soft stops take effect between steps. An
//! access that faults parks the chain; the step is repeated when its address space is told to
//! retry. `JS_HEAD` is the oldest job that is not over. At the end of a chain `JS_TAIL` has the
//! same value, at which a chain that was soft-stopped can be resumed.
//!
//! With the habits of silicon, a chain's jobs overlap and `JS_TAIL` runs one ahead, even when a
//! hard stop ends the chain; the next set is taken over some time after `START`; a hard stop takes
//! effect after some time, during which the chain continues; a chain whose address space is
//! disabled ends after some time; and `JS_CONFIG` does not read back in full.
//!
//! Locks: none of its own, part of the GPU's state.

use crate::control::Delay;
use crate::gpu::Gpu;
use crate::gpu::JobEnv;
use crate::irq::Vector;
use crate::job::Arch;
use crate::job::Chain;
use crate::job::Exception;
use crate::job::Step;
use crate::mmu::set_half;
use crate::mmu::view::View;
use crate::mmu::Miss;
use crate::mmu::MmuFault;
use crate::power::Unit;
use crate::product::SLOTS;
use crate::product::SPACES;
use crate::regs;
use crate::timer::Event;

/// The register set of the next chain.
#[derive(Clone, Copy, Debug, Default)]
struct Next {
    head: u64,
    affinity: u64,
    config: u32,
    xaffinity: u32,
    flush_id: u32,
    pending: bool,
    /// Whether the job manager has noticed `START`.
    taken: bool,
    /// Whether an order decides when it does.
    by_order: bool,
    /// The number of writes of `START`.
    serial: u32,
}

/// The state of a running chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next step can be made. Left when a step ends the chain or its access fails.
    Ready,
    /// Its address space has a command active or the region locked. Left when the command ends.
    Waiting,
    /// An access faulted. Left when the driver lets the address space retry.
    Parked {
        fault: MmuFault,
        /// Whether the fault is in the registers of the address space.
        reported: bool,
    },
    /// It hangs by order, until released.
    Hung,
    /// Its address space is disabled. It ends after a delay.
    Unmapped,
}

/// A running chain.
#[derive(Debug)]
struct Run {
    chain: Chain,
    space: usize,
    state: State,
    soft_stop: bool,
    hard_stop: bool,
    bus_fault: bool,
    not_before: u64,
    job: u64,
    /// Whether there may be work to do for the job after the oldest one.
    ahead: bool,
}

/// One job slot.
#[derive(Debug, Default)]
pub struct Slot {
    head: u64,
    tail: u64,
    affinity: u64,
    config: u32,
    xaffinity: u32,
    status: u32,
    next: Next,
    run: Option<Run>,
    /// Whether a failure has not been cleared, so that the next chain does not start.
    blocked: bool,
    /// Whether the slot is sampled as active once, although it is not.
    stale: bool,
}

impl Slot {
    /// Returns whether a chain is running.
    pub fn active(&self) -> bool {
        self.run.is_some()
    }

    /// Returns whether a chain waits for the slot.
    pub fn pending(&self) -> bool {
        self.next.pending
    }

    /// `kept`: the bits of `JS_CONFIG` that read back.
    fn read(&self, offset: u32, kept: u32) -> u32 {
        let half = |value: u64| (value >> (8 * (offset & 4))) as u32;
        let (head, tail) = match &self.run {
            None => (self.head, self.tail),
            Some(run) => (run.chain.current(), run.chain.tail()),
        };
        match offset {
            regs::JS_HEAD | 0x04 => half(head),
            regs::JS_TAIL | 0x0c => half(tail),
            regs::JS_AFFINITY | 0x14 => half(self.affinity),
            regs::JS_CONFIG => self.config & kept,
            regs::JS_XAFFINITY => self.xaffinity,
            regs::JS_STATUS => self.status,
            regs::JS_HEAD_NEXT | 0x44 => half(self.next.head),
            regs::JS_AFFINITY_NEXT | 0x54 => half(self.next.affinity),
            regs::JS_CONFIG_NEXT => self.next.config,
            regs::JS_XAFFINITY_NEXT => self.next.xaffinity,
            regs::JS_COMMAND_NEXT => u32::from(self.next.pending),
            regs::JS_FLUSH_ID_NEXT => self.next.flush_id,
            _ => 0,
        }
    }
}

/// Returns the slot, and the offset in it, for an offset in the register space.
pub fn decode(offset: u32) -> Option<(usize, u32)> {
    let offset = offset.checked_sub(regs::JS_BASE)?;
    let n = (offset / regs::JS_STRIDE) as usize;
    (n < SLOTS).then_some((n, offset % regs::JS_STRIDE))
}

impl Gpu {
    /// Reads a register of slot `n`.
    pub(crate) fn slot_read(&mut self, n: usize, offset: u32) -> u32 {
        let next = self.slots[n].next;
        // Writes may have waited for the model for as long as the host was busy, so the time that
        // has passed for the guest since `START` is not known. A driver that gets around to asking
        // has taken longer than the job manager does.
        if offset == regs::JS_COMMAND_NEXT && !next.by_order {
            self.slot_take(n, next.serial);
        }
        let kept = match (self.silicon, self.product.arch) {
            (false, _) => u32::MAX,
            // It is not known whether the flag reads back there.
            (true, Arch::V5) => regs::JS_CONFIG_KEPT & !regs::JS_CONFIG_JOB_CHAIN_FLAG,
            (true, _) => regs::JS_CONFIG_KEPT,
        };
        self.slots[n].read(offset, kept)
    }

    /// Writes a register of slot `n`.
    pub(crate) fn slot_write(&mut self, n: usize, offset: u32, value: u32) {
        let next = &mut self.slots[n].next;
        let upper = offset & 4 != 0;
        match offset {
            regs::JS_HEAD_NEXT | 0x44 => set_half(&mut next.head, upper, value),
            regs::JS_AFFINITY_NEXT | 0x54 => set_half(&mut next.affinity, upper, value),
            regs::JS_CONFIG_NEXT => next.config = value,
            regs::JS_XAFFINITY_NEXT => next.xaffinity = value,
            regs::JS_FLUSH_ID_NEXT => next.flush_id = value,
            regs::JS_COMMAND_NEXT => {
                next.pending = value == regs::JS_COMMAND_START;
                if next.pending {
                    self.slot_start(n);
                }
            }
            regs::JS_COMMAND => self.slot_command(n, value),
            _ => (),
        }
    }

    /// Handles a write of `START` to the next set.
    fn slot_start(&mut self, n: usize) {
        let delay = self.orders.start.or(self.scaled(self.timing.take));
        let by_order = self.orders.start != Delay::Usual;
        let next = &mut self.slots[n].next;
        next.taken = false;
        next.by_order = by_order;
        next.serial = next.serial.wrapping_add(1);
        let serial = next.serial;
        match delay {
            Some(0) => self.slot_take(n, serial),
            delay => self.later(delay, Event::Take(n, serial)),
        }
    }

    /// Lets the job manager take the next chain of a slot, which starts as soon as the slot is
    /// free.
    pub(crate) fn slot_take(&mut self, n: usize, serial: u32) {
        let next = &mut self.slots[n].next;
        if next.serial == serial {
            next.taken = true;
            self.slot_promote(n);
        }
    }

    /// Starts the next chain if there is one and the slot is free.
    pub(crate) fn slot_promote(&mut self, n: usize) {
        let not_before = self.clock.now() + self.scaled(self.orders.slow_jobs);
        let slot = &mut self.slots[n];
        let next = slot.next;
        if slot.run.is_some() || slot.blocked || !next.pending || !next.taken || self.resetting {
            return;
        }
        slot.next.pending = false;
        slot.next.head = 0;
        slot.affinity = next.affinity;
        slot.config = next.config;
        slot.xaffinity = next.xaffinity;
        slot.status = Exception::ACTIVE.0;
        let space = (next.config & regs::JS_CONFIG_AS_MASK) as usize;
        slot.run = Some(Run {
            chain: Chain::new(next.head),
            space,
            state: if self.orders.hang.take(n) || !self.orders.take_ration(n) {
                State::Hung
            } else {
                State::Ready
            },
            soft_stop: false,
            hard_stop: false,
            bus_fault: self.orders.bus_fault.take(n),
            not_before,
            job: next.head,
            ahead: self.silicon,
        });
        self.flush_id = self.flush_id.wrapping_add(1);
        let (head, config) = (next.head, next.config);
        self.trace(format_args!("slot {n}: start {head:#x} config {config:#x}"));
        // Nothing that is read is cached, so this is all that shows when it could be stale.
        if config & regs::JS_CONFIG_START_FLUSH != regs::JS_CONFIG_START_FLUSH {
            self.stats.violations = self.stats.violations.wrapping_add(1);
            self.trace(format_args!("slot {n}: start without a flush"));
        }
        if space >= SPACES {
            self.slot_fail(n, Exception::JOB_CONFIG_FAULT);
        } else if next.affinity & self.product.shader_present == 0 {
            self.slot_fail(n, Exception::JOB_AFFINITY_FAULT);
        }
    }

    fn slot_command(&mut self, n: usize, command: u32) {
        let slot = &mut self.slots[n];
        let Some(run) = &mut slot.run else {
            return;
        };
        let flag = slot.config & regs::JS_CONFIG_JOB_CHAIN_FLAG != 0;
        let (hard, hit) = match command {
            regs::JS_COMMAND_SOFT_STOP => (false, true),
            regs::JS_COMMAND_SOFT_STOP_0 => (false, !flag),
            regs::JS_COMMAND_SOFT_STOP_1 => (false, flag),
            regs::JS_COMMAND_HARD_STOP => (true, true),
            regs::JS_COMMAND_HARD_STOP_0 => (true, !flag),
            regs::JS_COMMAND_HARD_STOP_1 => (true, flag),
            _ => return,
        };
        if !hit {
            return;
        }
        if hard {
            self.stats.hard_stops += 1;
            if !self.orders.ignore_hard_stop {
                run.hard_stop = true;
                match self.scaled(self.timing.hard_stop) {
                    0 => self.slot_hard_stop(n),
                    ns => self.later(Some(ns), Event::HardStop(n)),
                }
            }
        } else {
            self.stats.soft_stops += 1;
            if !self.orders.ignore_soft_stop {
                run.soft_stop = true;
                self.later(Some(self.timing.soft_stop), Event::SoftStop(n));
            }
        }
    }

    /// Applies a soft stop to a chain. If the chain is in the middle of an access, hangs, or has
    /// completed a job out of order, the stop waits until it can be resumed.
    pub(crate) fn slot_soft_stop(&mut self, n: usize) {
        let run = self.slots[n].run.as_ref();
        if run
            .is_some_and(|run| run.soft_stop && run.state == State::Ready && run.chain.stoppable())
        {
            self.slot_fail(n, Exception::STOPPED);
        }
    }

    /// Ends a chain that was hard-stopped, unless it has ended by itself.
    pub(crate) fn slot_hard_stop(&mut self, n: usize) {
        if self.slots[n].run.as_ref().is_some_and(|run| run.hard_stop) {
            self.slot_fail(n, Exception::TERMINATED);
        }
    }

    /// Ends a chain whose address space is disabled.
    pub(crate) fn slot_unmapped(&mut self, n: usize) {
        let run = self.slots[n].run.as_ref();
        if let Some(run) = run.filter(|run| run.state == State::Unmapped) {
            let code = if run.hard_stop {
                Exception::TERMINATED
            } else {
                Exception::JOB_BUS_FAULT
            };
            self.slot_fail(n, code);
        }
    }

    /// Returns whether [`Gpu::slot_step`] would do something now.
    pub(crate) fn slot_runnable(&self, n: usize, now: u64) -> bool {
        let slot = &self.slots[n];
        slot.run.as_ref().is_some_and(|run| {
            run.state == State::Ready
                && (run.not_before <= now || run.ahead || run.soft_stop || run.bus_fault)
                && self.power.ready(Unit::L2) != 0
                && self.power.ready(Unit::Shader) & slot.affinity != 0
        })
    }

    /// Returns the time at which a chain that is slowed down continues.
    pub(crate) fn slot_deadline(&self, n: usize) -> Option<u64> {
        let run = self.slots[n].run.as_ref()?;
        (run.state == State::Ready).then_some(run.not_before)
    }

    /// Does one step of a chain that is runnable.
    pub(crate) fn slot_step(&mut self, n: usize, now: u64) {
        let Some(mut run) = self.slots[n].run.take() else {
            return;
        };
        if run.bus_fault || (run.soft_stop && run.chain.stoppable()) {
            let code = if run.bus_fault {
                Exception::JOB_BUS_FAULT
            } else {
                Exception::STOPPED
            };
            self.slots[n].run = Some(run);
            self.slot_fail(n, code);
            return;
        }
        let env = JobEnv::new(self);
        let mut view = View::new(&mut self.mmu, &*self.mem, run.space);
        let mut result = Ok(Step::Continue);
        if self.silicon && !run.soft_stop {
            match run.chain.step_ahead(&mut view, &env) {
                Ok(more) => run.ahead = more,
                Err(fault) => result = Err(fault),
            }
        }
        if result.is_ok() && (run.not_before <= now || run.soft_stop) {
            result = run.chain.step(&mut view, &env);
        }
        let (miss, bytes) = (view.miss, view.bytes);
        self.stats.dma_bytes += bytes;
        match result {
            Ok(Step::Continue) => {
                let job = run.chain.current();
                if job != run.job {
                    run.job = job;
                    run.not_before = now + self.scaled(self.orders.slow_jobs);
                    run.ahead = self.silicon;
                }
                self.slots[n].run = Some(run);
            }
            Ok(Step::Done) => {
                self.slots[n].run = Some(run);
                self.slot_end(n, Exception::DONE);
            }
            Ok(Step::Failed(code)) => {
                self.slots[n].run = Some(run);
                self.slot_fail(n, code);
            }
            Err(fault) => {
                let miss = miss.unwrap_or(Miss::Bus);
                if let Miss::Fault(fault) = miss {
                    run.state = State::Parked {
                        fault,
                        reported: false,
                    };
                } else if miss == Miss::Wait {
                    run.state = State::Waiting;
                } else if miss == Miss::Unmapped {
                    run.state = State::Unmapped;
                }
                let space = run.space;
                self.slots[n].run = Some(run);
                match miss {
                    Miss::Wait => (),
                    Miss::Fault(_) => self.slot_report(space),
                    Miss::Unmapped => {
                        let va = fault.va;
                        self.trace(format_args!("slot {n}: {miss:?} at {va:#x}"));
                        match self.scaled(self.timing.unmapped) {
                            0 => self.slot_unmapped(n),
                            ns => self.later(Some(ns), Event::Unmapped(n)),
                        }
                    }
                    Miss::Bus => {
                        let va = fault.va;
                        self.trace(format_args!("slot {n}: {miss:?} at {va:#x}"));
                        self.slot_fail(n, Exception::JOB_BUS_FAULT);
                    }
                }
            }
        }
    }

    /// Reports the fault of a parked chain in the registers of its address space, unless another
    /// fault is there already.
    pub(crate) fn slot_report(&mut self, space: usize) {
        if self.irqs.block(Vector::Mmu).raw & 0x1_0001 << space != 0 {
            return;
        }
        for n in 0..SLOTS {
            let Some(run) = &mut self.slots[n].run else {
                continue;
            };
            if run.space != space {
                continue;
            }
            if let State::Parked { fault, reported } = &mut run.state {
                if *reported {
                    continue;
                }
                *reported = true;
                let fault = *fault;
                let bits = self.mmu.report(space, &fault, n as u16);
                let (va, code, access) = (fault.va, fault.code, fault.access);
                self.trace(format_args!(
                    "AS {space}: fault {code:#x} {access:?} at {va:#x}, slot {n}"
                ));
                self.raise(Vector::Mmu, bits);
                return;
            }
        }
    }

    /// Lets chains continue that waited for a command of an address space to end, and if
    /// `faults_too`, those that faulted.
    pub(crate) fn slot_retry(&mut self, space: usize, faults_too: bool) {
        for slot in &mut self.slots {
            let Some(run) = &mut slot.run else {
                continue;
            };
            if run.space != space {
                continue;
            }
            match run.state {
                State::Waiting => run.state = State::Ready,
                State::Parked { .. } if faults_too => run.state = State::Ready,
                _ => (),
            }
        }
    }

    /// Lets chains that hang by order continue.
    pub(crate) fn slot_release(&mut self) {
        for slot in &mut self.slots {
            if let Some(run) = &mut slot.run {
                if run.state == State::Hung {
                    run.state = State::Ready;
                }
            }
        }
    }

    /// Lets the chain of a slot continue that hangs, if one more may.
    pub(crate) fn slot_continue(&mut self, n: usize) {
        let run = self.slots[n].run.as_mut();
        if let Some(run) = run.filter(|run| run.state == State::Hung) {
            if self.orders.take_ration(n) {
                run.state = State::Ready;
            }
        }
    }

    /// Adds the statistics of a chain that is over to those of the GPU.
    fn count_chain(&mut self, chain: &Chain) {
        let of_chain = chain.stats();
        let stats = &mut self.stats;
        stats.jobs_done = stats.jobs_done.wrapping_add(of_chain.jobs_done as u32);
        stats.heap_bytes += of_chain.heap_bytes;
        stats.heap_mismatches = stats
            .heap_mismatches
            .wrapping_add(of_chain.heap_mismatches as u32);
    }

    /// Drops all chains on a reset, keeping their statistics.
    pub(crate) fn slots_forget(&mut self) {
        for slot in std::mem::take(&mut self.slots) {
            if let Some(run) = slot.run {
                self.count_chain(&run.chain);
            }
        }
    }

    /// Ends the running chain with a failure.
    fn slot_fail(&mut self, n: usize, code: Exception) {
        self.slot_end(n, code);
    }

    fn slot_end(&mut self, n: usize, code: Exception) {
        let slot = &mut self.slots[n];
        let Some(run) = slot.run.take() else {
            return;
        };
        let head = run.chain.current();
        slot.head = head;
        slot.tail = head;
        slot.status = code.0;
        if code == Exception::TERMINATED {
            slot.tail = run.chain.tail();
            if self.orders.lose_stop_status {
                slot.status = Exception::NOT_STARTED.0;
            }
        }
        let done = code == Exception::DONE;
        slot.blocked = !done;
        let lost = done && !slot.next.pending && self.orders.lose_done.take(n);
        if lost {
            slot.status = Exception::NOT_STARTED.0;
            slot.stale = self.irqs.block(Vector::Job).raw & 1 << n != 0;
        }
        let flush = slot.config & regs::JS_CONFIG_END_FLUSH != 0;
        self.count_chain(&run.chain);
        if flush {
            self.mmu.stores.drain(&*self.mem, run.space);
        }
        let stats = &mut self.stats;
        if done {
            stats.chains_done = stats.chains_done.wrapping_add(1);
        } else if code != Exception::STOPPED {
            stats.chains_failed = stats.chains_failed.wrapping_add(1);
            stats.jobs_failed = stats.jobs_failed.wrapping_add(1);
        }
        self.flush_id = self.flush_id.wrapping_add(1);
        self.trace(format_args!("slot {n}: {code:?} at {head:#x}"));
        if !lost {
            self.raise(Vector::Job, 1 << if done { n } else { n + 16 });
        }
        self.slot_promote(n);
        self.power_advance();
    }

    /// Handles a write to `JOB_INT_CLEAR`, after the bits were cleared: samples the state, and
    /// starts chains that a failure held back.
    pub(crate) fn slots_cleared(&mut self, bits: u32) {
        for n in 0..SLOTS {
            let both = 0x1_0001 << n;
            if bits & both == 0 {
                continue;
            }
            if bits & 1 << (n + 16) != 0 {
                self.slots[n].blocked = false;
                self.slot_promote(n);
            }
            let slot = &mut self.slots[n];
            let active = std::mem::take(&mut slot.stale) || slot.active();
            self.js_state &= !both;
            self.js_state |= u32::from(active) << n | u32::from(slot.pending()) << (n + 16);
        }
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "slot_order_tests.rs"]
mod order_tests;

#[cfg(test)]
#[path = "slot_silicon_tests.rs"]
mod silicon_tests;
