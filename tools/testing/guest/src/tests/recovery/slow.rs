// SPDX-License-Identifier: GPL-2.0

//! Jobs that take long and do not hang.

use std::os::fd::AsFd;

use model::control::Opcode;

use super::end;
use super::habits::is_g57;
use super::nothing;
use super::start;
use super::Told;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::fence_status;
use crate::sys::Errno;
use crate::tests::works;
use crate::uapi;

/// C panfrost looks at the time alone.
const NO_TURNS: &str = "a chain that takes long is taken for one that hangs";

pub(in crate::tests) const TESTS: &[Test] = &[
    Test::new("recover-slow-chain", &["C11"], slow_chain)
        .needs(&[Need::Board])
        .panfrost_fails(NO_TURNS),
    Test::new("recover-slow-chain-limit", &["C11"], slow_chain_limit)
        .needs(&[Need::Board])
        .panfrost_fails(NO_TURNS),
    Test::new(
        "recover-slow-chain-no-hang",
        &["C11"],
        slow_chain_is_no_hang,
    )
    .needs(&[Need::Board])
    .panfrost_fails(NO_TURNS),
    Test::new("recover-slow-at-reset", &["C4", "C11"], stops_at_reset)
        .needs(&[Need::Board])
        .panfrost_fails(NO_TURNS),
];

/// A chain of so many jobs in the vertex-tiler slot.
fn chain_of(device: &Device, jobs: usize) -> Result<Chain, Stop> {
    // The most that a job takes there.
    let mut chain = Chain::new(device, (jobs * 128).next_multiple_of(4096))?;
    for _ in 0..jobs {
        chain.null();
    }
    Ok(chain)
}

/// Chains that take longer than a job may run, of jobs that do not, are done to their end. Another
/// file has its turn before them, and their context is none the worse.
///
/// Each chain is slow until the other file has had its turn, so it takes that long however late the
/// timer is.
fn slow_chain(gpu: &Gpu) -> Outcome {
    // More than there are hangs that close a context.
    const CHAINS: u32 = 4;
    // Half a minute, if the jobs stay slow.
    const JOBS: usize = 3000;
    let _reloaded = Reloaded::new(gpu, &["job_timeout_ms=1000", "job_limit_ms=120000"])?;
    let board = Board::open()?;
    let device = gpu.open()?;
    let other = gpu.open()?;
    let told = Told::from_now(&board);
    for n in 1..=CHAINS {
        board.order(Opcode::SlowJobs, &[10_000])?;
        let slow = chain_of(&device, JOBS)?;
        let fence = start(&device, 0, &slow)?;
        let begun = || Ok(slow.statuses().first() == Some(&DONE));
        check!(
            memory::wait_for(PATIENCE, begun)?,
            "chain {n} does not begin"
        );
        let short = nothing(&other)?;
        check_eq!(end(&start(&other, 0, &short)?)?, Ok(()), "beside chain {n}");
        check_eq!(fence_status(fence.as_fd())?, None, "chain {n}");
        let [soft, _, _] = told.counts();
        check!(soft >= n, "{soft} soft stops, and {n} chains");
        board.order(Opcode::SlowJobs, &[0])?;
        check_eq!(end(&fence)?, Ok(()), "chain {n}");
        check!(slow.statuses() == [DONE; JOBS], "chain {n} is not done");
    }
    let [_, hard, resets] = told.counts();
    check_eq!([hard, resets], [0, 0]);
    works(&device)
}

/// Even so, it does not run for ever.
fn slow_chain_limit(gpu: &Gpu) -> Outcome {
    // A minute and a half, of which it may have ten seconds.
    const JOBS: usize = 300;
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    board.order(Opcode::SlowJobs, &[300_000])?;
    let chain = chain_of(&device, JOBS)?;
    let fence = start(&device, 0, &chain)?;
    check_eq!(end(&fence)?, Err(Errno(libc::ECANCELED)));
    let statuses = chain.statuses();
    check_eq!(statuses[0], DONE);
    check_eq!(statuses[JOBS - 1], NOT_STARTED);
    let [_, hard, resets] = told.counts();
    check_eq!([hard, resets], [0, 0]);
    board.order(Opcode::SlowJobs, &[0])?;
    works(&device)
}

/// The module with other parameters, until this is dropped.
pub(in crate::tests) struct Reloaded<'a>(&'a Gpu);

impl<'a> Reloaded<'a> {
    pub(in crate::tests) fn new(gpu: &'a Gpu, parameters: &[&str]) -> Result<Self, Stop> {
        gpu.node.unload()?;
        let this = Self(gpu);
        gpu.node.load(parameters)?;
        Ok(this)
    }
}

impl Drop for Reloaded<'_> {
    fn drop(&mut self) {
        let node = &self.0.node;
        let again = node.unload().map_err(Stop::from);
        if let Err(stop) = again.and_then(|()| Ok(node.load(&[])?)) {
            println!("# the module is not back with its own parameters: {stop:?}");
        }
    }
}

/// A context whose jobs reach that limit one after the other is never closed, as they stop when
/// they are told to.
fn slow_chain_is_no_hang(gpu: &Gpu) -> Outcome {
    // As many as would close it, if they were hangs.
    const CHAINS: usize = 3;
    // Far more than fit into the limit.
    const JOBS: usize = 400;
    let _reloaded = Reloaded::new(gpu, &["job_timeout_ms=1000", "job_limit_ms=1000"])?;
    let board = Board::open()?;
    let device = gpu.open()?;
    board.order(Opcode::SlowJobs, &[100_000])?;
    for _ in 0..CHAINS {
        let chain = chain_of(&device, JOBS)?;
        check_eq!(
            end(&start(&device, 0, &chain)?)?,
            Err(Errno(libc::ECANCELED))
        );
        let statuses = chain.statuses();
        check_eq!(statuses[0], DONE);
        check_eq!(statuses[JOBS - 1], NOT_STARTED);
    }
    board.order(Opcode::SlowJobs, &[0])?;
    works(&device)
}

/// A job has used up its turn and was told to stop, but has not yet done so, when somebody else has
/// the GPU reset. It is given the time to stop, and goes on after the reset.
fn stops_at_reset(gpu: &Gpu) -> Outcome {
    const ROUNDS: usize = 5;
    let board = Board::open()?;
    if !is_g57(&gpu.open()?)? {
        return Err(Stop::Skip("a fault resets the GPU on G57 alone".into()));
    }
    for _ in 0..ROUNDS {
        let (device, other) = (gpu.open()?, gpu.open()?);
        let told = Told::from_now(&board);
        let is_told = |stops| memory::wait_for(PATIENCE, || Ok(told.counts()[0] >= stops));
        board.order(Opcode::HangNextJob, &[1, 1])?;
        let slow = nothing(&device)?;
        let fence = start(&device, 0, &slow)?;
        check!(is_told(1)?, "no soft stop");

        board.order(Opcode::BusFaultNextJob, &[0, 1])?;
        let mut faulty = nothing(&other)?;
        faulty.require(uapi::REQ_FS);
        let fault = start(&other, 0, &faulty)?;
        check!(is_told(2)?, "no soft stop before the reset");
        board.order(Opcode::Release, &[])?;

        check!(end(&fault)?.is_err());
        let ended = end(&fence)?;
        let [_, hard, resets] = told.counts();
        works(&device)?;
        // On a busy host, it may have been told to end before there was a fault.
        if hard == 0 {
            check_eq!(ended, Ok(()));
            check_eq!(slow.statuses(), [DONE]);
            check_eq!(resets, 1);
            return works(&other);
        }
    }
    Err(Stop::fail("the reset was late each time"))
}
