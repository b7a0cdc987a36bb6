// SPDX-License-Identifier: GPL-2.0-or-later
/* A KVM without the hooks of text objects: it takes none. */
#include "mbecg.h"

void mbecg_texts_init(struct mbecg_texts *texts)
{
}

void mbecg_texts_forget(struct kvm *kvm)
{
}

void mbecg_texts_destroy(struct kvm *kvm)
{
}

void mbecg_texts_show(struct seq_file *file, struct mbecg_texts *texts)
{
}

u64 mbecg_texts_word(struct kvm *kvm, u64 word)
{
	return 0;
}

long mbecg_text_add(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return -EOPNOTSUPP;
}
