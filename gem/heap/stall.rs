// SPDX-License-Identifier: GPL-2.0

//! A job that waits for memory, and the deadline of that.
//!
//! The fence of the job waits for all of this: nothing here waits for memory.

use kernel::{
    dma_buf::fence::Signalling,
    drm::gem::uma::Chunk,
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    time::{
        msecs_to_jiffies,
        Instant,
        Monotonic, //
    },
    workqueue::{
        self,
        KeepsQueue,
        OwnedQueue,
        WorkItem, //
    }, //
};

use super::Heap;
use crate::device::{
    with_gpu,
    Gpu, //
};

/// A fault that waits for memory.
pub(super) struct Stall {
    pub(super) va: u64,
    pub(super) since: Instant<Monotonic>,
}

/// What became of a chunk that was got for a stalled job.
pub(super) enum Given<'a> {
    /// It was put in its place, or into the credit.
    Taken,
    /// Nobody waits for it any more.
    Spare(Chunk<'a>),
}

impl Heap {
    /// Takes a chunk for the job that waits, if it still does. Waits for no memory.
    pub(super) fn give<'a>(&self, gpu: &Gpu<'_>, chunk: Chunk<'a>) -> Given<'a> {
        let mut inner = self.inner.lock();
        let Some(stall) = &inner.stall else {
            return Given::Spare(chunk);
        };
        let va = stall.va;

        let (Some(index), Some(place)) = (inner.chunk_of(self.len, va), inner.place.clone()) else {
            return Given::Spare(chunk);
        };
        if inner.chunks.get(gpu.dev(), index).is_some() {
            // What was mapped before us has let the access go on.
            inner.stall = None;
            self.stalled.store(false, Relaxed);
            return Given::Spare(chunk);
        }
        let result = self.insert(gpu, &mut inner, &place, index, chunk);

        self.recount(&mut inner);
        match result {
            // If it fails, the next chunk tries again, until the deadline.
            Ok(()) | Err(ENOMEM) => (),
            // More memory is no help: the access is to fail like any other.
            Err(_) => {
                inner.stall = None;
                self.stalled.store(false, Relaxed);
                drop(inner);
                place.space.retry(gpu, va);
            }
        }
        Given::Taken
    }

    /// Starts the time that a job waits for memory. Any context.
    pub(super) fn queue_deadline(self: &Arc<Self>, ms: u32) {
        workqueue::cancel_delayed::<_, 0>(self.as_arc_borrow());
        let _ = OwnedQueue::enqueue_delayed::<_, 0>(self.clone(), msecs_to_jiffies(ms));
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
        let limit = i64::from(this.drm.heaps.stall_ms());
        let (va, place) = {
            let mut inner = this.inner.lock();
            let Some(stall) = &inner.stall else {
                return;
            };
            let va = stall.va;
            let left = limit - stall.since.elapsed().as_millis();

            if left > 0 {
                // It was for an earlier one.
                this.queue_deadline(u32::try_from(left).unwrap_or(1));
                return;
            }
            inner.given_up = inner.chunk_of(this.len, va);
            inner.stall = None;
            this.stalled.store(false, Relaxed);
            (va, inner.place.clone())
        };

        if let Some(place) = place {
            with_gpu(&this.drm, |gpu| place.space.retry(gpu, va));
        }
    }
}
