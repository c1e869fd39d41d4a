// SPDX-License-Identifier: GPL-2.0

//! A bound GPU: probe, what exists while the device is bound, and teardown.
//!
//! Two things with two lives meet here. The *hardware* ([`Gpu`], [`Hw`]) exists while the platform
//! device is bound. The *DRM device* ([`Device`], with its [`DeviceData`]) lives as long as
//! anybody has a file, a buffer or a fence of it, maybe long after the hardware has gone.
//!
//! # Order
//!
//! Probe: power domains, regulators, clocks, reset line ([`supply`]), registers, identity, soft
//! reset, power of the cores, interrupts, DRM registration.
//!
//! Unbind, in [`PlatformDriver::unbind`](platform::Driver::unbind): the job queue starts nothing
//! any more; the GPU is halted, after which it cannot write to memory; all jobs are failed. Then the
//! driver data goes, in the order of its fields: DRM registration (waits for all that hold a guard),
//! workers, interrupts, hardware (cores off, what is left of user memory, reset line, clocks,
//! regulators, domains). Last come the device-managed resources: page tables and DMA mappings of
//! buffers that are still open.
//!
//! So whoever is told by [`with_gpu`] that there is no GPU knows that it has stopped for good, unless
//! [`Slots::abandon`](mmu::Slots::abandon) says otherwise.

mod irq;
mod ratelimit;
pub(crate) mod soc;
mod supply;

use core::ops::Deref;

use kernel::{
    device::{
        self,
        Bound,
        Core, //
    },
    dma::{
        Device as DmaDevice,
        DmaMask, //
    },
    drm::{
        self,
        gem::uma::{
            self,
            DmaSpace, //
        },
        ioctl, //
    },
    irq::{
        Flags,
        ThreadedHandler,
        ThreadedRegistration, //
    },
    mm::shrinker::Registration,
    new_mutex,
    new_spinlock,
    of,
    platform,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc,
        Mutex,
        SpinLock, //
    },
    types::ScopeGuard,
    workqueue::OwnedQueue, //
};

use crate::{
    debugfs,
    file,
    gem::{
        self,
        heap::HeapSet, //
    },
    hw::mali::{
        self,
        Caps,
        Feature,
        Identity,
        IoMem, //
    },
    job,
    mmu,
    shrinker::{
        self,
        MemoryShrinker, //
    },
    uapi, //
};

pub(crate) use ratelimit::Ratelimit;
use soc::Soc;
use supply::Supply;

/// The DRM device, in a context of the driver's choice.
pub(crate) type Device<Ctx = drm::Normal> = drm::Device<Driver, Ctx>;

/// The hardware of a bound GPU. Whoever has one may touch registers.
///
/// Cloning is cheap. Every clone is gone before unbind ends; the last takes the power away.
pub(crate) struct Gpu<'a>(Arc<Hw<'a>>);

impl Clone for Gpu<'_> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'a> Deref for Gpu<'a> {
    type Target = Hw<'a>;

    fn deref(&self) -> &Hw<'a> {
        &self.0
    }
}

/// What a [`Gpu`] stands for.
#[pin_data(PinnedDrop)]
pub(crate) struct Hw<'a> {
    /// What the GPU says about itself.
    pub(crate) id: Identity,
    /// What is known about the product.
    pub(crate) caps: Caps,
    /// What is known about the system around it.
    pub(crate) soc: Soc,
    /// Whether the GPU's accesses are coherent with the CPUs' caches.
    pub(crate) coherent: bool,
    /// Users of the cycle counter.
    #[pin]
    pub(crate) cycle_users: SpinLock<u32>,
    /// Limits what clients can make the driver log.
    #[pin]
    pub(crate) log: Ratelimit,
    /// Unbind has begun, or a reset has failed: nothing is started, no interrupt is unmasked any
    /// more.
    halted: Atomic<bool>,
    /// The GPU surely does nothing any more.
    stopped: Atomic<bool>,
    /// One reset at a time.
    #[pin]
    reset: Mutex<()>,
    /// For what is left of [user memory](gem::userptr). Its items have run when this has gone.
    pub(crate) leaving: OwnedQueue,
    pdev: &'a platform::Device<Bound>,
    io: IoMem<'a>,
    // Last: power goes after everything else.
    supply: Supply<'a>,
}

