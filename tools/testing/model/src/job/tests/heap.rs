// SPDX-License-Identifier: GPL-2.0

//! Tests of tiler-type jobs, the heap, and the FRAGMENT jobs that check it.

use crate::desc::BlockFormat;
use crate::desc::ColorFormat;
use crate::desc::DrawMode;
use crate::desc::Fragment;
use crate::desc::Frame;
use crate::desc::Framebuffer;
use crate::desc::InternalFormat;
use crate::desc::MidgardTiler;
use crate::desc::RenderTarget;
use crate::desc::Surface;
use crate::desc::TilerContext;
use crate::desc::TilerHeap;

use super::*;

const TILER: u64 = 0x10_0000;
const FRAGMENT: u64 = 0x10_1000;
const FBD: u64 = 0x11_0000;
const CONTEXT: u64 = 0x12_0000;
const HEAP: u64 = 0x13_0000;
const POLYGON_LIST: u64 = 0x14_0000;
const IMAGE: u64 = 0x20_0000;
const MEMORY: u64 = 0x4000_0000;
const MIB: u64 = 1 << 20;

/// Returns the address of the link to the last chunk.
fn link_at(arch: Arch) -> u64 {
    match arch {
        Arch::V5 => POLYGON_LIST,
        _ => CONTEXT,
    }
}

/// Creates a frame with `triangles` and a heap of `size`: two chains, the tiler job and the
/// FRAGMENT job.
fn scene(arch: Arch, triangles: u32, size: u64) -> TestVm {
    let mut vm = TestVm::default();
    let surface = Surface {
        base: IMAGE,
        row_stride: 64,
        surface_stride: 0,
    };
    let target = RenderTarget::cleared(
        InternalFormat::R8G8B8A8,
        ColorFormat::R8G8B8A8,
        BlockFormat::Linear,
        surface,
        [0x4433_2211; 4],
    );
    let mut framebuffer = Framebuffer::new(16, 16, 1);
    if arch == Arch::V5 {
        framebuffer.midgard_tiler = MidgardTiler {
            polygon_list_size: 0x1000,
            hierarchy_mask: 0xff,
            polygon_list: POLYGON_LIST,
            polygon_list_body: POLYGON_LIST + 0x200,
            heap_start: MEMORY,
            heap_end: MEMORY + size,
        };
    } else {
        framebuffer.tiler_context = CONTEXT;
        let context = TilerContext {
            polygon_list: 0,
            hierarchy_mask: 0xff,
            width: 16,
            height: 16,
            layers: 1,
            heap: HEAP,
        };
        vm.poke(CONTEXT, &context.encode(arch));
        let heap = TilerHeap::new(MEMORY, size as u32);
        vm.poke(HEAP, &heap.encode(arch));
    }
    let frame = Frame {
        framebuffer,
        zs_extension: None,
        render_targets: vec![target],
    };
    let pointer = frame.pointer(FBD);
    vm.poke(FBD, &frame.encode(arch));

    let job = TilerJob::triangles(triangles, CONTEXT, pointer.bits());
    let payload = job.encode(arch);
    vm.job(TILER, header(TilerJob::job_type(arch), 1, 0), &payload);
    let job = Fragment::whole(16, 16, pointer);
    vm.job(FRAGMENT, header(JobType::Fragment, 1, 0), &job.encode());
    vm
}

fn bottom(vm: &TestVm) -> u64 {
    vm.peek64(HEAP + TilerHeap::BOTTOM_BYTE)
}

#[test]
fn taken_and_checked() {
    for arch in ARCHES {
        for triangles in [1, 2, 1000, 1022, 1023, 5000] {
            let mut vm = scene(arch, triangles, 4 * MIB);
            let env = TestEnv::new(arch);
            let (end, chain) = run(&mut vm, &env, TILER);
            assert_eq!(end, Step::Done, "{arch:?} {triangles}");
            // 1022 tasks of 64 bytes fit into a chunk.
            let chunks = u64::from(triangles).div_ceil(1022);
            let bytes = chain.stats().heap_bytes;
            assert!(bytes >= u64::from(triangles) * 64 + chunks * 128);
            assert!(bytes < u64::from(triangles) * 64 + chunks * 256);
            assert_eq!(vm.header(TILER).first_incomplete, 0);
            if arch != Arch::V5 {
                assert_eq!(bottom(&vm), MEMORY + bytes);
            }

            let (end, chain) = run(&mut vm, &env, FRAGMENT);
            assert_eq!(end, Step::Done);
            assert_eq!(chain.stats().heap_bytes_checked, bytes);
            assert_eq!(vm.peek(IMAGE, 4), [0x11, 0x22, 0x33, 0x44]);
        }
    }
}

