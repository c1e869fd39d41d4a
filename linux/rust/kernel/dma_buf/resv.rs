// SPDX-License-Identifier: GPL-2.0

//! Reservation objects.
//!
//! A reservation object, resv for short, holds the fences of a buffer, each with a [`Usage`], and
//! the lock of the buffer. The lock is a wound/wait mutex: several at once are taken with
//! [`drm::exec`](crate::drm::exec), a single one with [`Resv::lock`] or [`Resv::try_lock`].
//!
//! Testing and waiting for the fences needs no lock. Adding a fence does, and takes two steps,
//! since it must not fail once the fence is armed: first a [`FenceSlot`] is reserved, which
//! allocates, then [`FenceSlot::add_fence`] fills it.
//!
//! [`ResvLocked`] is the proof that the lock is held. Functions whose caller must hold the lock
//! take it as an argument.
//!
//! # Locking
//!
//! Code on which the signalling of a fence depends must not lock a resv, since fences are waited
//! for with resv locks held.
//!
//! Taking the lock sleeps, except with [`Resv::try_lock`], and so do waiting for fences and
//! reserving a [`FenceSlot`]. Testing and adding fences do not.
//!
//! C header: [`include/linux/dma-resv.h`](srctree/include/linux/dma-resv.h)

use super::{
    clamp_timeout,
    fence::{
        might_wait,
        Fence, //
    },
    Waited, //
};
use crate::{
    alloc::Flags,
    bindings,
    error::to_result,
    ffi::c_ulong,
    prelude::*,
    sync::aref::ARef,
    time::Jiffies,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use core::{
    marker::PhantomData,
    ptr, //
};

/// How the work behind a fence uses the buffer, and which accesses have to wait for it.
///
/// A query for one usage also returns the fences of all usages listed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Usage {
    /// The kernel moves or clears the memory. Every access waits.
    Kernel = bindings::dma_resv_usage_DMA_RESV_USAGE_KERNEL,

    /// The buffer is written. Readers and writers that take part in implicit synchronisation wait.
    Write = bindings::dma_resv_usage_DMA_RESV_USAGE_WRITE,

    /// The buffer is read. Writers that take part in implicit synchronisation wait.
    Read = bindings::dma_resv_usage_DMA_RESV_USAGE_READ,

    /// The buffer is in use, without implicit synchronisation. Only moving or freeing the memory
    /// waits.
    Bookkeep = bindings::dma_resv_usage_DMA_RESV_USAGE_BOOKKEEP,
}

impl Usage {
    /// Returns the usage whose fences an access with implicit synchronisation waits for.
    pub const fn implicit(write: bool) -> Self {
        if write {
            Self::Read
        } else {
            Self::Write
        }
    }

    const fn as_raw(self) -> bindings::dma_resv_usage {
        // CAST: The values are those of the C enumeration.
        self as bindings::dma_resv_usage
    }
}

/// A reservation object.
///
/// # Invariants
///
/// The `struct dma_resv` is valid and initialised.
#[repr(transparent)]
pub struct Resv(Opaque<bindings::dma_resv>);

// SAFETY: Any thread may test the fences and take the lock; methods that need the lock take a proof
// of it.
unsafe impl Sync for Resv {}

