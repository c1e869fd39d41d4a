// SPDX-License-Identifier: GPL-2.0

//! Page tables of the GPU, in one of two formats: Midgard's own, which all these GPUs can walk, and
//! that of 64-bit Arm CPUs, which some systems need.
//!
//! A table is a device-managed resource: it is gone when unbind is over, however long its owner
//! lives; unless the GPU was abandoned and may walk it for ever. All accesses go through a bound
//! device.
//!
//! This is the one place of the driver that tells the GPU where memory is.

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
    devres::DevresLt,
    dma::DmaAddress,
    iommu::pgtable::{
        prot,
        quirk,
        ARMMaliLPAE,
        Config,
        IoPageTable,
        IoPageTableFmt,
        TablePool,
        ARM64LPAES1, //
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

use super::va;
use crate::{
    device::{
        Device as DrmDevice,
        Gpu, //
    },
    hw::mali::mmu, //
};

/// What the GPU may do with pages. Reading it always may.
#[derive(Clone, Copy)]
pub(crate) struct Prot {
    /// Run shaders from them.
    pub(crate) exec: bool,
    /// Write to them.
    pub(crate) write: bool,
}

impl Prot {
    /// As the page-table code wants it.
    fn bits(self) -> u32 {
        let noexec = if self.exec { 0 } else { prot::NOEXEC };
        let write = if self.write { prot::WRITE } else { 0 };

        prot::READ | write | prot::CACHE | noexec
    }
}

/// A table that is leaked on purpose if the hardware may go on to walk it.
struct Walked<'a, F: IoPageTableFmt> {
    /// Always there, until it is dropped.
    table: Option<IoPageTable<'a, F>>,
    drm: ARef<DrmDevice>,
}

impl<'a, F: IoPageTableFmt> Walked<'a, F> {
    fn new(table: IoPageTable<'a, F>, drm: &DrmDevice) -> Self {
        Self {
            table: Some(table),
            drm: drm.into(),
        }
    }

    fn get(&self) -> Result<&IoPageTable<'a, F>> {
        self.table.as_ref().ok_or(ENODEV)
    }
}

impl<F: IoPageTableFmt> Drop for Walked<'_, F> {
    fn drop(&mut self) {
        if self.drm.slots.check().is_err() {
            mem::forget(self.table.take());
        }
    }
}

