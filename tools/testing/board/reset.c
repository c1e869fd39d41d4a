// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU's reset line.
 */

#include <linux/io.h>
#include <linux/pci.h>

#include "board.h"

static struct vgpu_board *reset_to_board(struct reset_controller_dev *reset)
{
	return container_of(reset, struct vgpu_board, reset);
}

static int vgpu_reset_assert(struct reset_controller_dev *reset,
			     unsigned long line)
{
	iowrite32(1, reset_to_board(reset)->ctl + CTL_RESET_LINE);

	return 0;
}

static int vgpu_reset_deassert(struct reset_controller_dev *reset,
			       unsigned long line)
{
	iowrite32(0, reset_to_board(reset)->ctl + CTL_RESET_LINE);

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
	return !!ioread32(reset_to_board(reset)->ctl + CTL_RESET_LINE);
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
