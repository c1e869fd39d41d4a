// SPDX-License-Identifier: GPL-2.0

//! Tests of delayed, lost and stuck operations as on silicon: stores, commands of address spaces,
//! power, interrupts.

use super::*;
use crate::control;
use crate::control::Opcode;
use crate::control::Stat;
use crate::control::POWER_ALL;
use crate::control::POWER_DOMAIN;
use crate::product::G52;
use crate::product::G57;
use crate::product::T628;
use crate::product::T860;
use crate::testing::Bench;
use crate::testing::Tables;
use crate::testing::VA;

const STATUS: u32 = regs::AS_BASE + regs::AS_STATUS;
/// `READY` and `PWRTRANS` of the shader cores.
const SHADER_READY: u32 = 0x140;
const SHADER_TRANS: u32 = 0x200;

/// Creates a GPU with the habits of silicon.
fn silicon(product: &'static Product) -> Bench {
    let mut b = Bench::cold(product, Board::new(false));
    b.gpu = b.gpu.with_silicon_habits();
    Tables::new(&b.ram, Bench::ROOT).map(VA, Bench::PA, 0x10_0000);
    b
}

/// Starts a chain of two jobs, the first of which stores zero to the second page of [`VA`], and
/// lets the first one complete.
fn storing(b: &mut Bench) {
    b.ram.put64(Bench::PA + 0x1000, u64::MAX);
    b.zero_job(0, VA + 0x1000, Some(0x40));
    b.zero_job_with(0x40, VA + 0x2000, None, |job| job.barrier = true);
    b.order(Opcode::SlowJobs, [1000, 0, 0]);
    b.submit(1, VA, 0);
    b.pass(10);
    b.pass(1000);
    assert_eq!((b.status(0), b.status(0x40)), (1, 0));
    assert_eq!(b.ram.get64(Bench::PA + 0x1000), u64::MAX);
    assert_eq!(b.stat(Stat::HeldStores), 2);
}

fn unmap(b: &Bench, va: u64) {
    let mut table = Bench::ROOT;
    for shift in [39, 30, 21] {
        table = b.ram.get64(table + (va >> shift & 0x1ff) * 8) & !0xfff;
    }
    b.ram.put64(table + (va >> 12 & 0x1ff) * 8, 0);
}

/// Locks the region and flushes it.
fn flush(b: &mut Bench, region: u64, how: u32) {
    let lock = regs::AS_BASE + regs::AS_LOCKADDR;
    b.gpu.write32(lock, region as u32);
    b.gpu.write32(lock + 4, (region >> 32) as u32);
    b.as_command(0, regs::AS_COMMAND_LOCK);
    b.pass(50);
    b.as_command(0, how);
    b.pass(50);
    assert_eq!(b.gpu.read32(STATUS), 0);
}

#[test]
fn the_end_of_a_job_writes_its_stores_out() {
    let mut b = Bench::new(&G52);
    storing(&mut b);
    b.settle();
    assert_eq!(b.take_job_irqs(), 2);
    assert_eq!(b.ram.get64(Bench::PA + 0x1000), 0);
    assert_eq!(b.stat(Stat::HeldStores), 0);
    assert_eq!((b.stat(Stat::LateStores), b.stat(Stat::LostStores)), (0, 0));
}

#[test]
fn a_job_that_asks_for_no_flush_leaves_its_stores() {
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    b.slot(1, regs::JS_HEAD_NEXT, VA as u32);
    b.slot(1, regs::JS_AFFINITY_NEXT, 1);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_START);
    b.settle();
    assert_eq!(b.take_job_irqs(), 2);
    assert_eq!((b.status(0), b.ram.get32(Bench::PA)), (1, 0));
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_CLEAN_CACHES);
    assert_eq!(b.ram.get32(Bench::PA), 0);
    b.settle();
    assert_eq!(b.ram.get32(Bench::PA), 1);
}

#[test]
fn a_chain_that_starts_without_a_flush_is_a_violation() {
    for (flush, violations) in [(0, 1), (1, 1), (3, 0)] {
        let mut b = Bench::new(&G52);
        b.null_job(0, None);
        b.slot(1, regs::JS_HEAD_NEXT, VA as u32);
        b.slot(1, regs::JS_AFFINITY_NEXT, 1);
        b.slot(1, regs::JS_CONFIG_NEXT, flush << 8);
        b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_START);
        b.settle();
        assert_eq!(b.stat(Stat::Violations), violations);
    }
}

