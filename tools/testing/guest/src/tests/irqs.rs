// SPDX-License-Identifier: GPL-2.0

//! Interrupts that get lost, come twice, late or for nothing.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use model::control::Opcode;

use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::fence_status;
use crate::uapi;

pub(super) const TESTS: &[Test] = &[
    Test::new("irq-lost", &["C4"], lost)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails("a job whose interrupt got lost has failed"),
    Test::new("irq-late", &["C4"], late)
        .needs(&[Need::Board])
        .panfrost_fails("a job whose interrupt is late has failed"),
    Test::new("irq-twice", &["C4"], twice).needs(&[Need::Board]),
    Test::new("irq-empty-slot", &["C4"], empty_slot)
        .needs(&[Need::Board])
        .not_on_panfrost(
            "it follows a NULL pointer to the job of the slot and takes the kernel down",
        ),
    Test::new("irq-for-nothing", &["C4"], for_nothing).needs(&[Need::Board]),
];

/// The vectors, as the control channel counts them.
const JOB: u32 = 0;
const MMU: u32 = 1;
const GPU: u32 = 2;

/// A chain for each of the two slots that are used, and the slots' numbers.
fn chains(device: &Device) -> Result<[(Chain, u32); 2], Stop> {
    let mut tiler = Chain::new(device, 4096)?;
    tiler.null();
    let mut fragment = Chain::new(device, 4096)?;
    fragment.null();
    fragment.require(uapi::REQ_FS);
    Ok([(tiler, 1), (fragment, 0)])
}

/// A chain runs to its end, and its fence knows of no error.
fn runs(device: &Device, chain: &Chain) -> Outcome {
    let done = device.syncobj()?;
    chain.rearm();
    chain.submit(&[], &[], Some(&done))?;
    done.wait(PATIENCE)?;
    check_eq!(chain.statuses(), [DONE]);
    check_eq!(fence_status(done.fence()?.as_fd())?, Some(Ok(())));
    Ok(())
}

fn lost(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    for (chain, _) in chains(&device)? {
        board.order(Opcode::LoseIrq, &[JOB, 1])?;
        runs(&device, &chain)?;
        runs(&device, &chain)?;
    }
    Ok(())
}

/// The interrupt comes when it is asked for, and that is soon enough.
fn late(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    for (chain, slot) in chains(&device)? {
        let done = device.syncobj()?;
        board.order(Opcode::LoseIrq, &[JOB, 1])?;
        chain.submit(&[], &[], Some(&done))?;
        let end = Instant::now() + PATIENCE;
        while chain.statuses() != [DONE] && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        board.order(Opcode::SpuriousIrq, &[JOB, 1 << slot])?;
        done.wait(PATIENCE)?;
        check_eq!(fence_status(done.fence()?.as_fd())?, Some(Ok(())));
        runs(&device, &chain)?;
    }
    Ok(())
}

fn twice(gpu: &Gpu) -> Outcome {
    const RUNS: u32 = 20;
    let board = Board::open()?;
    let device = gpu.open()?;
    for (chain, _) in chains(&device)? {
        board.order(Opcode::DuplicateIrq, &[JOB, RUNS])?;
        for _ in 0..RUNS {
            runs(&device, &chain)?;
        }
    }
    Ok(())
}

/// Interrupts of slots that have no job, while another runs: they are counted, and neither it nor the
/// next one notices.
fn empty_slot(gpu: &Gpu) -> Outcome {
    let spurious = || debugfs::jobs(gpu, "spurious interrupts");
    let board = Board::open()?;
    let device = gpu.open()?;
    let done_bit = |slot: u32| 1 << slot;
    let failed_bit = |slot: u32| 1 << (16 + slot);
    for (chain, slot) in chains(&device)? {
        let others = (0..3).filter(|&other| other != slot);
        let bits = others.map(|n| done_bit(n) | failed_bit(n)).sum::<u32>();
        let done = device.syncobj()?;
        let before = spurious()?;
        board.order(Opcode::HangNextJob, &[slot, 1])?;
        chain.submit(&[], &[], Some(&done))?;
        board.order(Opcode::SpuriousIrq, &[JOB, bits])?;
        // One for each of the two slots that have none.
        let counted = memory::wait_for(PATIENCE, || Ok(spurious()?.wrapping_sub(before) >= 2))?;
        check!(
            counted,
            "{before} spurious interrupts have become {}",
            spurious()?
        );
        check!(!done.signalled()?, "a job that runs on slot {slot} is over");
        board.order(Opcode::Release, &[])?;
        done.wait(PATIENCE)?;
        check_eq!(chain.statuses(), [DONE]);
        check_eq!(fence_status(done.fence()?.as_fd())?, Some(Ok(())));
        // And with all slots empty.
        board.order(Opcode::SpuriousIrq, &[JOB, bits | done_bit(slot)])?;
        runs(&device, &chain)?;
    }
    Ok(())
}

/// The other two vectors, with bits that nothing stands behind.
fn for_nothing(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    for (chain, _) in chains(&device)? {
        for (vector, bits) in [
            (JOB, 0),
            (MMU, 0),
            // Address spaces that the GPU does not have.
            (MMU, (1 << 15) | (1 << 31)),
            (GPU, 0),
            // Reset, power and clean are done.
            (GPU, 0x2_0700),
        ] {
            board.order(Opcode::SpuriousIrq, &[vector, bits])?;
            runs(&device, &chain)?;
        }
    }
    Ok(())
}
