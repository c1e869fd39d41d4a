// SPDX-License-Identifier: GPL-2.0 OR MIT

//! DRM range allocator.
//!
//! C header: [`include/drm/drm_mm.h`](srctree/include/drm/drm_mm.h)
//!
//! [`Mm`] allocates parts of a range of numbers, usually of GPU addresses, and finds allocated
//! nodes by address. It has no lock of its own. It is meant to be protected by a lock of its user,
//! which may be a spinlock: the methods do not allocate memory, free memory or sleep. Memory for a
//! node is allocated with [`NodeAlloc::new`] before the lock is taken, and a [`Removed`] node is
//! dropped after the lock was released.

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{
        Deref,
        Range, //
    },
    ptr::NonNull, //
};

mod placement;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

pub use self::placement::{
    AnyColor,
    Placement,
    Policy, //
};

/// A node of an [`Mm`], with data of the user, to which it dereferences.
///
/// # Invariants
///
/// `node` is allocated from an [`Mm`] that also owns the memory of `Self`, and `data` is
/// initialised.
#[repr(C)]
pub struct Node<T> {
    // Must be the first field, see `Node::from_raw()`.
    node: Opaque<bindings::drm_mm_node>,
    data: MaybeUninit<T>,
}

impl<T> Node<T> {
    /// Returns the `Node` that `node` is a part of.
    fn from_raw(node: *mut bindings::drm_mm_node) -> *mut Self {
        // CAST: `Node` is `repr(C)`, `node` is its first field, and `Opaque` is transparent.
        node.cast()
    }

    /// Returns where the node starts.
    #[inline]
    pub fn start(&self) -> u64 {
        // SAFETY: By the type invariants the node is allocated; its position does not change until
        // it is removed, which needs exclusive access to the allocator.
        unsafe { (*self.node.get()).start }
    }

    /// Returns the size of the node.
    #[inline]
    pub fn size(&self) -> u64 {
        // SAFETY: As in `Self::start()`.
        unsafe { (*self.node.get()).size }
    }

    /// Returns where the node ends: the first number beyond it.
    #[inline]
    pub fn end(&self) -> u64 {
        // This cannot overflow: all of the node lies in the allocator's range.
        self.start().wrapping_add(self.size())
    }

    /// Returns the range that the node occupies.
    #[inline]
    pub fn range(&self) -> Range<u64> {
        self.start()..self.end()
    }

    /// Returns the color of the node.
    #[inline]
    pub fn color(&self) -> usize {
        // SAFETY: As in `Self::start()`.
        unsafe { (*self.node.get()).color }
    }
}

impl<T> Deref for Node<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariants the data is initialised.
        unsafe { self.data.assume_init_ref() }
    }
}

/// The memory for a node, to be allocated before the lock is taken that protects the allocator.
///
/// # Invariants
///
/// The node is zeroed, as `drm_mm` wants it, and the data is not initialised.
pub struct NodeAlloc<T>(KBox<Node<T>>);

// SAFETY: This is nothing but memory.
unsafe impl<T> Send for NodeAlloc<T> {}

// SAFETY: As above; a shared reference gives access to nothing.
unsafe impl<T> Sync for NodeAlloc<T> {}

impl<T> NodeAlloc<T> {
    /// Allocates the memory for one node.
    pub fn new(flags: Flags) -> Result<Self, AllocError> {
        // INVARIANT: The node is zeroed.
        Ok(Self(KBox::new(
            Node {
                node: Opaque::zeroed(),
                data: MaybeUninit::uninit(),
            },
            flags,
        )?))
    }
}

/// A node that was taken out of its [`Mm`], with the data, to which it dereferences.
///
/// # Invariants
///
/// The node is not allocated any more; its data is initialised.
pub struct Removed<T>(KBox<Node<T>>);

// SAFETY: A removed node belongs to no allocator; it is its data and a few numbers.
unsafe impl<T: Send> Send for Removed<T> {}

// SAFETY: As above.
unsafe impl<T: Sync> Sync for Removed<T> {}

impl<T> Removed<T> {
    /// Returns the range that the node occupied.
    #[inline]
    pub fn range(&self) -> Range<u64> {
        self.0.range()
    }
}

