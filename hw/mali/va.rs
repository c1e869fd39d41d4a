// SPDX-License-Identifier: GPL-2.0

//! Placement of BOs in an address space.
//!
//! There are rules for executable BOs: the program counter of a shader has 24 bits, so its code
//! must not cross a 16 MiB boundary, and the instruction prefetcher misbehaves next to a 4 GiB
//! boundary.

use core::ops::Range;

use kernel::{
    drm::mm::{
        Placement,
        Policy, //
    },
    prelude::*,
    sizes::{
        SZ_16M,
        SZ_2M,
        SZ_4K, //
    }, //
};

/// Size of a page.
const PAGE: u64 = SZ_4K as u64;
/// Size of a block.
const BLOCK: u64 = SZ_2M as u64;
const WINDOW: u64 = SZ_16M as u64;
const GIB_4: u64 = 1 << 32;

/// Colour of executable BOs. All others have [`DATA`].
const EXEC: usize = 1;
/// Colour of BOs that are not executable.
const DATA: usize = 0;

/// Keeps executable BOs away from 4 GiB boundaries.
pub(crate) struct Rules;

impl Policy for Rules {
    fn adjust(color: usize, hole: Range<u64>) -> Range<u64> {
        if color != EXEC {
            return hole;
        }

        let Range { mut start, mut end } = hole;
        if start % GIB_4 == 0 {
            start = start.saturating_add(PAGE);
        }
        // Too little room before the next boundary: start after it.
        let boundary = start.div_ceil(GIB_4).saturating_mul(GIB_4);
        if boundary - start <= WINDOW {
            start = boundary.saturating_add(PAGE);
        }
        let boundary = start.div_ceil(GIB_4).saturating_mul(GIB_4);
        end = end.min(boundary.saturating_sub(PAGE));

        start..end
    }
}

/// Returns the alignment of a BO of `size` bytes, a nonzero multiple of the page size.
fn alignment(size: u64, exec: bool) -> u64 {
    if exec {
        // A BO that is aligned to its size, rounded up to a power of two, crosses no 16 MiB
        // boundary.
        size.min(WINDOW).next_power_of_two()
    } else if size >= BLOCK {
        BLOCK
    } else {
        PAGE
    }
}

/// Returns the placement of a BO of `size` bytes, a nonzero multiple of the page size.
pub(super) fn placement(size: u64, exec: bool) -> Placement {
    Placement::new(size)
        .align(alignment(size, exec))
        .color(if exec { EXEC } else { DATA })
}

#[kunit_tests(drm_gpu_va)]
mod tests {
    use super::*;

    /// A hole that ends at a 4 GiB boundary.
    const HOLE: Range<u64> = 2 * WINDOW..GIB_4;

    #[test]
    fn data_goes_anywhere() {
        assert!(Rules::adjust(DATA, HOLE) == HOLE);
    }

    #[test]
    fn code_keeps_off_4g() {
        assert!(Rules::adjust(EXEC, HOLE) == (HOLE.start..GIB_4 - PAGE));
        assert!(Rules::adjust(EXEC, 0..WINDOW) == (PAGE..WINDOW));
        // A hole that ends at the boundary and is no larger than a window cannot be used.
        let hole = Rules::adjust(EXEC, GIB_4 - WINDOW..GIB_4);
        assert!(hole.start >= GIB_4);
    }

    #[test]
    fn alignments() {
        assert!(alignment(0x3000, true) == 0x4000);
        assert!(alignment(3 * WINDOW, true) == WINDOW);
        assert!(alignment(BLOCK + PAGE, false) == BLOCK);
        assert!(alignment(PAGE, false) == PAGE);
    }
}
