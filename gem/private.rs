// SPDX-License-Identifier: GPL-2.0

//! The jobs that use private BOs.
//!
//! A BO is *private* as long as a single file has ever had a handle for it, it was not imported,
//! and nobody has asked to export it. Only jobs of that file list such a BO, and each of them is
//! published with the resv of the file's address space locked. So that lock is all that a
//! submission needs: it neither locks the resv of a private BO, nor does it add a fence there. That
//! resv has no fence, except some of those that the BO refers to, if there was no memory to share
//! the BO.
//!
//! Instead, the BO has a [`LastUse`], with the fence of the last job that lists it. The next job
//! that lists the BO waits for that fence. As each job waits for the one before, no other fence
//! would be needed, if there were no jobs that are cancelled: the fence of such a job signals
//! although jobs before it in other contexts still use the BO. Hence the BO also refers to the
//! [`Record`] of the job: the fences of the earlier jobs that were not done when the job was
//! published, the latest of each timeline. Users that wait for the BO wait for all of them.
//!
//! The BOs of a job share its record, but can have different earlier jobs. They form *groups* with
//! the same ones, and the record has the fences of each group. There are few, as BOs that are used
//! together have a common past: new ones and those of the job before, for instance. If there are
//! more than [`GROUPS`], the rest of the BOs is treated as one group with all of their fences. So
//! some of them may have to wait for more than they need if a job is cancelled. A BO without
//! earlier jobs does not refer to the record, which can be large.
//!
//! When a private BO is about to be used by anybody else, it becomes *shared*: its fences move to
//! its resv ([`LastUse::share`]). It never becomes private again.
//!
//! The users of both kinds of BOs that take no resv look at the [`LastUse`] first and at the resv
//! then: fences move only from the former to the latter, and are in both for a moment.
//!
//! Lock: the spinlock of [`Uses`], one for each device, which is a leaf, taken in process context
//! only. It is also waited for in reclaim, so nothing is allocated under it. Code that goes through
//! the list of a job takes it for [`BATCH`] BOs at a time.

#[cfg(CONFIG_KUNIT = "y")]
mod tests;

use core::{
    iter,
    mem,
    ptr, //
};

use kernel::{
    dma_buf::{
        fence::Fence,
        Waited, //
    },
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        LockedBy,
        SpinLock, //
    },
    time::Jiffies, //
};

/// The number of BOs that are looked at, or get a fence, in one go with the lock held.
pub(super) const BATCH: usize = 64;

/// The number of groups of BOs with different earlier jobs that are told apart in a job.
const GROUPS: usize = 8;

/// The BOs of a job with the same earlier jobs, by number.
type Group = usize;

/// The group of the BOs that no unfinished job has used before.
const IDLE: Group = GROUPS;

/// The group of the BOs for which there is no group of their own.
const REST: Group = GROUPS + 1;

/// The owner of all [`LastUse`]s of a device, and of the mappings that submissions look up.
pub(crate) struct Uses {
    /// The number of times that a submission has [looked](look) at its BOs.
    looks: u64,
}

impl Uses {
    /// Creates the lock.
    pub(crate) fn new() -> impl PinInit<SpinLock<Self>> {
        new_spinlock!(Self { looks: 0 }, "drm_gpu::uses")
    }
}

/// A proof that the resv of the address space that has mapped some private BOs is locked, for as
/// long as it is borrowed. So no job that lists these BOs is published meanwhile, and they do not
/// become shared.
///
/// A [`ResvLocked`](kernel::dma_buf::resv::ResvLocked) would not do, as no fence can be added to
/// the resv while it exists.
pub(crate) trait VmLocked {}

/// The fence of an earlier job that lists the BOs of a group.
struct Earlier {
    group: Group,
    fence: ARef<Fence>,
}

/// The earlier jobs that a job waits for because of the private BOs that it lists. Sorted by group
/// and timeline, with the latest one of each.
struct Record(KVec<Earlier>);

/// The jobs that have used a private BO.
#[derive(Clone)]
pub(crate) struct Users {
    /// The fence of the last one.
    fence: ARef<Fence>,
    /// The jobs before it. [`None`] if there are none, as for all BOs of the group [`IDLE`].
    record: Option<Arc<Record>>,
    /// The group of the BO.
    group: Group,
}

impl Users {
    /// Returns the fences of the jobs that are not done.
    fn pending(&self) -> impl Iterator<Item = &ARef<Fence>> {
        let group = self.group;
        let earlier = self.record.as_ref().map(|record| record.0.as_slice());
        let before = earlier
            .unwrap_or_default()
            .iter()
            .filter(move |earlier| earlier.group == group)
            .map(|earlier| &earlier.fence);

        // Fully qualified, as `PinInit` has a method `chain` as well.
        Iterator::chain(iter::once(&self.fence), before).filter(|fence| !fence.is_marked_signaled())
    }

    /// Returns whether all jobs are done.
    fn are_done(&self) -> bool {
        self.pending().next().is_none()
    }

