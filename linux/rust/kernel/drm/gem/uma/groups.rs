// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The control groups that pay for the objects of a device. Each has its own LRU lists.
//!
//! If memory is short in a group, reclaim looks at the lists of that group only. If it is short
//! globally, memory management reclaims from one group after the other, as it does for pages.
//!
//! An object belongs to the group of the task that created it. When that group is removed, its
//! parent pays from then on, so the paying group is looked up each time.
//!
//! Lock: a spinlock for each device, held only for counting and linking. It nests inside the lock
//! of the lists. Reclaim waits for it, so nothing is allocated under it. Process context.

use super::{
    dma::DmaSpaceInner,
    holders::count,
    lru::Lru, //
};
use crate::{
    bindings,
    list::{
        impl_list_arc_safe,
        impl_list_item,
        List,
        ListArc,
        ListLinks, //
    },
    mm::{
        memcg::{
            MemCgroup,
            ObjCgroup, //
        },
        shrinker, //
    },
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
    types::Opaque, //
};
use core::ptr;

/// A group with room for fewer pages than this counts as being at its limit, as the kernel charges
/// up to 64 pages at a time.
const MARGIN: usize = 64;

/// The lists of the objects that one control group pays for.
///
/// # Invariants
///
/// The lists are initialised. All objects in them are [`Base`](super::base::Base)s of the DRM
/// device that the group belongs to, and have a [`Membership`] of the group.
#[pin_data]
pub(super) struct Group {
    #[pin]
    lists: Opaque<[bindings::drm_gem_lru; Lru::ALL.len()]>,
    #[pin]
    links: ListLinks,
    /// The control group that pays; [`None`] stands for the root group.
    payer: Option<ARef<ObjCgroup>>,
    /// The number of objects. Changed under the lock of the groups.
    members: Atomic<usize>,
    /// The number of the last walk that has visited the group, see [`Groups::next_unseen()`].
    seen_by: Atomic<usize>,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Group { untracked; }
}
impl_list_item! {
    impl ListItem<0> for Group { using ListLinks { self.links }; }
}

// SAFETY: The lists belong to no thread.
unsafe impl Send for Group {}

// SAFETY: The lists are changed under the device's lock; their counts can be read at any time.
unsafe impl Sync for Group {}

impl Group {
    /// Creates empty lists.
    fn new(payer: Option<ARef<ObjCgroup>>) -> impl PinInit<Self, Error> {
        // INVARIANT: The lists are initialised here, and there are no objects.
        try_pin_init!(Self {
            lists <- Opaque::ffi_init(|lists: *mut [bindings::drm_gem_lru; Lru::ALL.len()]| {
                for index in 0..Lru::ALL.len() {
                    // SAFETY: The memory is pinned, and `index` within the array.
                    unsafe {
                        bindings::drm_gem_lru_init(lists.cast::<bindings::drm_gem_lru>().add(index))
                    };
                }
            }),
            links <- ListLinks::new(),
            payer,
            members: Atomic::new(0),
            seen_by: Atomic::new(0),
        })
    }

    /// Returns a list, which is valid as long as `self`.
    #[inline]
    pub(super) fn list(&self, lru: Lru) -> *mut bindings::drm_gem_lru {
        // SAFETY: The number of a list is within the array.
        unsafe {
            self.lists
                .get()
                .cast::<bindings::drm_gem_lru>()
                .add(lru as usize)
        }
    }

    /// Returns the number of pages of the objects in a list. Takes no lock.
    pub(super) fn pages(&self, lru: Lru) -> usize {
        // SAFETY: The list is initialised. The count may change concurrently, but is read as a
        // whole.
        let pages = unsafe { (&raw const (*self.list(lru)).count).read_volatile() };

        usize::try_from(pages).unwrap_or(0)
    }

    /// Returns whether `of` pays for the objects; [`None`] matches any group.
    fn is_of(&self, of: Option<&MemCgroup>) -> bool {
        of.is_none_or(|of| of.pays_for(self.payer.as_deref()))
    }

    /// Returns whether content that comes back from swap may be charged to a group in which the
    /// current task can make no room.
    pub(super) fn is_of_others(&self) -> bool {
        // The root group has no limit.
        let Some(payer) = &self.payer else {
            return false;
        };

        match payer.is_removed() {
            // It is charged to the current task, or to another one that has brought it back before.
            true => !shrinker::is_at_own_limit(None, MARGIN),
            false => ObjCgroup::current().is_none_or(|current| !current.has_payer_of(payer)),
        }
    }

    /// Returns whether objects that are charged to `payer` belong here.
    fn is_for(&self, payer: Option<&ObjCgroup>) -> bool {
        let address = |payer: Option<&ObjCgroup>| payer.map_or(ptr::null(), ptr::from_ref);

        ptr::eq(address(self.payer.as_deref()), address(payer))
    }

