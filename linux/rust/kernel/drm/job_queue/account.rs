// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Accounting for a context: how many jobs it has, and how they behave.
//!
//! One mutex, a leaf, is held by tasks that wait for a place and by those that wake them. The
//! conduct of jobs is recorded with the queue's lock held.
//!
//! Process context. Taking a place waits for jobs, as for their fences. Releasing one may sleep, so
//! jobs are not dropped in atomic context.

use super::{
    Config,
    CANCELLED, //
};
use crate::{
    dma_buf::fence::might_wait,
    new_condvar, new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Arc,
        CondVar,
        Mutex, //
    },
};

/// The part that the FIFOs of a context share.
#[pin_data]
pub(super) struct Account {
    /// The number of places.
    limit: u32,
    /// The number of places that are taken.
    taken: Atomic<u32>,
    /// The number of tasks that wait for a place.
    waiters: Atomic<u32>,
    #[pin]
    wait: Mutex<()>,
    #[pin]
    freed: CondVar,
    /// No job is started any more: the context was cancelled, or has hung too often.
    closed: Atomic<bool>,
    /// The number of hung jobs, less those that were forgiven.
    hangs: Atomic<u32>,
    /// The number of jobs that have succeeded since the last change of `hangs`.
    good: Atomic<u32>,
}

impl Account {
    /// Creates an account with `limit` places, all of them free. Sleeps.
    #[inline(never)]
    pub(super) fn new(limit: u32) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                limit,
                taken: Atomic::new(0),
                waiters: Atomic::new(0),
                wait <- new_mutex!((), "JobQueue::places"),
                freed <- new_condvar!("JobQueue::freed"),
                closed: Atomic::new(false),
                hangs: Atomic::new(0),
                good: Atomic::new(0),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns whether no job of the context is started any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Acquire)
    }

    /// Closes the account: no job is started from here on.
    pub(super) fn close(&self) {
        self.closed.store(true, Release);
    }

    /// Records that a job has left the hardware with this result. `hung` says that it ran for too
    /// long and had to be stopped. If that was once too often, closes the account and returns
    /// `true`.
    ///
    /// Called with the queue's lock held.
    pub(super) fn record(&self, config: &Config, hung: bool, result: Result) -> bool {
        if hung && result.is_err() {
            let hangs = self.hangs.load(Relaxed).saturating_add(1);

            self.hangs.store(hangs, Relaxed);
            self.good.store(0, Relaxed);
            if hangs >= config.hang_limit && !self.is_closed() {
                self.close();
                return true;
            }
            return false;
        }

        let hangs = self.hangs.load(Relaxed);
        if hangs > 0 && result.is_ok() {
            let good = self.good.load(Relaxed) + 1;

            if good >= config.forgive_after {
                self.hangs.store(hangs - 1, Relaxed);
                self.good.store(0, Relaxed);
            } else {
                self.good.store(good, Relaxed);
            }
        }
        false
    }

    /// Takes a place if there is one.
    fn try_take(&self) -> bool {
        let mut taken = self.taken.load(Relaxed);

        while taken < self.limit {
            match self.taken.cmpxchg(taken, taken + 1, Relaxed) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }

    /// Waits for a place.
    fn take(&self) -> Result {
        if self.try_take() {
            return Ok(());
        }

        let mut guard = self.wait.lock();
        // Ordered before the next read of `taken`: either that read sees a place that is released,
        // or `put()` sees this waiter.
        self.waiters.fetch_add(1, Full);
        let result = loop {
            if self.try_take() {
                break Ok(());
            }
            if self.freed.wait_interruptible(&mut guard) {
                // This task may have been woken for a place as well. Pass that on to another
                // waiter.
                self.freed.notify_one();
                break Err(ERESTARTSYS);
            }
        };
        self.waiters.fetch_sub(1, Relaxed);
        result
    }

    /// Releases a place. May sleep.
    fn put(&self) {
        self.taken.fetch_sub(1, Full);
        if self.waiters.load(Relaxed) > 0 {
            let _guard = self.wait.lock();
            self.freed.notify_one();
        }
    }
}

/// A place in a context, which each of its jobs needs.
///
/// It is released when this, or the job that was prepared with it, is dropped. That may sleep.
pub struct Place(Arc<Account>);

impl Place {
    /// Implements [`Context::admit`](super::Context::admit). Not inline, since that is generic, and
    /// [`might_wait`] uses a symbol that is not exported to modules.
    #[inline(never)]
    pub(super) fn new(account: &Arc<Account>) -> Result<Self> {
        // A place is released after a job has ended, so this is equivalent to waiting for a fence.
        might_wait();
        if account.is_closed() {
            return Err(CANCELLED);
        }
        account.take()?;

        let place = Self(account.clone());
        // The account may have been closed during the wait.
        if account.is_closed() {
            return Err(CANCELLED);
        }
        Ok(place)
    }

    /// Takes a place without waiting, and even if the account is closed.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn try_new(account: &Arc<Account>) -> Option<Self> {
        account.try_take().then(|| Self(account.clone()))
    }

    /// Returns whether this is a place in that context.
    pub(super) fn is_of(&self, account: &Arc<Account>) -> bool {
        Arc::ptr_eq(&self.0, account)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.put();
    }
}
