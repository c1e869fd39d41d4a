// SPDX-License-Identifier: GPL-2.0
/*
 * The virtual board: makes of the PCI function that the GPU model is a device
 * of the kind that an SoC has, so that drivers written for those run on it.
 *
 * The GPU's registers are BAR 0 and its three interrupts are MSI-X vectors. The
 * surroundings of a GPU on an SoC (clock, supply, reset line, power domain) are
 * a set of switches in the control BAR, and the model answers nothing while one
 * of them is in the wrong position. This module offers them through the kernel's
 * frameworks, describes all in the device tree, and adds the platform device.
 *
 * The providers have no owner on purpose. Their one consumer is the platform
 * device, which is gone before they are, so nothing has to keep this module
 * from being removed or its function from being unplugged.
 */

#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/sysfs.h>

#include "board.h"

#define VGPU_VENDOR	0x13b5
#define VGPU_DEVICE	0x0001

#define VGPU_BAR_REGS	0
#define VGPU_BAR_CTL	4

/* Bits of a physical address, as in MMU_FEATURES of every GPU that the model can be. */
#define VGPU_PA_BITS	40

const struct vgpu_rate vgpu_rates[VGPU_NUM_RATES] = {
	{ 200000000, 700000 },
	{ 400000000, 800000 },
	{ 600000000, 900000 },
	{ 800000000, 1000000 },
};

/* The interrupts of a Mali, in the order of the vectors. */
static const char * const vgpu_irqs[] = { "job", "mmu", "gpu" };

/*
 * Subsystem device ids are the product ids of the GPUs, and revisions tell the
 * boards apart that have the same one. The strings are those of such boards, and
 * drivers make more of them than a name: on MT8188 page tables are in the
 * AArch64 format and the operating points depend on the speed bin, on H616 clock
 * and reset line are switched with the domain. Next to no board is coherent. The
 * generic compatible with two domains is a mistake that a driver has to refuse.
 */
static const struct vgpu_product vgpu_products[] = {
	{ 0x0620, 0, "arm,mali-t628", 1 },
	{ 0x0720, 0, "arm,mali-t720", 1 },
	{ 0x0860, 0, "arm,mali-t860", 1, .coherent = true },
	{ 0x0860, 1, "arm,mali-t860", 1, .fast = true },
	{ 0x7093, 0, "arm,mali-bifrost", 1 },
	{ 0x7402, 0, "arm,mali-bifrost", 1, .coherent = true },
	{ 0x7402, 1, "arm,mali-bifrost", 1 },
	{ 0x7402, 2, "arm,mali-bifrost", 2 },
	{ 0x7402, 3, "allwinner,sun50i-h616-mali", 1, .fragile = true },
	{ 0x9093, 0, "arm,mali-valhall-jm", 1, .coherent = true },
	{ 0x9093, 1, "mediatek,mt8188-mali", 3, .coherent = true,
	  .fast = true, .binned = true },
	{ 0x9093, 2, "arm,mali-valhall-jm", 1 },
};

static const struct vgpu_product *vgpu_product(const struct pci_dev *pdev)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vgpu_products); i++)
		if (vgpu_products[i].id == pdev->subsystem_device &&
		    vgpu_products[i].revision == pdev->revision)
			return &vgpu_products[i];

	return NULL;
}

/*
 * Programs that unplug a GPU ask the device that it is on for "remove", and that
 * device's bus for "rescan". At the platform device and its bus they find those
 * of the PCI function and the PCI bus.
 */
static int vgpu_link(struct kobject *from, struct kobject *to, const char *name)
{
	return compat_only_sysfs_link_entry_to_kobj(from, to, name, NULL);
}

