/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_HOOKS_H
#define MBECG_HOOKS_H

#include "mbecg.h"

/* For KVM's files only, never for ours. A VM without a map pays one test, and no call. */

/* Bits of the role of a root that maps for a vCPU with @cpu_role. */
static __always_inline u32 mbecg_root_role(struct kvm *kvm, union kvm_cpu_role cpu_role)
{
	return mbecg_mode != MBECG_OFF ? __mbecg_root_role(kvm, cpu_role) : 0;
}

/* Execute bits that an SPTE of @gfn loses. */
static __always_inline u64 mbecg_dropped(struct kvm *kvm, gfn_t gfn, union kvm_mmu_page_role role)
{
	return mbecg_active(kvm) ? __mbecg_dropped(kvm, gfn, role) : 0;
}

static __always_inline int mbecg_max_level(struct kvm *kvm, gfn_t gfn, int level)
{
	return mbecg_active(kvm) ? __mbecg_max_level(kvm, gfn, level) : level;
}

/* 0: not ours; 1: the guest has its fault, resume it. */
static __always_inline int mbecg_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code)
{
	if (!mbecg_active(vcpu->kvm) || !(error_code & PFERR_FETCH_MASK))
		return 0;
	return __mbecg_fault(vcpu, gpa, error_code);
}

static __always_inline bool mbecg_refuses_emulation(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va,
						    struct x86_exception *exception)
{
	return mbecg_active(vcpu->kvm) && __mbecg_refuses_emulation(vcpu, gpa, va, exception);
}

#endif
