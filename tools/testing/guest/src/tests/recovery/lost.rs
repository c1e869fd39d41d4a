// SPDX-License-Identifier: GPL-2.0

//! GPUs that do not answer, for a while or for good.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use model::control::Opcode;
use model::control::NEVER;

use super::end;
use super::hang_next;
use super::nothing;
use super::start;
use super::Innocent;
use super::Told;
use super::ONCE;
use crate::bo::Bo;
use crate::board::forget_turns;
use crate::board::turns;
use crate::board::Board;
use crate::board::State;
use crate::board::Turn;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::debugfs;
use crate::device::Device;
use crate::device::Node;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::sync::fence_status;
use crate::sys;
use crate::sys::Errno;
use crate::tests::target;
use crate::tests::tiler::heap;
use crate::tests::works;
use crate::uapi;
use crate::uevent::Uevents;

/// Nobody has asked for more of the peer.
const WEDGE: &str = "a GPU that cannot be reset is used on";

pub(in crate::tests) const TESTS: &[Test] = &[
    Test::new("recover-reset-line", &["C4", "J4"], reset_line)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(WEDGE),
    Test::new(
        "recover-reset-line-unnoticed",
        &["C4", "J4"],
        reset_line_unnoticed,
    )
    .needs(&[Need::Board, Need::Minor(3)])
    .warns()
    .panfrost_fails(WEDGE),
    Test::new("recover-slow-power", &["C4", "J4"], slow_power)
        .needs(&[Need::Board])
        .panfrost_fails("a job that was running when the GPU was reset has failed"),
    Test::new("recover-slow-power-once", &["C4", "J4"], slow_power_once)
        .needs(&[Need::Board])
        .panfrost_fails("a job that was running when the GPU was reset has failed"),
    Test::new("recover-core-never-up", &["C4", "J4"], core_never_up)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(WEDGE),
    Test::new("recover-core-never-down", &["C8", "J4"], core_never_down)
        .needs(&[Need::Board])
        .warns()
        .panfrost_breaks_rules("it cuts the power while the core is on"),
    Test::new("recover-gpu-gone", &["C4", "C8"], gone)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(WEDGE),
    Test::new("recover-gpu-back", &["C4", "J4"], back)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(WEDGE),
    Test::new("recover-power-cycle", &["C4", "J3", "J4"], power_cycle)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(WEDGE),
    Test::new("recover-power-cycle-at-probe", &["G6", "J4"], at_probe)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(WEDGE),
    Test::new("recover-wedged-uevent", &["C4", "J4"], wedged_uevent)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(WEDGE),
    Test::new("recover-stuck-mmu-close", &["C4", "D9"], stuck_mmu)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails("it says nothing of what is kept"),
    Test::new("recover-stuck-mmu-heaps", &["B2", "C4", "D9"], stuck_heaps)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(KEPT),
    Test::new("recover-stuck-mmu-heap-shrinks", &["B3", "C4"], stuck_heap)
        .needs(&[Need::Board])
        .warns()
        .panfrost_fails(KEPT),
];

/// Its heaps are not in this sum, and do not shrink.
const KEPT: &str = "it does not count the memory of heaps";

/// The unit of the shader cores in an order.
const SHADER: u32 = 2;

/// Between two attempts of the driver to bring back a lost GPU.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(2);

/// Bytes by which heaps grow.
const CHUNK: usize = 2 << 20;

/// The peer would be left in a state that is of no use to the tests that follow.
fn not_the_peer(gpu: &Gpu) -> Outcome {
    match gpu.node.driver.as_str() {
        "panfrost" => Err(Stop::Skip(WEDGE.into())),
        _ => Ok(()),
    }
}

/// The GPU ignores every command to stop and every reset, but for its reset line. Only the job that
/// hangs notices.
fn reset_line(gpu: &Gpu) -> Outcome {
    not_the_peer(gpu)?;
    let board = Board::open()?;
    let device = gpu.open()?;
    let innocent = Innocent::new(gpu, &board)?;
    board.order(Opcode::IgnoreHardStop, &[1])?;
    board.order(Opcode::DelayReset, &[NEVER, 0])?;
    hang_next(&board)?;
    let hung = nothing(&device)?;
    let waits = nothing(&device)?;
    let fences = [start(&device, 0, &hung)?, start(&device, 0, &waits)?];
    check_eq!(end(&fences[0])?, Err(Errno(libc::ECANCELED)));
    check_eq!(end(&fences[1])?, Ok(()));
    check!(innocent.finish(&board)? > ONCE);
    works(&device)?;
    works(&gpu.open()?)
}

