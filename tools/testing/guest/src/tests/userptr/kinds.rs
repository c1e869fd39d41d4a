// SPDX-License-Identifier: GPL-2.0

//! BOs over memory of all kinds, and on GPUs of all kinds: what the CPU and the GPU write is there
//! afterwards, or the memory is refused.

use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::bo;
use crate::bo::Bo;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::device::Device;
use crate::disk::Disk;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::drop_cached;
use crate::sys::Errno;
use crate::uapi;

use super::super::PATTERN64;
use super::done;
use super::in_child;
use super::null;
use super::raw_mmap;
use super::zero_all;
use super::Memory;
use super::ANONYMOUS;
use super::PAGE;
use super::RW;
use super::USERPTR;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("userptr-cpu-writes-stay", &["E4"], cpu_writes_stay),
    Test::new("userptr-supported", &["E4"], supported),
    Test::new("userptr-secret", &["E4"], secret).needs(USERPTR),
    Test::new("userptr-sync", &["E3", "I3"], sync).needs(USERPTR),
    Test::new("userptr-tagged", &["E1"], tagged).needs(USERPTR),
    Test::new("userptr-file-synced", &["E1"], file_synced).needs(USERPTR),
    Test::new("userptr-file-unmapped", &["E1"], file_unmapped).needs(USERPTR),
];

/// Bytes that the CPU writes while the GPU has the memory are there after any change, or the GPU
/// does not get the memory.
fn cpu_writes_stay(gpu: &Gpu) -> Outcome {
    if gpu.node.driver == "panfrost" {
        return Err(Stop::Skip("no such UAPI".into()));
    }
    let device = gpu.open()?;
    for flags in [0, uapi::USERPTR_READONLY] {
        let memory = Memory::anonymous(4 * PAGE)?;
        let bo = match memory.bo(&device, flags) {
            Err(Errno(libc::EOPNOTSUPP)) => continue,
            bo => bo?,
        };
        let mut value = 0;
        let mut holds = |change: &dyn Fn() -> Outcome| {
            value += 1;
            for page in 0..4 {
                memory.put64(page * PAGE + 8 * page, value);
            }
            change()?;
            for page in 0..4 {
                check_eq!(memory.get64(page * PAGE + 8 * page), value, "flags {flags}");
            }
            Ok(())
        };
        holds(&|| {
            check_eq!(in_child(|| Ok(()))?, 0);
            Ok(())
        })?;
        // The GPU has it again.
        null(&device)?;
        holds(&|| {
            memory.advise(libc::MADV_PAGEOUT)?;
            Ok(())
        })?;
        null(&device)?;
        // BOs over the same pages, in this file and in another.
        for file in [device.clone(), gpu.open()?] {
            let handle = memory.bo(&file, flags)?.leak();
            holds(&|| {
                file.close_handle(handle)?;
                Ok(())
            })?;
        }
        memory.put64(0, PATTERN64);
        bo.close()?;
        check_eq!(memory.get64(0), PATTERN64, "{flags}");
    }
    Ok(())
}

/// Whether the GPU is told to be coherent with the CPUs, and nothing is bounced.
fn is_coherent(gpu: &Gpu) -> Result<bool, Stop> {
    let name = gpu.node.path.file_name().unwrap_or_default();
    let device = Path::new("/sys/class/drm").join(name).join("device");
    let bounces = fs::read_to_string("/proc/cmdline")?.contains("swiotlb=force");
    Ok(device.join("of_node/dma-coherent").exists() && !bounces)
}

/// GET_PARAM says whether there is user memory: on GPUs that are coherent with the CPUs and reach
/// all memory. On others it is refused, and that costs nothing.
fn supported(gpu: &Gpu) -> Outcome {
    if gpu.node.driver == "panfrost" {
        return Err(Stop::Skip("no such UAPI".into()));
    }
    let device = gpu.open()?;
    if is_coherent(gpu)? {
        check_eq!(device.param(uapi::PARAM_USERPTR)?, 1);
        return Ok(());
    }
    check_errno!(device.param(uapi::PARAM_USERPTR), EINVAL);
    let memory = Memory::anonymous(4 * PAGE)?;
    let before = device.create(PAGE, uapi::BO_NOEXEC)?;
    let (handle, va) = (before.handle(), before.va());
    before.close()?;
    for flags in [0, uapi::USERPTR_READONLY] {
        check_errno!(memory.bo(&device, flags), EOPNOTSUPP);
        // Arguments that are wrong anywhere are told so first.
        check_errno!(memory.bo(&device, flags | 2), EINVAL);
    }
    null(&device)?;
    let after = device.create(PAGE, uapi::BO_NOEXEC)?;
    check_eq!((after.handle(), after.va()), (handle, va));
    Ok(())
}

