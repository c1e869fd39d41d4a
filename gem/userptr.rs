// SPDX-License-Identifier: GPL-2.0

//! User memory: BOs over memory of the process that made them.
//!
//! The [`mirror`] does the work with the memory management; here is what the GPU has to do with it.
//! Each address space has a [`Mirror`] once it has user memory, and each BO of that kind a [`Region`]
//! in it, which belongs to its [`Mapping`](super::Mapping). The addresses and the tables of 4 KiB
//! pages are there from the creation on, so that pages can be mapped and unmapped without memory.
//!
//! A submission makes all user memory of its address space valid, not only what it lists, and
//! publishes its fence while that is so: see [`submit`](crate::job::submit). When the memory changes
//! after that, the change waits for the jobs of the address space and takes the pages from the GPU.
//! It waits for [`PATIENCE_MS`] at most; jobs that have not ended by then lose all user memory of the
//! address space, and fault.
//! Without that, a client whose jobs wait for something that comes only after its end could not end:
//! a process gives back its memory before its files.
//!
//! Whoever drops user memory must not wait for such a change: see [`leaving`].
//!
//! # Locks
//!
//! The mirror's lock, inside of the reservations. The callbacks run under it, maybe in reclaim: they
//! take the lock of the address-space slots inside, and no other. They wait for jobs without it.

mod leaving;

use core::{
    iter,
    ops::{
        Deref,
        Range, //
    }, //
};

