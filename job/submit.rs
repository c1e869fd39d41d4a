// SPDX-License-Identifier: GPL-2.0

//! A submission, as a transaction.
//!
//! Everything that can fail comes first. [`Contexts::admit`] takes a place in the context, which
//! may have to wait until other jobs have ended. After the handles have been looked up,
//! [`Admission::submit`] locks the address space and the shared BOs, collects the fences that the
//! job depends on, reserves room for the job's fence in each resv and allocates the job. A failure
//! up to there leaves no trace. Then comes the point of no return: the fence is armed and
//! published, and the job is pushed. The fences of BOs that only this address space uses are not in
//! a resv: see [`gem::private`].
//!
//! BOs of the address space that reclaim has evicted, listed or not, are brought back with only the
//! address space locked, which nobody else waits for, before any shared BO is. With everything
//! locked, only those come back that were evicted in between. So others that use the same BOs do
//! not wait for the memory of this client. A purged BO is not an error: a job that uses it faults,
//! as with the C driver. A BO whose content cannot be read from swap is an error for the jobs that
//! list it.
//!
//! User memory is valid at the point of no return: its pages are faulted in before anything is
//! locked, and if they have changed by then, everything is released and the submission starts over.
//!
//! Process context. Nothing is read from user space, since another process may have to provide the
//! pages. The resvs of the address space and of the shared BOs are held from before the fences are
//! collected until the job has been pushed.

use core::mem;

use kernel::{
    dma_buf::{
        fence::Fence,
        resv::ResvLocked, //
    },
    drm::{
        exec::{
            Exec,
            Flags, //
        },
        gem::Objects,
        job_queue::{
            Dependencies,
            Place,
            QueueSlot, //
        },
        syncobj::SyncObj, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::Atomic,
        Arc,
        SetOnce, //
    },
    time::Instant, //
};

use pin_init::stack_pin_init;

use crate::{
    device::Device,
    gem::{
        self,
        private::{
            self,
            SharedResvs, //
        },
        shortage::Attempts,
        Bo,
        Mapping,
        Vm, //
    },
    hw::Runner, //
};

use super::{
    context,
    locks::Locks,
    Contexts,
    Job,
    Process, //
};

/// The number of reservations for which there is room at first. Few BOs of a client are shared.
const LOCKS_HINT: usize = 16;

/// A job as a client submits it, with all handles looked up.
///
/// The references outlive the locks that a submission takes: the last reference to a BO must not be
/// dropped with a lock held.
pub(crate) struct Request<'a> {
    /// GPU address of the chain.
    pub(crate) chain: u64,
    /// The job slot that it runs in.
    pub(crate) slot: QueueSlot,
    /// It is a fragment job, which ends the use of the heaps that it lists.
    pub(crate) fragment: bool,
    /// Whether the GPU counts cycles while the job runs.
    pub(crate) counts_cycles: bool,
    /// The address space that it runs in.
    pub(crate) vm: &'a Arc<Vm>,
    /// Fences that it waits for in addition to those of its BOs.
    pub(crate) in_fences: &'a [ARef<Fence>],
    /// BOs that it works on.
    pub(crate) bos: &'a Objects<Bo>,
    /// The sync object that receives its fence.
    pub(crate) out_sync: Option<&'a SyncObj>,
}

/// A place for a job in a context, taken before anything is locked.
pub(crate) struct Admission {
    context: Arc<context::Context>,
    /// The handle of the context, for logs.
    handle: u32,
    /// [`None`] once an attempt has used it up. [`Self::submit`] takes another before it tries
    /// again.
    place: Option<Place>,
}

impl Contexts {
    /// Takes a place for a job in the context with this handle.
    ///
    /// `EINVAL`: unknown context. `ECANCELED`: its jobs have hung too often, or it was destroyed
    /// meanwhile. `ERESTARTSYS`: a signal. `ENODEV`: the job side was never started. `ENOMEM`.
    ///
    /// Sleeps while the context has [`MAX_JOBS`](super::MAX_JOBS) jobs, so the caller may hold no
    /// lock and no registration guard. A signal ends the wait, and so does the removal of the
    /// device, which ends all jobs.
    pub(crate) fn admit(&self, drm: &Device, handle: u32) -> Result<Admission> {
        let context = self.get(drm, handle)?;

        drm.jobs.started()?;
        let place = Some(context.queue().admit()?);

        Ok(Admission {
            context,
            handle,
            place,
        })
    }
}

