// SPDX-License-Identifier: GPL-2.0

//! Delivery of signalled fences to a queue.
//!
//! A job queue waits for fences of others. Their callbacks run under the locks of those fences,
//! which are all one lockdep class and must not nest with the queue's own fences. So a callback
//! does no work here: it pushes its preallocated node on the lock-free list of a [`Mailbox`] and,
//! if the list was empty, kicks its consumer.
//!
//! The node belongs to a [`FenceWatch`], which can be started on one fence after another without
//! allocating, in a signalling section for instance.
//!
//! # Ownership of nodes
//!
//! The [`FenceWatch`] has one reference from its creation to its end, and one more is lent to the
//! fence by [`FenceWatch::start`]. The callback moves the lent reference into the list, and
//! [`Mailbox::drain`] moves it out again. [`FenceWatch::stop`] takes it back from the fence
//! instead. As the watch waits for a running callback before it lets go of its own reference, a
//! callback never drops anything, and the mailbox, to which the watch has a reference, outlives it
//! as well.
//!
//! # When a callback is over
//!
//! The last access of a callback to its node is to set `done`. [`FenceWatch::stop`] returns when it
//! has seen that, or after it went through the lock of the fence, under which callbacks run. It
//! does not take that lock if `done` is set: a fence may have its lock in memory of its driver,
//! which frees it some time after the signal. Between the signal and the end of the callbacks, that
//! lock is kept alive by RCU. The read-side critical section begins before `done` is read: if
//! `done` is not set yet, signalling is still in progress, and the grace period that the driver
//! waits for afterwards cannot end before the critical section does.
//!
//! A watch must not be forgotten, with `mem::forget` for instance, by a module that can be
//! unloaded: the callback is code of that module.
//!
//! # Locks and contexts
//!
//! There is no lock. [`Kick::kick`] is called in atomic context, everything else in the context of
//! its caller.

use super::Fence;
use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        rcu,
        Arc, //
    },
    types::Opaque, //
};
use core::{
    cell::UnsafeCell,
    ops::Deref,
    ptr, //
};

/// Wakes the consumer of a [`Mailbox`].
pub trait Kick: Send + Sync + 'static {
    /// Tells the consumer that the mailbox is no longer empty.
    ///
    /// The addition of the node is ordered before this, as by a full barrier.
    ///
    /// Called in atomic context with interrupts disabled and the lock of some fence held. It must
    /// not sleep, must not take a lock under which fences are signalled, must not signal a fence,
    /// and must not drop a [`FenceWatch`]. Typically, it queues a work item.
    fn kick(&self);
}

/// A list of the watches whose fences have signalled.
///
/// # Invariants
///
/// `head` is NULL or the first node of a NULL-terminated list. The list owns a reference to each of
/// its nodes.
pub struct Mailbox<T: Send + Sync + 'static, K: Kick> {
    head: Atomic<*mut Node<T, K>>,
    kick: K,
}

/// One node, part of a [`FenceWatch`].
struct Node<T: Send + Sync + 'static, K: Kick> {
    cb: Opaque<bindings::dma_fence_cb>,
    /// The next node of the list. Accessed only by the owner of the lent reference: the callback
    /// until it pushes the node, the consumer after it has taken the list.
    next: UnsafeCell<*mut Node<T, K>>,
    /// Whether the reference lent by [`FenceWatch::start`] is with the fence or the list.
    lent: Atomic<bool>,
    /// Set as the last access of the callback to the node and to the mailbox.
    done: Atomic<bool>,
    /// Valid as long as the watch that the node belongs to exists.
    mailbox: *const Mailbox<T, K>,
    data: T,
}

// SAFETY: `next` has one owner at a time, `mailbox` is only dereferenced while it is valid, and the
// targets of both may be used by any thread. The rest is `Send` by itself or synchronised by C.
unsafe impl<T: Send + Sync + 'static, K: Kick> Send for Node<T, K> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync + 'static, K: Kick> Sync for Node<T, K> {}

