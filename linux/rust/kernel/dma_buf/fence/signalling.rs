// SPDX-License-Identifier: GPL-2.0

//! The annotations by which lockdep checks code that signals fences or waits for them.
//!
//! There are no locks. [`Signalling::begin`] can be called in any context, [`might_wait`] where the
//! caller may sleep.

use crate::{
    bindings,
    task::might_sleep,
    types::NotThreadSafe, //
};

/// A section of code on which the signalling of a fence depends.
///
/// Everything between publishing a fence and signalling it belongs in such a section: the end of a
/// submission, the interrupt handler, the worker that recovers from a hang. In there nothing may
/// allocate in a way that waits for reclaim, lock a [`Resv`](crate::dma_buf::resv::Resv) or wait
/// for other fences. With `CONFIG_PROVE_LOCKING` lockdep checks that; otherwise this does nothing
/// and costs nothing.
///
/// A section belongs to an entry point rather than to a fence, and is passed down as a
/// `&Signalling` to functions that must run in one. Sections nest; the last one begun ends first.
#[must_use = "the section ends when the guard is dropped"]
pub struct Signalling {
    cookie: bool,
    /// The C side keeps track of sections by task.
    _not_send: NotThreadSafe,
}

impl Signalling {
    /// Begins a section, in any context. It ends when the guard is dropped. In atomic context
    /// nothing may sleep anyway, so lockdep records nothing.
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
        // SAFETY: The cookie is that of the section which this task began.
        unsafe { bindings::dma_fence_end_signalling(self.cookie) };
    }
}

/// Tells lockdep that a fence may be waited for here, which is an error in a [`Signalling`]
/// section.
///
/// Must be called before each wait that depends on a fence, even if there turns out to be nothing
/// to wait for. May sleep.
pub(crate) fn might_wait() {
    might_sleep();
    // SAFETY: There are no requirements.
    unsafe { bindings::__dma_fence_might_wait() };
}
