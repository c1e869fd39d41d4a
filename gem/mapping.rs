// SPDX-License-Identifier: GPL-2.0

//! A BO in an address space.
//!
//! There is at most one [`Mapping`] for each pair of BO and address space, however many
//! [handles](super::handles) the file has for the BO. The handles hold it, through the list in the
//! BO, and so does every job that uses the BO: closing the handle of a busy BO takes nothing away
//! from the GPU. When the last reference is dropped, the pages are unmapped and the addresses are
//! freed. That may sleep, so jobs must be dropped by a worker, not by an interrupt thread.
//!
//! A mapping holds the pages of its BO until reclaim takes them away ([`Mapping::evict`]). The
//! mapping is then added to a list of its [`Vm`], and the next job of that address space brings the
//! pages back ([`Mapping::restore`]). The pages of user memory change whenever its owner changes
//! them: see [`userptr`]. A heap is mapped chunk by chunk as the GPU touches it: see
//! [`heap`](super::heap).
//!
//! Lock: the mutex of [`Inner`]. It nests inside of a BO's state and of the reservation of an
//! address space, and is held while pages are brought in; reclaim only tries to get it.
//!
//! Drop order: unmap, then pages, then the addresses and the BO. If the hardware does not answer
//! while the pages are unmapped, they are kept until it has been reset, as it may still write to
//! them.

mod content;

use core::mem;

use kernel::{
    dma::DmaAddress,
    dma_buf::resv::ResvLocked,
    drm::gem::{
        uma::Pinned,
        BaseObject, //
    },
    new_mutex,
    prelude::*,
    rbtree::RBTreeNodeReservation,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    }, //
};

use super::{
    backing::PageState,
    heap::Heap,
    object::BoData,
    userptr,
    Bo,
    Residency,
    Vm, //
};
use crate::{
    device::Gpu,
    mmu::{
        Keepable,
        Prot,
        VaNode, //
    }, //
};

/// The memory of a mapping.
enum MappedMemory {
    /// All pages of the BO are held, and the given number of bytes is mapped, which is less than
    /// the size of the BO if an imported buffer has fewer. Left by [`Mapping::evict`], or when the
    /// mapping is dropped.
    Pages(Keepable<Pinned<BoData>>, u64),
    /// The heap maps and unmaps its chunks itself, until the mapping is dropped.
    Heap(Arc<Heap>),
    /// The given number of bytes was unmapped, but the hardware did not answer and may still reach
    /// the pages, which must not be freed. Left by [`Mapping::restore`], which maps the same pages
    /// again, or when the mapping is dropped: then the pages are kept until a reset unless the
    /// hardware can be made to forget them.
    Stuck(Keepable<Pinned<BoData>>, u64),
    /// Memory of a process. Its pages are mapped and unmapped by [`userptr`], until the mapping is
    /// dropped.
    User(userptr::UserMemory),
    /// No memory: not yet, after an eviction, or because its content was purged. Left when the
    /// pages are mapped: at creation, or by [`Mapping::restore`] unless the content was purged.
    Nothing,
}

/// The data guarded by the lock of a mapping.
struct Inner {
    memory: MappedMemory,
    /// A node for the address space's list of evicted mappings. [`None`] while the mapping is in
    /// that list, and for mappings that are never evicted.
    room: Option<Room>,
}

/// A node, allocated in advance, for a list of mappings that is sorted by address.
pub(crate) type Room = RBTreeNodeReservation<u64, Arc<Mapping>>;

/// A BO in an address space.
#[pin_data(PinnedDrop)]
pub(crate) struct Mapping {
    #[pin]
    inner: Mutex<Inner>,
    /// Whether reclaim has taken the memory. Changes only with `inner` and the resv of the address
    /// space locked.
    evicted: Atomic<bool>,
    node: VaNode<Residency>,
    bo: ARef<Bo>,
}