impl<T> Deref for Removed<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Removed<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the data is initialised; it is not used after this.
        unsafe { self.0.data.assume_init_drop() };
    }
}

/// A range allocator.
///
/// It owns its nodes: each is inserted as a [`NodeAlloc`] and removed as a [`Removed`]. Nodes that
/// are left when the allocator is dropped are dropped, too.
///
/// A node is placed at the lower end of the smallest hole in which it fits. Finding nodes by
/// address, removing one, and looking for a hole take logarithmic time, as long as the first hole
/// is not ruled out by alignment, range or policy.
///
/// # Invariants
///
/// - `mm` is initialised, and all nodes in it are the `node` fields of boxed [`Node<T>`]s, which
///   are owned by `self`.
/// - `mm.color_adjust` is either `None` or `color_adjust::<P>`.
///
/// # Examples
///
/// ```
/// use kernel::{
///     drm::mm::{
///         Mm,
///         NodeAlloc,
///         Placement, //
///     },
///     new_spinlock,
///     prelude::*,
///     sync::SpinLock, //
/// };
///
/// #[pin_data]
/// struct AddressSpace {
///     #[pin]
///     mm: SpinLock<Mm<u32>>,
/// }
///
/// impl AddressSpace {
///     fn new() -> impl PinInit<Self, Error> {
///         try_pin_init!(Self {
///             mm <- new_spinlock!(Mm::new(0x1000..0x10_0000)?),
///         })
///     }
///
///     fn alloc(&self, size: u64, id: u32) -> Result<u64> {
///         // The allocation may sleep, hence it comes before the lock.
///         let node = NodeAlloc::new(GFP_KERNEL)?;
///         let place = Placement::new(size).align(0x1000);
///
///         // On error the memory is freed after the lock has been released.
///         let result = self
///             .mm
///             .lock()
///             .insert(node, &place, |_| id)
///             .map(|node| node.start());
///
///         result.map_err(|(err, _)| err)
///     }
///
///     fn id_at(&self, address: u64) -> Option<u32> {
///         self.mm.lock().find(address).map(|node| **node)
///     }
///
///     fn free(&self, address: u64) {
///         let removed = self.mm.lock().remove(address);
///         drop(removed);
///     }
/// }
///
/// let space = KBox::pin_init(AddressSpace::new(), GFP_KERNEL)?;
/// let start = space.alloc(0x2000, 7)?;
/// assert_eq!(start % 0x1000, 0);
/// assert_eq!(space.id_at(start + 0x1fff), Some(7));
/// space.free(start);
/// assert_eq!(space.id_at(start), None);
/// # Ok::<(), Error>(())
/// ```
pub struct Mm<T, P: Policy = AnyColor> {
    // The `drm_mm` must not move, the `Mm` may.
    mm: KBox<Opaque<bindings::drm_mm>>,
    _nodes: PhantomData<(T, P)>,
}

// SAFETY: An allocator and its nodes, which it owns, can be used on any thread, one at a time; the
// data in the nodes goes with it. There is no value of type `P`.
unsafe impl<T: Send, P: Policy> Send for Mm<T, P> {}

// SAFETY: The methods that take a shared reference only read; the data in the nodes is shared by
// them.
unsafe impl<T: Sync, P: Policy> Sync for Mm<T, P> {}

impl<T, P: Policy> Mm<T, P> {
    /// Creates an allocator for `range`. May sleep. The memory is charged to the task's memory
    /// cgroup.
    ///
    /// Returns [`EINVAL`] if `range` is empty.
    pub fn new(range: Range<u64>) -> Result<Self> {
        if range.is_empty() {
            return Err(EINVAL);
        }

        let mm = KBox::new(Opaque::<bindings::drm_mm>::zeroed(), GFP_KERNEL_ACCOUNT)?;

        // SAFETY: `mm` is zeroed, and start plus size do not overflow.
        unsafe { bindings::drm_mm_init(mm.get(), range.start, range.end - range.start) };

        // SAFETY: `mm` is initialised, and not yet shared with anybody.
        unsafe { (*mm.get()).color_adjust = Some(Self::color_adjust) };

        // INVARIANT: `mm` was just initialised; there is no node in it.
        Ok(Self {
            mm,
            _nodes: PhantomData,
        })
    }

