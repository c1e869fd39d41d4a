// SPDX-License-Identifier: GPL-2.0

//! The three interrupt blocks.
//!
//! The GPU's lines are levels: a line is high while `raw & mask` is not zero. A message-signalled
//! interrupt is an edge, so one is sent on each rise of a line, and again after every write to a
//! `CLEAR` or `MASK` register that leaves the line high. A driver that masks in the hard handler
//! and unmasks in its thread thus does not lose interrupts.
//!
//! Locks: none of its own, part of the GPU's state. [`IrqSink::raise`] is called with the GPU's
//! lock held.

use std::sync::Arc;

use crate::gpu::Gpu;
use crate::host::IrqSink;
use crate::product::SPACES;
use crate::timer::Event;

/// An interrupt line of the GPU, and its MSI-X vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vector {
    /// Job slots.
    Job = 0,
    /// Address spaces.
    Mmu = 1,
    /// Everything else.
    Gpu = 2,
}

impl Vector {
    /// All vectors, in the order of their numbers.
    pub const ALL: [Vector; 3] = [Vector::Job, Vector::Mmu, Vector::Gpu];

    /// Returns the vector with this number.
    pub fn new(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// One block: raw bits, mask, and the last level of the line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Block {
    /// Events that have not been cleared.
    pub raw: u32,
    /// The events that drive the line.
    pub mask: u32,
    line: bool,
    /// Events that cannot be cleared.
    stuck: u32,
}

impl Block {
    /// Returns the `STAT` register.
    pub fn stat(&self) -> u32 {
        self.raw & self.mask
    }
}

/// Ordered tampering with outgoing messages.
#[derive(Clone, Copy, Debug, Default)]
struct Tamper {
    lose: u32,
    duplicate: u32,
    late: u32,
    /// The delay of late messages in nanoseconds.
    by: u64,
}

/// A message that is still to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// No message.
    None,
    /// A message that was sent is sent again.
    Duplicate,
    /// A message that was not sent is sent after this many nanoseconds.
    Late(u64),
}

/// All blocks, and the sink of their messages.
pub struct Irqs {
    blocks: [Block; 3],
    tamper: [Tamper; 3],
    /// The number of messages sent, by vector.
    pub raised: [u32; 3],
    sink: Arc<dyn IrqSink>,
}

impl Irqs {
    /// Creates the blocks with no events and everything masked.
    pub fn new(sink: Arc<dyn IrqSink>) -> Self {
        Self {
            blocks: [Block::default(); 3],
            tamper: [Tamper::default(); 3],
            raised: [0; 3],
            sink,
        }
    }

    /// Returns the block of a vector.
    pub fn block(&self, vector: Vector) -> &Block {
        &self.blocks[vector as usize]
    }

    /// Sets raw bits. Returns the message that remains to be sent.
    #[must_use]
    pub fn set(&mut self, vector: Vector, bits: u32) -> Pending {
        self.blocks[vector as usize].raw |= bits;
        self.update(vector, false)
    }

    /// Sets raw bits and, unlike [`Irqs::set`], sends a message even if the line has been high: an
    /// earlier one may have been lost. Returns the message that remains to be sent.
    #[must_use]
    pub fn remind(&mut self, vector: Vector, bits: u32) -> Pending {
        self.blocks[vector as usize].raw |= bits;
        self.update(vector, true)
    }

    /// Handles a write to `CLEAR`. Returns the message that remains to be sent.
    #[must_use]
    pub fn clear(&mut self, vector: Vector, bits: u32) -> Pending {
        let block = &mut self.blocks[vector as usize];
        block.raw &= !bits | block.stuck;
        self.update(vector, true)
    }

    /// Handles a write to `MASK`. Returns the message that remains to be sent.
    #[must_use]
    pub fn set_mask(&mut self, vector: Vector, mask: u32) -> Pending {
        self.blocks[vector as usize].mask = mask;
        self.update(vector, true)
    }

    /// Clears all events of a block and, if `mask_too`, its mask. The line goes low; nothing is
    /// sent.
    pub fn reset(&mut self, vector: Vector, mask_too: bool) {
        let block = &mut self.blocks[vector as usize];
        block.raw = 0;
        block.stuck = 0;
        block.line = false;
        if mask_too {
            block.mask = 0;
        }
    }

