// SPDX-License-Identifier: GPL-2.0

//! The reservations that a submission locks, and its fence in them.
//!
//! That of the address space comes first, and is the only one if all BOs are
//! [private](crate::gem::private). Whether they are is found out with that lock held, under which a
//! private BO stays private.
//!
//! Process context.

use kernel::{
    dma_buf::{
        fence::Fence,
        resv::{
            FenceSlot,
            ResvGuard,
            ResvLocked,
            Usage, //
        }, //
    },
    drm::{
        exec::{
            Exec,
            Locked,
            Reserved, //
        },
        gem::Objects, //
    },
    prelude::*, //
};

use crate::gem::{
    private::VmLocked,
    Bo,
    Vm, //
};

/// The index of the address space among the locked objects. The BOs follow it.
const VM_INDEX: usize = 0;

/// The reservations that are locked. Dropping it releases them.
pub(super) enum Locks<'a> {
    /// That of the address space alone.
    Vm(ResvGuard<'a>),
    /// Those of the shared BOs as well.
    All(Locked<'a>),
}

impl VmLocked for Locks<'_> {}

impl<'a> Locks<'a> {
    /// Locks the reservation of the address space alone. Sleeps. `EINTR`: a signal.
    pub(super) fn of_vm(vm: &'a Vm) -> Result<Self> {
        Ok(Self::Vm(vm.resv().lock_interruptible()?))
    }

    /// Locks the reservations of the address space and of all BOs that are shared. Sleeps.
    ///
    /// `EINTR`: a signal. `EALREADY`: a shared BO is listed twice. `ENOMEM`.
    pub(super) fn of_all(exec: Pin<&'a mut Exec>, vm: &'a Vm, bos: &Objects<Bo>) -> Result<Self> {
        exec.lock_all(|pass| {
            pass.lock(vm.resv_object())?;
            // Nothing that was found out in an earlier pass counts: it has released the lock.
            for bo in bos.iter().filter(|bo| !bo.last_use().is_private()) {
                pass.lock(bo)?;
            }
            Ok(())
        })
        .map(Self::All)
    }

    /// Returns the proof that the reservation of the address space is locked.
    pub(super) fn vm(&self) -> Result<ResvLocked<'_>> {
        match self {
            Self::Vm(guard) => Ok(guard.locked()),
            Self::All(locked) => locked.get(VM_INDEX).ok_or(EINVAL),
        }
    }

    /// Calls `f` for each fence in the reservations of the shared BOs that a job has to wait for.
    ///
    /// The UAPI does not distinguish reads from writes, so a job is taken to write to all its BOs.
    /// The bookkeeping fences in the reservation of the address space are not waited for.
    pub(super) fn for_each_fence(&self, mut f: impl FnMut(&Fence) -> Result) -> Result {
        match self {
            Self::Vm(_) => Ok(()),
            Self::All(locked) => locked.for_each_fence(Usage::implicit(true), |_, fence| f(fence)),
        }
    }

    /// Reserves room for a fence in each reservation. May sleep. `ENOMEM`.
    pub(super) fn reserve(&mut self) -> Result<Room<'_>> {
        match self {
            Self::Vm(guard) => guard.reserve_fence().map(Room::Vm),
            Self::All(locked) => locked.reserve_fences().map(Room::All),
        }
    }
}

/// Room for a fence in each reservation of some [`Locks`].
pub(super) enum Room<'a> {
    /// In that of the address space alone.
    Vm(FenceSlot<'a>),
    /// In those of the shared BOs as well.
    All(Reserved<'a, 1>),
}

// The locks are borrowed.
impl VmLocked for Room<'_> {}

impl Room<'_> {
    /// Adds the fence of a job. Does not allocate, sleep or fail.
    pub(super) fn add_fence(self, fence: &Fence) {
        match self {
            Self::Vm(slot) => slot.add_fence(fence, Usage::Bookkeep),
            Self::All(reserved) => reserved.add_fence(fence, |index| match index {
                VM_INDEX => Usage::Bookkeep,
                _ => Usage::Write,
            }),
        }
    }
}
