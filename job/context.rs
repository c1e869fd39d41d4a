// SPDX-License-Identifier: GPL-2.0

//! A file's contexts.
//!
//! A file begins with context 0, of medium priority. Handles are small numbers, the lowest free one
//! first, as user space knows them from the C driver.
//!
//! A context whose jobs hang too often is closed. User space makes another one, but not of context 0,
//! which it can neither destroy nor make: that one is made anew [`PENALTY_SECS`] after the first
//! submission that was refused.
//!
//! One mutex protects the table; it is held for looks into the table alone. Process context. A
//! context that is destroyed stops its jobs, but does not wait for them.

use core::mem;

use kernel::{
    drm::job_queue::{
        self,
        Priority,
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
    },
    uapi, //
};

use crate::device::{
    with_gpu,
    Device, //
};

use super::queue::Client;

/// Most contexts that a file can have.
const MAX_CONTEXTS: usize = 65;

/// The context that each file begins with, and the only one that old clients know of.
const DEFAULT: u32 = 0;

/// For how long nothing is taken for context 0 after it was closed, in seconds.
const PENALTY_SECS: i64 = 10;

/// One context.
pub(super) struct Context(job_queue::Context<Client>);

impl Context {
    fn new(drm: &Device, share: &Share, priority: Priority) -> Result<Arc<Self>> {
        let context = drm.jobs.started()?.queue.context(share, priority)?;

        Ok(Arc::new(Self(context), GFP_KERNEL)?)
    }

    /// The queue's side of it.
    pub(super) fn queue(&self) -> &job_queue::Context<Client> {
        &self.0
    }

    /// Stops all jobs of the context.
    fn stop(&self, drm: &Device) {
        let Ok(started) = drm.jobs.started() else {
            return;
        };
        let reached = with_gpu(drm, |gpu| {
            self.0.cancel_running(&drm.jobs.engine(started, gpu));
        });
        if reached.is_none() {
            self.0.cancel();
        }
    }
}

/// The priority that user space calls by a number.
///
/// `EINVAL`: there is none. `EACCES`: it is high, and must not be.
fn priority(number: u32, may_be_high: bool) -> Result<Priority> {
    const LOW: u32 = uapi::drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_LOW;
    const MEDIUM: u32 = uapi::drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_MEDIUM;
    const HIGH: u32 = uapi::drm_panfrost_jm_ctx_priority_PANFROST_JM_CTX_PRIORITY_HIGH;

    match number {
        LOW => Ok(Priority::Low),
        MEDIUM => Ok(Priority::Medium),
        HIGH if may_be_high => Ok(Priority::High),
        HIGH => Err(EACCES),
        _ => Err(EINVAL),
    }
}

/// Contexts by handle.
#[derive(Default)]
struct Table {
    contexts: KVec<Option<Arc<Context>>>,
    /// When a submission to context 0 was first refused, since it was made.
    refused: Option<Instant<Monotonic>>,
}

impl Table {
    /// Puts a context under the lowest free handle. `EBUSY` if there is none.
    fn insert(&mut self, context: Arc<Context>) -> Result<u32> {
        let index = match self.contexts.iter().position(Option::is_none) {
            Some(index) => index,
            None if self.contexts.len() >= MAX_CONTEXTS => return Err(EBUSY),
            None => {
                self.contexts.push(None, GFP_KERNEL)?;
                self.contexts.len() - 1
            }
        };
        *self.contexts.get_mut(index).ok_or(EBUSY)? = Some(context);
        Ok(u32::try_from(index)?)
    }

    fn get(&self, handle: u32) -> Option<&Arc<Context>> {
        self.contexts.get(usize::try_from(handle).ok()?)?.as_ref()
    }

    fn remove(&mut self, handle: u32) -> Option<Arc<Context>> {
        self.contexts.get_mut(usize::try_from(handle).ok()?)?.take()
    }
}

/// The contexts of a file. Part of [`File`](crate::file::File).
#[pin_data(PinnedDrop)]
pub(crate) struct Contexts {
    #[pin]
    table: Mutex<Table>,
    /// All of them have one share of the GPU.
    share: Share,
    drm: ARef<Device>,
}

