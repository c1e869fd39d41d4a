// SPDX-License-Identifier: GPL-2.0

//! Tests of chain walks and of the small jobs.

use crate::desc::WriteKind;
use crate::desc::WriteValue;

use super::*;

const A: u64 = 0x10_0000;
const B: u64 = A + 64;
const TARGET: u64 = 0x20_0000;

fn write(kind: WriteKind, address: u64, immediate: u64) -> Vec<u8> {
    WriteValue {
        address,
        kind,
        immediate,
    }
    .encode()
    .to_vec()
}

#[test]
fn null_job() {
    for arch in ARCHES {
        let mut vm = TestVm::default();
        vm.job(A, header(JobType::Null, 0, 0), &[]);
        let (end, chain) = run(&mut vm, &TestEnv::new(arch), A);
        assert_eq!(end, Step::Done);
        assert_eq!(chain.current(), A);
        assert_eq!(vm.status(A), Exception::DONE);
        assert_eq!(vm.header(A).fault_pointer, 0);
        assert_eq!(chain.stats().jobs_done, 1);
    }
}

#[test]
fn write_values() {
    let ones = u64::MAX;
    let immediate = 0x8877_6655_4433_2211;
    let cases = [
        (WriteKind::CycleCounter, 0x1122_3344_5566_7788, false),
        (WriteKind::SystemTimestamp, 0x0102_0304_0506_0708, false),
        (WriteKind::Zero, 0, false),
        (WriteKind::Immediate8, 0xffff_ffff_ffff_ff11, true),
        (WriteKind::Immediate16, 0xffff_ffff_ffff_2211, true),
        (WriteKind::Immediate32, 0xffff_ffff_4433_2211, true),
        (WriteKind::Immediate64, immediate, true),
    ];
    for arch in ARCHES {
        for (kind, expected, later) in cases {
            let mut vm = TestVm::default();
            vm.poke(TARGET, &[0xff; 16]);
            vm.job(
                A,
                header(JobType::WriteValue, 1, 0),
                &write(kind, TARGET, immediate),
            );
            let (end, _) = run(&mut vm, &TestEnv::new(arch), A);
            if later && arch == Arch::V5 {
                assert_eq!(end, Step::Failed(Exception::DATA_INVALID_FAULT));
                assert_eq!(vm.peek64(TARGET), ones);
            } else {
                assert_eq!(end, Step::Done);
                assert_eq!(vm.peek64(TARGET), expected, "{kind:?}");
                assert_eq!(vm.peek64(TARGET + 8), ones);
            }
        }
    }
}

#[test]
fn write_value_of_unknown_kind() {
    for kind in [0, 8, 255, 256 + 3] {
        let mut vm = TestVm::default();
        let mut payload = write(WriteKind::Zero, TARGET, 0);
        payload[8..12].copy_from_slice(&u32::to_le_bytes(kind));
        vm.poke(TARGET, &[1]);
        vm.job(A, header(JobType::WriteValue, 1, 0), &payload);
        let (end, _) = run(&mut vm, &TestEnv::new(Arch::V7), A);
        assert_eq!(end, Step::Failed(Exception::DATA_INVALID_FAULT));
        assert_eq!(vm.peek(TARGET, 1), [1]);
    }
}

#[test]
fn zero_does_not_read_the_immediate() {
    // A payload of 16 bytes at the end of memory.
    let mut vm = TestVm::default();
    let at = 0x11_0000 - 64;
    vm.job(
        at,
        header(JobType::WriteValue, 1, 0),
        &write(WriteKind::Zero, TARGET, 0)[..16],
    );
    vm.holes.push(at + 48..0x12_0000);
    vm.mapped.clear();
    let mut chain = Chain::new(at);
    assert_eq!(chain.step(&mut vm, &TestEnv::new(Arch::V7)), Ok(Step::Done));
}

