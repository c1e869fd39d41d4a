// SPDX-License-Identifier: GPL-2.0

//! Pictures: BOs that a job fills, and which are looked at later.

use model::desc::BlockFormat;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::JobRef;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check_eq;
use crate::device::Device;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::pixels::Layout;
use crate::pixels::FORMATS;
use crate::sync::Syncobj;

use super::render::clear_frame;

/// Room for the descriptors of a job.
const PAGE: usize = 4096;

/// A picture of 1 MiB.
pub(super) const LAYOUT: Layout = Layout {
    width: 512,
    height: 512,
    bytes: 4,
    block: BlockFormat::UInterleaved,
};

/// A BO, the job that draws to it, and what it draws.
pub(super) struct Picture {
    pub(super) bo: Bo,
    chain: Chain,
    job: JobRef,
    done: Syncobj,
    pixel: Vec<u8>,
}

impl Picture {
    /// Submits a job that fills `bo`.
    pub(super) fn draw(device: &Device, bo: Bo, seed: u128) -> Result<Self, Stop> {
        let (words, pixel) = FORMATS[0].clear(seed);
        let mut chain = Chain::new(device, PAGE)?;
        let frame = clear_frame(&FORMATS[0], &LAYOUT, bo.va(), words);
        let job = chain.fragment(&frame);
        let done = device.syncobj()?;
        chain.submit(&[&bo], &[], Some(&done))?;
        Ok(Self {
            bo,
            chain,
            job,
            done,
            pixel,
        })
    }

    /// Waits for the job, which has to be good.
    pub(super) fn drawn(&self) -> Outcome {
        self.done.wait(PATIENCE)?;
        check_eq!(self.chain.status(self.job), DONE);
        Ok(())
    }

    /// Looks at each pixel.
    pub(super) fn check(&self) -> Outcome {
        self.drawn()?;
        let memory = self.bo.map()?.bytes(0, LAYOUT.size());
        let wrong = memory
            .chunks_exact(LAYOUT.bytes)
            .position(|pixel| pixel != self.pixel);
        check_eq!(wrong, None, "pixel of {:x?}", self.pixel);
        Ok(())
    }
}
