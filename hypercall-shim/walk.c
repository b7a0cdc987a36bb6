// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Lists what the page tables let the kernel execute. They may change meanwhile:
 * every read of a table or a page may fail, and none is believed to be a table
 * or a page still. A caller who wants to be sure walks twice.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <asm/special_insns.h>

#include "shim.h"

#define TABLE_BITS	9
#define INT3_BYTE	0xcc
#define FULL		1	/* of walk(): there is more */

struct walk {
	u64 from;
	struct mbecguard_mapping __user *to;
	u32 count;
	u32 filled;
	struct mbecguard_mapping run;	/* not in @to yet; no bytes: none */
	u8 *page;			/* for content; NULL: nobody asks */
};

static int flush(struct walk *walk)
{
	if (!walk->run.bytes)
		return 0;
	if (copy_to_user(walk->to + walk->filled, &walk->run, sizeof(walk->run)))
		return -EFAULT;
	walk->filled++;
	walk->run.bytes = 0;
	return 0;
}

static int add(struct walk *walk, const struct mbecguard_mapping *more)
{
	struct mbecguard_mapping *run = &walk->run;
	int err;

	if (run->bytes && run->flags == more->flags && run->va + run->bytes == more->va &&
	    run->pa + run->bytes == more->pa) {
		run->bytes += more->bytes;
		return 0;
	}
	err = flush(walk);
	if (err)
		return err;
	*run = *more;
	return walk->filled == walk->count ? FULL : 0;
}

/*
 * its_init_thunk() in arch/x86/kernel/alternative.c writes `jmp *%reg` and int3, and the rest is int3. Where FineIBT is
 * paranoid, an invalid instruction and `jne` to it come first; before UDB (d6) had a name it was ea.
 */
static bool is_thunks(const u8 *page)
{
	size_t i = 0;

	while (i < PAGE_SIZE) {
		if (page[i] == INT3_BYTE) {
			i++;
			continue;
		}
		if (i + 3 <= PAGE_SIZE && (page[i] == 0xd6 || page[i] == 0xea) && page[i + 1] == 0x75 &&
		    page[i + 2] == 0xfd) {
			i += 3;
			continue;
		}
		i += page[i] == 0x41;	/* REX.B: R8 to R15 */
		if (i + 3 > PAGE_SIZE || page[i] != 0xff || (page[i + 1] & ~7) != 0xe0 ||
		    page[i + 2] != INT3_BYTE)
			return false;
		i += 3;
	}
	return true;
}

static u32 content(u8 *page, u64 va)
{
	if (copy_from_kernel_nofault(page, (void *)va, PAGE_SIZE))
		return 0;
	if (!memchr_inv(page, INT3_BYTE, PAGE_SIZE))
		return MBECGUARD_MAP_INT3;
	return is_thunks(page) ? MBECGUARD_MAP_THUNKS : 0;
}

static int pause(void)
{
	cond_resched();
	return fatal_signal_pending(current) ? -EINTR : 0;
}

static int add_by_page(struct walk *walk, struct mbecguard_mapping leaf)
{
	u64 end = leaf.va + leaf.bytes;
	u32 flags = leaf.flags;
	int err = 0;

	leaf.bytes = PAGE_SIZE;
	while (leaf.va != end && !err) {
		leaf.flags = flags | content(walk->page, leaf.va);
		err = add(walk, &leaf) ?: pause();
		leaf.va += PAGE_SIZE;
		leaf.pa += PAGE_SIZE;
	}
	return err;
}

/* @entry with the rights of all levels. */
static int add_leaf(struct walk *walk, u64 entry, u64 va, u64 bytes)
{
	u64 skip = va < walk->from ? walk->from - va : 0;
	struct mbecguard_mapping leaf = {
		.va = va + skip,
		.pa = (entry & PTE_PFN_MASK & ~(bytes - 1)) + skip,
		.bytes = bytes - skip,
		.flags = (entry & _PAGE_RW ? MBECGUARD_MAP_WRITABLE : 0) |
			 (entry & _PAGE_USER ? MBECGUARD_MAP_USER : 0),
	};

	return walk->page ? add_by_page(walk, leaf) : add(walk, &leaf);
}

/* A table that is no table any more may name any address: memory holes, unmapped memory. */
static u64 read_entry(u64 table, unsigned int index)
{
	u64 entry;

	if (!pfn_valid(PHYS_PFN(table)))
		return 0;
	if (copy_from_kernel_nofault(&entry, (u64 *)phys_to_virt(table) + index, sizeof(entry)))
		return 0;
	return entry;
}

/* @level: 1 of page tables; @rights: write and user, of the levels above; @base: of the table's first entry. */
static int walk_table(struct walk *walk, u64 table, int level, u64 base, u64 rights)
{
	int shift = PAGE_SHIFT + (level - 1) * TABLE_BITS;
	unsigned int i = base < walk->from ? (walk->from - base) >> shift : 0;
	int err = pause();

	for (; i < PTRS_PER_PTE && !err; i++) {
		u64 entry = read_entry(table, i), va = base + ((u64)i << shift);

		if (!(entry & _PAGE_PRESENT) || entry & _PAGE_NX)
			continue;
		entry &= rights | ~(_PAGE_RW | _PAGE_USER);
		if (level == 1 || (level <= 3 && entry & _PAGE_PSE))
			err = add_leaf(walk, entry, va, 1ull << shift);
		else
			err = walk_table(walk, entry & PTE_PFN_MASK, level - 1, va, entry);
	}
	return err;
}

static u64 kernel_half(void)
{
	return ~0ull << (pgtable_l5_enabled() ? 56 : 47);
}

/* With page table isolation, too: the kernel runs on its own table. 0, FULL, or an error. */
static int walk_kernel(struct walk *walk)
{
	int level = pgtable_l5_enabled() ? 5 : 4, err;

	walk->from = max(walk->from, kernel_half());
	err = walk_table(walk, read_cr3_pa(), level, kernel_half() << 1, _PAGE_RW | _PAGE_USER);
	return err ?: flush(walk);
}

bool mbecg_executable(u64 va)
{
	struct walk walk = { .from = va };

	/* Nothing is asked for: the first leaf stops it. */
	return walk_kernel(&walk) == FULL && walk.run.va == va && !(walk.run.flags & MBECGUARD_MAP_USER);
}

int mbecg_mappings(void *argument)
{
	struct mbecguard_mappings *mappings = argument;
	struct walk walk = {
		.from = mappings->from_va,
		.to = u64_to_user_ptr(mappings->mappings),
		.count = mappings->count,
	};
	int err;

	if (mappings->reserved || mappings->flags & ~MBECGUARD_MAPPINGS_CONTENT || !walk.count ||
	    !PAGE_ALIGNED(walk.from) || (walk.from && walk.from < kernel_half()))
		return -EINVAL;
	if (mappings->flags & MBECGUARD_MAPPINGS_CONTENT) {
		walk.page = (void *)__get_free_page(GFP_KERNEL);
		if (!walk.page)
			return -ENOMEM;
	}
	err = walk_kernel(&walk);
	free_page((unsigned long)walk.page);
	mappings->count = walk.filled;
	mappings->from_va = err == FULL ? walk.run.va : 0;
	return min(err, 0);
}
