// SPDX-License-Identifier: GPL-2.0

//! Tiler-type jobs: TILER (v5, v7), INDEXED_VERTEX (v7), MALLOC_VERTEX (v9).
//!
//! No shader runs and nothing is binned, but the effects that a driver can observe are the same:
//! for each primitive the job takes memory from the tiler heap ([`Env::heap_bytes_per_primitive`],
//! on v9 also the vertex packets), writes it through the address space and advances the heap, until
//! the top is reached. See [`super::heap`] for the data that is written.
//!
//! A task, in the header's count, is a primitive. A step takes one chunk of the heap, which holds
//! as many tasks as fit into 64 KiB. In memory it advances the heap's bottom (v7, v9), then links
//! the chunk, then updates the count of tasks in word 1 of the job's header, from which a job that
//! was stopped between steps is resumed. If it is ended within a step, a chunk may be lost or
//! written twice, which is harmless.
//!
//! On v5 there is no documented word for the bottom: it follows from the last chunk. The polygon
//! list's own body is not used; everything is written to the heap.

use crate::desc::Framebuffer;
use crate::desc::TilerContext;
use crate::desc::TilerHeap;
use crate::desc::TilerJob;
use crate::desc::FRAMEBUFFER_SIZE;
use crate::desc::TILER_CONTEXT_SIZE;
use crate::desc::TILER_HEAP_SIZE;
use crate::desc::TILER_JOB_SIZE;

use super::heap;
use super::heap::Chunk;
use super::heap::CHUNK_ALIGN;
use super::heap::CHUNK_HEADER;
use super::heap::CHUNK_SIZE;
use super::heap::MAX_TASK;
use super::Arch;
use super::Env;
use super::Exception;
use super::Failure;
use super::Fault;
use super::Piece;
use super::Stats;
use super::Vm;

/// Where the description of the heap is.
#[derive(Clone, Copy, Debug)]
enum Heap {
    /// The job's own range (v5).
    Range { start: u64, end: u64 },
    /// A descriptor at this address (v7, v9).
    Descriptor(u64),
}

/// A chunk that is being written.
#[derive(Clone, Copy, Debug)]
struct Plan {
    chunk: Chunk,
    tasks: u64,
}

/// A running tiler-type job.
#[derive(Debug)]
pub(super) struct TilerRun {
    /// The job's header.
    job: u64,
    /// The tiler context or polygon list; the link to the last chunk is its first word.
    owner: u64,
    heap: Heap,
    tasks: u64,
    done: u64,
    task_bytes: u64,
    plan: Option<Plan>,
    scratch: Vec<u8>,
}

impl TilerRun {
    /// Reads the job and, for v5, the framebuffer; for others, the context.
    pub(super) fn new(
        arch: Arch,
        job: u64,
        first_task: u32,
        vm: &mut dyn Vm,
        env: &dyn Env,
    ) -> Result<Result<Self, Failure>, Fault> {
        let invalid = |at| Ok(Err(Failure::new(Exception::DATA_INVALID_FAULT, at)));

        let mut buf = [0; TILER_JOB_SIZE];
        // Only the v5 job has relevant fields at the end.
        let used = if arch == Arch::V5 { TILER_JOB_SIZE } else { 80 };
        vm.read(job, buf.get_mut(..used).unwrap_or(&mut []))?;
        let draw = TilerJob::decode(arch, &buf);
        let Some(primitives) = draw.mode.primitives(draw.vertices) else {
            return invalid(job);
        };
        // The count in the header has 32 bits; no heap has room for more tasks.
        let tasks = (u64::from(primitives) * u64::from(draw.instances)).min(u32::MAX.into());

        let (owner, heap) = if arch == Arch::V5 {
            let va = draw.framebuffer.va;
            if va == 0 {
                return invalid(job);
            }
            let mut buf = [0; FRAMEBUFFER_SIZE];
            vm.read(va, &mut buf)?;
            let tiler = Framebuffer::decode(arch, &buf).midgard_tiler;
            if !tiler.enabled() || tiler.polygon_list == 0 || tiler.heap_start > tiler.heap_end {
                return invalid(va);
            }
            let heap = Heap::Range {
                start: tiler.heap_start,
                end: tiler.heap_end,
            };
            (tiler.polygon_list, heap)
        } else {
            let va = draw.tiler_context;
            if va == 0 || va % 64 != 0 {
                return invalid(job);
            }
            let mut buf = [0; TILER_CONTEXT_SIZE];
            vm.read(va, &mut buf)?;
            let context = TilerContext::decode(arch, &buf);
            if context.heap == 0 || context.heap % 32 != 0 {
                return invalid(va);
            }
            (va, Heap::Descriptor(context.heap))
        };

        let vertices = u64::from(draw.vertices).saturating_mul(draw.instances.into());
        let packets = vertices.saturating_mul(draw.packet_stride.into()) / tasks.max(1);
        let task_bytes = packets
            .saturating_add(env.heap_bytes_per_primitive().into())
            .clamp(1, MAX_TASK);
        Ok(Ok(Self {
            job,
            owner,
            heap,
            tasks,
            done: u64::from(first_task).min(tasks),
            task_bytes,
            plan: None,
            scratch: Vec::new(),
        }))
    }

