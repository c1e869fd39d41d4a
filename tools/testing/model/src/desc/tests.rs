// SPDX-License-Identifier: GPL-2.0

//! Tests of round trips, and of bytes as packed by Mesa.

use crate::job::Arch;

use super::*;

const ARCHES: [Arch; 3] = [Arch::V5, Arch::V7, Arch::V9];

/// Reads a little-endian word.
fn word(buf: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(buf[index * 4..index * 4 + 4].try_into().unwrap())
}

/// Returns bytes without a pattern, so that wrong offsets are noticed.
fn noise<const N: usize>(seed: u32) -> [u8; N] {
    let mut x = seed | 1;
    std::array::from_fn(|_| {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    })
}

#[test]
fn fields() {
    let mut buf = [0u8; 12];
    let field = Field::new(13, 37);
    field.set(&mut buf, u64::MAX);
    assert_eq!(field.get(&buf), (1 << 37) - 1);
    assert_eq!(buf.iter().map(|byte| byte.count_ones()).sum::<u32>(), 37);
    field.set(&mut buf, 0x12_3456_789a);
    assert_eq!(field.get(&buf), 0x12_3456_789a);
    // 64 bits across nine bytes, and a field that extends beyond the buffer.
    let field = Field::new(3, 64);
    field.set(&mut buf, 0x8123_4567_89ab_cdef);
    assert_eq!(field.get(&buf), 0x8123_4567_89ab_cdef);
    let field = Field::new(88, 16);
    field.set(&mut buf, 0xabcd);
    assert_eq!(field.get(&buf), 0xcd);
    assert_eq!(Field::new(200, 8).get(&buf), 0);
}

#[test]
fn header_bytes() {
    let header = JobHeader {
        status: 0x58,
        first_incomplete: 3,
        fault_pointer: 0x1_2345_6780,
        barrier: true,
        index: 0x1234,
        dependency_1: 0x5678,
        dependency_2: 0x9abc,
        next: 0xdead_beef_0040,
        ..JobHeader::new(JobType::Fragment)
    };
    let bytes = header.encode();
    assert_eq!(word(&bytes, 0), 0x58);
    assert_eq!(word(&bytes, 1), 3);
    assert_eq!(word(&bytes, 2), 0x2345_6780);
    assert_eq!(word(&bytes, 3), 1);
    assert_eq!(word(&bytes, 4), 0x1234_0000 | 1 << 8 | 9 << 1 | 1);
    assert_eq!(word(&bytes, 5), 0x9abc_5678);
    assert_eq!(word(&bytes, 6), 0xbeef_0040);
    assert_eq!(word(&bytes, 7), 0xdead);
    for seed in 0..100 {
        let decoded = JobHeader::decode(&noise(seed));
        assert_eq!(JobHeader::decode(&decoded.encode()), decoded);
    }
}

#[test]
fn payloads() {
    for seed in 0..100 {
        let decoded = WriteValue::decode(&noise(seed));
        assert_eq!(WriteValue::decode(&decoded.encode()), decoded);
        let decoded = Fragment::decode(&noise(seed));
        assert_eq!(Fragment::decode(&decoded.encode()), decoded);
        let decoded = CacheFlush::decode(&noise(seed));
        assert_eq!(decoded.encode(), noise(seed));
    }
    let frame = Frame {
        framebuffer: Framebuffer::new(333, 211, 2),
        zs_extension: Some(ZsExtension::EMPTY),
        render_targets: vec![RenderTarget::UNUSED; 2],
    };
    let fragment = Fragment::whole(333, 211, frame.pointer(0x1000));
    let bytes = fragment.encode();
    assert_eq!(word(&bytes, 0), 0);
    assert_eq!(word(&bytes, 1), 13 << 16 | 20);
    assert_eq!(word(&bytes, 2), 0x1000 | 1 << 2 | 2 | 1);
    for arch in ARCHES {
        assert_eq!(frame.encode(arch).len(), 128 + 64 + 2 * 64);
    }
}

