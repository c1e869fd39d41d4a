// SPDX-License-Identifier: GPL-2.0

//! The structures of tiler-type jobs: their payloads, the tiler context, the heap, and v5's tiler
//! section of the framebuffer descriptor.

use crate::job::Arch;

use super::bits::field_enum;
use super::Field;
use super::FramebufferPointer;
use super::JobType;
use super::HEADER_SIZE;

/// The size of a tiler context in bytes (v7, v9).
pub const TILER_CONTEXT_SIZE: usize = 192;
/// The size of a tiler heap in bytes (v7, v9).
pub const TILER_HEAP_SIZE: usize = 32;
/// The size of a tiler-type job in bytes, header included, as far as the model reads it.
pub const TILER_JOB_SIZE: usize = 192;
/// The hierarchy mask of a v5 tiler section that is not used.
pub const HIERARCHY_DISABLED: u16 = 0x1000;

/// v5's tiler section, at byte 56 of the framebuffer descriptor. Bits are counted from the start of
/// the section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MidgardTiler {
    /// Bits 0+32: bytes of the polygon list.
    pub polygon_list_size: u32,
    /// Bits 32+16: levels in use; [`HIERARCHY_DISABLED`] for none.
    pub hierarchy_mask: u16,
    /// Bits 64+64: the polygon list.
    pub polygon_list: u64,
    /// Bits 128+64: the body of the polygon list.
    pub polygon_list_body: u64,
    /// Bits 192+64: first byte of the heap.
    pub heap_start: u64,
    /// Bits 256+64: the byte after the heap.
    pub heap_end: u64,
}

impl MidgardTiler {
    const POLYGON_LIST_SIZE: Field = Field::new(0, 32);
    const HIERARCHY_MASK: Field = Field::new(32, 16);
    const POLYGON_LIST: Field = Field::new(64, 64);
    const POLYGON_LIST_BODY: Field = Field::new(128, 64);
    const HEAP_START: Field = Field::new(192, 64);
    const HEAP_END: Field = Field::new(256, 64);

    /// A section that is not used.
    pub const DISABLED: Self = Self {
        polygon_list_size: 0,
        hierarchy_mask: HIERARCHY_DISABLED,
        polygon_list: 0,
        polygon_list_body: 0,
        heap_start: 0,
        heap_end: 0,
    };

    /// Returns whether primitives can be binned.
    pub fn enabled(&self) -> bool {
        self.hierarchy_mask & HIERARCHY_DISABLED == 0
    }

    /// Decodes the context at an offset of a descriptor.
    pub(super) fn decode(buf: &[u8], byte: usize) -> Self {
        Self {
            polygon_list_size: Self::POLYGON_LIST_SIZE.offset(byte).get(buf) as u32,
            hierarchy_mask: Self::HIERARCHY_MASK.offset(byte).get(buf) as u16,
            polygon_list: Self::POLYGON_LIST.offset(byte).get(buf),
            polygon_list_body: Self::POLYGON_LIST_BODY.offset(byte).get(buf),
            heap_start: Self::HEAP_START.offset(byte).get(buf),
            heap_end: Self::HEAP_END.offset(byte).get(buf),
        }
    }

    /// Writes the context at an offset of a descriptor.
    pub(super) fn encode_at(&self, buf: &mut [u8], byte: usize) {
        Self::POLYGON_LIST_SIZE
            .offset(byte)
            .set(buf, self.polygon_list_size.into());
        Self::HIERARCHY_MASK
            .offset(byte)
            .set(buf, self.hierarchy_mask.into());
        Self::POLYGON_LIST.offset(byte).set(buf, self.polygon_list);
        Self::POLYGON_LIST_BODY
            .offset(byte)
            .set(buf, self.polygon_list_body);
        Self::HEAP_START.offset(byte).set(buf, self.heap_start);
        Self::HEAP_END.offset(byte).set(buf, self.heap_end);
    }
}

