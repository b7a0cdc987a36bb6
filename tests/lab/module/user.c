// SPDX-License-Identifier: GPL-2.0-only
/* Ring 0 in pages of a user process: as they are, and with their U bit cleared. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>

#include "mbectest.h"

/* The kernel's entry of a user address has NX under page-table isolation. */
struct opened {
	pgd_t *pgd;
	pgd_t before;
};

static struct {
	struct mm_struct *mm;
	unsigned long address;
	long value;
} visit;	/* guarded by the device's lock */

static void forget_translation(unsigned long address)
{
	asm volatile("invlpg (%0)" : : "r" (address) : "memory");
}

static struct opened open_pgd(struct mm_struct *mm, unsigned long address)
{
	struct opened entry = { .pgd = pgd_offset(mm, address) };

	entry.before = READ_ONCE(*entry.pgd);
	WRITE_ONCE(entry.pgd->pgd, entry.before.pgd & ~_PAGE_NX);
	return entry;
}

static void close_pgd(struct opened entry)
{
	WRITE_ONCE(entry.pgd->pgd, entry.before.pgd);
}

static long call(unsigned long address)
{
	long (*entry)(void) = (void *)address;

	forget_translation(address);
	return entry();
}

/* ADDRESS: call it in ring 0 with SMEP off, if SMEP goes off. */
int mbectest_verb_call_user(const u64 *words, int count, char *text, size_t size)
{
	struct opened entry = open_pgd(current->mm, words[0]);
	unsigned long flags, cr4;
	long value = 0;
	int trap;

	local_irq_save(flags);
	cr4 = mbectest_read_cr(4);
	trap = mbectest_try_cr(4, cr4 & ~X86_CR4_SMEP);
	if (trap < 0) {
		value = call(words[0]);
		mbectest_try_cr(4, cr4);
	}
	local_irq_restore(flags);
	close_pgd(entry);
	if (trap >= 0)
		return scnprintf(text, size, "trap %d", trap);
	return scnprintf(text, size, "%ld", value);
}

/* The entry at @level of the walk to @address, 1 the lowest; NULL if there is none. */
static u64 *entry_at(struct mm_struct *mm, unsigned long address, u64 level)
{
	p4d_t *p4d = p4d_offset(pgd_offset(mm, address), address);
	pud_t *pud = p4d_none(*p4d) ? NULL : pud_offset(p4d, address);
	pmd_t *pmd = !pud || pud_none(*pud) ? NULL : pmd_offset(pud, address);

	switch (level) {
	case 1:
		return !pmd || pmd_none(*pmd) || pmd_leaf(*pmd) ? NULL :
		       (u64 *)pte_offset_kernel(pmd, address);
	case 2:
		return (u64 *)pmd;
	case 3:
		return (u64 *)pud;
	case 4:
		return (u64 *)p4d;
	default:
		return NULL;
	}
}

/* In a thread of its own, which may die of it. */
static void visit_page(void)
{
	unsigned long flags;

	kthread_use_mm(visit.mm);
	local_irq_save(flags);
	visit.value = call(visit.address);
	local_irq_restore(flags);
	kthread_unuse_mm(visit.mm);
	mmput(visit.mm);	/* a thread that dies does it on its way out */
}

/* LEVEL ADDRESS: clear the U bit there on the way to its page, call it in ring 0; what it returns, or "died". */
int mbectest_verb_call_supervisor(const u64 *words, int count, char *text, size_t size)
{
	u64 *entry = entry_at(current->mm, words[1], words[0]);
	struct opened top;
	int r;

	if (!entry)
		return -EFAULT;
	top = open_pgd(current->mm, words[1]);
	WRITE_ONCE(*entry, *entry & ~_PAGE_USER);
	mmget(current->mm);
	visit.mm = current->mm;
	visit.address = words[1];
	r = mbectest_run_unguarded(visit_page, text, size);
	WRITE_ONCE(*entry, *entry | _PAGE_USER);
	forget_translation(words[1]);
	close_pgd(top);
	return r < 0 || text[0] == 'd' ? r : scnprintf(text, size, "%ld", visit.value);
}
