// SPDX-License-Identifier: GPL-2.0

//! BOs that a single file uses, and that others get in the middle of a job: implicit
//! synchronisation, WAIT_BO, dma-bufs and fdinfo know of all jobs at any time.

use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::device::Device;
use crate::device::Job;
use crate::dmabuf;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::fdinfo;
use crate::memory::wait_for;
use crate::sync::Gate;
use crate::sync::Syncobj;
use crate::sys;
use crate::uapi;

use super::file_stays_pending;
use super::seed;
use super::stays_pending;
use super::target;
use super::Random;
use super::PATTERN64;

pub(super) const TESTS: &[Test] = &[
    Test::new(
        "sync-implicit-past-cancelled",
        &["C1", "F7"],
        past_cancelled,
    )
    .needs(&[Need::Gate, Need::Minor(5)]),
    Test::new("sync-implicit-by-name", &["A1", "C1"], by_name).needs(&[Need::Gate]),
    Test::new("sync-implicit-mixed", &["A1", "C1", "C5"], mixed).needs(&[Need::Gate]),
    Test::new("sync-implicit-at-random", &["A1", "A2", "C1"], at_random)
        .needs(&[Need::Gate, Need::Minor(5)]),
    Test::new("prime-busy", &["A1", "C1"], export_busy).needs(&[Need::Gate]),
    Test::new("prime-past-cancelled", &["A1", "C1"], export_past_cancelled)
        .needs(&[Need::Gate, Need::Minor(5)]),
    Test::new("wait-past-cancelled", &["C1", "F7"], wait_past_cancelled)
        .needs(&[Need::Gate, Need::Minor(5)])
        .panfrost_fails("a job that is cancelled waits for those that it depends on"),
    Test::new("fdinfo-active", &["G1"], active).needs(&[Need::Gate]),
];

const PAGE: usize = 4096;

/// A chain that copies the word at the start of a BO to `offset`.
fn copy_to(device: &Device, bo: &Bo, offset: u64) -> Result<Chain, Stop> {
    let mut chain = Chain::new(device, PAGE)?;
    chain.copy(bo.va(), bo.va() + offset, 8);
    Ok(chain)
}

/// Two jobs with the same BO: one in a context of its own that waits for a gate and writes zeros to
/// the start of the BO, and one in another context that waits for the first.
struct Pair {
    gate: Gate,
    writer: Chain,
    context: u32,
    second: Syncobj,
    _chain: Chain,
}

impl Pair {
    /// The second one lists `others` as well.
    fn submit(device: &Device, bo: &Bo, others: &[&Bo]) -> Result<Self, Stop> {
        let gate = Gate::new()?;
        let first = device.create_context(uapi::PRIORITY_MEDIUM)?;
        let context = device.create_context(uapi::PRIORITY_MEDIUM)?;
        let mut writer = Chain::new(device, PAGE)?;
        writer.zero(bo.va());
        writer.submit_in(first, &[bo], &[&gate.syncobj(device)?], None)?;

        let mut chain = Chain::new(device, PAGE)?;
        chain.null();
        let second = device.syncobj()?;
        let listed: Vec<&Bo> = [bo].into_iter().chain(others.iter().copied()).collect();
        chain.submit_in(context, &listed, &[], Some(&second))?;
        Ok(Self {
            gate,
            writer,
            context,
            second,
            _chain: chain,
        })
    }

    /// Cancels the second job.
    fn cancel(&self, device: &Device) -> Outcome {
        Ok(device.destroy_context(self.context)?)
    }
}

/// The jobs of three contexts have a BO. If the second is cancelled, the third still waits for the
/// first, whether it was there before or not.
fn past_cancelled(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, map) = target(&device, PAGE)?;
    let pair = Pair::submit(&device, &bo, &[])?;
    let mut third = Vec::new();
    for n in 1..=2 {
        let context = device.create_context(uapi::PRIORITY_MEDIUM)?;
        let chain = copy_to(&device, &bo, 64 * n)?;
        let done = device.syncobj()?;
        if n == 2 {
            pair.cancel(&device)?;
        }
        chain.submit_in(context, &[&bo], &[], Some(&done))?;
        check!(stays_pending(&done)?);
        third.push((chain, done));
    }
    check!(stays_pending(&third[0].1)?);
    check_errno!(bo.wait_until(0), EBUSY);
    for (chain, _) in &third {
        check_eq!(chain.statuses(), [NOT_STARTED]);
    }

    pair.gate.open()?;
    for (n, (chain, done)) in third.iter().enumerate() {
        done.wait(PATIENCE)?;
        check_eq!(chain.statuses(), [DONE]);
        check_eq!(map.get64(64 * (n + 1)), 0);
    }
    check_eq!(pair.writer.statuses(), [DONE]);
    bo.wait(PATIENCE)?;
    Ok(())
}

