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

struct mbecg_run *mbecg_run_at(struct kvm *kvm, gfn_t gfn)
{
	return mtree_load(&texts_of(kvm)->by_gfn, gfn);
}

/* The run that @offset is in. */
const struct mbecg_run *mbecg_run_of(const struct mbecg_text *text, u32 offset)
{
	u32 low = 0, high = text->nr_runs;
	const struct mbecg_run *run;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (text->runs[middle].offset <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low)
		return NULL;
	run = &text->runs[low - 1];
	return offset - run->offset < gfn_to_gpa(run->end - run->start) ? run : NULL;
}

u8 *mbecg_text_byte(const struct mbecg_text *text, u32 offset)
{
	const struct mbecg_run *run = mbecg_run_of(text, offset);
	u32 inside = offset - run->offset;

	return page_address(run->pages[inside >> PAGE_SHIFT]) + offset_in_page(inside);
}

bool mbecg_text_settled(const struct mbecg_text *text)
{
	return smp_load_acquire(&text->settled); /* pairs with settle(), forget_text() */
}

void mbecg_text_load(const struct mbecg_text *text, u32 offset, u8 *to, u32 size)
{
	for (; size; size--, offset++)
		*to++ = READ_ONCE(*mbecg_text_byte(text, offset));
}

static void free_text(struct mbecg_text *text)
{
	u64 i;

	for (i = 0; text->pages && i < text->nr_pages; i++)
		if (text->pages[i])
			__free_page(text->pages[i]);
	for (i = 0; text->runs && i < text->nr_runs; i++)
		bitmap_free(text->runs[i].chunks);
	kvfree(text->pages);
	kvfree(text->runs);
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
	struct mbecg_run *run = mbecg_run_at(kvm, fault->gfn);

	if (!run || fault->slot->as_id)
		return false;
	if (!mbecg_text_settled(run->text)) {
		cond_resched();
		*r = RET_PF_RETRY;
		return true;
	}
	fault->pfn = page_to_pfn(run->pages[fault->gfn - run->start]);
	fault->map_writable = false;
	fault->refcounted_page = NULL;
	*r = RET_PF_CONTINUE;
	return true;
}

static u64 chunk_of(const struct mbecg_run *run, gfn_t gfn)
{
	return (gfn >> MBECG_CHUNK_ORDER) - (run->start >> MBECG_CHUNK_ORDER);
}

/* Whether one page of the host's own is all of the 2 MiB from @start on. */
static bool whole_chunk(const struct mbecg_run *run, gfn_t start)
{
	return start >= run->start && start + CHUNK <= run->end &&
	       test_bit(chunk_of(run, start), run->chunks);
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
		struct mbecg_run *run = mt_find(&texts_of(kvm)->by_gfn, &index, end - 1);

		if (!run)
			break;
		*decided = level == PG_LEVEL_2M && mbecg_text_settled(run->text) &&
			   whole_chunk(run, start);
		if (*decided)
			break;
	}
	return level;
}

static int alloc_run(struct mbecg_run *run)
{
	u64 nr = run->end - run->start, i = 0, k;

	if (nr >= CHUNK) {
		run->chunks = bitmap_zalloc((nr >> MBECG_CHUNK_ORDER) + 2, GFP_KERNEL_ACCOUNT);
		if (!run->chunks)
			return -E2BIG;
	}
	while (i < nr) {
		bool whole = !((run->start + i) & (CHUNK - 1)) && i + CHUNK <= nr;
		struct page *page = NULL;

		if (whole)
			page = alloc_pages(GFP_KERNEL_ACCOUNT | __GFP_NOWARN | __GFP_NORETRY,
					   MBECG_CHUNK_ORDER);
		if (page) {
			split_page(page, MBECG_CHUNK_ORDER);
			__set_bit(chunk_of(run, run->start + i), run->chunks);
			for (k = 0; k < CHUNK; k++)
				run->pages[i++] = page + k;
			continue;
		}
		run->pages[i] = alloc_page(GFP_KERNEL_ACCOUNT);
		if (!run->pages[i++])
			return -E2BIG;
		cond_resched();
	}
	return 0;
}

static int alloc_text(struct mbecg_text *text)
{
	struct page **pages;
	u32 i;
	int r;

	text->pages = kvcalloc(text->nr_pages, sizeof(*text->pages), GFP_KERNEL_ACCOUNT);
	if (!text->pages)
		return -E2BIG;
	for (i = 0, pages = text->pages; i < text->nr_runs; i++) {
		text->runs[i].pages = pages;
		pages += text->runs[i].end - text->runs[i].start;
		r = alloc_run(&text->runs[i]);
		if (r)
			return r;
	}
	return 0;
}

/* What need not be may be so in part: the map decides of each mapping. */
static bool executable(struct kvm *kvm, const struct mbecg_text *text)
{
	const struct mbecg_map *map = mbecg_map_locked(kvm);
	u32 i;

	for (i = 0; !text->data && i < text->nr_runs; i++)
		if (!mbecg_map_uniform(map, text->runs[i].start, text->runs[i].end) ||
		    mbecg_map_denies(map, text->runs[i].start))
			return false;
	return true;
}

