// SPDX-License-Identifier: GPL-2.0

//! Every allocation of every ioctl fails once: ENOMEM, and nothing has happened.
//!
//! Memory that is lost on the way shows in kmemleak's report at the end of the run; losses of the
//! client (handles, addresses) are checked here.

use std::os::fd::AsFd;
use std::time::Duration;

use model::control::Opcode;

use crate::bo;
use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::debugfs;
use crate::device::Job;
use crate::dmabuf;
use crate::failing::Failing;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::Gate;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

use super::target;
use super::works;

const PEER: &str = "it is not what is looked for faults in";

pub(super) const TESTS: &[Test] = &[
    Test::new("nomem-create", &["I4"], create)
        .needs(&[Need::FaultInjection])
        .not_on_panfrost(PEER),
    Test::new("nomem-submit", &["C3", "I4"], submit)
        .needs(&[Need::FaultInjection, Need::Gate])
        .not_on_panfrost(PEER),
    Test::new("nomem-wait", &["I4"], wait)
        .needs(&[Need::FaultInjection, Need::Gate])
        .not_on_panfrost(PEER),
    Test::new("nomem-other", &["I4"], other)
        .needs(&[Need::FaultInjection])
        .not_on_panfrost(PEER),
    Test::new("nomem-prime", &["A1", "I4"], prime)
        .needs(&[Need::FaultInjection, Need::Card])
        .not_on_panfrost(PEER),
    Test::new("nomem-open-close", &["I4"], open_close)
        .needs(&[Need::FaultInjection])
        .not_on_panfrost(PEER),
    Test::new("nomem-stuck-mmu", &["I4"], stuck_mmu)
        .needs(&[Need::FaultInjection, Need::Board])
        .warns()
        .not_on_panfrost(PEER),
];

/// Calls with the first allocation failing, then the second, until there are no more, and returns
/// what the last call made. A call that can do without the memory may succeed; `undo` gets what it
/// made.
fn each<T>(
    what: &str,
    mut call: impl FnMut() -> sys::Result<T>,
    mut undo: impl FnMut(T) -> Outcome,
) -> Result<T, Stop> {
    const MOST: u32 = 2000;
    let failing = Failing::new()?;
    let mut failures = 0;
    for n in 1..=MOST {
        match failing.nth(n, &mut call)? {
            (Ok(made), true) => undo(made)?,
            // ENOSPC is what shmem says when there is no memory for an inode.
            (Err(Errno(libc::ENOMEM | libc::ENOSPC)), true) => failures += 1,
            (Err(errno), true) => {
                return Err(Stop::fail(format!("{what}: allocation {n}: {errno}")))
            }
            (Ok(made), false) => {
                println!("# {what}: {failures} of {} allocations", n - 1);
                return Ok(made);
            }
            (Err(errno), false) => {
                return Err(Stop::fail(format!("{what} fails by itself: {errno}")))
            }
        }
    }
    Err(Stop::fail(format!("{what}: {MOST} allocations")))
}

fn nothing<T>(_: T) -> Outcome {
    Ok(())
}

/// A failed creation costs neither a handle nor an address.
fn create(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for (what, size, flags) in [
        ("create", 4096, uapi::BO_NOEXEC),
        ("create executable", 4096, 0),
        ("create 64 KiB", 64 << 10, uapi::BO_NOEXEC),
        ("create 4 MiB", 4 << 20, uapi::BO_NOEXEC),
        ("create heap", 16 << 20, uapi::BO_NOEXEC | uapi::BO_HEAP),
    ] {
        let first = device.create(size, flags)?;
        let (handle, va) = (first.handle(), first.va());
        first.close()?;
        let bo = each(what, || device.create(size, flags), nothing)?;
        check_eq!((bo.handle(), bo.va()), (handle, va), "{what}");
    }
    works(&device)
}

/// A failed submit has published nothing.
fn submit(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let mut bos = vec![device.create(16 << 20, uapi::BO_NOEXEC | uapi::BO_HEAP)?];
    for _ in 0..8 {
        bos.push(device.create(4096, uapi::BO_NOEXEC)?);
    }
    let dmabuf = bos[1].export()?;
    let failing = Failing::new()?;
    let mut failures = 0;
    for n in 1.. {
        let gate = Gate::new()?;
        let wait = gate.syncobj(&device)?;
        let out = device.syncobj()?;
        // Somebody else's fence on one of them.
        dmabuf::import_sync_file(dmabuf.as_fd(), uapi::DMA_BUF_SYNC_READ, gate.fence())?;
        let mut chain = Chain::new(&device, 4096)?;
        chain.null();
        let list: Vec<&Bo> = [chain.bo()].into_iter().chain(&bos).collect();
        let job = Job {
            head: chain.head(),
            bos: &list,
            wait: &[&wait],
            signal: Some(&out),
            ..Default::default()
        };
        let (result, failed) = failing.nth(n, || device.submit(job))?;
        match result {
            Err(Errno(libc::ENOMEM)) if failed => {
                failures += 1;
                check_errno!(out.fence(), EINVAL);
                bos[2].wait_until(0)?;
                gate.open()?;
                check_eq!(chain.statuses(), [NOT_STARTED], "allocation {n}");
            }
            // It could do without, or there was nothing to fail.
            Ok(()) => {
                check_errno!(bos[2].wait_until(0), EBUSY);
                gate.open()?;
                out.wait(PATIENCE)?;
                check_eq!(chain.statuses(), [DONE]);
                if !failed {
                    check!(failures > 8, "only {failures} allocations could fail");
                    break;
                }
            }
            Err(errno) => return Err(Stop::fail(format!("allocation {n}: {errno}"))),
        }
    }
    works(&device)
}

