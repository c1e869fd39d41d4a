// SPDX-License-Identifier: GPL-2.0

//! The contract for dumps: what a family says about its hardware, and how the interface to user
//! space lays a dump out.

use kernel::{
    drm::job_queue::QueueSlot,
    fmt::{
        self,
        Display,
        Formatter, //
    },
    prelude::*, //
};

use super::Runner;

/// The values of registers at one moment. Printed as a line for each register, with its fields. Any
/// context; no register is touched.
pub(crate) trait Snapshot: Copy + Send + Display {
    /// Returns the number of the product, as user space knows it.
    fn product(&self) -> u32;

    /// Returns the registers that user space expects in dumps, as pairs of offset and value.
    fn registers(&self) -> impl Iterator<Item = (u32, u32)>;
}

/// The part of a dump that is about the hardware.
pub(crate) trait Inspect: Runner {
    /// The values of registers.
    type Snapshot: Snapshot;

    /// Reads the registers of a slot and of an address space, and those that there is one of. The
    /// conditions are those of [`Runner`].
    fn snapshot(&self, slot: QueueSlot, as_nr: u8) -> Self::Snapshot;

    /// Writes the jobs of the chain that begins at `chain`, one to a line, as far as they are in
    /// `memory`. Any context; no register is touched.
    fn show_chain(chain: u64, memory: &dyn Memory, f: &mut Formatter<'_>) -> fmt::Result;
}

/// The memory that a dump contains, by GPU address.
pub(crate) trait Memory {
    /// Copies memory from `address` on. Returns false if not all of it is in the dump.
    fn read(&self, address: u64, out: &mut [u8]) -> bool;

    /// Writes the BO that contains an address, and the offset in it.
    fn show_bo(&self, address: u64, f: &mut Formatter<'_>) -> fmt::Result;
}

/// A dump that is being laid out.
pub(crate) struct Dump<'a> {
    /// GPU address of the first job of the chain.
    pub(crate) chain: u64,
    /// [`Snapshot::product`].
    pub(crate) product: u32,
    /// [`Snapshot::registers`].
    pub(crate) registers: &'a [(u32, u32)],
    /// The memory.
    pub(crate) pieces: &'a mut [Piece],
    /// The length of the text at the end of the file, in bytes.
    pub(crate) text: usize,
}

/// A piece of memory in a dump.
#[derive(Clone, Copy, Default)]
pub(crate) struct Piece {
    /// GPU address.
    pub(crate) va: u64,
    /// Size in bytes, or 0 if the content is not in the dump.
    pub(crate) size: usize,
    /// The content is there. Set when it was copied.
    pub(crate) valid: bool,
    /// Where the content is in the file. Set by [`DumpFormat::lay_out`].
    pub(crate) at: usize,
    /// Where the physical addresses of the pages are in the file, 64 bits each. Set by
    /// [`DumpFormat::lay_out`].
    pub(crate) pages_at: usize,
}

/// The layout of dumps. Part of the interface to user space.
#[derive(Clone, Copy)]
pub(crate) struct DumpFormat {
    /// Decides where in the file each part is. Returns the size of all but the text. `EOVERFLOW`.
    /// Called by a worker that no fence depends on; may sleep.
    pub(crate) lay_out: fn(&mut Dump<'_>) -> Result<usize>,
    /// Writes everything into the file but the content of pieces, their pages, and the text. The
    /// file has the size that [`Self::lay_out`] has returned, and the text. Called like
    /// [`Self::lay_out`].
    pub(crate) finish: fn(&Dump<'_>, &mut [u8]) -> Result,
}