impl Contexts {
    /// Makes context 0. May sleep.
    pub(crate) fn new(drm: &Device) -> Result<impl PinInit<Self, Error>> {
        let share = Share::new()?;
        let mut table = Table::default();

        table.insert(Context::new(drm, &share, Priority::Medium)?)?;
        let drm: ARef<Device> = drm.into();
        Ok(try_pin_init!(Self {
            table <- new_mutex!(table, "drm_gpu::job::contexts"),
            share,
            drm,
        }))
    }

    /// Makes a context with a priority of the UAPI and returns its handle. May sleep.
    ///
    /// `EINVAL`: unknown priority. `EACCES`: it is high, and `may_be_high` is not set. `EBUSY`: too
    /// many contexts. `ENOMEM`.
    pub(crate) fn create(&self, drm: &Device, number: u32, may_be_high: bool) -> Result<u32> {
        let context = Context::new(drm, &self.share, priority(number, may_be_high)?)?;

        self.table.lock().insert(context)
    }

    /// Removes a context and stops its jobs, without waiting for them. `EINVAL`: unknown handle.
    pub(crate) fn destroy(&self, drm: &Device, handle: u32) -> Result {
        let context = self.table.lock().remove(handle);

        context.ok_or(EINVAL)?.stop(drm);
        Ok(())
    }

    /// Removes all contexts and stops their jobs, without waiting for them.
    pub(crate) fn destroy_all(&self, drm: &Device) {
        let contexts = mem::take(&mut self.table.lock().contexts);

        for context in contexts.iter().flatten() {
            context.stop(drm);
        }
    }

    /// The context with a handle, for a submission. May sleep.
    ///
    /// `EINVAL`: unknown handle. `ECANCELED`: it is context 0, and was closed not long ago. `ENOMEM`.
    pub(super) fn get(&self, drm: &Device, handle: u32) -> Result<Arc<Context>> {
        let since = {
            let mut table = self.table.lock();
            let context = table.get(handle).ok_or(EINVAL)?;

            if handle != DEFAULT || !context.queue().is_closed() {
                return Ok(context.clone());
            }
            *table.refused.get_or_insert_with(Instant::now)
        };

        if since.elapsed() < Delta::from_secs(PENALTY_SECS) {
            return Err(ECANCELED);
        }
        self.renew(drm)
    }

    /// Makes context 0 anew, which was closed long enough ago.
    fn renew(&self, drm: &Device) -> Result<Arc<Context>> {
        let mut context = Context::new(drm, &self.share, Priority::Medium)?;
        let mut table = self.table.lock();
        let current = table.contexts.first_mut().and_then(Option::as_mut);
        let current = current.ok_or(ECANCELED)?;

        // Another thread may have done it.
        if current.queue().is_closed() {
            mem::swap(current, &mut context);
        }
        let current = current.clone();
        table.refused = None;
        // The other one goes without the lock.
        drop(table);
        Ok(current)
    }

    /// Nanoseconds that ended jobs of the file have kept a slot busy.
    pub(crate) fn used_ns(&self, slot: usize) -> u64 {
        job_queue::Slot::new(slot).map_or(0, |slot| self.share.used_ns(slot))
    }
}

#[pinned_drop]
impl PinnedDrop for Contexts {
    fn drop(self: Pin<&mut Self>) {
        // Nothing is left of this if the file was closed in the usual way.
        self.destroy_all(&self.drm);
    }
}

#[kunit_tests(drm_gpu_job_context)]
mod tests {
    use super::*;

    #[test]
    fn priorities() {
        assert!(priority(0, false) == Ok(Priority::Low));
        assert!(priority(1, false) == Ok(Priority::Medium));
        assert!(priority(2, false) == Err(EACCES));
        assert!(priority(2, true) == Ok(Priority::High));
        assert!(priority(3, true) == Err(EINVAL));
        assert!(priority(u32::MAX, true) == Err(EINVAL));
    }
}
