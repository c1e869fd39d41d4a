// SPDX-License-Identifier: GPL-2.0

//! Memory of a process that a device works on, without pinning it.
//!
//! A [`Range`] is a part of the memory of a process. Its pages are faulted in, mapped for DMA and
//! shown to the device when they are needed, and taken from the device whenever the process or the
//! memory management changes something about them: then an MMU interval notifier says so, and the
//! change waits. Nothing is pinned, so the memory can be swapped, migrated and unmapped at any time.
//!
//! Ranges that are used together belong to one [`Mirror`], with one lock. A range is *valid* while
//! the device has its pages, and *stale* otherwise. Work that uses ranges is given to the device like
//! this:
//!
//! 1. [`Mirror::validate()`] makes all ranges valid. It faults pages in, and so must be called with
//!    no lock held that is taken inside of `mmap_lock`, reservation locks above all.
//! 2. Take the locks and allocate the memory that the work needs.
//! 3. [`Mirror::lock_valid()`] returns a guard if all ranges are still valid. If not, release
//!    everything and begin anew.
//! 4. Publish the fence of the work where [`Device::quiesce()`] finds it, and drop the guard. From
//!    then on a change of the memory waits for the work.
//!
//! # Locks
//!
//! The lock of a mirror is taken by the notifier, which may be called from reclaim. So nothing may be
//! allocated under it that waits for reclaim, no `mmap_lock` and no reservation lock be taken, and
//! the device's work must not depend on it. Lock order: reservation locks, then this one. A change
//! waits for the device's work with the lock released, so nobody has it for long.
//!
//! # Unbind
//!
//! All pages are taken from the device, and all DMA mappings are undone, before the device is
//! unbound. Its ranges stay stale from then on.
//!
//! C headers: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h),
//! [`include/linux/hmm.h`](srctree/include/linux/hmm.h)
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     mm::mirror::{
//!         self,
//!         Access,
//!         MapError,
//!         Mirror, //
//!     }, //
//! };
//!
//! /// A device that does nothing with the memory.
//! struct Idle;
//!
//! impl mirror::Device for Idle {
//!     fn quiesce(&self, _may_block: bool) -> bool {
//!         true
//!     }
//!
//!     fn map(&self, _pages: &[kernel::dma::DmaAddress]) -> Result<(), MapError> {
//!         Ok(())
//!     }
//!
//!     fn unmap(&self) -> Result {
//!         Ok(())
//!     }
//! }
//!
//! /// Runs `publish` while the device has the memory of all ranges of `mirror`.
//! fn with_memory(mirror: &Mirror<Idle>, mut publish: impl FnMut()) -> Result {
//!     loop {
//!         mirror.validate()?;
//!         // Locks and allocations go here.
//!         if let Some(_valid) = mirror.lock_valid() {
//!             publish();
//!             return Ok(());
//!         }
//!     }
//! }
//! ```

use crate::{
    bindings,
    device::{
        self,
        Bound, //
    },
    devres::Devres,
    dma::{
        DataDirection,
        DmaAddress, //
    },
    error::to_result,
    ffi::c_ulong,
    page::{
        PAGE_MASK,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        Arc,
        MutexGuard, //
    }, //
};
use core::{
    mem,
    ops::Deref, //
};
use node::{
    Lists,
    Node,
    Place,
    Shared, //
};

mod node;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

/// The device's side of a [`Range`].
///
/// All of this is called with the lock of the [`Mirror`] held, see the [module](self), but for
/// [`Device::quiesce()`] when that may block.
pub trait Device: Send + Sync + 'static {
    /// Returns whether the device is done with all work that may use the range.
    ///
    /// Waits for that if `may_block`; then the lock is not held, but no work is published. The device
    /// loses the range after that in any case; if the result is `false`, it loses all ranges of the
    /// [`Mirror`], so that the work is waited for only once. If not `may_block` it must not sleep; if the
    /// result is `false`, the change of the memory is put off.
    fn quiesce(&self, may_block: bool) -> bool;

    /// Shows the device the pages of the range, each with [`PAGE_SIZE`] bytes at the given address.
    ///
    /// Must not allocate memory in a way that waits for reclaim. After an error the device does not
    /// have the pages, unless [`MapError::leak`] is set.
    fn map(&self, pages: &[DmaAddress]) -> Result<(), MapError>;

    /// Takes the pages from the device, whether or not work uses them. Must not sleep or allocate.
    ///
    /// After an error the device may still access the pages. They are leaked then, on purpose.
    fn unmap(&self) -> Result;
}

/// Why the device could not be shown the pages.
pub struct MapError {
    /// What has failed.
    pub error: Error,
    /// The device may access the pages all the same.
    pub leak: bool,
}

/// What a device may do with the memory of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Read and write it.
    ReadWrite,
}

impl Access {
    /// What a page has to be.
    fn request(self) -> c_ulong {
        let fault = bindings::hmm_pfn_flags_HMM_PFN_REQ_FAULT as c_ulong;

        match self {
            Self::Read => fault,
            Self::ReadWrite => fault | bindings::hmm_pfn_flags_HMM_PFN_REQ_WRITE as c_ulong,
        }
    }

