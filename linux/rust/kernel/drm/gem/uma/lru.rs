// SPDX-License-Identifier: GPL-2.0

//! Which objects could give up their pages, in the order of their last use.
//!
//! Each object is in one of the lists of [`Lru`], chosen by where its pages are, who holds them and
//! what user space said about them. All of these change under the lock of the lists, the mutex that
//! DRM has for this in each device, and the object moves at the same time. Nothing is allocated and
//! no other lock is taken under it, so reclaim may wait for it, and so may those who signal fences.
//!
//! The lists know an object for as long as the object knows its [`Space`](super::dma::Space), which
//! they are a part of.

use super::{
    base::Base,
    state::State, //
};
use crate::{
    bindings,
    page::PAGE_SHIFT,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    marker::PhantomData,
    mem::offset_of,
    ptr, //
};

/// The lists that objects are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lru {
    /// The object has no file: its memory is of no concern here.
    Foreign,
    /// There are no pages: never used, evicted, or purged.
    Unbacked,
    /// Somebody other than the object's device has the pages.
    Pinned,
    /// Pages with content that is needed. They can be evicted.
    WillNeed,
    /// Pages with content that user space has given up. They can be purged.
    DontNeed,
}

impl Lru {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Foreign,
        Self::Unbacked,
        Self::Pinned,
        Self::WillNeed,
        Self::DontNeed,
    ];
}

/// The lists of one device.
///
/// # Invariants
///
/// The lists are initialised. All objects in them are [`Base`]s, of the DRM device at the address
/// `drm`, that keep the space which this is a part of.
#[pin_data]
pub(super) struct Lrus {
    #[pin]
    lists: Opaque<[bindings::drm_gem_lru; Lru::ALL.len()]>,
    /// Address of the DRM device, 0 before there is one.
    drm: Atomic<usize>,
}

// SAFETY: The lists belong to no thread.
unsafe impl Send for Lrus {}

// SAFETY: The lists are changed under the device's lock; their counts can be read at any time.
unsafe impl Sync for Lrus {}

impl Lrus {
    /// Empty lists.
    pub(super) fn new() -> impl PinInit<Self> {
        // INVARIANT: The lists are initialised here, and there is no device.
        pin_init!(Self {
            lists <- Opaque::ffi_init(|lists: *mut [bindings::drm_gem_lru; Lru::ALL.len()]| {
                for index in 0..Lru::ALL.len() {
                    // SAFETY: The memory is pinned, and `index` within the array.
                    unsafe {
                        bindings::drm_gem_lru_init(lists.cast::<bindings::drm_gem_lru>().add(index))
                    };
                }
            }),
            drm: Atomic::new(0),
        })
    }

    /// Makes this the lists of `dev`. False if they are another device's.
    pub(super) fn claim(&self, dev: *mut bindings::drm_device) -> bool {
        match self.drm.cmpxchg(0, dev as usize, Relaxed) {
            Ok(_) => true,
            Err(_) => self.belong_to(dev),
        }
    }

    /// Whether these are the lists of `dev`.
    pub(super) fn belong_to(&self, dev: *mut bindings::drm_device) -> bool {
        self.drm.load(Relaxed) == dev as usize
    }

    fn list(&self, lru: Lru) -> *mut bindings::drm_gem_lru {
        // SAFETY: The number of a list is within the array.
        unsafe {
            self.lists
                .get()
                .cast::<bindings::drm_gem_lru>()
                .add(lru as usize)
        }
    }

    /// Returns the pages of the objects in a list. Takes no lock.
    pub(super) fn pages(&self, lru: Lru) -> usize {
        // SAFETY: The list is initialised. A count that changes meanwhile is read in one piece.
        let pages = unsafe { (&raw const (*self.list(lru)).count).read_volatile() };

        usize::try_from(pages).unwrap_or(0)
    }
}

