// SPDX-License-Identifier: GPL-2.0

//! Tests of identity, power, reset, counters and the board.

use super::*;
use crate::control;
use crate::control::Opcode;
use crate::control::Stat;
use crate::control::NEVER;
use crate::host::VirtualClock;
use crate::product::G52;
use crate::product::G57;
use crate::product::PRODUCTS;
use crate::product::T628;
use crate::product::T720;
use crate::product::T860;
use crate::testing::Bench;
use crate::testing::Tables;
use crate::testing::VA;

fn cold() -> Bench {
    Bench::cold(&G52, Board::new(false))
}

fn raw(bench: &mut Bench) -> u32 {
    bench.gpu.read32(regs::GPU_INT_RAWSTAT)
}

#[test]
fn identity() {
    for product in PRODUCTS {
        let mut gpu = Bench::cold(product, Board::new(false)).gpu;
        assert_eq!(gpu.read32(regs::GPU_ID), product.gpu_id());
        assert_eq!(gpu.read32(regs::GPU_AS_PRESENT), product.as_present);
        assert_eq!(gpu.read32(regs::GPU_JS_PRESENT), 7);
        assert_eq!(
            u64::from(gpu.read32(regs::SHADER_PRESENT)),
            product.shader_present
        );
        assert_eq!(gpu.read32(regs::SHADER_PRESENT + 4), 0);
        assert_eq!(u64::from(gpu.read32(regs::L2_PRESENT)), product.l2_present);
        assert_eq!(gpu.read32(regs::TILER_PRESENT), 1);
        assert_ne!(gpu.read32(regs::GPU_AFBC_FEATURES), 0);
        assert_eq!(gpu.read32(regs::GPU_TEXTURE_FEATURES + 8), 0x9f81_ffff);
        assert_eq!(gpu.read32(regs::GPU_JS_FEATURES + 8), 0x7e);
        assert_eq!(gpu.read32(regs::GPU_JS_FEATURES + 12), 0);
        assert_eq!(gpu.read32(0x8000), 0);
    }
    assert_eq!(G52.gpu_id(), 0x7402_1000);
    assert_eq!(T860.gpu_id(), 0x0860_2000);
    assert_eq!(T720.gpu_id(), 0x0720_1010);
    assert_eq!(T628.gpu_id(), 0x0620_0010);
    assert_eq!((T628.va_bits(), T628.pa_bits()), (48, 40));
    assert_eq!((T720.va_bits(), T720.pa_bits()), (33, 40));
    assert_eq!(G57.gpu_id(), 0x9093_0000);
}

#[test]
fn power_up_takes_time_and_says_when_done() {
    let mut b = cold();
    b.gpu
        .write32(regs::GPU_INT_MASK, regs::GPU_IRQ_POWER_CHANGED_ALL);
    b.gpu.write32(0x1a0, 1);
    assert_eq!(b.gpu.read32(0x160), 0);
    assert_eq!(b.gpu.read32(0x220), 1);
    assert_eq!(b.gpu.read32(regs::GPU_STATUS), regs::GPU_STATUS_PWR_ACTIVE);
    b.pass(10);
    assert_eq!(b.gpu.read32(0x160), 1);
    assert_eq!(b.gpu.read32(0x220), 0);
    assert_eq!(
        raw(&mut b),
        regs::GPU_IRQ_POWER_CHANGED | regs::GPU_IRQ_POWER_CHANGED_ALL
    );
    assert_eq!(b.lines.take(Vector::Gpu), 1);
    b.gpu.write32(0x1e0, 1);
    assert_eq!(b.gpu.read32(0x160), 0);
    assert_eq!(b.gpu.read32(0x220), 1);
    b.settle();
    assert_eq!(b.gpu.read32(0x220), 0);
    assert_eq!(b.stat(Stat::PowerTransitions), 2);
}