    /// Returns the number of primitives whose memory was written, as counted in the header.
    pub(super) fn tasks_done(&self) -> u32 {
        self.done as u32
    }

    /// Takes one chunk.
    pub(super) fn step(
        &mut self,
        vm: &mut dyn Vm,
        env: &dyn Env,
        stats: &mut Stats,
    ) -> Result<Piece, Fault> {
        if self.done >= self.tasks {
            return Ok(Piece::Finished);
        }
        let plan = match self.plan {
            Some(plan) => plan,
            None => match self.make_plan(vm, env)? {
                Ok(plan) => {
                    plan.chunk.fill(&mut self.scratch);
                    *self.plan.insert(plan)
                }
                Err(failure) => return Ok(Piece::Failed(failure)),
            },
        };

        // Each of these writes may fault; all are then repeated with the same values.
        let chunk = plan.chunk;
        vm.write(chunk.va, &self.scratch)?;
        if let Heap::Descriptor(va) = self.heap {
            let bottom = chunk.end();
            vm.write(
                va.wrapping_add(TilerHeap::BOTTOM_BYTE),
                &bottom.to_le_bytes(),
            )?;
        }
        vm.write(self.owner, &chunk.link().to_le_bytes())?;
        let done = self.done + plan.tasks;
        vm.write(self.job.wrapping_add(4), &(done as u32).to_le_bytes())?;

        self.done = done;
        self.plan = None;
        stats.heap_bytes += chunk.len;
        Ok(if done < self.tasks {
            Piece::More
        } else {
            Piece::Finished
        })
    }

    /// Plans the next chunk without writing anything.
    fn make_plan(&self, vm: &mut dyn Vm, env: &dyn Env) -> Result<Result<Plan, Failure>, Fault> {
        let invalid = |at| Ok(Err(Failure::new(Exception::DATA_INVALID_FAULT, at)));

        let previous = heap::read_link(self.owner, vm)?;
        let last = if previous == 0 {
            None
        } else {
            match Chunk::read(previous, self.owner, vm)? {
                Ok(chunk) => Some(chunk),
                Err(at) => return invalid(at),
            }
        };
        let (bottom, top) = match self.heap {
            Heap::Range { start, end } => {
                let bottom = last.map_or(start, |chunk| chunk.end());
                if bottom < start {
                    return invalid(self.owner);
                }
                (bottom, end)
            }
            Heap::Descriptor(va) => {
                let mut buf = [0; TILER_HEAP_SIZE];
                vm.read(va, &mut buf)?;
                let heap = TilerHeap::decode(&buf);
                if heap.base == 0 || heap.bottom < heap.base || heap.bottom > heap.top {
                    return invalid(va);
                }
                (heap.bottom, heap.top)
            }
        };

        let tasks =
            ((CHUNK_SIZE - CHUNK_HEADER) / self.task_bytes).clamp(1, self.tasks - self.done);
        let len = (CHUNK_HEADER + tasks * self.task_bytes).next_multiple_of(CHUNK_ALIGN);
        let start = bottom.checked_next_multiple_of(CHUNK_ALIGN);
        let fits = start
            .and_then(|va| va.checked_add(len))
            .is_some_and(|end| end <= top);
        let (Some(va), true) = (start, fits) else {
            return Ok(Err(Failure::new(Exception::OUT_OF_MEMORY, bottom)));
        };
        Ok(Ok(Plan {
            chunk: Chunk {
                va,
                len,
                owner: self.owner,
                previous,
                sequence: last.map_or(0, |chunk| chunk.sequence.wrapping_add(1)),
                nonce: env.cycles(),
            },
            tasks,
        }))
    }
}
