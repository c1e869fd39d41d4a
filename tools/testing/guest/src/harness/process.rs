// SPDX-License-Identifier: GPL-2.0

//! Processes that run tests, and parts of tests.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::panic;
use std::time::Duration;
use std::time::Instant;

use super::Outcome;
use super::Stop;
use crate::sys;
use crate::sys::Errno;

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
