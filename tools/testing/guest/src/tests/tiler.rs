// SPDX-License-Identifier: GPL-2.0

//! Tiler and fragment chains with a heap between them, which grows as the GPU faults on it. The
//! fragment job checks what the tiler job wrote, so its status tells whether the heap kept it.

use std::rc::Rc;

use model::control::Stat;
use model::desc::BlockFormat;
use model::desc::JobHeader;
use model::desc::MidgardTiler;
use model::desc::TilerContext;
use model::desc::TilerHeap;
use model::desc::TilerJob;
use model::job::Arch;

use crate::bo::Bo;
use crate::board::Board;
use crate::chain::Chain;
use crate::chain::JobRef;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::device::Device;
use crate::harness::Gpu;
use crate::harness::Need;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::pixels::Layout;
use crate::pixels::FORMATS;
use crate::sys::Mapping;
use crate::uapi;

use super::render::clear_frame;
use super::target;

pub(super) const TESTS: &[Test] = &[
    Test::new("tiler-small", &["B1"], small),
    Test::new("tiler-heap-grows", &["B1"], grows),
    Test::new("tiler-growth-by-2m", &["B1"], by_two_mib).needs(&[Need::Board]),
    Test::new("tiler-batches", &["B1"], batches),
    Test::new("tiler-two-files", &["B1", "F1"], two_files),
    Test::new("tiler-heap-full", &["B2"], full),
    Test::new("tiler-beyond-heap", &["B5"], beyond),
];

const MIB: usize = 1 << 20;

/// A heap as Mesa makes it.
pub(crate) fn heap(device: &Device, size: usize) -> Result<Bo, Stop> {
    Ok(device.create(size, uapi::BO_NOEXEC | uapi::BO_HEAP)?)
}

/// A pair of chains that share a heap.
pub(crate) struct Batch {
    pub(crate) tiler: Chain,
    pub(crate) tiler_job: JobRef,
    pub(crate) fragment: Chain,
    pub(crate) fragment_job: JobRef,
    layout: Layout,
    color: Rc<Bo>,
    map: Mapping,
    pixel: Vec<u8>,
}

impl Batch {
    /// `triangles` of them, binned to a heap that is said to have so many bytes.
    pub(crate) fn new(
        device: &Device,
        heap: &Bo,
        size: usize,
        triangles: u32,
    ) -> Result<Self, Stop> {
        let layout = Layout {
            width: 64,
            height: 48,
            bytes: 4,
            block: BlockFormat::UInterleaved,
        };
        let (color, _) = target(device, layout.size())?;
        let seed = (u128::from(triangles) << 8) | 0x7f;
        Self::onto(
            device,
            (heap, size),
            triangles,
            Rc::new(color),
            layout,
            seed,
        )
    }

    /// The same, drawn to a BO of the caller's, in a colour of these bits.
    pub(crate) fn onto(
        device: &Device,
        (heap, size): (&Bo, usize),
        triangles: u32,
        color: Rc<Bo>,
        layout: Layout,
        seed: u128,
    ) -> Result<Self, Stop> {
        let map = color.map()?;
        let (words, pixel) = FORMATS[0].clear(seed);
        let mut frame = clear_frame(&FORMATS[0], &layout, color.va(), words);

        let mut tiler = Chain::new(device, 64 * 1024)?;
        let arch = tiler.arch();
        let job = if arch == Arch::V5 {
            let list = tiler.data(&[0; 8192]);
            frame.framebuffer.midgard_tiler = MidgardTiler {
                polygon_list_size: 8192,
                hierarchy_mask: 0xff,
                polygon_list: list,
                polygon_list_body: list + 512,
                heap_start: heap.va(),
                heap_end: heap.va() + size as u64,
            };
            let va = tiler.data(&frame.encode(arch));
            TilerJob::triangles(triangles, 0, frame.pointer(va).bits())
        } else {
            let heap = tiler.data(&TilerHeap::new(heap.va(), size as u32).encode(arch));
            let context = TilerContext {
                polygon_list: 0,
                hierarchy_mask: 0x28,
                width: layout.width as u32,
                height: layout.height as u32,
                layers: 1,
                heap,
            };
            let context = tiler.data(&context.encode(arch));
            frame.framebuffer.tiler_context = context;
            TilerJob::triangles(triangles, context, 0)
        };
        let header = JobHeader::new(TilerJob::job_type(arch));
        let tiler_job = tiler.job(header, &job.encode(arch));

        let mut fragment = Chain::new(device, 4096)?;
        let fragment_job = fragment.fragment(&frame);
        Ok(Self {
            tiler,
            tiler_job,
            fragment,
            fragment_job,
            layout,
            color,
            map,
            pixel,
        })
    }

