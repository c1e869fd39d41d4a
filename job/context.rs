// SPDX-License-Identifier: GPL-2.0

//! The contexts of a file.
//!
//! A file starts out with context 0, of medium priority. Handles are small numbers, the lowest free
//! one first, as in the C driver.
//!
//! A context whose jobs hang too often is closed, unless it has high priority. User space could
//! replace it, but does not do so in practice, and cannot for context 0. A closed context is
//! therefore recreated under its handle by a submission that comes [`PENALTY_SECS`] or more after
//! the first one that was refused.
//!
//! One mutex protects the table. It is held only while the table is accessed, and nothing but
//! allocation nests inside. Process context. Destroying a context stops its jobs, but does not wait
//! for them.

use core::mem;

use kernel::{
    drm::job_queue::{
        self,
        Priority,
        QueueSlot,
        Share, //
    },
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        Mutex, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use crate::{
    device::{
        with_gpu,
        Device, //
    },
    gem::{
        heap,
        CancelJobs, //
    }, //
};

use super::queue::QueueOwner;

/// The number of contexts that a file can have at most.
const MAX_CONTEXTS: usize = 65;

/// The time for which a closed context refuses submissions, from the first one that it refused, in
/// seconds.
const PENALTY_SECS: i64 = 10;

/// One context.
pub(super) struct Context {
    queue: job_queue::Context<QueueOwner>,
    heaps: Arc<heap::Stream>,
}

impl Context {
    fn new(drm: &Device, share: &Share, priority: Priority) -> Result<Arc<Self>> {
        let context = Self {
            queue: drm.jobs.started()?.queue.context(share, priority)?,
            heaps: heap::Stream::new()?,
        };

        Ok(Arc::new(context, GFP_KERNEL_ACCOUNT)?)
    }

    /// Returns the context of the job queue.
    pub(super) fn queue(&self) -> &job_queue::Context<QueueOwner> {
        &self.queue
    }

    /// Returns the context's state for heaps.
    pub(super) fn heaps(&self) -> &Arc<heap::Stream> {
        &self.heaps
    }

    /// Stops all jobs of the context, for good. Does not wait for them.
    fn stop(&self, drm: &Device) {
        let Ok(started) = drm.jobs.started() else {
            return;
        };
        let reached = with_gpu(drm, |gpu| {
            self.queue.cancel_running(&drm.jobs.access(started, gpu));
        });
        if reached.is_none() {
            self.queue.cancel();
        }
    }
}

/// The entry of a handle.
struct HandleEntry {
    context: Arc<Context>,
    priority: Priority,
    /// Time of the first submission that was refused since the context was closed.
    refused: Option<Instant<Monotonic>>,
}

impl HandleEntry {
    fn new(context: Arc<Context>, priority: Priority) -> Self {
        Self {
            context,
            priority,
            refused: None,
        }
    }
}

/// Contexts by handle.
#[derive(Default)]
struct HandleTable(KVec<Option<HandleEntry>>);

impl HandleTable {
    /// Puts a context under the lowest free handle. `EBUSY` if there is none.
    fn insert(&mut self, entry: HandleEntry) -> Result<u32> {
        let index = match self.0.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.0.len() >= MAX_CONTEXTS => return Err(EBUSY),
            None => {
                self.0.push(None, GFP_KERNEL_ACCOUNT)?;
                self.0.len() - 1
            }
        };
        *self.0.get_mut(index).ok_or(EBUSY)? = Some(entry);
        Ok(u32::try_from(index)?)
    }

    fn get(&mut self, handle: u32) -> Option<&mut HandleEntry> {
        self.0.get_mut(usize::try_from(handle).ok()?)?.as_mut()
    }

    fn remove(&mut self, handle: u32) -> Option<HandleEntry> {
        self.0.get_mut(usize::try_from(handle).ok()?)?.take()
    }
}

/// The contexts of a file. Part of [`File`](crate::file::File).
#[pin_data(PinnedDrop)]
pub(crate) struct Contexts {
    #[pin]
    table: Mutex<HandleTable>,
    /// The share of the GPU that all contexts of the file have in common.
    share: Share,
    drm: ARef<Device>,
}