#[test]
fn chain_in_order() {
    // Each job overwrites what the one before wrote.
    let mut vm = TestVm::default();
    for i in 0..8 {
        let next = if i == 7 { 0 } else { A + (i + 1) * 64 };
        let mut job = header(JobType::WriteValue, i as u16 + 1, next);
        job.dependency_1 = i as u16;
        job.dependency_2 = (i as u16).saturating_sub(1);
        job.barrier = i % 2 == 0;
        vm.job(
            A + i * 64,
            job,
            &write(WriteKind::Immediate64, TARGET, i + 100),
        );
    }
    let env = TestEnv::new(Arch::V7);
    let mut chain = Chain::new(A);
    for i in 0..7 {
        assert_eq!(chain.current(), A + i * 64);
        assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
        assert_eq!(vm.peek64(TARGET), i + 100);
    }
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Done));
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Done));
    assert_eq!(vm.peek64(TARGET), 107);
    assert_eq!(chain.stats().foreign_dependencies, 0);
    assert_eq!(chain.stats().jobs_done, 8);

    // Again, resumed from the middle, after the job that it depends on.
    let env = TestEnv::new(Arch::V7);
    for i in 4..8 {
        vm.poke(A + i * 64, &[0; 16]);
    }
    let (end, chain) = run(&mut vm, &env, A + 4 * 64);
    assert_eq!(end, Step::Done);
    assert_eq!(chain.stats().foreign_dependencies, 3);
}

#[test]
fn failure_ends_the_chain() {
    let mut vm = TestVm::default();
    let c = A + 128;
    vm.job(A, header(JobType::Null, 1, B), &[]);
    vm.job(B, header(JobType::Other(77), 2, c), &[]);
    let mut last = header(JobType::Null, 3, 0);
    last.dependency_1 = 2;
    vm.job(c, last, &[]);
    let (end, chain) = run(&mut vm, &TestEnv::new(Arch::V7), A);
    assert_eq!(end, Step::Failed(Exception::JOB_CONFIG_FAULT));
    assert_eq!(chain.current(), B);
    assert_eq!(vm.status(A), Exception::DONE);
    assert_eq!(vm.status(B), Exception::JOB_CONFIG_FAULT);
    assert_eq!(vm.header(B).fault_pointer, B);
    assert_eq!(vm.status(c), Exception::NOT_STARTED);
    assert_eq!((chain.stats().jobs_done, chain.stats().jobs_failed), (1, 1));
}

#[test]
fn job_types() {
    use JobType::*;
    // Types that succeed and types that do not.
    let bad = |arch| match arch {
        Arch::V5 => vec![
            NotStarted,
            Compute,
            Geometry,
            Fused,
            IndexedVertex,
            MallocVertex,
        ],
        Arch::V7 => vec![NotStarted, Compute, Geometry, Fused, MallocVertex],
        Arch::V9 => vec![
            NotStarted,
            Compute,
            Vertex,
            Geometry,
            Tiler,
            Fused,
            IndexedVertex,
        ],
    };
    for arch in ARCHES {
        let others = (12..128)
            .map(Other)
            .filter(|other| other.bits() != Memory.bits());
        let types = bad(arch).into_iter().chain(others);
        for job_type in types {
            let mut vm = TestVm::default();
            vm.job(A, header(job_type, 0, 0), &[0; 160]);
            let (end, _) = run(&mut vm, &TestEnv::new(arch), A);
            assert_eq!(
                end,
                Step::Failed(Exception::JOB_CONFIG_FAULT),
                "{job_type:?}"
            );
        }
        let mut good = vec![Null, CacheFlush];
        if arch < Arch::V9 {
            good.push(Vertex);
        }
        for job_type in good {
            let mut vm = TestVm::default();
            vm.job(A, header(job_type, 0, 0), &[0xff; 160]);
            assert_eq!(
                run(&mut vm, &TestEnv::new(arch), A).0,
                Step::Done,
                "{job_type:?}"
            );
        }
    }
}

