// SPDX-License-Identifier: GPL-2.0

//! Removal of mappings from an address space: of single ones, and of all when a file is closed.
//!
//! The GPU's translations must be flushed before the pages of a mapping are freed. That takes one
//! flush per mapping, or one command that turns the AS of the space off; but the AS cannot be
//! turned off while jobs of the space run, because they would fault. When a file is closed, its
//! jobs are stopped only after its handles are gone. So while jobs are still in the hardware, the
//! pages of the file's BOs are kept until the address space is destroyed, after the last of the
//! jobs has ended. That way, closing a file takes a few commands and not one per BO.
//!
//! Process context. Takes the locks of the page table, of the hardware's address spaces and of the
//! list of pages.

use core::ops::Range;

use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

use super::{
    orphans::{
        Keepable,
        Orphans,
        Things, //
    },
    Vm,
    VmShared, //
};
use crate::device::with_gpu;

/// Pages that an address space keeps while its file is being closed.
#[pin_data]
pub(super) struct Closing {
    /// The file is being closed.
    begun: Atomic<bool>,
    /// The pages of its last mappings.
    #[pin]
    pages: Orphans<VmShared>,
}

impl Closing {
    /// Creates the state of an open file.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            begun: Atomic::new(false),
            pages <- Orphans::new(),
        })
    }

    /// Takes the pages of the last mappings, which the GPU may still reach. The caller drops them
    /// once the space has left its AS.
    pub(super) fn take(&self) -> Things {
        self.pages.take()
    }
}

/// When pages can be dropped.
enum Go {
    /// At once.
    Now,
    /// With the address space.
    Last,
}

impl<M> Vm<M> {
    /// Marks the file as being closed: all mappings are removed, and none are added from now on.
    pub(crate) fn begin_closing(&self) {
        self.closing.begun.store(true, Relaxed);
    }

    /// Unmaps the range of a mapping that is being removed, and drops `pages` as soon as the GPU
    /// can no longer reach them. Needs only a few flushes for many mappings if the space has no
    /// jobs in the hardware or the file is being closed. Sleeps.
    pub(crate) fn unmap_closed(&self, range: Range<u64>, pages: Keepable<impl Send + 'static>) {
        let address_spaces = &self.drm.address_spaces;
        let unmapped = with_gpu(&self.drm, |gpu| {
            self.clear(gpu, range.clone())?;
            if self.closing.begun.load(Relaxed) && address_spaces.has_jobs(self) {
                return Ok(Go::Last);
            }
            self.flush_closed(gpu, &range)?;
            Ok(Go::Now)
        })
        .unwrap_or_else(|| address_spaces.check().map(|()| Go::Now));

        match unmapped {
            Ok(Go::Now) => drop(pages),
            Ok(Go::Last) => self.closing.pages.keep(pages),
            Err(_) => self.keep(pages),
        }
    }
}
