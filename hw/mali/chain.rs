// SPDX-License-Identifier: GPL-2.0

//! Job chains in memory, for dumps.
//!
//! Every job begins with a header of 32 bytes, which has the same layout on all generations. The
//! layout is that of Mesa (`src/panfrost/genxml`). No locks, no registers; for any context.

use kernel::{
    fmt::{
        self,
        Formatter, //
    },
    prelude::*, //
};

use super::{
    join,
    Exception, //
};
use crate::hw::dump::Memory;

/// Size of the header in bytes.
const HEADER: usize = 32;

/// Alignment of jobs in bytes: what the oldest generations ask for.
const ALIGN: u64 = 64;

/// The number of jobs that are shown at most.
const MAX_SHOWN: usize = 256;

/// The header of a job.
struct Header([u32; HEADER / 4]);

impl Header {
    /// Reads the header at an address. Returns [`None`] if it is not in `memory`.
    fn read(memory: &dyn Memory, address: u64) -> Option<Self> {
        let mut bytes = [0; HEADER];
        let mut words = [0; HEADER / 4];

        if !memory.read(address, &mut bytes) {
            return None;
        }
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = bytes.iter().rev().fold(0, |all, &byte| {
                // Jobs are little-endian.
                all << 8 | u32::from(byte)
            });
        }
        Some(Self(words))
    }

    /// Returns the exception code that the GPU has written when the job ended, or 0.
    fn status(&self) -> u32 {
        self.0[0]
    }

    /// Returns the number of the first task that is not done, which the GPU writes.
    fn first_incomplete(&self) -> u32 {
        self.0[1]
    }

    /// Returns the address at fault, which the GPU writes.
    fn fault_pointer(&self) -> u64 {
        join(self.0[2], self.0[3])
    }

    /// Returns the name of the type of the job.
    fn kind(&self) -> &'static str {
        match self.0[4] >> 1 & 0x7f {
            0 => "NOT_STARTED",
            1 => "NULL",
            2 => "WRITE_VALUE",
            3 => "CACHE_FLUSH",
            4 => "COMPUTE",
            5 => "VERTEX",
            6 => "GEOMETRY",
            7 => "TILER",
            8 => "FUSED",
            9 => "FRAGMENT",
            10 => "INDEXED_VERTEX",
            11 => "MALLOC_VERTEX",
            _ => "UNKNOWN",
        }
    }

    /// Returns whether the job waits for all jobs before it.
    fn is_barrier(&self) -> bool {
        self.0[4] & 1 << 8 != 0
    }

    /// Returns the number by which later jobs refer to this one.
    fn index(&self) -> u32 {
        self.0[4] >> 16
    }

    /// Returns the numbers of two jobs that this one waits for; 0 stands for none.
    fn dependencies(&self) -> [u32; 2] {
        [self.0[5] & 0xffff, self.0[5] >> 16]
    }

    /// Returns the address of the next job, or 0.
    fn next(&self) -> u64 {
        join(self.0[6], self.0[7])
    }

    /// Writes what follows the address of the job.
    fn show(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [first, second] = self.dependencies();
        let status = self.status();
        // The other bits are details of the exception.
        let name = Exception(status.to_le_bytes()[0]).name();

        write!(f, "{}, index {}, ", self.kind(), self.index())?;
        write!(f, "dependencies {first} {second}, ")?;
        if self.is_barrier() {
            write!(f, "barrier, ")?;
        }
        match status {
            0 => write!(f, "not ended")?,
            _ => write!(f, "status {name} ({status:#x})")?,
        }
        if self.first_incomplete() != 0 {
            write!(f, ", first incomplete task {}", self.first_incomplete())?;
        }
        if self.fault_pointer() != 0 {
            write!(f, ", fault at {:#x}", self.fault_pointer())?;
        }
        writeln!(f, ", next {:#x}", self.next())
    }
}

