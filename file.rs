// SPDX-License-Identifier: GPL-2.0

//! One open file: an address space and job contexts.
//!
//! Everything that a client does happens in the address space of its file, and everything it has the
//! GPU do belongs to one of its contexts. Both are created when the file is opened, which needs a
//! bound GPU, and outlive it if jobs still run.
//!
//! At close the DRM core first closes all handles of BOs, then drops this: the contexts cancel what
//! they have not started and stop what runs, and let go of the address space. Process context, maybe
//! after the GPU has gone.

use kernel::{
    drm,
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    }, //
};

use crate::{
    device::{
        Device,
        Driver, //
    },
    job,
    mmu, //
};

/// What the driver has for an open file.
#[pin_data(PinnedDrop)]
pub(crate) struct File {
    // Fields are dropped in this order. Running jobs hold the address space themselves.
    #[pin]
    contexts: job::Contexts,
    vm: Arc<mmu::Vm>,
    drm: ARef<Device>,
}

impl File {
    /// The file's address space.
    pub(crate) fn vm(&self) -> &Arc<mmu::Vm> {
        &self.vm
    }

    /// The file's job contexts.
    pub(crate) fn contexts(&self) -> &job::Contexts {
        &self.contexts
    }
}

impl drm::file::DriverFile for File {
    type Driver = Driver;

    fn open(device: &Device<drm::Ioctl>, _client: &drm::file::Client) -> Result<Pin<KBox<Self>>> {
        let guard = device.registration_guard().ok_or(ENODEV)?;
        let vm = guard.registration_data_with(|gpu| mmu::Vm::new(device, gpu))?;
        let contexts = job::Contexts::new(device)?;

        KBox::try_pin_init(
            try_pin_init!(Self {
                contexts <- contexts,
                vm,
                drm: ARef::from(&**device),
            }),
            GFP_KERNEL,
        )
    }
}

#[pinned_drop]
impl PinnedDrop for File {
    fn drop(self: Pin<&mut Self>) {
        self.contexts.destroy_all(&self.drm);
    }
}