    extern "C" fn color_adjust(
        _node: *const bindings::drm_mm_node,
        color: usize,
        start: *mut u64,
        end: *mut u64,
    ) {
        // SAFETY: `drm_mm` passes valid pointers, of which this call has exclusive use.
        let (start, end) = unsafe { (&mut *start, &mut *end) };

        let usable = P::adjust(color, *start..*end);

        // Do not exceed the hole, or space would be allocated twice.
        *start = usable.start.max(*start);
        *end = usable.end.min(*end);
    }

    /// Turns a node that `drm_mm` has just placed into one with data.
    ///
    /// # Safety
    ///
    /// `node` must just have been inserted into `self.mm`.
    unsafe fn inserted(
        &mut self,
        node: KBox<Node<T>>,
        init: impl FnOnce(Range<u64>) -> T,
    ) -> &Node<T> {
        let range = node.range();
        let node = KBox::into_raw(node);

        // From here to the write the node has no data. A panic in `init` does not unwind in the
        // kernel, so the node is never seen in that state.
        //
        // SAFETY: `node` comes from `KBox::into_raw()`, and nobody else has access to its data.
        unsafe { (*node).data.write(init(range)) };

        // INVARIANT: The node is in `self.mm` and has its data; the allocator owns it now.
        // SAFETY: The node is valid until it is removed, which takes a mutable borrow of `self`.
        unsafe { &*node }
    }

    /// Finds room for a node and inserts it, with the data that `init` returns for its range.
    ///
    /// Returns [`ENOSPC`] if there is no room, with the memory of the node.
    pub fn insert(
        &mut self,
        alloc: NodeAlloc<T>,
        place: &Placement,
        init: impl FnOnce(Range<u64>) -> T,
    ) -> Result<&Node<T>, (Error, NodeAlloc<T>)> {
        if place.range.is_empty() {
            return Err((ENOSPC, alloc));
        }

        // SAFETY: `self.mm` is initialised, the node is zeroed by the type invariants of
        // `NodeAlloc`, and the range is not reversed.
        let ret = to_result(unsafe {
            bindings::drm_mm_insert_node_in_range(
                self.mm.get(),
                alloc.0.node.get(),
                place.size,
                place.align,
                place.color,
                place.range.start,
                place.range.end,
                bindings::drm_mm_insert_mode_DRM_MM_INSERT_BEST,
            )
        });

        match ret {
            // INVARIANT: `drm_mm` has not touched the node.
            Err(err) => Err((err, alloc)),
            // SAFETY: The node was just inserted.
            Ok(()) => Ok(unsafe { self.inserted(alloc.0, init) }),
        }
    }

    /// Returns the head of the list of nodes, which is not a node itself.
    fn head(&self) -> *mut bindings::drm_mm_node {
        // SAFETY: This only computes the address of a field of a valid structure.
        unsafe { &raw mut (*self.mm.get()).head_node }
    }

    /// Returns the node that covers `address`, if there is one.
    fn node_at(&self, address: u64) -> Option<NonNull<Node<T>>> {
        // SAFETY: `self.mm` is initialised, and nobody changes it while `self` is borrowed.
        let node = unsafe { bindings::__drm_mm_interval_first(self.mm.get(), address, address) };

        if node.is_null() || node == self.head() {
            None
        } else {
            NonNull::new(Node::from_raw(node))
        }
    }

    /// Returns the node that covers `address`.
    pub fn find(&self, address: u64) -> Option<&Node<T>> {
        let node = self.node_at(address)?;

        // SAFETY: By the type invariants this is a node that `self` owns; it is not removed while
        // `self` is borrowed.
        Some(unsafe { node.as_ref() })
    }

    /// Returns the last node that starts at `address` or below it.
    pub fn find_at_or_below(&self, address: u64) -> Option<&Node<T>> {
        // The first node that ends above `address`, or the head.
        //
        // SAFETY: `self.mm` is initialised, and nobody changes it while `self` is borrowed.
        let next = unsafe { bindings::__drm_mm_interval_first(self.mm.get(), address, u64::MAX) };

        // SAFETY: `next` is valid: it is a node of `self` or the head.
        let node = if next != self.head() && unsafe { (*next).start } <= address {
            NonNull::new(Node::from_raw(next))
        } else {
            self.previous(next)
        }?;

        // SAFETY: By the type invariants this is a node that `self` owns; it is not removed while
        // `self` is borrowed.
        Some(unsafe { node.as_ref() })
    }