#[test]
fn a_page_that_is_taken_away_with_flush_pt_has_a_late_store() {
    let mut b = Bench::new(&G52);
    storing(&mut b);
    unmap(&b, VA + 0x1000);
    flush(&mut b, VA | 14, regs::AS_COMMAND_FLUSH_PT);
    assert_eq!(b.stat(Stat::LateStores), 0);
    assert_eq!(b.ram.get64(Bench::PA + 0x1000), u64::MAX);
    b.settle();
    assert_eq!(b.take_job_irqs(), 2);
    assert_eq!(b.stat(Stat::LateStores), 1);
    assert_eq!(b.ram.get64(Bench::PA + 0x1000), 0);
}

#[test]
fn a_page_that_is_taken_away_with_flush_mem_has_none() {
    let mut b = Bench::new(&G52);
    storing(&mut b);
    unmap(&b, VA + 0x1000);
    flush(&mut b, VA | 14, regs::AS_COMMAND_FLUSH_MEM);
    assert_eq!(b.ram.get64(Bench::PA + 0x1000), 0);
    b.settle();
    assert_eq!(b.stat(Stat::LateStores), 0);
    assert_eq!(b.stat(Stat::Violations), 0);
}

#[test]
fn a_flush_without_a_lock_is_a_violation() {
    let mut b = Bench::new(&G52);
    b.as_command(0, regs::AS_COMMAND_FLUSH_PT);
    b.settle();
    assert_eq!(b.stat(Stat::AsUnlockedFlushes), 1);
    assert_eq!(b.stat(Stat::Violations), 1);
}

#[test]
fn a_reset_loses_stores_on_silicon() {
    for (mut b, lost) in [(Bench::new(&G52), 0), (Bench::silicon(&G52), 2)] {
        storing(&mut b);
        b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
        b.settle();
        assert_eq!(b.stat(Stat::LostStores), lost);
        assert_eq!(b.ram.get64(Bench::PA + 0x1000) == 0, lost == 0);
        assert_eq!(b.stat(Stat::Violations), 0);
    }
}

#[test]
fn power_is_not_to_be_cut_with_stores_in_the_l2() {
    for off in [POWER_ALL & !POWER_DOMAIN, 0] {
        let mut b = Bench::new(&G52);
        storing(&mut b);
        b.gpu.control_write32(control::POWER, off);
        assert_eq!(b.stat(Stat::PowerCuts), 1);
        assert_eq!(b.stat(Stat::Violations), 1);
        assert_eq!(b.stat(Stat::LostStores), 2);
    }
    // Without a store it is not a violation, and after the L2 is down it is not counted at all.
    let mut b = Bench::new(&G52);
    b.gpu.control_write32(control::POWER, 0);
    assert_eq!((b.stat(Stat::PowerCuts), b.stat(Stat::Violations)), (1, 0));
    let mut b = Bench::new(&G52);
    for off in [0x1c0, 0x1d0, 0x1e0] {
        b.gpu.write32(off, !0);
        b.settle();
    }
    b.gpu.control_write32(control::POWER, 0);
    assert_eq!(b.stat(Stat::PowerCuts), 0);
}

#[test]
fn an_l2_that_goes_down_writes_out_what_it_has() {
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    b.slot(1, regs::JS_HEAD_NEXT, VA as u32);
    b.slot(1, regs::JS_AFFINITY_NEXT, 1);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_START);
    b.settle();
    assert_eq!(b.stat(Stat::HeldStores), 1);
    for off in [0x1c0, 0x1d0, 0x1e0] {
        b.gpu.write32(off, !0);
        b.settle();
    }
    assert_eq!(b.ram.get32(Bench::PA), 1);
    assert_eq!(b.stat(Stat::LostStores), 0);
}

#[test]
fn the_flush_id_begins_anew_with_power() {
    let mut b = Bench::new(&G52);
    flush(&mut b, VA | 14, regs::AS_COMMAND_FLUSH_MEM);
    assert_ne!(b.gpu.read32(regs::GPU_LATEST_FLUSH_ID), 0);
    b.gpu.control_write32(control::POWER, 0);
    b.gpu.control_write32(control::POWER, POWER_ALL);
    assert_eq!(b.gpu.read32(regs::GPU_LATEST_FLUSH_ID), 0);
}

