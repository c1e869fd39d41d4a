// SPDX-License-Identifier: GPL-2.0

//! Measures every row once and prints `name<TAB>aim<TAB>unit<TAB>what<TAB>number`, `-` for a row
//! that could not be measured. Arguments are parts of the names of the rows that are wanted, after
//! `--exact` whole names. After `--again`, which comes first, what is no time is left out: it is
//! the same each time. Exit status: 0 if all could.

use std::process::ExitCode;

use guest::bench;
use guest::bench::Unit;
use guest::device::Node;
use guest::harness::Gpu;

/// Nothing else runs while this program could, interrupt threads neither: what a call costs does
/// not depend on when the scheduler prefers the workers that it woke.
fn be_first() {
    let first = libc::sched_param { sched_priority: 60 };
    // SAFETY: a valid parameter for this process.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &first) } != 0 {
        eprintln!("guest-bench: no real-time priority");
    }
}

fn main() -> ExitCode {
    be_first();
    let mut filter: Vec<String> = std::env::args().skip(1).collect();
    let again = filter.first().is_some_and(|text| text == "--again");
    if again {
        filter.remove(0);
    }
    let exact = filter.first().is_some_and(|text| text == "--exact");
    if exact {
        filter.remove(0);
    }
    let wanted = |name: &str| {
        filter.is_empty()
            || filter
                .iter()
                .any(|text| name == text || !exact && name.contains(text.as_str()))
    };
    let Some(node) = Node::all().into_iter().next() else {
        eprintln!("guest-bench: no GPU");
        return ExitCode::from(2);
    };
    let gpu = Gpu { node, long: false };
    let mut status = ExitCode::SUCCESS;
    for row in bench::all() {
        if !wanted(row.name) || again && row.unit != Unit::Instructions {
            continue;
        }
        let (aim, unit) = (row.aim.name(), row.unit.name());
        print!("{}\t{aim}\t{unit}\t{}\t", row.name, row.what);
        match (row.run)(&gpu) {
            Ok(number) => println!("{number}"),
            Err(stop) => {
                println!("-");
                eprintln!("guest-bench: {}: {stop:?}", row.name);
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
