// SPDX-License-Identifier: GPL-2.0

//! The driver's part of a BO, and the callbacks of the DRM core.
//!
//! Locks: the mutex of [`BoState`] nests inside of the reservations, and all locks that are needed
//! to bring pages in or to map them nest inside of it; the mutexes of the label and of the
//! metadata are leaves. Mappings are dropped with no lock held, so removing one from the list and
//! dropping it are separate steps.
//!
//! Handles are opened and closed in process context. They may be closed after unplug, so closing
//! one must not depend on the hardware. The statistics are read with a spinlock held, so they use
//! atomics, and the spinlock of [`private`](super::private), which is a leaf.

use core::{
    mem,
    ptr, //
};

use kernel::{
    dma_buf::resv::Usage,
    drm::{
        self,
        exec::{
            self,
            Exec,
            Locked, //
        },
        gem::{
            uma,
            BaseObject,
            DriverFile,
            DriverObject,
            Objects,
            ResvObject, //
        }, //
    },
    fmt,
    new_mutex,
    prelude::*,
    str::BStr,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        LockedBy,
        Mutex,
        MutexGuard,
        SetOnce, //
    },
    task::Pid, //
};

use pin_init::stack_pin_init;

use super::{
    backing::{
        Advice,
        PageState, //
    },
    handles::Handles,
    heap::Heap,
    label::Label,
    mapping::Mapping,
    metadata::{
        self,
        Metadata, //
    },
    prime,
    private::{
        LastUse,
        Uses,
        VmLocked,
        BATCH, //
    },
    userptr,
    Bo,
    Vm, //
};
use crate::device::{
    with_gpu,
    Device,
    DeviceData,
    Driver, //
};

/// The properties of a BO that were requested at its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    /// The GPU may execute code from it.
    pub(crate) executable: bool,
    /// It gets memory when the GPU touches it.
    pub(crate) heap: bool,
    /// User space maps it cached, and is responsible for coherency.
    pub(crate) cached: bool,
}

impl Flags {
    /// The flags of user memory.
    pub(super) const USER: Self = Self {
        executable: false,
        heap: false,
        cached: true,
    };

    /// The flags of an imported buffer.
    pub(super) const IMPORTED: Self = Self {
        executable: false,
        heap: false,
        cached: false,
    };

    /// Returns `EINVAL` for a heap that is executable, or that the CPU would map cached.
    pub(super) fn check(self) -> Result {
        match self.heap && (self.executable || self.cached) {
            true => Err(EINVAL),
            false => Ok(()),
        }
    }
}

/// The arguments for [`BoData`]'s constructor.
pub(crate) struct Args {
    pub(super) flags: Flags,
    pub(super) label: Option<Label>,
    pub(super) heap: Option<Arc<Heap>>,
    /// User memory that is ready to be mapped.
    pub(super) user: Option<userptr::Prepared>,
    /// It belongs to another driver.
    pub(super) imported: bool,
}

/// The driver's part of a BO.
#[pin_data]
pub(crate) struct BoData {
    flags: Flags,
    heap: Option<Arc<Heap>>,
    /// The process that created or imported the BO.
    creator: Pid,
    /// Whether the GPU has the pages; [`None`] if this is not user memory.
    user: Option<Arc<Atomic<bool>>>,
    /// The jobs that use the BO while it is private.
    last_use: LastUse,
    /// Provides the resv of the address space of the first file with a handle, the only one whose
    /// jobs use the BO while it is private. Never set for a BO that is imported.
    home: SetOnce<ARef<ResvObject>>,
    /// The mapping there, as long as it is in `state`. Submissions look it up here, for many BOs at
    /// once. Changes with `state` locked as well.
    home_mapping: LockedBy<Option<Arc<Mapping>>, Uses>,
    /// The number of the only address space that has a mapping, or 0 if there are several or none.
    /// Written with `state` locked.
    only_vm: Atomic<u64>,
    #[pin]
    label: Mutex<Option<Label>>,
    #[pin]
    metadata: Mutex<Metadata>,
    #[pin]
    state: Mutex<BoState>,
}

