// SPDX-License-Identifier: GPL-2.0

//! The three interrupts: jobs, MMU, GPU.
//!
//! Each hard half reads the status of its block and masks the block. The threads do the work and
//! unmask. The threads of the job and MMU interrupts are fence-signalling sections.
//!
//! An interrupt that comes without end would keep a CPU busy, so it stays masked and a reset is
//! requested. For the GPU interrupt, which reports errors only, the rate tells; for the other two,
//! the number of interrupts in a row for which there was nothing to handle. If a reset does not
//! help, these two stay masked, and the timer of the job side polls until the next reset.
//!
//! The hard halves take no lock. The threads run in process context; each has a spinlock around its
//! statistics, which is a leaf and is taken by no other thread.

use kernel::{
    device::Bound,
    dma_buf::fence::Signalling,
    irq::{
        IrqReturn,
        ThreadedHandler,
        ThreadedIrqReturn, //
    },
    new_spinlock,
    platform,
    prelude::*,
    sync::{
        aref::ARef,
        SpinLock, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    }, //
};

use super::{
    threaded_irq,
    Device,
    Gpu,
    ThreadedIrq, //
};
use crate::hw::Chip;

/// The interrupts, as the devicetree binding calls them.
const JOB: &CStr = c"job";
const MMU: &CStr = c"mmu";
const GPU: &CStr = c"gpu";

/// Checks that all interrupts exist, before anything is turned on. `EPROBE_DEFER`: a driver that
/// provides one has not been probed yet.
pub(super) fn look_up(pdev: &platform::Device<Bound>) -> Result {
    for name in [JOB, MMU, GPU] {
        // The platform core logs which one is missing.
        pdev.irq_by_name(name)?;
    }
    Ok(())
}

/// Handler of the job interrupt.
#[pin_data]
struct JobIrq<'a> {
    gpu: Gpu<'a>,
    drm: ARef<Device>,
    #[pin]
    idle: SpinLock<Idle>,
}

impl ThreadedHandler for JobIrq<'_> {
    fn handle(&self) -> ThreadedIrqReturn {
        wake_if(self.gpu.listens() && self.gpu.chip.take_jobs())
    }

    fn handle_threaded(&self) -> IrqReturn {
        let mut verdict = Frequency::Fair;

        self.drm.jobs.irq(&self.gpu, |any| {
            verdict = self.idle.lock().count(any, Instant::now());
            verdict == Frequency::Fair
        });
        handle_storm(&self.gpu, &self.drm, "job", verdict);
        IrqReturn::Handled
    }
}

/// Handler of the MMU interrupt.
#[pin_data]
struct MmuIrq<'a> {
    gpu: Gpu<'a>,
    drm: ARef<Device>,
    #[pin]
    idle: SpinLock<Idle>,
}

impl ThreadedHandler for MmuIrq<'_> {
    fn handle(&self) -> ThreadedIrqReturn {
        wake_if(self.gpu.listens() && self.gpu.chip.take_faults())
    }

    fn handle_threaded(&self) -> IrqReturn {
        let _signalling = Signalling::begin();
        let (drm, gpu) = (&self.drm, &self.gpu);
        let any = drm.jobs.handle_faults(drm, gpu);
        let verdict = self.idle.lock().count(any, Instant::now());

        if verdict == Frequency::Fair {
            drm.address_spaces.unmask(gpu);
        }
        handle_storm(gpu, drm, "MMU", verdict);
        IrqReturn::Handled
    }
}

/// Handler of the GPU interrupt.
#[pin_data]
struct GpuIrq<'a> {
    gpu: Gpu<'a>,
    drm: ARef<Device>,
    #[pin]
    storm: SpinLock<Storm>,
}