#[test]
fn midgard_lacks_registers_of_bifrost() {
    for product in [&T628, &T860] {
        let mut b = Bench::new(product);
        flush(&mut b, VA | 14, regs::AS_COMMAND_FLUSH_MEM);
        assert_eq!(b.gpu.read32(regs::GPU_LATEST_FLUSH_ID), 0);
        assert_eq!(b.gpu.read32(regs::GPU_COHERENCY_FEATURES), 0);
    }
}

#[test]
fn silicon_commands_wait_for_stores_under_way() {
    let mut b = silicon(&G52);
    b.set_up();
    let clock = b.gpu.timing.as_command / 1000;
    storing(&mut b);
    b.as_command(0, regs::AS_COMMAND_LOCK);
    b.pass(clock);
    assert_eq!(b.gpu.read32(STATUS), 1);
    b.pass(10);
    assert_eq!(b.gpu.read32(STATUS), 0);
}

#[test]
fn silicon_flushes_need_an_l2_that_is_up() {
    let mut b = silicon(&G52);
    b.as_command(0, regs::AS_COMMAND_LOCK);
    b.pass(1000);
    assert_eq!(b.gpu.read32(STATUS), 0);
    b.as_command(0, regs::AS_COMMAND_FLUSH_PT);
    b.pass(1_000_000);
    assert_eq!(b.gpu.read32(STATUS), 1);
    b.gpu.write32(0x1a0, 1);
    b.settle();
    assert_eq!(b.gpu.read32(STATUS), 0);
}

#[test]
fn silicon_cores_come_up_one_by_one() {
    let mut b = silicon(&T860);
    b.gpu.write32(0x1a0, 1);
    b.pass(1_200);
    b.gpu.write32(0x180, 0xf);
    for ready in [0x0, 0x1, 0x3, 0x7] {
        assert_eq!(b.gpu.read32(SHADER_READY), ready);
        assert_eq!(b.gpu.read32(SHADER_TRANS), 0xf & !ready);
        b.pass(1_200);
    }
    assert_eq!(b.gpu.read32(SHADER_READY), 0xf);
    b.gpu.write32(0x1c0, 0xf);
    b.pass(300);
    assert_eq!(b.gpu.read32(SHADER_TRANS), 0);
}

#[test]
fn silicon_forgets_the_gpu_mask_at_a_reset() {
    let mut b = silicon(&G52);
    b.gpu.write32(regs::GPU_INT_MASK, !0);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    b.settle();
    assert_eq!(b.gpu.read32(regs::GPU_INT_MASK), 0);
    assert_eq!(b.lines.take(Vector::Gpu), 0);
    assert_eq!(
        b.gpu.read32(regs::GPU_INT_RAWSTAT),
        regs::GPU_IRQ_RESET_COMPLETED
    );
}

#[test]
fn one_transition_can_be_slow() {
    let mut b = Bench::cold(&G52, Board::new(false));
    b.order(Opcode::DelayPowerOnce, [3000, 0, 0]);
    b.gpu.write32(0x1a0, 1);
    b.pass(2999);
    assert_eq!(b.gpu.read32(0x160), 0);
    b.pass(1);
    assert_eq!(b.gpu.read32(0x160), 1);
    b.gpu.write32(0x180, 1);
    b.pass(10);
    assert_eq!(b.gpu.read32(SHADER_READY), 1);
}

#[test]
fn cores_can_be_stuck() {
    let mut b = Bench::cold(&T860, Board::new(false));
    b.order(Opcode::NeverUp, [2, 0x4, 0]);
    b.gpu.write32(0x1a0, 1);
    b.gpu.write32(0x180, 0xf);
    b.settle();
    assert_eq!(b.gpu.read32(SHADER_READY), 0xb);
    assert_eq!(b.gpu.read32(SHADER_TRANS), 0x4);
    // A reset clears the transition, but not the order.
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    b.settle();
    b.gpu.write32(0x1a0, 1);
    b.gpu.write32(0x180, 0xf);
    b.settle();
    assert_eq!(b.gpu.read32(SHADER_READY), 0xb);
    b.order(Opcode::NeverUp, [2, 0, 0]);
    b.settle();
    assert_eq!(b.gpu.read32(SHADER_READY), 0xf);

    b.order(Opcode::NeverDown, [2, 0x1, 0]);
    b.gpu.write32(0x1c0, 0xf);
    b.settle();
    assert_eq!(b.gpu.read32(SHADER_READY), 0);
    assert_eq!(b.gpu.read32(SHADER_TRANS), 0x1);
    b.order(Opcode::ClearAll, [0; 3]);
    assert_eq!(b.gpu.read32(SHADER_TRANS), 0);
    assert_eq!(
        b.gpu.order((Opcode::NeverUp, [4, 1, 0, 0])),
        Err(control::EINVAL)
    );
}

