// SPDX-License-Identifier: GPL-2.0-only
/* A virtual address of kernel text that is made to mean another frame. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/pgtable.h>

#include "mbectest.h"

struct route {
	pte_t *leaf;	/* of whatever level */
	pte_t before;
	pte_t *table;	/* ours, in place of a large page; else NULL */
};

static unsigned long blank(void)
{
	return (unsigned long)mbectest_blank;
}

/* The large page @large again, by small ones, but for @address. */
static pte_t *split(pte_t large, unsigned long address, struct page *to)
{
	pgprot_t small = pgprot_large_2_4k(pte_pgprot(large));
	pte_t *table = (pte_t *)get_zeroed_page(GFP_KERNEL);
	int i;

	for (i = 0; table && i < PTRS_PER_PTE; i++)
		table[i] = pfn_pte(pte_pfn(large) + i, small);
	if (table)
		table[pte_index(address)] = pfn_pte(page_to_pfn(to), small);
	return table;
}

static int point(struct route *route, unsigned long address, struct page *to)
{
	unsigned int level;

	route->table = NULL;
	route->leaf = lookup_address(address, &level);
	if (!route->leaf || level > PG_LEVEL_2M)
		return -EFAULT;
	route->before = *route->leaf;
	if (level == PG_LEVEL_4K) {
		set_pte(route->leaf, pfn_pte(page_to_pfn(to), pte_pgprot(route->before)));
		return 0;
	}
	route->table = split(route->before, address, to);
	if (!route->table)
		return -ENOMEM;
	set_pte(route->leaf, __pte(__pa(route->table) | _KERNPG_TABLE_NOENC));
	return 0;
}

static void forget(void *address)
{
	asm volatile("invlpg (%0)" : : "r" (address) : "memory");
}

/* On the CPU that runs it: another one may know the address still. */
static void visit(void)
{
	void (*entry)(void) = (void *)blank();

	forget(entry);
	entry();
}

int mbectest_repoint(char *text, size_t size)
{
	struct page *page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	struct route route;
	int r;

	if (!page)
		return -ENOMEM;
	mbectest_write_function(page_address(page));
	r = point(&route, blank(), page);
	if (r)
		goto free_page;
	r = mbectest_run_unguarded(visit, text, size);
	set_pte(route.leaf, route.before);
	on_each_cpu(forget, (void *)blank(), 1);
	free_page((unsigned long)route.table);

free_page:
	__free_page(page);
	return r;
}
