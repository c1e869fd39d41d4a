// SPDX-License-Identifier: GPL-2.0

//! Tests of mirrors of the test thread's own memory, with a device that counts calls.

use super::*;
use crate::{
    faux,
    page::PAGE_SIZE,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    sync::SetOnce, //
};
use core::ptr;

// The values of asm-generic, which all architectures with Rust support use.
const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const MAP_PRIVATE: u32 = 0x02;
const MAP_FIXED: u32 = 0x10;
const MAP_ANONYMOUS: u32 = 0x20;
const RW: u32 = PROT_READ | PROT_WRITE;

/// Long enough, as nothing changes the memory concurrently in these tests.
const PATIENCE: Delta = Delta::from_secs(10);

/// A device that counts calls.
struct Counter {
    mapped: Atomic<usize>,
    unmapped: Atomic<usize>,
    waited: Atomic<usize>,
    /// From when on the first wait counted, and when it really began.
    wait: SetOnce<(Instant<Monotonic>, Instant<Monotonic>)>,
    /// Work is in progress, and ends when it is waited for.
    busy: Atomic<bool>,
    /// That work does not end.
    endless: Atomic<bool>,
    /// Does not respond.
    stuck: Atomic<bool>,
    /// Checked while the work is waited for.
    shared: SetOnce<Arc<Shared<Counter>>>,
    /// Whether the lock was free then, and a change was visible.
    open: Atomic<bool>,
}

impl Counter {
    fn new() -> Self {
        Self {
            mapped: Atomic::new(0),
            unmapped: Atomic::new(0),
            waited: Atomic::new(0),
            wait: SetOnce::new(),
            busy: Atomic::new(false),
            endless: Atomic::new(false),
            stuck: Atomic::new(false),
            shared: SetOnce::new(),
            open: Atomic::new(false),
        }
    }
}

impl Device for Counter {
    fn is_quiet(&self) -> bool {
        !self.busy.load(Relaxed)
    }

    fn quiesce(&self, since: Instant<Monotonic>) -> bool {
        if self.busy.load(Relaxed) {
            self.waited.add(1, Relaxed);
            self.wait.populate((since, Instant::now()));
            if let Some(shared) = self.shared.as_ref() {
                let lists = shared.lists.try_lock();
                let open = lists.is_some_and(|lists| lists.changing == 1);
                self.open.store(open, Relaxed);
            }
            self.busy.store(self.endless.load(Relaxed), Relaxed);
        }
        self.is_quiet()
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

    fn keep(&self, pages: LostPages<Self>) {
        // The test finds it, or leaks it.
        mem::forget(pages);
    }
}

/// Returns the pages that [`Counter::keep()`] was given.
///
/// # Safety
///
/// It must have been given the pages of this node, and they must not have been taken before.
unsafe fn kept(node: &Arc<Node<Counter>>) -> LostPages<Counter> {
    // SAFETY: It is a reference to the node that was forgotten, by the safety requirements.
    LostPages::new(unsafe { Arc::from_raw(Arc::as_ptr(node)) })
}

/// Returns a device that is coherent and reaches all memory.
fn device() -> Result<faux::Registration> {
    let reg = faux::Registration::new(c"kunit-mirror", None)?;
    let dev: &device::Device<Bound> = reg.as_ref().as_ref();
    // SAFETY: Nobody else uses the device, and it lives longer than the pointer to its field.
    unsafe {
        let dev = dev.as_raw();
        (*dev).dma_mask = &raw mut (*dev).coherent_dma_mask;
        bindings::dev_assign_dma_coherent(dev, true);
        to_result(bindings::dma_set_mask_and_coherent(dev, u64::MAX))?;
    }
    Ok(reg)
}

fn mirror() -> Result<(Mirror<Counter>, faux::Registration)> {
    let reg = device()?;
    let dev: &device::Device<Bound> = reg.as_ref().as_ref();
    // SAFETY: Gives the thread of the test memory, once.
    to_result(unsafe { bindings::kunit_attach_mm() })?;

    Ok((Mirror::new(&Mirrors::new(dev)?, dev)?, reg))
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

/// Returns the number of references to a page that is not freed.
fn references(page: *mut bindings::page) -> i32 {
    // SAFETY: The caller says that it is a page.
    unsafe { (&raw const (*page)._refcount.counter).read_volatile() }
}

/// Returns whether a page that is not freed is dirty.
fn is_dirty(page: *mut bindings::page) -> bool {
    // SAFETY: The caller says that it is a page.
    let flags = unsafe { (*page).flags.f };

    flags & (1 << bindings::pageflags_PG_dirty) != 0
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

        mirror.validate(PATIENCE)?;
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
        mirror.validate(PATIENCE)?;
        assert!(mirror.lock_valid().is_some());
        assert!(range.is_valid());
        assert_eq!(range.mapped.load(Relaxed), 4);
        // It is valid already.
        mirror.validate(PATIENCE)?;
        assert_eq!(range.mapped.load(Relaxed), 4);

        // A part of it is enough.
        munmap(at + PAGE_SIZE, 1)?;
        assert!(!range.is_valid());
        assert_eq!(range.unmapped.load(Relaxed), 1);
        assert!(mirror.lock_valid().is_none());
        assert_eq!(mirror.validate(PATIENCE), Err(EFAULT));

        // New memory at the same address is found.
        mmap(at + PAGE_SIZE, 1, RW)?;
        mirror.validate(PATIENCE)?;
        assert_eq!(range.mapped.load(Relaxed), 8);

        // A change does not affect a range that is not valid.
        range.revoke();
        assert_eq!(range.unmapped.load(Relaxed), 2);
        munmap(at, 4)?;
        assert_eq!(range.unmapped.load(Relaxed), 2);
        mirror.validate(PATIENCE)
    }

    #[test]
    fn valid_ranges_can_be_read() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 2, RW)?;
        let range = mirror.add(at, 2 * PAGE_SIZE, Access::ReadWrite, Counter::new())?;
        let mut copy = KVVec::from_elem(0xa5u8, 2 * PAGE_SIZE, GFP_KERNEL)?;
        let mut pages = 0;

