// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Inspection of the jobs of a queue, for debugging.
//!
//! Owns nothing: the owner copies from each job what it wants to show. Lock: the queue's spinlock,
//! which is only tried, and under which nothing is allocated. Process context.

use super::{
    context::{
        Entity,
        Job, //
    },
    queue::JobQueue,
    state::QueueState,
    Kind,
    Position,
    QueueSlot,
    MAX_SLOTS, //
};
use crate::{
    dma_buf::fence::Fence,
    prelude::*, //
};

/// Where a job is.
#[derive(Clone, Copy)]
pub enum Whereabouts<'a> {
    /// In its slot.
    Loaded(Position),
    /// It waits for the slot.
    Ready,
    /// It waits for this fence, and possibly for others.
    WaitsFor(&'a Fence),
    /// It waits for the jobs before it.
    Queued,
}

/// A job that has not ended.
pub struct Look<'a, K: Kind> {
    /// The slot that it is for.
    pub slot: QueueSlot,
    /// The id of its fence's timeline.
    pub timeline: u64,
    /// Where it is.
    pub at: Whereabouts<'a>,
    /// The job.
    pub job: &'a K::Job,
}

impl<K: Kind> Job<K> {
    /// Returns the whereabouts of the first job of a FIFO.
    ///
    /// # Safety
    ///
    /// The caller must have access to the list that the job is in.
    unsafe fn first_is_at(&self) -> Whereabouts<'_> {
        // SAFETY: By the safety requirements.
        let inner = unsafe { self.inner_ref() };

        match inner.unmet() {
            _ if inner.settled => Whereabouts::Queued,
            Some(fence) => Whereabouts::WaitsFor(fence),
            None => Whereabouts::Ready,
        }
    }
}

impl<K: Kind> QueueState<K> {
    fn look(&self, mut f: impl FnMut(Look<'_, K>)) {
        for slot in (0..MAX_SLOTS).map_while(QueueSlot::new) {
            for position in [Position::Current, Position::Next] {
                if let Some(running) = self.view(slot, position) {
                    f(Look {
                        slot: running.slot,
                        timeline: running.timeline,
                        at: Whereabouts::Loaded(position),
                        job: running.job,
                    });
                }
            }
        }
        for entity in self.busy() {
            self.look_at(&entity, &mut f);
        }
    }

    fn look_at(&self, entity: &Entity<K>, f: &mut impl FnMut(Look<'_, K>)) {
        for (index, job) in entity.state.access(self).fifo.iter().enumerate() {
            let at = match index {
                // SAFETY: The list is the entity's, which is borrowed from the state.
                0 => unsafe { job.first_is_at() },
                _ => Whereabouts::Queued,
            };

            f(Look {
                slot: entity.home,
                timeline: entity.timeline.id(),
                at,
                job: &job.payload,
            });
        }
    }
}

impl<K: Kind> JobQueue<K> {
    /// Calls `f` for the jobs that have not ended, first those in the slots, then the others by
    /// FIFO, and pushes the results to `out` as long as it has room without allocating.
    ///
    /// Returns the number of jobs, which may be larger; [`None`] if the queue's lock is contended.
    /// `f` runs with the queue's lock held. Process context; does not sleep.
    pub fn look<T>(&self, out: &mut KVec<T>, mut f: impl FnMut(Look<'_, K>) -> T) -> Option<usize> {
        let state = self.shared.state.try_lock()?;
        let mut count = 0;

        state.look(|look| {
            count += 1;
            if out.len() < out.capacity() {
                // Cannot fail: there is room.
                let _ = out.push_within_capacity(f(look));
            }
        });
        Some(count)
    }
}
