// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Storage for chunks, until the device is unbound.
//!
//! A growing buffer has a table of chunks, and a driver can have thousands of such buffers. So the
//! tables of a device are in one [`DevresList`], whose memory is freed on unbind.
//!
//! No locks but those of the list: [`Chunks`] are changed through an exclusive reference. Creating
//! and dropping them sleeps; reading and changing entries does not.

use super::{
    Chunk,
    ChunkMem,
    PAGES, //
};
use crate::{
    alloc::Flags,
    device::{
        Bound,
        Device, //
    },
    devres::{
        DevresItem,
        DevresList, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        }, //
    }, //
};
use core::{
    cell::UnsafeCell,
    mem, //
};

/// The entries of a [`Chunks`], as long as the device is bound.
struct Table {
    entries: KVVec<UnsafeCell<Option<ChunkMem>>>,
    dev: ARef<Device>,
    /// Whether to leak the memory, as the device may continue to write to it.
    leak: Atomic<bool>,
}

// SAFETY: `Table` owns its memory, which belongs to no thread.
unsafe impl Send for Table {}

// SAFETY: Entries are only written through an exclusive reference to the `Chunks`, or when no
// references to the table are left.
unsafe impl Sync for Table {}

impl Drop for Table {
    fn drop(&mut self) {
        let leak = self.leak.load(Relaxed);

        for entry in self.entries.iter_mut() {
            let Some(mem) = entry.get_mut().take() else {
                continue;
            };
            if leak {
                mem::forget(mem);
            } else {
                // SAFETY: All memory of the table was allocated for `dev`, which is still bound:
                // this runs during unbind at the latest.
                unsafe { mem.free(&self.dev) };
            }
        }
    }
}

/// The memory of all [`Chunks`] of a device, which is freed on unbind.
///
/// A driver creates one in `probe()`.
pub struct ChunkSpace(DevresList<Table>);

impl ChunkSpace {
    /// Creates an empty space for `dev`. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(dev: &Device<Bound>) -> Result<Self> {
        Ok(Self(DevresList::new(dev)?))
    }
}

/// Chunks by index: the memory of a buffer of which any 2 MiB may be present or not.
///
/// When the device is unbound, all memory is unmapped and freed, unless it was
/// [leaked](Self::leak). As long as it is bound, which callers prove, the memory stays in place.
pub struct Chunks {
    table: DevresItem<Table>,
    filled: usize,
}

