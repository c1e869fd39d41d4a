// SPDX-License-Identifier: GPL-2.0

//! The targets that tiles are written to: render targets and the ZS/CRC extension.

use crate::job::Arch;

use super::bits::field_enum;
use super::Field;

/// The size of a render target in bytes.
pub const RENDER_TARGET_SIZE: usize = 64;
/// The size of the ZS/CRC extension in bytes.
pub const ZS_EXTENSION_SIZE: usize = 64;
/// The swizzle that leaves R, G, B, A as they are.
pub const SWIZZLE_RGBA: u16 = 0x688;

field_enum! {
    /// The colour format of the tile buffer.
    InternalFormat {
        /// 8.0 bits each.
        R8G8B8A8 = 1,
        /// 10.0 bits and 2.0 of alpha.
        R10G10B10A2 = 2,
        /// 8.2 bits and 2.0 of alpha.
        R8G8B8A2 = 3,
        /// 4.4 bits each.
        R4G4B4A4 = 4,
        /// 5.5, 6.4, 5.5 bits and 0.2 of alpha.
        R5G6B5A0 = 5,
        /// 5.5 bits and 1.1 of alpha.
        R5G5B5A1 = 6,
        /// Half floats (v9, as the next three). The clear colour holds the bytes as they are
        /// stored.
        R16F = 16,
        /// Two half floats.
        R16G16F = 17,
        /// Four half floats.
        R16G16B16A16F = 18,
        /// Packed small floats.
        R11G11B10F = 20,
        /// Uninterpreted bytes, 1 per pixel.
        Raw8 = 32,
        /// Uninterpreted bytes, 2 per pixel.
        Raw16 = 33,
        /// Uninterpreted bytes, 4 per pixel.
        Raw32 = 34,
        /// Uninterpreted bytes, 8 per pixel.
        Raw64 = 35,
        /// Uninterpreted bytes, 16 per pixel.
        Raw128 = 36,
    }
}

field_enum! {
    /// The colour format in memory. Channels are named from the lowest bit up.
    ColorFormat {
        /// The first byte of the tile buffer's value.
        Raw8 = 0,
        /// The first 2 bytes.
        Raw16 = 1,
        /// The first 3 bytes.
        Raw24 = 2,
        /// The first 4 bytes.
        Raw32 = 3,
        /// The first 6 bytes.
        Raw48 = 4,
        /// The first 8 bytes.
        Raw64 = 5,
        /// The first 12 bytes.
        Raw96 = 6,
        /// All 16 bytes.
        Raw128 = 7,
        /// 1 byte.
        R8 = 16,
        /// 2 bytes.
        R8G8 = 17,
        /// 3 bytes.
        R8G8B8 = 18,
        /// 4 bytes.
        R8G8B8A8 = 19,
        /// 2 bytes.
        R4G4B4A4 = 20,
        /// 2 bytes.
        R5G6B5 = 21,
        /// 3 bytes, from a tile buffer with 2 bits of alpha.
        R8G8B8FromR8G8B8A2 = 22,
        /// 4 bytes.
        R10G10B10A2 = 24,
        /// 4 bytes.
        A2B10G10R10 = 25,
        /// 2 bytes.
        R5G5B5A1 = 28,
        /// 2 bytes.
        A1B5G5R5 = 29,
    }
}

/// The arrangement of pixels in memory. The bits differ between GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// Nothing is written (v7 and v9: 0).
    None,
    /// Tiles of 16x16, pixels within interleaved (v5: 0; v7 and v9: 1).
    UInterleaved,
    /// Tiles of 16x16, rows within (v5: 1).
    TiledLinear,
    /// Rows (2 everywhere).
    Linear,
    /// Compressed (v5: 3; v7 and v9: 12). The model has no compressor.
    Afbc,
    /// Compressed, tiled (v7 and v9: 13).
    AfbcTiled,
    /// A value with no known meaning.
    Other(u8),
}

