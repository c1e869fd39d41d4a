// SPDX-License-Identifier: GPL-2.0

#include <linux/mm.h>
#include <linux/vmstat.h>

__rust_helper struct page *rust_helper_virt_to_page(const void *addr)
{
	return virt_to_page(addr);
}

__rust_helper struct pglist_data *rust_helper_page_pgdat(const struct page *page)
{
	return page_pgdat(page);
}

__rust_helper void rust_helper_mod_lruvec_page_state(struct page *page,
						     enum node_stat_item idx,
						     int val)
{
	mod_lruvec_page_state(page, idx, val);
}

#ifndef CONFIG_SMP
__rust_helper void rust_helper_mod_node_page_state(struct pglist_data *pgdat,
						   enum node_stat_item item,
						   long nr)
{
	mod_node_page_state(pgdat, item, nr);
}
#endif
