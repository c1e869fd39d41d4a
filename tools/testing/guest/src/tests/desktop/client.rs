// SPDX-License-Identifier: GPL-2.0

//! Clients that draw, as Mesa has them do it: with a tiler and a fragment job for each frame, a
//! heap, and a cache of BOs that are given up while they are not needed.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::check;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::socket::Socket;
use crate::sys;
use crate::uapi;

use super::super::picture::Picture;
use super::super::picture::LAYOUT;
use super::super::tiler::heap;
use super::super::tiler::Batch;
use super::super::Random;
use super::figures::Figures;
use super::protocol::Release;
use super::protocol::Request;
use super::FENCE_PATIENCE;
use super::WINDOW;

/// A heap, as Mesa makes it.
const HEAP: usize = 128 << 20;

/// Triangles of a frame, and of one in eight, which need 6 MiB of the heap.
const TRIANGLES: u32 = 5_000;
const MANY_TRIANGLES: u32 = 100_000;

/// Buffers of a window.
const BUFFERS: usize = 3;

/// Between two frames.
const PAUSE: Duration = Duration::from_millis(5);

/// The contexts of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contexts {
    /// The context that every file has.
    Default,
    /// One of low priority.
    Low,
    /// A new one for each frame, of any priority.
    Many,
}

/// How a client is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// It passes a sync file on with each frame, and has the jobs not name the window's buffer, so
    /// that this has no fence of them.
    pub(super) explicit: bool,
    /// Which contexts it draws in.
    pub(super) contexts: Contexts,
    /// Textures that it needs, and those in its cache.
    pub(super) textures: (usize, usize),
}

/// A window: its buffers, and the connection to the compositor.
pub(super) struct Window {
    pub(super) device: Device,
    socket: Socket,
    buffers: Vec<Rc<Bo>>,
    /// Those that may be drawn to.
    free: VecDeque<usize>,
}

impl Window {
    pub(super) fn open(gpu: &Gpu, name: &str, innocent: bool) -> Result<Self, Stop> {
        let device = gpu.open()?;
        let socket = Socket::connect(name)?;
        socket.send(&Request::Hello { innocent }.encode(), None)?;
        let mut buffers = Vec::new();
        for _ in 0..BUFFERS {
            let bo = device.create(WINDOW.size(), uapi::BO_NOEXEC)?;
            let dmabuf = bo.export()?;
            socket.send(&Request::Attach.encode(), Some(dmabuf.as_fd()))?;
            buffers.push(Rc::new(bo));
        }
        Ok(Self {
            device,
            socket,
            free: (0..buffers.len()).collect(),
            buffers,
        })
    }

    /// A buffer, for which it waits if need be.
    pub(super) fn take(&mut self) -> Result<(usize, Rc<Bo>), Stop> {
        loop {
            if let Some(index) = self.free.pop_front() {
                return Ok((index, self.buffers[index].clone()));
            }
            self.wait_for_release()?;
        }
    }

    /// A buffer has not been drawn to after all.
    pub(super) fn give_back(&mut self, buffer: usize) {
        self.free.push_back(buffer);
    }

    fn wait_for_release(&mut self) -> Outcome {
        // As long as the compositor waits, and the fences of a frame before this one.
        check!(
            sys::readable(self.socket.as_fd(), 2 * FENCE_PATIENCE)?,
            "no buffer is released"
        );
        let (bytes, _) = self
            .socket
            .receive()?
            .ok_or_else(|| Stop::fail("the compositor has gone"))?;
        self.free.push_back(Release::decode(&bytes).buffer as usize);
        Ok(())
    }

    /// Has a frame shown.
    pub(super) fn commit(&self, buffer: usize, seed: u32, fence: Option<&OwnedFd>) -> Outcome {
        let request = Request::Commit {
            buffer: buffer as u64,
            seed: seed.into(),
            at_ns: sys::now_ns() as u64,
        };
        let fence = fence.map(AsFd::as_fd);
        Ok(self.socket.send(&request.encode(), fence)?)
    }

    /// Waits until all that was committed has been shown.
    pub(super) fn wait_until_shown(&mut self) -> Outcome {
        while self.free.len() < self.buffers.len() {
            self.wait_for_release()?;
        }
        Ok(())
    }
}

/// The things that a frame was drawn with, until it has been shown.
struct Frame {
    batch: Batch,
    context: u32,
}

/// A client that does nothing wrong.
pub(super) struct Client<'a> {
    window: Window,
    figures: &'a Figures,
    style: Style,
    heap: Bo,
    random: Random,
    /// By buffer.
    frames: Vec<Option<Frame>>,
    /// The context for those frames that have none of their own.
    context: u32,
    textures: VecDeque<Picture>,
    cache: VecDeque<Picture>,
    /// Bits of the colour that no other client has.
    id: u32,
    number: u32,
}

impl<'a> Client<'a> {
    pub(super) fn new(
        gpu: &Gpu,
        name: &str,
        figures: &'a Figures,
        style: Style,
        id: u32,
        innocent: bool,
    ) -> Result<Self, Stop> {
        let window = Window::open(gpu, name, innocent)?;
        let context = match style.contexts {
            Contexts::Low => window.device.create_context(uapi::PRIORITY_LOW)?,
            Contexts::Default | Contexts::Many => 0,
        };
        let mut this = Self {
            heap: heap(&window.device, HEAP)?,
            frames: (0..BUFFERS).map(|_| None).collect(),
            window,
            context,
            figures,
            style,
            random: Random(id.into()),
            textures: VecDeque::new(),
            cache: VecDeque::new(),
            id,
            number: 0,
        };
        for _ in 0..this.style.textures.0 {
            let texture = this.draw_texture(None)?;
            this.textures.push_back(texture);
        }
        for _ in 0..this.style.textures.1 {
            let texture = this.draw_texture(None)?;
            this.put_in_cache(texture)?;
        }
        Ok(this)
    }

