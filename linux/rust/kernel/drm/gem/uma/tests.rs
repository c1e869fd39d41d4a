// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Tests of the objects, on a device without hardware.

use super::*;
use crate::{
    device::{
        self,
        Bound, //
    },
    dma::DataDirection,
    drm::{
        gem::BaseObject,
        UnregisteredDevice, //
    },
    faux,
    page::PAGE_SIZE, //
};

#[pin_data]
struct TestData {
    space: DmaSpace,
}
struct TestDriver;
struct TestFile;
#[pin_data]
struct TestObject {
    tag: u32,
}

impl drm::file::DriverFile for TestFile {
    type Driver = TestDriver;

    fn open(_dev: &drm::Device<TestDriver, drm::Ioctl>) -> Result<Pin<KBox<Self>>> {
        Ok(KBox::new(Self, GFP_KERNEL)?.into())
    }
}

impl DriverObject for TestObject {
    type Driver = TestDriver;
    type Args = u32;

    fn new(_dev: &drm::Device<TestDriver>, _size: usize, tag: u32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self { tag })
    }
}

#[vtable]
impl ObjectOps for TestObject {
    fn dma_space(dev: &drm::Device<TestDriver>) -> &DmaSpace {
        &dev.space
    }

    fn import_args(_dev: &drm::Device<TestDriver>, _size: usize) -> Result<u32> {
        Ok(0)
    }
}

#[vtable]
impl drm::Driver for TestDriver {
    type Data = TestData;
    type RegistrationData<'a> = ();
    type File = TestFile;
    type Object = Object<TestObject>;
    type ParentDevice<Ctx: device::DeviceContext> = faux::Device<Ctx>;

    const INFO: drm::DriverInfo = drm::DriverInfo {
        major: 0,
        minor: 0,
        patchlevel: 0,
        name: c"kunit-uma",
        desc: c"KUnit",
    };
    const IOCTLS: &'static [drm::ioctl::DrmIoctlDescriptor] = &[];
}

fn device() -> Result<(faux::Registration, UnregisteredDevice<TestDriver>)> {
    let reg = faux::Registration::new(c"kunit-uma", None)?;
    let parent = reg.as_ref();
    let data = try_pin_init!(TestData {
        space: DmaSpace::new(parent.as_ref())?,
    });
    let drm = UnregisteredDevice::new(parent, data)?;

    Ok((reg, drm))
}

/// Brings in the pages of an object.
fn populate(obj: &Object<TestObject>) -> Result {
    obj.base.get_pages(&mut obj.base.backing.lock())
}

/// Scans a list without a limit, and skips nothing. Returns the pages that were taken.
fn scan(
    drm: &drm::Device<TestDriver>,
    lru: Lru,
    target: usize,
    f: impl FnMut(&Object<TestObject>) -> Option<usize>,
) -> usize {
    let limit = Limit {
        target,
        looks: usize::MAX,
    };

    Object::<TestObject>::scan(drm, None, lru, limit, |_| false, f).taken
}

/// Returns the tags of the objects in a list.
fn tags(drm: &drm::Device<TestDriver>, lru: Lru) -> Result<KVec<u32>> {
    let mut tags = KVec::new();
    let mut ret = Ok(());

    let taken = scan(drm, lru, 1, |obj| {
        ret = ret.and(tags.push(obj.tag, GFP_KERNEL).map_err(Into::into));
        Some(0)
    });
    assert_eq!(taken, 0);
    ret.map(|()| tags)
}

#[kunit_tests(rust_drm_gem_uma)]
mod suite {
    use super::*;

    #[test]
    fn size_is_whole_pages() -> Result {
        let (_reg, drm) = device()?;

        let obj = Object::<TestObject>::new(&drm, 1, Config::default(), 7)?;
        assert_eq!(obj.size(), PAGE_SIZE);
        assert_eq!(obj.tag, 7);
        assert!(!obj.is_imported());

        assert!(Object::<TestObject>::new(&drm, 0, Config::default(), 0).is_err());
        assert!(Object::<TestObject>::new(&drm, usize::MAX, Config::default(), 0).is_err());
        Ok(())
    }