/// The tiler context of v7 and v9. Aligned to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilerContext {
    /// Bits 0+64: written by the hardware, 0 at the start. The model stores the link to the last
    /// chunk here.
    pub polygon_list: u64,
    /// Bits 64+13: levels in use.
    pub hierarchy_mask: u16,
    /// Bits 96+16, stored less one: width in pixels.
    pub width: u32,
    /// Bits 112+16, stored less one: height in pixels.
    pub height: u32,
    /// Bits 128+8, stored less one (v9): layers.
    pub layers: u16,
    /// Bits 192+64: the heap descriptor.
    pub heap: u64,
}

impl TilerContext {
    const POLYGON_LIST: Field = Field::new(0, 64);
    const HIERARCHY_MASK: Field = Field::new(64, 13);
    const WIDTH: Field = Field::new(96, 16);
    const HEIGHT: Field = Field::new(112, 16);
    const LAYERS: Field = Field::new(128, 8);
    const HEAP: Field = Field::new(192, 64);

    /// Reads a context.
    pub fn decode(arch: Arch, buf: &[u8; TILER_CONTEXT_SIZE]) -> Self {
        Self {
            polygon_list: Self::POLYGON_LIST.get(buf),
            hierarchy_mask: Self::HIERARCHY_MASK.get(buf) as u16,
            width: Self::WIDTH.get(buf) as u32 + 1,
            height: Self::HEIGHT.get(buf) as u32 + 1,
            layers: if arch >= Arch::V9 {
                Self::LAYERS.get(buf) as u16 + 1
            } else {
                1
            },
            heap: Self::HEAP.get(buf),
        }
    }

    /// Returns the context's bytes.
    pub fn encode(&self, arch: Arch) -> [u8; TILER_CONTEXT_SIZE] {
        let mut buf = [0; TILER_CONTEXT_SIZE];
        Self::POLYGON_LIST.set(&mut buf, self.polygon_list);
        Self::HIERARCHY_MASK.set(&mut buf, self.hierarchy_mask.into());
        Self::WIDTH.set(&mut buf, u64::from(self.width.saturating_sub(1)));
        Self::HEIGHT.set(&mut buf, u64::from(self.height.saturating_sub(1)));
        if arch >= Arch::V9 {
            Self::LAYERS.set(&mut buf, u64::from(self.layers.saturating_sub(1)));
        }
        Self::HEAP.set(&mut buf, self.heap);
        buf
    }
}

/// The tiler heap of v7 and v9. Aligned to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilerHeap {
    /// Bits 32+32: bytes, a multiple of 4096.
    pub size: u32,
    /// Bits 64+64: first byte.
    pub base: u64,
    /// Bits 128+64: first free byte. Advanced by the hardware.
    pub bottom: u64,
    /// Bits 192+64: the byte after the last free one.
    pub top: u64,
}

impl TilerHeap {
    const TYPE_V9: Field = Field::new(0, 4);
    const BUFFER_TYPE_V9: Field = Field::new(4, 4);
    const CHUNK_SIZE_V9: Field = Field::new(8, 2);
    const SIZE: Field = Field::new(32, 32);
    const BASE: Field = Field::new(64, 64);
    const BOTTOM: Field = Field::new(128, 64);
    const TOP: Field = Field::new(192, 64);

    /// The byte offset of `bottom` in the descriptor.
    pub const BOTTOM_BYTE: u64 = 16;

    /// Creates an unused heap.
    pub fn new(base: u64, size: u32) -> Self {
        Self {
            size,
            base,
            bottom: base,
            top: base.saturating_add(size.into()),
        }
    }

    /// Reads a heap.
    pub fn decode(buf: &[u8; TILER_HEAP_SIZE]) -> Self {
        Self {
            size: Self::SIZE.get(buf) as u32,
            base: Self::BASE.get(buf),
            bottom: Self::BOTTOM.get(buf),
            top: Self::TOP.get(buf),
        }
    }

