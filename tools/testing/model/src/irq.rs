// SPDX-License-Identifier: GPL-2.0

//! The three interrupt blocks.
//!
//! The GPU's lines are levels: a line is high while `raw & mask` is not zero. A message-signalled
//! interrupt is an edge, so one is sent on each rise of a line, and again after every write to a
//! `CLEAR` or `MASK` register that leaves the line high: then a driver that masks in the hard
//! handler and unmasks in its thread loses nothing.
//!
//! Locks: none of its own, part of the GPU's state. [`IrqSink::raise`] is called with the GPU's
//! lock held.

use std::sync::Arc;

use crate::host::IrqSink;
use crate::host::Vector;

/// One block: raw, mask, and what the line was at last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Block {
    /// Events that have not been cleared.
    pub raw: u32,
    /// Which of them drive the line.
    pub mask: u32,
    line: bool,
}

impl Block {
    /// The `STAT` register.
    pub fn stat(&self) -> u32 {
        self.raw & self.mask
    }
}

/// What may be done to an interrupt on the way out.
#[derive(Clone, Copy, Debug, Default)]
struct Tamper {
    lose: u32,
    duplicate: u32,
}

/// All blocks and the way out.
pub struct Irqs {
    blocks: [Block; 3],
    tamper: [Tamper; 3],
    /// Messages sent, by vector.
    pub raised: [u32; 3],
    sink: Arc<dyn IrqSink>,
}

impl Irqs {
    /// All quiet.
    pub fn new(sink: Arc<dyn IrqSink>) -> Self {
        Self {
            blocks: [Block::default(); 3],
            tamper: [Tamper::default(); 3],
            raised: [0; 3],
            sink,
        }
    }

    /// The block of a vector.
    pub fn block(&self, vector: Vector) -> &Block {
        &self.blocks[vector as usize]
    }

    /// Sets raw bits. Returns whether a duplicate of the message is due.
    #[must_use]
    pub fn set(&mut self, vector: Vector, bits: u32) -> bool {
        self.blocks[vector as usize].raw |= bits;
        self.update(vector, false)
    }

    /// A write to `CLEAR`. Returns whether a duplicate of the message is due.
    #[must_use]
    pub fn clear(&mut self, vector: Vector, bits: u32) -> bool {
        self.blocks[vector as usize].raw &= !bits;
        self.update(vector, true)
    }

    /// A write to `MASK`. Returns whether a duplicate of the message is due.
    #[must_use]
    pub fn set_mask(&mut self, vector: Vector, mask: u32) -> bool {
        self.blocks[vector as usize].mask = mask;
        self.update(vector, true)
    }

    /// Forgets all events of a block and, if so told, its mask. Lines go low, nothing is sent.
    pub fn reset(&mut self, vector: Vector, mask_too: bool) {
        let block = &mut self.blocks[vector as usize];
        block.raw = 0;
        block.line = false;
        if mask_too {
            block.mask = 0;
        }
    }

    /// Swallows the next `count` messages of `vector`.
    pub fn lose(&mut self, vector: Vector, count: u32) {
        self.tamper[vector as usize].lose = count;
    }

    /// Sends the next `count` messages of `vector` twice.
    pub fn duplicate(&mut self, vector: Vector, count: u32) {
        self.tamper[vector as usize].duplicate = count;
    }

    /// Undoes [`Irqs::lose`] and [`Irqs::duplicate`].
    pub fn tamper_no_more(&mut self) {
        self.tamper = [Tamper::default(); 3];
    }

    /// Sends one message, whatever the line is.
    pub fn send(&mut self, vector: Vector) {
        self.raised[vector as usize] = self.raised[vector as usize].wrapping_add(1);
        self.sink.raise(vector);
    }

    fn update(&mut self, vector: Vector, after_write: bool) -> bool {
        let block = &mut self.blocks[vector as usize];
        let high = block.stat() != 0;
        let due = high && (after_write || !block.line);
        block.line = high;
        if !due {
            return false;
        }
        let tamper = &mut self.tamper[vector as usize];
        if tamper.lose > 0 {
            tamper.lose -= 1;
            return false;
        }
        let again = tamper.duplicate > 0;
        tamper.duplicate = tamper.duplicate.saturating_sub(1);
        self.send(vector);
        again
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
        assert!(!irqs.set_mask(Vector::Job, 3));
        assert!(!irqs.set(Vector::Job, 1));
        assert!(!irqs.set(Vector::Job, 2));
        assert_eq!(lines.take(Vector::Job), 1);
        assert!(!irqs.clear(Vector::Job, 3));
        assert_eq!(lines.take(Vector::Job), 0);
        assert!(!irqs.set(Vector::Job, 2));
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
        let _ = irqs.clear(Vector::Gpu, 1);
        irqs.duplicate(Vector::Gpu, 1);
        assert!(irqs.set(Vector::Gpu, 1));
        assert_eq!(lines.take(Vector::Gpu), 1);
        let _ = irqs.clear(Vector::Gpu, 1);
        assert!(!irqs.set(Vector::Gpu, 1));
    }
}
