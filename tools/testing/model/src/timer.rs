// SPDX-License-Identifier: GPL-2.0

//! Events that happen later.
//!
//! Locks: none of its own, part of the GPU's state.

use crate::irq::Vector;
use crate::power::Transition;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A reset completes.
    Reset,
    /// A power transition completes.
    Power(Transition),
    /// The command of an address space completes.
    AsCommand(usize),
    /// The job manager takes the next chain of a slot, unless `START` was written again since; the
    /// second value is the number of writes of `START`.
    Take(usize, u32),
    /// A soft stop reaches the chain of a slot.
    SoftStop(usize),
    /// A hard stop has ended the accesses of a slot's chain.
    HardStop(usize),
    /// The chain of a slot, whose address space is disabled, ends.
    Unmapped(usize),
    /// A cache clean completes.
    CleanCaches,
    /// A counter sample is taken.
    Sample,
    /// A message is sent, late or once more.
    Message(Vector),
}

/// Events, sorted by time, in the order of insertion where that is the same.
#[derive(Debug, Default)]
pub struct Timers(Vec<(u64, Event)>);

impl Timers {
    /// Adds an event that happens at `when`.
    pub fn add(&mut self, when: u64, event: Event) {
        let at = self.0.partition_point(|&(other, _)| other <= when);
        self.0.insert(at, (when, event));
    }

    /// Returns the time of the next event.
    pub fn next(&self) -> Option<u64> {
        self.0.first().map(|&(when, _)| when)
    }

    /// Takes the next event that is due.
    pub fn pop(&mut self, now: u64) -> Option<Event> {
        if self.next()? > now {
            return None;
        }
        Some(self.0.remove(0).1)
    }

    /// Returns whether there is an event for which `f` holds.
    pub fn has(&self, f: impl Fn(&Event) -> bool) -> bool {
        self.0.iter().any(|(_, event)| f(event))
    }

    /// Drops all events but those for which `f` holds.
    pub fn retain(&mut self, f: impl Fn(&Event) -> bool) {
        self.0.retain(|(_, event)| f(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order() {
        let mut timers = Timers::default();
        timers.add(20, Event::Reset);
        timers.add(10, Event::Sample);
        timers.add(20, Event::CleanCaches);
        assert_eq!(timers.next(), Some(10));
        assert_eq!(timers.pop(9), None);
        assert_eq!(timers.pop(20), Some(Event::Sample));
        assert_eq!(timers.pop(20), Some(Event::Reset));
        timers.retain(|e| *e != Event::CleanCaches);
        assert_eq!(timers.pop(20), None);
    }
}
