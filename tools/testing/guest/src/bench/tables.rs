// SPDX-License-Identifier: GPL-2.0

//! Page tables: heaps that grow, and large mappings.

use std::fs;
use std::os::fd::AsFd;

use model::control::Stat;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Stop;
use crate::memory;
use crate::tests::tiler::heap;
use crate::uapi;

use super::count::Clearing;
use super::count::Executed;
use super::marked;
use super::median;
use super::time;
use super::Aim;
use super::Row;
use super::Unit;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        "heap-fault",
        "a fault on a heap, from the access to its retry",
        Aim::HALF,
        |gpu| heap_fault(gpu, false, time_of),
    ),
    Row::new("heap-fault-reg", "the same", Aim::HALF, |gpu| {
        heap_fault(gpu, false, accesses_of)
    })
    .unit(Unit::Accesses),
    Row::new(
        "heap-grow",
        "a fault on a heap, with the submit's work for it, without clearing",
        Aim::HALF,
        |gpu| heap_fault(gpu, true, executed_of),
    ),
    Row::new(
        "map-1g",
        "to map 1 GiB that is there, in few pieces",
        Aim::same("of C panfrost's 19,585, io-pgtable takes 14,250"),
        |gpu| Ok(map(gpu)?.0),
    )
    .alone(),
    Row::new(
        "map-1g-bytes",
        "page tables for it",
        Aim::same("both take one page, the least there is"),
        |gpu| Ok(map(gpu)?.1),
    )
    .unit(Unit::Bytes)
    .alone(),
];

/// The time that something takes.
fn time_of(_board: &Board, what: &mut dyn FnMut() -> crate::sys::Result<()>) -> Result<u64, Stop> {
    Ok(time(what)?.0)
}

/// All that is executed while something is done, less the clearing of memory.
fn executed_of(
    _board: &Board,
    what: &mut dyn FnMut() -> crate::sys::Result<()>,
) -> Result<u64, Stop> {
    let before = Executed::now()?;
    marked(what)?;
    Ok(Executed::now()?.since(before, Clearing::IsTakenOff))
}

/// The GPU registers that something reads and writes.
fn accesses_of(
    board: &Board,
    what: &mut dyn FnMut() -> crate::sys::Result<()>,
) -> Result<u64, Stop> {
    let now = || {
        board
            .stat(Stat::RegReads)
            .wrapping_add(board.stat(Stat::RegWrites))
    };
    let start = now();
    what()?;
    Ok(now().wrapping_sub(start).into())
}

/// A function that measures a call.
type Measure = fn(&Board, &mut dyn FnMut() -> crate::sys::Result<()>) -> Result<u64, Stop>;

/// A job that faults on a heap, less the same job when it does not. `listed`: its submit knows of
/// the heap, and may allocate for it; else an earlier one does.
fn heap_fault(gpu: &Gpu, listed: bool, measure: Measure) -> Result<u64, Stop> {
    const CHUNK: usize = 2 << 20;
    let board = Board::open()?;
    let device = gpu.open()?;
    median(11, || {
        let heap = heap(&device, 2 * CHUNK)?;
        let mut chain = Chain::new(&device, 4096)?;
        if !listed {
            chain.null();
            chain.run(&[&heap])?;
            chain = Chain::new(&device, 4096)?;
        }
        chain.zero(heap.va());
        let bos: &[&Bo] = if listed { &[&heap] } else { &[] };
        let first = measure(&board, &mut || chain.run(bos))?;
        chain.rearm();
        let second = measure(&board, &mut || chain.run(&[]))?;
        Ok(first.saturating_sub(second))
    })
}

/// Pages that are neither free nor a slab's nor a process's.
fn other_pages() -> Result<i64, Stop> {
    let text = fs::read_to_string("/proc/zoneinfo")?;
    let mut free: i64 = 0;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let number = match (words.next(), words.next(), words.next()) {
            (Some("pages"), Some("free"), Some(number)) => number,
            // On the lists of a CPU.
            (Some("count:"), Some(number), None) => number,
            _ => continue,
        };
        free += number.parse::<i64>().unwrap_or(0);
    }
    let mut others = 0;
    for name in [
        "SReclaimable",
        "SUnreclaim",
        "AnonPages",
        "PageTables",
        "KernelStack",
    ] {
        others += (memory::meminfo(name)? / 4096) as i64;
    }
    Ok(-free - others)
}

/// Maps 1 GiB in many address spaces. Returns the time for one and the bytes that it took.
fn map(gpu: &Gpu) -> Result<(u64, u64), Stop> {
    const SIZE: usize = 1 << 30;
    const FILES: usize = 64;
    let device = gpu.open()?;
    let bo = device.create(SIZE, uapi::BO_NOEXEC)?;
    let dmabuf = bo.export()?;
    // Each with an address space that has been used.
    let files = (0..FILES)
        .map(|_| {
            let file = gpu.open()?;
            let bo = file.create(4096, uapi::BO_NOEXEC)?;
            Ok((file, bo))
        })
        .collect::<Result<Vec<(Device, Bo)>, Stop>>()?;
    let mut maps = Vec::with_capacity(FILES);
    let mut times = Vec::with_capacity(FILES);
    let before = other_pages()?;
    for (file, _) in &files {
        let (ns, map) = time(|| Bo::import(file, dmabuf.as_fd(), SIZE))?;
        times.push(ns);
        maps.push(map);
    }
    let pages = other_pages()? - before;
    times.sort_unstable();
    // Whole pages: what else happens meanwhile is less than one for each.
    let pages = (pages + FILES as i64 / 2) / FILES as i64;
    Ok((times[FILES / 2], u64::try_from(pages).unwrap_or(0) * 4096))
}
