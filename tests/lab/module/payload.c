// SPDX-License-Identifier: GPL-2.0-only
/* What an attacker does with a kernel write: makes data pages executable and runs them. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/compiler.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "mbectest.h"

#define PAYLOADS	4	/* two in the heap, two of vmalloc */

static void *payloads[PAYLOADS];
static void **route;		/* pages to run, one after the other */
static u64 route_length;

/* Whatever the level: of a large page of the direct map the attacker has it all. */
int mbectest_clear_nx(void *address)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)address, &level);

	if (!pte)
		return -EFAULT;
	set_pte(pte, pte_mkexec(*pte));
	return 0;
}

/* A lock would find the page, and refuse. */
static void forbid(void *address)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)address, &level);

	set_pte(pte, __pte(pte_val(*pte) | _PAGE_NX));
}

void mbectest_write_function(void *at)
{
	static const u8 function[] = { 0xf3, 0x0f, 0x1e, 0xfa, 0xc3, 0xcc }; /* endbr64; ret */

	memcpy(at, function, sizeof(function));
}

int mbectest_payload_init(void)
{
	int i;

	for (i = 0; i < PAYLOADS; i++) {
		payloads[i] = i < 2 ? kzalloc(PAGE_SIZE, GFP_KERNEL) : vzalloc(PAGE_SIZE);
		if (!payloads[i])
			goto free;
		mbectest_write_function(payloads[i]);
	}
	return 0;

free:
	mbectest_payload_exit();
	return -ENOMEM;
}

void mbectest_payload_exit(void)
{
	int i;

	for (i = 0; i < PAYLOADS; i++)
		kvfree(payloads[i]);
}

/* PAYLOAD: its physical address. */
int mbectest_verb_payload(const u64 *words, int count, char *text, size_t size)
{
	if (words[0] >= PAYLOADS)
		return -ERANGE;
	return scnprintf(text, size, "%#llx", (u64)slow_virt_to_phys(payloads[words[0]]));
}

int mbectest_verb_payload_run(const u64 *words, int count, char *text, size_t size)
{
	int r;

	if (words[0] >= PAYLOADS)
		return -ERANGE;
	r = mbectest_clear_nx(payloads[words[0]]) ?:
	    mbectest_run_unguarded(payloads[words[0]], text, size);
	forbid(payloads[words[0]]);
	return r;
}

/* PAYLOAD: executable by the page tables, and left so. */
int mbectest_verb_payload_plant(const u64 *words, int count, char *text, size_t size)
{
	if (words[0] >= PAYLOADS)
		return -ERANGE;
	return mbectest_clear_nx(payloads[words[0]]) ?: scnprintf(text, size, "planted");
}

/* ADDRESS: the physical one. */
int mbectest_verb_pa(const u64 *words, int count, char *text, size_t size)
{
	return scnprintf(text, size, "%#llx", (u64)slow_virt_to_phys((void *)words[0]));
}

static void walk_route(void)
{
	u64 i;

	for (i = 0; i < route_length; i++) {
		void (*entry)(void) = route[i];

		entry();
	}
}

static int lay_route(u64 pages)
{
	int err = 0;

	route = kvcalloc(pages, sizeof(*route), GFP_KERNEL);
	if (!route)
		return -ENOMEM;
	for (route_length = 0; route_length < pages && !err; route_length++) {
		void *page = (void *)get_zeroed_page(GFP_KERNEL);

		if (!page)
			return -ENOMEM;
		route[route_length] = page;
		mbectest_write_function(page);
		err = mbectest_clear_nx(page);
	}
	return err;
}

static void free_route(void)
{
	while (route_length)
		free_page((unsigned long)route[--route_length]);
	kvfree(route);
}

/* PAGES: run so many data pages, all different. */
int mbectest_verb_wander(const u64 *words, int count, char *text, size_t size)
{
	int r;

	if (words[0] > SZ_64M / PAGE_SIZE)
		return -ERANGE;
	r = lay_route(words[0]) ?: mbectest_run_unguarded(walk_route, text, size);
	free_route();
	return r;
}
