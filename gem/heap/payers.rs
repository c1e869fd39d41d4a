// SPDX-License-Identifier: GPL-2.0

//! The control groups that pay for the heaps of a device, with the number of pages that the heaps
//! of each could give back.
//!
//! Memory management asks for that number for one group after the other, so it is kept as a sum,
//! and costs the same with any number of heaps.
//!
//! Lock: a spinlock for each device, held only for counting and linking; a leaf. Reclaim waits for
//! it, so nothing is allocated under it. Process context.

use core::ptr;

use kernel::{
    list::{
        impl_list_arc_safe,
        impl_list_item,
        List,
        ListArc,
        ListLinks, //
    },
    mm::memcg::ObjCgroup,
    new_spinlock,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    }, //
};

/// The group that is charged for a heap; [`None`] if nothing is charged. Tests use another type.
pub(super) trait Group: Send + Sync {
    /// Returns whether what is charged to one is paid by the other as well, for ever.
    fn is(&self, other: &Self) -> bool;
}

impl Group for Option<ARef<ObjCgroup>> {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Some(this), Some(other)) => this.has_payer_of(other),
            (None, None) => true,
            _ => false,
        }
    }
}

/// A group that pays for heaps.
#[pin_data]
struct Payer<G: Group> {
    #[pin]
    links: ListLinks,
    group: G,
    /// The number of [`Contribution`]s. Changed under the lock of the list.
    contributions: Atomic<usize>,
    /// The number of pages that could be given back.
    pages: Atomic<usize>,
}

impl_list_arc_safe! {
    impl{G: Group} ListArcSafe<0> for Payer<G> { untracked; }
}
impl_list_item! {
    impl{G: Group} ListItem<0> for Payer<G> { using ListLinks { self.links }; }
}

/// The groups that pay for the heaps of a device.
#[pin_data]
pub(super) struct Payers<G: Group> {
    #[pin]
    list: SpinLock<List<Payer<G>>>,
    /// The number of pages that all of them together could give back.
    pages: Atomic<usize>,
}

impl<G: Group> Payers<G> {
    /// Creates an empty list. Sleeps.
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                list <- new_spinlock!(List::new(), "drm_gpu::heap::payers"),
                pages: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// Returns the payer that stands for `group`, with one more contribution, if it is in the list.
    fn find(list: &List<Payer<G>>, group: &G) -> Option<Arc<Payer<G>>> {
        let payer = list.iter().find(|payer| payer.group.is(group))?;

        payer.contributions.add(1, Relaxed);
        Some(payer.into())
    }

    /// Opens the contribution of a heap that is charged to `group`. Sleeps.
    pub(super) fn open(self: &Arc<Self>, group: G) -> Result<Contribution<G>> {
        let new = ListArc::pin_init(
            try_pin_init!(Payer {
                links <- ListLinks::new(),
                group,
                contributions: Atomic::new(1),
                pages: Atomic::new(0),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        let mut list = self.list.lock();
        let payer = match Self::find(&list, &new.group) {
            Some(payer) => payer,
            None => {
                let payer = new.clone_arc();

                list.push_back(new);
                payer
            }
        };

        drop(list);
        Ok(Contribution {
            payers: self.clone(),
            payer,
        })
    }

    /// Returns the number of pages that all heaps could give back. Takes no lock.
    pub(super) fn all_pages(&self) -> usize {
        self.pages.load(Relaxed)
    }

    /// Returns the number of pages that the heaps of some groups could give back.
    pub(super) fn pages(&self, is_asked: impl Fn(&G) -> bool) -> usize {
        let list = self.list.lock();
        let asked = list.iter().filter(|payer| is_asked(&payer.group));

        asked.map(|payer| payer.pages.load(Relaxed)).sum()
    }
}

/// The contribution of a heap to the sum of the group that pays for it.
pub(super) struct Contribution<G: Group> {
    payers: Arc<Payers<G>>,
    payer: Arc<Payer<G>>,
}

impl<G: Group> Contribution<G> {
    /// Returns the group.
    pub(super) fn group(&self) -> &G {
        &self.payer.group
    }

    /// Updates the sum of the group when the contribution of the heap changes from `old` to `new`
    /// pages.
    pub(super) fn count(&self, old: usize, new: usize) {
        // A negative difference wraps, and so do the sums.
        self.payer.pages.add(new.wrapping_sub(old), Relaxed);
        self.payers.pages.add(new.wrapping_sub(old), Relaxed);
    }
}

impl<G: Group> Drop for Contribution<G> {
    fn drop(&mut self) {
        let mut list = self.payers.list.lock();
        let left = self.payer.contributions.load(Relaxed).saturating_sub(1);

        self.payer.contributions.store(left, Relaxed);
        if left != 0 {
            return;
        }
        let mut gone = None;
        let mut cursor = list.cursor_front();

        while let Some(next) = cursor.peek_next() {
            if ptr::eq(&*next.arc(), &*self.payer) {
                gone = Some(next.remove());
                break;
            }
            cursor.move_next();
        }
        // The list's reference is dropped with the lock released, and the last one after that.
        drop(list);
        drop(gone);
    }
}

#[kunit_tests(drm_gpu_heap_payers)]
mod tests {
    use super::*;

    impl Group for u32 {
        fn is(&self, other: &Self) -> bool {
            self == other
        }
    }

    #[test]
    fn each_group_has_a_sum() -> Result {
        let payers = Payers::<u32>::new()?;
        let sums = || [1, 2].map(|asked| payers.pages(|&group| group == asked));
        let [a, b, c] = [payers.open(1)?, payers.open(2)?, payers.open(1)?];

        assert_eq!(sums(), [0, 0]);
        a.count(0, 512);
        b.count(0, 1024);
        c.count(0, 1);
        assert_eq!(sums(), [513, 1024]);
        a.count(512, 100);
        assert_eq!(sums(), [101, 1024]);
        assert_eq!(payers.pages(|_| true), 1125);
        assert_eq!(payers.all_pages(), 1125);
        a.count(100, 0);
        c.count(1, 0);
        assert_eq!(sums(), [0, 1024]);
        Ok(())
    }

    #[test]
    fn groups_go_with_their_last_heap() -> Result {
        let payers = Payers::<u32>::new()?;
        let len = || payers.list.lock().iter().count();
        let [a, b, c] = [payers.open(1)?, payers.open(2)?, payers.open(1)?];

        assert_eq!(len(), 2);
        drop(a);
        assert_eq!(len(), 2);
        assert_eq!(*c.group(), 1);
        drop(c);
        assert_eq!(len(), 1);
        b.count(0, 7);
        assert_eq!(payers.pages(|_| true), 7);
        b.count(7, 0);
        drop(b);
        assert_eq!(len(), 0);
        Ok(())
    }
}
