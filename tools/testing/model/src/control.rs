// SPDX-License-Identifier: GPL-2.0

//! The control channel: the board's side of the GPU, fault injection, statistics.
//!
//! It is a register block of its own (BAR 4 of the PCI function, 4 KiB, little-endian 32-bit
//! registers), which works in any state of the GPU. The board module and the guest tests use the
//! same constants. The same orders are accepted as lines of text, see [`parse`].
//!
//! Locks: none of its own, part of the GPU's state.

use crate::power::Manner;
use crate::product::SLOTS;

/// The size of the block in bytes.
pub const CONTROL_SPACE: u64 = 0x1000;

/// Reads as [`MAGIC_VALUE`].
pub const MAGIC: u32 = 0x000;
/// "MGPU".
pub const MAGIC_VALUE: u32 = 0x5550_474d;
/// The version of this layout.
pub const VERSION: u32 = 0x004;
/// The current version.
pub const VERSION_VALUE: u32 = 1;
/// The product number, the upper half of `GPU_ID`.
pub const PRODUCT: u32 = 0x008;

/// The supplies of the GPU: [`POWER_DOMAIN`], [`POWER_CLOCK`], [`POWER_REGULATOR`]. It needs all of
/// them to respond. Without the clock it stops; without one of the others it loses all state.
pub const POWER: u32 = 0x010;
/// The power domain is on.
pub const POWER_DOMAIN: u32 = 1 << 0;
/// The clock runs.
pub const POWER_CLOCK: u32 = 1 << 1;
/// The regulator is on.
pub const POWER_REGULATOR: u32 = 1 << 2;
/// All supplies.
pub const POWER_ALL: u32 = POWER_DOMAIN | POWER_CLOCK | POWER_REGULATOR;
/// Reads as 1 if the board has to drive the supplies; 0 if everything is on from the start.
pub const POWER_CONTROLLED: u32 = 1 << 31;
/// 1 while the reset line is asserted, which clears all state of the GPU.
pub const RESET_LINE: u32 = 0x014;
/// The frequency of the clock in kHz. Scales the cycle counter and, with the habits of silicon, the
/// speed of the job manager and of [`Opcode::SlowJobs`].
pub const FREQ_KHZ: u32 = 0x018;
/// Reads as 1 while a core, tiler or cache is on or in transition, so that cutting the power could
/// lose data. Read only.
pub const CORES: u32 = 0x01c;
/// How the model behaves: [`HABITS_SILICON`]. Read only.
pub const HABITS: u32 = 0x020;
/// The model is as slow and as weakly ordered as silicon.
pub const HABITS_SILICON: u32 = 1 << 0;

/// The time of the guest's log in nanoseconds, low word. Write only; for the model's own log.
pub const GUEST_TIME_LO: u32 = 0x030;
/// The high word. Both words are valid at the moment when this one is written.
pub const GUEST_TIME_HI: u32 = 0x034;

/// Writing an opcode performs it with the current arguments.
pub const INJECT: u32 = 0x100;
/// The result of the last order: 0 or an errno value.
pub const INJECT_RESULT: u32 = 0x104;
/// The first of four argument registers.
pub const ARG0: u32 = 0x110;

/// The first statistics register, see [`Stat`].
pub const STATS: u32 = 0x200;

/// `INJECT_RESULT`: an argument or the opcode is not valid.
pub const EINVAL: u32 = 22;

/// Slot argument: the first slot where it applies.
pub const ANY_SLOT: u32 = 0xffff_ffff;
/// Time argument: never.
pub const NEVER: u32 = 0xffff_ffff;