impl<T: Send + Sync + 'static, K: Kick> Mailbox<T, K> {
    /// Creates an empty mailbox.
    pub fn new(kick: K) -> Self {
        // INVARIANT: The list is empty.
        Self {
            head: Atomic::new(ptr::null_mut()),
            kick,
        }
    }

    /// Returns the object that is kicked.
    pub fn kicker(&self) -> &K {
        &self.kick
    }

    /// Returns whether the mailbox is currently empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.load(Relaxed).is_null()
    }

    /// Takes out all nodes, in the order in which they were added.
    ///
    /// Concurrent calls are fine; each node goes to one of them. The next node to be added kicks
    /// again.
    pub fn drain(&self) -> Drain<T, K> {
        if self.is_empty() {
            return Drain(ptr::null_mut());
        }
        // Full ordering pairs with that of `push`: writes of the signaller are visible here.
        let mut rest = self.head.xchg(ptr::null_mut(), Full);

        // The newest node comes first; reverse the list.
        let mut first = ptr::null_mut();
        while !rest.is_null() {
            let node = rest;
            // SAFETY: By the type invariants this is a valid node. Its reference is ours now, and
            // so is `next`.
            rest = unsafe { (*node).next.get().replace(first) };
            first = node;
        }
        Drain(first)
    }

    /// Adds a node.
    ///
    /// # Safety
    ///
    /// `node` must be valid and not be in any list. The caller must own a reference to it, which
    /// moves into the list. The node and the mailbox must stay valid until this returns.
    unsafe fn push(&self, node: *mut Node<T, K>) {
        let mut head = self.head.load(Relaxed);
        loop {
            // SAFETY: The node is valid, and we own its `next`.
            unsafe { *(*node).next.get() = head };
            // INVARIANT: The new head is followed by the previous list.
            match self.head.cmpxchg(head, node, Full) {
                Ok(_) => break,
                Err(current) => head = current,
            }
        }
        // From here on the node may have been drained and be in use again.
        if head.is_null() {
            self.kick.kick();
        }
    }
}

impl<T: Send + Sync + 'static, K: Kick> Drop for Mailbox<T, K> {
    fn drop(&mut self) {
        drop(self.drain());
    }
}

/// The nodes taken out of a [`Mailbox`], oldest first.
///
/// Dropping it drops the remaining nodes.
///
/// # Invariants
///
/// The pointer is NULL or that of the first node of a NULL-terminated list. The list owns a
/// reference to each of its nodes.
pub struct Drain<T: Send + Sync + 'static, K: Kick>(*mut Node<T, K>);

// SAFETY: This is a list of references, which are `Send` since `Node` is `Send` and `Sync`.
unsafe impl<T: Send + Sync + 'static, K: Kick> Send for Drain<T, K> {}

impl<T: Send + Sync + 'static, K: Kick> Iterator for Drain<T, K> {
    type Item = Mail<T, K>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_null() {
            return None;
        }
        let node = self.0;
        // SAFETY: By the type invariants the node is valid, and `next` belongs to the owner of the
        // list.
        // INVARIANT: The rest of the list.
        self.0 = unsafe { *(*node).next.get() };
        // SAFETY: By the type invariants we own a reference to the node, which came from
        // `Arc::into_raw`.
        let node = unsafe { Arc::from_raw(node) };
        // The node is in no list any more. Pairs with the load in `start`.
        node.lent.store(false, Release);
        Some(Mail(node))
    }
}

impl<T: Send + Sync + 'static, K: Kick> Drop for Drain<T, K> {
    fn drop(&mut self) {
        while self.next().is_some() {}
    }
}

/// One node taken out of a [`Mailbox`].
pub struct Mail<T: Send + Sync + 'static, K: Kick>(Arc<Node<T, K>>);

impl<T: Send + Sync + 'static, K: Kick> Deref for Mail<T, K> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.data
    }
}

/// Sends itself to a [`Mailbox`] when a fence signals.
///
/// A watch watches one fence at a time, and can be reused for any number of fences. Dropping it
/// stops it, and must not happen in a callback of the watched fence, such as [`Kick::kick`].
///
/// The data must not own the watch, or neither is ever freed.
///
/// # Invariants
///
/// If there is a fence, then `dma_fence_add_callback` succeeded for it with the node's `cb`, and
/// the callback was not removed.
pub struct FenceWatch<T: Send + Sync + 'static, K: Kick> {
    node: Arc<Node<T, K>>,
    fence: Option<ARef<Fence>>,
    /// Keeps alive the mailbox that the node points to.
    _mailbox: Arc<Mailbox<T, K>>,
}