impl ThreadedHandler for GpuIrq<'_> {
    fn handle(&self) -> ThreadedIrqReturn {
        wake_if(self.gpu.listens() && self.gpu.chip.take_errors())
    }

    fn handle_threaded(&self) -> IrqReturn {
        let Some(fault) = self.gpu.while_on(|chip| chip.take_error()) else {
            return IrqReturn::Handled;
        };
        if let Some(fault) = fault {
            if self.gpu.log.allows() {
                dev_notice!(self.gpu.dev(), "GPU fault {}\n", fault);
            }
        }
        let verdict = self.storm.lock().count(Instant::now());
        match verdict {
            Frequency::Fair => {
                self.gpu.while_on(|chip| chip.unmask_errors());
            }
            Frequency::Storm => {
                dev_warn!(
                    self.gpu.dev(),
                    "GPU interrupt storm: the interrupt is masked until the next reset\n"
                );
                self.drm.jobs.request_reset();
            }
            // A reset has not helped.
            Frequency::StormAgain => (),
        }
        IrqReturn::Handled
    }
}

/// Handles a storm of the job or MMU interrupt, which stays masked.
fn handle_storm(gpu: &Gpu<'_>, drm: &Device, name: &str, verdict: Frequency) {
    match verdict {
        Frequency::Fair => (),
        Frequency::Storm => {
            dev_warn!(
                gpu.dev(),
                "{} interrupt storm: the interrupt is masked until the next reset\n",
                name
            );
            drm.jobs.request_reset();
        }
        Frequency::StormAgain => {
            if gpu.log.allows() {
                dev_warn!(
                    gpu.dev(),
                    "{} interrupt storm after a reset: a timer polls instead\n",
                    name
                );
            }
            drm.jobs.poll(gpu);
        }
    }
}

/// More GPU interrupts than this within [`STORM_TIME`] are a storm. Each of them reports an error.
const STORM: u32 = 50;
/// Period over which interrupts are counted; see [`STORM`].
const STORM_TIME: Delta = Delta::from_secs(1);
/// A storm that begins at least this long after the last one counts as a new one.
const CALM_TIME: Delta = Delta::from_secs(60);

/// More job or MMU interrupts in a row than this, for which there was nothing to handle, are a
/// storm. Now and then there is nothing to handle because another thread was faster, but each time
/// that thread has handled something, and interrupts for which there is something are in between.
const IDLE: u32 = 100;

/// Verdict on the rate of interrupts, which decides how the last one is handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frequency {
    /// The rate is acceptable: unmask the interrupt.
    Fair,
    /// Leave the interrupt masked, and reset the GPU.
    Storm,
    /// Leave the interrupt masked: a reset for the last storm has not helped.
    StormAgain,
}

/// The last storm of an interrupt.
#[derive(Default)]
struct Last(Option<Instant<Monotonic>>);

impl Last {
    /// Records that a storm has begun at time `now`, and returns the verdict.
    fn replace(&mut self, now: Instant<Monotonic>) -> Frequency {
        match self.0.replace(now) {
            Some(last) if now - last < CALM_TIME => Frequency::StormAgain,
            _ => Frequency::Storm,
        }
    }
}

/// Detects an interrupt that stays asserted although there is nothing to handle.
#[derive(Default)]
struct Idle {
    row: u32,
    last: Last,
}

impl Idle {
    /// Counts an interrupt at time `now`, and returns the verdict. `any`: there was something to
    /// handle.
    fn count(&mut self, any: bool, now: Instant<Monotonic>) -> Frequency {
        self.row = if any { 0 } else { self.row + 1 };
        if self.row <= IDLE {
            return Frequency::Fair;
        }
        self.row = 0;
        self.last.replace(now)
    }
}

/// Detects an interrupt storm, such as one caused by an interrupt that cannot be cleared.
struct Storm {
    since: Instant<Monotonic>,
    count: u32,
    last: Last,
}

impl Storm {
    /// Creates a detector that has counted nothing.
    fn new(now: Instant<Monotonic>) -> Self {
        Self {
            since: now,
            count: 0,
            last: Last::default(),
        }
    }

    /// Counts an interrupt at time `now`, and returns the verdict.
    fn count(&mut self, now: Instant<Monotonic>) -> Frequency {
        if now - self.since > STORM_TIME {
            self.since = now;
            self.count = 0;
        }
        self.count += 1;
        if self.count <= STORM {
            return Frequency::Fair;
        }
        self.count = 0;
        self.last.replace(now)
    }
}

