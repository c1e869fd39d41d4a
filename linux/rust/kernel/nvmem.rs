// SPDX-License-Identifier: GPL-2.0

//! Cells of non-volatile memory, such as fuses.
//!
//! C header: [`include/linux/nvmem-consumer.h`](srctree/include/linux/nvmem-consumer.h)

use crate::{
    device::Device,
    prelude::*, //
};

/// Returns the content of the cell that is called `name` in the device tree node of `dev`: a
/// little-endian number of up to 32 bits.
///
/// Sleeps.
///
/// # Errors
///
/// [`ENOENT`] if there is no such cell, [`EPROBE_DEFER`] if its provider is not available yet,
/// [`ERANGE`] if the cell has more than 32 bits, [`EOPNOTSUPP`] if the kernel has no support for
/// non-volatile memory, or an error of the provider.
///
/// # Examples
///
/// ```
/// use kernel::{
///     device::Device,
///     nvmem, //
/// };
///
/// /// Returns the speed bin of a chip, or [`None`] if it has none.
/// fn speed_bin(dev: &Device) -> Result<Option<u32>> {
///     match nvmem::read_le_u32(dev, c"speed-bin") {
///         Err(ENOENT) => Ok(None),
///         bin => bin.map(Some),
///     }
/// }
/// ```
pub fn read_le_u32(dev: &Device, name: &CStr) -> Result<u32> {
    #[cfg(CONFIG_NVMEM)]
    {
        let mut value = 0;

        // SAFETY: `dev` is a valid device, `name` a string that ends, and `value` can be written
        // to. None of them is kept.
        crate::error::to_result(unsafe {
            crate::bindings::nvmem_cell_read_variable_le_u32(
                dev.as_raw(),
                name.as_char_ptr(),
                &mut value,
            )
        })?;
        Ok(value)
    }
    #[cfg(not(CONFIG_NVMEM))]
    {
        let _ = (dev, name);
        Err(EOPNOTSUPP)
    }
}

#[macros::kunit_tests(rust_nvmem)]
mod tests {
    use super::*;
    use crate::faux;

    #[test]
    fn no_cell() -> Result {
        let faux = faux::Registration::new(c"rust_nvmem_kunit", None)?;
        let value = read_le_u32(faux.as_ref().as_ref(), c"speed-bin");

        assert_eq!(
            value.err(),
            Some(if cfg!(CONFIG_NVMEM) {
                ENOENT
            } else {
                EOPNOTSUPP
            })
        );
        Ok(())
    }
}
