// SPDX-License-Identifier: GPL-2.0

//! What the queue's lock protects: the FIFOs, and who is next.
//!
//! Everything here runs under the spinlock. Jobs that have ended are collected in a list, from which
//! one CPU at a time delivers them without the lock.

use super::{
    context::{
        Entity,
        Job, //
    },
    hardware::Loaded,
    queue::Shared,
    turns::{
        End,
        Line, //
    },
    Config,
    Kind,
    Running,
    Slot,
    Verdict,
    CANCELLED,
    MAX_DEPTH,
    MAX_SLOTS,
    PRIORITIES, //
};
use crate::{
    list::{
        List,
        ListArc, //
    },
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    }, //
};

/// One slot.
pub(super) struct SlotState<K: Kind> {
    /// By [`Position`](super::Position). The second is taken only if the first is.
    pub(super) loaded: [Option<Loaded<K>>; MAX_DEPTH],
    /// Entities with a job ready, by priority.
    lines: [Line<K>; PRIORITIES],
    /// The flag of the last start.
    pub(super) flag: bool,
}

/// The state of a queue.
pub(super) struct State<K: Kind> {
    pub(super) slots: [SlotState<K>; MAX_SLOTS],
    /// Entities with a job in their FIFO.
    busy: List<Entity<K>>,
    /// The context of an entity in `busy` was closed for its conduct.
    unswept: bool,
    /// Nothing is started.
    pub(super) parked: bool,
    /// The queue has ended, with this error.
    pub(super) dead: Option<Error>,
    /// For when [`Kind::arm_timer`] was last called, if `expire` was not called since.
    pub(super) armed: Option<u64>,
    /// Jobs that have ended, to signal and to retire, in this order.
    pub(super) done: List<Job<K>>,
    /// Some CPU delivers what is in `done`, and goes on until that is empty.
    pub(super) delivering: bool,
}

impl<K: Kind> State<K> {
    pub(super) fn new() -> Self {
        Self {
            slots: core::array::from_fn(|_| SlotState {
                loaded: [None, None],
                lines: core::array::from_fn(|_| Line::new()),
                flag: false,
            }),
            busy: List::new(),
            unswept: false,
            parked: false,
            dead: None,
            armed: None,
            done: List::new(),
            delivering: false,
        }
    }

    pub(super) fn is_dead(&self) -> bool {
        self.dead.is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.slots.iter().all(|slot| slot.loaded[0].is_none())
    }

    pub(super) fn is_parked(&self) -> bool {
        self.parked
    }

    pub(super) fn park(&mut self) {
        self.parked = true;
    }

    /// The line in which an entity waits for its turn.
    fn line(&mut self, entity: &Entity<K>) -> &mut Line<K> {
        &mut self.slots[entity.home.index()].lines[entity.priority as usize]
    }

    /// Puts an entity into its line, unless it stands there already.
    fn join_line(&mut self, entity: &Arc<Entity<K>>, end: End) {
        // There is a ticket if, and only if, it does not.
        if let Some(ticket) = entity.state.access_mut(self).ticket.take() {
            let turn = self.line(entity).insert(entity, ticket, end);

            entity.state.access_mut(self).turn = Some(turn);
        }
    }

    /// Takes an entity out of its line, if it stands there.
    fn leave_line(&mut self, entity: &Entity<K>) {
        if let Some(turn) = entity.state.access_mut(self).turn.take() {
            let ticket = self.line(entity).remove(&turn);

            entity.state.access_mut(self).ticket = ticket;
        }
    }

    /// Takes the entity off the list of those with a job.
    fn unlink_busy(&mut self, entity: &Entity<K>) {
        // SAFETY: An entity is put on no other list than its queue's; while that is swept, it is on
        // none when this is called.
        drop(unsafe { self.busy.remove(entity) });
    }

    /// Puts the entity on the list of those with a job, unless it is there.
    fn link_busy(&mut self, entity: &Arc<Entity<K>>) {
        if let Ok(link) = ListArc::try_from_arc(entity.clone()) {
            self.busy.push_back(link);
        }
    }

    /// Appends a job to its FIFO.
    pub(super) fn push(&mut self, entity: &Arc<Entity<K>>, mut job: ListArc<Job<K>>) {
        if let Some(error) = self.dead {
            job.inner().settle(Err(error));
        }
        if entity.account.is_closed() {
            job.inner().settle(Err(CANCELLED));
        }
        let this = entity.state.access_mut(self);
        let first = this.fifo.is_empty();
        this.fifo.push_back(job);
        if first {
            self.link_busy(entity);
            self.advance(entity);
        }
    }

