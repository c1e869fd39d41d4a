// SPDX-License-Identifier: GPL-2.0

//! Job slots.
//!
//! A slot has a set of registers for the chain that runs and one for the next. `START` in the next
//! set moves it over as soon as the slot is free: at once, when the running chain ends well, or,
//! after a chain ended otherwise, when that event is cleared.
//!
//! A chain runs in steps, see [`crate::job::Chain`]. Between steps a soft stop takes effect. An
//! access that faults parks the chain; the step is made again when its address space is told to
//! retry.
//!
//! Locks: none of its own, part of the GPU's state.

use crate::gpu::Gpu;
use crate::gpu::JobEnv;
use crate::host::Vector;
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

/// What is to run next.
#[derive(Clone, Copy, Debug, Default)]
struct Next {
    head: u64,
    affinity: u64,
    config: u32,
    xaffinity: u32,
    flush_id: u32,
    pending: bool,
}

/// How a chain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next step can be made.
    Ready,
    /// Its address space has a command active or the region locked.
    Waiting,
    /// An access faulted.
    Parked {
        fault: MmuFault,
        /// Whether the fault is in the registers of the address space.
        reported: bool,
    },
    /// By order.
    Hung,
}

/// A chain that runs.
#[derive(Debug)]
struct Run {
    chain: Chain,
    space: usize,
    state: State,
    soft_stop: bool,
    bus_fault: bool,
    not_before: u64,
    job: u64,
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
    /// A failure has not been cleared: the next chain does not start.
    blocked: bool,
}

impl Slot {
    /// Whether a chain runs.
    pub fn active(&self) -> bool {
        self.run.is_some()
    }

    /// Whether a chain waits for the slot.
    pub fn pending(&self) -> bool {
        self.next.pending
    }

    fn read(&self, offset: u32) -> u32 {
        let half = |value: u64| (value >> (8 * (offset & 4))) as u32;
        let tail = self
            .run
            .as_ref()
            .map_or(self.tail, |run| run.chain.current());
        match offset {
            regs::JS_HEAD | 0x04 => half(self.head),
            regs::JS_TAIL | 0x0c => half(tail),
            regs::JS_AFFINITY | 0x14 => half(self.affinity),
            regs::JS_CONFIG => self.config,
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

/// The slot and the register in it at an offset of the register space.
pub fn decode(offset: u32) -> Option<(usize, u32)> {
    let offset = offset.checked_sub(regs::JS_BASE)?;
    let n = (offset / regs::JS_STRIDE) as usize;
    (n < SLOTS).then_some((n, offset % regs::JS_STRIDE))
}

impl Gpu {
    pub(crate) fn slot_read(&self, n: usize, offset: u32) -> u32 {
        self.slots[n].read(offset)
    }

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
                self.slot_promote(n);
            }
            regs::JS_COMMAND => self.slot_command(n, value),
            _ => (),
        }
    }

