// SPDX-License-Identifier: GPL-2.0

//! A BO in an address space.
//!
//! There is one [`Mapping`] for each pair of BO and address space, however many handles the file has
//! for the BO. The handles hold it, through the list in the BO, and so does every job that uses the
//! BO: closing the handle of a busy BO takes nothing away from the GPU. With the last reference the
//! pages are unmapped and the addresses are free again; that may sleep, so jobs are to be dropped by
//! a worker, not by an interrupt thread.
//!
//! A mapping keeps the pages of its BO in, until reclaim takes them away ([`Mapping::evict`]): then it
//! goes on the list of its [`Vm`] from which the next job of that address space brings them back
//! ([`Mapping::restore`]). User memory comes and goes as its owner likes: see [`userptr`]. A heap is
//! mapped piece by piece as the GPU asks for it: see [`heap`](super::heap).
//!
//! Lock: that of the mapping's memory. It is inside of a BO's state and of the reservation of an address
//! space, and is held while pages are brought in; reclaim only tries to get it.
//!
//! Drop order: unmap, then pages, then the addresses and the BO. If the hardware does not answer
//! while we unmap, the pages are leaked on purpose, for it may still write to them.

use core::{
    iter,
    mem, //
};

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
        Arc,
        Mutex, //
    }, //
};

use super::{
    backing::State,
    heap::Heap,
    object::BoData,
    userptr,
    Bo, //
};
use crate::{
    device::Gpu,
    mmu::{
        Prot,
        VaNode,
        Vm, //
    }, //
};

/// What is mapped.
enum Memory {
    /// All pages of the BO; so many bytes are mapped. An imported buffer can have less than its size.
    Pages(Pinned<BoData>, u64),
    /// What the heap knows of.
    Heap(Arc<Heap>),
    /// Pages that were unmapped, but which the hardware may not have forgotten, as it does not answer:
    /// nobody else is to get them. So many bytes.
    Stuck(Pinned<BoData>, u64),
    /// What is at an address of a process.
    User(userptr::Memory),
    /// Nothing: not yet, or not any more.
    Nothing,
}

/// What the lock of a mapping guards.
struct Inner {
    memory: Memory,
    /// Room in the address space's list of mappings without memory, unless it is in that list.
    room: Option<Room>,
}

/// Room for a mapping in a list by address.
pub(crate) type Room = RBTreeNodeReservation<u64, Arc<Mapping>>;

/// A BO in an address space.
#[pin_data(PinnedDrop)]
pub(crate) struct Mapping {
    #[pin]
    inner: Mutex<Inner>,
    node: VaNode,
    bo: ARef<Bo>,
}

impl Mapping {
    /// Maps `bo` into `vm`, a heap without any memory. Sleeps.
    ///
    /// `ENODEV` also if the GPU has halted: what is mapped then could not be taken away again.
    pub(super) fn new(bo: &Bo, gpu: &Gpu<'_>, vm: &Arc<Vm>) -> Result<Arc<Self>> {
        if gpu.halted() {
            return Err(ENODEV);
        }
        if let Some(heap) = bo.heap() {
            let node = vm.alloc_va(bo.size(), false, Some(heap.clone()))?;
            let new = Self::with(bo, Memory::Nothing, node, None)?;

            heap.place(vm, vm.heaps(), new.va())?;
            new.inner.lock().memory = Memory::Heap(heap.clone());
            return Ok(new);
        }

        // Addresses first: no memory is brought in for a BO that has no place.
        let node = vm.alloc_va(bo.size(), bo.flags().is_executable(), None)?;
        let room = match bo.is_imported() {
            true => None,
            false => Some(Room::new(GFP_KERNEL)?),
        };
        let new = Self::with(bo, Memory::Nothing, node, room)?;

        new.populate(gpu, &mut new.inner.lock())?;
        Ok(new)
    }

