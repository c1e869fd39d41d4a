// SPDX-License-Identifier: GPL-2.0

//! Sharing BOs with other drivers.
//!
//! The class ([`uma`](kernel::drm::gem::uma)) does the work; this is what the driver decides. An
//! imported buffer is a BO like any other: it can be mapped, labelled and waited for.

use kernel::prelude::*;

use super::{
    label::Label,
    object::{
        Args,
        Flags, //
    },
    Bo, //
};

/// What an imported buffer is made of.
///
/// Nothing in our UAPI creates it, so nobody but us can name it.
pub(super) fn import_args() -> Result<Args> {
    Ok(Args {
        flags: Flags::IMPORTED,
        label: Some(Label::new(c"GEM PRIME buffer")?),
        heap: None,
        user: None,
    })
}

/// Whether somebody else than the GPU may have the pages of `bo`.
///
/// `EINVAL` for heaps: they have only what the GPU touched, and that can go again. `EINVAL` for user
/// memory, which is its owner's.
pub(super) fn may_export(bo: &Bo) -> Result {
    match bo.is_heap() || bo.is_user() {
        true => Err(EINVAL),
        false => Ok(()),
    }
}
