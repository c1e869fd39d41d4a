// SPDX-License-Identifier: GPL-2.0

//! Eviction: idle BOs leave memory, whole, and come back when they are needed.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use model::control::Opcode;
use model::control::Stat;
use model::desc::WriteKind;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs::shrink;
use crate::debugfs::sum;
use crate::debugfs::ALL;
use crate::failing::Failing;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::resident;
use crate::memory::wait_for;
use crate::swap::Swap;
use crate::sync::Gate;
use crate::sys;
use crate::sys::Mapping;
use crate::uapi;

use super::super::target;
use super::super::PATTERN;
use super::super::PATTERN64;
use super::content;
use super::filled;
use super::intact;
use super::KIB;
use super::MIB;
use super::NO_KNOB;
use super::PAGE;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("evict-idle", &["D4", "D8"], idle).panfrost_fails(NO_KNOB),
    Test::new("evict-use-by-cpu", &["D4"], use_by_cpu).panfrost_fails(NO_KNOB),
    Test::new("evict-use-by-job", &["D4", "D6"], use_by_job).panfrost_fails(NO_KNOB),
    Test::new("evict-swapped", &["D4"], swapped).panfrost_fails(NO_KNOB),
    Test::new("evict-busy", &["D4", "D7"], busy)
        .needs(&[Need::Gate])
        .panfrost_fails(NO_KNOB),
    Test::new("evict-closed", &["A3", "D4"], closed).panfrost_fails(NO_KNOB),
    Test::new("evict-no-swap", &["D4"], no_swap).panfrost_fails(NO_KNOB),
    Test::new("evict-stuck-mmu", &["D4"], stuck)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(NO_KNOB),
    Test::new("evict-one-flush", &["D4"], one_flush)
        .needs(&[Need::Board])
        .panfrost_fails(NO_KNOB),
    Test::new("evict-no-memory", &["D4"], no_memory)
        .needs(&[Need::FaultInjection])
        .panfrost_fails(NO_KNOB),
];

