// SPDX-License-Identifier: GPL-2.0

//! A bound GPU: probe, the state that exists while the device is bound, and teardown.
//!
//! Two objects with different lifetimes meet here. The *hardware* ([`Gpu`], [`GpuInner`]) exists
//! while the platform device is bound. The *DRM device* ([`Device`], with its [`DeviceData`]) lives
//! as long as any file, buffer or fence of it does, possibly long after the hardware is gone.
//!
//! # Order
//!
//! Probe looks up the interrupts, then sets up, in this order: power domains, regulators, reset
//! line, operating point and clocks ([`supply`]), registers, identity, soft reset, power of the
//! cores, the job queue, interrupts, shrinker, DRM registration.
//!
//! [`PlatformDriver::unbind`](platform::Driver::unbind) stops the job queue from starting anything,
//! halts the GPU, after which it cannot write to memory unless it is abandoned, and fails all jobs.
//! Then the driver data is dropped, in the order of its fields: DRM registration (waits for
//! everybody who holds a guard), shrinker, workers, interrupts, hardware (cores off, work left for
//! user memory, clocks, reset line, regulators, domains). The device-managed resources come last:
//! page tables and DMA mappings of buffers that are still open.
//!
//! Between probe and unbind, a GPU that no reset brings back is [lost](recover) until a later
//! attempt succeeds.
//!
//! So if [`with_gpu`] returns [`None`], the GPU has stopped for good, unless
//! [`AddressSpaces::is_abandoned`](mmu::AddressSpaces::is_abandoned) returns true.
//!
//! Probe and unbind run in process context. Unbind takes the mutex of the job side and, inside it,
//! that of [`recover`]. [`with_gpu`] takes no lock of its own; unbind waits for the function that
//! it runs. Dropping the last [`Gpu`] sleeps.

mod irq;
mod ratelimit;
mod recover;
mod supply;

use core::ops::{
    Deref,
    Range, //
};

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
    of,
    platform,
    prelude::*,
    sizes::SZ_1M,
    sync::{
        aref::ARef,
        atomic::Atomic,
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
    hw::{
        self,
        Chip,
        Personality,
        Runner,
        System, //
    },
    job,
    mmu,
    shrinker::{
        self,
        MemoryShrinker, //
    },
    uapi,
    Family,
    Interface, //
};

pub(crate) use ratelimit::Ratelimit;
use supply::Supply;

/// Properties of a SoC that has a GPU of the family.
type Soc = hw::Soc<<Family<'static> as Chip<'static>>::Quirks>;

/// The DRM device, in device context `Ctx`.
pub(crate) type Device<Ctx = drm::Normal> = drm::Device<Driver, Ctx>;

/// A reference to the hardware of a bound GPU, needed to touch registers. See [`recover`] for when
/// that is allowed.
///
/// Cloning is cheap. All clones are dropped before unbind ends; dropping the last one turns the
/// power off.
pub(crate) struct Gpu<'a>(Arc<GpuInner<'a>>);

impl Clone for Gpu<'_> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'a> Deref for Gpu<'a> {
    type Target = GpuInner<'a>;

    fn deref(&self) -> &GpuInner<'a> {
        &self.0
    }
}

/// The hardware that a [`Gpu`] refers to.
#[pin_data(PinnedDrop)]
pub(crate) struct GpuInner<'a> {
    /// Whether the GPU's accesses are coherent with the CPUs' caches.
    pub(crate) coherent: bool,
    /// Limits the messages about the hardware, since clients can cause them.
    #[pin]
    pub(crate) log: Ratelimit,
    /// Unbind has begun: nothing is started and no interrupt is unmasked any more. Never cleared.
    unbinding: Atomic<bool>,
    /// No reset has brought the GPU back: nothing is started and no interrupt is unmasked. Cleared
    /// when the GPU is found again.
    lost: Atomic<bool>,
    /// The GPU was reset, is held in reset, or has left the bus; or it is lost and [locked
    /// out](Self::lock_out) for a power cycle. Handlers do not read registers then.
    stopped: Atomic<bool>,
    /// The reset line is being driven: nobody may touch a register.
    quiet: Atomic<bool>,
    /// Serialises resets, and whatever else uses the reset line.
    #[pin]
    reset: Mutex<()>,
    /// Runs the work that is left for [user memory](gem::userptr). Dropping it waits for that work.
    pub(crate) leaving: OwnedQueue,
    pdev: &'a platform::Device<Bound>,
    /// The registers. For [`hw`](crate::hw) and this room only.
    pub(crate) chip: Family<'a>,
    // Last: the power is turned off after everything else is gone.
    supply: Supply<'a>,
}

