// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Priority inheritance between jobs, and deadlines.
//!
//! A job that waits for a job of lower priority in the same queue must not have to wait for
//! everything that goes before the latter. So the first job of a FIFO lends its priority to the
//! jobs whose fences it waits for, and to those before them in their FIFOs, which run first. If
//! these wait themselves, they pass on the priority. Each FIFO records, for each priority, the last
//! job that it was lent to. The loan ends by itself when that job has left.
//!
//! A job thus has the highest of its context's priority and those of the jobs that wait for it, as
//! long as these are the first of their FIFOs and belong to the same queue. Cancelling a waiter
//! does not take back the priority that it has lent.
//!
//! A job whose fence has a deadline that is near is *urgent*, and remains so. Urgency is lent in
//! the same way as priority: each FIFO records its last urgent job. [`turns`](super::turns) says
//! how urgent jobs are treated.
//!
//! A job can wait for thousands of others, so only a limited amount of this work is done at once
//! with the queue's lock held. The rest is left for the next entry into the queue, which the owner
//! is asked for.

use super::{
    context::Entity,
    queue::Shared,
    state::{
        QueueState,
        LIMIT, //
    },
    turns::{
        End,
        Standing, //
    },
    Kind,
    Priority, //
};
use crate::{
    list::ListArc,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    }, //
};

/// A job of the same queue that another job waits for, identified by its FIFO and the sequence
/// number of its fence.
pub(super) struct Blocker<K: Kind> {
    pub(super) entity: Arc<Entity<K>>,
    pub(super) seqno: u64,
}

/// The state of a job's lending.
pub(super) struct Lending<K: Kind> {
    blockers: KVec<Blocker<K>>,
    /// The priority that it lends, if it has begun to.
    priority: Option<Priority>,
    /// Whether it lends urgency as well.
    urgent: bool,
    /// The number of `blockers` that were lent these.
    told: usize,
}

impl<K: Kind> Lending<K> {
    /// Creates the state of a job that lends nothing yet to the jobs that it waits for.
    pub(super) fn new(blockers: KVec<Blocker<K>>) -> Self {
        Self {
            blockers,
            priority: None,
            urgent: false,
            told: 0,
        }
    }
}

impl<K: Kind> QueueState<K> {
    /// Returns the priority of the job with this sequence number in a FIFO.
    pub(super) fn priority_of(&mut self, entity: &Entity<K>, seqno: u64) -> Priority {
        let lent = entity.state.access_mut(self).lent;

        Priority::ALL
            .into_iter()
            .find(|&priority| priority >= entity.priority || lent[priority as usize] >= seqno)
            .unwrap_or(entity.priority)
    }

    /// Notes that the first job of a FIFO waits for others, to which it will lend its priority.
    pub(super) fn lend_later(&mut self, entity: &Arc<Entity<K>>) {
        if let Ok(link) = ListArc::<Entity<K>, 1>::try_from_arc(entity.clone()) {
            self.lending.push_back(link);
        }
    }

    /// Processes pending loans, up to the limit. Returns whether some are left.
    pub(super) fn lend_some(&mut self) -> bool {
        let mut limit = LIMIT;

        while let Some(link) = self.lending.pop_front() {
            let entity = link.into_arc();

            if !self.lend_from(&entity, &mut limit) {
                self.lend_later(&entity);
                return true;
            }
        }
        false
    }

    /// Lets the first job of a FIFO lend its priority. Returns `false` if the limit was reached
    /// before the job was done.
    fn lend_from(&mut self, entity: &Arc<Entity<K>>, limit: &mut usize) -> bool {
        // The job may be taken out: none of its blockers is in the same FIFO.
        let Some(mut job) = entity.state.access_mut(self).fifo.pop_front() else {
            return true;
        };
        let seqno = job.seqno.load(Relaxed);
        let mine = self.priority_of(entity, seqno);
        let urgent = entity.state.access_mut(self).urgent >= seqno;
        let inner = job.inner();
        let lending = &mut inner.lending;

        if lending.priority.is_none_or(|before| mine < before) || urgent && !lending.urgent {
            lending.priority = Some(mine);
            lending.urgent = urgent;
            lending.told = 0;
        }
        let mut complete = true;
        if !inner.settled {
            while let Some(blocker) = lending.blockers.get(lending.told) {
                let Some(rest) = limit.checked_sub(1) else {
                    complete = false;
                    break;
                };
                *limit = rest;
                lending.told += 1;
                self.lend_to(&blocker.entity, blocker.seqno, mine, urgent);
            }
        }
        entity.state.access_mut(self).fifo.push_front(job);
        complete
    }

    /// Lends a priority, and urgency if `urgent`, to a job and to those before it.
    fn lend_to(&mut self, entity: &Arc<Entity<K>>, seqno: u64, priority: Priority, urgent: bool) {
        let this = entity.state.access_mut(self);
        let lent = &mut this.lent[priority as usize];
        let gains_priority = priority < entity.priority && *lent < seqno;
        let gains_urgency = urgent && this.urgent < seqno;

        if gains_priority {
            *lent = seqno;
        }
        if gains_urgency {
            this.urgent = seqno;
        }
        if !gains_priority && !gains_urgency {
            return;
        }
        let Some(mut job) = this.fifo.pop_front() else {
            return;
        };
        let (first, end) = (job.seqno.load(Relaxed), job.inner().end);
        this.fifo.push_front(job);
        if first > seqno {
            return;
        }
        match &this.turn {
            Some((Standing::Ready(_), turn)) => {
                // An entity that has had its turn stays behind the others, unless its priority
                // changes.
                if gains_priority || !turn.urgent && end != End::Back {
                    self.leave_line(entity);
                    self.advance(entity);
                }
            }
            // It will be put in line again anyway.
            Some((Standing::Blocked, _)) => (),
            None => self.lend_later(entity),
        }
    }

    /// Processes the deadlines that were set, up to the limit. Returns whether some may be left.
    pub(super) fn heed_some(&mut self, shared: &Shared<K>) -> bool {
        for _ in 0..LIMIT {
            if self.hints.is_empty() {
                self.hints = shared.deadlines.take();
            }
            let Some(hint) = self.hints.next() else {
                return false;
            };
            // A deadline that is not near yet is checked again when the job becomes the first of
            // its FIFO.
            if hint.fence.is_signaled() || !hint.deadline.is_within(shared.config.near_ns) {
                continue;
            }
            let entity = shared.timelines.lock().get(&hint.fence.context()).cloned();

            if let Some(entity) = entity {
                let priority = entity.priority;

                self.lend_to(&entity, hint.fence.seqno(), priority, true);
            }
        }
        true
    }
}
