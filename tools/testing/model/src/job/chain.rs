// SPDX-License-Identifier: GPL-2.0

//! The walk along a chain: job by job, or two at a time.
//!
//! Locks: none. Context: the thread that runs the slot.

use std::collections::HashSet;

use crate::desc::CacheFlush;
use crate::desc::JobHeader;
use crate::desc::JobType;
use crate::desc::TilerJob;
use crate::desc::CACHE_FLUSH_SIZE;
use crate::desc::HEADER_SIZE;
use crate::desc::PAYLOAD_OFFSET;

use super::write_value;
use super::Arch;
use super::Env;
use super::Exception;
use super::Failure;
use super::Fault;
use super::FragmentRun;
use super::MemoryRun;
use super::Piece;
use super::Start;
use super::Stats;
use super::Step;
use super::TilerRun;
use super::Vm;
use super::Work;

/// Alignment of job headers, in bytes.
const HEADER_ALIGN: u64 = 64;

/// Reads the header at `at`.
fn read_header(at: u64, vm: &mut dyn Vm) -> Result<JobHeader, Fault> {
    let mut buf = [0; HEADER_SIZE];
    vm.read(at, &mut buf)?;
    Ok(JobHeader::decode(&buf))
}

/// The state of a job.
///
/// If an access of a step faults, the job stays in the state, and the step is done again.
#[derive(Debug)]
enum State {
    /// Nothing of the job is known but its address.
    ///
    /// Left for [`Run`](Self::Run), for [`Finish`](Self::Finish) by a job that is done at once, or
    /// for [`Fail`](Self::Fail).
    Fetch,
    /// The job is running. `header` is as it was read, and was checked.
    ///
    /// Left for [`Finish`](Self::Finish) or [`Fail`](Self::Fail) by its last piece of work.
    Run { work: Work, header: JobHeader },
    /// The job's effects are in memory, but its status still says otherwise. `tasks` tells whether
    /// the header counts tasks, which has to be undone.
    ///
    /// Left for [`Over`](Self::Over) when the status was written.
    Finish { header: JobHeader, tasks: bool },
    /// The job failed. Its status still says otherwise, and stays so without `write`, which means
    /// that the header is not usable.
    ///
    /// Left for [`Failed`](Self::Failed) when that was written, or is not needed.
    Fail {
        failure: Failure,
        tasks: u32,
        write: bool,
    },
    /// The job succeeded, and its header says so. `next` is the job after it, 0 if there is none.
    /// Never left: the chain goes on to that job.
    Over { next: u64 },
    /// The job failed, and its header says so, if it is usable. Never left: the chain ends.
    Failed(Exception),
}

/// A job of the chain.
#[derive(Debug)]
struct Job {
    /// The address of its header.
    at: u64,
    state: State,
}

impl Job {
    fn new(at: u64) -> Self {
        Self {
            at,
            state: State::Fetch,
        }
    }

    /// Returns whether the job is over.
    fn over(&self) -> bool {
        matches!(self.state, State::Over { .. } | State::Failed(_))
    }

