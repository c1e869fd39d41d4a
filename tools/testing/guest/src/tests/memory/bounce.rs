// SPDX-License-Identifier: GPL-2.0

//! The maintenance of caches, on a machine that has none which could be seen: with `swiotlb=force`
//! a device works on copies of memory. Data that caches would hold back, or drop, stay in the
//! original or in the copy then, until the driver asks for the same maintenance.

use std::os::fd::AsFd;

use model::control::Opcode;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::check;
use crate::check_eq;
use crate::device::Node;
use crate::dmabuf;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::swap::Swap;
use crate::sys::Mapping;
use crate::trace::Event;
use crate::trace::Trace;
use crate::uapi;

use super::super::target;
use super::content;
use super::evict::evict;
use super::filled;
use super::KIB;
use super::MIB;
use super::NO_KNOB;
use super::PAGE;

const WRITE: u32 = uapi::DMA_BUF_SYNC_WRITE;
const END: u32 = uapi::DMA_BUF_SYNC_END;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("bounce-evict", &["D4", "J1"], evicted)
        .needs(&[Need::Bounce])
        .panfrost_fails(NO_KNOB),
    Test::new("bounce-attach-after-evict", &["D4", "J1"], attached)
        .needs(&[Need::Bounce])
        .panfrost_fails(NO_KNOB),
    Test::new("bounce-sync-waits", &["C1", "J1"], waited)
        .needs(&[Need::Bounce, Need::Board])
        .panfrost_fails("it synchronises before it waits"),
    Test::new("bounce-unbind", &["C8", "J1"], unbound)
        .needs(&[Need::Bounce])
        .not_on_panfrost("unbinding it under load is not known to be safe"),
];

/// The CPU finds what it has written last, whatever the device has.
fn evicted(gpu: &Gpu) -> Outcome {
    let _swap = Swap::on(64 * MIB)?;
    let device = gpu.open()?;
    // The device has the zeros that it was made with.
    let bo = device.create(64 * KIB, uapi::BO_NOEXEC | uapi::BO_WB_MMAP)?;
    let map = bo.map()?;
    for seed in 1..4 {
        map.write(0, &content(64 * KIB, seed));
        evict(gpu, 64 * KIB)?;
        check!(
            map.bytes(0, 64 * KIB) == content(64 * KIB, seed),
            "what the CPU wrote in round {seed} is lost"
        );
        // Has the device get the pages again.
        let mut chain = Chain::new(&device, PAGE)?;
        chain.null();
        let dmabuf = chain.bo().export()?;
        dmabuf::sync(dmabuf.as_fd(), WRITE | END)?;
        chain.run(&[&bo])?;
        drop(chain);
        drop(dmabuf);
    }
    Ok(())
}

/// When the CPU may begin to read a dma-buf, it finds what the job has written that was under way.
fn waited(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let bo = device.create(PAGE, uapi::BO_NOEXEC | uapi::BO_WB_MMAP)?;
    let map = bo.map()?;
    map.put64(64, 1);
    let dmabuf = bo.export()?;
    dmabuf::sync(dmabuf.as_fd(), WRITE | END)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(bo.va() + 64);
    let jobs = chain.bo().export()?;
    dmabuf::sync(jobs.as_fd(), WRITE | END)?;

    board.order(Opcode::SlowJobs, &[200_000])?;
    chain.submit(&[&bo], &[], None)?;
    dmabuf::sync(dmabuf.as_fd(), uapi::DMA_BUF_SYNC_READ)?;
    check_eq!(map.get64(64), 0);
    Ok(())
}

/// Evicts a BO that was exported, then imports it where the driver has bound the GPU anew, which is
/// another device to it.
fn import_after_evict(gpu: &Gpu) -> Outcome {
    const SIZE: usize = 64 * KIB;
    let _swap = Swap::on(64 * MIB)?;
    let old = gpu.open()?;
    let bo = filled(&old, SIZE, 7)?;
    let dmabuf = bo.export()?;
    evict(gpu, SIZE)?;
    gpu.node.unbind()?.give_back()?;
    let node = Node::all().pop().ok_or(Stop::fail("no GPU"))?;
    let device = node.open()?;

    let shared;
    let events = {
        let trace = Trace::of(&["dma/dma_map_sg", "dma/dma_sync_sg_for_device"])?;
        shared = Bo::import(&device, dmabuf.as_fd(), SIZE)?;
        trace.events()?
    };
    let mapped = events.iter().position(|event| event.name == "dma_map_sg");
    let synced = events
        .iter()
        .rposition(|event| event.name == "dma_sync_sg_for_device");
    check!(
        mapped.is_some() && mapped < synced,
        "the pages that came back from swap were not synchronised: {events:?}"
    );

    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(shared.va() + 64);
    let jobs = chain.bo().export()?;
    dmabuf::sync(jobs.as_fd(), WRITE | END)?;
    chain.run(&[&shared])?;
    dmabuf::sync(dmabuf.as_fd(), uapi::DMA_BUF_SYNC_READ)?;
    let mut expected = content(SIZE, 7);
    expected[64..72].fill(0);
    let through = Mapping::new(dmabuf.as_fd(), 0, SIZE)?;
    check!(through.bytes(0, SIZE) == expected, "another content");

    let trace = Trace::of(&["dma/dma_sync_sg_for_cpu", "dma/dma_unmap_sg"])?;
    shared.close()?;
    let events = trace.events()?;
    let is = |name| move |event: &Event| event.name == name;
    let synced = events.iter().position(is("dma_sync_sg_for_cpu"));
    let unmapped = events.iter().position(is("dma_unmap_sg"));
    check!(
        synced.is_some() && synced < unmapped,
        "what the other device has written was not synchronised: {events:?}"
    );
    Ok(())
}

/// Another device that attaches to a BO which was evicted gets its pages with what the CPU has
/// written to them, as they came back from swap. When it goes, the CPU gets what it has written.
fn attached(gpu: &Gpu) -> Outcome {
    let outcome = import_after_evict(gpu);
    bind_anew()?;
    outcome
}

/// Gives the GPU the number again that somebody had open when it was bound.
fn bind_anew() -> Outcome {
    let node = Node::all().pop().ok_or(Stop::fail("no GPU"))?;
    Ok(node.unbind()?.give_back()?)
}

/// A mapping of the CPU outlives the device, with all that was written through it.
fn unbound(gpu: &Gpu) -> Outcome {
    let outcome = mapped_while_unbound(gpu);
    bind_anew()?;
    outcome
}

fn mapped_while_unbound(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (_bo, map) = target(&device, 64 * KIB)?;
    map.write(0, &content(64 * KIB, 5));
    let away = gpu.node.unbind()?;
    let kept = map.bytes(0, 64 * KIB) == content(64 * KIB, 5);
    away.give_back()?;
    check!(kept, "what the CPU wrote is lost");
    map.put64(0, 1);
    check_eq!(map.get64(0), 1);
    Ok(())
}
