/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The declarations that the parts of the virtual board share.
 */
#ifndef VGPU_BOARD_H
#define VGPU_BOARD_H

#include <linux/bits.h>
#include <linux/clk-provider.h>
#include <linux/notifier.h>
#include <linux/of.h>
#include <linux/pm_domain.h>
#include <linux/regulator/driver.h>
#include <linux/reset-controller.h>
#include <linux/spinlock.h>

struct dentry;
struct nvmem_device;
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
#define   CTL_POWER_ALL		GENMASK(2, 0)
#define CTL_RESET_LINE		0x014
#define CTL_FREQ_KHZ		0x018
#define CTL_CORES		0x01c

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

/* The speed bin of a GPU whose operating points depend on it, a bit; and another. */
#define VGPU_SPEED_BIN		0x2
#define VGPU_OTHER_BIN		0x1

/* Nodes of the board, in the order in which they are made. */
enum vgpu_node {
	VGPU_NODE_BOARD,
	VGPU_NODE_CLOCK,
	VGPU_NODE_REGULATOR,
	VGPU_NODE_RESET,
	VGPU_NODE_POWER,
	VGPU_NODE_OPP,
	VGPU_NODE_EFUSE,
	VGPU_NODE_BIN,
	VGPU_NODE_GPU,
	VGPU_NUM_FIXED_NODES,
	VGPU_NUM_NODES = VGPU_NUM_FIXED_NODES + 2 * VGPU_NUM_RATES,
};

/* As many as a GPU of MediaTek's has on the boards that are known here. */
#define VGPU_MAX_DOMAINS 3

/* The switches, see vgpu_set(). */
enum vgpu_switch {
	VGPU_DOMAINS,		/* bitmap of the power domains that are on */
	VGPU_SUPPLY,		/* 1: on */
	VGPU_VOLTAGE,		/* of the supply, in microvolts */
	VGPU_PREPARED,		/* 1: the clock may be turned on */
	VGPU_CLOCK,		/* 1: runs */
	VGPU_RATE,		/* of the clock, in kHz */
	VGPU_RESET,		/* 1: asserted */
	VGPU_NUM_SWITCHES,
};

/**
 * struct vgpu_product - a GPU on a board
 * @id: product id of the GPU
 * @revision: which of the boards with this GPU
 * @compatible: what its node in the device tree is
 * @num_domains: power domains in that node; one has no name
 * @coherent: the GPU snoops the CPUs' caches
 * @fast: a boot loader left the clock at its highest rate, at the lowest voltage
 * @binned: the operating points depend on a speed bin, which a fuse tells
 * @fragile: the system hangs if a power domain is switched while the clock runs
 *	     or the reset line is released
 */
struct vgpu_product {
	u16 id;
	u8 revision;
	const char *compatible;
	unsigned int num_domains;
	bool coherent;
	bool fast;
	bool binned;
	bool fragile;
};

struct vgpu_board;

/**
 * struct vgpu_domain - a power domain
 * @genpd: the domain
 * @board: the board that it is on
 * @index: which of them
 * @name: its name, which has to be unique
 */
struct vgpu_domain {
	struct generic_pm_domain genpd;
	struct vgpu_board *board;
	unsigned int index;
	char name[32];
};

/**
 * struct vgpu_board - one PCI function and the board made of it
 * @pdev: the PCI function
 * @product: which GPU on which board
 * @ctl: its control BAR
 * @lock: guards @at; taken with interrupts off, since clocks are switched from
 *	  any context
 * @at: the position of each switch. Kept here so that turning one never has to
 *	read the others back from the device, which may be gone.
 * @debugfs: the file with the positions
 * @ocs: the change to the device tree
 * @nodes: the nodes that it made; each holds a reference
 * @num_nodes: how many of @nodes there are
 * @clk: the GPU clock
 * @rdev: the GPU supply
 * @rdesc: its description, named after the function
 * @reset: the reset controller, of one line
 * @efuse: the fuses
 * @domains: the power domains, of which the GPU needs all
 * @genpds: the same for their provider
 * @onecell: the provider
 * @gpu: the platform device that drivers bind to
 * @bound: hears of drivers that bind to it and leave it
 */
struct vgpu_board {
	struct pci_dev *pdev;
	const struct vgpu_product *product;
	void __iomem *ctl;
	spinlock_t lock; /* guards at */
	u32 at[VGPU_NUM_SWITCHES];
	struct dentry *debugfs;

	struct of_changeset ocs;
	struct device_node *nodes[VGPU_NUM_NODES];
	unsigned int num_nodes;

	struct clk_hw clk;

	struct regulator_dev *rdev;
	struct regulator_desc rdesc;

	struct reset_controller_dev reset;

	struct nvmem_device *efuse;

	struct vgpu_domain domains[VGPU_MAX_DOMAINS];
	struct generic_pm_domain *genpds[VGPU_MAX_DOMAINS];
	struct genpd_onecell_data onecell;

	struct platform_device *gpu;
	struct notifier_block bound;
};

/* Interrupts that the next driver to bind does not find, by bits. */
extern u32 vgpu_hidden_irqs;

void vgpu_recorder_init(void);
void vgpu_recorder_exit(void);
void vgpu_recorder_add(struct vgpu_board *board);
void vgpu_recorder_remove(struct vgpu_board *board);

void vgpu_set_bits(struct vgpu_board *board, enum vgpu_switch what, u32 clear,
		   u32 set);
void vgpu_check_left(struct vgpu_board *board);

/* Turns one of the switches. Context: any. */
static inline void vgpu_set(struct vgpu_board *board, enum vgpu_switch what,
			    u32 position)
{
	vgpu_set_bits(board, what, U32_MAX, position);
}

/* The position of one of the switches. Context: any. */
static inline u32 vgpu_at(const struct vgpu_board *board, enum vgpu_switch what)
{
	return READ_ONCE(board->at[what]);
}

int vgpu_of_add(struct vgpu_board *board, const struct resource *regs);
void vgpu_of_remove(struct vgpu_board *board);

int vgpu_clk_add(struct vgpu_board *board);
void vgpu_clk_remove(struct vgpu_board *board);

int vgpu_regulator_add(struct vgpu_board *board);
void vgpu_regulator_remove(struct vgpu_board *board);

int vgpu_reset_add(struct vgpu_board *board);
void vgpu_reset_remove(struct vgpu_board *board);

int vgpu_efuse_add(struct vgpu_board *board);
void vgpu_efuse_remove(struct vgpu_board *board);

int vgpu_power_add(struct vgpu_board *board);
void vgpu_power_remove(struct vgpu_board *board);

#endif
