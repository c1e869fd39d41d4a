// SPDX-License-Identifier: GPL-2.0

//! Running tests: each in a process of its own, with a time limit and an eye on the kernel's log; results
//! as TAP.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::panic;
use std::panic::Location;
use std::time::Duration;
use std::time::Instant;

use model::job::Arch;

use crate::board::Board;
use crate::device::Device;
use crate::device::Node;
use crate::failing::Failing;
use crate::sync::Gate;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

/// How a test ended that did not pass.
#[derive(Debug)]
pub enum Stop {
    /// It cannot be run here.
    Skip(String),
    /// Something is wrong.
    Fail(String),
}

impl Stop {
    /// A failure at the caller's place in the source.
    #[track_caller]
    pub fn fail(message: impl fmt::Display) -> Self {
        Self::Fail(format!("{message} ({})", Location::caller()))
    }
}

impl From<Errno> for Stop {
    #[track_caller]
    fn from(errno: Errno) -> Self {
        Self::fail(errno)
    }
}

impl From<std::io::Error> for Stop {
    #[track_caller]
    fn from(error: std::io::Error) -> Self {
        Self::fail(error)
    }
}

impl From<String> for Stop {
    #[track_caller]
    fn from(message: String) -> Self {
        Self::fail(message)
    }
}

/// What a test returns.
pub type Outcome = Result<(), Stop>;

/// Fails the test unless a condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr) => {
        $crate::check!($condition, "{}", stringify!($condition))
    };
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::harness::Stop::fail(format!($($message)+)));
        }
    };
}

/// Fails the test unless two values are equal.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr $(, $($message:tt)+)?) => {{
        let (left, right) = (&$left, &$right);
        $crate::check!(
            left == right,
            "{} is {left:x?}, not {right:x?}{}",
            stringify!($left),
            $crate::check_eq!(@ $($($message)+)?)
        );
    }};
    (@) => { "" };
    (@ $($message:tt)+) => { format!(": {}", format!($($message)+)) };
}

/// Fails the test unless a call fails with this errno, named as in `libc`.
#[macro_export]
macro_rules! check_errno {
    ($call:expr, $errno:ident) => {
        match $call {
            Err($crate::sys::Errno(libc::$errno)) => (),
            Err(other) => {
                return Err($crate::harness::Stop::fail(format!(
                    "{} fails with {other}, not {}",
                    stringify!($call),
                    stringify!($errno)
                )))
            }
            Ok(_) => {
                return Err($crate::harness::Stop::fail(format!(
                    "{} succeeds, should fail with {}",
                    stringify!($call),
                    stringify!($errno)
                )))
            }
        }
    };
}

/// What a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// This minor version of the interface.
    Minor(i32),
    /// Fences that the test signals: sw_sync.
    Gate,
    /// The GPU model's control BAR.
    Board,
    /// Another card that makes dumb buffers.
    Card,
    /// A kernel that can make allocations fail.
    FaultInjection,
    /// BOs over user memory.
    Userptr,
}