impl Mapping {
    /// Maps `bo` into `vm`. A heap gets addresses only. Sleeps.
    ///
    /// Returns `ENODEV` also if the GPU has halted: pages that are mapped then could not be
    /// unmapped again.
    pub(super) fn new(bo: &Bo, gpu: &Gpu<'_>, vm: &Arc<Vm>) -> Result<Arc<Self>> {
        if gpu.halted() {
            return Err(ENODEV);
        }
        if let Some(heap) = bo.heap() {
            let node = vm.alloc_va(bo.size(), false, Some(heap.clone()))?;
            let new = Self::with(bo, MappedMemory::Nothing, node, None)?;

            heap.set_addresses(vm, vm.heaps(), new.va())?;
            new.inner.lock().memory = MappedMemory::Heap(heap.clone());
            return Ok(new);
        }

        // Allocate addresses first, so that no pages are brought in if there are none.
        let node = vm.alloc_va(bo.size(), bo.flags().executable, None)?;
        let room = match bo.is_imported() {
            true => None,
            false => Some(Room::new(GFP_KERNEL_ACCOUNT)?),
        };
        let new = Self::with(bo, MappedMemory::Nothing, node, room)?;

        new.populate(gpu, &mut new.inner.lock())?;
        Ok(new)
    }

    /// Creates a mapping with `memory`. On failure, `memory` is dropped before `node`.
    fn with(
        bo: &Bo,
        memory: MappedMemory,
        node: VaNode<Residency>,
        room: Option<Room>,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                inner <- new_mutex!(
                    Inner { memory, room },
                    "drm_gpu::mapping"
                ),
                evicted: Atomic::new(false),
                node,
                bo: bo.into(),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Brings the pages in and maps them. Sleeps.
    fn populate(&self, gpu: &Gpu<'_>, inner: &mut Inner) -> Result {
        let pages = Keepable::new(self.bo.pin(gpu.dev())?, GFP_KERNEL_ACCOUNT)?;
        let prot = Prot {
            exec: self.bo.flags().executable,
            write: true,
        };

        let table = pages.sg_table(gpu.dev())?;
        let segments = cut(
            table
                .iter()
                // The length of a segment in memory always fits.
                .map(|entry| (entry.dma_address(), entry.dma_len() as usize)),
            self.node.size(),
        );
        // Page tables are charged to the client. If there is no memory for them, return an error
        // rather than have the OOM killer end a process.
        let gfp = GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
        let range = self.va()..self.va() + self.node.size();

        let mapped = match self.vm().map(gpu, range, segments, prot, gfp) {
            Ok(0) => return Err(ENODEV),
            Ok(mapped) => mapped,
            Err(e) => {
                if e.leak {
                    self.vm().keep(pages);
                }
                return Err(e.error);
            }
        };
        inner.memory = MappedMemory::Pages(pages, mapped);
        self.evicted.store(false, Relaxed);
        Ok(())
    }

    /// Creates the mapping of user memory, at the addresses that were prepared for it.
    pub(super) fn of_user(bo: &Bo, prepared: userptr::Prepared) -> Result<Arc<Self>> {
        let userptr::Prepared { memory, node, .. } = prepared;

        Self::with(bo, MappedMemory::User(memory), node, None)
    }

    /// Returns the first address, which never changes.
    pub(crate) fn va(&self) -> u64 {
        self.node.start()
    }

    /// Returns the heap, if the BO is one.
    pub(super) fn heap(&self) -> Option<&Arc<Heap>> {
        self.bo.heap()
    }

    /// Returns the address space.
    pub(crate) fn vm(&self) -> &Arc<Vm> {
        self.node.vm()
    }

    /// Takes the pages away from the GPU, for reclaim. Waits for no lock but spinlocks, and
    /// allocates nothing.
    ///
    /// `_idle` proves that no job can be published in the address space; the caller has checked
    /// that no unfinished job needs the pages. Returns `EBUSY` if the lock is taken or the memory
    /// is of a kind that cannot be evicted. Any other error means that the hardware does not
    /// answer; the mapping then holds the pages until [`Self::restore`].
    pub(super) fn evict(self: &Arc<Self>, _idle: ResvLocked<'_>) -> Result {
        let mut inner = self.inner.try_lock().ok_or(EBUSY)?;

        let (pages, mapped) = match mem::replace(&mut inner.memory, MappedMemory::Nothing) {
            MappedMemory::Pages(pages, mapped) => (pages, mapped),
            MappedMemory::Nothing => return Ok(()),
            other => {
                inner.memory = other;
                return Err(EBUSY);
            }
        };
        let Some(room) = inner.room.take() else {
            // An imported buffer, which has no node; a mapping with memory is never in the list.
            inner.memory = MappedMemory::Pages(pages, mapped);
            return Err(EBUSY);
        };

        let unmapped = self.vm().unmap_idle(self.va()..self.va() + mapped);
        if unmapped.is_err() {
            inner.memory = MappedMemory::Stuck(pages, mapped);
        }
        self.evicted.store(true, Relaxed);
        self.vm()
            .add_evicted(room.into_node(self.va(), self.clone()));
        unmapped
    }

    /// Returns whether [`Self::evict`] has taken the pages away. The answer remains valid while the
    /// resv of the address space is locked.
    pub(crate) fn is_evicted(&self) -> bool {
        self.evicted.load(Relaxed)
    }

    /// Brings back the pages that [`Self::evict`] has taken away. If user space has given the
    /// content up in the meantime, it is purged instead, and a job that uses it faults. Sleeps.
    ///
    /// Returns whether the content is as it should be. It is not if it could not be read from swap.
    /// shmem never tries that again, so the mapping stays without pages, and is not brought back
    /// for jobs that do not list the BO.
    ///
    /// `_vm` proves that the reservation of the address space is locked. The caller must hold a
    /// reference besides that of the list, which is dropped here.
    pub(crate) fn restore(&self, gpu: &Gpu<'_>, _vm: ResvLocked<'_>) -> Result<bool> {
        let mut inner = self.inner.lock();
        let mut is_lost = false;

        if let MappedMemory::Nothing | MappedMemory::Stuck(..) = inner.memory {
            if self.bo.is_given_up() {
                // If the pages are in use, this fails, and they are mapped once more.
                let _ = self.bo.purge();
            }
            if self.bo.state() != PageState::Purged {
                match (self.populate(gpu, &mut inner), self.bo.state()) {
                    // Reclaim has purged the content since the check above.
                    (Err(_), PageState::Purged) => (),
                    // The pages did not come in.
                    (Err(EIO), PageState::Evicted) => is_lost = true,
                    (result, _) => result?,
                }
            }
        }
        if let Some(node) = self.vm().take_evicted(self.va()) {
            inner.room = Some(node.into_reservation());
        }
        Ok(!is_lost)
    }

    /// Notes that the last handle has been closed: jobs no longer bring the pages back.
    pub(super) fn close(&self) {
        let node = self.vm().take_evicted(self.va());

        // Drop the node with the lock of the list released.
        drop(node);
    }

    /// Returns whether the GPU has the pages, or `EBUSY` if the lock is taken.
    pub(super) fn has_pages(&self) -> Result<bool> {
        let inner = self.inner.try_lock().ok_or(EBUSY)?;

        Ok(matches!(inner.memory, MappedMemory::Pages(..)))
    }
}

#[pinned_drop]
impl PinnedDrop for Mapping {
    fn drop(self: Pin<&mut Self>) {
        let start = self.va();
        let memory = mem::replace(&mut self.inner.lock().memory, MappedMemory::Nothing);

        match memory {
            MappedMemory::Pages(pages, mapped) => {
                self.vm().unmap_closed(start..start + mapped, pages)
            }
            MappedMemory::Stuck(pages, mapped) => {
                if self.vm().forget(start..start + mapped).is_err() {
                    self.vm().keep(pages);
                }
            }
            MappedMemory::Heap(heap) => heap.close(),
            // Dropping it unmaps the pages, or keeps them if that fails.
            MappedMemory::User(memory) => drop(memory),
            MappedMemory::Nothing => (),
        }
    }
}

/// Cuts a list of segments off after `left` bytes.
fn cut(
    segments: impl Iterator<Item = (DmaAddress, usize)>,
    mut left: u64,
) -> impl Iterator<Item = (DmaAddress, usize)> {
    segments.map_while(move |(address, len)| {
        let len = left.min(len as u64);

        left -= len;
        // Fits, as it is no larger than the original length.
        (len != 0).then_some((address, len as usize))
    })
}

#[kunit_tests(drm_gpu_mapping)]
mod tests {
    use super::*;

    #[test]
    fn segments_end_with_the_bo() {
        let all = [(0x1000, 0x2000), (0x8000, 0x4000), (0x20000, 0x1000)];
        let sum = |left| {
            cut(all.into_iter(), left)
                .map(|(_, len)| len)
                .sum::<usize>()
        };

        assert_eq!(sum(0), 0);
        assert_eq!(sum(0x1000), 0x1000);
        assert_eq!(sum(0x2000), 0x2000);
        assert_eq!(sum(0x5000), 0x5000);
        assert_eq!(sum(0x7000), 0x7000);
        assert_eq!(sum(0x100000), 0x7000);
        assert_eq!(cut(all.into_iter(), 0x3000).last(), Some((0x8000, 0x1000)));
    }
}
