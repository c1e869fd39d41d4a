// SPDX-License-Identifier: GPL-2.0
/*
 * The GPU's supply: a switch and a voltage. The model has only the switch.
 */

#include <linux/pci.h>
#include <linux/regulator/machine.h>

#include "board.h"

static int vgpu_regulator_enable(struct regulator_dev *rdev)
{
	vgpu_set(rdev_get_drvdata(rdev), VGPU_SUPPLY, 1);

	return 0;
}

static int vgpu_regulator_disable(struct regulator_dev *rdev)
{
	vgpu_set(rdev_get_drvdata(rdev), VGPU_SUPPLY, 0);

	return 0;
}

static int vgpu_regulator_is_enabled(struct regulator_dev *rdev)
{
	return vgpu_at(rdev_get_drvdata(rdev), VGPU_SUPPLY);
}

static int vgpu_regulator_get(struct regulator_dev *rdev)
{
	return (vgpu_at(rdev_get_drvdata(rdev), VGPU_VOLTAGE) - VGPU_MIN_UV) /
	       VGPU_STEP_UV;
}

static int vgpu_regulator_set(struct regulator_dev *rdev, unsigned int selector)
{
	vgpu_set(rdev_get_drvdata(rdev), VGPU_VOLTAGE,
		 VGPU_MIN_UV + selector * VGPU_STEP_UV);

	return 0;
}

static const struct regulator_ops vgpu_regulator_ops = {
	.enable = vgpu_regulator_enable,
	.disable = vgpu_regulator_disable,
	.is_enabled = vgpu_regulator_is_enabled,
	.get_voltage_sel = vgpu_regulator_get,
	.set_voltage_sel = vgpu_regulator_set,
	.list_voltage = regulator_list_voltage_linear,
	.map_voltage = regulator_map_voltage_linear,
};

static const struct regulator_init_data vgpu_regulator_init = {
	.constraints = {
		.name = "vgpu",
		.min_uV = VGPU_MIN_UV,
		.max_uV = VGPU_MAX_UV,
		.valid_ops_mask = REGULATOR_CHANGE_VOLTAGE |
				  REGULATOR_CHANGE_STATUS,
	},
};

int vgpu_regulator_add(struct vgpu_board *board)
{
	struct regulator_config config = {
		.dev = &board->pdev->dev,
		.init_data = &vgpu_regulator_init,
		.driver_data = board,
		.of_node = board->nodes[VGPU_NODE_REGULATOR],
	};

	vgpu_set(board, VGPU_VOLTAGE, VGPU_MIN_UV);

	board->rdesc = (struct regulator_desc) {
		.name = pci_name(board->pdev),
		.id = -1,
		.type = REGULATOR_VOLTAGE,
		.ops = &vgpu_regulator_ops,
		.min_uV = VGPU_MIN_UV,
		.uV_step = VGPU_STEP_UV,
		.n_voltages = (VGPU_MAX_UV - VGPU_MIN_UV) / VGPU_STEP_UV + 1,
	};

	board->rdev = regulator_register(&board->pdev->dev, &board->rdesc,
					 &config);

	return PTR_ERR_OR_ZERO(board->rdev);
}

void vgpu_regulator_remove(struct vgpu_board *board)
{
	regulator_unregister(board->rdev);
}
