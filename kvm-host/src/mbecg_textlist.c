// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The list by which a guest hands text over. It is copied once, before any
 * lock: that may wait for user space.
 */
#include <linux/module.h>

#include "mmu.h"
#include "mbecg_compat.h"
#include "mbecg.h"

static const char * const mode_names[] = {
	[MBECG_TEXT_OFF] = "off", [MBECG_TEXT_LOGS] = "log", [MBECG_TEXT_ENFORCES] = "enforce",
};

unsigned int mbecg_text_offers __ro_after_init = MBECG_TEXT_LOGS;

static int set_offers(const char *value, const struct kernel_param *param)
{
	int mode = sysfs_match_string(mode_names, value);

	if (mode < 0)
		return mode;
	mbecg_text_offers = mode;
	return 0;
}

static int get_offers(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%s\n", mode_names[mbecg_text_offers]);
}

static const struct kernel_param_ops offers_ops = { .set = set_offers, .get = get_offers };
module_param_cb(mbecguard_text, &offers_ops, NULL, 0444);
MODULE_PARM_DESC(mbecguard_text, "bad stores to text that guests hand over: log (default), enforce; off: take no text");

struct upload {
	struct mbecg_text *text;
	struct mbecg_site *sites;
	u32 *targets;
	u32 nr_sites;		/* that have come */
	u32 nr_targets;
};

static int take_head(struct upload *upload, const struct mbecg_text_page *page)
{
	const struct mbecg_text_head *head = (const void *)page->data;
	struct mbecg_text *text = upload->text;

	if (page->part != MBECG_PART_HEAD || page->nr != 1 || page->npages || head->unused ||
	    head->flags & ~MBECG_TEXT_LOG || !PAGE_ALIGNED(head->pa | head->epa) ||
	    head->pa >= head->epa || gpa_to_gfn(head->epa) > kvm_mmu_max_gfn() + 1)
		return -EINVAL;
	text->start = gpa_to_gfn(head->pa);
	text->end = gpa_to_gfn(head->epa);
	if (text->end - text->start > MBECG_TEXT_PAGES || head->nr_sites > MBECG_TEXT_RECORDS ||
	    head->nr_targets > MBECG_TEXT_RECORDS)
		return -E2BIG;
	text->logs = head->flags & MBECG_TEXT_LOG || mbecg_text_offers != MBECG_TEXT_ENFORCES ||
		     mbecg_mode == MBECG_AUDIT;
	upload->sites = kvcalloc(head->nr_sites, sizeof(*upload->sites), GFP_KERNEL_ACCOUNT);
	upload->targets = kvcalloc(head->nr_targets, sizeof(*upload->targets), GFP_KERNEL_ACCOUNT);
	text->table = (struct mbecg_table){
		.nr_sites = head->nr_sites,
		.nr_targets = head->nr_targets,
		.ftrace = { head->ftrace[0], head->ftrace[1] },
		.hooks = { head->hooks[0], head->hooks[1] },
		.sites = upload->sites,
		.targets = upload->targets,
	};
	return upload->sites && upload->targets ? 0 : -E2BIG;
}

/* @nr records of @size bytes behind the @come of @all that have come. */
static int take_records(const struct mbecg_text_page *page, void *records, size_t size, u32 *come,
			u32 all)
{
	if (page->npages || page->nr > sizeof(page->data) / size || page->nr > all - *come)
		return -EINVAL;
	memcpy(records + *come * size, page->data, page->nr * size);
	*come += page->nr;
	return 0;
}

static int take_page(struct upload *upload, const struct mbecg_text_page *page)
{
	const struct mbecg_table *table = &upload->text->table;

	switch (page->part) {
	case MBECG_PART_SITES:
		return take_records(page, upload->sites, sizeof(*upload->sites), &upload->nr_sites,
				    table->nr_sites);
	case MBECG_PART_TARGETS:
		return take_records(page, upload->targets, sizeof(*upload->targets),
				    &upload->nr_targets, table->nr_targets);
	}
	return -EINVAL;
}

/* SHA-256 of what @digest was, and of SHA-256 of @data. */
void mbecg_text_fold(u8 *digest, const void *data, size_t size)
{
	u8 both[2 * SHA256_DIGEST_SIZE];

	memcpy(both, digest, SHA256_DIGEST_SIZE);
	sha256(data, size, both + SHA256_DIGEST_SIZE);
	sha256(both, sizeof(both), digest);
}

static int read_page(struct kvm_vcpu *vcpu, gpa_t gpa, struct mbecg_text_page *page)
{
	if (!PAGE_ALIGNED(gpa))
		return -EINVAL;
	if (!kvm_vcpu_is_visible_gfn(vcpu, gpa_to_gfn(gpa)) ||
	    kvm_vcpu_read_guest(vcpu, gpa, page, sizeof(*page)))
		return -EFAULT;
	if (fatal_signal_pending(current))
		return -EFAULT;
	cond_resched();
	return 0;
}

int mbecg_text_take(struct kvm_vcpu *vcpu, struct mbecg_text *text, gpa_t gpa)
{
	struct mbecg_text_page *page __free(kvfree) = kvmalloc(sizeof(*page), GFP_KERNEL);
	struct upload upload = { .text = text };
	u32 pages = 0;
	int r;

	if (!page)
		return -E2BIG;
	for (; gpa; gpa = page->next_pa) {
		if (pages == MBECG_TEXT_LIST_PAGES)
			return -E2BIG;
		r = read_page(vcpu, gpa, page);
		if (!r)
			r = pages++ ? take_page(&upload, page) : take_head(&upload, page);
		if (r)
			return r;
		mbecg_text_fold(text->digest, &page->part,
				sizeof(*page) - offsetof(struct mbecg_text_page, part));
	}
	if (upload.nr_sites != text->table.nr_sites || upload.nr_targets != text->table.nr_targets)
		return -EINVAL;
	return mbecg_table_check(&text->table, gfn_to_gpa(text->end - text->start));
}
