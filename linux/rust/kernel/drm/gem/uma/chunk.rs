// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Memory in units of 2 MiB without a file, for buffers that grow on demand.
//!
//! A buffer that grows while a job waits for the memory cannot use shmem: allocating a page there
//! may always wait for reclaim, which may wait for the job. A [`Chunk`] is allocated with the flags
//! of the caller, which may be `GFP_NOWAIT`. It includes the memory that is needed to map it, so
//! that a chunk can be mapped without waiting for memory. [`Chunks`] keeps chunks by index, and
//! [`Partial`] allocates one chunk in several steps.
//!
//! The memory is counted as `GPUActive` in meminfo. Allocating it does not charge any control
//! group, as the allocating thread may not belong to the one that should pay: see [`Chunk::pay()`].
//!
//! No locks. Functions that allocate may sleep if their flags allow it; dropping a chunk does not
//! sleep.

use crate::{
    alloc::Flags,
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::{
        DataDirection,
        DmaAddress, //
    },
    iommu::pgtable::TablePage,
    mm::memcg::Charge,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sizes::SZ_2M, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};

mod table;

pub use table::{
    ChunkSpace,
    Chunks,
    Partial, //
};

/// The orders of the blocks that a chunk is made of: ideally, it is a single block.
const ORDERS: [u32; 3] = {
    let top = SZ_2M.ilog2() - PAGE_SHIFT as u32;
    [top, if top > 4 { 4 } else { 0 }, 0]
};

/// The number of pages of a chunk.
const PAGES: usize = SZ_2M >> PAGE_SHIFT;

/// `1 << order` contiguous pages, zeroed at first and mapped for DMA.
///
/// # Invariants
///
/// `page` is the first of `1 << order` pages that we own; `dma` is their mapping, for both
/// directions.
pub(super) struct Block {
    pub(super) page: NonNull<bindings::page>,
    pub(super) dma: DmaAddress,
    order: u32,
}

// SAFETY: Pages and DMA mappings belong to no thread.
unsafe impl Send for Block {}

// SAFETY: A shared `Block` can only be read.
unsafe impl Sync for Block {}

impl Block {
    /// Returns the number of pages.
    pub(super) const fn pages(&self) -> usize {
        1 << self.order
    }

    /// Returns the size in bytes.
    pub(super) const fn len(&self) -> usize {
        self.pages() << PAGE_SHIFT
    }

    fn new(dev: &Device<Bound>, order: u32, flags: Flags) -> Result<Self> {
        // SAFETY: No preconditions.
        let page = unsafe { bindings::alloc_pages((flags | __GFP_ZERO).as_raw(), order) };
        let page = NonNull::new(page).ok_or(ENOMEM)?;

        // SAFETY: We own the pages, and `dev` is bound.
        let dma = unsafe {
            bindings::dma_map_page_attrs(
                dev.as_raw(),
                page.as_ptr(),
                0,
                1 << (order as usize + PAGE_SHIFT),
                DataDirection::Bidirectional.into(),
                0,
            )
        };

        // SAFETY: `dma` comes from `dma_map_page_attrs()` for this device.
        if unsafe { bindings::dma_mapping_error(dev.as_raw(), dma) } != 0 {
            // SAFETY: We own the pages, and do not use them any more.
            unsafe { bindings::__free_pages(page.as_ptr(), order) };
            return Err(ENOMEM);
        }

        // INVARIANT: Allocated and mapped above.
        let this = Self { page, dma, order };
        this.count(1);
        Ok(this)
    }

    /// Adds the pages to the statistics of the node, or removes them if `sign` is negative.
    ///
    /// Does not use `mod_lruvec_page_state()`, which warns about statistics that control groups do
    /// not have.
    fn count(&self, sign: c_long) {
        // SAFETY: By the type invariants the page is valid.
        unsafe {
            bindings::mod_node_page_state(
                bindings::page_pgdat(self.page.as_ptr()),
                bindings::node_stat_item_NR_GPU_ACTIVE,
                sign << self.order,
            )
        };
    }

    /// Unmaps and frees the pages.
    ///
    /// # Safety
    ///
    /// `dev` must be the device that was given to [`Block::new()`], and be bound.
    unsafe fn free(self, dev: &Device) {
        self.count(-1);
        // SAFETY: By the type invariants and the safety requirements.
        unsafe {
            bindings::dma_unmap_page_attrs(
                dev.as_raw(),
                self.dma,
                self.len(),
                DataDirection::Bidirectional.into(),
                0,
            );
            bindings::__free_pages(self.page.as_ptr(), self.order);
        }
    }
}

