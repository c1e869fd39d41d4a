// SPDX-License-Identifier: GPL-2.0

//! Guest memory, mapped from the emulator's file descriptors.
//!
//! The guest's processors access it at the same time. Naturally aligned words of 4 and 8 bytes,
//! such as page-table entries and job status, are loaded and stored whole; anything else is copied,
//! so a guest that races with its own GPU may see torn data.
//!
//! Locks: the map's, innermost, taken for reading by every access, and for writing by the
//! emulator's map and unmap messages.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::PoisonError;
use std::sync::RwLock;

use model::host::BusError;
use model::host::GuestMemory;

/// One mapped range.
struct Mapping {
    start: *mut u8,
    len: usize,
    writable: bool,
}

// SAFETY: it owns its range of addresses, which is valid in every thread.
unsafe impl Send for Mapping {}
// SAFETY: accesses are raw loads and stores of memory that is shared with other processes anyway.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: &File, offset: u64, size: u64, writable: bool) -> io::Result<Self> {
        let bad = || io::Error::from(io::ErrorKind::InvalidInput);
        let len = usize::try_from(size).map_err(|_| bad())?;
        let offset = libc::off_t::try_from(offset).map_err(|_| bad())?;
        let prot = if writable {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_READ
        };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                prot,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            len,
            writable,
        })
    }

    /// Returns the host address of a byte, and the number of bytes from there on. `offset` may have
    /// any value.
    fn at(&self, offset: u64) -> Option<(*mut u8, usize)> {
        let offset = usize::try_from(offset).ok()?;
        let left = self.len.checked_sub(offset).filter(|&left| left > 0)?;
        // SAFETY: `offset` is inside the mapping.
        Some((unsafe { self.start.add(offset) }, left))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and not used any more: accesses hold the map's lock.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Guest memory by bus address.
pub(crate) struct DmaMap(RwLock<BTreeMap<u64, Mapping>>);

impl DmaMap {
    /// Creates an empty map.
    pub(crate) fn new() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }

    /// Adds a range and removes ranges that it overlaps.
    pub(crate) fn map(
        &self,
        iova: u64,
        fd: &File,
        offset: u64,
        size: u64,
        writable: bool,
    ) -> io::Result<()> {
        if size == 0 || iova.checked_add(size - 1).is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mapping = Mapping::new(fd, offset, size, writable)?;
        self.unmap(iova, size);
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(iova, mapping);
        Ok(())
    }

    /// Removes every range that has a byte in this one.
    pub(crate) fn unmap(&self, iova: u64, size: u64) {
        let last = iova.saturating_add(size.saturating_sub(1));
        let mut map = self.0.write().unwrap_or_else(PoisonError::into_inner);
        map.retain(|&start, mapping| start > last || start + (mapping.len as u64 - 1) < iova);
    }

    /// Removes everything.
    pub(crate) fn unmap_all(&self) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Calls `each` for every piece of `pa..pa + len`, with its host address, position in the range
    /// and length.
    fn pieces(
        &self,
        pa: u64,
        len: usize,
        write: bool,
        mut each: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), BusError> {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < len {
            let at = pa.checked_add(done as u64).ok_or(BusError)?;
            let (&start, mapping) = map.range(..=at).next_back().ok_or(BusError)?;
            if write && !mapping.writable {
                return Err(BusError);
            }
            let (host, left) = mapping.at(at - start).ok_or(BusError)?;
            let piece = left.min(len - done);
            each(host, done, piece);
            done += piece;
        }
        Ok(())
    }
}

/// Copies like a bus: aligned words are accessed whole.
///
/// # Safety
///
/// `from` and `to` must be valid for `len` bytes and must not overlap.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    let aligned = (from as usize | to as usize) % len.max(1) == 0;
    // SAFETY: as the caller promises; alignment has been checked.
    unsafe {
        match (len, aligned) {
            (4, true) => to
                .cast::<u32>()
                .write_volatile(from.cast::<u32>().read_volatile()),
            (8, true) => to
                .cast::<u64>()
                .write_volatile(from.cast::<u64>().read_volatile()),
            _ => ptr::copy_nonoverlapping(from, to, len),
        }
    }
}

