// SPDX-License-Identifier: GPL-2.0

//! Job headers and the payloads of the jobs without shaders.

use crate::job::Arch;

use super::bits::field_enum;
use super::Field;
use super::FramebufferPointer;

/// The size of a job header in bytes.
pub const HEADER_SIZE: usize = 32;
/// The offset of a job's payload from its header in bytes.
pub const PAYLOAD_OFFSET: u64 = 32;
/// The size of a WRITE_VALUE payload in bytes.
pub const WRITE_VALUE_SIZE: usize = 24;
/// The size of a CACHE_FLUSH payload in bytes.
pub const CACHE_FLUSH_SIZE: usize = 8;
/// The size of a FRAGMENT payload in bytes.
pub const FRAGMENT_SIZE: usize = 32;

field_enum! {
    /// The type of a job.
    JobType {
        /// Not a job.
        NotStarted = 0,
        /// Does nothing.
        Null = 1,
        /// Writes one value to memory.
        WriteValue = 2,
        /// Cleans and invalidates caches.
        CacheFlush = 3,
        /// Runs a compute shader.
        Compute = 4,
        /// Runs vertex shaders (up to v7).
        Vertex = 5,
        /// Runs geometry shaders (up to v7).
        Geometry = 6,
        /// Bins primitives (up to v7).
        Tiler = 7,
        /// Vertex shading and binning in one (v5 and before).
        Fused = 8,
        /// Renders the tiles of a frame.
        Fragment = 9,
        /// Vertex shading on demand and binning (v6, v7).
        IndexedVertex = 10,
        /// The same, with vertex packets allocated by the hardware (v9).
        MallocVertex = 11,
        /// Copies or sums memory. Only the model has this type; no GPU is known to use its number.
        Memory = 112,
    }
}

/// The header that every job starts with. 32 bytes, aligned to 64. (Mesa aligns to 128 on v9, but
/// the model does not require that, as IGT places a job at +64 on every GPU.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobHeader {
    /// Bits 0+32: exception status, 0 before the job has run. Written by the GPU.
    pub status: u32,
    /// Bits 32+32: first incomplete task. Written by the GPU.
    pub first_incomplete: u32,
    /// Bits 64+64: the address that was at fault. Written by the GPU.
    pub fault_pointer: u64,
    /// Bit 128: the descriptor is a 64-bit one (up to v7; v9 has no other and ignores the bit).
    pub is_64bit: bool,
    /// Bits 129+7: the type of the job.
    pub job_type: JobType,
    /// Bit 136: wait for all earlier jobs of the chain.
    pub barrier: bool,
    /// Bit 137: invalidate caches first (up to v7).
    pub invalidate_cache: bool,
    /// Bit 139: do not prefetch the next job.
    pub suppress_prefetch: bool,
    /// Bit 142: dependency 1 need only have started.
    pub relax_dependency_1: bool,
    /// Bit 143: dependency 2 need only have started.
    pub relax_dependency_2: bool,
    /// Bits 144+16: the job's index in the chain, 0 if nothing depends on it.
    pub index: u16,
    /// Bits 160+16: the index of an earlier job to wait for, 0 for none.
    pub dependency_1: u16,
    /// Bits 176+16: the index of another earlier job to wait for, 0 for none.
    pub dependency_2: u16,
    /// Bits 192+64: the next job, 0 at the end.
    pub next: u64,
}

impl JobHeader {
    const STATUS: Field = Field::new(0, 32);
    const FIRST_INCOMPLETE: Field = Field::new(32, 32);
    const FAULT_POINTER: Field = Field::new(64, 64);
    const IS_64BIT: Field = Field::new(128, 1);
    const TYPE: Field = Field::new(129, 7);
    const BARRIER: Field = Field::new(136, 1);
    const INVALIDATE_CACHE: Field = Field::new(137, 1);
    const SUPPRESS_PREFETCH: Field = Field::new(139, 1);
    const RELAX_1: Field = Field::new(142, 1);
    const RELAX_2: Field = Field::new(143, 1);
    const INDEX: Field = Field::new(144, 16);
    const DEPENDENCY_1: Field = Field::new(160, 16);
    const DEPENDENCY_2: Field = Field::new(176, 16);
    const NEXT: Field = Field::new(192, 64);

    /// Creates a header for a job that has not run, without dependencies or successor.
    pub fn new(job_type: JobType) -> Self {
        Self {
            status: 0,
            first_incomplete: 0,
            fault_pointer: 0,
            is_64bit: true,
            job_type,
            barrier: false,
            invalidate_cache: false,
            suppress_prefetch: false,
            relax_dependency_1: false,
            relax_dependency_2: false,
            index: 0,
            dependency_1: 0,
            dependency_2: 0,
            next: 0,
        }
    }

