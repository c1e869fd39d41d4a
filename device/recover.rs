// SPDX-License-Identifier: GPL-2.0

//! Resetting a GPU, losing it, finding it again, and stopping it for good.
//!
//! If a reset by command fails, the reset line is used, if there is one. If that fails as well, the
//! GPU is *lost*: it is held in reset, or at least given no more work, and ioctls that need it fail
//! with `ENODEV`. A worker of the job side tries to recover it at once and then periodically: it
//! cuts the power, turns it on again, and resets the GPU. Work resumes when that succeeds.
//!
//! Power is cut only after all jobs have been failed, because fences wait for a reset, and
//! switching clocks and power domains takes locks under which others wait for memory.
//!
//! Nobody may touch a register while the power is off or the reset line is asserted. So code that
//! can run at any time touches registers only within an RCU read-side section, or with a spinlock
//! held, after [`GpuInner::off_limits`] has returned false in that section; [`GpuInner::while_on`]
//! does that. Interrupt handlers check [`GpuInner::listens`] instead. Code that sleeps in between
//! holds the job side's mutex or [`GpuInner::reset`](super::GpuInner).
//!
//! There is one mutex, [`GpuInner::reset`](super::GpuInner), which nests inside that of the job
//! side. The functions that reset, stop or find the GPU sleep but, except for
//! [`GpuInner::cycle_power`](super::GpuInner), allocate nothing. Those by which the hardware
//! forgets all address spaces are functions of [`DeviceData`], which has both.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Release, //
        },
        rcu::{
            self,
            synchronize_rcu, //
        }, //
    }, //
};

use super::{
    DeviceData,
    Gpu,
    GpuInner, //
};
use crate::{
    hw::{
        Access,
        Chip, //
    },
    Family, //
};

impl Access for Gpu<'_> {
    fn halted(&self) -> bool {
        GpuInner::halted(self)
    }

    fn stopped(&self) -> bool {
        GpuInner::stopped(self)
    }

    fn off_limits(&self) -> bool {
        GpuInner::off_limits(self)
    }
}

impl GpuInner<'_> {
    /// See [`Access::stopped`].
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Acquire)
    }

    /// See [`Access::halted`].
    pub(crate) fn halted(&self) -> bool {
        self.unbinding.load(Acquire) || self.lost.load(Acquire)
    }

    /// See [`Access::off_limits`].
    pub(crate) fn off_limits(&self) -> bool {
        self.halted() || self.quiet.load(Acquire)
    }

    /// Returns whether interrupt handlers may read registers. That is so for longer than work can
    /// be started, because a level interrupt that no handler masks is raised again at once.
    pub(super) fn listens(&self) -> bool {
        !self.stopped() && !self.quiet.load(Acquire)
    }

    /// Calls `f`, which drives the reset line, while nobody touches a register. [`Self::reset`] is
    /// held. Sleeps.
    fn quietly<R>(&self, f: impl FnOnce() -> R) -> R {
        self.quiet.store(true, Release);
        // Waits for code that has not seen the flag yet.
        synchronize_rcu();
        // It may have unmasked an interrupt, for which no handler listens now.
        if !self.supply.is_held() {
            self.chip.mask_all();
        }
        let ret = f();
        self.quiet.store(false, Release);
        ret
    }

    /// Calls `f` with the registers, unless they are [off limits](Self::off_limits). They are not
    /// put off limits until `f` has returned. `f` runs in an RCU read-side section and must not
    /// sleep.
    pub(crate) fn while_on<R>(&self, f: impl FnOnce(&Family<'_>) -> R) -> Option<R> {
        let _rcu = rcu::read_lock();

        (!self.off_limits()).then(|| f(&self.chip))
    }

    /// Calls `f` while no reset is under way. Sleeps.
    pub(crate) fn between_resets<R>(&self, f: impl FnOnce() -> R) -> R {
        let _one = self.reset.lock();

        f()
    }

    /// Keeps everybody except [`DeviceData::find`] and unbind from the registers of a lost GPU, in
    /// preparation for [`Self::cycle_power`]. The mutex of the job side is held.
    pub(crate) fn lock_out(&self) {
        // This does not clear the mark of an abandoned GPU, which still counts as reaching memory.
        self.stopped.store(true, Release);
    }

    /// Cuts the power of a lost GPU and turns it on again. Sleeps and may wait for memory, so the
    /// caller holds no lock that a fence depends on. [`Self::lock_out`] must have been called
    /// before, and [`DeviceData::find`] follows. Unbind waits for this to end before it touches a
    /// register.
    pub(crate) fn cycle_power(&self) {
        // Waits for code, such as an interrupt handler, that has not seen `lost` or `stopped` yet.
        synchronize_rcu();
        if !self.supply.has_reset_line() && !self.supply.is_held() {
            self.chip.power_off();
        }
        // An error has been logged, and the supply is held then; the next attempt starts from
        // there.
        let _ = self.supply.cycle_power();
    }

    /// Restarts the counters and the interrupts, after the cores were turned on.
    fn resume(&self) {
        self.chip.restart_counters();
        self.start_irqs();
    }

    /// Clears old interrupts of the MMU and the jobs, and unmasks those of the GPU and the MMU
    /// unless the GPU has halted.
    pub(super) fn start_irqs(&self) {
        self.chip.clear_interrupts();
        if !self.halted() {
            self.chip.unmask_all_but_jobs();
        }
    }

    /// Begins the halt: prevents anything from being started and any interrupt from being unmasked
    /// from now on.
    pub(super) fn begin_halt(&self) {
        self.unbinding.store(true, Release);
        // Waits until nobody drives the reset line.
        let _one = self.reset.lock();
        if !self.supply.is_held() {
            self.chip.mask_all();
        }
    }
}