impl<'a> Hw<'a> {
    /// The platform device, which is bound as long as this exists.
    pub(crate) fn pdev(&self) -> &'a platform::Device<Bound> {
        self.pdev
    }

    /// The same as a plain device.
    pub(crate) fn dev(&self) -> &'a device::Device<Bound> {
        self.pdev.as_ref()
    }

    /// The registers. For [`hw`](crate::hw) alone.
    pub(crate) fn io(&self) -> &IoMem<'a> {
        &self.io
    }

    /// Whether the GPU was stopped for good, so that it reaches no memory.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Acquire)
    }

    /// Whether the GPU was, or is about to be, stopped for good: nothing may be started.
    pub(crate) fn halted(&self) -> bool {
        self.halted.load(Acquire)
    }

    /// Resets the GPU and makes it ready for work: cores on, address spaces forgotten, interrupts
    /// on but for those of the jobs.
    ///
    /// The caller sees to it that nothing programs a job slot meanwhile. Sleeps; allocates
    /// nothing, so that it may run where fences depend on it. `ENODEV` once the GPU is to halt. After
    /// any error it has halted, and if possible was stopped.
    pub(crate) fn recover(&self, drm: &Device) -> Result {
        let _one = self.reset.lock();
        let (dev, io) = (self.dev(), &self.io);

        if self.halted() {
            return Err(ENODEV);
        }
        mali::irq::mask_all(io);
        let reset = mali::reset::reset(dev, io, Some(&self.caps));
        let result = reset.and_then(|()| {
            // First, as commands to the MMU may not come to an end before the caches are on.
            drm.slots.forget_all();
            mali::power::on(dev, io, &self.id, &self.caps, self.soc.overrides)
        });
        if result.is_err() {
            self.halted.store(true, Release);
            self.stop_after(drm, reset);
            return result;
        }
        mali::counter::restart(io, &self.cycle_users);
        self.start_irqs();
        Ok(())
    }

    /// Forgets old interrupts and unmasks those of the GPU and the MMU.
    fn start_irqs(&self) {
        mali::irq::clear(&self.io);
        if !self.halted() {
            mali::irq::unmask_gpu(&self.io);
            mali::irq::unmask_mmu(&self.io, 0);
        }
    }

    /// First part of the halt: from now on nothing is started and no interrupt unmasked.
    fn begin_halt(&self) {
        self.halted.store(true, Release);
        if !self.supply.is_held() {
            mali::irq::mask_all(&self.io);
        }
    }

    /// Second part of the halt, when no interrupt thread runs any more: stops the GPU for good.
    fn halt(&self, drm: &Device) {
        let _one = self.reset.lock();

        // A reset that has failed may have done it already.
        if !self.stopped() {
            mali::irq::mask_all(&self.io);
            let reset = mali::reset::reset(self.dev(), &self.io, Some(&self.caps));

            self.stop_after(drm, reset);
        }
    }

    /// Notes whether a reset has stopped the GPU for good; if not, tries by other means. If there are
    /// none, all that the GPU may reach stays with it: fences cannot wait for it for ever.
    fn stop_after(&self, drm: &Device, reset: Result) {
        let stopped = match reset {
            Ok(()) => true,
            // A device that has left the bus writes nothing either.
            Err(e) if e == ENODEV => true,
            Err(_) => self.supply.force_reset(),
        };
        if !stopped {
            drm.slots.abandon();
        }
        self.stopped.store(stopped, Release);
    }
}