/// A BO is not busy with a job that was cancelled, but it is with those before that.
fn wait_past_cancelled(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, _map) = target(&device, PAGE)?;
    let other = device.create(PAGE, uapi::BO_NOEXEC)?;
    let pair = Pair::submit(&device, &bo, &[&other])?;
    check_errno!(other.wait_until(0), EBUSY);
    pair.cancel(&device)?;
    check!(sys::readable(pair.second.fence()?.as_fd(), PATIENCE)?);
    check_errno!(bo.wait_until(0), EBUSY);
    other.wait_until(0)?;
    pair.gate.open()?;
    bo.wait(PATIENCE)?;
    check_eq!(pair.writer.statuses(), [DONE]);
    Ok(())
}

/// A file that opens a BO by its name waits for the jobs of the file that has it, and the other way
/// round.
fn by_name(gpu: &Gpu) -> Outcome {
    let first = gpu.node.open_primary()?;
    let second = gpu.node.open_primary()?;
    let (bo, map) = target(&first, PAGE)?;
    let gate = Gate::new()?;
    let mut writer = Chain::new(&first, PAGE)?;
    writer.zero(bo.va());
    writer.submit(&[&bo], &[&gate.syncobj(&first)?], None)?;

    // A second handle of the same file changes nothing.
    let name = bo.name()?;
    let again = Bo::open_named(&first, name)?;
    check_eq!(again.va(), bo.va());
    check_errno!(again.wait_until(0), EBUSY);

    let shared = Bo::open_named(&second, name)?;
    check_errno!(shared.wait_until(0), EBUSY);
    let copy = copy_to(&second, &shared, 64)?;
    let copied = second.syncobj()?;
    copy.submit(&[&shared], &[], Some(&copied))?;
    let back = copy_to(&first, &bo, 128)?;
    let done = first.syncobj()?;
    back.submit(&[&bo], &[], Some(&done))?;
    check!(stays_pending(&copied)?);
    check!(stays_pending(&done)?);
    gate.open()?;
    done.wait(PATIENCE)?;
    check!(copied.signalled()?);
    for offset in [0, 64, 128] {
        check_eq!(map.get64(offset), 0);
    }

    let gate = Gate::new()?;
    let mut writer = Chain::new(&second, PAGE)?;
    writer.zero(shared.va() + 256);
    writer.submit(&[&shared], &[&gate.syncobj(&second)?], None)?;
    check_errno!(bo.wait_until(0), EBUSY);
    let mut last = Chain::new(&first, PAGE)?;
    last.copy(bo.va() + 256, bo.va() + 320, 8);
    last.submit(&[&again], &[], Some(&done))?;
    check!(stays_pending(&done)?);
    gate.open()?;
    done.wait(PATIENCE)?;
    check_eq!(map.get64(320), 0);
    Ok(())
}