use kernel::{
    dma::DmaAddress,
    dma_buf::{
        resv::Usage,
        Waited, //
    },
    drm::gem::{
        BaseObject,
        ResvObject, //
    },
    mm::mirror::{
        self,
        Access,
        MapError, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::msecs_to_jiffies,
    uapi, //
};

use crate::{
    device::{
        with_gpu,
        Device,
        Gpu, //
    },
    mmu::{
        Prot,
        Space,
        VaNode,
        Vm, //
    }, //
};

use leaving::Leaving;
pub(super) use leaving::Memory;

/// How long a change of the memory waits for jobs.
const PATIENCE_MS: u32 = 10_000;

/// The user memory of an address space.
pub(crate) struct Mirror {
    mirror: mirror::Mirror<Region>,
    leaving: Arc<Leaving>,
}

impl Mirror {
    /// Without any memory. Sleeps.
    pub(crate) fn new(gpu: &Gpu<'_>) -> Result<Self> {
        Ok(Self {
            mirror: mirror::Mirror::new(gpu.dev())?,
            leaving: Leaving::new()?,
        })
    }
}

impl Deref for Mirror {
    type Target = mirror::Mirror<Region>;

    fn deref(&self) -> &Self::Target {
        &self.mirror
    }
}

/// Where user memory is in the GPU's address space.
pub(crate) struct Region {
    drm: ARef<Device>,
    space: Arc<Space>,
    /// Has the fences of all jobs of the space.
    resv: ARef<ResvObject>,
    range: Range<u64>,
    writable: bool,
    /// Whether the GPU has the pages, for looks without the mirror's lock.
    resident: Arc<Atomic<bool>>,
}

impl mirror::Device for Region {
    fn quiesce(&self, may_block: bool) -> bool {
        let resv = self.resv.resv();

        if !may_block {
            return resv.test_signaled(Usage::Bookkeep);
        }
        match resv.wait_timeout_uninterruptible(Usage::Bookkeep, msecs_to_jiffies(PATIENCE_MS)) {
            Waited::Signaled(_) => true,
            Waited::TimedOut => {
                with_gpu(&self.drm, |gpu| {
                    if gpu.log.allows() {
                        dev_notice!(
                            gpu.dev(),
                            "user memory at {:#x} of address space {} goes before its jobs have ended\n",
                            self.range.start,
                            self.space.id()
                        );
                    }
                });
                false
            }
        }
    }

    fn map(&self, pages: &[DmaAddress]) -> Result<(), MapError> {
        let prot = Prot {
            exec: false,
            write: self.writable,
        };
        let failed = |error, leak| MapError { error, leak };

        with_gpu(&self.drm, |gpu| {
            // One by one, so that there are no blocks: those would need other tables.
            let pages = pages.iter().map(|&address| (address, PAGE_SIZE));

            self.space
                .map(gpu, self.range.clone(), pages, prot, GFP_NOWAIT)
                .map(|_| self.resident.store(true, Relaxed))
                .map_err(|e| failed(e.error, e.leak))
        })
        .unwrap_or(Err(failed(ENODEV, false)))
    }

    fn unmap(&self) -> Result {
        self.space
            .unmap(iter::once(self.range.clone()))
            .inspect(|()| self.resident.store(false, Relaxed))
    }
}

/// User memory with its addresses, for a BO that has no handle yet. The memory goes first.
pub(crate) struct Prepared {
    pub(super) memory: Memory,
    pub(super) node: VaNode,
    /// Whether the GPU has the pages.
    pub(super) resident: Arc<Atomic<bool>>,
}

impl Prepared {
    /// Whether it has its addresses in `vm`.
    pub(super) fn is_in(&self, vm: &Arc<Vm>) -> bool {
        Arc::ptr_eq(self.node.vm(), vm)
    }
}

/// Maps `size` bytes of the current process from `address` on into `vm`. Sleeps, and waits for
/// whoever has to provide the memory: not to be called with a guard.
///
/// `EINVAL`: unknown flags; not whole pages, or none, or more than there are. `ENOSPC`: no room in
/// the address space. `EFAULT`: there is no such memory, or it may not be written and the GPU is to
/// write it, or it is no memory but a device. `EPERM`: the file has user memory of another process.
/// `ENODEV`, `ENOMEM`; `EAGAIN`, `EINTR`: try again.
pub(super) fn prepare(
    drm: &Device,
    vm: &Arc<Vm>,
    address: u64,
    size: u64,
    flags: u32,
) -> Result<Prepared> {
    if flags & !uapi::DRM_GPU_USERPTR_READONLY != 0 {
        return Err(EINVAL);
    }
    let writable = flags & uapi::DRM_GPU_USERPTR_READONLY == 0;
    let (address, size) = bounds(address, size)?;

    let resident = Arc::new(Atomic::new(false), GFP_KERNEL)?;
    let node = vm.alloc_va(size, false, None)?;
    let range = node.start()..node.start() + node.size();
    let mirror = with_gpu(drm, |gpu| {
        if gpu.halted() {
            return Err(ENODEV);
        }
        vm.reserve(gpu, &range)?;
        vm.user_memory_or_new(gpu)
    })
    .ok_or(ENODEV)??;

    let range = mirror.add(
        address,
        size,
        match writable {
            true => Access::ReadWrite,
            false => Access::Read,
        },
        Region {
            drm: drm.into(),
            space: (**vm).clone(),
            resv: vm.resv_object().into(),
            range,
            writable,
            resident: resident.clone(),
        },
    )?;
    let memory = Memory::new(range, &mirror.leaving)?;
    // What cannot be is known at once.
    memory.range()?.validate()?;
    Ok(Prepared {
        memory,
        node,
        resident,
    })
}

/// Checks what user space asks for: whole pages, at least one, that do not wrap.
fn bounds(address: u64, size: u64) -> Result<(usize, usize)> {
    let (address, size) = (usize::try_from(address)?, usize::try_from(size)?);

    if size == 0 || (address | size) % PAGE_SIZE != 0 {
        return Err(EINVAL);
    }
    address.checked_add(size).ok_or(EINVAL)?;
    Ok((address, size))
}

#[kunit_tests(drm_gpu_userptr)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_only() {
        const PAGE: u64 = PAGE_SIZE as u64;

        assert_eq!(bounds(PAGE, PAGE), Ok((PAGE_SIZE, PAGE_SIZE)));
        assert_eq!(bounds(0, 2 * PAGE), Ok((0, 2 * PAGE_SIZE)));
        assert_eq!(bounds(PAGE, 0), Err(EINVAL));
        assert_eq!(bounds(PAGE + 1, PAGE), Err(EINVAL));
        assert_eq!(bounds(PAGE, PAGE - 1), Err(EINVAL));
        assert_eq!(bounds(PAGE, 1), Err(EINVAL));
        assert!(bounds(u64::MAX - PAGE + 1, PAGE).is_err());
        assert!(bounds(PAGE, u64::MAX - PAGE + 1).is_err());
    }
}
