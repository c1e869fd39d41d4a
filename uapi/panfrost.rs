// SPDX-License-Identifier: GPL-2.0

//! The ioctls of panfrost.
//!
//! User space written for panfrost must not notice a difference. Each wrong argument therefore gets
//! the error that the C driver returns for it, and the checks are made in the same order, in case
//! several fail. The structures and constants are those of `panfrost_drm.h`; additions are in
//! `drm_gpu_drm.h`.
//!
//! All handlers run in process context with no lock held. Those that need a bound device run inside
//! the registration guard, which keeps it bound. Handlers that wait for clients or read their
//! memory are unguarded and take the guard themselves where they need it, since holding it
//! meanwhile would delay the unplug of every DRM device.

mod bo;
mod dump;
mod param;
mod submit;

use core::ops::Range;

use kernel::{
    capability::{
        capable,
        Capability, //
    },
    drm::{
        self,
        ioctl,
        job_queue::Priority, //
    },
    prelude::*,
    sizes::SZ_32M,
    uapi, //
};

use crate::{
    device::{
        Device,
        Gpu, //
    },
    file::File,
    hw::{
        dump::DumpFormat,
        mali::job::Slot,
        Personality, //
    }, //
};

/// Minor version of the UAPI; the major one is 1.
///
/// 1: heaps, NOEXEC. 2: AFBC_FEATURES. 3: cycle counter, timestamps. 4: labels. 5: JM contexts.
/// 6: cached CPU mappings, SYNC_BO, QUERY_BO_INFO, SELECTED_COHERENCY.
const MINOR: i32 = 6;

kernel::declare_drm_ioctls! {
    unguarded (PANFROST_SUBMIT, drm_panfrost_submit, ioctl::RENDER_ALLOW, submit::submit),
    unguarded (PANFROST_WAIT_BO, drm_panfrost_wait_bo, ioctl::RENDER_ALLOW, bo::wait),
    (PANFROST_CREATE_BO, drm_panfrost_create_bo, ioctl::RENDER_ALLOW, bo::create),
    unguarded (PANFROST_MMAP_BO, drm_panfrost_mmap_bo, ioctl::RENDER_ALLOW, bo::mmap),
    unguarded (PANFROST_GET_PARAM, drm_panfrost_get_param, ioctl::RENDER_ALLOW, param::get),
    unguarded (PANFROST_GET_BO_OFFSET, drm_panfrost_get_bo_offset, ioctl::RENDER_ALLOW,
               bo::get_offset),
    (PANFROST_PERFCNT_ENABLE, drm_panfrost_perfcnt_enable, ioctl::RENDER_ALLOW, perfcnt_enable),
    (PANFROST_PERFCNT_DUMP, drm_panfrost_perfcnt_dump, ioctl::RENDER_ALLOW, perfcnt_dump),
    unguarded (PANFROST_MADVISE, drm_panfrost_madvise, ioctl::RENDER_ALLOW, bo::madvise),
    unguarded (PANFROST_SET_LABEL_BO, drm_panfrost_set_label_bo, ioctl::RENDER_ALLOW,
               bo::set_label),
    (PANFROST_JM_CTX_CREATE, drm_panfrost_jm_ctx_create, ioctl::RENDER_ALLOW, jm_ctx_create),
    (PANFROST_JM_CTX_DESTROY, drm_panfrost_jm_ctx_destroy, ioctl::RENDER_ALLOW, jm_ctx_destroy),
    unguarded (PANFROST_SYNC_BO, drm_panfrost_sync_bo, ioctl::RENDER_ALLOW, bo::sync),
    unguarded (PANFROST_QUERY_BO_INFO, drm_panfrost_query_bo_info, ioctl::RENDER_ALLOW,
               bo::query_info),
    // This driver's own ioctls, numbered far above those of panfrost.
    unguarded (DRM_GPU_CREATE_USERPTR, drm_gpu_create_userptr, ioctl::RENDER_ALLOW,
               bo::create_userptr),
    unguarded (DRM_GPU_SET_METADATA, drm_gpu_bo_metadata, ioctl::RENDER_ALLOW, bo::set_metadata),
    unguarded (DRM_GPU_GET_METADATA, drm_gpu_bo_metadata, ioctl::RENDER_ALLOW, bo::get_metadata),
}

/// The interface, for the DRM driver.
pub(crate) struct Panfrost;

impl Personality for Panfrost {
    const INFO: drm::DriverInfo = drm::DriverInfo {
        major: 1,
        minor: MINOR,
        patchlevel: 0,
        // The name under which user space looks for this UAPI.
        name: c"panfrost",
        desc: c"Arm Mali Job-Manager GPUs",
    };

