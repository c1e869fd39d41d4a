// SPDX-License-Identifier: GPL-2.0

//! Objects without an owner that the GPU may still reach: pages and heaps that could not be
//! unmapped, and page tables that could not be removed from a slot.
//!
//! They are kept until a reset has made the hardware forget all address spaces, and are dropped by
//! a worker afterwards, or at unbind, when the GPU has stopped. They are leaked only if nothing
//! stops the GPU, or if there is no memory to record them.
//!
//! One spinlock, a leaf. No object is dropped with it held.

use core::mem;

use kernel::{
    new_spinlock,
    prelude::*,
    sync::SpinLock, //
};

/// List node with an object that is kept.
struct Node<T: ?Sized> {
    next: Chain,
    _thing: T,
}

/// List of kept objects, latest first.
type Chain = Option<KBox<Node<dyn Send>>>;

/// Returns the list `front` followed by `rest`.
fn join(mut front: Chain, rest: Chain) -> Chain {
    let mut end = &mut front;

    while let Some(node) = end {
        end = &mut node.next;
    }
    *end = rest;
    front
}

/// Objects that were kept, and are dropped with this list.
pub(super) struct Things(Chain);

impl Drop for Things {
    fn drop(&mut self) {
        // One by one: dropping a long list recursively would overflow the stack.
        while let Some(mut node) = self.0.take() {
            self.0 = node.next.take();
        }
    }
}

#[derive(Default)]
struct Lists {
    /// The GPU may reach these.
    kept: Chain,
    /// The GPU does not reach these any more.
    forgotten: Chain,
}

/// Objects without an owner that the GPU may still reach.
#[pin_data(PinnedDrop)]
pub(crate) struct Orphans {
    #[pin]
    lists: SpinLock<Lists>,
}

impl Orphans {
    /// Creates empty lists.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            lists <- new_spinlock!(Lists::default(), "drm_gpu::orphans"),
        })
    }

    /// Keeps `thing`. Does not sleep, takes a leaf lock. Leaks `thing` if there is no memory for a
    /// list node.
    pub(super) fn keep<T: Send + 'static>(&self, thing: T) {
        if let Err(thing) = self.try_keep(thing) {
            mem::forget(thing);
        }
    }

    /// Like [`keep`](Self::keep), but hands `thing` back if there is no memory for a list node.
    pub(super) fn try_keep<T: Send + 'static>(&self, thing: T) -> Result<(), T> {
        let Ok(place) = KBox::<Node<T>>::new_uninit(GFP_NOWAIT | __GFP_NOWARN) else {
            return Err(thing);
        };
        let node: KBox<Node<T>> = place.write(Node {
            next: None,
            _thing: thing,
        });
        let mut node: KBox<Node<dyn Send>> = node;
        let mut lists = self.lists.lock();

        node.next = lists.kept.take();
        lists.kept = Some(node);
        Ok(())
    }

    /// Takes all objects, whether or not the GPU may still reach them.
    pub(super) fn take(&self) -> Things {
        let mut lists = self.lists.lock();
        let kept = lists.kept.take();
        let forgotten = lists.forgotten.take();

        Things(join(kept, forgotten))
    }

    /// Records that the GPU no longer reaches the objects kept so far. The caller must see that
    /// they are [dropped](Self::drop_forgotten). Does not sleep.
    pub(super) fn forget(&self) {
        let mut lists = self.lists.lock();
        let kept = lists.kept.take();
        let forgotten = lists.forgotten.take();

        lists.forgotten = join(kept, forgotten);
    }

    /// Drops the objects that the GPU no longer reaches. Sleeps. The caller holds no lock that
    /// dropping a BO or an address space takes.
    pub(super) fn drop_forgotten(&self) {
        let forgotten = Things(self.lists.lock().forgotten.take());

        drop(forgotten);
    }
}

#[pinned_drop]
impl PinnedDrop for Orphans {
    fn drop(self: Pin<&mut Self>) {
        self.drop_forgotten();
        // Unbind has emptied this list, unless the GPU does not stop.
        mem::forget(self.lists.lock().kept.take());
    }
}

#[kunit_tests(drm_gpu_mmu_orphans)]
mod tests {
    use super::*;
    use kernel::sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    };

    /// Counts the instances that were dropped.
    struct Thing(Arc<Atomic<u32>>);

    impl Drop for Thing {
        fn drop(&mut self) {
            self.0.add(1, Relaxed);
        }
    }

    #[test]
    fn kept_until_the_gpu_forgets() -> Result {
        let gone = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        let orphans = KBox::pin_init(Orphans::new(), GFP_KERNEL)?;

        orphans.keep(Thing(gone.clone()));
        orphans.keep((Thing(gone.clone()), 1u64));
        orphans.drop_forgotten();
        assert_eq!(gone.load(Relaxed), 0);

        orphans.forget();
        // This one was not kept yet when the GPU forgot the others.
        orphans.keep(Thing(gone.clone()));
        assert_eq!(gone.load(Relaxed), 0);
        orphans.drop_forgotten();
        assert_eq!(gone.load(Relaxed), 2);

        orphans.forget();
        drop(orphans);
        assert_eq!(gone.load(Relaxed), 3);
        Ok(())
    }
}
