// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Files of a DRM device in debugfs.
//!
//! A driver with debugfs files implements [`Driver::debugfs_init()`](drm::Driver::debugfs_init) and
//! adds its [`File`]s to the [`Dir`] passed to that. They are in the directory of the device,
//! `/sys/kernel/debug/dri/<name of the device>`, to which those of its minors are links. The DRM
//! core removes them before the device is gone, and waits for those who are reading.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)
//!
//! # Examples
//!
//! ```
//! use kernel::{
//!     drm::{
//!         self,
//!         debugfs, //
//!     },
//!     fmt,
//!     prelude::*, //
//! };
//!
//! /// Shows the version of the driver.
//! struct Version;
//!
//! #[vtable]
//! impl<D: drm::Driver> debugfs::File<D> for Version {
//!     const NAME: &'static CStr = c"version";
//!
//!     fn show(_dev: &drm::Device<D>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
//!         writeln!(f, "{}.{}", D::INFO.major, D::INFO.minor)
//!     }
//! }
//!
//! fn debugfs_init<D: drm::Driver>(dir: &debugfs::Dir<'_, D>) {
//!     dir.add::<Version>();
//! }
//! ```

use crate::{
    bindings, drm,
    error::from_result,
    fmt,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader, //
    },
};
use core::marker::PhantomData;

/// A file of a DRM device in debugfs.
#[vtable]
pub trait File<D: drm::Driver>: 'static {
    /// The name of the file.
    const NAME: &'static CStr;

    /// Prints the content. Called again with a larger buffer if there was not enough room.
    ///
    /// The device may have been unplugged. Process context.
    fn show(dev: &drm::Device<D>, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Handles a write. Without this the file is read-only.
    ///
    /// The device may have been unplugged. Process context.
    fn write(_dev: &drm::Device<D>, _reader: &mut UserSliceReader) -> Result {
        build_error!(crate::error::VTABLE_DEFAULT_ERROR)
    }
}

/// The debugfs directory of a DRM device that is being registered.
///
/// # Invariants
///
/// `root` is the directory of the device, or an error.
#[cfg_attr(not(CONFIG_DEBUG_FS), expect(dead_code))]
pub struct Dir<'a, D: drm::Driver> {
    dev: &'a drm::Device<D>,
    root: *mut bindings::dentry,
}

impl<'a, D: drm::Driver> Dir<'a, D> {
    /// # Safety
    ///
    /// `minor` must be a valid minor of `dev`. The DRM core must be about to register it.
    pub(super) unsafe fn new(dev: &'a drm::Device<D>, minor: *mut bindings::drm_minor) -> Self {
        Self {
            dev,
            // SAFETY: By the safety requirements.
            root: unsafe { (*minor).debugfs_root },
        }
    }

    /// Adds a file. Errors are ignored, as debugfs is not essential for the device.
    pub fn add<F: File<D>>(&self) {
        #[cfg(CONFIG_DEBUG_FS)]
        // SAFETY: The directory is that of the device by the type invariants; it is removed before
        // the device goes, hence so is the file. The operations want the device as their data.
        unsafe {
            bindings::debugfs_create_file_full(
                F::NAME.as_char_ptr(),
                if F::HAS_WRITE { 0o644 } else { 0o444 },
                self.root,
                self.dev.as_raw().cast(),
                core::ptr::null(),
                const { &Ops::<D, F>::FOPS },
            )
        };
    }
}

/// The operations of `F`, for an inode whose private data is a device of `D`.
struct Ops<D, F>(PhantomData<(D, F)>);

#[cfg_attr(not(CONFIG_DEBUG_FS), expect(dead_code))]
impl<D: drm::Driver, F: File<D>> Ops<D, F> {
    const FOPS: bindings::file_operations = bindings::file_operations {
        owner: crate::module::this_module::<D::OwnerModule>().as_ptr(),
        open: Some(Self::open),
        read: Some(bindings::seq_read),
        write: if F::HAS_WRITE {
            Some(Self::write)
        } else {
            None
        },
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `inode` must be that of a file which [`Dir::add()`] made with these operations, and `file`
    /// be about to be opened.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By the safety requirements; the private data is what `show()` wants.
        unsafe { bindings::single_open(file, Some(Self::show), (*inode).i_private) }
    }

    /// # Safety
    ///
    /// `seq` must be valid, with a device of `D` as its private data, and not be used by others.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        /// The content of the file.
        struct Content<'a, D: drm::Driver, F>(&'a drm::Device<D>, PhantomData<F>);

        impl<D: drm::Driver, F: File<D>> fmt::Display for Content<'_, D, F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                F::show(self.0, f)
            }
        }

        // SAFETY: By the safety requirements. debugfs keeps the file, and so the device, as long as
        // this runs.
        let (dev, seq) = unsafe {
            (
                drm::Device::<D>::from_raw((*seq).private.cast_const().cast()),
                SeqFile::from_raw(seq),
            )
        };

        let content: Content<'_, D, F> = Content(dev, PhantomData);
        seq_print!(seq, "{}", content);
        0
    }

    /// # Safety
    ///
    /// `file` must have been opened by [`Self::open()`].
    unsafe extern "C" fn write(
        file: *mut bindings::file,
        buf: *const c_char,
        len: usize,
        _pos: *mut bindings::loff_t,
    ) -> isize {
        // SAFETY: `single_open()` has made the private data of the file a `seq_file`.
        let seq = unsafe { (*file).private_data.cast::<bindings::seq_file>() };
        // SAFETY: As in `show()`.
        let dev = unsafe { drm::Device::<D>::from_raw((*seq).private.cast_const().cast()) };
        let mut reader = UserSlice::new(UserPtr::from_ptr(buf.cast_mut().cast()), len).reader();

        from_result(|| {
            F::write(dev, &mut reader)?;
            Ok(isize::try_from(len)?)
        })
    }
}
