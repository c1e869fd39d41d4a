// SPDX-License-Identifier: GPL-2.0

//! GPU control: identity, features, reset, power and the implementation-specific configuration.

use kernel::register;

register! {
    /// Product in the upper half, revision in the lower one.
    pub(crate) GPU_ID(u32) @ 0x000 {
        /// Release status.
        3:0     status;
        /// Minor release number (the p in rXpY).
        11:4    minor;
        /// Major release number (the r in rXpY).
        15:12   major;
        /// Product.
        31:16   product;
    }

    /// Geometry of the level 2 cache.
    pub(crate) L2_FEATURES(u32) @ 0x004 { 31:0 value; }
    /// Features of the shader cores.
    pub(crate) CORE_FEATURES(u32) @ 0x008 { 31:0 value; }
    /// Bin size and hierarchy levels of the tiler.
    pub(crate) TILER_FEATURES(u32) @ 0x00c { 31:0 value; }
    /// Memory system: coherency between core groups.
    pub(crate) MEM_FEATURES(u32) @ 0x010 { 31:0 value; }
    /// Address widths.
    pub(crate) MMU_FEATURES(u32) @ 0x014 { 31:0 value; }
    /// Bitmap of address spaces.
    pub(crate) AS_PRESENT(u32) @ 0x018 { 31:0 value; }
    /// Bitmap of job slots.
    pub(crate) JS_PRESENT(u32) @ 0x01c { 31:0 value; }

    /// Interrupt sources, whether masked or not.
    pub(crate) GPU_INT_RAWSTAT(u32) @ 0x020 {
        /// An access failed that does not belong to a job.
        0:0     fault => bool;
        /// Further faults happened that were not recorded.
        7:7     multiple_fault => bool;
        /// A reset has completed.
        8:8     reset_completed => bool;
        /// One power transition has completed.
        9:9     power_changed => bool;
        /// All power transitions have completed.
        10:10   power_changed_all => bool;
        /// A counter sample has been written to memory.
        16:16   sample_completed => bool;
        /// The caches have been cleaned.
        17:17   clean_completed => bool;
    }

    /// Clears interrupt sources.
    pub(crate) GPU_INT_CLEAR(u32) @ 0x024 { 31:0 value; }
    /// Interrupt sources that may raise the line.
    pub(crate) GPU_INT_MASK(u32) @ 0x028 { 31:0 value; }
    /// Interrupt sources that raise the line now.
    pub(crate) GPU_INT_STAT(u32) @ 0x02c { 31:0 value; }

    /// Commands; see [`cmd`].
    pub(crate) GPU_COMMAND(u32) @ 0x030 { 31:0 value; }
    /// Status of the GPU.
    pub(crate) GPU_STATUS(u32) @ 0x034 { 31:0 value; }
    /// Number of cache flushes so far; a job that carries it may skip its own flush.
    pub(crate) LATEST_FLUSH_ID(u32) @ 0x038 { 31:0 value; }
    /// Exception code (bits 7:0) of the last GPU fault.
    pub(crate) GPU_FAULT_STATUS(u32) @ 0x03c { 31:0 value; }
    /// Address of the last GPU fault, low word.
    pub(crate) GPU_FAULT_ADDRESS_LO(u32) @ 0x040 { 31:0 value; }
    /// Address of the last GPU fault, high word.
    pub(crate) GPU_FAULT_ADDRESS_HI(u32) @ 0x044 { 31:0 value; }
    /// Compressed frame buffers; non-zero means not supported.
    pub(crate) AFBC_FEATURES(u32) @ 0x04c { 31:0 value; }
    /// Unlocks the power override registers.
    pub(crate) PWR_KEY(u32) @ 0x050 { 31:0 value; }
    /// Power manager overrides.
    pub(crate) PWR_OVERRIDE1(u32) @ 0x058 { 31:0 value; }

    /// System timestamp, low word.
    pub(crate) TIMESTAMP_LO(u32) @ 0x098 { 31:0 value; }
    /// System timestamp, high word.
    pub(crate) TIMESTAMP_HI(u32) @ 0x09c { 31:0 value; }

    /// Threads per core.
    pub(crate) THREAD_MAX_THREADS(u32) @ 0x0a0 { 31:0 value; }
    /// Threads per workgroup.
    pub(crate) THREAD_MAX_WORKGROUP_SIZE(u32) @ 0x0a4 { 31:0 value; }
    /// Threads that can wait at a barrier.
    pub(crate) THREAD_MAX_BARRIER_SIZE(u32) @ 0x0a8 { 31:0 value; }
    /// Registers, task queue and implementation of the cores.
    pub(crate) THREAD_FEATURES(u32) @ 0x0ac { 31:0 value; }
    /// Texture formats, as bitmaps.
    pub(crate) TEXTURE_FEATURES(u32)[4, stride = 4] @ 0x0b0 { 31:0 value; }
    /// Job types that a slot can run, as bitmaps.
    pub(crate) JS_FEATURES(u32)[16, stride = 4] @ 0x0c0 { 31:0 value; }

    /// Bitmap of coherency protocols.
    pub(crate) COHERENCY_FEATURES(u32) @ 0x300 { 31:0 value; }
    /// Coherency protocol in use.
    pub(crate) COHERENCY_ENABLE(u32) @ 0x304 { 31:0 value; }
    /// Threads per core for which thread-local storage must exist.
    pub(crate) THREAD_TLS_ALLOC(u32) @ 0x310 { 31:0 value; }

    /// Job manager configuration, specific to the product.
    pub(crate) JM_CONFIG(u32) @ 0xf00 { 31:0 value; }
    /// Shader core configuration, specific to the product.
    pub(crate) SHADER_CONFIG(u32) @ 0xf04 { 31:0 value; }
    /// Tiler configuration, specific to the product.
    pub(crate) TILER_CONFIG(u32) @ 0xf08 { 31:0 value; }
    /// Level 2 cache and MMU configuration, specific to the product.
    pub(crate) L2_MMU_CONFIG(u32) @ 0xf0c { 31:0 value; }
}