/// Another client submits, and reads registers, while the reset line is used: no call fails, and no
/// register is touched meanwhile, which the model would count.
fn reset_line_unnoticed(gpu: &Gpu) -> Outcome {
    not_the_peer(gpu)?;
    let board = Board::open()?;
    let (device, other) = (gpu.open()?, gpu.open()?);
    board.order(Opcode::IgnoreHardStop, &[1])?;
    board.order(Opcode::DelayReset, &[NEVER, 0])?;
    let mut chain = nothing(&other)?;
    // The slot in which nothing hangs.
    chain.require(uapi::REQ_FS);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let submits = scope.spawn(|| -> Outcome {
            while !over.load(Relaxed) {
                chain.rearm();
                let context = other.create_context(uapi::PRIORITY_MEDIUM)?;
                let done = other.syncobj()?;
                chain.submit_in(context, &[], &[], Some(&done))?;
                other.destroy_context(context)?;
                done.wait(PATIENCE)?;
            }
            Ok(())
        });
        let reads = scope.spawn(|| -> Outcome {
            while !over.load(Relaxed) {
                other.param(uapi::PARAM_SYSTEM_TIMESTAMP)?;
            }
            Ok(())
        });
        let hangs = || -> Outcome {
            for _ in 0..2 {
                hang_next(&board)?;
                let hung = nothing(&device)?;
                let ended = end(&start(&device, 0, &hung)?)?;
                check_eq!(ended, Err(Errno(libc::ECANCELED)));
            }
            Ok(())
        };
        let outcome = hangs();
        over.store(true, Relaxed);
        for thread in [submits, reads] {
            let ended = thread.join();
            ended.map_err(|_| Stop::fail("a thread panics"))??;
        }
        outcome
    })?;
    works(&other)
}

/// The cores take their time to come up after a reset.
fn slow_power(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    let innocent = Innocent::new(gpu, &board)?;
    board.order(Opcode::IgnoreHardStop, &[1])?;
    board.order(Opcode::DelayPower, &[150_000])?;
    hang_next(&board)?;
    let hung = nothing(&device)?;
    check_eq!(
        end(&start(&device, 0, &hung)?)?,
        Err(Errno(libc::ECANCELED))
    );
    board.order(Opcode::DelayPower, &[0])?;
    check!(innocent.finish(&board)? >= ONCE);
    check_eq!(told.counts()[2], 1);
    works(&device)
}

/// Only the first of two resets finds a core that takes its time.
fn slow_power_once(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let told = Told::from_now(&board);
    board.order(Opcode::IgnoreHardStop, &[1])?;
    board.order(Opcode::DelayPowerOnce, &[150_000])?;
    for _ in 0..2 {
        hang_next(&board)?;
        let hung = nothing(&device)?;
        check_eq!(
            end(&start(&device, 0, &hung)?)?,
            Err(Errno(libc::ECANCELED))
        );
        works(&gpu.open()?)?;
    }
    check_eq!(told.counts()[2], 2);
    Ok(())
}

/// A core does not come up after a reset, nor with the reset line or another power cycle. The GPU
/// is lost until it does, and goes on then.
fn core_never_up(gpu: &Gpu) -> Outcome {
    not_the_peer(gpu)?;
    let board = Board::open()?;
    let device = gpu.open()?;
    board.order(Opcode::IgnoreHardStop, &[1])?;
    board.order(Opcode::NeverUp, &[SHADER, 1])?;
    hang_next(&board)?;
    let hung = nothing(&device)?;
    check_eq!(end(&start(&device, 0, &hung)?)?, Err(Errno(libc::ENODEV)));
    check_errno!(hung.submit(&[], &[], None), ENODEV);
    board.order(Opcode::ClearAll, &[])?;
    found(&device)?;
    works(&device)?;
    works(&gpu.open()?)
}

