// SPDX-License-Identifier: GPL-2.0

//! Fills of parts of a surface with one pixel value.

use crate::desc::BlockFormat;
use crate::desc::Surface;

use super::color::Pixel;
use super::Fault;
use super::Vm;

/// The width and height of a tile in pixels.
pub(super) const TILE: u32 = 16;
const TILE_PIXELS: u64 = 256;

/// The arrangement of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Row after row.
    Linear,
    /// Tile after tile, the pixel index within a tile interleaving the bits of y and of x xor y.
    UInterleaved,
    /// Tile after tile, row after row within. There is no public description of the v5 format with
    /// this name; this is the obvious interpretation.
    TiledLinear,
}

impl Layout {
    /// Returns the arrangement, or `None` if the model cannot write it.
    pub(super) fn new(block: BlockFormat) -> Option<Self> {
        match block {
            BlockFormat::Linear => Some(Self::Linear),
            BlockFormat::UInterleaved => Some(Self::UInterleaved),
            BlockFormat::TiledLinear => Some(Self::TiledLinear),
            BlockFormat::None
            | BlockFormat::Afbc
            | BlockFormat::AfbcTiled
            | BlockFormat::Other(_) => None,
        }
    }

    /// Returns the pixel's index within its tile.
    fn index(self, x: u32, y: u32) -> usize {
        let (x, y) = (x % TILE, y % TILE);
        match self {
            Self::Linear | Self::TiledLinear => (y * TILE + x) as usize,
            Self::UInterleaved => (0..4)
                .map(|k| {
                    let (x, y) = (x >> k & 1, y >> k & 1);
                    (((x ^ y) | y << 1) << (2 * k)) as usize
                })
                .sum(),
        }
    }
}

/// A rectangle in pixels, ends exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) x0: u32,
    pub(super) y0: u32,
    pub(super) x1: u32,
    pub(super) y1: u32,
}

/// A surface, and the pixel to fill it with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) surface: Surface,
    pub(super) layout: Layout,
    /// The number of surfaces to fill: one for each stored sample.
    pub(super) layers: u32,
    pub(super) pixel: Pixel,
}

impl Target {
    /// Fills `rect`, which lies within one row of tiles, on one layer. `scratch` is memory to
    /// reuse.
    pub(super) fn fill(
        &self,
        vm: &mut dyn Vm,
        layer: u32,
        rect: Rect,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let base = self
            .surface
            .base
            .wrapping_add(u64::from(layer).wrapping_mul(self.surface.surface_stride.into()));
        match self.layout {
            Layout::Linear => self.fill_linear(vm, base, rect, scratch),
            _ => self.fill_tiles(vm, base, rect, scratch),
        }
    }

    fn fill_linear(
        &self,
        vm: &mut dyn Vm,
        base: u64,
        rect: Rect,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let left = base.wrapping_add(u64::from(rect.x0) * self.pixel.size as u64);
        for y in rect.y0..rect.y1 {
            let at = left.wrapping_add(u64::from(y) * u64::from(self.surface.row_stride));
            self.put(vm, at, rect.x1.saturating_sub(rect.x0) as usize, scratch)?;
        }
        Ok(())
    }

    fn fill_tiles(
        &self,
        vm: &mut dyn Vm,
        base: u64,
        rect: Rect,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let tile_bytes = TILE_PIXELS * self.pixel.size as u64;
        let row = base
            .wrapping_add(u64::from(rect.y0 / TILE).wrapping_mul(self.surface.row_stride.into()));
        let whole_rows = rect.y1.saturating_sub(rect.y0) == TILE;
        let mut x = rect.x0;
        while x < rect.x1 {
            let tile = x / TILE;
            let at = row.wrapping_add(u64::from(tile) * tile_bytes);
            let whole = rect.x1 / TILE - tile.min(rect.x1 / TILE);
            if whole_rows && x % TILE == 0 && whole > 0 {
                self.put(vm, at, whole as usize * TILE_PIXELS as usize, scratch)?;
                x += whole * TILE;
                continue;
            }
            let end = rect.x1.min((tile + 1) * TILE);
            let part = Rect {
                x0: x,
                x1: end,
                ..rect
            };
            self.fill_part(vm, at, part, scratch)?;
            x = end;
        }
        Ok(())
    }

    /// Fills a part of the tile at `at`, by runs of pixels that are adjacent in memory.
    fn fill_part(
        &self,
        vm: &mut dyn Vm,
        at: u64,
        rect: Rect,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let mut covered = [false; TILE_PIXELS as usize];
        for y in rect.y0..rect.y1 {
            for x in rect.x0..rect.x1 {
                if let Some(to) = covered.get_mut(self.layout.index(x, y)) {
                    *to = true;
                }
            }
        }
        let mut first = 0;
        for run in covered.chunk_by(|a, b| a == b) {
            if run.first() == Some(&true) {
                let at = at.wrapping_add((first * self.pixel.size) as u64);
                self.put(vm, at, run.len(), scratch)?;
            }
            first += run.len();
        }
        Ok(())
    }

    /// Writes `count` pixels that are adjacent in memory.
    fn put(
        &self,
        vm: &mut dyn Vm,
        at: u64,
        count: usize,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Pixel { bytes, size, mask } = self.pixel;
        let pixel = bytes.get(..size).unwrap_or(&bytes);
        let len = count * size;
        if self.pixel.is_whole() {
            // The scratch buffer holds repetitions of this pixel; a longer run extends it.
            if scratch.len() < len {
                scratch.reserve(len - scratch.len());
                while scratch.len() < len {
                    scratch.extend_from_slice(pixel);
                }
            }
            return vm.write(at, scratch.get(..len).unwrap_or(scratch));
        }
        scratch.resize(len, 0);
        vm.read(at, scratch)?;
        for to in scratch.chunks_exact_mut(size) {
            for (i, (to, from)) in to.iter_mut().zip(pixel).enumerate() {
                if mask >> i & 1 != 0 {
                    *to = *from;
                }
            }
        }
        vm.write(at, scratch)
    }
}
