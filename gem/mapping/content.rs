// SPDX-License-Identifier: GPL-2.0

//! The memory of a mapping, for dumps.
//!
//! Missing memory is not brought in. Process context; everything here sleeps, and waits for the
//! locks of the pages, a heap, or user memory, which are held while memory is brought in. So no
//! fence may depend on the caller.

use kernel::{
    drm::gem::{
        uma::ObjectOps as _,
        BaseObject as _, //
    },
    fmt::{
        self,
        Formatter, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

use super::{
    MappedMemory,
    Mapping, //
};
use crate::{
    device::Gpu,
    gem::{
        backing::state_name,
        heap::CHUNK,
        object::BoData, //
    }, //
};

/// The number of bytes of a label that are shown at most.
const LABEL: usize = 64;

impl Mapping {
    /// Returns the number of bytes that the mapping has addresses for.
    pub(crate) fn size(&self) -> u64 {
        self.node.size()
    }

    /// Returns whether the GPU may execute code from the BO.
    pub(crate) fn is_executable(&self) -> bool {
        self.bo.flags().executable
    }

    /// Returns the offset and the size in bytes of the first piece of memory that begins at or
    /// behind `from`: a chunk of a heap, or all of another BO. Returns [`None`] if there is none.
    pub(crate) fn next_piece(&self, gpu: &Gpu<'_>, from: usize) -> Option<(usize, usize)> {
        if let Some(heap) = self.heap() {
            let index = heap.mapped_from(gpu, from.div_ceil(CHUNK))?;

            return Some((index * CHUNK, CHUNK));
        }
        (from == 0 && BoData::resident_size(&self.bo) != 0).then(|| (0, self.bo.size()))
    }

    /// Copies memory from `offset` on, which is a multiple of the page size, to `out`. All of it is
    /// in one piece that [`Self::next_piece`] has returned. Calls `f` with the number, which is 0
    /// for the page at `offset`, and the physical address of each page. Returns whether the memory
    /// is still there. Locks are held until all is copied, so `out` should be small.
    pub(crate) fn read(
        &self,
        gpu: &Gpu<'_>,
        offset: usize,
        out: &mut [u8],
        f: impl FnMut(usize, u64),
    ) -> Result<bool> {
        if let Some(heap) = self.heap() {
            return heap.read(gpu, offset / CHUNK, offset % CHUNK / PAGE_SIZE, out, f);
        }
        let first = offset / PAGE_SIZE;

        if self.bo.is_user() {
            return match &self.inner.lock().memory {
                MappedMemory::User(memory) => memory.range()?.read(first, out, f),
                _ => Ok(false),
            };
        }
        self.bo.read(gpu.dev(), first, out, f)
    }

    /// Writes what is known of the BO, in one line.
    pub(crate) fn show(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (state, resident) = self.bo.pages(self.bo.size(), self.bo.state());
        let flags = self.bo.flags();

        write!(f, "{}, {resident} bytes resident", state_name(state))?;
        for (set, name) in [
            (flags.executable, "executable"),
            (flags.heap, "heap"),
            (flags.cached, "cached"),
            (self.bo.is_given_up(), "given up"),
        ] {
            if set {
                write!(f, ", {name}")?;
            }
        }
        write!(f, ", label \"")?;
        self.bo.write_label(LABEL, f)?;
        writeln!(f, "\"")
    }
}
