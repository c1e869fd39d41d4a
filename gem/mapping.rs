// SPDX-License-Identifier: GPL-2.0

//! A BO in an address space.
//!
//! There is one [`Mapping`] for each pair of BO and address space, however many handles the file has
//! for the BO. The handles hold it, through the list in the BO, and so does every job that uses the
//! BO: closing the handle of a busy BO takes nothing away from the GPU. With the last reference the
//! pages are unmapped and the addresses are free again; that may sleep, so jobs are to be dropped by
//! a worker, not by an interrupt thread.
//!
//! A mapping keeps the pages of its BO in. A heap is mapped piece by piece as the GPU asks for it:
//! see [`heap`](super::heap).
//!
//! Drop order: unmap, then pages (and with them maybe the BO), then the addresses. If the hardware
//! does not answer while we unmap, the pages are leaked on purpose, for it may still write to them.

use core::{
    iter,
    mem, //
};

use kernel::{
    dma::DmaAddress,
    drm::gem::{
        uma::Pinned,
        BaseObject, //
    },
    prelude::*,
    sizes::SZ_4K,
    sync::Arc, //
};

use super::{
    heap::Heap,
    object::BoData,
    Bo, //
};
use crate::{
    device::Gpu,
    mmu::{
        Prot,
        VaNode,
        Vm, //
    }, //
};

/// What is mapped.
enum Memory {
    /// All pages of the BO; so many bytes are mapped. An imported buffer can have less than its size.
    Pages(Pinned<BoData>, u64),
    /// What the heap knows of.
    Heap(Arc<Heap>),
    /// Nothing any more.
    Gone,
}

/// A BO in an address space.
pub(crate) struct Mapping {
    memory: Memory,
    node: VaNode,
}

impl Mapping {
    /// Maps `bo` into `vm`, a heap without any memory. Sleeps.
    pub(super) fn new(bo: &Bo, gpu: &Gpu<'_>, vm: &Arc<Vm>) -> Result<Arc<Self>> {
        if let Some(heap) = bo.heap() {
            let node = vm.alloc_va(bo.size(), false, Some(heap.clone()))?;

            heap.place(vm, vm.heaps(), node.start())?;
            return Ok(Arc::new(
                Self {
                    memory: Memory::Heap(heap.clone()),
                    node,
                },
                GFP_KERNEL,
            )?);
        }

        let exec = bo.flags().is_executable();
        // Addresses first: no memory is brought in for a BO that has no place.
        let node = vm.alloc_va(bo.size(), exec, None)?;
        let pages = bo.pin(gpu.dev())?;

        // From here on, dropping it unmaps what is mapped.
        let mut new = Self {
            memory: Memory::Gone,
            node,
        };

        let segments = || {
            let entries = pages.sg_table(gpu.dev()).ok().map(|table| table.iter());

            cut(
                entries
                    .into_iter()
                    .flatten()
                    // A segment of memory always fits.
                    .map(|entry| (entry.dma_address(), entry.dma_len() as usize)),
                new.node.size(),
            )
        };

        let mut mapped = 0;
        for (address, len) in segments() {
            // The GPU has no pages smaller than this; an exporter could have.
            if (address | len as u64) & (SZ_4K as u64 - 1) != 0 {
                return Err(EINVAL);
            }
            mapped += len as u64;
        }
        if mapped == 0 {
            return Err(ENODEV);
        }

        let start = new.node.start();
        let range = start..start + mapped;
        if let Err(e) = vm.map(gpu, range, segments(), Prot { exec }, GFP_KERNEL) {
            if e.leak {
                mem::forget(pages);
            }
            return Err(e.error);
        }
        new.memory = Memory::Pages(pages, mapped);

        Ok(Arc::new(new, GFP_KERNEL)?)
    }

    /// First address. Never changes.
    pub(crate) fn va(&self) -> u64 {
        self.node.start()
    }

    /// The heap, if it is one.
    pub(super) fn heap(&self) -> Option<&Arc<Heap>> {
        match &self.memory {
            Memory::Heap(heap) => Some(heap),
            Memory::Pages(..) | Memory::Gone => None,
        }
    }

    /// The address space.
    pub(crate) fn vm(&self) -> &Arc<Vm> {
        self.node.vm()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let start = self.node.start();

        match mem::replace(&mut self.memory, Memory::Gone) {
            Memory::Pages(pages, mapped) => {
                if self.vm().unmap(iter::once(start..start + mapped)).is_err() {
                    mem::forget(pages);
                }
            }
            Memory::Heap(heap) => heap.close(),
            Memory::Gone => (),
        }
    }
}

/// Ends a list of segments after `left` bytes.
fn cut(
    segments: impl Iterator<Item = (DmaAddress, usize)>,
    mut left: u64,
) -> impl Iterator<Item = (DmaAddress, usize)> {
    segments.map_while(move |(address, len)| {
        let len = left.min(len as u64);

        left -= len;
        // It is not more than it was.
        (len != 0).then_some((address, len as usize))
    })
}

#[kunit_tests(drm_gpu_mapping)]
mod tests {
    use super::*;

    #[test]
    fn segments_end_with_the_bo() {
        let all = [(0x1000, 0x2000), (0x8000, 0x4000), (0x20000, 0x1000)];
        let sum = |left| {
            cut(all.into_iter(), left)
                .map(|(_, len)| len)
                .sum::<usize>()
        };

        assert_eq!(sum(0), 0);
        assert_eq!(sum(0x1000), 0x1000);
        assert_eq!(sum(0x2000), 0x2000);
        assert_eq!(sum(0x5000), 0x5000);
        assert_eq!(sum(0x7000), 0x7000);
        assert_eq!(sum(0x100000), 0x7000);
        assert_eq!(cut(all.into_iter(), 0x3000).last(), Some((0x8000, 0x1000)));
    }
}
