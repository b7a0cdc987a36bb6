// SPDX-License-Identifier: GPL-2.0-only
/* What a seal forbids to a processor: bits of control registers, and an INIT. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <asm/apicdef.h>
#include <asm/asm.h>
#include <asm/msr-index.h>

#include "mbectest.h"

#define X2APIC_ICR	0x830
#define ASSERTED_INIT	(APIC_INT_ASSERT | APIC_DM_INIT)

/* MOV to CR by hand: the kernel's own helpers would put a pinned bit back. The trap, or -1. */
static int try_cr0(unsigned long value)
{
	long trap = value;
	int trapped = 1;

	asm volatile("1: mov %[trap], %%cr0\n\t"
		     "xor %[trapped], %[trapped]\n"
		     "2:\n"
		     _ASM_EXTABLE_TYPE(1b, 2b, EX_TYPE_FAULT)
		     : [trap] "+a" (trap), [trapped] "+r" (trapped) : : "memory", "cc");
	return trapped ? trap : -1;
}

static int try_cr4(unsigned long value)
{
	long trap = value;
	int trapped = 1;

	asm volatile("1: mov %[trap], %%cr4\n\t"
		     "xor %[trapped], %[trapped]\n"
		     "2:\n"
		     _ASM_EXTABLE_TYPE(1b, 2b, EX_TYPE_FAULT)
		     : [trap] "+a" (trap), [trapped] "+r" (trapped) : : "memory", "cc");
	return trapped ? trap : -1;
}

int mbectest_try_cr(unsigned int cr, unsigned long value)
{
	return cr ? try_cr4(value) : try_cr0(value);
}

unsigned long mbectest_read_cr(unsigned int cr)
{
	unsigned long value;

	if (cr)
		asm volatile("mov %%cr4, %0" : "=r" (value));
	else
		asm volatile("mov %%cr0, %0" : "=r" (value));
	return value;
}

/* Clear bits of CR0 or CR4 on this CPU, and put them back at once. */
int mbectest_verb_clear_cr(const u64 *words, int count, char *text, size_t size)
{
	unsigned long flags, before, after;
	int trap;

	if (words[0] != 0 && words[0] != 4)
		return -EINVAL;
	local_irq_save(flags);
	before = mbectest_read_cr(words[0]);
	trap = mbectest_try_cr(words[0], before & ~words[1]);
	after = mbectest_read_cr(words[0]);
	mbectest_try_cr(words[0], before);
	local_irq_restore(flags);
	if (trap >= 0)
		return scnprintf(text, size, "trap %d", trap);
	return scnprintf(text, size, after == before ? "unchanged" : "cleared");
}

/* CR CLEAR SET: change bits on this CPU, for good. */
int mbectest_verb_write_cr(const u64 *words, int count, char *text, size_t size)
{
	unsigned long flags, before, after;
	int trap;

	if (words[0] != 0 && words[0] != 4)
		return -EINVAL;
	local_irq_save(flags);
	before = mbectest_read_cr(words[0]);
	trap = mbectest_try_cr(words[0], (before & ~words[1]) | words[2]);
	after = mbectest_read_cr(words[0]);
	local_irq_restore(flags);
	if (trap >= 0)
		return scnprintf(text, size, "trap %d", trap);
	return scnprintf(text, size, after == before ? "unchanged" : "changed");
}

static u64 apic_base(void)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a" (low), "=d" (high) : "c" (MSR_IA32_APICBASE));
	return (u64)high << 32 | low;
}

static int send_by_mmio(u32 id)
{
	void __iomem *apic = ioremap(APIC_DEFAULT_PHYS_BASE, PAGE_SIZE);

	if (!apic)
		return -ENOMEM;
	writel(id << 24, apic + APIC_ICR2);
	writel(ASSERTED_INIT, apic + APIC_ICR);
	iounmap(apic);
	return 0;
}

/* ID: an INIT to this local APIC. */
int mbectest_verb_init(const u64 *words, int count, char *text, size_t size)
{
	if (!(apic_base() & X2APIC_ENABLE))
		return send_by_mmio(words[0]);
	asm volatile("wrmsr" : : "c" (X2APIC_ICR), "a" (ASSERTED_INIT), "d" ((u32)words[0]));
	return 0;
}
