// SPDX-License-Identifier: GPL-2.0-or-later
/* Stores to text: who made them, what becomes of them, and what is told of it. */
#define pr_fmt(fmt) KBUILD_MODNAME ": mbecguard: " fmt

#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/seq_file.h>

#include "mmu.h"
#include "mbecg_compat.h"
#include "smm.h"
#include "x86.h"
#include "mbecg.h"

static struct mbecg_texts *texts_of(struct kvm *kvm)
{
	return &to_mbecg(kvm)->texts;
}

/* The run of text that @vcpu means by @gpa. */
static struct mbecg_run *meant(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return is_smm(vcpu) ? NULL : mbecg_run_at(vcpu->kvm, gpa_to_gfn(gpa));
}

static u32 offset_of(const struct mbecg_run *run, gpa_t gpa)
{
	return run->offset + (gpa - gfn_to_gpa(run->start));
}

/* Byte 0 comes last: nobody runs the rest before. It is all in one page. */
static void put(const struct mbecg_text *text, u32 offset, const u8 *from, u32 size)
{
	u8 *to = mbecg_text_byte(text, offset);

	while (size--)
		WRITE_ONCE(to[size], from[size]);
}

static void note(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va, const u8 *value, u32 size, u8 reason)
{
	struct mbecg_texts *texts = texts_of(vcpu->kvm);
	struct mbecg_store store = {
		gpa, va, kvm_get_linear_rip(vcpu), .size = size, .reason = reason,
	};

	lockdep_assert_held(&texts->lock);
	memcpy(store.bytes, value, min(size, sizeof(store.bytes)));
	texts->stores[reason]++;
	texts->log[texts->nr_bad++ % MBECG_STORE_LOG] = store;
	if (__ratelimit(&to_mbecg(vcpu->kvm)->ratelimit))
		pr_info("pid %d vcpu %d: store to text: gpa %llx va %lx rip %llx: %*ph\n",
			vcpu->kvm->userspace_pid, vcpu->vcpu_id, gpa, va, store.rip,
			(int)min(size, 8U), value);
}

/*
 * Not-present, although the guest's entry is present: for 0x3 Linux finds a
 * writable entry, takes the fault for a spurious one and retries for ever.
 */
static struct x86_exception refused(struct kvm_vcpu *vcpu, gva_t va)
{
	mbecg_storm(vcpu);
	return (struct x86_exception){
		.vector = PF_VECTOR,
		.error_code_valid = true,
		.error_code = PFERR_WRITE_MASK,
		.address = va,
	};
}

/*
 * The processor wants to store, or to set a bit in what it takes for a page
 * table. The latter gets an answer that needs no address; a store goes to the
 * emulator, where the final address and the value are known. What that cannot
 * decode becomes #UD.
 */
bool __mbecg_text_store_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code, int *r)
{
	struct mbecg_texts *texts = texts_of(vcpu->kvm);
	struct mbecg_run *run = meant(vcpu, gpa);

	if (!run)
		return false;
	*r = 1;
	if (!mbecg_text_settled(run->text)) {
		cond_resched();
	} else if (error_code & PFERR_GUEST_PAGE_MASK) {
		scoped_guard(mutex, &texts->lock)
			note(vcpu, gpa, 0, NULL, 0, MBECG_BY_WALK);
		if (!mbecg_storm(vcpu))
			kvm_inject_gp(vcpu, 0);
	} else {
		*r = x86_emulate_instruction(vcpu, gpa, EMULTYPE_PF | EMULTYPE_TRAP_UD_FORCED,
					     NULL, 0);
	}
	return true;
}

/* What the emulator fetches or loads is what the processor would. */
bool __mbecg_text_read(struct kvm_vcpu *vcpu, gpa_t gpa, void *to, u32 size)
{
	struct mbecg_run *run = meant(vcpu, gpa);

	if (!run || !mbecg_text_settled(run->text))
		return false;
	mbecg_text_load(run->text, offset_of(run, gpa), to, size);
	return true;
}

/* Whether the store is done: then it is in the pages of the host's own. */
static bool store(struct kvm_vcpu *vcpu, const struct mbecg_run *run, gpa_t gpa, gva_t va,
		  const u8 *value, u32 size)
{
	struct mbecg_texts *texts = texts_of(vcpu->kvm);
	const struct mbecg_text *text = run->text;
	u32 offset = offset_of(run, gpa);
	const struct mbecg_site *site = mbecg_site_at(&text->table, offset);
	u8 bytes[MBECG_SITE_BYTES] = {};
	enum mbecg_verdict verdict;

	guard(mutex)(&texts->lock);
	if (site)
		mbecg_text_load(text, site->offset, bytes, mbecg_site_length(site));
	verdict = mbecg_judge(&text->table, site, bytes, site ? offset - site->offset : 0, value,
			      size);
	if (mbecg_accepts(verdict))
		texts->stores[verdict]++;
	else
		note(vcpu, gpa, va, value, size, verdict);
	if (!mbecg_accepts(verdict) && !text->logs)
		return false;
	put(text, offset, value, size);
	return true;
}

/* A store by the emulator, inside one page. */
bool __mbecg_text_write(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va, const void *value, u32 size,
			struct x86_exception *exception, int *r)
{
	struct mbecg_run *run = meant(vcpu, gpa);

