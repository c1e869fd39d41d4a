// SPDX-License-Identifier: GPL-2.0

//! Many clients that do at random what clients do, good and bad, all at once. Afterwards the
//! machine has what it had before.
//!
//! The seed is printed, and `DRM_GPU_SEED` sets it: the same seed has every client do the same
//! things in the same order. How they interleave is chance.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::time::Duration;

use model::control::Opcode;
use model::control::ANY_SLOT;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::PATIENCE;
use crate::check;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Process;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::Syncobj;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

use super::seed;
use super::works;
use super::Random;

pub(super) const TESTS: &[Test] = &[Test::new("stress", &["A2", "C4", "C8", "F1"], stress)
    .needs(&[Need::Board, Need::Minor(5)])
    .not_on_panfrost("one hang in it stops everybody, again and again")];

/// Where nothing is mapped.
const NOWHERE: u64 = 0x7f_0000_0000;

/// How many there are at once.
const CLIENTS: u64 = 32;

/// Size of the buffers that all clients share.
const SHARED: usize = 64 << 10;

fn stress(gpu: &Gpu) -> Outcome {
    let seed = seed()?;
    let operations = if gpu.long { 500 } else { 20 };
    let board = Board::open()?;
    let owner = gpu.open()?;
    let mut shared = Vec::new();
    for _ in 0..4 {
        let bo = owner.create(SHARED, uapi::BO_NOEXEC)?;
        bo.map()?.fill(0);
        shared.push(bo.export()?);
    }
    // Objects that are made once and kept exist before anything is measured.
    clients(gpu, &board, &shared, seed, 4, 10)?;
    let before = memory::Held::settled()?;
    clients(gpu, &board, &shared, seed + 1, CLIENTS, operations)?;
    board.order(Opcode::ClearAll, &[])?;
    let mut after = before;
    let back = memory::wait_for(PATIENCE, || {
        after = memory::Held::now()?;
        Ok(after.is_no_more_than(&before, CLIENTS as usize))
    })?;
    check!(back, "seed {seed}: {before:?} has become {after:?}");
    println!("# {before:?} has become {after:?}");
    works(&owner)
}

fn clients(
    gpu: &Gpu,
    board: &Board,
    shared: &[OwnedFd],
    seed: u64,
    count: u64,
    operations: u32,
) -> Outcome {
    let patience = Duration::from_secs(if gpu.long { 3000 } else { 250 });
    let mut clients = Vec::new();
    for n in 0..count {
        let run = || {
            let mut client = Client::new(gpu, board, shared, seed * 1000 + n)?;
            for operation in 0..operations {
                client.operate().or_else(|errno| {
                    let at = format!("seed {seed}, client {n}, operation {operation}");
                    client.forgive(errno, &at)
                })?;
            }
            if n % 2 == 0 {
                // With all that it has, busy or not.
                // SAFETY: ends this process.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            Ok(())
        };
        // SAFETY: this process has one thread.
        clients.push((n, unsafe { Process::start(run)? }));
    }
    for (n, client) in clients {
        match n % 2 {
            0 => client.dies(patience)?,
            _ => client.finish(patience)?,
        }
    }
    Ok(())
}

/// A client and what it has.
struct Client<'a> {
    device: Device,
    board: &'a Board,
    shared: &'a [OwnedFd],
    random: Random,
    bos: Vec<Bo>,
    syncs: Vec<Syncobj>,
    contexts: Vec<u32>,
    chains: Vec<Chain>,
}

impl<'a> Client<'a> {
    fn new(gpu: &Gpu, board: &'a Board, shared: &'a [OwnedFd], seed: u64) -> Result<Self, Stop> {
        Ok(Self {
            device: gpu.open()?,
            board,
            shared,
            random: Random(seed),
            bos: Vec::new(),
            syncs: Vec::new(),
            contexts: vec![0],
            chains: Vec::new(),
        })
    }

