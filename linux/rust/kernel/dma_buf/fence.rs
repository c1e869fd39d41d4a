// SPDX-License-Identifier: GPL-2.0

//! DMA fences.
//!
//! A fence stands for something that a device will have done at some time. It goes once from not
//! signalled to signalled, with or without an error.
//!
//! # The life of a fence
//!
//! 1. [`FenceAlloc::new`] allocates. It may sleep and fail, hence it belongs before the point of no
//!    return of a submission.
//! 2. [`FenceAlloc::arm`] takes the next place of a [`FenceContext`] and cannot fail. What comes
//!    out is the [`ArmedFence`], the only thing that can signal the fence. From here to the
//!    signal nothing may allocate or wait for another fence: see [`Signalling`].
//! 3. The [`Fence`] of the armed one is shared as an [`ARef<Fence>`] with whoever wants to wait.
//! 4. [`ArmedFence::signal`] consumes the signaller. If it is dropped instead, then the fence is
//!    signalled with [`ECANCELED`], so no waiter can hang because an error path forgot it.
//!
//! # Fences outlive their drivers
//!
//! User space, other drivers and reservation objects may keep a fence for as long as they like. A
//! fence made here thus refers to nothing of the driver: its operations are part of this crate, its
//! names are copied into it, its lock is its own, and there is no destructor. It may be signalled
//! or freed, in any context, long after its module is gone.
//!
//! # Locking and contexts
//!
//! Each fence has one lock, taken with interrupts disabled. Signalling runs the callbacks under it.
//! All locks of fences are one class for lockdep; no callback may thus signal another fence, and
//! none may take a lock under which fences are signalled.
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
        }, //
    },
    task::MAX_SCHEDULE_TIMEOUT,
    time::Jiffies,
    types::{
        NotThreadSafe,
        Opaque, //
    },
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

mod callback;
mod mailbox;
#[cfg(CONFIG_KUNIT = "y")]
mod tests;

pub use self::{
    callback::{
        FenceCallback,
        FenceCb, //
    },
    mailbox::{
        Drain,
        FenceWatch,
        Kick,
        Mail,
        Mailbox, //
    },
};

/// Room for a name in a fence, with the terminating zero.
const NAME_LEN: usize = 16;

/// A name as it is copied into each fence; there is at least one zero at its end.
type Name = [u8; NAME_LEN];

/// Copies a name, cut to what fits.
fn copy_name(name: &CStr) -> Name {
    let mut copy = [0; NAME_LEN];
    // The last byte stays zero.
    for (to, from) in copy[..NAME_LEN - 1].iter_mut().zip(name.to_bytes()) {
        *to = *from;
    }
    copy
}

/// A timeline: fences that signal in the order in which they were armed.
///
/// It needs no clean-up and may be dropped before its fences.
pub struct FenceContext {
    driver: Name,
    timeline: Name,
    id: u64,
    seqno: Atomic<u64>,
}

impl FenceContext {
    /// Creates a timeline with an id that no other one has.
    ///
    /// `driver` and `timeline` are what user space sees of a pending fence, in the information on a
    /// sync file for instance. Both are cut after 15 bytes.
    pub fn new(driver: &CStr, timeline: &CStr) -> Self {
        Self {
            driver: copy_name(driver),
            timeline: copy_name(timeline),
            // SAFETY: There are no requirements, the number is not zero.
            id: unsafe { bindings::dma_fence_context_alloc(1) },
            seqno: Atomic::new(1),
        }
    }

    /// The id that all the fences of this timeline have.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// What is allocated for a fence made by [`FenceAlloc`].
///
/// The fence comes first: it is freed by its own address.
#[repr(C)]
struct FenceData {
    fence: Opaque<bindings::dma_fence>,
    driver: Name,
    timeline: Name,
}

/// The operations of all the fences made here. There is no `release` and no `wait`, so the C side
/// cuts the link from a fence to them when it signals it.
static FENCE_OPS: bindings::dma_fence_ops = bindings::dma_fence_ops {
    get_driver_name: Some(driver_name_callback),
    get_timeline_name: Some(timeline_name_callback),
    enable_signaling: None,
    signaled: None,
    wait: None,
    release: None,
    set_deadline: None,
};

/// # Safety
///
/// `fence` must point to the fence of a valid [`FenceData`].
unsafe extern "C" fn driver_name_callback(fence: *mut bindings::dma_fence) -> *const c_char {
    // SAFETY: By the requirement this is in a `FenceData`, whose first field the fence is.
    unsafe { (&raw const (*fence.cast::<FenceData>()).driver).cast() }
}

/// # Safety
///
/// `fence` must point to the fence of a valid [`FenceData`].
unsafe extern "C" fn timeline_name_callback(fence: *mut bindings::dma_fence) -> *const c_char {
    // SAFETY: By the requirement this is in a `FenceData`, whose first field the fence is.
    unsafe { (&raw const (*fence.cast::<FenceData>()).timeline).cast() }
}

/// The memory of a fence that is to come.
pub struct FenceAlloc(KBox<MaybeUninit<FenceData>>);

impl FenceAlloc {
    /// Allocates. Whether this may sleep depends on `flags`.
    pub fn new(flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(KBox::new_uninit(flags)?))
    }

