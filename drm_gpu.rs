// SPDX-License-Identifier: GPL-2.0

//! DRM driver for the Job-Manager generations of the Arm Mali GPU: Midgard, Bifrost and the first
//! Valhall parts.
//!
//! It speaks the UAPI of `panfrost` and answers to that name, so that user space which knows
//! panfrost needs nothing new.
//!
//! # The house
//!
//! Calls go in one direction only, from the top of this list to its bottom:
//!
//! | module       | what it is                                                            |
//! | ------------ | --------------------------------------------------------------------- |
//! | [`uapi`]     | the ioctls: decode the arguments, check them, call the core           |
//! | [`file`]     | one open file: its address space and its job contexts                 |
//! | [`job`]      | submission, contexts, the queue of the job slots, recovery            |
//! | [`shrinker`] | what gives memory back when it is short, and in which order           |
//! | [`gem`]      | buffer objects: pages, mappings, heaps that grow on faults, sharing   |
//! | [`mmu`]      | GPU address spaces: addresses, page tables, hardware slots, faults    |
//! | [`hw`]       | the registers: identity and quirks, power, reset, MMU commands, slots |
//! | [`debugfs`]  | what is shown of all this, for debugging and for tests                |
//! | [`device`]   | what holds it together: probe, teardown, interrupts, the DRM device   |
//!
//! `uapi` keeps no state, the core (`job`, `gem`, `mmu`) names no register, and `hw` never sees a
//! handle or a pointer of user space.
//!
//! # Proof of power
//!
//! Whatever touches a register takes a [`device::Gpu`]. One exists from the moment at which clocks
//! and power are on until they go off, and code that holds nothing but the DRM device gets at it
//! through [`device::with_gpu`], which fails once the device has gone.
//!
//! # Locks, in order
//!
//! 1. the retiring of jobs (mutex), under which they are dropped
//! 2. dma_resv of objects
//! 3. mappings of an object, then one of them, then the object's pages (mutexes); its label's mutex and
//!    a file's table of contexts are leaves
//! 4. [`job::Jobs`]'s `hardware` (mutex): how jobs end, resets
//! 5. [`device::Hw`]'s `reset` (mutex)
//! 6. the order of a context (mutex in the job queue), from arming to pushing
//! 7. the heaps of a file, all heaps, a heap, the reserve of chunks (mutexes)
//! 8. VA tree of an address space (spinlock)
//! 9. the job queue (spinlock)
//! 10. address-space slots (spinlock)
//! 11. the cycle counter (spinlock)
//!
//! The mutex of the user memory of an address space ([`gem::userptr`]) is taken inside of 1 to 3, and 6
//! and 10 inside of it. Changes of the memory take it, in reclaim as well: nothing is allocated under
//! it, and no fence waits for it. They wait for jobs without it.
//!
//! 7 nests in 1 to 3 only; the MMU's interrupt thread takes its last two with nothing held, and
//! nothing is allocated under these. All spinlocks are taken in process context only; the hard halves
//! of the interrupt handlers mask and read, and leave the rest to their threads. Fences are signalled
//! with none of them held. The interrupt threads are fence-signalling sections: nothing in them may
//! wait for memory or for another fence.
//!
//! Reclaim comes with any locks of others. It only tries to get 2, 3 and 7, and waits for 8 to 10 and
//! for DRM's lock of the LRU lists, which is a leaf.

mod debugfs;
mod device;
mod file;
mod gem;
mod hw;
mod job;
mod mmu;
mod shrinker;
mod uapi;

kernel::module_platform_driver! {
    type: device::PlatformDriver,
    name: "drm_gpu",
    authors: ["The drm_gpu authors"],
    description: "DRM driver for Arm Mali Job-Manager GPUs",
    license: "GPL v2",
    params: {
        job_timeout_ms: u32 {
            default: 500,
            description: "Time in milliseconds that a job may run before it is stopped (50 to 600000)",
        },
    },
}
