// SPDX-License-Identifier: GPL-2.0

//! BOs: making, mapping, placing, advising, naming.

use std::fs;
use std::os::fd::AsFd;

use crate::bo;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::sys::Mapping;
use crate::uapi;

use super::target;
use super::PATTERN;

pub(super) const TESTS: &[Test] = &[
    Test::new("create-flags", &["C5"], flags),
    Test::new("create-write-back", &["C5"], write_back).needs(&[Need::Minor(6)]),
    Test::new("create-bad", &["C5"], create_bad),
    Test::new("create-zeroed", &["A3"], zeroed),
    Test::new("create-heap", &["B1"], heap),
    Test::new("create-address-space-full", &["C5"], full),
    Test::new("mmap-read-write", &["I1"], mmap),
    Test::new("mmap-after-close", &["A2"], mmap_after_close),
    Test::new("mmap-bad", &["B4", "C5"], mmap_bad),
    Test::new("mmap-other-file", &["C5"], mmap_other_file),
    Test::new("offset-same", &["I1"], offset),
    Test::new("offset-rules", &["F5"], placement),
    Test::new("offset-executable", &["I1"], executable),
    Test::new("close-bad", &["C5"], close_bad),
    Test::new("madvise-retained", &["D3"], madvise),
    Test::new("madvise-bad", &["C5"], madvise_bad),
    Test::new("madvise-shared", &["D3"], madvise_shared),
    Test::new("label-set", &["A8"], label).needs(&[Need::Minor(4)]),
    Test::new("label-bad", &["A8", "C5"], label_bad).needs(&[Need::Minor(4)]),
    Test::new("label-debugfs", &["A8"], label_debugfs).needs(&[Need::Minor(4)]),
];

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

fn raw(device: &Device, size: u32, flags: u32) -> crate::sys::Result<u32> {
    let mut arg = uapi::CreateBo {
        size,
        flags,
        ..Default::default()
    };
    bo::create_raw(device, &mut arg)?;
    Ok(arg.handle)
}

fn flags(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for good in [0, uapi::BO_NOEXEC, uapi::BO_NOEXEC | uapi::BO_HEAP] {
        let handle = raw(&device, 4096, good)?;
        check!(handle != 0);
        device.close_handle(handle)?;
    }
    // A heap cannot be executable.
    check_errno!(raw(&device, 4096, uapi::BO_HEAP), EINVAL);
    for unknown in 3..32 {
        check_errno!(raw(&device, 4096, 1 << unknown), EINVAL);
        check_errno!(raw(&device, 4096, uapi::BO_NOEXEC | (1 << unknown)), EINVAL);
    }
    // Nor mapped at all.
    let heap = uapi::BO_NOEXEC | uapi::BO_HEAP | uapi::BO_WB_MMAP;
    check_errno!(raw(&device, 4096, heap), EINVAL);
    Ok(())
}

fn write_back(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for flags in [uapi::BO_WB_MMAP, uapi::BO_WB_MMAP | uapi::BO_NOEXEC] {
        let bo = device.create(0x600, flags)?;
        bo.map()?.fill(PATTERN);
    }
    Ok(())
}

fn create_bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    check_errno!(raw(&device, 0, uapi::BO_NOEXEC), EINVAL);
    let mut padded = uapi::CreateBo {
        size: 4096,
        flags: uapi::BO_NOEXEC,
        pad: 1,
        ..Default::default()
    };
    check_errno!(bo::create_raw(&device, &mut padded), EINVAL);
    Ok(())
}

fn zeroed(gpu: &Gpu) -> Outcome {
    let first = gpu.open()?;
    let second = gpu.open()?;
    for size in [4096, 3 * 4096, 2 * MIB, 2 * MIB + 4096] {
        let (bo, map) = target(&first, size)?;
        drop(map);
        bo.close()?;
        let bytes = second.create(size, uapi::BO_NOEXEC)?.map()?.bytes(0, size);
        if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
            check!(false, "byte {at} of {size} is {:#x}", bytes[at]);
        }
    }
    Ok(())
}

fn heap(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    // The sizes that Mesa asks for; the second is a multiple of nothing.
    for size in [128 * MIB, 144_000_000, 4096, 1] {
        let bo = device.create(size, uapi::BO_NOEXEC | uapi::BO_HEAP)?;
        check!(bo.va() != 0);
        // Growing by blocks of 2 MiB wants them aligned.
        check_eq!(bo.va() % (2 * MIB as u64), 0);
    }
    Ok(())
}

