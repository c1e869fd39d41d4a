// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Locking many GEM objects at once.
//!
//! The locks of GEM objects, their reservation objects, are wound/wait mutexes. A task may take any
//! number of them in any order. If that runs into a deadlock with another task, one of the two is
//! told to release all of its locks and to begin anew. [`Exec`] does that: the closure given to
//! [`Exec::lock_all`] locks what is needed, and is called again if it has to.
//!
//! What comes out is a [`Locked`], with which fences can be looked at and added, in two steps:
//! [`Locked::reserve_fences`] allocates and can fail, and what it returns cannot.
//!
//! # Locks and contexts
//!
//! Process context, not in a [`Signalling`](crate::dma_buf::fence::Signalling) section.
//!
//! The objects are referenced as long as they are locked. If such a reference happens to be the
//! last one, then the object is freed while others are still locked. If the code that frees it
//! takes locks, then the caller must have a reference of its own that lives longer.
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
//!     // What is to be waited for before.
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
            Resv,
            ResvLocked,
            Slot,
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
    ops::BitOr,
    ptr, //
};

#[cfg(CONFIG_KUNIT = "y")]
mod tests;

/// How an [`Exec`] locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// Waiting for a lock ends if a signal is delivered to the task.
    pub const INTERRUPTIBLE: Self = Self(bindings::DRM_EXEC_INTERRUPTIBLE_WAIT);

    /// Locking twice is no error. Without this it is [`EALREADY`].
    pub const IGNORE_DUPLICATES: Self = Self(bindings::DRM_EXEC_IGNORE_DUPLICATES);
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Locks many GEM objects.
///
/// To be pinned on the stack, for example; it belongs to the task that uses it.
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
        // More than that is not allocated in advance; the array grows by itself.
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

    /// Locks all that `f` locks.
    ///
    /// `f` is called with nothing locked. If two tasks get into each other's way, it is called
    /// again, again with nothing locked. It may lock other objects then, and should return the
    /// errors that it gets from [`Pass::lock`].
    ///
    /// Sleeps. Fails as `f` does, and if waiting for the other task does: with [`EINTR`].
    pub fn lock_all(
        mut self: Pin<&mut Self>,
        mut f: impl FnMut(&mut Pass<'_>) -> Result,
    ) -> Result<Locked<'_>> {
        self.as_mut().release();
        self.as_mut().init();
        let exec = self.exec.get();
        // Releases everything if there is an error.
        let locked = Locked { exec: self };

        // SAFETY: `exec` was initialised above. This begins the next pass, with nothing locked, or
        // says that everything is locked.
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

    /// Makes it active.
    fn init(self: Pin<&mut Self>) {
        // SAFETY: Nothing is moved.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: The memory is pinned, and is not initialised or was released.
        unsafe { bindings::drm_exec_init(this.exec.get(), this.flags.0, this.hint) };
        // INVARIANT: Initialised just now.
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
/// `exec` is active, and in its loop. `contended` says whether this pass has run into a deadlock.
pub struct Pass<'a> {
    exec: *mut bindings::drm_exec,
    contended: bool,
    _exec: PhantomData<&'a mut Exec>,
}

impl Pass<'_> {
    /// Locks `obj`.
    ///
    /// Returns whether there is one more [`Resv`] locked now, which then has the next index in
    /// [`Locked`]. If not, then it was locked before in this pass, with this object or with another
    /// one that shares it.
    ///
    /// # Errors
    ///
    /// - [`EDEADLK`]: everything has to be released and locked anew. The closure should return;
    ///   further calls fail with this error, too.
    /// - [`EALREADY`]: the [`Resv`] was locked before in this pass, and the flags do not have
    ///   [`Flags::IGNORE_DUPLICATES`].
    /// - [`EINTR`]: a signal was delivered to the task, and the flags have
    ///   [`Flags::INTERRUPTIBLE`].
    /// - [`ENOMEM`].
    pub fn lock<O: IntoGEMObject>(&mut self, obj: &O) -> Result<bool> {
        if self.contended {
            return Err(EDEADLK);
        }
        let obj = obj.as_raw();
        // SAFETY: By the type invariants.
        let before = unsafe { (*self.exec).num_objects };

        // SAFETY: By the type invariants; the object is valid. The last pass may have left an object
        // to wait for, but `lock_all` did so; and this one was not contended yet.
        let ret = unsafe { bindings::drm_exec_lock_obj(self.exec, obj) };
        if ret == EDEADLK.to_errno() {
            self.contended = true;
        }
        if ret == EALREADY.to_errno() && self.keep_prelocked(obj)? {
            // It was locked before, but not in this pass.
            return Ok(true);
        }
        to_result(ret)?;

        // SAFETY: By the type invariants.
        if unsafe { (*self.exec).num_objects } != before {
            return Ok(true);
        }
        self.keep_prelocked(obj)
    }

    /// Makes sure that a duplicate stays locked.
    ///
    /// The object that was in the way of the last pass is locked already, but C releases it in the
    /// end if it was not asked for. That would leave another one unlocked that shares its resv and
    /// was a duplicate for this reason only.
    fn keep_prelocked(&mut self, obj: *mut bindings::drm_gem_object) -> Result<bool> {
        // SAFETY: By the type invariants.
        let prelocked = unsafe { (*self.exec).prelocked };
        // SAFETY: `exec` has a reference to this object if it is not NULL; the other one is valid by
        // the type invariants of what the caller has.
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

/// All is locked.
///
/// Each [`Resv`] that was locked has an index: they count from zero, in the order in which they were
/// locked, without duplicates.
///
/// Dropping it releases everything.
///
/// # Invariants
///
/// `exec` is active and done with its loop: all its objects are locked, and each has another resv.
pub struct Locked<'a> {
    exec: Pin<&'a mut Exec>,
}

impl Locked<'_> {
    /// The objects by which the resvs were locked.
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
    unsafe fn locked(&self, obj: *mut bindings::drm_gem_object) -> ResvLocked<'_> {
        // SAFETY: `exec` has a reference to the object, which keeps its resv.
        let resv = unsafe { Resv::from_raw((*obj).resv) };
        // SAFETY: By the type invariants it is locked. To release it or to add a fence to it an
        // exclusive borrow is needed.
        unsafe { ResvLocked::new(resv) }
    }

    /// How many were locked.
    pub fn len(&self) -> usize {
        self.objects().len()
    }

    /// Whether nothing was locked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The proof that the one with this index is locked.
    pub fn get(&self, index: usize) -> Option<ResvLocked<'_>> {
        self.objects().get(index).map(|&obj| {
            // SAFETY: This is one of the objects.
            unsafe { self.locked(obj) }
        })
    }

    /// The proofs for all, by index.
    pub fn iter(&self) -> impl Iterator<Item = ResvLocked<'_>> {
        self.objects().iter().map(|&obj| {
            // SAFETY: This is one of the objects.
            unsafe { self.locked(obj) }
        })
    }

    /// The proof that the resv of `obj` is locked, if it is one of these.
    ///
    /// Takes the same time however many there are.
    pub fn of<'b, O: IntoGEMObject>(&'b self, obj: &'b O) -> Option<ResvLocked<'b>> {
        let resv = obj.resv();
        // SAFETY: The resv is valid. Others may change the field just now, but it is only this task
        // that sets it to our ticket or, then, to something else.
        let ctx = unsafe { (&raw const (*resv.as_raw()).lock.ctx).read_volatile() };
        // SAFETY: Takes an address only.
        let ticket = unsafe { &raw mut (*self.exec.exec.get()).ticket };
        // SAFETY: It was locked with our ticket, and is still. To release it or to add a fence to it
        // an exclusive borrow is needed. `obj` keeps its resv.
        (ctx == ticket).then(|| unsafe { ResvLocked::new(resv) })
    }

    /// Calls `f` with index and fence for each fence of `usage` that has not signalled, until it
    /// fails.
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

    /// Reserves the room for `N` fences in each.
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

/// All is locked and has room for `N` fences each.
///
/// # Invariants
///
/// A [`Locked`] is borrowed exclusively, each of its resvs has room for `N` fences, and there is no
/// slot of it.
pub struct Reserved<'l, const N: usize> {
    objects: &'l [*mut bindings::drm_gem_object],
    _locked: PhantomData<&'l mut ()>,
}

impl<'l, const N: usize> Reserved<'l, N> {
    /// The slots, by index.
    pub fn slots(self) -> impl Iterator<Item = [Slot<'l>; N]> {
        self.objects.iter().map(|&obj| {
            // SAFETY: By the type invariants the object is valid, its resv is locked, and has the
            // room for the `N` fences of these slots. Each object has another resv.
            core::array::from_fn(|_| unsafe { Slot::new((*obj).resv) })
        })
    }
}

impl Reserved<'_, 1> {
    /// Adds `fence` to each, with the usage that `usage` says for its index.
    ///
    /// Does not allocate, sleep or fail.
    pub fn add_fence(self, fence: &Fence, mut usage: impl FnMut(usize) -> Usage) {
        for (index, [slot]) in self.slots().enumerate() {
            slot.add_fence(fence, usage(index));
        }
    }
}