/// There is one tiler, so two of its jobs never overlap, even if they are independent.
#[test]
fn one_tiler() {
    for arch in ARCHES {
        let mut vm = scene(arch, 5000, 4 * MIB);
        let second = TILER + 0x800;
        vm.poke(second, &vm.peek(TILER, 0x200));
        vm.poke(TILER, &header(TilerJob::job_type(arch), 1, second).encode());
        let env = TestEnv::new(arch);
        let mut chain = Chain::new(TILER);
        assert_eq!(chain.step(&mut vm, &env), Ok(Step::Continue));
        assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
        assert_eq!((chain.current(), chain.tail()), (TILER, second));
        assert_eq!(vm.header(second).first_incomplete, 0);
        while chain.step(&mut vm, &env) == Ok(Step::Continue) {
            assert_eq!(chain.step_ahead(&mut vm, &env), Ok(false));
        }
        assert_eq!(vm.status(second), Exception::DONE);
        assert_eq!(run(&mut vm, &env, FRAGMENT).0, Step::Done);
    }
}

#[test]
fn no_geometry() {
    for arch in ARCHES {
        for (mode, vertices) in [(DrawMode::None, 9), (DrawMode::Triangles, 2)] {
            let mut vm = scene(arch, 0, MIB);
            let mut job = TilerJob::triangles(0, CONTEXT, FBD | 1);
            job.mode = mode;
            job.vertices = vertices;
            vm.poke(TILER + 32, &job.encode(arch));
            let before = vm.pages.clone();
            assert_eq!(run(&mut vm, &TestEnv::new(arch), TILER).0, Step::Done);
            assert_eq!(vm.pages.len(), before.len());
            let (end, chain) = run(&mut vm, &TestEnv::new(arch), FRAGMENT);
            assert_eq!((end, chain.stats().heap_bytes_checked), (Step::Done, 0));
        }
    }
}

#[test]
fn primitives() {
    let cases = [
        (DrawMode::Points, 7, 7),
        (DrawMode::Lines, 7, 3),
        (DrawMode::LineStrip, 7, 6),
        (DrawMode::LineLoop, 7, 7),
        (DrawMode::Triangles, 7, 2),
        (DrawMode::TriangleStrip, 7, 5),
        (DrawMode::TriangleFan, 7, 5),
        (DrawMode::Polygon, 7, 5),
        (DrawMode::Quads, 7, 1),
        (DrawMode::TriangleStrip, 1, 0),
    ];
    for (mode, vertices, expected) in cases {
        assert_eq!(mode.primitives(vertices), Some(expected));
    }
    // Instances multiply, and on v9 vertices take memory, too.
    for arch in ARCHES {
        let mut vm = scene(arch, 0, 4 * MIB);
        let mut job = TilerJob::triangles(10, CONTEXT, FBD | 1);
        job.instances = 5;
        job.packet_stride = 48;
        vm.poke(TILER + 32, &job.encode(arch));
        let (end, chain) = run(&mut vm, &TestEnv::new(arch), TILER);
        assert_eq!(end, Step::Done);
        let task = if arch == Arch::V9 { 64 + 3 * 48 } else { 64 };
        let expected = (128 + 50 * task as u64).next_multiple_of(128);
        assert_eq!(chain.stats().heap_bytes, expected);
    }
}

/// Steps the chain to its end; each fault in the heap adds 2 MiB. Returns the last step and the
/// number of faults.
fn run_growing(vm: &mut TestVm, env: &TestEnv, chain: &mut Chain) -> (Step, u64) {
    let mut faults = 0;
    loop {
        match chain.step(vm, env) {
            Ok(Step::Continue) => {}
            Ok(end) => return (end, faults),
            Err(fault) => {
                assert_eq!(fault.access, Access::Write);
                let at = fault.va & !(2 * MIB - 1);
                assert!(vm.mapped.iter().all(|range| range.start != at));
                vm.mapped.push(at..at + 2 * MIB);
                faults += 1;
            }
        }
    }
}

