// SPDX-License-Identifier: GPL-2.0

//! Names that user space gives to BOs, for debugging.
//!
//! Mesa labels every BO, and labels it again when the BO enters its cache. So a label takes no more
//! memory than its text needs, and a short one is read from user space into a buffer on the stack.

use core::fmt;

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
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
pub(crate) struct Label(CString);

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

        let mut long = KVVec::from_elem(0, MAX + 1, GFP_KERNEL)?;
        Self::read(ptr, &mut long)?.ok_or(E2BIG).map(Some)
    }

    /// Returns the text.
    pub(super) fn as_cstr(&self) -> &CStr {
        &self.0
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
        Ok(Some(Self(CString::try_from(text)?)))
    }

    /// Creates a label from a text of the driver.
    pub(crate) fn new(text: &CStr) -> Result<Self> {
        Ok(Self(CString::try_from(text)?))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A text from user space may be neither UTF-8 nor printable.
        for byte in self.0.to_bytes() {
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
