// SPDX-License-Identifier: GPL-2.0

//! Device resources that come in large numbers.
//!
//! Each [`Devres`](super::Devres) is an entry in the list of all resources of its device. Removing
//! one walks that list, and each that is left at unbind costs an RCU grace period. With thousands
//! of resources of one kind, which clients may cause a driver to create, either takes seconds.
//!
//! A [`DevresList`] is one resource of the device, whatever the number of its [`DevresItem`]s. An
//! item removes itself in constant time. Unbind empties the list without waiting for a grace
//! period: an item can be accessed only with a proof that the device is bound, so no access can be
//! in progress.
//!
//! Locks: that of one item, held while its data is dropped, and the list's spinlock, held only for
//! linking and unlinking. An item that is dropped drops its data before it leaves the list, so that
//! unbind either still finds it and waits for its lock, or has nothing left to do.
//!
//! Process context. Adding an item and dropping one sleep; accessing its data takes no lock and
//! does not sleep.

use crate::{
    device::{
        Bound,
        Device, //
    },
    list::{
        impl_list_arc_safe,
        impl_list_item,
        List,
        ListArc,
        ListLinks, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        static_lock_class,
        Arc,
        LockClassKey,
        Mutex,
        SpinLock, //
    },
    types::{
        CovariantForLt,
        ForLt,
        Opaque, //
    }, //
};
use core::mem::ManuallyDrop;

/// Returns the name and the key of the class of [`Shared::items`].
///
/// Generic code has a copy of its literals in each crate that instantiates it, but one copy of its
/// statics. Lockdep requires one name for a key.
#[inline(never)]
fn items_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"DevresList::items", static_lock_class!())
}

/// Returns the name and the key of the class of [`Node::end`].
#[inline(never)]
fn end_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"DevresItem::end", static_lock_class!())
}

/// Resources of one kind, each of which is released when the device is unbound, or earlier.
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::{
///         Bound,
///         Device, //
///     },
///     devres::{
///         DevresItem,
///         DevresList, //
///     }, //
/// };
///
/// /// Something that must not outlive the binding of a device.
/// struct Mapping(u64);
///
/// /// Made by `probe()`.
/// fn mappings(dev: &Device<Bound>) -> Result<DevresList<Mapping>> {
///     DevresList::new(dev)
/// }
///
/// fn map(dev: &Device<Bound>, all: &DevresList<Mapping>) -> Result<DevresItem<Mapping>> {
///     all.add(dev, Mapping(0x1000))
/// }
///
/// fn address(dev: &Device<Bound>, mapping: &DevresItem<Mapping>) -> Result<u64> {
///     Ok(mapping.access(dev)?.0)
/// }
/// ```
pub struct DevresList<T: Send + Sync + 'static>(Arc<Shared<T>>);

impl<T: Send + Sync + 'static> DevresList<T> {
    /// Creates an empty list for `dev`. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &Device<Bound>) -> Result<Self> {
        let (name, key) = items_class();
        let items = Items {
            list: List::new(),
            closed: false,
        };
        let shared = Arc::pin_init(
            pin_init!(Shared {
                dev: dev.into(),
                items <- SpinLock::new(items, name, key),
            }),
            GFP_KERNEL,
        )?;

        super::register(dev, Teardown(shared.clone()), GFP_KERNEL)?;
        Ok(Self(shared))
    }

    /// Adds `data`, which is dropped when the device is unbound, or with the returned item. The
    /// memory is charged to the task's memory cgroup. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the list belongs to another device, `ENODEV` if the device was unbound since the
    /// list was created, or `ENOMEM`. `data` is dropped in each case.
    pub fn add(&self, dev: &Device<Bound>, data: T) -> Result<DevresItem<T>> {
        if self.0.dev.as_raw() != dev.as_raw() {
            return Err(EINVAL);
        }

        let (name, key) = end_class();
        // INVARIANT: The data is valid.
        let node = ListArc::pin_init(
            try_pin_init!(Node {
                links <- ListLinks::new(),
                live: Atomic::new(true),
                end <- Mutex::new((), name, key),
                data: Opaque::new(data),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        // On failure, dropping this drops the data.
        let item = DevresItem {
            node: node.clone_arc(),
            shared: self.0.clone(),
        };

        let mut items = self.0.items.lock();
        if items.closed {
            // Release the lock before the item is freed.
            drop(items);
            return Err(ENODEV);
        }
        items.list.push_back(node);
        drop(items);
        Ok(item)
    }
}

/// The part that a list and its items share.
#[pin_data]
struct Shared<T: Send + Sync + 'static> {
    dev: ARef<Device>,
    #[pin]
    items: SpinLock<Items<T>>,
}

struct Items<T: Send + Sync + 'static> {
    list: List<Node<T>>,
    /// The device is being unbound: nothing may be added.
    closed: bool,
}