    /// Makes one with this memory. If that fails, the memory goes before the addresses.
    fn with(bo: &Bo, memory: Memory, node: VaNode, room: Option<Room>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                inner <- new_mutex!(
                    Inner { memory, room },
                    "drm_gpu::mapping"
                ),
                node,
                bo: bo.into(),
            }),
            GFP_KERNEL,
        )
    }

    /// Brings the pages in and maps them. Sleeps.
    fn populate(&self, gpu: &Gpu<'_>, inner: &mut Inner) -> Result {
        let pages = self.bo.pin(gpu.dev())?;
        let prot = Prot {
            exec: self.bo.flags().is_executable(),
            write: true,
        };

        let table = pages.sg_table(gpu.dev())?;
        let segments = cut(
            table
                .iter()
                // A segment of memory always fits.
                .map(|entry| (entry.dma_address(), entry.dma_len() as usize)),
            self.node.size(),
        );
        // Not enough for its tables is an error, and no reason to kill.
        let gfp = GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN;
        let range = self.va()..self.va() + self.node.size();

        let mapped = match self.vm().map(gpu, range, segments, prot, gfp) {
            Ok(0) => return Err(ENODEV),
            Ok(mapped) => mapped,
            Err(e) => {
                if e.leak {
                    mem::forget(pages);
                }
                return Err(e.error);
            }
        };
        inner.memory = Memory::Pages(pages, mapped);
        Ok(())
    }

    /// User memory, where it has been prepared.
    pub(super) fn of_user(bo: &Bo, prepared: userptr::Prepared) -> Result<Arc<Self>> {
        let userptr::Prepared { memory, node, .. } = prepared;

        Self::with(bo, Memory::User(memory), node, None)
    }

    /// Does what [`gem::sync`](super::sync) is for with user memory. Sleeps.
    pub(super) fn sync(&self, offset: usize, len: usize, invalidate: bool) -> Result {
        match &self.inner.lock().memory {
            Memory::User(memory) => memory.range()?.sync(offset, len, invalidate),
            _ => Err(EINVAL),
        }
    }

    /// First address. Never changes.
    pub(crate) fn va(&self) -> u64 {
        self.node.start()
    }

    /// The heap, if it is one.
    pub(super) fn heap(&self) -> Option<&Arc<Heap>> {
        self.bo.heap()
    }

    /// The address space.
    pub(crate) fn vm(&self) -> &Arc<Vm> {
        self.node.vm()
    }

    /// Takes the pages away from the GPU, for reclaim: waits for no lock, allocates nothing.
    ///
    /// `_idle` proves that no job can be published in the address space; the caller has seen that none
    /// is under way. `EBUSY`: it is not possible now. Any other error comes from hardware that does not
    /// answer, and then the pages stay until [`Self::restore`].
    pub(super) fn evict(self: &Arc<Self>, _idle: ResvLocked<'_>) -> Result {
        let mut inner = self.inner.try_lock().ok_or(EBUSY)?;

        let (pages, mapped) = match mem::replace(&mut inner.memory, Memory::Nothing) {
            Memory::Pages(pages, mapped) => (pages, mapped),
            Memory::Nothing => return Ok(()),
            other => {
                inner.memory = other;
                return Err(EBUSY);
            }
        };
        let Some(room) = inner.room.take() else {
            // Not ours, or the list has it, which a mapping with memory is not in.
            inner.memory = Memory::Pages(pages, mapped);
            return Err(EBUSY);
        };

        let unmapped = self.vm().unmap_idle(self.va()..self.va() + mapped);
        if unmapped.is_err() {
            inner.memory = Memory::Stuck(pages, mapped);
        }
        self.vm()
            .add_evicted(room.into_node(self.va(), self.clone()));
        unmapped
    }

    /// Brings back what [`Self::evict`] has taken away, if user space has not given it up meanwhile: then
    /// there is nothing any more, and a job that uses it faults. Sleeps.
    ///
    /// The reservation of the address space is locked. The caller has a reference besides that of the
    /// list.
    pub(crate) fn restore(&self, gpu: &Gpu<'_>, _vm: ResvLocked<'_>) -> Result {
        let mut inner = self.inner.lock();

        if let Memory::Nothing | Memory::Stuck(..) = inner.memory {
            if self.bo.state() != State::Purged {
                match self.populate(gpu, &mut inner) {
                    // Reclaim has taken it from the address space, and has purged it just now.
                    Err(_) if self.bo.state() == State::Purged => (),
                    result => result?,
                }
            }
        }
        if let Some(node) = self.vm().take_evicted(self.va()) {
            inner.room = Some(node.into_reservation());
        }
        Ok(())
    }

    /// The last handle has gone: nobody is to bring it back.
    pub(super) fn close(&self) {
        let node = self.vm().take_evicted(self.va());

        // With the list's lock released.
        drop(node);
    }

    /// Whether the GPU has the pages.
    pub(super) fn has_pages(&self) -> Result<bool> {
        let inner = self.inner.try_lock().ok_or(EBUSY)?;

        Ok(matches!(inner.memory, Memory::Pages(..)))
    }
}

#[pinned_drop]
impl PinnedDrop for Mapping {
    fn drop(self: Pin<&mut Self>) {
        let start = self.va();
        let memory = mem::replace(&mut self.inner.lock().memory, Memory::Nothing);

        match memory {
            Memory::Pages(pages, mapped) => {
                if self.vm().unmap(iter::once(start..start + mapped)).is_err() {
                    mem::forget(pages);
                }
            }
            Memory::Stuck(pages, mapped) => {
                if self.vm().forget(start..start + mapped).is_err() {
                    mem::forget(pages);
                }
            }
            Memory::Heap(heap) => heap.close(),
            // It is unmapped, or leaked, by itself, and waits for nobody.
            Memory::User(memory) => drop(memory),
            Memory::Nothing => (),
        }
    }
}

/// Ends a list of segments after `left` bytes.
fn cut(
    segments: impl Iterator<Item = (DmaAddress, usize)>,
    mut left: u64,
) -> impl Iterator<Item = (DmaAddress, usize)> {
    segments.map_while(move |(address, len)| {
        let len = left.min(len as u64);

        left -= len;
        // It is not more than it was.
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
