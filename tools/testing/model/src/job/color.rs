// SPDX-License-Identifier: GPL-2.0

//! Conversion of a clear colour in the tile buffer to the bytes of a pixel in memory.

use crate::desc::ColorFormat;
use crate::desc::InternalFormat;
use crate::desc::RenderTarget;
use crate::desc::SFormat;
use crate::desc::ZsFormat;

/// The bytes that a clear writes to each pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pixel {
    /// The bytes, of which the first `size` are valid.
    pub(super) bytes: [u8; 16],
    /// Bytes per pixel, 1 to 16.
    pub(super) size: usize,
    /// One bit for each byte that is written. The others keep their value in memory.
    pub(super) mask: u16,
}

impl Pixel {
    fn whole(bytes: [u8; 16], size: usize) -> Self {
        Self {
            bytes,
            size,
            mask: ((1u32 << size) - 1) as u16,
        }
    }

    /// Returns whether every byte is written.
    pub(super) fn is_whole(&self) -> bool {
        u32::from(self.mask) == (1 << self.size) - 1
    }
}

/// A channel of the tile buffer: integer and fraction bits.
type Channel = (u32, u32);

/// Returns the channels R, G, B, A, which fill 32 bits from bit 0 up.
fn tile_layout(format: InternalFormat) -> Option<[Channel; 4]> {
    Some(match format {
        InternalFormat::R8G8B8A8 => [(8, 0); 4],
        InternalFormat::R10G10B10A2 => [(10, 0), (10, 0), (10, 0), (2, 0)],
        InternalFormat::R8G8B8A2 => [(8, 2), (8, 2), (8, 2), (2, 0)],
        InternalFormat::R4G4B4A4 => [(4, 4); 4],
        InternalFormat::R5G6B5A0 => [(5, 5), (6, 4), (5, 5), (0, 2)],
        InternalFormat::R5G5B5A1 => [(5, 5), (5, 5), (5, 5), (1, 1)],
        _ => return None,
    })
}

/// Returns the channels of a format in memory from bit 0 up: the index in R, G, B, A, and the
/// number of bits.
fn memory_layout(format: ColorFormat) -> Option<&'static [(usize, u32)]> {
    Some(match format {
        ColorFormat::R8 => &[(0, 8)],
        ColorFormat::R8G8 => &[(0, 8), (1, 8)],
        ColorFormat::R8G8B8 | ColorFormat::R8G8B8FromR8G8B8A2 => &[(0, 8), (1, 8), (2, 8)],
        ColorFormat::R8G8B8A8 => &[(0, 8), (1, 8), (2, 8), (3, 8)],
        ColorFormat::R4G4B4A4 => &[(0, 4), (1, 4), (2, 4), (3, 4)],
        ColorFormat::R5G6B5 => &[(0, 5), (1, 6), (2, 5)],
        ColorFormat::R10G10B10A2 => &[(0, 10), (1, 10), (2, 10), (3, 2)],
        ColorFormat::A2B10G10R10 => &[(3, 2), (2, 10), (1, 10), (0, 10)],
        ColorFormat::R5G5B5A1 => &[(0, 5), (1, 5), (2, 5), (3, 1)],
        ColorFormat::A1B5G5R5 => &[(3, 1), (2, 5), (1, 5), (0, 5)],
        _ => return None,
    })
}

/// Returns the bytes per pixel of a format without channels.
fn raw_size(format: ColorFormat) -> Option<usize> {
    Some(match format {
        ColorFormat::Raw8 => 1,
        ColorFormat::Raw16 => 2,
        ColorFormat::Raw24 => 3,
        ColorFormat::Raw32 => 4,
        ColorFormat::Raw48 => 6,
        ColorFormat::Raw64 => 8,
        ColorFormat::Raw96 => 12,
        ColorFormat::Raw128 => 16,
        _ => return None,
    })
}

/// Converts a value of `from` bits to one of `to` bits. Formats that hardware pairs have the same
/// number of bits; for others the value is scaled and rounded to the nearest. A channel without
/// integer bits reads as one.
fn convert(value: u32, from: u32, to: u32) -> u32 {
    let max = |bits: u32| (1u64 << bits) - 1;
    if from == to {
        value
    } else if from == 0 {
        max(to) as u32
    } else {
        ((u64::from(value) * max(to) + max(from) / 2) / max(from)) as u32
    }
}

