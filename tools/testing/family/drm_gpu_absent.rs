// SPDX-License-Identifier: GPL-2.0

//! The core of drm_gpu with another family of GPUs: [`Absent`](hw::absent::Absent), which refuses
//! every GPU.
//!
//! This shows that nothing in the core stands in the way of a second family. The test bench puts
//! this file beside `drm_gpu.rs`, which it resembles, and builds a module of it; `family-run` loads
//! that in a guest.

#![expect(
    dead_code,
    unused_imports,
    reason = "an interface without ioctls calls little of the core"
)]

mod debugfs;
mod device;
mod file;
mod gem;
mod job;
mod mmu;
mod shrinker;

/// Hardware: the contract, and the family.
mod hw {
    pub(crate) mod absent;
    mod contract;
    pub(crate) mod dump;

    pub(crate) use contract::*;
}

/// The interface to user space.
mod uapi {
    pub(crate) mod bare;
    pub(crate) mod fdinfo;
}

/// The family of GPUs that this driver is for.
use crate::hw::absent::Absent as Family;

/// The interface to user space that the family has.
use crate::uapi::bare::Bare as Interface;

kernel::module_platform_driver! {
    type: device::PlatformDriver,
    name: "drm_gpu_absent",
    authors: ["The drm_gpu authors"],
    description: "drm_gpu for GPUs that do not exist",
    license: "GPL v2",
    params: {
        job_timeout_ms: u32 {
            default: 500,
            description: "As in drm_gpu",
        },
        job_limit_ms: u32 {
            default: 10_000,
            description: "As in drm_gpu",
        },
        dump_limit_mib: u32 {
            default: 0,
            description: "As in drm_gpu",
        },
    },
}