impl BlockFormat {
    /// Returns the format that these bits stand for on this GPU.
    pub fn from_bits(arch: Arch, bits: u64) -> Self {
        match (arch, bits) {
            (Arch::V5, 0) => Self::UInterleaved,
            (Arch::V5, 1) => Self::TiledLinear,
            (Arch::V5, 3) => Self::Afbc,
            (_, 2) => Self::Linear,
            (Arch::V5, _) => Self::Other(bits as u8),
            (_, 0) => Self::None,
            (_, 1) => Self::UInterleaved,
            (_, 12) => Self::Afbc,
            (_, 13) => Self::AfbcTiled,
            _ => Self::Other(bits as u8),
        }
    }

    /// Returns the bits of this format on this GPU; all ones if it does not exist there.
    pub fn bits(self, arch: Arch) -> u64 {
        match (arch, self) {
            (Arch::V5, Self::UInterleaved) => 0,
            (Arch::V5, Self::TiledLinear) => 1,
            (Arch::V5, Self::Afbc) => 3,
            (_, Self::Linear) => 2,
            (_, Self::Other(bits)) => bits.into(),
            (Arch::V5, _) => u64::MAX,
            (_, Self::None) => 0,
            (_, Self::UInterleaved) => 1,
            (_, Self::Afbc) => 12,
            (_, Self::AfbcTiled) => 13,
            (_, Self::TiledLinear) => u64::MAX,
        }
    }
}

field_enum! {
    /// The arrangement of samples.
    Msaa {
        /// One sample per pixel.
        Single = 0,
        /// The mean of the samples, one surface.
        Average = 1,
        /// All samples in one surface. How they interleave is not documented.
        Multiple = 2,
        /// One surface per sample.
        Layered = 3,
    }
}

field_enum! {
    /// A depth format, or depth and stencil. Named from the lowest bit up.
    ZsFormat {
        /// No depth target.
        None = 0,
        /// 2 bytes.
        D16 = 1,
        /// 3 bytes.
        D24 = 2,
        /// 4 bytes.
        D24X8 = 4,
        /// 4 bytes, stencil in the last.
        D24S8 = 5,
        /// 4 bytes, depth in the last three (v5).
        X8D24 = 6,
        /// 4 bytes, stencil in the first (v5).
        S8D24 = 7,
        /// 8 bytes, a float and 4 that are left alone (v7).
        D32X8X24 = 13,
        /// 4 bytes, a float.
        D32 = 14,
        /// 8 bytes, a float, stencil in the fifth (v5, v7).
        D32S8X24 = 15,
    }
}

field_enum! {
    /// The format of a separate stencil target. Named from the lowest bit up.
    SFormat {
        /// No stencil target.
        None = 0,
        /// 1 byte.
        S8 = 1,
        /// 2 bytes, stencil in the first (v5, v7).
        S8X8 = 2,
        /// 4 bytes, stencil in the first (v5, v7).
        S8X24 = 3,
        /// 4 bytes, stencil in the last.
        X24S8 = 4,
        /// 2 bytes, stencil in the last (v5, v7).
        X8S8 = 5,
        /// 8 bytes, stencil in the fifth (v5, v7).
        X32S8X24 = 6,
    }
}

/// The location of a surface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Surface {
    /// Bits 0+64: the address of the first byte.
    pub base: u64,
    /// Bits 64+32: bytes from one row to the next; for tiled formats, from one row of tiles.
    pub row_stride: u32,
    /// Bits 96+32: bytes from one layer or sample to the next.
    pub surface_stride: u32,
}

impl Surface {
    const BASE: Field = Field::new(0, 64);
    const ROW_STRIDE: Field = Field::new(64, 32);
    const SURFACE_STRIDE: Field = Field::new(96, 32);

    fn decode_at(buf: &[u8], byte: usize) -> Self {
        Self {
            base: Self::BASE.offset(byte).get(buf),
            row_stride: Self::ROW_STRIDE.offset(byte).get(buf) as u32,
            surface_stride: Self::SURFACE_STRIDE.offset(byte).get(buf) as u32,
        }
    }

    fn encode_at(&self, buf: &mut [u8], byte: usize) {
        Self::BASE.offset(byte).set(buf, self.base);
        Self::ROW_STRIDE
            .offset(byte)
            .set(buf, self.row_stride.into());
        Self::SURFACE_STRIDE
            .offset(byte)
            .set(buf, self.surface_stride.into());
    }
}