    /// Returns the heap's bytes. v9 marks the descriptor as a buffer (9) of the heap kind (2) with
    /// chunks of 2 MiB (3); the model does not check that.
    pub fn encode(&self, arch: Arch) -> [u8; TILER_HEAP_SIZE] {
        let mut buf = [0; TILER_HEAP_SIZE];
        if arch >= Arch::V9 {
            Self::TYPE_V9.set(&mut buf, 9);
            Self::BUFFER_TYPE_V9.set(&mut buf, 2);
            Self::CHUNK_SIZE_V9.set(&mut buf, 3);
        }
        Self::SIZE.set(&mut buf, self.size.into());
        Self::BASE.set(&mut buf, self.base);
        Self::BOTTOM.set(&mut buf, self.bottom);
        Self::TOP.set(&mut buf, self.top);
        buf
    }
}

field_enum! {
    /// How vertices form primitives.
    DrawMode {
        /// No primitives.
        None = 0,
        /// One vertex each.
        Points = 1,
        /// Two vertices each.
        Lines = 2,
        /// Each vertex with the one before.
        LineStrip = 4,
        /// The same, and the last vertex with the first.
        LineLoop = 6,
        /// Three vertices each.
        Triangles = 8,
        /// Each vertex with the two before.
        TriangleStrip = 10,
        /// Each vertex with the one before and the first.
        TriangleFan = 12,
        /// All vertices, as a fan.
        Polygon = 13,
        /// Four vertices each.
        Quads = 14,
    }
}

impl DrawMode {
    /// Returns the number of primitives that this many vertices form, or `None` for an invalid
    /// mode.
    pub fn primitives(self, vertices: u32) -> Option<u32> {
        Some(match self {
            Self::None => 0,
            Self::Points => vertices,
            Self::Lines => vertices / 2,
            Self::LineStrip => vertices.saturating_sub(1),
            Self::LineLoop => vertices,
            Self::Triangles => vertices / 3,
            Self::TriangleStrip | Self::TriangleFan | Self::Polygon => vertices.saturating_sub(2),
            Self::Quads => vertices / 4,
            Self::Other(_) => return None,
        })
    }
}

/// The part of a tiler-type job that determines the number of primitives and where they are binned:
/// TILER (v5, v7), INDEXED_VERTEX (v7), MALLOC_VERTEX (v9). Bit and byte positions are counted from
/// the start of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TilerJob {
    /// Bits 320+8 (v5, v7), 256+8 (v9): how vertices form primitives.
    pub mode: DrawMode,
    /// Bits 416+32, stored less one (v5, v7), or 352+32 (v9): the number of vertices or indices.
    pub vertices: u32,
    /// The packed counts at bits 256+32 and their shifts at 288+32 (v5, v7), bits 384+32 (v9):
    /// instances.
    pub instances: u32,
    /// Bits 416+16 (v9): bytes of a vertex packet, which the hardware allocates from the heap.
    pub packet_stride: u16,
    /// Byte 176 (v5): the framebuffer descriptor.
    pub framebuffer: FramebufferPointer,
    /// Byte 72 (v7), 56 (v9): the tiler context.
    pub tiler_context: u64,
}

impl TilerJob {
    // Up to v7. The invocation's first word packs several counts, each less one; the second word
    // says at which bits they start. The last of them is the number of instances.
    const INVOCATION: Field = Field::new(256, 32);
    const SHIFT_Y: Field = Field::new(304, 6);
    const SHIFT_Z: Field = Field::new(310, 6);
    const MODE: Field = Field::new(320, 8);
    const COUNT_LESS_ONE: Field = Field::new(416, 32);
    const CONTEXT_V7: Field = Field::new(576, 64);
    const FRAMEBUFFER_V5: Field = Field::new(1408, 64);
    // v9.
    const MODE_V9: Field = Field::new(256, 8);
    const COUNT_V9: Field = Field::new(352, 32);
    const INSTANCES_V9: Field = Field::new(384, 32);
    const PACKET_STRIDE_V9: Field = Field::new(416, 16);
    const CONTEXT_V9: Field = Field::new(448, 64);

    /// Returns whether jobs of this type bin primitives on this GPU.
    pub fn is_tiler_type(arch: Arch, job_type: JobType) -> bool {
        matches!(
            (arch, job_type),
            (Arch::V5 | Arch::V7, JobType::Tiler)
                | (Arch::V7, JobType::IndexedVertex)
                | (Arch::V9, JobType::MallocVertex)
        )
    }

