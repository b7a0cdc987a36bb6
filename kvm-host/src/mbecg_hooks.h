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

/* Text objects, which SMM does not see. True: *r is what the caller returns. */
static __always_inline bool mbecg_text_faultin(struct kvm *kvm, struct kvm_page_fault *fault,
					       int *r)
{
	return mbecg_has_text(kvm) && __mbecg_text_faultin(kvm, fault, r);
}

static __always_inline int mbecg_text_level(struct kvm *kvm, const struct kvm_memory_slot *slot,
					    gfn_t gfn, int level, bool *decided)
{
	*decided = false;
	if (!mbecg_has_text(kvm) || slot->as_id)
		return level;
	return __mbecg_text_level(kvm, gfn, level, decided);
}

static __always_inline bool mbecg_text_store_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code,
						   int *r)
{
	return error_code & PFERR_WRITE_MASK && mbecg_has_text(vcpu->kvm) &&
	       __mbecg_text_store_fault(vcpu, gpa, error_code, r);
}

static __always_inline bool mbecg_text_read(struct kvm_vcpu *vcpu, gpa_t gpa, void *to, u32 size)
{
	return mbecg_has_text(vcpu->kvm) && __mbecg_text_read(vcpu, gpa, to, size);
}

static __always_inline bool mbecg_text_write(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va,
					     const void *value, u32 size,
					     struct x86_exception *exception, int *r)
{
	return mbecg_has_text(vcpu->kvm) &&
	       __mbecg_text_write(vcpu, gpa, va, value, size, exception, r);
}

static __always_inline bool mbecg_text_cmpxchg(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va,
					       const void *value, u32 size,
					       struct x86_exception *exception)
{
	return mbecg_has_text(vcpu->kvm) &&
	       __mbecg_text_cmpxchg(vcpu, gpa, va, value, size, exception);
}

#endif