/// A render target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenderTarget {
    /// Bits 4+12, stored divided by 16: the offset of its pixels in the tile buffer.
    pub internal_offset: u16,
    /// Bit 24: the target is YUV, which the model does not support.
    pub yuv: bool,
    /// Bits 26+6: format in the tile buffer.
    pub internal: InternalFormat,
    /// Bit 32: write the target.
    pub write: bool,
    /// Bits 35+5: format in memory.
    pub format: ColorFormat,
    /// Bits 40+2 (v5): byte order, 0 for little-endian. The model supports no other.
    pub endianness: u8,
    /// Bits 42+2 (v5), 40+4 (v7, v9): arrangement in memory.
    pub block: BlockFormat,
    /// Bits 44+2: samples in memory.
    pub msaa: Msaa,
    /// Bit 46: the shader's output is converted to sRGB. A clear colour already is in sRGB.
    pub srgb: bool,
    /// Bit 47: dither the shader's output. A clear colour is not dithered.
    pub dither: bool,
    /// Bits 48+12: for each channel in memory, 3 bits: 0 to 3 for R to A of the tile buffer, 4 for
    /// 0, 5 for 1.
    pub swizzle: u16,
    /// Bit 63: also write tiles that nothing was drawn to, which clears them.
    pub clean_pixel_write: bool,
    /// Byte 32: the surface.
    pub surface: Surface,
    /// Bits 384+128: the clear colour as the tile buffer holds it.
    pub clear: [u32; 4],
}

impl RenderTarget {
    const INTERNAL_OFFSET: Field = Field::new(4, 12);
    const YUV: Field = Field::new(24, 1);
    const INTERNAL: Field = Field::new(26, 6);
    const WRITE: Field = Field::new(32, 1);
    const FORMAT: Field = Field::new(35, 5);
    const ENDIANNESS_V5: Field = Field::new(40, 2);
    const BLOCK_V5: Field = Field::new(42, 2);
    const BLOCK: Field = Field::new(40, 4);
    const MSAA: Field = Field::new(44, 2);
    const SRGB: Field = Field::new(46, 1);
    const DITHER: Field = Field::new(47, 1);
    const SWIZZLE: Field = Field::new(48, 12);
    const CLEAN_PIXEL_WRITE: Field = Field::new(63, 1);
    const SURFACE_BYTE: usize = 32;
    const CLEAR: [Field; 4] = [
        Field::new(384, 32),
        Field::new(416, 32),
        Field::new(448, 32),
        Field::new(480, 32),
    ];

    /// A render target that is not written.
    pub const UNUSED: Self = Self {
        internal_offset: 0,
        yuv: false,
        internal: InternalFormat::R8G8B8A8,
        write: false,
        format: ColorFormat::R8G8B8A8,
        endianness: 0,
        block: BlockFormat::Linear,
        msaa: Msaa::Single,
        srgb: false,
        dither: false,
        swizzle: SWIZZLE_RGBA,
        clean_pixel_write: false,
        surface: Surface {
            base: 0,
            row_stride: 0,
            surface_stride: 0,
        },
        clear: [0; 4],
    };

    /// Creates a target that is cleared to `clear`, which is in the format of the tile buffer.
    pub fn cleared(
        internal: InternalFormat,
        format: ColorFormat,
        block: BlockFormat,
        surface: Surface,
        clear: [u32; 4],
    ) -> Self {
        Self {
            internal,
            write: true,
            format,
            block,
            clean_pixel_write: true,
            surface,
            clear,
            ..Self::UNUSED
        }
    }