/// The data guarded by the lock of a BO.
pub(super) struct BoState {
    handles: Handles<Arc<Mapping>>,
    /// User memory, until it is mapped. There is never a second mapping.
    user: Option<userptr::Prepared>,
}

impl BoState {
    /// Returns the new value of [`BoData::only_vm`].
    fn only_vm(&self) -> u64 {
        self.only_mapping().map_or(0, |only| only.vm().id())
    }

    /// Returns the mappings: at most one for each file that has a handle.
    pub(super) fn mappings(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.handles.mappings()
    }

    /// Returns the mapping if there is exactly one.
    pub(super) fn only_mapping(&self) -> Option<&Arc<Mapping>> {
        self.handles.only_mapping()
    }
}

/// The resvs of the home of a BO and of the BO itself are locked.
struct HomeLocked<'a>(Locked<'a>);

impl VmLocked for HomeLocked<'_> {}

impl BoData {
    /// Returns the flags that the BO was created with.
    pub(crate) fn flags(&self) -> Flags {
        self.flags
    }

    /// Returns whether the BO is a heap.
    pub(crate) fn is_heap(&self) -> bool {
        self.flags.heap
    }

    /// Returns whether the BO is mapped in the address space with number `vm`, and in no other.
    /// Takes no lock, so the answer may be outdated.
    pub(crate) fn is_only_in(&self, vm: u64) -> bool {
        self.only_vm.load(Relaxed) == vm
    }

    /// Returns the jobs that use the BO while it is [private](super::private).
    pub(crate) fn last_use(&self) -> &LastUse {
        &self.last_use
    }

    /// Returns whether an unfinished job lists the BO, or another driver uses it. Takes a spinlock.
    pub(super) fn is_busy(bo: &Bo) -> bool {
        bo.last_use.is_busy(&bo.dev().uses)
            || !bo.last_use.is_private() && !bo.resv().test_signaled(Usage::Bookkeep)
    }

    /// Makes the BO a [shared](super::private) one. Locks the resv of its address space, so it
    /// waits for submissions there: do not call it with a lock held that other clients need.
    /// Sleeps.
    ///
    /// `ERESTARTSYS`: a signal. `ENOMEM`. The BO stays private then.
    pub(super) fn share(bo: &Bo) -> Result {
        const BO_INDEX: usize = 1;

        // Without a home, no job can have listed the BO, nor can anybody else have found it.
        let (true, Some(home)) = (bo.last_use.is_private(), bo.home.as_ref()) else {
            return Ok(());
        };

        stack_pin_init!(let exec = Exec::new(exec::Flags::INTERRUPTIBLE, 2));
        let locked = exec.lock_all(|pass| {
            pass.lock(&**home)?;
            pass.lock(bo)?;
            Ok(())
        });
        // Nothing has been done yet, so the ioctl can be restarted.
        let locked = locked.map_err(|e| if e == EINTR { ERESTARTSYS } else { e })?;
        let mut locks = HomeLocked(locked);

        bo.last_use
            .share(&bo.dev().uses, &mut locks, |locks, fence| {
                let mut slots = locks.0.reserve_fences::<1>()?.slots();
                let [slot] = slots.nth(BO_INDEX).ok_or(EINVAL)?;

                slot.add_fence(fence, Usage::Write);
                Ok(())
            })
    }

    /// Prepares the BO for a handle of the file of `vm`: one that had its first handle elsewhere
    /// becomes shared, so that it can be mapped in `vm` at any time. Sleeps. For the errors, see
    /// [`Self::share`].
    fn settle_in(bo: &Bo, vm: &Vm) -> Result {
        if !bo.last_use.is_private() {
            return Ok(());
        }
        if bo.home.as_ref().is_none() {
            // This is the first handle, so no other file can do the same.
            bo.home.populate(vm.resv_object().into());
        }
        match bo.is_at_home(vm) {
            true => Ok(()),
            false => Self::share(bo),
        }
    }

