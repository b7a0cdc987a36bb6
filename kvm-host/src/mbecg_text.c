// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Text objects: kernel text that a guest has handed over with a table of its
 * patch sites. It lies in pages of the host's own from then on, mapped without
 * W: so what KVM, a device or the VMM writes to the guest's memory is not what
 * the guest executes. The guest's own stores are judged, and the accepted ones
 * go into both copies.
 */
#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/kvm_host.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mbecg_compat.h"
#include "mbecg.h"

#define CHUNK	BIT(MBECG_CHUNK_ORDER)

static struct mbecg_texts *texts_of(struct kvm *kvm)
{
	return &to_mbecg(kvm)->texts;
}

struct mbecg_text *mbecg_text_at(struct kvm *kvm, gfn_t gfn)
{
	return mtree_load(&texts_of(kvm)->by_gfn, gfn);
}

bool mbecg_text_settled(const struct mbecg_text *text)
{
	return smp_load_acquire(&text->settled); /* pairs with settle(), forget_text() */
}

void mbecg_text_load(const struct mbecg_text *text, u32 offset, u8 *to, u32 size)
{
	for (; size; size--, offset++)
		*to++ = READ_ONCE(*(u8 *)(page_address(text->pages[offset >> PAGE_SHIFT]) +
					  offset_in_page(offset)));
}

static void free_text(struct mbecg_text *text)
{
	u64 i;

	for (i = 0; text->pages && i < text->end - text->start; i++)
		if (text->pages[i])
			__free_page(text->pages[i]);
	kvfree(text->pages);
	bitmap_free(text->chunks);
	kvfree(text->table.sites);
	kvfree(text->table.targets);
	kfree(text);
}

static void free_text_rcu(struct rcu_head *rcu)
{
	free_text(container_of(rcu, struct mbecg_text, rcu));
}

/* What is mapped instead of the guest's memory. */
bool __mbecg_text_faultin(struct kvm *kvm, struct kvm_page_fault *fault, int *r)
{
	struct mbecg_text *text = mbecg_text_at(kvm, fault->gfn);

	if (!text || fault->slot->as_id)
		return false;
	if (!mbecg_text_settled(text)) {
		cond_resched();
		*r = RET_PF_RETRY;
		return true;
	}
	fault->pfn = page_to_pfn(text->pages[fault->gfn - text->start]);
	fault->map_writable = false;
	fault->refcounted_page = NULL;
	*r = RET_PF_CONTINUE;
	return true;
}

static u64 chunk_of(const struct mbecg_text *text, gfn_t gfn)
{
	return (gfn >> MBECG_CHUNK_ORDER) - (text->start >> MBECG_CHUNK_ORDER);
}

/* Whether one page of the host's own is all of the 2 MiB from @start on. */
static bool whole_chunk(const struct mbecg_text *text, gfn_t start)
{
	return start >= text->start && start + CHUNK <= text->end &&
	       test_bit(chunk_of(text, start), text->chunks);
}

/*
 * The level that @gfn can be mapped with; @decided: the VMM's pages do not
 * matter. mmu_lock is held: a text that is settled now is what was faulted in,
 * or the fault is stale. One that is not may still have the VMM's page.
 */
int __mbecg_text_level(struct kvm *kvm, gfn_t gfn, int level, bool *decided)
{
	for (; level > PG_LEVEL_4K; level--) {
		unsigned long start = gfn_round_for_level(gfn, level), index = start;
		unsigned long end = start + KVM_PAGES_PER_HPAGE(level);
		struct mbecg_text *text = mt_find(&texts_of(kvm)->by_gfn, &index, end - 1);

		if (!text)
			break;
		*decided = level == PG_LEVEL_2M && mbecg_text_settled(text) &&
			   whole_chunk(text, start);
		if (*decided)
			break;
	}
	return level;
}