// Power domains: each kind of core has a register per purpose, two words wide. Element 0 is the
// low word, element 1 the high one.
register! {
    /// Shader cores that exist.
    pub(crate) SHADER_PRESENT(u32)[2, stride = 4] @ 0x100 { 31:0 value; }
    /// Tilers that exist.
    pub(crate) TILER_PRESENT(u32)[2, stride = 4] @ 0x110 { 31:0 value; }
    /// Level 2 caches that exist.
    pub(crate) L2_PRESENT(u32)[2, stride = 4] @ 0x120 { 31:0 value; }
    /// Core stacks that exist.
    pub(crate) STACK_PRESENT(u32)[2, stride = 4] @ 0xe00 { 31:0 value; }

    /// Shader cores that are on.
    pub(crate) SHADER_READY(u32)[2, stride = 4] @ 0x140 { 31:0 value; }
    /// Tilers that are on.
    pub(crate) TILER_READY(u32)[2, stride = 4] @ 0x150 { 31:0 value; }
    /// Level 2 caches that are on.
    pub(crate) L2_READY(u32)[2, stride = 4] @ 0x160 { 31:0 value; }

    /// Shader cores to turn on.
    pub(crate) SHADER_PWRON(u32)[2, stride = 4] @ 0x180 { 31:0 value; }
    /// Tilers to turn on.
    pub(crate) TILER_PWRON(u32)[2, stride = 4] @ 0x190 { 31:0 value; }
    /// Level 2 caches to turn on.
    pub(crate) L2_PWRON(u32)[2, stride = 4] @ 0x1a0 { 31:0 value; }

    /// Shader cores to turn off.
    pub(crate) SHADER_PWROFF(u32)[2, stride = 4] @ 0x1c0 { 31:0 value; }
    /// Tilers to turn off.
    pub(crate) TILER_PWROFF(u32)[2, stride = 4] @ 0x1d0 { 31:0 value; }
    /// Level 2 caches to turn off.
    pub(crate) L2_PWROFF(u32)[2, stride = 4] @ 0x1e0 { 31:0 value; }

    /// Shader cores that are changing state.
    pub(crate) SHADER_PWRTRANS(u32)[2, stride = 4] @ 0x200 { 31:0 value; }
    /// Tilers that are changing state.
    pub(crate) TILER_PWRTRANS(u32)[2, stride = 4] @ 0x210 { 31:0 value; }
    /// Level 2 caches that are changing state.
    pub(crate) L2_PWRTRANS(u32)[2, stride = 4] @ 0x220 { 31:0 value; }
}

