// SPDX-License-Identifier: GPL-2.0

//! Clears framebuffers of many sizes and formats through the system's EGL and GLES, reads every
//! pixel back and compares. Needs no window system and no shader.
//!
//! Exit status: 0 if all pixels are right, 1 if some are not, 2 if it cannot be tried.

mod color;
mod context;
mod depth;
mod picture;

use std::process::ExitCode;

use glow::HasContext;
use guest::board::Board;
use model::control::Stat;

use color::Checked;
use context::Gles;
use picture::Picture;

const USAGE: &str = "\
usage: clear-gles [OPTION]...
  --png FILE   write a picture of what was read back: a row for each format, a
               column for each colour
  --any        accept any renderer; by default it has to be a Mali
";

struct Options {
    png: Option<String>,
    any: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        png: None,
        any: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--png" => options.png = Some(args.next().ok_or("--png wants a file")?),
            "--any" => options.any = true,
            _ => return Err(format!("unknown option {arg}\n{USAGE}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("clear-gles: {message}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool, String> {
    let options = options()?;
    let board = Board::open().ok();
    let jobs = || board.as_ref().map(|board| board.stat(Stat::JobsDone));
    let jobs_before = jobs();

    let context = Gles::new()?;
    let gl = &context.gl;
    // SAFETY: the context is current.
    let [renderer, version] =
        [glow::RENDERER, glow::VERSION].map(|name| unsafe { gl.get_parameter_string(name) });
    println!("renderer: {renderer}");
    println!("version:  {version}");
    if !options.any && !renderer.contains("Mali") {
        return Err("this is not a Mali; --any accepts any renderer".into());
    }

    let mut picture = Picture::default();
    let mut total = Checked::default();
    for format in color::FORMATS {
        total += color::check(gl, format, &mut picture)?;
    }
    for format in depth::FORMATS {
        total += depth::check(gl, format)?;
    }
    println!("{total}");
    if let (Some(before), Some(after)) = (jobs_before, jobs()) {
        println!("GPU jobs: {}", after.wrapping_sub(before));
    }
    if let Some(path) = &options.png {
        picture
            .write(path)
            .map_err(|error| format!("{path}: {error}"))?;
        println!("picture: {path}");
    }
    Ok(total.wrong == 0)
}
