// SPDX-License-Identifier: GPL-2.0

//! Errata and habits of silicon that look like hangs, or like success.

use std::thread;

use model::control::Opcode;
use model::control::Stat;
use model::control::NEVER;
use model::job::Arch;

use super::end;
use super::hang_next;
use super::nothing;
use super::start;
use super::Told;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs;
use crate::device::Device;
use crate::device::Job;
use crate::harness::Gpu;
use crate::harness::KernelLog;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::Gate;
use crate::sys::Errno;
use crate::tests::works;
use crate::tests::A_WHILE;
use crate::uapi;

pub(in crate::tests) const TESTS: &[Test] = &[
    Test::new("recover-end-unreported", &["J4"], end_unreported)
        .needs(&[Need::Board])
        .panfrost_fails("a job that is done without a report has failed"),
    Test::new("recover-stop-unreported", &["J4"], stop_unreported)
        .needs(&[Need::Board])
        .panfrost_fails("it resets the GPU, and never looks at this status"),
    Test::new("fault-resets", &["J4"], fault_resets)
        .needs(&[Need::Board])
        .panfrost_fails("it resets other GPUs, and a G57 not each time"),
    Test::new("fault-resets-leave-log", &["J4"], resets_leave_log)
        .needs(&[Need::Board])
        .panfrost_fails_on(Arch::V9, "it does not reset a G57 each time"),
    Test::new("recover-late-start", &["J4"], late_start)
        .needs(&[Need::Board, Need::Gate])
        .panfrost_fails("it does not count this"),
    Test::new("recover-never-starts", &["J4"], never_starts).needs(&[Need::Board]),
];

/// The report of a chain's end gets lost in the GPU. That is no hang, however often it happens.
fn end_unreported(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    for (slot, requirements) in [(1, 0), (0, uapi::REQ_FS)] {
        for _ in 0..4 {
            board.order(Opcode::LoseDone, &[slot, 1])?;
            let mut chain = Chain::new(&device, 4096)?;
            chain.null();
            chain.require(requirements);
            check_eq!(end(&start(&device, 0, &chain)?)?, Ok(()));
            check_eq!(chain.statuses(), [DONE]);
        }
    }
    check_eq!(told.counts(), [0, 0, 0]);
    works(&device)
}

/// A job that was stopped for good says that it has not begun. That is no success.
fn stop_unreported(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    board.order(Opcode::LoseStopStatus, &[1])?;
    hang_next(&board)?;
    let chain = nothing(&device)?;
    check_eq!(
        end(&start(&device, 0, &chain)?)?,
        Err(Errno(libc::ECANCELED))
    );
    board.order(Opcode::LoseStopStatus, &[0])?;
    works(&device)
}

pub(super) fn is_g57(device: &Device) -> Result<bool, Stop> {
    Ok(matches!(
        device.param(uapi::PARAM_PROD_ID)? & 0xf00f,
        0x9001 | 0x9003
    ))
}

/// On G57, a bus fault of an occlusion query can have later jobs hang, so the GPU is reset after
/// each; and after each fault of the MMU, as the hard stop that follows it can hide a bus fault. No
/// other GPU is reset for either.
fn fault_resets(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let is_g57 = is_g57(&device)?;
    let told = Told::from_now(&board);
    let mut resets_before = 0;
    let mut is_reset_if_g57 = || -> Outcome {
        let resets = || told.counts()[2];
        if is_g57 {
            let one_more = || Ok(resets() > resets_before);
            check!(memory::wait_for(PATIENCE, one_more)?, "no reset");
        }
        works(&device)?;
        thread::sleep(A_WHILE);
        check!(is_g57 || resets() == 0, "{} resets", resets());
        resets_before = resets();
        Ok(())
    };
    board.order(Opcode::BusFaultNextJob, &[1, 1])?;
    let chain = nothing(&device)?;
    check_eq!(end(&start(&device, 0, &chain)?)?, Err(Errno(libc::EINVAL)));
    is_reset_if_g57()?;

    let done = device.syncobj()?;
    device.submit(Job {
        // Nothing was ever mapped there.
        head: 0x8_0000_0000,
        signal: Some(&done),
        ..Default::default()
    })?;
    check!(end(&done.fence()?)?.is_err());
    is_reset_if_g57()
}

/// However often a client has the GPU reset, which on G57 takes no more than a bus fault, the log
/// tells of an error of the GPU itself.
fn resets_leave_log(gpu: &Gpu) -> Outcome {
    // More than there can be lines in five seconds.
    const RESETS: u32 = 12;
    // With no line so far.
    gpu.node.unbind()?.give_back()?;
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    for n in 0..if is_g57(&device)? { RESETS } else { 0 } {
        board.order(Opcode::BusFaultNextJob, &[1, 1])?;
        let chain = nothing(&device)?;
        check_eq!(end(&start(&device, 0, &chain)?)?, Err(Errno(libc::EINVAL)));
        let one_more = || Ok(told.counts()[2] > n);
        check!(memory::wait_for(PATIENCE, one_more)?, "no reset");
    }
    works(&device)?;
    let mut log = KernelLog::from_now();
    // A fault, vector 2.
    board.order(Opcode::SpuriousIrq, &[2, 1])?;
    let tells = |line: &String| line.to_lowercase().contains("gpu fault");
    let told = || Ok(log.lines().iter().any(tells));
    check!(memory::wait_for(PATIENCE, told)?, "nobody tells of it");
    works(&device)
}

/// A slot takes its time until it begins with a chain. The next one waits, and that is counted.
fn late_start(gpu: &Gpu) -> Outcome {
    let missed = || debugfs::jobs(gpu, "second entries that were not free yet");
    let board = Board::open()?;
    let device = gpu.open()?;
    if !device.product()?.has_chain_flag {
        return Err(Stop::Skip("its slots are given one chain at a time".into()));
    }
    let told = Told::from_now(&board);
    let before = missed()?;
    board.order(Opcode::DelayStart, &[50_000])?;
    // They become ready at the same time, however long a submit takes.
    let gate = Gate::new()?;
    let wait = gate.syncobj(&device)?;
    let mut chains = Vec::new();
    for _ in 0..3 {
        let chain = nothing(&device)?;
        let done = device.syncobj()?;
        chain.submit_in(0, &[], &[&wait], Some(&done))?;
        chains.push((chain, done.fence()?));
    }
    gate.open()?;
    for (chain, fence) in &chains {
        check_eq!(end(fence)?, Ok(()));
        check_eq!(chain.statuses(), [DONE]);
    }
    check!(missed()? != before, "nobody has noticed");
    check_eq!(told.counts(), [0, 0, 0]);
    works(&device)
}

/// A chain that a slot never begins with cannot be stopped, so the GPU is reset. The chain fails,
/// and the slot works again.
fn never_starts(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let resets = board.stat(Stat::SoftResets);
    let chain = nothing(&device)?;

    board.order(Opcode::DelayStart, &[NEVER])?;
    check!(
        end(&start(&device, 0, &chain)?)?.is_err(),
        "it has not failed"
    );
    check!(chain.statuses() != [DONE]);
    check!(board.stat(Stat::SoftResets) != resets, "nothing was reset");
    board.order(Opcode::ClearAll, &[])?;
    works(&device)
}