#[test]
fn growth_by_faults() {
    for arch in ARCHES {
        let mut vm = scene(arch, 100_000, 16 * MIB);
        vm.holes.push(MEMORY..MEMORY + 16 * MIB);
        let env = TestEnv::new(arch);
        let mut chain = Chain::new(TILER);
        let (end, faults) = run_growing(&mut vm, &env, &mut chain);
        assert_eq!(end, Step::Done);
        let bytes = chain.stats().heap_bytes;
        assert!(bytes > 100_000 * 64);
        assert_eq!(faults, bytes.div_ceil(2 * MIB));

        let (end, chain) = run(&mut vm, &env, FRAGMENT);
        assert_eq!((end, chain.stats().heap_bytes_checked), (Step::Done, bytes));
    }
}

#[test]
fn out_of_memory() {
    for arch in ARCHES {
        let mut vm = scene(arch, 100_000, 4 * MIB);
        vm.holes.push(MEMORY..MEMORY + 16 * MIB);
        let env = TestEnv::new(arch);
        let mut chain = Chain::new(TILER);
        let (end, faults) = run_growing(&mut vm, &env, &mut chain);
        assert_eq!(end, Step::Failed(Exception::OUT_OF_MEMORY));
        // Nothing beyond the top was touched.
        assert_eq!(faults, 2);
        let header = vm.header(TILER);
        assert_eq!(Exception(header.status), Exception::OUT_OF_MEMORY);
        assert_eq!(header.first_incomplete, 64 * 1022);
        assert_eq!(header.fault_pointer, MEMORY + chain.stats().heap_bytes);
        if arch != Arch::V5 {
            assert_eq!(bottom(&vm), header.fault_pointer);
        }
    }
    // A heap that holds exactly one chunk, and one that does not.
    for (size, end) in [
        (65536, Step::Done),
        (65536 - 128, Step::Failed(Exception::OUT_OF_MEMORY)),
        (0, Step::Failed(Exception::OUT_OF_MEMORY)),
    ] {
        for arch in ARCHES {
            let mut vm = scene(arch, 1022, size);
            assert_eq!(run(&mut vm, &TestEnv::new(arch), TILER).0, end);
        }
    }
}

#[test]
fn damage_is_found() {
    for arch in ARCHES {
        let mut vm = scene(arch, 5000, 4 * MIB);
        let env = TestEnv::new(arch);
        let (_, chain) = run(&mut vm, &env, TILER);
        let bytes = chain.stats().heap_bytes;
        assert!(bytes > 4 * 65536);

        // Flip one bit anywhere in the chunks, including their headers. The padding at the end of
        // the last one is part of the pattern.
        let places = [
            0,
            8,
            16,
            24,
            40,
            48,
            56,
            65535,
            65536,
            70_000,
            3 * 65536 + 32,
            bytes - 1,
        ];
        for offset in places {
            let mut vm = vm.clone();
            let at = MEMORY + offset;
            let byte = vm.peek(at, 1)[0] ^ 0x10;
            vm.poke(at, &[byte]);
            let (end, chain) = run(&mut vm, &env, FRAGMENT);
            assert_eq!(
                end,
                Step::Failed(Exception::DATA_INVALID_FAULT),
                "{arch:?} {offset:#x}"
            );
            assert_eq!(chain.stats().heap_mismatches, 1);
            let reported = vm.header(FRAGMENT).fault_pointer;
            assert!((MEMORY..MEMORY + bytes).contains(&reported));
            // Nothing was drawn.
            assert_eq!(vm.peek(IMAGE, 4), [0; 4]);
        }
        // A page that was taken away and came back empty; an invalid link.
        let mut lost = vm.clone();
        lost.poke(MEMORY + 0x1_0000, &[0; PAGE as usize]);
        let mut unlinked = vm.clone();
        unlinked.poke(link_at(arch), &[0xaa; 8]);
        // Chunks that an earlier frame left at the same address.
        let mut stale = vm.clone();
        let mut again = scene(arch, 5000, 4 * MIB);
        run(&mut again, &env, TILER);
        stale.poke(MEMORY, &again.peek(MEMORY, 65536));
        for mut vm in [lost, unlinked, stale] {
            let (end, chain) = run(&mut vm, &env, FRAGMENT);
            assert_eq!(end, Step::Failed(Exception::DATA_INVALID_FAULT));
            assert_eq!(chain.stats().heap_mismatches, 1);
        }
    }
}

