/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What older kernels lack; the Makefile looks for it in their headers. */
#ifndef MBECG_COMPAT_H
#define MBECG_COMPAT_H

#include <linux/hrtimer.h>
#include <linux/mm.h>
#include <asm/processor.h>
#ifdef MBECG_HAVE_CPUID_API
#include <asm/cpuid/api.h>
#endif

#ifndef MBECG_HAVE_HRTIMER_SETUP
static inline void hrtimer_setup(struct hrtimer *timer,
				 enum hrtimer_restart (*function)(struct hrtimer *),
				 clockid_t clock, enum hrtimer_mode mode)
{
	hrtimer_init(timer, clock, mode);
	timer->function = function;
}
#endif

#ifndef MBECG_HAVE_VM_FLAGS_CLEAR
static inline void vm_flags_clear(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags &= ~flags;
}
#endif

#endif