impl<'a> GpuInner<'a> {
    /// Returns the platform device, which is bound as long as this exists.
    pub(crate) fn pdev(&self) -> &'a platform::Device<Bound> {
        self.pdev
    }

    /// Returns the same device as [`Self::pdev`], as a plain [`device::Device`].
    pub(crate) fn dev(&self) -> &'a device::Device<Bound> {
        self.pdev.as_ref()
    }
}

#[pinned_drop]
impl PinnedDrop for GpuInner<'_> {
    fn drop(self: Pin<&mut Self>) {
        // The registers of a GPU that is held in reset need not answer.
        if self.supply.is_held() {
            return;
        }
        self.chip.mask_all();
        self.chip.power_off();
    }
}

/// The identity of a GPU.
type Identity = <Family<'static> as Chip<'static>>::Identity;

/// Data of the DRM device: the shared state, which can outlive the hardware.
#[pin_data]
pub(crate) struct DeviceData {
    /// The identity of the GPU, for code that works without a bound device.
    pub(crate) identity: Identity,
    /// The assignment of the hardware's address spaces.
    #[pin]
    pub(crate) address_spaces: mmu::AddressSpaces,
    /// The job queue.
    #[pin]
    pub(crate) jobs: job::Jobs,
    /// Limits the messages about the clients' jobs.
    pub(crate) client_log: Arc<Ratelimit>,
    /// All heaps.
    pub(crate) heaps: Arc<HeapSet>,
    /// DMA mappings of the buffers, which unbind undoes.
    pub(crate) dma: DmaSpace,
    /// User memory, which unbind releases.
    pub(crate) mirrors: gem::userptr::Mirrors,
    /// Page tables, which unbind frees.
    pub(crate) tables: mmu::PageTables,
    /// Statistics of reclaim.
    pub(crate) reclaimed: shrinker::Statistics,
    /// Protects the last uses of all BOs.
    #[pin]
    pub(crate) uses: SpinLock<gem::private::Uses>,
    /// Decides which submission brings memory back when memory is short.
    #[pin]
    pub(crate) shortage: gem::shortage::Shortage,
}

impl DeviceData {
    /// See [`Personality::ADDRESSES`].
    pub(crate) const ADDRESSES: Range<u64> = Interface::ADDRESSES;

    /// See [`Personality::MAP_WITH_HANDLE`].
    pub(crate) const MAP_WITH_HANDLE: bool = Interface::MAP_WITH_HANDLE;

    /// Creates the data of a device without clients. Sleeps.
    fn new(
        dev: &device::Device<Bound>,
        identity: Identity,
        heaps: Arc<HeapSet>,
    ) -> Result<impl PinInit<Self, Error>> {
        let dma = DmaSpace::new(dev)?;
        let mirrors = gem::userptr::Mirrors::new(dev)?;
        let tables = mmu::PageTables::new(dev)?;
        let client_log = Arc::pin_init(Ratelimit::of_all_files(), GFP_KERNEL)?;

        Ok(try_pin_init!(Self {
            identity,
            address_spaces <- mmu::AddressSpaces::new(|drm| drm.jobs.request_reset()),
            jobs <- job::Jobs::new(),
            client_log,
            heaps,
            dma,
            mirrors,
            tables,
            reclaimed: shrinker::Statistics::new(),
            uses <- gem::private::Uses::new(),
            shortage <- gem::shortage::Shortage::new(),
        }))
    }

    /// Tells the job side that the last handle of `mapping`, in the address space `vm`, was closed,
    /// so that jobs that have ended hold it no longer: see
    /// [`retire_users()`](job::Jobs::retire_users).
    pub(crate) fn mapping_closed(drm: &Device, vm: &gem::Vm, mapping: *const gem::Mapping) {
        drm.jobs.retire_users(vm, mapping);
    }
}

