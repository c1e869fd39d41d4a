// SPDX-License-Identifier: GPL-2.0

//! User memory that nobody wants any more while other memory of the process changes, and that
//! change waits for a job.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::bo::Bo;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::debugfs;
use crate::harness;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Process;
use crate::harness::Stop;
use crate::harness::Test;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

use super::super::target;
use super::super::works;
use super::super::PATTERN64;
use super::change::while_changing;
use super::null;
use super::zero_all;
use super::Memory;
use super::Waiting;
use super::PAGE;
use super::USERPTR_GATE;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("userptr-change-holds-up-nobody", &["A2", "E1"], drops).needs(USERPTR_GATE),
    Test::new("userptr-change-unplug", &["C8", "E1"], unplug).needs(USERPTR_GATE),
    Test::new("userptr-unload", &["C8", "E1"], unload).needs(USERPTR_GATE),
];

/// The label of a BO that a job has the last reference to.
const OF_A_JOB: &str = "goes with its job";
/// The label of a BO of another client.
const OF_OTHERS: &str = "of another client";

/// A change of all of the memory.
fn drop_pages(memory: &Memory) -> impl FnOnce() -> Result<(), Errno> + Send + use<'_> {
    || memory.advise(libc::MADV_DONTNEED)
}

/// The client whose memory changes is not held up by what it closes, and neither is the worker that
/// drops jobs, nor another client who closes what a job had.
fn drops(gpu: &Gpu) -> Outcome {
    let (mut ready, tell_ready) = harness::pipe()?;
    let (wait_go, mut go) = harness::pipe()?;
    let run = || changing_client(gpu, &tell_ready, &wait_go);
    // SAFETY: this process has one thread.
    let client = unsafe { Process::start(run)? };
    drop((tell_ready, wait_go));

    let others = (|| {
        check!(sys::readable(ready.as_fd(), 3 * PATIENCE)?, "no answer");
        // Otherwise the client says what has happened.
        if ready.read_exact(&mut [0]).is_err() {
            return Ok(());
        }
        let device = gpu.open()?;
        let (bo, map) = target(&device, PAGE)?;
        bo.label(OF_OTHERS)?;
        zero_all(&device, &[&bo], &[bo.va()])?;
        check_eq!(map.get64(0), 0);
        drop(map);
        bo.close()?;
        let gems = debugfs::file(gpu, "gems");
        let end = Instant::now() + PATIENCE;
        loop {
            let gems = fs::read_to_string(&gems)?;
            if gems.contains("total: ") && !gems.contains(OF_A_JOB) && !gems.contains(OF_OTHERS) {
                return Ok(());
            }
            check!(Instant::now() < end, "somebody is held up:\n{gems}");
            thread::sleep(Duration::from_millis(1));
        }
    })();
    let _ = go.write_all(b"x");
    let client = client.finish(3 * PATIENCE);
    others.and(client)
}

fn changing_client(gpu: &Gpu, mut ready: &fs::File, mut go: &fs::File) -> Outcome {
    let device = gpu.open()?;
    let ends = Waiting::new(&device, 0, true)?;
    let stays = Waiting::new(&device, 0, true)?;
    let memory = Memory::anonymous(4 * PAGE)?;
    let unused = memory.bo(&device, 0)?;
    let va = unused.va();
    ends.bo.label(OF_A_JOB)?;
    ends.bo.close()?;

    let mut next = None;
    while_changing(&stays.gate, drop_pages(&stays.memory), |waits| {
        unused.close()?;
        check!(waits(), "closing a BO waits for the change");
        // Its addresses have another use at once.
        next = Some(device.create(4 * PAGE, uapi::BO_NOEXEC)?);
        check!(waits(), "the change keeps the addresses");
        ends.gate.open()?;
        ends.out.wait(PATIENCE)?;
        ready.write_all(b"x")?;
        go.read_exact(&mut [0])?;
        check!(waits(), "others wait for the change");
        stays.gate.open()?;
        Ok(())
    })?;
    stays.out.wait(PATIENCE)?;
    check_eq!(stays.chain.statuses(), [DONE]);
    check_eq!(ends.chain.statuses(), [DONE]);
    check_eq!(ends.memory.get64(0), 0);

    // The GPU has nothing of what was there before.
    let next = next.ok_or_else(|| Stop::fail("no BO"))?;
    check_eq!(next.va(), va);
    let map = next.map()?;
    map.put64(0, PATTERN64);
    zero_all(&device, &[&next], &[va])?;
    check_eq!(map.get64(0), 0);
    check_eq!(memory.get64(0), PATTERN64);
    Ok(())
}

/// The device goes while memory changes and other memory has not left completely.
fn unplug(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(16 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    let kept = memory.bo(&device, 0)?;
    zero_all(&device, &[&kept], &[kept.va()])?;
    let stays = Waiting::new(&device, 0, true)?;
    let mut away = None;
    while_changing(&stays.gate, drop_pages(&stays.memory), |_| {
        bo.close()?;
        away = Some(gpu.node.unbind()?);
        Ok(())
    })?;
    check_errno!(null(&device), ENODEV);
    check_errno!(memory.bo(&device, 0), ENODEV);
    memory.put64(0, PATTERN64);
    drop((stays, kept, device));
    if let Some(away) = away {
        away.give_back()?;
    }
    works(&gpu.open()?)?;
    check_eq!(memory.get64(0), PATTERN64);
    Ok(())
}

/// The module goes right after the last file, of which not everything may have left.
fn unload(gpu: &Gpu) -> Outcome {
    for _ in 0..3 {
        let device = gpu.open()?;
        let Waiting {
            gate,
            memory,
            bo,
            chain,
            out,
        } = Waiting::new(&device, 0, true)?;
        let other = Memory::anonymous(4 * PAGE)?;
        let others: Result<Vec<Bo>, Errno> = (0..16).map(|_| other.bo(&device, 0)).collect();
        let others = others?;
        while_changing(&gate, drop_pages(&memory), |_| {
            for bo in others {
                bo.close()?;
            }
            // The job ends with its file, and then the change does.
            drop((bo, chain, out, device));
            Ok(gpu.node.unload()?)
        })?;
        drop(gate);
        gpu.node.load(&[])?;
        works(&gpu.open()?)?;
    }
    Ok(())
}
