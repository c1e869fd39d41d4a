// SPDX-License-Identifier: GPL-2.0

//! Address spaces of the hardware, and who has them.
//!
//! A space that is in a slot stays there until another space needs the slot, and the one that was
//! used the longest time ago has to go first. A slot with a job in it is never taken.
//!
//! One spinlock, a leaf; it is held while commands are given to the MMU, which waits for them in
//! bounded loops. No function sleeps. A slot holds its [`Space`], so that the hardware never walks
//! a table that has been freed; a space leaves its slot before its [`Vm`](super::Vm) goes, so
//! that no reference that is dropped under the lock is the last.
//!
//! A GPU that does not stop, not even when it is done for, is *abandoned*: it may go on with what it
//! was told last. All flushes fail from then on, so that nothing it may reach is ever given away.

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
        SpinLock, //
    }, //
};

use super::Space;
use crate::{
    device::Gpu,
    hw::mali::{
        irq,
        mmu::{
            self,
            MAX_AS, //
        }, //
    }, //
};

/// What the hardware does with a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It translates.
    Live,
    /// It was turned off after a fault, to end the jobs. Its interrupts are masked.
    Faulty,
    /// It knows nothing of the space, after a reset, an error or reclaim.
    Lost,
}

/// A slot in use.
struct Slot {
    space: Arc<Space>,
    /// Jobs of the space in the hardware.
    jobs: u32,
    /// When it was last used.
    stamp: u64,
    state: State,
    /// A command has not come to an end: until a reset, the hardware may do what it did before, and
    /// takes no other command.
    stuck: bool,
}

impl Slot {
    /// Notes the result of a command.
    fn note(&mut self, result: Result) -> Result {
        self.stuck |= result == Err(ETIMEDOUT);
        result
    }
}

/// All slots, by number.
struct Table {
    slots: [Option<Slot>; MAX_AS],
    /// Counts uses.
    stamp: u64,
}

impl Table {
    /// The slot that a space is in.
    fn find(&mut self, space: &Space) -> Option<(u8, &mut Slot)> {
        self.slots.iter_mut().enumerate().find_map(|(nr, slot)| {
            let slot = slot.as_mut()?;
            // There are 16 numbers.
            core::ptr::eq(&*slot.space, space).then_some((nr as u8, slot))
        })
    }

    /// The place of the slot that a space is in.
    fn find_place(&mut self, space: &Space) -> Option<(u8, &mut Option<Slot>)> {
        let nr = self.find(space)?.0;

        Some((nr, self.slots.get_mut(usize::from(nr))?))
    }

    /// A place for another space: a free one, else the one that was used the longest time ago, of
    /// those that exist, listen, and have no job.
    fn choose(&mut self, present: u32) -> Option<(u8, &mut Option<Slot>)> {
        self.slots
            .iter_mut()
            .enumerate()
            .filter(|(nr, _)| present & 1 << nr != 0)
            .filter(|(_, slot)| slot.as_ref().is_none_or(|s| s.jobs == 0 && !s.stuck))
            .min_by_key(|(_, slot)| slot.as_ref().map(|s| s.stamp))
            .map(|(nr, slot)| (nr as u8, slot))
    }

    /// Slots that were turned off after a fault, as a bitmap.
    fn faulty(&self) -> u32 {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.as_ref().is_some_and(|s| s.state == State::Faulty))
            .fold(0, |mask, (nr, _)| mask | 1 << nr)
    }
}

/// A device that has left the bus reaches no memory any more, and has nothing to forget.
fn unless_gone(result: Result) -> Result {
    match result {
        Err(ENODEV) => Ok(()),
        result => result,
    }
}

/// The address spaces of the hardware.
#[pin_data]
pub(crate) struct Slots {
    #[pin]
    table: SpinLock<Table>,
    /// See the [module](self). Never taken back.
    abandoned: Atomic<bool>,
}

