// SPDX-License-Identifier: GPL-2.0

//! Names that user space gives to BOs, for debugging.
//!
//! Mesa labels every BO, and again when it puts one into its cache: a label is as large as its text,
//! and reading a short one from user space needs no buffer but the stack.

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

/// Longest label in bytes, with the NUL at the end.
const MAX: usize = 4096;

/// Most labels are shorter than this.
const SHORT: usize = 64;

/// The label of a BO.
pub(crate) struct Label(CString);

impl Label {
    /// Copies a label from the string at `ptr` in user space; none if `ptr` is 0.
    ///
    /// `E2BIG`: longer than 4095 bytes. `EFAULT`, `ENOMEM`. Sleeps; no lock may be held.
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

    /// The text.
    pub(super) fn as_cstr(&self) -> &CStr {
        &self.0
    }

    /// Reads a string that fits into `buf` with a byte to spare, else none.
    fn read(ptr: usize, buf: &mut [u8]) -> Result<Option<Self>> {
        let len = buf.len();
        let text = UserSlice::new(UserPtr::from_addr(ptr), len)
            .reader()
            .strcpy_into_buf(buf)?;

        // A string that fills the buffer was cut off.
        if text.to_bytes_with_nul().len() == len {
            return Ok(None);
        }
        Ok(Some(Self(CString::try_from(text)?)))
    }

    /// Makes a label of a text of our own.
    pub(crate) fn new(text: &CStr) -> Result<Self> {
        Ok(Self(CString::try_from(text)?))
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What user space writes need not be UTF-8, nor printable.
        for byte in self.0.to_bytes() {
            match byte {
                0x20..=0x7e => fmt::Write::write_char(f, char::from(*byte))?,
                _ => fmt::Write::write_char(f, '?')?,
            }
        }
        Ok(())
    }
}

// A short read must not need more than the page that the string ends in.
kernel::build_assert::static_assert!(SHORT <= PAGE_SIZE);
