// SPDX-License-Identifier: GPL-2.0

#include <linux/devcoredump.h>

__rust_helper void
rust_helper_dev_coredumpm(struct device *dev, struct module *owner, void *data,
			  size_t datalen, gfp_t gfp,
			  ssize_t (*read)(char *buffer, loff_t offset,
					  size_t count, void *data,
					  size_t datalen),
			  void (*free)(void *data))
{
	dev_coredumpm(dev, owner, data, datalen, gfp, read, free);
}

#ifndef CONFIG_DEV_COREDUMP
__rust_helper void rust_helper_dev_coredump_put(struct device *dev)
{
	dev_coredump_put(dev);
}
#endif
