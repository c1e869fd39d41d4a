// SPDX-License-Identifier: GPL-2.0

//! BOs over memory of the process: what changes there, the GPU sees, and what goes, it loses.

use std::ptr;
use std::time::Instant;

use model::control::Opcode;
use model::control::Stat;
use model::desc::BlockFormat;
use model::desc::Fragment;
use model::desc::JobHeader;
use model::desc::JobType;

use crate::bo;
use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::pixels::Layout;
use crate::pixels::FORMATS;
use crate::sync::Gate;
use crate::sync::Syncobj;
use crate::sys::Errno;
use crate::uapi;

use super::render::blocks;
use super::render::clear_frame;
use super::target;
use super::PATTERN;
use super::PATTERN64;

pub(super) mod change;
pub(super) mod kinds;
pub(super) mod leaving;
pub(super) mod rare;
pub(super) mod short;

const USERPTR: &[Need] = &[Need::Userptr];
const USERPTR_GATE: &[Need] = &[Need::Userptr, Need::Gate];
const USERPTR_BOARD: &[Need] = &[Need::Userptr, Need::Board];

pub(super) const TESTS: &[Test] = &[
    Test::new("userptr-write", &["E1"], write).needs(USERPTR),
    Test::new("userptr-render", &["E1"], render).needs(USERPTR),
    Test::new("userptr-owner-exits", &["E1"], owner_exits).needs(USERPTR_BOARD),
    Test::new("userptr-other-process", &["E2"], other_process).needs(USERPTR),
    Test::new("userptr-read-only", &["E3"], read_only).needs(USERPTR),
    Test::new("userptr-read-only-source", &["E3"], read_only_source).needs(USERPTR),
    Test::new("userptr-close", &["A2", "E1"], close).needs(USERPTR_GATE),
    Test::new("userptr-bad", &["C5", "E2"], bad).needs(USERPTR),
    Test::new("userptr-limits", &["C5"], limits).needs(USERPTR),
];

const PAGE: usize = 4096;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Memory of the process at an address of its own, which tests pull away under the GPU. Accesses
/// are single, volatile words, and it is up to the test that there is something.
struct Memory {
    start: usize,
    len: usize,
}

fn raw_mmap(at: usize, len: usize, prot: i32, flags: i32, fd: i32) -> Result<usize, Errno> {
    // SAFETY: a new mapping, or one in the place of a `Memory` that allows it.
    let start = unsafe { libc::mmap(at as *mut _, len, prot, flags, fd, 0) };
    match start == libc::MAP_FAILED {
        true => Err(Errno::last()),
        false => Ok(start as usize),
    }
}

fn done(ret: i32) -> Result<(), Errno> {
    match ret {
        -1 => Err(Errno::last()),
        _ => Ok(()),
    }
}

impl Memory {
    /// Private memory, all of it touched and filled with the pattern.
    fn anonymous(len: usize) -> Result<Self, Stop> {
        let start = raw_mmap(0, len, RW, ANONYMOUS, -1)?;
        let memory = Self { start, len };
        memory.fill();
        Ok(memory)
    }

    /// A part of this memory that starts on a multiple of `align`.
    fn aligned(len: usize, align: usize) -> Result<Self, Stop> {
        let whole = raw_mmap(0, len + align, RW, ANONYMOUS, -1)?;
        Ok(Self {
            start: whole.next_multiple_of(align),
            len,
        })
    }

    fn fill(&self) {
        // SAFETY: the test says that it is there.
        unsafe { ptr::write_bytes(self.start as *mut u8, PATTERN, self.len) };
    }

    fn get64(&self, offset: usize) -> u64 {
        assert!(offset + 8 <= self.len);
        // SAFETY: the test says that it is there.
        unsafe { ptr::read_volatile((self.start + offset) as *const u64) }
    }

    fn put64(&self, offset: usize, value: u64) {
        assert!(offset + 8 <= self.len);
        // SAFETY: the test says that it is there.
        unsafe { ptr::write_volatile((self.start + offset) as *mut u64, value) };
    }

    fn unmap(&self) -> Result<(), Errno> {
        self.unmap_part(0, self.len)
    }

    fn unmap_part(&self, offset: usize, len: usize) -> Result<(), Errno> {
        // SAFETY: nobody has a reference to it.
        done(unsafe { libc::munmap((self.start + offset) as *mut _, len) })
    }

    /// Puts fresh private memory where it was.
    fn map_again(&self, prot: i32) -> Result<(), Errno> {
        raw_mmap(self.start, self.len, prot, ANONYMOUS | libc::MAP_FIXED, -1).map(drop)
    }