static void erase_runs(struct mbecg_texts *texts, const struct mbecg_text *text, u32 nr)
{
	while (nr--)
		mtree_erase(&texts->by_gfn, text->runs[nr].start);
}

static int insert_runs(struct mbecg_texts *texts, struct mbecg_text *text)
{
	u32 i;
	int r;

	for (i = 0; i < text->nr_runs; i++) {
		r = mtree_insert_range(&texts->by_gfn, text->runs[i].start, text->runs[i].end - 1,
				       &text->runs[i], GFP_KERNEL_ACCOUNT);
		if (r) {
			erase_runs(texts, text, i);
			return r == -EEXIST ? -EPERM : -E2BIG;
		}
	}
	return 0;
}

static void unmap_runs(struct kvm *kvm, const struct mbecg_text *text)
{
	u32 i;

	for (i = 0; i < text->nr_runs; i++)
		kvm_zap_gfn_range(kvm, text->runs[i].start, text->runs[i].end);
	kvm_flush_remote_tlbs(kvm);
}

/* All who want to use the text wait from here on. @resets: the next one frees it. */
static int publish(struct kvm *kvm, struct mbecg_text *text, u64 *resets)
{
	struct mbecg_texts *texts = texts_of(kvm);
	int r;

	guard(mutex)(&to_mbecg(kvm)->lock);
	if (!executable(kvm, text))
		return -EINVAL;
	if (texts->nr == MBECG_TEXT_OBJECTS || text->nr_pages > MBECG_TEXT_PAGES - texts->pages)
		return -E2BIG;
	r = insert_runs(texts, text);
	if (r)
		return r;
	list_add_tail(&text->all, &texts->all);
	WRITE_ONCE(texts->nr, texts->nr + 1);
	texts->nr_log += text->logs;
	texts->pages += text->nr_pages;
	*resets = texts->resets;
	unmap_runs(kvm, text);
	return 0;
}

/* Take it out again; the VM's lock is held. SPTEs must be gone before another page comes there. */
static void forget_text(struct kvm *kvm, struct mbecg_text *text)
{
	struct mbecg_texts *texts = texts_of(kvm);

	lockdep_assert_held(&to_mbecg(kvm)->lock);
	smp_store_release(&text->settled, false); /* pairs with mbecg_text_settled() */
	unmap_runs(kvm, text);
	erase_runs(texts, text, text->nr_runs);
	list_del(&text->all);
	WRITE_ONCE(texts->nr, texts->nr - 1);
	texts->nr_log -= text->logs;
	texts->pages -= text->nr_pages;
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

static int copy_run(struct kvm_vcpu *vcpu, const struct mbecg_run *run)
{
	gfn_t gfn;

	for (gfn = run->start; gfn < run->end; gfn++) {
		void *to = page_address(run->pages[gfn - run->start]);

		if (kvm_vcpu_read_guest_page(vcpu, gfn, to, 0, PAGE_SIZE))
			return -EFAULT;
		cond_resched();
	}
	return 0;
}

static int copy_text(struct kvm_vcpu *vcpu, const struct mbecg_text *text)
{
	u32 i;
	int r = 0;

	for (i = 0; !r && i < text->nr_runs; i++)
		r = copy_run(vcpu, &text->runs[i]);
	return r;
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
		r = alloc_text(text);
	if (!r)
		r = publish(vcpu->kvm, text, &resets);
	if (r) { /* some of its runs may have been seen */
		call_srcu(&vcpu->kvm->srcu, &text->rcu, free_text_rcu);
		return r;
	}
	wait_for_emulations(vcpu);
	return settle(vcpu, text, resets);
}

void mbecg_texts_init(struct mbecg_texts *texts)
{
	mt_init_flags(&texts->by_gfn, MT_FLAGS_USE_RCU);
	INIT_LIST_HEAD(&texts->all);
	mutex_init(&texts->lock);
}

/* With the VM's reset; its lock and kvm->srcu are held. */
void mbecg_texts_forget(struct kvm *kvm)
{
	struct mbecg_texts *texts = texts_of(kvm);
	struct mbecg_text *text, *next;

	lockdep_assert_held(&to_mbecg(kvm)->lock);
	list_for_each_entry_safe(text, next, &texts->all, all)
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
	struct mbecg_text *text, *next;

	list_for_each_entry_safe(text, next, &texts->all, all)
		free_text(text);
	mtree_destroy(&texts->by_gfn);
}

/* Page frames in which the guest's copy differs: somebody but the guest has written to them. */
u64 mbecg_texts_foreign(struct kvm *kvm)
{
	u8 *page __free(kfree) = kmalloc(PAGE_SIZE, GFP_KERNEL);
	struct mbecg_run *run;
	unsigned long index = 0;
	u64 nr = 0, i;

	if (!page)
		return texts_of(kvm)->pages;
	mt_for_each(&texts_of(kvm)->by_gfn, run, index, ULONG_MAX) {
		for (i = 0; mbecg_text_settled(run->text) && i < run->end - run->start; i++) {
			nr += kvm_read_guest_page(kvm, run->start + i, page, 0, PAGE_SIZE) ||
			      memcmp(page, page_address(run->pages[i]), PAGE_SIZE);
			cond_resched();
		}
	}
	return nr;
}
