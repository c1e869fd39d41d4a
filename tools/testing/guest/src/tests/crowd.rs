// SPDX-License-Identifier: GPL-2.0

//! Sixteen clients that draw, with 4 GiB of BOs between them, where there is hardly any memory.
//!
//! Each is what Mesa makes of an application: a heap of 128 MiB that is mostly empty, pictures that
//! are shown again later, a buffer that the CPU writes, and a cache of BOs that are given up in the
//! moment in which the last job that uses them is submitted. All of them together need more memory
//! than there is: content goes to swap and comes back all the time.
//!
//! No pixel and no byte may be wrong, no job may end badly, no call may fail, and nobody may be
//! killed: all that is missing can be had from somebody.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs;
use crate::device::Device;
use crate::harness;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Process;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::swap::Swap;
use crate::sys::Mapping;
use crate::uapi;

use super::picture::Picture;
use super::picture::LAYOUT;
use super::tiler::heap;
use super::tiler::Batch;
use super::Random;

pub(super) const TESTS: &[Test] = &[Test::new(
    "crowd-draws-without-memory",
    &["D2", "D3", "D4", "D7", "B2", "B3"],
    draws,
)
.not_on_panfrost("the pages of BOs stay as long as the BOs, and the guest stands still")];

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// Clients.
const CLIENTS: usize = 16;

/// The size of the BOs of all of them.
const TOTAL: usize = 4096 * MIB;

/// More memory than this is no pressure. Debug kernels need more for themselves.
const MOST_MEMORY: usize = 1024 * MIB;

/// Room in swap. Pictures of one colour take no memory there.
const SWAP: usize = 3072 * MIB;

/// A heap, as Mesa makes it.
const HEAP: usize = 128 * MIB;

/// Triangles that need some 6 MiB of it.
const TRIANGLES: u32 = 100_000;

/// Pictures of a client that are needed, as a rule: with heaps and books, all together are more
/// than there is memory.
const KEPT: usize = 16;

/// The same in a long run, and how many frames that has. It is half as much again as there is
/// memory, so all that a client has goes out and comes back for each of its jobs: a frame takes
/// more than ten times as long as with [`KEPT`]. With 32 pictures the guest does little else.
const KEPT_LONG: usize = 24;
const FRAMES_LONG: usize = 10;

/// The buffer that the CPU writes.
const BOOK: usize = 4 * MIB;

/// All pictures of a client. Those that are not needed are in its cache.
const PICTURES: usize = (TOTAL / CLIENTS - HEAP - BOOK) / MIB;

/// A buffer in which each page says which it is, and jobs have crossed out some.
struct Book {
    bo: Bo,
    map: Mapping,
    seed: u64,
    crossed_out: Vec<bool>,
}

impl Book {
    fn new(device: &Device, seed: u64) -> Result<Self, Stop> {
        let bo = device.create(BOOK, uapi::BO_NOEXEC)?;
        let map = bo.map()?;
        for page in 0..BOOK / PAGE {
            map.put64(page * PAGE, seed ^ page as u64);
            map.put64(page * PAGE + PAGE - 8, !seed ^ page as u64);
        }
        Ok(Self {
            bo,
            map,
            seed,
            crossed_out: vec![false; BOOK / PAGE],
        })
    }

    /// A chain that crosses some pages out. It does not name the book, as Mesa does not name all
    /// that it uses.
    fn cross_out(&mut self, device: &Device, random: &mut Random) -> Outcome {
        let mut chain = Chain::new(device, PAGE)?;
        for _ in 0..8 {
            let page = random.below((BOOK / PAGE) as u64) as usize;
            chain.zero(self.bo.va() + (page * PAGE) as u64);
            self.crossed_out[page] = true;
        }
        chain.run(&[])?;
        check_eq!(chain.statuses(), [DONE; 8]);
        Ok(())
    }

    /// Looks at each page.
    fn check(&self) -> Outcome {
        for (page, &crossed_out) in self.crossed_out.iter().enumerate() {
            let wanted = match crossed_out {
                true => 0,
                false => self.seed ^ page as u64,
            };
            check_eq!(self.map.get64(page * PAGE), wanted, "page {page}");
            let last = self.map.get64(page * PAGE + PAGE - 8);
            check_eq!(last, !self.seed ^ page as u64, "end of page {page}");
        }
        Ok(())
    }
}

/// One of the crowd.
struct Client {
    device: Device,
    heap: Bo,
    random: Random,
    book: Book,
    /// Those that are needed, the oldest first.
    kept: VecDeque<Picture>,
    /// How many of them.
    keeps: usize,
    /// Those that were given up, the oldest first.
    cache: VecDeque<Picture>,
    /// How many came out of the cache as they were, and how many were lost.
    cached: (usize, usize),
    slowest: Duration,
}

impl Client {
    /// Fills it with all that it will ever have.
    fn new(gpu: &Gpu, seed: u64, keeps: usize) -> Result<Self, Stop> {
        let device = gpu.open()?;
        let mut this = Self {
            heap: heap(&device, HEAP)?,
            book: Book::new(&device, seed)?,
            device,
            random: Random(seed),
            kept: VecDeque::new(),
            keeps,
            cache: VecDeque::new(),
            cached: (0, 0),
            slowest: Duration::ZERO,
        };
        for n in 0..PICTURES {
            let bo = this.device.create(LAYOUT.size(), uapi::BO_NOEXEC)?;
            let picture = this.draw(bo)?;
            match n % (PICTURES / keeps) {
                0 if this.kept.len() < keeps => this.kept.push_back(picture),
                _ => this.put_in_cache(picture)?,
            }
        }
        Ok(this)
    }

