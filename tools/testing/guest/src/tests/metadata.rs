// SPDX-License-Identifier: GPL-2.0

//! Data that clients keep with BOs.

use std::fs;
use std::os::fd::AsFd;

use crate::bo;
use crate::bo::Bo;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::debugfs::file;
use crate::debugfs::shrink;
use crate::debugfs::ALL;
use crate::device::Device;
use crate::dmabuf;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

const PEER: &str = "no such UAPI";

pub(super) const TESTS: &[Test] = &[
    Test::new("metadata-set-get", &["A7"], set_get).panfrost_fails(PEER),
    Test::new("metadata-removed", &["A7"], removed).panfrost_fails(PEER),
    Test::new("metadata-size-query", &["A7"], size_query).panfrost_fails(PEER),
    Test::new("metadata-too-large", &["A7", "C5"], too_large).panfrost_fails(PEER),
    Test::new("metadata-too-small-buffer", &["A7", "C5"], too_small).panfrost_fails(PEER),
    Test::new("metadata-bad-pointer", &["A7", "C5"], bad_pointer).panfrost_fails(PEER),
    Test::new("metadata-bad", &["A7", "C5"], bad).panfrost_fails(PEER),
    Test::new("metadata-shared", &["A1", "A7"], shared).panfrost_fails(PEER),
    Test::new("metadata-of-imports", &["A1", "A7"], of_imports)
        .needs(&[Need::Card])
        .panfrost_fails(PEER),
    Test::new("metadata-kinds", &["A7"], kinds).panfrost_fails(PEER),
    Test::new("metadata-outlives-purge", &["A7", "D3"], outlives_purge).panfrost_fails(PEER),
    Test::new("metadata-debugfs", &["A7", "D8"], in_debugfs).panfrost_fails(PEER),
];

/// Bytes that a BO can have.
const MAX: usize = 128;

/// Addresses at which nobody has memory.
const NOWHERE: [u64; 3] = [1, 0xffff_8000_0000_0000, u64::MAX];

/// Bytes that differ from each other, and from those of another `seed`.
fn some(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|n| (n as u8).wrapping_add(seed)).collect()
}

fn small(device: &Device) -> sys::Result<Bo> {
    device.create(4096, uapi::BO_NOEXEC)
}

/// Asks for the metadata with so much room, and returns the size that the kernel tells.
fn get(device: &Device, bo: &Bo, buf: &mut [u8], room: usize) -> (sys::Result<()>, usize) {
    assert!(room <= buf.len());
    let mut arg = uapi::BoMetadata {
        handle: bo.handle(),
        data: buf.as_mut_ptr() as u64,
        size: room as u32,
        ..Default::default()
    };
    // SAFETY: there is room for so many bytes.
    let result = unsafe { bo::get_metadata_raw(device, &mut arg) };
    (result, arg.size as usize)
}

fn set_get(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = small(&device)?;
    let other = small(&device)?;
    check_eq!(device.param(uapi::PARAM_METADATA)?, MAX as u64);
    for len in [1, 5, 64, MAX - 1, MAX, 3] {
        let data = some(len, 1);
        bo.set_metadata(&data)?;
        check_eq!(bo.metadata()?, data);
        // As often as one likes, and with room to spare, which is left alone.
        let mut buf = [0xee; MAX + 8];
        check_eq!(get(&device, &bo, &mut buf, MAX + 8), (Ok(()), len));
        check!(buf[..len] == data, "{buf:x?} is not {data:x?}");
        check!(buf[len..].iter().all(|&byte| byte == 0xee), "{buf:x?}");
    }
    check_eq!(other.metadata_size()?, 0);
    Ok(())
}

