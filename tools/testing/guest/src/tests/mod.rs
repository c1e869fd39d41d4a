// SPDX-License-Identifier: GPL-2.0

//! The tests, by subject.

use std::env;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::bo::Bo;
use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::PATIENCE;
use crate::check_eq;
use crate::device::Device;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::sync::fence_status;
use crate::sync::Syncobj;
use crate::sys;
use crate::sys::Mapping;
use crate::uapi;

mod board;
mod buffers;
mod crowd;
mod desktop;
mod dump;
mod errors;
mod fences;
mod heap;
mod identity;
mod irqs;
mod lifetime;
mod memory;
mod metadata;
mod nomem;
mod picture;
mod pressure;
mod prime;
mod private;
mod reading;
mod recovery;
mod render;
mod seen;
mod sleep;
mod spaces;
mod stress;
mod submit;
pub(crate) mod tiler;
mod unplug;
mod userptr;

pub use userptr::rare::after_exec;

/// All tests, simple things first.
pub fn all() -> impl Iterator<Item = &'static Test> {
    [
        board::TESTS,
        identity::TESTS,
        buffers::TESTS,
        prime::TESTS,
        metadata::TESTS,
        submit::TESTS,
        reading::TESTS,
        errors::TESTS,
        render::TESTS,
        tiler::TESTS,
        heap::TESTS,
        heap::live::TESTS,
        heap::short::TESTS,
        fences::TESTS,
        private::TESTS,
        lifetime::TESTS,
        memory::TESTS,
        memory::closing::TESTS,
        memory::evict::TESTS,
        memory::limits::TESTS,
        memory::removed::TESTS,
        memory::waits::TESTS,
        memory::bounce::TESTS,
        spaces::TESTS,
        recovery::TESTS,
        recovery::slow::TESTS,
        recovery::habits::TESTS,
        recovery::lost::TESTS,
        recovery::meanwhile::TESTS,
        dump::TESTS,
        pressure::TESTS,
        irqs::TESTS,
        seen::TESTS,
        nomem::TESTS,
        sleep::TESTS,
        unplug::TESTS,
        heap::many::TESTS,
        stress::TESTS,
        desktop::TESTS,
        userptr::TESTS,
        userptr::change::TESTS,
        userptr::kinds::TESTS,
        userptr::leaving::TESTS,
        userptr::rare::TESTS,
        userptr::short::TESTS,
        crowd::TESTS,
        unplug::LAST,
    ]
    .into_iter()
    .flatten()
}

/// Returns whether a test leaves the GPU with another number, so that no other can follow.
pub fn is_last(test: &Test) -> bool {
    unplug::LAST.iter().any(|last| last.name == test.name)
}

/// The byte that fills memory which a job shall change.
const PATTERN: u8 = 0xa5;

/// [`PATTERN`], eight times.
const PATTERN64: u64 = u64::from_le_bytes([PATTERN; 8]);

/// How long it is watched that nothing happens.
const A_WHILE: Duration = Duration::from_millis(150);

/// A BO for jobs to write to, filled with [`PATTERN`].
fn target(device: &Device, size: usize) -> Result<(Bo, Mapping), Stop> {
    let bo = device.create(size, uapi::BO_NOEXEC)?;
    let map = bo.map()?;
    map.fill(PATTERN);
    Ok((bo, map))
}

/// The jobs of a file go on.
fn works(device: &Device) -> Outcome {
    let (bo, map) = target(device, 4096)?;
    let mut chain = Chain::new(device, 4096)?;
    chain.zero(bo.va());
    let done = device.syncobj()?;
    chain.submit(&[&bo], &[], Some(&done))?;
    done.wait(PATIENCE)?;
    let fence = fence_status(done.fence()?.as_fd())?;
    check_eq!((fence, chain.statuses()), (Some(Ok(())), vec![DONE]));
    check_eq!(map.get64(0), 0);
    Ok(())
}

/// Whether a syncobj's fence stays unsignalled for a while.
fn stays_pending(sync: &Syncobj) -> Result<bool, Stop> {
    match sync.wait(A_WHILE) {
        Ok(()) => Ok(false),
        Err(sys::Errno(libc::ETIME)) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a sync file's fence stays unsignalled for a while.
fn file_stays_pending(sync_file: BorrowedFd<'_>) -> Result<bool, Stop> {
    Ok(!sys::readable(sync_file, A_WHILE)?)
}

/// The seed of a test that does things at random, which is printed: `DRM_GPU_SEED`, or else a new
/// one.
fn seed() -> Result<u64, Stop> {
    let seed = match env::var("DRM_GPU_SEED") {
        Ok(text) => text.parse().map_err(Stop::fail)?,
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |now| now.as_micros() as u64 % 1_000_000),
    };
    println!("# DRM_GPU_SEED={seed}");
    Ok(seed)
}

/// Numbers that look random and are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn wide(&mut self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
