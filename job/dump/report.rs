// SPDX-License-Identifier: GPL-2.0

//! The second phase of a dump: copies memory, writes the text, and publishes.
//!
//! Runs in a worker that no fence depends on. It waits for memory, though not for long, and for the
//! locks under which memory is brought in.

use core::ops::Range;

use kernel::{
    alloc::Flags,
    devcoredump::Coredump,
    fmt::{
        self,
        Display,
        Formatter,
        Write as _, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::Acquire,
        Arc, //
    }, //
};

use crate::{
    device::Gpu,
    gem::Mapping,
    hw::dump::{
        Dump,
        Inspect,
        Memory,
        Piece,
        Snapshot as _, //
    }, //
};

use super::{
    JobMemory,
    Record, //
};
use crate::job::{
    show::show_jobs,
    Jobs,
    Started, //
};

/// The number of pieces of memory that a dump has at most.
const MAX_PIECES: usize = 1024;

/// The length of the text at most, in bytes. Two chains and all jobs that are shown have room.
const MAX_TEXT: usize = 192 << 10;

/// The end of a text that was cut off.
const CUT_OFF: &str = "\n(cut off)\n";

/// The number of pages that are copied in one go: others wait for the locks that are held.
const PART: usize = 64;

/// Returns the allocation flags: a dump is not worth much effort, and its absence no warning.
fn flags() -> Flags {
    GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN
}

/// Makes and publishes a dump.
///
/// Errors: `EBUSY` if it was dropped at once, `ENODEV` if unbind has begun, `ENOMEM`, `EOVERFLOW`.
pub(super) fn publish(
    jobs: &Jobs,
    started: &Started,
    gpu: &Gpu<'_>,
    record: &Record,
    memory: &JobMemory,
    lost: bool,
) -> Result<Coredump> {
    let make = |limit| {
        let report = Report {
            jobs,
            started,
            gpu,
            record,
            memory,
            lost,
        };

        report.make(limit)
    };
    // If there is little memory, the chain, or just registers and text, are better than nothing.
    let limit = started.dumps.config.limit;
    let retry = |error, limit| match error {
        ENOMEM => make(limit),
        _ => Err(error),
    };
    let data = make(limit)
        .or_else(|error| retry(error, limit / 8))
        .or_else(|error| retry(error, 0));

    match data.and_then(|data| Coredump::publish(gpu.dev(), data)) {
        Ok(dump) if !dump.exists() => Err(EBUSY),
        Ok(dump) => {
            dev_notice!(
                gpu.dev(),
                "a device coredump was made: {}; {}\n",
                record.why.text(),
                record.subject
            );
            Ok(dump)
        }
        Err(error) => {
            if error != ENODEV && gpu.log.allows() {
                dev_notice!(gpu.dev(), "no device coredump: {:?}\n", error);
            }
            Err(error)
        }
    }
}

/// Where the content of a piece comes from.
struct Source<'a> {
    mapping: &'a Mapping,
    /// The offset in the mapping.
    offset: usize,
    /// The size of the memory that is there.
    size: usize,
}

impl Source<'_> {
    fn range(&self) -> Range<u64> {
        let start = self.mapping.va() + self.offset as u64;

        start..start + self.size as u64
    }

    /// If `address` is in the source, but that has more than `most` bytes, leaves only the pages
    /// around the address: no more than half of `most`, so that there is room for other pieces.
    fn narrow(&mut self, address: u64, most: usize) {
        let down = |offset: usize| offset / PAGE_SIZE * PAGE_SIZE;
        let size = down(most / 2);

        if self.size > most && size != 0 && self.range().contains(&address) {
            // Less than the size.
            let at = (address - self.range().start) as usize;
            // A chain is mostly written in ascending order.
            let start = down(at).saturating_sub(down(size / 4));
            let start = start.min(self.size - size);

            self.offset += start;
            self.size = size;
        }
    }
}

/// Lists the memory of a job: the piece with the beginning of the chain first, then those with
/// shaders, and small ones before large ones.
fn sources<'a>(gpu: &Gpu<'_>, record: &Record, memory: &'a JobMemory) -> Result<KVVec<Source<'a>>> {
    let mut sources = KVVec::new();
    let has_chain = |mapping: &&Arc<Mapping>| {
        let start = mapping.va();

        (start..start + mapping.size()).contains(&record.chain)
    };
    let all = || memory.mappings.iter();

    // There may be more pieces than are listed. Fully qualified, as `PinInit` has a method `chain`
    // as well.
    let rest = all().filter(|mapping| !has_chain(mapping));
    for mapping in Iterator::chain(all().filter(has_chain), rest) {
        let mut from = 0;

        while sources.len() < MAX_PIECES {
            let piece = mapping.next_piece(gpu, from);
            // Memory that is not there is listed as well.
            if piece.is_none() && from != 0 {
                break;
            }
            let (offset, size) = piece.unwrap_or((0, 0));

            sources.push(
                Source {
                    mapping,
                    offset,
                    size,
                },
                flags(),
            )?;
            if size == 0 {
                break;
            }
            from = offset + size;
        }
    }
    sources.sort_unstable_by_key(|source| {
        let has_chain = source.range().contains(&record.chain);

        (!has_chain, !source.mapping.is_executable(), source.size)
    });
    Ok(sources)
}

