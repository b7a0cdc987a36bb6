// SPDX-License-Identifier: GPL-2.0-or-later
/* The hypercalls. Guest memory is copied once, before any lock: that may wait for user space. */
#include <linux/log2.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "lapic.h"
#include "mmu.h"
#include "mmu/spte.h"
#include "mbecg_compat.h"
#include "smm.h"
#include "x86.h"
#include "mbecg.h"

static_assert(sizeof(struct mbecg_list) == PAGE_SIZE);
static_assert(KVM_EPERM == EPERM && KVM_E2BIG == E2BIG && KVM_EFAULT == EFAULT);
static_assert(KVM_EINVAL == EINVAL && KVM_EOPNOTSUPP == EOPNOTSUPP);

struct request {
	u32 nr_pages;
	u32 nr_ranges;
	struct mbecg_list *pages[MBECG_MAX_LIST_PAGES];
};

static int copy_list_page(struct kvm_vcpu *vcpu, struct request *request, gpa_t gpa)
{
	struct mbecg_list *page;
	int r;

	if (request->nr_pages == MBECG_MAX_LIST_PAGES)
		return -E2BIG;
	if (!PAGE_ALIGNED(gpa))
		return -EINVAL;
	page = (struct mbecg_list *)__get_free_page(GFP_KERNEL_ACCOUNT);
	if (!page)
		return -E2BIG;
	request->pages[request->nr_pages++] = page;
	/* KVM keeps some memory of its own there, such as the APIC access page. */
	if (!kvm_vcpu_is_visible_gfn(vcpu, gpa_to_gfn(gpa)) ||
	    kvm_vcpu_read_guest(vcpu, gpa, page, PAGE_SIZE))
		return -EFAULT;
	r = mbecg_list_check(page, kvm_mmu_max_gfn() + 1);
	if (!r)
		request->nr_ranges += page->npages;
	return r;
}

/* A list that comes by a page again has no end; it is found within three rounds (Brent). */
static int copy_request(struct kvm_vcpu *vcpu, struct request *request, gpa_t gpa)
{
	gpa_t passed = 0;
	int r;

	while (gpa) {
		r = copy_list_page(vcpu, request, gpa);
		if (r)
			return r;
		if (fatal_signal_pending(current))
			return -EFAULT;
		cond_resched();
		if (is_power_of_2(request->nr_pages))
			passed = gpa;
		gpa = request->pages[request->nr_pages - 1]->next_pa;
		if (gpa == passed)
			return -E2BIG;
	}
	return 0;
}

static int fill_map(struct mbecg_edit *edit, const struct request *request)
{
	u32 i;
	int r;

	for (i = 0; i < request->nr_pages; i++) {
		r = mbecg_map_apply(edit, request->pages[i]->ranges, request->pages[i]->npages);
		if (r)
			return r;
		if (fatal_signal_pending(current))
			return -EFAULT;
		cond_resched();
	}
	mbecg_map_finish(edit);
	return 0;
}

/* Whether nothing changes but that all is sealed. */
static bool seals(const struct mbecg_map *map, const struct request *request)
{
	u32 i, come = 0;

	for (i = 0; i < request->nr_pages; i++) {
		const struct mbecg_list *page = request->pages[i];

		if (!mbecg_map_sealed_by(map, request->nr_ranges, come, page->ranges, page->npages))
			return false;
		come += page->npages;
		cond_resched();
	}
	return true;
}

