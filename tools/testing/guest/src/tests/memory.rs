// SPDX-License-Identifier: GPL-2.0

//! Memory that comes back: what is taken under pressure, what survives it, and that it really went.
//! Here what user space gave up, and what goes for all that is taken.

use std::fs;

use model::job::Arch;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs::file;
use crate::debugfs::shrink;
use crate::debugfs::sum;
use crate::debugfs::ALL;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::resident;
use crate::memory::shrink_all;
use crate::memory::wait_for;
use crate::swap::Swap;
use crate::sync::Gate;
use crate::sys;
use crate::uapi;

use super::target;
use super::Random;

pub(super) mod bounce;
pub(super) mod closing;
pub(super) mod evict;
pub(super) mod limits;
pub(super) mod removed;
pub(super) mod waits;

/// Why C panfrost cannot pass what asks its debugfs for reclaim.
pub(super) const NO_KNOB: &str = "it cannot be asked to give memory back";

pub(super) const TESTS: &[Test] = &[
    Test::new("purge-pressure", &["D3", "A3"], pressure),
    Test::new("purge-wanted-again", &["D3", "D5"], wanted_again),
    Test::new("purge-busy", &["A5", "D3"], purge_busy).needs(&[Need::Gate]),
    Test::new("purge-busy-client", &["D3"], purge_busy_client).needs(&[Need::Gate]),
    Test::new("purge-use-by-job", &["D3"], purge_use_by_job)
        .panfrost_fails_on(Arch::V9, super::spaces::BUS_FAULT),
    Test::new("purge-use-by-cpu", &["D3"], purge_use_by_cpu),
    Test::new("purge-oldest-first", &["D2", "D3", "D8"], oldest_first).panfrost_fails(NO_KNOB),
    Test::new("reclaim-parallel", &["D7"], parallel).panfrost_fails(NO_KNOB),
    Test::new("reclaim-debugfs", &["D8"], debugfs).panfrost_fails(NO_KNOB),
];

pub(super) const KIB: usize = 1 << 10;
pub(super) const MIB: usize = 1 << 20;
pub(super) const PAGE: usize = 4096;

/// A BO that is full of words which depend on where they are.
pub(super) fn filled(device: &Device, size: usize, seed: u64) -> Result<Bo, Stop> {
    let bo = device.create(size, uapi::BO_NOEXEC)?;
    bo.map()?.write(0, &content(size, seed));
    Ok(bo)
}

pub(super) fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..size / 8)
        .flat_map(|_| random.next().to_le_bytes())
        .collect()
}

/// Whether a BO has what [`filled`] has put there.
pub(super) fn intact(bo: &Bo, seed: u64) -> Result<bool, Stop> {
    Ok(bo.map()?.bytes(0, bo.size()) == content(bo.size(), seed))
}

/// Under pressure goes all that was given up, and nothing else; and it says so.
fn pressure(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let sizes = [4 * KIB, 12 * KIB, 64 * KIB, 300 * KIB, 2 * MIB];
    let mut kept = Vec::new();
    let mut given_up = Vec::new();
    for (n, size) in sizes.into_iter().cycle().take(40).enumerate() {
        kept.push((filled(&device, size, n as u64)?, n as u64));
        let bo = filled(&device, size, 0)?;
        check!(bo.madvise(uapi::MADV_DONTNEED)?);
        given_up.push(bo);
    }
    let size: usize = given_up.iter().map(Bo::size).sum();
    let before = resident(&device)?;
    shrink_all()?;
    let gone = before - resident(&device)?;
    check!(gone >= size, "{gone} of {size} bytes went");
    for bo in &given_up {
        check!(!bo.madvise(uapi::MADV_WILLNEED)?, "it was not purged");
        // For good.
        check!(!bo.madvise(uapi::MADV_DONTNEED)?);
        check!(!bo.madvise(uapi::MADV_WILLNEED)?);
    }
    for (bo, seed) in &kept {
        check!(intact(bo, *seed)?, "BO {seed} has lost its content");
        check!(bo.madvise(uapi::MADV_WILLNEED)?);
    }
    // The address space goes on as if nothing had happened.
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(kept[0].0.va());
    chain.run(&[&kept[0].0])?;
    check_eq!(kept[0].0.map()?.get64(0), 0);
    Ok(())
}

