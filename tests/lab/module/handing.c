// SPDX-License-Identifier: GPL-2.0-only
/* Text that is handed over while others write to it; page tables in text; what a judged store costs. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/timex.h>
#include <linux/vmalloc.h>
#include <asm/asm.h>
#include <asm/traps.h>

#include "mbectest.h"

#define HC_TEXT_MAGIC	0x54584554494b4548ull	/* "HEKITEXT" */
#define PATCHERS	3
#define SITE_BYTES	5
#define SITE_GAP	64
#define KIND_JUMP	1
#define INT3		0xcc

static const u8 nop[SITE_BYTES] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
static const u8 jump[SITE_BYTES] = { 0xe9, 0x00, 0x01, 0x00, 0x00 };	/* 256 bytes on */

/* One who patches a site as Linux does, back and forth. */
struct patcher {
	u8 *site;
	u64 rounds;
	u64 torn;		/* what the last round wrote was not there */
	struct task_struct *thread;
};

static void patch(u8 *site, const u8 *form)
{
	WRITE_ONCE(site[0], INT3);
	barrier();
	memcpy(site + 1, form + 1, SITE_BYTES - 1);
	barrier();
	WRITE_ONCE(site[0], form[0]);
	barrier();
}

static int patch_on(void *data)
{
	struct patcher *is = data;

	while (!kthread_should_stop()) {
		const u8 *form = is->rounds++ % 2 ? jump : nop;

		patch(is->site, form);
		is->torn += !!memcmp(is->site, form, SITE_BYTES);
		cond_resched();
	}
	return 0;
}

/* Hand the page over, with a site for each patcher. */
static long hand_over(u64 pa, int sites)
{
	u64 *head = (u64 *)mbectest_list_at(0), *records = (u64 *)mbectest_list_at(1);
	int trap, i;

	memset(head, 0, PAGE_SIZE);
	memset(records, 0, PAGE_SIZE);
	head[1] = sites ? virt_to_phys(records) : 0;
	head[3] = 1 | 1ull << 32;
	head[4] = pa;
	head[5] = pa + PAGE_SIZE;
	head[6] = sites;
	records[3] = 2 | (u64)sites << 32;
	for (i = 0; i < sites; i++) {
		u32 offset = i * SITE_GAP, target = offset + SITE_BYTES + 0x100;
		u32 *record = (u32 *)&records[4] + 3 * i;

		record[0] = offset;
		record[1] = target;
		record[2] = (KIND_JUMP << 4 | SITE_BYTES) << 16;
	}
	return mbectest_hypercall(HC_PROTECT_MEMORY, virt_to_phys(head), HC_TEXT_MAGIC, &trap);
}

static void end_thread(struct task_struct *thread)
{
	kthread_stop(thread);
	put_task_struct(thread);
}

static int start(struct patcher *patchers, int nr, u8 *page)
{
	int i;

	for (i = 0; i < nr; i++) {
		patchers[i] = (struct patcher){ .site = page + i * SITE_GAP };
		memcpy(patchers[i].site, nop, SITE_BYTES);
		patchers[i].thread = kthread_create(patch_on, &patchers[i], "mbectest-patch");
		if (IS_ERR(patchers[i].thread))
			return i;
		get_task_struct(patchers[i].thread);	/* it may die */
		kthread_bind(patchers[i].thread, (i + 1) % num_online_cpus());
		wake_up_process(patchers[i].thread);
	}
	return nr;
}

/* PATCHERS ROUNDS: a page is handed over while so many patch it: patches, lost or torn ones, hand-overs refused. */
int mbectest_verb_patched_meanwhile(const u64 *words, int count, char *text, size_t size)
{
	struct patcher patchers[PATCHERS];
	u64 round, patches = 0, torn = 0, refused = 0;
	int i, nr;

	if (words[0] > PATCHERS)
		return -ERANGE;
	for (round = 0; round < words[1]; round++) {
		u8 *page = (void *)get_zeroed_page(GFP_KERNEL);	/* the host's from now on */

		if (!page)
			return -ENOMEM;
		nr = start(patchers, words[0], page);
		usleep_range(500 + 37 * (round % 16), 1200);
		refused += hand_over(virt_to_phys(page), nr) != 0;
		usleep_range(2000, 3000);
		for (i = 0; i < nr; i++) {
			end_thread(patchers[i].thread);
			patches += patchers[i].rounds;
			torn += patchers[i].torn;
		}
	}
	return scnprintf(text, size, "%llu %llu %llu", patches, torn, refused);
}

/* A device writes all over the page, word by word. */
static int write_all(void *data)
{
	u8 *page = data;
	int at;

	for (at = 0; at < PAGE_SIZE; at += 4)
		mbectest_device_write(virt_to_phys(page) + at);
	while (!kthread_should_stop())
		usleep_range(100, 200);
	return 0;
}

