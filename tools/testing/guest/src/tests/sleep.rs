// SPDX-License-Identifier: GPL-2.0

//! System sleep.

use std::fs;
use std::io;

use crate::check;
use crate::check_eq;
use crate::harness::Gpu;
use crate::harness::KernelLog;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;

use super::seen::logged;
use super::works;

const PEER: &str = "it sleeps, which the shared folders of the guest do not survive";

pub(super) const TESTS: &[Test] = &[
    // J2: a driver that cannot bring the GPU back keeps the system awake.
    // The kernel's PM core has its say, too.
    Test::new("sleep-is-refused", &["J2"], refused)
        .warns()
        .not_on_panfrost(PEER),
];

/// Asks the system to suspend to idle. Returns once it is awake.
fn suspend() -> io::Result<()> {
    // One device after the other, the GPU first: the others need not be woken up again.
    fs::write("/sys/power/pm_async", "0")?;
    fs::write("/sys/power/state", "freeze")
}

fn refused(gpu: &Gpu) -> Outcome {
    let states = fs::read_to_string("/sys/power/state")
        .map_err(|e| Stop::fail(format!("this kernel cannot sleep: {e}")))?;
    check!(states.contains("freeze"), "no suspend to idle: {states}");
    let device = gpu.open()?;
    works(&device)?;

    let mut log = KernelLog::from_now();
    let errno = suspend().err().and_then(|e| e.raw_os_error());
    check_eq!(errno, Some(libc::EBUSY));
    logged(
        &mut log,
        &["the system cannot sleep while this driver has the GPU"],
    )?;

    works(&device)
}