/// Metadata go when others come, when they are removed, and with the BO.
fn removed(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = small(&device)?;
    // There is nothing to remove.
    bo.set_metadata(&[])?;
    bo.set_metadata(&some(MAX, 1))?;
    bo.set_metadata(&some(2, 9))?;
    check_eq!(bo.metadata()?, some(2, 9));
    bo.set_metadata(&[])?;
    check_eq!(bo.metadata_size()?, 0);
    // Nothing is read to remove them.
    for pointer in [0].into_iter().chain(NOWHERE) {
        bo.set_metadata(&some(4, 1))?;
        let mut none = uapi::BoMetadata {
            handle: bo.handle(),
            data: pointer,
            ..Default::default()
        };
        bo::set_metadata_raw(&device, &mut none)?;
        check_eq!(bo.metadata_size()?, 0, "data at {pointer:#x}");
    }
    bo.set_metadata(&some(4, 1))?;
    let handle = bo.handle();
    bo.close()?;
    let again = small(&device)?;
    check_eq!(again.handle(), handle);
    check_eq!(again.metadata_size()?, 0);
    Ok(())
}

/// Without a pointer the size is told, whatever size is asked for.
fn size_query(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = small(&device)?;
    for len in [0, 1, 77, MAX] {
        bo.set_metadata(&some(len, 1))?;
        for size in [0, 1, MAX as u32, u32::MAX] {
            let mut query = uapi::BoMetadata {
                handle: bo.handle(),
                size,
                ..Default::default()
            };
            // SAFETY: nothing is copied to a null pointer.
            unsafe { bo::get_metadata_raw(&device, &mut query)? };
            check_eq!(query.size as usize, len, "asked for {size}");
        }
    }
    Ok(())
}

fn too_large(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = small(&device)?;
    bo.set_metadata(&some(MAX, 1))?;
    for len in [MAX + 1, 4096] {
        check_errno!(bo.set_metadata(&some(len, 2)), EOVERFLOW);
    }
    // So much is not even looked for.
    for size in [MAX as u32 + 1, u32::MAX] {
        let mut bad = uapi::BoMetadata {
            handle: bo.handle(),
            data: NOWHERE[0],
            size,
            ..Default::default()
        };
        check_errno!(bo::set_metadata_raw(&device, &mut bad), EOVERFLOW);
    }
    check_eq!(bo.metadata()?, some(MAX, 1));
    Ok(())
}

/// Nothing is copied if not all of it fits, and the size is told.
fn too_small(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = small(&device)?;
    for len in [1, 50, MAX] {
        bo.set_metadata(&some(len, 1))?;
        for room in [0, len / 2, len - 1] {
            let mut buf = [0xee; MAX];
            check_eq!(
                get(&device, &bo, &mut buf, room),
                (Err(Errno(libc::ENOSPC)), len),
                "{len} bytes for {room}"
            );
            check!(buf.iter().all(|&byte| byte == 0xee), "{buf:x?}");
        }
        let mut buf = [0; MAX];
        check_eq!(get(&device, &bo, &mut buf, len), (Ok(()), len));
    }
    Ok(())
}

/// A pointer that cannot be read leaves the old metadata, and one that cannot be written does no
/// harm.
fn bad_pointer(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = small(&device)?;
    bo.set_metadata(&some(10, 1))?;
    for pointer in NOWHERE {
        let mut bad = uapi::BoMetadata {
            handle: bo.handle(),
            data: pointer,
            size: 10,
            ..Default::default()
        };
        check_errno!(bo::set_metadata_raw(&device, &mut bad), EFAULT);
        check_eq!(bo.metadata()?, some(10, 1), "set from {pointer:#x}");
        bad.size = 10;
        // SAFETY: no memory is there.
        let result = unsafe { bo::get_metadata_raw(&device, &mut bad) };
        check_errno!(result, EFAULT);
    }
    // A null pointer is one only when metadata are set.
    let mut none = uapi::BoMetadata {
        handle: bo.handle(),
        size: 1,
        ..Default::default()
    };
    check_errno!(bo::set_metadata_raw(&device, &mut none), EFAULT);
    check_eq!(bo.metadata()?, some(10, 1));
    Ok(())
}

