// SPDX-License-Identifier: GPL-2.0

//! Shrinkers: caches that give memory back when it is short.
//!
//! A cache implements [`Shrinker`], and is asked to shrink for as long as its [`Registration`]
//! exists.
//!
//! C header: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h)
//!
//! # Rules for shrinkers
//!
//! A shrinker is called by tasks that allocate memory, with all the locks that they hold. It must
//! not wait for a lock under which memory is allocated; use `try_lock` instead. It must not
//! allocate memory in a way that waits for reclaim. The same goes for everything that it calls,
//! destructors for example.
//!
//! Lockdep notices mistakes only once memory becomes short. With [`as_reclaim`] a driver can show
//! it earlier what its shrinker does.
//!
//! # Control groups
//!
//! If a control group has reached its limit, only memory of that group helps. Shrinkers that can
//! find it set [`Shrinker::MEMCG_AWARE`]. They are always called for one group at a time then, see
//! [`Control::group()`], even if memory is short globally. They are called for a group other than
//! the root group only after it was announced with [`Id::announce()`].
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     mm::shrinker::{
//!         Control,
//!         Registration,
//!         Shrinker, //
//!     },
//!     new_mutex,
//!     page::Page,
//!     sync::{
//!         atomic::{
//!             Atomic,
//!             Relaxed, //
//!         },
//!         Arc,
//!         Mutex, //
//!     }, //
//! };
//!
//! /// Pages that are kept for the next user.
//! #[pin_data]
//! struct Pool {
//!     #[pin]
//!     pages: Mutex<KVec<Page>>,
//!     len: Atomic<usize>,
//! }
//!
//! struct PoolShrinker(Arc<Pool>);
//!
//! impl Shrinker for PoolShrinker {
//!     fn count(&self, _control: &Control<'_>) -> usize {
//!         self.0.len.load(Relaxed)
//!     }
//!
//!     fn scan(&self, control: &Control<'_>) -> Option<usize> {
//!         // Code that fills the pool may allocate with the lock held.
//!         let mut pages = self.0.pages.try_lock()?;
//!         let mut freed = 0;
//!
//!         while freed < control.target() && pages.pop().is_some() {
//!             freed += 1;
//!         }
//!         self.0.len.store(pages.len(), Relaxed);
//!         (freed != 0).then_some(freed)
//!     }
//! }
//!
//! let pool = Arc::pin_init(
//!     pin_init!(Pool {
//!         pages <- new_mutex!(KVec::new()),
//!         len: Atomic::new(0),
//!     }),
//!     GFP_KERNEL,
//! )?;
//! let registration = Registration::new(c"example", PoolShrinker(pool.clone()))?;
//! # drop(registration);
//! # Ok::<(), Error>(())
//! ```

use super::memcg::{
    MemCgroup,
    ObjCgroup, //
};
use crate::{
    alloc::Flags,
    bindings,
    prelude::*,
    str::CStrExt as _, //
};
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};

/// A request of memory management to a shrinker.
pub struct Control<'a> {
    target: usize,
    gfp: bindings::gfp_t,
    group: Option<&'a MemCgroup>,
}

impl<'a> Control<'a> {
    /// Creates a request that does not come from memory management, but for instance from a debugfs
    /// file.
    ///
    /// `flags` are those of the allocation that is short of memory.
    pub fn new(target: usize, flags: Flags) -> Self {
        Self {
            target,
            gfp: flags.as_raw(),
            group: None,
        }
    }

    /// Converts the request of memory management. `aware` says whether the shrinker is aware of
    /// control groups.
    ///
    /// # Safety
    ///
    /// The group of `sc` must be NULL or valid for `'a`.
    unsafe fn from_raw(sc: &bindings::shrink_control, aware: bool) -> Self {
        Self {
            target: sc.nr_to_scan,
            gfp: sc.gfp_mask,
            // SAFETY: By the safety requirements.
            group: unsafe { MemCgroup::from_raw(sc.memcg) }.filter(|_| aware),
        }
    }

    /// Returns the group to which reclaim is limited, if the shrinker is aware of control groups.
    /// [`None`] means that objects of any group may be freed.
    pub fn group(&self) -> Option<&'a MemCgroup> {
        self.group
    }

    /// Returns the number of objects to free in this call. Freeing more is fine if they come in
    /// larger units.
    pub fn target(&self) -> usize {
        self.target
    }

    /// Returns whether the shrinker may sleep, as the allocation may.
    pub fn may_block(&self) -> bool {
        // SAFETY: No preconditions.
        unsafe { bindings::gfpflags_allow_blocking(self.gfp) }
    }

    /// Returns whether the shrinker may wait for pages to be written back. It may not if the
    /// allocation is itself part of I/O or of a file system operation.
    pub fn may_write_back(&self) -> bool {
        // SAFETY: No preconditions.
        unsafe { bindings::gfp_has_io_fs(self.gfp) }
    }
}

