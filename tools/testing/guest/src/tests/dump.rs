// SPDX-License-Identifier: GPL-2.0

//! Device coredumps: what a hang or a fault leaves to who looks for its cause.

use std::fs;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::process;

use model::control::Opcode;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs;
use crate::device::Device;
use crate::device::Job;
use crate::dump::kind;
use crate::dump::sections;
use crate::dump::text;
use crate::dump::Dumps;
use crate::dump::Section;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sys;
use crate::sys::Mapping;
use crate::uapi;

use super::recovery::slow::Reloaded;
use super::target;
use super::tiler::heap;
use super::works;
use super::PATTERN;

const TIMEOUTS: &str = "it makes dumps of hangs only";
const ALL: &str = "it makes dumps of any size";
const NO_KNOB: &str = "nothing says what became of a BO";

pub(super) const TESTS: &[Test] = &[
    Test::new("dump-hang", &["G2"], hang).needs(&[Need::Board]),
    Test::new("dump-hang-text", &["G2"], hang_text)
        .needs(&[Need::Board])
        .panfrost_fails("its dumps have no text"),
    Test::new("dump-circle", &["G2"], circle)
        .needs(&[Need::Board])
        .panfrost_fails("its dumps do not say where a chain goes"),
    Test::new("dump-fault", &["B5", "G2"], fault).panfrost_fails(TIMEOUTS),
    Test::new("dump-bad-chain", &["G2"], bad_chain).panfrost_fails(TIMEOUTS),
    Test::new("dump-reset-fails", &["C4", "G2"], reset_fails)
        .needs(&[Need::Board])
        .warns()
        .not_on_panfrost("a GPU that cannot be reset is used on"),
    Test::new("dump-second-is-dropped", &["G2"], second).needs(&[Need::Board]),
    Test::new("dump-of-heap", &["B1", "G2"], of_heap)
        .needs(&[Need::Board])
        .panfrost_fails("it has memory of others in place of heaps"),
    Test::new("dump-of-purged-bo", &["D3", "G2"], of_purged)
        .needs(&[Need::Board])
        .panfrost_fails(NO_KNOB),
    Test::new("dump-of-user-memory", &["G2"], of_user_memory)
        .needs(&[Need::Board, Need::Userptr])
        .panfrost_fails("it has no user memory"),
    Test::new("dump-limit", &["G2"], limit)
        .needs(&[Need::Board])
        .panfrost_fails(ALL),
    Test::new("dump-of-many-bos", &["G2"], of_many_bos)
        .needs(&[Need::Board])
        .panfrost_fails("its dumps have no text"),
    Test::new("dump-slow-is-no-hang", &["C4", "G2"], slow)
        .needs(&[Need::Board])
        .panfrost_fails("slow jobs time out"),
    Test::new("dump-unbind-while-pending", &["C8", "G2"], unbind)
        .needs(&[Need::Board])
        .not_on_panfrost("unbinding it under load is not known to be safe"),
    Test::new("dump-outlives-driver", &["C8", "G2"], outlives).needs(&[Need::Board]),
    Test::new("dump-outlives-module", &["C8", "G2"], outlives_module)
        .needs(&[Need::Board])
        .not_on_panfrost("unloading it is not known to be safe"),
];

/// Has a chain hang that lists other BOs, and waits until its fence has signalled.
fn hang_with(device: &Device, bos: &[&Bo]) -> Result<Chain, Stop> {
    let mut chain = Chain::new(device, 4096)?;
    chain.null();
    let mut all = vec![chain.bo()];
    all.extend_from_slice(bos);
    hang_at(device, chain.head(), &all)?;
    Ok(chain)
}

/// Has a chain hang that begins there, and waits until its fence has signalled.
fn hang_at(device: &Device, head: u64, bos: &[&Bo]) -> Outcome {
    // Its orders are withdrawn when this is dropped.
    let board = Board::open()?;
    board.order(Opcode::HangNextJob, &[1, 1])?;
    let done = device.syncobj()?;
    device.submit(Job {
        head,
        bos,
        signal: Some(&done),
        ..Default::default()
    })?;
    check!(sys::readable(done.fence()?.as_fd(), PATIENCE)?, "no end");
    Ok(())
}