    fn advise(&self, advice: i32) -> Result<(), Errno> {
        // SAFETY: nobody has a reference to it.
        done(unsafe { libc::madvise(self.start as *mut _, self.len, advice) })
    }

    fn protect(&self, prot: i32) -> Result<(), Errno> {
        // SAFETY: nobody has a reference to it.
        done(unsafe { libc::mprotect(self.start as *mut _, self.len, prot) })
    }

    fn bo(&self, device: &Device, flags: u32) -> Result<Bo, Errno> {
        Bo::over_memory(device, self.start, self.len, flags)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = self.unmap();
    }
}

/// A job that zeroes eight bytes at each address, and does it.
fn zero_all(device: &Device, bos: &[&Bo], addresses: &[u64]) -> Outcome {
    let mut chain = Chain::new(device, (addresses.len() + 1) * 256)?;
    for &address in addresses {
        chain.zero(address);
    }
    chain.run(bos)?;
    check_eq!(chain.statuses(), vec![DONE; addresses.len()]);
    Ok(())
}

/// A submit that does nothing, and lists nothing but itself.
fn null(device: &Device) -> Result<(), Errno> {
    let mut chain = Chain::new(device, 4096)?;
    chain.null();
    chain.run(&[])
}

/// User memory, and a job that waits for a gate before it zeroes eight bytes of it.
struct Waiting {
    gate: Gate,
    memory: Memory,
    bo: Bo,
    chain: Chain,
    out: Syncobj,
}

impl Waiting {
    /// `listed`: the submit names the BO.
    fn new(device: &Device, offset: u64, listed: bool) -> Result<Self, Stop> {
        let gate = Gate::new()?;
        let memory = Memory::anonymous(8 * PAGE)?;
        let bo = memory.bo(device, 0)?;
        let mut chain = Chain::new(device, 4096)?;
        chain.zero(bo.va() + offset);
        let out = device.syncobj()?;
        let bos = [&bo];
        let bos = if listed { &bos[..] } else { &[] };
        chain.submit(bos, &[&gate.syncobj(device)?], Some(&out))?;
        Ok(Self {
            gate,
            memory,
            bo,
            chain,
            out,
        })
    }
}

/// A square picture of the first format.
fn layout(side: usize, block: BlockFormat) -> Layout {
    Layout {
        width: side,
        height: side,
        bytes: FORMATS[0].bytes,
        block,
    }
}

/// Runs `child` in a process of its own, and returns how that ended: 0 if it was `Ok`.
fn in_child(child: impl FnOnce() -> Outcome) -> Result<i32, Stop> {
    // SAFETY: the child has the one thread that called this.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::last().into()),
        0 => {
            let code = match child() {
                Ok(()) => 0,
                Err(Stop::Skip(message) | Stop::Fail(message)) => {
                    eprintln!("# child: {message}");
                    1
                }
            };
            // SAFETY: ends the process, without what the parent wants to do at its end.
            unsafe { libc::_exit(code) }
        }
        pid => wait_for(pid),
    }
}

fn wait_for(pid: libc::pid_t) -> Result<i32, Stop> {
    let mut status = 0;
    // SAFETY: our child; room for the status.
    done(unsafe { libc::waitpid(pid, &mut status, 0) })?;
    Ok(status)
}

/// Both sides see what the other writes, in each page, without a copy.
fn write(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    // More than a table of the GPU's stands for, and not a multiple of it.
    for pages in [1, 3, 512, 1100] {
        let memory = Memory::anonymous(pages * PAGE)?;
        let bo = memory.bo(&device, 0)?;
        let offsets: Vec<usize> = (0..pages).map(|n| n * PAGE + n % 500 * 8).collect();
        for round in 0..2 {
            let some = offsets
                .iter()
                .skip(round * (pages / 2))
                .step_by(pages.div_ceil(40));
            let addresses: Vec<u64> = some.clone().map(|&at| bo.va() + at as u64).collect();
            zero_all(&device, &[&bo], &addresses)?;
            for &at in some {
                check_eq!(memory.get64(at), 0, "page {} of {pages}", at / PAGE);
                memory.put64(at, PATTERN64);
            }
        }
        for at in (0..memory.len).step_by(8) {
            check_eq!(memory.get64(at), PATTERN64, "{at:#x} of {pages} pages");
        }
    }
    Ok(())
}

/// A picture in user memory.
fn render(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let block = blocks(device.arch()?)[0];
    let layout = layout(64, block);
    let memory = Memory::anonymous((layout.size() + PAGE).next_multiple_of(PAGE))?;
    let bo = memory.bo(&device, 0)?;
    let mut chain = Chain::new(&device, 16 * 1024)?;
    chain.fragment(&clear_frame(&FORMATS[0], &layout, bo.va(), [0; 4]));
    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), [DONE]);
    for at in (0..layout.size()).step_by(8) {
        check_eq!(memory.get64(at), 0, "{at:#x}");
    }
    check_eq!(memory.get64(layout.size()), PATTERN64);
    Ok(())
}

