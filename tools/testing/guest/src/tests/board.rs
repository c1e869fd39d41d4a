// SPDX-License-Identifier: GPL-2.0

//! The surroundings of the GPU on a board (clock, supply, reset line, power domains) are used in
//! the order and within the limits that boards have.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use model::control;
use model::control::Opcode;
use model::control::SCALE_FREQ_KHZ;

use crate::board;
use crate::board::Board;
use crate::board::Rules;
use crate::board::State;
use crate::board::Turn;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::sys;
use crate::sys::Errno;

use super::works;

/// The register that powers L2 caches up.
const L2_PWRON: usize = 0x1a0;

const BOARD: &[Need] = &[Need::Board];

pub(super) const TESTS: &[Test] = &[
    Test::new("board-no-rule-was-broken", &["G6"], no_rule_was_broken).needs(BOARD),
    Test::new("board-voltage-carries-the-rate", &["G6"], voltage).needs(BOARD),
    Test::new("board-unbound-is-off", &["G6"], unbound_is_off).needs(BOARD),
    Test::new("board-turns-on-in-order", &["G6"], in_order).needs(BOARD),
    Test::new("board-all-domains-are-on", &["G6"], domains).needs(BOARD),
    Test::new("board-clock-sets-the-pace", &["J3"], pace).needs(BOARD),
    Test::new("board-no-interrupt-no-power", &["G6"], no_interrupt)
        .needs(BOARD)
        .warns()
        .panfrost_fails("it turns the GPU on before it looks for its interrupts"),
    Test::new("board-rules-count", &["G6"], rules_count)
        .needs(BOARD)
        .warns(),
];

/// The board that is picky about the order of its switches.
const PICKY: &str = "allwinner,sun50i-h616-mali";

/// From the board's coming on, so that the first binding counts.
fn no_rule_was_broken(gpu: &Gpu) -> Outcome {
    let mut broken = Rules::now()?.since(&Rules::default());
    if gpu.node.driver == "panfrost" {
        broken.retain(|line| !board::only_recorded_of_peer(line));
    }
    check!(broken.is_empty(), "{}", broken.join(", "));
    Ok(())
}

/// A boot loader may have left the clock faster than its voltage allows.
fn voltage(gpu: &Gpu) -> Outcome {
    works(&gpu.open()?)?;
    let state = State::now()?;
    let (khz, is) = (state.number("khz")?, state.number("microvolts")?);
    let needed = state.number("needed-microvolts")?;
    check!(is >= needed, "{khz} kHz with {is} uV, which takes {needed}");
    Ok(())
}

/// All domains as the board counts them: a bit each.
fn all_domains(state: &State) -> Result<u32, Stop> {
    Ok((1 << state.number("num-domains")?) - 1)
}

