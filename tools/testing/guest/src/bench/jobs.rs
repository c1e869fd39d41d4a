// SPDX-License-Identifier: GPL-2.0

//! Submitting, running and waiting; files and contexts.

use std::thread;
use std::time::Duration;

use model::control::Opcode;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check_eq;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Stop;
use crate::sync::Syncobj;
use crate::uapi;

use super::count::total;
use super::count::Clearing;
use super::median;
use super::time;
use super::Aim;
use super::Row;
use super::BASE;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        "total-job",
        "a NULL job and the wait for its fence",
        Aim::HALF,
        total_job,
    )
    .ordinary(),
    Row::new(
        "total-queue",
        "a NULL job of 256 that are queued at once",
        Aim::HALF,
        total_queue,
    ),
    Row::new(
        "round-trip",
        "a NULL job from SUBMIT to the end of the wait for its fence",
        Aim::HALF,
        round_trip,
    ),
    Row::new("submit-16", "SUBMIT, 16 BOs", Aim::HALF, |gpu| {
        submit(gpu, 16)
    }),
    Row::new("submit-256", "SUBMIT, 256 BOs", Aim::HALF, |gpu| {
        submit(gpu, 256)
    }),
    Row::new("submit-1024", "SUBMIT, 1,024 BOs", Aim::HALF, |gpu| {
        submit(gpu, 1024)
    }),
    Row::new("submit-per-bo", "each further BO", Aim::HALF, per_bo),
    Row::new(
        BASE,
        "the cheapest ioctl (GET_PARAM)",
        Aim::same("of C panfrost's 664, 650 are the kernel's before and after the driver"),
        ioctl,
    ),
    Row::new(
        "close-stalled",
        "GEM_CLOSE of the BO of a stalled job",
        Aim::same("of C panfrost's 1,365, 1,250 are the DRM core's"),
        close_stalled,
    ),
    Row::new(
        "open-close",
        "to open the node and close it",
        Aim::same("clients do it once, when they begin"),
        open_close,
    )
    .ordinary(),
    Row::new(
        "context",
        "JM_CTX_CREATE and JM_CTX_DESTROY",
        Aim::same("clients do it once, when they begin"),
        context,
    )
    .ordinary(),
];

/// How often a row is measured in a round.
const SAMPLES: usize = 31;

fn ioctl(gpu: &Gpu) -> Result<u64, Stop> {
    const CALLS: u64 = 100;
    let device = gpu.open()?;
    median(SAMPLES, || {
        let (ns, ()) = time(|| {
            for _ in 0..CALLS {
                device.param(uapi::PARAM_PROD_ID)?;
            }
            Ok(())
        })?;
        Ok(ns / CALLS)
    })
}

/// Everything that a submit needs, made beforehand.
pub(super) struct Submit {
    device: Device,
    chain: Chain,
    _others: Vec<Bo>,
    handles: Vec<u32>,
    done: Syncobj,
}

impl Submit {
    fn new(gpu: &Gpu, bos: usize) -> Result<Self, Stop> {
        Self::of(gpu.open()?, bos)
    }

    /// The same in a file that is there.
    pub(super) fn of(device: Device, bos: usize) -> Result<Self, Stop> {
        let mut chain = Chain::new(&device, 4096)?;
        chain.null();
        let others = (1..bos)
            .map(|_| device.create(4096, uapi::BO_NOEXEC))
            .collect::<Result<Vec<_>, _>>()?;
        let handles = [chain.bo()]
            .into_iter()
            .chain(&others)
            .map(Bo::handle)
            .collect();
        Ok(Self {
            done: device.syncobj()?,
            device,
            chain,
            _others: others,
            handles,
        })
    }

    fn arg(&self) -> uapi::Submit {
        uapi::Submit {
            jc: self.chain.head(),
            out_sync: self.done.handle(),
            bo_handles: self.handles.as_ptr() as u64,
            bo_handle_count: self.handles.len() as u32,
            ..Default::default()
        }
    }

    /// How long the ioctl takes. Waits until the job has run.
    pub(super) fn sample(&self) -> Result<u64, Stop> {
        self.chain.rearm();
        let mut arg = self.arg();
        let (ns, ()) = time(|| self.device.submit_raw(&mut arg))?;
        self.done.wait(PATIENCE)?;
        check_eq!(self.chain.statuses(), [DONE]);
        Ok(ns)
    }
}