/// Runs `f` with the hardware. Returns [`None`] if the DRM device is not registered: before the end
/// of probe, and after unbind.
///
/// For workers and destructors, which have only the DRM device. Unbind waits until `f` has returned
/// (SRCU read side: `f` may sleep, but must not wait for clients).
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

    const INFO: drm::DriverInfo = Interface::INFO;
    const FEAT_RENDER: bool = true;
    const FEAT_SYNCOBJ: bool = true;
    const FEAT_SYNCOBJ_TIMELINE: bool = true;

    const IOCTLS: &'static [ioctl::DrmIoctlDescriptor] = Interface::IOCTLS;

    fn show_fdinfo(
        _dev: &Device<drm::Registered>,
        _gpu: &Gpu<'_>,
        file: &drm::File<file::File>,
        printer: &mut drm::Printer,
    ) {
        uapi::fdinfo::show(file, printer, Interface::ENGINES);
    }

    fn debugfs_init(dir: &drm::debugfs::Dir<'_, Self>) {
        debugfs::add_files(dir);
    }
}

/// The platform driver.
pub(crate) struct PlatformDriver;

/// Data of a bound device. Dropped from top to bottom.
pub(crate) struct PlatformData<'a> {
    _registration: drm::Registration<'a, Driver>,
    _shrinker: Registration<MemoryShrinker>,
    drm: Settled,
    irqs: irq::Irqs<'a>,
    gpu: Gpu<'a>,
}

/// The DRM device. Dropping this ends its workers.
struct Settled(ARef<Device>);

impl Drop for Settled {
    fn drop(&mut self) {
        // No ioctl is under way any more: dropping the registration has waited for them.
        self.0.jobs.settle();
        self.0.heaps.settle();
        self.0.address_spaces.settle();
    }
}

impl platform::Driver for PlatformDriver {
    type IdInfo = Soc;
    type Data<'bound> = PlatformData<'bound>;

    const OF_ID_TABLE: Option<of::IdTable<Soc>> = Some(Family::OF_TABLE);
    const SLEEP_OPS: Option<platform::SleepOps<Self>> = Some(platform::SleepOps::new());

    fn probe<'bound>(
        pdev: &'bound platform::Device<Core<'_>>,
        info: Option<&'bound Soc>,
    ) -> impl PinInit<PlatformData<'bound>, Error> + 'bound {
        let gpu = power_up(pdev, info.copied().unwrap_or(Family::DEFAULT_SOC))?;
        let dev = gpu.dev();

        let timeout_ms = crate::module_parameters::job_timeout_ms
            .value()
            .clamp(50, 600_000);
        let heaps = HeapSet::new(dev, timeout_ms, shrinker::shrink)?;
        let data = DeviceData::new(dev, gpu.chip.identity().clone(), heaps)?;
        let unregistered = drm::UnregisteredDevice::<Driver>::new(pdev, data)?;
        let drm: ARef<Device> = (&*unregistered).into();

        let limit_ms = crate::module_parameters::job_limit_ms
            .value()
            .clamp(timeout_ms, 3_600_000);
        let dump_mib = crate::module_parameters::dump_limit_mib.value().min(1024);
        // There are no files in sysfs that tell.
        dev_info!(
            dev,
            "job_timeout_ms {}, job_limit_ms {}, dump_limit_mib {}\n",
            timeout_ms,
            limit_ms,
            dump_mib
        );
        let dumps = job::DumpConfig {
            format: Interface::DUMP,
            limit: dump_mib as usize * SZ_1M,
        };
        drm.jobs
            .start(&gpu, timeout_ms.into(), limit_ms.into(), dumps)?;
        let jobs = ScopeGuard::new_with_data(drm.clone(), |drm| drm.jobs.stop());

        let irqs = irq::Irqs::new(&gpu, &drm)?;
        gpu.start_irqs();
        gpu.unmask_jobs();

        if uma::use_huge_pages(&unregistered).is_err() {
            dev_warn!(dev, "no huge pages for buffers\n");
        }

        let shrinker = MemoryShrinker::register(&drm)?;

        // Last: nothing may fail once there can be clients, whose jobs would have to be stopped.
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
        // From here on, the search for a lost GPU must not cut the power.
        this.drm.0.jobs.stop_looking();
        this.drm.0.shortage.close();
        this.gpu.begin_halt();
        this.irqs.synchronize();
        // Excludes a recovery, which polls registers that need not answer after the halt.
        this.drm.0.jobs.exclude(|| this.drm.0.halt(&this.gpu));
        if !this.gpu.stopped() || this.drm.0.address_spaces.is_abandoned() {
            this.drm.0.heaps.leak(&this.gpu);
        }
        this.drm.0.jobs.stop();
    }
}

