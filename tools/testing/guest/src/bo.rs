// SPDX-License-Identifier: GPL-2.0

//! Buffer objects.

use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::device::Device;
use crate::sys;
use crate::sys::Mapping;
use crate::sys::Result;
use crate::uapi;

/// A handle to a BO in one open file, closed on drop.
pub struct Bo {
    device: Device,
    handle: u32,
    size: usize,
    va: u64,
}

impl Bo {
    /// Makes a BO of at least `size` bytes.
    pub fn create(device: &Device, size: usize, flags: u32) -> Result<Self> {
        let mut arg = uapi::CreateBo {
            size: size as u32,
            flags,
            ..Default::default()
        };
        create_raw(device, &mut arg)?;
        Ok(Self {
            device: device.clone(),
            handle: arg.handle,
            size: size.next_multiple_of(4096),
            va: arg.offset,
        })
    }

    /// Takes a dma-buf in. `size` is what the caller knows it to have.
    pub fn import(device: &Device, dmabuf: BorrowedFd<'_>, size: usize) -> Result<Self> {
        let mut arg = uapi::PrimeHandle {
            fd: dmabuf.as_raw_fd(),
            ..Default::default()
        };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(device.as_fd(), uapi::PRIME_FD_TO_HANDLE, &mut arg)? };
        let mut bo = Self {
            device: device.clone(),
            handle: arg.handle,
            size,
            va: 0,
        };
        bo.va = offset(device, bo.handle)?;
        Ok(bo)
    }

    /// Takes a BO that somebody has named. `device` is not a render node.
    pub fn open_named(device: &Device, name: u32) -> Result<Self> {
        let mut arg = uapi::GemOpen {
            name,
            ..Default::default()
        };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(device.as_fd(), uapi::GEM_OPEN, &mut arg)? };
        let mut bo = Self {
            device: device.clone(),
            handle: arg.handle,
            size: arg.size as usize,
            va: 0,
        };
        bo.va = offset(device, bo.handle)?;
        Ok(bo)
    }

    /// Makes a BO over memory of this process.
    pub fn over_memory(device: &Device, address: usize, size: usize, flags: u32) -> Result<Self> {
        let mut arg = uapi::CreateUserptr {
            address: address as u64,
            size: size as u64,
            flags,
            ..Default::default()
        };
        create_userptr_raw(device, &mut arg)?;
        Ok(Self {
            device: device.clone(),
            handle: arg.handle,
            size,
            va: arg.offset,
        })
    }

    /// The handle.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Its address in the file's GPU address space.
    pub fn va(&self) -> u64 {
        self.va
    }

    /// Maps all of it.
    pub fn map(&self) -> Result<Mapping> {
        let offset = mmap_offset(&self.device, self.handle)?;
        Mapping::new(self.device.as_fd(), offset, self.size)
    }

    /// Waits until no job uses it, at most until an absolute time.
    pub fn wait_until(&self, timeout_ns: i64) -> Result<()> {
        let mut arg = uapi::WaitBo {
            handle: self.handle,
            pad: 0,
            timeout_ns,
        };
        wait_raw(&self.device, &mut arg)
    }

    /// Waits until no job uses it.
    pub fn wait(&self, timeout: Duration) -> Result<()> {
        self.wait_until(sys::deadline_ns(timeout))
    }

    /// Says whether the contents are needed; returns whether they are still there.
    pub fn madvise(&self, madv: u32) -> Result<bool> {
        madvise(&self.device, self.handle, madv)
    }

    /// Names it.
    pub fn label(&self, label: &str) -> Result<()> {
        let bytes = [label.as_bytes(), b"\0"].concat();
        let mut arg = uapi::SetLabelBo {
            handle: self.handle,
            pad: 0,
            label: bytes.as_ptr() as u64,
        };
        label_raw(&self.device, &mut arg)
    }

    /// Keeps data with it, instead of those that it has.
    pub fn set_metadata(&self, data: &[u8]) -> Result<()> {
        let mut arg = uapi::BoMetadata {
            handle: self.handle,
            data: data.as_ptr() as u64,
            size: data.len() as u32,
            ..Default::default()
        };
        set_metadata_raw(&self.device, &mut arg)
    }

    /// The data that are kept with it.
    pub fn metadata(&self) -> Result<Vec<u8>> {
        let mut data = vec![0; self.metadata_size()?];
        let mut arg = uapi::BoMetadata {
            handle: self.handle,
            data: data.as_mut_ptr() as u64,
            size: data.len() as u32,
            ..Default::default()
        };
        // SAFETY: there is room for so many bytes.
        unsafe { get_metadata_raw(&self.device, &mut arg)? };
        data.truncate(arg.size as usize);
        Ok(data)
    }

    /// How many bytes these are.
    pub fn metadata_size(&self) -> Result<usize> {
        let mut arg = uapi::BoMetadata {
            handle: self.handle,
            size: 1,
            ..Default::default()
        };
        // SAFETY: nothing is copied to a null pointer.
        unsafe { get_metadata_raw(&self.device, &mut arg)? };
        Ok(arg.size as usize)
    }

    /// Names it for all clients. Its file is not that of a render node.
    pub fn name(&self) -> Result<u32> {
        let mut arg = uapi::GemFlink {
            handle: self.handle,
            name: 0,
        };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(self.device.as_fd(), uapi::GEM_FLINK, &mut arg)? };
        Ok(arg.name)
    }

    /// Makes a dma-buf of it.
    pub fn export(&self) -> Result<OwnedFd> {
        let mut arg = uapi::PrimeHandle {
            handle: self.handle,
            flags: uapi::PRIME_CLOEXEC | uapi::PRIME_RDWR,
            fd: -1,
        };
        // SAFETY: no pointers.
        unsafe { sys::ioctl(self.device.as_fd(), uapi::PRIME_HANDLE_TO_FD, &mut arg)? };
        // SAFETY: the kernel has just opened it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(arg.fd) })
    }

    /// Closes the handle now.
    pub fn close(self) -> Result<()> {
        let device = self.device.clone();
        device.close_handle(self.leak())
    }

    /// Forgets the handle without closing it: the file alone keeps it.
    pub fn leak(self) -> u32 {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used again.
        unsafe { std::ptr::drop_in_place(&mut this.device) };
        this.handle
    }
}

