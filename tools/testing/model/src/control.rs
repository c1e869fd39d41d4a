// SPDX-License-Identifier: GPL-2.0

//! The control channel: the board's side of the GPU, ordered faults, statistics.
//!
//! It is a register block of its own (BAR 4 of the PCI function, 4 KiB, little-endian 32-bit
//! registers), which works however the GPU is. The constants are used by the board module's and
//! the guest tests' side, too. The same orders are accepted as lines of text, see [`parse`].
//!
//! Locks: none of its own, part of the GPU's state.

/// Size of the block in bytes.
pub const CONTROL_SPACE: u64 = 0x1000;

/// Reads as [`MAGIC_VALUE`].
pub const MAGIC: u32 = 0x000;
/// "MGPU".
pub const MAGIC_VALUE: u32 = 0x5550_474d;
/// Version of this layout.
pub const VERSION: u32 = 0x004;
/// What it is now.
pub const VERSION_VALUE: u32 = 1;
/// Product number, the upper half of `GPU_ID`.
pub const PRODUCT: u32 = 0x008;

/// What feeds the GPU: [`POWER_DOMAIN`], [`POWER_CLOCK`], [`POWER_REGULATOR`], all needed for it
/// to answer. Without the clock it stands still; without one of the others it forgets everything.
pub const POWER: u32 = 0x010;
/// The power domain is on.
pub const POWER_DOMAIN: u32 = 1 << 0;
/// The clock runs.
pub const POWER_CLOCK: u32 = 1 << 1;
/// The regulator is on.
pub const POWER_REGULATOR: u32 = 1 << 2;
/// All of them.
pub const POWER_ALL: u32 = POWER_DOMAIN | POWER_CLOCK | POWER_REGULATOR;
/// Reads as 1 if the board has to drive all this; 0 if everything was on from the start.
pub const POWER_CONTROLLED: u32 = 1 << 31;
/// 1 while the reset line is asserted; the GPU forgets everything then.
pub const RESET_LINE: u32 = 0x014;
/// Frequency of the clock in kHz. Scales the cycle counter.
pub const FREQ_KHZ: u32 = 0x018;

/// Writing an opcode performs it with the arguments set before.
pub const INJECT: u32 = 0x100;
/// How the last one went: 0, or an errno value.
pub const INJECT_RESULT: u32 = 0x104;
/// First of four argument registers.
pub const ARG0: u32 = 0x110;

/// First statistics register, see [`Stat`].
pub const STATS: u32 = 0x200;

/// `INJECT_RESULT`: an argument or opcode is not known.
pub const EINVAL: u32 = 22;

/// Slot argument: whichever is first.
pub const ANY_SLOT: u32 = 0xffff_ffff;
/// Time argument: never.
pub const NEVER: u32 = 0xffff_ffff;

/// Statistics registers, read only, one word each from [`STATS`] on. They wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stat {
    /// Accesses to an unpowered, unclocked or reset GPU.
    Violations,
    /// GPU registers read.
    RegReads,
    /// GPU registers written.
    RegWrites,
    /// Jobs that ended well.
    JobsDone,
    /// Jobs that ended otherwise.
    JobsFailed,
    /// MMU faults told to the driver.
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
    /// AS commands written while another was active, which got lost.
    AsLostCommands,
    /// Chains that ended well.
    ChainsDone,
    /// Chains that ended otherwise.
    ChainsFailed,
    /// Bytes taken from tiler heaps, low word.
    HeapBytesLo,
    /// Bytes taken from tiler heaps, high word.
    HeapBytesHi,
    /// Heap comparisons that failed.
    HeapMismatches,
    /// Power transitions of cores and caches.
    PowerTransitions,
}

/// Names of the statistics, in the order of [`Stat`].
pub const STAT_NAMES: [&str; 27] = [
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
];

impl Stat {
    /// Its register.
    pub const fn offset(self) -> u32 {
        STATS + 4 * self as u32
    }
}

/// What can be ordered.
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
    /// Raw bits ARG1 of vector ARG0 are set, whatever the state is.
    SpuriousIrq = 8,
    /// Resets take ARG0 microseconds, or [`NEVER`] complete; 0 for the usual time. ARG1: 1 if hard
    /// resets are not to be delayed.
    DelayReset = 9,
    /// Power transitions take ARG0 microseconds, or [`NEVER`] complete; 0 for the usual time.
    DelayPower = 10,
    /// ARG0: 1 lets all GPU registers read as all-ones, drops writes, stops jobs and interrupts,
    /// as if the GPU had been pulled out; 0 puts it back.
    AllOnes = 11,
    /// ARG0: 1 keeps AS commands active for ever, 0 ends them.
    StickAsCommand = 12,
    /// Each job takes ARG0 microseconds before it does anything; 0 for none.
    SlowJobs = 13,
    /// Hung chains go on.
    Release = 14,
    /// Undoes everything above, and lets what was delayed complete.
    ClearAll = 15,
}

