// SPDX-License-Identifier: GPL-2.0

//! DMA fences.
//!
//! A fence represents work that a device will complete at some point. It is signalled once, with or
//! without an error.
//!
//! # The life of a fence
//!
//! 1. [`FenceAlloc::new`] allocates. It may sleep and fail, hence it belongs before the point of no
//!    return of a submission.
//! 2. [`FenceAlloc::arm`] takes the next place of a [`FenceContext`] and cannot fail. It returns
//!    the [`ArmedFence`], the only object that can signal the fence. From here to the signal
//!    nothing may allocate or wait for another fence: see [`Signalling`].
//! 3. The [`Fence`] inside the [`ArmedFence`] is shared as an [`ARef<Fence>`] with its waiters.
//! 4. [`ArmedFence::signal`] consumes the signaller. If it is dropped instead, then the fence is
//!    signalled with [`ECANCELED`], so no waiter can hang because an error path forgot it.
//!
//! # Fences outlive their drivers
//!
//! User space, other drivers and reservation objects may keep a fence for as long as they like. A
//! fence created here therefore refers to nothing in the driver: its operations are part of this
//! crate, its names are copied into it, its lock is its own, and there is no destructor. It may be
//! signalled or freed, in any context, long after its module is gone.
//!
//! # Deadlines
//!
//! Waiters may set a deadline by which a fence should have signalled. Signallers are free to ignore
//! deadlines. Those that honour them create their timelines with [`FenceContext::with_deadlines`]
//! and take the hints from the [`Deadlines`] when they decide what to run next.
//!
//! # Locking and contexts
//!
//! Each fence has one lock, taken with interrupts disabled. Signalling runs the callbacks under it.
//! All fence locks are one lockdep class, so a callback may neither signal another fence nor take a
//! lock under which fences are signalled.
//!
//! References may be dropped in any context.
//!
//! C header: [`include/linux/dma-fence.h`](srctree/include/linux/dma-fence.h)
//!
//! # Examples
//!
//! ```
//! use kernel::dma_buf::fence::{
//!     Fence,
//!     FenceAlloc,
//!     FenceContext,
//!     Signalling, //
//! };
//! use kernel::sync::aref::ARef;
//!
//! let timeline = FenceContext::new(c"example", c"ring 0");
//!
//! // Everything that may fail comes first.
//! let alloc = FenceAlloc::new(GFP_KERNEL)?;
//!
//! // The point of no return.
//! let signalling = Signalling::begin();
//! let armed = alloc.arm(&timeline);
//! let fence: ARef<Fence> = armed.fence().into();
//! assert!(!fence.is_signaled());
//! drop(signalling);
//!
//! // The hardware is done.
//! armed.signal(Ok(()));
//! assert!(fence.is_signaled());
//! assert_eq!(fence.error(), None);
//! # Ok::<(), Error>(())
//! ```

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    dma_buf::{
        clamp_timeout,
        Waited, //
    },
    error::to_result,
    prelude::*,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        atomic::{
            Acquire,
            Atomic,
            Relaxed, //
        },
        rcu, //
    },
    task::MAX_SCHEDULE_TIMEOUT,
    time::Jiffies,
    types::Opaque, //
};
use core::{
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
    ptr::{
        self,
        NonNull, //
    },
};

mod deadline;
mod mailbox;
mod signalling;
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) mod tests;

pub use self::deadline::{
    Deadline,
    Deadlines,
    Hint,
    Hints, //
};
pub use self::mailbox::{
    Drain,
    FenceWatch,
    Kick,
    Mail,
    Mailbox, //
};
pub(crate) use self::signalling::might_wait;
pub use self::signalling::Signalling;

/// Size of a name in a fence, including the terminating zero.
const NAME_LEN: usize = 16;

/// A name as stored in each fence, terminated by at least one zero.
type Name = [u8; NAME_LEN];

/// Copies a name, truncated to what fits.
fn copy_name(name: &CStr) -> Name {
    let mut copy = [0; NAME_LEN];
    // The last byte stays zero.
    for (to, from) in copy[..NAME_LEN - 1].iter_mut().zip(name.to_bytes()) {
        *to = *from;
    }
    copy
}

/// A timeline: its fences signal in the order in which they were armed.
///
/// It needs no clean-up and may be dropped before its fences.
pub struct FenceContext {
    driver: Name,
    timeline: Name,
    id: u64,
    seqno: Atomic<u64>,
    deadlines: Option<Deadlines>,
}

impl FenceContext {
    /// Creates a timeline with a unique id.
    ///
    /// `driver` and `timeline` are what user space sees of a pending fence, for instance in the
    /// information on a sync file. Both are truncated to 15 bytes.
    pub fn new(driver: &CStr, timeline: &CStr) -> Self {
        Self {
            driver: copy_name(driver),
            timeline: copy_name(timeline),
            // SAFETY: There are no requirements, the number is not zero.
            id: unsafe { bindings::dma_fence_context_alloc(1) },
            seqno: Atomic::new(1),
            deadlines: None,
        }
    }