#[test]
fn bad_headers() {
    let null = header(JobType::Null, 1, 0);
    // An unaligned header fails without being written.
    for at in [A + 1, A + 8, A + 32] {
        let mut vm = TestVm::default();
        vm.job(at, null, &[]);
        let before = vm.pages.clone();
        let (end, chain) = run(&mut vm, &TestEnv::new(Arch::V7), at);
        assert_eq!(end, Step::Failed(Exception::JOB_CONFIG_FAULT));
        assert_eq!(chain.current(), at);
        assert!(vm.pages == before);
    }
    // With an unaligned next pointer, the first job is done.
    let mut vm = TestVm::default();
    vm.job(A, header(JobType::Null, 1, B + 16), &[]);
    let (end, chain) = run(&mut vm, &TestEnv::new(Arch::V7), A);
    assert_eq!(end, Step::Failed(Exception::JOB_CONFIG_FAULT));
    assert_eq!((vm.status(A), chain.current()), (Exception::DONE, B + 16));
    // A 32-bit header.
    for arch in ARCHES {
        let mut vm = TestVm::default();
        vm.job(
            A,
            JobHeader {
                is_64bit: false,
                ..null
            },
            &[],
        );
        let end = run(&mut vm, &TestEnv::new(arch), A).0;
        if arch == Arch::V9 {
            assert_eq!(end, Step::Done);
        } else {
            assert_eq!(end, Step::Failed(Exception::JOB_CONFIG_FAULT));
        }
    }
    // A job that depends on itself.
    let mut vm = TestVm::default();
    vm.job(
        A,
        JobHeader {
            dependency_2: 1,
            ..null
        },
        &[],
    );
    let end = run(&mut vm, &TestEnv::new(Arch::V7), A).0;
    assert_eq!(end, Step::Failed(Exception::JOB_CONFIG_FAULT));
}

#[test]
fn status_on_entry() {
    let mut job = header(JobType::Null, 1, 0);
    for (status, end) in [
        (Exception::NOT_STARTED, Step::Done),
        (Exception::STOPPED, Step::Done),
        (Exception::DONE, Step::Failed(Exception::DATA_INVALID_FAULT)),
        (
            Exception::ACTIVE,
            Step::Failed(Exception::DATA_INVALID_FAULT),
        ),
        (
            Exception::TERMINATED,
            Step::Failed(Exception::DATA_INVALID_FAULT),
        ),
        (
            Exception(0x100),
            Step::Failed(Exception::DATA_INVALID_FAULT),
        ),
    ] {
        let mut vm = TestVm::default();
        job.status = status.0;
        vm.job(A, job, &[]);
        assert_eq!(
            run(&mut vm, &TestEnv::new(Arch::V7), A).0,
            end,
            "{status:?}"
        );
        let expected = match end {
            Step::Failed(code) => code,
            _ => Exception::DONE,
        };
        assert_eq!(vm.status(A), expected);
    }
}

/// Builds the chain of IGT's pan-reset: two jobs that clear each other's status.
fn endless(vm: &mut TestVm) {
    for (at, other) in [(A, B), (B, A)] {
        let mut job = header(JobType::WriteValue, 1, other);
        job.barrier = true;
        vm.job(at, job, &write(WriteKind::Zero, other, 0)[..16]);
    }
}

#[test]
fn endless_chain() {
    for arch in ARCHES {
        let mut vm = TestVm::default();
        endless(&mut vm);
        let env = TestEnv::new(arch);
        let mut chain = Chain::new(A);
        for i in 0..10_000u64 {
            assert_eq!(chain.current(), if i % 2 == 0 { A } else { B });
            let before = vm.accesses;
            assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
            assert!(vm.accesses - before <= 4);
            let done = [A, B].map(|at| vm.status(at) == Exception::DONE);
            assert!(done[(i % 2) as usize]);
        }
        // Stopped here and resumed.
        let mut chain = Chain::new(chain.current());
        for _ in 0..100 {
            assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
        }
    }
    // Without the clearing it ends when the first job comes again.
    let mut vm = TestVm::default();
    vm.job(A, header(JobType::Null, 1, B), &[]);
    vm.job(B, header(JobType::Null, 2, A), &[]);
    let (end, chain) = run(&mut vm, &TestEnv::new(Arch::V7), A);
    assert_eq!(end, Step::Failed(Exception::DATA_INVALID_FAULT));
    assert_eq!(chain.current(), A);
}

