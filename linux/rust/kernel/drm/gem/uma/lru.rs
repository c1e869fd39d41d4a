// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Lists of objects by reclaimability, in the order of their last use.
//!
//! Each object is in one of the lists of [`Lru`], depending on its state, the holders of its pages
//! and the advice of user space; each control group has its own lists. All of these change under
//! the lock of the lists, the mutex that DRM has for this in each device, and the object is moved
//! at the same time. Nothing is allocated under it, and the only lock that nests inside it is the
//! spinlock of the control groups. So reclaim may wait for it, and so may code that signals fences.
//!
//! An object keeps its [`Group`](super::groups::Group), and so the lists, alive for as long as it
//! is in one of them.

use super::{
    base::Base,
    groups::Groups,
    holders::Holders, //
};
use crate::{
    bindings,
    mm::memcg::MemCgroup,
    page::PAGE_SHIFT,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::NotThreadSafe, //
};
use core::{
    marker::PhantomData,
    mem::offset_of,
    ptr, //
};

/// The lists that objects are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lru {
    /// The object has no file: its memory is not managed here.
    Foreign,
    /// There are no pages: never used, evicted, or purged.
    Unbacked,
    /// The pages are held by something other than the object's device.
    Pinned,
    /// Pages with content that is needed. They can be evicted.
    WillNeed,
    /// Pages with content that user space has given up. They can be purged.
    DontNeed,
}

impl Lru {
    /// All lists.
    pub const ALL: [Self; 5] = [
        Self::Foreign,
        Self::Unbacked,
        Self::Pinned,
        Self::WillNeed,
        Self::DontNeed,
    ];
}

/// The lists of one device, and the device.
///
/// # Invariants
///
/// All objects in the lists of `groups` are [`Base`]s, of the DRM device at the address `drm`.
#[pin_data]
pub(super) struct Lrus {
    #[pin]
    pub(super) groups: Groups,
    /// The address of the DRM device, or 0 before the first object is created.
    drm: Atomic<usize>,
}

impl Lrus {
    /// Creates empty lists.
    pub(super) fn new() -> impl PinInit<Self> {
        // INVARIANT: There are no objects.
        pin_init!(Self {
            groups <- Groups::new(),
            drm: Atomic::new(0),
        })
    }

    /// Claims the lists for `dev`. Returns `false` if they belong to another device.
    pub(super) fn claim(&self, dev: *mut bindings::drm_device) -> bool {
        match self.drm.cmpxchg(0, dev as usize, Relaxed) {
            Ok(_) => true,
            Err(_) => self.belong_to(dev),
        }
    }

    /// Returns whether these are the lists of `dev`.
    pub(super) fn belong_to(&self, dev: *mut bindings::drm_device) -> bool {
        self.drm.load(Relaxed) == dev as usize
    }
}

/// A guard for the lock of the lists.
pub(super) struct LruGuard<'a> {
    mutex: *mut bindings::mutex,
    _dev: PhantomData<&'a ()>,
    /// A mutex is released by the task that took it.
    _not_send: NotThreadSafe,
}

impl<'a> LruGuard<'a> {
    /// Takes the lock. Sleeps.
    ///
    /// # Safety
    ///
    /// `dev` must be a valid DRM device for `'a`.
    #[inline]
    pub(super) unsafe fn lock(dev: *mut bindings::drm_device) -> Self {
        // SAFETY: By the safety requirements.
        let mutex = unsafe { &raw mut (*dev).gem_lru_mutex };

        // SAFETY: As above.
        unsafe { bindings::mutex_lock(mutex) };
        Self {
            mutex,
            _dev: PhantomData,
            _not_send: NotThreadSafe,
        }
    }

    /// Takes the lock if it is free.
    ///
    /// # Safety
    ///
    /// As for [`LruGuard::lock()`].
    unsafe fn try_lock(dev: *mut bindings::drm_device) -> Option<Self> {
        // SAFETY: By the safety requirements.
        let mutex = unsafe { &raw mut (*dev).gem_lru_mutex };

        // SAFETY: As above.
        let locked = unsafe { bindings::mutex_trylock(mutex) } != 0;

        // Created lazily, since dropping a guard releases the lock.
        locked.then(|| Self {
            mutex,
            _dev: PhantomData,
            _not_send: NotThreadSafe,
        })
    }

