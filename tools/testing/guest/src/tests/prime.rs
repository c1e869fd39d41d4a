// SPDX-License-Identifier: GPL-2.0

//! Sharing BOs through dma-bufs.

use std::os::fd::AsFd;

use crate::bo;
use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::debugfs::shrink;
use crate::debugfs::sum;
use crate::debugfs::ALL;
use crate::dmabuf;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::swap::Swap;
use crate::sys;
use crate::sys::Mapping;
use crate::uapi;

use super::memory::content;
use super::memory::evict::evict;
use super::memory::evict::MemoryGroup;
use super::memory::filled;
use super::memory::intact;
use super::memory::KIB;
use super::memory::MIB;
use super::memory::NO_KNOB;
use super::memory::PAGE;
use super::target;
use super::PATTERN64;

pub(super) const TESTS: &[Test] = &[
    Test::new("prime-same-file", &["A1"], same_file),
    Test::new("prime-across-files", &["A1"], across_files),
    Test::new("prime-outlives-exporter", &["A1"], outlives),
    Test::new("prime-mmap", &["A1"], mmap),
    Test::new("prime-bad", &["C5"], bad),
    Test::new("prime-heap", &["B4"], heap).panfrost_fails("exports heaps, which cannot be pinned"),
    Test::new("prime-foreign", &["A1", "I1"], foreign).needs(&[Need::Card]),
    Test::new("purge-exported", &["D3"], purge_exported).panfrost_fails(NO_KNOB),
    Test::new("evict-shared", &["D4", "D6"], evict_shared).panfrost_fails(NO_KNOB),
    Test::new("evict-attached", &["D4", "D6"], evict_attached)
        .needs(&[Need::Card])
        .panfrost_fails(NO_KNOB),
];

fn same_file(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    let dmabuf = bo.export()?;
    let again = Bo::import(&device, dmabuf.as_fd(), 4096)?;
    check_eq!(again.handle(), bo.handle());
    check_eq!(again.va(), bo.va());
    // One handle, whose closing closes both.
    again.leak();
    let handle = bo.handle();
    bo.close()?;
    check_errno!(bo::offset(&device, handle), ENOENT);
    // The dma-buf keeps the object.
    let back = Bo::import(&device, dmabuf.as_fd(), 4096)?;
    check!(back.va() != 0);
    Ok(())
}

/// Each file has a mapping of its own, and jobs of each see the same memory.
fn across_files(gpu: &Gpu) -> Outcome {
    let first = gpu.open()?;
    let second = gpu.open()?;
    // So that the addresses differ.
    let _filler = second.create(1 << 20, uapi::BO_NOEXEC)?;
    let (bo, map) = target(&first, 8192)?;
    let shared = Bo::import(&second, bo.export()?.as_fd(), 8192)?;
    check!(shared.va() != bo.va(), "both at {:#x}", bo.va());

    let mut chain = Chain::new(&second, 4096)?;
    let job = chain.zero(shared.va() + 4096);
    chain.run(&[&shared])?;
    check_eq!(chain.status(job), DONE);
    check_eq!(map.get64(4096), 0);
    check_eq!(map.get64(4104), PATTERN64);

    // One file's closing leaves the other working, in both directions.
    shared.close()?;
    let mut chain = Chain::new(&first, 4096)?;
    let job = chain.zero(bo.va());
    chain.run(&[&bo])?;
    check_eq!(chain.status(job), DONE);
    check_eq!(map.get64(0), 0);
    Ok(())
}

fn outlives(gpu: &Gpu) -> Outcome {
    let first = gpu.open()?;
    let second = gpu.open()?;
    let (bo, map) = target(&first, 4096)?;
    let shared = Bo::import(&second, bo.export()?.as_fd(), 4096)?;
    drop(map);
    bo.close()?;
    drop(first);
    let map = shared.map()?;
    check_eq!(map.get64(0), PATTERN64);
    let mut chain = Chain::new(&second, 4096)?;
    let job = chain.zero(shared.va());
    chain.run(&[&shared])?;
    check_eq!(chain.status(job), DONE);
    check_eq!(map.get64(0), 0);
    Ok(())
}

fn mmap(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 8192)?;
    let dmabuf = bo.export()?;
    let through = Mapping::new(dmabuf.as_fd(), 0, 8192)?;
    check_eq!(through.get64(4096), PATTERN64);
    through.put64(4096, 1);
    check_eq!(map.get64(4096), 1);
    Ok(())
}

