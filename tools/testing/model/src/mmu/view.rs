// SPDX-License-Identifier: GPL-2.0

//! GPU virtual memory as a job sees it.
//!
//! Locks: none of its own; used with the GPU's lock held.

use crate::host::GuestMemory;
use crate::job::Access;
use crate::job::Fault;
use crate::job::FaultKind;
use crate::job::Vm;

use super::Miss;
use super::Mmu;

/// One address space and the memory behind it, for one step of a job.
pub struct View<'a> {
    mmu: &'a mut Mmu,
    mem: &'a dyn GuestMemory,
    space: usize,
    /// Why the last access failed; more precise than the [`Fault`] that the job was given.
    pub miss: Option<Miss>,
    /// Bytes that were moved.
    pub bytes: u64,
}

impl<'a> View<'a> {
    /// The view of address space `space`, which the caller has checked.
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

    /// Calls `each` with the bus address of every piece of `va..va + len`, and where it begins in
    /// the range.
    fn pieces(
        &mut self,
        va: u64,
        len: usize,
        access: Access,
        mut each: impl FnMut(&dyn GuestMemory, u64, usize, usize) -> Result<(), Miss>,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = va.wrapping_add(done as u64);
            let (pa, left) = match self.mmu.translate(self.mem, self.space, at, access) {
                Ok(found) => found,
                Err(miss) => return Err(self.fail(at, access, miss)),
            };
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(len - done);
            if let Err(miss) = each(self.mem, pa, done, piece) {
                return Err(self.fail(at, access, miss));
            }
            done += piece;
        }
        self.bytes += len as u64;
        Ok(())
    }
}

impl Vm for View<'_> {
    fn read(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        self.pieces(va, buf.len(), Access::Read, |mem, pa, done, piece| {
            mem.read(pa, &mut buf[done..done + piece])
                .map_err(|_| Miss::Bus)
        })
    }

    fn write(&mut self, va: u64, data: &[u8]) -> Result<(), Fault> {
        self.pieces(va, data.len(), Access::Write, |mem, pa, done, piece| {
            mem.write(pa, &data[done..done + piece])
                .map_err(|_| Miss::Bus)
        })
    }
}
