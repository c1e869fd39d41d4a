// SPDX-License-Identifier: GPL-2.0

//! Closing things that jobs use.

use std::os::fd::AsFd;
use std::time::Duration;
use std::time::Instant;

use model::control::Opcode;
use model::control::Stat;

use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::device::Job;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::fence_status;
use crate::sync::Gate;
use crate::sys;
use crate::trace::this_thread;
use crate::trace::Trace;
use crate::trace::MARK;
use crate::uapi;

use super::target;
use super::works;
use super::PATTERN64;

pub(super) const TESTS: &[Test] = &[
    Test::new("close-bo-queued", &["A2"], bo_queued).needs(&[Need::Gate]),
    Test::new("close-bo-running", &["A2"], bo_running).needs(&[Need::Board]),
    Test::new("close-bo-reused-address", &["A2", "F7"], reused).needs(&[Need::Gate]),
    Test::new("close-after-fence", &["F7"], after_fence),
    Test::new("close-bo-under-running-job", &["A2"], bo_under_running_job)
        .needs(&[Need::Board])
        .panfrost_fails("it unmaps with FLUSH_PT, which does not wait for stores"),
    Test::new("close-file-queued", &["A2", "C8"], file_queued).needs(&[Need::Gate]),
    Test::new("close-file-running", &["A2"], file_running).needs(&[Need::Board]),
    Test::new(
        "close-context-behind-another",
        &["A2", "C8"],
        context_behind,
    )
    .needs(&[Need::Board, Need::Minor(5)]),
    Test::new("close-context-signals-nothing", &["C10"], signals_nothing)
        .needs(&[Need::Gate, Need::Minor(5)])
        .panfrost_fails("jobs of a context that is gone wait on for their fences"),
    Test::new("close-bo-frees-nothing-of-others", &["A2"], frees_nothing).needs(&[Need::Gate]),
    Test::new("close-bo-waits-for-no-others", &["A2"], waits_for_none).needs(&[Need::Gate]),
    Test::new("madvise-busy", &["A2", "D3"], madvise_busy).needs(&[Need::Gate]),
];

/// The mappings that a waiting job lists are there when it runs, whatever happened to the handles.
fn bo_queued(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let (bo, map) = target(&device, 64 * 1024)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.zero(bo.va() + 4096);
    let head = chain.head();
    let wait = gate.syncobj(&device)?;
    let done = device.syncobj()?;
    chain.submit(&[&bo], &[&wait], Some(&done))?;
    let (descriptors, statuses) = chain.into_parts();
    bo.close()?;
    descriptors.close()?;
    drop(wait);
    check_eq!(statuses.get32(0), NOT_STARTED);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(statuses.get32(0), DONE, "chain at {head:#x}");
    check_eq!(map.get64(4096), 0);
    check_eq!(map.get64(4104), PATTERN64);
    Ok(())
}

/// Lets every job run for so long before it does anything.
fn slow(board: &Board, time: Duration) -> Outcome {
    board.order(Opcode::SlowJobs, &[time.as_micros() as u32])?;
    Ok(())
}

/// Closing returns while the job runs, and the job does not notice.
fn bo_running(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    // Shorter than any driver's patience with a job.
    slow(&board, Duration::from_millis(250))?;
    let faults = board.stat(Stat::MmuFaults);
    let mut at_once = 0;
    for _ in 0..4 {
        let device = gpu.open()?;
        let (bo, map) = target(&device, 64 * 1024)?;
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(bo.va());
        let done = device.syncobj()?;
        chain.submit(&[&bo], &[], Some(&done))?;
        let (descriptors, statuses) = chain.into_parts();
        bo.close()?;
        descriptors.close()?;
        at_once += usize::from(!done.signalled()?);
        done.wait(PATIENCE)?;
        check_eq!(statuses.get32(0), DONE);
        check_eq!(map.get64(0), 0);
    }
    check!(at_once > 0, "closing waits for the job");
    check_eq!(board.stat(Stat::MmuFaults), faults);
    Ok(())
}

/// A job's stores to a BO that it does not list are in memory before the BO's pages are somebody
/// else's, also when the BO is closed while the job runs. The model holds stores back until
/// something waits for them, and counts those that came too late.
fn bo_under_running_job(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    slow(&board, Duration::from_millis(60))?;
    let late = board.stat(Stat::LateStores);
    let mut in_time = 0;
    for _ in 0..8 {
        let device = gpu.open()?;
        let (bo, map) = target(&device, 4096)?;
        let mut chain = Chain::new(&device, 4096)?;
        let first = chain.zero(bo.va());
        for _ in 0..3 {
            let job = chain.null();
            chain.edit(job, |header| header.barrier = true);
        }
        let done = device.syncobj()?;
        chain.submit(&[], &[], Some(&done))?;
        drop(map);
        // The first job's store and its status.
        let start = Instant::now();
        while board.stat(Stat::HeldStores) < 2 && start.elapsed() < PATIENCE {
            if done.signalled()? {
                break;
            }
        }
        bo.close()?;
        in_time += usize::from(!done.signalled()?);
        done.wait(PATIENCE)?;
        check_eq!(chain.status(first), DONE);
        check_eq!(board.stat(Stat::LateStores).wrapping_sub(late), 0);
    }
    check!(in_time > 0, "no BO was closed while its job ran");
    Ok(())
}

