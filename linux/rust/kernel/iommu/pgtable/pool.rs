// SPDX-License-Identifier: GPL-2.0

//! Memory for page tables, reserved for an operation.
//!
//! Some mappings are made where nothing may wait for memory, for instance because a fence depends
//! on it or a lock is held. There may be no free memory for the tables then. So each operation has
//! the pages that it may need [`Reserved`] beforehand, and no other operation can use them.
//!
//! A page table that was made with [`IoPageTable::with_pool()`](super::IoPageTable::with_pool)
//! takes its tables from a [`TablePool`], which lets one operation at a time
//! [`write()`](TablePool::write) to the page table and holds its reserved pages while that
//! operation [lends](Writer::lend) them.
//!
//! # Locks and contexts
//!
//! A pool has three spinlocks: that of the writer, held as long as there is a [`Writer`] except
//! while it is paused or allocates; inside it, but not in each other, that of the pages that are
//! lent and that of the tables that were removed. The page-table code takes the latter two when it
//! allocates and frees tables.
//!
//! Process context. Creating a pool sleeps. What allocates pages may sleep if its flags allow it;
//! nothing else sleeps.

use crate::{
    alloc::Flags,
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        static_lock_class,
        Arc,
        LockClassKey,
        SpinLock,
        SpinLockGuard, //
    },
};
use core::{
    ffi::c_void,
    mem::{
        self,
        ManuallyDrop, //
    },
    ptr::NonNull, //
};

/// Returns whether an allocation with these flags may wait for memory.
fn may_wait(gfp: bindings::gfp_t) -> bool {
    gfp & bindings::GFP_KERNEL == bindings::GFP_KERNEL
}

/// Allocates a zeroed page, which is counted as that of a page table (`SecPageTables` in meminfo)
/// from now on.
///
/// An allocation that may wait is made on behalf of the current task and charged to its cgroup. One
/// that may not can come from a fault handler, where the current task is unrelated.
fn alloc(gfp: bindings::gfp_t) -> *mut c_void {
    let gfp = match may_wait(gfp) {
        true => gfp | bindings::GFP_KERNEL_ACCOUNT,
        false => gfp,
    };
    // SAFETY: No preconditions.
    let addr = unsafe { bindings::get_free_pages_noprof(gfp | bindings::__GFP_ZERO, 0) };
    let page = addr as *mut c_void;

    if !page.is_null() {
        // SAFETY: It was just allocated.
        unsafe { account(page, 1) };
    }
    page
}

/// Frees a page.
///
/// # Safety
///
/// `page` must come from [`alloc()`] and must not be used any more.
unsafe fn free(page: *mut c_void) {
    // SAFETY: By the safety requirements.
    unsafe {
        account(page, -1);
        bindings::free_pages(page as usize, 0);
    }
}

/// Changes the statistics of pages in secondary page tables.
///
/// # Safety
///
/// `page` must come from the page allocator and must not have been freed.
unsafe fn account(page: *mut c_void, change: c_int) {
    // SAFETY: By the safety requirements.
    unsafe {
        bindings::mod_lruvec_page_state(
            bindings::virt_to_page(page),
            bindings::node_stat_item_NR_SECONDARY_PAGETABLE,
            change,
        )
    };
}

/// The link of a page in a list. It is all zero when the page is in none.
#[repr(C)]
struct Link {
    next: Option<TablePage>,
}

/// A zeroed page that can become a table.
///
/// # Invariants
///
/// The pointer is to a page that we own and that begins with a valid `Link`. The rest of the page
/// is zero.
pub struct TablePage(NonNull<Link>);

// SAFETY: Pages belong to no thread.
unsafe impl Send for TablePage {}

// SAFETY: A shared `TablePage` gives access to nothing.
unsafe impl Sync for TablePage {}

impl TablePage {
    /// Allocates a page. May sleep if `flags` allow it; the page is charged to the current task's
    /// cgroup in that case.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(flags: Flags) -> Result<Self> {
        // INVARIANT: The page is ours; all zeros is a `Link` without a next one.
        NonNull::new(alloc(flags.as_raw()).cast())
            .map(Self)
            .ok_or(ENOMEM)
    }

    fn link(&mut self) -> &mut Option<TablePage> {
        // SAFETY: By the type invariants, and we have `&mut self`.
        unsafe { &mut (*self.0.as_ptr()).next }
    }

    /// Gives up ownership of the page, which must not be in a list.
    fn into_raw(self) -> *mut c_void {
        ManuallyDrop::new(self).0.as_ptr().cast()
    }
}

