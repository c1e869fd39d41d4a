// SPDX-License-Identifier: GPL-2.0

//! Clients that queue more than the driver takes, and clients that share the GPU.

use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use model::control::Opcode;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::JobRef;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::check_errno;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::sync::fence_status;
use crate::sync::set_deadline;
use crate::sync::signalled_at;
use crate::sync::Gate;
use crate::sync::Syncobj;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

use super::works;
use super::A_WHILE;

/// C panfrost takes whatever it is given, until memory is out.
const NO_BOUND: &str = "it queues without end";
/// C panfrost has nothing to do with deadlines.
const NO_DEADLINES: &str = "a deadline changes nothing";

pub(super) const TESTS: &[Test] = &[
    Test::new("pressure-goes-on", &["C10"], goes_on)
        .needs(&[Need::Gate])
        .panfrost_fails(NO_BOUND),
    Test::new("pressure-signal", &["C10"], signal)
        .needs(&[Need::Gate])
        .panfrost_fails(NO_BOUND),
    Test::new("pressure-unbind", &["C8", "C10"], unbind)
        .needs(&[Need::Gate])
        .panfrost_fails(NO_BOUND),
    Test::new("pressure-close", &["A2", "C10"], close)
        .needs(&[Need::Gate])
        .panfrost_fails("what is cancelled still waits for its dependencies"),
    Test::new("pressure-kill", &["A2", "C10"], kill)
        .needs(&[Need::Gate])
        .panfrost_fails(NO_BOUND),
    Test::new("share-used-time", &["C2"], used_time)
        .needs(&[Need::Board, Need::Gate])
        .panfrost_fails("jobs count, not the time that they take"),
    Test::new("share-fresh-files", &["C2"], fresh_files).needs(&[Need::Board, Need::Gate]),
    Test::new("share-priorities", &["C2"], priorities).needs(&[
        Need::Board,
        Need::Gate,
        Need::Minor(5),
    ]),
    Test::new("share-compositor-that-waits", &["C2"], compositor)
        .needs(&[Need::Board, Need::Gate, Need::Minor(5)])
        .panfrost_fails("who is waited for keeps its priority"),
    Test::new(
        "share-deadline-of-sync-file",
        &["C2"],
        deadline_of_sync_file,
    )
    .needs(&[Need::Board, Need::Gate])
    .panfrost_fails(NO_DEADLINES),
    Test::new("share-deadline-of-wait", &["C2"], deadline_of_wait)
        .needs(&[Need::Board, Need::Gate])
        .panfrost_fails(NO_DEADLINES),
];

/// How many jobs a context can have.
const BOUND: usize = 4096;

/// A file with as many queued jobs as it can have, all behind a gate.
struct Full {
    chain: Chain,
    last: JobRef,
    gate_sync: Syncobj,
    done: Syncobj,
    device: Device,
    gate: Gate,
}

impl Full {
    fn new(gpu: &Gpu) -> Result<Self, Stop> {
        let device = gpu.open()?;
        let gate = Gate::new()?;
        let mut chain = Chain::new(&device, 4096)?;
        let last = chain.pair();
        let this = Self {
            chain,
            last,
            gate_sync: gate.syncobj(&device)?,
            done: device.syncobj()?,
            device,
            gate,
        };
        for _ in 0..BOUND {
            let mut submit = this.submit(&this.done);
            this.device.submit_raw(&mut submit.arg)?;
        }
        check_eq!(this.chain.status(last), NOT_STARTED);
        Ok(this)
    }

    /// One more.
    fn submit(&self, done: &Syncobj) -> OneMore {
        let wait = Box::new(self.gate_sync.handle());
        OneMore {
            arg: uapi::Submit {
                jc: self.chain.head(),
                in_syncs: (&raw const *wait) as u64,
                in_sync_count: 1,
                out_sync: done.handle(),
                ..Default::default()
            },
            _wait: wait,
        }
    }
}

