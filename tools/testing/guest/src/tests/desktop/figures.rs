// SPDX-License-Identifier: GPL-2.0

//! The figures that the processes of a desktop count together.

use std::mem;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::sys::Errno;
use crate::sys::Result;

/// Counts in memory that a process shares with those that it starts. All zero to begin with.
#[derive(Default)]
#[repr(C)]
pub(super) struct Figures {
    /// Frames of innocent clients that were shown as they were drawn.
    pub(super) shown: AtomicU64,
    /// Frames of innocent clients that were not, because a job of theirs or the compositor's has
    /// failed, or something else was in the buffer.
    pub(super) lost: AtomicU64,
    /// Calls of innocent clients that failed, and pictures that were not whole.
    pub(super) failed: AtomicU64,
    /// Frames of the compositor.
    pub(super) composed: AtomicU64,
    /// The longest time from the commit of an innocent client's frame until it was shown, in
    /// nanoseconds.
    pub(super) oldest_ns: AtomicU64,
    /// The longest time that an innocent client's or the compositor's submit took.
    pub(super) slowest_submit_ns: AtomicU64,
    /// Jobs that did not end by themselves.
    pub(super) hung: AtomicU64,
    /// Jobs that have faulted.
    pub(super) faulted: AtomicU64,
    /// Clients that were killed or have exited with jobs under way.
    pub(super) left: AtomicU64,
    /// Textures that came out of a cache as they were.
    pub(super) cached: AtomicU64,
    /// Textures that were lost there.
    pub(super) purged: AtomicU64,
    /// The most bytes that were in swap.
    pub(super) swapped: AtomicU64,
    /// The innocent clients have drawn all that they had to.
    pub(super) over: AtomicBool,
}

impl Figures {
    /// Makes some, for as long as this process and its children live.
    pub(super) fn new() -> Result<&'static Self> {
        // SAFETY: a new mapping at an address of the kernel's choice replaces none.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                mem::size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        // SAFETY: zeros are valid atomics; the mapping is large enough and stays.
        Ok(unsafe { &*start.cast() })
    }

    /// One more of something.
    pub(super) fn count(count: &AtomicU64) {
        count.fetch_add(1, SeqCst);
    }

    /// Runs `call` and counts it as a submit.
    pub(super) fn submit<T>(&self, call: impl FnOnce() -> T) -> T {
        let start = std::time::Instant::now();
        let result = call();
        let ns = start.elapsed().as_nanos() as u64;
        self.slowest_submit_ns.fetch_max(ns, SeqCst);
        result
    }

    /// Returns whether the run is over.
    pub(super) fn over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Frames of innocent clients that were not shown as they were drawn.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(SeqCst)
    }

    /// The age of the oldest frame when it was shown.
    pub(super) fn oldest(&self) -> Duration {
        Duration::from_nanos(self.oldest_ns.load(SeqCst))
    }

    /// How long the slowest submit took.
    pub(super) fn slowest_submit(&self) -> Duration {
        Duration::from_nanos(self.slowest_submit_ns.load(SeqCst))
    }

    /// Prints it all.
    pub(super) fn print(&self) {
        let of = |count: &AtomicU64| count.load(SeqCst);
        println!(
            "# {} frames of innocent clients shown and {} lost, in {} of the compositor; \
             {} of their calls or textures failed",
            of(&self.shown),
            of(&self.lost),
            of(&self.composed),
            of(&self.failed)
        );
        println!(
            "# the oldest frame was shown after {:?}, the slowest submit took {:?}",
            self.oldest(),
            self.slowest_submit()
        );
        println!(
            "# {} jobs hung, {} faulted, {} clients left in the middle; of textures in caches {} \
             were there and {} were not",
            of(&self.hung),
            of(&self.faulted),
            of(&self.left),
            of(&self.cached),
            of(&self.purged)
        );
    }
}