fn wait(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    each("wait, idle", || bo.wait_until(0), nothing)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], None)?;
    let busy = || match bo.wait(Duration::from_millis(1)) {
        Err(Errno(libc::ETIMEDOUT)) => Ok(()),
        Ok(()) => Err(Errno(libc::EIO)),
        other => other,
    };
    each("wait, busy", busy, nothing)?;
    gate.open()?;
    bo.wait(PATIENCE)?;
    Ok(())
}

fn other(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(64 << 10, uapi::BO_NOEXEC)?;
    each("get-param", || device.param(uapi::PARAM_PROD_ID), nothing)?;
    each(
        "mmap offset",
        || bo::mmap_offset(&device, bo.handle()),
        nothing,
    )?;
    each("offset", || bo::offset(&device, bo.handle()), nothing)?;
    each("madvise", || bo.madvise(uapi::MADV_DONTNEED), nothing)?;
    each("madvise", || bo.madvise(uapi::MADV_WILLNEED), nothing)?;
    each("label", || bo.label("one"), nothing)?;
    each("label again", || bo.label("another, longer"), nothing)?;
    each("set metadata", || bo.set_metadata(&[1; 128]), nothing)?;
    each("set them again", || bo.set_metadata(&[2; 64]), nothing)?;
    each("metadata", || bo.metadata_size(), nothing)?;

    let drop_context = |handle| Ok(device.destroy_context(handle)?);
    let first = device.create_context(1)?;
    device.destroy_context(first)?;
    let context = each("context", || device.create_context(1), drop_context)?;
    check_eq!(context, first, "a failure has cost a handle");
    each(
        "destroy context",
        || device.destroy_context(context),
        nothing,
    )?;

    // Closing cannot fail.
    let failing = Failing::new()?;
    for n in 1..16 {
        let bo = device.create(64 << 10, uapi::BO_NOEXEC)?;
        let (result, _) = failing.nth(n, || bo.close())?;
        check_eq!(result, Ok(()), "close, allocation {n}");
    }
    works(&device)
}

fn prime(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let second = gpu.open()?;
    let Some((foreign, size)) = dmabuf::foreign(64, 64)? else {
        return Err(Stop::Skip("no second card".into()));
    };
    let bo = device.create(64 << 10, uapi::BO_NOEXEC)?;
    let dmabuf = each("export", || bo.export(), nothing)?;
    let own = each(
        "import of its own",
        || Bo::import(&second, dmabuf.as_fd(), bo.size()),
        nothing,
    )?;
    let bo = each(
        "import",
        || Bo::import(&second, foreign.as_fd(), size),
        nothing,
    )?;
    check!(bo.handle() != own.handle());
    let mut chain = Chain::new(&second, 4096)?;
    chain.zero(bo.va());
    chain.zero(own.va());
    chain.run(&[&bo, &own])?;
    check_eq!(chain.statuses(), [DONE; 2]);
    Ok(())
}

fn open_close(gpu: &Gpu) -> Outcome {
    let device = each("open", || gpu.node.open(), nothing)?;
    let failing = Failing::new()?;
    works(&device)?;
    drop(device);
    // Closing a file cannot fail either, nor lose what is in it.
    for n in 1..24 {
        let device = gpu.open()?;
        device.create(64 << 10, uapi::BO_NOEXEC)?.leak();
        works(&device)?;
        failing.nth(n, || drop(device))?;
    }
    works(&gpu.open()?)
}

/// The MMU takes no command while a file is closed, so that its memory has to stay until the GPU
/// has been reset. It is not lost for lack of other memory.
fn stuck_mmu(gpu: &Gpu) -> Outcome {
    const SIZE: usize = 1 << 20;
    let resident = || debugfs::sum(gpu, "resident");
    let board = Board::open()?;
    let failing = Failing::new()?;
    let before = resident()?;
    for n in 1..9 {
        let device = gpu.open()?;
        let (bo, map) = target(&device, SIZE)?;
        works(&device)?;
        bo.leak();
        drop(map);
        board.order(Opcode::StickAsCommand, &[1])?;
        failing.nth(n, || drop(device))?;
        board.order(Opcode::StickAsCommand, &[0])?;
    }
    let freed = || Ok(resident()? < before + SIZE);
    check!(
        memory::wait_for(PATIENCE, freed)?,
        "{before} bytes have become {}",
        resident()?
    );
    works(&gpu.open()?)
}
