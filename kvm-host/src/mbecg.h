/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_H
#define MBECG_H

#include <linux/kvm_host.h>
#include <linux/mutex.h>
#include <linux/ratelimit.h>
#include <linux/spinlock.h>
#include <linux/xarray.h>

#include "mbecg_map.h"

#define MBECG_LOG_SIZE	16

struct mbecg_violation {
	u64 gpa;
	u64 va;
	u64 error_code;
	u32 vcpu;
};

/* What is kept of a VM, behind struct kvm_vmx: so no header of the kernel changes. */
struct mbecg {
	struct mbecg_map __rcu *map;	/* writers: lock and mmu_lock; readers: RCU or either */
	struct mutex lock;		/* between kvm->srcu and mmu_lock */
	u64 generation;
	atomic64_t pinned_cr0;
	atomic64_t pinned_cr4;
	struct xarray granted;		/* audit mode: page frames that may run */
	atomic_t nr_granted;
	bool grant_all;			/* there were too many to remember */
	struct xarray storms;		/* by vCPU: exits at the last denial, denials */
	spinlock_t log_lock;
	u64 violations;
	struct mbecg_violation log[MBECG_LOG_SIZE];
	struct ratelimit_state ratelimit;
};

extern unsigned int mbecg_mode;
extern unsigned int mbecg_offset;

static __always_inline struct mbecg *to_mbecg(struct kvm *kvm)
{
	return (void *)kvm + mbecg_offset;
}

static __always_inline bool mbecg_active(struct kvm *kvm)
{
	return unlikely(rcu_access_pointer(to_mbecg(kvm)->map));
}

int mbecg_module_init(void);
void mbecg_vendor_init(unsigned int *vm_size);
void mbecg_init_vm(struct kvm *kvm);
void mbecg_destroy_vm(struct kvm *kvm);
void mbecg_create_debugfs(struct kvm *kvm);
void mbecg_before_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs);

unsigned long mbecg_hypercall(struct kvm_vcpu *vcpu, unsigned long nr, bool long_mode,
			      u64 a0, u64 a1);
bool mbecg_cr_allowed(struct kvm_vcpu *vcpu, int cr, unsigned long value);
bool mbecg_init_allowed(struct kvm_vcpu *vcpu);
bool mbecg_sipi_allowed(struct kvm_vcpu *vcpu, u8 vector);

bool mbecg_denied(struct kvm *kvm, gfn_t gfn);
int __mbecg_max_level(struct kvm *kvm, gfn_t gfn, int level);
int __mbecg_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code);
bool __mbecg_refuses_emulation(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va,
			       struct x86_exception *exception);

bool mbecg_violation(struct kvm_vcpu *vcpu, gpa_t gpa, unsigned long va, u64 error_code);
void mbecg_publish(struct kvm *kvm, struct mbecg_map *new);
const struct mbecg_map *mbecg_map_locked(struct kvm *kvm);
bool mbecg_sealed(struct kvm *kvm);
int mbecg_selftest(void);

/* SMM is the firmware's domain; a VM is either nested or sealed. */
static __always_inline bool mbecg_drops_exec(struct kvm *kvm, gfn_t gfn, bool smm, bool nested)
{
	return mbecg_active(kvm) && !smm && !nested && mbecg_denied(kvm, gfn);
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
