// SPDX-License-Identifier: GPL-2.0

//! MEMORY jobs, a type that only the model has.
//!
//! As shaders are not executed, no other job reads the data in ordinary BOs. This one copies bytes
//! from one address to another, or adds up 32-bit words and stores the sum. It reads with read
//! permission or, on request, with execute permission, as a shader core fetches instructions.
//! Accesses that are not permitted fault like those of any other job. The layout is in
//! [`crate::desc::MemoryJob`].
//!
//! A step handles at most a page. It stores the progress in the payload, from where a job that was
//! stopped between steps is resumed; the last step resets the progress to zero.

use crate::desc::MemoryJob;
use crate::desc::MEMORY_JOB_SIZE;

use super::Exception;
use super::Failure;
use super::Fault;
use super::Piece;
use super::Vm;

/// The maximum number of bytes of a step.
const PIECE: u32 = 4096;

/// A running MEMORY job.
#[derive(Debug)]
pub(super) struct MemoryRun {
    /// The address of the payload.
    payload: u64,
    job: MemoryJob,
    scratch: Vec<u8>,
}

impl MemoryRun {
    /// Reads the payload.
    pub(super) fn new(payload: u64, vm: &mut dyn Vm) -> Result<Result<Self, Failure>, Fault> {
        let mut buf = [0; MEMORY_JOB_SIZE];
        vm.read(payload, &mut buf)?;
        let job = MemoryJob::decode(&buf);
        let whole_words = job.source % 4 == 0 && job.length % 4 == 0 && job.done % 4 == 0;
        if job.done > job.length
            || (job.is(MemoryJob::SUM) && !whole_words)
            || job.flags & !MemoryJob::ALL != 0
        {
            let failure = Failure::new(Exception::DATA_INVALID_FAULT, payload);
            return Ok(Err(failure));
        }
        Ok(Ok(Self {
            payload,
            job,
            scratch: Vec::new(),
        }))
    }

    /// Does one piece.
    pub(super) fn step(&mut self, vm: &mut dyn Vm) -> Result<Piece, Fault> {
        let mut job = self.job;
        let piece = (job.length - job.done).min(PIECE);
        self.scratch.resize(piece as usize, 0);
        let source = job.source.wrapping_add(job.done.into());
        if job.is(MemoryJob::FETCH) {
            vm.fetch(source, &mut self.scratch)?;
        } else {
            vm.read(source, &mut self.scratch)?;
        }
        job.done += piece;
        let finished = job.done == job.length;
        if job.is(MemoryJob::SUM) {
            for word in self.scratch.chunks_exact(4) {
                let word = word
                    .iter()
                    .rev()
                    .fold(0, |word, &byte| word << 8 | u32::from(byte));
                job.sum = job.sum.wrapping_add(word);
            }
            if finished {
                vm.write(job.target, &job.sum.to_le_bytes())?;
            }
        } else {
            let target = job.target.wrapping_add(self.job.done.into());
            vm.write(target, &self.scratch)?;
        }
        if finished {
            (job.done, job.sum) = (0, 0);
        }
        let progress = self.payload.wrapping_add(MemoryJob::PROGRESS_BYTE);
        vm.write(progress, &job.progress())?;
        self.job = job;
        Ok(if finished {
            Piece::Finished
        } else {
            Piece::More
        })
    }
}
