// SPDX-License-Identifier: GPL-2.0

//! Assignment of the hardware's address spaces (each one an *AS*) to the
//! [spaces](super::VmShared) of files. Knows the hardware as a [`Walker`] only, and spaces as
//! [`Space`]s; tests replace both.
//!
//! A space keeps its AS until another space needs it; the least recently used one is replaced
//! first. An AS whose space has jobs in the hardware is never taken.
//!
//! One spinlock protects the table of them; that of the orphans nests inside it. It is held while
//! commands are given to the MMU and polled for completion in bounded loops. No function sleeps but
//! [`AddressSpaces::drop_orphans`] and [`AddressSpaces::settle`]. An entry of the table holds a
//! reference to its space, so that the hardware never walks a page table that has been freed. A
//! space leaves its AS before its [`Vm`](super::Vm) gives up its own reference, so a reference that
//! is dropped under the lock is never the last.
//!
//! Memory that the hardware may still reach after a failed command is kept as an [orphan](Orphans)
//! until a reset has cut the hardware off from it. A GPU that nothing stops is *abandoned*: it may
//! still be executing its last commands. From then on all flushes fail, so that no memory within
//! its reach is freed, unless a later reset succeeds.

#[cfg(CONFIG_KUNIT = "y")]
mod fake;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

use core::{
    mem,
    ops::Range, //
};

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc,
        LockedBy,
        SpinLock, //
    }, //
};

use super::{
    as_table::{
        AsEntry,
        AsState,
        AsTable,
        Space, //
    },
    change::Change,
    occupants::RunningJobs,
    orphans::{
        Keepable,
        Link,
        Lists,
        Orphans,
        Things, //
    }, //
};
use crate::{
    device::Device,
    hw::{
        Walker,
        MAX_AS, //
    }, //
};

/// A fault `F`, and the space in which it has happened.
pub(super) struct TakenFault<F, S> {
    pub(super) fault: F,
    /// The jobs of the space when the fault was taken.
    jobs: RunningJobs,
    pub(super) space: Arc<S>,
}

/// Treats `ENODEV` as success: a device that has left the bus reaches no memory and needs no flush.
fn unless_gone(result: Result) -> Result {
    match result {
        Err(ENODEV) => Ok(()),
        result => result,
    }
}

/// A function that requests a reset of the GPU, from any context.
pub(crate) type Alarm = fn(&Device);

/// The address spaces of the hardware.
#[pin_data]
pub(crate) struct AddressSpaces<S: Space> {
    #[pin]
    table: SpinLock<AsTable<S>>,
    /// Called when a command of the MMU has failed, and when memory is kept until a reset.
    alarm: Alarm,
    /// The GPU does not stop; see the [module documentation](self).
    abandoned: Atomic<bool>,
    #[pin]
    orphans: Orphans<S>,
}

impl<S: Space> AddressSpaces<S> {
    /// Creates the table, with each AS free.
    pub(crate) fn new(alarm: Alarm) -> impl PinInit<Self> {
        pin_init!(Self {
            alarm,
            table <- new_spinlock!(
                AsTable {
                    entries: [const { None }; MAX_AS],
                    stamp: 0,
                },
                "drm_gpu::address_spaces"
            ),
            abandoned: Atomic::new(false),
            orphans <- Orphans::new(),
        })
    }

    /// Requests a reset. Any context.
    pub(super) fn ask_for_reset(&self, drm: &Device) {
        (self.alarm)(drm);
    }