/// Statistics registers, read only, one word each from [`STATS`] on. They wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stat {
    /// Violations by the driver: accesses to an unpowered, unclocked or reset GPU, flushes without
    /// a lock, power cuts while the L2 cache holds stores, chains that start without a flush.
    Violations,
    /// GPU registers read.
    RegReads,
    /// GPU registers written.
    RegWrites,
    /// Jobs that succeeded.
    JobsDone,
    /// Jobs that failed.
    JobsFailed,
    /// MMU faults reported to the driver.
    MmuFaults,
    /// Translations answered by a TLB.
    TlbHits,
    /// Translations that needed a walk.
    TlbMisses,
    /// `FLUSH_PT` and `FLUSH_MEM` commands.
    AsFlushes,
    /// Messages sent on vector 0.
    JobIrqs,
    /// Messages sent on vector 1.
    MmuIrqs,
    /// Messages sent on vector 2.
    GpuIrqs,
    /// Soft stops that hit a running chain.
    SoftStops,
    /// Hard stops that hit a running chain.
    HardStops,
    /// Soft resets.
    SoftResets,
    /// Hard resets.
    HardResets,
    /// Bytes that jobs moved, low word.
    DmaBytesLo,
    /// Bytes that jobs moved, high word.
    DmaBytesHi,
    /// `UPDATE` commands.
    AsUpdates,
    /// `LOCK` commands.
    AsLocks,
    /// AS commands that were lost because another was active.
    AsLostCommands,
    /// Chains that succeeded.
    ChainsDone,
    /// Chains that failed, except those that a soft stop ended.
    ChainsFailed,
    /// Bytes taken from tiler heaps, low word.
    HeapBytesLo,
    /// Bytes taken from tiler heaps, high word.
    HeapBytesHi,
    /// Heap comparisons that failed.
    HeapMismatches,
    /// Power transitions of cores and caches.
    PowerTransitions,
    /// Stores that reached a page after the address space had stopped mapping it, see
    /// [`crate::mmu::stores`].
    LateStores,
    /// Stores that were dropped by a reset or a power cut, or because the memory was gone.
    LostStores,
    /// Stores of jobs that have not reached memory yet. Not a counter.
    HeldStores,
    /// Walks through a table that is no longer reachable in memory, see [`crate::mmu::steps`].
    StaleWalks,
    /// Flushes of an address space without a lock.
    AsUnlockedFlushes,
    /// Power cuts with the L2 cache not down.
    PowerCuts,
}

/// The names of the statistics, in the order of [`Stat`].
pub const STAT_NAMES: [&str; 33] = [
    "violations",
    "reg-reads",
    "reg-writes",
    "jobs-done",
    "jobs-failed",
    "mmu-faults",
    "tlb-hits",
    "tlb-misses",
    "as-flushes",
    "job-irqs",
    "mmu-irqs",
    "gpu-irqs",
    "soft-stops",
    "hard-stops",
    "soft-resets",
    "hard-resets",
    "dma-bytes-lo",
    "dma-bytes-hi",
    "as-updates",
    "as-locks",
    "as-lost-commands",
    "chains-done",
    "chains-failed",
    "heap-bytes-lo",
    "heap-bytes-hi",
    "heap-mismatches",
    "power-transitions",
    "late-stores",
    "lost-stores",
    "held-stores",
    "stale-walks",
    "as-unlocked-flushes",
    "power-cuts",
];

impl Stat {
    /// Returns the register of the statistic.
    pub const fn offset(self) -> u32 {
        STATS + 4 * self as u32
    }
}

