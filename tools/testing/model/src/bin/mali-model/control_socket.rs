// SPDX-License-Identifier: GPL-2.0

//! The control channel from outside of the guest.
//!
//! Each line is an order in the words of [`model::control::parse`], answered by `ok` or by `error:
//! ...`. The line `stats` is answered by a line with name and value for each of the statistics,
//! then `ok`.
//!
//! Locks: takes the engine's for each line. A thread accepts, each connection has one of its own;
//! they end with the process.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use model::control;
use model::engine::Engine;

/// Serves the socket from a thread.
pub(crate) fn serve(listener: UnixListener, engine: Arc<Engine>) -> io::Result<()> {
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                let engine = engine.clone();
                let spawned = thread::Builder::new()
                    .name("control-client".into())
                    .spawn(move || client(&stream, &engine));
                if let Err(error) = spawned {
                    eprintln!("mali-model: control: {error}");
                }
            }
        })?;
    Ok(())
}

fn client(stream: &UnixStream, engine: &Engine) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if { stream }
            .write_all(answer(line, engine).as_bytes())
            .is_err()
        {
            return;
        }
    }
}

fn answer(line: &str, engine: &Engine) -> String {
    if line == "stats" {
        return engine.with(|gpu| {
            let mut text = String::new();
            for (n, name) in control::STAT_NAMES.into_iter().enumerate() {
                text += &format!("{name} {}\n", gpu.stat(n));
            }
            text + "ok\n"
        });
    }
    match control::parse(line) {
        Ok(order) => match engine.order(order) {
            Ok(()) => "ok\n".into(),
            Err(errno) => format!("error: errno {errno}\n"),
        },
        Err(error) => format!("error: {error}\n"),
    }
}
