// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The order of turns: the time that parties have used, and FIFOs sorted by it.
//!
//! An urgent job goes out of turn, before others of its priority, under two conditions, which
//! protect the others from clients that call everything urgent. First, since the last job that went
//! out of turn, others must have had the slot in turn for as long as that job: so the first in line
//! waits for one more job at most, and all jobs that go out of turn together get at most half of
//! the time. Second, the party must not have used more than
//! [`Config::lead_ns`](super::Config::lead_ns) more time than the first in line: so in the long run
//! it does not get more than the others either.
//!
//! A new party has no time of its own yet. If it started with the time of the party that had the
//! last turn, it would go before all parties that have used the slot since then, and a client that
//! creates a new party for each job would starve them. So the first charge of each party is made to
//! one account as well, and new parties start with the time of that account. Together they get
//! about the share of one party, or more if their first jobs take longer than
//! [`Config::lead_ns`](super::Config::lead_ns), which is how far the account may be ahead of the
//! line's clock.
//!
//! Everything here is changed with the queue's lock held.

use super::{
    context::Entity,
    Kind,
    Priority,
    QueueSlot,
    MAX_SLOTS,
    PRIORITIES, //
};
use crate::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

/// The time that one party has used in a slot.
struct Used {
    /// The time in nanoseconds.
    real: Atomic<u64>,
    /// The same, raised to at least the line's clock whenever the party gets in line: time that a
    /// party did not use while it had nothing to do is lost to it. Kept separately for each line,
    /// since each has a clock of its own, and the values of one line mean nothing in another.
    fair: [Atomic<u64>; PRIORITIES],
    /// Whether the party has been charged for time in a line.
    known: [Atomic<bool>; PRIORITIES],
}

/// A party that gets a fair share of each slot, such as a client with all of its contexts.
///
/// Parties whose jobs are of the same [`Priority`](super::Priority) get the same time, however many
/// contexts and jobs each has.
pub struct Share(Arc<[Used; MAX_SLOTS]>);

impl Share {
    /// Creates a party that has not used any time yet. The memory is charged to the task's memory
    /// cgroup. May sleep; fails with `ENOMEM`.
    pub fn new() -> Result<Self> {
        let used = [const {
            Used {
                real: Atomic::new(0),
                fair: [const { Atomic::new(0) }; PRIORITIES],
                known: [const { Atomic::new(false) }; PRIORITIES],
            }
        }; MAX_SLOTS];

        Ok(Self(Arc::new(used, GFP_KERNEL_ACCOUNT)?))
    }

    /// Returns for how many nanoseconds the party's jobs have occupied a slot, counted when they
    /// leave it.
    pub fn used_ns(&self, slot: QueueSlot) -> u64 {
        self.of(slot).real.load(Relaxed)
    }

    fn of(&self, slot: QueueSlot) -> &Used {
        &self.0[slot.index()]
    }

    /// Returns another handle of the same account.
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// Charges the party for a job of the line of a priority that has occupied a slot for `ns`.
    /// Returns the party's time in that line.
    fn charge(&self, slot: QueueSlot, line: Priority, ns: u64) -> u64 {
        let used = self.of(slot);

        for counter in [&used.real, &used.fair[line as usize]] {
            counter.store(counter.load(Relaxed).saturating_add(ns), Relaxed);
        }
        self.time(slot, line)
    }

    /// Returns whether the party has been charged for time in a line.
    fn is_known(&self, slot: QueueSlot, line: Priority) -> bool {
        self.of(slot).known[line as usize].load(Relaxed)
    }

    /// Returns the party's time in a line.
    fn time(&self, slot: QueueSlot, line: Priority) -> u64 {
        self.of(slot).fair[line as usize].load(Relaxed)
    }

    /// Raises the party's [`time`](Self::time) in a line to at least `now`, and returns it.
    fn catch_up(&self, slot: QueueSlot, line: Priority, now: u64) -> u64 {
        let time = self.time(slot, line).max(now);

        self.of(slot).fair[line as usize].store(time, Relaxed);
        time
    }
}

/// The place of an entity in the line of its slot and priority.
///
/// Ordered by time, then by number. Entities that go before all others have negative numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    time: u64,
    number: i64,
    /// Whether its job is urgent. This does not affect the order, as numbers are unique.
    pub(super) urgent: bool,
}

/// The lines of a slot.
#[derive(Clone, Copy)]
pub(super) enum Standing {
    /// The line of entities with a ready job of one priority.
    Ready(Priority),
    /// The line of entities whose first job cannot be started before another job leaves the
    /// hardware.
    Blocked,
}

