// SPDX-License-Identifier: GPL-2.0

//! Tests of jobs of a chain that overlap.

use crate::desc::MemoryJob;
use crate::desc::WriteKind;
use crate::desc::WriteValue;

use super::*;

const A: u64 = 0x10_0000;
const B: u64 = A + 64;
const C: u64 = A + 128;
const TARGET: u64 = 0x20_0000;
const PAGES: u32 = 3;

/// Creates the payload of a job that takes [`PAGES`] steps.
fn long(target: u64) -> Vec<u8> {
    MemoryJob {
        source: 0x30_0000,
        target,
        length: PAGES * 4096,
        ..Default::default()
    }
    .encode()
    .to_vec()
}

fn zero(address: u64) -> Vec<u8> {
    WriteValue {
        address,
        kind: WriteKind::Zero,
        immediate: 0,
    }
    .encode()
    .to_vec()
}

/// Creates a chain of a long job, a write, and a NULL job behind a barrier, after `change` to the
/// first two headers.
fn vm(change: impl FnOnce(&mut JobHeader, &mut JobHeader)) -> TestVm {
    let mut vm = TestVm::default();
    let mut a = header(JobType::Memory, 1, B);
    let mut b = header(JobType::WriteValue, 2, C);
    let mut c = header(JobType::Null, 3, 0);
    change(&mut a, &mut b);
    c.barrier = true;
    vm.poke(TARGET, &[0xff; 8]);
    vm.job(A, a, &long(TARGET + 0x1_0000));
    vm.job(B, b, &zero(TARGET));
    vm.job(C, c, &[]);
    vm
}

fn done(vm: &TestVm) -> [bool; 3] {
    [A, B, C].map(|at| vm.status(at) == Exception::DONE)
}

#[test]
fn the_second_is_done_first() {
    let mut vm = vm(|_, _| ());
    let env = TestEnv::new(Arch::V7);
    let mut chain = Chain::new(A);
    // It is not known yet whether the first job can run.
    assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
    assert_eq!((chain.current(), chain.tail()), (A, A));
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
    assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
    assert_eq!((chain.current(), chain.tail()), (A, B));
    assert_eq!(done(&vm), [false, true, false]);
    assert_eq!(vm.peek64(TARGET), 0);
    assert!(!chain.stoppable());
    // Only one job ahead is executed.
    assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
    assert_eq!((chain.current(), chain.tail()), (C, C));
    assert!(chain.stoppable());
    assert_eq!(done(&vm), [true, true, false]);
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Done));
    assert_eq!(chain.stats().jobs_done, 3);
}

#[test]
fn in_order_where_it_is_asked_for() {
    type Change = fn(&mut JobHeader, &mut JobHeader);
    let cases: [(Change, u64); 6] = [
        (|_, b| b.barrier = true, B),
        (|_, b| b.dependency_1 = 1, B),
        (|_, b| b.dependency_2 = 1, B),
        (|a, _| a.suppress_prefetch = true, A),
        (|a, _| a.next = 0, A),
        (|a, _| a.next = A, A),
    ];
    for (change, tail) in cases {
        let mut vm = vm(change);
        let env = TestEnv::new(Arch::V7);
        let mut chain = Chain::new(A);
        assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
        assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
        assert_eq!((chain.current(), chain.tail()), (A, tail));
        assert!(chain.stoppable());
        assert_eq!(done(&vm), [false; 3]);
    }
}

#[test]
fn a_relaxed_dependency_has_only_to_be_begun() {
    let mut vm = vm(|_, b| {
        b.dependency_1 = 1;
        b.relax_dependency_1 = true;
        b.dependency_2 = 77;
    });
    let env = TestEnv::new(Arch::V7);
    let mut chain = Chain::new(A);
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
    assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
    assert_eq!(done(&vm), [false, true, false]);
}

