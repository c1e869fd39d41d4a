// SPDX-License-Identifier: GPL-2.0

//! Making, using, sharing and closing BOs.

use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check_eq;
use crate::harness::Gpu;
use crate::harness::Stop;
use crate::uapi;

use super::count::total;
use super::count::Clearing;
use super::median;
use super::time;
use super::Aim;
use super::Row;

pub(super) const ROWS: &[Row] = &[
    total_row("total-create-4k", "CREATE_BO and GEM_CLOSE, 4 KiB", |gpu| {
        create_close(gpu, 4 << 10, 50)
    }),
    total_row(
        "total-create-64k",
        "CREATE_BO and GEM_CLOSE, 64 KiB",
        |gpu| create_close(gpu, 64 << 10, 50),
    ),
    total_row("total-create-1m", "CREATE_BO and GEM_CLOSE, 1 MiB", |gpu| {
        create_close(gpu, 1 << 20, 10)
    }),
    Row::new(
        "total-life-4k",
        "the life of a BO, 4 KiB",
        Aim::at_most(
            65,
            "of C panfrost's 58,000, 30,000 are the kernel's: mmap, fault, munmap, file, job",
        ),
        |gpu| life(gpu, 4 << 10, 50),
    )
    .ordinary(),
    total_row("total-life-64k", "the life of a BO, 64 KiB", |gpu| {
        life(gpu, 64 << 10, 20)
    }),
    total_row("total-life-1m", "the life of a BO, 1 MiB", |gpu| {
        life(gpu, 1 << 20, 10)
    }),
    total_row("total-life-16m", "the life of a BO, 16 MiB", |gpu| {
        life(gpu, 16 << 20, 3)
    }),
    Row::new(
        "export",
        "CREATE_BO, PRIME_HANDLE_TO_FD and GEM_CLOSE, 4 KiB",
        Aim::same("what it has more than total-create-4k is dma-buf's and the DRM core's"),
        export,
    )
    .ordinary(),
    Row::new(
        "madvise",
        "MADVISE",
        Aim::same("of C panfrost's 238, the lookup and larger copies are 135").above_base(),
        madvise,
    ),
    Row::new(
        "wait-idle",
        "WAIT_BO, idle",
        Aim::same("of C panfrost's 230, the lookup and one look at the fences are 150")
            .above_base(),
        wait_idle,
    ),
];

/// A row about memory, whose clearing is no part of it.
const fn total_row(
    name: &'static str,
    what: &'static str,
    run: fn(&Gpu) -> Result<u64, Stop>,
) -> Row {
    Row::new(name, what, Aim::HALF, run).ordinary()
}

fn create_close(gpu: &Gpu, size: usize, times: usize) -> Result<u64, Stop> {
    let device = gpu.open()?;
    total(times, Clearing::IsTakenOff, || {
        for _ in 0..times {
            device.create(size, uapi::BO_NOEXEC)?.close()?;
        }
        Ok(())
    })
}

/// Create, map, touch every page, a job that lists it, unmap, close.
fn life(gpu: &Gpu, size: usize, times: usize) -> Result<u64, Stop> {
    let device = gpu.open()?;
    let done = device.syncobj()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    total(times, Clearing::IsTakenOff, || {
        for _ in 0..times {
            let bo = device.create(size, uapi::BO_NOEXEC)?;
            let map = bo.map()?;
            map.touch();
            chain.rearm();
            chain.submit(&[&bo], &[], Some(&done))?;
            done.wait(PATIENCE)?;
            check_eq!(chain.statuses(), [DONE]);
            drop(map);
            bo.close()?;
        }
        Ok(())
    })
}

fn export(gpu: &Gpu) -> Result<u64, Stop> {
    const TIMES: usize = 20;
    let device = gpu.open()?;
    total(TIMES, Clearing::IsTakenOff, || {
        for _ in 0..TIMES {
            let bo = device.create(4096, uapi::BO_NOEXEC)?;
            drop(bo.export()?);
            bo.close()?;
        }
        Ok(())
    })
}

const CALLS: u64 = 100;

fn madvise(gpu: &Gpu) -> Result<u64, Stop> {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    bo.map()?.fill(0);
    median(31, || {
        let (ns, ()) = time(|| {
            for _ in 0..CALLS / 2 {
                bo.madvise(uapi::MADV_DONTNEED)?;
                bo.madvise(uapi::MADV_WILLNEED)?;
            }
            Ok(())
        })?;
        Ok(ns / CALLS)
    })
}

fn wait_idle(gpu: &Gpu) -> Result<u64, Stop> {
    let device = gpu.open()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    chain.run(&[])?;
    median(31, || {
        let (ns, ()) = time(|| {
            for _ in 0..CALLS {
                chain.bo().wait_until(0)?;
            }
            Ok(())
        })?;
        Ok(ns / CALLS)
    })
}