/// The memory with which an entity stands in line.
pub(super) type Ticket<K> = RBTreeNodeReservation<Turn, Arc<Entity<K>>>;

/// Where in a line an entity is inserted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Before all others: it continues its turn.
    Front,
    /// According to its used time, behind others with the same.
    Fair,
    /// Behind all others, whatever time they have used.
    Back,
}

/// The first entity of a line, taken out of it.
pub(super) struct First<K: Kind> {
    /// Where it stood.
    pub(super) turn: Turn,
    /// Whether it goes out of turn.
    pub(super) jumped: bool,
    pub(super) entity: Arc<Entity<K>>,
    pub(super) ticket: Ticket<K>,
}

/// A line that has been passed over for too long gets one part in this many of the slot's time.
const FAVOUR: u64 = 32;

/// The entities that wait for one slot in one [`Standing`].
pub(super) struct Line<K: Kind> {
    /// The entities whose job is not urgent, and those whose job is.
    trees: [RBTree<Turn, Arc<Entity<K>>>; 2],
    /// For how long the last urgent job that went out of turn has occupied the slot, less the time
    /// that jobs in turn have had since.
    debt: u64,
    /// The clock of the line: the latest time of the entities that had their turn.
    now: u64,
    /// The account of new parties, which is the time that they start with, or `now` if that is
    /// later. The first charge of each party advances it.
    fresh: u64,
    /// The latest time with which a party was charged or got a fair place in this line. No fair
    /// place is behind that.
    most: u64,
    /// For how long jobs of higher priorities have occupied the slot since this line had a turn,
    /// while it was not empty.
    passed: u64,
    /// How long the last job took that got its turn because of that; zero if a regular turn came
    /// since.
    favour: u64,
    /// The last numbers that were given out at the front and at the back.
    first: i64,
    last: i64,
}

impl<K: Kind> Line<K> {
    /// Creates an empty line.
    pub(super) fn new() -> Self {
        Self {
            trees: [RBTree::new(), RBTree::new()],
            debt: 0,
            now: 0,
            fresh: 0,
            most: 0,
            passed: 0,
            favour: 0,
            first: 0,
            last: 0,
        }
    }

    /// Inserts an entity that does not stand in any line. `priority` is the one for which its used
    /// time is counted.
    pub(super) fn insert(
        &mut self,
        entity: &Arc<Entity<K>>,
        priority: Priority,
        ticket: Ticket<K>,
        end: End,
        urgent: bool,
    ) -> Turn {
        let turn = match end {
            End::Front => {
                self.first -= 1;
                Turn {
                    time: 0,
                    number: self.first,
                    urgent,
                }
            }
            End::Fair => {
                self.last += 1;
                let time = self.catch_up(entity, priority);

                self.note_time(time);
                Turn {
                    time,
                    number: self.last,
                    urgent,
                }
            }
            End::Back => {
                self.last += 1;
                let time = self.catch_up(entity, priority);

                Turn {
                    time: time.max(self.most.saturating_add(1)),
                    number: self.last,
                    // It has had its turn, so its urgency does not count.
                    urgent: false,
                }
            }
        };
        // The number is unique, so this replaces nothing.
        let _ = self
            .tree(turn.urgent)
            .insert(ticket.into_node(turn, entity.clone()));
        turn
    }

    /// Raises the time of an entity's party to at least `now`, or to at least `fresh` for a new
    /// party, and returns it. The entity gets in line with this time.
    fn catch_up(&mut self, entity: &Entity<K>, priority: Priority) -> u64 {
        let (share, slot) = (&entity.share, entity.home);

        self.fresh = self.fresh.max(self.now);
        // A party with a time of its own is not new, even if it has not been charged yet: another
        // context of it must not move those back that already stand in line.
        let has_begun = share.is_known(slot, priority) || share.time(slot, priority) > 0;
        let least = if has_begun { self.now } else { self.fresh };

        share.catch_up(slot, priority, least)
    }

    /// Returns the entities whose job is urgent, or the others.
    fn tree(&mut self, urgent: bool) -> &mut RBTree<Turn, Arc<Entity<K>>> {
        &mut self.trees[usize::from(urgent)]
    }

    /// Returns whether no entity stands in the line.
    pub(super) fn is_empty(&self) -> bool {
        self.trees.iter().all(|tree| tree.is_empty())
    }

    /// Takes an entity out of the line. The caller must have another reference to it.
    pub(super) fn remove(&mut self, turn: &Turn) -> Option<Ticket<K>> {
        Some(self.tree(turn.urgent).remove_node(turn)?.into_reservation())
    }