/* @replaced: the map that is the VM's no more, if there was one. */
static int change_map(struct kvm *kvm, const struct request *request, struct mbecg_map **replaced)
{
	const struct mbecg_map *old = mbecg_map_locked(kvm);
	u32 room = mbecg_map_room(old, request->nr_ranges);
	struct mbecg_edit edit;
	struct mbecg_map *new;
	int r;

	if (seals(old, request) && !mbecg_smram_open(kvm)) {
		mbecg_seal(kvm);
		return 0;
	}
	new = __vmalloc(struct_size(new, keys, room), GFP_KERNEL_ACCOUNT);
	if (!new)
		return -E2BIG;
	mbecg_map_edit(&edit, old, new, room);
	r = fill_map(&edit, request);
	if (r || mbecg_map_equal(old, new))
		goto free_map;
	r = new->sealed && mbecg_smram_open(kvm) ? -EOPNOTSUPP : 0;
	if (r)
		goto free_map;
	if (new->nr) {
		*replaced = mbecg_publish(kvm, new);
		return 0;
	}
	*replaced = mbecg_publish(kvm, NULL);
free_map:
	vfree(new);
	return r;
}

/* The caller itself waits until nobody reads the old map: so they cannot pile up. */
static int apply_request(struct kvm *kvm, const struct request *request)
{
	struct mbecg_map *replaced = NULL;
	int r;

	scoped_guard(mutex, &to_mbecg(kvm)->lock)
		r = change_map(kvm, request, &replaced);
	mbecg_map_discard(replaced);
	return r;
}

static long protect(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct request *request __free(kfree) = kzalloc(sizeof(*request), GFP_KERNEL_ACCOUNT);
	int r;

	if (!request)
		return -E2BIG;
	r = copy_request(vcpu, request, gpa);
	if (!r)
		r = apply_request(vcpu->kvm, request);
	while (request->nr_pages)
		free_page((unsigned long)request->pages[--request->nr_pages]);
	return r;
}

static long pin(struct kvm_vcpu *vcpu, u64 cr, u64 bits)
{
	struct mbecg *vm = to_mbecg(vcpu->kvm);

	if (!bits)
		return -EINVAL;
	if (cr == 0 && !(bits & ~(MBECG_PINNABLE_CR0 & kvm_read_cr0(vcpu)))) {
		atomic64_or(bits, &vm->pinned_cr0);
		kvm_make_all_cpus_request(vcpu->kvm, MBECG_REQ_REFRESH); /* intercept WP */
	} else if (cr == 4 && !(bits & ~(MBECG_PINNABLE_CR4 & kvm_read_cr4(vcpu)))) {
		atomic64_or(bits, &vm->pinned_cr4);
	} else {
		return -EINVAL;
	}
	return 0;
}

/*
 * EPT only: GMET has other hooks, and nobody has tried it. With a local APIC in
 * user space, INIT and SIPI pass us by, and one that a guest sends itself would
 * look like the reset of its machine.
 */
static bool reachable(struct kvm_vcpu *vcpu)
{
	return tdp_enabled && shadow_xs_mask && lapic_in_kernel(vcpu) &&
	       !vcpu->arch.guest_state_protected && !is_smm(vcpu) && !is_guest_mode(vcpu);
}

static bool enforceable(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	if (!mbecg_has_mbec(kvm))
		return false;
	kvm_for_each_vcpu(i, vcpu, kvm)
		if (!mbecg_enforceable_on(vcpu))
			return false;
	return true;
}

unsigned long mbecg_hypercall(struct kvm_vcpu *vcpu, unsigned long nr, bool long_mode,
			      u64 a0, u64 a1)
{
	if (mbecg_mode == MBECG_OFF)
		return -KVM_ENOSYS;
	if (!long_mode || !reachable(vcpu))
		return -KVM_EOPNOTSUPP;
	if (nr == MBECG_HC_LOCK_CR_UPDATE)
		return pin(vcpu, a0, a1);
	if (!enforceable(vcpu->kvm))
		return -KVM_EOPNOTSUPP;
	if (a0 && a1 == MBECG_TEXT_MAGIC)
		return mbecg_text_add(vcpu, a0);
	if (a0)
		return protect(vcpu, a0);
	return a1 - MBECG_QUERY_MAGIC < MBECG_WORDS ? mbecg_query(vcpu->kvm, a1 - MBECG_QUERY_MAGIC) : 0;
}
