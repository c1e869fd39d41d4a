// SPDX-License-Identifier: GPL-2.0

//! Properties of the SoC around the GPU, by compatible string.
//!
//! The values are those of panfrost's table and of the devicetree bindings `arm,mali-*`.

use kernel::prelude::*;

use crate::hw::mali::power::Overrides;

/// Properties of a SoC.
#[derive(Clone, Copy)]
pub(crate) struct Soc {
    /// Names of the supplies.
    pub(super) supplies: &'static [&'static CStr],
    /// Names of the power domains if there is more than one, else empty.
    pub(super) domains: &'static [&'static CStr],
    /// Page tables must be in the AArch64 format.
    pub(super) aarch64_tables: bool,
    /// Register settings that the GPU needs after each reset.
    pub(super) overrides: Overrides,
}

/// Most SoCs: one supply, at most one power domain.
pub(super) const DEFAULT: Soc = Soc {
    supplies: &[c"mali"],
    domains: &[],
    aarch64_tables: false,
    overrides: Overrides { amlogic: false },
};

impl Default for Soc {
    fn default() -> Self {
        DEFAULT
    }
}

/// Amlogic SoCs.
pub(super) const AMLOGIC: Soc = Soc {
    overrides: Overrides { amlogic: true },
    ..DEFAULT
};

/// Names of the power domains of MediaTek SoCs, of which each SoC uses the first few.
const MEDIATEK_DOMAINS: &[&CStr] = &[c"core0", c"core1", c"core2", c"core3", c"core4"];

/// Returns the properties of a MediaTek SoC with the given number of power domains.
pub(super) const fn mediatek(domains: usize, aarch64_tables: bool) -> Soc {
    Soc {
        domains: MEDIATEK_DOMAINS.split_at(domains).0,
        aarch64_tables,
        ..DEFAULT
    }
}

/// MT8183 as its first devicetrees describe it.
pub(super) const MT8183: Soc = Soc {
    supplies: &[c"mali", c"sram"],
    ..mediatek(3, false)
};
