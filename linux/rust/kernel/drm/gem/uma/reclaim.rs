// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reclaim of the pages of objects.
//!
//! Owns nothing: the pages are those of the [`Base`](super::base::Base), and the lists those of the
//! device. Locks: that of the lists, which is waited for, except in [`Object::for_each()`]; the
//! lock of an object's pages is only tried. Process context.

use super::{
    lru::{
        self,
        Limit,
        Scanned, //
    },
    Event,
    Lru,
    Object,
    ObjectOps,
    PageState, //
};
use crate::{
    drm::{
        self,
        gem::IntoGEMObject, //
    },
    mm::memcg::MemCgroup,
    prelude::*,
    sync::atomic::Relaxed, //
};

/// The information that [`Object::for_each()`] provides about an object.
pub struct Info<'a, T> {
    /// The driver's data.
    pub data: &'a T,
    /// Its size in bytes.
    pub size: usize,
    /// The list that it is in.
    pub lru: Lru,
    /// Where the content is.
    pub state: PageState,
    /// The number of device mappings.
    pub maps: usize,
    /// The number of other holders of the pages.
    pub pins: usize,
    /// Whether user space gave up the content.
    pub dont_need: bool,
    /// The number of handles in all files.
    pub handles: usize,
}

impl<T: ObjectOps> Object<T> {
    /// Records user space's advice on whether the content is needed. Returns whether it is still
    /// present, as far as the pages of the object's file are concerned.
    ///
    /// Needed content that is present will be kept. So is that of an object that was ever exported,
    /// since one user cannot decide for the others. Content that is not needed and was evicted is
    /// dropped at once, rather than kept in swap for nothing.
    ///
    /// May sleep.
    pub fn advise(&self, needed: bool) -> bool {
        let there = self.base.update(|holders| {
            let there = holders.state() != PageState::Purged;

            if there {
                let given_up = !needed && !holders.exported.load(Relaxed);

                holders.dont_need.store(given_up, Relaxed);
            }
            there
        });

        // The purge fails if the pages are locked. The content may stay then.
        if there && !needed && self.state() == PageState::Evicted {
            return self.purge().is_err() || self.state() != PageState::Purged;
        }
        there
    }

    /// Returns whether user space gave up the content. Takes no lock, so the answer may be
    /// outdated.
    pub fn is_given_up(&self) -> bool {
        self.base.holders.dont_need.load(Relaxed)
    }

    /// Drops the content if user space gave it up: the pages, or the content of an evicted object
    /// in shmem. Does not wait for the object's lock.
    ///
    /// Returns the number of pages that were present. They never come back: [`Object::pin()`] and
    /// page faults fail from now on.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the content is needed, or the pages are held or locked.
    pub fn purge(&self) -> Result<usize> {
        self.base.try_drop_pages(Event::Purge)
    }

    /// Gives the pages back to shmem, which may swap them out. Does not wait for the object's lock.
    ///
    /// Returns the number of pages. They come back with the next [`Object::pin()`] or page fault.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the pages are held or locked.
    pub fn evict(&self) -> Result<usize> {
        self.base.try_drop_pages(Event::Evict)
    }

    /// Returns the number of pages of all objects of `dev` that are in a list and that the control
    /// group `of` pays for; [`None`] stands for all groups. Takes a spinlock and sums up one number
    /// for each control group.
    pub fn reclaimable(dev: &drm::Device<T::Driver>, of: Option<&MemCgroup>, lru: Lru) -> usize {
        let lrus = T::dma_space(dev).inner().lrus();

        match lrus.belong_to(dev.as_raw()) {
            true => lrus.groups.pages(of, lru),
            false => 0,
        }
    }

    /// Walks the objects of `dev` in a list that the control group `of` pays for, the least
    /// recently used first, and calls `f` for those for which `skip` returns `false`. Visits each
    /// object at most once, unless others scan concurrently. Stops when the numbers of pages that
    /// `f` returned add up to the target of `limit`, when `f` returns [`None`], or when as many
    /// objects were visited as `limit` permits. The next scan continues behind them.
    ///
    /// If `of` is [`None`], the groups are scanned in turn.
    ///
    /// Suitable for reclaim: the only lock that this waits for is that of the lists. It is not held
    /// while `f` is called, but it is for `skip`, which must not wait for any other lock.
    pub fn scan(
        dev: &drm::Device<T::Driver>,
        of: Option<&MemCgroup>,
        lru: Lru,
        limit: Limit,
        mut skip: impl FnMut(&T) -> bool,
        mut f: impl FnMut(&Self) -> Option<usize>,
    ) -> Scanned
    where
        T::Driver: drm::Driver<Object = Self>,
    {
        let lrus = T::dma_space(dev).inner().lrus();

        // Go on even if there are no objects yet, so that the lock can be shown to lockdep early.
        if !lrus.claim(dev.as_raw()) {
            return Scanned::default();
        }
        // SAFETY: `dev` is the device of the lists. All objects in them are of `dev`, and those of
        // its driver are of this type. `f` is called with a reference. For `skip`, the last
        // reference may be gone, but releasing the object waits for the lock to remove it from the
        // list, and its data is freed after that.
        unsafe {
            lru::scan(
                lrus,
                dev.as_raw(),
                (of, lru),
                limit,
                |obj| skip(&Self::from_raw(obj).inner),
                |obj| f(Self::from_raw(obj)),
            )
        }
    }

    /// Marks objects of `dev` as recently used, so that reclaim considers them last. The only lock
    /// that this waits for is that of the lists.
    pub fn touch<'a>(dev: &drm::Device<T::Driver>, objects: impl Iterator<Item = &'a Self>) {
        let bases = objects
            .filter(|obj| core::ptr::eq(obj.dev().as_raw(), dev.as_raw()))
            .map(|obj| &obj.base);

        // SAFETY: `dev` is valid, and the objects belong to it.
        unsafe { lru::touch(dev.as_raw(), bases) };
    }

    /// Calls `f` for all objects of `dev`. For debugging.
    ///
    /// The lock of the lists is held throughout, which reclaim may wait for: `f` must not wait for
    /// any lock.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the lock is contended: this does not wait for it.
    pub fn for_each(dev: &drm::Device<T::Driver>, mut f: impl FnMut(Info<'_, T>)) -> Result
    where
        T::Driver: drm::Driver<Object = Self>,
    {
        let lrus = T::dma_space(dev).inner().lrus();

        if !lrus.belong_to(dev.as_raw()) {
            return Ok(());
        }
        // SAFETY: `dev` is the device of the lists.
        unsafe {
            lru::for_each(lrus, dev.as_raw(), |lru, obj| {
                // SAFETY: All objects in the lists are of `dev`, and those of its driver are of
                // this type. The last reference may be gone, but releasing the object waits for the
                // lock to remove it from the list, and its data is freed after that. `Info` gives
                // no way to get a reference.
                let this = Self::from_raw(obj);
                let holders = &this.base.holders;

                f(Info {
                    data: &this.inner,
                    // SAFETY: As above.
                    size: (*obj).size,
                    lru,
                    state: holders.state(),
                    maps: holders.maps.load(Relaxed),
                    pins: holders.pins.load(Relaxed),
                    dont_need: holders.dont_need.load(Relaxed),
                    // SAFETY: As above; the count may change concurrently, but is read as a whole.
                    handles: (&raw const (*obj).handle_count).read_volatile() as usize,
                });
            })
        }
    }
}