    /// Returns whether both are the same.
    fn are(&self, other: &Self) -> bool {
        self.group == other.group && ptr::eq(&*self.fence, &*other.fence)
    }

    /// Waits for all jobs, for `left` jiffies at most. Sleeps. `ERESTARTSYS`: a signal.
    pub(crate) fn wait(&self, mut left: Jiffies) -> Result<Waited> {
        for fence in self.pending() {
            match fence.wait_timeout(left)? {
                Waited::Signaled(rest) => left = left.min(rest),
                Waited::TimedOut => return Ok(Waited::TimedOut),
            }
        }
        Ok(Waited::Signaled(left.max(1)))
    }
}

/// The last users of a BO, and the last look at it. The lock of [`Uses`] protects them.
struct LastUsers {
    /// The last [`look`] at the BO.
    look: u64,
    /// The group of the BO in the job that has looked.
    group: Group,
    /// [`None`] if no job has used the BO, or if it is shared.
    users: Option<Users>,
}

/// The last use of a BO.
pub(crate) struct LastUse {
    /// Set with the lock held and, once a file has had a handle, with the resv of the file's
    /// address space locked as well.
    shared: Atomic<bool>,
    /// The number of the last job that lists the BO while it is private: that of its last [`look`].
    /// 0 if there is none. Written with the lock held.
    job: Atomic<u64>,
    last: LockedBy<LastUsers, Uses>,
}

impl LastUse {
    /// Creates the last use of a BO that no job has used yet. `lock` is that of the device, and all
    /// functions expect the same one.
    pub(crate) fn new(lock: &SpinLock<Uses>, shared: bool) -> Self {
        let last = LastUsers {
            look: 0,
            group: IDLE,
            users: None,
        };

        Self {
            shared: Atomic::new(shared),
            job: Atomic::new(0),
            last: LockedBy::new(lock, last),
        }
    }

    /// Returns whether the BO is private. It stays so as long as the resv of its address space is
    /// locked; without that lock, the answer may be outdated.
    pub(crate) fn is_private(&self) -> bool {
        !self.shared.load(Acquire)
    }

    /// Returns whether a job that lists the private BO is unfinished. Takes only a spinlock.
    pub(crate) fn is_busy(&self, lock: &SpinLock<Uses>) -> bool {
        let uses = lock.lock();
        let users = self.last.access(&uses).users.as_ref();

        users.is_some_and(|users| !users.are_done())
    }

    /// Returns the number of the last job that lists the private BO, if the fence of that job has
    /// not signalled. Takes only a spinlock.
    pub(crate) fn unfinished_job(&self, lock: &SpinLock<Uses>) -> Option<u64> {
        let uses = lock.lock();
        let users = self.last.access(&uses).users.as_ref()?;

        (!users.fence.is_marked_signaled()).then(|| self.job.load(Relaxed))
    }

    /// Returns whether the job with this number, which is not 0, is the last one that lists the
    /// private BO. Takes no lock, so the answer may be outdated.
    pub(crate) fn is_last_job(&self, job: u64) -> bool {
        self.job.load(Relaxed) == job
    }

    /// Returns the jobs that have used the private BO so far.
    pub(crate) fn users(&self, lock: &SpinLock<Uses>) -> Option<Users> {
        self.last.access(&lock.lock()).users.clone()
    }

    /// Returns a fence of the private BO that has not signalled.
    pub(crate) fn pending(&self, lock: &SpinLock<Uses>) -> Option<ARef<Fence>> {
        let uses = lock.lock();
        let fence = self.last.access(&uses).users.as_ref()?.pending().next()?;

        Some(fence.clone())
    }

    /// Makes the BO a shared one, after `add` has added all fences that are pending to its resv.
    /// If `add` fails, the BO stays private.
    ///
    /// `add` gets `locks` as well: that of the address space and that of the BO, taken in this
    /// order.
    pub(crate) fn share<L: VmLocked>(
        &self,
        lock: &SpinLock<Uses>,
        locks: &mut L,
        mut add: impl FnMut(&mut L, &Fence) -> Result,
    ) -> Result {
        if let Some(users) = self.users(lock) {
            for fence in users.pending() {
                add(locks, fence)?;
            }
        }
        let old = {
            let mut uses = lock.lock();

            self.shared.store(true, Release);
            self.job.store(0, Relaxed);
            self.last.access_mut(&mut uses).users.take()
        };
        drop(old);
        Ok(())
    }
}

/// Whether the resvs of the shared BOs that a job lists are locked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SharedResvs {
    /// They are.
    Locked,
    /// They are not, or there are no such BOs.
    Unlocked,
}

/// The jobs that a job has to wait for because of the private BOs that it lists.
pub(crate) struct Before {
    /// See [`Record`].
    jobs: KVec<Earlier>,
    /// Whether any of the BOs is private.
    any: bool,
}

impl Before {
    /// Returns the fences of these jobs. A fence can occur several times.
    pub(crate) fn fences(&self) -> impl Iterator<Item = &ARef<Fence>> {
        self.jobs.iter().map(|earlier| &earlier.fence)
    }

