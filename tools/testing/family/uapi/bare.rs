// SPDX-License-Identifier: GPL-2.0

//! An interface to user space without ioctls of its own.

use core::ops::Range;

use kernel::{
    drm::{
        ioctl,
        DriverInfo, //
    },
    prelude::*, //
};

use crate::hw::{
    dump::DumpFormat,
    Personality, //
};

/// The interface, for the DRM driver.
pub(crate) struct Bare;

impl Personality for Bare {
    const INFO: DriverInfo = DriverInfo {
        major: 0,
        minor: 0,
        patchlevel: 0,
        name: c"drm_gpu_absent",
        desc: c"GPUs that do not exist",
    };

    const IOCTLS: &'static [ioctl::DrmIoctlDescriptor] = &[];

    const ENGINES: &'static [(usize, &'static str)] = &[];

    const DUMP: DumpFormat = DumpFormat {
        lay_out: |_| Err(EINVAL),
        finish: |_, _| Err(EINVAL),
    };

    const ADDRESSES: Range<u64> = 0x1000..1 << 32;

    const MAP_WITH_HANDLE: bool = false;
}
