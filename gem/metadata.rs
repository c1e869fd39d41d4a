// SPDX-License-Identifier: GPL-2.0

//! Data that user space keeps with a BO, and that the kernel does not interpret.
//!
//! User space can describe a BO to the processes that it shares the BO with, for example with the
//! layout of an image. The data belongs to the BO: every file that has a handle reads the same, and
//! it is lost when the BO is freed. It is copied from and to user space with no lock held. Its
//! memory is charged to the memory control group of the task that sets it.
//!
//! A [`Metadata`] owns its memory. Locks: none; the BO has a mutex around it. Process context.

use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// The largest size of the metadata of a BO in bytes.
pub(crate) const MAX: usize = 128;

/// The metadata of a BO: at most [`MAX`] bytes, or none.
pub(crate) struct Metadata(KVec<u8>);

impl Metadata {
    /// Returns the metadata of a BO that has none.
    pub(super) fn none() -> Self {
        Self(KVec::new())
    }

    /// Copies metadata of `size` bytes from `ptr` in user space. Does not read anything if `size`
    /// is 0.
    ///
    /// Sleeps; must be called with no lock held. Errors: `EOVERFLOW` for more than [`MAX`] bytes,
    /// `EFAULT`, `ENOMEM`.
    pub(crate) fn from_user(ptr: u64, size: u32) -> Result<Self> {
        let size = size as usize;

        if size > MAX {
            return Err(EOVERFLOW);
        }
        if size == 0 {
            return Ok(Self::none());
        }

        let ptr = UserPtr::from_addr(usize::try_from(ptr).map_err(|_| EFAULT)?);
        let mut bytes = KVec::new();

        UserSlice::new(ptr, size).read_all(&mut bytes, GFP_KERNEL_ACCOUNT)?;
        Ok(Self(bytes))
    }

    /// Returns the size in bytes, 0 if there is none.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }

    /// Copies the metadata to the start of `buf`, and returns the copy.
    pub(super) fn copy_to<'a>(&self, buf: &'a mut [u8; MAX]) -> &'a [u8] {
        match buf.get_mut(..self.0.len()) {
            Some(copy) => {
                copy.copy_from_slice(&self.0);
                copy
            }
            // There are never more than `MAX` bytes.
            None => &[],
        }
    }
}

/// Copies metadata to `ptr` in user space.
///
/// Sleeps; must be called with no lock held. Errors: `EFAULT`.
pub(crate) fn to_user(metadata: &[u8], ptr: u64) -> Result {
    let ptr = UserPtr::from_addr(usize::try_from(ptr).map_err(|_| EFAULT)?);

    UserSlice::new(ptr, metadata.len())
        .writer()
        .write_slice(metadata)
}

#[kunit_tests(drm_gpu_bo_metadata)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_size_of_the_original() -> Result {
        let mut buf = [1; MAX];
        let mut bytes = KVec::new();

        assert!(Metadata::none().copy_to(&mut buf).is_empty());

        bytes.extend_from_slice(b"abc", GFP_KERNEL)?;
        assert_eq!(Metadata(bytes).copy_to(&mut buf), b"abc");

        let most = Metadata(KVec::from_elem(7, MAX, GFP_KERNEL)?);
        assert_eq!(most.size(), MAX);
        assert_eq!(most.copy_to(&mut buf), [7; MAX]);
        Ok(())
    }

    #[test]
    fn sizes_are_checked_before_the_memory() {
        assert!(Metadata::from_user(0, MAX as u32 + 1).is_err_and(|e| e == EOVERFLOW));
        assert!(Metadata::from_user(u64::MAX, u32::MAX).is_err_and(|e| e == EOVERFLOW));
        assert!(Metadata::from_user(u64::MAX, 0).is_ok_and(|none| none.size() == 0));
    }
}
