// SPDX-License-Identifier: GPL-2.0

//! Tests of job slots: chains, stops, faults, ordered failures.

use crate::control::Stat;
use crate::irq::Vector;
use crate::product::G52;
use crate::product::T860;
use crate::regs;
use crate::testing::Bench;
use crate::testing::Tables;
use crate::testing::VA;

pub(super) const DONE: u32 = 0x01;
pub(super) const STOPPED: u32 = 0x03;
pub(super) const TERMINATED: u32 = 0x04;
pub(super) const ACTIVE: u32 = 0x08;
pub(super) const BUS_FAULT: u32 = 0x48;
pub(super) const FLAG: u32 = regs::JS_CONFIG_JOB_CHAIN_FLAG;

pub(super) fn done(n: u32) -> u32 {
    1 << n
}

pub(super) fn failed(n: u32) -> u32 {
    1 << (n + 16)
}

pub(super) fn js_state(b: &mut Bench) -> u32 {
    b.gpu.read32(regs::JOB_INT_JS_STATE)
}

pub(super) fn space_reg(b: &mut Bench, n: u32, reg: u32) -> u32 {
    b.gpu.read32(regs::AS_BASE + n * regs::AS_STRIDE + reg)
}

#[test]
fn a_null_job() {
    for product in crate::product::PRODUCTS {
        let mut b = Bench::new(product);
        for n in 0..3 {
            b.null_job(0, None);
            b.submit(n, VA, 0);
            assert_eq!(b.slot_reg(n, regs::JS_STATUS), ACTIVE);
            assert_eq!(b.slot_reg(n, regs::JS_COMMAND_NEXT), 0);
            b.settle();
            assert_eq!(b.status(0), 1);
            assert_eq!(b.slot_reg(n, regs::JS_STATUS), DONE);
            assert_eq!(b.lines.take(Vector::Job), 1);
            assert_eq!(b.take_job_irqs(), done(n));
            assert_eq!(js_state(&mut b), 0);
        }
        assert_eq!(b.stat(Stat::JobsDone), 3);
        assert_eq!(b.stat(Stat::ChainsDone), 3);
    }
}

#[test]
fn the_next_chain_starts_by_itself() {
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    let second = b.endless(0x1000);
    b.submit(1, VA, 0);
    b.submit(1, second, FLAG | 1);
    assert_eq!(b.slot_reg(1, regs::JS_COMMAND_NEXT), 1);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD), VA as u32);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), second as u32);
    b.steps(11);
    assert_eq!(b.slot_reg(1, regs::JS_COMMAND_NEXT), 0);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), 0);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD), second as u32);
    let config = FLAG | regs::JS_CONFIG_START_FLUSH | regs::JS_CONFIG_END_FLUSH | 1;
    assert_eq!(b.slot_reg(1, regs::JS_CONFIG), config);
    assert_eq!(b.take_job_irqs(), done(1));
    assert_eq!(js_state(&mut b), 0x2);
}

#[test]
fn the_head_moves_with_the_chain() {
    let mut b = Bench::new(&G52);
    for n in 0..3 {
        b.null_job(64 * n, (n < 2).then_some(64 * n + 64));
    }
    b.submit(1, VA, 0);
    for head in [0, 0x40, 0x80, 0x80] {
        let head = VA as u32 + head;
        assert_eq!(b.slot_reg(1, regs::JS_HEAD), head);
        assert_eq!(b.slot_reg(1, regs::JS_TAIL), head);
        b.steps(1);
    }
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), DONE);
}

#[test]
fn js_state_is_a_snapshot() {
    let mut b = Bench::new(&G52);
    let head = b.endless(0);
    b.submit(1, head, 0);
    b.submit(1, head, FLAG);
    assert_eq!(js_state(&mut b), 0);
    b.gpu.write32(regs::JOB_INT_CLEAR, done(0));
    assert_eq!(js_state(&mut b), 0);
    b.gpu.write32(regs::JOB_INT_CLEAR, done(1));
    assert_eq!(js_state(&mut b), 0x2_0002);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_NOP);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    assert_eq!(js_state(&mut b), 0x2_0002);
    b.take_job_irqs();
    assert_eq!(js_state(&mut b), 0);
}

