// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Reading the content of buffers, for dumps of the device's state.
//!
//! A copy has the content that the device sees, except for objects whose CPU mappings are cached:
//! of these, it has what the CPU sees. Reading is no reason to write back or drop cache lines that
//! user space is about to use. The device and user space may write meanwhile, so a copy can be a
//! mixture of old and new content.
//!
//! Locks: [`Object::read`] takes that of the object's pages, and sleeps. [`Chunks::read`] takes
//! none and does not sleep. Process context.

use super::{
    chunk::{
        Block,
        Chunks, //
    },
    sync::for_each_part,
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
    dma::{
        DataDirection,
        DmaAddress, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    scatterlist::SGTable, //
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
    /// Copies the content from page `first` on, as much as `out` has room for, if the pages are
    /// present. Calls `f` with the number, which is 0 for page `first`, and the physical address of
    /// each page. Returns whether the pages are present.
    ///
    /// Does not bring the pages in. Sleeps: waits for others who do, and they wait until all is
    /// copied. So large objects are read in parts.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `out` ends behind the object, the object is imported, or `dev` is not the parent
    /// device.
    pub fn read(
        &self,
        dev: &Device<Bound>,
        first: usize,
        out: &mut [u8],
        mut f: impl FnMut(usize, u64),
    ) -> Result<bool> {
        let count = self.base.count();
        let size = count.checked_sub(first).ok_or(EINVAL)? << PAGE_SHIFT;

        if out.len() > size || self.is_imported() || !self.base.space.is_for(dev) {
            return Err(EINVAL);
        }

        let backing = self.base.backing.lock();
        let start = first << PAGE_SHIFT;
        let sgt = backing.dma.as_ref().and_then(|dma| dma.sgt());

        // If CPU mappings are cached, the caches may have what user space has just written.
        if let Some(sgt) = sgt.filter(|_| self.base.caching != Caching::Cached) {
            // SAFETY: The table stays mapped as long as `backing` is locked and `dev` bound.
            let table = unsafe { SGTable::from_raw(sgt) };

            for_each_part(table, start..start + out.len(), |address, len| {
                // Pages that follow each other for the device need not do so in memory.
                for offset in (0..len).step_by(PAGE_SIZE) {
                    // SAFETY: This is part of a segment that is mapped for `dev`, both directions.
                    unsafe {
                        bindings::dma_sync_single_for_cpu(
                            dev.as_raw(),
                            address + offset as DmaAddress,
                            PAGE_SIZE.min(len - offset),
                            DataDirection::FromDevice.into(),
                        )
                    };
                }
            });
        }
        for (index, part) in out.chunks_mut(PAGE_SIZE).enumerate() {
            let Some(page) = backing.page(first + index, count) else {
                return Ok(false);
            };

            // SAFETY: The page is valid while the pages are present.
            f(index, unsafe { copy_page(page, part) });
        }
        Ok(backing.pages.is_some())
    }
}

impl Block {
    /// Copies the content from page `first` on. Calls `f` with the physical address of each page.
    ///
    /// # Safety
    ///
    /// `dev` must be the device that the block is mapped for, and `out` must not end behind the
    /// block.
    unsafe fn read(
        &self,
        dev: &Device<Bound>,
        first: usize,
        out: &mut [u8],
        mut f: impl FnMut(u64),
    ) {
        // SAFETY: By the safety requirements and the type invariants.
        unsafe {
            bindings::dma_sync_single_for_cpu(
                dev.as_raw(),
                self.dma + (first << PAGE_SHIFT) as DmaAddress,
                out.len(),
                DataDirection::FromDevice.into(),
            )
        };
        for (index, part) in out.chunks_mut(PAGE_SIZE).enumerate() {
            // SAFETY: By the safety requirements and the type invariants, there are that many
            // pages, whose descriptors follow each other.
            f(unsafe { copy_page(self.page.as_ptr().add(first + index), part) });
        }
    }
}

impl Chunks {
    /// Copies the content of the chunk in entry `index`, from its page `first` on, as much as `out`
    /// has room for. Calls `f` with the number, which is 0 for page `first`, and the physical
    /// address of each page. Returns whether there is a chunk. Does not sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL` if `out` ends behind the chunk.
    pub fn read(
        &self,
        dev: &Device<Bound>,
        index: usize,
        first: usize,
        mut out: &mut [u8],
        mut f: impl FnMut(usize, u64),
    ) -> Result<bool> {
        let Some(chunk) = self.get(dev, index) else {
            return Ok(false);
        };
        let mut number = 0;
        // The number of pages before those to copy, from the beginning of the block on.
        let mut skip = first;

        for block in chunk.blocks() {
            if out.is_empty() {
                break;
            }
            if skip >= block.pages() {
                skip -= block.pages();
                continue;
            }
            let len = out.len().min((block.pages() - skip) << PAGE_SHIFT);
            let (part, rest) = mem::take(&mut out)
                .split_at_mut_checked(len)
                .ok_or(EINVAL)?;

            // SAFETY: `get()` has checked that the chunk is of this device. `part` ends no later
            // than the block.
            unsafe {
                block.read(dev, skip, part, |address| {
                    f(number, address);
                    number += 1;
                })
            };
            out = rest;
            skip = 0;
        }
        match out.is_empty() {
            true => Ok(true),
            false => Err(EINVAL),
        }
    }
}
