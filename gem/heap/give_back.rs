// SPDX-License-Identifier: GPL-2.0

//! How heaps give memory back: after a while, and when memory is short.
//!
//! What goes is unmapped from the page table; the GPU is made to forget it, once for all that goes at
//! a time; and then it is free. The lock of the heap is held meanwhile, so that a fault on what goes is
//! seen when it has gone. Does not sleep but for that lock, and allocates nothing.

use core::mem;

use super::{
    policy::{
        self,
        Probe, //
    },
    Event,
    Heap,
    Inner,
    Place,
    CHUNK_PAGES, //
};
use crate::device::Gpu;

impl Heap {
    /// Gives up to `max` chunks back, with the highest addresses first, and keeps `keep`. Credit goes
    /// first. Returns how many went. Does not sleep.
    ///
    /// The content must be dead.
    pub(super) fn release(
        &self,
        gpu: &Gpu<'_>,
        inner: &mut Inner,
        place: &Place,
        keep: usize,
        max: usize,
    ) -> usize {
        let dev = gpu.dev();
        let mut freed = 0;

        while freed < max && inner.credit.pop(dev).is_some() {
            freed += 1;
        }

        let filled = inner.chunks.filled();
        let keep = keep.max(filled.saturating_sub(max - freed));
        if filled <= keep {
            return freed;
        }

        let going = inner.chunks.indices(dev).skip(keep);
        let unmapped = place
            .space
            .unmap_with(gpu, going.map(|index| place.range(index)));
        loop {
            let index = inner.chunks.indices(dev).nth(keep);
            let Some(chunk) = index.and_then(|index| inner.chunks.take(dev, index)) else {
                break;
            };
            if unmapped.is_err() {
                // The GPU may still write to it.
                mem::forget(chunk);
            } else {
                freed += 1;
            }
        }
        if inner.chunks.filled() == 0 {
            // It was not empty.
            inner.state = inner.state.after(Event::Empty).unwrap_or(inner.state);
        }
        freed
    }

    /// Gives back up to `nr` pages of dead content, if nobody has the lock. Returns how many.
    pub(super) fn try_give_back(&self, gpu: &Gpu<'_>, nr: usize) -> usize {
        let Some(mut inner) = self.inner.try_lock() else {
            return 0;
        };
        let Some(place) = inner.place.clone() else {
            return 0;
        };
        if inner.life.is_live() {
            return 0;
        }

        let freed = self.release(gpu, &mut inner, &place, 0, nr.div_ceil(CHUNK_PAGES));
        self.recount(&mut inner);
        freed * CHUNK_PAGES
    }

    /// Gives back what the heap does not need, if it was dead for a while. Whether it has to be looked
    /// after again.
    pub(super) fn trim(&self, gpu: &Gpu<'_>) -> bool {
        let now = self.drm.heaps.now();
        let mut inner = self.inner.lock();
        let Some(place) = inner.place.clone() else {
            return false;
        };

        // When it dies, the worker is told.
        if inner.life.is_live() {
            return false;
        }
        if now.saturating_sub(inner.dead_since) < u64::from(policy::IDLE_MS) {
            return true;
        }
        self.release(gpu, &mut inner, &place, policy::WORKING_SET, usize::MAX);
        let left = inner.chunks.filled();
        inner.high.idle(left);
        inner.probe = Probe::new(now);
        self.recount(&mut inner);
        false
    }

    /// Takes from the heap, which was in use just now, what it may not need, if it is time to.
    pub(super) fn probe(&self, gpu: &Gpu<'_>) {
        let now = self.drm.heaps.now();
        let mut inner = self.inner.lock();
        let chunks = inner.chunks.filled();
        let Some(place) = inner.place.clone() else {
            return;
        };

        if inner.life.is_live() {
            return;
        }
        if let Some(keep) = inner.probe.ask(now, chunks) {
            self.release(gpu, &mut inner, &place, keep, usize::MAX);
            let left = inner.chunks.filled();
            inner.high.idle(left);
            self.recount(&mut inner);
        }
    }
}
