// SPDX-License-Identifier: GPL-2.0

//! User memory: BOs made of memory of the process that created them.
//!
//! The [`mirror`] tracks the memory of the process; this module connects it to the GPU. Each
//! address space has a [`Mirror`] once it has user memory, and each BO of that kind has a
//! [`Region`] in it, which belongs to its [`Mapping`](super::Mapping). The addresses and the page
//! tables for 4 KiB pages are allocated at the creation, so that pages can be mapped and unmapped
//! without allocating memory.
//!
//! A submission makes all user memory of its address space valid, not only the BOs that it lists,
//! and publishes its fence while the memory is valid: see `job/submit.rs`. When the process changes
//! its memory after that, the change waits for the jobs of the address space and takes the pages
//! from the GPU. It waits for up to [`CHANGE_MS`]; jobs that have not ended by then
//! lose all user memory of the address space, and fault. Without that limit, a process could not
//! exit if its jobs wait for an event that follows only after its exit: a process frees its memory
//! before it closes its files. If the process was killed, its jobs are stopped at once.
//!
//! Code that drops user memory must not wait for such a change: see [`leaving`].
//!
//! The CPU and the GPU use the same pages at the same time, so user memory is only supported if
//! their caches are coherent and the GPU can reach all memory: see [`supported`].
//!
//! # Locks
//!
//! The mirror's lock nests inside of the reservations. The callbacks that map and unmap run with it
//! held, possibly in reclaim, and take the spinlocks of the page table and of the hardware's
//! address spaces, but no mutex. Jobs are waited for without it.

mod leaving;

use core::{
    iter,
    mem,
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
        LostPages,
        MapError, //
    },
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::{
    device::{
        with_gpu,
        Device,
        Gpu, //
    },
    mmu::{
        Keepable,
        Prot,
        VaNode,
        VmShared, //
    }, //
};

use super::{
    reclaim::at_own_limit,
    CancelJobs,
    Residency,
    Vm, //
};

use leaving::Leaving;
pub(super) use leaving::UserMemory;

/// How long a change of the memory waits for jobs of all files together, in milliseconds.
const CHANGE_MS: u32 = 10_000;

/// How long validation keeps trying while memory that it has brought in is lost again, because
/// there is not enough for all of it or because the process changes it. After that, it fails with
/// `ENOMEM`.
const PATIENCE: Delta = Delta::from_secs(10);

/// The same for a client at the limit of its control group. Each page that it brings in takes away
/// another one, and if that goes on for long, the OOM killer may come before the error.
const PATIENCE_AT_LIMIT: Delta = Delta::from_secs(2);

/// Returns how long validation keeps trying for the current task.
fn patience() -> Delta {
    match at_own_limit(None) {
        true => PATIENCE_AT_LIMIT,
        false => PATIENCE,
    }
}

/// Returns whether the GPU can use memory of processes.
///
/// The device tree and the DMA layer have to agree on coherency: the GPU is set up according to the
/// former, and memory is mapped according to the latter.
pub(crate) fn supported(gpu: &Gpu<'_>) -> bool {
    gpu.coherent && mirror::supported(gpu.dev())
}

/// The user memory of a device.
pub(crate) type Mirrors = mirror::Mirrors<Region>;

/// The user memory of an address space.
pub(crate) struct Mirror {
    mirror: mirror::Mirror<Region>,
    leaving: Arc<Leaving>,
}

impl Mirror {
    /// Creates a mirror without memory. Sleeps. Returns `EOPNOTSUPP` unless the GPU is
    /// [`supported`].
    pub(crate) fn new(drm: &Device, gpu: &Gpu<'_>) -> Result<Self> {
        if !supported(gpu) {
            return Err(EOPNOTSUPP);
        }
        Ok(Self {
            mirror: mirror::Mirror::new(&drm.mirrors, gpu.dev())?,
            leaving: Leaving::new()?,
        })
    }

    /// Brings in all user memory of the address space. Sleeps, and may wait for user space.
    ///
    /// Errors: those of [`mirror::Mirror::validate`], with a limit of [`patience()`].
    pub(crate) fn validate(&self) -> Result {
        self.mirror.validate(patience())
    }
}

impl Deref for Mirror {
    type Target = mirror::Mirror<Region>;

    fn deref(&self) -> &Self::Target {
        &self.mirror
    }
}

/// The place of a piece of user memory in a GPU address space.
pub(crate) struct Region {
    drm: ARef<Device>,
    space: Arc<VmShared>,
    /// The reservation of the address space, with the fences of all of its jobs.
    resv: ARef<ResvObject>,
    jobs: Arc<dyn CancelJobs>,
    range: Range<u64>,
    writable: bool,
    /// Whether the GPU has the pages. Written with the mirror's lock held, and read without.
    resident: Arc<Atomic<bool>>,
    /// The memory that it takes to keep the pages. Present while the GPU has them.
    lost: Pin<KBox<SpinLock<Option<Lost>>>>,
}

