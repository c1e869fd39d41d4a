// SPDX-License-Identifier: GPL-2.0

//! The ioctls of panfrost that are about BOs.
//!
//! Each handler looks its BO up by handle and holds a reference while it works. If another thread
//! closes the handle meanwhile, that reference may be the last one. Dropping it may sleep, so none
//! of this may run in atomic context.

use core::mem;

use kernel::{
    dma_buf::Waited,
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
        metadata,
        Advice,
        Bo,
        Flags,
        Metadata, //
    }, //
};

/// Returns the BO behind a handle. `ENOENT`: unknown handle.
fn lookup(file: &drm::File<File>, handle: u32) -> Result<ARef<Bo>> {
    Bo::lookup_handle(file, handle)
}

/// Returns the GPU address of a BO in the address space of a file.
///
/// `EINVAL`: the file has no handle for the BO any more.
fn address(bo: &Bo, file: &drm::File<File>) -> Result<u64> {
    let mapping = gem::mapping(bo, file.inner().get_ref().vm()).ok_or(EINVAL)?;

    Ok(mapping.va())
}

/// Decodes the flags of CREATE_BO. `EINVAL`: unknown flags.
fn decode_flags(flags: u32) -> Result<Flags> {
    const ALL: u32 = uapi::PANFROST_BO_NOEXEC | uapi::PANFROST_BO_HEAP | uapi::PANFROST_BO_WB_MMAP;

    if flags & !ALL != 0 {
        return Err(EINVAL);
    }
    Ok(Flags {
        executable: flags & uapi::PANFROST_BO_NOEXEC == 0,
        heap: flags & uapi::PANFROST_BO_HEAP != 0,
        cached: flags & uapi::PANFROST_BO_WB_MMAP != 0,
    })
}

/// Returns the flags of CREATE_BO that create a BO of this kind.
fn encode_flags(flags: Flags) -> u32 {
    let bit = |set: bool, flag: u32| if set { flag } else { 0 };

    bit(!flags.executable, uapi::PANFROST_BO_NOEXEC)
        | bit(flags.heap, uapi::PANFROST_BO_HEAP)
        | bit(flags.cached, uapi::PANFROST_BO_WB_MMAP)
}

/// `DRM_IOCTL_PANFROST_CREATE_BO`: creates a BO and maps it into the file's address space.
///
/// `EINVAL`: the size is zero, padding is not zero, unknown flags, flags that exclude each other
/// (an executable heap, a heap with cached CPU mappings), or another thread has guessed the handle
/// and closed it already. `ENOSPC`: no GPU addresses are left. `ENODEV`: the GPU has halted.
/// `ENOMEM`.
pub(super) fn create(
    dev: &Device<drm::Registered>,
    gpu: &Gpu<'_>,
    args: &mut uapi::drm_panfrost_create_bo,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.pad != 0 {
        return Err(EINVAL);
    }

    let bo = gem::create(dev, gpu, args.size, decode_flags(args.flags)?)?;

    // Creating the handle also maps the BO, as this interface has `MAP_WITH_HANDLE`.
    args.handle = bo.create_handle(file)?;
    args.offset = address(&bo, file)?;
    Ok(0)
}

