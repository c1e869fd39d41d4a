// SPDX-License-Identifier: GPL-2.0

//! Eviction: idle BOs leave memory, whole, and come back when they are needed.

use std::fs;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use model::control::Opcode;
use model::control::Stat;
use model::desc::WriteKind;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs::shrink;
use crate::debugfs::sum;
use crate::debugfs::ALL;
use crate::failing::Failing;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::meminfo;
use crate::memory::resident;
use crate::memory::wait_for;
use crate::swap::Swap;
use crate::sync::Gate;
use crate::sys;
use crate::sys::Mapping;
use crate::uapi;

use super::super::target;
use super::super::PATTERN;
use super::super::PATTERN64;
use super::content;
use super::filled;
use super::intact;
use super::limits::keep_own_memory;
use super::signal_of;
use super::KIB;
use super::MIB;
use super::NO_KNOB;
use super::PAGE;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("evict-idle", &["D4", "D8"], idle).panfrost_fails(NO_KNOB),
    Test::new("evict-use-by-cpu", &["D4"], use_by_cpu).panfrost_fails(NO_KNOB),
    Test::new("evict-use-by-job", &["D4", "D6"], use_by_job).panfrost_fails(NO_KNOB),
    Test::new("evict-swapped", &["D4"], swapped).panfrost_fails(NO_KNOB),
    Test::new("evict-busy", &["D4", "D7"], busy)
        .needs(&[Need::Gate])
        .panfrost_fails(NO_KNOB),
    Test::new("evict-given-up", &["D3", "D4"], given_up).panfrost_fails(NO_KNOB),
    Test::new("evict-closed", &["A3", "D4"], closed).panfrost_fails(NO_KNOB),
    Test::new("evict-no-swap", &["D4"], no_swap).panfrost_fails(NO_KNOB),
    Test::new("evict-unreadable", &["C5", "D4"], unreadable)
        .warns()
        .panfrost_fails(NO_KNOB),
    Test::new("evict-stuck-mmu", &["D4"], stuck)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(NO_KNOB),
    Test::new("evict-one-flush", &["D4"], one_flush)
        .needs(&[Need::Board])
        .panfrost_fails(NO_KNOB),
    Test::new("evict-use-by-kernel", &["D4"], use_by_kernel)
        .needs(&[Need::FaultInjection])
        .panfrost_fails(NO_KNOB),
    Test::new("evict-close-in-submit", &["A2", "D4"], close_in_submit).panfrost_fails(NO_KNOB),
    Test::new("evict-no-memory", &["D4"], no_memory)
        .needs(&[Need::FaultInjection])
        .panfrost_fails(NO_KNOB),
];

