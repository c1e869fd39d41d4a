// SPDX-License-Identifier: GPL-2.0

//! The ioctls of panfrost that are about BOs.
//!
//! Each looks its BO up by handle, and holds a reference while it works. The last one may go here if
//! another thread closes the handle meanwhile, which is why none of this may run in atomic context.

use kernel::{
    dma_buf::{
        resv::Usage,
        Waited, //
    },
    drm::{
        self,
        gem::BaseObject,
        ioctl, //
    },
    prelude::*,
    sync::aref::ARef,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader, //
    },
    uapi, //
};

use crate::{
    device::{
        with_gpu,
        Device,
        Gpu, //
    },
    file::File,
    gem::{
        self,
        Bo, //
    }, //
};

/// The BO behind a handle; `ENOENT` if there is none.
fn lookup(file: &drm::File<File>, handle: u32) -> Result<ARef<Bo>> {
    Bo::lookup_handle(file, handle)
}

/// The GPU address of a BO in the address space of a file.
///
/// `EINVAL`: the file has no handle for it any more.
fn address(bo: &Bo, file: &drm::File<File>) -> Result<u64> {
    let mapping = gem::mapping(bo, file.inner().get_ref().vm()).ok_or(EINVAL)?;

    Ok(mapping.va())
}

/// `DRM_IOCTL_PANFROST_CREATE_BO`: creates a BO and maps it into the file's address space.
///
/// `EINVAL`: no size, padding, unknown flags, flags that exclude each other (an executable heap, a
/// heap with CPU mappings), or another thread that guessed the handle and closed it. `ENOSPC`: no
/// addresses left. `ENOMEM`.
pub(super) fn create(
    dev: &Device<drm::Registered>,
    gpu: &Gpu<'_>,
    args: &mut uapi::drm_panfrost_create_bo,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.pad != 0 {
        return Err(EINVAL);
    }

    let bo = gem::create(dev, gpu, args.size, args.flags)?;

    // This is what maps it: each file that has a handle has a mapping.
    args.handle = bo.create_handle(file)?;
    args.offset = address(&bo, file)?;
    Ok(0)
}

