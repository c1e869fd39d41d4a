// SPDX-License-Identifier: GPL-2.0

//! The jobs in the slots: how they get in, are stopped, and get out.
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
    state::State,
    turns::End,
    Config,
    Engine,
    Kind,
    Position,
    Running,
    Slot,
    StartError,
    Stop,
    Verdict,
    MAX_DEPTH, //
};
use crate::{
    list::ListArc,
    prelude::*,
    sync::Arc, //
};

/// A job in the hardware.
pub(super) struct Loaded<K: Kind> {
    job: ListArc<Job<K>>,
    flag: bool,
    strikes: u8,
    /// It was found to run for too long.
    overdue: bool,
    /// When it began to run, as far as known; meaningful for the current job.
    started: u64,
    /// When it will be stopped; meaningful for the current job.
    deadline: u64,
}

impl<K: Kind> Loaded<K> {
    fn view(&self, slot: Slot, position: Position) -> Running<'_, K> {
        Running {
            slot,
            position,
            flag: self.flag,
            strikes: self.strikes,
            started: self.started,
            timeline: self.job.entity.timeline.id(),
            job: &self.job.payload,
        }
    }

    /// How long it may run from now on. What it has run before it was stopped counts, but it gets the
    /// time for a stop at least.
    fn time_left(&mut self, config: &Config) -> u64 {
        config
            .timeout_ns
            .saturating_sub(self.job.inner().ran_ns)
            .max(config.grace_ns)
    }

    fn belongs_to(&self, entity: &Arc<Entity<K>>) -> bool {
        Arc::ptr_eq(&self.job.entity, entity)
    }
}

impl<K: Kind> State<K> {
    fn loaded(&self, slot: Slot, position: Position) -> Option<&Loaded<K>> {
        self.slots[slot.index()].loaded[position as usize].as_ref()
    }

