// SPDX-License-Identifier: GPL-2.0

//! Gives memory back when it is short, in the order of what that costs.
//!
//! Memory management asks how many pages could be freed ([`Shrinker::count`], which sums up
//! counters), and then to free some of them ([`Shrinker::scan`]). They are taken where it costs
//! least:
//!
//! 1. the content of idle BOs that user space has given up,
//! 2. memory of heaps, except content that may still be read,
//! 3. idle BOs, if there is room in swap,
//! 4. and 5. the first and the third again, from busy BOs, if the caller should wait: for at most
//!    [`PATIENCE_MS`] in all.
//!
//! Each step begins with the least recently used. Only resident pages count. The pages of an
//! evicted BO are not free yet, but memory management can swap them out from then on.
//!
//! In the steps that do not wait, a call visits at most as many BOs as it has pages to take, and
//! the next call continues behind them. A call therefore stays short even with thousands of busy
//! BOs. No call reports that nothing can be freed before all BOs that it was asked for have been
//! visited.
//!
//! Memory management asks for the BOs of one control group after another, or for those of a single
//! group if that has reached its own limit. A call for a group other than the root group visits all
//! of the group's BOs. The memory of a heap belongs to the group that is charged for it, like a BO.
//!
//! A task that has reached the limit of its own group waits for the busy BOs of that group as soon
//! as these are all that is left there. If memory is short for all, one call waits when as many
//! pages as the BOs of all groups have were visited in vain, and the next one when as many were
//! visited again. So it does not take longer the more groups there are. kswapd never waits.
//!
//! Any task that is short of memory can enter this, with any locks held: see
//! [`reclaim`] for how BOs are locked. It also works while the GPU is idle or gone, and needs the
//! GPU only for address spaces that are in the hardware.

use core::cell::Cell;

use kernel::{
    alloc::Flags,
    drm::gem::uma::{
        Limit,
        Lru,
        Scanned, //
    },
    mm::{
        memcg::MemCgroup,
        shrinker::{
            as_reclaim,
            free_swap_pages,
            is_kswapd,
            Control,
            Registration,
            Shrinker, //
        }, //
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
            at_own_limit,
            Busy,
            Means, //
        },
        Bo, //
    }, //
};

/// The time that a call waits for busy BOs, in milliseconds. Each of the two steps gets half of it.
const PATIENCE_MS: u32 = 50;

/// Numbers of pages that were taken, by the means.
#[derive(Clone, Copy, Default)]
pub(crate) struct Taken {
    /// Dropped with their content, which user space had given up.
    pub(crate) purged: usize,
    /// Taken from heaps.
    pub(crate) heaps: usize,
    /// Evicted, so that they can be swapped out.
    pub(crate) evicted: usize,
}

impl Taken {
    /// Returns the number of all pages.
    pub(crate) fn sum(&self) -> usize {
        self.purged
            .saturating_add(self.heaps)
            .saturating_add(self.evicted)
    }
}

/// Statistics of reclaim since the device was bound.
pub(crate) struct Statistics {
    purged: Atomic<usize>,
    heaps: Atomic<usize>,
    evicted: Atomic<usize>,
    /// The pages taken by the last call that user space asked for.
    asked: Atomic<usize>,
    /// Pages of the BOs that were visited in vain, by [`Means`], since all BOs had last been
    /// visited. Calls at the limit of a single group are left out, as they visit no others.
    vain: [Atomic<usize>; Means::ALL.len()],
}

impl Statistics {
    /// Returns statistics in which nothing was taken.
    pub(crate) fn new() -> Self {
        Self {
            purged: Atomic::new(0),
            heaps: Atomic::new(0),
            evicted: Atomic::new(0),
            asked: Atomic::new(0),
            vain: [const { Atomic::new(0) }; Means::ALL.len()],
        }
    }