/// Writes the jobs of a chain, as [`Inspect::show_chain`](crate::hw::dump::Inspect) says.
pub(super) fn show(chain: u64, memory: &dyn Memory, f: &mut Formatter<'_>) -> fmt::Result {
    let mut at = chain;
    // A chain can run in a circle. The address to compare with is renewed after 1, 2, 4, ... jobs,
    // so one that lies on the circle is met again after no more than two rounds.
    let mut mark = 0;

    for number in 0..MAX_SHOWN {
        if at == 0 {
            return Ok(());
        }
        write!(f, "{at:#x} ")?;
        if at == mark {
            return writeln!(f, "was shown before: the chain runs in a circle");
        }
        if number.is_power_of_two() {
            mark = at;
        }
        memory.show_bo(at, f)?;
        if at % ALIGN != 0 {
            write!(f, ", not aligned")?;
        }
        let Some(header) = Header::read(memory, at) else {
            return writeln!(f, ": not in the dump");
        };

        write!(f, ": ")?;
        header.show(f)?;
        at = header.next();
    }
    writeln!(f, "and more")
}

#[kunit_tests(drm_gpu_hw_chain)]
mod tests {
    use super::*;
    use kernel::{
        fmt::Display,
        str::CString, //
    };

    /// Memory at address 0x1000.
    struct Bytes<'a>(&'a [u8]);

    impl Memory for Bytes<'_> {
        fn read(&self, address: u64, out: &mut [u8]) -> bool {
            let from = usize::try_from(address.wrapping_sub(0x1000)).unwrap_or(usize::MAX);
            let bytes = from
                .checked_add(out.len())
                .and_then(|end| self.0.get(from..end));

            if let Some(bytes) = bytes {
                out.copy_from_slice(bytes);
            }
            bytes.is_some()
        }

        fn show_bo(&self, _address: u64, f: &mut Formatter<'_>) -> fmt::Result {
            write!(f, "here")
        }
    }

    /// A chain as it is shown.
    struct Shown<'a>(u64, Bytes<'a>);

    impl Display for Shown<'_> {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            show(self.0, &self.1, f)
        }
    }

    /// Writes the words of a job at an offset.
    fn put(memory: &mut [u8], at: usize, words: [u32; 8]) {
        for (index, word) in words.iter().enumerate() {
            let from = at + 4 * index;

            memory[from..from + 4].copy_from_slice(&word.to_le_bytes());
        }
    }

    fn lines(chain: u64, memory: &[u8]) -> Result<CString> {
        CString::try_from_fmt(fmt!("{}", Shown(chain, Bytes(memory))))
    }

    #[test]
    fn chains_are_walked() -> Result {
        let mut memory = [0; 256];

        put(
            &mut memory,
            0,
            [1, 0, 0, 0, 2 << 1 | 1 | 3 << 16, 0, 0x1040, 0],
        );
        put(
            &mut memory,
            0x40,
            [0x58, 7, 0x5000, 1, 9 << 1 | 1 | 1 << 8, 3, 0, 0],
        );
        assert!(
            lines(0x1000, &memory)?.to_bytes()
                == b"0x1000 here: WRITE_VALUE, index 3, dependencies 0 0, status DONE (0x1), \
                     next 0x1040\n\
                     0x1040 here: FRAGMENT, index 0, dependencies 3 0, barrier, \
                     status DATA_INVALID_FAULT (0x58), first incomplete task 7, \
                     fault at 0x100005000, next 0x0\n"
        );
        Ok(())
    }

    #[test]
    fn odd_chains_end() -> Result {
        let mut memory = [0; 256];

        assert!(lines(0, &memory)?.to_bytes().is_empty());
        assert!(
            lines(0x9008, &memory)?.to_bytes() == b"0x9008 here, not aligned: not in the dump\n"
        );
        // The header is not there in full.
        assert!(lines(0x10f0, &memory)?
            .to_bytes()
            .ends_with(b"not in the dump\n"));

        put(&mut memory, 0, [0, 0, 0, 0, 1 << 1, 0, 0x1040, 0]);
        put(&mut memory, 0x40, [0, 0, 0, 0, 1 << 1, 0, 0x1080, 0]);
        put(&mut memory, 0x80, [0, 0, 0, 0, 1 << 1, 0, 0x1040, 0]);
        let shown = lines(0x1000, &memory)?;
        let shown = shown.to_bytes();
        assert!(shown.ends_with(b"the chain runs in a circle\n"));
        assert!(shown.iter().filter(|&&byte| byte == b'\n').count() <= 6);
        Ok(())
    }
}