impl Contexts {
    /// Creates the table with context 0. May sleep.
    pub(crate) fn new(drm: &Device) -> Result<impl PinInit<Self, Error>> {
        let share = Share::new()?;
        let mut table = HandleTable::default();

        let context = Context::new(drm, &share, Priority::Medium)?;
        table.insert(HandleEntry::new(context, Priority::Medium))?;
        let drm: ARef<Device> = drm.into();
        Ok(try_pin_init!(Self {
            table <- new_mutex!(table, "drm_gpu::job::contexts"),
            share,
            drm,
        }))
    }

    /// Creates a context and returns its handle. May sleep.
    ///
    /// `EBUSY`: too many contexts. `ENOMEM`.
    pub(crate) fn create(&self, drm: &Device, priority: Priority) -> Result<u32> {
        let context = Context::new(drm, &self.share, priority)?;

        self.table
            .lock()
            .insert(HandleEntry::new(context, priority))
    }

    /// Removes a context and stops its jobs, without waiting for them. `EINVAL`: unknown handle.
    pub(crate) fn destroy(&self, drm: &Device, handle: u32) -> Result {
        let entry = self.table.lock().remove(handle);

        entry.ok_or(EINVAL)?.context.stop(drm);
        Ok(())
    }

    /// Removes all contexts and stops their jobs, without waiting for them.
    pub(crate) fn destroy_all(&self, drm: &Device) {
        let table = mem::take(&mut *self.table.lock());

        for entry in table.0.iter().flatten() {
            entry.context.stop(drm);
        }
    }

    /// Returns the context with this handle, for a submission. May sleep.
    ///
    /// `EINVAL`: unknown handle. `ECANCELED`: it is closed, and [`PENALTY_SECS`] have not passed
    /// since its first refusal. `ENOMEM`.
    pub(super) fn get(&self, drm: &Device, handle: u32) -> Result<Arc<Context>> {
        let (priority, since) = {
            let mut table = self.table.lock();
            let entry = table.get(handle).ok_or(EINVAL)?;

            if !entry.context.queue().is_closed() {
                return Ok(entry.context.clone());
            }
            (
                entry.priority,
                *entry.refused.get_or_insert_with(Instant::now),
            )
        };

        if since.elapsed() < Delta::from_secs(PENALTY_SECS) {
            return Err(ECANCELED);
        }
        self.renew(drm, handle, priority)
    }

    /// Replaces a context that was closed long enough ago. May sleep.
    fn renew(&self, drm: &Device, handle: u32, priority: Priority) -> Result<Arc<Context>> {
        let fresh = Context::new(drm, &self.share, priority)?;
        let mut table = self.table.lock();
        let entry = table.get(handle).ok_or(EINVAL)?;

        // Another thread may have replaced it, or reused the handle for another context.
        if !entry.context.queue().is_closed() || entry.priority != priority {
            let context = entry.context.clone();
            // The unused context is dropped without the lock.
            drop(table);
            return Ok(context);
        }
        let closed = mem::replace(entry, HandleEntry::new(fresh.clone(), priority));
        drop(table);
        drop(closed);
        Ok(fresh)
    }

    /// Returns the time that ended jobs of the file have kept a slot busy, in nanoseconds.
    pub(crate) fn used_ns(&self, slot: usize) -> u64 {
        QueueSlot::new(slot).map_or(0, |slot| self.share.used_ns(slot))
    }
}

impl CancelJobs for Contexts {
    /// Closes the contexts. Another process that has inherited the file gets new ones in their
    /// place after a while, as after hangs. If it is just creating one, and may wait for memory
    /// with the lock held, the rest of the contexts is left alone.
    fn cancel_jobs(&self) {
        for index in 0..MAX_CONTEXTS {
            let Some(table) = self.table.try_lock() else {
                break;
            };
            let context = match table.0.get(index) {
                Some(entry) => entry.as_ref().map(|entry| entry.context.clone()),
                None => break,
            };
            drop(table);

            // With the lock released.
            if let Some(context) = context {
                context.stop(&self.drm);
            }
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Contexts {
    fn drop(self: Pin<&mut Self>) {
        // The table is empty already if the file was closed in the usual way.
        self.destroy_all(&self.drm);
    }
}