/// The dump of a job.
struct Report<'a> {
    jobs: &'a Jobs,
    started: &'a Started,
    gpu: &'a Gpu<'a>,
    record: &'a Record,
    memory: &'a JobMemory,
    /// The GPU was lost afterwards.
    lost: bool,
}

impl Report<'_> {
    /// Makes the file, with no more than `limit` bytes of memory.
    ///
    /// Errors: `ENODEV` if unbind has begun, `ENOMEM`, `EOVERFLOW`.
    fn make(&self, limit: usize) -> Result<VVec<u8>> {
        let format = &self.started.dumps.config.format;
        let mut sources = sources(self.gpu, self.record, self.memory)?;
        let mut registers = KVec::new();
        let mut pieces = KVVec::with_capacity(sources.len(), flags())?;
        let mut left = limit;

        for register in self.record.registers.registers() {
            registers.push(register, flags())?;
        }
        for source in &mut sources {
            source.narrow(self.record.chain, left);
            // A piece that does not fit is left out, and smaller ones may still fit.
            let size = match source.size <= left {
                true => source.size,
                false => 0,
            };

            left -= size;
            pieces.push(
                Piece {
                    va: source.range().start,
                    size,
                    ..Piece::default()
                },
                flags(),
            )?;
        }

        let mut dump = Dump {
            chain: self.record.chain,
            product: self.record.registers.product(),
            registers: &registers,
            pieces: &mut pieces,
            text: MAX_TEXT,
        };
        let end = (format.lay_out)(&mut dump)?;
        let mut file = VVec::zeroed(end + MAX_TEXT, flags())?;

        for (source, piece) in sources.iter().zip(dump.pieces.iter_mut()) {
            if piece.size != 0 {
                self.copy(source, piece, &mut file)?;
            }
        }

        let (content, room) = file.split_at_mut_checked(end).ok_or(EOVERFLOW)?;
        let mut text = Text { room, len: 0 };

        text.write(&Description {
            report: self,
            sources: &sources,
            contents: Contents {
                file: content,
                pieces: &*dump.pieces,
                report: self,
            },
        });
        dump.text = text.len;
        file.truncate(end + dump.text);
        (format.finish)(&dump, &mut file)?;
        Ok(file)
    }

    /// Copies the content of a piece and the addresses of its pages to where they belong in the
    /// file. Errors: `ENODEV` if unbind has begun.
    fn copy(&self, source: &Source<'_>, piece: &mut Piece, file: &mut [u8]) -> Result {
        // The addresses are before the content.
        let (before, after) = file.split_at_mut_checked(piece.at).ok_or(EOVERFLOW)?;
        let out = after.get_mut(..piece.size).ok_or(EOVERFLOW)?;

        for (index, out) in out.chunks_mut(PART * PAGE_SIZE).enumerate() {
            if self.jobs.parked.load(Acquire) {
                return Err(ENODEV);
            }

            let first = index * PART;
            let offset = source.offset + first * PAGE_SIZE;
            let copied = source
                .mapping
                .read(self.gpu, offset, out, |number, address| {
                    let at = piece.pages_at + (first + number) * size_of::<u64>();

                    if let Some(entry) = before.get_mut(at..at + size_of::<u64>()) {
                        entry.copy_from_slice(&address.to_ne_bytes());
                    }
                });

            piece.valid = copied == Ok(true);
            if !piece.valid {
                break;
            }
        }
        Ok(())
    }
}

/// The content of a file that is being made.
struct Contents<'a> {
    file: &'a [u8],
    pieces: &'a [Piece],
    report: &'a Report<'a>,
}

