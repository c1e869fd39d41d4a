// SPDX-License-Identifier: GPL-2.0

//! Swap in compressed memory, for as long as a test wants it. Root only.

use std::ffi::CString;
use std::fs;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use crate::harness::Stop;
use crate::sys::Errno;

const DEVICE: &str = "/dev/zram0";
const SYSFS: &str = "/sys/block/zram0";
const PAGE: usize = 4096;

/// Swap, ended on drop.
pub struct Swap(());

impl Swap {
    /// Makes `size` bytes of it. Skips the test if the kernel has no zram.
    pub fn on(size: usize) -> Result<Self, Stop> {
        if !fs::exists(SYSFS)? {
            return Err(Stop::Skip("no zram".into()));
        }
        // What an earlier test has left that was killed.
        let _ = off();
        fs::write(format!("{SYSFS}/reset"), "1")?;
        fs::write(format!("{SYSFS}/disksize"), size.to_string())?;

        // The header: at 1024 version, last page and number of bad pages, at the page's end what it
        // is.
        let mut header = [0; PAGE];
        header[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
        header[1028..1032].copy_from_slice(&((size / PAGE - 1) as u32).to_ne_bytes());
        header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
        OpenOptions::new()
            .write(true)
            .open(DEVICE)?
            .write_all_at(&header, 0)?;

        let path = CString::new(DEVICE).map_err(|_| Stop::fail("no path"))?;
        // SAFETY: a string that ends.
        if unsafe { libc::swapon(path.as_ptr(), 0) } == -1 {
            return Err(Errno::last().into());
        }
        Ok(Self(()))
    }

    /// Bytes in use.
    pub fn used(&self) -> Result<usize, Stop> {
        let swaps = fs::read_to_string("/proc/swaps")?;
        swaps
            .lines()
            .find(|line| line.starts_with(DEVICE))
            .and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
            .map(|kib: usize| kib << 10)
            .ok_or_else(|| Stop::fail("there is no swap"))
    }
}

fn off() -> Result<(), Stop> {
    let path = CString::new(DEVICE).map_err(|_| Stop::fail("no path"))?;
    // SAFETY: a string that ends.
    match unsafe { libc::swapoff(path.as_ptr()) } {
        -1 => Err(Errno::last().into()),
        _ => Ok(()),
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = off();
    }
}
