// SPDX-License-Identifier: GPL-2.0

//! The identity and feature registers of the GPU, read once at probe.
//!
//! The values are passed to user space unchanged, in the hardware's units.

use kernel::{
    device::Device,
    io::{
        register::{
            Array,
            RegisterArray, //
        },
        Io, //
    },
    prelude::*, //
};

use super::{
    job::Slot,
    join,
    regs::{
        gpu::*,
        read_at, //
    },
    Caps,
    Feature,
    IoMem, //
};

/// Raw values of the identity and feature registers.
#[derive(Clone)]
pub(crate) struct Identity {
    /// Product, the upper half of `GPU_ID`. 0x600 stands for T60x, whose own number does not fit
    /// the scheme.
    pub(crate) product_id: u16,
    /// Release, the lower half of `GPU_ID`.
    pub(crate) revision: u16,
    /// Bitmap of shader cores. Can have holes.
    pub(crate) shader_present: u64,
    /// Bitmap of tilers.
    pub(crate) tiler_present: u64,
    /// Bitmap of level 2 caches, one per core group.
    pub(crate) l2_present: u64,
    /// Bitmap of core stacks.
    pub(crate) stack_present: u64,
    /// Bitmap of address spaces.
    pub(crate) as_present: u32,
    /// Bitmap of job slots.
    pub(crate) js_present: u32,
    /// `L2_FEATURES`.
    pub(crate) l2_features: u32,
    /// `CORE_FEATURES`.
    pub(crate) core_features: u32,
    /// `TILER_FEATURES`.
    pub(crate) tiler_features: u32,
    /// `MEM_FEATURES`.
    pub(crate) mem_features: u32,
    /// `MMU_FEATURES`.
    pub(crate) mmu_features: u32,
    /// `THREAD_FEATURES`.
    pub(crate) thread_features: u32,
    /// `THREAD_MAX_THREADS`.
    pub(crate) thread_max_threads: u32,
    /// `THREAD_MAX_WORKGROUP_SIZE`.
    pub(crate) thread_max_workgroup_size: u32,
    /// `THREAD_MAX_BARRIER_SIZE`.
    pub(crate) thread_max_barrier_size: u32,
    /// `THREAD_TLS_ALLOC`.
    pub(crate) thread_tls_alloc: u32,
    /// Bitmap of coherency protocols: ACE-Lite only if the GPU does not have the register.
    pub(crate) coherency_features: u32,
    /// Coherency protocol that GPU and system share: 0 ACE-Lite, 1 ACE, 31 none.
    pub(crate) selected_coherency: u32,
    /// `AFBC_FEATURES`.
    pub(crate) afbc_features: u32,
    /// Number of core groups.
    pub(crate) core_groups: u32,
    /// `TEXTURE_FEATURES0` to `3`.
    pub(crate) texture_features: [u32; 4],
    /// `JS_FEATURES0` to `15`; 0 for slots that do not exist.
    pub(crate) js_features: [u32; 16],
}

/// Product number of T60x, which predates the numbering scheme.
const T60X_ODD_ID: u16 = 0x6956;

/// Job slots without which no client can work, as a bitmap by number.
const NEEDED_SLOTS: u32 = 1 << Slot::Fragment.index() | 1 << Slot::Tiler.index();

impl Identity {
    /// Reads all registers, checks and logs them. `coherent`: the system keeps the GPU's accesses
    /// coherent with the CPUs'.
    ///
    /// Fails with `ENODEV`, and logs the reason, if no GPU answers, or if it is unknown or
    /// unusable.
    pub(crate) fn read(dev: &Device, io: &IoMem<'_>, coherent: bool) -> Result<(Self, Caps)> {
        let gpu_id = io.read(GPU_ID);
        if matches!(gpu_id.into_raw(), 0 | u32::MAX) {
            dev_err!(
                dev,
                "GPU_ID reads as {:#010x}: no GPU, or no power, clock or reset release\n",
                gpu_id.into_raw()
            );
            return Err(ENODEV);
        }

        let mut product_id = gpu_id.product();
        let revision = gpu_id.revision();
        if product_id == T60X_ODD_ID {
            product_id = 0x0600;
        }

        let Some(caps) = Caps::find(product_id, revision) else {
            dev_err!(
                dev,
                "unknown GPU: product {:#06x}, revision {:#06x}\n",
                product_id,
                revision
            );
            return Err(ENODEV);
        };

        let coherency_features = if caps.feature(Feature::CoherencyReg) {
            io.read(COHERENCY_FEATURES)
        } else {
            COHERENCY_FEATURES::zeroed().with_ace_lite(true)
        };
        let js_present = io.read(JS_PRESENT).into_raw();
        let l2_present = read_mask::<L2_PRESENT>(io);

        let mut js_features = [0; 16];
        for (n, features) in js_features.iter_mut().enumerate() {
            if js_present & 1 << n != 0 {
                *features = read_at::<JS_FEATURES>(io, n)?.into_raw();
            }
        }
        let mut texture_features = [0; 4];
        for (n, features) in texture_features.iter_mut().enumerate() {
            *features = read_at::<TEXTURE_FEATURES>(io, n)?.into_raw();
        }

        let id = Self {
            product_id,
            revision,
            shader_present: read_mask::<SHADER_PRESENT>(io),
            tiler_present: read_mask::<TILER_PRESENT>(io),
            l2_present,
            stack_present: read_mask::<STACK_PRESENT>(io),
            as_present: io.read(AS_PRESENT).spaces().into(),
            js_present,
            l2_features: io.read(L2_FEATURES).into_raw(),
            core_features: io.read(CORE_FEATURES).into_raw(),
            tiler_features: io.read(TILER_FEATURES).into_raw(),
            mem_features: io.read(MEM_FEATURES).into_raw(),
            mmu_features: io.read(MMU_FEATURES).into_raw(),
            thread_features: io.read(THREAD_FEATURES).into_raw(),
            thread_max_threads: io.read(THREAD_MAX_THREADS).into_raw(),
            thread_max_workgroup_size: io.read(THREAD_MAX_WORKGROUP_SIZE).into_raw(),
            thread_max_barrier_size: io.read(THREAD_MAX_BARRIER_SIZE).into_raw(),
            thread_tls_alloc: io.read(THREAD_TLS_ALLOC).into_raw(),
            coherency_features: coherency_features.into_raw(),
            selected_coherency: select_coherency(coherent, coherency_features) as u32,
            afbc_features: io.read(AFBC_FEATURES).into_raw(),
            core_groups: l2_present.count_ones(),
            texture_features,
            js_features,
        };
        id.check(dev)?;
        id.log(dev, &caps);

        Ok((id, caps))
    }

