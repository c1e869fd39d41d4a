// SPDX-License-Identifier: GPL-2.0

//! Reclaim that waits: for jobs, and for the MMU. Submissions that wait for memory.

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use model::control::Opcode;
use model::control::Stat;

use crate::bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs::found_too_little;
use crate::debugfs::shrink;
use crate::debugfs::ALL;
use crate::disk;
use crate::disk::Loop;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::resident;
use crate::memory::wait_for;
use crate::swap::Swap;
use crate::sync::Gate;
use crate::trace::this_thread;
use crate::trace::Trace;
use crate::uapi;

use super::super::target;
use super::super::works;
use super::evict::evict;
use super::evict::MemoryGroup;
use super::filled;
use super::intact;
use super::KIB;
use super::MIB;
use super::NO_KNOB;
use super::PAGE;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("evict-busy-holds-no-lock", &["D7"], holds_no_lock)
        .needs(&[Need::Gate])
        .panfrost_fails(NO_KNOB),
    Test::new("limit-waits-for-busy", &["D7", "D9"], waits_at_limit)
        .needs(&[Need::Gate])
        .panfrost_fails(NO_KNOB),
    Test::new("limit-full-of-page-cache", &["D4", "D7"], page_cache).panfrost_fails(NO_KNOB),
    Test::new("evict-slow-mmu", &["D4", "J4"], slow_mmu)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(NO_KNOB),
];

/// While reclaim waits for a busy BO, its client can look it up, as each submit does.
fn holds_no_lock(gpu: &Gpu) -> Outcome {
    const ROUNDS: usize = 30;
    // Reclaim waits for 25 ms.
    const LONG: Duration = Duration::from_millis(10);
    const WAIT: Duration = Duration::from_millis(20);
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let (bo, _map) = target(&device, 64 * KIB)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(bo.va());
    let done = device.syncobj()?;
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], Some(&done))?;

    let mut free = false;
    for _ in 0..ROUNDS {
        let over = AtomicBool::new(false);
        let (waited, longest) = thread::scope(|scope| -> Result<_, Stop> {
            let shrinks = scope.spawn(|| {
                let start = Instant::now();
                let taken = shrink(gpu, ALL);
                over.store(true, Ordering::Relaxed);
                taken.map(|_| start.elapsed())
            });
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                for bo in [&bo, chain.bo()] {
                    let start = Instant::now();
                    bo::offset(&device, bo.handle())?;
                    longest = longest.max(start.elapsed());
                }
            }
            let ended = shrinks.join();
            let waited = ended.map_err(|_| Stop::fail("a thread panics"))??;
            Ok((waited, longest))
        })?;
        // Either may be late for another reason.
        free = waited >= WAIT && longest < LONG;
        if free {
            break;
        }
    }
    check!(free, "clients wait for as long as reclaim does");
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    Ok(())
}

/// If memory of a group is wanted for other reasons than its limit, its busy BOs are not waited
/// for, as there are others. A client at its own limit waits: there is nothing else for it.
fn waits_at_limit(gpu: &Gpu) -> Outcome {
    const MORE: usize = 8 * MIB;
    let _swap = Swap::on(64 * MIB)?;
    let others = gpu.open()?;
    // Idle, not of the group, and so much more that it could not be looked at as often.
    let _idle = others.create(128 * MIB, uapi::BO_NOEXEC)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let bo = device.create(64 * KIB, uapi::BO_NOEXEC)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.null();
    let done = device.syncobj()?;
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], Some(&done))?;

    let trace = Trace::of(&["dma_fence/dma_fence_wait_start"])?;
    let waits = || -> Result<usize, Stop> {
        let events = trace.events()?;
        let ours = events.iter().filter(|event| event.thread == this_thread());
        Ok(ours.count())
    };
    group.reclaim(MORE)?;
    check_eq!(waits()?, 0, "for others");
    check!(resident(&device)? >= bo.size(), "the busy BO has gone");

    group.limit(Some(group.current()? + MIB))?;
    let refused = device.create(MORE, uapi::BO_NOEXEC);
    group.limit(None)?;
    check!(refused.is_err(), "there was room for another BO");
    check!(waits()? > 0, "it did not wait at its limit");
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    Ok(())
}

/// In a group that is full of page cache, memory can come back, so a client that takes long for
/// that brings it back in turns with others.
fn page_cache(gpu: &Gpu) -> Outcome {
    const BOS: u64 = 64;
    const ROOM: usize = 96 * MIB;
    // After 200 ms it should want a turn.
    const SLOW: Duration = Duration::from_millis(400);
    let _swap = Swap::on(256 * MIB)?;
    let image = disk::image(2 * ROOM)?;
    let disk = Loop::new(&image)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let bos = (0..BOS)
        .map(|n| filled(&device, MIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.null();
    evict(gpu, BOS as usize * MIB + PAGE)?;
    group.reclaim(BOS as usize * MIB)?;

    group.limit(Some(group.current()? + ROOM))?;
    // The cache goes when the disk is closed.
    let mut cached = File::open(disk.node())?;
    io::copy(&mut cached, &mut io::sink())?;
    let cache = group.cache()?;
    check!(cache >= ROOM / 2, "{cache} bytes are cached");
    let before = found_too_little(gpu)?;
    let start = Instant::now();
    chain.submit(&[], &[], None)?;
    let took = start.elapsed();
    let turns = found_too_little(gpu)? - before;
    check!(intact(&bos[0], 0)?);
    if took < SLOW {
        return Err(Stop::Skip(format!("it takes only {took:?}")));
    }
    check!(turns > 0, "it went on by itself for {took:?}");
    Ok(())
}

/// A command of the MMU is waited for as long as it takes where the clock is slow: 100 ms, in which
/// the driver reads the status every 5 us. It is the number of reads that counts here, since each
/// takes longer with the model.
fn slow_mmu(gpu: &Gpu) -> Outcome {
    const READS: u32 = 20_000;
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let (bo, _map) = target(&device, 64 * KIB)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(bo.va());
    // Now the address space is in the hardware.
    chain.run(&[&bo])?;
    let board = Board::open()?;
    let resets = board.stat(Stat::SoftResets);
    board.order(Opcode::StickAsCommand, &[1])?;
    let mut reads = 0;
    let given = || {
        let before = board.stat(Stat::RegReads);
        shrink(gpu, ALL)?;
        reads = board.stat(Stat::RegReads).wrapping_sub(before);
        Ok(reads >= READS / 10)
    };
    // The job that has just ended may have the BOs for a moment longer.
    let given = wait_for(PATIENCE, given)?;
    board.order(Opcode::StickAsCommand, &[0])?;
    check!(given, "the MMU was given no command");
    check!(reads >= READS, "the status was read {reads} times");
    // Until then, the MMU is given no other command.
    let reset = || Ok(board.stat(Stat::SoftResets) != resets);
    check!(wait_for(PATIENCE, reset)?, "the GPU is not reset");
    works(&device)
}
