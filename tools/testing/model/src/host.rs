// SPDX-License-Identifier: GPL-2.0

//! The interfaces that the model needs from its embedder: memory, interrupts, time, a log.
//!
//! Locks: the embedder's own; they are taken inside of the GPU's lock and must not call back into
//! the GPU.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// An access to guest memory at an address where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

/// Guest memory as seen by a bus master.
pub trait GuestMemory: Send + Sync {
    /// Fills `buf` from bus address `pa`. Must not block.
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), BusError>;

    /// Stores `data` at bus address `pa`. Must not block.
    fn write(&self, pa: u64, data: &[u8]) -> Result<(), BusError>;

    /// Checks whether `len` bytes could be stored at bus address `pa` now. Must not block.
    fn check_write(&self, pa: u64, len: usize) -> Result<(), BusError>;
}

/// The receiver of interrupts.
pub trait IrqSink: Send + Sync {
    /// Sends the message of the MSI-X vector with this number once. Must not block.
    fn raise(&self, vector: usize);
}

/// Receives a line for each notable event.
pub trait Trace: Send + Sync {
    /// Reports one event.
    fn event(&self, what: fmt::Arguments<'_>);
}

/// Time, in nanoseconds from an arbitrary start.
pub trait Clock: Send + Sync {
    /// Returns the current time.
    fn now(&self) -> u64;

    /// Notes that a register was accessed.
    fn access(&self) {}

    /// Notes that nothing happens before `to`, so that a virtual clock may advance to it.
    fn skip_to(&self, _to: u64) {}
}

/// The host's time.
pub struct RealClock(Instant);

impl RealClock {
    /// Creates a clock that starts at zero.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Time that passes only with register accesses, so that a run does not depend on the host's
/// speed.
pub struct VirtualClock {
    now: AtomicU64,
    per_access: u64,
}

impl VirtualClock {
    /// Creates a clock that each register access advances by `per_access` nanoseconds.
    pub fn new(per_access: u64) -> Self {
        Self {
            now: AtomicU64::new(0),
            per_access,
        }
    }

    /// Advances the clock by `ns`.
    pub fn advance(&self, ns: u64) {
        self.now.fetch_add(ns, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn access(&self) {
        self.advance(self.per_access);
    }

    fn skip_to(&self, to: u64) {
        self.now.fetch_max(to, Ordering::Relaxed);
    }
}