/// Idle BOs leave memory, whole and with the counters, and come back by themselves.
fn idle(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let bos = (0..20)
        .map(|n| filled(&device, (n as usize % 5 + 1) * 60 * KIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    let size: usize = bos.iter().map(Bo::size).sum();
    let evicted = sum(gpu, "evicted")?;
    check_eq!(resident(&device)?, size);
    check_eq!(shrink(gpu, ALL)?, size / PAGE);
    check_eq!(resident(&device)?, 0);
    check_eq!(sum(gpu, "evicted")? - evicted, size);
    check_eq!(shrink(gpu, ALL)?, 0);
    for (n, bo) in bos.iter().enumerate() {
        check!(bo.madvise(uapi::MADV_WILLNEED)?, "evicted is not purged");
        check!(intact(bo, n as u64)?, "BO {n} comes back as another");
    }
    check_eq!(resident(&device)?, size);
    check_eq!(sum(gpu, "evicted")?, evicted);
    Ok(())
}

/// Mappings of the CPU stay good over it, and what is written counts.
fn use_by_cpu(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let (bo, map) = target(&device, 2 * MIB + 12 * KIB)?;
    for round in 0..4u32 {
        map.put32(round as usize * 512 * KIB, round);
        check_eq!(shrink(gpu, ALL)?, bo.size() / PAGE);
        for old in 0..=round {
            check_eq!(map.get32(old as usize * 512 * KIB), old);
        }
        check_eq!(map.get32(bo.size() - 4) as u8, PATTERN);
    }
    Ok(())
}

/// A job finds its memory, named in the submit or not, and so does the CPU what the job has
/// written.
fn use_by_job(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let (named, first) = target(&device, 64 * KIB)?;
    let (unnamed, second) = target(&device, 2 * MIB)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(named.va() + 8);
    chain.zero(unnamed.va() + MIB as u64);
    for round in 0..3 {
        first.fill(PATTERN);
        second.fill(PATTERN);
        chain.rearm();
        // The first time the address space has not been in the hardware, later it is.
        let all = named.size() + unnamed.size() + PAGE;
        evict(gpu, all)?;
        check_eq!(resident(&device)?, 0, "round {round}");
        chain.run(&[&named])?;
        check_eq!(resident(&device)?, all);
        check_eq!(chain.statuses(), [DONE, DONE], "round {round}");
        check_eq!(first.get64(8), 0);
        check_eq!(first.get64(0), PATTERN64);
        check_eq!(second.get64(MIB), 0);
        check_eq!(second.get64(MIB + 8), PATTERN64);
    }
    Ok(())
}

/// Evicts so many bytes, which a job that has just ended may have a moment longer.
pub(in super::super) fn evict(gpu: &Gpu, bytes: usize) -> Outcome {
    let mut pages = 0;
    wait_for(PATIENCE, || {
        pages += shrink(gpu, ALL)?;
        Ok(pages >= bytes / PAGE)
    })?;
    check_eq!(pages, bytes / PAGE);
    Ok(())
}

/// Evicted pages really can leave memory: they go to swap, and the content survives that.
fn swapped(gpu: &Gpu) -> Outcome {
    let swap = Swap::on(64 * MIB)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let bos = (0..16)
        .map(|n| filled(&device, MIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    check_eq!(shrink(gpu, ALL)?, 16 * MIB / PAGE);
    swap_out(&group, &swap, 16 * MIB)?;
    let mut chain = Chain::new(&device, PAGE)?;
    for bo in &bos {
        chain.write(bo.va() + 64, WriteKind::Zero, 0);
    }
    chain.run(&[])?;
    for (n, bo) in bos.iter().enumerate() {
        let mut expected = content(MIB, n as u64);
        expected[64..72].fill(0);
        check!(bo.map()?.bytes(0, MIB) == expected, "BO {n}");
    }
    Ok(())
}

/// Where the control groups are.
const GROUPS: &str = "/tmp/cgroup";

/// A control group for this process, by which its memory can be asked for.
pub(in super::super) struct MemoryGroup(pub(super) PathBuf);

impl MemoryGroup {
    pub(in super::super) fn enter() -> Result<Self, Stop> {
        let root = Path::new(GROUPS);
        fs::create_dir_all(root)?;
        if !root.join("cgroup.procs").exists() {
            // SAFETY: three strings that end, and no data.
            let ret = unsafe {
                libc::mount(
                    c"none".as_ptr(),
                    c"/tmp/cgroup".as_ptr(),
                    c"cgroup2".as_ptr(),
                    0,
                    std::ptr::null(),
                )
            };
            if ret == -1 {
                return Err(sys::Errno::last().into());
            }
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory")?;
        let group = root.join(format!("test-{}", std::process::id()));
        fs::create_dir(&group)?;
        fs::write(group.join("cgroup.procs"), "0")?;
        Ok(Self(group))
    }

    /// Bytes that its processes have.
    pub(in super::super) fn current(&self) -> Result<usize, Stop> {
        let text = fs::read_to_string(self.0.join("memory.current"))?;
        let bytes = text.trim().parse();
        bytes.map_err(|_| Stop::fail(format!("{text:?} is no number of bytes")))
    }

    /// Bytes of the small allocations, of less than a few pages each, that it is charged for.
    pub(in super::super) fn small(&self) -> Result<usize, Stop> {
        // The kernel adds up what its processors have counted every two seconds, or once there have
        // been enough changes: these are.
        drop(black_box(vec![1u8; 8 * MIB]));
        self.stat("slab")
    }

    /// Bytes of the page cache that it is charged for.
    pub(in super::super) fn cache(&self) -> Result<usize, Stop> {
        Ok(self.stat("active_file")? + self.stat("inactive_file")?)
    }

    /// A number of `memory.stat`.
    pub(super) fn stat(&self, name: &str) -> Result<usize, Stop> {
        self.number("memory.stat", name)
    }

    /// A number of a file with names and numbers.
    pub(super) fn number(&self, file: &str, name: &str) -> Result<usize, Stop> {
        let text = fs::read_to_string(self.0.join(file))?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
            .ok_or_else(|| Stop::fail(format!("no {name} in {file}")))
    }

    /// Leaves the group, which keeps what it has paid for.
    pub(in super::super) fn leave(&self) -> Outcome {
        Ok(fs::write(Path::new(GROUPS).join("cgroup.procs"), "0")?)
    }

    /// Limits it to so many bytes, or not any more.
    pub(in super::super) fn limit(&self, bytes: Option<usize>) -> Outcome {
        let bytes = bytes.map_or("max".into(), |bytes| bytes.to_string());
        Ok(fs::write(self.0.join("memory.max"), bytes)?)
    }

    /// Has the kernel take so many bytes, or as many as it can.
    pub(in super::super) fn reclaim(&self, bytes: usize) -> Outcome {
        for _ in 0..4 {
            match fs::write(
                self.0.join("memory.reclaim"),
                format!("{bytes} swappiness=200"),
            ) {
                Ok(()) => break,
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// As long as a job is under way, nothing of its address space leaves; whoever asks is not kept
/// waiting for it to end.
fn busy(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let other = gpu.open()?;
    let gate = Gate::new()?;
    let (named, first) = target(&device, 64 * KIB)?;
    let (unnamed, second) = target(&device, 64 * KIB)?;
    let idle_bo = filled(&other, 64 * KIB, 3)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(named.va());
    chain.zero(unnamed.va());
    let done = device.syncobj()?;
    chain.submit(&[&named], &[&gate.syncobj(&device)?], Some(&done))?;
    let before = resident(&device)?;
    check_eq!(shrink(gpu, ALL)?, 16, "those of the other file");
    check_eq!(resident(&device)?, before);
    check_eq!(resident(&other)?, 0);
    check!(!done.signalled()?);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE, DONE]);
    check_eq!(first.get64(0), 0);
    check_eq!(second.get64(0), 0);
    check!(intact(&idle_bo, 3)?);
    Ok(())
}

/// A BO that is given up after it was evicted takes no room in swap, and never comes back from
/// there.
fn given_up(gpu: &Gpu) -> Outcome {
    let swap = Swap::on(64 * MIB)?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let bo = filled(&device, 8 * MIB, 1)?;
    let (other, map) = target(&device, PAGE)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(other.va());
    let before = swap.used()?;
    check_eq!(shrink(gpu, ALL)?, (8 * MIB + 2 * PAGE) / PAGE);
    group.reclaim(8 * MIB)?;
    let used = swap.used()?;
    check!(
        used >= before + 4 * MIB,
        "{} bytes are in swap",
        used - before
    );
    let purged = sum(gpu, "purged")?;
    bo.madvise(uapi::MADV_DONTNEED)?;
    chain.run(&[&other])?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    check_eq!(sum(gpu, "purged")? - purged, bo.size());
    check!(!bo.madvise(uapi::MADV_WILLNEED)?, "it is still there");
    check_eq!(resident(&device)?, 2 * PAGE, "it came back");
    let freed = wait_for(PATIENCE, || Ok(swap.used()? + 4 * MIB <= used))?;
    check!(freed, "{} of {used} bytes are still in swap", swap.used()?);
    Ok(())
}

/// A BO of which only a mapping of the CPU is left holds no memory for ever.
fn closed(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let total = sum(gpu, "total")?;
    let (bo, map): (Bo, Mapping) = target(&device, 256 * KIB)?;
    let before = sum(gpu, "resident")?;
    bo.close()?;
    evict(gpu, 256 * KIB)?;
    check_eq!(before - sum(gpu, "resident")?, 256 * KIB);
    check_eq!(map.get32(100 * KIB) as u8, PATTERN);
    drop(map);
    check_eq!(sum(gpu, "total")?, total);
    Ok(())
}

/// Without room in swap there is nowhere to go.
fn no_swap(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = filled(&device, 64 * KIB, 9)?;
    check_eq!(shrink(gpu, ALL)?, 0);
    check_eq!(resident(&device)?, bo.size());
    check!(intact(&bo, 9)?);
    Ok(())
}

/// Has the kernel write half of `bytes` that were evicted to swap, or more, and free the pages.
/// That may take several attempts: it takes other memory of the group first, pages that were just
/// evicted may not be in its lists yet, and those that are being written are freed later.
pub(super) fn swap_out(group: &MemoryGroup, swap: &Swap, bytes: usize) -> Outcome {
    let mut out = 0;
    let is_out = wait_for(PATIENCE, || {
        group.reclaim(bytes)?;
        out = swap.used()?.saturating_sub(meminfo("SwapCached")?);
        Ok(out >= bytes / 2)
    })?;
    check!(is_out, "{out} bytes are in swap");
    Ok(())
}

/// If swap cannot be read, a client has lost the BO that was there, and says so to whoever uses it.
/// With the rest it goes on.
fn unreadable(gpu: &Gpu) -> Outcome {
    let swap = Swap::on_disk(64 * MIB)?;
    let group = MemoryGroup::enter()?;
    // So that nothing else of this process gets there.
    keep_own_memory()?;
    let device = gpu.open()?;
    let bo = filled(&device, MIB, 1)?;
    let lost = bo.map()?;
    evict(gpu, MIB)?;
    swap_out(&group, &swap, MIB)?;
    swap.break_disk()?;

    let (other, map) = target(&device, PAGE)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(other.va());
    for round in 0..3 {
        map.fill(PATTERN);
        chain.rearm();
        chain.run(&[&other])?;
        check_eq!(chain.statuses(), [DONE], "round {round}");
        check_eq!(map.get64(0), 0);
        chain.rearm();
        let listed = chain.submit(&[&other, &bo], &[], None);
        check_eq!(listed, Err(sys::Errno(libc::EIO)), "round {round}");
        check_eq!(chain.statuses(), [NOT_STARTED]);
        check_eq!(signal_of(|| lost.get32(0))?, libc::SIGBUS);
        // BOs that are evicted after that come back.
        evict(gpu, 2 * PAGE)?;
    }
    check!(!bo.madvise(uapi::MADV_DONTNEED)?, "it is there");
    chain.rearm();
    chain.run(&[&other, &bo])?;
    check_eq!(chain.statuses(), [DONE]);
    Ok(())
}

/// If the GPU's MMU does not answer, nobody else gets the pages that it may still reach; and when
/// it does again, all is as before.
fn stuck(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let (bo, map) = target(&device, 64 * KIB)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(bo.va());
    // Now the address space is in the hardware.
    chain.run(&[&bo])?;
    let board = Board::open()?;
    let resets = board.stat(Stat::SoftResets);
    board.order(Opcode::StickAsCommand, &[1])?;
    for _ in 0..5 {
        let taken = shrink(gpu, ALL)?;
        // The driver asks for a reset, by which the GPU forgets everything.
        check!(
            taken == 0 || board.stat(Stat::SoftResets) != resets,
            "{taken} pages given away before the GPU has forgotten them"
        );
        thread::sleep(Duration::from_millis(20));
    }
    board.order(Opcode::StickAsCommand, &[0])?;
    map.fill(PATTERN);
    chain.rearm();
    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(map.get64(0), 0);
    check_eq!(map.get64(8), PATTERN64);
    Ok(())
}

/// However many BOs of an address space go at a time, the MMU flushes once.
fn one_flush(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    let bos = (0..10)
        .map(|n| filled(&device, 64 * KIB, n))
        .collect::<Result<Vec<_>, _>>()?;
    let mut chain = Chain::new(&device, PAGE)?;
    for bo in &bos {
        chain.zero(bo.va());
    }
    chain.run(&[])?;
    let board = Board::open()?;
    let before = board.stat(Stat::AsFlushes);
    check_eq!(shrink(gpu, ALL)?, (10 * 64 * KIB + PAGE) / PAGE);
    let flushes = board.stat(Stat::AsFlushes).wrapping_sub(before);
    check!(flushes <= 1, "{flushes} flushes");
    chain.rearm();
    chain.run(&[])?;
    check_eq!(chain.statuses(), [DONE; 10]);
    Ok(())
}

/// The kernel's own accesses to what is in swap find it, as those of the process do, however long
/// there is no memory for it: that is no bad address.
fn use_by_kernel(gpu: &Gpu) -> Outcome {
    let swap = Swap::on(64 * MIB)?;
    let failing = Failing::new()?;
    let group = MemoryGroup::enter()?;
    let device = gpu.open()?;
    let (_bo, map) = target(&device, MIB)?;
    // SAFETY: no pointers. The file is ours.
    let counter = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_NONBLOCK)) };
    map.put64(0, 7);
    for times in [1, 2, 3, 10, 30] {
        evict(gpu, MIB)?;
        swap_out(&group, &swap, MIB)?;
        // Copies a word from there, and allocates nothing for itself.
        let (ret, failed) = failing.first(times, || {
            // SAFETY: the mapping is that long.
            let ret = unsafe {
                libc::write(counter.as_raw_fd(), map.address() as *const libc::c_void, 8)
            };
            (ret, sys::Errno::last())
        })?;
        check!(ret.0 == 8, "{ret:?} without memory {times} times");
        check!(failed, "it needed fewer than {times} pages");
        let mut count = [0u8; 8];
        // SAFETY: there is room for what is read.
        let ret = unsafe { libc::read(counter.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        check_eq!((ret, u64::from_ne_bytes(count)), (8, 7));
    }
    Ok(())
}

/// Closing a BO that a submit names, while that brings memory back, is no reason for the job to
/// miss it.
fn close_in_submit(gpu: &Gpu) -> Outcome {
    const SLOW: usize = 1000;
    let _swap = Swap::on(256 * MIB)?;
    for _ in 0..20 {
        let device = gpu.open()?;
        // The submit has a lot to bring back before its BO.
        let slow = (0..SLOW)
            .map(|_| device.create(4 * PAGE, uapi::BO_NOEXEC))
            .collect::<Result<Vec<_>, _>>()?;
        let (bo, map) = target(&device, PAGE)?;
        let mut chain = Chain::new(&device, PAGE)?;
        chain.zero(bo.va());
        let done = device.syncobj()?;
        evict(gpu, (4 * SLOW + 2) * PAGE)?;

        let submitted = AtomicBool::new(false);
        let in_time = thread::scope(|scope| -> Result<bool, Stop> {
            let submit = scope.spawn(|| {
                let ret = chain.submit(&[&bo], &[], Some(&done));
                submitted.store(true, Ordering::Relaxed);
                ret
            });
            // When the first one is back, all that it names was looked up.
            while resident(&device)? == 0 && !submitted.load(Ordering::Relaxed) {}
            device.close_handle(bo.handle())?;
            let in_time = !submitted.load(Ordering::Relaxed);
            submit
                .join()
                .map_err(|_| Stop::fail("a thread has panicked"))??;
            Ok(in_time)
        })?;
        bo.leak();
        done.wait(PATIENCE)?;
        check_eq!(chain.statuses(), [DONE]);
        check_eq!(map.get64(0), 0);
        drop(slow);
        if in_time {
            return Ok(());
        }
    }
    Err(Stop::fail("it was never closed in time"))
}

/// Whichever allocation fails while memory is brought back: the submit says so or does without,
/// nothing is lost, and the next one works.
fn no_memory(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let failing = Failing::new()?;
    let device = gpu.open()?;
    let (named, map) = target(&device, 64 * KIB)?;
    let unnamed = filled(&device, 256 * KIB, 5)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(named.va());
    let done = device.syncobj()?;
    let all = named.size() + unnamed.size() + PAGE;
    let mut refused = 0;
    for nth in 1..1000 {
        map.fill(PATTERN);
        chain.rearm();
        evict(gpu, all)?;
        let (submitted, failed) = failing.nth(nth, || chain.submit(&[&named], &[], Some(&done)))?;
        match submitted {
            Ok(()) => {
                done.wait(PATIENCE)?;
                check_eq!(chain.statuses(), [DONE]);
                check_eq!(map.get64(0), 0);
            }
            Err(sys::Errno(libc::ENOMEM)) => {
                refused += 1;
                check!(failed, "no memory, says allocation {nth}");
                check_eq!(chain.statuses(), [NOT_STARTED]);
                check_eq!(map.get64(0), PATTERN64);
            }
            Err(errno) => return Err(errno.into()),
        }
        check!(intact(&unnamed, 5)?, "after allocation {nth}");
        if !failed {
            // Those that bring memory back are tried again, so that only some failures are seen.
            check!(refused > 0, "no allocation was missed");
            check!(nth > 10, "only {} allocations were needed", nth - 1);
            return Ok(());
        }
    }
    check!(false, "there is no end of allocations");
    Ok(())
}