impl Drop for TablePage {
    fn drop(&mut self) {
        // Free the list iteratively: recursion could overflow the stack.
        let mut next = self.link().take();
        while let Some(mut page) = next {
            next = page.link().take();
        }

        // SAFETY: By the type invariants, this is a page from `alloc()`, and ours.
        unsafe { free(self.0.as_ptr().cast()) };
    }
}

/// Pages for the tables of one operation. Dropping it frees them.
#[derive(Default)]
pub struct Reserved {
    first: Option<TablePage>,
    len: usize,
}

impl Reserved {
    /// Creates an empty reserve.
    pub const fn new() -> Self {
        Self {
            first: None,
            len: 0,
        }
    }

    /// Allocates `pages` pages. May sleep if `flags` allow it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn with_pages(pages: usize, flags: Flags) -> Result<Self> {
        let mut new = Self::new();

        new.fill(pages, flags)?;
        Ok(new)
    }

    /// Allocates pages until there are `pages`. Pages that were allocated before an error are kept.
    fn fill(&mut self, pages: usize, flags: Flags) -> Result {
        while self.len < pages {
            self.push(TablePage::new(flags)?);
        }
        Ok(())
    }

    /// Returns the number of pages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no page.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a page.
    pub fn push(&mut self, mut page: TablePage) {
        *page.link() = self.first.take();
        self.first = Some(page);
        self.len += 1;
    }

    /// Takes a page.
    pub fn pop(&mut self) -> Option<TablePage> {
        let mut page = self.first.take()?;

        self.first = page.link().take();
        self.len -= 1;
        Some(page)
    }
}

/// Tables that were removed from a page table.
struct Removed {
    /// Whether tables are kept when they are removed, instead of freed.
    keep: bool,
    /// Those that the hardware may still walk.
    tables: Reserved,
}

/// Serialises writers to a page table, and holds the pages that the current one lends to the table.
#[pin_data]
pub struct TablePool {
    /// Held by the [`Writer`].
    #[pin]
    writer: SpinLock<()>,
    /// Pages that the writer lends; empty otherwise. The lock nests inside the other one.
    #[pin]
    lent: SpinLock<Reserved>,
    /// Changed by the writer. The lock nests inside that of the writer.
    #[pin]
    removed: SpinLock<Removed>,
}

// One name and one key each, wherever a pool is created.
#[inline(never)]
fn writer_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"TablePool::writer", static_lock_class!())
}

#[inline(never)]
fn lent_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"TablePool::lent", static_lock_class!())
}

#[inline(never)]
fn removed_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"TablePool::removed", static_lock_class!())
}

impl TablePool {
    /// Creates a pool, charged to the current task's cgroup. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>> {
        let (writer_name, writer_key) = writer_class();
        let (lent_name, lent_key) = lent_class();
        let (removed_name, removed_key) = removed_class();

