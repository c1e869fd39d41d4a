// SPDX-License-Identifier: GPL-2.0

//! The contribution of an open file to `/proc/<pid>/fdinfo`.
//!
//! The format is that of `Documentation/gpu/drm-usage-stats.rst`, and the engines have the names
//! that panfrost has always used. Process context. Takes no locks; the DRM core takes that of the
//! file's handle table.

use core::fmt::Write;

use kernel::drm;

use crate::{
    file::File,
    hw::mali::job::Slot, //
};

/// Engines that user space can use, and their names in fdinfo.
const ENGINES: [(Slot, &str); 2] = [(Slot::Fragment, "fragment"), (Slot::Tiler, "vertex-tiler")];

/// Prints the time that the jobs of a file have spent on each engine, and its memory.
///
/// The time is measured by the CPU from the start of a job to the handling of its end, so it is
/// slightly longer than the job ran.
pub(crate) fn show(file: &drm::File<File>, printer: &mut drm::Printer) {
    let contexts = file.inner().get_ref().contexts();

    for (slot, name) in ENGINES {
        let used_ns = contexts.used_ns(slot.index());

        // Writing to a DRM printer does not fail.
        let _ = writeln!(printer, "drm-engine-{name}:\t{used_ns} ns");
    }

    printer.memory_stats(file.client());
}