/// A list of blocks that allocates no more than a page at a time to grow.
#[derive(Default)]
struct BlockList {
    parts: KVec<KVec<Block>>,
    /// The number of pages of all blocks.
    pages: usize,
}

impl BlockList {
    /// The number of blocks of a part.
    const PART: usize = PAGE_SIZE / size_of::<Block>();

    /// Makes room for one more block.
    fn reserve(&mut self, flags: Flags) -> Result {
        if self
            .parts
            .last()
            .is_none_or(|part| part.len() == part.capacity())
        {
            let part = KVec::with_capacity(Self::PART, flags)?;

            self.parts.push(part, flags)?;
        }
        Ok(())
    }

    /// Allocates blocks of `order` until another one would exceed `pages` pages. Blocks that were
    /// allocated before an error are kept.
    fn fill(&mut self, dev: &Device<Bound>, order: u32, pages: usize, flags: Flags) -> Result {
        while self.pages + (1 << order) <= pages {
            // Reserve first, so that the block can always be added.
            self.reserve(flags)?;
            let part = self.parts.last_mut().ok_or(ENOMEM)?;
            let block = Block::new(dev, order, flags)?;

            self.pages += block.pages();
            part.push_within_capacity(block).map_err(|_| ENOMEM)?;
        }
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = &Block> {
        self.parts.iter().flat_map(|part| part.iter())
    }
}

/// The memory of a [`Chunk`], without ownership.
///
/// Together, its blocks have [`Chunk::SIZE`] bytes, unless the chunk is incomplete.
pub struct ChunkMem {
    blocks: Blocks,
    /// Memory for the page table that maps the blocks, if one is needed.
    table: Option<TablePage>,
    /// The charge for the memory.
    charge: Option<Charge>,
}

enum Blocks {
    One(Block),
    Many(BlockList),
}

impl ChunkMem {
    /// Returns the DMA address and the length in bytes of each block, in order.
    ///
    /// Each address is a multiple of the length, unless there is an IOMMU.
    pub fn segments(&self) -> impl Iterator<Item = (DmaAddress, usize)> + '_ {
        self.blocks().map(|block| (block.dma, block.len()))
    }

    /// Returns the blocks, in order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &Block> {
        let (one, many) = match &self.blocks {
            Blocks::One(block) => (Some(block), None),
            Blocks::Many(list) => (None, Some(list.iter())),
        };

        Iterator::chain(one.into_iter(), many.into_iter().flatten())
    }

    /// Returns the number of pages, which is [`PAGES`] unless the chunk is incomplete.
    fn pages(&self) -> usize {
        match &self.blocks {
            Blocks::One(block) => block.pages(),
            Blocks::Many(list) => list.pages,
        }
    }

    /// # Safety
    ///
    /// The requirements of [`Block::free()`].
    unsafe fn free(self, dev: &Device) {
        match self.blocks {
            // SAFETY: By the safety requirements.
            Blocks::One(block) => unsafe { block.free(dev) },
            Blocks::Many(list) => {
                for block in list.parts.into_iter().flatten() {
                    // SAFETY: By the safety requirements.
                    unsafe { block.free(dev) };
                }
            }
        }
    }
}

/// 2 MiB of memory, zeroed at first, that is mapped for DMA by a bound device.
///
/// Dropping it unmaps and frees the memory, which does not sleep.
pub struct Chunk<'a> {
    mem: ManuallyDrop<ChunkMem>,
    dev: &'a Device<Bound>,
}

impl<'a> Chunk<'a> {
    /// Size of a chunk in bytes.
    pub const SIZE: usize = SZ_2M;

    /// Allocates a chunk.
    ///
    /// Tries to get one block, then blocks of 16 pages, then single pages. With `GFP_NOWAIT` it
    /// never sleeps, but still takes the time to clear 2 MiB.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &'a Device<Bound>, flags: Flags) -> Result<Self> {
        if let Some(this) = Self::in_one(dev, flags) {
            return Ok(this);
        }