    /// Reads a render target.
    pub fn decode(arch: Arch, buf: &[u8; RENDER_TARGET_SIZE]) -> Self {
        let midgard = arch == Arch::V5;
        let block = if midgard { Self::BLOCK_V5 } else { Self::BLOCK };
        Self {
            internal_offset: (Self::INTERNAL_OFFSET.get(buf) << 4) as u16,
            yuv: Self::YUV.is_set(buf),
            internal: InternalFormat::from_bits(Self::INTERNAL.get(buf)),
            write: Self::WRITE.is_set(buf),
            format: ColorFormat::from_bits(Self::FORMAT.get(buf)),
            endianness: if midgard {
                Self::ENDIANNESS_V5.get(buf) as u8
            } else {
                0
            },
            block: BlockFormat::from_bits(arch, block.get(buf)),
            msaa: Msaa::from_bits(Self::MSAA.get(buf)),
            srgb: Self::SRGB.is_set(buf),
            dither: Self::DITHER.is_set(buf),
            swizzle: Self::SWIZZLE.get(buf) as u16,
            clean_pixel_write: Self::CLEAN_PIXEL_WRITE.is_set(buf),
            surface: Surface::decode_at(buf, Self::SURFACE_BYTE),
            clear: Self::CLEAR.map(|field| field.get(buf) as u32),
        }
    }

    /// Returns the render target's bytes.
    pub fn encode(&self, arch: Arch) -> [u8; RENDER_TARGET_SIZE] {
        let mut buf = [0; RENDER_TARGET_SIZE];
        Self::INTERNAL_OFFSET.set(&mut buf, u64::from(self.internal_offset >> 4));
        Self::YUV.set(&mut buf, self.yuv.into());
        Self::INTERNAL.set(&mut buf, self.internal.bits());
        Self::WRITE.set(&mut buf, self.write.into());
        Self::FORMAT.set(&mut buf, self.format.bits());
        if arch == Arch::V5 {
            Self::ENDIANNESS_V5.set(&mut buf, self.endianness.into());
            Self::BLOCK_V5.set(&mut buf, self.block.bits(arch));
        } else {
            Self::BLOCK.set(&mut buf, self.block.bits(arch));
        }
        Self::MSAA.set(&mut buf, self.msaa.bits());
        Self::SRGB.set(&mut buf, self.srgb.into());
        Self::DITHER.set(&mut buf, self.dither.into());
        Self::SWIZZLE.set(&mut buf, self.swizzle.into());
        Self::CLEAN_PIXEL_WRITE.set(&mut buf, self.clean_pixel_write.into());
        self.surface.encode_at(&mut buf, Self::SURFACE_BYTE);
        for (field, word) in Self::CLEAR.into_iter().zip(self.clear) {
            field.set(&mut buf, word.into());
        }
        buf
    }
}

/// The ZS/CRC extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZsExtension {
    /// Bits 0+64 (v5, v7), 128+64 (v9): checksums, which the model does not support.
    pub crc_base: u64,
    /// Bits 64+32 (v5, v7), 32+32 (v9): bytes per row of checksums.
    pub crc_row_stride: u32,
    /// Bits 96+4 (v5, v7), 0+4 (v9): depth format.
    pub z_format: ZsFormat,
    /// Bits 100+2 (v5), 100+4 (v7), 4+4 (v9): arrangement of depth.
    pub z_block: BlockFormat,
    /// Bits 102+2 (v5), 104+2 (v7), 8+2 (v9): samples of depth.
    pub z_msaa: Msaa,
    /// Bit 106 (v5, v7), 31 (v9): also write tiles that nothing was drawn to.
    pub clean_pixel_write: bool,
    /// Bits 112+4 (v5, v7), 16+4 (v9): format of a separate stencil target.
    pub s_format: SFormat,
    /// Bits 116+2 (v5), 116+4 (v7), 20+4 (v9): arrangement of stencil.
    pub s_block: BlockFormat,
    /// Bits 118+2 (v5), 120+2 (v7), 24+2 (v9): samples of stencil.
    pub s_msaa: Msaa,
    /// Byte 16 (v5, v7), 32 (v9): the depth surface.
    pub z_surface: Surface,
    /// Byte 32 (v5, v7), 48 (v9): the stencil surface.
    pub s_surface: Surface,
}

/// The positions of the extension's fields on one GPU.
struct ZsFields {
    crc_base: Field,
    crc_row_stride: Field,
    z_format: Field,
    z_block: Field,
    z_msaa: Field,
    clean_pixel_write: Field,
    s_format: Field,
    s_block: Field,
    s_msaa: Field,
    z_surface_byte: usize,
    s_surface_byte: usize,
}

