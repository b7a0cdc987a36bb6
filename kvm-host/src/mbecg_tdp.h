/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of KVM's tdp_mmu.c, whose iterators nobody else can use. What differs
 * between the series, mbecg_for_each_pte(), comes with the patch.
 */
#include "mbecg.h"

static bool mbecg_restrict_run(struct kvm *kvm, struct kvm_mmu_page *root,
			       const struct mbecg_gfns *run, gfn_t start, gfn_t end, bool flush)
{
	u64 spte, bits = mbecg_execute_bits(root->role);
	struct tdp_iter iter;

	rcu_read_lock();
	mbecg_for_each_pte(iter, kvm, root, start, end) {
retry:
		if (tdp_mmu_iter_cond_resched(kvm, &iter, flush, true)) {
			flush = false;
			continue;
		}
		if (!is_shadow_present_pte(iter.old_spte) ||
		    !is_last_spte(iter.old_spte, iter.level))
			continue;
		spte = mbecg_restricted(run, bits, iter.old_spte, iter.gfn, iter.level);
		if (spte == iter.old_spte)
			continue;
		if (tdp_mmu_set_spte_atomic(kvm, &iter, spte))
			goto retry;
		flush = true;
	}
	rcu_read_unlock();
	return flush;
}

/* A walk yields by itself, if it is a long one; runs may be short, and many. */
static bool mbecg_yield(struct kvm *kvm, bool flush)
{
	if (!need_resched() && !rwlock_needbreak(&kvm->mmu_lock))
		return flush;
	if (flush)
		kvm_flush_remote_tlbs(kvm);
	cond_resched_rwlock_read(&kvm->mmu_lock);
	return false;
}

/* By memory slots: nothing else is mapped executable, and most of a map may lie outside. */
static bool mbecg_restrict_root(struct kvm *kvm, struct kvm_mmu_page *root,
				gfn_t start, gfn_t end, bool flush)
{
	const struct mbecg_map *map = mbecg_map_locked(kvm);
	const struct kvm_memory_slot *slot;
	struct mbecg_gfns run;
	int bucket;

	kvm_for_each_memslot(slot, bucket, kvm_memslots(kvm)) {
		gfn_t at = max(start, slot->base_gfn);
		gfn_t to = min(end, slot->base_gfn + slot->npages);

		for (; at < to && mbecg_map_denied_run(map, at, to, &run); at = run.end) {
			flush = mbecg_restrict_run(kvm, root, &run, max(at, run.start),
						   min(to, run.end), flush);
			flush = mbecg_yield(kvm, flush);
		}
	}
	return flush;
}

/*
 * Take from all leaves what the VM's new map denies; its lock is held, and srcu.
 * Faults go on meanwhile: what they install is of the new map, so a leaf needs
 * to be looked at once. The flush at the end is due whatever was found: another
 * path may have zapped, and not yet flushed.
 */
void mbecg_restrict(struct kvm *kvm, gfn_t start, gfn_t end)
{
	struct kvm_mmu_page *root;
	bool flush = false;

	read_lock(&kvm->mmu_lock);
	for_each_valid_tdp_mmu_root_yield_safe(kvm, root, 0)
		if (mbecg_execute_bits(root->role))
			flush = mbecg_restrict_root(kvm, root, start, end, flush);
	kvm_flush_remote_tlbs(kvm);
	read_unlock(&kvm->mmu_lock);
}