    /// Adds the jobs that the BOs of a group have had before.
    fn add(&mut self, group: Group, users: &Users) -> Result {
        for fence in users.pending() {
            let index = self
                .jobs
                .binary_search_by_key(&(group, fence.context()), |known| {
                    (known.group, known.fence.context())
                });
            let fence = fence.clone();

            match index {
                Ok(index) => {
                    if let Some(known) = self.jobs.get_mut(index) {
                        if !known.fence.is_later_or_same(&fence) {
                            known.fence = fence;
                        }
                    }
                }
                Err(index) => {
                    self.jobs.reserve(1, GFP_KERNEL_ACCOUNT)?;
                    // Cannot fail: there is room, and the index is not beyond the end.
                    self.jobs
                        .insert_within_capacity(index, Earlier { group, fence })
                        .map_err(|_| ENOMEM)?;
                }
            }
        }
        Ok(())
    }

    /// Allocates the record of the job, if it has to wait for others. Sleeps.
    pub(crate) fn prepare(self) -> Result<Publication> {
        let record = match self.jobs.is_empty() {
            true => None,
            false => Some(Arc::new(Record(self.jobs), GFP_KERNEL_ACCOUNT)?),
        };

        Ok(Publication {
            any: self.any,
            record,
        })
    }
}

/// Looks at the private ones among the BOs that a job lists. Returns [`None`] if one is shared,
/// unless the `shared` ones are locked. Sleeps.
///
/// The resv of the address space must stay locked until the job has been
/// [published](Publication::publish), or was given up.
///
/// `EALREADY`: a private BO is listed twice. `ENOMEM`.
pub(crate) fn look<'a>(
    lock: &SpinLock<Uses>,
    _vm: &impl VmLocked,
    mut bos: impl Iterator<Item = &'a LastUse>,
    shared: SharedResvs,
) -> Result<Option<Before>> {
    let mut before = Before {
        jobs: KVec::new(),
        any: false,
    };
    // The number of this look.
    let mut this = 0;
    // By group.
    let mut known: [Option<Users>; GROUPS] = [const { None }; GROUPS];
    // Of the BOs in no group of their own, whose jobs are added at once.
    let mut last_rest: Option<Users> = None;
    let mut done = false;

    while !done {
        let mut rest = None;
        let mut uses = lock.lock();

        if this == 0 {
            uses.looks += 1;
            this = uses.looks;
        }
        for _ in 0..BATCH {
            let Some(bo) = bos.next() else {
                done = true;
                break;
            };
            match (bo.is_private(), shared) {
                (true, _) => (),
                (false, SharedResvs::Locked) => continue,
                (false, SharedResvs::Unlocked) => return Ok(None),
            }
            let last = bo.last.access_mut(&mut uses);

            before.any = true;
            if mem::replace(&mut last.look, this) == this {
                return Err(EALREADY);
            }
            let Some(users) = &last.users else {
                last.group = IDLE;
                continue;
            };
            // The first one that is the same, or free.
            let found = known.iter_mut().enumerate().find(|(_, known)| match known {
                Some(known) => known.are(users),
                None => true,
            });

            last.group = match found {
                Some((group, Some(_))) => group,
                _ if users.are_done() => IDLE,
                Some((group, free)) => {
                    *free = Some(users.clone());
                    group
                }
                None if last_rest.as_ref().is_some_and(|rest| rest.are(users)) => REST,
                None => {
                    rest = Some(users.clone());
                    last.group = REST;
                    break;
                }
            };
        }
        drop(uses);

        if let Some(users) = rest {
            before.add(REST, &users)?;
            last_rest = Some(users);
        }
    }
    for (group, users) in known.iter().flatten().enumerate() {
        before.add(group, users)?;
    }
    Ok(Some(before))
}

/// A job that is about to be published as the last user of the private BOs that it lists.
pub(crate) struct Publication {
    /// Whether the job lists a private BO.
    any: bool,
    /// [`None`] if it waits for no other job because of these.
    record: Option<Arc<Record>>,
}

impl Publication {
    /// Publishes the job with this fence, which lists these BOs, as the last user of the private
    /// ones. They are those of the last [`look`], and the resv has been locked since. Does not
    /// allocate, sleep or fail.
    pub(crate) fn publish<'a>(
        self,
        lock: &SpinLock<Uses>,
        _vm: &impl VmLocked,
        fence: &Fence,
        bos: impl Iterator<Item = &'a LastUse>,
    ) {
        if !self.any {
            return;
        }
        let mut bos = bos.filter(|bo| bo.is_private());

        loop {
            // Freeing a record takes time. These are dropped with the lock released.
            let mut old = [const { None }; BATCH];
            let mut uses = lock.lock();

            for old in &mut old {
                let Some(bo) = bos.next() else {
                    return;
                };
                let last = bo.last.access_mut(&mut uses);
                let group = last.group;

                bo.job.store(last.look, Relaxed);
                *old = last.users.replace(Users {
                    fence: fence.into(),
                    record: match group {
                        IDLE => None,
                        _ => self.record.clone(),
                    },
                    group,
                });
            }
        }
    }
}
