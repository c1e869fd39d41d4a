// SPDX-License-Identifier: GPL-2.0

//! Memory in pieces of 2 MiB that belongs to no file: for buffers that grow on demand.
//!
//! A buffer that grows while a job waits for the memory cannot use shmem: there is no way to ask it
//! for a page without the risk of waiting for reclaim, which may wait for the job. A [`Chunk`] is
//! allocated with the flags of the caller, `GFP_NOWAIT` included. It comes with the memory that is
//! needed to map it, so that who has a chunk can map it without waiting for memory.

use crate::{
    alloc::Flags,
    bindings,
    device::{
        Bound,
        Device, //
    },
    devres::Devres,
    dma::{
        DataDirection,
        DmaAddress, //
    },
    iommu::pgtable::TablePage,
    page::PAGE_SHIFT,
    prelude::*,
    sizes::SZ_2M,
    sync::aref::ARef, //
};
use core::{
    cell::UnsafeCell,
    mem::ManuallyDrop,
    ptr::NonNull, //
};

/// Orders of the blocks that a chunk is made of: at best it is one.
const ORDERS: [u32; 3] = {
    let top = SZ_2M.ilog2() - PAGE_SHIFT as u32;
    [top, if top > 4 { 4 } else { 0 }, 0]
};

/// `1 << order` pages that follow each other, zeroed and mapped for DMA.
///
/// # Invariants
///
/// `page` is the first of `1 << order` pages that we own; `dma` is their mapping, both directions.
struct Block {
    page: NonNull<bindings::page>,
    dma: DmaAddress,
    order: u32,
}

// SAFETY: Pages and DMA mappings belong to no thread.
unsafe impl Send for Block {}

// SAFETY: A shared `Block` can only be read.
unsafe impl Sync for Block {}

impl Block {
    const fn len(&self) -> usize {
        1 << (self.order as usize + PAGE_SHIFT)
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
        Ok(Self { page, dma, order })
    }

    /// Unmaps and frees the pages.
    ///
    /// # Safety
    ///
    /// `dev` must be the device that was given to [`Block::new()`], and be bound.
    unsafe fn free(self, dev: &Device) {
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

/// The memory of a [`Chunk`], seen by those who do not own it.
///
/// Its blocks together have [`Chunk::SIZE`] bytes.
pub struct ChunkMem {
    blocks: Blocks,
    /// For the table that maps the blocks, if it takes one.
    table: Option<TablePage>,
}

enum Blocks {
    One(Block),
    Many(KVec<Block>),
}

impl ChunkMem {
    /// Returns the DMA address and the length in bytes of each block, in order.
    ///
    /// Each address is a multiple of its length unless an IOMMU is in between.
    pub fn segments(&self) -> impl Iterator<Item = (DmaAddress, usize)> + '_ {
        self.blocks().iter().map(|b| (b.dma, b.len()))
    }

    fn blocks(&self) -> &[Block] {
        match &self.blocks {
            Blocks::One(block) => core::slice::from_ref(block),
            Blocks::Many(blocks) => blocks,
        }
    }

    /// # Safety
    ///
    /// As [`Block::free()`].
    unsafe fn free(self, dev: &Device) {
        match self.blocks {
            // SAFETY: By the safety requirements.
            Blocks::One(block) => unsafe { block.free(dev) },
            Blocks::Many(blocks) => {
                for block in blocks {
                    // SAFETY: By the safety requirements.
                    unsafe { block.free(dev) };
                }
            }
        }
    }
}

/// 2 MiB of zeroed memory that is mapped for DMA by a bound device.
///
/// Dropping it unmaps and frees the memory; that does not sleep.
pub struct Chunk<'a> {
    mem: ManuallyDrop<ChunkMem>,
    dev: &'a Device<Bound>,
}

impl<'a> Chunk<'a> {
    /// Size of a chunk in bytes.
    pub const SIZE: usize = SZ_2M;

    /// Allocates a chunk.
    ///
    /// Tries for one block, then for 64 KiB blocks, then for pages. With `GFP_NOWAIT` it never
    /// sleeps; 2 MiB have to be cleared all the same.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &'a Device<Bound>, flags: Flags) -> Result<Self> {
        let large = flags | __GFP_NORETRY | __GFP_NOWARN;

        if let Ok(block) = Block::new(dev, ORDERS[0], large) {
            return Ok(Self {
                mem: ManuallyDrop::new(ChunkMem {
                    blocks: Blocks::One(block),
                    table: None,
                }),
                dev,
            });
        }

        // From here on, dropping `this` frees what was allocated so far.
        let mut this = Self {
            mem: ManuallyDrop::new(ChunkMem {
                blocks: Blocks::Many(KVec::new()),
                table: Some(TablePage::new(flags)?),
            }),
            dev,
        };
        let Blocks::Many(blocks) = &mut this.mem.blocks else {
            return Err(EINVAL);
        };

        let mut left = Self::SIZE >> PAGE_SHIFT;
        for (i, order) in ORDERS.into_iter().enumerate().skip(1) {
            let last = i == ORDERS.len() - 1;
            let flags = if last { flags } else { large };

            // Room first, so that no block is without an owner.
            blocks.reserve(left >> order, flags)?;

            while left >> order != 0 {
                match Block::new(dev, order, flags) {
                    Ok(block) => blocks.push_within_capacity(block).map_err(|_| ENOMEM)?,
                    Err(err) if last => return Err(err),
                    Err(_) => break,
                }
                left -= 1 << order;
            }
        }