    #[test]
    fn pages_come_and_go() -> Result {
        let (_reg, drm) = device()?;
        let obj = Object::<TestObject>::new(&drm, 5 * PAGE_SIZE, Config::default(), 0)?;

        assert_eq!(obj.state(), PageState::None);
        assert_eq!(obj.evict()?, 0);

        populate(&obj)?;
        assert_eq!(obj.state(), PageState::Resident);
        assert_eq!(obj.evict()?, 5);
        assert_eq!(obj.state(), PageState::Evicted);

        // Held pages stay, be it the device or others that hold them.
        populate(&obj)?;
        assert!(obj.advise(false));
        for counter in [&obj.base.holders.maps, &obj.base.holders.pins] {
            obj.base.update(|_| holders::count(counter, true));
            assert_eq!(obj.purge(), Err(EBUSY));
            assert_eq!(obj.evict(), Err(EBUSY));
            obj.base.update(|_| holders::count(counter, false));
        }

        // Only content that user space gave up is purged.
        assert!(obj.advise(true));
        assert_eq!(obj.purge(), Err(EBUSY));
        assert!(obj.advise(false));
        assert_eq!(obj.purge()?, 5);
        assert_eq!(obj.state(), PageState::Purged);
        assert!(!obj.advise(true));
        assert!(populate(&obj).is_err());
        Ok(())
    }

    #[test]
    fn evicted_content_can_be_given_up() -> Result {
        let (_reg, drm) = device()?;
        let new = || Object::<TestObject>::new(&drm, 5 * PAGE_SIZE, Config::default(), 0);
        let (obj, busy) = (new()?, new()?);

        populate(&obj)?;
        assert_eq!(obj.evict()?, 5);
        assert!(obj.advise(true));
        assert_eq!(obj.purge(), Err(EBUSY));
        // At once and permanently.
        assert!(!obj.advise(false));
        assert_eq!(obj.state(), PageState::Purged);
        assert!(!obj.advise(true));
        assert!(populate(&obj).is_err());

        // The lock of the pages is not waited for: the content is dropped later, when it has no
        // pages.
        populate(&busy)?;
        assert_eq!(busy.evict()?, 5);
        let backing = busy.base.backing.lock();
        assert!(busy.advise(false));
        drop(backing);
        assert_eq!(busy.state(), PageState::Evicted);
        assert_eq!(busy.purge()?, 0);
        assert_eq!(busy.state(), PageState::Purged);
        Ok(())
    }

    #[test]
    fn dma_buf_of_an_object() -> Result {
        let (_reg, drm) = device()?;
        let config = Config {
            caching: Caching::Cached,
            ..Config::default()
        };
        let obj = Object::<TestObject>::new(&drm, PAGE_SIZE, config, 0)?;
        let export = Object::<TestObject>::FUNCS.export.ok_or(EINVAL)?;

        populate(&obj)?;
        // SAFETY: The object is valid. The dma-buf is ours.
        let dma_buf = crate::error::from_err_ptr(unsafe { export(obj.as_raw(), 0) })?;
        let to_device = DataDirection::ToDevice.into();

        // SAFETY: The dma-buf is valid until it is put.
        let (here, there, begin, end, hooks) = unsafe {
            let ops = (*dma_buf).ops;

            (
                export::exported_by(drm.as_raw(), dma_buf),
                export::exported_by(ptr::null_mut(), dma_buf),
                bindings::dma_buf_begin_cpu_access(dma_buf, to_device),
                bindings::dma_buf_end_cpu_access(dma_buf, to_device),
                ((*ops).begin_cpu_access, (*ops).end_cpu_access),
            )
        };
        // SAFETY: As above.
        unsafe { bindings::dma_buf_put(dma_buf) };

        // The object is found for its own device only.
        assert!(here == Some(obj.as_raw()) && there.is_none());
        assert_eq!((begin, end), (0, 0));
        // The dma-buf has operations to bracket CPU accesses.
        assert!(hooks.0.is_some() && hooks.1.is_some());
        assert_eq!(obj.evict()?, 1);
        Ok(())
    }

