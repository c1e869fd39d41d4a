// SPDX-License-Identifier: GPL-2.0

//! How heaps give memory back: after a while, when memory is short, and when they are closed.
//!
//! Chunks are removed from the page table, then flushed from the GPU's TLB with one command for all
//! of them, and then freed. The lock of the heap is held throughout, so that a fault on one of
//! these chunks is handled after the chunk is gone. Nothing here sleeps except to get that lock and
//! to close a heap, and nothing is allocated. If the flush fails, the chunks are stuck: they are
//! kept, and the flush is repeated later.

use kernel::{
    iommu::pgtable::Reserved,
    mm::memcg::MemCgroup,
    prelude::*,
    sync::Arc,
    workqueue, //
};

use super::{
    policy::{
        self,
        HeapProbe, //
    },
    Addresses,
    Event,
    Heap,
    HeapSet,
    Inner,
    CHUNK_PAGES, //
};
use crate::{
    device::{
        with_gpu,
        Gpu, //
    },
    mmu::Keepable, //
};

/// A heap that was closed with chunks that the GPU may still reach. Dropped when the GPU can no
/// longer reach them, which removes the heap from the list of the set. Without a heap until then.
pub(super) struct Remains(Option<Arc<Heap>>);

impl Remains {
    /// Allocates the memory that it takes to keep a heap.
    pub(super) fn new() -> Result<Keepable<Self>> {
        Keepable::new(Self(None), GFP_KERNEL_ACCOUNT)
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        let Some(heap) = &self.0 else {
            return;
        };

        with_gpu(&heap.drm, |gpu| heap.drm.heaps.remove(Some(gpu), heap))
            .unwrap_or_else(|| heap.drm.heaps.remove(None, heap));
    }
}

impl HeapSet {
    /// Returns the number of pages in the chunks and the credit of the dead heaps that the control
    /// group `of` pays for; [`None`] stands for all groups. Takes a spinlock, unless there are none
    /// at all or all groups are asked for.
    pub(crate) fn pages(&self, of: Option<&MemCgroup>) -> usize {
        match (self.payers.all_pages(), of) {
            (0, _) => 0,
            (all, None) => all,
            (_, Some(of)) => self.payers.pages(|payer| of.pays_for(payer.as_deref())),
        }
    }

    /// Frees `nr` of the pages counted by [`Self::pages`], or as many as possible, rounded up to
    /// whole chunks. Returns the number of pages freed.
    ///
    /// For the shrinker: only tries to get the locks of the list and of the heaps, and allocates
    /// nothing. Live content is kept. A chunk is only freed once the GPU can no longer reach it.
    pub(crate) fn scan(&self, gpu: &Gpu<'_>, of: Option<&MemCgroup>, nr: usize) -> usize {
        let mut freed = 0;

        // Do not walk through the heaps of others in vain.
        if self.pages(of) == 0 {
            return 0;
        }
        let Some(list) = self.list.try_lock() else {
            return 0;
        };

        for heap in list.iter().filter(|heap| heap.is_of(of)) {
            if freed >= nr {
                break;
            }
            freed += heap.try_give_back(gpu, nr - freed);
        }
        freed
    }
}

impl Heap {
    /// Closes the heap, which loses its addresses and its memory. Sleeps.
    pub(in crate::gem) fn close(self: &Arc<Self>) {
        let addresses = self.inner.lock().addresses.clone();
        let Some(addresses) = addresses else {
            return;
        };

        addresses.file_heaps.remove(self);
        with_gpu(&self.drm, |gpu| {
            let mut inner = self.inner.lock();
            let gone = inner.waits.end();
            self.note_wait(&inner);
            self.release(gpu, &mut inner, &addresses, 0, usize::MAX);
            let stuck = inner.chunks.filled() != 0;
            let remains = inner.remains.take();
            inner.addresses = None;
            self.recount(&mut inner);
            drop(inner);

            match remains {
                Some(mut remains) if stuck => {
                    remains.0 = Some(self.clone());
                    addresses.space.keep(remains);
                }
                _ => self.drm.heaps.remove(Some(gpu), self),
            }

            // Retry the stalled accesses, which now fail.
            for va in gone {
                addresses.space.retry(gpu, va);
            }
        })
        .unwrap_or_else(|| {
            // Unbind has freed the memory, or leaked it if the hardware could not be stopped.
            self.drm.heaps.remove(None, self);

            let mut inner = self.inner.lock();
            inner.addresses = None;
            self.recount(&mut inner);
        });
        self.inner.lock().tables = Reserved::new();
        workqueue::cancel_delayed_sync::<_, 0>(self.as_arc_borrow());
    }