/// A job that lists private and shared BOs waits for the jobs of both, and jobs that list either
/// wait for it. None may be listed twice.
fn mixed(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (own, map) = target(&device, PAGE)?;
    let (shared, _shared_map) = target(&device, PAGE)?;
    let dmabuf = shared.export()?;
    let chain = copy_to(&device, &own, 64)?;
    for twice in [[&own, &shared, &own], [&shared, &own, &shared]] {
        let job = Job {
            head: chain.head(),
            bos: &twice,
            ..Default::default()
        };
        check_errno!(device.submit(job), EALREADY);
    }
    own.wait_until(0)?;
    shared.wait_until(0)?;

    // A foreign access to the shared one holds up jobs of the other.
    let gate = Gate::new()?;
    dmabuf::import_sync_file(dmabuf.as_fd(), uapi::DMA_BUF_SYNC_WRITE, gate.fence())?;
    let mut writer = Chain::new(&device, PAGE)?;
    writer.zero(own.va());
    writer.submit(&[&shared, &own], &[], None)?;
    let mut next = Chain::new(&device, PAGE)?;
    next.null();
    next.require(uapi::REQ_FS);
    let done = device.syncobj()?;
    next.submit(&[&own], &[], Some(&done))?;
    check!(stays_pending(&done)?);
    check_errno!(own.wait_until(0), EBUSY);
    let all = dmabuf::export_sync_file(dmabuf.as_fd(), uapi::DMA_BUF_SYNC_WRITE)?;
    gate.open()?;
    check!(sys::readable(all.as_fd(), PATIENCE)?);
    check_eq!(writer.statuses(), [DONE]);
    done.wait(PATIENCE)?;
    check_eq!(map.get64(0), 0);
    chain.run(&[&own, &shared])?;
    check_eq!(map.get64(64), 0);
    Ok(())
}

/// A BO is exported while it is busy: the dma-buf has the fence of the job, and jobs of other files
/// wait for it.
fn export_busy(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let other = gpu.open()?;
    let (bo, map) = target(&device, PAGE)?;
    let gate = Gate::new()?;
    let mut writer = Chain::new(&device, PAGE)?;
    writer.zero(bo.va());
    writer.submit(&[&bo], &[&gate.syncobj(&device)?], None)?;

    let dmabuf = bo.export()?;
    let fences: Vec<OwnedFd> = [uapi::DMA_BUF_SYNC_READ, uapi::DMA_BUF_SYNC_WRITE]
        .into_iter()
        .map(|flags| dmabuf::export_sync_file(dmabuf.as_fd(), flags))
        .collect::<sys::Result<_>>()?;
    for fence in &fences {
        check!(file_stays_pending(fence.as_fd())?);
    }
    check_errno!(bo.wait_until(0), EBUSY);
    let shared = Bo::import(&other, dmabuf.as_fd(), PAGE)?;
    let copy = copy_to(&other, &shared, 64)?;
    let done = other.syncobj()?;
    copy.submit(&[&shared], &[], Some(&done))?;
    check!(stays_pending(&done)?);
    gate.open()?;
    done.wait(PATIENCE)?;
    for fence in &fences {
        check!(sys::readable(fence.as_fd(), PATIENCE)?);
    }
    check_eq!(map.get64(64), 0);
    bo.wait(PATIENCE)?;
    Ok(())
}

/// A BO is exported after a job was cancelled: the dma-buf has the fence of the job before it.
fn export_past_cancelled(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let (bo, _map) = target(&device, PAGE)?;
    let pair = Pair::submit(&device, &bo, &[])?;
    pair.cancel(&device)?;
    // It takes effect a moment later.
    stays_pending(&pair.second)?;
    let dmabuf = bo.export()?;
    let fence = dmabuf::export_sync_file(dmabuf.as_fd(), uapi::DMA_BUF_SYNC_WRITE)?;
    check!(file_stays_pending(fence.as_fd())?);
    check_eq!(pair.writer.statuses(), [NOT_STARTED]);
    pair.gate.open()?;
    check!(sys::readable(fence.as_fd(), PATIENCE)?);
    check_eq!(pair.writer.statuses(), [DONE]);
    Ok(())
}

/// fdinfo counts the BOs of unfinished jobs as active, and not as purgeable.
fn active(gpu: &Gpu) -> Outcome {
    const SIZE: usize = 64 << 10;

    let device = gpu.open()?;
    let sums = || -> Result<_, Stop> {
        Ok((
            fdinfo(&device, "drm-active-memory")?,
            fdinfo(&device, "drm-purgeable-memory")?,
        ))
    };
    let (bo, _map) = target(&device, SIZE)?;
    let (_idle, _idle_map) = target(&device, SIZE)?;
    check_eq!(sums()?, (0, 0));
    let gate = Gate::new()?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.null();
    let busy = SIZE + PAGE;
    chain.submit(&[&bo], &[&gate.syncobj(&device)?], None)?;
    check_eq!(sums()?, (busy, 0));
    check!(bo.madvise(uapi::MADV_DONTNEED)?);
    check_eq!(sums()?, (busy, 0));
    check!(bo.madvise(uapi::MADV_WILLNEED)?);
    // A shared BO is counted in the same way.
    let dmabuf = bo.export()?;
    check_eq!(sums()?, (busy, 0));
    gate.open()?;
    bo.wait(PATIENCE)?;
    check!(
        wait_for(PATIENCE, || Ok(sums()? == (0, 0)))?,
        "{:?}",
        sums()?
    );
    drop(dmabuf);

    let (last, _last_map) = target(&device, SIZE)?;
    chain.rearm();
    chain.run(&[&last])?;
    check!(last.madvise(uapi::MADV_DONTNEED)?);
    check!(
        wait_for(PATIENCE, || Ok(sums()? == (0, SIZE)))?,
        "{:?}",
        sums()?
    );
    Ok(())
}

