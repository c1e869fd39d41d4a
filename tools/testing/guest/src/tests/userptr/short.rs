// SPDX-License-Identifier: GPL-2.0

//! BOs over memory of the process, when it may not have as much as it would like.

use crate::bo::Bo;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
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
    const LEN: usize = 64 * MIB;

    let group = MemoryGroup::enter()?;
    let flags = ANONYMOUS | libc::MAP_NORESERVE;
    let zeros = Memory {
        start: raw_mmap(0, LEN, libc::PROT_READ, flags, -1)?,
        len: LEN,
    };
    // Their page tables would cost more than the rest.
    zeros.advise(libc::MADV_HUGEPAGE)?;
    group.limit(Some(12 * MIB))?;
    let killed_before = killed()?;
    let mut clients = Vec::new();
    loop {
        let device = gpu.node.open();
        let client = device.and_then(|device| {
            let bo = zeros.bo(&device, uapi::USERPTR_READONLY)?;
            Ok((bo, device))
        });
        match client {
            Ok(client) => clients.push(client),
            Err(Errno(libc::ENOMEM)) => break,
            Err(errno) => return Err(errno.into()),
        }
        // An array of addresses, one of pages, and tables: 24 bytes for each page.
        let cost = clients.len() * (LEN / PAGE) * 24;
        if cost > 24 * MIB {
            return Err(Stop::fail(format!(
                "{} bytes are charged for what costs {cost}",
                group.current()?
            )));
        }
    }
    check!(clients.len() > 1, "not even two");
    check_eq!(killed()?, killed_before);
    // It goes back when they go.
    clients.truncate(1);
    let device = gpu.open()?;
    zeros.bo(&device, uapi::USERPTR_READONLY)?.close()?;
    null(&device)?;
    Ok(())
}
