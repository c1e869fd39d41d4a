// SPDX-License-Identifier: GPL-2.0

//! BOs over memory of the process, when what happens seldom happens: the process becomes another
//! program or is killed, the device goes, there is no memory.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use model::control::Opcode;
use model::control::Stat;
use model::control::ANY_SLOT;

use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::device::Device;
use crate::failing::Failing;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Process;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::wait_for;
use crate::sync::fence_status;
use crate::sync::Gate;
use crate::sys;
use crate::sys::Errno;
use crate::tests::recovery::slow::Reloaded;

use super::super::works;
use super::super::PATTERN64;
use super::in_child;
use super::null;
use super::zero_all;
use super::Memory;
use super::PAGE;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("userptr-exec", &["E2"], exec).needs(&[Need::Userptr]),
    Test::new("userptr-unplug", &["C8", "E1"], unplug).needs(&[Need::Userptr, Need::Board]),
    Test::new("userptr-killed-at-once", &["E1"], killed).needs(&[
        Need::Userptr,
        Need::Gate,
        Need::Board,
    ]),
    Test::new("userptr-stuck-mmu", &["C4", "E1"], stuck_mmu)
        .needs(&[Need::Userptr, Need::Board])
        .warns(),
    Test::new("nomem-userptr-create", &["E1", "I4"], no_memory_to_create)
        .needs(&[Need::Userptr, Need::FaultInjection]),
    Test::new("nomem-userptr-submit", &["E1", "I4"], no_memory_to_submit)
        .needs(&[Need::Userptr, Need::FaultInjection]),
];

/// Another program in the same process cannot use the memory of the one before, and can get rid of
/// it.
fn exec(gpu: &Gpu) -> Outcome {
    let status = in_child(|| {
        let device = gpu.open()?;
        let memory = Memory::anonymous(4 * PAGE)?;
        let bo = memory.bo(&device, 0)?;
        zero_all(&device, &[&bo], &[bo.va()])?;
        let fd = device.as_fd().as_raw_fd();
        // SAFETY: changes a flag of our own file: it stays open.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        let error = Command::new("/proc/self/exe")
            .arg("--after-exec")
            .args([fd.to_string(), bo.leak().to_string()])
            .exec();
        Err(error.into())
    })?;
    check_eq!(status, 0);
    null(&gpu.open()?)?;
    Ok(())
}

/// A process that is killed does not wait for its jobs to end by themselves: neither for one that
/// waits for an event, nor for one that hangs.
fn killed(gpu: &Gpu) -> Outcome {
    // The timer does not end the job which hangs.
    let _reloaded = Reloaded::new(gpu, &["job_timeout_ms=600000", "job_limit_ms=600000"])?;
    let board = Board::open()?;
    for hangs in [false, true] {
        // This process keeps them, so it is not because they are closed that the job ends.
        let (device, gate) = (gpu.open()?, Gate::new()?);
        let done = device.syncobj()?;
        // SAFETY: this process has one thread, and the new one kills none but itself.
        let process = unsafe {
            Process::start(|| {
                let memory = Memory::anonymous(8 * PAGE)?;
                let bo = memory.bo(&device, 0)?;
                let mut chain = Chain::new(&device, 4096)?;
                chain.zero(bo.va() + 8);
                chain.submit(&[&bo], &[&gate.syncobj(&device)?], Some(&done))?;
                if hangs {
                    board.order(Opcode::HangNextJob, &[ANY_SLOT, 1])?;
                    let first = board.stat(Stat::AsUpdates);
                    gate.open()?;
                    // It has been given its address space.
                    let begun = || Ok(board.stat(Stat::AsUpdates) != first);
                    check!(wait_for(PATIENCE, begun)?);
                }
                libc::kill(libc::getpid(), libc::SIGKILL);
                Err(Stop::fail("it lives"))
            })?
        };
        process.dies(3 * PATIENCE)?;
        done.wait(PATIENCE)?;
        check_eq!(
            fence_status(done.fence()?.as_fd())?,
            Some(Err(Errno(libc::ECANCELED)))
        );
        null(&gpu.open()?)?;
    }
    Ok(())
}

/// Run by the other program, with the file and the handle that it finds.
pub fn after_exec(fd: i32, handle: u32) -> Outcome {
    // SAFETY: whoever started this has left it open for us.
    let device = Device::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let memory = Memory::anonymous(4 * PAGE)?;
    check_errno!(null(&device), EPERM);
    check_errno!(memory.bo(&device, 0), EPERM);
    device.close_handle(handle)?;
    null(&device)?;
    let bo = memory.bo(&device, 0)?;
    zero_all(&device, &[&bo], &[bo.va()])?;
    check_eq!(memory.get64(0), 0);
    Ok(())
}