/// Returns the pixel that clearing this render target writes, or `None` for an invalid pair of
/// formats.
pub(super) fn clear_color(target: &RenderTarget) -> Option<Pixel> {
    let mut bytes = [0; 16];
    if let Some(size) = raw_size(target.format) {
        for (to, word) in bytes.chunks_exact_mut(4).zip(target.clear) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        return Some(Pixel::whole(bytes, size));
    }

    let [value, ..] = target.clear;
    let mut at = 0;
    let channels = tile_layout(target.internal)?.map(|(integer, fraction)| {
        let bits = u64::from(value) >> (at + fraction) & ((1 << integer) - 1);
        at += integer + fraction;
        (bits as u32, integer)
    });

    let mut packed = 0u32;
    let mut at = 0;
    for &(channel, bits) in memory_layout(target.format)? {
        let select = usize::from(target.swizzle >> (channel * 3) & 7);
        let out = match select {
            4 => 0,
            5 => (1 << bits) - 1,
            _ => {
                let (value, from) = *channels.get(select)?;
                convert(value, from, bits)
            }
        };
        packed |= out << at;
        at += bits;
    }
    for (to, from) in bytes.iter_mut().zip(packed.to_le_bytes()) {
        *to = from;
    }
    Some(Pixel::whole(bytes, at.div_ceil(8) as usize))
}

/// Converts depth to an integer of `bits` bits. Halfway cases are rounded to even.
fn depth_integer(depth: f32, bits: u32) -> u32 {
    let max = f64::from((1u32 << bits) - 1);
    // The conversion turns NaN into 0.
    (f64::from(depth).clamp(0.0, 1.0) * max).round_ties_even() as u32
}

/// Returns the pixel that clearing a depth target writes, including stencil if the format has it,
/// or `None` for an invalid format.
pub(super) fn clear_depth(format: ZsFormat, depth: f32, stencil: u8) -> Option<Pixel> {
    let d24 = depth_integer(depth, 24);
    let stencil = u32::from(stencil);
    let float = u64::from(depth.to_bits());
    // The value, its bytes, and which of them are written. Unused bits of D24X8 and X8D24 are
    // written as 0; those of the 8-byte formats are left alone.
    let (value, size, mask) = match format {
        ZsFormat::D16 => (u64::from(depth_integer(depth, 16)), 2, 0b11),
        ZsFormat::D24 => (d24.into(), 3, 0b111),
        ZsFormat::D24X8 => (d24.into(), 4, 0b1111),
        ZsFormat::D24S8 => ((d24 | stencil << 24).into(), 4, 0b1111),
        ZsFormat::X8D24 => ((d24 << 8).into(), 4, 0b1111),
        ZsFormat::S8D24 => ((d24 << 8 | stencil).into(), 4, 0b1111),
        ZsFormat::D32 => (float, 4, 0b1111),
        ZsFormat::D32X8X24 => (float, 8, 0b1111),
        ZsFormat::D32S8X24 => (float | u64::from(stencil) << 32, 8, 0b1_1111),
        ZsFormat::None | ZsFormat::Other(_) => return None,
    };
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
    Some(Pixel { bytes, size, mask })
}

/// Returns the pixel that clearing a separate stencil target writes: one byte; the others are left
/// alone.
pub(super) fn clear_stencil(format: SFormat, stencil: u8) -> Option<Pixel> {
    let (size, at) = match format {
        SFormat::S8 => (1, 0),
        SFormat::S8X8 => (2, 0),
        SFormat::S8X24 => (4, 0),
        SFormat::X24S8 => (4, 3),
        SFormat::X8S8 => (2, 1),
        SFormat::X32S8X24 => (8, 4),
        SFormat::None | SFormat::Other(_) => return None,
    };
    let mut bytes = [0; 16];
    if let Some(to) = bytes.get_mut(at) {
        *to = stencil;
    }
    Some(Pixel {
        bytes,
        size,
        mask: 1 << at,
    })
}
