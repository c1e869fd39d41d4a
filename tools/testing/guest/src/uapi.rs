// SPDX-License-Identifier: GPL-2.0

//! The user-space interface of panfrost, of what drm_gpu adds to it, of the DRM core, of dma-buf
//! and of sw_sync, as far as it is used here. Layouts and numbers are those of Linux 7.3's headers,
//! and of `drm_gpu_drm.h`.

use crate::sys::request;

const WRITE: u64 = 1;
const READ_WRITE: u64 = 3;
const DRM: u8 = b'd';

/// Declares a structure that the kernel reads and writes.
macro_rules! uapi {
    ($( $(#[$meta:meta])* $name:ident { $( $field:ident: $type:ty ),* $(,)? } )*) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default)]
            pub struct $name {
                $( pub $field: $type, )*
            }
        )*
    };
}

uapi! {
    /// Queues a job chain.
    Submit {
        jc: u64,
        in_syncs: u64,
        in_sync_count: u32,
        out_sync: u32,
        bo_handles: u64,
        bo_handle_count: u32,
        requirements: u32,
        jm_ctx_handle: u32,
        pad: u32,
    }
    /// Waits for the jobs that use a BO, until an absolute time.
    WaitBo { handle: u32, pad: u32, timeout_ns: i64 }
    /// Makes a BO.
    CreateBo { size: u32, flags: u32, handle: u32, pad: u32, offset: u64 }
    /// Asks for the offset at which to mmap a BO.
    MmapBo { handle: u32, flags: u32, offset: u64 }
    /// Asks about the GPU.
    GetParam { param: u32, pad: u32, value: u64 }
    /// Asks for a BO's GPU address.
    GetBoOffset { handle: u32, pad: u32, offset: u64 }
    /// Says whether a BO's contents are needed.
    Madvise { handle: u32, madv: u32, retained: u32 }
    /// Names a BO.
    SetLabelBo { handle: u32, pad: u32, label: u64 }
    /// Makes a context.
    JmCtxCreate { handle: u32, priority: u32 }
    /// Drops a context.
    JmCtxDestroy { handle: u32, pad: u32 }
    /// Makes parts of BOs in the CPU's caches and in memory the same.
    SyncBo { ops: u64, op_count: u32, pad: u32 }
    /// A part of a BO for [`SyncBo`].
    SyncOp { handle: u32, kind: u32, offset: u32, size: u32 }
    /// Makes a BO over memory of the caller.
    CreateUserptr { address: u64, size: u64, flags: u32, handle: u32, offset: u64 }
    /// Keeps data with a BO, or asks for them.
    BoMetadata { handle: u32, flags: u32, data: u64, size: u32, pad: u32 }

    /// Asks for the driver's name and version.
    Version {
        major: i32,
        minor: i32,
        patchlevel: i32,
        name_len: usize,
        name: usize,
        date_len: usize,
        date: usize,
        desc_len: usize,
        desc: usize,
    }
    /// Drops a handle.
    GemClose { handle: u32, pad: u32 }
    /// Gives a BO a name that all clients know it by.
    GemFlink { handle: u32, name: u32 }
    /// Makes a handle of a name.
    GemOpen { name: u32, handle: u32, size: u64 }
    /// Exports or imports a dma-buf.
    PrimeHandle { handle: u32, flags: u32, fd: i32 }
    /// Makes a buffer for a display.
    CreateDumb {
        height: u32,
        width: u32,
        bpp: u32,
        flags: u32,
        handle: u32,
        pitch: u32,
        size: u64,
    }
    /// Makes a syncobj.
    SyncobjCreate { handle: u32, flags: u32 }
    /// Drops a syncobj's handle.
    SyncobjDestroy { handle: u32, pad: u32 }
    /// Exports or imports a syncobj or its fence.
    SyncobjHandle { handle: u32, flags: u32, fd: i32, pad: u32, point: u64 }
    /// Waits for syncobjs until an absolute time.
    SyncobjWait {
        handles: u64,
        timeout_ns: i64,
        count_handles: u32,
        flags: u32,
        first_signaled: u32,
        pad: u32,
        deadline_ns: u64,
    }
    /// Resets or signals syncobjs.
    SyncobjArray { handles: u64, count_handles: u32, pad: u32 }

    /// Exports a dma-buf's fences, or adds one.
    SyncFile { flags: u32, fd: i32 }

    /// Makes a sync file for the fences of two.
    SyncMerge { name: [u8; 32], fd2: i32, fence: i32, flags: u32, pad: u32 }

    /// Tells about a sync file.
    SyncFileInfo {
        name: [u8; 32],
        status: i32,
        flags: u32,
        num_fences: u32,
        pad: u32,
        sync_fence_info: u64,
    }

    /// The state of one of the fences of a sync file.
    SyncFenceInfo {
        object: [u8; 32],
        driver: [u8; 32],
        status: i32,
        flags: u32,
        timestamp_ns: u64,
    }

    /// Asks for a sync file's fence to signal by an absolute time.
    SyncSetDeadline { deadline_ns: u64, pad: u64 }

    /// Makes a fence on a software timeline.
    SwSyncFence { value: u32, name: [u8; 32], fence: i32 }
}

/// A panfrost ioctl's number.
const fn panfrost<T>(direction: u64, nr: u8) -> u64 {
    request(direction, DRM, 0x40 + nr, size_of::<T>())
}

/// A DRM core ioctl's number.
const fn drm<T>(direction: u64, nr: u8) -> u64 {
    request(direction, DRM, nr, size_of::<T>())
}

/// Takes a [`Submit`].
pub const SUBMIT: u64 = panfrost::<Submit>(WRITE, 0);
/// Takes a [`WaitBo`].
pub const WAIT_BO: u64 = panfrost::<WaitBo>(WRITE, 1);
/// Takes a [`CreateBo`].
pub const CREATE_BO: u64 = panfrost::<CreateBo>(READ_WRITE, 2);
/// Takes a [`MmapBo`].
pub const MMAP_BO: u64 = panfrost::<MmapBo>(READ_WRITE, 3);
/// Takes a [`GetParam`].
pub const GET_PARAM: u64 = panfrost::<GetParam>(READ_WRITE, 4);
/// Takes a [`GetBoOffset`].
pub const GET_BO_OFFSET: u64 = panfrost::<GetBoOffset>(READ_WRITE, 5);
/// Takes a [`Madvise`].
pub const MADVISE: u64 = panfrost::<Madvise>(READ_WRITE, 8);
/// Takes a [`SetLabelBo`].
pub const SET_LABEL_BO: u64 = panfrost::<SetLabelBo>(READ_WRITE, 9);
/// Takes a [`JmCtxCreate`], from 1.5 on.
pub const JM_CTX_CREATE: u64 = panfrost::<JmCtxCreate>(READ_WRITE, 10);
/// Takes a [`JmCtxDestroy`], from 1.5 on.
pub const JM_CTX_DESTROY: u64 = panfrost::<JmCtxDestroy>(READ_WRITE, 11);
/// Takes a [`SyncBo`], from 1.6 on.
pub const SYNC_BO: u64 = panfrost::<SyncBo>(READ_WRITE, 12);
/// Takes a [`CreateUserptr`].
pub const CREATE_USERPTR: u64 = panfrost::<CreateUserptr>(READ_WRITE, 0x50);
/// Takes a [`BoMetadata`].
pub const SET_METADATA: u64 = panfrost::<BoMetadata>(WRITE, 0x51);
/// Takes a [`BoMetadata`].
pub const GET_METADATA: u64 = panfrost::<BoMetadata>(READ_WRITE, 0x52);

/// Takes a [`Version`].
pub const VERSION: u64 = drm::<Version>(READ_WRITE, 0x00);
/// Takes a [`GemClose`].
pub const GEM_CLOSE: u64 = drm::<GemClose>(WRITE, 0x09);
/// Takes a [`GemFlink`]. Not on render nodes.
pub const GEM_FLINK: u64 = drm::<GemFlink>(READ_WRITE, 0x0a);
/// Takes a [`GemOpen`]. Not on render nodes.
pub const GEM_OPEN: u64 = drm::<GemOpen>(READ_WRITE, 0x0b);
/// Takes a [`PrimeHandle`].
pub const PRIME_HANDLE_TO_FD: u64 = drm::<PrimeHandle>(READ_WRITE, 0x2d);
/// Takes a [`PrimeHandle`].
pub const PRIME_FD_TO_HANDLE: u64 = drm::<PrimeHandle>(READ_WRITE, 0x2e);
/// Takes a [`CreateDumb`].
pub const MODE_CREATE_DUMB: u64 = drm::<CreateDumb>(READ_WRITE, 0xb2);
/// Takes a [`SyncobjCreate`].
pub const SYNCOBJ_CREATE: u64 = drm::<SyncobjCreate>(READ_WRITE, 0xbf);
/// Takes a [`SyncobjDestroy`].
pub const SYNCOBJ_DESTROY: u64 = drm::<SyncobjDestroy>(READ_WRITE, 0xc0);
/// Takes a [`SyncobjHandle`].
pub const SYNCOBJ_HANDLE_TO_FD: u64 = drm::<SyncobjHandle>(READ_WRITE, 0xc1);
/// Takes a [`SyncobjHandle`].
pub const SYNCOBJ_FD_TO_HANDLE: u64 = drm::<SyncobjHandle>(READ_WRITE, 0xc2);
/// Takes a [`SyncobjWait`].
pub const SYNCOBJ_WAIT: u64 = drm::<SyncobjWait>(READ_WRITE, 0xc3);
/// Takes a [`SyncobjArray`].
pub const SYNCOBJ_RESET: u64 = drm::<SyncobjArray>(READ_WRITE, 0xc4);
/// Takes a [`SyncobjArray`].
pub const SYNCOBJ_SIGNAL: u64 = drm::<SyncobjArray>(READ_WRITE, 0xc5);

/// Begin or end an access of the CPU to a dma-buf.
pub const DMA_BUF_SYNC: u64 = request(WRITE, b'b', 0, size_of::<u64>());
/// Takes a [`SyncFile`].
pub const DMA_BUF_EXPORT_SYNC_FILE: u64 = request(READ_WRITE, b'b', 2, size_of::<SyncFile>());
/// Takes a [`SyncFile`].
pub const DMA_BUF_IMPORT_SYNC_FILE: u64 = request(WRITE, b'b', 3, size_of::<SyncFile>());

/// Takes a [`SyncMerge`].
pub const SYNC_MERGE: u64 = request(READ_WRITE, b'>', 3, size_of::<SyncMerge>());

/// Takes a [`SyncFileInfo`].
pub const SYNC_FILE_INFO: u64 = request(READ_WRITE, b'>', 4, size_of::<SyncFileInfo>());

/// Takes a [`SyncSetDeadline`].
pub const SYNC_SET_DEADLINE: u64 = request(WRITE, b'>', 5, size_of::<SyncSetDeadline>());

/// Takes a [`SwSyncFence`].
pub const SW_SYNC_CREATE_FENCE: u64 = request(READ_WRITE, b'W', 0, size_of::<SwSyncFence>());
/// Takes a `u32`: how far to advance.
pub const SW_SYNC_INC: u64 = request(WRITE, b'W', 1, size_of::<u32>());

/// Writes the CPU's caches back.
pub const SYNC_FLUSH: u32 = 0;
/// Writes them back and drops what they hold.
pub const SYNC_FLUSH_AND_INVALIDATE: u32 = 1;

/// The chain is for the fragment slot.
pub const REQ_FS: u32 = 1 << 0;
/// The chain reads the cycle counter.
pub const REQ_CYCLE_COUNT: u32 = 1 << 1;

/// Behind all others.
pub const PRIORITY_LOW: u32 = 0;
/// The usual one.
pub const PRIORITY_MEDIUM: u32 = 1;
/// Before all others, for the privileged.
pub const PRIORITY_HIGH: u32 = 2;

/// The GPU cannot execute from the BO.
pub const BO_NOEXEC: u32 = 1 << 0;
/// The BO is populated as the GPU faults on it.
pub const BO_HEAP: u32 = 1 << 1;
/// The BO is mapped write-back.
pub const BO_WB_MMAP: u32 = 1 << 2;

/// The GPU only reads the memory.
pub const USERPTR_READONLY: u32 = 1 << 0;

/// The contents are needed.
pub const MADV_WILLNEED: u32 = 0;
/// The contents are not needed.
pub const MADV_DONTNEED: u32 = 1;

/// Bytes of a label that are accepted, with the final NUL.
pub const LABEL_MAX: usize = 4096;

/// `GPU_PROD_ID`.
pub const PARAM_PROD_ID: u32 = 0;
/// `GPU_REVISION`.
pub const PARAM_REVISION: u32 = 1;
/// `SHADER_PRESENT`.
pub const PARAM_SHADER_PRESENT: u32 = 2;
/// `TILER_PRESENT`.
pub const PARAM_TILER_PRESENT: u32 = 3;
/// `L2_PRESENT`.
pub const PARAM_L2_PRESENT: u32 = 4;
/// `STACK_PRESENT`.
pub const PARAM_STACK_PRESENT: u32 = 5;
/// `AS_PRESENT`.
pub const PARAM_AS_PRESENT: u32 = 6;
/// `JS_PRESENT`.
pub const PARAM_JS_PRESENT: u32 = 7;
/// `L2_FEATURES`.
pub const PARAM_L2_FEATURES: u32 = 8;
/// `CORE_FEATURES`.
pub const PARAM_CORE_FEATURES: u32 = 9;
/// `TILER_FEATURES`.
pub const PARAM_TILER_FEATURES: u32 = 10;
/// `MEM_FEATURES`.
pub const PARAM_MEM_FEATURES: u32 = 11;
/// `MMU_FEATURES`.
pub const PARAM_MMU_FEATURES: u32 = 12;
/// `THREAD_FEATURES`.
pub const PARAM_THREAD_FEATURES: u32 = 13;
/// `MAX_THREADS`.
pub const PARAM_MAX_THREADS: u32 = 14;
/// `TEXTURE_FEATURES0`, followed by three more.
pub const PARAM_TEXTURE_FEATURES0: u32 = 18;
/// `JS_FEATURES0`, followed by fifteen more.
pub const PARAM_JS_FEATURES0: u32 = 22;
/// `THREAD_TLS_ALLOC`.
pub const PARAM_THREAD_TLS_ALLOC: u32 = 39;
/// `AFBC_FEATURES`.
pub const PARAM_AFBC_FEATURES: u32 = 40;
/// `SYSTEM_TIMESTAMP`, from 1.3 on.
pub const PARAM_SYSTEM_TIMESTAMP: u32 = 41;
/// `SYSTEM_TIMESTAMP_FREQUENCY`, from 1.3 on.
pub const PARAM_SYSTEM_TIMESTAMP_FREQUENCY: u32 = 42;
/// `ALLOWED_JM_CTX_PRIORITIES`, from 1.5 on.
pub const PARAM_ALLOWED_JM_CTX_PRIORITIES: u32 = 43;
/// `SELECTED_COHERENCY`, from 1.6 on.
pub const PARAM_SELECTED_COHERENCY: u32 = 44;

/// Version of the support for user memory, of drm_gpu only.
pub const PARAM_USERPTR: u32 = 0x1000_0000;
/// Most bytes of metadata that a BO can have, of drm_gpu only.
pub const PARAM_METADATA: u32 = 0x1000_0001;

/// Open with O_CLOEXEC.
pub const PRIME_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
/// Open for reading and writing.
pub const PRIME_RDWR: u32 = libc::O_RDWR as u32;

/// The syncobj starts with a signalled fence.
pub const SYNCOBJ_CREATE_SIGNALED: u32 = 1;
/// Export or import a fence, not the syncobj.
pub const SYNCOBJ_SYNC_FILE: u32 = 1;
/// Wait for all of them.
pub const SYNCOBJ_WAIT_ALL: u32 = 1;
/// Set a deadline on their fences.
pub const SYNCOBJ_WAIT_DEADLINE: u32 = 1 << 3;

/// As a reader: wait for writers; add a fence that writers wait for.
pub const DMA_BUF_SYNC_READ: u32 = 1;
/// As a writer: wait for all; add a fence that all wait for.
pub const DMA_BUF_SYNC_WRITE: u32 = 2;
/// An access ends; else it begins.
pub const DMA_BUF_SYNC_END: u32 = 4;
