// SPDX-License-Identifier: GPL-2.0

//! The jobs of others while those of a file are being ended.

use std::os::fd::AsFd;
use std::time::Instant;

use model::control::Opcode;
use model::control::Stat;
use model::job::Arch;

use super::end;
use super::nothing;
use super::start;
use super::RESETS;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::fence_status;
use crate::sys::Errno;
use crate::tests::tiler::heap;
use crate::tests::works;
use crate::uapi;

pub(in crate::tests) const TESTS: &[Test] = &[
    Test::new("recover-others-use-the-slot", &["B5", "C4"], use_the_slot)
        .needs(&[Need::Board])
        .panfrost_fails(RESETS),
    Test::new("recover-heap-grows-meanwhile", &["B2", "C4"], heap_grows)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails("a storm of interrupts is no reason for a reset"),
];

/// An address where nothing is ever mapped.
const UNMAPPED: u64 = 0xdead_beef_0000;

/// How often it is tried to have two things happen at the same time.
const ROUNDS: usize = 5;

/// A chain for the fragment slot, of one job that writes there, or of one that does nothing.
fn fragment(device: &Device, writes: Option<u64>) -> Result<Chain, Stop> {
    let mut chain = Chain::new(device, 4096)?;
    match writes {
        Some(va) => chain.zero(va),
        None => chain.null(),
    };
    chain.require(uapi::REQ_FS);
    Ok(chain)
}

/// A file's address space was turned off for a fault, and one of its jobs does not leave the
/// hardware: its next job cannot be started. Meanwhile the slot is there for others.
fn use_the_slot(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let other = gpu.open()?;
    if other.arch()? == Arch::V9 {
        return Err(Stop::Skip(
            "a fault resets a G57, which ends all jobs".into(),
        ));
    }
    for _ in 0..ROUNDS {
        let device = gpu.open()?;
        board.order(Opcode::IgnoreHardStop, &[1])?;
        board.order(Opcode::HangNextJob, &[1, 1])?;
        let (stays, faulty) = (nothing(&device)?, fragment(&device, Some(UNMAPPED))?);
        let (next, others) = (fragment(&device, None)?, fragment(&other, None)?);
        let stays_fence = start(&device, 0, &stays)?;
        let faulty_fence = start(&device, 0, &faulty)?;
        check_eq!(end(&faulty_fence)?, Err(Errno(libc::EINVAL)));
        let next_fence = start(&device, 0, &next)?;
        check_eq!(end(&start(&other, 0, &others)?)?, Ok(()));
        let in_time = fence_status(stays_fence.as_fd())?.is_none();
        check!(end(&stays_fence)?.is_err());
        check_eq!(end(&next_fence)?, Ok(()));
        board.order(Opcode::ClearAll, &[])?;
        works(&device)?;
        if in_time {
            return works(&other);
        }
    }
    Err(Stop::fail("the slot was idle until the GPU was reset"))
}

/// Two files that have their address spaces in the hardware.
fn two_files(gpu: &Gpu) -> Result<[(Device, Chain); 2], Stop> {
    let file = || {
        let device = gpu.open()?;
        let chain = nothing(&device)?;
        chain.run(&[])?;
        // As long as it has its BO, nothing is flushed.
        Ok::<_, Stop>((device, chain))
    };
    Ok([file()?, file()?])
}

/// Whether a chain that waits for its heap to grow when the GPU is about to be reset, and another
/// file has a fault to be dealt with, goes on after the reset.
fn goes_on(gpu: &Gpu, board: &Board) -> Result<bool, Stop> {
    const MMU: u32 = 1;
    const GPU: u32 = 2;
    const GPU_FAULT: u32 = 1;

    // After one storm of interrupts, another one causes no reset for a while.
    gpu.node.unbind()?.give_back()?;
    let [(bad, _bad_chain), (good, _good_chain)] = two_files(gpu)?;
    let heap = heap(&good, 4 << 20)?;
    let mut grows = Chain::new(&good, 4096)?;
    grows.null();
    grows.zero(heap.va());
    grows.null();
    let faulty = fragment(&bad, Some(UNMAPPED))?;

    // Nobody hears of the faults yet.
    let [faults, irqs] = [Stat::MmuFaults, Stat::MmuIrqs].map(|stat| board.stat(stat));
    board.order(Opcode::LoseIrq, &[MMU, 1])?;
    let done = good.syncobj()?;
    grows.submit(&[&heap], &[], Some(&done))?;
    let grows_fence = done.fence()?;
    let faulty_fence = start(&bad, 0, &faulty)?;
    let both = || Ok(board.stat(Stat::MmuFaults).wrapping_sub(faults) >= 2);
    check!(memory::wait_for(PATIENCE, both)?, "there are no two faults");
    let unheard = board.stat(Stat::MmuIrqs) == irqs;

    // A storm of interrupts has the GPU reset. Running chains are stopped softly before.
    let stops = board.stat(Stat::SoftStops);
    let give_up = Instant::now() + PATIENCE;
    while board.stat(Stat::SoftStops) == stops {
        check!(Instant::now() < give_up, "no reset");
        board.order(Opcode::SpuriousIrq, &[GPU, GPU_FAULT])?;
    }
    board.order(Opcode::SpuriousIrq, &[MMU, 0])?;

    let ended = end(&grows_fence)?;
    check!(end(&faulty_fence)?.is_err());
    Ok(unheard && ended == Ok(()) && grows.statuses() == [DONE; 3])
}

/// The heap grows while a reset waits for the chain to stop.
fn heap_grows(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let mut in_time = false;
    for _ in 0..ROUNDS {
        in_time = goes_on(gpu, &board)?;
        board.order(Opcode::ClearAll, &[])?;
        works(&gpu.open()?)?;
        if in_time {
            break;
        }
    }
    // The storm has used up the messages that the driver prints in a while.
    gpu.node.unbind()?.give_back()?;
    check!(in_time, "the chain was lost each time");
    Ok(())
}
