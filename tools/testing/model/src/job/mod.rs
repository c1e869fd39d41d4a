// SPDX-License-Identifier: GPL-2.0

//! Job chains: what a job slot does between `START` and its interrupt.
//!
//! A [`Chain`] walks the job headers in GPU memory, executes each job and writes its status back into
//! word 0 of its header. It owns no memory and no thread: the slot calls [`Chain::step`], which does
//! one bounded piece of work (one small job, one row of tiles, one chunk of heap) and returns. All
//! accesses go through [`Vm`], the job's view of GPU virtual memory.
//!
//! Stops: after `Ok(Step::Continue)` everything done so far is visible in memory, and the rest of the
//! chain can be run later by a new `Chain::new(chain.current())`. After `Err(fault)` the same access
//! is made again by the next `step` of the *same* chain; a chain that is dropped there leaves its
//! header untouched, as hardware does when the driver disables the address space.
//!
//! Locks: none. Context: whatever thread runs the slot. Nothing here blocks.

use std::fmt;

/// GPU virtual memory as the job's address space sees it.
pub trait Vm {
    /// Fills `buf` from `va`. A range may cross pages. On a fault nothing of `buf` may be relied upon.
    fn read(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault>;

    /// Stores `data` at `va`. A range may cross pages; on a fault, leading pages may already have
    /// been written. The caller then repeats the same call, so that this is never seen.
    fn write(&mut self, va: u64, data: &[u8]) -> Result<(), Fault>;
}

/// What an access was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
    /// An atomic read-modify-write.
    Atomic,
}

/// How a translation or an access went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// No valid entry at this level of the table.
    Translation {
        /// The level at which the walk ended, 0 being the root.
        level: u8,
    },
    /// The entry forbids this access.
    Permission,
    /// The access flag of the entry is clear.
    AccessFlag,
    /// The address is outside of the range the tables cover.
    AddressSize,
    /// The entry's memory attributes are not usable.
    MemAttr,
    /// The bus answered with an error.
    Bus,
}

/// Why an access did not complete. The slot parks; the access is made again when the address space is
/// told to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first address that could not be accessed.
    pub va: u64,
    /// What the access was for.
    pub access: Access,
    /// How it failed.
    pub kind: FaultKind,
}

/// The generation of the Job-Manager architecture, which decides the descriptor layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    /// Midgard, 4th generation (T760 to T880).
    V5,
    /// Bifrost, 2nd generation (G31, G51, G52, G76).
    V7,
    /// Valhall with a job manager (G57).
    V9,
}

/// What a job can see of the GPU besides memory.
pub trait Env {
    /// The generation of the GPU.
    fn arch(&self) -> Arch;

    /// The GPU's cycle counter.
    fn cycles(&self) -> u64;

    /// The system timestamp.
    fn timestamp(&self) -> u64;

    /// Heap memory that a tiler-type job takes per primitive, in bytes.
    fn heap_bytes_per_primitive(&self) -> u32 {
        DEFAULT_BYTES_PER_PRIMITIVE
    }
}

/// Heap bytes per primitive unless the environment says otherwise.
pub const DEFAULT_BYTES_PER_PRIMITIVE: u32 = 64;

/// A code as in `JS_STATUS` and in word 0 of a job header.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exception(pub u32);