#[pinned_drop]
impl PinnedDrop for Hw<'_> {
    fn drop(self: Pin<&mut Self>) {
        // Its registers need not answer then.
        if self.supply.is_held() {
            return;
        }
        mali::irq::mask_all(&self.io);
        // What does not go down by itself loses its clock and its supply next.
        let _ = mali::power::off(self.dev(), &self.io, &self.id);
    }
}

/// Data of the DRM device: everything that is shared and can outlive the hardware.
#[pin_data]
pub(crate) struct DeviceData {
    /// Who uses which address space of the hardware.
    #[pin]
    pub(crate) slots: mmu::Slots,
    /// The job queue.
    #[pin]
    pub(crate) jobs: job::Jobs,
    /// All heaps.
    pub(crate) heaps: Arc<HeapSet>,
    /// DMA mappings of the buffers, which end with the binding of the device.
    pub(crate) dma: DmaSpace,
    /// What reclaim has done.
    pub(crate) reclaimed: shrinker::Record,
    /// Who brings memory back when it is short.
    #[pin]
    pub(crate) shortage: gem::shortage::Shortage,
}

impl DeviceData {
    fn new(dma: DmaSpace, heaps: Arc<HeapSet>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            slots <- mmu::Slots::new(),
            jobs <- job::Jobs::new(),
            heaps,
            dma,
            reclaimed: shrinker::Record::new(),
            shortage <- gem::shortage::Shortage::new(),
        })
    }
}

/// Runs `f` with the hardware, unless it has gone.
///
/// For workers and destructors, which have nothing but the DRM device. Keeps unbind waiting until
/// `f` returns (SRCU read side: `f` may sleep, but must not wait for clients).
pub(crate) fn with_gpu<R>(dev: &Device, f: impl for<'a> FnOnce(&'a Gpu<'a>) -> R) -> Option<R> {
    let guard = dev.registration_guard()?;

    Some(guard.registration_data_with(f))
}

/// The DRM driver.
pub(crate) struct Driver;

#[vtable]
impl drm::Driver for Driver {
    type Data = DeviceData;
    type RegistrationData<'a> = Gpu<'a>;
    type Object = gem::Bo;
    type File = file::File;
    type ParentDevice<Ctx: device::DeviceContext> = platform::Device<Ctx>;

    const INFO: drm::DriverInfo = drm::DriverInfo {
        major: 1,
        minor: uapi::panfrost::MINOR,
        patchlevel: 0,
        // The name under which user space looks for this UAPI.
        name: c"panfrost",
        desc: c"Arm Mali Job-Manager GPUs",
    };
    const FEAT_RENDER: bool = true;
    const FEAT_SYNCOBJ: bool = true;
    const FEAT_SYNCOBJ_TIMELINE: bool = true;

    const IOCTLS: &'static [ioctl::DrmIoctlDescriptor] = uapi::panfrost::TABLE;

    fn show_fdinfo(
        _dev: &Device<drm::Registered>,
        _gpu: &Gpu<'_>,
        file: &drm::File<file::File>,
        printer: &mut drm::Printer,
    ) {
        uapi::fdinfo::show(file, printer);
    }

    fn debugfs_init(dir: &drm::debugfs::Dir<'_, Self>) {
        debugfs::add_files(dir);
    }
}

/// The platform driver.
pub(crate) struct PlatformDriver;

