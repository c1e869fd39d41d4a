// SPDX-License-Identifier: GPL-2.0

//! Colour clears.
//!
//! Values that may be read back: a channel of `n` bits stores the value `c` of the clear colour as
//! one of the two neighbours of `c * (2^n - 1)`, since GL leaves the rounding open; where that is a
//! whole number, as it is for 0 and 1, there is one right value. GL then returns it as eight bits,
//! again one of the neighbours of `255 * stored / (2^n - 1)`: Mesa widens some formats by repeating
//! bits, which rounds down. Channels that a format lacks are 0, alpha 1. All pixels of a clear have
//! to be the same: dithering is off.

use std::fmt;
use std::ops::AddAssign;

use glow::Context;
use glow::HasContext;

use crate::context::Framebuffer;
use crate::picture::Picture;

/// The numbers of things that were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    /// Clears.
    pub clears: u64,
    /// Pixels read back.
    pub pixels: u64,
    /// Those that were wrong.
    pub wrong: u64,
}

impl AddAssign for Checked {
    fn add_assign(&mut self, other: Self) {
        self.clears += other.clears;
        self.pixels += other.pixels;
        self.wrong += other.wrong;
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} clears, {} pixels checked, {} wrong",
            self.clears, self.pixels, self.wrong
        )
    }
}

/// A colour format.
pub struct Format {
    name: &'static str,
    internal: u32,
    /// Bits of R, G, B, A.
    bits: [u32; 4],
}

/// The formats that GLES 3 can render to and that need no shader to be cleared.
pub const FORMATS: &[Format] = &[
    Format {
        name: "RGBA8",
        internal: glow::RGBA8,
        bits: [8, 8, 8, 8],
    },
    Format {
        name: "RGB565",
        internal: glow::RGB565,
        bits: [5, 6, 5, 0],
    },
    Format {
        name: "RGBA4",
        internal: glow::RGBA4,
        bits: [4, 4, 4, 4],
    },
    Format {
        name: "RGB5_A1",
        internal: glow::RGB5_A1,
        bits: [5, 5, 5, 1],
    },
    Format {
        name: "RGB10_A2",
        internal: glow::RGB10_A2,
        bits: [10, 10, 10, 2],
    },
    Format {
        name: "R8",
        internal: glow::R8,
        bits: [8, 0, 0, 0],
    },
    Format {
        name: "RG8",
        internal: glow::RG8,
        bits: [8, 8, 0, 0],
    },
];

/// Below a tile, a tile, not a multiple of anything, wide, and 256 tiles of 16x16 each way in bins.
const SIZES: &[(i32, i32)] = &[(1, 1), (16, 16), (100, 70), (333, 211), (512, 512)];
/// The size whose results are shown.
const SHOWN: (i32, i32) = (100, 70);

/// The clear colours.
pub const COLORS: &[[f32; 4]] = &[
    [1.0, 0.0, 0.0, 1.0],
    [0.25, 0.5, 0.75, 1.0],
    [0.1, 0.7, 0.3, 0.4],
    [1.0, 1.0, 1.0, 1.0],
    [0.0, 0.0, 0.0, 0.0],
];

/// A number's neighbours among the whole numbers, itself if it is one as far as an f32 can tell.
fn neighbours(exact: f64) -> Vec<f64> {
    if (exact - exact.round()).abs() < 1e-4 {
        vec![exact.round()]
    } else {
        vec![exact.floor(), exact.ceil()]
    }
}

/// The bytes that a channel of this many bits may read as after a clear to `value`.
fn allowed(bits: u32, value: f32, is_alpha: bool) -> Vec<u8> {
    if bits == 0 {
        return vec![if is_alpha { 255 } else { 0 }];
    }
    let max = f64::from((1u32 << bits) - 1);
    neighbours(f64::from(value) * max)
        .into_iter()
        .flat_map(|stored| neighbours(stored * 255.0 / max))
        .map(|byte| byte as u8)
        .collect()
}

/// Clears in every size and colour.
pub fn check(gl: &Context, format: &Format, picture: &mut Picture) -> Result<Checked, String> {
    let mut checked = Checked::default();
    for (n, &size) in SIZES.iter().enumerate() {
        let attachments = [(glow::COLOR_ATTACHMENT0, format.internal)];
        let framebuffer = Framebuffer::new(gl, size, &attachments, n % 2 == 1)
            .map_err(|message| format!("{}: {message}", format.name))?;
        for color in COLORS {
            let [r, g, b, a] = *color;
            // SAFETY: the context is current.
            unsafe {
                gl.clear_color(r, g, b, a);
                gl.clear(glow::COLOR_BUFFER_BIT);
            }
            let pixels = framebuffer.read(glow::RGBA, glow::UNSIGNED_BYTE, 4)?;
            checked += compare(format, size, color, &pixels);
            if size == SHOWN {
                picture.add(format.name, size, &pixels);
            }
        }
    }
    println!("  {:18} {checked}", format.name);
    Ok(checked)
}

fn compare(format: &Format, size: (i32, i32), color: &[f32; 4], pixels: &[u8]) -> Checked {
    let allowed: Vec<_> = (0..4)
        .map(|channel| allowed(format.bits[channel], color[channel], channel == 3))
        .collect();
    let first = &pixels[..4];
    let right = |pixel: &[u8]| {
        pixel == first
            && pixel
                .iter()
                .zip(&allowed)
                .all(|(byte, allowed)| allowed.contains(byte))
    };
    let wrong = pixels.chunks_exact(4).filter(|pixel| !right(pixel)).count();
    if let Some(at) = pixels.chunks_exact(4).position(|pixel| !right(pixel)) {
        eprintln!(
            "{} {size:?} {color:?}: pixel ({}, {}) is {:?}, of {allowed:?}; the first is {first:?}",
            format.name,
            at % size.0 as usize,
            at / size.0 as usize,
            &pixels[4 * at..4 * at + 4],
        );
    }
    Checked {
        clears: 1,
        pixels: pixels.len() as u64 / 4,
        wrong: wrong as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_values_are_exact() {
        assert_eq!(allowed(8, 1.0, false), [255]);
        assert_eq!(allowed(5, 0.0, false), [0]);
        assert_eq!(allowed(1, 1.0, true), [255]);
    }

    #[test]
    fn others_have_neighbours() {
        assert_eq!(allowed(8, 0.5, false), [127, 128]);
        assert_eq!(allowed(1, 0.4, true), [0, 255]);
        assert_eq!(allowed(4, 0.25, false), [51, 68]);
        assert_eq!(allowed(5, 0.1, false), [24, 25, 32, 33]);
    }

    #[test]
    fn absent_channels() {
        assert_eq!(allowed(0, 0.7, false), [0]);
        assert_eq!(allowed(0, 0.7, true), [255]);
    }
}
