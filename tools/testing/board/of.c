// SPDX-License-Identifier: GPL-2.0
/*
 * The board's part of the device tree:
 *
 *	vgpu-<PCI name> {
 *		clock { }; regulator { }; reset { }; power { };
 *		opp-table { opp-<Hz> { }; ... };
 *		efuse { speed-bin@0 { }; };
 *		gpu@<BAR 0> { };
 *	};
 *
 * All of it lies in a node of its own. Devices are not made for the children of
 * a node that is not marked as a bus, so the platform device can be added by
 * hand, with interrupts that no node describes.
 */

#include <linux/cleanup.h>
#include <linux/fwnode.h>
#include <linux/mutex.h>
#include <linux/pci.h>

#include "board.h"

/* Held from choosing free phandles to their being in the tree. */
static DEFINE_MUTEX(vgpu_of_lock);

/* Makes a node; the references are dropped by vgpu_of_remove(). */
static struct device_node *vgpu_node_add(struct vgpu_board *board,
					 struct device_node *parent,
					 const char *name)
{
	struct device_node *np;

	np = of_changeset_create_node(&board->ocs, parent, name);
	if (np)
		board->nodes[board->num_nodes++] = np;

	return np;
}

/*
 * A phandle that nothing in the tree has. The nodes made here get theirs last
 * of all, so @taken says how many are promised already.
 */
static u32 vgpu_free_phandle(unsigned int taken)
{
	struct device_node *np;
	u32 phandle = 1;

	for (;;) {
		np = of_find_node_by_phandle(phandle);
		if (!np && !taken--)
			return phandle;
		of_node_put(np);
		phandle++;
	}
}

/* A node that others point to. */
static int vgpu_target_add(struct vgpu_board *board, enum vgpu_node parent,
			   const char *name, const char *compatible,
			   u32 *phandle)
{
	static const char * const cells[VGPU_NUM_FIXED_NODES] = {
		[VGPU_NODE_CLOCK] = "#clock-cells",
		[VGPU_NODE_RESET] = "#reset-cells",
		[VGPU_NODE_POWER] = "#power-domain-cells",
	};
	unsigned int index = board->num_nodes;
	struct device_node *np;
	int ret;

	np = vgpu_node_add(board, board->nodes[parent], name);
	if (!np)
		return -ENOMEM;

	*phandle = vgpu_free_phandle(index - VGPU_NODE_CLOCK);
	ret = of_changeset_add_prop_u32(&board->ocs, np, "phandle", *phandle);
	if (!ret && compatible)
		ret = of_changeset_add_prop_string(&board->ocs, np,
						   "compatible", compatible);
	if (!ret && cells[index])
		ret = of_changeset_add_prop_u32(&board->ocs, np, cells[index],
						index != VGPU_NODE_CLOCK);

	return ret;
}

/* An operating point for the speed bins in @bins, for all GPUs if there are none. */
static int vgpu_opp_add(struct vgpu_board *board, unsigned long hz, u32 uv,
			u32 bins)
{
	const u32 rate[] = { 0, hz };
	struct device_node *np;
	char name[32];
	int ret;

	snprintf(name, sizeof(name), "opp-%lu-%x", hz, bins);
	np = vgpu_node_add(board, board->nodes[VGPU_NODE_OPP], name);
	if (!np)
		return -ENOMEM;

	ret = of_changeset_add_prop_u32_array(&board->ocs, np, "opp-hz", rate,
					      ARRAY_SIZE(rate));
	if (!ret)
		ret = of_changeset_add_prop_u32(&board->ocs, np,
						"opp-microvolt", uv);
	if (!ret && bins)
		ret = of_changeset_add_prop_u32(&board->ocs, np,
						"opp-supported-hw", bins);

	return ret;
}

/* A GPU of the other bin makes do with less, which this one must not be given. */
static int vgpu_opps_add(struct vgpu_board *board)
{
	u32 bins = board->product->binned ? VGPU_SPEED_BIN : 0;
	const struct vgpu_rate *rate;
	int ret = 0;

	for (rate = vgpu_rates; rate < vgpu_rates + VGPU_NUM_RATES; rate++) {
		if (bins)
			ret = vgpu_opp_add(board, rate->hz, VGPU_MIN_UV,
					   VGPU_OTHER_BIN);
		if (!ret)
			ret = vgpu_opp_add(board, rate->hz, rate->uv, bins);
		if (ret)
			return ret;
	}

	return 0;
}

static int vgpu_domains_add(struct vgpu_board *board, struct device_node *np,
			    unsigned int num, u32 phandle)
{
	static const char * const names[] = { "core0", "core1", "core2" };
	const u32 domains[] = { phandle, 0, phandle, 1, phandle, 2 };
	int ret;

	BUILD_BUG_ON(ARRAY_SIZE(names) != VGPU_MAX_DOMAINS);
	BUILD_BUG_ON(ARRAY_SIZE(domains) != 2 * VGPU_MAX_DOMAINS);

	ret = of_changeset_add_prop_u32_array(&board->ocs, np, "power-domains",
					      domains, 2 * num);
	if (ret || num == 1)
		return ret;

	return of_changeset_add_prop_string_array(&board->ocs, np,
						  "power-domain-names", names,
						  num);
}

