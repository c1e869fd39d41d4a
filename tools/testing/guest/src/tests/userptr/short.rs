// SPDX-License-Identifier: GPL-2.0

//! BOs over memory of the process, when it may not have as much as it would like.

use crate::bo::Bo;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Test;
use crate::memory::killed;
use crate::swap::Swap;
use crate::sys::Errno;
use crate::uapi;

use super::super::memory::evict::MemoryGroup;
use super::super::PATTERN64;
use super::null;
use super::raw_mmap;
use super::zero_all;
use super::Memory;
use super::ANONYMOUS;
use super::PAGE;
use super::USERPTR;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("userptr-does-not-fit", &["E2", "D7"], does_not_fit).needs(USERPTR),
    Test::new("userptr-charged", &["D9"], charged).needs(USERPTR),
];

const MIB: usize = 1 << 20;

/// More memory than the process may have at a time: the GPU cannot have it, and the process is told
/// so instead of trying for ever.
fn does_not_fit(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(256 * MIB)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    group.limit(Some(48 * MIB))?;
    let killed_before = killed()?;
    let memory = Memory::anonymous(64 * MIB)?;
    check_errno!(memory.bo(&device, 0), ENOMEM);

    // Each of these fits, and so do both, until there is less.
    let part = |at: usize| Bo::over_memory(&device, memory.start + at, 12 * MIB, 0);
    let bos = [part(0)?, part(32 * MIB)?];
    zero_all(&device, &[&bos[0]], &[bos[0].va(), bos[1].va()])?;
    group.limit(Some(16 * MIB))?;
    check_errno!(null(&device), ENOMEM);
    // Without a trace.
    group.limit(Some(48 * MIB))?;
    zero_all(&device, &[&bos[0]], &[bos[0].va() + 8, bos[1].va() + 8])?;
    for at in [0, 32 * MIB] {
        check_eq!(memory.get64(at), 0);
        check_eq!(memory.get64(at + 8), 0);
        check_eq!(memory.get64(at + 16), PATTERN64);
        check_eq!(memory.get64(at + 12 * MIB - 8), PATTERN64);
    }
    check_eq!(killed()?, killed_before);
    Ok(())
}

/// Memory that costs the process nothing, because nobody has written to it, costs the kernel
/// something: the process pays for that.
fn charged(gpu: &Gpu) -> Outcome {
    // So much that what does not fit is an array, almost certainly: if a small structure does not,
    // somebody is killed.
    const LEN: usize = 512 * MIB;
    // An array of addresses, one of pages, and tables: 24 bytes for each page.
    const COST: usize = LEN / PAGE * 24;
    const MOST: usize = 24 * MIB / COST;
    const LIMIT: usize = 12 * MIB;

    let group = MemoryGroup::enter()?;
    let flags = ANONYMOUS | libc::MAP_NORESERVE;
    let zeros = Memory {
        start: raw_mmap(0, LEN, libc::PROT_READ, flags, -1)?,
        len: LEN,
    };
    // Their page tables would cost more than the rest.
    zeros.advise(libc::MADV_HUGEPAGE)?;
    // Opened before there is a limit, as they take small structures.
    let devices: Vec<_> = (0..MOST).map(|_| gpu.open()).collect::<Result<_, _>>()?;
    group.limit(Some(group.current()? + LIMIT))?;
    let killed_before = killed()?;
    let mut bos = Vec::new();
    for device in &devices {
        match zeros.bo(device, uapi::USERPTR_READONLY) {
            Ok(bo) => bos.push(bo),
            Err(Errno(libc::ENOMEM)) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    // Even to read a file takes memory.
    group.limit(None)?;
    // If one of the three were not charged, half as many again would fit.
    check!(
        bos.len() * COST <= LIMIT,
        "{} BOs of {} bytes each in {} bytes",
        bos.len(),
        COST,
        LIMIT
    );
    check!(bos.len() > 1, "not even two");
    check_eq!(killed()?, killed_before);
    // It goes back when they go.
    drop(bos);
    for device in &devices {
        zeros.bo(device, uapi::USERPTR_READONLY)?.close()?;
        null(device)?;
    }
    Ok(())
}
