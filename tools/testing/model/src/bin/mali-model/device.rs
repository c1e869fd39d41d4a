// SPDX-License-Identifier: GPL-2.0

//! The PCI function: its regions and the accesses to them.
//!
//! | region | content |
//! | --- | --- |
//! | BAR 0 | GPU registers |
//! | BAR 2 | MSI-X table and pending bits, 4 KiB, which the emulator handles |
//! | BAR 4 | control channel, 4 KiB |
//!
//! None of them can be mapped, so that the emulator can post writes.
//!
//! Locks: none of its own; the socket's thread owns it and takes the engine's lock for each
//! access.

use std::sync::Arc;

use model::control::CONTROL_SPACE;
use model::engine::Engine;
use model::machine::Machine;

use crate::dma::DmaMap;
use crate::irqs::Eventfds;
use crate::log::Log;
use crate::pci::Config;
use crate::pci::Effect;
use crate::pci::CONFIG_SPACE;

const MSIX_SPACE: u64 = 0x1000;
/// The number of regions in the protocol: six BARs, ROM, configuration space, VGA.
pub(crate) const REGIONS: u32 = 9;
const CONFIG_REGION: u32 = 7;

/// Returns the name of a register of the control channel in the log.
fn offset(at: u32) -> String {
    format!("{at:#06x}")
}

/// The function.
pub(crate) struct Device<M: Machine> {
    config: Config,
    engine: Arc<Engine<M>>,
    /// Guest memory.
    pub(crate) dma: Arc<DmaMap>,
    /// Interrupts.
    pub(crate) eventfds: Arc<Eventfds>,
    log: Option<Arc<Log>>,
}

impl<M: Machine> Device<M> {
    const BARS: [u64; 6] = [M::REGISTER_SPACE, 0, MSIX_SPACE, 0, CONTROL_SPACE, 0];

    /// Creates the function of the GPU with the number `product`, on the board that `revision`
    /// stands for.
    pub(crate) fn new(
        product: u16,
        revision: u8,
        engine: Arc<Engine<M>>,
        dma: Arc<DmaMap>,
        eventfds: Arc<Eventfds>,
        log: Option<Arc<Log>>,
    ) -> Self {
        Self {
            config: Config::new(product, revision, M::LINES.len() as u16, Self::BARS),
            engine,
            dma,
            eventfds,
            log,
        }
    }

    /// Returns the size of a region in bytes, 0 if there is no such region.
    pub(crate) fn region_size(&self, region: u32) -> u64 {
        match region {
            CONFIG_REGION => CONFIG_SPACE as u64,
            _ => Self::BARS.get(region as usize).copied().unwrap_or(0),
        }
    }

    /// Adds a line to the log.
    pub(crate) fn log(&self, what: std::fmt::Arguments<'_>) {
        if let Some(log) = &self.log {
            log.line(what);
        }
    }

    /// Fills `buf` from a region. Bytes outside the region read as zero.
    pub(crate) fn read(&mut self, region: u32, at: u64, buf: &mut [u8]) {
        match region {
            0 => self.read_words("R", M::register_name, at, buf, |engine, at| {
                engine.read32(at)
            }),
            4 => self.read_words("CR", offset, at, buf, |engine, at| {
                engine.control_read32(at)
            }),
            CONFIG_REGION => self.config.read(at, buf),
            _ => buf.fill(0),
        }
    }

    fn read_words(
        &self,
        what: &str,
        name: fn(u32) -> String,
        at: u64,
        buf: &mut [u8],
        read: impl Fn(&Engine<M>, u32) -> u32,
    ) {
        let mut done = 0;
        while done < buf.len() {
            let byte = at as u32 + done as u32;
            let (word, skip) = (byte & !3, (byte & 3) as usize);
            let value = read(&self.engine, word);
            if self.log.is_some() {
                self.log(format_args!("{what} {} {value:#010x}", name(word)));
            }
            let bytes = &value.to_le_bytes()[skip..];
            let n = bytes.len().min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&bytes[..n]);
            done += n;
        }
    }

    /// Stores `data` in a region. Bytes outside the region are dropped, and so are partial
    /// registers.
    pub(crate) fn write(&mut self, region: u32, at: u64, data: &[u8]) {
        match region {
            0 => self.write_words("W", M::register_name, at, data, |engine, at, value| {
                engine.write32(at, value)
            }),
            4 => self.write_words("CW", offset, at, data, |engine, at, value| {
                engine.control_write32(at, value);
                if let Some(log) = &self.log {
                    log.control_write(at, value);
                }
            }),
            CONFIG_REGION => {
                if self.config.write(at, data) == Effect::Reset {
                    self.reset();
                }
            }
            _ => (),
        }
    }

    fn write_words(
        &self,
        what: &str,
        name: fn(u32) -> String,
        at: u64,
        data: &[u8],
        write: impl Fn(&Engine<M>, u32, u32),
    ) {
        if at % 4 != 0 {
            return;
        }
        for (n, bytes) in data.chunks_exact(4).enumerate() {
            let word = at as u32 + 4 * n as u32;
            let value = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if self.log.is_some() {
                self.log(format_args!("{what} {} {value:#010x}", name(word)));
            }
            write(&self.engine, word, value);
        }
    }

    /// Handles a reset of the machine by the emulator.
    pub(crate) fn machine_reset(&mut self) {
        self.reset();
        self.engine.with(|gpu| gpu.machine_reset());
    }

    /// Resets the function.
    fn reset(&mut self) {
        self.config.reset();
        self.engine.with(|gpu| gpu.function_reset());
        self.eventfds.reset();
    }
}
