// SPDX-License-Identifier: GPL-2.0-only
/* Runs from one page into the next one, which may be denied. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/compiler.h>
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <asm/trapnr.h>

#include "mbectest.h"

#define PAIRS		4
#define NOT_EMULATED	0x66	/* the prefix itself was run */

static unsigned long second_page(unsigned int index)
{
	return (unsigned long)mbectest_pairs + (2 * index + 1) * PAGE_SIZE;
}

/* Text is read-only, its frame is not. */
static int write_prefix(unsigned int index)
{
	struct page *page = vmalloc_to_page((void *)second_page(index) - 1);
	void *alias = vmap(&page, 1, VM_MAP, PAGE_KERNEL);

	if (!alias)
		return -ENOMEM;
	memcpy(alias + PAGE_SIZE - 3, "kvm", 3);
	vunmap(alias);
	return 0;
}

int mbectest_pairs_init(void)
{
	return write_prefix(2) ?: write_prefix(3);
}

/* PAIR: the physical address of its second page. */
int mbectest_verb_pair(const u64 *words, int count, char *text, size_t size)
{
	if (words[0] >= PAIRS)
		return -ERANGE;
	return scnprintf(text, size, "%#llx",
			 (u64)PFN_PHYS(vmalloc_to_pfn((void *)second_page(words[0]))));
}

static struct mbectest_outcome run_pair(unsigned int index)
{
	unsigned long entry = second_page(index) - (index < 2 ? 2 : 5);
	struct mbectest_outcome seen;
	unsigned long flags;

	OPTIMIZER_HIDE_VAR(entry);	/* objtool: no ENDBR at this entry */
	local_irq_save(flags);
	seen = ((struct mbectest_outcome (*)(void))entry)();
	local_irq_restore(flags);
	return seen;
}

int mbectest_verb_pair_run(const u64 *words, int count, char *text, size_t size)
{
	struct mbectest_outcome seen;

	if (words[0] >= PAIRS)
		return -ERANGE;
	seen = run_pair(words[0]);
	if (seen.value == 0x2000 + words[0])
		return scnprintf(text, size, "ran");
	if (seen.value == NOT_EMULATED)
		return scnprintf(text, size, "not emulated");
	if (seen.value != X86_TRAP_PF)
		return scnprintf(text, size, "trap %llu", seen.value);
	return scnprintf(text, size, "trap %llu cr2 second%+lld",
			 seen.value, seen.cr2 - second_page(words[0]));
}
