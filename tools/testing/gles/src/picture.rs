// SPDX-License-Identifier: GPL-2.0

//! A picture of what was read back: a row for each format, a cell for each clear.

use std::fs::File;
use std::io::BufWriter;

const GAP: usize = 4;
const BACKGROUND: [u8; 3] = [0x30, 0x30, 0x30];

struct Cell {
    width: usize,
    height: usize,
    rgba: Vec<u8>,
}

/// Rows of cells.
#[derive(Default)]
pub struct Picture {
    rows: Vec<(String, Vec<Cell>)>,
}

impl Picture {
    /// Adds a cell to the row of this name. Alpha is not shown.
    pub fn add(&mut self, row: &str, (width, height): (i32, i32), rgba: &[u8]) {
        if self.rows.last().is_none_or(|(name, _)| name != row) {
            self.rows.push((row.to_owned(), Vec::new()));
        }
        if let Some((_, cells)) = self.rows.last_mut() {
            cells.push(Cell {
                width: width as usize,
                height: height as usize,
                rgba: rgba.to_vec(),
            });
        }
    }

    /// Writes it as a PNG.
    pub fn write(&self, path: &str) -> Result<(), String> {
        let row_width = |cells: &[Cell]| cells.iter().map(|cell| cell.width + GAP).sum::<usize>();
        let row_height =
            |cells: &[Cell]| cells.iter().map(|cell| cell.height).max().unwrap_or(0) + GAP;
        let width = GAP
            + self
                .rows
                .iter()
                .map(|(_, cells)| row_width(cells))
                .max()
                .unwrap_or(0);
        let height = GAP
            + self
                .rows
                .iter()
                .map(|(_, cells)| row_height(cells))
                .sum::<usize>();
        let mut rgb = BACKGROUND.repeat(width * height);
        let mut top = GAP;
        for (_, cells) in &self.rows {
            let mut left = GAP;
            for cell in cells {
                for (n, pixel) in cell.rgba.chunks_exact(4).enumerate() {
                    // GL's first row is the lowest.
                    let (x, y) = (n % cell.width, cell.height - 1 - n / cell.width);
                    let at = 3 * ((top + y) * width + left + x);
                    rgb[at..at + 3].copy_from_slice(&pixel[..3]);
                }
                left += cell.width + GAP;
            }
            top += row_height(cells);
        }

        let file = File::create(path).map_err(|error| error.to_string())?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), width as u32, height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
        writer
            .write_image_data(&rgb)
            .map_err(|error| error.to_string())
    }
}
