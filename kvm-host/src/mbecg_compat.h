/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_COMPAT_H
#define MBECG_COMPAT_H

/* What differs between the series of KVM that we build with. It comes before smm.h, which needs is_smm()'s registers. */

#include <linux/kvm_host.h>

#include "mmu.h"
#include "mmu/spte.h"
#include "x86.h"

#if __has_include("regs.h")
#include "regs.h"
#else
#include "kvm_cache_regs.h"
#endif

#ifndef EXPORT_SYMBOL_FOR_KVM_INTERNAL	/* Linux 6.18 */
#define EXPORT_SYMBOL_FOR_KVM_INTERNAL	EXPORT_SYMBOL_GPL
#endif

/* The third parameter, whether hardware is the cause, came to 6.12 with 6.12.117. */
static __always_inline void mbecg_inject_by_two(void (*inject)(struct kvm_vcpu *, struct x86_exception *),
						struct kvm_vcpu *vcpu, struct x86_exception *fault)
{
	inject(vcpu, fault);
}

static __always_inline void mbecg_inject_by_three(void (*inject)(struct kvm_vcpu *, struct x86_exception *, bool),
						  struct kvm_vcpu *vcpu, struct x86_exception *fault)
{
	inject(vcpu, fault, false);
}

#define mbecg_inject_page_fault(vcpu, fault)							\
	_Generic(&kvm_inject_page_fault,							\
		 void (*)(struct kvm_vcpu *, struct x86_exception *): mbecg_inject_by_two,	\
		 default: mbecg_inject_by_three)(kvm_inject_page_fault, vcpu, fault)

/* Whether the guest's kernel and user mode have an execute bit each. */
static inline bool mbecg_has_mbec(struct kvm *kvm)
{
#ifdef MBEC_BY_PATCH	/* patches/SERIES-mbec.patch: a KVM that has none of its own */
	return kvm_mmu_has_mbec();
#else
	return kvm_x86_call(tdp_has_smep)(kvm);
#endif
}

/* The SPTE bit for execution at user-mode addresses; 0 where there is one for both modes. */
static inline u64 mbecg_xu_mask(void)
{
#ifdef MBEC_BY_PATCH
	return shadow_x_mask & VMX_EPT_USER_EXECUTABLE_MASK;
#else
	return shadow_xu_mask;
#endif
}

#endif