static int vgpu_gpu_node_add(struct vgpu_board *board,
			     const struct resource *regs, const u32 *phandles)
{
	const struct vgpu_product *product = board->product;
	const u32 reg[] = {
		upper_32_bits(regs->start), lower_32_bits(regs->start),
		upper_32_bits(resource_size(regs)),
		lower_32_bits(resource_size(regs)),
	};
	const u32 resets[] = { phandles[VGPU_NODE_RESET], 0 };
	struct of_changeset *ocs = &board->ocs;
	struct device_node *np;
	char name[32];
	int ret;

	snprintf(name, sizeof(name), "gpu@%llx", (u64)regs->start);
	np = vgpu_node_add(board, board->nodes[VGPU_NODE_BOARD], name);
	if (!np)
		return -ENOMEM;

	ret = of_changeset_add_prop_string(ocs, np, "compatible",
					   product->compatible);
	if (!ret)
		ret = of_changeset_add_prop_u32_array(ocs, np, "reg", reg,
						      ARRAY_SIZE(reg));
	if (!ret)
		ret = of_changeset_add_prop_u32(ocs, np, "clocks",
						phandles[VGPU_NODE_CLOCK]);
	if (!ret)
		ret = of_changeset_add_prop_u32(ocs, np, "mali-supply",
						phandles[VGPU_NODE_REGULATOR]);
	if (!ret)
		ret = of_changeset_add_prop_u32_array(ocs, np, "resets", resets,
						      ARRAY_SIZE(resets));
	if (!ret)
		ret = vgpu_domains_add(board, np, product->num_domains,
				       phandles[VGPU_NODE_POWER]);
	if (!ret)
		ret = of_changeset_add_prop_u32(ocs, np, "operating-points-v2",
						phandles[VGPU_NODE_OPP]);
	if (!ret && product->binned)
		ret = of_changeset_add_prop_u32(ocs, np, "nvmem-cells",
						phandles[VGPU_NODE_BIN]);
	if (!ret && product->binned)
		ret = of_changeset_add_prop_string(ocs, np, "nvmem-cell-names",
						   "speed-bin");
	if (!ret)
		ret = of_changeset_add_prop_bool(ocs, np, product->coherent ?
						 "dma-coherent" :
						 "dma-noncoherent");

	return ret;
}

static int vgpu_nodes_add(struct vgpu_board *board, struct device_node *root,
			  const struct resource *regs, u32 *phandles)
{
	static const struct {
		const char *name;
		const char *compatible;
	} targets[] = {
		[VGPU_NODE_CLOCK] = { "clock", NULL },
		[VGPU_NODE_REGULATOR] = { "regulator", NULL },
		[VGPU_NODE_RESET] = { "reset", NULL },
		[VGPU_NODE_POWER] = { "power", NULL },
		[VGPU_NODE_OPP] = { "opp-table", "operating-points-v2" },
		[VGPU_NODE_EFUSE] = { "efuse", NULL },
		[VGPU_NODE_BIN] = { "speed-bin@0", NULL },
	};
	static const u32 bin_reg[] = { 0, 1 };
	struct device_node *np;
	char name[32];
	unsigned int i;
	int ret;

	snprintf(name, sizeof(name), "vgpu-%s", pci_name(board->pdev));
	np = vgpu_node_add(board, root, name);
	if (!np)
		return -ENOMEM;

	/* The root is a bus: nobody shall make a device of this child. */
	of_node_set_flag(np, OF_POPULATED);

	ret = of_changeset_add_prop_u32(&board->ocs, np, "#address-cells", 2);
	if (!ret)
		ret = of_changeset_add_prop_u32(&board->ocs, np, "#size-cells",
						2);

	for (i = VGPU_NODE_CLOCK; !ret && i < ARRAY_SIZE(targets); i++)
		ret = vgpu_target_add(board, i == VGPU_NODE_BIN ?
				      VGPU_NODE_EFUSE : VGPU_NODE_BOARD,
				      targets[i].name, targets[i].compatible,
				      &phandles[i]);
	if (!ret)
		ret = of_changeset_add_prop_u32_array(&board->ocs,
						      board->nodes[VGPU_NODE_BIN],
						      "reg", bin_reg,
						      ARRAY_SIZE(bin_reg));

	if (!ret)
		ret = vgpu_gpu_node_add(board, regs, phandles);
	if (!ret)
		ret = vgpu_opps_add(board);

	return ret;
}

static void vgpu_nodes_put(struct vgpu_board *board)
{
	of_changeset_destroy(&board->ocs);
	while (board->num_nodes)
		of_node_put(board->nodes[--board->num_nodes]);
}

int vgpu_of_add(struct vgpu_board *board, const struct resource *regs)
{
	u32 phandles[VGPU_NUM_FIXED_NODES] = {};
	struct device_node *root;
	unsigned int i;
	int ret;

	root = of_find_node_by_path("/");
	if (!root)
		return dev_err_probe(&board->pdev->dev, -ENODEV,
				     "no device tree\n");

	of_changeset_init(&board->ocs);
	scoped_guard(mutex, &vgpu_of_lock) {
		ret = vgpu_nodes_add(board, root, regs, phandles);
		if (!ret)
			ret = of_changeset_apply(&board->ocs);

		/*
		 * A change adds a node before its properties, and the phandle
		 * that lookups go by is read when the node is added.
		 */
		for (i = 0; !ret && i < ARRAY_SIZE(phandles); i++)
			board->nodes[i]->phandle = phandles[i];
	}
	of_node_put(root);
	if (ret) {
		vgpu_nodes_put(board);
		return ret;
	}

	/*
	 * No device will ever be made of these. Without saying so the GPU
	 * would wait for them. The other frameworks say it for themselves.
	 */
	fwnode_dev_initialized(of_fwnode_handle(board->nodes[VGPU_NODE_REGULATOR]),
			       true);
	fwnode_dev_initialized(of_fwnode_handle(board->nodes[VGPU_NODE_RESET]),
			       true);
	fwnode_dev_initialized(of_fwnode_handle(board->nodes[VGPU_NODE_BIN]),
			       true);

	return 0;
}

void vgpu_of_remove(struct vgpu_board *board)
{
	of_changeset_revert(&board->ocs);
	vgpu_nodes_put(board);
}