impl Resv {
    /// Converts a raw pointer to a reference.
    ///
    /// # Safety
    ///
    /// `ptr` must point to an initialised `struct dma_resv` that stays valid during `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::dma_resv) -> &'a Self {
        // SAFETY: By the requirements; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    /// Returns the C object.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::dma_resv {
        self.0.get()
    }

    /// Takes the lock. Sleeps.
    pub fn lock(&self) -> ResvGuard<'_> {
        // SAFETY: The object is valid. Without a context this cannot fail.
        unsafe { bindings::dma_resv_lock(self.as_raw(), ptr::null_mut()) };
        // INVARIANT: Locked above.
        ResvGuard::new(self)
    }

    /// Takes the lock. Sleeps. Fails with [`EINTR`] if a signal is delivered to the task.
    pub fn lock_interruptible(&self) -> Result<ResvGuard<'_>> {
        // SAFETY: The object is valid. Without a context there is no deadlock to report.
        to_result(unsafe {
            bindings::dma_resv_lock_interruptible(self.as_raw(), ptr::null_mut())
        })?;
        // INVARIANT: Locked above.
        Ok(ResvGuard::new(self))
    }

    /// Takes the lock if it is free. Does not sleep.
    pub fn try_lock(&self) -> Option<ResvGuard<'_>> {
        // SAFETY: The object is valid.
        // INVARIANT: Locked above.
        unsafe { bindings::dma_resv_trylock(self.as_raw()) }.then(|| ResvGuard::new(self))
    }

    /// Returns whether all fences of `usage` have signalled. Needs no lock and does not sleep.
    pub fn test_signaled(&self, usage: Usage) -> bool {
        // SAFETY: The object is valid.
        unsafe { bindings::dma_resv_test_signaled(self.as_raw(), usage.as_raw()) }
    }

    /// Returns a fence of `usage` that has not signalled, if there is one. Needs no lock and does
    /// not sleep.
    ///
    /// Unlike the resv, the fence can be waited for without keeping the buffer alive.
    pub fn pending(&self, usage: Usage) -> Option<ARef<Fence>> {
        let mut cursor = bindings::dma_resv_iter {
            obj: self.as_raw(),
            usage: usage.as_raw(),
            ..pin_init::zeroed()
        };
        // SAFETY: The cursor is set up as `dma_resv_iter_begin` does it.
        let fence = unsafe { bindings::dma_resv_iter_first_unlocked(&mut cursor) };

        // SAFETY: The cursor has a reference to the fence, which is transferred to us, as the
        // cursor is not used any more.
        unsafe { Fence::from_raw_owned(fence) }
    }

    /// Waits until all fences of `usage` have signalled, for `timeout` jiffies at most.
    ///
    /// Needs no lock; fences that are added in the meantime may or may not be waited for. Sleeps. A
    /// `timeout` of zero only polls. Fails with [`ERESTARTSYS`] if a signal is delivered to the
    /// task.
    pub fn wait_timeout(&self, usage: Usage, timeout: Jiffies) -> Result<Waited> {
        self.wait_raw(usage, true, timeout)
    }

    /// Waits until all fences of `usage` have signalled, for `timeout` jiffies at most, without
    /// being interrupted by signals.
    ///
    /// Needs no lock; fences that are added in the meantime may or may not be waited for. Sleeps. A
    /// `timeout` of zero only polls.
    pub fn wait_timeout_uninterruptible(&self, usage: Usage, timeout: Jiffies) -> Waited {
        // Only the wait operation of another driver can return an error. C callers treat that as
        // signalled as well.
        self.wait_raw(usage, false, timeout)
            .unwrap_or(Waited::Signaled(1))
    }

    /// Waits for at most `timeout` jiffies.
    ///
    /// Not inline, since [`might_wait`] uses a symbol that is not exported to modules.
    #[inline(never)]
    fn wait_raw(&self, usage: Usage, interruptible: bool, timeout: Jiffies) -> Result<Waited> {
        if timeout != 0 {
            // Check the context even if there is nothing to wait for this time.
            might_wait();
        }
        // CAST: Not negative.
        let timeout = clamp_timeout(timeout) as c_ulong;
        // SAFETY: The object is valid.
        Waited::from_ret(unsafe {
            bindings::dma_resv_wait_timeout(self.as_raw(), usage.as_raw(), interruptible, timeout)
        })
    }
}

/// A proof that the lock of a resv is held.
///
/// As long as this exists, the lock stays held, and no fence is added or removed.
///
/// # Invariants
///
/// The lock is held by the current task for `'a`.
#[derive(Clone, Copy)]
pub struct ResvLocked<'a> {
    resv: &'a Resv,
    /// The lock is owned by a task.
    _not_send: NotThreadSafe,
}