const ZS_V5: ZsFields = ZsFields {
    crc_base: Field::new(0, 64),
    crc_row_stride: Field::new(64, 32),
    z_format: Field::new(96, 4),
    z_block: Field::new(100, 2),
    z_msaa: Field::new(102, 2),
    clean_pixel_write: Field::new(106, 1),
    s_format: Field::new(112, 4),
    s_block: Field::new(116, 2),
    s_msaa: Field::new(118, 2),
    z_surface_byte: 16,
    s_surface_byte: 32,
};

const ZS_V7: ZsFields = ZsFields {
    z_block: Field::new(100, 4),
    z_msaa: Field::new(104, 2),
    s_block: Field::new(116, 4),
    s_msaa: Field::new(120, 2),
    ..ZS_V5
};

const ZS_V9: ZsFields = ZsFields {
    crc_base: Field::new(128, 64),
    crc_row_stride: Field::new(32, 32),
    z_format: Field::new(0, 4),
    z_block: Field::new(4, 4),
    z_msaa: Field::new(8, 2),
    clean_pixel_write: Field::new(31, 1),
    s_format: Field::new(16, 4),
    s_block: Field::new(20, 4),
    s_msaa: Field::new(24, 2),
    z_surface_byte: 32,
    s_surface_byte: 48,
};

impl ZsExtension {
    /// An extension without targets.
    pub const EMPTY: Self = Self {
        crc_base: 0,
        crc_row_stride: 0,
        z_format: ZsFormat::None,
        z_block: BlockFormat::Linear,
        z_msaa: Msaa::Single,
        clean_pixel_write: false,
        s_format: SFormat::None,
        s_block: BlockFormat::Linear,
        s_msaa: Msaa::Single,
        z_surface: Surface {
            base: 0,
            row_stride: 0,
            surface_stride: 0,
        },
        s_surface: Surface {
            base: 0,
            row_stride: 0,
            surface_stride: 0,
        },
    };

    fn fields(arch: Arch) -> &'static ZsFields {
        match arch {
            Arch::V5 => &ZS_V5,
            Arch::V7 => &ZS_V7,
            Arch::V9 => &ZS_V9,
        }
    }

    /// Reads an extension.
    pub fn decode(arch: Arch, buf: &[u8; ZS_EXTENSION_SIZE]) -> Self {
        let f = Self::fields(arch);
        Self {
            crc_base: f.crc_base.get(buf),
            crc_row_stride: f.crc_row_stride.get(buf) as u32,
            z_format: ZsFormat::from_bits(f.z_format.get(buf)),
            z_block: BlockFormat::from_bits(arch, f.z_block.get(buf)),
            z_msaa: Msaa::from_bits(f.z_msaa.get(buf)),
            clean_pixel_write: f.clean_pixel_write.is_set(buf),
            s_format: SFormat::from_bits(f.s_format.get(buf)),
            s_block: BlockFormat::from_bits(arch, f.s_block.get(buf)),
            s_msaa: Msaa::from_bits(f.s_msaa.get(buf)),
            z_surface: Surface::decode_at(buf, f.z_surface_byte),
            s_surface: Surface::decode_at(buf, f.s_surface_byte),
        }
    }

    /// Returns the extension's bytes.
    pub fn encode(&self, arch: Arch) -> [u8; ZS_EXTENSION_SIZE] {
        let f = Self::fields(arch);
        let mut buf = [0; ZS_EXTENSION_SIZE];
        f.crc_base.set(&mut buf, self.crc_base);
        f.crc_row_stride.set(&mut buf, self.crc_row_stride.into());
        f.z_format.set(&mut buf, self.z_format.bits());
        f.z_block.set(&mut buf, self.z_block.bits(arch));
        f.z_msaa.set(&mut buf, self.z_msaa.bits());
        f.clean_pixel_write
            .set(&mut buf, self.clean_pixel_write.into());
        f.s_format.set(&mut buf, self.s_format.bits());
        f.s_block.set(&mut buf, self.s_block.bits(arch));
        f.s_msaa.set(&mut buf, self.s_msaa.bits());
        self.z_surface.encode_at(&mut buf, f.z_surface_byte);
        self.s_surface.encode_at(&mut buf, f.s_surface_byte);
        buf
    }
}
