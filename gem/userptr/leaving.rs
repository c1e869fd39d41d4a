// SPDX-License-Identifier: GPL-2.0

//! User memory that is not wanted any more.
//!
//! Whoever drops it, be it a client that closes a BO or the worker that drops jobs, takes it from the
//! GPU at once. Its notifier remains, which cannot be removed while memory of that process changes;
//! and a change may wait for jobs, of this GPU or of another. So a work item removes it. There is one
//! item for each address space: those that wait hold up nobody else, and are no more than there are
//! files.
//!
//! Nothing is allocated then: the item of the list and that of the queue are as old as the memory.
//!
//! # End
//!
//! The queue belongs to the [hardware](crate::device::Hw). Unbind ends the jobs first, and then waits
//! for all items, so none of them runs when the module goes. A process that never stops to change that
//! memory makes it wait until that process ends. Once the GPU has gone, whoever drops user
//! memory removes its notifier himself: no job of ours is left that this could have to wait for.
//!
//! # Lock
//!
//! That of the list, a leaf.

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

/// User memory that can be in the list. Dropping it removes the notifier.
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
/// Dropping it takes the pages from the GPU, whose addresses may have another use then. That may sleep,
/// but waits neither for jobs nor, unless the GPU has gone, for changes of the memory.
pub(in super::super) struct Memory {
    /// There until it is dropped.
    item: Option<ListArc<Item>>,
    leaving: Arc<Leaving>,
}

impl Memory {
    /// Of `range`, which is in the address space that `leaving` is for.
    pub(super) fn new(range: Range<Region>, leaving: &Arc<Leaving>) -> Result<Self> {
        let item = ListArc::pin_init(
            try_pin_init!(Item {
                links <- ListLinks::new(),
                range,
            }? Error),
            GFP_KERNEL,
        )?;

        Ok(Self {
            item: Some(item),
            leaving: leaving.clone(),
        })
    }

    /// What the mirror knows of it.
    pub(in super::super) fn range(&self) -> Result<&Range<Region>> {
        self.item.as_ref().map(|item| &item.range).ok_or(EINVAL)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(item) = self.item.take() else {
            return;
        };
        let drm = item.range.drm.clone();

        item.range.revoke();
        // Without a GPU, the closure is dropped, and the item with it.
        let _ = with_gpu(&drm, move |gpu| self.leaving.add(gpu, item));
    }
}

/// The user memory of an address space whose notifiers are to be removed.
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
    /// None. Sleeps.
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                work <- new_work!("drm_gpu::leaving"),
                items <- new_spinlock!(List::new(), "drm_gpu::leaving"),
            }),
            GFP_KERNEL,
        )
    }

    /// Has the notifier of this one removed, too.
    fn add(self: &Arc<Self>, gpu: &Gpu<'_>, item: ListArc<Item>) {
        self.items.lock().push_back(item);
        // If it is queued already, it has not begun.
        let _ = gpu.leaving.enqueue(self.clone());
    }
}

impl WorkItem for Leaving {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        loop {
            // Dropped with the lock released.
            let next = this.items.lock().pop_front();

            if next.is_none() {
                break;
            }
        }
    }
}
