// SPDX-License-Identifier: GPL-2.0

//! The GPU model's control BAR, reached through sysfs beside whichever driver is bound. Root only.

use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

use model::control;
use model::control::Opcode;
use model::control::Stat;

use crate::device::open_file;
use crate::sys::Errno;
use crate::sys::Mapping;
use crate::sys::Result;

/// The control BAR. What was ordered is undone on drop.
pub struct Board {
    regs: Mapping,
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
        let device = Self::pci_device().ok_or(Errno(libc::ENODEV))?;
        let file = open_file(&device.join("resource4"))?;
        let regs = Mapping::new(file.as_fd(), 0, control::CONTROL_SPACE as usize)?;
        if regs.get32(control::MAGIC as usize) != control::MAGIC_VALUE
            || regs.get32(control::VERSION as usize) != control::VERSION_VALUE
        {
            return Err(Errno(libc::ENODEV));
        }
        Ok(Self { regs })
    }

    /// Reads a register.
    pub fn read(&self, offset: u32) -> u32 {
        self.regs.get32(offset as usize)
    }

    /// Reads a statistic.
    pub fn stat(&self, stat: Stat) -> u32 {
        self.read(stat.offset())
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