impl<T: Send + Sync + 'static> Shared<T> {
    fn remove(&self, node: &Node<T>) {
        // SAFETY: Only `DevresList::add()` links a node, and only into the list of its item, which
        // is the caller.
        let node = unsafe { self.items.lock().list.remove(node) };

        // This may be the last reference: drop it after the lock was released.
        drop(node);
    }

    fn pop(&self) -> Option<ListArc<Node<T>>> {
        let mut items = self.items.lock();

        items.closed = true;
        items.list.pop_front()
    }
}

/// Empties a list when its device is unbound.
struct Teardown<T: Send + Sync + 'static>(Arc<Shared<T>>);

impl<T: Send + Sync + 'static> Drop for Teardown<T> {
    fn drop(&mut self) {
        while let Some(node) = self.0.pop() {
            node.end();
        }
    }
}

/// An entry of a list.
///
/// # Invariants
///
/// `data` is valid while `live` is true. `live` is cleared under `end`, when the device is being
/// unbound or the item is being dropped.
#[pin_data]
struct Node<T: Send + Sync + 'static> {
    #[pin]
    links: ListLinks,
    live: Atomic<bool>,
    #[pin]
    end: Mutex<()>,
    data: Opaque<T>,
}

impl_list_arc_safe! {
    impl{T: Send + Sync + 'static} ListArcSafe<0> for Node<T> { untracked; }
}
impl_list_item! {
    impl{T: Send + Sync + 'static} ListItem<0> for Node<T> { using ListLinks { self.links }; }
}

// SAFETY: The data can be sent, and so can the rest.
unsafe impl<T: Send + Sync + 'static> Send for Node<T> {}

// SAFETY: The data can be shared; `links` is synchronised by the lock of the list.
unsafe impl<T: Send + Sync + 'static> Sync for Node<T> {}

impl<T: Send + Sync + 'static> Node<T> {
    /// Drops the data, unless that was done already. Waits if another thread is doing so.
    fn end(&self) {
        let _end = self.end.lock();

        if self.live.xchg(false, Relaxed) {
            // SAFETY: By the type invariants the data is valid, and as we hold the lock and have
            // changed `live`, nobody else drops it. There is no reference to it:
            // `DevresItem::access()` lends none beyond the life of the item and the binding of the
            // device, one of which ends.
            unsafe { core::ptr::drop_in_place(self.data.get()) };
        }
    }
}

/// The owner of an entry of a [`DevresList`]. Dropping it drops the data, unless unbind already
/// did.
///
/// Once the item is dropped, the data has been dropped in either case. Dropping may sleep.
pub struct DevresItem<T: Send + Sync + 'static> {
    node: Arc<Node<T>>,
    shared: Arc<Shared<T>>,
}

impl<T: Send + Sync + 'static> DevresItem<T> {
    /// Returns the data. Does not sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `dev` is another device, `ENODEV` if it was unbound since the item was added.
    pub fn access<'a>(&'a self, dev: &'a Device<Bound>) -> Result<&'a T> {
        if self.shared.dev.as_raw() != dev.as_raw() {
            return Err(EINVAL);
        }
        if !self.node.live.load(Relaxed) {
            return Err(ENODEV);
        }
        // SAFETY: By the type invariants the data is valid. It stays so for `'a`: the item is not
        // dropped, and the device, which is bound, has not been unbound since the item was added,
        // else it would not be live. Unbind drops the data only when no such proof exists any more.
        Ok(unsafe { &*self.node.data.get() })
    }
}

impl<T: Send + Sync + 'static> Drop for DevresItem<T> {
    fn drop(&mut self) {
        // The order matters, see the module documentation.
        self.node.end();
        self.shared.remove(&self.node);
    }
}