    /// Marks the GPU as [abandoned](self): it does not stop, so no memory that it may reach can be
    /// freed.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Release);
    }

    /// Clears the mark of [`Self::abandon`]: the GPU was stopped or reset after all.
    pub(crate) fn unabandon(&self) {
        self.abandoned.store(false, Release);
    }

    /// Returns whether the GPU is [abandoned](self).
    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Acquire)
    }

    /// Fails with `EIO` if the GPU is [abandoned](self).
    pub(super) fn check(&self) -> Result {
        match self.is_abandoned() {
            true => Err(EIO),
            false => Ok(()),
        }
    }

    /// See [`Vm::as_get`](super::Vm::as_get).
    pub(super) fn get(&self, gpu: &impl Walker<Config = S::Config>, space: &Arc<S>) -> Result<u8> {
        if gpu.halted() {
            return Err(ENODEV);
        }

        let mut table = self.table.lock();
        table.stamp += 1;
        let stamp = table.stamp;

        if let Some((nr, entry)) = table.find(space) {
            let was = entry.state;

            // The jobs that the fault ends must leave first: with the AS on, they would fault
            // again.
            if was == AsState::Faulty && entry.jobs != 0 {
                return Err(EAGAIN);
            }
            if entry.stuck {
                return Err(ETIMEDOUT);
            }
            if was != AsState::Live {
                gpu.clear_faults(nr);
                entry.note_timeout(gpu.enable(nr, space.config()))?;
                entry.state = AsState::Live;
            }
            entry.jobs += 1;
            entry.stamp = stamp;
            entry.closed = false;
            if was == AsState::Faulty {
                gpu.unmask_faults(table.faulty());
            }
            return Ok(nr);
        }

        // Waiting for a job to end would not free an AS that is stuck without a job.
        let stuck = table
            .entries
            .iter()
            .flatten()
            .any(|e| e.jobs == 0 && e.stuck);
        let none = if stuck { ETIMEDOUT } else { EBUSY };
        let (nr, chosen) = table.choose(gpu.present()).ok_or(none)?;
        let old = chosen.take();
        let was_faulty = old.as_ref().is_some_and(|e| e.state == AsState::Faulty);
        let mut entry = AsEntry {
            space: space.clone(),
            jobs: 1,
            stamp,
            state: AsState::Live,
            closed: false,
            stuck: false,
        };

        // A pending fault belongs to the previous owner.
        gpu.clear_faults(nr);
        let result = entry.note_timeout(gpu.enable(nr, space.config()));
        if result.is_err() {
            // The hardware may use either table. The entry keeps the new one alive; the old space
            // has no AS any more.
            entry.jobs = 0;
            entry.state = AsState::Unknown;
            if let Some(old) = old {
                self.orphans.keep_shared(old.space);
            }
        }
        *chosen = Some(entry);
        if was_faulty {
            gpu.unmask_faults(table.faulty());
        }
        result.map(|()| nr)
    }

    /// See [`Vm::as_put`](super::Vm::as_put).
    pub(super) fn put(&self, space: &S) {
        if let Some((_, entry)) = self.table.lock().find(space) {
            entry.jobs = entry.jobs.saturating_sub(1);
        }
    }

    /// Returns whether the space has jobs in the hardware. The answer may be outdated at once.
    pub(super) fn has_jobs(&self, space: &S) -> bool {
        let mut table = self.table.lock();

        table.find(space).is_some_and(|(_, entry)| entry.jobs != 0)
    }

    /// Removes a space that is being destroyed from its AS. After an error the hardware may still
    /// use its table.
    pub(super) fn release(&self, gpu: &impl Walker, space: &S) -> Result {
        self.check()?;

        let mut table = self.table.lock();
        let Some((nr, entry)) = table.find_entry(space) else {
            return Ok(());
        };
        let entry = entry.take();
        let state = entry.as_ref().map(|e| e.state);
        let stuck = entry.as_ref().is_some_and(|e| e.stuck);
        let result = match state {
            _ if stuck && !gpu.stopped() => Err(ETIMEDOUT),
            Some(AsState::Live | AsState::Unknown) if !gpu.stopped() => {
                unless_gone(gpu.disable(nr))
            }
            // A GPU that is abandoned counts as stopped, too.
            _ => self.check(),
        };

        if !gpu.off_limits() {
            gpu.clear_faults(nr);
            if state == Some(AsState::Faulty) {
                gpu.unmask_faults(table.faulty());
            }
        }
        drop(table);
        drop(entry);
        result
    }

    /// Removes a space from its AS after the hardware has been unbound. Touches no register.
    pub(super) fn forget(&self, space: &S) {
        let entry = self
            .table
            .lock()
            .find_entry(space)
            .and_then(|(_, entry)| entry.take());

        drop(entry);
    }

    /// Flushes a range of a space after a change, if the hardware may have translations of the
    /// space.
    ///
    /// An error means that the hardware may still use the old ones. `ETIMEDOUT`: the MMU is stuck,
    /// which is an error only if pages were removed. No job starts then until a reset has made the
    /// hardware forget its translations, so that it will find pages that were added. `EIO`: the GPU
    /// was abandoned.
    pub(super) fn flush(
        &self,
        gpu: &impl Walker,
        space: &S,
        range: &Range<u64>,
        change: Change,
    ) -> Result {
        self.check()?;
        match self.table.lock().find(space) {
            Some((_, entry)) if entry.stuck && !gpu.stopped() => match change {
                Change::Mapped => Ok(()),
                Change::Unmapped => Err(ETIMEDOUT),
            },
            Some((nr, entry)) if entry.needs_flush(change) && !gpu.stopped() => {
                let how = change.flush(entry.jobs, gpu.leaves_accesses());

                unless_gone(entry.note_timeout(gpu.flush(nr, range, how)))
            }
            // A GPU that is abandoned counts as stopped, too.
            _ => self.check(),
        }
    }

    /// Like [`Self::flush`] after unmapping, but turns the AS off if the space has no jobs, so
    /// that further ranges need no flush. The next job turns it on again.
    pub(super) fn rest(&self, gpu: &impl Walker, space: &S, range: &Range<u64>) -> Result {
        self.check()?;
        match self.table.lock().find(space) {
            Some((nr, entry))
                if entry.state == AsState::Live
                    && entry.jobs == 0
                    && !entry.stuck
                    && !gpu.stopped() =>
            {
                let result = entry.note_timeout(gpu.disable(nr));

                if result.is_ok() {
                    entry.state = AsState::Off;
                }
                return unless_gone(result);
            }
            _ => (),
        }
        self.flush(gpu, space, range, Change::Unmapped)
    }

    /// Like [`Self::flush`] after unmapping, for a range that may be one of many, such as that of a
    /// mapping which is being removed. The second such range without a job in between has the AS
    /// turned off as by [`Self::rest`].
    pub(super) fn flush_closed(&self, gpu: &impl Walker, space: &S, range: &Range<u64>) -> Result {
        let again = match self.table.lock().find(space) {
            Some((_, entry)) => mem::replace(&mut entry.closed, true),
            None => false,
        };

        match again {
            true => self.rest(gpu, space, range),
            false => self.flush(gpu, space, range, Change::Unmapped),
        }
    }

    /// Calls `f` while the hardware makes no accesses in a range of a space, and flushes the range
    /// afterwards. `f` runs under the spinlock.
    ///
    /// `EBUSY`: the MMU takes no command until a reset, which has been requested; `f` was not
    /// called. After any other error, it may have been called.
    pub(super) fn exclude(
        &self,
        gpu: &impl Walker,
        space: &S,
        range: &Range<u64>,
        f: &mut dyn FnMut(),
    ) -> Result {
        self.check()?;
        match self.table.lock().find(space) {
            Some((_, entry)) if entry.stuck && !gpu.stopped() => Err(EBUSY),
            Some((nr, entry)) if entry.needs_flush(Change::Unmapped) && !gpu.stopped() => {
                let how = Change::Unmapped.flush(entry.jobs, gpu.leaves_accesses());

                entry.note_timeout(gpu.exclude(nr, range, how, f))
            }
            // With the lock held, so that the space cannot get an AS in the meantime. A GPU that
            // is abandoned counts as stopped, too.
            _ => {
                self.check()?;
                f();
                Ok(())
            }
        }
    }

    /// Takes the fault that is pending in the AS `nr`, and returns it with the space it belongs to.
    ///
    /// Returns [`None`] if no fault is pending, because the space has left the AS since the
    /// caller saw it; if the interrupt has no cause or the AS is free, in which case the interrupt
    /// is cleared; or if the registers are off limits.
    pub(super) fn take_fault<H: Walker>(&self, gpu: &H, nr: u8) -> Option<TakenFault<H::Fault, S>> {
        // An AS is reassigned, and its interrupts cleared, under the same lock. So a pending fault
        // belongs to the current owner.
        let table = self.table.lock();
        if gpu.off_limits() {
            return None;
        }
        // This clears the interrupt, also if the AS has no owner.
        let fault = gpu.take_fault(nr)?;
        let entry = table.entries.get(usize::from(nr))?.as_ref()?;

        Some(TakenFault {
            fault,
            jobs: entry.space.running_jobs(),
            space: entry.space.clone(),
        })
    }

    /// Turns off the AS `nr` after a fault in it, so that its jobs end. Returns [`None`] if the
    /// space or all jobs that may have made the access have left the hardware in the meantime, if
    /// the AS has been turned off for another reason, or if the registers are off limits: the
    /// jobs are about to leave the hardware then.
    ///
    /// `ETIMEDOUT`: the MMU has got stuck, and needs a reset, which the caller requests.
    pub(super) fn fail_at<F>(
        &self,
        gpu: &impl Walker,
        nr: u8,
        taken: &TakenFault<F, S>,
    ) -> Option<Result> {
        let space = &taken.space;
        let mut table = self.table.lock();
        // If no job was known, it is not known either which one may have gone.
        let gone =
            taken.jobs != RunningJobs::default() && !space.running_jobs().has_one_of(&taken.jobs);
        if gpu.off_limits() || gone {
            return None;
        }

        match table.find(space) {
            Some((at, entry))
                if at == nr && matches!(entry.state, AsState::Live | AsState::Faulty) =>
            {
                entry.state = AsState::Faulty;
                // Until a reset, a stuck MMU takes no command.
                Some(match entry.stuck {
                    true => Ok(()),
                    false => entry.note_timeout(gpu.disable(nr)),
                })
            }
            _ => None,
        }
    }

    /// Returns which address spaces were turned off after a fault, as a bitmap by number. Their
    /// interrupts must be ignored.
    pub(crate) fn faulty(&self) -> u16 {
        self.table.lock().faulty()
    }

    /// Unmasks the MMU interrupts, except those of each AS that was turned off after a fault.
    pub(crate) fn unmask(&self, gpu: &impl Walker) {
        let table = self.table.lock();

        if !gpu.off_limits() {
            gpu.unmask_faults(table.faulty());
        }
    }

    /// Calls `reset` with the lock held, so that no command is given to the MMU: it would be lost,
    /// or never end because the caches are off. `reset` must not sleep.
    ///
    /// If `reset` returns `ETIMEDOUT`, the reset is not over: until [`Self::forget_all`], the
    /// hardware is assumed to reach all memory that it could reach before.
    pub(crate) fn reset(&self, reset: impl FnOnce() -> Result) -> Result {
        let mut table = self.table.lock();
        let result = reset();

        match result {
            Ok(()) => self.forget_in(&mut table),
            Err(_) => {
                for entry in table.entries.iter_mut().flatten() {
                    let _ = entry.note_timeout(result);
                }
            }
        }
        result
    }

    /// Records that a reset has made the hardware forget all spaces. Each keeps its AS, and its
    /// count of jobs, which [`Self::put`] lowers. The caller must ensure that
    /// [`Self::drop_orphans`] is called afterwards.
    pub(crate) fn forget_all(&self) {
        self.forget_in(&mut self.table.lock());
    }

    /// Does the work of [`Self::forget_all`], with the lock held.
    fn forget_in(&self, table: &mut AsTable<S>) {
        for entry in table.entries.iter_mut().flatten() {
            entry.state = AsState::Off;
            entry.stuck = false;
        }
        self.orphans.forget();
    }

    /// Keeps `thing`, which the hardware may still reach, until the hardware is reset. Does not
    /// sleep.
    pub(super) fn keep(&self, thing: Keepable<impl Send + 'static>) {
        self.orphans.keep(thing);
    }

    /// Keeps a space, and `things` that it has kept, like [`keep`](Self::keep).
    pub(super) fn keep_space(&self, space: Arc<S>, things: Things) {
        self.orphans.keep_all(things);
        self.orphans.keep_shared(space);
    }

    /// Creates the link of a space.
    pub(super) fn link(&self) -> LockedBy<Link<S>, Lists<S>> {
        self.orphans.link()
    }

    /// Drops everything that was [kept](Self::keep) before the last reset. Sleeps. The caller holds
    /// no lock that dropping a BO or an address space takes.
    pub(crate) fn drop_orphans(&self) {
        self.orphans.drop_forgotten();
    }

    /// Drops all orphans at unbind, unless the GPU is abandoned. Sleeps, like
    /// [`drop_orphans`](Self::drop_orphans).
    pub(crate) fn settle(&self) {
        if self.check().is_ok() {
            self.orphans.forget();
            self.orphans.drop_forgotten();
        }
    }
}