    fn direction(self) -> DataDirection {
        match self {
            Self::Read => DataDirection::ToDevice,
            Self::ReadWrite => DataDirection::Bidirectional,
        }
    }
}

/// Memory of one process that one device works on: any number of [`Range`]s, with one lock.
pub struct Mirror<T: Device> {
    shared: Arc<Shared<T>>,
    /// Dropping it ends what is valid.
    _teardown: Devres<Teardown<T>>,
}

impl<T: Device> Mirror<T> {
    /// Makes a mirror for `dev`, without ranges. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &device::Device<Bound>) -> Result<Self> {
        let shared = Shared::new(dev)?;

        Ok(Self {
            _teardown: Devres::new(dev, Teardown(shared.clone()))?,
            shared,
        })
    }

    /// Adds the `size` bytes of the current process from `address` on. The range is stale at first.
    ///
    /// Sleeps, and takes `mmap_lock`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if these are not whole pages, none, or more than there are addresses; `EFAULT` if
    /// the task has no memory of its own; `EPERM` if there are ranges of another process; `ENODEV` if
    /// the device is being unbound; `ENOMEM`.
    pub fn add(&self, address: usize, size: usize, access: Access, data: T) -> Result<Range<T>> {
        if size == 0 || (address | size) & !PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        // The end is one of the addresses of the last page.
        address.checked_add(size - 1).ok_or(EINVAL)?;

        let task = kernel::current!();
        let mm = task.mm().ok_or(EFAULT)?;
        let shared = &self.shared;
        let item = Node::new(shared, address, size >> PAGE_SHIFT, access, data)?;

        // SAFETY: The memory is zeroed and will not move, and `Range` removes the notifier before the
        // node goes. The process is the current one, thus has users. The callback is for notifiers
        // that are in a `Node<T>`.
        to_result(unsafe {
            bindings::mmu_interval_notifier_insert(
                item.sub.get(),
                mm.as_raw(),
                address,
                size,
                &Node::<T>::OPS,
            )
        })?;
        // INVARIANT: Inserted just now. From here on, an error removes it.
        let range = Range(item.clone_arc());

        let mut lists = shared.lists.lock();
        if lists.closed {
            return Err(ENODEV);
        }
        if lists.len != 0 && lists.owner != mm.as_raw() {
            return Err(EPERM);
        }
        lists.owner = mm.as_raw();
        lists.len += 1;
        range.0.state.access_mut(&mut lists).place = Place::Stale;
        lists.stale.push_back(item);
        drop(lists);

        Ok(range)
    }

    /// Makes all ranges valid: faults in what is not there, and shows it to the device.
    ///
    /// Sleeps, takes `mmap_lock`, and waits for changes that wait for the device's work and for whoever
    /// has to provide the memory, which may be user space. The range may be stale again when this
    /// returns: see [`Mirror::lock_valid()`].
    ///
    /// # Errors
    ///
    /// `EPERM` if the memory is not the current process's; `EFAULT` if something of it is gone, does
    /// not allow the access, or is no memory but a device; `EIO` if the device could not be stopped
    /// once; `ENODEV` if it is being unbound; `EAGAIN` if the memory changes all the time; `EINTR` and
    /// `ERESTARTSYS` for signals; `ENOMEM`; what [`Device::map()`] returns.
    pub fn validate(&self) -> Result {
        let task = kernel::current!();

        loop {
            let node: Arc<Node<T>> = {
                let mut lists = self.shared.lists.lock();

                if lists.len == 0 {
                    return Ok(());
                }
                if task.mm().map(|mm| mm.as_raw()) != Some(lists.owner) {
                    return Err(EPERM);
                }
                if !lists.lost.is_empty() {
                    return Err(EIO);
                }
                if lists.changing != 0 {
                    if self.shared.settled.wait_interruptible(&mut lists) {
                        return Err(ERESTARTSYS);
                    }
                    continue;
                }
                let mut cursor = lists.stale.cursor_front();
                match cursor.peek_next() {
                    Some(next) => next.arc().into(),
                    None => return Ok(()),
                }
            };

            let result = task.mm().ok_or(EPERM).and_then(|mm| node.populate(mm));
            // It is nobody's business any more that it could not be made valid.
            let revoked = {
                let mut lists = self.shared.lists.lock();
                node.state.access_mut(&mut lists).revoked
            };
            if !revoked {
                result?;
            }
        }
    }

    /// Returns a guard if all ranges are valid, which they are until it is dropped.
    ///
    /// [`None`] also while a range changes: [`Mirror::validate()`] waits for that.
    pub fn lock_valid(&self) -> Option<ValidGuard<'_, T>> {
        let lists = self.shared.lists.lock();

        // Without ranges, what is lost is nobody's any more, and only unbind has a use for it.
        let valid = lists.len == 0
            || lists.changing == 0 && lists.stale.is_empty() && lists.lost.is_empty();

        valid.then_some(ValidGuard { _lists: lists })
    }
}