    /// Does a bounded piece of work. `done` has the indices of the jobs that succeeded.
    fn step(
        &mut self,
        vm: &mut dyn Vm,
        env: &dyn Env,
        done: &mut HashSet<u16>,
        stats: &mut Stats,
    ) -> Result<(), Fault> {
        if let State::Fetch = self.state {
            self.state = self.fetch(vm, env, done, stats)?;
        }
        if let State::Run { work, header } = &mut self.state {
            let next = match work.step(vm, env, stats)? {
                Piece::More => return Ok(()),
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
            State::Finish { header, tasks } => {
                self.finish(vm, tasks)?;
                stats.jobs_done += 1;
                done.insert(header.index);
                self.state = State::Over { next: header.next };
            }
            State::Fail {
                failure,
                tasks,
                write,
            } => {
                if write {
                    self.write_failure(vm, failure, tasks)?;
                }
                stats.jobs_failed += 1;
                self.state = State::Failed(failure.code);
            }
            State::Fetch | State::Run { .. } | State::Over { .. } | State::Failed(_) => (),
        }
        Ok(())
    }

    /// Reads the header and the payload, and executes a small job. Has no effect on `stats` if it
    /// faults.
    fn fetch(
        &self,
        vm: &mut dyn Vm,
        env: &dyn Env,
        done: &HashSet<u16>,
        stats: &mut Stats,
    ) -> Result<State, Fault> {
        let arch = env.arch();
        if self.at % HEADER_ALIGN != 0 {
            return Ok(State::Fail {
                failure: Failure::new(Exception::JOB_CONFIG_FAULT, self.at),
                tasks: 0,
                write: false,
            });
        }
        let header = read_header(self.at, vm)?;

        let start = match self.check(arch, &header) {
            Err(failure) => Start::Piece(Piece::Failed(failure)),
            Ok(()) => self.start(arch, &header, vm, env)?,
        };
        // From here on nothing faults.
        let dependencies = [header.dependency_1, header.dependency_2];
        stats.foreign_dependencies += dependencies
            .iter()
            .filter(|&&index| index != 0 && !done.contains(&index))
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

    /// Checks whether the header can be executed.
    fn check(&self, arch: Arch, header: &JobHeader) -> Result<(), Failure> {
        let status = Exception(header.status);
        if status != Exception::NOT_STARTED && status != Exception::STOPPED {
            return Err(Failure::new(Exception::DATA_INVALID_FAULT, self.at));
        }
        let own = header.index != 0
            && (header.dependency_1 == header.index || header.dependency_2 == header.index);
        if (arch < Arch::V9 && !header.is_64bit) || own {
            return Err(Failure::new(Exception::JOB_CONFIG_FAULT, self.at));
        }
        Ok(())
    }

    /// Begins the job, or executes it if it is a small one.
    fn start(
        &self,
        arch: Arch,
        header: &JobHeader,
        vm: &mut dyn Vm,
        env: &dyn Env,
    ) -> Result<Start, Fault> {
        let payload = self.at.wrapping_add(PAYLOAD_OFFSET);
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
            JobType::Memory => MemoryRun::new(payload, vm)?.map(Work::Memory).into(),
            job_type if TilerJob::is_tiler_type(arch, job_type) => {
                TilerRun::new(arch, self.at, header.first_incomplete, vm, env)?
                    .map(Work::Tiler)
                    .into()
            }
            _ => Start::Piece(Piece::Failed(Failure::new(
                Exception::JOB_CONFIG_FAULT,
                self.at,
            ))),
        })
    }

    /// Writes DONE. If word 1 was used to count tasks, it goes back to 0 with the same write, so
    /// that the header can be run again once its status is cleared.
    fn finish(&self, vm: &mut dyn Vm, tasks: bool) -> Result<(), Fault> {
        let status = u64::from(Exception::DONE.0).to_le_bytes();
        let used = if tasks { 8 } else { 4 };
        vm.write(self.at, status.get(..used).unwrap_or(&status))
    }

    /// Writes the failure to the header.
    fn write_failure(&self, vm: &mut dyn Vm, failure: Failure, tasks: u32) -> Result<(), Fault> {
        let words =
            u128::from(failure.code.0) | u128::from(tasks) << 32 | u128::from(failure.at) << 64;
        vm.write(self.at, &words.to_le_bytes())
    }
}

/// The state of the job after the oldest one.
#[derive(Debug, Default)]
enum Ahead {
    /// It was not examined yet.
    #[default]
    Unseen,
    /// There is none, or it has to wait for the oldest one.
    Waits,
    /// It was begun.
    Begun(Job),
}

/// One running chain. Resumable: `step` does a bounded piece of work; after a fault, calling `step`
/// again retries from where it was without double effects.
#[derive(Debug)]
pub struct Chain {
    /// The oldest job that is not over.
    job: Job,
    ahead: Ahead,
    /// The last job that was read.
    tail: u64,
    /// How the chain ended.
    ended: Option<Step>,
    /// The indices of the jobs that succeeded.
    done: HashSet<u16>,
    stats: Stats,
}

impl Chain {
    /// Creates a chain that begins with the job header at `head`.
    pub fn new(head: u64) -> Self {
        Self {
            job: Job::new(head),
            ahead: Ahead::Unseen,
            tail: head,
            ended: None,
            done: HashSet::new(),
            stats: Stats::default(),
        }
    }