#[test]
fn slots_take_turns() {
    let mut b = Bench::new(&G52);
    let (one, two) = (b.endless(0x1000), b.endless(0x2000));
    b.submit(0, one, 0);
    b.submit(2, two, 1);
    b.steps(100);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.steps(6);
    assert_eq!(b.take_job_irqs(), done(1));
    assert_eq!(b.slot_reg(0, regs::JS_STATUS), ACTIVE);
    assert_eq!(b.slot_reg(2, regs::JS_STATUS), ACTIVE);
}

#[test]
fn soft_stop_and_resume() {
    let mut b = Bench::new(&G52);
    b.null_job(0, Some(0x40));
    b.null_job(0x40, Some(0x80));
    b.null_job(0x80, None);
    b.submit(1, VA, 0);
    b.steps(1);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
    b.settle();
    assert_eq!(b.take_job_irqs(), failed(1));
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), STOPPED);
    let tail = b.slot_reg(1, regs::JS_TAIL);
    assert_eq!(tail, VA as u32 + 0x40);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD), tail);
    assert_eq!((b.status(0), b.status(0x40)), (1, 0));
    b.submit(1, u64::from(tail), 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
    assert_eq!((b.status(0x40), b.status(0x80)), (1, 1));
    assert_eq!(b.stat(Stat::SoftStops), 1);
    assert_eq!(b.stat(Stat::ChainsFailed), 0);
}

#[test]
fn hard_stop_writes_nothing() {
    let mut b = Bench::new(&G52);
    let head = b.endless(0);
    b.submit(0, head, 0);
    b.steps(3);
    let before = (b.status(0), b.status(64));
    b.slot(0, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    b.settle();
    assert_eq!(b.take_job_irqs(), failed(0));
    assert_eq!(b.slot_reg(0, regs::JS_STATUS), TERMINATED);
    assert_eq!((b.status(0), b.status(64)), before);
    // Nothing runs, so a stop has no effect.
    b.slot(0, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    assert_eq!(b.take_job_irqs(), 0);
    assert_eq!(b.stat(Stat::HardStops), 1);
}

#[test]
fn stops_that_ask_for_the_chain() {
    let mut b = Bench::new(&G52);
    for (flag, misses, hits, status) in [
        (
            0,
            regs::JS_COMMAND_HARD_STOP_1,
            regs::JS_COMMAND_HARD_STOP_0,
            TERMINATED,
        ),
        (
            FLAG,
            regs::JS_COMMAND_HARD_STOP_0,
            regs::JS_COMMAND_HARD_STOP_1,
            TERMINATED,
        ),
        (
            0,
            regs::JS_COMMAND_SOFT_STOP_1,
            regs::JS_COMMAND_SOFT_STOP_0,
            STOPPED,
        ),
        (
            FLAG,
            regs::JS_COMMAND_SOFT_STOP_0,
            regs::JS_COMMAND_SOFT_STOP_1,
            STOPPED,
        ),
    ] {
        let head = b.endless(0);
        b.submit(1, head, flag);
        b.slot(1, regs::JS_COMMAND, misses);
        b.steps(5);
        assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
        b.slot(1, regs::JS_COMMAND, hits);
        b.steps(5);
        assert_eq!(b.slot_reg(1, regs::JS_STATUS), status);
        assert_eq!(b.take_job_irqs(), failed(1));
    }
}

#[test]
fn after_a_failure_the_next_chain_waits_for_the_clear() {
    let mut b = Bench::new(&G52);
    let head = b.endless(0);
    b.null_job(0x1000, None);
    b.submit(1, head, 0);
    b.submit(1, VA + 0x1000, FLAG);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP_0);
    b.settle();
    assert_eq!(b.slot_reg(1, regs::JS_COMMAND_NEXT), 1);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), TERMINATED);
    assert_eq!(b.take_job_irqs(), failed(1));
    assert_eq!(js_state(&mut b), 0x2);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
}

