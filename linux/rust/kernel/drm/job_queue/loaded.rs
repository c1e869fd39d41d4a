// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The jobs in the slots: how they are started and stopped, and how they leave.
//!
//! Everything here runs under the queue's spinlock.

use super::{
    context::{
        Entity,
        Job, //
    },
    queue::{
        Expired,
        Shared, //
    },
    state::QueueState,
    turns::{
        End,
        Standing, //
    },
    Config,
    Kind,
    Position,
    Priority,
    QueueSlot,
    Running,
    SlotOps,
    StartError,
    Stop,
    Verdict,
    MAX_DEPTH,
    MAX_EXTENSIONS, //
};
use crate::{
    list::ListArc,
    prelude::*,
    sync::Arc, //
};

/// The entity whose turn it is.
pub(super) struct Chosen<K: Kind> {
    pub(super) entity: Arc<Entity<K>>,
    /// The priority of its job.
    pub(super) priority: Priority,
    /// Whether it goes first because it was passed over for too long.
    pub(super) favoured: bool,
    /// Whether it goes out of turn because its job is urgent.
    pub(super) jumped: bool,
}

/// A job in the hardware.
pub(super) struct Loaded<K: Kind> {
    job: ListArc<Job<K>>,
    flag: bool,
    strikes: u8,
    /// Nanoseconds that it ran before.
    ran_ns: u64,
    /// The priority that it had when its turn came.
    priority: Priority,
    /// Whether it went first because it had been passed over for too long.
    favoured: bool,
    /// Whether it went out of turn because it was urgent.
    jumped: bool,
    /// Whether it was found to run for too long, so that it counts as hung if it fails.
    overdue: bool,
    /// When it began to run, as far as known; meaningful for the current job only.
    started: u64,
    /// Whether it was told to stop.
    stopping: bool,
    /// The number of times that it may still be given more time; zero once it was told to stop.
    extensions: u8,
    /// When its time is up, if ever; meaningful for the current job only.
    deadline: Option<u64>,
}

impl<K: Kind> Loaded<K> {
    fn view(&self, slot: QueueSlot, position: Position) -> Running<'_, K> {
        Running {
            slot,
            position,
            flag: self.flag,
            strikes: self.strikes,
            ran_ns: self.ran_ns,
            started: self.started,
            timeline: self.job.entity.timeline.id(),
            job: &self.job.payload,
        }
    }

    /// Returns how long it may run from now on, or [`None`] if its slot has no limit. The time that
    /// it ran earlier in this turn is deducted, but it gets at least the time that a stop may take.
    fn time_left(&mut self, config: &Config) -> Option<u64> {
        let timeout_ns = config.timeouts_ns[self.job.entity.home.index()]?;
        let left_ns = timeout_ns.saturating_sub(self.job.inner().turn_ns);

        Some(left_ns.max(config.grace_ns))
    }

    fn belongs_to(&self, entity: &Arc<Entity<K>>) -> bool {
        Arc::ptr_eq(&self.job.entity, entity)
    }
}

impl<K: Kind> QueueState<K> {
    fn loaded(&self, slot: QueueSlot, position: Position) -> Option<&Loaded<K>> {
        self.slots[slot.index()].loaded[position as usize].as_ref()
    }

    /// Returns whether a job of this priority is in the hardware out of turn.
    pub(super) fn has_jumped(&self, slot: QueueSlot, priority: Priority) -> bool {
        self.slots[slot.index()]
            .loaded
            .iter()
            .flatten()
            .any(|loaded| loaded.jumped && loaded.priority == priority)
    }

