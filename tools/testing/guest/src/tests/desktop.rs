// SPDX-License-Identifier: GPL-2.0

//! A desktop: a compositor, clients that draw, and clients that do harm.
//!
//! The compositor (`compositor.rs`) takes the buffers of the others in (PRIME) and shows them with
//! a context of high priority, whose jobs wait for those of the clients by the fences of buffers or
//! by sync files. Innocent clients (`client.rs`) draw with a tiler and a fragment job for each
//! frame, and have a cache of BOs that are given up. Some make a context for each frame, and all of
//! them come and go. Between them there are clients whose jobs hang or fault, and which exit or are
//! killed in the middle of it (`bad.rs`): what they do is waited for by the compositor as well. And
//! one keeps the GPU busy, with jobs of a higher priority than some innocent clients have.
//!
//! All fences signal. Each frame of an innocent client is shown as it was drawn, and none later
//! than the driver's policy says (Documentation/jobs.rst); no submit takes longer than that says,
//! either. When all have gone, the machine has what it had before.
//!
//! The same holds where all memory is taken but for half of what they need, and what they have is
//! pushed to swap all the time. There is room in swap, so what is missing can always be had from
//! somebody: an allocation reclaims memory rather than fail, and a call that fails is a fault.

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use model::control::Opcode;
use model::desc::BlockFormat;

use crate::board::Board;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs;
use crate::harness;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Process;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::memory::Held;
use crate::memory::Hog;
use crate::pixels::Layout;
use crate::socket::Listener;
use crate::swap::Swap;
use crate::sys;
use crate::sys::Errno;

use super::memory::evict::MemoryGroup;
use super::works;

use client::Contexts;
use client::Style;
use compositor::Compositor;
use figures::Figures;

mod bad;
mod client;
mod compositor;
mod figures;
mod protocol;

pub(super) const TESTS: &[Test] = &[
    Test::new(
        "desktop-shows-all-frames",
        &["B1", "C2", "C4", "C11", "D3", "F1"],
        shows_all_frames,
    )
    .needs(&[Need::Board, Need::Minor(5)])
    .panfrost_fails("who is waited for keeps its priority, and a reset ends jobs of others")
    .panfrost_breaks_rules("one access to a register while the GPU was off was seen"),
    Test::new(
        "desktop-without-memory",
        &["B3", "C4", "C11", "D3", "D4", "D7"],
        without_memory,
    )
    .needs(&[Need::Board, Need::Minor(5)])
    .not_on_panfrost("the pages of its BOs stay as long as the BOs"),
];

/// A window of 256 KiB.
const WINDOW: Layout = Layout {
    width: 256,
    height: 256,
    bytes: 4,
    block: BlockFormat::UInterleaved,
};

/// How long a fence may take, if it signals at all.
const FENCE_PATIENCE: Duration = Duration::from_secs(240);

/// Clients that draw, hang, fault, leave and flood at any one time, and the compositor.
const PROCESSES: usize = 9;

/// The time that a job has before it is told to stop.
const JOB_TIMEOUT: Duration = Duration::from_millis(500);

/// Jobs that come one after the other before a frame is shown: two of the client, and two of the
/// compositor.
const JOBS_OF_A_FRAME: u32 = 4;

/// Jobs of others that can come before each of them, and may hang.
const BEFORE_EACH: u32 = 3;

/// How old a frame of an innocent client can be when it is shown, if all that can be in its way
/// hangs and takes a reset: that is one and a half of the timeout each. Those of the client that
/// hangs, which the compositor waits for, come on top. All of that happens twice, as the frame of
/// the compositor that was under way comes before. 20 seconds more are for the good jobs, and for a
/// machine that has too much to do.
fn oldest(job_timeout: Duration) -> Duration {
    const IN_THE_WAY: u32 = JOBS_OF_A_FRAME * BEFORE_EACH + 2;

    2 * IN_THE_WAY * job_timeout * 3 / 2 + Duration::from_secs(20)
}

/// The longest time that a submit of an innocent client or of the compositor may take: ten seconds
/// for a turn and ten for evicted memory.
const SLOWEST_SUBMIT: Duration = Duration::from_secs(20);

/// How much memory the desktop and all else can have, where it is scarce: about half of what they
/// need.
const LEFT: usize = 64 << 20;

/// How much memory is taken from the desktop at a time, and the pause between two times.
const TAKEN: usize = 16 << 20;
const TAKEN_EACH: Duration = Duration::from_millis(20);

/// Room in swap.
const SWAP: usize = 256 << 20;

