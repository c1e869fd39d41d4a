// SPDX-License-Identifier: GPL-2.0

//! Opening the device and asking what it is.

use std::time::Instant;

use model::control::Stat;
use model::job::Arch;

use crate::board::Board;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Test;
use crate::sys;
use crate::uapi;

use super::spaces::during_resets;
use super::spaces::BUS_FAULT;

pub(super) const TESTS: &[Test] = &[
    Test::new("open-version", &["I1"], version),
    Test::new("open-many", &["F1"], many),
    Test::new("param-identity", &["I1"], identity),
    Test::new("param-all", &["I1"], every),
    Test::new("param-bad", &["C5"], bad),
    Test::new("param-timestamp", &["I1"], timestamp).needs(&[Need::Minor(3)]),
    Test::new(
        "param-timestamp-during-resets",
        &["C4", "I1"],
        timestamp_runs,
    )
    .needs(&[Need::Board, Need::Minor(3)])
    .panfrost_fails_on(Arch::V9, BUS_FAULT),
    Test::new("param-priorities", &["C2"], priorities).needs(&[Need::Minor(5)]),
    Test::new("param-coherency", &["I1"], coherency).needs(&[Need::Minor(6)]),
];

fn version(gpu: &Gpu) -> Outcome {
    let version = gpu.open()?.version()?;
    check_eq!(version.name, "panfrost");
    check_eq!(version.major, 1);
    check!(version.minor >= 1, "Mesa wants 1.1, this is {version:?}");
    Ok(())
}

fn many(gpu: &Gpu) -> Outcome {
    let files = (0..100)
        .map(|_| gpu.open())
        .collect::<Result<Vec<_>, _>>()?;
    for file in &files {
        file.param(uapi::PARAM_PROD_ID)?;
    }
    Ok(())
}

fn identity(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let product = device.product()?;
    let mut wanted = vec![
        (uapi::PARAM_PROD_ID, product.id.into()),
        (uapi::PARAM_REVISION, product.revision.into()),
        (uapi::PARAM_SHADER_PRESENT, product.shader_present),
        (uapi::PARAM_TILER_PRESENT, product.tiler_present),
        (uapi::PARAM_L2_PRESENT, product.l2_present),
        (uapi::PARAM_STACK_PRESENT, product.stack_present),
        (uapi::PARAM_AS_PRESENT, 0xff),
        (uapi::PARAM_JS_PRESENT, 0x7),
        (uapi::PARAM_L2_FEATURES, product.l2_features.into()),
        (uapi::PARAM_CORE_FEATURES, product.core_features.into()),
        (uapi::PARAM_TILER_FEATURES, product.tiler_features.into()),
        (uapi::PARAM_MEM_FEATURES, product.mem_features.into()),
        (uapi::PARAM_MMU_FEATURES, product.mmu_features.into()),
        (uapi::PARAM_THREAD_FEATURES, product.thread_features.into()),
        (uapi::PARAM_MAX_THREADS, product.max_threads.into()),
        (
            uapi::PARAM_THREAD_TLS_ALLOC,
            product.thread_tls_alloc.into(),
        ),
    ];
    for (n, features) in product.texture_features.into_iter().enumerate() {
        wanted.push((uapi::PARAM_TEXTURE_FEATURES0 + n as u32, features.into()));
    }
    for (n, features) in product.js_features.into_iter().enumerate() {
        wanted.push((uapi::PARAM_JS_FEATURES0 + n as u32, features.into()));
    }
    if device.minor() >= 2 {
        wanted.push((uapi::PARAM_AFBC_FEATURES, product.afbc_features.into()));
    }
    for (param, value) in wanted {
        check_eq!(device.param(param)?, value, "parameter {param}");
    }
    Ok(())
}

fn every(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let last = match device.minor() {
        ..2 => uapi::PARAM_THREAD_TLS_ALLOC,
        2 => uapi::PARAM_AFBC_FEATURES,
        3..5 => uapi::PARAM_SYSTEM_TIMESTAMP_FREQUENCY,
        5 => uapi::PARAM_ALLOWED_JM_CTX_PRIORITIES,
        6.. => uapi::PARAM_SELECTED_COHERENCY,
    };
    for param in 0..=last {
        if let Err(errno) = device.param(param) {
            check!(false, "parameter {param}: {errno}");
        }
    }
    Ok(())
}

fn bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for param in [63, 0xd0d0_d0d0, u32::MAX] {
        check_errno!(device.param(param), EINVAL);
    }
    let mut padded = uapi::GetParam {
        param: uapi::PARAM_PROD_ID,
        pad: 1,
        value: 0,
    };
    check_errno!(device.get_param(&mut padded), EINVAL);
    Ok(())
}

fn timestamp(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let first = device.param(uapi::PARAM_SYSTEM_TIMESTAMP)?;
    let second = device.param(uapi::PARAM_SYSTEM_TIMESTAMP)?;
    check!(second >= first, "time went from {first} to {second}");
    let frequency = device.param(uapi::PARAM_SYSTEM_TIMESTAMP_FREQUENCY)?;
    // Only Arm has the timer whose rate this is.
    check_eq!(frequency != 0, cfg!(target_arch = "aarch64"));
    Ok(())
}

/// The timestamp stands still while the GPU is reset, which nobody is shown. The model's counts
/// nanoseconds.
fn timestamp_runs(gpu: &Gpu) -> Outcome {
    const RESETS: u32 = 20;
    /// The clocks may differ by this, in nanoseconds, and by a fiftieth.
    const SLACK: u64 = 20_000;
    let device = gpu.open()?;
    let board = Board::open()?;
    let before = board.stat(Stat::SoftResets);
    let give_up = Instant::now() + PATIENCE;

    during_resets(gpu, || {
        let mut last = (device.param(uapi::PARAM_SYSTEM_TIMESTAMP)?, sys::now_ns());
        while board.stat(Stat::SoftResets).wrapping_sub(before) < RESETS {
            check!(Instant::now() < give_up, "there are no resets");
            let passed = sys::now_ns().abs_diff(last.1);
            let timestamp = device.param(uapi::PARAM_SYSTEM_TIMESTAMP)?;
            let counted = timestamp.saturating_sub(last.0);
            check!(
                counted + SLACK >= passed - passed / 50,
                "{passed} ns have passed, and {counted} were counted"
            );
            last = (timestamp, sys::now_ns());
        }
        Ok(())
    })
}

fn priorities(gpu: &Gpu) -> Outcome {
    let allowed = gpu.open()?.param(uapi::PARAM_ALLOWED_JM_CTX_PRIORITIES)?;
    // Tests run as root, who may have the highest of the three.
    check_eq!(allowed, 0b111);
    Ok(())
}

fn coherency(gpu: &Gpu) -> Outcome {
    let selected = gpu.open()?.param(uapi::PARAM_SELECTED_COHERENCY)?;
    check!([0, 1, 31].contains(&selected), "{selected}");
    Ok(())
}