    /// Returns the numbers of pages that were taken so far.
    pub(crate) fn taken(&self) -> Taken {
        Taken {
            purged: self.purged.load(Relaxed),
            heaps: self.heaps.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
        }
    }

    /// Returns the number of pages that the last [`shrink_as_asked`] took.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }

    fn add(&self, taken: Taken) {
        self.purged.add(taken.purged, Relaxed);
        self.heaps.add(taken.heaps, Relaxed);
        self.evicted.add(taken.evicted, Relaxed);
    }
}

/// Returns the list of the BOs of a group that can be reclaimed by these means; [`None`] if none
/// can, as there is no room in swap for the group.
fn list(of: Option<&MemCgroup>, means: Means) -> Option<Lru> {
    match means {
        Means::Purge => Some(Lru::DontNeed),
        Means::Evict => (free_swap_pages(of) != 0).then_some(Lru::WillNeed),
    }
}

/// Returns the number of pages that these means could take from the BOs of a group, if none were
/// busy.
fn pages(drm: &Device, of: Option<&MemCgroup>, means: Means) -> usize {
    list(of, means).map_or(0, |lru| Bo::reclaimable(drm, of, lru))
}

/// Returns whether memory is wanted from a single control group other than the root group.
fn is_of_one(of: Option<&MemCgroup>) -> bool {
    of.is_some_and(|of| !of.is_root())
}

/// Returns the number of pages that could be taken.
fn count(drm: &Device, control: &Control<'_>) -> usize {
    let of = control.group();

    pages(drm, of, Means::Purge)
        .saturating_add(drm.heaps.pages(of))
        .saturating_add(pages(drm, of, Means::Evict))
}

/// Takes `missing` pages from idle BOs by these means, or more, since BOs are taken whole. Visits
/// at most `missing` BOs, unless the pages are wanted from one group.
fn take(drm: &Device, of: Option<&MemCgroup>, means: Means, missing: usize) -> Scanned {
    let Some(lru) = list(of, means) else {
        return Scanned::default();
    };
    // The last reason why BOs could not be reclaimed. Others with the same reason are skipped.
    let busy: Cell<Option<Busy>> = Cell::new(None);

    let limit = Limit {
        target: missing,
        looks: match is_of_one(of) {
            true => usize::MAX,
            false => missing,
        },
    };

    Bo::scan(
        drm,
        of,
        lru,
        limit,
        |bo| busy.get().is_some_and(|busy| busy.applies_to(bo)),
        |bo| {
            // A BO that cannot be reclaimed now is passed over.
            let pages = reclaim::reclaim(bo, means).unwrap_or(0);

            // A BO that is busy for a reason of its own, as shared ones are, does not make the scan
            // forget the reason of the others. Taking pages takes time, after which it may be gone.
            busy.set(match pages {
                0 => Busy::of(bo, means).or(busy.get()),
                _ => None,
            });
            Some(pages)
        },
    )
}

/// Returns whether all BOs were visited in vain since this last returned true with `reset` set.
fn all_seen(drm: &Device, reset: bool) -> bool {
    let vain = &drm.reclaimed.vain;
    let all = Means::ALL
        .into_iter()
        .zip(vain)
        .all(|(means, vain)| vain.load(Relaxed) >= pages(drm, None, means));

    if all && reset {
        for vain in vain {
            vain.store(0, Relaxed);
        }
    }
    all
}

/// Like [`take`], but also waits for busy BOs, for `patience` jiffies in all, and visits any number
/// of BOs.
fn take_busy(
    drm: &Device,
    of: Option<&MemCgroup>,
    means: Means,
    missing: usize,
    mut patience: Jiffies,
) -> usize {
    let Some(lru) = list(of, means) else {
        return 0;
    };

    let take = |bo: &Bo| {
        reclaim::wait_idle(bo, means, &mut patience);
        let pages = reclaim::reclaim(bo, means).unwrap_or(0);

        (pages != 0 || patience != 0).then_some(pages)
    };

    let limit = Limit {
        target: missing,
        looks: usize::MAX,
    };

    Bo::scan(drm, of, lru, limit, |_| false, take).taken
}

