// SPDX-License-Identifier: GPL-2.0

//! Heaps when there is no memory for them: whose jobs wait, for how long, and who helps.

use std::fs;
use std::time::Duration;
use std::time::Instant;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::debugfs;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory;
use crate::memory::Hog;
use crate::uapi;

use super::super::memory::filled;
use super::super::tiler::heap;
use super::super::tiler::Batch;
use super::clear_small;
use super::heavy;
use super::line;
use super::CHUNK;
use super::HEAVY;
use super::MIB;

/// As long as a job has to wait for memory that a test does something with while it does. Less than
/// the deadline of the lanes, which is 3.75 seconds.
const ENOUGH: Duration = Duration::from_secs(3);

const NO_WAIT: &str = "its fault handler allocates, and has nothing to fall back to";

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("heap-without-memory", &["B2"], exhausted),
    Test::new("heap-fault-thread-without-memory", &["B2"], starved).panfrost_fails(NO_WAIT),
    Test::new("heap-others-give-memory", &["B2", "D2"], others_give).panfrost_fails(NO_WAIT),
    Test::new("heap-next-job-waits-anew", &["B2"], next_job).panfrost_fails(NO_WAIT),
    Test::new("heap-first-come-first-served", &["B2"], first_come).panfrost_fails(NO_WAIT),
    Test::new("heap-nobody-gets-memory", &["B2"], all_starved),
];

/// With hardly any memory left a job ends, one way or the other, and with memory the next one
/// works.
fn exhausted(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = heap(&device, 128 * MIB)?;
    let before = memory::available()?;
    // Prepared before, as it needs memory itself.
    let batches = [
        Batch::new(&device, &heap, heap.size(), HEAVY)?,
        Batch::new(&device, &heap, heap.size(), HEAVY)?,
        Batch::new(&device, &heap, heap.size(), HEAVY)?,
    ];
    let done = [device.syncobj()?, device.syncobj()?, device.syncobj()?];
    let [first, second, last] = &batches;

    let hog = Hog::new(24 * MIB)?;
    for (batch, done) in [first, second].into_iter().zip(&done) {
        batch.submit(&heap, done)?;
        done.wait(PATIENCE)?;
    }
    check!(hog.size() > 0, "there was no memory to take");
    drop(hog);

    last.submit(&heap, &done[2])?;
    done[2].wait(PATIENCE)?;
    last.check()?;
    drop((batches, heap, device));
    let back = memory::wait_for(PATIENCE, || Ok(memory::available()? + 16 * MIB >= before))?;
    check!(
        back,
        "{} bytes are available, were {before}",
        memory::available()?
    );
    Ok(())
}

/// While a value lives, no allocation of pages by some threads succeeds.
struct Starve;

impl Starve {
    const DIR: &'static str = "/sys/kernel/debug/fail_page_alloc";

    /// The threads that fulfil a condition.
    fn new(are: impl Fn(&Thread) -> bool) -> Result<Self, Stop> {
        if fs::metadata(Self::DIR).is_err() {
            return Err(Stop::Skip("no fault injection".into()));
        }
        for (file, value) in [
            ("task-filter", "Y"),
            ("ignore-gfp-wait", "N"),
            ("min-order", "0"),
            ("verbose", "0"),
            ("interval", "1"),
            ("times", "-1"),
            ("space", "0"),
            ("probability", "100"),
        ] {
            fs::write(format!("{}/{file}", Self::DIR), value)?;
        }
        let this = Self;
        check!(mark(are)? > 0, "no such thread");
        Ok(this)
    }

    /// Lets them have so many pages.
    fn spare(&self, pages: usize) -> Outcome {
        Ok(fs::write(
            format!("{}/space", Self::DIR),
            pages.to_string(),
        )?)
    }
}

impl Drop for Starve {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/probability", Self::DIR), "0");
        let _ = mark(|_| false);
    }
}

/// A thread, as far as it matters here.
struct Thread {
    name: String,
    nice: i32,
}

impl Thread {
    /// From `/proc/<pid>/stat`.
    fn new(stat: &str) -> Option<Self> {
        let (start, rest) = stat.rsplit_once(')')?;
        Some(Self {
            name: start.split_once('(')?.1.to_owned(),
            nice: rest.split_whitespace().nth(16)?.parse().ok()?,
        })
    }

