// SPDX-License-Identifier: GPL-2.0

//! Memory that the kernel takes for the driver and for each thing that a client has, without what
//! BOs contain.

use std::fs;

use crate::chain::Chain;
use crate::chain::PATIENCE;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Stop;
use crate::memory;
use crate::sync::Gate;
use crate::uapi;

use super::Aim;
use super::Row;
use super::Unit;

pub(super) const ROWS: &[Row] = &[
    size(
        "module-bytes",
        "the driver's module, and others that it alone uses",
        module,
    ),
    size("file-bytes", "an open file that is idle", |gpu| {
        each(500, || gpu.open())
    }),
    size("context-bytes", "a context", context),
    size("bo-bytes", "a BO of 4 KiB, without its page", |gpu| {
        let device = gpu.open()?;
        each(10_000, || Ok(device.create(4096, uapi::BO_NOEXEC)?))
    }),
    size("job-bytes", "a job with 1 BO that is queued", job),
];

const fn size(name: &'static str, what: &'static str, run: fn(&Gpu) -> Result<u64, Stop>) -> Row {
    Row::new(name, what, Aim::same("not to be larger is enough"), run).unit(Unit::Bytes)
}

/// Bytes that modules take which are only there for the driver.
fn module(gpu: &Gpu) -> Result<u64, Stop> {
    let driver = gpu.node.driver.as_str();
    let text = fs::read_to_string("/proc/modules")?;
    let mut bytes = 0;
    for line in text.lines() {
        // Name, size, number of users, users.
        let mut words = line.split_whitespace();
        let (name, size) = (words.next(), words.next());
        let users = words.nth(1).unwrap_or("");
        if name == Some(driver) || users.split(',').any(|user| user == driver) {
            bytes += size.and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    match bytes {
        0 => Err(Stop::fail("no module")),
        bytes => Ok(bytes),
    }
}

/// Bytes that the kernel has for itself.
fn kernel() -> Result<usize, Stop> {
    ["Slab", "SecPageTables", "VmallocUsed", "Percpu"]
        .into_iter()
        .map(memory::meminfo)
        .sum()
}

/// Bytes for each of `count` things.
fn each<T>(count: usize, mut make: impl FnMut() -> Result<T, Stop>) -> Result<u64, Stop> {
    let mut things = Vec::with_capacity(count);
    let before = kernel()?;
    for _ in 0..count {
        things.push(make()?);
    }
    let after = kernel()?;
    Ok((after.saturating_sub(before) / count) as u64)
}

fn context(gpu: &Gpu) -> Result<u64, Stop> {
    /// Less than a file may have.
    const OF_EACH: usize = 50;
    const FILES: usize = 40;
    let files = (0..FILES)
        .map(|_| gpu.open())
        .collect::<Result<Vec<Device>, _>>()?;
    let mut files = files.iter().cycle();
    each(FILES * OF_EACH, || match files.next() {
        Some(file) => Ok(file.create_context(uapi::PRIORITY_MEDIUM)?),
        None => Err(Stop::fail("no files")),
    })
}

/// All of them wait for the same fence, which takes no memory of the kernel's for each of them.
fn job(gpu: &Gpu) -> Result<u64, Stop> {
    const JOBS: usize = 1000;
    let device = gpu.open()?;
    let mut chains = Chain::new(&device, 128 * JOBS)?;
    let jobs: Vec<_> = (0..JOBS).map(|_| chains.null()).collect();
    for &job in &jobs {
        chains.edit(job, |header| header.next = 0);
    }
    let handles = [chains.bo().handle()];
    let gate = Gate::new()?;
    let closed = gate.syncobj(&device)?;
    let waits = [closed.handle()];
    let done = device.syncobj()?;
    let mut jobs = jobs.into_iter();
    let bytes = each(JOBS, || {
        device.submit_raw(&mut uapi::Submit {
            jc: jobs.next().map_or(0, |job| chains.job_va(job)),
            in_syncs: waits.as_ptr() as u64,
            in_sync_count: 1,
            out_sync: done.handle(),
            bo_handles: handles.as_ptr() as u64,
            bo_handle_count: 1,
            ..Default::default()
        })?;
        Ok(())
    })?;
    gate.open()?;
    done.wait(PATIENCE)?;
    Ok(bytes)
}
