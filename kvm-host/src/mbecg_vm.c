// SPDX-License-Identifier: GPL-2.0-or-later
/* The life of a VM's map: module parameter, publication, look-up, reset. */
#define pr_fmt(fmt) KBUILD_MODNAME ": mbecguard: " fmt

#include <linux/module.h>
#include <linux/random.h>
#include <linux/vmalloc.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mbecg_compat.h"
#include "x86.h"
#include "mbecg.h"

unsigned int mbecg_offset __read_mostly;
unsigned int mbecg_mode __ro_after_init;
EXPORT_SYMBOL_FOR_KVM_INTERNAL(mbecg_mode);

static const char * const mode_names[] = {
	[MBECG_OFF] = "off", [MBECG_ENFORCE] = "enforce", [MBECG_AUDIT] = "audit",
};

static int set_mode(const char *value, const struct kernel_param *param)
{
	int mode = sysfs_match_string(mode_names, value);

	if (mode < 0)
		return mode;
	mbecg_mode = mode;
	return 0;
}

static int get_mode(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%s\n", mode_names[mbecg_mode]);
}

static const struct kernel_param_ops mode_ops = { .set = set_mode, .get = get_mode };
module_param_cb(mbecguard, &mode_ops, NULL, 0444);
MODULE_PARM_DESC(mbecguard, "honour a guest's request to drop kernel-execute: off (default), enforce, audit");

static bool run_selftest;
module_param_named(mbecguard_selftest, run_selftest, bool, 0444);
MODULE_PARM_DESC(mbecguard_selftest, "test the permission map at load; the module does not load if it fails");

int mbecg_module_init(void)
{
	return run_selftest ? mbecg_selftest() : 0;
}

/* After kvm_ops_update(): a copy of the vendor's size, new each time a vendor module loads. */
void mbecg_vendor_init(unsigned int *vm_size)
{
	mbecg_offset = ALIGN(*vm_size, __alignof__(struct mbecg));
	*vm_size = mbecg_offset + sizeof(struct mbecg);
	if (mbecg_mode != MBECG_OFF)
		pr_info("%s mode\n", mode_names[mbecg_mode]);
}

void mbecg_init_vm(struct kvm *kvm)
{
	struct mbecg *vm = to_mbecg(kvm);

	mutex_init(&vm->lock);
	spin_lock_init(&vm->log_lock);
	xa_init_flags(&vm->granted, XA_FLAGS_ACCOUNT);
	xa_init_flags(&vm->storms, XA_FLAGS_ACCOUNT);
	xa_init_flags(&vm->before_smm, XA_FLAGS_ACCOUNT);
	ratelimit_state_init(&vm->ratelimit, 5 * HZ, 10);
	vm->generation = get_random_u32();
	mbecg_texts_init(&vm->texts);
}

void mbecg_destroy_vm(struct kvm *kvm)
{
	struct mbecg *vm = to_mbecg(kvm);

	vfree(rcu_dereference_protected(vm->map, true));
	xa_destroy(&vm->granted);
	xa_destroy(&vm->storms);
	xa_destroy(&vm->before_smm);
	mbecg_texts_destroy(kvm);
}

const struct mbecg_map *mbecg_map_locked(struct kvm *kvm)
{
	struct mbecg *vm = to_mbecg(kvm);

	return rcu_dereference_check(vm->map, lockdep_is_held(&kvm->mmu_lock) ||
					      lockdep_is_held(&vm->lock));
}

static bool granted(struct mbecg *vm, gfn_t gfn)
{
	return mbecg_mode == MBECG_AUDIT &&
	       (READ_ONCE(vm->grant_all) || xa_load(&vm->granted, gfn));
}

bool mbecg_denied(struct kvm *kvm, gfn_t gfn)
{
	guard(rcu)();
	return mbecg_map_denies(mbecg_map_locked(kvm), gfn) && !granted(to_mbecg(kvm), gfn);
}

bool mbecg_sealed(struct kvm *kvm)
{
	const struct mbecg_map *map;

	guard(rcu)();
	map = mbecg_map_locked(kvm);
	return map && map->sealed;
}

/*
 * Without paging all addresses are user-mode ones: these vCPUs have a root of
 * their own, in which a denied page has lost that bit as well. SMM is the
 * firmware's domain; a VM is either nested or sealed.
 */
u32 __mbecg_root_role(struct kvm *kvm, union kvm_cpu_role cpu_role)
{
	bool unpaged = cpu_role.base.direct && !cpu_role.base.smm && !cpu_role.base.guest_mode;

	return unpaged && shadow_xs_mask && mbecg_has_mbec(kvm) ? MBECG_ROLE_UNPAGED : 0;
}

/* What an SPTE of a denied page has not, in page tables of @role. */
u64 mbecg_execute_bits(union kvm_mmu_page_role role)
{
	if (role.smm || role.guest_mode)
		return 0;
	return shadow_xs_mask | (role.word & MBECG_ROLE_UNPAGED ? mbecg_xu_mask() : 0);
}

u64 __mbecg_dropped(struct kvm *kvm, gfn_t gfn, union kvm_mmu_page_role role)
{
	return mbecg_denied(kvm, gfn) ? mbecg_execute_bits(role) : 0;
}

/*
 * What becomes of a leaf in which a run of denied pages lies, or a part of it.
 * It goes if it is a large one and only partly denied, or if KVM tracks access
 * by it: then its bits are saved in others. What may run again gets its bits
 * back when it is fetched.
 */
