// SPDX-License-Identifier: GPL-2.0

//! The owners of a heap: the jobs that keep its content and end it, and who pays for its memory.

use std::thread;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::uapi;

use super::super::memory::evict::MemoryGroup;
use super::super::memory::PAGE;
use super::super::target;
use super::super::tiler::heap;
use super::super::tiler::Batch;
use super::clear_small;
use super::heavy;
use super::CHUNK;
use super::HEAVY;
use super::IDLE;
use super::KEEPS;
use super::MIB;
use super::SMALL;

const FREE: &str = "nobody pays for the memory of its heaps";

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("heap-live-among-clears", &["B3"], among_clears),
    Test::new("heap-frames-of-two-contexts", &["B3"], two_contexts),
    Test::new("heap-content-goes-with-its-context", &["B3"], context_goes).panfrost_fails(KEEPS),
    Test::new("heap-memory-is-charged", &["D9"], charged).panfrost_fails(FREE),
    Test::new("heap-makes-room-at-the-limit", &["B3", "D9"], makes_room).panfrost_fails(KEEPS),
    Test::new("heap-beyond-the-limit", &["D9", "B2"], limited).panfrost_fails(FREE),
];

/// Has a context draw a frame that has nothing to do with any heap.
fn clear(device: &Device, context: u32) -> Outcome {
    let (canvas, _map) = target(device, SMALL.size())?;
    let mut chain = Chain::new(device, 4096)?;
    let job = chain.fragment(&clear_small(canvas.va()));
    let done = device.syncobj()?;
    chain.submit_in(context, &[&canvas], &[], Some(&done))?;
    done.wait(PATIENCE)?;
    check_eq!(chain.status(job), DONE);
    Ok(())
}

/// The first half of a frame.
fn tile(device: &Device, context: u32, heap: &Bo, batch: &Batch) -> Outcome {
    let tiled = device.syncobj()?;
    batch.tiler.submit_in(context, &[heap], &[], Some(&tiled))?;
    Ok(tiled.wait(PATIENCE)?)
}

/// The second half.
fn draw(device: &Device, context: u32, heap: &Bo, batch: &Batch) -> Outcome {
    let drawn = device.syncobj()?;
    let shared = [heap, batch.tiler.bo(), batch.color()];
    batch
        .fragment
        .submit_in(context, &shared, &[], Some(&drawn))?;
    Ok(drawn.wait(PATIENCE)?)
}

/// Whether the file has no more memory than it had before there was some in the heap. The shrinker
/// takes all of a dead heap, sooner or later.
fn is_empty(device: &Device, before: usize) -> Result<bool, Stop> {
    memory::wait_for(PATIENCE, || {
        memory::shrink_all()?;
        Ok(memory::resident(device)? <= before)
    })
}

/// Between the halves of a frame, others come and go that draw without a heap: of other contexts of
/// the file, as one screen has one heap, and of the same context.
fn among_clears(gpu: &Gpu) -> Outcome {
    let (device, heap, batch) = heavy(gpu)?;
    let (context, other) = (
        device.create_context(uapi::PRIORITY_MEDIUM)?,
        device.create_context(uapi::PRIORITY_MEDIUM)?,
    );
    let before = memory::resident(&device)?;

    tile(&device, context, &heap, &batch)?;
    for context in [other, 0, context] {
        clear(&device, context)?;
        memory::shrink_all()?;
    }
    thread::sleep(IDLE);
    memory::shrink_all()?;
    let grown = memory::resident(&device)?.saturating_sub(before);
    check!(grown >= 40 * MIB, "{grown} bytes of a live heap");
    draw(&device, context, &heap, &batch)?;
    batch.check()
}

/// Two contexts have a frame each in one heap, in different parts of it. The one that is drawn
/// first takes nothing from the other.
fn two_contexts(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = heap(&device, 128 * MIB)?;
    let contexts = [
        device.create_context(uapi::PRIORITY_MEDIUM)?,
        device.create_context(uapi::PRIORITY_MEDIUM)?,
    ];
    let batch = Batch::new(&device, &heap, 64 * MIB, HEAVY)?;
    tile(&device, contexts[0], &heap, &batch)?;

    // The other one writes to the second half of the heap, and draws that.
    let mut chain = Chain::new(&device, 4096)?;
    let job = chain.zero(heap.va() + 96 * MIB as u64);
    let done = device.syncobj()?;
    chain.submit_in(contexts[1], &[&heap], &[], Some(&done))?;
    done.wait(PATIENCE)?;
    check_eq!(chain.status(job), DONE);
    let mut fragment = Chain::new(&device, 4096)?;
    let (canvas, _map) = target(&device, SMALL.size())?;
    fragment.fragment(&clear_small(canvas.va()));
    fragment.submit_in(contexts[1], &[&heap, &canvas], &[], Some(&done))?;
    done.wait(PATIENCE)?;

    memory::shrink_all()?;
    draw(&device, contexts[0], &heap, &batch)?;
    batch.check()
}

/// Content that nobody draws any more is dead: that of a context that was destroyed.
fn context_goes(gpu: &Gpu) -> Outcome {
    let (device, heap, batch) = heavy(gpu)?;
    let context = device.create_context(uapi::PRIORITY_MEDIUM)?;
    let before = memory::resident(&device)?;

    tile(&device, context, &heap, &batch)?;
    memory::shrink_all()?;
    check!(memory::resident(&device)? > before, "it is live");
    device.destroy_context(context)?;
    check!(
        is_empty(&device, before)?,
        "{} bytes that nobody draws",
        memory::resident(&device)? - before
    );
    Ok(())
}

