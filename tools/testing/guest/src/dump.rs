// SPDX-License-Identifier: GPL-2.0

//! Device coredumps of the GPU, in the layout of C panfrost. Root only.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::chain::PATIENCE;
use crate::check;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::memory;

/// Where the kernel has all dumps.
const CLASS: &str = "/sys/class/devcoredump";

/// C panfrost makes one dump, and another one when this was written.
const REARM: &str = "/sys/module/panfrost/parameters/dump_core";

/// The size of a header in bytes.
const HEADER: usize = 2000;

/// `PANF`.
const MAGIC: u32 = 0x464e_4150;

/// The types of sections.
pub mod kind {
    /// Registers.
    pub const REGISTERS: u32 = 0;
    /// Physical addresses of pages.
    pub const PAGES: u32 = 1;
    /// A BO, or a part of it.
    pub const BO: u32 = 2;
    /// The end, for who knows C panfrost only.
    pub const END: u32 = 3;
    /// Text, of this driver only.
    pub const TEXT: u32 = 0x100;
}

/// The dumps of a GPU.
pub struct Dumps {
    /// The platform device.
    device: OsString,
    rearm: bool,
}

impl Dumps {
    /// There are none afterwards.
    pub fn of(gpu: &Gpu) -> Result<Self, Stop> {
        let device = Path::new("/sys/class/drm")
            .join(gpu.node.path.file_name().unwrap_or_default())
            .join("device")
            .canonicalize()?;
        let this = Self {
            device: device.file_name().unwrap_or_default().to_owned(),
            rearm: gpu.node.driver == "panfrost",
        };
        let was_there = this.folder().is_some();
        this.clear()?;
        // If it was there when the driver was bound, another one may have been dropped, and the
        // driver makes none for a while.
        if was_there && !this.rearm {
            gpu.node.unbind()?.give_back()?;
        }
        Ok(this)
    }

    /// The folder of the dump, if there is one.
    pub fn folder(&self) -> Option<PathBuf> {
        fs::read_dir(CLASS)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|folder| {
                let failing = folder.join("failing_device").canonicalize();
                failing.is_ok_and(|device| device.file_name() == Some(&self.device))
            })
    }

    /// Removes the dump, and any that earlier tests have left in the works. There may be another
    /// one then.
    pub fn clear(&self) -> Outcome {
        let mut quiet = 0;
        let gone = memory::wait_for(PATIENCE, || {
            quiet += 1;
            if let Some(folder) = self.folder() {
                quiet = 0;
                // It may have gone by itself.
                let _ = fs::write(folder.join("data"), "1");
            }
            Ok(quiet > 2)
        })?;
        check!(gone, "a dump cannot be removed");
        self.rearm()
    }

    /// Has C panfrost make another one.
    pub fn rearm(&self) -> Outcome {
        if self.rearm {
            fs::write(REARM, "1")?;
        }
        Ok(())
    }

    /// The bytes of the dump that is there, or will be.
    pub fn wait(&self) -> Result<Vec<u8>, Stop> {
        let mut bytes = None;
        let there = memory::wait_for(PATIENCE, || {
            bytes = self.folder().map(|folder| fs::read(folder.join("data")));
            Ok(bytes.is_some())
        })?;
        check!(there, "no dump");
        Ok(bytes.ok_or_else(|| Stop::fail("no dump"))??)
    }

    /// There is no dump, and there will be none.
    pub fn none(&self) -> Outcome {
        thread::sleep(Duration::from_millis(500));
        check!(self.folder().is_none(), "a dump that nobody wants");
        Ok(())
    }
}

/// A part of a dump.
pub struct Section<'a> {
    /// One of [`kind`].
    pub kind: u32,
    /// The rest of the header, in words of 32 bits.
    header: Vec<u32>,
    /// The content.
    pub data: &'a [u8],
}

impl Section<'_> {
    fn wide(&self, word: usize) -> u64 {
        u64::from(self.header[word]) | u64::from(self.header[word + 1]) << 32
    }

    /// The first job of the chain. For [`kind::REGISTERS`], like the next three.
    pub fn chain(&self) -> u64 {
        self.wide(0)
    }

    /// The number of the product.
    pub fn product(&self) -> u32 {
        self.header[2]
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        (self.header[3], self.header[4])
    }

    /// The number of sections of [`kind::BO`].
    pub fn bos(&self) -> u64 {
        self.wide(6)
    }

    /// The content is there. For [`kind::BO`], like the next two.
    pub fn is_valid(&self) -> bool {
        self.header[0] != 0
    }

    /// GPU address.
    pub fn va(&self) -> u64 {
        self.wide(2)
    }

    /// The number of its first page in the section of [`kind::PAGES`].
    pub fn first_page(&self) -> usize {
        self.header[4] as usize
    }

    /// The content as words of 32 bits.
    pub fn words(&self) -> Vec<u32> {
        words(self.data)
    }
}

/// Little-endian words.
fn words(bytes: &[u8]) -> Vec<u32> {
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |all, &byte| all << 8 | u32::from(byte))
    };
    bytes.chunks_exact(4).map(word).collect()
}

/// Takes a dump apart. All of it is checked that does not depend on what is dumped.
pub fn sections(bytes: &[u8]) -> Result<Vec<Section<'_>>, Stop> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    // The data follow the headers.
    let mut headers = 1;
    let mut end = 0;
    while sections.len() < headers {
        let n = sections.len();
        let at = n * HEADER;
        let header = bytes.get(at..at + HEADER);
        let header = words(header.ok_or_else(|| Stop::fail(format!("header {n} is cut off")))?);
        check!(header[0] == MAGIC, "header {n} has magic {:#x}", header[0]);
        let (size, offset) = (header[2] as usize, header[3] as usize);
        if n == 0 {
            headers = offset / HEADER;
            end = offset;
            check!(offset % HEADER == 0 && headers >= 3, "data at {offset:#x}");
        }
        // No gap but for alignment, and no overlap.
        check!(
            (end..end + 8).contains(&offset),
            "{n}: {offset:#x} after {end:#x}"
        );
        end = offset + size;
        let data = bytes.get(offset..end);
        sections.push(Section {
            kind: header[1],
            header: header[4..].to_vec(),
            data: data.ok_or_else(|| Stop::fail(format!("section {n} is cut off")))?,
        });
    }
    check!(
        end == bytes.len(),
        "{} bytes behind the last section",
        bytes.len() - end
    );
    Ok(sections)
}

/// The text of a dump.
pub fn text(sections: &[Section<'_>]) -> Result<String, Stop> {
    let section = sections.iter().find(|section| section.kind == kind::TEXT);
    let data = section.ok_or_else(|| Stop::fail("no text"))?.data;
    String::from_utf8(data.to_vec()).map_err(Stop::fail)
}
