// SPDX-License-Identifier: GPL-2.0

//! Hardware and address spaces for tests of [`AddressSpaces`]. The hardware does nothing, and notes
//! the commands that it gets.

use core::cell::{
    Cell,
    RefCell, //
};

use kernel::{
    fmt::{
        self,
        Display,
        Formatter, //
    },
    sync::atomic::Relaxed, //
};

use super::*;
use crate::{
    hw::{
        Access,
        AccessFault,
        Flush, //
    },
    mmu::{
        occupants::Occupants,
        orphans::Linked, //
    }, //
};

/// A range, which does not matter.
pub(super) const RANGE: Range<u64> = 0x1000..0x2000;

/// A command that the hardware was given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Did {
    /// [`Walker::enable`], with the AS and the number of the space.
    Enable(u8, u32),
    /// [`Walker::disable`], with the AS, as below.
    Disable(u8),
    /// [`Walker::flush`].
    Flush(u8, Flush),
    /// [`Walker::exclude`].
    Exclude(u8, Flush),
    /// [`Walker::clear_faults`].
    Clear(u8),
    /// [`Walker::unmask_faults`], with the address spaces that stay masked.
    Unmask(u16),
}

/// Number of commands that are recorded at most.
const MAX_DID: usize = 32;

/// Hardware that does nothing.
pub(super) struct Fake {
    /// See [`Walker::present`].
    present: u32,
    /// See [`Access::halted`].
    pub(super) halted: Cell<bool>,
    /// See [`Access::stopped`].
    pub(super) stopped: Cell<bool>,
    /// See [`Walker::leaves_accesses`].
    pub(super) leaves_accesses: Cell<bool>,
    /// The result of commands.
    pub(super) result: Cell<Result>,
    /// The address spaces with a pending fault, as a bitmap.
    pub(super) faults: Cell<u16>,
    /// The commands since the last call of [`Self::did`].
    did: RefCell<KVec<Did>>,
}

impl Fake {
    /// Records a command, and returns its result.
    fn record(&self, did: Did) -> Result {
        // A command too many is missed by the test.
        let _ = self.did.borrow_mut().push_within_capacity(did);

        self.result.get()
    }

    /// Returns whether these are the commands since the last call.
    pub(super) fn did(&self, expected: &[Did]) -> bool {
        let mut did = self.did.borrow_mut();
        let same = did.as_slice() == expected;

        did.clear();
        same
    }
}

impl Access for Fake {
    fn halted(&self) -> bool {
        self.halted.get()
    }

    fn stopped(&self) -> bool {
        self.stopped.get()
    }

    fn off_limits(&self) -> bool {
        self.halted()
    }
}

/// A fault in the AS with this number.
pub(super) struct FakeFault(pub(super) u8);

impl Display for FakeFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "fault in AS {}", self.0)
    }
}

impl AccessFault for FakeFault {
    fn address(&self) -> u64 {
        0
    }

    fn misses_translation(&self) -> bool {
        false
    }
}

impl Walker for Fake {
    type Config = u32;
    type Fault = FakeFault;

    fn present(&self) -> u32 {
        self.present
    }

    fn leaves_accesses(&self) -> bool {
        self.leaves_accesses.get()
    }

    fn enable(&self, nr: u8, config: &u32) -> Result {
        self.record(Did::Enable(nr, *config))
    }

    fn disable(&self, nr: u8) -> Result {
        self.record(Did::Disable(nr))
    }

    fn flush(&self, nr: u8, _range: &Range<u64>, how: Flush) -> Result {
        self.record(Did::Flush(nr, how))
    }

    fn exclude(&self, nr: u8, _range: &Range<u64>, how: Flush, f: &mut dyn FnMut()) -> Result {
        f();
        self.record(Did::Exclude(nr, how))
    }

    fn pending_faults(&self) -> Result<u16> {
        Ok(self.faults.get())
    }

    fn take_fault(&self, nr: u8) -> Option<FakeFault> {
        let faults = self.faults.get();

        self.faults.set(faults & !(1 << nr));
        (faults & 1 << nr != 0).then_some(FakeFault(nr))
    }

    fn clear_faults(&self, nr: u8) {
        self.faults.set(self.faults.get() & !(1 << nr));
        let _ = self.record(Did::Clear(nr));
    }

    fn unmask_faults(&self, except: u16) {
        let _ = self.record(Did::Unmask(except));
    }

    fn job_slots_of(&self, _nr: u8) -> u32 {
        0
    }
}

/// Stands for the address space of a file.
pub(super) struct FakeSpace {
    pub(super) number: u32,
    pub(super) jobs: Occupants,
    link: LockedBy<Link<Self>, Lists<Self>>,
    /// Counts the spaces that were dropped.
    gone: Arc<Atomic<u32>>,
}

impl Drop for FakeSpace {
    fn drop(&mut self) {
        self.gone.add(1, Relaxed);
    }
}

impl Linked for FakeSpace {
    fn link(&self) -> &LockedBy<Link<Self>, Lists<Self>> {
        &self.link
    }
}

impl Space for FakeSpace {
    type Config = u32;

    fn config(&self) -> &u32 {
        &self.number
    }

    fn running_jobs(&self) -> RunningJobs {
        self.jobs.running()
    }
}

/// The manager and its hardware.
pub(super) struct Bench {
    pub(super) manager: Pin<KBox<AddressSpaces<FakeSpace>>>,
    pub(super) gpu: Fake,
    gone: Arc<Atomic<u32>>,
}

impl Bench {
    /// Creates hardware with the address spaces in the bitmap `present`.
    pub(super) fn new(present: u32) -> Result<Self> {
        Ok(Self {
            manager: KBox::pin_init(AddressSpaces::new(|_| ()), GFP_KERNEL)?,
            gpu: Fake {
                present,
                halted: Cell::new(false),
                stopped: Cell::new(false),
                leaves_accesses: Cell::new(false),
                result: Cell::new(Ok(())),
                faults: Cell::new(0),
                did: RefCell::new(KVec::with_capacity(MAX_DID, GFP_KERNEL)?),
            },
            gone: Arc::new(Atomic::new(0), GFP_KERNEL)?,
        })
    }

    pub(super) fn space(&self, number: u32) -> Result<Arc<FakeSpace>> {
        let space = FakeSpace {
            number,
            jobs: Occupants::new(),
            link: self.manager.link(),
            gone: self.gone.clone(),
        };

        Ok(Arc::new(space, GFP_KERNEL)?)
    }

    pub(super) fn get(&self, space: &Arc<FakeSpace>) -> Result<u8> {
        self.manager.get(&self.gpu, space)
    }

    /// Runs a job from beginning to end.
    pub(super) fn run(&self, space: &Arc<FakeSpace>) -> Result<u8> {
        let nr = self.get(space)?;

        self.manager.put(space);
        Ok(nr)
    }

    pub(super) fn flush(&self, space: &FakeSpace, change: Change) -> Result {
        self.manager.flush(&self.gpu, space, &RANGE, change)
    }

    pub(super) fn rest(&self, space: &FakeSpace) -> Result {
        self.manager.rest(&self.gpu, space, &RANGE)
    }

    pub(super) fn release(&self, space: &FakeSpace) -> Result {
        self.manager.release(&self.gpu, space)
    }

    /// Returns the result, and whether the function was called.
    pub(super) fn exclude(&self, space: &FakeSpace) -> (Result, bool) {
        let mut called = false;
        let result = self
            .manager
            .exclude(&self.gpu, space, &RANGE, &mut || called = true);

        (result, called)
    }

    pub(super) fn gone(&self) -> u32 {
        self.gone.load(Relaxed)
    }
}