impl<'a> ResvLocked<'a> {
    /// Creates a proof.
    ///
    /// # Safety
    ///
    /// The lock of `resv` must be held by the current task for `'a`, and no fence may be added or
    /// removed.
    #[inline]
    pub(crate) unsafe fn new(resv: &'a Resv) -> Self {
        // INVARIANT: By the requirements.
        Self {
            resv,
            _not_send: NotThreadSafe,
        }
    }

    /// Returns whether `resv` is the one that is locked.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(crate) fn covers(&self, resv: &Resv) -> bool {
        ptr::eq(self.resv, resv)
    }

    /// Calls `f` for each fence of `usage` that is not marked as signalled. Stops at the first
    /// error.
    ///
    /// Does not ask the drivers of the fences: one that they have not marked yet is included.
    pub fn for_each_fence(&self, usage: Usage, mut f: impl FnMut(&Fence) -> Result) -> Result {
        let mut cursor = bindings::dma_resv_iter {
            obj: self.resv.as_raw(),
            usage: usage.as_raw(),
            ..pin_init::zeroed()
        };
        // SAFETY: The cursor is set up as `dma_resv_iter_begin` does it, and by the type invariants
        // the lock is held.
        let mut next = unsafe { bindings::dma_resv_iter_first(&mut cursor) };
        while !next.is_null() {
            // SAFETY: The resv has a reference to the fence and keeps it: to replace it takes the
            // lock, which is held, and exclusive access to the guard.
            let fence = unsafe { Fence::from_raw(next) };
            if !fence.is_marked_signaled() {
                f(fence)?;
            }
            // SAFETY: As above.
            next = unsafe { bindings::dma_resv_iter_next(&mut cursor) };
        }
        Ok(())
    }

    /// Returns references to all fences of `usage` that are not marked as signalled.
    ///
    /// Allocates with `flags`; fails with [`ENOMEM`].
    pub fn fences(&self, usage: Usage, flags: Flags) -> Result<KVec<ARef<Fence>>> {
        let mut fences = KVec::new();
        self.for_each_fence(usage, |fence| Ok(fences.push(fence.into(), flags)?))?;
        Ok(fences)
    }
}

/// Holds the lock of a resv. Dropping it releases the lock.
///
/// # Invariants
///
/// The lock is held by the task.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ResvGuard<'a> {
    resv: &'a Resv,
    /// The lock must be released by the task that took it.
    _not_send: NotThreadSafe,
}

impl<'a> ResvGuard<'a> {
    /// Creates a guard. The caller must have taken the lock.
    #[inline]
    fn new(resv: &'a Resv) -> Self {
        Self {
            resv,
            _not_send: NotThreadSafe,
        }
    }

    /// Returns the proof that the lock is held.
    #[inline]
    pub fn locked(&self) -> ResvLocked<'_> {
        // SAFETY: By the type invariants the lock is held, and neither released nor used to add a
        // fence while this is borrowed.
        unsafe { ResvLocked::new(self.resv) }
    }

    /// Reserves room for one fence. May sleep; fails with [`ENOMEM`].
    pub fn reserve_fence(&mut self) -> Result<FenceSlot<'_>> {
        // SAFETY: By the type invariants the lock is held.
        to_result(unsafe { bindings::dma_resv_reserve_fences(self.resv.as_raw(), 1) })?;
        // SAFETY: The lock is held, and the room was reserved. As `self` is borrowed exclusively,
        // that does not change and there is no other slot.
        Ok(unsafe { FenceSlot::new(self.resv.as_raw()) })
    }
}

impl Drop for ResvGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is held by this task.
        unsafe { bindings::dma_resv_unlock(self.resv.as_raw()) };
    }
}

/// Reserved room for one fence in a locked resv.
///
/// # Invariants
///
/// For `'a`, the lock of the resv is held by the current task, and the resv has room for as many
/// fences as there are slots, this one included.
pub struct FenceSlot<'a> {
    resv: *mut bindings::dma_resv,
    _lock: PhantomData<&'a mut Resv>,
    /// The lock is owned by a task.
    _not_send: NotThreadSafe,
}