/// A [`DevresList`] of data that borrows from the bound device, as a [`DevresLt`](super::DevresLt)
/// is a [`Devres`](super::Devres) of such data.
pub struct DevresListLt<F: ForLt>(DevresList<F::Of<'static>>)
where
    for<'a> F::Of<'a>: Send + Sync;

impl<F: ForLt> DevresListLt<F>
where
    for<'a> F::Of<'a>: Send + Sync,
{
    /// Creates an empty list, see [`DevresList::new()`].
    pub fn new(dev: &Device<Bound>) -> Result<Self> {
        Ok(Self(DevresList::new(dev)?))
    }

    /// Adds `data`, see [`DevresList::add()`].
    ///
    /// # Safety
    ///
    /// The data must remain valid for the device's full bound scope, which may outlast `'a`.
    pub unsafe fn add<'a>(
        &self,
        dev: &'a Device<Bound>,
        data: F::Of<'a>,
    ) -> Result<DevresItemLt<F>> {
        let data = ManuallyDrop::new(data);
        // SAFETY: The pointer is valid, and the data is not used after this. Lifetimes do not
        // affect layout, and by the safety requirements it is valid for as long as it can be
        // accessed.
        let data = unsafe { (&raw const *data).cast::<F::Of<'static>>().read() };

        Ok(DevresItemLt(self.0.add(dev, data)?))
    }
}

/// The owner of an entry of a [`DevresListLt`].
pub struct DevresItemLt<F: ForLt>(DevresItem<F::Of<'static>>)
where
    for<'a> F::Of<'a>: Send + Sync;

impl<F: CovariantForLt> DevresItemLt<F>
where
    for<'a> F::Of<'a>: Send + Sync,
{
    /// Returns the data like [`DevresItem::access()`], with its lifetime shortened to that of the
    /// borrow.
    pub fn access<'a>(&'a self, dev: &'a Device<Bound>) -> Result<&'a F::Of<'a>> {
        self.0.access(dev).map(F::cast_ref)
    }
}

#[macros::kunit_tests(rust_devres_list)]
mod tests {
    use super::*;
    use crate::faux;

    /// Counts how many of its kind are left.
    struct Counted(Arc<Atomic<i32>>);

    impl Counted {
        fn new(count: &Arc<Atomic<i32>>) -> Self {
            count.add(1, Relaxed);
            Self(count.clone())
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.add(-1, Relaxed);
        }
    }

    #[test]
    fn items_go_when_they_are_dropped() -> Result {
        let faux = faux::Registration::new(c"rust_devres_list_kunit", None)?;
        let dev: &Device<Bound> = faux.as_ref().as_ref();
        let count = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        let list = DevresList::new(dev)?;

        let first = list.add(dev, Counted::new(&count))?;
        let second = list.add(dev, Counted::new(&count))?;
        assert!(first.access(dev).is_ok());
        drop(first);
        assert_eq!(count.load(Relaxed), 1);
        assert!(second.access(dev).is_ok());
        drop(list);
        assert_eq!(count.load(Relaxed), 1);
        drop(second);
        assert_eq!(count.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn items_go_when_the_device_is_unbound() -> Result {
        let faux = faux::Registration::new(c"rust_devres_list_kunit", None)?;
        let count = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        let mut items = KVec::new();
        let list = {
            let dev: &Device<Bound> = faux.as_ref().as_ref();
            let list = DevresList::new(dev)?;

            for _ in 0..3 {
                items.push(list.add(dev, Counted::new(&count))?, GFP_KERNEL)?;
            }
            list
        };
        assert_eq!(count.load(Relaxed), 3);
        drop(faux);
        assert_eq!(count.load(Relaxed), 0);

        // Another device does not give access to data that was dropped.
        let other = faux::Registration::new(c"rust_devres_list_kunit", None)?;
        let dev: &Device<Bound> = other.as_ref().as_ref();
        for item in &items {
            assert!(item.access(dev).is_err());
        }
        assert!(list.add(dev, Counted::new(&count)).is_err());
        assert_eq!(count.load(Relaxed), 0);
        drop(items);
        assert_eq!(count.load(Relaxed), 0);
        Ok(())
    }
}