    /// Creates a timeline like [`new`](Self::new), with fences that report deadlines set on them to
    /// `deadlines` until they signal.
    pub fn with_deadlines(driver: &CStr, timeline: &CStr, deadlines: &Deadlines) -> Self {
        Self {
            deadlines: Some(deadlines.clone()),
            ..Self::new(driver, timeline)
        }
    }

    /// Returns the id that all fences of this timeline share.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// The allocation behind a fence created by [`FenceAlloc`].
///
/// The fence comes first: it is freed by its own address.
#[repr(C)]
struct FenceData {
    fence: Opaque<bindings::dma_fence>,
    driver: Name,
    timeline: Name,
    node: deadline::Node,
}

/// The operations of all fences created here. As there is neither `release` nor `wait`, the C side
/// clears a fence's pointer to them when it signals the fence.
static FENCE_OPS: bindings::dma_fence_ops = bindings::dma_fence_ops {
    get_driver_name: Some(driver_name_callback),
    get_timeline_name: Some(timeline_name_callback),
    enable_signaling: None,
    signaled: None,
    wait: None,
    release: None,
    set_deadline: Some(deadline::set_deadline_callback),
};

/// # Safety
///
/// `fence` must point to the fence of a valid [`FenceData`].
unsafe extern "C" fn driver_name_callback(fence: *mut bindings::dma_fence) -> *const c_char {
    // SAFETY: By the safety requirements, `fence` is the first field of a valid `FenceData`.
    unsafe { (&raw const (*fence.cast::<FenceData>()).driver).cast() }
}

/// # Safety
///
/// `fence` must point to the fence of a valid [`FenceData`].
unsafe extern "C" fn timeline_name_callback(fence: *mut bindings::dma_fence) -> *const c_char {
    // SAFETY: By the safety requirements, `fence` is the first field of a valid `FenceData`.
    unsafe { (&raw const (*fence.cast::<FenceData>()).timeline).cast() }
}

/// The memory for a fence that has not been armed yet.
pub struct FenceAlloc(KBox<MaybeUninit<FenceData>>);

impl FenceAlloc {
    /// Allocates the memory. Whether this may sleep depends on `flags`.
    pub fn new(flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(KBox::new_uninit(flags)?))
    }

    /// Turns the memory into the next fence of `context`.
    ///
    /// Can be called in any context. From here on there may be waiters for the fence, so the caller
    /// should be in a [`Signalling`] section.
    ///
    /// The fences of one context have to signal in the order in which they were armed. If several
    /// tasks submit to it, arm and queue under one lock.
    pub fn arm(self, context: &FenceContext) -> ArmedFence {
        let data: *mut FenceData = KBox::into_raw(self.0).cast();
        // SAFETY: `data` points to the memory of a `FenceData`, which is not shared yet.
        let fence = unsafe {
            (&raw mut (*data).driver).write(context.driver);
            (&raw mut (*data).timeline).write(context.timeline);
            (&raw mut (*data).node).write(deadline::Node::new(context.deadlines.as_ref()));
            Opaque::cast_into(&raw const (*data).fence)
        };
        let seqno = context.seqno.fetch_add(1, Relaxed);

        // SAFETY:
        // - `fence` points to the memory of a `struct dma_fence`, which is not shared yet.
        // - The operations are static, and the data that they access was written above and lives as
        //   long as the fence does.
        // - Without a lock given the fence uses its own.
        unsafe {
            bindings::dma_fence_init64(fence, &FENCE_OPS, ptr::null_mut(), context.id, seqno)
        };

        // SAFETY: `fence` is not NULL, and it was just initialised with one reference, which moves
        // into the `ARef`. The memory came from `kmalloc`, which is what the C side frees.
        let fence = unsafe { ARef::from_raw(NonNull::new_unchecked(fence.cast())) };

        ArmedFence {
            fence,
            deadlines: context.deadlines.clone(),
        }
    }
}

/// The signaller of a fence: there is exactly one, and it signals once.
///
/// Dropping it without [`signal`](Self::signal) signals the fence with [`ECANCELED`].
///
/// # Invariants
///
/// The fence was made by [`FenceAlloc::arm`], and nothing else signals it.
#[must_use = "the fence is cancelled if it is not signalled"]
pub struct ArmedFence {
    fence: ARef<Fence>,
    /// Keeps alive the list that the fence points to until it has signalled.
    deadlines: Option<Deadlines>,
}

