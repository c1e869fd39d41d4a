// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of locking, with objects that have no device.

use super::*;

#[macros::kunit_tests(rust_drm_exec)]
mod suite {
    use super::*;
    use crate::{
        dma_buf::fence::{
            ArmedFence,
            FenceAlloc,
            FenceContext, //
        },
        drm::gem::impl_aref_for_gem_obj,
        sync::aref::ARef, //
    };
    use core::ptr::NonNull;
    use pin_init::stack_pin_init;

    /// A GEM object without a device: none is needed for locking.
    #[repr(transparent)]
    struct TestObject(Opaque<bindings::drm_gem_object>);

    impl TestObject {
        const FUNCS: bindings::drm_gem_object_funcs = bindings::drm_gem_object_funcs {
            free: Some(Self::free_callback),
            ..pin_init::zeroed()
        };

        /// Creates an object, with the resv of another one if that is given. The other one must
        /// live longer.
        fn new(shared: Option<&Self>) -> Result<ARef<Self>> {
            let obj = KBox::new(
                Self(Opaque::new(bindings::drm_gem_object::default())),
                GFP_KERNEL,
            )?;
            let obj = KBox::into_raw(obj);
            // SAFETY: The object is zeroed and not shared yet. The device is only stored.
            unsafe {
                let raw = (*obj).0.get();
                (*raw).funcs = &Self::FUNCS;
                if let Some(shared) = shared {
                    (*raw).resv = (*shared.as_raw()).resv;
                }
                bindings::drm_gem_private_object_init(ptr::null_mut(), raw, 0);
            }
            // SAFETY: The initial reference moves into the `ARef`.
            Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(obj)) })
        }

        /// # Safety
        ///
        /// Must only be called by the C side, when the last reference of a valid `Self` is dropped.
        unsafe extern "C" fn free_callback(obj: *mut bindings::drm_gem_object) {
            // SAFETY: Nobody has a reference any more.
            unsafe { bindings::drm_gem_private_object_fini(obj) };
            // SAFETY: It was allocated as a `KBox<Self>`.
            drop(unsafe { KBox::from_raw(obj.cast::<Self>()) });
        }
    }

    impl crate::drm::private::Sealed for TestObject {}

    impl IntoGEMObject for TestObject {
        fn as_raw(&self) -> *mut bindings::drm_gem_object {
            self.0.get()
        }

        unsafe fn from_raw<'a>(ptr: *mut bindings::drm_gem_object) -> &'a Self {
            // SAFETY: By the requirements; the type is transparent.
            unsafe { &*ptr.cast() }
        }
    }

    impl_aref_for_gem_obj! {
        impl for TestObject
    }

    fn arm() -> Result<ArmedFence> {
        let context = FenceContext::new(c"kunit", c"exec");
        Ok(FenceAlloc::new(GFP_KERNEL)?.arm(&context))
    }

    fn is_locked(obj: &TestObject) -> bool {
        obj.resv().try_lock().is_none()
    }

    #[test]
    fn nothing() -> Result {
        stack_pin_init!(let exec = Exec::new(Flags::default(), 0));
        let mut locked = exec.lock_all(|_| Ok(()))?;
        assert!(locked.is_empty());
        assert!(locked.get(0).is_none());
        assert_eq!(locked.reserve_fences::<1>()?.slots().count(), 0);
        Ok(())
    }

    #[test]
    fn locks_and_releases() -> Result {
        let (a, b, c) = (
            TestObject::new(None)?,
            TestObject::new(None)?,
            TestObject::new(None)?,
        );
        stack_pin_init!(let exec = Exec::new(Flags::INTERRUPTIBLE, 2));
        let locked = exec.as_mut().lock_all(|pass| {
            pass.lock(&*a)?;
            pass.lock(&*b)?;
            Ok(())
        })?;
        assert_eq!(locked.len(), 2);
        assert!(is_locked(&a));
        assert!(is_locked(&b));
        assert!(!is_locked(&c));

        assert!(locked.get(0).is_some_and(|l| l.covers(a.resv())));
        assert!(locked.get(1).is_some_and(|l| l.covers(b.resv())));
        assert!(locked.get(2).is_none());
        assert!(locked.of(&*a).is_some_and(|l| l.covers(a.resv())));
        assert!(locked.of(&*c).is_none());

        // Locked, but not by this `Exec`.
        let guard = c.resv().try_lock();
        assert!(guard.is_some());
        assert!(locked.of(&*c).is_none());
        drop(guard);

        drop(locked);
        assert!(!is_locked(&a));
        assert!(!is_locked(&b));

        // Once more with the same one.
        let locked = exec.lock_all(|pass| pass.lock(&*c))?;
        assert_eq!(locked.len(), 1);
        assert!(locked.of(&*a).is_none());
        assert!(locked.of(&*c).is_some());
        Ok(())
    }

    #[test]
    fn keeps_objects() -> Result {
        let object = TestObject::new(None)?;
        stack_pin_init!(let exec = Exec::new(Flags::default(), 1));
        let mut object = Some(object);
        let locked = exec.lock_all(|pass| {
            if let Some(object) = object.take() {
                pass.lock(&*object)?;
            }
            Ok(())
        })?;
        assert_eq!(locked.len(), 1);
        assert!(locked.get(0).is_some());
        Ok(())
    }

    #[test]
    fn forgotten() -> Result {
        let object = TestObject::new(None)?;
        {
            stack_pin_init!(let exec = Exec::new(Flags::default(), 1));
            core::mem::forget(exec.as_mut().lock_all(|pass| pass.lock(&*object))?);
            assert!(is_locked(&object));
            // Starts over.
            core::mem::forget(exec.lock_all(|pass| pass.lock(&*object))?);
            assert!(is_locked(&object));
        }
        assert!(!is_locked(&object));
        Ok(())
    }

    #[test]
    fn error_releases() -> Result {
        let object = TestObject::new(None)?;
        stack_pin_init!(let exec = Exec::new(Flags::default(), 1));
        let ret = exec.lock_all(|pass| {
            pass.lock(&*object)?;
            Err(E2BIG)
        });
        assert_eq!(ret.err(), Some(E2BIG));
        assert!(!is_locked(&object));
        Ok(())
    }

    #[test]
    fn duplicates() -> Result {
        let a = TestObject::new(None)?;
        let shared = TestObject::new(Some(&a))?;

        for second in [&a, &shared] {
            stack_pin_init!(let exec = Exec::new(Flags::INTERRUPTIBLE, 2));
            let ret = exec.lock_all(|pass| {
                pass.lock(&*a)?;
                pass.lock(&**second)
            });
            assert_eq!(ret.err(), Some(EALREADY));
            assert!(!is_locked(&a));
        }
        Ok(())
    }

    #[test]
    fn fences() -> Result {
        let (a, b) = (TestObject::new(None)?, TestObject::new(None)?);
        let (first, second) = (arm()?, arm()?);

        for (armed, before) in [(&first, 0), (&second, 1)] {
            stack_pin_init!(let exec = Exec::new(Flags::default(), 2));
            let mut locked = exec.lock_all(|pass| {
                pass.lock(&*a)?;
                pass.lock(&*b)?;
                Ok(())
            })?;

            // The fences of the previous round.
            let mut seen = [0; 2];
            locked.for_each_fence(Usage::Bookkeep, |index, fence| {
                assert_eq!(fence.as_raw(), first.fence().as_raw());
                if let Some(seen) = seen.get_mut(index) {
                    *seen += 1;
                }
                Ok(())
            })?;
            assert_eq!(seen, [before, before]);

            let usage = |index| [Usage::Bookkeep, Usage::Write][index];
            locked
                .reserve_fences::<1>()?
                .add_fence(armed.fence(), usage);
        }

        assert!(a.resv().test_signaled(Usage::Read));
        assert!(!a.resv().test_signaled(Usage::Bookkeep));
        assert!(!b.resv().test_signaled(Usage::Write));
        first.signal(Ok(()));
        assert!(!b.resv().test_signaled(Usage::Write));
        second.signal(Ok(()));
        assert!(a.resv().test_signaled(Usage::Bookkeep));
        assert!(b.resv().test_signaled(Usage::Bookkeep));
        Ok(())
    }

    #[test]
    fn several_fences() -> Result {
        let object = TestObject::new(None)?;
        let armed = [arm()?, arm()?, arm()?, arm()?, arm()?];
        stack_pin_init!(let exec = Exec::new(Flags::default(), 1));
        let mut locked = exec.lock_all(|pass| pass.lock(&*object))?;
        for slots in locked.reserve_fences::<5>()?.slots() {
            for (slot, armed) in slots.into_iter().zip(&armed) {
                slot.add_fence(armed.fence(), Usage::Read);
            }
        }
        let count = locked
            .get(0)
            .ok_or(EINVAL)?
            .fences(Usage::Read, GFP_KERNEL)?
            .len();
        assert_eq!(count, 5);
        Ok(())
    }

    // Two contexts in one task: the older one has the lock, so the younger one has to back off. To
    // let it go on, the older one releases its locks in the meantime. Lockdep would complain about
    // that.
    #[cfg(not(CONFIG_PROVE_LOCKING))]
    #[test]
    fn contention() -> Result {
        let (a, b) = (TestObject::new(None)?, TestObject::new(None)?);
        stack_pin_init!(let older = Exec::new(Flags::default(), 1));
        let mut older = Some(older.lock_all(|pass| pass.lock(&*b))?);

        stack_pin_init!(let exec = Exec::new(Flags::default(), 2));
        let mut passes = 0;
        let locked = exec.lock_all(|pass| {
            passes += 1;
            pass.lock(&*a)?;
            let ret = pass.lock(&*b);
            if passes == 1 {
                assert_eq!(ret, Err(EDEADLK));
                // Further calls fail.
                assert_eq!(pass.lock(&*b), Err(EDEADLK));
                drop(older.take());
                // Not even the error has to be returned.
                return Ok(());
            }
            assert_eq!(ret, Ok(()));
            Ok(())
        })?;
        assert_eq!(passes, 2);
        assert_eq!(locked.len(), 2);
        assert!(locked.get(0).is_some_and(|l| l.covers(a.resv())));
        assert!(locked.get(1).is_some_and(|l| l.covers(b.resv())));
        Ok(())
    }

    /// An older context holds `b`, so the first pass, which locks `a` and `b`, has to back off, and
    /// the older context releases it. `second` is the second pass; `look` inspects the result.
    #[cfg(not(CONFIG_PROVE_LOCKING))]
    fn after_contention(
        [a, b]: [&TestObject; 2],
        second: impl Fn(&mut Pass<'_>) -> Result,
        look: impl FnOnce(Locked<'_>),
    ) -> Result {
        stack_pin_init!(let older = Exec::new(Flags::default(), 1));
        let mut older = Some(older.lock_all(|pass| pass.lock(b))?);

        stack_pin_init!(let exec = Exec::new(Flags::default(), 2));
        let mut passes = 0;
        let locked = exec.lock_all(|pass| {
            passes += 1;
            if passes > 1 {
                return second(pass);
            }
            pass.lock(a)?;
            let ret = pass.lock(b);
            drop(older.take());
            ret
        })?;
        assert_eq!(passes, 2);
        look(locked);
        assert!(!is_locked(a));
        assert!(!is_locked(b));
        Ok(())
    }

    // The second pass locks an object that shares the resv instead.
    #[cfg(not(CONFIG_PROVE_LOCKING))]
    #[test]
    fn contention_then_shared() -> Result {
        let (a, b) = (TestObject::new(None)?, TestObject::new(None)?);
        let shared = TestObject::new(Some(&b))?;
        let second = |pass: &mut Pass<'_>| pass.lock(&*shared);
        after_contention([&a, &b], second, |locked| {
            assert_eq!(locked.len(), 1);
            assert!(locked.of(&*shared).is_some());
            assert!(is_locked(&b));
            assert!(!is_locked(&a));
        })
    }

    // Duplicates are errors, but an object that was locked because of contention is not a
    // duplicate.
    #[cfg(not(CONFIG_PROVE_LOCKING))]
    #[test]
    fn contention_is_no_duplicate() -> Result {
        let (a, b) = (TestObject::new(None)?, TestObject::new(None)?);
        let shared = TestObject::new(Some(&b))?;
        let second = |pass: &mut Pass<'_>| {
            pass.lock(&*a)?;
            pass.lock(&*shared)?;
            assert_eq!(pass.lock(&*shared), Err(EALREADY));
            assert_eq!(pass.lock(&*b), Err(EALREADY));
            Ok(())
        };
        after_contention([&a, &b], second, |locked| {
            assert_eq!(locked.len(), 2);
            assert!(locked.get(1).is_some_and(|l| l.covers(b.resv())));
        })
    }
}