/// Values of [`GPU_COMMAND`].
pub(crate) mod cmd {
    /// Stops all work in an orderly way, then resets.
    pub(crate) const SOFT_RESET: u32 = 0x01;
    /// Resets at once.
    pub(crate) const HARD_RESET: u32 = 0x02;
    /// Starts the cycle counter.
    pub(crate) const CYCLE_COUNT_START: u32 = 0x05;
    /// Stops the cycle counter.
    pub(crate) const CYCLE_COUNT_STOP: u32 = 0x06;
}

/// Interrupt sources of the GPU block that the driver listens to.
pub(crate) mod int {
    /// A fault, or several.
    pub(crate) const FAULTS: u32 = 1 << 0 | 1 << 7;
    /// Several faults.
    pub(crate) const MULTIPLE_FAULT: u32 = 1 << 7;
    /// A reset has completed.
    pub(crate) const RESET_COMPLETED: u32 = 1 << 8;
    /// Every source that exists.
    pub(crate) const ALL: u32 = FAULTS | RESET_COMPLETED | 1 << 9 | 1 << 10 | 1 << 16 | 1 << 17;
}

/// Values of `COHERENCY_ENABLE`, and bits of `COHERENCY_FEATURES`.
pub(crate) mod coherency {
    /// The GPU snoops the CPUs.
    pub(crate) const ACE_LITE: u32 = 0;
    /// The GPU snoops the CPUs and the CPUs snoop the GPU.
    pub(crate) const ACE: u32 = 1;
    /// Neither side snoops the other.
    pub(crate) const NONE: u32 = 31;
}

/// Bits of [`SHADER_CONFIG`].
pub(crate) mod shader {
    /// Keep the data cache from discarding occlusion queries.
    pub(crate) const SDC_DISABLE_OQ_DISCARD: u32 = 1 << 6;
    /// Allow all attribute types (T76x, T8xx).
    pub(crate) const LS_ALLOW_ATTR_TYPES: u32 = 1 << 16;
    /// Do not use the pause buffer (T60x, T62x).
    pub(crate) const LS_PAUSEBUFFER_DISABLE: u32 = 1 << 16;
    /// Hash thread-local storage over the caches.
    pub(crate) const TLS_HASH_ENABLE: u32 = 1 << 17;
    /// Do not check attribute types (T60x, T62x, T72x).
    pub(crate) const LS_ATTR_CHECK_DISABLE: u32 = 1 << 18;
    /// Texture gradient flags (T72x).
    pub(crate) const ENABLE_TEXGRD_FLAGS: u32 = 1 << 25;
    /// Use the other algorithm for varyings (Valhall).
    pub(crate) const VAR_ALGORITHM: u32 = 1 << 29;
}

/// Bits of [`TILER_CONFIG`].
pub(crate) mod tiler {
    /// Keep the clock running.
    pub(crate) const CLOCK_GATE_OVERRIDE: u32 = 1 << 0;
}

/// Fields of [`JM_CONFIG`].
pub(crate) mod jm {
    /// Largest job throttle limit, shifted into its field (T86x, T88x).
    pub(crate) const MAX_JOB_THROTTLE_LIMIT: u32 = 0x3f << 3;
    /// Shift of the field for the forced coherency protocols (G71).
    pub(crate) const FORCE_COHERENCY_SHIFT: u32 = 2;
    /// Default size of a group of index-driven vertex shading, shifted into its field.
    pub(crate) const DEFAULT_IDVS_GROUP_SIZE: u32 = 0xf << 16;
}

/// Value of [`PWR_KEY`] that unlocks the overrides.
pub(crate) const PWR_KEY_UNLOCK: u32 = 0x2968_a819;