    /// Moves an object to the end of a list.
    ///
    /// # Safety
    ///
    /// The object must be initialised and belong to the device whose lock this is; `list` must be
    /// valid for as long as the object is in it.
    #[inline]
    unsafe fn move_to(&self, list: *mut bindings::drm_gem_lru, obj: *mut bindings::drm_gem_object) {
        // SAFETY: By the safety requirements.
        unsafe { bindings::drm_gem_lru_move_tail_locked(list, obj) };
    }

    /// Moves all objects in front of `node` to the end of their list, in the same order. Takes
    /// constant time.
    ///
    /// # Safety
    ///
    /// `head` must be the head of a valid list whose lock this is; `node` must be in that list, or
    /// the head, in which case nothing moves.
    unsafe fn rotate(&self, head: *mut bindings::list_head, node: *mut bindings::list_head) {
        if ptr::eq(node, head) {
            return;
        }
        // The list is a ring, so its head is moved instead.
        // SAFETY: By the safety requirements, these are the head and nodes of one list, which
        // nobody else uses.
        unsafe {
            let (last, first) = ((*head).prev, (*head).next);

            (*last).next = first;
            (*first).prev = last;

            let last = (*node).prev;

            (*last).next = head;
            (*head).prev = last;
            (*head).next = node;
            (*node).prev = head;
        }
    }
}

impl Drop for LruGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The current task holds the lock.
        unsafe { bindings::mutex_unlock(self.mutex) };
    }
}

impl Base {
    /// Calls `f`, which changes the [`Holders`], and moves the object to the end of the list where
    /// it belongs afterwards, unless it already is in that list.
    ///
    /// Does not allocate, and takes only the lock of the lists.
    pub(super) fn update<R>(&self, f: impl FnOnce(&Holders) -> R) -> R {
        let obj = self.obj.get();

        // SAFETY: By the type invariants the object is initialised; its device outlives it.
        let (guard, has_file) = unsafe { (LruGuard::lock((*obj).dev), !(*obj).filp.is_null()) };
        let ret = f(&self.holders);
        let lru = match has_file {
            true => self.holders.facts().lru(),
            false => Lru::Foreign,
        };
        let list = self.membership.group().list(lru);

        // SAFETY: As above. The lists are valid as long as the group, to which the object has a
        // reference; it is removed from them when it is released.
        unsafe {
            if (*obj).lru != list {
                guard.move_to(list, obj);
            }
        }
        ret
    }
}

/// Returns the time in jiffies.
fn ticks() -> usize {
    // SAFETY: The counter always exists. It may change concurrently, but is read as a whole.
    unsafe { ptr::read_volatile(&raw const bindings::jiffies) }
}

/// Marks objects as recently used by moving them to the end of their lists, except those that were
/// already moved in this tick. Takes the lock once for each batch of objects.
///
/// # Safety
///
/// `dev` must be a valid DRM device, and all objects must be initialised and belong to it.
pub(super) unsafe fn touch<'a>(
    dev: *mut bindings::drm_device,
    bases: impl Iterator<Item = &'a Base>,
) {
    const BATCH: usize = 64;
    let now = ticks();
    let mut bases = bases.filter(|base| base.touched.load(Relaxed) != now);
    let mut next = bases.next();

    while next.is_some() {
        // SAFETY: By the safety requirements.
        let guard = unsafe { LruGuard::lock(dev) };

        for _ in 0..BATCH {
            let Some(base) = next else {
                break;
            };
            let obj = base.obj.get();

            base.touched.store(now, Relaxed);
            // SAFETY: By the safety requirements. The object stays in the list that it is in.
            unsafe {
                if !(*obj).lru.is_null() {
                    guard.move_to((*obj).lru, obj);
                }
            }
            next = bases.next();
        }
    }
}

/// Returns the object that is linked by `node`.
fn object_of(node: *mut bindings::list_head) -> *mut bindings::drm_gem_object {
    node.wrapping_byte_sub(offset_of!(bindings::drm_gem_object, lru_node))
        .cast()
}

/// The result of an [`Object::scan()`](super::Object::scan).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// The number of pages that were released.
    pub taken: usize,
    /// The number of pages of all objects that were visited.
    pub seen: usize,
}

