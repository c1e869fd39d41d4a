// SPDX-License-Identifier: GPL-2.0

//! The traces of jobs in the kernel's log, and `jobs` in debugfs.

use std::fs;
use std::os::fd::AsFd;
use std::process;
use std::thread;
use std::time::Duration;

use model::control::Opcode;

use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
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
use crate::sys;
use crate::trace::Trace;

use super::works;

/// C panfrost has lines of its own.
const OTHER_WORDS: &str = "it says it in other words";

pub(super) const TESTS: &[Test] = &[
    Test::new("log-names-the-job", &["B5", "C4"], names_the_job)
        .needs(&[Need::Board])
        .panfrost_fails(OTHER_WORDS),
    Test::new("log-limit-per-file", &["B5", "C4"], limit_per_file)
        .needs(&[Need::Board])
        .panfrost_fails(OTHER_WORDS),
    Test::new("debugfs-jobs", &["C2", "C4"], debugfs_jobs)
        .needs(&[Need::Board, Need::Gate])
        .panfrost_fails("it has no such file"),
    Test::new("work-hogs-no-processor", &["A2"], hogs_no_processor)
        .panfrost_fails("its work has other names"),
];

/// How the log and debugfs name this process.
fn this_process() -> Result<String, Stop> {
    let name = fs::read_to_string("/proc/self/comm")?;
    Ok(format!("process {} ({})", process::id(), name.trim()))
}

/// Hangs the vertex-tiler slot with a job that no soft stop ends, until its fence signals.
fn hang(board: &Board, device: &Device) -> Result<Chain, Stop> {
    board.order(Opcode::HangNextJob, &[1, 1])?;
    let mut chain = Chain::new(device, 4096)?;
    chain.null();
    let done = device.syncobj()?;
    chain.submit(&[], &[], Some(&done))?;
    check!(sys::readable(done.fence()?.as_fd(), PATIENCE)?);
    Ok(chain)
}

/// Waits for a line that has all of these in it.
pub(super) fn logged(log: &mut KernelLog, parts: &[&str]) -> Outcome {
    let mut lines = Vec::new();
    let found = memory::wait_for(PATIENCE, || {
        lines.extend(log.lines());
        Ok(lines
            .iter()
            .any(|line| parts.iter().all(|part| line.contains(part))))
    })?;
    check!(found, "no line with {parts:?} in {lines:#?}");
    Ok(())
}

/// An access outside of all BOs.
fn fault(device: &Device, n: u64) -> Outcome {
    let done = device.syncobj()?;
    device.submit(Job {
        head: 0x8_0000_0000 + 64 * n,
        signal: Some(&done),
        ..Default::default()
    })?;
    Ok(done.wait(PATIENCE)?)
}

/// A hang, by which means it was ended, and whose job it was.
fn names_the_job(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    for stop in ["soft stop", "hard stop"] {
        let mut log = KernelLog::from_now();
        let chain = hang(&board, &device)?;
        let chain = format!("chain {:#x},", chain.head());
        let process = this_process()?;
        let parts = [
            stop,
            "slot vertex-tiler",
            "ACTIVE",
            &chain,
            "context 0",
            &process,
        ];
        logged(&mut log, &parts)?;
    }
    let mut log = KernelLog::from_now();
    fault(&device, 0)?;
    logged(
        &mut log,
        &["slot vertex-tiler", "chain 0x800000000", &this_process()?],
    )?;
    works(&device)
}

/// The faults of a client do not hide the hang of another, whether it makes them in one file or in
/// many, and what is left out is told.
fn limit_per_file(gpu: &Gpu) -> Outcome {
    const FILES: usize = 12;
    const FAULTS: u64 = 12;
    let board = Board::open()?;
    let devices: Vec<_> = (0..FILES).map(|_| gpu.open()).collect::<Result<_, _>>()?;
    let other = gpu.open()?;
    let mut log = KernelLog::from_now();
    for device in &devices {
        for n in 0..FAULTS {
            fault(device, n)?;
        }
    }
    // A reset that a fault has asked for may come as late as this. Then the chain begins anew, and
    // does not hang.
    let mut chain = hang(&board, &other)?;
    for _ in 0..4 {
        if chain.statuses() != [DONE] {
            break;
        }
        chain = hang(&board, &other)?;
    }
    let chain = format!("chain {:#x},", chain.head());
    logged(&mut log, &["hard stop", &chain])?;
    // Silence ends after five seconds.
    thread::sleep(Duration::from_secs(6));
    fault(&devices[0], FAULTS)?;
    logged(&mut log, &["suppressed"])
}

/// Which jobs run, and what the others wait for.
fn debugfs_jobs(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let jobs = || fs::read_to_string(debugfs::file(gpu, "jobs"));
    let done = device.syncobj()?;
    board.order(Opcode::HangNextJob, &[1, 1])?;
    let mut chains = Vec::new();
    for wait in [None, Some(gate.syncobj(&device)?)] {
        let mut chain = Chain::new(&device, 4096)?;
        chain.null();
        let wait: Vec<_> = wait.iter().collect();
        chain.submit(&[], &wait, Some(&done))?;
        chains.push(chain);
    }
    let text = jobs()?;
    let of = |chain: &Chain| {
        let chain = format!("chain {:#x},", chain.head());
        text.lines()
            .find(|line| line.contains(&chain))
            .unwrap_or("")
    };
    let process = this_process()?;
    check!(of(&chains[0]).starts_with("runs"), "{text}");
    check!(of(&chains[1]).starts_with("waits for fence "), "{text}");
    check!(of(&chains[0]).contains(&process), "{text}");
    gate.open()?;
    board.order(Opcode::Release, &[])?;
    done.wait(PATIENCE)?;
    check!(memory::wait_for(PATIENCE, || Ok(
        jobs()?.contains("jobs: 0\n")
    ))?);
    works(&device)
}

/// Dropping the jobs that have ended takes as long as clients make it take. So it is not queued to
/// one processor, where it would keep other work waiting.
fn hogs_no_processor(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let trace = Trace::of(&["workqueue/workqueue_queue_work"])?;
    for _ in 0..4 {
        works(&device)?;
    }
    let mut queues: Vec<String> = Vec::new();
    let seen = memory::wait_for(PATIENCE, || {
        queues = trace
            .events()?
            .iter()
            .filter(|event| event.text.contains("[drm_gpu]"))
            .filter_map(|event| {
                let (_, rest) = event.text.split_once("workqueue=")?;
                Some(rest.split_whitespace().next()?.to_owned())
            })
            .collect();
        Ok(queues.iter().any(|queue| queue == "events_unbound"))
    })?;
    check!(seen, "no ended job was dropped: {queues:?}");
    check!(
        queues.iter().all(|queue| queue != "events"),
        "work is queued to one processor: {queues:?}"
    );
    Ok(())
}