    /// Returns the job in a slot at this position, as the owner sees it.
    pub(super) fn view(&self, slot: QueueSlot, position: Position) -> Option<Running<'_, K>> {
        Some(self.loaded(slot, position)?.view(slot, position))
    }

    /// Accounts for a job that has left the hardware after it ran for `ran_ns`.
    fn unload(&mut self, config: &Config, loaded: &Loaded<K>, ran_ns: u64) {
        let entity = &loaded.job.entity;
        let this = entity.state.access_mut(self);
        this.in_hardware = this.in_hardware.saturating_sub(1);

        let (slot, priority) = (entity.home, loaded.priority);
        let line = self.line(slot, Standing::Ready(priority));
        line.charge(&entity.share, slot, priority, ran_ns, config.lead_ns);
        line.note_favour(loaded.favoured, ran_ns);
        line.note_jump(loaded.jumped, ran_ns);

        for lower in Priority::ALL {
            if lower > priority {
                self.line(slot, Standing::Ready(lower)).pass(ran_ns);
            }
        }
    }

    /// Moves the job at [`Position::Next`] up if the current position is free.
    fn shift<O: SlotOps<K> + ?Sized>(&mut self, shared: &Shared<K>, ops: &O, slot: QueueSlot) {
        let loaded = &mut self.slots[slot.index()].loaded;
        if loaded[0].is_none() {
            if let Some(mut next) = loaded[1].take() {
                next.started = ops.now();
                // A job that is already being stopped gets only the time that a stop may take.
                let time = match next.stopping {
                    false => next.time_left(&shared.config),
                    true => Some(shared.config.grace_ns),
                };
                next.deadline = time.map(|ns| next.started.saturating_add(ns));
                loaded[0] = Some(next);
            }
        }
    }

    /// Ends the current job. Returns `false` if there is none.
    fn finish<O: SlotOps<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        ops: &O,
        slot: QueueSlot,
        result: Result,
    ) -> bool {
        let Some(loaded) = self.slots[slot.index()].loaded[0].take() else {
            return false;
        };
        ops.finish(&loaded.view(slot, Position::Current));

        let ran = ops.now().saturating_sub(loaded.started);
        self.unload(&shared.config, &loaded, ran);

        let mut job = loaded.job;
        let entity = job.entity.clone();
        self.judge(&shared.config, &job, loaded.overdue, result);
        job.inner().settle(result);
        self.done.push_back(job);
        self.shift(shared, ops, slot);
        self.advance(&entity);
        self.unblock();
        true
    }

    /// Puts a job that was stopped and can run again back to its FIFO. Returns `false` if there is
    /// none, or if the next one would overtake it.
    fn requeue<O: SlotOps<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        ops: &O,
        slot: QueueSlot,
        position: Position,
        end: End,
    ) -> bool {
        let loaded = &mut self.slots[slot.index()].loaded;
        if position == Position::Current {
            // The next one would overtake it.
            if let [Some(current), Some(next)] = loaded {
                if next.belongs_to(&current.job.entity) {
                    return false;
                }
            }
        }
        let Some(mut loaded) = loaded[position as usize].take() else {
            return false;
        };
        ops.finish(&loaded.view(slot, position));

        let ran = match position {
            Position::Current => ops.now().saturating_sub(loaded.started),
            Position::Next => 0,
        };
        let inner = loaded.job.inner();
        inner.ran_ns = inner.ran_ns.saturating_add(ran);
        inner.turn_ns = match end {
            // It continues with the same turn.
            End::Front => inner.turn_ns.saturating_add(ran),
            End::Fair | End::Back => 0,
        };
        self.unload(&shared.config, &loaded, ran);
        self.shift(shared, ops, slot);
        self.put_back(loaded.job, end);
        self.unblock();
        true
    }

    /// Stops the jobs that an entity has in the hardware.
    pub(super) fn stop<O: SlotOps<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        ops: &O,
        entity: &Arc<Entity<K>>,
    ) {
        let slot = entity.home;
        let of_entity = |loaded: Option<&Loaded<K>>| loaded.is_some_and(|l| l.belongs_to(entity));

        if of_entity(self.loaded(slot, Position::Next)) {
            self.withdraw(shared, ops, slot);
        }
        for position in [Position::Next, Position::Current] {
            if of_entity(self.loaded(slot, position)) {
                self.stop_at(shared, ops, slot, position, Stop::Hard);
            }
        }
    }

    /// Takes back the next job if it has not begun to run.
    fn withdraw<O: SlotOps<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        ops: &O,
        slot: QueueSlot,
    ) -> bool {
        self.view(slot, Position::Next)
            .is_some_and(|next| ops.withdraw(&next))
            && self.requeue(shared, ops, slot, Position::Next, End::Front)
    }

    /// Asks the hardware to stop a job, which has the grace period from now on to do so.
    fn stop_at<O: SlotOps<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        ops: &O,
        slot: QueueSlot,
        position: Position,
        how: Stop,
    ) {
        let Some(loaded) = &mut self.slots[slot.index()].loaded[position as usize] else {
            return;
        };
        ops.stop(&loaded.view(slot, position), how);
        if how == Stop::Hard {
            // The next step is a reset.
            loaded.strikes = loaded.strikes.max(shared.ladder_len());
        }
        loaded.stopping = true;
        loaded.extensions = 0;
        loaded.deadline = Some(ops.now().saturating_add(shared.config.grace_ns));
    }

    /// Returns the position where the slot can take a job.
    fn room(&self, shared: &Shared<K>, slot: QueueSlot) -> Option<Position> {
        match &self.slots[slot.index()].loaded {
            [None, _] => Some(Position::Current),
            [_, None] if shared.config.two_deep => Some(Position::Next),
            _ => None,
        }
    }

    /// Starts jobs as long as the slot has room.
    pub(super) fn fill<O: SlotOps<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        ops: &O,
        slot: QueueSlot,
    ) {
        if self.parked || self.dead.is_some() {
            return;
        }
        while let Some(position) = self.room(shared, slot) {
            let Some(chosen) = self.next_entity(&shared.config, slot) else {
                return;
            };
            let entity = chosen.entity;
            let Some(mut job) = self.pop(&entity) else {
                continue;
            };
            // It was closed, and not swept yet.
            if entity.account.is_closed() {
                self.put_back(job, End::Fair);
                continue;
            }
            let started = ops.now();
            let mut loaded = Loaded {
                // Derived from the current job rather than from the last start, which may have been
                // taken back.
                flag: self
                    .loaded(slot, Position::Current)
                    .is_some_and(|current| !current.flag),
                strikes: 0,
                ran_ns: job.inner().ran_ns,
                priority: chosen.priority,
                favoured: chosen.favoured,
                jumped: chosen.jumped,
                overdue: false,
                started,
                stopping: false,
                // None for a job that is resumed within its turn, so that the turn ends. Such a job
                // stops softly, and can go on in its next turn.
                extensions: match job.inner().turn_ns {
                    0 => MAX_EXTENSIONS,
                    _ => 0,
                },
                deadline: None,
                job,
            };
            let time = loaded.time_left(&shared.config);
            loaded.deadline = time.map(|ns| started.saturating_add(ns));
            match ops.start(&loaded.view(slot, position)) {
                Ok(()) => {
                    self.line(slot, Standing::Ready(chosen.priority))
                        .note_turn();
                    entity.state.access_mut(self).in_hardware += 1;
                    self.slots[slot.index()].loaded[position as usize] = Some(loaded);
                    self.advance(&entity);
                }
                Err(StartError::Blocked) if self.has_loaded() => self.block(loaded.job),
                Err(StartError::Busy | StartError::Blocked) => {
                    return self.put_back(loaded.job, End::Front);
                }
                Err(StartError::Failed(error)) => {
                    let mut job = loaded.job;
                    self.line(slot, Standing::Ready(chosen.priority))
                        .note_turn();
                    job.inner().settle(Err(error));
                    self.put_back(job, End::Fair);
                }
            }
        }
    }

    /// Returns the earliest time at which the time of a job in the hardware is up.
    pub(super) fn deadline(&self) -> Option<u64> {
        if self.parked {
            return None;
        }
        self.slots
            .iter()
            .filter_map(|slot| slot.loaded[0].as_ref()?.deadline)
            .min()
    }

    /// Sets the timer if it is not armed or would fire too late.
    pub(super) fn check_timer(&mut self, kind: &K) {
        if let Some(deadline) = self.deadline() {
            if self.armed.is_none_or(|armed| deadline < armed) {
                self.armed = Some(deadline);
                kind.arm_timer(deadline);
            }
        }
    }

    /// Stops overdue jobs, each with the next step of the ladder. Those that have progressed get
    /// more time instead.
    pub(super) fn expire<O: SlotOps<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        ops: &O,
    ) -> Expired {
        let now = ops.now();
        let (mut reset, mut stopped) = (false, 0);

        if !self.parked {
            for slot in shared.slots() {
                let Some(loaded) = &mut self.slots[slot.index()].loaded[0] else {
                    continue;
                };
                if loaded.deadline.is_none_or(|deadline| deadline > now) {
                    continue;
                }
                if loaded.extensions > 0 && ops.progressed(&loaded.view(slot, Position::Current)) {
                    let time = shared.config.timeouts_ns[slot.index()];

                    loaded.extensions -= 1;
                    loaded.deadline = time.map(|ns| now.saturating_add(ns));
                    continue;
                }
                match shared.config.ladder.get(usize::from(loaded.strikes)) {
                    Some(&how) => {
                        ops.stop(&loaded.view(slot, Position::Current), how);
                        stopped += 1;
                    }
                    None => reset = true,
                }
                loaded.strikes = loaded.strikes.saturating_add(1);
                loaded.overdue = true;
                loaded.extensions = 0;
                loaded.deadline = Some(now.saturating_add(shared.config.grace_ns));
            }
        }
        // This call has been made. The next one is asked for after the slots were filled.
        self.armed = None;
        Expired { reset, stopped }
    }

    /// Empties a slot. Its jobs are put back to their FIFOs, settled where `verdict` says so.
    /// Returns the entities, which are not put in line yet.
    pub(super) fn unload_slot(
        &mut self,
        config: &Config,
        slot: QueueSlot,
        now: u64,
        mut verdict: impl FnMut(&Running<'_, K>) -> Verdict,
    ) -> [Option<Arc<Entity<K>>>; MAX_DEPTH] {
        let [current, next] = core::mem::take(&mut self.slots[slot.index()].loaded);
        let [current, next] =
            [(current, Position::Current), (next, Position::Next)].map(|(loaded, position)| {
                let mut loaded = loaded?;
                match verdict(&loaded.view(slot, position)) {
                    // It starts from the beginning.
                    Verdict::Requeue => {
                        let inner = loaded.job.inner();
                        (inner.ran_ns, inner.turn_ns) = (0, 0);
                    }
                    Verdict::Done(result) => {
                        loaded.job.inner().settle(result);
                        self.judge(config, &loaded.job, loaded.overdue, result);
                    }
                }
                let ran = match position {
                    Position::Current => now.saturating_sub(loaded.started),
                    Position::Next => 0,
                };
                self.unload(config, &loaded, ran);
                Some(loaded.job)
            });
        // Both may be of one entity: put the current one back last, so that it becomes the first.
        [next, current].map(|job| Some(self.hold(job?, End::Front)))
    }

    /// Takes all jobs out of the hardware and lets jobs start again.
    pub(super) fn restart<O: SlotOps<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        ops: &O,
        mut verdict: impl FnMut(&Running<'_, K>) -> Verdict,
    ) {
        for slot in shared.slots() {
            let entities = self.unload_slot(&shared.config, slot, ops.now(), |running| {
                ops.finish(running);
                verdict(running)
            });
            for entity in entities.iter().flatten() {
                self.advance(entity);
            }
        }
        self.unblock();
        self.parked = false;
    }
}

