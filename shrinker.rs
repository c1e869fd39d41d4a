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
//! Whoever is short of memory calls this, with their locks: see [`reclaim`](gem::reclaim) for how BOs
//! are locked. It works on a GPU that is idle or gone as well, and has it do nothing unless the address
//! space is in the hardware.

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
}

impl Record {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            purged: Atomic::new(0),
            heaps: Atomic::new(0),
            evicted: Atomic::new(0),
            asked: Atomic::new(0),
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

/// Pages that could be taken. Takes no lock.
fn count(drm: &Device) -> usize {
    let cheap = Bo::reclaimable(drm, Lru::DontNeed).saturating_add(drm.heaps.pages());

    match free_swap_pages() {
        0 => cheap,
        _ => cheap.saturating_add(Bo::reclaimable(drm, Lru::WillNeed)),
    }
}

/// Takes up to `missing` pages, or what BOs have beyond, by one means. Waits for BOs that are busy until
/// `patience` jiffies are used up.
fn take(drm: &Device, means: Means, missing: usize, mut patience: Option<Jiffies>) -> usize {
    let lru = match means {
        Means::Purge => Lru::DontNeed,
        Means::Evict if free_swap_pages() == 0 => return 0,
        Means::Evict => Lru::WillNeed,
    };

    Bo::scan(drm, lru, missing, |bo| {
        if let Some(left) = &mut patience {
            reclaim::wait_idle(bo, left);
        }
        // What cannot go now is left alone.
        let pages = reclaim::reclaim(bo, means).unwrap_or(0);

        (pages != 0 || patience != Some(0)).then_some(pages)
    })
}

/// Takes pages.
fn scan(drm: &Device, control: &Control) -> Taken {
    let mut taken = Taken::default();
    let missing = |taken: &Taken| control.target().saturating_sub(taken.sum());

    taken.purged = take(drm, Means::Purge, missing(&taken), None);
    taken.heaps = with_gpu(drm, |gpu| drm.heaps.scan(gpu, missing(&taken))).unwrap_or(0);
    taken.evicted = take(drm, Means::Evict, missing(&taken), None);

    if control.may_block() && missing(&taken) != 0 {
        let patience = msecs_to_jiffies(PATIENCE_MS / 2);

        taken.purged += take(drm, Means::Purge, missing(&taken), Some(patience));
        taken.evicted += take(drm, Means::Evict, missing(&taken), Some(patience));
    }
    drm.reclaimed.add(taken);
    taken
}

/// Takes `pages` pages, as if memory management had asked for them. Returns how many it were.
pub(crate) fn shrink(drm: &Device, pages: usize, flags: Flags) -> usize {
    let taken = as_reclaim(|| scan(drm, &Control::new(pages, flags))).sum();

    drm.reclaimed.asked.store(taken, Relaxed);
    taken
}

/// The device as a cache that can shrink.
pub(crate) struct MemoryShrinker(ARef<Device>);

impl MemoryShrinker {
    /// Tells memory management about a device.
    pub(crate) fn register(drm: &Device) -> Result<Registration<Self>> {
        // Lockdep is to know what reclaim waits for, before it does.
        as_reclaim(|| Bo::scan(drm, Lru::WillNeed, 1, |_| None));

        Registration::new(c"drm_gpu", Self(drm.into()))
    }
}

impl Shrinker for MemoryShrinker {
    fn count(&self) -> usize {
        count(&self.0)
    }

    fn scan(&self, control: &Control) -> Option<usize> {
        match scan(&self.0, control).sum() {
            // The locks are taken, or all is busy. This caller would find the same again.
            0 => None,
            taken => Some(taken),
        }
    }
}
