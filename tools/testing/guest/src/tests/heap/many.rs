// SPDX-License-Identifier: GPL-2.0

//! Clients with many things do not hold up a task that takes the driver from the GPU.

use std::time::Duration;
use std::time::Instant;

use crate::bo::Bo;
use crate::check;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::sys::Errno;
use crate::uapi;

use super::super::tiler::heap;
use super::super::works;
use super::CHUNK;

const PEER: &str = "unbinding it under load is not known to be safe";

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("unbind-with-many-heaps", &["C8", "B2"], heaps).not_on_panfrost(PEER),
    Test::new("unbind-with-many-files", &["C8", "E1", "F1"], files).not_on_panfrost(PEER),
];

/// How long a grace period of RCU takes, which some operations wait for once for each object.
fn grace_period() -> Result<Duration, Stop> {
    const CMD_GLOBAL: libc::c_int = 1;
    const ROUNDS: u32 = 8;
    let start = Instant::now();
    for _ in 0..ROUNDS {
        // SAFETY: three numbers.
        let ret = unsafe { libc::syscall(libc::SYS_membarrier, CMD_GLOBAL, 0, 0) };
        if ret == -1 {
            return Err(Errno::last().into());
        }
    }
    let period = start.elapsed() / ROUNDS;
    if period < Duration::from_micros(100) {
        return Err(Stop::Skip(
            "with one processor there is no grace period".into(),
        ));
    }
    Ok(period)
}

/// How long an unbind takes while `have` is there. It is dropped when the driver is back.
fn unbind<T>(gpu: &Gpu, have: T) -> Result<Duration, Stop> {
    let start = Instant::now();
    let away = gpu.node.unbind()?;
    let took = start.elapsed();
    // The node gets its old name when nobody has the old one.
    drop(have);
    away.give_back()?;
    works(&gpu.open()?)?;
    Ok(took)
}

/// Whether that is far less than a grace period for each of so many objects.
fn is_short(took: Duration, count: u32, period: Duration) -> Outcome {
    check!(
        took < count / 4 * period,
        "{took:?} for {count} objects, with grace periods of {period:?}"
    );
    Ok(())
}

/// A file with a thousand heaps.
fn heaps(gpu: &Gpu) -> Outcome {
    const HEAPS: u32 = 1000;
    let usual = unbind(gpu, ())?;
    let period = grace_period()?;
    let device = gpu.open()?;
    let heaps = (0..HEAPS)
        .map(|_| heap(&device, CHUNK))
        .collect::<Result<Vec<_>, _>>()?;
    let took = unbind(gpu, (heaps, device))?.saturating_sub(usual);
    is_short(took, HEAPS, period)
}

/// Hundreds of files, each with user memory where the GPU can use that.
fn files(gpu: &Gpu) -> Outcome {
    const FILES: u32 = 400;
    const PAGE: usize = 4096;
    let usual = unbind(gpu, ())?;
    let period = grace_period()?;
    let memory = vec![1u8; 2 * PAGE];
    let page = (memory.as_ptr() as usize).next_multiple_of(PAGE);
    let file = |_| -> Result<_, Stop> {
        let device = gpu.open()?;
        let of_user = match device.param(uapi::PARAM_USERPTR) {
            Ok(1) => Some(Bo::over_memory(
                &device,
                page,
                PAGE,
                uapi::USERPTR_READONLY,
            )?),
            _ => None,
        };
        Ok((of_user, device))
    };
    let files = (0..FILES).map(file).collect::<Result<Vec<_>, _>>()?;
    let took = unbind(gpu, files)?.saturating_sub(usual);
    drop(memory);
    is_short(took, FILES, period)
}