/// The orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Opcode {
    /// The next ARG1 (0 is 1) chains that start on slot ARG0 (or [`ANY_SLOT`]) hang. A soft stop
    /// does not end a hang.
    HangNextJob = 1,
    /// ARG0: 1 to ignore soft stops, 0 not to.
    IgnoreSoftStop = 2,
    /// ARG0: 1 to ignore hard stops, 0 not to.
    IgnoreHardStop = 3,
    /// The next ARG1 (0 is 1) chains that start on slot ARG0 (or [`ANY_SLOT`]) end with a bus
    /// fault.
    BusFaultNextJob = 4,
    /// The next ARG2 (0 is 1) accesses to the page of VA ARG1:ARG0, in any address space, have a
    /// translation fault.
    TranslationFaultAt = 5,
    /// The next ARG1 messages of vector ARG0 get lost.
    LoseIrq = 6,
    /// The next ARG1 messages of vector ARG0 are sent twice, the second one a little later.
    DuplicateIrq = 7,
    /// Raw bits ARG1 of vector ARG0 are set, regardless of the state, and a message is sent if the
    /// line is high, even if it has been.
    SpuriousIrq = 8,
    /// Resets take ARG0 microseconds, or [`NEVER`] complete; 0 for the usual time. ARG1: 1 to
    /// exempt hard resets.
    DelayReset = 9,
    /// Power transitions take ARG0 microseconds, or [`NEVER`] complete; 0 for the usual time.
    DelayPower = 10,
    /// ARG0: 1 lets all GPU registers read as all-ones, drops writes, stops jobs and interrupts,
    /// as if the GPU had been pulled out; 0 puts it back.
    AllOnes = 11,
    /// ARG0: 1 keeps AS commands active for ever, 0 ends them.
    StickAsCommand = 12,
    /// Each job waits ARG0 microseconds before it does anything; 0 for none. With the habits of
    /// silicon that is the time at [`SCALE_FREQ_KHZ`], and less with a faster clock.
    SlowJobs = 13,
    /// Hung chains continue.
    Release = 14,
    /// Undoes all orders, and lets stuck events complete.
    ClearAll = 15,
    /// Raw bits ARG1 of vector ARG0 are set and cannot be cleared until a reset.
    StickIrq = 16,
    /// The next ARG2 (0 is 1) messages of vector ARG0 are sent ARG1 microseconds late.
    LateIrq = 17,
    /// The next power transition takes ARG0 microseconds.
    DelayPowerOnce = 18,
    /// The cores ARG1 of unit ARG0 (0 L2 caches, 1 tilers, 2 shader cores, 3 core stacks) stay in
    /// transition when they are told to power up; 0 for none.
    NeverUp = 19,
    /// The cores ARG1 of unit ARG0 stay in transition when they are told to power down; 0 for none.
    NeverDown = 20,
    /// The next ARG1 (0 is 1) chains that succeed on slot ARG0 (or [`ANY_SLOT`]) with no chain
    /// behind them do not set their bit in `JOB_INT_RAWSTAT`, and leave a `JS_STATUS` of 0 (erratum
    /// 10883). If an earlier chain's bit is still set, the write that clears it samples the slot as
    /// active; the next one does not.
    LoseDone = 24,
    /// ARG0: 1 lets hard stops leave a `JS_STATUS` of 0 instead of TERMINATED (erratum 10673); 0
    /// does not.
    LoseStopStatus = 25,
    /// `JS_COMMAND_NEXT` stays busy for ARG0 microseconds after `START`, or with [`NEVER`] until
    /// another such order; 0 for the usual time.
    DelayStart = 26,
    /// ARG0: 1 prevents all resets and power transitions that begin from now on from completing,
    /// even if the reset line is used, until the domain or the regulator is turned off, which ends
    /// this order; 0 ends it without completing them.
    Wedge = 27,
    /// From now on chains that start on slot ARG0 hang, except for ARG1 of them: the one that hangs
    /// there continues first, then those that start next. Further orders add to that number.
    RationJobs = 28,
}

/// All opcodes with their textual names.
pub const OPCODES: [(Opcode, &str); 25] = [
    (Opcode::HangNextJob, "hang-next-job"),
    (Opcode::IgnoreSoftStop, "ignore-soft-stop"),
    (Opcode::IgnoreHardStop, "ignore-hard-stop"),
    (Opcode::BusFaultNextJob, "bus-fault-next-job"),
    (Opcode::TranslationFaultAt, "translation-fault-at"),
    (Opcode::LoseIrq, "lose-irq"),
    (Opcode::DuplicateIrq, "duplicate-irq"),
    (Opcode::SpuriousIrq, "spurious-irq"),
    (Opcode::DelayReset, "delay-reset"),
    (Opcode::DelayPower, "delay-power"),
    (Opcode::AllOnes, "all-ones"),
    (Opcode::StickAsCommand, "stick-as-command"),
    (Opcode::SlowJobs, "slow-jobs"),
    (Opcode::Release, "release"),
    (Opcode::ClearAll, "clear-all"),
    (Opcode::StickIrq, "stick-irq"),
    (Opcode::LateIrq, "late-irq"),
    (Opcode::DelayPowerOnce, "delay-power-once"),
    (Opcode::NeverUp, "never-up"),
    (Opcode::NeverDown, "never-down"),
    (Opcode::LoseDone, "lose-done"),
    (Opcode::LoseStopStatus, "lose-stop-status"),
    (Opcode::DelayStart, "delay-start"),
    (Opcode::Wedge, "wedge"),
    (Opcode::RationJobs, "ration-jobs"),
];

