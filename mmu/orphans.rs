// SPDX-License-Identifier: GPL-2.0

//! Objects without an owner that the GPU may still reach: pages and heaps that could not be
//! unmapped, and page tables that could not be removed from an AS.
//!
//! They are kept until a reset has made the hardware forget all address spaces, and are dropped by
//! a worker afterwards, or at unbind, when the GPU has stopped. They are leaked only if nothing
//! stops the GPU.
//!
//! Keeping cannot fail: an object is created in its list node ([`Keepable`]), or has a [`Link`],
//! like an address space, which may be kept again and again.
//!
//! One spinlock, a leaf. No object is dropped with it held. Process context. Keeping does not
//! sleep, and is also done with spinlocks held; dropping sleeps.

use core::{
    mem,
    ops::{
        Deref,
        DerefMut, //
    }, //
};

use kernel::{
    alloc::Flags,
    new_spinlock,
    prelude::*,
    sync::{
        Arc,
        LockedBy,
        SpinLock, //
    }, //
};

/// List node with an object.
struct Node<T: ?Sized> {
    next: Chain,
    thing: T,
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

/// An object that can be kept without allocating memory.
pub(crate) struct Keepable<T>(KBox<Node<T>>);

impl<T: Send + 'static> Keepable<T> {
    /// Takes an object, which is dropped if there is no memory for its list node.
    pub(crate) fn new(thing: T, flags: Flags) -> Result<Self> {
        Ok(Self(KBox::new(Node { next: None, thing }, flags)?))
    }
}

impl<T> Deref for Keepable<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.thing
    }
}

impl<T> DerefMut for Keepable<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0.thing
    }
}

/// An address space, or what stands for one in tests: shared, and kept by a [`Link`].
pub(crate) trait Linked: Sized + Send + Sync {
    /// Returns the link, which [`Orphans::link`] has created.
    fn link(&self) -> &LockedBy<Link<Self>, Lists<Self>>;
}

/// The place of a shared object in the list of its [`Orphans`].
pub(crate) struct Link<S> {
    next: Option<Arc<S>>,
    /// It is in the list.
    listed: bool,
    /// The GPU does not reach it any more.
    forgotten: bool,
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

/// The lists of [`Orphans`].
pub(crate) struct Lists<S> {
    /// The GPU may reach these.
    kept: Chain,
    /// The GPU does not reach these any more.
    forgotten: Chain,
    /// Shared objects of both kinds, latest first.
    shared: Option<Arc<S>>,
}

impl<S: Linked> Lists<S> {
    /// Adds a shared object, unless it is in the list, and records that the GPU may reach it.
    /// Returns the reference if it was in the list.
    fn add(&mut self, shared: Arc<S>) -> Option<Arc<S>> {
        let link = shared.link().access_mut(self);

        link.forgotten = false;
        if mem::replace(&mut link.listed, true) {
            return Some(shared);
        }
        let next = self.shared.take();
        shared.link().access_mut(self).next = next;
        self.shared = Some(shared);
        None
    }

    /// Records that the GPU does not reach the shared objects any more.
    fn forget(&mut self) {
        let mut at = self.shared.clone();

        // No reference dropped here is the last, as the list has one.
        while let Some(shared) = at {
            let link = shared.link().access_mut(self);

            link.forgotten = true;
            at = link.next.clone();
        }
    }

    /// Takes a shared object that the GPU does not reach any more.
    fn take_forgotten(&mut self) -> Option<Arc<S>> {
        let mut before: Option<Arc<S>> = None;
        let mut at = self.shared.clone();

        while let Some(shared) = at {
            let link = shared.link().access_mut(self);

            if link.forgotten {
                let next = link.next.take();

                link.listed = false;
                match before {
                    Some(before) => before.link().access_mut(self).next = next,
                    None => self.shared = next,
                }
                return Some(shared);
            }
            at = link.next.clone();
            before = Some(shared);
        }
        None
    }
}

/// Objects without an owner that the GPU may still reach.
#[pin_data(PinnedDrop)]
pub(super) struct Orphans<S: Linked> {
    #[pin]
    lists: SpinLock<Lists<S>>,
}

impl<S: Linked> Orphans<S> {
    /// Creates empty lists.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            lists <- new_spinlock!(
                Lists {
                    kept: None,
                    forgotten: None,
                    shared: None,
                },
                "drm_gpu::orphans"
            ),
        })
    }

    /// Creates the link of an object for [`Self::keep_shared`].
    pub(super) fn link(&self) -> LockedBy<Link<S>, Lists<S>> {
        LockedBy::new(
            &self.lists,
            Link {
                next: None,
                listed: false,
                forgotten: false,
            },
        )
    }

    /// Keeps `thing`. Does not sleep, takes a leaf lock.
    pub(super) fn keep<T: Send + 'static>(&self, thing: Keepable<T>) {
        let mut node: KBox<Node<dyn Send>> = thing.0;
        let mut lists = self.lists.lock();

        node.next = lists.kept.take();
        lists.kept = Some(node);
    }

    /// Keeps objects that were taken from other lists. Does not sleep, takes a leaf lock.
    pub(super) fn keep_all(&self, mut things: Things) {
        let things = things.0.take();
        let mut lists = self.lists.lock();

        lists.kept = join(things, lists.kept.take());
    }

    /// Keeps a shared object whose link is of these lists. Does not sleep, takes a leaf lock.
    pub(super) fn keep_shared(&self, shared: Arc<S>) {
        // If it was in the list already, this drops a reference that is not the last.
        drop(self.lists.lock().add(shared));
    }

    /// Takes all objects but the shared ones, whether or not the GPU may still reach them.
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
        lists.forget();
    }

    /// Drops the objects that the GPU no longer reaches. Sleeps. The caller holds no lock that
    /// dropping a BO or an address space takes.
    pub(super) fn drop_forgotten(&self) {
        let forgotten = Things(self.lists.lock().forgotten.take());

        drop(forgotten);
        loop {
            // Dropped with the lock released.
            let shared = self.lists.lock().take_forgotten();

            if shared.is_none() {
                break;
            }
        }
    }
}

