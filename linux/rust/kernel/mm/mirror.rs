// SPDX-License-Identifier: GPL-2.0

//! Device access to the memory of a process, without pinning it.
//!
//! A [`Range`] is a part of the memory of a process. Its pages are faulted in, mapped for DMA and
//! made available to the device when they are needed, and taken from the device when the process or
//! memory management is about to change their mapping: an MMU interval notifier announces the
//! change, which waits until the device has lost the pages. Nothing is pinned, so the memory can be
//! swapped, migrated and unmapped at any time.
//!
//! Ranges that are used together belong to one [`Mirror`], with one lock. A range is *valid* while
//! the device has its pages, and *stale* otherwise. Work that uses ranges is submitted to the
//! device as follows:
//!
//! 1. [`Mirror::validate()`] makes all ranges valid. It faults pages in, so the caller must not
//!    hold any lock that nests inside `mmap_lock`, reservation locks in particular.
//! 2. Take the locks and allocate the memory that the work needs.
//! 3. [`Mirror::lock_valid()`] returns a guard if all ranges are still valid. If not, release
//!    everything and start over.
//! 4. Publish the fence of the work where [`Device::quiesce()`] finds it, and drop the guard. From
//!    then on, changes of the memory wait for the work.
//!
//! # Locks
//!
//! The lock of a mirror is taken by the notifier, which may be called from reclaim. So code that
//! holds it must not allocate memory in a way that waits for reclaim, nor take `mmap_lock` or a
//! reservation lock, and the device's work must not depend on it. Lock order: reservation locks,
//! then this one. A change of the memory waits for the device's work with the lock released, so it
//! is never held for long.
//!
//! # Coherence
//!
//! The process may access its memory at any time while the device has it. So the device must be
//! coherent with the CPU's caches, and bounce buffers cannot be used: a change of the memory would
//! otherwise lose what the CPU has written since the pages were mapped. [`supported()`] tells
//! whether a device meets these conditions; mirrors cannot be created for others.
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
//!     },
//!     time::{
//!         Delta,
//!         Instant,
//!         Monotonic, //
//!     }, //
//! };
//!
//! /// A device that does nothing with the memory.
//! struct Idle;
//!
//! impl mirror::Device for Idle {
//!     fn is_quiet(&self) -> bool {
//!         true
//!     }
//!
//!     fn quiesce(&self, _since: Instant<Monotonic>) -> bool {
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
//!
//!     fn keep(&self, pages: mirror::LostPages<Self>) {
//!         // Never called, as `unmap()` does not fail.
//!         core::mem::forget(pages);
//!     }
//! }
//!
//! /// Runs `publish` while the device has the memory of all ranges of `mirror`. A real driver
//! /// limits the number of attempts.
//! fn with_memory(mirror: &Mirror<Idle>, mut publish: impl FnMut()) -> Result {
//!     loop {
//!         mirror.validate(Delta::from_secs(10))?;
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
    devres::{
        DevresItem,
        DevresList, //
    },
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
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};
use core::{
    mem,
    ops::Deref, //
};
use node::{
    Lists,
    Node,
    RangeList,
    Shared, //
};

mod lost;
mod node;
mod notifier;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

pub use lost::LostPages;

/// The device's side of a [`Range`].
///
/// All methods are called with the lock of the [`Mirror`] held, see the [module](self), except for
/// [`Device::quiesce()`] and [`Device::cancel()`].
pub trait Device: Send + Sync + 'static {
    /// Returns whether the device is done with all work that may use the range. Must not sleep.
    fn is_quiet(&self) -> bool;

    /// Waits until the device is done with all work that may use the range. Returns whether it is.
    ///
    /// The lock is not held, but no new work is published. The change has waited since `since`, be
    /// it for other ranges or other mirrors: a limit of the wait has to be counted from there. The
    /// range is taken from the device afterwards in any case; if the result is `false`, all ranges
    /// of the [`Mirror`] are, so that stuck work is waited for only once.
    fn quiesce(&self, since: Instant<Monotonic>) -> bool;

    /// Ends the device's work that may use the range, rather than complete it: the process was
    /// killed, and its memory goes. Need not wait for the end; [`Device::quiesce()`] comes next.
    ///
    /// The lock is not held.
    fn cancel(&self) {}

    /// Gives the device access to the pages of the range, each with `PAGE_SIZE` bytes at the given
    /// address.
    ///
    /// Must not allocate memory in a way that waits for reclaim. After an error the device does not
    /// have the pages, unless [`MapError::leak`] is set.
    fn map(&self, pages: &[DmaAddress]) -> Result<(), MapError>;

    /// Takes the pages from the device, whether or not work uses them. Must not sleep or allocate.
    ///
    /// After an error the device may still access the pages, which are passed to
    /// [`Device::keep()`].
    fn unmap(&self) -> Result;

    /// Keeps the pages of the range, which the device may still access, until the driver is sure
    /// that it no longer does.
    ///
    /// The range does not become valid again before that. Must not sleep, nor drop `pages` right
    /// away. A driver that can never be sure leaks them.
    fn keep(&self, pages: LostPages<Self>)
    where
        Self: Sized;
}

