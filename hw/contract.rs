// SPDX-License-Identifier: GPL-2.0

//! The contract of a family of GPUs, which the rest of the driver imports from [`hw`](crate::hw).
//!
//! A family is a module beside this one, with all knowledge of registers, errata and delays, and of
//! the systems that its GPUs are in. It implements [`Chip`] for a type of its own, which the crate
//! root names `Family`, and the other traits for [`Gpu`](crate::device::Gpu). The core (`job`,
//! `gem`, `mmu`) and `device` know the hardware by these traits only, and call them without dynamic
//! dispatch.
//!
//! - [`Chip`]: power and reset of a GPU, and its interrupts. [`device`](crate::device) is the user.
//! - [`Access`]: whether the hardware may be accessed. The family does not implement this one.
//! - [`Walker`]: the hardware's address spaces.
//! - [`Tables`]: the page tables that the hardware walks, and where BOs go in them.
//! - [`Runner`]: the job slots.
//! - [`dump::Inspect`]: what dumps contain about the hardware.
//! - [`Personality`]: the interface to user space. A module of `uapi` implements it for a type that
//!   the crate root names `Interface`.
//!
//! Functions of a family wait in bounded loops only. A register that reads as all ones means that
//! the device is no longer on the bus ([`ENODEV`](kernel::error::code::ENODEV)).
//!
//! # A second family
//!
//! A module has one family, so that it binds no other GPUs and Kconfig chooses each family by
//! itself. A second one is a second crate root in the same directory. It declares the modules of
//! the core as `drm_gpu.rs` does, and a family and an interface of its own in the modules `hw` and
//! `uapi`; an object in the Makefile and a symbol in Kconfig build it. `tools/testing/family/` has
//! such a root, for the test that nothing in the core stands in the way. Its family implements
//! every trait, and refuses every GPU in [`Chip::new`].

use core::ops::Range;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    drm::{
        ioctl,
        job_queue::{
            QueueSlot,
            SlotConfig,
            Stop, //
        },
        mm::{
            Placement,
            Policy, //
        },
        DriverInfo, //
    },
    fmt::Display,
    io::mem::IoRequest,
    iommu::pgtable::{
        IoPageTable,
        IoPageTableFmt,
        TablePool, //
    },
    of,
    prelude::*,
    sync::Arc, //
};

use super::dump;

/// Properties of a SoC: the resources of the GPU in it, and what the family has to know.
#[derive(Clone, Copy)]
pub(crate) struct Soc<Q> {
    /// Names of the supplies.
    pub(crate) supplies: &'static [&'static CStr],
    /// Names of the power domains if there is more than one, else empty.
    pub(crate) domains: &'static [&'static CStr],
    /// See [`System::quirks`].
    pub(crate) quirks: Q,
}

/// Properties of the system around a GPU that its family has to know.
pub(crate) struct System<Q> {
    /// The GPU's accesses are coherent with the CPUs' caches.
    pub(crate) coherent: bool,
    /// Everything else, which only the family understands.
    pub(crate) quirks: Q,
}

