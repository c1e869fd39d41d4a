// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The callbacks of DRM and PRIME for objects of this class.
//!
//! Owns nothing: the callbacks find the object for a pointer of the C side and call the code that
//! does the work. Context: process context. DRM calls `status` and `rss` with the file's table of
//! handles locked, which is a spinlock, so these must not sleep.

use super::{
    base::Base,
    dma,
    export,
    mmap,
    Caching,
    Config,
    Event,
    Object,
    ObjectOps, //
};
use crate::{
    bindings,
    drm::{
        self,
        driver::{
            AllocImpl,
            AllocOps, //
        },
        gem::{
            close_callback,
            open_callback,
            BaseObject,
            IntoGEMObject, //
        }, //
    },
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    sync::aref::ARef, //
};
use core::ptr::NonNull;

impl<T: ObjectOps> Object<T> {
    pub(super) const FUNCS: bindings::drm_gem_object_funcs = bindings::drm_gem_object_funcs {
        free: Some(Self::free_callback),
        open: Some(open_callback::<T>),
        close: Some(close_callback::<T>),
        print_info: None,
        export: Some(Self::export_callback),
        pin: Some(Self::pin_callback),
        unpin: Some(unpin_callback),
        get_sg_table: Some(get_sg_table_callback),
        vmap: Some(vmap_callback),
        vunmap: Some(vunmap_callback),
        mmap: Some(Self::mmap_callback),
        status: Some(Self::status_callback),
        rss: Some(Self::rss_callback),
        vm_ops: mmap::VM_OPS,
        evict: None,
    };

    extern "C" fn free_callback(obj: *mut bindings::drm_gem_object) {
        // SAFETY: The callback is set for objects of this type only.
        let this: *const Self = unsafe { Self::from_raw(obj) };

        // SAFETY: DRM calls this with no reference left.
        unsafe { (*this).base.release() };

        // SAFETY: Objects come from `KBox::into_raw()` in `new()`. The GEM object was released;
        // `parent` and `dev`, which that needed, are only dropped here.
        drop(unsafe { KBox::from_raw(this.cast_mut()) });
    }

    extern "C" fn export_callback(
        obj: *mut bindings::drm_gem_object,
        flags: c_int,
    ) -> *mut bindings::dma_buf {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        let ret: Result = (|| {
            // SAFETY: The object is valid.
            if this.parent.is_some() || unsafe { (*obj).filp }.is_null() {
                return Err(EINVAL);
            }
            T::export(this)?;

            // Mappings through the dma-buf use the same offsets.
            //
            // SAFETY: The object is valid.
            to_result(unsafe { bindings::drm_gem_create_mmap_offset(obj) })?;
            this.base.set_exported();
            Ok(())
        })();

        match ret {
            Ok(()) => this.base.export(flags),
            Err(err) => err.to_ptr(),
        }
    }

    extern "C" fn pin_callback(obj: *mut bindings::drm_gem_object) -> c_int {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        from_result(|| {
            T::attach(this)?;

            let mut backing = this.base.backing.lock();
            this.base.get_pages(&mut backing)?;
            this.base.hold_pin(&backing);
            Ok(0)
        })
    }

    extern "C" fn mmap_callback(
        obj: *mut bindings::drm_gem_object,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        if let Err(err) = T::mmap(this) {
            return err.to_errno();
        }

        if this.is_imported() {
            // SAFETY: `vma` is being set up for this object, which is imported.
            return unsafe { this.base.mmap_imported(vma) };
        }

        // SAFETY: `vma` is being set up for this object.
        match unsafe { this.base.mmap(vma) } {
            Ok(()) => 0,
            Err(err) => err.to_errno(),
        }
    }

    extern "C" fn status_callback(
        obj: *mut bindings::drm_gem_object,
    ) -> bindings::drm_gem_object_status {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        let mut status = 0;
        if this.is_imported() || this.occupied() != 0 {
            status |= bindings::drm_gem_object_status_DRM_GEM_OBJECT_RESIDENT;
        }
        if this.is_given_up() {
            status |= bindings::drm_gem_object_status_DRM_GEM_OBJECT_PURGEABLE;
        }
        // DRM looks at the reservation itself.
        if T::is_active(this) {
            status |= bindings::drm_gem_object_status_DRM_GEM_OBJECT_ACTIVE;
        }
        status
    }

    extern "C" fn rss_callback(obj: *mut bindings::drm_gem_object) -> usize {
        // SAFETY: The callback is set for objects of this type only.
        let this = unsafe { Self::from_raw(obj) };

        this.occupied()
    }

    /// Returns the bytes of memory that the object occupies.
    fn occupied(&self) -> usize {
        if T::HAS_RESIDENT_SIZE {
            T::resident_size(self)
        } else if self.is_resident() {
            BaseObject::size(self)
        } else {
            0
        }
    }
}

