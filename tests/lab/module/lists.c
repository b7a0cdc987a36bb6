// SPDX-License-Identifier: GPL-2.0-only
/* List pages with arbitrary content. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/build_bug.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "mbectest.h"

static struct mbectest_list *lists[MBECTEST_LIST_PAGES];

int mbectest_lists_init(void)
{
	int i;

	static_assert(sizeof(struct mbectest_list) <= PAGE_SIZE);
	for (i = 0; i < MBECTEST_LIST_PAGES; i++) {
		lists[i] = (void *)get_zeroed_page(GFP_KERNEL);
		if (!lists[i])
			goto free;
	}
	return 0;

free:
	mbectest_lists_exit();
	return -ENOMEM;
}

void mbectest_lists_exit(void)
{
	int i;

	for (i = 0; i < MBECTEST_LIST_PAGES; i++)
		free_page((unsigned long)lists[i]);
}

struct mbectest_list *mbectest_list_at(unsigned int index)
{
	return lists[index];
}

int mbectest_verb_page(const u64 *words, int count, char *text, size_t size)
{
	if (words[0] >= MBECTEST_LIST_PAGES)
		return -ERANGE;
	return scnprintf(text, size, "%#llx", (u64)virt_to_phys(lists[words[0]]));
}

/* PAGE WORD VALUE: word 1 is next_pa, word 2 npages. */
int mbectest_verb_set(const u64 *words, int count, char *text, size_t size)
{
	if (words[0] >= MBECTEST_LIST_PAGES || words[1] >= PAGE_SIZE / sizeof(u64))
		return -ERANGE;
	((u64 *)lists[words[0]])[words[1]] = words[2];
	return 0;
}

/* PAGE PA EPA PERMISSIONS, behind the entries that are there. */
int mbectest_verb_entry(const u64 *words, int count, char *text, size_t size)
{
	struct mbectest_list *list;

	if (words[0] >= MBECTEST_LIST_PAGES || lists[words[0]]->npages >= MBECTEST_ENTRIES)
		return -ERANGE;
	list = lists[words[0]];
	list->entries[list->npages++] = (struct mbectest_entry){ words[1], words[2], words[3] };
	return 0;
}

/* COUNT PA PERMISSIONS: so many requests that change one page, or change it back; how many were refused. */
int mbectest_verb_churn(const u64 *words, int count, char *text, size_t size)
{
	u64 i, refused = 0;
	int trap;

	mbectest_verb_wipe(NULL, 0, NULL, 0);
	for (i = 0; i < words[0]; i++) {
		lists[0]->npages = 1;
		lists[0]->entries[0] = (struct mbectest_entry){
			words[1], words[1] + PAGE_SIZE, i % 2 ? 7 : words[2]
		};
		refused += !!mbectest_hypercall(HC_PROTECT_MEMORY, virt_to_phys(lists[0]), 0, &trap);
		cond_resched();
	}
	return scnprintf(text, size, "%llu", refused);
}

/* COUNT PA STRIDE BYTES PERMISSIONS: ranges at a stride, over as many pages as they need. */
int mbectest_verb_many(const u64 *words, int count, char *text, size_t size)
{
	struct mbectest_list *list = NULL;
	u64 i;

	if (words[0] > MBECTEST_LIST_PAGES * MBECTEST_ENTRIES)
		return -ERANGE;
	mbectest_verb_wipe(NULL, 0, NULL, 0);
	for (i = 0; i < words[0]; i++) {
		u64 pa = words[1] + i * words[2];
		u64 epa = pa + words[3];

		if (i % MBECTEST_ENTRIES == 0) {
			if (list)
				list->next_pa = virt_to_phys(lists[i / MBECTEST_ENTRIES]);
			list = lists[i / MBECTEST_ENTRIES];
		}
		list->entries[list->npages++] = (struct mbectest_entry){ pa, epa, words[4] };
	}
	return 0;
}

int mbectest_verb_wipe(const u64 *words, int count, char *text, size_t size)
{
	int i;

	for (i = 0; i < MBECTEST_LIST_PAGES; i++)
		memset(lists[i], 0, PAGE_SIZE);
	return 0;
}