static int vgpu_gpu_add(struct vgpu_board *board)
{
	struct pci_dev *pdev = board->pdev;
	struct resource res[1 + ARRAY_SIZE(vgpu_irqs)] = {};
	struct platform_device_info info = {
		.parent = &pdev->dev,
		.fwnode = of_fwnode_handle(board->nodes[VGPU_NODE_GPU]),
		.id = PLATFORM_DEVID_NONE,
		.res = res,
		.num_res = ARRAY_SIZE(res),
		.dma_mask = DMA_BIT_MASK(VGPU_PA_BITS),
	};
	char name[32];
	unsigned int i;
	int ret, irq;

	/* As a device made from the tree would be called. */
	snprintf(name, sizeof(name), "%llx.gpu",
		 (u64)pci_resource_start(pdev, VGPU_BAR_REGS));
	info.name = name;

	/*
	 * Below the BAR, so that the driver can claim it for itself. This
	 * module must not claim it.
	 */
	res[0] = DEFINE_RES_MEM(pci_resource_start(pdev, VGPU_BAR_REGS),
				pci_resource_len(pdev, VGPU_BAR_REGS));
	res[0].parent = &pdev->resource[VGPU_BAR_REGS];

	for (i = 0; i < ARRAY_SIZE(vgpu_irqs); i++) {
		irq = pci_irq_vector(pdev, i);
		if (irq < 0)
			return irq;
		res[1 + i] = DEFINE_RES_IRQ_NAMED(irq, vgpu_irqs[i]);
	}

	board->gpu = platform_device_register_full(&info);
	if (IS_ERR(board->gpu))
		return PTR_ERR(board->gpu);

	/* Goes with the device. */
	ret = vgpu_link(&board->gpu->dev.kobj, &pdev->dev.kobj, "remove");
	if (ret)
		platform_device_unregister(board->gpu);

	return ret;
}

/* Has the driver that is about to bind find all interrupts but the hidden ones. */
static void vgpu_name_irqs(struct platform_device *gpu)
{
	u32 hidden = READ_ONCE(vgpu_hidden_irqs);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vgpu_irqs); i++)
		gpu->resource[1 + i].name = hidden & BIT(i) ? "hidden" :
							      vgpu_irqs[i];
}

/*
 * A driver that fails to bind is found out later, when another one binds or the
 * board goes.
 */
static int vgpu_bound(struct notifier_block *nb, unsigned long event, void *data)
{
	struct vgpu_board *board = container_of(nb, struct vgpu_board, bound);
	struct device *dev = data;

	if (dev->parent != &board->pdev->dev)
		return NOTIFY_OK;

	if (event == BUS_NOTIFY_BIND_DRIVER)
		vgpu_name_irqs(to_platform_device(dev));
	if (event == BUS_NOTIFY_BIND_DRIVER ||
	    event == BUS_NOTIFY_UNBOUND_DRIVER)
		vgpu_check_left(board);

	return NOTIFY_OK;
}

/* Everything between the enabled function and the platform device. */
static int vgpu_board_add(struct vgpu_board *board)
{
	int ret;

	ret = vgpu_of_add(board, &board->pdev->resource[VGPU_BAR_REGS]);
	if (ret)
		return ret;

	ret = vgpu_clk_add(board);
	if (ret)
		goto err_of;

	ret = vgpu_regulator_add(board);
	if (ret)
		goto err_clk;

	ret = vgpu_reset_add(board);
	if (ret)
		goto err_regulator;

	ret = vgpu_efuse_add(board);
	if (ret)
		goto err_reset;

	ret = vgpu_power_add(board);
	if (ret)
		goto err_efuse;

	board->bound.notifier_call = vgpu_bound;
	ret = bus_register_notifier(&platform_bus_type, &board->bound);
	if (ret)
		goto err_power;

	vgpu_recorder_add(board);

	ret = vgpu_gpu_add(board);
	if (ret)
		goto err_recorder;

	return 0;

err_recorder:
	vgpu_recorder_remove(board);
	bus_unregister_notifier(&platform_bus_type, &board->bound);
err_power:
	vgpu_power_remove(board);
err_efuse:
	vgpu_efuse_remove(board);
err_reset:
	vgpu_reset_remove(board);
err_regulator:
	vgpu_regulator_remove(board);
err_clk:
	vgpu_clk_remove(board);
err_of:
	vgpu_of_remove(board);
	return ret;
}

