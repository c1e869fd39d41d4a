// SPDX-License-Identifier: GPL-2.0

//! The contribution of an open file to `/proc/<pid>/fdinfo`.
//!
//! The format is that of `Documentation/gpu/drm-usage-stats.rst`. Process context. Takes no locks;
//! the DRM core takes that of the file's handle table.

use core::fmt::Write;

use kernel::drm;

use crate::file::File;

/// Prints the time that the jobs of a file have spent on each of `engines`, and its memory. For
/// those see [`Personality::ENGINES`](crate::hw::Personality::ENGINES).
///
/// The time is measured by the CPU from the start of a job to the handling of its end, so it is
/// slightly longer than the job ran.
pub(crate) fn show(
    file: &drm::File<File>,
    printer: &mut drm::Printer,
    engines: &[(usize, &'static str)],
) {
    let contexts = file.inner().get_ref().contexts();

    for &(slot, name) in engines {
        let used_ns = contexts.used_ns(slot);

        // Writing to a DRM printer does not fail.
        let _ = writeln!(printer, "drm-engine-{name}:\t{used_ns} ns");
    }

    printer.memory_stats(file.client());
}
