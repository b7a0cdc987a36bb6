/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_H
#define MBECG_H

#include <linux/kvm_host.h>
#include <linux/mutex.h>
#include <linux/ratelimit.h>
#include <linux/spinlock.h>
#include <linux/xarray.h>

#include "mbecg_map.h"
#include "mbecg_text.h"

#define MBECG_LOG_SIZE	16

/* A bit of union kvm_mmu_page_role that KVM gives no name: 7.2 has bits 21 to 23 left, 6.12 19 to 23. */
#define MBECG_ROLE_UNPAGED	BIT(23)

/* Behind KVM's own: look at the vCPU of a VM that became sealed; put its CR0 and CR4 right. */
#define MBECG_REQ_SEALED	KVM_ARCH_REQ(54)
#define MBECG_REQ_REFRESH	KVM_ARCH_REQ_FLAGS(55, KVM_REQUEST_WAIT | KVM_REQUEST_NO_WAKEUP)

/* What a guest reads of itself has no sign: else it would look like an error. */
#define MBECG_COUNT_MASK	GENMASK_ULL(62, 0)

#define MBECG_PINNABLE_CR0	(X86_CR0_WP | X86_CR0_PG)
#define MBECG_PINNABLE_CR4	(X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_UMIP)

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
	struct xarray before_smm;	/* by vCPU: the bits that can be pinned */
	atomic64_t refused;		/* what a pin, a seal or the lack of SMRAM forbade */
	spinlock_t log_lock;
	u64 violations;
	struct mbecg_violation log[MBECG_LOG_SIZE];
	struct ratelimit_state ratelimit;
	struct mbecg_texts texts;
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

static __always_inline bool mbecg_has_text(struct kvm *kvm)
{
	return unlikely(READ_ONCE(to_mbecg(kvm)->texts.nr));
}

int mbecg_module_init(void);
void mbecg_vendor_init(unsigned int *vm_size);
void mbecg_init_vm(struct kvm *kvm);
void mbecg_destroy_vm(struct kvm *kvm);
void mbecg_create_debugfs(struct kvm *kvm);
void mbecg_before_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs);
void mbecg_refresh(struct kvm_vcpu *vcpu);

u64 mbecg_query(struct kvm *kvm, u64 word);
u64 mbecg_digest_word(const u8 *digest, u64 nr);
u64 mbecg_ones(struct kvm *kvm, int cr, bool sealed);
unsigned long mbecg_hypercall(struct kvm_vcpu *vcpu, unsigned long nr, bool long_mode,
			      u64 a0, u64 a1);
bool mbecg_cr_allowed(struct kvm_vcpu *vcpu, int cr, unsigned long value);
bool mbecg_enforceable_on(struct kvm_vcpu *vcpu);
bool mbecg_pins_wp(struct kvm *kvm);
bool mbecg_forces_smep(struct kvm_vcpu *vcpu);
bool mbecg_init_allowed(struct kvm_vcpu *vcpu);
bool mbecg_sipi_allowed(struct kvm_vcpu *vcpu, u8 vector);
void mbecg_shut_down(struct kvm_vcpu *vcpu, const char *why);

bool mbecg_smram_open(struct kvm *kvm);
bool mbecg_smi_allowed(struct kvm_vcpu *vcpu);
void mbecg_after_rsm(struct kvm_vcpu *vcpu);

bool mbecg_denied(struct kvm *kvm, gfn_t gfn);
u64 mbecg_execute_bits(union kvm_mmu_page_role role);
u64 mbecg_restricted(const struct mbecg_gfns *run, u64 bits, u64 spte, gfn_t gfn, int level);
void mbecg_restrict(struct kvm *kvm, gfn_t start, gfn_t end);
u32 __mbecg_root_role(struct kvm *kvm, union kvm_cpu_role cpu_role);
u64 __mbecg_dropped(struct kvm *kvm, gfn_t gfn, union kvm_mmu_page_role role);
int __mbecg_max_level(struct kvm *kvm, gfn_t gfn, int level);
int __mbecg_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code);
bool __mbecg_refuses_emulation(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va,
			       struct x86_exception *exception);

bool mbecg_storm(struct kvm_vcpu *vcpu);
bool mbecg_violation(struct kvm_vcpu *vcpu, gpa_t gpa, unsigned long va, u64 error_code);
struct mbecg_map *mbecg_publish(struct kvm *kvm, struct mbecg_map *new);
void mbecg_seal(struct kvm *kvm);
void mbecg_map_discard(struct mbecg_map *map);
const struct mbecg_map *mbecg_map_locked(struct kvm *kvm);
bool mbecg_sealed(struct kvm *kvm);
int mbecg_selftest(void);

#endif