/// The owner of the memory ends, or is killed, while the GPU writes to it.
fn owner_exits(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let faults = board.stat(Stat::MmuFaults);
    board.order(Opcode::SlowJobs, &[200_000])?;
    for killed in [false, true] {
        let status = in_child(|| {
            let device = gpu.open()?;
            let memory = Memory::anonymous(64 * PAGE)?;
            let bo = memory.bo(&device, 0)?;
            let mut chain = Chain::new(&device, 4096)?;
            chain.zero(bo.va());
            chain.submit(&[&bo], &[], None)?;
            if killed {
                // SAFETY: ends the process.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            // As `exit` does it: memory first, files later.
            std::mem::forget((device, memory, bo, chain));
            Ok(())
        })?;
        check_eq!(libc::WIFSIGNALED(status), killed);
        check!(killed || status == 0, "status {status:#x}");
    }
    board.order(Opcode::ClearAll, &[])?;
    check_eq!(board.stat(Stat::MmuFaults), faults);
    null(&gpu.open()?)?;
    Ok(())
}

/// A file that another process has, too, works on the memory of the one that gave it, and only for
/// that one.
fn other_process(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(4 * PAGE)?;
    let bo = memory.bo(&device, 0)?;
    let handle = bo.handle();
    let status = in_child(|| {
        check_errno!(null(&device), EPERM);
        check_errno!(memory.bo(&device, 0), EPERM);
        Ok(())
    })?;
    check_eq!(status, 0);
    zero_all(&device, &[&bo], &[bo.va()])?;
    check_eq!(memory.get64(0), 0);
    bo.close()?;

    // The owner ends, and leaves a BO without memory.
    let status = in_child(|| {
        let bo = memory.bo(&device, 0)?;
        check_eq!(bo.handle(), handle);
        zero_all(&device, &[&bo], &[bo.va()])?;
        bo.leak();
        Ok(())
    })?;
    check_eq!(status, 0);
    check_errno!(null(&device), EPERM);
    device.close_handle(handle)?;
    null(&device)?;
    let bo = memory.bo(&device, 0)?;
    zero_all(&device, &[&bo], &[bo.va() + 8])?;
    check_eq!(memory.get64(8), 0);
    Ok(())
}

/// A job that writes to what may only be read ends, and has not written.
fn read_only(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(4 * PAGE)?;
    let read_only = memory.bo(&device, uapi::USERPTR_READONLY)?;
    // The same memory can be written through another BO.
    let writable = memory.bo(&device, 0)?;
    for at in [0, 2 * PAGE, 4 * PAGE - 8] {
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(read_only.va() + at as u64);
        chain.run(&[&read_only])?;
        check!(chain.statuses() != [DONE], "{at:#x} was written");
        check_eq!(memory.get64(at), PATTERN64);
        zero_all(&device, &[&writable], &[writable.va() + at as u64])?;
        check_eq!(memory.get64(at), 0);
        memory.put64(at, PATTERN64);
    }
    Ok(())
}

/// The GPU can read a read-only BO, even over memory that the process itself cannot write.
fn read_only_source(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let arch = device.arch()?;
    let layout = layout(32, blocks(arch)[0]);
    let (picture, map) = target(&device, layout.size().next_multiple_of(PAGE))?;
    let memory = Memory::anonymous(2 * PAGE)?;
    let frame = clear_frame(&FORMATS[0], &layout, picture.va(), [0; 4]);
    let bytes = frame.encode(arch);
    check!(bytes.len() <= PAGE);
    // SAFETY: there is room for it, and nobody has a reference to the memory.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory.start as *mut u8, bytes.len()) };
    memory.protect(libc::PROT_READ)?;
    check_errno!(memory.bo(&device, 0), EFAULT);
    let source = memory.bo(&device, uapi::USERPTR_READONLY)?;

    let mut chain = Chain::new(&device, 4096)?;
    chain.require(uapi::REQ_FS);
    let payload = Fragment::whole(32, 32, frame.pointer(source.va()));
    chain.job(JobHeader::new(JobType::Fragment), &payload.encode());
    chain.run(&[&source, &picture])?;
    check_eq!(chain.statuses(), [DONE]);
    for at in (0..layout.size()).step_by(8) {
        check_eq!(map.get64(at), 0, "{at:#x}");
    }
    Ok(())
}

/// A closed BO's job goes on; what happens to the memory afterwards is no concern of the GPU.
fn close(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let job = Waiting::new(&device, 0, true)?;
    // Nothing is made from here on that could get the address.
    let mut late = Chain::new(&device, 4096)?;
    late.zero(job.bo.va());
    job.bo.close()?;
    job.gate.open()?;
    job.out.wait(PATIENCE)?;
    check_eq!(job.chain.statuses(), [DONE]);
    check_eq!(job.memory.get64(0), 0);

    // The BO goes with the job, which is dropped soon.
    let deadline = Instant::now() + PATIENCE;
    loop {
        job.memory.fill();
        late.rearm();
        late.run(&[])?;
        if late.statuses() != [DONE] {
            break;
        }
        check!(Instant::now() < deadline, "still there");
    }
    check_eq!(job.memory.get64(0), PATTERN64);
    job.memory.unmap()?;
    null(&device)?;
    Ok(())
}

fn bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let memory = Memory::anonymous(4 * PAGE)?;
    let create = |address: usize, size: usize, flags: u32| {
        Bo::over_memory(&device, address, size, flags).map(drop)
    };
    let at = memory.start;
    // No whole pages, or none.
    check_errno!(create(at, 0, 0), EINVAL);
    check_errno!(create(at, 1, 0), EINVAL);
    check_errno!(create(at, PAGE + 8, 0), EINVAL);
    check_errno!(create(at + 8, PAGE, 0), EINVAL);
    // Past the end of all addresses.
    check_errno!(create(usize::MAX - PAGE + 1, 2 * PAGE, 0), EINVAL);
    check_errno!(create(PAGE, usize::MAX - PAGE + 1, 0), EINVAL);
    for bit in 1..32 {
        check_errno!(create(at, PAGE, 1 << bit), EINVAL);
    }
    // More than the GPU has addresses for.
    check_errno!(create(at, 1 << 33, 0), ENOSPC);
    // Nothing there, the kernel's, nothing in the middle, nothing at the end.
    check_errno!(create(0, PAGE, 0), EFAULT);
    check_errno!(create(0xffff_8000_0000_0000, PAGE, 0), EFAULT);
    let hole = Memory::anonymous(4 * PAGE)?;
    hole.unmap_part(PAGE, PAGE)?;
    check_errno!(create(hole.start, 4 * PAGE, 0), EFAULT);
    check_errno!(create(hole.start, 2 * PAGE, 0), EFAULT);
    create(hole.start + 2 * PAGE, 2 * PAGE, 0)?;
    // No memory, but a device: the pages of a BO.
    let (_other, map) = target(&device, 4 * PAGE)?;
    for flags in [0, uapi::USERPTR_READONLY] {
        check_errno!(create(map.address(), PAGE, flags), EFAULT);
    }
    // Not what it may be used for.
    memory.protect(libc::PROT_READ)?;
    check_errno!(create(at, PAGE, 0), EFAULT);
    create(at, PAGE, uapi::USERPTR_READONLY)?;
    memory.protect(RW)?;

    // It is not sharable, mappable or dispensable.
    let bo = memory.bo(&device, 0)?;
    check_errno!(bo.export(), EINVAL);
    check_errno!(bo::mmap_offset(&device, bo.handle()), EINVAL);
    for advice in [uapi::MADV_DONTNEED, uapi::MADV_WILLNEED] {
        check_errno!(bo.madvise(advice), EINVAL);
    }
    // Otherwise it is a BO like others.
    check_eq!(bo::offset(&device, bo.handle())?, bo.va());
    bo.label("user memory")?;
    bo.set_metadata(b"user memory")?;
    check_eq!(bo.metadata()?, b"user memory");
    bo.wait(PATIENCE)?;
    check!(bo.va() != 0 && bo.va() % PAGE as u64 == 0);
    zero_all(&device, &[&bo], &[bo.va()])?;
    check_eq!(memory.get64(0), 0);
    Ok(())
}

/// Refused creations and closed BOs leave nothing behind: addresses above all.
fn limits(gpu: &Gpu) -> Outcome {
    const LEN: usize = 32 << 20;

    let device = gpu.open()?;
    let hole = raw_mmap(0, LEN, libc::PROT_NONE, ANONYMOUS | libc::MAP_NORESERVE, -1)?;
    for _ in 0..300 {
        check_errno!(Bo::over_memory(&device, hole, LEN, 0), EFAULT);
    }
    // SAFETY: nobody has a reference to it.
    done(unsafe { libc::munmap(hole as *mut _, LEN) })?;
    let memory = Memory::anonymous(PAGE)?;
    for _ in 0..300 {
        memory.bo(&device, 0)?.close()?;
    }
    let bo = memory.bo(&device, 0)?;
    zero_all(&device, &[&bo], &[bo.va()])?;
    check_eq!(memory.get64(0), 0);
    Ok(())
}
