// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The dma-buf of an object, like that of PRIME but with cache maintenance.
//!
//! PRIME leaves that to the exporter in two places: the mapping of the pages for a driver that
//! attaches is made and undone without cache maintenance, and bracketing CPU accesses
//! (`DMA_BUF_IOCTL_SYNC`) has no effect unless the exporter implements it.
//!
//! Locks: the reservation lock, which also protects the list of attachments, then that of the
//! pages.
//!
//! Process context. The callbacks sleep. Beginning a CPU access waits for fences, with no lock
//! held.

use super::{
    base::Base,
    Caching, //
};
use crate::{
    bindings,
    dma::DataDirection,
    dma_buf::resv::{
        Resv,
        Usage, //
    },
    error::to_result,
    prelude::*,
    time::Jiffies, //
};
use core::{
    mem::offset_of,
    ptr, //
};

/// The operations of the dma-buf of an object of this class.
static DMA_BUF_OPS: bindings::dma_buf_ops = bindings::dma_buf_ops {
    attach: Some(bindings::drm_gem_map_attach),
    detach: Some(bindings::drm_gem_map_detach),
    map_dma_buf: Some(map_dma_buf),
    unmap_dma_buf: Some(unmap_dma_buf),
    release: Some(bindings::drm_gem_dmabuf_release),
    mmap: Some(bindings::drm_gem_dmabuf_mmap),
    vmap: Some(bindings::drm_gem_dmabuf_vmap),
    vunmap: Some(bindings::drm_gem_dmabuf_vunmap),
    begin_cpu_access: Some(begin_cpu_access),
    end_cpu_access: Some(end_cpu_access),
    ..pin_init::zeroed()
};

impl Base {
    /// Creates a dma-buf for the object. Returns an error pointer if that fails.
    pub(super) fn export(&self, flags: c_int) -> *mut bindings::dma_buf {
        let obj = self.obj.get();

        // SAFETY: By the type invariants the object is initialised, and its device valid. The
        // dma-buf gets a reference to the object.
        unsafe {
            let dev = (*obj).dev;
            let mut info = bindings::dma_buf_export_info {
                exp_name: (*(*dev).driver).name,
                owner: (*(*(*dev).driver).fops).owner,
                ops: &raw const DMA_BUF_OPS,
                size: (*obj).size,
                flags,
                resv: (*obj).resv,
                priv_: obj.cast(),
            };

            bindings::drm_gem_dmabuf_export(dev, &mut info)
        }
    }
}

/// Returns the object of `dev` that `dma_buf` was exported from, if there is one.
///
/// # Safety
///
/// `dma_buf` must be valid.
pub(super) unsafe fn exported_by(
    dev: *mut bindings::drm_device,
    dma_buf: *mut bindings::dma_buf,
) -> Option<*mut bindings::drm_gem_object> {
    // SAFETY: By the safety requirements. A dma-buf with these operations has a GEM object.
    unsafe {
        if !ptr::eq((*dma_buf).ops, &raw const DMA_BUF_OPS) {
            return None;
        }
        let obj: *mut bindings::drm_gem_object = (*dma_buf).priv_.cast();

        ((*obj).dev == dev).then_some(obj)
    }
}

/// # Safety
///
/// `attach` must be valid and of a dma-buf with these operations, whose reservation is locked.
unsafe extern "C" fn map_dma_buf(
    attach: *mut bindings::dma_buf_attachment,
    dir: bindings::dma_data_direction,
) -> *mut bindings::sg_table {
    // SAFETY: By the safety requirements.
    let sgt = unsafe { bindings::drm_gem_map_dma_buf(attach, dir) };

    // SAFETY: No preconditions.
    if !unsafe { bindings::IS_ERR(sgt.cast()) } {
        // The importer's device must see what the CPU has written. Even without writes of user
        // space, the CPU writes pages that are swapped in.
        //
        // SAFETY: The table was just mapped for this device, in this direction.
        unsafe {
            (*attach).priv_ = sgt.cast();
            bindings::dma_sync_sgtable_for_device((*attach).dev, sgt, dir);
        }
    }
    sgt
}

