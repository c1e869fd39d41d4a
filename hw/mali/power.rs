// SPDX-License-Identifier: GPL-2.0

//! Power of the cores: the level 2 caches are turned on first, then the tiler and the shader cores;
//! they are turned off in the reverse order.
//!
//! These are the power domains inside the GPU. Clocks, regulators and the power domains of the SoC
//! are handled by [`device`](crate::device). Functions that wait sleep.
//! Resets need them, and fences depend on resets, so nothing here allocates or takes a lock.

use kernel::{
    device::Device,
    io::{
        poll::read_poll_timeout,
        register::{
            Array,
            RegisterArray, //
        },
        Io, //
    },
    prelude::*,
    time::Delta, //
};

use super::{
    hi,
    identity::read_mask,
    lo,
    regs::gpu::*,
    soc::Quirks,
    Caps,
    Feature,
    Identity,
    IoMem,
    Issue, //
};

/// Time between two reads of a state register.
const POLL: Delta = Delta::from_micros(10);
/// Time after which a transition has failed. It normally takes from microseconds to a few
/// milliseconds.
const TIMEOUT: Delta = Delta::from_millis(500);

/// Writes the configuration that errata and features require, then turns on all cores in use.
///
/// Must be called after each reset. `ETIMEDOUT`: some cores did not power up; the log says which.
/// `ENODEV`: the device is gone.
pub(super) fn on(
    dev: &Device,
    io: &IoMem<'_>,
    id: &Identity,
    caps: &Caps,
    quirks: Quirks,
) -> Result {
    configure(io, id, caps, quirks);

    request::<L2_PWRON>(io, id.l2_mask());
    wait_on::<L2_READY>(dev, io, id.l2_mask(), "level 2 cache")?;

    request::<SHADER_PWRON>(io, id.shader_mask());
    request::<TILER_PWRON>(io, id.tiler_present);
    wait_on::<SHADER_READY>(dev, io, id.shader_mask(), "shader cores")?;
    wait_on::<TILER_READY>(dev, io, id.tiler_present, "tiler")
}

/// Turns all cores off. If some do not power down, continues with the others and returns the first
/// error.
pub(super) fn off(dev: &Device, io: &IoMem<'_>, id: &Identity) -> Result {
    request::<SHADER_PWROFF>(io, id.shader_present);
    request::<TILER_PWROFF>(io, id.tiler_present);
    let shader = wait_settled::<SHADER_PWRTRANS>(dev, io, "shader cores");
    let tiler = wait_settled::<TILER_PWRTRANS>(dev, io, "tiler");

    request::<L2_PWROFF>(io, id.l2_present);
    let l2 = wait_settled::<L2_PWRTRANS>(dev, io, "level 2 cache");

    shader.and(tiler).and(l2)
}

/// Waits until no level 2 cache is changing its power state. Some GPUs must not be reset before
/// that.
pub(super) fn settle_l2(dev: &Device, io: &IoMem<'_>) -> Result {
    wait_settled::<L2_PWRTRANS>(dev, io, "level 2 cache")
}

