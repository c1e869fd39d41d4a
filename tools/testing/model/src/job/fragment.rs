// SPDX-License-Identifier: GPL-2.0

//! FRAGMENT jobs: clears.
//!
//! A tile is written to a render target if the target's write enable and its "clean pixel write"
//! bits are set. The clear value is written, because nothing is ever drawn. The same holds for
//! depth and stencil. A target without "clean pixel write" keeps its content, which is the result
//! of drawing nothing over preloaded content, so that pre-frame shaders need not run. (One case is
//! wrong: if one of depth and stencil is cleared while the other is preloaded into the same tiles,
//! both get their clear values.) Depth and stencil are enabled by target: a depth target whose
//! format includes stencil is written as a whole, regardless of the enable of the stencil target.
//! Mesa relies on that for D24S8. Pixels outside the framebuffer's bounds or the job's tiles, and
//! those of tiles that the tile-enable map excludes, are not touched. All samples of a pixel have
//! the same value, so a stored mean is that value. Checksums (CRC) are neither read nor written.
//!
//! If the framebuffer has a tiler context (v5: an enabled tiler section), the data that tiler-type
//! jobs left in the heap is read back and compared first ([`super::heap`]).
//!
//! A step handles one row of tiles of one target, or one chunk of the heap.

use crate::desc::BlockFormat;
use crate::desc::Fragment;
use crate::desc::Framebuffer;
use crate::desc::Msaa;
use crate::desc::RenderTarget;
use crate::desc::SFormat;
use crate::desc::TileMap;
use crate::desc::ZsExtension;
use crate::desc::ZsFormat;
use crate::desc::FRAGMENT_SIZE;
use crate::desc::FRAMEBUFFER_SIZE;
use crate::desc::RENDER_TARGET_SIZE;
use crate::desc::ZS_EXTENSION_SIZE;

use super::color;
use super::heap::HeapCheck;
use super::surface::Layout;
use super::surface::Rect;
use super::surface::Target;
use super::surface::TILE;
use super::Arch;
use super::Exception;
use super::Failure;
use super::Fault;
use super::Piece;
use super::Stats;
use super::Vm;

/// The maximum number of render targets of any GPU.
const MAX_RENDER_TARGETS: u8 = 8;
/// log2 of the maximum number of samples per pixel, 16.
const MAX_LOG2_SAMPLES: u8 = 4;
/// The width and height in pixels of the area that a bit of the tile-enable map covers.
const MAP_UNIT: u32 = 32;

/// A running FRAGMENT job.
#[derive(Debug)]
pub(super) struct FragmentRun {
    check: Option<HeapCheck>,
    targets: Vec<Target>,
    /// The pixels to write.
    area: Rect,
    tile_map: Option<TileMap>,
    /// The next piece: target, layer, first pixel row.
    target: usize,
    layer: u32,
    y: u32,
    scratch: Vec<u8>,
}

impl FragmentRun {
    /// Reads the payload, the framebuffer and its targets.
    pub(super) fn new(
        arch: Arch,
        payload: u64,
        vm: &mut dyn Vm,
    ) -> Result<Result<Self, Failure>, Fault> {
        let invalid = |at| Ok(Err(Failure::new(Exception::DATA_INVALID_FAULT, at)));

        let mut buf = [0; FRAGMENT_SIZE];
        vm.read(payload, &mut buf)?;
        let job = Fragment::decode(&buf);
        let pointer = job.framebuffer;
        if !pointer.multi_target || pointer.va == 0 || pointer.render_targets > MAX_RENDER_TARGETS {
            return invalid(payload);
        }

        let mut buf = [0; FRAMEBUFFER_SIZE];
        vm.read(pointer.va, &mut buf)?;
        let fb = Framebuffer::decode(arch, &buf);
        if fb.render_targets != pointer.render_targets
            || fb.has_zs_extension != pointer.has_zs_extension
            || fb.log2_samples > MAX_LOG2_SAMPLES
            || fb.bound_min.0 > fb.bound_max.0
            || fb.bound_min.1 > fb.bound_max.1
            || u32::from(fb.bound_max.0) >= fb.width
            || u32::from(fb.bound_max.1) >= fb.height
        {
            return invalid(pointer.va);
        }
        if job.min_x > job.max_x
            || job.min_y > job.max_y
            || u32::from(job.max_x) * TILE >= fb.width
            || u32::from(job.max_y) * TILE >= fb.height
        {
            return Ok(Err(Failure::new(Exception::TILE_RANGE_FAULT, payload)));
        }

        let mut targets = Vec::new();
        let mut at = pointer.va.wrapping_add(FRAMEBUFFER_SIZE as u64);
        if pointer.has_zs_extension {
            let mut buf = [0; ZS_EXTENSION_SIZE];
            vm.read(at, &mut buf)?;
            let Some(found) = depth_targets(&fb, &ZsExtension::decode(arch, &buf)) else {
                return invalid(at);
            };
            targets.extend(found.into_iter().flatten());
            at = at.wrapping_add(ZS_EXTENSION_SIZE as u64);
        }
        for _ in 0..pointer.render_targets {
            let mut buf = [0; RENDER_TARGET_SIZE];
            vm.read(at, &mut buf)?;
            let Some(found) = color_target(&fb, &RenderTarget::decode(arch, &buf)) else {
                return invalid(at);
            };
            targets.extend(found);
            at = at.wrapping_add(RENDER_TARGET_SIZE as u64);
        }

        let area = Rect {
            x0: (u32::from(job.min_x) * TILE).max(fb.bound_min.0.into()),
            y0: (u32::from(job.min_y) * TILE).max(fb.bound_min.1.into()),
            x1: ((u32::from(job.max_x) + 1) * TILE).min(u32::from(fb.bound_max.0) + 1),
            y1: ((u32::from(job.max_y) + 1) * TILE).min(u32::from(fb.bound_max.1) + 1),
        };
        Ok(Ok(Self {
            check: HeapCheck::new(arch, &fb, vm)?,
            targets,
            area,
            tile_map: job.tile_map,
            target: 0,
            layer: 0,
            y: area.y0,
            scratch: Vec::new(),
        }))
    }

