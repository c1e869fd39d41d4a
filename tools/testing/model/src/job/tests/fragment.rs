// SPDX-License-Identifier: GPL-2.0

//! Tests of fragment jobs, compared pixel by pixel with a reference implementation.

mod color;
mod depth;

use crate::desc::BlockFormat;
use crate::desc::ColorFormat;
use crate::desc::Fragment;
use crate::desc::Frame;
use crate::desc::Framebuffer;
use crate::desc::InternalFormat;
use crate::desc::Msaa;
use crate::desc::RenderTarget;
use crate::desc::SFormat;
use crate::desc::Surface;
use crate::desc::TileMap;
use crate::desc::ZsExtension;
use crate::desc::ZsFormat;

use super::*;

const JOB: u64 = 0x10_0000;
const FBD: u64 = 0x11_0000;
const MAP: u64 = 0x12_0000;
const IMAGE: u64 = 0x100_0000;
const IMAGE_SPACE: u64 = 0x100_0000;
const BACKGROUND: u8 = 0xee;

/// Each 4-bit number with its bits spread out to every other position.
const SPREAD: [u64; 16] = [0, 1, 4, 5, 16, 17, 20, 21, 64, 65, 68, 69, 80, 81, 84, 85];

/// Returns the address of a pixel.
fn address(block: BlockFormat, surface: &Surface, bpp: u64, x: u64, y: u64, sample: u64) -> u64 {
    let base = surface.base + sample * u64::from(surface.surface_stride);
    let stride = u64::from(surface.row_stride);
    let tile = base + y / 16 * stride + x / 16 * 256 * bpp;
    let (ix, iy) = ((x % 16) as usize, (y % 16) as usize);
    match block {
        BlockFormat::Linear => base + y * stride + x * bpp,
        BlockFormat::UInterleaved => tile + (SPREAD[ix] ^ (3 * SPREAD[iy])) * bpp,
        BlockFormat::TiledLinear => tile + (16 * (y % 16) + x % 16) * bpp,
        _ => unreachable!(),
    }
}

fn surface(base: u64, block: BlockFormat, bpp: u64, width: u64, height: u64) -> Surface {
    let tiles = width.div_ceil(16);
    // Some slack, so that the strides are not the minimum.
    let row_stride = match block {
        BlockFormat::Linear => tiles * 16 * bpp + 64,
        _ => tiles * 256 * bpp + 128,
    };
    let rows = match block {
        BlockFormat::Linear => height,
        _ => height.div_ceil(16),
    };
    Surface {
        base,
        row_stride: row_stride as u32,
        surface_stride: (rows * row_stride + 192) as u32,
    }
}

fn blocks(arch: Arch) -> &'static [BlockFormat] {
    match arch {
        Arch::V5 => &[
            BlockFormat::Linear,
            BlockFormat::UInterleaved,
            BlockFormat::TiledLinear,
        ],
        _ => &[BlockFormat::Linear, BlockFormat::UInterleaved],
    }
}

/// Creates memory with a chain of one FRAGMENT job.
fn scene(arch: Arch, frame: &Frame, change: impl FnOnce(&mut Fragment)) -> TestVm {
    let mut vm = TestVm::default();
    let fb = &frame.framebuffer;
    let mut job = Fragment::whole(fb.width, fb.height, frame.pointer(FBD));
    change(&mut job);
    vm.job(JOB, header(JobType::Fragment, 1, 0), &job.encode());
    vm.poke(FBD, &frame.encode(arch));
    vm
}

/// Fills `len` bytes from `va` with the background.
fn background(vm: &mut TestVm, va: u64, len: u64) {
    assert!(va >= IMAGE && va + len <= IMAGE + IMAGE_SPACE);
    vm.poke(va, &vec![BACKGROUND; len as usize]);
}

/// Runs the scene and compares all of memory with a copy in which `draw` did the work.
fn compare(vm: &TestVm, arch: Arch, what: &str, draw: impl FnOnce(&mut TestVm)) {
    let mut expected = vm.clone();
    draw(&mut expected);
    expected.poke(JOB, &1u32.to_le_bytes());
    let mut vm = vm.clone();
    let (end, _) = run(&mut vm, &TestEnv::new(arch), JOB);
    assert_eq!(end, Step::Done, "{arch:?} {what}");
    for (page, expected) in &expected.pages {
        let found = &vm.pages[page];
        if found == expected {
            continue;
        }
        if let Some(at) = (0..PAGE as usize).find(|&i| found[i] != expected[i]) {
            panic!(
                "{arch:?} {what}: {:#x} holds {:#x}, not {:#x}",
                page * PAGE + at as u64,
                found[at],
                expected[at]
            );
        }
    }
    assert_eq!(vm.pages.len(), expected.pages.len(), "{arch:?} {what}");
}

