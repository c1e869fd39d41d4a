// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Jobs that have ended, as the queue's owner takes them to drop them. Process context.

use super::{
    context::Job,
    Kind, //
};
use crate::{
    list::List,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
};

/// Jobs that have ended. Dropping it drops them, which may sleep.
pub struct Retired<K: Kind>(pub(super) List<Job<K>>);

impl<K: Kind> Retired<K> {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls `f` for each job whose hang caused its context to be closed, and for which no earlier
    /// call did so.
    pub fn for_each_closing(&self, mut f: impl FnMut(&K::Job)) {
        for job in &self.0 {
            if job.closing.load(Relaxed) {
                job.closing.store(false, Relaxed);
                f(&job.payload);
            }
        }
    }

    /// Calls `f` for each job.
    pub fn for_each_mut(&mut self, mut f: impl FnMut(&mut K::Job)) {
        let mut rest = List::new();

        while let Some(job) = self.0.pop_front() {
            // The queue has no other reference to an ended job.
            if let Some(mut job) = Arc::into_unique_or_drop(job.into_arc()) {
                f(job.as_mut().project().payload);
                rest.push_back(job.into());
            }
        }
        self.0 = rest;
    }

    /// Drops the jobs for which `f` returns `true`, the oldest first, up to the first one for which
    /// it returns `false`. May sleep.
    ///
    /// `f` may drop parts of a job that it keeps. The rest can be
    /// [put back](super::JobQueue::put_back_retired).
    pub fn drop_while(&mut self, mut f: impl FnMut(&mut K::Job) -> bool) {
        while let Some(job) = self.0.pop_front() {
            // The queue has no other reference to an ended job.
            let Some(mut job) = Arc::into_unique_or_drop(job.into_arc()) else {
                continue;
            };

            if !f(job.as_mut().project().payload) {
                self.0.push_front(job.into());
                break;
            }
        }
    }
}
