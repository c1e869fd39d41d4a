// SPDX-License-Identifier: GPL-2.0

//! Runs a command while there is hardly any memory: all but so many MiB is taken and locked, and
//! what becomes free meanwhile is taken, too. Memory that others cannot keep goes to swap.
//!
//! Prints what reclaim has taken from the GPU's buffers, and how many processes were killed. Exit
//! status: that of the command; 1 if one was killed; 2 if it cannot be tried. Root only.

use std::process::Command;
use std::process::ExitCode;
use std::time::Duration;

use guest::debugfs;
use guest::device::Node;
use guest::harness::Gpu;
use guest::harness::Stop;
use guest::memory;
use guest::memory::Hog;
use guest::swap::Swap;

const USAGE: &str = "usage: guest-hog MIB COMMAND [ARGUMENT]...";

/// Room in swap.
const SWAP: usize = 512 << 20;

/// Between two looks at what has become free.
const PAUSE: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    match run() {
        Ok(status) => status,
        Err(stop) => {
            eprintln!("guest-hog: {stop:?}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode, Stop> {
    let mut args = std::env::args().skip(1);
    let left = args.next().and_then(|text| text.parse::<usize>().ok());
    let (Some(left), Some(program)) = (left, args.next()) else {
        return Err(Stop::fail(USAGE));
    };
    let gpu = Node::all()
        .into_iter()
        .next()
        .map(|node| Gpu { node, long: false });
    let taken = || gpu.as_ref().and_then(|gpu| debugfs::taken(gpu).ok());
    let (taken_before, killed_before) = (taken(), memory::killed()?);

    let _swap = Swap::on(SWAP)?;
    // SAFETY: concerns this process only, and not the command.
    if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } == -1 {
        return Err(std::io::Error::last_os_error().into());
    }
    let mut hog = Hog::new(left << 20)?;
    let mut child = Command::new(program).args(args).spawn()?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        hog.take(left << 20)?;
        std::thread::sleep(PAUSE);
    };

    let killed = memory::killed()? - killed_before;
    println!("hog: {} MiB, processes killed: {killed}", hog.size() >> 20);
    match (taken_before, taken()) {
        (Some(before), Some(after)) => println!(
            "taken by reclaim: {} pages, {} of them for good",
            after.sum() - before.sum(),
            after.purged - before.purged
        ),
        _ => println!("taken by reclaim: unknown"),
    }
    Ok(match (status.code(), killed) {
        (Some(0), 1..) | (None, _) => ExitCode::FAILURE,
        (Some(code), _) => ExitCode::from(code as u8),
    })
}
