// SPDX-License-Identifier: GPL-2.0

//! Taking the driver away from the GPU while clients use it, and giving it back.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use model::control::Opcode;
use model::control::ANY_SLOT;
use model::control::NEVER;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::device::Away;
use crate::device::Device;
use crate::device::Node;
use crate::dmabuf;
use crate::harness::pipe;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Process;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::Gate;
use crate::sync::Syncobj;
use crate::sys;
use crate::sys::Errno;
use crate::sys::Mapping;
use crate::uapi;

use super::target;
use super::tiler::heap;
use super::tiler::Batch;
use super::works;
use super::Random;

const PEER: &str = "unbinding it under load is not known to be safe";

/// On debug kernels.
const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

pub(super) const TESTS: &[Test] = &[
    Test::new("unplug-leftovers", &["C8"], leftovers)
        .needs(&[Need::Board, Need::Gate])
        .not_on_panfrost(PEER),
    Test::new("unplug-under-load", &["C8"], |gpu| {
        under_load(gpu, Node::unbind)
    })
    .not_on_panfrost(PEER),
    Test::new("unplug-bus-under-load", &["C8"], |gpu| {
        under_load(gpu, Node::remove)
    })
    .needs(&[Need::Board])
    .not_on_panfrost(PEER),
    Test::new("unload-busy", &["C8"], unload_busy),
];

/// Those after which the GPU has another number.
pub(super) const LAST: &[Test] = &[Test::new("unplug-runs-on", &["C8"], runs_on)
    .needs(&[Need::Board])
    .warns()
    .not_on_panfrost(PEER)];

/// The things that a client still has when the device goes.
struct Leftovers {
    device: Device,
    bo: Bo,
    map: Mapping,
    chain: Chain,
    sync: Syncobj,
    dmabuf: std::os::fd::OwnedFd,
    dmabuf_map: Mapping,
    fences: Vec<std::os::fd::OwnedFd>,
}

impl Leftovers {
    fn new(device: Device) -> Result<Self, Stop> {
        let (bo, map) = target(&device, 64 << 10)?;
        let dmabuf = bo.export()?;
        let mut chain = Chain::new(&device, 4096)?;
        chain.zero(bo.va() + 4096);
        Ok(Self {
            dmabuf_map: Mapping::new(dmabuf.as_fd(), 0, bo.size())?,
            sync: device.syncobj()?,
            fences: Vec::new(),
            device,
            bo,
            map,
            chain,
            dmabuf,
        })
    }

    /// All of it is of use, or at least of no harm.
    fn check(self) -> Outcome {
        // The memory is the client's, through every door.
        self.map.put64(8192, 0x1122_3344_5566_7788);
        check_eq!(self.dmabuf_map.get64(8192), 0x1122_3344_5566_7788);
        self.dmabuf_map.put64(0, 42);
        check_eq!(self.map.get64(0), 42);
        // Nobody waits for ever.
        for fence in &self.fences {
            check!(sys::readable(fence.as_fd(), PATIENCE)?, "a fence is lost");
        }
        let fence = dmabuf::export_sync_file(self.dmabuf.as_fd(), uapi::DMA_BUF_SYNC_WRITE)?;
        check!(sys::readable(fence.as_fd(), PATIENCE)?, "the BO stays busy");
        // Submits may be refused a moment before the rest is. Then the device is gone, for whatever
        // is asked of it.
        let end = Instant::now() + PATIENCE;
        while self.device.param(uapi::PARAM_PROD_ID).is_ok() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        check_errno!(self.device.param(uapi::PARAM_PROD_ID), ENODEV);
        check_errno!(self.chain.submit(&[&self.bo], &[], None), ENODEV);
        check_errno!(self.bo.wait_until(0), ENODEV);
        check_errno!(self.device.create(4096, 0).map(drop), ENODEV);
        check_errno!(self.sync.wait(Duration::ZERO), ENODEV);
        Ok(())
    }
}

/// One job runs, one waits for its turn, one for a fence that never comes.
fn leftovers(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let gate = Gate::new()?;
    for running in [false, true] {
        let mut left = Leftovers::new(gpu.open()?)?;
        if running {
            board.order(Opcode::HangNextJob, &[ANY_SLOT, 1])?;
        }
        left.chain.submit(&[&left.bo], &[], Some(&left.sync))?;
        left.fences.push(left.sync.fence()?);
        let wait = gate.syncobj(&left.device)?;
        let mut second = Chain::new(&left.device, 4096)?;
        second.zero(left.bo.va());
        second.submit(&[], &[], Some(&left.sync))?;
        left.fences.push(left.sync.fence()?);
        second.submit(&[&left.bo], &[&wait], Some(&left.sync))?;
        left.fences.push(left.sync.fence()?);
        let away = gpu.node.unbind()?;
        left.check()?;
        drop((second, wait));
        board.order(Opcode::ClearAll, &[])?;
        // A job of the past writes nothing into the next binding.
        away.give_back()?;
        works(&gpu.open()?)?;
    }
    gate.open()?;
    works(&gpu.open()?)
}