/// Submits a chain and waits until its fence has signalled.
fn submit(device: &Device, chain: &Chain, bos: &[&Bo]) -> Outcome {
    let done = device.syncobj()?;
    chain.submit(bos, &[], Some(&done))?;
    check!(sys::readable(done.fence()?.as_fd(), PATIENCE)?, "no end");
    Ok(())
}

/// The section of a BO.
fn of_bo<'s, 'a>(sections: &'s [Section<'a>], va: u64) -> Result<&'s Section<'a>, Stop> {
    sections
        .iter()
        .find(|section| section.kind == kind::BO && section.va() == va)
        .ok_or_else(|| Stop::fail(format!("no section for the BO at {va:#x}")))
}

/// The value of a register.
fn register(sections: &[Section<'_>], offset: u32) -> Result<u32, Stop> {
    sections[0]
        .words()
        .chunks_exact(2)
        .find(|pair| pair[0] == offset)
        .map(|pair| pair[1])
        .ok_or_else(|| Stop::fail(format!("no register {offset:#x}")))
}

/// The registers of the vertex-tiler slot.
const JS_HEAD_LO: u32 = 0x1880;
const JS_HEAD_HI: u32 = 0x1884;
const JS_STATUS: u32 = 0x18a4;

/// The status of a slot that works.
const ACTIVE: u32 = 8;

/// Both drivers write the same, as far as Mesa's tool reads.
fn hang(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let (bo, map) = target(&device, 3 * 4096)?;
    map.put64(4096, 0x1122_3344_5566_7788);
    let chain = hang_with(&device, &[&bo])?;

    let bytes = dumps.wait()?;
    let sections = sections(&bytes)?;
    let kinds: Vec<_> = sections.iter().map(|section| section.kind).collect();
    let known = [kind::REGISTERS, kind::PAGES, kind::BO, kind::BO, kind::END];
    check_eq!(kinds[..known.len()], known);

    let head = &sections[0];
    check_eq!(head.chain(), chain.head());
    check_eq!(
        u64::from(head.product()),
        device.param(uapi::PARAM_PROD_ID)?
    );
    check_eq!(head.version(), (1, 0));
    check_eq!(head.bos(), 2);
    check_eq!(head.data.len(), 31 * 8);
    check_eq!(register(&sections, JS_HEAD_LO)?, chain.head() as u32);
    check_eq!(
        register(&sections, JS_HEAD_HI)?,
        (chain.head() >> 32) as u32
    );
    check_eq!(register(&sections, JS_STATUS)?, ACTIVE);

    let mut pages = 0;
    for (content, va) in [
        (chain.map().bytes(0, chain.bo().size()), chain.bo().va()),
        (map.bytes(0, bo.size()), bo.va()),
    ] {
        let section = of_bo(&sections, va)?;
        check!(section.is_valid());
        check!(section.data == content, "the BO at {va:#x} is another");
        let first = section.first_page();
        let addresses = sections[1].words();
        for page in first..first + content.len() / 4096 {
            let address = u64::from(addresses[2 * page]) | u64::from(addresses[2 * page + 1]) << 32;
            check!(
                address != 0 && address % 4096 == 0,
                "page {page} at {address:#x}"
            );
            pages += 1;
        }
    }
    check_eq!(sections[1].data.len(), pages * 8);
    works(&device)
}

/// The dump tells who it was and what the chain looks like.
fn hang_text(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let (bo, _map) = target(&device, 4096)?;
    bo.label("the one")?;
    let chain = hang_with(&device, &[&bo])?;

    let bytes = dumps.wait()?;
    let text = text(&sections(&bytes)?)?;
    let name = fs::read_to_string("/proc/self/comm")?;
    let process = format!("process {} ({})", process::id(), name.trim());
    let head = chain.head();
    let status = format!("{JS_STATUS:#06x} JS_STATUS            0x00000008 ACTIVE");
    let job = format!("{head:#x} (BO {:#x} + 0x0): NULL, index 0", chain.bo().va());
    for part in [
        "reason: hang: ",
        "slot vertex-tiler",
        &process,
        &status,
        &job,
        "label \"the one\"",
        "jobs: ",
    ] {
        check!(text.contains(part), "no {part:?} in\n{text}");
    }
    works(&device)
}

/// A chain that runs in a circle is walked once. Whether the driver has seen it run so or not, this
/// one does not stop softly.
fn circle(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let board = Board::open()?;
    board.order(Opcode::IgnoreSoftStop, &[1])?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.endless();
    submit(&device, &chain, &[])?;

    let bytes = dumps.wait()?;
    let text = text(&sections(&bytes)?)?;
    check!(text.contains("the chain runs in a circle"), "{text}");
    check!(text.lines().count() < 200, "{text}");
    works(&device)
}

/// An address without memory.
fn fault(gpu: &Gpu) -> Outcome {
    const NOWHERE: u64 = 0x9_1234_5000;
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    chain.zero(NOWHERE);
    submit(&device, &chain, &[])?;

    let bytes = dumps.wait()?;
    let sections = sections(&bytes)?;
    check_eq!(sections[0].chain(), chain.head());
    let section = of_bo(&sections, chain.bo().va())?;
    check!(section.data == chain.map().bytes(0, chain.bo().size()));
    let text = text(&sections)?;
    check!(text.contains("reason: fault: "), "{text}");
    check!(text.contains("WRITE_VALUE"), "{text}");
    check!(text.contains("AS_FAULTADDRESS_LO   0x12345000"), "{text}");
    works(&device)
}

/// A chain that is nowhere, with no BO at all.
fn bad_chain(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let done = device.syncobj()?;
    device.submit(Job {
        head: 0x8_0000_0000,
        signal: Some(&done),
        ..Default::default()
    })?;
    check!(sys::readable(done.fence()?.as_fd(), PATIENCE)?);

    let bytes = dumps.wait()?;
    let sections = sections(&bytes)?;
    let kinds: Vec<_> = sections.iter().map(|section| section.kind).collect();
    check_eq!(kinds, [kind::REGISTERS, kind::PAGES, kind::END, kind::TEXT]);
    check_eq!(sections[0].bos(), 0);
    let text = text(&sections)?;
    check!(
        text.contains("0x800000000 (no BO): not in the dump"),
        "{text}"
    );
    works(&device)
}

/// A core that does not come up makes the GPU useless, after a job has hung.
fn reset_fails(gpu: &Gpu) -> Outcome {
    const SHADER: u32 = 2;
    let dumps = Dumps::of(gpu)?;
    let board = Board::open()?;
    let device = gpu.open()?;
    board.order(Opcode::IgnoreHardStop, &[1])?;
    board.order(Opcode::NeverUp, &[SHADER, 1])?;
    let chain = hang_with(&device, &[])?;
    let bytes = dumps.wait()?;
    let sections = sections(&bytes)?;
    check_eq!(sections[0].chain(), chain.head());
    check!(of_bo(&sections, chain.bo().va())?.is_valid());
    let text = text(&sections)?;
    check!(text.contains("the GPU is lost"), "{text}");
    board.order(Opcode::ClearAll, &[])?;
    let found = memory::wait_for(PATIENCE, || Ok(device.create(4096, 0).is_ok()))?;
    check!(found, "the GPU is not found again");
    works(&device)
}

/// One dump at a time, until somebody has read it.
fn second(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let first = hang_with(&device, &[])?;
    let bytes = dumps.wait()?;
    check_eq!(sections(&bytes)?[0].chain(), first.head());
    dumps.rearm()?;
    let second = hang_with(&device, &[])?;
    works(&device)?;
    check!(dumps.wait()? == bytes, "the dump has become another one");
    dumps.clear()?;
    let third = hang_with(&device, &[])?;
    let heads = [first.head(), second.head(), third.head()];
    check_eq!(sections(&dumps.wait()?)?[0].chain(), heads[2]);
    // The third one has closed the context.
    works(&gpu.open()?)
}

/// The chunks of a heap that are there.
fn of_heap(gpu: &Gpu) -> Outcome {
    const CHUNK: usize = 2 << 20;
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let heap = heap(&device, 8 * CHUNK)?;
    let empty = self::heap(&device, 8 * CHUNK)?;
    let at = |chunk: usize| heap.va() + (chunk * CHUNK) as u64;
    let mut chain = Chain::new(&device, 4096)?;
    for chunk in [1, 4] {
        chain.zero(at(chunk));
    }
    submit(&device, &chain, &[&heap])?;
    hang_with(&device, &[&heap, &empty])?;

    let bytes = dumps.wait()?;
    let sections = sections(&bytes)?;
    for chunk in [1, 4] {
        let section = of_bo(&sections, at(chunk))?;
        check!(section.is_valid());
        check_eq!(section.data.len(), CHUNK);
        check!(section.data.iter().all(|&byte| byte == 0));
    }
    let section = of_bo(&sections, empty.va())?;
    check_eq!((section.is_valid(), section.data.len()), (false, 0));
    // Two chunks, a heap without any, the chain.
    check_eq!(sections[0].bos(), 4);
    works(&device)
}

/// Content that the client has given up, and that is gone.
fn of_purged(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let (bo, map) = target(&device, 16 * 4096)?;
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    drop(map);
    let purged = memory::wait_for(PATIENCE, || {
        debugfs::shrink(gpu, debugfs::ALL)?;
        bo.madvise(uapi::MADV_DONTNEED)
            .map(|there| !there)
            .map_err(Stop::from)
    })?;
    check!(purged, "it is not purged");
    hang_with(&device, &[&bo])?;

    let bytes = dumps.wait()?;
    let sections = sections(&bytes)?;
    let section = of_bo(&sections, bo.va())?;
    check_eq!((section.is_valid(), section.data.len()), (false, 0));
    let text = text(&sections)?;
    check!(text.contains(": purged, 0 bytes resident"), "{text}");
    works(&device)
}

/// Memory of the process.
fn of_user_memory(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let (shared, map) = target(&device, 2 * 4096)?;
    let memory = private_memory(2 * 4096)?;
    memory.fill(PATTERN);
    let bo = Bo::over_memory(&device, memory.address(), memory.len(), 0)?;
    hang_with(&device, &[&bo, &shared])?;

    let bytes = dumps.wait()?;
    let sections = sections(&bytes)?;
    let section = of_bo(&sections, bo.va())?;
    check!(section.is_valid());
    check!(section.data == memory.bytes(0, memory.len()));
    check!(of_bo(&sections, shared.va())?.data == map.bytes(0, map.len()));
    works(&device)
}

/// Memory that is no BO: a file without a name.
fn private_memory(size: usize) -> Result<Mapping, Stop> {
    // SAFETY: a string that ends.
    let fd = unsafe { libc::memfd_create(c"dump".as_ptr(), 0) };
    if fd < 0 {
        return Err(sys::Errno::last().into());
    }
    // SAFETY: the kernel has just opened it for us.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(size as u64)?;
    Ok(Mapping::new(file.as_fd(), 0, size)?)
}

/// Content that is too large is left out, and dumps can be turned off.
fn limit(gpu: &Gpu) -> Outcome {
    {
        let _reloaded = Reloaded::new(gpu, &["dump_limit_mib=1"])?;
        let dumps = Dumps::of(gpu)?;
        let device = gpu.open()?;
        let (small, map) = target(&device, 512 << 10)?;
        let (large, _map) = target(&device, 2 << 20)?;
        hang_with(&device, &[&large, &small])?;
        let bytes = dumps.wait()?;
        check!(bytes.len() < 1 << 20);
        let sections = sections(&bytes)?;
        check_eq!(sections[0].bos(), 3);
        check!(of_bo(&sections, small.va())?.data == map.bytes(0, map.len()));
        let section = of_bo(&sections, large.va())?;
        check_eq!((section.is_valid(), section.data.len()), (false, 0));
        check!(text(&sections)?.contains("2097152 bytes are too many"));

        // Of a chain, there is at least the beginning.
        dumps.clear()?;
        let mut chain = Chain::new(&device, 4 << 20)?;
        chain.null();
        hang_at(&device, chain.head(), &[&small, chain.bo()])?;
        let bytes = dumps.wait()?;
        check!(bytes.len() < 2 << 20);
        let sections = self::sections(&bytes)?;
        let section = of_bo(&sections, chain.bo().va())?;
        check!(section.is_valid());
        check!(section.data == chain.map().bytes(0, 512 << 10));
        check!(of_bo(&sections, small.va())?.is_valid());
        let text = text(&sections)?;
        check!(text.contains("NULL, index 0"), "{text}");
        dumps.clear()?;
    }
    let _reloaded = Reloaded::new(gpu, &["dump_limit_mib=0"])?;
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    hang_with(&device, &[])?;
    dumps.none()?;
    works(&device)
}

/// A job with more BOs than a dump has room for. The chain is there, although its BO is the last.
fn of_many_bos(gpu: &Gpu) -> Outcome {
    const COUNT: usize = 2000;
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let mut bos = Vec::new();
    for _ in 0..COUNT {
        let bo = device.create(4096, uapi::BO_NOEXEC)?;
        bo.label(&"x".repeat(200))?;
        bos.push(bo);
    }
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    let mut all: Vec<_> = bos.iter().collect();
    all.push(chain.bo());
    hang_at(&device, chain.head(), &all)?;

    let bytes = dumps.wait()?;
    let sections = sections(&bytes)?;
    check!(sections[0].bos() < COUNT as u64);
    let section = of_bo(&sections, chain.bo().va())?;
    check!(section.is_valid());
    check!(section.data == chain.map().bytes(0, chain.bo().size()));
    let text = text(&sections)?;
    check!(text.contains("\nchain:\n"));
    check!(text.contains("NULL, index 0"));
    check!(text.contains("\njobs: "));
    check!(text.contains("label \"xxx"));
    check!(!text.contains(&"x".repeat(65)), "a label is not cut");
    check!(text.ends_with("(cut off)\n"));
    works(&device)
}

/// Jobs that take turns are none of anybody's business.
fn slow(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    let device = gpu.open()?;
    let board = Board::open()?;
    board.order(Opcode::SlowJobs, &[200_000])?;
    let mut chain = Chain::new(&device, 4096)?;
    for _ in 0..6 {
        chain.null();
    }
    submit(&device, &chain, &[])?;
    board.order(Opcode::SlowJobs, &[0])?;
    dumps.none()?;
    works(&device)
}

/// The driver leaves while it makes a dump.
fn unbind(gpu: &Gpu) -> Outcome {
    for _ in 0..3 {
        let dumps = Dumps::of(gpu)?;
        {
            let device = gpu.open()?;
            let (bo, _map) = target(&device, 8 << 20)?;
            hang_with(&device, &[&bo])?;
        }
        let away = gpu.node.unbind()?;
        // If there is one, then all of it.
        if let Some(folder) = dumps.folder() {
            sections(&fs::read(folder.join("data"))?)?;
        }
        away.give_back()?;
        works(&gpu.open()?)?;
    }
    Ok(())
}

/// A dump can be read when the driver has gone.
fn outlives(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    {
        let device = gpu.open()?;
        hang_with(&device, &[])?;
    }
    let bytes = dumps.wait()?;
    let away = gpu.node.unbind()?;
    let again = dumps.wait();
    away.give_back()?;
    check!(again? == bytes, "it has become another one");
    works(&gpu.open()?)?;
    dumps.clear()
}

/// Nor does the dump need the module.
fn outlives_module(gpu: &Gpu) -> Outcome {
    let dumps = Dumps::of(gpu)?;
    {
        let device = gpu.open()?;
        hang_with(&device, &[])?;
    }
    let bytes = dumps.wait()?;
    gpu.node.unload()?;
    let again = dumps.wait();
    gpu.node.load(&[])?;
    check!(again? == bytes, "it has become another one");
    works(&gpu.open()?)?;
    dumps.clear()
}
