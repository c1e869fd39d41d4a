// SPDX-License-Identifier: GPL-2.0

//! Changes of user memory under the GPU, and what the GPU has then.

use std::fs;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::resident;
use crate::swap::Swap;
use crate::sync::Gate;
use crate::sys::Errno;
use crate::uapi;

use super::super::Random;
use super::super::A_WHILE;
use super::super::PATTERN64;
use super::done;
use super::null;
use super::raw_mmap;
use super::wait_for;
use super::zero_all;
use super::Memory;
use super::Waiting;
use super::PAGE;
use super::RW;
use super::USERPTR;
use super::USERPTR_GATE;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("userptr-munmap", &["E1", "E2"], munmap).needs(USERPTR),
    Test::new("userptr-mremap", &["E1", "E2"], mremap).needs(USERPTR),
    Test::new("userptr-dontneed", &["E1", "E2"], dontneed).needs(USERPTR),
    Test::new("userptr-fork-cow", &["E1"], fork_cow).needs(USERPTR),
    Test::new("userptr-truncate", &["E1", "E2"], truncate).needs(USERPTR),
    Test::new("userptr-mprotect", &["E1", "E2"], mprotect).needs(USERPTR),
    Test::new("userptr-collapse", &["E1"], collapse).needs(USERPTR),
    Test::new("userptr-swap", &["E1", "E2"], swap).needs(USERPTR),
    Test::new("userptr-migrate", &["E1"], migrate).needs(USERPTR),
    Test::new("userptr-change-waits", &["E1"], waits).needs(USERPTR_GATE),
    Test::new("userptr-change-bound", &["E1"], bound).needs(USERPTR_GATE),
    Test::new("userptr-change-storm", &["E1", "E2"], storm).needs(USERPTR),
    Test::new("userptr-overlapping", &["E1", "E2"], overlapping).needs(USERPTR),
];

/// Runs `f` while another thread changes memory, and the change waits for a job that uses it, which
/// waits for the gate; then waits for the change. `f` gets to know whether it still waits.
pub(super) fn while_changing(
    gate: &Gate,
    change: impl FnOnce() -> Result<(), Errno> + Send,
    f: impl FnOnce(&dyn Fn() -> bool) -> Outcome,
) -> Outcome {
    let thread = AtomicI32::new(0);
    let gone = AtomicBool::new(false);

    thread::scope(|scope| {
        let changer = scope.spawn(|| {
            // SAFETY: no arguments.
            thread.store(unsafe { libc::gettid() }, Ordering::SeqCst);
            let result = change();
            gone.store(true, Ordering::SeqCst);
            result
        });
        let waits = || !gone.load(Ordering::SeqCst);
        let result = sleeps(&thread, &waits).and_then(|()| f(&waits));
        if result.is_err() {
            // Nothing could end the thread otherwise, not even a signal.
            gate.open()?;
        }
        changer.join().map_err(|_| "panic".to_string())??;
        result
    })
}