static int alloc_pages_of(struct mbecg_text *text)
{
	u64 nr = text->end - text->start, i = 0, k;

	text->pages = kvcalloc(nr, sizeof(*text->pages), GFP_KERNEL_ACCOUNT);
	text->chunks = bitmap_zalloc((nr >> MBECG_CHUNK_ORDER) + 2, GFP_KERNEL_ACCOUNT);
	if (!text->pages || !text->chunks)
		return -E2BIG;
	while (i < nr) {
		bool whole = !((text->start + i) & (CHUNK - 1)) && i + CHUNK <= nr;
		struct page *page = NULL;

		if (whole)
			page = alloc_pages(GFP_KERNEL_ACCOUNT | __GFP_NOWARN | __GFP_NORETRY,
					   MBECG_CHUNK_ORDER);
		if (page) {
			split_page(page, MBECG_CHUNK_ORDER);
			__set_bit(chunk_of(text, text->start + i), text->chunks);
			for (k = 0; k < CHUNK; k++)
				text->pages[i++] = page + k;
			continue;
		}
		text->pages[i] = alloc_page(GFP_KERNEL_ACCOUNT);
		if (!text->pages[i++])
			return -E2BIG;
		cond_resched();
	}
	return 0;
}

static bool executable(struct kvm *kvm, const struct mbecg_text *text)
{
	const struct mbecg_map *map = mbecg_map_locked(kvm);

	return mbecg_map_uniform(map, text->start, text->end) &&
	       !mbecg_map_denies(map, text->start);
}

/* All who want to use the text wait from here on. @resets: the next one frees it. */
static int publish(struct kvm *kvm, struct mbecg_text *text, u64 *resets)
{
	struct mbecg_texts *texts = texts_of(kvm);
	int r;

	guard(mutex)(&to_mbecg(kvm)->lock);
	if (!executable(kvm, text))
		return -EINVAL;
	if (texts->nr == MBECG_TEXT_OBJECTS ||
	    text->end - text->start > MBECG_TEXT_PAGES - texts->pages)
		return -E2BIG;
	r = mtree_insert_range(&texts->by_gfn, text->start, text->end - 1, text,
			       GFP_KERNEL_ACCOUNT);
	if (r)
		return r == -EEXIST ? -EPERM : -E2BIG;
	WRITE_ONCE(texts->nr, texts->nr + 1);
	texts->nr_log += text->logs;
	texts->pages += text->end - text->start;
	*resets = texts->resets;
	kvm_zap_gfn_range(kvm, text->start, text->end);
	kvm_flush_remote_tlbs(kvm);
	return 0;
}

/* Take it out again; the VM's lock is held. SPTEs must be gone before another page comes there. */
static void forget_text(struct kvm *kvm, struct mbecg_text *text)
{
	struct mbecg_texts *texts = texts_of(kvm);

	lockdep_assert_held(&to_mbecg(kvm)->lock);
	smp_store_release(&text->settled, false); /* pairs with mbecg_text_settled() */
	kvm_zap_gfn_range(kvm, text->start, text->end);
	kvm_flush_remote_tlbs(kvm);
	mtree_erase(&texts->by_gfn, text->start);
	WRITE_ONCE(texts->nr, texts->nr - 1);
	texts->nr_log -= text->logs;
	texts->pages -= text->end - text->start;
	call_srcu(&kvm->srcu, &text->rcu, free_text_rcu);
}

/*
 * An emulation that was under way when the text was published may still write
 * to the guest's memory. It holds kvm->srcu, as this vCPU does.
 */
static void wait_for_emulations(struct kvm_vcpu *vcpu)
{
	kvm_vcpu_srcu_read_unlock(vcpu);
	synchronize_srcu_expedited(&vcpu->kvm->srcu);
	kvm_vcpu_srcu_read_lock(vcpu);
}

static int copy_text(struct kvm_vcpu *vcpu, const struct mbecg_text *text)
{
	gfn_t gfn;

	for (gfn = text->start; gfn < text->end; gfn++) {
		void *to = page_address(text->pages[gfn - text->start]);

		if (kvm_vcpu_read_guest_page(vcpu, gfn, to, 0, PAGE_SIZE))
			return -EFAULT;
		cond_resched();
	}
	return 0;
}

static u64 count_odd(const struct mbecg_text *text)
{
	u8 bytes[MBECG_SITE_BYTES];
	u64 odd = 0;
	u32 i;

	for (i = 0; i < text->table.nr_sites; i++) {
		const struct mbecg_site *site = &text->table.sites[i];

		mbecg_text_load(text, site->offset, bytes, mbecg_site_length(site));
		odd += !mbecg_site_stands(&text->table, site, bytes);
		if (!(i % 1024))
			cond_resched();
	}
	return odd;
}