/// Runs the scene, which must fail and leave the image alone.
fn fails(mut vm: TestVm, arch: Arch, code: Exception, what: &str) {
    background(&mut vm, IMAGE, 0x1000);
    let (end, chain) = run(&mut vm, &TestEnv::new(arch), JOB);
    assert_eq!(end, Step::Failed(code), "{arch:?} {what}");
    assert_eq!(vm.status(JOB), code);
    assert_eq!(chain.stats().jobs_failed, 1);
    assert_eq!(vm.peek(IMAGE, 0x1000), [BACKGROUND; 0x1000]);
}

/// Creates a simple target of 4 bytes per pixel.
fn rgba8(block: BlockFormat, surface: Surface, clear: u32) -> RenderTarget {
    RenderTarget::cleared(
        InternalFormat::R8G8B8A8,
        ColorFormat::R8G8B8A8,
        block,
        surface,
        [clear; 4],
    )
}

#[test]
fn several_targets() {
    let (width, height) = (40, 20);
    for arch in ARCHES {
        let targets: Vec<_> = (0..8)
            .map(|i| {
                let block = blocks(arch)[i % blocks(arch).len()];
                let at = IMAGE + i as u64 * 0x4000;
                let surface = surface(at, block, 4, width, height);
                let mut target = rgba8(block, surface, 0x0101_0101 * (i as u32 + 1));
                target.write = i != 2;
                // A target that keeps its content, and whose formats are ignored.
                if i == 5 {
                    target.clean_pixel_write = false;
                    target.internal = InternalFormat::Other(63);
                }
                target
            })
            .collect();
        for count in [1, 3, 8] {
            let frame = Frame {
                framebuffer: Framebuffer::new(width as u32, height as u32, 0),
                zs_extension: None,
                render_targets: targets[..count].to_vec(),
            };
            let mut vm = scene(arch, &frame, |_| ());
            background(&mut vm, IMAGE, 0x2_0000);
            compare(&vm, arch, "targets", |vm| {
                for (i, target) in targets[..count].iter().enumerate() {
                    if i == 2 || i == 5 {
                        continue;
                    }
                    for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                        let at = address(target.block, &target.surface, 4, x, y, 0);
                        vm.poke(at, &[i as u8 + 1; 4]);
                    }
                }
            });
        }
    }
}

#[test]
fn nothing_to_write() {
    for arch in ARCHES {
        let mut frame = Frame {
            framebuffer: Framebuffer::new(64, 64, 0),
            zs_extension: Some(ZsExtension::EMPTY),
            render_targets: Vec::new(),
        };
        frame.framebuffer.z_write = true;
        compare(&scene(arch, &frame, |_| ()), arch, "nothing", |_| ());
        if arch != Arch::V5 {
            let target = rgba8(BlockFormat::None, Surface::default(), 0);
            frame.render_targets.push(target);
            compare(&scene(arch, &frame, |_| ()), arch, "no block", |_| ());
        }
    }
}

#[test]
fn bounds_and_tiles() {
    let (width, height) = (131u64, 77u64);
    let bounds = [
        ((0, 0), (130, 76)),
        ((16, 16), (31, 31)),
        ((5, 3), (5, 3)),
        ((17, 1), (127, 63)),
        ((0, 15), (130, 16)),
        ((33, 40), (100, 76)),
    ];
    let tiles = [(0, 0, 8, 4), (1, 1, 3, 2), (8, 4, 8, 4), (0, 2, 8, 2)];
    for arch in ARCHES {
        for &block in blocks(arch) {
            let surface = surface(IMAGE, block, 4, width, height);
            for (min, max) in bounds {
                for (tx0, ty0, tx1, ty1) in tiles {
                    // Two samples in two layers, then another target.
                    let mut target = rgba8(block, surface, 0x4433_2211);
                    target.msaa = Msaa::Layered;
                    let mut second = rgba8(block, surface, 0x4433_2211);
                    second.surface.base += 0x4_0000;
                    let mut frame = Frame {
                        framebuffer: Framebuffer::new(width as u32, height as u32, 2),
                        zs_extension: None,
                        render_targets: vec![target, second],
                    };
                    frame.framebuffer.log2_samples = 1;
                    frame.framebuffer.bound_min = min;
                    frame.framebuffer.bound_max = max;
                    let mut vm = scene(arch, &frame, |job| {
                        (job.min_x, job.min_y) = (tx0, ty0);
                        (job.max_x, job.max_y) = (tx1, ty1);
                    });
                    background(&mut vm, IMAGE, 0x6_0000);
                    let what = format!("{block:?} {min:?} {max:?} {tx0} {ty0} {tx1} {ty1}");
                    compare(&vm, arch, &what, |vm| {
                        for y in min.1..=max.1 {
                            for x in min.0..=max.0 {
                                let (tx, ty) = (x / 16, y / 16);
                                if tx < tx0 || tx > tx1 || ty < ty0 || ty > ty1 {
                                    continue;
                                }
                                let (x, y) = (x.into(), y.into());
                                let pixel = [0x11, 0x22, 0x33, 0x44];
                                for sample in 0..2 {
                                    let at = address(block, &surface, 4, x, y, sample);
                                    vm.poke(at, &pixel);
                                }
                                let at = address(block, &second.surface, 4, x, y, 0);
                                vm.poke(at, &pixel);
                            }
                        }
                    });
                }
            }
        }
    }
}

