// SPDX-License-Identifier: GPL-2.0

//! Taking pages from a BO because memory is short.
//!
//! Pages can be taken from a BO if only address spaces hold them. For an eviction, the BO must be
//! idle, and so must the reservations of all these address spaces: a job can reach everything in
//! its address space, listed or not. Content that user space has given up may be dropped as soon as
//! the BO itself is idle, as in the C driver: user space has said that no other job needs it, and
//! the BO cache of a client that keeps the GPU busy may be the only memory that can be had.
//! Everything that is checked without locks is checked again with them.
//!
//! Jobs that list a BO are published with its reservation locked, or with that of the address space
//! if the BO is [private](super::private).
//!
//! [`reclaim`] is called by code that is short of memory and may hold any lock. So all locks but
//! spinlocks are only tried, in this order: the BO's reservation unless it is private, its state,
//! then for one address space after the other its reservation and the mapping's memory, and last
//! the lock of the pages. Nothing is allocated.

use kernel::{
    dma_buf::{
        fence::Fence,
        resv::Usage,
        Waited, //
    },
    drm::gem::BaseObject,
    mm::{
        memcg::MemCgroup,
        shrinker::is_at_own_limit, //
    },
    prelude::*,
    sync::aref::ARef,
    time::Jiffies, //
};

use super::{
    object::BoData,
    Bo,
    Mapping, //
};

/// A client with room for fewer pages than this counts as being at its own limit, as the kernel
/// charges up to 64 pages at a time.
const MARGIN: usize = 64;

/// Returns whether the current task has reached the limit of its own control group, not counting
/// page cache; with `of`, a limit of its own that `of` is subject to as well.
pub(crate) fn at_own_limit(of: Option<&MemCgroup>) -> bool {
    is_at_own_limit(of, MARGIN)
}

/// The way in which pages are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// Drop the pages with their content, which user space has given up. It never comes back.
    Purge,
    /// Give the pages back to shmem, which may swap them out. The next use brings them back.
    Evict,
}

impl Means {
    /// Both means.
    pub(crate) const ALL: [Self; 2] = [Self::Purge, Self::Evict];
}

/// Takes the pages of `bo`. Returns the number of pages.
///
/// Returns `EBUSY` if the pages are in use, one of the locks is taken, or `means` does not apply to
/// the BO. Other errors come from hardware that does not answer.
pub(crate) fn reclaim(bo: &Bo, means: Means) -> Result<usize> {
    // Most BOs that cannot be reclaimed are recognized here, without locks.
    if !bo.is_resident()
        || bo.is_shared()
        || bo.is_given_up() != (means == Means::Purge)
        || BoData::is_busy(bo)
    {
        return Err(EBUSY);
    }

    let is_private = bo.last_use().is_private();
    let _resv = match is_private {
        true => None,
        false => Some(bo.resv().try_lock().ok_or(EBUSY)?),
    };
    let state = bo.try_state().ok_or(EBUSY)?;
    let mut mapped = 0;

    // Jobs of a private BO can still be published, so that is checked below.
    if !is_private && BoData::is_busy(bo) {
        return Err(EBUSY);
    }
    for mapping in state.mappings() {
        if mapping.has_pages()? {
            mapped += 1;
            if !may_lose(bo, mapping, means) {
                return Err(EBUSY);
            }
        }
    }
    // Another mapping, whose handle was closed, belongs to a job.
    if bo.maps() != mapped {
        return Err(EBUSY);
    }

    for mapping in state.mappings() {
        let vm = mapping.vm().resv().try_lock().ok_or(EBUSY)?;

        // While `vm` is locked, no job is published in the address space. But a job may have been
        // published before, and may need content that user space has asked to keep since. A job
        // that lists a private BO may even have been published since the check above.
        if !may_lose(bo, mapping, means)
            || is_private && (!bo.last_use().is_private() || BoData::is_busy(bo))
        {
            return Err(EBUSY);
        }
        mapping.evict(vm.locked())?;
    }

    match means {
        Means::Purge => bo.purge(),
        Means::Evict => bo.evict(),
    }
}

/// Returns whether the jobs in the address space of `mapping` can do without the pages of `bo`,
/// which is idle itself.
fn may_lose(bo: &Bo, mapping: &Mapping, means: Means) -> bool {
    match means {
        Means::Purge => bo.is_given_up(),
        Means::Evict => mapping.vm().resv().test_signaled(Usage::Bookkeep),
    }
}

/// A reason why pages cannot be taken, which many BOs have in common.
#[derive(Clone, Copy)]
pub(crate) enum Busy {
    /// The job with this number, which lists them as private BOs, is unfinished.
    Job(u64),
    /// The address space with this number, the only one that maps them, has unfinished jobs.
    Vm(u64),
}

impl Busy {
    /// Returns such a reason why `means` cannot take the pages of `bo` now, if there is one.
    pub(crate) fn of(bo: &Bo, means: Means) -> Option<Self> {
        match means {
            // Content that was given up can be purged even if the address space is busy.
            Means::Purge => {
                let job = bo.last_use().unfinished_job(&bo.dev().uses);

                job.map(Self::Job)
            }
            Means::Evict => busy_vm(bo).map(Self::Vm),
        }
    }

    /// Returns whether it is a reason for another BO, too. Takes no lock, so the answer may be
    /// outdated.
    pub(crate) fn applies_to(self, bo: &BoData) -> bool {
        match self {
            Self::Job(job) => bo.last_use().is_last_job(job),
            Self::Vm(vm) => bo.is_only_in(vm),
        }
    }
}

/// Returns the number of the address space that `bo` is mapped in, if there is only one and it has
/// unfinished jobs.
fn busy_vm(bo: &Bo) -> Option<u64> {
    let state = bo.try_state()?;
    let only = state.only_mapping()?;

    (!only.vm().resv().test_signaled(Usage::Bookkeep)).then(|| only.vm().id())
}

/// Returns a fence for which [`reclaim`] would have to wait, if there is one and the state of the
/// BO is not locked.
fn pending(bo: &Bo, means: Means) -> Option<ARef<Fence>> {
    // The lock keeps the mappings, and so their address spaces, alive.
    let state = bo.try_state()?;
    let mut vms = state
        .mappings()
        .filter(|_| means == Means::Evict)
        .map(|mapping| mapping.vm().resv());

    vms.find_map(|resv| resv.pending(Usage::Bookkeep))
        // Fences may be moving from here to the resv of the BO.
        .or_else(|| bo.last_use().pending(&bo.dev().uses))
        .or_else(|| bo.resv().pending(Usage::Bookkeep))
}

/// Waits until `bo` is as idle as `means` requires, for up to `left` jiffies, and subtracts the
/// time spent from `left`. Returns early if the state of the BO is locked, or if a client that was
/// waited for has submitted more.
///
/// No lock of the BO is held during the wait: its clients go on.
pub(crate) fn wait_idle(bo: &Bo, means: Means, left: &mut Jiffies) {
    let mut last = None;

    while *left != 0 {
        let fence = pending(bo, means).filter(|fence| last != Some(fence.context()));
        let Some(fence) = fence else {
            return;
        };
        *left = match fence.wait_timeout_uninterruptible(*left) {
            Waited::Signaled(rest) => rest.min(*left),
            Waited::TimedOut => 0,
        };
        last = Some(fence.context());
    }
}