#[test]
fn long_jobs_side_by_side() {
    let mut vm = vm(|_, b| b.job_type = JobType::Memory);
    vm.poke(B + PAYLOAD_OFFSET, &long(TARGET + 0x2_0000));
    vm.poke(0x30_0000, &[0x5a; PAGES as usize * 4096]);
    let env = TestEnv::new(Arch::V7);
    let mut chain = Chain::new(A);
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
    assert_eq!(chain.step_ahead(&mut vm, &env), Ok(true));
    assert!(chain.stoppable());
    for target in [TARGET + 0x1_0000, TARGET + 0x2_0000] {
        assert_eq!(vm.peek(target, 1), [0x5a]);
        assert_eq!(vm.peek(target + 4096, 1), [0]);
    }
    // When resumed from here, both continue where they were.
    let mut chain = Chain::new(chain.current());
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
    assert_eq!(chain.step_ahead(&mut vm, &env), Ok(true));
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
    // The first job is over, and the second continues as the oldest.
    assert_eq!((chain.current(), chain.tail()), (B, B));
    assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
    assert_eq!(chain.tail(), C);
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Done));
    assert_eq!(done(&vm), [true; 3]);
}

#[test]
fn a_failure_ahead_waits_for_its_turn() {
    let mut vm = vm(|a, b| {
        a.job_type = JobType::WriteValue;
        b.job_type = JobType::Compute;
    });
    vm.poke(A + PAYLOAD_OFFSET, &zero(TARGET));
    let env = TestEnv::new(Arch::V7);
    let mut chain = Chain::new(A);
    assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
    assert_eq!(vm.status(B), Exception::JOB_CONFIG_FAULT);
    assert_eq!(vm.status(A), Exception::NOT_STARTED);
    assert!(!chain.stoppable());
    let end = Ok(Step::Failed(Exception::JOB_CONFIG_FAULT));
    assert_eq!(chain.step(&mut vm, &env), end);
    assert_eq!(chain.current(), B);
    assert_eq!(vm.status(A), Exception::DONE);
    assert_eq!(chain.step(&mut vm, &env), end);
    assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
}

#[test]
fn nothing_ahead_of_a_job_that_cannot_run() {
    for (job_type, status) in [
        (JobType::Null, Exception::DONE),
        (JobType::Compute, Exception::NOT_STARTED),
    ] {
        let mut vm = vm(|a, _| {
            a.job_type = job_type;
            a.status = status.0;
        });
        let env = TestEnv::new(Arch::V7);
        let mut chain = Chain::new(A);
        assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
        let end = chain.step(&mut vm, &env);
        assert!(matches!(end, Ok(Step::Failed(_))), "{end:?}");
        assert_eq!(vm.status(B), Exception::NOT_STARTED);
    }
}

/// A fault on any access of the two jobs does not lose or repeat work.
#[test]
fn faults_of_both() {
    let run = |vm: &mut TestVm| {
        let env = TestEnv::new(Arch::V7);
        let mut chain = Chain::new(A);
        let mut faults = 0;
        loop {
            let result = match chain.step_ahead(vm, &env) {
                Ok(_) => chain.step(vm, &env),
                Err(fault) => Err(fault),
            };
            match result {
                Ok(Step::Continue) => (),
                Ok(end) => return (end, faults, chain.stats().jobs_done),
                Err(_) => faults += 1,
            }
        }
    };
    let start = vm(|a, b| {
        a.job_type = JobType::Memory;
        b.job_type = JobType::Memory;
    });
    let mut start = start;
    start.poke(B + PAYLOAD_OFFSET, &long(TARGET + 0x2_0000));
    let mut reference = start.clone();
    assert_eq!(run(&mut reference), (Step::Done, 0, 3));
    for number in 0..reference.accesses {
        let mut vm = start.clone();
        vm.accesses = 0;
        vm.fault_access = Some(number);
        let (end, faults, jobs) = run(&mut vm);
        // A header that cannot be read ahead is read again in its turn.
        assert!(faults <= 1);
        assert_eq!((end, jobs), (Step::Done, 3));
        assert!(vm.pages == reference.pages, "fault on access {number}");
    }
}
