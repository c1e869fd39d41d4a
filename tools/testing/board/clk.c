// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU clock: a gate and a rate, one of those in vgpu_rates.
 */

#include <linux/pci.h>

#include "board.h"

static struct vgpu_board *clk_to_board(struct clk_hw *hw)
{
	return container_of(hw, struct vgpu_board, clk);
}

static int vgpu_clk_prepare(struct clk_hw *hw)
{
	vgpu_set(clk_to_board(hw), VGPU_PREPARED, 1);

	return 0;
}

static void vgpu_clk_unprepare(struct clk_hw *hw)
{
	vgpu_set(clk_to_board(hw), VGPU_PREPARED, 0);
}

static int vgpu_clk_is_prepared(struct clk_hw *hw)
{
	return vgpu_at(clk_to_board(hw), VGPU_PREPARED);
}

static int vgpu_clk_enable(struct clk_hw *hw)
{
	vgpu_set(clk_to_board(hw), VGPU_CLOCK, 1);

	return 0;
}

static void vgpu_clk_disable(struct clk_hw *hw)
{
	vgpu_set(clk_to_board(hw), VGPU_CLOCK, 0);
}

static int vgpu_clk_is_enabled(struct clk_hw *hw)
{
	return vgpu_at(clk_to_board(hw), VGPU_CLOCK);
}

static unsigned long vgpu_clk_recalc_rate(struct clk_hw *hw,
					  unsigned long parent_rate)
{
	return vgpu_at(clk_to_board(hw), VGPU_RATE) * 1000UL;
}

/* The fastest rate that is not above what is asked for, else the slowest. */
static int vgpu_clk_determine_rate(struct clk_hw *hw,
				   struct clk_rate_request *req)
{
	unsigned int i = VGPU_NUM_RATES - 1;

	while (i && vgpu_rates[i].hz > req->rate)
		i--;
	req->rate = vgpu_rates[i].hz;

	return 0;
}

static int vgpu_clk_set_rate(struct clk_hw *hw, unsigned long rate,
			     unsigned long parent_rate)
{
	vgpu_set(clk_to_board(hw), VGPU_RATE, rate / 1000);

	return 0;
}

static const struct clk_ops vgpu_clk_ops = {
	.prepare = vgpu_clk_prepare,
	.unprepare = vgpu_clk_unprepare,
	.is_prepared = vgpu_clk_is_prepared,
	.enable = vgpu_clk_enable,
	.disable = vgpu_clk_disable,
	.is_enabled = vgpu_clk_is_enabled,
	.recalc_rate = vgpu_clk_recalc_rate,
	.determine_rate = vgpu_clk_determine_rate,
	.set_rate = vgpu_clk_set_rate,
};

int vgpu_clk_add(struct vgpu_board *board)
{
	unsigned int boot = board->product->fast ? VGPU_NUM_RATES - 1 : 0;
	struct device_node *np = board->nodes[VGPU_NODE_CLOCK];
	char name[32];
	struct clk_init_data init = {
		.name = name,
		.ops = &vgpu_clk_ops,
	};
	int ret;

	snprintf(name, sizeof(name), "vgpu-%s", pci_name(board->pdev));
	board->clk.init = &init;
	vgpu_clk_set_rate(&board->clk, vgpu_rates[boot].hz, 0);

	/*
	 * Without a device, which would become the owner and would be resumed
	 * around each call.
	 */
	ret = clk_hw_register(NULL, &board->clk);
	if (ret)
		return ret;

	ret = of_clk_add_hw_provider(np, of_clk_hw_simple_get, &board->clk);
	if (ret)
		clk_hw_unregister(&board->clk);

	return ret;
}

void vgpu_clk_remove(struct vgpu_board *board)
{
	of_clk_del_provider(board->nodes[VGPU_NODE_CLOCK]);
	clk_hw_unregister(&board->clk);
}
