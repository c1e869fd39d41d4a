// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU's power domain.
 */

#include <linux/fwnode.h>
#include <linux/pci.h>

#include "board.h"

#ifdef CONFIG_PM_GENERIC_DOMAINS_OF

static int vgpu_power_on(struct generic_pm_domain *genpd)
{
	vgpu_power_update(container_of(genpd, struct vgpu_board, genpd), 0,
			  CTL_POWER_DOMAIN);

	return 0;
}

static int vgpu_power_off(struct generic_pm_domain *genpd)
{
	vgpu_power_update(container_of(genpd, struct vgpu_board, genpd),
			  CTL_POWER_DOMAIN, 0);

	return 0;
}

int vgpu_power_add(struct vgpu_board *board)
{
	struct generic_pm_domain *genpd = &board->genpd;
	int ret;

	snprintf(board->genpd_name, sizeof(board->genpd_name), "vgpu-%s",
		 pci_name(board->pdev));
	genpd->name = board->genpd_name;
	genpd->power_on = vgpu_power_on;
	genpd->power_off = vgpu_power_off;

	ret = pm_genpd_init(genpd, NULL, true);
	if (ret)
		return ret;

	ret = of_genpd_add_provider_simple(board->nodes[VGPU_NODE_POWER],
					   genpd);
	if (ret)
		pm_genpd_remove(genpd);

	return ret;
}

void vgpu_power_remove(struct vgpu_board *board)
{
	of_genpd_del_provider(board->nodes[VGPU_NODE_POWER]);
	pm_genpd_remove(&board->genpd);
}

#else

/*
 * A kernel without power domains: always on. The node is there all the same,
 * and nobody shall wait for its provider.
 */

int vgpu_power_add(struct vgpu_board *board)
{
	fwnode_dev_initialized(of_fwnode_handle(board->nodes[VGPU_NODE_POWER]),
			       true);
	vgpu_power_update(board, 0, CTL_POWER_DOMAIN);

	return 0;
}

void vgpu_power_remove(struct vgpu_board *board)
{
	vgpu_power_update(board, CTL_POWER_DOMAIN, 0);
}

#endif
