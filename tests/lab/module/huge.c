// SPDX-License-Identifier: GPL-2.0-only
/* 2 MiB of guest-physical memory in one block, executable, a function in each page. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/vmalloc.h>

#include "mbectest.h"

#define HUGE_ORDER	9	/* 2 MiB */
#define PAGES		BIT(HUGE_ORDER)

static struct page *block;
static void *code;

/* vmap() sets NX whatever it is asked for: an attacker clears it, and so do we. */
static int clear_nx(void *start)
{
	int i, err = 0;

	for (i = 0; i < PAGES && !err; i++)
		err = mbectest_clear_nx(start + i * PAGE_SIZE);
	return err;
}

/* The functions are written through the direct map: no CPU has seen the NX of the new mapping. */
static int map_executable(void)
{
	static struct page *pages[PAGES];
	int i, err;

	for (i = 0; i < PAGES; i++) {
		pages[i] = block + i;
		mbectest_write_function(page_address(pages[i]));
	}
	code = vmap(pages, PAGES, VM_MAP, PAGE_KERNEL);
	if (!code)
		return -ENOMEM;
	err = clear_nx(code);
	if (err)
		vunmap(code);
	return err;
}

/* At the first use: a guest that is to be locked has no executable page that nobody explains. */
static int make_block(void)
{
	int err;

	if (block)
		return 0;
	block = alloc_pages(GFP_KERNEL | __GFP_ZERO, HUGE_ORDER);
	if (!block)
		return -ENOMEM;
	err = map_executable();
	if (err) {
		__free_pages(block, HUGE_ORDER);
		block = NULL;
	}
	return err;
}

void mbectest_huge_exit(void)
{
	if (!block)
		return;
	vunmap(code);
	__free_pages(block, HUGE_ORDER);
}

int mbectest_verb_huge(const u64 *words, int count, char *text, size_t size)
{
	return make_block() ?: scnprintf(text, size, "%#llx", (u64)page_to_phys(block));
}

int mbectest_verb_huge_run(const u64 *words, int count, char *text, size_t size)
{
	int err = make_block();

	if (err)
		return err;
	if (words[0] >= PAGES)
		return -ERANGE;
	return mbectest_run_unguarded(code + words[0] * PAGE_SIZE, text, size);
}

/* Read and write each page: whatever of the block the host has unmapped is mapped again. */
int mbectest_verb_huge_touch(const u64 *words, int count, char *text, size_t size)
{
	int i, err = make_block();

	if (err)
		return err;
	for (i = 0; i < PAGES; i++) {
		u64 *word = (u64 *)page_address(block + i) + 1;

		WRITE_ONCE(*word, READ_ONCE(*word));
	}
	return 0;
}