static void vgpu_board_remove(struct vgpu_board *board)
{
	platform_device_unregister(board->gpu);
	vgpu_check_left(board);
	vgpu_recorder_remove(board);
	bus_unregister_notifier(&platform_bus_type, &board->bound);
	vgpu_power_remove(board);
	vgpu_efuse_remove(board);
	vgpu_reset_remove(board);
	vgpu_regulator_remove(board);
	vgpu_clk_remove(board);
	vgpu_of_remove(board);
}

static int vgpu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	const struct vgpu_product *product = vgpu_product(pdev);
	struct device *dev = &pdev->dev;
	struct vgpu_board *board;
	int ret;

	if (!product)
		return dev_err_probe(dev, -ENODEV, "unknown product 0x%x.%u\n",
				     pdev->subsystem_device, pdev->revision);

	board = devm_kzalloc(dev, sizeof(*board), GFP_KERNEL);
	if (!board)
		return -ENOMEM;

	board->pdev = pdev;
	board->product = product;
	spin_lock_init(&board->lock);

	ret = pcim_enable_device(pdev);
	if (ret)
		return dev_err_probe(dev, ret, "cannot enable\n");

	board->ctl = pcim_iomap_region(pdev, VGPU_BAR_CTL, KBUILD_MODNAME);
	if (IS_ERR(board->ctl))
		return dev_err_probe(dev, PTR_ERR(board->ctl),
				     "cannot map the control BAR\n");

	if (ioread32(board->ctl + CTL_MAGIC) != CTL_MAGIC_VALUE ||
	    ioread32(board->ctl + CTL_VERSION) != CTL_VERSION_VALUE)
		return dev_err_probe(dev, -ENODEV,
				     "not a control BAR that is known here\n");

	ret = pci_alloc_irq_vectors(pdev, ARRAY_SIZE(vgpu_irqs),
				    ARRAY_SIZE(vgpu_irqs), PCI_IRQ_MSIX);
	if (ret < 0)
		return dev_err_probe(dev, ret, "cannot get the vectors\n");

	pci_set_master(pdev);
	pci_set_drvdata(pdev, board);

	ret = vgpu_board_add(board);
	if (ret) {
		dev_err_probe(dev, ret, "cannot set up the board\n");
		pci_free_irq_vectors(pdev);
		return ret;
	}

	return 0;
}

static void vgpu_remove(struct pci_dev *pdev)
{
	struct vgpu_board *board = pci_get_drvdata(pdev);

	vgpu_board_remove(board);
	pci_free_irq_vectors(pdev);
}

static const struct pci_device_id vgpu_ids[] = {
	{ PCI_DEVICE(VGPU_VENDOR, VGPU_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, vgpu_ids);

static struct pci_driver vgpu_driver = {
	.name = KBUILD_MODNAME,
	.id_table = vgpu_ids,
	.probe = vgpu_probe,
	.remove = vgpu_remove,
};

static int __init vgpu_init(void)
{
	struct kobject *platform = &bus_get_kset(&platform_bus_type)->kobj;
	struct kobject *pci = &bus_get_kset(&pci_bus_type)->kobj;
	int ret;

	ret = vgpu_link(platform, pci, "rescan");
	if (ret)
		return ret;

	vgpu_recorder_init();

	ret = pci_register_driver(&vgpu_driver);
	if (ret) {
		vgpu_recorder_exit();
		sysfs_remove_link(platform, "rescan");
	}

	return ret;
}
module_init(vgpu_init);

static void __exit vgpu_exit(void)
{
	pci_unregister_driver(&vgpu_driver);
	vgpu_recorder_exit();
	sysfs_remove_link(&bus_get_kset(&platform_bus_type)->kobj, "rescan");
}
module_exit(vgpu_exit);

MODULE_DESCRIPTION("Platform device on the PCI function of the GPU model");
MODULE_LICENSE("GPL");
