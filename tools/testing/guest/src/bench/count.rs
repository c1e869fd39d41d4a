// SPDX-License-Identifier: GPL-2.0

//! Counting all that is executed: by the program, in interrupts, by threads of the kernel.

use std::thread;
use std::time::Duration;

use crate::harness::Stop;

use super::marked;
use super::median;

/// Instructions by now, as a plugin of QEMU's counts them (`profile.c`).
#[derive(Clone, Copy)]
pub(super) struct Executed {
    all: u64,
    clearing: u64,
}

impl Executed {
    /// Asks the plugin.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn now() -> Result<Self, Stop> {
        let mut counts = [u64::MAX; 2];
        // SAFETY: the instruction stores to the first of `counts`, and the plugin to both.
        unsafe {
            core::arch::asm!(
                "movl $0x62656e03, (%rax)",
                in("rax") counts.as_mut_ptr(),
                options(att_syntax, nostack, preserves_flags),
            );
        }
        match counts {
            [_, u64::MAX] => Err(Stop::fail("no plugin counts (vm --plugin)")),
            [all, clearing] => Ok(Self { all, clearing }),
        }
    }

    /// No plugin knows how to be asked.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn now() -> Result<Self, Stop> {
        Err(Stop::fail("no plugin counts"))
    }

    /// Instructions since then.
    pub(super) fn since(self, earlier: Self, clearing: Clearing) -> u64 {
        let all = self.all.wrapping_sub(earlier.all);
        match clearing {
            Clearing::Counts => all,
            Clearing::IsTakenOff => all - self.clearing.wrapping_sub(earlier.clearing),
        }
    }
}

/// Whether the kernel's clearing of pages is part of a cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clearing {
    /// It is.
    Counts,
    /// It is not: the contents of BOs are cleared by either driver, and by the same function.
    IsTakenOff,
}

/// How long it takes until interrupt threads, workers and RCU have done their work. Less than the
/// 50 ms after which C panfrost turns an idle GPU off.
const QUIET: Duration = Duration::from_millis(30);

/// How long a sample waits for what came before it, so that with [`QUIET`] it is still less.
const SETTLE: Duration = Duration::from_millis(15);

/// After this time an idle GPU is off.
const ASLEEP: Duration = Duration::from_millis(200);

/// How often a row is measured in a round.
const SAMPLES: usize = 5;

/// Instructions from the beginning of something until the machine is quiet.
fn until_quiet(clearing: Clearing, what: impl FnOnce() -> Result<(), Stop>) -> Result<u64, Stop> {
    let before = Executed::now()?;
    marked(|| {
        what()?;
        thread::sleep(QUIET);
        Ok::<(), Stop>(())
    })?;
    Ok(Executed::now()?.since(before, clearing))
}

/// All that is executed for `what`, by anybody, until the machine is quiet, less what it executes
/// while nothing is done; for each of the `times` that `what` does something.
pub(super) fn total(
    times: usize,
    clearing: Clearing,
    mut what: impl FnMut() -> Result<(), Stop>,
) -> Result<u64, Stop> {
    thread::sleep(ASLEEP);
    let idle = median(SAMPLES, || until_quiet(clearing, || Ok(())))?;
    let all = median(SAMPLES, || {
        // If there are jobs in it, the GPU is on when the count begins, and when it ends.
        what()?;
        thread::sleep(SETTLE);
        until_quiet(clearing, &mut what)
    })?;
    Ok(all.saturating_sub(idle) / times as u64)
}
