// SPDX-License-Identifier: GPL-2.0

//! The memory of heaps: where it comes from while the GPU waits, and when it goes again.

use std::fs;
use std::time::Duration;

use model::control::Stat;
use model::desc::BlockFormat;
use model::desc::Frame;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::pixels::Layout;
use crate::pixels::FORMATS;

use super::render::clear_frame;
use super::tiler::files;
use super::tiler::heap;
use super::tiler::Batch;

pub(super) mod live;
pub(super) mod many;
pub(super) mod short;

const KEEPS: &str = "the memory of a heap stays as long as the heap";

/// The time that C panfrost gives any job.
const HALF_A_SECOND: &str = "its jobs have half a second, which is short on a busy machine";

pub(super) const TESTS: &[Test] = &[
    Test::new("heap-144-million-bytes", &["B1"], odd_size).panfrost_fails(HALF_A_SECOND),
    Test::new("heap-faults-in-any-order", &["B1"], any_order)
        .needs(&[Need::Board])
        .panfrost_fails("a chunk can fault once more while it is mapped"),
    Test::new("heap-faults-from-two-slots", &["B1"], two_slots),
    Test::new("heap-many-files-fault", &["B1", "B2"], many_files),
    Test::new("heap-memory-is-accounted", &["B1", "F5"], accounted)
        .panfrost_fails("a chunk can be counted after the job has gone on"),
    Test::new("heap-goes-back-when-idle", &["B3"], idle).panfrost_fails(KEEPS),
    Test::new("heap-in-use-shrinks", &["B3"], in_use).panfrost_fails(KEEPS),
    Test::new("heap-live-chunks-stay", &["B3"], live),
    Test::new("heap-dead-chunks-are-reclaimed", &["B3"], reclaimed).panfrost_fails(KEEPS),
    Test::new("heap-debugfs", &["B3", "D8"], debugfs).panfrost_fails("it has no such file"),
    Test::new("heap-grows-again", &["B3"], again),
    Test::new("heap-closed-frees-all", &["B2"], closed),
];

const MIB: usize = 1 << 20;

/// Bytes by which heaps grow.
const CHUNK: usize = 2 * MIB;

/// Triangles that need some 40 MiB of heap.
const HEAVY: u32 = 640_000;

/// More than the time after which heaps are idle.
const IDLE: Duration = Duration::from_secs(4);

/// A picture that fits into a chunk.
const SMALL: Layout = Layout {
    width: 64,
    height: 64,
    bytes: 4,
    block: BlockFormat::UInterleaved,
};

/// A frame that clears a [`SMALL`] picture at an address.
fn clear_small(at: u64) -> Frame {
    let (words, _) = FORMATS[0].clear(3);
    clear_frame(&FORMATS[0], &SMALL, at, words)
}

/// The size that panvk asks for, which is no multiple of a page.
fn odd_size(gpu: &Gpu) -> Outcome {
    const SIZE: usize = 144_000_000;
    let device = gpu.open()?;
    let heap = heap(&device, SIZE)?;
    let batch = Batch::new(&device, &heap, SIZE, 120_000)?;
    batch.run(&device, &heap)?;
    batch.check()?;

    // The last bytes that it is said to have.
    let mut chain = Chain::new(&device, 4096)?;
    let job = chain.zero(heap.va() + SIZE as u64 - 8);
    chain.run(&[&heap])?;
    check_eq!(chain.status(job), DONE);
    Ok(())
}

/// One fault for each chunk, from the last to the first and from both ends.
fn any_order(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let board = Board::open()?;
    for order in [
        [7, 6, 5, 4, 3, 2, 1, 0],
        [0, 7, 1, 6, 2, 5, 3, 4],
        [3, 0, 6, 2, 7, 1, 5, 4],
    ] {
        let heap = heap(&device, 8 * CHUNK)?;
        let before = board.stat(Stat::MmuFaults);
        for round in 0..2 {
            let mut chain = Chain::new(&device, 8192)?;
            let jobs: Vec<_> = order
                .iter()
                .map(|n| chain.zero(heap.va() + n * CHUNK as u64 + 64))
                .collect();
            chain.run(&[&heap])?;
            for job in jobs {
                check_eq!(chain.status(job), DONE, "round {round}");
            }
        }
        let faults = board.stat(Stat::MmuFaults).wrapping_sub(before);
        check_eq!(faults, 8, "one for each chunk");
    }
    Ok(())
}