    /// The BO that it draws to.
    pub(crate) fn color(&self) -> &Bo {
        &self.color
    }

    /// Submits both as Mesa does: ordered by the BOs that they share alone.
    pub(crate) fn submit(&self, heap: &Bo, done: &crate::sync::Syncobj) -> Outcome {
        self.tiler.submit(&[heap], &[], None)?;
        let shared = [heap, self.tiler.bo(), self.color()];
        self.fragment.submit(&shared, &[], Some(done))?;
        Ok(())
    }

    pub(crate) fn run(&self, device: &Device, heap: &Bo) -> Outcome {
        let done = device.syncobj()?;
        self.submit(heap, &done)?;
        done.wait(PATIENCE)?;
        Ok(())
    }

    pub(crate) fn check(&self) -> Outcome {
        check_eq!(self.tiler.status(self.tiler_job), DONE);
        check_eq!(self.fragment.status(self.fragment_job), DONE);
        let memory = self.map.bytes(0, self.layout.size());
        self.layout.check(&memory, &self.pixel)?;
        Ok(())
    }
}

fn small(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = heap(&device, 128 * MIB)?;
    let batch = Batch::new(&device, &heap, heap.size(), 10)?;
    batch.run(&device, &heap)?;
    batch.check()
}

/// Some 7.5 MiB: several faults in one job.
fn grows(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = heap(&device, 128 * MIB)?;
    let batch = Batch::new(&device, &heap, heap.size(), 120_000)?;
    batch.run(&device, &heap)?;
    batch.check()
}

/// As many faults as blocks, and none once the heap has its memory.
fn by_two_mib(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let board = Board::open()?;
    let heap = heap(&device, 128 * MIB)?;
    let before = board.stat(Stat::MmuFaults);
    let batch = Batch::new(&device, &heap, heap.size(), 120_000)?;
    batch.run(&device, &heap)?;
    batch.check()?;
    let faults = board.stat(Stat::MmuFaults).wrapping_sub(before);
    check!((1..=4).contains(&faults), "{faults} faults for 4 blocks");
    let before = board.stat(Stat::MmuFaults);
    let batch = Batch::new(&device, &heap, heap.size(), 120_000)?;
    batch.run(&device, &heap)?;
    batch.check()?;
    let faults = board.stat(Stat::MmuFaults).wrapping_sub(before);
    check_eq!(faults, 0, "once the heap has grown");
    Ok(())
}

/// Batches of different sizes on one heap, each starting it anew.
fn batches(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = heap(&device, 128 * MIB)?;
    for triangles in [1, 40_000, 3, 80_000, 100] {
        let batch = Batch::new(&device, &heap, heap.size(), triangles)?;
        batch.run(&device, &heap)?;
        batch.check()?;
    }
    Ok(())
}

/// Files at the same time, each with a heap at the same address.
fn two_files(gpu: &Gpu) -> Outcome {
    files(gpu, 3, 50_000)
}

/// Files, each with a heap and a batch of so many triangles and some more, all submitted before any
/// is waited for.
pub(super) fn files(gpu: &Gpu, count: u32, triangles: u32) -> Outcome {
    let mut batches = Vec::new();
    for n in 0..count {
        let device = gpu.open()?;
        let heap = heap(&device, 32 * MIB)?;
        let batch = Batch::new(&device, &heap, heap.size(), triangles + n)?;
        let done = device.syncobj()?;
        batches.push((batch, heap, done));
    }
    for (batch, heap, done) in &batches {
        batch.submit(heap, done)?;
    }
    for (batch, _, done) in &batches {
        done.wait(PATIENCE)?;
        batch.check()?;
    }
    Ok(())
}

/// A heap whose end the tiler reaches: the job fails, the next one works.
fn full(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = heap(&device, 2 * MIB)?;
    let batch = Batch::new(&device, &heap, heap.size(), 120_000)?;
    batch.run(&device, &heap)?;
    let status = batch.tiler.status(batch.tiler_job);
    check_eq!(status, 0x60, "out of memory");
    let batch = Batch::new(&device, &heap, heap.size(), 100)?;
    batch.run(&device, &heap)?;
    batch.check()
}

/// A heap that is said to be larger than it is: a fault that growing does not help.
fn beyond(gpu: &Gpu) -> Outcome {
    let device = gpu.open()?;
    let heap = heap(&device, 2 * MIB)?;
    let batch = Batch::new(&device, &heap, 64 * MIB, 120_000)?;
    batch.run(&device, &heap)?;
    check!(batch.tiler.status(batch.tiler_job) != DONE);
    let batch = Batch::new(&device, &heap, heap.size(), 100)?;
    batch.run(&device, &heap)?;
    batch.check()
}