/// The lock of the lists is held.
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
    /// `dev` must be a valid DRM device during `'a`.
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

    /// Takes the lock if nobody has it.
    ///
    /// # Safety
    ///
    /// As [`LruGuard::lock()`].
    unsafe fn try_lock(dev: *mut bindings::drm_device) -> Option<Self> {
        // SAFETY: By the safety requirements.
        let mutex = unsafe { &raw mut (*dev).gem_lru_mutex };

        // SAFETY: As above.
        let locked = unsafe { bindings::mutex_trylock(mutex) } != 0;

        // Not made without the lock, which dropping it would release.
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
    /// The object must be initialised, and of the device whose lock this is; `list` must be valid for
    /// as long as the object is in it.
    unsafe fn move_to(&self, list: *mut bindings::drm_gem_lru, obj: *mut bindings::drm_gem_object) {
        // SAFETY: By the safety requirements.
        unsafe { bindings::drm_gem_lru_move_tail_locked(list, obj) };
    }
}

impl Drop for LruGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: This task has the lock.
        unsafe { bindings::mutex_unlock(self.mutex) };
    }
}

/// Who holds the pages of an object, and what user space says of them.
///
/// Changed under the lock of the lists only, by [`Base::update()`].
pub(super) struct Holders {
    /// How often the device has the pages mapped.
    pub(super) maps: Atomic<usize>,
    /// How often others have them.
    pub(super) pins: Atomic<usize>,
    /// The content was given up. Never if it was exported.
    pub(super) dont_need: Atomic<bool>,
    /// There was a dma-buf once: others may know the content.
    pub(super) exported: Atomic<bool>,
    /// The number of the [`State`]. Changed with the lock of the pages held, too.
    state: Atomic<u32>,
}

impl Holders {
    pub(super) fn new() -> Self {
        Self {
            maps: Atomic::new(0),
            pins: Atomic::new(0),
            dont_need: Atomic::new(false),
            exported: Atomic::new(false),
            state: Atomic::new(State::None.index()),
        }
    }

    pub(super) fn state(&self) -> State {
        State::from_index(self.state.load(Relaxed))
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.store(state.index(), Relaxed);
    }

    /// Whether nobody holds the pages.
    pub(super) fn none(&self) -> bool {
        self.maps.load(Relaxed) == 0 && self.pins.load(Relaxed) == 0
    }

    /// The list for an object that has a file.
    fn lru(&self) -> Lru {
        if self.state() != State::Resident {
            Lru::Unbacked
        } else if self.pins.load(Relaxed) != 0 {
            Lru::Pinned
        } else if self.dont_need.load(Relaxed) {
            Lru::DontNeed
        } else {
            Lru::WillNeed
        }
    }
}

/// Changes a counter by one.
pub(super) fn count(counter: &Atomic<usize>, up: bool) {
    let old = counter.load(Relaxed);

    counter.store(
        match up {
            true => old.saturating_add(1),
            false => old.saturating_sub(1),
        },
        Relaxed,
    );
}

impl Base {
    /// Calls `f`, which changes the [`Holders`], and moves the object to the end of the list where it
    /// belongs then, if it is not there yet.
    ///
    /// Allocates nothing, and takes no lock but that of the lists.
    pub(super) fn update<R>(&self, f: impl FnOnce(&Holders) -> R) -> R {
        let obj = self.obj.get();

        // SAFETY: By the type invariants the object is initialised; its device outlives it.
        let (guard, has_file) = unsafe { (LruGuard::lock((*obj).dev), !(*obj).filp.is_null()) };
        let ret = f(&self.holders);
        let lru = match has_file {
            true => self.holders.lru(),
            false => Lru::Foreign,
        };
        let list = self.space.lrus().list(lru);

        // SAFETY: As above. The lists are valid as long as `space` is, which the object has a
        // reference to; it leaves them when it is released.
        unsafe {
            if (*obj).lru != list {
                guard.move_to(list, obj);
            }
        }
        ret
    }
}

/// Returns the time in ticks of the scheduler's clock.
fn ticks() -> usize {
    // SAFETY: The counter is always there. It changes at any time, but is read as a whole.
    unsafe { ptr::read_volatile(&raw const bindings::jiffies) }
}