/// Memory that even the kernel cannot reach is not for the GPU.
fn secret(gpu: &Gpu) -> Outcome {
    const SYS_MEMFD_SECRET: libc::c_long = 447;

    // SAFETY: no flags.
    let fd = unsafe { libc::syscall(SYS_MEMFD_SECRET, 0) } as i32;
    if let Err(errno) = done(fd) {
        return Err(Stop::Skip(format!("memfd_secret: {errno}")));
    }
    let len = 4 * PAGE;
    // SAFETY: our own file.
    done(unsafe { libc::ftruncate(fd, len as libc::off_t) })?;
    let device = gpu.open()?;
    let whole = Memory {
        start: raw_mmap(0, len, RW, libc::MAP_SHARED, fd)?,
        len,
    };
    // A page of it in the middle of what the GPU has.
    let mixed = Memory::anonymous(3 * PAGE)?;
    let bo = mixed.bo(&device, 0)?;
    null(&device)?;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    raw_mmap(mixed.start + PAGE, PAGE, RW, flags, fd)?;
    // Touched or not.
    for _ in 0..2 {
        for flags in [0, uapi::USERPTR_READONLY] {
            check_errno!(whole.bo(&device, flags), EFAULT);
        }
        check_errno!(null(&device), EFAULT);
        whole.fill();
    }
    bo.close()?;
    null(&device)?;
    check_eq!(whole.get64(len - 8), PATTERN64);
    // SAFETY: our own file.
    unsafe { libc::close(fd) };
    Ok(())
}

/// Nothing has to be done for a GPU that is coherent, and nothing is: two pages that nobody has
/// written to are one and the same.
fn sync(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let untouched = Memory {
        start: raw_mmap(0, 2 * PAGE, RW, ANONYMOUS, -1)?,
        len: 2 * PAGE,
    };
    let touched = Memory::anonymous(2 * PAGE)?;
    let bos = [
        untouched.bo(&device, uapi::USERPTR_READONLY)?,
        touched.bo(&device, 0)?,
    ];
    for bo in &bos {
        for kind in [uapi::SYNC_FLUSH, uapi::SYNC_FLUSH_AND_INVALIDATE] {
            for (offset, size) in [(0, 2 * PAGE), (8, 16), (PAGE - 8, 16), (2 * PAGE, 0)] {
                bo::sync(&device, bo.handle(), kind, offset as u32, size as u32)?;
            }
            for (offset, size) in [(0, 2 * PAGE + 1), (2 * PAGE, 1), (u32::MAX as usize, 2)] {
                let result = bo::sync(&device, bo.handle(), kind, offset as u32, size as u32);
                check_errno!(result, EINVAL);
            }
        }
    }
    check_eq!(touched.get64(0), PATTERN64);
    zero_all(&device, &[&bos[1]], &[bos[1].va()])?;
    check_eq!(touched.get64(0), 0);
    Ok(())
}

