// SPDX-License-Identifier: GPL-2.0

//! Whose turn it is: used time, and the FIFOs in the order of it.
//!
//! Everything here is changed with the queue's lock held.

use super::{
    context::Entity,
    Kind,
    Slot,
    MAX_SLOTS, //
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
    /// Nanoseconds.
    real: Atomic<u64>,
    /// The same from a later zero: what a party did not use while it had nothing to do is lost to it.
    fair: Atomic<u64>,
}

/// A party that gets a fair share of each slot: a client, with all of its contexts.
///
/// Parties whose jobs are of the same [`Priority`](super::Priority) get the same time, however many
/// contexts and jobs each has.
pub struct Share(Arc<[Used; MAX_SLOTS]>);

impl Share {
    /// A party that has used nothing yet. May sleep; fails with `ENOMEM`.
    pub fn new() -> Result<Self> {
        let used = [const {
            Used {
                real: Atomic::new(0),
                fair: Atomic::new(0),
            }
        }; MAX_SLOTS];

        Ok(Self(Arc::new(used, GFP_KERNEL)?))
    }

    /// Nanoseconds that ended jobs of the party have kept a slot busy.
    pub fn used_ns(&self, slot: Slot) -> u64 {
        self.of(slot).real.load(Relaxed)
    }

    fn of(&self, slot: Slot) -> &Used {
        &self.0[slot.index()]
    }

    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// A job has kept a slot busy for so long.
    pub(super) fn charge(&self, slot: Slot, ns: u64) {
        let used = self.of(slot);

        used.real
            .store(used.real.load(Relaxed).saturating_add(ns), Relaxed);
        used.fair
            .store(used.fair.load(Relaxed).saturating_add(ns), Relaxed);
    }

    /// The time that it stands for in line, not before `now`.
    fn catch_up(&self, slot: Slot, now: u64) -> u64 {
        let used = self.of(slot);
        let time = used.fair.load(Relaxed).max(now);

        used.fair.store(time, Relaxed);
        time
    }
}

/// Where in the line of its slot and priority an entity stands.
///
/// Ordered by time, then by number. The numbers of those who go before all others are negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    time: u64,
    number: i64,
}

/// What an entity waits in line with.
pub(super) type Ticket<K> = RBTreeNodeReservation<Turn, Arc<Entity<K>>>;

/// Where in a line an entity goes.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// Before all others: it goes on with what it was at.
    Front,
    /// Where its used time puts it, behind those with the same.
    Fair,
}

/// Those with a job ready for one slot and of one priority.
pub(super) struct Line<K: Kind> {
    tree: RBTree<Turn, Arc<Entity<K>>>,
    /// The latest time of those that had their turn.
    now: u64,
    /// Numbers that were given out, from the front and from the back.
    first: i64,
    last: i64,
}

impl<K: Kind> Line<K> {
    pub(super) fn new() -> Self {
        Self {
            tree: RBTree::new(),
            now: 0,
            first: 0,
            last: 0,
        }
    }

    /// Lines an entity up that does not stand in line.
    pub(super) fn insert(&mut self, entity: &Arc<Entity<K>>, ticket: Ticket<K>, end: End) -> Turn {
        let turn = match end {
            End::Front => {
                self.first -= 1;
                Turn {
                    time: 0,
                    number: self.first,
                }
            }
            End::Fair => {
                self.last += 1;
                Turn {
                    time: entity.share.catch_up(entity.home, self.now),
                    number: self.last,
                }
            }
        };
        // No other one has this number.
        let _ = self.tree.insert(ticket.into_node(turn, entity.clone()));
        turn
    }

    /// Takes an entity out of the line, of which the caller has another reference.
    pub(super) fn remove(&mut self, turn: &Turn) -> Option<Ticket<K>> {
        Some(self.tree.remove_node(turn)?.into_reservation())
    }

    /// Takes the first one out of the line.
    pub(super) fn pop(&mut self) -> Option<(Turn, Arc<Entity<K>>, Ticket<K>)> {
        let cursor = self.tree.cursor_front_mut()?;
        let (&turn, entity) = cursor.current();
        let entity = entity.clone();

        Some((turn, entity, cursor.remove_current().1.into_reservation()))
    }

    /// Whether the first of the line stood where it belongs, so that it has its turn now. It does not
    /// if others of its party had theirs meanwhile.
    pub(super) fn has_turn(&mut self, turn: Turn, entity: &Entity<K>) -> bool {
        let fair = entity.share.of(entity.home).fair.load(Relaxed);

        if turn.number > 0 && fair > turn.time {
            return false;
        }
        self.now = self.now.max(turn.time);
        true
    }
}
