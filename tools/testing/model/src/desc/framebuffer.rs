// SPDX-License-Identifier: GPL-2.0

//! The framebuffer descriptor (FBD) and the tagged pointer to it.
//!
//! In memory: 128 bytes of FBD, a 64-byte ZS/CRC extension if there is one, then 64 bytes for each
//! render target. v5 keeps its local-storage block in the first 32 bytes and its tiler section in
//! bytes 56 to 95; v7 and v9 point to a tiler context instead. From the width on, the layouts are
//! the same.

use crate::job::Arch;

use super::Field;
use super::MidgardTiler;
use super::RenderTarget;
use super::ZsExtension;

/// Bytes of the FBD itself.
pub const FRAMEBUFFER_SIZE: usize = 128;

/// A pointer to an FBD, which is aligned to 64 bytes; the low bits describe its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramebufferPointer {
    /// Bits 6+58: the FBD.
    pub va: u64,
    /// Bit 0: the FBD has the layout with several render targets, the only one after v4.
    pub multi_target: bool,
    /// Bit 1: there is an extension.
    pub has_zs_extension: bool,
    /// Bits 2+4, stored less one: render targets, 1 to 16.
    pub render_targets: u8,
}

impl FramebufferPointer {
    const MULTI_TARGET: Field = Field::new(0, 1);
    const HAS_ZS_EXTENSION: Field = Field::new(1, 1);
    const RENDER_TARGETS: Field = Field::new(2, 4);

    /// Decodes a pointer.
    pub fn from_bits(bits: u64) -> Self {
        let buf = bits.to_le_bytes();
        Self {
            va: bits & !63,
            multi_target: Self::MULTI_TARGET.is_set(&buf),
            has_zs_extension: Self::HAS_ZS_EXTENSION.is_set(&buf),
            render_targets: Self::RENDER_TARGETS.get(&buf) as u8 + 1,
        }
    }

    /// Returns the pointer with its tag.
    pub fn bits(self) -> u64 {
        let mut buf = (self.va & !63).to_le_bytes();
        Self::MULTI_TARGET.set(&mut buf, self.multi_target.into());
        Self::HAS_ZS_EXTENSION.set(&mut buf, self.has_zs_extension.into());
        Self::RENDER_TARGETS.set(&mut buf, u64::from(self.render_targets.saturating_sub(1)));
        u64::from_le_bytes(buf)
    }
}

/// The framebuffer descriptor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Framebuffer {
    /// Bits 0+3, 3+3, 6+3 (v7, v9): when the two pre-frame shaders and the post-frame shader run: 0
    /// never, 1 always, 2 intersect, 3 early-ZS always.
    pub frame_modes: [u8; 3],
    /// Bits 128+64 (v7, v9): sample positions.
    pub sample_locations: u64,
    /// Bits 192+64 (v7, v9): the draw descriptors of the frame shaders.
    pub frame_shaders: u64,
    /// Bits 256+16, stored less one: width in pixels, 1 to 65536.
    pub width: u32,
    /// Bits 272+16, stored less one: height in pixels, 1 to 65536.
    pub height: u32,
    /// Bits 288+16 and 304+16: first column and row that may be written.
    pub bound_min: (u16, u16),
    /// Bits 320+16 and 336+16: last column and row that may be written.
    pub bound_max: (u16, u16),
    /// Bits 352+3: log2 of the samples per pixel.
    pub log2_samples: u8,
    /// Bits 361+4: log2 of the pixels per tile.
    pub log2_tile_pixels: u8,
    /// Bits 371+4, stored less one: render targets, 1 to 16.
    pub render_targets: u8,
    /// Bits 376+8: tile buffer for colours, in KiB.
    pub color_allocation_kib: u8,
    /// Bits 384+8: stencil clear value.
    pub s_clear: u8,
    /// Bit 392: write the extension's stencil target. This does not concern stencil within the
    /// depth target.
    pub s_write: bool,
    /// Bits 400+2: depth in the tile buffer: 0 D16, 1 D24, 2 D32.
    pub z_internal: u8,
    /// Bit 402: write the extension's depth target, including stencil if its format has both. Mesa
    /// sets only this bit for D24S8.
    pub z_write: bool,
    /// Bit 405: there is a ZS/CRC extension.
    pub has_zs_extension: bool,
    /// Bit 414: skip tiles whose checksum is unchanged. The model writes them anyway.
    pub crc_read: bool,
    /// Bit 415: write checksums. The model does not.
    pub crc_write: bool,
    /// Bits 416+32: depth clear value.
    pub z_clear: f32,
    /// Bits 448+64 (v7, v9): the tiler context, 0 for none.
    pub tiler_context: u64,
    /// Byte 56 (v5): the tiler section.
    pub midgard_tiler: MidgardTiler,
}

