// SPDX-License-Identifier: GPL-2.0

//! Bit fields of little-endian descriptors.

/// A field of a descriptor: its first bit, counted from the start of the structure, and its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    at: usize,
    width: usize,
}

impl Field {
    /// Creates the field of `width` (at most 64) bits that starts at bit `at`.
    pub const fn new(at: usize, width: usize) -> Self {
        Self { at, width }
    }

    /// Returns the same field of a structure that starts at byte `bytes` of the buffer.
    pub const fn offset(self, bytes: usize) -> Self {
        Self {
            at: self.at + bytes * 8,
            width: self.width,
        }
    }

    const fn mask(self) -> u64 {
        if self.width >= 64 {
            u64::MAX
        } else {
            (1 << self.width) - 1
        }
    }

    /// Returns the value of the field. Bits beyond the end of `buf` read as 0.
    pub fn get(self, buf: &[u8]) -> u64 {
        let mut window = [0u8; 16];
        // A field of 64 bits touches at most nine bytes.
        for (i, to) in window.iter_mut().take(9).enumerate() {
            *to = buf.get(self.at / 8 + i).copied().unwrap_or(0);
        }
        (u128::from_le_bytes(window) >> (self.at % 8)) as u64 & self.mask()
    }

    /// Returns whether any bit of the field is set.
    pub fn is_set(self, buf: &[u8]) -> bool {
        self.get(buf) != 0
    }

    /// Replaces the field. Excess bits of `value` and bits beyond the end of `buf` are dropped.
    pub fn set(self, buf: &mut [u8], value: u64) {
        let shift = self.at % 8;
        let mask = u128::from(self.mask()) << shift;
        let value = (u128::from(value) << shift) & mask;
        let bytes = mask.to_le_bytes().into_iter().zip(value.to_le_bytes());
        for (to, (mask, value)) in buf.iter_mut().skip(self.at / 8).zip(bytes) {
            *to = (*to & !mask) | value;
        }
    }
}

/// Defines an enumeration for a field of a few bits: named values, and `Other` for all others, so
/// that decoding never fails and encoding restores the same bits.
macro_rules! field_enum {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $value:literal, )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[$vmeta])* $variant, )*
            /// A value without a meaning here.
            Other(u8),
        }

        impl $name {
            /// Returns the value that these bits stand for.
            pub fn from_bits(bits: u64) -> Self {
                match bits as u8 {
                    $( $value => Self::$variant, )*
                    other => Self::Other(other),
                }
            }

            /// Returns the bits of this value.
            pub fn bits(self) -> u64 {
                match self {
                    $( Self::$variant => $value, )*
                    Self::Other(other) => u64::from(other),
                }
            }
        }
    };
}

pub(super) use field_enum;
