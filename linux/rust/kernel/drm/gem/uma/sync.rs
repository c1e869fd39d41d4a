// SPDX-License-Identifier: GPL-2.0 OR MIT

//! CPU cache maintenance, for devices that are not coherent.
//!
//! Owns nothing. Lock: that of the object's pages, which keeps their table from going away while it
//! is used. Process context; may sleep.

use super::base::Base;
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
    scatterlist::SGTable, //
};
use core::ops::Range;

/// Calls `f` with the address and the length of each part of a segment of `table` that is in
/// `range`, which is in bytes from the beginning of the first segment.
pub(super) fn for_each_part(
    table: &SGTable,
    range: Range<usize>,
    mut f: impl FnMut(DmaAddress, usize),
) {
    let mut at = 0;

    for entry in table.iter() {
        // CAST: Lengths of memory segments fit.
        let len = entry.dma_len() as usize;
        let from = range.start.clamp(at, at + len) - at;
        let to = range.end.clamp(at, at + len) - at;

        if from != to {
            f(entry.dma_address() + from as DmaAddress, to - from);
        }
        at += len;
        if at >= range.end {
            break;
        }
    }
}

impl Base {
    /// Writes back the CPU's cache lines of the bytes in `range`, and drops them if `invalidate`.
    ///
    /// `range` must be within the object, which must not be imported.
    pub(super) fn sync(&self, dev: &Device<Bound>, range: Range<usize>, invalidate: bool) {
        let backing = self.backing.lock();

        // Pages that were not mapped for the device yet are flushed when they are.
        let Some(sgt) = backing.dma.as_ref().and_then(|dma| dma.sgt()) else {
            return;
        };

        // SAFETY: The table stays mapped as long as `backing` is locked and `dev` bound.
        let table = unsafe { SGTable::from_raw(sgt) };

        for_each_part(table, range, |address, len| {
            // SAFETY: This is part of a segment that is mapped for `dev`, both directions.
            unsafe {
                bindings::dma_sync_single_for_device(
                    dev.as_raw(),
                    address,
                    len,
                    DataDirection::ToDevice.into(),
                );
                if invalidate {
                    bindings::dma_sync_single_for_cpu(
                        dev.as_raw(),
                        address,
                        len,
                        DataDirection::FromDevice.into(),
                    );
                }
            }
        });
    }

    /// Calls `f` with the table that is mapped for the device, if there is one and the device is
    /// bound.
    pub(super) fn with_table(
        &self,
        f: impl FnOnce(*mut bindings::device, *mut bindings::sg_table),
    ) {
        let backing = self.backing.lock();

        if let Some(sgt) = backing.dma.as_ref().and_then(|dma| dma.sgt()) {
            // Without a device there is nothing to synchronise with.
            let _ = self.with_bound(|dev| {
                f(dev.as_raw(), sgt);
                Ok(())
            });
        }
    }
}
