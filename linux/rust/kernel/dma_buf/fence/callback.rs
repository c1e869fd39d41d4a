// SPDX-License-Identifier: GPL-2.0

//! Callbacks on fences.
//!
//! A callback can run at any moment from its registration on, on any CPU, while its owner takes it
//! back on another. The rules that make this sound:
//!
//! - The registration is the last thing that the initialiser of [`FenceCb`] does.
//! - The callback has a shared reference only. The one exclusive reference, that of the destructor,
//!   is used as a shared one until the callback is over.
//! - The last access of the callback to the node is setting [`FenceCb::done`]. The owner frees
//!   the node after it has seen that, or after it went through the lock of the fence, under which
//!   callbacks run. It does not take that lock if `done` is set: a fence may have its lock in
//!   memory of its driver, which frees it some time after the signal.
//! - Between the signal and the end of the callbacks, that lock is kept alive by RCU. The read side
//!   begins before the look at `done`: if that is not set yet, then the signal is not over, and the
//!   grace period after it, which the driver waits for, ends after the read side.

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
        // The lock of a fence that signals just now; to be held before the look at `done`.
        let _rcu = rcu::read_lock();
        if self.done.load(Acquire) {
            return;
        }
        // SAFETY: By the type invariants `cb` was added to the fence, which we have a reference to.
        // Either the callback is removed, or it has run to its end when this returns.
        unsafe { bindings::dma_fence_remove_callback(self.fence.as_raw(), self.cb.get()) };
    }
}

#[macros::kunit_tests(rust_dma_fence_callback)]
mod tests {
    use super::{
        super::{
            FenceAlloc,
            FenceContext, //
        },
        *,
    };
    use crate::{
        sync::{
            atomic::Relaxed,
            Arc, //
        },
        workqueue, //
    };

    /// Counts the calls, and those with an error.
    #[derive(Clone)]
    struct Count(Arc<Counters>);

    struct Counters {
        calls: Atomic<u32>,
        errors: Atomic<u32>,
    }

    impl Count {
        fn new() -> Result<Self> {
            Ok(Self(Arc::new(
                Counters {
                    calls: Atomic::new(0),
                    errors: Atomic::new(0),
                },
                GFP_KERNEL,
            )?))
        }

        fn get(&self) -> (u32, u32) {
            (self.0.calls.load(Relaxed), self.0.errors.load(Relaxed))
        }
    }

    impl FenceCallback for Count {
        fn signaled(&self, fence: &Fence) {
            self.0.calls.fetch_add(1, Relaxed);
            if fence.error().is_some() {
                self.0.errors.fetch_add(1, Relaxed);
            }
        }
    }

    fn context() -> FenceContext {
        FenceContext::new(c"kunit", c"callback")
    }

    #[test]
    fn called_once() -> Result {
        let count = Count::new()?;
        let armed = FenceAlloc::new(GFP_KERNEL)?.arm(&context());
        let cb = KBox::pin_init(armed.fence().add_callback(count.clone()), GFP_KERNEL)?;

        assert_eq!(cb.fence().as_raw(), armed.fence().as_raw());
        assert_eq!(cb.get(), (0, 0));
        armed.signal(Ok(()));
        assert_eq!(cb.get(), (1, 0));
        drop(cb);
        assert_eq!(count.get(), (1, 0));
        Ok(())
    }

    #[test]
    fn sees_error() -> Result {
        let armed = FenceAlloc::new(GFP_KERNEL)?.arm(&context());
        let cb = KBox::pin_init(armed.fence().add_callback(Count::new()?), GFP_KERNEL)?;

        // Cancelled.
        drop(armed);
        assert_eq!(cb.get(), (1, 1));
        Ok(())
    }

    #[test]
    fn removed() -> Result {
        let count = Count::new()?;
        let armed = FenceAlloc::new(GFP_KERNEL)?.arm(&context());
        let cb = KBox::pin_init(armed.fence().add_callback(count.clone()), GFP_KERNEL)?;

        drop(cb);
        armed.signal(Ok(()));
        assert_eq!(count.get(), (0, 0));
        Ok(())
    }

    #[test]
    fn signaled_already() -> Result {
        let count = Count::new()?;
        let armed = FenceAlloc::new(GFP_KERNEL)?.arm(&context());
        let fence = ARef::from(armed.fence());
        armed.signal(Ok(()));

        let cb = KBox::pin_init(fence.add_callback(count.clone()), GFP_KERNEL);
        assert_eq!(cb.err(), Some(ENOENT));
        assert_eq!(count.get(), (0, 0));
        Ok(())
    }

    #[test]
    fn many() -> Result {
        let count = Count::new()?;
        let armed = FenceAlloc::new(GFP_KERNEL)?.arm(&context());
        let mut cbs = KVec::new();
        for _ in 0..5 {
            let cb = KBox::pin_init(armed.fence().add_callback(count.clone()), GFP_KERNEL)?;
            cbs.push(cb, GFP_KERNEL)?;
        }
        drop(cbs.pop());

        armed.signal(Ok(()));
        assert_eq!(count.get(), (4, 0));
        Ok(())
    }

    /// The callback is taken back while the fence signals on another CPU.
    #[test]
    fn race() -> Result {
        let context = context();
        for round in 0..200 {
            let count = Count::new()?;
            let armed = FenceAlloc::new(GFP_KERNEL)?.arm(&context);
            let fence = ARef::from(armed.fence());
            let cb = KBox::pin_init(fence.add_callback(count.clone()), GFP_KERNEL)?;
            workqueue::system_dfl().try_spawn(GFP_KERNEL, move || armed.signal(Ok(())))?;
            for _ in 0..round {
                core::hint::spin_loop();
            }

            drop(cb);
            // It was called or not, but nothing changes any more.
            let calls = count.get();
            fence.wait()?;
            assert_eq!(count.get(), calls);
            assert!(calls.0 <= 1);
        }
        Ok(())
    }
}
