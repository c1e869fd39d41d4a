// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The pages of an object, protected by its lock.

use super::dma::DmaMapping;
use crate::{
    bindings,
    prelude::*, //
};
use core::ptr::NonNull;

/// The pages of a buffer and the mappings of them.
///
/// # Invariants
///
/// - `pages` is what `drm_gem_get_pages()` returned for the object.
/// - `dma` maps `pages`, or the dma-buf if the object is imported; it is not removed while the
///   device holds the pages.
/// - `vaddr` maps `pages` and is present if, and only if, `vmaps` is not 0.
#[derive(Default)]
pub(super) struct Backing {
    pub(super) pages: Option<NonNull<*mut bindings::page>>,
    pub(super) dma: Option<DmaMapping>,
    pub(super) vaddr: Option<NonNull<c_void>>,
    /// The number of users of `vaddr`, each of which holds the pages.
    pub(super) vmaps: usize,
    /// The CPU's caches hold no dirty lines of `pages` from before they were mapped for the device.
    pub(super) flushed: bool,
    /// The pages were brought in after the device was gone: CPU mappings are cached.
    pub(super) orphaned: bool,
}

// SAFETY: Pages and mappings belong to no thread.
unsafe impl Send for Backing {}

impl Backing {
    /// Returns page `index`, or [`None`] if the pages are not present or `index` is not below
    /// `count`, which must be the object's number of pages.
    pub(super) fn page(&self, index: usize, count: usize) -> Option<*mut bindings::page> {
        if index >= count {
            return None;
        }
        // SAFETY: By the type invariants, the array has as many entries as the object has pages.
        Some(unsafe { *self.pages?.as_ptr().add(index) })
    }

    /// Returns the frame number of page `index`.
    pub(super) fn pfn(&self, index: usize, count: usize) -> Option<usize> {
        let page = self.page(index, count)?;

        // SAFETY: The page is valid while the pages are present.
        Some(unsafe { bindings::page_to_pfn(page) })
    }

    /// Returns the frame number of page `index` if a block of `1 << order` pages of one folio
    /// begins there.
    pub(super) fn block(&self, index: usize, count: usize, order: u32) -> Option<usize> {
        let pages = 1usize.checked_shl(order)?;
        let page = self.page(index, count)?;
        let last = self.page(index.checked_add(pages - 1)?, count)?;

        // SAFETY: Both pages are valid while the pages are present.
        let (pfn, last, folio) = unsafe {
            (
                bindings::page_to_pfn(page),
                bindings::page_to_pfn(last),
                bindings::page_folio(page),
            )
        };
        // SAFETY: The folio is valid while the pages are present.
        let large = unsafe { bindings::folio_order(folio) } >= order;

        (large && pfn & (pages - 1) == 0 && last == pfn + pages - 1).then_some(pfn)
    }

    /// Adds the pages, of which there are `count`, to the GPU memory statistics (`GPUActive` in
    /// meminfo), or removes them if `sign` is negative.
    ///
    /// Pages of shmem files are counted as shared memory as well.
    pub(super) fn account(&self, count: usize, sign: c_long) {
        let mut index = 0;

        while let Some(page) = self.page(index, count) {
            // SAFETY: The page is valid while the pages are present, and so is its folio.
            let (node, in_folio) = unsafe {
                let folio = bindings::page_folio(page);

                (
                    bindings::page_pgdat(page),
                    1 << bindings::folio_order(folio),
                )
            };
            // The pages of a folio are consecutive, starting with its first.
            let pages = (count - index).min(in_folio);

            // SAFETY: The node of a page is valid.
            unsafe {
                bindings::mod_node_page_state(
                    node,
                    bindings::node_stat_item_NR_GPU_ACTIVE,
                    sign * pages as c_long,
                )
            };
            index += pages;
        }
    }
}
