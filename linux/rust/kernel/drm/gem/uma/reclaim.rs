// SPDX-License-Identifier: GPL-2.0

//! Which objects can give up their pages, and how they do.

use super::{
    lru::{
        self,
        Scanned, //
    },
    Event,
    Lru,
    Object,
    ObjectOps,
    State, //
};
use crate::{
    drm::{
        self,
        gem::IntoGEMObject, //
    },
    prelude::*,
    sync::atomic::Relaxed, //
};

/// What [`Object::for_each()`] tells of an object.
pub struct Info<'a, T> {
    /// The driver's data.
    pub data: &'a T,
    /// Its size in bytes.
    pub size: usize,
    /// The list that it is in.
    pub lru: Lru,
    /// Where the pages are.
    pub state: State,
    /// How often the device has the pages.
    pub maps: usize,
    /// How often others have them.
    pub pins: usize,
    /// Whether user space gave up the content.
    pub dont_need: bool,
    /// Handles that all files have for it.
    pub handles: usize,
}

impl<T: ObjectOps> Object<T> {
    /// Takes the word of user space on whether the content is needed. Returns whether it is still there,
    /// as far as the pages of the object's file are concerned.
    ///
    /// If it is needed and there, then it stays. So it does if the object was ever exported: its user
    /// here cannot speak for the others.
    pub fn advise(&self, needed: bool) -> bool {
        self.base.update(|holders| {
            let there = holders.state() != State::Purged;

            if there {
                let given_up = !needed && !holders.exported.load(Relaxed);

                holders.dont_need.store(given_up, Relaxed);
            }
            there
        })
    }

    /// Returns whether user space gave up the content. Needs no lock: the answer may be outdated.
    pub fn is_given_up(&self) -> bool {
        self.base.holders.dont_need.load(Relaxed)
    }

    /// Drops the pages and their content, if user space gave it up. Does not wait for the object's lock.
    ///
    /// Returns the number of pages. They never come back: [`Object::pin()`] and page faults fail from now
    /// on.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the content is needed, or the pages are held or being worked on.
    pub fn purge(&self) -> Result<usize> {
        self.base.try_drop_pages(Event::Purge)
    }

    /// Leaves the pages to shmem, which may swap them out. Does not wait for the object's lock.
    ///
    /// Returns the number of pages. They come back with the next [`Object::pin()`] or page fault.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the pages are held or being worked on.
    pub fn evict(&self) -> Result<usize> {
        self.base.try_drop_pages(Event::Evict)
    }

    /// Returns the pages of all objects of `dev` that are in a list. Takes no lock.
    pub fn reclaimable(dev: &drm::Device<T::Driver>, lru: Lru) -> usize {
        let lrus = T::dma_space(dev).inner().lrus();

        match lrus.belong_to(dev.as_raw()) {
            true => lrus.pages(lru),
            false => 0,
        }
    }

    /// Goes through the objects of `dev` in a list, beginning with the one that was not used for the
    /// longest time, each once if nobody else scans, and calls `f` with those that `skip` does not want
    /// to skip; until the numbers of pages that it returns add up to `target`, it returns [`None`], or
    /// `looks` objects were come by. The next scan goes on behind them.
    ///
    /// For reclaim: waits for no lock but that of the lists. That is not held while `f` is called, but
    /// it is for `skip`, which must wait for no other.
    pub fn scan(
        dev: &drm::Device<T::Driver>,
        lru: Lru,
        target: usize,
        looks: usize,
        mut skip: impl FnMut(&T) -> bool,
        mut f: impl FnMut(&Self) -> Option<usize>,
    ) -> Scanned
    where
        T::Driver: drm::Driver<Object = Self>,
    {
        let lrus = T::dma_space(dev).inner().lrus();

        // Even if there are no objects yet: it may be lockdep that is to see the lock.
        if !lrus.claim(dev.as_raw()) {
            return Scanned::default();
        }
        // SAFETY: `dev` is the device of the lists. All objects in them are of `dev`, and those of its
        // driver are of this type. For `f` there is a reference. For `skip` that may be gone, but then
        // the object waits for the lock to leave the list, and its data goes after that.
        unsafe {
            lru::scan(
                lrus,
                dev.as_raw(),
                lru,
                (target, looks),
                |obj| skip(&Self::from_raw(obj).inner),
                |obj| f(Self::from_raw(obj)),
            )
        }
    }

    /// Tells that objects of `dev` are used just now: reclaim is to come to them last. Waits for no lock
    /// but that of the lists.
    pub fn touch<'a>(dev: &drm::Device<T::Driver>, objects: impl Iterator<Item = &'a Self>) {
        let bases = objects
            .filter(|obj| core::ptr::eq(obj.dev().as_raw(), dev.as_raw()))
            .map(|obj| &obj.base);

        // SAFETY: `dev` is valid, and the objects are its own.
        unsafe { lru::touch(dev.as_raw(), bases) };
    }

    /// Calls `f` with all objects of `dev`. For debugging.
    ///
    /// The lock of the lists is held all the time, which keeps reclaim waiting: `f` must not wait for
    /// any lock.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the lock is taken: this does not wait for it.
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
                // SAFETY: All objects in the lists are of `dev`, and those of its driver are of this
                // type. Its last reference may be gone, but then it waits for the lock to leave the
                // list, and the data goes after that. `Info` gives no way to get a reference.
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
                    // SAFETY: As above; a count that changes meanwhile is read in one piece.
                    handles: (&raw const (*obj).handle_count).read_volatile() as usize,
                });
            })
        }
    }
}
