// SPDX-License-Identifier: GPL-2.0

//! Buffer objects.
//!
//! A BO is memory that has a handle in each file that uses it, and an address in each address space
//! that it is mapped in:
//!
//! - [`object`]: the BO itself, its flags.
//! - [`handles`]: the files that have handles for a BO, and their mappings.
//! - [`backing`]: the states of its pages.
//! - [`mod@mapping`]: a BO in an address space. Jobs hold these.
//! - [`heap`]: memory that grows when the GPU touches it, and is given back when it is unused.
//! - [`private`]: the jobs that use a BO, as long as it has a single user.
//! - [`residency`]: the memory of an address space, and the mappings that reclaim has evicted.
//! - [`reclaim`]: taking pages from idle BOs. The [`shrinker`](crate::shrinker) decides from which.
//! - [`shortage`]: the order in which submissions get memory when there is not enough for all.
//! - [`userptr`]: BOs made of the memory of a process.
//! - [`prime`]: the rules for sharing BOs with other drivers.
//! - [`label`]: names of BOs, for debugging.
//! - [`metadata`]: data that user space keeps with a BO.
//!
//! [`uma`] manages the pages. They cannot be taken from a BO while one of its guards
//! ([`uma::Pinned`]) exists; each mapping that has pages holds one.
//!
//! Locks, in order: the reservation, a BO's state, a mapping, a heap, then those of `uma` and of
//! the address space. The lock of the last uses ([`private`]) is a leaf. The functions offered to
//! the UAPI may sleep, and are called with no lock held.

pub(crate) mod backing;
mod handles;
pub(crate) mod heap;
pub(crate) mod label;
pub(crate) mod mapping;
pub(crate) mod metadata;
pub(crate) mod object;
mod prime;
pub(crate) mod private;
pub(crate) mod reclaim;
mod residency;
pub(crate) mod shortage;
pub(crate) mod userptr;

use kernel::{
    dma_buf::{
        resv::Usage,
        Waited, //
    },
    drm::gem::{
        uma::{
            self,
            Caching,
            Config, //
        },
        BaseObject,
        Objects, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    time::Jiffies, //
};

pub(crate) use backing::Advice;
pub(crate) use label::Label;
pub(crate) use mapping::Mapping;
pub(crate) use metadata::Metadata;
pub(crate) use object::Flags;
use object::{
    Args,
    BoData, //
};

use crate::{
    device::{
        Device,
        Gpu, //
    },
    mmu, //
};
use heap::Heap;
use residency::Residency;

pub(crate) use residency::{
    new_vm,
    CancelJobs, //
};

/// The address space of a file, together with its memory.
pub(crate) type Vm = mmu::Vm<Residency>;

/// A buffer object. Dereferences to [`BoData`].
pub(crate) type Bo = uma::Object<BoData>;

/// Creates a BO of `size` bytes, rounded up to pages, or for heaps to 2 MiB.
///
/// The BO has neither memory nor an address yet. When it is mapped, it gets an address and, unless
/// it is a heap, its memory.
///
/// Errors: `EINVAL` for a size of 0 or flags that exclude each other, `ENOMEM`.
pub(crate) fn create(drm: &Device, gpu: &Gpu<'_>, size: u32, flags: Flags) -> Result<ARef<Bo>> {
    flags.check()?;

    let mut size = usize::try_from(size).map_err(|_| EOVERFLOW)?;

    if size == 0 {
        return Err(EINVAL);
    }

    let heap = match flags.heap {
        true => {
            size = size
                .checked_next_multiple_of(heap::CHUNK)
                .ok_or(EOVERFLOW)?;
            Some(Heap::new(drm, gpu, size)?)
        }
        false => None,
    };

    let config = Config {
        // Zeroed pages have to be flushed from the CPU's caches before they are mapped
        // write-combined. DMA mapping does that only for devices that are not coherent.
        caching: match gpu.coherent || flags.cached {
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
            imported: false,
        },
    )
}

/// Creates a BO from `size` bytes at `address` in the current process. The GPU may write to them if
/// they are `writable`. The BO gets its address in `vm` at once, and only the file of `vm` can use
/// it.
///
/// Must not be called from within [`with_gpu`](crate::device::with_gpu), as it waits for user
/// space. For the errors, see [`userptr::prepare`].
pub(crate) fn create_user(
    drm: &Device,
    vm: &Arc<Vm>,
    address: u64,
    size: u64,
    writable: bool,
) -> Result<ARef<Bo>> {
    let memory = userptr::prepare(drm, vm, address, size, writable)?;
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
            imported: false,
        },
    )
}

/// Returns the mapping of `bo` in `vm`, if there is one. There is none if the file of `vm` has no
/// handle for the BO.
pub(crate) fn mapping(bo: &Bo, vm: &Arc<Vm>) -> Option<Arc<Mapping>> {
    bo.mapping(vm)
}

/// Returns the mappings of `bos` in `vm`, in the same order. Sleeps.
///
/// `EINVAL`: one of them is not mapped there, for instance because the file is closing the last
/// handle. `ENOMEM`.
pub(crate) fn mappings(
    drm: &Device,
    bos: &Objects<Bo>,
    vm: &Arc<Vm>,
) -> Result<KVVec<Arc<Mapping>>> {
    BoData::mappings(drm, bos, vm)
}

/// Records user space's advice about the content of `bo`. Returns whether the content is still
/// there.
///
/// Errors: `EINVAL` for user memory, and for [`Advice::DontNeed`] if the file of `vm` does not have
/// the only handle.
pub(crate) fn madvise(bo: &Bo, vm: &Arc<Vm>, advice: Advice) -> Result<bool> {
    BoData::take_advice(bo, vm, advice)
}

/// Waits until no job, and no other device, uses `bo`, for `timeout` jiffies at most. Sleeps; a
/// `timeout` of zero only polls.
///
/// `ERESTARTSYS`: a signal.
pub(crate) fn wait(bo: &Bo, timeout: Jiffies) -> Result<Waited> {
    if let Some(users) = bo.last_use().users(&bo.dev().uses) {
        return users.wait(timeout);
    }
    // A BO that is private now was so above, and is not in use.
    match bo.last_use().is_private() {
        true => Ok(Waited::Signaled(timeout.max(1))),
        false => bo.resv().wait_timeout(Usage::Read, timeout),
    }
}

/// Writes the CPU's caches back for a part of `bo`, so that the GPU sees the data; with
/// `invalidate`, also invalidates them. Does nothing for BOs that are not mapped cached, nor for
/// user memory, which exists only with coherent GPUs.
///
/// Errors: `EINVAL` for a range that exceeds the BO, and for imported BOs.
pub(crate) fn sync(bo: &Bo, gpu: &Gpu<'_>, invalidate: bool, offset: u32, size: u32) -> Result {
    // The UAPI has 32-bit offsets: the end of the range must fit as well.
    offset.checked_add(size).ok_or(EINVAL)?;
    bo.sync(gpu.dev(), offset as usize, size as usize, invalidate)
}

/// Returns the flags of `bo`, or [`None`] if it was imported.
pub(crate) fn flags(bo: &Bo) -> Option<Flags> {
    (!bo.is_imported()).then(|| Flags {
        // Reports how the BO is mapped, which can differ from the request.
        cached: bo.caching() == Caching::Cached,
        ..bo.flags()
    })
}