impl<T: ObjectOps> Object<T>
where
    T::Driver: drm::Driver<Object = Self>,
{
    extern "C" fn handle_to_fd_callback(
        dev: *mut bindings::drm_device,
        file: *mut bindings::drm_file,
        handle: u32,
        flags: u32,
        fd: *mut c_int,
    ) -> c_int {
        // SAFETY: DRM calls this with a valid file.
        let obj = unsafe { bindings::drm_gem_object_lookup(file, handle) };

        if let Some(obj) = NonNull::new(obj) {
            // SAFETY: The callback is set in drivers whose objects are of this type only, hence
            // those of the file are. The reference is ours.
            let obj = unsafe { ARef::<Self>::from_raw(Self::from_raw(obj.as_ptr()).into()) };

            if let Err(err) = T::before_export(&obj) {
                return err.to_errno();
            }
        }

        // SAFETY: These are the arguments from DRM.
        unsafe { bindings::drm_gem_prime_handle_to_fd(dev, file, handle, flags, fd) }
    }

    extern "C" fn import_callback(
        dev: *mut bindings::drm_device,
        dma_buf: *mut bindings::dma_buf,
    ) -> *mut bindings::drm_gem_object {
        let mut idx = 0;

        // SAFETY: DRM calls this with a valid dma-buf.
        if let Some(obj) = unsafe { export::exported_by(dev, dma_buf) } {
            // SAFETY: The dma-buf has a reference to the object, so its count is not zero.
            unsafe { bindings::drm_gem_object_get(obj) };
            return obj;
        }

        // The buffer is mapped for the parent device, which hence must be bound.
        //
        // SAFETY: DRM calls this with a valid device.
        if !unsafe { bindings::drm_dev_enter(dev, &mut idx) } {
            return ENODEV.to_ptr();
        }

        // SAFETY: DRM calls this with a valid device and a valid dma-buf.
        let obj = unsafe { bindings::drm_gem_prime_import(dev, dma_buf) };

        // SAFETY: `idx` is what `drm_dev_enter()` returned.
        unsafe { bindings::drm_dev_exit(idx) };
        obj
    }

    extern "C" fn import_sg_table_callback(
        dev: *mut bindings::drm_device,
        attach: *mut bindings::dma_buf_attachment,
        sgt: *mut bindings::sg_table,
    ) -> *mut bindings::drm_gem_object {
        // SAFETY: The callback is set in drivers whose objects are of this type only, hence the
        // device is one of that driver.
        let dev = unsafe { drm::Device::<T::Driver>::from_raw(dev) };

        // SAFETY: DRM calls this with a valid attachment.
        let size = unsafe { (*(*attach).dmabuf).size };

        let ret: Result<ARef<Self>> = (|| {
            let args = T::import_args(dev, size)?;
            let config = Config {
                caching: Caching::WriteCombined,
                backed: false,
                parent_resv: None,
            };
            let obj = Self::new(dev, size, config, args)?;
            let dma = dma::DmaMapping::prepare_import(&obj.base.space, attach, sgt)?;

            // SAFETY: The attachment is mapped with this table. On success, the caller transfers
            // the mapping to us and the attachment to the object, which drops the mapping first.
            obj.base.backing.lock().dma = Some(unsafe { dma.link() }?);
            obj.base.update(|holders| holders.apply(Event::Import))?;

            Ok(obj)
        })();

        match ret {
            Ok(obj) => {
                let obj = ARef::into_raw(obj);

                // SAFETY: We own a reference to the object, which is transferred to the caller.
                unsafe { obj.as_ref() }.as_raw()
            }
            Err(err) => err.to_ptr(),
        }
    }
}

impl<T: ObjectOps> AllocImpl for Object<T>
where
    T::Driver: drm::Driver<Object = Self>,
{
    type Driver = T::Driver;

    const ALLOC_OPS: AllocOps = AllocOps {
        gem_create_object: None,
        prime_handle_to_fd: Some(Self::handle_to_fd_callback),
        prime_fd_to_handle: None,
        gem_prime_import: Some(Self::import_callback),
        gem_prime_import_sg_table: Some(Self::import_sg_table_callback),
        dumb_create: None,
        dumb_map_offset: None,
    };
}

extern "C" fn unpin_callback(obj: *mut bindings::drm_gem_object) {
    // SAFETY: The callback is set for objects of this class only.
    let base = unsafe { Base::from_raw(obj) };

    base.release_pin();
}

extern "C" fn get_sg_table_callback(obj: *mut bindings::drm_gem_object) -> *mut bindings::sg_table {
    // SAFETY: The callback is set for objects of this class only.
    let base = unsafe { Base::from_raw(obj) };

    base.pages_to_sg()
}

extern "C" fn vmap_callback(
    obj: *mut bindings::drm_gem_object,
    map: *mut bindings::iosys_map,
) -> c_int {
    // SAFETY: The callback is set for objects of this class only.
    let base = unsafe { Base::from_raw(obj) };

    if base.is_imported() {
        // SAFETY: The attachment of an imported object lives as long as the object, and the
        // reservation, which is the dma-buf's, is locked.
        return unsafe { bindings::dma_buf_vmap((*(*obj).import_attach).dmabuf, map) };
    }

    from_result(|| {
        let vaddr = base.vmap()?;

        // SAFETY: `map` is valid for writing.
        unsafe {
            *map = bindings::iosys_map {
                is_iomem: false,
                __bindgen_anon_1: bindings::iosys_map__bindgen_ty_1 {
                    vaddr: vaddr.as_ptr(),
                },
            }
        };
        Ok(0)
    })
}

extern "C" fn vunmap_callback(obj: *mut bindings::drm_gem_object, map: *mut bindings::iosys_map) {
    // SAFETY: The callback is set for objects of this class only.
    let base = unsafe { Base::from_raw(obj) };

    if base.is_imported() {
        // SAFETY: As in `vmap_callback()`.
        unsafe { bindings::dma_buf_vunmap((*(*obj).import_attach).dmabuf, map) };
    } else {
        base.vunmap();
    }
}
