// SPDX-License-Identifier: GPL-2.0

//! Page tables of the GPU. The family [makes](Tables::new_table) them, in a format that its
//! hardware walks.
//!
//! A table is a device-managed resource: unbind frees it, however long its owner lives, unless the
//! GPU is abandoned and may go on walking it, in which case the table is leaked. All accesses to a
//! table require a bound device.
//!
//! No other code of the core gives physical addresses to the GPU's MMU.
//!
//! Locks: that of the writer, a spinlock for each table, which is released to wait for memory.
//! Inside it nest the spinlock of the memory that the writer lends, and that of the hardware's
//! address spaces with that of the removed tables inside. Process context. Creating and dropping a
//! table sleeps, and [`PageTable::map`] does if its flags allow it. Mapping without waiting is also
//! for the fault path, and unmapping for reclaim and MMU notifiers as well.

use core::{
    mem,
    ops::Range, //
};

use kernel::{
    alloc::Flags,
    bitmap::BitmapVec,
    device::{
        Bound,
        Device, //
    },
    devres::{
        DevresItemLt,
        DevresListLt, //
    },
    dma::DmaAddress,
    iommu::pgtable::{
        prot,
        IoPageTable,
        IoPageTableFmt,
        Reserved,
        TablePool,
        Writer, //
    },
    prelude::*,
    sizes::{
        SZ_1G,
        SZ_2M,
        SZ_4K, //
    },
    sync::{
        aref::ARef,
        Arc, //
    },
    types::CovariantForLt, //
};

use crate::{
    device::{
        Device as DrmDevice,
        DeviceData,
        Gpu, //
    },
    hw::{
        TableOf,
        Tables,
        Walker, //
    }, //
};

/// Configuration with which the hardware reads a table.
pub(super) type WalkConfig = <Gpu<'static> as Walker>::Config;

/// Access rights of the GPU to pages. Reading is always allowed.
#[derive(Clone, Copy)]
pub(crate) struct Prot {
    /// Run shaders from them.
    pub(crate) exec: bool,
    /// Write to them.
    pub(crate) write: bool,
}

impl Prot {
    /// Returns the rights as flags of the page-table code.
    fn bits(self) -> u32 {
        let noexec = if self.exec { 0 } else { prot::NOEXEC };
        let write = if self.write { prot::WRITE } else { 0 };

        prot::READ | write | prot::CACHE | noexec
    }
}

/// Size of a page.
const PAGE: u64 = SZ_4K as u64;

/// Size of a block.
const BLOCK: u64 = SZ_2M as u64;

/// A table in either format of the family.
type AnyTable<'a> = TableOf<'a, <Gpu<'static> as Tables>::First, <Gpu<'static> as Tables>::Second>;

/// A table that is leaked instead of freed if the GPU is abandoned, as it may go on walking the
/// table.
struct Walked<'a> {
    /// [`None`] only while this is being dropped.
    table: Option<AnyTable<'a>>,
    drm: ARef<DrmDevice>,
}

impl<'a> Walked<'a> {
    fn new(table: AnyTable<'a>, drm: &DrmDevice) -> Self {
        Self {
            table: Some(table),
            drm: drm.into(),
        }
    }

    fn get(&self) -> Result<&AnyTable<'a>> {
        self.table.as_ref().ok_or(ENODEV)
    }
}

impl Drop for Walked<'_> {
    fn drop(&mut self) {
        if self.drm.address_spaces.check().is_err() {
            mem::forget(self.table.take());
        }
    }
}