/// A submit, with what it points to.
struct OneMore {
    arg: uapi::Submit,
    _wait: Box<u32>,
}

/// A thread that is in a submit.
struct Submitter {
    thread: JoinHandle<()>,
    result: Receiver<Result<(), Errno>>,
}

impl Submitter {
    /// Begins to submit, once.
    fn start(device: &Device, submit: OneMore) -> Self {
        let device = device.clone();
        let (sender, result) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut submit = submit;
            // SAFETY: what the argument points to lives as long as `submit`.
            let result = unsafe { sys::ioctl_once(device.as_fd(), uapi::SUBMIT, &mut submit.arg) };
            let _ = sender.send(result);
        });
        Self { thread, result }
    }

    /// Whether the call does not return for a while.
    fn waits(&self) -> bool {
        self.result.recv_timeout(A_WHILE).is_err()
    }

    /// Waits for the call and returns its result.
    fn finish(self) -> Result<Result<(), Errno>, Stop> {
        let result = self.result.recv_timeout(PATIENCE);
        let result = result.map_err(|_| Stop::fail("the submit does not return"))?;
        let _ = self.thread.join();
        Ok(result)
    }
}

/// The submit waits, with nothing published, and goes on when a job has ended. Others are not held
/// up.
fn goes_on(gpu: &Gpu) -> Outcome {
    let full = Full::new(gpu)?;
    let out = full.device.syncobj()?;
    let submitter = Submitter::start(&full.device, full.submit(&out));
    check!(submitter.waits(), "it is taken");
    check_errno!(out.fence(), EINVAL);
    // The rest of the file works, and so do other files.
    let bo = full.device.create(4096, uapi::BO_NOEXEC)?;
    bo.wait(Duration::ZERO)?;
    let other = gpu.open()?;
    let mut chain = Chain::new(&other, 4096)?;
    chain.null();
    chain.run(&[])?;
    if full.device.minor() >= 5 {
        let context = full.device.create_context(uapi::PRIORITY_MEDIUM)?;
        let mut chain = Chain::new(&full.device, 4096)?;
        chain.null();
        let done = full.device.syncobj()?;
        chain.submit_in(context, &[], &[], Some(&done))?;
        done.wait(PATIENCE)?;
    }
    check!(submitter.waits());

    full.gate.open()?;
    check_eq!(submitter.finish()?, Ok(()));
    out.wait(PATIENCE)?;
    full.done.wait(PATIENCE)?;
    check_eq!(full.chain.status(full.last), DONE);
    Ok(())
}

/// A signal ends the wait, and nothing has happened.
fn signal(gpu: &Gpu) -> Outcome {
    extern "C" fn nothing(_: libc::c_int) {}

    // SAFETY: the handler does nothing. Without SA_RESTART, the call returns.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
    }
    let full = Full::new(gpu)?;
    let out = full.device.syncobj()?;
    let submitter = Submitter::start(&full.device, full.submit(&out));
    check!(submitter.waits(), "it is taken");
    let target = std::os::unix::thread::JoinHandleExt::as_pthread_t(&submitter.thread);
    // SAFETY: the thread was not joined yet.
    unsafe { libc::pthread_kill(target, libc::SIGUSR1) };
    check_eq!(submitter.finish()?, Err(Errno(libc::EINTR)));
    check_errno!(out.fence(), EINVAL);

    // Another one waits in its place, and gets one.
    let submitter = Submitter::start(&full.device, full.submit(&out));
    check!(submitter.waits());
    full.gate.open()?;
    check_eq!(submitter.finish()?, Ok(()));
    out.wait(PATIENCE)?;
    Ok(())
}