#[test]
fn faults_park_and_resume() {
    let mut vm = TestVm::default();
    let c = A + 128;
    vm.job(
        A,
        header(JobType::WriteValue, 1, B),
        &write(WriteKind::Immediate64, TARGET, 7),
    );
    vm.job(B, header(JobType::CacheFlush, 2, c), &[0; 8]);
    vm.job(
        c,
        header(JobType::WriteValue, 3, 0),
        &write(WriteKind::Zero, TARGET + 8, 0),
    );
    check_resume(&vm, Arch::V7, A, Step::Done);
    let mut bad = vm.clone();
    bad.job(B, header(JobType::Compute, 2, c), &[]);
    check_resume(&bad, Arch::V7, A, Step::Failed(Exception::JOB_CONFIG_FAULT));

    // If the fault is never resolved, the header stays unchanged.
    vm.holes.push(TARGET..TARGET + PAGE);
    let mut chain = Chain::new(A);
    for _ in 0..100 {
        let fault = chain.step(&mut vm, &TestEnv::new(Arch::V7)).unwrap_err();
        assert_eq!((fault.va, fault.access), (TARGET, Access::Write));
        assert_eq!(chain.current(), A);
    }
    assert_eq!(vm.status(A), Exception::NOT_STARTED);
    assert_eq!(chain.stats().jobs_done, 0);
}

#[test]
fn no_double_effects() {
    // The value is written, then the header's page goes away; the retry must not overwrite later
    // changes of the value.
    let mut vm = TestVm::default();
    vm.job(
        A,
        header(JobType::WriteValue, 1, 0),
        &write(WriteKind::Immediate64, TARGET, 7),
    );
    let env = TestEnv::new(Arch::V7);
    let mut chain = Chain::new(A);
    // Header, payload, immediate, value; then the status.
    vm.fault_access = Some(4);
    let fault = chain.step(&mut vm, &env).unwrap_err();
    assert_eq!((fault.va, fault.access), (A, Access::Write));
    assert_eq!(vm.peek64(TARGET), 7);
    vm.poke(TARGET, &[9]);
    assert_eq!(chain.step(&mut vm, &env), Ok(Step::Done));
    assert_eq!(vm.peek64(TARGET), 9);
}

#[test]
fn any_bits() {
    // Random descriptors whose pointers to the next one are valid most of the time. There is no
    // result to compare: it must not panic, and steps must end.
    let mut state = 1u64;
    let mut random = move || {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 32) as u32
    };
    let (mut steps, mut done) = (0, 0);
    for round in 0..3000u32 {
        let mut vm = TestVm::default();
        vm.holes.push(0x40_0000..u64::MAX);
        for at in (0..0x1000u64).step_by(4) {
            // Few bits set, so that some pass the checks.
            let word = random() & random() & random();
            vm.poke(A + at, &word.to_le_bytes());
        }
        let types = [2, 3, 5, 7, 9, 9, 9, 10, 11];
        let job_type = JobType::from_bits(types[round as usize % types.len()]);
        vm.poke(
            A,
            &header(job_type, 1, A + 64 * u64::from(random() % 4)).encode(),
        );
        let pointer = |at: u64| (A + at).to_le_bytes();
        if random() % 8 != 0 {
            // The pointer to a framebuffer, whose size and bounds are such that some of it is
            // within the tiles.
            vm.poke(
                A + 40,
                &(A + 0x400 + u64::from((random() % 64) | 1)).to_le_bytes(),
            );
            vm.poke(A + 32, &[0; 8]);
            vm.poke(A + 0x400 + 32, &[99, 0, 99, 0, 3, 0, 3, 0, 98, 0, 98, 0]);
            let count = vm.peek(A + 40, 1)[0];
            let fields = u32::from(count >> 2 & 15) << 19;
            vm.poke(A + 0x400 + 44, &fields.to_le_bytes());
            vm.poke(A + 0x400 + 50, &[4 | (count & 2) << 4]);
            // The pointers to tiler contexts and heaps.
            vm.poke(A + 176, &pointer(0x401));
            vm.poke(A + 72, &pointer(0x800));
            vm.poke(A + 56, &pointer(0x800));
            vm.poke(A + 0x800 + 24, &pointer(0xa00));
            vm.poke(A + 0x800, &u64::from(random() % 2).to_le_bytes());
        }
        for arch in ARCHES {
            let mut vm = vm.clone();
            let mut chain = Chain::new(A);
            for _ in 0..8 {
                match chain.step(&mut vm, &TestEnv::new(arch)) {
                    Ok(Step::Continue) => steps += 1,
                    _ => break,
                }
            }
            done += chain.stats().jobs_done;
        }
    }
    // Some jobs succeed.
    assert!(steps > 1000 && done > 1000, "{steps} steps, {done} jobs");
}
