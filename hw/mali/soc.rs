// SPDX-License-Identifier: GPL-2.0

//! The devices to which the driver binds, and the SoCs that they are in.
//!
//! The values are those of panfrost's table and of the devicetree bindings `arm,mali-*`.

use kernel::{
    of,
    prelude::*, //
};

/// Facts about the system around a GPU that the driver has to know.
#[derive(Clone, Copy)]
pub(crate) struct Quirks {
    /// Page tables must be in the format of 64-bit Arm CPUs.
    pub(super) aarch64_tables: bool,
    /// Amlogic: after each reset of the GPU, the power manager needs undocumented bits.
    pub(super) amlogic: bool,
}

/// Properties of a SoC with a Mali GPU.
type Soc = crate::hw::Soc<Quirks>;

/// Most SoCs: one supply, at most one power domain.
pub(super) const DEFAULT: Soc = Soc {
    supplies: &[c"mali"],
    domains: &[],
    quirks: Quirks {
        aarch64_tables: false,
        amlogic: false,
    },
};

/// Amlogic SoCs.
const AMLOGIC: Soc = Soc {
    quirks: Quirks {
        amlogic: true,
        ..DEFAULT.quirks
    },
    ..DEFAULT
};

/// Names of the power domains of MediaTek SoCs, of which each SoC uses the first few.
const MEDIATEK_DOMAINS: &[&CStr] = &[c"core0", c"core1", c"core2", c"core3", c"core4"];

/// Returns the properties of a MediaTek SoC with the given number of power domains.
const fn mediatek(domains: usize, aarch64_tables: bool) -> Soc {
    Soc {
        domains: MEDIATEK_DOMAINS.split_at(domains).0,
        quirks: Quirks {
            aarch64_tables,
            ..DEFAULT.quirks
        },
        ..DEFAULT
    }
}

/// MT8183 as its first devicetrees describe it.
const MT8183: Soc = Soc {
    supplies: &[c"mali", c"sram"],
    ..mediatek(3, false)
};

kernel::of_device_table!(
    OF_IDS,
    Soc,
    [
        // Must precede the generic compatibles, which these nodes also list.
        (of::DeviceId::new(c"amlogic,meson-gxm-mali"), AMLOGIC),
        (of::DeviceId::new(c"amlogic,meson-g12a-mali"), AMLOGIC),
        (of::DeviceId::new(c"mediatek,mt8183-mali"), MT8183),
        (
            of::DeviceId::new(c"mediatek,mt8183b-mali"),
            mediatek(3, false)
        ),
        (
            of::DeviceId::new(c"mediatek,mt8186-mali"),
            mediatek(2, false)
        ),
        (
            of::DeviceId::new(c"mediatek,mt8188-mali"),
            mediatek(3, true)
        ),
        (
            of::DeviceId::new(c"mediatek,mt8192-mali"),
            mediatek(5, true)
        ),
        (
            of::DeviceId::new(c"mediatek,mt8370-mali"),
            mediatek(2, true)
        ),
        (of::DeviceId::new(c"renesas,r9a08g046-mali"), DEFAULT),
        (of::DeviceId::new(c"renesas,r9a09g047-mali"), DEFAULT),
        (of::DeviceId::new(c"allwinner,sun50i-h616-mali"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-t604"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-t624"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-t628"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-t720"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-t760"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-t820"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-t830"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-t860"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-t880"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-bifrost"), DEFAULT),
        (of::DeviceId::new(c"arm,mali-valhall-jm"), DEFAULT),
    ]
);

/// The table of devices.
pub(super) const OF_TABLE: of::IdTable<Soc> = &OF_IDS;
