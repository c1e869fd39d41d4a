/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of the virtual board share.
 */
#ifndef VGPU_BOARD_H
#define VGPU_BOARD_H

#include <linux/bits.h>
#include <linux/clk-provider.h>
#include <linux/of.h>
#include <linux/pm_domain.h>
#include <linux/regulator/driver.h>
#include <linux/reset-controller.h>
#include <linux/spinlock.h>

struct pci_dev;
struct platform_device;

/* Registers of the control BAR: a table of the model, see its control.rs. */
#define CTL_MAGIC		0x000
#define CTL_MAGIC_VALUE		0x5550474d
#define CTL_VERSION		0x004
#define CTL_VERSION_VALUE	1
#define CTL_PRODUCT		0x008
#define CTL_POWER		0x010
#define   CTL_POWER_DOMAIN	BIT(0)
#define   CTL_POWER_CLOCK	BIT(1)
#define   CTL_POWER_REGULATOR	BIT(2)
#define CTL_RESET_LINE		0x014
#define CTL_FREQ_KHZ		0x018

/**
 * struct vgpu_rate - an operating point of the board
 * @hz: rate of the GPU clock
 * @uv: voltage that the rate needs, a step of the regulator
 */
struct vgpu_rate {
	unsigned long hz;
	u32 uv;
};

/* The operating points, slowest first. */
#define VGPU_NUM_RATES		4
extern const struct vgpu_rate vgpu_rates[VGPU_NUM_RATES];

/* The regulator's range: every voltage of vgpu_rates is one of its steps. */
#define VGPU_MIN_UV		700000
#define VGPU_MAX_UV		1000000
#define VGPU_STEP_UV		50000

/* Nodes of the board, in the order in which they are made. */
enum vgpu_node {
	VGPU_NODE_BOARD,
	VGPU_NODE_CLOCK,
	VGPU_NODE_REGULATOR,
	VGPU_NODE_RESET,
	VGPU_NODE_POWER,
	VGPU_NODE_OPP,
	VGPU_NODE_GPU,
	VGPU_NUM_FIXED_NODES,
	VGPU_NUM_NODES = VGPU_NUM_FIXED_NODES + VGPU_NUM_RATES,
};

/* As many as a GPU of MediaTek's has on the boards that are known here. */
#define VGPU_MAX_DOMAINS 3

/**
 * struct vgpu_product - a GPU on a board
 * @id: product id of the GPU
 * @revision: which of the boards with this GPU
 * @compatible: what its node in the device tree is
 * @num_domains: names of power domains in that node; one has no name. They are
 *		 all the same domain.
 */
struct vgpu_product {
	u16 id;
	u8 revision;
	const char *compatible;
	unsigned int num_domains;
};

/**
 * struct vgpu_board - one PCI function and the board made of it
 * @pdev: the PCI function
 * @ctl: its control BAR
 * @lock: guards @power; taken with interrupts off, since clocks are switched
 *	  from any context
 * @power: what CTL_POWER was last set to. Kept here so that switching one
 *	   supply never reads the device, which may be gone.
 * @ocs: the change to the device tree
 * @nodes: the nodes that it made; each holds a reference
 * @num_nodes: how many of @nodes there are
 * @clk: the GPU clock
 * @hz: its rate
 * @rdev: the GPU supply
 * @rdesc: its description, named after the function
 * @selector: its voltage, in steps
 * @reset: the reset controller, of one line
 * @genpd: the power domain
 * @genpd_name: its name, which has to be unique
 * @gpu: the platform device that drivers bind to
 */
struct vgpu_board {
	struct pci_dev *pdev;
	void __iomem *ctl;
	spinlock_t lock; /* guards power */
	u32 power;

	struct of_changeset ocs;
	struct device_node *nodes[VGPU_NUM_NODES];
	unsigned int num_nodes;

	struct clk_hw clk;
	unsigned long hz;

	struct regulator_dev *rdev;
	struct regulator_desc rdesc;
	unsigned int selector;

	struct reset_controller_dev reset;

	struct generic_pm_domain genpd;
	char genpd_name[32];

	struct platform_device *gpu;
};

void vgpu_power_update(struct vgpu_board *board, u32 clear, u32 set);

int vgpu_of_add(struct vgpu_board *board, const struct vgpu_product *product,
		const struct resource *regs);
void vgpu_of_remove(struct vgpu_board *board);

int vgpu_clk_add(struct vgpu_board *board);
void vgpu_clk_remove(struct vgpu_board *board);

int vgpu_regulator_add(struct vgpu_board *board);
void vgpu_regulator_remove(struct vgpu_board *board);

int vgpu_reset_add(struct vgpu_board *board);
void vgpu_reset_remove(struct vgpu_board *board);

int vgpu_power_add(struct vgpu_board *board);
void vgpu_power_remove(struct vgpu_board *board);

#endif