    /// Makes the memory the next fence of `context`.
    ///
    /// Can be called in any context. From here on somebody may wait for the fence, so the caller
    /// should be in a [`Signalling`] section.
    ///
    /// The fences of one context have to signal in the order in which they were armed: if several
    /// tasks submit to it, then arming and queueing belong under one lock.
    pub fn arm(self, context: &FenceContext) -> ArmedFence {
        let data: *mut FenceData = KBox::into_raw(self.0).cast();
        // SAFETY: `data` points to memory of a `FenceData`, of which nobody else knows.
        let fence = unsafe {
            (&raw mut (*data).driver).write(context.driver);
            (&raw mut (*data).timeline).write(context.timeline);
            Opaque::cast_into(&raw const (*data).fence)
        };
        let seqno = context.seqno.fetch_add(1, Relaxed);

        // SAFETY:
        // - `fence` points to memory of a `struct dma_fence`, of which nobody else knows.
        // - The operations are valid for ever and get what they ask for: the names were written
        //   above and stay as long as the fence does.
        // - Without a lock given the fence uses its own.
        unsafe {
            bindings::dma_fence_init64(fence, &FENCE_OPS, ptr::null_mut(), context.id, seqno)
        };

        // SAFETY: `fence` is not NULL, and it was just initialised with one reference, which moves
        // into the `ARef`. The memory came from `kmalloc`, which is what the C side frees.
        ArmedFence(unsafe { ARef::from_raw(NonNull::new_unchecked(fence.cast())) })
    }
}

/// The signaller of a fence: there is exactly one, and it signals once.
///
/// Dropping it without [`signal`](Self::signal) signals the fence with [`ECANCELED`].
///
/// # Invariants
///
/// The fence was made by [`FenceAlloc::arm`], and nothing else signals it.
pub struct ArmedFence(ARef<Fence>);

impl ArmedFence {
    /// The fence, for those who wait.
    pub fn fence(&self) -> &Fence {
        &self.0
    }

    /// Signals the fence.
    ///
    /// Can be called in any context. Runs the callbacks of the fence with interrupts disabled, so
    /// no lock may be held that a callback of anybody takes.
    pub fn signal(self, result: Result) {
        let this = ManuallyDrop::new(self);
        this.complete(result);
        // SAFETY: `this` is not used again and not dropped, so the reference is moved out of it.
        drop(unsafe { ptr::read(&this.0) });
    }

