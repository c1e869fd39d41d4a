// SPDX-License-Identifier: GPL-2.0

//! Performance counters.
//!
//! The registers can be written, and a sample is written to memory through the configured address
//! space: blocks of 64 32-bit counters, in the order job manager, tiler, L2 caches, one per shader
//! core up to the highest one present. The first words of a block are the timestamp and the enable
//! mask; the block of a core that is absent or not up is all zero. The counters are zero except for
//! one in the job manager's block (number 6, cycles of activity), which counts chains. v4 products
//! have another order, which is not modelled, as no test reads it.
//!
//! Like any store, a sample may not be in memory before the caches were cleaned.
//!
//! Locks: none of its own, part of the GPU's state.

use crate::gpu::Gpu;
use crate::irq::Vector;
use crate::job::Vm;
use crate::mmu::set_half;
use crate::mmu::view::View;
use crate::mmu::Miss;
use crate::power::Unit;
use crate::product::SPACES;
use crate::regs;
use crate::timer::Event;

/// The number of counters in a block.
const PER_BLOCK: usize = 64;
/// The word of the enable mask in a block.
const ENABLE_WORD: usize = 2;
/// The word of the only counter that counts.
const ACTIVE_WORD: usize = 6;
/// The source of the counters in `AS_FAULTSTATUS`.
const SOURCE: u16 = 0x80;

/// The registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Perfcnt {
    base: u64,
    config: u32,
    enable: [u32; 4],
    /// The number of chains when the counters were cleared.
    cleared_at: u32,
    clear: bool,
}

impl Perfcnt {
    /// Reads a register by its offset among those of the GPU; others read as 0.
    pub(crate) fn read(&self, offset: u32) -> u32 {
        match offset {
            regs::GPU_PERFCNT_BASE_LO => self.base as u32,
            regs::GPU_PERFCNT_BASE_HI => (self.base >> 32) as u32,
            regs::GPU_PERFCNT_CFG => self.config,
            regs::GPU_PRFCNT_JM_EN => self.enable[0],
            regs::GPU_PRFCNT_SHADER_EN => self.enable[1],
            regs::GPU_PRFCNT_TILER_EN => self.enable[2],
            regs::GPU_PRFCNT_MMU_L2_EN => self.enable[3],
            _ => 0,
        }
    }

    /// Writes a register by its offset among those of the GPU; others ignore it.
    pub(crate) fn write(&mut self, offset: u32, value: u32) {
        match offset {
            regs::GPU_PERFCNT_BASE_LO => set_half(&mut self.base, false, value),
            regs::GPU_PERFCNT_BASE_HI => set_half(&mut self.base, true, value),
            regs::GPU_PERFCNT_CFG => self.config = value,
            regs::GPU_PRFCNT_JM_EN => self.enable[0] = value,
            regs::GPU_PRFCNT_SHADER_EN => self.enable[1] = value,
            regs::GPU_PRFCNT_TILER_EN => self.enable[2] = value,
            regs::GPU_PRFCNT_MMU_L2_EN => self.enable[3] = value,
            _ => (),
        }
    }

    /// Handles the command to clear the counters: the next sample counts from its own time on.
    pub(crate) fn clear(&mut self) {
        self.clear = true;
    }
}

impl Gpu {
    /// Writes a sample to memory, if counting is enabled, and raises the interrupt.
    pub(crate) fn perfcnt_sample(&mut self) {
        let chains = self
            .stats
            .chains_done
            .wrapping_add(self.stats.chains_failed);
        if std::mem::take(&mut self.perfcnt.clear) {
            self.perfcnt.cleared_at = chains;
        }
        let set = self.perfcnt;
        let space = (set.config >> 4 & 0xf) as usize;
        if set.config & 0xf == 0 || space >= SPACES {
            return;
        }
        let cores = 64 - self.product.shader_present.leading_zeros() as usize;
        let caches = (self.product.mem_features >> 8 & 0xf) as usize + 1;
        let up = self.power.ready(Unit::Shader);
        let [jm, shader, tiler, l2] = set.enable;
        let blocks = [Some(jm), Some(tiler)]
            .into_iter()
            .chain(std::iter::repeat_n(Some(l2), caches))
            .chain((0..cores).map(|core| (up & 1 << core != 0).then_some(shader)));
        let now = self.clock.now();
        let mut data = Vec::new();
        for (n, enable) in blocks.enumerate() {
            let mut block = [0u32; PER_BLOCK];
            let Some(enable) = enable else {
                data.extend([0; 4 * PER_BLOCK]);
                continue;
            };
            block[0] = now as u32;
            block[1] = (now >> 32) as u32;
            block[ENABLE_WORD] = enable;
            if n == 0 {
                block[ACTIVE_WORD] = chains.wrapping_sub(set.cleared_at);
            }
            data.extend(block.into_iter().flat_map(u32::to_le_bytes));
        }
        let mut view = View::new(&mut self.mmu, &*self.mem, space);
        match (view.write(set.base, &data), view.miss) {
            (Ok(()), _) => self.raise(Vector::Gpu, regs::GPU_IRQ_PERFCNT_SAMPLE_COMPLETED),
            (Err(_), Some(Miss::Wait)) => {
                self.later(Some(self.timing.caches.max(1000)), Event::Sample)
            }
            (Err(_), Some(Miss::Fault(fault))) => {
                // Samples are not retried: this one is lost.
                let bits = self.mmu.report(space, &fault, SOURCE);
                self.raise(Vector::Mmu, bits);
            }
            (Err(_), _) => self.raise(Vector::Gpu, regs::GPU_IRQ_FAULT),
        }
    }
}
