// SPDX-License-Identifier: GPL-2.0

//! Tests of colour formats: the pixels that a clear leaves in memory.

use crate::desc::BlockFormat;
use crate::desc::ColorFormat;
use crate::desc::Frame;
use crate::desc::Framebuffer;
use crate::desc::InternalFormat;
use crate::desc::RenderTarget;
use crate::desc::Surface;
use crate::desc::SWIZZLE_RGBA;

use super::*;

/// Integer and fraction bits of R, G, B, A.
type Bits = [(u32, u32); 4];

/// A format in memory and its channels from the lowest bit up.
type Packed = (ColorFormat, &'static str);

const PAIRS: &[(InternalFormat, Bits, &[Packed])] = &[
    (
        InternalFormat::R8G8B8A8,
        [(8, 0), (8, 0), (8, 0), (8, 0)],
        &[
            (ColorFormat::R8, "R8"),
            (ColorFormat::R8G8, "R8 G8"),
            (ColorFormat::R8G8B8, "R8 G8 B8"),
            (ColorFormat::R8G8B8A8, "R8 G8 B8 A8"),
        ],
    ),
    (
        InternalFormat::R10G10B10A2,
        [(10, 0), (10, 0), (10, 0), (2, 0)],
        &[
            (ColorFormat::R10G10B10A2, "R10 G10 B10 A2"),
            (ColorFormat::A2B10G10R10, "A2 B10 G10 R10"),
        ],
    ),
    (
        InternalFormat::R8G8B8A2,
        [(8, 2), (8, 2), (8, 2), (2, 0)],
        &[
            (ColorFormat::R8G8B8, "R8 G8 B8"),
            (ColorFormat::R8G8B8FromR8G8B8A2, "R8 G8 B8"),
        ],
    ),
    (
        InternalFormat::R4G4B4A4,
        [(4, 4), (4, 4), (4, 4), (4, 4)],
        &[(ColorFormat::R4G4B4A4, "R4 G4 B4 A4")],
    ),
    (
        InternalFormat::R5G6B5A0,
        [(5, 5), (6, 4), (5, 5), (0, 2)],
        &[(ColorFormat::R5G6B5, "R5 G6 B5")],
    ),
    (
        InternalFormat::R5G5B5A1,
        [(5, 5), (5, 5), (5, 5), (1, 1)],
        &[
            (ColorFormat::R5G5B5A1, "R5 G5 B5 A1"),
            (ColorFormat::A1B5G5R5, "A1 B5 G5 R5"),
        ],
    ),
];

/// Formats whose bytes are stored as they are, with their size.
const RAW: &[(InternalFormat, ColorFormat, usize)] = &[
    (InternalFormat::Raw8, ColorFormat::Raw8, 1),
    (InternalFormat::Raw16, ColorFormat::Raw16, 2),
    (InternalFormat::Raw32, ColorFormat::Raw24, 3),
    (InternalFormat::Raw32, ColorFormat::Raw32, 4),
    (InternalFormat::Raw64, ColorFormat::Raw48, 6),
    (InternalFormat::Raw64, ColorFormat::Raw64, 8),
    (InternalFormat::Raw128, ColorFormat::Raw96, 12),
    (InternalFormat::Raw128, ColorFormat::Raw128, 16),
    (InternalFormat::R16F, ColorFormat::Raw16, 2),
    (InternalFormat::R16G16F, ColorFormat::Raw32, 4),
    (InternalFormat::R16G16B16A16F, ColorFormat::Raw64, 8),
    (InternalFormat::R11G11B10F, ColorFormat::Raw32, 4),
];

/// Packs bit by bit: `layout` has channels and bits from the lowest up; `select` has the source of
/// each of R, G, B, A: a channel of `values`, "0" or "1".
fn pack(layout: &str, select: &str, values: [u32; 4]) -> Vec<u8> {
    let mut stream = Vec::new();
    for part in layout.split(' ') {
        let (channel, bits) = part.split_at(1);
        let channel = "RGBA".find(channel).unwrap();
        let source = &select[channel..=channel];
        for bit in 0..bits.parse::<u32>().unwrap() {
            stream.push(match source {
                "0" => false,
                "1" => true,
                _ => values["RGBA".find(source).unwrap()] >> bit & 1 != 0,
            });
        }
    }
    assert_eq!(stream.len() % 8, 0);
    stream
        .chunks(8)
        .map(|bits| (0..8).map(|i| u8::from(bits[i]) << i).sum())
        .collect()
}

/// Checks one colour target for all arrangements of the GPU.
fn check_color(arch: Arch, base: RenderTarget, bytes: &[u8], what: &str) {
    let (width, height) = (39, 35);
    let bpp = bytes.len() as u64;
    for &block in blocks(arch) {
        let surface = surface(IMAGE + 0x80, block, bpp, width, height);
        let frame = Frame {
            framebuffer: Framebuffer::new(width as u32, height as u32, 1),
            zs_extension: None,
            render_targets: vec![RenderTarget {
                block,
                surface,
                ..base
            }],
        };
        let mut vm = scene(arch, &frame, |_| ());
        background(&mut vm, IMAGE, 0x1_0000);
        compare(&vm, arch, &format!("{what} {block:?}"), |vm| {
            for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                vm.poke(address(block, &surface, bpp, x, y, 0), bytes);
            }
        });
    }
}