    /// Accepts the errors that a client with hung jobs, buffers that were given up, the same buffer
    /// twice and syncobjs without a fence has to expect. Everything else is wrong.
    fn forgive(&self, errno: Errno, at: &str) -> Outcome {
        match errno.0 {
            libc::ECANCELED
            | libc::EALREADY
            | libc::ETIME
            | libc::ETIMEDOUT
            | libc::EBUSY
            | libc::EINVAL
            | libc::ENOENT
            | libc::ENOMEM => Ok(()),
            _ => Err(Stop::fail(format!("{at}: {errno}"))),
        }
    }

    /// One of so many.
    fn any(&mut self, len: usize) -> usize {
        self.random.below(len.max(1) as u64) as usize
    }

    fn operate(&mut self) -> sys::Result<()> {
        let (bo, sync) = (self.any(self.bos.len()), self.any(self.syncs.len()));
        let short = Duration::from_millis(20);
        match self.random.below(400) {
            0..60 => {
                let size = 4096 << self.random.below(8);
                let bo = self.device.create(size, uapi::BO_NOEXEC)?;
                bo.map()?.fill(1);
                self.bos.push(bo);
            }
            60..100 if !self.bos.is_empty() => self.bos.swap_remove(bo).close()?,
            100..130 => self.syncs.push(self.device.syncobj()?),
            130..150 if !self.syncs.is_empty() => drop(self.syncs.swap_remove(sync)),
            150..250 => self.submit()?,
            250..270 if !self.syncs.is_empty() => self.syncs[sync].wait(short)?,
            270..290 if !self.bos.is_empty() => self.bos[bo].wait(short)?,
            290..310 if !self.bos.is_empty() => drop(self.bos[bo].export()?),
            310..330 => {
                let n = self.any(self.shared.len());
                let bo = Bo::import(&self.device, self.shared[n].as_fd(), SHARED)?;
                self.bos.push(bo);
            }
            330..350 => {
                let priority = self.random.below(3) as u32;
                self.contexts.push(self.device.create_context(priority)?);
            }
            350..360 if self.contexts.len() > 1 => {
                let n = 1 + self.any(self.contexts.len() - 1);
                self.device.destroy_context(self.contexts.swap_remove(n))?;
            }
            360..380 if !self.bos.is_empty() => {
                let advice = self.random.below(2) as u32;
                self.bos[bo].madvise(advice)?;
            }
            // The next job may be of any client.
            380..382 => self.board.order(Opcode::HangNextJob, &[ANY_SLOT, 1])?,
            382..390 => self.board.order(Opcode::Release, &[])?,
            390..395 => self.chains.clear(),
            _ => (),
        }
        Ok(())
    }

    /// A chain that does nothing, writes to a BO, or faults; with some of the BOs, in any context.
    fn submit(&mut self) -> sys::Result<()> {
        let mut chain = Chain::new(&self.device, 4096)?;
        let target = self.any(self.bos.len());
        match self.random.below(8) {
            0 => chain.zero(NOWHERE),
            1..5 if !self.bos.is_empty() => chain.zero(self.bos[target].va()),
            _ => chain.null(),
        };
        let requirements = self.random.below(2) as u32 * uapi::REQ_FS;
        let listed = self.any(self.bos.len() + 1);
        let handles: Vec<u32> = [chain.bo()]
            .into_iter()
            .chain(&self.bos[..listed])
            .map(Bo::handle)
            .collect();
        let out = self.any(self.syncs.len());
        let waits: Vec<u32> = match self.random.below(4) {
            0 => self.syncs.iter().map(Syncobj::handle).take(2).collect(),
            _ => Vec::new(),
        };
        let context = self.any(self.contexts.len());
        self.device.submit_raw(&mut uapi::Submit {
            jc: chain.head(),
            requirements,
            in_syncs: waits.as_ptr() as u64,
            in_sync_count: waits.len() as u32,
            out_sync: self.syncs.get(out).map_or(0, Syncobj::handle),
            bo_handles: handles.as_ptr() as u64,
            bo_handle_count: handles.len() as u32,
            jm_ctx_handle: self.contexts[context],
            ..Default::default()
        })?;
        self.chains.push(chain);
        Ok(())
    }
}