    /// Charges a party for a job of this line that has occupied the slot for `ns`. The first charge
    /// of a party is made to the account of new parties as well.
    ///
    /// The account is at most `lead` ahead of `now`, so that one long job does not keep other new
    /// parties out.
    pub(super) fn charge(
        &mut self,
        share: &Share,
        slot: QueueSlot,
        line: Priority,
        ns: u64,
        lead: u64,
    ) {
        if ns > 0 && !share.is_known(slot, line) {
            let limit = self.now.saturating_add(lead);

            share.of(slot).known[line as usize].store(true, Relaxed);
            self.fresh = self.fresh.max(self.now).saturating_add(ns).min(limit);
        }
        let time = share.charge(slot, line, ns);

        self.note_time(time);
    }

    /// Records the time of a party that has been charged or gets a fair place.
    fn note_time(&mut self, time: u64) {
        self.most = self.most.max(time);
    }

    /// Records that a job of a higher priority has occupied the slot for `ns`.
    pub(super) fn pass(&mut self, ns: u64) {
        self.passed = match self.is_empty() {
            true => 0,
            false => self.passed.saturating_add(ns),
        };
    }

    /// Returns whether the line has been passed over for too long. Such a line gets at most about
    /// one part in [`FAVOUR`] of the time.
    pub(super) fn is_impatient(&self, patience: u64) -> bool {
        let patience = patience.max(self.favour.saturating_mul(FAVOUR - 1));

        !self.is_empty() && self.passed >= patience
    }

    /// Records that a job of this line has occupied the slot for `ns`. `favoured` says whether it
    /// had its turn because the line was [impatient](Self::is_impatient).
    pub(super) fn note_favour(&mut self, favoured: bool, ns: u64) {
        self.favour = match favoured {
            true => ns,
            false => 0,
        };
    }

    /// Records that a job of this line has occupied the slot for `ns`. `jumped` says whether it
    /// went out of turn.
    pub(super) fn note_jump(&mut self, jumped: bool, ns: u64) {
        self.debt = match jumped {
            true => self.debt.saturating_add(ns),
            false => self.debt.saturating_sub(ns),
        };
    }

    /// Returns whether the first entity with an urgent job goes before the first of the others, and
    /// if so, whether that is out of turn.
    ///
    /// It may go out of turn if there is a `lead`, if the debt of the last such job is paid, and if
    /// its party has not used more than `lead` more time than the other one. An entity that
    /// continues its turn always stays first.
    fn choose(&mut self, lead: Option<u64>) -> (bool, bool) {
        let lead = lead.filter(|_| self.debt == 0);
        let [other, urgent] = [false, true].map(|urgent| {
            let cursor = self.tree(urgent).cursor_front_mut()?;

            Some(*cursor.current().0)
        });

        match (other, urgent) {
            (_, None) => (false, false),
            (None, Some(_)) => (true, false),
            (Some(other), Some(urgent)) if urgent < other => (true, false),
            (Some(other), Some(urgent)) => {
                let jumps = other.number > 0
                    && lead.is_some_and(|lead| urgent.time <= other.time.saturating_add(lead));

                (jumps, jumps)
            }
        }
    }

    /// Takes the first entity out of the line. See [`choose`](Self::choose) for `lead`.
    pub(super) fn pop(&mut self, lead: Option<u64>) -> Option<First<K>> {
        let (urgent, jumped) = self.choose(lead);
        let cursor = self.tree(urgent).cursor_front_mut()?;
        let (&turn, entity) = cursor.current();
        let entity = entity.clone();

        Some(First {
            turn,
            jumped,
            entity,
            ticket: cursor.remove_current().1.into_reservation(),
        })
    }

    /// Returns whether an entity that was taken out of the line stood where it belongs, so that it
    /// has its turn now. It did not if others of its party had theirs in the meantime.
    pub(super) fn has_turn(
        &mut self,
        turn: Turn,
        jumped: bool,
        entity: &Entity<K>,
        priority: Priority,
    ) -> bool {
        let time = entity.share.time(entity.home, priority);

        if turn.number > 0 && time > turn.time {
            return false;
        }
        if !jumped {
            self.now = self.now.max(turn.time);
        }
        true
    }

    /// Records that an entity of this line had its turn: its job was started, or has failed to.
    /// Until then, the line counts as passed over.
    pub(super) fn note_turn(&mut self) {
        self.passed = 0;
    }
}
