// SPDX-License-Identifier: GPL-2.0

//! How costs grow with the number of things that there are.
//!
//! All are the time until a call returns, except for that of a queued job. Pages are cleared in the
//! creation of a BO.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check_eq;
use crate::harness::Gpu;
use crate::harness::Stop;
use crate::sync::Gate;
use crate::sync::Syncobj;
use crate::sys::Errno;
use crate::uapi;

use super::jobs::Submit;
use super::reclaim::given_up;
use super::reclaim::Shrinker;
use super::samples;
use super::time;
use super::WARM_UP;

/// Something that there is more and more of.
pub struct Growth {
    /// Its name.
    pub over: &'static str,
    /// How many there are.
    pub counts: &'static [usize],
    /// Measures what some things cost when there are so many.
    pub run: fn(&Gpu, usize) -> Result<Vec<Cost>, Stop>,
}

/// The cost of something, in instructions.
pub struct Cost {
    /// Its name.
    pub what: &'static str,
    /// Samples, in the order of their size. There is at least one.
    pub samples: Vec<u64>,
}

/// Everything that is measured. A guest of 2 GiB has no memory for 100,000 files with an address
/// space each.
pub const ALL: &[Growth] = &[
    Growth {
        over: "BOs in the file",
        counts: &[10, 100, 1_000, 10_000, 100_000],
        run: bos,
    },
    Growth {
        over: "BOs given up",
        counts: &[10, 100, 1_000, 10_000, 100_000],
        run: shrink,
    },
    Growth {
        over: "jobs queued",
        counts: &[10, 100, 1_000, 10_000, 100_000],
        run: queued,
    },
    Growth {
        over: "files open",
        counts: &[10, 100, 1_000, 10_000],
        run: files,
    },
    Growth {
        over: "ranges with holes between them",
        counts: &[10, 100, 1_000, 10_000, 100_000],
        run: ranges,
    },
];

/// How often a cost is measured.
const SAMPLES: usize = 15;

/// BOs of a submit.
const LISTED: usize = 30;

/// Lets workers do what the preparation has left to them.
fn settle() {
    thread::sleep(Duration::from_millis(100));
}

fn bos(gpu: &Gpu, count: usize) -> Result<Vec<Cost>, Stop> {
    let device = gpu.open()?;
    let others = (0..count)
        .map(|_| device.create(4096, uapi::BO_NOEXEC))
        .collect::<Result<Vec<_>, _>>()?;
    settle();
    let mut close = Vec::new();
    let create = samples(SAMPLES, || {
        let (ns, bo) = time(|| device.create(4096, uapi::BO_NOEXEC))?;
        close.push(time(|| bo.close())?.0);
        Ok(ns)
    })?;
    close.drain(..WARM_UP);
    close.sort_unstable();
    let submit = Submit::of(device.clone(), LISTED)?;
    let submits = samples(SAMPLES, || submit.sample())?;
    drop(submit);
    for bo in others {
        bo.leak();
    }
    settle();
    // Nobody else has the file.
    let (ns, ()) = time(|| {
        drop(device);
        Ok(())
    })?;
    Ok(vec![
        Cost {
            what: "CREATE_BO, 4 KiB",
            samples: create,
        },
        Cost {
            what: "GEM_CLOSE, 4 KiB",
            samples: close,
        },
        Cost {
            what: "SUBMIT, 30 BOs",
            samples: submits,
        },
        Cost {
            what: "close of the file, each BO",
            samples: vec![ns / count as u64],
        },
    ])
}

/// Those that have been purged are replaced by as many others.
fn shrink(gpu: &Gpu, count: usize) -> Result<Vec<Cost>, Stop> {
    let shrinker = Shrinker::open(gpu)?;
    let device = gpu.open()?;
    let mut bos = VecDeque::from(given_up(&device, count)?);
    settle();
    let counts = samples(SAMPLES, || Ok(time(|| Ok(shrinker.count()?))?.0))?;
    let scans = samples(SAMPLES, || {
        let before = shrinker.count()?;
        let (ns, ()) = time(|| Ok(shrinker.scan()?))?;
        let pages = before.saturating_sub(shrinker.count()?);
        if pages == 0 || pages > bos.len() {
            return Err(Stop::fail(format!("{pages} pages were purged")));
        }
        // The first were given up first.
        bos.drain(..pages);
        bos.extend(given_up(&device, pages)?);
        Ok(ns / pages as u64)
    })?;
    Ok(vec![
        Cost {
            what: "count of the shrinker",
            samples: counts,
        },
        Cost {
            what: "scan of the shrinker for 128 pages, each page",
            samples: scans,
        },
    ])
}

