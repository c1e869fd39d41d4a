// SPDX-License-Identifier: GPL-2.0

//! Making, using and closing BOs.

use crate::chain::Chain;
use crate::chain::PATIENCE;
use crate::harness::Gpu;
use crate::harness::Stop;
use crate::uapi;

use super::median;
use super::time;
use super::Aim;
use super::Row;

pub(super) const ROWS: &[Row] = &[
    Row::new("life-4k", "the life of a BO, 4 KiB", Aim::Half, |gpu| {
        life(gpu, 4 << 10)
    }),
    Row::new("life-64k", "the life of a BO, 64 KiB", Aim::Half, |gpu| {
        life(gpu, 64 << 10)
    }),
    Row::new("life-1m", "the life of a BO, 1 MiB", Aim::Half, |gpu| {
        life(gpu, 1 << 20)
    }),
    Row::new("life-16m", "the life of a BO, 16 MiB", Aim::Half, |gpu| {
        life(gpu, 16 << 20)
    }),
    Row::new("life-256m", "the life of a BO, 256 MiB", Aim::Half, |gpu| {
        life(gpu, 256 << 20)
    }),
    Row::new("madvise", "MADVISE", Aim::HalfAboveBase, madvise),
    Row::new("wait-idle", "WAIT_BO, idle", Aim::HalfAboveBase, wait_idle),
];

/// Create, map, touch every page, a job that writes to it, unmap, close.
fn life(gpu: &Gpu, size: usize) -> Result<u64, Stop> {
    let device = gpu.open()?;
    let done = device.syncobj()?;
    let samples = if size > 16 << 20 { 3 } else { 11 };
    median(samples, || {
        let mut chain = Chain::new(&device, 4096)?;
        let (ns, ()) = time(|| {
            let bo = device.create(size, uapi::BO_NOEXEC)?;
            let map = bo.map()?;
            for page in (0..size).step_by(4096) {
                map.put32(page, 1);
            }
            chain.zero(bo.va());
            chain.submit(&[&bo], &[], Some(&done))?;
            done.wait(PATIENCE)?;
            drop(map);
            bo.close()
        })?;
        Ok(ns)
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
