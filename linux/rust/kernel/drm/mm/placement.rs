// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The requirements for placing a node: size, alignment, range and color.

use core::ops::Range;

/// Restricts where in a hole a node may be placed.
///
/// Each node has a color, a number that is only meaningful to the policy. The policy does not see
/// the neighbours, and has no state.
///
/// # Examples
///
/// ```
/// use core::ops::Range;
/// use kernel::drm::mm::Policy;
///
/// /// Keeps nodes of color 1 out of the first and the last 4 KiB of the hole.
/// struct Margin;
///
/// impl Policy for Margin {
///     fn adjust(color: usize, hole: Range<u64>) -> Range<u64> {
///         if color == 1 {
///             hole.start.saturating_add(0x1000)..hole.end.saturating_sub(0x1000)
///         } else {
///             hole
///         }
///     }
/// }
/// ```
pub trait Policy: 'static {
    /// Returns the part of `hole` that a node with the given color may use.
    ///
    /// Any part of the returned range outside `hole` is ignored; an empty range means that the hole
    /// cannot be used. The alignment of the node is applied afterwards. Called with the lock held
    /// that protects the allocator.
    fn adjust(color: usize, hole: Range<u64>) -> Range<u64>;
}

/// The [`Policy`] without any restriction.
pub struct AnyColor;

impl Policy for AnyColor {
    #[inline]
    fn adjust(_color: usize, hole: Range<u64>) -> Range<u64> {
        hole
    }
}

/// The requirements of a new node.
///
/// All numbers are in the unit of the allocator's range, such as bytes or pages.
#[derive(Clone, Debug)]
pub struct Placement {
    pub(super) size: u64,
    pub(super) align: u64,
    pub(super) color: usize,
    pub(super) range: Range<u64>,
}

impl Placement {
    /// Creates the requirements of a node of the given size, anywhere.
    #[inline]
    pub const fn new(size: u64) -> Self {
        Self {
            size,
            align: 0,
            color: 0,
            range: 0..u64::MAX,
        }
    }

    /// Aligns the start of the node to a multiple of `align`, which need not be a power of two.
    #[inline]
    pub const fn align(mut self, align: u64) -> Self {
        self.align = align;
        self
    }

    /// Sets the color of the node, which is 0 otherwise.
    #[inline]
    pub const fn color(mut self, color: usize) -> Self {
        self.color = color;
        self
    }

    /// Limits the node to `start..end`.
    #[inline]
    pub const fn range(mut self, start: u64, end: u64) -> Self {
        self.range.start = start;
        self.range.end = end;
        self
    }
}