fn submit(gpu: &Gpu, bos: usize) -> Result<u64, Stop> {
    let submit = Submit::new(gpu, bos)?;
    median(SAMPLES, || submit.sample())
}

fn per_bo(gpu: &Gpu) -> Result<u64, Stop> {
    const MANY: usize = 1024;
    Ok(submit(gpu, MANY)?.saturating_sub(submit(gpu, 1)?) / (MANY as u64 - 1))
}

fn round_trip(gpu: &Gpu) -> Result<u64, Stop> {
    let submit = Submit::new(gpu, 1)?;
    median(SAMPLES, || {
        submit.chain.rearm();
        let mut arg = submit.arg();
        let (ns, ()) = time(|| {
            submit.device.submit_raw(&mut arg)?;
            submit.done.wait(PATIENCE)
        })?;
        check_eq!(submit.chain.statuses(), [DONE]);
        Ok(ns)
    })
}

/// The program has ordinary priority, so the GPU is idle whenever a job is submitted.
fn total_job(gpu: &Gpu) -> Result<u64, Stop> {
    const JOBS: usize = 50;
    let submit = Submit::new(gpu, 1)?;
    total(JOBS, Clearing::Counts, || {
        for _ in 0..JOBS {
            submit.chain.rearm();
            submit.device.submit_raw(&mut submit.arg())?;
            submit.done.wait(PATIENCE)?;
        }
        check_eq!(submit.chain.statuses(), [DONE]);
        Ok(())
    })
}

/// All are queued before the driver hears of the end of the first.
fn total_queue(gpu: &Gpu) -> Result<u64, Stop> {
    const JOBS: usize = 256;
    let submit = Submit::new(gpu, 1)?;
    // Chains of one job each, in one BO.
    let mut chains = Chain::new(&submit.device, 128 * JOBS)?;
    let jobs: Vec<_> = (0..JOBS).map(|_| chains.null()).collect();
    let handles = [chains.bo().handle()];
    total(JOBS, Clearing::Counts, || {
        for &job in &jobs {
            chains.edit(job, |header| {
                header.status = NOT_STARTED;
                header.next = 0;
            });
        }
        for &job in &jobs {
            submit.device.submit_raw(&mut uapi::Submit {
                jc: chains.job_va(job),
                bo_handles: handles.as_ptr() as u64,
                ..submit.arg()
            })?;
        }
        submit.done.wait(PATIENCE)?;
        for &job in &jobs {
            check_eq!(chains.status(job), DONE);
        }
        Ok(())
    })
}

fn open_close(gpu: &Gpu) -> Result<u64, Stop> {
    const TIMES: usize = 20;
    total(TIMES, Clearing::Counts, || {
        for _ in 0..TIMES {
            drop(gpu.open()?);
        }
        Ok(())
    })
}

fn context(gpu: &Gpu) -> Result<u64, Stop> {
    const TIMES: usize = 50;
    let device = gpu.open()?;
    total(TIMES, Clearing::Counts, || {
        for _ in 0..TIMES {
            device.destroy_context(device.create_context(uapi::PRIORITY_MEDIUM)?)?;
        }
        Ok(())
    })
}

fn close_stalled(gpu: &Gpu) -> Result<u64, Stop> {
    let board = Board::open()?;
    let submit = Submit::new(gpu, 1)?;
    median(SAMPLES, || {
        submit.chain.rearm();
        let bo = submit.device.create(64 * 1024, uapi::BO_NOEXEC)?;
        // So that it has pages and mappings to lose.
        bo.map()?.fill(0);
        board.order(Opcode::HangNextJob, &[model::control::ANY_SLOT, 1])?;
        let handles = [submit.chain.bo().handle(), bo.handle()];
        submit.device.submit_raw(&mut uapi::Submit {
            bo_handles: handles.as_ptr() as u64,
            bo_handle_count: 2,
            ..submit.arg()
        })?;
        // Work that the sample before has left to workers must not count for this one.
        thread::sleep(Duration::from_millis(5));
        let (ns, ()) = time(|| bo.close())?;
        if submit.done.signalled()? {
            return Err(Stop::fail("the job is over"));
        }
        board.order(Opcode::Release, &[])?;
        submit.done.wait(PATIENCE)?;
        Ok(ns)
    })
}
