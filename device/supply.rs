// SPDX-License-Identifier: GPL-2.0

//! Resources of the GPU: power domains, regulators, reset line, operating point, clocks.
//!
//! They are turned on in that order, and off in the reverse order when they are dropped. To recover
//! a GPU, all of them except the regulators and the operating point are turned off and on again.
//! Some systems (Allwinner H616) hang if a power domain is switched while a clock runs or the reset
//! line is released, which this order rules out. A missing resource is an error, logged with its
//! name; one whose driver has not been probed yet leads to `EPROBE_DEFER`, which is not logged.
//!
//! No lock of its own. Process context; everything that changes a resource sleeps. Fences depend on
//! [`Supply::pulse_reset`] and [`Supply::force_reset`], which allocate nothing and are called with
//! [`GpuInner::reset`](super::GpuInner) held. No fence depends on the rest, which may wait for
//! memory.

use kernel::{
    clk::{
        Clk,
        OptionalClk, //
    },
    device::{
        property::NArgs,
        Bound,
        Device, //
    },
    fmt,
    nvmem,
    opp,
    pm_domain::{
        self,
        DomainList, //
    },
    prelude::*,
    regulator::{
        Enabled,
        Regulator, //
    },
    reset::ResetArray,
    str::CString,
    sync::atomic::{
        Acquire,
        Atomic,
        Relaxed,
        Release, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use super::Soc;

/// Time for which the reset line of a GPU at work is asserted, and again between its release and
/// the first access to a register.
const RESET_TIME: Delta = Delta::from_micros(100);

/// The clocks. Either all of those that the system has are running, or none.
struct Clocks<'a> {
    dev: &'a Device<Bound>,
    gpu: Clk,
    bus: OptionalClk,
    bus_ace: OptionalClk,
    run: Atomic<bool>,
}

impl<'a> Clocks<'a> {
    /// Gets the clocks, without starting them.
    fn get(dev: &'a Device<Bound>) -> Result<Self> {
        let optional = |name| {
            let clock = OptionalClk::get(dev, Some(name));

            named(dev, fmt!("clock '{}'", name), clock)
        };

        Ok(Self {
            dev,
            gpu: named(dev, fmt!("GPU clock"), Clk::get(dev, None))?,
            bus: optional(c"bus")?,
            bus_ace: optional(c"bus_ace")?,
            run: Atomic::new(false),
        })
    }

    /// Starts the clocks. On error, none is left running. Sleeps.
    fn start(&self) -> Result {
        let dev = self.dev;

        named(dev, fmt!("GPU clock"), self.gpu.prepare_enable())?;
        named(dev, fmt!("bus clock"), self.bus.prepare_enable())
            .inspect_err(|_| self.gpu.disable_unprepare())?;
        named(dev, fmt!("ACE clock"), self.bus_ace.prepare_enable()).inspect_err(|_| {
            self.bus.disable_unprepare();
            self.gpu.disable_unprepare();
        })?;
        self.run.store(true, Release);
        Ok(())
    }

    /// Stops the clocks if they are running. Sleeps.
    fn stop(&self) {
        if self.run.xchg(false, Acquire) {
            self.bus_ace.disable_unprepare();
            self.bus.disable_unprepare();
            self.gpu.disable_unprepare();
        }
    }
}

impl Drop for Clocks<'_> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The released reset line, which is asserted when this is dropped.
struct Released<'a>(&'a Device<Bound>, ResetArray);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.1.assert() {
            dev_err!(self.0, "cannot assert the reset line: {:?}\n", e);
        }
    }
}

/// The resources that are on. Turned off from top to bottom when this is dropped.
pub(super) struct Supply<'a> {
    clocks: Clocks<'a>,
    // Before the regulators: dropping this releases its reference to one.
    _operating_points: Option<OperatingPoints>,
    reset: Released<'a>,
    /// The reset line is asserted by [`Supply::force_reset`], or the power is off, in or after a
    /// failed [`Supply::cycle_power`].
    held: Atomic<bool>,
    /// The last [`Supply::cycle_power`] has left the power on, which was logged.
    stays_on: Atomic<bool>,
    _regulators: KVec<Regulator<Enabled>>,
    domains: Option<DomainList<'a>>,
}

