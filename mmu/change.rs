// SPDX-License-Identifier: GPL-2.0

//! The choice of the flush that a change of a page table needs. Pure, without locks; for any
//! context.

use kernel::prelude::*;

use crate::hw::mali::{
    mmu::Flush,
    Caps,
    Issue, //
};

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
    /// have accesses under way. With erratum 6787, that is not so for a chain that fails.
    pub(super) fn flush(self, jobs: u32, caps: &Caps) -> Flush {
        match self {
            Self::Unmapped if jobs != 0 || caps.issue(Issue::T6787) => Flush::Accesses,
            Self::Mapped | Self::Unmapped => Flush::Translations,
        }
    }
}

#[kunit_tests(drm_gpu_mmu_change)]
mod tests {
    use super::*;

    #[test]
    fn running_jobs_make_unmapping_wait() -> Result {
        let g52 = Caps::find(0x7402, 0).ok_or(ENODEV)?;

        assert_eq!(Change::Unmapped.flush(1, &g52), Flush::Accesses);
        assert_eq!(Change::Unmapped.flush(0, &g52), Flush::Translations);
        assert_eq!(Change::Mapped.flush(1, &g52), Flush::Translations);
        assert_eq!(Change::Mapped.flush(0, &g52), Flush::Translations);
        Ok(())
    }

    #[test]
    fn failed_chains_of_t60x_leave_stores_in_the_caches() -> Result {
        let t604 = Caps::find(0x0600, 0x0010).ok_or(ENODEV)?;

        assert_eq!(Change::Unmapped.flush(0, &t604), Flush::Accesses);
        assert_eq!(Change::Mapped.flush(0, &t604), Flush::Translations);
        Ok(())
    }
}