/// The error of [`Device::map()`].
pub struct MapError {
    /// The error code.
    pub error: Error,
    /// Whether the device may access the pages nevertheless, so that they are passed to
    /// [`Device::keep()`].
    pub leak: bool,
}

/// The access that a device has to the memory of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Read and write.
    ReadWrite,
}

impl Access {
    /// Returns the flags with which HMM is asked for each page.
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

/// Returns whether `dev` can access the memory of processes: it must be coherent with the CPU's
/// caches and reach all memory without bounce buffers. Does not sleep.
pub fn supported(dev: &device::Device<Bound>) -> bool {
    let dev = dev.as_raw();

    // SAFETY: The device is valid and bound.
    unsafe {
        bindings::dev_is_dma_coherent(dev)
            && !bindings::is_swiotlb_force_bounce(dev)
            && !bindings::dma_addressing_limited(dev)
    }
}

/// The list of all mirrors of a device, which are torn down on unbind. A driver creates it in
/// `probe()`.
pub struct Mirrors<T: Device>(DevresList<Teardown<T>>);

impl<T: Device> Mirrors<T> {
    /// Creates an empty list for `dev`. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &device::Device<Bound>) -> Result<Self> {
        Ok(Self(DevresList::new(dev)?))
    }
}

/// Memory of one process that one device accesses: any number of [`Range`]s, with one lock.
///
/// Dropping it makes all valid ranges stale, for ever. [`LostPages`] stay mapped for DMA until they
/// are dropped or the device is unbound.
pub struct Mirror<T: Device> {
    shared: Arc<Shared<T>>,
    /// Present until this is dropped.
    teardown: Option<DevresItem<Teardown<T>>>,
}

impl<T: Device> Mirror<T> {
    /// Creates a mirror without ranges for `dev`, whose list of mirrors is `all`. The memory is
    /// charged to the task's memory cgroup, and so is that of its ranges. Sleeps.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` unless the device is [`supported()`]; `EINVAL` if `all` is the list of another
    /// device, `ENODEV` if the device was unbound since `all` was created, `ENOMEM`.
    pub fn new(all: &Mirrors<T>, dev: &device::Device<Bound>) -> Result<Self> {
        if !supported(dev) {
            return Err(EOPNOTSUPP);
        }
        let shared = Shared::new(dev)?;

        Ok(Self {
            teardown: Some(all.0.add(dev, Teardown(shared.clone()))?),
            shared,
        })
    }

    /// Adds the `size` bytes of the current process that start at `address`. The range is stale at
    /// first.
    ///
    /// The address may be tagged, as user-space pointers can be. Sleeps, and takes `mmap_lock`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the range is empty, not page aligned, or wraps around; `EFAULT` if the task has
    /// no address space; `EPERM` if the mirror has ranges of another process; `ENODEV` if the
    /// device is being unbound; `ENOMEM`.
    pub fn add(&self, address: usize, size: usize, access: Access, data: T) -> Result<Range<T>> {
        // SAFETY: No preconditions.
        let address = unsafe { bindings::untagged_addr(address) };

        if size == 0 || (address | size) & !PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        // The end of the range must be representable as well.
        address.checked_add(size).ok_or(EINVAL)?;

        let task = kernel::current!();
        let mm = task.mm().ok_or(EFAULT)?;
        let shared = &self.shared;
        let item = Node::new(shared, address, size >> PAGE_SHIFT, access, data)?;

        // SAFETY: The memory is zeroed and will not move, and `Range` removes the notifier before
        // the node is freed. `mm` is that of the current task, so it has users. The callback
        // expects notifiers embedded in a `Node<T>`, as this one is.
        to_result(unsafe {
            bindings::mmu_interval_notifier_insert(
                item.sub.get(),
                mm.as_raw(),
                address,
                size,
                &Node::<T>::OPS,
            )
        })?;
        // INVARIANT: Inserted above. Errors from here on remove it by dropping `range`.
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
        range.0.state.access_mut(&mut lists).list = RangeList::Stale;
        lists.stale.push_back(item);
        drop(lists);

        Ok(range)
    }

