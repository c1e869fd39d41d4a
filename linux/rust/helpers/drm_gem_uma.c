// SPDX-License-Identifier: GPL-2.0

#include <drm/drm_gem.h>
#include <drm/drm_vma_manager.h>
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/kref.h>
#include <linux/mm.h>
#include <linux/pagemap.h>

#ifdef CONFIG_DRM

__rust_helper void
rust_helper_drm_vma_node_unmap(struct drm_vma_offset_node *node,
			       struct address_space *file_mapping)
{
	drm_vma_node_unmap(node, file_mapping);
}

__rust_helper unsigned long
rust_helper_drm_vma_node_start(const struct drm_vma_offset_node *node)
{
	return drm_vma_node_start(node);
}

__rust_helper struct vfsmount *
rust_helper_drm_gem_get_huge_mnt(struct drm_device *dev)
{
	return drm_gem_get_huge_mnt(dev);
}

#ifndef CONFIG_TRANSPARENT_HUGEPAGE
__rust_helper int
rust_helper_drm_gem_huge_mnt_create(struct drm_device *dev, const char *value)
{
	return drm_gem_huge_mnt_create(dev, value);
}
#endif

#endif /* CONFIG_DRM */

__rust_helper int rust_helper_kref_get_unless_zero(struct kref *kref)
{
	return kref_get_unless_zero(kref);
}

__rust_helper void
rust_helper_mapping_set_gfp_mask(struct address_space *m, gfp_t mask)
{
	mapping_set_gfp_mask(m, mask);
}

__rust_helper unsigned long rust_helper_page_to_pfn(const struct page *page)
{
	return page_to_pfn(page);
}

__rust_helper void rust_helper_memcpy_from_page(char *to, struct page *page,
						size_t offset, size_t len)
{
	memcpy_from_page(to, page, offset, len);
}

__rust_helper struct folio *rust_helper_page_folio(struct page *page)
{
	return page_folio(page);
}

__rust_helper unsigned int rust_helper_folio_order(const struct folio *folio)
{
	return folio_order(folio);
}

__rust_helper int rust_helper_dma_mapping_error(struct device *dev,
						dma_addr_t dma_addr)
{
	return dma_mapping_error(dev, dma_addr);
}

__rust_helper void
rust_helper_dma_sync_single_for_cpu(struct device *dev, dma_addr_t addr,
				    size_t size, enum dma_data_direction dir)
{
	dma_sync_single_for_cpu(dev, addr, size, dir);
}

__rust_helper void
rust_helper_dma_sync_single_for_device(struct device *dev, dma_addr_t addr,
				       size_t size,
				       enum dma_data_direction dir)
{
	dma_sync_single_for_device(dev, addr, size, dir);
}

__rust_helper void
rust_helper_dma_sync_sgtable_for_cpu(struct device *dev, struct sg_table *sgt,
				     enum dma_data_direction dir)
{
	dma_sync_sgtable_for_cpu(dev, sgt, dir);
}

__rust_helper void
rust_helper_dma_sync_sgtable_for_device(struct device *dev,
					struct sg_table *sgt,
					enum dma_data_direction dir)
{
	dma_sync_sgtable_for_device(dev, sgt, dir);
}

#ifdef CONFIG_MMU
__rust_helper unsigned int rust_helper_pmd_order(void)
{
	return PMD_ORDER;
}

__rust_helper void rust_helper_release_fault_lock(struct vm_fault *vmf)
{
	release_fault_lock(vmf);
}

__rust_helper bool
rust_helper_fault_flag_allow_retry_first(enum fault_flag flags)
{
	return fault_flag_allow_retry_first(flags);
}

__rust_helper void rust_helper_vm_flags_set(struct vm_area_struct *vma,
					    vm_flags_t flags)
{
	vm_flags_set(vma, flags);
}

__rust_helper bool
rust_helper_vma_is_cow_mapping(const struct vm_area_struct *vma)
{
	return vma_is_cow_mapping(vma);
}

__rust_helper pgprot_t
rust_helper_vma_get_page_prot(const struct vm_area_struct *vma)
{
	return vma_get_page_prot(vma);
}

__rust_helper unsigned long
rust_helper_vma_pages(const struct vm_area_struct *vma)
{
	return vma_pages(vma);
}

__rust_helper pgprot_t rust_helper_pgprot_writecombine(pgprot_t prot)
{
	return pgprot_writecombine(prot);
}

__rust_helper pgprot_t rust_helper_PAGE_KERNEL(void)
{
	return PAGE_KERNEL;
}
#endif
