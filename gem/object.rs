// SPDX-License-Identifier: GPL-2.0

//! What the driver knows of a BO, and how DRM calls it.
//!
//! Locks: [`State`]'s mutex, inside of the reservation and outside of everything that brings pages
//! in or maps them; the label's mutex, under which nothing happens. Mappings are dropped with no lock
//! held: taking them out of the list and letting them go are two steps.
//!
//! Opening and closing handles is for process context. Handles are also closed after unplug: nothing
//! here needs the hardware for that. The statistics are read with a spinlock held: they look at
//! atomics only.

use kernel::{
    drm::{
        self,
        gem::{
            uma,
            BaseObject,
            DriverFile,
            DriverObject, //
        }, //
    },
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        MutexGuard, //
    },
    task::Pid,
    uapi, //
};

use super::{
    backing::{
        Advice,
        State as Pages, //
    },
    heap::Heap,
    label::Label,
    mapping::Mapping,
    prime,
    userptr,
    Bo, //
};
use crate::{
    device::{
        with_gpu,
        Device,
        Driver, //
    },
    mmu::Vm, //
};

/// Flags that a BO was created with: `PANFROST_BO_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags(u32);

impl Flags {
    /// Flags of user memory.
    pub(super) const USER: Self = Self(uapi::PANFROST_BO_NOEXEC | uapi::PANFROST_BO_WB_MMAP);

    /// Flags of an imported buffer.
    pub(super) const IMPORTED: Self = Self(uapi::PANFROST_BO_NOEXEC);

    const ALL: u32 = uapi::PANFROST_BO_NOEXEC | uapi::PANFROST_BO_HEAP | uapi::PANFROST_BO_WB_MMAP;

    /// Checks flags from user space.
    ///
    /// `EINVAL`: unknown ones; a heap that is executable, or that the CPU is to map.
    pub(crate) fn new(flags: u32) -> Result<Self> {
        let new = Self(flags);

        if flags & !Self::ALL != 0 {
            return Err(EINVAL);
        }
        if new.is_heap() && (new.is_executable() || new.is_cached()) {
            return Err(EINVAL);
        }
        Ok(new)
    }

    /// Shaders can run from it.
    pub(crate) fn is_executable(self) -> bool {
        self.0 & uapi::PANFROST_BO_NOEXEC == 0
    }

    /// It gets its memory when the GPU touches it.
    pub(crate) fn is_heap(self) -> bool {
        self.0 & uapi::PANFROST_BO_HEAP != 0
    }

    /// User space maps it cached, and cares for coherency itself.
    pub(crate) fn is_cached(self) -> bool {
        self.0 & uapi::PANFROST_BO_WB_MMAP != 0
    }
}

/// What a BO is made of.
pub(crate) struct Args {
    pub(super) flags: Flags,
    pub(super) label: Option<Label>,
    pub(super) heap: Option<Arc<Heap>>,
    /// User memory, for the first handle.
    pub(super) user: Option<userptr::Prepared>,
}

/// The driver's part of a BO.
#[pin_data]
pub(crate) struct BoData {
    flags: Flags,
    heap: Option<Arc<Heap>>,
    /// Process that created or imported it.
    creator: Pid,
    /// If it is user memory: whether the GPU has the pages.
    user: Option<Arc<Atomic<bool>>>,
    /// The number of the address space that it is in, 0 if there are others or none. Changed with the
    /// state locked.
    only_vm: Atomic<u64>,
    #[pin]
    label: Mutex<Option<Label>>,
    #[pin]
    state: Mutex<State>,
}

/// What the lock of a BO guards.
pub(super) struct State {
    mappings: KVec<Entry>,
    /// User memory, until there is a handle. There will be one mapping only.
    user: Option<userptr::Prepared>,
}

impl State {
    /// What [`BoData::only_vm`] is to be.
    fn only_vm(&self) -> u64 {
        match self.mappings.as_slice() {
            [only] => only.mapping.vm().id(),
            _ => 0,
        }
    }