impl<T: Send + Sync + 'static, K: Kick> FenceWatch<T, K> {
    /// Allocates a watch that delivers `data` to `mailbox`.
    pub fn new(mailbox: Arc<Mailbox<T, K>>, data: T, flags: Flags) -> Result<Self, AllocError> {
        let node = Arc::new(
            Node {
                cb: Opaque::uninit(),
                next: UnsafeCell::new(ptr::null_mut()),
                lent: Atomic::new(false),
                done: Atomic::new(true),
                mailbox: Arc::as_ptr(&mailbox),
                data,
            },
            flags,
        )?;
        Ok(Self {
            node,
            // INVARIANT: There is no fence.
            fence: None,
            _mailbox: mailbox,
        })
    }

    /// Returns the data.
    pub fn data(&self) -> &T {
        &self.node.data
    }

    /// Starts watching `fence`, after [stopping](Self::stop) with the one before.
    ///
    /// Returns `false` if the fence has already signalled; nothing is delivered then. Fails with
    /// [`EBUSY`] if an earlier fence was delivered and is still in the mailbox. Does not allocate
    /// and does not sleep.
    pub fn start(&mut self, fence: &Fence) -> Result<bool> {
        self.stop();
        // Pairs with the store when the node is drained: `next` is ours after that.
        if self.node.lent.load(Acquire) {
            return Err(EBUSY);
        }

        self.node.lent.store(true, Relaxed);
        self.node.done.store(false, Relaxed);
        let node = Arc::into_raw(self.node.clone());
        // SAFETY: The node is valid.
        let cb = Opaque::cast_into(unsafe { &raw const (*node).cb });
        let ret = {
            // RCU keeps the lock of a concurrently signalling fence alive.
            let _rcu = rcu::read_lock();
            // SAFETY: The fence is valid. `cb` is in no list: the last callback was either removed,
            // or unlinked before it ran. `cb` stays valid until the callback has run or was
            // removed, since a reference to the node was lent.
            unsafe {
                bindings::dma_fence_add_callback(fence.as_raw(), cb, Some(Self::signaled_callback))
            }
        };
        if ret != 0 {
            // SAFETY: The callback was not added, so the reference that was lent is still ours.
            unsafe { self.take_back(node) };
            self.node.done.store(true, Relaxed);
            return Ok(false);
        }
        // INVARIANT: The callback was added.
        self.fence = Some(fence.into());
        Ok(true)
    }

    /// Stops watching. Waits for the callback if it is running.
    ///
    /// Returns `true` if a fence was being watched and has not been and will not be delivered. Must
    /// not be called in a callback of the fence.
    pub fn stop(&mut self) -> bool {
        // INVARIANT: The callback has run or is removed below.
        let Some(fence) = self.fence.take() else {
            return false;
        };
        let removed = {
            // RCU keeps the lock of a concurrently signalling fence alive. Must be taken before
            // `done` is read, see the module documentation.
            let _rcu = rcu::read_lock();
            if self.node.done.load(Acquire) {
                return false;
            }
            // SAFETY: By the type invariants the callback was added to this fence.
            unsafe { bindings::dma_fence_remove_callback(fence.as_raw(), self.node.cb.get()) }
        };
        if removed {
            // SAFETY: The callback will not run, so the reference that was lent is ours again.
            unsafe { self.take_back(Arc::as_ptr(&self.node)) };
            self.node.done.store(true, Relaxed);
        }
        removed
    }

    /// Takes back the reference that was lent.
    ///
    /// # Safety
    ///
    /// `node` must be the one of `self`, with a reference lent to a fence that can no longer pass
    /// it on.
    unsafe fn take_back(&self, node: *const Node<T, K>) {
        self.node.lent.store(false, Relaxed);
        // SAFETY: By the requirements this reference is ours.
        drop(unsafe { Arc::from_raw(node) });
    }

    /// # Safety
    ///
    /// Must only be called by the C side, once, for the `cb` of a node of which a reference was
    /// lent.
    unsafe extern "C" fn signaled_callback(
        _fence: *mut bindings::dma_fence,
        cb: *mut bindings::dma_fence_cb,
    ) {
        // SAFETY: `cb` is the field of a valid node, by the requirements.
        let node = unsafe { crate::container_of!(Opaque::cast_from(cb), Node<T, K>, cb) };
        let node = node.cast_mut();
        // SAFETY:
        // - The watch exists and has a reference to the node and to the mailbox: it waits for
        //   `done` or for the lock of the fence before it lets go of them.
        // - The node is in no list, and the reference is the one that was lent.
        unsafe { (*(*node).mailbox).push(node) };
        // SAFETY: As above.
        unsafe { (*node).done.store(true, Release) };
    }
}