    /// Reads a header.
    pub fn decode(buf: &[u8; HEADER_SIZE]) -> Self {
        Self {
            status: Self::STATUS.get(buf) as u32,
            first_incomplete: Self::FIRST_INCOMPLETE.get(buf) as u32,
            fault_pointer: Self::FAULT_POINTER.get(buf),
            is_64bit: Self::IS_64BIT.is_set(buf),
            job_type: JobType::from_bits(Self::TYPE.get(buf)),
            barrier: Self::BARRIER.is_set(buf),
            invalidate_cache: Self::INVALIDATE_CACHE.is_set(buf),
            suppress_prefetch: Self::SUPPRESS_PREFETCH.is_set(buf),
            relax_dependency_1: Self::RELAX_1.is_set(buf),
            relax_dependency_2: Self::RELAX_2.is_set(buf),
            index: Self::INDEX.get(buf) as u16,
            dependency_1: Self::DEPENDENCY_1.get(buf) as u16,
            dependency_2: Self::DEPENDENCY_2.get(buf) as u16,
            next: Self::NEXT.get(buf),
        }
    }

    /// Returns the header's bytes.
    pub fn encode(&self) -> [u8; HEADER_SIZE] {
        let mut buf = [0; HEADER_SIZE];
        Self::STATUS.set(&mut buf, self.status.into());
        Self::FIRST_INCOMPLETE.set(&mut buf, self.first_incomplete.into());
        Self::FAULT_POINTER.set(&mut buf, self.fault_pointer);
        Self::IS_64BIT.set(&mut buf, self.is_64bit.into());
        Self::TYPE.set(&mut buf, self.job_type.bits());
        Self::BARRIER.set(&mut buf, self.barrier.into());
        Self::INVALIDATE_CACHE.set(&mut buf, self.invalidate_cache.into());
        Self::SUPPRESS_PREFETCH.set(&mut buf, self.suppress_prefetch.into());
        Self::RELAX_1.set(&mut buf, self.relax_dependency_1.into());
        Self::RELAX_2.set(&mut buf, self.relax_dependency_2.into());
        Self::INDEX.set(&mut buf, self.index.into());
        Self::DEPENDENCY_1.set(&mut buf, self.dependency_1.into());
        Self::DEPENDENCY_2.set(&mut buf, self.dependency_2.into());
        Self::NEXT.set(&mut buf, self.next);
        buf
    }
}

field_enum! {
    /// The kind of value that a WRITE_VALUE job writes.
    WriteKind {
        /// The cycle counter, 64 bits.
        CycleCounter = 1,
        /// The system timestamp, 64 bits.
        SystemTimestamp = 2,
        /// Zero, 64 bits.
        Zero = 3,
        /// The low 8 bits of the immediate (v6 and later, as the next three).
        Immediate8 = 4,
        /// The low 16 bits of the immediate.
        Immediate16 = 5,
        /// The low 32 bits of the immediate.
        Immediate32 = 6,
        /// All 64 bits of the immediate.
        Immediate64 = 7,
    }
}

impl WriteKind {
    /// Returns the number of bytes written, or `None` if this GPU has no such kind.
    pub fn size(self, arch: Arch) -> Option<usize> {
        match self {
            Self::CycleCounter | Self::SystemTimestamp | Self::Zero => Some(8),
            _ if arch < Arch::V7 => None,
            Self::Immediate8 => Some(1),
            Self::Immediate16 => Some(2),
            Self::Immediate32 => Some(4),
            Self::Immediate64 => Some(8),
            Self::Other(_) => None,
        }
    }
}

/// The payload of a WRITE_VALUE job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteValue {
    /// Bits 0+64: the address to write to.
    pub address: u64,
    /// Bits 64+32: the kind of value. Values above 255 decode as `Other(255)`.
    pub kind: WriteKind,
    /// Bits 128+64: the value of the immediate kinds.
    pub immediate: u64,
}

impl WriteValue {
    const ADDRESS: Field = Field::new(0, 64);
    const KIND: Field = Field::new(64, 32);
    const IMMEDIATE: Field = Field::new(128, 64);

    /// Reads a payload.
    pub fn decode(buf: &[u8; WRITE_VALUE_SIZE]) -> Self {
        Self {
            address: Self::ADDRESS.get(buf),
            kind: WriteKind::from_bits(Self::KIND.get(buf).min(255)),
            immediate: Self::IMMEDIATE.get(buf),
        }
    }

    /// Returns the payload's bytes.
    pub fn encode(&self) -> [u8; WRITE_VALUE_SIZE] {
        let mut buf = [0; WRITE_VALUE_SIZE];
        Self::ADDRESS.set(&mut buf, self.address);
        Self::KIND.set(&mut buf, self.kind.bits());
        Self::IMMEDIATE.set(&mut buf, self.immediate);
        buf
    }
}

/// The payload of a CACHE_FLUSH job: a set of the flags below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheFlush {
    /// The flags.
    pub flags: u64,
}

