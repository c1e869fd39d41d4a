// SPDX-License-Identifier: GPL-2.0

//! The board around the GPU: the model's control BAR, reached through sysfs beside whichever driver
//! is bound, and what the board module tells in debugfs. Root only.

use std::fmt;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use model::control;
use model::control::Opcode;
use model::control::Stat;

use crate::device::open_file;
use crate::sys::Errno;
use crate::sys::Mapping;
use crate::sys::Result;

/// Where the board module has its files.
const DEBUGFS: &str = "/sys/kernel/debug/vgpu_board";

/// The module.
const MODULE: &str = "/sys/module/vgpu_board";

/// The rules that the model watches over: no access to the registers while the GPU is off (and some
/// more of the kind), no store to a page that is not mapped any more, no walk through a table that
/// is not there any more.
const OF_MODEL: [(&str, Stat); 3] = [
    ("R7-access-while-off", Stat::Violations),
    (LATE_STORE, Stat::LateStores),
    (STALE_WALK, Stat::StaleWalks),
];
const LATE_STORE: &str = "R9-late-store";
const STALE_WALK: &str = "R10-stale-walk";

/// The control BAR. Orders are undone on drop.
pub struct Board {
    regs: Mapping,
}

/// Maps the control BAR.
fn map() -> Result<Mapping> {
    let device = Board::pci_device().ok_or(Errno(libc::ENODEV))?;
    let file = open_file(&device.join("resource4"))?;
    let regs = Mapping::new(file.as_fd(), 0, control::CONTROL_SPACE as usize)?;
    if regs.get32(control::MAGIC as usize) != control::MAGIC_VALUE
        || regs.get32(control::VERSION as usize) != control::VERSION_VALUE
    {
        return Err(Errno(libc::ENODEV));
    }
    Ok(regs)
}

/// Reads a statistic without a [`Board`], so that no order is undone.
pub fn stat(stat: Stat) -> Result<u32> {
    Ok(map()?.get32(stat.offset() as usize))
}

/// Tells the model the time of the kernel's log, for its own log.
pub fn tell_time() -> Result<()> {
    let regs = map()?;
    let mut log = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    log.seek(SeekFrom::End(0))?;
    log.write_all(b"<6>guest-rules: the log of the model has this time\n")?;
    let mut record = [0; 1024];
    let len = log.read(&mut record)?;
    let us = record_time(&String::from_utf8_lossy(&record[..len])).ok_or(Errno(libc::EPROTO))?;
    let ns = us.saturating_mul(1000);
    regs.put32(control::GUEST_TIME_LO as usize, ns as u32);
    regs.put32(control::GUEST_TIME_HI as usize, (ns >> 32) as u32);
    Ok(())
}

/// The time in a record of /dev/kmsg: `priority,number,microseconds,flags;text`.
fn record_time(record: &str) -> Option<u64> {
    record.split(',').nth(2)?.parse().ok()
}

impl Board {
    /// The PCI function of the model.
    pub fn pci_device() -> Option<PathBuf> {
        let is = |path: &PathBuf, file: &str, what: &str| {
            fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim() == what)
        };
        fs::read_dir("/sys/bus/pci/devices")
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| is(path, "vendor", "0x13b5") && is(path, "device", "0x0001"))
    }

    /// Maps the control BAR. ENODEV if there is none, as on a real board.
    pub fn open() -> Result<Self> {
        Ok(Self { regs: map()? })
    }

    /// Reads a register.
    pub fn read(&self, offset: u32) -> u32 {
        self.regs.get32(offset as usize)
    }

    /// Reads a statistic.
    pub fn stat(&self, stat: Stat) -> u32 {
        self.read(stat.offset())
    }

    /// Returns whether the model is as slow and as weakly ordered as silicon.
    pub fn like_silicon(&self) -> bool {
        self.read(control::HABITS) & control::HABITS_SILICON != 0
    }

    /// Returns the rate of the GPU's clock in kHz.
    pub fn khz(&self) -> u32 {
        self.read(control::FREQ_KHZ)
    }

    /// Sets the rate of the GPU's clock in kHz, past the kernel. The caller sets it back.
    pub fn set_khz(&self, khz: u32) {
        self.regs.put32(control::FREQ_KHZ as usize, khz);
    }

    /// Orders something.
    pub fn order(&self, opcode: Opcode, args: &[u32]) -> Result<()> {
        for n in 0..4 {
            let arg = args.get(n).copied().unwrap_or(0);
            self.regs.put32(control::ARG0 as usize + 4 * n, arg);
        }
        self.regs.put32(control::INJECT as usize, opcode as u32);
        match self.read(control::INJECT_RESULT) {
            0 => Ok(()),
            errno => Err(Errno(errno as i32)),
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.order(Opcode::ClearAll, &[]);
    }
}

/// How often each rule of the board was broken. The board module has the rules (`recorder.c`),
/// except for those that the model has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<(String, u32)>);

impl Rules {
    /// The counts by now; none where there is no such board, as on a real one.
    pub fn now() -> Result<Self> {
        if Board::pci_device().is_none() && !Path::new(MODULE).exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(Path::new(DEBUGFS).join("rules"))?;
        let mut rules: Self = text.parse().map_err(|()| Errno(libc::EPROTO))?;
        let regs = map()?;
        rules
            .0
            .extend(OF_MODEL.map(|(name, stat)| (name.into(), regs.get32(stat.offset() as usize))));
        Ok(rules)
    }

