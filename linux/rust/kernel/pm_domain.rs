// SPDX-License-Identifier: GPL-2.0

//! Power domains, as seen by the driver of a device in them.
//!
//! C header: [`include/linux/pm_domain.h`](srctree/include/linux/pm_domain.h)
//!
//! A device in *one* power domain is attached to it by its bus before it is probed, and needs
//! nothing from here. The driver of a device in several domains attaches it to them here, and
//! powers them through the runtime power management of the device itself.

use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::to_result,
    prelude::*,
    str::CStrExt as _, //
};
use core::{
    marker::PhantomData,
    ptr,
    slice, //
};

/// The power domains to which a device has been attached.
///
/// Each domain is linked to the device, so that it is powered whenever the device is. That begins
/// with the attachment, as the device is considered active when it is probed. Dropping the list
/// removes the links and detaches the device.
///
/// # Invariants
///
/// `self.list` is null or a list created by `dev_pm_domain_attach_list()`, owned by `self`.
pub struct DomainList<'a> {
    list: *mut bindings::dev_pm_domain_list,
    count: usize,
    _dev: PhantomData<&'a Device<Bound>>,
}

// SAFETY: The list can be detached by any thread.
unsafe impl Send for DomainList<'_> {}

// SAFETY: A shared reference gives access to nothing but a constant.
unsafe impl Sync for DomainList<'_> {}

impl<'a> DomainList<'a> {
    /// Attaches `dev` to the power domains with the given names.
    ///
    /// The names are those of the property `power-domain-names`. Either all domains are attached or
    /// none: fails with [`ENODEV`] or [`ENOENT`] if there is no domain of one of the names, with
    /// [`EPROBE_DEFER`] if its provider is not available yet, and with [`EEXIST`] if the bus has
    /// already attached the device to a single domain. May sleep.
    ///
    /// A device that does not come from a device tree gets an empty list.
    pub fn attach(dev: &'a Device<Bound>, names: &[&CStr]) -> Result<Self> {
        let mut ptrs = KVec::with_capacity(names.len(), GFP_KERNEL)?;
        for name in names {
            ptrs.push(name.as_char_ptr(), GFP_KERNEL)?;
        }

        let data = bindings::dev_pm_domain_attach_data {
            pd_names: ptrs.as_ptr(),
            num_pd_names: names.len().try_into()?,
            pd_flags: bindings::PD_FLAG_DEV_LINK_ON,
        };
        let mut list = ptr::null_mut();

        // SAFETY: `dev` is a valid device and bound. `data` and everything it points at are valid
        // for the duration of the call, which keeps none of it, and `list` is valid for a write.
        let ret = unsafe { bindings::dev_pm_domain_attach_list(dev.as_raw(), &data, &mut list) };
        to_result(ret.min(0))?;

        // INVARIANT: The call has succeeded: it has either set `list`, or left it null.
        Ok(Self {
            list,
            count: ret.try_into()?,
            _dev: PhantomData,
        })
    }

    /// Returns the number of power domains in the list.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns the virtual devices that represent the device in its domains.
    fn devices(&self) -> &[*mut bindings::device] {
        if self.list.is_null() {
            return &[];
        }
        // SAFETY: By the type invariants, the list is valid; it has an entry for each domain, all
        // of which were attached.
        unsafe { slice::from_raw_parts((*self.list).pd_devs, self.count) }
    }

    /// Returns whether the list is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Drop for DomainList<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, `self.list` is null, which is fine, or a list that we
        // own. The device is still bound, by the lifetime of `self`.
        unsafe { bindings::dev_pm_domain_detach_list(self.list) };
    }
}

/// Power cycles a device that no longer responds: turns off the domains in `list`, or the one that
/// its bus has attached it to, and turns them on again.
///
/// Nothing that needs the device's power may run in the meantime. The driver must not use runtime
/// power management, which is enabled for the duration of the call. Sleeps.
///
/// Returns whether the domains were off. They were not if the driver or user space keeps the device
/// powered, if another device needs one of them, if a governor decides against turning one off, or
/// if its provider fails to. A device without domains counts as one whose domains were off.
///
/// # Errors
///
/// The error that prevented the domains from being turned on again. They may be off then; another
/// call tries again.
pub fn cycle(dev: &Device<Bound>, list: Option<&DomainList<'_>>) -> Result<bool> {
    let raw = dev.as_raw();

    // SAFETY: `dev` is a valid device, and bound.
    if unsafe { bindings::pm_runtime_enabled(raw) } {
        return Ok(false);
    }
    // SAFETY: As above. It is undone below.
    unsafe { bindings::pm_runtime_enable(raw) };
    let result = cycle_enabled(dev, list);
    // SAFETY: As above. The device keeps its status, and its domains thus stay on.
    unsafe { bindings::pm_runtime_disable(raw) };
    if result.is_ok() {
        // SAFETY: As above. With runtime power management disabled, this only drops the usage
        // count.
        unsafe { bindings::pm_runtime_put_noidle(raw) };
    }
    result
}