#[test]
fn a_next_chain_can_be_cancelled() {
    let mut b = Bench::new(&G52);
    let head = b.endless(0);
    b.null_job(0x1000, None);
    b.submit(1, head, 0);
    b.submit(1, VA + 0x1000, FLAG);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_NOP);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    b.take_job_irqs();
    b.settle();
    assert_eq!(b.status(0x1000), 0);
    // The registers are still there.
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), VA as u32 + 0x1000);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_START);
    b.settle();
    assert_eq!(b.status(0x1000), 1);
}

#[test]
fn no_job_without_power() {
    let mut b = Bench::new(&T860);
    b.gpu.write32(0x1c0, !0);
    b.settle();
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.gpu.write32(0x180, 1);
    b.settle();
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), DONE);
}

#[test]
fn cores_stay_on_while_a_job_runs() {
    let mut b = Bench::new(&G52);
    let head = b.endless(0);
    b.submit(1, head, 0);
    b.gpu.write32(0x1c0, !0);
    b.pass(100);
    assert_eq!(b.gpu.read32(0x140), 1);
    assert_eq!(b.gpu.read32(0x200), 1);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    b.settle();
    assert_eq!(b.gpu.read32(0x140), 0);
    assert_eq!(b.gpu.read32(0x200), 0);
}

#[test]
fn configurations_that_cannot_run() {
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    b.submit(1, VA, 9);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), 0x40);
    assert_eq!(b.take_job_irqs(), failed(1));
    b.slot(1, regs::JS_CONFIG_NEXT, 0);
    b.slot(1, regs::JS_AFFINITY_NEXT, 2);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_START);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), 0x44);
    assert_eq!(b.take_job_irqs(), failed(1));
    // An address space that was never enabled.
    b.submit(1, VA, 5);
    b.settle();
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), BUS_FAULT);
    assert_eq!(b.status(0), 0);
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 0);
}

#[test]
fn a_fault_parks_until_the_page_is_there() {
    let mut b = Bench::new(&G52);
    let target = VA + 0x200_0008;
    b.zero_job(0, target, None);
    b.submit(1, VA, 1);
    b.settle();
    assert_eq!(b.lines.take(Vector::Mmu), 1);
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 2);
    let status = space_reg(&mut b, 1, regs::AS_FAULTSTATUS);
    assert_eq!(status & 0x3ff, 0x3c2);
    assert_eq!(space_reg(&mut b, 1, regs::AS_FAULTADDRESS), target as u32);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.gpu.write32(regs::MMU_INT_CLEAR, 2);
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 0);
    Tables::new(&b.ram, 0x8_0000).map(VA + 0x200_0000, 0x20_0000, 0x20_0000);
    // Add to the existing tables, within the same 1 GiB.
    let l2 = b.ram.get64(b.ram.get64(0x8_0000) & !0xfff) & !0xfff;
    let ours = b.ram.get64(b.ram.get64(Bench::ROOT) & !0xfff) & !0xfff;
    let index = ((VA + 0x200_0000) >> 21 & 0x1ff) * 8;
    b.ram.put64(ours + index, b.ram.get64(l2 + index));
    b.ram.put64(0x20_0008, !0);
    b.settle();
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.as_command(1, regs::AS_COMMAND_LOCK);
    b.settle();
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.as_command(1, regs::AS_COMMAND_FLUSH_PT);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
    assert_eq!(b.ram.get64(0x20_0008), 0);
    assert_eq!(b.status(0), 1);
    assert_eq!(b.stat(Stat::MmuFaults), 1);
}

