// SPDX-License-Identifier: GPL-2.0

//! Waiting for each other: syncobjs, the BOs' own fences, sync files, WAIT_BO.

use std::os::fd::AsFd;
use std::time::Duration;

use model::desc::BlockFormat;

use crate::bo;
use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::device::Device;
use crate::dmabuf;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::pixels::Layout;
use crate::pixels::FORMATS;
use crate::sync;
use crate::sync::Gate;
use crate::sync::Syncobj;
use crate::sys;
use crate::uapi;

use super::file_stays_pending;
use super::render::clear_frame;
use super::stays_pending;
use super::target;
use super::works;

pub(super) const TESTS: &[Test] = &[
    Test::new("sync-out", &["C1"], out),
    Test::new("sync-out-sync-file", &["C1"], out_sync_file),
    Test::new("sync-out-replaced", &["C1"], replaced).needs(&[Need::Gate]),
    Test::new("sync-in", &["C1"], wait_in).needs(&[Need::Gate]),
    Test::new("sync-in-several", &["C1"], several).needs(&[Need::Gate]),
    Test::new("sync-in-merged", &["C1", "C5"], merged)
        .needs(&[Need::Gate])
        .panfrost_fails("its jobs wait for a merged fence as a whole, so it needs no limit"),
    Test::new("sync-in-signalled", &["C1"], signalled),
    Test::new("sync-in-and-out-same", &["C1"], same).needs(&[Need::Gate]),
    Test::new("sync-chain-of-syncobjs", &["C1"], chained).needs(&[Need::Gate]),
    Test::new("sync-implicit", &["C1"], implicit).needs(&[Need::Gate]),
    Test::new("sync-implicit-across-files", &["A1", "C1"], across_files).needs(&[Need::Gate]),
    Test::new("sync-implicit-other-bo", &["C1"], other_bo).needs(&[Need::Gate]),
    Test::new("sync-file-export", &["C1"], export).needs(&[Need::Gate]),
    Test::new("sync-file-import", &["C1"], import).needs(&[Need::Gate]),
    Test::new("wait-idle", &["C1"], wait_idle),
    Test::new("wait-busy", &["C1"], wait_busy).needs(&[Need::Gate]),
    Test::new("wait-reader", &["C1"], wait_reader).needs(&[Need::Gate]),
    Test::new("wait-bad", &["C5"], wait_bad),
];

fn out(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    let done = device.syncobj()?;
    check_errno!(done.wait(Duration::ZERO), EINVAL);
    chain.submit(&[], &[], Some(&done))?;
    done.wait(PATIENCE)?;
    check!(done.signalled()?);
    check_eq!(chain.statuses(), [DONE]);
    Ok(())
}

fn out_sync_file(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    let done = device.syncobj()?;
    chain.submit(&[], &[], Some(&done))?;
    let file = done.fence()?;
    drop(done);
    check!(sys::readable(file.as_fd(), PATIENCE)?);
    check_eq!(chain.statuses(), [DONE]);
    // The fence outlives the file that the job was submitted through.
    drop(chain);
    drop(device);
    check!(sys::readable(file.as_fd(), Duration::ZERO)?);
    Ok(())
}

fn replaced(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let done = gate.syncobj(&device)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    chain.submit(&[], &[], Some(&done))?;
    // The gate is closed, but it is not what the syncobj holds any more.
    done.wait(PATIENCE)?;
    Ok(())
}

fn wait_in(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 4096)?;
    let gate = Gate::new()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.zero(bo.va());
    let done = device.syncobj()?;
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], Some(&done))?;
    check!(stays_pending(&done)?);
    check_eq!(chain.statuses(), [NOT_STARTED]);
    check!(map.get64(0) != 0);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    Ok(())
}

fn several(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gates = [Gate::new()?, Gate::new()?, Gate::new()?];
    let mut syncs = Vec::new();
    for gate in &gates {
        syncs.push(gate.syncobj(&device)?);
    }
    // One twice.
    let wait = [&syncs[0], &syncs[1], &syncs[0], &syncs[2]];
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    let done = device.syncobj()?;
    chain.submit(&[], &wait, Some(&done))?;
    for gate in [&gates[2], &gates[0], &gates[1]] {
        check!(stays_pending(&done)?);
        check_eq!(chain.statuses(), [NOT_STARTED]);
        gate.open()?;
    }
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    Ok(())
}

