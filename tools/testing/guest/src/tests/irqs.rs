// SPDX-License-Identifier: GPL-2.0

//! Interrupts that get lost, come twice, late or for nothing.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use model::control::Opcode;
use model::control::Stat;

use crate::board::Board;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::KernelLog;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::fence_status;
use crate::uapi;

use super::recovery::slow::Reloaded;
use super::tiler::heap;
use super::works;

/// C panfrost's handlers end when nothing is pending.
const ENDLESS: &str = "its handler of an interrupt that cannot be cleared does not end";

pub(super) const TESTS: &[Test] = &[
    Test::new("irq-lost", &["C4"], lost)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails("a job whose interrupt got lost has failed"),
    Test::new("irq-gpu-storm", &["J4"], gpu_storm)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails("it masks the interrupt and waits for somebody else's reset"),
    Test::new("irq-gpu-stuck", &["J4"], gpu_stuck)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails("it masks the interrupt and waits for somebody else's reset"),
    Test::new("irq-job-stuck", &["J4"], job_stuck)
        .needs(&[Need::Board])
        .warns()
        .not_on_panfrost(ENDLESS),
    Test::new("irq-mmu-stuck", &["J4"], mmu_stuck)
        .needs(&[Need::Board])
        .warns()
        .not_on_panfrost(ENDLESS),
    Test::new("irq-mmu-late", &["B1", "B5"], mmu_late).needs(&[Need::Board]),
    Test::new("irq-late", &["C4"], late).needs(&[Need::Board]),
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

/// The timer finds what has ended, and says that something is wrong.
fn lost(gpu: &Gpu) -> Outcome {
    let lost = || debugfs::jobs(gpu, "interrupts lost or late");
    let board = Board::open()?;
    let device = gpu.open()?;
    let mut log = KernelLog::from_now();
    for (chain, _) in chains(&device)? {
        let before = lost()?;
        board.order(Opcode::LoseIrq, &[JOB, 1])?;
        runs(&device, &chain)?;
        // The job ends before it is counted.
        let counted = memory::wait_for(PATIENCE, || Ok(lost()? != before))?;
        check!(counted, "nobody has counted it");
        runs(&device, &chain)?;
    }
    let said = memory::wait_for(PATIENCE, || {
        let lines = log.lines();
        Ok(lines
            .iter()
            .any(|line| line.contains("is late or was lost")))
    })?;
    check!(said, "nobody says so");
    Ok(())
}

/// One reset ends what `provoke`, called again and again, brings about, and jobs go on.
fn is_reset_once(gpu: &Gpu, board: &Board, mut provoke: impl FnMut() -> Outcome) -> Outcome {
    // Within a minute after one storm, the driver does not reset the GPU for another.
    gpu.node.unbind()?.give_back()?;
    let device = gpu.open()?;
    let resets = || board.stat(Stat::SoftResets);
    // For the workers to know the device.
    for (chain, _) in chains(&device)? {
        runs(&device, &chain)?;
    }
    let before = resets();
    let give_up = Instant::now() + PATIENCE;
    while resets() == before {
        check!(Instant::now() < give_up, "nobody cares");
        provoke()?;
    }
    for (chain, _) in chains(&device)? {
        runs(&device, &chain)?;
    }
    check_eq!(resets().wrapping_sub(before), 1);
    Ok(())
}

/// The raw interrupt of a GPU fault.
const FAULT: u32 = 1;

/// An error of the GPU that is reported without end: it is ignored after a while, and the GPU is
/// reset.
fn gpu_storm(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    is_reset_once(gpu, &board, || {
        for _ in 0..10 {
            board.order(Opcode::SpuriousIrq, &[GPU, FAULT])?;
        }
        Ok(())
    })
}

/// An error of the GPU that only a reset clears.
fn gpu_stuck(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let mut stuck = false;
    is_reset_once(gpu, &board, || {
        if !stuck {
            board.order(Opcode::StickIrq, &[GPU, FAULT])?;
            stuck = true;
        }
        thread::sleep(Duration::from_millis(1));
        Ok(())
    })
}

/// The interrupt of a slot without jobs stays, until a reset.
fn job_stuck(gpu: &Gpu) -> Outcome {
    stuck(gpu, JOB, 1 << 2, Stat::JobIrqs)
}

/// The interrupt of an address space that the GPU does not have stays, until a reset.
fn mmu_stuck(gpu: &Gpu) -> Outcome {
    stuck(gpu, MMU, 1 << 15, Stat::MmuIrqs)
}

/// An interrupt that stays without a reason is ignored after a while, and the GPU is reset. If it
/// comes back, it stays off: jobs go on, and heaps grow, without it.
fn stuck(gpu: &Gpu, vector: u32, bit: u32, irqs: Stat) -> Outcome {
    let board = Board::open()?;
    let mut is_stuck = false;
    is_reset_once(gpu, &board, || {
        if !is_stuck {
            board.order(Opcode::StickIrq, &[vector, bit])?;
            is_stuck = true;
        }
        thread::sleep(Duration::from_millis(1));
        Ok(())
    })?;

    let device = gpu.open()?;
    let mut log = KernelLog::from_now();
    let before = board.stat(Stat::SoftResets);
    board.order(Opcode::StickIrq, &[vector, bit])?;
    let polls = || {
        let lines = log.lines();
        Ok(lines.iter().any(|line| line.contains("polls instead")))
    };
    check!(memory::wait_for(PATIENCE, polls)?, "nobody cares any more");
    let sent = board.stat(irqs);
    let heap = heap(&device, 4 << 20)?;
    let mut grows = Chain::new(&device, 4096)?;
    grows.zero(heap.va());
    grows.run(&[&heap])?;
    check_eq!(grows.statuses(), [DONE]);
    for (chain, _) in chains(&device)? {
        runs(&device, &chain)?;
    }
    check_eq!(board.stat(irqs), sent, "the interrupt is not masked");
    check_eq!(board.stat(Stat::SoftResets), before);

    // The next test finds a driver that has seen no storm.
    board.order(Opcode::ClearAll, &[])?;
    drop((grows, heap, device));
    gpu.node.unbind()?.give_back()?;
    works(&gpu.open()?)
}

/// Faults are told late: a heap grows all the same, and another fault ends its job alone.
fn mmu_late(gpu: &Gpu) -> Outcome {
    const LATE_US: u32 = 50_000;
    let board = Board::open()?;
    let device = gpu.open()?;
    let heap = heap(&device, 4 << 20)?;
    let mut grows = Chain::new(&device, 4096)?;
    grows.zero(heap.va());
    board.order(Opcode::LateIrq, &[MMU, LATE_US, 1])?;
    grows.run(&[&heap])?;
    check_eq!(grows.statuses(), [DONE]);

    let mut faults = Chain::new(&device, 4096)?;
    faults.zero(0xdead_0000_0000);
    board.order(Opcode::LateIrq, &[MMU, LATE_US, 1])?;
    faults.run(&[])?;
    check!(faults.statuses() != [DONE], "nothing was written to");
    for (chain, _) in chains(&device)? {
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

/// Interrupts of slots that have no job, while another runs: they are counted, and neither it nor
/// the next one notices.
fn empty_slot(gpu: &Gpu) -> Outcome {
    let spurious = || debugfs::jobs(gpu, "spurious interrupts");
    // However late this is, the timer does not end the job that runs.
    let _reloaded = Reloaded::new(gpu, &["job_timeout_ms=20000", "job_limit_ms=20000"])?;
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
