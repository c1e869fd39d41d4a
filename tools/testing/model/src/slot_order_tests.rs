// SPDX-License-Identifier: GPL-2.0

//! Tests of orders that affect job slots.

use crate::control::Opcode;
use crate::control::Stat;
use crate::control::ANY_SLOT;
use crate::control::NEVER;
use crate::product::G52;
use crate::regs;
use crate::testing::Bench;
use crate::testing::VA;

use super::tests::*;

#[test]
fn a_hang_ends_by_hard_stop_or_release() {
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    b.order(Opcode::HangNextJob, [1, 2, 0]);
    b.submit(0, VA, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(0));
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.pass(1_000_000);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
    b.pass(1_000_000);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    assert_eq!(b.take_job_irqs(), failed(1));
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.order(Opcode::Release, [0; 3]);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
    // The order was for two chains.
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
}

#[test]
fn rations_let_chains_continue_in_turn() {
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    b.null_job(0x40, None);
    b.order(Opcode::RationJobs, [1, 0, 0]);
    b.submit(1, VA, 0);
    b.submit(1, VA + 0x40, 0);
    b.pass(1_000_000);
    assert_eq!(b.take_job_irqs(), 0);
    // The one that hangs continues. The next one starts and hangs.
    b.order(Opcode::RationJobs, [1, 1, 0]);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    // More than there are: what starts later continues, too.
    b.order(Opcode::RationJobs, [1, 2, 0]);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
    // Another slot has no such limit.
    b.null_job(0, None);
    b.submit(0, VA, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(0));
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), 0);
    b.order(Opcode::ClearAll, [0; 3]);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
}

#[test]
fn stops_can_be_ignored() {
    let mut b = Bench::new(&G52);
    let head = b.endless(0);
    b.submit(1, head, 0);
    b.order(Opcode::IgnoreSoftStop, [1, 0, 0]);
    b.order(Opcode::IgnoreHardStop, [1, 0, 0]);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    b.steps(10);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.order(Opcode::IgnoreHardStop, [0; 3]);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), TERMINATED);
    b.take_job_irqs();
    b.order(Opcode::ClearAll, [0; 3]);
    b.submit(1, head, 0);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
    b.steps(10);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), STOPPED);
}

#[test]
fn an_ordered_bus_fault() {
    let mut b = Bench::new(&G52);
    b.null_job(0, None);
    b.order(Opcode::BusFaultNextJob, [ANY_SLOT, 0, 0]);
    b.submit(2, VA, 0);
    b.settle();
    assert_eq!(b.slot_reg(2, regs::JS_STATUS), BUS_FAULT);
    assert_eq!(b.status(0), 0);
    assert_eq!(b.take_job_irqs(), failed(2));
    b.submit(2, VA, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(2));
    assert_eq!(b.stat(Stat::JobsFailed), 1);
}

#[test]
fn an_ordered_translation_fault() {
    let mut b = Bench::new(&G52);
    b.zero_job(0, VA + 0x5000, None);
    b.order(Opcode::TranslationFaultAt, [VA as u32 + 0x5123, 0, 1]);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 1);
    assert_eq!(
        space_reg(&mut b, 0, regs::AS_FAULTADDRESS),
        VA as u32 + 0x5000
    );
    b.gpu.write32(regs::MMU_INT_CLEAR, 1);
    b.as_command(0, regs::AS_COMMAND_UNLOCK);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
}

#[test]
fn slow_jobs() {
    let mut b = Bench::new(&G52);
    b.null_job(0, Some(0x40));
    b.null_job(0x40, None);
    b.order(Opcode::SlowJobs, [1000, 0, 0]);
    b.submit(1, VA, 0);
    b.pass(999);
    assert_eq!(b.status(0), 0);
    b.pass(1);
    assert_eq!((b.status(0), b.status(0x40)), (1, 0));
    b.pass(999);
    assert_eq!(b.status(0x40), 0);
    b.pass(1);
    assert_eq!(b.take_job_irqs(), done(1));
    // A soft stop does not wait for the delay, nor for the engine.
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.clock.advance(2000);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), STOPPED);
}

#[test]
fn a_done_bit_can_be_lost() {
    let mut b = Bench::new(&G52);
    b.order(Opcode::LoseDone, [1, 1, 0]);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.status(0), 1);
    assert_eq!(b.gpu.read32(regs::JOB_INT_RAWSTAT), 0);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), 0);
    // Clearing an interrupt samples the state, which shows that nothing runs.
    b.gpu.write32(regs::JOB_INT_CLEAR, done(1));
    assert_eq!(js_state(&mut b), 0);
    // The order was for one chain.
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), DONE);
}

#[test]
fn a_done_bit_can_be_lost_behind_another() {
    let mut b = Bench::new(&G52);
    b.order(Opcode::LoseDone, [ANY_SLOT, 0, 0]);
    b.null_job(0, None);
    b.null_job(0x40, None);
    b.submit(1, VA, 0);
    b.submit(1, VA + 0x40, FLAG);
    b.settle();
    assert_eq!((b.status(0), b.status(0x40)), (1, 1));
    // The bit of the first chain is set, and the second is sampled as active.
    assert_eq!(b.take_job_irqs(), done(1));
    assert_eq!(js_state(&mut b), 0x2);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), 0);
    assert_eq!(b.gpu.read32(regs::JOB_INT_RAWSTAT), 0);
    b.gpu.write32(regs::JOB_INT_CLEAR, done(1));
    assert_eq!(js_state(&mut b), 0);
}

#[test]
fn a_hard_stop_can_leave_no_status() {
    let mut b = Bench::new(&G52);
    b.order(Opcode::LoseStopStatus, [1, 0, 0]);
    let head = b.endless(0);
    for status in [0, TERMINATED] {
        b.submit(1, head, 0);
        b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
        assert_eq!(b.slot_reg(1, regs::JS_STATUS), status);
        assert_eq!(b.take_job_irqs(), failed(1));
        b.order(Opcode::LoseStopStatus, [0; 3]);
    }
}

#[test]
fn a_start_can_be_delayed_and_stuck() {
    let mut b = Bench::new(&G52);
    b.order(Opcode::DelayStart, [100, 0, 0]);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.pass(99);
    assert_eq!(b.slot_reg(1, regs::JS_COMMAND_NEXT), 1);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), VA as u32);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), 0);
    b.gpu.write32(regs::JOB_INT_CLEAR, done(1));
    assert_eq!(js_state(&mut b), 0x2_0000);
    b.pass(1);
    assert_eq!(b.slot_reg(1, regs::JS_COMMAND_NEXT), 0);
    assert_eq!(b.take_job_irqs(), done(1));
    // It never starts until the order is taken back; a stop in the meantime has no effect.
    b.order(Opcode::DelayStart, [NEVER, 0, 0]);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    b.pass(1_000_000);
    assert_eq!(b.slot_reg(1, regs::JS_COMMAND_NEXT), 1);
    b.order(Opcode::DelayStart, [0; 3]);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
    // A chain that was taken back in time does not start, and the next one does not start early.
    b.order(Opcode::DelayStart, [100, 0, 0]);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.pass(50);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_NOP);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), VA as u32);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_START);
    b.pass(99);
    assert_eq!(b.status(0), 0);
    b.pass(1);
    assert_eq!(b.take_job_irqs(), done(1));
}