#[test]
fn framebuffer_bytes() {
    let mut fb = Framebuffer::new(333, 211, 2);
    fb.bound_min = (1, 2);
    fb.log2_samples = 2;
    fb.s_clear = 0xa5;
    fb.s_write = true;
    fb.z_write = true;
    fb.z_internal = 2;
    fb.has_zs_extension = true;
    fb.crc_write = true;
    fb.z_clear = 0.5;
    fb.tiler_context = 0x7000;
    fb.midgard_tiler.polygon_list = 0x8000;
    fb.midgard_tiler.heap_end = 0x9000;
    for arch in ARCHES {
        let bytes = fb.encode(arch);
        assert_eq!(word(&bytes, 8), 210 << 16 | 332);
        assert_eq!(word(&bytes, 9), 2 << 16 | 1);
        assert_eq!(word(&bytes, 10), 210 << 16 | 332);
        assert_eq!(word(&bytes, 11), 1 << 24 | 1 << 19 | 8 << 9 | 2);
        assert_eq!(
            word(&bytes, 12),
            1 << 31 | 1 << 21 | 1 << 18 | 2 << 16 | 1 << 8 | 0xa5
        );
        assert_eq!(word(&bytes, 13), 0.5f32.to_bits());
        if arch == Arch::V5 {
            assert_eq!(word(&bytes, 15), HIERARCHY_DISABLED.into());
            assert_eq!(word(&bytes, 16), 0x8000);
            assert_eq!(word(&bytes, 22), 0x9000);
        } else {
            assert_eq!(word(&bytes, 14), 0x7000);
        }
        for seed in 0..100 {
            // Avoid a NaN as clear value, which would not equal itself.
            let mut bytes = noise(seed);
            bytes[52..56].fill(0);
            let decoded = Framebuffer::decode(arch, &bytes);
            assert_eq!(Framebuffer::decode(arch, &decoded.encode(arch)), decoded);
        }
    }
}

#[test]
fn target_bytes() {
    let surface = Surface {
        base: 0x12_3456_7000,
        row_stride: 4096,
        surface_stride: 0x10_0000,
    };
    let target = RenderTarget::cleared(
        InternalFormat::R8G8B8A8,
        ColorFormat::R8G8B8A8,
        BlockFormat::UInterleaved,
        surface,
        [0xffbf_8040; 4],
    );
    for (arch, block) in [(Arch::V5, 0 << 10), (Arch::V7, 1 << 8), (Arch::V9, 1 << 8)] {
        let bytes = target.encode(arch);
        assert_eq!(word(&bytes, 0), 1 << 26);
        assert_eq!(word(&bytes, 1), 1 << 31 | 0x688 << 16 | 19 << 3 | block | 1);
        assert_eq!(word(&bytes, 8), 0x3456_7000);
        assert_eq!(word(&bytes, 9), 0x12);
        assert_eq!(word(&bytes, 10), 4096);
        assert_eq!(word(&bytes, 11), 0x10_0000);
        assert_eq!(word(&bytes, 12), 0xffbf_8040);
        for seed in 0..100 {
            let decoded = RenderTarget::decode(arch, &noise(seed));
            assert_eq!(RenderTarget::decode(arch, &decoded.encode(arch)), decoded);
            let decoded = ZsExtension::decode(arch, &noise(seed));
            assert_eq!(ZsExtension::decode(arch, &decoded.encode(arch)), decoded);
        }
    }
    let ext = ZsExtension {
        z_format: ZsFormat::D24S8,
        z_block: BlockFormat::Linear,
        z_msaa: Msaa::Layered,
        clean_pixel_write: true,
        s_format: SFormat::S8,
        z_surface: surface,
        ..ZsExtension::EMPTY
    };
    let v5 = ext.encode(Arch::V5);
    assert_eq!(
        word(&v5, 3),
        2 << 20 | 1 << 16 | 1 << 10 | 3 << 6 | 2 << 4 | 5
    );
    assert_eq!(word(&v5, 4), 0x3456_7000);
    let v7 = ext.encode(Arch::V7);
    assert_eq!(
        word(&v7, 3),
        2 << 20 | 1 << 16 | 1 << 10 | 3 << 8 | 2 << 4 | 5
    );
    let v9 = ext.encode(Arch::V9);
    assert_eq!(
        word(&v9, 0),
        1 << 31 | 2 << 20 | 1 << 16 | 3 << 8 | 2 << 4 | 5
    );
    assert_eq!(word(&v9, 8), 0x3456_7000);
}

