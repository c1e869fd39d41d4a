// SPDX-License-Identifier: GPL-2.0

#include <linux/device.h>
#include <linux/dma-map-ops.h>
#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/secretmem.h>
#include <linux/swiotlb.h>
#include <linux/uaccess.h>

#ifdef CONFIG_RUST_HMM_MIRROR
__rust_helper bool
rust_helper_mmu_notifier_range_blockable(const struct mmu_notifier_range *range)
{
	return mmu_notifier_range_blockable(range);
}

__rust_helper void
rust_helper_mmu_interval_set_seq(struct mmu_interval_notifier *interval_sub,
				 unsigned long cur_seq)
{
	mmu_interval_set_seq(interval_sub, cur_seq);
}

__rust_helper bool
rust_helper_mmu_interval_read_retry(struct mmu_interval_notifier *interval_sub,
				    unsigned long seq)
{
	return mmu_interval_read_retry(interval_sub, seq);
}

__rust_helper struct page *rust_helper_hmm_pfn_to_page(unsigned long hmm_pfn)
{
	return hmm_pfn_to_page(hmm_pfn);
}

__rust_helper phys_addr_t rust_helper_hmm_pfn_to_phys(unsigned long hmm_pfn)
{
	return hmm_pfn_to_phys(hmm_pfn);
}

__rust_helper bool rust_helper_dev_is_dma_coherent(struct device *dev)
{
	return dev_is_dma_coherent(dev);
}

__rust_helper void rust_helper_dev_assign_dma_coherent(struct device *dev,
							bool value)
{
	dev_assign_dma_coherent(dev, value);
}

__rust_helper bool rust_helper_is_swiotlb_force_bounce(struct device *dev)
{
	return is_swiotlb_force_bounce(dev);
}

__rust_helper bool rust_helper_page_is_secretmem(struct page *page)
{
	struct address_space *mapping = folio_mapping(page_folio(page));

	return mapping && secretmem_mapping(mapping);
}

__rust_helper unsigned long rust_helper_untagged_addr(unsigned long addr)
{
	return untagged_addr(addr);
}

__rust_helper bool rust_helper_is_pci_p2pdma_page(const struct page *page)
{
	return is_pci_p2pdma_page(page);
}

__rust_helper void rust_helper_get_page(struct page *page)
{
	get_page(page);
}

__rust_helper void rust_helper_put_page(struct page *page)
{
	put_page(page);
}
#endif
