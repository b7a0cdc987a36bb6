// SPDX-License-Identifier: GPL-2.0-or-later
/* What happens on a denied fetch. */
#define pr_fmt(fmt) KBUILD_MODNAME ": mbecguard: " fmt

#include "lapic.h"
#include "mmu.h"
#include "mbecg_compat.h"
#include "smm.h"
#include "x86.h"
#include "mbecg.h"

#define MAX_INSTRUCTION	15
#define STORM_DENIALS	256ULL
#define STORM_FORGIVEN	16	/* denials, by each other exit */
#define STORM_BITS	9	/* STORM_DENIALS + 1 fits */

static void record(struct mbecg *vm, struct mbecg_violation violation)
{
	guard(spinlock)(&vm->log_lock);
	vm->log[vm->violations++ % MBECG_LOG_SIZE] = violation;
}

static void grant(struct mbecg *vm, gfn_t gfn)
{
	if (atomic_inc_return(&vm->nr_granted) > MBECG_MAX_GRANTS ||
	    xa_err(xa_store(&vm->granted, gfn, xa_mk_value(0), GFP_KERNEL_ACCOUNT)))
		WRITE_ONCE(vm->grant_all, true);
}

/* Count and log; true if the guest gets its fault, false if audit mode lets it run. */
bool mbecg_violation(struct kvm_vcpu *vcpu, gpa_t gpa, unsigned long va, u64 error_code)
{
	struct mbecg *vm = to_mbecg(vcpu->kvm);
	bool audit = mbecg_mode == MBECG_AUDIT;

	record(vm, (struct mbecg_violation){ gpa, va, error_code, vcpu->vcpu_id });
	if (__ratelimit(&vm->ratelimit))
		pr_info("pid %d vcpu %d: %s kernel-mode fetch: gfn %llx va %lx rip %lx\n",
			vcpu->kvm->userspace_pid, vcpu->vcpu_id, audit ? "granted" : "denied",
			gpa_to_gfn(gpa), va, kvm_get_linear_rip(vcpu));
	if (audit)
		grant(vm, gpa_to_gfn(gpa));
	return !audit;
}

/* The offset of the GPA tells the second page of an instruction from the first. */
static unsigned long fetch_address(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	unsigned long rip = kvm_get_linear_rip(vcpu);
	bool straddles = offset_in_page(rip) > PAGE_SIZE - MAX_INSTRUCTION &&
			 offset_in_page(gpa) < MAX_INSTRUCTION;

	return straddles ? PAGE_ALIGN(rip) : rip;
}

static struct x86_exception denied_fetch(unsigned long va)
{
	/*
	 * Not-present, although the guest's entry is present: for 0x11 Linux
	 * finds an executable entry, takes the fault for a spurious one and
	 * retries for ever (spurious_kernel_fault()).
	 */
	return (struct x86_exception){
		.vector = PF_VECTOR,
		.error_code_valid = true,
		.error_code = PFERR_FETCH_MASK,
		.address = va,
	};
}

/*
 * Whether this vCPU does hardly anything but being denied, fetches or stores:
 * its fault handler is denied, too, or makes it go on.
 */
static bool storms(struct kvm_vcpu *vcpu)
{
	struct xarray *xa = &to_mbecg(vcpu->kvm)->storms;
	void *entry = xa_load(xa, vcpu->vcpu_idx);
	u64 last = entry ? xa_to_value(entry) >> STORM_BITS : 0;
	u64 row = entry ? xa_to_value(entry) & (BIT(STORM_BITS) - 1) : 0;
	u64 exits = vcpu->stat.exits & GENMASK_ULL(51, 0);
	u64 forgiven = STORM_FORGIVEN * min(exits - last - 1, STORM_DENIALS);

	row = row > forgiven ? row - forgiven + 1 : 1;
	if (row > STORM_DENIALS)
		return true;
	xa_store(xa, vcpu->vcpu_idx, xa_mk_value(exits << STORM_BITS | row), GFP_KERNEL_ACCOUNT);
	return false;
}

/* What happened is denied; true if that was once too often, and the vCPU is shut down. */
bool mbecg_storm(struct kvm_vcpu *vcpu)
{
	if (!storms(vcpu))
		return false;
	pr_info_ratelimited("pid %d vcpu %d: nothing but denied fetches or stores, triple fault\n",
			    vcpu->kvm->userspace_pid, vcpu->vcpu_id);
	kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
	return true;
}

/*
 * No handler can be trusted without paging: back to where the processor waits
 * for a SIPI. For the boot processor of a sealed guest INIT is the end.
 */
static void stop_unpaged(struct kvm_vcpu *vcpu)
{
	set_bit(KVM_APIC_INIT, &vcpu->arch.apic->pending_events);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}

/*
 * Not by CPL: like the processor, by the mode of the linear address. Whether
 * the entry is present does not matter either.
 */
int __mbecg_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code)
{
	bool unpaged = vcpu->arch.mmu->root_role.word & MBECG_ROLE_UNPAGED;
	const u64 others = PFERR_RSVD_MASK | PFERR_GUEST_PAGE_MASK;
	struct x86_exception fault;
	unsigned long va;

	if (error_code & others || (error_code & PFERR_USER_MASK && !unpaged) ||
	    !vcpu->arch.mmu->root_role.direct || is_smm(vcpu) || is_guest_mode(vcpu) ||
	    !mbecg_denied(vcpu->kvm, gpa_to_gfn(gpa)))
		return 0;
	va = fetch_address(vcpu, gpa);
	if (!mbecg_violation(vcpu, gpa, va, error_code))
		return 0;
	if (mbecg_storm(vcpu))
		return 1;
	if (unpaged) {
		stop_unpaged(vcpu);
		return 1;
	}
	fault = denied_fetch(va);
	mbecg_inject_page_fault(vcpu, &fault);
	return 1;
}

/*
 * The emulator fetches by itself, and what it fetches another vCPU may have
 * remapped since the processor did. CPL 0 stands for the mode of the address:
 * stricter than the processor without SMEP.
 */
bool __mbecg_refuses_emulation(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va,
			       struct x86_exception *exception)
{
	bool unpaged = !is_paging(vcpu);

	if ((kvm_x86_call(get_cpl)(vcpu) == 3 && !unpaged) || is_smm(vcpu) ||
	    is_guest_mode(vcpu) || !mbecg_denied(vcpu->kvm, gpa_to_gfn(gpa)) ||
	    !mbecg_violation(vcpu, gpa, va, PFERR_FETCH_MASK))
		return false;
	if (unpaged)
		stop_unpaged(vcpu);
	*exception = denied_fetch(va);
	return true;
}
