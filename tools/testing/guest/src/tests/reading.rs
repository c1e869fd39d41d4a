// SPDX-License-Identifier: GPL-2.0

//! The GPU reads ordinary BOs: jobs of the GPU model's own copy their content, add it up or fetch
//! it as code.
//!
//! Every other job only reads descriptors. On a real GPU these tests are skipped.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use model::desc::MemoryJob;
use model::job::Arch;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs::shrink;
use crate::debugfs::ALL;
use crate::device::Device;
use crate::dmabuf;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::resident;
use crate::memory::wait_for;
use crate::swap::Swap;
use crate::sys::Errno;
use crate::sys::Mapping;
use crate::uapi;

use super::memory::content;
use super::memory::filled;
use super::memory::KIB;
use super::memory::MIB;
use super::memory::NO_KNOB;
use super::memory::PAGE;
use super::target;
use super::works;
use super::Random;
use super::PATTERN64;

pub(super) const TESTS: &[Test] = &[
    Test::new("reading-cpu-writes", &["C1"], cpu_writes).needs(&[Need::Board]),
    Test::new("reading-job-writes", &["C1"], job_writes).needs(&[Need::Board]),
    Test::new("reading-evicted", &["D4", "J1"], evicted)
        .needs(&[Need::Board])
        .panfrost_fails(NO_KNOB),
    Test::new("reading-imported", &["A1", "J1"], imported).needs(&[Need::Board]),
    Test::new("reading-foreign", &["A1", "J1"], foreign).needs(&[Need::Board, Need::Card]),
    Test::new("reading-user-memory", &["E1"], user_memory).needs(&[Need::Board, Need::Userptr]),
    Test::new("reading-code", &["B5"], code)
        .needs(&[Need::Board])
        .panfrost_fails_on(Arch::V9, super::spaces::BUS_FAULT),
];

/// Adds up as the GPU does.
fn sum_of(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(4).fold(0, |sum, word| {
        let word = word
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u32::from(byte));
        sum.wrapping_add(word)
    })
}

/// Has the GPU copy `source` and add it up; checks that both give `expected`.
fn check_read(device: &Device, source: &Bo, expected: &[u8]) -> Outcome {
    let (copy, map) = target(device, expected.len() + PAGE)?;
    let sum = copy.va() + expected.len() as u64;
    let mut chain = Chain::new(device, PAGE)?;
    chain.copy(source.va(), copy.va(), expected.len());
    chain.sum(source.va(), sum, expected.len());
    chain.run(&[source, &copy])?;
    check_eq!(chain.statuses(), [DONE; 2]);
    let found = map.bytes(0, expected.len());
    let same = found.iter().zip(expected).take_while(|(a, b)| a == b);
    check_eq!(same.count(), expected.len(), "the first byte that differs");
    let sum = map.get64(expected.len());
    let wanted = PATTERN64 & !0xffff_ffff | u64::from(sum_of(expected));
    check_eq!(sum, wanted);
    Ok(())
}