/// A [`Walked`] for as long as its device is bound.
type WhileBound = CovariantForLt!(Walked<'_>);

/// The page tables of a device, which are freed when the device unbinds.
pub(crate) struct PageTables(DevresListLt<WhileBound>);

impl PageTables {
    /// Creates the list, without tables. Sleeps.
    pub(crate) fn new(dev: &Device<Bound>) -> Result<Self> {
        Ok(Self(DevresListLt::new(dev)?))
    }
}

/// Range that one table of block entries covers.
const GIB: u64 = SZ_1G as u64;

/// Number of entries to write before other writers get a chance.
const BATCH: usize = 512;

/// Memory for the page tables that a mapping needs.
pub(super) struct TableMemory<'a> {
    /// Reserved pages, which are used first.
    pub(super) reserved: &'a mut Reserved,
    /// Flags to allocate with if there are too few.
    pub(super) gfp: Flags,
}

/// The page table of an address space.
///
/// One task at a time writes to it, with memory that it has reserved for the tables that it may
/// need. The lock is released between batches of entries and to allocate; other tasks that write in
/// the meantime work on other ranges.
///
/// The table code frees a table of 4 KiB entries at once when it unmaps the whole block that the
/// table covers, or maps a block over it, although the hardware may still hold a pointer to the
/// table. Therefore `small` records where such tables are. Their entries are unmapped as single
/// pages, which leaves the table in place. A table in the way of a block is removed while the
/// hardware is kept from making accesses there, and freed once it has forgotten the table.
pub(super) struct PageTable {
    table: DevresItemLt<WhileBound>,
    /// For each block, whether it may have a table of 4 KiB entries. Changed by the writer.
    small: BitmapVec,
    /// For each GiB, whether it has a table of block entries, which is never freed. Set by the
    /// writer.
    large: BitmapVec,
    /// Holds the writer's lock, and the memory for tables that the writer lends.
    pool: Arc<TablePool>,
}

impl PageTable {
    /// Creates an empty table. Returns it with the configuration for the hardware to read it.
    /// Sleeps.
    pub(super) fn new(drm: &DrmDevice, gpu: &Gpu<'_>) -> Result<(Self, WalkConfig)> {
        let dev = gpu.dev();
        let end = DeviceData::ADDRESSES.end;
        let blocks = usize::try_from(end / BLOCK)?;
        let gibs = usize::try_from(end.div_ceil(GIB))?;
        let small = BitmapVec::new(blocks, GFP_KERNEL_ACCOUNT)?;
        let large = BitmapVec::new(gibs, GFP_KERNEL_ACCOUNT)?;
        let pool = TablePool::new()?;
        let table = gpu.new_table(dev, pool.clone())?;
        // SAFETY: The entry of an AS with this table holds the `VmShared`, and the AS is turned off
        // before that goes or before the device unbinds, whichever comes first. If the AS of an
        // abandoned GPU cannot be turned off, `Walked` leaks the table.
        let root = unsafe {
            match &table {
                TableOf::First(table) => <Gpu<'_> as Tables>::first_root()(table),
                TableOf::Second(table) => <Gpu<'_> as Tables>::second_root()(table),
            }
        };
        let config = gpu.walk(&table, root)?;
        let table = Walked::new(table, drm);
        // SAFETY: The table borrows nothing but the bound device.
        let table = unsafe { drm.tables.0.add(dev, table) }?;

        Ok((
            Self {
                table,
                small,
                large,
                pool,
            },
            config,
        ))
    }