/// The tiler and the fragment slot fault on the same heap at a time.
fn two_slots(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = heap(&device, 128 * MIB)?;
    let layout = Layout {
        width: 1024,
        height: 1024,
        bytes: 4,
        block: BlockFormat::UInterleaved,
    };
    for n in 0..3 {
        let batch = Batch::new(&device, &heap, 64 * MIB, 100_000)?;
        let (words, _) = FORMATS[0].clear(n);
        // It draws where the tiler does not come.
        let at = heap.va() + 64 * MIB as u64 + n as u64 * 4 * MIB as u64;
        let frame = clear_frame(&FORMATS[0], &layout, at, words);
        let mut fragment = Chain::new(&device, 4096)?;
        let job = fragment.fragment(&frame);
        let (tiled, drawn) = (device.syncobj()?, device.syncobj()?);

        // No BO in common, so nothing orders them.
        batch.tiler.submit(&[&heap], &[], Some(&tiled))?;
        fragment.submit(&[], &[], Some(&drawn))?;
        drawn.wait(PATIENCE)?;
        tiled.wait(PATIENCE)?;
        check_eq!(fragment.status(job), DONE);
        let done = device.syncobj()?;
        batch.fragment.submit(&[&heap], &[], Some(&done))?;
        done.wait(PATIENCE)?;
        batch.check()?;
    }
    Ok(())
}

/// More files than the hardware has address spaces, all of which grow their heaps.
fn many_files(gpu: &Gpu) -> Outcome {
    files(gpu, 12, 60_000)
}

/// The memory that a heap has grown by is in the fdinfo of the file.
fn accounted(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let before = memory::resident(&device)?;
    let heap = heap(&device, 128 * MIB)?;
    check_eq!(memory::resident(&device)?, before, "a heap without memory");
    let mut chain = Chain::new(&device, 8192)?;
    let with_chain = memory::resident(&device)?;
    for n in 0..10 {
        chain.zero(heap.va() + n * CHUNK as u64);
    }
    chain.run(&[&heap])?;
    let heap_has = memory::resident(&device)?.saturating_sub(with_chain);
    check!(
        (10 * CHUNK..12 * CHUNK).contains(&heap_has),
        "{heap_has} bytes for 10 chunks"
    );
    Ok(())
}

/// A batch that needs much of the heap.
fn heavy(gpu: &Gpu) -> Result<(Device, Bo, Batch), Stop> {
    let device = gpu.open()?;
    let heap = heap(&device, 128 * MIB)?;
    let batch = Batch::new(&device, &heap, heap.size(), HEAVY)?;
    Ok((device, heap, batch))
}

/// Some time after the frame, nearly all of the heap's memory is free.
fn idle(gpu: &Gpu) -> Outcome {
    let (device, heap, batch) = heavy(gpu)?;
    let before = memory::resident(&device)?;
    batch.run(&device, &heap)?;
    batch.check()?;
    let grown = memory::resident(&device)? - before;
    check!(grown >= 40 * MIB, "{grown} bytes for a heavy frame");
    let available = memory::available()?;

    let small = memory::wait_for(
        PATIENCE,
        || Ok(memory::resident(&device)? <= before + CHUNK),
    )?;
    check!(
        small,
        "{} of {grown} bytes stay",
        memory::resident(&device)? - before
    );
    let gained = memory::available()?.saturating_sub(available);
    check!(gained >= grown / 2, "{gained} bytes more are available");
    Ok(())
}

/// One heavy frame among light ones: while the client draws on, its memory becomes less, and no
/// frame is wrong.
fn in_use(gpu: &Gpu) -> Outcome {
    let (device, heap, batch) = heavy(gpu)?;
    let before = memory::resident(&device)?;
    batch.run(&device, &heap)?;
    batch.check()?;
    let grown = memory::resident(&device)? - before;
    drop(batch);

    // It takes a few looks at what comes back.
    let less = memory::wait_for(3 * PATIENCE, || {
        let light = Batch::new(&device, &heap, heap.size(), 100)?;
        light.run(&device, &heap)?;
        light.check()?;
        Ok(memory::resident(&device)? < before + grown / 2)
    })?;
    check!(
        less,
        "{} of {grown} bytes stay",
        memory::resident(&device)?.saturating_sub(before)
    );
    Ok(())
}

