// SPDX-License-Identifier: GPL-2.0

//! The compositor: it shows what clients commit, with a context of high priority.
//!
//! Each of its frames takes the oldest commit of each client, clears the screen and copies the
//! buffers to it. It does not look whether they are done: its jobs wait for them, by the fences of
//! the buffer or by a sync file.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::JobRef;
use crate::chain::DONE;
use crate::check;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::pixels::Layout;
use crate::pixels::FORMATS;
use crate::socket::Listener;
use crate::socket::Socket;
use crate::sync::fence_status;
use crate::sync::signalled_at;
use crate::sync::Syncobj;
use crate::sys;
use crate::sys::Mapping;
use crate::uapi;

use super::super::render::clear_frame;
use super::figures::Figures;
use super::protocol::Release;
use super::protocol::Request;
use super::FENCE_PATIENCE;
use super::WINDOW;

/// Most buffers that are shown at a time.
const WINDOWS: usize = 16;

/// The whole screen: one row of windows below the other.
const SCREEN: Layout = Layout {
    height: WINDOW.height * WINDOWS,
    ..WINDOW
};

/// How long it waits for something to happen before it looks again.
const PAUSE: Duration = Duration::from_millis(500);

/// The colour of the screen where no window is.
const BACKGROUND: u128 = 0x11;

/// A frame of a client, to show next.
struct Commit {
    buffer: u64,
    pixel: Vec<u8>,
    at_ns: u64,
    fence: Option<Syncobj>,
}

/// A client as the compositor sees it.
struct Client {
    socket: Socket,
    innocent: bool,
    /// Its buffers, taken in.
    buffers: Vec<Bo>,
    commits: VecDeque<Commit>,
    gone: bool,
}

impl Client {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            innocent: false,
            buffers: Vec::new(),
            commits: VecDeque::new(),
            gone: false,
        }
    }

    /// Takes a request.
    fn receive(&mut self, device: &Device) -> Outcome {
        let Some((bytes, file)) = self.socket.receive()? else {
            self.gone = true;
            return Ok(());
        };
        match (Request::decode(&bytes), file) {
            (Request::Hello { innocent }, _) => self.innocent = innocent,
            (Request::Attach, Some(dmabuf)) => {
                let bo = Bo::import(device, dmabuf.as_fd(), WINDOW.size())?;
                self.buffers.push(bo);
            }
            (Request::Attach, None) => return Err(Stop::fail("a buffer without a file")),
            (
                Request::Commit {
                    buffer,
                    seed,
                    at_ns,
                },
                file,
            ) => {
                let fence = file.map(|file| Syncobj::with_fence(device, file.as_fd()));
                self.commits.push_back(Commit {
                    buffer,
                    pixel: FORMATS[0].clear(u128::from(seed)).1,
                    at_ns,
                    fence: fence.transpose()?,
                });
            }
        }
        Ok(())
    }
}

pub(super) struct Compositor<'a> {
    device: Device,
    figures: &'a Figures,
    context: u32,
    screen: Bo,
    map: Mapping,
    listener: &'a Listener,
    clients: Vec<Client>,
}

impl<'a> Compositor<'a> {
    pub(super) fn new(
        gpu: &Gpu,
        listener: &'a Listener,
        figures: &'a Figures,
    ) -> Result<Self, Stop> {
        let device = gpu.open()?;
        let screen = device.create(SCREEN.size(), uapi::BO_NOEXEC)?;
        Ok(Self {
            context: device.create_context(uapi::PRIORITY_HIGH)?,
            map: screen.map()?,
            screen,
            device,
            figures,
            listener,
            clients: Vec::new(),
        })
    }

    /// Shows the frames of the clients until something can be read from `quit`.
    pub(super) fn run(mut self, quit: impl AsFd) -> Outcome {
        loop {
            let ended = self.look(quit.as_fd())?;
            if self.clients.iter().any(|client| !client.commits.is_empty()) {
                self.compose()?;
            } else if ended {
                return Ok(());
            }
            self.clients
                .retain(|client| !client.gone || !client.commits.is_empty());
        }
    }