/// The address of a closed BO is not given out again while a job may use it.
fn reused(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let (bo, old) = target(&device, 64 * 1024)?;
    let va = bo.va();
    let mut chain = Chain::new(&device, 4096)?;
    chain.zero(va);
    let done = device.syncobj()?;
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], Some(&done))?;
    bo.close()?;
    let mut fresh = Vec::new();
    for _ in 0..16 {
        let (bo, map) = target(&device, 64 * 1024)?;
        let overlap = bo.va() < va + 64 * 1024 && va < bo.va() + 64 * 1024;
        check!(!overlap, "{va:#x} was given out again");
        fresh.push((bo, map));
    }
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(old.get64(0), 0);
    for (_, map) in &fresh {
        check_eq!(map.get64(0), PATTERN64);
    }
    Ok(())
}

/// A client that has seen the fence may close at once, and the address is free.
fn after_fence(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for round in 0..50 {
        let (bo, map) = target(&device, 64 * 1024)?;
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(bo.va());
        chain.run(&[&bo])?;
        bo.close()?;
        check_eq!(map.get64(0), 0, "round {round}");
        check_eq!(chain.statuses(), [DONE], "round {round}");
    }
    Ok(())
}

/// A file that is closed takes its waiting jobs with it; their fences signal all the same.
fn file_queued(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let (bo, map) = target(&device, 4096)?;
    let mut fences = Vec::new();
    let mut keep = Vec::new();
    for _ in 0..3 {
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(bo.va());
        let done = device.syncobj()?;
        chain.submit(&[&bo], &[&gate.syncobj(&device)?], Some(&done))?;
        fences.push(done.fence()?);
        let (descriptors, statuses) = chain.into_parts();
        descriptors.leak();
        keep.push(statuses);
    }
    bo.leak();
    // A mapping holds a file, too.
    drop(keep);
    drop(map);
    drop(device);
    gate.open()?;
    for fence in fences {
        check!(sys::readable(fence.as_fd(), PATIENCE)?);
    }
    // The GPU is none the worse.
    works(&gpu.open()?)
}

fn file_running(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    slow(&board, Duration::from_millis(250))?;
    for _ in 0..3 {
        let device = gpu.open()?;
        let bo = device.create(4096, uapi::BO_NOEXEC)?;
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(bo.va());
        let done = device.syncobj()?;
        chain.submit(&[&bo], &[], Some(&done))?;
        let fence = done.fence()?;
        drop((bo, chain, done, device));
        check!(sys::readable(fence.as_fd(), PATIENCE)?);
    }
    drop(board);
    works(&gpu.open()?)
}

/// Mesa gives BOs up right after it has submitted what uses them.
fn madvise_busy(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let (bo, map) = target(&device, 64 * 1024)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.zero(bo.va());
    let done = device.syncobj()?;
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], Some(&done))?;
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    check!(chain.bo().madvise(uapi::MADV_DONTNEED)?);
    // As far as reclaim can be asked for: nothing of a job that will run may go.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
    check!(bo.madvise(uapi::MADV_WILLNEED)?, "taken from a waiting job");
    check!(chain.bo().madvise(uapi::MADV_WILLNEED)?);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    // And it can be used again.
    chain.rearm();
    device
        .submit(Job {
            head: chain.head(),
            bos: &[chain.bo(), &bo],
            signal: Some(&done),
            ..Default::default()
        })
        .map_err(Stop::from)?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    Ok(())
}

/// Contexts come, queue a job behind one of another file, and go. That one does not notice.
fn context_behind(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    // Shorter than any driver's patience with a job.
    slow(&board, Duration::from_millis(250))?;
    let (innocent, other) = (gpu.open()?, gpu.open()?);
    let mut runs = Chain::new(&innocent, 4096)?;
    runs.null();
    let done = innocent.syncobj()?;
    runs.submit(&[], &[], Some(&done))?;
    let fence = done.fence()?;
    let mut behind = Vec::new();
    for _ in 0..3 {
        let context = other.create_context(uapi::PRIORITY_MEDIUM)?;
        let mut chain = Chain::new(&other, 4096)?;
        chain.null();
        chain.submit_in(context, &[], &[], None)?;
        behind.push(chain);
        other.destroy_context(context)?;
    }
    check!(sys::readable(fence.as_fd(), PATIENCE)?);
    check_eq!(fence_status(fence.as_fd())?, Some(Ok(())));
    check_eq!(runs.statuses(), [DONE]);
    Ok(())
}

