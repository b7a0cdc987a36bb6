/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_TEXT_H
#define MBECG_TEXT_H

#include <linux/kvm_host.h>
#include <linux/maple_tree.h>
#include <linux/mutex.h>
#include <crypto/sha2.h>

#include "mbecg_judge.h"

#define MBECG_STORE_LOG		16
#define MBECG_CHUNK_ORDER	9	/* page frames of 2 MiB */

struct kvm_page_fault;
struct seq_file;
struct x86_exception;

/* Why a store is bad: a verdict, or one of these. */
enum mbecg_refusal { MBECG_BY_CMPXCHG = MBECG_VERDICTS, MBECG_BY_WALK, MBECG_REASONS };

struct mbecg_store {
	u64 gpa;
	u64 va;
	u64 rip;
	u8 bytes[8];
	u8 size;
	u8 reason;
};

/* Page frames one after the other. */
struct mbecg_run {
	struct mbecg_text *text;
	gfn_t start;
	gfn_t end;
	u32 offset;		/* bytes of the text in front of them */
	struct page **pages;
	unsigned long *chunks;	/* 2 MiB from @start, rounded down: one page of that order; or NULL */
};

struct mbecg_text {
	struct list_head all;	/* of the VM's; the VM's lock */
	u32 nr_runs;
	struct mbecg_run *runs;	/* ascending, disjoint by their offsets */
	u64 nr_pages;
	struct page **pages;
	bool settled;		/* false: nothing of it is mapped, and all who want it wait */
	bool logs;
	bool data;
	u8 digest[SHA256_DIGEST_SIZE];	/* of the list that it came by */
	struct mbecg_table table;
	struct rcu_head rcu;
};

/* All of a VM's. */
struct mbecg_texts {
	struct maple_tree by_gfn;	/* runs; writers: the VM's lock; readers: that, or kvm->srcu */
	struct list_head all;		/* these five: the VM's lock */
	unsigned int nr;
	unsigned int nr_log;
	u64 pages;
	u64 resets;			/* that have taken texts away */
	struct mutex lock;		/* the text itself, and what follows; innermost */
	u64 stores[MBECG_REASONS];
	u64 odd;			/* sites that stood in no form when their text came */
	u64 nr_bad;
	u8 digest[SHA256_DIGEST_SIZE];	/* of all that came, in order */
	struct mbecg_store log[MBECG_STORE_LOG];
};

void mbecg_texts_init(struct mbecg_texts *texts);
void mbecg_texts_forget(struct kvm *kvm);
void mbecg_texts_destroy(struct kvm *kvm);
void mbecg_texts_show(struct seq_file *file, struct mbecg_texts *texts);
u64 mbecg_texts_word(struct kvm *kvm, u64 word);
long mbecg_text_add(struct kvm_vcpu *vcpu, gpa_t gpa);

/* Between the files of ours. */
extern unsigned int mbecg_text_offers;	/* mbecg_text_mode */
void mbecg_text_fold(u8 *digest, const void *data, size_t size);
int mbecg_text_take(struct kvm_vcpu *vcpu, struct mbecg_text *text, gpa_t gpa);
struct mbecg_run *mbecg_run_at(struct kvm *kvm, gfn_t gfn);
const struct mbecg_run *mbecg_run_of(const struct mbecg_text *text, u32 offset);
u8 *mbecg_text_byte(const struct mbecg_text *text, u32 offset);
bool mbecg_text_settled(const struct mbecg_text *text);
void mbecg_text_load(const struct mbecg_text *text, u32 offset, u8 *to, u32 size);
u64 mbecg_texts_foreign(struct kvm *kvm);

/* Behind the inline hooks. */
bool __mbecg_text_faultin(struct kvm *kvm, struct kvm_page_fault *fault, int *r);
int __mbecg_text_level(struct kvm *kvm, gfn_t gfn, int level, bool *decided);
bool __mbecg_text_store_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code, int *r);
bool __mbecg_text_read(struct kvm_vcpu *vcpu, gpa_t gpa, void *to, u32 size);
bool __mbecg_text_write(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va, const void *value, u32 size,
			struct x86_exception *exception, int *r);
bool __mbecg_text_cmpxchg(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t va, const void *value,
			  u32 size, struct x86_exception *exception);

#endif
