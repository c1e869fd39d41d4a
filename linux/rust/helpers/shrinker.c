// SPDX-License-Identifier: GPL-2.0

#include <linux/gfp.h>
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>
#include <linux/swap.h>

__rust_helper bool rust_helper_gfpflags_allow_blocking(const gfp_t gfp_flags)
{
	return gfpflags_allow_blocking(gfp_flags);
}

__rust_helper bool rust_helper_gfp_has_io_fs(gfp_t gfp)
{
	return gfp_has_io_fs(gfp);
}

__rust_helper bool rust_helper_current_is_kswapd(void)
{
	return current_is_kswapd();
}

/*
 * Returns whether the memory control group of the current task, or one of its
 * ancestors, has room for fewer than @pages more pages. If @of is not NULL,
 * only groups that @of is in as well are looked at.
 *
 * Page cache does not count: it makes room when that is needed. Its size may be
 * some seconds old.
 */
__rust_helper bool
rust_helper_memcg_of_current_is_full(struct mem_cgroup *of, unsigned long pages)
{
	bool full = false;
#ifdef CONFIG_MEMCG
	struct mem_cgroup *memcg;

	if (mem_cgroup_disabled())
		return false;

	rcu_read_lock();
	for (memcg = mem_cgroup_from_task(current); memcg && !full;
	     memcg = parent_mem_cgroup(memcg)) {
		unsigned long max = READ_ONCE(memcg->memory.max);
		unsigned long used = page_counter_read(&memcg->memory);
		unsigned long cache = memcg_page_state(memcg, NR_ACTIVE_FILE) +
				      memcg_page_state(memcg, NR_INACTIVE_FILE);

		if (of && !mem_cgroup_is_descendant(of, memcg))
			continue;
		used -= min(used, cache);
		full = used >= max || max - used < pages;
	}
	rcu_read_unlock();
#endif
	return full;
}

__rust_helper int rust_helper_shrinker_id(struct shrinker *shrinker)
{
	return shrinker_id(shrinker);
}

/*
 * Makes reclaim call the shrinker @id when memory is short in the group of
 * @objcg, or in one of its ancestors.
 */
__rust_helper void rust_helper_announce_to_shrinker(struct obj_cgroup *objcg,
						    int id)
{
#ifdef CONFIG_MEMCG
	struct mem_cgroup *memcg = get_mem_cgroup_from_objcg(objcg);
	struct mem_cgroup *pos;
	int nid;

	for (pos = memcg; pos; pos = parent_mem_cgroup(pos))
		for_each_node_state(nid, N_MEMORY)
			set_shrinker_bit(pos, nid, id);
	mem_cgroup_put(memcg);
#endif
}

__rust_helper long rust_helper_get_nr_swap_pages(void)
{
	return get_nr_swap_pages();
}

__rust_helper long
rust_helper_free_swap_pages_of(struct mem_cgroup *memcg)
{
	return mem_cgroup_get_nr_swap_pages(memcg);
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
