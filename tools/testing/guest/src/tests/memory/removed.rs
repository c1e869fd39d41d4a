// SPDX-License-Identifier: GPL-2.0

//! Memory of a control group that was removed. Only BOs ever reach a limit, so nobody is killed.

use std::fs;

use model::desc::WriteKind;

use crate::chain::Chain;
use crate::chain::DONE;
use crate::chain::NOT_STARTED;
use crate::chain::PATIENCE;
use crate::check;
use crate::check_eq;
use crate::harness::Gpu;
use crate::harness::Outcome;
use crate::harness::Stop;
use crate::harness::Test;
use crate::memory::killed;
use crate::memory::resident;
use crate::memory::wait_for;
use crate::swap::Swap;
use crate::sys::Errno;

use super::super::tiler::heap;
use super::content;
use super::evict::swap_out;
use super::evict::MemoryGroup;
use super::filled;
use super::limits::evict_all;
use super::limits::keep_own_memory;
use super::limits::NOT_CHARGED;
use super::MIB;
use super::NO_KNOB;
use super::PAGE;

pub(in super::super) const TESTS: &[Test] = &[
    Test::new("limit-of-removed-group", &["D4", "D9"], of_bo).panfrost_fails(NO_KNOB),
    Test::new("limit-of-removed-group-no-room", &["D4", "D9"], no_room).panfrost_fails(NO_KNOB),
    Test::new("limit-of-removed-group-heap", &["B1", "D9"], of_heap).panfrost_fails(NOT_CHARGED),
];

impl MemoryGroup {
    /// Moves this process from the group, or from anywhere else, to a new group within it, whose
    /// memory is memory of the outer group as well.
    fn enter_child(&self) -> Result<Self, Stop> {
        let child = self.0.join("child");
        fs::create_dir(&child)?;
        fs::write(child.join("cgroup.procs"), "0")?;
        // Only now, as a group with processes of its own cannot do so.
        fs::write(self.0.join("cgroup.subtree_control"), "+memory")?;
        Ok(Self(child))
    }

    /// Removes a group within it, whose processes have all left. The memory of that group has
    /// passed to this one when the call returns.
    fn remove_child(&self, child: Self) -> Outcome {
        // The memory of a group passes on some time after the group was removed, and nothing tells
        // when. It does so as well if the group loses the controller, and to give the controller
        // back waits for that.
        for control in ["-memory", "+memory"] {
            fs::write(self.0.join("cgroup.subtree_control"), control)?;
        }
        Ok(fs::remove_dir(&child.0)?)
    }

    /// Bytes of BOs, and of other shared memory, that it is charged for. The kernel adds up what
    /// its processors have counted every two seconds.
    fn shared(&self) -> Result<usize, Stop> {
        self.stat("shmem")
    }
}

/// A BO in swap outlives the group of the process that has created it. The group that brings it
/// back pays for it, until it is closed. The parent of the removed group can ask for it.
fn of_bo(gpu: &Gpu) -> Outcome {
    const SIZE: usize = 16 * MIB;
    let _swap = Swap::on(64 * MIB)?;
    let parent = MemoryGroup::enter()?;
    let group = parent.enter_child()?;
    let device = gpu.open()?;
    let bo = filled(&device, SIZE, 5)?;
    group.leave()?;
    evict_all(gpu, &device)?;
    let is_out = wait_for(PATIENCE, || {
        group.reclaim(SIZE)?;
        Ok(group.shared()? < SIZE / 4)
    })?;
    check!(is_out, "{} bytes stay", group.shared()?);
    parent.remove_child(group)?;

    let group = parent.enter_child()?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.write(bo.va() + 64, WriteKind::Zero, 0);
    let mut expected = content(SIZE, 5);
    expected[64..72].fill(0);
    let before = parent.shared()?;
    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), [DONE]);
    let pays = || Ok(group.shared()? >= SIZE / 2);
    check!(
        wait_for(PATIENCE, pays)?,
        "the group pays for {} bytes",
        group.shared()?
    );

    let is_evicted = wait_for(PATIENCE, || {
        parent.reclaim(SIZE)?;
        Ok(resident(&device)? < SIZE)
    })?;
    check!(is_evicted, "the parent cannot have it evicted");
    check!(bo.map()?.bytes(0, SIZE) == expected, "another content");

    bo.close()?;
    let is_back = || Ok(parent.shared()? <= before + MIB);
    check!(
        wait_for(PATIENCE, is_back)?,
        "{before} bytes have become {}",
        parent.shared()?
    );
    Ok(())
}

/// A BO of a removed group comes back only as far as the limit of the group that brings it back
/// allows: if it does not fit, the submission fails, and nothing is lost.
fn no_room(gpu: &Gpu) -> Outcome {
    const SIZE: usize = 16 * MIB;
    let swap = Swap::on(64 * MIB)?;
    let parent = MemoryGroup::enter()?;
    let group = parent.enter_child()?;
    // So that nothing but the BO goes to swap, and the group with the limit gets no page cache.
    keep_own_memory()?;
    let device = gpu.open()?;
    let bo = filled(&device, SIZE, 5)?;
    group.leave()?;
    evict_all(gpu, &device)?;
    swap_out(&group, &swap, SIZE)?;
    parent.remove_child(group)?;

    let group = parent.enter_child()?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(bo.va() + 64);
    let killed_before = killed()?;
    // There is room for a quarter of the BO, and half of it or more is in swap. The quarter that
    // comes back can go again when the attempt has failed, so that small allocations find room.
    group.limit(Some(group.current()? + SIZE / 4))?;
    let result = chain.submit(&[&bo], &[], None);
    group.limit(None)?;
    check_eq!(result, Err(Errno(libc::ENOMEM)));
    check_eq!(chain.statuses(), [NOT_STARTED]);
    check_eq!(killed()?, killed_before);

    chain.run(&[&bo])?;
    check_eq!(chain.statuses(), [DONE]);
    let mut expected = content(SIZE, 5);
    expected[64..72].fill(0);
    check!(bo.map()?.bytes(0, SIZE) == expected, "another content");
    Ok(())
}

/// A heap grows on when the group of the process that has created it was removed: the parent of
/// the group pays for what is added, and gets it back.
fn of_heap(gpu: &Gpu) -> Outcome {
    const CHUNK: usize = 2 * MIB;
    const CHUNKS: usize = 16;
    let parent = MemoryGroup::enter()?;
    let group = parent.enter_child()?;
    let device = gpu.open()?;
    let heap = heap(&device, CHUNKS * CHUNK)?;
    let mut chain = Chain::new(&device, PAGE)?;
    chain.zero(heap.va());
    chain.run(&[&heap])?;
    check_eq!(chain.statuses(), [DONE]);
    group.leave()?;
    parent.remove_child(group)?;

    let before = parent.current()?;
    let mut grows = Chain::new(&device, PAGE)?;
    for n in 1..CHUNKS {
        grows.zero(heap.va() + (n * CHUNK) as u64);
    }
    grows.run(&[&heap])?;
    check_eq!(grows.statuses(), [DONE; CHUNKS - 1]);
    let more = parent.current()?.saturating_sub(before);
    // It had some in advance.
    check!(
        more >= CHUNKS / 2 * CHUNK,
        "the parent pays for {more} bytes"
    );

    heap.close()?;
    let is_back = || Ok(parent.current()? <= before);
    check!(
        wait_for(PATIENCE, is_back)?,
        "{before} bytes have become {}",
        parent.current()?
    );
    Ok(())
}