#[test]
fn tile_enable_map() {
    let (width, height) = (700u64, 100u64);
    // 22 bits per row of the map, with gaps, in rows of 64 bytes.
    let rows: [u32; 4] = [0b11_0011_1111_0000_1111_0001, 0, 0x3f_ffff, 0x20_0401];
    for arch in ARCHES {
        for &block in blocks(arch) {
            let surface = surface(IMAGE, block, 2, width, height);
            let mut target = rgba8(block, surface, 0);
            target.internal = InternalFormat::Raw16;
            target.format = ColorFormat::Raw16;
            target.clear = [0x1234_1234; 4];
            let frame = Frame {
                framebuffer: Framebuffer::new(width as u32, height as u32, 1),
                zs_extension: None,
                render_targets: vec![target],
            };
            let mut vm = scene(arch, &frame, |job| {
                job.min_x = 3;
                job.tile_map = Some(TileMap {
                    va: MAP,
                    row_stride: 64,
                });
            });
            background(&mut vm, IMAGE, 0x4_0000);
            for (i, row) in rows.into_iter().enumerate() {
                vm.poke(MAP + i as u64 * 64, &row.to_le_bytes());
            }
            compare(&vm, arch, &format!("map {block:?}"), |vm| {
                for (x, y) in (0..height).flat_map(|y| (48..width).map(move |x| (x, y))) {
                    if rows[(y / 32) as usize] >> (x / 32) & 1 != 0 {
                        let at = address(block, &surface, 2, x, y, 0);
                        vm.poke(at, &0x1234u16.to_le_bytes());
                    }
                }
            });
        }
    }
}

#[test]
fn samples() {
    let (width, height) = (33, 17);
    for arch in ARCHES {
        for &block in blocks(arch) {
            for (log2, msaa, layers) in [
                (0, Msaa::Single, 1),
                (2, Msaa::Single, 1),
                (2, Msaa::Average, 1),
                (0, Msaa::Layered, 1),
                (2, Msaa::Layered, 4),
                (4, Msaa::Layered, 16),
            ] {
                let surface = surface(IMAGE, block, 4, width, height);
                let mut target = rgba8(block, surface, 0x0807_0605);
                target.msaa = msaa;
                let mut frame = Frame {
                    framebuffer: Framebuffer::new(width as u32, height as u32, 1),
                    zs_extension: None,
                    render_targets: vec![target],
                };
                frame.framebuffer.log2_samples = log2;
                let mut vm = scene(arch, &frame, |_| ());
                background(&mut vm, IMAGE, 0x4_0000);
                compare(&vm, arch, &format!("{block:?} {log2} {msaa:?}"), |vm| {
                    for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                        for sample in 0..layers {
                            let at = address(block, &surface, 4, x, y, sample);
                            vm.poke(at, &[5, 6, 7, 8]);
                        }
                    }
                });
            }
        }
    }
}