#[test]
fn reading_a_heap_that_is_gone_faults() {
    let mut vm = scene(Arch::V7, 100, 4 * MIB);
    let env = TestEnv::new(Arch::V7);
    run(&mut vm, &env, TILER);
    vm.holes.push(MEMORY..MEMORY + 4 * MIB);
    let mut chain = Chain::new(FRAGMENT);
    let fault = chain.step(&mut vm, &env).unwrap_err();
    assert_eq!((fault.va, fault.access), (MEMORY, Access::Read));
    vm.mapped.push(MEMORY..MEMORY + 2 * MIB);
    while chain.step(&mut vm, &env).unwrap() == Step::Continue {}
    assert_eq!(vm.status(FRAGMENT), Exception::DONE);
}

#[test]
fn frames_and_contexts() {
    for arch in ARCHES {
        let mut vm = scene(arch, 3000, 4 * MIB);
        let env = TestEnv::new(arch);
        // Two tiler jobs into the same context.
        let second = TILER + 0x200;
        let payload = vm.peek(TILER + 32, 160);
        vm.job(TILER, header(TilerJob::job_type(arch), 1, second), &payload);
        vm.job(second, header(TilerJob::job_type(arch), 2, 0), &payload);
        let (end, chain) = run(&mut vm, &env, TILER);
        assert_eq!(end, Step::Done);
        let bytes = chain.stats().heap_bytes;
        let (end, chain) = run(&mut vm, &env, FRAGMENT);
        assert_eq!((end, chain.stats().heap_bytes_checked), (Step::Done, bytes));

        // The next frame starts over: descriptors as at the start, heap as it was left.
        let heap = vm.peek(MEMORY, bytes as usize);
        let mut vm = scene(arch, 700, 4 * MIB);
        vm.poke(MEMORY, &heap);
        let (_, chain) = run(&mut vm, &env, TILER);
        let next = chain.stats().heap_bytes;
        assert!(next < bytes);
        let (end, chain) = run(&mut vm, &env, FRAGMENT);
        assert_eq!((end, chain.stats().heap_bytes_checked), (Step::Done, next));
    }
}

#[test]
fn contexts_share_a_heap() {
    let arch = Arch::V9;
    let mut vm = scene(arch, 1500, 4 * MIB);
    let other = CONTEXT + 0x100;
    let context = vm.peek(CONTEXT, 192);
    vm.poke(other, &context);
    let job = TilerJob::triangles(1500, other, 0);
    let second = TILER + 0x200;
    vm.job(
        second,
        header(JobType::MallocVertex, 1, 0),
        &job.encode(arch),
    );
    let env = TestEnv::new(arch);
    // The chains are interleaved step by step.
    let mut chains = [Chain::new(TILER), Chain::new(second)];
    for _ in 0..2 {
        for chain in &mut chains {
            chain.step(&mut vm, &env).unwrap();
        }
    }
    for at in [TILER, second] {
        assert_eq!(vm.status(at), Exception::DONE);
    }
    let bytes = chains[0].stats().heap_bytes;
    assert_eq!(bottom(&vm), MEMORY + 2 * bytes);
    let (end, chain) = run(&mut vm, &env, FRAGMENT);
    assert_eq!((end, chain.stats().heap_bytes_checked), (Step::Done, bytes));
}

#[test]
fn stopped_and_resumed() {
    for arch in ARCHES {
        let mut whole = scene(arch, 5000, 4 * MIB);
        let (_, chain) = run(&mut whole, &TestEnv::new(arch), TILER);
        let bytes = chain.stats().heap_bytes;

        let mut vm = scene(arch, 5000, 4 * MIB);
        let env = TestEnv::new(arch);
        let mut total = 0;
        // Stopped after every step.
        for i in 1.. {
            let mut chain = Chain::new(TILER);
            let step = chain.step(&mut vm, &env).unwrap();
            total += chain.stats().heap_bytes;
            if step == Step::Done {
                break;
            }
            assert_eq!(vm.header(TILER).first_incomplete, 1022 * i);
            // The slot may have written STOPPED to the header.
            vm.poke(TILER, &3u32.to_le_bytes());
        }
        assert_eq!(total, bytes);
        assert_eq!(vm.header(TILER).first_incomplete, 0);
        assert_eq!(run(&mut vm, &env, FRAGMENT).0, Step::Done);
    }
}

