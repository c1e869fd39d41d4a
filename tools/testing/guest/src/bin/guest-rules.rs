// SPDX-License-Identifier: GPL-2.0

//! Tells how often the rules of the board were broken. Exit status: 1 if there is something to tell
//! with `--moved`, other than what is only recorded of C panfrost; 2 if it cannot be told. Root
//! only.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use guest::board;
use guest::board::Rules;
use guest::harness::KernelLog;
use model::control::Stat;

/// Message of C panfrost when it cuts the power although the caches have not gone. It waits for a
/// millisecond, which is short on a busy host.
const PEER_POWER_LATE: &str = "power transition timeout";

const USAGE: &str = "\
usage: guest-rules                    print all counts
       guest-rules --moved FILE NAME  print those that have moved since the last call with FILE,
                                      each after NAME and a tab
       guest-rules --accesses         print how many GPU registers were read or written
       guest-rules --tell-time        tell the model the time of the kernel's log
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => match Rules::now() {
            Ok(rules) => print!("{rules}"),
            Err(error) => {
                eprintln!("guest-rules: the counts cannot be read: {error}");
                return ExitCode::from(2);
            }
        },
        ["--moved", file, name] => return moved(file, name),
        ["--tell-time"] => {
            if let Err(error) = board::tell_time() {
                eprintln!("guest-rules: the time cannot be told: {error}");
                return ExitCode::from(2);
            }
        }
        ["--accesses"] => {
            let (Ok(reads), Ok(writes)) = (
                board::stat(Stat::RegReads),
                board::stat(Stat::RegWrites), //
            ) else {
                eprintln!("guest-rules: no control BAR");
                return ExitCode::from(2);
            };
            println!("{}", reads.wrapping_add(writes));
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn moved(file: &str, name: &str) -> ExitCode {
    let now = match Rules::now() {
        Ok(now) => now,
        Err(error) => {
            // A line of the output, so that it is not overlooked.
            println!("{name}\tthe counts cannot be read: {error}");
            return ExitCode::from(2);
        }
    };
    // The first call with the file begins.
    let before = fs::read_to_string(file).map_or(Ok(now.clone()), |text| text.parse());
    let Ok(before) = before else {
        eprintln!("guest-rules: {file} is not mine");
        return ExitCode::from(2);
    };
    if let Err(error) = fs::write(file, now.to_string()) {
        eprintln!("guest-rules: {file}: {error}");
        return ExitCode::from(2);
    }
    let moved = now.since(&before);
    for what in &moved {
        println!("{name}\t{what}");
    }
    let peer = Path::new("/sys/module/panfrost").exists();
    let late = || {
        KernelLog::from_boot()
            .lines()
            .iter()
            .any(|line| line.contains(PEER_POWER_LATE))
    };
    let is_excused =
        |line: &String| board::only_recorded_of_peer(line) || line.starts_with("R6-") && late();
    match moved.iter().all(|line| peer && is_excused(line)) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