/// Requests a change of power state of the cores in `mask`.
fn request<R>(io: &IoMem<'_>, mask: u64)
where
    R: RegisterArray<Storage = u32> + Array + From<u32>,
{
    io.write(R::at(0), R::from(lo(mask)));
    if hi(mask) != 0 {
        io.write(R::at(1), R::from(hi(mask)));
    }
}

/// Reads a state register. `ENODEV` if the device is gone.
fn state<R>(io: &IoMem<'_>) -> Result<u64>
where
    R: RegisterArray<Storage = u32> + Array + Into<u32>,
{
    match read_mask::<R>(io) {
        u64::MAX => Err(ENODEV),
        state => Ok(state),
    }
}

/// Waits until all cores in `mask` are on.
fn wait_on<R>(dev: &Device, io: &IoMem<'_>, mask: u64, what: &str) -> Result
where
    R: RegisterArray<Storage = u32> + Array + Into<u32>,
{
    read_poll_timeout(
        || state::<R>(io),
        |&ready| ready & mask == mask,
        POLL,
        TIMEOUT,
    )
    .inspect_err(|e| dev_err!(dev, "{} ({:#x}) did not power up: {:?}\n", what, mask, e))?;
    Ok(())
}

/// Waits until no core of a kind is changing its power state.
fn wait_settled<R>(dev: &Device, io: &IoMem<'_>, what: &str) -> Result
where
    R: RegisterArray<Storage = u32> + Array + Into<u32>,
{
    match read_poll_timeout(|| state::<R>(io), |&moving| moving == 0, POLL, TIMEOUT) {
        // A device that has left the bus is not worth a message.
        Err(ENODEV) => Err(ENODEV),
        Err(e) => {
            dev_err!(dev, "{} did not settle: {:?}\n", what, e);
            Err(e)
        }
        Ok(_) => Ok(()),
    }
}

/// Writes the implementation-specific configuration registers, which a reset clears.
fn configure(io: &IoMem<'_>, id: &Identity, caps: &Caps, quirks: Quirks) {
    let shader = shader_config(caps);
    if shader != SHADER_CONFIG::zeroed() {
        io.write_reg(shader);
    }

    if caps.issue(Issue::T76x3953) {
        io.update(TILER_CONFIG, |config| config.with_clock_gate_override(true));
    }

    let jm = jm_config(id.revision, id.coherency_features, caps);
    if jm != JM_CONFIG::zeroed() {
        io.write_reg(jm);
    }

    if quirks.amlogic {
        io.write_reg(PWR_KEY::UNLOCK);
        io.write_reg(PWR_OVERRIDE1::AMLOGIC);
    }
}

/// Returns the value for `SHADER_CONFIG`, or 0 to leave the register alone.
fn shader_config(caps: &Caps) -> SHADER_CONFIG {
    let mut config = SHADER_CONFIG::zeroed();

    if caps.issue(Issue::T8443) || caps.issue(Issue::T11035) {
        config = config.with_ls_pausebuffer_disable(true);
    }
    if caps.issue(Issue::T10327) {
        config = config.with_sdc_disable_oq_discard(true);
    }
    if caps.issue(Issue::T10797) {
        config = config.with_enable_texgrd_flags(true);
    }
    if !caps.issue(Issue::GpuCore1619) {
        config = match caps.family() {
            0..=0x74f => config.with_ls_attr_check_disable(true),
            0x750..=0x880 => config.with_ls_allow_attr_types(true),
            _ => config,
        };
    }
    if caps.issue(Issue::Ttrx2968Ttrx3162) {
        config = config.with_var_algorithm(true);
    }
    if caps.feature(Feature::TlsHashing) {
        config = config.with_tls_hash_enable(true);
    }
    config
}

/// Returns the value for `JM_CONFIG`, or 0 to leave the register alone.
fn jm_config(revision: u16, coherency_features: u32, caps: &Caps) -> JM_CONFIG {
    let ace_only = COHERENCY_FEATURES::zeroed().with_ace(true);
    let mut config = JM_CONFIG::zeroed();

    if matches!(caps.family(), 0x860 | 0x880) && revision >= 0x2000 {
        config = config.with_const_job_throttle_limit::<{ JM_CONFIG::MAX_JOB_THROTTLE_LIMIT }>();
    } else if caps.family() == 0x6000 && coherency_features == ace_only.into_raw() {
        config = config.with_force_ace_lite(true).with_force_ace(true);
    }
    if caps.feature(Feature::IdvsGroupSize) {
        config = config.with_const_idvs_group_size::<{ JM_CONFIG::DEFAULT_IDVS_GROUP_SIZE }>();
    }
    config
}

#[kunit_tests(drm_gpu_power)]
mod tests {
    use super::*;

    #[test]
    fn shader_config_by_product() {
        let config = |id, revision| Caps::find(id, revision).map(|c| shader_config(&c).into_raw());

        assert!(config(0x0600, 0x0001) == Some(1 << 16));
        assert!(config(0x0620, 0x0010) == Some(1 << 6 | 1 << 16 | 1 << 18));
        assert!(config(0x0720, 0x0000) == Some(1 << 18 | 1 << 25));
        assert!(config(0x0860, 0x2000) == Some(1 << 16));
        assert!(config(0x7402, 0x1000) == Some(0));
        assert!(config(0x9093, 0) == Some(1 << 29));
        assert!(config(0x7093, 0) == Some(1 << 17));
    }

    #[test]
    fn jm_config_by_product() {
        let config = |id, revision, coherency| {
            Caps::find(id, revision).map(|c| jm_config(revision, coherency, &c).into_raw())
        };

        assert!(config(0x0860, 0x2000, 1) == Some(0x1f8));
        assert!(config(0x0860, 0x1000, 1) == Some(0));
        assert!(config(0x6000, 0x0000, 2) == Some(0xc));
        assert!(config(0x6000, 0x0000, 3) == Some(0));
        assert!(config(0x7402, 0x1000, 1) == Some(0xf_0000));
    }
}