#[test]
fn disabling_the_address_space_kills_the_job() {
    let mut b = Bench::new(&G52);
    b.zero_job(0, 0xdead_beef_0000, None);
    b.null_job(0x1000, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 1);
    assert_eq!(space_reg(&mut b, 0, regs::AS_FAULTADDRESS), 0xbeef_0000);
    assert_eq!(space_reg(&mut b, 0, regs::AS_FAULTADDRESS + 4), 0xdead);
    // As the C driver does: clear, lock everything, flush, disable.
    b.gpu.write32(regs::MMU_INT_CLEAR, 0x1_0001);
    b.gpu.write32(regs::AS_BASE + regs::AS_LOCKADDR, 63);
    for command in [regs::AS_COMMAND_LOCK, regs::AS_COMMAND_FLUSH_MEM] {
        b.as_command(0, command);
        b.settle();
    }
    b.gpu.write32(regs::AS_BASE + regs::AS_TRANSTAB, 0);
    b.gpu.write32(regs::AS_BASE + regs::AS_TRANSCFG, 1);
    b.as_command(0, regs::AS_COMMAND_UPDATE);
    b.settle();
    assert_eq!(b.take_job_irqs(), failed(1));
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), BUS_FAULT);
    assert_eq!(b.status(0), 0);
    // The slot can be used again.
    b.gpu.write32(regs::MMU_INT_CLEAR, 0x1_0001);
    b.gpu
        .write32(regs::AS_BASE + regs::AS_TRANSTAB, Bench::ROOT as u32 | 3);
    b.gpu.write32(regs::AS_BASE + regs::AS_TRANSCFG, 0);
    b.as_command(0, regs::AS_COMMAND_UPDATE);
    b.submit(1, VA + 0x1000, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
}

#[test]
fn two_slots_fault_in_one_address_space() {
    let mut b = Bench::new(&G52);
    let (one, two) = (VA + 0x200_0000, VA + 0x400_0000);
    b.zero_job(0, one, None);
    b.zero_job(0x1000, two, None);
    b.submit(0, VA, 0);
    b.submit(1, VA + 0x1000, 0);
    b.settle();
    let first = space_reg(&mut b, 0, regs::AS_FAULTADDRESS);
    assert_eq!(b.stat(Stat::MmuFaults), 1);
    // The second fault is reported when the first is cleared.
    b.gpu.write32(regs::MMU_INT_CLEAR, 1);
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 1);
    let second = space_reg(&mut b, 0, regs::AS_FAULTADDRESS);
    let mut both = [first, second];
    both.sort_unstable();
    assert_eq!(both, [one as u32, two as u32]);
    b.gpu.write32(regs::MMU_INT_CLEAR, 1);
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 0);
}

#[test]
fn stops_of_a_parked_chain() {
    let mut b = Bench::new(&G52);
    b.zero_job(0, 0x4000_0000, None);
    b.submit(1, VA, 0);
    b.settle();
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
    b.settle();
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), TERMINATED);
}

#[test]
fn a_reset_keeps_count_of_what_was_done() {
    let mut b = Bench::new(&G52);
    b.null_job(0, Some(0x40));
    b.null_job(0x40, None);
    b.submit(1, VA, 0);
    b.steps(1);
    assert_eq!((b.status(0), b.status(0x40)), (1, 0));
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    b.settle();
    assert_eq!(b.stat(Stat::JobsDone), 1);
}

#[test]
fn a_reset_drops_everything() {
    let mut b = Bench::new(&G52);
    b.zero_job(0, 0x4000_0000, None);
    b.submit(1, VA, 0);
    let head = b.endless(0x1000);
    b.submit(0, head, 1);
    b.submit(0, head, 1);
    b.steps(20);
    b.gpu.write32(regs::GPU_CMD, regs::GPU_CMD_SOFT_RESET);
    assert!(!b.gpu.runnable());
    b.settle();
    assert_eq!(b.gpu.read32(regs::JOB_INT_RAWSTAT), 0);
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 0);
    assert_eq!(b.slot_reg(0, regs::JS_STATUS), 0);
    assert_eq!(b.slot_reg(0, regs::JS_COMMAND_NEXT), 0);
}

#[test]
fn accesses_wait_while_a_command_is_active() {
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    b.as_command(0, regs::AS_COMMAND_UPDATE);
    b.submit(1, VA, 0);
    b.steps(100);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    assert!(!b.gpu.runnable());
    b.pass(3);
    assert_eq!(b.take_job_irqs(), done(1));
}