/// How far to go in a scan.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The number of pages to release.
    pub target: usize,
    /// The number of objects to visit.
    pub looks: usize,
}

/// Walks the objects of a list that `of` pays for, the least recently used first, and calls `f` for
/// those for which `skip` returns `false`. Stops when the numbers of pages that `f` returned add up
/// to the target of `limit`, when `f` returns [`None`], or when as many objects were visited as
/// `limit` permits. Each visited object is moved to the end of the list first, and is visited at
/// most once unless others scan concurrently. Objects that are skipped are moved together with the
/// next one for which `f` is called.
///
/// `skip` is called with the lock held, and must neither wait for locks nor take references. `f` is
/// called without the lock, with a reference to the object; in reclaim, it must not wait for locks
/// under which memory is allocated.
///
/// # Safety
///
/// `dev` must be the valid DRM device that `lrus` belong to.
pub(super) unsafe fn scan(
    lrus: &Lrus,
    dev: *mut bindings::drm_device,
    (of, lru): (Option<&MemCgroup>, Lru),
    mut limit: Limit,
    mut skip: impl FnMut(*mut bindings::drm_gem_object) -> bool,
    mut f: impl FnMut(*mut bindings::drm_gem_object) -> Option<usize>,
) -> Scanned {
    let mut scanned = Scanned::default();

    // SAFETY: By the safety requirements.
    let mut guard = unsafe { LruGuard::lock(dev) };

    for _ in 0..lrus.groups.count(of) {
        if scanned.taken >= limit.target || limit.looks == 0 {
            break;
        }
        let Some(group) = lrus.groups.turn(of) else {
            break;
        };
        let list = group.list(lru);
        let all = scanned.seen.saturating_add(group.pages(lru));

        while scanned.taken < limit.target {
            // SAFETY: The list is valid and its lock held.
            let (head, mut node) = unsafe { (&raw mut (*list).list, (*list).list.next) };
            let mut found = None;

            while found.is_none() && node != head && scanned.seen < all && limit.looks != 0 {
                let obj = object_of(node);

                limit.looks -= 1;
                // SAFETY: The lock is held. Objects are removed from the lists before they are
                // freed; releasing one whose last reference was dropped waits for the lock.
                unsafe {
                    node = (*node).next;
                    scanned.seen += (*obj).size >> PAGE_SHIFT;
                    if !skip(obj) && bindings::kref_get_unless_zero(&raw mut (*obj).refcount) != 0 {
                        found = Some(obj);
                    }
                }
            }
            // SAFETY: `node` is in the list, or its head.
            unsafe { guard.rotate(head, node) };
            let Some(obj) = found else {
                break;
            };
            drop(guard);

            let pages = f(obj);

            // SAFETY: This drops the reference taken above.
            unsafe { bindings::drm_gem_object_put(obj) };
            match pages {
                Some(pages) => scanned.taken = scanned.taken.saturating_add(pages),
                None => return scanned,
            }
            // SAFETY: By the safety requirements.
            guard = unsafe { LruGuard::lock(dev) };
        }
    }
    scanned
}

/// Calls `f` for all objects of all lists, with the lock held. `f` must not wait for locks, nor
/// drop a reference to an object.
///
/// Fails with `EBUSY` if the lock is contended.
///
/// # Safety
///
/// As for [`scan()`].
pub(super) unsafe fn for_each(
    lrus: &Lrus,
    dev: *mut bindings::drm_device,
    mut f: impl FnMut(Lru, *mut bindings::drm_gem_object),
) -> Result {
    // SAFETY: By the safety requirements.
    let _guard = unsafe { LruGuard::try_lock(dev) }.ok_or(EBUSY)?;

    lrus.groups.begin_walk();
    while let Some(group) = lrus.groups.next_unseen() {
        for lru in Lru::ALL {
            let list = group.list(lru);
            // SAFETY: The list is valid and its lock held.
            let head = unsafe { &raw mut (*list).list };
            // SAFETY: As above.
            let mut node = unsafe { (*head).next };

            while !ptr::eq(node, head) {
                f(lru, object_of(node));
                // SAFETY: As above; `node` is in the list.
                node = unsafe { (*node).next };
            }
        }
    }
    Ok(())
}