#[test]
fn resume_after_faults() {
    for arch in ARCHES {
        let mut vm = scene(arch, 1500, 4 * MIB);
        // One chain, so that the comparison covers both jobs.
        let payload = vm.peek(TILER + 32, 160);
        vm.job(
            TILER,
            header(TilerJob::job_type(arch), 1, FRAGMENT),
            &payload,
        );
        check_resume(&vm, arch, TILER, Step::Done);
        let mut vm = scene(arch, 1500, 70_000);
        vm.job(
            TILER,
            header(TilerJob::job_type(arch), 1, FRAGMENT),
            &payload,
        );
        let end = Step::Failed(Exception::OUT_OF_MEMORY);
        if arch == Arch::V5 {
            // The framebuffer holds the heap's size, the rest is the same.
            vm.job(TILER, header(JobType::Tiler, 1, FRAGMENT), &payload);
        }
        check_resume(&vm, arch, TILER, end);
    }
}

#[test]
fn mistakes() {
    let invalid = Step::Failed(Exception::DATA_INVALID_FAULT);
    for arch in ARCHES {
        let check = |change: &dyn Fn(&mut TestVm)| {
            let mut vm = scene(arch, 10, MIB);
            change(&mut vm);
            let before = vm.peek(MEMORY, 0x1000);
            assert_eq!(run(&mut vm, &TestEnv::new(arch), TILER).0, invalid);
            assert_eq!(vm.peek(MEMORY, 0x1000), before);
        };
        let encode = |job: TilerJob| job.encode(arch);
        let job = TilerJob::triangles(10, CONTEXT, FBD | 1);
        check(&|vm| {
            let mode = DrawMode::Other(99);
            vm.poke(TILER + 32, &encode(TilerJob { mode, ..job }));
        });
        // No context, no framebuffer.
        check(&|vm| vm.poke(TILER + 32, &encode(TilerJob::triangles(10, 0, 0))));
        // A word that is not a link.
        check(&|vm| vm.poke(link_at(arch), &[2]));
        check(&|vm| vm.poke(link_at(arch), &(MEMORY | 1).to_le_bytes()));
        if arch == Arch::V5 {
            // Not enabled, no list, a heap that ends before it starts.
            check(&|vm| vm.poke(FBD + 60, &0x1000u16.to_le_bytes()));
            check(&|vm| vm.poke(FBD + 64, &[0; 8]));
            check(&|vm| vm.poke(FBD + 88, &[0; 8]));
        } else {
            // Not aligned.
            let misaligned = TilerJob::triangles(10, CONTEXT + 32, 0);
            check(&|vm| vm.poke(TILER + 32, &encode(misaligned)));
            check(&|vm| vm.poke(CONTEXT + 24, &[0; 8]));
            check(&|vm| vm.poke(CONTEXT + 24, &(HEAP + 8).to_le_bytes()));
            // No base, bottom below base or above top.
            check(&|vm| vm.poke(HEAP + 8, &[0; 8]));
            check(&|vm| vm.poke(HEAP + 16, &(MEMORY - 128).to_le_bytes()));
            check(&|vm| vm.poke(HEAP + 16, &(MEMORY + MIB + 1).to_le_bytes()));
        }
    }
}

#[test]
fn hostile_numbers() {
    for arch in ARCHES {
        let mut vm = scene(arch, 0, MIB);
        let mut job = TilerJob::triangles(0, CONTEXT, FBD | 1);
        job.mode = DrawMode::Points;
        job.vertices = u32::MAX;
        job.instances = u32::MAX;
        job.packet_stride = u16::MAX;
        vm.poke(TILER + 32, &job.encode(arch));
        let mut env = TestEnv::new(arch);
        for per_primitive in [0, 1, u32::MAX] {
            let mut vm = vm.clone();
            env.per_primitive = per_primitive;
            let (end, _) = run(&mut vm, &env, TILER);
            assert_eq!(end, Step::Failed(Exception::OUT_OF_MEMORY));
        }
        // A heap at the end of the address space.
        if arch != Arch::V5 {
            let mut heap = TilerHeap::new(u64::MAX - 64, 0);
            heap.top = u64::MAX;
            vm.poke(HEAP, &heap.encode(arch));
            let (end, _) = run(&mut vm, &env, TILER);
            assert_eq!(end, Step::Failed(Exception::OUT_OF_MEMORY));
        }
    }
}
