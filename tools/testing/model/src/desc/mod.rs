// SPDX-License-Identifier: GPL-2.0

//! Descriptors: the structures in GPU memory that job chains are made of.
//!
//! Each structure is a plain Rust type with `encode` and `decode`. The executor ([`crate::job`])
//! decodes structures in GPU memory; test programs encode the same types to build their chains. Bit
//! positions are given from the start of the structure, which is a little-endian stream of 32-bit
//! words. They were taken from Mesa's descriptions of the hardware (the Midgard v5, Bifrost v7 and
//! Valhall v9 layouts); details that no such source specifies are marked as the model's own choice.
//!
//! Pure functions: no locks, no I/O, no panics on any input bits.

mod bits;
mod framebuffer;
mod job;
mod memory;
mod target;
mod tiler;

pub use bits::Field;
pub use framebuffer::Frame;
pub use framebuffer::Framebuffer;
pub use framebuffer::FramebufferPointer;
pub use framebuffer::FRAMEBUFFER_SIZE;
pub use job::CacheFlush;
pub use job::Fragment;
pub use job::JobHeader;
pub use job::JobType;
pub use job::TileMap;
pub use job::WriteKind;
pub use job::WriteValue;
pub use job::CACHE_FLUSH_SIZE;
pub use job::FRAGMENT_SIZE;
pub use job::HEADER_SIZE;
pub use job::PAYLOAD_OFFSET;
pub use job::WRITE_VALUE_SIZE;
pub use memory::MemoryJob;
pub use memory::MEMORY_JOB_SIZE;
pub use target::BlockFormat;
pub use target::ColorFormat;
pub use target::InternalFormat;
pub use target::Msaa;
pub use target::RenderTarget;
pub use target::SFormat;
pub use target::Surface;
pub use target::ZsExtension;
pub use target::ZsFormat;
pub use target::RENDER_TARGET_SIZE;
pub use target::SWIZZLE_RGBA;
pub use target::ZS_EXTENSION_SIZE;
pub use tiler::DrawMode;
pub use tiler::MidgardTiler;
pub use tiler::TilerContext;
pub use tiler::TilerHeap;
pub use tiler::TilerJob;
pub use tiler::HIERARCHY_DISABLED;
pub use tiler::TILER_CONTEXT_SIZE;
pub use tiler::TILER_HEAP_SIZE;
pub use tiler::TILER_JOB_SIZE;

#[cfg(test)]
mod tests;
