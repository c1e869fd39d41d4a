// SPDX-License-Identifier: GPL-2.0

//! Jobs that hang: what is tried on them, and that nobody else notices.
//!
//! The numbers are those of the driver's policy: three hangs close a context, 64 good jobs make up
//! for one.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::time::Instant;

use model::control::Opcode;
use model::control::Stat;
use model::control::NEVER;

use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
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
use crate::sync::fence_status;
use crate::sync::Gate;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

use super::target;
use super::works;

pub(super) mod habits;
pub(super) mod lost;
pub(super) mod meanwhile;
pub(super) mod slow;

/// C panfrost has no smaller means, and cancels what the client has queued behind the job.
const RESETS: &str = "a hung job resets the GPU, and takes those behind it along";
/// C panfrost takes jobs from whoever hangs the GPU.
const NO_POLICY: &str = "hangs have no consequences";

pub(super) const TESTS: &[Test] = &[
    Test::new("recover-soft-stop", &["C4"], soft_stop)
        .needs(&[Need::Board])
        .panfrost_fails(RESETS),
    Test::new("recover-hard-stop", &["C4"], hard_stop)
        .needs(&[Need::Board])
        .panfrost_fails(RESETS),
    Test::new("recover-soft-stop-ignored", &["C4"], soft_stop_ignored)
        .needs(&[Need::Board])
        .panfrost_fails(RESETS),
    Test::new("recover-reset", &["C4"], reset)
        .needs(&[Need::Board])
        .panfrost_fails(RESETS),
    Test::new("recover-reset-begins-anew", &["C4"], begins_anew)
        .needs(&[Need::Board])
        .panfrost_fails("it makes the hardware do jobs again, which that refuses"),
    Test::new("recover-hard-reset", &["C4"], hard_reset)
        .needs(&[Need::Board])
        .warns(),
    Test::new("recover-hangs-close-context", &["C4"], close_context)
        .needs(&[Need::Board, Need::Gate, Need::Minor(5)])
        .panfrost_fails(NO_POLICY),
    Test::new("recover-context-renewed", &["C4", "C11"], context_renewed)
        .needs(&[Need::Board, Need::Minor(5)])
        .panfrost_fails(NO_POLICY),
    Test::new("recover-high-context", &["C11"], high_context)
        .needs(&[Need::Board, Need::Minor(5)])
        .panfrost_fails(RESETS),
    Test::new("recover-hangs-forgiven", &["C4"], forgiven).needs(&[Need::Board]),
    Test::new("recover-fault-storm", &["B5", "C4"], fault_storm)
        .panfrost_fails("behind so many bad jobs, a good one waits for too long"),
];

/// Counts what the GPU was told to do, since a moment.
struct Told<'b> {
    board: &'b Board,
    before: [u32; 3],
}

impl<'b> Told<'b> {
    const STATS: [Stat; 3] = [Stat::SoftStops, Stat::HardStops, Stat::SoftResets];

    fn from_now(board: &'b Board) -> Self {
        let before = Self::STATS.map(|stat| board.stat(stat));
        Self { board, before }
    }

    /// Soft stops that hit a chain, hard stops that did, resets.
    fn counts(&self) -> [u32; 3] {
        let mut counts = Self::STATS.map(|stat| self.board.stat(stat));
        for (count, before) in counts.iter_mut().zip(self.before) {
            *count = count.wrapping_sub(before);
        }
        counts
    }
}

/// Submits a chain; its fence as a sync file.
fn start(device: &Device, context: u32, chain: &Chain) -> Result<OwnedFd, Stop> {
    let done = device.syncobj()?;
    chain.submit_in(context, &[], &[], Some(&done))?;
    Ok(done.fence()?)
}

/// Waits for a fence, and returns how it has signalled.
fn end(fence: &OwnedFd) -> Result<Result<(), Errno>, Stop> {
    check!(
        sys::readable(fence.as_fd(), PATIENCE)?,
        "the fence does not signal"
    );
    fence_status(fence.as_fd())?.ok_or(Stop::fail("the fence is not there"))
}

/// A chain that does nothing, in the vertex-tiler slot.
fn nothing(device: &Device) -> Result<Chain, Stop> {
    let mut chain = Chain::new(device, 4096)?;
    chain.null();
    Ok(chain)
}

