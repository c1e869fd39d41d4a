// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of the range allocator.

use super::*;

#[macros::kunit_tests(rust_drm_mm)]
mod suite {
    use super::*;
    use crate::sync::Arc;

    fn insert<P: Policy>(mm: &mut Mm<u32, P>, place: &Placement, data: u32) -> Result<u64> {
        mm.insert(NodeAlloc::new(GFP_KERNEL)?, place, |_| data)
            .map(|node| node.start())
            .map_err(|(err, _)| err)
    }

    /// Inserts a node that fills `range`.
    fn insert_at(mm: &mut Mm<u32>, range: Range<u64>, data: u32) -> Result<u64> {
        let place = Placement::new(range.end - range.start).range(range.start, range.end);
        insert(mm, &place, data)
    }

    #[test]
    fn refuses_empty_ranges() {
        assert_eq!(Mm::<()>::new(5..5).err(), Some(EINVAL));
        assert_eq!(
            Mm::<()>::new(Range { start: 6, end: 5 }).err(),
            Some(EINVAL)
        );
    }

    #[test]
    fn insert_find_remove() -> Result {
        let mut mm = Mm::<u32>::new(16..64)?;
        assert!(mm.is_empty());

        let a = insert(&mut mm, &Placement::new(8), 1)?;
        let b = insert(&mut mm, &Placement::new(16).align(32), 2)?;
        let c = insert(&mut mm, &Placement::new(4).range(56, 64), 3)?;
        assert_eq!((a, b, c), (16, 32, 56));

        // Within, at the edges of, and beside nodes, inside and outside of the range.
        assert_eq!(mm.find(15).map(|node| **node), None);
        assert_eq!(mm.find(16).map(|node| **node), Some(1));
        assert_eq!(mm.find(23).map(|node| **node), Some(1));
        assert_eq!(mm.find(24).map(|node| **node), None);
        assert_eq!(mm.find(47).map(|node| node.range()), Some(32..48));
        assert_eq!(mm.find(64).map(|node| **node), None);
        assert_eq!(mm.find(u64::MAX).map(|node| **node), None);

        // Only the start of a node names it.
        assert!(mm.remove(33).is_none());
        assert!(mm.remove(24).is_none());
        assert_eq!(
            mm.remove(32).map(|node| (node.range(), *node)),
            Some((32..48, 2))
        );
        assert!(mm.remove(32).is_none());
        assert!(mm.find(40).is_none());

        // Removed ranges can be allocated again.
        assert_eq!(insert(&mut mm, &Placement::new(32), 4)?, 24);
        assert_eq!(mm.pop_first().map(|node| *node), Some(1));
        assert!(!mm.is_empty());

        Ok(())
    }

    #[test]
    fn find_at_or_below() -> Result {
        let mut mm = Mm::<u32>::new(0x100..0x1000)?;
        assert!(mm.find_at_or_below(u64::MAX).is_none());

        for (id, range) in [0x200..0x300, 0x300..0x301, 0x800..0x1000]
            .into_iter()
            .enumerate()
        {
            insert_at(&mut mm, range, id as u32)?;
        }
        // Fully qualified, as `PinInit` has a method `chain` as well.
        for address in Iterator::chain(0..0x1100, [u64::MAX]) {
            let last = mm.iter().take_while(|node| node.start() <= address).last();

            assert_eq!(
                mm.find_at_or_below(address).map(|node| **node),
                last.map(|node| **node)
            );
        }
        Ok(())
    }

    #[test]
    fn no_space() -> Result {
        let mut mm = Mm::<u32>::new(0..16)?;

        assert_eq!(insert(&mut mm, &Placement::new(17), 0), Err(ENOSPC));
        assert_eq!(insert(&mut mm, &Placement::new(0), 0), Err(ENOSPC));
        assert_eq!(insert(&mut mm, &Placement::new(u64::MAX), 0), Err(ENOSPC));
        let place = Placement::new(1).range(8, 4);
        assert_eq!(insert(&mut mm, &place, 0), Err(ENOSPC));
        let place = Placement::new(1).range(16, 32);
        assert_eq!(insert(&mut mm, &place, 0), Err(ENOSPC));

        // The memory of a node that was refused is good for the next attempt.
        let alloc = NodeAlloc::new(GFP_KERNEL)?;
        let Err((err, alloc)) = mm.insert(alloc, &Placement::new(17), |_| 0) else {
            return Err(EINVAL);
        };
        assert_eq!(err, ENOSPC);
        assert!(mm.insert(alloc, &Placement::new(16), |_| 0).is_ok());
        assert_eq!(insert(&mut mm, &Placement::new(1), 0), Err(ENOSPC));

        Ok(())
    }

    #[test]
    fn fixed_places() -> Result {
        let mut mm = Mm::<u32>::new(0x1000..0x2000)?;

        assert_eq!(insert_at(&mut mm, 0x1100..0x1200, 0), Ok(0x1100));
        assert_eq!(insert_at(&mut mm, 0x1200..0x1201, 0), Ok(0x1200));
        // In use, in part or as a whole, outside of the allocator's range, and empty.
        for range in [
            0x11ff..0x1200,
            0x1100..0x1200,
            0x1000..0x1101,
            0x1000..0x2000,
            0x1f00..0x2001,
            0..0x1001,
            0x1300..0x1300,
        ] {
            assert_eq!(insert_at(&mut mm, range, 0), Err(ENOSPC));
        }
        // Up to either end of the range.
        assert_eq!(insert_at(&mut mm, 0x1f00..0x2000, 0), Ok(0x1f00));
        assert_eq!(insert_at(&mut mm, 0x1000..0x1100, 0), Ok(0x1000));

        Ok(())
    }