/// As long as this exists, all ranges of a [`Mirror`] are valid.
#[must_use = "the ranges may become stale when the guard is dropped"]
pub struct ValidGuard<'a, T: Device> {
    _lists: MutexGuard<'a, Lists<T>>,
}

/// Undoes everything when the device is unbound.
struct Teardown<T: Device>(Arc<Shared<T>>);

impl<T: Device> Drop for Teardown<T> {
    fn drop(&mut self) {
        let mut lists = self.0.lists.lock();

        lists.closed = true;
        while let Some(node) = Node::first(&mut lists.valid) {
            node.take_away(&mut lists);
        }
        // There is nobody left to reach these; the pages stay leaked.
        while let Some(node) = Node::first(&mut lists.lost) {
            node.unmap_dma(&mut lists);
            let place = match node.state.access_mut(&mut lists).revoked {
                true => Place::Nowhere,
                false => Place::Stale,
            };
            node.move_to(&mut lists, place);
        }
    }
}

/// A part of the memory of a process, for a device. Dereferences to the driver's data.
///
/// Dropping it ends the device's access and waits for changes of the memory that are under way, be
/// they in this range or anywhere else in the memory of the process: so not within [`Device`]'s
/// methods, and not with a lock held that these take. Who must not be held up that long calls
/// [`Range::revoke()`], and has a work item drop it.
///
/// # Invariants
///
/// The notifier of the node is registered.
pub struct Range<T: Device>(Arc<Node<T>>);

impl<T: Device> Deref for Range<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.data
    }
}

impl<T: Device> Range<T> {
    /// Returns the size in bytes.
    pub fn size(&self) -> usize {
        self.0.count << PAGE_SHIFT
    }

    /// Returns whether the device has the pages right now.
    pub fn is_valid(&self) -> bool {
        let mut lists = self.0.shared.lists.lock();

        self.0.state.access_mut(&mut lists).place == Place::Valid
    }

    /// Makes this range valid, as [`Mirror::validate()`] does with all. One that was revoked stays as
    /// it is.
    ///
    /// # Errors
    ///
    /// Those of [`Mirror::validate()`].
    pub fn validate(&self) -> Result {
        let task = kernel::current!();

        self.0.populate(task.mm().ok_or(EPERM)?)
    }

    /// Takes the pages from the device, for good. May sleep, but does not wait for the device's work,
    /// nor for a change that does.
    pub fn revoke(&self) {
        let node = &self.0;
        // Freed with the lock released.
        let _arrays;
        let mut lists = node.shared.lists.lock();
        let state = node.state.access_mut(&mut lists);
        let place = state.place;

        // It was not added, because that has failed.
        if mem::replace(&mut state.revoked, true) || place == Place::Nowhere {
            return;
        }
        if place == Place::Valid {
            node.take_away(&mut lists);
        }
        lists.len -= 1;
        // Nobody has to wait for these any more.
        let changes = mem::take(&mut node.state.access_mut(&mut lists).changing);
        node.shared.settle(&mut lists, changes);
        // What is lost stays where unbind finds it.
        if node.state.access_mut(&mut lists).place == Place::Stale {
            node.move_to(&mut lists, Place::Nowhere);
            let state = node.state.access_mut(&mut lists);
            _arrays = (
                mem::replace(&mut state.pfns, KVVec::new()),
                mem::replace(&mut state.dma, KVVec::new()),
            );
        }
    }

    /// Writes back, and drops if `invalidate`, what the CPU's caches hold of the `len` bytes from
    /// `offset` on, as far as the device has the pages: the others are written back when it gets
    /// them. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if this is not within the range.
    pub fn sync(&self, offset: usize, len: usize, invalidate: bool) -> Result {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > self.size() {
            return Err(EINVAL);
        }

        let mut lists = self.0.shared.lists.lock();
        let state = self.0.state.access_mut(&mut lists);
        if state.place != Place::Valid || len == 0 {
            return Ok(());
        }
        let dev = self.0.shared.dev.as_raw();
        let pages = offset >> PAGE_SHIFT..end.div_ceil(PAGE_SIZE);
        for (index, &address) in state
            .dma
            .iter()
            .enumerate()
            .take(pages.end)
            .skip(pages.start)
        {
            let at = index << PAGE_SHIFT;
            let from = offset.max(at) - at;
            let to = end.min(at + PAGE_SIZE) - at;

            // SAFETY: The page is mapped for the device, which thus is bound.
            unsafe {
                bindings::dma_sync_single_for_device(
                    dev,
                    address + from as DmaAddress,
                    to - from,
                    DataDirection::ToDevice.into(),
                );
                if invalidate && self.0.access == Access::ReadWrite {
                    bindings::dma_sync_single_for_cpu(
                        dev,
                        address + from as DmaAddress,
                        to - from,
                        DataDirection::FromDevice.into(),
                    );
                }
            }
        }
        Ok(())
    }
}

impl<T: Device> Drop for Range<T> {
    fn drop(&mut self) {
        self.revoke();
        // SAFETY: By the type invariants it is registered. No lock is held that the callback takes.
        unsafe { bindings::mmu_interval_notifier_remove(self.0.sub.get()) };
    }
}