/// The registers of a GPU whose clocks and supplies are on, with what was found out about it.
///
/// Functions sleep unless stated otherwise, and allocate nothing except for [`Self::new`], so that
/// fences may depend on them. The caller excludes other resets, and is in probe or teardown or has
/// made sure that registers may be touched, as [`device`](crate::device) describes.
///
/// A reset by command has three steps, because no command may be given to the MMU from the second
/// one until it is over: [`Self::prepare_reset`], [`Self::start_reset`], and
/// [`Self::finish_reset`] if the reset takes longer.
pub(crate) trait Chip<'a>: Sized {
    /// Facts about a particular system.
    type Quirks: Copy + 'static;

    /// Properties of the GPU that are read in probe and do not change.
    type Identity: Clone + Send + Sync;

    /// A fault that is reported neither by an address space nor by a job slot. Printed as a line of
    /// the log has it.
    type Error: Display;

    /// The devices to which the driver binds, by compatible string, with the SoCs that they are in.
    const OF_TABLE: of::IdTable<Soc<Self::Quirks>>;

    /// The SoC of a device that was bound by its name.
    const DEFAULT_SOC: Soc<Self::Quirks>;

    /// Maps the registers and identifies the GPU. Logs the reason if that fails.
    fn new(
        dev: &'a Device<Bound>,
        registers: IoRequest<'a>,
        system: System<Self::Quirks>,
    ) -> Result<Self>;

    /// Returns the identity of the GPU. Any context.
    fn identity(&self) -> &Self::Identity;

    /// Returns the width of the addresses that the GPU gives to the system. Any context.
    fn dma_bits(&self) -> u32;

    /// Prepares the GPU for a reset.
    fn prepare_reset(&self);

    /// Starts a reset and busy-waits for up to 10 ms. Does not sleep.
    ///
    /// `ENODEV`: the device is gone. `ETIMEDOUT`: the reset is not over yet;
    /// [`Self::finish_reset`] continues.
    fn start_reset(&self) -> Result;

    /// Waits for the reset that [`Self::start_reset`] has started, with harder means if that takes
    /// too long.
    ///
    /// `ENODEV`: the device is gone. `ETIMEDOUT`: the GPU does not respond, and may still access
    /// memory.
    fn finish_reset(&self) -> Result;

    /// Resets a GPU whose MMU nobody else uses, as during probe. Leaves its interrupts masked.
    /// Fails like [`Self::finish_reset`].
    fn reset(&self) -> Result {
        self.prepare_reset();
        match self.start_reset() {
            Err(ETIMEDOUT) => self.finish_reset(),
            result => result,
        }
    }

    /// Masks and clears the interrupts of errors after a reset by the reset line. Does not sleep.
    fn clear_errors(&self);

    /// Turns on all cores in use, after a reset. `ETIMEDOUT`: some did not power up; the log says
    /// which. `ENODEV`: the device is gone.
    fn power_on(&self) -> Result;

    /// Turns all cores off, by a reset if some stay on their way up or down. They lose their clock
    /// and supply next, even after errors, which are logged. The interrupts are masked.
    fn power_off(&self);

    /// Starts the counters that have users again, after a reset. Does not sleep. May take a lock of
    /// the family, which is a leaf.
    fn restart_counters(&self);

    /// Masks all interrupts. Any context.
    fn mask_all(&self);

    /// Clears the interrupts of faults and jobs that are left from before a reset. Does not sleep.
    fn clear_interrupts(&self);

    /// Unmasks the interrupts of errors and of faults. Does not sleep.
    fn unmask_all_but_jobs(&self);

    /// Masks the interrupt of jobs and returns true if it was raised. For the hard half of its
    /// handler, like the next two.
    fn take_jobs(&self) -> bool;

    /// Like [`Self::take_jobs`], for the interrupt of faults.
    fn take_faults(&self) -> bool;

    /// Like [`Self::take_jobs`], for the interrupt of errors.
    fn take_errors(&self) -> bool;

    /// Reads and clears the pending errors. Returns [`None`] if there is no fault among them. Does
    /// not sleep.
    fn take_error(&self) -> Option<Self::Error>;

    /// Unmasks the interrupt of errors. Does not sleep.
    fn unmask_errors(&self);
}

/// Whether the hardware may be accessed. Any context; the answers may be outdated at once, unless
/// the caller excludes that as [`device`](crate::device) describes.
pub(crate) trait Access {
    /// Returns whether nothing may be started: the GPU is lost or is being unbound.
    fn halted(&self) -> bool;

    /// Returns whether the GPU is stopped, so that it reaches no memory unless it is abandoned.
    fn stopped(&self) -> bool;

    /// Returns whether no register may be touched: the GPU has halted, or its reset line is driven,
    /// after which work goes on.
    fn off_limits(&self) -> bool;
}

