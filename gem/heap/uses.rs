// SPDX-License-Identifier: GPL-2.0

//! The users of heaps: files, their contexts, and jobs.
//!
//! A file has [`FileHeaps`], which list its heaps; each of its contexts has a [`Stream`]; and each
//! job has a [`Use`], with the heaps that it lists. Before a job is armed, [`Use::prepare`] gives
//! its heaps credit, which may take time. When the job has ended and is dropped, the content of its
//! heaps may die.
//!
//! Locks, in order: the file's list of heaps, the heap. Both are mutexes: process context only.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        SetOnce, //
    },
    time::Instant, //
};

use super::{
    list::IndexedList,
    policy::Effect,
    Heap, //
};
use crate::{
    device::Gpu,
    gem::Mapping, //
};

/// The heaps of a file, and the count of its jobs.
#[pin_data]
pub(crate) struct FileHeaps {
    /// The number of jobs so far.
    jobs: Atomic<u64>,
    #[pin]
    heaps: Mutex<IndexedList<Heap>>,
}

impl FileHeaps {
    /// Creates the list of a file without heaps. Sleeps.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                jobs: Atomic::new(0),
                heaps <- new_mutex!(
                    IndexedList::new(|heap: &Heap| &heap.file_index),
                    "drm_gpu::heap::file_heaps"
                ),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the number of the last job.
    pub(super) fn last_job(&self) -> u64 {
        self.jobs.load(Relaxed)
    }

    /// Adds a heap of the file. `ENOMEM`. Sleeps.
    pub(super) fn add(&self, heap: &Arc<Heap>) -> Result {
        let mut heaps = self.heaps.lock();

        heaps.reserve(GFP_KERNEL_ACCOUNT)?;
        heaps.push(heap.clone())
    }

    /// Removes a heap, whose reference is dropped. Sleeps.
    pub(super) fn remove(&self, heap: &Heap) {
        let removed = self.heaps.lock().remove(heap);

        // Drop the reference with the lock released.
        drop(removed);
    }
}

/// A context, as far as heaps are concerned: a frame is filled and drawn by jobs of one context.
///
/// Held by the context and by each of its jobs. When the last reference is dropped, content that
/// the jobs have left in heaps without drawing it dies.
pub(crate) struct Stream {
    /// A number that no other context has.
    id: u64,
    /// The heaps of the file, once a job has listed one.
    file_heaps: SetOnce<Arc<FileHeaps>>,
}

impl Stream {
    /// Creates the stream of a new context. Sleeps.
    pub(crate) fn new() -> Result<Arc<Self>> {
        static NEXT_ID: Atomic<u64> = Atomic::new(1);

        Ok(Arc::new(
            Self {
                id: NEXT_ID.fetch_add(1, Relaxed),
                file_heaps: SetOnce::new(),
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(file_heaps) = self.file_heaps.as_ref() {
            for heap in file_heaps.heaps.lock().iter() {
                heap.forget(self.id);
            }
        }
    }
}

/// The heaps of a job.
pub(crate) struct Use {
    heaps: KVec<Arc<Heap>>,
    /// The number of the job.
    job: u64,
    fragment: bool,
    ran: Atomic<bool>,
    stream: Arc<Stream>,
}

impl Use {
    /// Gives credit to the heaps among `mappings`, which a job of the file with `file_heaps` and of
    /// its context `stream` is about to use. `fragment` says whether the job is a fragment job.
    ///
    /// Sleeps, and may reclaim memory, for a limited time. A lack of memory for credit is not an
    /// error, as some may be found while the job runs. Returns `ENOMEM` if there is no memory for
    /// the lists.
    pub(crate) fn prepare(
        gpu: &Gpu<'_>,
        file_heaps: &Arc<FileHeaps>,
        stream: &Arc<Stream>,
        mappings: &[Arc<Mapping>],
        fragment: bool,
    ) -> Result<Self> {
        let mut this = Self {
            heaps: KVec::new(),
            job: file_heaps.jobs.fetch_add(1, Relaxed) + 1,
            fragment,
            ran: Atomic::new(false),
            stream: stream.clone(),
        };

        for heap in mappings.iter().filter_map(|mapping| mapping.heap()) {
            // Has no effect if another job of the context was faster.
            if stream.file_heaps.as_ref().is_none() {
                stream.file_heaps.populate(file_heaps.clone());
            }
            this.heaps.reserve(1, GFP_KERNEL_ACCOUNT)?;
            heap.begin(stream.id)?;
            // From here on, dropping `this` ends the use of the heap.
            let _ = this.heaps.push_within_capacity(heap.clone());
        }
        let begin = Instant::now();
        for heap in &this.heaps {
            heap.top_up(gpu, begin);
        }
        Ok(this)
    }

    /// Notes that the job was given to the hardware. Callable from any context.
    pub(crate) fn started(&self) {
        self.ran.store(true, Relaxed);
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let effect = match (self.ran.load(Relaxed), self.fragment) {
            (false, _) => Effect::Nothing,
            (true, false) => Effect::Wrote,
            (true, true) => Effect::Drew,
        };

        for heap in &self.heaps {
            heap.end(self.stream.id, self.job, effect);
        }
    }
}