#[test]
fn soft_reset_forgets_and_completes() {
    let mut b = Bench::new(&G52);
    b.gpu
        .write32(regs::GPU_INT_MASK, regs::GPU_IRQ_RESET_COMPLETED);
    b.gpu.write32(regs::GPU_SHADER_CONFIG, 0x1234);
    assert_eq!(b.gpu.read32(regs::GPU_SHADER_CONFIG), 0x1234);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    assert_eq!(raw(&mut b), 0);
    assert_eq!(b.gpu.read32(regs::GPU_SHADER_CONFIG), 0);
    assert_eq!(b.gpu.read32(0x160), 0);
    assert_eq!(b.gpu.read32(regs::JOB_INT_MASK), 0);
    assert_eq!(b.gpu.read32(regs::MMU_INT_MASK), 0);
    assert_eq!(b.gpu.read32(regs::AS_BASE), 0);
    b.pass(19);
    assert_eq!(raw(&mut b), 0);
    b.pass(1);
    assert_eq!(raw(&mut b), regs::GPU_IRQ_RESET_COMPLETED);
    assert_eq!(b.lines.take(Vector::Gpu), 1);
    assert_eq!(b.stat(Stat::SoftResets), 1);
    b.set_up();
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.status(0), 1);
}

#[test]
fn a_hard_reset_beats_a_soft_one_that_does_not_end() {
    let mut b = cold();
    b.order(Opcode::DelayReset, [NEVER, 1, 0]);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    b.pass(10_000_000);
    assert_eq!(raw(&mut b), 0);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_HARD_RESET);
    b.pass(20);
    assert_eq!(raw(&mut b), regs::GPU_IRQ_RESET_COMPLETED);
    assert_eq!(b.stat(Stat::HardResets), 1);
}

#[test]
fn resets_can_be_delayed_and_stuck() {
    let mut b = cold();
    b.order(Opcode::DelayReset, [5000, 0, 0]);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    b.pass(4999);
    assert_eq!(raw(&mut b), 0);
    b.pass(1);
    assert_eq!(raw(&mut b), regs::GPU_IRQ_RESET_COMPLETED);
    b.order(Opcode::DelayReset, [NEVER, 0, 0]);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_HARD_RESET);
    b.gpu.write32(0x1a0, 1);
    b.pass(10_000_000);
    assert_eq!(raw(&mut b), 0);
    assert_eq!(b.gpu.read32(0x160), 0);
    b.order(Opcode::ClearAll, [0; 3]);
    assert_eq!(raw(&mut b), regs::GPU_IRQ_RESET_COMPLETED);
}

#[test]
fn power_can_be_delayed_and_stuck() {
    let mut b = cold();
    b.order(Opcode::DelayPower, [3000, 0, 0]);
    b.gpu.write32(0x1a0, 1);
    b.pass(2999);
    assert_eq!(b.gpu.read32(0x160), 0);
    b.pass(1);
    assert_eq!(b.gpu.read32(0x160), 1);
    b.order(Opcode::DelayPower, [NEVER, 0, 0]);
    b.gpu.write32(0x180, 1);
    b.pass(10_000_000);
    assert_eq!(b.gpu.read32(0x140), 0);
    assert_eq!(b.gpu.read32(0x200), 1);
    b.order(Opcode::DelayPower, [0; 3]);
    assert_eq!(b.gpu.read32(0x140), 1);
}

#[test]
fn counters_run_only_when_started() {
    let mut b = cold();
    let cycles = |b: &mut Bench| {
        u64::from(b.gpu.read32(regs::GPU_CYCLE_COUNT_HI)) << 32
            | u64::from(b.gpu.read32(regs::GPU_CYCLE_COUNT_LO))
    };
    b.pass(1000);
    assert_eq!(cycles(&mut b), 0);
    b.gpu
        .write32(regs::GPU_CMD, regs::GPU_CMD_CYCLE_COUNT_START);
    b.pass(1000);
    assert_eq!(cycles(&mut b), 500_000);
    assert_eq!(b.gpu.read32(regs::GPU_TIMESTAMP_LO), 2_000_000);
    b.gpu.control_write32(control::FREQ_KHZ, 1_000_000);
    b.pass(1000);
    assert_eq!(cycles(&mut b), 1_500_000);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_CYCLE_COUNT_STOP);
    b.pass(1000);
    assert_eq!(cycles(&mut b), 1_500_000);
    assert_eq!(b.gpu.read32(regs::GPU_TIMESTAMP_LO), 3_000_000);
    b.gpu
        .write32(regs::GPU_CMD, regs::GPU_CMD_CYCLE_COUNT_START);
    b.pass(10_000_000);
    assert_eq!(cycles(&mut b), 10_001_500_000);
}

