// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random hypercalls, by one CPU or by several at once. A valid range lies in a
 * hole of the guest-physical space, so that no accepted request can stop the
 * guest itself; everything else that is sent has at least one fault. That holds
 * as well for lists that one CPU fills while the host copies them for another.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/prandom.h>
#include <linux/sched.h>

#include "mbectest.h"

#define HOLE		0x3000000000ull	/* 192 GiB: above any RAM here, below 2^39 */
#define HOLE_PAGES	256
#define MUTABLE_PAGES	192
#define LOCAL_APIC	0xfee00000ull
#define ANY_BITS	(~0ull >> 1)

#define LISTS		4	/* shared by all CPUs */
#define MAX_CALLERS	8

struct caller {
	struct rnd_state rnd;
	struct task_struct *thread;
	struct completion done;
	u64 calls;
	u64 accepted;
	u64 refused;
	u64 trapped;
};

static u32 below(struct caller *by, u32 end)
{
	return prandom_u32_state(&by->rnd) % end;
}

static u64 any(struct caller *by)
{
	return (u64)prandom_u32_state(&by->rnd) << 32 | prandom_u32_state(&by->rnd);
}

/* Pages once immutable refuse for ever: they keep to the upper part of the hole. */
static struct mbectest_entry valid_entry(struct caller *by)
{
	bool upper = !below(by, 64);
	u32 end = upper ? HOLE_PAGES : MUTABLE_PAGES;
	u32 start = upper ? MUTABLE_PAGES + below(by, HOLE_PAGES - MUTABLE_PAGES) : below(by, end);
	u32 pages = 1 + below(by, end - start);

	return (struct mbectest_entry){
		.pa = HOLE + (u64)start * PAGE_SIZE,
		.epa = HOLE + (u64)(start + pages) * PAGE_SIZE,
		.permissions = (1 + below(by, 7)) | (upper ? 8 : 0),
	};
}

static struct mbectest_entry faulty_entry(struct caller *by)
{
	struct mbectest_entry entry = valid_entry(by);

	switch (below(by, 6)) {
	case 0:
		entry.permissions = 0;
		break;
	case 1:
		entry.permissions |= 16ull << below(by, 60);
		break;
	case 2:
		entry.pa |= 1 + below(by, PAGE_SIZE - 1);
		break;
	case 3:
		entry.epa |= 1 + below(by, PAGE_SIZE - 1);
		break;
	case 4:
		entry.epa = entry.pa - below(by, 2) * PAGE_SIZE;
		break;
	default:
		entry.epa = 1ull << (53 + below(by, 11));
	}
	return entry;
}

static u64 any_list(struct caller *by)
{
	static const u64 special[] = { 0, LOCAL_APIC, HOLE, 1ull << 52, ~0ull << PAGE_SHIFT };

	switch (below(by, 8)) {
	case 0:
		return special[below(by, ARRAY_SIZE(special))];
	case 1:
		return virt_to_phys(mbectest_list_at(below(by, LISTS))) +
		       1 + below(by, PAGE_SIZE - 1);
	default:
		return virt_to_phys(mbectest_list_at(below(by, LISTS)));
	}
}

static void fill(struct caller *by, struct mbectest_list *list)
{
	u32 i, count = below(by, 8) ? 1 + below(by, 4) : MBECTEST_ENTRIES;

	list->next = any(by);
	list->next_pa = below(by, 3) ? 0 : any_list(by);
	list->npages = count;
	for (i = 0; i < count; i++)
		list->entries[i] = below(by, 64) ? valid_entry(by) : faulty_entry(by);
	if (!below(by, 8))
		list->npages = below(by, 2) ? 0 : MBECTEST_ENTRIES + 1 + (any(by) >> below(by, 64));
}

/* Only bits that a lock pins anyway: any other would stop the guest sooner or later. */
static long pin(struct caller *by, int *trap)
{
	u64 which = below(by, 4) ? 4 * below(by, 2) : any(by);
	u64 bits = which == 4 ? BIT(20) : BIT(31) | BIT(16);

	return mbectest_hypercall(HC_LOCK_CR_UPDATE, which, bits, trap);
}

static long one_call(struct caller *by, int *trap)
{
	switch (below(by, 16)) {
	case 0:
		return mbectest_hypercall(16 + (any(by) & ANY_BITS) % ANY_BITS, any(by), any(by),
					  trap);
	case 1:
		return mbectest_hypercall(HC_PROTECT_MEMORY, 0,
					  below(by, 2) ? HC_QUERY_MAGIC : any(by), trap);
	case 2:
		return pin(by, trap);
	default:
		fill(by, mbectest_list_at(below(by, LISTS)));
		return mbectest_hypercall(HC_PROTECT_MEMORY, any_list(by), any(by), trap);
	}
}

static void call(struct caller *by)
{
	u64 i;

	for (i = 0; i < by->calls; i++) {
		int trap;
		long result = one_call(by, &trap);

		by->trapped += trap >= 0;
		by->accepted += trap < 0 && result >= 0;
		by->refused += trap < 0 && result < 0;
		cond_resched();
	}
}

static int tell(const struct caller *by, char *text, size_t size)
{
	return scnprintf(text, size, "accepted %llu refused %llu trapped %llu",
			 by->accepted, by->refused, by->trapped);
}

/* SEED CALLS: how many calls were accepted, refused, and trapped. */
int mbectest_verb_fuzz(const u64 *words, int count, char *text, size_t size)
{
	struct caller by = { .calls = words[1] };

	prandom_seed_state(&by.rnd, words[0]);
	mbectest_verb_wipe(NULL, 0, NULL, 0);
	call(&by);
	return tell(&by, text, size);
}

static int call_and_wait(void *data)
{
	struct caller *by = data;

	call(by);
	complete(&by->done);
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static int start(struct caller *by, u64 seed, u64 calls, int cpu)
{
	prandom_seed_state(&by->rnd, seed + cpu);
	init_completion(&by->done);
	by->calls = calls;
	by->thread = kthread_create(call_and_wait, by, "mbectest-%d", cpu);
	if (IS_ERR(by->thread))
		return PTR_ERR(by->thread);
	kthread_bind(by->thread, cpu);
	wake_up_process(by->thread);
	return 0;
}

/* SEED CALLS CPUS: the same by the first CPUs at once, each so many; all of them together. */
int mbectest_verb_crowd(const u64 *words, int count, char *text, size_t size)
{
	struct caller callers[MAX_CALLERS] = {}, all = {};
	int cpu, started, err = 0;

	if (words[2] > min_t(u64, MAX_CALLERS, num_online_cpus()))
		return -ERANGE;
	mbectest_verb_wipe(NULL, 0, NULL, 0);
	for (started = 0; started < words[2] && !err; started += !err)
		err = start(&callers[started], words[0], words[1], started);
	for (cpu = 0; cpu < started; cpu++) {
		wait_for_completion(&callers[cpu].done);
		kthread_stop(callers[cpu].thread);
		all.accepted += callers[cpu].accepted;
		all.refused += callers[cpu].refused;
		all.trapped += callers[cpu].trapped;
	}
	return err ?: tell(&all, text, size);
}