#[test]
fn mistakes() {
    let surface = surface(IMAGE, BlockFormat::Linear, 4, 64, 64);
    let frame = || Frame {
        framebuffer: Framebuffer::new(64, 64, 1),
        zs_extension: Some(ZsExtension::EMPTY),
        render_targets: vec![rgba8(BlockFormat::Linear, surface, 0)],
    };
    let invalid = Exception::DATA_INVALID_FAULT;
    for arch in ARCHES {
        // Tiles.
        type Change = fn(&mut Fragment);
        let tiles: [Change; 4] = [
            |job| job.max_x = 4,
            |job| job.max_y = 4,
            |job| (job.min_x, job.max_x) = (2, 1),
            |job| (job.min_y, job.max_y) = (3, 0),
        ];
        for change in tiles {
            fails(
                scene(arch, &frame(), change),
                arch,
                Exception::TILE_RANGE_FAULT,
                "tiles",
            );
        }
        // The pointer and its tag.
        let pointers: [Change; 5] = [
            |job| job.framebuffer.multi_target = false,
            |job| job.framebuffer.va = 0,
            |job| job.framebuffer.has_zs_extension = false,
            |job| job.framebuffer.render_targets = 2,
            |job| job.framebuffer.render_targets = 16,
        ];
        for change in pointers {
            fails(scene(arch, &frame(), change), arch, invalid, "pointer");
        }
        // The framebuffer.
        let framebuffers: [fn(&mut Framebuffer); 4] = [
            |fb| fb.log2_samples = 5,
            |fb| (fb.bound_min.0, fb.bound_max.0) = (6, 5),
            |fb| fb.bound_max.0 = 64,
            |fb| fb.bound_max.1 = 64,
        ];
        for change in framebuffers {
            let mut frame = frame();
            change(&mut frame.framebuffer);
            fails(scene(arch, &frame, |_| ()), arch, invalid, "framebuffer");
        }
        // The targets.
        let targets: [fn(&mut RenderTarget); 7] = [
            |target| target.block = BlockFormat::Afbc,
            |target| target.msaa = Msaa::Multiple,
            |target| target.yuv = true,
            |target| target.internal = InternalFormat::Other(0),
            |target| target.internal = InternalFormat::Raw32,
            |target| target.format = ColorFormat::Other(31),
            |target| target.swizzle = 6,
        ];
        for change in targets {
            let mut frame = frame();
            change(&mut frame.render_targets[0]);
            fails(scene(arch, &frame, |_| ()), arch, invalid, "target");
        }
        let depths: [fn(&mut ZsExtension); 3] = [
            |ext| ext.z_format = ZsFormat::Other(9),
            |ext| ext.s_format = SFormat::Other(9),
            |ext| (ext.z_format, ext.z_msaa) = (ZsFormat::D16, Msaa::Multiple),
        ];
        for change in depths {
            let mut frame = frame();
            frame.framebuffer.z_write = true;
            frame.framebuffer.s_write = true;
            let mut ext = ZsExtension {
                clean_pixel_write: true,
                ..ZsExtension::EMPTY
            };
            change(&mut ext);
            frame.zs_extension = Some(ext);
            fails(scene(arch, &frame, |_| ()), arch, invalid, "depth");
        }
    }
    let mut big_endian = frame();
    big_endian.render_targets[0].endianness = 1;
    fails(
        scene(Arch::V5, &big_endian, |_| ()),
        Arch::V5,
        invalid,
        "endianness",
    );
}

#[test]
fn resume() {
    for arch in ARCHES {
        for &block in blocks(arch) {
            let mut framebuffer = Framebuffer::new(75, 35, 0);
            framebuffer.z_write = true;
            framebuffer.s_write = true;
            framebuffer.z_clear = 1.0;
            framebuffer.s_clear = 0x5a;
            framebuffer.log2_samples = 1;
            let mut target = rgba8(block, surface(IMAGE, block, 4, 75, 35), 0x1234_5678);
            target.msaa = Msaa::Layered;
            let frame = Frame {
                framebuffer,
                // Stencil without the depth next to it: memory is read and written.
                zs_extension: Some(ZsExtension {
                    z_format: ZsFormat::D24X8,
                    z_block: block,
                    clean_pixel_write: true,
                    s_format: SFormat::X24S8,
                    s_block: block,
                    z_surface: surface(IMAGE + 0x2_0000, block, 4, 75, 35),
                    s_surface: surface(IMAGE + 0x2_0000, block, 4, 75, 35),
                    ..ZsExtension::EMPTY
                }),
                render_targets: vec![target],
            };
            let mut vm = scene(arch, &frame, |job| {
                job.tile_map = Some(TileMap {
                    va: MAP,
                    row_stride: 64,
                });
            });
            background(&mut vm, IMAGE, 0x4_0000);
            vm.poke(MAP, &[0b101]);
            vm.poke(MAP + 64, &[0b110]);
            check_resume(&vm, arch, JOB, Step::Done);
        }
    }
}

#[test]
fn a_step_is_one_row_of_tiles() {
    for (block, per_step) in [(BlockFormat::Linear, 16), (BlockFormat::UInterleaved, 1)] {
        let surface = Surface {
            base: IMAGE,
            row_stride: match block {
                BlockFormat::Linear => 4096,
                _ => 65536,
            },
            surface_stride: 0,
        };
        let frame = Frame {
            framebuffer: Framebuffer::new(1024, 1024, 1),
            zs_extension: None,
            render_targets: vec![rgba8(block, surface, 0x4433_2211)],
        };
        let mut vm = scene(Arch::V7, &frame, |_| ());
        let env = TestEnv::new(Arch::V7);
        let mut chain = Chain::new(JOB);
        for _ in 0..63 {
            let before = vm.writes;
            assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
            assert_eq!(vm.writes - before, per_step);
            assert_eq!(vm.status(JOB), Exception::NOT_STARTED);
        }
        assert_eq!(chain.step(&mut vm, &env), Ok(Step::Done));
        let image = vm.peek(IMAGE, 4 << 20);
        assert!(image
            .chunks_exact(4)
            .all(|pixel| pixel == [0x11, 0x22, 0x33, 0x44]));
    }
}