fn bad(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = small(&device)?;
    bo.set_metadata(&some(8, 1))?;
    let mut buf = [0xee; 8];
    let good = uapi::BoMetadata {
        handle: bo.handle(),
        flags: 0,
        data: buf.as_mut_ptr() as u64,
        size: 8,
        pad: 0,
    };
    let set = |mut arg: uapi::BoMetadata| bo::set_metadata_raw(&device, &mut arg);
    // SAFETY: there is room for eight bytes.
    let get = |mut arg: uapi::BoMetadata| unsafe { bo::get_metadata_raw(&device, &mut arg) };
    for bit in 0..32 {
        let flagged = uapi::BoMetadata {
            flags: 1 << bit,
            ..good
        };
        let padded = uapi::BoMetadata {
            pad: 1 << bit,
            ..good
        };
        for arg in [flagged, padded] {
            check_errno!(set(arg), EINVAL);
            check_errno!(get(arg), EINVAL);
        }
    }
    for handle in [0, 0x7fff] {
        let unknown = uapi::BoMetadata { handle, ..good };
        check_errno!(set(unknown), ENOENT);
        check_errno!(get(unknown), ENOENT);
    }
    check_eq!(bo.metadata()?, some(8, 1));
    check_eq!(get(good), Ok(()));
    check!(buf[..] == some(8, 1));
    Ok(())
}

/// All files that have the BO have the same metadata.
fn shared(gpu: &Gpu) -> Outcome {
    let first = gpu.open()?;
    let second = gpu.open()?;
    let bo = small(&first)?;
    bo.set_metadata(&some(20, 1))?;
    let dmabuf = bo.export()?;
    let imported = Bo::import(&second, dmabuf.as_fd(), bo.size())?;
    check_eq!(imported.metadata()?, some(20, 1));
    imported.set_metadata(&some(MAX, 2))?;
    check_eq!(bo.metadata()?, some(MAX, 2));
    bo.set_metadata(&some(3, 3))?;
    check_eq!(imported.metadata()?, some(3, 3));
    // They stay as long as the BO does.
    bo.close()?;
    drop(first);
    check_eq!(imported.metadata()?, some(3, 3));
    imported.close()?;
    let back = Bo::import(&second, dmabuf.as_fd(), 4096)?;
    check_eq!(back.metadata()?, some(3, 3));
    Ok(())
}

/// The buffers of others can have metadata, too.
fn of_imports(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let Some((foreign, size)) = dmabuf::foreign(64, 64)? else {
        return Err(Stop::Skip("no second card".into()));
    };
    let bo = Bo::import(&device, foreign.as_fd(), size)?;
    check_eq!(bo.metadata_size()?, 0);
    bo.set_metadata(&some(30, 1))?;
    check_eq!(bo.metadata()?, some(30, 1));
    // It is the same BO, as long as the file has it.
    let again = Bo::import(&device, foreign.as_fd(), size)?;
    check_eq!(again.handle(), bo.handle());
    again.leak();
    check_eq!(bo.metadata()?, some(30, 1));
    Ok(())
}

fn kinds(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    for flags in [
        0,
        uapi::BO_NOEXEC,
        uapi::BO_NOEXEC | uapi::BO_HEAP,
        uapi::BO_NOEXEC | uapi::BO_WB_MMAP,
    ] {
        let bo = device.create(4096, flags)?;
        bo.set_metadata(&some(40, 1))?;
        check_eq!(bo.metadata()?, some(40, 1), "flags {flags:#x}");
    }
    Ok(())
}

/// Content that was given up goes; what is known of it stays.
fn outlives_purge(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(64 << 10, uapi::BO_NOEXEC)?;
    bo.map()?.fill(1);
    bo.set_metadata(&some(60, 1))?;
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    shrink(gpu, ALL)?;
    check!(!bo.madvise(uapi::MADV_WILLNEED)?, "it was not purged");
    check_eq!(bo.metadata()?, some(60, 1));
    Ok(())
}

fn in_debugfs(gpu: &Gpu) -> Outcome {
    const LABEL: &str = "with-metadata";
    let device = gpu.open()?;
    let bo = small(&device)?;
    bo.label(LABEL)?;
    // The last column but one.
    let shown = || -> Result<String, Stop> {
        let text = fs::read_to_string(file(gpu, "gems"))?;
        let line = text.lines().find(|line| line.ends_with(LABEL));
        let word = line.and_then(|line| line.split_whitespace().rev().nth(1));
        Ok(word.unwrap_or("no line").to_owned())
    };
    for len in [0, 1, MAX] {
        bo.set_metadata(&some(len, 1))?;
        check_eq!(shown()?, len.to_string());
    }
    Ok(())
}
