// SPDX-License-Identifier: GPL-2.0

#include <linux/gfp.h>
#include <linux/sched/mm.h>
#include <linux/swap.h>

__rust_helper bool rust_helper_gfpflags_allow_blocking(const gfp_t gfp_flags)
{
	return gfpflags_allow_blocking(gfp_flags);
}

__rust_helper long rust_helper_get_nr_swap_pages(void)
{
	return get_nr_swap_pages();
}

#ifndef CONFIG_LOCKDEP
__rust_helper void rust_helper_fs_reclaim_acquire(gfp_t gfp_mask)
{
	fs_reclaim_acquire(gfp_mask);
}

__rust_helper void rust_helper_fs_reclaim_release(gfp_t gfp_mask)
{
	fs_reclaim_release(gfp_mask);
}
#endif