/// How much of everything there is.
#[derive(Clone, Copy)]
struct Size {
    /// Lives of each innocent client.
    lives: usize,
    /// Lives, at least, of each that does harm.
    bad_lives: usize,
    /// Frames of each life of an innocent client.
    frames: usize,
    /// Textures that a client needs, and those in its cache.
    textures: (usize, usize),
}

/// Runs `life` in a process of its own each time, until there are enough and all else is over.
fn lives(
    least: usize,
    over: impl Fn() -> bool,
    killed: impl Fn(usize) -> bool,
    life: impl Fn(usize) -> Outcome,
) -> Outcome {
    for n in 0.. {
        if n >= least && over() {
            break;
        }
        // SAFETY: this process has one thread.
        let process = unsafe { Process::start(|| life(n))? };
        match killed(n) {
            true => process.dies(2 * FENCE_PATIENCE)?,
            false => process.finish(LIFE_PATIENCE)?,
        }
    }
    Ok(())
}

/// Takes memory from all of the desktop until that is over: BOs that no job uses go to swap.
fn takes_memory(group: &MemoryGroup, swap: &Swap, figures: &Figures) -> Outcome {
    while !figures.over() {
        group.reclaim(TAKEN)?;
        figures.swapped.fetch_max(swap.used()? as u64, SeqCst);
        thread::sleep(TAKEN_EACH);
    }
    Ok(())
}

/// Keeps all memory but [`LEFT`] from the desktop, until there is something to be read from `quit`.
/// Says when there is no more.
fn hogs(quit: &File, mut ready: impl Write) -> Outcome {
    // It does not go to swap, and if somebody has to be killed, it is this one.
    fs::write("/proc/self/oom_score_adj", "1000")?;
    // SAFETY: flags only.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } == -1 {
        return Err(Errno::last().into());
    }
    let mut hog = Hog::new(LEFT)?;
    ready.write_all(b"x")?;
    while !sys::readable(quit.as_fd(), TAKEN_EACH)? {
        hog.take(LEFT)?;
    }
    Ok(())
}

/// How long a client may live.
const LIFE_PATIENCE: Duration = Duration::from_secs(3600);

/// One desktop, from the first client to the last. If `scarce` says where, memory is taken from it.
fn desktop(
    gpu: &Gpu,
    size: Size,
    scarce: Option<(&MemoryGroup, &Swap)>,
) -> Result<&'static Figures, Stop> {
    let figures = Figures::new()?;
    let name = format!("desktop-{}", std::process::id());
    let listener = Listener::new(&name)?;
    let (quit, mut tell_quit) = harness::pipe()?;
    // SAFETY: this process has one thread.
    let compositor =
        unsafe { Process::start(|| Compositor::new(gpu, &listener, figures)?.run(&quit))? };
    let style = |explicit, contexts| Style {
        explicit,
        contexts,
        textures: size.textures,
    };
    let over = || figures.over();
    let never = |_| false;
    let mut innocent = Vec::new();
    let mut bad = Vec::new();
    for n in 0..4 {
        let draws = |life: usize| {
            let contexts = [Contexts::Default, Contexts::Low, Contexts::Many][n % 3];
            let style = style(n % 2 == 1, contexts);
            let id = ((n << 8 | life & 0xff) + 1) as u32;
            client::draws(gpu, &name, figures, style, id, size.frames)
        };
        // SAFETY: this process has one thread.
        innocent.push(unsafe { Process::start(|| lives(size.lives, || true, never, draws))? });
    }
    let hangs = |life| bad::hangs(gpu, &name, figures, life);
    // SAFETY: this process has one thread.
    bad.push(unsafe { Process::start(|| lives(size.bad_lives, over, never, hangs))? });
    let faults = |_| bad::faults(gpu, &name, figures);
    // SAFETY: this process has one thread.
    bad.push(unsafe { Process::start(|| lives(size.bad_lives, over, never, faults))? });
    let leaves = |life: usize| {
        let style = Style {
            textures: (2, 2),
            ..style(life % 4 == 0, Contexts::Default)
        };
        bad::leaves(gpu, &name, figures, style, (0xfff, life))
    };
    // SAFETY: this process has one thread.
    bad.push(unsafe { Process::start(|| lives(size.bad_lives, over, |n| n % 2 == 0, leaves))? });
    // SAFETY: this process has one thread.
    bad.push(unsafe { Process::start(|| bad::floods(gpu, figures))? });
    if let Some((group, swap)) = scarce {
        // SAFETY: this process has one thread.
        bad.push(unsafe { Process::start(|| takes_memory(group, swap, figures))? });
    }

    // All of them, whatever becomes of some.
    let ended = |processes: Vec<Process>| {
        processes
            .into_iter()
            .map(|process| process.finish(LIFE_PATIENCE))
            .collect::<Vec<_>>()
    };
    let mut outcomes = ended(innocent);
    figures.over.store(true, SeqCst);
    outcomes.extend(ended(bad));
    tell_quit.write_all(b"x")?;
    outcomes.push(compositor.finish(2 * FENCE_PATIENCE));
    figures.print();
    outcomes.into_iter().collect::<Outcome>()?;
    Ok(figures)
}

