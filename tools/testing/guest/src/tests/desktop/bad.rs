// SPDX-License-Identifier: GPL-2.0

//! Clients that do harm: their jobs hang or fault, they go in the middle of it, or they keep the
//! GPU busy.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use model::control::Opcode;

use crate::board::Board;
use crate::chain::Chain;
use crate::check;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::sync::fence_status;
use crate::sync::Syncobj;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

use super::client::Client;
use super::client::Style;
use super::client::Window;
use super::figures::Figures;
use super::FENCE_PATIENCE;

/// Where nothing is mapped.
const NOWHERE: u64 = 0x7f_0000_0000;

/// Between two hangs.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a client keeps the GPU busy, and for how long it does not.
const FLOOD: Duration = Duration::from_secs(3);
const EBB: Duration = Duration::from_secs(1);

/// Jobs that it has under way, each of so many copies of so many bytes.
const QUEUED: usize = 4;
const COPIES: usize = 16;
const COPIED: usize = 1 << 20;

/// The means that a hang takes.
#[derive(Clone, Copy, Debug)]
enum Means {
    SoftStop,
    HardStop,
    Reset,
}

/// Its windows are drawn to by jobs that hang, which the compositor waits for. It ends after some.
pub(super) fn hangs(gpu: &Gpu, name: &str, figures: &Figures, life: usize) -> Outcome {
    let board = Board::open()?;
    let mut window = Window::open(gpu, name, false)?;
    let means = [Means::SoftStop, Means::HardStop, Means::Reset][life % 3];
    // With the third one, the context is closed.
    let hangs = [1, 2, 4][life / 3 % 3];
    for n in 0..hangs {
        let (buffer, bo) = window.take()?;
        let mut chain = Chain::new(&window.device, 4096)?;
        chain.endless();
        let done = window.device.syncobj()?;
        let ignore = match means {
            Means::SoftStop => [0, 0],
            Means::HardStop => [1, 0],
            Means::Reset => [1, 1],
        };
        board.order(Opcode::IgnoreSoftStop, &ignore[..1])?;
        board.order(Opcode::IgnoreHardStop, &ignore[1..])?;
        match chain.submit(&[&bo], &[], Some(&done)) {
            Ok(()) => (),
            Err(Errno(libc::ECANCELED)) if n >= 3 => {
                window.give_back(buffer);
                break;
            }
            Err(errno) => return Err(errno.into()),
        }
        window.commit(buffer, 0, None)?;
        let done = done.fence()?;
        let ended = sys::readable(done.as_fd(), FENCE_PATIENCE)?;
        board.order(Opcode::IgnoreSoftStop, &[0])?;
        board.order(Opcode::IgnoreHardStop, &[0])?;
        check!(ended, "the fence of a job that hangs does not signal");
        check!(
            !matches!(fence_status(done.as_fd())?, Some(Ok(()))),
            "a job that hangs is good"
        );
        Figures::count(&figures.hung);
        thread::sleep(PAUSE);
    }
    window.wait_until_shown()
}

/// Its windows are drawn to by jobs that fault.
pub(super) fn faults(gpu: &Gpu, name: &str, figures: &Figures) -> Outcome {
    let mut window = Window::open(gpu, name, false)?;
    for _ in 0..6 {
        let (buffer, bo) = window.take()?;
        let mut chain = Chain::new(&window.device, 4096)?;
        chain.zero(NOWHERE);
        let done = window.device.syncobj()?;
        chain.submit(&[&bo], &[], Some(&done))?;
        window.commit(buffer, 0, None)?;
        let done = done.fence()?;
        check!(
            sys::readable(done.as_fd(), FENCE_PATIENCE)?,
            "the fence of a job that faults does not signal"
        );
        Figures::count(&figures.faulted);
        thread::sleep(PAUSE / 8);
    }
    window.wait_until_shown()
}

/// Draws some frames, and then goes, with jobs under way, of which one may never end. Every other
/// client is killed, and does not return.
pub(super) fn leaves(
    gpu: &Gpu,
    name: &str,
    figures: &Figures,
    style: Style,
    (id, life): (u32, usize),
) -> Outcome {
    let frames = 1 + life % 5;
    let mut client = Client::new(gpu, name, figures, style, id, false)?;
    for _ in 0..frames {
        client.frame()?;
    }
    if life % 3 != 0 {
        client.hang()?;
    }
    Figures::count(&figures.left);
    if life % 2 == 0 {
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        return Err(Stop::fail("a process outlives its end"));
    }
    Ok(())
}

/// Keeps the slot in which others have their vertices and copies busy, with jobs that are good and
/// of the usual priority, until all is over. C panfrost has no job of lower priority run meanwhile,
/// whoever waits for it.
pub(super) fn floods(gpu: &Gpu, figures: &Figures) -> Outcome {
    let device = gpu.open()?;
    let bo = device.create(2 * COPIED, uapi::BO_NOEXEC)?;
    while !figures.over() {
        let end = Instant::now() + FLOOD;
        let mut queued = VecDeque::new();
        while Instant::now() < end && !figures.over() {
            let mut chain = Chain::new(&device, 4096)?;
            for _ in 0..COPIES {
                chain.copy(bo.va(), bo.va() + COPIED as u64, COPIED);
            }
            let done = device.syncobj()?;
            chain.submit(&[], &[], Some(&done))?;
            queued.push_back((chain, done));
            if queued.len() == QUEUED {
                end_of(queued.pop_front())?;
            }
        }
        while !queued.is_empty() {
            end_of(queued.pop_front())?;
        }
        thread::sleep(EBB);
    }
    Ok(())
}

/// A job of a flood has ended, and well.
fn end_of(job: Option<(Chain, Syncobj)>) -> Outcome {
    if let Some((_, done)) = job {
        done.wait(FENCE_PATIENCE)?;
    }
    Ok(())
}