    /// Takes what clients have sent, which it waits for if there is nothing to be shown. Returns
    /// whether it is the end.
    fn look(&mut self, quit: BorrowedFd<'_>) -> Result<bool, Stop> {
        let busy = self.clients.iter().any(|client| !client.commits.is_empty());
        let mut pause = if busy { Duration::ZERO } else { PAUSE };
        loop {
            let mut fds = vec![quit, self.listener.as_fd()];
            fds.extend(self.clients.iter().map(|client| client.socket.as_fd()));
            let readable = sys::readable_of(&fds, pause)?;
            for (client, _) in self
                .clients
                .iter_mut()
                .zip(&readable[2..])
                .filter(|(client, &readable)| readable && !client.gone)
            {
                client.receive(&self.device)?;
            }
            if readable[1] {
                self.clients.push(Client::new(self.listener.accept()?));
            }
            let more = self
                .clients
                .iter()
                .zip(&readable[2..])
                .any(|(client, &readable)| readable && !client.gone);
            if !more && !readable[1] {
                return Ok(readable[0]);
            }
            pause = Duration::ZERO;
        }
    }

    /// One frame: the oldest commit of each client.
    fn compose(&mut self) -> Outcome {
        let mut shown: Vec<(usize, Commit)> = Vec::new();
        for (n, client) in self.clients.iter_mut().enumerate() {
            if shown.len() < WINDOWS {
                shown.extend(client.commits.pop_front().map(|commit| (n, commit)));
            }
        }
        let windows: Vec<&Bo> = shown
            .iter()
            .map(|(n, commit)| &self.clients[*n].buffers[commit.buffer as usize])
            .collect();

        let background = FORMATS[0].clear(BACKGROUND).0;
        let mut clear = Chain::new(&self.device, 4096)?;
        let clear_job = clear.fragment(&clear_frame(
            &FORMATS[0],
            &SCREEN,
            self.screen.va(),
            background,
        ));
        let mut copies = Chain::new(&self.device, 8192)?;
        let jobs: Vec<JobRef> = windows
            .iter()
            .enumerate()
            .map(|(n, window)| {
                let to = self.screen.va() + (n * WINDOW.size()) as u64;
                copies.copy(window.va(), to, WINDOW.size())
            })
            .collect();
        let fences: Vec<&Syncobj> = shown.iter().filter_map(|(_, c)| c.fence.as_ref()).collect();
        let done = self.device.syncobj()?;
        let mut used = windows.clone();
        used.push(&self.screen);
        self.figures
            .submit(|| clear.submit_in(self.context, &[&self.screen], &[], None))?;
        self.figures
            .submit(|| copies.submit_in(self.context, &used, &fences, Some(&done)))?;
        let done = done.fence()?;
        check!(
            sys::readable(done.as_fd(), FENCE_PATIENCE)?,
            "the fence of the compositor's frame does not signal"
        );
        Figures::count(&self.figures.composed);

        let good = clear.status(clear_job) == DONE && fence_status(done.as_fd())? == Some(Ok(()));
        for (n, ((client, commit), job)) in shown.iter().zip(&jobs).enumerate() {
            let good = good && copies.status(*job) == DONE;
            if self.clients[*client].innocent {
                self.judge(n, commit, good, &done)?;
            }
        }
        for (n, commit) in shown {
            let release = Release {
                buffer: commit.buffer,
            };
            // It may have gone.
            let _ = self.clients[n].socket.send(&release.encode(), None);
        }
        Ok(())
    }

    /// Looks at what the screen shows of a frame.
    fn judge(&self, n: usize, commit: &Commit, good: bool, done: &OwnedFd) -> Outcome {
        let memory = self.map.bytes(n * WINDOW.size(), WINDOW.size());
        let wrong = memory
            .chunks_exact(WINDOW.bytes)
            .find(|pixel| *pixel != commit.pixel);
        if good && wrong.is_none() {
            Figures::count(&self.figures.shown);
        } else {
            Figures::count(&self.figures.lost);
            if self.figures.lost() <= 5 {
                println!(
                    "# lost: the jobs are {}, a pixel is {wrong:02x?} instead of {:02x?}",
                    if good { "good" } else { "bad" },
                    commit.pixel
                );
            }
        }
        let shown_ns = signalled_at(done.as_fd())?.unwrap_or(0);
        self.figures
            .oldest_ns
            .fetch_max(shown_ns.saturating_sub(commit.at_ns), SeqCst);
        Ok(())
    }
}
