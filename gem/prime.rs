// SPDX-License-Identifier: GPL-2.0

//! Sharing BOs with other drivers.
//!
//! [`uma`](kernel::drm::gem::uma) implements sharing; this module has the rules of the driver. An
//! imported buffer is a BO like any other: it can be mapped, labelled and waited for.
//!
//! Owns nothing and takes no lock. Process context.

use kernel::prelude::*;

use super::{
    label::Label,
    object::{
        Args,
        Flags, //
    },
    Bo, //
};

/// Returns the arguments for the BO of an imported buffer.
///
/// The label identifies imported buffers in debugfs, unless user space sets another one.
pub(super) fn import_args() -> Result<Args> {
    Ok(Args {
        flags: Flags::IMPORTED,
        label: Some(Label::new(c"GEM PRIME buffer")?),
        heap: None,
        user: None,
        imported: true,
    })
}

/// Checks whether the pages of `bo` may be used by the CPU and by other drivers.
///
/// Returns `EINVAL` for heaps, which only have the chunks that the GPU has touched, and may lose
/// them again; and for user memory, which belongs to its process.
pub(super) fn may_export(bo: &Bo) -> Result {
    match bo.is_heap() || bo.is_user() {
        true => Err(EINVAL),
        false => Ok(()),
    }
}
