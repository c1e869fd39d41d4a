// SPDX-License-Identifier: GPL-2.0

//! Taking the pages of a BO away because memory is short.
//!
//! A BO can give its pages up when nobody but address spaces has them and all of those are idle, as
//! told by their reservations and its own: a job can reach everything in its address space, listed or
//! not. What was seen without locks is looked at again with them.
//!
//! Called by whoever is short of memory, with whatever they have locked. So every lock here is only
//! tried, in this order: the BO's reservation, its state, then for one address space after the other
//! its reservation and the mapping's memory, and last the lock of the pages. Nothing is allocated.

use kernel::{
    dma_buf::resv::Usage,
    drm::gem::BaseObject,
    prelude::*,
    time::Jiffies, //
};

use super::Bo;

/// How pages are taken away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// With their content, which user space has given up.
    Purge,
    /// To swap, from where the next use brings them back.
    Evict,
}

impl Means {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Purge, Self::Evict];
}

/// Takes the pages of `bo` away. Returns how many there were.
///
/// `EBUSY`: somebody has them, or one of the locks; or they are not to be taken by these means.
pub(crate) fn reclaim(bo: &Bo, means: Means) -> Result<usize> {
    // Most of what cannot go is found here.
    if !bo.is_resident()
        || bo.is_shared()
        || bo.is_given_up() != (means == Means::Purge)
        || !bo.resv().test_signaled(Usage::Bookkeep)
    {
        return Err(EBUSY);
    }

    let _resv = bo.resv().try_lock().ok_or(EBUSY)?;
    let state = bo.try_state().ok_or(EBUSY)?;
    let mut mapped = 0;

    if !bo.resv().test_signaled(Usage::Bookkeep) {
        return Err(EBUSY);
    }
    for mapping in state.mappings() {
        if mapping.has_pages()? {
            mapped += 1;
            if !mapping.vm().resv().test_signaled(Usage::Bookkeep) {
                return Err(EBUSY);
            }
        }
    }
    // A mapping whose handle is closed belongs to a job.
    if bo.maps() != mapped {
        return Err(EBUSY);
    }

    for mapping in state.mappings() {
        let vm = mapping.vm().resv().try_lock().ok_or(EBUSY)?;

        // As long as it is locked, no job is published in the address space.
        if !mapping.vm().resv().test_signaled(Usage::Bookkeep) {
            return Err(EBUSY);
        }
        mapping.evict(vm.locked())?;
    }

    match means {
        Means::Purge => bo.purge(),
        Means::Evict => bo.evict(),
    }
}

/// The number of the one address space that `bo` is in, if there are jobs in that.
pub(crate) fn busy_vm(bo: &Bo) -> Option<u64> {
    let state = bo.try_state()?;
    let mut mappings = state.mappings();
    let (Some(only), None) = (mappings.next(), mappings.next()) else {
        return None;
    };

    (!only.vm().resv().test_signaled(Usage::Bookkeep)).then(|| only.vm().id())
}

/// Waits until `bo` is idle, for `left` jiffies at most, and takes from `left` what that took.
pub(crate) fn wait_idle(bo: &Bo, left: &mut Jiffies) {
    // Its address spaces do not go meanwhile. Who wants the lock waits with us; those who signal
    // fences never do.
    let Some(state) = bo.try_state() else {
        return;
    };
    let vms = state.mappings().map(|mapping| mapping.vm().resv());

    for resv in Iterator::chain(vms, [bo.resv()]) {
        if resv.test_signaled(Usage::Bookkeep) {
            continue;
        }
        *left = match resv.wait_timeout_uninterruptible(Usage::Bookkeep, *left) {
            kernel::dma_buf::Waited::Signaled(rest) => rest.min(*left),
            kernel::dma_buf::Waited::TimedOut => 0,
        };
        if *left == 0 {
            return;
        }
    }
}
