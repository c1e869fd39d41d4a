// SPDX-License-Identifier: GPL-2.0

//! Runs the tests and prints TAP. Exit status: 0 if none failed, 1 if some did, 2 if they cannot be
//! run.

use std::process::ExitCode;
use std::time::Duration;

use guest::device::Node;
use guest::harness;
use guest::harness::Gpu;
use guest::harness::Test;
use guest::sys;
use guest::tests;

const USAGE: &str = "\
usage: guest-tests [OPTION]... [TEXT]...
  TEXT, --filter TEXT  only tests with TEXT in their name or as a feature (repeatable: any of them)
  --list               print the tests, the features they show and what they need;
                       Documentation/features.rst has the features
  --skip TEXT          not those (repeatable)
  --driver NAME        insist on this kernel driver: panfrost or drm_gpu
  --timeout SECONDS    per test (300)
  --until SECONDS      skip the tests that have not begun so long after the guest's start
  --count N            run everything N times
  --long               the counts that tests have within are large
";

struct Options {
    list: bool,
    filter: Vec<String>,
    skip: Vec<String>,
    driver: Option<String>,
    timeout: Duration,
    until: Option<Duration>,
    count: usize,
    long: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        list: false,
        filter: Vec::new(),
        skip: Vec::new(),
        driver: None,
        timeout: Duration::from_secs(300),
        until: None,
        count: 1,
        long: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} wants a value"));
        match arg.as_str() {
            "--list" => options.list = true,
            "--long" => options.long = true,
            "--help" | "-h" => {
                print!("{USAGE}");
                std::process::exit(0);
            }
            "--filter" => options.filter.push(value()?),
            "--skip" => options.skip.push(value()?),
            "--driver" => options.driver = Some(value()?),
            "--timeout" => options.timeout = Duration::from_secs(number(&value()?)? as u64),
            "--until" => options.until = Some(Duration::from_secs(number(&value()?)? as u64)),
            "--count" => {
                options.count = number(&value()?)?;
                if options.count == 0 {
                    return Err("--count wants at least 1".into());
                }
            }
            _ if arg.starts_with('-') => return Err(format!("unknown option {arg}")),
            _ => options.filter.push(arg),
        }
    }
    Ok(options)
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

fn matches(test: &Test, texts: &[String]) -> bool {
    texts
        .iter()
        .any(|text| test.name.contains(text) || test.features.contains(&text.as_str()))
}

/// The part of a test that is in another program: `--after-exec FILE HANDLE`.
fn after_exec() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next()? != "--after-exec" {
        return None;
    }
    let (fd, handle) = (args.next()?.parse().ok()?, args.next()?.parse().ok()?);
    Some(match tests::after_exec(fd, handle) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            eprintln!("# after exec: {stop:?}");
            ExitCode::FAILURE
        }
    })
}

fn main() -> ExitCode {
    if let Some(code) = after_exec() {
        return code;
    }
    sys::end_with_reader();
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprint!("guest-tests: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let tests: Vec<&Test> = tests::all()
        .filter(|test| options.filter.is_empty() || matches(test, &options.filter))
        .filter(|test| !matches(test, &options.skip))
        .collect();
    if tests.is_empty() {
        eprintln!("guest-tests: there is no such test; see --list");
        return ExitCode::from(2);
    }
    if options.list {
        for test in tests {
            println!(
                "{:32} {:12} {:?}",
                test.name,
                test.features.join(","),
                test.needs
            );
        }
        return ExitCode::SUCCESS;
    }

    let wanted = |node: &Node| options.driver.as_ref().is_none_or(|d| *d == node.driver);
    let Some(node) = Node::all().into_iter().find(wanted) else {
        eprintln!("guest-tests: no GPU with this driver");
        return ExitCode::from(2);
    };
    eprintln!("# {} on {}", node.driver, node.path.display());
    let gpu = Gpu {
        node,
        long: options.long,
    };
    // After some tests the node is another one, so they run once, in the end.
    let (mut tests, last): (Vec<_>, Vec<_>) = tests.into_iter().partition(|t| !tests::is_last(t));
    tests = tests.repeat(options.count);
    tests.extend(last);
    let summary = harness::run(&gpu, &tests, options.timeout, options.until);
    println!(
        "# {} passed, {} failed, {} skipped",
        summary.passed, summary.failed, summary.skipped
    );
    if summary.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
