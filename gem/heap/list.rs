// SPDX-License-Identifier: GPL-2.0

//! Lists from which an item is removed without looking for it.
//!
//! A client can have any number of heaps, and closes them one by one, or all at once with its file.
//!
//! A list owns a reference to each item. Lock: none of its own; the one around the list also
//! protects the items' indices in it. Any context in which the memory of [`IndexedList::reserve`]
//! may be allocated.

use core::{
    mem,
    ops::Deref,
    ptr, //
};

use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    }, //
};

/// A list of items in no particular order, each of which knows its index.
pub(super) struct IndexedList<T> {
    items: KVVec<Arc<T>>,
    /// Returns the field of an item for its index in this list. Only the list writes it.
    index_of: fn(&T) -> &Atomic<usize>,
}

impl<T> IndexedList<T> {
    /// Creates an empty list. An item has a different field for each list that it can be in.
    pub(super) const fn new(index_of: fn(&T) -> &Atomic<usize>) -> Self {
        Self {
            items: KVVec::new(),
            index_of,
        }
    }

    /// Returns whether there is room for another item.
    pub(super) fn has_room(&self) -> bool {
        self.items.len() < self.items.capacity()
    }

    /// Makes room for another item.
    pub(super) fn reserve(&mut self, flags: Flags) -> Result {
        Ok(self.items.reserve(1, flags)?)
    }

    /// Moves a list without room into `room`, if that is larger. The caller drops the old memory.
    pub(super) fn move_into(&mut self, room: &mut KVVec<Arc<T>>) {
        if self.has_room() || self.items.len() >= room.capacity() {
            return;
        }
        for item in self.items.drain_all() {
            // Cannot fail, as `room` has the larger capacity.
            let _ = room.push_within_capacity(item);
        }
        mem::swap(&mut self.items, room);
    }

    /// Adds an item, which must not be in the list. Returns `ENOMEM` if there is no room.
    pub(super) fn push(&mut self, item: Arc<T>) -> Result {
        if !self.has_room() {
            return Err(ENOMEM);
        }
        (self.index_of)(&item).store(self.items.len(), Relaxed);
        self.items.push_within_capacity(item).map_err(|_| ENOMEM)
    }

    /// Removes an item, if it is in the list. The last item takes its place.
    pub(super) fn remove(&mut self, item: &T) -> Option<Arc<T>> {
        let index = (self.index_of)(item).load(Relaxed);

        // The index of an item that is not in the list has no meaning.
        if !ptr::eq(&**self.items.get(index)?, item) {
            return None;
        }
        let last = self.items.pop()?;

        Some(match self.items.get_mut(index) {
            Some(place) => {
                (self.index_of)(&last).store(index, Relaxed);
                mem::replace(place, last)
            }
            // The item was the last one.
            None => last,
        })
    }
}

impl<T> Deref for IndexedList<T> {
    type Target = [Arc<T>];

    fn deref(&self) -> &[Arc<T>] {
        &self.items
    }
}

#[kunit_tests(drm_gpu_heap_list)]
mod tests {
    use super::*;

    /// Counts how often its index is asked for.
    struct Item {
        index: Atomic<usize>,
        looks: Atomic<usize>,
    }

    impl Item {
        fn new() -> Result<Arc<Self>> {
            Ok(Arc::new(
                Self {
                    index: Atomic::new(0),
                    looks: Atomic::new(0),
                },
                GFP_KERNEL,
            )?)
        }

        fn index(&self) -> &Atomic<usize> {
            self.looks.add(1, Relaxed);
            &self.index
        }
    }

    fn list_of(items: &[Arc<Item>]) -> Result<IndexedList<Item>> {
        let mut list = IndexedList::new(Item::index);

        for item in items {
            list.reserve(GFP_KERNEL)?;
            list.push(item.clone())?;
        }
        Ok(list)
    }

    /// Returns whether each item knows where it is.
    fn is_sound(list: &IndexedList<Item>) -> bool {
        list.iter()
            .enumerate()
            .all(|(index, item)| item.index.load(Relaxed) == index)
    }

    #[test]
    fn any_item_can_go() -> Result {
        let new = || -> Result<_> { Ok([Item::new()?, Item::new()?, Item::new()?, Item::new()?]) };

        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let items = new()?;
            let mut list = list_of(&items)?;

            for (gone, n) in order.into_iter().enumerate() {
                let removed = list.remove(&items[n]);

                assert!(removed.is_some_and(|removed| Arc::ptr_eq(&removed, &items[n])));
                assert!(is_sound(&list) && list.len() == 3 - gone);
                // Once.
                assert!(list.remove(&items[n]).is_none());
            }
        }
        Ok(())
    }

    #[test]
    fn no_other_item_goes() -> Result {
        let [a, b, never] = [Item::new()?, Item::new()?, Item::new()?];
        let mut list = list_of(&[a.clone(), b.clone()])?;

        assert!(list.remove(&never).is_none() && list.len() == 2);
        assert!(list.remove(&a).is_some());
        // It has the index that the other one has now.
        assert!(list.remove(&a).is_none());
        list.push(a.clone())?;
        assert!(is_sound(&list) && list.len() == 2);
        assert!(list.remove(&b).is_some() && list.remove(&a).is_some());
        assert!(list.is_empty());
        Ok(())
    }

    /// However many others there are, no more of them than the last one is looked at.
    #[test]
    fn no_walk() -> Result {
        const ITEMS: usize = 500;
        for reversed in [false, true] {
            let mut items = KVec::new();
            for _ in 0..ITEMS {
                items.push(Item::new()?, GFP_KERNEL)?;
            }
            let mut list = list_of(&items)?;

            for n in 0..ITEMS {
                let n = if reversed { ITEMS - 1 - n } else { n };

                assert!(list.remove(&items[n]).is_some());
            }
            let looks: usize = items.iter().map(|item| item.looks.load(Relaxed)).sum();
            assert!(looks <= 3 * ITEMS);
        }
        Ok(())
    }

    #[test]
    fn moves_into_larger_memory() -> Result {
        let mut list = list_of(&[Item::new()?, Item::new()?])?;
        let mut small = KVVec::with_capacity(1, GFP_KERNEL)?;

        while list.has_room() {
            list.push(Item::new()?)?;
        }
        let len = list.len();
        assert!(list.push(Item::new()?).is_err());
        list.move_into(&mut small);
        assert!(!list.has_room() && small.is_empty());
        let mut room = KVVec::with_capacity(2 * len, GFP_KERNEL)?;
        list.move_into(&mut room);
        assert!(list.has_room() && list.len() == len && is_sound(&list));
        Ok(())
    }
}