/// Tells that the objects were used just now: they go to the end of their lists. Those that went there
/// in this tick stay where they are. Takes the lock for a few at a time.
///
/// # Safety
///
/// `dev` must be a valid DRM device, and all objects be initialised, and its own.
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
            // SAFETY: By the safety requirements. Whatever list the object is in, it may be there.
            unsafe {
                if !(*obj).lru.is_null() {
                    guard.move_to((*obj).lru, obj);
                }
            }
            next = bases.next();
        }
    }
}

/// Returns the first object in a list.
///
/// # Safety
///
/// The list must be valid, and its lock be held.
unsafe fn first(list: *mut bindings::drm_gem_lru) -> Option<*mut bindings::drm_gem_object> {
    // SAFETY: By the safety requirements.
    let (head, next) = unsafe { (&raw mut (*list).list, (*list).list.next) };

    (next != head).then(|| object_of(next))
}

/// Returns the object that is linked by `node`.
fn object_of(node: *mut bindings::list_head) -> *mut bindings::drm_gem_object {
    node.wrapping_byte_sub(offset_of!(bindings::drm_gem_object, lru_node))
        .cast()
}

/// What has come of an [`Object::scan()`](super::Object::scan).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Pages that were taken.
    pub taken: usize,
    /// Pages of all objects that were come by.
    pub seen: usize,
}

/// Goes through the objects of a list, from the one that was not used for the longest time on, and calls
/// `f` with those that `skip` does not want to skip, until the pages that it returns add up to `target`,
/// it returns [`None`], or `looks` objects were come by. Each goes to the end of the list before that,
/// and is come by once if nobody else scans.
///
/// `skip` is called with the lock held, and must neither wait for locks nor take references. `f` is
/// called without the lock, with a reference to the object; it should not wait for locks under which
/// memory is allocated, as this is for reclaim.
///
/// # Safety
///
/// `dev` must be the valid DRM device that `lrus` belong to.
pub(super) unsafe fn scan(
    lrus: &Lrus,
    dev: *mut bindings::drm_device,
    lru: Lru,
    (target, mut looks): (usize, usize),
    mut skip: impl FnMut(*mut bindings::drm_gem_object) -> bool,
    mut f: impl FnMut(*mut bindings::drm_gem_object) -> Option<usize>,
) -> Scanned {
    let list = lrus.list(lru);
    let mut scanned = Scanned::default();

    // SAFETY: By the safety requirements.
    let mut guard = unsafe { LruGuard::lock(dev) };
    let all = lrus.pages(lru);

    while scanned.taken < target && scanned.seen < all && looks != 0 {
        // SAFETY: The list is valid and its lock held.
        let Some(obj) = (unsafe { first(list) }) else {
            break;
        };

        looks -= 1;
        // SAFETY: Objects leave the lists before they are gone. The list is valid.
        unsafe {
            scanned.seen += (*obj).size >> PAGE_SHIFT;
            guard.move_to(list, obj);
        }
        // SAFETY: As above. One without references waits for the lock, to leave the lists.
        if skip(obj) || unsafe { bindings::kref_get_unless_zero(&raw mut (*obj).refcount) } == 0 {
            continue;
        }
        drop(guard);

        let pages = f(obj);

        // SAFETY: The reference from above.
        unsafe { bindings::drm_gem_object_put(obj) };
        match pages {
            Some(pages) => scanned.taken = scanned.taken.saturating_add(pages),
            None => return scanned,
        }
        // SAFETY: By the safety requirements.
        guard = unsafe { LruGuard::lock(dev) };
    }
    scanned
}

/// Calls `f` with all objects of all lists, with the lock held. `f` must not wait for locks, nor drop
/// a reference to an object.
///
/// Fails with `EBUSY` if the lock is taken.
///
/// # Safety
///
/// As [`scan()`].
pub(super) unsafe fn for_each(
    lrus: &Lrus,
    dev: *mut bindings::drm_device,
    mut f: impl FnMut(Lru, *mut bindings::drm_gem_object),
) -> Result {
    // SAFETY: By the safety requirements.
    let _guard = unsafe { LruGuard::try_lock(dev) }.ok_or(EBUSY)?;

    for lru in Lru::ALL {
        let list = lrus.list(lru);
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
    Ok(())
}