        Ok(this)
    }

    /// Takes the memory for the table that is needed to map the chunk. [`None`] if it has one block,
    /// which needs no table, or it was taken before.
    pub fn take_table(&mut self) -> Option<TablePage> {
        self.mem.table.take()
    }

    /// Gives back what [`Self::take_table()`] has taken.
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
        // SAFETY: `mem` is not used after this; `dev` is the device it was made for, and bound.
        unsafe { ManuallyDrop::take(&mut self.mem).free(self.dev) };
    }
}

/// The slots of a [`Chunks`], as long as the device is bound.
struct Table {
    slots: KVVec<UnsafeCell<Option<ChunkMem>>>,
    dev: ARef<Device>,
}

// SAFETY: `Table` owns its memory, which belongs to no thread.
unsafe impl Send for Table {}

// SAFETY: Slots are written by `Chunks` through exclusive references only, or with no reference to
// the table left.
unsafe impl Sync for Table {}

impl Drop for Table {
    fn drop(&mut self) {
        for slot in self.slots.iter_mut() {
            if let Some(mem) = slot.get_mut().take() {
                // SAFETY: All memory of the table was made for `dev`; this runs on unbind at the
                // latest, before the device is unbound.
                unsafe { mem.free(&self.dev) };
            }
        }
    }
}

/// Chunks by index: the memory of a buffer of which any 2 MiB may be there or not.
///
/// When the device is unbound, all memory is unmapped and freed. As long as it is bound, which the
/// caller proves, the memory stays where it is.
pub struct Chunks {
    table: Devres<Table>,
    filled: usize,
}

impl Chunks {
    /// Makes room for `slots` chunks. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &Device<Bound>, slots: usize) -> Result<Self> {
        let mut table = KVVec::with_capacity(slots, GFP_KERNEL)?;
        for _ in 0..slots {
            table.push(UnsafeCell::new(None), GFP_KERNEL)?;
        }

        Ok(Self {
            table: Devres::new(
                dev,
                Table {
                    slots: table,
                    dev: dev.into(),
                },
            )?,
            filled: 0,
        })
    }

    /// Returns the table.
    ///
    /// `dev` is bound, but maybe again: then what it had the first time is gone, which
    /// [`Devres::access()`] does not look for. `ENODEV` if so.
    fn table<'a>(table: &'a Devres<Table>, dev: &'a Device<Bound>) -> Result<&'a Table> {
        if table.try_access().is_none() {
            return Err(ENODEV);
        }
        table.access(dev)
    }

    /// Returns the number of slots that are filled.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Returns the chunk in slot `index`, or [`None`] if there is none.
    pub fn get<'a>(&'a self, dev: &'a Device<Bound>, index: usize) -> Option<&'a ChunkMem> {
        let slot = Self::table(&self.table, dev).ok()?.slots.get(index)?;

        // SAFETY: Slots are only written through `&mut self`.
        unsafe { (*slot.get()).as_ref() }
    }

    /// Puts `chunk` into slot `index`. Does not sleep.
    ///
    /// # Errors
    ///
    /// The chunk is freed, and the result is `EEXIST` if the slot is filled, `EINVAL` if there is no
    /// such slot or the chunk is another device's, and `ENODEV` if the device was unbound meanwhile.
    pub fn fill(&mut self, dev: &Device<Bound>, index: usize, chunk: Chunk<'_>) -> Result {
        let table = Self::table(&self.table, dev)?;
        if chunk.dev.as_raw() != dev.as_raw() {
            return Err(EINVAL);
        }
        let slot = table.slots.get(index).ok_or(EINVAL)?;

        // SAFETY: We have `&mut self`.
        let slot = unsafe { &mut *slot.get() };
        if slot.is_some() {
            return Err(EEXIST);
        }

        *slot = Some(chunk.into_mem());
        self.filled += 1;
        Ok(())
    }

    /// Returns the numbers of the slots that are filled, in ascending order.
    pub fn indices<'a>(&'a self, dev: &'a Device<Bound>) -> impl Iterator<Item = usize> + 'a {
        let slots = match Self::table(&self.table, dev) {
            Ok(table) => table.slots.as_slice(),
            Err(_) => &[],
        };

        slots
            .iter()
            .enumerate()
            // SAFETY: Slots are only written through `&mut self`.
            .filter(|(_, slot)| unsafe { (*slot.get()).is_some() })
            .map(|(index, _)| index)
    }

    /// Puts `chunk` on top of a stack of chunks: slots that were never used in another way.
    ///
    /// # Errors
    ///
    /// As [`Self::fill()`]; `EINVAL` if the stack is full.
    pub fn push(&mut self, dev: &Device<Bound>, chunk: Chunk<'_>) -> Result {
        self.fill(dev, self.filled, chunk)
    }

    /// Takes the chunk from the top of a stack of chunks.
    pub fn pop<'a>(&mut self, dev: &'a Device<Bound>) -> Option<Chunk<'a>> {
        self.take(dev, self.filled.checked_sub(1)?)
    }

    /// Takes the chunk out of slot `index`.
    pub fn take<'a>(&mut self, dev: &'a Device<Bound>, index: usize) -> Option<Chunk<'a>> {
        let slot = Self::table(&self.table, dev).ok()?.slots.get(index)?;

        // SAFETY: We have `&mut self`.
        let mem = unsafe { &mut *slot.get() }.take()?;

        self.filled -= 1;
        Some(Chunk {
            mem: ManuallyDrop::new(mem),
            dev,
        })
    }
}

#[macros::kunit_tests(rust_drm_gem_uma_chunk)]
mod tests {
    use super::*;

    #[test]
    fn orders_fill_a_chunk() {
        assert_eq!(1usize << (ORDERS[0] as usize + PAGE_SHIFT), Chunk::SIZE);
        assert_eq!(ORDERS[2], 0);
        for order in ORDERS {
            assert_eq!(Chunk::SIZE % (1 << (order as usize + PAGE_SHIFT)), 0);
        }
    }
}