u64 mbecg_restricted(const struct mbecg_gfns *run, u64 bits, u64 spte, gfn_t gfn, int level)
{
	bool whole = gfn >= run->start && gfn + KVM_PAGES_PER_HPAGE(level) <= run->end;
	bool tracked = is_access_track_spte(spte);

	if (!(spte & bits) && !tracked)
		return spte;
	return whole && !tracked ? spte & ~bits : SHADOW_NONPRESENT_VALUE;
}

/* A mapping that is only partly denied must not be a huge one: make_spte() looks at one gfn. */
int __mbecg_max_level(struct kvm *kvm, gfn_t gfn, int level)
{
	const struct mbecg_map *map;

	guard(rcu)();
	map = mbecg_map_locked(kvm);
	for (; level > PG_LEVEL_4K; level--) {
		unsigned long start = gfn_round_for_level(gfn, level);
		unsigned long end = start + KVM_PAGES_PER_HPAGE(level), page = start;

		if (mbecg_map_uniform(map, start, end) &&
		    !xa_find(&to_mbecg(kvm)->granted, &page, end - 1, XA_PRESENT))
			break;
	}
	return level;
}

/*
 * Have SPTEs follow the published map, and return when no vCPU is in guest mode
 * with an old TLB. Page tables of KVM's older kind are zapped: what maps a page
 * there is found by the page only.
 */
static void enforce(struct kvm *kvm, gfn_t start, gfn_t end)
{
	if (!kvm_memslots_have_rmaps(kvm)) {
		mbecg_restrict(kvm, start, end);
		return;
	}
	kvm_zap_gfn_range(kvm, start, end);
	/* Not left to the zap: another path may have zapped and not yet flushed. */
	kvm_flush_remote_tlbs(kvm);
}

/* The map is sealed now, or is no more. */
static void tell_vcpus(struct kvm *kvm)
{
	kvm_make_all_cpus_request(kvm, MBECG_REQ_SEALED);
	kvm_make_all_cpus_request(kvm, MBECG_REQ_REFRESH);
}

/*
 * Publish @new, which may be NULL; srcu and the VM's lock are held. All SPTEs
 * made after the swap follow the new map, as look-up and installation share
 * one mmu_lock section; so do those that are made of other SPTEs, as these lose
 * their bits on the way. So what is restricted or zapped after it stays so. A
 * seal of what is denied already does neither. Returns the old map, for
 * mbecg_map_discard() without the lock.
 */
struct mbecg_map *mbecg_publish(struct kvm *kvm, struct mbecg_map *new)
{
	struct mbecg *vm = to_mbecg(kvm);
	struct mbecg_map *old;
	gfn_t start, end;

	lockdep_assert_held(&vm->lock);
	write_lock(&kvm->mmu_lock);
	old = rcu_replace_pointer(vm->map, new, lockdep_is_held(&vm->lock));
	WRITE_ONCE(vm->generation, vm->generation + 1);
	write_unlock(&kvm->mmu_lock);

	if (mbecg_map_changed(old, new, &start, &end))
		enforce(kvm, start, end);
	if ((old && old->sealed) != (new && new->sealed))
		tell_vcpus(kvm);
	return old;
}

/* Seal the published map as it is; the VM's lock is held. To page tables that is no change. */
void mbecg_seal(struct kvm *kvm)
{
	struct mbecg *vm = to_mbecg(kvm);

	mbecg_map_seal(rcu_dereference_protected(vm->map, lockdep_is_held(&vm->lock)));
	WRITE_ONCE(vm->generation, vm->generation + 1);
	tell_vcpus(kvm);
}

/* Free what was published, when nobody can read it any more. */
void mbecg_map_discard(struct mbecg_map *map)
{
	if (!map)
		return;
	synchronize_rcu();
	vfree(map);
}

static struct mbecg_map *forget_locked(struct kvm *kvm)
{
	struct mbecg *vm = to_mbecg(kvm);
	struct mbecg_map *map = NULL;

	if (mbecg_has_text(kvm)) {
		guard(srcu)(&kvm->srcu);
		mbecg_texts_forget(kvm);
	}
	if (mbecg_active(kvm)) {
		guard(srcu)(&kvm->srcu);
		map = mbecg_publish(kvm, NULL);
	}
	WRITE_ONCE(vm->generation, get_random_u32());
	atomic64_set(&vm->pinned_cr0, 0);
	atomic64_set(&vm->pinned_cr4, 0);
	xa_destroy(&vm->granted);
	xa_destroy(&vm->storms);
	xa_destroy(&vm->before_smm);
	atomic64_set(&vm->refused, 0);
	atomic_set(&vm->nr_granted, 0);
	WRITE_ONCE(vm->grant_all, false);
	scoped_guard(spinlock, &vm->log_lock)
		vm->violations = 0;
	kvm_make_all_cpus_request(kvm, MBECG_REQ_REFRESH);
	return map;
}

static void forget(struct kvm *kvm)
{
	struct mbecg_map *map;

	scoped_guard(mutex, &to_mbecg(kvm)->lock)
		map = forget_locked(kvm);
	mbecg_map_discard(map);
}

/*
 * KVM has no reset of a VM. User space puts the boot CPU from protected mode to
 * the reset vector: no guest can do that, as an INIT does not pass here, and
 * writing registers back keeps PE.
 */
void mbecg_before_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs)
{
	if (mbecg_mode != MBECG_OFF && kvm_vcpu_is_bsp(vcpu) && is_protmode(vcpu) &&
	    !(sregs->cr0 & X86_CR0_PE) && sregs->cs.base == 0xffff0000)
		forget(vcpu->kvm);
}