    /// Gives back up to `max` chunks: the credit first, then stuck chunks, which are freed all at
    /// once if the GPU can be made to forget them, then mapped chunks from the highest address
    /// down, of which at least `keep` stay. Returns the number of chunks freed. Does not sleep.
    ///
    /// The content must be dead, or the heap about to be closed. The caller holds the lock of
    /// `inner`.
    pub(super) fn release(
        &self,
        gpu: &Gpu<'_>,
        inner: &mut Inner,
        addresses: &Addresses,
        keep: usize,
        max: usize,
    ) -> usize {
        let dev = gpu.dev();
        let mut freed = 0;

        while freed < max && inner.credit.pop(dev).is_some() {
            freed += 1;
        }
        freed += self.free_stuck(gpu, inner, addresses).unwrap_or(0);

        let mapped = inner.mapped(gpu).count();
        let keep = keep.max(mapped.saturating_sub(max.saturating_sub(freed)));
        if mapped <= keep {
            return freed;
        }

        let going = inner.mapped(gpu).skip(keep);
        let unmapped = addresses
            .space
            .unmap_with(gpu, going.map(|index| addresses.range(index)));
        // Free all chunks that are mapped from this one on, which were unmapped above.
        let Some(first) = inner.mapped(gpu).nth(keep) else {
            return freed;
        };
        for index in first..self.len {
            if inner.chunks.get(dev, index).is_none() || inner.is_stuck(index) {
                continue;
            }
            if unmapped.is_err() {
                // The GPU may still write to the chunk.
                inner.stuck.set_bit(index);
            } else if inner.chunks.take(dev, index).is_some() {
                freed += 1;
            }
        }
        if unmapped.is_err() {
            // Look at the heap again after the reset.
            self.drm.heaps.queue_trim();
        }
        if inner.chunks.filled() == 0 {
            // Cannot fail: the heap was not empty.
            inner.state = inner.state.after(Event::Empty).unwrap_or(inner.state);
        }
        freed
    }

    /// Frees the stuck chunks, if the GPU can be made to forget them now. Returns the number of
    /// chunks freed, or an error if they are still stuck. Does not sleep.
    pub(super) fn free_stuck(
        &self,
        gpu: &Gpu<'_>,
        inner: &mut Inner,
        addresses: &Addresses,
    ) -> Result<usize> {
        let mut freed = 0;
        let Some(first) = inner.stuck.next_bit(0) else {
            return Ok(0);
        };
        let last = inner.stuck.last_bit().unwrap_or(first);

        addresses.space.forget_with(
            gpu,
            &(addresses.range(first).start..addresses.range(last).end),
        )?;
        while let Some(index) = inner.stuck.next_bit(0) {
            inner.stuck.clear_bit(index);
            if inner.chunks.take(gpu.dev(), index).is_some() {
                freed += 1;
            }
        }
        Ok(freed)
    }

    /// Gives back up to `nr` pages, rounded up to whole chunks, if the content is dead and the lock
    /// is free. Returns the number of pages freed.
    pub(super) fn try_give_back(&self, gpu: &Gpu<'_>, nr: usize) -> usize {
        let Some(mut inner) = self.inner.try_lock() else {
            return 0;
        };
        let Some(addresses) = inner.addresses.clone() else {
            return 0;
        };
        if inner.life.is_live() {
            return 0;
        }

        let freed = self.release(gpu, &mut inner, &addresses, 0, nr.div_ceil(CHUNK_PAGES));
        self.recount(&mut inner);
        freed * CHUNK_PAGES
    }

    /// Gives back the chunks beyond [`policy::WORKING_SET`] and the credit, if the heap has been
    /// dead for [`policy::IDLE_MS`]. Returns whether the heap has to be trimmed again.
    pub(super) fn trim(&self, gpu: &Gpu<'_>) -> bool {
        let now = self.drm.heaps.now();
        let mut inner = self.inner.lock();
        let Some(addresses) = inner.addresses.clone() else {
            return false;
        };

        // The worker is queued when the heap dies.
        if inner.life.is_live() {
            return false;
        }
        if now.saturating_sub(inner.dead_since) < u64::from(policy::IDLE_MS) {
            return true;
        }
        self.release(gpu, &mut inner, &addresses, policy::WORKING_SET, usize::MAX);
        let left = inner.chunks.filled();
        inner.high.idle(left);
        inner.probe = HeapProbe::new(now);
        self.recount(&mut inner);
        inner.stuck.next_bit(0).is_some()
    }

    /// Probes a heap whose content has just died, if a probe is due: gives back the credit, and the
    /// chunks that the heap may not need. Sleeps.
    pub(super) fn probe(&self, gpu: &Gpu<'_>) {
        let now = self.drm.heaps.now();
        let mut inner = self.inner.lock();
        let chunks = inner.chunks.filled();
        let Some(addresses) = inner.addresses.clone() else {
            return;
        };

        if inner.life.is_live() {
            return;
        }
        if let Some(keep) = inner.probe.run(now, chunks) {
            self.release(gpu, &mut inner, &addresses, keep, usize::MAX);
            let left = inner.chunks.filled();
            inner.high.idle(left);
            self.recount(&mut inner);
        }
    }
}
