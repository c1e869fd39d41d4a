// SPDX-License-Identifier: GPL-2.0

#include <linux/memcontrol.h>

#ifdef CONFIG_MEMCG
__rust_helper struct obj_cgroup *
rust_helper_get_obj_cgroup_from_current(void)
{
	return get_obj_cgroup_from_current();
}
#endif

__rust_helper bool
rust_helper_obj_cgroup_is_root(const struct obj_cgroup *objcg)
{
	return obj_cgroup_is_root(objcg);
}

/* Returns whether @memcg pays for memory that was charged to @objcg. */
__rust_helper bool
rust_helper_mem_cgroup_pays_for(struct mem_cgroup *memcg,
				struct obj_cgroup *objcg)
{
	bool pays = true;
#ifdef CONFIG_MEMCG
	rcu_read_lock();
	pays = obj_cgroup_memcg(objcg) == memcg;
	rcu_read_unlock();
#endif
	return pays;
}

/* Returns whether the same group pays for what was charged to @a and to @b. */
__rust_helper bool rust_helper_obj_cgroups_are_one(struct obj_cgroup *a,
						   struct obj_cgroup *b)
{
	bool one = true;
#ifdef CONFIG_MEMCG
	rcu_read_lock();
	one = obj_cgroup_memcg(a) == obj_cgroup_memcg(b);
	rcu_read_unlock();
#endif
	return one;
}

/* Returns whether the group of @objcg was removed: its parent pays then. */
__rust_helper bool rust_helper_obj_cgroup_is_removed(struct obj_cgroup *objcg)
{
#ifdef CONFIG_MEMCG
	return percpu_ref_is_dying(&objcg->refcnt);
#else
	return false;
#endif
}

__rust_helper bool rust_helper_memcg_kmem_online(void)
{
	return memcg_kmem_online();
}

__rust_helper bool rust_helper_mem_cgroup_is_root(struct mem_cgroup *memcg)
{
	return mem_cgroup_is_root(memcg);
}

__rust_helper void rust_helper_obj_cgroup_get(struct obj_cgroup *objcg)
{
	obj_cgroup_get(objcg);
}

__rust_helper void rust_helper_obj_cgroup_put(struct obj_cgroup *objcg)
{
	obj_cgroup_put(objcg);
}