impl<'a> Supply<'a> {
    /// Turns everything on. Sleeps.
    ///
    /// `EINVAL` if the devicetree does not have the number of power domains that the system needs:
    /// the registers of a GPU that is not powered must not be touched.
    pub(super) fn new(dev: &'a Device<Bound>, soc: &Soc) -> Result<Self> {
        check_domains(dev, soc)?;
        // A single domain is attached and turned on by the driver core.
        let domains = if soc.domains.len() > 1 {
            let list = DomainList::attach(dev, soc.domains);
            let list = named(dev, fmt!("power domains"), list)?;

            // A kernel without power management attaches none.
            if list.len() != soc.domains.len() {
                return named(dev, fmt!("power domains"), Err(ENODEV));
            }
            Some(list)
        } else {
            None
        };

        let mut regulators = KVec::with_capacity(soc.supplies.len(), GFP_KERNEL)?;
        for name in soc.supplies {
            let regulator = Regulator::<Enabled>::get(dev, name);
            let regulator = named(dev, fmt!("regulator '{}'", name), regulator)?;
            regulators.push(regulator, GFP_KERNEL)?;
        }

        let reset = ResetArray::get_optional_exclusive(dev);
        let reset = named(dev, fmt!("reset line"), reset)?;
        named(dev, fmt!("reset line"), reset.deassert())?;
        let reset = Released(dev, reset);

        let clocks = Clocks::get(dev)?;
        // Set before the clocks start: the present voltage may be too low for the rate.
        let operating_points = OperatingPoints::new(dev, soc, &clocks.gpu);
        let operating_points = named(dev, fmt!("operating point"), operating_points)?;
        clocks.start()?;
        dev_info!(
            dev,
            "GPU clock at {} kHz, bus clock at {} kHz\n",
            clocks.gpu.rate().as_khz(),
            clocks.bus.rate().as_khz()
        );

        Ok(Self {
            clocks,
            _operating_points: operating_points,
            reset,
            held: Atomic::new(false),
            stays_on: Atomic::new(false),
            _regulators: regulators,
            domains,
        })
    }

    /// Returns whether the GPU has a reset line.
    pub(super) fn has_reset_line(&self) -> bool {
        self.reset.1.is_present()
    }

    /// Holds the GPU in reset. Returns whether it is known to have stopped. Sleeps.
    pub(super) fn force_reset(&self) -> bool {
        let Released(dev, reset) = &self.reset;

        match reset.assert() {
            Ok(()) if reset.is_present() => {
                self.held.store(true, Release);
                return true;
            }
            Ok(()) => dev_err!(dev, "the GPU does not stop, and has no reset line\n"),
            Err(e) => dev_err!(dev, "the GPU does not stop: reset line: {:?}\n", e),
        }
        false
    }

    /// Asserts the reset line for [`RESET_TIME`], then releases it. `ENODEV` if there is none.
    /// After any other error the line may be asserted, see [`Self::is_held`]. Sleeps.
    pub(super) fn pulse_reset(&self) -> Result {
        let Released(_, reset) = &self.reset;

        if !reset.is_present() {
            return Err(ENODEV);
        }
        reset.assert()?;
        // The line stays asserted if it cannot be released.
        self.held.store(true, Release);
        fsleep(RESET_TIME);
        reset.deassert()?;
        fsleep(RESET_TIME);
        self.held.store(false, Release);
        Ok(())
    }

    /// Cuts the power of the GPU and turns it on again, with the clocks stopped and the reset line
    /// asserted in between. Also ends a [`Self::force_reset`]. Nobody may touch a register
    /// meanwhile, nor after an error, while [`Self::is_held`] is true. Sleeps and may wait for
    /// memory.
    ///
    /// A power domain that other devices use stays on, as do the regulators. `EBUSY` if the domain
    /// stays on and there is no reset line: nothing has then stopped the GPU, and a domain whose
    /// provider has failed to turn it off may not answer accesses any more.
    pub(super) fn cycle_power(&self) -> Result {
        let Released(dev, reset) = &self.reset;

        self.held.store(true, Release);
        // If there is a line, this also turns off cores that are still on. Otherwise the caller has
        // done that.
        named(dev, fmt!("reset line"), reset.assert())?;
        self.clocks.stop();
        let cycled = pm_domain::cycle(dev, self.domains.as_ref());
        let off = named(dev, fmt!("power"), cycled)?;
        let known = self.stays_on.xchg(!off, Relaxed);
        if !off {
            // A lost GPU is tried again every two seconds.
            if !known {
                dev_warn!(dev, "the power of the GPU stays on\n");
            }
            if !reset.is_present() {
                return Err(EBUSY);
            }
        }
        named(dev, fmt!("reset line"), reset.deassert())?;
        self.clocks.start()?;
        fsleep(RESET_TIME);
        self.held.store(false, Release);
        Ok(())
    }

