// SPDX-License-Identifier: GPL-2.0

//! The kernel's trace events, which tell which thread does what. Root only.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::harness::Stop;
use crate::sys::Errno;

/// Where the events are mounted.
const ROOT: &str = "/tmp/tracing";

/// The name of the event that is a mark.
pub const MARK: &str = "tracing_mark_write";

/// An event that was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The thread that it happened in.
    pub thread: i32,
    /// The event's name.
    pub name: String,
    /// The details, as the kernel prints them.
    pub text: String,
}

/// A record of some events, in a buffer of its own. It ends on drop.
pub struct Trace(PathBuf);

impl Trace {
    /// Records these events, each given as `system/name`, from now on.
    pub fn of(events: &[&str]) -> Result<Self, Stop> {
        let root = Path::new(ROOT);
        fs::create_dir_all(root)?;
        if !root.join("instances").exists() {
            let path = CString::new(ROOT).map_err(|_| Stop::fail("no path"))?;
            // SAFETY: three strings that end, and no data.
            let ret = unsafe {
                libc::mount(
                    c"none".as_ptr(),
                    path.as_ptr(),
                    c"tracefs".as_ptr(),
                    0,
                    std::ptr::null(),
                )
            };
            if ret == -1 {
                return Err(Errno::last().into());
            }
        }
        let this = Self(
            root.join("instances")
                .join(format!("test-{}", std::process::id())),
        );
        fs::create_dir(&this.0)?;
        // For tens of thousands of events.
        fs::write(this.0.join("buffer_size_kb"), "4096")?;
        for event in events {
            fs::write(this.0.join("events").join(event).join("enable"), "1")?;
        }
        Ok(this)
    }

    /// Records a mark, which is an event as well.
    pub fn mark(&self) -> Result<(), Stop> {
        Ok(fs::write(self.0.join("trace_marker"), MARK)?)
    }

    /// The events recorded so far.
    pub fn events(&self) -> Result<Vec<Event>, Stop> {
        let text = fs::read_to_string(self.0.join("trace"))?;
        Ok(text.lines().filter_map(event).collect())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The calling thread, as events name it.
pub fn this_thread() -> i32 {
    // SAFETY: takes nothing.
    unsafe { libc::gettid() }
}

/// A line `task-thread [cpu] flags time: name: text`.
fn event(line: &str) -> Option<Event> {
    let (head, rest) = line.split_once(": ")?;
    let (name, text) = rest.split_once(": ")?;
    let (task, _) = head.split_once(" [")?;
    let (_, thread) = task.trim_end().rsplit_once('-')?;
    Some(Event {
        thread: thread.parse().ok()?,
        name: name.into(),
        text: text.trim().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let line =
            "   kworker/u8:2-e-77      [001] d..1.   12.345678: dma_fence_signaled: driver=x y=1";
        let expected = Event {
            thread: 77,
            name: "dma_fence_signaled".into(),
            text: "driver=x y=1".into(),
        };
        assert_eq!(event(line), Some(expected));
        assert_eq!(
            event("#           TASK-PID     CPU#  |||||  TIMESTAMP"),
            None
        );
    }
}
