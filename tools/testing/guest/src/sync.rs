// SPDX-License-Identifier: GPL-2.0

//! Syncobjs, sync files, and fences that the test itself signals.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use crate::device::open_file;
use crate::device::Device;
use crate::sys;
use crate::sys::Errno;
use crate::sys::Result;
use crate::uapi;

/// A syncobj's handle, destroyed on drop.
pub struct Syncobj {
    device: Device,
    handle: u32,
}

impl Syncobj {
    /// Makes one.
    pub fn create(device: &Device, flags: u32) -> Result<Self> {
        let mut arg = uapi::SyncobjCreate { handle: 0, flags };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(device.as_fd(), uapi::SYNCOBJ_CREATE, &mut arg)? };
        Ok(Self {
            device: device.clone(),
            handle: arg.handle,
        })
    }

    /// Makes one that holds this fence.
    pub fn with_fence(device: &Device, sync_file: BorrowedFd<'_>) -> Result<Self> {
        let this = Self::create(device, 0)?;
        let mut arg = uapi::SyncobjHandle {
            handle: this.handle,
            flags: uapi::SYNCOBJ_SYNC_FILE,
            fd: sync_file.as_raw_fd(),
            ..Default::default()
        };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(device.as_fd(), uapi::SYNCOBJ_FD_TO_HANDLE, &mut arg)? };
        Ok(this)
    }

    /// The handle.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Its fence. EINVAL if it has none.
    pub fn fence(&self) -> Result<OwnedFd> {
        let mut arg = uapi::SyncobjHandle {
            handle: self.handle,
            flags: uapi::SYNCOBJ_SYNC_FILE,
            fd: -1,
            ..Default::default()
        };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(self.device.as_fd(), uapi::SYNCOBJ_HANDLE_TO_FD, &mut arg)? };
        // SAFETY: the kernel has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(arg.fd) })
    }

    /// Waits for its fence: ETIME if that takes longer, EINVAL if there is none.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        self.wait_with(timeout, 0, 0)
    }

    /// As [`Self::wait`], and asks for the fence to signal by a time of the monotonic clock.
    pub fn wait_with_deadline(&self, timeout: Duration, deadline_ns: u64) -> Result<()> {
        self.wait_with(timeout, uapi::SYNCOBJ_WAIT_DEADLINE, deadline_ns)
    }

    fn wait_with(&self, timeout: Duration, flags: u32, deadline_ns: u64) -> Result<()> {
        let handles = [self.handle];
        let mut arg = uapi::SyncobjWait {
            handles: handles.as_ptr() as u64,
            timeout_ns: sys::deadline_ns(timeout),
            count_handles: 1,
            flags: uapi::SYNCOBJ_WAIT_ALL | flags,
            deadline_ns,
            ..Default::default()
        };
        // SAFETY: `handles` is as long as the argument says.
        unsafe { sys::ioctl(self.device.as_fd(), uapi::SYNCOBJ_WAIT, &mut arg) }
    }

    /// Whether its fence has signalled.
    pub fn signalled(&self) -> Result<bool> {
        match self.wait(Duration::ZERO) {
            Ok(()) => Ok(true),
            Err(Errno(libc::ETIME)) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// How a sync file's fence has signalled: well, or with which error. `None` if it has not.
pub fn fence_status(sync_file: BorrowedFd<'_>) -> Result<Option<Result<()>>> {
    let mut arg = uapi::SyncFileInfo::default();
    // SAFETY: no room is offered for the fences, so that the pointer is not used.
    unsafe { sys::ioctl(sync_file, uapi::SYNC_FILE_INFO, &mut arg)? };
    Ok(match arg.status {
        0 => None,
        1.. => Some(Ok(())),
        error => Some(Err(Errno(-error))),
    })
}

/// When a sync file's fence has signalled, in nanoseconds of the monotonic clock. `None` if it has
/// not.
pub fn signalled_at(sync_file: BorrowedFd<'_>) -> Result<Option<u64>> {
    let mut info = uapi::SyncFenceInfo::default();
    let mut arg = uapi::SyncFileInfo {
        num_fences: 1,
        sync_fence_info: &raw mut info as u64,
        ..Default::default()
    };
    // SAFETY: there is room for one fence.
    unsafe { sys::ioctl(sync_file, uapi::SYNC_FILE_INFO, &mut arg)? };
    Ok((info.status != 0).then_some(info.timestamp_ns))
}

/// Makes a sync file that signals when both of these have.
pub fn merge(first: BorrowedFd<'_>, second: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut arg = uapi::SyncMerge {
        fd2: second.as_raw_fd(),
        fence: -1,
        ..Default::default()
    };
    // SAFETY: no pointers.
    unsafe { sys::ioctl(first, uapi::SYNC_MERGE, &mut arg)? };
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(arg.fence) })
}

/// Asks for a sync file's fence to signal by a time of the monotonic clock.
pub fn set_deadline(sync_file: BorrowedFd<'_>, deadline_ns: u64) -> Result<()> {
    let mut arg = uapi::SyncSetDeadline {
        deadline_ns,
        pad: 0,
    };
    // SAFETY: no pointers.
    unsafe { sys::ioctl(sync_file, uapi::SYNC_SET_DEADLINE, &mut arg) }
}

impl Drop for Syncobj {
    fn drop(&mut self) {
        let mut arg = uapi::SyncobjDestroy {
            handle: self.handle,
            pad: 0,
        };
        // SAFETY: no pointers.
        let _ = unsafe { sys::ioctl(self.device.as_fd(), uapi::SYNCOBJ_DESTROY, &mut arg) };
    }
}

/// A fence that signals when the test says so, or when it is dropped.
pub struct Gate {
    timeline: OwnedFd,
    fence: OwnedFd,
}

impl Gate {
    const PATH: &'static str = "/sys/kernel/debug/sync/sw_sync";

    /// Whether the kernel has such fences (CONFIG_SW_SYNC, debugfs mounted).
    pub fn available() -> bool {
        Path::new(Self::PATH).exists()
    }

    /// A fence that has not signalled.
    pub fn new() -> Result<Self> {
        let timeline = open_file(Path::new(Self::PATH))?;
        let mut arg = uapi::SwSyncFence {
            value: 1,
            fence: -1,
            ..Default::default()
        };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(timeline.as_fd(), uapi::SW_SYNC_CREATE_FENCE, &mut arg)? };
        // SAFETY: the kernel has just opened it for us.
        let fence = unsafe { OwnedFd::from_raw_fd(arg.fence) };
        Ok(Self { timeline, fence })
    }

    /// The fence as a sync file.
    pub fn fence(&self) -> BorrowedFd<'_> {
        self.fence.as_fd()
    }

    /// A syncobj with the fence.
    pub fn syncobj(&self, device: &Device) -> Result<Syncobj> {
        Syncobj::with_fence(device, self.fence())
    }

    /// Signals the fence.
    pub fn open(&self) -> Result<()> {
        let mut by = 1u32;
        // SAFETY: no pointers.
        unsafe { sys::ioctl(self.timeline.as_fd(), uapi::SW_SYNC_INC, &mut by) }
    }
}