/// Returns the value that wakes the thread if the interrupt is from this device.
fn wake_if(ours: bool) -> ThreadedIrqReturn {
    if ours {
        ThreadedIrqReturn::WakeThread
    } else {
        ThreadedIrqReturn::None
    }
}

/// The registered interrupts.
pub(super) struct Irqs<'a> {
    job: ThreadedIrq<'a, JobIrq<'a>>,
    mmu: ThreadedIrq<'a, MmuIrq<'a>>,
    gpu: ThreadedIrq<'a, GpuIrq<'a>>,
}

impl<'a> Irqs<'a> {
    /// Registers all three. The interrupts stay masked until probe unmasks them.
    pub(super) fn new(gpu: &Gpu<'a>, drm: &ARef<Device>) -> Result<Self> {
        let (its_gpu, its_drm) = (gpu.clone(), drm.clone());
        let job = try_pin_init!(JobIrq {
            gpu: its_gpu,
            drm: its_drm,
            idle <- new_spinlock!(Idle::default(), "drm_gpu::idle"),
        }? Error);
        let (its_gpu, its_drm) = (gpu.clone(), drm.clone());
        let mmu = try_pin_init!(MmuIrq {
            gpu: its_gpu,
            drm: its_drm,
            idle <- new_spinlock!(Idle::default(), "drm_gpu::idle"),
        }? Error);
        let (its_gpu, its_drm) = (gpu.clone(), drm.clone());
        let gpu_irq = try_pin_init!(GpuIrq {
            gpu: its_gpu,
            drm: its_drm,
            storm <- new_spinlock!(Storm::new(Instant::now()), "drm_gpu::storm"),
        }? Error);

        Ok(Self {
            job: threaded_irq(gpu, JOB, c"drm_gpu-job", job)?,
            mmu: threaded_irq(gpu, MMU, c"drm_gpu-mmu", mmu)?,
            gpu: threaded_irq(gpu, GPU, c"drm_gpu-gpu", gpu_irq)?,
        })
    }

    /// Waits until no handler and no interrupt thread is running.
    pub(super) fn synchronize(&self) {
        self.job.synchronize();
        self.mmu.synchronize();
        self.gpu.synchronize();
    }
}

#[kunit_tests(drm_gpu_irq)]
mod tests {
    use super::*;

    #[test]
    fn storms() {
        let start = Instant::now();
        let mut storm = Storm::new(start);
        let mut burst = |now| {
            (0..STORM)
                .all(|_| storm.count(now) == Frequency::Fair)
                .then(|| storm.count(now))
        };

        assert!(burst(start) == Some(Frequency::Storm));
        assert!(burst(start + STORM_TIME) == Some(Frequency::StormAgain));
        let later = start + STORM_TIME + CALM_TIME + Delta::from_millis(1);
        assert!(burst(later) == Some(Frequency::Storm));
    }

    #[test]
    fn nothing_to_handle() {
        let start = Instant::now();
        let mut idle = Idle::default();
        let mut row = |now| {
            (0..IDLE)
                .all(|_| idle.count(false, now) == Frequency::Fair)
                .then(|| idle.count(false, now))
        };

        assert!(row(start) == Some(Frequency::Storm));
        assert!(row(start + Delta::from_secs(1)) == Some(Frequency::StormAgain));
        let later = start + Delta::from_secs(1) + CALM_TIME + Delta::from_millis(1);
        assert!(row(later) == Some(Frequency::Storm));
    }

    #[test]
    fn something_to_handle_is_no_storm() {
        let now = Instant::now();
        let mut idle = Idle::default();

        for n in 0..4 * IDLE {
            assert!(idle.count(n % IDLE == 0, now) == Frequency::Fair);
            assert!(idle.count(true, now) == Frequency::Fair);
        }
        for n in 0..4 * IDLE {
            assert!(idle.count(n % IDLE == 0, now) == Frequency::Fair);
        }
    }

    #[test]
    fn now_and_then_is_no_storm() {
        let start = Instant::now();
        let mut storm = Storm::new(start);
        let mut now = start;

        for _ in 0..4 * STORM {
            now = now + Delta::from_millis(100);
            assert!(storm.count(now) == Frequency::Fair);
        }
    }
}
