// SPDX-License-Identifier: GPL-2.0

//! Files for debugging and tests in the debugfs directory of the device.
//!
//! - `gems`: all BOs, and totals by the state of their pages.
//! - `heap`: all heaps, and the memory that they get and give back.
//! - `jobs`: counts of what went wrong with jobs, and the jobs that have not ended.
//! - `shrink`: the pages that reclaim has taken, and how often a submission found too little.
//!   Writing a number makes reclaim take that many pages.
//!
//! Readers only try to take locks, and show what is locked at the moment as busy or leave it out. A
//! reader therefore does not wait for a driver that is stuck, nor does it make matters worse. A
//! write to `shrink` can wait for busy BOs, as reclaim does.

use kernel::{
    drm::{
        debugfs::{
            Dir,
            File, //
        },
        gem::uma::{
            Info,
            Lru, //
        }, //
    },
    fmt,
    prelude::*,
    uaccess::UserSliceReader, //
};

use crate::{
    device::{
        Device,
        Driver, //
    },
    gem::{
        self,
        backing::{
            state_name,
            PageState, //
        },
        Bo, //
    },
    shrinker, //
};

/// Adds the files of a device.
pub(crate) fn add_files(dir: &Dir<'_, Driver>) {
    dir.add::<Gems>();
    dir.add::<Heaps>();
    dir.add::<Jobs>();
    dir.add::<Shrink>();
}

/// The number and the total size of some BOs.
#[derive(Clone, Copy, Default)]
struct Sum {
    count: usize,
    bytes: usize,
}

impl Sum {
    fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Totals over all BOs.
#[derive(Default)]
struct Totals {
    all: Sum,
    resident: Sum,
    pinned: Sum,
    purgeable: Sum,
    purged: Sum,
    evicted: Sum,
    imported: Sum,
}

impl Totals {
    fn add(&mut self, info: &Info<'_, gem::object::BoData>, state: PageState, resident: usize) {
        self.all.add(info.size);
        if resident != 0 {
            self.resident.add(resident);
        }
        match info.lru {
            Lru::Pinned => self.pinned.add(resident),
            Lru::DontNeed => self.purgeable.add(resident),
            Lru::Foreign | Lru::Unbacked | Lru::WillNeed => (),
        }
        match state {
            PageState::Purged => self.purged.add(info.size),
            PageState::Evicted => self.evicted.add(info.size),
            PageState::Imported => self.imported.add(info.size),
            PageState::None | PageState::Resident | PageState::Partial | PageState::User => (),
        }
    }

    fn rows(&self) -> [(&'static str, Sum); 7] {
        [
            ("total", self.all),
            ("resident", self.resident),
            ("pinned", self.pinned),
            ("purgeable", self.purgeable),
            ("purged", self.purged),
            ("evicted", self.evicted),
            ("imported", self.imported),
        ]
    }
}

/// The file `gems`: the BOs.
struct Gems;

#[vtable]
impl File<Driver> for Gems {
    const NAME: &'static CStr = c"gems";

    fn show(dev: &Device, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut totals = Totals::default();
        let mut ret = writeln!(
            f,
            "creator  handles mappings  shared        size    resident  state       metadata label"
        );

        let listed = Bo::for_each(dev, |info| {
            let bo = info.data;
            let (state, resident) = bo.pages(info.size, info.state);

            totals.add(&info, state, resident);
            ret = ret.and_then(|()| {
                write!(f, "{:>7}  {:>7}", bo.creator(), info.handles)?;
                write!(f, " {:>8} {:>7}", info.maps, info.pins)?;
                write!(
                    f,
                    " {:>11} {:>11}  {:<8}",
                    info.size,
                    resident,
                    state_name(state)
                )?;
                // A question mark means that user space does not need the content.
                f.write_str(if info.dont_need { " ?  " } else { "    " })?;
                match bo.metadata_size() {
                    Some(size) => write!(f, "{size:>8} ")?,
                    // Locked.
                    None => f.write_str("       - ")?,
                }
                bo.write_label(usize::MAX, f)?;
                f.write_str("\n")
            });
        });
        ret?;

        if listed.is_err() {
            return writeln!(f, "busy: try again");
        }
        writeln!(f)?;
        for (name, sum) in totals.rows() {
            writeln!(f, "{name}: {} objects, {} bytes", sum.count, sum.bytes)?;
        }
        Ok(())
    }
}

/// The file `heap`: the memory of heaps.
struct Heaps;

#[vtable]
impl File<Driver> for Heaps {
    const NAME: &'static CStr = c"heap";

    fn show(dev: &Device, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dev.heaps.show(f)
    }
}

/// The file `jobs`: the jobs, and what went wrong with them.
struct Jobs;

#[vtable]
impl File<Driver> for Jobs {
    const NAME: &'static CStr = c"jobs";

    fn show(dev: &Device, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dev.jobs.show(f)
    }
}

/// The file `shrink`: the pages that reclaim has taken, and the failures of submissions.
struct Shrink;

#[vtable]
impl File<Driver> for Shrink {
    const NAME: &'static CStr = c"shrink";

    fn show(dev: &Device, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = dev.reclaimed.taken();

        writeln!(f, "{}", dev.reclaimed.asked())?;
        writeln!(f, "purged since the start: {}", all.purged)?;
        writeln!(f, "from heaps since the start: {}", all.heaps)?;
        writeln!(f, "evicted since the start: {}", all.evicted)?;
        writeln!(
            f,
            "attempts of submissions that found too little: {}",
            dev.shortage.failed()
        )
    }

    fn write(dev: &Device, reader: &mut UserSliceReader) -> Result {
        let mut text = [0; 24];
        let text = text.get_mut(..reader.len()).ok_or(EINVAL)?;

        reader.read_slice(text)?;
        let pages = core::str::from_utf8(text).map_err(|_| EINVAL)?.trim();

        shrinker::shrink_as_asked(dev, pages.parse().map_err(|_| EINVAL)?, GFP_KERNEL);
        Ok(())
    }
}