impl Slots {
    /// All free.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            table <- new_spinlock!(
                Table {
                    slots: [const { None }; MAX_AS],
                    stamp: 0,
                },
                "drm_gpu::slots"
            ),
            abandoned: Atomic::new(false),
        })
    }

    /// The GPU does not stop, and nothing that it may reach can be given away any more.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Release);
    }

    /// `EIO` if the GPU was abandoned.
    pub(super) fn check(&self) -> Result {
        match self.abandoned.load(Acquire) {
            true => Err(EIO),
            false => Ok(()),
        }
    }

    /// See [`Vm::as_get`](super::Vm::as_get).
    pub(super) fn get(&self, gpu: &Gpu<'_>, space: &Arc<Space>) -> Result<u8> {
        if gpu.halted() {
            return Err(ENODEV);
        }

        let mut table = self.table.lock();
        table.stamp += 1;
        let stamp = table.stamp;

        if let Some((nr, slot)) = table.find(space) {
            let was = slot.state;

            // The jobs that the fault ends have to go first: they would only fault again.
            if was == State::Faulty && slot.jobs != 0 {
                return Err(EBUSY);
            }
            if slot.stuck {
                return Err(ETIMEDOUT);
            }
            if was != State::Live {
                mmu::clear(gpu, nr);
                slot.note(mmu::enable(gpu, nr, &space.config))?;
                slot.state = State::Live;
            }
            slot.jobs += 1;
            slot.stamp = stamp;
            if was == State::Faulty {
                irq::unmask_mmu(gpu.io(), table.faulty());
            }
            return Ok(nr);
        }

        // If those without a job are stuck, the end of another job helps nobody.
        let stuck = table.slots.iter().flatten().any(|s| s.jobs == 0 && s.stuck);
        let none = if stuck { ETIMEDOUT } else { EBUSY };
        let (nr, place) = table.choose(gpu.id.as_present).ok_or(none)?;
        let old = place.take();
        let was_faulty = old.as_ref().is_some_and(|s| s.state == State::Faulty);
        let mut slot = Slot {
            space: space.clone(),
            jobs: 1,
            stamp,
            state: State::Live,
            stuck: false,
        };

        if was_faulty {
            mmu::clear(gpu, nr);
        }
        let result = slot.note(mmu::enable(gpu, nr, &space.config));
        if result.is_err() {
            // The hardware may be at either table. The new one goes with its slot; the old one has
            // none any more, and stays until unbind.
            slot.jobs = 0;
            slot.state = State::Lost;
            mem::forget(old);
        }
        *place = Some(slot);
        if was_faulty {
            irq::unmask_mmu(gpu.io(), table.faulty());
        }
        result.map(|()| nr)
    }

    /// See [`Vm::as_put`](super::Vm::as_put).
    pub(super) fn put(&self, space: &Space) {
        if let Some((_, slot)) = self.table.lock().find(space) {
            slot.jobs = slot.jobs.saturating_sub(1);
        }
    }

    /// Takes a space out of its slot, because it goes. On error the hardware may go on with it.
    pub(super) fn release(&self, gpu: &Gpu<'_>, space: &Space) -> Result {
        self.check()?;

        let mut table = self.table.lock();
        let Some((nr, place)) = table.find_place(space) else {
            return Ok(());
        };
        let slot = place.take();
        let state = slot.as_ref().map(|s| s.state);
        let stuck = slot.as_ref().is_some_and(|s| s.stuck);
        let result = match state {
            _ if stuck && !gpu.stopped() => Err(ETIMEDOUT),
            // A slot that is lost may have been half enabled.
            Some(State::Live | State::Lost) if !gpu.stopped() => unless_gone(mmu::disable(gpu, nr)),
            _ => Ok(()),
        };

        if state == Some(State::Faulty) && !gpu.halted() {
            mmu::clear(gpu, nr);
            irq::unmask_mmu(gpu.io(), table.faulty());
        }
        drop(table);
        drop(slot);
        result
    }

    /// Takes a space out of its slot when there is no hardware any more.
    pub(super) fn forget(&self, space: &Space) {
        let slot = self
            .table
            .lock()
            .find_place(space)
            .and_then(|(_, place)| place.take());

        drop(slot);
    }

    /// Flushes a range of a space, if it is in the hardware.
    pub(super) fn flush(&self, gpu: &Gpu<'_>, space: &Space, range: &Range<u64>) -> Result {
        self.check()?;
        match self.table.lock().find(space) {
            Some((_, slot)) if slot.stuck && !gpu.stopped() => Err(ETIMEDOUT),
            Some((nr, slot)) if slot.state == State::Live && !gpu.stopped() => {
                unless_gone(slot.note(mmu::flush_range(gpu, nr, range)))
            }
            _ => Ok(()),
        }
    }

    /// [`Self::flush`], for a range that reclaim has unmapped: turns the slot of a space without jobs
    /// off, so that the next range needs no flush. The next job turns it on.
    pub(super) fn rest(&self, gpu: &Gpu<'_>, space: &Space, range: &Range<u64>) -> Result {
        self.check()?;
        match self.table.lock().find(space) {
            Some((nr, slot))
                if slot.state == State::Live && slot.jobs == 0 && !slot.stuck && !gpu.stopped() =>
            {
                let result = slot.note(mmu::disable(gpu, nr));

                if result.is_ok() {
                    slot.state = State::Lost;
                }
                return unless_gone(result);
            }
            _ => (),
        }
        self.flush(gpu, space, range)
    }

    /// Calls `f` while the hardware makes no accesses in a range of a space, and flushes the range
    /// afterwards. On error of the hardware `f` may not have been called.
    pub(super) fn exclude(
        &self,
        gpu: &Gpu<'_>,
        space: &Space,
        range: &Range<u64>,
        f: &mut dyn FnMut(),
    ) -> Result {
        self.check()?;
        match self.table.lock().find(space) {
            Some((_, slot)) if slot.stuck && !gpu.stopped() => Err(ETIMEDOUT),
            Some((nr, slot)) if slot.state == State::Live && !gpu.stopped() => {
                slot.note(mmu::exclude(gpu, nr, range, f))
            }
            // Under the lock, so that it does not come in meanwhile.
            _ => {
                f();
                Ok(())
            }
        }
    }

    /// The space in a slot.
    pub(super) fn space(&self, nr: u8) -> Option<Arc<Space>> {
        let table = self.table.lock();
        let slot = table.slots.get(usize::from(nr))?.as_ref()?;

        Some(slot.space.clone())
    }

    /// Turns the slot of a space off, so that its jobs end. It was in slot `nr` when the fault was
    /// seen. False if it is not there any more, because its jobs have ended meanwhile.
    pub(super) fn fail_at(&self, gpu: &Gpu<'_>, nr: u8, space: &Space) -> bool {
        let mut table = self.table.lock();

        match table.find(space) {
            Some((at, slot)) if at == nr && slot.state != State::Lost => {
                slot.state = State::Faulty;
                // A stuck MMU was logged; the stop of the jobs, or the reset after it, does the rest.
                let _ = slot.note(mmu::disable(gpu, nr));
                true
            }
            _ => false,
        }
    }

    /// Slots that were turned off after a fault and whose interrupts are to be ignored, as a bitmap.
    pub(crate) fn faulty(&self) -> u32 {
        self.table.lock().faulty()
    }

    /// Unmasks the MMU interrupts, but for slots that were turned off.
    pub(crate) fn unmask(&self, gpu: &Gpu<'_>) {
        let table = self.table.lock();

        if !gpu.halted() {
            irq::unmask_mmu(gpu.io(), table.faulty());
        }
    }

    /// A reset has made the hardware forget all spaces. Those with jobs keep their places, since the
    /// jobs will be put or run again.
    pub(crate) fn forget_all(&self) {
        for slot in self.table.lock().slots.iter_mut().flatten() {
            slot.state = State::Lost;
            slot.stuck = false;
        }
    }
}
