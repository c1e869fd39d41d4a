// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Locking many GEM objects at once.
//!
//! The locks of GEM objects, in their reservation objects, are wound/wait mutexes. A task may take
//! any number of them in any order. If that would deadlock with another task, one of the two is
//! told to release all of its locks and to start over. [`Exec`] does that: the closure given to
//! [`Exec::lock_all`] locks the objects, and is called again if necessary.
//!
//! The result is a [`Locked`], through which fences can be read, and added in two steps:
//! [`Locked::reserve_fences`] allocates and can fail; using the slots that it returns cannot.
//!
//! # Locks and contexts
//!
//! Process context, not in a [`Signalling`](crate::dma_buf::fence::Signalling) section.
//!
//! The objects are referenced as long as they are locked. If such a reference happens to be the
//! last one, then the object is freed while others are still locked. If the code that frees it
//! takes locks, the caller must hold a reference of its own for longer.
//!
//! C header: [`include/drm/drm_exec.h`](srctree/include/drm/drm_exec.h)
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     dma_buf::{
//!         fence::{
//!             ArmedFence,
//!             FenceAlloc,
//!             FenceContext, //
//!         },
//!         resv::Usage, //
//!     },
//!     drm::{
//!         exec::{
//!             Exec,
//!             Flags, //
//!         },
//!         gem::IntoGEMObject, //
//!     },
//! };
//!
//! /// Adds the fence of a job to all buffers that the job writes to.
//! fn publish<O: IntoGEMObject>(bos: &[&O], timeline: &FenceContext) -> Result<ArmedFence> {
//!     let alloc = FenceAlloc::new(GFP_KERNEL)?;
//!     let mut deps = KVec::new();
//!
//!     pin_init::stack_pin_init!(let exec = Exec::new(Flags::INTERRUPTIBLE, bos.len()));
//!     let mut locked = exec.lock_all(|pass| {
//!         for bo in bos {
//!             pass.lock(*bo)?;
//!         }
//!         Ok(())
//!     })?;
//!
//!     // The fences that the job has to wait for.
//!     locked.for_each_fence(Usage::implicit(true), |_, fence| {
//!         Ok(deps.push(kernel::sync::aref::ARef::from(fence), GFP_KERNEL)?)
//!     })?;
//!
//!     // The last step that can fail.
//!     let reserved = locked.reserve_fences::<1>()?;
//!     let armed = alloc.arm(timeline);
//!     reserved.add_fence(armed.fence(), |_| Usage::Write);
//!     Ok(armed)
//! }
//! ```

use crate::{
    bindings,
    dma_buf::{
        fence::Fence,
        resv::{
            FenceSlot,
            Resv,
            ResvLocked,
            Usage, //
        }, //
    },
    drm::gem::{
        BaseObject,
        IntoGEMObject, //
    },
    error::to_result,
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use core::{
    marker::PhantomData,
    ptr, //
};

#[cfg(CONFIG_KUNIT = "y")]
mod tests;

/// How an [`Exec`] locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Waiting for a lock is interrupted by signals.
    pub const INTERRUPTIBLE: Self = Self(bindings::DRM_EXEC_INTERRUPTIBLE_WAIT);
}

/// Locks many GEM objects.
///
/// It can be pinned on the stack, for example, and belongs to the task that uses it.
///
/// # Invariants
///
/// If `active`, then `exec` is initialised.
#[pin_data(PinnedDrop)]
pub struct Exec {
    #[pin]
    exec: Opaque<bindings::drm_exec>,
    active: bool,
    flags: Flags,
    hint: u32,
    /// Locks are released by the task that took them.
    _not_send: NotThreadSafe,
}

impl Exec {
    /// Prepares to lock about `hint` objects, which may be zero if that is not known.
    pub fn new(flags: Flags, hint: usize) -> impl PinInit<Self> {
        // No more than this is allocated in advance; the array grows by itself.
        const MAX_HINT: u32 = 4096;

        // INVARIANT: Not active.
        pin_init!(Self {
            exec: Opaque::uninit(),
            active: false,
            flags,
            hint: u32::try_from(hint).map_or(MAX_HINT, |hint| hint.min(MAX_HINT)),
            _not_send: NotThreadSafe,
        })
    }

    /// Locks all objects that `f` locks.
    ///
    /// `f` is called with nothing locked except for an object that an earlier call contended for,
    /// if any. In case of contention it is called again, and may lock other objects then. It should
    /// return the errors that it gets from [`Pass::lock`].
    ///
    /// Sleeps. Returns the error of `f`, or [`EINTR`] if waiting for the other task was
    /// interrupted.
    pub fn lock_all(
        mut self: Pin<&mut Self>,
        mut f: impl FnMut(&mut Pass<'_>) -> Result,
    ) -> Result<Locked<'_>> {
        self.as_mut().release();
        self.as_mut().init();
        let exec = self.exec.get();
        // Releases everything if there is an error.
        let locked = Locked { exec: self };

        // SAFETY: `exec` was initialised above. This either begins the next pass, with all locks
        // released, or says that everything is locked.
        while unsafe { bindings::drm_exec_cleanup(exec) } {
            // Wait for the object that was in the way, even if `f` does not lock it this time.
            // SAFETY: `exec` is initialised, and the array is empty.
            to_result(unsafe { bindings::drm_exec_prepare_array(exec, ptr::null_mut(), 0, 0) })?;

            let mut pass = Pass {
                exec,
                contended: false,
                _exec: PhantomData,
            };
            let ret = f(&mut pass);
            if !pass.contended {
                ret?;
            }
        }
        Ok(locked)
    }

    /// Initialises `exec` and makes it active.
    fn init(self: Pin<&mut Self>) {
        // SAFETY: Nothing is moved.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: The memory is pinned, and is not initialised or was released.
        unsafe { bindings::drm_exec_init(this.exec.get(), this.flags.0, this.hint) };
        // INVARIANT: Initialised above.
        this.active = true;
    }

    /// Releases all locks.
    fn release(self: Pin<&mut Self>) {
        // SAFETY: Nothing is moved.
        let this = unsafe { self.get_unchecked_mut() };
        if this.active {
            // INVARIANT: Not active any more.
            this.active = false;
            // SAFETY: By the type invariants it is initialised.
            unsafe { bindings::drm_exec_fini(this.exec.get()) };
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Exec {
    fn drop(self: Pin<&mut Self>) {
        self.release();
    }
}

/// One attempt to lock everything.
///
/// # Invariants
///
/// `exec` is active, and in its loop. `contended` says whether this pass has to be abandoned
/// because of contention.
pub struct Pass<'a> {
    exec: *mut bindings::drm_exec,
    contended: bool,
    _exec: PhantomData<&'a mut Exec>,
}

impl Pass<'_> {
    /// Locks the [`Resv`] of `obj`. It gets the next index in [`Locked`].
    ///
    /// # Errors
    ///
    /// - [`EDEADLK`]: everything has to be released and locked again. The closure should return;
    ///   further calls in this pass fail with this error, too.
    /// - [`EALREADY`]: the [`Resv`] was locked before in this pass, through this object or another
    ///   one that shares it.
    /// - [`EINTR`]: a signal was delivered to the task, and the flags have
    ///   [`Flags::INTERRUPTIBLE`].
    /// - [`ENOMEM`].
    pub fn lock<O: IntoGEMObject>(&mut self, obj: &O) -> Result {
        if self.contended {
            return Err(EDEADLK);
        }
        let obj = obj.as_raw();

        // SAFETY: By the type invariants; the object is valid. There is no contended object left to
        // wait for: `lock_all` waited for that of the last pass, and this pass has none yet.
        let ret = unsafe { bindings::drm_exec_lock_obj(self.exec, obj) };
        if ret == EDEADLK.to_errno() {
            self.contended = true;
        }
        if ret == EALREADY.to_errno() && self.keep_prelocked(obj)? {
            // It was locked before, but not in this pass.
            return Ok(());
        }
        to_result(ret)
    }

    /// Makes sure that `obj` stays locked if it is a duplicate of the object that the last pass
    /// contended for. Returns whether it is.
    ///
    /// That object is locked already, but the C side releases it in the end if it was not locked in
    /// this pass. That would unlock the resv of another object that shares it, and that was a
    /// duplicate for this reason only.
    fn keep_prelocked(&mut self, obj: *mut bindings::drm_gem_object) -> Result<bool> {
        // SAFETY: By the type invariants.
        let prelocked = unsafe { (*self.exec).prelocked };
        // SAFETY: `exec` has a reference to this object if it is not NULL; the other one is valid,
        // as the caller has a reference to it.
        if prelocked.is_null() || unsafe { (*prelocked).resv != (*obj).resv } {
            return Ok(false);
        }
        // SAFETY: `exec` has a reference to the object, but gives it up before it takes a new one;
        // hence we hold one meanwhile.
        let ret = unsafe {
            bindings::drm_gem_object_get(prelocked);
            let ret = bindings::drm_exec_lock_obj(self.exec, prelocked);
            bindings::drm_gem_object_put(prelocked);
            ret
        };
        to_result(ret)?;
        Ok(true)
    }
}

/// All objects are locked.
///
/// Each locked [`Resv`] has an index, counted from zero in the order of locking, without
/// duplicates.
///
/// Dropping it releases all locks.
///
/// # Invariants
///
/// `exec` is active and done with its loop: all its objects are locked, and no two share a resv.
pub struct Locked<'a> {
    exec: Pin<&'a mut Exec>,
}

impl Locked<'_> {
    /// Returns the objects through which the resvs were locked.
    #[inline]
    fn objects(&self) -> &[*mut bindings::drm_gem_object] {
        let exec = self.exec.exec.get();
        // SAFETY: By the type invariants. The array does not change any more.
        let (objects, len) = unsafe { ((*exec).objects, (*exec).num_objects) };
        if len == 0 {
            return &[];
        }
        // SAFETY: The array has `num_objects` entries, and stays as it is as long as `self` is
        // borrowed.
        // CAST: An `unsigned int` always fits.
        unsafe { core::slice::from_raw_parts(objects, len as usize) }
    }

    /// # Safety
    ///
    /// `obj` must be one of [`objects`](Self::objects).
    #[inline]
    unsafe fn locked(&self, obj: *mut bindings::drm_gem_object) -> ResvLocked<'_> {
        // SAFETY: `exec` has a reference to the object, which keeps its resv.
        let resv = unsafe { Resv::from_raw((*obj).resv) };
        // SAFETY: By the type invariants it is locked. To release it or to add a fence to it takes
        // an exclusive borrow.
        unsafe { ResvLocked::new(resv) }
    }

    /// Returns the number of resvs that were locked.
    #[inline]
    pub fn len(&self) -> usize {
        self.objects().len()
    }

    /// Returns whether nothing was locked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the proof that the resv with this index is locked.
    #[inline]
    pub fn get(&self, index: usize) -> Option<ResvLocked<'_>> {
        self.objects().get(index).map(|&obj| {
            // SAFETY: This is one of the objects.
            unsafe { self.locked(obj) }
        })
    }

    /// Returns the proofs for all resvs, by index.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = ResvLocked<'_>> {
        self.objects().iter().map(|&obj| {
            // SAFETY: This is one of the objects.
            unsafe { self.locked(obj) }
        })
    }

    /// Returns the proof that the resv of `obj` is locked, if it is one of these.
    ///
    /// Takes constant time.
    pub fn of<'b, O: IntoGEMObject>(&'b self, obj: &'b O) -> Option<ResvLocked<'b>> {
        let resv = obj.resv();
        // SAFETY: The resv is valid. Others may change the field concurrently, but only this task
        // sets it to our ticket, or from our ticket to something else.
        let ctx = unsafe { (&raw const (*resv.as_raw()).lock.ctx).read_volatile() };
        // SAFETY: Takes an address only.
        let ticket = unsafe { &raw mut (*self.exec.exec.get()).ticket };
        // SAFETY: It was locked with our ticket, and still is. To release it or to add a fence to
        // it takes an exclusive borrow. `obj` keeps its resv.
        (ctx == ticket).then(|| unsafe { ResvLocked::new(resv) })
    }

    /// Calls `f` with index and fence for each fence of `usage` that is not marked as signalled.
    /// Stops at the first error. See [`ResvLocked::for_each_fence`].
    pub fn for_each_fence(
        &self,
        usage: Usage,
        mut f: impl FnMut(usize, &Fence) -> Result,
    ) -> Result {
        for (index, locked) in self.iter().enumerate() {
            locked.for_each_fence(usage, |fence| f(index, fence))?;
        }
        Ok(())
    }

    /// Reserves room for `N` fences in each resv.
    ///
    /// May sleep; fails with [`ENOMEM`].
    pub fn reserve_fences<const N: usize>(&mut self) -> Result<Reserved<'_, N>> {
        const { assert!(N > 0 && N <= 16) };

        let objects = self.objects();
        for &obj in objects {
            // CAST: Checked above.
            // SAFETY: By the type invariants the object is valid and its resv locked.
            to_result(unsafe { bindings::dma_resv_reserve_fences((*obj).resv, N as u32) })?;
        }
        // INVARIANT: Reserved above. The exclusive borrow is that of the caller.
        Ok(Reserved {
            objects,
            _locked: PhantomData,
        })
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.exec.as_mut().release();
    }
}

/// All objects are locked and have room for `N` fences each.
///
/// # Invariants
///
/// A [`Locked`] is borrowed exclusively, each of its resvs has room for `N` fences, and no slots of
/// it exist.
pub struct Reserved<'l, const N: usize> {
    objects: &'l [*mut bindings::drm_gem_object],
    _locked: PhantomData<&'l mut ()>,
}

impl<'l, const N: usize> Reserved<'l, N> {
    /// Returns the slots, by index.
    pub fn slots(self) -> impl Iterator<Item = [FenceSlot<'l>; N]> {
        self.objects.iter().map(|&obj| {
            // SAFETY: By the type invariants the object is valid, and its resv is locked and has
            // room for the `N` fences of these slots. No two objects share a resv.
            core::array::from_fn(|_| unsafe { FenceSlot::new((*obj).resv) })
        })
    }
}

impl Reserved<'_, 1> {
    /// Adds `fence` to each resv, with the usage that `usage` returns for its index.
    ///
    /// Does not allocate, sleep or fail.
    pub fn add_fence(self, fence: &Fence, mut usage: impl FnMut(usize) -> Usage) {
        for (index, [slot]) in self.slots().enumerate() {
            slot.add_fence(fence, usage(index));
        }
    }
}
