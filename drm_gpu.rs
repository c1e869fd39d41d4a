// SPDX-License-Identifier: GPL-2.0

//! DRM driver for the Job-Manager generations of the Arm Mali GPU: Midgard, Bifrost and the first
//! Valhall parts.
//!
//! The driver implements the UAPI of `panfrost` under that name, so that user space written for
//! panfrost works unchanged.
//!
//! # Modules
//!
//! The core, from [`mod@file`] to [`hw`] below, calls in one direction only, down this list;
//! [`uapi`] calls the core, and [`debugfs`] looks into it. [`device`] holds all the others together
//! and calls them. Each module gets from it the handles of the device. `tools/build/check graph`
//! enforces this for imports, as `Documentation/index.rst` describes, which has a picture:
//!
//! | module       | contents                                                              |
//! | ------------ | --------------------------------------------------------------------- |
//! | [`uapi`]     | the ioctls: decode the arguments, check them, call the core           |
//! | [`mod@file`] | one open file: its address space and its job contexts                 |
//! | [`job`]      | submission, contexts, the queue of the job slots, recovery            |
//! | [`shrinker`] | freeing memory when it is short, where it costs least                 |
//! | [`gem`]      | buffer objects: pages, mappings, heaps that grow on faults, sharing   |
//! | [`mmu`]      | GPU address spaces: addresses, page tables, the hardware's AS, faults |
//! | [`hw`]       | the contract of a family of GPUs; in [`hw::mali`], the registers      |
//! | [`debugfs`]  | files that show the state of the above, for debugging and tests       |
//! | [`device`]   | the bound GPU: probe, teardown, interrupts, the DRM device            |
//!
//! `uapi` keeps no state, the core (`job`, `gem`, `mmu`) knows the hardware only by the traits in
//! [`hw`] and names no register, and `hw` never sees a handle or a pointer of user space.
//!
//! # Proof of power
//!
//! Code that accesses a register takes a [`device::Gpu`], which exists from the time clocks and
//! power are on until they are turned off. Code that has nothing but the DRM device obtains it with
//! [`device::with_gpu`], which fails once the device has gone.
//!
//! # Locks, in order
//!
//! 1. [`job::Jobs`]'s `retiring_turn`, then `retiring` (mutexes): held while ended jobs are dropped
//! 2. dma_resv of address spaces and objects
//! 3. the list of an object's mappings, then one mapping, then the object's pages (mutexes); the
//!    mutexes of an object's label and metadata and of a file's table of contexts are leaves
//! 4. [`job::Jobs`]'s `slots_lock` (mutex): held while the end of jobs is handled, and across
//!    resets
//! 5. [`device::GpuInner`]'s `reset` (mutex)
//! 6. the submission order of a context and slot (mutex in the job queue): held from arming to
//!    pushing
//! 7. the heaps of a file, the list of all heaps, a heap, the reserve of chunks (mutexes)
//! 8. the VA tree of an address space (spinlock)
//! 9. the job queue (spinlock), then the dump that is being made (spinlock)
//! 10. a page table, for writers (spinlock), then the memory reserved for it (spinlock)
//! 11. the hardware's address spaces (spinlock), then their orphans, or the tables removed from a
//!     page table (spinlocks)
//! 12. the cycle counter (spinlock)
//!
//! The mutex of an address space's user memory ([`gem::userptr`]) nests inside 1 to 3, and 6, 10
//! and 11 nest inside it. MMU notifiers take it when the memory changes, in reclaim as well, so
//! nothing is allocated under it, and no fence waits for it. The notifiers wait for jobs without
//! holding it.
//!
//! The locks of 7 nest inside 1 to 3 only. The MMU's interrupt thread takes the last two of them,
//! of a heap and of the reserve, with no other lock held, and nothing is allocated under those two.
//! All spinlocks are taken in process context only: the hard interrupt handlers mask and read, and
//! leave the rest to their threads. None of the spinlocks listed here is held while a fence is
//! signalled. The interrupt threads are fence-signalling sections: nothing in them may wait for
//! memory or for another fence.
//!
//! Reclaim runs with arbitrary locks of its callers held. It only tries to take 2, 3 and 7, and
//! waits for 8 to 11 and for DRM's lock of the LRU lists, which is a leaf.

use kernel::{
    driver::Registration,
    platform,
    prelude::*,
    InPlaceModule,
    ModuleMetadata,
    ThisModule, //
};

mod debugfs;
mod device;
mod file;
mod gem;
mod job;
mod mmu;
mod shrinker;

/// Hardware: the [contract](hw::contract) of a family of GPUs, and the family that this driver is
/// for.
mod hw {
    mod contract;
    pub(crate) mod dump;
    pub(crate) mod mali;

    pub(crate) use contract::*;
}

/// The interface to user space: the ioctls of the family's GPUs, and fdinfo.
///
/// The modules here decode arguments, check those that can be checked without consulting the core,
/// and call the core. They keep no state and have no locks of their own.
mod uapi {
    pub(crate) mod fdinfo;
    pub(crate) mod panfrost;
}

/// The family of GPUs that this driver is for.
use crate::hw::mali::Mali as Family;

/// The interface to user space that the family has.
use crate::uapi::panfrost::Panfrost as Interface;

/// The module, as long as it is loaded.
#[pin_data]
struct Module {
    #[pin]
    driver: Registration<platform::Adapter<device::PlatformDriver>>,
}

impl InPlaceModule for Module {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            driver <- Registration::new(<Self as ModuleMetadata>::NAME, module),
            // C panfrost matches the same devices, and whichever comes first has them.
            _: {
                driver.for_each_taken(|dev, other| {
                    let (name, own) = (dev.name(), <Self as ModuleMetadata>::NAME);
                    pr_notice!(
                        "{name} has the driver {other}; to change over: \
                         cd /sys/bus/platform/drivers; \
                         echo {name} >{other}/unbind; echo {name} >{own}/bind\n"
                    );
                });
            },
        })
    }
}

module! {
    type: Module,
    name: "drm_gpu",
    authors: ["The drm_gpu authors"],
    description: "DRM driver for Arm Mali Job-Manager GPUs",
    license: "GPL v2",
    params: {
        job_timeout_ms: u32 {
            default: 500,
            description: "Time in milliseconds that a job may run before it is stopped (50 to 600000)",
        },
        job_limit_ms: u32 {
            default: 10_000,
            description: "Time in milliseconds that a job which goes on after each stop may run in all (job_timeout_ms to 3600000)",
        },
        dump_limit_mib: u32 {
            default: 16,
            description: "Most MiB of memory in a device coredump (0 to 1024; 0: no dumps)",
        },
    },
}
