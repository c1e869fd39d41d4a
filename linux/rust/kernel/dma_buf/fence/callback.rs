// SPDX-License-Identifier: GPL-2.0

//! Callbacks on fences.
//!
//! A callback can run at any moment from its registration on, on any CPU, while its owner takes it
//! back on another. The rules that make this sound:
//!
//! - The registration is the last thing that the initialiser of [`FenceCb`] does.
//! - The callback has a shared reference only; nobody ever gets an exclusive one.
//! - The last access of the callback to the node is setting [`FenceCb::done`]. The owner frees
//!   the node after it has seen that, or after it went through the lock of the fence, under which
//!   callbacks run. It does not take that lock if `done` is set: a fence may have its lock in
//!   memory of its driver, which frees it some time after the signal.
//! - Between the signal and the end of the callbacks, that lock is kept alive by RCU.

use super::Fence;
use crate::{
    bindings,
    error::to_result,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        rcu, //
    },
    types::Opaque, //
};
use core::ops::Deref;

/// Something to be called when a fence signals.
pub trait FenceCallback: Send + Sync + 'static {
    /// The fence has signalled.
    ///
    /// Called once at most, in atomic context with interrupts disabled and the lock of the fence
    /// held. An implementation must not sleep, must not take a lock under which anybody signals a
    /// fence, must not signal a fence, and must not drop the [`FenceCb`] it belongs to: setting a
    /// variable, pushing a node that exists already and queueing a work item is what it is for.
    fn signaled(&self, fence: &Fence);
}

/// A callback that is registered with a fence.
///
/// Made by [`Fence::add_callback`]. Dropping it takes the callback back, and if it is running just
/// now, waits for it; afterwards it does not run any more.
///
/// # Invariants
///
/// `cb` was given to `dma_fence_add_callback` for `fence`, with success.
#[pin_data(PinnedDrop)]
pub struct FenceCb<C: FenceCallback> {
    fence: ARef<Fence>,
    callback: C,
    /// Set as the last access of the callback.
    done: Atomic<bool>,
    #[pin]
    cb: Opaque<bindings::dma_fence_cb>,
}

// SAFETY: The node may be taken back by any thread, and the callback is `Send`.
unsafe impl<C: FenceCallback> Send for FenceCb<C> {}
// SAFETY: Shared references give access to the callback, which is `Sync`, and to the fence.
unsafe impl<C: FenceCallback> Sync for FenceCb<C> {}

impl<C: FenceCallback> FenceCb<C> {
    pub(super) fn new(fence: ARef<Fence>, callback: C) -> impl PinInit<Self, Error> {
        let raw_fence = fence.as_raw();
        try_pin_init!(Self {
            fence,
            callback,
            done: Atomic::new(false),
            // INVARIANT: This is the registration, and the initialiser fails if it does.
            cb <- Opaque::try_ffi_init(move |cb| {
                // The lock of a fence that signals just now.
                let _rcu = rcu::read_lock();
                // SAFETY: The fence is valid: the field initialised above holds a reference. The
                // memory of `cb` is pinned, and stays until the callback has run or was removed:
                // see `drop`. All that the callback uses is initialised already.
                to_result(unsafe {
                    bindings::dma_fence_add_callback(raw_fence, cb, Some(Self::signaled_callback))
                })
            }),
        })
    }

    /// The fence that the callback is registered with.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// # Safety
    ///
    /// To be called by the C side only, for the `cb` of a valid `Self`, with the lock of `fence`
    /// held.
    unsafe extern "C" fn signaled_callback(
        fence: *mut bindings::dma_fence,
        cb: *mut bindings::dma_fence_cb,
    ) {
        // SAFETY: `cb` is the field of a valid `Self`, by the requirements. It remains valid until
        // `done` is set.
        let this = unsafe { &*crate::container_of!(Opaque::cast_from(cb), Self, cb) };
        // SAFETY: The signaller holds a reference.
        this.callback.signaled(unsafe { Fence::from_raw(fence) });
        this.done.store(true, Release);
    }
}

impl<C: FenceCallback> Deref for FenceCb<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.callback
    }
}

#[pinned_drop]
impl<C: FenceCallback> PinnedDrop for FenceCb<C> {
    fn drop(self: Pin<&mut Self>) {
        if self.done.load(Acquire) {
            return;
        }
        // The lock of a fence that signals just now.
        let _rcu = rcu::read_lock();
        // SAFETY: By the type invariants `cb` was added to the fence, which we have a reference to.
        // Either the callback is removed, or it has run to its end when this returns.
        unsafe { bindings::dma_fence_remove_callback(self.fence.as_raw(), self.cb.get()) };
    }
}