#[test]
fn an_interrupt_can_be_stuck_until_a_reset() {
    let mut b = Bench::new(&G52);
    b.order(Opcode::StickIrq, [2, regs::GPU_IRQ_FAULT, 0]);
    assert_eq!(b.lines.take(Vector::Gpu), 1);
    b.gpu.write32(regs::GPU_INT_CLEAR, !0);
    assert_eq!(b.gpu.read32(regs::GPU_INT_RAWSTAT), regs::GPU_IRQ_FAULT);
    // The interrupt storms, as a level does.
    assert_eq!(b.lines.take(Vector::Gpu), 1);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    assert_eq!(b.gpu.read32(regs::GPU_INT_RAWSTAT), 0);
    b.order(Opcode::StickIrq, [2, regs::GPU_IRQ_FAULT, 0]);
    b.order(Opcode::ClearAll, [0; 3]);
    b.gpu.write32(regs::GPU_INT_CLEAR, !0);
    assert_eq!(b.gpu.read32(regs::GPU_INT_RAWSTAT) & regs::GPU_IRQ_FAULT, 0);
}

#[test]
fn a_message_can_be_late() {
    let mut b = Bench::new(&G52);
    b.order(Opcode::LateIrq, [1, 5000, 0]);
    b.submit(1, 0x7000_0000, 0);
    b.steps(100);
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 1);
    b.pass(4999);
    assert_eq!(b.lines.take(Vector::Mmu), 0);
    b.pass(1);
    assert_eq!(b.lines.take(Vector::Mmu), 1);
    assert_eq!(b.stat(Stat::MmuIrqs), 1);
}

#[test]
fn a_job_runs_on_those_of_its_cores_that_are_up() {
    let mut b = Bench::new(&T628);
    for off in [0x1c0, 0x1e0] {
        b.gpu.write32(off, 0x30);
        b.settle();
    }
    // The second group's L2 waits for all cores here.
    assert_eq!(b.gpu.read32(SHADER_READY), 0xf);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), 2);
    b.null_job(0, None);
    b.slot(1, regs::JS_HEAD_NEXT, VA as u32);
    b.slot(1, regs::JS_AFFINITY_NEXT, 0x30);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_START);
    b.pass(1_000_000);
    assert_eq!(b.take_job_irqs(), 0);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), 8);
}

#[test]
fn chains_cannot_be_told_apart_everywhere() {
    let flag = regs::JS_CONFIG_JOB_CHAIN_FLAG;
    for (product, apart) in [(&G57, true), (&T628, false)] {
        let mut b = Bench::new(product);
        let head = b.endless(0);
        b.submit(1, head, flag);
        b.steps(4);
        assert_eq!(b.slot_reg(1, regs::JS_CONFIG) & flag != 0, apart);
        b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP_1);
        b.steps(4);
        assert_eq!(b.take_job_irqs() != 0, apart);
        b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
        b.steps(4);
        assert_eq!(b.take_job_irqs() != 0, !apart);
    }
}

#[test]
fn a_wedged_gpu_needs_its_power_cut() {
    for b in [&mut silicon(&G52), &mut Bench::new(&G52)] {
        let completed = |b: &mut Bench| {
            b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
            b.pass(100_000);
            b.gpu.read32(regs::GPU_INT_RAWSTAT) & regs::GPU_IRQ_RESET_COMPLETED != 0
        };
        let starts = |b: &mut Bench| {
            b.gpu.write32(0x1a0, 1);
            b.pass(100_000);
            b.gpu.read32(0x160) == 1
        };

        b.order(Opcode::Wedge, [1, 0, 0]);
        assert!(!completed(b));
        b.gpu.control_write32(control::RESET_LINE, 1);
        b.gpu.control_write32(control::RESET_LINE, 0);
        assert!(!completed(b));
        assert!(!starts(b));
        b.gpu.control_write32(control::RESET_LINE, 1);
        b.gpu
            .control_write32(control::POWER, POWER_ALL & !POWER_DOMAIN);
        b.gpu.control_write32(control::POWER, POWER_ALL);
        b.gpu.control_write32(control::RESET_LINE, 0);
        assert!(completed(b));
        assert!(starts(b));
        assert_eq!(b.stat(Stat::Violations), 0);
        assert_eq!(b.stat(Stat::PowerCuts), 0);
    }
}