/// Returns when a thread sleeps in the kernel, such that nobody can interrupt it.
fn sleeps(thread: &AtomicI32, waits: &dyn Fn() -> bool) -> Outcome {
    let end = Instant::now() + PATIENCE;
    loop {
        check!(waits(), "the memory went before its job");
        check!(Instant::now() < end, "the change does not wait");
        let thread = thread.load(Ordering::SeqCst);
        let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
        if stat.is_ok_and(|stat| stat.contains(") D ")) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// After a part has gone no job can be submitted; what comes to the same place is what the GPU
/// gets.
fn munmap(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(16 * PAGE)?;
    let others = resident(&device)?;
    let bo = memory.bo(&device, 0)?;
    check_eq!(resident(&device)?, others + 16 * PAGE);
    zero_all(&device, &[&bo], &[bo.va()])?;

    memory.unmap_part(5 * PAGE, PAGE)?;
    check_eq!(resident(&device)?, others);
    check_errno!(null(&device), EFAULT);
    let mut chain = Chain::new(&device, 4096)?;
    chain.zero(bo.va());
    let out = device.syncobj()?;
    check_errno!(chain.submit(&[&bo], &[], Some(&out)), EFAULT);
    // Without a trace.
    check_errno!(out.fence(), EINVAL);
    bo.wait_until(0)?;
    check_eq!(chain.statuses(), [NOT_STARTED]);

    memory.map_again(RW)?;
    memory.fill();
    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(memory.get64(0), 0);
    check_eq!(memory.get64(5 * PAGE), PATTERN64);

    // All of it, for ever: the file works again without the BO.
    memory.unmap()?;
    check_errno!(null(&device), EFAULT);
    bo.close()?;
    null(&device)?;
    Ok(())
}

/// Memory that has moved away is out of the GPU's reach.
fn mremap(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(8 * PAGE)?;
    let elsewhere = Memory::anonymous(8 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    zero_all(&device, &[&bo], &[bo.va()])?;
    // SAFETY: both are memory of this test that nobody has a reference to.
    let moved = unsafe {
        libc::mremap(
            memory.start as *mut _,
            memory.len,
            memory.len,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            elsewhere.start as *mut libc::c_void,
        )
    };
    check!(moved as usize == elsewhere.start, "{}", Errno::last());
    check_eq!(elsewhere.get64(0), 0);
    check_eq!(elsewhere.get64(8), PATTERN64);
    check_errno!(null(&device), EFAULT);

    memory.map_again(RW)?;
    memory.fill();
    zero_all(&device, &[&bo], &[bo.va() + 8])?;
    check_eq!(memory.get64(8), 0);
    check_eq!(elsewhere.get64(8), PATTERN64);
    Ok(())
}

/// Dropped pages come back empty, and the GPU works on the new ones.
fn dontneed(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(8 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    for round in 0..4 {
        zero_all(&device, &[&bo], &[bo.va() + round * 8])?;
        memory.advise(libc::MADV_DONTNEED)?;
        // First the GPU, or first the CPU.
        if round % 2 == 0 {
            check_eq!(memory.get64(round as usize * 8 + 8), 0);
        }
        memory.put64(PAGE, PATTERN64);
        zero_all(&device, &[&bo], &[bo.va() + PAGE as u64])?;
        check_eq!(memory.get64(PAGE), 0);
        check_eq!(memory.get64(2 * PAGE), 0, "old content");
        memory.fill();
    }
    Ok(())
}

/// After fork() each of the two has its own memory, and the GPU that of the parent.
fn fork_cow(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(8 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    zero_all(&device, &[&bo], &[bo.va()])?;
    let mut to_child = [0; 2];
    // SAFETY: room for two.
    done(unsafe { libc::pipe(to_child.as_mut_ptr()) })?;

    // SAFETY: the child has the one thread that called this.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let mut byte = 0u8;
        // The parent's GPU has written by the time of this.
        // SAFETY: room for one byte.
        unsafe { libc::read(to_child[0], ptr::from_mut(&mut byte).cast(), 1) };
        let same = memory.get64(0) == 0 && memory.get64(PAGE) == PATTERN64;
        memory.put64(2 * PAGE, 1);
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!same)) };
    }
    check!(pid > 0, "{}", Errno::last());
    zero_all(&device, &[&bo], &[bo.va() + PAGE as u64])?;
    check_eq!(memory.get64(PAGE), 0);
    // SAFETY: one byte.
    check_eq!(
        unsafe { libc::write(to_child[1], [0u8].as_ptr().cast(), 1) },
        1
    );
    check_eq!(wait_for(pid)?, 0, "the child saw the GPU's write");
    check_eq!(memory.get64(2 * PAGE), PATTERN64);
    zero_all(&device, &[&bo], &[bo.va() + 2 * PAGE as u64])?;
    check_eq!(memory.get64(2 * PAGE), 0);
    // SAFETY: our own.
    unsafe { (libc::close(to_child[0]), libc::close(to_child[1])) };
    Ok(())
}

/// A file that becomes shorter takes its pages from the GPU, and the longer one has new pages.
fn truncate(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    // SAFETY: a name, and no flags.
    let fd = unsafe { libc::memfd_create(c"userptr".as_ptr(), 0) };
    done(fd)?;
    let len = 8 * PAGE;
    // SAFETY: our own file.
    let resize = |len: usize| done(unsafe { libc::ftruncate(fd, len as libc::off_t) });
    resize(len)?;
    let memory = Memory {
        start: raw_mmap(0, len, RW, libc::MAP_SHARED, fd)?,
        len,
    };
    memory.fill();
    let bo = memory.bo(&device, 0)?;
    zero_all(&device, &[&bo], &[bo.va(), bo.va() + 7 * PAGE as u64])?;
    check_eq!(memory.get64(7 * PAGE), 0);
    // The file has what the GPU has written.
    let mut word = [0xffu8; 8];
    // SAFETY: room for the word.
    let read = unsafe { libc::pread(fd, word.as_mut_ptr().cast(), 8, 7 * PAGE as libc::off_t) };
    check_eq!(read, 8);
    check_eq!(word, [0; 8]);

    resize(4 * PAGE)?;
    check_errno!(null(&device), EFAULT);
    resize(len)?;
    zero_all(&device, &[&bo], &[bo.va() + 8])?;
    check_eq!(memory.get64(8), 0);
    check_eq!(memory.get64(16), PATTERN64);
    check_eq!(memory.get64(7 * PAGE + 8), 0, "old content");
    drop(memory);
    // SAFETY: our own file.
    unsafe { libc::close(fd) };
    Ok(())
}

/// The GPU may do what the process may.
fn mprotect(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(4 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    zero_all(&device, &[&bo], &[bo.va()])?;
    for prot in [libc::PROT_READ, libc::PROT_NONE] {
        memory.protect(prot)?;
        check_errno!(null(&device), EFAULT);
        memory.protect(RW)?;
        zero_all(&device, &[&bo], &[bo.va() + 8])?;
        check_eq!(memory.get64(8), 0);
        memory.put64(8, PATTERN64);
    }
    // A BO that is only read.
    bo.close()?;
    let bo = memory.bo(&device, uapi::USERPTR_READONLY)?;
    memory.protect(libc::PROT_READ)?;
    null(&device)?;
    memory.protect(libc::PROT_NONE)?;
    check_errno!(null(&device), EFAULT);
    bo.close()?;
    Ok(())
}

/// The kernel moves small pages into a huge one, under the GPU.
fn collapse(gpu: &Gpu) -> Outcome {
    const MADV_COLLAPSE: i32 = 25;
    const HUGE: usize = 2 << 20;

    let device = gpu.open()?;
    let memory = Memory::aligned(HUGE, HUGE)?;
    memory.advise(libc::MADV_NOHUGEPAGE)?;
    memory.fill();
    let bo = memory.bo(&device, 0)?;
    zero_all(&device, &[&bo], &[bo.va(), bo.va() + HUGE as u64 / 2])?;
    memory.advise(libc::MADV_HUGEPAGE)?;
    if let Err(errno) = memory.advise(MADV_COLLAPSE) {
        return Err(Stop::Skip(format!("MADV_COLLAPSE: {errno}")));
    }
    for at in (8..HUGE).step_by(17 * PAGE + 8) {
        check_eq!(memory.get64(at), PATTERN64, "{at:#x}");
    }
    let addresses: Vec<u64> = (0..32).map(|n| bo.va() + n * 0x10000 + 8).collect();
    zero_all(&device, &[&bo], &addresses)?;
    for n in 0..32 {
        check_eq!(memory.get64(n * 0x10000 + 8), 0);
        check_eq!(memory.get64(n * 0x10000 + 16), PATTERN64);
    }
    Ok(())
}

/// Reclaim takes the pages although the GPU has them, and they come back with what it has written.
fn swap(gpu: &Gpu) -> Outcome {
    const PAGES: usize = 256;

    let swap = Swap::on(64 << 20)?;
    let device = gpu.open()?;
    let memory = Memory::anonymous(PAGES * PAGE)?;
    memory.advise(libc::MADV_NOHUGEPAGE)?;
    memory.fill();
    let bo = memory.bo(&device, 0)?;
    let addresses: Vec<u64> = (0..32).map(|n| bo.va() + n * 8 * PAGE as u64).collect();
    zero_all(&device, &[&bo], &addresses)?;

    let before = swap.used()?;
    memory.advise(libc::MADV_PAGEOUT)?;
    let out = swap.used()? - before;
    check!(out >= PAGES / 2 * PAGE, "only {out} bytes went to swap");

    // The GPU first, on other words of the same pages.
    let others: Vec<u64> = addresses.iter().map(|at| at + 8).collect();
    zero_all(&device, &[&bo], &others)?;
    for n in 0..32 {
        let at = n * 8 * PAGE;
        check_eq!(
            memory.get64(at),
            0,
            "what the GPU wrote before, page {}",
            8 * n
        );
        check_eq!(
            memory.get64(at + 8),
            0,
            "what the GPU wrote after, page {}",
            8 * n
        );
        check_eq!(memory.get64(at + 16), PATTERN64);
    }
    drop(bo);
    drop(memory);
    Ok(())
}

/// Tells on which node each page is. Before that it moves all to `node`, if it is not -1.
fn move_pages(memory: &Memory, node: i32) -> Result<Vec<i32>, Errno> {
    let count = memory.len / PAGE;
    let pages: Vec<usize> = (0..count).map(|n| memory.start + n * PAGE).collect();
    let nodes = vec![node; count];
    let mut status = vec![-1; count];
    let to = match node {
        -1 => ptr::null(),
        _ => nodes.as_ptr(),
    };
    // SAFETY: arrays with an entry for each page.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            count,
            pages.as_ptr(),
            to,
            status.as_mut_ptr(),
            2, // MPOL_MF_MOVE
        )
    };
    done(ret as i32).map(|()| status)
}

