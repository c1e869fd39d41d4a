// SPDX-License-Identifier: GPL-2.0

//! Buffer objects.
//!
//! A BO is memory with a name in each file that has a handle for it, and an address in each of their
//! address spaces:
//!
//! - [`object`]: the BO itself, its handles, its flags.
//! - [`backing`]: the life of its pages.
//! - [`mapping`]: a BO in an address space; what jobs hold.
//! - [`heap`]: memory that grows while the GPU waits for it, and goes again.
//! - [`reclaim`]: taking the pages of idle BOs away, of which [`shrinker`](crate::shrinker) makes a
//!   policy.
//! - [`shortage`]: whose pages come back first when there are not enough for all.
//! - [`userptr`]: memory of a process, as a BO.
//! - [`prime`]: what may be shared with other drivers.
//! - [`label`]: names for debugging.
//!
//! Pages are in the hands of [`uma`], whose guards decide whether they may go: a mapping has one.
//!
//! Locks, in order: reservation (DRM core calls us with it), a BO's state, a mapping, a heap, then
//! `uma`'s and the address space's. What this module offers to the UAPI sleeps,
//! and needs no lock to be held.

pub(crate) mod backing;
pub(crate) mod heap;
pub(crate) mod label;
pub(crate) mod mapping;
pub(crate) mod object;
mod prime;
pub(crate) mod reclaim;
pub(crate) mod shortage;
pub(crate) mod userptr;

use kernel::{
    drm::gem::uma::{
        self,
        Caching,
        Config, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    uapi, //
};

pub(crate) use backing::Advice;
pub(crate) use label::Label;
pub(crate) use mapping::Mapping;
use object::{
    Args,
    BoData,
    Flags, //
};

use crate::{
    device::{
        Device,
        Gpu, //
    },
    mmu::Vm, //
};
use heap::Heap;

/// A buffer object. Dereferences to [`BoData`].
pub(crate) type Bo = uma::Object<BoData>;

/// Creates a BO of `size` bytes, rounded up to pages, or for heaps to 2 MiB, with flags from user
/// space.
///
/// It has no memory and no address yet: it gets the address, and unless it is a heap the memory,
/// with the first handle.
///
/// `EINVAL`: a size of 0, flags that are unknown or do not go together. `ENOMEM`.
pub(crate) fn create(drm: &Device, gpu: &Gpu<'_>, size: u32, flags: u32) -> Result<ARef<Bo>> {
    let flags = Flags::new(flags)?;
    let mut size = usize::try_from(size).map_err(|_| EOVERFLOW)?;

    if size == 0 {
        return Err(EINVAL);
    }

    let heap = match flags.is_heap() {
        true => {
            size = size
                .checked_next_multiple_of(heap::CHUNK)
                .ok_or(EOVERFLOW)?;
            Some(Heap::new(drm, gpu, size)?)
        }
        false => None,
    };

    let config = Config {
        // Zeroed pages have to be flushed before they are mapped write-combined, which DMA mapping
        // does for devices that are not coherent only.
        caching: match gpu.coherent || flags.is_cached() {
            true => Caching::Cached,
            false => Caching::WriteCombined,
        },
        backed: heap.is_none(),
        parent_resv: None,
    };

    Bo::new(
        drm,
        size,
        config,
        Args {
            flags,
            label: None,
            heap,
            user: None,
        },
    )
}

/// Creates a BO over `size` bytes of the current process from `address` on, with flags from user
/// space (`DRM_GPU_USERPTR_*`). It gets its address in `vm` at once, and is good for its file alone.
///
/// To be called without a guard. The errors are those of [`userptr`].
pub(crate) fn create_user(
    drm: &Device,
    vm: &Arc<Vm>,
    address: u64,
    size: u64,
    flags: u32,
) -> Result<ARef<Bo>> {
    let memory = userptr::prepare(drm, vm, address, size, flags)?;
    let size = usize::try_from(size)?;

    Bo::new(
        drm,
        size,
        Config {
            caching: Caching::Cached,
            backed: false,
            parent_resv: None,
        },
        Args {
            flags: Flags::USER,
            label: None,
            heap: None,
            user: Some(memory),
        },
    )
}

/// The mapping of `bo` in `vm`, if the file has a handle.
pub(crate) fn mapping(bo: &Bo, vm: &Arc<Vm>) -> Option<Arc<Mapping>> {
    bo.mapping(vm)
}

/// Takes advice about the content of `bo`. Returns whether the content is still there.
///
/// `EINVAL`: [`Advice::DontNeed`] for a BO with more than one handle.
pub(crate) fn madvise(bo: &Bo, vm: &Arc<Vm>, advice: Advice) -> Result<bool> {
    BoData::take_advice(bo, vm, advice)
}

/// Makes what the CPU's caches hold of a part of `bo` visible to the GPU; `kind` is one of
/// `PANFROST_BO_SYNC_*`. Does nothing for BOs that are not mapped cached.
///
/// `EINVAL`: a range outside of the BO, an imported BO, an unknown kind.
pub(crate) fn sync(bo: &Bo, gpu: &Gpu<'_>, kind: u32, offset: u32, size: u32) -> Result {
    let invalidate = match kind {
        uapi::PANFROST_BO_SYNC_CPU_CACHE_FLUSH => false,
        uapi::PANFROST_BO_SYNC_CPU_CACHE_FLUSH_AND_INVALIDATE => true,
        _ => return Err(EINVAL),
    };

    // The UAPI's arithmetic is that of 32 bits.
    offset.checked_add(size).ok_or(EINVAL)?;
    if let Some(mapping) = bo.user_mapping() {
        return mapping.sync(offset as usize, size as usize, invalidate);
    }
    bo.sync(gpu.dev(), offset as usize, size as usize, invalidate)
}

/// What QUERY_BO_INFO says of `bo`: the flags of its creation, and the extra flags.
pub(crate) fn query(bo: &Bo) -> (u32, u32) {
    if bo.is_imported() {
        return (0, uapi::DRM_PANFROST_BO_IS_IMPORTED);
    }

    let flags = bo.flags();
    let mut create = 0;

    if !flags.is_executable() {
        create |= uapi::PANFROST_BO_NOEXEC;
    }
    if flags.is_heap() {
        create |= uapi::PANFROST_BO_HEAP;
    }
    // What the mapping is, whatever was asked for.
    if bo.caching() == Caching::Cached {
        create |= uapi::PANFROST_BO_WB_MMAP;
    }
    (create, 0)
}
