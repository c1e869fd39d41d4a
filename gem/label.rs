// SPDX-License-Identifier: GPL-2.0

//! Names that user space gives to BOs, for debugging.
//!
//! Mesa labels every BO, and labels it again when the BO enters its cache. So a label takes no more
//! memory than its text needs, and a short one is read from user space into a buffer on the stack.
//! The memory of a label is charged to the memory control group of the task that sets it.
//!
//! A [`Label`] owns its text. Locks: none; the BO has a mutex around its label. Labels are made in
//! process context.

use core::fmt;

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// The length of the longest label in bytes, including the NUL.
const MAX: usize = 4096;

/// The size of the buffer on the stack. Most labels are shorter.
const SHORT: usize = 64;

/// The label of a BO.
///
/// The text ends with a NUL, and has no other one. This is not a `CString`, as the memory of those
/// is charged to nobody.
pub(crate) struct Label(KVec<u8>);

impl Label {
    /// Copies a label from the string at `ptr` in user space. Returns [`None`] if `ptr` is 0.
    ///
    /// Sleeps; must be called with no lock held. Errors: `E2BIG` for a string of more than 4095
    /// bytes, `EFAULT`, `ENOMEM`.
    pub(crate) fn from_user(ptr: u64) -> Result<Option<Self>> {
        if ptr == 0 {
            return Ok(None);
        }
        let ptr = usize::try_from(ptr).map_err(|_| EFAULT)?;

        let mut short = [0; SHORT];
        if let Some(label) = Self::read(ptr, &mut short)? {
            return Ok(Some(label));
        }

        let mut long = KVVec::from_elem(0, MAX + 1, GFP_KERNEL_ACCOUNT)?;
        Self::read(ptr, &mut long)?.ok_or(E2BIG).map(Some)
    }

    /// Returns the text.
    pub(super) fn as_cstr(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.0).unwrap_or(c"")
    }

    /// Reads a string. Returns [`None`] unless it fits into `buf` with a byte to spare.
    fn read(ptr: usize, buf: &mut [u8]) -> Result<Option<Self>> {
        let len = buf.len();
        let text = UserSlice::new(UserPtr::from_addr(ptr), len)
            .reader()
            .strcpy_into_buf(buf)?;

        // A string that fills the buffer may have been cut off.
        if text.to_bytes_with_nul().len() == len {
            return Ok(None);
        }
        Self::new(text).map(Some)
    }

    /// Creates a label with this text. Sleeps.
    pub(crate) fn new(text: &CStr) -> Result<Self> {
        let mut copy = KVec::new();

        copy.extend_from_slice(text.to_bytes_with_nul(), GFP_KERNEL_ACCOUNT)?;
        Ok(Self(copy))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A text from user space may be neither UTF-8 nor printable.
        for byte in self.as_cstr().to_bytes() {
            match byte {
                0x20..=0x7e => fmt::Write::write_char(f, char::from(*byte))?,
                _ => fmt::Write::write_char(f, '?')?,
            }
        }
        Ok(())
    }
}

// A short read spans no more than two pages.
kernel::build_assert::static_assert!(SHORT <= PAGE_SIZE);
