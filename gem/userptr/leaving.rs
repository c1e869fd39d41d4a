// SPDX-License-Identifier: GPL-2.0

//! The removal of user memory that is no longer used.
//!
//! When user memory is dropped, by a client that closes a BO or by the worker that drops jobs, it
//! is taken from the GPU at once. But its notifier cannot be removed while memory of that process
//! changes, and a change may wait for jobs of this GPU or of another. So a work item removes the
//! notifier. There is one work item for each address space, so that one which waits does not delay
//! other address spaces, and that there are no more of them than files.
//!
//! Dropping user memory allocates nothing: the list item was allocated together with the memory,
//! and the work item together with the first memory of the address space.
//!
//! # End
//!
//! The queue belongs to the [hardware](crate::device::GpuInner). Unbind ends the jobs first, and
//! then waits for all work items, so none of them runs when the module is removed. A process that
//! never stops changing that memory makes unbind wait until the process exits. Once the GPU is
//! gone, the notifier is removed as soon as user memory is dropped, as no job of this driver is
//! left to wait for.
//!
//! # Lock
//!
//! The spinlock of the list, which is a leaf. Process context. Dropping user memory may sleep: it
//! takes the mutex of the mirror, and has released it when it adds to the list.

use kernel::{
    list::{
        impl_list_arc_safe,
        impl_list_item,
        List,
        ListArc,
        ListLinks, //
    },
    mm::mirror::Range,
    new_spinlock,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    }, //
};

use super::Region;
use crate::device::{
    with_gpu,
    Gpu, //
};

/// User memory that can be added to the list. Dropping it removes the notifier.
#[pin_data]
struct Item {
    #[pin]
    links: ListLinks,
    range: Range<Region>,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Item { untracked; }
}
impl_list_item! {
    impl ListItem<0> for Item { using ListLinks { self.links }; }
}

/// The user memory of a BO.
///
/// Dropping it takes the pages from the GPU, after which their GPU addresses may be reused. That
/// may sleep, but does not wait for jobs, and only waits for changes of the memory if the GPU is
/// gone.
pub(in super::super) struct UserMemory {
    /// Present until this is dropped.
    item: Option<ListArc<Item>>,
    leaving: Arc<Leaving>,
}

impl UserMemory {
    /// Creates the memory of `range`, in the address space to which `leaving` belongs. Sleeps.
    pub(super) fn new(range: Range<Region>, leaving: &Arc<Leaving>) -> Result<Self> {
        let item = ListArc::pin_init(
            try_pin_init!(Item {
                links <- ListLinks::new(),
                range,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;

        Ok(Self {
            item: Some(item),
            leaving: leaving.clone(),
        })
    }

    /// Returns the range in the mirror.
    pub(in super::super) fn range(&self) -> Result<&Range<Region>> {
        self.item.as_ref().map(|item| &item.range).ok_or(EINVAL)
    }
}

impl Drop for UserMemory {
    fn drop(&mut self) {
        let Some(item) = self.item.take() else {
            return;
        };
        let drm = item.range.drm.clone();

        item.range.revoke();
        // Without a GPU, the closure is dropped together with the item.
        let _ = with_gpu(&drm, move |gpu| self.leaving.add(gpu, item));
    }
}

/// The dropped user memory of an address space, whose notifiers have yet to be removed.
#[pin_data]
pub(super) struct Leaving {
    #[pin]
    work: Work<Leaving>,
    #[pin]
    items: SpinLock<List<Item>>,
}

impl_has_work! {
    impl HasWork<Self> for Leaving { self.work }
}

impl Leaving {
    /// Creates an empty list. Sleeps.
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                work <- new_work!("drm_gpu::leaving"),
                items <- new_spinlock!(List::new(), "drm_gpu::leaving"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Queues the removal of the notifier of `item`.
    fn add(self: &Arc<Self>, gpu: &Gpu<'_>, item: ListArc<Item>) {
        self.items.lock().push_back(item);
        // If the work item is already queued, it has not started, and will see `item`.
        let _ = gpu.leaving.enqueue(self.clone());
    }
}

impl WorkItem for Leaving {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        loop {
            // The item is dropped with the lock released.
            let next = this.items.lock().pop_front();

            if next.is_none() {
                break;
            }
        }
    }
}