fn bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    for handle in [0, 0x7fff] {
        let mut arg = uapi::PrimeHandle {
            handle,
            ..Default::default()
        };
        check_errno!(
            // SAFETY: no pointers.
            unsafe { sys::ioctl(device.as_fd(), uapi::PRIME_HANDLE_TO_FD, &mut arg) },
            ENOENT
        );
    }
    let mut flagged = uapi::PrimeHandle {
        handle: bo.handle(),
        flags: 1 << 31,
        fd: -1,
    };
    check_errno!(
        // SAFETY: no pointers.
        unsafe { sys::ioctl(device.as_fd(), uapi::PRIME_HANDLE_TO_FD, &mut flagged) },
        EINVAL
    );
    let mut closed = uapi::PrimeHandle {
        fd: -1,
        ..Default::default()
    };
    check_errno!(
        // SAFETY: no pointers.
        unsafe { sys::ioctl(device.as_fd(), uapi::PRIME_FD_TO_HANDLE, &mut closed) },
        EBADF
    );
    // A file, but not a dma-buf.
    check_errno!(Bo::import(&device, device.as_fd(), 4096), EINVAL);
    Ok(())
}

fn heap(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = device.create(2 << 20, uapi::BO_NOEXEC | uapi::BO_HEAP)?;
    check_errno!(heap.export(), EINVAL);
    Ok(())
}

/// A display's buffer is imported, has an address, and the GPU writes to it.
fn foreign(gpu: &Gpu) -> Outcome {
    let Some((dmabuf, size)) = dmabuf::foreign(1024, 1024)? else {
        return Err(Stop::Skip("no second card".into()));
    };
    let map = Mapping::new(dmabuf.as_fd(), 0, size)?;
    map.fill(super::PATTERN);
    let device = gpu.open()?;
    let bo = Bo::import(&device, dmabuf.as_fd(), size)?;
    check!(bo.va() != 0);
    let mut chain = Chain::new(&device, 4096)?;
    for offset in [0, 4096, size as u64 - 8] {
        chain.zero(bo.va() + offset);
    }
    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), [DONE; 3]);
    for offset in [0, 4096, size - 8] {
        check_eq!(map.get64(offset), 0);
    }
    check_eq!(map.get64(8), PATTERN64);
    Ok(())
}

/// The file that exported a BO cannot give up its content for all who may have the dma-buf.
fn purge_exported(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = filled(&device, 64 * KIB, 9)?;
    let dmabuf = bo.export()?;
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    check_eq!(shrink(gpu, ALL)?, 0);
    let map = Mapping::new(dmabuf.as_fd(), 0, 64 * KIB)?;
    check!(map.bytes(0, 64 * KIB) == content(64 * KIB, 9));
    Ok(())
}

/// A BO of several files leaves memory, also if a CPU maps it through the dma-buf; and all of them
/// see the same when it is back.
fn evict_shared(gpu: &Gpu) -> Outcome {
    let swap = Swap::on(64 * MIB)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let other = gpu.open()?;
    let bo = filled(&device, MIB, 9)?;
    let dmabuf = bo.export()?;
    let shared = Bo::import(&other, dmabuf.as_fd(), MIB)?;
    let through = Mapping::new(dmabuf.as_fd(), 0, MIB)?;
    let mut expected = content(MIB, 9);
    check!(through.bytes(0, MIB) == expected);
    let mut chain = Chain::new(&other, PAGE)?;
    chain.zero(shared.va() + 64);
    check_eq!(shrink(gpu, ALL)?, (MIB + PAGE) / PAGE);
    let used = swap.used()?;
    group.reclaim(MIB)?;
    check!(swap.used()? > used, "nothing has left memory");
    through.put64(0, 0);
    chain.run(&[])?;
    expected[..8].fill(0);
    expected[64..72].fill(0);
    check!(through.bytes(0, MIB) == expected);
    check!(bo.map()?.bytes(0, MIB) == expected);
    check!(shared.map()?.bytes(0, MIB) == expected);
    Ok(())
}

/// A BO that another driver is attached to stays where it is, until that driver has let go.
fn evict_attached(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let pinned = sum(gpu, "pinned")?;
    let bo = filled(&device, 64 * KIB, 9)?;
    let dmabuf = bo.export()?;
    let Some(card) = dmabuf::attach(dmabuf.as_fd())? else {
        return Err(Stop::Skip("no card that attaches".into()));
    };
    check_eq!(sum(gpu, "pinned")? - pinned, 64 * KIB);
    check_eq!(shrink(gpu, ALL)?, 0);
    drop(card);
    evict(gpu, 64 * KIB)?;
    check!(intact(&bo, 9)?);
    Ok(())
}
