// SPDX-License-Identifier: GPL-2.0

//! Fragment jobs that clear: every format, arrangement and pixel.

use model::desc::BlockFormat;
use model::desc::Frame;
use model::desc::Framebuffer;
use model::desc::RenderTarget;
use model::desc::SFormat;
use model::desc::Surface;
use model::desc::ZsExtension;
use model::desc::ZsFormat;
use model::job::Arch;

use crate::chain::Chain;
use crate::chain::DONE;
use crate::check;
use crate::check_eq;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Test;
use crate::pixels::Format;
use crate::pixels::Layout;
use crate::pixels::FORMATS;

use super::target;
use super::Random;
use super::PATTERN;

pub(super) const TESTS: &[Test] = &[
    Test::new("render-clear-formats", &["I2"], formats),
    Test::new("render-clear-targets", &["I2"], targets),
    Test::new("render-clear-bounds", &["I2"], bounds),
    Test::new("render-clear-large", &["F5", "I2"], large),
    Test::new("render-clear-depth-stencil", &["I2"], depth_stencil),
    Test::new("render-not-written", &["I2"], not_written),
];

/// The bytes between surfaces, which must stay as they are.
const GUARD: usize = 4096;

/// The arrangements in memory that a GPU has.
pub(super) fn blocks(arch: Arch) -> &'static [BlockFormat] {
    match arch {
        Arch::V5 => &[
            BlockFormat::Linear,
            BlockFormat::UInterleaved,
            BlockFormat::TiledLinear,
        ],
        Arch::V7 | Arch::V9 => &[BlockFormat::Linear, BlockFormat::UInterleaved],
    }
}

fn surface(base: u64, layout: &Layout) -> Surface {
    Surface {
        base,
        row_stride: layout.row_stride() as u32,
        surface_stride: layout.size() as u32,
    }
}

/// A frame with one target that is cleared.
pub(super) fn clear_frame(format: &Format, layout: &Layout, base: u64, clear: [u32; 4]) -> Frame {
    let target = RenderTarget::cleared(
        format.internal,
        format.memory,
        layout.block,
        surface(base, layout),
        clear,
    );
    Frame {
        framebuffer: Framebuffer::new(layout.width as u32, layout.height as u32, 1),
        zs_extension: None,
        render_targets: vec![target],
    }
}

fn formats(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let arch = device.arch()?;
    let mut random = Random(1);
    for format in FORMATS {
        let mut cases = Vec::new();
        let mut end = GUARD;
        for &block in blocks(arch) {
            for (width, height) in [(1, 1), (16, 16), (33, 17), (100, 70), (16, 333)] {
                let layout = Layout {
                    width,
                    height,
                    bytes: format.bytes,
                    block,
                };
                cases.push((layout, end, format.clear(random.wide())));
                end = (end + layout.size()).next_multiple_of(64) + GUARD;
            }
        }
        let (bo, map) = target(&device, end)?;
        let mut chain = Chain::new(&device, 64 * 1024)?;
        for (layout, at, (words, _)) in &cases {
            chain.fragment(&clear_frame(format, layout, bo.va() + *at as u64, *words));
        }
        chain.run(&[&bo])?;
        let name = format.name;
        check_eq!(chain.statuses(), vec![DONE; cases.len()], "{name}");
        for (layout, at, (_, pixel)) in &cases {
            let memory = map.bytes(*at, layout.size() + GUARD);
            if let Err(message) = layout.check(&memory, pixel) {
                check!(false, "{name} {layout:?}: {message}");
            }
            let after = &memory[layout.size()..];
            check!(
                after.iter().all(|&byte| byte == PATTERN),
                "{name} {layout:?}: written beyond its end"
            );
        }
    }
    Ok(())
}

/// Several targets in one frame.
fn targets(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let mut random = Random(2);
    let (bo, map) = target(&device, 1 << 20)?;
    let mut chain = Chain::new(&device, 64 * 1024)?;
    let mut frame = Frame {
        framebuffer: Framebuffer::new(70, 45, 4),
        zs_extension: None,
        render_targets: Vec::new(),
    };
    let mut cases = Vec::new();
    for (n, name) in ["RGBA8", "RGB565", "RGB10A2", "R8"].into_iter().enumerate() {
        let Some(format) = FORMATS.iter().find(|format| format.name == name) else {
            continue;
        };
        let layout = Layout {
            width: 70,
            height: 45,
            bytes: format.bytes,
            block: BlockFormat::UInterleaved,
        };
        let (words, pixel) = format.clear(random.wide());
        let at = n * 64 * 1024;
        let one = clear_frame(format, &layout, bo.va() + at as u64, words);
        frame.render_targets.extend(one.render_targets);
        cases.push((name, layout, at, pixel));
    }
    let job = chain.fragment(&frame);
    chain.run(&[&bo])?;
    check_eq!(chain.status(job), DONE);
    for (name, layout, at, pixel) in cases {
        if let Err(message) = layout.check(&map.bytes(at, layout.size()), &pixel) {
            check!(false, "{name}: {message}");
        }
    }
    Ok(())
}

/// Only what is within the frame's bounds is written.
fn bounds(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let format = &FORMATS[0];
    let layout = Layout {
        width: 80,
        height: 64,
        bytes: 4,
        block: BlockFormat::Linear,
    };
    let (bo, map) = target(&device, layout.size())?;
    let mut chain = Chain::new(&device, 4096)?;
    let mut frame = clear_frame(format, &layout, bo.va(), [0x1122_3344; 4]);
    frame.framebuffer.bound_min = (16, 32);
    frame.framebuffer.bound_max = (47, 47);
    let job = chain.fragment(&frame);
    chain.run(&[&bo])?;
    check_eq!(chain.status(job), DONE);
    for y in 0..layout.height {
        for x in 0..layout.width {
            let inside = (16..48).contains(&x) && (32..48).contains(&y);
            let wanted = if inside { 0x1122_3344 } else { 0xa5a5_a5a5 };
            check_eq!(map.get32(layout.offset(x, y)), wanted, "({x}, {y})");
        }
    }
    Ok(())
}

