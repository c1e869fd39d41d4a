// SPDX-License-Identifier: GPL-2.0

//! Measures rows and prints `name<TAB>aim<TAB>base<TAB>unit<TAB>reason<TAB>what<TAB>number` for
//! each: the aim in hundredths of C panfrost's, the row above which it is (or `-`), why it is not a
//! half (or `-`), and `-` for a row that could not be measured. Arguments are parts of the names of
//! the rows that are wanted; without them all are, but those that want a guest for themselves.
//! After `--exact` they are whole names. After `--again`, which comes first, what is not counted in
//! instructions is left out: it is the same each time. Exit status: 0 if all could be measured.
//!
//! With `--growth` alone measures how costs grow, and prints
//! `over<TAB>what<TAB>count<TAB>lowest<TAB>median<TAB>highest` for each.

use std::process::ExitCode;

use guest::bench;
use guest::bench::growth;
use guest::bench::Priority;
use guest::bench::Row;
use guest::bench::Unit;
use guest::bench::BASE;
use guest::device::Node;
use guest::harness::Gpu;

/// Has the program run before all else, interrupt threads included, as any other, or after them.
fn run_as(priority: Priority) {
    let (policy, priority) = match priority {
        Priority::First => (libc::SCHED_FIFO, 60),
        Priority::Ordinary => (libc::SCHED_OTHER, 0),
        Priority::Last => (libc::SCHED_IDLE, 0),
    };
    let param = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: a valid parameter for this process.
    if unsafe { libc::sched_setscheduler(0, policy, &param) } != 0 {
        eprintln!("guest-bench: no such priority");
    }
}

/// Text for a column that must not be empty.
fn column(text: &str) -> &str {
    match text {
        "" => "-",
        text => text,
    }
}

/// Measures how costs grow.
fn print_growth(gpu: &Gpu) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    run_as(Priority::First);
    for things in growth::ALL {
        for &count in things.counts {
            let costs = (things.run)(gpu, count).unwrap_or_else(|stop| {
                eprintln!("guest-bench: {count} {}: {stop:?}", things.over);
                status = ExitCode::FAILURE;
                Vec::new()
            });
            for growth::Cost { what, samples } in costs {
                if let (Some(lowest), Some(highest)) = (samples.first(), samples.last()) {
                    let median = samples[samples.len() / 2];
                    println!(
                        "{}\t{what}\t{count}\t{lowest}\t{median}\t{highest}",
                        things.over
                    );
                }
            }
        }
    }
    status
}

fn main() -> ExitCode {
    let mut filter: Vec<String> = std::env::args().skip(1).collect();
    let again = filter.first().is_some_and(|text| text == "--again");
    if again {
        filter.remove(0);
    }
    let exact = filter.first().is_some_and(|text| text == "--exact");
    if exact {
        filter.remove(0);
    }
    let wanted = |row: &Row| {
        if exact {
            filter.iter().any(|text| row.name == text)
        } else {
            !row.alone
                && (filter.is_empty() || filter.iter().any(|text| row.name.contains(text.as_str())))
        }
    };
    let Some(node) = Node::all().into_iter().next() else {
        eprintln!("guest-bench: no GPU");
        return ExitCode::from(2);
    };
    let gpu = Gpu { node, long: false };
    if filter == ["--growth"] {
        return print_growth(&gpu);
    }
    let mut status = ExitCode::SUCCESS;
    for row in bench::all() {
        if !wanted(row) || again && row.unit != Unit::Instructions {
            continue;
        }
        let base = if row.aim.above_base { BASE } else { "-" };
        print!(
            "{}\t{}\t{base}\t{}\t{}\t{}\t",
            row.name,
            row.aim.percent,
            row.unit.name(),
            column(row.aim.reason),
            row.what
        );
        run_as(row.priority);
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