    fn draw_texture(&mut self, bo: Option<Bo>) -> Result<Picture, Stop> {
        let device = &self.window.device;
        let bo = match bo {
            Some(bo) => bo,
            None => device.create(LAYOUT.size(), uapi::BO_NOEXEC)?,
        };
        Picture::draw(device, bo, self.random.wide())
    }

    /// Gives a texture up, whether or not its job has ended.
    fn put_in_cache(&mut self, texture: Picture) -> Outcome {
        // If it is in swap just then, it is lost at once.
        texture.bo.madvise(uapi::MADV_DONTNEED)?;
        self.cache.push_back(texture);
        Ok(())
    }

    /// A new texture in place of the oldest one, which is put into the cache; its BO comes from
    /// there.
    fn change_texture(&mut self) -> Outcome {
        let bo = match self.cache.pop_front() {
            None => None,
            Some(texture) => {
                texture.drawn()?;
                if texture.bo.madvise(uapi::MADV_WILLNEED)? {
                    // Whole, or not at all.
                    texture.check()?;
                    Figures::count(&self.figures.cached);
                    Some(texture.bo)
                } else {
                    Figures::count(&self.figures.purged);
                    texture.bo.close()?;
                    None
                }
            }
        };
        let new = self.draw_texture(bo)?;
        self.textures.push_back(new);
        if let Some(old) = self.textures.pop_front() {
            old.check()?;
            self.put_in_cache(old)?;
        }
        Ok(())
    }

    /// The context for the next frame.
    fn context(&mut self) -> Result<u32, Stop> {
        if self.style.contexts != Contexts::Many {
            return Ok(self.context);
        }
        let priority = self.random.below(3) as u32;
        Ok(self.window.device.create_context(priority)?)
    }

    /// Draws a frame and has it shown.
    pub(super) fn frame(&mut self) -> Outcome {
        let (buffer, bo) = self.window.take()?;
        if let Some(frame) = self.frames[buffer].take() {
            self.end_of(frame)?;
        }
        self.number += 1;
        let seed = (self.id << 20) | (self.number & 0xf_ffff);
        let triangles = match self.number % 8 {
            0 => MANY_TRIANGLES,
            _ => TRIANGLES,
        };
        let context = self.context()?;
        let device = self.window.device.clone();
        let heap = (&self.heap, HEAP);
        let batch = Batch::onto(&device, heap, triangles, bo, WINDOW, seed.into())?;
        let done = device.syncobj()?;
        self.figures
            .submit(|| batch.tiler.submit_in(context, &[&self.heap], &[], None))?;
        let mut used = vec![&self.heap, batch.tiler.bo()];
        if !self.style.explicit {
            used.push(batch.color());
        }
        self.figures
            .submit(|| batch.fragment.submit_in(context, &used, &[], Some(&done)))?;
        let fence = match self.style.explicit {
            true => Some(done.fence()?),
            false => None,
        };
        self.window.commit(buffer, seed, fence.as_ref())?;
        self.frames[buffer] = Some(Frame { batch, context });
        if !self.textures.is_empty() {
            self.change_texture()?;
        }
        Ok(())
    }

    /// Submits a job that never ends, and of which all buffers of the window have the fence.
    pub(super) fn hang(&mut self) -> Outcome {
        let mut chain = Chain::new(&self.window.device, 4096)?;
        chain.endless();
        let buffers: Vec<&Bo> = self.window.buffers.iter().map(|bo| &**bo).collect();
        Ok(chain.submit(&buffers, &[], None)?)
    }

    /// A frame has been shown: its jobs are good, and its context goes.
    fn end_of(&self, frame: Frame) -> Outcome {
        if frame.context != self.context {
            self.window.device.destroy_context(frame.context)?;
        }
        let Batch {
            tiler, fragment, ..
        } = &frame.batch;
        let statuses = (
            tiler.status(frame.batch.tiler_job),
            fragment.status(frame.batch.fragment_job),
        );
        check!(
            statuses == (DONE, DONE),
            "the jobs of a frame are {statuses:x?}"
        );
        Ok(())
    }

    /// Ends when all has been shown.
    pub(super) fn finish(mut self) -> Outcome {
        self.window.wait_until_shown()?;
        for n in 0..self.frames.len() {
            if let Some(frame) = self.frames[n].take() {
                self.end_of(frame)?;
            }
        }
        for texture in &self.textures {
            texture.check()?;
        }
        Ok(())
    }
}

/// An innocent client's life of so many frames. Whatever fails is counted, and it goes on.
pub(super) fn draws(
    gpu: &Gpu,
    name: &str,
    figures: &Figures,
    style: Style,
    id: u32,
    frames: usize,
) -> Outcome {
    let count = |outcome: Outcome| {
        if let Err(stop) = outcome {
            println!("# innocent client {id:#x}: {stop:?}");
            Figures::count(&figures.failed);
        }
    };
    let mut client = Client::new(gpu, name, figures, style, id, true)?;
    for _ in 0..frames {
        count(client.frame());
        thread::sleep(PAUSE);
    }
    count(client.finish());
    Ok(())
}