    /// Returns whether the BO is user memory.
    pub(crate) fn is_user(&self) -> bool {
        self.user.is_some()
    }

    /// Returns the memory of a heap, or [`None`] if the BO is not a heap.
    pub(crate) fn heap(&self) -> Option<&Arc<Heap>> {
        self.heap.as_ref()
    }

    /// Sets or removes the label.
    pub(crate) fn set_label(&self, label: Option<Label>) {
        let old = mem::replace(&mut *self.label.lock(), label);

        // Free the old label with the lock released.
        drop(old);
    }

    /// Sets or removes the metadata.
    pub(crate) fn set_metadata(&self, metadata: Metadata) {
        let old = mem::replace(&mut *self.metadata.lock(), metadata);

        // Free the old metadata with the lock released.
        drop(old);
    }

    /// Copies the metadata to the start of `buf`, and returns the copy.
    pub(crate) fn metadata<'a>(&self, buf: &'a mut [u8; metadata::MAX]) -> &'a [u8] {
        self.metadata.lock().copy_to(buf)
    }

    /// Returns the size of the metadata, for debugging, or [`None`] if its lock is taken.
    pub(crate) fn metadata_size(&self) -> Option<usize> {
        self.metadata.try_lock().map(|metadata| metadata.size())
    }

    /// Returns the process that created or imported the BO, for debugging.
    pub(crate) fn creator(&self) -> Pid {
        self.creator
    }

    /// Returns the state of the pages and the number of bytes that are resident, for debugging.
    /// `size` is the size of the BO, `state` the state of its file. Takes no lock.
    pub(crate) fn pages(&self, size: usize, state: PageState) -> (PageState, usize) {
        let bytes = self.resident(size, state);

        match bytes {
            _ if self.is_user() => (PageState::User, bytes),
            0 if self.is_heap() => (PageState::None, 0),
            _ if self.is_heap() => (PageState::Partial, bytes),
            _ => (state, bytes),
        }
    }

    /// Returns the number of bytes that are resident. `size` is the size of the BO, `state` the
    /// state of its file. Takes no lock.
    fn resident(&self, size: usize, state: PageState) -> usize {
        match (&self.heap, &self.user) {
            (Some(heap), _) => heap.resident(),
            // Counted in full, although it is memory of the process as well.
            (None, Some(resident)) if resident.load(Relaxed) => size,
            (None, None) if state == PageState::Resident => size,
            (None, _) => 0,
        }
    }

    /// Writes the label, for debugging, but no more than `most` bytes of it. Writes nothing if its
    /// lock is taken.
    pub(crate) fn write_label(&self, most: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label.try_lock().as_deref() {
            Some(Some(label)) => {
                let bytes = label.as_cstr().to_bytes();
                let shown = bytes.get(..most).unwrap_or(bytes);

                f.write_fmt(fmt!("{}", BStr::from_bytes(shown)))
            }
            Some(None) | None => Ok(()),
        }
    }

    /// Returns the mapping in `vm`, if there is one.
    pub(crate) fn mapping(&self, vm: &Arc<Vm>) -> Option<Arc<Mapping>> {
        let state = self.state.lock();

        state.handles.mapping(vm.id()).cloned()
    }

    /// Returns the mappings of BOs in `vm`, in the same order. Sleeps.
    ///
    /// `EINVAL`: one of them is not mapped in `vm`. `ENOMEM`.
    pub(super) fn mappings(
        drm: &Device,
        bos: &Objects<Bo>,
        vm: &Arc<Vm>,
    ) -> Result<KVVec<Arc<Mapping>>> {
        let mut bos = bos.iter();
        // Charged to the client, like the rest of the job: the job keeps it for as long as its
        // dependencies take to signal.
        let mut mappings = KVVec::with_capacity(bos.len(), GFP_KERNEL_ACCOUNT)?;

        loop {
            let uses = drm.uses.lock();
            let foreign = bos
                .by_ref()
                .take(BATCH)
                .find(|bo| match bo.home_mapping.access(&uses) {
                    // There is room for all of them.
                    Some(mapping) if Arc::ptr_eq(mapping.vm(), vm) => {
                        mappings.push_within_capacity(mapping.clone()).is_err()
                    }
                    _ => true,
                });

            drop(uses);

            if let Some(bo) = foreign {
                mappings.push(bo.mapping(vm).ok_or(EINVAL)?, GFP_KERNEL_ACCOUNT)?;
            } else if bos.len() == 0 {
                return Ok(mappings);
            }
        }
    }

    /// Records the advice of the file of `vm` about the content. Returns whether the content is
    /// still there.
    ///
    /// Errors: `EINVAL` for user memory, whose content memory management takes care of, and for
    /// [`Advice::DontNeed`] unless the file has the only handle: one user cannot give up the
    /// content for others.
    pub(crate) fn take_advice(bo: &Bo, vm: &Arc<Vm>, advice: Advice) -> Result<bool> {
        if bo.is_user() {
            return Err(EINVAL);
        }
        if advice == Advice::WillNeed {
            return Ok(bo.advise(true));
        }

        let state = bo.state.lock();
        match state.handles.is_only_one(vm.id()) {
            true => Ok(bo.advise(false)),
            false => Err(EINVAL),
        }
    }

    /// Adds a handle of the file of `vm`. The first one also maps the BO into `vm` if the interface
    /// to user space has it so. Sleeps.
    fn add_handle(bo: &Bo, vm: &Arc<Vm>) -> Result {
        Self::settle_in(bo, vm)?;

        let mut state = bo.state.lock();

        state.handles.add(vm.id())?;
        if DeviceData::MAP_WITH_HANDLE {
            Self::map_in(bo, vm, &mut state).inspect_err(|_| {
                // Without a mapping, as that has failed.
                state.handles.remove(vm.id());
            })?;
        }
        Ok(())
    }

    /// Maps the BO into `vm`, unless it is mapped there. The lock of `state` is held. Sleeps.
    ///
    /// `EINVAL`: the file of `vm` has no handle, or the BO is a heap or user memory of another
    /// file. `ENODEV`: the device has gone, or the GPU has halted. `ENOSPC`: no addresses are left.
    /// Other errors come from bringing the pages in, `ENOMEM` in particular.
    fn map_in(bo: &Bo, vm: &Arc<Vm>, state: &mut BoState) -> Result {
        let field = state.handles.mapping_mut(vm.id()).ok_or(EINVAL)?;

        if field.is_some() {
            return Ok(());
        }

        let mapping = match bo.is_user() {
            // User memory is mapped in a single address space, where it has its addresses.
            true => {
                let user = state.user.take_if(|user| user.is_in(vm));

                Mapping::of_user(bo, user.ok_or(EINVAL)?)?
            }
            false => with_gpu(bo.dev(), |gpu| Mapping::new(bo, gpu, vm)).ok_or(ENODEV)??,
        };
        *field = Some(mapping.clone());
        bo.only_vm.store(state.only_vm(), Relaxed);
        if bo.is_at_home(vm) {
            *bo.home_mapping.access_mut(&mut bo.dev().uses.lock()) = Some(mapping);
        }
        Ok(())
    }

    /// Returns whether the file of `vm` had the first handle.
    fn is_at_home(&self, vm: &Vm) -> bool {
        self.home
            .as_ref()
            .is_some_and(|home| ptr::eq(&**home, vm.resv_object()))
    }

    /// Removes a handle of the file of `vm`. If it was the last one, returns the mapping, if there
    /// is one, which the caller drops with no lock held. Sleeps.
    fn remove_handle(bo: &Bo, vm: &Arc<Vm>) -> Option<Arc<Mapping>> {
        let mut state = bo.state.lock();
        let mapping = state.handles.remove(vm.id())?;

        bo.only_vm.store(state.only_vm(), Relaxed);
        if bo.is_at_home(vm) {
            // Not the last reference.
            *bo.home_mapping.access_mut(&mut bo.dev().uses.lock()) = None;
        }
        // Done with the lock held, which reclaim also takes: it can no longer find the mapping.
        mapping.close();
        Some(mapping)
    }

    /// Locks the state, unless the lock is taken.
    pub(super) fn try_state(&self) -> Option<MutexGuard<'_, BoState>> {
        self.state.try_lock()
    }
}

