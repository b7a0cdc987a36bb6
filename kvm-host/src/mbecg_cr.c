// SPDX-License-Identifier: GPL-2.0-or-later
/* Ways around the map other than a fetch: control registers and processor start-up. */
#define pr_fmt(fmt) KBUILD_MODNAME ": mbecguard: " fmt

#include "mbecg_compat.h"
#include "smm.h"
#include "x86.h"
#include "mbecg.h"

/*
 * What of CR0 or CR4 the guest cannot clear: its pins, and with a seal more.
 * MBEC judges user-mode addresses by another bit: they are all addresses
 * without paging, and within reach of the kernel without SMEP.
 */
u64 mbecg_ones(struct kvm *kvm, int cr, bool sealed)
{
	if (cr == 0)
		return atomic64_read(&to_mbecg(kvm)->pinned_cr0) | (sealed ? X86_CR0_PG : 0);
	return atomic64_read(&to_mbecg(kvm)->pinned_cr4) | (sealed ? X86_CR4_SMEP : 0);
}

static bool cr0_allowed(struct kvm_vcpu *vcpu, unsigned long value, bool sealed)
{
	return !(kvm_read_cr0(vcpu) & ~value & mbecg_ones(vcpu->kvm, 0, sealed));
}

/* A nested guest would run what its host is denied. */
static bool cr4_allowed(struct kvm_vcpu *vcpu, unsigned long value, bool sealed)
{
	unsigned long is = kvm_read_cr4(vcpu);

	return !(is & ~value & mbecg_ones(vcpu->kvm, 4, sealed)) &&
	       !(sealed && value & ~is & X86_CR4_VMXE);
}

/*
 * Without SMEP a kernel can run user-mode addresses, which MBEC judges by
 * another bit. Firmware's SMM pages without it, and is judged by its RSM.
 */
bool mbecg_enforceable_on(struct kvm_vcpu *vcpu)
{
	unsigned long cr0 = READ_ONCE(vcpu->arch.cr0), cr4 = READ_ONCE(vcpu->arch.cr4);

	return is_smm(vcpu) ||
	       (!(cr4 & X86_CR4_VMXE) && (!(cr0 & X86_CR0_PG) || cr4 & X86_CR4_SMEP));
}

/* Count, log, and end it: not from L2, whose triple fault is an exit to L1. */
void mbecg_shut_down(struct kvm_vcpu *vcpu, const char *why)
{
	atomic64_inc(&to_mbecg(vcpu->kvm)->refused);
	pr_info_ratelimited("pid %d vcpu %d: %s of a sealed guest, triple fault\n",
			    vcpu->kvm->userspace_pid, vcpu->vcpu_id, why);
	kvm_leave_nested(vcpu);
	kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
}

/*
 * Whether the guest may write @value to CR0 or CR4. For MOV only, not for
 * kvm_set_cr0(): RSM clears PG through it and ignores the result.
 */
bool mbecg_cr_allowed(struct kvm_vcpu *vcpu, int cr, unsigned long value)
{
	bool sealed, allowed;

	if (mbecg_mode == MBECG_OFF || is_smm(vcpu))
		return true;
	sealed = mbecg_sealed(vcpu->kvm);
	allowed = cr == 0 ? cr0_allowed(vcpu, value, sealed) : cr4_allowed(vcpu, value, sealed);
	if (!allowed)
		atomic64_inc(&to_mbecg(vcpu->kvm)->refused);
	return allowed;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(mbecg_cr_allowed);

/* A guest that pins nothing keeps CR0.WP for itself, without exits. */
bool mbecg_pins_wp(struct kvm *kvm)
{
	return mbecg_mode != MBECG_OFF && atomic64_read(&to_mbecg(kvm)->pinned_cr0) & X86_CR0_WP;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(mbecg_pins_wp);

/*
 * Whether the hardware's CR4 gets SMEP, which works when CR0.PG is 1, whatever
 * the guest's CR4 says. A processor starts with SMEP off, and could stay so for
 * ever. Linux's trampoline maps its pages as supervisor ones.
 */
bool mbecg_forces_smep(struct kvm_vcpu *vcpu)
{
	return mbecg_mode != MBECG_OFF && !is_smm(vcpu) && !is_guest_mode(vcpu) &&
	       mbecg_sealed(vcpu->kvm);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(mbecg_forces_smep);

/*
 * Before the vCPU runs again after a pin, a seal or a reset. The hypercall has
 * looked at all vCPUs before it sealed, but one may have changed since.
 */
void mbecg_refresh(struct kvm_vcpu *vcpu)
{
	if (kvm_check_request(MBECG_REQ_SEALED, vcpu) && mbecg_mode == MBECG_ENFORCE &&
	    mbecg_sealed(vcpu->kvm) && !mbecg_enforceable_on(vcpu))
		mbecg_shut_down(vcpu, "late change of CR4");
	if (is_guest_mode(vcpu))
		return;
	kvm_x86_call(set_cr0)(vcpu, kvm_read_cr0(vcpu));
	kvm_x86_call(set_cr4)(vcpu, kvm_read_cr4(vcpu));
}

/*
 * INIT takes the boot processor to the firmware, which may go on in memory that
 * the attacker has written, and without paging. No kernel does that: shut down.
 * The guest can clear the BSP bit of APIC_BASE, and set it elsewhere.
 */
bool mbecg_init_allowed(struct kvm_vcpu *vcpu)
{
	if (mbecg_mode != MBECG_ENFORCE || !mbecg_sealed(vcpu->kvm) ||
	    !(kvm_vcpu_is_reset_bsp(vcpu) || kvm_vcpu_is_bsp(vcpu)))
		return true;
	mbecg_shut_down(vcpu, "INIT of the boot processor");
	return false;
}

/* Better not started than stopped at its first instruction. */
bool mbecg_sipi_allowed(struct kvm_vcpu *vcpu, u8 vector)
{
	return !mbecg_active(vcpu->kvm) || !mbecg_denied(vcpu->kvm, vector) ||
	       !mbecg_violation(vcpu, gfn_to_gpa(vector), gfn_to_gpa(vector), PFERR_FETCH_MASK);
}
