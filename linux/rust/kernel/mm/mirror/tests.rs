// SPDX-License-Identifier: GPL-2.0

//! Tests of the mirrors on memory of the test's own thread, and a device that counts.

use super::*;
use crate::{
    faux,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    sync::SetOnce, //
};
use core::ptr;

// Those of asm-generic, which all architectures with Rust have.
const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const MAP_PRIVATE: u32 = 0x02;
const MAP_FIXED: u32 = 0x10;
const MAP_ANONYMOUS: u32 = 0x20;
const RW: u32 = PROT_READ | PROT_WRITE;

/// A device that counts.
struct Counter {
    mapped: Atomic<usize>,
    unmapped: Atomic<usize>,
    waited: Atomic<usize>,
    /// Work is under way, and ends when it is waited for.
    busy: Atomic<bool>,
    /// That work does not end.
    endless: Atomic<bool>,
    /// Does not answer.
    stuck: Atomic<bool>,
    /// Looked at while the work is waited for.
    shared: SetOnce<Arc<Shared<Counter>>>,
    /// What was seen: others could have the lock, and would have seen a change.
    open: Atomic<bool>,
}

impl Counter {
    fn new() -> Self {
        Self {
            mapped: Atomic::new(0),
            unmapped: Atomic::new(0),
            waited: Atomic::new(0),
            busy: Atomic::new(false),
            endless: Atomic::new(false),
            stuck: Atomic::new(false),
            shared: SetOnce::new(),
            open: Atomic::new(false),
        }
    }
}

impl Device for Counter {
    fn quiesce(&self, may_block: bool) -> bool {
        if self.busy.load(Relaxed) && may_block {
            self.waited.add(1, Relaxed);
            if let Some(shared) = self.shared.as_ref() {
                let lists = shared.lists.try_lock();
                let open = lists.is_some_and(|lists| lists.changing == 1);
                self.open.store(open, Relaxed);
            }
            self.busy.store(self.endless.load(Relaxed), Relaxed);
        }
        !self.busy.load(Relaxed)
    }

    fn map(&self, pages: &[DmaAddress]) -> Result<(), MapError> {
        if self.stuck.load(Relaxed) {
            return Err(MapError {
                error: EIO,
                leak: false,
            });
        }
        self.mapped.add(pages.len(), Relaxed);
        Ok(())
    }

    fn unmap(&self) -> Result {
        self.unmapped.add(1, Relaxed);
        match self.stuck.load(Relaxed) {
            true => Err(ETIMEDOUT),
            false => Ok(()),
        }
    }
}

fn mirror() -> Result<(Mirror<Counter>, faux::Registration)> {
    let reg = faux::Registration::new(c"kunit-mirror", None)?;
    let dev: &device::Device<Bound> = reg.as_ref().as_ref();
    // SAFETY: Nobody else uses the device, and it lives longer than the pointer to its field.
    unsafe {
        let dev = dev.as_raw();
        (*dev).dma_mask = &raw mut (*dev).coherent_dma_mask;
        to_result(bindings::dma_set_mask_and_coherent(dev, u64::MAX))?;
    }
    // SAFETY: Gives the thread of the test memory, once.
    to_result(unsafe { bindings::kunit_attach_mm() })?;

    Ok((Mirror::new(dev)?, reg))
}

/// Gives the thread memory with this protection, at `address` if that is not 0.
fn mmap(address: usize, pages: usize, prot: u32) -> Result<usize> {
    let fixed = match address {
        0 => 0,
        _ => MAP_FIXED,
    };
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | fixed;
    // SAFETY: Nothing is in the memory of the thread but what the tests put there.
    let address = unsafe {
        bindings::vm_mmap(
            ptr::null_mut(),
            address,
            pages << PAGE_SHIFT,
            prot as usize,
            flags as usize,
            0,
        )
    };

    // Errors are addresses that no page has.
    match address & !PAGE_MASK {
        0 => Ok(address),
        _ => Err(ENOMEM),
    }
}

fn munmap(address: usize, pages: usize) -> Result {
    // SAFETY: As above.
    to_result(unsafe { bindings::vm_munmap(address, pages << PAGE_SHIFT) })
}

#[macros::kunit_tests(rust_mm_mirror)]
mod suite {
    use super::*;

