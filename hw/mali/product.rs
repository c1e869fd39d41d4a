// SPDX-License-Identifier: GPL-2.0

//! Features and errata by product and revision, which no register of the GPU reports.
//!
//! The lists come from `panfrost_features.h` and `panfrost_issues.h`, which took them from Arm's
//! own driver. They contain only the features and errata that this driver uses.

use kernel::prelude::*;

/// A feature of a product.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Feature {
    /// Stop commands can tell the two chains of one slot apart, by the chain flag.
    JobchainDisambiguation,
    /// A job can skip its first cache flush.
    FlushReduction,
    /// A register tells the supported coherency protocols.
    CoherencyReg,
    /// The MMU can walk 64-bit Arm tables.
    Aarch64Mmu,
    /// Thread-local storage can be hashed over the caches.
    TlsHashing,
    /// The group size of index-driven vertex shading has to be set.
    IdvsGroupSize,
}

/// Errata. The names are those of Arm's lists.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Issue {
    /// The end of a chain that fails does not write the caches back (T60x).
    T6787,
    /// A soft stop can damage chains other than fragment chains (T60x).
    T8408,
    /// The pause buffer of the load/store pipe must not be used.
    T8443,
    /// The GPU has to be reset after a hard stop (T60x).
    T9510,
    /// Occlusion queries can be wrongly discarded.
    T10327,
    /// The MMU has to be started with each job.
    T10649,
    /// A compiler workaround needs a configuration bit (T72x).
    T10797,
    /// The end of a chain can be missing from the interrupts (Midgard).
    T10883,
    /// A fragment chain that is resumed after a soft stop can fail with a tile out of range (T62x).
    T10959,
    /// A fragment chain can resume at a place out of range after a soft stop (T60x r0p0).
    T10969,
    /// The pause buffer can hang a fragment job.
    T11035,
    /// The GPU has to be reset after a hard stop of a fragment chain (T760 up to r0p3).
    T76x3542,
    /// The tiler's clock must stay on.
    T76x3953,
    /// The level 2 cache must not change its power state during a reset.
    Tmix8463,
    /// A hard stop soon after a soft stop can be reported as a soft stop.
    Tmix8438,
    /// Attribute checks must be left alone.
    GpuCore1619,
    /// The other algorithm for varyings must be used.
    Ttrx2968Ttrx3162,
    /// A bus fault of an occlusion query can hang later fragment jobs.
    Ttrx3076,
}

const fn features(list: &[Feature]) -> u32 {
    let mut bits = 0;
    let mut i = 0;
    while i < list.len() {
        bits |= 1 << list[i] as u32;
        i += 1;
    }
    bits
}

const fn issues(list: &[Issue]) -> u32 {
    let mut bits = 0;
    let mut i = 0;
    while i < list.len() {
        bits |= 1 << list[i] as u32;
        i += 1;
    }
    bits
}

/// Features of Midgard's first two generations.
const MIDGARD_OLD: u32 = features(&[]);
/// Features of Midgard from T760.
const MIDGARD: u32 = features(&[Feature::JobchainDisambiguation]);
/// Features that all of Bifrost and Valhall share.
const BIFROST: u32 = features(&[
    Feature::JobchainDisambiguation,
    Feature::FlushReduction,
    Feature::CoherencyReg,
    Feature::Aarch64Mmu,
]);
/// Errata of Midgard from T760.
const MIDGARD_ISSUES: u32 = issues(&[Issue::T10883, Issue::T76x3953, Issue::Tmix8438]);
/// Errata of the first two Valhall products.
const G57_ISSUES: u32 = issues(&[Issue::Ttrx2968Ttrx3162, Issue::Ttrx3076]);

/// Returns a release as encoded in the lower half of `GPU_ID`.
const fn rev(major: u32, minor: u32, status: u32) -> u32 {
    major << 12 | minor << 4 | status
}

/// A product.
pub(crate) struct Product {
    /// Name for the log, without the `mali-`.
    pub(crate) name: &'static str,
    /// Product number; see [`family_id`].
    id: u16,
    /// Features, as bits.
    features: u32,
    /// Errata of all releases, as bits.
    issues: u32,
    /// Additional errata of single releases.
    revisions: &'static [(u32, u32)],
}

impl Product {
    const fn new(name: &'static str, id: u16, features: u32, issues: u32) -> Self {
        Self {
            name,
            id,
            features,
            issues,
            revisions: &[],
        }
    }

    const fn revisions(self, revisions: &'static [(u32, u32)]) -> Self {
        Self { revisions, ..self }
    }

    /// Returns the errata of a release: those of all releases, and those listed for this one. A
    /// release whose status is not listed is treated as the same release with status 0.
    fn issues_of(&self, revision: u32) -> u32 {
        let listed = |wanted: u32| self.revisions.iter().find(|r| r.0 == wanted);

        let more = listed(revision).or_else(|| listed(revision & !0xf));
        self.issues | more.map_or(0, |r| r.1)
    }
}

const IDVS: u32 = features(&[Feature::IdvsGroupSize]);
const TLS: u32 = features(&[Feature::TlsHashing]);