/// Pages go to another node and back, between jobs and while one is under way, and take along what
/// the GPU has written.
fn migrate(gpu: &Gpu) -> Outcome {
    if !std::path::Path::new("/sys/devices/system/node/node1").exists() {
        return Err(Stop::Skip("one NUMA node".into()));
    }
    let device = gpu.open()?;
    let memory = Memory::anonymous(16 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    for node in [1, 0, 1] {
        zero_all(&device, &[&bo], &[bo.va()])?;
        check_eq!(move_pages(&memory, node)?, [node; 16]);
        check_eq!(memory.get64(0), 0);
        memory.put64(0, PATTERN64);
        zero_all(&device, &[&bo], &[bo.va() + 15 * PAGE as u64])?;
        check_eq!(memory.get64(15 * PAGE), 0);
        check_eq!(move_pages(&memory, -1)?, [node; 16]);
        memory.put64(15 * PAGE, PATTERN64);
    }
    bo.close()?;

    for _ in 0..2 {
        let job = Waiting::new(&device, 8, true)?;
        let other = 1 - move_pages(&job.memory, -1)?[0];
        let to_other = || move_pages(&job.memory, other).map(drop);
        while_changing(&job.gate, to_other, |waits| {
            thread::sleep(A_WHILE);
            check!(waits(), "the pages moved under the job");
            job.gate.open()?;
            job.out.wait(PATIENCE)?;
            Ok(())
        })?;
        check_eq!(job.chain.statuses(), [DONE]);
        check_eq!(move_pages(&job.memory, -1)?, [other; 8]);
        check_eq!(job.memory.get64(8), 0);
        check_eq!(job.memory.get64(16), PATTERN64);
        zero_all(&device, &[&job.bo], &[job.bo.va() + 16])?;
        check_eq!(job.memory.get64(16), 0);
    }
    Ok(())
}

/// Memory that jobs use stays until they have ended, whether or not they list it.
fn waits(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for listed in [true, false] {
        let job = Waiting::new(&device, 8, listed)?;

        let gone = AtomicBool::new(false);
        thread::scope(|scope| -> Outcome {
            let dropper = scope.spawn(|| {
                let result = job.memory.advise(libc::MADV_DONTNEED);
                gone.store(true, Ordering::SeqCst);
                result
            });
            thread::sleep(A_WHILE);
            let early = gone.load(Ordering::SeqCst);
            job.gate.open()?;
            job.out.wait(PATIENCE)?;
            dropper.join().map_err(|_| "panic".to_string())??;
            check!(!early, "the memory went before its job");
            Ok(())
        })?;
        check_eq!(job.chain.statuses(), [DONE], "listed: {listed}");
        check_eq!(job.memory.get64(16), 0);
    }
    Ok(())
}

/// But not for ever: a process can always get rid of its memory. The job loses it, and nobody else
/// does.
fn bound(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let job = Waiting::new(&device, 8, true)?;
    // Returns although the gate is closed.
    job.memory.unmap()?;
    check!(!job.out.signalled()?);
    job.memory.map_again(RW)?;
    job.memory.fill();
    job.gate.open()?;
    job.out.wait(PATIENCE)?;
    check!(job.chain.statuses() != [DONE], "the job has found memory");
    check_eq!(job.memory.get64(8), PATTERN64);
    zero_all(&device, &[&job.bo], &[job.bo.va() + 8])?;
    check_eq!(job.memory.get64(8), 0);
    Ok(())
}

/// Memory that is pulled away all the time: each job gets what is there, none faults.
fn storm(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(16 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Outcome {
        let changer = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let _ = memory.advise(libc::MADV_DONTNEED);
                thread::sleep(Duration::from_micros(300));
            }
        });
        let mut result = Ok(());
        for n in 0..60 {
            result = zero_all(&device, &[&bo], &[bo.va() + n % 16 * PAGE as u64]);
            if result.is_err() {
                break;
            }
        }
        stop.store(true, Ordering::SeqCst);
        changer.join().map_err(|_| "panic".to_string())?;
        result
    })?;
    memory.put64(0, PATTERN64);
    zero_all(&device, &[&bo], &[bo.va()])?;
    check_eq!(memory.get64(0), 0);
    Ok(())
}