fn full(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let flags = uapi::BO_NOEXEC | uapi::BO_HEAP;
    let first = device.create(1 << 31, flags)?;
    // 4 GiB, less what is kept free at the bottom.
    check_errno!(raw(&device, 1 << 31, flags), ENOSPC);
    // The failure leaves no trace, and another file has an address space of its own.
    device.create(1 << 30, flags)?;
    gpu.open()?.create(1 << 31, flags)?;
    drop(first);
    device.create(1 << 31, flags)?;
    Ok(())
}

fn mmap(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for size in [4096, 5 * 4096, 2 * MIB] {
        let (bo, first) = target(&device, size)?;
        let second = bo.map()?;
        let data: Vec<u8> = (0..size).map(|n| (n / 7) as u8).collect();
        first.write(0, &data);
        check!(second.bytes(0, size) == data, "the mappings differ");
        second.put32(size - 4, 0x1234_5678);
        check_eq!(first.get32(size - 4), 0x1234_5678);
    }
    Ok(())
}

fn mmap_after_close(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 16 * 4096)?;
    bo.close()?;
    check_eq!(map.get32(15 * 4096) as u8, PATTERN);
    drop(device);
    map.put32(4096, 1);
    check_eq!(map.get32(4096), 1);
    Ok(())
}

fn mmap_bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    check_errno!(bo::mmap_offset(&device, 0), ENOENT);
    check_errno!(bo::mmap_offset(&device, 0x7fff), ENOENT);
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    let mut flagged = uapi::MmapBo {
        handle: bo.handle(),
        flags: 1,
        offset: 0,
    };
    check_errno!(bo::mmap_raw(&device, &mut flagged), EINVAL);
    let heap = device.create(2 * MIB, uapi::BO_NOEXEC | uapi::BO_HEAP)?;
    check_errno!(bo::mmap_offset(&device, heap.handle()), EINVAL);
    Ok(())
}

fn mmap_other_file(gpu: &Gpu) -> Outcome {
    let owner = gpu.open()?;
    let other = gpu.open()?;
    let bo = owner.create(4096, uapi::BO_NOEXEC)?;
    let offset = bo::mmap_offset(&owner, bo.handle())?;
    check_errno!(Mapping::new(other.as_fd(), offset, 4096), EACCES);
    Mapping::new(owner.as_fd(), offset, 4096)?;
    // Further than the BO reaches.
    check_errno!(Mapping::new(owner.as_fd(), offset, 8192), EINVAL);
    Ok(())
}

fn offset(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    check_eq!(bo::offset(&device, bo.handle())?, bo.va());
    check_errno!(bo::offset(&device, 0), ENOENT);
    check_errno!(bo::offset(&device, 0x7fff), ENOENT);
    // Handles are of one file.
    let handle = bo.handle();
    check_errno!(bo::offset(&gpu.open()?, handle), ENOENT);
    bo.close()?;
    check_errno!(bo::offset(&device, handle), ENOENT);
    Ok(())
}

/// Mesa relies on 32-bit addresses above the lowest 32 MiB; nothing overlaps.
fn placement(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let sizes = [1, 2, 3, 15, 16, 17, 512, 513, 1024].map(|pages| pages * 4096);
    let mut bos = Vec::new();
    for n in 0..90 {
        let flags = if n % 2 == 0 { uapi::BO_NOEXEC } else { 0 };
        let bo = device.create(sizes[n % sizes.len()], flags)?;
        if flags != 0 && bo.size() >= 2 * MIB {
            check_eq!(bo.va() % (2 * MIB as u64), 0, "no block can map it");
        }
        bos.push(bo);
    }
    let mut ranges: Vec<_> = bos
        .iter()
        .map(|bo| (bo.va(), bo.va() + bo.size() as u64))
        .collect();
    ranges.sort_unstable();
    for &(start, end) in &ranges {
        check!(start >= 0x200_0000, "a BO at {start:#x}");
        check!(end <= 4 * GIB, "a BO up to {end:#x}");
        check_eq!(start % 4096, 0);
    }
    for pair in ranges.windows(2) {
        check!(pair[0].1 <= pair[1].0, "{pair:x?} overlap");
    }
    Ok(())
}

