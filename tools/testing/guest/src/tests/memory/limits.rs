// SPDX-License-Identifier: GPL-2.0

//! The memory of a client is charged to it, and its limit is its own business.

use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs::shrink;
use crate::debugfs::taken;
use crate::debugfs::ALL;
use crate::device::Device;
use crate::harness::pipe;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Process;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::meminfo;
use crate::memory::resident;
use crate::memory::wait_for;
use crate::swap::Swap;
use crate::sync::Gate;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

use super::super::target;
use super::super::A_WHILE;
use super::evict::swap_out;
use super::evict::MemoryGroup;
use super::filled;
use super::intact;
use super::MIB;
use super::NO_KNOB;
use super::PAGE;

/// Why C panfrost does not limit a client that has many of something.
pub(super) const NOT_CHARGED: &str = "what it allocates for a client is charged to nobody";

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("memory-is-accounted", &["D9"], accounted)
        .panfrost_fails("it counts as shared memory only"),
    Test::new("limit-makes-room", &["D4", "D9"], makes_room)
        .panfrost_fails("its BOs never leave memory"),
    Test::new("limit-counts-queued-jobs", &["C10", "D9"], queued_jobs)
        .needs(&[Need::Gate])
        .panfrost_fails(NOT_CHARGED),
    Test::new("limit-counts-queued-heaps", &["B1", "D9"], queued_heaps)
        .needs(&[Need::Gate])
        .panfrost_fails(NOT_CHARGED),
    Test::new("limit-counts-files", &["D9"], files).panfrost_fails(NOT_CHARGED),
    Test::new("limit-counts-contexts", &["D9"], contexts)
        .needs(&[Need::Minor(5)])
        .panfrost_fails(NOT_CHARGED),
    Test::new("limit-counts-labels", &["A8", "D9"], labels)
        .needs(&[Need::Minor(4)])
        .panfrost_fails(NOT_CHARGED),
    Test::new("limit-counts-metadata", &["A7", "D9"], metadata).panfrost_fails("it has none"),
    Test::new("limit-takes-given-up", &["D3", "D9"], takes_given_up)
        .panfrost_fails("nobody asks it for memory of one group"),
    Test::new("limit-takes-idle", &["D4", "D9"], takes_idle)
        .panfrost_fails("its BOs never leave memory"),
    Test::new("limit-of-one-client", &["D7", "D9"], limit_of_one).panfrost_fails(NO_KNOB),
    Test::new("limit-of-shared-bo", &["D7", "D9"], limit_of_shared).panfrost_fails(NO_KNOB),
];

/// The memory of BOs is that of a GPU, of the process that makes them, and goes with them.
fn accounted(gpu: &Gpu) -> Outcome {
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let (of_gpu, of_group) = (meminfo("GPUActive")?, group.current()?);
    let bo = device.create(32 * MIB, uapi::BO_NOEXEC)?;
    // Each processor has some pages that it has not told of.
    const SLACK: usize = 4 * MIB;
    let more = meminfo("GPUActive")? - of_gpu;
    check!(more >= bo.size() - SLACK, "{more} bytes of a GPU");
    check!(more <= bo.size() + SLACK, "{more} bytes of a GPU");
    let more = group.current()? - of_group;
    check!(more >= bo.size(), "{more} bytes of the group");
    bo.close()?;
    let left = meminfo("GPUActive")?;
    check!(left <= of_gpu + SLACK, "{left} bytes are left, of {of_gpu}");
    Ok(())
}

/// In a control group that has not room for all BOs, those that are idle make room for others.
fn makes_room(gpu: &Gpu) -> Outcome {
    const SIZE: usize = 8 * MIB;
    let _swap = Swap::on(256 * MIB)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    group.limit(Some(64 * MIB))?;
    let mut bos = Vec::new();
    for n in 0..16u64 {
        let (bo, map) = target(&device, SIZE)?;
        map.put64(SIZE - 8, n);
        bos.push((bo, map));
    }
    for (n, (_, map)) in bos.iter().enumerate() {
        check_eq!(map.get64(SIZE - 8), n as u64);
    }
    Ok(())
}

