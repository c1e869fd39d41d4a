// SPDX-License-Identifier: GPL-2.0

//! Address spaces: faults, more of them than the hardware holds, several at work.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use model::control::Opcode;
use model::control::Stat;
use model::control::NEVER;
use model::job::Arch;

use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::pixels::Layout;
use crate::pixels::FORMATS;
use crate::sync::fence_status;
use crate::sync::Gate;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

use super::render::blocks;
use super::render::clear_frame;
use super::target;
use super::works;
use super::Random;
use super::A_WHILE;

/// C panfrost wants to reset these GPUs after a bus fault, starts no job until that is done, and
/// never does it: the next job times out in its place.
pub(super) const BUS_FAULT: &str = "after a bus fault the next job is lost";

/// It lets the job of a fault time out and then resets the GPU, whoever else has a job on it.
/// Seen in silicon mode, where stores that a reset finds on their way are lost.
const LATE_FAULT: &str =
    "the second fault of a file waits for the timeout, and a reset loses stores";

const MAPPED: &str = "a job that has ended keeps its BOs mapped until a worker has dropped it";

const OTHERS: &str = "a fault can cost another file a job";

pub(super) const TESTS: &[Test] = &[
    Test::new("fault-write", &["B5"], write_fault).panfrost_fails_on(Arch::V9, BUS_FAULT),
    Test::new("fault-chain", &["B5"], chain_fault).panfrost_fails(LATE_FAULT),
    Test::new("fault-closed-bo", &["A6", "B5"], closed_bo).panfrost_fails(MAPPED),
    Test::new("fault-again-and-again", &["B5"], repeated).panfrost_fails_on(Arch::V9, BUS_FAULT),
    Test::new("fault-other-file", &["B5"], other_file).panfrost_fails(OTHERS),
    Test::new("fault-spares-next-job", &["B5"], next_job)
        .needs(&[Need::Board])
        .panfrost_fails("on a busy host it was seen to end the next job as well"),
    Test::new("fault-of-last-owner", &["B5"], last_owner)
        .needs(&[Need::Board])
        .panfrost_fails("a fault is charged to who has the address space when it is looked at"),
    Test::new("fault-is-private", &["A1"], private).panfrost_fails_on(Arch::V9, BUS_FAULT),
    Test::new("space-more-than-slots", &["F1"], more_than_slots),
    Test::new("space-all-waiting", &["F1"], all_waiting).needs(&[Need::Gate]),
    Test::new("space-come-and-go", &["F1"], come_and_go),
    Test::new(
        "space-changes-during-resets",
        &["C4", "F1"],
        change_during_resets,
    )
    .needs(&[Need::Board])
    .panfrost_fails_on(Arch::V9, BUS_FAULT),
    Test::new("space-grows-during-slow-resets", &["C4", "F1"], grow_slowly)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails_on(Arch::V9, BUS_FAULT),
    Test::new("space-freed-tables", &["A6", "J7"], freed_tables)
        .needs(&[Need::Board])
        .panfrost_fails(MAPPED),
    Test::new("clients-concurrent", &["C2", "F1"], concurrent),
];

/// Addresses where nothing is ever mapped: below all BOs, above all of them, far above.
const UNMAPPED: [u64; 4] = [0x1000, 0x8_0000_0000, 0xdead_beef_0000, 0x00ff_ffff_0000];

/// A job that writes to nothing ends, undone, and the file's next one works.
fn write_fault(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for va in UNMAPPED {
        let mut chain = Chain::new(&device, 4096)?;
        let job = chain.zero(va);
        chain.run(&[])?;
        check!(chain.status(job) != DONE, "{va:#x} was written");
        works(&device)?;
    }
    Ok(())
}

