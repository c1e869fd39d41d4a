// SPDX-License-Identifier: GPL-2.0

//! Depth and stencil clears, beside a colour that is cleared with them. GLES itself cannot read
//! depth and stencil; where GL_NV_read_depth_stencil or its parts are there they are read and
//! compared, else the colour alone is.
//!
//! Values that may be read back: as for colours, `n` bits of depth store a neighbour of
//! `d * (2^n - 1)`, 32 bits a float as it is; it is returned as 32 bits. Stencil is exact.
//!
//! Stencil alone gets new storage for each value. Mesa's panfrost keeps it in a surface that has
//! depth, too; where that has content, clearing stencil means to draw the old depth into the tiles,
//! and that is a draw with a shader, not a clear.

use glow::Context;
use glow::HasContext;

use crate::color::Checked;
use crate::context::Framebuffer;

/// A depth format, a stencil format, or both in one.
pub struct Format {
    name: &'static str,
    internal: u32,
    point: u32,
    /// Bits of depth, 0 without.
    depth: u32,
    stencil: bool,
}

/// The formats that GLES 3 can render to.
pub const FORMATS: &[Format] = &[
    Format {
        name: "DEPTH16",
        internal: glow::DEPTH_COMPONENT16,
        point: glow::DEPTH_ATTACHMENT,
        depth: 16,
        stencil: false,
    },
    Format {
        name: "DEPTH24",
        internal: glow::DEPTH_COMPONENT24,
        point: glow::DEPTH_ATTACHMENT,
        depth: 24,
        stencil: false,
    },
    Format {
        name: "DEPTH32F",
        internal: glow::DEPTH_COMPONENT32F,
        point: glow::DEPTH_ATTACHMENT,
        depth: 32,
        stencil: false,
    },
    Format {
        name: "DEPTH24_STENCIL8",
        internal: glow::DEPTH24_STENCIL8,
        point: glow::DEPTH_STENCIL_ATTACHMENT,
        depth: 24,
        stencil: true,
    },
    Format {
        name: "STENCIL8",
        internal: glow::STENCIL_INDEX8,
        point: glow::STENCIL_ATTACHMENT,
        depth: 0,
        stencil: true,
    },
];

const SIZES: &[(i32, i32)] = &[(16, 16), (100, 70), (333, 211)];
const VALUES: &[(f32, u8)] = &[(1.0, 0), (0.0, 255), (0.5, 0x5a)];

/// Clears in every size and to every value.
pub fn check(gl: &Context, format: &Format) -> Result<Checked, String> {
    let extensions = gl.supported_extensions();
    let both = extensions.contains("GL_NV_read_depth_stencil");
    let read_depth = format.depth != 0 && (both || extensions.contains("GL_NV_read_depth"));
    let read_stencil = format.stencil && (both || extensions.contains("GL_NV_read_stencil"));
    let mut checked = Checked::default();
    for &size in SIZES {
        let attachments = [
            (glow::COLOR_ATTACHMENT0, glow::RGBA8),
            (format.point, format.internal),
        ];
        let make = || {
            Framebuffer::new(gl, size, &attachments, false)
                .map_err(|message| format!("{}: {message}", format.name))
        };
        let mut framebuffer = make()?;
        for (n, &(depth, stencil)) in VALUES.iter().enumerate() {
            if format.depth == 0 && n > 0 {
                framebuffer = make()?;
            }
            let blue = stencil as f32 / 255.0;
            // SAFETY: the context is current.
            unsafe {
                gl.clear_color(depth.round(), 0.0, blue, 1.0);
                gl.clear_depth_f32(depth);
                gl.clear_stencil(stencil.into());
                gl.clear(
                    glow::COLOR_BUFFER_BIT | glow::DEPTH_BUFFER_BIT | glow::STENCIL_BUFFER_BIT,
                );
            }
            let pixels = framebuffer.read(glow::RGBA, glow::UNSIGNED_BYTE, 4)?;
            let color = [depth.round() as u8 * 255, 0, stencil, 255];
            checked += count(format.name, "colour", &pixels, 4, |pixel| pixel == color);
            if read_depth {
                let kind = if format.depth == 32 {
                    glow::FLOAT
                } else {
                    glow::UNSIGNED_INT
                };
                let pixels = framebuffer.read(glow::DEPTH_COMPONENT, kind, 4)?;
                checked += count(format.name, "depth", &pixels, 4, |pixel| {
                    depth_is(pixel, format.depth, depth)
                });
            }
            if read_stencil {
                let pixels = framebuffer.read(glow::STENCIL_INDEX, glow::UNSIGNED_BYTE, 1)?;
                checked += count(format.name, "stencil", &pixels, 1, |pixel| {
                    pixel == [stencil]
                });
            }
        }
    }
    // A clear counts once, however much of it was read.
    checked.clears = (SIZES.len() * VALUES.len()) as u64;
    let unread = [
        (format.depth != 0 && !read_depth, "depth"),
        (format.stencil && !read_stencil, "stencil"),
    ];
    let unread: Vec<_> = unread
        .into_iter()
        .filter_map(|(is, what)| is.then_some(what))
        .collect();
    let note = match unread.as_slice() {
        [] => String::new(),
        unread => format!(" ({} cannot be read here)", unread.join(" and ")),
    };
    println!("  {:18} {checked}{note}", format.name);
    Ok(checked)
}

fn depth_is(pixel: &[u8], bits: u32, depth: f32) -> bool {
    let found = pixel.try_into().map(u32::from_ne_bytes).unwrap_or_default();
    if bits == 32 {
        return found == depth.to_bits();
    }
    let max = f64::from(u32::MAX);
    let exact = f64::from(depth) * max;
    // One step of what is stored.
    let step = max / ((1u64 << bits) - 1) as f64;
    let far = if exact == 0.0 || exact == max {
        0.0
    } else {
        step
    };
    (f64::from(found) - exact).abs() <= far
}

fn count(
    name: &str,
    what: &str,
    pixels: &[u8],
    size: usize,
    right: impl Fn(&[u8]) -> bool,
) -> Checked {
    let wrong: Vec<_> = pixels
        .chunks_exact(size)
        .enumerate()
        .filter(|(_, pixel)| !right(pixel))
        .collect();
    if let Some((at, pixel)) = wrong.first() {
        eprintln!("{name}: {what} of pixel {at} is {pixel:x?}");
    }
    Checked {
        clears: 0,
        pixels: (pixels.len() / size) as u64,
        wrong: wrong.len() as u64,
    }
}