/// Where C panfrost is expected not to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Nowhere.
    Same,
    /// This test, for this reason. Its failure is no failure of the run.
    Differs(&'static str),
    /// This test, on this generation of GPUs only.
    DiffersOn(Arch, &'static str),
    /// This test is not run on it: it could take the kernel down.
    Unsafe(&'static str),
}

/// A test.
pub struct Test {
    /// `group-what`.
    pub name: &'static str,
    /// The rows of the feature list that it shows something of.
    pub features: &'static [&'static str],
    /// What it cannot do without.
    pub needs: &'static [Need],
    /// What is known of C panfrost.
    pub peer: Peer,
    /// The driver may say that its hardware misbehaves.
    pub warns: bool,
    /// The test.
    pub run: fn(&Gpu) -> Outcome,
}

impl Test {
    /// A test that needs nothing and that C panfrost passes.
    pub const fn new(
        name: &'static str,
        features: &'static [&'static str],
        run: fn(&Gpu) -> Outcome,
    ) -> Self {
        Self {
            name,
            features,
            needs: &[],
            peer: Peer::Same,
            warns: false,
            run,
        }
    }

    /// The same test with needs.
    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// The same test, in which the hardware misbehaves and the driver may say so. Whoever reads the
    /// kernel's log finds marks around it.
    pub const fn warns(mut self) -> Self {
        self.warns = true;
        self
    }

    /// The same test, which C panfrost fails.
    pub const fn panfrost_fails(mut self, why: &'static str) -> Self {
        self.peer = Peer::Differs(why);
        self
    }

    /// The same test, which is not for C panfrost.
    pub const fn not_on_panfrost(mut self, why: &'static str) -> Self {
        self.peer = Peer::Unsafe(why);
        self
    }

    /// The same test, which C panfrost fails on some GPUs.
    pub const fn panfrost_fails_on(mut self, arch: Arch, why: &'static str) -> Self {
        self.peer = Peer::DiffersOn(arch, why);
        self
    }
}

/// The GPU under test.
pub struct Gpu {
    /// Where it is.
    pub node: Node,
    /// Tests that do something over and over are to do it often.
    pub long: bool,
}

impl Gpu {
    /// Opens it: a file, and so an address space, of its own.
    pub fn open(&self) -> Result<Device, Stop> {
        Ok(self.node.open()?)
    }

    /// Why this driver may fail the test, if it may.
    fn excuse(&self, test: &Test) -> Option<&'static str> {
        if self.node.driver != "panfrost" {
            return None;
        }
        match test.peer {
            Peer::Same | Peer::Unsafe(_) => None,
            Peer::Differs(why) => Some(why),
            Peer::DiffersOn(arch, why) => {
                let found = self.node.open().and_then(|device| device.arch());
                (found == Ok(arch)).then_some(why)
            }
        }
    }

    fn missing(&self, need: Need) -> Option<String> {
        match need {
            Need::Minor(minor) => {
                let found = self.node.open().map_or(0, |device| device.minor());
                (found < minor).then(|| format!("the interface is 1.{found}, not 1.{minor}"))
            }
            Need::Gate => (!Gate::available()).then(|| "no sw_sync".into()),
            Need::Board => Board::open().err().map(|e| format!("no control BAR: {e}")),
            Need::FaultInjection => {
                (!Failing::available()).then(|| "no fault injection in this kernel".into())
            }
            Need::Userptr => {
                let version = self.node.open().and_then(|d| d.param(uapi::PARAM_USERPTR));
                (version != Ok(1)).then(|| "no such UAPI".into())
            }
            Need::Card => match crate::dmabuf::foreign(64, 64) {
                Ok(Some(_)) => None,
                Ok(None) => Some("no second card".into()),
                Err(errno) => Some(format!("second card: {errno}")),
            },
        }
    }
}

/// What the kernel prints when something is wrong with it.
const SPLATS: &[&str] = &[
    "WARNING: ",
    "BUG: ",
    "Oops",
    "KASAN",
    "UBSAN",
    "INFO: task",
    "INFO: possible",
    "INFO: rcu",
    "DMA-API: ",
    "refcount_t: ",
    "general protection",
    "Call Trace:",
    "Call trace:",
];

/// The kernel's log from some moment on.
pub(crate) struct KernelLog(Option<File>);

impl KernelLog {
    pub(crate) fn from_now() -> Self {
        let mut file = File::options()
            .read(true)
            .open("/dev/kmsg")
            .inspect(|file| {
                // SAFETY: sets a flag of our own file.
                unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
            })
            .ok();
        if let Some(file) = &mut file {
            let _ = file.seek(SeekFrom::End(0));
        }
        Self(file)
    }

