// SPDX-License-Identifier: GPL-2.0-or-later
/* Ways around the map other than a fetch: control registers and processor start-up. */
#define pr_fmt(fmt) KBUILD_MODNAME ": mbecguard: " fmt

#include "regs.h"
#include "smm.h"
#include "x86.h"
#include "mbecg.h"

/*
 * MBEC judges user-mode addresses by another bit: they are all addresses
 * without paging, and within reach of the kernel without SMEP. A nested guest
 * would run what its host is denied.
 */
static bool cr0_allowed(struct kvm_vcpu *vcpu, unsigned long value, bool sealed)
{
	unsigned long ones = atomic64_read(&to_mbecg(vcpu->kvm)->pinned_cr0);

	if (sealed)
		ones |= X86_CR0_PG;
	return !(kvm_read_cr0(vcpu) & ~value & ones);
}

static bool cr4_allowed(struct kvm_vcpu *vcpu, unsigned long value, bool sealed)
{
	unsigned long ones = atomic64_read(&to_mbecg(vcpu->kvm)->pinned_cr4);
	unsigned long is = kvm_read_cr4(vcpu);

	if (sealed)
		ones |= X86_CR4_SMEP;
	return !(is & ~value & ones) && !(sealed && value & ~is & X86_CR4_VMXE);
}

/*
 * Whether the guest may write @value to CR0 or CR4. For MOV only, not for
 * kvm_set_cr0(): RSM clears PG through it and ignores the result.
 */
bool mbecg_cr_allowed(struct kvm_vcpu *vcpu, int cr, unsigned long value)
{
	bool sealed;

	if (mbecg_mode == MBECG_OFF || is_smm(vcpu))
		return true;
	sealed = mbecg_sealed(vcpu->kvm);
	return cr == 0 ? cr0_allowed(vcpu, value, sealed) : cr4_allowed(vcpu, value, sealed);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(mbecg_cr_allowed);

/*
 * INIT takes the boot processor to the firmware, which may go on in memory that
 * the attacker has written, and without paging. No kernel does that: shut down.
 */
bool mbecg_init_allowed(struct kvm_vcpu *vcpu)
{
	if (mbecg_mode != MBECG_ENFORCE || !kvm_vcpu_is_bsp(vcpu) || !mbecg_sealed(vcpu->kvm))
		return true;
	pr_info_ratelimited("pid %d: INIT of the boot processor of a sealed guest, triple fault\n",
			    vcpu->kvm->userspace_pid);
	kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
	return false;
}

/* A started processor runs without paging, so the EPT would not stop it. */
bool mbecg_sipi_allowed(struct kvm_vcpu *vcpu, u8 vector)
{
	return !mbecg_active(vcpu->kvm) || !mbecg_denied(vcpu->kvm, vector) ||
	       !mbecg_violation(vcpu, gfn_to_gpa(vector), gfn_to_gpa(vector), PFERR_FETCH_MASK);
}
