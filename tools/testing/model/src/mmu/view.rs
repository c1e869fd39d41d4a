// SPDX-License-Identifier: GPL-2.0

//! GPU virtual memory, as seen by a job.
//!
//! Locks: none of its own; used with the GPU's lock held.

use std::ops::Range;

use crate::host::BusError;
use crate::host::GuestMemory;
use crate::job::Access;
use crate::job::Fault;
use crate::job::FaultKind;
use crate::job::Vm;

use super::stores::Stores;
use super::Miss;
use super::Mmu;

/// One address space and the memory behind it, for one step of a job.
pub struct View<'a> {
    mmu: &'a mut Mmu,
    mem: &'a dyn GuestMemory,
    space: usize,
    /// Why the last access failed; more precise than the [`Fault`] that was returned to the job.
    pub miss: Option<Miss>,
    /// The number of bytes that were transferred.
    pub bytes: u64,
}

impl<'a> View<'a> {
    /// Creates a view of address space `space`, which must be valid.
    pub fn new(mmu: &'a mut Mmu, mem: &'a dyn GuestMemory, space: usize) -> Self {
        Self {
            mmu,
            mem,
            space,
            miss: None,
            bytes: 0,
        }
    }

    fn fail(&mut self, va: u64, access: Access, miss: Miss) -> Fault {
        self.miss = Some(miss);
        match miss {
            Miss::Fault(fault) => Fault {
                va: fault.va,
                access,
                kind: fault.kind(),
            },
            Miss::Wait | Miss::Unmapped | Miss::Bus => Fault {
                va,
                access,
                kind: FaultKind::Bus,
            },
        }
    }

    /// Calls `each` for every piece of `va..va + len`, with its address, its bus address and its
    /// position in the range.
    fn pieces(
        &mut self,
        va: u64,
        len: usize,
        access: Access,
        mut each: impl FnMut(&mut Stores, u64, u64, Range<usize>) -> Result<(), BusError>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = va.wrapping_add(done as u64);
            let (pa, left) = match self.mmu.translate(self.mem, self.space, at, access) {
                Ok(found) => found,
                Err(miss) => return Err(self.fail(at, access, miss)),
            };
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(len - done);
            if each(&mut self.mmu.stores, at, pa, done..done + piece).is_err() {
                return Err(self.fail(at, access, Miss::Bus));
            }
            done += piece;
        }
        self.bytes += len as u64;
        Ok(())
    }
}

impl Vm for View<'_> {
    fn read(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let mem = self.mem;
        self.pieces(va, buf.len(), Access::Read, |stores, _, pa, range| {
            stores.read(mem, pa, &mut buf[range])
        })
    }

    fn fetch(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let mem = self.mem;
        self.pieces(va, buf.len(), Access::Execute, |stores, _, pa, range| {
            stores.read(mem, pa, &mut buf[range])
        })
    }

    fn write(&mut self, va: u64, data: &[u8]) -> Result<(), Fault> {
        let (mem, space) = (self.mem, self.space);
        self.pieces(va, data.len(), Access::Write, |stores, at, pa, range| {
            stores.put(mem, space, at, pa, &data[range])
        })
    }
}
