// SPDX-License-Identifier: GPL-2.0

//! Tests of job slots with the habits of silicon.

use crate::control;
use crate::control::Opcode;
use crate::control::Stat;
use crate::control::SCALE_FREQ_KHZ;
use crate::product::G52;
use crate::product::T860;
use crate::regs;
use crate::testing::Bench;
use crate::testing::VA;

use super::tests::*;

/// The address that jobs write to, and its content before.
const TARGET: u64 = 0x8000;

/// Starts a chain of writers at 0, 0x40 and 0x80, after changes to the second header. The first is
/// delayed by a second, in which nothing else happens.
fn chain(change: impl FnOnce(&mut crate::desc::JobHeader)) -> Bench {
    let mut b = Bench::silicon(&G52);
    for n in 0..3 {
        b.ram.put64(Bench::PA + TARGET + 8 * n, !0);
    }
    let target = VA + TARGET;
    b.zero_job_with(0, target, Some(0x40), |job| job.index = 1);
    b.zero_job_with(0x40, target + 8, Some(0x80), change);
    b.zero_job_with(0x80, target + 16, None, |job| job.barrier = true);
    b.order(Opcode::SlowJobs, [1_000_000, 0, 0]);
    b.submit(1, VA, 0);
    b.pass(1_000);
    b
}

fn head_and_tail(b: &mut Bench) -> (u32, u32) {
    let [head, tail] = [regs::JS_HEAD, regs::JS_TAIL].map(|reg| b.slot_reg(1, reg));
    (head - VA as u32, tail - VA as u32)
}

fn statuses(b: &Bench) -> [u32; 3] {
    [0, 0x40, 0x80].map(|at| b.status(at))
}

#[test]
fn jobs_overlap_and_the_tail_is_ahead() {
    let mut b = chain(|_| ());
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    assert_eq!(head_and_tail(&mut b), (0, 0x40));
    // The job before the tail is not done.
    assert_eq!(statuses(&b), [0, DONE, 0]);
    assert_eq!(b.status(TARGET), !0);
    assert_eq!(b.status(TARGET + 8), 0);
    b.pass(1_000_000);
    assert_eq!(head_and_tail(&mut b), (0x80, 0x80));
    assert_eq!(statuses(&b), [DONE, DONE, 0]);
    b.settle();
    assert_eq!(statuses(&b), [DONE; 3]);
    assert_eq!(b.take_job_irqs(), done(1));
    assert_eq!(head_and_tail(&mut b), (0x80, 0x80));
    assert_eq!(b.stat(Stat::JobsDone), 3);
}

#[test]
fn the_tail_is_ahead_of_jobs_that_wait() {
    let mut b = chain(|job| job.dependency_1 = 1);
    assert_eq!(head_and_tail(&mut b), (0, 0x40));
    assert_eq!(statuses(&b), [0; 3]);
    b.settle();
    assert_eq!(statuses(&b), [DONE; 3]);
}

#[test]
fn a_soft_stop_leaves_nothing_behind() {
    let mut b = chain(|_| ());
    assert_eq!(statuses(&b), [0, DONE, 0]);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
    b.pass(100);
    // The first job had to be completed, as the second one was already done.
    assert_eq!(b.take_job_irqs(), failed(1));
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), STOPPED);
    assert_eq!(head_and_tail(&mut b), (0x80, 0x80));
    assert_eq!(statuses(&b), [DONE, DONE, 0]);
    b.submit(1, VA + 0x80, 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
    assert_eq!(statuses(&b), [DONE; 3]);
}

#[test]
fn a_soft_stop_before_jobs_that_wait() {
    let mut b = chain(|job| job.barrier = true);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
    b.pass(100);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), STOPPED);
    assert_eq!(head_and_tail(&mut b), (0, 0));
    assert_eq!(statuses(&b), [0; 3]);
}

#[test]
fn a_fault_of_the_job_ahead() {
    let mut b = Bench::silicon(&G52);
    b.zero_job(0, VA + TARGET, Some(0x40));
    b.zero_job(0x40, 0x4000_0000, None);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 1);
    assert_eq!(head_and_tail(&mut b), (0, 0x40));
    assert_eq!((b.status(0), b.status(0x40)), (0, 0));
}

#[test]
fn a_hard_stop_takes_time() {
    let mut b = chain(|job| job.barrier = true);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    assert_eq!(b.take_job_irqs(), 0);
    b.pass(299);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.pass(1);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), TERMINATED);
    assert_eq!(b.take_job_irqs(), failed(1));
    // The tail must not be used to resume the chain.
    assert_eq!(head_and_tail(&mut b), (0, 0x40));
    assert_eq!(b.stat(Stat::HardStops), 1);
}

#[test]
fn a_soft_stop_may_take_effect_before_a_hard_stop() {
    let mut b = chain(|job| job.barrier = true);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_SOFT_STOP);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    b.pass(100);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), STOPPED);
    assert_eq!(b.take_job_irqs(), failed(1));
    // By then the hard stop has nothing to stop.
    b.pass(300);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), STOPPED);
    assert_eq!(b.take_job_irqs(), 0);
}

#[test]
fn a_chain_goes_on_until_a_hard_stop_takes_effect() {
    let mut b = chain(|job| job.barrier = true);
    b.pass(999_900);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    b.pass(100);
    b.pass(200);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), TERMINATED);
    assert_eq!(statuses(&b), [DONE, 0, 0]);
    b.take_job_irqs();
    // The chain may even succeed, and the stop does not affect the next one.
    b.order(Opcode::SlowJobs, [100, 0, 0]);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.pass(50);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    b.pass(100);
    assert_eq!(b.take_job_irqs(), done(1));
    let head = b.endless(0x1000);
    b.submit(1, head, 0);
    b.pass(10_000);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
}

