// SPDX-License-Identifier: GPL-2.0

//! What gives memory back when it is short, and in which order.
//!
//! Memory management asks how many pages could be had ([`Shrinker::count`], which reads numbers), and
//! then for some of them ([`Shrinker::scan`]). They are taken where it costs least:
//!
//! 1. what user space has given up, of idle BOs,
//! 2. what heaps have beyond content that may still be read,
//! 3. idle BOs, if there is room in swap,
//! 4. and 5. the first and the third of BOs that are busy, if the caller may wait: for [`PATIENCE_MS`] in
//!    all.
//!
//! Each begins with what was not used for the longest time. What counts is pages that are there; those
//! of an evicted BO are not free yet, but memory management can swap them out from then on.
//!
//! A call looks at as many BOs as it is to take pages, and the next one goes on behind them. So with
//! thousands that are busy it does not take long; and nobody waits for those, nor is told that there is
//! nothing, before all have been looked at.
//!
//! Whoever is short of memory calls this, with their locks: see [`reclaim`](gem::reclaim) for how BOs
//! are locked. It works on a GPU that is idle or gone as well, and has it do nothing unless the address
//! space is in the hardware.

use core::cell::Cell;

use kernel::{
    alloc::Flags,
    drm::gem::uma::Lru,
    mm::shrinker::{
        as_reclaim,
        free_swap_pages,
        Control,
        Registration,
        Shrinker, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        }, //
    },
    time::{
        msecs_to_jiffies,
        Jiffies, //
    }, //
};

use crate::{
    device::{
        with_gpu,
        Device, //
    },
    gem::{
        reclaim::{
            self,
            Means, //
        },
        Bo, //
    }, //
};

/// How long a call waits for busy BOs, in milliseconds: half of it for each of the two steps.
const PATIENCE_MS: u32 = 50;

/// Pages that were taken, by how.
#[derive(Clone, Copy, Default)]
pub(crate) struct Taken {
    /// With their content, which user space had given up.
    pub(crate) purged: usize,
    /// From heaps.
    pub(crate) heaps: usize,
    /// To swap.
    pub(crate) evicted: usize,
}

impl Taken {
    /// All of them.
    pub(crate) fn sum(&self) -> usize {
        self.purged
            .saturating_add(self.heaps)
            .saturating_add(self.evicted)
    }
}

/// What was taken since the device was bound.
pub(crate) struct Record {
    purged: Atomic<usize>,
    heaps: Atomic<usize>,
    evicted: Atomic<usize>,
    /// Of the last call that user space has asked for.
    asked: Atomic<usize>,
    /// Pages of the BOs that were looked at in vain, by [`Means`], since all have been.
    vain: [Atomic<usize>; Means::ALL.len()],
}

impl Record {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            purged: Atomic::new(0),
            heaps: Atomic::new(0),
            evicted: Atomic::new(0),
            asked: Atomic::new(0),
            vain: [const { Atomic::new(0) }; Means::ALL.len()],
        }
    }

    /// What was taken so far.
    pub(crate) fn taken(&self) -> Taken {
        Taken {
            purged: self.purged.load(Relaxed),
            heaps: self.heaps.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
        }
    }

    /// How many pages the last [`shrink`] has taken.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    fn add(&self, taken: Taken) {
        self.purged.add(taken.purged, Relaxed);
        self.heaps.add(taken.heaps, Relaxed);
        self.evicted.add(taken.evicted, Relaxed);
    }
}

/// The list of those that can be taken from by one means.
fn list(means: Means) -> Option<Lru> {
    match means {
        Means::Purge => Some(Lru::DontNeed),
        Means::Evict => (free_swap_pages() != 0).then_some(Lru::WillNeed),
    }
}

/// Pages that could be taken by one means, if nothing were busy. Takes no lock.
fn pages(drm: &Device, means: Means) -> usize {
    list(means).map_or(0, |lru| Bo::reclaimable(drm, lru))
}

/// Pages that could be taken. Takes no lock.
fn count(drm: &Device) -> usize {
    pages(drm, Means::Purge)
        .saturating_add(drm.heaps.pages())
        .saturating_add(pages(drm, Means::Evict))
}