/// # Safety
///
/// As for [`map_dma_buf()`]. `sgt` must be the table that it returned.
unsafe extern "C" fn unmap_dma_buf(
    attach: *mut bindings::dma_buf_attachment,
    sgt: *mut bindings::sg_table,
    dir: bindings::dma_data_direction,
) {
    // SAFETY: By the safety requirements, the dma-buf was exported from the object of a `Base`, to
    // which it has a reference.
    let base = unsafe { Base::from_raw((*(*attach).dmabuf).priv_.cast()) };

    // From here on the CPU must see what the importer's device has written, and not what its caches
    // have from before: it may read the pages to swap them out. Its own writes to pages that user
    // space maps cached are kept.
    //
    // SAFETY: By the safety requirements; the table is mapped for this device, in this direction.
    unsafe {
        (*attach).priv_ = ptr::null_mut();
        if base.caching == Caching::Cached {
            let to_device = DataDirection::ToDevice.into();

            bindings::dma_sync_sgtable_for_device((*attach).dev, sgt, to_device);
        }
        bindings::dma_sync_sgtable_for_cpu((*attach).dev, sgt, dir);
        bindings::drm_gem_unmap_dma_buf(attach, sgt, dir);
    }
}

/// Calls `f` for each mapping of the pages for a device, with the device and the table.
///
/// # Safety
///
/// `dma_buf` must be valid and have these operations.
unsafe fn for_each_mapping(
    dma_buf: *mut bindings::dma_buf,
    f: impl Fn(*mut bindings::device, *mut bindings::sg_table),
) -> Result {
    // SAFETY: By the safety requirements it was exported from the object of a `Base`, to which it
    // has a reference.
    let (base, resv) = unsafe {
        let obj: *mut bindings::drm_gem_object = (*dma_buf).priv_.cast();

        (Base::from_raw(obj), (*obj).resv)
    };

    // SAFETY: The object keeps the reservation alive. No context is used.
    to_result(unsafe { bindings::dma_resv_lock(resv, ptr::null_mut()) })?;

    base.with_table(&f);

    // SAFETY: The list is valid, and does not change while the reservation is locked.
    unsafe {
        let head = &raw mut (*dma_buf).attachments;
        let mut node = (*head).next;

        while !ptr::eq(node, head) {
            let attach: *mut bindings::dma_buf_attachment = node
                .wrapping_byte_sub(offset_of!(bindings::dma_buf_attachment, node))
                .cast();
            let sgt: *mut bindings::sg_table = (*attach).priv_.cast();

            if !sgt.is_null() {
                f((*attach).dev, sgt);
            }
            node = (*node).next;
        }
    }

    // SAFETY: Locked above.
    unsafe { bindings::dma_resv_unlock(resv) };
    Ok(())
}

/// # Safety
///
/// `dma_buf` must be valid and have these operations.
unsafe extern "C" fn begin_cpu_access(
    dma_buf: *mut bindings::dma_buf,
    dir: bindings::dma_data_direction,
) -> c_int {
    // The core waits for the device only after this. Lines that the CPU fetched before the device
    // has written them would be stale.
    let write = dir != bindings::dma_data_direction::DMA_FROM_DEVICE;
    // SAFETY: The dma-buf is valid, and so is its reservation.
    let resv = unsafe { Resv::from_raw((*dma_buf).resv) };
    let ret = resv
        .wait_timeout(Usage::implicit(write), Jiffies::MAX)
        // SAFETY: By the safety requirements. Each table is mapped for the device.
        .and_then(|_| unsafe {
            for_each_mapping(dma_buf, |dev, sgt| {
                bindings::dma_sync_sgtable_for_cpu(dev, sgt, dir)
            })
        });

    ret.map_or_else(|err| err.to_errno(), |()| 0)
}

/// # Safety
///
/// As for [`begin_cpu_access()`].
unsafe extern "C" fn end_cpu_access(
    dma_buf: *mut bindings::dma_buf,
    dir: bindings::dma_data_direction,
) -> c_int {
    // SAFETY: As in `begin_cpu_access()`.
    let ret = unsafe {
        for_each_mapping(dma_buf, |dev, sgt| {
            bindings::dma_sync_sgtable_for_device(dev, sgt, dir)
        })
    };

    ret.map_or_else(|err| err.to_errno(), |()| 0)
}
