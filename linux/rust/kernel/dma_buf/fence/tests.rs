// SPDX-License-Identifier: GPL-2.0

//! Tests of fences; those of the mailbox are in its own file.

use super::*;

#[macros::kunit_tests(rust_dma_fence)]
mod suite {
    use super::*;
    use crate::{
        sync::{
            atomic::Release,
            rcu,
            Arc, //
        },
        workqueue, //
    };

    /// In nanoseconds.
    const HOUR: i64 = 3_600_000_000_000;

    fn context() -> FenceContext {
        FenceContext::new(c"kunit", c"a timeline with a long name")
    }

    fn arm(context: &FenceContext) -> Result<ArmedFence> {
        Ok(FenceAlloc::new(GFP_KERNEL)?.arm(context))
    }

    #[test]
    fn signal() -> Result {
        let context = context();
        let armed = arm(&context)?;
        let fence = ARef::from(armed.fence());

        assert!(!fence.is_signaled());
        assert!(fence.status().is_none());
        assert!(fence.error().is_none());

        armed.signal(Ok(()));
        assert!(fence.is_signaled());
        assert_eq!(fence.status(), Some(Ok(())));
        assert!(fence.error().is_none());
        Ok(())
    }

    #[test]
    fn signal_with_error() -> Result {
        let armed = arm(&context())?;
        let fence = ARef::from(armed.fence());

        armed.signal(Err(ENODEV));
        assert!(fence.is_signaled());
        assert_eq!(fence.status(), Some(Err(ENODEV)));
        assert_eq!(fence.error(), Some(ENODEV));
        Ok(())
    }

    #[test]
    fn drop_cancels() -> Result {
        let armed = arm(&context())?;
        let fence = ARef::from(armed.fence());

        drop(armed);
        assert!(fence.is_signaled());
        assert_eq!(fence.error(), Some(ECANCELED));
        Ok(())
    }

    #[test]
    fn order() -> Result {
        let context = context();
        let other = arm(&self::context())?;
        let first = arm(&context)?;
        let second = arm(&context)?;

        assert_eq!(first.fence().context(), context.id());
        assert_eq!(second.fence().context(), context.id());
        assert!(other.fence().context() != context.id());
        assert_eq!(second.fence().seqno(), first.fence().seqno() + 1);

        assert!(second.fence().is_later_or_same(first.fence()));
        assert!(second.fence().is_later_or_same(second.fence()));
        assert!(!first.fence().is_later_or_same(second.fence()));
        assert!(!first.fence().is_later_or_same(other.fence()));
        assert!(!other.fence().is_later_or_same(first.fence()));
        Ok(())
    }

    /// Returns whether the C side reports these names of the driver and the timeline of a fence.
    fn has_names(fence: &Fence, driver: &[u8], timeline: &[u8]) -> bool {
        let _rcu = rcu::read_lock();
        // SAFETY: The fence is valid. The names stay until the read side ends.
        let (of_driver, of_timeline) = unsafe {
            (
                CStr::from_char_ptr(bindings::dma_fence_driver_name(fence.as_raw())),
                CStr::from_char_ptr(bindings::dma_fence_timeline_name(fence.as_raw())),
            )
        };
        of_driver.to_bytes() == driver && of_timeline.to_bytes() == timeline
    }

    /// A fence that has signalled does not point to its operations any more.
    #[test]
    fn names_go_with_the_signal() -> Result {
        let armed = arm(&context())?;
        let fence = ARef::from(armed.fence());
        assert!(has_names(&fence, b"kunit", b"a timeline with"));
        armed.signal(Ok(()));
        assert!(has_names(&fence, b"detached-driver", b"signaled-timeline"));
        // SAFETY: The fence is valid.
        assert!(unsafe { (&raw const (*fence.as_raw()).ops).read_volatile() }.is_null());
        Ok(())
    }

    #[test]
    fn wait_times_out() -> Result {
        let armed = arm(&context())?;
        assert_eq!(armed.fence().wait_timeout(0)?, Waited::TimedOut);
        assert_eq!(armed.fence().wait_timeout(2)?, Waited::TimedOut);
        assert_eq!(
            armed.fence().wait_timeout_uninterruptible(2),
            Waited::TimedOut
        );
        Ok(())
    }

    #[test]
    fn wait_succeeds() -> Result {
        let armed = arm(&context())?;
        let fence = ARef::from(armed.fence());
        workqueue::system_dfl().try_spawn(GFP_KERNEL, move || armed.signal(Err(EIO)))?;

        assert!(fence.wait_timeout(Jiffies::MAX)?.is_signaled());
        assert_eq!(fence.error(), Some(EIO));
        // All of the time is left.
        assert_eq!(fence.wait_timeout(7)?, Waited::Signaled(7));
        assert_eq!(fence.wait_timeout_uninterruptible(0), Waited::Signaled(1));
        Ok(())
    }