/// The chain itself is nowhere, or goes there.
fn chain_fault(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for va in UNMAPPED {
        let done = device.syncobj()?;
        device.submit(crate::device::Job {
            head: va,
            signal: Some(&done),
            ..Default::default()
        })?;
        done.wait(PATIENCE)?;
        works(&device)?;

        let mut chain = Chain::new(&device, 4096)?;
        let job = chain.null();
        chain.edit(job, |header| header.next = va);
        chain.run(&[])?;
        check_eq!(chain.status(job), DONE);
        works(&device)?;
    }
    Ok(())
}

/// A closed BO cannot be reached any more: the mapping is gone from the GPU's caches, too.
fn closed_bo(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for _ in 0..5 {
        let (bo, map) = target(&device, 4096)?;
        let va = bo.va();
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(va);
        chain.run(&[&bo])?;
        check_eq!(map.get64(0), 0);
        map.put64(0, 1);
        bo.close()?;
        chain.rearm();
        chain.run(&[])?;
        check!(chain.statuses() != [DONE], "{va:#x} can still be written");
        check_eq!(map.get64(0), 1);
    }
    works(&device)
}

fn repeated(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for n in 0..30 {
        let mut chain = Chain::new(&device, 4096)?;
        let job = chain.zero(0x8_0000_0000 + n * 4096);
        chain.run(&[])?;
        check!(chain.status(job) != DONE);
    }
    works(&device)
}

/// A file's faults are no other's concern.
fn other_file(gpu: &Gpu) -> Outcome {
    let bad = gpu.open()?;
    let good = gpu.open()?;
    for round in 0..10u64 {
        let mut faulty = Vec::new();
        let mut sound = Vec::new();
        for n in 0..4 {
            let mut chain = Chain::new(&bad, 4096)?;
            chain.zero(0xdead_0000_0000 + n * 4096);
            let done = bad.syncobj()?;
            chain.submit(&[], &[], Some(&done))?;
            faulty.push((chain, done));
            let (bo, map) = target(&good, 4096)?;
            let mut chain = Chain::new(&good, 4096)?;
            chain.zero(bo.va());
            let done = good.syncobj()?;
            chain.submit(&[&bo], &[], Some(&done))?;
            sound.push((chain, done, map, bo));
        }
        for (chain, done, map, _) in &sound {
            done.wait(PATIENCE)?;
            check_eq!(chain.statuses(), [DONE], "round {round}");
            check_eq!(map.get64(0), 0, "round {round}");
        }
        for (chain, done) in &faulty {
            done.wait(PATIENCE)?;
            check!(chain.statuses() != [DONE]);
        }
    }
    works(&bad)
}

/// Calls `f` while a file has the GPU reset over and over, as a fault does on G57. Skips the test
/// on other GPUs.
pub(super) fn during_resets(gpu: &Gpu, f: impl FnOnce() -> Outcome) -> Outcome {
    let bad = gpu.open()?;
    if bad.arch()? != Arch::V9 {
        return Err(Stop::Skip("a fault resets the GPU on G57 alone".into()));
    }
    let board = Board::open()?;
    let resets = board.stat(Stat::SoftResets);
    let done = AtomicBool::new(false);

    thread::scope(|scope| {
        let faults = scope.spawn(|| -> Outcome {
            while !done.load(Ordering::Relaxed) {
                let mut chain = Chain::new(&bad, 4096)?;
                chain.zero(UNMAPPED[2]);
                chain.run(&[])?;
            }
            Ok(())
        });
        let outcome = f();
        done.store(true, Ordering::Relaxed);
        faults.join().map_err(|_| Stop::fail("a thread panics"))??;
        outcome
    })?;
    check!(board.stat(Stat::SoftResets) != resets, "nothing was reset");
    works(&bad)
}