/// Implements [`cycle()`], with runtime power management enabled. On success, a usage count of the
/// device is held.
fn cycle_enabled(dev: &Device<Bound>, list: Option<&DomainList<'_>>) -> Result<bool> {
    let raw = dev.as_raw();

    // The device is powered already, unless an earlier call has failed, but its status need not say
    // so.
    // SAFETY: `dev` is a valid device, and bound.
    to_result(unsafe { bindings::pm_runtime_resume_and_get(raw) })?;

    // The status tells whether this worked.
    // SAFETY: As above; the usage count was taken above.
    let _ = unsafe { bindings::pm_runtime_put_sync_suspend(raw) };
    // SAFETY: As above.
    let mut off = unsafe { bindings::pm_runtime_status_suspended(raw) };

    // The status of the device does not tell whether a provider has failed.
    // SAFETY: As above.
    off &= !unsafe { bindings::dev_pm_genpd_is_on(raw) };
    for &domain in list.map_or(&[][..], DomainList::devices) {
        // Otherwise the domain is turned off asynchronously, which is too late here.
        // SAFETY: By the type invariants of `DomainList`, this is a valid device.
        let _ = unsafe { bindings::pm_runtime_suspend(domain) };
        // SAFETY: As above.
        off &= !unsafe { bindings::dev_pm_genpd_is_on(domain) };
    }

    // SAFETY: As above.
    to_result(unsafe { bindings::pm_runtime_resume_and_get(raw) })?;
    Ok(off)
}

#[macros::kunit_tests(rust_pm_domain)]
mod tests {
    use super::*;
    use crate::faux;

    #[test]
    fn device_without_domains() -> Result {
        let faux = faux::Registration::new(c"rust_pm_domain_kunit", None)?;
        let list = DomainList::attach(faux.as_ref().as_ref(), &[c"core0"])?;

        assert!(list.is_empty());

        Ok(())
    }

    #[test]
    fn cycle_again() -> Result {
        let faux = faux::Registration::new(c"rust_pm_domain_kunit", None)?;
        let dev: &Device<Bound> = faux.as_ref().as_ref();

        for _ in 0..3 {
            let off = cycle(dev, None)?;

            assert_eq!(off, cfg!(CONFIG_PM));
            // SAFETY: The device is valid.
            assert!(!unsafe { bindings::pm_runtime_enabled(dev.as_raw()) });
        }
        // SAFETY: As above. `cycle()` leaves alone a device that has it enabled. It is disabled
        // again below.
        unsafe { bindings::pm_runtime_enable(dev.as_raw()) };
        let off = cycle(dev, None);
        // SAFETY: As above.
        unsafe { bindings::pm_runtime_disable(dev.as_raw()) };
        assert!(!off?);
        Ok(())
    }
}

#[cfg(CONFIG_PM_GENERIC_DOMAINS)]
#[macros::kunit_tests(rust_pm_domain_generic)]
mod generic_tests {
    use super::*;
    use crate::{
        error::from_err_ptr,
        types::Opaque, //
    };

    /// A device without a driver: that of another kind cannot be added to a domain any more.
    struct Root(*mut bindings::device);

    impl Root {
        fn new(name: &CStr) -> Result<Self> {
            let name = name.as_char_ptr();

            // SAFETY: The name is a string that ends, and no module is the owner.
            let dev = unsafe { bindings::__root_device_register(name, ptr::null_mut()) };
            Ok(Self(from_err_ptr(dev)?))
        }

        fn dev(&self) -> &Device<Bound> {
            // SAFETY: The device lives as long as `self`. No driver can be unbound from it, which
            // is what the functions under test rely on.
            unsafe { Device::from_raw(self.0) }
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            // SAFETY: It was registered, and nobody else unregisters it.
            unsafe { bindings::root_device_unregister(self.0) };
        }
    }

    type PowerOff = unsafe extern "C" fn(*mut bindings::generic_pm_domain) -> crate::ffi::c_int;

    /// A power domain.
    struct Domain(KBox<Opaque<bindings::generic_pm_domain>>);

    impl Domain {
        fn new(power_off: Option<PowerOff>) -> Result<Self> {
            let domain = KBox::new(
                Opaque::new(bindings::generic_pm_domain {
                    name: c"rust_pm_domain_kunit".as_char_ptr(),
                    power_off,
                    ..pin_init::zeroed()
                }),
                GFP_KERNEL,
            )?;

            // SAFETY: The domain stays where it is until it is removed by `drop()`.
            to_result(unsafe { bindings::pm_genpd_init(domain.get(), ptr::null_mut(), true) })?;
            Ok(Self(domain))
        }

        /// Calls `f` while the device is in the domain.
        fn with<R>(&self, dev: &Device<Bound>, f: impl FnOnce() -> R) -> Result<R> {
            // SAFETY: Both are valid, and the device is removed from the domain below.
            to_result(unsafe { bindings::pm_genpd_add_device(self.0.get(), dev.as_raw()) })?;
            let result = f();
            // SAFETY: The device was added above.
            to_result(unsafe { bindings::pm_genpd_remove_device(dev.as_raw()) })?;
            Ok(result)
        }
    }

    impl Drop for Domain {
        fn drop(&mut self) {
            // SAFETY: The domain was initialised, and has no device any more.
            let _ = unsafe { bindings::pm_genpd_remove(self.0.get()) };
        }
    }

    /// Fails to turn a domain off.
    ///
    /// # Safety
    ///
    /// None: the domain is not accessed.
    unsafe extern "C" fn stuck(_: *mut bindings::generic_pm_domain) -> crate::ffi::c_int {
        EIO.to_errno()
    }

    #[test]
    fn one_that_stays_on() -> Result {
        // A device of its own for each domain, as the driver core has it suspended at first.
        let (root, other) = (Root::new(c"kunit-works")?, Root::new(c"kunit-stuck")?);
        let cycle = |dev: &Device<Bound>| cycle(dev, None);

        assert!(Domain::new(None)?.with(root.dev(), || cycle(root.dev()))??);
        assert!(!Domain::new(Some(stuck))?.with(other.dev(), || cycle(other.dev()))??);
        Ok(())
    }
}