    /// Returns whether the GPU is held in reset or has no power. Its registers must not be touched
    /// then.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Acquire)
    }
}

/// Refuses a devicetree node whose number of power domains is not that of the SoC.
///
/// The driver core attaches a single domain, and [`Supply`] attaches named ones. Several domains
/// without names would be attached by neither, which would leave the GPU without power.
fn check_domains(dev: &Device<Bound>, soc: &Soc) -> Result {
    let domains = dev.fwnode().map_or(0, |node| {
        (0..)
            .take_while(|&index| {
                let cells = NArgs::Prop(c"#power-domain-cells");

                node.property_get_reference_args(c"power-domains", cells, index)
                    .is_ok()
            })
            .count()
    });

    if domains.max(1) == soc.domains.len().max(1) {
        return Ok(());
    }
    dev_err!(
        dev,
        "the devicetree has {} power domains, the GPU of this system has {}\n",
        domains,
        soc.domains.len().max(1)
    );
    Err(EINVAL)
}

/// The operating points of the GPU: the voltage that each clock rate needs.
struct OperatingPoints {
    _table: opp::Table,
    // Last: the table depends on them. [`None`] if there is no regulator for the driver to set, or
    // no speed bin.
    _supply: Option<opp::ConfigToken>,
    _bin: Option<opp::ConfigToken>,
}

/// Returns the speed bin of the GPU, which selects among its operating points. [`None`] if the
/// devicetree does not say where it is stored.
fn speed_bin(dev: &Device<Bound>) -> Result<Option<u32>> {
    match nvmem::read_le_u32(dev, c"speed-bin") {
        Err(ENOENT | EOPNOTSUPP) => Ok(None),
        bin => bin.map(Some),
    }
}

/// Leaves setting the clock and the regulator to the OPP library.
#[derive(Default)]
struct LibraryOps;

#[vtable]
impl opp::ConfigOps for LibraryOps {}

impl OperatingPoints {
    /// Sets the rate and voltage of the lowest operating point that is not below the present rate
    /// of `clock`, or of the highest one if there is none.
    ///
    /// The boot loader may have left a voltage that does not fit the rate, or a rate that is not in
    /// the table. Returns [`None`] for systems without a table, and for those with several
    /// supplies, whose voltages depend on each other. `ENOENT` if no point is for the speed bin of
    /// this GPU: a supply that no driver asks for a voltage may be at its minimum.
    fn new(dev: &Device<Bound>, soc: &Soc, clock: &Clk) -> Result<Option<Self>> {
        let &[supply] = soc.supplies else {
            return Ok(None);
        };
        let present = dev
            .fwnode()
            .is_some_and(|node| node.property_present(c"operating-points-v2"));
        if !present {
            return Ok(None);
        }

        let mut names = KVec::with_capacity(1, GFP_KERNEL)?;
        names.push(CString::try_from(supply)?, GFP_KERNEL)?;
        let bin = match named(dev, fmt!("speed bin"), speed_bin(dev))? {
            Some(bin) => {
                let mut bins = KVec::with_capacity(1, GFP_KERNEL)?;

                bins.push(bin, GFP_KERNEL)?;
                Some(
                    opp::Config::<LibraryOps>::new()
                        .set_supported_hw(bins)?
                        .set(dev)?,
                )
            }
            None => None,
        };
        let supply = match opp::Config::<LibraryOps>::new()
            .set_regulator_names(names)?
            .set(dev)
        {
            Err(ENODEV) => None,
            supply => Some(supply?),
        };
        let table = opp::Table::from_of(&dev.into(), 0).inspect_err(|&e| {
            if e == ENOENT {
                dev_err!(dev, "no operating point is for this GPU's speed bin\n");
            }
        })?;

        let rate = clock.rate();
        let point = table
            .opp_from_freq(rate, None, None, opp::SearchType::Ceil)
            .or_else(|_| table.opp_from_freq(rate, None, None, opp::SearchType::Floor))?;
        table.set_opp(&point)?;
        Ok(Some(Self {
            _table: table,
            _supply: supply,
            _bin: bin,
        }))
    }
}

/// Logs an error, other than `EPROBE_DEFER`, with the name of the resource. Returns `result`.
fn named<T>(dev: &Device<Bound>, what: fmt::Arguments<'_>, result: Result<T>) -> Result<T> {
    result.inspect_err(|&e| {
        if e != EPROBE_DEFER {
            dev_err!(dev, "cannot get or turn on {}: {:?}\n", what, e);
        }
    })
}
