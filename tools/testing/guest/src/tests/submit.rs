// SPDX-License-Identifier: GPL-2.0

//! Job chains without pixels.

use model::desc::CacheFlush;
use model::desc::JobHeader;
use model::desc::JobType;
use model::desc::WriteKind;
use model::job::Arch;

use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Test;
use crate::uapi;

use super::target;
use super::PATTERN64;

pub(super) const TESTS: &[Test] = &[
    Test::new("submit-null", &["C1"], null),
    Test::new("submit-write-value", &["C1"], write_value),
    Test::new("submit-counters", &["C1"], counters).needs(&[Need::Minor(3)]),
    Test::new("submit-cache-flush", &["C1"], cache_flush),
    Test::new("submit-chain", &["C1"], chain),
    Test::new("submit-dependencies", &["C1"], dependencies),
    Test::new("submit-again", &["C1"], again),
    Test::new("submit-many", &["C1", "C6"], many),
    Test::new("submit-no-bos", &["C1"], no_bos),
    Test::new("submit-both-slots", &["C1"], both_slots),
    Test::new("submit-bad-job", &["B5", "C4"], bad_job),
    Test::new("submit-bad-middle", &["B5", "C4"], bad_middle),
];

fn null(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let mut chain = Chain::new(&device, 4096)?;
    let job = chain.null();
    chain.run(&[])?;
    check_eq!(chain.status(job), DONE);
    check_eq!(chain.header(job).fault_pointer, 0);
    Ok(())
}

fn write_value(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 4096)?;
    let value = 0x0123_4567_89ab_cdef;
    let cases = [
        (WriteKind::Zero, 0, 8),
        (WriteKind::Immediate8, value, 1),
        (WriteKind::Immediate16, value, 2),
        (WriteKind::Immediate32, value, 4),
        (WriteKind::Immediate64, value, 8),
    ];
    let mut chain = Chain::new(&device, 4096)?;
    let arch = chain.arch();
    let cases = cases.into_iter().filter(|case| case.0.size(arch).is_some());
    let cases: Vec<_> = cases.collect();
    for (n, &(kind, value, _)) in cases.iter().enumerate() {
        chain.write(bo.va() + 64 * n as u64, kind, value);
    }
    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), vec![DONE; cases.len()]);
    for (n, (kind, value, bytes)) in cases.into_iter().enumerate() {
        let mut wanted = PATTERN64.to_le_bytes();
        wanted[..bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        check_eq!(map.get64(64 * n), u64::from_le_bytes(wanted), "{kind:?}");
        check_eq!(map.get64(64 * n + 8), PATTERN64, "{kind:?}");
    }
    Ok(())
}

/// Counters that jobs read run forward.
fn counters(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 4096)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.require(uapi::REQ_CYCLE_COUNT);
    for (n, kind) in [WriteKind::CycleCounter, WriteKind::SystemTimestamp]
        .into_iter()
        .cycle()
        .take(4)
        .enumerate()
    {
        chain.write(bo.va() + 8 * n as u64, kind, 0);
    }
    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), [DONE; 4]);
    let [cycles, time, cycles2, time2] = [0, 8, 16, 24].map(|at| map.get64(at));
    check!(cycles2 > cycles, "cycles from {cycles} to {cycles2}");
    check!(time2 >= time, "time from {time} to {time2}");
    check!(time != PATTERN64 && time != 0, "the time is {time:#x}");
    Ok(())
}

fn cache_flush(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let mut chain = Chain::new(&device, 4096)?;
    let flush = CacheFlush {
        flags: CacheFlush::CLEAN_L2 | CacheFlush::INVALIDATE_L2,
    };
    let job = chain.job(JobHeader::new(JobType::CacheFlush), &flush.encode());
    chain.run(&[])?;
    check_eq!(chain.status(job), DONE);
    Ok(())
}

fn chain(gpu: &Gpu) -> Outcome {
    const JOBS: usize = 200;
    let device = gpu.open()?;
    let (bo, map) = target(&device, 16 * JOBS)?;
    let mut chain = Chain::new(&device, 256 * JOBS)?;
    for n in 0..JOBS {
        if n % 3 == 0 {
            chain.null();
        }
        chain.zero(bo.va() + 16 * n as u64);
    }
    chain.run(&[&bo])?;
    check!(chain.statuses().iter().all(|&status| status == DONE));
    for n in 0..JOBS {
        check_eq!(map.get64(16 * n), 0, "job {n}");
        check_eq!(map.get64(16 * n + 8), PATTERN64, "after job {n}");
    }
    Ok(())
}

