// SPDX-License-Identifier: GPL-2.0

//! Jobs and their owners as the kernel log names them.
//!
//! A [`Subject`] is a copy of a job's identity. It owns nothing of the job, but a reference to the
//! limit for the log of its file. Locks: none. A subject may be copied in any context and is
//! printed in process context, with no spinlock held.

use kernel::{
    drm::job_queue::QueueSlot,
    fmt::{
        self,
        Display,
        Formatter, //
    },
    prelude::*,
    sync::Arc,
    task::Pid, //
};

use super::Job;
use crate::{
    device::{
        Gpu,
        Ratelimit, //
    },
    hw::Runner, //
};

/// A process, by its id and its name.
#[derive(Clone, Copy)]
pub(super) struct Process {
    pid: Pid,
    name: [u8; 16],
}

impl Process {
    /// Returns the process of the current task.
    pub(super) fn current() -> Self {
        let task = kernel::current!();

        Self {
            pid: task.tgid(),
            name: task.comm(),
        }
    }
}

impl Display for Process {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.pid)?;
        for &byte in self.name.iter().take_while(|&&byte| byte != 0) {
            // The process chooses its name, and must not be able to forge log lines with it.
            let shown = match byte {
                b' '..=b'~' => char::from(byte),
                _ => '?',
            };
            write!(f, "{shown}")?;
        }
        write!(f, ")")
    }
}

/// The identity of a job, for a log line that is written after the locks are released, when the job
/// may be gone.
#[derive(Clone)]
pub(super) struct Subject {
    slot: QueueSlot,
    chain: u64,
    context: u32,
    process: Process,
    space: u64,
    log: Arc<Ratelimit>,
}

impl Subject {
    /// Copies the identity of a job in a slot.
    pub(super) fn new(slot: QueueSlot, job: &Job) -> Self {
        Self {
            slot,
            chain: job.chain,
            context: job.context,
            process: job.process,
            space: job.vm.id(),
            log: job.vm.log().clone(),
        }
    }

    /// Returns whether one more line about the job's file may be logged, and counts it. Process
    /// context.
    pub(super) fn may_be_logged(&self) -> bool {
        self.log.allows()
    }

    /// Like [`Self::may_be_logged`], for a line about a hang, which the faults of other files
    /// cannot suppress.
    pub(super) fn hang_may_be_logged(&self) -> bool {
        self.log.allows_alone()
    }
}

impl Display for Subject {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!(
            "slot {}, chain {:#x}, context {} of process {}, address space {}",
            Gpu::slot_name(self.slot),
            self.chain,
            self.context,
            self.process,
            self.space
        ))
    }
}

#[kunit_tests(drm_gpu_job_subject)]
mod tests {
    use super::*;
    use kernel::str::CString;

    #[test]
    fn names_are_harmless() -> Result {
        let shown = |name: &[u8; 16]| {
            let process = Process {
                pid: 7,
                name: *name,
            };

            CString::try_from_fmt(fmt!("{process}"))
        };

        assert!(shown(b"glxgears\0\0\0\0\0\0\0\0")?.to_bytes() == b"7 (glxgears)");
        assert!(shown(b"a b\n<3>\xffevil\0\0\0\0")?.to_bytes() == b"7 (a b?<3>?evil)");
        assert!(shown(&[b'x'; 16])?.to_bytes() == b"7 (xxxxxxxxxxxxxxxx)");
        Ok(())
    }
}
