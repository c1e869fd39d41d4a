// SPDX-License-Identifier: GPL-2.0

//! A submission, as a transaction.
//!
//! Everything that can fail comes first: get a place in the context, which may mean to wait until
//! other jobs have ended; look up what the client names, lock its address space and its BOs, gather
//! what the job has to wait for, make room for its fence in each of them, allocate the job. Any failure
//! up to there leaves no trace. Then comes the point of no return: the fence is armed and published, and
//! the job is pushed.
//!
//! What reclaim has taken from the address space, listed or not, is brought back with the locks held. A
//! purged BO is no error: a job that uses it faults, as with the C driver.
//!
//! User memory is there at that moment: it is brought in before anything is locked, and if it has
//! changed by then, everything is released and the submission begins anew.
//!
//! Process context. What is read from user space, whose pages another process may have to provide, is
//! read with no lock held, and before the guard is taken that keeps the device bound. The resvs of the
//! address space and of the BOs are held from the gathering to the push.

use kernel::{
    dma_buf::resv::Usage,
    drm::{
        self,
        exec::{
            Exec,
            Flags, //
        },
        gem::Objects,
        job_queue::{
            Dependencies,
            Place, //
        },
        syncobj::SyncObj, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        atomic::Atomic,
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
    uaccess::{
        UserPtr,
        UserSlice, //
    },
    uapi, //
};

use pin_init::stack_pin_init;

use crate::{
    device::Device,
    file::File,
    gem::{
        self,
        Bo,
        Mapping, //
    },
    hw,
    mmu::Vm, //
};

use super::{
    context,
    queue::slot_for,
    Job, //
};

/// The chain has fragment jobs.
const FRAGMENT: u32 = uapi::PANFROST_JD_REQ_FS;
/// The GPU is to count cycles while the job runs.
const CYCLE_COUNT: u32 = uapi::PANFROST_JD_REQ_CYCLE_COUNT;

/// Most handles in one array. More than any client needs, and few enough to be looked up in one go with
/// a spinlock held.
const MAX_HANDLES: u32 = 1 << 16;

/// The index of the address space among what is locked. The BOs come behind it.
const VM_INDEX: usize = 0;

/// Pause before memory is looked for again, in milliseconds.
const RETRY_MS: i64 = 10;

/// In-syncs that are looked up between two looks for signals.
const SIGNAL_CHECK: usize = 1024;

/// What a client submits, as decoded.
pub(crate) struct SubmitArgs {
    /// GPU address of the chain.
    pub(crate) jc: u64,
    /// Bits of `PANFROST_JD_REQ_*`.
    pub(crate) requirements: u32,
    /// Handle of the context.
    pub(crate) context: u32,
    /// Array of handles of sync objects to wait for.
    pub(crate) in_syncs: u64,
    /// Its length.
    pub(crate) in_sync_count: u32,
    /// Array of handles of BOs.
    pub(crate) bo_handles: u64,
    /// Its length.
    pub(crate) bo_handle_count: u32,
    /// Handle of the sync object that gets the job's fence, or 0.
    pub(crate) out_sync: u32,
}

/// The slot in which a job with these requirements runs.
///
/// `EINVAL` for unknown ones.
fn slot(requirements: u32) -> Result<hw::mali::job::Slot> {
    if requirements & !(FRAGMENT | CYCLE_COUNT) != 0 {
        Err(EINVAL)
    } else if requirements & FRAGMENT != 0 {
        Ok(hw::mali::job::Slot::Fragment)
    } else {
        Ok(hw::mali::job::Slot::Tiler)
    }
}

/// Reads an array of handles.
///
/// `EFAULT`: it cannot be read. `ENOMEM`: there is no memory for it.
fn read_handles(address: u64, count: u32) -> Result<KVVec<u8>> {
    let mut bytes = KVVec::new();

    if count != 0 {
        if count > MAX_HANDLES {
            return Err(ENOMEM);
        }
        let address = usize::try_from(address).map_err(|_| EFAULT)?;
        let len = usize::try_from(count)?
            .checked_mul(size_of::<u32>())
            .ok_or(ENOMEM)?;

        UserSlice::new(UserPtr::from_addr(address), len).read_all(&mut bytes, GFP_KERNEL)?;
    }
    Ok(bytes)
}

/// The handles in what [`read_handles`] returns.
fn handles(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes
        .chunks_exact(size_of::<u32>())
        .filter_map(|chunk| Some(u32::from_ne_bytes(chunk.try_into().ok()?)))
}

/// Adds the fences of the sync objects that the job waits for.
///
/// `EFAULT`, `ENOMEM`: as [`read_handles`]. `ENOENT`: unknown sync object. `EINVAL`: one without a
/// fence. `ENOMEM` also for more timelines than a job can wait for.
fn add_in_syncs(
    dependencies: &mut Dependencies,
    file: &drm::File<File>,
    args: &SubmitArgs,
) -> Result {
    let bytes = read_handles(args.in_syncs, args.in_sync_count)?;

    for (index, handle) in handles(&bytes).enumerate() {
        if index % SIGNAL_CHECK == SIGNAL_CHECK - 1 && kernel::current!().signal_pending() {
            return Err(ERESTARTSYS);
        }
        dependencies.add(&*SyncObj::find_fence(file, handle, 0)?)?;
    }
    Ok(())
}

/// Looks up the BOs of the job.
///
/// `EFAULT`, `ENOMEM`: as [`read_handles`]. `ENOENT`: unknown BO.
fn look_up_bos(file: &drm::File<File>, args: &SubmitArgs) -> Result<Objects<Bo>> {
    if args.bo_handle_count > MAX_HANDLES {
        return Err(ENOMEM);
    }
    let handles = usize::try_from(args.bo_handles).map_err(|_| EFAULT)?;

    Objects::lookup(file, UserPtr::from_addr(handles), args.bo_handle_count)
}

/// The mappings of BOs in the address space of the file.
///
/// `EINVAL`: one has lost its last handle just now.
fn look_up_mappings(bos: &Objects<Bo>, vm: &Arc<Vm>) -> Result<KVVec<Arc<Mapping>>> {
    let mut mappings = KVVec::with_capacity(bos.iter().len(), GFP_KERNEL)?;

    for bo in bos.iter() {
        mappings.push(gem::mapping(bo, vm).ok_or(EINVAL)?, GFP_KERNEL)?;
    }
    Ok(mappings)
}

/// Queues a job.
///
/// The errors are those of the C driver, and so is their order: `EINVAL` no chain, unknown
/// requirements; `ENODEV` unknown out-sync; `EINVAL` unknown context; then those of the in-syncs and
/// of the BOs: `EFAULT`, `ENOMEM`, `ENOENT`, `EINVAL`; `EALREADY` a BO that is listed twice; `EINTR` a
/// signal. `ENODEV` also when the device has gone or is about to. `ECANCELED`: the jobs of the context
/// have hung too often.
///
/// Waits if the context has very many jobs. Signals end that, and so does the device's going: all jobs
/// end then.
///
/// `EFAULT` also if user memory of the file, listed or not, has gone, and the other errors of
/// [`validate()`](kernel::mm::mirror::Mirror::validate).
///
/// `ENOMEM` also if there is no memory to bring back what reclaim has taken, for as long as a
/// [`Turn`](gem::shortage::Turn) lasts. Signals end that wait, too.
///
/// To be called without a guard.
pub(crate) fn submit(drm: &Device, file: &drm::File<File>, args: &SubmitArgs) -> Result {
    if args.jc == 0 {
        return Err(EINVAL);
    }
    let slot = slot(args.requirements)?;
    let out_sync = match args.out_sync {
        0 => None,
        handle => Some(SyncObj::lookup(file, handle).map_err(|_| ENODEV)?),
    };
    let this = file.inner().get_ref();
    let context = this.contexts().get(drm, args.context)?;

    drm.jobs.started()?;
    // May wait for as long as other jobs do, hence before anything else is held.
    let place = context.queue().admit()?;
    let mut target = Target {
        slot,
        out_sync,
        context,
        place: Some(place),
    };
    let mut turn = None;

    loop {
        // Who waits for memory comes first.
        if turn.is_none() && drm.shortage.is_there() && this.vm().misses_memory() {
            validate(drm, this.vm())?;
            turn = Some(drm.shortage.turn()?);
        }
        match try_submit(drm, file, args, &mut target, turn.is_some())? {
            Attempt::Submitted => return Ok(()),
            Attempt::Changed => {
                turn = None;
                target.place = Some(target.context.queue().admit()?);
            }
            Attempt::NoMemory => match &turn {
                None => turn = Some(drm.shortage.turn()?),
                Some(turn) if turn.is_over() => return Err(ENOMEM),
                // What others have can be taken when their jobs have ended.
                Some(_) => fsleep(Delta::from_millis(RETRY_MS)),
            },
        }
        if kernel::current!().signal_pending() {
            return Err(ERESTARTSYS);
        }
    }
}

/// Where a job goes.
struct Target {
    slot: hw::mali::job::Slot,
    out_sync: Option<ARef<SyncObj>>,
    context: Arc<context::Context>,
    /// Taken by the attempt that succeeds or fails for good.
    place: Option<Place>,
}

/// What has come of an attempt. But for the first, nothing has happened.
enum Attempt {
    /// The job is queued.
    Submitted,
    /// User memory has changed meanwhile.
    Changed,
    /// There was no memory for what reclaim has taken from the address space.
    NoMemory,
}

/// Brings in the user memory of an address space. May wait for user space.
fn validate(drm: &Device, vm: &Vm) -> Result {
    if drm.jobs.is_parked() {
        return Err(ENODEV);
    }
    vm.user_memory().map_or(Ok(()), |memory| memory.validate())
}

/// [`submit`], once.
///
/// `has_turn`: others wait for the end of this, so it does not wait for user space. User memory has been
/// brought in before; if it has changed since, that is found, and the turn is over.
fn try_submit(
    drm: &Device,
    file: &drm::File<File>,
    args: &SubmitArgs,
    target: &mut Target,
    has_turn: bool,
) -> Result<Attempt> {
    let this = file.inner().get_ref();
    let context = &target.context;
    let jobs = &drm.jobs;
    let started = jobs.started()?;
    if jobs.is_parked() {
        return Err(ENODEV);
    }

    let mut dependencies = Dependencies::new();
    add_in_syncs(&mut dependencies, file, args)?;
    // These references outlive the locks: the last one must not go with a lock held.
    let bos = look_up_bos(file, args)?;
    let mappings = look_up_mappings(&bos, this.vm())?;
    if !has_turn {
        validate(drm, this.vm())?;
    }
    let user_memory = this.vm().user_memory();
    // Goes after the guard, if it comes to that: it may be the last to have a BO, whose end can wait for
    // others who wait for the guard.
    let job;

    // Nothing of user space is touched from here on.
    let guard = drm.registration_guard().ok_or(ENODEV)?;
    started.workers.attach(drm);
    // What the CPU has written up to the call is covered by any later flush.
    let flush_id = guard.registration_data_with(hw::mali::latest_flush_id)?;
    // The heaps of the job get their memory now, as far as that can be told: later nobody may wait for it.
    let fragment = target.slot == hw::mali::job::Slot::Fragment;
    let heaps = guard.registration_data_with(|gpu| {
        gem::heap::Use::prepare(gpu, this.vm().heaps(), &mappings, fragment)
    })?;
    job = Job {
        head: Atomic::new(args.jc),
        counts_cycles: args.requirements & CYCLE_COUNT != 0,
        flush_id,
        process: kernel::current!().tgid(),
        context: args.context,
        as_nr: Atomic::new(0),
        hits: Atomic::new(0),
        missed: Atomic::new(u32::MAX),
        _mappings: mappings,
        heaps,
        vm: this.vm().clone(),
    };

    stack_pin_init!(let exec = Exec::new(Flags::INTERRUPTIBLE, 1 + bos.iter().len()));
    let mut locked = exec.lock_all(|pass| {
        pass.lock(this.vm().resv_object())?;
        for bo in bos.iter() {
            pass.lock(bo)?;
        }
        Ok(())
    })?;
    // Whatever the job may use is there from here on until its fence has signalled.
    let vm = locked.of(this.vm().resv_object()).ok_or(EINVAL)?;
    match guard.registration_data_with(|gpu| this.vm().restore(gpu, vm)) {
        Err(ENOMEM) => return Ok(Attempt::NoMemory),
        result => result?,
    }
    Bo::touch(drm, bos.iter());

    // The UAPI does not tell reads from writes: a job writes to all its BOs. The fences of the address
    // space are no part of that.
    locked.for_each_fence(Usage::implicit(true), |_, fence| dependencies.add(fence))?;
    let reserved = locked.reserve_fences::<1>()?;
    // Each attempt begins with one.
    let place = target.place.take().ok_or(EINVAL)?;
    let in_queue = slot_for(target.slot).ok_or(EINVAL)?;
    let prepared = match context.queue().prepare(place, in_queue, job, dependencies) {
        Ok(prepared) => prepared,
        Err(refused) => {
            // What the job has may be the last of its kind, and goes with nothing locked.
            drop(locked);
            drop(guard);
            return Err(refused.error);
        }
    };

    // What changes from here on waits for the job.
    let valid = match user_memory.map(|user_memory| user_memory.lock_valid()) {
        Some(None) => {
            // As above.
            drop(locked);
            drop(guard);
            return Ok(Attempt::Changed);
        }
        Some(valid) => valid,
        None => None,
    };

    // The point of no return.
    let armed = prepared.arm();
    reserved.add_fence(armed.fence(), |index| match index {
        VM_INDEX => Usage::Bookkeep,
        _ => Usage::Write,
    });
    drop(valid);
    if let Some(out_sync) = &target.out_sync {
        out_sync.replace_fence(Some(armed.fence()));
    }
    guard.registration_data_with(|gpu| armed.push(&jobs.engine(started, gpu)));
    drop(locked);

    if jobs.is_parked() {
        // The workers may not come any more.
        jobs.retire(drm);
    }
    Ok(Attempt::Submitted)
}

#[kunit_tests(drm_gpu_job_submit)]
mod tests {
    use super::*;
    use hw::mali::job::Slot;

    #[test]
    fn slots() {
        assert!(slot(0).is_ok_and(|s| s == Slot::Tiler));
        assert!(slot(FRAGMENT).is_ok_and(|s| s == Slot::Fragment));
        assert!(slot(CYCLE_COUNT).is_ok_and(|s| s == Slot::Tiler));
        assert!(slot(FRAGMENT | CYCLE_COUNT).is_ok_and(|s| s == Slot::Fragment));
        assert!(slot(4).is_err_and(|e| e == EINVAL));
        assert!(slot(u32::MAX).is_err());
    }

    #[test]
    fn handle_arrays() -> Result {
        let bytes = 0x0102_0304_u32.to_ne_bytes();
        assert!(handles(&bytes).eq([0x0102_0304]));
        // What is left over is no handle.
        assert!(handles(&bytes[..3]).next().is_none());
        assert!(read_handles(0, 0)?.is_empty());
        assert!(read_handles(0, MAX_HANDLES + 1).is_err_and(|e| e == ENOMEM));
        Ok(())
    }
}