impl CacheFlush {
    /// Clean the shader cores' load/store caches.
    pub const CLEAN_SHADER_LS: u64 = 1 << 0;
    /// Invalidate the shader cores' load/store caches.
    pub const INVALIDATE_SHADER_LS: u64 = 1 << 1;
    /// Invalidate the shader cores' other caches.
    pub const INVALIDATE_SHADER_OTHER: u64 = 1 << 2;
    /// Clean the job manager's cache.
    pub const CLEAN_JOB_MANAGER: u64 = 1 << 16;
    /// Invalidate the job manager's cache.
    pub const INVALIDATE_JOB_MANAGER: u64 = 1 << 17;
    /// Clean the tiler's cache.
    pub const CLEAN_TILER: u64 = 1 << 24;
    /// Invalidate the tiler's cache.
    pub const INVALIDATE_TILER: u64 = 1 << 25;
    /// Clean the L2 cache.
    pub const CLEAN_L2: u64 = 1 << 32;
    /// Invalidate the L2 cache.
    pub const INVALIDATE_L2: u64 = 1 << 33;

    /// Reads a payload.
    pub fn decode(buf: &[u8; CACHE_FLUSH_SIZE]) -> Self {
        Self {
            flags: u64::from_le_bytes(*buf),
        }
    }

    /// Returns the payload's bytes.
    pub fn encode(&self) -> [u8; CACHE_FLUSH_SIZE] {
        self.flags.to_le_bytes()
    }
}

/// The tiles to render: one bit per 32x32 pixels, eight to a byte, the leftmost in bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileMap {
    /// Bits 128+64 of the payload: the map.
    pub va: u64,
    /// Bits 192+8 of the payload: bytes per row of the map.
    pub row_stride: u8,
}

/// The payload of a FRAGMENT job (v5 and later).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Bits 0+12: leftmost tile, in units of 16 pixels.
    pub min_x: u16,
    /// Bits 16+12: topmost tile.
    pub min_y: u16,
    /// Bits 32+12: rightmost tile, inclusive.
    pub max_x: u16,
    /// Bits 48+12: bottommost tile, inclusive.
    pub max_y: u16,
    /// Bits 60+3: the order of the tiles (v9). The result does not depend on it.
    pub render_order: u8,
    /// Bit 63 and bits 128 onwards: the tile-enable map.
    pub tile_map: Option<TileMap>,
    /// Bits 64+64: the framebuffer descriptor, with its tag.
    pub framebuffer: FramebufferPointer,
}

impl Fragment {
    const MIN_X: Field = Field::new(0, 12);
    const MIN_Y: Field = Field::new(16, 12);
    const MAX_X: Field = Field::new(32, 12);
    const MAX_Y: Field = Field::new(48, 12);
    const RENDER_ORDER: Field = Field::new(60, 3);
    const HAS_TILE_MAP: Field = Field::new(63, 1);
    const FRAMEBUFFER: Field = Field::new(64, 64);
    const TILE_MAP: Field = Field::new(128, 64);
    const TILE_MAP_STRIDE: Field = Field::new(192, 8);

    /// Creates a payload that renders all tiles of a framebuffer of this size in pixels.
    pub fn whole(width: u32, height: u32, framebuffer: FramebufferPointer) -> Self {
        Self {
            min_x: 0,
            min_y: 0,
            max_x: (width.saturating_sub(1) / 16) as u16,
            max_y: (height.saturating_sub(1) / 16) as u16,
            render_order: 0,
            tile_map: None,
            framebuffer,
        }
    }

    /// Reads a payload.
    pub fn decode(buf: &[u8; FRAGMENT_SIZE]) -> Self {
        Self {
            min_x: Self::MIN_X.get(buf) as u16,
            min_y: Self::MIN_Y.get(buf) as u16,
            max_x: Self::MAX_X.get(buf) as u16,
            max_y: Self::MAX_Y.get(buf) as u16,
            render_order: Self::RENDER_ORDER.get(buf) as u8,
            tile_map: Self::HAS_TILE_MAP.is_set(buf).then(|| TileMap {
                va: Self::TILE_MAP.get(buf),
                row_stride: Self::TILE_MAP_STRIDE.get(buf) as u8,
            }),
            framebuffer: FramebufferPointer::from_bits(Self::FRAMEBUFFER.get(buf)),
        }
    }

    /// Returns the payload's bytes.
    pub fn encode(&self) -> [u8; FRAGMENT_SIZE] {
        let mut buf = [0; FRAGMENT_SIZE];
        Self::MIN_X.set(&mut buf, self.min_x.into());
        Self::MIN_Y.set(&mut buf, self.min_y.into());
        Self::MAX_X.set(&mut buf, self.max_x.into());
        Self::MAX_Y.set(&mut buf, self.max_y.into());
        Self::RENDER_ORDER.set(&mut buf, self.render_order.into());
        if let Some(map) = self.tile_map {
            Self::HAS_TILE_MAP.set(&mut buf, 1);
            Self::TILE_MAP.set(&mut buf, map.va);
            Self::TILE_MAP_STRIDE.set(&mut buf, map.row_stride.into());
        }
        Self::FRAMEBUFFER.set(&mut buf, self.framebuffer.bits());
        buf
    }
}