#[test]
fn blendable_formats() {
    let values = [0x2a5, 0x1b6, 0x34d, 0x2d];
    for arch in ARCHES {
        for &(internal, bits, formats) in PAIRS {
            // The channels' integer bits, and all fraction bits set.
            let mut word = 0u64;
            let mut at = 0;
            let mut stored = [0; 4];
            for (i, (integer, fraction)) in bits.into_iter().enumerate() {
                stored[i] = values[i] & ((1 << integer) - 1);
                word |= u64::from(stored[i] << fraction | ((1 << fraction) - 1)) << at;
                at += integer + fraction;
            }
            assert_eq!(at, 32);
            for &(format, layout) in formats {
                let target = RenderTarget::cleared(
                    internal,
                    format,
                    BlockFormat::Linear,
                    Surface::default(),
                    [word as u32; 4],
                );
                let what = format!("{internal:?} {format:?}");
                check_color(arch, target, &pack(layout, "RGBA", stored), &what);
            }
        }
    }
}

#[test]
fn raw_formats() {
    let clear = [0x0403_0201, 0x0807_0605, 0x0c0b_0a09, 0x100f_0e0d];
    for arch in ARCHES {
        for &(internal, format, size) in RAW {
            let mut target = RenderTarget::cleared(
                internal,
                format,
                BlockFormat::Linear,
                Surface::default(),
                clear,
            );
            // The swizzle has no meaning for these formats.
            target.swizzle = 0x924;
            let bytes: Vec<u8> = (1..=size as u8).collect();
            check_color(arch, target, &bytes, &format!("{internal:?} {format:?}"));
        }
    }
}

#[test]
fn swizzles() {
    let swizzle = |channels: [u16; 4]| {
        let places = channels.iter().enumerate();
        places.map(|(i, channel)| channel << (3 * i)).sum::<u16>()
    };
    assert_eq!(swizzle([0, 1, 2, 3]), SWIZZLE_RGBA);
    for (channels, select) in [
        ([2, 1, 0, 3], "BGRA"),
        ([0, 1, 2, 5], "RGB1"),
        ([4, 5, 4, 0], "010R"),
        ([3, 3, 3, 3], "AAAA"),
    ] {
        for (internal, format, layout, clear, values) in [
            (
                InternalFormat::R8G8B8A8,
                ColorFormat::R8G8B8A8,
                "R8 G8 B8 A8",
                0x4433_2211,
                [0x11, 0x22, 0x33, 0x44],
            ),
            (
                InternalFormat::R10G10B10A2,
                ColorFormat::A2B10G10R10,
                "A2 B10 G10 R10",
                0x8030_0801,
                [1, 2, 3, 2],
            ),
        ] {
            let ten_bits = internal == InternalFormat::R10G10B10A2;
            if ten_bits && select != "BGRA" && select != "RGB1" {
                // Would mix widths, which the bit-wise reference does not do.
                continue;
            }
            let mut target = RenderTarget::cleared(
                internal,
                format,
                BlockFormat::Linear,
                Surface::default(),
                [clear; 4],
            );
            target.swizzle = swizzle(channels);
            for arch in ARCHES {
                check_color(arch, target, &pack(layout, select, values), select);
            }
        }
    }
}

#[test]
fn what_mesa_clears_to() {
    // (0.25, 0.5, 0.75, 1.0) in RGBA8 is stored as 0xffbf8040.
    let target = RenderTarget::cleared(
        InternalFormat::R8G8B8A8,
        ColorFormat::R8G8B8A8,
        BlockFormat::Linear,
        Surface::default(),
        [0xffbf_8040; 4],
    );
    check_color(Arch::V7, target, &[0x40, 0x80, 0xbf, 0xff], "rgba8");
    // The same in RGB565, which Mesa stores with blue in the lowest bits.
    let clear = 8 << 5 | 32 << 14 | 23 << 25 | 3 << 30;
    let mut target = RenderTarget::cleared(
        InternalFormat::R5G6B5A0,
        ColorFormat::R5G6B5,
        BlockFormat::Linear,
        Surface::default(),
        [clear; 4],
    );
    target.swizzle = 0o5012;
    let pixel = 8u16 << 11 | 32 << 5 | 23;
    check_color(Arch::V7, target, &pixel.to_le_bytes(), "rgb565");
}

#[test]
fn widths_that_differ() {
    // 4.4 bits to 8: scaled. No alpha in the tile buffer: one.
    for (internal, clear, expected) in [
        (
            InternalFormat::R4G4B4A4,
            0xf0_10_80_00,
            [0, 0x88, 0x11, 0xff],
        ),
        (InternalFormat::R5G6B5A0, 0, [0, 0, 0, 0xff]),
    ] {
        let target = RenderTarget::cleared(
            internal,
            ColorFormat::R8G8B8A8,
            BlockFormat::Linear,
            Surface::default(),
            [clear; 4],
        );
        check_color(Arch::V9, target, &expected, "widths");
    }
}
