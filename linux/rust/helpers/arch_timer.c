// SPDX-License-Identifier: GPL-2.0

#ifdef CONFIG_ARM_ARCH_TIMER

#include <asm/arch_timer.h>

__rust_helper u32 rust_helper_arch_timer_get_cntfrq(void)
{
	return arch_timer_get_cntfrq();
}

#endif