/// Works until the device has gone, then looks at what is left.
fn client(gpu: &Gpu, seed: u64, ready: &mut File) -> Outcome {
    let mut left = Leftovers::new(gpu.open()?)?;
    let mut random = Random(seed);
    let mut jobs = 0u32;
    loop {
        match load(&mut left, &mut random) {
            Ok(()) => jobs += 1,
            Err(Errno(libc::ENODEV)) => break,
            Err(errno) => return Err(Stop::fail(format!("job {jobs}: {errno}"))),
        }
        if jobs == 3 {
            ready.write_all(b"r")?;
        }
    }
    check!(jobs >= 3, "only {jobs} jobs");
    left.check()
}

/// Something of everything.
fn load(left: &mut Leftovers, random: &mut Random) -> sys::Result<()> {
    let size = 4096 << random.below(7);
    let bo = left.device.create(size, uapi::BO_NOEXEC)?;
    let map = bo.map()?;
    map.fill(1);
    let mut chain = Chain::new(&left.device, 4096)?;
    chain.zero(bo.va());
    if random.below(2) == 0 {
        chain.require(uapi::REQ_FS);
    }
    chain.submit(&[&bo, &left.bo], &[], Some(&left.sync))?;
    let fence = left.sync.fence()?;
    match random.below(4) {
        0 => left.sync.wait(PATIENCE)?,
        1 => bo.wait(PATIENCE)?,
        2 => bo.close()?,
        _ => (),
    }
    left.fences.push(fence);
    if left.fences.len() > 16 {
        left.fences.remove(0);
    }
    Ok(())
}

/// Eight clients work until `take` has taken the GPU away, over and over.
fn under_load(gpu: &Gpu, take: fn(&Node) -> sys::Result<Away>) -> Outcome {
    const CLIENTS: u64 = 8;
    // A debug kernel takes twenty times as long.
    let rounds = match (gpu.long, Path::new(KMEMLEAK).exists()) {
        (true, false) => 200,
        (true, true) => 40,
        (false, false) => 10,
        (false, true) => 3,
    };
    for round in 0..rounds {
        let (mut ready, mut tell) = pipe()?;
        let mut clients = Vec::new();
        for n in 0..CLIENTS {
            let run = || client(gpu, round * CLIENTS + n, &mut tell);
            // SAFETY: this process has one thread.
            clients.push(unsafe { Process::start(run)? });
        }
        drop(tell);
        let mut told = [0; CLIENTS as usize];
        ready.read_exact(&mut told)?;
        let away = take(&gpu.node)?;
        for client in clients {
            client.finish(Duration::from_secs(60))?;
        }
        away.give_back()?;
        works(&gpu.open()?)?;
    }
    Ok(())
}

/// A GPU that nothing stops may go on to write to the memory of a heap, so nobody else gets that.
/// Where the GPU does stop, all of it is free.
fn runs_on(gpu: &Gpu) -> Outcome {
    if Path::new(KMEMLEAK).exists() {
        return Err(Stop::Skip("what is kept for ever is a leak".into()));
    }
    let board = Board::open()?;
    for stops in [true, false] {
        let device = gpu.open()?;
        let heap = heap(&device, 128 << 20)?;
        let batch = Batch::new(&device, &heap, heap.size(), 640_000)?;
        let before = memory::resident(&device)?;
        let done = device.syncobj()?;
        batch.tiler.submit(&[&heap], &[], Some(&done))?;
        done.wait(PATIENCE)?;
        let grown = memory::resident(&device)? - before;
        check!(grown >= 40 << 20, "a heap of {grown} bytes");
        if !stops {
            board.order(Opcode::DelayReset, &[NEVER, 0])?;
            // The one before the power goes succeeds.
            fs::write("/sys/module/vgpu_board/parameters/reset_fails", "1")?;
        }
        let available = memory::available()?;
        let away = gpu.node.unbind()?;
        let freed = memory::available()?.saturating_sub(available);
        board.order(Opcode::ClearAll, &[])?;
        // A GPU that has stopped has the same number again.
        drop((batch, heap, done, device));
        away.give_back()?;
        println!("# stops: {stops}; of {grown} bytes, {freed} are free");
        check_eq!(freed >= grown / 2, stops, "{freed} of {grown} bytes");
    }
    // Memory that a running GPU may reach is never freed, and neither is the old device number.
    let fresh = Node::all();
    check_eq!(fresh.len(), 1);
    works(&fresh[0].open()?)
}

/// A module whose files are open stays, and so does one whose buffers somebody else has.
fn unload_busy(gpu: &Gpu) -> Outcome {
    let unload = || gpu.node.unload();
    let refused = |result| matches!(result, Err(Errno(libc::EBUSY | libc::EAGAIN)));
    let device = gpu.open()?;
    check!(refused(unload()), "with an open file");
    let bo = device.create(4096, uapi::BO_NOEXEC)?;
    let dmabuf = bo.export()?;
    drop((bo, device));
    check!(refused(unload()), "with a dma-buf");
    drop(dmabuf);
    works(&gpu.open()?)
}
