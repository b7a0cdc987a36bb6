// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random hypercalls. A valid range lies in a hole of the guest-physical space,
 * so that no accepted request can stop the guest itself; everything else that
 * is sent has at least one fault.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/prandom.h>
#include <linux/sched.h>

#include "mbectest.h"

#define HOLE		0x3000000000ull	/* 192 GiB: above any RAM here, below 2^39 */
#define HOLE_PAGES	256
#define MUTABLE_PAGES	192
#define LOCAL_APIC	0xfee00000ull
#define ANY_BITS	(~0ull >> 1)

static struct rnd_state rnd;

static u32 below(u32 end)
{
	return prandom_u32_state(&rnd) % end;
}

static u64 any(void)
{
	return (u64)prandom_u32_state(&rnd) << 32 | prandom_u32_state(&rnd);
}

/* Pages once immutable refuse for ever: they keep to the upper part of the hole. */
static struct mbectest_entry valid_entry(void)
{
	bool upper = !below(64);
	u32 end = upper ? HOLE_PAGES : MUTABLE_PAGES;
	u32 start = upper ? MUTABLE_PAGES + below(HOLE_PAGES - MUTABLE_PAGES) : below(end);
	u32 pages = 1 + below(end - start);

	return (struct mbectest_entry){
		.pa = HOLE + (u64)start * PAGE_SIZE,
		.epa = HOLE + (u64)(start + pages) * PAGE_SIZE,
		.permissions = (1 + below(7)) | (upper ? 8 : 0),
	};
}

static struct mbectest_entry faulty_entry(void)
{
	struct mbectest_entry entry = valid_entry();

	switch (below(6)) {
	case 0:
		entry.permissions = 0;
		break;
	case 1:
		entry.permissions |= 16ull << below(60);
		break;
	case 2:
		entry.pa |= 1 + below(PAGE_SIZE - 1);
		break;
	case 3:
		entry.epa |= 1 + below(PAGE_SIZE - 1);
		break;
	case 4:
		entry.epa = entry.pa - below(2) * PAGE_SIZE;
		break;
	default:
		entry.epa = 1ull << (53 + below(11));
	}
	return entry;
}

static u64 any_list(void)
{
	static const u64 special[] = { 0, LOCAL_APIC, HOLE, 1ull << 52, ~0ull << PAGE_SHIFT };

	switch (below(8)) {
	case 0:
		return special[below(ARRAY_SIZE(special))];
	case 1:
		return virt_to_phys(mbectest_list_at(below(4))) + 1 + below(PAGE_SIZE - 1);
	default:
		return virt_to_phys(mbectest_list_at(below(4)));
	}
}

static void fill(struct mbectest_list *list)
{
	u32 i, count = below(8) ? 1 + below(4) : MBECTEST_ENTRIES;

	list->next = any();
	list->next_pa = below(3) ? 0 : any_list();
	list->npages = count;
	for (i = 0; i < count; i++)
		list->entries[i] = below(64) ? valid_entry() : faulty_entry();
	if (!below(8))
		list->npages = below(2) ? 0 : MBECTEST_ENTRIES + 1 + (any() >> below(64));
}

/* Only bits that a lock pins anyway: any other would stop the guest sooner or later. */
static long pin(int *trap)
{
	u64 which = below(4) ? 4 * below(2) : any();
	u64 bits = which == 4 ? BIT(20) : BIT(31) | BIT(16);

	return mbectest_hypercall(HC_LOCK_CR_UPDATE, which, bits, trap);
}

static long one_call(int *trap)
{
	switch (below(16)) {
	case 0:
		return mbectest_hypercall(16 + (any() & ANY_BITS) % ANY_BITS, any(), any(), trap);
	case 1:
		return mbectest_hypercall(HC_PROTECT_MEMORY, 0,
					  below(2) ? HC_QUERY_MAGIC : any(), trap);
	case 2:
		return pin(trap);
	default:
		fill(mbectest_list_at(below(4)));
		return mbectest_hypercall(HC_PROTECT_MEMORY, any_list(), any(), trap);
	}
}

/* SEED CALLS: how many calls were accepted, refused, and trapped. */
int mbectest_verb_fuzz(const u64 *words, int count, char *text, size_t size)
{
	u64 i, accepted = 0, refused = 0, trapped = 0;

	prandom_seed_state(&rnd, words[0]);
	mbectest_verb_wipe(NULL, 0, NULL, 0);
	for (i = 0; i < words[1]; i++) {
		int trap;
		long result = one_call(&trap);

		trapped += trap >= 0;
		accepted += trap < 0 && result >= 0;
		refused += trap < 0 && result < 0;
		cond_resched();
	}
	return scnprintf(text, size, "accepted %llu refused %llu trapped %llu",
			 accepted, refused, trapped);
}
