// SPDX-License-Identifier: GPL-2.0

//! The driver's files in debugfs. Root only; C panfrost has none of them.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::harness::Gpu;
use crate::harness::Stop;

/// More pages than there are.
pub const ALL: usize = 1 << 40;

/// A file in the GPU's directory.
pub fn file(gpu: &Gpu, name: &str) -> PathBuf {
    let node = gpu.node.path.to_string_lossy();
    let number: String = node.chars().filter(char::is_ascii_digit).collect();
    Path::new("/sys/kernel/debug/dri").join(number).join(name)
}

/// A count of `jobs`.
pub fn jobs(gpu: &Gpu, what: &str) -> Result<u32, Stop> {
    let text = fs::read_to_string(file(gpu, "jobs"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(what)?.strip_prefix(": ")?.parse().ok())
        .ok_or_else(|| Stop::fail(format!("no {what} in jobs")))
}

/// Has the driver give back so many pages. Returns how many it says that it were.
pub fn shrink(gpu: &Gpu, pages: usize) -> Result<usize, Stop> {
    let path = file(gpu, "shrink");
    fs::write(&path, pages.to_string())?;
    let text = fs::read_to_string(&path)?;
    let first = text.lines().next().unwrap_or("");
    first
        .parse()
        .map_err(|_| Stop::fail(format!("{first:?} is no number of pages")))
}

/// The memory that reclaim has taken since the driver was bound, in pages.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// With its content, which had been given up.
    pub purged: usize,
    /// From heaps.
    pub heaps: usize,
    /// To swap.
    pub evicted: usize,
}

impl Taken {
    /// All of it.
    pub fn sum(&self) -> usize {
        self.purged + self.heaps + self.evicted
    }
}

/// Returns how much memory reclaim has taken so far.
pub fn taken(gpu: &Gpu) -> Result<Taken, Stop> {
    let text = fs::read_to_string(file(gpu, "shrink"))?;
    let of = |what: &str| -> Result<usize, Stop> {
        text.lines()
            .find_map(|line| line.strip_prefix(what)?.strip_prefix(" since the start: "))
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| Stop::fail(format!("no {what} in shrink")))
    };
    Ok(Taken {
        purged: of("purged")?,
        heaps: of("from heaps")?,
        evicted: of("evicted")?,
    })
}

/// How often a submit has found too little memory so far, and tried again.
pub fn found_too_little(gpu: &Gpu) -> Result<usize, Stop> {
    let text = fs::read_to_string(file(gpu, "shrink"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("attempts of submissions that found too little: "))
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| Stop::fail("no attempts in shrink"))
}

/// The bytes of a row of sums in `gems`.
pub fn sum(gpu: &Gpu, row: &str) -> Result<usize, Stop> {
    let text = fs::read_to_string(file(gpu, "gems"))?;
    text.lines()
        .filter_map(|line| line.strip_prefix(row)?.strip_prefix(": "))
        .find_map(|sums| {
            sums.split(", ")
                .nth(1)?
                .strip_suffix(" bytes")?
                .parse()
                .ok()
        })
        .ok_or_else(|| Stop::fail(format!("no {row} in gems")))
}
