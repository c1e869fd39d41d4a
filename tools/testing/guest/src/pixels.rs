// SPDX-License-Identifier: GPL-2.0

//! The content that cleared memory must have, worked out apart from the model that clears it.
//!
//! A clear colour is given as the GPU's tile buffer holds it: channels R, G, B, A from the lowest
//! bit up, some with fraction bits below, which are dropped on the way to memory.

use model::desc::BlockFormat;
use model::desc::ColorFormat;
use model::desc::InternalFormat;

/// A channel of a tile buffer's format: (integer bits, fraction bits).
type Channel = (u32, u32);

/// A colour format: in the tile buffer and in memory.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Its name.
    pub name: &'static str,
    /// In the tile buffer.
    pub internal: InternalFormat,
    /// In memory.
    pub memory: ColorFormat,
    /// Bytes per pixel in memory.
    pub bytes: usize,
    /// The tile buffer's channels. Empty for raw formats, whose bytes are stored as they are.
    pub channels: &'static [Channel],
    /// How many of the channels are in memory, packed from the lowest bit up.
    pub stored: usize,
}

const EIGHTS: &[Channel] = &[(8, 0), (8, 0), (8, 0), (8, 0)];

/// Every format that a GPU of any generation here has.
pub const FORMATS: &[Format] = &[
    Format {
        name: "RGBA8",
        internal: InternalFormat::R8G8B8A8,
        memory: ColorFormat::R8G8B8A8,
        bytes: 4,
        channels: EIGHTS,
        stored: 4,
    },
    Format {
        name: "RGB8",
        internal: InternalFormat::R8G8B8A8,
        memory: ColorFormat::R8G8B8,
        bytes: 3,
        channels: EIGHTS,
        stored: 3,
    },
    Format {
        name: "RG8",
        internal: InternalFormat::R8G8B8A8,
        memory: ColorFormat::R8G8,
        bytes: 2,
        channels: EIGHTS,
        stored: 2,
    },
    Format {
        name: "R8",
        internal: InternalFormat::R8G8B8A8,
        memory: ColorFormat::R8,
        bytes: 1,
        channels: EIGHTS,
        stored: 1,
    },
    Format {
        name: "RGB565",
        internal: InternalFormat::R5G6B5A0,
        memory: ColorFormat::R5G6B5,
        bytes: 2,
        channels: &[(5, 5), (6, 4), (5, 5), (0, 2)],
        stored: 3,
    },
    Format {
        name: "RGBA4",
        internal: InternalFormat::R4G4B4A4,
        memory: ColorFormat::R4G4B4A4,
        bytes: 2,
        channels: &[(4, 4), (4, 4), (4, 4), (4, 4)],
        stored: 4,
    },
    Format {
        name: "RGB5A1",
        internal: InternalFormat::R5G5B5A1,
        memory: ColorFormat::R5G5B5A1,
        bytes: 2,
        channels: &[(5, 5), (5, 5), (5, 5), (1, 1)],
        stored: 4,
    },
    Format {
        name: "RGB10A2",
        internal: InternalFormat::R10G10B10A2,
        memory: ColorFormat::R10G10B10A2,
        bytes: 4,
        channels: &[(10, 0), (10, 0), (10, 0), (2, 0)],
        stored: 4,
    },
    raw("RAW8", InternalFormat::Raw8, ColorFormat::Raw8, 1),
    raw("RAW16", InternalFormat::Raw16, ColorFormat::Raw16, 2),
    raw("RAW32", InternalFormat::Raw32, ColorFormat::Raw32, 4),
    raw("RAW64", InternalFormat::Raw64, ColorFormat::Raw64, 8),
    raw("RAW128", InternalFormat::Raw128, ColorFormat::Raw128, 16),
];

const fn raw(
    name: &'static str,
    internal: InternalFormat,
    memory: ColorFormat,
    bytes: usize,
) -> Format {
    Format {
        name,
        internal,
        memory,
        bytes,
        channels: &[],
        stored: 0,
    }
}

