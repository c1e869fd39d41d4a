// SPDX-License-Identifier: GPL-2.0

//! The charging of a heap's memory, and the allocation of credit.
//!
//! All chunks of a heap, whether mapped, stuck or credit, are charged to the control group of the
//! task that has created the heap. A chunk is charged before it is allocated, so that a group never
//! exceeds its limit. On a fault the charge is made in the interrupt thread or by the refill
//! worker, where nothing is reclaimed. If it fails, the job stalls as if there were no memory, and
//! the reclaim worker, which no fence depends on, reclaims memory of this group only.
//!
//! The device's reserve of [`policy::RESERVE`] chunks, and the chunks that refill and reclaim have
//! not completed yet, are not charged to any group.
//!
//! Locks: [`Heap::take_one`] is called with the mutex of the heap held, and takes that of the
//! reserve inside it. [`Heap::top_up`] takes the mutex of the heap, but not while it allocates or
//! reclaims; it is for submissions, before they lock a reservation.

use kernel::{
    alloc::Flags,
    drm::gem::uma::{
        Chunk,
        Partial, //
    },
    mm::memcg::Charge,
    prelude::*,
    time::{
        Instant,
        Monotonic, //
    }, //
};

use super::{
    at_once,
    patiently,
    policy,
    set::STEP_PAGES,
    Heap,
    CHUNK, //
};
use crate::device::Gpu;

impl Heap {
    /// Charges the payer for a chunk that is about to be allocated. Sleeps and reclaims memory of
    /// the payer if the flags allow it. Returns [`None`] if the heap has no payer.
    pub(super) fn charge(&self, flags: Flags) -> Result<Option<Charge>> {
        self.contribution
            .group()
            .as_ref()
            .map(|payer| payer.charge(CHUNK, flags))
            .transpose()
    }

    /// Returns a chunk that is charged to the payer, from the reserve or the page allocator. Does
    /// not wait for memory.
    pub(super) fn take_one<'a>(&self, gpu: &'a Gpu<'_>) -> Option<Chunk<'a>> {
        let charge = self.charge(at_once()).ok()?;
        let mut chunk = self
            .drm
            .heaps
            .take(gpu)
            .or_else(|| Chunk::new(gpu.dev(), at_once()).ok())?;

        chunk.pay(charge);
        Some(chunk)
    }

    /// Allocates a chunk. Reclaims memory until there is enough or `is_late` returns `true`.
    fn allocate<'a>(&self, gpu: &'a Gpu<'_>, is_late: impl Fn() -> bool) -> Option<Chunk<'a>> {
        if let Ok(chunk) = Chunk::new(gpu.dev(), GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN) {
            return Some(chunk);
        }
        let mut partial = Partial::new(&self.drm.heaps.space, gpu.dev()).ok()?;

        // Memory that is hard to get is allocated a few pages at a time.
        while !is_late() {
            if let Some(chunk) = partial.grow(gpu.dev(), STEP_PAGES, patiently()).ok()? {
                return Some(chunk);
            }
        }
        None
    }

    /// Tops up the heap's credit for a job, as far as memory is available. Sleeps, and reclaims
    /// memory, but begins nothing when [`policy::TOP_UP_MS`] have passed since `begin`.
    pub(super) fn top_up(&self, gpu: &Gpu<'_>, begin: Instant<Monotonic>) {
        let is_late = || begin.elapsed().as_millis() >= policy::TOP_UP_MS;

        while !gpu.halted() && !is_late() {
            {
                let inner = self.inner.lock();
                let wanted = policy::credit(self.len, inner.chunks.filled(), inner.high.peak());
                if inner.credit.filled() >= wanted {
                    break;
                }
            }
            // Do not delay a submission for long if its group is at the limit: credit is optional.
            let Ok(charge) = self.charge(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN) else {
                break;
            };
            let Some(mut chunk) = self.allocate(gpu, is_late) else {
                break;
            };
            chunk.pay(charge);
            let mut inner = self.inner.lock();
            if inner.credit.push(gpu.dev(), chunk).is_err() {
                break;
            }
            self.recount(&mut inner);
        }
        self.drm.heaps.keep_reserve();
    }
}