#[test]
fn cache_cleaning_ends_with_an_interrupt() {
    let mut b = cold();
    let flush = b.gpu.read32(regs::GPU_LATEST_FLUSH_ID);
    b.gpu
        .write32(regs::GPU_INT_MASK, regs::GPU_IRQ_CLEAN_CACHES_COMPLETED);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_CLEAN_INV_CACHES);
    assert_eq!(raw(&mut b), 0);
    b.settle();
    assert_eq!(raw(&mut b), regs::GPU_IRQ_CLEAN_CACHES_COMPLETED);
    assert_eq!(b.lines.take(Vector::Gpu), 1);
    assert_eq!(b.gpu.read32(regs::GPU_LATEST_FLUSH_ID), flush + 1);
}

#[test]
fn a_counter_sample_goes_to_memory() {
    let mut b = Bench::new(&T860);
    b.null_job(0, None);
    b.submit(0, VA, 1);
    b.settle();
    b.gpu.write32(regs::GPU_PRFCNT_JM_EN, 0x1111);
    b.gpu.write32(regs::GPU_PRFCNT_SHADER_EN, 0x2222);
    b.gpu.write32(regs::GPU_PERFCNT_BASE_LO, VA as u32 + 0x8000);
    b.gpu.write32(regs::GPU_PERFCNT_CFG, 0x11);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_PERFCNT_SAMPLE);
    assert_ne!(
        b.gpu.read32(regs::GPU_STATUS) & regs::GPU_STATUS_PRFCNT_ACTIVE,
        0
    );
    b.settle();
    assert_ne!(raw(&mut b) & regs::GPU_IRQ_PERFCNT_SAMPLE_COMPLETED, 0);
    // Like any store it is in memory once the caches are clean.
    assert_eq!(b.ram.get32(Bench::PA + 0x8008), 0);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_CLEAN_CACHES);
    b.settle();
    let block = |n: u64| Bench::PA + 0x8000 + n * 256;
    assert_eq!(b.ram.get32(block(0) + 8), 0x1111);
    assert_eq!(b.ram.get32(block(0) + 24), 1);
    for core in 0..4 {
        assert_eq!(b.ram.get32(block(3 + core) + 8), 0x2222);
    }
    assert_eq!(b.ram.get32(block(7) + 8), 0);
    b.gpu.write32(regs::GPU_PERFCNT_BASE_LO, 0x7000_0000);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_PERFCNT_SAMPLE);
    b.settle();
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 2);
}

#[test]
fn overrides_need_the_key() {
    let mut b = cold();
    b.gpu.write32(regs::GPU_PWR_OVERRIDE1, 5);
    assert_eq!(b.gpu.read32(regs::GPU_PWR_OVERRIDE1), 0);
    b.gpu.write32(regs::GPU_PWR_KEY, regs::GPU_PWR_KEY_UNLOCK);
    b.gpu.write32(regs::GPU_PWR_OVERRIDE1, 5);
    assert_eq!(b.gpu.read32(regs::GPU_PWR_OVERRIDE1), 5);
}