impl FenceSlot<'_> {
    /// Creates a slot.
    ///
    /// # Safety
    ///
    /// `resv` must be valid and satisfy the type invariants.
    pub(crate) unsafe fn new(resv: *mut bindings::dma_resv) -> Self {
        // INVARIANT: By the requirements.
        Self {
            resv,
            _lock: PhantomData,
            _not_send: NotThreadSafe,
        }
    }

    /// Adds `fence`, taking a reference to it. Does not allocate, sleep or fail.
    ///
    /// It replaces fences that have signalled, and earlier ones of its timeline with the same or a
    /// weaker usage. It must be the fence of one piece of work, not an array or a chain of fences.
    pub fn add_fence(self, fence: &Fence, usage: Usage) {
        // SAFETY: By the type invariants the lock is held and there is room for the fence.
        unsafe { bindings::dma_resv_add_fence(self.resv, fence.as_raw(), usage.as_raw()) };
    }
}

#[macros::kunit_tests(rust_dma_resv)]
mod tests {
    use super::*;
    use crate::{
        dma_buf::fence::{
            ArmedFence,
            FenceAlloc,
            FenceContext, //
        },
        workqueue, //
    };

    /// A resv without a buffer.
    #[pin_data(PinnedDrop)]
    struct TestResv {
        #[pin]
        resv: Opaque<bindings::dma_resv>,
    }

    impl TestResv {
        fn new() -> Result<Pin<KBox<Self>>> {
            KBox::pin_init(
                pin_init!(Self {
                    // SAFETY: The memory is pinned.
                    resv <- Opaque::ffi_init(|resv| unsafe { bindings::dma_resv_init(resv) }),
                }),
                GFP_KERNEL,
            )
        }

        fn get(&self) -> &Resv {
            // SAFETY: It was initialised, and lives as long as `self`.
            unsafe { Resv::from_raw(self.resv.get()) }
        }
    }

    #[pinned_drop]
    impl PinnedDrop for TestResv {
        fn drop(self: Pin<&mut Self>) {
            // SAFETY: It was initialised, and nobody uses it any more.
            unsafe { bindings::dma_resv_fini(self.resv.get()) };
        }
    }

    fn arm() -> Result<ArmedFence> {
        let context = FenceContext::new(c"kunit", c"resv");
        Ok(FenceAlloc::new(GFP_KERNEL)?.arm(&context))
    }

    fn count(locked: ResvLocked<'_>, usage: Usage) -> Result<usize> {
        Ok(locked.fences(usage, GFP_KERNEL)?.len())
    }

    #[test]
    fn locks() -> Result {
        let resv = TestResv::new()?;
        let other = TestResv::new()?;

        let guard = resv.get().lock();
        assert!(resv.get().try_lock().is_none());
        assert!(guard.locked().covers(resv.get()));
        assert!(!guard.locked().covers(other.get()));
        drop(guard);

        let guard = resv.get().try_lock();
        assert!(guard.is_some());
        assert!(resv.get().try_lock().is_none());
        drop(guard);

        let guard = resv.get().lock_interruptible()?;
        assert!(guard.locked().covers(resv.get()));
        assert!(resv.get().try_lock().is_none());
        drop(guard);

        assert!(resv.get().try_lock().is_some());
        Ok(())
    }

    #[test]
    fn implicit_usage() {
        assert_eq!(Usage::implicit(true), Usage::Read);
        assert_eq!(Usage::implicit(false), Usage::Write);
        assert!(Usage::Kernel < Usage::Write);
        assert!(Usage::Write < Usage::Read);
        assert!(Usage::Read < Usage::Bookkeep);
    }

