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
	u32 nr_runs;
};

/* The next of @text's runs; @come have come. */
static int take_run(struct mbecg_text *text, u32 come, u64 pa, u64 epa, u32 offset)
{
	struct mbecg_run *run = &text->runs[come], *last = come ? run - 1 : NULL;

	if (!PAGE_ALIGNED(pa | epa | offset) || pa >= epa ||
	    gpa_to_gfn(epa) > kvm_mmu_max_gfn() + 1)
		return -EINVAL;
	if (gpa_to_gfn(epa - pa) > MBECG_TEXT_PAGES - text->nr_pages)
		return -E2BIG;
	if (offset + (epa - pa) > BIT_ULL(32) ||
	    (last && offset < last->offset + gfn_to_gpa(last->end - last->start)))
		return -EINVAL;
	*run = (struct mbecg_run){ text, gpa_to_gfn(pa), gpa_to_gfn(epa), offset };
	text->nr_pages += run->end - run->start;
	return 0;
}

static int take_head(struct upload *upload, const struct mbecg_text_page *page)
{
	const struct mbecg_text_head *head = (const void *)page->data;
	struct mbecg_text *text = upload->text;

	if (page->part != MBECG_PART_HEAD || page->nr != 1 || page->npages ||
	    head->flags & ~(MBECG_TEXT_LOG | MBECG_TEXT_DATA) ||
	    (head->flags & MBECG_TEXT_DATA && head->nr_sites))
		return -EINVAL;
	if (head->nr_sites > MBECG_TEXT_RECORDS || head->nr_targets > MBECG_TEXT_RECORDS ||
	    head->nr_runs >= MBECG_TEXT_PAGES)
		return -E2BIG;
	text->data = head->flags & MBECG_TEXT_DATA;
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
	text->nr_runs = 1 + head->nr_runs;
	text->runs = kvcalloc(text->nr_runs, sizeof(*text->runs), GFP_KERNEL_ACCOUNT);
	if (!upload->sites || !upload->targets || !text->runs)
		return -E2BIG;
	upload->nr_runs = 1;
	return take_run(text, 0, head->pa, head->epa, 0);
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

static int take_runs(struct upload *upload, const struct mbecg_text_page *page)
{
	const struct mbecg_text_run *runs = (const void *)page->data;
	struct mbecg_text *text = upload->text;
	u32 i;
	int r = 0;

	if (page->npages || page->nr > sizeof(page->data) / sizeof(*runs) ||
	    page->nr > text->nr_runs - upload->nr_runs)
		return -EINVAL;
	for (i = 0; !r && i < page->nr; i++)
		r = runs[i].unused ? -EINVAL :
		    take_run(text, upload->nr_runs++, runs[i].pa, runs[i].epa, runs[i].offset);
	return r;
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
	case MBECG_PART_RUNS:
		return take_runs(upload, page);
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

/* The site's bytes may be in two runs, which follow each other. */
static bool sites_inside(const struct mbecg_text *text)
{
	u32 i;

	for (i = 0; i < text->table.nr_sites; i++) {
		const struct mbecg_site *site = &text->table.sites[i];

		if (!mbecg_run_of(text, site->offset) ||
		    !mbecg_run_of(text, site->offset + mbecg_site_length(site) - 1))
			return false;
		if (!(i % 1024))
			cond_resched();
	}
	return true;
}

static int check(const struct upload *upload)
{
	const struct mbecg_text *text = upload->text;
	const struct mbecg_run *last = &text->runs[text->nr_runs - 1];

	if (upload->nr_sites != text->table.nr_sites ||
	    upload->nr_targets != text->table.nr_targets || upload->nr_runs != text->nr_runs)
		return -EINVAL;
	if (!sites_inside(text))
		return -EINVAL;
	return mbecg_table_check(&text->table, last->offset + gfn_to_gpa(last->end - last->start));
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
	return check(&upload);
}