kernel::of_device_table!(
    OF_TABLE,
    <PlatformDriver as platform::Driver>::IdInfo,
    [
        // Before the generic names, which such nodes carry as well.
        (of::DeviceId::new(c"amlogic,meson-gxm-mali"), soc::AMLOGIC),
        (of::DeviceId::new(c"amlogic,meson-g12a-mali"), soc::AMLOGIC),
        (of::DeviceId::new(c"mediatek,mt8183-mali"), soc::MT8183),
        (
            of::DeviceId::new(c"mediatek,mt8183b-mali"),
            soc::mediatek(3, false)
        ),
        (
            of::DeviceId::new(c"mediatek,mt8186-mali"),
            soc::mediatek(2, false)
        ),
        (
            of::DeviceId::new(c"mediatek,mt8188-mali"),
            soc::mediatek(3, true)
        ),
        (
            of::DeviceId::new(c"mediatek,mt8192-mali"),
            soc::mediatek(5, true)
        ),
        (
            of::DeviceId::new(c"mediatek,mt8370-mali"),
            soc::mediatek(2, true)
        ),
        (of::DeviceId::new(c"renesas,r9a08g046-mali"), soc::DEFAULT),
        (of::DeviceId::new(c"renesas,r9a09g047-mali"), soc::DEFAULT),
        (
            of::DeviceId::new(c"allwinner,sun50i-h616-mali"),
            soc::DEFAULT
        ),
        (of::DeviceId::new(c"arm,mali-t604"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-t624"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-t628"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-t720"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-t760"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-t820"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-t830"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-t860"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-t880"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-bifrost"), soc::DEFAULT),
        (of::DeviceId::new(c"arm,mali-valhall-jm"), soc::DEFAULT),
    ]
);

/// Data of a bound device. Dropped from top to bottom.
pub(crate) struct PlatformData<'a> {
    _registration: drm::Registration<'a, Driver>,
    _shrinker: Registration<MemoryShrinker>,
    drm: Settled,
    irqs: irq::Irqs<'a>,
    gpu: Gpu<'a>,
}

/// The DRM device, whose workers end with this.
struct Settled(ARef<Device>);

impl Drop for Settled {
    fn drop(&mut self) {
        // Ioctls that were under way when the jobs were stopped have ended with the registration.
        self.0.jobs.settle();
        self.0.heaps.settle();
    }
}

impl platform::Driver for PlatformDriver {
    type IdInfo = Soc;
    type Data<'bound> = PlatformData<'bound>;

    const OF_ID_TABLE: Option<of::IdTable<Soc>> = Some(&OF_TABLE);

    fn probe<'bound>(
        pdev: &'bound platform::Device<Core<'_>>,
        info: Option<&'bound Soc>,
    ) -> impl PinInit<PlatformData<'bound>, Error> + 'bound {
        let gpu = power_up(pdev, info.copied().unwrap_or_default())?;
        let dev = gpu.dev();

        let timeout_ms = crate::module_parameters::job_timeout_ms
            .value()
            .clamp(50, 600_000);
        let heaps = HeapSet::new(dev, timeout_ms)?;
        let data = DeviceData::new(DmaSpace::new(dev)?, heaps);
        let unregistered = drm::UnregisteredDevice::<Driver>::new(pdev, data)?;
        let drm: ARef<Device> = (&*unregistered).into();

        // Without the chain flag, a stop could hit the wrong one of two chains in a slot.
        let depth = if gpu.caps.feature(Feature::JobchainDisambiguation) {
            2
        } else {
            1
        };
        drm.jobs.start(depth, timeout_ms.into())?;
        let jobs = ScopeGuard::new_with_data(drm.clone(), |drm| drm.jobs.stop());

        let irqs = irq::Irqs::new(&gpu, &drm)?;
        gpu.start_irqs();
        mali::job::unmask(&gpu);

        if uma::use_huge_pages(&unregistered).is_err() {
            dev_warn!(dev, "no huge pages for buffers\n");
        }

        let shrinker = MemoryShrinker::register(&drm)?;

        // Last: nothing can fail when there may be clients, whose jobs would have to be stopped.
        let data = Ok::<_, Error>(gpu.clone());
        // SAFETY: The registration is kept in the driver data, which is dropped at unbind.
        let registration = unsafe { drm::Registration::new(dev, unregistered, data, 0) }
            .inspect_err(|e| dev_err!(dev, "cannot register the DRM device: {:?}\n", e))?;
        jobs.dismiss();
        Ok(PlatformData {
            _registration: registration,
            _shrinker: shrinker,
            drm: Settled(drm),
            irqs,
            gpu,
        })
    }

    fn unbind<'bound>(_pdev: &'bound platform::Device<Core<'_>>, this: Pin<&PlatformData<'bound>>) {
        this.drm.0.jobs.park_for_ever();
        this.gpu.begin_halt();
        this.irqs.synchronize();
        // A recovery that is under way polls registers, which need not answer after the halt.
        this.drm.0.jobs.exclude(|| this.gpu.halt(&this.drm.0));
        this.drm.0.jobs.stop();
    }
}