/// BOs come and go while another file has the GPU reset over and over: no command to the MMU is cut
/// in two by a reset, which the model would count, and none finds the caches off.
fn change_during_resets(gpu: &Gpu) -> Outcome {
    const ROUNDS: u64 = 60;
    const BOS: usize = 8;
    let device = gpu.open()?;

    during_resets(gpu, || {
        for round in 0..ROUNDS {
            let (bo, map) = target(&device, 4096)?;
            let mut chain = Chain::new(&device, 4096)?;
            chain.zero(bo.va());
            chain.run(&[&bo])?;
            check_eq!(chain.statuses(), [DONE], "round {round}");
            check_eq!(map.get64(0), 0, "round {round}");
            // Commands, as the space is in the hardware now.
            for _ in 0..BOS {
                target(&device, 4096)?.0.close()?;
            }
        }
        Ok(())
    })
}

/// BOs can be created while a reset takes its time, although the MMU takes no command then. That
/// goes for large ones in the place of small ones as well, whose page tables would have to go.
fn grow_slowly(gpu: &Gpu) -> Outcome {
    const BLOCK: usize = 2 << 20;
    const ROUNDS: usize = 10;
    let board = Board::open()?;
    let device = gpu.open()?;
    let mut bos = Vec::new();
    let mut small = Vec::new();

    for _ in 0..2 * ROUNDS {
        small.push(device.create(BLOCK - 4096, uapi::BO_NOEXEC)?);
    }
    drop(small);
    // Each takes until the driver loses patience, and resets the GPU hard.
    board.order(Opcode::DelayReset, &[NEVER, 1])?;
    during_resets(gpu, || {
        for round in 0..ROUNDS {
            // The space has to be in the hardware.
            let mut chain = Chain::new(&device, 4096)?;
            chain.null();
            chain.run(&[])?;
            check_eq!(chain.statuses(), [DONE], "round {round}");
            for _ in 0..50 {
                bos.push(device.create(4096, uapi::BO_NOEXEC)?);
            }
            bos.push(device.create(BLOCK, uapi::BO_NOEXEC | uapi::BO_HEAP)?);
            let (large, map) = target(&device, BLOCK)?;
            let at = BLOCK - 8 - 4096 * round;
            let mut chain = Chain::new(&device, 4096)?;
            chain.zero(large.va() + at as u64);
            chain.run(&[&large])?;
            check_eq!(chain.statuses(), [DONE], "round {round}");
            check_eq!(map.get64(at), 0, "round {round}");
            bos.push(large);
        }
        Ok(())
    })?;
    works(&device)
}

/// A table that goes with a BO is not walked any more, even though the GPU caches the entries that
/// lead to it and another job keeps the address space in the hardware.
fn freed_tables(gpu: &Gpu) -> Outcome {
    // With tables of its own, each of which maps 2 MiB.
    const SIZE: usize = 4 << 20;
    let board = Board::open()?;
    let device = gpu.open()?;
    let stale = board.stat(Stat::StaleWalks);

    for round in 0..8 {
        let mut busy = Chain::new(&device, 4096)?;
        busy.null();
        busy.require(uapi::REQ_FS);
        let busy_done = device.syncobj()?;
        board.order(Opcode::SlowJobs, &[300_000])?;
        busy.submit(&[], &[], Some(&busy_done))?;
        board.order(Opcode::SlowJobs, &[0])?;

        let (bo, map) = target(&device, SIZE)?;
        let at = [0, SIZE / 2 - 8, SIZE / 2, SIZE - 8][round % 4];
        let mut chain = Chain::new(&device, 4096)?;
        let job = chain.zero(bo.va() + at as u64);
        chain.run(&[&bo])?;
        check_eq!(chain.status(job), DONE, "round {round}");
        check_eq!(map.get64(at), 0, "round {round}");
        map.put64(at, 1);
        bo.close()?;
        chain.rearm();
        chain.run(&[])?;
        check!(chain.status(job) != DONE, "round {round}");
        check_eq!(map.get64(at), 1, "round {round}");
        // The fault ends it as well.
        busy_done.wait(PATIENCE)?;
    }
    check_eq!(board.stat(Stat::StaleWalks), stale);
    works(&device)
}

