// SPDX-License-Identifier: GPL-2.0

//! The choice of the flush that a change of a page table needs. Pure, without locks; for any
//! context.

use kernel::prelude::*;

use crate::hw::Flush;

/// The change of the page table that a flush follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Pages were mapped where nothing was.
    Mapped,
    /// Pages or tables were removed, and may be freed and reused once the flush is over.
    Unmapped,
}

impl Change {
    /// Returns the kind of flush that the change needs, given the number of jobs that the space has
    /// in the hardware.
    ///
    /// The end of a job writes the caches back and waits for its accesses, so only running jobs can
    /// have accesses under way, unless the hardware
    /// [leaves accesses](crate::hw::Walker::leaves_accesses) behind.
    pub(super) fn flush(self, jobs: u32, leaves_accesses: bool) -> Flush {
        match self {
            Self::Unmapped if jobs != 0 || leaves_accesses => Flush::Accesses,
            Self::Mapped | Self::Unmapped => Flush::Translations,
        }
    }
}

#[kunit_tests(drm_gpu_mmu_change)]
mod tests {
    use super::*;

    #[test]
    fn running_jobs_make_unmapping_wait() {
        assert_eq!(Change::Unmapped.flush(1, false), Flush::Accesses);
        assert_eq!(Change::Unmapped.flush(0, false), Flush::Translations);
        assert_eq!(Change::Mapped.flush(1, false), Flush::Translations);
        assert_eq!(Change::Mapped.flush(0, false), Flush::Translations);
    }

    #[test]
    fn jobs_that_leave_accesses_make_it_wait_as_well() {
        assert_eq!(Change::Unmapped.flush(0, true), Flush::Accesses);
        assert_eq!(Change::Mapped.flush(0, true), Flush::Translations);
    }
}
