// SPDX-License-Identifier: GPL-2.0

//! PCI configuration space.
//!
//! A PCI Express endpoint with function level reset and MSI-X, no INTx. The class is
//! "processing accelerator", which avoids any VGA handling. The emulator determines the size of
//! BARs from the region sizes; only their type bits are taken from here.
//!
//! Locks: none; the socket's thread owns it.

/// Vendor and subsystem vendor: Arm.
const VENDOR: u16 = 0x13b5;
/// The device id of the model.
const DEVICE: u16 = 0x0001;
/// The size of the configuration space of a PCI Express function in bytes.
pub(crate) const CONFIG_SPACE: usize = 0x1000;

const COMMAND: usize = 0x04;
const STATUS_CAP_LIST: u16 = 0x10;
const BAR: usize = 0x10;
const CAP_PTR: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

const CAP_EXPRESS: usize = 0x40;
const DEVICE_CONTROL: usize = CAP_EXPRESS + 0x08;
const INITIATE_FLR: u16 = 1 << 15;
const CAP_MSIX: usize = 0x80;
const MSIX_CONTROL: usize = CAP_MSIX + 0x02;
const MSIX_BAR: u32 = 2;
const PBA_OFFSET: u32 = 0x800;

/// The effect of a write to configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// No further effect.
    None,
    /// The function has to be reset.
    Reset,
}

/// Configuration space, and the mask of its writable bits.
pub(crate) struct Config {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    at_reset: Vec<u8>,
}

impl Config {
    /// Creates the configuration space for the product with this number. `revision` distinguishes
    /// boards with the same GPU. There are `vectors` MSI-X vectors, at least one. `bars` are the
    /// sizes in bytes; BAR 0 is 64 bits wide.
    pub(crate) fn new(product: u16, revision: u8, vectors: u16, bars: [u64; 6]) -> Self {
        let mut config = Self {
            bytes: vec![0; CONFIG_SPACE],
            writable: vec![0; CONFIG_SPACE],
            at_reset: Vec::new(),
        };
        config.set16(0x00, VENDOR, 0);
        config.set16(0x02, DEVICE, 0);
        config.set16(COMMAND, 0, 0x0546);
        config.set16(0x06, STATUS_CAP_LIST, 0);
        config.set32(0x08, 0x1200_0000 | u32::from(revision), 0);
        for (n, size) in bars.into_iter().enumerate() {
            if size != 0 {
                let wide = u32::from(n == 0) << 2;
                let mask = !(size - 1);
                config.set32(BAR + 4 * n, wide, mask as u32 & !0xf);
                if wide != 0 {
                    config.set32(BAR + 4 * n + 4, 0, (mask >> 32) as u32);
                }
            }
        }
        config.set16(0x2c, VENDOR, 0);
        config.set16(0x2e, product, 0);
        config.set16(CAP_PTR, CAP_EXPRESS as u16, 0);
        config.set16(INTERRUPT_LINE, 0, 0xff);

        // PCI Express, version 2, endpoint; role-based error reporting and FLR; one lane of the
        // first generation.
        config.set16(CAP_EXPRESS, 0x10 | (CAP_MSIX as u16) << 8, 0);
        config.set16(CAP_EXPRESS + 0x02, 0x0002, 0);
        config.set32(CAP_EXPRESS + 0x04, 1 << 28 | 1 << 15, 0);
        config.set16(DEVICE_CONTROL, 0x2810, 0x7fff);
        config.set32(CAP_EXPRESS + 0x0c, 0x11, 0);
        config.set16(CAP_EXPRESS + 0x10, 0, 0x01ff);
        config.set16(CAP_EXPRESS + 0x12, 0x11, 0);
        config.set16(CAP_EXPRESS + 0x28, 0, 0xffff);
        config.set16(CAP_EXPRESS + 0x30, 0x1, 0);

        config.set16(CAP_MSIX, 0x11, 0);
        config.set16(MSIX_CONTROL, vectors - 1, 0xc000);
        config.set32(CAP_MSIX + 0x04, MSIX_BAR, 0);
        config.set32(CAP_MSIX + 0x08, PBA_OFFSET | MSIX_BAR, 0);
        config.at_reset = config.bytes.clone();
        config
    }

    fn set16(&mut self, at: usize, value: u16, writable: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self.writable[at..at + 2].copy_from_slice(&writable.to_le_bytes());
    }

    fn set32(&mut self, at: usize, value: u32, writable: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        self.writable[at..at + 4].copy_from_slice(&writable.to_le_bytes());
    }

    /// Reads bytes; those outside are zero.
    pub(crate) fn read(&self, at: u64, buf: &mut [u8]) {
        for (n, byte) in (at..).zip(buf) {
            *byte = usize::try_from(n)
                .ok()
                .and_then(|n| self.bytes.get(n))
                .copied()
                .unwrap_or(0);
        }
    }

    /// Writes the writable bits.
    pub(crate) fn write(&mut self, at: u64, data: &[u8]) -> Effect {
        let mut effect = Effect::None;
        for (n, &new) in (at..).zip(data) {
            let Some(n) = usize::try_from(n).ok().filter(|&n| n < CONFIG_SPACE) else {
                break;
            };
            let mask = self.writable[n];
            self.bytes[n] = self.bytes[n] & !mask | new & mask;
            if n == DEVICE_CONTROL + 1 && u16::from(new) << 8 & INITIATE_FLR != 0 {
                effect = Effect::Reset;
            }
        }
        effect
    }

    /// Restores the state after a reset.
    pub(crate) fn reset(&mut self) {
        self.bytes.clone_from(&self.at_reset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read32(config: &Config, at: u64) -> u32 {
        let mut word = [0; 4];
        config.read(at, &mut word);
        u32::from_le_bytes(word)
    }

    #[test]
    fn identity_and_bars() {
        let mut config = Config::new(0x7402, 0, 3, [0x1_0000, 0, 0x1000, 0, 0x1000, 0]);
        assert_eq!(read32(&config, 0), 0x0001_13b5);
        assert_eq!(read32(&config, 0x2c), 0x7402_13b5);
        assert_eq!(read32(&config, 8) >> 8, 0x12_0000);
        assert_eq!(read32(&config, 0x3c) >> 8 & 0xff, 0);
        config.write(0x10, &[0xff; 24]);
        assert_eq!(read32(&config, 0x10), 0xffff_0004);
        assert_eq!(read32(&config, 0x14), 0xffff_ffff);
        assert_eq!(read32(&config, 0x18), 0xffff_f000);
        assert_eq!(read32(&config, 0x1c), 0);
        assert_eq!(read32(&config, 0x20), 0xffff_f000);
        config.reset();
        assert_eq!(read32(&config, 0x10), 4);
        assert_eq!(read32(&config, 0x2000), 0);
    }

    #[test]
    fn function_level_reset() {
        let mut config = Config::new(0x7402, 0, 3, [0; 6]);
        let control = u64::try_from(DEVICE_CONTROL).unwrap();
        assert_eq!(config.write(control, &[0x10, 0x28]), Effect::None);
        assert_eq!(config.write(control, &[0x10, 0xa8]), Effect::Reset);
        assert_eq!(read32(&config, control) & 0xffff, 0x2810);
    }
}
