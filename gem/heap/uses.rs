// SPDX-License-Identifier: GPL-2.0

//! Who uses heaps: files and jobs.
//!
//! A [`Client`] is what a file has for its heaps, a [`Use`] what each job has for those in its list.
//! Before a job is armed, [`Use::prepare`] gives its heaps credit, which may take time; when the job
//! is dropped, having ended, the content of heaps may be dead.
//!
//! Locks, in order: the client's list of heaps, the heap. Process context; both sleep.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    }, //
};

use super::Heap;
use crate::{
    device::Gpu,
    gem::Mapping, //
};

/// The heaps of a file, and the count of its jobs.
#[pin_data]
pub(crate) struct Client {
    /// Jobs so far.
    jobs: Atomic<u64>,
    #[pin]
    heaps: Mutex<KVec<Arc<Heap>>>,
}

impl Client {
    /// Without heaps. Sleeps.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                jobs: Atomic::new(0),
                heaps <- new_mutex!(KVec::new(), "drm_gpu::heap::client"),
            }),
            GFP_KERNEL,
        )
    }

    /// The number of the last job.
    pub(super) fn last_job(&self) -> u64 {
        self.jobs.load(Relaxed)
    }

    pub(super) fn add(&self, heap: &Arc<Heap>) -> Result {
        Ok(self.heaps.lock().push(heap.clone(), GFP_KERNEL)?)
    }

    pub(super) fn remove(&self, heap: &Heap) {
        super::remove(&self.heaps, heap);
    }
}

/// The heaps of a job.
pub(crate) struct Use {
    client: Arc<Client>,
    heaps: KVec<Arc<Heap>>,
    /// The job's number.
    job: u64,
    fragment: bool,
    ran: Atomic<bool>,
}

impl Use {
    /// Gives credit to the heaps among `mappings`, which a job of the file is about to use.
    /// `fragment`: the job is a fragment job.
    ///
    /// Sleeps, and may reclaim memory. That there is none is no error, as some may be found while the
    /// job runs. `ENOMEM`: for the list.
    pub(crate) fn prepare(
        gpu: &Gpu<'_>,
        client: &Arc<Client>,
        mappings: &[Arc<Mapping>],
        fragment: bool,
    ) -> Result<Self> {
        let mut this = Self {
            client: client.clone(),
            heaps: KVec::new(),
            job: client.jobs.fetch_add(1, Relaxed) + 1,
            fragment,
            ran: Atomic::new(false),
        };

        for heap in mappings.iter().filter_map(|mapping| mapping.heap()) {
            this.heaps.push(heap.clone(), GFP_KERNEL)?;
            // Dropping ends it.
            heap.begin();
        }
        for heap in &this.heaps {
            heap.top_up(gpu);
        }
        Ok(this)
    }

    /// The job was given to the hardware. Any context.
    pub(crate) fn started(&self) {
        self.ran.store(true, Relaxed);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let ran = self.ran.load(Relaxed);

        for heap in &self.heaps {
            heap.end(self.job, ran && !self.fragment);
        }
        if ran && self.fragment {
            for heap in self.client.heaps.lock().iter() {
                heap.drawn(self.job);
            }
        }
    }
}
