// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The state that the queue's lock protects: the FIFOs and the lines for the slots.
//!
//! Everything here runs under the spinlock. Jobs that have ended are collected in lists, from which
//! they are delivered without the lock.

use super::{
    context::{
        Entity,
        Job, //
    },
    loaded::{
        Chosen,
        Loaded, //
    },
    queue::{
        Notices,
        Shared, //
    },
    turns::{
        End,
        Line,
        Standing, //
    },
    Config,
    Kind,
    Priority,
    QueueSlot,
    Running,
    Verdict,
    CANCELLED,
    MAX_DEPTH,
    MAX_SLOTS,
    PRIORITIES, //
};
use crate::{
    dma_buf::fence::Hints,
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
use core::mem;

/// The number of dependencies, of deadlines, and of FIFOs of closed contexts, that are processed at
/// once with the lock held.
pub(super) const LIMIT: usize = 256;

/// One slot.
pub(super) struct SlotState<K: Kind> {
    /// By [`Position`](super::Position). The second is taken only if the first is.
    pub(super) loaded: [Option<Loaded<K>>; MAX_DEPTH],
    /// Entities with a job ready, by priority.
    lines: [Line<K>; PRIORITIES],
    /// Entities whose job waits for another one to leave the hardware.
    blocked: Line<K>,
}

/// The state of a queue.
pub(super) struct QueueState<K: Kind> {
    pub(super) slots: [SlotState<K>; MAX_SLOTS],
    /// Entities with a job in their FIFO.
    busy: List<Entity<K>>,
    /// Entities whose first job waits and has a priority to lend.
    pub(super) lending: List<Entity<K>, 1>,
    /// Entities of which a dependency was met, and which were not advanced yet.
    pub(super) notices: Option<Notices<K>>,
    /// Fences with a deadline that was not processed yet.
    pub(super) hints: Hints,
    /// The number of times that a context was closed for its conduct.
    sweeps: u64,
    /// Whether some entities in `busy` have not seen the last of these.
    unswept: bool,
    /// Whether nothing may be started.
    pub(super) parked: bool,
    /// If set, all jobs fail with this error.
    pub(super) dead: Option<Error>,
    /// The deadline of the last call of [`Kind::arm_timer`], unless `expire` was called since.
    pub(super) armed: Option<u64>,
    /// Jobs that have ended, to be signalled and retired in this order.
    pub(super) done: List<Job<K>>,
    /// Jobs that have ended because their context was closed. They are delivered after those in
    /// `done`, which keeps the order within each FIFO: earlier jobs of the same FIFO may be in
    /// `done`, later ones cannot get there, as no job of a closed context is started.
    pub(super) cancelled: List<Job<K>>,
}

impl<K: Kind> QueueState<K> {
    /// Creates the state of a queue without contexts and jobs.
    pub(super) fn new() -> Self {
        Self {
            slots: core::array::from_fn(|_| SlotState {
                loaded: [None, None],
                lines: core::array::from_fn(|_| Line::new()),
                blocked: Line::new(),
            }),
            busy: List::new(),
            lending: List::new(),
            notices: None,
            hints: Hints::new(),
            sweeps: 0,
            unswept: false,
            parked: false,
            dead: None,
            armed: None,
            done: List::new(),
            cancelled: List::new(),
        }
    }

    /// Returns whether the queue was killed, so that all jobs fail until it is revived.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.is_some()
    }

    /// Returns whether no job is waiting, and none is in the hardware.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn is_idle(&self) -> bool {
        self.busy.is_empty() && !self.has_loaded()
    }

    /// Returns whether any job is in the hardware.
    pub(super) fn has_loaded(&self) -> bool {
        self.slots.iter().any(|slot| slot.loaded[0].is_some())
    }

    /// Returns whether nothing is started for now.
    pub(super) fn is_parked(&self) -> bool {
        self.parked
    }

    /// Prevents jobs from being started until the queue is restarted or revived.
    pub(super) fn park(&mut self) {
        self.parked = true;
    }

    /// Returns a line of a slot.
    pub(super) fn line(&mut self, slot: QueueSlot, standing: Standing) -> &mut Line<K> {
        let slot = &mut self.slots[slot.index()];

        match standing {
            Standing::Ready(priority) => &mut slot.lines[priority as usize],
            Standing::Blocked => &mut slot.blocked,
        }
    }

    /// Puts an entity into a line, unless it stands in one already.
    fn join_line(&mut self, entity: &Arc<Entity<K>>, standing: Standing, end: End, urgent: bool) {
        // The ticket is there if and only if the entity does not stand in a line.
        if let Some(ticket) = entity.state.access_mut(self).ticket.take() {
            let priority = match standing {
                Standing::Ready(priority) => priority,
                Standing::Blocked => entity.priority,
            };
            let turn = self
                .line(entity.home, standing)
                .insert(entity, priority, ticket, end, urgent);

            entity.state.access_mut(self).turn = Some((standing, turn));
        }
    }

    /// Takes an entity out of its line, if it stands in one.
    pub(super) fn leave_line(&mut self, entity: &Entity<K>) {
        if let Some((standing, turn)) = entity.state.access_mut(self).turn.take() {
            let ticket = self.line(entity.home, standing).remove(&turn);

            entity.state.access_mut(self).ticket = ticket;
        }
    }

    /// Puts a job that could not be started back to its FIFO, and lets its entity wait until
    /// another job has left the hardware. A job that had not finished its turn still goes first
    /// then.
    pub(super) fn block(&mut self, mut job: ListArc<Job<K>>) {
        let end = job.inner().end;
        let entity = self.hold(job, end);

        self.join_line(&entity, Standing::Blocked, End::Back, false);
    }

    /// Puts the entities that waited for a job to leave the hardware back in line.
    pub(super) fn unblock(&mut self) {
        for slot in 0..MAX_SLOTS {
            while let Some(first) = self.slots[slot].blocked.pop(None) {
                let this = first.entity.state.access_mut(self);

                this.turn = None;
                this.ticket = Some(first.ticket);
                self.advance(&first.entity);
            }
        }
    }

    /// Takes the entity off the list of those with a job.
    fn unlink_busy(&mut self, entity: &Entity<K>) {
        // SAFETY: An entity is only ever put on its own queue's list. While that list is swept or
        // killed, the entity was taken off it before this is called.
        drop(unsafe { self.busy.remove(entity) });
    }

    /// Puts the entity on the list of those with a job, unless it already is.
    fn link_busy(&mut self, entity: &Arc<Entity<K>>) {
        if let Ok(link) = ListArc::try_from_arc(entity.clone()) {
            self.busy.push_back(link);
        }
    }

    /// Returns the entities with a job in their FIFO.
    pub(super) fn busy(&self) -> &List<Entity<K>> {
        &self.busy
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

    /// Advances the entities of which a dependency was met, until the limit is reached. Returns
    /// whether some may be left.
    ///
    /// Any number of entities can wait for the same fence, and there can be thousands of other
    /// dependencies to look at for each.
    pub(super) fn advance_some(&mut self, shared: &Shared<K>) -> bool {
        let mut limit = LIMIT;

        if self.notices.is_none() && shared.mailbox.is_empty() {
            return false;
        }
        while limit > 0 {
            let notices = self.notices.get_or_insert_with(|| shared.mailbox.drain());
            let Some(notice) = notices.next() else {
                self.notices = None;
                return false;
            };
            limit = limit.saturating_sub(self.advance(&notice).max(1));
        }
        true
    }

    /// Examines the first job of a FIFO: ends it if it only waited for those before it, puts the
    /// entity in line if the job can run, or waits for the job's next dependency. Returns the
    /// number of dependencies that were found to be met.
    pub(super) fn advance(&mut self, entity: &Arc<Entity<K>>) -> usize {
        loop {
            let this = entity.state.access_mut(self);
            let Some(mut job) = this.fifo.pop_front() else {
                self.unlink_busy(entity);
                return 0;
            };
            if entity.account.is_closed() {
                job.inner().settle(Err(CANCELLED));
            }
            if job.inner().settled {
                if this.in_hardware == 0 {
                    let ended = match entity.account.is_closed() {
                        true => &mut self.cancelled,
                        false => &mut self.done,
                    };
                    ended.push_back(job);
                    continue;
                }
                this.fifo.push_front(job);
                return 0;
            }

            let before = job.inner().met;
            let (ready, end) = (job.inner().poll(), job.inner().end);
            let met = job.inner().met - before;
            let seqno = job.seqno.load(Relaxed);
            if job.inner().is_due(&entity.shared.config) {
                this.urgent = this.urgent.max(seqno);
            }
            let urgent = this.urgent >= seqno;
            this.fifo.push_front(job);
            if ready {
                let priority = self.priority_of(entity, seqno);
                self.join_line(entity, Standing::Ready(priority), end, urgent);
            } else {
                self.lend_later(entity);
            }
            return met;
        }
    }

    /// Returns whether there are ended jobs to be delivered.
    pub(super) fn has_ended(&self) -> bool {
        !self.done.is_empty() || !self.cancelled.is_empty()
    }

    /// Takes the next job that has ended. `cancelled` is the remaining number of jobs of closed
    /// contexts that may be taken.
    pub(super) fn take_ended(&mut self, cancelled: &mut usize) -> Option<ListArc<Job<K>>> {
        if let Some(job) = self.done.pop_front() {
            return Some(job);
        }
        *cancelled = cancelled.checked_sub(1)?;
        self.cancelled.pop_front()
    }

    /// Sets the result of all jobs of a FIFO.
    fn settle_all(&mut self, entity: &Arc<Entity<K>>, result: Result) {
        self.leave_line(entity);

        let this = entity.state.access_mut(self);
        let mut fifo = mem::take(&mut this.fifo);
        while let Some(mut job) = fifo.pop_front() {
            job.inner().settle(result);
            this.fifo.push_back(job);
        }
        self.advance(entity);
    }

    /// Fails all jobs that have not started. The account must be closed, so that no more are
    /// started.
    pub(super) fn cancel(&mut self, entity: &Arc<Entity<K>>) {
        self.settle_all(entity, Err(CANCELLED));
    }

    /// Records the conduct of a job that has left the hardware for good.
    pub(super) fn judge(&mut self, config: &Config, job: &Job<K>, overdue: bool, result: Result) {
        // Contexts of high priority are exempt: that priority takes a privilege, and others depend
        // on their work.
        let hung = overdue && job.entity.priority != Priority::High;

        if job.entity.account.record(config, hung, result) {
            job.closing.store(true, Relaxed);
            self.sweeps += 1;
            self.unswept = true;
        }
    }

    /// Fails the waiting jobs of contexts that were closed for their conduct, up to the limit.
    /// Returns whether some may be left.
    ///
    /// Until then they wait on, but [`fill`](Self::fill) starts none of them. Entities are moved
    /// from the front of the list to its end, so all have been seen when one comes round again.
    pub(super) fn sweep_some(&mut self) -> bool {
        let mut limit = LIMIT;

        while self.unswept && limit > 0 {
            let Some(link) = self.busy.pop_front() else {
                self.unswept = false;
                break;
            };
            let entity = link.into_arc();
            let sweeps = self.sweeps;
            let seen = mem::replace(&mut entity.state.access_mut(self).sweeps, sweeps);

            if seen == sweeps {
                self.unswept = false;
            } else if entity.account.is_closed() {
                self.cancel(&entity);
            }
            // Settled jobs may have to wait for those in the hardware.
            if !entity.state.access_mut(self).fifo.is_empty() {
                self.link_busy(&entity);
            }
            limit -= 1;
        }
        self.unswept
    }

    /// Makes a job that was in the hardware, or about to be, the first of its FIFO, and records
    /// where in line that belongs. The entity is not put in line yet.
    pub(super) fn hold(&mut self, mut job: ListArc<Job<K>>, end: End) -> Arc<Entity<K>> {
        let entity = job.entity.clone();
        job.inner().end = end;
        if let Some(error) = self.dead {
            job.inner().settle(Err(error));
        } else if entity.account.is_closed() {
            job.inner().settle(Err(CANCELLED));
        }

        self.leave_line(&entity);
        entity.state.access_mut(self).fifo.push_front(job);
        // It already is on the list if there are jobs behind this one.
        self.link_busy(&entity);
        entity
    }

    /// Makes a job that was in the hardware, or about to be, the first of its FIFO, and puts the
    /// entity in line.
    pub(super) fn put_back(&mut self, job: ListArc<Job<K>>, end: End) {
        let entity = self.hold(job, end);
        self.advance(&entity);
    }

    /// Takes the entity whose turn it is out of its line.
    pub(super) fn next_entity(&mut self, config: &Config, slot: QueueSlot) -> Option<Chosen<K>> {
        let impatient = Priority::ALL.into_iter().find(|&priority| {
            self.line(slot, Standing::Ready(priority))
                .is_impatient(config.patience_ns)
        });

        // Fully qualified, as `PinInit` has a method `chain` as well.
        for priority in Iterator::chain(impatient.into_iter(), Priority::ALL) {
            let standing = Standing::Ready(priority);
            // Nearly all lines are empty nearly always.
            if self.line(slot, standing).is_empty() {
                continue;
            }
            // Only one job at a time goes out of turn.
            let lead = (!self.has_jumped(slot, priority)).then_some(config.lead_ns);

            while let Some(first) = self.line(slot, standing).pop(lead) {
                let (turn, jumped, entity) = (first.turn, first.jumped, first.entity);
                let this = entity.state.access_mut(self);

                this.turn = None;
                this.ticket = Some(first.ticket);
                if self
                    .line(slot, standing)
                    .has_turn(turn, jumped, &entity, priority)
                {
                    return Some(Chosen {
                        entity,
                        priority,
                        favoured: impatient == Some(priority),
                        jumped,
                    });
                }
                // This terminates: it happens at most once to each entity, as the used time does
                // not change here.
                self.join_line(&entity, standing, End::Fair, turn.urgent);
            }
        }
        None
    }

    /// Lets the queue work again after [`kill`](Self::kill).
    pub(super) fn revive(&mut self) {
        self.dead = None;
        self.parked = false;
    }

    /// Fails all jobs, now and until [`revive`](Self::revive).
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
        self.lending = List::new();
        self.hints = Hints::new();
        self.armed = None;
    }
}
