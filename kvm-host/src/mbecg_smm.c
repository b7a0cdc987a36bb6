// SPDX-License-Identifier: GPL-2.0-or-later
/* System management mode: exempt from map and pins, so it must be the firmware's, and stay so. */
#define pr_fmt(fmt) KBUILD_MODNAME ": mbecguard: " fmt

#include "mbecg_compat.h"
#include "smm.h"
#include "x86.h"
#include "mbecg.h"

#define SMM_ADDRESS_SPACE	1
#define HANDLER	0x8000	/* from SMBASE on, as enter_smm() has it */
#define STATE	0xfe00

/* Below 1 MiB, where SeaBIOS moves it. i440fx has no lock for it, and on q35 SeaBIOS leaves it open. */
#define SEGMENT_START	0xa0000
#define SEGMENT_END	0xc0000

enum smram { SMRAM_ABSENT, SMRAM_APART, SMRAM_OPEN };

static hva_t frame(struct kvm *kvm, int address_space, gpa_t gpa)
{
	gfn_t gfn = gpa_to_gfn(gpa);

	return gfn_to_hva_memslot(__gfn_to_memslot(__kvm_memslots(kvm, address_space), gfn), gfn);
}

/*
 * Of one frame: whether the VMM gives system management mode memory of its own
 * for it, which the guest cannot have it show.
 */
static enum smram smram_at(struct kvm *kvm, gpa_t gpa)
{
	hva_t own;

	if (kvm_arch_nr_memslot_as_ids(kvm) <= SMM_ADDRESS_SPACE)
		return SMRAM_ABSENT;
	own = frame(kvm, SMM_ADDRESS_SPACE, gpa);
	if (kvm_is_error_hva(own))
		return SMRAM_ABSENT;
	if (gpa >= SEGMENT_START && gpa < SEGMENT_END)
		return SMRAM_OPEN;
	return own == frame(kvm, 0, gpa) ? SMRAM_OPEN : SMRAM_APART;
}

static enum smram smram_of(struct kvm_vcpu *vcpu)
{
	u64 smbase = READ_ONCE(vcpu->arch.smbase);
	enum smram handler = smram_at(vcpu->kvm, smbase + HANDLER);
	enum smram state = smram_at(vcpu->kvm, smbase + STATE);

	if (handler == SMRAM_ABSENT || state == SMRAM_ABSENT)
		return SMRAM_ABSENT;
	return max(handler, state);
}

/* Whether the guest can write the handler or the saved state of one of its vCPUs. srcu is held. */
bool mbecg_smram_open(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm)
		if (smram_of(vcpu) == SMRAM_OPEN)
			return true;
	return false;
}

static u32 pinnable_bits(struct kvm_vcpu *vcpu)
{
	BUILD_BUG_ON(MBECG_PINNABLE_CR0 & MBECG_PINNABLE_CR4);
	return (kvm_read_cr0(vcpu) & MBECG_PINNABLE_CR0) |
	       (kvm_read_cr4(vcpu) & MBECG_PINNABLE_CR4);
}

/*
 * Any guest can send itself an SMI. Without memory for it enter_smm() kills the
 * VM, and QEMU 10 then tells its log so without end: drop it.
 */
bool mbecg_smi_allowed(struct kvm_vcpu *vcpu)
{
	struct mbecg *vm = to_mbecg(vcpu->kvm);
	enum smram smram;

	if (mbecg_mode == MBECG_OFF)
		return true;
	smram = smram_of(vcpu);
	if (smram == SMRAM_ABSENT) {
		atomic64_inc(&vm->refused);
		return false;
	}
	if (smram == SMRAM_OPEN && mbecg_mode == MBECG_ENFORCE && mbecg_sealed(vcpu->kvm)) {
		mbecg_shut_down(vcpu, "SMI without SMRAM");
		return false;
	}
	xa_store(&vm->before_smm, vcpu->vcpu_idx, xa_mk_value(pinnable_bits(vcpu)),
		 GFP_KERNEL_ACCOUNT);
	return true;
}

/*
 * RSM loads what lies in SMRAM. Bits that were not 1 may stay so: a processor
 * may have been starting. Not known, as for one that was in SMM at the seal:
 * all of them, if it has paging.
 */
static bool pins_hold(struct kvm_vcpu *vcpu)
{
	struct mbecg *vm = to_mbecg(vcpu->kvm);
	void *entry = xa_erase(&vm->before_smm, vcpu->vcpu_idx);
	bool sealed = mbecg_sealed(vcpu->kvm);
	u32 is = pinnable_bits(vcpu), before = is & X86_CR0_PG ? ~0U : 0;
	u32 ones = atomic64_read(&vm->pinned_cr0) | atomic64_read(&vm->pinned_cr4);

	if (entry)
		before = xa_to_value(entry);
	if (sealed)
		ones |= X86_CR0_PG | X86_CR4_SMEP;
	return !(before & ones & ~is) &&
	       !(sealed && (is_guest_mode(vcpu) || kvm_read_cr4(vcpu) & X86_CR4_VMXE));
}

void mbecg_after_rsm(struct kvm_vcpu *vcpu)
{
	if (mbecg_mode == MBECG_ENFORCE && !pins_hold(vcpu))
		mbecg_shut_down(vcpu, "pin lost by RSM");
}
