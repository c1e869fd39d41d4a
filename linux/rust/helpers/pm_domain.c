// SPDX-License-Identifier: GPL-2.0

#include <linux/pm_domain.h>
#include <linux/pm_runtime.h>

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

__rust_helper void rust_helper_pm_runtime_enable(struct device *dev)
{
	pm_runtime_enable(dev);
}

#endif

#ifndef CONFIG_PM_GENERIC_DOMAINS

__rust_helper bool rust_helper_dev_pm_genpd_is_on(struct device *dev)
{
	return dev_pm_genpd_is_on(dev);
}

#endif

__rust_helper void rust_helper_pm_runtime_disable(struct device *dev)
{
	pm_runtime_disable(dev);
}

__rust_helper bool rust_helper_pm_runtime_enabled(struct device *dev)
{
	return pm_runtime_enabled(dev);
}

__rust_helper void rust_helper_pm_runtime_put_noidle(struct device *dev)
{
	pm_runtime_put_noidle(dev);
}

__rust_helper int rust_helper_pm_runtime_put_sync_suspend(struct device *dev)
{
	return pm_runtime_put_sync_suspend(dev);
}

__rust_helper int rust_helper_pm_runtime_resume_and_get(struct device *dev)
{
	return pm_runtime_resume_and_get(dev);
}

__rust_helper bool rust_helper_pm_runtime_status_suspended(struct device *dev)
{
	return pm_runtime_status_suspended(dev);
}

__rust_helper int rust_helper_pm_runtime_suspend(struct device *dev)
{
	return pm_runtime_suspend(dev);
}