/// Idle BOs leave memory, whole and with the counters, and come back by themselves.
fn idle(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let bos = (0..20)
        .map(|n| filled(&device, (n as usize % 5 + 1) * 60 * KIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    let size: usize = bos.iter().map(Bo::size).sum();
    let evicted = sum(gpu, "evicted")?;
    check_eq!(resident(&device)?, size);
    check_eq!(shrink(gpu, ALL)?, size / PAGE);
    check_eq!(resident(&device)?, 0);
    check_eq!(sum(gpu, "evicted")? - evicted, size);
    check_eq!(shrink(gpu, ALL)?, 0);
    for (n, bo) in bos.iter().enumerate() {
        check!(bo.madvise(uapi::MADV_WILLNEED)?, "evicted is not purged");
        check!(intact(bo, n as u64)?, "BO {n} comes back as another");
    }
    check_eq!(resident(&device)?, size);
    check_eq!(sum(gpu, "evicted")?, evicted);
    Ok(())
}

/// Mappings of the CPU stay good over it, and what is written counts.
fn use_by_cpu(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let (bo, map) = target(&device, 2 * MIB + 12 * KIB)?;
    for round in 0..4u32 {
        map.put32(round as usize * 512 * KIB, round);
        check_eq!(shrink(gpu, ALL)?, bo.size() / PAGE);
        for old in 0..=round {
            check_eq!(map.get32(old as usize * 512 * KIB), old);
        }
        check_eq!(map.get32(bo.size() - 4) as u8, PATTERN);
    }
    Ok(())
}

/// A job finds its memory, named in the submit or not, and so does the CPU what the job has written.
fn use_by_job(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let (named, first) = target(&device, 64 * KIB)?;
    let (unnamed, second) = target(&device, 2 * MIB)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(named.va() + 8);
    chain.zero(unnamed.va() + MIB as u64);
    for round in 0..3 {
        first.fill(PATTERN);
        second.fill(PATTERN);
        chain.rearm();
        // The first time the address space has not been in the hardware, later it is.
        let all = named.size() + unnamed.size() + PAGE;
        evict(gpu, all)?;
        check_eq!(resident(&device)?, 0, "round {round}");
        chain.run(&[&named])?;
        check_eq!(resident(&device)?, all);
        check_eq!(chain.statuses(), [DONE, DONE], "round {round}");
        check_eq!(first.get64(8), 0);
        check_eq!(first.get64(0), PATTERN64);
        check_eq!(second.get64(MIB), 0);
        check_eq!(second.get64(MIB + 8), PATTERN64);
    }
    Ok(())
}

/// Evicts so many bytes, which a job that has just ended may have a moment longer.
pub(in super::super) fn evict(gpu: &Gpu, bytes: usize) -> Outcome {
    let mut pages = 0;
    wait_for(PATIENCE, || {
        pages += shrink(gpu, ALL)?;
        Ok(pages >= bytes / PAGE)
    })?;
    check_eq!(pages, bytes / PAGE);
    Ok(())
}

/// Evicted pages really can leave memory: they go to swap, and the content survives that.
fn swapped(gpu: &Gpu) -> Outcome {
    let swap = Swap::on(64 * MIB)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let bos = (0..16)
        .map(|n| filled(&device, MIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    let used = swap.used()?;
    check_eq!(shrink(gpu, ALL)?, 16 * MIB / PAGE);
    group.reclaim(16 * MIB)?;
    let out = swap.used()?.saturating_sub(used);
    check!(out >= 8 * MIB, "{out} bytes are in swap");
    let mut chain = Chain::new(&device, PAGE)?;
    for bo in &bos {
        chain.write(bo.va() + 64, WriteKind::Zero, 0);
    }
    chain.run(&[])?;
    for (n, bo) in bos.iter().enumerate() {
        let mut expected = content(MIB, n as u64);
        expected[64..72].fill(0);
        check!(bo.map()?.bytes(0, MIB) == expected, "BO {n}");
    }
    Ok(())
}

/// A control group for this process, by which its memory can be asked for.
pub(in super::super) struct MemoryGroup(PathBuf);

impl MemoryGroup {
    pub(in super::super) fn enter() -> Result<Self, Stop> {
        let root = Path::new("/tmp/cgroup");
        fs::create_dir_all(root)?;
        if !root.join("cgroup.procs").exists() {
            // SAFETY: three strings that end, and no data.
            let ret = unsafe {
                libc::mount(
                    c"none".as_ptr(),
                    c"/tmp/cgroup".as_ptr(),
                    c"cgroup2".as_ptr(),
                    0,
                    std::ptr::null(),
                )
            };
            if ret == -1 {
                return Err(sys::Errno::last().into());
            }
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory")?;
        let group = root.join(format!("test-{}", std::process::id()));
        fs::create_dir(&group)?;
        fs::write(group.join("cgroup.procs"), "0")?;
        Ok(Self(group))
    }

    /// Has the kernel take so many bytes, or as many as it can.
    pub(in super::super) fn reclaim(&self, bytes: usize) -> Outcome {
        for _ in 0..4 {
            match fs::write(
                self.0.join("memory.reclaim"),
                format!("{bytes} swappiness=200"),
            ) {
                Ok(()) => break,
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// As long as a job is under way, nothing of its address space leaves; whoever asks is not kept waiting
/// for it to end.
fn busy(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let other = gpu.open()?;
    let gate = Gate::new()?;
    let (named, first) = target(&device, 64 * KIB)?;
    let (unnamed, second) = target(&device, 64 * KIB)?;
    let idle_bo = filled(&other, 64 * KIB, 3)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(named.va());
    chain.zero(unnamed.va());
    let done = device.syncobj()?;
    chain.submit(&[&named], &[&gate.syncobj(&device)?], Some(&done))?;
    let before = resident(&device)?;
    check_eq!(shrink(gpu, ALL)?, 16, "those of the other file");
    check_eq!(resident(&device)?, before);
    check_eq!(resident(&other)?, 0);
    check!(!done.signalled()?);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE, DONE]);
    check_eq!(first.get64(0), 0);
    check_eq!(second.get64(0), 0);
    check!(intact(&idle_bo, 3)?);
    Ok(())
}

/// What only a mapping of the CPU is left of holds no memory for ever.
fn closed(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let total = sum(gpu, "total")?;
    let (bo, map): (Bo, Mapping) = target(&device, 256 * KIB)?;
    let before = sum(gpu, "resident")?;
    bo.close()?;
    evict(gpu, 256 * KIB)?;
    check_eq!(before - sum(gpu, "resident")?, 256 * KIB);
    check_eq!(map.get32(100 * KIB) as u8, PATTERN);
    drop(map);
    check_eq!(sum(gpu, "total")?, total);
    Ok(())
}

/// Without room in swap there is nowhere to go.
fn no_swap(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = filled(&device, 64 * KIB, 9)?;
    check_eq!(shrink(gpu, ALL)?, 0);
    check_eq!(resident(&device)?, bo.size());
    check!(intact(&bo, 9)?);
    Ok(())
}

/// If the GPU's MMU does not answer, nobody else gets the pages that it may still reach; and when it
/// does again, all is as before.
fn stuck(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let (bo, map) = target(&device, 64 * KIB)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(bo.va());
    // Now the address space is in the hardware.
    chain.run(&[&bo])?;
    let board = Board::open()?;
    let resets = board.stat(Stat::SoftResets);
    board.order(Opcode::StickAsCommand, &[1])?;
    for _ in 0..5 {
        let taken = shrink(gpu, ALL)?;
        // The driver asks for a reset, by which the GPU forgets everything.
        check!(
            taken == 0 || board.stat(Stat::SoftResets) != resets,
            "{taken} pages given away before the GPU has forgotten them"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    board.order(Opcode::StickAsCommand, &[0])?;
    map.fill(PATTERN);
    chain.rearm();
    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    check_eq!(map.get64(8), PATTERN64);
    Ok(())
}

/// However many BOs of an address space go at a time, the MMU flushes once.
fn one_flush(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let bos = (0..10)
        .map(|n| filled(&device, 64 * KIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    let mut chain = Chain::new(&device, PAGE)?;
    for bo in &bos {
        chain.zero(bo.va());
    }
    chain.run(&[])?;
    let board = Board::open()?;
    let before = board.stat(Stat::AsFlushes);
    check_eq!(shrink(gpu, ALL)?, (10 * 64 * KIB + PAGE) / PAGE);
    let flushes = board.stat(Stat::AsFlushes).wrapping_sub(before);
    check!(flushes <= 1, "{flushes} flushes");
    chain.rearm();
    chain.run(&[])?;
    check_eq!(chain.statuses(), [DONE; 10]);
    Ok(())
}

/// Whichever allocation fails while memory is brought back: the submit says so, nothing is lost, and the
/// next one works.
fn no_memory(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let failing = Failing::new()?;
    let device = gpu.open()?;
    let (named, map) = target(&device, 64 * KIB)?;
    let unnamed = filled(&device, 256 * KIB, 5)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(named.va());
    let done = device.syncobj()?;
    let all = named.size() + unnamed.size() + PAGE;
    let mut refused = 0;
    for nth in 1..1000 {
        map.fill(PATTERN);
        chain.rearm();
        evict(gpu, all)?;
        let (submitted, failed) = failing.nth(nth, || chain.submit(&[&named], &[], Some(&done)))?;
        match submitted {
            Ok(()) => {
                done.wait(PATIENCE)?;
                check_eq!(chain.statuses(), [DONE]);
                check_eq!(map.get64(0), 0);
            }
            Err(sys::Errno(libc::ENOMEM)) => {
                refused += 1;
                check!(failed, "no memory, says allocation {nth}");
                check_eq!(chain.statuses(), [NOT_STARTED]);
                check_eq!(map.get64(0), PATTERN64);
            }
            Err(errno) => return Err(errno.into()),
        }
        check!(intact(&unnamed, 5)?, "after allocation {nth}");
        if !failed {
            check!(refused > 4, "only {refused} allocations were needed");
            return Ok(());
        }
    }
    check!(false, "there is no end of allocations");
    Ok(())
}