#[test]
fn tiler_bytes() {
    for arch in ARCHES {
        for seed in 0..100 {
            let decoded = TilerContext::decode(arch, &noise(seed));
            assert_eq!(TilerContext::decode(arch, &decoded.encode(arch)), decoded);
            let decoded = TilerHeap::decode(&noise(seed));
            assert_eq!(TilerHeap::decode(&decoded.encode(arch)), decoded);
        }
        for instances in [1, 2, 1000] {
            let mut job = TilerJob::triangles(1234, 0, 0);
            job.instances = instances;
            match arch {
                Arch::V5 => job.framebuffer = FramebufferPointer::from_bits(0x4001),
                _ => job.tiler_context = 0x5000,
            }
            let mut bytes = [0; TILER_JOB_SIZE];
            bytes[HEADER_SIZE..].copy_from_slice(&job.encode(arch));
            assert_eq!(TilerJob::decode(arch, &bytes), job);
            match arch {
                Arch::V5 => assert_eq!(word(&bytes, 176 / 4), 0x4001),
                Arch::V7 => assert_eq!(word(&bytes, 72 / 4), 0x5000),
                Arch::V9 => assert_eq!(word(&bytes, 56 / 4), 0x5000),
            }
        }
    }
}

#[test]
fn packed_invocations() {
    // A draw of 6 vertices and 4 instances as Mesa packs it: vertices less one in 3 bits, then
    // instances less one; the last count starts where the shift says.
    let mut bytes = [0; TILER_JOB_SIZE];
    bytes[32..36].copy_from_slice(&(5 | 3u32 << 3).to_le_bytes());
    bytes[36..40].copy_from_slice(&(3u32 << 22).to_le_bytes());
    bytes[40..44].copy_from_slice(&8u32.to_le_bytes());
    bytes[52..56].copy_from_slice(&5u32.to_le_bytes());
    for arch in [Arch::V5, Arch::V7] {
        let job = TilerJob::decode(arch, &bytes);
        assert_eq!((job.mode, job.vertices), (DrawMode::Triangles, 6));
        assert_eq!(job.instances, 4);
        // Without instances the shift is 32.
        let mut bytes = bytes;
        bytes[36..40].copy_from_slice(&(32u32 << 22).to_le_bytes());
        assert_eq!(TilerJob::decode(arch, &bytes).instances, 1);
    }
    // The same on v9.
    let mut bytes = [0; TILER_JOB_SIZE];
    bytes[32..36].copy_from_slice(&(8 | 2u32 << 8).to_le_bytes());
    bytes[44..48].copy_from_slice(&6u32.to_le_bytes());
    bytes[48..52].copy_from_slice(&4u32.to_le_bytes());
    bytes[52..56].copy_from_slice(&(32 | 16u32 << 16).to_le_bytes());
    bytes[56..64].copy_from_slice(&0x1234_5640u64.to_le_bytes());
    let job = TilerJob::decode(Arch::V9, &bytes);
    assert_eq!((job.mode, job.vertices), (DrawMode::Triangles, 6));
    assert_eq!((job.instances, job.packet_stride), (4, 32));
    assert_eq!(job.tiler_context, 0x1234_5640);
}
