// SPDX-License-Identifier: GPL-2.0

//! Runs jobs and events.
//!
//! One lock protects the whole GPU. Each step of a job is made with it held; steps are short, and
//! waiting register accesses go first. One thread runs the chains of all slots, a step of each in
//! turn: with threads of their own they could only take turns with the lock, in no particular
//! order.
//!
//! In synchronous mode the thread that makes a register access also runs everything that can run
//! before the access is answered. Remaining work, such as an endless chain or an event that is
//! delayed by order, is left to the engine's thread, so that it makes progress while the guest only
//! waits.
//!
//! Locks: `Shared::gpu`, inside of which the host's memory, interrupts and clock are called.
//! Dropping the engine stops its thread first.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::machine::Machine;

/// When jobs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Jobs run before the register access that started them is answered.
    Sync,
    /// Jobs run concurrently with the guest.
    Threaded,
}

/// The maximum number of steps that a register access makes in synchronous mode.
const SYNC_STEPS: u32 = 1 << 16;

/// The GPU and the state of the engine's thread.
struct State<M> {
    gpu: M,
    quit: bool,
    /// Set while the thread sleeps: until this time, or until it is woken.
    asleep: Option<Option<u64>>,
}

struct Shared<M> {
    state: Mutex<State<M>>,
    wake: Condvar,
    /// The number of register accesses that wait for the lock.
    waiting: AtomicU32,
    mode: Mode,
}

impl<M: Machine> Shared<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // A panic of another thread was already reported; keep registers readable for a
        // post-mortem.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.quit {
            state.gpu.tick();
            if state.gpu.step() {
                drop(state);
                while self.waiting.load(Ordering::Relaxed) > 0 {
                    thread::yield_now();
                }
                state = self.lock();
                continue;
            }
            let deadline = state.gpu.deadline();
            state.asleep = Some(deadline);
            state = match deadline {
                None => self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(when) => {
                    let left = when.saturating_sub(state.gpu.clock().now());
                    let (state, result) = self
                        .wake
                        .wait_timeout(state, Duration::from_nanos(left))
                        .unwrap_or_else(PoisonError::into_inner);
                    if result.timed_out() {
                        state.gpu.clock().skip_to(when);
                    }
                    state
                }
            };
            state.asleep = None;
        }
    }
}

/// A running GPU, shared by all threads that access it.
pub struct Engine<M: Machine> {
    shared: Arc<Shared<M>>,
    thread: Option<JoinHandle<()>>,
}

impl<M: Machine> Engine<M> {
    /// Starts the engine's thread.
    pub fn start(gpu: M, mode: Mode) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                gpu,
                quit: false,
                asleep: None,
            }),
            wake: Condvar::new(),
            waiting: AtomicU32::new(0),
            mode,
        });
        let its = shared.clone();
        let thread = thread::Builder::new()
            .name("engine".into())
            .spawn(move || its.run())?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Calls `f` with the GPU, then runs or wakes whatever has become runnable.
    pub fn with<R>(&self, f: impl FnOnce(&mut M) -> R) -> R {
        let shared = &*self.shared;
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        let mut state = shared.lock();
        shared.waiting.fetch_sub(1, Ordering::Relaxed);
        // Let due events happen first, even if the engine's thread is late on a busy host.
        state.gpu.tick();
        let result = f(&mut state.gpu);
        if shared.mode == Mode::Sync {
            for _ in 0..SYNC_STEPS {
                state.gpu.tick();
                if !state.gpu.step() {
                    break;
                }
            }
        }
        let wake = match state.asleep {
            None => false,
            Some(until) => {
                let sooner = match (state.gpu.deadline(), until) {
                    (Some(new), Some(old)) => new < old,
                    (new, _) => new.is_some(),
                };
                sooner || state.gpu.runnable()
            }
        };
        drop(state);
        if wake {
            shared.wake.notify_one();
        }
        result
    }

    /// Reads a GPU register.
    pub fn read32(&self, offset: u32) -> u32 {
        self.with(|gpu| gpu.read32(offset))
    }

    /// Writes a GPU register.
    pub fn write32(&self, offset: u32, value: u32) {
        self.with(|gpu| gpu.write32(offset, value));
    }

    /// Reads a register of the control block.
    pub fn control_read32(&self, offset: u32) -> u32 {
        self.with(|gpu| gpu.control_read32(offset))
    }

    /// Writes a register of the control block.
    pub fn control_write32(&self, offset: u32, value: u32) {
        self.with(|gpu| gpu.control_write32(offset, value));
    }
}

impl<M: Machine> Drop for Engine<M> {
    fn drop(&mut self) {
        self.shared.lock().quit = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