    #[test]
    fn usages() -> Result {
        let resv = TestResv::new()?;
        let usages = [Usage::Kernel, Usage::Write, Usage::Read, Usage::Bookkeep];
        let mut fences = KVec::new();
        let mut guard = resv.get().lock();

        for usage in usages {
            let armed = arm()?;
            guard.reserve_fence()?.add_fence(armed.fence(), usage);
            fences.push(armed, GFP_KERNEL)?;
        }
        for (i, usage) in usages.into_iter().enumerate() {
            assert_eq!(count(guard.locked(), usage)?, i + 1);
        }

        // Fences that have signalled are skipped.
        let last = fences.pop();
        for armed in fences {
            armed.signal(Ok(()));
        }
        assert_eq!(count(guard.locked(), Usage::Read)?, 0);
        assert_eq!(count(guard.locked(), Usage::Bookkeep)?, 1);
        drop(guard);

        assert!(resv.get().test_signaled(Usage::Read));
        assert!(resv.get().pending(Usage::Read).is_none());
        assert!(!resv.get().test_signaled(Usage::Bookkeep));
        let pending = resv.get().pending(Usage::Bookkeep);
        assert!(pending.is_some_and(|pending| last
            .as_ref()
            .is_some_and(|last| pending.as_raw() == last.fence().as_raw())));
        drop(last);
        assert!(resv.get().test_signaled(Usage::Bookkeep));
        assert!(resv.get().pending(Usage::Bookkeep).is_none());
        Ok(())
    }

    #[test]
    fn many_fences() -> Result {
        let resv = TestResv::new()?;
        let mut fences = KVec::new();
        let mut guard = resv.get().lock();
        for i in 1..=50 {
            let armed = arm()?;
            guard
                .reserve_fence()?
                .add_fence(armed.fence(), Usage::Write);
            fences.push(armed, GFP_KERNEL)?;
            assert_eq!(count(guard.locked(), Usage::Write)?, i);
        }
        Ok(())
    }

    #[test]
    fn replaces_same_timeline() -> Result {
        let resv = TestResv::new()?;
        let context = FenceContext::new(c"kunit", c"resv");
        let first = FenceAlloc::new(GFP_KERNEL)?.arm(&context);
        let second = FenceAlloc::new(GFP_KERNEL)?.arm(&context);

        let mut guard = resv.get().lock();
        guard
            .reserve_fence()?
            .add_fence(first.fence(), Usage::Write);
        guard
            .reserve_fence()?
            .add_fence(second.fence(), Usage::Write);
        let fences = guard.locked().fences(Usage::Write, GFP_KERNEL)?;
        assert_eq!(fences.len(), 1);
        assert!(fences
            .first()
            .is_some_and(|fence| fence.as_raw() == second.fence().as_raw()));
        Ok(())
    }

    #[test]
    fn stops_at_error() -> Result {
        let resv = TestResv::new()?;
        let (first, second) = (arm()?, arm()?);
        let mut guard = resv.get().lock();
        guard.reserve_fence()?.add_fence(first.fence(), Usage::Read);
        guard
            .reserve_fence()?
            .add_fence(second.fence(), Usage::Read);

        let mut seen = 0;
        let ret = guard.locked().for_each_fence(Usage::Read, |_| {
            seen += 1;
            Err(E2BIG)
        });
        assert_eq!(ret, Err(E2BIG));
        assert_eq!(seen, 1);
        Ok(())
    }

    #[test]
    fn waits() -> Result {
        let resv = TestResv::new()?;
        // Nothing to wait for.
        assert!(resv.get().wait_timeout(Usage::Read, 0)?.is_signaled());

        let armed = arm()?;
        let mut guard = resv.get().lock();
        guard.reserve_fence()?.add_fence(armed.fence(), Usage::Read);
        drop(guard);

        // Readers do not wait for each other.
        assert!(resv.get().wait_timeout(Usage::Write, 0)?.is_signaled());
        assert_eq!(resv.get().wait_timeout(Usage::Read, 0)?, Waited::TimedOut);
        assert_eq!(resv.get().wait_timeout(Usage::Read, 2)?, Waited::TimedOut);
        assert_eq!(
            resv.get().wait_timeout_uninterruptible(Usage::Bookkeep, 2),
            Waited::TimedOut
        );

        workqueue::system_dfl().try_spawn(GFP_KERNEL, move || armed.signal(Ok(())))?;
        assert!(resv
            .get()
            .wait_timeout(Usage::Read, Jiffies::MAX)?
            .is_signaled());
        assert!(resv.get().test_signaled(Usage::Bookkeep));
        Ok(())
    }
}