/// Content that was given up and is wanted again in time stays.
fn wanted_again(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = filled(&device, 256 * KIB, 7)?;
    for _ in 0..3 {
        check!(bo.madvise(uapi::MADV_DONTNEED)?);
        check!(bo.madvise(uapi::MADV_WILLNEED)?);
        shrink_all()?;
        check!(bo.madvise(uapi::MADV_WILLNEED)?);
        check!(intact(&bo, 7)?);
    }
    Ok(())
}

/// A BO that a job still needs is not purged; afterwards it is.
fn purge_busy(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let (bo, map) = target(&device, 64 * KIB)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(bo.va());
    let done = device.syncobj()?;
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], Some(&done))?;
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    shrink_all()?;
    check!(bo.madvise(uapi::MADV_WILLNEED)?, "purged under a job");
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    // The fence is seen a moment before the job lets go.
    let purged = wait_for(PATIENCE, || {
        shrink_all()?;
        Ok(!bo.madvise(uapi::MADV_DONTNEED)?)
    })?;
    check!(purged, "it is not purged when the job is done");
    Ok(())
}

/// A BO that was given up goes although its client keeps the GPU busy, if no job lists it.
fn purge_busy_client(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let (listed, map) = target(&device, 64 * KIB)?;
    let first = filled(&device, 64 * KIB, 16)?;
    let cache = (0..16)
        .map(|n| filled(&device, 64 * KIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(listed.va());
    let done = device.syncobj()?;
    chain.submit(&[&first, &listed], &[&gate.syncobj(&device)?], Some(&done))?;
    // The cache is between BOs that are busy.
    for bo in [&first].into_iter().chain(&cache).chain([&listed]) {
        check!(bo.madvise(uapi::MADV_DONTNEED)?);
    }
    shrink_all()?;
    let mut kept = 0;
    for bo in &cache {
        kept += usize::from(bo.madvise(uapi::MADV_WILLNEED)?);
    }
    check_eq!(kept, 0, "BOs that no job lists");
    for bo in [&first, &listed] {
        check!(
            bo.madvise(uapi::MADV_WILLNEED)?,
            "purged under a job that lists it"
        );
    }
    check!(intact(&first, 16)?);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    // The address space goes on.
    chain.rearm();
    map.fill(super::PATTERN);
    chain.run(&[&listed])?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    Ok(())
}

/// A job that uses a purged BO faults; one that merely lists it does not. Others are not disturbed.
fn purge_use_by_job(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = filled(&device, 64 * KIB, 1)?;
    let (next, map) = target(&device, PAGE)?;
    let mut lists = Chain::new(&device, PAGE)?;
    lists.zero(next.va());
    // Made before the purge, as C panfrost gives the addresses away then.
    let mut uses = Chain::new(&device, PAGE)?;
    uses.zero(bo.va());
    let mut other = Chain::new(&device, PAGE)?;
    other.zero(next.va() + 64);

    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    shrink_all()?;
    check!(!bo.madvise(uapi::MADV_WILLNEED)?, "it was not purged");

    lists.run(&[&bo, &next])?;
    check_eq!(lists.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    // Waiting does not tell the error that the fence has.
    uses.run(&[&bo])?;
    check!(uses.statuses() != [DONE], "it has written somewhere");
    other.run(&[&next])?;
    check_eq!(other.statuses(), [DONE]);
    check_eq!(map.get64(64), 0);
    Ok(())
}

/// The CPU does not find another content in a purged BO either.
fn purge_use_by_cpu(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = filled(&device, 64 * KIB, 1)?;
    let map = bo.map()?;
    map.get32(0);
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    shrink_all()?;
    check!(!bo.madvise(uapi::MADV_WILLNEED)?, "it was not purged");
    check_eq!(signal_of(|| map.get32(0))?, libc::SIGBUS);
    check_eq!(signal_of(|| map.get32(60 * KIB))?, libc::SIGBUS);
    Ok(())
}

/// The signal that ends a process which does this.
fn signal_of<T>(f: impl FnOnce() -> T) -> Result<i32, Stop> {
    // SAFETY: the child does nothing but `f`, and ends.
    match unsafe { libc::fork() } {
        -1 => Err(sys::Errno::last().into()),
        0 => {
            let _ = f();
            // SAFETY: ends this process only.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: our child; room for the status.
            if unsafe { libc::waitpid(child, &mut status, 0) } == -1 {
                return Err(sys::Errno::last().into());
            }
            check!(libc::WIFSIGNALED(status), "wait status {status:#x}");
            Ok(libc::WTERMSIG(status))
        }
    }
}

/// BOs are purged whole, in the order in which they were given up, until enough pages are free.
fn oldest_first(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bos = (0..6)
        .map(|n| filled(&device, 64 * KIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    let order = [3, 1, 5, 0, 4];
    for n in order {
        check!(bos[n].madvise(uapi::MADV_DONTNEED)?);
    }
    let before = resident(&device)?;
    // 16 pages, and one more.
    check_eq!(shrink(gpu, 17)?, 32);
    check_eq!(before - resident(&device)?, 128 * KIB);
    for (place, n) in order.into_iter().enumerate() {
        check_eq!(bos[n].madvise(uapi::MADV_DONTNEED)?, place >= 2, "BO {n}");
    }
    check_eq!(shrink(gpu, ALL)?, 48);
    check_eq!(shrink(gpu, ALL)?, 0, "nothing is left");
    check!(intact(&bos[2], 2)?);
    Ok(())
}

/// Many at once: creating, using and giving up BOs while memory is asked for all the time.
fn parallel(gpu: &Gpu) -> Outcome {
    const ROUNDS: u64 = 12;
    let _swap = Swap::on(64 * MIB)?;
    let work = |thread: u64| -> Outcome {
        let device = gpu.open()?;
        let mut random = Random(thread);
        for round in 0..ROUNDS {
            let seed = thread << 32 | round;
            let kept = filled(&device, (random.below(60) as usize + 1) * 4 * KIB, seed)?;
            let cached = filled(&device, 128 * KIB, seed)?;
            let (bo, map) = target(&device, 32 * KIB)?;
            let mut chain = Chain::new(&device, PAGE)?;
            chain.zero(bo.va() + 8 * round);
            let done = device.syncobj()?;
            chain.submit(&[&bo], &[], Some(&done))?;
            // Not retained if it had been evicted: the content goes at once then.
            cached.madvise(uapi::MADV_DONTNEED)?;
            done.wait(PATIENCE)?;
            check_eq!(chain.statuses(), [DONE]);
            check_eq!(map.get64(8 * round as usize), 0);
            check_eq!(map.get64(8 * round as usize + 8), super::PATTERN64);
            if cached.madvise(uapi::MADV_WILLNEED)? {
                check!(intact(&cached, seed)?, "retained, but not the same");
            }
            check!(intact(&kept, seed)?);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=3)
            .map(|n| {
                let work = &work;
                scope.spawn(move || work(n))
            })
            .collect();
        let mut taken = 0;
        while !threads.iter().all(|thread| thread.is_finished()) {
            taken += shrink(gpu, 64)?;
            shrink_all()?;
        }
        for thread in threads {
            thread.join().map_err(|_| Stop::fail("a thread panics"))??;
        }
        check!(taken > 0, "nothing was ever taken");
        Ok(())
    })
}

/// The figures are there and add up; nonsense is refused.
fn debugfs(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (total, in_memory) = (sum(gpu, "total")?, sum(gpu, "resident")?);
    let (purgeable, purged) = (sum(gpu, "purgeable")?, sum(gpu, "purged")?);
    let bo = filled(&device, 64 * KIB, 1)?;
    bo.label("shown in debugfs")?;
    let heap = device.create(4 * MIB, uapi::BO_NOEXEC | uapi::BO_HEAP)?;
    let line = || -> Result<String, Stop> {
        let text = fs::read_to_string(file(gpu, "gems"))?;
        let line = text.lines().find(|line| line.contains("shown in debugfs"));
        Ok(line
            .ok_or_else(|| Stop::fail("the BO is not there"))?
            .to_owned())
    };
    let words = line()?;
    let words: Vec<_> = words.split_whitespace().collect();
    let pid = std::process::id().to_string();
    check_eq!(
        words[..7],
        [&pid, "1", "1", "0", "65536", "65536", "resident"]
    );
    check_eq!(sum(gpu, "total")? - total, bo.size() + heap.size());
    check_eq!(sum(gpu, "resident")? - in_memory, bo.size());
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    check_eq!(sum(gpu, "purgeable")? - purgeable, bo.size());
    check_eq!(shrink(gpu, 1)?, 16);
    check!(line()?.contains("purged"));
    check_eq!(sum(gpu, "purged")? - purged, bo.size());
    check_eq!(sum(gpu, "resident")?, in_memory);
    for nonsense in ["x", "-1", "1 2", &"9".repeat(40)] {
        let written = fs::write(file(gpu, "shrink"), nonsense);
        check!(written.is_err(), "{nonsense:?} is accepted");
    }
    Ok(())
}