impl Framebuffer {
    const FRAME_MODES: [Field; 3] = [Field::new(0, 3), Field::new(3, 3), Field::new(6, 3)];
    const SAMPLE_LOCATIONS: Field = Field::new(128, 64);
    const FRAME_SHADERS: Field = Field::new(192, 64);
    const WIDTH: Field = Field::new(256, 16);
    const HEIGHT: Field = Field::new(272, 16);
    const BOUND_MIN_X: Field = Field::new(288, 16);
    const BOUND_MIN_Y: Field = Field::new(304, 16);
    const BOUND_MAX_X: Field = Field::new(320, 16);
    const BOUND_MAX_Y: Field = Field::new(336, 16);
    const LOG2_SAMPLES: Field = Field::new(352, 3);
    const LOG2_TILE_PIXELS: Field = Field::new(361, 4);
    const RENDER_TARGETS: Field = Field::new(371, 4);
    const COLOR_ALLOCATION: Field = Field::new(376, 8);
    const S_CLEAR: Field = Field::new(384, 8);
    const S_WRITE: Field = Field::new(392, 1);
    const Z_INTERNAL: Field = Field::new(400, 2);
    const Z_WRITE: Field = Field::new(402, 1);
    const HAS_ZS_EXTENSION: Field = Field::new(405, 1);
    const CRC_READ: Field = Field::new(414, 1);
    const CRC_WRITE: Field = Field::new(415, 1);
    const Z_CLEAR: Field = Field::new(416, 32);
    const TILER_CONTEXT: Field = Field::new(448, 64);
    const MIDGARD_TILER_BYTE: usize = 56;

    /// Creates a single-sampled framebuffer of this size in pixels, all of it within bounds,
    /// without depth, stencil or tiler.
    pub fn new(width: u32, height: u32, render_targets: u8) -> Self {
        Self {
            frame_modes: [0; 3],
            sample_locations: 0,
            frame_shaders: 0,
            width,
            height,
            bound_min: (0, 0),
            bound_max: (
                width.saturating_sub(1) as u16,
                height.saturating_sub(1) as u16,
            ),
            log2_samples: 0,
            log2_tile_pixels: 8,
            render_targets,
            color_allocation_kib: 1,
            s_clear: 0,
            s_write: false,
            z_internal: 1,
            z_write: false,
            has_zs_extension: false,
            crc_read: false,
            crc_write: false,
            z_clear: 0.0,
            tiler_context: 0,
            midgard_tiler: MidgardTiler::DISABLED,
        }
    }

    /// Reads an FBD.
    pub fn decode(arch: Arch, buf: &[u8; FRAMEBUFFER_SIZE]) -> Self {
        let midgard = arch == Arch::V5;
        // These bits have a different meaning on v5.
        let later = |field: Field| if midgard { 0 } else { field.get(buf) };
        Self {
            frame_modes: Self::FRAME_MODES.map(|field| later(field) as u8),
            sample_locations: later(Self::SAMPLE_LOCATIONS),
            frame_shaders: later(Self::FRAME_SHADERS),
            width: Self::WIDTH.get(buf) as u32 + 1,
            height: Self::HEIGHT.get(buf) as u32 + 1,
            bound_min: (
                Self::BOUND_MIN_X.get(buf) as u16,
                Self::BOUND_MIN_Y.get(buf) as u16,
            ),
            bound_max: (
                Self::BOUND_MAX_X.get(buf) as u16,
                Self::BOUND_MAX_Y.get(buf) as u16,
            ),
            log2_samples: Self::LOG2_SAMPLES.get(buf) as u8,
            log2_tile_pixels: Self::LOG2_TILE_PIXELS.get(buf) as u8,
            render_targets: Self::RENDER_TARGETS.get(buf) as u8 + 1,
            color_allocation_kib: Self::COLOR_ALLOCATION.get(buf) as u8,
            s_clear: Self::S_CLEAR.get(buf) as u8,
            s_write: Self::S_WRITE.is_set(buf),
            z_internal: Self::Z_INTERNAL.get(buf) as u8,
            z_write: Self::Z_WRITE.is_set(buf),
            has_zs_extension: Self::HAS_ZS_EXTENSION.is_set(buf),
            crc_read: Self::CRC_READ.is_set(buf),
            crc_write: Self::CRC_WRITE.is_set(buf),
            z_clear: f32::from_bits(Self::Z_CLEAR.get(buf) as u32),
            tiler_context: later(Self::TILER_CONTEXT),
            midgard_tiler: if midgard {
                MidgardTiler::decode(buf, Self::MIDGARD_TILER_BYTE)
            } else {
                MidgardTiler::DISABLED
            },
        }
    }

