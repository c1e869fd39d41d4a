// SPDX-License-Identifier: GPL-2.0

//! GPU control: identity, features, reset, power and the implementation-specific configuration.

use kernel::register;

use crate::hw::mali::Exception;

register! {
    /// Product in the upper half, revision in the lower one. The fields are those of kbase.
    pub(crate) GPU_ID(u32) @ 0x000 {
        /// Release status.
        3:0     status;
        /// Minor release number (the p in rXpY).
        11:4    minor;
        /// Major release number (the r in rXpY).
        15:12   major;
        /// Release: the three fields above in one.
        15:0    revision => u16;
        /// Product.
        31:16   product => u16;
    }

    /// Geometry of the level 2 cache (kbase, Tyr).
    pub(crate) L2_FEATURES(u32) @ 0x004 {
        /// Log2 of the size of a line in bytes.
        7:0     line_size;
        /// Associativity.
        15:8    associativity;
        /// Log2 of the size of a slice in bytes.
        23:16   cache_size;
        /// Width of the external bus.
        31:24   bus_width;
    }

    /// Features of the shader cores (Tyr).
    pub(crate) CORE_FEATURES(u32) @ 0x008 {
        /// Variant of the cores.
        7:0     variant;
    }

    /// Bin size and hierarchy levels of the tiler (kbase).
    pub(crate) TILER_FEATURES(u32) @ 0x00c {
        /// Log2 of the size of a bin in bytes.
        5:0     bin_size;
        /// Largest number of active levels.
        11:8    max_levels;
    }

    /// Memory system (kbase; the first field is in C panfrost, too).
    pub(crate) MEM_FEATURES(u32) @ 0x010 {
        /// The cores of a group are coherent.
        0:0     coherent_core_group => bool;
        /// The core groups are coherent.
        1:1     coherent_super_group => bool;
        /// Number of slices of the level 2 cache, less one.
        11:8    l2_slices;
    }

    /// Address widths.
    pub(crate) MMU_FEATURES(u32) @ 0x014 {
        /// Width of virtual addresses in bits.
        7:0     va_bits;
        /// Width of physical addresses in bits.
        15:8    pa_bits;
    }

    /// Address spaces that exist.
    pub(crate) AS_PRESENT(u32) @ 0x018 {
        /// Bitmap by number. There are no registers for more than 16 of them.
        15:0    spaces => u16;
    }

    /// Job slots that exist.
    pub(crate) JS_PRESENT(u32) @ 0x01c {
        /// Bitmap by number.
        31:0    slots;
    }
}