    /// Drops the next `count` messages of `vector`.
    pub fn lose(&mut self, vector: Vector, count: u32) {
        self.tamper[vector as usize].lose = count;
    }

    /// Sends the next `count` messages of `vector` twice.
    pub fn duplicate(&mut self, vector: Vector, count: u32) {
        self.tamper[vector as usize].duplicate = count;
    }

    /// Delays the next `count` messages of `vector` by `ns`.
    pub fn delay(&mut self, vector: Vector, ns: u64, count: u32) {
        let tamper = &mut self.tamper[vector as usize];
        tamper.late = count;
        tamper.by = ns;
    }

    /// Sets raw bits that stay until a reset, whatever is written to `CLEAR`. Returns the message
    /// that remains to be sent.
    #[must_use]
    pub fn stick(&mut self, vector: Vector, bits: u32) -> Pending {
        self.blocks[vector as usize].stuck |= bits;
        self.set(vector, bits)
    }

    /// Undoes [`Irqs::lose`], [`Irqs::duplicate`], [`Irqs::delay`] and [`Irqs::stick`]. Bits that
    /// were stuck can be cleared from now on.
    pub fn tamper_no_more(&mut self) {
        self.tamper = [Tamper::default(); 3];
        for block in &mut self.blocks {
            block.stuck = 0;
        }
    }

    /// Sends one message, regardless of the line.
    pub fn send(&mut self, vector: Vector) {
        self.raised[vector as usize] = self.raised[vector as usize].wrapping_add(1);
        self.sink.raise(vector as usize);
    }

    fn update(&mut self, vector: Vector, after_write: bool) -> Pending {
        let block = &mut self.blocks[vector as usize];
        let high = block.stat() != 0;
        let due = high && (after_write || !block.line);
        block.line = high;
        if !due {
            return Pending::None;
        }
        let tamper = &mut self.tamper[vector as usize];
        if tamper.lose > 0 {
            tamper.lose -= 1;
            return Pending::None;
        }
        if tamper.late > 0 {
            tamper.late -= 1;
            return Pending::Late(tamper.by);
        }
        let again = tamper.duplicate > 0;
        tamper.duplicate = tamper.duplicate.saturating_sub(1);
        self.send(vector);
        if again {
            Pending::Duplicate
        } else {
            Pending::None
        }
    }
}

impl Gpu {
    /// Schedules a message that remains to be sent.
    pub(crate) fn send_later(&mut self, vector: Vector, pending: Pending) {
        let delay = match pending {
            Pending::None => return,
            Pending::Duplicate => self.timing.duplicate,
            Pending::Late(ns) => ns,
        };
        self.later(Some(delay), Event::Message(vector));
    }

    /// Sets raw bits of a block, and sends the message that is due for them.
    pub(crate) fn raise(&mut self, vector: Vector, bits: u32) {
        let pending = self.irqs.set(vector, bits);
        self.send_later(vector, pending);
    }

    /// Reads a register of a block. Those that can only be written read as 0.
    pub(crate) fn irq_read(&self, vector: Vector, offset: u32) -> u32 {
        let block = self.irqs.block(vector);
        match offset {
            0x0 => block.raw,
            0x8 => block.mask,
            0xc => block.stat(),
            _ => 0,
        }
    }