/// The memory that the driver keeps for jobs that wait is charged to the client that has them wait:
/// for each of the BOs that a job lists, a pointer at least.
fn queued_jobs(gpu: &Gpu) -> Outcome {
    const BOS: usize = 256;
    const JOBS: usize = 512;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let mut bos = Vec::new();
    for _ in 0..BOS {
        bos.push(device.create(PAGE, uapi::BO_NOEXEC)?);
    }
    let list: Vec<_> = bos.iter().collect();
    let mut chain = Chain::new(&device, PAGE)?;
    chain.pair();
    let (wait, done) = (gate.syncobj(&device)?, device.syncobj()?);
    let before = group.current()?;
    for _ in 0..JOBS {
        chain.submit(&list, &[&wait], Some(&done))?;
    }
    let more = group.current()?.saturating_sub(before);
    gate.open()?;
    done.wait(10 * PATIENCE)?;
    // Some of it may have been charged before.
    check!(more >= BOS * JOBS * 6, "{more} bytes for {JOBS} jobs");
    Ok(())
}

/// So is the list of the heaps that a job uses, which it has beside that of its BOs.
fn queued_heaps(gpu: &Gpu) -> Outcome {
    const BOS: usize = 128;
    const JOBS: usize = 2048;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let of_jobs_with = |size, flags| -> Result<usize, Stop> {
        let bos: Vec<_> = (0..BOS)
            .map(|_| device.create(size, flags))
            .collect::<Result<_, _>>()?;
        let list: Vec<_> = bos.iter().collect();
        let gate = Gate::new()?;
        let mut chain = Chain::new(&device, PAGE)?;
        chain.pair();
        let (wait, done) = (gate.syncobj(&device)?, device.syncobj()?);
        // The heaps get memory with the first job, which is not what is measured.
        chain.submit(&list, &[&wait], Some(&done))?;
        let before = group.small()?;
        for _ in 0..JOBS {
            chain.submit(&list, &[&wait], Some(&done))?;
        }
        let more = group.small()?.saturating_sub(before);
        gate.open()?;
        done.wait(10 * PATIENCE)?;
        let gone = || Ok(group.small()?.saturating_sub(before) <= more / 10);
        check!(wait_for(PATIENCE, gone)?, "they stay charged");
        Ok(more)
    };
    let without = of_jobs_with(PAGE, uapi::BO_NOEXEC)?;
    let with = of_jobs_with(2 * MIB, uapi::BO_NOEXEC | uapi::BO_HEAP)?;
    // A pointer each. Processors add up what they have counted now and then only.
    check!(
        with >= without + BOS * JOBS * 4,
        "{with} bytes with heaps, {without} without"
    );
    Ok(())
}

/// Makes things that have to be charged with `least` bytes of small allocations, for as long as
/// they exist.
fn is_charged<T>(
    group: &MemoryGroup,
    least: usize,
    make: impl FnOnce() -> Result<T, Stop>,
) -> Outcome {
    let before = group.small()?;
    let made = make()?;
    let more = group.small()?.saturating_sub(before);
    check!(more >= least, "{more} bytes, not {least}");
    drop(made);
    let gone = || Ok(group.small()?.saturating_sub(before) <= more / 10);
    check!(wait_for(PATIENCE, gone)?, "they stay charged");
    Ok(())
}

/// The address space and the context of an open file are charged to the client that opens it.
fn files(gpu: &Gpu) -> Outcome {
    const FILES: usize = 200;
    let group = MemoryGroup::enter()?;
    is_charged(&group, FILES * 2048, || {
        let files = (0..FILES).map(|_| gpu.open());
        files.collect::<Result<Vec<_>, _>>()
    })
}

/// Contexts are charged to the client that creates them: a queue for each slot.
fn contexts(gpu: &Gpu) -> Outcome {
    const FILES: usize = 20;
    const CONTEXTS: usize = 50;
    let group = MemoryGroup::enter()?;
    let files: Vec<_> = (0..FILES).map(|_| gpu.open()).collect::<Result<_, _>>()?;
    is_charged(&group, FILES * CONTEXTS * 1024, || {
        for file in &files {
            for _ in 0..CONTEXTS {
                file.create_context(uapi::PRIORITY_MEDIUM)?;
            }
        }
        Ok(files)
    })
}

/// A label is charged to the client that sets it.
fn labels(gpu: &Gpu) -> Outcome {
    const BOS: usize = 400;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let bos: Vec<_> = (0..BOS)
        .map(|_| device.create(PAGE, uapi::BO_NOEXEC))
        .collect::<Result<_, _>>()?;
    let label = "x".repeat(uapi::LABEL_MAX - 1);
    is_charged(&group, BOS * label.len() / 2, || {
        for bo in &bos {
            bo.label(&label)?;
        }
        Ok(bos)
    })
}

