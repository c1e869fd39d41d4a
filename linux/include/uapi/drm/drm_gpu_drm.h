/* SPDX-License-Identifier: MIT */
#ifndef _DRM_GPU_DRM_H_
#define _DRM_GPU_DRM_H_

#include "drm.h"

#if defined(__cplusplus)
extern "C" {
#endif

/*
 * What drm_gpu adds to the interface of panfrost.
 *
 * drm_gpu has the driver name and the interface of panfrost, see
 * panfrost_drm.h. Numbers of ioctls and parameters in there belong to that
 * driver, which continues to add to them. Those in here are far above, and the
 * version of the interface says nothing about them: ask for the parameter,
 * which panfrost answers with EINVAL.
 *
 * None of this has a user in Mesa yet, and it must not go upstream before it
 * has one.
 */

/**
 * DRM_GPU_PARAM_USERPTR - parameter of DRM_IOCTL_PANFROST_GET_PARAM
 *
 * The value is the version of the support for user memory. 1: there is
 * DRM_IOCTL_DRM_GPU_CREATE_USERPTR. GPUs that are not coherent with the CPU's
 * caches, or do not reach all memory, have no such support.
 */
#define DRM_GPU_PARAM_USERPTR			0x10000000

#define DRM_DRM_GPU_CREATE_USERPTR		0x50

/** DRM_GPU_USERPTR_READONLY - the GPU may read the memory, but not write it. */
#define DRM_GPU_USERPTR_READONLY		(1 << 0)

/**
 * struct drm_gpu_create_userptr - create a BO over memory of the caller
 *
 * The memory is not pinned. When something about it changes, by munmap(),
 * mremap(), madvise(), fork(), migration, truncation of the file, or the end of
 * the process, the change waits for the jobs of the DRM file and takes the pages
 * from the GPU. The next submission brings back what is at the addresses then,
 * or fails with EFAULT if nothing is.
 */
struct drm_gpu_create_userptr {
	/** @address: First byte of the memory, at the start of a page. */
	__u64 address;

	/** @size: Size in bytes, a multiple of the page size and not 0. */
	__u64 size;

	/** @flags: DRM_GPU_USERPTR_* */
	__u32 flags;

	/** @handle: Returned GEM handle. */
	__u32 handle;

	/** @offset: Returned address in the GPU's address space. */
	__u64 offset;
};

/*
 * These are enumerators instead of macros so that bindgen can evaluate them.
 */
enum {
	DRM_IOCTL_DRM_GPU_CREATE_USERPTR =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_DRM_GPU_CREATE_USERPTR, struct drm_gpu_create_userptr),
};

#if defined(__cplusplus)
}
#endif

#endif /* _DRM_GPU_DRM_H_ */
