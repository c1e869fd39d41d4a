// SPDX-License-Identifier: GPL-2.0

//! One open file: an address space and job contexts.
//!
//! All jobs of a client run in the address space of its file, and belong to one of the file's
//! contexts. The address space and context 0 are created when the file is opened, which needs a
//! bound GPU. Jobs that still run keep the address space and their FIFO in the job queue alive
//! after the file is closed.
//!
//! When a file is closed, the DRM core calls `closing()`, closes all handles of BOs, and then drops
//! the [`File`]. Dropping it cancels the jobs that wait, stops those that run, and releases the
//! address space. All of this runs in process context, and possibly after the GPU has gone.

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
    gem,
    job, //
};

/// The driver's state of an open file.
#[pin_data(PinnedDrop)]
pub(crate) struct File {
    // Fields are dropped in this order. Running jobs hold references to the address space.
    contexts: Arc<job::Contexts>,
    vm: Arc<gem::Vm>,
    drm: ARef<Device>,
}

impl File {
    /// Returns the file's address space.
    pub(crate) fn vm(&self) -> &Arc<gem::Vm> {
        &self.vm
    }

    /// Returns the file's job contexts.
    pub(crate) fn contexts(&self) -> &job::Contexts {
        &self.contexts
    }
}

impl drm::file::DriverFile for File {
    type Driver = Driver;

    fn open(device: &Device<drm::Ioctl>) -> Result<Pin<KBox<Self>>> {
        let guard = device.registration_guard().ok_or(ENODEV)?;
        let contexts = Arc::pin_init(job::Contexts::new(device)?, GFP_KERNEL_ACCOUNT)?;
        let vm = guard.registration_data_with(|gpu| gem::new_vm(device, gpu, contexts.clone()))?;

        KBox::try_pin_init(
            try_pin_init!(Self {
                contexts,
                vm,
                drm: ARef::from(&**device),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    fn closing(self: Pin<&Self>) {
        self.vm.begin_closing();
    }
}

#[pinned_drop]
impl PinnedDrop for File {
    fn drop(self: Pin<&mut Self>) {
        self.contexts.destroy_all(&self.drm);
    }
}