    /// The mappings, in all address spaces whose files have a handle.
    pub(super) fn mappings(&self) -> impl Iterator<Item = &Arc<Mapping>> {
        self.mappings.iter().map(|entry| &entry.mapping)
    }
}

/// The handles that a file has for a BO.
struct Entry {
    mapping: Arc<Mapping>,
    /// Number of handles, not 0.
    handles: usize,
}

impl Entry {
    fn is_in(&self, vm: &Arc<Vm>) -> bool {
        Arc::ptr_eq(self.mapping.vm(), vm)
    }
}

impl BoData {
    /// The flags that it was created with.
    pub(crate) fn flags(&self) -> Flags {
        self.flags
    }

    /// Whether it is a heap.
    pub(crate) fn is_heap(&self) -> bool {
        self.flags.is_heap()
    }

    /// Whether it is in the address space with this number, and in no other. Needs no lock: the answer
    /// may be outdated.
    pub(crate) fn is_only_in(&self, vm: u64) -> bool {
        self.only_vm.load(Relaxed) == vm
    }

    /// Whether it is user memory.
    pub(crate) fn is_user(&self) -> bool {
        self.user.is_some()
    }

    /// The one mapping of user memory.
    pub(super) fn user_mapping(&self) -> Option<Arc<Mapping>> {
        let state = self.state.lock();

        self.is_user()
            .then(|| state.mappings.first().map(|entry| entry.mapping.clone()))
            .flatten()
    }

    /// The memory of a heap.
    pub(crate) fn heap(&self) -> Option<&Arc<Heap>> {
        self.heap.as_ref()
    }

    /// Sets the label, or takes it away.
    pub(crate) fn set_label(&self, label: Option<Label>) {
        let old = core::mem::replace(&mut *self.label.lock(), label);

        // Freed with the lock released.
        drop(old);
    }

    /// The process that created or imported it, for debugging.
    pub(crate) fn creator(&self) -> Pid {
        self.creator
    }

    /// Where the pages are and how many bytes of them, for debugging. Takes no lock.
    pub(crate) fn pages(&self, info: &uma::Info<'_, Self>) -> (Pages, usize) {
        let bytes = self.resident(info.size, info.state);

        match bytes {
            _ if self.is_user() => (Pages::User, bytes),
            0 if self.is_heap() => (Pages::None, 0),
            _ if self.is_heap() => (Pages::Partial, bytes),
            _ => (info.state, bytes),
        }
    }

    /// How many bytes of memory it has, of its `size`. `state`: that of its file. Takes no lock.
    fn resident(&self, size: usize, state: Pages) -> usize {
        match (&self.heap, &self.user) {
            (Some(heap), _) => heap.resident(),
            // It is its process's, too.
            (None, Some(resident)) if resident.load(Relaxed) => size,
            (None, None) if state == Pages::Resident => size,
            (None, _) => 0,
        }
    }

    /// Writes the label, for debugging; nothing if it is just being changed.
    pub(crate) fn write_label(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label.try_lock().as_deref() {
            Some(Some(label)) => f.write_fmt(fmt!("{}", label.as_cstr())),
            Some(None) | None => Ok(()),
        }
    }

    /// The mapping in `vm`, if the file has a handle.
    pub(crate) fn mapping(&self, vm: &Arc<Vm>) -> Option<Arc<Mapping>> {
        let state = self.state.lock();
        let entry = state.mappings.iter().find(|entry| entry.is_in(vm))?;

        Some(entry.mapping.clone())
    }

    /// Takes advice about the content from the file with `vm`. Returns whether it is still there.
    ///
    /// `EINVAL`: only the one handle that a BO has can declare its content dispensable. What user
    /// memory is good for is between its owner and the memory management.
    pub(crate) fn take_advice(bo: &Bo, vm: &Arc<Vm>, advice: Advice) -> Result<bool> {
        if bo.is_user() {
            return Err(EINVAL);
        }
        if advice == Advice::WillNeed {
            return Ok(bo.advise(true));
        }

        let state = bo.state.lock();
        match state.mappings.as_slice() {
            [only] if only.handles == 1 && only.is_in(vm) => Ok(bo.advise(false)),
            _ => Err(EINVAL),
        }
    }

