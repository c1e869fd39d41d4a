// SPDX-License-Identifier: GPL-2.0

//! Memory control groups, which pay for memory that the kernel allocates on behalf of tasks.
//!
//! Memory that a task causes the kernel to allocate is charged to the group of the task by
//! `__GFP_ACCOUNT`, for instance in [`GFP_KERNEL_ACCOUNT`]. That does not work for memory which a
//! kernel thread allocates on behalf of a task, or which is allocated before its user is known. For
//! such memory, an [`ObjCgroup`] says which group pays, and a [`Charge`] represents the amount
//! charged.
//!
//! There are no locks to take. [`ObjCgroup::charge`] sleeps if its flags allow it; dropping a
//! [`Charge`] does not.
//!
//! C header: [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h)

use crate::{
    alloc::Flags,
    bindings,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};
use core::ptr::NonNull;

/// A group whose memory is reclaimed, as passed to a [`Shrinker`](super::shrinker::Shrinker).
#[repr(transparent)]
pub struct MemCgroup(Opaque<bindings::mem_cgroup>);

impl MemCgroup {
    /// Converts a raw pointer to a reference. Returns [`None`] for NULL.
    ///
    /// # Safety
    ///
    /// `memcg` must be NULL or valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(memcg: *mut bindings::mem_cgroup) -> Option<&'a Self> {
        // SAFETY: By the safety requirements; the layouts are the same.
        unsafe { memcg.cast::<Self>().as_ref() }
    }

    /// Returns the pointer for the C side, which is valid as long as the reference.
    pub(super) fn as_raw(&self) -> *mut bindings::mem_cgroup {
        self.0.get()
    }

    /// Returns whether this is the root group.
    pub fn is_root(&self) -> bool {
        // SAFETY: The pointer is valid.
        unsafe { bindings::mem_cgroup_is_root(self.0.get()) }
    }

    /// Returns whether the group pays for what was charged to `payer`. [`None`], as returned by
    /// [`ObjCgroup::current()`], stands for the root group.
    pub fn pays_for(&self, payer: Option<&ObjCgroup>) -> bool {
        match payer {
            // SAFETY: Both pointers are valid.
            Some(payer) => unsafe { bindings::mem_cgroup_pays_for(self.0.get(), payer.0.get()) },
            None => self.is_root(),
        }
    }
}

/// A group that kernel memory can be charged to. It may outlive its directory in cgroupfs: its
/// parent pays then.
///
/// # Invariants
///
/// Instances are always refcounted by `obj_cgroup_get()` and `obj_cgroup_put()`.
#[repr(transparent)]
pub struct ObjCgroup(Opaque<bindings::obj_cgroup>);

// SAFETY: By the type invariants. The functions can be called from any context.
unsafe impl AlwaysRefCounted for ObjCgroup {
    fn inc_ref(&self) {
        // SAFETY: We have a reference, so the count is not zero.
        unsafe { bindings::obj_cgroup_get(self.0.get()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller has a reference.
        unsafe { bindings::obj_cgroup_put(obj.cast().as_ptr()) };
    }
}

// SAFETY: A `struct obj_cgroup` may be used and released by any thread.
unsafe impl Send for ObjCgroup {}

// SAFETY: As above; what it contains is synchronised by C.
unsafe impl Sync for ObjCgroup {}

impl ObjCgroup {
    /// Returns the group of the current task, or [`None`] if nothing is charged: the task is in the
    /// root group or is a kernel thread.
    #[cfg(CONFIG_MEMCG)]
    pub fn current() -> Option<ARef<Self>> {
        // SAFETY: No preconditions.
        let objcg = NonNull::new(unsafe { bindings::get_obj_cgroup_from_current() })?;

        // SAFETY: The function returned a reference, which is transferred to the `ARef`.
        let this: ARef<Self> = unsafe { ARef::from_raw(objcg.cast()) };

        // SAFETY: The pointer is valid.
        match unsafe { bindings::obj_cgroup_is_root(objcg.as_ptr()) } {
            true => None,
            false => Some(this),
        }
    }

    /// Returns [`None`]: without memory control groups nothing is charged.
    #[cfg(not(CONFIG_MEMCG))]
    pub fn current() -> Option<ARef<Self>> {
        None
    }

    /// Returns whether the same group pays for what was charged to either.
    ///
    /// A group has an instance for each NUMA node, and those of its children that were removed.
    pub fn has_payer_of(&self, other: &Self) -> bool {
        // SAFETY: Both pointers are valid.
        unsafe { bindings::obj_cgroups_are_one(self.0.get(), other.0.get()) }
    }

    /// Returns whether the group was removed, so that its parent pays.
    ///
    /// Pages of files that were charged to the group and come back from swap are charged to the
    /// group of the task that brings them back.
    pub fn is_removed(&self) -> bool {
        // SAFETY: The pointer is valid.
        unsafe { bindings::obj_cgroup_is_removed(self.0.get()) }
    }

    /// Returns the pointer for the C side, which is valid as long as the reference.
    pub(super) fn as_raw(&self) -> *mut bindings::obj_cgroup {
        self.0.get()
    }

    /// Charges `size` bytes to the group.
    ///
    /// `flags` determine the effort if the group is at its limit: with `GFP_NOWAIT` this does not
    /// sleep, with `GFP_KERNEL` it reclaims memory of the group. With `__GFP_HIGH`, as in
    /// `GFP_ATOMIC`, the limit is ignored.
    ///
    /// Nothing is charged if kernel memory is not accounted (`cgroup.memory=nokmem`).
    ///
    /// # Errors
    ///
    /// `ENOMEM` if that would exceed the limit.
    pub fn charge(&self, size: usize, flags: Flags) -> Result<Charge> {
        // SAFETY: No preconditions. Once this is true, it does not change any more.
        let is_paid = unsafe { bindings::memcg_kmem_online() };

        #[cfg(CONFIG_MEMCG)]
        if is_paid {
            // SAFETY: The pointer is valid, and not that of the root group.
            crate::error::to_result(unsafe {
                bindings::obj_cgroup_charge(self.0.get(), flags.as_raw(), size)
            })?;
        }
        #[cfg(not(CONFIG_MEMCG))]
        let _ = flags;

        Ok(Charge {
            group: self.into(),
            size,
            is_paid,
        })
    }
}

/// Bytes that were charged to a group. Dropping it uncharges them, which does not sleep.
pub struct Charge {
    group: ARef<ObjCgroup>,
    size: usize,
    /// The group pays for kernel memory.
    is_paid: bool,
}

impl Charge {
    /// Returns the number of bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the group that was charged.
    pub fn group(&self) -> &ObjCgroup {
        &self.group
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.is_paid {
            #[cfg(CONFIG_MEMCG)]
            // SAFETY: The pointer is valid, and `size` bytes were charged to it.
            unsafe {
                bindings::obj_cgroup_uncharge(self.group.0.get(), self.size)
            };
        }
    }
}

#[macros::kunit_tests(rust_mm_memcg)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_kernel_do_not_pay() {
        assert!(ObjCgroup::current().is_none());
    }
}
