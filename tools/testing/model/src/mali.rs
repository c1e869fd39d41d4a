// SPDX-License-Identifier: GPL-2.0

//! A Mali as the engine and the front end see it.
//!
//! Locks: none of its own; the engine's lock protects the GPU.

use crate::control;
use crate::gpu::Gpu;
use crate::help;
use crate::host::Clock;
use crate::machine::Machine;
use crate::names;
use crate::regs;

impl Machine for Gpu {
    // In the order of `irq::Vector`.
    const LINES: &'static [&'static str] = &["Job", "Mmu", "Gpu"];

    const REGISTER_SPACE: u64 = regs::REGISTER_SPACE;

    fn register_name(offset: u32) -> String {
        names::register(offset)
    }

    fn read32(&mut self, offset: u32) -> u32 {
        Gpu::read32(self, offset)
    }

    fn write32(&mut self, offset: u32, value: u32) {
        Gpu::write32(self, offset, value);
    }

    fn control_read32(&mut self, offset: u32) -> u32 {
        Gpu::control_read32(self, offset)
    }

    fn control_write32(&mut self, offset: u32, value: u32) {
        Gpu::control_write32(self, offset, value);
    }

    fn answer(&mut self, line: &str) -> Result<String, String> {
        match line {
            "help" => Ok(help::help()),
            "stats" => Ok(control::STAT_NAMES
                .into_iter()
                .enumerate()
                .map(|(n, name)| format!("{name} {}\n", self.stat(n)))
                .collect()),
            _ => match self.order(control::parse(line)?) {
                Ok(()) => Ok(String::new()),
                Err(errno) => Err(format!("errno {errno}")),
            },
        }
    }

    fn clock(&self) -> &dyn Clock {
        Gpu::clock(self)
    }

    fn deadline(&self) -> Option<u64> {
        Gpu::deadline(self)
    }

    fn tick(&mut self) {
        Gpu::tick(self);
    }

    fn runnable(&self) -> bool {
        Gpu::runnable(self)
    }

    fn step(&mut self) -> bool {
        Gpu::step(self)
    }

    fn machine_reset(&mut self) {
        Gpu::machine_reset(self);
    }

    fn function_reset(&mut self) {
        Gpu::function_reset(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Board;
    use crate::irq::Vector;
    use crate::product::G52;
    use crate::testing::Bench;

    #[test]
    fn lines_have_the_names_of_their_vectors() {
        for vector in Vector::ALL {
            assert_eq!(Gpu::LINES[vector as usize], format!("{vector:?}"));
        }
        assert_eq!(Gpu::LINES.len(), Vector::ALL.len());
    }

    #[test]
    fn answers_of_the_control_socket() {
        let mut gpu = Bench::cold(&G52, Board::new(false)).gpu;
        assert_eq!(gpu.answer("hang-next-job any 1"), Ok(String::new()));
        assert_eq!(gpu.answer("hang-next-job 9 1"), Err("errno 22".into()));
        assert!(gpu.answer("no-such-order").is_err());
        let stats = gpu.answer("stats").unwrap();
        assert_eq!(stats.lines().count(), control::STAT_NAMES.len());
        assert!(gpu.answer("help").unwrap().contains("hang-next-job"));
    }
}
