// SPDX-License-Identifier: GPL-2.0

//! Device coredumps: the state of a device that has failed, for user space to read.
//!
//! A dump is a file `/sys/class/devcoredump/devcd*/data`, which only root can read. It goes when
//! user space writes to it, or after five minutes. A device has at most one dump at a time, and
//! those that come while there is one are dropped.
//!
//! Drivers select `WANT_DEV_COREDUMP`. Dumps are dropped as well if the kernel is built without
//! support for them, or if they were disabled.
//!
//! C header: [`include/linux/devcoredump.h`](srctree/include/linux/devcoredump.h)

use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc, //
    }, //
};
use core::ptr;

/// A dump that was published. Dropping this does not affect the dump.
///
/// # Examples
///
/// ```
/// use kernel::{
///     devcoredump::Coredump,
///     device::{
///         Bound,
///         Device, //
///     },
///     prelude::*, //
/// };
///
/// /// Publishes the values of some registers. Called by a worker.
/// fn dump(dev: &Device<Bound>, registers: &[u8]) -> Result {
///     let mut data = VVec::new();
///
///     data.extend_from_slice(registers, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN)?;
///     if !Coredump::publish(dev, data)?.exists() {
///         dev_dbg!(dev, "the last dump was not read yet\n");
///     }
///     Ok(())
/// }
/// ```
pub struct Coredump(Arc<Atomic<bool>>);

/// The data that C keeps for a dump.
struct Content {
    data: VVec<u8>,
    /// Dropped last, so that the memory is free once the dump does not exist any more.
    _exists: Exists,
}

/// Tells whether a dump exists, which it does until this is dropped.
struct Exists(Arc<Atomic<bool>>);

impl Drop for Exists {
    fn drop(&mut self) {
        self.0.store(false, Release);
    }
}

impl Coredump {
    /// Publishes `data` as a dump of `dev`. It outlives the driver, as it refers to nothing of it.
    ///
    /// Sleeps. Reclaim and fences may not depend on the caller, since the memory for the file in
    /// sysfs is allocated with `GFP_KERNEL`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. It is no error if the dump is dropped at once, which [`Self::exists()`] tells.
    pub fn publish(dev: &Device<Bound>, data: VVec<u8>) -> Result<Self> {
        let exists = Arc::new(Atomic::new(true), GFP_KERNEL)?;
        let this = Self(exists.clone());
        let content = Content {
            data,
            _exists: Exists(exists),
        };
        let content = KBox::new(content, GFP_KERNEL)?;
        let len = content.data.len();

        // SAFETY: A bound device is registered, and C takes a reference to it. It takes over
        // `content` as well, which the callbacks expect, and calls `free()` once, after the last
        // `read()`. Both functions are part of the kernel itself, so that no module needs to be
        // kept.
        unsafe {
            bindings::dev_coredumpm(
                dev.as_raw(),
                ptr::null_mut(),
                KBox::into_raw(content).cast(),
                len,
                GFP_KERNEL.as_raw(),
                Some(read),
                Some(free),
            )
        };
        Ok(this)
    }

    /// Returns whether user space can still read the dump. Any context; the answer may be outdated,
    /// except for `false`. C removes its link in the device's folder in sysfs only after that.
    pub fn exists(&self) -> bool {
        self.0.load(Acquire)
    }

    /// Removes the dump of `dev`, if there is one, and waits until nobody reads it any more. Does
    /// not wait for a dump that is already being removed, as user space has written to it or its
    /// time is over.
    ///
    /// Sleeps. For devices whose dumps are of no use after they are gone; others do not need it.
    pub fn remove(dev: &Device<Bound>) {
        // SAFETY: The device is valid.
        unsafe { bindings::dev_coredump_put(dev.as_raw()) };
    }
}