/// A core does not go down when the driver leaves. It leaves all the same, and comes back.
fn core_never_down(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    works(&gpu.open()?)?;
    board.order(Opcode::NeverDown, &[SHADER, 1])?;
    let away = gpu.node.unbind()?;
    board.order(Opcode::ClearAll, &[])?;
    away.give_back()?;
    works(&gpu.open()?)
}

/// The GPU leaves the bus in the middle of a job: all that was asked for ends with an error, and
/// nothing is lost that the CPU has. Two files that are open.
fn leaves(gpu: &Gpu, board: &Board) -> Result<[Device; 2], Stop> {
    let device = gpu.open()?;
    let other = gpu.open()?;
    let (bo, map) = target(&device, 4096)?;
    hang_next(board)?;
    let hung = nothing(&device)?;
    let waits = nothing(&other)?;
    let fences = [start(&device, 0, &hung)?, start(&other, 0, &waits)?];
    std::thread::sleep(Duration::from_millis(50));
    board.order(Opcode::AllOnes, &[1])?;
    check!(sys::readable(fences[0].as_fd(), PATIENCE)?);
    check!(fence_status(fences[0].as_fd())?.is_some_and(|status| status.is_err()));
    check_eq!(end(&fences[1])?, Err(Errno(libc::ENODEV)));
    bo.wait(PATIENCE)?;
    check_errno!(hung.submit(&[], &[], None), ENODEV);
    check_errno!(waits.submit(&[], &[], None), ENODEV);
    map.put64(0, 0x1234);
    check_eq!(map.get64(0), 0x1234);
    Ok([device, other])
}

/// The driver can be bound again to a GPU that had left.
fn gone(gpu: &Gpu) -> Outcome {
    not_the_peer(gpu)?;
    let board = Board::open()?;
    drop(leaves(gpu, &board)?);
    let away = gpu.node.unbind()?;
    board.order(Opcode::ClearAll, &[])?;
    away.give_back()?;
    let fresh = Node::all();
    check_eq!(fresh.len(), 1);
    check_eq!(fresh[0].path, gpu.node.path);
    works(&gpu.open()?)
}

/// Waits until the GPU of a client that has lost it is found again.
fn found(device: &Device) -> Outcome {
    let answers = || match device.create(4096, uapi::BO_NOEXEC) {
        Ok(_) => Ok(true),
        Err(Errno(libc::ENODEV)) => Ok(false),
        Err(errno) => Err(errno.into()),
    };
    check!(memory::wait_for(PATIENCE, answers)?, "it is not found");
    Ok(())
}

/// Nor has it to be: when the GPU answers again, its clients go on, and so do those who have come
/// meanwhile.
fn back(gpu: &Gpu) -> Outcome {
    not_the_peer(gpu)?;
    let board = Board::open()?;
    let devices = leaves(gpu, &board)?;
    let late = gpu.open()?;
    late.product()?;
    check_errno!(late.create(4096, uapi::BO_NOEXEC), ENODEV);
    let closed = gpu.open()?;
    drop(closed);
    board.order(Opcode::ClearAll, &[])?;
    for device in devices.iter().chain([&late]) {
        found(device)?;
        works(device)?;
    }
    works(&gpu.open()?)
}

/// Neither commands nor the reset line bring the GPU back: its power domains do, which are turned
/// off and on in the order of the board. Jobs fail, clients go on.
fn power_cycle(gpu: &Gpu) -> Outcome {
    not_the_peer(gpu)?;
    let board = Board::open()?;
    let device = gpu.open()?;
    let other = gpu.open()?;
    works(&other)?;
    let mut uevents = Uevents::from_now()?;
    forget_turns()?;
    board.order(Opcode::IgnoreHardStop, &[1])?;
    board.order(Opcode::Wedge, &[1])?;
    hang_next(&board)?;
    let hung = nothing(&device)?;
    let waits = nothing(&other)?;
    let fences = [start(&device, 0, &hung)?, start(&other, 0, &waits)?];
    for fence in &fences {
        check_eq!(end(fence)?, Err(Errno(libc::ENODEV)));
    }
    for device in [&device, &other] {
        found(device)?;
        works(device)?;
    }
    let turns = turns()?;
    let last = |what: &str, new: u32| {
        turns
            .iter()
            .rposition(|turn| turn.what == what && turn.new == new)
            .ok_or_else(|| Stop::fail(format!("{what} never becomes {new}: {turns:?}")))
    };
    let all = (1 << State::now()?.number("num-domains")?) - 1;
    let off = [last("reset", 1)?, last("clock", 0)?, last("domains", 0)?];
    let on = [last("domains", all)?, last("reset", 0)?, last("clock", 1)?];
    let order = [off, on].concat();
    check!(order.is_sorted(), "{order:?} of {turns:?}");
    // It was not for user space to do anything.
    check_eq!(uevents.wedged()?.len(), 0);
    works(&gpu.open()?)
}

