// SPDX-License-Identifier: GPL-2.0

//! Shrinkers: caches that give memory back when it is short.
//!
//! A cache implements [`Shrinker`], and is asked to shrink for as long as its [`Registration`] exists.
//!
//! C header: [`include/linux/shrinker.h`](srctree/include/linux/shrinker.h)
//!
//! # What a shrinker may do
//!
//! It is called by whoever needs memory, with all the locks that they have. A lock under which
//! anybody allocates memory must not be waited for: `try_lock` is the way. Nothing may be allocated
//! that could wait for memory. That includes what is called on the way, destructors for example.
//!
//! Lockdep finds out about mistakes when memory becomes short, which is late. With [`as_reclaim`] a
//! driver can show it what its shrinker does before.
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
//!     fn count(&self) -> usize {
//!         self.0.len.load(Relaxed)
//!     }
//!
//!     fn scan(&self, control: &Control) -> Option<usize> {
//!         // Whoever fills the pool may allocate with the lock held.
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

use crate::{
    alloc::Flags,
    bindings,
    prelude::*,
    str::CStrExt as _, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

/// What memory management wants from a shrinker.
pub struct Control {
    target: usize,
    gfp: bindings::gfp_t,
}

impl Control {
    /// Makes one for a call that does not come from memory management: from a file for tests, say.
    ///
    /// `flags` are those of the allocation that is short of memory.
    pub fn new(target: usize, flags: Flags) -> Self {
        Self {
            target,
            gfp: flags.as_raw(),
        }
    }

    /// How many objects are to be freed: a batch of them. It may be more if they come in lumps.
    pub fn target(&self) -> usize {
        self.target
    }

    /// Whether the caller can wait a while: who allocates without the right to wait cannot.
    pub fn may_block(&self) -> bool {
        // SAFETY: No preconditions.
        unsafe { bindings::gfpflags_allow_blocking(self.gfp) }
    }
}

/// A cache that can shrink.
pub trait Shrinker: Send + Sync + 'static {
    /// Returns how many objects could be freed, usually pages.
    ///
    /// Called often. It should not take a lock; the answer may be outdated.
    fn count(&self) -> usize;

    /// Frees objects, and returns how many.
    ///
    /// [`None`] if it cannot get on at the moment: this caller does not try again then. With anything
    /// else it will be called again until all that it wants is freed.
    fn scan(&self, control: &Control) -> Option<usize>;
}

/// A [`Shrinker`] that is registered. Dropping it waits for calls that are under way.
///
/// # Invariants
///
/// `shrinker` is registered; its `private_data` is `data`, which stays where it is.
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

        // SAFETY: The format takes one string, which is valid.
        let shrinker =
            unsafe { bindings::shrinker_alloc(0, c"%s".as_char_ptr(), name.as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;
        let data = NonNull::from(KBox::leak(data));

        // SAFETY: Nobody else knows of the shrinker before it is registered.
        unsafe {
            let raw = shrinker.as_ptr();
            (*raw).count_objects = Some(Self::count_callback);
            (*raw).scan_objects = Some(Self::scan_callback);
            (*raw).private_data = data.as_ptr().cast();
            bindings::shrinker_register(raw);
        }

        // INVARIANT: Registered just now, and `data` was leaked out of its box.
        Ok(Self {
            shrinker,
            data,
            _owned: PhantomData,
        })
    }

    /// # Safety
    ///
    /// `shrinker` must be the one of a `Registration<T>` that exists.
    unsafe extern "C" fn count_callback(
        shrinker: *mut bindings::shrinker,
        _sc: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: By the type invariants; unregistering waits until nobody is in here.
        let data = unsafe { &*(*shrinker).private_data.cast::<T>() };

        match data.count() {
            0 => bindings::SHRINK_EMPTY as c_ulong,
            // The largest numbers mean something else.
            count => count.min(isize::MAX as usize),
        }
    }

    /// # Safety
    ///
    /// As for `count_callback()`; `sc` must be valid, and nobody else use it.
    unsafe extern "C" fn scan_callback(
        shrinker: *mut bindings::shrinker,
        sc: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: As in `count_callback()`.
        let data = unsafe { &*(*shrinker).private_data.cast::<T>() };
        // SAFETY: By the safety requirements.
        let sc = unsafe { &mut *sc };
        let control = Control {
            target: sc.nr_to_scan,
            gfp: sc.gfp_mask,
        };

        match data.scan(&control) {
            None => bindings::SHRINK_STOP as c_ulong,
            Some(freed) => {
                let freed = freed.min(isize::MAX as usize);

                // What came on top counts as well.
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
/// That is to say: lockdep takes the locks that `f` waits for as those which reclaim needs, and
/// complains about whoever allocates memory with one of them held. Does nothing more than that.
pub fn as_reclaim<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: No preconditions; released below.
    unsafe { bindings::fs_reclaim_acquire(GFP_KERNEL.as_raw()) };
    let ret = f();
    // SAFETY: Acquired above.
    unsafe { bindings::fs_reclaim_release(GFP_KERNEL.as_raw()) };
    ret
}

/// Returns how many pages can be swapped out: none if there is no swap, or it is full.
pub fn free_swap_pages() -> usize {
    // SAFETY: No preconditions.
    let pages = unsafe { bindings::get_nr_swap_pages() };

    usize::try_from(pages).unwrap_or(0)
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

    /// Has so many objects, of which it frees two for each that is wanted.
    struct Objects(Arc<Atomic<usize>>);

    impl Shrinker for Objects {
        fn count(&self) -> usize {
            self.0.load(Relaxed)
        }

        fn scan(&self, control: &Control) -> Option<usize> {
            let count = self.count();
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

        // With the registration goes what it had.
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
    }

    #[test]
    fn reclaim_takes_no_lock() {
        assert_eq!(as_reclaim(|| 3), 3);
    }
}
