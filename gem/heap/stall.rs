// SPDX-License-Identifier: GPL-2.0

//! A job that waits for memory, and the deadline of that.
//!
//! The fence of the job waits for all of this: nothing here waits for memory.

use kernel::{
    dma_buf::fence::Signalling,
    drm::gem::uma::Chunk,
    prelude::*,
    sync::Arc,
    time::msecs_to_jiffies,
    workqueue::{
        self,
        KeepsQueue,
        OwnedQueue,
        WorkItem, //
    }, //
};

use super::{
    wait::Expired,
    Heap, //
};
use crate::device::{
    with_gpu,
    Gpu, //
};

/// What became of a chunk that was got for a stalled job.
pub(super) enum Given<'a> {
    /// It was put in its place, or into the credit.
    Taken,
    /// Nobody waits for it any more.
    Spare(Chunk<'a>),
    /// It is credit now: there was no memory to map it.
    NotEnough,
}

impl Heap {
    /// Takes a chunk for the job that waits, if it still does. Waits for no memory.
    pub(super) fn give<'a>(&self, gpu: &Gpu<'_>, chunk: Chunk<'a>) -> Given<'a> {
        let mut inner = self.inner.lock();
        let (Some(wait), Some(place)) = (inner.waits.now().copied(), inner.place.clone()) else {
            return Given::Spare(chunk);
        };

        if inner.chunks.get(gpu.dev(), wait.index).is_some() {
            // What was mapped before us has let the access go on.
            inner.waits.served(wait.index);
            self.note_wait(&inner);
            return Given::Spare(chunk);
        }
        let result = self.insert(gpu, &mut inner, &place, wait.index, chunk);

        self.recount(&mut inner);
        match result {
            Ok(()) => Given::Taken,
            // The next chunk tries again, until the deadline.
            Err(ENOMEM) => Given::NotEnough,
            // More memory is no help: the access is to fail like any other.
            Err(_) => {
                inner.waits.end();
                self.note_wait(&inner);
                drop(inner);
                place.space.retry(gpu, wait.va);
                Given::Taken
            }
        }
    }

    /// Sets the deadline of a job that waits for memory since then, by the set's clock. Any context.
    pub(super) fn queue_deadline(self: &Arc<Self>, since: u64) {
        let heaps = &self.drm.heaps;
        let end = since.saturating_add(heaps.stall_ms().into());
        let left = u32::try_from(end.saturating_sub(heaps.now())).unwrap_or(u32::MAX);

        workqueue::cancel_delayed::<_, 0>(self.as_arc_borrow());
        let _ = OwnedQueue::enqueue_delayed::<_, 0>(self.clone(), msecs_to_jiffies(left));
    }
}

impl KeepsQueue for Heap {
    fn queue(&self) -> &OwnedQueue {
        &self.drm.heaps.queue
    }
}

impl WorkItem for Heap {
    type Pointer = Arc<Self>;

    /// The deadline of a stall.
    fn run(this: Arc<Self>) {
        let _signalling = Signalling::begin();
        let heaps = &this.drm.heaps;
        let (va, place) = {
            let mut inner = this.inner.lock();

            match inner.waits.expire(heaps.now(), heaps.stall_ms().into()) {
                Expired::Nobody => return,
                Expired::NotYet(since) => {
                    // It was for an earlier one.
                    this.queue_deadline(since);
                    return;
                }
                Expired::GivenUp(va) => {
                    this.note_wait(&inner);
                    (va, inner.place.clone())
                }
            }
        };

        if let Some(place) = place {
            with_gpu(&this.drm, |gpu| place.space.retry(gpu, va));
        }
    }
}
