// SPDX-License-Identifier: GPL-2.0

//! GET_PARAM of panfrost: the properties of the GPU and of the driver.
//!
//! Keeps no state: most values were read at probe. Locks: none, except for the timestamp, which is
//! read while the GPU is not reset and the cycle counter runs. Process context.

use kernel::{
    drm,
    // Needed because the constants of the UAPI include others of these names.
    error::code::{
        EINVAL,
        ENODEV, //
    },
    prelude::*,
    time::arch_timer,
    uapi::{
        self,
        *, //
    }, //
};

use crate::{
    device::{
        with_gpu,
        Device,
        Gpu, //
    },
    file::File,
    gem::{
        metadata,
        userptr, //
    },
    hw::mali, //
};

/// The version of the driver's support for user memory.
const USERPTR_VERSION: u64 = 1;

/// Returns the element of a bank of registers that `param` stands for, if it is one of the `N`
/// parameters from `first` on.
fn element<const N: usize>(bank: &[u32; N], first: u32, param: u32) -> Option<u64> {
    let index = param.checked_sub(first)?;

    Some((*bank.get(index as usize)?).into())
}

/// Returns the priorities that contexts of this file can have, as a bitmap.
fn priorities(file: &drm::File<File>) -> u64 {
    let mut mask = 1 << drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_LOW
        | 1 << drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_MEDIUM;

    if super::high_priority_allowed(file) {
        mask |= 1 << drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_HIGH;
    }
    mask
}

/// Returns the GPU's timestamp, which counts with the clock of the Arm architected timer.
fn timestamp(gpu: &Gpu<'_>) -> Result<u64> {
    // The timestamp stands still while the counters are not in use, and after a reset until they
    // are restarted.
    gpu.between_resets(|| {
        mali::cycle_counter_get(gpu);
        let timestamp = mali::timestamp(gpu);
        mali::cycle_counter_put(gpu);

        timestamp
    })
}

/// `DRM_IOCTL_PANFROST_GET_PARAM`: returns the value of a parameter.
///
/// Registers are returned as the hardware has them; those of 32 bits are in the lower half.
/// `EINVAL`: padding is not zero, or the parameter is unknown or belongs to a feature that is not
/// supported. `ENODEV`: the GPU does not answer.
///
/// Runs unguarded, since nearly all parameters are constants.
#[expect(non_upper_case_globals)] // The names come from C.
pub(super) fn get(
    dev: &Device<drm::Ioctl>,
    args: &mut uapi::drm_panfrost_get_param,
    file: &drm::File<File>,
) -> Result<u32> {
    if args.pad != 0 {
        return Err(EINVAL);
    }

    let id = &dev.identity;

    args.value = match args.param {
        drm_panfrost_param_DRM_PANFROST_PARAM_GPU_PROD_ID => id.product_id.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_GPU_REVISION => id.revision.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_SHADER_PRESENT => id.shader_present,
        drm_panfrost_param_DRM_PANFROST_PARAM_TILER_PRESENT => id.tiler_present,
        drm_panfrost_param_DRM_PANFROST_PARAM_L2_PRESENT => id.l2_present,
        drm_panfrost_param_DRM_PANFROST_PARAM_STACK_PRESENT => id.stack_present,
        drm_panfrost_param_DRM_PANFROST_PARAM_AS_PRESENT => id.as_present.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_JS_PRESENT => id.js_present.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_L2_FEATURES => id.l2_features.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_CORE_FEATURES => id.core_features.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_TILER_FEATURES => id.tiler_features.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_MEM_FEATURES => id.mem_features.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_MMU_FEATURES => id.mmu_features.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_THREAD_FEATURES => id.thread_features.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_MAX_THREADS => id.thread_max_threads.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_THREAD_MAX_WORKGROUP_SZ => {
            id.thread_max_workgroup_size.into()
        }
        drm_panfrost_param_DRM_PANFROST_PARAM_THREAD_MAX_BARRIER_SZ => {
            id.thread_max_barrier_size.into()
        }
        drm_panfrost_param_DRM_PANFROST_PARAM_COHERENCY_FEATURES => id.coherency_features.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_NR_CORE_GROUPS => id.core_groups.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_THREAD_TLS_ALLOC => id.thread_tls_alloc.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_AFBC_FEATURES => id.afbc_features.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_SELECTED_COHERENCY => id.selected_coherency.into(),
        drm_panfrost_param_DRM_PANFROST_PARAM_SYSTEM_TIMESTAMP => {
            with_gpu(dev, timestamp).ok_or(ENODEV)??
        }
        // The frequency is unknown on machines without the Arm architected timer.
        drm_panfrost_param_DRM_PANFROST_PARAM_SYSTEM_TIMESTAMP_FREQUENCY => {
            arch_timer::frequency().unwrap_or(0).into()
        }
        drm_panfrost_param_DRM_PANFROST_PARAM_ALLOWED_JM_CTX_PRIORITIES => priorities(file),
        DRM_GPU_PARAM_USERPTR if with_gpu(dev, userptr::supported).ok_or(ENODEV)? => {
            USERPTR_VERSION
        }
        DRM_GPU_PARAM_METADATA => metadata::MAX as u64,
        param => {
            const TEXTURE: u32 = drm_panfrost_param_DRM_PANFROST_PARAM_TEXTURE_FEATURES0;
            const JS: u32 = drm_panfrost_param_DRM_PANFROST_PARAM_JS_FEATURES0;

            element(&id.texture_features, TEXTURE, param)
                .or_else(|| element(&id.js_features, JS, param))
                .ok_or(EINVAL)?
        }
    };
    Ok(0)
}
