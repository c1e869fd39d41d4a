// SPDX-License-Identifier: GPL-2.0

//! The data that the model leaves in tiler heaps, and its verification.
//!
//! Hardware leaves polygon lists and vertices in the heap; their layout is not public, and the
//! model draws nothing. It leaves chunks with a header and a pattern instead. The chunks of a tiler
//! context are linked from the last to the first; the link to the last is in the first 8 bytes of
//! the context (v7, v9) or of the polygon list (v5), which drivers clear before each frame. A
//! FRAGMENT job follows the links and compares every byte, and so detects memory that was taken
//! away, replaced or written to between the two jobs.
//!
//! A link is the chunk's address, which is a multiple of 128, with bit 0 set and six bits of the
//! chunk's nonce above it, so that it differs from the link to an older chunk at the same address.

use crate::desc::Framebuffer;

use super::Arch;
use super::Exception;
use super::Failure;
use super::Fault;
use super::Piece;
use super::Stats;
use super::Vm;

/// The alignment of the start and end of chunks.
pub(super) const CHUNK_ALIGN: u64 = 128;
/// The size of a chunk's header in bytes.
pub(super) const CHUNK_HEADER: u64 = 128;
/// The maximum size of a chunk in bytes, unless a single task needs more.
pub(super) const CHUNK_SIZE: u64 = 64 * 1024;
/// The maximum number of bytes that one task may need.
pub(super) const MAX_TASK: u64 = 1024 * 1024;

const MAGIC: u64 = u64::from_le_bytes(*b"MGPUheap");
/// The size of the largest valid chunk.
const MAX_CHUNK: u64 = CHUNK_HEADER + MAX_TASK + CHUNK_ALIGN;

/// Mixes bits (the finalizer of splitmix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// A chunk of a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The address.
    pub(super) va: u64,
    /// The size, header included.
    pub(super) len: u64,
    /// The context or polygon list that it belongs to.
    pub(super) owner: u64,
    /// The link to the previous chunk, or 0.
    pub(super) previous: u64,
    /// The number of chunks before it.
    pub(super) sequence: u64,
    /// Distinguishes it from other chunks at the same address.
    pub(super) nonce: u64,
}

impl Chunk {
    /// Returns the address after the chunk.
    pub(super) fn end(&self) -> u64 {
        self.va.saturating_add(self.len)
    }

    /// Returns the link to this chunk.
    pub(super) fn link(&self) -> u64 {
        self.va | (mix(self.nonce) & 63) << 1 | 1
    }

    /// Returns the address that a link leads to, or `None` if it is not a link.
    pub(super) fn va_of(link: u64) -> Option<u64> {
        let va = link & !(CHUNK_ALIGN - 1);
        (link & 1 == 1 && va != 0).then_some(va)
    }

    fn words(&self) -> [u64; 7] {
        [
            MAGIC,
            self.va,
            self.len,
            self.owner,
            self.previous,
            self.sequence,
            self.nonce,
        ]
    }

    /// Fills `buf` with the whole chunk. The pattern starts after the fields and depends on all of
    /// them.
    pub(super) fn fill(&self, buf: &mut Vec<u8>) {
        buf.clear();
        let words = self.words();
        for word in words {
            buf.extend_from_slice(&word.to_le_bytes());
        }
        let seed = words.iter().fold(0, |hash, word| mix(hash ^ word));
        for i in words.len() as u64..self.len / 8 {
            let word = mix(seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            buf.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads the header of the chunk that `link` leads to. The inner error is the address at which
    /// there is no valid header.
    pub(super) fn read(link: u64, owner: u64, vm: &mut dyn Vm) -> Result<Result<Self, u64>, Fault> {
        let Some(va) = Self::va_of(link) else {
            return Ok(Err(link));
        };
        let mut buf = [0; 56];
        vm.read(va, &mut buf)?;
        let mut words = buf.chunks_exact(8).map(|bytes| {
            let mut word = [0; 8];
            word.copy_from_slice(bytes);
            u64::from_le_bytes(word)
        });
        let mut word = || words.next().unwrap_or(0);
        let magic = word();
        let chunk = Self {
            va: word(),
            len: word(),
            owner: word(),
            previous: word(),
            sequence: word(),
            nonce: word(),
        };
        let good = magic == MAGIC
            && chunk.va == va
            && chunk.owner == owner
            && chunk.link() == link
            && chunk.len >= CHUNK_HEADER
            && chunk.len <= MAX_CHUNK
            && chunk.len % CHUNK_ALIGN == 0
            && va.checked_add(chunk.len).is_some()
            && (chunk.sequence == 0) == (chunk.previous == 0);
        Ok(if good { Ok(chunk) } else { Err(va) })
    }
}

/// Reads the link to the last chunk.
pub(super) fn read_link(at: u64, vm: &mut dyn Vm) -> Result<u64, Fault> {
    let mut buf = [0; 8];
    vm.read(at, &mut buf)?;
    Ok(u64::from_le_bytes(buf))
}

/// A FRAGMENT job's walk over the chunks of its tiler context.
#[derive(Debug)]
pub(super) struct HeapCheck {
    owner: u64,
    /// The chunk to compare next, 0 if there is none.
    link: u64,
    /// The expected sequence number, except for the last chunk.
    sequence: Option<u64>,
    found: Vec<u8>,
    expected: Vec<u8>,
}

impl HeapCheck {
    /// Prepares the check, if this framebuffer has chunks.
    pub(super) fn new(
        arch: Arch,
        fb: &Framebuffer,
        vm: &mut dyn Vm,
    ) -> Result<Option<Self>, Fault> {
        let owner = match arch {
            Arch::V5 if !fb.midgard_tiler.enabled() => 0,
            Arch::V5 => fb.midgard_tiler.polygon_list,
            _ => fb.tiler_context,
        };
        if owner == 0 {
            return Ok(None);
        }
        let link = read_link(owner, vm)?;
        Ok((link != 0).then(|| Self {
            owner,
            link,
            sequence: None,
            found: Vec::new(),
            expected: Vec::new(),
        }))
    }

    /// Compares one chunk.
    pub(super) fn step(&mut self, vm: &mut dyn Vm, stats: &mut Stats) -> Result<Piece, Fault> {
        let chunk = match Chunk::read(self.link, self.owner, vm)? {
            Ok(chunk)
                if self
                    .sequence
                    .is_none_or(|expected| chunk.sequence == expected) =>
            {
                chunk
            }
            Ok(chunk) => return Ok(Self::mismatch(chunk.va, stats)),
            Err(at) => return Ok(Self::mismatch(at, stats)),
        };
        self.found.resize(chunk.len as usize, 0);
        vm.read(chunk.va, &mut self.found)?;
        chunk.fill(&mut self.expected);
        stats.heap_bytes_checked += chunk.len;
        if self.found != self.expected {
            let both = self.found.iter().zip(&self.expected);
            let at = both
                .take_while(|(found, expected)| found == expected)
                .count();
            return Ok(Self::mismatch(chunk.va.wrapping_add(at as u64), stats));
        }
        self.link = chunk.previous;
        self.sequence = chunk.sequence.checked_sub(1);
        Ok(if self.link == 0 {
            Piece::Finished
        } else {
            Piece::More
        })
    }

    fn mismatch(at: u64, stats: &mut Stats) -> Piece {
        stats.heap_mismatches += 1;
        Piece::Failed(Failure::new(Exception::DATA_INVALID_FAULT, at))
    }
}
