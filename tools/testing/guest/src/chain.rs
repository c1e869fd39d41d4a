// SPDX-License-Identifier: GPL-2.0

//! Job chains: a BO with descriptors, which the CPU fills in and the GPU writes statuses to.

use std::time::Duration;

use model::desc::Fragment;
use model::desc::Frame;
use model::desc::JobHeader;
use model::desc::JobType;
use model::desc::MemoryJob;
use model::desc::WriteKind;
use model::desc::WriteValue;
use model::desc::HEADER_SIZE;
use model::job::Arch;

use crate::bo::Bo;
use crate::device::Device;
use crate::device::Job;
use crate::sync::Syncobj;
use crate::sys::Mapping;
use crate::sys::Result;
use crate::uapi;

/// Alignment of jobs: what v9 asks for, more than the others need.
const JOB_ALIGN: usize = 128;

/// The status of a job that has not run.
pub const NOT_STARTED: u32 = 0;
/// The status of a job that ended well.
pub const DONE: u32 = 1;

/// A job in a chain, by its place in the chain's BO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobRef(usize);

/// A BO in which a chain is being built.
pub struct Chain {
    device: Device,
    arch: Arch,
    bo: Bo,
    map: Mapping,
    used: usize,
    first: Option<JobRef>,
    last: Option<JobRef>,
    requirements: u32,
}

impl Chain {
    /// An empty chain, with room for so many bytes.
    pub fn new(device: &Device, size: usize) -> Result<Self> {
        let bo = device.create(size, uapi::BO_NOEXEC)?;
        let map = bo.map()?;
        Ok(Self {
            device: device.clone(),
            arch: device.arch()?,
            bo,
            map,
            used: 0,
            first: None,
            last: None,
            requirements: 0,
        })
    }

    /// The GPU's generation.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The BO that the chain is in.
    pub fn bo(&self) -> &Bo {
        &self.bo
    }

    /// The CPU's view of it.
    pub fn map(&self) -> &Mapping {
        &self.map
    }

    /// Gives the BO away; statuses are seen through the mapping.
    pub fn into_parts(self) -> (Bo, Mapping) {
        (self.bo, self.map)
    }

    /// Reserves room; returns where in the BO.
    pub fn reserve(&mut self, size: usize, align: usize) -> usize {
        let start = self.used.next_multiple_of(align);
        assert!(start + size <= self.map.len(), "the chain's BO is full");
        self.used = start + size;
        start
    }

    /// The GPU address of a place in the BO.
    pub fn va(&self, offset: usize) -> u64 {
        self.bo.va() + offset as u64
    }

    /// Places data that jobs refer to; returns its GPU address.
    pub fn data(&mut self, bytes: &[u8]) -> u64 {
        let at = self.reserve(bytes.len(), 64);
        self.map.write(at, bytes);
        self.va(at)
    }

    /// Appends a job with a header of the caller's making, whose `next` is set when another
    /// follows.
    pub fn job(&mut self, header: JobHeader, payload: &[u8]) -> JobRef {
        let at = self.reserve(HEADER_SIZE + payload.len(), JOB_ALIGN);
        self.map.write(at, &header.encode());
        self.map.write(at + HEADER_SIZE, payload);
        if let Some(JobRef(last)) = self.last {
            self.edit(JobRef(last), |header| header.next = self.va(at));
        }
        self.last = Some(JobRef(at));
        self.first.get_or_insert(JobRef(at));
        JobRef(at)
    }

    /// Changes a job's header in place.
    pub fn edit(&self, job: JobRef, change: impl FnOnce(&mut JobHeader)) {
        let mut header = self.header(job);
        change(&mut header);
        self.map.write(job.0, &header.encode());
    }

    /// A job's header as it is now.
    pub fn header(&self, job: JobRef) -> JobHeader {
        let mut buf = [0; HEADER_SIZE];
        self.map.read(job.0, &mut buf);
        JobHeader::decode(&buf)
    }

    /// A job's GPU address.
    pub fn job_va(&self, job: JobRef) -> u64 {
        self.va(job.0)
    }

    /// Appends a job that does nothing.
    pub fn null(&mut self) -> JobRef {
        self.job(JobHeader::new(JobType::Null), &[])
    }

    /// Appends a job that writes.
    pub fn write(&mut self, address: u64, kind: WriteKind, immediate: u64) -> JobRef {
        let payload = WriteValue {
            address,
            kind,
            immediate,
        };
        self.job(JobHeader::new(JobType::WriteValue), &payload.encode())
    }

    /// Appends a job that writes eight bytes of zero, which every GPU can.
    pub fn zero(&mut self, address: u64) -> JobRef {
        self.write(address, WriteKind::Zero, 0)
    }

