// SPDX-License-Identifier: GPL-2.0

//! How long a job slot has nothing to do between two jobs of which one waits for the other.

use std::thread;
use std::time::Duration;

use model::control::Opcode;

use crate::board;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check_eq;
use crate::harness::Gpu;
use crate::harness::Stop;
use crate::uapi;

use super::median;
use super::Aim;
use super::Row;
use super::Unit;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        "start-next",
        "from the interrupt of a job to the start of the one that waits for it",
        Aim::HALF,
        |gpu| start_next(gpu, |start| start.instructions),
    )
    .last()
    .alone(),
    Row::new("start-next-reg", "the same", Aim::HALF, |gpu| {
        start_next(gpu, |start| start.accesses)
    })
    .unit(Unit::Accesses)
    .last()
    .alone(),
];

/// The slot of chains that have no requirements.
const TILER_SLOT: u32 = 1;

/// How long it takes until the first job has been started, and workers have nothing to do.
const SETTLE: Duration = Duration::from_millis(5);

/// How often a row is measured in a round.
const SAMPLES: usize = 31;

/// A start of a chain after the interrupt of another, as a plugin of QEMU's has seen it
/// (`profile.c`).
struct Start {
    instructions: u64,
    accesses: u64,
}

/// Tells the plugin where the registers of the GPU are. It forgets what it has seen.
#[cfg(target_arch = "x86_64")]
fn watch(registers: u64) {
    const DISPLACEMENT: usize = 0x6265_6e04;
    let mut place = 0u64;
    // SAFETY: the instruction stores to `place`.
    unsafe {
        core::arch::asm!(
            "movq %rdx, 0x62656e04(%rax)",
            in("rax") (&raw mut place).wrapping_byte_sub(DISPLACEMENT),
            in("rdx") registers,
            options(att_syntax, nostack, preserves_flags),
        );
    }
}

/// No plugin knows how to be told.
#[cfg(not(target_arch = "x86_64"))]
fn watch(_registers: u64) {}

/// The start that the plugin has seen since [`watch`]. An error unless it was exactly one.
#[cfg(target_arch = "x86_64")]
fn seen() -> Result<Start, Stop> {
    #[repr(align(32))]
    struct Answer([u64; 4]);

    let mut answer = Answer([u64::MAX; 4]);
    // SAFETY: the instruction stores to the first of the numbers, and the plugin to all.
    unsafe {
        core::arch::asm!(
            "movl $0x62656e05, (%rax)",
            in("rax") answer.0.as_mut_ptr(),
            options(att_syntax, nostack, preserves_flags),
        );
    }
    match answer.0 {
        [1, instructions, accesses, 0] => Ok(Start {
            instructions,
            accesses,
        }),
        [_, _, _, u64::MAX] => Err(Stop::fail("no plugin watches (vm --plugin, watch=on)")),
        [count, ..] => Err(Stop::fail(format!("{count} starts after an interrupt"))),
    }
}

/// No plugin knows how to be asked.
#[cfg(not(target_arch = "x86_64"))]
fn seen() -> Result<Start, Stop> {
    Err(Stop::fail("no plugin watches"))
}

/// A job of the tiler slot that ends when it is told to, and one of the fragment slot that waits
/// for the same BO. Meanwhile the program lets everybody go first.
fn start_next(gpu: &Gpu, part: fn(&Start) -> u64) -> Result<u64, Stop> {
    let board = Board::open()?;
    let registers = board::registers_address()?;
    let device = gpu.open()?;
    let mut chains = Chain::new(&device, 4096)?;
    let jobs = [chains.null(), chains.null()];
    let handles = [chains.bo().handle()];
    let done = device.syncobj()?;
    board.order(Opcode::RationJobs, &[TILER_SLOT, 0])?;
    median(SAMPLES, || {
        for (job, requirements) in jobs.into_iter().zip([0, uapi::REQ_FS]) {
            chains.edit(job, |header| {
                header.status = NOT_STARTED;
                header.next = 0;
            });
            device.submit_raw(&mut uapi::Submit {
                jc: chains.job_va(job),
                requirements,
                bo_handles: handles.as_ptr() as u64,
                bo_handle_count: 1,
                out_sync: done.handle(),
                ..Default::default()
            })?;
        }
        thread::sleep(SETTLE);
        watch(registers);
        board.order(Opcode::RationJobs, &[TILER_SLOT, 1])?;
        done.wait(PATIENCE)?;
        for job in jobs {
            check_eq!(chains.status(job), DONE);
        }
        Ok(part(&seen()?))
    })
}