    /// One of an interrupt. Workers can have the driver's name in theirs.
    fn is_irq(&self) -> bool {
        self.name.starts_with("irq/")
    }

    fn is_worker(&self) -> bool {
        self.name.starts_with("kworker/")
    }

    /// One of those that come before others, as what fences wait for does.
    fn is_hasty_worker(&self) -> bool {
        self.is_worker() && self.nice < 0
    }
}

/// Marks the threads that fulfil a condition, and no others. Returns how many there are.
fn mark(are: impl Fn(&Thread) -> bool) -> Result<usize, Stop> {
    let mut marked = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let dir = entry.path();
        // Some end meanwhile, and what is no process has no such files.
        let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
        let Some(thread) = Thread::new(&stat) else {
            continue;
        };
        let is = are(&thread);
        let value = if is { "1" } else { "0" };
        if fs::write(dir.join("make-it-fail"), value).is_ok() && is {
            marked += 1;
        }
    }
    Ok(marked)
}

/// Whether a job waits for memory of a heap.
fn is_stalled(gpu: &Gpu, heap: &Bo) -> Result<bool, Stop> {
    Ok(line(gpu, heap)?.ends_with("stalled"))
}

/// How many chunks of a heap are in their places.
fn chunks(gpu: &Gpu, heap: &Bo) -> Result<u64, Stop> {
    let line = line(gpu, heap)?;
    let number = line.split_whitespace().nth(4);
    number
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| Stop::fail(line))
}

/// Skips a test that has to do something while a job waits, if that is not for long.
fn takes_time(gpu: &Gpu) -> Outcome {
    let text = fs::read_to_string(debugfs::file(gpu, "heap"))?;
    let deadline = text
        .lines()
        .find_map(|line| line.strip_prefix("deadline: ")?.strip_suffix(" ms"))
        .and_then(|ms| ms.parse::<u32>().ok());
    match deadline {
        None => Err(Stop::fail("no deadline in heap")),
        Some(ms) if Duration::from_millis(ms.into()) < ENOUGH => {
            let short = format!("jobs wait for {ms} ms only; needs job_timeout_ms=5000");
            Err(Stop::Skip(short))
        }
        Some(_) => Ok(()),
    }
}

/// When the threads of the interrupts get no memory at all, credit, reserve and the worker see to
/// it that no job fails.
fn starved(gpu: &Gpu) -> Outcome {
    let starve = Starve::new(Thread::is_irq)?;
    for _ in 0..3 {
        let (device, heap, batch) = heavy(gpu)?;
        batch.run(&device, &heap)?;
        batch.check()?;
    }
    drop(starve);
    Ok(())
}

/// When nobody gets memory that a fence waits for, others who can wait for it get it: they take it
/// from clients who do not need it.
fn others_give(gpu: &Gpu) -> Outcome {
    let before = debugfs::taken(gpu)?.purged;
    let device = gpu.open()?;
    // A frame takes ten seconds on the debug kernel, and not each of them gets so far.
    let taken = memory::wait_for(6 * PATIENCE, || {
        let given_up = filled(&device, 4 * MIB, 1)?;
        given_up.madvise(uapi::MADV_DONTNEED)?;
        let (device, heap, batch) = heavy(gpu)?;
        // New workers may come meanwhile.
        let starve = Starve::new(|thread| thread.is_irq() || thread.is_hasty_worker())?;
        batch.run(&device, &heap)?;
        drop(starve);
        batch.check()?;
        Ok(debugfs::taken(gpu)?.purged > before)
    })?;
    check!(taken, "nothing was taken from others");
    Ok(())
}