    #[test]
    fn exported_content_stays() -> Result {
        let (_reg, drm) = device()?;
        let obj = Object::<TestObject>::new(&drm, 5 * PAGE_SIZE, Config::default(), 0)?;

        populate(&obj)?;
        assert!(obj.advise(false));
        obj.base.set_exported();
        assert!(!obj.is_given_up());
        assert!(obj.advise(false));
        assert!(!obj.is_given_up());
        assert_eq!(obj.purge(), Err(EBUSY));

        // It need not stay in memory.
        assert_eq!(obj.evict()?, 5);
        assert_eq!(obj.state(), PageState::Evicted);
        Ok(())
    }

    #[test]
    fn nobody_waits_for_the_lock_of_pages() -> Result {
        let (_reg, drm) = device()?;
        let obj = Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?;

        populate(&obj)?;
        let backing = obj.base.backing.lock();
        assert!(obj.advise(false));
        assert_eq!(obj.purge(), Err(EBUSY));
        assert_eq!(obj.evict(), Err(EBUSY));
        drop(backing);
        assert_eq!(obj.purge()?, 1);
        Ok(())
    }

    #[test]
    fn lists() -> Result {
        let (_reg, drm) = device()?;
        let new = |tag| {
            // Mapped by the CPU without the device.
            let config = Config {
                caching: Caching::Cached,
                ..Config::default()
            };
            Object::<TestObject>::new(&drm, 3 * PAGE_SIZE, config, tag)
        };
        let pages = |lru| Object::<TestObject>::reclaimable(&drm, None, lru);
        let (a, b) = (new(1)?, new(2)?);

        assert_eq!(tags(&drm, Lru::Unbacked)?.as_slice(), &[1, 2]);
        populate(&b)?;
        populate(&a)?;
        assert_eq!(tags(&drm, Lru::WillNeed)?.as_slice(), &[2, 1]);
        assert_eq!(pages(Lru::WillNeed), 6);
        assert_eq!(pages(Lru::DontNeed), 0);

        // The most recently used object comes last.
        Object::<TestObject>::touch(&drm, [&*b].into_iter());
        assert_eq!(tags(&drm, Lru::WillNeed)?.as_slice(), &[1, 2]);

        a.advise(false);
        assert_eq!(tags(&drm, Lru::DontNeed)?.as_slice(), &[1]);
        assert_eq!(pages(Lru::DontNeed), 3);
        a.base.vmap()?;
        assert_eq!(tags(&drm, Lru::Pinned)?.as_slice(), &[1]);
        a.base.vunmap();
        assert_eq!(tags(&drm, Lru::DontNeed)?.as_slice(), &[1]);
        a.purge()?;
        assert_eq!(tags(&drm, Lru::Unbacked)?.as_slice(), &[1]);

        drop(b);
        assert_eq!(pages(Lru::WillNeed), 0);
        assert!(tags(&drm, Lru::WillNeed)?.is_empty());
        Ok(())
    }

    #[test]
    fn scan_stops_when_it_has_enough() -> Result {
        let (_reg, drm) = device()?;
        let mut objects = KVec::new();

        for tag in 0..4 {
            let obj = Object::<TestObject>::new(&drm, 2 * PAGE_SIZE, Config::default(), tag)?;
            populate(&obj)?;
            objects.push(obj, GFP_KERNEL)?;
        }
        // An object that cannot be released does not block the others.
        objects[0]
            .base
            .update(|holders| holders::count(&holders.maps, true));
        let evict = |obj: &Object<TestObject>| Some(obj.evict().unwrap_or(0));
        assert_eq!(scan(&drm, Lru::WillNeed, 3, evict), 4);
        assert_eq!(tags(&drm, Lru::Unbacked)?.as_slice(), &[1, 2]);
        assert_eq!(
            Object::<TestObject>::reclaimable(&drm, None, Lru::WillNeed),
            4
        );

        // Each object is visited once, however few pages are released.
        let mut asked = 0;
        assert_eq!(
            scan(&drm, Lru::WillNeed, 3, |obj| {
                asked += 1;
                (asked <= 2).then(|| match obj.tag {
                    0 => obj.evict().unwrap_or(0),
                    _ => 0,
                })
            }),
            0
        );
        assert_eq!(asked, 2);

        // Nor is another object visited after `f` has returned `None`.
        assert_eq!(scan(&drm, Lru::WillNeed, 3, |_| None), 0);

        // The last reference is dropped while the object is visited.
        let mut last = objects.pop();
        objects[0]
            .base
            .update(|holders| holders::count(&holders.maps, false));
        assert_eq!(
            scan(&drm, Lru::WillNeed, 100, |obj| {
                if obj.tag == 3 {
                    last.take();
                }
                evict(obj)
            }),
            4
        );
        assert!(last.is_none());
        assert_eq!(tags(&drm, Lru::Unbacked)?.len(), 3);
        Ok(())
    }