/// A cache that can shrink.
pub trait Shrinker: Send + Sync + 'static {
    /// Whether the shrinker can tell which control group an object belongs to.
    const MEMCG_AWARE: bool = false;

    /// Returns how many objects, usually pages, of the group in `control` could be freed.
    ///
    /// Called often. It should not wait for a lock; the answer may be outdated.
    fn count(&self, control: &Control<'_>) -> usize;

    /// Frees objects, and returns how many.
    ///
    /// Returns [`None`] if no progress is possible at the moment, in which case this caller does
    /// not try again. Otherwise it may be called again until enough is freed.
    fn scan(&self, control: &Control<'_>) -> Option<usize>;
}

/// The number by which control groups refer to a shrinker. It may outlive the shrinker, and has no
/// effect then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(c_int);

impl Id {
    /// Makes memory management call the shrinker when memory of `group`, or of one of its
    /// ancestors, is wanted, because there are, or will be, objects of the group. Does not sleep.
    ///
    /// Once for each group is enough.
    pub fn announce(self, group: &ObjCgroup) {
        // SAFETY: The group is valid. The number of a shrinker that no longer exists is ignored.
        unsafe { bindings::announce_to_shrinker(group.as_raw(), self.0) };
    }
}

/// A registered [`Shrinker`]. Dropping it unregisters the shrinker and waits for calls in progress.
///
/// # Invariants
///
/// `shrinker` is registered; its `private_data` is `data`, which is a leaked box.
pub struct Registration<T: Shrinker> {
    shrinker: NonNull<bindings::shrinker>,
    data: NonNull<T>,
    _owned: PhantomData<T>,
}

// SAFETY: A shrinker can be unregistered by any thread; `T` is `Send`.
unsafe impl<T: Shrinker> Send for Registration<T> {}

// SAFETY: A shared reference gives access to a shared `T` only, which is `Sync`.
unsafe impl<T: Shrinker> Sync for Registration<T> {}

impl<T: Shrinker> Registration<T> {
    /// Registers `data` under a name for debugging. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(name: &CStr, data: T) -> Result<Self> {
        let data = KBox::new(data, GFP_KERNEL)?;

        // Pages are charged even if slab objects are not (`cgroup.memory=nokmem`).
        let flags = match T::MEMCG_AWARE {
            true => bindings::SHRINKER_MEMCG_AWARE | bindings::SHRINKER_NONSLAB,
            false => 0,
        };

        // SAFETY: The format takes one string, which is valid.
        let shrinker =
            unsafe { bindings::shrinker_alloc(flags, c"%s".as_char_ptr(), name.as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;
        let data = NonNull::from(KBox::leak(data));

        // SAFETY: The shrinker is not shared before it is registered.
        unsafe {
            let raw = shrinker.as_ptr();
            (*raw).count_objects = Some(Self::count_callback);
            (*raw).scan_objects = Some(Self::scan_callback);
            (*raw).private_data = data.as_ptr().cast();
            bindings::shrinker_register(raw);
        }

        // INVARIANT: Registered above, and `data` was leaked out of its box.
        Ok(Self {
            shrinker,
            data,
            _owned: PhantomData,
        })
    }

    /// Returns the number by which control groups refer to the shrinker.
    pub fn id(&self) -> Id {
        // SAFETY: By the type invariants, the pointer is valid.
        Id(unsafe { bindings::shrinker_id(self.shrinker.as_ptr()) })
    }

    /// # Safety
    ///
    /// `shrinker` must be the one of a `Registration<T>` that exists; `sc` must be valid.
    unsafe extern "C" fn count_callback(
        shrinker: *mut bindings::shrinker,
        sc: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: By the type invariants. Unregistering waits for this callback.
        let data = unsafe { &*(*shrinker).private_data.cast::<T>() };
        // SAFETY: By the safety requirements; the group stays for the time of the call.
        let control = unsafe { Control::from_raw(&*sc, T::MEMCG_AWARE) };

        match data.count(&control) {
            // `SHRINK_EMPTY` would clear the group's bit, and the shrinker would not be called for
            // it until it is announced again.
            0 if T::MEMCG_AWARE => 0,
            0 => bindings::SHRINK_EMPTY as c_ulong,
            // The largest values have a special meaning.
            count => count.min(isize::MAX as usize),
        }
    }

    /// # Safety
    ///
    /// As for `count_callback()`. `sc` must not be used by others.
    unsafe extern "C" fn scan_callback(
        shrinker: *mut bindings::shrinker,
        sc: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: As in `count_callback()`.
        let data = unsafe { &*(*shrinker).private_data.cast::<T>() };
        // SAFETY: By the safety requirements.
        let sc = unsafe { &mut *sc };
        // SAFETY: The group stays for the time of the call.
        let control = unsafe { Control::from_raw(sc, T::MEMCG_AWARE) };

        match data.scan(&control) {
            None => bindings::SHRINK_STOP as c_ulong,
            Some(freed) => {
                let freed = freed.min(isize::MAX as usize);

                // Count objects freed beyond the request.
                sc.nr_scanned = sc.nr_to_scan.max(freed);
                freed
            }
        }
    }
}

impl<T: Shrinker> core::ops::Deref for Registration<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants.
        unsafe { self.data.as_ref() }
    }
}