/// The size of all objects and the number of jobs, which C panfrost does not tell.
fn objects(gpu: &Gpu) -> Option<(usize, u32)> {
    Some((
        debugfs::sum(gpu, "total").ok()?,
        debugfs::jobs(gpu, "jobs").ok()?,
    ))
}

/// A small desktop first, so that what is made once and kept is there. Then the one that counts,
/// which leaves nothing behind.
fn leaves_nothing(
    gpu: &Gpu,
    size: Size,
    scarce: Option<(&MemoryGroup, &Swap)>,
) -> Result<&'static Figures, Stop> {
    let board = Board::open()?;
    let few = Size {
        lives: 1,
        bad_lives: 1,
        frames: 3,
        textures: (2, 2),
    };
    desktop(gpu, few, scarce)?;
    let before = (Held::settled()?, objects(gpu));
    let figures = desktop(gpu, size, scarce)?;
    board.order(Opcode::ClearAll, &[])?;
    let mut after = before;
    let back = memory::wait_for(PATIENCE, || {
        after = (Held::now()?, objects(gpu));
        Ok(after.0.is_no_more_than(&before.0, PROCESSES) && after.1 == before.1)
    })?;
    check!(back, "{before:?} has become {after:?}");
    works(&gpu.open()?)?;
    Ok(figures)
}

/// Checks what has to be true of any desktop.
fn judge(figures: &Figures, size: Size, oldest: Duration) -> Outcome {
    let frames = 4 * size.lives * size.frames;
    check_eq!(figures.lost(), 0, "frames were lost");
    check_eq!(figures.failed.load(SeqCst), 0, "calls failed");
    check_eq!(figures.shown.load(SeqCst), frames as u64, "frames");
    check!(
        figures.oldest() <= oldest,
        "a frame was shown after {:?}, more than {oldest:?}",
        figures.oldest()
    );
    check!(
        figures.slowest_submit() <= SLOWEST_SUBMIT,
        "a submit took {:?}, more than {SLOWEST_SUBMIT:?}",
        figures.slowest_submit()
    );
    Ok(())
}

/// A small desktop, or one that takes minutes.
fn size(gpu: &Gpu) -> Size {
    match gpu.long {
        false => Size {
            lives: 2,
            bad_lives: 3,
            frames: 5,
            textures: (2, 4),
        },
        true => Size {
            lives: 12,
            bad_lives: 9,
            frames: 40,
            textures: (8, 8),
        },
    }
}

fn shows_all_frames(gpu: &Gpu) -> Outcome {
    let size = size(gpu);
    let figures = leaves_nothing(gpu, size, None)?;
    judge(figures, size, oldest(JOB_TIMEOUT))
}

fn without_memory(gpu: &Gpu) -> Outcome {
    // A client needs all of its textures for each job.
    let mut size = size(gpu);
    size.textures.0 = 12;
    let swap = Swap::on(SWAP)?;
    let group = MemoryGroup::enter()?;
    let killed = memory::killed()?;
    let (mut told, tell) = harness::pipe()?;
    let (quit, mut tell_quit) = harness::pipe()?;
    // SAFETY: this process has one thread.
    let hog = unsafe { Process::start(|| hogs(&quit, &tell))? };
    drop(tell);
    told.read_exact(&mut [0])?;
    let (evicted, failed) = (
        debugfs::taken(gpu)?.evicted,
        debugfs::found_too_little(gpu)?,
    );
    let figures = leaves_nothing(gpu, size, Some((&group, &swap)))?;
    tell_quit.write_all(b"x")?;
    hog.finish(FENCE_PATIENCE)?;
    let evicted = debugfs::taken(gpu)?.evicted - evicted;
    let failed = debugfs::found_too_little(gpu)? - failed;
    let swapped = figures.swapped.load(SeqCst);
    println!(
        "# {evicted} pages of BOs were evicted, up to {swapped} bytes in swap; \
         {failed} attempts of submits found too little"
    );
    check_eq!(memory::killed()?, killed, "processes were killed");
    check!(evicted != 0 && swapped != 0, "memory was not scarce");
    judge(figures, size, oldest(JOB_TIMEOUT))
}