/// Loses the GPU until the board's orders are cleared. Nobody has a file open afterwards.
fn lose(gpu: &Gpu, board: &Board) -> Outcome {
    let device = gpu.open()?;
    let hung = nothing(&device)?;
    board.order(Opcode::IgnoreHardStop, &[1])?;
    board.order(Opcode::NeverUp, &[SHADER, 1])?;
    hang_next(board)?;
    check_eq!(end(&start(&device, 0, &hung)?)?, Err(Errno(libc::ENODEV)));
    check_errno!(hung.submit(&[], &[], None), ENODEV);
    Ok(())
}

/// When whatever the driver can do has failed, it gives the GPU up and user space is told, once. It
/// can bind the driver again, and then the GPU works.
fn wedged_uevent(gpu: &Gpu) -> Outcome {
    const ATTEMPTS: usize = 5;
    not_the_peer(gpu)?;
    let board = Board::open()?;
    let mut uevents = Uevents::from_now()?;
    let mut wedged = Vec::new();
    forget_turns()?;
    lose(gpu, &board)?;
    let told = || {
        wedged.extend(uevents.wedged()?);
        Ok(!wedged.is_empty())
    };
    check!(memory::wait_for(2 * PATIENCE, told)?, "nobody is told");
    // Each attempt begins with a cut of the power.
    let cuts = || -> Result<usize, Stop> {
        let is_cut = |turn: &&Turn| turn.what == "domains" && turn.new == 0;
        Ok(turns()?.iter().filter(is_cut).count())
    };
    check_eq!(cuts()?, ATTEMPTS);

    // It is left alone from now on, even if it would work.
    board.order(Opcode::ClearAll, &[])?;
    thread::sleep(2 * BETWEEN_ATTEMPTS);
    check_eq!(cuts()?, ATTEMPTS);
    check_errno!(gpu.open()?.create(4096, uapi::BO_NOEXEC).map(drop), ENODEV);

    board.order(Opcode::NeverUp, &[SHADER, 1])?;
    let away = gpu.node.unbind()?;
    // As long as the cores do not come up, this fails. Nothing is left on then.
    check_errno!(away.give_back(), ETIMEDOUT);
    board.order(Opcode::ClearAll, &[])?;
    away.give_back()?;
    works(&gpu.open()?)?;
    wedged.extend(uevents.wedged()?);
    check_eq!(wedged, ["rebind"]);
    Ok(())
}

/// A GPU that no command brings back when the driver comes, which cuts its power then.
fn at_probe(gpu: &Gpu) -> Outcome {
    not_the_peer(gpu)?;
    let board = Board::open()?;
    works(&gpu.open()?)?;
    let away = gpu.node.unbind()?;
    // The power goes a little later than the driver, and only a cut after the order helps.
    let is_off = || Ok(State::now()?.number("domains")? == 0);
    check!(memory::wait_for(PATIENCE, is_off)?, "the power stays on");
    forget_turns()?;
    board.order(Opcode::Wedge, &[1])?;
    away.give_back()?;
    let is_cut = |turn: &&Turn| turn.what == "domains" && turn.new == 0;
    check_eq!(turns()?.iter().filter(is_cut).count(), 1);
    works(&gpu.open()?)
}