/// Many BOs over the same memory, which changes in parts.
fn overlapping(gpu: &Gpu) -> Outcome {
    const PAGES: usize = 64;

    let device = gpu.open()?;
    let memory = Memory::anonymous(PAGES * PAGE)?;
    let mut random = Random(7);
    let mut bos = Vec::new();
    for _ in 0..24 {
        let first = random.below(PAGES as u64) as usize;
        let pages = 1 + random.below((PAGES - first) as u64) as usize;
        let bo = Bo::over_memory(&device, memory.start + first * PAGE, pages * PAGE, 0)?;
        bos.push((bo, first, pages));
    }
    for round in 0..20 {
        let at = random.below(PAGES as u64) as usize;
        let part = Memory {
            start: memory.start + at * PAGE,
            len: PAGE,
        };
        match round % 3 {
            0 => part.advise(libc::MADV_DONTNEED)?,
            1 => part.map_again(RW)?,
            _ => (),
        }
        std::mem::forget(part);
        memory.put64(at * PAGE, PATTERN64);
        let over: Vec<_> = bos
            .iter()
            .filter(|(_, first, pages)| (*first..first + pages).contains(&at))
            .collect();
        let Some((bo, first, _)) = over.get(round % over.len().max(1)) else {
            null(&device)?;
            continue;
        };
        zero_all(&device, &[bo], &[bo.va() + ((at - first) * PAGE) as u64])?;
        check_eq!(memory.get64(at * PAGE), 0, "round {round}, page {at}");
    }
    Ok(())
}
