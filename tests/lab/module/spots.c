// SPDX-License-Identifier: GPL-2.0-only
/* Where an attacker with a kernel write can put code: each spot gets a function, is made executable, and is run. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bug.h>
#include <linux/compiler.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/percpu.h>
#include <linux/pgtable.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#if __has_include(<linux/hex.h>)
#include <linux/hex.h>
#endif

#include "mbectest.h"

#define ROOM	16	/* bytes; what was there before comes back */
#define RET_BYTE	0xc3
#define ROM_BYTES	SZ_64K
#define SEAT	1600	/* offset of the entry of a user address that nobody uses, in a top-level page table */

struct spot {
	void *(*get)(void);	/* a virtual address, or ERR_PTR */
	void (*put)(void *at);
	bool text;	/* executable already */
	bool fixed;	/* cannot be written: @get finds a RET there */
	int (*run)(char *text, size_t size);	/* instead of all that */
};

static u8 in_data[ROOM] __aligned(ROOM) = { 1 };
static u8 in_bss[ROOM] __aligned(ROOM);
static DEFINE_PER_CPU_ALIGNED(u8[ROOM], in_percpu);
static u8 *on_stack;	/* guarded by the device's lock, as all of this */

static void *get_heap(void)
{
	return kzalloc(PAGE_SIZE, GFP_KERNEL) ?: ERR_PTR(-ENOMEM);
}

static void put_heap(void *at)
{
	kfree(at);
}

static void *get_vmalloc(void)
{
	return vzalloc(PAGE_SIZE) ?: ERR_PTR(-ENOMEM);
}

static void put_vmalloc(void *at)
{
	vfree(at);
}

static void *get_data(void)
{
	return in_data;
}

static void *get_bss(void)
{
	return in_bss;
}

static void *get_percpu(void)
{
	return raw_cpu_ptr(in_percpu);
}

static void *get_stack(void)
{
	return on_stack;
}

/* The first page of the scenario's own words, as the kernel keeps it. */
static void *get_pagecache(void)
{
	struct file *file = filp_open("/lab/words", O_RDONLY, 0);
	struct folio *folio;

	if (IS_ERR(file))
		return file;
	folio = read_mapping_folio(file->f_mapping, 0, file);
	filp_close(file, NULL);
	return IS_ERR(folio) ? ERR_CAST(folio) : folio_address(folio);
}

static void put_pagecache(void *at)
{
	folio_put(virt_to_folio(at));
}

static void *get_page_table(void)
{
	return (u8 *)current->mm->pgd + SEAT;
}

/* No oops is printed by these digits. */
static void *get_rodata(void)
{
	return (void *)hex_asc;
}

/* A second mapping of a heap page. vmap() gives nobody an executable one. */
static void *get_alias(void)
{
	struct page *page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	void *at = page ? vmap(&page, 1, VM_MAP, PAGE_KERNEL) : NULL;

	if (page && !at)
		__free_page(page);
	return at ?: ERR_PTR(-ENOMEM);
}

static void put_alias(void *at)
{
	struct page *page = vmalloc_to_page(at);

	vunmap(at);
	__free_page(page);
}

static u8 *rom;

/* The firmware's end: memory that the host lets nobody write. */
static void *rom_ending_at(resource_size_t end)
{
	u8 *ret;

	rom = memremap(end - ROM_BYTES, ROM_BYTES, MEMREMAP_WB);
	if (!rom)
		return ERR_PTR(-ENOMEM);
	ret = memchr(rom, RET_BYTE, ROM_BYTES);
	if (ret)
		return ret;
	memunmap(rom);
	return ERR_PTR(-ENOENT);
}

static void *get_rom(void)
{
	return rom_ending_at(SZ_4G);
}

/* The same frames of the host, at another guest physical address. */
static void *get_low_rom(void)
{
	return rom_ending_at(SZ_1M);
}

static void put_rom(void *at)
{
	memunmap(rom);
}

/* Dies unless it is overwritten. */
static noinline void not_overwritten(void)
{
	BUG();
}

static void *get_text(void)
{
	return not_overwritten;
}

/* In the order of tests/lab/attacks.py. */
static const struct spot spots[] = {
	{ get_heap, put_heap },
	{ get_vmalloc, put_vmalloc },
	{ get_data },
	{ get_bss },
	{ get_percpu },
	{ get_stack },
	{ get_pagecache, put_pagecache },
	{ get_page_table },
	{ get_rodata },
	{ get_alias, put_alias },
	{ get_rom, put_rom, .fixed = true },
	{ get_low_rom, put_rom, .fixed = true },
	{ .run = mbectest_repoint },
	{ get_text, .text = true },
};