/// `DRM_IOCTL_DRM_GPU_CREATE_USERPTR`: creates a BO over memory of the caller.
///
/// `EINVAL`: unknown flags; memory that is not whole pages, or none, or more than there are. `EFAULT`:
/// memory that is not there, is not what the GPU may do with it, or belongs to a device. `EPERM`: the
/// file has user memory of another process. `ENOSPC`: no addresses left. `ENOMEM`.
///
/// Runs unguarded: the memory may be such that another process has to provide it.
pub(super) fn create_userptr(
    dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_gpu_create_userptr,
    file: &drm::File<File>,
) -> Result<u32> {
    let vm = file.inner().get_ref().vm();
    let bo = gem::create_user(dev, vm, args.address, args.size, args.flags)?;

    args.handle = bo.create_handle(file)?;
    args.offset = address(&bo, file)?;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_MMAP_BO`: tells where in the device file to mmap() a BO.
///
/// `EINVAL`: flags; a heap, which the CPU has no business with; user memory, which is mapped.
/// `ENOENT`: unknown handle. `ENOMEM`, `ENOSPC`.
pub(super) fn mmap(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_mmap_bo,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.flags != 0 {
        return Err(EINVAL);
    }

    let bo = lookup(file, args.handle)?;
    if bo.is_heap() || bo.is_user() {
        return Err(EINVAL);
    }

    args.offset = bo.create_mmap_offset()?;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_GET_BO_OFFSET`: tells the GPU address of a BO.
///
/// `ENOENT`: unknown handle. `EINVAL`: the handle is just being closed. The padding is not looked at,
/// as it never was.
pub(super) fn get_offset(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_get_bo_offset,
    file: &drm::File<File>,
) -> Result<u32> {
    let bo = lookup(file, args.handle)?;

    args.offset = address(&bo, file)?;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_MADVISE`: tells whether the contents of a BO matter.
///
/// `ENOENT`: unknown handle. `EINVAL`: a shared BO is not needed any more, in the opinion of one of
/// its users; or an advice that does not exist, which the C driver takes and stores.
pub(super) fn madvise(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_madvise,
    file: &drm::File<File>,
) -> Result<u32> {
    let bo = lookup(file, args.handle)?;
    let advice = gem::Advice::try_from(args.madv)?;
    let retained = gem::madvise(&bo, file.inner().get_ref().vm(), advice)?;

    args.retained = retained.into();
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_SET_LABEL_BO`: names a BO, or takes its name away.
///
/// `EINVAL`: padding. `ENOENT`: unknown handle. `E2BIG`: more than 4095 bytes. `EFAULT`, `ENOMEM`.
///
/// Runs unguarded: what is read can be memory whose pages another process has to provide.
pub(super) fn set_label(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_set_label_bo,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.pad != 0 {
        return Err(EINVAL);
    }

    let bo = lookup(file, args.handle)?;
    let label = gem::Label::from_user(args.label)?;

    bo.set_label(label);
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_QUERY_BO_INFO`: tells where a BO comes from and how it was created.
///
/// `ENOENT`: unknown handle.
pub(super) fn query_info(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_query_bo_info,
    file: &drm::File<File>,
) -> Result<u32> {
    let bo = lookup(file, args.handle)?;

    (args.create_flags, args.extra_flags) = gem::query(&bo);
    args.pad = 0;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_WAIT_BO`: waits until a BO is not in use, by whomever.
///
/// The time limit is a point of `CLOCK_MONOTONIC` in nanoseconds. `EINVAL`: padding. `ENOENT`: unknown
/// handle. `EBUSY`: it is in use, and the limit has been in the past from the start. `ETIMEDOUT`.
/// Interruptible.
///
/// Runs unguarded: all that is waited for is signalled when the device goes.
pub(super) fn wait(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_wait_bo,
    file: &drm::File<File>,
) -> Result<u32> {
    let timeout = ioctl::timeout_abs_to_jiffies(args.timeout_ns);

    if args.pad != 0 {
        return Err(EINVAL);
    }

    let bo = lookup(file, args.handle)?;

    match bo.resv().wait_timeout(Usage::Read, timeout)? {
        Waited::Signaled(_) => Ok(0),
        Waited::TimedOut if timeout == 0 => Err(EBUSY),
        Waited::TimedOut => Err(ETIMEDOUT),
    }
}

/// Operations of SYNC_BO that are copied in at a time.
const SYNC_BATCH: usize = 64;

/// More operations than this are too much for one call. The C driver copies them to one array, which
/// the kernel does not let become larger.
const SYNC_MAX: u32 = (i32::MAX as u32) / SYNC_OP_SIZE as u32;

/// Size of a `struct drm_panfrost_bo_sync_op` in bytes.
const SYNC_OP_SIZE: usize = size_of::<uapi::drm_panfrost_bo_sync_op>();

/// Copies in the next operations, at most [`SYNC_BATCH`], and calls `f` with their bytes.
fn sync_batch(reader: &mut UserSliceReader, f: impl FnOnce(&[u8]) -> Result) -> Result {
    // A KiB of stack. Read as a whole: a call for each costs more than what is done with it.
    let mut batch = [0u8; SYNC_BATCH * SYNC_OP_SIZE];
    let len = reader.len().min(batch.len());
    let batch = batch.get_mut(..len).ok_or(EINVAL)?;

    reader.read_slice(batch)?;
    f(batch)
}

/// Calls `f` with each of the operations in `batch`.
fn sync_ops(batch: &[u8], mut f: impl FnMut(uapi::drm_panfrost_bo_sync_op) -> Result) -> Result {
    for op in batch.chunks_exact(SYNC_OP_SIZE) {
        // Four words, in this order.
        let word = |n: usize| -> Result<u32> {
            let bytes = op.get(n * 4..n * 4 + 4).ok_or(EINVAL)?;

            Ok(u32::from_ne_bytes(bytes.try_into().map_err(|_| EINVAL)?))
        };

        f(uapi::drm_panfrost_bo_sync_op {
            handle: word(0)?,
            type_: word(1)?,
            offset: word(2)?,
            size: word(3)?,
        })?;
    }
    Ok(())
}

/// `DRM_IOCTL_PANFROST_SYNC_BO`: makes parts of BOs in the CPU's caches and in memory the same.
///
/// `EINVAL`: padding, unknown type, a range outside of the BO, an imported BO. `ENOENT`: unknown
/// handle. `EFAULT`. `ENOMEM`: more operations than fit into 2 GiB. `ENODEV`: the device goes. Those
/// before the one that failed have been done.
///
/// Runs unguarded, but for the operations themselves.
pub(super) fn sync(
    dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_sync_bo,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.pad != 0 {
        return Err(EINVAL);
    }
    if args.op_count > SYNC_MAX {
        return Err(ENOMEM);
    }

    let ptr = UserPtr::from_addr(usize::try_from(args.ops).map_err(|_| EFAULT)?);
    // Does not overflow, see `SYNC_MAX`.
    let len = args.op_count as usize * SYNC_OP_SIZE;
    let slice = || UserSlice::new(ptr, len).reader();

    // Nothing is done if the array cannot be read to its end. That it can is found out ahead if it
    // is not copied at once.
    if len > SYNC_BATCH * SYNC_OP_SIZE {
        let mut reader = slice();

        while !reader.is_empty() {
            sync_batch(&mut reader, |_| Ok(()))?;
            check_signals()?;
        }
    }

    let mut reader = slice();

    while !reader.is_empty() {
        sync_batch(&mut reader, |batch| {
            with_gpu(dev, |gpu| {
                if gpu.halted() {
                    return Err(ENODEV);
                }
                sync_ops(batch, |op| {
                    let bo = lookup(file, op.handle)?;

                    gem::sync(&bo, gpu, op.type_, op.offset, op.size)
                })
            })
            .ok_or(ENODEV)?
        })?;
        check_signals()?;
    }
    Ok(0)
}

/// Lets signals end what user space can make last for long. It is repeated from the beginning then,
/// unless the signal is deadly.
fn check_signals() -> Result {
    match kernel::current!().signal_pending() {
        true => Err(ERESTARTSYS),
        false => Ok(()),
    }
}
