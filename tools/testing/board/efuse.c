// SPDX-License-Identifier: GPL-2.0
/*
 * The fuses of the SoC: one cell, the speed bin of the GPU.
 */

#include <linux/nvmem-provider.h>
#include <linux/pci.h>
#include <linux/string.h>

#include "board.h"

static int vgpu_efuse_read(void *priv, unsigned int offset, void *val,
			   size_t bytes)
{
	memset(val, VGPU_SPEED_BIN, bytes);

	return 0;
}

int vgpu_efuse_add(struct vgpu_board *board)
{
	struct nvmem_config config = {
		.dev = &board->pdev->dev,
		.name = "vgpu-efuse",
		.id = NVMEM_DEVID_AUTO,
		.of_node = board->nodes[VGPU_NODE_EFUSE],
		.add_legacy_fixed_of_cells = true,
		.read_only = true,
		.root_only = true,
		.reg_read = vgpu_efuse_read,
		.size = 1,
		.word_size = 1,
		.stride = 1,
	};

	board->efuse = nvmem_register(&config);

	return PTR_ERR_OR_ZERO(board->efuse);
}

void vgpu_efuse_remove(struct vgpu_board *board)
{
	nvmem_unregister(board->efuse);
}
