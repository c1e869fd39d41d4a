// SPDX-License-Identifier: GPL-2.0

//! Who brings memory back when there is not enough for everybody.
//!
//! A submission locks the reservation of its address space and brings back all that reclaim has taken
//! from there. When many do that at a time, each may end up with a part of what it needs: none of it can
//! be taken, as it is locked, and none of them gets on. So the one that finds no memory lets go of its
//! locks, waits for its turn and begins anew. From then on address spaces come back one at a time, until
//! nobody waits any more. Meanwhile the others' memory can be taken, once their jobs have ended.
//!
//! Lock: that of [`Shortage`], for moments. A turn is waited for with no lock and no guard held, so who has
//! it never waits for one who waits for it. Process context.

use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        CondVar,
        Mutex, //
    },
    time::{
        Instant,
        Monotonic, //
    }, //
};

/// For how long a submission tries to find memory in its turn, in milliseconds.
const PATIENCE_MS: i64 = 10_000;

/// The turns of a device.
#[pin_data]
pub(crate) struct Shortage {
    /// Tasks that have a turn or wait for one.
    users: Atomic<usize>,
    /// Somebody has the turn.
    #[pin]
    taken: Mutex<bool>,
    #[pin]
    free: CondVar,
}

impl Shortage {
    /// Nobody is short of memory.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            users: Atomic::new(0),
            taken <- new_mutex!(false, "drm_gpu::shortage"),
            free <- new_condvar!("drm_gpu::shortage::free"),
        })
    }

    /// Whether somebody is short of memory. The answer may be outdated.
    pub(crate) fn is_there(&self) -> bool {
        self.users.load(Relaxed) != 0
    }

    /// Waits for a turn. Sleeps. `EINTR` after a signal.
    pub(crate) fn turn(&self) -> Result<Turn<'_>> {
        self.users.add(1, Relaxed);

        let mut taken = self.taken.lock();
        while *taken {
            if self.free.wait_interruptible(&mut taken) {
                drop(taken);
                let _ = self.users.fetch_sub(1, Relaxed);
                // It may have been woken as well, in place of another one.
                self.free.notify_one();
                return Err(ERESTARTSYS);
            }
        }
        *taken = true;

        Ok(Turn {
            shortage: self,
            since: Instant::now(),
        })
    }
}

/// The right to bring memory back. Others wait until it is dropped.
pub(crate) struct Turn<'a> {
    shortage: &'a Shortage,
    since: Instant<Monotonic>,
}

impl Turn<'_> {
    /// It has taken too long: there is no memory.
    pub(crate) fn is_over(&self) -> bool {
        self.since.elapsed().as_millis() >= PATIENCE_MS
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.shortage.taken.lock() = false;
        let _ = self.shortage.users.fetch_sub(1, Relaxed);
        self.shortage.free.notify_one();
    }
}
