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
//! Status: a job runs only if word 0 of its header is 0 or STOPPED; anything else, DONE included, ends
//! the chain with DATA_INVALID_FAULT, as real hardware was seen to do. A job that ends well gets DONE in
//! word 0. One that fails gets its code there, the first incomplete task in word 1 and the address at
//! fault in the two words after. The first failure ends the chain, so that nothing that depends on a
//! failed job runs; jobs run in the order of the chain, so that all dependencies and barriers on earlier
//! jobs hold.
//!
//! Shaders are not executed. What follows from that:
//!
//! | job | what it does here |
//! | --- | --- |
//! | NULL | ends well |
//! | WRITE_VALUE | as hardware, all kinds that the GPU has |
//! | CACHE_FLUSH | ends well: nothing is cached here |
//! | FRAGMENT | clears, see [`fragment`]; draws nothing |
//! | TILER, INDEXED_VERTEX, MALLOC_VERTEX | takes heap memory, see [`tiler`] |
//! | VERTEX (v5, v7) | ends well: only TILER jobs see what it computes |
//! | COMPUTE, GEOMETRY, FUSED | JOB_CONFIG_FAULT: to say they ended well would be a lie |
//! | anything else, or not of this GPU | JOB_CONFIG_FAULT |
//!
//! JOB_CONFIG_FAULT also: a header that is not aligned to 64 bytes (it is not written then), a 32-bit
//! header, a job that depends on itself. DATA_INVALID_FAULT: descriptors that contradict themselves or ask
//! for what the model does not have. TILE_RANGE_FAULT: tiles outside of the framebuffer. OUT_OF_MEMORY: the
//! tiler heap's top was reached.
//!
//! Locks: none. Context: whatever thread runs the slot. Nothing here blocks.

mod color;
mod fragment;
mod heap;
mod surface;
mod tiler;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;

use crate::desc::CacheFlush;
use crate::desc::JobHeader;
use crate::desc::JobType;
use crate::desc::TilerJob;
use crate::desc::WriteKind;
use crate::desc::WriteValue;
use crate::desc::CACHE_FLUSH_SIZE;
use crate::desc::HEADER_SIZE;
use crate::desc::PAYLOAD_OFFSET;
use crate::desc::WRITE_VALUE_SIZE;

use fragment::FragmentRun;
use tiler::TilerRun;

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
    /// Dependencies on a job that this chain had not run before: one that ran before the chain was
    /// stopped and resumed, or a mistake of whoever built it. They count as met.
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

/// How a piece of a job came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// There is more to the job.
    More,
    /// The job ended well.
    Finished,
    /// The job failed.
    Failed(Failure),
}

/// A job that takes several steps.
#[derive(Debug)]
enum Work {
    Fragment(FragmentRun),
    Tiler(TilerRun),
}

impl Work {
    fn step(&mut self, vm: &mut dyn Vm, env: &dyn Env, stats: &mut Stats) -> Result<Piece, Fault> {
        match self {
            Self::Fragment(run) => run.step(vm, stats),
            Self::Tiler(run) => run.step(vm, env, stats),
        }
    }

    /// The tasks done so far: the header's "first incomplete task".
    fn tasks_done(&self) -> u32 {
        match self {
            Self::Fragment(_) => 0,
            Self::Tiler(run) => run.tasks_done(),
        }
    }
}

/// What a job turned out to be once its header and payload were read.
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

/// Where the current job is.
#[derive(Debug)]
enum State {
    /// Its header is to be read.
    Fetch,
    /// It runs.
    Run { work: Work, header: JobHeader },
    /// Its effects are in memory, its status is to be written.
    Finish { header: JobHeader, tasks: bool },
    /// It failed, which is to be written unless the header is not usable.
    Fail {
        failure: Failure,
        tasks: u32,
        write: bool,
    },
    /// The chain has ended.
    Ended(Step),
}

/// One running chain. Resumable: `step` does a bounded piece of work; after a fault, calling `step`
/// again retries from where it was without double effects.
#[derive(Debug)]
pub struct Chain {
    /// The header of the job being executed.
    current: u64,
    state: State,
    /// Indices of the jobs that ended well.
    done: HashSet<u16>,
    stats: Stats,
}

impl Chain {
    /// A chain that begins with the job header at `head`.
    pub fn new(head: u64) -> Self {
        Self {
            current: head,
            state: State::Fetch,
            done: HashSet::new(),
            stats: Stats::default(),
        }
    }

    /// Does a bounded piece of work. After `Done` or `Failed` it does nothing and says the same again.
    pub fn step(&mut self, vm: &mut dyn Vm, env: &dyn Env) -> Result<Step, Fault> {
        if let State::Fetch = self.state {
            self.state = self.fetch(vm, env)?;
        }
        if let State::Run { work, header } = &mut self.state {
            let next = match work.step(vm, env, &mut self.stats)? {
                Piece::More => return Ok(Step::Continue),
                Piece::Finished => State::Finish {
                    header: *header,
                    tasks: work.tasks_done() != 0,
                },
                Piece::Failed(failure) => State::Fail {
                    failure,
                    tasks: work.tasks_done(),
                    write: true,
                },
            };
            self.state = next;
        }
        match self.state {
            State::Finish { header, tasks } => self.finish(vm, &header, tasks),
            State::Fail {
                failure,
                tasks,
                write,
            } => self.fail(vm, failure, tasks, write),
            State::Ended(step) => Ok(step),
            State::Fetch | State::Run { .. } => Ok(Step::Continue),
        }
    }