/// Copies a part of a dump for a reader.
///
/// # Safety
///
/// `data` must point to a [`Content`], and `buffer` have room for `count` bytes.
unsafe extern "C" fn read(
    buffer: *mut c_char,
    mut offset: bindings::loff_t,
    count: usize,
    data: *mut c_void,
    _len: usize,
) -> isize {
    // SAFETY: By the safety requirements.
    let content = unsafe { &*data.cast::<Content>() };

    // SAFETY: By the safety requirements, and the data have this length. The function checks
    // `offset`.
    unsafe {
        bindings::memory_read_from_buffer(
            buffer.cast(),
            count,
            &mut offset,
            content.data.as_ptr().cast(),
            content.data.len(),
        )
    }
}

/// Frees a dump.
///
/// # Safety
///
/// `data` must come from `KBox::<Content>::into_raw()`, and not be used any more.
unsafe extern "C" fn free(data: *mut c_void) {
    // SAFETY: By the safety requirements.
    drop(unsafe { KBox::<Content>::from_raw(data.cast()) });
}

#[macros::kunit_tests(rust_devcoredump)]
mod tests {
    use super::*;
    use crate::faux;

    fn data(text: &[u8]) -> Result<VVec<u8>> {
        let mut data = VVec::new();

        data.extend_from_slice(text, GFP_KERNEL)?;
        Ok(data)
    }

    #[test]
    fn one_dump_at_a_time() -> Result {
        let faux = faux::Registration::new(c"rust_devcoredump_kunit", None)?;
        let dev: &Device<Bound> = faux.as_ref().as_ref();

        for _ in 0..2 {
            let first = Coredump::publish(dev, data(b"first")?)?;
            assert_eq!(first.exists(), cfg!(CONFIG_DEV_COREDUMP));

            let second = Coredump::publish(dev, data(b"second")?)?;
            assert!(!second.exists());
            assert_eq!(first.exists(), cfg!(CONFIG_DEV_COREDUMP));

            Coredump::remove(dev);
            assert!(!first.exists());
            Coredump::remove(dev);
        }
        Ok(())
    }

    #[test]
    fn devices_have_dumps_of_their_own() -> Result {
        let one = faux::Registration::new(c"rust_devcoredump_kunit", None)?;
        let two = faux::Registration::new(c"rust_devcoredump_kunit2", None)?;
        let dump = Coredump::publish(one.as_ref().as_ref(), data(b"one")?)?;
        let other = Coredump::publish(two.as_ref().as_ref(), data(b"two")?)?;

        assert_eq!(dump.exists(), other.exists());
        Coredump::remove(two.as_ref().as_ref());
        assert_eq!(dump.exists(), cfg!(CONFIG_DEV_COREDUMP));
        assert!(!other.exists());
        Coredump::remove(one.as_ref().as_ref());
        Ok(())
    }

    #[test]
    fn readers_get_any_part() -> Result {
        let exists = Arc::new(Atomic::new(true), GFP_KERNEL)?;
        let content = KBox::new(
            Content {
                data: data(b"0123456789")?,
                _exists: Exists(exists.clone()),
            },
            GFP_KERNEL,
        )?;
        let raw: *mut c_void = KBox::into_raw(content).cast();
        let part = |offset, count| {
            let mut buffer = [b'.'; 8];

            assert!(count <= buffer.len());
            // SAFETY: `raw` points to a `Content`, and there is room for `count` bytes.
            let len = unsafe { read(buffer.as_mut_ptr(), offset, count, raw, 10) };
            (len, buffer)
        };

        assert_eq!(part(0, 4), (4, *b"0123...."));
        assert_eq!(part(8, 8), (2, *b"89......"));
        assert_eq!(part(10, 8), (0, *b"........"));
        assert_eq!(part(11, 8), (0, *b"........"));
        assert!(part(-1, 8).0 < 0);
        // SAFETY: `raw` is from `into_raw()`, and not used any more.
        unsafe { free(raw) };
        assert!(!exists.load(Acquire));
        Ok(())
    }
}