#[test]
fn the_board_feeds_the_gpu() {
    let mut b = Bench::cold(&G52, Board::new(true));
    let power = b.gpu.control_read32(control::POWER);
    assert_eq!(power, control::POWER_CONTROLLED);
    assert_eq!(b.gpu.control_read32(control::RESET_LINE), 1);
    assert_eq!(b.gpu.control_read32(control::MAGIC), control::MAGIC_VALUE);
    assert_eq!(b.gpu.control_read32(control::PRODUCT), 0x7402);
    b.gpu.control_write32(control::POWER, control::POWER_ALL);
    assert_eq!(b.gpu.read32(regs::GPU_ID), !0);
    b.gpu.write32(regs::GPU_INT_MASK, 1);
    assert_eq!(b.stat(Stat::Violations), 2);
    b.gpu.control_write32(control::RESET_LINE, 0);
    assert_eq!(b.gpu.read32(regs::GPU_ID), G52.gpu_id());
    assert_eq!(b.gpu.read32(regs::GPU_INT_MASK), 0);
    assert_eq!(b.stat(Stat::Violations), 2);
}

#[test]
fn without_clock_it_stands_still_without_power_it_forgets() {
    let mut b = Bench::new(&G52);
    let head = b.endless(0);
    b.submit(1, head, 0);
    b.steps(10);
    let done = b.stat(Stat::JobsDone);
    b.gpu
        .control_write32(control::POWER, control::POWER_ALL & !control::POWER_CLOCK);
    b.steps(10);
    assert_eq!(b.gpu.read32(regs::GPU_ID), !0);
    assert_eq!(b.stat(Stat::JobsDone), done);
    b.gpu.control_write32(control::POWER, control::POWER_ALL);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), 8);
    b.gpu.control_write32(
        control::POWER,
        control::POWER_ALL & !control::POWER_REGULATOR,
    );
    b.gpu.control_write32(control::POWER, control::POWER_ALL);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), 0);
    assert_eq!(b.gpu.read32(0x160), 0);
    assert_eq!(b.gpu.read32(regs::GPU_INT_MASK), 0);
}

#[test]
fn the_board_sees_whether_cores_are_on() {
    let mut b = Bench::new(&G52);
    assert_eq!(b.gpu.control_read32(control::CORES), 1);
    b.gpu.control_write32(control::RESET_LINE, 1);
    assert_eq!(b.gpu.control_read32(control::CORES), 0);
    assert_eq!(b.stat(Stat::Violations), 0);
}

#[test]
fn all_ones() {
    let mut b = Bench::new(&G52);
    let head = b.endless(0);
    b.submit(1, head, 0);
    b.steps(4);
    b.order(Opcode::AllOnes, [1, 0, 0]);
    assert_eq!(b.gpu.read32(regs::GPU_ID), !0);
    assert!(!b.gpu.step());
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_HARD_RESET);
    assert_eq!(b.stat(Stat::Violations), 0);
    b.order(Opcode::AllOnes, [0; 3]);
    assert_eq!(b.stat(Stat::HardResets), 0);
    assert_eq!(b.gpu.read32(regs::GPU_ID), G52.gpu_id());
    assert!(b.gpu.step());
}

#[test]
fn interrupts_can_be_lost_doubled_and_made_up() {
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    b.order(Opcode::LoseIrq, [0, 1, 0]);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.lines.take(Vector::Job), 0);
    assert_eq!(b.take_job_irqs(), 2);

    b.null_job(0, None);
    b.order(Opcode::DuplicateIrq, [0, 1, 0]);
    b.submit(1, VA, 0);
    b.steps(100);
    assert_eq!(b.lines.take(Vector::Job), 1);
    assert_eq!(b.take_job_irqs(), 2);
    b.settle();
    assert_eq!(b.lines.take(Vector::Job), 1);

    b.order(Opcode::SpuriousIrq, [0, 0x4, 0]);
    assert_eq!(b.lines.take(Vector::Job), 1);
    assert_eq!(b.take_job_irqs(), 4);
    assert_eq!(b.stat(Stat::JobIrqs), 3);
    b.order(Opcode::SpuriousIrq, [1, 1, 0]);
    assert_eq!(b.lines.take(Vector::Mmu), 1);
}

