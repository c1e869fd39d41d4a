// SPDX-License-Identifier: GPL-2.0

//! Fences of dma-bufs, and buffers of other devices.

use std::fs;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;

use crate::device::open_file;
use crate::device::version;
use crate::sys;
use crate::sys::Result;
use crate::uapi;

/// The fences that somebody who accesses the buffer so (`DMA_BUF_SYNC_*`) has to wait for.
pub fn export_sync_file(dmabuf: BorrowedFd<'_>, flags: u32) -> Result<OwnedFd> {
    let mut arg = uapi::SyncFile { flags, fd: -1 };
    // SAFETY: no pointers.
    unsafe { sys::ioctl(dmabuf, uapi::DMA_BUF_EXPORT_SYNC_FILE, &mut arg)? };
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(arg.fd) })
}

/// Adds a fence of somebody who accesses the buffer so.
pub fn import_sync_file(dmabuf: BorrowedFd<'_>, flags: u32, fence: BorrowedFd<'_>) -> Result<()> {
    let mut arg = uapi::SyncFile {
        flags,
        fd: fence.as_raw_fd(),
    };
    // SAFETY: no pointers.
    unsafe { sys::ioctl(dmabuf, uapi::DMA_BUF_IMPORT_SYNC_FILE, &mut arg) }
}

/// The CPU begins an access to the buffer, or ends it: `DMA_BUF_SYNC_*`.
pub fn sync(dmabuf: BorrowedFd<'_>, flags: u32) -> Result<()> {
    let mut arg = u64::from(flags);
    // SAFETY: no pointers.
    unsafe { sys::ioctl(dmabuf, uapi::DMA_BUF_SYNC, &mut arg) }
}

/// The cards that are not ours, opened.
fn other_cards() -> Result<Vec<OwnedFd>> {
    let mut cards = Vec::new();
    for entry in fs::read_dir("/dev/dri")?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("card") {
            continue;
        }
        let card = open_file(&entry.path())?;
        if version(card.as_fd())?.name != "panfrost" {
            cards.push(card);
        }
    }
    Ok(cards)
}

/// A buffer of another card, as a dma-buf, and its size. `None` without a card that makes them.
pub fn foreign(width: u32, height: u32) -> Result<Option<(OwnedFd, usize)>> {
    for card in other_cards()? {
        let mut dumb = uapi::CreateDumb {
            width,
            height,
            bpp: 32,
            ..Default::default()
        };
        // SAFETY: no pointers.
        if unsafe { sys::ioctl(card.as_fd(), uapi::MODE_CREATE_DUMB, &mut dumb) }.is_err() {
            continue;
        }
        let mut prime = uapi::PrimeHandle {
            handle: dumb.handle,
            flags: uapi::PRIME_CLOEXEC | uapi::PRIME_RDWR,
            fd: -1,
        };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(card.as_fd(), uapi::PRIME_HANDLE_TO_FD, &mut prime)? };
        // SAFETY: the kernel has just opened it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(prime.fd) };
        return Ok(Some((fd, dumb.size as usize)));
    }
    Ok(None)
}

/// Has another card attach to a buffer, for as long as what is returned is open. `None` without a
/// card that does.
pub fn attach(dmabuf: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    for card in other_cards()? {
        let mut prime = uapi::PrimeHandle {
            fd: dmabuf.as_raw_fd(),
            ..Default::default()
        };
        // SAFETY: no pointers.
        if unsafe { sys::ioctl(card.as_fd(), uapi::PRIME_FD_TO_HANDLE, &mut prime) }.is_ok() {
            return Ok(Some(card));
        }
    }
    Ok(None)
}