/// Two writers and one that waits for both and overwrites what they wrote.
fn dependencies(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 4096)?;
    let mut chain = Chain::new(&device, 4096)?;
    let first = chain.zero(bo.va());
    let second = chain.zero(bo.va() + 8);
    let third = if chain.arch() == Arch::V5 {
        chain.zero(bo.va() + 4)
    } else {
        chain.write(bo.va() + 4, WriteKind::Immediate64, u64::MAX)
    };
    let last = chain.null();
    chain.edit(first, |job| job.index = 1);
    chain.edit(second, |job| job.index = 2);
    chain.edit(third, |job| {
        job.index = 3;
        job.dependency_1 = 1;
        job.dependency_2 = 2;
    });
    chain.edit(last, |job| {
        job.index = 4;
        job.barrier = true;
    });
    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), [DONE; 4]);
    if chain.arch() == Arch::V5 {
        check_eq!([map.get64(0), map.get64(8)], [0, 0]);
    } else {
        check_eq!(
            [map.get32(0), map.get32(4), map.get32(8), map.get32(12)],
            [0, u32::MAX, u32::MAX, 0]
        );
    }
    check_eq!(map.get64(16), PATTERN64);
    Ok(())
}

/// The same chain, made fresh by the CPU between runs, as panvk does.
fn again(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 4096)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    chain.zero(bo.va());
    for round in 0..20 {
        map.put64(0, PATTERN64);
        chain.rearm();
        check_eq!(chain.statuses(), [NOT_STARTED; 2]);
        chain.run(&[&bo])?;
        check_eq!(chain.statuses(), [DONE; 2], "round {round}");
        check_eq!(map.get64(0), 0, "round {round}");
    }
    Ok(())
}

/// Far more than the hardware queues, all before the first is waited for; in order.
fn many(gpu: &Gpu) -> Outcome {
    const CHAINS: usize = 120;
    let device = gpu.open()?;
    let (bo, map) = target(&device, 8 * CHAINS)?;
    let done = device.syncobj()?;
    let mut chains = Vec::new();
    for n in 0..CHAINS {
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(bo.va() + 8 * n as u64);
        chain.submit(&[&bo], &[], Some(&done))?;
        chains.push(chain);
    }
    done.wait(PATIENCE)?;
    for (n, chain) in chains.iter().enumerate() {
        check_eq!(chain.statuses(), [DONE], "chain {n}");
        check_eq!(map.get64(8 * n), 0, "chain {n}");
    }
    Ok(())
}

/// The list is for synchronisation: what is not on it is mapped all the same.
fn no_bos(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 4096)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.zero(bo.va());
    let done = device.syncobj()?;
    device.submit(crate::device::Job {
        head: chain.head(),
        signal: Some(&done),
        ..Default::default()
    })?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    Ok(())
}

fn both_slots(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let mut chains = Vec::new();
    for n in 0..30 {
        let mut chain = Chain::new(&device, 4096)?;
        chain.null();
        if n % 2 == 0 {
            chain.require(uapi::REQ_FS);
        }
        let done = device.syncobj()?;
        chain.submit(&[], &[], Some(&done))?;
        chains.push((chain, done));
    }
    for (chain, done) in &chains {
        done.wait(PATIENCE)?;
        check_eq!(chain.statuses(), [DONE]);
    }
    Ok(())
}

/// A chain that the hardware refuses ends, and what comes after it runs.
fn bad_job(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for bad in [JobType::NotStarted, JobType::Other(99)] {
        let mut chain = Chain::new(&device, 4096)?;
        let job = chain.job(JobHeader::new(bad), &[]);
        chain.run(&[])?;
        check!(chain.status(job) != DONE, "{bad:?} is done");
        null(gpu)?;
        let mut good = Chain::new(&device, 4096)?;
        good.null();
        good.run(&[])?;
        check_eq!(good.statuses(), [DONE]);
    }
    Ok(())
}

/// Jobs before a bad one are done, those that depend on it are not.
fn bad_middle(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 4096)?;
    let mut chain = Chain::new(&device, 4096)?;
    let first = chain.zero(bo.va());
    let bad = chain.job(JobHeader::new(JobType::Other(99)), &[]);
    let last = chain.zero(bo.va() + 64);
    chain.edit(bad, |job| job.index = 1);
    chain.edit(last, |job| {
        job.dependency_1 = 1;
        job.barrier = true;
    });
    chain.run(&[&bo])?;
    check_eq!(chain.status(first), DONE);
    check_eq!(map.get64(0), 0);
    check!(chain.status(bad) != DONE);
    check!(chain.status(last) != DONE);
    check_eq!(map.get64(64), PATTERN64);
    null(gpu)
}