/// Number of address spaces that hardware can have. Sets of them are bitmaps of 16 bits.
pub(crate) const MAX_AS: usize = 16;

/// Number of job slots that hardware can have.
pub(crate) const MAX_SLOTS: usize = 3;

/// Scope of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// The MMU forgets its translations. Accesses that were translated before may still be under
    /// way when the command completes. Sufficient if nothing was unmapped, or no job is running.
    Translations,
    /// The MMU also waits for all accesses, and the caches of the shader cores are written back.
    /// After that, the GPU neither reads nor writes pages that were unmapped before the command.
    Accesses,
}

/// A failed access in an address space. Printed as a line of the log has it. Any context; no
/// register is touched.
pub(crate) trait AccessFault: Display {
    /// Returns the GPU address of the access.
    fn address(&self) -> u64;

    /// Returns whether the address has no translation, so that mapping memory there resolves the
    /// fault.
    fn misses_translation(&self) -> bool;
}

/// The address spaces of the hardware, by number.
///
/// Unless stated otherwise, a function is called with the spinlock of
/// [`AddressSpaces`](crate::mmu::AddressSpaces) held, so that no command is given while another one
/// is being executed; that spinlock is also held while the GPU is being reset. Functions do not
/// sleep, take no lock, and return when their command has completed or failed. `ETIMEDOUT`: the MMU
/// is stuck and needs a reset before the next command. `ENODEV`: the device is gone.
///
/// [`AddressSpaces`](crate::mmu::AddressSpaces) is the only user of most of this, and decides what
/// is flushed when.
pub(crate) trait Walker: Access {
    /// Configuration with which an address space reads its page table.
    type Config;

    /// A failed access.
    type Fault: AccessFault;

    /// Returns which address spaces the GPU has, as a bitmap by number. Any context.
    fn present(&self) -> u32;

    /// Returns whether accesses of a job may still be under way when it has ended, so that even
    /// without a job [`Flush::Accesses`] is needed. Any context.
    fn leaves_accesses(&self) -> bool;

    /// Makes an address space translate with the table of `config`. No job may be using its
    /// previous table. After an error, the hardware may use either.
    fn enable(&self, nr: u8, config: &Self::Config) -> Result;

    /// Makes every access in an address space fail, including those stalled on a fault. No access
    /// that was translated before is under way any more when this returns.
    fn disable(&self, nr: u8) -> Result;

    /// Makes the MMU forget its translations of a range, after a change of the page table. Accesses
    /// of the address space that are stalled on a fault are retried.
    fn flush(&self, nr: u8, range: &Range<u64>, how: Flush) -> Result;

    /// Calls `f` while accesses in a range are blocked, then makes the MMU forget its translations
    /// of the range and the tables on the path to them. If the range cannot be blocked, `f` is not
    /// called.
    fn exclude(&self, nr: u8, range: &Range<u64>, how: Flush, f: &mut dyn FnMut()) -> Result;

    /// Returns which address spaces have a fault pending, masked or not, as a bitmap by number. The
    /// spinlock need not be held, but [`Access::off_limits`] must be false throughout.
    fn pending_faults(&self) -> Result<u16>;

    /// Takes the fault that is pending in an address space, and clears its interrupts. Returns
    /// [`None`] if no fault is pending, or for an interrupt without a cause, which is cleared.
    fn take_fault(&self, nr: u8) -> Option<Self::Fault>;

    /// Clears the interrupts of an address space.
    fn clear_faults(&self, nr: u8);

    /// Unmasks the interrupts of faults, except for the address spaces in the bitmap `except`.
    fn unmask_faults(&self, except: u16);

    /// Returns which job slots run a job in an address space, as a bitmap by number, for the log.
    /// The spinlock need not be held, but [`Access::off_limits`] must be false throughout.
    fn job_slots_of(&self, nr: u8) -> u32;
}