/* Unless a reset came in between: fill the pages, and let the guest have them. */
static int settle(struct kvm_vcpu *vcpu, struct mbecg_text *text, u64 resets)
{
	struct kvm *kvm = vcpu->kvm;
	int r;

	guard(mutex)(&to_mbecg(kvm)->lock);
	if (texts_of(kvm)->resets != resets)
		return -EFAULT;
	r = copy_text(vcpu, text);
	if (r) {
		forget_text(kvm, text);
		return r;
	}
	scoped_guard(mutex, &texts_of(kvm)->lock) {
		texts_of(kvm)->odd += count_odd(text);
		mbecg_text_fold(texts_of(kvm)->digest, text->digest, sizeof(text->digest));
	}
	smp_store_release(&text->settled, true); /* pairs with mbecg_text_settled() */
	return 0;
}

/* What text can be taken from: hooks are in the TDP MMU alone, and in no nested path. */
static bool possible(struct kvm_vcpu *vcpu)
{
	return mbecg_text_offers != MBECG_TEXT_OFF && tdp_mmu_enabled &&
	       !guest_cpu_cap_has(vcpu, X86_FEATURE_VMX) &&
	       !guest_cpu_cap_has(vcpu, X86_FEATURE_SVM);
}

/* The hypercall: add the object whose list begins at @gpa. */
long mbecg_text_add(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct mbecg_text *text;
	u64 resets;
	int r;

	if (!possible(vcpu))
		return -EOPNOTSUPP;
	text = kzalloc(sizeof(*text), GFP_KERNEL_ACCOUNT);
	if (!text)
		return -E2BIG;
	r = mbecg_text_take(vcpu, text, gpa);
	if (!r)
		r = alloc_pages_of(text);
	if (!r)
		r = publish(vcpu->kvm, text, &resets);
	if (r) {
		free_text(text);
		return r;
	}
	wait_for_emulations(vcpu);
	return settle(vcpu, text, resets);
}

void mbecg_texts_init(struct mbecg_texts *texts)
{
	mt_init_flags(&texts->by_gfn, MT_FLAGS_USE_RCU);
	mutex_init(&texts->lock);
}

/* With the VM's reset; its lock and kvm->srcu are held. */
void mbecg_texts_forget(struct kvm *kvm)
{
	struct mbecg_texts *texts = texts_of(kvm);
	struct mbecg_text *text;
	unsigned long index = 0;

	lockdep_assert_held(&to_mbecg(kvm)->lock);
	mt_for_each(&texts->by_gfn, text, index, ULONG_MAX)
		forget_text(kvm, text);
	texts->resets++;
	guard(mutex)(&texts->lock);
	memset(texts->stores, 0, sizeof(texts->stores));
	memset(texts->digest, 0, sizeof(texts->digest));
	texts->odd = 0;
	texts->nr_bad = 0;
}

/* Nobody runs, and nothing is mapped any more. */
void mbecg_texts_destroy(struct kvm *kvm)
{
	struct mbecg_texts *texts = texts_of(kvm);
	struct mbecg_text *text;
	unsigned long index = 0;

	mt_for_each(&texts->by_gfn, text, index, ULONG_MAX)
		free_text(text);
	mtree_destroy(&texts->by_gfn);
}

/* Page frames in which the guest's copy differs: somebody but the guest has written to them. */
u64 mbecg_texts_foreign(struct kvm *kvm)
{
	u8 *page __free(kfree) = kmalloc(PAGE_SIZE, GFP_KERNEL);
	struct mbecg_text *text;
	unsigned long index = 0;
	u64 nr = 0, i;

	if (!page)
		return texts_of(kvm)->pages;
	mt_for_each(&texts_of(kvm)->by_gfn, text, index, ULONG_MAX) {
		for (i = 0; mbecg_text_settled(text) && i < text->end - text->start; i++) {
			nr += kvm_read_guest_page(kvm, text->start + i, page, 0, PAGE_SIZE) ||
			      memcmp(page, page_address(text->pages[i]), PAGE_SIZE);
			cond_resched();
		}
	}
	return nr;
}