impl Opcode {
    /// Decodes a register value.
    pub fn new(value: u32) -> Option<Self> {
        OPCODES
            .into_iter()
            .map(|(op, _)| op)
            .find(|&op| op as u32 == value)
    }
}

/// An order that applies to the next chains of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextJobs {
    slot: u32,
    count: u32,
}

impl NextJobs {
    /// Applies an order to the next `count` chains of `slot`.
    pub fn new(slot: u32, count: u32) -> Self {
        Self { slot, count }
    }

    /// Returns whether a chain on `slot` is one of them, and counts it.
    pub fn take(&mut self, slot: usize) -> bool {
        let hit = self.count > 0 && (self.slot == ANY_SLOT || self.slot as usize == slot);
        self.count -= u32::from(hit);
        hit
    }
}

/// An ordered duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delay {
    /// The usual time.
    #[default]
    Usual,
    /// This many nanoseconds.
    Nanoseconds(u64),
    /// It never completes.
    Never,
}

impl Delay {
    /// Decodes an argument in microseconds.
    pub fn new(us: u32) -> Self {
        match us {
            0 => Delay::Usual,
            NEVER => Delay::Never,
            us => Delay::Nanoseconds(u64::from(us) * 1000),
        }
    }

    /// Returns the time in nanoseconds, given the usual one, or `None` for never.
    pub fn or(self, usual: u64) -> Option<u64> {
        match self {
            Delay::Usual => Some(usual),
            Delay::Nanoseconds(ns) => Some(ns),
            Delay::Never => None,
        }
    }
}

/// The current orders.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders {
    /// See [`Opcode::HangNextJob`].
    pub hang: NextJobs,
    /// See [`Opcode::BusFaultNextJob`].
    pub bus_fault: NextJobs,
    /// See [`Opcode::IgnoreSoftStop`].
    pub ignore_soft_stop: bool,
    /// See [`Opcode::IgnoreHardStop`].
    pub ignore_hard_stop: bool,
    /// See [`Opcode::DelayReset`].
    pub reset: Delay,
    /// Whether hard resets take the usual time.
    pub spare_hard_reset: bool,
    /// See [`Opcode::DelayPower`].
    pub power: Delay,
    /// See [`Opcode::DelayPowerOnce`], in nanoseconds.
    pub power_once: Option<u64>,
    /// See [`Opcode::NeverUp`] and [`Opcode::NeverDown`].
    pub manner: Manner,
    /// See [`Opcode::AllOnes`].
    pub all_ones: bool,
    /// See [`Opcode::StickAsCommand`].
    pub stick_as: bool,
    /// See [`Opcode::SlowJobs`], in nanoseconds.
    pub slow_jobs: u64,
    /// See [`Opcode::LoseDone`].
    pub lose_done: NextJobs,
    /// See [`Opcode::LoseStopStatus`].
    pub lose_stop_status: bool,
    /// See [`Opcode::DelayStart`].
    pub start: Delay,
    /// See [`Opcode::Wedge`].
    pub wedged: bool,
    /// See [`Opcode::RationJobs`]: how many chains of each slot may still continue, if that is
    /// limited.
    pub rations: [Option<u32>; SLOTS],
}

impl Orders {
    /// Returns whether a chain on `slot` may continue, and counts it.
    pub fn take_ration(&mut self, slot: usize) -> bool {
        match &mut self.rations[slot] {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}

/// The inputs of the GPU that the board drives.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// See [`POWER`].
    pub power: u32,
    /// See [`RESET_LINE`].
    pub reset: bool,
    /// See [`FREQ_KHZ`].
    pub freq_khz: u32,
    /// Whether the board drives the supplies.
    pub controlled: bool,
}

/// The frequency until it is set.
pub const DEFAULT_FREQ_KHZ: u32 = 500_000;

/// The frequency for which scaled times are given: the lowest of the board's rates.
pub const SCALE_FREQ_KHZ: u32 = 200_000;

impl Board {
    /// Creates the state at power-on: all off and in reset if `controlled`, else all on.
    pub fn new(controlled: bool) -> Self {
        Self {
            power: if controlled { 0 } else { POWER_ALL },
            reset: controlled,
            freq_khz: DEFAULT_FREQ_KHZ,
            controlled,
        }
    }