    /// Signals the fence. To be called once.
    fn complete(&self, result: Result) {
        let fence = self.0.as_raw();
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

/// A fence, one of ours or of any other driver.
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
    fn inc_ref(&self) {
        // SAFETY: A shared reference proves that the reference count is not zero.
        unsafe { bindings::dma_fence_get(self.as_raw()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller hands over a reference.
        unsafe { bindings::dma_fence_put(obj.cast().as_ptr()) };
    }
}

impl Fence {
    /// Makes a reference of a pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must point to a valid fence, of which somebody holds a reference during `'a`.
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::dma_fence) -> &'a Self {
        // SAFETY: By the requirements; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    /// Makes an owned reference of a pointer, or nothing of NULL.
    ///
    /// # Safety
    ///
    /// `ptr` must be NULL or point to a valid fence, and the caller must own a reference to it, of
    /// which it lets go here.
    pub(crate) unsafe fn from_raw_owned(ptr: *mut bindings::dma_fence) -> Option<ARef<Self>> {
        // SAFETY: By the requirements; the type is transparent.
        NonNull::new(ptr).map(|ptr| unsafe { ARef::from_raw(ptr.cast()) })
    }

    /// The C fence.
    pub fn as_raw(&self) -> *mut bindings::dma_fence {
        self.0.get()
    }

    /// A fence that has signalled.
    pub fn stub() -> ARef<Self> {
        // SAFETY: The function returns a reference to a fence that always exists.
        unsafe { ARef::from_raw(NonNull::new_unchecked(bindings::dma_fence_get_stub()).cast()) }
    }

    /// Whether the flag is set; orders what follows after it.
    fn signaled_flag(&self) -> bool {
        // SAFETY: The field is valid as long as the fence is, and all accesses to it are atomic.
        let flags = unsafe { Atomic::<usize>::from_ptr(&raw mut (*self.as_raw()).flags) };
        flags.load(Acquire) & (1 << bindings::dma_fence_flag_bits_DMA_FENCE_FLAG_SIGNALED_BIT) != 0
    }

    /// Whether the fence has signalled.
    ///
    /// Can be called in any context. A fence of another driver may be polled and then signalled by
    /// this, which runs its callbacks.
    pub fn is_signaled(&self) -> bool {
        // SAFETY: The fence is valid.
        self.signaled_flag() || unsafe { bindings::dma_fence_is_signaled(self.as_raw()) }
    }

    /// How the fence was signalled, or `None` if it was not yet.
    ///
    /// Can be called wherever [`is_signaled`](Self::is_signaled) can, also in a callback.
    pub fn status(&self) -> Option<Result> {
        // The second look orders the read below also if the fence was signalled just now.
        if !self.is_signaled() || !self.signaled_flag() {
            return None;
        }
        // SAFETY: The fence is valid. The error was written before the flag, and it stays.
        let error = unsafe { (&raw const (*self.as_raw()).error).read_volatile() };
        Some(to_result(error))
    }

    /// The error that the fence was signalled with, if it has signalled and if there was one.
    pub fn error(&self) -> Option<Error> {
        self.status().and_then(Result::err)
    }

    /// The id of the timeline.
    pub fn context(&self) -> u64 {
        // SAFETY: The fence is valid, and the field does not change.
        unsafe { (*self.as_raw()).context }
    }

    /// The place on the timeline.
    pub fn seqno(&self) -> u64 {
        // SAFETY: The fence is valid, and the field does not change.
        unsafe { (*self.as_raw()).seqno }
    }

    /// Whether both are on the same timeline and `other` does not come after this one on it.
    ///
    /// If so, whoever waits for this fence need not wait for the other.
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
    /// Sleeps, unless the fence has signalled. A `timeout` of zero only looks. Fails with
    /// [`ERESTARTSYS`] if a signal is delivered to the task.
    pub fn wait_timeout(&self, timeout: Jiffies) -> Result<Waited> {
        self.wait_raw(true, clamp_timeout(timeout))
    }

    /// Waits until the fence has signalled, for `timeout` jiffies at most, whatever signals there
    /// are.
    ///
    /// Sleeps, unless the fence has signalled. A `timeout` of zero only looks.
    pub fn wait_timeout_uninterruptible(&self, timeout: Jiffies) -> Waited {
        // An error can only come from the wait operation of another driver; C callers take it for
        // the end of the fence, too.
        self.wait_raw(false, clamp_timeout(timeout))
            .unwrap_or(Waited::Signaled(1))
    }

    fn wait_raw(&self, interruptible: bool, timeout: c_long) -> Result<Waited> {
        if self.signaled_flag() {
            return Waited::from_ret(timeout.max(1));
        }
        // SAFETY: The fence is valid, and the timeout is not negative.
        Waited::from_ret(unsafe {
            bindings::dma_fence_wait_timeout(self.as_raw(), interruptible, timeout)
        })
    }

    /// Calls `callback` once the fence has signalled.
    ///
    /// Initialising what this returns registers the callback, dropping it takes the callback back.
    /// Fails with [`ENOENT`], without a call, if the fence has signalled already.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::dma_buf::fence::{
    ///     Fence,
    ///     FenceAlloc,
    ///     FenceCallback,
    ///     FenceContext, //
    /// };
    /// use kernel::sync::atomic::{
    ///     Atomic,
    ///     Relaxed, //
    /// };
    ///
    /// struct Seen(Atomic<bool>);
    ///
    /// impl FenceCallback for Seen {
    ///     fn signaled(&self, fence: &Fence) {
    ///         self.0.store(fence.error() == Some(EIO), Relaxed);
    ///     }
    /// }
    ///
    /// let timeline = FenceContext::new(c"example", c"ring 0");
    /// let armed = FenceAlloc::new(GFP_KERNEL)?.arm(&timeline);
    /// let seen = Seen(Atomic::new(false));
    /// let seen = KBox::pin_init(armed.fence().add_callback(seen), GFP_KERNEL)?;
    ///
    /// armed.signal(Err(EIO));
    /// assert!(seen.0.load(Relaxed));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn add_callback<C: FenceCallback>(&self, callback: C) -> impl PinInit<FenceCb<C>, Error> {
        FenceCb::new(self.into(), callback)
    }
}

/// A section of code that some fence waits for.
///
/// Everything between making a fence known and signalling it belongs into such a section: the
/// end of a submission, the interrupt handler, the worker that recovers from a hang. In there
/// nothing may allocate in a way that waits for reclaim, lock a [`Resv`](super::resv::Resv) or
/// wait for other fences. With `CONFIG_PROVE_LOCKING` lockdep checks that; otherwise this does
/// nothing and costs nothing.
///
/// It belongs to an entry point rather than to a fence, and is handed down as a `&Signalling` to
/// functions that have to be in such a section. Sections nest; the last one begun ends first.
#[must_use = "the section ends when the guard is dropped"]
pub struct Signalling {
    cookie: bool,
    /// The C side keeps track of sections by task.
    _not_send: NotThreadSafe,
}

impl Signalling {
    /// Begins a section, in any context. It ends when the guard is dropped.
    #[inline]
    pub fn begin() -> Self {
        Self {
            // SAFETY: There are no requirements.
            cookie: unsafe { bindings::dma_fence_begin_signalling() },
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for Signalling {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The cookie is of the section that this task began.
        unsafe { bindings::dma_fence_end_signalling(self.cookie) };
    }
}
