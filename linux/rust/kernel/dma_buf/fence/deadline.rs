// SPDX-License-Identifier: GPL-2.0

//! Deadlines that waiters set on fences.
//!
//! A waiter may set a deadline by which a fence should have signalled: user space through a sync
//! file or a syncobj, or the display code, which needs a frame before the next vblank. Deadlines
//! are hints, which may be set in any context and more than once. A fence keeps the earliest one
//! and puts itself on the list of its [`Deadlines`], from which the signaller takes it when it next
//! makes a decision. The signaller is not notified.
//!
//! # Ownership
//!
//! A fence on the list has one reference that belongs to the list. A fence has no reference to the
//! list: its [`ArmedFence`](super::ArmedFence) has. A deadline that is set while the fence signals
//! is handled in an RCU read-side critical section that began before the signal, so the list is
//! freed only a grace period after its last owner has dropped it.
//!
//! # Locks and contexts
//!
//! There is no lock. Everything here can be called in any context, except that [`Deadlines::new`]
//! may sleep, depending on its flags.

use super::{
    Fence,
    FenceData, //
};
use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    },
    types::Opaque, //
};
use core::{
    cell::UnsafeCell,
    mem::ManuallyDrop,
    ptr::{
        self,
        NonNull, //
    },
};

/// A time by which a waiter would like a fence to have signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(bindings::ktime_t);

impl Deadline {
    /// Stands for no deadline.
    const NEVER: bindings::ktime_t = bindings::ktime_t::MAX;

    /// Returns whether the deadline is at most `ns` nanoseconds from now, or has passed.
    pub fn is_within(self, ns: u64) -> bool {
        // SAFETY: There are no requirements.
        let now = unsafe { bindings::ktime_get() };

        self.0 <= now.saturating_add_unsigned(ns)
    }
}

/// The part of a fence that deals with deadlines.
pub(super) struct Node {
    /// The earliest deadline.
    deadline: Atomic<bindings::ktime_t>,
    /// Whether the fence is on the list, or about to be.
    listed: Atomic<bool>,
    /// The next fence of the list. Accessed only by the caller that set `listed`, then by the owner
    /// of the list.
    next: UnsafeCell<*mut FenceData>,
    /// NULL, or valid until a grace period after the signal.
    list: *const List,
}

impl Node {
    /// Creates the node of a fence that reports to `deadlines`, which the caller must keep until it
    /// has signalled the fence.
    pub(super) fn new(deadlines: Option<&Deadlines>) -> Self {
        Self {
            deadline: Atomic::new(Deadline::NEVER),
            listed: Atomic::new(false),
            next: UnsafeCell::new(ptr::null_mut()),
            list: deadlines.map_or(ptr::null(), |deadlines| Arc::as_ptr(&deadlines.0)),
        }
    }

    /// Returns the earliest deadline that was set.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let deadline = self.deadline.load(Relaxed);

        (deadline != Deadline::NEVER).then_some(Deadline(deadline))
    }

    /// Records a deadline. Returns whether it is the earliest so far.
    fn lower(&self, deadline: bindings::ktime_t) -> bool {
        let mut known = self.deadline.load(Relaxed);

        while deadline < known {
            match self.deadline.cmpxchg(known, deadline, Relaxed) {
                Ok(_) => return true,
                Err(now) => known = now,
            }
        }
        false
    }
}

/// Implements the `set_deadline` operation of the fences created in this crate.
///
/// # Safety
///
/// `fence` must point to the fence of a valid [`FenceData`]. The caller must be in an RCU read-side
/// critical section that began before the fence was signalled.
pub(super) unsafe extern "C" fn set_deadline_callback(
    fence: *mut bindings::dma_fence,
    deadline: bindings::ktime_t,
) {
    let data = fence.cast::<FenceData>();
    // SAFETY: By the safety requirements, `fence` is the first field of a valid `FenceData`.
    let node = unsafe { &(*data).node };

    // Full ordering pairs with that of `Hints::next`: either it sees the deadline, or this sees
    // that the fence is not on the list any more.
    if node.list.is_null() || !node.lower(deadline) || node.listed.xchg(true, Full) {
        return;
    }
    // SAFETY: The fence is valid, so its reference count is not zero.
    unsafe { bindings::dma_fence_get(fence) };
    // SAFETY:
    // - The list is valid: the signaller still owned a reference when the read-side critical
    //   section began.
    // - The fence is not on it, as `listed` was not set. The reference is the one from above.
    unsafe { (*node.list).push(data) };
}

/// Fences with a new deadline.
///
/// # Invariants
///
/// `head` is NULL or the first fence of a NULL-terminated list. The list owns a reference to each
/// of its fences.
struct List {
    head: Atomic<*mut FenceData>,
    /// Used to free the list after a grace period.
    rcu: Opaque<bindings::callback_head>,
}

// SAFETY: The fences may be used by any thread, and `rcu` has a single user, the last `Deadlines`
// to be dropped.
unsafe impl Send for List {}
// SAFETY: As above; `head` is atomic.
unsafe impl Sync for List {}

impl List {
    /// Adds a fence.
    ///
    /// # Safety
    ///
    /// `data` must be valid and on no list, and no other caller may add it to one concurrently. The
    /// caller must own a reference to it, which moves into the list.
    unsafe fn push(&self, data: *mut FenceData) {
        let mut head = self.head.load(Relaxed);

        loop {
            // SAFETY: The fence is valid, and we own its `next`.
            unsafe { *(*data).node.next.get() = head };
            // INVARIANT: The new head is followed by the previous list.
            match self.head.cmpxchg(head, data, Full) {
                Ok(_) => return,
                Err(current) => head = current,
            }
        }
    }