    /// Returns whether registers respond and jobs run.
    pub fn runs(&self) -> bool {
        self.powered() && self.power & POWER_CLOCK != 0
    }

    /// Returns whether the domain and the regulator are on.
    pub fn supplied(&self) -> bool {
        const BOTH: u32 = POWER_DOMAIN | POWER_REGULATOR;
        self.power & BOTH == BOTH
    }

    /// Returns whether the GPU keeps its state.
    pub fn powered(&self) -> bool {
        self.supplied() && !self.reset
    }
}

/// An order: opcode and arguments.
pub type Order = (Opcode, [u32; 4]);

/// Parses a line of text: the opcode's name, then up to four numbers (decimal or 0x...), or `any`,
/// `never`, `on`, `off`, `job`, `mmu`, `gpu`, `l2`, `tiler`, `shader`, `stack`. The address of
/// `translation-fault-at` is one number.
pub fn parse(line: &str) -> Result<Order, String> {
    let mut words = line.split_whitespace();
    let name = words.next().ok_or("empty line")?;
    let (opcode, _) = OPCODES
        .into_iter()
        .find(|(_, n)| *n == name)
        .ok_or_else(|| format!("unknown order '{name}'; help lists them"))?;
    let mut args = [0; 4];
    let mut n = 0;
    for word in words {
        let value = number(word).ok_or_else(|| format!("not a number: {word}"))?;
        let wide = opcode == Opcode::TranslationFaultAt && n == 0;
        let slot = args.get_mut(n).ok_or("too many arguments")?;
        *slot = value as u32;
        n += 1;
        if wide {
            args[1] = (value >> 32) as u32;
            n = 2;
        } else if value > u64::from(u32::MAX) {
            return Err(format!("too large: {word}"));
        }
    }
    Ok((opcode, args))
}

fn number(word: &str) -> Option<u64> {
    Some(match word {
        "any" | "never" => u64::from(u32::MAX),
        "on" => 1,
        "off" => 0,
        "job" => 0,
        "mmu" => 1,
        "gpu" => 2,
        "l2" => 0,
        "tiler" => 1,
        "shader" => 2,
        "stack" => 3,
        _ => match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok()?,
            None => word.parse().ok()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_text() {
        assert_eq!(
            parse("hang-next-job any 2"),
            Ok((Opcode::HangNextJob, [ANY_SLOT, 2, 0, 0]))
        );
        assert_eq!(
            parse("translation-fault-at 0x123456789000 3"),
            Ok((Opcode::TranslationFaultAt, [0x5678_9000, 0x1234, 3, 0]))
        );
        assert_eq!(
            parse("never-up shader 0x6"),
            Ok((Opcode::NeverUp, [2, 6, 0, 0]))
        );
        assert_eq!(parse("lose-irq mmu 1"), Ok((Opcode::LoseIrq, [1, 1, 0, 0])));
        assert!(parse("").is_err());
        assert!(parse("explode").is_err());
        assert!(parse("slow-jobs x").is_err());
        assert!(parse("slow-jobs 0x100000000").is_err());
        assert!(parse("release 1 2 3 4 5").is_err());
    }

    #[test]
    fn opcodes_are_unique() {
        assert!(OPCODES.is_sorted_by(|(a, _), (b, _)| (*a as u32) < *b as u32));
        for (op, name) in OPCODES {
            assert_eq!(Opcode::new(op as u32), Some(op));
            assert_eq!(parse(name), Ok((op, [0; 4])));
        }
        assert_eq!(Opcode::new(0), None);
        assert_eq!(Stat::PowerCuts.offset(), STATS + 4 * 32);
    }

    #[test]
    fn power_is_all_of_it() {
        let mut board = Board::new(true);
        assert!(!board.runs());
        board.power = POWER_ALL;
        assert!(!board.runs());
        board.reset = false;
        assert!(board.runs());
        board.power &= !POWER_CLOCK;
        assert!(!board.runs() && board.powered());
        assert!(Board::new(false).runs());
    }
}