    /// Removes `node`.
    ///
    /// # Safety
    ///
    /// `node` must be a node of `self`.
    unsafe fn take(&mut self, node: NonNull<Node<T>>) -> Removed<T> {
        // SAFETY: By the safety requirements the node is allocated, from an allocator to which we
        // have exclusive access.
        unsafe { bindings::drm_mm_remove_node((*node.as_ptr()).node.get()) };

        // INVARIANT: The node was just removed. By the type invariants of `Node` its data is
        // initialised.
        // SAFETY: The node comes from `KBox::into_raw()` in `Self::inserted()`, and the allocator,
        // which owned it, does not know it any more.
        Removed(unsafe { KBox::from_raw(node.as_ptr()) })
    }

    /// Removes the node that starts at `start`.
    pub fn remove(&mut self, start: u64) -> Option<Removed<T>> {
        let node = self.node_at(start)?;

        // SAFETY: By the type invariants this is a node that `self` owns.
        if unsafe { node.as_ref() }.start() != start {
            return None;
        }

        // SAFETY: As above.
        Some(unsafe { self.take(node) })
    }

    /// Removes the lowest node.
    fn pop_first(&mut self) -> Option<Removed<T>> {
        let node = self.next(self.head())?;

        // SAFETY: This is a node of `self`.
        Some(unsafe { self.take(node) })
    }

    /// Returns the node that follows `node`, which must be one of `self` or the head.
    fn next(&self, node: *mut bindings::drm_mm_node) -> Option<NonNull<Node<T>>> {
        // SAFETY: `node` is a node of `self` or the head, hence in the list of nodes, which does
        // not change while `self` is borrowed.
        let next = unsafe { (*node).node_list.next };

        // SAFETY: This is an entry of the list.
        unsafe { self.entry(next) }
    }

    /// Returns the node that precedes `node`, which must be one of `self` or the head.
    fn previous(&self, node: *mut bindings::drm_mm_node) -> Option<NonNull<Node<T>>> {
        // SAFETY: As in `Self::next()`.
        let previous = unsafe { (*node).node_list.prev };

        // SAFETY: This is an entry of the list.
        unsafe { self.entry(previous) }
    }

    /// Returns the node that an entry of the list of nodes belongs to, or [`None`] for the head.
    ///
    /// # Safety
    ///
    /// `entry` must be an entry of the list, or the head.
    unsafe fn entry(&self, entry: *mut bindings::list_head) -> Option<NonNull<Node<T>>> {
        // SAFETY: Each entry of the list, the head included, is the field of a `drm_mm_node`.
        let node = unsafe { crate::container_of!(entry, bindings::drm_mm_node, node_list) };

        if node == self.head() {
            None
        } else {
            NonNull::new(Node::from_raw(node))
        }
    }

    /// Returns the nodes, in ascending order.
    pub fn iter(&self) -> Iter<'_, T, P> {
        Iter {
            mm: self,
            next: self.next(self.head()),
        }
    }

    /// Returns whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.next(self.head()).is_none()
    }
}

impl<T, P: Policy> Drop for Mm<T, P> {
    fn drop(&mut self) {
        while self.pop_first().is_some() {}

        // SAFETY: `self.mm` is initialised, and there is no node left in it.
        unsafe { bindings::drm_mm_takedown(self.mm.get()) };
    }
}

/// An iterator over nodes of an [`Mm`].
pub struct Iter<'a, T, P: Policy> {
    mm: &'a Mm<T, P>,
    next: Option<NonNull<Node<T>>>,
}

impl<'a, T, P: Policy> Iterator for Iter<'a, T, P> {
    type Item = &'a Node<T>;

    fn next(&mut self) -> Option<Self::Item> {
        // SAFETY: `self.next` is a node of `self.mm`, which does not change while it is borrowed.
        let node: &'a Node<T> = unsafe { self.next?.as_ref() };

        self.next = self.mm.next(node.node.get());
        Some(node)
    }
}
