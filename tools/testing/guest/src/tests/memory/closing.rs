// SPDX-License-Identifier: GPL-2.0

//! Closing many BOs takes few flushes of the GPU's caches and translations.

use model::control::Opcode;
use model::control::Stat;

use crate::bo::Bo;
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
use crate::memory::wait_for;
use crate::uapi;

use super::super::tiler::heap;
use super::super::works;
use super::limits::Locked;
use super::MIB;
use super::PAGE;

/// How C panfrost ends what closes many BOs.
const FLUSHES: &str = "it flushes for each BO";

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("memory-close-many", &["B2", "E1", "F5"], close_many)
        .needs(&[Need::Board])
        .panfrost_fails(FLUSHES),
    Test::new("memory-close-many-busy", &["F5", "A2"], close_many_busy)
        .needs(&[Need::Board])
        .panfrost_fails(FLUSHES),
];

/// Closing a file with many BOs in an idle address space takes few flushes, as does closing them
/// one by one. It is the same with heaps that have memory, and with user memory.
fn close_many(gpu: &Gpu) -> Outcome {
    const USER_PAGES: usize = 500;
    close_all(gpu, "BOs", |device| {
        let bos = (0..1000).map(|_| device.create(PAGE, uapi::BO_NOEXEC));
        Ok(bos.collect::<Result<_, _>>()?)
    })?;
    close_all(gpu, "heaps", |device| {
        let heaps: Vec<_> = (0..40)
            .map(|_| heap(device, 2 * MIB))
            .collect::<Result<_, _>>()?;
        let mut chain = Chain::new(device, 4 * PAGE)?;
        for heap in &heaps {
            chain.zero(heap.va());
        }
        chain.run(&heaps.iter().collect::<Vec<_>>())?;
        check_eq!(chain.statuses(), vec![DONE; heaps.len()]);
        Ok(heaps)
    })?;
    if gpu.open()?.param(uapi::PARAM_USERPTR) != Ok(1) {
        return Ok(());
    }
    let memory = Locked::new(USER_PAGES * PAGE)?;
    close_all(gpu, "user memory", |device| {
        let pages = (0..USER_PAGES).map(|n| memory.start as usize + n * PAGE);
        let bos = pages.map(|page| Bo::over_memory(device, page, PAGE, 0));
        Ok(bos.collect::<Result<_, _>>()?)
    })
}

/// Closes what `make` has made, by closing the file and one by one, and counts the flushes.
fn close_all(gpu: &Gpu, what: &str, make: impl Fn(&Device) -> Result<Vec<Bo>, Stop>) -> Outcome {
    let board = Board::open()?;
    for at_once in [true, false] {
        let device = gpu.open()?;
        let bos = make(&device)?;
        let mut chain = Chain::new(&device, PAGE)?;
        chain.null();
        // Now the address space is in the hardware.
        chain.run(&[])?;
        check_eq!(chain.statuses(), [DONE]);
        let (bo, map) = chain.into_parts();
        drop(map);
        let before = board.stat(Stat::AsFlushes);
        if at_once {
            bo.leak();
            for bo in bos {
                bo.leak();
            }
            drop(device);
        } else {
            drop(bo);
            drop(bos);
        }
        let flushes = board.stat(Stat::AsFlushes).wrapping_sub(before);
        check!(
            flushes <= 4,
            "{what}: {flushes} flushes, at once: {at_once}"
        );
    }
    Ok(())
}

/// Closing a file with many BOs takes few flushes, too, while a job of it runs.
fn close_many_busy(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let bos: Vec<_> = (0..300)
        .map(|_| device.create(PAGE, uapi::BO_NOEXEC))
        .collect::<Result<_, _>>()?;
    board.order(Opcode::HangNextJob, &[1, 1])?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.null();
    let running = board.stat(Stat::AsUpdates);
    chain.submit(&[], &[], None)?;
    // It has been given its address space, and does not let go of it.
    let begun = || Ok(board.stat(Stat::AsUpdates) != running);
    check!(wait_for(PATIENCE, begun)?);
    let (bo, map) = chain.into_parts();
    drop(map);
    let before = board.stat(Stat::AsFlushes);
    for bo in bos.into_iter().chain([bo]) {
        bo.leak();
    }
    drop(device);
    let works = works(&gpu.open()?);
    let flushes = board.stat(Stat::AsFlushes).wrapping_sub(before);
    check!(flushes <= 6, "{flushes} flushes");
    works
}
