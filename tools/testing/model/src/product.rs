// SPDX-License-Identifier: GPL-2.0

//! The identity and features of the modelled GPUs.
//!
//! Identity, cache, core, tiler, memory and MMU features, and the masks of cores, L2 caches,
//! address spaces and job slots, are those that drivers print at boot on real boards: Mali-G31 on
//! S905X3, Mali-G52 r1 on RK3566/RK3568, Mali-G57 on MT8370/MT8390, Mali-T628 on Exynos 5422,
//! Mali-T720 on Allwinner H6, Mali-T860 on RK3399. Coherency, thread, texture and slot features are
//! typical values of the generation; drivers and user space make no decisions based on them that
//! the model could contradict. `AFBC_FEATURES` is 1 ("not supported") everywhere, which keeps user
//! space from using compressed framebuffers, as the model cannot write these.
//!
//! v4 products (T628, T720) have the same job headers as v5, but a different framebuffer descriptor
//! (SFBD), which the model does not read. Their fragment jobs are executed if they use the v5
//! descriptor, as those of the guest tests do. Those of Mesa fail with DATA_INVALID_FAULT or clear
//! nothing, so these two products are of no use for testing Mesa.
//!
//! Locks: none, constants only.

use crate::job::Arch;

/// The register values of one GPU.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// The name on the command line.
    pub name: &'static str,
    /// Product number, the upper half of `GPU_ID`, and the PCI subsystem id.
    pub id: u16,
    /// Revision, the lower half: major in 15:12, minor in 11:4, status in 3:0.
    pub revision: u16,
    /// The descriptor layouts that it reads.
    pub arch: Arch,
    /// `GPU_L2_FEATURES`.
    pub l2_features: u32,
    /// `GPU_CORE_FEATURES`.
    pub core_features: u32,
    /// `GPU_TILER_FEATURES`.
    pub tiler_features: u32,
    /// `GPU_MEM_FEATURES`.
    pub mem_features: u32,
    /// `GPU_MMU_FEATURES`.
    pub mmu_features: u32,
    /// `SHADER_PRESENT`.
    pub shader_present: u64,
    /// `TILER_PRESENT`.
    pub tiler_present: u64,
    /// `L2_PRESENT`.
    pub l2_present: u64,
    /// `STACK_PRESENT`.
    pub stack_present: u64,
    /// `AS_PRESENT`, with at most [`SPACES`] bits.
    pub as_present: u32,
    /// `GPU_COHERENCY_FEATURES`, which Midgard does not have.
    pub coherency_features: u32,
    /// `GPU_AFBC_FEATURES`.
    pub afbc_features: u32,
    /// `GPU_THREAD_MAX_THREADS`, `_MAX_WORKGROUP_SIZE` and `_MAX_BARRIER_SIZE`.
    pub max_threads: u32,
    /// `GPU_THREAD_FEATURES`.
    pub thread_features: u32,
    /// `GPU_THREAD_TLS_ALLOC`.
    pub thread_tls_alloc: u32,
    /// `GPU_TEXTURE_FEATURES(0..4)`.
    pub texture_features: [u32; 4],
    /// `GPU_JS_FEATURES(0..3)`.
    pub js_features: [u32; SLOTS],
    /// Whether `AS_TRANSCFG` exists.
    pub has_transcfg: bool,
    /// Whether `GPU_LATEST_FLUSH_ID` exists.
    pub has_flush_id: bool,
    /// Whether a slot's two chains can be distinguished: `JS_CONFIG` has the flag, and `JS_COMMAND`
    /// the stops that depend on it.
    pub has_chain_flag: bool,
}

/// The number of job slots of every product.
pub const SLOTS: usize = 3;

/// The maximum number of address spaces of a product.
pub const SPACES: usize = 8;

const JS_FEATURES: [u32; SLOTS] = [0x20e, 0x1fe, 0x7e];
const TEXTURE_FEATURES: [u32; 4] = [0x00fe_001e, 0xffff, 0x9f81_ffff, 0];