/// Makes some gates, and a syncobj that stands for all of their fences.
fn merge_gates(device: &Device) -> Result<(Vec<Gate>, Syncobj), Stop> {
    let mut gates = vec![Gate::new()?];
    let mut all = gates[0].fence().try_clone_to_owned()?;
    while gates.len() < 9 {
        let gate = Gate::new()?;
        all = sync::merge(all.as_fd(), gate.fence())?;
        gates.push(gate);
    }
    let sync = Syncobj::with_fence(device, all.as_fd())?;
    Ok((gates, sync))
}

/// A job waits for all fences of a merged one. A client cannot keep the kernel busy by listing one
/// over and over.
fn merged(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (gates, wait) = merge_gates(&device)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    let done = device.syncobj()?;

    chain.submit(&[], &[&wait; 100], Some(&done))?;
    for gate in &gates {
        check!(stays_pending(&done)?);
        gate.open()?;
    }
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);

    let (_gates, wait) = merge_gates(&device)?;
    check_errno!(chain.submit(&[], &vec![&wait; 1 << 16], None), ENOMEM);
    works(&device)
}

fn signalled(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    let ready = Syncobj::create(&device, uapi::SYNCOBJ_CREATE_SIGNALED)?;
    let done = device.syncobj()?;
    chain.submit(&[], &[&ready], Some(&done))?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    Ok(())
}

/// The fence to wait for is taken before it is replaced.
fn same(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let sync = gate.syncobj(&device)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    chain.submit(&[], &[&sync], Some(&sync))?;
    check!(stays_pending(&sync)?);
    gate.open()?;
    sync.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    Ok(())
}

/// Chains on both slots in turn, each waiting for the one before through one syncobj.
fn chained(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let sync = gate.syncobj(&device)?;
    let mut chains = Vec::new();
    for n in 0..10 {
        let mut chain = Chain::new(&device, 4096)?;
        chain.null();
        chain.require(if n % 2 == 0 { uapi::REQ_FS } else { 0 });
        chain.submit(&[], &[&sync], Some(&sync))?;
        chains.push(chain);
    }
    check!(stays_pending(&sync)?);
    for chain in &chains {
        check_eq!(chain.statuses(), [NOT_STARTED]);
    }
    gate.open()?;
    sync.wait(PATIENCE)?;
    for chain in &chains {
        check_eq!(chain.statuses(), [DONE]);
    }
    Ok(())
}

/// A clear of a small surface, for the fragment slot.
fn clear(device: &crate::device::Device, bo: &Bo) -> crate::sys::Result<Chain> {
    let layout = Layout {
        width: 16,
        height: 16,
        bytes: 4,
        block: BlockFormat::Linear,
    };
    let mut chain = Chain::new(device, 4096)?;
    chain.fragment(&clear_frame(
        &FORMATS[0],
        &layout,
        bo.va(),
        [0x1234_5678; 4],
    ));
    Ok(chain)
}

/// Two jobs on different slots that share a BO run in the order of their submits.
fn implicit(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 4096)?;
    let gate = Gate::new()?;
    let mut first = Chain::new(&device, 4096)?;
    first.zero(bo.va());
    first.submit(&[&bo], &[&gate.syncobj(&device)?], None)?;
    let second = clear(&device, &bo)?;
    let done = device.syncobj()?;
    second.submit(&[&bo], &[], Some(&done))?;
    check!(stays_pending(&done)?);
    check_eq!(second.statuses(), [NOT_STARTED]);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(first.statuses(), [DONE]);
    check_eq!(second.statuses(), [DONE]);
    check_eq!(map.get32(0), 0x1234_5678);
    Ok(())
}

fn across_files(gpu: &Gpu) -> Outcome {
    let first = gpu.open()?;
    let second = gpu.open()?;
    let (bo, map) = target(&first, 4096)?;
    let shared = Bo::import(&second, bo.export()?.as_fd(), 4096)?;
    let gate = Gate::new()?;
    let mut writer = Chain::new(&first, 4096)?;
    writer.zero(bo.va());
    writer.submit(&[&bo], &[&gate.syncobj(&first)?], None)?;
    let reader = clear(&second, &shared)?;
    let done = second.syncobj()?;
    reader.submit(&[&shared], &[], Some(&done))?;
    check!(stays_pending(&done)?);
    check_errno!(shared.wait_until(0), EBUSY);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(map.get32(0), 0x1234_5678);
    Ok(())
}