        Arc::pin_init(
            pin_init!(Self {
                writer <- SpinLock::new((), writer_name, writer_key),
                lent <- SpinLock::new(Reserved::new(), lent_name, lent_key),
                removed <- SpinLock::new(
                    Removed {
                        keep: false,
                        tables: Reserved::new(),
                    },
                    removed_name,
                    removed_key
                ),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Locks the page table for writing until the returned guard is dropped. This is a spinlock:
    /// operations on the table must not allocate with flags that may sleep.
    ///
    /// The guard can [`lend()`](Writer::lend) pages of `reserved` to the table.
    pub fn write<'a>(&'a self, reserved: &'a mut Reserved) -> Writer<'a> {
        Writer {
            pool: self,
            reserved,
            lends: false,
            guard: self.writer.lock(),
        }
    }

    /// Implements the `alloc` callback of page tables that use the pool.
    ///
    /// # Safety
    ///
    /// `cookie` must point to a pool.
    pub(super) unsafe extern "C" fn alloc(
        cookie: *mut c_void,
        size: usize,
        gfp: bindings::gfp_t,
    ) -> *mut c_void {
        if size > PAGE_SIZE {
            return core::ptr::null_mut();
        }
        // SAFETY: By the safety requirements.
        let pool = unsafe { &*cookie.cast::<Self>() };
        let page = pool.lent.lock().pop();

        match page {
            Some(page) => page.into_raw(),
            None => alloc(gfp),
        }
    }

    /// Implements the `free` callback of page tables that use the pool.
    ///
    /// # Safety
    ///
    /// `cookie` must point to a pool. `pages` must come from its [`Self::alloc()`], and not be used
    /// any more but by hardware that still walks it.
    pub(super) unsafe extern "C" fn free(cookie: *mut c_void, pages: *mut c_void, _size: usize) {
        // SAFETY: By the safety requirements.
        let pool = unsafe { &*cookie.cast::<Self>() };
        let mut removed = pool.removed.lock();

        match NonNull::new(pages) {
            Some(page) if removed.keep => {
                // SAFETY: A table has the size of a page.
                unsafe { page.write_bytes(0, PAGE_SIZE) };
                // A link points to a page, so the hardware takes it for an invalid entry.
                // INVARIANT: The page is ours, by the safety requirements, and was cleared. All
                // zeros is a `Link` without a next one.
                removed.tables.push(TablePage(page.cast()));
            }
            _ => {
                drop(removed);
                // SAFETY: By the safety requirements.
                unsafe { free(pages) };
            }
        }
    }
}

/// Exclusive write access to a page table.
pub struct Writer<'a> {
    pool: &'a TablePool,
    /// The pages, unless they are lent.
    reserved: &'a mut Reserved,
    lends: bool,
    guard: SpinLockGuard<'a, ()>,
}

impl Writer<'_> {
    /// Lends the reserved pages to the page table until this is dropped or [paused](Self::pause).
    /// If there are fewer than `pages`, allocates more first, with the lock released, so that
    /// others may write to the page table in the meantime. May sleep for that if `flags` allow it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn lend(&mut self, pages: usize, flags: Flags) -> Result {
        self.take_back();
        if self.reserved.len() < pages {
            let reserved = &mut *self.reserved;

            self.guard.do_unlocked(|| reserved.fill(pages, flags))?;
        }
        mem::swap(&mut *self.pool.lent.lock(), self.reserved);
        self.lends = true;
        Ok(())
    }

    fn take_back(&mut self) {
        if mem::take(&mut self.lends) {
            mem::swap(&mut *self.pool.lent.lock(), self.reserved);
        }
    }

    /// Calls `f`, which removes tables from the page table and then has the hardware forget them.
    /// They are freed if it succeeds. After an error, the hardware may still walk them; then they
    /// are kept until a later call succeeds, or the page table has been freed.
    ///
    /// The hardware must have forgotten the tables of earlier calls whenever `f` succeeds.
    pub fn remove_tables(&mut self, f: impl FnOnce() -> Result) -> Result {
        self.pool.removed.lock().keep = true;
        let result = f();

        let mut removed = self.pool.removed.lock();
        removed.keep = false;
        let forgotten = match result {
            Ok(()) => mem::take(&mut removed.tables),
            Err(_) => Reserved::new(),
        };

        drop(removed);
        drop(forgotten);
        result
    }

    /// Gives others a chance to write to the page table. No pages are lent afterwards.
    pub fn pause(&mut self) {
        self.take_back();
        self.guard.do_unlocked(|| ());
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // The lock is released after this.
        self.take_back();
    }
}

#[macros::kunit_tests(rust_iommu_pgtable_pool)]
mod tests {
    use super::*;

    fn take(pool: &TablePool, gfp: Flags) -> *mut c_void {
        // SAFETY: The cookie is a pool.
        unsafe { TablePool::alloc((&raw const *pool).cast_mut().cast(), 4096, gfp.as_raw()) }
    }

    fn give(pool: &TablePool, page: *mut c_void) {
        assert!(!page.is_null());
        // SAFETY: The cookie is a pool, and the page comes from `take()`.
        unsafe { TablePool::free((&raw const *pool).cast_mut().cast(), page, 4096) };
    }