    /// Returns the FBD's bytes.
    pub fn encode(&self, arch: Arch) -> [u8; FRAMEBUFFER_SIZE] {
        let mut buf = [0; FRAMEBUFFER_SIZE];
        if arch == Arch::V5 {
            self.midgard_tiler
                .encode_at(&mut buf, Self::MIDGARD_TILER_BYTE);
        } else {
            for (field, mode) in Self::FRAME_MODES.into_iter().zip(self.frame_modes) {
                field.set(&mut buf, mode.into());
            }
            Self::SAMPLE_LOCATIONS.set(&mut buf, self.sample_locations);
            Self::FRAME_SHADERS.set(&mut buf, self.frame_shaders);
            Self::TILER_CONTEXT.set(&mut buf, self.tiler_context);
        }
        Self::WIDTH.set(&mut buf, u64::from(self.width.saturating_sub(1)));
        Self::HEIGHT.set(&mut buf, u64::from(self.height.saturating_sub(1)));
        Self::BOUND_MIN_X.set(&mut buf, self.bound_min.0.into());
        Self::BOUND_MIN_Y.set(&mut buf, self.bound_min.1.into());
        Self::BOUND_MAX_X.set(&mut buf, self.bound_max.0.into());
        Self::BOUND_MAX_Y.set(&mut buf, self.bound_max.1.into());
        Self::LOG2_SAMPLES.set(&mut buf, self.log2_samples.into());
        Self::LOG2_TILE_PIXELS.set(&mut buf, self.log2_tile_pixels.into());
        Self::RENDER_TARGETS.set(&mut buf, u64::from(self.render_targets.saturating_sub(1)));
        Self::COLOR_ALLOCATION.set(&mut buf, self.color_allocation_kib.into());
        Self::S_CLEAR.set(&mut buf, self.s_clear.into());
        Self::S_WRITE.set(&mut buf, self.s_write.into());
        Self::Z_INTERNAL.set(&mut buf, self.z_internal.into());
        Self::Z_WRITE.set(&mut buf, self.z_write.into());
        Self::HAS_ZS_EXTENSION.set(&mut buf, self.has_zs_extension.into());
        Self::CRC_READ.set(&mut buf, self.crc_read.into());
        Self::CRC_WRITE.set(&mut buf, self.crc_write.into());
        Self::Z_CLEAR.set(&mut buf, self.z_clear.to_bits().into());
        buf
    }
}

/// An FBD with everything that follows it in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The FBD. Its counts are set by [`Frame::encode`].
    pub framebuffer: Framebuffer,
    /// The extension, if there is one.
    pub zs_extension: Option<ZsExtension>,
    /// The render targets, 1 to 8.
    pub render_targets: Vec<RenderTarget>,
}

impl Frame {
    /// Returns the bytes, to be placed at a multiple of 64. They have at least one render target: a
    /// frame without colour gets one that is not written, as with Mesa.
    pub fn encode(&self, arch: Arch) -> Vec<u8> {
        let mut framebuffer = self.framebuffer;
        framebuffer.render_targets = self.render_targets.len().max(1) as u8;
        framebuffer.has_zs_extension = self.zs_extension.is_some();
        let mut bytes = framebuffer.encode(arch).to_vec();
        if let Some(extension) = &self.zs_extension {
            bytes.extend_from_slice(&extension.encode(arch));
        }
        for target in &self.render_targets {
            bytes.extend_from_slice(&target.encode(arch));
        }
        if self.render_targets.is_empty() {
            bytes.extend_from_slice(&RenderTarget::UNUSED.encode(arch));
        }
        bytes
    }

    /// Returns the pointer for a FRAGMENT payload to this frame, if its bytes are at `va`.
    pub fn pointer(&self, va: u64) -> FramebufferPointer {
        FramebufferPointer {
            va,
            multi_target: true,
            has_zs_extension: self.zs_extension.is_some(),
            render_targets: self.render_targets.len().max(1) as u8,
        }
    }
}
