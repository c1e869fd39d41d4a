// SPDX-License-Identifier: GPL-2.0

//! What keeps the GPU alive: power domains, regulators, clocks, reset line.
//!
//! They are turned on in that order and off in the reverse, by dropping. A missing one is an error
//! with its name in the log; one whose driver has not come up yet is a quiet `EPROBE_DEFER`.

use kernel::{
    clk::{
        Clk,
        OptionalClk, //
    },
    device::{
        Bound,
        Device, //
    },
    fmt,
    pm_domain::{
        self,
        DomainList, //
    },
    prelude::*,
    regulator::{
        Enabled,
        Regulator, //
    },
    reset::{
        ResetArray,
        Usage, //
    },
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    }, //
};

use super::Soc;

/// A clock that runs.
struct Clock(Clk);

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.disable_unprepare();
    }
}

/// A clock that runs if the system has it.
struct MaybeClock(OptionalClk);

impl Drop for MaybeClock {
    fn drop(&mut self) {
        self.0.disable_unprepare();
    }
}

/// The reset line, released.
struct Released<'a>(&'a Device<Bound>, ResetArray);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        if let Err(e) = self.1.assert() {
            dev_err!(self.0, "cannot assert the reset line: {:?}\n", e);
        }
    }
}

/// Everything that is on. Dropped from top to bottom.
pub(super) struct Supply<'a> {
    reset: Released<'a>,
    /// The reset line was asserted before its time, see [`Supply::force_reset`].
    held: Atomic<bool>,
    _bus_ace_clock: MaybeClock,
    _bus_clock: MaybeClock,
    _clock: Clock,
    _regulators: KVec<Regulator<Enabled>>,
    _domains: Option<DomainList<'a>>,
}

impl<'a> Supply<'a> {
    /// Turns everything on. Sleeps.
    pub(super) fn new(dev: &'a Device<Bound>, soc: &Soc) -> Result<Self> {
        // A single domain is attached and turned on by the driver core.
        let domains = if soc.domains.len() > 1 {
            let list = DomainList::attach(dev, soc.domains, pm_domain::Power::FollowFromOn);
            Some(named(dev, fmt!("power domains"), list)?)
        } else {
            None
        };

        let mut regulators = KVec::with_capacity(soc.supplies.len(), GFP_KERNEL)?;
        for name in soc.supplies {
            let regulator = Regulator::<Enabled>::get(dev, name);
            let regulator = named(dev, fmt!("regulator '{}'", name), regulator)?;
            regulators.push(regulator, GFP_KERNEL)?;
        }

        let clock = named(dev, fmt!("GPU clock"), Clk::get(dev, None))?;
        named(dev, fmt!("GPU clock"), clock.prepare_enable())?;
        let clock = Clock(clock);
        let bus_clock = optional_clock(dev, c"bus")?;
        let bus_ace_clock = optional_clock(dev, c"bus_ace")?;

        let reset = ResetArray::get_optional(dev, Usage::Exclusive);
        let reset = named(dev, fmt!("reset line"), reset)?;
        named(dev, fmt!("reset line"), reset.deassert())?;

        Ok(Self {
            reset: Released(dev, reset),
            held: Atomic::new(false),
            _bus_ace_clock: bus_ace_clock,
            _bus_clock: bus_clock,
            _clock: clock,
            _regulators: regulators,
            _domains: domains,
        })
    }

    /// Stops a GPU that does not listen to commands. Whether that has surely stopped it.
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

    /// Whether the GPU is held in reset. Its registers are not to be touched then.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Acquire)
    }
}

/// Turns on a clock that not every system has.
fn optional_clock(dev: &Device<Bound>, name: &'static CStr) -> Result<MaybeClock> {
    let clock = OptionalClk::get(dev, Some(name));
    let clock = named(dev, fmt!("clock '{}'", name), clock)?;
    let on = clock.prepare_enable();

    named(dev, fmt!("clock '{}'", name), on)?;
    Ok(MaybeClock(clock))
}

/// Says which resource an error is about.
fn named<T>(dev: &Device<Bound>, what: fmt::Arguments<'_>, result: Result<T>) -> Result<T> {
    result.inspect_err(|&e| {
        if e != EPROBE_DEFER {
            dev_err!(dev, "cannot get or turn on {}: {:?}\n", what, e);
        }
    })
}