/// A job reads what the CPU has written before the submit, each time anew.
fn cpu_writes(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let size = 3 * MIB + 5 * PAGE;
    let mut expected = content(size, 1);
    let bo = filled(&device, size, 1)?;
    let map = bo.map()?;
    let mut random = Random(2);
    for _ in 0..8 {
        check_read(&device, &bo, &expected)?;
        for _ in 0..20 {
            let at = random.below(size as u64 / 8) as usize * 8;
            let word = random.next();
            map.put64(at, word);
            expected[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
    // At any address and of any length, and nothing more than that.
    let (copy, seen) = target(&device, 4 * PAGE)?;
    for (from, to, length) in [(1, 2, 1), (4095, 3, 2), (4097, 4095, 8191), (8, 8, 0)] {
        seen.fill(super::PATTERN);
        let mut chain = Chain::new(&device, PAGE)?;
        let job = chain.copy(bo.va() + from as u64, copy.va() + to as u64, length);
        chain.run(&[&bo, &copy])?;
        check_eq!(chain.status(job), DONE);
        check!(seen.bytes(to, length) == expected[from..from + length]);
        for outside in [to - 1, to + length] {
            check_eq!(seen.bytes(outside, 1), [super::PATTERN]);
        }
    }
    Ok(())
}

/// A job reads what the one before it has written: in the same chain, if it waits, and in another
/// slot, which waits for the BO's fence.
fn job_writes(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let source = filled(&device, 64 * KIB, 3)?;
    let expected = content(64 * KIB, 3);
    let bos = (0..4)
        .map(|_| target(&device, 64 * KIB))
        .collect::<Result<Vec<_>, _>>()?;
    let mut chains = Vec::new();
    let mut from = &source;
    for (n, (to, _)) in bos.iter().enumerate() {
        let mut chain = Chain::new(&device, PAGE)?;
        let half = 32 * KIB as u64;
        chain.copy(from.va(), to.va(), 32 * KIB);
        // From what the first has just written, and over that.
        let second = chain.copy(to.va(), to.va() + half, 32 * KIB);
        let third = chain.copy(from.va() + half, to.va() + half, 32 * KIB);
        chain.edit(second, |job| job.barrier = true);
        chain.edit(third, |job| job.barrier = true);
        if n % 2 == 0 {
            chain.require(uapi::REQ_FS);
        }
        chain.submit(&[from, to], &[], None)?;
        chains.push(chain);
        from = to;
    }
    let (last, map) = &bos[3];
    last.wait(PATIENCE)?;
    for chain in &chains {
        check_eq!(chain.statuses(), [DONE; 3]);
    }
    check!(map.bytes(0, 64 * KIB) == expected);
    Ok(())
}

/// Content that was evicted and comes back for a job is the same as before.
fn evicted(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    // Jobs that have just ended may have their BOs a moment longer.
    let evict = || {
        wait_for(PATIENCE, || {
            shrink(gpu, ALL)?;
            Ok(resident(&device)? == 0)
        })
    };
    for size in [PAGE, 300 * KIB, 2 * MIB + 12 * KIB] {
        let bo = filled(&device, size, 4)?;
        let mut expected = content(size, 4);
        let map = bo.map()?;
        for round in 0..3 {
            evict()?;
            check_read(&device, &bo, &expected)?;
            // Changed by the CPU while it is away, which brings it back.
            evict()?;
            map.put32(size - 4, round);
            expected[size - 4..].copy_from_slice(&round.to_le_bytes());
        }
    }
    Ok(())
}

/// A file reads what another one exports, whoever has written it last.
fn imported(gpu: &Gpu) -> Outcome {
    let owner = gpu.open()?;
    let reader = gpu.open()?;
    let size = MIB;
    let bo = filled(&owner, size, 5)?;
    let mut expected = content(size, 5);
    let dmabuf = bo.export()?;
    let shared = Bo::import(&reader, dmabuf.as_fd(), size)?;
    let map = bo.map()?;
    for round in 0..4u64 {
        check_read(&reader, &shared, &expected)?;
        let at = round as usize * 64 * KIB;
        map.put64(at, round);
        expected[at..at + 8].copy_from_slice(&round.to_le_bytes());
        // And a job of the owner.
        let mut chain = Chain::new(&owner, PAGE)?;
        chain.zero(bo.va() + at as u64 + 512);
        chain.run(&[&bo])?;
        expected[at + 512..at + 520].fill(0);
    }
    Ok(())
}

/// The same of another card's buffer.
fn foreign(gpu: &Gpu) -> Outcome {
    let Some((dmabuf, size)) = dmabuf::foreign(512, 512)? else {
        return Err(Stop::Skip("no second card".into()));
    };
    let map = Mapping::new(dmabuf.as_fd(), 0, size)?;
    let device = gpu.open()?;
    let bo = Bo::import(&device, dmabuf.as_fd(), size)?;
    for seed in 6..9 {
        let expected = content(size, seed);
        map.write(0, &expected);
        check_read(&device, &bo, &expected)?;
    }
    Ok(())
}

/// A job reads what the process has written to its memory, also where pages have been replaced.
fn user_memory(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let size = 300 * KIB;
    // SAFETY: a name, and no flags.
    let fd = unsafe { libc::memfd_create(c"reading".as_ptr(), 0) };
    if fd < 0 {
        return Err(Errno::last().into());
    }
    // SAFETY: the kernel has just opened it for us.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(size as u64)?;
    let map = Mapping::new(file.as_fd(), 0, size)?;
    let writable = Bo::over_memory(&device, map.address(), size, 0)?;
    let flags = uapi::USERPTR_READONLY;
    let read_only = Bo::over_memory(&device, map.address(), size, flags)?;
    for seed in 10..14 {
        let expected = content(size, seed);
        map.write(0, &expected);
        check_read(&device, &writable, &expected)?;
        check_read(&device, &read_only, &expected)?;
        // New pages, without content.
        file.set_len(0)?;
        file.set_len(size as u64)?;
        check_read(&device, &writable, &vec![0; size])?;
    }
    Ok(())
}

/// Code is fetched from BOs that are for execution, and from no others, which are read all the
/// same.
fn code(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for (flags, allowed) in [(0, true), (uapi::BO_NOEXEC, false), (0, true)] {
        let bo = device.create(2 * PAGE, flags)?;
        let expected = content(bo.size(), 15);
        bo.map()?.write(0, &expected);
        check_read(&device, &bo, &expected)?;
        let (copy, map) = target(&device, bo.size())?;
        let mut chain = Chain::new(&device, PAGE)?;
        let job = chain.memory(&MemoryJob {
            source: bo.va(),
            target: copy.va(),
            length: bo.size() as u32,
            flags: MemoryJob::FETCH,
            ..Default::default()
        });
        chain.run(&[&bo, &copy])?;
        check_eq!(chain.status(job) == DONE, allowed, "flags {flags}");
        let expected = if allowed {
            expected
        } else {
            vec![super::PATTERN; bo.size()]
        };
        check!(map.bytes(0, bo.size()) == expected, "flags {flags}");
        works(&device)?;
    }
    Ok(())
}