/// How the board is once the domains are off, which go a little later than the driver.
fn settled() -> Result<State, Stop> {
    let end = Instant::now() + PATIENCE;
    loop {
        let state = State::now()?;
        if state.number("domains")? == 0 || Instant::now() > end {
            return Ok(state);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn unbound_is_off(gpu: &Gpu) -> Outcome {
    let away = gpu.node.unbind()?;
    let state = settled()?;
    away.give_back()?;
    for (what, off) in [
        ("domains", 0),
        ("supply", 0),
        ("clock", 0),
        ("prepared", 0),
        ("reset", 1),
    ] {
        check_eq!(state.number(what)?, off, "{what}");
    }
    works(&gpu.open()?)
}

fn domains(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    works(&device)?;
    // A driver may turn off what is idle, but not while it reads registers.
    let end = Instant::now() + PATIENCE;
    loop {
        works(&device)?;
        let state = State::now()?;
        if state.number("domains")? == all_domains(&state)? {
            return Ok(());
        }
        check!(Instant::now() < end, "not all domains are on");
    }
}

/// Returns how long a job takes, at least [`SLOW`] at the lowest rate, with the clock at `khz`.
/// [`None`]: somebody has changed the clock meanwhile, as a driver with DVFS may.
fn job_at(device: &Device, board: &Board, khz: u32) -> Result<Option<Duration>, Stop> {
    let mut chain = Chain::new(device, 4096)?;
    chain.null();
    board.set_khz(khz);
    let start = Instant::now();
    chain.run(&[])?;
    let took = start.elapsed();
    check_eq!(chain.statuses(), [DONE]);
    Ok((board.khz() == khz).then_some(took))
}

/// The time that a job takes at the lowest rate.
const SLOW: Duration = Duration::from_millis(200);

/// With the habits of silicon, a job takes less time when the clock is faster. On a busy host any
/// job can take long, so only the shortest of several tells.
fn pace(gpu: &Gpu) -> Outcome {
    let board = Board::open()?;
    let device = gpu.open()?;
    let usual = board.khz();
    let patient = if board.like_silicon() { 20 } else { 2 };
    // The clock of the guest and that of the model can differ a little.
    let limit = SLOW * 3 / 4;

    board.order(Opcode::SlowJobs, &[SLOW.as_micros() as u32])?;
    let at = |rate, runs| -> Result<Option<Duration>, Stop> {
        let mut shortest = None;
        for _ in 0..runs {
            if let Some(took) = job_at(&device, &board, rate)? {
                shortest = Some(shortest.map_or(took, |least: Duration| least.min(took)));
            }
            if shortest.is_some_and(|least| least < limit) {
                break;
            }
        }
        Ok(shortest)
    };
    let times = (at(SCALE_FREQ_KHZ, 2), at(8 * SCALE_FREQ_KHZ, patient));
    board.set_khz(usual);
    let (Some(slow), Some(fast)) = (times.0?, times.1?) else {
        return Err(Stop::Skip("the driver changes the clock".into()));
    };
    check!(slow >= limit, "{slow:?} at the lowest rate");
    if board.like_silicon() {
        check!(fast < limit, "{fast:?} at eight times the lowest rate");
    } else {
        check!(fast >= limit, "{fast:?}, where the clock does not matter");
    }
    Ok(())
}

/// Where a switch is first turned to a position.
fn position(turns: &[Turn], what: &str, new: u32) -> Result<usize, Stop> {
    turns
        .iter()
        .position(|turn| turn.what == what && turn.new == new)
        .ok_or_else(|| Stop::fail(format!("{what} never becomes {new}: {turns:?}")))
}

/// Domains come first. A system that is picky about them (H616) wants the reset line released
/// before the clock runs, too.
fn in_order(gpu: &Gpu) -> Outcome {
    let away = gpu.node.unbind()?;
    settled()?;
    board::forget_turns()?;
    away.give_back()?;
    works(&gpu.open()?)?;
    let turns = board::turns()?;
    let state = State::now()?;
    let domains = position(&turns, "domains", all_domains(&state)?)?;
    let clock = position(&turns, "clock", 1)?;
    let reset = position(&turns, "reset", 0)?;
    check!(domains < clock && domains < reset, "{turns:?}");
    if state.text("compatible")? == PICKY {
        check!(reset < clock, "{turns:?}");
    }
    Ok(())
}

/// An interrupt that is missing, or comes with a driver that is not there yet, is found out before
/// anything is turned on.
fn no_interrupt(gpu: &Gpu) -> Outcome {
    let mut turned = Vec::new();
    for irq in [1, 2, 4] {
        let away = gpu.node.unbind()?;
        settled()?;
        board::forget_turns()?;
        board::hide_irqs(irq)?;
        let bound = away.clone().give_back();
        board::hide_irqs(0)?;
        check_eq!(bound, Err(Errno(libc::ENXIO)), "without interrupt {irq}");
        // The platform core takes care of a single domain.
        let turns = board::turns()?.into_iter();
        turned.extend(turns.filter(|turn| turn.what != "domains"));
        settled()?;
        away.give_back()?;
    }
    check!(turned.is_empty(), "{turned:?}");
    works(&gpu.open()?)
}

/// Breaks each rule that the board module has, one after the other, and no other with it: so each
/// is known to be applied.
fn rules_count(gpu: &Gpu) -> Outcome {
    let away = gpu.node.unbind()?;
    let found = settled()?;
    let mut outcome = break_in_turn(&found);
    let supplied = State::now()?.number("supply")? != 0;
    all_off(&found)?;
    if outcome.is_err() && !supplied {
        // Half a minute after its start the kernel turns off supplies that nobody uses.
        outcome = break_in_turn(&found);
        all_off(&found)?;
    }
    // Switches that the last driver has left on are found when the next one comes.
    board::turn("prepared", 1)?;
    let given_back = counts(Some("R8-left-on"), || away.give_back());
    outcome?;
    given_back?;
    works(&gpu.open()?)
}

/// Turns everything off, in an order that breaks no rule, and the rate and the voltage to where
/// they were.
fn all_off(found: &State) -> Outcome {
    for what in ["reset", "clock", "prepared", "domains", "supply"] {
        board::turn(what, (what == "reset").into())?;
    }
    for what in ["khz", "microvolts"] {
        board::turn(what, found.number(what)?)?;
    }
    Ok(())
}

/// From everything being off to the reset line being asserted again.
fn break_in_turn(found: &State) -> Outcome {
    let turn = |what: &str, position: u32, broken: Option<&str>| {
        counts(broken, || board::turn(what, position))
    };
    let domains = all_domains(found)?;
    turn("clock", 1, Some("R1-clock-on-without-domain"))?;
    turn("clock", 0, None)?;
    turn("reset", 0, Some("R2-reset-released-without-domain"))?;
    turn("reset", 1, None)?;
    // As a driver should.
    for (what, position) in [
        ("khz", 200_000),
        ("microvolts", 700_000),
        ("supply", 1),
        ("domains", domains),
        ("reset", 0),
        ("clock", 1),
    ] {
        turn(what, position, None)?;
    }
    turn("khz", 800_000, Some("R4-rate-above-voltage"))?;
    turn("microvolts", 1_000_000, None)?;
    turn("microvolts", 950_000, Some("R5-voltage-below-rate"))?;
    turn("khz", 200_000, None)?;
    // The L2 cache will do.
    board::registers()?.put32(L2_PWRON, 1);
    let model = Board::open()?;
    let end = Instant::now() + PATIENCE;
    while model.read(control::CORES) != 1 {
        check!(Instant::now() < end, "the L2 cache does not come up");
    }
    turn("clock", 0, Some("R6-cut-while-cores-are-on"))?;
    turn("clock", 1, None)?;
    turn("reset", 1, None)?;
    let picky = found.text("compatible")? == PICKY;
    turn(
        "domains",
        0,
        picky.then_some("R3-domain-switched-while-in-use"),
    )
}

/// This rule is broken once by what is done, or none is. Broken rules are forgiven.
fn counts(rule: Option<&str>, run: impl FnOnce() -> sys::Result<()>) -> Outcome {
    let before = Rules::now()?;
    run()?;
    let moved = Rules::now()?.since(&before);
    for line in &moved {
        board::forgive(line.split(':').next().unwrap_or(line))?;
    }
    let expected: Vec<String> = rule
        .iter()
        .map(|rule| format!("{rule}: broken 1 times"))
        .collect();
    check_eq!(moved, expected);
    Ok(())
}