impl<T: Shrinker> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is registered. This waits for callbacks.
        unsafe { bindings::shrinker_free(self.shrinker.as_ptr()) };
        // SAFETY: `data` comes from a box, and there are no more callbacks.
        drop(unsafe { KBox::from_raw(self.data.as_ptr()) });
    }
}

/// Runs `f` as if memory management had called it because memory is short.
///
/// Lockdep then treats the locks that `f` waits for as needed by reclaim, and complains about code
/// that allocates memory with one of them held. There is no other effect.
pub fn as_reclaim<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: No preconditions; released below.
    unsafe { bindings::fs_reclaim_acquire(GFP_KERNEL.as_raw()) };
    let ret = f();
    // SAFETY: Acquired above.
    unsafe { bindings::fs_reclaim_release(GFP_KERNEL.as_raw()) };
    ret
}

/// Returns how many pages can be swapped out for a control group, or in all for [`None`]: 0 if
/// there is no swap, if it is full, or if the group may have no more of it.
pub fn free_swap_pages(of: Option<&MemCgroup>) -> usize {
    let pages = match of {
        // SAFETY: The pointer is valid.
        Some(of) => unsafe { bindings::free_swap_pages_of(of.as_raw()) },
        // SAFETY: No preconditions.
        None => unsafe { bindings::get_nr_swap_pages() },
    };

    usize::try_from(pages).unwrap_or(0)
}

/// Returns whether the memory control group of the current task, or one of its ancestors, has room
/// for fewer than `pages` more pages, even without page cache. If `of` is given, only groups that
/// `of` is in as well count.
///
/// This can be the reason why an allocation has failed, or, with [`Control::group()`], why memory
/// is wanted from that group. The answer may be outdated.
pub fn is_at_own_limit(of: Option<&MemCgroup>, pages: usize) -> bool {
    let of = of.map_or(ptr::null_mut(), MemCgroup::as_raw);

    // SAFETY: The pointer is NULL or valid.
    unsafe { bindings::memcg_of_current_is_full(of, pages) }
}

/// Returns whether the current task is kswapd, which reclaims memory before others run out of it.
pub fn is_kswapd() -> bool {
    // SAFETY: No preconditions.
    unsafe { bindings::current_is_kswapd() }
}

#[macros::kunit_tests(rust_mm_shrinker)]
mod tests {
    use super::*;
    use crate::sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    };

    /// A number of objects, of which it frees two for each that is requested.
    struct Objects(Arc<Atomic<usize>>);

    impl Shrinker for Objects {
        fn count(&self, _control: &Control<'_>) -> usize {
            self.0.load(Relaxed)
        }

        fn scan(&self, control: &Control<'_>) -> Option<usize> {
            let count = self.0.load(Relaxed);
            let freed = control.target().saturating_mul(2).min(count);

            self.0.store(count - freed, Relaxed);
            (freed != 0).then_some(freed)
        }
    }

    fn call(registration: &Registration<Objects>, nr_to_scan: usize) -> (usize, usize, usize) {
        let raw = registration.shrinker.as_ptr();
        let mut sc = bindings::shrink_control {
            gfp_mask: GFP_KERNEL.as_raw(),
            nr_to_scan,
            nr_scanned: nr_to_scan,
            ..Default::default()
        };

        // SAFETY: The shrinker is registered, and `sc` is ours.
        unsafe {
            let count = (*raw).count_objects.map_or(0, |f| f(raw, &mut sc));
            let freed = (*raw).scan_objects.map_or(0, |f| f(raw, &mut sc));

            (count, freed, sc.nr_scanned)
        }
    }

    #[test]
    fn answers_as_c_wants_them() -> Result {
        let objects = Arc::new(Atomic::new(5), GFP_KERNEL)?;
        let registration = Registration::new(c"kunit", Objects(objects.clone()))?;

        assert_eq!(call(&registration, 2), (5, 4, 4));
        assert_eq!(call(&registration, 2), (1, 1, 2));
        let (empty, stop) = (
            bindings::SHRINK_EMPTY as usize,
            bindings::SHRINK_STOP as usize,
        );
        assert_eq!(call(&registration, 2), (empty, stop, 2));

        // Dropping the registration drops the shrinker.
        drop(registration);
        assert!(Arc::into_unique_or_drop(objects).is_some());
        Ok(())
    }

    #[test]
    fn some_callers_can_wait() {
        assert!(Control::new(1, GFP_KERNEL).may_block());
        assert!(!Control::new(1, GFP_NOWAIT).may_block());
        assert!(!Control::new(1, GFP_ATOMIC).may_block());
        assert_eq!(Control::new(7, GFP_NOWAIT).target(), 7);

        assert!(Control::new(1, GFP_KERNEL).may_write_back());
        assert!(!Control::new(1, GFP_NOWAIT).may_write_back());
    }

    #[test]
    fn limits() {
        assert!(!is_at_own_limit(None, 0));
        assert!(is_at_own_limit(None, usize::MAX) || cfg!(not(CONFIG_MEMCG)));
        assert!(!is_kswapd());
    }

    #[test]
    fn reclaim_takes_no_lock() {
        assert_eq!(as_reclaim(|| 3), 3);
    }
}