/// A file that uses the BO of [`at_random`].
struct User {
    device: Device,
    bo: Arc<Bo>,
    contexts: Vec<u32>,
}

impl User {
    fn new(device: &Device, bo: Bo) -> Result<Self, Stop> {
        let contexts = (0..3)
            .map(|_| device.create_context(uapi::PRIORITY_MEDIUM))
            .collect::<sys::Result<_>>()?;
        Ok(Self {
            device: device.clone(),
            bo: Arc::new(bo),
            contexts,
        })
    }
}

/// Each job copies a word to the next place, and runs in any of the contexts of the files that use
/// the BO at the time. If one overtakes another, a word does not get there. Files get handles and
/// close them while jobs use them, and a thread exports the BO at any time.
fn at_random(gpu: &Gpu) -> Outcome {
    const JOBS: usize = 24;

    let mut random = Random(seed()?);
    let rounds = if gpu.long { 200 } else { 12 };
    for round in 0..rounds {
        let device = gpu.open()?;
        let (bo, map) = target(&device, PAGE)?;
        let word = 1 + round;
        map.put64(0, word);
        let gate = Gate::new()?;
        let mut users = vec![User::new(&device, bo)?];
        // The jobs of a file end with the file.
        let mut files = vec![device];
        let mut chains = Vec::new();
        let exported = users[0].bo.clone();
        let pause = Duration::from_micros(random.below(20_000));
        let exporter = thread::spawn(move || {
            thread::sleep(pause);
            exported.export()
        });

        for n in 0..JOBS {
            match random.below(12) {
                0 | 1 if users.len() < 4 => {
                    let device = gpu.open()?;
                    let bo = Bo::import(&device, users[0].bo.export()?.as_fd(), PAGE)?;
                    users.push(User::new(&device, bo)?);
                    files.push(device);
                }
                2 if users.len() > 1 => {
                    users.swap_remove(1 + random.below(users.len() as u64 - 1) as usize);
                }
                3 if !chains.is_empty() => {
                    chains.swap_remove(random.below(chains.len() as u64) as usize);
                }
                _ => (),
            }
            let user = &users[random.below(users.len() as u64) as usize];
            let context = user.contexts[random.below(3) as usize];
            let from = user.bo.va() + 8 * n as u64;
            let mut chain = Chain::new(&user.device, PAGE)?;
            chain.copy(from, from + 8, 8);
            let wait = match n == 0 || random.below(8) == 0 {
                true => vec![gate.syncobj(&user.device)?],
                false => Vec::new(),
            };
            let wait: Vec<&Syncobj> = wait.iter().collect();
            chain.submit_in(context, &[&user.bo], &wait, None)?;
            chains.push(chain);
            if random.below(4) == 0 {
                let mut null = Chain::new(&user.device, PAGE)?;
                null.null();
                null.require(uapi::REQ_FS);
                null.submit_in(context, &[&user.bo], &[], None)?;
            }
            check_errno!(user.bo.wait_until(0), EBUSY);
        }
        exporter
            .join()
            .map_err(|_| Stop::fail("the thread has panicked"))??;

        check_eq!(map.get64(8), PATTERN64);
        gate.open()?;
        for user in &users {
            user.bo.wait(PATIENCE)?;
        }
        for n in 0..=JOBS {
            check_eq!(map.get64(8 * n), word, "word {n} of round {round}");
        }
    }
    Ok(())
}