/// A page table in one of the two formats that the hardware of a family walks.
pub(crate) enum TableOf<'a, F: IoPageTableFmt, G: IoPageTableFmt> {
    /// In [`Tables::First`].
    First(IoPageTable<'a, F>),
    /// In [`Tables::Second`].
    Second(IoPageTable<'a, G>),
}

/// A page table in one of the two formats of the family `T`.
pub(crate) type FamilyTable<'a, T> = TableOf<'a, <T as Tables>::First, <T as Tables>::Second>;

/// The function by which a page table in the format `F` tells its root, in the form of the register
/// for it. Its requirements are those of the kernel's function: the hardware stops using the table
/// before it is dropped.
pub(crate) type Root<'a, F> = unsafe fn(&IoPageTable<'a, F>) -> u64;

/// The page tables that the hardware walks, and the addresses that they translate. No register is
/// touched. Any context unless stated otherwise.
pub(crate) trait Tables: Walker {
    /// A format of page tables, with a granule of 4 KiB and at most four levels.
    type First: IoPageTableFmt;

    /// Like [`Self::First`]. A family with a single format names it twice.
    type Second: IoPageTableFmt;

    /// Rules for the addresses of BOs. [`Self::placement`] chooses the colours that they see.
    type Rules: Policy;

    /// Returns the placement of a BO of `size` bytes, a nonzero multiple of 4 KiB. `exec`: shaders
    /// can run from it.
    fn placement(size: u64, exec: bool) -> Placement;

    /// Creates an empty page table for `dev`, which is the device of this GPU. Sleeps.
    ///
    /// The table takes pages of 4 KiB and blocks of 2 MiB, and the memory for its own tables from
    /// `pool`. It has [`NO_WARN`](kernel::iommu::pgtable::quirk::NO_WARN) set. `ENOMEM`.
    fn new_table<'a>(
        &self,
        dev: &'a Device<Bound>,
        pool: Arc<TablePool>,
    ) -> Result<FamilyTable<'a, Self>>;

    /// Returns the function for the root of a table in [`Self::First`].
    fn first_root<'a>() -> Root<'a, Self::First>;

    /// Returns the function for the root of a table in [`Self::Second`].
    fn second_root<'a>() -> Root<'a, Self::Second>;

    /// Returns the configuration with which the hardware walks a table that has this root.
    /// `EOVERFLOW` if the hardware does not have the widths of addresses that the table needs.
    fn walk(&self, table: &FamilyTable<'_, Self>, root: u64) -> Result<Self::Config>;
}

/// A job chain to start in a slot.
pub(crate) struct Chain {
    /// GPU address of the first job.
    pub(crate) head: u64,
    /// Address space.
    pub(crate) as_nr: u8,
    /// Result of [`Runner::latest_flush_id`] when user space last knew its memory to be clean; 0
    /// forces a flush.
    pub(crate) flush_id: u32,
    /// Tells the two chains of one slot apart. Must differ between successive chains.
    pub(crate) flag: bool,
    /// The GPU counts cycles while the chain is in the hardware.
    pub(crate) counts_cycles: bool,
}

/// The meaning of a slot's report that its chain has failed or was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The report was spurious: the chain is still running, and nothing may be concluded about it.
    Runs,
    /// The chain was soft-stopped and has left the hardware. [`SlotStatus::resume`] tells whether
    /// it can continue.
    Stopped,
    /// The chain has ended, and its fence gets this result. Final.
    Ended(Result),
}

/// The place from which an interrupted chain continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// At the job with this GPU address. The jobs before it are done.
    At(u64),
    /// At the job where it was started last: it has not begun, or none of its jobs is done.
    Anew,
    /// Unknown. Continuing too late would skip jobs, and the hardware refuses to run a job twice,
    /// so the chain has to fail.
    Nowhere,
}