impl Memory for Contents<'_> {
    fn read(&self, address: u64, out: &mut [u8]) -> bool {
        let bytes = self.pieces.iter().find_map(|piece| {
            let offset = usize::try_from(address.checked_sub(piece.va)?).ok()?;
            let end = offset.checked_add(out.len())?;

            if !piece.valid || end > piece.size {
                return None;
            }
            self.file.get(piece.at + offset..piece.at + end)
        });

        if let Some(bytes) = bytes {
            out.copy_from_slice(bytes);
        }
        bytes.is_some()
    }

    fn show_bo(&self, address: u64, f: &mut Formatter<'_>) -> fmt::Result {
        match self.report.memory.vm.nearest(address) {
            Some(bo) if bo.contains(&address) => {
                write!(f, "(BO {:#x} + {:#x})", bo.start, address - bo.start)
            }
            Some(bo) => write!(f, "(no BO; the last one before ends at {:#x})", bo.end),
            None => write!(f, "(no BO)"),
        }
    }
}

/// The text of a dump.
struct Description<'a> {
    report: &'a Report<'a>,
    sources: &'a [Source<'a>],
    contents: Contents<'a>,
}

impl Display for Description<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            report, contents, ..
        } = self;
        let record = report.record;

        writeln!(f, "drm_gpu dump 1")?;
        writeln!(f, "reason: {}", record.why.text())?;
        f.write_fmt(fmt!("job: {}\n", record.subject))?;
        writeln!(f, "started last at: {:#x}", record.head)?;
        writeln!(f, "AS: {}", record.as_nr)?;
        writeln!(f, "timeline: {}", record.timeline)?;
        writeln!(f, "ran for: {} ms", record.ran.as_millis())?;
        writeln!(f, "attempts to stop it: {}", record.strikes)?;
        writeln!(f, "resets so far: {}", report.started.workers.resets())?;
        if report.lost {
            writeln!(f, "the GPU is lost: it could not be reset")?;
        }
        writeln!(
            f,
            "registers: as they were {} ms before this was written",
            record.taken.elapsed().as_millis()
        )?;

        f.write_fmt(fmt!("\nregisters:\n{}", record.registers))?;

        // The long parts come last, as the text may be cut off.
        writeln!(f, "\nchain:")?;
        Gpu::show_chain(record.chain, contents, f)?;
        if record.head != record.chain {
            writeln!(f, "\nchain, from where it was started last:")?;
            Gpu::show_chain(record.head, contents, f)?;
        }

        writeln!(f, "\njobs that had not ended when this was written:")?;
        show_jobs(report.started, flags(), f)?;

        writeln!(f, "\nBOs that the job lists:")?;
        for mapping in &report.memory.mappings {
            let start = mapping.va();

            write!(f, "{start:#x} to {:#x}: ", start + mapping.size())?;
            mapping.show(f)?;
        }

        writeln!(f, "\nmemory in this file:")?;
        for (source, piece) in self.sources.iter().zip(contents.pieces) {
            write!(f, "{:#x}: ", piece.va)?;
            match (source.size, piece.size, piece.valid) {
                (0, _, _) => writeln!(f, "none, as there was none")?,
                (size, 0, _) => writeln!(f, "none, as {size} bytes are too many")?,
                (_, size, true) => writeln!(f, "{size} bytes")?,
                (_, _, false) => writeln!(f, "none, as it has just gone or cannot be read")?,
            }
        }
        Ok(())
    }
}

/// Text that is cut off where the room ends.
struct Text<'a> {
    room: &'a mut [u8],
    len: usize,
}

impl Text<'_> {
    /// Writes `what`, or the beginning of it and [`CUT_OFF`].
    fn write(&mut self, what: &impl Display) {
        if self.write_fmt(fmt!("{}", what)).is_err() {
            self.append(CUT_OFF, 0);
        }
    }

    /// Appends `text`, or the beginning of it, such that `spare` bytes stay free. Returns whether
    /// all of it has fit.
    fn append(&mut self, text: &str, spare: usize) -> bool {
        let end = self.room.len().saturating_sub(spare);
        let room = self.room.get_mut(self.len..end).unwrap_or_default();
        let len = text.len().min(room.len());

        for (to, from) in room.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        self.len += len;
        len == text.len()
    }
}

impl fmt::Write for Text<'_> {
    /// Fails where the text is cut off, so that nothing is formatted in vain.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self.append(text, CUT_OFF.len()) {
            true => Ok(()),
            false => Err(fmt::Error),
        }
    }
}

#[kunit_tests(drm_gpu_job_dump)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_off() -> Result {
        let mut room = [b'.'; 8 + CUT_OFF.len()];
        let mut text = Text {
            room: &mut room,
            len: 0,
        };

        text.write(&"123-45");
        assert_eq!(text.len, 6);
        text.write(&"abc");
        assert_eq!(text.len, 8 + CUT_OFF.len());
        assert!(text.write_str("more").is_err());
        assert_eq!(text.len, 8 + CUT_OFF.len());
        assert_eq!(&room, b"123-45ab\n(cut off)\n");
        Ok(())
    }
}