    /// VA of the job being executed: `JS_TAIL` after a stop or a failure, `JS_HEAD` while it runs.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// What was done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Reads the header and the payload and does what can be done at once. Has no effect on `self`
    /// or on memory if it faults.
    fn fetch(&mut self, vm: &mut dyn Vm, env: &dyn Env) -> Result<State, Fault> {
        let arch = env.arch();
        if self.current % 64 != 0 {
            return Ok(State::Fail {
                failure: Failure::new(Exception::JOB_CONFIG_FAULT, self.current),
                tasks: 0,
                write: false,
            });
        }
        let mut buf = [0; HEADER_SIZE];
        vm.read(self.current, &mut buf)?;
        let header = JobHeader::decode(&buf);

        let start = match self.check(arch, &header) {
            Err(failure) => Start::Piece(Piece::Failed(failure)),
            Ok(()) => self.start(arch, &header, vm, env)?,
        };
        // From here on nothing faults.
        let dependencies = [header.dependency_1, header.dependency_2];
        self.stats.foreign_dependencies += dependencies
            .iter()
            .filter(|&&index| index != 0 && !self.done.contains(&index))
            .count() as u64;
        Ok(match start {
            Start::Work(work) => State::Run { work, header },
            Start::Piece(Piece::Failed(failure)) => State::Fail {
                failure,
                tasks: header.first_incomplete,
                write: true,
            },
            Start::Piece(_) => State::Finish {
                header,
                tasks: false,
            },
        })
    }

    /// Whether the header is one to execute.
    fn check(&self, arch: Arch, header: &JobHeader) -> Result<(), Failure> {
        let status = Exception(header.status);
        if status != Exception::NOT_STARTED && status != Exception::STOPPED {
            return Err(Failure::new(Exception::DATA_INVALID_FAULT, self.current));
        }
        let own = header.index != 0
            && (header.dependency_1 == header.index || header.dependency_2 == header.index);
        if (arch < Arch::V9 && !header.is_64bit) || own {
            return Err(Failure::new(Exception::JOB_CONFIG_FAULT, self.current));
        }
        Ok(())
    }

    /// Begins the job, or does it if it is a small one.
    fn start(
        &self,
        arch: Arch,
        header: &JobHeader,
        vm: &mut dyn Vm,
        env: &dyn Env,
    ) -> Result<Start, Fault> {
        let payload = self.current.wrapping_add(PAYLOAD_OFFSET);
        Ok(match header.job_type {
            JobType::Null => Start::Piece(Piece::Finished),
            JobType::Vertex if arch < Arch::V9 => Start::Piece(Piece::Finished),
            JobType::WriteValue => Start::Piece(write_value(payload, vm, env)?),
            JobType::CacheFlush => {
                let mut buf = [0; CACHE_FLUSH_SIZE];
                vm.read(payload, &mut buf)?;
                let CacheFlush { flags: _ } = CacheFlush::decode(&buf);
                Start::Piece(Piece::Finished)
            }
            JobType::Fragment => FragmentRun::new(arch, payload, vm)?
                .map(Work::Fragment)
                .into(),
            job_type if TilerJob::is_tiler_type(arch, job_type) => {
                TilerRun::new(arch, self.current, header.first_incomplete, vm, env)?
                    .map(Work::Tiler)
                    .into()
            }
            _ => Start::Piece(Piece::Failed(Failure::new(
                Exception::JOB_CONFIG_FAULT,
                self.current,
            ))),
        })
    }

    /// Writes DONE and goes on to the next job. If word 1 was used to count tasks, it goes back to 0 with
    /// the same write, so that the header can be run again once its status is cleared.
    fn finish(&mut self, vm: &mut dyn Vm, header: &JobHeader, tasks: bool) -> Result<Step, Fault> {
        let status = u64::from(Exception::DONE.0).to_le_bytes();
        let used = if tasks { 8 } else { 4 };
        vm.write(self.current, status.get(..used).unwrap_or(&status))?;
        self.stats.jobs_done += 1;
        self.done.insert(header.index);
        if header.next == 0 {
            self.state = State::Ended(Step::Done);
            return Ok(Step::Done);
        }
        self.current = header.next;
        self.state = State::Fetch;
        Ok(Step::Continue)
    }

    /// Writes the failure and ends the chain.
    fn fail(
        &mut self,
        vm: &mut dyn Vm,
        failure: Failure,
        tasks: u32,
        write: bool,
    ) -> Result<Step, Fault> {
        if write {
            let words =
                u128::from(failure.code.0) | u128::from(tasks) << 32 | u128::from(failure.at) << 64;
            vm.write(self.current, &words.to_le_bytes())?;
        }
        self.stats.jobs_failed += 1;
        let step = Step::Failed(failure.code);
        self.state = State::Ended(step);
        Ok(step)
    }
}

/// Executes a WRITE_VALUE job. An address that is not a multiple of the value's size is accepted: what
/// hardware does with one is not known.
fn write_value(payload: u64, vm: &mut dyn Vm, env: &dyn Env) -> Result<Piece, Fault> {
    let mut buf = [0; WRITE_VALUE_SIZE];
    // The immediate is only there for the kinds that have one; IGT's payloads end before it.
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