impl Admission {
    /// Queues a job.
    ///
    /// `EINVAL`: a BO is not mapped in the address space. `EALREADY`: a BO is listed twice. `EINTR`
    /// or `ERESTARTSYS`: a signal. `ENODEV`: the device has gone, is about to go, or is lost.
    ///
    /// `EIO`: the content of a BO could not be read from swap.
    ///
    /// `EFAULT`: user memory of the file, listed or not, has gone. Also the other errors of
    /// [`validate()`](kernel::mm::mirror::Mirror::validate).
    ///
    /// `ENOMEM`: an allocation failed; the job depends on fences of more timelines than it can wait
    /// for; or for as long as [`gem::shortage`] tries there was not enough memory to bring evicted
    /// BOs back, or to have user memory resident as well. A signal ends that wait, too.
    ///
    /// Sleeps. The caller may hold no lock and no registration guard.
    pub(crate) fn submit(mut self, drm: &Device, request: &Request<'_>) -> Result {
        let mut attempts = Attempts::new(&drm.shortage);
        let mut mappings = None;

        loop {
            // Clients that wait for memory come first.
            if attempts.comes_later(request.vm.misses_memory()) {
                // The attempt checks the user memory again, in case it has changed by then.
                let _ = validate(drm, request.vm)?;
                attempts.wait_for_turn()?;
            }

            attempts.begin();
            match try_submit(drm, request, &mut self, &mut mappings, &attempts)? {
                Attempt::Submitted => return Ok(()),
                Attempt::Changed => {
                    attempts.lost_user_memory()?;
                    if self.place.is_none() {
                        self.place = Some(self.context.queue().admit()?);
                    }
                }
                Attempt::NoMemory { progress } => attempts.found_none(progress)?,
            }
            if kernel::current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
        }
    }
}

/// The outcome of an attempt. All but [`Attempt::Submitted`] leave no trace of the job.
enum Attempt {
    /// The job is queued, and its fence is published.
    Submitted,
    /// User memory changed during the attempt. The place may have been used up. The next attempt
    /// faults the memory in again.
    Changed,
    /// There was not enough memory to bring back what reclaim has evicted from the address space,
    /// or it took too long to go on without a turn. With `progress`, a part of it is back, and the
    /// next attempt has less to do.
    NoMemory { progress: bool },
}

/// Faults in the user memory of an address space. Returns whether it is resident now; it is not if
/// it is invalidated as fast as it is faulted in. May wait for user space.
///
/// `ENODEV`: the GPU is lost or the device is being unbound. Other errors are those of
/// [`validate()`](kernel::mm::mirror::Mirror::validate).
fn validate(drm: &Device, vm: &Vm) -> Result<bool> {
    if drm.jobs.is_parked() {
        return Err(ENODEV);
    }
    match vm.mirror().map(|mirror| mirror.validate()) {
        Some(Err(EAGAIN)) => Ok(false),
        Some(Err(e)) => Err(e),
        Some(Ok(())) | None => Ok(true),
    }
}

