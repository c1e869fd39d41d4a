// SPDX-License-Identifier: GPL-2.0

//! Jobs that wait for memory, and their deadlines.
//!
//! The fences of these jobs depend on this code, so nothing here waits for memory. Process context:
//! the MMU's interrupt thread sets the deadline, and workers do the rest.
//!
//! Lock: the mutex of the heap, inside which the spinlocks of the page table are taken.

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

/// The result of giving a chunk to a stalled job.
pub(super) enum Given<'a> {
    /// The heap owns the chunk, or has freed it: there is nothing left to do with it.
    Taken,
    /// No job needs the chunk any more. The caller gets it back.
    Spare(Chunk<'a>),
    /// There was no memory for page tables. The chunk has become credit, and the job still waits:
    /// the caller tries again later.
    NotEnough,
}

impl Heap {
    /// Gives a chunk, which is charged to the payer, to the job that has waited for the longest
    /// time, if any still waits. Does not wait for memory.
    pub(super) fn give<'a>(&self, gpu: &Gpu<'_>, chunk: Chunk<'a>) -> Given<'a> {
        let mut inner = self.inner.lock();
        let (Some(wait), Some(addresses)) = (inner.waits.first().copied(), inner.addresses.clone())
        else {
            return Given::Spare(chunk);
        };

        if inner.chunks.get(gpu.dev(), wait.index).is_some() {
            // The chunk was mapped in the meantime, which has let the access continue.
            inner.waits.end_for(wait.index);
            self.note_wait(&inner);
            return Given::Spare(chunk);
        }
        let result = self.insert(gpu, &mut inner, &addresses, wait.index, chunk);

        self.recount(&mut inner);
        match result {
            Ok(()) => Given::Taken,
            // The next chunk triggers another attempt, until the deadline.
            Err(ENOMEM) => Given::NotEnough,
            // More memory does not help. Retry the accesses, which then fail like any other.
            Err(_) => {
                let gone = inner.waits.end();
                self.note_wait(&inner);
                drop(inner);
                for va in gone {
                    addresses.space.retry(gpu, va);
                }
                Given::Taken
            }
        }
    }

    /// Sets the timer to the deadline of a job that has waited since `since`, by the set's clock.
    /// Callable from any context.
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

    /// Gives up on the jobs whose deadline has passed, and retries their accesses.
    fn run(this: Arc<Self>) {
        let _signalling = Signalling::begin();
        let heaps = &this.drm.heaps;

        loop {
            let (va, addresses) = {
                let mut inner = this.inner.lock();

                match inner.waits.expire(heaps.now(), heaps.stall_ms().into()) {
                    Expired::Nobody => return,
                    Expired::NotYet(since) => {
                        // The timer was set for an earlier job.
                        this.queue_deadline(since);
                        return;
                    }
                    Expired::GivenUp(va) => {
                        this.note_wait(&inner);
                        (va, inner.addresses.clone())
                    }
                }
            };

            if let Some(addresses) = addresses {
                with_gpu(&this.drm, |gpu| addresses.space.retry(gpu, va));
            }
        }
    }
}
