// SPDX-License-Identifier: GPL-2.0

//! How much memory there is, and who has it.

use std::fs;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::time::Duration;
use std::time::Instant;

use crate::device::Device;
use crate::harness::Stop;
use crate::sys;

/// A line `name: number kB` of a file in proc, in bytes.
fn bytes_of(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.strip_prefix(':')?.split_whitespace();
    let number: usize = words.next()?.parse().ok()?;
    match words.next() {
        None => Some(number),
        Some("kB" | "KiB") => number.checked_mul(1 << 10),
        Some("MiB") => number.checked_mul(1 << 20),
        Some(_) => None,
    }
}

/// A line of `/proc/meminfo`, in bytes.
pub fn meminfo(name: &str) -> Result<usize, Stop> {
    let text = fs::read_to_string("/proc/meminfo")?;
    bytes_of(&text, name).ok_or_else(|| Stop::fail(format!("no {name} in meminfo")))
}

/// Bytes that anybody could have. Those that were freed and wait on a processor's own list count:
/// they can be tens of MiB, go back only when that processor is awake, and are left out by the
/// kernel.
pub fn available() -> Result<usize, Stop> {
    let zones = fs::read_to_string("/proc/zoneinfo")?;
    Ok(meminfo("MemAvailable")? + 4096 * listed(&zones))
}

/// Pages on the processors' own lists, of `/proc/zoneinfo`.
fn listed(zones: &str) -> usize {
    let counts = zones
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count:"));
    counts.filter_map(|n| n.trim().parse::<usize>().ok()).sum()
}

/// A count of `/proc/vmstat`.
pub fn vmstat(name: &str) -> Result<usize, Stop> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let count = lines.find(|(found, _)| *found == name);
    count
        .and_then(|(_, number)| number.parse().ok())
        .ok_or_else(|| Stop::fail(format!("no {name} in vmstat")))
}

/// How many objects the caches of `kmalloc()` have: fences, jobs, BOs and whatever else the kernel
/// has allocated. [`None`] if the kernel does not say so (`CONFIG_SLUB_DEBUG`). Root only.
pub fn allocations() -> Result<Option<usize>, Stop> {
    // The objects that each processor and KASAN keep would count as well.
    for cache in fs::read_dir("/sys/kernel/slab").into_iter().flatten() {
        fs::write(cache?.path().join("shrink"), "1")?;
    }
    let Ok(text) = fs::read_to_string("/proc/slabinfo") else {
        return Ok(None);
    };
    let active = text
        .lines()
        .filter(|line| line.starts_with("kmalloc-"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    Ok(Some(active.sum()))
}

/// How many processes the kernel has killed for want of memory.
pub fn killed() -> Result<usize, Stop> {
    vmstat("oom_kill")
}

/// Bytes of memory that the BOs of an open file have, as its fdinfo says. The line is left out if
/// no BO has any.
pub fn resident(device: &Device) -> Result<usize, Stop> {
    fdinfo(device, "drm-resident-memory")
}

/// A number of bytes in the fdinfo of an open file, 0 if the line is left out.
pub fn fdinfo(device: &Device, name: &str) -> Result<usize, Stop> {
    let fd = device.as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    Ok(bytes_of(&text, name).unwrap_or(0))
}

/// Nanoseconds that this thread has had a processor.
pub fn cpu_time_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Has every shrinker free what it can. Root only.
pub fn shrink_all() -> Result<(), Stop> {
    Ok(fs::write("/proc/sys/vm/drop_caches", "2")?)
}

/// Has the kernel forget what it has of files and can read again. Root only.
pub fn drop_cached() -> Result<(), Stop> {
    Ok(fs::write("/proc/sys/vm/drop_caches", "1")?)
}

/// Waits until a condition holds. Whether it came to that.
pub fn wait_for(
    patience: Duration,
    mut is: impl FnMut() -> Result<bool, Stop>,
) -> Result<bool, Stop> {
    let end = Instant::now() + sys::patience(patience);
    while !is()? {
        if Instant::now() > end {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(true)
}

/// Amounts that the kernel holds for clients.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    buffers: usize,
    /// Fences among them.
    allocations: Option<usize>,
    slab: usize,
    /// Pages of BOs, which are in `buffers` as well, and chunks of heaps, which are nowhere else.
    of_gpu: usize,
}

impl Held {
    /// By now.
    pub fn now() -> Result<Self, Stop> {
        Ok(Self {
            buffers: meminfo("Shmem")?,
            allocations: allocations()?,
            slab: meminfo("SUnreclaim")?,
            of_gpu: meminfo("GPUActive")?,
        })
    }

    /// When what clients had before has gone.
    pub fn settled() -> Result<Self, Stop> {
        let mut held = Self::now()?;
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = Self::now()?;
            if now.allocations >= held.allocations
                && now.slab >= held.slab
                && now.of_gpu >= held.of_gpu
            {
                return Ok(now);
            }
            held = now;
        }
    }

    /// Whether so many clients have left nothing. Caches of `kmalloc()` have some objects more or
    /// less at any time, but fewer than if each client left two. The other counters are kept for
    /// each CPU and summed up now and then. The slack is less than a chunk for each of the clients.
    pub fn is_no_more_than(&self, before: &Self, clients: usize) -> bool {
        let allocated = |held: &Self| held.allocations.unwrap_or(0);

        self.buffers <= before.buffers + (1 << 20)
            && allocated(self) < allocated(before) + 2 * clients
            && self.slab <= before.slab + (8 << 20)
            && self.of_gpu <= before.of_gpu + (4 << 20)
    }
}

/// Takes memory away from everybody else, until it is dropped.
pub struct Hog {
    chunks: Vec<Box<[u8]>>,
}

impl Hog {
    /// Takes memory until no more than `left` bytes are available.
    pub fn new(left: usize) -> Result<Self, Stop> {
        let mut this = Self { chunks: Vec::new() };
        this.take(left)?;
        Ok(this)
    }

    /// Takes what has become available beyond `left` bytes.
    pub fn take(&mut self, left: usize) -> Result<(), Stop> {
        const STEP: usize = 256 << 10;
        loop {
            let spare = meminfo("MemAvailable")?.saturating_sub(left);
            if spare <= STEP {
                break;
            }
            // In larger steps where it does not matter.
            let mut chunk = vec![0u8; (spare / 4).max(STEP)].into_boxed_slice();
            // Zeroed memory is not there before it is written to.
            for byte in chunk.iter_mut().step_by(4096) {
                *byte = 1;
            }
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// Bytes that it has.
    pub fn size(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let text = "MemTotal:   1024 kB\nMemFree: 7\nx-resident: 3 MiB\n";
        assert_eq!(bytes_of(text, "MemTotal"), Some(1 << 20));
        assert_eq!(bytes_of(text, "MemFree"), Some(7));
        assert_eq!(bytes_of(text, "x-resident"), Some(3 << 20));
        assert_eq!(bytes_of(text, "Mem"), None);
    }

    #[test]
    fn pages_on_lists() {
        let text = "  pagesets\n    cpu: 0\n      count:    12\n      high: 9\n    cpu: 1\n      count: 30\n";
        assert_eq!(listed(text), 42);
    }
}
