// SPDX-License-Identifier: GPL-2.0

#include <linux/pm_domain.h>

#ifndef CONFIG_PM

__rust_helper int
rust_helper_dev_pm_domain_attach_list(struct device *dev,
				      const struct dev_pm_domain_attach_data *data,
				      struct dev_pm_domain_list **list)
{
	return dev_pm_domain_attach_list(dev, data, list);
}

__rust_helper void rust_helper_dev_pm_domain_detach_list(struct dev_pm_domain_list *list)
{
	dev_pm_domain_detach_list(list);
}

#endif
