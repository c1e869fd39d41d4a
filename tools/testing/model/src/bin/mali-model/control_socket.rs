// SPDX-License-Identifier: GPL-2.0

//! The control channel, from outside the guest.
//!
//! Each line is answered by the GPU ([`Machine::answer`]): with any number of lines and `ok`, or
//! with `error: ...`. `help` lists the orders, `stats` the statistics.
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

use model::engine::Engine;
use model::machine::Machine;

/// Serves the socket from a new thread.
pub(crate) fn serve<M: Machine>(listener: UnixListener, engine: Arc<Engine<M>>) -> io::Result<()> {
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                let engine = engine.clone();
                let spawned = thread::Builder::new()
                    .name("control-client".into())
                    .spawn(move || client(&stream, &engine));
                if let Err(error) = spawned {
                    eprintln!("{}: control: {error}", env!("CARGO_BIN_NAME"));
                }
            }
        })?;
    Ok(())
}

fn client<M: Machine>(stream: &UnixStream, engine: &Engine<M>) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let answer = match engine.with(|gpu| gpu.answer(line)) {
            Ok(lines) => lines + "ok\n",
            Err(error) => format!("error: {error}\n"),
        };
        if { stream }.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