/// State of the current chain of a slot, or of the last one if none is running. Printed as a line
/// of the log has it. Any context; no register is touched.
pub(crate) trait SlotStatus: Display {
    /// Returns whether the chain has ended by a fault.
    fn is_fault(&self) -> bool;

    /// Returns where the chain continues if it was interrupted in this state. `first` is the job
    /// where it was started last.
    fn resume(&self, first: u64) -> Resume;
}

/// The jobs that the queue has in the slots, to which [`Runner::collect`] applies reports. Called
/// with the locks that are held for that function. Does not sleep.
pub(crate) trait JobsInSlots<S: SlotStatus> {
    /// Returns the number of jobs in a slot.
    fn count(&self, slot: QueueSlot) -> usize;

    /// Ends the current job of a slot successfully. Returns false if there is none.
    fn finish(&mut self, slot: QueueSlot) -> bool;

    /// Handles the report that the current chain of a slot, which has this status, has failed or
    /// was stopped. Returns false if the report was spurious: the chain still runs, or there is
    /// none.
    fn fail(&mut self, slot: QueueSlot, status: S) -> bool;
}

/// The result of [`Runner::collect`], besides what the queue was told.
#[derive(Default)]
pub(crate) struct Reports {
    /// Number of reported ends of chains that the slots did not have.
    pub(crate) spurious: u32,
    /// There was a report that was not spurious.
    pub(crate) any: bool,
    /// The GPU has to be reset.
    pub(crate) reset: bool,
}

/// The job slots.
///
/// Unless stated otherwise, a function is called with the spinlock of the job queue held, or with
/// the queue parked, and no register may be [off limits](Access::off_limits) meanwhile. Functions
/// do not sleep. They may take locks of the family, which are leaves.
///
/// A slot runs its *current* chain. It can hold a *next* one behind that, and goes on to it by
/// itself.
pub(crate) trait Runner: Access {
    /// The job slots, by number. At most [`MAX_SLOTS`].
    const SLOTS: &'static [SlotConfig];

    /// State of a slot.
    type Status: SlotStatus;

    /// Returns the name of a slot, for the log. Any context.
    fn slot_name(slot: QueueSlot) -> &'static str;

    /// Returns the number of chains that a slot can hold and tell apart, one or two. Any context.
    fn depth(&self) -> usize;

    /// Returns for how many milliseconds a chain may run in a slot in one turn before it is told to
    /// stop. [`None`]: for as long as it takes. `job_timeout_ms` is the module parameter of that
    /// name. Any context.
    ///
    /// The timer runs only while there is a job in a slot with a limit, or one that was told to
    /// stop. Otherwise, reports that got lost are not found, and slots whose interrupt had to be
    /// masked are not polled. So a slot without a limit must report every end by itself.
    fn timeout_ms(&self, slot: QueueSlot, job_timeout_ms: u64) -> Option<u64>;

    /// Returns whether the current chain of a slot, whose time is up, has progressed since it began
    /// or since this was last called for it. If so, it gets the time of the slot once more, but at
    /// most three times in one turn.
    fn progressed(&self, slot: QueueSlot) -> bool;

    /// Returns whether a hard stop can hide a failure after which the GPU must be reset. Any
    /// context.
    fn hides_failures(&self) -> bool;

    /// Returns the number of cache flushes so far, for chains that can skip theirs, or 0 if the GPU
    /// does not count them.
    ///
    /// Process context, without any spinlock. Sleeps: waits for a reset whose reset line is driven.
    /// `ENODEV` if the GPU has halted.
    fn latest_flush_id(&self) -> Result<u32>;

    /// Starts a chain, or queues it behind the chain that is running. The GPU may have halted.
    ///
    /// `EBUSY`: the second entry of the slot is in use. `ENODEV`: the GPU has halted or the device
    /// is gone. `EOVERFLOW`: there is no such address space.
    fn start(&self, slot: QueueSlot, chain: &Chain) -> Result;