    fn take(&self) -> Hints {
        if self.head.load(Relaxed).is_null() {
            return Hints(ptr::null_mut());
        }
        // INVARIANT: This takes the whole list, with its references.
        Hints(self.head.xchg(ptr::null_mut(), Full))
    }

    /// # Safety
    ///
    /// Must only be called by the C side, with the `rcu` of a list, a grace period after its last
    /// [`Deadlines`] was dropped.
    unsafe extern "C" fn free_callback(rcu: *mut bindings::callback_head) {
        // SAFETY: `rcu` is the field of a valid list, by the requirements.
        let list = unsafe { crate::container_of!(Opaque::cast_from(rcu), List, rcu) };
        // SAFETY: The pointer came from `Arc::into_raw`, with the last reference.
        drop(unsafe { Arc::from_raw(list) });
    }
}

impl Drop for List {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Collects the deadlines that are set on the fences of some timelines.
///
/// See [`FenceContext::with_deadlines`](super::FenceContext::with_deadlines).
///
/// # Examples
///
/// ```
/// use kernel::dma_buf::fence::{
///     Deadlines,
///     FenceAlloc,
///     FenceContext, //
/// };
///
/// let deadlines = Deadlines::new(GFP_KERNEL)?;
/// let timeline = FenceContext::with_deadlines(c"example", c"ring 0", &deadlines);
/// let armed = FenceAlloc::new(GFP_KERNEL)?.arm(&timeline);
///
/// // When the driver next looks for work.
/// for hint in deadlines.take() {
///     if hint.deadline.is_within(16_000_000) {
///         pr_info!("job {} is urgent\n", hint.fence.seqno());
///     }
/// }
/// # armed.signal(Ok(()));
/// # Ok::<(), Error>(())
/// ```
pub struct Deadlines(ManuallyDrop<Arc<List>>);

impl Deadlines {
    /// Allocates an empty list. Whether this may sleep depends on `flags`.
    pub fn new(flags: Flags) -> Result<Self, AllocError> {
        // INVARIANT: The list is empty.
        let list = List {
            head: Atomic::new(ptr::null_mut()),
            rcu: Opaque::uninit(),
        };

        Ok(Self(ManuallyDrop::new(Arc::new(list, flags)?)))
    }

    /// Takes the fences on which an earlier deadline was set since the last call, in no particular
    /// order. Some may have signalled in the meantime.
    pub fn take(&self) -> Hints {
        self.0.take()
    }
}

impl Clone for Deadlines {
    fn clone(&self) -> Self {
        Self(ManuallyDrop::new((*self.0).clone()))
    }
}

impl Drop for Deadlines {
    /// Frees the list after a grace period if this was its last owner.
    ///
    /// Not inline, so that the call of `call_rcu` is not part of a module.
    #[inline(never)]
    fn drop(&mut self) {
        // SAFETY: It is not used again.
        let list = unsafe { ManuallyDrop::take(&mut self.0) };

        if let Some(last) = Arc::into_unique_or_drop(list) {
            let list = Arc::into_raw(Arc::from(last));
            // SAFETY: The list is valid until the callback frees it, and this is the only call for
            // it. The callback is part of this crate, which is never unloaded.
            unsafe {
                bindings::call_rcu(
                    Opaque::cast_into(&raw const (*list).rcu),
                    Some(List::free_callback),
                )
            };
        }
    }
}

/// A fence with the earliest deadline that was set on it.
pub struct Hint {
    /// The fence.
    pub fence: ARef<Fence>,
    /// The earliest deadline.
    pub deadline: Deadline,
}

/// Fences with a new deadline, taken from [`Deadlines`].
///
/// Dropping it drops the remaining fences.
///
/// # Invariants
///
/// The pointer is NULL or that of the first fence of a NULL-terminated list. The list owns a
/// reference to each of its fences.
pub struct Hints(*mut FenceData);

// SAFETY: This is a list of references to fences, which are `Send`.
unsafe impl Send for Hints {}

impl Hints {
    /// Creates an empty list.
    pub const fn new() -> Self {
        // INVARIANT: The list is empty.
        Self(ptr::null_mut())
    }

    /// Returns whether no fences are left.
    pub fn is_empty(&self) -> bool {
        self.0.is_null()
    }
}

impl Default for Hints {
    fn default() -> Self {
        Self::new()
    }
}

impl Iterator for Hints {
    type Item = Hint;

    fn next(&mut self) -> Option<Hint> {
        let data = NonNull::new(self.0)?;
        // SAFETY: By the type invariants the fence is valid.
        let node = unsafe { &(*data.as_ptr()).node };
        // SAFETY: By the type invariants `next` belongs to the owner of the list.
        // INVARIANT: The rest of the list.
        self.0 = unsafe { *node.next.get() };
        // From here on the fence may be added to the list again. See the callback for the ordering.
        node.listed.xchg(false, Full);
        let deadline = Deadline(node.deadline.load(Relaxed));
        // SAFETY: By the type invariants we own a reference. The fence is the first field, and
        // `Fence` is transparent.
        let fence = unsafe { ARef::from_raw(data.cast::<Fence>()) };

        Some(Hint { fence, deadline })
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}
