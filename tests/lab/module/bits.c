// SPDX-License-Identifier: GPL-2.0-only
/* Bits of CR0, CR4 and EFER, each flipped while a page runs. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <asm/asm.h>
#include <asm/msr-index.h>
#include <asm/processor-flags.h>
#include <asm/trapnr.h>

#include "mbectest.h"

#define BITS	32

u64 mbectest_read_msr(u32 msr)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a" (low), "=d" (high) : "c" (msr));
	return (u64)high << 32 | low;
}

/* The trap that the write gets, or -1. The kernel's own words for it have changed their names. */
int mbectest_try_msr(u32 msr, u64 value)
{
	long trap = (u32)value;
	int trapped = 1;

	asm volatile("1: wrmsr\n\t"
		     "xor %[trapped], %[trapped]\n"
		     "2:\n"
		     _ASM_EXTABLE_TYPE(1b, 2b, EX_TYPE_FAULT)
		     : [trap] "+a" (trap), [trapped] "+r" (trapped)
		     : "c" (msr), "d" (value >> 32) : "memory", "cc");
	return trapped ? trap : -1;
}

static u64 read_register(u64 nr)
{
	return nr == MSR_EFER ? mbectest_read_msr(MSR_EFER) : mbectest_read_cr(nr);
}

static int try_register(u64 nr, u64 value)
{
	return nr == MSR_EFER ? mbectest_try_msr(MSR_EFER, value) : mbectest_try_cr(nr, value);
}

/* CR4.PCIDE can be set only while CR3 names no PCID: go without one meanwhile. */
static unsigned long leave_pcid(void)
{
	unsigned long cr3;

	asm volatile("mov %%cr3, %0" : "=r" (cr3));
	asm volatile("mov %0, %%cr3" : : "r" (cr3 & ~X86_CR3_PCID_MASK) : "memory");
	return cr3;
}

static void enter_pcid(unsigned long cr3)
{
	asm volatile("mov %0, %%cr3" : : "r" (cr3) : "memory");
}

/* Whether no kernel lives on: without NXE each entry with NX has a reserved bit set. */
static bool fatal(u64 nr, u64 bit)
{
	return nr == MSR_EFER && bit == EFER_NX;
}

static char flip_and_run(u64 nr, u64 bit, unsigned int page)
{
	u64 before = read_register(nr);
	int trap = try_register(nr, before ^ bit);
	struct mbectest_outcome seen;

	if (trap >= 0)
		return trap == X86_TRAP_GP ? 'G' : '?';
	if (read_register(nr) == before)
		return 's';
	seen = mbectest_run(page);
	try_register(nr, before);
	return mbectest_ran(seen, page) ? 'R' : 'd';
}

/*
 * REGISTER PAGE: 0, 4 or the number of EFER. A letter for each bit from 0 on:
 * flipped, the page (R)an or was (d)enied; the flip is #(G)P, or leaves the (s)ame.
 */
int mbectest_verb_flips(const u64 *words, int count, char *text, size_t size)
{
	unsigned long flags, cr3;
	char seen[BITS + 1] = "";
	int bit;

	if ((words[0] != 0 && words[0] != 4 && words[0] != MSR_EFER) || words[1] >= MBECTEST_CANARIES)
		return -EINVAL;
	for (bit = 0; bit < BITS; bit++) {
		local_irq_save(flags);
		cr3 = leave_pcid();
		seen[bit] = fatal(words[0], BIT(bit)) ? '-' : flip_and_run(words[0], BIT(bit), words[1]);
		enter_pcid(cr3);
		local_irq_restore(flags);
	}
	return scnprintf(text, size, "%s", seen);
}
