// SPDX-License-Identifier: GPL-2.0

//! Tests of fences; those of callbacks and of the mailbox stand with these.

use super::*;

#[macros::kunit_tests(rust_dma_fence)]
mod suite {
    use super::*;
    use crate::workqueue;

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
    fn unused_alloc() -> Result {
        drop(FenceAlloc::new(GFP_KERNEL)?);
        drop(FenceAlloc::new(GFP_NOWAIT)?);
        Ok(())
    }

    #[test]
    fn outlives_context() -> Result {
        let armed = {
            let context = context();
            arm(&context)?
        };
        let fence = ARef::from(armed.fence());

        armed.signal(Ok(()));
        assert!(fence.is_signaled());
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

    #[test]
    fn names() -> Result {
        let armed = arm(&context())?;
        let raw = armed.fence().as_raw();
        // SAFETY: The fence is one of ours; the names are valid as long as it is.
        let (driver, timeline) = unsafe {
            (
                CStr::from_char_ptr(driver_name_callback(raw)),
                CStr::from_char_ptr(timeline_name_callback(raw)),
            )
        };
        assert_eq!(driver.to_bytes(), b"kunit");
        assert_eq!(timeline.to_bytes(), b"a timeline with");
        Ok(())
    }

    #[test]
    fn stub() {
        let fence = Fence::stub();
        assert!(fence.is_signaled());
        assert_eq!(fence.status(), Some(Ok(())));
        assert_eq!(fence.wait_timeout(0), Ok(Waited::Signaled(1)));
        assert_eq!(fence.wait(), Ok(()));
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

    #[test]
    fn signalling_sections() -> Result {
        let alloc = FenceAlloc::new(GFP_KERNEL)?;
        let outer = Signalling::begin();
        let armed = alloc.arm(&context());
        {
            let _inner = Signalling::begin();
            armed.signal(Ok(()));
        }
        drop(outer);

        // The section is over: allocating is fine again.
        drop(FenceAlloc::new(GFP_KERNEL)?);
        Ok(())
    }
}