    pub(super) fn view(&self, slot: Slot, position: Position) -> Option<Running<'_, K>> {
        Some(self.loaded(slot, position)?.view(slot, position))
    }

    /// A job has left the hardware.
    fn unload(&mut self, job: &ListArc<Job<K>>, ran_ns: u64) {
        let this = job.entity.state.access_mut(self);
        this.in_hardware = this.in_hardware.saturating_sub(1);
        job.entity.share.charge(job.entity.home, ran_ns);
    }

    /// What was at [`Position::Next`] moves up if the current position is free.
    fn shift<E: Engine<K> + ?Sized>(&mut self, shared: &Shared<K>, engine: &E, slot: Slot) {
        let loaded = &mut self.slots[slot.index()].loaded;
        if loaded[0].is_none() {
            if let Some(mut next) = loaded[1].take() {
                next.started = engine.now();
                // A job that somebody tries to stop already gets no more than the time for that.
                let time = match next.strikes {
                    0 => next.time_left(&shared.config),
                    _ => shared.config.grace_ns,
                };
                next.deadline = next.started.saturating_add(time);
                loaded[0] = Some(next);
            }
        }
    }

    /// The current job has ended.
    fn finish<E: Engine<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        engine: &E,
        slot: Slot,
        result: Result,
    ) -> bool {
        let Some(loaded) = self.slots[slot.index()].loaded[0].take() else {
            return false;
        };
        engine.finish(&loaded.view(slot, Position::Current));

        let ran = engine.now().saturating_sub(loaded.started);
        let mut job = loaded.job;
        let entity = job.entity.clone();

        self.unload(&job, ran);
        self.judge(&shared.config, &job, loaded.overdue, result);
        job.inner().settle(result);
        self.done.push_back(job);
        self.shift(shared, engine, slot);
        self.advance(&entity);
        self.sweep();
        true
    }

    /// A job in the hardware was stopped such that it can run again.
    fn requeue<E: Engine<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        engine: &E,
        slot: Slot,
        position: Position,
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
        engine.finish(&loaded.view(slot, position));

        let ran = match position {
            Position::Current => engine.now().saturating_sub(loaded.started),
            Position::Next => 0,
        };
        loaded.job.inner().ran_ns += ran;
        self.unload(&loaded.job, ran);
        self.shift(shared, engine, slot);
        self.put_back(loaded.job);
        true
    }

    /// Stops what an entity has in the hardware.
    pub(super) fn stop<E: Engine<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        engine: &E,
        entity: &Arc<Entity<K>>,
    ) {
        let slot = entity.home;
        let of_entity = |loaded: Option<&Loaded<K>>| loaded.is_some_and(|l| l.belongs_to(entity));

        if of_entity(self.loaded(slot, Position::Next)) {
            self.withdraw(shared, engine, slot);
        }
        for position in [Position::Next, Position::Current] {
            if of_entity(self.loaded(slot, position)) {
                self.stop_at(shared, engine, slot, position, Stop::Hard);
            }
        }
    }

    /// Takes the next job back if it has not begun.
    fn withdraw<E: Engine<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        engine: &E,
        slot: Slot,
    ) -> bool {
        self.view(slot, Position::Next)
            .is_some_and(|next| engine.withdraw(&next))
            && self.requeue(shared, engine, slot, Position::Next)
    }

    /// Stops a job, for which it has the usual time from now.
    fn stop_at<E: Engine<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        engine: &E,
        slot: Slot,
        position: Position,
        how: Stop,
    ) {
        let Some(loaded) = &mut self.slots[slot.index()].loaded[position as usize] else {
            return;
        };
        engine.stop(&loaded.view(slot, position), how);
        if how == Stop::Hard {
            // What comes after that is a reset.
            loaded.strikes = loaded.strikes.max(shared.ladder_len());
        }
        loaded.deadline = engine.now().saturating_add(shared.config.grace_ns);
    }

    /// Where the slot can take a job.
    fn room(&self, shared: &Shared<K>, slot: Slot) -> Option<Position> {
        match &self.slots[slot.index()].loaded {
            [None, _] => Some(Position::Current),
            [_, None] if shared.config.two_deep => Some(Position::Next),
            _ => None,
        }
    }

    /// Starts jobs as long as the slot has room.
    pub(super) fn fill<E: Engine<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        engine: &E,
        slot: Slot,
    ) {
        if self.parked || self.dead.is_some() {
            return;
        }
        while let Some(position) = self.room(shared, slot) {
            let Some(entity) = self.next_entity(slot) else {
                return;
            };
            let Some(job) = self.pop(&entity) else {
                continue;
            };
            let started = engine.now();
            let mut loaded = Loaded {
                flag: !self.slots[slot.index()].flag,
                strikes: 0,
                overdue: false,
                started,
                deadline: 0,
                job,
            };
            loaded.deadline = started.saturating_add(loaded.time_left(&shared.config));
            match engine.start(&loaded.view(slot, position)) {
                Ok(()) => {
                    entity.state.access_mut(self).in_hardware += 1;
                    let this = &mut self.slots[slot.index()];
                    this.flag = loaded.flag;
                    this.loaded[position as usize] = Some(loaded);
                    self.advance(&entity);
                }
                Err(StartError::Busy) => {
                    return self.put_back(loaded.job);
                }
                Err(StartError::Failed(error)) => {
                    let mut job = loaded.job;
                    job.inner().settle(Err(error));
                    self.put_back(job);
                }
            }
        }
    }

    /// The earliest time at which a job in the hardware is overdue.
    pub(super) fn deadline(&self) -> Option<u64> {
        if self.parked {
            return None;
        }
        self.slots
            .iter()
            .filter_map(|slot| Some(slot.loaded[0].as_ref()?.deadline))
            .min()
    }

    /// Has the timer set if it would come too late.
    pub(super) fn check_timer(&mut self, kind: &K) {
        if let Some(deadline) = self.deadline() {
            if self.armed.is_none_or(|armed| deadline < armed) {
                self.armed = Some(deadline);
                kind.arm_timer(deadline);
            }
        }
    }

    /// Stops overdue jobs, each with the next means.
    pub(super) fn expire<E: Engine<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        engine: &E,
    ) -> Expired {
        let now = engine.now();
        let (mut reset, mut stopped) = (false, 0);

        if !self.parked {
            for slot in shared.slots() {
                let Some(loaded) = &mut self.slots[slot.index()].loaded[0] else {
                    continue;
                };
                if loaded.deadline > now {
                    continue;
                }
                match shared.config.ladder.get(usize::from(loaded.strikes)) {
                    Some(&how) => {
                        engine.stop(&loaded.view(slot, Position::Current), how);
                        stopped += 1;
                    }
                    None => reset = true,
                }
                loaded.strikes = loaded.strikes.saturating_add(1);
                loaded.overdue = true;
                loaded.deadline = now.saturating_add(shared.config.grace_ns);
            }
        }
        // This was the call. The next one is asked for when the slots are filled.
        self.armed = None;
        Expired { reset, stopped }
    }

    /// Empties a slot. Its jobs are put back to their FIFOs, settled where `verdict` says so; the
    /// entities are not lined up yet.
    pub(super) fn unload_slot(
        &mut self,
        config: &Config,
        slot: Slot,
        now: u64,
        mut verdict: impl FnMut(&Running<'_, K>) -> Verdict,
    ) -> [Option<Arc<Entity<K>>>; MAX_DEPTH] {
        let [current, next] = core::mem::take(&mut self.slots[slot.index()].loaded);
        let [current, next] =
            [(current, Position::Current), (next, Position::Next)].map(|(loaded, position)| {
                let mut loaded = loaded?;
                match verdict(&loaded.view(slot, position)) {
                    Verdict::Requeue => loaded.job.inner().ran_ns = 0,
                    Verdict::Done(result) => {
                        loaded.job.inner().settle(result);
                        self.judge(config, &loaded.job, loaded.overdue, result);
                    }
                }
                let ran = match position {
                    Position::Current => now.saturating_sub(loaded.started),
                    Position::Next => 0,
                };
                self.unload(&loaded.job, ran);
                Some(loaded.job)
            });
        // Both may be of one entity, whose first job is then the current one.
        [next, current].map(|job| Some(self.hold(job?)))
    }

    /// Takes all jobs out of the hardware and lets jobs start again.
    pub(super) fn restart<E: Engine<K> + ?Sized>(
        &mut self,
        shared: &Shared<K>,
        engine: &E,
        mut verdict: impl FnMut(&Running<'_, K>) -> Verdict,
    ) {
        for slot in shared.slots() {
            let entities = self.unload_slot(&shared.config, slot, engine.now(), |running| {
                engine.finish(running);
                verdict(running)
            });
            for entity in entities.iter().flatten() {
                self.line_up(entity, End::Front);
            }
        }
        self.sweep();
        self.parked = false;
    }
}

/// The hardware's jobs, seen with the queue locked: what [`JobQueue::update`] works on.
///
/// [`JobQueue::update`]: super::JobQueue::update
pub struct Hardware<'a, K: Kind, E: Engine<K> + ?Sized> {
    pub(super) state: &'a mut State<K>,
    pub(super) shared: &'a Shared<K>,
    pub(super) engine: &'a E,
}

