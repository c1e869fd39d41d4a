// SPDX-License-Identifier: GPL-2.0

//! Running tests: each in a process of its own, with a time limit and an eye on the kernel's log;
//! results as TAP.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::panic::Location;
use std::time::Duration;
use std::time::Instant;

use model::job::Arch;

use crate::board::Board;
use crate::board::Rules;
use crate::device::Device;
use crate::device::Node;
use crate::failing::Failing;
use crate::sync::Gate;
use crate::sys;
use crate::sys::Errno;
use crate::uapi;

mod attempt;
mod process;
mod verdict;

use attempt::unread;
use attempt::Attempt;
use attempt::Runner;
use verdict::Verdict;

pub use process::pipe;
pub use process::Process;

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

/// The result of a test.
pub type Outcome = Result<(), Stop>;

/// Returns a value in one line, with its numbers in hexadecimal.
pub fn shown(value: &(impl fmt::Debug + ?Sized)) -> String {
    let lines = format!("{value:#x?}");
    lines.split_whitespace().collect::<Vec<_>>().join(" ")
}

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
            "{} is {}, not {}{}",
            stringify!($left),
            $crate::harness::shown(left),
            $crate::harness::shown(right),
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

/// A requirement of a test, without which it is skipped.
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
    /// A kernel that has devices work on copies of memory: `swiotlb=force`. The data show then
    /// whether caches are maintained.
    Bounce,
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
    /// Its requirements.
    pub needs: &'static [Need],
    /// Where C panfrost is expected not to pass it.
    pub peer: Peer,
    /// The driver may say that its hardware misbehaves.
    pub warns: bool,
    /// Why rules of the board may be broken on C panfrost.
    pub peer_breaks: Option<&'static str>,
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
            peer_breaks: None,
            run,
        }
    }

    /// The same test with needs.
    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// The same test, in which the hardware misbehaves and the driver may say so. There are
    /// marks around it in the kernel's log.
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

    /// The same test, in which C panfrost breaks rules of the board.
    pub const fn panfrost_breaks_rules(mut self, why: &'static str) -> Self {
        self.peer_breaks = Some(why);
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
    /// Whether tests repeat often those things that they do over and over.
    pub long: bool,
}

impl Gpu {
    /// Opens it: a file, and so an address space, of its own.
    pub fn open(&self) -> Result<Device, Stop> {
        Ok(self.node.open()?)
    }

    fn is_c_driver(&self) -> bool {
        self.node.driver == "panfrost"
    }

    /// Why this driver may fail the test, if it may.
    fn excuse(&self, test: &Test) -> Option<&'static str> {
        if !self.is_c_driver() {
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
            Need::Userptr => match self.node.open().and_then(|d| d.param(uapi::PARAM_USERPTR)) {
                Ok(1) => None,
                Ok(_) => Some("not for a GPU that is not coherent".into()),
                Err(_) => Some("no such UAPI".into()),
            },
            Need::Bounce => {
                let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
                let forced = cmdline.split_whitespace().any(|arg| arg == "swiotlb=force");
                (!forced).then(|| "devices work on memory itself".into())
            }
            Need::Card => match crate::dmabuf::foreign(64, 64) {
                Ok(Some(_)) => None,
                Ok(None) => Some("no second card".into()),
                Err(errno) => Some(format!("second card: {errno}")),
            },
        }
    }
}

/// Parts of the lines that the kernel prints when something is wrong with it.
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
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// From the oldest line on that is still there.
    pub fn from_boot() -> Self {
        Self(
            File::options()
                .read(true)
                .open("/dev/kmsg")
                .inspect(|file| {
                    // SAFETY: sets a flag of our own file.
                    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
                })
                .ok(),
        )
    }

    /// From the next line on.
    pub fn from_now() -> Self {
        let mut log = Self::from_boot();
        if let Some(file) = &mut log.0 {
            let _ = file.seek(SeekFrom::End(0));
        }
        log
    }

    /// The lines since the last call.
    pub fn lines(&mut self) -> Vec<String> {
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
}