/// A chain that never ends, and which a soft stop ends.
fn endless(device: &Device) -> Result<Chain, Stop> {
    let mut chain = Chain::new(device, 4096)?;
    chain.endless();
    Ok(chain)
}

/// Has the next chain of the vertex-tiler slot hang such that no soft stop ends it.
fn hang_next(board: &Board) -> Outcome {
    Ok(board.order(Opcode::HangNextJob, &[1, 1])?)
}

/// Another client with work of its own in the fragment slot, enough to last until a hung job is
/// dealt with.
struct Innocent {
    chains: Vec<(Chain, OwnedFd)>,
    jobs: usize,
    jobs_done: u32,
}

impl Innocent {
    const CHAINS: usize = 10;
    const JOBS: usize = 2;

    /// A quarter of a second for each chain: less than any driver's patience.
    fn new(gpu: &Gpu, board: &Board) -> Result<Self, Stop> {
        Self::with(gpu, board, Self::JOBS, 125_000)
    }

    /// With so many jobs in each chain, which take so many microseconds each.
    fn with(gpu: &Gpu, board: &Board, jobs: usize, us: u32) -> Result<Self, Stop> {
        let device = gpu.open()?;
        let jobs_done = board.stat(Stat::JobsDone);
        board.order(Opcode::SlowJobs, &[us])?;
        let mut chains = Vec::new();
        for _ in 0..Self::CHAINS {
            let mut chain = Chain::new(&device, 4096)?;
            for _ in 0..jobs {
                chain.null();
            }
            chain.require(uapi::REQ_FS);
            let fence = start(&device, 0, &chain)?;
            chains.push((chain, fence));
        }
        Ok(Self {
            chains,
            jobs,
            jobs_done,
        })
    }

    /// All has been done, and the client has seen nothing of what happened to others. Returns how
    /// many jobs it took, together with those of others.
    fn finish(self, board: &Board) -> Result<u32, Stop> {
        for (chain, fence) in &self.chains {
            check_eq!(end(fence)?, Ok(()));
            check_eq!(chain.statuses(), vec![DONE; self.jobs]);
        }
        Ok(board.stat(Stat::JobsDone).wrapping_sub(self.jobs_done))
    }
}

/// The whole work of an innocent client, done once.
const ONCE: u32 = (Innocent::CHAINS * Innocent::JOBS) as u32;

/// A job that runs for too long and obeys is stopped, and that is all.
fn soft_stop(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    let innocent = Innocent::new(gpu, &board)?;
    let chain = endless(&device)?;
    // The job behind it in the slot has to wait, and is no worse off.
    let next = nothing(&device)?;
    let fences = [start(&device, 0, &chain)?, start(&device, 0, &next)?];
    check_eq!(end(&fences[0])?, Err(Errno(libc::ECANCELED)));
    check_eq!(end(&fences[1])?, Ok(()));
    check_eq!(next.statuses(), [DONE]);
    innocent.finish(&board)?;
    // It never ends, but has its turns as long as that is not known.
    let [soft, hard, resets] = told.counts();
    check!(soft >= 1);
    check_eq!([hard, resets], [0, 0]);
    works(&device)
}

/// If it does not obey, it is killed, alone.
fn hard_stop(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    let hard_stops = || debugfs::jobs(gpu, "hard stops among them");
    let before = hard_stops()?;
    let innocent = Innocent::new(gpu, &board)?;
    hang_next(&board)?;
    let chain = nothing(&device)?;
    let next = nothing(&device)?;
    let fences = [start(&device, 0, &chain)?, start(&device, 0, &next)?];
    check_eq!(end(&fences[0])?, Err(Errno(libc::ECANCELED)));
    check_eq!(chain.statuses(), [NOT_STARTED]);
    check_eq!(end(&fences[1])?, Ok(()));
    check_eq!(innocent.finish(&board)?, ONCE + 1);
    // On a busy host an innocent job may be told to stop softly, too.
    let [soft, hard, resets] = told.counts();
    check!(soft >= 1);
    check_eq!([hard, resets], [1, 0]);
    works(&device)?;
    check_eq!(hard_stops()?.wrapping_sub(before), 1);
    Ok(())
}