/// The part of a region that is kept: empty until its pages are lost.
type Lost = Keepable<Option<LostPages<Region>>>;

impl Region {
    /// Sees that the pages can be kept, also if others were before. Does not sleep.
    fn prepare_to_keep(&self) -> Result {
        if self.lost.lock().is_none() {
            let lost = Keepable::new(None, GFP_NOWAIT | __GFP_NOWARN)?;

            *self.lost.lock() = Some(lost);
        }
        Ok(())
    }
}

impl mirror::Device for Region {
    fn is_quiet(&self) -> bool {
        self.resv.resv().test_signaled(Usage::Bookkeep)
    }

    fn quiesce(&self, since: Instant<Monotonic>) -> bool {
        let spent = u32::try_from(since.elapsed().as_millis()).unwrap_or(CHANGE_MS);
        let left = msecs_to_jiffies(CHANGE_MS.saturating_sub(spent));
        let resv = self.resv.resv();

        match resv.wait_timeout_uninterruptible(Usage::Bookkeep, left) {
            Waited::Signaled(_) => true,
            Waited::TimedOut => {
                with_gpu(&self.drm, |gpu| {
                    if self.space.log().allows() {
                        dev_notice!(
                            gpu.dev(),
                            "user memory at {:#x} of address space {} goes while jobs use it\n",
                            self.range.start,
                            self.space.id()
                        );
                    }
                });
                false
            }
        }
    }

    fn cancel(&self) {
        self.jobs.cancel_jobs();
    }

    fn map(&self, pages: &[DmaAddress]) -> Result<(), MapError> {
        let prot = Prot {
            exec: false,
            write: self.writable,
        };
        let failed = |error, leak| MapError { error, leak };

        self.prepare_to_keep().map_err(|e| failed(e, false))?;
        with_gpu(&self.drm, |gpu| {
            // Map page by page: the tables are allocated for pages, not for blocks.
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

    fn keep(&self, pages: LostPages<Self>) {
        let lost = self.lost.lock().take();

        match lost {
            Some(mut lost) => {
                *lost = Some(pages);
                self.space.keep(lost);
            }
            // Never: pages are lost after they were mapped, once each time.
            None => mem::forget(pages),
        }
    }
}

/// User memory and its addresses, for a BO that is not mapped yet. The memory is dropped first.
pub(crate) struct Prepared {
    pub(super) memory: UserMemory,
    pub(super) node: VaNode<Residency>,
    /// Whether the GPU has the pages.
    pub(super) resident: Arc<Atomic<bool>>,
}

impl Prepared {
    /// Returns whether the addresses are in `vm`.
    pub(super) fn is_in(&self, vm: &Arc<Vm>) -> bool {
        Arc::ptr_eq(self.node.vm(), vm)
    }
}

/// Maps `size` bytes at `address` in the current process into `vm`. Sleeps, and may wait for user
/// space to provide the memory, so it must not be called from within [`with_gpu`].
///
/// Errors: `EINVAL` if the range is not made of whole pages, is empty, or wraps around;
/// `EOPNOTSUPP` unless the GPU is [`supported`]; `ENOSPC` if there is no room in the address space;
/// `EFAULT` if some of the memory is unmapped, is read-only although `writable` is set, is
/// secret, or belongs to a device; `EPERM` if the file has user memory of another process;
/// `ENOMEM`, also if the pages cannot all be made present at once; `ENODEV` if the device is being
/// removed or the GPU has halted; `EINTR` and `ERESTARTSYS` for signals, after which the call can
/// be repeated.
pub(super) fn prepare(
    drm: &Device,
    vm: &Arc<Vm>,
    address: u64,
    size: u64,
    writable: bool,
) -> Result<Prepared> {
    let (address, size) = bounds(address, size)?;

    let resident = Arc::new(Atomic::new(false), GFP_KERNEL_ACCOUNT)?;
    let lost = Some(Keepable::new(None, GFP_KERNEL_ACCOUNT)?);
    let lost = KBox::pin_init(new_spinlock!(lost, "drm_gpu::lost"), GFP_KERNEL_ACCOUNT)?;
    let (mirror, node) = with_gpu(drm, |gpu| {
        if gpu.halted() {
            return Err(ENODEV);
        }
        let mirror = vm.mirror_or_new(drm, gpu)?;
        let node = vm.alloc_va(size, false, None)?;

        vm.reserve(gpu, &node.range())?;
        Ok((mirror, node))
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
            jobs: vm.jobs().clone(),
            range: node.range(),
            writable,
            resident: resident.clone(),
            lost,
        },
    )?;
    let memory = UserMemory::new(range, &mirror.leaving)?;
    // Report memory that cannot be used now, not with the first job.
    memory.range()?.validate(patience())?;
    Ok(Prepared {
        memory,
        node,
        resident,
    })
}

/// Checks the range given by user space: whole pages, at least one, which do not wrap around.
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