impl DriverObject for BoData {
    type Driver = Driver;
    type Args = Args;

    fn new(drm: &Device, _size: usize, args: Args) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            flags: args.flags,
            heap: args.heap,
            creator: current!().tgid(),
            user: args.user.as_ref().map(|user| user.resident.clone()),
            last_use: LastUse::new(&drm.uses, args.imported),
            home: SetOnce::new(),
            home_mapping: LockedBy::new(&drm.uses, None),
            only_vm: Atomic::new(0),
            label <- new_mutex!(args.label, "drm_gpu::bo_label"),
            metadata <- new_mutex!(Metadata::none(), "drm_gpu::bo_metadata"),
            state <- new_mutex!(
                BoState {
                    handles: Handles::new(),
                    user: args.user,
                },
                "drm_gpu::bo"
            ),
        })
    }

    fn open(bo: &Bo, file: &DriverFile<Self>) -> Result {
        Self::add_handle(bo, file.inner().get_ref().vm())
    }

    fn close(bo: &Bo, file: &DriverFile<Self>) {
        let vm = file.inner().get_ref().vm();
        let mapping = Self::remove_handle(bo, vm);

        // The lock is released: if this is the last reference, dropping it unmaps the BO. Otherwise
        // a job that has ended may still hold the mapping. User space has seen its fence signal,
        // and can expect that the GPU no longer reaches the BO, so such jobs are dropped now. Other
        // jobs are left to the worker, as dropping them can take long. A job that has hung or
        // failed leaves the mapping to a dump, which keeps it until it is made.
        if let Some(mapping) = mapping {
            let id = Arc::as_ptr(&mapping);

            if Arc::into_unique_or_drop(mapping).is_none() {
                DeviceData::mapping_closed(bo.dev(), vm, id);
            }
        }
    }
}