impl platform::Sleep for PlatformDriver {
    /// Refuses system sleep: the driver cannot restore a GPU after its power was cut.
    fn suspend<'bound>(
        pdev: &'bound platform::Device<Core<'_>>,
        _this: Pin<&PlatformData<'bound>>,
    ) -> Result {
        dev_notice!(
            pdev,
            "the system cannot sleep while this driver has the GPU\n"
        );
        Err(EBUSY)
    }

    fn resume<'bound>(
        _pdev: &'bound platform::Device<Core<'_>>,
        _this: Pin<&PlatformData<'bound>>,
    ) -> Result {
        Ok(())
    }
}

/// Does the first part of probe. Returns a GPU that is on and has its interrupts masked.
fn power_up<'a>(pdev: &'a platform::Device<Core<'_>>, soc: Soc) -> Result<Gpu<'a>> {
    let dev: &'a device::Device<Bound> = pdev.as_ref();

    irq::look_up(pdev)?;
    let supply = Supply::new(dev, &soc)?;

    let request = pdev.io_request_by_index(0).ok_or_else(|| {
        dev_err!(dev, "no registers: the device has no memory resource\n");
        ENODEV
    })?;
    let coherent = dev.dma_coherent();
    let system = System {
        coherent,
        quirks: soc.quirks,
    };
    let chip = Family::new(dev, request, system)?;
    let dma_bits = chip.dma_bits();

    // SAFETY: The device is being probed: there are no DMA allocations or mappings yet.
    unsafe { pdev.dma_set_mask_and_coherent(DmaMask::try_new(dma_bits)?) }
        .inspect_err(|e| dev_err!(dev, "no DMA with {} bits: {:?}\n", dma_bits, e))?;
    // SAFETY: As above.
    unsafe { pdev.dma_set_max_seg_size(u32::MAX) };

    let inner = Arc::pin_init(
        try_pin_init!(GpuInner {
            coherent,
            log <- Ratelimit::new(),
            unbinding: Atomic::new(false),
            lost: Atomic::new(false),
            stopped: Atomic::new(false),
            quiet: Atomic::new(false),
            reset <- new_mutex!((), "drm_gpu::reset"),
            leaving: OwnedQueue::unbound(c"drm_gpu_leaving")?,
            pdev,
            chip,
            supply,
        }? Error),
        GFP_KERNEL,
    )?;
    // From here on, an error has the cores turned off before they lose their power.
    bring_up(dev, &inner.chip, &inner.supply)?;
    Ok(Gpu(inner))
}

/// Resets a GPU that nobody uses yet, and turns its cores on. If that fails, cuts the power, which
/// no fence depends on, and tries once more.
fn bring_up(dev: &device::Device<Bound>, chip: &Family<'_>, supply: &Supply<'_>) -> Result {
    let attempt = || chip.reset().and_then(|()| chip.power_on());
    let error = match attempt() {
        // The device is gone.
        Err(e) if e != ENODEV => e,
        result => return result,
    };

    dev_warn!(dev, "the GPU does not come up, cutting its power\n");
    if !supply.has_reset_line() {
        chip.power_off();
    }
    supply.cycle_power().map_err(|_| error)?;
    attempt()
}

/// A registered threaded interrupt handler.
type ThreadedIrq<'a, T> = Pin<KBox<ThreadedRegistration<'a, T>>>;

/// Registers a handler for the interrupt that the devicetree binding calls `irq`.
fn threaded_irq<'a, T: ThreadedHandler + 'a>(
    gpu: &Gpu<'a>,
    irq: &'static CStr,
    name: &'static CStr,
    handler: impl PinInit<T, Error> + 'a,
) -> Result<ThreadedIrq<'a, T>> {
    // SAFETY: The registration is kept in `Irqs`, which is kept in the driver data and dropped at
    // unbind.
    let registration = unsafe {
        gpu.pdev()
            .request_threaded_irq_by_name(Flags::SHARED, irq, name, handler)
    };
    KBox::pin_init(registration, GFP_KERNEL).inspect_err(|&e| {
        if e != EPROBE_DEFER {
            dev_err!(gpu.dev(), "cannot get interrupt {:?}: {:?}\n", irq, e);
        }
    })
}
