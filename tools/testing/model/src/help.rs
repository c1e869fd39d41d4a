// SPDX-License-Identifier: GPL-2.0

//! The help text for the orders of [`crate::control`].
//!
//! Locks: none, constants only.

use crate::control::Opcode;
use crate::control::OPCODES;

/// Returns the arguments of an order in text, and a one-line description.
fn usage(opcode: Opcode) -> (&'static str, &'static str) {
    match opcode {
        Opcode::HangNextJob => (
            "SLOT|any [COUNT]",
            "the next chains hang; soft stops do not help",
        ),
        Opcode::IgnoreSoftStop => ("on|off", "soft stops are ignored"),
        Opcode::IgnoreHardStop => ("on|off", "hard stops are ignored"),
        Opcode::BusFaultNextJob => ("SLOT|any [COUNT]", "the next chains end with a bus fault"),
        Opcode::TranslationFaultAt => ("VA [COUNT]", "the next accesses to that page fault"),
        Opcode::LoseIrq => ("IRQ COUNT", "the next interrupts get lost"),
        Opcode::DuplicateIrq => ("IRQ COUNT", "the next interrupts come twice"),
        Opcode::SpuriousIrq => ("IRQ BITS", "an interrupt with these raw bits comes"),
        Opcode::DelayReset => (
            "US|never [0|1]",
            "resets take that long; 1: but for hard ones",
        ),
        Opcode::DelayPower => ("US|never", "power transitions take that long"),
        Opcode::AllOnes => ("on|off", "the GPU reads as all-ones, as if pulled out"),
        Opcode::StickAsCommand => ("on|off", "commands of address spaces do not end"),
        Opcode::SlowJobs => ("US", "each job takes that long before it begins"),
        Opcode::Release => ("", "chains that hang go on"),
        Opcode::ClearAll => ("", "all orders are undone"),
        Opcode::StickIrq => ("IRQ BITS", "these raw bits stay set until a reset"),
        Opcode::LateIrq => ("IRQ US [COUNT]", "the next interrupts come late"),
        Opcode::DelayPowerOnce => ("US", "the next power transition takes that long"),
        Opcode::NeverUp => ("UNIT CORES", "these cores never come up; 0: all do"),
        Opcode::NeverDown => ("UNIT CORES", "these cores never go down; 0: all do"),
        Opcode::LoseDone => ("SLOT|any [COUNT]", "the next chains end without a word"),
        Opcode::LoseStopStatus => ("on|off", "hard stops leave a status of 0"),
        Opcode::DelayStart => ("US|never", "a started chain is taken that late"),
        Opcode::Wedge => ("on|off", "resets and power-up end only after a power cut"),
        Opcode::RationJobs => ("SLOT COUNT", "that many more chains end there, others hang"),
    }
}

/// Returns the help text, one line for each order.
pub fn help() -> String {
    let mut text = String::new();
    for (opcode, name) in OPCODES {
        let (args, what) = usage(opcode);
        text += &format!("{:40} {what}\n", format!("{name} {args}"));
    }
    text += "stats                                    print the statistics\n";
    text += "help                                     print this\n";
    text += "IRQ is job, mmu or gpu; UNIT is l2, tiler, shader or stack; US are microseconds;\n";
    text += "BITS and CORES are masks, as 0x6; without COUNT it is 1.\n";
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::parse;

    #[test]
    fn the_help_has_every_order() {
        let help = help();
        for (_, name) in OPCODES {
            assert!(
                help.lines()
                    .any(|line| line.split(' ').next() == Some(name)),
                "{name}"
            );
        }
        assert!(parse("explode").is_err_and(|error| error.contains("help")));
    }
}