/// The MMU takes no command while files are closed. They do not cost a reset each, and what they
/// had is freed when the GPU has been reset.
fn stuck_mmu(gpu: &Gpu) -> Outcome {
    const FILES: usize = 8;
    const SIZE: usize = 1 << 20;
    let resident = || debugfs::sum(gpu, "resident");
    let board = Board::open()?;
    let before = resident()?;
    let told = Told::from_now(&board);
    let mut files = Vec::new();
    for _ in 0..FILES {
        let device = gpu.open()?;
        works(&device)?;
        let (bo, _) = target(&device, SIZE)?;
        files.push((device, bo));
    }
    check!(resident()? >= before + FILES * SIZE);
    board.order(Opcode::StickAsCommand, &[1])?;
    drop(files);
    board.order(Opcode::StickAsCommand, &[0])?;
    let freed = || Ok(resident()? <= before + SIZE);
    check!(
        memory::wait_for(PATIENCE, freed)?,
        "{before} bytes have become {}",
        resident()?
    );
    let resets = told.counts()[2];
    check!(resets <= 3, "{resets} resets");
    works(&gpu.open()?)
}

/// A client's heap with so many chunks in it, which the GPU knows.
fn grown(gpu: &Gpu, chunks: usize) -> Result<(Bo, Device), Stop> {
    let device = gpu.open()?;
    let heap = heap(&device, chunks * CHUNK)?;
    let mut chain = Chain::new(&device, 4096)?;
    for n in 0..chunks {
        chain.zero(heap.va() + (n * CHUNK) as u64);
    }
    chain.run(&[])?;
    check_eq!(chain.statuses(), vec![DONE; chunks]);
    Ok((heap, device))
}

/// Bytes that the GPU has beyond `before`; less than a chunk does not count.
fn more_than(before: usize) -> Result<usize, Stop> {
    let now = memory::meminfo("GPUActive")?;
    Ok(now.saturating_sub(before) / CHUNK * CHUNK)
}

/// The MMU takes no command while files with heaps are closed. Their memory is freed by the reset,
/// and at the latest when the driver leaves.
fn stuck_heaps(gpu: &Gpu) -> Outcome {
    not_the_peer(gpu)?;
    const FILES: usize = 3;
    const CHUNKS: usize = 3;
    let board = Board::open()?;
    let before = memory::meminfo("GPUActive")?;
    for unbind in [false, true] {
        let files = (0..FILES)
            .map(|_| grown(gpu, CHUNKS))
            .collect::<Result<Vec<_>, _>>()?;
        check!(more_than(before)? >= (FILES * CHUNKS - 1) * CHUNK);
        board.order(Opcode::StickAsCommand, &[1])?;
        drop(files);
        if unbind {
            let away = gpu.node.unbind()?;
            board.order(Opcode::StickAsCommand, &[0])?;
            away.give_back()?;
        } else {
            board.order(Opcode::StickAsCommand, &[0])?;
        }
        check!(
            memory::wait_for(PATIENCE, || Ok(more_than(before)? == 0))?,
            "{} bytes stay, unbind: {unbind}",
            more_than(before)?
        );
        works(&gpu.open()?)?;
    }
    Ok(())
}

/// The MMU takes no command while a heap tries to give memory back. The heap does so when the GPU
/// has been reset, and grows again.
fn stuck_heap(gpu: &Gpu) -> Outcome {
    not_the_peer(gpu)?;
    let board = Board::open()?;
    let before = memory::meminfo("GPUActive")?;
    let (heap, device) = grown(gpu, 12)?;
    check!(more_than(before)? >= 11 * CHUNK);
    // Until a frame is drawn from it, the content is live.
    let mut frame = Chain::new(&device, 4096)?;
    frame.null();
    frame.require(uapi::REQ_FS);
    frame.run(&[&heap])?;
    board.order(Opcode::StickAsCommand, &[1])?;
    debugfs::shrink(gpu, debugfs::ALL)?;
    board.order(Opcode::StickAsCommand, &[0])?;
    // As long as there are heaps, the driver has two chunks for all of them.
    check!(
        memory::wait_for(PATIENCE, || Ok(more_than(before)? <= 4 * CHUNK))?,
        "{} bytes stay",
        more_than(before)?
    );
    let mut chain = Chain::new(&device, 4096)?;
    chain.zero(heap.va() + CHUNK as u64);
    chain.run(&[])?;
    check_eq!(chain.statuses(), [DONE]);
    works(&device)
}
