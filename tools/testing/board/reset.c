// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU's reset line.
 */

#include <linux/module.h>
#include <linux/pci.h>

#include "board.h"

static int reset_fails;
module_param(reset_fails, int, 0600);
MODULE_PARM_DESC(reset_fails, "How many times asserting the reset line fails");

static struct vgpu_board *reset_to_board(struct reset_controller_dev *reset)
{
	return container_of(reset, struct vgpu_board, reset);
}

static int vgpu_reset_assert(struct reset_controller_dev *reset,
			     unsigned long line)
{
	if (reset_fails > 0) {
		reset_fails--;
		return -EIO;
	}
	vgpu_set(reset_to_board(reset), VGPU_RESET, 1);

	return 0;
}

static int vgpu_reset_deassert(struct reset_controller_dev *reset,
			       unsigned long line)
{
	vgpu_set(reset_to_board(reset), VGPU_RESET, 0);

	return 0;
}

static int vgpu_reset_pulse(struct reset_controller_dev *reset,
			    unsigned long line)
{
	vgpu_reset_assert(reset, line);

	return vgpu_reset_deassert(reset, line);
}

static int vgpu_reset_status(struct reset_controller_dev *reset,
			     unsigned long line)
{
	return vgpu_at(reset_to_board(reset), VGPU_RESET);
}

static const struct reset_control_ops vgpu_reset_ops = {
	.reset = vgpu_reset_pulse,
	.assert = vgpu_reset_assert,
	.deassert = vgpu_reset_deassert,
	.status = vgpu_reset_status,
};

int vgpu_reset_add(struct vgpu_board *board)
{
	struct reset_controller_dev *reset = &board->reset;

	vgpu_reset_assert(reset, 0);

	reset->ops = &vgpu_reset_ops;
	reset->dev = &board->pdev->dev;
	reset->of_node = board->nodes[VGPU_NODE_RESET];
	reset->nr_resets = 1;

	return reset_controller_register(reset);
}

void vgpu_reset_remove(struct vgpu_board *board)
{
	reset_controller_unregister(&board->reset);
	vgpu_reset_assert(&board->reset, 0);
}