    /// The lines since the last call.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let Some(file) = &mut self.0 else {
            return lines;
        };
        let mut record = [0; 8192];
        loop {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(len) => {
                    let text = String::from_utf8_lossy(&record[..len]);
                    let line = text.lines().next().unwrap_or("");
                    let line = line.split_once(';').map_or(line, |(_, message)| message);
                    lines.push(line.to_owned());
                }
                // Records were lost; go on with the oldest that is there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => (),
                Err(_) => break,
            }
        }
        lines
    }

    /// The lines that tell of a splat since the last call.
    fn splats(&mut self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| SPLATS.iter().any(|splat| line.contains(splat)));
        lines
    }
}

/// A result of the whole run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, other than those that are expected to.
    pub failed: usize,
    /// Tests that were not run.
    pub skipped: usize,
}

/// Runs tests in turn and prints TAP.
pub fn run(gpu: &Gpu, tests: &[&Test], timeout: Duration) -> Summary {
    let c_driver = gpu.node.driver == "panfrost";
    let mut summary = Summary::default();
    let mut log = KernelLog::from_now();
    println!("TAP version 13");
    println!("1..{}", tests.len());
    for (n, test) in tests.iter().enumerate() {
        let n = n + 1;
        let name = test.name;
        if let Some(reason) = test.needs.iter().find_map(|&need| gpu.missing(need)) {
            println!("ok {n} - {name} # SKIP {reason}");
            summary.skipped += 1;
            continue;
        }
        if let (true, Peer::Unsafe(why)) = (c_driver, test.peer) {
            println!("ok {n} - {name} # SKIP not on C panfrost: {why}");
            summary.skipped += 1;
            continue;
        }
        log.splats();
        let start = Instant::now();
        let mark = |text: &str| {
            if test.warns {
                let _ = std::fs::write("/dev/kmsg", format!("<6>guest-tests: {text}"));
            }
        };
        mark("warnings are expected");
        let mut outcome = run_in_child(gpu, test, timeout);
        mark("no more warnings are expected");
        let ms = start.elapsed().as_millis();
        let splats = log.splats();
        for splat in &splats {
            println!("# kernel: {splat}");
        }
        // The peer's splats are the peer's.
        if !c_driver && !splats.is_empty() && outcome.is_ok() {
            outcome = Err(Stop::Fail("the kernel complained".into()));
        }
        match (outcome, gpu.excuse(test)) {
            (Ok(()), excuse) => {
                if let Some(why) = excuse {
                    println!("# C panfrost was expected to fail: {why}");
                }
                println!("ok {n} - {name} # {ms} ms");
                summary.passed += 1;
            }
            (Err(Stop::Skip(reason)), _) => {
                println!("ok {n} - {name} # SKIP {reason}");
                summary.skipped += 1;
            }
            (Err(Stop::Fail(message)), Some(why)) => {
                println!("# {message}");
                println!("not ok {n} - {name} # TODO C panfrost: {why}");
                summary.skipped += 1;
            }
            (Err(Stop::Fail(message)), None) => {
                for line in message.lines() {
                    println!("# {line}");
                }
                println!("not ok {n} - {name} # {ms} ms");
                summary.failed += 1;
            }
        }
        let _ = std::io::stdout().flush();
    }
    summary
}

/// Runs a test in a process of its own, so that all its files close with it however it ends.
fn run_in_child(gpu: &Gpu, test: &Test, timeout: Duration) -> Outcome {
    // SAFETY: this process has one thread.
    unsafe { Process::start(|| (test.run)(gpu))? }.finish(timeout)
}

/// A child that runs a part of a test.
pub struct Process {
    pid: libc::pid_t,
    messages: File,
}