/// Makes one attempt of [`Admission::submit`].
///
/// If `attempts` has the turn, other submissions wait for this one to finish, so it does not wait
/// for user space. The caller has faulted the user memory in before; if the memory has changed
/// since, the attempt returns [`Attempt::Changed`] and the turn ends.
///
/// An attempt that finds too little memory leaves the mappings of the BOs in `kept` for the next
/// one. The client may have closed the handles by then.
fn try_submit(
    drm: &Device,
    request: &Request<'_>,
    admission: &mut Admission,
    kept: &mut Option<KVVec<Arc<Mapping>>>,
    attempts: &Attempts<'_>,
) -> Result<Attempt> {
    let Request { vm, bos, .. } = *request;
    let context = &admission.context;
    let jobs = &drm.jobs;
    let started = jobs.started()?;
    if jobs.is_parked() {
        return Err(ENODEV);
    }

    let mut dependencies = Dependencies::new();
    for fence in request.in_fences {
        dependencies.add(fence)?;
    }
    let mappings = match kept.take() {
        Some(mappings) => mappings,
        None => gem::mappings(drm, bos, vm)?,
    };
    if !attempts.has_turn() && !validate(drm, vm)? {
        *kept = Some(mappings);
        return Ok(Attempt::Changed);
    }
    let mirror = vm.mirror();
    // Declared before the guard, so that an error drops the job after it: the job may hold the last
    // reference to a BO, and freeing that can wait for tasks that wait for the guard.
    let mut job;

    // User space is not accessed from here on.
    let guard = drm.registration_guard().ok_or(ENODEV)?;
    started.workers.attach(drm);
    // Any later flush covers everything the CPU wrote before the call.
    let flush_id = guard.registration_data_with(|gpu| gpu.latest_flush_id())?;
    // Give the heaps the memory that the job is likely to need now: once the fence is armed,
    // nothing may wait for memory.
    let heaps = guard.registration_data_with(|gpu| {
        gem::heap::Use::prepare(
            gpu,
            vm.heaps(),
            context.heaps(),
            &mappings,
            request.fragment,
        )
    })?;
    job = Job {
        chain: request.chain,
        head: Atomic::new(request.chain),
        counts_cycles: request.counts_cycles,
        flush_id,
        process: Process::current(),
        context: admission.handle,
        as_nr: Atomic::new(0),
        faulted: Atomic::new(false),
        circles: Atomic::new(false),
        resumed: Atomic::new(false),
        lost: Atomic::new(false),
        hits: Atomic::new(0),
        missed: Atomic::new(u32::MAX),
        dump: SetOnce::new(),
        mappings,
        heaps,
        vm: vm.clone(),
    };

    // Brings memory back. Returns the outcome of the attempt if not all of it is back.
    let restore = |vm_locked: ResvLocked<'_>| -> Result<Option<Attempt>> {
        let missing = vm.first_evicted();
        let begin = Instant::now();
        let restored = guard.registration_data_with(|gpu| -> Result {
            vm.restore(gpu, vm_locked, || attempts.is_slow(begin))?;
            // Neither a mapping whose last handle was closed meanwhile nor one with lost content is
            // on the list that `restore()` walks.
            for mapping in job.mappings.iter().filter(|mapping| mapping.is_evicted()) {
                if !mapping.restore(gpu, vm_locked)? {
                    return Err(EIO);
                }
            }
            Ok(())
        });

        match restored {
            Err(ENOMEM) => Ok(Some(Attempt::NoMemory {
                progress: vm.first_evicted() != missing,
            })),
            result => result.map(|()| None),
        }
    };

    stack_pin_init!(let exec = Exec::new(Flags::INTERRUPTIBLE, LOCKS_HINT));
    let mut locks = Locks::of_vm(vm)?;
    // From here until the job's fence has signalled, everything that the job may use stays
    // resident.
    if let Some(failed) = restore(locks.vm()?)? {
        *kept = Some(mem::take(&mut job.mappings));
        return Ok(failed);
    }
    let last_uses = || bos.iter().map(|bo| bo.last_use());
    let before = match private::look(&drm.uses, &locks, last_uses(), SharedResvs::Unlocked)? {
        Some(before) => before,
        None => {
            // This releases the lock for a moment, in which anything may have gone again.
            drop(locks);
            locks = Locks::of_all(exec, vm, bos)?;
            if let Some(failed) = restore(locks.vm()?)? {
                *kept = Some(mem::take(&mut job.mappings));
                return Ok(failed);
            }
            private::look(&drm.uses, &locks, last_uses(), SharedResvs::Locked)?.ok_or(EINVAL)?
        }
    };
    Bo::touch(drm, bos.iter());

    for fence in before.fences() {
        dependencies.add(fence)?;
    }
    let publication = before.prepare()?;

    locks.for_each_fence(|fence| dependencies.add(fence))?;
    let room = locks.reserve()?;
    // The caller makes sure that each attempt begins with a place.
    let place = admission.place.take().ok_or(EINVAL)?;
    let prepared = match context
        .queue()
        .prepare(place, request.slot, job, dependencies)
    {
        Ok(prepared) => prepared,
        Err(refused) => {
            // The job may hold the last references to objects, and must be dropped with nothing
            // locked.
            drop(locks);
            drop(guard);
            return Err(refused.error);
        }
    };

    // While `valid` is held, user memory cannot change; later changes wait for the job's fence.
    let valid = match mirror.map(|mirror| mirror.lock_valid()) {
        Some(None) => {
            // As above.
            drop(locks);
            drop(guard);
            return Ok(Attempt::Changed);
        }
        Some(valid) => valid,
        None => None,
    };

    // The point of no return.
    let armed = prepared.arm();
    publication.publish(&drm.uses, &room, armed.fence(), last_uses());
    room.add_fence(armed.fence());
    drop(valid);
    if let Some(out_sync) = request.out_sync {
        out_sync.replace_fence(Some(armed.fence()));
    }
    guard.registration_data_with(|gpu| armed.push(&jobs.access(started, gpu)));
    drop(locks);

    if jobs.is_parked() {
        // The workers may already be cancelled, and nothing else would drop the job.
        jobs.retire(drm);
    }
    Ok(Attempt::Submitted)
}
