// SPDX-License-Identifier: GPL-2.0

//! Frames, with the ioctls that Mesa makes for one.
//!
//! The BOs of a frame's transient data are from a pool: taken (WAIT_BO without waiting, MADVISE)
//! before they are filled, given back (MADVISE) once the frame has been submitted. A tiler chain
//! and a fragment chain list all BOs. Then the program waits for the frame before.

use model::control::Opcode;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::JobRef;
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
use super::Aim;
use super::Row;

/// A frame with so many BOs, of which some have been exported and some are of the pool.
#[derive(Clone, Copy)]
struct Size {
    bos: usize,
    exported: usize,
    pool: usize,
}

const SMALL: Size = Size {
    bos: 8,
    exported: 1,
    pool: 2,
};
const USUAL: Size = Size {
    bos: 30,
    exported: 3,
    pool: 6,
};
const LARGE: Size = Size {
    bos: 100,
    exported: 3,
    pool: 12,
};
const HUGE: Size = Size {
    bos: 300,
    exported: 3,
    pool: 16,
};

pub(super) const ROWS: &[Row] = &[
    idle("frame-8", "a frame of 8 BOs, the GPU is idle", |gpu| {
        frames(gpu, SMALL, false)
    }),
    idle("frame-30", "a frame of 30 BOs, the GPU is idle", |gpu| {
        frames(gpu, USUAL, false)
    }),
    idle("frame-100", "a frame of 100 BOs, the GPU is idle", |gpu| {
        frames(gpu, LARGE, false)
    }),
    idle("frame-300", "a frame of 300 BOs, the GPU is idle", |gpu| {
        frames(gpu, HUGE, false)
    }),
    busy("frame-8-busy", "a frame of 8 BOs, the GPU is busy", |gpu| {
        frames(gpu, SMALL, true)
    }),
    busy(
        "frame-30-busy",
        "a frame of 30 BOs, the GPU is busy",
        |gpu| frames(gpu, USUAL, true),
    ),
    busy(
        "frame-100-busy",
        "a frame of 100 BOs, the GPU is busy",
        |gpu| frames(gpu, LARGE, true),
    ),
    busy(
        "frame-300-busy",
        "a frame of 300 BOs, the GPU is busy",
        |gpu| frames(gpu, HUGE, true),
    ),
];

/// Measures a row.
type Run = fn(&Gpu) -> Result<u64, Stop>;

/// Jobs take no time, and interrupt threads preempt the program.
const fn idle(name: &'static str, what: &'static str, run: Run) -> Row {
    Row::new(name, what, Aim::HALF, run).ordinary()
}

/// The tiler chain of a frame ends when the program comes to wait for that frame, which it does
/// once the next one is submitted. The driver hears of it while the program waits.
const fn busy(name: &'static str, what: &'static str, run: Run) -> Row {
    Row::new(name, what, Aim::HALF, run)
}

/// The slot of chains that have no requirements.
const TILER_SLOT: u32 = 1;

/// Frames in a sample.
const FRAMES: usize = 30;

/// A client.
struct Client {
    device: Device,
    chains: Chain,
    /// The chains of frames with an even and with an odd number.
    jobs: [Frame; 2],
    done: [Syncobj; 2],
    /// In turn.
    pools: Vec<Pool>,
    _kept: Vec<Bo>,
    /// Where the model is told which chains may end, if that is not at once.
    board: Option<Board>,
}

/// The chains of a frame.
struct Frame {
    tiler: JobRef,
    fragment: JobRef,
}

/// BOs of the pool, and the list of a submit that uses them.
struct Pool {
    bos: Vec<Bo>,
    handles: Vec<u32>,
}

impl Client {
    fn new(gpu: &Gpu, size: Size, busy: bool) -> Result<Self, Stop> {
        let device = gpu.open()?;
        let mut chains = Chain::new(&device, 4096)?;
        let mut frame = || Frame {
            tiler: chains.null(),
            fragment: chains.null(),
        };
        let jobs = [frame(), frame()];
        let kept = (1..size.bos - size.pool)
            .map(|n| device.create(if n % 4 == 1 { 256 } else { 16 } << 10, uapi::BO_NOEXEC))
            .collect::<Result<Vec<_>, _>>()?;
        for bo in &kept[..size.exported] {
            bo.export()?;
        }
        let pool = || -> Result<Pool, Stop> {
            let bos = (0..size.pool)
                .map(|_| {
                    let bo = device.create(64 << 10, uapi::BO_NOEXEC)?;
                    bo.map()?.put32(0, 1);
                    bo.madvise(uapi::MADV_DONTNEED)?;
                    Ok(bo)
                })
                .collect::<Result<Vec<_>, Stop>>()?;
            let handles = [chains.bo()]
                .into_iter()
                .chain(&kept)
                .chain(&bos)
                .map(Bo::handle)
                .collect();
            Ok(Pool { bos, handles })
        };
        let pools = (0..3).map(|_| pool()).collect::<Result<_, _>>()?;
        let board = if busy { Some(Board::open()?) } else { None };
        let client = Self {
            done: [device.syncobj()?, device.syncobj()?],
            device,
            chains,
            jobs,
            pools,
            _kept: kept,
            board,
        };
        client.let_tiler_end(0)?;
        Ok(client)
    }

    /// Lets `count` more chains of the tiler slot end, unless they end at once by themselves.
    fn let_tiler_end(&self, count: u32) -> Result<(), Stop> {
        if let Some(board) = &self.board {
            board.order(Opcode::RationJobs, &[TILER_SLOT, count])?;
        }
        Ok(())
    }

    fn submit(
        &self,
        job: JobRef,
        requirements: u32,
        handles: &[u32],
        done: Option<&Syncobj>,
    ) -> Result<(), Stop> {
        self.chains.edit(job, |header| {
            header.status = NOT_STARTED;
            header.next = 0;
        });
        self.device.submit_raw(&mut uapi::Submit {
            jc: self.chains.job_va(job),
            requirements,
            bo_handles: handles.as_ptr() as u64,
            bo_handle_count: handles.len() as u32,
            out_sync: done.map_or(0, Syncobj::handle),
            ..Default::default()
        })?;
        Ok(())
    }

    /// Waits for the frame with this number, of which no later one has been waited for.
    fn wait(&self, number: usize) -> Result<(), Stop> {
        self.let_tiler_end(1)?;
        self.done[number % 2].wait(PATIENCE)?;
        let frame = &self.jobs[number % 2];
        for job in [frame.tiler, frame.fragment] {
            check_eq!(self.chains.status(job), DONE);
        }
        Ok(())
    }

    fn run(&self) -> Result<(), Stop> {
        for number in 0..FRAMES {
            let pool = &self.pools[number % self.pools.len()];
            for bo in &pool.bos {
                // Mesa makes another one if it is busy. With three pools it is not.
                let _ = bo.wait_until(0);
                bo.madvise(uapi::MADV_WILLNEED)?;
            }
            let (frame, done) = (&self.jobs[number % 2], &self.done[number % 2]);
            self.submit(frame.tiler, 0, &pool.handles, None)?;
            self.submit(frame.fragment, uapi::REQ_FS, &pool.handles, Some(done))?;
            for bo in &pool.bos {
                bo.madvise(uapi::MADV_DONTNEED)?;
            }
            if number > 0 {
                self.wait(number - 1)?;
            }
        }
        self.wait(FRAMES - 1)
    }
}

fn frames(gpu: &Gpu, size: Size, busy: bool) -> Result<u64, Stop> {
    let client = Client::new(gpu, size, busy)?;
    total(FRAMES, Clearing::Counts, || client.run())
}
