/* SPDX-License-Identifier: MIT */
#ifndef _DRM_GPU_DRM_H_
#define _DRM_GPU_DRM_H_

#include "drm.h"

#if defined(__cplusplus)
extern "C" {
#endif

/*
 * Additions of drm_gpu to the interface of panfrost.
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

/**
 * DRM_GPU_PARAM_METADATA - parameter of DRM_IOCTL_PANFROST_GET_PARAM
 *
 * The value is the largest size of the metadata of a BO in bytes. There are
 * DRM_IOCTL_DRM_GPU_SET_METADATA and DRM_IOCTL_DRM_GPU_GET_METADATA.
 */
#define DRM_GPU_PARAM_METADATA			0x10000001

#define DRM_DRM_GPU_CREATE_USERPTR		0x50
#define DRM_DRM_GPU_SET_METADATA		0x51
#define DRM_DRM_GPU_GET_METADATA		0x52

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

/**
 * struct drm_gpu_bo_metadata - set or get the metadata of a BO
 *
 * The kernel does not interpret metadata. It belongs to the BO: all files that
 * have a handle for the BO, through a dma-buf for example, set and get the same.
 * A dma-buf of another driver is different: each file that imports it has a BO of
 * its own for it, with metadata of its own.
 */
struct drm_gpu_bo_metadata {
	/** @handle: GEM handle. */
	__u32 handle;

	/** @flags: Must be zero. */
	__u32 flags;

	/**
	 * @data: Pointer to the metadata. If it is 0, DRM_IOCTL_DRM_GPU_GET_METADATA
	 * copies nothing and only returns the size.
	 */
	__u64 data;

	/**
	 * @size: Number of bytes at @data. DRM_IOCTL_DRM_GPU_SET_METADATA removes the
	 * metadata if it is 0, and fails with EOVERFLOW if it is larger than the value
	 * of DRM_GPU_PARAM_METADATA. DRM_IOCTL_DRM_GPU_GET_METADATA returns the size of
	 * the metadata here, also when it fails with ENOSPC because there are fewer
	 * bytes at @data.
	 */
	__u32 size;

	/** @pad: Must be zero. */
	__u32 pad;
};

/*
 * These are enumerators instead of macros so that bindgen can evaluate them.
 */
enum {
	DRM_IOCTL_DRM_GPU_CREATE_USERPTR =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_DRM_GPU_CREATE_USERPTR,
			 struct drm_gpu_create_userptr),
	DRM_IOCTL_DRM_GPU_SET_METADATA =
		DRM_IOW(DRM_COMMAND_BASE + DRM_DRM_GPU_SET_METADATA, struct drm_gpu_bo_metadata),
	DRM_IOCTL_DRM_GPU_GET_METADATA =
		DRM_IOWR(DRM_COMMAND_BASE + DRM_DRM_GPU_GET_METADATA, struct drm_gpu_bo_metadata),
};

#if defined(__cplusplus)
}
#endif

#endif /* _DRM_GPU_DRM_H_ */