#[test]
fn an_as_command_can_stick() {
    let mut b = Bench::new(&G52);
    b.order(Opcode::StickAsCommand, [1, 0, 0]);
    b.as_command(0, regs::AS_COMMAND_FLUSH_PT);
    b.pass(1_000_000);
    assert_eq!(b.gpu.read32(regs::AS_BASE + regs::AS_STATUS), 1);
    b.as_command(0, regs::AS_COMMAND_UPDATE);
    assert_eq!(b.stat(Stat::AsLostCommands), 1);
    b.order(Opcode::StickAsCommand, [0; 3]);
    assert_eq!(b.gpu.read32(regs::AS_BASE + regs::AS_STATUS), 0);
    b.order(Opcode::StickAsCommand, [1, 0, 0]);
    b.as_command(0, regs::AS_COMMAND_FLUSH_PT);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    b.settle();
    assert_eq!(b.gpu.read32(regs::AS_BASE + regs::AS_STATUS), 0);
}

#[test]
fn an_as_command_takes_time() {
    let mut b = Bench::new(&G52);
    b.as_command(1, regs::AS_COMMAND_FLUSH_MEM);
    assert_eq!(
        b.gpu
            .read32(regs::AS_BASE + regs::AS_STRIDE + regs::AS_STATUS),
        1
    );
    b.pass(3);
    assert_eq!(
        b.gpu
            .read32(regs::AS_BASE + regs::AS_STRIDE + regs::AS_STATUS),
        0
    );
    assert_eq!(b.stat(Stat::AsFlushes), 1);
    assert_eq!(b.stat(Stat::AsUpdates), 2);
}

#[test]
fn orders_by_register() {
    let mut b = cold();
    b.gpu.control_write32(control::ARG0, 7);
    b.gpu
        .control_write32(control::INJECT, Opcode::HangNextJob as u32);
    assert_eq!(
        b.gpu.control_read32(control::INJECT_RESULT),
        control::EINVAL
    );
    b.gpu.control_write32(control::INJECT, 99);
    assert_eq!(
        b.gpu.control_read32(control::INJECT_RESULT),
        control::EINVAL
    );
    b.gpu.control_write32(control::ARG0, 1);
    b.gpu
        .control_write32(control::INJECT, Opcode::AllOnes as u32);
    assert_eq!(b.gpu.control_read32(control::INJECT_RESULT), 0);
    assert_eq!(b.gpu.read32(regs::GPU_ID), !0);
    for (opcode, args) in [
        (Opcode::LoseIrq, [3, 0, 0, 0]),
        (Opcode::AllOnes, [2, 0, 0, 0]),
        (Opcode::DelayReset, [0, 2, 0, 0]),
    ] {
        assert_eq!(b.gpu.order((opcode, args)), Err(control::EINVAL));
    }
}

#[test]
fn a_register_access_moves_the_virtual_clock() {
    let clock = Arc::new(VirtualClock::new(10_000));
    let bench = Bench::cold(&G52, Board::new(false));
    let mut gpu = Gpu::new(
        &G52,
        bench.ram.clone(),
        bench.lines.clone(),
        clock.clone(),
        Timing::USUAL,
        Board::new(false),
        None,
    );
    gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    assert_eq!(gpu.read32(regs::GPU_INT_RAWSTAT), 0);
    assert_ne!(gpu.read32(regs::GPU_INT_RAWSTAT), 0);
    assert_eq!(clock.now(), 30_000);
}

#[test]
fn a_reset_of_the_function() {
    let mut b = Bench::new(&G52);
    let head = b.endless(0);
    b.submit(1, head, 0);
    b.steps(3);
    b.gpu.function_reset();
    assert!(!b.gpu.runnable());
    assert_eq!(b.gpu.read32(regs::GPU_ID), G52.gpu_id());
    assert_eq!(b.gpu.read32(0x160), 0);
}

#[test]
fn tables_survive_nothing() {
    // A TLB entry does not outlive a reset.
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.settle();
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    b.settle();
    Tables::new(&b.ram, 0x8_0000).map(VA, 0x20_0000, 0x1000);
    b.ram.put64(Bench::ROOT, b.ram.get64(0x8_0000));
    b.set_up();
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), 0x2_0000);
}