    /// Appends a job that reads memory, of the GPU model's own kind. No GPU has it.
    pub fn memory(&mut self, payload: &MemoryJob) -> JobRef {
        self.job(JobHeader::new(JobType::Memory), &payload.encode())
    }

    /// Appends a job, as [`Self::memory`], that copies `length` bytes.
    pub fn copy(&mut self, source: u64, target: u64, length: usize) -> JobRef {
        self.memory(&MemoryJob {
            source,
            target,
            length: length as u32,
            ..Default::default()
        })
    }

    /// Appends a job, as [`Self::memory`], that adds up the 32-bit words in `length` bytes.
    pub fn sum(&mut self, source: u64, target: u64, length: usize) -> JobRef {
        self.memory(&MemoryJob {
            source,
            target,
            length: length as u32,
            flags: MemoryJob::SUM,
            ..Default::default()
        })
    }

    /// Appends a job that renders a whole frame, and makes the chain one for the fragment slot.
    pub fn fragment(&mut self, frame: &Frame) -> JobRef {
        let va = self.data(&frame.encode(self.arch));
        let size = (frame.framebuffer.width, frame.framebuffer.height);
        let payload = Fragment::whole(size.0, size.1, frame.pointer(va));
        self.requirements = uapi::REQ_FS;
        self.job(JobHeader::new(JobType::Fragment), &payload.encode())
    }

    /// Adds requirements.
    pub fn require(&mut self, requirements: u32) {
        self.requirements |= requirements;
    }

    /// The first job's address, 0 without jobs.
    pub fn head(&self) -> u64 {
        self.first.map_or(0, |first| self.job_va(first))
    }

    /// A job's status.
    pub fn status(&self, job: JobRef) -> u32 {
        self.map.get32(job.0)
    }

    /// Every job's status, in the order of the chain, as long as it does not run in a circle.
    pub fn statuses(&self) -> Vec<u32> {
        let mut statuses = Vec::new();
        let mut job = self.first;
        while let Some(at) = job {
            let header = self.header(at);
            statuses.push(header.status);
            job = header
                .next
                .checked_sub(self.bo.va())
                .map(|offset| JobRef(offset as usize))
                .filter(|next| next.0 > at.0);
        }
        statuses
    }

    /// Makes all jobs fresh, to be run again.
    pub fn rearm(&self) {
        let mut job = self.first;
        while let Some(at) = job {
            self.edit(at, |header| {
                header.status = NOT_STARTED;
                header.first_incomplete = 0;
                header.fault_pointer = 0;
            });
            let next = self.header(at).next;
            job = (next > self.job_va(at)).then(|| JobRef((next - self.bo.va()) as usize));
        }
    }

    /// Appends two jobs of which each makes the other one fresh, so that the chain can be run again
    /// and again. Returns the second; its status tells whether it has ever run.
    pub fn pair(&mut self) -> JobRef {
        let first = self.zero(0);
        let second = self.zero(self.job_va(first));
        let aim = WriteValue {
            address: self.job_va(second),
            kind: WriteKind::Zero,
            immediate: 0,
        };
        self.map.write(first.0 + HEADER_SIZE, &aim.encode());
        self.edit(first, |header| header.barrier = true);
        self.edit(second, |header| header.barrier = true);
        second
    }

    /// Appends two jobs that run in turn for ever.
    pub fn endless(&mut self) {
        let second = self.pair();
        if let Some(first) = self.first {
            self.edit(second, |header| header.next = self.job_va(first));
        }
    }

    /// Submits the chain with its own BO and others.
    pub fn submit(&self, bos: &[&Bo], wait: &[&Syncobj], signal: Option<&Syncobj>) -> Result<()> {
        self.submit_in(0, bos, wait, signal)
    }

    /// Submits the chain to a context.
    pub fn submit_in(
        &self,
        context: u32,
        bos: &[&Bo],
        wait: &[&Syncobj],
        signal: Option<&Syncobj>,
    ) -> Result<()> {
        let mut all = vec![&self.bo];
        all.extend_from_slice(bos);
        self.device.submit(Job {
            head: self.head(),
            requirements: self.requirements,
            context,
            bos: &all,
            wait,
            signal,
        })
    }

    /// Submits the chain and waits for it.
    pub fn run(&self, bos: &[&Bo]) -> Result<()> {
        let done = self.device.syncobj()?;
        self.submit(bos, &[], Some(&done))?;
        done.wait(PATIENCE)
    }
}

/// How long a job may take that nothing holds up. Guests on a loaded machine are slow.
pub const PATIENCE: Duration = Duration::from_secs(20);
