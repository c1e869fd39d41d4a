// SPDX-License-Identifier: GPL-2.0 OR MIT

//! CPU mappings by user space.
//!
//! The pages of a mapping are inserted by frame number, without a reference: before pages are taken
//! away, the mappings are zapped, under the lock of the backing, which is also held here while a
//! page is inserted. A fault that finds no pages brings them in.
//!
//! Lock order: mmap lock or VMA lock, then the backing, then shmem's and the page tables' locks.
//! When the lock of the backing is contended or pages have to be brought in, the fault lock is
//! dropped if the caller permits that, so that other faults of the process do not wait for reclaim.
//! It is also dropped while a fault waits after an allocation has failed.

use super::{
    backing::Backing,
    base::Base, //
};
use crate::{
    bindings,
    page::{
        PAGE_MASK,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// The number of pages that one fault maps if they are present: 64 KiB, like the default of the
/// page cache.
const FAULT_AROUND: usize = 65536 / PAGE_SIZE;

/// The pause before an access that found no memory is retried, in milliseconds.
const RETRY_MS: i64 = 10;

const NOPAGE: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_NOPAGE;
const RETRY: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_RETRY;
const SIGBUS: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_SIGBUS;
const FALLBACK: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_FALLBACK;

/// The operations of a VMA that maps an object of this class.
pub(super) const VM_OPS: &bindings::vm_operations_struct = &bindings::vm_operations_struct {
    open: Some(bindings::drm_gem_vm_open),
    close: Some(bindings::drm_gem_vm_close),
    fault: Some(fault),
    #[cfg(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP)]
    huge_fault: Some(huge_fault),
    ..pin_init::zeroed()
};

impl Base {
    /// Returns the page offset of the object in the fake offset space.
    fn mmap_start(&self) -> usize {
        // SAFETY: By the type invariants, the object is initialized.
        unsafe { bindings::drm_vma_node_start(&raw const (*self.obj.get()).vma_node) }
    }

    /// Sets up a mapping in user space.
    ///
    /// # Safety
    ///
    /// `vma` must be a valid VMA that is being set up for this object.
    pub(super) unsafe fn mmap(&self, vma: *mut bindings::vm_area_struct) -> Result {
        // SAFETY: `vma` is valid.
        let (cow, offset, pages) = unsafe {
            (
                bindings::vma_is_cow_mapping(vma),
                (*vma).vm_pgoff,
                bindings::vma_pages(vma),
            )
        };

        let end = offset
            .checked_sub(self.mmap_start())
            .and_then(|first| first.checked_add(pages))
            .ok_or(EINVAL)?;

        // SAFETY: The object is initialized by the type invariants.
        if cow || end > self.count() || unsafe { (*self.obj.get()).filp }.is_null() {
            return Err(EINVAL);
        }

        let flags = bindings::VM_PFNMAP | bindings::VM_DONTEXPAND | bindings::VM_DONTDUMP;

        // SAFETY: `vma` is valid and being set up, hence locked for writing.
        unsafe {
            bindings::vm_flags_set(vma, flags);

            let prot = bindings::vma_get_page_prot(vma);
            (*vma).vm_page_prot = match self.caching {
                super::Caching::Cached => prot,
                super::Caching::WriteCombined => bindings::pgprot_writecombine(prot),
            };
        }

        Ok(())
    }

    /// Maps an imported buffer, through its exporter.
    ///
    /// # Safety
    ///
    /// `vma` must be a valid VMA that is being set up for this object, which must be imported.
    pub(super) unsafe fn mmap_imported(&self, vma: *mut bindings::vm_area_struct) -> c_int {
        let obj = self.obj.get();

        // SAFETY: `vma` is valid. The attachment of an imported object lives as long as the object.
        let ret = unsafe {
            // The exporter may leave these unset, and ours would be wrong.
            (*vma).vm_private_data = core::ptr::null_mut();
            (*vma).vm_ops = core::ptr::null();

            bindings::dma_buf_mmap((*(*obj).import_attach).dmabuf, vma, 0)
        };

        if ret == 0 {
            // SAFETY: The exporter's mapping does not need the reference that DRM took for ours.
            unsafe { bindings::drm_gem_object_put(obj) };
        }

        ret
    }
}

/// Inserts a block of pages as one entry, on architectures that support it.
///
/// # Safety
///
/// `vmf` must be a fault on a VMA that contains the block of the page `pfn`. The pages must stay
/// valid until they are removed from the VMA.
unsafe fn insert_block(
    vmf: *mut bindings::vm_fault,
    pfn: usize,
    write: bool,
) -> bindings::vm_fault_t {
    #[cfg(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP)]
    // SAFETY: By the safety requirements.
    let ret = unsafe { bindings::vmf_insert_pfn_pmd(vmf, pfn, write) };
    #[cfg(not(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP))]
    let (ret, _) = (FALLBACK, (vmf, pfn, write));

    ret
}

/// Inserts the pages for a fault.
///
/// # Safety
///
/// `vmf` must be a fault on a mapping of `base`, whose page `index` is below the number of pages.
/// `backing` must be ready for CPU mappings.
unsafe fn insert(
    vmf: *mut bindings::vm_fault,
    order: u32,
    base: &Base,
    backing: &Backing,
    index: usize,
) -> bindings::vm_fault_t {
    let count = base.count();

    // SAFETY: `vmf` and its VMA are valid.
    let (vma, address, flags) = unsafe {
        (
            (*vmf).__bindgen_anon_1.vma,
            (*vmf).__bindgen_anon_1.address & PAGE_MASK,
            (*vmf).flags,
        )
    };

    // SAFETY: As above.
    let (start, end) = unsafe {
        let bounds = &(*vma).__bindgen_anon_1.__bindgen_anon_1;
        (bounds.vm_start, bounds.vm_end)
    };

    if order != 0 {
        let size = PAGE_SIZE << order;
        let block = address & !(size - 1);
        let Some(first) = index.checked_sub((address - block) >> PAGE_SHIFT) else {
            return FALLBACK;
        };

        // The protection of a large mapping is that of the VMA.
        let fits = start <= block && end - block >= size;
        let same_prot =
            base.is_write_combined(backing) == (base.caching == super::Caching::WriteCombined);

        return match backing.block(first, count, order) {
            Some(pfn) if fits && same_prot => {
                let write = flags & bindings::fault_flag_FAULT_FLAG_WRITE != 0;

                // SAFETY: `vmf` is valid; the block stays valid as long as the backing is locked.
                unsafe { insert_block(vmf, pfn, write) }
            }
            _ => FALLBACK,
        };
    }

    // SAFETY: `vma` is valid.
    let prot = unsafe {
        if base.is_write_combined(backing) == (base.caching == super::Caching::WriteCombined) {
            (*vma).vm_page_prot
        } else {
            bindings::vma_get_page_prot(vma)
        }
    };

    let around = FAULT_AROUND.min((end - address) >> PAGE_SHIFT).max(1);
    let mut ret = SIGBUS;

    for i in 0..around {
        let Some(pfn) = backing.pfn(index + i, count) else {
            break;
        };

        // SAFETY: The address is within the VMA, and the page stays valid as long as the backing is
        // locked.
        let one =
            unsafe { bindings::vmf_insert_pfn_prot(vma, address + (i << PAGE_SHIFT), pfn, prot) };

        // The fault is for the first page; the others are optional.
        if i == 0 {
            ret = one;
        }
        if one != NOPAGE {
            break;
        }
    }

    ret
}

/// Handles a fault for `1 << order` pages.
///
/// # Safety
///
/// `vmf` must be a fault on a mapping of an object of this class.
unsafe fn any_fault(vmf: *mut bindings::vm_fault, order: u32) -> bindings::vm_fault_t {
    // SAFETY: `vmf` is valid, and so is the object: the VMA has a reference to it.
    let (pgoff, flags, obj) = unsafe {
        let vmf = &*vmf;
        let obj: *mut bindings::drm_gem_object = (*vmf.__bindgen_anon_1.vma).vm_private_data.cast();
        (vmf.__bindgen_anon_1.pgoff, vmf.flags, obj)
    };

    // SAFETY: The object is one of this class by the safety requirements.
    let base = unsafe { Base::from_raw(obj) };

    let index = match pgoff.checked_sub(base.mmap_start()) {
        Some(index) if index < base.count() => index,
        _ => return SIGBUS,
    };

    if let Some(backing) = base.backing.try_lock() {
        if base.is_cpu_ready(&backing) {
            // SAFETY: By the safety requirements and the checks above.
            return unsafe { insert(vmf, order, base, &backing, index) };
        }
    }

    // SAFETY: No preconditions.
    if unsafe { bindings::fault_flag_allow_retry_first(flags) } {
        if flags & bindings::fault_flag_FAULT_FLAG_RETRY_NOWAIT != 0 {
            return RETRY;
        }

        // Once the lock is released, the VMA may go away, with its references to the object and to
        // the file. The file pins the driver's module, whose code frees the object.
        //
        // SAFETY: The VMA is valid until the lock is released, and has a file, as it maps an
        // object. The object is valid. The fault lock is held; returning `RETRY` says that it was
        // released.
        let file = unsafe {
            let file = bindings::get_file((*(*vmf).__bindgen_anon_1.vma).vm_file);
            bindings::drm_gem_object_get(obj);
            bindings::release_fault_lock(vmf);
            file
        };

        // If this fails, the retry fails as well and reports the error. It cannot sleep without the
        // fault lock, though, so wait for memory here.
        let prepared = base.prepare_cpu(&mut base.backing.lock());

        if prepared == Err(ENOMEM) {
            fsleep(Delta::from_millis(RETRY_MS));
        }

        // SAFETY: We took these references. That of the file is dropped last. `vmf` is not used any
        // more.
        unsafe {
            bindings::drm_gem_object_put(obj);
            bindings::fput(file);
        }
        return RETRY;
    }

    let mut backing = base.backing.lock();
    match base.prepare_cpu(&mut backing) {
        // SAFETY: By the safety requirements and the checks above.
        Ok(()) => unsafe { insert(vmf, order, base, &backing, index) },
        // The content is not lost: retry the access until there is memory, or the process is
        // killed. `VM_FAULT_OOM` would invoke the OOM killer at once, and fail the kernel's own
        // accesses with `EFAULT`.
        Err(ENOMEM) => NOPAGE,
        Err(_) => SIGBUS,
    }
}

/// # Safety
///
/// `vmf` must be a fault on a mapping of an object of this class.
unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By the safety requirements.
    unsafe { any_fault(vmf, 0) }
}

/// # Safety
///
/// `vmf` must be a fault on a mapping of an object of this class.
#[cfg(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP)]
unsafe extern "C" fn huge_fault(
    vmf: *mut bindings::vm_fault,
    order: c_uint,
) -> bindings::vm_fault_t {
    // SAFETY: Always safe to call.
    if order != unsafe { bindings::pmd_order() } {
        return FALLBACK;
    }

    // SAFETY: By the safety requirements.
    unsafe { any_fault(vmf, order) }
}