/// Metadata are charged to the client that sets them.
fn metadata(gpu: &Gpu) -> Outcome {
    const BOS: usize = 2000;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let metadata = vec![1; device.param(uapi::PARAM_METADATA)? as usize];
    let bos: Vec<_> = (0..BOS)
        .map(|_| device.create(PAGE, uapi::BO_NOEXEC))
        .collect::<Result<_, _>>()?;
    is_charged(&group, BOS * metadata.len() / 2, || {
        for bo in &bos {
            bo.set_metadata(&metadata)?;
        }
        Ok(bos)
    })
}

/// Whatever a group at its limit wants memory for, it finds what its clients have given up, and
/// nothing of others is taken.
fn takes_given_up(gpu: &Gpu) -> Outcome {
    let others = gpu.open()?;
    let [kept, given_up] = [8 * MIB; 2].map(|size| filled(&others, size, 1));
    let (kept, given_up) = (kept?, given_up?);
    given_up.madvise(uapi::MADV_DONTNEED)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    for _ in 0..6 {
        let bo = filled(&device, 8 * MIB, 1)?;
        bo.madvise(uapi::MADV_DONTNEED)?;
        // Like what a cache of BOs has, until the file is closed.
        bo.leak();
    }
    group.limit(Some(64 * MIB))?;
    let purged = taken(gpu)?.purged;
    // Without swap, there is no other way to get that much.
    let memory = vec![1u8; 48 * MIB];
    check!(memory.iter().step_by(PAGE).all(|byte| *byte == 1));
    let purged = (taken(gpu)?.purged - purged) * PAGE;
    check!(purged >= 24 * MIB, "{purged} bytes were purged");
    check_eq!(resident(&others)?, 16 * MIB);
    check!(given_up.madvise(uapi::MADV_WILLNEED)?, "it was purged");
    check!(intact(&kept, 1)?);
    Ok(())
}