impl Process {
    /// Starts it. It ends when `run` returns, or with its parent.
    ///
    /// # Safety
    ///
    /// The caller's process has one thread.
    pub unsafe fn start(run: impl FnOnce() -> Outcome) -> Result<Self, Stop> {
        let (messages, writer) = pipe()?;
        let _ = std::io::stdout().flush();
        // SAFETY: as the caller promises, so the child may do anything.
        match unsafe { libc::fork() } {
            -1 => Err(Errno::last().into()),
            0 => {
                drop(messages);
                child(run, writer)
            }
            pid => Ok(Self { pid, messages }),
        }
    }

    /// How it ended; it is killed after `timeout`.
    pub fn finish(mut self, timeout: Duration) -> Outcome {
        let message = read_until(&mut self.messages, timeout);
        if message.is_none() {
            self.kill();
        }
        let status = reap(self.pid, Duration::from_secs(30));
        match (message, status) {
            (None, _) => Err(Stop::Fail(format!("timed out after {timeout:?}"))),
            (_, None) => Err(Stop::Fail("the process does not end".into())),
            (Some(message), Some(0)) => match message.split_at_checked(1) {
                None => Ok(()),
                Some(("s", reason)) => Err(Stop::Skip(reason.into())),
                Some((_, reason)) => Err(Stop::Fail(reason.into())),
            },
            (Some(message), Some(status)) => Err(Stop::Fail(format!(
                "the process ended with wait status {status:#x} {message}"
            ))),
        }
    }

    /// Waits until it kills itself; any other end is a failure.
    pub fn dies(mut self, timeout: Duration) -> Outcome {
        let message = read_until(&mut self.messages, timeout);
        if message.is_none() {
            self.kill();
        }
        match (message, reap(self.pid, Duration::from_secs(30))) {
            (None, _) => Err(Stop::Fail(format!("timed out after {timeout:?}"))),
            (_, None) => Err(Stop::Fail("the process does not end".into())),
            (Some(_), Some(status)) if libc::WIFSIGNALED(status) => Ok(()),
            (Some(message), _) => Err(Stop::Fail(message)),
        }
    }

    /// Kills it, whatever it is doing.
    fn kill(&self) {
        // SAFETY: our child, not yet reaped.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }
}

/// Runs and tells how that ended: nothing, or `s` or `f` and a message.
fn child(run: impl FnOnce() -> Outcome, writer: File) -> ! {
    // SAFETY: concerns this process only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    panic::set_hook(Box::new(|_| ()));
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("?");
        Err(Stop::Fail(format!("panic: {message}")))
    });
    let text = match outcome {
        Ok(()) => String::new(),
        Err(Stop::Skip(reason)) => format!("s{reason}"),
        Err(Stop::Fail(message)) => format!("f{message}"),
    };
    let _ = (&writer).write_all(text.as_bytes());
    drop(writer);
    // SAFETY: ends this process only; nothing of the parent's is flushed twice.
    unsafe { libc::_exit(0) }
}

/// A pipe: its reading and its writing end.
pub fn pipe() -> Result<(File, File), Stop> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } == -1 {
        return Err(Errno::last().into());
    }
    // SAFETY: the kernel has just opened them for us.
    let [reader, writer] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    Ok((reader.into(), writer.into()))
}

/// Everything up to the end of the file, or `None` if that takes longer.
fn read_until(file: &mut File, timeout: Duration) -> Option<String> {
    let end = Instant::now() + timeout;
    let mut bytes = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if !sys::readable(file.as_fd(), left).unwrap_or(false) {
            return None;
        }
        let mut buf = [0; 4096];
        match file.read(&mut buf) {
            Ok(0) | Err(_) => return Some(String::from_utf8_lossy(&bytes).into_owned()),
            Ok(len) => bytes.extend_from_slice(&buf[..len]),
        }
    }
}

/// The wait status of a child, or `None` if it hangs in the kernel.
fn reap(pid: libc::pid_t, timeout: Duration) -> Option<i32> {
    let end = Instant::now() + timeout;
    let mut status = 0;
    // SAFETY: our child; room for the status.
    while unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Some(status)
}