    /// Announces the group to the shrinker, so that it is called for it.
    fn announce(&self, shrinker: Option<shrinker::Id>) {
        if let (Some(shrinker), Some(payer)) = (shrinker, &self.payer) {
            shrinker.announce(payer);
        }
    }
}

/// An object's membership in a [`Group`].
pub(super) struct Membership {
    space: Arc<DmaSpaceInner>,
    group: Arc<Group>,
}

impl Membership {
    /// Makes an object a member of the group of the current task. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(space: &Arc<DmaSpaceInner>) -> Result<Self> {
        Ok(Self {
            space: space.clone(),
            group: space.groups().join(ObjCgroup::current())?,
        })
    }

    /// Returns the group.
    #[inline]
    pub(super) fn group(&self) -> &Group {
        &self.group
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.space.groups().leave(&self.group);
    }
}

/// The groups of one device.
#[pin_data]
pub(super) struct Groups {
    #[pin]
    inner: SpinLock<Inner>,
}

struct Inner {
    /// The groups that have objects, the next one to be scanned first.
    list: List<Group>,
    /// The number of groups.
    len: usize,
    /// The shrinker to be called for them.
    shrinker: Option<shrinker::Id>,
    /// The number of the last walk.
    walk: usize,
}

impl Inner {
    fn find(&self, payer: Option<&ObjCgroup>) -> Option<Arc<Group>> {
        let group = self.list.iter().find(|group| group.is_for(payer))?;

        count(&group.members, true);
        Some(group.into())
    }
}

impl Groups {
    /// Creates the groups of a device without objects.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock!(
                Inner {
                    list: List::new(),
                    len: 0,
                    shrinker: None,
                    walk: 0,
                },
                "uma::Groups::inner"
            ),
        })
    }

    fn join(&self, payer: Option<ARef<ObjCgroup>>) -> Result<Arc<Group>> {
        if let Some(group) = self.inner.lock().find(payer.as_deref()) {
            return Ok(group);
        }
        let new = ListArc::pin_init(Group::new(payer.clone()), GFP_KERNEL_ACCOUNT)?;
        let mut inner = self.inner.lock();

        // Another task of the group may have added it in the meantime.
        if let Some(group) = inner.find(payer.as_deref()) {
            return Ok(group);
        }
        let group = new.clone_arc();

        group.members.store(1, Relaxed);
        group.announce(inner.shrinker);
        inner.list.push_back(new);
        inner.len += 1;
        Ok(group)
    }

    fn leave(&self, group: &Group) {
        let mut inner = self.inner.lock();

        count(&group.members, false);
        if group.members.load(Relaxed) != 0 {
            return;
        }
        inner.len -= 1;
        // SAFETY: A group with a member is in this list, and never in another one.
        let gone = unsafe { inner.list.remove(group) };

        // The group is freed with the lock released.
        drop(inner);
        drop(gone);
    }

    /// Makes memory management call a shrinker for all current and future groups.
    pub(super) fn set_shrinker(&self, shrinker: shrinker::Id) {
        let mut inner = self.inner.lock();

        inner.shrinker = Some(shrinker);
        for group in inner.list.iter() {
            group.announce(inner.shrinker);
        }
    }

    /// Returns the number of pages of the objects in a list that `of` pays for.
    pub(super) fn pages(&self, of: Option<&MemCgroup>, lru: Lru) -> usize {
        let inner = self.inner.lock();
        let groups = inner.list.iter().filter(|group| group.is_of(of));

        groups.map(|group| group.pages(lru)).sum()
    }

    /// Returns the number of groups that `of` pays for: usually one, or more if some were removed.
    pub(super) fn count(&self, of: Option<&MemCgroup>) -> usize {
        let inner = self.inner.lock();

        inner.list.iter().filter(|group| group.is_of(of)).count()
    }

    /// Returns one group that `of` pays for, in turn.
    pub(super) fn turn(&self, of: Option<&MemCgroup>) -> Option<Arc<Group>> {
        let mut inner = self.inner.lock();

        for _ in 0..inner.len {
            let next = inner.list.pop_front()?;
            let group = next.clone_arc();

            inner.list.push_back(next);
            if group.is_of(of) {
                return Some(group);
            }
        }
        None
    }

    /// Begins a walk through all groups. There must be only one walk at a time.
    pub(super) fn begin_walk(&self) {
        let mut inner = self.inner.lock();

        inner.walk = inner.walk.wrapping_add(1);
    }

    /// Returns a group that the walk has not visited yet.
    pub(super) fn next_unseen(&self) -> Option<Arc<Group>> {
        let inner = self.inner.lock();
        let mut groups = inner.list.iter();
        let group = groups.find(|group| group.seen_by.load(Relaxed) != inner.walk)?;

        group.seen_by.store(inner.walk, Relaxed);
        Some(group.into())
    }
}