/// The DMA debugging says so of itself, which is no report.
const POOL_GROWN: &str = "DMA-API: dma_debug_entry pool grown";

/// The lines that tell of a splat.
fn splats(mut lines: Vec<String>) -> Vec<String> {
    let is_splat = |line: &str| SPLATS.iter().any(|splat| line.contains(splat));
    lines.retain(|line| is_splat(line) && !line.contains(POOL_GROWN));
    lines
}

/// How often a test is tried on C panfrost.
const PEER_TRIES: usize = 3;

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

/// Runs tests in turn and prints TAP. `timeout`: of each. `until`: how long after the guest's start
/// the last one may begin.
pub fn run(gpu: &Gpu, tests: &[&Test], timeout: Duration, until: Option<Duration>) -> Summary {
    let c_driver = gpu.is_c_driver();
    let mut summary = Summary::default();
    let rules = match Rules::now() {
        Ok(rules) => rules,
        Err(errno) => {
            println!("Bail out! {}", unread(errno));
            summary.failed = tests.len();
            return summary;
        }
    };
    let mut runner = Runner {
        gpu,
        timeout,
        log: KernelLog::from_now(),
        rules,
    };
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
        let uptime = Duration::from_nanos(sys::now_ns().unsigned_abs());
        if until.is_some_and(|until| uptime > until) {
            println!("ok {n} - {name} # SKIP no time is left for it");
            summary.skipped += 1;
            continue;
        }
        let before = runner.log.lines();
        let start = Instant::now();
        let mark = |text: &str| {
            if test.warns {
                let _ = std::fs::write("/dev/kmsg", format!("<6>guest-tests: {text}"));
            }
        };
        let excuse = gpu.excuse(test);
        mark("warnings are expected");
        let mut attempt = runner.attempt(test, before, excuse, false);
        // A failure that does not come again is the busy host's. One that does is the peer's, or
        // the model's, unless C panfrost was late each time.
        let (mut was_late, mut always_late) = (false, true);
        let mut tries = 1;
        while let (true, Some(message)) = (c_driver, attempt.failure(excuse)) {
            let late = attempt.late;
            was_late |= late;
            always_late &= late;
            let why = if late {
                "it was late"
            } else {
                "for no known reason"
            };
            println!("# C panfrost failed in try {tries}, {why}: {message}");
            for line in attempt
                .lines
                .iter()
                .filter(|line| line.contains("panfrost"))
            {
                println!("# kernel: {line}");
            }
            if tries == PEER_TRIES {
                if always_late {
                    attempt.outcome = Err(Stop::Skip(format!("it was late {tries} times")));
                }
                break;
            }
            tries += 1;
            attempt = runner.attempt(test, Vec::new(), excuse, was_late);
        }
        mark("no more warnings are expected");
        let ms = start.elapsed().as_millis();
        let Attempt {
            mut outcome,
            lines,
            broken,
            ..
        } = attempt;
        let splats = splats(lines);
        for splat in &splats {
            println!("# kernel: {splat}");
        }
        // The peer's splats are the peer's.
        if !c_driver && !splats.is_empty() && outcome.is_ok() {
            outcome = Err(Stop::Fail("the kernel complained".into()));
        }
        match Verdict::new(outcome, &broken, excuse) {
            Verdict::Passed => {
                if let Some(why) = excuse {
                    println!("# C panfrost was expected to fail: {why}");
                }
                println!("ok {n} - {name} # {ms} ms");
                summary.passed += 1;
            }
            Verdict::Skipped(reason) => {
                println!("ok {n} - {name} # SKIP {reason}");
                summary.skipped += 1;
            }
            Verdict::Expected(message, why) => {
                for line in message.lines() {
                    println!("# {line}");
                }
                println!("# {ms} ms");
                println!("not ok {n} - {name} # TODO {why}");
                summary.skipped += 1;
            }
            Verdict::Failed(message) => {
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

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn values_are_shown_in_one_line() {
        assert_eq!(shown(&0x7402), "0x7402");
        assert_eq!(shown(&[Some(16)]), "[ Some( 0x10, ), ]");
    }
}