    fn draw(&mut self, bo: Bo) -> Result<Picture, Stop> {
        Picture::draw(&self.device, bo, self.random.wide())
    }

    /// Gives a picture up, whether or not its job has ended.
    fn put_in_cache(&mut self, picture: Picture) -> Outcome {
        check!(
            picture.bo.madvise(uapi::MADV_DONTNEED)?,
            "lost while needed"
        );
        self.cache.push_back(picture);
        Ok(())
    }

    /// A BO out of the cache, or a new one for one that was lost.
    fn take_from_cache(&mut self, newest: bool) -> Result<Bo, Stop> {
        let picture = match newest {
            true => self.cache.pop_back(),
            false => self.cache.pop_front(),
        };
        let picture = picture.ok_or_else(|| Stop::fail("the cache is empty"))?;
        picture.drawn()?;
        if picture.bo.madvise(uapi::MADV_WILLNEED)? {
            // Whole, or not at all.
            picture.check()?;
            self.cached.0 += 1;
            return Ok(picture.bo);
        }
        self.cached.1 += 1;
        picture.bo.close()?;
        Ok(self.device.create(LAYOUT.size(), uapi::BO_NOEXEC)?)
    }

    /// A frame: some drawing, with the heap in every other one, and a look at what is there.
    fn frame(&mut self, number: usize) -> Outcome {
        let start = Instant::now();
        for newest in [false, true] {
            let bo = self.take_from_cache(newest)?;
            let picture = self.draw(bo)?;
            self.kept.push_back(picture);
        }
        if number % 2 == 0 {
            let batch = Batch::new(&self.device, &self.heap, HEAP, TRIANGLES)?;
            batch.run(&self.device, &self.heap)?;
            batch.check()?;
        }
        self.book.cross_out(&self.device, &mut self.random)?;
        self.book.check()?;
        while self.kept.len() > self.keeps {
            let Some(picture) = self.kept.pop_front() else {
                break;
            };
            picture.check()?;
            // Drawn to once more, and given up at once.
            let picture = self.draw(picture.bo)?;
            self.put_in_cache(picture)?;
        }
        self.slowest = self.slowest.max(start.elapsed());
        Ok(())
    }
}

fn draws(gpu: &Gpu) -> Outcome {
    let memory = memory::meminfo("MemTotal")?;
    if memory > MOST_MEMORY {
        let enough = format!("{} MiB of memory are no pressure", memory / MIB);
        return Err(Stop::Skip(enough));
    }
    let (keeps, frames) = if gpu.long {
        (KEPT_LONG, FRAMES_LONG)
    } else {
        (KEPT, 2)
    };
    let patience = Duration::from_secs(if gpu.long { 3600 } else { 500 });
    let swap = Swap::on(SWAP)?;
    let killed_before = memory::killed()?;
    let swapped_before = memory::vmstat("pswpout")?;
    let taken_before = debugfs::taken(gpu).ok();

    let start = Instant::now();
    let (mut ready, tell_ready) = harness::pipe()?;
    let (wait_go, mut go) = harness::pipe()?;
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let run = || {
            // Rather than whoever looks after them.
            fs::write("/proc/self/oom_score_adj", "1000")?;
            let client = Client::new(gpu, n as u64 + 1, keeps);
            (&tell_ready).write_all(b"x")?;
            (&wait_go).read_exact(&mut [0])?;
            let mut client = client?;
            for number in 0..frames {
                client.frame(number + n)?;
            }
            for picture in &client.kept {
                picture.check()?;
            }
            println!(
                "# client {n}: {:?} of the cache was there and lost, slowest frame {:?}",
                client.cached, client.slowest
            );
            Ok(())
        };
        // SAFETY: this process has one thread.
        clients.push(unsafe { Process::start(run)? });
    }
    drop((tell_ready, wait_go));
    // Those that fail tell so, too; those that are killed do not.
    let mut bytes = [0; CLIENTS];
    let all_there = ready.read_exact(&mut bytes);
    let mut total = 0;
    if all_there.is_ok() && taken_before.is_some() {
        memory::wait_for(PATIENCE, || {
            // The files are not shown while somebody else has the lists.
            total = debugfs::sum(gpu, "total").unwrap_or(0);
            Ok(total != 0)
        })?;
    }
    let used = swap.used()?;
    let filled = start.elapsed();
    go.write_all(&bytes)?;
    // All of them, before swap goes.
    let results: Vec<Outcome> = clients
        .into_iter()
        .map(|client| client.finish(patience))
        .collect();
    drop(swap);
    println!(
        "# {} MiB of memory, {} MiB in BOs, {} MiB in swap; filled in {filled:?} of {:?}",
        memory / MIB,
        total / MIB,
        used / MIB,
        start.elapsed()
    );
    results.into_iter().collect::<Outcome>()?;
    check_eq!(memory::killed()?, killed_before, "processes were killed");
    let swapped = memory::vmstat("pswpout")? - swapped_before;
    check!(swapped > 0, "nothing went to swap");
    if let Some(before) = taken_before {
        check!(total >= TOTAL, "{total} bytes in BOs");
        let after = debugfs::taken(gpu)?;
        println!("# pages taken: {before:?} before, {after:?} after");
        check!(after.purged > before.purged, "no cache was taken");
        check!(after.evicted > before.evicted, "nothing was evicted");
    }
    Ok(())
}