/// Takes up to `missing` pages, or what BOs have beyond, by one means. Looks at so many BOs at most.
fn take(drm: &Device, means: Means, missing: usize) -> usize {
    let Some(lru) = list(means) else {
        return 0;
    };
    // The last address space that was found to be busy, with all that is in no other.
    let busy = Cell::new(None);

    let scanned = Bo::scan(
        drm,
        lru,
        missing,
        missing,
        |bo| busy.get().is_some_and(|vm| bo.is_only_in(vm)),
        |bo| {
            // What cannot go now is left alone.
            let pages = reclaim::reclaim(bo, means).unwrap_or(0);

            if pages == 0 {
                busy.set(reclaim::busy_vm(bo));
            }
            Some(pages)
        },
    );
    let vain = scanned.seen.saturating_sub(scanned.taken);
    drm.reclaimed.vain[means as usize].add(vain, Relaxed);
    scanned.taken
}

/// Whether all BOs have been looked at in vain since this was true for the last time with `reset`.
fn all_seen(drm: &Device, reset: bool) -> bool {
    let vain = &drm.reclaimed.vain;
    let all = Means::ALL
        .into_iter()
        .zip(vain)
        .all(|(means, vain)| vain.load(Relaxed) >= pages(drm, means));

    if all && reset {
        for vain in vain {
            vain.store(0, Relaxed);
        }
    }
    all
}

/// [`take`], from BOs that are busy: waits for them until `patience` jiffies are used up.
fn take_busy(drm: &Device, means: Means, missing: usize, mut patience: Jiffies) -> usize {
    let Some(lru) = list(means) else {
        return 0;
    };

    let take = |bo: &Bo| {
        reclaim::wait_idle(bo, &mut patience);
        let pages = reclaim::reclaim(bo, means).unwrap_or(0);

        (pages != 0 || patience != 0).then_some(pages)
    };

    Bo::scan(drm, lru, missing, usize::MAX, |_| false, take).taken
}

/// Takes pages. [`None`]: there are none, at the moment.
fn scan(drm: &Device, control: &Control) -> Option<Taken> {
    let mut taken = Taken::default();
    let missing = |taken: &Taken| control.target().saturating_sub(taken.sum());

    taken.purged = take(drm, Means::Purge, missing(&taken));
    taken.heaps = with_gpu(drm, |gpu| drm.heaps.scan(gpu, missing(&taken))).unwrap_or(0);
    taken.evicted = take(drm, Means::Evict, missing(&taken));

    // Those who may not wait leave it to others, who do when all have been looked at.
    let all_seen = missing(&taken) != 0 && all_seen(drm, control.may_block());
    if all_seen && control.may_block() {
        let patience = msecs_to_jiffies(PATIENCE_MS / 2);

        taken.purged += take_busy(drm, Means::Purge, missing(&taken), patience);
        taken.evicted += take_busy(drm, Means::Evict, missing(&taken), patience);
    }
    drm.reclaimed.add(taken);
    (taken.sum() != 0 || !all_seen).then_some(taken)
}

/// Takes `pages` pages, as if memory management had asked for them. Returns how many it were.
///
/// Waits, for as long as the calls of memory management do, if the flags allow it.
pub(crate) fn shrink(drm: &Device, pages: usize, flags: Flags) -> usize {
    let taken = as_reclaim(|| scan(drm, &Control::new(pages, flags)));

    taken.map_or(0, |taken| taken.sum())
}

/// [`shrink`] for user space, which can ask for the result.
pub(crate) fn shrink_as_asked(drm: &Device, pages: usize, flags: Flags) -> usize {
    let taken = shrink(drm, pages, flags);

    drm.reclaimed.asked.store(taken, Relaxed);
    taken
}

/// The device as a cache that can shrink.
pub(crate) struct MemoryShrinker(ARef<Device>);

impl MemoryShrinker {
    /// Tells memory management about a device.
    pub(crate) fn register(drm: &Device) -> Result<Registration<Self>> {
        // Lockdep is to know what reclaim waits for, before it does.
        as_reclaim(|| Bo::scan(drm, Lru::WillNeed, 1, 1, |_| false, |_| None));

        Registration::new(c"drm_gpu", Self(drm.into()))
    }
}

impl Shrinker for MemoryShrinker {
    fn count(&self) -> usize {
        count(&self.0)
    }

    fn scan(&self, control: &Control) -> Option<usize> {
        // None if the locks are taken, or all is busy: this caller would find the same again.
        scan(&self.0, control).map(|taken| taken.sum())
    }
}