/// Several blocks of 2 MiB.
fn large(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let format = &FORMATS[0];
    let layout = Layout {
        width: 1024,
        height: 1024,
        bytes: 4,
        block: BlockFormat::UInterleaved,
    };
    let (bo, map) = target(&device, layout.size())?;
    let mut chain = Chain::new(&device, 4096)?;
    let job = chain.fragment(&clear_frame(format, &layout, bo.va(), [0x80ff_40c0; 4]));
    chain.run(&[&bo])?;
    check_eq!(chain.status(job), DONE);
    let memory = map.bytes(0, layout.size());
    let wrong = memory
        .chunks_exact(4)
        .position(|pixel| pixel != 0x80ff_40c0u32.to_le_bytes());
    check_eq!(wrong, None);
    Ok(())
}

/// A pixel whose depth has `bytes` bytes and was cleared to `depth`: what may be there. Hardware
/// need not round as we do, so the neighbours of an inexact value are right as well.
fn depth_values(z: ZsFormat, depth: f32) -> Vec<u32> {
    let scaled = |max: f64| {
        let exact = f64::from(depth) * max;
        vec![exact.floor() as u32, exact.ceil() as u32]
    };
    match z {
        ZsFormat::D16 => scaled(65535.0),
        ZsFormat::D24S8 | ZsFormat::D24X8 => scaled(16_777_215.0),
        _ => vec![depth.to_bits()],
    }
}

fn depth_stencil(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let arch = device.arch()?;
    // Depth format, bytes, bits of depth in the pixel, format in the tile buffer.
    for (z, bytes, bits, internal) in [
        (ZsFormat::D16, 2, 16, 0),
        (ZsFormat::D24S8, 4, 24, 1),
        (ZsFormat::D32, 4, 32, 2),
    ] {
        for (depth, stencil, block) in [
            (0.0, 0x00, BlockFormat::UInterleaved),
            (1.0, 0xff, BlockFormat::UInterleaved),
            (0.5, 0x5a, BlockFormat::Linear),
            (0.25, 0x01, BlockFormat::UInterleaved),
        ] {
            let layout = Layout {
                width: 50,
                height: 35,
                bytes,
                block,
            };
            let s_layout = Layout { bytes: 1, ..layout };
            let (bo, map) = target(&device, 64 * 1024)?;
            let s_at = 32 * 1024;
            let packed = z == ZsFormat::D24S8;
            let mut framebuffer = Framebuffer::new(50, 35, 1);
            framebuffer.z_write = true;
            framebuffer.z_internal = internal;
            framebuffer.z_clear = depth;
            framebuffer.s_write = true;
            framebuffer.s_clear = stencil;
            let mut extension = ZsExtension {
                z_format: z,
                z_block: block,
                z_surface: surface(bo.va(), &layout),
                clean_pixel_write: true,
                ..ZsExtension::EMPTY
            };
            if packed && arch == Arch::V9 {
                // Depth and stencil of one surface are two targets there.
                extension.s_format = SFormat::X24S8;
                extension.s_block = block;
                extension.s_surface = extension.z_surface;
            } else if !packed {
                extension.s_format = SFormat::S8;
                extension.s_block = block;
                extension.s_surface = surface(bo.va() + s_at as u64, &s_layout);
            }
            let frame = Frame {
                framebuffer,
                zs_extension: Some(extension),
                render_targets: Vec::new(),
            };
            let mut chain = Chain::new(&device, 4096)?;
            let job = chain.fragment(&frame);
            chain.run(&[&bo])?;
            check_eq!(chain.status(job), DONE, "{z:?} {block:?}");

            let wanted = depth_values(z, depth);
            let mask = u32::MAX >> (32 - bits);
            for y in 0..layout.height {
                for x in 0..layout.width {
                    let mut word = [0; 4];
                    map.read(layout.offset(x, y), &mut word[..bytes]);
                    let word = u32::from_le_bytes(word);
                    check!(
                        wanted.contains(&(word & mask)),
                        "{z:?} {block:?} ({x}, {y}): {word:#x}, depth one of {wanted:x?}"
                    );
                    let s = if packed {
                        (word >> 24) as u8
                    } else {
                        map.bytes(s_at + s_layout.offset(x, y), 1)[0]
                    };
                    check_eq!(s, stencil, "{z:?} {block:?} ({x}, {y})");
                }
            }
        }
    }
    Ok(())
}

/// Without clean-pixel writes nothing is written where nothing was drawn, nor to targets that are
/// off.
fn not_written(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let layout = Layout {
        width: 32,
        height: 32,
        bytes: 4,
        block: BlockFormat::Linear,
    };
    for (clean, write) in [(false, true), (true, false)] {
        let (bo, map) = target(&device, layout.size())?;
        let mut frame = clear_frame(&FORMATS[0], &layout, bo.va(), [0; 4]);
        for target in &mut frame.render_targets {
            target.clean_pixel_write = clean;
            target.write = write;
        }
        let mut chain = Chain::new(&device, 4096)?;
        let job = chain.fragment(&frame);
        chain.run(&[&bo])?;
        check_eq!(chain.status(job), DONE);
        let memory = map.bytes(0, layout.size());
        check!(memory.iter().all(|&byte| byte == PATTERN));
    }
    Ok(())
}