/// `DRM_IOCTL_DRM_GPU_CREATE_USERPTR`: creates a BO from memory of the caller.
///
/// `EINVAL`: unknown flags, or a range that is empty, too large, or does not consist of whole
/// pages. `EOPNOTSUPP`: the GPU is not coherent with the CPUs, or cannot reach all memory.
/// `EFAULT`: the memory is not mapped, does not permit the access, is secret, or belongs to a
/// device. `EPERM`: the file has user memory of another process. `ENOSPC`: no GPU addresses are
/// left. `ENODEV`: the device is being removed, or the GPU has halted. `EINTR`, `ERESTARTSYS`: a
/// signal. `ENOMEM`.
///
/// Runs unguarded, since another process may have to provide the pages.
pub(super) fn create_userptr(
    dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_gpu_create_userptr,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.flags & !uapi::DRM_GPU_USERPTR_READONLY != 0 {
        return Err(EINVAL);
    }

    let vm = file.inner().get_ref().vm();
    let writable = args.flags & uapi::DRM_GPU_USERPTR_READONLY == 0;
    let bo = gem::create_user(dev, vm, args.address, args.size, writable)?;

    args.handle = bo.create_handle(file)?;
    args.offset = address(&bo, file)?;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_MMAP_BO`: returns the offset in the device file at which to mmap() a BO.
///
/// `EINVAL`: flags are set, or the BO is a heap, which the CPU may not access, or user memory,
/// which is mapped already. `ENOENT`: unknown handle. `ENOMEM`, `ENOSPC`.
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

/// `DRM_IOCTL_PANFROST_GET_BO_OFFSET`: returns the GPU address of a BO.
///
/// `ENOENT`: unknown handle. `EINVAL`: the handle is being closed. Padding is not checked, as in
/// the C driver.
pub(super) fn get_offset(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_get_bo_offset,
    file: &drm::File<File>,
) -> Result<u32> {
    let bo = lookup(file, args.handle)?;

    args.offset = address(&bo, file)?;
    Ok(0)
}

/// Decodes advice of the UAPI. `EINVAL`: unknown advice.
fn decode_advice(madv: u32) -> Result<Advice> {
    match madv {
        uapi::PANFROST_MADV_WILLNEED => Ok(Advice::WillNeed),
        uapi::PANFROST_MADV_DONTNEED => Ok(Advice::DontNeed),
        _ => Err(EINVAL),
    }
}

/// `DRM_IOCTL_PANFROST_MADVISE`: sets whether the content of a BO is needed, and returns whether it
/// is still there.
///
/// `ENOENT`: unknown handle. `EINVAL`: a BO with more than one handle, which cannot be marked as
/// not needed, as one user cannot decide for the others; user memory; or unknown advice, which the
/// C driver accepts and stores.
pub(super) fn madvise(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_madvise,
    file: &drm::File<File>,
) -> Result<u32> {
    let bo = lookup(file, args.handle)?;
    let advice = decode_advice(args.madv)?;
    let retained = gem::madvise(&bo, file.inner().get_ref().vm(), advice)?;

    args.retained = retained.into();
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_SET_LABEL_BO`: sets or removes the label of a BO.
///
/// `EINVAL`: padding is not zero. `ENOENT`: unknown handle. `E2BIG`: more than 4095 bytes.
/// `EFAULT`, `ENOMEM`.
///
/// Runs unguarded, since another process may have to provide the pages that the label is read from.
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

/// `DRM_IOCTL_DRM_GPU_SET_METADATA`: sets the metadata of a BO, or removes it if the size is 0.
///
/// `EINVAL`: flags are set, or padding is not zero. `ENOENT`: unknown handle. `EOVERFLOW`: more
/// than 128 bytes. `EFAULT`, `ENOMEM`. After an error the BO has the metadata that it had before.
///
/// Runs unguarded, since another process may have to provide the pages that the metadata is read
/// from.
pub(super) fn set_metadata(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_gpu_bo_metadata,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.flags != 0 || args.pad != 0 {
        return Err(EINVAL);
    }

    let bo = lookup(file, args.handle)?;
    let metadata = Metadata::from_user(args.data, args.size)?;

    bo.set_metadata(metadata);
    Ok(0)
}

/// `DRM_IOCTL_DRM_GPU_GET_METADATA`: copies the metadata of a BO to user space, and returns its
/// size. A pointer of 0 only queries the size.
///
/// `EINVAL`: flags are set, or padding is not zero. `ENOENT`: unknown handle. `ENOSPC`: there is
/// more metadata than user space has room for; the size is returned. `EFAULT`.
///
/// Runs unguarded, like [`set_metadata`].
pub(super) fn get_metadata(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_gpu_bo_metadata,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.flags != 0 || args.pad != 0 {
        return Err(EINVAL);
    }

    let bo = lookup(file, args.handle)?;
    let mut buf = [0; metadata::MAX];
    let bytes = bo.metadata(&mut buf);
    let size = u32::try_from(bytes.len())?;
    let room = mem::replace(&mut args.size, size);

    if args.data == 0 {
        return Ok(0);
    }
    if room < size {
        return Err(ENOSPC);
    }
    metadata::to_user(bytes, args.data)?;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_QUERY_BO_INFO`: returns whether a BO was imported, and how it was created if
/// not.
///
/// `ENOENT`: unknown handle.
pub(super) fn query_info(
    _dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_query_bo_info,
    file: &drm::File<File>,
) -> Result<u32> {
    let bo = lookup(file, args.handle)?;

    (args.create_flags, args.extra_flags) = match gem::flags(&bo) {
        Some(flags) => (encode_flags(flags), 0),
        None => (0, uapi::DRM_PANFROST_BO_IS_IMPORTED),
    };
    args.pad = 0;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_WAIT_BO`: waits until no client and no other device uses a BO.
///
/// The time limit is an absolute time of `CLOCK_MONOTONIC`, in nanoseconds. `EINVAL`: padding is
/// not zero. `ENOENT`: unknown handle. `EBUSY`: the BO is in use, and the limit had already passed
/// when the call was made. `ETIMEDOUT`: the BO was in use until the limit. `ERESTARTSYS`: a signal.
///
/// Runs unguarded, since the wait can be long and would delay unbind. The fences of this device's
/// jobs are signalled when the device is removed; those of other devices need not be.
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

    match gem::wait(&bo, timeout)? {
        Waited::Signaled(_) => Ok(0),
        Waited::TimedOut if timeout == 0 => Err(EBUSY),
        Waited::TimedOut => Err(ETIMEDOUT),
    }
}

/// The number of operations of SYNC_BO that are copied in at a time.
const SYNC_BATCH: usize = 64;

/// The largest number of operations of SYNC_BO in one call. The C driver copies them to one array,
/// and the kernel does not allocate a larger one.
const SYNC_MAX: u32 = (i32::MAX as u32) / SYNC_OP_SIZE as u32;

/// Size of a `struct drm_panfrost_bo_sync_op` in bytes.
const SYNC_OP_SIZE: usize = size_of::<uapi::drm_panfrost_bo_sync_op>();

/// Copies in the next operations, at most [`SYNC_BATCH`], and calls `f` with their bytes.
fn sync_batch(reader: &mut UserSliceReader, f: impl FnOnce(&[u8]) -> Result) -> Result {
    // 1 KiB of stack. Operations are read in batches, since copying each one separately costs more
    // than performing it.
    let mut batch = [0u8; SYNC_BATCH * SYNC_OP_SIZE];
    let len = reader.len().min(batch.len());
    let batch = batch.get_mut(..len).ok_or(EINVAL)?;

    reader.read_slice(batch)?;
    f(batch)
}

/// Calls `f` with each of the operations in `batch`.
fn sync_ops(batch: &[u8], mut f: impl FnMut(uapi::drm_panfrost_bo_sync_op) -> Result) -> Result {
    for op in batch.chunks_exact(SYNC_OP_SIZE) {
        // The structure consists of four words, in this order.
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

/// Decodes a type of SYNC_BO. Returns whether the operation also invalidates the data that it
/// writes back. `EINVAL`: unknown type.
fn decode_sync(kind: u32) -> Result<bool> {
    match kind {
        uapi::PANFROST_BO_SYNC_CPU_CACHE_FLUSH => Ok(false),
        uapi::PANFROST_BO_SYNC_CPU_CACHE_FLUSH_AND_INVALIDATE => Ok(true),
        _ => Err(EINVAL),
    }
}

/// `DRM_IOCTL_PANFROST_SYNC_BO`: writes ranges of BOs back from the CPU's caches, and invalidates
/// them if asked to.
///
/// `EINVAL`: padding is not zero, unknown type, a range outside of the BO, an imported BO.
/// `ENOENT`: unknown handle. `EFAULT`: the array cannot be read. `ENOMEM`: more operations than fit
/// into 2 GiB. `ENODEV`: the device is being removed, or the GPU has halted. `ERESTARTSYS`: a
/// signal. The operations before the one that failed have been performed.
///
/// Runs unguarded, except while it performs the operations.
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

    // No operation is performed if a part of the array cannot be read. An array of several batches
    // is therefore read once in advance.
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

                    gem::sync(&bo, gpu, decode_sync(op.type_)?, op.offset, op.size)
                })
            })
            .ok_or(ENODEV)?
        })?;
        check_signals()?;
    }
    Ok(0)
}

/// Fails with `ERESTARTSYS` if a signal is pending, since user space can make the call take long.
/// The call then fails with `EINTR` or is restarted from the beginning, as the signal's handler
/// demands.
fn check_signals() -> Result {
    match kernel::current!().signal_pending() {
        true => Err(ERESTARTSYS),
        false => Ok(()),
    }
}

#[kunit_tests(drm_gpu_uapi_bo)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_known_and_come_back() {
        for flags in 0..8 {
            assert_eq!(decode_flags(flags).map(encode_flags), Ok(flags));
        }
        for bit in 3..32 {
            assert_eq!(decode_flags(1 << bit), Err(EINVAL));
        }
    }

    #[test]
    fn numbers_are_known() {
        assert_eq!(decode_advice(0), Ok(Advice::WillNeed));
        assert_eq!(decode_advice(1), Ok(Advice::DontNeed));
        assert_eq!(decode_advice(2), Err(EINVAL));
        assert_eq!(decode_advice(u32::MAX), Err(EINVAL));
        assert_eq!(decode_sync(0), Ok(false));
        assert_eq!(decode_sync(1), Ok(true));
        assert_eq!(decode_sync(2), Err(EINVAL));
    }
}