    /// Does the next piece.
    pub(super) fn step(&mut self, vm: &mut dyn Vm, stats: &mut Stats) -> Result<Piece, Fault> {
        if let Some(check) = &mut self.check {
            match check.step(vm, stats)? {
                Piece::More => return Ok(Piece::More),
                Piece::Finished => self.check = None,
                failed => return Ok(failed),
            }
            if !self.targets.is_empty() {
                return Ok(Piece::More);
            }
        }
        let Some(&target) = self.targets.get(self.target) else {
            return Ok(Piece::Finished);
        };
        if self.area.x0 >= self.area.x1 || self.area.y0 >= self.area.y1 {
            return Ok(Piece::Finished);
        }

        let end = ((self.y / TILE + 1) * TILE).min(self.area.y1);
        let row = Rect {
            y0: self.y,
            y1: end,
            ..self.area
        };
        match self.tile_map {
            None => target.fill(vm, self.layer, row, &mut self.scratch)?,
            Some(map) => {
                for run in enabled_runs(map, row, vm)? {
                    target.fill(vm, self.layer, run, &mut self.scratch)?;
                }
            }
        }

        self.y = end;
        if self.y >= self.area.y1 {
            self.y = self.area.y0;
            self.layer += 1;
            if self.layer >= target.layers {
                self.layer = 0;
                self.target += 1;
                // Drop the last target's pixels.
                self.scratch.clear();
            }
        }
        Ok(if self.target < self.targets.len() {
            Piece::More
        } else {
            Piece::Finished
        })
    }
}

/// Returns the parts of a row of tiles that the tile-enable map enables.
fn enabled_runs(map: TileMap, row: Rect, vm: &mut dyn Vm) -> Result<Vec<Rect>, Fault> {
    let first = row.x0 / MAP_UNIT;
    let last = row.x1.saturating_sub(1) / MAP_UNIT;
    let mut bits = vec![0; (last / 8 - first / 8 + 1) as usize];
    let line = u64::from(row.y0 / MAP_UNIT) * u64::from(map.row_stride);
    let at = map.va.wrapping_add(line + u64::from(first / 8));
    vm.read(at, &mut bits)?;
    let enabled = |unit: u32| {
        let byte = bits.get((unit / 8 - first / 8) as usize);
        byte.is_some_and(|byte| byte >> (unit % 8) & 1 != 0)
    };

    let mut runs: Vec<Rect> = Vec::new();
    for unit in (first..=last).filter(|&unit| enabled(unit)) {
        let x0 = row.x0.max(unit * MAP_UNIT);
        let x1 = row.x1.min((unit + 1) * MAP_UNIT);
        match runs.last_mut() {
            Some(run) if run.x1 == x0 => run.x1 = x1,
            _ => runs.push(Rect { x0, x1, ..row }),
        }
    }
    Ok(runs)
}

/// Returns the number of surfaces that hold the samples, or `None` for an undocumented arrangement.
fn layers(fb: &Framebuffer, msaa: Msaa) -> Option<u32> {
    match msaa {
        Msaa::Single | Msaa::Average => Some(1),
        Msaa::Layered => Some(1 << fb.log2_samples),
        Msaa::Multiple | Msaa::Other(_) => None,
    }
}

/// Returns the target to clear: `Some(None)` if it is not written, `None` if it cannot be.
fn color_target(fb: &Framebuffer, target: &RenderTarget) -> Option<Option<Target>> {
    if !target.write || !target.clean_pixel_write || target.block == BlockFormat::None {
        return Some(None);
    }
    if target.yuv || target.endianness != 0 {
        return None;
    }
    Some(Some(Target {
        surface: target.surface,
        layout: Layout::new(target.block)?,
        layers: layers(fb, target.msaa)?,
        pixel: color::clear_color(target)?,
    }))
}

/// Returns the depth and stencil targets to clear, or `None` if one of them cannot be.
fn depth_targets(fb: &Framebuffer, ext: &ZsExtension) -> Option<[Option<Target>; 2]> {
    let mut targets = [None; 2];
    if !ext.clean_pixel_write {
        return Some(targets);
    }
    let [depth, stencil] = &mut targets;

    // The enables are those of the two targets, not of the two values.
    if ext.z_format != ZsFormat::None && ext.z_block != BlockFormat::None && fb.z_write {
        *depth = Some(Target {
            surface: ext.z_surface,
            layout: Layout::new(ext.z_block)?,
            layers: layers(fb, ext.z_msaa)?,
            pixel: color::clear_depth(ext.z_format, fb.z_clear, fb.s_clear)?,
        });
    }
    if ext.s_format != SFormat::None && ext.s_block != BlockFormat::None && fb.s_write {
        *stencil = Some(Target {
            surface: ext.s_surface,
            layout: Layout::new(ext.s_block)?,
            layers: layers(fb, ext.s_msaa)?,
            pixel: color::clear_stencil(ext.s_format, fb.s_clear)?,
        });
    }
    Some(targets)
}