    #[test]
    fn scans_go_on_where_the_last_one_ended() -> Result {
        let (_reg, drm) = device()?;
        let mut objects = KVec::new();

        for tag in 0..5 {
            let obj = Object::<TestObject>::new(&drm, 2 * PAGE_SIZE, Config::default(), tag)?;
            populate(&obj)?;
            objects.push(obj, GFP_KERNEL)?;
        }
        let mut asked = KVec::new();
        for expected in [(6, 2), (6, 0), (6, 0), (6, 0)] {
            let scanned = Object::<TestObject>::scan(
                &drm,
                None,
                Lru::WillNeed,
                Limit {
                    target: 100,
                    looks: 3,
                },
                |data| matches!(data.tag, 0 | 1 | 3),
                |obj| {
                    // Should there be no memory, the comparison below fails.
                    let _ = asked.push(obj.tag, GFP_KERNEL);
                    match obj.tag {
                        2 => obj.evict().ok(),
                        _ => Some(0),
                    }
                },
            );
            assert_eq!((scanned.seen, scanned.taken), expected);
        }
        assert_eq!(asked.as_slice(), &[2, 4, 4]);
        assert_eq!(tags(&drm, Lru::WillNeed)?.as_slice(), &[4, 0, 1, 3]);
        Ok(())
    }

    #[test]
    fn all_objects_are_listed() -> Result {
        let (_reg, drm) = device()?;
        let a = Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 1)?;
        let config = Config {
            backed: false,
            ..Config::default()
        };
        let _b = Object::<TestObject>::new(&drm, 2 * PAGE_SIZE, config, 2)?;
        let list = || -> Result<(u32, usize)> {
            let (mut tags, mut resident) = (0, 0);

            Object::<TestObject>::for_each(&drm, |info| {
                tags += info.data.tag;
                resident += match info.state {
                    PageState::Resident => info.size,
                    _ => 0,
                };
            })?;
            Ok((tags, resident))
        };

        assert_eq!(list()?, (3, 0));
        populate(&a)?;
        assert_eq!(list()?, (3, PAGE_SIZE));
        drop(a);
        assert_eq!(list()?, (2, 0));