    /// Ends the counting of cycles for a chain that was started and has left the hardware.
    /// `counts_cycles` is that of the chain. Registers may be off limits.
    fn finish(&self, counts_cycles: bool);

    /// Requests that a chain stop. An interrupt reports that it has stopped.
    ///
    /// `flag` is that of the chain to stop, so that one which has moved up in the meantime is not
    /// affected. Hardware of depth one stops whichever chain is running. Does nothing if the chain
    /// cannot be stopped softly: if it still runs after the time that a stop may take, it is
    /// stopped hard, as one that has not obeyed.
    fn stop(&self, slot: QueueSlot, how: Stop, flag: bool);

    /// Withdraws the next chain of a slot. Returns false if it has begun instead.
    fn withdraw(&self, slot: QueueSlot) -> bool;

    /// Withdraws the next chain of a slot whose current chain has failed and is not acknowledged
    /// yet, so that the next one cannot have begun.
    fn withdraw_waiting(&self, slot: QueueSlot);

    /// Reads the state of a slot.
    fn status(&self, slot: QueueSlot) -> Self::Status;

    /// Reads and clears the reports of the slots until there are none, and applies them to `jobs`.
    /// The job side's mutex is held as well, and nothing is logged.
    fn collect(&self, jobs: &mut impl JobsInSlots<Self::Status>) -> Reports;

    /// Finishes the jobs whose chains have completed without a report. Returns their number. The
    /// job side's mutex is held as well.
    ///
    /// Some hardware loses the interrupt, and a slot should be asked before its job is taken for
    /// hung.
    fn collect_unreported(&self, jobs: &mut impl JobsInSlots<Self::Status>) -> u32;

    /// Returns the meaning of a report that a chain has failed or was stopped. Any context.
    ///
    /// `to_end`: the chain was told to end with this error, not just to stop, and must not run
    /// again. `resumed`: it continued after a soft stop.
    ///
    /// The errors are those of the C driver: `ECANCELED` for a chain that was stopped, `EINVAL` for
    /// one that failed by itself or because of its address space.
    fn outcome(
        &self,
        slot: QueueSlot,
        status: &Self::Status,
        to_end: Option<Error>,
        resumed: bool,
    ) -> Outcome;

    /// Returns the GPU address of the job of a slot's chain that has begun last, or 0 if it cannot
    /// be told.
    fn last_begun(&self, slot: QueueSlot) -> u64;

    /// Returns whether the job interrupt is raised and not masked, so that no handler has taken it
    /// yet. The spinlock need not be held.
    fn is_raised(&self) -> bool;

    /// Masks the job interrupt.
    fn mask_jobs(&self);

    /// Unmasks the job interrupt, unless the GPU has halted. The spinlock need not be held, but the
    /// job side's mutex, which resets hold, except in probe.
    fn unmask_jobs(&self);
}

/// The interface to user space.
pub(crate) trait Personality {
    /// Name and version of the DRM driver, by which user space finds the interface. Fences carry
    /// the name as well.
    const INFO: DriverInfo;

    /// The ioctls.
    const IOCTLS: &'static [ioctl::DrmIoctlDescriptor];

    /// The engines that fdinfo lists: number of the job slot, and name.
    const ENGINES: &'static [(usize, &'static str)];

    /// The layout of dumps.
    const DUMP: dump::DumpFormat;

    /// Range of the GPU addresses that BOs can have: whole blocks of 2 MiB but for the start, which
    /// is a multiple of 4 KiB, within 512 GiB. The page tables of every GPU of the family must
    /// cover it.
    const ADDRESSES: Range<u64>;

    /// Whether the first handle that a file gets for a BO, in whichever way, also maps the BO into
    /// the file's address space. If that fails, the file does not get the handle.
    ///
    /// If not, a file can have handles without mappings. Such a BO has no address in the file's
    /// address space, and a job that lists it is refused with `EINVAL`.
    const MAP_WITH_HANDLE: bool;
}
