// SPDX-License-Identifier: GPL-2.0

//! Test doubles: memory, interrupt lines, page tables.
//!
//! They panic on misuse, as a test should.
//!
//! Locks: one per memory, none is held across calls.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Mutex;

use crate::control::Board;
use crate::control::Opcode;
use crate::control::Stat;
use crate::control::SCALE_FREQ_KHZ;
use crate::desc::JobHeader;
use crate::desc::JobType;
use crate::gpu::Gpu;
use crate::gpu::Timing;
use crate::host::BusError;
use crate::host::Clock;
use crate::host::GuestMemory;
use crate::host::IrqSink;
use crate::host::VirtualClock;
use crate::irq::Vector;
use crate::product::Product;
use crate::regs;

/// A range of memory.
pub struct Ram {
    base: u64,
    bytes: Mutex<Vec<u8>>,
}

impl Ram {
    /// Creates `size` zero bytes at bus address `base`.
    pub fn new(base: u64, size: usize) -> Self {
        Self {
            base,
            bytes: Mutex::new(vec![0; size]),
        }
    }

    fn with<R>(&self, pa: u64, len: usize, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, BusError> {
        let mut bytes = self.bytes.lock().unwrap();
        let start =
            usize::try_from(pa.checked_sub(self.base).ok_or(BusError)?).map_err(|_| BusError)?;
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

    fn check_write(&self, pa: u64, len: usize) -> Result<(), BusError> {
        self.with(pa, len, |_| ())
    }
}

/// Counts interrupts.
#[derive(Default)]
pub struct Lines([AtomicU32; 3]);

impl Lines {
    /// Returns the number of interrupts since the last call.
    pub fn take(&self, vector: Vector) -> u32 {
        self.0[vector as usize].swap(0, Ordering::Relaxed)
    }
}

impl IrqSink for Lines {
    fn raise(&self, vector: usize) {
        self.0[vector].fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes Mali LPAE tables into a [`Ram`].
pub struct Tables<'a> {
    ram: &'a Ram,
    root: u64,
    next: u64,
}

impl<'a> Tables<'a> {
    /// Creates tables that grow upwards from the page at `at`, which is the root.
    pub fn new(ram: &'a Ram, at: u64) -> Self {
        Self {
            ram,
            root: at,
            next: at + 0x1000,
        }
    }

    /// Returns the bus address of the root.
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
        self.ram
            .put64(table + (va >> (39 - 9 * level) & 0x1ff) * 8, entry);
    }
}

/// A GPU with memory, an address space and powered cores, as needed by most tests.
pub struct Bench {
    /// The GPU.
    pub gpu: Gpu,
    /// 16 MiB from bus address 0.
    pub ram: Arc<Ram>,
    /// Its interrupts.
    pub lines: Arc<Lines>,
    /// Its clock, which only advances when told to.
    pub clock: Arc<VirtualClock>,
}

/// The address at which [`Bench`] maps [`Bench::PA`] in address spaces 0 and 1: 1 MiB of 4 KiB
/// pages.
pub const VA: u64 = 0x200_0000;

impl Bench {
    /// The bus address that [`VA`] is mapped to.
    pub const PA: u64 = 0x10_0000;
    /// The page-table root of both address spaces.
    pub const ROOT: u64 = 0x1000;

    /// Creates a GPU on `board` that is not set up.
    pub fn cold(product: &'static Product, board: Board) -> Self {
        let ram = Arc::new(Ram::new(0, 0x100_0000));
        let lines = Arc::new(Lines::default());
        let clock = Arc::new(VirtualClock::new(0));
        let gpu = Gpu::new(
            product,
            ram.clone(),
            lines.clone(),
            clock.clone(),
            Timing::USUAL,
            board,
            None,
        );
        Self {
            gpu,
            ram,
            lines,
            clock,
        }
    }

    /// Creates a GPU that is powered up, with address spaces 0 and 1 enabled and all interrupts
    /// unmasked.
    pub fn new(product: &'static Product) -> Self {
        let mut bench = Self::cold(product, Board::new(false));
        Tables::new(&bench.ram, Self::ROOT).map(VA, Self::PA, 0x10_0000);
        bench.set_up();
        bench
    }

    /// Creates a GPU like [`Bench::new`], with the habits of silicon and the frequency for which
    /// its times are given.
    pub fn silicon(product: &'static Product) -> Self {
        let mut bench = Self::cold(product, Board::new(false));
        bench.gpu = bench.gpu.with_silicon_habits();
        bench.gpu.set_frequency(SCALE_FREQ_KHZ);
        Tables::new(&bench.ram, Self::ROOT).map(VA, Self::PA, 0x10_0000);
        bench.set_up();
        bench
    }

    /// Powers up, enables address spaces 0 and 1, and unmasks all interrupts.
    pub fn set_up(&mut self) {
        for on in [0x1a0, 0x180, 0x190] {
            self.gpu.write32(on, !0);
        }
        for n in 0..2 {
            let space = regs::AS_BASE + n * regs::AS_STRIDE;
            self.gpu
                .write32(space + regs::AS_TRANSTAB, Self::ROOT as u32 | 3);
            self.gpu
                .write32(space + regs::AS_COMMAND, regs::AS_COMMAND_UPDATE);
        }
        self.settle();
        for (mask, clear) in [
            (regs::JOB_INT_MASK, regs::JOB_INT_CLEAR),
            (regs::MMU_INT_MASK, regs::MMU_INT_CLEAR),
            (regs::GPU_INT_MASK, regs::GPU_INT_CLEAR),
        ] {
            self.gpu.write32(clear, !0);
            self.gpu.write32(mask, !0);
        }
    }

    /// Runs jobs for at most `steps` steps, without advancing the clock.
    pub fn steps(&mut self, steps: usize) {
        self.gpu.tick();
        for _ in 0..steps {
            if !self.gpu.step() {
                return;
            }
            self.gpu.tick();
        }
    }

    /// Runs jobs and advances the clock until nothing more happens by itself.
    pub fn settle(&mut self) {
        loop {
            self.steps(10_000);
            assert!(!self.gpu.runnable(), "endless");
            let Some(when) = self.gpu.deadline() else {
                return;
            };
            self.clock.skip_to(when);
        }
    }

    /// Advances the clock by `us` microseconds and runs jobs.
    pub fn pass(&mut self, us: u64) {
        self.clock.advance(us * 1000);
        self.steps(10_000);
    }

    /// Puts a NULL job at `offset` from [`VA`], followed by the one at `next`.
    pub fn null_job(&self, offset: u64, next: Option<u64>) -> u64 {
        let header = JobHeader {
            next: next.map_or(0, |next| VA + next),
            ..JobHeader::new(JobType::Null)
        };
        self.ram.put(Self::PA + offset, &header.encode());
        VA + offset
    }

    /// Puts a WRITE_VALUE job that stores zero to `target`, followed by the one at `next`.
    pub fn zero_job(&self, offset: u64, target: u64, next: Option<u64>) -> u64 {
        self.zero_job_with(offset, target, next, |_| ())
    }

    /// Puts a job like [`Bench::zero_job`], with changes to the header.
    pub fn zero_job_with(
        &self,
        offset: u64,
        target: u64,
        next: Option<u64>,
        change: impl FnOnce(&mut JobHeader),
    ) -> u64 {
        let mut header = JobHeader {
            next: next.map_or(0, |next| VA + next),
            ..JobHeader::new(JobType::WriteValue)
        };
        change(&mut header);
        self.ram.put(Self::PA + offset, &header.encode());
        self.ram.put64(Self::PA + offset + 32, target);
        self.ram.put64(Self::PA + offset + 40, 3);
        VA + offset
    }

    /// Puts two WRITE_VALUE jobs that clear each other's status and form an endless chain.
    pub fn endless(&self, offset: u64) -> u64 {
        let other = offset + 64;
        self.zero_job_with(offset, VA + other, Some(other), |job| job.barrier = true);
        self.zero_job_with(other, VA + offset, Some(offset), |job| job.barrier = true);
        VA + offset
    }

    /// Returns the word at `offset` from [`VA`], such as the status of a job, as the GPU sees it.
    pub fn status(&self, offset: u64) -> u32 {
        let mut word = [0; 4];
        let stores = &self.gpu.mmu.stores;
        stores
            .read(&*self.ram, Self::PA + offset, &mut word)
            .expect("test memory");
        u32::from_le_bytes(word)
    }

    /// Writes a register of a slot.
    pub fn slot(&mut self, n: u32, reg: u32, value: u32) {
        self.gpu
            .write32(regs::JS_BASE + n * regs::JS_STRIDE + reg, value);
    }

    /// Reads a register of a slot.
    pub fn slot_reg(&mut self, n: u32, reg: u32) -> u32 {
        self.gpu.read32(regs::JS_BASE + n * regs::JS_STRIDE + reg)
    }

    /// Submits a chain as the next one of a slot. `config` holds the address space; caches are
    /// flushed at its start and end, as every driver does.
    pub fn submit(&mut self, n: u32, head: u64, config: u32) {
        self.slot(n, regs::JS_HEAD_NEXT, head as u32);
        self.slot(n, regs::JS_HEAD_NEXT + 4, (head >> 32) as u32);
        self.slot(n, regs::JS_AFFINITY_NEXT, !0);
        self.slot(n, regs::JS_AFFINITY_NEXT + 4, !0);
        let flushes = regs::JS_CONFIG_START_FLUSH | regs::JS_CONFIG_END_FLUSH;
        self.slot(n, regs::JS_CONFIG_NEXT, config | flushes);
        self.slot(n, regs::JS_COMMAND_NEXT, regs::JS_COMMAND_START);
    }

    /// Returns the job interrupts and clears them.
    pub fn take_job_irqs(&mut self) -> u32 {
        let raw = self.gpu.read32(regs::JOB_INT_RAWSTAT);
        self.gpu.write32(regs::JOB_INT_CLEAR, raw);
        raw
    }

    /// Performs a command of address space `n`.
    pub fn as_command(&mut self, n: u32, command: u32) {
        self.gpu.write32(
            regs::AS_BASE + n * regs::AS_STRIDE + regs::AS_COMMAND,
            command,
        );
    }

    /// Performs an order of the control channel.
    pub fn order(&mut self, opcode: Opcode, args: [u32; 3]) {
        let [a, b, c] = args;
        self.gpu.order((opcode, [a, b, c, 0])).expect("order");
    }

    /// Reads a statistic.
    pub fn stat(&mut self, stat: Stat) -> u32 {
        self.gpu.control_read32(stat.offset())
    }
}