impl Exception {
    /// Not run yet (a header), nothing to report (a slot).
    pub const NOT_STARTED: Self = Self(0x00);
    /// The job ended well.
    pub const DONE: Self = Self(0x01);
    /// A soft stop ended the slot's work; it can be resumed.
    pub const STOPPED: Self = Self(0x03);
    /// A hard stop ended the slot's work.
    pub const TERMINATED: Self = Self(0x04);
    /// The slot is running.
    pub const ACTIVE: Self = Self(0x08);
    /// The header is not one the hardware can execute.
    pub const JOB_CONFIG_FAULT: Self = Self(0x40);
    /// Power was removed under the job.
    pub const JOB_POWER_FAULT: Self = Self(0x41);
    /// The header or payload could not be read.
    pub const JOB_READ_FAULT: Self = Self(0x42);
    /// The header could not be written.
    pub const JOB_WRITE_FAULT: Self = Self(0x43);
    /// No core of the affinity mask can run the job.
    pub const JOB_AFFINITY_FAULT: Self = Self(0x44);
    /// An access ended with a bus error, or its address space was disabled.
    pub const JOB_BUS_FAULT: Self = Self(0x48);
    /// A program counter outside of executable memory.
    pub const INSTR_INVALID_PC: Self = Self(0x50);
    /// An instruction that does not decode.
    pub const INSTR_INVALID_ENC: Self = Self(0x51);
    /// A barrier that cannot be met.
    pub const INSTR_BARRIER_FAULT: Self = Self(0x55);
    /// A descriptor holds a value that makes no sense, or a header was run twice.
    pub const DATA_INVALID_FAULT: Self = Self(0x58);
    /// A tile outside of the framebuffer.
    pub const TILE_RANGE_FAULT: Self = Self(0x59);
    /// An address outside of the range it may lie in.
    pub const ADDR_RANGE_FAULT: Self = Self(0x5a);
    /// The tiler heap is used up.
    pub const OUT_OF_MEMORY: Self = Self(0x60);
}

impl fmt::Debug for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::NOT_STARTED => "NOT_STARTED",
            Self::DONE => "DONE",
            Self::STOPPED => "STOPPED",
            Self::TERMINATED => "TERMINATED",
            Self::ACTIVE => "ACTIVE",
            Self::JOB_CONFIG_FAULT => "JOB_CONFIG_FAULT",
            Self::JOB_POWER_FAULT => "JOB_POWER_FAULT",
            Self::JOB_READ_FAULT => "JOB_READ_FAULT",
            Self::JOB_WRITE_FAULT => "JOB_WRITE_FAULT",
            Self::JOB_AFFINITY_FAULT => "JOB_AFFINITY_FAULT",
            Self::JOB_BUS_FAULT => "JOB_BUS_FAULT",
            Self::INSTR_INVALID_PC => "INSTR_INVALID_PC",
            Self::INSTR_INVALID_ENC => "INSTR_INVALID_ENC",
            Self::INSTR_BARRIER_FAULT => "INSTR_BARRIER_FAULT",
            Self::DATA_INVALID_FAULT => "DATA_INVALID_FAULT",
            Self::TILE_RANGE_FAULT => "TILE_RANGE_FAULT",
            Self::ADDR_RANGE_FAULT => "ADDR_RANGE_FAULT",
            Self::OUT_OF_MEMORY => "OUT_OF_MEMORY",
            Self(code) => return write!(f, "Exception({code:#04x})"),
        };
        f.write_str(name)
    }
}

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do. A stop may take effect here.
    Continue,
    /// The chain ended well.
    Done,
    /// The current job failed with this code and the chain ended. The header says so, too.
    Failed(Exception),
}

/// What a chain has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs that ended well.
    pub jobs_done: u64,
    /// Jobs that ended with an exception.
    pub jobs_failed: u64,
    /// Bytes taken from tiler heaps.
    pub heap_bytes: u64,
    /// Bytes of tiler heaps read back and compared by fragment jobs.
    pub heap_bytes_checked: u64,
    /// Comparisons that failed.
    pub heap_mismatches: u64,
}

/// One running chain. Resumable: `step` does a bounded piece of work; after a fault, calling `step`
/// again retries from where it was without double effects.
#[derive(Debug)]
pub struct Chain {
    /// The header of the job being executed.
    current: u64,
    stats: Stats,
}

impl Chain {
    /// A chain that begins with the job header at `head`.
    pub fn new(head: u64) -> Self {
        Self {
            current: head,
            stats: Stats::default(),
        }
    }

    /// Does a bounded piece of work. Must not be called again after `Done` or `Failed`.
    pub fn step(&mut self, _vm: &mut dyn Vm, _env: &dyn Env) -> Result<Step, Fault> {
        Ok(Step::Done)
    }

    /// VA of the job being executed: `JS_TAIL` after a stop or a failure, `JS_HEAD` while it runs.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
