// SPDX-License-Identifier: GPL-2.0

//! The control channel, from outside the guest.
//!
//! Each line is an order in the syntax of [`model::control::parse`], answered with `ok` or with
//! `error: ...`. The line `stats` is answered with a line of name and value for each statistic, the
//! line `help` with the list of orders, each followed by `ok`.
//!
//! Locks: takes the engine's for each line. One thread accepts connections, each of which has a
//! thread of its own; they end with the process.

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
use model::help;

/// Serves the socket from a new thread.
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
    if line == "help" {
        return help::help() + "ok\n";
    }
    match control::parse(line) {
        Ok(order) => match engine.order(order) {
            Ok(()) => "ok\n".into(),
            Err(errno) => format!("error: errno {errno}\n"),
        },
        Err(error) => format!("error: {error}\n"),
    }
}