    /// Makes all ranges valid: faults in their pages and gives the device access to them.
    ///
    /// Sleeps, takes `mmap_lock`, and waits for changes in progress, which may wait for the
    /// device's work, and for page faults, which user space may have to handle. Ranges may be stale
    /// again when this returns, see [`Mirror::lock_valid()`].
    ///
    /// Gives up if ranges keep becoming stale while others are faulted in, and still do after
    /// `patience`.
    ///
    /// # Errors
    ///
    /// `EPERM` if the memory is not that of the current process; `EFAULT` if some of it is
    /// unmapped, does not permit the access, is secret, or belongs to a device; `EIO` as long as a
    /// range is lost, see [`LostPages`]; `ENODEV` if the device is being unbound; `EINTR` and
    /// `ERESTARTSYS` for signals; `ENOMEM`, also if there is not enough memory for all ranges at
    /// once, or if it keeps changing; the errors of [`Device::map()`].
    pub fn validate(&self, patience: Delta) -> Result {
        let task = kernel::current!();
        let mut tried = 0;
        let mut setback: Option<Instant<Monotonic>> = None;

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
                // As many attempts as ranges: one that was valid has become stale again.
                let again = tried >= lists.len;
                let mut cursor = lists.stale.cursor_front();
                match cursor.peek_next() {
                    None => return Ok(()),
                    Some(_)
                        if again
                            && setback.get_or_insert_with(Instant::now).elapsed() >= patience =>
                    {
                        return Err(ENOMEM);
                    }
                    Some(next) => next.arc().into(),
                }
            };
            tried += 1;

            let result = task
                .mm()
                .ok_or(EPERM)
                .and_then(|mm| node.populate(mm, patience));
            // Ignore the error of a range that was revoked in the meantime.
            let revoked = {
                let mut lists = self.shared.lists.lock();
                node.state.access_mut(&mut lists).revoked
            };
            if !revoked {
                result?;
            }
        }
    }

    /// Returns a guard if all ranges are valid. They stay valid until it is dropped.
    ///
    /// Also returns [`None`] while a change of a range waits for the device; [`Mirror::validate()`]
    /// waits for that to end.
    pub fn lock_valid(&self) -> Option<ValidGuard<'_, T>> {
        let lists = self.shared.lists.lock();
        let valid = lists.changing == 0 && lists.stale.is_empty() && lists.lost.is_empty();

        valid.then_some(ValidGuard { _lists: lists })
    }
}

impl<T: Device> Drop for Mirror<T> {
    fn drop(&mut self) {
        let mut lists = self.shared.lists.lock();

        lists.close();
        // Unbind must still find pages that are lost.
        if lists.kept != 0 {
            lists.teardown = self.teardown.take();
        }
    }
}

/// A guard during whose life all ranges of a [`Mirror`] are valid.
#[must_use = "the ranges may become stale when the guard is dropped"]
pub struct ValidGuard<'a, T: Device> {
    _lists: MutexGuard<'a, Lists<T>>,
}

/// Takes all pages from the device when it is unbound.
struct Teardown<T: Device>(Arc<Shared<T>>);

impl<T: Device> Drop for Teardown<T> {
    fn drop(&mut self) {
        let mut lists = self.0.lists.lock();

        lists.close();
        // The driver keeps the pages of these. They may have been removed from their files, so it
        // is too late to mark them dirty.
        while let Some(node) = Node::first(&mut lists.lost) {
            node.unmap_dma(&mut lists);
            node.move_to(&mut lists, RangeList::Stale);
        }
        while let Some(node) = Node::first(&mut lists.abandoned) {
            node.unmap_dma(&mut lists);
            node.move_to(&mut lists, RangeList::Nowhere);
        }
    }
}