    #[test]
    fn writers_draw_on_their_own_pages() -> Result {
        let pool = TablePool::new()?;
        let mut mine = Reserved::with_pages(2, GFP_KERNEL)?;
        let mut other = Reserved::with_pages(1, GFP_KERNEL)?;
        let first: *mut c_void = mine.first.as_ref().ok_or(EINVAL)?.0.as_ptr().cast();

        let mut writer = pool.write(&mut mine);
        writer.lend(1, GFP_NOWAIT)?;
        let page = take(&pool, GFP_NOWAIT);
        assert_eq!(page, first);
        // SAFETY: The page is ours, and large enough.
        assert_eq!(unsafe { page.cast::<usize>().read() }, 0);
        give(&pool, page);
        drop(writer);
        // The other page was returned, and others cannot use it.
        assert_eq!(mine.len(), 1);

        let mut writer = pool.write(&mut other);
        give(&pool, take(&pool, GFP_NOWAIT));
        writer.lend(1, GFP_NOWAIT)?;
        // The second page comes from the page allocator.
        give(&pool, take(&pool, GFP_NOWAIT));
        give(&pool, take(&pool, GFP_NOWAIT));
        drop(writer);
        assert_eq!((mine.len(), other.len()), (1, 0));
        Ok(())
    }

    #[test]
    fn one_writer_at_a_time() -> Result {
        let pool = TablePool::new()?;
        let mut pages = Reserved::with_pages(2, GFP_KERNEL)?;

        let mut writer = pool.write(&mut pages);
        assert!(pool.writer.try_lock().is_none());
        writer.lend(2, GFP_NOWAIT)?;
        give(&pool, take(&pool, GFP_NOWAIT));
        writer.pause();
        assert!(pool.writer.try_lock().is_none());
        // Even during a pause, others cannot use the pages.
        assert!(pool.lent.lock().is_empty());
        drop(writer);
        assert!(pool.writer.try_lock().is_some());
        assert_eq!(pages.len(), 1);
        Ok(())
    }

    #[test]
    fn tables_are_kept_until_the_hardware_forgets_them() -> Result {
        let pool = TablePool::new()?;
        let mut pages = Reserved::new();
        let mut writer = pool.write(&mut pages);
        let mut remove = |result: Result| {
            writer.remove_tables(|| {
                give(&pool, take(&pool, GFP_ATOMIC));
                result
            })
        };

        assert_eq!(remove(Err(ETIMEDOUT)), Err(ETIMEDOUT));
        assert_eq!(pool.removed.lock().tables.len(), 1);
        assert_eq!(remove(Err(ETIMEDOUT)), Err(ETIMEDOUT));
        assert_eq!(pool.removed.lock().tables.len(), 2);
        remove(Ok(()))?;
        assert!(pool.removed.lock().tables.is_empty());
        // All others are freed at once.
        give(&pool, take(&pool, GFP_ATOMIC));
        assert!(pool.removed.lock().tables.is_empty());
        Ok(())
    }

    #[test]
    fn missing_pages_are_allocated() -> Result {
        let pool = TablePool::new()?;
        let mut pages = Reserved::with_pages(1, GFP_KERNEL)?;

        let mut writer = pool.write(&mut pages);
        writer.lend(3, GFP_KERNEL)?;
        assert_eq!(pool.lent.lock().len(), 3);
        give(&pool, take(&pool, GFP_NOWAIT));
        writer.lend(1, GFP_KERNEL)?;
        assert_eq!(pool.lent.lock().len(), 2);
        drop(writer);
        assert_eq!(pages.len(), 2);
        assert!(pool.lent.lock().is_empty());
        Ok(())
    }

    #[test]
    fn pages_come_and_go() -> Result {
        let mut pages = Reserved::with_pages(3, GFP_KERNEL)?;

        assert_eq!(pages.len(), 3);
        let page = pages.pop().ok_or(EINVAL)?;
        assert_eq!(pages.len(), 2);
        pages.push(page);
        for left in [2, 1, 0] {
            assert!(pages.pop().is_some());
            assert_eq!(pages.len(), left);
        }
        assert!(pages.pop().is_none() && pages.is_empty());
        Ok(())
    }

    #[test]
    fn larger_tables_are_refused() -> Result {
        let pool = TablePool::new()?;
        let cookie = (&raw const *pool).cast_mut().cast();

        // SAFETY: The cookie is a pool.
        let page = unsafe { TablePool::alloc(cookie, PAGE_SIZE + 1, GFP_KERNEL.as_raw()) };
        assert!(page.is_null());
        Ok(())
    }
}
