// SPDX-License-Identifier: GPL-2.0

//! Tests of MEMORY jobs.

use crate::desc::MemoryJob;

use super::*;

const A: u64 = 0x10_0000;
const SOURCE: u64 = 0x20_0ff0;
const TARGET: u64 = 0x30_0ffd;
const LENGTH: u32 = 20_000;

/// Creates a chain of one such job, and bytes to read.
fn vm(job: MemoryJob) -> (TestVm, Vec<u8>) {
    let mut vm = TestVm::default();
    let bytes: Vec<u8> = (0..LENGTH).map(|n| (n * 7 + n / 251) as u8).collect();
    vm.poke(SOURCE, &bytes);
    vm.job(A, header(JobType::Memory, 1, 0), &job.encode());
    (vm, bytes)
}

fn copy() -> MemoryJob {
    MemoryJob {
        source: SOURCE,
        target: TARGET,
        length: LENGTH,
        ..Default::default()
    }
}

fn sum() -> MemoryJob {
    MemoryJob {
        flags: MemoryJob::SUM,
        ..copy()
    }
}

fn sum_of(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(4);
    words.fold(0, |sum, word| {
        u32::from_le_bytes(word.try_into().unwrap()).wrapping_add(sum)
    })
}

#[test]
fn copies() {
    for arch in ARCHES {
        let (mut vm, bytes) = vm(copy());
        vm.poke(TARGET + u64::from(LENGTH), &[0xff]);
        assert_eq!(run(&mut vm, &TestEnv::new(arch), A).0, Step::Done);
        assert_eq!(vm.status(A), Exception::DONE);
        assert_eq!(vm.peek(TARGET, LENGTH as usize), bytes);
        assert_eq!(vm.peek(TARGET + u64::from(LENGTH), 1), [0xff]);
    }
}

#[test]
fn sums() {
    let (mut vm, bytes) = vm(sum());
    vm.poke(TARGET, &[0xff; 8]);
    let env = TestEnv::new(Arch::V7);
    assert_eq!(run(&mut vm, &env, A).0, Step::Done);
    let sum = sum_of(&bytes);
    assert_eq!(vm.peek64(TARGET), 0xffff_ffff_0000_0000 | u64::from(sum));
    // Again: the first run leaves no progress behind.
    vm.poke(A, &[0; 4]);
    vm.poke(SOURCE, &(bytes[0] ^ 1).to_le_bytes());
    assert_eq!(run(&mut vm, &env, A).0, Step::Done);
    assert_ne!(vm.peek64(TARGET) as u32, sum);
}

#[test]
fn of_nothing() {
    for job in [copy(), sum()] {
        let (mut vm, _) = vm(MemoryJob { length: 0, ..job });
        vm.poke(TARGET, &[0xff; 4]);
        assert_eq!(run(&mut vm, &TestEnv::new(Arch::V7), A).0, Step::Done);
        let expected = if job == copy() { [0xff; 4] } else { [0; 4] };
        assert_eq!(vm.peek(TARGET, 4), expected);
    }
}

#[test]
fn faults_and_resumes() {
    for job in [copy(), sum()] {
        let (vm, _) = vm(job);
        check_resume(&vm, Arch::V7, A, Step::Done);
    }
}

/// Work done before a stop is not repeated.
#[test]
fn stops_and_resumes() {
    for job in [copy(), sum()] {
        let (mut vm, mut bytes) = vm(job);
        let env = TestEnv::new(Arch::V7);
        let mut chain = Chain::new(A);
        for _ in 0..2 {
            assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
        }
        assert!(chain.stoppable());
        let before = sum_of(&bytes);
        // The first page is done, the last one is not.
        vm.poke(SOURCE, &[0xee; 4]);
        let last = SOURCE + u64::from(LENGTH) - 4;
        vm.poke(last, &[0x11; 4]);
        let at = bytes.len() - 4;
        bytes[at..].fill(0x11);
        assert_eq!(run(&mut vm, &env, chain.current()).0, Step::Done);
        if job == copy() {
            assert_eq!(vm.peek(TARGET, LENGTH as usize), bytes);
        } else {
            assert_ne!(sum_of(&bytes), before);
            assert_eq!(vm.peek64(TARGET) as u32, sum_of(&bytes));
        }
    }
}

#[test]
fn fetches_need_permission() {
    for base in [copy(), sum()] {
        let flags = base.flags | MemoryJob::FETCH;
        let (mut vm, bytes) = vm(MemoryJob { flags, ..base });
        vm.data.push(SOURCE..SOURCE + 1);
        let env = TestEnv::new(Arch::V7);
        let mut chain = Chain::new(A);
        let fault = chain.step(&mut vm, &env).unwrap_err();
        assert_eq!((fault.va, fault.access), (SOURCE, Access::Execute));
        assert_eq!(vm.peek(TARGET, 4), [0; 4]);
        vm.data.clear();
        assert_eq!(run(&mut vm, &env, A).0, Step::Done);
        if base == copy() {
            assert_eq!(vm.peek(TARGET, LENGTH as usize), bytes);
        }
    }
}

#[test]
fn nonsense() {
    let cases = [
        MemoryJob {
            done: 21_000,
            ..copy()
        },
        MemoryJob { flags: 4, ..copy() },
        MemoryJob { length: 6, ..sum() },
        MemoryJob {
            source: SOURCE + 1,
            ..sum()
        },
        MemoryJob { done: 2, ..sum() },
    ];
    for job in cases {
        let (mut vm, _) = vm(job);
        let (end, _) = run(&mut vm, &TestEnv::new(Arch::V7), A);
        assert_eq!(end, Step::Failed(Exception::DATA_INVALID_FAULT), "{job:?}");
        assert_eq!(vm.header(A).fault_pointer, A + PAYLOAD_OFFSET);
    }
}

#[test]
fn round_trip() {
    let job = MemoryJob {
        source: 0x1234_5678_9abc_def0,
        target: 0xfedc_ba98_7654_3210,
        length: 0x1122_3344,
        flags: MemoryJob::ALL,
        done: 0x5566_7788,
        sum: 0x99aa_bbcc,
    };
    let bytes = job.encode();
    assert_eq!(MemoryJob::decode(&bytes), job);
    assert_eq!(bytes[MemoryJob::PROGRESS_BYTE as usize..], job.progress());
}