/// A job that shares no BO and is on another slot does not wait.
fn other_bo(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, _map) = target(&device, 4096)?;
    let (other, map) = target(&device, 4096)?;
    let gate = Gate::new()?;
    let mut first = Chain::new(&device, 4096)?;
    first.zero(bo.va());
    first.submit(&[&bo], &[&gate.syncobj(&device)?], None)?;
    let second = clear(&device, &other)?;
    let done = device.syncobj()?;
    second.submit(&[&other], &[], Some(&done))?;
    done.wait(PATIENCE)?;
    check_eq!(map.get32(0), 0x1234_5678);
    check_eq!(first.statuses(), [NOT_STARTED]);
    gate.open()?;
    bo.wait(PATIENCE)?;
    check_eq!(first.statuses(), [DONE]);
    Ok(())
}

/// A dma-buf tells others of the job that writes to it.
fn export(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, _map) = target(&device, 4096)?;
    let dmabuf = bo.export()?;
    for flags in [uapi::DMA_BUF_SYNC_READ, uapi::DMA_BUF_SYNC_WRITE] {
        let idle = dmabuf::export_sync_file(dmabuf.as_fd(), flags)?;
        check!(sys::readable(idle.as_fd(), Duration::ZERO)?, "idle {flags}");
    }
    let gate = Gate::new()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.zero(bo.va());
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], None)?;
    let reader = dmabuf::export_sync_file(dmabuf.as_fd(), uapi::DMA_BUF_SYNC_READ)?;
    let writer = dmabuf::export_sync_file(dmabuf.as_fd(), uapi::DMA_BUF_SYNC_WRITE)?;
    check!(file_stays_pending(reader.as_fd())?);
    check!(file_stays_pending(writer.as_fd())?);
    gate.open()?;
    check!(sys::readable(reader.as_fd(), PATIENCE)?);
    check!(sys::readable(writer.as_fd(), PATIENCE)?);
    check_eq!(chain.statuses(), [DONE]);
    Ok(())
}

/// A job waits for what others have told a dma-buf, be it writing or reading, since every job may
/// write.
fn import(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for flags in [uapi::DMA_BUF_SYNC_WRITE, uapi::DMA_BUF_SYNC_READ] {
        let (bo, map) = target(&device, 4096)?;
        let dmabuf = bo.export()?;
        let gate = Gate::new()?;
        dmabuf::import_sync_file(dmabuf.as_fd(), flags, gate.fence())?;
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(bo.va());
        let done = device.syncobj()?;
        chain.submit(&[&bo], &[], Some(&done))?;
        check!(stays_pending(&done)?, "flags {flags}");
        check_eq!(chain.statuses(), [NOT_STARTED]);
        gate.open()?;
        done.wait(PATIENCE)?;
        check_eq!(map.get64(0), 0);
    }
    Ok(())
}

fn wait_idle(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    bo.wait_until(0)?;
    bo.wait_until(i64::MAX)?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    chain.submit(&[&bo], &[], None)?;
    bo.wait_until(i64::MAX)?;
    check_eq!(chain.statuses(), [DONE]);
    bo.wait_until(0)?;
    Ok(())
}

fn wait_busy(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    let gate = Gate::new()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], None)?;
    // Asking only; a time that has passed is the same.
    check_errno!(bo.wait_until(0), EBUSY);
    check_errno!(bo.wait_until(1), EBUSY);
    check_errno!(bo.wait_until(-1), EBUSY);
    let start = sys::now_ns();
    let timeout = Duration::from_millis(200);
    check_errno!(bo.wait(timeout), ETIMEDOUT);
    let waited = sys::now_ns() - start;
    // Ticks that come late to a busy machine make up for it with the next.
    check!(waited >= 100_000_000, "waited {waited} ns of 200 ms");
    gate.open()?;
    bo.wait_until(i64::MAX)?;
    bo.wait_until(0)?;
    Ok(())
}

/// It is for the CPU to write: readers elsewhere count.
fn wait_reader(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    let dmabuf = bo.export()?;
    let gate = Gate::new()?;
    dmabuf::import_sync_file(dmabuf.as_fd(), uapi::DMA_BUF_SYNC_READ, gate.fence())?;
    check_errno!(bo.wait_until(0), EBUSY);
    gate.open()?;
    bo.wait(PATIENCE)?;
    Ok(())
}

fn wait_bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    for handle in [0, 0x7fff] {
        let mut unknown = uapi::WaitBo {
            handle,
            ..Default::default()
        };
        check_errno!(bo::wait_raw(&device, &mut unknown), ENOENT);
    }
    let mut padded = uapi::WaitBo {
        handle: bo.handle(),
        pad: 1,
        timeout_ns: 0,
    };
    check_errno!(bo::wait_raw(&device, &mut padded), EINVAL);
    Ok(())
}
