// SPDX-License-Identifier: GPL-2.0

//! What `/proc/<pid>/fdinfo` says of an open file.
//!
//! The format is that of `Documentation/gpu/drm-usage-stats.rst`, the names of the engines are those
//! that panfrost has used from the start. Process context; takes the locks that the accounting needs,
//! and the DRM core the file's handle table.

use core::fmt::Write;

use kernel::drm;

use crate::{
    file::File,
    hw::mali::job::Slot, //
};

/// Engines that user space can use, with the names it knows them by.
const ENGINES: [(Slot, &str); 2] = [(Slot::Fragment, "fragment"), (Slot::Tiler, "vertex-tiler")];

/// Prints the time that the jobs of a file have spent on each engine, and its memory.
///
/// The time is that between the start of a job and its end as the CPU sees them. It is a little more
/// than what the job took.
pub(crate) fn show(file: &drm::File<File>, printer: &mut drm::Printer) {
    let contexts = file.inner().get_ref().contexts();

    for (slot, name) in ENGINES {
        let used_ns = contexts.used_ns(slot.index());

        // Writing to a DRM printer does not fail.
        let _ = writeln!(printer, "drm-engine-{name}:\t{used_ns} ns");
    }

    printer.memory_stats(file.client());
}