impl Chunks {
    /// Creates a table with `len` empty entries, charged to the current task. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the space belongs to another device, `ENODEV` if the device was unbound since
    /// the space was created, `ENOMEM`.
    pub fn new(space: &ChunkSpace, dev: &Device<Bound>, len: usize) -> Result<Self> {
        let mut table = KVVec::with_capacity(len, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..len {
            table.push(UnsafeCell::new(None), GFP_KERNEL)?;
        }
        let table = Table {
            entries: table,
            dev: dev.into(),
            leak: Atomic::new(false),
        };

        Ok(Self {
            table: space.0.add(dev, table)?,
            filled: 0,
        })
    }

    /// Returns the number of entries that are filled.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Returns the chunk in entry `index`, or [`None`] if there is none.
    pub fn get<'a>(&'a self, dev: &'a Device<Bound>, index: usize) -> Option<&'a ChunkMem> {
        let entry = self.table.access(dev).ok()?.entries.get(index)?;

        // SAFETY: Entries are only written through `&mut self`.
        unsafe { (*entry.get()).as_ref() }
    }

    /// Puts `chunk` into entry `index`. Does not sleep.
    ///
    /// # Errors
    ///
    /// `EEXIST` if the entry is filled, `EINVAL` if there is no such entry or the chunk belongs to
    /// another device, and `ENODEV` if the device was unbound in the meantime. The chunk is freed
    /// in each case.
    pub fn fill(&mut self, dev: &Device<Bound>, index: usize, chunk: Chunk<'_>) -> Result {
        let table = self.table.access(dev)?;
        if chunk.dev.as_raw() != dev.as_raw() {
            return Err(EINVAL);
        }
        let entry = table.entries.get(index).ok_or(EINVAL)?;

        // SAFETY: We have `&mut self`.
        let entry = unsafe { &mut *entry.get() };
        if entry.is_some() {
            return Err(EEXIST);
        }

        *entry = Some(chunk.into_mem());
        self.filled += 1;
        Ok(())
    }

    /// Returns the numbers of the entries that are filled, in ascending order.
    pub fn indices<'a>(&'a self, dev: &'a Device<Bound>) -> impl Iterator<Item = usize> + 'a {
        let entries = match self.table.access(dev) {
            Ok(table) => table.entries.as_slice(),
            Err(_) => &[],
        };

        entries
            .iter()
            .enumerate()
            // SAFETY: Entries are only written through `&mut self`.
            .filter(|(_, entry)| unsafe { (*entry.get()).is_some() })
            .map(|(index, _)| index)
    }

    /// Pushes `chunk`, using the entries as a stack. They must not be filled or emptied in any
    /// other way.
    ///
    /// # Errors
    ///
    /// Those of [`Self::fill()`]; `EINVAL` if the stack is full.
    pub fn push(&mut self, dev: &Device<Bound>, chunk: Chunk<'_>) -> Result {
        self.fill(dev, self.filled, chunk)
    }

    /// Pops the last chunk that was [pushed](Self::push).
    pub fn pop<'a>(&mut self, dev: &'a Device<Bound>) -> Option<Chunk<'a>> {
        self.take(dev, self.filled.checked_sub(1)?)
    }

    /// Takes the chunk out of entry `index`.
    pub fn take<'a>(&mut self, dev: &'a Device<Bound>, index: usize) -> Option<Chunk<'a>> {
        let entry = self.table.access(dev).ok()?.entries.get(index)?;

        // SAFETY: We have `&mut self`.
        let mem = unsafe { &mut *entry.get() }.take()?;

        self.filled -= 1;
        Some(Chunk {
            mem: mem::ManuallyDrop::new(mem),
            dev,
        })
    }

    /// Causes all chunks that are present on unbind, or when this is dropped, to be leaked.
    ///
    /// For a device that cannot be stopped and may continue to write to them.
    pub fn leak(&self, dev: &Device<Bound>) {
        if let Ok(table) = self.table.access(dev) {
            table.leak.store(true, Relaxed);
        }
    }
}

/// A chunk that is allocated in several steps. Its memory is kept until the chunk is complete, or
/// the device is unbound.
pub struct Partial(
    /// Has one entry, for the incomplete chunk.
    Chunks,
);

impl Partial {
    /// Creates a partial chunk without memory. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`Chunks::new()`].
    pub fn new(space: &ChunkSpace, dev: &Device<Bound>) -> Result<Self> {
        Ok(Self(Chunks::new(space, dev, 1)?))
    }

    /// Adds up to `pages` pages. If that is enough for a whole chunk, tries to get it as one block
    /// first. Returns the chunk when it is complete; the next call starts a new one.
    ///
    /// `flags` are those for [`Chunk::new()`].
    ///
    /// # Errors
    ///
    /// `ENOMEM` if not all pages could be allocated; those that were are kept. `ENODEV` if the
    /// device was unbound in the meantime.
    pub fn grow<'a>(
        &mut self,
        dev: &'a Device<Bound>,
        pages: usize,
        flags: Flags,
    ) -> Result<Option<Chunk<'a>>> {
        let mut chunk = match self.0.take(dev, 0) {
            Some(chunk) => chunk,
            None => {
                if pages >= PAGES {
                    if let Some(chunk) = Chunk::in_one(dev, flags) {
                        return Ok(Some(chunk));
                    }
                }
                Chunk::begin(dev, flags)?
            }
        };
        let result = chunk.fill(PAGES.min(chunk.pages().saturating_add(pages)), flags);

        if chunk.pages() == PAGES {
            return Ok(Some(chunk));
        }
        self.0.fill(dev, 0, chunk)?;
        result.map(|()| None)
    }

    /// Frees the memory allocated so far. Does not sleep.
    pub fn clear(&mut self, dev: &Device<Bound>) {
        drop(self.0.take(dev, 0));
    }

    /// Returns the number of pages allocated so far.
    #[cfg(CONFIG_KUNIT = "y")]
    pub(super) fn pages(&self, dev: &Device<Bound>) -> usize {
        self.0.get(dev, 0).map_or(0, ChunkMem::pages)
    }
}
