// SPDX-License-Identifier: GPL-2.0

//! The memory in the address space of a file: its heaps, its user memory, and the mappings from
//! which reclaim has taken the pages, which the next job brings back.
//!
//! Lock: the spinlock of the list of evicted mappings, which is a leaf. Reclaim waits for it, so
//! nothing is allocated under it. Process context. Memory is brought back with the reservation of
//! the address space locked, and that sleeps.

use kernel::{
    dma_buf::resv::ResvLocked,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        Arc,
        SetOnce,
        SpinLock, //
    }, //
};

use super::{
    heap,
    userptr,
    Mapping,
    Vm, //
};
use crate::{
    device::{
        Device,
        Gpu, //
    },
    mmu, //
};

/// The jobs of an address space, which end when the process is killed whose memory they use.
pub(crate) trait CancelJobs: Send + Sync {
    /// Stops all jobs, with `ECANCELED`. Does not wait for them. Process context; may sleep.
    fn cancel_jobs(&self);
}

/// The memory in an address space.
#[pin_data]
pub(crate) struct Residency {
    heaps: Arc<heap::FileHeaps>,
    /// The mappings from which reclaim has taken the memory, by address. A mapping is removed when
    /// its memory is back, or when the last handle that the file has for the BO is closed.
    #[pin]
    evicted: SpinLock<RBTree<u64, Arc<Mapping>>>,
    /// The user memory in the space. Set by the first BO of that kind, for the lifetime of the
    /// space.
    mirror: SetOnce<userptr::Mirror>,
    jobs: Arc<dyn CancelJobs>,
}

/// Creates the address space of a file, without memory in it, for these jobs. Sleeps. Also works
/// while the GPU is lost.
pub(crate) fn new_vm(drm: &Device, gpu: &Gpu<'_>, jobs: Arc<dyn CancelJobs>) -> Result<Arc<Vm>> {
    let heaps = heap::FileHeaps::new()?;

    mmu::Vm::new(
        drm,
        gpu,
        pin_init!(Residency {
            heaps,
            evicted <- new_spinlock!(RBTree::new(), "drm_gpu::evicted"),
            mirror: SetOnce::new(),
            jobs,
        }),
    )
}

impl Vm {
    /// Returns the heaps of the file.
    pub(crate) fn heaps(&self) -> &Arc<heap::FileHeaps> {
        &self.memory().heaps
    }

    /// Returns the jobs of the file.
    pub(super) fn jobs(&self) -> &Arc<dyn CancelJobs> {
        &self.memory().jobs
    }

    /// Returns the user memory in the space, if there has ever been any.
    pub(crate) fn mirror(&self) -> Option<&userptr::Mirror> {
        self.memory().mirror.as_ref()
    }

    /// Returns the user memory in the space, and creates it, without memory, if there is none.
    /// Sleeps.
    pub(crate) fn mirror_or_new(&self, drm: &Device, gpu: &Gpu<'_>) -> Result<&userptr::Mirror> {
        loop {
            if let Some(mirror) = self.mirror() {
                return Ok(mirror);
            }
            // Has no effect if another task was faster.
            self.memory()
                .mirror
                .populate(userptr::Mirror::new(drm, gpu)?);
        }
    }

    /// Notes that the mapping in `node` has lost its memory. The caller holds the resv of the
    /// space.
    pub(crate) fn add_evicted(&self, node: RBTreeNode<u64, Arc<Mapping>>) {
        let old = self.memory().evicted.lock().insert(node);

        // There is no old entry: a mapping is only added if it is not in the list.
        drop(old);
    }

    /// Removes the mapping at `va` from the list of mappings that have lost their memory, if it is
    /// there. The caller drops the node with no spinlock held.
    pub(crate) fn take_evicted(&self, va: u64) -> Option<RBTreeNode<u64, Arc<Mapping>>> {
        self.memory().evicted.lock().remove_node(&va)
    }

    /// Returns whether reclaim has taken memory from the space. The answer may be outdated.
    pub(crate) fn misses_memory(&self) -> bool {
        !self.memory().evicted.lock().is_empty()
    }

    /// Returns the address of the first mapping that [`Self::restore`] would bring back.
    pub(crate) fn first_evicted(&self) -> Option<u64> {
        let evicted = self.memory().evicted.lock();
        let first = evicted.cursor_front();

        first.map(|first| *first.current().0)
    }

    /// Brings back all memory that reclaim has taken from the space, so that a job can use it.
    /// `locked` proves that the resv is locked, so reclaim takes nothing until the caller has added
    /// the fence of the job and unlocks it.
    ///
    /// Returns `ENOMEM` also if `is_slow` returns `true` before all memory is back. Sleeps. After
    /// an error, the mappings that are still without memory remain in the list. Content that is
    /// lost is no error.
    pub(crate) fn restore(
        &self,
        gpu: &Gpu<'_>,
        locked: ResvLocked<'_>,
        is_slow: impl Fn() -> bool,
    ) -> Result {
        loop {
            let next = {
                let evicted = self.memory().evicted.lock();
                let first = evicted.cursor_front();

                first.map(|first| first.current().1.clone())
            };
            let Some(mapping) = next else {
                return Ok(());
            };

            if is_slow() {
                return Err(ENOMEM);
            }
            mapping.restore(gpu, locked)?;
        }
    }
}
