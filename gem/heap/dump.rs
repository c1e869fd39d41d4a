// SPDX-License-Identifier: GPL-2.0

//! The chunks of a heap, for dumps.
//!
//! Lock: the mutex of the heap, under which nothing is allocated. Process context, in a worker that
//! no fence depends on.

use kernel::prelude::*;

use super::Heap;
use crate::device::Gpu;

impl Heap {
    /// Returns the number of the first mapped chunk that has at least the number `from`. Sleeps.
    pub(in super::super) fn mapped_from(&self, gpu: &Gpu<'_>, from: usize) -> Option<usize> {
        let inner = self.inner.lock();
        let first = inner.mapped(gpu).find(|&index| index >= from);

        first
    }

    /// Copies a chunk from its page `first` on. Calls `f` with the number, which is 0 for page
    /// `first`, and the physical address of each page. Returns whether the chunk is mapped. Sleeps.
    /// Jobs for which the heap has to grow wait until that is done, so `out` should be small.
    ///
    /// Errors: `EINVAL` if `out` ends behind the chunk.
    pub(in super::super) fn read(
        &self,
        gpu: &Gpu<'_>,
        index: usize,
        first: usize,
        out: &mut [u8],
        f: impl FnMut(usize, u64),
    ) -> Result<bool> {
        let inner = self.inner.lock();

        if inner.is_stuck(index) {
            return Ok(false);
        }
        inner.chunks.read(gpu.dev(), index, first, out, f)
    }
}
