// SPDX-License-Identifier: GPL-2.0

//! The notifier of a range: takes the pages from the device before they change.
//!
//! A change of memory may affect several ranges, of one mirror or of several. It has two passes:
//! the first stops the publication of work for all of them, and takes those away that the device
//! does not use; the second waits for the device. The wait for each range is counted from the first
//! pass, so that their waits overlap.
//!
//! Lock: that of the mirror, which is not held while the device is waited for. Any context that may
//! change memory, reclaim included.

use super::{
    node::{
        Lists,
        Node,
        RangeList, //
    },
    Device, //
};
use crate::{
    bindings,
    ffi::{
        c_int,
        c_ulong, //
    },
    sync::MutexGuard,
    time::{
        Instant,
        Monotonic, //
    },
    types::Opaque, //
};

/// Returns whether the current task exits because it was killed.
///
/// Not every process that was killed is recognised: its memory may go with another task, or with a
/// thread of the kernel's in the process.
fn is_killed() -> bool {
    let task = kernel::current!().as_ptr();

    // SAFETY: A task may read these fields of itself.
    let (flags, code) = unsafe { ((*task).flags, (*task).exit_code) };

    flags & bindings::PF_EXITING != 0 && code == bindings::SIGKILL as c_int
}

impl<T: Device> Node<T> {
    /// The operations of the notifier.
    pub(super) const OPS: bindings::mmu_interval_notifier_ops =
        bindings::mmu_interval_notifier_ops {
            invalidate: None,
            invalidate_start: Some(Self::invalidate_start_callback),
            invalidate_finish: Some(Self::invalidate_finish_callback),
        };

    /// Handles the first pass of a change of the memory. Returns whether the change may proceed,
    /// and sets `finish` if there has to be a second pass.
    ///
    /// # Safety
    ///
    /// Must only be called by the C side, for the notifier of a node, with valid arguments.
    unsafe extern "C" fn invalidate_start_callback(
        sub: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        cur_seq: c_ulong,
        finish: *mut *mut bindings::mmu_interval_notifier_finish,
    ) -> bool {
        // SAFETY: The notifier is embedded in a node, which is not freed before the notifier was
        // removed. Removal waits for this callback.
        let this = unsafe { &*crate::container_of!(Opaque::cast_from(sub), Self, sub) };
        // SAFETY: The range is valid.
        let may_block = unsafe { bindings::mmu_notifier_range_blockable(range) };
        let lists = match may_block {
            true => Some(this.shared.lists.lock()),
            false => this.shared.lists.try_lock(),
        };
        let Some(mut lists) = lists else {
            return false;
        };

        // SAFETY: This is the notifier's sequence number, and the lock is the one under which
        // `populate()` reads it.
        unsafe { bindings::mmu_interval_set_seq(sub, cur_seq) };
        if this.state.access_mut(&mut lists).list != RangeList::Valid {
            return true;
        }
        if this.data.is_quiet() {
            this.take_away(&mut lists);
            return true;
        }
        if !may_block {
            return false;
        }

        // SAFETY: The range is valid.
        let is_end = unsafe { (*range).event } == bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE;

        // While a change is counted, no work is published.
        let since = Instant::now();
        let state = this.state.access_mut(&mut lists);
        state.killed |= is_end && is_killed();
        state.changing += 1;
        let is_first = state.finishing.is_none();
        if is_first {
            state.finishing = Some(since);
            // SAFETY: The pointer is valid for a write. `finish` is in no list, since the change
            // that it stood for has ended. The node lives until the second pass has ended, as
            // removal of the notifier waits for that, too.
            unsafe { *finish = this.finish.get() };
        }
        lists.changing += 1;
        drop(lists);
        // Several tasks may change the memory at the same time. Only one of them has two passes.
        if !is_first {
            drop(this.end_change(since));
        }
        true
    }

    /// Handles the second pass.
    ///
    /// # Safety
    ///
    /// Must only be called by the C side, with what the first pass has returned.
    unsafe extern "C" fn invalidate_finish_callback(
        finish: *mut bindings::mmu_interval_notifier_finish,
    ) {
        // SAFETY: It is that of a node, which lives until this has returned, as above.
        let this = unsafe { &*crate::container_of!(Opaque::cast_from(finish), Self, finish) };
        let since = this
            .state
            .access_mut(&mut this.shared.lists.lock())
            .finishing
            .unwrap_or_else(Instant::now);

        let mut lists = this.end_change(since);
        this.state.access_mut(&mut lists).finishing = None;
    }

    /// Waits for the device on behalf of a change that was counted at `since`, takes the range
    /// away, and ends the change. Returns with the lock held.
    fn end_change(&self, since: Instant<Monotonic>) -> MutexGuard<'_, Lists<T>> {
        let is_valid = |lists: &mut Lists<T>| self.state.access_mut(lists).list == RangeList::Valid;
        // An endless wait for another range has taken this one away, too.
        let (valid, killed) = {
            let mut lists = self.shared.lists.lock();

            (
                is_valid(&mut lists),
                self.state.access_mut(&mut lists).killed,
            )
        };

        if valid && killed {
            self.data.cancel();
        }
        let done = !valid || self.data.quiesce(since);
        let mut lists = self.shared.lists.lock();
        let state = self.state.access_mut(&mut lists);

        if !state.revoked {
            state.changing -= 1;
            self.shared.settle(&mut lists, 1);
        }
        // Another task may have taken the pages away.
        if is_valid(&mut lists) {
            self.take_away(&mut lists);
            if !done {
                // A change of any other range would wait as long, for the same work.
                while let Some(node) = Self::first(&mut lists.valid) {
                    node.take_away(&mut lists);
                }
            }
        }
        lists
    }
}