        // From here on, dropping `this` frees what was allocated so far.
        let mut this = Self::begin(dev, flags)?;
        this.fill(PAGES, flags)?;
        Ok(this)
    }

    fn with(dev: &'a Device<Bound>, blocks: Blocks, table: Option<TablePage>) -> Self {
        Self {
            mem: ManuallyDrop::new(ChunkMem {
                blocks,
                table,
                charge: None,
            }),
            dev,
        }
    }

    /// Allocates a chunk as one block, if that is possible without much effort.
    fn in_one(dev: &'a Device<Bound>, flags: Flags) -> Option<Self> {
        let block = Block::new(dev, ORDERS[0], flags | __GFP_NORETRY | __GFP_NOWARN).ok()?;

        Some(Self::with(dev, Blocks::One(block), None))
    }

    /// Creates an empty chunk that will have many blocks. Incomplete chunks are only used within
    /// this module.
    fn begin(dev: &'a Device<Bound>, flags: Flags) -> Result<Self> {
        let table = TablePage::new(flags)?;

        Ok(Self::with(
            dev,
            Blocks::Many(BlockList::default()),
            Some(table),
        ))
    }

    /// Allocates blocks until an incomplete chunk has `pages` pages. Blocks that were allocated
    /// before an error are kept.
    fn fill(&mut self, pages: usize, flags: Flags) -> Result {
        let dev = self.dev;
        let Blocks::Many(list) = &mut self.mem.blocks else {
            return Ok(());
        };

        // Larger blocks are optional.
        let _ = list.fill(dev, ORDERS[1], pages, flags | __GFP_NORETRY | __GFP_NOWARN);
        list.fill(dev, ORDERS[2], pages, flags)
    }

    /// Sets the charge for the memory. It is dropped when the memory is freed, or with the next
    /// call. The charge of a leaked chunk is never dropped.
    pub fn pay(&mut self, charge: Option<Charge>) {
        self.mem.charge = charge;
    }

    /// Takes the memory for the page table that is needed to map the chunk. Returns [`None`] if the
    /// chunk is one block, which needs no table, or if the memory was already taken.
    pub fn take_table(&mut self) -> Option<TablePage> {
        self.mem.table.take()
    }

    /// Returns the memory taken with [`Self::take_table()`].
    pub fn put_table(&mut self, table: TablePage) {
        self.mem.table = Some(table);
    }

    fn into_mem(self) -> ChunkMem {
        let mut this = ManuallyDrop::new(self);

        // SAFETY: `this` is not used any more, and never dropped.
        unsafe { ManuallyDrop::take(&mut this.mem) }
    }
}

impl core::ops::Deref for Chunk<'_> {
    type Target = ChunkMem;

    fn deref(&self) -> &ChunkMem {
        &self.mem
    }
}

impl Drop for Chunk<'_> {
    fn drop(&mut self) {
        // SAFETY: `mem` is not used after this; `dev` is the device that it was allocated for, and
        // bound.
        unsafe { ManuallyDrop::take(&mut self.mem).free(self.dev) };
    }
}

#[macros::kunit_tests(rust_drm_gem_uma_chunk)]
mod tests {
    use super::*;
    use crate::faux;

    #[test]
    fn orders_fill_a_chunk() {
        assert_eq!(1usize << (ORDERS[0] as usize + PAGE_SHIFT), Chunk::SIZE);
        assert_eq!(ORDERS[2], 0);
        for order in ORDERS {
            assert_eq!(Chunk::SIZE % (1 << (order as usize + PAGE_SHIFT)), 0);
        }
    }

    /// Returns the device, prepared for DMA.
    fn device(faux: &faux::Registration) -> &Device<Bound> {
        let dev: &Device<Bound> = faux.as_ref().as_ref();

        // SAFETY: The device is valid, and not used for DMA yet.
        unsafe {
            let dev = dev.as_raw();

            (*dev).coherent_dma_mask = u64::MAX;
            (*dev).dma_mask = &raw mut (*dev).coherent_dma_mask;
        }
        dev
    }

    #[test]
    fn partial_chunks_keep_what_they_have() -> Result {
        let faux = faux::Registration::new(c"rust_uma_chunk_kunit", None)?;
        let dev = device(&faux);
        let space = ChunkSpace::new(dev)?;
        let mut partial = Partial::new(&space, dev)?;

        for step in 1..PAGES / 16 {
            assert!(partial.grow(dev, 16, GFP_KERNEL)?.is_none());
            assert_eq!(partial.pages(dev), step * 16);
        }
        let chunk = partial.grow(dev, 16, GFP_KERNEL)?.ok_or(EINVAL)?;
        assert_eq!(
            chunk.segments().map(|(_, len)| len).sum::<usize>(),
            Chunk::SIZE
        );
        assert_eq!(partial.pages(dev), 0);
        Ok(())
    }