/// Between the tiler job and the fragment job all of the heap stays, whatever happens.
fn live(gpu: &Gpu) -> Outcome {
    let (device, heap, batch) = heavy(gpu)?;
    let before = memory::resident(&device)?;
    let (tiled, done) = (device.syncobj()?, device.syncobj()?);

    batch.tiler.submit(&[&heap], &[], Some(&tiled))?;
    tiled.wait(PATIENCE)?;
    memory::shrink_all()?;
    std::thread::sleep(IDLE);
    memory::shrink_all()?;
    let grown = memory::resident(&device)? - before;
    check!(grown >= 40 * MIB, "{grown} bytes of a live heap");

    let shared = [&heap, batch.tiler.bo(), batch.color()];
    batch.fragment.submit(&shared, &[], Some(&done))?;
    done.wait(PATIENCE)?;
    batch.check()
}

/// After the fragment job the shrinker gets all of it.
fn reclaimed(gpu: &Gpu) -> Outcome {
    let (device, heap, batch) = heavy(gpu)?;
    let before = memory::resident(&device)?;
    let (tiled, done) = (device.syncobj()?, device.syncobj()?);

    batch.tiler.submit(&[&heap], &[], Some(&tiled))?;
    tiled.wait(PATIENCE)?;
    let shared = [&heap, batch.tiler.bo(), batch.color()];
    batch.fragment.submit(&shared, &[], Some(&done))?;
    done.wait(PATIENCE)?;
    batch.check()?;

    let gone = memory::wait_for(PATIENCE, || {
        memory::shrink_all()?;
        Ok(memory::resident(&device)? <= before)
    })?;
    check!(
        gone,
        "{} bytes of a dead heap",
        memory::resident(&device)? - before
    );

    // And it works as before.
    let batch = Batch::new(&device, &heap, heap.size(), HEAVY)?;
    batch.run(&device, &heap)?;
    batch.check()
}

/// The line of debugfs for a heap, of which there is one with its address and size.
fn line(gpu: &Gpu, heap: &Bo) -> Result<String, Stop> {
    let wanted = [format!("{:#x}", heap.va()), heap.size().to_string()];
    let mut found = None;
    // A heap that gives memory back at this moment is shown as busy.
    memory::wait_for(PATIENCE, || {
        let text = fs::read_to_string(debugfs::file(gpu, "heap"))?;
        found = text
            .lines()
            .find(|line| line.split_whitespace().skip(1).take(2).eq(&wanted))
            .map(str::to_owned);
        Ok(found.is_some())
    })?;
    found.ok_or_else(|| Stop::fail(format!("no heap at {wanted:?}")))
}

/// debugfs tells live heaps from dead ones, and what each has.
fn debugfs(gpu: &Gpu) -> Outcome {
    let (device, heap, batch) = heavy(gpu)?;
    let line = || line(gpu, &heap);
    let has =
        |line: &str, column| -> Option<usize> { line.split_whitespace().nth(column)?.parse().ok() };
    let (tiled, done) = (device.syncobj()?, device.syncobj()?);

    check_eq!(has(&line()?, 4), Some(0), "chunks of a new heap");
    batch.tiler.submit(&[&heap], &[], Some(&tiled))?;
    tiled.wait(PATIENCE)?;
    let live = line()?;
    check!(live.ends_with("live"), "{live}");
    check_eq!(has(&live, 2), Some(128 * MIB), "{live}");
    check!(has(&live, 4) >= Some(20), "{live}");

    batch.fragment.submit(&[&heap], &[], Some(&done))?;
    done.wait(PATIENCE)?;
    let dead = memory::wait_for(PATIENCE, || Ok(line()?.ends_with("dead")))?;
    check!(dead, "{}", line()?);
    let idle = memory::wait_for(PATIENCE, || Ok(has(&line()?, 4) == Some(1)))?;
    check!(idle, "{}", line()?);
    Ok(())
}

/// Heaps that were idle grow as if they were new.
fn again(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = heap(&device, 128 * MIB)?;
    for triangles in [HEAVY, 100, 120_000, HEAVY] {
        let batch = Batch::new(&device, &heap, heap.size(), triangles)?;
        batch.run(&device, &heap)?;
        batch.check()?;
        std::thread::sleep(IDLE);
    }
    Ok(())
}

/// A heap that is closed, idle or not, leaves nothing behind.
fn closed(gpu: &Gpu) -> Outcome {
    const ROUNDS: usize = 8;
    let round = || -> Outcome {
        let (device, heap, batch) = heavy(gpu)?;
        batch.run(&device, &heap)?;
        batch.check()
    };
    round()?;
    let before = memory::available()?;
    for _ in 0..ROUNDS {
        round()?;
    }
    let enough = before.saturating_sub(2 * 40 * MIB);
    let back = memory::wait_for(PATIENCE, || Ok(memory::available()? >= enough))?;
    check!(
        back,
        "{} bytes are available, were {before}",
        memory::available()?
    );
    Ok(())
}
