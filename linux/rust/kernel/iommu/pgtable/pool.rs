// SPDX-License-Identifier: GPL-2.0

//! Memory for page tables that was set aside.
//!
//! Who maps memory where it must not wait for memory, for instance because a fence depends on it,
//! may find none for the tables on the way. A [`TablePool`] has what was paid for before: a
//! page table that was made with [`IoPageTable::with_pool()`](super::IoPageTable::with_pool) takes
//! its tables from there in calls that do not have all of `GFP_KERNEL`.
//!
//! Each mapper [deposits](TablePool::deposit) as many pages as its mapping can need and
//! [withdraws](TablePool::withdraw) as many deposits when it is done. What was not used goes back then,
//! so the pages of one mapper never end with another.

use crate::{
    alloc::Flags,
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        static_lock_class,
        Arc,
        LockClassKey,
        SpinLock, //
    },
};
use core::{
    ffi::c_void,
    mem::ManuallyDrop,
    ptr::NonNull, //
};

/// Allocates a zeroed page, which counts as one of a page table from now on: `SecPageTables` in
/// meminfo.
fn alloc(gfp: bindings::gfp_t) -> *mut c_void {
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
/// `page` must come from [`alloc()`], and not be used any more.
unsafe fn free(page: *mut c_void) {
    // SAFETY: By the safety requirements.
    unsafe {
        account(page, -1);
        bindings::free_pages(page as usize, 0);
    }
}

/// Changes the number of pages in page tables that are not a CPU's.
///
/// # Safety
///
/// `page` must come from the page allocator, and not have been freed.
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

/// A page in a list. All of it is zero when it is in none.
#[repr(C)]
struct Link {
    next: Option<TablePage>,
}

/// A zeroed page that can become a table.
///
/// # Invariants
///
/// The pointer is to a page that we own, which begins with a valid `Link`. The rest of it is zero.
pub struct TablePage(NonNull<Link>);

// SAFETY: Pages belong to no thread.
unsafe impl Send for TablePage {}

// SAFETY: A shared `TablePage` gives access to nothing.
unsafe impl Sync for TablePage {}

impl TablePage {
    /// Allocates a page. Sleeps if `flags` allow it.
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

    /// Gives the page away. It must be in no list.
    fn into_raw(self) -> *mut c_void {
        ManuallyDrop::new(self).0.as_ptr().cast()
    }
}

impl Drop for TablePage {
    fn drop(&mut self) {
        // A list is as long as it likes, the stack is not.
        let mut next = self.link().take();
        while let Some(mut page) = next {
            next = page.link().take();
        }

        // SAFETY: By the type invariants, this is a page from `alloc()`, and ours.
        unsafe { free(self.0.as_ptr().cast()) };
    }
}

/// What the lock guards.
struct Inner {
    first: Option<TablePage>,
    len: usize,
    /// Deposits that were not withdrawn.
    deposits: usize,
}

impl Inner {
    fn push(&mut self, mut page: TablePage) {
        *page.link() = self.first.take();
        self.first = Some(page);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<TablePage> {
        let mut page = self.first.take()?;

        self.first = page.link().take();
        self.len -= 1;
        Some(page)
    }
}

/// Pages for the tables of one page table.
#[pin_data]
pub struct TablePool {
    #[pin]
    inner: SpinLock<Inner>,
}

// One name and one key, from wherever a pool is made.
#[inline(never)]
fn lock_class() -> (&'static CStr, Pin<&'static LockClassKey>) {
    (c"TablePool::inner", static_lock_class!())
}

impl TablePool {
    /// Makes an empty pool. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>> {
        let (name, key) = lock_class();
        let inner = Inner {
            first: None,
            len: 0,
            deposits: 0,
        };

        Arc::pin_init(
            pin_init!(Self {
                inner <- SpinLock::new(inner, name, key),
            }),
            GFP_KERNEL,
        )
    }

    /// Puts a page into the pool. Does not sleep.
    ///
    /// To be followed by [`Self::withdraw()`].
    pub fn deposit(&self, page: TablePage) {
        let mut inner = self.inner.lock();

        inner.push(page);
        inner.deposits += 1;
    }

    /// Ends a deposit. Returns a page if there now are more than deposits. Does not sleep.
    pub fn withdraw(&self) -> Option<TablePage> {
        let mut inner = self.inner.lock();

        inner.deposits = inner.deposits.saturating_sub(1);
        if inner.len > inner.deposits {
            inner.pop()
        } else {
            None
        }
    }

    /// The `alloc` callback of page tables that use the pool.
    ///
    /// # Safety
    ///
    /// `cookie` must point to a pool.
    pub(super) unsafe extern "C" fn alloc(
        cookie: *mut c_void,
        size: usize,
        gfp: bindings::gfp_t,
    ) -> *mut c_void {
        let may_wait = gfp & bindings::GFP_KERNEL == bindings::GFP_KERNEL;

        if size > PAGE_SIZE {
            return core::ptr::null_mut();
        }
        if !may_wait {
            // SAFETY: By the safety requirements.
            let pool = unsafe { &*cookie.cast::<Self>() };
            let page = pool.inner.lock().pop();

            if let Some(page) = page {
                return page.into_raw();
            }
        }
        alloc(gfp)
    }

    /// The `free` callback of page tables that use the pool.
    ///
    /// # Safety
    ///
    /// `pages` must come from [`Self::alloc()`], and not be used any more.
    pub(super) unsafe extern "C" fn free(_cookie: *mut c_void, pages: *mut c_void, _size: usize) {
        // SAFETY: By the safety requirements.
        unsafe { free(pages) };
    }
}

#[macros::kunit_tests(rust_iommu_pgtable_pool)]
mod tests {
    use super::*;

    fn take(pool: &TablePool, gfp: Flags) -> *mut c_void {
        // SAFETY: The cookie is a pool.
        unsafe { TablePool::alloc((&raw const *pool).cast_mut().cast(), 4096, gfp.as_raw()) }
    }

    fn give(page: *mut c_void) {
        assert!(!page.is_null());
        // SAFETY: The page comes from `take()`.
        unsafe { TablePool::free(core::ptr::null_mut(), page, 4096) };
    }

    #[test]
    fn who_cannot_wait_gets_the_deposit() -> Result {
        let pool = TablePool::new()?;
        let page = TablePage::new(GFP_KERNEL)?;
        let addr: *mut c_void = page.0.as_ptr().cast();

        pool.deposit(page);
        pool.deposit(TablePage::new(GFP_KERNEL)?);
        give(take(&pool, GFP_KERNEL));
        assert_eq!(pool.inner.lock().len, 2);

        give(take(&pool, GFP_NOWAIT));
        let second = take(&pool, GFP_NOWAIT);
        assert_eq!(second, addr);
        // SAFETY: The page is ours, and large enough.
        assert_eq!(unsafe { second.cast::<usize>().read() }, 0);
        give(second);
        assert_eq!(pool.inner.lock().len, 0);

        // Nothing is left: the ordinary way.
        give(take(&pool, GFP_NOWAIT));
        Ok(())
    }

    #[test]
    fn what_was_not_used_goes_back() -> Result {
        let pool = TablePool::new()?;

        for _ in 0..3 {
            pool.deposit(TablePage::new(GFP_KERNEL)?);
        }
        give(take(&pool, GFP_NOWAIT));
        // The page that was taken belonged to this deposit.
        assert!(pool.withdraw().is_none());
        assert!(pool.withdraw().is_some());
        assert!(pool.withdraw().is_some());
        assert!(pool.withdraw().is_none());
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