/// In contexts with fewer jobs than drm_gpu lets one have. The first of each waits.
fn queued(gpu: &Gpu, count: usize) -> Result<Vec<Cost>, Stop> {
    const OF_EACH: usize = 4_000;
    let all = count + WARM_UP + SAMPLES;
    let device = gpu.open()?;
    let mut chains = Chain::new(&device, 128 * all)?;
    let jobs: Vec<_> = (0..all).map(|_| chains.null()).collect();
    for &job in &jobs {
        chains.edit(job, |header| header.next = 0);
    }
    let handles = [chains.bo().handle()];
    let gate = Gate::new()?;
    let closed = gate.syncobj(&device)?;
    let waits = [closed.handle()];
    let submit = |job, context, wait: usize, done: &Syncobj| {
        device.submit_raw(&mut uapi::Submit {
            jc: chains.job_va(job),
            in_syncs: waits.as_ptr() as u64,
            in_sync_count: wait as u32,
            out_sync: done.handle(),
            bo_handles: handles.as_ptr() as u64,
            bo_handle_count: 1,
            jm_ctx_handle: context,
            ..Default::default()
        })
    };
    let (queued, more) = jobs.split_at(count);
    let mut contexts = Vec::new();
    for part in queued.chunks(OF_EACH) {
        let context = device.create_context(uapi::PRIORITY_MEDIUM)?;
        let done = device.syncobj()?;
        for (n, &job) in part.iter().enumerate() {
            submit(job, context, usize::from(n == 0), &done)?;
        }
        contexts.push((context, done));
    }
    let (context, done) = contexts.last().ok_or_else(|| Stop::fail("no jobs"))?;
    settle();
    let mut more = more.iter();
    let submits = samples(SAMPLES, || {
        let &job = more.next().ok_or_else(|| Stop::fail("no job is left"))?;
        Ok(time(|| submit(job, *context, 0, done))?.0)
    })?;
    let (ns, ()) = time(|| {
        gate.open()?;
        contexts
            .iter()
            .try_for_each(|(_, done)| done.wait(PATIENCE))
    })?;
    for &job in &jobs {
        check_eq!(chains.status(job), DONE);
    }
    Ok(vec![
        Cost {
            what: "SUBMIT, 1 BO",
            samples: submits,
        },
        Cost {
            what: "until the last job has run, each",
            samples: vec![ns / all as u64],
        },
    ])
}

/// Each has an address space in which a job has run.
fn files(gpu: &Gpu, count: usize) -> Result<Vec<Cost>, Stop> {
    let limit = libc::rlimit {
        rlim_cur: count as libc::rlim_t + 1_000,
        rlim_max: count as libc::rlim_t + 1_000,
    };
    // SAFETY: a valid limit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(Errno::last().into());
    }
    let others = (0..count)
        .map(|_| {
            let device = gpu.open()?;
            let mut chain = Chain::new(&device, 4096)?;
            chain.null();
            chain.run(&[])?;
            Ok(chain.into_parts().0)
        })
        .collect::<Result<Vec<Bo>, Stop>>()?;
    settle();
    let open = samples(SAMPLES, || Ok(time(|| gpu.node.open())?.0))?;
    let submit = Submit::of(gpu.open()?, LISTED)?;
    let submits = samples(SAMPLES, || submit.sample())?;
    drop(others);
    Ok(vec![
        Cost {
            what: "to open the node",
            samples: open,
        },
        Cost {
            what: "SUBMIT, 30 BOs",
            samples: submits,
        },
    ])
}

/// The holes are too small for the BO that is mapped.
fn ranges(gpu: &Gpu, count: usize) -> Result<Vec<Cost>, Stop> {
    const SIZE: usize = 8192;
    let owner = gpu.open()?;
    let dmabuf = owner.create(SIZE, uapi::BO_NOEXEC)?.export()?;
    let device = gpu.open()?;
    let (mut kept, mut holes) = (Vec::new(), Vec::new());
    for _ in 0..count {
        kept.push(device.create(4096, uapi::BO_NOEXEC)?);
        holes.push(device.create(4096, uapi::BO_NOEXEC)?);
    }
    drop(holes);
    settle();
    let map = samples(SAMPLES, || {
        let (ns, bo) = time(|| Bo::import(&device, dmabuf.as_fd(), SIZE))?;
        bo.close()?;
        Ok(ns)
    })?;
    drop(kept);
    Ok(vec![Cost {
        what: "PRIME_FD_TO_HANDLE, 8 KiB",
        samples: map,
    }])
}