/// A table in Midgard's own format.
type Legacy = CovariantForLt!(Walked<'_, ARMMaliLPAE>);
/// A table in the format of 64-bit Arm CPUs.
type Aarch64 = CovariantForLt!(Walked<'_, ARM64LPAES1>);

/// A table in either format.
enum Table {
    /// Midgard's own.
    Legacy(DevresLt<Legacy>),
    /// 64-bit Arm.
    Aarch64(DevresLt<Aarch64>),
}

/// Size of a block.
const BLOCK: u64 = SZ_2M as u64;

/// The page table of an address space.
///
/// The table code frees a table of 4 KiB entries as soon as it unmaps the block that the table
/// stands for, or maps a block over it, while the hardware may still have a pointer to it. Hence
/// it is noted where such tables are. Their entries are unmapped one by one, which leaves the table
/// in place; one that is in the way of a block goes while the hardware makes no accesses there.
pub(super) struct PageTable {
    table: Table,
    /// By the number of a block: whether it may have a table. Who owns the whole block owns its bit.
    small: BitmapVec,
    /// Memory for tables, for who cannot wait for it.
    pool: Arc<TablePool>,
}

impl PageTable {
    /// Makes an empty table. Says also how the hardware is to read it. Sleeps.
    pub(super) fn new(drm: &DrmDevice, gpu: &Gpu<'_>) -> Result<(Self, mmu::Config)> {
        let dev = gpu.dev();
        let blocks = usize::try_from(va::RANGE.end / BLOCK)?;
        let small = BitmapVec::new(blocks, GFP_KERNEL)?;
        let pool = TablePool::new()?;
        let config = || Config {
            quirks: quirk::NO_WARN,
            pgsize_bitmap: SZ_4K | SZ_2M,
            ias: gpu.id.va_bits(),
            oas: gpu.id.pa_bits(),
            coherent_walk: gpu.coherent,
        };

        if gpu.soc.aarch64_tables {
            let table = IoPageTable::<'_, ARM64LPAES1>::with_pool(dev, config(), pool.clone())?;
            // SAFETY: A slot with this table holds its `Space`, and is turned off before that goes
            // or before the device unbinds, whichever comes first.
            let ttbr = unsafe { table.ttbr() };
            let config =
                mmu::Config::aarch64_4k(ttbr, table.mair(), gpu.id.va_bits(), gpu.coherent);
            let table = Walked::new(table, drm);
            // SAFETY: The table borrows nothing but the bound device.
            let table = unsafe { DevresLt::new(dev, Ok::<_, Error>(table)) }?;

            let table = Table::Aarch64(table);
            Ok((Self { table, small, pool }, config))
        } else {
            let table = IoPageTable::<'_, ARMMaliLPAE>::with_pool(dev, config(), pool.clone())?;
            // SAFETY: As above.
            let transtab = unsafe { table.transtab() };
            let config = mmu::Config::legacy(transtab, table.memattr());
            let table = Walked::new(table, drm);
            // SAFETY: As above.
            let table = unsafe { DevresLt::new(dev, Ok::<_, Error>(table)) }?;

            let table = Table::Legacy(table);
            Ok((Self { table, small, pool }, config))
        }
    }

    /// Where tables come from when nobody waits for memory.
    pub(super) fn pool(&self) -> &TablePool {
        &self.pool
    }

    /// Maps segments of memory one after the other, from the start of `range`, which holds all of
    /// them. Returns what is mapped now, also on error; the caller unmaps that then.
    ///
    /// `exclude` keeps the hardware from making accesses in a range while it calls what it is given,
    /// and then makes it forget what it knows of the range. If it cannot, it calls nothing.
    ///
    /// The range must be the caller's own, and `segments` must be memory that is mapped for the
    /// device until the range is unmapped and flushed. Sleeps if `gfp` allows it.
    pub(super) fn map(
        &self,
        dev: &Device<Bound>,
        range: Range<u64>,
        segments: impl Iterator<Item = (DmaAddress, usize)>,
        how: (Prot, Flags),
        exclude: impl FnMut(&Range<u64>, &mut dyn FnMut()) -> Result,
    ) -> (Range<u64>, Result) {
        let mut va = range.start;
        let result = match &self.table {
            Table::Legacy(table) => table
                .access(dev)
                .and_then(Walked::get)
                .and_then(|table| self.map_in(table, &mut va, range.end, segments, how, exclude)),
            Table::Aarch64(table) => table
                .access(dev)
                .and_then(Walked::get)
                .and_then(|table| self.map_in(table, &mut va, range.end, segments, how, exclude)),
        };

        (range.start..va, result)
    }

    /// Unmaps a range, all of which must be mapped and the caller's own. Frees no table. Does not
    /// sleep.
    ///
    /// `EFAULT` if some of it was not mapped; what was in front of that is unmapped.
    pub(super) fn unmap(&self, dev: &Device<Bound>, range: Range<u64>) -> Result {
        match &self.table {
            Table::Legacy(table) => self.unmap_in(table.access(dev)?.get()?, range),
            Table::Aarch64(table) => self.unmap_in(table.access(dev)?.get()?, range),
        }
    }

    /// Makes the tables for 4 KiB pages in a range, which must be the caller's own and empty: mapping
    /// and unmapping such pages takes no memory then. Sleeps.
    ///
    /// For a moment the GPU can read `page` there. The caller flushes, also after an error.
    pub(super) fn reserve(
        &self,
        dev: &Device<Bound>,
        range: &Range<u64>,
        page: DmaAddress,
    ) -> Result {
        let how = Prot {
            exec: false,
            write: false,
        };
        let mut va = range.start;

        while va < range.end {
            let (mapped, result) = self.map(
                dev,
                va..va + SZ_4K as u64,
                core::iter::once((page, SZ_4K)),
                (how, GFP_KERNEL),
                // Nothing is ever in the way of a page.
                |_, _| Err(EINVAL),
            );

            self.unmap(dev, mapped)?;
            result?;
            va = (va / BLOCK + 1) * BLOCK;
        }
        Ok(())
    }

    /// The number of the block that `va` lies in.
    fn block_of(&self, va: u64) -> Result<usize> {
        let block = usize::try_from(va / BLOCK)?;

        (block < self.small.len()).then_some(block).ok_or(ERANGE)
    }

    /// Where the next block begins that may have a table, from the one that `va` lies in on. The end of
    /// all addresses if there is none.
    fn next_small(&self, va: u64) -> u64 {
        self.block_of(va)
            .ok()
            .and_then(|block| self.small.next_bit(block))
            .map_or(u64::MAX, |block| block as u64 * BLOCK)
    }

    /// [`Self::map`] for one format. Moves `va` behind what was mapped, also on error.
    fn map_in<F: IoPageTableFmt>(
        &self,
        table: &IoPageTable<'_, F>,
        va: &mut u64,
        end: u64,
        mut segments: impl Iterator<Item = (DmaAddress, usize)>,
        (prot, gfp): (Prot, Flags),
        mut exclude: impl FnMut(&Range<u64>, &mut dyn FnMut()) -> Result,
    ) -> Result {
        // Not before `va`, once it is looked at.
        let mut small = 0;

        segments.try_for_each(|(mut paddr, len)| {
            let mut len = len as u64;

            if (*va | paddr | len) % SZ_4K as u64 != 0 {
                return Err(EINVAL);
            }
            while len != 0 {
                let (size, count) = step(*va | paddr, len);

                if size == SZ_2M {
                    let behind = *va + count as u64 * BLOCK;

                    if small < *va {
                        small = self.next_small(*va);
                    }
                    if small < behind {
                        // All that may be in the way, not to stop the hardware again for the next.
                        let range = *va..end.max(behind);
                        exclude(&range, &mut || self.free_tables(table, &range))?;
                        small = self.next_small(*va);
                    }
                } else {
                    // The step stays in its block.
                    self.small.set_bit_atomic(self.block_of(*va)?);
                }
                // SAFETY:
                // - The caller owns the range (it holds its `VaNode`), so nobody else works on it
                //   and nothing is mapped there.
                // - The memory stays mapped for the device until the range was unmapped and flushed,
                //   which is what `Space::unmap` returns or fails to.
                let (mapped, result) =
                    unsafe { table.map_pages(*va as usize, paddr, size, count, prot.bits(), gfp) };
                let mapped = mapped as u64;

                *va += mapped;
                paddr += mapped;
                len = len.saturating_sub(mapped);
                result?;
                if mapped == 0 {
                    return Err(EFAULT);
                }
            }
            Ok(())
        })
    }

    /// Frees the tables of the blocks that lie in `range`, where nothing is mapped. The hardware must
    /// not walk them.
    fn free_tables<F: IoPageTableFmt>(&self, table: &IoPageTable<'_, F>, range: &Range<u64>) {
        let mut va = self.next_small(range.start.next_multiple_of(BLOCK));

        while va < range.end && range.end - va >= BLOCK {
            // SAFETY: The caller owns the block, all of it, so nobody else works on it. There is at most
            // an empty table; without one, the table code sees an entry that is not there and returns 0,
            // without a warning because of the quirk.
            let _ = unsafe { table.unmap_pages(va as usize, SZ_2M, 1) };

            if let Ok(block) = self.block_of(va) {
                self.small.clear_bit_atomic(block);
            }
            va = self.next_small(va + BLOCK);
        }
    }

    /// [`Self::unmap`] for one format.
    fn unmap_in<F: IoPageTableFmt>(&self, table: &IoPageTable<'_, F>, range: Range<u64>) -> Result {
        let mut va = range.start;

        while va < range.end {
            let (size, count) = match step(va, range.end - va) {
                (SZ_2M, count) => match (self.next_small(va) - va) / BLOCK {
                    0 => (SZ_4K, SZ_2M / SZ_4K),
                    // Not more than `count`.
                    blocks => (SZ_2M, blocks.min(count as u64) as usize),
                },
                pages => pages,
            };
            // SAFETY: The caller owns the range, so nobody else works on it. It has mapped it; should
            // it be wrong, the table code sees an entry that is not there and returns 0, without a
            // warning because of the quirk.
            let unmapped = unsafe { table.unmap_pages(va as usize, size, count) };

            if unmapped == 0 {
                return Err(EFAULT);
            }
            va += unmapped as u64;
        }
        Ok(())
    }
}

/// Chooses the largest page size for the next step, and how many pages can go at once: the table
/// code does not cross from one table to the next. `addr` is virtual and physical address, or-ed.
fn step(addr: u64, len: u64) -> (usize, usize) {
    const PAGE: u64 = SZ_4K as u64;
    const TABLE: u64 = SZ_1G as u64;

    let to_block = addr.wrapping_neg() % BLOCK;
    // The counts are bounded by 512.
    if to_block == 0 && len >= BLOCK {
        let to_table = match addr.wrapping_neg() % TABLE {
            0 => TABLE,
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
