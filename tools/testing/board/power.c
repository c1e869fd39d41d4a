// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU's power domains. It has power when all of them are on.
 */

#include <linux/fwnode.h>
#include <linux/pci.h>

#include "board.h"

#ifdef CONFIG_PM_GENERIC_DOMAINS_OF

static int vgpu_power_on(struct generic_pm_domain *genpd)
{
	struct vgpu_domain *domain = container_of(genpd, struct vgpu_domain,
						  genpd);

	vgpu_set_bits(domain->board, VGPU_DOMAINS, 0, BIT(domain->index));

	return 0;
}

static int vgpu_power_off(struct generic_pm_domain *genpd)
{
	struct vgpu_domain *domain = container_of(genpd, struct vgpu_domain,
						  genpd);

	vgpu_set_bits(domain->board, VGPU_DOMAINS, BIT(domain->index), 0);

	return 0;
}

static void vgpu_domains_remove(struct vgpu_board *board, unsigned int num)
{
	while (num)
		pm_genpd_remove(&board->domains[--num].genpd);
}

int vgpu_power_add(struct vgpu_board *board)
{
	unsigned int num = board->product->num_domains;
	unsigned int i;
	int ret;

	for (i = 0; i < num; i++) {
		struct vgpu_domain *domain = &board->domains[i];

		snprintf(domain->name, sizeof(domain->name), "vgpu-%s-%u",
			 pci_name(board->pdev), i);
		domain->board = board;
		domain->index = i;
		domain->genpd.name = domain->name;
		domain->genpd.power_on = vgpu_power_on;
		domain->genpd.power_off = vgpu_power_off;
		board->genpds[i] = &domain->genpd;

		ret = pm_genpd_init(&domain->genpd, NULL, true);
		if (ret)
			goto err_remove;
	}

	board->onecell.domains = board->genpds;
	board->onecell.num_domains = num;
	ret = of_genpd_add_provider_onecell(board->nodes[VGPU_NODE_POWER],
					    &board->onecell);
	if (ret)
		goto err_remove;

	return 0;

err_remove:
	vgpu_domains_remove(board, i);
	return ret;
}

void vgpu_power_remove(struct vgpu_board *board)
{
	of_genpd_del_provider(board->nodes[VGPU_NODE_POWER]);
	vgpu_domains_remove(board, board->product->num_domains);
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
	vgpu_set(board, VGPU_DOMAINS, GENMASK(board->product->num_domains - 1, 0));

	return 0;
}

void vgpu_power_remove(struct vgpu_board *board)
{
	vgpu_set(board, VGPU_DOMAINS, 0);
}

#endif