/// A job that has waited for memory and was ended leaves nothing behind: the next one that wants
/// the same chunk waits as long as any.
fn next_job(gpu: &Gpu) -> Outcome {
    const CHUNKS: u64 = 8;
    takes_time(gpu)?;
    // Workers may come meanwhile that get memory.
    for _ in 0..15 {
        let device = gpu.open()?;
        let heap = heap(&device, CHUNKS as usize * CHUNK)?;
        let context = device.create_context(uapi::PRIORITY_MEDIUM)?;
        let done = [device.syncobj()?, device.syncobj()?];
        let (mut first, mut next) = (Chain::new(&device, 4096)?, Chain::new(&device, 4096)?);
        for n in 0..CHUNKS {
            first.zero(heap.va() + n * CHUNK as u64);
        }

        let starve = Starve::new(|thread| thread.is_irq() || thread.is_worker())?;
        first.submit_in(context, &[&heap], &[], Some(&done[0]))?;
        if !memory::wait_for(PATIENCE, || {
            Ok(is_stalled(gpu, &heap)? || done[0].signalled()?)
        })? || done[0].signalled()?
        {
            continue;
        }
        let wanted = next.zero(heap.va() + chunks(gpu, &heap)? * CHUNK as u64);
        device.destroy_context(context)?;
        done[0].wait(PATIENCE)?;
        let over = memory::wait_for(PATIENCE, || Ok(!is_stalled(gpu, &heap)?))?;
        check!(over, "it waits on");

        // With the heap in its list it would have credit.
        let start = Instant::now();
        let mut stalled = false;
        next.submit(&[], &[], Some(&done[1]))?;
        memory::wait_for(PATIENCE, || {
            stalled = is_stalled(gpu, &heap)?;
            Ok(stalled || done[1].signalled()?)
        })?;
        drop(starve);
        // So late it may have been given up by right.
        let too_late = start.elapsed() >= ENOUGH;
        done[1].wait(PATIENCE)?;
        if too_late || (!stalled && next.status(wanted) == DONE) {
            continue;
        }
        check_eq!(next.status(wanted), DONE);
        return Ok(());
    }
    Err(Stop::fail("memory was found every time"))
}

/// Of two jobs that wait, the one gets memory first that has waited for longer, whichever heap is
/// older.
fn first_come(gpu: &Gpu) -> Outcome {
    /// For one chunk, and some for what the kernel may want on the way.
    const ONE_CHUNK: usize = CHUNK / 4096 + 128;
    takes_time(gpu)?;
    for _ in 0..15 {
        let (late, early) = (gpu.open()?, gpu.open()?);
        // Told apart by their sizes.
        let (of_late, of_early) = (heap(&late, 8 * CHUNK)?, heap(&early, 16 * CHUNK)?);
        let done = [late.syncobj()?, early.syncobj()?];

        // Credit and the reserve are not enough for this one.
        let mut tiler = Chain::new(&early, 4096)?;
        for n in 0..8 {
            tiler.zero(of_early.va() + n * CHUNK as u64);
        }
        // And this one, in another slot, has none.
        let mut fragment = Chain::new(&late, 4096)?;
        let drawn = fragment.fragment(&clear_small(of_late.va()));

        let starve = Starve::new(|thread| thread.is_irq() || thread.is_worker())?;
        let stalls = |heap: &Bo| memory::wait_for(PATIENCE / 4, || is_stalled(gpu, heap));
        let start = Instant::now();
        tiler.submit(&[&of_early], &[], Some(&done[1]))?;
        if !stalls(&of_early)? {
            continue;
        }
        fragment.submit(&[], &[], Some(&done[0]))?;
        if !stalls(&of_late)? {
            continue;
        }
        let had = chunks(gpu, &of_early)?;
        let mut served = (false, false);
        memory::wait_for(PATIENCE, || {
            served = (chunks(gpu, &of_early)? > had, chunks(gpu, &of_late)? > 0);
            if served == (false, false) {
                // Others may be faster.
                starve.spare(ONE_CHUNK)?;
            }
            Ok(served != (false, false))
        })?;
        drop(starve);
        // So late they may have been given up by right.
        let too_late = start.elapsed() >= ENOUGH;
        for done in &done {
            done.wait(PATIENCE)?;
        }
        if too_late {
            continue;
        }
        check_eq!(
            served,
            (true, false),
            "which is served first, early or late"
        );
        check_eq!(tiler.statuses(), [DONE; 8]);
        check_eq!(fragment.status(drawn), DONE);
        return Ok(());
    }
    Err(Stop::fail("memory was found every time"))
}

/// When the workers get none either, the job ends, as a rule in error, and takes nothing with it.
fn all_starved(gpu: &Gpu) -> Outcome {
    for _ in 0..2 {
        let (device, heap, batch) = heavy(gpu)?;
        let next = Batch::new(&device, &heap, heap.size(), HEAVY)?;
        let starve = Starve::new(|thread| thread.is_irq() || thread.is_worker())?;
        batch.run(&device, &heap)?;
        drop(starve);
        next.run(&device, &heap)?;
        next.check()?;
    }
    Ok(())
}
