// SPDX-License-Identifier: GPL-2.0

//! The interface between a GPU model and everything that is the same for all of them: the engine,
//! the PCI function and the control socket.
//!
//! Locks: the engine's is held around all methods with a receiver.

use crate::host::Clock;

/// A GPU. It does nothing by itself, only in these methods.
pub trait Machine: Send + 'static {
    /// The names of the interrupt lines. The position of a line is the number of its MSI-X vector.
    const LINES: &'static [&'static str];

    /// The size of the register space in bytes, a power of two.
    const REGISTER_SPACE: u64;

    /// Returns the name of the register at `offset`, for logs.
    fn register_name(offset: u32) -> String;

    /// Reads a register.
    fn read32(&mut self, offset: u32) -> u32;

    /// Writes a register.
    fn write32(&mut self, offset: u32, value: u32);

    /// Reads a register of the control channel.
    fn control_read32(&mut self, offset: u32) -> u32;

    /// Writes a register of the control channel.
    fn control_write32(&mut self, offset: u32, value: u32);

    /// Answers a line of the control socket with lines, or with the reason why it cannot.
    fn answer(&mut self, line: &str) -> Result<String, String>;

    /// Returns the clock that the GPU runs by.
    fn clock(&self) -> &dyn Clock;

    /// Returns the time at which something happens next, without further register accesses.
    fn deadline(&self) -> Option<u64>;

    /// Lets due events happen.
    fn tick(&mut self);

    /// Returns whether [`Machine::step`] would do something.
    fn runnable(&self) -> bool;

    /// Runs one short step of the jobs, if there is one to run. Returns whether there was.
    fn step(&mut self) -> bool;

    /// Resets everything, as when the machine is switched on.
    fn machine_reset(&mut self);

    /// Handles a reset of the PCI function.
    fn function_reset(&mut self);
}