    /// Returns the type of the tiler-type job that a simple draw uses on this GPU.
    pub fn job_type(arch: Arch) -> JobType {
        match arch {
            Arch::V5 => JobType::Tiler,
            Arch::V7 => JobType::IndexedVertex,
            Arch::V9 => JobType::MallocVertex,
        }
    }

    /// Creates a draw of separate triangles into a tiler context (v7, v9) or a framebuffer (v5).
    pub fn triangles(count: u32, tiler_context: u64, framebuffer: u64) -> Self {
        Self {
            mode: DrawMode::Triangles,
            vertices: count.saturating_mul(3),
            instances: 1,
            packet_stride: 0,
            framebuffer: FramebufferPointer::from_bits(framebuffer),
            tiler_context,
        }
    }

    /// Reads a job, header included.
    pub fn decode(arch: Arch, buf: &[u8; TILER_JOB_SIZE]) -> Self {
        if arch >= Arch::V9 {
            return Self {
                mode: DrawMode::from_bits(Self::MODE_V9.get(buf)),
                vertices: Self::COUNT_V9.get(buf) as u32,
                instances: Self::INSTANCES_V9.get(buf) as u32,
                packet_stride: Self::PACKET_STRIDE_V9.get(buf) as u16,
                framebuffer: FramebufferPointer::from_bits(0),
                tiler_context: Self::CONTEXT_V9.get(buf),
            };
        }
        // A shift of 32 leaves no bits for the count: a single instance.
        let more = Self::INVOCATION
            .get(buf)
            .checked_shr(Self::SHIFT_Z.get(buf) as u32)
            .unwrap_or(0);
        Self {
            mode: DrawMode::from_bits(Self::MODE.get(buf)),
            vertices: (Self::COUNT_LESS_ONE.get(buf) as u32).saturating_add(1),
            instances: (more as u32).saturating_add(1),
            packet_stride: 0,
            framebuffer: FramebufferPointer::from_bits(if arch == Arch::V5 {
                Self::FRAMEBUFFER_V5.get(buf)
            } else {
                0
            }),
            tiler_context: if arch == Arch::V7 {
                Self::CONTEXT_V7.get(buf)
            } else {
                0
            },
        }
    }

    /// Returns the job's bytes after its header. Only the fields of [`TilerJob`] are set; a job for
    /// real hardware would need shaders.
    pub fn encode(&self, arch: Arch) -> [u8; TILER_JOB_SIZE - HEADER_SIZE] {
        let mut buf = [0; TILER_JOB_SIZE];
        if arch >= Arch::V9 {
            Self::MODE_V9.set(&mut buf, self.mode.bits());
            Self::COUNT_V9.set(&mut buf, self.vertices.into());
            Self::INSTANCES_V9.set(&mut buf, self.instances.into());
            Self::PACKET_STRIDE_V9.set(&mut buf, self.packet_stride.into());
            Self::CONTEXT_V9.set(&mut buf, self.tiler_context);
        } else {
            // All other counts are 1 and take no bits.
            Self::INVOCATION.set(&mut buf, u64::from(self.instances.saturating_sub(1)));
            Self::SHIFT_Y.set(&mut buf, 0);
            let shift = if self.instances > 1 { 0 } else { 32 };
            Self::SHIFT_Z.set(&mut buf, shift);
            Self::MODE.set(&mut buf, self.mode.bits());
            Self::COUNT_LESS_ONE.set(&mut buf, u64::from(self.vertices.saturating_sub(1)));
            if arch == Arch::V5 {
                Self::FRAMEBUFFER_V5.set(&mut buf, self.framebuffer.bits());
            } else {
                Self::CONTEXT_V7.set(&mut buf, self.tiler_context);
            }
        }
        let mut payload = [0; TILER_JOB_SIZE - HEADER_SIZE];
        payload.copy_from_slice(&buf[HEADER_SIZE..]);
        payload
    }
}