fn soft_stop_ignored(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    let innocent = Innocent::new(gpu, &board)?;
    board.order(Opcode::IgnoreSoftStop, &[1])?;
    let chain = endless(&device)?;
    check_eq!(
        end(&start(&device, 0, &chain)?)?,
        Err(Errno(libc::ECANCELED))
    );
    innocent.finish(&board)?;
    // On a busy host an innocent job may be told to stop softly, too.
    let [soft, hard, resets] = told.counts();
    check!(soft >= 1);
    check_eq!([hard, resets], [1, 0]);
    works(&device)
}

/// If nothing else helps, the GPU is reset. Chains in other slots are stopped first, and go on
/// where they were: a chain that is not stopped fails, once one of its jobs is done.
fn reset(gpu: &Gpu) -> Outcome {
    // Four seconds in all, in which hardly ever a chain is at its first job.
    const JOBS: usize = 24;
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    let innocent = Innocent::with(gpu, &board, JOBS, 17_000)?;
    hang_next(&board)?;
    board.order(Opcode::IgnoreHardStop, &[1])?;
    let chain = nothing(&device)?;
    let next = nothing(&device)?;
    let fences = [start(&device, 0, &chain)?, start(&device, 0, &next)?];
    check_eq!(end(&fences[0])?, Err(Errno(libc::ECANCELED)));
    board.order(Opcode::SlowJobs, &[0])?;
    check_eq!(end(&fences[1])?, Ok(()));
    // No job was done twice.
    let jobs_done = innocent.finish(&board)? as usize;
    check_eq!(jobs_done, Innocent::CHAINS * JOBS + 1);
    let [_, hard, resets] = told.counts();
    check_eq!([hard, resets], [1, 1]);
    works(&device)
}

/// A chain that cannot be stopped begins anew if it is at its first job, which its client does not
/// notice.
///
/// A job that ends between the driver's last look and the reset would be one that the hardware
/// refuses. So that none does, jobs take longer from the hard stop on, which comes an eighth of a
/// second before the reset: time for a job that has begun before to end.
fn begins_anew(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    let innocent = Innocent::with(gpu, &board, 1, 80_000)?;
    hang_next(&board)?;
    board.order(Opcode::IgnoreSoftStop, &[1])?;
    board.order(Opcode::IgnoreHardStop, &[1])?;
    let chain = nothing(&device)?;
    let fence = start(&device, 0, &chain)?;
    let give_up = Instant::now() + PATIENCE;
    while told.counts()[1] == 0 {
        check!(Instant::now() < give_up, "no hard stop");
        std::thread::sleep(Duration::from_millis(2));
    }
    board.order(Opcode::SlowJobs, &[450_000])?;
    check!(sys::readable(fence.as_fd(), PATIENCE)?);
    board.order(Opcode::SlowJobs, &[0])?;
    check_eq!(chain.statuses(), [NOT_STARTED]);
    // No job was done twice.
    check_eq!(innocent.finish(&board)?, Innocent::CHAINS as u32);
    check_eq!(told.counts()[2], 1);
    works(&device)
}

/// A soft reset does not come to an end, a hard one does.
fn hard_reset(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let innocent = Innocent::new(gpu, &board)?;
    let hard_resets = board.stat(Stat::HardResets);
    hang_next(&board)?;
    board.order(Opcode::IgnoreHardStop, &[1])?;
    board.order(Opcode::DelayReset, &[NEVER, 1])?;
    let chain = nothing(&device)?;
    check_eq!(
        end(&start(&device, 0, &chain)?)?,
        Err(Errno(libc::ECANCELED))
    );
    check!(innocent.finish(&board)? >= ONCE);
    check_eq!(board.stat(Stat::HardResets).wrapping_sub(hard_resets), 1);
    works(&device)
}

/// A number of jobs of a context hang, one after the other.
fn hang(board: &Board, device: &Device, context: u32, times: usize) -> Outcome {
    for _ in 0..times {
        hang_next(board)?;
        let chain = nothing(device)?;
        check_eq!(
            end(&start(device, context, &chain)?)?,
            Err(Errno(libc::ECANCELED))
        );
    }
    Ok(())
}