/// The memory of a heap counts for the group of the process that has made it, and for the GPU.
fn charged(gpu: &Gpu) -> Outcome {
    let group = MemoryGroup::enter()?;
    let (device, heap, batch) = heavy(gpu)?;
    let had = (group.current()?, memory::meminfo("GPUActive")?);
    tile(&device, 0, &heap, &batch)?;
    let has = (group.current()?, memory::meminfo("GPUActive")?);
    check!(
        has.0 >= had.0 + 40 * MIB,
        "the group has {} bytes, had {}",
        has.0,
        had.0
    );
    // Each processor keeps some of its count to itself.
    check!(
        has.1 >= had.1 + 36 * MIB,
        "the GPU has {} bytes, had {}",
        has.1,
        had.1
    );

    draw(&device, 0, &heap, &batch)?;
    batch.check()?;
    drop((batch, heap, device));
    let back = memory::wait_for(PATIENCE, || {
        Ok(group.current()? <= had.0 + MIB && memory::meminfo("GPUActive")? <= had.1 + 4 * MIB)
    })?;
    check!(
        back,
        "the group has {} bytes, had {}",
        group.current()?,
        had.0
    );
    Ok(())
}

/// Draws into some heaps, each of which then has a chunk for as long as nobody else wants it.
fn draw_into(device: &Device, heaps: &[Bo]) -> Outcome {
    let done = device.syncobj()?;
    for heap in heaps {
        let mut chain = Chain::new(device, 4096)?;
        let job = chain.fragment(&clear_small(heap.va()));
        chain.submit(&[heap], &[], Some(&done))?;
        done.wait(PATIENCE)?;
        check_eq!(chain.status(job), DONE);
    }
    Ok(())
}

/// A group at its limit gets back what its own heaps do not need, and nothing of those of others.
fn makes_room(gpu: &Gpu) -> Outcome {
    const HEAPS: usize = 12;
    let some = |device: &Device, count| -> Result<Vec<Bo>, Stop> {
        let heaps = (0..count).map(|_| heap(device, CHUNK));
        let heaps = heaps.collect::<Result<Vec<_>, _>>()?;
        draw_into(device, &heaps)?;
        Ok(heaps)
    };
    let others = gpu.open()?;
    let _kept = some(&others, 4)?;
    let others_have = memory::resident(&others)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let heaps = some(&device, HEAPS)?;
    let has = group.current()?;
    check!(has >= HEAPS * CHUNK, "{has} bytes of the group");

    let taken = debugfs::taken(gpu)?.heaps;
    group.limit(Some(has + 2 * MIB))?;
    let bo = device.create(HEAPS / 2 * CHUNK, uapi::BO_NOEXEC);
    group.limit(None)?;
    let taken = (debugfs::taken(gpu)?.heaps - taken) * PAGE;
    bo?;
    check!(taken >= HEAPS / 3 * CHUNK, "{taken} bytes were taken");
    check_eq!(memory::resident(&others)?, others_have);
    // They get memory again when they are drawn into.
    draw_into(&device, &heaps)
}

/// A group at its limit gets no more memory by way of the GPU: the job that wants it ends. Others
/// have theirs meanwhile, and with a higher limit so does the next job.
fn limited(gpu: &Gpu) -> Outcome {
    const LIMIT: usize = 64 * MIB;
    const SIZE: usize = 256 * MIB;
    // Not in the group.
    let (other, other_heap, other_batch) = heavy(gpu)?;
    let group = MemoryGroup::enter()?;
    group.limit(Some(LIMIT))?;
    let device = gpu.open()?;
    let heap = heap(&device, SIZE)?;
    // From here on, the process's own memory shall not be in its way, nor have it killed.
    group.leave()?;
    let available = memory::available()?;
    let gpu_has = memory::meminfo("GPUActive")?;

    let mut chain = Chain::new(&device, 32 << 10)?;
    for n in 0..SIZE / CHUNK {
        chain.zero(heap.va() + (n * CHUNK) as u64);
    }
    let done = device.syncobj()?;
    chain.submit(&[&heap], &[], Some(&done))?;
    // It waits for memory of the group meanwhile.
    other_batch.run(&other, &other_heap)?;
    other_batch.check()?;
    drop((other_batch, other_heap, other));
    done.wait(PATIENCE)?;
    let ended = chain.statuses().iter().filter(|&&s| s == DONE).count();
    check!(
        (1..=LIMIT / CHUNK).contains(&ended),
        "{ended} chunks in a group of {LIMIT} bytes"
    );
    check!(group.current()? <= LIMIT, "{} bytes", group.current()?);
    let taken = available.saturating_sub(memory::available()?);
    check!(taken <= 2 * LIMIT, "{taken} bytes are gone");
    let grown = memory::meminfo("GPUActive")?.saturating_sub(gpu_has);
    check!(grown <= LIMIT + 8 * MIB, "the GPU has {grown} bytes more");

    group.limit(Some(4 * SIZE))?;
    let mut chain = Chain::new(&device, 32 << 10)?;
    let jobs: Vec<_> = (0..SIZE / CHUNK / 2)
        .map(|n| chain.zero(heap.va() + (n * CHUNK) as u64))
        .collect();
    chain.run(&[&heap])?;
    for job in jobs {
        check_eq!(chain.status(job), DONE);
    }
    Ok(())
}