/* Write by a mapping of our own: that of @at may be read-only. Keeps what was there in @before. */
static int exchange(void *at, const u8 *code, u8 *before)
{
	struct page *page = pfn_to_page(PHYS_PFN(slow_virt_to_phys(at)));
	u8 *own = vmap(&page, 1, VM_MAP, PAGE_KERNEL);

	if (!own)
		return -ENOMEM;
	memcpy(before, own + offset_in_page(at), ROOM);
	memcpy(own + offset_in_page(at), code, ROOM);
	vunmap(own);
	return 0;
}

static int run_at(const struct spot *spot, void *at, char *text, size_t size)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)at, &level);
	pte_t entry;
	int r;

	if (!pte || !pte_present(*pte))
		return -EFAULT;
	entry = *pte;
	if (!spot->text)
		set_pte(pte, pte_mkexec(entry));
	r = mbectest_run_unguarded(at, text, size);
	set_pte(pte, entry);
	return r;
}

static int write_and_run(const struct spot *spot, void *at, char *text, size_t size)
{
	u8 code[ROOM], before[ROOM];
	int r;

	memset(code, 0xcc, sizeof(code));
	mbectest_write_function(code);
	r = exchange(at, code, before);
	if (r)
		return r;
	r = run_at(spot, at, text, size);
	return exchange(at, before, code) ?: r;
}

/* Our own page of int3 has an owner, and stays text. */
static bool is_free(unsigned long page)
{
	unsigned int level;
	pte_t *pte = lookup_address(page, &level);

	return page != (unsigned long)mbectest_blank && pte && pte_present(*pte) &&
	       pte_exec(*pte) && !memchr_inv((void *)page, 0xcc, PAGE_SIZE);
}

/*
 * ADDRESS of kernel code: new code in the last page of the 2 MiB around it that
 * nobody uses: "ran", or "died"; "none" if there is no such page.
 */
int mbectest_verb_free_space(const u64 *words, int count, char *text, size_t size)
{
	static const struct spot executable = { .text = true };
	unsigned long start = words[0] & PMD_MASK, page = start + PMD_SIZE;

	while (page > start) {
		page -= PAGE_SIZE;
		if (is_free(page))
			return write_and_run(&executable, (void *)page, text, size);
	}
	return scnprintf(text, size, "none");
}

/* PA: new code in this page frame, whosever it is, by a mapping of our own: "ran", or "died". */
int mbectest_verb_frame(const u64 *words, int count, char *text, size_t size)
{
	static const struct spot here = {};
	u8 *at = memremap(words[0], ROOM, MEMREMAP_WB);
	u8 before[ROOM];
	int r;

	if (!at)
		return -ENOMEM;
	memcpy(before, at, ROOM);
	mbectest_write_function(at);
	r = run_at(&here, at, text, size);
	memcpy(at, before, ROOM);
	memunmap(at);
	return r;
}

/* ADDRESS VALUE BYTES: write kernel data. */
int mbectest_verb_poke(const u64 *words, int count, char *text, size_t size)
{
	if (words[2] > sizeof(words[1]))
		return -ERANGE;
	memcpy((void *)words[0], &words[1], words[2]);
	return 0;
}

/* ADDRESS VALUE BYTES: the same of kernel text, through a second mapping of its page, which is writable. */
int mbectest_verb_overwrite(const u64 *words, int count, char *text, size_t size)
{
	void *to = (void *)words[0];
	struct page *page = virt_addr_valid(to) ? virt_to_page(to) : vmalloc_to_page(to);
	void *alias;

	if (words[2] > sizeof(words[1]) || offset_in_page(to) + words[2] > PAGE_SIZE)
		return -ERANGE;
	alias = page ? vmap(&page, 1, VM_MAP, PAGE_KERNEL) : NULL;
	if (!alias)
		return -ENOMEM;
	memcpy(alias + offset_in_page(to), &words[1], words[2]);
	vunmap(alias);
	return 0;
}

/* SPOT: "ran", or "died". */
int mbectest_verb_spot(const u64 *words, int count, char *text, size_t size)
{
	u8 room[2 * ROOM];
	const struct spot *spot;
	void *at;
	int r;

	if (words[0] >= ARRAY_SIZE(spots))
		return -ERANGE;
	spot = &spots[words[0]];
	if (spot->run)
		return spot->run(text, size);
	on_stack = PTR_ALIGN(&room[0], ROOM);
	at = spot->get();
	if (IS_ERR(at))
		return PTR_ERR(at);
	r = spot->fixed ? run_at(spot, at, text, size) : write_and_run(spot, at, text, size);
	if (spot->put)
		spot->put(at);
	return r;
}
