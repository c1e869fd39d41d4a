# SPDX-License-Identifier: GPL-2.0
#
# In a kernel tree this directory is drivers/gpu/drm/drm_gpu, and this file
# kbuild's. Anywhere else it has the targets that build and test the driver.

# The release is not known when a tree without configuration is cleaned.
ifneq ($(KERNELRELEASE)$(srctree),)

obj-$(CONFIG_DRM_DRM_GPU) += drm_gpu.o

else

include tools/build/targets.mk

endif