#[vtable]
impl uma::ObjectOps for BoData {
    fn dma_space(drm: &drm::Device<Driver>) -> &uma::DmaSpace {
        &drm.dma
    }

    fn import_args(_drm: &Device, _size: usize) -> Result<Args> {
        prime::import_args()
    }

    fn before_export(bo: &Bo) -> Result {
        prime::may_export(bo)?;
        Self::share(bo)
    }

    fn export(bo: &Bo) -> Result {
        prime::may_export(bo)?;
        // The BO is not the one of `before_export()` if another thread has given its handle to
        // another BO meanwhile.
        match bo.last_use.is_private() {
            true => Err(EAGAIN),
            false => Ok(()),
        }
    }

    fn attach(bo: &Bo) -> Result {
        prime::may_export(bo)
    }

    fn mmap(bo: &Bo) -> Result {
        prime::may_export(bo)
    }

    fn resident_size(bo: &Bo) -> usize {
        bo.resident(bo.size(), bo.state())
    }

    fn is_active(bo: &Bo) -> bool {
        bo.last_use.is_busy(&bo.dev().uses)
    }
}

#[kunit_tests(drm_gpu_bo_flags)]
mod tests {
    use super::*;

    #[test]
    fn heaps_are_data_for_the_gpu_alone() {
        for (executable, cached) in [(false, false), (false, true), (true, false), (true, true)] {
            let flags = |heap| Flags {
                executable,
                heap,
                cached,
            };

            assert_eq!(flags(false).check(), Ok(()));
            assert_eq!(flags(true).check().is_ok(), !executable && !cached);
        }
    }
}