impl Format {
    /// A clear colour made of 128 arbitrary bits: the descriptor's words, and the bytes of every
    /// pixel.
    pub fn clear(&self, seed: u128) -> ([u32; 4], Vec<u8>) {
        if self.channels.is_empty() {
            let bytes = seed.to_le_bytes()[..self.bytes].to_vec();
            let mut all = [0; 16];
            for (to, from) in all.iter_mut().zip(bytes.iter().cycle()) {
                *to = *from;
            }
            let all = u128::from_le_bytes(all);
            return ([0, 32, 64, 96].map(|shift| (all >> shift) as u32), bytes);
        }
        // Any value of 32 bits is one of the tile buffer's: the fractions are arbitrary, too.
        let tile = seed as u32;
        let (mut at, mut packed, mut width) = (0, 0u64, 0);
        for &(integer, fraction) in &self.channels[..self.stored] {
            let value = (u64::from(tile) >> (at + fraction)) & ((1 << integer) - 1);
            packed |= value << width;
            width += integer;
            at += integer + fraction;
        }
        ([tile; 4], packed.to_le_bytes()[..self.bytes].to_vec())
    }
}

/// A surface of some size in a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes per pixel.
    pub bytes: usize,
    /// The order of pixels.
    pub block: BlockFormat,
}

impl Layout {
    /// Bytes from one row (of tiles, where there are tiles) to the next.
    pub fn row_stride(&self) -> usize {
        let tiles = self.width.div_ceil(16);
        match self.block {
            BlockFormat::Linear => (tiles * 16 * self.bytes).next_multiple_of(64),
            _ => tiles * 256 * self.bytes,
        }
    }

    /// Bytes in all, whole tiles.
    pub fn size(&self) -> usize {
        let tiles = self.height.div_ceil(16);
        match self.block {
            BlockFormat::Linear => tiles * 16 * self.row_stride(),
            _ => tiles * self.row_stride(),
        }
    }

    /// Where a pixel is, in bytes from the start.
    pub fn offset(&self, x: usize, y: usize) -> usize {
        let tile = (y / 16) * self.row_stride() + (x / 16) * 256 * self.bytes;
        match self.block {
            BlockFormat::Linear => y * self.row_stride() + x * self.bytes,
            BlockFormat::TiledLinear => tile + ((y % 16) * 16 + x % 16) * self.bytes,
            _ => tile + interleave(x % 16, y % 16) * self.bytes,
        }
    }

    /// The first pixel that is not as it has to be, if there is one.
    pub fn check(&self, memory: &[u8], pixel: &[u8]) -> Result<(), String> {
        for y in 0..self.height {
            for x in 0..self.width {
                let at = self.offset(x, y);
                let found = &memory[at..at + self.bytes];
                if found != pixel {
                    return Err(format!(
                        "pixel ({x}, {y}) is {found:02x?}, not {pixel:02x?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The place of a pixel within its U-interleaved tile.
fn interleave(x: usize, y: usize) -> usize {
    (0..4).fold(0, |index, k| {
        let (x, y) = ((x >> k) & 1, (y >> k) & 1);
        index | ((x ^ y) << (2 * k)) | (y << (2 * k + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_is_a_permutation() {
        let mut seen = [false; 256];
        for y in 0..16 {
            for x in 0..16 {
                seen[interleave(x, y)] = true;
            }
        }
        assert!(seen.iter().all(|&seen| seen));
        assert_eq!(interleave(1, 0), 1);
        assert_eq!(interleave(1, 1), 2);
        assert_eq!(interleave(0, 1), 3);
        assert_eq!(interleave(2, 0), 4);
    }

    #[test]
    fn fractions_are_dropped() {
        let rgb565 = FORMATS.iter().find(|f| f.name == "RGB565").unwrap();
        // 31.5 of red, 0.9 of green, 1.0 of blue.
        let tile = ((31 << 5) | 16) | (15 << 10) | ((1 << 5) << 20);
        let (words, pixel) = rgb565.clear(tile);
        assert_eq!(words, [tile as u32; 4]);
        assert_eq!(pixel, (31u16 | (1 << 11)).to_le_bytes());
    }

    #[test]
    fn raw_colours_repeat() {
        let raw16 = FORMATS.iter().find(|f| f.name == "RAW16").unwrap();
        let (words, pixel) = raw16.clear(0x1234_5678_9abc);
        assert_eq!(words, [0x9abc_9abc; 4]);
        assert_eq!(pixel, [0xbc, 0x9a]);
    }
}
