// SPDX-License-Identifier: GPL-2.0

//! The ioctls of panfrost.
//!
//! User space that knows panfrost must not notice a difference, hence the error for each wrong
//! argument is the one that the C driver returns, and where an argument is wrong in several ways, the
//! checks come in its order. The structures and constants are those of `panfrost_drm.h`. What we have
//! in addition is in `drm_gpu_drm.h`.
//!
//! All of it runs in process context with no lock held. Handlers that need a bound device run within the
//! guard that keeps it so; but those which wait for clients or read their memory take it themselves, as
//! they would hold up the unplug of every DRM device.

mod bo;
mod param;

use kernel::{
    capability::{
        capable,
        Capability, //
    },
    drm::{
        self,
        ioctl, //
    },
    prelude::*,
    uapi, //
};

use crate::{
    device::{
        Device,
        Gpu, //
    },
    file::File,
    job, //
};

/// Minor version of the UAPI; the major one is 1.
///
/// 1: heaps, NOEXEC. 2: AFBC_FEATURES. 3: cycle counter, timestamps. 4: labels. 5: JM contexts.
/// 6: cached CPU mappings, SYNC_BO, QUERY_BO_INFO, SELECTED_COHERENCY.
pub(crate) const MINOR: i32 = 6;

kernel::declare_drm_ioctls! {
    unguarded (PANFROST_SUBMIT, drm_panfrost_submit, ioctl::RENDER_ALLOW, submit),
    unguarded (PANFROST_WAIT_BO, drm_panfrost_wait_bo, ioctl::RENDER_ALLOW, bo::wait),
    (PANFROST_CREATE_BO, drm_panfrost_create_bo, ioctl::RENDER_ALLOW, bo::create),
    unguarded (PANFROST_MMAP_BO, drm_panfrost_mmap_bo, ioctl::RENDER_ALLOW, bo::mmap),
    (PANFROST_GET_PARAM, drm_panfrost_get_param, ioctl::RENDER_ALLOW, param::get),
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
    // Ours, far behind those of panfrost.
    unguarded (DRM_GPU_CREATE_USERPTR, drm_gpu_create_userptr, ioctl::RENDER_ALLOW,
               bo::create_userptr),
}

/// The ioctls, for the DRM driver.
pub(crate) const TABLE: &[ioctl::DrmIoctlDescriptor] = IOCTLS;

/// `DRM_IOCTL_PANFROST_SUBMIT`: queues a job chain.
///
/// `EINVAL`: padding, no chain, unknown requirements, unknown context, a BO that the file is just
/// closing. `ENODEV`: unknown out-sync. `ENOENT`: unknown BO or in-sync. `EFAULT`: arrays that cannot
/// be read, user memory of the file that has gone. `EPERM`: the file has user memory of another
/// process. `ECANCELED`: jobs of the context hang again and again. `EINTR`: a signal, while there were
/// too many jobs to take another one. `ENOMEM`.
///
/// Runs unguarded, up to where the arrays have been read.
fn submit(
    dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_submit,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.pad != 0 {
        return Err(EINVAL);
    }

    let args = job::SubmitArgs {
        jc: args.jc,
        requirements: args.requirements,
        context: args.jm_ctx_handle,
        in_syncs: args.in_syncs,
        in_sync_count: args.in_sync_count,
        bo_handles: args.bo_handles,
        bo_handle_count: args.bo_handle_count,
        out_sync: args.out_sync,
    };

    job::submit(dev, file, &args)?;
    Ok(0)
}

/// Whether a file may have contexts of high priority.
fn high_priority_allowed(file: &drm::File<File>) -> bool {
    // The capability last: to be asked for it goes into audit logs.
    file.client().is_current_master() || capable(Capability::SYS_NICE)
}

/// `DRM_IOCTL_PANFROST_JM_CTX_CREATE`: creates a context of a given priority.
///
/// `EINVAL`: unknown priority. `EACCES`: high priority without the right. `EBUSY`: the file has as
/// many as it may have. `ENOMEM`.
fn jm_ctx_create(
    dev: &Device<drm::Registered>,
    _gpu: &Gpu<'_>,
    args: &mut uapi::drm_panfrost_jm_ctx_create,
    file: &drm::File<File>,
) -> Result<u32> {
    const HIGH: u32 = uapi::drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_HIGH;

    let may_be_high = args.priority == HIGH && high_priority_allowed(file);
    let contexts = file.inner().get_ref().contexts();

    args.handle = contexts.create(dev, args.priority, may_be_high)?;
    Ok(0)
}

/// `DRM_IOCTL_PANFROST_JM_CTX_DESTROY`: destroys a context and stops its jobs.
///
/// `EINVAL`: padding, unknown context, or the context 0, with which each file begins.
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

/// `DRM_IOCTL_PANFROST_PERFCNT_ENABLE`: performance counters are not supported.
///
/// `ENOSYS`, as from the C driver, which has them behind an unsafe module parameter.
fn perfcnt_enable(
    _dev: &Device<drm::Registered>,
    _gpu: &Gpu<'_>,
    _args: &mut uapi::drm_panfrost_perfcnt_enable,
    _file: &drm::File<File>,
) -> Result<u32> {
    Err(ENOSYS)
}

/// `DRM_IOCTL_PANFROST_PERFCNT_DUMP`: see [`perfcnt_enable`].
fn perfcnt_dump(
    _dev: &Device<drm::Registered>,
    _gpu: &Gpu<'_>,
    _args: &mut uapi::drm_panfrost_perfcnt_dump,
    _file: &drm::File<File>,
) -> Result<u32> {
    Err(ENOSYS)
}
