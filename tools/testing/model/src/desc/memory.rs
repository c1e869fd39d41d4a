// SPDX-License-Identifier: GPL-2.0

//! The payload of MEMORY jobs, which only the model has.

use super::Field;

/// Bytes of a MEMORY payload.
pub const MEMORY_JOB_SIZE: usize = 32;

/// The payload of a MEMORY job, see [`crate::job`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryJob {
    /// Bits 0+64: where to read.
    pub source: u64,
    /// Bits 64+64: where to write.
    pub target: u64,
    /// Bits 128+32: bytes to read. For a sum, the length and the source address must be multiples
    /// of 4.
    pub length: u32,
    /// Bits 160+32: a set of the flags below.
    pub flags: u32,
    /// Bits 192+32: the number of bytes done, 0 before the job has run. Written by the GPU.
    pub done: u32,
    /// Bits 224+32: the sum of these. Written by the GPU.
    pub sum: u32,
}

impl MemoryJob {
    /// Adds up little-endian 32-bit words, and writes the lower 32 bits of the sum. Without this
    /// flag the bytes are copied.
    pub const SUM: u32 = 1 << 0;
    /// Reads with execute permission.
    pub const FETCH: u32 = 1 << 1;
    /// All flags.
    pub const ALL: u32 = Self::SUM | Self::FETCH;
    /// The byte offset of `done` and `sum` in the payload.
    pub const PROGRESS_BYTE: u64 = 24;

    const SOURCE: Field = Field::new(0, 64);
    const TARGET: Field = Field::new(64, 64);
    const LENGTH: Field = Field::new(128, 32);
    const FLAGS: Field = Field::new(160, 32);
    const DONE: Field = Field::new(192, 32);
    const SUM_SO_FAR: Field = Field::new(224, 32);

    /// Returns whether a flag is set.
    pub fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Reads a payload.
    pub fn decode(buf: &[u8; MEMORY_JOB_SIZE]) -> Self {
        Self {
            source: Self::SOURCE.get(buf),
            target: Self::TARGET.get(buf),
            length: Self::LENGTH.get(buf) as u32,
            flags: Self::FLAGS.get(buf) as u32,
            done: Self::DONE.get(buf) as u32,
            sum: Self::SUM_SO_FAR.get(buf) as u32,
        }
    }

    /// Returns the payload's bytes.
    pub fn encode(&self) -> [u8; MEMORY_JOB_SIZE] {
        let mut buf = [0; MEMORY_JOB_SIZE];
        Self::SOURCE.set(&mut buf, self.source);
        Self::TARGET.set(&mut buf, self.target);
        Self::LENGTH.set(&mut buf, self.length.into());
        Self::FLAGS.set(&mut buf, self.flags.into());
        Self::DONE.set(&mut buf, self.done.into());
        Self::SUM_SO_FAR.set(&mut buf, self.sum.into());
        buf
    }

    /// Returns the bytes from [`Self::PROGRESS_BYTE`] on.
    pub fn progress(&self) -> [u8; 8] {
        (u64::from(self.done) | u64::from(self.sum) << 32).to_le_bytes()
    }
}
