// SPDX-License-Identifier: GPL-2.0

//! Pages that could not be taken from the device.
//!
//! [`LostPages`] own the references to these pages, by way of their node. Locks: when they are
//! dropped, that of the mirror; if the mirror has gone, the last one also takes that of the list of
//! mirrors, after it. Process context.

use super::{
    node::{
        Node,
        RangeList, //
    },
    Device, //
};
use crate::{
    bindings,
    prelude::*,
    sync::Arc, //
};
use core::mem;

/// The pages of a range that the device may still access. The driver keeps them until it no longer
/// does.
///
/// Dropping it releases the pages, which may sleep and takes the lock of the
/// [`Mirror`](super::Mirror). If the mirror has gone, the last one also undoes the DMA mappings,
/// and takes the lock of [`Mirrors`](super::Mirrors); if it is never dropped, unbind does so.
///
/// # Invariants
///
/// The node was lost, and owns a reference to each of its pages, taken at that time.
#[must_use = "the device may still access the pages"]
pub struct LostPages<T: Device>(Arc<Node<T>>);

impl<T: Device> LostPages<T> {
    /// Creates the pages of a node that has just been lost and that owns a reference to each of
    /// them. There must be no other [`LostPages`] of the node.
    pub(super) fn new(node: Arc<Node<T>>) -> Self {
        // INVARIANT: By the requirements on the caller.
        Self(node)
    }
}

impl<T: Device> Drop for LostPages<T> {
    fn drop(&mut self) {
        let node = &self.0;
        let mut lists = node.shared.lists.lock();

        match node.state.access_mut(&mut lists).list {
            RangeList::Lost => {
                node.unmap_dma(&mut lists);
                node.move_to(&mut lists, RangeList::Stale);
            }
            RangeList::Abandoned => {
                node.unmap_dma(&mut lists);
                node.move_to(&mut lists, RangeList::Nowhere);
            }
            // Unbind has already unmapped the pages.
            RangeList::Nowhere | RangeList::Stale | RangeList::Valid => (),
        }
        let state = node.state.access_mut(&mut lists);
        state.kept = false;
        let pfns = mem::replace(&mut state.pfns, KVVec::new());
        // The last of those that have outlived the mirror needs it no longer.
        lists.kept -= 1;
        let teardown = match lists.kept {
            0 => lists.teardown.take(),
            _ => None,
        };
        drop(lists);
        drop(teardown);

        for pfn in pfns {
            // SAFETY: By the type invariants, this reference is owned by the node.
            unsafe { bindings::put_page(bindings::hmm_pfn_to_page(pfn)) };
        }
    }
}