    /// Maps segments of memory one after the other, from the start of `range`, which must be large
    /// enough for all of them. Returns the range that was mapped, also on error; in that case the
    /// caller must unmap it.
    ///
    /// `exclude` calls the function that it is given while it keeps the hardware from making
    /// accesses in a range, and then flushes the range. It is called with the writer's spinlock
    /// held. If it fails with `EBUSY`, because the hardware cannot be kept out until a reset, or
    /// with `ETIMEDOUT`, the tables of 4 KiB entries that are left stay, and are filled with such
    /// entries. Any other error ends the call.
    ///
    /// The caller must own the range, with nothing mapped in it. `segments` must be memory that
    /// stays mapped for the device until the range is unmapped and flushed. Sleeps if the flags of
    /// `memory` allow it.
    pub(super) fn map(
        &self,
        dev: &Device<Bound>,
        range: Range<u64>,
        segments: impl Iterator<Item = (DmaAddress, usize)>,
        (prot, memory): (Prot, TableMemory<'_>),
        exclude: impl FnMut(&Range<u64>, &mut dyn FnMut()) -> Result,
    ) -> (Range<u64>, Result) {
        let mut va = range.start;
        let how = (prot, memory);
        let table = self.table.access(dev).and_then(Walked::get);
        let result = table.and_then(|table| match table {
            TableOf::First(table) => self.map_in(table, &mut va, range.end, segments, how, exclude),
            TableOf::Second(table) => {
                self.map_in(table, &mut va, range.end, segments, how, exclude)
            }
        });

        (range.start..va, result)
    }

    /// Unmaps a range, which the caller must own and all of which must be mapped. Frees no table.
    /// Does not sleep.
    ///
    /// `EFAULT` if part of it was not mapped; everything before that part is unmapped.
    pub(super) fn unmap(&self, dev: &Device<Bound>, range: Range<u64>) -> Result {
        match self.table.access(dev)?.get()? {
            TableOf::First(table) => self.unmap_in(table, range),
            TableOf::Second(table) => self.unmap_in(table, range),
        }
    }

    /// Allocates the tables for 4 KiB pages in a range, so that mapping such pages later allocates
    /// nothing. The caller must own the range, which must be empty. Sleeps.
    ///
    /// To create the tables, `page` is mapped read-only for a moment. The caller must flush the
    /// range before it frees the page, also after an error.
    pub(super) fn reserve(
        &self,
        dev: &Device<Bound>,
        range: &Range<u64>,
        page: DmaAddress,
    ) -> Result {
        let prot = Prot {
            exec: false,
            write: false,
        };
        let mut tables = Reserved::new();
        let mut va = range.start;

        while va < range.end {
            let memory = TableMemory {
                reserved: &mut tables,
                // Running out of memory is an error for the caller, no reason to invoke the OOM
                // killer.
                gfp: GFP_KERNEL_ACCOUNT | __GFP_RETRY_MAYFAIL | __GFP_NOWARN,
            };
            let (mapped, result) = self.map(
                dev,
                va..va + SZ_4K as u64,
                core::iter::once((page, SZ_4K)),
                (prot, memory),
                // Only blocks need this: a 4 KiB page never replaces a table.
                |_, _| Err(EINVAL),
            );

            self.unmap(dev, mapped)?;
            result?;
            va = (va / BLOCK + 1) * BLOCK;
        }
        Ok(())
    }

    /// Returns the number of the block that contains `va`. `ERANGE` beyond the last one.
    fn block_of(&self, va: u64) -> Result<usize> {
        let block = usize::try_from(va / BLOCK)?;

        (block < self.small.len()).then_some(block).ok_or(ERANGE)
    }

    /// Records that the block containing `va` has no table.
    fn clear_small(&self, va: u64) {
        if let Ok(block) = self.block_of(va) {
            self.small.clear_bit_atomic(block);
        }
    }

    /// Returns the start of the first block that may have a table, beginning with the block that
    /// contains `va`. Returns [`u64::MAX`] if there is none.
    fn next_small(&self, va: u64) -> u64 {
        self.block_of(va)
            .ok()
            .and_then(|block| self.small.next_bit(block))
            .map_or(u64::MAX, |block| block as u64 * BLOCK)
    }

    /// Lends the table code memory for the tables that are missing on the path to `va`: the one
    /// below the root, the one for its GiB, and the one for its block unless `size` is that of a
    /// block.
    fn prepare(&self, writer: &mut Writer<'_>, va: u64, size: usize, gfp: Flags) -> Result {
        let (gib, block) = (usize::try_from(va / GIB)?, self.block_of(va)?);
        let missing = usize::from(self.large.next_bit(0).is_none())
            + usize::from(!is_set(&self.large, gib))
            + usize::from(size != SZ_2M && !is_set(&self.small, block));

        match missing {
            // The usual case.
            0 => Ok(()),
            _ => writer.lend(missing, gfp),
        }
    }

    /// Records that the tables on the path to `va` exist, where an entry of `size` was written.
    /// Returns the end of the range that the lowest of them covers.
    fn note_tables(&self, va: u64, size: usize) -> Result<u64> {
        self.large.set_bit_atomic(usize::try_from(va / GIB)?);
        if size == SZ_2M {
            return Ok((va / GIB + 1) * GIB);
        }
        self.small.set_bit_atomic(self.block_of(va)?);
        Ok((va / BLOCK + 1) * BLOCK)
    }

    /// Implements [`Self::map`] for one format. Advances `va` past everything that was mapped, also
    /// on error.
    fn map_in<F: IoPageTableFmt>(
        &self,
        table: &IoPageTable<'_, F>,
        va: &mut u64,
        end: u64,
        mut segments: impl Iterator<Item = (DmaAddress, usize)>,
        (prot, memory): (Prot, TableMemory<'_>),
        mut exclude: impl FnMut(&Range<u64>, &mut dyn FnMut()) -> Result,
    ) -> Result {
        let mut writer = self.pool.write(memory.reserved);
        let mut left = BATCH;
        // Cached result of `next_small()`: valid while it is not below `va`.
        let mut small = 0;
        // Whether tables in the way of blocks stay.
        let mut keeps_tables = false;
        // Ends of the ranges for which the tables are known to exist, for blocks and for pages.
        let mut served = [0, 0];
        let at_once = GFP_NOWAIT | __GFP_NOWARN;

        segments.try_for_each(|(mut paddr, len)| {
            let mut len = len as u64;

            if (*va | wide(paddr) | len) % SZ_4K as u64 != 0 {
                return Err(EINVAL);
            }
            while len != 0 {
                let (mut size, mut count) = step(*va | wide(paddr), len);

                if size == SZ_2M {
                    let behind = *va + count as u64 * BLOCK;

                    if small < *va {
                        small = self.next_small(*va);
                    }
                    if small < behind && !keeps_tables {
                        // Frees all tables that may be in the way at once, to stop the hardware
                        // only once.
                        let range = *va..end.max(behind);
                        let removed = writer.remove_tables(|| {
                            exclude(&range, &mut || self.free_tables(table, &range))
                        });
                        match removed {
                            Err(EBUSY | ETIMEDOUT) => keeps_tables = true,
                            result => result?,
                        }
                        small = self.next_small(*va);
                    }
                    if small < behind {
                        (size, count) = match (small - *va) / BLOCK {
                            0 => (SZ_4K, SZ_2M / SZ_4K),
                            // At most `count`.
                            blocks => (SZ_2M, blocks as usize),
                        };
                    }
                }

                if count > left {
                    writer.pause();
                    left = BATCH;
                }
                left -= count;

                let [blocks, pages] = &mut served;
                let reach = if size == SZ_2M { blocks } else { pages };
                let is_new = *va >= *reach;
                if is_new {
                    self.prepare(&mut writer, *va, size, memory.gfp)?;
                }
                // SAFETY:
                // - `writer` excludes other writers. The caller owns the range (it holds its
                //   `VaNode`) and has nothing mapped there.
                // - The memory stays mapped for the device until the range has been unmapped and
                //   flushed, as `VmShared::map` requires of its callers: if `VmShared::unmap`
                //   fails, they keep the pages.
                let (mapped, result) = unsafe {
                    table.map_pages(*va as usize, paddr, size, count, prot.bits(), at_once)
                };

                if is_new && mapped != 0 {
                    *reach = self.note_tables(*va, size)?;
                }
                *va += mapped as u64;
                paddr += mapped as DmaAddress;
                len = len.saturating_sub(mapped as u64);
                result?;
                if mapped == 0 {
                    return Err(EFAULT);
                }
            }
            Ok(())
        })
    }

    /// Removes the tables of the blocks that lie completely in `range`, where nothing is mapped.
    /// The hardware must not walk them meanwhile. The caller must be the writer, and
    /// [remove tables](Writer::remove_tables).
    fn free_tables<F: IoPageTableFmt>(&self, table: &IoPageTable<'_, F>, range: &Range<u64>) {
        let mut va = self.next_small(range.start.next_multiple_of(BLOCK));

        while va < range.end && range.end - va >= BLOCK {
            // SAFETY: The caller is the only writer and owns the block. The block has at most an
            // empty table. If it has none, the table code finds an invalid entry and returns 0,
            // without a warning because of the `NO_WARN` quirk.
            let _ = unsafe { table.unmap_pages(va as usize, SZ_2M, 1) };

            self.clear_small(va);
            va = self.next_small(va + BLOCK);
        }
    }

    /// Implements [`Self::unmap`] for one format.
    fn unmap_in<F: IoPageTableFmt>(&self, table: &IoPageTable<'_, F>, range: Range<u64>) -> Result {
        let mut tables = Reserved::new();
        let mut writer = self.pool.write(&mut tables);
        let mut left = BATCH;
        let mut va = range.start;

        while va < range.end {
            let (size, count) = match step(va, range.end - va) {
                (SZ_2M, count) => match (self.next_small(va) - va) / BLOCK {
                    0 => (SZ_4K, SZ_2M / SZ_4K),
                    // At most `count`.
                    blocks => (SZ_2M, blocks.min(count as u64) as usize),
                },
                pages => pages,
            };
            if count > left {
                writer.pause();
                left = BATCH;
            }
            left -= count;
            // SAFETY: `writer` excludes other writers. The caller owns the range and has mapped it.
            // If it has not, the table code finds an invalid entry and returns 0, without a warning
            // because of the `NO_WARN` quirk.
            let unmapped = unsafe { table.unmap_pages(va as usize, size, count) };

            if unmapped == 0 {
                return Err(EFAULT);
            }
            va += unmapped as u64;
        }
        Ok(())
    }
}

/// Returns whether `bit`, which must be within the map, is set.
fn is_set(map: &BitmapVec, bit: usize) -> bool {
    map.next_bit(bit) == Some(bit)
}

/// Widens a DMA address, which has 32 bits on some kernels.
fn wide(addr: impl Into<u64>) -> u64 {
    addr.into()
}

/// Returns the largest page size for the next step, and the number of pages to pass in one call:
/// the table code does not cross from one table into the next. `addr` is the bitwise OR of the
/// virtual and the physical address.
fn step(addr: u64, len: u64) -> (usize, usize) {
    let to_block = addr.wrapping_neg() % BLOCK;
    // The counts are bounded by 512.
    if to_block == 0 && len >= BLOCK {
        let to_table = match addr.wrapping_neg() % GIB {
            0 => GIB,
            rest => rest,
        };
        (SZ_2M, (to_table.min(len) / BLOCK) as usize)
    } else {
        let room = if to_block == 0 { BLOCK } else { to_block };
        (SZ_4K, (room.min(len) / PAGE) as usize)
    }
}

#[kunit_tests(drm_gpu_page_table)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let (mib2, gib) = (SZ_2M as u64, SZ_1G as u64);

        // Blocks, up to the end of their table.
        assert!(step(0, 4 * mib2) == (SZ_2M, 4));
        assert!(step(gib - mib2, 4 * mib2) == (SZ_2M, 1));
        assert!(step(gib, 2 * gib) == (SZ_2M, 512));
        // Pages up to the next block.
        assert!(step(mib2 - 0x3000, 4 * mib2) == (SZ_4K, 3));
        assert!(step(mib2, mib2 - 0x1000) == (SZ_4K, 511));
        assert!(step(0x1000, 0x2000) == (SZ_4K, 2));
    }
}