    #[test]
    fn chunks_can_be_read() -> Result {
        let faux = faux::Registration::new(c"rust_uma_chunk_kunit", None)?;
        let dev = device(&faux);
        let space = ChunkSpace::new(dev)?;
        let mut chunks = Chunks::new(&space, dev, 2)?;
        let mut copy = VVec::from_elem(0xa5u8, Chunk::SIZE, GFP_KERNEL)?;
        let mut pages = 0;

        chunks.fill(dev, 1, Chunk::new(dev, GFP_KERNEL)?)?;
        assert!(!chunks.read(dev, 0, 0, &mut copy, |_, _| ())?);
        assert!(copy.iter().all(|&byte| byte == 0xa5));
        assert!(chunks.read(dev, 1, 0, &mut copy, |number, _| {
            assert_eq!(number, pages);
            pages += 1;
        })?);
        assert_eq!(pages, PAGES);
        assert!(copy.iter().all(|&byte| byte == 0));

        // The last two pages, which may be in blocks of their own.
        let (part, _) = copy.split_at_mut(2 * PAGE_SIZE);
        part.fill(0xa5);
        pages = 0;
        assert!(chunks.read(dev, 1, PAGES - 2, part, |number, _| {
            assert_eq!(number, pages);
            pages += 1;
        })?);
        assert_eq!(pages, 2);
        assert!(part.iter().all(|&byte| byte == 0));
        assert!(chunks.read(dev, 1, PAGES - 1, part, |_, _| ()).is_err());
        assert!(chunks.read(dev, 1, PAGES, part, |_, _| ()).is_err());
        Ok(())
    }

    #[test]
    fn chunks_go_with_the_device() -> Result {
        let faux = faux::Registration::new(c"rust_uma_chunk_kunit", None)?;
        let dev = device(&faux);
        let space = ChunkSpace::new(dev)?;
        let mut chunks = Chunks::new(&space, dev, 3)?;

        chunks.fill(dev, 2, Chunk::new(dev, GFP_KERNEL)?)?;
        assert!(chunks.get(dev, 2).is_some());
        drop(faux);

        let faux = faux::Registration::new(c"rust_uma_chunk_kunit", None)?;
        let dev = device(&faux);
        assert!(chunks.get(dev, 2).is_none());
        assert!(chunks.fill(dev, 0, Chunk::new(dev, GFP_KERNEL)?).is_err());
        Ok(())
    }

    /// Returns the number of pages in the statistics of GPU memory, without the pending per-CPU
    /// differences.
    fn active() -> isize {
        let item = bindings::node_stat_item_NR_GPU_ACTIVE as usize;

        // SAFETY: The array has an entry for each item, which is only written atomically.
        unsafe { (&raw const bindings::vm_node_stat[item].counter).read_volatile() as isize }
    }

    #[test]
    fn leaked_chunks_stay() -> Result {
        const COUNT: usize = 4;
        let faux = faux::Registration::new(c"rust_uma_chunk_kunit", None)?;
        let dev = device(&faux);
        let space = ChunkSpace::new(dev)?;
        let before = active();

        for leak in [false, true] {
            let mut chunks = Chunks::new(&space, dev, COUNT)?;
            let mut copies = KVec::with_capacity(COUNT, GFP_KERNEL)?;

            for _ in 0..COUNT {
                chunks.push(dev, Chunk::new(dev, GFP_KERNEL)?)?;
            }
            assert!(active() - before > ((COUNT - 1) * PAGES) as isize);
            if leak {
                for index in 0..COUNT {
                    let mem = chunks.get(dev, index).ok_or(EINVAL)?;

                    // SAFETY: The pointer is valid. The original is leaked, so only the copy is
                    // freed.
                    let copy = unsafe { core::ptr::read(mem) };
                    copies.push(ManuallyDrop::new(copy), GFP_KERNEL)?;
                }
                chunks.leak(dev);
            }
            drop(chunks);

            let stayed = active() - before > ((COUNT - 1) * PAGES) as isize;
            assert_eq!(stayed, leak);
            for copy in copies {
                // SAFETY: The memory was leaked, so it is still allocated, for this device.
                unsafe { ManuallyDrop::into_inner(copy).free(dev) };
            }
            assert!(active() - before < PAGES as isize);
        }
        Ok(())
    }
}
