// SPDX-License-Identifier: GPL-2.0

//! Tests of the two modes, with real threads.

use std::time::Instant;

use super::*;
use crate::control::Board;
use crate::control::Opcode;
use crate::gpu::Gpu;
use crate::gpu::Timing;
use crate::host::Clock;
use crate::host::RealClock;
use crate::host::VirtualClock;
use crate::product::G52;
use crate::regs;
use crate::testing::Bench;
use crate::testing::Ram;
use crate::testing::Tables;
use crate::testing::VA;

struct Rig {
    engine: Engine<Gpu>,
    bench: Bench,
}

impl Rig {
    fn new(mode: Mode) -> Self {
        let bench = Bench::cold(&G52, Board::new(false));
        Tables::new(&bench.ram, Bench::ROOT).map(VA, Bench::PA, 0x10_0000);
        let ram: Arc<Ram> = bench.ram.clone();
        let gpu = match mode {
            Mode::Sync => Gpu::new(
                &G52,
                ram,
                bench.lines.clone(),
                Arc::new(VirtualClock::new(10_000)),
                Timing::NONE,
                Board::new(false),
                None,
            ),
            Mode::Threaded => Gpu::new(
                &G52,
                ram,
                bench.lines.clone(),
                Arc::new(RealClock::new()),
                Timing::USUAL,
                Board::new(false),
                None,
            ),
        };
        let engine = Engine::start(gpu, mode).unwrap();
        for on in [0x1a0, 0x180, 0x190] {
            engine.write32(on, !0);
        }
        engine.write32(regs::AS_BASE, Bench::ROOT as u32 | 3);
        engine.write32(regs::AS_BASE + regs::AS_COMMAND, regs::AS_COMMAND_UPDATE);
        Self { engine, bench }
    }

    fn submit(&self, slot: u32, head: u64) {
        let slot = regs::JS_BASE + slot * regs::JS_STRIDE;
        self.engine.write32(slot + regs::JS_HEAD_NEXT, head as u32);
        self.engine.write32(slot + regs::JS_AFFINITY_NEXT, 1);
        self.engine
            .write32(slot + regs::JS_CONFIG_NEXT, regs::JS_CONFIG_END_FLUSH);
        self.engine.write32(slot + regs::JS_COMMAND_NEXT, 1);
    }

    fn wait(&self, offset: u32, bits: u32) {
        let start = Instant::now();
        while self.engine.read32(offset) & bits == 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "timeout");
            thread::yield_now();
        }
    }
}

#[test]
fn synchronous_work_is_done_at_once() {
    let rig = Rig::new(Mode::Sync);
    assert_eq!(rig.engine.read32(0x140), 1);
    rig.bench.null_job(0, None);
    rig.submit(1, VA);
    assert_eq!(rig.bench.status(0), 1);
    assert_eq!(rig.engine.read32(regs::JOB_INT_RAWSTAT), 2);
    rig.engine.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    assert_eq!(
        rig.engine.read32(regs::GPU_INT_RAWSTAT),
        regs::GPU_IRQ_RESET_COMPLETED
    );
}

#[test]
fn threaded_work_is_done_later() {
    let rig = Rig::new(Mode::Threaded);
    rig.bench.null_job(0, None);
    rig.submit(1, VA);
    rig.wait(regs::JOB_INT_RAWSTAT, 2);
    assert_eq!(rig.bench.status(0), 1);
}

#[test]
fn an_endless_chain_blocks_nobody() {
    for mode in [Mode::Sync, Mode::Threaded] {
        let rig = Rig::new(mode);
        let head = rig.bench.endless(0x1000);
        rig.submit(0, head);
        rig.bench.null_job(0, None);
        rig.submit(1, VA);
        rig.wait(regs::JOB_INT_RAWSTAT, 2);
        rig.engine
            .write32(regs::JS_BASE + regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
        rig.wait(regs::JOB_INT_RAWSTAT, 1 << 16);
    }
}

#[test]
fn delayed_work_ends_without_register_accesses() {
    for mode in [Mode::Sync, Mode::Threaded] {
        let rig = Rig::new(mode);
        rig.wait(0x140, 1);
        rig.engine
            .with(|gpu| gpu.order((Opcode::SlowJobs, [2000, 0, 0, 0])))
            .unwrap();
        rig.bench.null_job(0, None);
        rig.submit(1, VA);
        assert_eq!(rig.bench.status(0), 0);
        let start = Instant::now();
        while rig.bench.status(0) == 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "timeout");
            thread::yield_now();
        }
    }
}

/// A GPU of no family: a write starts that many steps, after which its line rises.
struct Stepper {
    left: u32,
    ended: u32,
    clock: RealClock,
}

impl Machine for Stepper {
    const LINES: &'static [&'static str] = &["Ended"];
    const REGISTER_SPACE: u64 = 0x1000;

    fn register_name(_offset: u32) -> String {
        "STEPS".into()
    }

    fn read32(&mut self, _offset: u32) -> u32 {
        self.ended
    }

    fn write32(&mut self, _offset: u32, value: u32) {
        self.left = value;
    }

    fn control_read32(&mut self, _offset: u32) -> u32 {
        0
    }

    fn control_write32(&mut self, _offset: u32, _value: u32) {}

    fn answer(&mut self, line: &str) -> Result<String, String> {
        Err(format!("{line}: no orders"))
    }

    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn deadline(&self) -> Option<u64> {
        None
    }

    fn tick(&mut self) {}

    fn runnable(&self) -> bool {
        self.left > 0
    }

    fn step(&mut self) -> bool {
        let runs = self.runnable();
        self.left = self.left.saturating_sub(1);
        self.ended += u32::from(runs && self.left == 0);
        runs
    }

    fn machine_reset(&mut self) {}

    fn function_reset(&mut self) {}
}

#[test]
fn any_machine_runs() {
    for mode in [Mode::Sync, Mode::Threaded] {
        let stepper = Stepper {
            left: 0,
            ended: 0,
            clock: RealClock::new(),
        };
        let engine = Engine::start(stepper, mode).unwrap();
        engine.write32(0, 1000);
        let start = Instant::now();
        while engine.read32(0) == 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "timeout");
            thread::yield_now();
        }
        assert!(engine.with(|gpu| gpu.answer("stats")).is_err());
    }
}
