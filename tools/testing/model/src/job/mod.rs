// SPDX-License-Identifier: GPL-2.0

//! Job chains: the work of a job slot between `START` and its interrupt.
//!
//! A [`Chain`] walks the job headers in GPU memory, executes each job and writes its status back
//! into word 0 of its header. It owns no memory and no thread: the slot calls [`Chain::step`],
//! which does one bounded piece of work (one small job, one row of tiles, one chunk of heap, one
//! page) and returns. All accesses go through [`Vm`], the job's view of GPU virtual memory.
//!
//! Stops: after `Ok(Step::Continue)` everything done so far is visible in memory, and the rest of
//! the chain can be run later by a new `Chain::new(chain.current())`, provided that
//! [`Chain::stoppable`] holds. After `Err(fault)` the next `step` of the *same* chain repeats the
//! access; a chain that is dropped at that point leaves its header untouched, as hardware does when
//! the driver disables the address space.
//!
//! Order: [`Chain::step`] alone runs the jobs one after the other. If [`Chain::step_ahead`] is
//! called in between, the job after the oldest one that is not over is executed concurrently,
//! unless it has the barrier flag, depends on the oldest one or needs the same fixed-function unit,
//! or the oldest one suppresses prefetch. It may be done first. `JS_HEAD` is the oldest job; a
//! chain that is ended while a later job is done cannot be resumed.
//!
//! Status: a job runs only if word 0 of its header is 0 or STOPPED; any other value, DONE included,
//! ends the chain with DATA_INVALID_FAULT, as observed on hardware. A job that succeeds gets DONE
//! in word 0. One that fails gets its code there, the first incomplete task in word 1 and the
//! address at fault in the two words after. The first failure ends the chain, so that no job that
//! depends on a failed one runs.
//!
//! Shaders are not executed. This has the following consequences:
//!
//! | job | effect in the model |
//! | --- | --- |
//! | NULL | succeeds |
//! | WRITE_VALUE | as on hardware, all kinds that the GPU has |
//! | CACHE_FLUSH | succeeds, without effect |
//! | FRAGMENT | clears, see [`fragment`]; draws nothing |
//! | TILER, INDEXED_VERTEX, MALLOC_VERTEX | takes heap memory, see [`tiler`] |
//! | VERTEX (v5, v7) | succeeds: only shaders would see its results |
//! | COMPUTE, GEOMETRY, FUSED | JOB_CONFIG_FAULT, as their results would be missing |
//! | MEMORY (type 112) | only in the model: copies or sums memory, see [`memory`] |
//! | anything else, or not of this GPU | JOB_CONFIG_FAULT |
//!
//! JOB_CONFIG_FAULT is also the result of a header that is not aligned to 64 bytes (which is not
//! written then), of a 32-bit header, and of a job that depends on itself. DATA_INVALID_FAULT
//! stands for descriptors that are inconsistent or need a feature that the model lacks,
//! TILE_RANGE_FAULT for tiles outside the framebuffer, OUT_OF_MEMORY for a tiler heap whose top was
//! reached.
//!
//! Locks: none. Context: the thread that runs the slot. Nothing here blocks.

mod chain;
mod color;
mod fragment;
mod heap;
mod memory;
mod surface;
mod tiler;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::desc::WriteKind;
use crate::desc::WriteValue;
use crate::desc::WRITE_VALUE_SIZE;

use fragment::FragmentRun;
use memory::MemoryRun;
use tiler::TilerRun;

pub use chain::Chain;

/// GPU virtual memory as the job's address space sees it.
pub trait Vm {
    /// Fills `buf` from `va`. A range may cross pages. After a fault, the content of `buf` is
    /// unspecified.
    fn read(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault>;

    /// Stores `data` at `va`. A range may cross pages; on a fault, leading pages may already have
    /// been written. The caller then repeats the same call, so that this has no effect.
    fn write(&mut self, va: u64, data: &[u8]) -> Result<(), Fault>;

    /// Reads like [`Vm::read`], but as an instruction fetch.
    fn fetch(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault>;
}

/// The kind of an access.
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

/// How a translation or an access failed.
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
    /// The address is outside the range that the tables cover.
    AddressSize,
    /// The entry's memory attributes are not usable.
    MemAttr,
    /// The bus answered with an error.
    Bus,
}

/// An access that did not complete. The slot parks the chain; the access is repeated when the
/// address space is told to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first address that could not be accessed.
    pub va: u64,
    /// The kind of the access.
    pub access: Access,
    /// How it failed.
    pub kind: FaultKind,
}

/// The generation of the Job-Manager architecture, which decides the descriptor layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arch {
    /// Midgard v5 (T760 to T880). Also used for v4 products, see [`crate::product`].
    V5,
    /// Bifrost v7 (G31, G51, G52, G76).
    V7,
    /// Valhall v9, with a job manager (G57).
    V9,
}

/// The view that a job has of the GPU besides memory.
pub trait Env {
    /// Returns the generation of the GPU.
    fn arch(&self) -> Arch;

    /// Returns the GPU's cycle counter.
    fn cycles(&self) -> u64;

    /// Returns the system timestamp.
    fn timestamp(&self) -> u64;

    /// Returns the heap memory that a tiler-type job takes per primitive, in bytes.
    fn heap_bytes_per_primitive(&self) -> u32 {
        DEFAULT_BYTES_PER_PRIMITIVE
    }
}