interrupt_registers! {
    GPU_INT_RAWSTAT @ 0x020,
    GPU_INT_CLEAR @ 0x024,
    GPU_INT_MASK @ 0x028,
    GPU_INT_STAT @ 0x02c,
    {
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
}

impl GPU_INT_CLEAR {
    /// Every source.
    pub(crate) const ALL: Self = Self::from_raw(
        Self::FAULT_MASK
            | Self::MULTIPLE_FAULT_MASK
            | Self::RESET_COMPLETED_MASK
            | Self::POWER_CHANGED_MASK
            | Self::POWER_CHANGED_ALL_MASK
            | Self::SAMPLE_COMPLETED_MASK
            | Self::CLEAN_COMPLETED_MASK,
    );
}

field_values! {
    /// Values of [`struct@GPU_COMMAND`].
    pub(crate) enum GpuCommand: Bounded<u32, 8> {
        /// Does nothing (kbase).
        Nop = 0x00,
        /// Stops all work in an orderly way, then resets.
        SoftReset = 0x01,
        /// Resets at once.
        HardReset = 0x02,
        /// Sets the performance counters to 0.
        PerfcntClear = 0x03,
        /// Writes the performance counters to memory.
        PerfcntSample = 0x04,
        /// Starts the cycle counter, and the timestamp (kbase).
        CycleCountStart = 0x05,
        /// Stops the cycle counter, and the timestamp (kbase).
        CycleCountStop = 0x06,
        /// Writes all caches back.
        CleanCaches = 0x07,
        /// Writes all caches back and empties them.
        CleanInvalidateCaches = 0x08,
    }
}

register! {
    /// Commands. No command has a bit above the lowest byte (kbase).
    pub(crate) GPU_COMMAND(u32) @ 0x030 {
        /// The command.
        7:0     command ?=> GpuCommand;
    }

    /// Status of the GPU.
    pub(crate) GPU_STATUS(u32) @ 0x034 {
        /// The performance counters are active.
        2:2     perfcnt_active => bool;
        /// The cycle counter is active (kbase).
        6:6     cycle_count_active => bool;
    }

    /// Number of cache flushes so far; a job that carries it may skip its own flush.
    pub(crate) LATEST_FLUSH_ID(u32) @ 0x038 { 31:0 flush_id; }

    /// Cause of the last GPU fault.
    pub(crate) GPU_FAULT_STATUS(u32) @ 0x03c {
        /// Exception code.
        7:0     exception => Exception;
    }

    /// Address of the last GPU fault, low word.
    pub(crate) GPU_FAULT_ADDRESS_LO(u32) @ 0x040 { 31:0 address; }
    /// Address of the last GPU fault, high word.
    pub(crate) GPU_FAULT_ADDRESS_HI(u32) @ 0x044 { 31:0 address; }
    /// Compressed frame buffers; non-zero means not supported.
    pub(crate) AFBC_FEATURES(u32) @ 0x04c { 31:0 unsupported; }

    /// Unlocks the power override registers; see [`PWR_KEY::UNLOCK`].
    pub(crate) PWR_KEY(u32) @ 0x050 { 31:0 key; }

    /// Power manager overrides. The fields are not public.
    pub(crate) PWR_OVERRIDE1(u32) @ 0x058 { 31:0 overrides; }

    /// System timestamp, low word.
    pub(crate) TIMESTAMP_LO(u32) @ 0x098 { 31:0 ticks; }
    /// System timestamp, high word.
    pub(crate) TIMESTAMP_HI(u32) @ 0x09c { 31:0 ticks; }
    /// Threads per core.
    pub(crate) THREAD_MAX_THREADS(u32) @ 0x0a0 { 31:0 threads; }
    /// Threads per workgroup.
    pub(crate) THREAD_MAX_WORKGROUP_SIZE(u32) @ 0x0a4 { 31:0 threads; }
    /// Threads that can wait at a barrier.
    pub(crate) THREAD_MAX_BARRIER_SIZE(u32) @ 0x0a8 { 31:0 threads; }
    /// Registers, task queue and implementation of the cores. The layout depends on the product
    /// (kbase).
    pub(crate) THREAD_FEATURES(u32) @ 0x0ac { 31:0 features; }
    /// Texture formats, as bitmaps.
    pub(crate) TEXTURE_FEATURES(u32)[4, stride = 4] @ 0x0b0 { 31:0 formats; }

    /// Job types that a slot can run (kbase).
    pub(crate) JS_FEATURES(u32)[16, stride = 4] @ 0x0c0 {
        /// Jobs that do nothing.
        1:1     null => bool;
        /// Jobs that write a value to memory.
        2:2     set_value => bool;
        /// Jobs that flush caches.
        3:3     cache_flush => bool;
        /// Compute jobs.
        4:4     compute => bool;
        /// Vertex jobs.
        5:5     vertex => bool;
        /// Geometry jobs.
        6:6     geometry => bool;
        /// Tiler jobs.
        7:7     tiler => bool;
        /// Fused vertex and tiler jobs.
        8:8     fused => bool;
        /// Fragment jobs.
        9:9     fragment => bool;
    }
}

field_values! {
    /// Coherency protocols: values of [`struct@COHERENCY_ENABLE`].
    pub(crate) enum Coherency: Bounded<u32, 32> {
        /// The GPU snoops the CPUs.
        AceLite = 0,
        /// The GPU snoops the CPUs and the CPUs snoop the GPU.
        Ace = 1,
        /// Neither side snoops the other.
        None = 31,
    }
}

register! {
    /// Coherency protocols that the GPU has, a bit for each [`Coherency`].
    pub(crate) COHERENCY_FEATURES(u32) @ 0x300 {
        /// [`Coherency::AceLite`].
        0:0     ace_lite => bool;
        /// [`Coherency::Ace`].
        1:1     ace => bool;
    }

    /// Coherency protocol in use.
    pub(crate) COHERENCY_ENABLE(u32) @ 0x304 {
        /// The protocol.
        31:0    protocol ?=> Coherency;
    }

    /// Threads per core for which thread-local storage must exist, or 0 for as many as in
    /// [`THREAD_MAX_THREADS`] (kbase).
    pub(crate) THREAD_TLS_ALLOC(u32) @ 0x310 { 31:0 threads; }

    /// Job manager configuration, specific to the product.
    pub(crate) JM_CONFIG(u32) @ 0xf00 {
        /// Overrides the timestamp.
        0:0     timestamp_override => bool;
        /// Keeps the clock running.
        1:1     clock_gate_override => bool;
        /// Enables the job throttle (not G71).
        2:2     job_throttle_enable => bool;
        /// Limit of the job throttle (not G71).
        8:3     job_throttle_limit;
        /// Has [`COHERENCY_FEATURES`] report ACE-Lite (G71).
        2:2     force_ace_lite => bool;
        /// Has [`COHERENCY_FEATURES`] report ACE (G71).
        3:3     force_ace => bool;
        /// Size of a group of index-driven vertex shading.
        21:16   idvs_group_size;
    }

    /// Shader core configuration, specific to the product. Bit 16 has two meanings.
    pub(crate) SHADER_CONFIG(u32) @ 0xf04 {
        /// Selects the alternative performance counters.
        3:3     alt_counters => bool;
        /// Overrides forward pixel kill.
        4:4     override_fwd_pixel_kill => bool;
        /// Keeps the data cache from discarding occlusion queries.
        6:6     sdc_disable_oq_discard => bool;
        /// Allows all attribute types (T76x, T8xx).
        16:16   ls_allow_attr_types => bool;
        /// Does not use the pause buffer (T60x, T62x).
        16:16   ls_pausebuffer_disable => bool;
        /// Hashes thread-local storage over the caches.
        17:17   tls_hash_enable => bool;
        /// Does not check attribute types (T60x, T62x, T72x).
        18:18   ls_attr_check_disable => bool;
        /// Texture gradient flags (T72x).
        25:25   enable_texgrd_flags => bool;
        /// Uses the other algorithm for varyings (Valhall).
        29:29   var_algorithm => bool;
    }

    /// Tiler configuration, specific to the product.
    pub(crate) TILER_CONFIG(u32) @ 0xf08 {
        /// Keeps the clock running.
        0:0     clock_gate_override => bool;
    }

    /// Level 2 cache and MMU configuration, specific to the product.
    pub(crate) L2_MMU_CONFIG(u32) @ 0xf0c {
        /// Allows snoop disparity.
        23:23   allow_snoop_disparity => bool;
        /// Limits external reads: 1 to an octant, 2 to a quarter, 3 to a half.
        25:24   limit_external_reads;
        /// Limits external writes likewise.
        27:26   limit_external_writes;
    }
}

impl JM_CONFIG {
    /// Largest value of `job_throttle_limit` (T86x, T88x).
    pub(crate) const MAX_JOB_THROTTLE_LIMIT: u32 = 0x3f;
    /// Usual value of `idvs_group_size`.
    pub(crate) const DEFAULT_IDVS_GROUP_SIZE: u32 = 0xf;
}

impl PWR_KEY {
    /// Unlocks the overrides.
    pub(crate) const UNLOCK: Self = Self::from_raw(0x2968_a819);
}

impl PWR_OVERRIDE1 {
    /// Value for Amlogic's SoCs. Its meaning is not public.
    pub(crate) const AMLOGIC: Self = Self::from_raw(0xfff | 0x20 << 16);
}

// Power domains: each kind of core has a register per purpose, two words wide, with a bit for
// each core. Element 0 is the low word, element 1 the high one.
register! {
    /// Shader cores that exist.
    pub(crate) SHADER_PRESENT(u32)[2, stride = 4] @ 0x100 { 31:0 cores; }
    /// Tilers that exist.
    pub(crate) TILER_PRESENT(u32)[2, stride = 4] @ 0x110 { 31:0 cores; }
    /// Level 2 caches that exist.
    pub(crate) L2_PRESENT(u32)[2, stride = 4] @ 0x120 { 31:0 cores; }
    /// Core stacks that exist.
    pub(crate) STACK_PRESENT(u32)[2, stride = 4] @ 0xe00 { 31:0 cores; }

    /// Shader cores that are on.
    pub(crate) SHADER_READY(u32)[2, stride = 4] @ 0x140 { 31:0 cores; }
    /// Tilers that are on.
    pub(crate) TILER_READY(u32)[2, stride = 4] @ 0x150 { 31:0 cores; }
    /// Level 2 caches that are on.
    pub(crate) L2_READY(u32)[2, stride = 4] @ 0x160 { 31:0 cores; }

    /// Shader cores to turn on.
    pub(crate) SHADER_PWRON(u32)[2, stride = 4] @ 0x180 { 31:0 cores; }
    /// Tilers to turn on.
    pub(crate) TILER_PWRON(u32)[2, stride = 4] @ 0x190 { 31:0 cores; }
    /// Level 2 caches to turn on.
    pub(crate) L2_PWRON(u32)[2, stride = 4] @ 0x1a0 { 31:0 cores; }

    /// Shader cores to turn off.
    pub(crate) SHADER_PWROFF(u32)[2, stride = 4] @ 0x1c0 { 31:0 cores; }
    /// Tilers to turn off.
    pub(crate) TILER_PWROFF(u32)[2, stride = 4] @ 0x1d0 { 31:0 cores; }
    /// Level 2 caches to turn off.
    pub(crate) L2_PWROFF(u32)[2, stride = 4] @ 0x1e0 { 31:0 cores; }

    /// Shader cores that are changing state.
    pub(crate) SHADER_PWRTRANS(u32)[2, stride = 4] @ 0x200 { 31:0 cores; }
    /// Tilers that are changing state.
    pub(crate) TILER_PWRTRANS(u32)[2, stride = 4] @ 0x210 { 31:0 cores; }
    /// Level 2 caches that are changing state.
    pub(crate) L2_PWRTRANS(u32)[2, stride = 4] @ 0x220 { 31:0 cores; }
}