/// A tag in the uppermost byte of a pointer is no part of the address.
fn tagged(gpu: &Gpu) -> Outcome {
    const PR_SET_TAGGED_ADDR_CTRL: i32 = 55;
    const PR_TAGGED_ADDR_ENABLE: libc::c_ulong = 1;
    const UNUSED: libc::c_ulong = 0;

    if !cfg!(target_arch = "aarch64") {
        return Err(Stop::Skip("pointers have no tags".into()));
    }
    // SAFETY: no pointers.
    let ret = unsafe {
        libc::prctl(
            PR_SET_TAGGED_ADDR_CTRL,
            PR_TAGGED_ADDR_ENABLE,
            UNUSED,
            UNUSED,
            UNUSED,
        )
    };
    if let Err(errno) = done(ret) {
        return Err(Stop::Skip(format!("no tagged addresses: {errno}")));
    }
    let device = gpu.open()?;
    let memory = Memory::anonymous(4 * PAGE)?;
    let bo = Bo::over_memory(&device, memory.start | 0x5a << 56, memory.len, 0)?;
    zero_all(&device, &[&bo], &[bo.va()])?;
    check_eq!(memory.get64(0), 0);
    // The notifier is at the right place.
    memory.advise(libc::MADV_DONTNEED)?;
    memory.put64(8, PATTERN64);
    zero_all(&device, &[&bo], &[bo.va() + 8])?;
    check_eq!(memory.get64(8), 0);
    memory.unmap()?;
    check_errno!(null(&device), EFAULT);
    bo.close()?;
    null(&device)?;
    Ok(())
}

const FILE_PAGES: usize = 16;

/// A file on a disk, filled with the pattern, and a mapping of it.
fn file_on(disk: &Disk) -> Result<(File, Memory), Stop> {
    let len = FILE_PAGES * PAGE;
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(disk.path().join("file"))?;
    file.set_len(len as u64)?;
    let memory = Memory {
        start: raw_mmap(0, len, RW, libc::MAP_SHARED, file.as_raw_fd())?,
        len,
    };
    memory.fill();
    file.sync_all()?;
    Ok((file, memory))
}

/// Has the GPU zero a word of each page of a file.
fn write_all(device: &Device, bo: &Bo, word: usize) -> Outcome {
    let addresses: Vec<u64> = (0..FILE_PAGES)
        .map(|page| bo.va() + (page * PAGE + 8 * word) as u64)
        .collect();
    zero_all(device, &[bo], &addresses)
}

/// Checks on the disk that the first `words` words of each page are zero, and the next is the
/// pattern.
fn check_disk(disk: &Disk, words: usize) -> Outcome {
    let len = FILE_PAGES * PAGE;
    drop_cached()?;
    let file = File::open(disk.path().join("file"))?;
    let memory = Memory {
        start: raw_mmap(0, len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd())?,
        len,
    };
    let mut cached = [0u8; FILE_PAGES];
    // SAFETY: a byte for each page.
    done(unsafe { libc::mincore(memory.start as *mut _, len, cached.as_mut_ptr()) })?;
    check!(
        cached.iter().all(|&page| page & 1 == 0),
        "not on the disk alone: {cached:?}"
    );
    for page in 0..FILE_PAGES {
        for word in 0..=words {
            let expected = if word < words { 0 } else { PATTERN64 };
            check_eq!(
                memory.get64(page * PAGE + 8 * word),
                expected,
                "page {page}"
            );
        }
    }
    Ok(())
}

/// fsync() finds what the GPU has written to a file, also after an earlier fsync().
fn file_synced(gpu: &Gpu) -> Outcome {
    let disk = Disk::new()?;
    let device = gpu.open()?;
    let (file, memory) = file_on(&disk)?;
    let bo = memory.bo(&device, 0)?;
    for word in 0..3 {
        write_all(&device, &bo, word)?;
        file.sync_all()?;
    }
    bo.close()?;
    drop((memory, file));
    check_disk(&disk, 3)
}

/// The last bytes that the GPU has written reach the file although the memory goes first, with the
/// BO or before it.
fn file_unmapped(gpu: &Gpu) -> Outcome {
    for bo_first in [true, false] {
        let disk = Disk::new()?;
        let device = gpu.open()?;
        let (file, memory) = file_on(&disk)?;
        let bo = memory.bo(&device, 0)?;
        file.sync_all()?;
        write_all(&device, &bo, 0)?;
        if bo_first {
            bo.close()?;
            memory.unmap()?;
        } else {
            memory.unmap()?;
            bo.close()?;
        }
        std::mem::forget(memory);
        drop(file);
        // SAFETY: no arguments.
        unsafe { libc::sync() };
        check_disk(&disk, 1)?;
    }
    Ok(())
}