/// The jobs in the hardware, with the queue locked: [`JobQueue::update`] works on these.
///
/// [`JobQueue::update`]: super::JobQueue::update
pub struct LoadedJobs<'a, K: Kind, O: SlotOps<K> + ?Sized> {
    pub(super) state: &'a mut QueueState<K>,
    pub(super) shared: &'a Shared<K>,
    pub(super) ops: &'a O,
}

impl<K: Kind, O: SlotOps<K> + ?Sized> LoadedJobs<'_, K, O> {
    /// Returns the job at a position of a slot.
    pub fn get(&self, slot: QueueSlot, position: Position) -> Option<Running<'_, K>> {
        self.state.view(slot, position)
    }

    /// Reports that the slot's current job has ended. The next one becomes the current one.
    ///
    /// Returns `false` if there is no such job: the interrupt was spurious.
    pub fn finish(&mut self, slot: QueueSlot, result: Result) -> bool {
        self.state.finish(self.shared, self.ops, slot, result)
    }

    /// Ends the slot's current job like [`finish`](Self::finish), with an error, without counting
    /// it as hung although it was told to stop: it has stopped in good order, but may not run any
    /// longer, or its failure is no hang.
    ///
    /// Returns `false` if there is no such job.
    pub fn finish_stopped(&mut self, slot: QueueSlot, error: Error) -> bool {
        if let Some(loaded) = &mut self.state.slots[slot.index()].loaded[0] {
            loaded.overdue = false;
        }
        self.finish(slot, Err(error))
    }

    /// Reports that a job was stopped and can run again, or was taken back before it ran. It
    /// becomes the first of its FIFO, or fails if its context was closed.
    ///
    /// Returns `false` if there is no such job, or if it is the current one and the next one, which
    /// would overtake it, is of the same context: take the next one back first.
    pub fn requeue(&mut self, slot: QueueSlot, position: Position) -> bool {
        self.state
            .requeue(self.shared, self.ops, slot, position, End::Front)
    }

    /// Requeues the current job like [`requeue`](Self::requeue), but ends its turn: it goes behind
    /// all others of its priority that are ready for the slot now, whatever time they have used.
    /// The strikes against it are forgotten, and in its next turn it has all of the time of
    /// [`Config::timeouts_ns`](super::Config::timeouts_ns) again.
    ///
    /// This is how a job that takes long, but stops when it is told to, shares the slot with
    /// others. The time that it has run is charged to its [`Share`](super::Share), and adds up in
    /// [`Running::ran_ns`]. The caller decides how long it may run in all its turns, and ends it
    /// with [`finish_stopped`](Self::finish_stopped) instead after that.
    ///
    /// Returns `false`, without any effect, where `requeue` does.
    pub fn yield_turn(&mut self, slot: QueueSlot) -> bool {
        self.state
            .requeue(self.shared, self.ops, slot, Position::Current, End::Back)
    }

    /// Takes the job at [`Position::Next`] back to its FIFO if it has not begun to run. Returns
    /// whether that succeeded.
    ///
    /// The job is not started again before [`JobQueue::update`](super::JobQueue::update) fills the
    /// slots, nor while the queue is parked.
    pub fn withdraw(&mut self, slot: QueueSlot) -> bool {
        self.state.withdraw(self.shared, self.ops, slot)
    }

    /// Stops a job. If it has not ended after [`Config::grace_ns`](super::Config::grace_ns), then
    /// [`JobQueue::expire`](super::JobQueue::expire) goes on with the next step of the ladder or,
    /// after [`Stop::Hard`], asks for a reset.
    ///
    /// Does nothing if there is no such job.
    pub fn stop(&mut self, slot: QueueSlot, position: Position, how: Stop) {
        self.state
            .stop_at(self.shared, self.ops, slot, position, how);
    }

    /// Returns whether nothing may be started, see [`JobQueue::park`](super::JobQueue::park).
    pub fn is_parked(&self) -> bool {
        self.state.is_parked()
    }
}