/// Heap bytes per primitive unless the environment says otherwise.
pub const DEFAULT_BYTES_PER_PRIMITIVE: u32 = 64;

/// An exception code, as in `JS_STATUS` and in word 0 of a job header.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Exception(pub u32);

impl Exception {
    /// Not run yet (a header), nothing to report (a slot).
    pub const NOT_STARTED: Self = Self(0x00);
    /// The job succeeded.
    pub const DONE: Self = Self(0x01);
    /// A soft stop ended the slot's work; it can be resumed.
    pub const STOPPED: Self = Self(0x03);
    /// A hard stop ended the slot's work.
    pub const TERMINATED: Self = Self(0x04);
    /// The slot is running.
    pub const ACTIVE: Self = Self(0x08);
    /// The hardware cannot execute a job with this header.
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
    /// A program counter outside executable memory.
    pub const INSTR_INVALID_PC: Self = Self(0x50);
    /// An instruction that does not decode.
    pub const INSTR_INVALID_ENC: Self = Self(0x51);
    /// A barrier that cannot be met.
    pub const INSTR_BARRIER_FAULT: Self = Self(0x55);
    /// A descriptor holds an invalid value, or a header was run twice.
    pub const DATA_INVALID_FAULT: Self = Self(0x58);
    /// A tile outside the framebuffer.
    pub const TILE_RANGE_FAULT: Self = Self(0x59);
    /// An address outside its permitted range.
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

/// The outcome of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do. A stop may take effect here.
    Continue,
    /// The chain succeeded.
    Done,
    /// The current job failed with this code and the chain ended. The header has the code, too,
    /// unless it is not aligned.
    Failed(Exception),
}

/// The statistics of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Jobs that succeeded.
    pub jobs_done: u64,
    /// Jobs that ended with an exception.
    pub jobs_failed: u64,
    /// Dependencies on a job that this chain has not run: the job may have run before the chain was
    /// stopped and resumed, or the chain may be wrong. They count as met.
    pub foreign_dependencies: u64,
    /// Bytes taken from tiler heaps.
    pub heap_bytes: u64,
    /// Bytes of tiler heaps read back and compared by fragment jobs.
    pub heap_bytes_checked: u64,
    /// Comparisons that failed.
    pub heap_mismatches: u64,
}

/// Why a job ends with an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    code: Exception,
    /// The address to report in the header.
    at: u64,
}

impl Failure {
    fn new(code: Exception, at: u64) -> Self {
        Self { code, at }
    }
}

/// The outcome of a piece of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// There is more to the job.
    More,
    /// The job succeeded.
    Finished,
    /// The job failed.
    Failed(Failure),
}

/// A job that takes several steps.
#[derive(Debug)]
enum Work {
    Fragment(FragmentRun),
    Tiler(TilerRun),
    Memory(MemoryRun),
}

impl Work {
    fn step(&mut self, vm: &mut dyn Vm, env: &dyn Env, stats: &mut Stats) -> Result<Piece, Fault> {
        match self {
            Self::Fragment(run) => run.step(vm, stats),
            Self::Tiler(run) => run.step(vm, env, stats),
            Self::Memory(run) => run.step(vm),
        }
    }

    /// Returns the number of tasks done so far: the header's "first incomplete task".
    fn tasks_done(&self) -> u32 {
        match self {
            Self::Fragment(_) | Self::Memory(_) => 0,
            Self::Tiler(run) => run.tasks_done(),
        }
    }
}

/// A job whose header and payload were read: either done at once, or work for several steps.
enum Start {
    Piece(Piece),
    Work(Work),
}

impl From<Result<Work, Failure>> for Start {
    fn from(result: Result<Work, Failure>) -> Self {
        match result {
            Ok(work) => Self::Work(work),
            Err(failure) => Self::Piece(Piece::Failed(failure)),
        }
    }
}

/// Executes a WRITE_VALUE job. An address that is not a multiple of the value's size is accepted,
/// as the behaviour of hardware is not known.
fn write_value(payload: u64, vm: &mut dyn Vm, env: &dyn Env) -> Result<Piece, Fault> {
    let mut buf = [0; WRITE_VALUE_SIZE];
    // Only read the immediate for kinds that have one: IGT's payloads of other kinds end before it.
    let (fixed, immediate) = buf.split_at_mut(16);
    vm.read(payload, fixed)?;
    let kind = WriteValue::decode(&{
        let mut head = [0; WRITE_VALUE_SIZE];
        head[..16].copy_from_slice(fixed);
        head
    })
    .kind;
    let Some(size) = kind.size(env.arch()) else {
        return Ok(Piece::Failed(Failure::new(
            Exception::DATA_INVALID_FAULT,
            payload,
        )));
    };
    let has_immediate = !matches!(
        kind,
        WriteKind::CycleCounter | WriteKind::SystemTimestamp | WriteKind::Zero
    );
    if has_immediate {
        vm.read(payload.wrapping_add(16), immediate)?;
    }
    let job = WriteValue::decode(&buf);
    let value = match kind {
        WriteKind::CycleCounter => env.cycles(),
        WriteKind::SystemTimestamp => env.timestamp(),
        WriteKind::Zero => 0,
        _ => job.immediate,
    };
    let bytes = value.to_le_bytes();
    vm.write(job.address, bytes.get(..size).unwrap_or(&bytes))?;
    Ok(Piece::Finished)
}