/// Mali-G52 r1p0, one core.
pub const G52: Product = Product {
    name: "g52",
    id: 0x7402,
    revision: 0x1000,
    arch: Arch::V7,
    l2_features: 0x0711_0206,
    core_features: 2,
    tiler_features: 0x209,
    mem_features: 1,
    mmu_features: 0x2823,
    shader_present: 0x1,
    tiler_present: 0x1,
    l2_present: 0x1,
    stack_present: 0,
    as_present: 0xff,
    coherency_features: 0x1,
    afbc_features: 1,
    max_threads: 0x300,
    thread_features: 0x0a04_0400,
    thread_tls_alloc: 0,
    texture_features: TEXTURE_FEATURES,
    js_features: JS_FEATURES,
    has_transcfg: true,
    has_flush_id: true,
    has_chain_flag: true,
};

/// Mali-G57 r0p0, two cores with a hole between them.
pub const G57: Product = Product {
    name: "g57",
    id: 0x9093,
    revision: 0x0000,
    arch: Arch::V9,
    l2_features: 0x0813_0206,
    core_features: 0,
    tiler_features: 0x809,
    mem_features: 1,
    mmu_features: 0x2830,
    shader_present: 0x5,
    tiler_present: 0x1,
    l2_present: 0x1,
    stack_present: 0,
    as_present: 0xff,
    coherency_features: 0x1,
    afbc_features: 1,
    max_threads: 0x300,
    thread_features: 0x0a04_0400,
    thread_tls_alloc: 0,
    texture_features: TEXTURE_FEATURES,
    js_features: JS_FEATURES,
    has_transcfg: true,
    has_flush_id: true,
    has_chain_flag: true,
};

/// Mali-T860 r2p0, four cores.
pub const T860: Product = Product {
    name: "t860",
    id: 0x0860,
    revision: 0x2000,
    arch: Arch::V5,
    l2_features: 0x0712_0206,
    core_features: 0,
    tiler_features: 0x809,
    mem_features: 1,
    mmu_features: 0x2830,
    shader_present: 0xf,
    tiler_present: 0x1,
    l2_present: 0x1,
    stack_present: 0,
    as_present: 0xff,
    coherency_features: 0,
    afbc_features: 1,
    max_threads: 0x100,
    thread_features: 0x0a04_0400,
    thread_tls_alloc: 0,
    texture_features: TEXTURE_FEATURES,
    js_features: JS_FEATURES,
    has_transcfg: false,
    has_flush_id: false,
    has_chain_flag: true,
};

/// Mali-G31 r0p0, one core.
pub const G31: Product = Product {
    name: "g31",
    id: 0x7093,
    revision: 0x0000,
    l2_features: 0x0710_0206,
    core_features: 0,
    mmu_features: 0x2821,
    ..G52
};

/// Mali-T720 r1p1, two cores, four address spaces.
pub const T720: Product = Product {
    name: "t720",
    id: 0x0720,
    revision: 0x1010,
    l2_features: 0x0711_0206,
    mmu_features: 0x2821,
    shader_present: 0x3,
    as_present: 0xf,
    has_chain_flag: false,
    ..T860
};

/// Mali-T628 MP6 r0p1: two core groups, of four cores and two, each with an L2 cache, for which
/// `L2_PRESENT` has a bit at the position of the group's first core.
pub const T628: Product = Product {
    name: "t628",
    id: 0x0620,
    revision: 0x0010,
    mmu_features: 0x2830,
    shader_present: 0x3f,
    l2_present: 0x11,
    ..T720
};

/// Every product.
pub const PRODUCTS: [&Product; 6] = [&G31, &G52, &G57, &T628, &T720, &T860];

impl Product {
    /// Returns the product with this command-line name.
    pub fn by_name(name: &str) -> Option<&'static Product> {
        PRODUCTS.into_iter().find(|p| p.name == name)
    }

    /// Returns the value of `GPU_ID`.
    pub fn gpu_id(&self) -> u32 {
        u32::from(self.id) << 16 | u32::from(self.revision)
    }

    /// Returns the number of bits of a virtual address.
    pub fn va_bits(&self) -> u32 {
        self.mmu_features & 0xff
    }

    /// Returns the number of bits of a physical address.
    pub fn pa_bits(&self) -> u32 {
        self.mmu_features >> 8 & 0xff
    }
}