/// The device goes while the GPU has the memory, used by a job or not: then it is the process's
/// alone.
fn unplug(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    for busy in [false, true] {
        let device = gpu.open()?;
        let memory = Memory::anonymous(16 * PAGE)?;
        let bo = memory.bo(&device, 0)?;
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(bo.va());
        if busy {
            board.order(Opcode::HangNextJob, &[ANY_SLOT, 1])?;
            chain.submit(&[&bo], &[], None)?;
        } else {
            chain.run(&[&bo])?;
        }
        let away = gpu.node.unbind()?;
        memory.put64(0, PATTERN64);
        board.order(Opcode::ClearAll, &[])?;
        check_errno!(null(&device), ENODEV);
        check_errno!(memory.bo(&device, 0), ENODEV);
        memory.advise(libc::MADV_DONTNEED)?;
        check_eq!(memory.get64(0), 0);
        memory.unmap_part(PAGE, PAGE)?;
        memory.put64(2 * PAGE, PATTERN64);
        drop((bo, chain, device));
        away.give_back()?;
        // The new binding does not know of it.
        null(&gpu.open()?)?;
        check_eq!(memory.get64(2 * PAGE), PATTERN64);
    }
    Ok(())
}

/// Whichever allocation fails, the creation says so, and has cost neither a handle nor an address.
fn no_memory_to_create(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(16 * PAGE)?;
    let first = memory.bo(&device, 0)?;
    let (handle, va) = (first.handle(), first.va());
    first.close()?;
    let failing = Failing::new()?;
    let mut failures = 0;
    for n in 1..1000 {
        // Pages that the process has not touched are brought in.
        memory.advise(libc::MADV_DONTNEED)?;
        let (result, failed) = failing.nth(n, || memory.bo(&device, 0))?;
        match result {
            Ok(bo) if failed => bo.close()?,
            Ok(bo) => {
                check_eq!((bo.handle(), bo.va()), (handle, va));
                check!(failures > 8, "only {failures} allocations could fail");
                zero_all(&device, &[&bo], &[bo.va()])?;
                return Ok(());
            }
            // A page fault that finds no memory is one that fails.
            Err(Errno(libc::ENOMEM | libc::EFAULT)) if failed => failures += 1,
            Err(errno) => return Err(Stop::fail(format!("allocation {n}: {errno}"))),
        }
    }
    Err(Stop::fail("there is no end of allocations"))
}

/// Whichever allocation fails while the memory is brought back, the submit says so, nothing has
/// happened, and the next one works.
fn no_memory_to_submit(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(64 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.zero(bo.va());
    let done = device.syncobj()?;
    let failing = Failing::new()?;
    let mut failures = 0;
    for n in 1..1000 {
        memory.advise(libc::MADV_DONTNEED)?;
        chain.rearm();
        let submit = || -> sys::Result<()> { chain.submit(&[&bo], &[], Some(&done)) };
        let (result, failed) = failing.nth(n, submit)?;
        match result {
            Ok(()) => {
                done.wait(PATIENCE)?;
                check_eq!(chain.statuses(), [DONE]);
            }
            Err(Errno(libc::ENOMEM | libc::EFAULT)) if failed => {
                failures += 1;
                check_eq!(chain.statuses(), [NOT_STARTED]);
                memory.put64(0, PATTERN64);
                chain.run(&[&bo])?;
                check_eq!(memory.get64(0), 0, "after allocation {n}");
            }
            Err(errno) => return Err(Stop::fail(format!("allocation {n}: {errno}"))),
        }
        if !failed {
            check!(failures > 4, "only {failures} allocations could fail");
            return Ok(());
        }
    }
    Err(Stop::fail("there is no end of allocations"))
}

/// The MMU takes no command while user memory goes. The client can use what is there instead as
/// soon as the GPU has been reset.
fn stuck_mmu(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let memory = Memory::anonymous(4 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    zero_all(&device, &[&bo], &[bo.va()])?;
    check_eq!(memory.get64(0), 0);
    board.order(Opcode::StickAsCommand, &[1])?;
    memory.advise(libc::MADV_DONTNEED)?;
    board.order(Opcode::StickAsCommand, &[0])?;
    let usable = || match null(&device) {
        Ok(()) => Ok(true),
        // The MMU may not answer a new mapping either, as long as it was not reset.
        Err(Errno(libc::EIO | libc::ETIMEDOUT)) => Ok(false),
        Err(errno) => Err(errno.into()),
    };
    check!(wait_for(PATIENCE, usable)?, "it stays unusable");
    memory.fill();
    zero_all(&device, &[&bo], &[bo.va() + 8])?;
    check!(memory.get64(0) != 0);
    check_eq!(memory.get64(8), 0);
    works(&device)
}