/// Unbinding the device does not wait for those who wait, and ends it.
fn unbind(gpu: &Gpu) -> Outcome {
    if gpu.node.driver == "panfrost" {
        return Err(Stop::Skip("it would be left with the jobs".into()));
    }
    let away = {
        let full = Full::new(gpu)?;
        let fence = full.done.fence()?;
        let outs = [full.device.syncobj()?, full.device.syncobj()?];
        let submitters = outs.each_ref().map(|out| {
            // Two in one context.
            Submitter::start(&full.device, full.submit(out))
        });
        for submitter in &submitters {
            check!(submitter.waits(), "it is taken");
        }
        let away = gpu.node.unbind()?;
        for submitter in submitters {
            check_eq!(submitter.finish()?, Err(Errno(libc::ENODEV)));
        }
        check_eq!(fence_status(fence.as_fd())?, Some(Err(Errno(libc::ENODEV))));
        away
    };
    away.give_back()?;
    works(&gpu.open()?)
}

/// Closing the file returns at once, and cancels what has not started: the gate stays closed.
fn close(gpu: &Gpu) -> Outcome {
    let full = Full::new(gpu)?;
    let fence = full.done.fence()?;
    let Full {
        chain,
        gate_sync,
        done,
        device,
        gate,
        ..
    } = full;
    let (bo, statuses) = chain.into_parts();
    bo.leak();
    drop((gate_sync, done, statuses));
    check_eq!(fence_status(fence.as_fd())?, None);
    drop(device);
    check!(sys::readable(fence.as_fd(), PATIENCE)?);
    check!(fence_status(fence.as_fd())?.is_some_and(|status| status.is_err()));
    drop(gate);
    Ok(())
}

/// So does the end of a process that waits.
fn kill(gpu: &Gpu) -> Outcome {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    check_eq!(unsafe { libc::pipe(fds.as_mut_ptr()) }, 0);
    // SAFETY: this process has one thread; the child ends without returning.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let result = Full::new(gpu).map(|full| {
            let mut submit = full.submit(&full.done);
            // SAFETY: the bytes are ours; the argument's pointers live as long as it does.
            unsafe {
                libc::write(fds[1], c"x".as_ptr().cast(), 1);
                let _ = sys::ioctl_once(full.device.as_fd(), uapi::SUBMIT, &mut submit.arg);
            }
        });
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    // SAFETY: our own descriptor, not used again.
    unsafe { libc::close(fds[1]) };
    let mut byte = 0_u8;
    // SAFETY: room for a byte.
    let read = unsafe { libc::read(fds[0], (&raw mut byte).cast(), 1) };
    check_eq!(read, 1, "the child has failed");
    thread::sleep(A_WHILE);
    let mut status = 0;
    // SAFETY: our child; room for the status.
    unsafe {
        check_eq!(libc::waitpid(pid, &mut status, libc::WNOHANG), 0);
        libc::kill(pid, libc::SIGKILL);
        check_eq!(libc::waitpid(pid, &mut status, 0), pid);
    }
    works(&gpu.open()?)
}

/// Chains of so many jobs each, all queued behind a gate.
fn queue(
    device: &Device,
    context: u32,
    gate: &Syncobj,
    chains: usize,
    jobs: usize,
) -> Result<Vec<(Chain, OwnedFd)>, Stop> {
    let mut queued = Vec::new();
    for _ in 0..chains {
        let mut chain = Chain::new(device, 4096)?;
        for _ in 0..jobs {
            chain.null();
        }
        let done = device.syncobj()?;
        chain.submit_in(context, &[], &[gate], Some(&done))?;
        queued.push((chain, done.fence()?));
    }
    Ok(queued)
}

fn wait_for(fence: &OwnedFd) -> Outcome {
    check!(
        sys::readable(fence.as_fd(), PATIENCE)?,
        "fence {} does not signal",
        fence.as_raw_fd()
    );
    Ok(())
}

/// How many of these chains were done before the fence of another had signalled, however late this
/// is looked at. Waits for all of them.
fn count_before(queued: &[(Chain, OwnedFd)], end: &OwnedFd) -> Result<usize, Stop> {
    wait_for(end)?;
    let end = signalled_at(end.as_fd())?;
    let mut before = 0;
    for (_, fence) in queued {
        wait_for(fence)?;
        before += usize::from(signalled_at(fence.as_fd())? < end);
    }
    Ok(before)
}