    /// Writes a register of a block. Those that can only be read ignore it.
    pub(crate) fn irq_write(&mut self, vector: Vector, offset: u32, value: u32) {
        let pending = match offset {
            0x4 => {
                let pending = self.irqs.clear(vector, value);
                match vector {
                    Vector::Job => self.slots_cleared(value),
                    Vector::Mmu => {
                        for space in 0..SPACES {
                            if value & 0x1_0001 << space != 0 {
                                self.slot_report(space);
                            }
                        }
                    }
                    Vector::Gpu => (),
                }
                pending
            }
            0x8 => self.irqs.set_mask(vector, value),
            _ => Pending::None,
        };
        self.send_later(vector, pending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Lines;

    fn irqs() -> (Irqs, Arc<Lines>) {
        let lines = Arc::new(Lines::default());
        (Irqs::new(lines.clone()), lines)
    }

    #[test]
    fn a_message_goes_out_on_each_rise_only() {
        let (mut irqs, lines) = irqs();
        assert_eq!(irqs.set_mask(Vector::Job, 3), Pending::None);
        assert_eq!(irqs.set(Vector::Job, 1), Pending::None);
        assert_eq!(irqs.set(Vector::Job, 2), Pending::None);
        assert_eq!(lines.take(Vector::Job), 1);
        assert_eq!(irqs.clear(Vector::Job, 3), Pending::None);
        assert_eq!(lines.take(Vector::Job), 0);
        assert_eq!(irqs.set(Vector::Job, 2), Pending::None);
        assert_eq!(lines.take(Vector::Job), 1);
        assert_eq!(lines.take(Vector::Mmu), 0);
    }

    #[test]
    fn a_write_that_leaves_the_line_high_sends_again() {
        let (mut irqs, lines) = irqs();
        let _ = irqs.set(Vector::Mmu, 0x11);
        assert_eq!(lines.take(Vector::Mmu), 0);
        let _ = irqs.set_mask(Vector::Mmu, 0xff);
        assert_eq!(lines.take(Vector::Mmu), 1);
        let _ = irqs.clear(Vector::Mmu, 0x01);
        assert_eq!(lines.take(Vector::Mmu), 1);
        let _ = irqs.set_mask(Vector::Mmu, 0);
        assert_eq!(lines.take(Vector::Mmu), 0);
        assert_eq!(irqs.block(Vector::Mmu).raw, 0x10);
        assert_eq!(irqs.block(Vector::Mmu).stat(), 0);
    }

    #[test]
    fn lost_and_duplicated() {
        let (mut irqs, lines) = irqs();
        let _ = irqs.set_mask(Vector::Gpu, 1);
        irqs.lose(Vector::Gpu, 1);
        let _ = irqs.set(Vector::Gpu, 1);
        assert_eq!(lines.take(Vector::Gpu), 0);
        assert_eq!(irqs.remind(Vector::Gpu, 0), Pending::None);
        assert_eq!(lines.take(Vector::Gpu), 1);
        let _ = irqs.clear(Vector::Gpu, 1);
        assert_eq!(irqs.remind(Vector::Gpu, 0), Pending::None);
        assert_eq!(lines.take(Vector::Gpu), 0);
        irqs.duplicate(Vector::Gpu, 1);
        assert_eq!(irqs.set(Vector::Gpu, 1), Pending::Duplicate);
        assert_eq!(lines.take(Vector::Gpu), 1);
        let _ = irqs.clear(Vector::Gpu, 1);
        assert_eq!(irqs.set(Vector::Gpu, 1), Pending::None);
    }

    #[test]
    fn late() {
        let (mut irqs, lines) = irqs();
        let _ = irqs.set_mask(Vector::Mmu, 1);
        irqs.delay(Vector::Mmu, 700, 1);
        assert_eq!(irqs.set(Vector::Mmu, 1), Pending::Late(700));
        assert_eq!(lines.take(Vector::Mmu), 0);
        let _ = irqs.clear(Vector::Mmu, 1);
        assert_eq!(irqs.set(Vector::Mmu, 1), Pending::None);
        assert_eq!(lines.take(Vector::Mmu), 1);
    }

    #[test]
    fn stuck_until_reset() {
        let (mut irqs, lines) = irqs();
        let _ = irqs.set_mask(Vector::Gpu, 3);
        let _ = irqs.stick(Vector::Gpu, 1);
        let _ = irqs.set(Vector::Gpu, 2);
        assert_eq!(lines.take(Vector::Gpu), 1);
        let _ = irqs.clear(Vector::Gpu, 3);
        assert_eq!(irqs.block(Vector::Gpu).raw, 1);
        assert_eq!(lines.take(Vector::Gpu), 1);
        irqs.reset(Vector::Gpu, false);
        assert_eq!(irqs.block(Vector::Gpu).raw, 0);
        let _ = irqs.set(Vector::Gpu, 1);
        let _ = irqs.clear(Vector::Gpu, 1);
        assert_eq!(irqs.block(Vector::Gpu).raw, 0);
    }
}