    /// How much more often than `before` each was broken: a line for each of which that can be
    /// said. A count that is missing before was 0.
    pub fn since(&self, before: &Self) -> Vec<String> {
        let count = |name: &str| before.0.iter().find(|(other, _)| other == name);
        self.0
            .iter()
            .filter_map(|(name, now)| {
                let moved = now.wrapping_sub(count(name).map_or(0, |&(_, before)| before));
                (moved != 0).then(|| format!("{name}: broken {moved} times"))
            })
            .collect()
    }
}

/// Whether this line of [`Rules::since`] is only recorded of C panfrost. It unmaps with `FLUSH_PT`,
/// which does not wait for stores, so what it moves depends on the time.
pub fn only_recorded_of_peer(line: &str) -> bool {
    [LATE_STORE, STALE_WALK]
        .iter()
        .any(|name| line.starts_with(name))
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(name, count)| writeln!(f, "{name}: {count}"))
    }
}

impl std::str::FromStr for Rules {
    type Err = ();

    /// Reads what `Display` and the board module print.
    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let line = |line: &str| {
            let (name, count) = line.split_once(": ")?;
            Some((name.to_owned(), count.parse().ok()?))
        };
        let rules: Option<_> = text.lines().map(line).collect();
        rules.map(Self).ok_or(())
    }
}

/// The positions of the board's switches.
pub struct State(String);

impl State {
    /// The positions by now. ENODEV if there is no board.
    pub fn now() -> Result<Self> {
        let device = Board::pci_device().ok_or(Errno(libc::ENODEV))?;
        let name = device.file_name().ok_or(Errno(libc::ENODEV))?;
        Ok(Self(fs::read_to_string(Path::new(DEBUGFS).join(name))?))
    }

    /// A position, or another thing that the board module tells.
    pub fn text(&self, what: &str) -> Result<&str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(what)?.strip_prefix(": "))
            .ok_or(Errno(libc::ENOENT))
    }

    /// The same if it is a number.
    pub fn number(&self, what: &str) -> Result<u32> {
        self.text(what)?.parse().map_err(|_| Errno(libc::EINVAL))
    }
}

/// Has the next driver that binds find all interrupts but these: 1 is that of the jobs, 2 that of
/// the MMU, 4 that of the GPU.
pub fn hide_irqs(bits: u32) -> Result<()> {
    Ok(fs::write(
        Path::new(DEBUGFS).join("hidden-irqs"),
        bits.to_string(),
    )?)
}

/// Turns a switch by hand, behind the kernel's back: no driver may be bound.
pub fn turn(what: &str, position: u32) -> Result<()> {
    let device = Board::pci_device().ok_or(Errno(libc::ENODEV))?;
    let name = device.file_name().ok_or(Errno(libc::ENODEV))?;
    let line = format!("{what} {position}");
    Ok(fs::write(Path::new(DEBUGFS).join(name), line)?)
}

/// Takes back one count of a rule of the board module's, which was broken on purpose.
pub fn forgive(rule: &str) -> Result<()> {
    Ok(fs::write(Path::new(DEBUGFS).join("rules"), rule)?)
}

/// The registers of the GPU, which no driver may be bound to.
pub fn registers() -> Result<Mapping> {
    let device = Board::pci_device().ok_or(Errno(libc::ENODEV))?;
    let file = open_file(&device.join("resource0"))?;
    Mapping::new(file.as_fd(), 0, 0x1000)
}

/// The physical address of the registers of the GPU.
pub fn registers_address() -> Result<u64> {
    let device = Board::pci_device().ok_or(Errno(libc::ENODEV))?;
    let text = fs::read_to_string(device.join("resource"))?;
    let start = text.split_whitespace().next();
    start
        .and_then(|start| u64::from_str_radix(start.strip_prefix("0x")?, 16).ok())
        .ok_or(Errno(libc::EPROTO))
}

/// A switch was turned, or a rule broken by what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which.
    pub what: String,
    /// From which position.
    pub old: u32,
    /// To which one.
    pub new: u32,
}

/// Forgets what was recorded.
pub fn forget_turns() -> Result<()> {
    Ok(fs::write(Path::new(DEBUGFS).join("recorder"), "0")?)
}

/// Returns the last 256 turns that were recorded since.
pub fn turns() -> Result<Vec<Turn>> {
    let text = fs::read_to_string(Path::new(DEBUGFS).join("recorder"))?;
    let turn = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        Some(Turn {
            what: words.next()?.into(),
            old: words.next()?.parse().ok()?,
            new: words.next()?.parse().ok()?,
        })
    };
    let turns: Option<_> = text.lines().map(turn).collect();
    turns.ok_or(Errno(libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_moved() {
        let rules = |text: &str| text.parse::<Rules>().unwrap();
        let before = rules("R1-a: 0\nR2-b: 4294967295\n");
        assert_eq!(before.since(&before), Vec::<String>::new());
        let after = rules("R1-a: 0\nR2-b: 1\nR7-c: 3\n");
        let moved = ["R2-b: broken 2 times", "R7-c: broken 3 times"];
        assert_eq!(after.since(&before), moved);
        assert_eq!(rules(&after.to_string()), after);
        assert!("R1 1".parse::<Rules>().is_err());
    }
}