impl<K: Kind, E: Engine<K> + ?Sized> Hardware<'_, K, E> {
    /// The job at a position of a slot.
    pub fn get(&self, slot: Slot, position: Position) -> Option<Running<'_, K>> {
        self.state.view(slot, position)
    }

    /// The slot's current job has ended. The next one becomes the current.
    ///
    /// False if there is no such job: the interrupt was spurious.
    pub fn finish(&mut self, slot: Slot, result: Result) -> bool {
        self.state.finish(self.shared, self.engine, slot, result)
    }

    /// A job was stopped such that it can run again, or taken back before it ran. It becomes the
    /// first of its FIFO, or fails if its context was cancelled.
    ///
    /// False if there is no such job; and if it is the current one and the next is of the same
    /// context, since that would overtake it: take the next one back first.
    pub fn requeue(&mut self, slot: Slot, position: Position) -> bool {
        self.state.requeue(self.shared, self.engine, slot, position)
    }

    /// Takes the job at [`Position::Next`] back to its FIFO if it has not begun to run.
    ///
    /// If that worked, it is not started again before [`JobQueue::update`](super::JobQueue::update)
    /// fills the slots, and not as long as the queue is parked.
    pub fn withdraw(&mut self, slot: Slot) -> bool {
        self.state.withdraw(self.shared, self.engine, slot)
    }

    /// Stops a job. If it has not ended after [`Config::grace_ns`](super::Config::grace_ns), then
    /// [`JobQueue::expire`](super::JobQueue::expire) goes on with harder means, after
    /// [`Stop::Hard`] with a reset.
    ///
    /// Does nothing if there is no such job.
    pub fn stop(&mut self, slot: Slot, position: Position, how: Stop) {
        self.state
            .stop_at(self.shared, self.engine, slot, position, how);
    }

    /// Whether nothing may be started; see [`JobQueue::park`](super::JobQueue::park).
    pub fn is_parked(&self) -> bool {
        self.state.is_parked()
    }
}