/// A job of the file that has not begun when another one faults is none the worse. It is the next
/// one in its slot, behind a job of another file.
fn next_job(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let (device, other) = (gpu.open()?, gpu.open()?);
    let (bo, map) = target(&device, 4096)?;
    let mut ahead = Chain::new(&other, 4096)?;
    ahead.null();
    let mut next = Chain::new(&device, 4096)?;
    next.zero(bo.va());
    let mut faulty = Chain::new(&device, 4096)?;
    faulty.zero(UNMAPPED[2]);
    faulty.require(uapi::REQ_FS);

    let (ahead_done, done, fault) = (other.syncobj()?, device.syncobj()?, device.syncobj()?);
    board.order(Opcode::SlowJobs, &[350_000])?;
    ahead.submit(&[], &[], Some(&ahead_done))?;
    board.order(Opcode::SlowJobs, &[0])?;
    next.submit(&[&bo], &[], Some(&done))?;
    faulty.submit(&[], &[], Some(&fault))?;
    fault.wait(PATIENCE)?;
    check!(faulty.statuses() != [DONE]);
    let failed = Some(Err(Errno(libc::EINVAL)));
    check_eq!(fence_status(fault.fence()?.as_fd())?, failed);

    done.wait(PATIENCE)?;
    ahead_done.wait(PATIENCE)?;
    check_eq!(fence_status(done.fence()?.as_fd())?, Some(Ok(())));
    check_eq!(next.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    check_eq!(ahead.statuses(), [DONE]);
    works(&device)
}

/// The file whose job has faulted goes before anybody has looked at that. The next file that has
/// its address space of the hardware has nothing to do with it.
fn last_owner(gpu: &Gpu) -> Outcome {
    const MMU: u32 = 1;
    let board = Board::open()?;
    for round in 0..3 {
        let device = gpu.open()?;
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(UNMAPPED[2]);
        let done = device.syncobj()?;
        board.order(Opcode::LoseIrq, &[MMU, 1])?;
        let faults = board.stat(Stat::MmuFaults);
        chain.submit(&[], &[], Some(&done))?;
        let faulted = memory::wait_for(PATIENCE, || Ok(board.stat(Stat::MmuFaults) != faults))?;
        check!(faulted, "no fault in round {round}");
        let fence = done.fence()?;
        drop((chain, done, device));
        check!(sys::readable(fence.as_fd(), PATIENCE)?);
        // The job's references go a moment later.
        thread::sleep(A_WHILE);

        let device = gpu.open()?;
        let mut chain = Chain::new(&device, 4096)?;
        chain.null();
        let done = device.syncobj()?;
        board.order(Opcode::SlowJobs, &[300_000])?;
        chain.submit(&[], &[], Some(&done))?;
        board.order(Opcode::SlowJobs, &[0])?;
        // Of an address space that the GPU does not have.
        board.order(Opcode::SpuriousIrq, &[MMU, 1 << 15])?;
        done.wait(PATIENCE)?;
        check_eq!(fence_status(done.fence()?.as_fd())?, Some(Ok(())));
        check_eq!(chain.statuses(), [DONE], "round {round}");
        works(&device)?;
    }
    Ok(())
}

/// One file's BOs are not in another's address space.
fn private(gpu: &Gpu) -> Outcome {
    let owner = gpu.open()?;
    let other = gpu.open()?;
    // Far from anything that the other file has.
    let _filler = owner.create(256 << 20, uapi::BO_NOEXEC | uapi::BO_HEAP)?;
    let (bo, map) = target(&owner, 4096)?;
    let mut chain = Chain::new(&other, 4096)?;
    let job = chain.zero(bo.va());
    check!(chain.bo().va() != bo.va());
    chain.run(&[])?;
    check!(chain.status(job) != DONE);
    check!(map.get64(0) != 0);
    works(&other)?;
    works(&owner)
}

/// Some work: a clear and some values, checked.
fn work(device: &Device, random: &mut Random) -> Outcome {
    let arch = device.arch()?;
    let format = &FORMATS[random.below(FORMATS.len() as u64) as usize];
    let blocks = blocks(arch);
    let layout = Layout {
        width: 1 + random.below(70) as usize,
        height: 1 + random.below(40) as usize,
        bytes: format.bytes,
        block: blocks[random.below(blocks.len() as u64) as usize],
    };
    let (bo, map) = target(device, layout.size())?;
    let (words, pixel) = format.clear(random.wide());
    let mut render = Chain::new(device, 4096)?;
    render.fragment(&clear_frame(format, &layout, bo.va(), words));

    let values = 1 + random.below(6) as usize;
    let (zeroes, zeroes_map) = target(device, 4096)?;
    let mut write = Chain::new(device, 4096)?;
    for n in 0..values {
        write.zero(zeroes.va() + 16 * n as u64);
    }
    let (rendered, written) = (device.syncobj()?, device.syncobj()?);
    render.submit(&[&bo], &[], Some(&rendered))?;
    write.submit(&[&zeroes], &[], Some(&written))?;
    rendered.wait(PATIENCE)?;
    check_eq!(render.statuses(), [DONE]);
    let memory = map.bytes(0, layout.size());
    layout
        .check(&memory, &pixel)
        .map_err(|message| Stop::fail(format!("{} {layout:?}: {message}", format.name)))?;
    written.wait(PATIENCE)?;
    check_eq!(write.statuses(), vec![DONE; values]);
    for n in 0..values {
        check_eq!(zeroes_map.get64(16 * n), 0);
    }
    Ok(())
}

/// More than the hardware has address spaces for, eight times.
const FILES: usize = 64;

fn more_than_slots(gpu: &Gpu) -> Outcome {
    let mut files = Vec::new();
    for _ in 0..FILES {
        files.push(gpu.open()?);
    }
    let mut random = Random(3);
    for _ in 0..3 {
        for file in &files {
            work(file, &mut random)?;
        }
    }
    Ok(())
}

/// More jobs ready at one moment than there are slots.
fn all_waiting(gpu: &Gpu) -> Outcome {
    let gate = Gate::new()?;
    let mut jobs = Vec::new();
    for n in 0..FILES {
        let file = gpu.open()?;
        let (bo, map) = target(&file, 4096)?;
        let mut chain = Chain::new(&file, 4096)?;
        chain.zero(bo.va() + 8 * n as u64);
        if n % 2 == 0 {
            chain.require(uapi::REQ_FS);
        }
        let done = file.syncobj()?;
        chain.submit(&[&bo], &[&gate.syncobj(&file)?], Some(&done))?;
        jobs.push((chain, done, map, bo));
    }
    gate.open()?;
    for (n, (chain, done, map, _)) in jobs.iter().enumerate() {
        done.wait(PATIENCE)?;
        check_eq!(chain.statuses(), [DONE], "file {n}");
        check_eq!(map.get64(8 * n), 0, "file {n}");
    }
    Ok(())
}

/// Files that are closed at once, while others stay.
fn come_and_go(gpu: &Gpu) -> Outcome {
    let stays = gpu.open()?;
    let mut random = Random(4);
    for _ in 0..40 {
        work(&gpu.open()?, &mut random)?;
    }
    work(&stays, &mut random)
}

/// Clients that know nothing of each other.
fn concurrent(gpu: &Gpu) -> Outcome {
    const ROUNDS: usize = 40;
    let mut devices = Vec::new();
    for _ in 0..2 {
        devices.push(gpu.open()?);
    }
    let results: Vec<Outcome> = thread::scope(|scope| {
        let threads: Vec<_> = devices
            .iter()
            .enumerate()
            .map(|(n, device)| {
                scope.spawn(move || {
                    let mut random = Random(100 + n as u64);
                    for _ in 0..ROUNDS {
                        work(device, &mut random)?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(Stop::Fail("panic".into())))
            })
            .collect()
    });
    results.into_iter().collect()
}