/// Of two files, one has jobs that take eight times as long. Each gets half of the time, so that
/// the other one has eight times as many jobs done.
fn used_time(gpu: &Gpu) -> Outcome {
    const LONG: usize = 5;
    let board = Board::open()?;
    board.order(Opcode::SlowJobs, &[5_000])?;
    let (long, short) = (gpu.open()?, gpu.open()?);
    let gate = Gate::new()?;
    let of_long = queue(&long, 0, &gate.syncobj(&long)?, 8, 8)?;
    let of_short = queue(&short, 0, &gate.syncobj(&short)?, 80, 1)?;
    gate.open()?;
    let before = count_before(&of_short, &of_long[LONG].1)?;
    // In turns, it would be as many as of the others.
    check!(
        before >= 3 * LONG,
        "{before} short ones and {LONG} long ones before another long one"
    );
    for (_, fence) in &of_long {
        wait_for(fence)?;
    }
    Ok(())
}

/// A flood of new files, each with one job, does not starve a file that has used the GPU before:
/// at most three jobs of the flood end for each job of that file, from when a gate lets these run.
fn fresh_files(gpu: &Gpu) -> Outcome {
    const JOBS: usize = 20;
    const FLOODERS: usize = 8;
    let board = Board::open()?;
    let device = gpu.open()?;
    works(&device)?;
    board.order(Opcode::SlowJobs, &[20_000])?;
    let gate = Gate::new()?;
    let steady = queue(&device, 0, &gate.syncobj(&device)?, JOBS, 1)?;
    let (flooded, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    // When its jobs have ended.
    let flood = || -> Result<Vec<Option<u64>>, Stop> {
        let mut ends = Vec::new();
        while !over.load(Relaxed) {
            let fresh = gpu.open()?;
            let mut chain = Chain::new(&fresh, 4096)?;
            chain.null();
            let done = fresh.syncobj()?;
            chain.submit(&[], &[], Some(&done))?;
            let fence = done.fence()?;
            wait_for(&fence)?;
            ends.push(signalled_at(fence.as_fd())?);
            flooded.fetch_add(1, Relaxed);
        }
        Ok(ends)
    };
    let meanwhile = thread::scope(|scope| -> Result<usize, Stop> {
        let flooders: Vec<_> = (0..FLOODERS).map(|_| scope.spawn(flood)).collect();
        // When the last of the other file's jobs has ended.
        let run = || -> Result<Option<u64>, Stop> {
            while flooded.load(Relaxed) < 2 * FLOODERS {
                check!(!flooders.iter().all(|flooder| flooder.is_finished()));
                thread::sleep(Duration::from_millis(1));
            }
            gate.open()?;
            let mut last: Option<u64> = None;
            for (_, fence) in &steady {
                wait_for(fence)?;
                last = last.max(signalled_at(fence.as_fd())?);
            }
            Ok(last)
        };
        let last = run();
        over.store(true, Relaxed);
        let mut of_flood = Vec::new();
        for flooder in flooders {
            let ended = flooder.join();
            of_flood.extend(ended.map_err(|_| Stop::fail("a flooder has panicked"))??);
        }
        let (opened, last) = (signalled_at(gate.fence())?, last?);
        let fresh = of_flood.iter().filter(|&&end| end > opened && end < last);
        Ok(fresh.count())
    })?;
    println!("# {JOBS} jobs of one file, {meanwhile} of fresh ones meanwhile");
    check!(
        meanwhile <= 3 * JOBS + FLOODERS,
        "{meanwhile} jobs of fresh files came before {JOBS} others"
    );
    works(&device)
}

/// A context of low priority has nothing done as long as another one has jobs.
fn priorities(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    board.order(Opcode::SlowJobs, &[5_000])?;
    let device = gpu.open()?;
    let gate = Gate::new()?;
    let low = device.create_context(uapi::PRIORITY_LOW)?;
    let wait = gate.syncobj(&device)?;
    let of_low = queue(&device, low, &wait, 10, 1)?;
    let of_usual = queue(&device, 0, &wait, 20, 1)?;
    gate.open()?;
    // Those that were in the hardware before the others' fence was seen.
    let before = count_before(&of_low, &of_usual[19].1)?;
    check!(before <= 5, "{before} chains of low priority came before");
    Ok(())
}

/// Jobs of the file that keeps the slot busy.
const FLOOD: usize = 60;

/// A compositor of high priority waits for what a client of low priority draws, by implicit sync,
/// while another file keeps the slot busy at the usual priority. Jobs that are in the slot already
/// come before each of the two, and so do a few that get there before the queue has seen what is
/// ready; not all the others.
fn compositor(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    board.order(Opcode::SlowJobs, &[10_000])?;
    let (flooder, client, compositor) = (gpu.open()?, gpu.open()?, gpu.open()?);
    let low = client.create_context(uapi::PRIORITY_LOW)?;
    let high = compositor.create_context(uapi::PRIORITY_HIGH)?;
    let gate = Gate::new()?;
    let flood = queue(&flooder, 0, &gate.syncobj(&flooder)?, FLOOD, 1)?;

    let window = Bo::create(&client, 4096, 0)?;
    let shared = Bo::import(&compositor, window.export()?.as_fd(), 4096)?;
    let mut drawing = Chain::new(&client, 4096)?;
    drawing.zero(window.va());
    drawing.submit_in(low, &[&window], &[&gate.syncobj(&client)?], None)?;
    let mut frame = Chain::new(&compositor, 4096)?;
    frame.zero(shared.va());
    let done = compositor.syncobj()?;
    frame.submit_in(high, &[&shared], &[], Some(&done))?;

    let done = done.fence()?;
    gate.open()?;
    let before = count_before(&flood, &done)?;
    check_eq!(drawing.statuses(), [DONE]);
    check_eq!(frame.statuses(), [DONE]);
    check!(
        before <= 10,
        "{before} of {FLOOD} jobs came before the frame"
    );
    Ok(())
}

/// A job has to wait for those of many other files, unless somebody would like it to end soon, who
/// says so by `hurry`. Jobs that are in the slot by then come before it, and a few that get there
/// before the queue has seen all that is ready; not all the others.
fn deadline(gpu: &Gpu, hurry: impl FnOnce(&Syncobj) -> Outcome) -> Outcome {
    const FILES: usize = 12;
    let board = Board::open()?;
    board.order(Opcode::SlowJobs, &[20_000])?;
    let gate = Gate::new()?;
    let mut others = Vec::new();
    for _ in 0..FILES {
        let other = gpu.open()?;
        others.append(&mut queue(&other, 0, &gate.syncobj(&other)?, 1, 1)?);
    }
    let device = gpu.open()?;
    let mut chain = Chain::new(&device, 4096)?;
    chain.null();
    let done = device.syncobj()?;
    chain.submit(&[], &[&gate.syncobj(&device)?], Some(&done))?;
    hurry(&done)?;
    gate.open()?;

    let done = done.fence()?;
    let before = count_before(&others, &done)?;
    check_eq!(chain.statuses(), [DONE]);
    check!(
        before <= FILES / 2,
        "{before} of {FILES} jobs came before it"
    );
    Ok(())
}

/// A time that is near.
fn soon() -> u64 {
    sys::deadline_ns(Duration::from_millis(10)) as u64
}

fn deadline_of_sync_file(gpu: &Gpu) -> Outcome {
    deadline(gpu, |done| Ok(set_deadline(done.fence()?.as_fd(), soon())?))
}

fn deadline_of_wait(gpu: &Gpu) -> Outcome {
    deadline(gpu, |done| {
        check_errno!(
            done.wait_with_deadline(Duration::from_millis(1), soon()),
            ETIME
        );
        Ok(())
    })
}