impl ArmedFence {
    /// Returns the fence, to be shared with waiters.
    #[inline]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Returns the earliest deadline set on the fence, if its timeline has [`Deadlines`].
    pub fn deadline(&self) -> Option<Deadline> {
        // SAFETY: By the type invariants the fence is the first field of a `FenceData`, which is
        // valid as long as the fence is.
        unsafe { &(*self.fence.as_raw().cast::<FenceData>()).node }.deadline()
    }

    /// Signals the fence.
    ///
    /// Can be called in any context. Runs the callbacks of the fence with interrupts disabled, so
    /// the caller must not hold a lock that any callback takes.
    pub fn signal(self, result: Result) {
        let this = ManuallyDrop::new(self);
        this.complete(result);
        // SAFETY: `this` is neither used again nor dropped, so its fields can be moved out.
        drop(unsafe { (ptr::read(&this.fence), ptr::read(&this.deadlines)) });
    }

    /// Signals the fence. Must be called only once.
    fn complete(&self, result: Result) {
        let fence = self.fence.as_raw();
        if let Err(error) = result {
            // SAFETY: The fence is valid, and by the type invariants it was not signalled yet. The
            // value of an `Error` is in the range of error codes.
            unsafe { bindings::dma_fence_set_error(fence, error.to_errno()) };
        }
        // SAFETY: The fence is valid.
        unsafe { bindings::dma_fence_signal(fence) };
    }
}

impl Drop for ArmedFence {
    fn drop(&mut self) {
        self.complete(Err(ECANCELED));
    }
}

/// A fence, created here or by any other driver.
///
/// # Invariants
///
/// The `struct dma_fence` is valid and refcounted.
#[repr(transparent)]
pub struct Fence(Opaque<bindings::dma_fence>);

// SAFETY: A fence may be used and released by any thread.
unsafe impl Send for Fence {}
// SAFETY: All that can be done with a shared fence is synchronised by the C side.
unsafe impl Sync for Fence {}

// SAFETY: The reference count is that of the `struct dma_fence`.
unsafe impl AlwaysRefCounted for Fence {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: A shared reference proves that the reference count is not zero.
        unsafe { bindings::dma_fence_get(self.as_raw()) };
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller hands over a reference.
        unsafe { bindings::dma_fence_put(obj.cast().as_ptr()) };
    }
}

impl Fence {
    /// Converts a raw pointer to a reference.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a valid fence that is kept referenced for `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::dma_fence) -> &'a Self {
        // SAFETY: By the requirements; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    /// Takes ownership of a reference. Returns [`None`] for NULL.
    ///
    /// # Safety
    ///
    /// `ptr` must be NULL or point to a valid fence, and the caller must own a reference to it,
    /// which is transferred to the result.
    pub(crate) unsafe fn from_raw_owned(ptr: *mut bindings::dma_fence) -> Option<ARef<Self>> {
        // SAFETY: By the requirements; the type is transparent.
        NonNull::new(ptr).map(|ptr| unsafe { ARef::from_raw(ptr.cast()) })
    }