    #[test]
    fn endless_work_is_waited_for_once() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 8, RW)?;
        let add = |page: usize| {
            let at = at + page * PAGE_SIZE;
            mirror.add(at, 4 * PAGE_SIZE, Access::ReadWrite, Counter::new())
        };
        let ranges = [add(0)?, add(4)?];

        mirror.validate()?;
        for range in &ranges {
            range.busy.store(true, Relaxed);
            range.endless.store(true, Relaxed);
        }
        munmap(at, 8)?;
        let waited = ranges.iter().map(|range| range.waited.load(Relaxed));
        assert_eq!(waited.sum::<usize>(), 1);
        assert!(ranges.iter().all(|range| !range.is_valid()));
        Ok(())
    }

    #[test]
    fn munmap_takes_the_pages() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 4, RW)?;
        let range = mirror.add(at, 4 * PAGE_SIZE, Access::ReadWrite, Counter::new())?;

        assert!(mirror.lock_valid().is_none());
        mirror.validate()?;
        assert!(mirror.lock_valid().is_some());
        assert!(range.is_valid());
        assert_eq!(range.mapped.load(Relaxed), 4);
        // It is valid already.
        mirror.validate()?;
        assert_eq!(range.mapped.load(Relaxed), 4);

        // A part of it is enough.
        munmap(at + PAGE_SIZE, 1)?;
        assert!(!range.is_valid());
        assert_eq!(range.unmapped.load(Relaxed), 1);
        assert!(mirror.lock_valid().is_none());
        assert_eq!(mirror.validate(), Err(EFAULT));

        // What comes into its place is found.
        mmap(at + PAGE_SIZE, 1, RW)?;
        mirror.validate()?;
        assert_eq!(range.mapped.load(Relaxed), 8);

        // Nothing happens to a range that is not looked at any more.
        range.revoke();
        assert_eq!(range.unmapped.load(Relaxed), 2);
        munmap(at, 4)?;
        assert_eq!(range.unmapped.load(Relaxed), 2);
        mirror.validate()
    }

    #[test]
    fn changes_wait_for_the_device() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 1, RW)?;
        let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;

        mirror.validate()?;
        range.busy.store(true, Relaxed);
        munmap(at, 1)?;
        assert_eq!(range.waited.load(Relaxed), 1);
        assert!(!range.is_valid());
        Ok(())
    }

    #[test]
    fn changes_wait_without_the_lock() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 1, RW)?;
        let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;

        mirror.validate()?;
        range.busy.store(true, Relaxed);
        range.shared.populate(mirror.shared.clone());
        munmap(at, 1)?;
        assert!(range.open.load(Relaxed));
        assert_eq!(mirror.shared.lists.lock().changing, 0);
        Ok(())
    }

    #[test]
    fn access_is_the_one_that_is_allowed() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 1, PROT_READ)?;

        let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;
        assert_eq!(mirror.validate(), Err(EFAULT));
        drop(range);

        let range = mirror.add(at, PAGE_SIZE, Access::Read, Counter::new())?;
        mirror.validate()?;
        assert!(range.is_valid());
        drop(range);
        munmap(at, 1)
    }

    #[test]
    fn ranges_are_whole_pages() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 1, RW)?;
        let add = |address, size| {
            mirror
                .add(address, size, Access::Read, Counter::new())
                .err()
        };

        assert_eq!(add(at, 0), Some(EINVAL));
        assert_eq!(add(at, 1), Some(EINVAL));
        assert_eq!(add(at + 1, PAGE_SIZE), Some(EINVAL));
        assert_eq!(add(usize::MAX & PAGE_MASK, 2 * PAGE_SIZE), Some(EINVAL));
        munmap(at, 1)
    }

    #[test]
    fn memory_of_others_is_refused() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 1, RW)?;
        let range = mirror.add(at, PAGE_SIZE, Access::Read, Counter::new())?;
        let owner = mem::replace(&mut mirror.shared.lists.lock().owner, ptr::null_mut());

        assert_eq!(mirror.validate(), Err(EPERM));
        assert_eq!(
            mirror
                .add(at, PAGE_SIZE, Access::Read, Counter::new())
                .err(),
            Some(EPERM)
        );
        mirror.shared.lists.lock().owner = owner;
        mirror.validate()?;

        // Once all are gone, the next may be another's.
        drop(range);
        mirror.shared.lists.lock().owner = ptr::null_mut();
        let range = mirror.add(at, PAGE_SIZE, Access::Read, Counter::new())?;
        mirror.validate()?;
        drop(range);
        munmap(at, 1)
    }

    #[test]
    fn unbind_ends_all() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 2, RW)?;
        let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;

        mirror.validate()?;
        // What unbind does.
        drop(Teardown(mirror.shared.clone()));
        assert_eq!(range.unmapped.load(Relaxed), 1);
        assert_eq!(mirror.validate(), Err(ENODEV));
        assert_eq!(
            mirror
                .add(at, PAGE_SIZE, Access::Read, Counter::new())
                .err(),
            Some(ENODEV)
        );
        munmap(at, 2)
    }

    #[test]
    fn failure_to_map_leaves_nothing() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 2, RW)?;
        let range = mirror.add(at, 2 * PAGE_SIZE, Access::ReadWrite, Counter::new())?;

        range.stuck.store(true, Relaxed);
        assert_eq!(mirror.validate(), Err(EIO));
        assert!(!range.is_valid());
        range.stuck.store(false, Relaxed);
        mirror.validate()?;
        assert!(range.is_valid());
        drop(range);
        munmap(at, 2)
    }

    #[test]
    fn device_that_does_not_stop_keeps_the_pages() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 1, RW)?;
        let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;

        mirror.validate()?;
        range.stuck.store(true, Relaxed);
        munmap(at, 1)?;
        assert_eq!(mirror.validate(), Err(EIO));

        let pfn = {
            let mut lists = mirror.shared.lists.lock();
            let state = range.0.state.access_mut(&mut lists);

            assert_eq!(state.place, Place::Lost);
            state.pfns.first().copied().ok_or(EINVAL)?
        };
        drop(range);
        // It is nobody's concern any more.
        mirror.validate()?;
        assert!(mirror.lock_valid().is_some());
        drop(mirror);
        // SAFETY: The page has the reference that was leaked, which is given up here.
        unsafe { bindings::put_page(bindings::hmm_pfn_to_page(pfn)) };
        Ok(())
    }
}
