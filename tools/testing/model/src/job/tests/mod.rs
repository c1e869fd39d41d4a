// SPDX-License-Identifier: GPL-2.0

//! Tests of the executor, with simulated memory.

mod chain;
mod fragment;
mod heap;
mod memory;
mod overlap;

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::desc::JobHeader;
use crate::desc::JobType;
use crate::desc::TilerJob;
use crate::desc::HEADER_SIZE;
use crate::desc::PAYLOAD_OFFSET;

use super::*;

const PAGE: u64 = 4096;

/// Sparse memory: pages are allocated when they are first written to. Others read as zeroes.
#[derive(Clone, Default)]
pub(super) struct TestVm {
    pages: BTreeMap<u64, Vec<u8>>,
    /// Memory that is absent until it is added to `mapped`.
    holes: Vec<std::ops::Range<u64>>,
    mapped: Vec<std::ops::Range<u64>>,
    /// Memory that is not executable.
    data: Vec<std::ops::Range<u64>>,
    /// The number of an access that faults once.
    fault_access: Option<u64>,
    pub(super) accesses: u64,
    pub(super) writes: u64,
}

impl TestVm {
    fn access(&mut self, va: u64, len: usize, access: Access) -> Result<(), Fault> {
        let number = self.accesses;
        self.accesses += 1;
        if self.fault_access == Some(number) {
            self.fault_access = None;
            return Err(Self::fault(va, access));
        }
        let Some(end) = va.checked_add(len as u64) else {
            return Err(Self::fault(va, access));
        };
        let mut at = va;
        while at < end {
            let hole = self.holes.iter().any(|hole| hole.contains(&at));
            if hole && !self.mapped.iter().any(|range| range.contains(&at)) {
                return Err(Self::fault(at, access));
            }
            at = (at / PAGE + 1) * PAGE;
        }
        Ok(())
    }

    fn fault(va: u64, access: Access) -> Fault {
        Fault {
            va,
            access,
            kind: FaultKind::Translation { level: 3 },
        }
    }

    /// Returns the offset into a page, and how many of the `len` bytes at `va` are in that page.
    fn part(va: u64, len: usize) -> (usize, usize) {
        let offset = (va % PAGE) as usize;
        (offset, len.min(PAGE as usize - offset))
    }

    fn poke(&mut self, mut va: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let (offset, len) = Self::part(va, data.len());
            let page = self
                .pages
                .entry(va / PAGE)
                .or_insert_with(|| vec![0; PAGE as usize]);
            page[offset..offset + len].copy_from_slice(&data[..len]);
            va += len as u64;
            data = &data[len..];
        }
    }

    fn peek_into(&self, mut va: u64, mut buf: &mut [u8]) {
        while !buf.is_empty() {
            let (offset, len) = Self::part(va, buf.len());
            let (to, rest) = buf.split_at_mut(len);
            match self.pages.get(&(va / PAGE)) {
                Some(page) => to.copy_from_slice(&page[offset..offset + len]),
                None => to.fill(0),
            }
            va += len as u64;
            buf = rest;
        }
    }

    fn peek(&self, va: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        self.peek_into(va, &mut buf);
        buf
    }

    fn peek64(&self, va: u64) -> u64 {
        u64::from_le_bytes(self.peek(va, 8).try_into().unwrap())
    }

    /// Places a job.
    fn job(&mut self, va: u64, header: JobHeader, payload: &[u8]) {
        self.poke(va, &header.encode());
        self.poke(va + PAYLOAD_OFFSET, payload);
    }

    fn header(&self, va: u64) -> JobHeader {
        let buf: [u8; HEADER_SIZE] = self.peek(va, HEADER_SIZE).try_into().unwrap();
        JobHeader::decode(&buf)
    }

    fn status(&self, va: u64) -> Exception {
        Exception(self.header(va).status)
    }
}

impl Vm for TestVm {
    fn read(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        self.access(va, buf.len(), Access::Read)?;
        self.peek_into(va, buf);
        Ok(())
    }

    fn fetch(&mut self, va: u64, buf: &mut [u8]) -> Result<(), Fault> {
        if self.data.iter().any(|range| range.contains(&va)) {
            return Err(Fault {
                va,
                access: Access::Execute,
                kind: FaultKind::Permission,
            });
        }
        self.access(va, buf.len(), Access::Execute)?;
        self.peek_into(va, buf);
        Ok(())
    }

    fn write(&mut self, va: u64, data: &[u8]) -> Result<(), Fault> {
        let result = self.access(va, data.len(), Access::Write);
        // The bytes before the fault are written, as in an address space.
        let len = match result {
            Ok(()) => data.len(),
            Err(fault) => (fault.va - va) as usize,
        };
        self.poke(va, &data[..len]);
        self.writes += 1;
        result
    }
}

/// A GPU whose counters have known values. Each read of the cycle counter advances it.
pub(super) struct TestEnv {
    arch: Arch,
    cycles: Cell<u64>,
    per_primitive: u32,
}

impl TestEnv {
    fn new(arch: Arch) -> Self {
        Self {
            arch,
            cycles: Cell::new(0x1122_3344_5566_7788),
            per_primitive: DEFAULT_BYTES_PER_PRIMITIVE,
        }
    }
}

impl Env for TestEnv {
    fn arch(&self) -> Arch {
        self.arch
    }

    fn cycles(&self) -> u64 {
        self.cycles.replace(self.cycles.get() + 1)
    }

    fn timestamp(&self) -> u64 {
        0x0102_0304_0506_0708
    }

    fn heap_bytes_per_primitive(&self) -> u32 {
        self.per_primitive
    }
}

const ARCHES: [Arch; 3] = [Arch::V5, Arch::V7, Arch::V9];

/// Runs a chain that is not expected to fault.
fn run(vm: &mut TestVm, env: &TestEnv, head: u64) -> (Step, Chain) {
    let mut chain = Chain::new(head);
    for _ in 0..100_000 {
        match chain.step(vm, env).expect("unexpected fault") {
            Step::Continue => {}
            end => return (end, chain),
        }
    }
    panic!("the chain does not end");
}

/// Runs the chain once for each access it makes, with a fault on that access, and checks that
/// memory ends up the same as without faults.
fn check_resume(vm: &TestVm, arch: Arch, head: u64, expected: Step) {
    let mut reference = vm.clone();
    reference.accesses = 0;
    assert_eq!(run(&mut reference, &TestEnv::new(arch), head).0, expected);
    for number in 0..reference.accesses {
        let mut vm = vm.clone();
        vm.accesses = 0;
        vm.fault_access = Some(number);
        let env = TestEnv::new(arch);
        let mut chain = Chain::new(head);
        let mut faults = 0;
        let end = loop {
            match chain.step(&mut vm, &env) {
                Ok(Step::Continue) => {}
                Ok(end) => break end,
                Err(_) => faults += 1,
            }
        };
        assert_eq!(faults, 1);
        assert_eq!(end, expected);
        assert!(vm.pages == reference.pages, "fault on access {number}");
    }
}

/// Creates a header with an index and a successor.
fn header(job_type: JobType, index: u16, next: u64) -> JobHeader {
    JobHeader {
        index,
        next,
        ..JobHeader::new(job_type)
    }
}