    /// Starts the next chain if there is one and the slot is free.
    pub(crate) fn slot_promote(&mut self, n: usize) {
        let slot = &mut self.slots[n];
        if slot.run.is_some() || slot.blocked || !slot.next.pending || self.resetting {
            return;
        }
        let next = slot.next;
        slot.next.pending = false;
        slot.head = next.head;
        slot.tail = next.head;
        slot.affinity = next.affinity;
        slot.config = next.config;
        slot.xaffinity = next.xaffinity;
        slot.status = Exception::ACTIVE.0;
        let space = (next.config & regs::JS_CONFIG_AS_MASK) as usize;
        slot.run = Some(Run {
            chain: Chain::new(next.head),
            space,
            state: if self.orders.hang.take(n) {
                State::Hung
            } else {
                State::Ready
            },
            soft_stop: false,
            bus_fault: self.orders.bus_fault.take(n),
            not_before: self.clock.now() + self.orders.slow_jobs,
            job: next.head,
        });
        self.flush_id = self.flush_id.wrapping_add(1);
        let (head, config) = (next.head, next.config);
        self.trace(format_args!("slot {n}: start {head:#x} config {config:#x}"));
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
                self.slot_fail(n, Exception::TERMINATED);
            }
        } else {
            self.stats.soft_stops += 1;
            if !self.orders.ignore_soft_stop {
                run.soft_stop = true;
                self.later(Some(self.timing.soft_stop), Event::SoftStop(n));
            }
        }
    }

    /// A soft stop reaches a chain. If that one is in the middle of an access, or hangs, the stop
    /// waits for the end of the step.
    pub(crate) fn slot_soft_stop(&mut self, n: usize) {
        let run = self.slots[n].run.as_ref();
        if run.is_some_and(|run| run.soft_stop && run.state == State::Ready) {
            self.slot_fail(n, Exception::STOPPED);
        }
    }

    /// Whether [`Gpu::slot_step`] would do something now.
    pub(crate) fn slot_runnable(&self, n: usize, now: u64) -> bool {
        let slot = &self.slots[n];
        slot.run.as_ref().is_some_and(|run| {
            run.state == State::Ready
                && (run.not_before <= now || run.soft_stop || run.bus_fault)
                && self.power.ready(Unit::L2) != 0
                && self.power.ready(Unit::Shader) & slot.affinity != 0
        })
    }

    /// When a chain that is slowed down goes on.
    pub(crate) fn slot_deadline(&self, n: usize) -> Option<u64> {
        let run = self.slots[n].run.as_ref()?;
        (run.state == State::Ready).then_some(run.not_before)
    }

    /// Does one step of a chain that is runnable.
    pub(crate) fn slot_step(&mut self, n: usize, now: u64) {
        let Some(mut run) = self.slots[n].run.take() else {
            return;
        };
        if run.bus_fault || run.soft_stop {
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
        let result = run.chain.step(&mut view, &env);
        let (miss, bytes) = (view.miss, view.bytes);
        self.stats.dma_bytes += bytes;
        match result {
            Ok(Step::Continue) => {
                let job = run.chain.current();
                if job != run.job {
                    run.job = job;
                    run.not_before = now + self.orders.slow_jobs;
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
                }
                let space = run.space;
                self.slots[n].run = Some(run);
                match miss {
                    Miss::Wait => (),
                    Miss::Fault(_) => self.slot_report(space),
                    Miss::Unmapped | Miss::Bus => {
                        let va = fault.va;
                        self.trace(format_args!("slot {n}: {miss:?} at {va:#x}"));
                        self.slot_fail(n, Exception::JOB_BUS_FAULT);
                    }
                }
            }
        }
    }

    /// Puts a fault of a parked chain into the registers of its address space, unless there is one
    /// already.
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

    /// A command of an address space ended: chains that waited for it go on.
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

    /// Chains that hang by order go on.
    pub(crate) fn slot_release(&mut self) {
        for slot in &mut self.slots {
            if let Some(run) = &mut slot.run {
                if run.state == State::Hung {
                    run.state = State::Ready;
                }
            }
        }
    }

    /// Adds what a chain has done, which is over, to the GPU's statistics.
    fn count_chain(&mut self, chain: &Chain) {
        let of_chain = chain.stats();
        let stats = &mut self.stats;
        stats.jobs_done = stats.jobs_done.wrapping_add(of_chain.jobs_done as u32);
        stats.heap_bytes += of_chain.heap_bytes;
        stats.heap_mismatches = stats
            .heap_mismatches
            .wrapping_add(of_chain.heap_mismatches as u32);
    }

    /// A reset: all chains are gone, but not what they have done.
    pub(crate) fn slots_forget(&mut self) {
        for slot in std::mem::take(&mut self.slots) {
            if let Some(run) = slot.run {
                self.count_chain(&run.chain);
            }
        }
    }

    /// Ends the running chain with an event of failure.
    fn slot_fail(&mut self, n: usize, code: Exception) {
        self.slot_end(n, code);
    }

    fn slot_end(&mut self, n: usize, code: Exception) {
        let slot = &mut self.slots[n];
        let Some(run) = slot.run.take() else {
            return;
        };
        let tail = run.chain.current();
        slot.tail = tail;
        slot.status = code.0;
        let done = code == Exception::DONE;
        slot.blocked = !done;
        self.count_chain(&run.chain);
        let stats = &mut self.stats;
        if done {
            stats.chains_done = stats.chains_done.wrapping_add(1);
        } else if code != Exception::STOPPED {
            stats.chains_failed = stats.chains_failed.wrapping_add(1);
            stats.jobs_failed = stats.jobs_failed.wrapping_add(1);
        }
        self.flush_id = self.flush_id.wrapping_add(1);
        self.trace(format_args!("slot {n}: {code:?} at {tail:#x}"));
        self.raise(Vector::Job, 1 << if done { n } else { n + 16 });
        self.slot_promote(n);
        self.power_advance();
    }

    /// A write to `JOB_INT_CLEAR`, after the bits are gone: samples the state, and starts what a
    /// failure held back.
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
            let slot = &self.slots[n];
            self.js_state &= !both;
            self.js_state |= u32::from(slot.active()) << n | u32::from(slot.pending()) << (n + 16);
        }
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