	if (!run)
		return false;
	if (!mbecg_text_settled(run->text)) {
		*r = X86EMUL_RETRY_INSTR;
	} else if (store(vcpu, run, gpa, va, value, size)) {
		/* The VMM's copy, for migration and dumps. It may sleep, so not under the lock. */
		kvm_vcpu_write_guest(vcpu, gpa, value, size);
		*r = X86EMUL_CONTINUE;
	} else {
		*exception = refused(vcpu, va);
		*r = X86EMUL_PROPAGATE_FAULT;
	}
	return true;
}

/* It would go past us, to the VMM's copy. Linux patches no text so. */
bool __mbecg_text_cmpxchg(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va, const void *value, u32 size,
			  struct x86_exception *exception)
{
	if (!meant(vcpu, gpa))
		return false;
	scoped_guard(mutex, &texts_of(vcpu->kvm)->lock)
		note(vcpu, gpa, va, value, size, MBECG_BY_CMPXCHG);
	*exception = refused(vcpu, va);
	return true;
}

static u64 summary(struct kvm *kvm)
{
	const struct mbecg_texts *texts = texts_of(kvm);
	u64 holds;

	guard(mutex)(&to_mbecg(kvm)->lock);
	holds = !texts->nr ? MBECG_TEXT_OFF :
		texts->nr_log ? MBECG_TEXT_LOGS : MBECG_TEXT_ENFORCES;
	return (u64)mbecg_text_offers << MBECG_TEXT_OFFERS | holds << MBECG_TEXT_HOLDS |
	       (u64)texts->nr << MBECG_TEXT_NR | texts->pages << MBECG_TEXT_SIZE;
}

static u64 sum(struct mbecg_texts *texts, int from, int to)
{
	u64 nr = 0;

	guard(mutex)(&texts->lock);
	for (; from < to; from++)
		nr += texts->stores[from];
	return nr;
}

static u64 last_bad(struct mbecg_texts *texts)
{
	guard(mutex)(&texts->lock);
	return texts->nr_bad ? texts->log[(texts->nr_bad - 1) % MBECG_STORE_LOG].gpa : 0;
}

static u64 digest_word(struct mbecg_texts *texts, u64 nr)
{
	guard(mutex)(&texts->lock);
	return mbecg_digest_word(texts->digest, nr);
}

/* A word of the extended query; kvm->srcu is held. */
u64 mbecg_texts_word(struct kvm *kvm, u64 word)
{
	struct mbecg_texts *texts = texts_of(kvm);

	switch (word) {
	case MBECG_WORD_TEXT:
		return summary(kvm);
	case MBECG_WORD_PATCHES:
		return sum(texts, 0, MBECG_UNLISTED) & MBECG_COUNT_MASK;
	case MBECG_WORD_BAD_STORES:
		return sum(texts, MBECG_UNLISTED, MBECG_REASONS) & MBECG_COUNT_MASK;
	case MBECG_WORD_FOREIGN:
		return mbecg_texts_foreign(kvm);
	case MBECG_WORD_LAST_BAD:
		return last_bad(texts);
	default:
		return digest_word(texts, word - MBECG_WORD_TEXT_DIGEST);
	}
}

static const char * const reason_names[] = {
	[MBECG_INT3] = "int3", [MBECG_TAIL] = "tail", [MBECG_FORM] = "form",
	[MBECG_UNLISTED] = "unlisted", [MBECG_FROZEN] = "frozen", [MBECG_NO_INT3] = "no-int3",
	[MBECG_NO_TAIL] = "no-tail", [MBECG_NO_FORM] = "no-form",
	[MBECG_BY_CMPXCHG] = "cmpxchg", [MBECG_BY_WALK] = "walk",
};

static_assert(ARRAY_SIZE(reason_names) == MBECG_REASONS);

static unsigned int chunks_of(const struct mbecg_text *text)
{
	unsigned int nr = 0;
	u32 i;

	for (i = 0; i < text->nr_runs; i++) {
		const struct mbecg_run *run = &text->runs[i];
		u64 chunks = ((run->end - run->start) >> MBECG_CHUNK_ORDER) + 2;

		nr += run->chunks ? bitmap_weight(run->chunks, chunks) : 0;
	}
	return nr;
}

static void show_objects(struct seq_file *file, struct mbecg_texts *texts)
{
	struct mbecg_text *text;

	list_for_each_entry(text, &texts->all, all)
		seq_printf(file, "text %llx %llx %s %s runs %u pages %llu sites %u targets %u chunks %u\n",
			   text->runs->start, text->runs->end, text->data ? "data" : "code",
			   text->logs ? "log" : "enforce", text->nr_runs, text->nr_pages,
			   text->table.nr_sites, text->table.nr_targets, chunks_of(text));
}

/* The VM's lock is held. */
void mbecg_texts_show(struct seq_file *file, struct mbecg_texts *texts)
{
	u64 i;

	show_objects(file, texts);
	guard(mutex)(&texts->lock);
	seq_printf(file, "text-odd %llu\n", texts->odd);
	for (i = 0; i < MBECG_REASONS; i++)
		seq_printf(file, "text-%s %llu\n", reason_names[i], texts->stores[i]);
	i = texts->nr_bad > MBECG_STORE_LOG ? texts->nr_bad - MBECG_STORE_LOG : 0;
	for (; i < texts->nr_bad; i++) {
		const struct mbecg_store *is = &texts->log[i % MBECG_STORE_LOG];

		seq_printf(file, "bad-store %s gpa %llx va %llx rip %llx bytes %*ph\n",
			   reason_names[is->reason], is->gpa, is->va, is->rip,
			   min_t(int, is->size, sizeof(is->bytes)), is->bytes);
	}
}