    const IOCTLS: &'static [ioctl::DrmIoctlDescriptor] = IOCTLS;

    // Those that jobs can ask for, under the names that panfrost has always used.
    const ENGINES: &'static [(usize, &'static str)] = &[
        (Slot::Fragment.index(), "fragment"),
        (Slot::Tiler.index(), "vertex-tiler"),
    ];

    const DUMP: DumpFormat = dump::FORMAT;

    // User space relies on addresses between 32 MiB and 4 GiB.
    const ADDRESSES: Range<u64> = SZ_32M as u64..1 << 32;

    // CREATE_BO returns the address, GET_BO_OFFSET expects one for each handle, and jobs may use
    // BOs that they do not list.
    const MAP_WITH_HANDLE: bool = true;
}

/// Returns whether a file may have contexts of high priority.
fn high_priority_allowed(file: &drm::File<File>) -> bool {
    // The capability is checked last, since the check can leave an entry in the audit log.
    file.client().is_current_master() || capable(Capability::SYS_NICE)
}

/// Decodes a priority of the UAPI. `EINVAL`: unknown priority. `EACCES`: it is high, and
/// `high_allowed` returns false.
fn decode_priority(number: u32, high_allowed: impl FnOnce() -> bool) -> Result<Priority> {
    const LOW: u32 = uapi::drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_LOW;
    const MEDIUM: u32 = uapi::drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_MEDIUM;
    const HIGH: u32 = uapi::drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_HIGH;

    match number {
        LOW => Ok(Priority::Low),
        MEDIUM => Ok(Priority::Medium),
        HIGH if high_allowed() => Ok(Priority::High),
        HIGH => Err(EACCES),
        _ => Err(EINVAL),
    }
}

/// `DRM_IOCTL_PANFROST_JM_CTX_CREATE`: creates a context of a given priority.
///
/// `EINVAL`: unknown priority. `EACCES`: high priority without the permission for it. `EBUSY`: the
/// file has the largest number of contexts that it may have. `ENOMEM`.
fn jm_ctx_create(
    dev: &Device<drm::Registered>,
    _gpu: &Gpu<'_>,
    args: &mut uapi::drm_panfrost_jm_ctx_create,
    file: &drm::File<File>,
) -> Result<u32> {
    let priority = decode_priority(args.priority, || high_priority_allowed(file))?;
    let contexts = file.inner().get_ref().contexts();

    args.handle = contexts.create(dev, priority)?;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_JM_CTX_DESTROY`: destroys a context and stops its jobs.
///
/// `EINVAL`: padding is not zero, unknown context, or context 0, which every file keeps. The jobs
/// of the context may still be running when this returns.
fn jm_ctx_destroy(
    dev: &Device<drm::Registered>,
    _gpu: &Gpu<'_>,
    args: &mut uapi::drm_panfrost_jm_ctx_destroy,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.pad != 0 || args.handle == 0 {
        return Err(EINVAL);
    }

    let contexts = file.inner().get_ref().contexts();

    contexts.destroy(dev, args.handle)?;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_PERFCNT_ENABLE`: refuses to enable performance counters.
///
/// Fails with `ENOSYS`, as the C driver does unless an unsafe module parameter is set.
fn perfcnt_enable(
    _dev: &Device<drm::Registered>,
    _gpu: &Gpu<'_>,
    _args: &mut uapi::drm_panfrost_perfcnt_enable,
    _file: &drm::File<File>,
) -> Result<u32> {
    Err(ENOSYS)
}

/// `DRM_IOCTL_PANFROST_PERFCNT_DUMP`: refuses, like [`perfcnt_enable`].
fn perfcnt_dump(
    _dev: &Device<drm::Registered>,
    _gpu: &Gpu<'_>,
    _args: &mut uapi::drm_panfrost_perfcnt_dump,
    _file: &drm::File<File>,
) -> Result<u32> {
    Err(ENOSYS)
}

#[kunit_tests(drm_gpu_uapi)]
mod tests {
    use super::*;

    #[test]
    fn priorities() {
        let (no, yes) = (|| false, || true);

        assert!(decode_priority(0, no) == Ok(Priority::Low));
        assert!(decode_priority(1, no) == Ok(Priority::Medium));
        assert!(decode_priority(2, no) == Err(EACCES));
        assert!(decode_priority(2, yes) == Ok(Priority::High));
        assert!(decode_priority(3, yes) == Err(EINVAL));
        assert!(decode_priority(u32::MAX, yes) == Err(EINVAL));
    }
}