/* ROUNDS HAND: a page is handed over (or not) while a device writes to it: amid that, changed afterwards, refused. */
int mbectest_verb_written_meanwhile(const u64 *words, int count, char *text, size_t size)
{
	u8 *seen = kmalloc(PAGE_SIZE, GFP_KERNEL);
	u64 round, amid = 0, later = 0, refused = 0;

	if (!seen)
		return -ENOMEM;
	for (round = 0; round < words[0]; round++) {
		u8 *page = (void *)get_zeroed_page(GFP_KERNEL);	/* the host's from now on */
		struct task_struct *device;

		if (!page)
			break;
		device = kthread_create(write_all, page, "mbectest-device");
		if (IS_ERR(device))
			break;
		kthread_bind(device, 1);
		wake_up_process(device);
		usleep_range(1000 + 300 * (round % 16), 2000 + 300 * (round % 16));
		refused += words[1] && hand_over(virt_to_phys(page), 0);
		memcpy(seen, page, PAGE_SIZE);
		amid += seen[0] && !seen[PAGE_SIZE - 4];
		kthread_stop(device);
		later += !!memcmp(seen, page, PAGE_SIZE);
	}
	kfree(seen);
	return scnprintf(text, size, "%llu of %llu %llu %llu", amid, round, later, refused);
}

/* PA ROUNDS: the site there is patched back and forth: cycles for each store. */
int mbectest_verb_patch_cost(const u64 *words, int count, char *text, size_t size)
{
	struct page *page = pfn_to_page(PHYS_PFN(words[0]));
	u8 *at = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	u64 begun, i;

	if (!at || !words[1])
		return -ENOMEM;
	begun = rdtsc();
	for (i = 0; i < words[1]; i++) {
		u32 tail = i % 2 ? 0x0000441f : 0x000001fb;

		WRITE_ONCE(at[offset_in_page(words[0])], INT3);
		WRITE_ONCE(*(u32 *)(at + offset_in_page(words[0]) + 1), tail);
		WRITE_ONCE(at[offset_in_page(words[0])], i % 2 ? 0x0f : 0xe9);
	}
	begun = rdtsc() - begun;
	vunmap(at);
	return scnprintf(text, size, "%llu", begun / (3 * words[1]));
}

/* The table entry of 2 MiB that @address is in; kernel memory of vmalloc(). */
static pmd_t *table_of(unsigned long address)
{
	pgd_t *pgd = (pgd_t *)__va(read_cr3_pa()) + pgd_index(address);

	return pmd_offset(pud_offset(p4d_offset(pgd, address), address), address);
}

static void forget(void *address)
{
	asm volatile("invlpg (%0)" : : "r" (address) : "memory");
}

static int guarded_load(const u8 *at)
{
	int trapped = 1;
	long trap = 0;

	asm volatile("1: movb (%[at]), %%cl\n\t"
		     "xor %[trapped], %[trapped]\n"
		     "2:\n"
		     _ASM_EXTABLE_TYPE(1b, 2b, EX_TYPE_FAULT)
		     : "+a" (trap), [trapped] "+r" (trapped) : [at] "r" (at) : "rcx", "memory", "cc");
	return trapped ? (int)trap : -1;
}

#define ROOM	(2 * PMD_SIZE)

/* By the entry of a page table that lies at @entry. */
static int walk(u64 entry, struct page **pages, char *text, size_t size)
{
	u8 *room = vmap(pages, ROOM / PAGE_SIZE, VM_MAP, PAGE_KERNEL);
	unsigned long flags;
	pmd_t *pmd, before;
	u8 *at;
	int trap;

	if (!room)
		return -ENOMEM;
	at = PTR_ALIGN(room, PMD_SIZE) + (offset_in_page(entry) / sizeof(pte_t)) * PAGE_SIZE;
	pmd = table_of((unsigned long)at);
	before = *pmd;
	local_irq_save(flags);
	set_pmd(pmd, __pmd((entry & PAGE_MASK) | _KERNPG_TABLE));
	forget(at);
	trap = guarded_load(at);
	set_pmd(pmd, before);
	forget(at);
	local_irq_restore(flags);
	on_each_cpu(forget, at, 1);
	vunmap(room);
	return trap < 0 ? scnprintf(text, size, "walked") : scnprintf(text, size, "trap %d", trap);
}

/* PA: an entry of a page table, by which the processor is made to go: "walked", or the trap. */
int mbectest_verb_walk(const u64 *words, int count, char *text, size_t size)
{
	struct page **pages = kvcalloc(ROOM / PAGE_SIZE, sizeof(*pages), GFP_KERNEL);
	int i, r;

	if (!pages)
		return -ENOMEM;
	for (i = 0; i < ROOM / PAGE_SIZE; i++)
		pages[i] = pfn_to_page(PHYS_PFN(words[0]));
	r = walk(words[0], pages, text, size);
	kvfree(pages);
	return r;
}