/// The program counter has 24 bits: code must not cross a multiple of 16 MiB, nor start at or reach
/// one of 4 GiB.
fn executable(gpu: &Gpu) -> Outcome {
    const WINDOW: u64 = 16 << 20;
    let device = gpu.open()?;
    let mut bos = Vec::new();
    for n in 0..60usize {
        let pages = [1, 3, 16, 100, 513, 2048, 4096][n % 7];
        let bo = device.create(pages * 4096, 0)?;
        let (start, end) = (bo.va(), bo.va() + bo.size() as u64);
        check!(
            start / WINDOW == (end - 1) / WINDOW,
            "{start:#x} to {end:#x} crosses"
        );
        check!(start % (4 * GIB) != 0 && end % (4 * GIB) != 0);
        bos.push(bo);
        // A BO in between makes the next one's place less convenient.
        bos.push(device.create((n % 5 + 1) * 4096, uapi::BO_NOEXEC)?);
    }
    Ok(())
}

fn close_bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    check_errno!(device.close_handle(0), EINVAL);
    check_errno!(device.close_handle(0x7fff), EINVAL);
    let handle = device.create(4096, uapi::BO_NOEXEC)?.leak();
    device.close_handle(handle)?;
    check_errno!(device.close_handle(handle), EINVAL);
    Ok(())
}

fn madvise(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, 64 * 1024)?;
    check!(bo.madvise(uapi::MADV_WILLNEED)?, "a new BO is retained");
    check!(bo.madvise(uapi::MADV_DONTNEED)?, "nothing took it");
    check!(bo.madvise(uapi::MADV_DONTNEED)?, "nothing took it");
    // If memory was short meanwhile it may be gone; then it has to say so.
    if bo.madvise(uapi::MADV_WILLNEED)? {
        check_eq!(map.get32(0) as u8, PATTERN);
    }
    check!(bo.madvise(uapi::MADV_DONTNEED).is_ok());
    Ok(())
}

fn madvise_bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for madv in [uapi::MADV_WILLNEED, uapi::MADV_DONTNEED] {
        check_errno!(bo::madvise(&device, 0, madv), ENOENT);
        check_errno!(bo::madvise(&device, 0x7fff, madv), ENOENT);
    }
    Ok(())
}

/// A BO that several files use cannot be given up by one of them.
fn madvise_shared(gpu: &Gpu) -> Outcome {
    let first = gpu.open()?;
    let second = gpu.open()?;
    let bo = first.create(4096, uapi::BO_NOEXEC)?;
    let dmabuf = bo.export()?;
    let shared = bo::Bo::import(&second, dmabuf.as_fd(), 4096)?;
    check_errno!(bo.madvise(uapi::MADV_DONTNEED), EINVAL);
    check_errno!(shared.madvise(uapi::MADV_DONTNEED), EINVAL);
    check!(bo.madvise(uapi::MADV_WILLNEED)?);
    shared.close()?;
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    Ok(())
}

fn label(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    bo.label("Batch pool")?;
    bo.label("Unused (BO cache)")?;
    bo.label("")?;
    bo.label(&"x".repeat(uapi::LABEL_MAX - 1))?;
    let mut none = uapi::SetLabelBo {
        handle: bo.handle(),
        ..Default::default()
    };
    bo::label_raw(&device, &mut none)?;
    Ok(())
}

fn label_bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    check_errno!(bo.label(&"x".repeat(uapi::LABEL_MAX)), E2BIG);
    check_errno!(bo.label(&"x".repeat(100_000)), E2BIG);
    for pointer in [1, 0xffff_8000_0000_0000, u64::MAX] {
        let mut bad = uapi::SetLabelBo {
            handle: bo.handle(),
            pad: 0,
            label: pointer,
        };
        check_errno!(bo::label_raw(&device, &mut bad), EFAULT);
    }
    let text = c"text".as_ptr() as u64;
    let mut padded = uapi::SetLabelBo {
        handle: bo.handle(),
        pad: 1,
        label: text,
    };
    check_errno!(bo::label_raw(&device, &mut padded), EINVAL);
    for handle in [0, 0x7fff] {
        let mut unknown = uapi::SetLabelBo {
            handle,
            pad: 0,
            label: text,
        };
        check_errno!(bo::label_raw(&device, &mut unknown), ENOENT);
    }
    Ok(())
}

fn label_debugfs(gpu: &Gpu) -> Outcome {
    let number = gpu.node.path.to_string_lossy();
    let number: String = number.chars().filter(char::is_ascii_digit).collect();
    let path = format!("/sys/kernel/debug/dri/{number}/gems");
    let gems = || fs::read_to_string(&path).map_err(|e| Stop::Skip(format!("{path}: {e}")));
    gems()?;
    let device = gpu.open()?;
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    bo.label("first label")?;
    check!(gems()?.contains("first label"));
    bo.label("another label")?;
    check!(gems()?.contains("another label") && !gems()?.contains("first label"));
    bo.close()?;
    check!(!gems()?.contains("another label"));
    Ok(())
}