/// A part of the memory of a process that a device can access. Dereferences to the driver's data.
///
/// Dropping it ends the device's access and waits for notifier calls in progress, be they for this
/// range or for any other memory of the process. So it must not be dropped in [`Device`]'s methods,
/// nor with a lock held that these take. To avoid the wait, call [`Range::revoke()`] and drop the
/// range from a work item.
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
    #[cfg(CONFIG_KUNIT = "y")]
    fn is_valid(&self) -> bool {
        let mut lists = self.0.shared.lists.lock();

        self.0.state.access_mut(&mut lists).list == RangeList::Valid
    }

    /// Copies the content from page `from` on, if the device has the pages right now. Calls `f`
    /// with the number, which is 0 for page `from`, and the physical address of each page. Returns
    /// whether the device has the pages.
    ///
    /// For dumps of the device's state. Both it and the process may write meanwhile. Sleeps, and
    /// delays changes of the memory until all is copied: large ranges are read in parts.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `out` ends behind the range.
    pub fn read(&self, from: usize, out: &mut [u8], mut f: impl FnMut(usize, u64)) -> Result<bool> {
        let mut lists = self.0.shared.lists.lock();
        let state = self.0.state.access_mut(&mut lists);

        if state.list != RangeList::Valid {
            return Ok(false);
        }
        let pfns = state.pfns.get(from..).unwrap_or_default();
        if out.len() > pfns.len() << PAGE_SHIFT {
            return Err(EINVAL);
        }
        for (index, (part, &pfn)) in out.chunks_mut(PAGE_SIZE).zip(pfns).enumerate() {
            // SAFETY: By the type invariants of `Node`, the page is not freed while the range is
            // valid, which needs our lock to end. `part` has no more bytes than a page, and C
            // copies, since the memory may change meanwhile.
            let address = unsafe {
                let page = bindings::hmm_pfn_to_page(pfn);

                bindings::memcpy_from_page(part.as_mut_ptr().cast(), page, 0, part.len());
                (bindings::page_to_pfn(page) as u64) << PAGE_SHIFT
            };

            f(index, address);
        }
        Ok(true)
    }

    /// Makes this range valid, as [`Mirror::validate()`] does with all. A range that was revoked or
    /// is lost stays as it is.
    ///
    /// # Errors
    ///
    /// Those of [`Mirror::validate()`], except `EIO`.
    pub fn validate(&self, patience: Delta) -> Result {
        let task = kernel::current!();

        self.0.populate(task.mm().ok_or(EPERM)?, patience)
    }

    /// Takes the pages from the device permanently. May sleep, but does not wait for the device's
    /// work, nor for a change that does.
    pub fn revoke(&self) {
        let node = &self.0;
        // Declared before the guard, so that it is freed with the lock released.
        let _arrays;
        let mut lists = node.shared.lists.lock();
        let state = node.state.access_mut(&mut lists);
        let list = state.list;

        // Revoked already, or never added because `Mirror::add()` has failed.
        if mem::replace(&mut state.revoked, true) || list == RangeList::Nowhere {
            return;
        }
        if list == RangeList::Valid {
            node.take_away(&mut lists);
        }
        lists.len -= 1;
        // Changes of this range do not have to be waited for any more.
        let changes = mem::take(&mut node.state.access_mut(&mut lists).changing);
        node.shared.settle(&mut lists, changes);
        // Keep a lost range on a list where unbind finds it, but where it does not keep others from
        // being valid.
        if node.state.access_mut(&mut lists).list == RangeList::Lost {
            node.move_to(&mut lists, RangeList::Abandoned);
        } else {
            node.move_to(&mut lists, RangeList::Nowhere);
            let state = node.state.access_mut(&mut lists);
            let pfns = match state.kept {
                // `LostPages` needs them to release the pages.
                true => KVVec::new(),
                false => mem::replace(&mut state.pfns, KVVec::new()),
            };
            _arrays = (pfns, mem::replace(&mut state.dma, KVVec::new()));
        }
    }
}

impl<T: Device> Drop for Range<T> {
    fn drop(&mut self) {
        self.revoke();
        // SAFETY: By the type invariants the notifier is registered. No lock is held that the
        // callback takes.
        unsafe { bindings::mmu_interval_notifier_remove(self.0.sub.get()) };
    }
}