    /// Returns the C fence.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::dma_fence {
        self.0.get()
    }

    /// Returns whether the fence is marked as signalled. Later accesses are ordered after the
    /// check.
    ///
    /// Can be called in any context. Unlike [`is_signaled`](Self::is_signaled), this never calls
    /// the fence's driver, which may not have noticed yet that the fence has to signal.
    #[inline]
    pub fn is_marked_signaled(&self) -> bool {
        // SAFETY: The field is valid as long as the fence is, and all accesses to it are atomic.
        let flags = unsafe { Atomic::<usize>::from_ptr(&raw mut (*self.as_raw()).flags) };
        flags.load(Acquire) & (1 << bindings::dma_fence_flag_bits_DMA_FENCE_FLAG_SIGNALED_BIT) != 0
    }

    /// Returns whether the fence has signalled.
    ///
    /// Can be called in any context. On a fence of another driver, this may poll the hardware and
    /// signal the fence, which runs its callbacks.
    #[inline]
    pub fn is_signaled(&self) -> bool {
        // SAFETY: The fence is valid.
        self.is_marked_signaled() || unsafe { bindings::dma_fence_is_signaled(self.as_raw()) }
    }

    /// Returns the result with which the fence was signalled, or `None` if it has not signalled
    /// yet.
    ///
    /// Can be called wherever [`is_signaled`](Self::is_signaled) can, including in a callback.
    pub fn status(&self) -> Option<Result> {
        // `is_signaled()` may have signalled the fence itself. Reading the flag again orders the
        // read of the error below in that case as well.
        if !self.is_signaled() || !self.is_marked_signaled() {
            return None;
        }
        // SAFETY: The fence is valid. The error was written before the flag and does not change any
        // more.
        let error = unsafe { (&raw const (*self.as_raw()).error).read_volatile() };
        Some(to_result(error))
    }

    /// Returns the error with which the fence was signalled, if any.
    pub fn error(&self) -> Option<Error> {
        self.status().and_then(Result::err)
    }

    /// Returns the id of the timeline.
    #[inline]
    pub fn context(&self) -> u64 {
        // SAFETY: The fence is valid, and the field does not change.
        unsafe { (*self.as_raw()).context }
    }

    /// Returns the sequence number on the timeline.
    #[inline]
    pub fn seqno(&self) -> u64 {
        // SAFETY: The fence is valid, and the field does not change.
        unsafe { (*self.as_raw()).seqno }
    }

    /// Returns whether both are on the same timeline and this fence is `other` or comes after it.
    ///
    /// If so, a waiter for this fence need not wait for `other`.
    #[inline]
    pub fn is_later_or_same(&self, other: &Fence) -> bool {
        self.context() == other.context()
            // SAFETY: Both fences are valid and of the same context.
            && unsafe { bindings::dma_fence_is_later_or_same(self.as_raw(), other.as_raw()) }
    }

    /// Waits until the fence has signalled.
    ///
    /// Sleeps. Fails with [`ERESTARTSYS`] if a signal is delivered to the task.
    pub fn wait(&self) -> Result {
        // Without a limit the wait cannot time out.
        self.wait_raw(true, MAX_SCHEDULE_TIMEOUT).map(|_| ())
    }

    /// Waits until the fence has signalled, for `timeout` jiffies at most.
    ///
    /// May sleep, whatever the `timeout`; a `timeout` of zero only polls. Fails with
    /// [`ERESTARTSYS`] if a signal is delivered to the task.
    pub fn wait_timeout(&self, timeout: Jiffies) -> Result<Waited> {
        self.wait_raw(true, clamp_timeout(timeout))
    }

    /// Waits until the fence has signalled, for `timeout` jiffies at most, without being
    /// interrupted by signals.
    ///
    /// May sleep, whatever the `timeout`; a `timeout` of zero only polls.
    pub fn wait_timeout_uninterruptible(&self, timeout: Jiffies) -> Waited {
        // Only the wait operation of another driver can return an error. C callers treat that as
        // signalled as well.
        self.wait_raw(false, clamp_timeout(timeout))
            .unwrap_or(Waited::Signaled(1))
    }

    /// Waits for at most `timeout` jiffies.
    ///
    /// Not inline, since [`might_wait`] uses a symbol that is not exported to modules.
    #[inline(never)]
    fn wait_raw(&self, interruptible: bool, timeout: c_long) -> Result<Waited> {
        // Check the context even if there is nothing to wait for this time.
        might_wait();
        // Do not touch the lock of a signalled fence: another driver may have freed it.
        if self.is_marked_signaled() {
            return Waited::from_ret(timeout.max(1));
        }
        // SAFETY: The fence is valid, and the timeout is not negative.
        Waited::from_ret(unsafe {
            bindings::dma_fence_wait_timeout(self.as_raw(), interruptible, timeout)
        })
    }

    /// Calls `f` for each fence that this one stands for: the members of a container (an array, a
    /// chain, or a chain of arrays), else the fence itself. Stops at the first error.
    ///
    /// Process context. Signalled members of a chain may be skipped.
    pub fn for_each_contained(&self, mut f: impl FnMut(&Fence) -> Result) -> Result {
        let mut cursor = bindings::dma_fence_unwrap {
            chain: ptr::null_mut(),
            array: ptr::null_mut(),
            index: 0,
        };
        // SAFETY: The fence is valid; the function initialises the cursor.
        let mut next = unsafe { bindings::dma_fence_unwrap_first(self.as_raw(), &mut cursor) };
        let mut result = Ok(());

        while !next.is_null() {
            // SAFETY: The cursor and `self` keep the fence alive until the cursor is advanced.
            result = f(unsafe { Fence::from_raw(next) });
            if result.is_err() {
                break;
            }
            // SAFETY: The cursor was initialised above.
            next = unsafe { bindings::dma_fence_unwrap_next(&mut cursor) };
        }
        // SAFETY: The cursor owns a reference to the current chain link, if any, and is not used
        // any more.
        unsafe { bindings::dma_fence_put(cursor.chain) };
        result
    }

    /// Asks the driver of the fence to make sure that the fence gets signalled, which some drivers
    /// only do on request. Adding a callback later is then cheap.
    pub fn enable_signaling(&self) {
        // The lock of a signalled fence belongs to its driver, which may free it after a grace
        // period.
        let _rcu = rcu::read_lock();

        if self.is_marked_signaled() {
            return;
        }
        // SAFETY: The fence is valid. It had not signalled, so its lock lives as long as `_rcu`.
        unsafe { bindings::dma_fence_enable_signaling(self.as_raw()) };
    }
}