/// As with what was given up; idle BOs that are needed go to swap, and come back whole.
fn takes_idle(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(128 * MIB)?;
    let others = gpu.open()?;
    let other = filled(&others, 8 * MIB, 1)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let bos = (0..6)
        .map(|n| filled(&device, 8 * MIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    group.limit(Some(64 * MIB))?;
    let evicted = taken(gpu)?.evicted;
    // Its own memory does not go to swap.
    let memory = Locked::new(40 * MIB)?;
    let evicted = (taken(gpu)?.evicted - evicted) * PAGE;
    check!(evicted >= 16 * MIB, "{evicted} bytes were evicted");
    check_eq!(resident(&others)?, other.size());
    drop(memory);
    for (n, bo) in bos.iter().enumerate() {
        check!(intact(bo, n as u64)?, "BO {n}");
    }
    Ok(())
}

/// Memory of this process that cannot be swapped out.
pub(super) struct Locked {
    /// Its address.
    pub(super) start: *mut libc::c_void,
    size: usize,
}

impl Locked {
    /// Maps it.
    pub(super) fn new(size: usize) -> Result<Self, Stop> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces none.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        // Populating it says nothing of failures.
        for at in (0..size).step_by(PAGE) {
            // SAFETY: within the mapping.
            unsafe { start.cast::<u8>().add(at).write_volatile(1) };
        }
        Ok(Self { start, size })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nothing is borrowed from it.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

/// A client whose own limit keeps its memory from coming back is told so, and keeps nobody else
/// waiting.
fn limit_of_one(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(128 * MIB)?;
    let (mut told, mut tell) = pipe()?;
    // SAFETY: this process has one thread.
    let limited = unsafe {
        Process::start(|| {
            let group = MemoryGroup::enter()?;
            let device = gpu.open()?;
            let _bo = target(&device, 48 * MIB)?;
            let mut chain = Chain::new(&device, PAGE)?;
            chain.null();
            let list = Handles::new(&[chain.bo().handle()])?;
            keep_own_memory()?;
            evict_all(gpu, &device)?;
            group.reclaim(48 * MIB)?;
            let mut submit = uapi::Submit {
                jc: chain.head(),
                bo_handles: list.0 as u64,
                bo_handle_count: 1,
                ..Default::default()
            };
            let begun = AtomicBool::new(false);
            let result = thread::scope(|scope| -> Result<_, Stop> {
                // The array is not looked at again, however often it is tried.
                scope.spawn(|| {
                    while !begun.load(Ordering::Relaxed) {
                        thread::sleep(A_WHILE);
                    }
                    thread::sleep(Duration::from_secs(1));
                    list.unmap();
                });
                group.limit(Some(16 * MIB))?;
                tell.write_all(b"x")?;
                begun.store(true, Ordering::Relaxed);
                let result = device.submit_raw(&mut submit);
                tell.write_all(b"x")?;
                Ok(result)
            })?;
            check_eq!(result, Err(Errno(libc::ENOMEM)));
            // The memory is there when there is room.
            group.limit(None)?;
            chain.run(&[])?;
            check_eq!(chain.statuses(), [DONE]);
            Ok(())
        })?
    };
    drop(tell);
    let device = gpu.open()?;
    let (bo, map) = target(&device, MIB)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(bo.va());
    let mut byte = [0];
    check_eq!(told.read(&mut byte)?, 1);
    let mut rounds = 0;
    while !sys::readable(told.as_fd(), Duration::ZERO)? {
        // It, too, has something to bring back.
        evict_all(gpu, &device)?;
        chain.rearm();
        chain.run(&[&bo])?;
        check_eq!(chain.statuses(), [DONE]);
        check_eq!(map.get64(0), 0);
        rounds += 1;
    }
    limited.finish(3 * PATIENCE)?;
    check!(rounds >= 3, "{rounds} jobs while the other one tried");
    Ok(())
}

impl MemoryGroup {
    /// How many times memory was reclaimed from the group because it was at its limit.
    fn reclaims(&self) -> Result<usize, Stop> {
        self.number("memory.events", "max")
    }
}

/// Memory that a client at its limit has shared comes back for others. They have no part in the
/// limit, and cannot make room.
fn limit_of_shared(gpu: &Gpu) -> Outcome {
    const SIZE: usize = 2 * MIB;
    let swap = Swap::on(64 * MIB)?;
    // The group pays for some of it, and so would have no room to bring it back.
    keep_own_memory()?;
    let group = MemoryGroup::enter()?;
    let client = gpu.open()?;
    let bo = filled(&client, SIZE, 5)?;
    let dmabuf = bo.export()?;
    group.leave()?;
    let device = gpu.open()?;
    let shared = Bo::import(&device, dmabuf.as_fd(), SIZE)?;
    bo.close()?;
    drop(dmabuf);
    evict_all(gpu, &device)?;
    // Half of it or more leaves the group, and does not fit any more.
    swap_out(&group, &swap, SIZE)?;
    group.limit(Some(group.current()? + PAGE))?;

    let before = group.reclaims()?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.null();
    chain.run(&[&shared])?;
    check_eq!(chain.statuses(), [DONE]);
    check!(intact(&shared, 5)?);
    // Up to the page for which there is no room, the kernel may reclaim what it has read ahead,
    // once or twice for each page. But it must not try again, 17 times, for each of the rest.
    let tries = group.reclaims()? - before;
    check!(tries < 4 * SIZE / PAGE, "tried {tries} times");
    Ok(())
}

/// Keeps what this process has by itself in memory: it has to go on when its group is full.
pub(super) fn keep_own_memory() -> Outcome {
    // SAFETY: flags only.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } {
        -1 => Err(Errno::last().into()),
        _ => Ok(()),
    }
}

/// Evicts all BOs of an open file.
pub(super) fn evict_all(gpu: &Gpu, device: &Device) -> Outcome {
    let gone = wait_for(PATIENCE, || {
        shrink(gpu, ALL)?;
        Ok(resident(device)? == 0)
    })?;
    check!(gone, "{} bytes stay", resident(device)?);
    Ok(())
}

/// A page with an array of handles, shared with the kernel and with other threads.
struct Handles(*mut u32);

// SAFETY: the address is only given to the kernel.
unsafe impl Sync for Handles {}

impl Handles {
    fn new(handles: &[u32]) -> Result<Self, Stop> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces none, and has room.
        unsafe {
            let page = libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if page == libc::MAP_FAILED {
                return Err(Errno::last().into());
            }
            let page: *mut u32 = page.cast();
            assert!(size_of_val(handles) <= PAGE);
            ptr::copy_nonoverlapping(handles.as_ptr(), page, handles.len());
            Ok(Self(page))
        }
    }

    fn unmap(&self) {
        // SAFETY: mapped in `new`, and nothing is borrowed from it.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}
