// SPDX-License-Identifier: GPL-2.0

//! A disk that is a file in memory, and a small file system on it. Root only.

use std::ffi::CString;
use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::Stop;

const LOOP_SET_FD: u64 = 0x4c00;
const LOOP_CLR_FD: u64 = 0x4c01;
const LOOP_CTL_GET_FREE: u64 = 0x4c82;

const SIZE: u64 = 8 << 20;

/// A disk with the content of a file, until it is dropped.
pub struct Loop(PathBuf);

impl Loop {
    /// Makes one. Skips the test if the guest cannot.
    pub fn new(file: &File) -> Result<Self, Stop> {
        let control = match File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control")
        {
            Ok(control) => control,
            Err(error) => return Err(Stop::Skip(format!("no loop devices: {error}"))),
        };
        // SAFETY: no arguments.
        let number = done(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE as _) })?;
        let this = Self(format!("/dev/loop{number}").into());
        // Closed again: a device that is open for writing cannot be mounted.
        let device = File::options().read(true).write(true).open(&this.0)?;
        // SAFETY: two of our own files.
        done(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_SET_FD as _, file.as_raw_fd()) })?;
        Ok(this)
    }

    /// The node of the disk.
    pub fn node(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Ok(device) = File::open(&self.0) {
            // SAFETY: no arguments.
            unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD as _) };
        }
    }
}

/// A file in memory, full of zeros, that goes when it is closed.
pub fn image(size: usize) -> Result<File, Stop> {
    let path = format!("/tmp/image-{}", std::process::id());
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    fs::remove_file(&path)?;
    file.set_len(size as u64)?;
    Ok(file)
}

/// An ext2 file system, mounted until it is dropped.
pub struct Disk {
    path: PathBuf,
    /// Dropped after the file system was unmounted.
    _device: Loop,
}

fn done(ret: i32) -> io::Result<i32> {
    match ret {
        -1 => Err(io::Error::last_os_error()),
        ret => Ok(ret),
    }
}

fn string(path: &Path) -> Result<CString, Stop> {
    CString::new(path.as_os_str().as_bytes()).map_err(Stop::fail)
}

impl Disk {
    /// Makes one. Skips the test if the guest cannot.
    pub fn new() -> Result<Self, Stop> {
        let name = format!("/tmp/disk-{}", std::process::id());
        let image = format!("{name}.img");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&image)?;
        file.set_len(SIZE)?;
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext2", &image])
            .status();
        // A process that has it open keeps it.
        fs::remove_file(&image)?;
        match made {
            Ok(status) if status.success() => (),
            Ok(status) => return Err(Stop::fail(format!("mke2fs: {status}"))),
            Err(error) => return Err(Stop::Skip(format!("mke2fs: {error}"))),
        }
        let device = Loop::new(&file)?;
        let from = string(device.node())?;
        let this = Self {
            path: name.into(),
            _device: device,
        };
        fs::create_dir_all(&this.path)?;
        let to = string(&this.path)?;
        // SAFETY: three strings that end, and no data.
        let mounted = done(unsafe {
            libc::mount(
                from.as_ptr(),
                to.as_ptr(),
                c"ext2".as_ptr(),
                0,
                std::ptr::null(),
            )
        });
        match mounted {
            Ok(_) => Ok(this),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                Err(Stop::Skip("no ext2".into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Ok(path) = string(&self.path) {
            // SAFETY: a string that ends.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = fs::remove_dir(&self.path);
    }
}