    /// Returns the width of GPU virtual addresses in bits.
    pub(crate) fn va_bits(&self) -> u32 {
        MMU_FEATURES::from_raw(self.mmu_features).va_bits().get()
    }

    /// Returns the width of physical addresses in bits.
    pub(crate) fn pa_bits(&self) -> u32 {
        MMU_FEATURES::from_raw(self.mmu_features).pa_bits().get()
    }

    /// Returns the shader cores in use: those of the first core group. Core groups are not coherent
    /// with each other, so all jobs are kept within one.
    pub(crate) fn shader_mask(&self) -> u64 {
        self.shader_present & self.core_mask()
    }

    /// Returns the level 2 caches in use.
    pub(crate) fn l2_mask(&self) -> u64 {
        self.l2_present & self.core_mask()
    }

    /// Returns a mask of the cores of the first core group. The bit of each level 2 cache has the
    /// number of the first core in its group, so the cores below the second such bit are those of
    /// the first group.
    fn core_mask(&self) -> u64 {
        let others = self.l2_present & self.l2_present.wrapping_sub(1);

        match others.trailing_zeros() {
            64 => u64::MAX,
            first => (1 << first) - 1,
        }
    }

    /// Checks that the rest of the driver can work with the values. `ENODEV` if not.
    fn check(&self, dev: &Device) -> Result {
        if self.as_present == 0 || self.js_present & NEEDED_SLOTS != NEEDED_SLOTS {
            dev_err!(
                dev,
                "unusable GPU: address spaces {:#x}, job slots {:#x}\n",
                self.as_present,
                self.js_present
            );
            return Err(ENODEV);
        }
        if self.shader_present == 0 || self.l2_present == 0 || self.tiler_present == 0 {
            dev_err!(
                dev,
                "unusable GPU: it has no shader, tiler or level 2 cache\n"
            );
            return Err(ENODEV);
        }
        if !(33..=48).contains(&self.va_bits()) || !(32..=52).contains(&self.pa_bits()) {
            dev_err!(dev, "unusable GPU: MMU features {:#x}\n", self.mmu_features);
            return Err(ENODEV);
        }
        Ok(())
    }

    /// Logs the GPU that was found.
    fn log(&self, dev: &Device, caps: &Caps) {
        let gpu_id = GPU_ID::zeroed().with_revision(self.revision);

        dev_info!(
            dev,
            "mali-{} id {:#x} major {:#x} minor {:#x} status {:#x}\n",
            caps.name(),
            self.product_id,
            gpu_id.major(),
            gpu_id.minor(),
            gpu_id.status()
        );
        dev_info!(
            dev,
            "features {:#x}, issues {:#x}, shader_present {:#x}, l2_present {:#x}\n",
            caps.feature_bits(),
            caps.issue_bits(),
            self.shader_present,
            self.l2_present
        );
        dev_info!(
            dev,
            "L2 {:#010x} core {:#010x} tiler {:#010x} mem {:#x} MMU {:#010x} AS {:#x} JS {:#x}\n",
            self.l2_features,
            self.core_features,
            self.tiler_features,
            self.mem_features,
            self.mmu_features,
            self.as_present,
            self.js_present
        );
    }
}

/// Returns the strongest coherency protocol that both the system and the GPU have.
fn select_coherency(coherent: bool, features: COHERENCY_FEATURES) -> Coherency {
    if !coherent {
        Coherency::None
    } else if features.ace() {
        Coherency::Ace
    } else if features.ace_lite() {
        Coherency::AceLite
    } else {
        Coherency::None
    }
}

/// Reads a register that is an array of two words, the low one first.
pub(super) fn read_mask<R>(io: &IoMem<'_>) -> u64
where
    R: RegisterArray<Storage = u32> + Array + Into<u32>,
{
    let lo: R = io.read(R::at(0));
    let hi: R = io.read(R::at(1));

    join(lo.into(), hi.into())
}