/// With the third hang a context is closed, and what it has queued is cancelled; other contexts of
/// the file go on, and so does a new one.
fn close_context(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let guilty = device.create_context(uapi::PRIORITY_MEDIUM)?;
    let other = device.create_context(uapi::PRIORITY_MEDIUM)?;
    hang(&board, &device, guilty, 2)?;

    let (bo, map) = target(&device, 4096)?;
    let mut waiting = Chain::new(&device, 4096)?;
    waiting.zero(bo.va());
    waiting.require(uapi::REQ_FS);
    let done = device.syncobj()?;
    waiting.submit_in(guilty, &[&bo], &[&gate.syncobj(&device)?], Some(&done))?;
    let waiting_fence = done.fence()?;
    check_eq!(fence_status(waiting_fence.as_fd())?, None);

    let mut log = KernelLog::from_now();
    hang(&board, &device, guilty, 1)?;
    check_eq!(end(&waiting_fence)?, Err(Errno(libc::ECANCELED)));
    let notice = format!("context {guilty} of process {} ", std::process::id());
    let told = || Ok(log.lines().iter().any(|line| line.contains(&notice)));
    check!(
        memory::wait_for(PATIENCE, told)?,
        "nobody says whose context was closed"
    );
    bo.wait(PATIENCE)?;
    let late = nothing(&device)?;
    let out = device.syncobj()?;
    check_errno!(late.submit_in(guilty, &[], &[], Some(&out)), ECANCELED);
    // It has left no trace.
    check_errno!(out.fence(), EINVAL);
    late.bo().wait_until(0)?;

    check_eq!(end(&start(&device, other, &late)?)?, Ok(()));
    works(&device)?;
    device.destroy_context(guilty)?;
    let fresh = device.create_context(uapi::PRIORITY_MEDIUM)?;
    let chain = nothing(&device)?;
    check_eq!(end(&start(&device, fresh, &chain)?)?, Ok(()));
    gate.open()?;
    check_eq!(waiting.statuses(), [NOT_STARTED]);
    check!(map.get64(0) != 0);
    Ok(())
}

/// A context that was closed is good again after a while: the one that every file begins with,
/// which user space cannot make, and any other, which it does not make anew.
fn context_renewed(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let bystander = gpu.open()?;
    let another = device.create_context(uapi::PRIORITY_MEDIUM)?;
    let chain = nothing(&device)?;
    for context in [0, another] {
        hang(&board, &device, context, 3)?;
        check_errno!(chain.submit_in(context, &[], &[], None), ECANCELED);
    }
    works(&bystander)?;
    works(&gpu.open()?)?;
    check_errno!(device.destroy_context(0), EINVAL);
    for context in [0, another] {
        let give_up = Instant::now() + 3 * PATIENCE;
        while chain.submit_in(context, &[], &[], None) == Err(Errno(libc::ECANCELED)) {
            check!(
                Instant::now() < give_up,
                "context {context} is not made anew"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        let fresh = nothing(&device)?;
        check_eq!(end(&start(&device, context, &fresh)?)?, Ok(()));
    }
    works(&device)
}

/// A context of high priority is not closed, however many of its jobs hang.
fn high_context(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let high = device.create_context(uapi::PRIORITY_HIGH)?;
    hang(&board, &device, high, 4)?;
    let chain = nothing(&device)?;
    check_eq!(end(&start(&device, high, &chain)?)?, Ok(()));
    works(&device)
}

/// A client that hangs the GPU now and then, and does 64 jobs between, is never refused.
fn forgiven(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    for _ in 0..4 {
        hang_next(&board)?;
        let chain = nothing(&device)?;
        check!(sys::readable(start(&device, 0, &chain)?.as_fd(), PATIENCE)?);
        let good = nothing(&device)?;
        for _ in 0..64 {
            good.rearm();
            check_eq!(end(&start(&device, 0, &good)?)?, Ok(()));
        }
    }
    works(&device)
}

/// 4,096 bad jobs, as many as can be queued, and then a good one.
fn fault_storm(gpu: &Gpu) -> Outcome {
    let jobs = if gpu.long { 4096 } else { 512 };
    let device = gpu.open()?;
    let other = gpu.open()?;
    let done = device.syncobj()?;
    for n in 0..jobs {
        // Nothing was ever mapped there.
        device.submit(Job {
            head: 0x8_0000_0000 + 64 * n,
            signal: Some(&done),
            ..Default::default()
        })?;
        if n % 128 == 0 {
            works(&other)?;
        }
    }
    // That is how many can be queued, and each takes its time.
    done.wait(10 * PATIENCE)?;
    works(&device)?;
    works(&other)
}