    /// Does a bounded piece of work on the oldest job. After `Done` or `Failed` it does nothing and
    /// returns the same again.
    pub fn step(&mut self, vm: &mut dyn Vm, env: &dyn Env) -> Result<Step, Fault> {
        if let Some(step) = self.ended {
            return Ok(step);
        }
        self.job.step(vm, env, &mut self.done, &mut self.stats)?;
        let step = self.retire();
        if step != Step::Continue {
            self.ended = Some(step);
        }
        Ok(step)
    }

    /// Does a bounded piece of work on the job after the oldest one, if the two may overlap.
    /// Returns whether there is more to do for it before the oldest one is over.
    pub fn step_ahead(&mut self, vm: &mut dyn Vm, env: &dyn Env) -> Result<bool, Fault> {
        if self.ended.is_some() {
            return Ok(false);
        }
        if let Ahead::Unseen = self.ahead {
            self.ahead = self.look_ahead(vm, env.arch())?;
        }
        match &mut self.ahead {
            Ahead::Begun(job) if !job.over() => {
                job.step(vm, env, &mut self.done, &mut self.stats)?;
                Ok(!job.over())
            }
            _ => Ok(false),
        }
    }

    /// Advances past jobs that are over.
    fn retire(&mut self) -> Step {
        loop {
            match self.job.state {
                State::Over { next: 0 } => return Step::Done,
                State::Over { next } => {
                    self.job = match std::mem::take(&mut self.ahead) {
                        Ahead::Begun(job) => job,
                        Ahead::Unseen | Ahead::Waits => Job::new(next),
                    };
                    self.tail = self.job.at;
                }
                State::Failed(code) => return Step::Failed(code),
                _ => return Step::Continue,
            }
        }
    }

    /// Reads the header after that of the oldest job, and decides whether it can be begun.
    fn look_ahead(&mut self, vm: &mut dyn Vm, arch: Arch) -> Result<Ahead, Fault> {
        let header = match &self.job.state {
            State::Run { header, .. } => *header,
            State::Fetch if self.job.at % HEADER_ALIGN == 0 => {
                let header = read_header(self.job.at, vm)?;
                // Other jobs may turn out not to be executable.
                let small = match header.job_type {
                    JobType::Null | JobType::WriteValue | JobType::CacheFlush => true,
                    JobType::Vertex => arch < Arch::V9,
                    _ => false,
                };
                if !small || self.job.check(arch, &header).is_err() {
                    return Ok(Ahead::Unseen);
                }
                header
            }
            _ => return Ok(Ahead::Unseen),
        };
        let at = header.next;
        if at == 0 || at == self.job.at || at % HEADER_ALIGN != 0 || header.suppress_prefetch {
            return Ok(Ahead::Waits);
        }
        // If it cannot be read, that is reported when its turn comes.
        let Ok(next) = read_header(at, vm) else {
            return Ok(Ahead::Waits);
        };
        self.tail = at;
        let depends = [
            (next.dependency_1, next.relax_dependency_1),
            (next.dependency_2, next.relax_dependency_2),
        ]
        .into_iter()
        .any(|(index, relaxed)| index != 0 && index == header.index && !relaxed);
        let same_unit = [header, next].map(|header| match header.job_type {
            JobType::Fragment => Some(JobType::Fragment),
            other if TilerJob::is_tiler_type(arch, other) => Some(JobType::Tiler),
            _ => None,
        });
        let same_unit = same_unit[0].is_some() && same_unit[0] == same_unit[1];
        Ok(if next.barrier || depends || same_unit {
            Ahead::Waits
        } else {
            Ahead::Begun(Job::new(at))
        })
    }

    /// Returns the VA of the oldest job that is not over, or of the last one: `JS_HEAD`.
    pub fn current(&self) -> u64 {
        self.job.at
    }

    /// Returns the VA of the last job that was read: [`Chain::current`], or the one after it.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Returns whether the chain can be resumed at [`Chain::current`]: no job after that one is
    /// over.
    pub fn stoppable(&self) -> bool {
        !matches!(&self.ahead, Ahead::Begun(job) if job.over())
    }

    /// Returns the statistics so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }
}
