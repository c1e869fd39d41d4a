// SPDX-License-Identifier: GPL-2.0

//! Power domains, as seen by the driver of a device in them.
//!
//! C header: [`include/linux/pm_domain.h`](srctree/include/linux/pm_domain.h)
//!
//! A device in *one* power domain is attached to it by its bus, before it is probed, and needs
//! nothing of this. A driver whose device is in several attaches it to them here, and powers them by
//! means of the runtime power management of the device itself.

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
    ptr, //
};

/// When the power domains of a [`DomainList`] are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// While the device is runtime resumed.
    Follow,
    /// As for [`Follow`](Self::Follow), and from the attachment on: for a device that is considered
    /// active when it is probed.
    FollowFromOn,
}

/// The power domains to which a device has been attached.
///
/// Each domain is linked to the device, such that it is powered as the device is. Dropping the list
/// takes the links away and detaches the device.
///
/// # Invariants
///
/// `self.list` is null or a list that `dev_pm_domain_attach_list()` has made, owned by `self`.
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
    /// The names are those of the property `power-domain-names`. All domains are attached, or none:
    /// [`ENODEV`] or [`ENOENT`] if there is none of one of the names, [`EPROBE_DEFER`] if its
    /// provider is not there yet, [`EEXIST`] if the bus has attached the device to a single domain
    /// already. May sleep.
    ///
    /// A device that does not come from a device tree gets an empty list.
    pub fn attach(dev: &'a Device<Bound>, names: &[&CStr], power: Power) -> Result<Self> {
        let mut ptrs = KVec::with_capacity(names.len(), GFP_KERNEL)?;
        for name in names {
            ptrs.push(name.as_char_ptr(), GFP_KERNEL)?;
        }

        let data = bindings::dev_pm_domain_attach_data {
            pd_names: ptrs.as_ptr(),
            num_pd_names: names.len().try_into()?,
            pd_flags: match power {
                Power::Follow => 0,
                Power::FollowFromOn => bindings::PD_FLAG_DEV_LINK_ON,
            },
        };
        let mut list = ptr::null_mut();

        // SAFETY: `dev` is a valid device and bound. `data` and what it points at is valid for the
        // duration of the call, which does not keep any of it, and `list` is valid for a write.
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

    /// Returns whether the list is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl Drop for DomainList<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, `self.list` is null, which is fine, or a list that we own.
        // The device is still bound, by the lifetime of `self`.
        unsafe { bindings::dev_pm_domain_detach_list(self.list) };
    }
}

#[macros::kunit_tests(rust_pm_domain)]
mod tests {
    use super::*;
    use crate::faux;

    #[test]
    fn device_without_domains() -> Result {
        let faux = faux::Registration::new(c"rust_pm_domain_kunit", None)?;
        let list = DomainList::attach(faux.as_ref().as_ref(), &[c"core0"], Power::Follow)?;

        assert!(list.is_empty());

        Ok(())
    }
}
