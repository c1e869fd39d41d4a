// SPDX-License-Identifier: GPL-2.0 OR MIT

//! DRM printers.
//!
//! C header: [`include/drm/drm_print.h`](srctree/include/drm/drm_print.h)

use crate::{
    bindings,
    drm,
    fmt,
    str::CStrExt as _,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// An output for text that user space reads: fdinfo, debugfs, a dump.
///
/// The DRM core passes it to the callbacks that produce such output; use it with [`write!`].
/// Writing never fails: output for which there is no room is dropped, and a `seq_file` starts over
/// with a larger buffer.
///
/// # Invariants
///
/// `self.inner` is a valid instance of a `struct drm_printer`, which is not used by others.
///
/// # Examples
///
/// ```
/// use core::fmt::Write;
/// use kernel::drm::Printer;
///
/// fn show_usage(p: &mut Printer, busy_ns: u64) -> core::fmt::Result {
///     write!(p, "drm-engine-fragment:\t{busy_ns} ns\n")
/// }
/// ```
#[repr(transparent)]
pub struct Printer {
    inner: Opaque<bindings::drm_printer>,
    _not_send: NotThreadSafe,
}

impl Printer {
    /// Creates a reference to a [`Printer`] from a raw pointer.
    ///
    /// # Safety
    ///
    /// For the duration of `'a`, `ptr` must point at a valid `struct drm_printer`, which is not
    /// used by others.
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::drm_printer) -> &'a mut Self {
        // SAFETY: `ptr` is valid and unshared for 'a by the safety requirements of this function.
        // CAST: `Printer` is transparent to `struct drm_printer`.
        unsafe { &mut *ptr.cast() }
    }

    /// Prints the memory that the client's GEM objects occupy, in the format of fdinfo.
    ///
    /// The objects' status and resident size are taken from their callbacks, if the memory manager
    /// implements them. Takes the file's table lock, a spinlock.
    pub fn memory_stats(&mut self, client: &drm::file::Client) {
        // SAFETY: `self.inner` is a valid `struct drm_printer` by the type invariants, and
        // `client` is a valid `struct drm_file`.
        unsafe { bindings::drm_show_memory_stats(self.inner.get(), client.as_raw()) };
    }
}

impl fmt::Write for Printer {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.write_fmt(core::format_args!("{s}"))
    }

    fn write_fmt(&mut self, args: fmt::Arguments<'_>) -> fmt::Result {
        // SAFETY: `self.inner` is a valid `struct drm_printer` by the type invariants, and a
        // pointer to `Arguments` is what `%pA` expects.
        unsafe {
            bindings::drm_printf(
                self.inner.get(),
                c"%pA".as_char_ptr(),
                core::ptr::from_ref(&args).cast::<crate::ffi::c_void>(),
            )
        };

        Ok(())
    }
}