/// The task that destroys a context with many jobs does not signal their fences: it can be one that
/// hardly ever gets a processor, and others would have to wait for it.
fn signals_nothing(gpu: &Gpu) -> Outcome {
    const JOBS: usize = 64;
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let context = device.create_context(uapi::PRIORITY_MEDIUM)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    let (wait, done) = (gate.syncobj(&device)?, device.syncobj()?);
    for _ in 0..JOBS {
        chain.submit_in(context, &[], &[&wait], Some(&done))?;
    }
    let trace = Trace::of(&["dma_fence/dma_fence_signaled"])?;
    device.destroy_context(context)?;
    done.wait(PATIENCE)?;
    let events = trace.events()?;
    let by_us = events.iter().filter(|event| event.thread == this_thread());
    check!(events.len() >= JOBS, "only {} were signalled", events.len());
    check_eq!(by_us.count(), 0);
    Ok(())
}

/// Closing a busy BO does not mean having to free all that the ended jobs of others have held.
fn frees_nothing(gpu: &Gpu) -> Outcome {
    const JOBS: usize = 32;
    const BUSY: usize = 8;
    let (other, device) = (gpu.open()?, gpu.open()?);
    let (gate, own_gate) = (Gate::new()?, Gate::new()?);
    let mut chain = Chain::new(&other, 4096)?;
    chain.null();
    let (wait, done) = (gate.syncobj(&other)?, other.syncobj()?);
    for _ in 0..JOBS {
        // The job is the last that holds it.
        let (bo, _) = target(&other, 4096)?;
        chain.submit(&[&bo], &[&wait], Some(&done))?;
        bo.close()?;
    }
    let mut own_chain = Chain::new(&device, 4096)?;
    own_chain.null();
    let (own_wait, own_done) = (own_gate.syncobj(&device)?, device.syncobj()?);
    let mut busy = Vec::new();
    for _ in 0..BUSY {
        let (bo, _) = target(&device, 4096)?;
        own_chain.submit(&[&bo], &[&own_wait], Some(&own_done))?;
        busy.push(bo);
    }

    let trace = Trace::of(&["dma/dma_unmap_sg"])?;
    gate.open()?;
    for bo in busy {
        bo.close()?;
    }
    done.wait(PATIENCE)?;
    let all = || Ok(trace.events()?.len() >= JOBS);
    check!(memory::wait_for(PATIENCE, all)?, "not all are freed");
    let events = trace.events()?;
    let by_us = events.iter().filter(|event| event.thread == this_thread());
    check_eq!(by_us.count(), 0);
    own_gate.open()?;
    Ok(own_done.wait(PATIENCE)?)
}

/// Nor does it mean having to wait until all of that is freed, even if a single job has held it.
fn waits_for_none(gpu: &Gpu) -> Outcome {
    const BOS: usize = 4_000;
    const BUSY: usize = 4;
    let mut before = 0;
    // Some are freed at the same time, on another processor, without being waited for. On a busy
    // host these can be many, now and then.
    for _ in 0..10 {
        before = freed_meanwhile(gpu, BOS, BUSY)?;
        println!("# {before} of {BOS} were freed before {BUSY} BOs were closed");
        if before < BOS / 2 {
            return Ok(());
        }
    }
    Err(Stop::fail(format!("{before} of {BOS}")))
}

/// Closes `busy` BOs of jobs that wait, while a job of another file is dropped that alone holds
/// `count` BOs. Returns how many of these were freed by then.
fn freed_meanwhile(gpu: &Gpu, count: usize, busy: usize) -> Result<usize, Stop> {
    let (other, device) = (gpu.open()?, gpu.open()?);
    let (gate, own_gate) = (Gate::new()?, Gate::new()?);
    let mut chain = Chain::new(&other, 4096)?;
    chain.null();
    let done = other.syncobj()?;
    let bos: Vec<_> = (0..count)
        .map(|_| other.create(4096, uapi::BO_NOEXEC))
        .collect::<Result<_, _>>()?;
    let list: Vec<_> = bos.iter().collect();
    chain.submit(&list, &[&gate.syncobj(&other)?], Some(&done))?;
    drop(list);
    // From here on, the job alone holds them.
    drop(bos);
    let mut own_chain = Chain::new(&device, 4096)?;
    own_chain.null();
    let (own_wait, own_done) = (own_gate.syncobj(&device)?, device.syncobj()?);
    let mut closed = Vec::new();
    for _ in 0..busy {
        let (bo, _) = target(&device, 4096)?;
        own_chain.submit(&[&bo], &[&own_wait], Some(&own_done))?;
        closed.push(bo);
    }

    let trace = Trace::of(&["dma/dma_unmap_sg"])?;
    gate.open()?;
    done.wait(PATIENCE)?;
    for bo in closed {
        bo.close()?;
    }
    trace.mark()?;
    let all = || Ok(trace.events()?.len() > count);
    check!(memory::wait_for(10 * PATIENCE, all)?, "not all are freed");
    let events = trace.events()?;
    let before = events.iter().take_while(|event| event.name != MARK);
    let before = before.count();
    own_gate.open()?;
    own_done.wait(PATIENCE)?;
    Ok(before)
}