#[pinned_drop]
impl<S: Linked> PinnedDrop for Orphans<S> {
    fn drop(self: Pin<&mut Self>) {
        self.drop_forgotten();
        // Unbind has emptied these lists, unless the GPU does not stop.
        let mut lists = self.lists.lock();
        mem::forget(lists.kept.take());
        mem::forget(lists.shared.take());
    }
}

#[kunit_tests(drm_gpu_mmu_orphans)]
mod tests {
    use super::*;
    use kernel::sync::atomic::{
        Atomic,
        Relaxed, //
    };

    /// Counts the instances that were dropped.
    struct Thing(Arc<Atomic<u32>>);

    impl Drop for Thing {
        fn drop(&mut self) {
            self.0.add(1, Relaxed);
        }
    }

    /// Stands for an address space.
    struct Shared {
        link: LockedBy<Link<Self>, Lists<Self>>,
        _thing: Thing,
    }

    impl Linked for Shared {
        fn link(&self) -> &LockedBy<Link<Self>, Lists<Self>> {
            &self.link
        }
    }

    /// Empty lists, and the number of objects that were dropped.
    struct Bench {
        orphans: Pin<KBox<Orphans<Shared>>>,
        gone: Arc<Atomic<u32>>,
    }

    impl Bench {
        fn new() -> Result<Self> {
            Ok(Self {
                orphans: KBox::pin_init(Orphans::new(), GFP_KERNEL)?,
                gone: Arc::new(Atomic::new(0), GFP_KERNEL)?,
            })
        }

        fn thing(&self) -> Thing {
            Thing(self.gone.clone())
        }

        fn shared(&self) -> Result<Arc<Shared>> {
            let shared = Shared {
                link: self.orphans.link(),
                _thing: self.thing(),
            };

            Ok(Arc::new(shared, GFP_KERNEL)?)
        }

        fn gone(&self) -> u32 {
            self.gone.load(Relaxed)
        }
    }

    #[test]
    fn kept_until_the_gpu_forgets() -> Result {
        let bench = Bench::new()?;
        let orphans = &bench.orphans;

        orphans.keep(Keepable::new(bench.thing(), GFP_KERNEL)?);
        orphans.keep(Keepable::new((bench.thing(), 1u64), GFP_KERNEL)?);
        orphans.drop_forgotten();
        assert_eq!(bench.gone(), 0);

        orphans.forget();
        // This one was not kept yet when the GPU forgot the others.
        orphans.keep(Keepable::new(bench.thing(), GFP_KERNEL)?);
        assert_eq!(bench.gone(), 0);
        orphans.drop_forgotten();
        assert_eq!(bench.gone(), 2);

        orphans.forget();
        let Bench { orphans, gone } = bench;
        drop(orphans);
        assert_eq!(gone.load(Relaxed), 3);
        Ok(())
    }

    #[test]
    fn taken_over() -> Result {
        let bench = Bench::new()?;
        let other = Bench::new()?;

        for _ in 0..3 {
            bench
                .orphans
                .keep(Keepable::new(bench.thing(), GFP_KERNEL)?);
        }
        other
            .orphans
            .keep(Keepable::new(other.thing(), GFP_KERNEL)?);
        other.orphans.keep_all(bench.orphans.take());
        bench.orphans.forget();
        bench.orphans.drop_forgotten();
        assert_eq!(bench.gone(), 0);
        other.orphans.forget();
        other.orphans.drop_forgotten();
        assert_eq!((bench.gone(), other.gone()), (3, 1));
        Ok(())
    }

    #[test]
    fn shared_ones_are_kept_again_and_again() -> Result {
        let bench = Bench::new()?;
        let orphans = &bench.orphans;
        let (a, b, c) = (bench.shared()?, bench.shared()?, bench.shared()?);

        for shared in [&a, &b, &c, &b] {
            orphans.keep_shared(shared.clone());
        }
        orphans.drop_forgotten();
        orphans.forget();
        // The GPU reaches this one once more, before it was dropped.
        orphans.keep_shared(b.clone());
        drop((b, c));
        assert_eq!(bench.gone(), 0);
        orphans.drop_forgotten();
        // `a` has another owner.
        assert_eq!(bench.gone(), 1);

        orphans.keep_shared(a);
        orphans.drop_forgotten();
        assert_eq!(bench.gone(), 1);
        orphans.forget();
        orphans.drop_forgotten();
        assert_eq!(bench.gone(), 3);
        Ok(())
    }
}