    #[test]
    fn alignment() -> Result {
        let mut mm = Mm::<u32>::new(10..100)?;
        let place = Placement::new(4).align(24);

        assert_eq!(insert(&mut mm, &place, 0), Ok(24));
        // The hole below is large enough, but for the alignment.
        assert_eq!(insert(&mut mm, &place, 0), Ok(48));

        let place = Placement::new(4).align(7);
        assert_eq!(insert(&mut mm, &place.clone().range(50, 61), 0), Ok(56));
        assert_eq!(
            insert(&mut mm, &place.clone().range(57, 66), 0),
            Err(ENOSPC)
        );
        assert_eq!(insert(&mut mm, &place.range(57, 67), 0), Ok(63));

        // The only multiple of 64 is in use, and there is none of the others.
        for align in [64, 1 << 63, u64::MAX] {
            let place = Placement::new(1).align(align);
            assert_eq!(insert(&mut mm, &place, 0), Err(ENOSPC));
        }

        Ok(())
    }

    #[test]
    fn holes() -> Result {
        let mut mm = Mm::<u32>::new(0..0x1000)?;
        for _ in 0..16 {
            insert(&mut mm, &Placement::new(0x100), 0)?;
        }
        assert_eq!(insert(&mut mm, &Placement::new(1), 0), Err(ENOSPC));

        for start in [0x200, 0x300, 0x700] {
            assert!(mm.remove(start).is_some());
        }
        // The smaller hole is taken first, although it is not the lowest.
        assert_eq!(insert(&mut mm, &Placement::new(0x80), 0), Ok(0x700));
        assert_eq!(insert(&mut mm, &Placement::new(0x80), 0), Ok(0x780));
        // The two nodes that were neighbours have left one hole.
        assert_eq!(insert(&mut mm, &Placement::new(0x201), 0), Err(ENOSPC));
        assert_eq!(insert(&mut mm, &Placement::new(0x200), 0), Ok(0x200));
        assert_eq!(insert(&mut mm, &Placement::new(1), 0), Err(ENOSPC));

        Ok(())
    }

    #[test]
    fn no_overlap() -> Result {
        let mut mm = Mm::<u32>::new(3..2051)?;
        for i in 0u32..200 {
            let place = Placement::new(u64::from(i % 7) + 1).align(u64::from(i % 5));

            insert(&mut mm, &place, i)?;
            if i % 3 == 0 {
                drop(mm.pop_first());
            }
        }

        let mut end = 3;
        for node in mm.iter() {
            assert!(node.start() >= end);
            end = node.end();
        }
        assert!(end <= 2051);

        Ok(())
    }

    #[test]
    fn largest_range() -> Result {
        let mut mm = Mm::<u32>::new(0..u64::MAX)?;

        assert_eq!(insert_at(&mut mm, 0..1, 0), Ok(0));
        let last = u64::MAX - 1;
        assert_eq!(insert_at(&mut mm, last..u64::MAX, 1), Ok(last));
        assert_eq!(mm.find(last).map(|node| **node), Some(1));
        assert_eq!(mm.find(u64::MAX).map(|node| **node), None);

        assert_eq!(insert(&mut mm, &Placement::new(last - 1), 2), Ok(1));
        assert_eq!(insert(&mut mm, &Placement::new(1), 3), Err(ENOSPC));

        Ok(())
    }

    #[test]
    fn iteration() -> Result {
        let mut mm = Mm::<u32>::new(0..100)?;
        for i in 0u32..10 {
            let start = u64::from(i) * 10;
            insert_at(&mut mm, start..start + 5, i)?;
        }

        assert!(mm.iter().map(|node| **node).eq(0..10));

        Ok(())
    }

    /// Colors are boundaries that a node must not touch, and one makes the policy misbehave.
    struct Boundary;

    impl Policy for Boundary {
        fn adjust(color: usize, hole: Range<u64>) -> Range<u64> {
            match color {
                0 => hole,
                1 => 0..u64::MAX,
                _ => hole.start.next_multiple_of(color as u64)..hole.end,
            }
        }
    }

    #[test]
    fn policy() -> Result {
        let mut mm = Mm::<u32, Boundary>::new(10..50)?;

        assert_eq!(insert(&mut mm, &Placement::new(5).color(16), 0)?, 16);
        assert_eq!(mm.find(18).map(|node| node.color()), Some(16));
        // A policy cannot give away space outside the hole.
        assert_eq!(insert(&mut mm, &Placement::new(6).color(1), 0)?, 10);
        assert_eq!(
            insert(&mut mm, &Placement::new(40).color(1), 0),
            Err(ENOSPC)
        );
        assert_eq!(
            insert(&mut mm, &Placement::new(1).color(64), 0),
            Err(ENOSPC)
        );

        Ok(())
    }

    #[test]
    fn drops_data_once() -> Result {
        let witness = Arc::new((), GFP_KERNEL)?;
        let mut mm = Mm::<Arc<()>>::new(0..16)?;
        for _ in 0..4 {
            let alloc = NodeAlloc::new(GFP_KERNEL)?;
            assert!(mm
                .insert(alloc, &Placement::new(1), |_| witness.clone())
                .is_ok());
        }

        drop(mm.pop_first());
        let removed = mm.pop_first();
        drop(mm);
        drop(removed);

        // All clones are gone, else this would fail.
        assert!(Arc::into_unique_or_drop(witness).is_some());

        Ok(())
    }
}
