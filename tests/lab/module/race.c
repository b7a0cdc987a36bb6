// SPDX-License-Identifier: GPL-2.0-only
/* One CPU runs a canary without pause while another denies and grants it. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/sched.h>

#include "mbectest.h"

struct hammer {
	unsigned int canary;
	unsigned int epoch;	/* odd: a denial has returned, and no grant has been sent */
	u64 ran;
	u64 denied;
	u64 late;		/* ran although denied from before its start until after its end */
};

/* A CPU that does nothing but being denied is taken for a storm, and shut down. */
static void exit_to_host(void)
{
	u32 a = 0, b, c = 0, d;

	asm volatile("cpuid" : "+a" (a), "=b" (b), "+c" (c), "=d" (d));
}

static int hammer(void *data)
{
	struct hammer *seen = data;

	while (!kthread_should_stop()) {
		/* pairs with next_epoch(): the denial is in force before the run begins */
		unsigned int epoch = smp_load_acquire(&seen->epoch);
		bool ran = mbectest_ran(mbectest_run(seen->canary), seen->canary);

		smp_rmb();	/* the epoch is read again when the run is over */
		seen->ran += ran;
		seen->denied += !ran;
		seen->late += ran && epoch % 2 && READ_ONCE(seen->epoch) == epoch;
		if (!ran)
			exit_to_host();
		cond_resched();
	}
	return 0;
}

static long protect(unsigned int canary, u64 permissions)
{
	struct mbectest_list *list = mbectest_list_at(0);
	u64 pa = mbectest_canary_pa(canary);
	int trap;
	long result;

	list->next_pa = 0;
	list->npages = 1;
	list->entries[0] = (struct mbectest_entry){ pa, pa + PAGE_SIZE, permissions };
	result = mbectest_hypercall(HC_PROTECT_MEMORY, virt_to_phys(list), 0, &trap);
	return trap >= 0 ? -EOPNOTSUPP : result;
}

static void next_epoch(struct hammer *seen)
{
	/* pairs with hammer(): behind a denial that has returned, before the next grant */
	smp_store_release(&seen->epoch, seen->epoch + 1);
}

static int one_round(struct hammer *seen)
{
	int err = protect(seen->canary, 3);

	next_epoch(seen);
	usleep_range(200, 400);
	next_epoch(seen);
	err = err ?: protect(seen->canary, 7);
	usleep_range(200, 400);
	return err;
}

/* Set CR4.VMXE as soon as the other CPU is about to seal. */
static int set_vmxe_late(void *data)
{
	bool *sealing = data;

	while (!smp_load_acquire(sealing) && !kthread_should_stop())
		cpu_relax();
	mbectest_try_cr(4, mbectest_read_cr(4) | X86_CR4_VMXE);
	while (!kthread_should_stop())
		usleep_range(200, 400);
	return 0;
}

/* No words, on CPU 0: send list page 0, while CPU 1 sets CR4.VMXE behind the host's look at it. */
int mbectest_verb_late_vmxe(const u64 *words, int count, char *text, size_t size)
{
	struct task_struct *thread;
	bool sealing = false;
	long result;
	int trap;

	thread = kthread_create(set_vmxe_late, &sealing, "mbectest-late");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	kthread_bind(thread, 1);
	wake_up_process(thread);
	mdelay(10);
	smp_store_release(&sealing, true);	/* pairs with set_vmxe_late(): it starts with us */
	result = mbectest_hypercall(HC_PROTECT_MEMORY, virt_to_phys(mbectest_list_at(0)), 0, &trap);
	mdelay(10);
	kthread_stop(thread);
	return scnprintf(text, size, "%ld", result);
}

/* CANARY ROUNDS: how often the canary ran, was denied, and ran although denied. */
int mbectest_verb_race(const u64 *words, int count, char *text, size_t size)
{
	struct hammer seen = { .canary = words[0] };
	struct task_struct *thread;
	int err = 0;
	u64 i;

	if (words[0] >= MBECTEST_CANARIES)
		return -ERANGE;
	thread = kthread_run(hammer, &seen, "mbectest-hammer");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	for (i = 0; i < words[1] && !err; i++)
		err = one_round(&seen);
	kthread_stop(thread);
	if (err)
		return scnprintf(text, size, "error %d", err);
	return scnprintf(text, size, "ran %llu denied %llu late %llu",
			 seen.ran, seen.denied, seen.late);
}
