// SPDX-License-Identifier: GPL-2.0

//! Giving memory back, with the driver's shrinker called through debugfs (CONFIG_SHRINKER_DEBUG),
//! as memory management calls it.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::PATIENCE;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Stop;
use crate::memory;
use crate::sync::Gate;
use crate::tests::tiler;
use crate::uapi;

use super::median;
use super::time;
use super::Aim;
use super::Row;
use super::Unit;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        "count-10k",
        "`count` of the shrinker, 10,000 BOs given up",
        Aim::HALF,
        count,
    ),
    Row::new(
        "purge-page",
        "a page that is purged, 10,000 BOs of 4 KiB",
        Aim::HALF,
        purge,
    ),
    Row::new(
        "scan-busy",
        "the longest `scan`, 1,024 BOs given up and busy, without its wait",
        Aim::HALF,
        scan_busy,
    ),
    Row::new(
        "after-frame",
        "memory of a client a minute after a heavy frame",
        Aim::HALF,
        after_frame,
    )
    .unit(Unit::Bytes),
];

/// BOs that have been given up.
const MANY: usize = 10_000;

/// The number of pages that memory management asks for at a time.
const BATCH: usize = 128;

/// The files by which the kernel lets the driver's shrinker be called.
pub(super) struct Shrinker {
    /// The number of the control group whose memory is asked for.
    group: u32,
    count: File,
    scan: File,
}

impl Shrinker {
    const DIR: &'static str = "/sys/kernel/debug/shrinker";

    pub(super) fn open(gpu: &Gpu) -> Result<Self, Stop> {
        // A shrinker that knows groups wants one: the root group has the number 1.
        let (prefix, group) = match gpu.node.driver.as_str() {
            "panfrost" => ("drm-panfrost-", 0),
            _ => ("drm_gpu-", 1),
        };
        let dir = fs::read_dir(Self::DIR)?
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .ok_or_else(|| Stop::fail("no such shrinker"))?
            .path();
        Ok(Self {
            group,
            count: File::open(dir.join("count"))?,
            scan: File::options().write(true).open(dir.join("scan"))?,
        })
    }

    /// How many pages could be had. 0 if the file says nothing.
    pub(super) fn count(&self) -> std::io::Result<usize> {
        let mut text = [0; 64];
        let len = self.count.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..len]);
        let pages = text.split_whitespace().nth(1);
        Ok(pages.and_then(|pages| pages.parse().ok()).unwrap_or(0))
    }

    /// Takes a batch of pages.
    pub(super) fn scan(&self) -> std::io::Result<()> {
        // Group, node, pages. The file knows no positions.
        (&self.scan).write_all(format!("{} 0 {BATCH}", self.group).as_bytes())
    }
}

/// BOs of a page each that were used and given up.
pub(super) fn given_up(device: &Device, count: usize) -> Result<Vec<Bo>, Stop> {
    let mut bos = Vec::new();
    for _ in 0..count {
        let bo = device.create(4096, uapi::BO_NOEXEC)?;
        bo.map()?.put32(0, 1);
        bo.madvise(uapi::MADV_DONTNEED)?;
        bos.push(bo);
    }
    Ok(bos)
}

fn count(gpu: &Gpu) -> Result<u64, Stop> {
    let shrinker = Shrinker::open(gpu)?;
    let device = gpu.open()?;
    let bos = given_up(&device, MANY)?;
    let value = median(31, || {
        let (ns, pages) = time(|| Ok(shrinker.count()?))?;
        if pages < bos.len() {
            return Err(Stop::fail(format!("{pages} pages")));
        }
        Ok(ns)
    })?;
    Ok(value)
}

fn purge(gpu: &Gpu) -> Result<u64, Stop> {
    let shrinker = Shrinker::open(gpu)?;
    let device = gpu.open()?;
    let bos = given_up(&device, MANY)?;
    let (ns, ()) = time(|| {
        // Twice as often as needed: it may stop before it has a batch.
        for _ in 0..2 * MANY / BATCH {
            if shrinker.count()? < BATCH {
                break;
            }
            shrinker.scan()?;
        }
        Ok(())
    })?;
    let mut pages = 0;
    for bo in &bos {
        pages += u64::from(!bo.madvise(uapi::MADV_DONTNEED)?);
    }
    if pages < (MANY - BATCH) as u64 {
        return Err(Stop::fail(format!("{pages} pages were purged")));
    }
    Ok(ns / pages)
}

fn scan_busy(gpu: &Gpu) -> Result<u64, Stop> {
    let shrinker = Shrinker::open(gpu)?;
    let device = gpu.open()?;
    let bos = given_up(&device, 1024)?;
    let gate = Gate::new()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    let done = device.syncobj()?;
    let listed: Vec<&Bo> = bos.iter().collect();
    chain.submit(&listed, &[&gate.syncobj(&device)?], Some(&done))?;
    let mut longest = 0;
    for _ in 0..8 {
        let (_, cpu) = time(|| {
            let start = memory::cpu_time_ns();
            shrinker.scan()?;
            Ok(memory::cpu_time_ns() - start)
        })?;
        longest = longest.max(cpu);
    }
    gate.open()?;
    done.wait(PATIENCE)?;
    for bo in &bos {
        if !bo.madvise(uapi::MADV_WILLNEED)? {
            return Err(Stop::fail("a busy BO was purged"));
        }
    }
    Ok(longest)
}

/// A frame that needs some 40 MiB of heap, and nothing after it.
fn after_frame(gpu: &Gpu) -> Result<u64, Stop> {
    const HEAP: usize = 128 << 20;
    let device = gpu.open()?;
    let heap = tiler::heap(&device, HEAP)?;
    let batch = tiler::Batch::new(&device, &heap, HEAP, 640_000)?;
    batch.run(&device, &heap)?;
    batch.check()?;
    std::thread::sleep(Duration::from_secs(60));
    Ok(memory::resident(&device)? as u64)
}