/// Takes pages. Returns [`None`] if none can be taken at the moment.
fn scan(drm: &Device, control: &Control<'_>) -> Option<Taken> {
    let of = control.group();
    let mut taken = Taken::default();
    let missing = |taken: &Taken| control.target().saturating_sub(taken.sum());
    let is_of_one = is_of_one(of);
    let at_limit = is_of_one && at_own_limit(of);
    let take = |means: Means, missing| {
        let scanned = take(drm, of, means, missing);

        if !at_limit {
            let vain = scanned.seen.saturating_sub(scanned.taken);

            drm.reclaimed.vain[means as usize].add(vain, Relaxed);
        }
        scanned.taken
    };

    // Purging may have to wait for the writeback of a page.
    let purge = control.may_write_back();

    if purge {
        taken.purged = take(Means::Purge, missing(&taken));
    }
    taken.heaps = with_gpu(drm, |gpu| drm.heaps.scan(gpu, of, missing(&taken))).unwrap_or(0);
    taken.evicted = take(Means::Evict, missing(&taken));

    // Callers that do not wait leave that to those that do, once all BOs were visited.
    let waits = control.may_block() && !is_kswapd();
    let is_short = missing(&taken) != 0;
    let all_seen = is_short && (at_limit || all_seen(drm, waits));
    if all_seen && waits {
        let patience = msecs_to_jiffies(PATIENCE_MS / 2);

        if purge {
            taken.purged += take_busy(drm, of, Means::Purge, missing(&taken), patience);
        }
        taken.evicted += take_busy(drm, of, Means::Evict, missing(&taken), patience);
    }
    drm.reclaimed.add(taken);

    // All BOs of a single group were visited.
    let done = all_seen || (is_short && is_of_one);
    (taken.sum() != 0 || !done).then_some(taken)
}

/// Takes `pages` pages, as if memory management had asked for them. Returns the number taken.
///
/// If `flags` allow blocking, waits for busy BOs for as long as a call from memory management
/// would.
pub(crate) fn shrink(drm: &Device, pages: usize, flags: Flags) -> usize {
    let taken = as_reclaim(|| scan(drm, &Control::new(pages, flags)));

    taken.map_or(0, |taken| taken.sum())
}

/// Like [`shrink`], for user space. Records the result for [`Statistics::asked`].
pub(crate) fn shrink_as_asked(drm: &Device, pages: usize, flags: Flags) -> usize {
    let taken = shrink(drm, pages, flags);

    drm.reclaimed.asked.store(taken, Relaxed);
    taken
}

/// The shrinker of a device.
pub(crate) struct MemoryShrinker(ARef<Device>);

impl MemoryShrinker {
    /// Registers the shrinker of a device with memory management. Sleeps.
    pub(crate) fn register(drm: &Device) -> Result<Registration<Self>> {
        // Teaches lockdep the locks that reclaim waits for, before reclaim first takes them.
        let limit = Limit {
            target: 1,
            looks: 1,
        };
        as_reclaim(|| Bo::scan(drm, None, Lru::WillNeed, limit, |_| false, |_| None));

        let registration = Registration::new(c"drm_gpu", Self(drm.into()))?;

        drm.dma.set_shrinker(registration.id());
        Ok(registration)
    }
}

impl Shrinker for MemoryShrinker {
    const MEMCG_AWARE: bool = true;

    fn count(&self, control: &Control<'_>) -> usize {
        count(&self.0, control)
    }

    fn scan(&self, control: &Control<'_>) -> Option<usize> {
        // `None` if all locks are held by others or all BOs are busy: the caller would find the
        // same again.
        scan(&self.0, control).map(|taken| taken.sum())
    }
}
