// SPDX-License-Identifier: GPL-2.0-only
/* Runs the pages that exist to be denied, and tries what a seal forbids. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/completion.h>
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/preempt.h>
#include <linux/sched/task.h>
#include <linux/vmalloc.h>
#include <asm/asm.h>

#include "mbectest.h"

#define UNGUARDED_ENTRY	4	/* bytes of ENDBR64 */

unsigned long mbectest_canary(unsigned int index)
{
	return (unsigned long)mbectest_canaries + index * PAGE_SIZE;
}

phys_addr_t mbectest_canary_pa(unsigned int index)
{
	return PFN_PHYS(vmalloc_to_pfn((void *)mbectest_canary(index)));
}

int mbectest_verb_canary(const u64 *words, int count, char *text, size_t size)
{
	if (words[0] >= MBECTEST_CANARIES)
		return -ERANGE;
	return scnprintf(text, size, "%#llx", (u64)mbectest_canary_pa(words[0]));
}

/* Two registers: a small struct, for the ABI. Interrupts stay off so that CR2 is ours. */
struct mbectest_outcome mbectest_run(unsigned int index)
{
	struct mbectest_outcome (*entry)(void);
	struct mbectest_outcome seen;
	unsigned long flags;

	entry = (void *)mbectest_canary(index);
	local_irq_save(flags);
	seen = entry();
	local_irq_restore(flags);
	return seen;
}

bool mbectest_ran(struct mbectest_outcome seen, unsigned int index)
{
	return seen.value == 0x1000 + index;
}

int mbectest_verb_run(const u64 *words, int count, char *text, size_t size)
{
	struct mbectest_outcome seen;

	if (words[0] >= MBECTEST_CANARIES)
		return -ERANGE;
	seen = mbectest_run(words[0]);
	if (mbectest_ran(seen, words[0]))
		return scnprintf(text, size, "ran");
	return scnprintf(text, size, "trap %llu cr2 canary%+lld",
			 seen.value, seen.cr2 - mbectest_canary(words[0]));
}

static DECLARE_COMPLETION(victim_gone);

static int victim(void *entry)
{
	void (*unguarded)(void) = entry;

	unguarded();
	complete(&victim_gone);
	return 0;
}

/* Whether the thread came back, however slow the machine is. */
static bool came_back(struct task_struct *thread)
{
	while (!wait_for_completion_timeout(&victim_gone, HZ / 10))
		if (READ_ONCE(thread->exit_state))
			return try_wait_for_completion(&victim_gone);
	return true;
}

/* The thread dies of the fault; what the kernel says about it is in its log. */
int mbectest_run_unguarded(void *entry, char *text, size_t size)
{
	struct task_struct *thread;
	bool back;

	reinit_completion(&victim_gone);
	thread = kthread_create(victim, entry, "mbectest-victim");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	get_task_struct(thread);
	wake_up_process(thread);
	back = came_back(thread);
	put_task_struct(thread);
	return scnprintf(text, size, back ? "ran" : "died");
}

int mbectest_verb_oops(const u64 *words, int count, char *text, size_t size)
{
	unsigned long entry;

	if (words[0] >= MBECTEST_CANARIES)
		return -ERANGE;
	entry = mbectest_canary(words[0]);
	OPTIMIZER_HIDE_VAR(entry);	/* objtool: no ENDBR at this entry */
	return mbectest_run_unguarded((void *)(entry + UNGUARDED_ENTRY), text, size);
}
