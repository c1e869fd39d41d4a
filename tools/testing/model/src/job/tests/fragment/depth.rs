// SPDX-License-Identifier: GPL-2.0

//! Tests of depth and stencil: the pixels that a clear leaves in memory.

use crate::desc::BlockFormat;
use crate::desc::Frame;
use crate::desc::Framebuffer;
use crate::desc::SFormat;
use crate::desc::ZsExtension;
use crate::desc::ZsFormat;

use super::*;

#[test]
fn depth_and_stencil() {
    let depth = 0.3f32;
    let d16 = (f64::from(depth) * 65535.0).round() as u16;
    let d24 = (f64::from(depth) * 16_777_215.0).round() as u32;
    let [d0, d1, d2, _] = d24.to_le_bytes();
    let float = depth.to_bits().to_le_bytes();
    let [h0, h1] = d16.to_le_bytes();
    let [f0, f1, f2, f3] = float;
    // Bytes of a pixel: a value of depth, one of stencil, or one that stays.
    #[derive(Clone, Copy)]
    enum B {
        D(u8),
        S,
        X,
    }
    use B::*;
    let depth_formats: &[(ZsFormat, &[B])] = &[
        (ZsFormat::D16, &[D(h0), D(h1)]),
        (ZsFormat::D24, &[D(d0), D(d1), D(d2)]),
        (ZsFormat::D24X8, &[D(d0), D(d1), D(d2), D(0)]),
        (ZsFormat::D24S8, &[D(d0), D(d1), D(d2), S]),
        (ZsFormat::X8D24, &[D(0), D(d0), D(d1), D(d2)]),
        (ZsFormat::S8D24, &[S, D(d0), D(d1), D(d2)]),
        (ZsFormat::D32, &[D(f0), D(f1), D(f2), D(f3)]),
        (
            ZsFormat::D32X8X24,
            &[D(f0), D(f1), D(f2), D(f3), X, X, X, X],
        ),
        (
            ZsFormat::D32S8X24,
            &[D(f0), D(f1), D(f2), D(f3), S, X, X, X],
        ),
    ];
    let stencil_formats: &[(SFormat, &[B])] = &[
        (SFormat::None, &[]),
        (SFormat::S8, &[S]),
        (SFormat::S8X8, &[S, X]),
        (SFormat::S8X24, &[S, X, X, X]),
        (SFormat::X24S8, &[X, X, X, S]),
        (SFormat::X8S8, &[X, S]),
        (SFormat::X32S8X24, &[X, X, X, X, S, X, X, X]),
    ];
    let (width, height) = (37, 21);
    let stencil_at = IMAGE + 0x2_0000;

    for arch in ARCHES {
        for &block in blocks(arch) {
            for (i, &(z_format, z_bytes)) in depth_formats.iter().enumerate() {
                let (s_format, s_bytes) = stencil_formats[i % stencil_formats.len()];
                for (z, s, clean) in [
                    (true, true, true),
                    (true, false, true),
                    (false, true, true),
                    (false, false, true),
                    (true, true, false),
                ] {
                    let z_surface = surface(IMAGE, block, z_bytes.len() as u64, width, height);
                    let s_size = s_bytes.len() as u64;
                    let s_surface = surface(stencil_at, block, s_size, width, height);
                    let mut framebuffer = Framebuffer::new(width as u32, height as u32, 0);
                    framebuffer.z_write = z;
                    framebuffer.s_write = s;
                    framebuffer.z_clear = depth;
                    framebuffer.s_clear = 0xa7;
                    let frame = Frame {
                        framebuffer,
                        zs_extension: Some(ZsExtension {
                            z_format,
                            z_block: block,
                            clean_pixel_write: clean,
                            s_format,
                            s_block: block,
                            z_surface,
                            s_surface,
                            ..ZsExtension::EMPTY
                        }),
                        render_targets: Vec::new(),
                    };
                    let mut vm = scene(arch, &frame, |_| ());
                    background(&mut vm, IMAGE, 0x4_0000);
                    let what = format!("{z_format:?} {s_format:?} {block:?} {z} {s} {clean}");
                    compare(&vm, arch, &what, |vm| {
                        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
                        for (x, y) in pixels.filter(|_| clean) {
                            let targets = [(z, z_surface, z_bytes), (s, s_surface, s_bytes)];
                            for (_, surface, bytes) in targets.into_iter().filter(|t| t.0) {
                                let size = bytes.len() as u64;
                                let at = address(block, &surface, size, x, y, 0);
                                for (i, byte) in bytes.iter().enumerate() {
                                    match byte {
                                        D(value) => vm.poke(at + i as u64, &[*value]),
                                        S => vm.poke(at + i as u64, &[0xa7]),
                                        X => {}
                                    }
                                }
                            }
                        }
                    });
                }
            }
        }
    }
}

#[test]
fn what_mesa_clears_stencil_to() {
    // Mesa describes a surface of depth and stencil as a depth target. There is no stencil target,
    // so it does not set that enable.
    for arch in ARCHES {
        for (format, expected) in [
            (ZsFormat::D24S8, vec![0xff, 0xff, 0xff, 0x5a]),
            (ZsFormat::S8D24, vec![0x5a, 0xff, 0xff, 0xff]),
            (ZsFormat::D32S8X24, vec![0, 0, 0x80, 0x3f, 0x5a]),
        ] {
            let mut framebuffer = Framebuffer::new(1, 1, 0);
            framebuffer.z_write = true;
            framebuffer.s_write = false;
            framebuffer.z_clear = 1.0;
            framebuffer.s_clear = 0x5a;
            let frame = Frame {
                framebuffer,
                zs_extension: Some(ZsExtension {
                    z_format: format,
                    z_block: BlockFormat::UInterleaved,
                    clean_pixel_write: true,
                    z_surface: surface(IMAGE, BlockFormat::UInterleaved, 8, 1, 1),
                    ..ZsExtension::EMPTY
                }),
                render_targets: Vec::new(),
            };
            let mut vm = scene(arch, &frame, |_| ());
            background(&mut vm, IMAGE, 0x1000);
            compare(&vm, arch, &format!("{format:?}"), |vm| {
                vm.poke(IMAGE, &expected)
            });
        }
    }
}

#[test]
fn depth_values() {
    for (depth, expected) in [
        (0.0, 0),
        (1.0, 0xffff),
        (0.5, 0x8000),
        (-1.0, 0),
        (7.0, 0xffff),
        (f32::NAN, 0),
    ] {
        let mut framebuffer = Framebuffer::new(1, 1, 0);
        framebuffer.z_write = true;
        framebuffer.z_clear = depth;
        let frame = Frame {
            framebuffer,
            zs_extension: Some(ZsExtension {
                z_format: ZsFormat::D16,
                clean_pixel_write: true,
                z_surface: surface(IMAGE, BlockFormat::Linear, 2, 1, 1),
                ..ZsExtension::EMPTY
            }),
            render_targets: Vec::new(),
        };
        let vm = scene(Arch::V7, &frame, |_| ());
        compare(&vm, Arch::V7, "depth", |vm| {
            vm.poke(IMAGE, &u16::to_le_bytes(expected))
        });
    }
}