    /// Takes the first job of a FIFO.
    pub(super) fn pop(&mut self, entity: &Arc<Entity<K>>) -> Option<ListArc<Job<K>>> {
        let this = entity.state.access_mut(self);
        let job = this.fifo.pop_front();
        if this.fifo.is_empty() {
            self.unlink_busy(entity);
        }
        job
    }

    /// Looks at the first job of a FIFO: ends it if it only waited for those before it, lines the
    /// entity up if the job can run, or waits for the job's next dependency.
    pub(super) fn line_up(&mut self, entity: &Arc<Entity<K>>, end: End) {
        loop {
            let this = entity.state.access_mut(self);
            let Some(mut job) = this.fifo.pop_front() else {
                return self.unlink_busy(entity);
            };
            if job.inner().settled {
                if this.in_hardware == 0 {
                    self.done.push_back(job);
                    continue;
                }
                this.fifo.push_front(job);
                return;
            }

            let ready = job.inner().poll();
            this.fifo.push_front(job);
            if !ready {
                return;
            }
            return self.join_line(entity, end);
        }
    }

    /// As [`line_up`](Self::line_up), where its used time puts it.
    pub(super) fn advance(&mut self, entity: &Arc<Entity<K>>) {
        self.line_up(entity, End::Fair);
    }

    /// Gives all jobs of a FIFO a result.
    fn settle_all(&mut self, entity: &Arc<Entity<K>>, result: Result) {
        self.leave_line(entity);

        let this = entity.state.access_mut(self);
        let mut fifo = core::mem::take(&mut this.fifo);
        while let Some(mut job) = fifo.pop_front() {
            job.inner().settle(result);
            this.fifo.push_back(job);
        }
        self.advance(entity);
    }

    /// Fails what has not started. The account was closed, so nothing is started any more.
    pub(super) fn cancel(&mut self, entity: &Arc<Entity<K>>) {
        self.settle_all(entity, Err(CANCELLED));
    }

    /// A job has left the hardware for good: what does that say about its context?
    pub(super) fn judge(&mut self, config: &Config, job: &Job<K>, overdue: bool, result: Result) {
        if job.entity.account.note(config, overdue, result) {
            job.closing.store(true, Relaxed);
            self.unswept = true;
        }
    }

    /// Fails what waits in contexts that were closed for their conduct.
    pub(super) fn sweep(&mut self) {
        if !core::mem::take(&mut self.unswept) {
            return;
        }
        let mut busy = core::mem::take(&mut self.busy);

        while let Some(link) = busy.pop_front() {
            let entity = link.into_arc();

            if entity.account.is_closed() {
                self.cancel(&entity);
            }
            // What has a result may have to wait for what is in the hardware.
            if !entity.state.access_mut(self).fifo.is_empty() {
                self.link_busy(&entity);
            }
        }
    }

    /// Makes a job that was in the hardware the first of its FIFO. The entity is not lined up yet.
    pub(super) fn hold(&mut self, mut job: ListArc<Job<K>>) -> Arc<Entity<K>> {
        let entity = job.entity.clone();
        if let Some(error) = self.dead {
            job.inner().settle(Err(error));
        } else if entity.account.is_closed() {
            job.inner().settle(Err(CANCELLED));
        }

        self.leave_line(&entity);
        entity.state.access_mut(self).fifo.push_front(job);
        // It is there if there are other jobs behind this one.
        self.link_busy(&entity);
        entity
    }

    /// Makes a job that was in the hardware, or about to be, the next of its priority.
    pub(super) fn put_back(&mut self, job: ListArc<Job<K>>) {
        let entity = self.hold(job);
        self.line_up(&entity, End::Front);
    }

    /// The entity whose turn it is, taken out of its line.
    pub(super) fn next_entity(&mut self, slot: Slot) -> Option<Arc<Entity<K>>> {
        for priority in 0..PRIORITIES {
            while let Some((turn, entity, ticket)) = self.slots[slot.index()].lines[priority].pop()
            {
                let this = entity.state.access_mut(self);

                this.turn = None;
                this.ticket = Some(ticket);
                if self.line(&entity).has_turn(turn, &entity) {
                    return Some(entity);
                }
                // This happens once to each, as the used time does not change meanwhile.
                self.join_line(&entity, End::Fair);
            }
        }
        None
    }

    /// Ends all jobs and the queue.
    pub(super) fn kill(
        &mut self,
        shared: &Shared<K>,
        error: Error,
        mut gone: impl FnMut(&Running<'_, K>),
    ) {
        self.dead.get_or_insert(error);
        for slot in shared.slots() {
            self.unload_slot(&shared.config, slot, 0, |running| {
                gone(running);
                Verdict::Done(Err(error))
            });
        }
        while let Some(entity) = self.busy.pop_front() {
            self.settle_all(&entity.into_arc(), Err(error));
        }
        self.armed = None;
    }
}