/// Starts a chain that faults, and disables its address space.
fn disabled() -> Bench {
    let mut b = Bench::silicon(&G52);
    // One job, then an unmapped address.
    b.zero_job_with(0, VA + TARGET, None, |job| job.next = 0x4000_0000);
    b.submit(1, VA, 0);
    b.settle();
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 1);
    b.gpu.write32(regs::MMU_INT_CLEAR, 1);
    b.gpu.write32(regs::AS_BASE + regs::AS_TRANSTAB, 0);
    b.as_command(0, regs::AS_COMMAND_UPDATE);
    while b.gpu.read32(regs::AS_BASE + regs::AS_STATUS) != 0 {
        b.pass(1);
    }
    b
}

#[test]
fn a_disabled_address_space_ends_the_job_later() {
    let mut b = disabled();
    b.pass(100);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    // Too late to resume.
    b.gpu
        .write32(regs::AS_BASE + regs::AS_TRANSTAB, Bench::ROOT as u32 | 3);
    b.as_command(0, regs::AS_COMMAND_UPDATE);
    b.settle();
    assert_eq!(b.take_job_irqs(), failed(1));
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), BUS_FAULT);
    assert_eq!(b.gpu.read32(regs::MMU_INT_RAWSTAT), 0);
    assert_eq!(b.status(0), DONE);
}

#[test]
fn a_hard_stop_hides_the_disabled_address_space() {
    let mut b = disabled();
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), ACTIVE);
    b.settle();
    assert_eq!(b.take_job_irqs(), failed(1));
    assert_eq!(b.slot_reg(1, regs::JS_STATUS), TERMINATED);
}

#[test]
fn a_next_chain_is_taken_later() {
    let mut b = Bench::silicon(&G52);
    b.null_job(0, None);
    let head = b.endless(0x1000);
    b.submit(1, VA, 0);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), VA as u32);
    b.gpu.write32(regs::JOB_INT_CLEAR, done(1));
    assert_eq!(js_state(&mut b), 0x2_0000);
    b.pass(1);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), VA as u32);
    b.pass(1);
    assert_eq!(b.slot_reg(1, regs::JS_COMMAND_NEXT), 0);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), 0);
    assert_eq!(b.take_job_irqs(), done(1));
    b.submit(1, head, 0);
    b.pass(2);
    // A chain that is taken back in time keeps its address and does not start.
    b.null_job(0, None);
    b.slot(1, regs::JS_COMMAND, regs::JS_COMMAND_HARD_STOP);
    b.pass(300);
    assert_eq!(b.take_job_irqs(), failed(1));
    b.submit(1, VA, 0);
    b.pass(1);
    b.slot(1, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_NOP);
    b.settle();
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), VA as u32);
    assert_eq!(b.status(0), 0);
}

#[test]
fn a_next_chain_is_taken_before_a_driver_can_ask() {
    let mut b = Bench::silicon(&G52);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    assert_eq!(b.slot_reg(1, regs::JS_COMMAND_NEXT), 0);
    assert_eq!(b.slot_reg(1, regs::JS_HEAD_NEXT), 0);
    b.settle();
    assert_eq!(b.take_job_irqs(), done(1));
}

#[test]
fn a_priority_does_not_read_back() {
    let mut b = Bench::silicon(&G52);
    let head = b.endless(0);
    b.submit(1, head, 0x8_0000 | 0x7300 | FLAG | 1);
    assert_eq!(b.slot_reg(1, regs::JS_CONFIG_NEXT), 0x8_7300 | FLAG | 1);
    b.pass(10);
    assert_eq!(b.slot_reg(1, regs::JS_CONFIG), 0x7300 | FLAG | 1);
}

#[test]
fn the_flag_of_a_chain_does_not_read_back_on_midgard() {
    let mut b = Bench::silicon(&T860);
    let head = b.endless(0);
    b.submit(1, head, 0x7300 | FLAG | 1);
    b.pass(10);
    assert_eq!(b.slot_reg(1, regs::JS_CONFIG), 0x7300 | 1);
}

#[test]
fn a_slow_clock_makes_slow_jobs() {
    let mut b = Bench::silicon(&G52);
    b.order(Opcode::SlowJobs, [1000, 0, 0]);
    for (khz, us) in [
        (SCALE_FREQ_KHZ, 1000),
        (SCALE_FREQ_KHZ / 5, 5000),
        (SCALE_FREQ_KHZ * 2, 500),
    ] {
        b.gpu.control_write32(control::FREQ_KHZ, khz);
        b.null_job(0, None);
        b.submit(1, VA, 0);
        while b.slot_reg(1, regs::JS_COMMAND_NEXT) != 0 {
            b.pass(1);
        }
        b.pass(us - 1);
        assert_eq!(b.status(0), 0);
        b.pass(1);
        assert_eq!(b.take_job_irqs(), done(1));
    }
    // A frequency of zero does not cause a division by zero.
    b.gpu.control_write32(control::FREQ_KHZ, 0);
    b.null_job(0, None);
    b.submit(1, VA, 0);
    b.pass(1_000_000);
    assert_eq!(b.status(0), 0);
}
