// SPDX-License-Identifier: GPL-2.0

//! Reading the content of buffers, for dumps of the device's state.
//!
//! What is copied is what the device sees. The device and user space may write meanwhile, so a copy
//! can be a mixture of old and new content.

use super::{
    chunk::{
        Block,
        Chunks, //
    },
    Caching,
    Object,
    ObjectOps, //
};
use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::DataDirection,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};
use core::mem;

/// Copies the beginning of a page, as much as `out` has room for. Returns the physical address.
///
/// # Safety
///
/// The page must be valid.
unsafe fn copy_page(page: *mut bindings::page, out: &mut [u8]) -> u64 {
    // SAFETY: By the safety requirements, and `out` has room for `len` bytes, which are no more
    // than a page has. C copies, since the memory may change meanwhile.
    unsafe {
        bindings::memcpy_from_page(out.as_mut_ptr().cast(), page, 0, out.len().min(PAGE_SIZE));
        (bindings::page_to_pfn(page) as u64) << PAGE_SHIFT
    }
}

impl<T: ObjectOps> Object<T> {
    /// Copies the content from the beginning on, as much as `out` has room for, if the pages are
    /// present. Calls `f` with the number and the physical address of each page. Returns whether
    /// the pages are present.
    ///
    /// Does not bring the pages in. Sleeps: waits for others who do.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `out` is larger than the object, the object is imported, or `dev` is not the
    /// parent device.
    pub fn read(
        &self,
        dev: &Device<Bound>,
        out: &mut [u8],
        mut f: impl FnMut(usize, u64),
    ) -> Result<bool> {
        let count = self.base.count();

        if out.len() > count << PAGE_SHIFT || self.is_imported() || !self.base.space.is_for(dev) {
            return Err(EINVAL);
        }

        let backing = self.base.backing.lock();

        if let Some(sgt) = backing.dma.as_ref().and_then(|dma| dma.sgt()) {
            // What user space has written through a cached mapping must not be lost.
            if self.base.caching == Caching::Cached {
                // SAFETY: The table stays mapped for `dev`, for both directions, as long as
                // `backing` is locked and `dev` bound.
                unsafe {
                    bindings::dma_sync_sgtable_for_device(
                        dev.as_raw(),
                        sgt,
                        DataDirection::ToDevice.into(),
                    )
                };
            }
            // SAFETY: As above.
            unsafe {
                bindings::dma_sync_sgtable_for_cpu(
                    dev.as_raw(),
                    sgt,
                    DataDirection::FromDevice.into(),
                )
            };
        }
        for (index, part) in out.chunks_mut(PAGE_SIZE).enumerate() {
            let Some(page) = backing.page(index, count) else {
                return Ok(false);
            };

            // SAFETY: The page is valid while the pages are present.
            f(index, unsafe { copy_page(page, part) });
        }
        Ok(backing.pages.is_some())
    }
}

impl Block {
    /// Copies the content. `out` must have the length of the block. Calls `f` with the physical
    /// address of each page.
    ///
    /// # Safety
    ///
    /// `dev` must be the device that the block is mapped for.
    unsafe fn read(&self, dev: &Device<Bound>, out: &mut [u8], mut f: impl FnMut(u64)) {
        // SAFETY: By the safety requirements and the type invariants.
        unsafe {
            bindings::dma_sync_single_for_cpu(
                dev.as_raw(),
                self.dma,
                self.len(),
                DataDirection::FromDevice.into(),
            )
        };
        for (index, part) in out.chunks_mut(PAGE_SIZE).take(self.pages()).enumerate() {
            // SAFETY: By the type invariants, there are that many pages, whose descriptors follow
            // each other.
            f(unsafe { copy_page(self.page.as_ptr().add(index), part) });
        }
    }
}

impl Chunks {
    /// Copies the content of the chunk in entry `index`. Calls `f` with the number within the chunk
    /// and the physical address of each page. Returns whether there is a chunk. Does not sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` unless `out` has the size of a chunk.
    pub fn read(
        &self,
        dev: &Device<Bound>,
        index: usize,
        mut out: &mut [u8],
        mut f: impl FnMut(usize, u64),
    ) -> Result<bool> {
        let Some(chunk) = self.get(dev, index) else {
            return Ok(false);
        };
        let mut number = 0;

        for block in chunk.blocks() {
            let (part, rest) = mem::take(&mut out)
                .split_at_mut_checked(block.len())
                .ok_or(EINVAL)?;

            // SAFETY: `get()` has checked that the chunk is of this device.
            unsafe {
                block.read(dev, part, |address| {
                    f(number, address);
                    number += 1;
                })
            };
            out = rest;
        }
        match out.is_empty() {
            true => Ok(true),
            false => Err(EINVAL),
        }
    }
}