impl<T: Send + Sync + 'static, K: Kick> Drop for FenceWatch<T, K> {
    fn drop(&mut self) {
        self.stop();
    }
}

#[macros::kunit_tests(rust_dma_fence_mailbox)]
mod tests {
    use super::{
        super::{
            ArmedFence,
            FenceAlloc,
            FenceContext, //
        },
        *,
    };
    use crate::workqueue;

    /// Counts the kicks.
    struct Kicks(Atomic<u32>);

    impl Kick for Kicks {
        fn kick(&self) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn mailbox<T: Send + Sync + 'static>() -> Result<Arc<Mailbox<T, Kicks>>> {
        Ok(Arc::new(Mailbox::new(Kicks(Atomic::new(0))), GFP_KERNEL)?)
    }

    fn arm() -> Result<ArmedFence> {
        let context = FenceContext::new(c"kunit", c"mailbox");
        Ok(FenceAlloc::new(GFP_KERNEL)?.arm(&context))
    }

    fn kicks<T: Send + Sync + 'static>(mailbox: &Mailbox<T, Kicks>) -> u32 {
        mailbox.kicker().0.load(Relaxed)
    }

    #[test]
    fn delivers_in_order() -> Result {
        let mailbox = mailbox()?;
        let mut watches = KVec::new();
        let mut fences = KVec::new();
        for i in 0..4u32 {
            let armed = arm()?;
            let mut watch = FenceWatch::new(mailbox.clone(), i, GFP_KERNEL)?;
            assert_eq!(*watch.data(), i);
            assert!(watch.start(armed.fence())?);
            watches.push(watch, GFP_KERNEL)?;
            fences.push(armed, GFP_KERNEL)?;
        }
        assert!(mailbox.is_empty());

        // The last one stays pending.
        let pending = fences.pop();
        for armed in fences {
            armed.signal(Ok(()));
        }
        assert_eq!(kicks(&mailbox), 1);

        let mut drain = mailbox.drain();
        assert!(mailbox.is_empty());
        assert_eq!(drain.next().map(|mail| *mail), Some(0));
        assert_eq!(drain.next().map(|mail| *mail), Some(1));
        assert_eq!(drain.next().map(|mail| *mail), Some(2));
        assert!(drain.next().is_none());

        // The next one kicks again.
        drop(pending);
        assert_eq!(kicks(&mailbox), 2);
        assert_eq!(mailbox.drain().next().map(|mail| *mail), Some(3));
        Ok(())
    }

    #[test]
    fn signaled_already() -> Result {
        let mailbox = mailbox()?;
        let mut watch = FenceWatch::new(mailbox.clone(), (), GFP_KERNEL)?;

        let armed = arm()?;
        let fence = ARef::from(armed.fence());
        armed.signal(Ok(()));
        assert!(!watch.start(&fence)?);
        assert!(mailbox.is_empty());
        assert!(!watch.stop());
        assert_eq!(kicks(&mailbox), 0);

        // The watch can still be used.
        let armed = arm()?;
        assert!(watch.start(armed.fence())?);
        armed.signal(Ok(()));
        assert_eq!(mailbox.drain().count(), 1);
        Ok(())
    }

    #[test]
    fn stopped() -> Result {
        let mailbox = mailbox()?;
        let mut watch = FenceWatch::new(mailbox.clone(), (), GFP_KERNEL)?;
        let armed = arm()?;

        assert!(watch.start(armed.fence())?);
        assert!(watch.stop());
        assert!(!watch.stop());
        armed.signal(Ok(()));
        assert!(mailbox.is_empty());

        // Starting stops, too, and so does dropping.
        let (first, second) = (arm()?, arm()?);
        assert!(watch.start(first.fence())?);
        assert!(watch.start(second.fence())?);
        first.signal(Ok(()));
        assert!(mailbox.is_empty());
        drop(watch);
        second.signal(Ok(()));
        assert!(mailbox.is_empty());
        Ok(())
    }

    #[test]
    fn reused() -> Result {
        let mailbox = mailbox()?;
        let mut watch = FenceWatch::new(mailbox.clone(), (), GFP_KERNEL)?;
        for _ in 0..3 {
            let armed = arm()?;
            assert!(watch.start(armed.fence())?);
            armed.signal(Ok(()));

            // It is still in the mailbox.
            let next = arm()?;
            assert_eq!(watch.start(next.fence()), Err(EBUSY));

            assert!(!watch.stop());
            assert_eq!(mailbox.drain().count(), 1);
        }
        assert_eq!(kicks(&mailbox), 3);
        Ok(())
    }

    #[test]
    fn mail_outlives_watch() -> Result {
        let data = Arc::new((), GFP_KERNEL)?;
        let mailbox = mailbox()?;
        let mut watch = FenceWatch::new(mailbox.clone(), data.clone(), GFP_KERNEL)?;
        let armed = arm()?;
        assert!(watch.start(armed.fence())?);
        armed.signal(Ok(()));
        drop(watch);

        let mail = mailbox.drain().next();
        assert!(mail.is_some_and(|mail| Arc::ptr_eq(&mail, &data)));
        // All gone.
        assert!(Arc::into_unique_or_drop(data).is_some());
        Ok(())
    }

    #[test]
    fn undelivered_mail_is_dropped() -> Result {
        let data = Arc::new((), GFP_KERNEL)?;
        let mailbox = mailbox()?;
        let mut watch = FenceWatch::new(mailbox.clone(), data.clone(), GFP_KERNEL)?;
        let armed = arm()?;
        assert!(watch.start(armed.fence())?);
        armed.signal(Ok(()));
        drop(watch);
        drop(mailbox);
        assert!(Arc::into_unique_or_drop(data).is_some());
        Ok(())
    }

    /// The watch is stopped while the fence signals on another CPU, sooner or later.
    #[test]
    fn race() -> Result {
        const ROUNDS: u32 = 200;
        const PAUSES: u32 = 50;

        let mailbox = mailbox()?;
        let mut watch = FenceWatch::new(mailbox.clone(), (), GFP_KERNEL)?;
        let pause = |rounds| {
            for _ in 0..rounds * PAUSES {
                core::hint::spin_loop();
            }
        };
        let mut outcomes = [0_u32; 2];

        for round in 0..ROUNDS {
            let armed = arm()?;
            let fence = ARef::from(armed.fence());
            let watching = watch.start(&fence)?;
            assert!(watching);
            let begun = Arc::new(Atomic::new(false), GFP_KERNEL)?;
            let there = begun.clone();
            workqueue::system_dfl().try_spawn(GFP_KERNEL, move || {
                there.store(true, Release);
                pause(ROUNDS - round);
                armed.signal(Ok(()));
            })?;
            while !begun.load(Acquire) {
                core::hint::spin_loop();
            }
            pause(round);

            // Either it was stopped or it was delivered.
            let stopped = watch.stop();
            let delivered = mailbox.drain().count();
            assert_eq!(delivered, usize::from(!stopped));
            fence.wait()?;
            assert!(mailbox.is_empty());
            outcomes[usize::from(stopped)] += 1;
        }
        assert!(outcomes[0] > 0 && outcomes[1] > 0);
        Ok(())
    }
}