        assert!(!range.read(0, &mut copy, |_, _| ())?);
        mirror.validate(PATIENCE)?;
        assert!(range.read(0, &mut copy, |number, _| {
            assert_eq!(number, pages);
            pages += 1;
        })?);
        assert_eq!(pages, 2);
        assert!(copy.iter().all(|&byte| byte == 0));
        copy.push(0, GFP_KERNEL)?;
        assert_eq!(range.read(0, &mut copy, |_, _| ()), Err(EINVAL));
        copy.truncate(1);
        assert_eq!(range.read(0, &mut copy, |_, _| ()), Ok(true));
        assert_eq!(range.read(1, &mut copy, |_, _| ()), Ok(true));
        assert_eq!(range.read(2, &mut copy, |_, _| ()), Err(EINVAL));

        munmap(at, 2)?;
        assert!(!range.read(0, &mut copy, |_, _| ())?);
        Ok(())
    }

    #[test]
    fn changes_wait_for_the_device() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 1, RW)?;
        let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;

        mirror.validate(PATIENCE)?;
        range.busy.store(true, Relaxed);
        munmap(at, 1)?;
        assert_eq!(range.waited.load(Relaxed), 1);
        assert!(!range.is_valid());
        Ok(())
    }

    #[test]
    fn waits_of_one_change_overlap() -> Result {
        let (mirror, reg) = mirror()?;
        let dev: &device::Device<Bound> = reg.as_ref().as_ref();
        let others = Mirrors::new(dev)?;
        let other = Mirror::new(&others, dev)?;
        let at = mmap(0, 1, RW)?;
        let ranges = [
            mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?,
            other.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?,
        ];

        mirror.validate(PATIENCE)?;
        other.validate(PATIENCE)?;
        for range in &ranges {
            range.busy.store(true, Relaxed);
        }
        munmap(at, 1)?;
        assert!(ranges.iter().all(|range| range.waited.load(Relaxed) == 1));
        assert!(ranges.iter().all(|range| !range.is_valid()));
        // The wait for each counts from before the first of them.
        let [Some(&first), Some(&second)] = ranges.each_ref().map(|range| range.wait.as_ref())
        else {
            return Err(EINVAL);
        };
        assert!((second.1 - first.0).as_nanos() >= 0 && (first.1 - second.0).as_nanos() >= 0);
        Ok(())
    }

    #[test]
    fn changes_wait_without_the_lock() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 1, RW)?;
        let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;

        mirror.validate(PATIENCE)?;
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
        assert_eq!(mirror.validate(PATIENCE), Err(EFAULT));
        drop(range);

        let range = mirror.add(at, PAGE_SIZE, Access::Read, Counter::new())?;
        mirror.validate(PATIENCE)?;
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
        // Its end is no address.
        assert_eq!(add(usize::MAX & PAGE_MASK, PAGE_SIZE), Some(EINVAL));
        munmap(at, 1)
    }

    #[test]
    fn memory_of_others_is_refused() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 1, RW)?;
        let range = mirror.add(at, PAGE_SIZE, Access::Read, Counter::new())?;
        let owner = mem::replace(&mut mirror.shared.lists.lock().owner, ptr::null_mut());

        assert_eq!(mirror.validate(PATIENCE), Err(EPERM));
        assert_eq!(
            mirror
                .add(at, PAGE_SIZE, Access::Read, Counter::new())
                .err(),
            Some(EPERM)
        );
        mirror.shared.lists.lock().owner = owner;
        mirror.validate(PATIENCE)?;

        // Once all are gone, the next may be another's.
        drop(range);
        mirror.shared.lists.lock().owner = ptr::null_mut();
        let range = mirror.add(at, PAGE_SIZE, Access::Read, Counter::new())?;
        mirror.validate(PATIENCE)?;
        drop(range);
        munmap(at, 1)
    }

    #[test]
    fn unbind_ends_all() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 2, RW)?;
        let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;

        mirror.validate(PATIENCE)?;
        // Tear the mirrors down as unbind does.
        drop(Teardown(mirror.shared.clone()));
        assert_eq!(range.unmapped.load(Relaxed), 1);
        assert_eq!(mirror.validate(PATIENCE), Err(ENODEV));
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
        assert_eq!(mirror.validate(PATIENCE), Err(EIO));
        assert!(!range.is_valid());
        range.stuck.store(false, Relaxed);
        mirror.validate(PATIENCE)?;
        assert!(range.is_valid());
        drop(range);
        munmap(at, 2)
    }

    #[test]
    fn device_that_does_not_stop_keeps_the_pages() -> Result {
        let (mirror, _reg) = mirror()?;
        let at = mmap(0, 2, RW)?;
        let add = |page: usize| {
            let at = at + page * PAGE_SIZE;
            mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())
        };
        let (range, other) = (add(0)?, add(1)?);

        mirror.validate(PATIENCE)?;
        let page = {
            let mut lists = mirror.shared.lists.lock();
            let state = range.0.state.access_mut(&mut lists);
            let pfn = state.pfns.first().copied().ok_or(EINVAL)?;

            // SAFETY: It is what HMM says of a page of the range.
            unsafe { bindings::hmm_pfn_to_page(pfn) }
        };
        assert!(!is_dirty(page));
        range.stuck.store(true, Relaxed);
        munmap(at, 1)?;
        assert_eq!(mirror.validate(PATIENCE), Err(EIO));
        assert!(mirror.lock_valid().is_none());
        {
            let mut lists = mirror.shared.lists.lock();
            assert_eq!(range.0.state.access_mut(&mut lists).list, RangeList::Lost);
        }
        // The device may have written to them until then.
        assert!(is_dirty(page));

        // The revoked range does not matter any more, and the other one, or a new one, can be used.
        let node = range.0.clone();
        drop(range);
        mirror.validate(PATIENCE)?;
        assert!(mirror.lock_valid().is_some());
        assert!(other.is_valid());
        let at_same = mmap(at, 1, RW)?;
        let again = mirror.add(at_same, PAGE_SIZE, Access::ReadWrite, Counter::new())?;
        mirror.validate(PATIENCE)?;
        assert!(mirror.lock_valid().is_some());
        drop((again, other));
        assert!(mirror.lock_valid().is_some());
        assert_eq!(mirror.shared.lists.lock().len, 0);
        {
            let mut lists = mirror.shared.lists.lock();
            let state = node.state.access_mut(&mut lists);
            assert_eq!((state.list, state.kept), (RangeList::Abandoned, true));
        }
        // SAFETY: The page has a reference, as it was lost.
        unsafe { bindings::get_page(page) };
        let before = references(page);
        // SAFETY: The range was lost once.
        drop(unsafe { kept(&node) });
        assert_eq!(references(page), before - 1);
        // SAFETY: The reference was taken above.
        unsafe { bindings::put_page(page) };
        drop(mirror);
        munmap(at, 2)
    }

    #[test]
    fn lost_pages_come_back() -> Result {
        for ends_before in [false, true] {
            let (mirror, _reg) = mirror()?;
            let at = mmap(0, 1, RW)?;
            let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;

            mirror.validate(PATIENCE)?;
            range.stuck.store(true, Relaxed);
            munmap(at, 1)?;
            range.stuck.store(false, Relaxed);
            assert_eq!(mirror.validate(PATIENCE), Err(EIO));
            // SAFETY: The range was lost once.
            let pages = unsafe { kept(&range.0) };
            if ends_before {
                drop(mirror);
                drop(range);
                drop(pages);
                continue;
            }

            drop(pages);
            // There is nothing at the address any more.
            assert_eq!(mirror.validate(PATIENCE), Err(EFAULT));
            let at = mmap(at, 1, RW)?;
            mirror.validate(PATIENCE)?;
            assert!(range.is_valid());
            drop(range);
            munmap(at, 1)?;
        }
        Ok(())
    }

    #[test]
    fn lost_pages_stay_mapped_without_the_mirror() -> Result {
        for unbound in [false, true] {
            let (mirror, reg) = mirror()?;
            let at = mmap(0, 1, RW)?;
            let range = mirror.add(at, PAGE_SIZE, Access::ReadWrite, Counter::new())?;
            let node = range.0.clone();
            let list = || node.state.access_mut(&mut node.shared.lists.lock()).list;

            mirror.validate(PATIENCE)?;
            range.stuck.store(true, Relaxed);
            drop(range);
            drop(mirror);
            // It is left when the DMA mapping is undone.
            assert_eq!(list(), RangeList::Abandoned);
            if unbound {
                drop(reg);
                assert_eq!(list(), RangeList::Nowhere);
            }
            // SAFETY: The range was lost once.
            drop(unsafe { kept(&node) });
            assert_eq!(list(), RangeList::Nowhere);
            assert!(node.shared.lists.lock().teardown.is_none());
            munmap(at, 1)?;
        }
        Ok(())
    }

    #[test]
    fn devices_that_bounce_have_no_mirror() -> Result {
        let reg = device()?;
        let dev: &device::Device<Bound> = reg.as_ref().as_ref();
        let all = Mirrors::new(dev)?;
        let error = || Mirror::<Counter>::new(&all, dev).err();

        assert!(supported(dev));
        // SAFETY: Nobody else uses the device. Nothing is mapped with this mask.
        unsafe { (*dev.as_raw()).coherent_dma_mask = 0xfffff };
        assert_eq!(error(), Some(EOPNOTSUPP));
        // SAFETY: As above.
        unsafe { (*dev.as_raw()).coherent_dma_mask = u64::MAX };
        assert!(error().is_none());

        // Only on architectures with devices that are not coherent.
        // SAFETY: As above.
        unsafe { bindings::dev_assign_dma_coherent(dev.as_raw(), false) };
        // SAFETY: The device is valid.
        if !unsafe { bindings::dev_is_dma_coherent(dev.as_raw()) } {
            assert_eq!(error(), Some(EOPNOTSUPP));
        }
        Ok(())
    }
}
