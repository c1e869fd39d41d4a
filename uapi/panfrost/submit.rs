// SPDX-License-Identifier: GPL-2.0

//! SUBMIT of panfrost.
//!
//! User memory is read once, since it can change. It is read with no lock held, without the guard
//! that keeps the device bound, and without a turn that others wait for, since another process may
//! have to provide the pages.

use kernel::{
    dma_buf::fence::Fence,
    drm::{
        self,
        gem::Objects,
        syncobj::SyncObj, //
    },
    prelude::*,
    sync::aref::ARef,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    uapi, //
};

use crate::{
    device::Device,
    file::File,
    gem::Bo,
    hw::mali::job::Slot,
    job, //
};

/// The chain has fragment jobs.
const FRAGMENT: u32 = uapi::PANFROST_JD_REQ_FS;
/// The GPU counts cycles while the job runs.
const CYCLE_COUNT: u32 = uapi::PANFROST_JD_REQ_CYCLE_COUNT;

/// The largest number of handles in one array: more than any client needs, and few enough to be
/// looked up in one go with a spinlock held.
const MAX_HANDLES: u32 = 1 << 16;

/// The number of in-syncs that are looked up between two checks for signals.
const SIGNAL_CHECK: usize = 1024;

/// Decodes the requirements of a job. Returns its job slot, and whether the GPU counts cycles while
/// it runs.
///
/// `EINVAL`: unknown requirements.
fn decode_requirements(requirements: u32) -> Result<(Slot, bool)> {
    if requirements & !(FRAGMENT | CYCLE_COUNT) != 0 {
        return Err(EINVAL);
    }
    let slot = match requirements & FRAGMENT != 0 {
        true => Slot::Fragment,
        false => Slot::Tiler,
    };

    Ok((slot, requirements & CYCLE_COUNT != 0))
}

/// Reads an array of handles.
///
/// `EFAULT`: the array cannot be read. `ENOMEM`: there is no memory for the array, or it has more
/// than [`MAX_HANDLES`] handles.
fn read_handles(address: u64, count: u32) -> Result<KVVec<u8>> {
    let mut bytes = KVVec::new();

    if count != 0 {
        if count > MAX_HANDLES {
            return Err(ENOMEM);
        }
        let address = usize::try_from(address).map_err(|_| EFAULT)?;
        let len = usize::try_from(count)?
            .checked_mul(size_of::<u32>())
            .ok_or(ENOMEM)?;

        UserSlice::new(UserPtr::from_addr(address), len)
            .read_all(&mut bytes, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(bytes)
}

/// Returns the handles in an array from [`read_handles`].
fn handles(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes
        .chunks_exact(size_of::<u32>())
        .filter_map(|chunk| Some(u32::from_ne_bytes(chunk.try_into().ok()?)))
}

/// Looks up the fences of the sync objects that the job waits for.
///
/// `EFAULT`, `ENOMEM`: as for [`read_handles`]. `ENOENT`: unknown sync object. `EINVAL`: a sync
/// object without a fence. `ERESTARTSYS`: a signal.
fn look_up_in_syncs(
    file: &drm::File<File>,
    args: &uapi::drm_panfrost_submit,
) -> Result<KVVec<ARef<Fence>>> {
    let bytes = read_handles(args.in_syncs, args.in_sync_count)?;
    let mut fences = KVVec::with_capacity(handles(&bytes).count(), GFP_KERNEL_ACCOUNT)?;

    for (index, handle) in handles(&bytes).enumerate() {
        if index % SIGNAL_CHECK == SIGNAL_CHECK - 1 && kernel::current!().signal_pending() {
            return Err(ERESTARTSYS);
        }
        fences.push(SyncObj::find_fence(file, handle, 0)?, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(fences)
}

/// Looks up the BOs of the job.
///
/// `EFAULT`, `ENOMEM`: as for [`read_handles`]. `ENOENT`: unknown BO.
fn look_up_bos(file: &drm::File<File>, args: &uapi::drm_panfrost_submit) -> Result<Objects<Bo>> {
    if args.bo_handle_count > MAX_HANDLES {
        return Err(ENOMEM);
    }
    let handles = usize::try_from(args.bo_handles).map_err(|_| EFAULT)?;

    Objects::lookup(file, UserPtr::from_addr(handles), args.bo_handle_count)
}

/// `DRM_IOCTL_PANFROST_SUBMIT`: queues a job chain.
///
/// The errors and their order are those of the C driver:
///
/// - `EINVAL`: padding is not zero, no chain, unknown requirements
/// - `ENODEV`: unknown out-sync
/// - `EINVAL`: unknown context
/// - `EFAULT`: an array of handles cannot be read
/// - `ENOENT`: unknown in-sync or BO
/// - `EINVAL`: an in-sync has no fence, or the file is closing the handle of a BO
/// - `EALREADY`: a BO is listed twice
///
/// Other errors are `ENOMEM`; `EINTR`: a signal, in particular during a wait for other jobs or for
/// memory; `ENODEV`: the device has gone, is about to go, or is lost; `ECANCELED`: jobs of the
/// context have hung too often; `EFAULT`: user memory of the file has gone; `EPERM`: the file has
/// user memory of another process; `EIO`: a BO cannot be read from swap.
///
/// Runs unguarded. The job side takes the guard once the arrays have been read and the user memory
/// of the file has been faulted in.
pub(super) fn submit(
    dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_submit,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.pad != 0 || args.jc == 0 {
        return Err(EINVAL);
    }
    let (slot, counts_cycles) = decode_requirements(args.requirements)?;
    let out_sync = match args.out_sync {
        0 => None,
        handle => Some(SyncObj::lookup(file, handle).map_err(|_| ENODEV)?),
    };
    let this = file.inner().get_ref();
    // Done before anything else is held, since it may wait for as long as other jobs take.
    let admission = this.contexts().admit(dev, args.jm_ctx_handle)?;
    // User space is not read again after these.
    let in_fences = look_up_in_syncs(file, args)?;
    let bos = look_up_bos(file, args)?;

    admission.submit(
        dev,
        &job::Request {
            chain: args.jc,
            slot: slot.in_queue(),
            fragment: slot == Slot::Fragment,
            counts_cycles,
            vm: this.vm(),
            in_fences: &in_fences,
            bos: &bos,
            out_sync: out_sync.as_deref(),
        },
    )?;
    Ok(0)
}

#[kunit_tests(drm_gpu_uapi_submit)]
mod tests {
    use super::*;

    #[test]
    fn requirements() {
        let decode = |bits| decode_requirements(bits).ok();

        assert!(decode(0) == Some((Slot::Tiler, false)));
        assert!(decode(FRAGMENT) == Some((Slot::Fragment, false)));
        assert!(decode(CYCLE_COUNT) == Some((Slot::Tiler, true)));
        assert!(decode(FRAGMENT | CYCLE_COUNT) == Some((Slot::Fragment, true)));
        assert!(decode(4).is_none());
        assert!(decode(u32::MAX).is_none());
    }

    #[test]
    fn handle_arrays() -> Result {
        let bytes = 0x0102_0304_u32.to_ne_bytes();
        assert!(handles(&bytes).eq([0x0102_0304]));
        // An incomplete handle at the end is ignored.
        assert!(handles(&bytes[..3]).next().is_none());
        assert!(read_handles(0, 0)?.is_empty());
        assert!(read_handles(0, MAX_HANDLES + 1).is_err_and(|e| e == ENOMEM));
        Ok(())
    }
}