/// All opcodes with their names in text.
pub const OPCODES: [(Opcode, &str); 15] = [
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
];

impl Opcode {
    /// From the register value.
    pub fn new(value: u32) -> Option<Self> {
        OPCODES
            .into_iter()
            .map(|(op, _)| op)
            .find(|&op| op as u32 == value)
    }
}

/// Something to happen to the next chains of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextJobs {
    slot: u32,
    count: u32,
}

impl NextJobs {
    /// The next `count` chains of `slot`.
    pub fn new(slot: u32, count: u32) -> Self {
        Self { slot, count }
    }

    /// A chain starts on `slot`: whether it is one of them.
    pub fn take(&mut self, slot: usize) -> bool {
        let hit = self.count > 0 && (self.slot == ANY_SLOT || self.slot as usize == slot);
        self.count -= u32::from(hit);
        hit
    }
}

/// How long something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delay {
    /// As long as always.
    #[default]
    Usual,
    /// This many nanoseconds.
    Nanoseconds(u64),
    /// For ever.
    Never,
}

impl Delay {
    /// From an argument in microseconds.
    pub fn new(us: u32) -> Self {
        match us {
            0 => Delay::Usual,
            NEVER => Delay::Never,
            us => Delay::Nanoseconds(u64::from(us) * 1000),
        }
    }

    /// The time, if there is an end, where `usual` is as long as always.
    pub fn or(self, usual: u64) -> Option<u64> {
        match self {
            Delay::Usual => Some(usual),
            Delay::Nanoseconds(ns) => Some(ns),
            Delay::Never => None,
        }
    }
}

/// What is ordered now.
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
    /// Hard resets are as fast as always.
    pub spare_hard_reset: bool,
    /// See [`Opcode::DelayPower`].
    pub power: Delay,
    /// See [`Opcode::AllOnes`].
    pub all_ones: bool,
    /// See [`Opcode::StickAsCommand`].
    pub stick_as: bool,
    /// See [`Opcode::SlowJobs`], in nanoseconds.
    pub slow_jobs: u64,
}

/// What the board does with the GPU.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// See [`POWER`].
    pub power: u32,
    /// See [`RESET_LINE`].
    pub reset: bool,
    /// See [`FREQ_KHZ`].
    pub freq_khz: u32,
    /// Whether the board is to drive it.
    pub controlled: bool,
}

/// The clock before somebody sets it.
pub const DEFAULT_FREQ_KHZ: u32 = 500_000;

impl Board {
    /// All off and in reset if `controlled`, else all on.
    pub fn new(controlled: bool) -> Self {
        Self {
            power: if controlled { 0 } else { POWER_ALL },
            reset: controlled,
            freq_khz: DEFAULT_FREQ_KHZ,
            controlled,
        }
    }

    /// Whether registers answer and jobs run.
    pub fn runs(&self) -> bool {
        self.powered() && self.power & POWER_CLOCK != 0
    }

    /// Whether state is kept.
    pub fn powered(&self) -> bool {
        const BOTH: u32 = POWER_DOMAIN | POWER_REGULATOR;
        self.power & BOTH == BOTH && !self.reset
    }
}

/// An order: opcode and arguments.
pub type Order = (Opcode, [u32; 4]);

/// Reads a line of text: the opcode's name, then up to four numbers (decimal or 0x...), or `any`,
/// `never`, `on`, `off`, `job`, `mmu`, `gpu`. The address of `translation-fault-at` is one number.
pub fn parse(line: &str) -> Result<Order, String> {
    let mut words = line.split_whitespace();
    let name = words.next().ok_or("empty line")?;
    let (opcode, _) = OPCODES
        .into_iter()
        .find(|(_, n)| *n == name)
        .ok_or_else(|| format!("unknown command {name}"))?;
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
        assert_eq!(parse("lose-irq mmu 1"), Ok((Opcode::LoseIrq, [1, 1, 0, 0])));
        assert!(parse("").is_err());
        assert!(parse("explode").is_err());
        assert!(parse("slow-jobs x").is_err());
        assert!(parse("slow-jobs 0x100000000").is_err());
        assert!(parse("release 1 2 3 4 5").is_err());
    }

    #[test]
    fn opcodes_are_dense() {
        for (n, (op, _)) in OPCODES.into_iter().enumerate() {
            assert_eq!(op as usize, n + 1);
            assert_eq!(Opcode::new(op as u32), Some(op));
        }
        assert_eq!(Opcode::new(0), None);
        assert_eq!(Stat::PowerTransitions.offset(), STATS + 4 * 26);
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