impl Drop for Bo {
    fn drop(&mut self) {
        // A handle that is gone already is the business of the test that closed it.
        let _ = self.device.close_handle(self.handle);
    }
}

/// CREATE_BO with an argument of the caller's making.
pub fn create_raw(device: &Device, arg: &mut uapi::CreateBo) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { sys::ioctl(device.as_fd(), uapi::CREATE_BO, arg) }
}

/// CREATE_USERPTR with an argument of the caller's making.
pub fn create_userptr_raw(device: &Device, arg: &mut uapi::CreateUserptr) -> Result<()> {
    // SAFETY: the kernel refuses memory that is not there, and lets the GPU alone work on the rest.
    unsafe { sys::ioctl(device.as_fd(), uapi::CREATE_USERPTR, arg) }
}

/// MMAP_BO.
pub fn mmap_offset(device: &Device, handle: u32) -> Result<u64> {
    let mut arg = uapi::MmapBo {
        handle,
        ..Default::default()
    };
    mmap_raw(device, &mut arg)?;
    Ok(arg.offset)
}

/// MMAP_BO with an argument of the caller's making.
pub fn mmap_raw(device: &Device, arg: &mut uapi::MmapBo) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { sys::ioctl(device.as_fd(), uapi::MMAP_BO, arg) }
}

/// GET_BO_OFFSET.
pub fn offset(device: &Device, handle: u32) -> Result<u64> {
    let mut arg = uapi::GetBoOffset {
        handle,
        ..Default::default()
    };
    // SAFETY: no pointers.
    unsafe { sys::ioctl(device.as_fd(), uapi::GET_BO_OFFSET, &mut arg)? };
    Ok(arg.offset)
}

/// WAIT_BO with an argument of the caller's making.
pub fn wait_raw(device: &Device, arg: &mut uapi::WaitBo) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { sys::ioctl(device.as_fd(), uapi::WAIT_BO, arg) }
}

/// MADVISE.
pub fn madvise(device: &Device, handle: u32, madv: u32) -> Result<bool> {
    let mut arg = uapi::Madvise {
        handle,
        madv,
        retained: u32::MAX,
    };
    // SAFETY: no pointers.
    unsafe { sys::ioctl(device.as_fd(), uapi::MADVISE, &mut arg)? };
    Ok(arg.retained != 0)
}

/// SET_LABEL_BO with an argument of the caller's making.
pub fn label_raw(device: &Device, arg: &mut uapi::SetLabelBo) -> Result<()> {
    // SAFETY: the kernel reads through the pointer and refuses a bad one.
    unsafe { sys::ioctl(device.as_fd(), uapi::SET_LABEL_BO, arg) }
}

/// SET_METADATA with an argument of the caller's making.
pub fn set_metadata_raw(device: &Device, arg: &mut uapi::BoMetadata) -> Result<()> {
    // SAFETY: the kernel reads through the pointer and refuses a bad one.
    unsafe { sys::ioctl(device.as_fd(), uapi::SET_METADATA, arg) }
}

/// GET_METADATA with an argument of the caller's making.
///
/// # Safety
///
/// The kernel may write as many bytes to `arg.data` as `arg.size` says, if it can.
pub unsafe fn get_metadata_raw(device: &Device, arg: &mut uapi::BoMetadata) -> Result<()> {
    // SAFETY: as the caller promises.
    unsafe { sys::ioctl(device.as_fd(), uapi::GET_METADATA, arg) }
}

/// SYNC_BO of one part of a BO.
pub fn sync(device: &Device, handle: u32, kind: u32, offset: u32, size: u32) -> Result<()> {
    let op = uapi::SyncOp {
        handle,
        kind,
        offset,
        size,
    };
    let mut arg = uapi::SyncBo {
        ops: std::ptr::from_ref(&op) as u64,
        op_count: 1,
        pad: 0,
    };
    // SAFETY: the kernel reads one operation.
    unsafe { sys::ioctl(device.as_fd(), uapi::SYNC_BO, &mut arg) }
}