/// All products that the driver knows.
static PRODUCTS: [Product; 16] = [
    Product::new(
        "t600",
        0x0600,
        MIDGARD_OLD,
        issues(&[
            Issue::T6787,
            Issue::T8408,
            Issue::T9510,
            Issue::T10649,
            Issue::T10883,
            Issue::T11035,
            Issue::Tmix8438,
        ]),
    )
    .revisions(&[(
        rev(0, 0, 1),
        issues(&[Issue::T8443, Issue::T10969, Issue::GpuCore1619]),
    )]),
    Product::new(
        "t620",
        0x0620,
        MIDGARD_OLD,
        issues(&[Issue::T10649, Issue::T10883, Issue::T10959, Issue::Tmix8438]),
    )
    .revisions(&[(rev(0, 1, 0), issues(&[Issue::T10327, Issue::T11035]))]),
    Product::new(
        "t720",
        0x0720,
        MIDGARD_OLD,
        issues(&[Issue::T10649, Issue::T10797, Issue::T10883, Issue::Tmix8438]),
    ),
    Product::new("t760", 0x0750, MIDGARD, MIDGARD_ISSUES).revisions(&[
        (rev(0, 0, 0), issues(&[Issue::T76x3542])),
        (rev(0, 1, 0), issues(&[Issue::T76x3542])),
        (rev(0, 2, 0), issues(&[Issue::T76x3542])),
        (rev(0, 3, 0), issues(&[Issue::T76x3542])),
    ]),
    Product::new("t820", 0x0820, MIDGARD, MIDGARD_ISSUES),
    Product::new("t830", 0x0830, MIDGARD, MIDGARD_ISSUES),
    Product::new("t860", 0x0860, MIDGARD, MIDGARD_ISSUES),
    Product::new("t880", 0x0880, MIDGARD, MIDGARD_ISSUES),
    Product::new(
        "g71",
        0x6000,
        BIFROST,
        issues(&[Issue::Tmix8463, Issue::Tmix8438]),
    )
    .revisions(&[(rev(0, 0, 1), issues(&[Issue::T76x3953]))]),
    Product::new("g72", 0x6001, BIFROST, 0),
    Product::new("g51", 0x7000, BIFROST, 0),
    Product::new("g76", 0x7001, BIFROST | IDVS | TLS, 0),
    Product::new("g52", 0x7002, BIFROST | IDVS, 0),
    Product::new("g31", 0x7003, BIFROST | TLS, 0),
    Product::new("g57", 0x9001, BIFROST | IDVS, G57_ISSUES),
    // G57 has another number when integrated by MediaTek.
    Product::new("g57", 0x9003, BIFROST | IDVS, G57_ISSUES),
];

/// Returns the number under which a product is listed. From Bifrost on, the two middle digits
/// describe the configuration of the product and are ignored.
fn family_id(product_id: u16) -> u16 {
    if product_id & 0xf000 != 0 {
        product_id & 0xf00f
    } else {
        product_id
    }
}

/// A product together with the errata of the release at hand.
#[derive(Clone, Copy)]
pub(crate) struct Caps {
    product: &'static Product,
    issues: u32,
}

impl Caps {
    /// Looks up a GPU. Returns [`None`] if the driver does not know it.
    pub(crate) fn find(product_id: u16, revision: u16) -> Option<Self> {
        let id = family_id(product_id);
        let product = PRODUCTS.iter().find(|p| p.id == id)?;

        Some(Self {
            product,
            issues: product.issues_of(revision.into()),
        })
    }

    /// Returns the name for the log, without the `mali-`.
    pub(crate) fn name(&self) -> &'static str {
        self.product.name
    }

    /// Returns the number under which the product is listed.
    pub(crate) fn family(&self) -> u16 {
        self.product.id
    }

    /// Returns whether the GPU has a feature.
    pub(crate) fn feature(&self, feature: Feature) -> bool {
        self.product.features & 1 << feature as u32 != 0
    }

    /// Returns whether the GPU has an erratum.
    pub(crate) fn issue(&self, issue: Issue) -> bool {
        self.issues & 1 << issue as u32 != 0
    }

    /// Returns all features as bits, for the log.
    pub(crate) fn feature_bits(&self) -> u32 {
        self.product.features
    }

    /// Returns all errata as bits, for the log.
    pub(crate) fn issue_bits(&self) -> u32 {
        self.issues
    }
}

#[kunit_tests(drm_gpu_product)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for (id, name) in [
            (0x0860, "t860"),
            (0x6221, "g72"),
            (0x7093, "g31"),
            (0x7212, "g52"),
            (0x7402, "g52"),
            (0x9093, "g57"),
        ] {
            assert!(Caps::find(id, 0).is_some_and(|c| c.name() == name));
        }
        assert!(Caps::find(0xa867, 0).is_none());
        assert!(Caps::find(0xffff, 0xffff).is_none());
    }

    #[test]
    fn releases() {
        let has = |id, revision, issue| Caps::find(id, revision).is_some_and(|c| c.issue(issue));

        assert!(has(0x0620, 0x0010, Issue::T10327));
        // An unknown status falls back to status 0 of the same release.
        assert!(has(0x0620, 0x0013, Issue::T10327));
        assert!(!has(0x0620, 0x1000, Issue::T10327));
        for id in [
            0x0600, 0x0620, 0x0720, 0x0750, 0x0820, 0x0830, 0x0860, 0x0880,
        ] {
            assert!(has(id, 0x2000, Issue::T10883));
        }
        assert!(!has(0x7212, 0, Issue::T10883));
        // RK3288 has an r0p0 with a nonzero status.
        assert!(has(0x0750, 0x0001, Issue::T76x3542));
        assert!(!has(0x0750, 0x1000, Issue::T76x3542));
    }
}