/// A word's worth of bytes on the stack, aligned, so that [`copy`] can move it whole.
#[repr(align(8))]
struct Word([u8; 8]);

impl GuestMemory for DmaMap {
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), BusError> {
        self.pieces(pa, buf.len(), false, |host, done, len| {
            let mut word = Word([0; 8]);
            if len <= 8 {
                // SAFETY: the mapping is valid for `len` bytes from `host`, the word is on the
                // stack.
                unsafe { copy(host, word.0.as_mut_ptr(), len) };
                buf[done..done + len].copy_from_slice(&word.0[..len]);
            } else {
                let to = &mut buf[done..done + len];
                // SAFETY: the mapping is valid for `len` bytes from `host`, `to` is as long.
                unsafe { copy(host, to.as_mut_ptr(), len) };
            }
        })
    }

    fn write(&self, pa: u64, data: &[u8]) -> Result<(), BusError> {
        self.pieces(pa, data.len(), true, |host, done, len| {
            let from = &data[done..done + len];
            let mut word = Word([0; 8]);
            if len <= 8 {
                word.0[..len].copy_from_slice(from);
                // SAFETY: the mapping is valid and writable for `len` bytes from `host`, the word
                // is on the stack.
                unsafe { copy(word.0.as_ptr(), host, len) };
            } else {
                // SAFETY: the mapping is valid and writable for `len` bytes from `host`, `from` is
                // as long.
                unsafe { copy(from.as_ptr(), host, len) };
            }
        })
    }

    fn check_write(&self, pa: u64, len: usize) -> Result<(), BusError> {
        self.pieces(pa, len, true, |_, _, _| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::FromRawFd;

    fn memfd(bytes: &[u8]) -> File {
        // SAFETY: the name is a valid string; the descriptor is new and ours.
        let mut file = unsafe {
            let fd = libc::memfd_create(c"test".as_ptr(), 0);
            assert!(fd >= 0);
            File::from_raw_fd(fd)
        };
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn ranges_of_a_file() {
        let mut bytes = vec![0; 0x3000];
        bytes[0x1ffc..0x2004].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let file = memfd(&bytes);
        let map = DmaMap::new();
        map.map(0x10_0000, &file, 0x1000, 0x1000, true).unwrap();
        map.map(0x10_1000, &file, 0x2000, 0x1000, false).unwrap();
        let mut buf = [0; 8];
        map.read(0x10_0ffc, &mut buf).unwrap();
        assert_eq!(buf, [1, 2, 3, 4, 5, 6, 7, 8]);
        map.write(0x10_0ff8, &[9; 8]).unwrap();
        assert_eq!(map.write(0x10_1000, &[9; 4]), Err(BusError));
        assert_eq!(map.check_write(0x10_0ffc, 4), Ok(()));
        assert_eq!(map.check_write(0x10_0ffc, 8), Err(BusError));
        assert_eq!(map.read(0x10_1ffc, &mut buf), Err(BusError));
        assert_eq!(map.read(0xf_fffc, &mut buf), Err(BusError));
        map.read(0x10_0ffc, &mut buf).unwrap();
        assert_eq!(buf, [9, 9, 9, 9, 5, 6, 7, 8]);
        map.unmap(0x10_0000, 0x1000);
        assert_eq!(map.read(0x10_0ff8, &mut buf), Err(BusError));
        map.read(0x10_1000, &mut buf).unwrap();
        map.unmap_all();
        assert_eq!(map.read(0x10_1000, &mut buf), Err(BusError));
    }

    #[test]
    fn a_new_map_replaces_the_old() {
        let map = DmaMap::new();
        map.map(0, &memfd(&[1; 0x2000]), 0, 0x2000, true).unwrap();
        map.map(0x1000, &memfd(&[2; 0x1000]), 0, 0x1000, true)
            .unwrap();
        let mut buf = [0; 4];
        map.read(0x1000, &mut buf).unwrap();
        assert_eq!(buf, [2; 4]);
        assert!(map.map(0, &memfd(&[]), 0, 0, true).is_err());
        assert!(map.map(u64::MAX, &memfd(&[1]), 0, 0x1000, true).is_err());
    }
}