        // A lock that is held is not waited for.
        let ret = Object::<TestObject>::for_each(&drm, |_| {
            assert_eq!(list(), Err(EBUSY));
        });
        assert!(ret.is_ok());
        Ok(())
    }

    #[test]
    fn content_survives_eviction_only() -> Result {
        let (_reg, drm) = device()?;
        let config = Config {
            caching: Caching::Cached,
            ..Config::default()
        };
        let obj = Object::<TestObject>::new(&drm, PAGE_SIZE, config, 0)?;

        let read = || -> Result<u8> {
            let vaddr = obj.base.vmap()?;
            // SAFETY: The mapping has a page, and nobody else uses it.
            let byte = unsafe { vaddr.cast::<u8>().read_volatile() };
            obj.base.vunmap();
            Ok(byte)
        };

        let vaddr = obj.base.vmap()?;
        // SAFETY: The mapping has a page, and nobody else uses it.
        unsafe { vaddr.cast::<u8>().write_volatile(0xa5) };
        assert_eq!(obj.evict(), Err(EBUSY));
        obj.base.vunmap();

        assert_eq!(obj.evict()?, 1);
        assert_eq!(read()?, 0xa5);
        assert!(obj.advise(false));
        assert_eq!(obj.purge()?, 1);
        // Lost content is never replaced by other content.
        assert!(read().is_err());
        Ok(())
    }

    #[test]
    fn unbacked_has_no_pages() -> Result {
        let (_reg, drm) = device()?;
        let config = Config {
            backed: false,
            ..Config::default()
        };
        let obj = Object::<TestObject>::new(&drm, PAGE_SIZE, config, 0)?;

        assert!(obj.base.vmap().is_err());
        assert!(!obj.is_resident());
        assert_eq!(obj.purge()?, 0);
        assert_eq!(tags(&drm, Lru::Foreign)?.len(), 1);
        Ok(())
    }

    #[test]
    fn content_can_be_read_while_present() -> Result {
        let (reg, drm) = device()?;
        let dev: &device::Device<Bound> = reg.as_ref().as_ref();
        let config = Config {
            caching: Caching::Cached,
            ..Config::default()
        };
        let obj = Object::<TestObject>::new(&drm, 2 * PAGE_SIZE, config, 0)?;
        let mut copy = KVVec::from_elem(0u8, 2 * PAGE_SIZE, GFP_KERNEL)?;
        let mut pages = 0;

        assert_eq!(obj.read(dev, 0, &mut copy, |_, _| ()), Ok(false));
        assert!(!obj.is_resident());

        let vaddr = obj.base.vmap()?;
        for offset in [0, 2 * PAGE_SIZE - 1] {
            // SAFETY: The mapping has two pages, and nobody else uses it.
            unsafe { vaddr.cast::<u8>().add(offset).write_volatile(0xa5) };
        }
        obj.base.vunmap();

        let read = obj.read(dev, 0, &mut copy, |number, _| {
            assert_eq!(number, pages);
            pages += 1;
        });
        assert_eq!(read, Ok(true));
        assert_eq!(pages, 2);
        for (offset, &byte) in copy.iter().enumerate() {
            let written = offset == 0 || offset == 2 * PAGE_SIZE - 1;

            assert_eq!(byte, if written { 0xa5 } else { 0 });
        }

        let (page, _) = copy.split_at_mut(PAGE_SIZE);
        assert_eq!(obj.read(dev, 1, page, |_, _| ()), Ok(true));
        assert_eq!((page[0], page[PAGE_SIZE - 1]), (0, 0xa5));
        assert_eq!(obj.read(dev, 2, page, |_, _| ()), Err(EINVAL));
        copy.push(0, GFP_KERNEL)?;
        assert_eq!(obj.read(dev, 0, &mut copy, |_, _| ()), Err(EINVAL));
        obj.evict()?;
        copy.truncate(1);
        assert_eq!(obj.read(dev, 0, &mut copy, |_, _| ()), Ok(false));
        Ok(())
    }

    #[test]
    fn other_device_is_refused() -> Result {
        let (_reg, drm) = device()?;
        let other = faux::Registration::new(c"kunit-uma-other", None)?;
        let obj = Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?;

        assert!(obj.pin(other.as_ref().as_ref()).is_err());
        assert!(!obj.is_resident());
        Ok(())
    }

    #[test]
    fn unbind_ends_mappings() -> Result {
        let (reg, drm) = device()?;
        let dev: &device::Device<Bound> = reg.as_ref().as_ref();
        // SAFETY: Nobody else uses the device, and it lives longer than the pointer to its field.
        unsafe {
            let dev = dev.as_raw();
            (*dev).dma_mask = &raw mut (*dev).coherent_dma_mask;
            to_result(bindings::dma_set_mask_and_coherent(dev, u64::MAX))?;
        }

        let (mapped, unmapped) = (
            Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?,
            Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?,
        );
        assert!(mapped.pin(dev)?.sg_table(dev).is_ok());
        let pinned = mapped.pin(dev)?;

        // Undo the mappings as unbind does, after which the device could be bound again.
        drm.space.undo_all();
        assert_eq!(pinned.sg_table(dev).err(), Some(ENODEV));
        assert_eq!(mapped.pin(dev).err(), Some(ENODEV));
        assert_eq!(unmapped.pin(dev).err(), Some(ENODEV));

        drop(pinned);
        assert_eq!(mapped.maps(), 0);
        Ok(())
    }

    #[test]
    fn parent_outlives_child() -> Result {
        let (_reg, drm) = device()?;
        let parent = Object::<TestObject>::new(&drm, PAGE_SIZE, Config::default(), 0)?;
        let config = Config {
            parent_resv: Some(&*parent),
            ..Config::default()
        };
        let child = Object::<TestObject>::new(&drm, PAGE_SIZE, config, 0)?;

        assert!(ptr::eq(parent.raw_dma_resv(), child.raw_dma_resv()));
        drop(parent);
        assert!(!child.raw_dma_resv().is_null());
        Ok(())
    }
}
