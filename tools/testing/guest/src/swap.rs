// SPDX-License-Identifier: GPL-2.0

//! Swap in memory, for as long as a test wants it. Root only.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::disk;
use crate::disk::Loop;
use crate::harness::Stop;
use crate::sys::Errno;

const DEVICE: &str = "/dev/zram0";
const SYSFS: &str = "/sys/block/zram0";
const PAGE: usize = 4096;

/// Swap, ended on drop.
pub struct Swap {
    /// The file with its content and the disk that it is of, if memory is not compressed.
    disk: Option<(Loop, File)>,
}

impl Swap {
    /// Makes `size` bytes of it in compressed memory. Skips the test if the kernel has no zram.
    pub fn on(size: usize) -> Result<Self, Stop> {
        if !fs::exists(SYSFS)? {
            return Err(Stop::Skip("no zram".into()));
        }
        // An earlier test that was killed may have left it on.
        let _ = off(Path::new(DEVICE));
        fs::write(format!("{SYSFS}/reset"), "1")?;
        fs::write(format!("{SYSFS}/disksize"), size.to_string())?;
        on(Path::new(DEVICE), size)?;
        Ok(Self { disk: None })
    }

    /// Makes `size` bytes of it on a disk that can get [broken](Self::break_disk).
    pub fn on_disk(size: usize) -> Result<Self, Stop> {
        let image = disk::image(size)?;
        let disk = Loop::new(&image)?;
        on(disk.node(), size)?;
        Ok(Self {
            disk: Some((disk, image)),
        })
    }

    /// Loses what is there. Reading it is an error from now on.
    pub fn break_disk(&self) -> Result<(), Stop> {
        if let Some((_, image)) = &self.disk {
            image.set_len(PAGE as u64)?;
        }
        Ok(())
    }

    fn node(&self) -> &Path {
        match &self.disk {
            Some((disk, _)) => disk.node(),
            None => Path::new(DEVICE),
        }
    }

    /// Bytes in use.
    pub fn used(&self) -> Result<usize, Stop> {
        let node = self.node().to_string_lossy();
        let swaps = fs::read_to_string("/proc/swaps")?;
        swaps
            .lines()
            .find(|line| line.split_whitespace().next() == Some(&*node))
            .and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
            .map(|kib: usize| kib << 10)
            .ok_or_else(|| Stop::fail("there is no swap"))
    }
}

fn string(node: &Path) -> Result<CString, Stop> {
    CString::new(node.as_os_str().as_bytes()).map_err(|_| Stop::fail("no path"))
}

fn on(node: &Path, size: usize) -> Result<(), Stop> {
    // The header: at 1024 version, last page and number of bad pages, at the page's end what it is.
    let mut header = [0; PAGE];
    header[1024..1028].copy_from_slice(&1u32.to_ne_bytes());
    header[1028..1032].copy_from_slice(&((size / PAGE - 1) as u32).to_ne_bytes());
    header[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    OpenOptions::new()
        .write(true)
        .open(node)?
        .write_all_at(&header, 0)?;

    let path = string(node)?;
    // SAFETY: a string that ends.
    match unsafe { libc::swapon(path.as_ptr(), 0) } {
        -1 => Err(Errno::last().into()),
        _ => Ok(()),
    }
}

fn off(node: &Path) -> Result<(), Stop> {
    let path = string(node)?;
    // SAFETY: a string that ends.
    match unsafe { libc::swapoff(path.as_ptr()) } {
        -1 => Err(Errno::last().into()),
        _ => Ok(()),
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = off(self.node());
    }
}
