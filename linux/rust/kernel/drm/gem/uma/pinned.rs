// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Holding the pages of an object for the device.
//!
//! A [`Pinned`] owns one of the device's holds on the pages, and a reference to the object. Locks:
//! that of the object's pages, in process context. Dropping it takes only that of the lists, unless
//! it has the last reference to the object.

use super::{
    Caching,
    Object,
    ObjectOps, //
};
use crate::{
    device::{
        Bound,
        Device, //
    },
    drm::gem::BaseObject,
    prelude::*,
    scatterlist::SGTable,
    sync::aref::ARef, //
};

impl<T: ObjectOps> Object<T> {
    /// Brings the pages in, maps them for `dev`, and holds them until the result is dropped.
    ///
    /// May sleep and reclaim memory; takes no reservation lock.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `dev` is not the parent device, the object has no file, or was purged; `ENODEV`
    /// if unbind has undone the object's mapping and the device was bound again since; `ENOMEM`;
    /// the errors of DMA mapping.
    pub fn pin(&self, dev: &Device<Bound>) -> Result<Pinned<T>> {
        if !self.base.space.is_for(dev) {
            return Err(EINVAL);
        }

        let mut backing = self.base.backing.lock();
        if self.is_imported() {
            backing
                .dma
                .as_ref()
                .and_then(|dma| dma.sgt())
                .ok_or(ENODEV)?;
        } else {
            self.base.map_dma(&mut backing, dev)?;
        }
        self.base.hold_map(&backing);

        // INVARIANT: The pages are mapped, and the hold was counted above.
        Ok(Pinned { obj: self.into() })
    }

    /// Writes back the CPU's cache lines of the `len` bytes from `offset` on, and drops them if
    /// `invalidate`.
    ///
    /// For user space that maps the pages [`Caching::Cached`] although the device is not coherent.
    /// Does nothing for other objects, or if the pages were not mapped for the device yet. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is not within the object, the object is imported, or `dev` is not the
    /// parent device.
    pub fn sync(&self, dev: &Device<Bound>, offset: usize, len: usize, invalidate: bool) -> Result {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > BaseObject::size(self) || self.is_imported() || !self.base.space.is_for(dev) {
            return Err(EINVAL);
        }

        if len != 0 && self.base.caching == Caching::Cached {
            self.base.sync(dev, offset..end, invalidate);
        }
        Ok(())
    }
}

/// Keeps the pages of an object where they are, and mapped for its device.
///
/// Dropping it takes only the lock of the lists, a mutex, unless it drops the last reference to the
/// object.
///
/// # Invariants
///
/// `obj` has its pages mapped, and counts this as one of the device's mappings.
pub struct Pinned<T: ObjectOps> {
    obj: ARef<Object<T>>,
}

impl<T: ObjectOps> Pinned<T> {
    /// Returns the table of the pages' DMA addresses for `dev`.
    ///
    /// The table of an imported buffer may cover less than the object's size.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `dev` is not the parent device. `ENODEV` if unbind has undone the mapping and
    /// the device was bound again since.
    pub fn sg_table<'a>(&'a self, dev: &'a Device<Bound>) -> Result<&'a SGTable> {
        if !self.obj.base.space.is_for(dev) {
            return Err(EINVAL);
        }

        let backing = self.obj.base.backing.lock();
        let sgt = backing
            .dma
            .as_ref()
            .and_then(|dma| dma.sgt())
            .ok_or(ENODEV)?;

        // SAFETY: By the type invariants, the mapping stays in place as long as `self` lives,
        // unless the device is unbound, which the borrow of `dev` excludes. The table is not
        // written to.
        Ok(unsafe { SGTable::from_raw(sgt) })
    }
}

impl<T: ObjectOps> Drop for Pinned<T> {
    fn drop(&mut self) {
        self.obj.base.release_map();
    }
}