    /// A fence keeps the earliest deadline and is listed again only for an earlier one.
    #[test]
    fn deadlines() -> Result {
        let deadlines = Deadlines::new(GFP_KERNEL)?;
        let context = FenceContext::with_deadlines(c"kunit", c"deadlines", &deadlines);
        let (x, y) = (arm(&context)?, arm(&context)?);
        assert!(x.deadline().is_none());
        assert!(deadlines.take().is_empty());

        set_deadline(x.fence(), HOUR);
        set_deadline(x.fence(), 2 * HOUR);
        let mut hints = deadlines.take();
        let hint = hints.next().ok_or(EINVAL)?;
        assert!(hints.next().is_none());
        assert_eq!(hint.fence.as_raw(), x.fence().as_raw());
        assert_eq!(Some(hint.deadline), x.deadline());
        assert!(!hint.deadline.is_within(0) && hint.deadline.is_within(HOUR.unsigned_abs()));

        set_deadline(x.fence(), 3 * HOUR);
        assert!(deadlines.take().is_empty());
        // A fence is listed once, however many deadlines are set before it is taken.
        set_deadline(x.fence(), -HOUR);
        set_deadline(x.fence(), -2 * HOUR);
        set_deadline(y.fence(), 0);
        assert_eq!(deadlines.take().count(), 2);
        assert!(x.deadline().is_some_and(|deadline| deadline.is_within(0)));

        // A deadline on a signalled fence is ignored, and the list may be freed before the fence.
        let late = ARef::from(x.fence());
        x.signal(Ok(()));
        set_deadline(&late, -3 * HOUR);
        assert!(deadlines.take().is_empty());
        set_deadline(y.fence(), -HOUR);
        drop((context, deadlines));
        set_deadline(y.fence(), -2 * HOUR);
        Ok(())
    }

    #[test]
    fn deadline_without_a_list() -> Result {
        let armed = arm(&context())?;
        set_deadline(armed.fence(), 0);
        assert!(armed.deadline().is_none());
        Ok(())
    }

    /// Deadlines are set while the fence signals and the list is freed.
    #[test]
    fn deadlines_race() -> Result {
        const ROUNDS: u32 = 100;
        const PAUSES: u32 = 50;

        for round in 0..ROUNDS {
            let deadlines = Deadlines::new(GFP_KERNEL)?;
            let armed = arm(&FenceContext::with_deadlines(
                c"kunit",
                c"deadlines",
                &deadlines,
            ))?;
            let fence = ARef::from(armed.fence());
            let begun = Arc::new(Atomic::new(false), GFP_KERNEL)?;
            let there = begun.clone();
            workqueue::system_dfl().try_spawn(GFP_KERNEL, move || {
                there.store(true, Release);
                for ns in 0..i64::from(ROUNDS) {
                    set_deadline(&fence, -ns * HOUR);
                }
            })?;
            while !begun.load(Acquire) {
                core::hint::spin_loop();
            }
            for _ in 0..round * PAUSES {
                core::hint::spin_loop();
            }
            assert!(deadlines.take().all(|hint| hint.deadline.is_within(0)));
            drop(deadlines);
            armed.signal(Ok(()));
        }
        Ok(())
    }

    /// An array stands for its members, any other fence for itself.
    #[test]
    fn containers() -> Result {
        let (x, y) = (arm(&context())?, arm(&context())?);
        let array = array(&[x.fence(), y.fence()])?;
        let mut found = KVec::new();
        array.for_each_contained(|fence| Ok(found.push(fence.context(), GFP_KERNEL)?))?;
        assert!(found.iter().eq(&[x.fence().context(), y.fence().context()]));

        let mut count = 0;
        x.fence().for_each_contained(|fence| {
            assert_eq!(fence.as_raw(), x.fence().as_raw());
            count += 1;
            Ok(())
        })?;
        assert_eq!(count, 1);
        assert_eq!(array.for_each_contained(|_| Err(EIO)), Err(EIO));
        Ok(())
    }
}

/// Sets a deadline on a fence, `ns` nanoseconds from now.
pub(crate) fn set_deadline(fence: &Fence, ns: i64) {
    // SAFETY: The fence is valid and referenced.
    unsafe {
        let now = bindings::ktime_get();
        bindings::dma_fence_set_deadline(fence.as_raw(), now.saturating_add(ns));
    }
}

/// Creates a fence that stands for all of `fences`.
pub(crate) fn array(fences: &[&Fence]) -> Result<ARef<Fence>> {
    let len = i32::try_from(fences.len())?;
    let mut members = KVec::with_capacity(fences.len(), GFP_KERNEL)?;

    for fence in fences {
        let fence = ARef::into_raw(ARef::from(*fence)).cast::<bindings::dma_fence>();
        members.push(fence.as_ptr(), GFP_KERNEL)?;
    }
    let (members, ..) = members.into_raw_parts();
    // SAFETY: The memory is from `kmalloc` and holds `len` references. The array takes ownership of
    // both.
    let array = unsafe {
        let id = bindings::dma_fence_context_alloc(1);
        bindings::dma_fence_array_create(len, members, id, 1)
    };
    if array.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: The array was just created, with a reference that is ours.
    unsafe { Fence::from_raw_owned(&raw mut (*array).base) }.ok_or(ENOMEM)
}