/// Probe, up to a GPU that is on and has its interrupts masked.
fn power_up<'a>(pdev: &'a platform::Device<Core<'_>>, soc: Soc) -> Result<Gpu<'a>> {
    let dev: &'a device::Device<Bound> = pdev.as_ref();
    let supply = Supply::new(dev, &soc)?;

    let request = pdev.io_request_by_index(0).ok_or_else(|| {
        dev_err!(dev, "no registers: the device has no memory resource\n");
        ENODEV
    })?;
    let io = request
        .iomap_exclusive_sized::<{ mali::REGS_SIZE }>()
        .inspect_err(|e| dev_err!(dev, "cannot map the registers: {:?}\n", e))?;

    let coherent = dev.dma_coherent();
    let (id, caps) = Identity::read(dev, &io, coherent)?;
    if soc.aarch64_tables && !caps.feature(Feature::Aarch64Mmu) {
        dev_err!(
            dev,
            "this GPU has no AArch64 page tables, which its system needs\n"
        );
        return Err(EINVAL);
    }

    // SAFETY: The device is being probed: there are no DMA allocations or mappings yet.
    unsafe { pdev.dma_set_mask_and_coherent(DmaMask::try_new(id.pa_bits())?) }
        .inspect_err(|e| dev_err!(dev, "no DMA with {} bits: {:?}\n", id.pa_bits(), e))?;
    // SAFETY: As above.
    unsafe { pdev.dma_set_max_seg_size(u32::MAX) };

    mali::reset::reset(dev, &io, Some(&caps))?;
    mali::power::on(dev, &io, &id, &caps, soc.overrides)?;

    let hw = Arc::pin_init(
        try_pin_init!(Hw {
            id,
            caps,
            soc,
            coherent,
            cycle_users <- new_spinlock!(0, "drm_gpu::cycle_users"),
            log <- Ratelimit::new(),
            halted: Atomic::new(false),
            stopped: Atomic::new(false),
            reset <- new_mutex!((), "drm_gpu::reset"),
            leaving: OwnedQueue::unbound(c"drm_gpu_leaving")?,
            pdev,
            io,
            supply,
        }? Error),
        GFP_KERNEL,
    )?;
    Ok(Gpu(hw))
}

/// An interrupt handler with a thread, registered.
type ThreadedIrq<'a, T> = Pin<KBox<ThreadedRegistration<'a, T>>>;

/// Registers a handler for the interrupt that the devicetree binding calls `irq`.
fn threaded_irq<'a, T: ThreadedHandler + 'a>(
    gpu: &Gpu<'a>,
    irq: &'static CStr,
    name: &'static CStr,
    handler: T,
) -> Result<ThreadedIrq<'a, T>> {
    let handler = Ok::<_, Error>(handler);

    // SAFETY: The registration is kept in `Irqs`, which is kept in the driver data and dropped at
    // unbind.
    let registration = unsafe {
        gpu.pdev()
            .request_threaded_irq_by_name(Flags::SHARED, irq, name, handler)
    };
    KBox::pin_init(registration, GFP_KERNEL)
        .inspect_err(|e| dev_err!(gpu.dev(), "cannot get interrupt {:?}: {:?}\n", irq, e))
}
