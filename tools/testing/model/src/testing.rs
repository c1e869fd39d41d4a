// SPDX-License-Identifier: GPL-2.0

//! Stand-ins for tests: memory, interrupt lines, page tables.
//!
//! They panic on misuse, which is what a test wants.
//!
//! Locks: one per memory, none is held across calls.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::Mutex;

use crate::host::BusError;
use crate::host::GuestMemory;
use crate::host::IrqSink;
use crate::host::Vector;

/// A stretch of memory.
pub struct Ram {
    base: u64,
    bytes: Mutex<Vec<u8>>,
}

impl Ram {
    /// `size` zero bytes from bus address `base`.
    pub fn new(base: u64, size: usize) -> Self {
        Self {
            base,
            bytes: Mutex::new(vec![0; size]),
        }
    }

    fn with<R>(&self, pa: u64, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, BusError> {
        let mut bytes = self.bytes.lock().unwrap();
        let start = usize::try_from(pa.checked_sub(self.base).ok_or(BusError)?).map_err(|_| BusError)?;
        let end = start.checked_add(len).ok_or(BusError)?;
        bytes.get_mut(start..end).map(f).ok_or(BusError)
    }

    /// Stores bytes.
    pub fn put(&self, pa: u64, data: &[u8]) {
        self.write(pa, data).expect("test memory");
    }

    /// Stores a 32-bit word.
    pub fn put32(&self, pa: u64, value: u32) {
        self.put(pa, &value.to_le_bytes());
    }

    /// Stores a 64-bit word.
    pub fn put64(&self, pa: u64, value: u64) {
        self.put(pa, &value.to_le_bytes());
    }

    /// Loads a 32-bit word.
    pub fn get32(&self, pa: u64) -> u32 {
        let mut word = [0; 4];
        self.read(pa, &mut word).expect("test memory");
        u32::from_le_bytes(word)
    }

    /// Loads a 64-bit word.
    pub fn get64(&self, pa: u64) -> u64 {
        let mut word = [0; 8];
        self.read(pa, &mut word).expect("test memory");
        u64::from_le_bytes(word)
    }
}

impl GuestMemory for Ram {
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), BusError> {
        self.with(pa, buf.len(), |bytes| buf.copy_from_slice(bytes))
    }

    fn write(&self, pa: u64, data: &[u8]) -> Result<(), BusError> {
        self.with(pa, data.len(), |bytes| bytes.copy_from_slice(data))
    }
}

/// Counts interrupts.
#[derive(Default)]
pub struct Lines([AtomicU32; 3]);

impl Lines {
    /// How many came since the last call.
    pub fn take(&self, vector: Vector) -> u32 {
        self.0[vector as usize].swap(0, Ordering::Relaxed)
    }
}

impl IrqSink for Lines {
    fn raise(&self, vector: Vector) {
        self.0[vector as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes Mali LPAE tables into a [`Ram`].
pub struct Tables<'a> {
    ram: &'a Ram,
    root: u64,
    next: u64,
}

impl<'a> Tables<'a> {
    /// Tables grow upwards from the page at `at`, which is the root.
    pub fn new(ram: &'a Ram, at: u64) -> Self {
        Self {
            ram,
            root: at,
            next: at + 0x1000,
        }
    }

    /// Bus address of the root.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Maps `size` bytes readable and writable, with 2 MiB blocks where they fit.
    pub fn map(&mut self, va: u64, pa: u64, size: u64) {
        self.map_with(va, pa, size, 0xc0);
    }

    /// Maps `size` bytes with these attribute bits.
    pub fn map_with(&mut self, va: u64, pa: u64, size: u64, bits: u64) {
        let mut done = 0;
        while done < size {
            let (va, pa) = (va + done, pa + done);
            let block = (va | pa) & 0x1f_ffff == 0 && size - done >= 0x20_0000;
            let level = if block { 2 } else { 3 };
            self.set(va, level, pa | 1 | bits);
            done += if block { 0x20_0000 } else { 0x1000 };
        }
    }

    /// Unmaps `size` bytes of 4 KiB pages.
    pub fn unmap(&mut self, va: u64, size: u64) {
        for offset in (0..size).step_by(0x1000) {
            self.set(va + offset, 3, 0);
        }
    }

    fn set(&mut self, va: u64, level: u32, entry: u64) {
        let mut table = self.root;
        for l in 0..level {
            let at = table + (va >> (39 - 9 * l) & 0x1ff) * 8;
            if self.ram.get64(at) & 3 != 3 {
                self.ram.put64(at, self.next | 3);
                self.next += 0x1000;
            }
            table = self.ram.get64(at) & !0xfff;
        }
        self.ram.put64(table + (va >> (39 - 9 * level) & 0x1ff) * 8, entry);
    }
}