    /// A file gets a handle: maps the BO into its address space, if it is not there.
    fn add_handle(bo: &Bo, vm: &Arc<Vm>) -> Result {
        let mut state = bo.state.lock();

        if let Some(entry) = state.mappings.iter_mut().find(|entry| entry.is_in(vm)) {
            entry.handles = entry.handles.checked_add(1).ok_or(EOVERFLOW)?;
            return Ok(());
        }

        state.mappings.reserve(1, GFP_KERNEL)?;

        let mapping = match bo.is_user() {
            // It is in one address space only, and nobody else can have a handle.
            true => {
                let user = state.user.take().filter(|user| user.is_in(vm));

                Mapping::of_user(bo, user.ok_or(EINVAL)?)?
            }
            false => with_gpu(bo.dev(), |gpu| Mapping::new(bo, gpu, vm)).ok_or(ENODEV)??,
        };
        state
            .mappings
            .push_within_capacity(Entry {
                mapping,
                handles: 1,
            })
            // There is room.
            .map_err(|_| ENOMEM)?;
        bo.only_vm.store(state.only_vm(), Relaxed);
        Ok(())
    }

    /// A file loses a handle. Returns the mapping if it was the last one, to be dropped.
    fn remove_handle(&self, vm: &Arc<Vm>) -> Option<Arc<Mapping>> {
        let mut state = self.state.lock();
        let index = state.mappings.iter().position(|entry| entry.is_in(vm))?;
        let entry = state.mappings.get_mut(index)?;

        entry.handles = entry.handles.saturating_sub(1);
        if entry.handles != 0 {
            return None;
        }
        let mapping = state.mappings.remove(index).ok()?.mapping;

        self.only_vm.store(state.only_vm(), Relaxed);
        // With the lock held: reclaim, which also has it, finds the mapping no more.
        mapping.close();
        Some(mapping)
    }

    /// What the lock guards, if nobody has it.
    pub(super) fn try_state(&self) -> Option<MutexGuard<'_, State>> {
        self.state.try_lock()
    }
}

impl DriverObject for BoData {
    type Driver = Driver;
    type Args = Args;

    fn new(_drm: &Device, _size: usize, args: Args) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            flags: args.flags,
            heap: args.heap,
            creator: current!().tgid(),
            user: args.user.as_ref().map(|user| user.resident.clone()),
            only_vm: Atomic::new(0),
            label <- new_mutex!(args.label, "drm_gpu::bo_label"),
            state <- new_mutex!(
                State {
                    mappings: KVec::new(),
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
        let mapping = bo.remove_handle(file.inner().get_ref().vm());

        // With the lock released: this may be the last reference, and unmaps then. If not, a job that
        // has ended may have it still. User space knows of that end, and can take it that the GPU
        // reaches the BO no more.
        if mapping.is_some_and(|mapping| Arc::into_unique_or_drop(mapping).is_none()) {
            bo.dev().jobs.retire(bo.dev());
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

    fn export(bo: &Bo) -> Result {
        prime::may_export(bo)
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
}

#[kunit_tests(drm_gpu_bo_flags)]
mod tests {
    use super::*;

    #[test]
    fn flags_from_user_space() {
        // Which combinations are allowed, from 0 to all three.
        const ALLOWED: [bool; 8] = [true, true, false, true, true, true, false, false];

        for (flags, allowed) in ALLOWED.into_iter().enumerate() {
            assert_eq!(Flags::new(flags as u32).is_ok(), allowed);
        }
        for bit in 3..32 {
            assert_eq!(Flags::new(1 << bit), Err(EINVAL));
        }
        assert!(!Flags::IMPORTED.is_executable());
        assert!(!Flags::IMPORTED.is_heap());
    }
}