/// Resets also concern the address spaces, of which [`GpuInner`] knows nothing.
impl DeviceData {
    /// Resets the GPU and makes it ready for work: the cores are on, the address spaces forgotten,
    /// and the interrupts unmasked except that of the jobs.
    ///
    /// The caller ensures that nothing programs a job slot meanwhile. Sleeps. Allocates nothing, so
    /// that fences may depend on it. `ENODEV` if the GPU has halted or is gone. After any error the
    /// GPU has halted, and is stopped if that was possible.
    pub(crate) fn recover(&self, gpu: &GpuInner<'_>) -> Result {
        let _one = gpu.reset.lock();

        if gpu.halted() {
            return Err(ENODEV);
        }
        gpu.chip.mask_all();
        if let Err((error, reset)) = self.reset_somehow(gpu) {
            gpu.lost.store(true, Release);
            // Waits for code that has not seen the flag yet, and may unmask an interrupt.
            synchronize_rcu();
            if !gpu.supply.is_held() {
                gpu.chip.mask_all();
            }
            self.stop_after(gpu, reset);
            return Err(error);
        }
        gpu.resume();
        Ok(())
    }

    /// Tries to make a lost GPU work again. Sleeps. After an error the GPU is still lost, or is
    /// being unbound, or was not lost. On success it is in the state that [`Self::recover`] leaves
    /// it in.
    pub(crate) fn find(&self, gpu: &GpuInner<'_>) -> Result {
        let _one = gpu.reset.lock();

        if gpu.unbinding.load(Acquire) || !gpu.lost.load(Acquire) {
            return Err(ENODEV);
        }
        if gpu.supply.is_held() {
            return Err(EIO);
        }
        if let Err((error, reset)) = self.reset_somehow(gpu) {
            self.stop_after(gpu, reset);
            return Err(error);
        }
        self.address_spaces.unabandon();
        gpu.stopped.store(false, Release);
        gpu.lost.store(false, Release);
        gpu.resume();
        Ok(())
    }

    /// Resets the GPU by command, else by its reset line, and turns its cores on. An error comes
    /// with the result of the last reset, for [`Self::stop_after`].
    fn reset_somehow(&self, gpu: &GpuInner<'_>) -> Result<(), (Error, Result)> {
        let reset = self.reset_by_command(gpu);
        let error = match reset.and_then(|()| gpu.chip.power_on()) {
            Ok(()) => return Ok(()),
            // The device is gone: its reset line does not help.
            Err(e) if e == ENODEV => return Err((e, reset)),
            Err(e) => e,
        };

        if let Err(e) = gpu.quietly(|| gpu.supply.pulse_reset()) {
            if e != ENODEV {
                dev_err!(gpu.dev(), "reset line: {:?}\n", e);
            }
            return Err((error, reset));
        }
        dev_warn!(gpu.dev(), "the GPU was reset by its reset line\n");
        gpu.chip.clear_errors();
        self.address_spaces.forget_all();
        gpu.chip.power_on().map_err(|e| (e, Ok(())))
    }

    /// Resets the GPU by command. On success, the MMU has forgotten all address spaces.
    fn reset_by_command(&self, gpu: &GpuInner<'_>) -> Result {
        gpu.chip.prepare_reset();
        match self.address_spaces.reset(|| gpu.chip.start_reset()) {
            Err(ETIMEDOUT) => {
                gpu.chip.finish_reset()?;
                self.address_spaces.forget_all();
                Ok(())
            }
            result => result,
        }
    }

    /// Completes the halt, after all interrupt threads have ended: stops the GPU for good.
    pub(super) fn halt(&self, gpu: &GpuInner<'_>) {
        let _one = gpu.reset.lock();

        // A failed reset may have stopped the GPU already. A lost GPU is marked as stopped for the
        // power cycle, even if it is abandoned and its power stays on, so that mark alone does not
        // suffice.
        if (!gpu.stopped() || self.address_spaces.is_abandoned()) && !gpu.supply.is_held() {
            gpu.chip.mask_all();
            let reset = self.reset_by_command(gpu);

            self.stop_after(gpu, reset);
        }
    }

    /// Records whether `reset`, the result of a reset, has stopped the GPU. If it has not, holds
    /// the GPU in reset. If that fails as well, abandons the GPU: the memory that it may reach is
    /// leaked, because fences cannot wait for it for ever.
    fn stop_after(&self, gpu: &GpuInner<'_>, reset: Result) {
        let note = |stopped| {
            match stopped {
                true => self.address_spaces.unabandon(),
                false => self.address_spaces.abandon(),
            }
            gpu.stopped.store(stopped, Release);
        };

        match reset {
            Ok(()) => note(true),
            // A device that has left the bus does not write to memory either.
            Err(e) if e == ENODEV => note(true),
            Err(_) => gpu.quietly(|| note(gpu.supply.force_reset())),
        }
    }
}
