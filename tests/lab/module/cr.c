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

static void __iomem *xapic;	/* mapped before any attack: it may not sleep then */

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

/* TIMES: clear CR0.WP and set it again. */
int mbectest_verb_toggle_wp(const u64 *words, int count, char *text, size_t size)
{
	unsigned long flags, before;
	int trap = -1;
	u64 i;

	local_irq_save(flags);
	before = mbectest_read_cr(0);
	for (i = 0; i < words[0] && trap < 0; i++) {
		trap = mbectest_try_cr(0, before & ~X86_CR0_WP);
		mbectest_try_cr(0, before);
	}
	local_irq_restore(flags);
	return trap < 0 ? scnprintf(text, size, "done") : scnprintf(text, size, "trap %d", trap);
}

u64 mbectest_apic_base(void)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a" (low), "=d" (high) : "c" (MSR_IA32_APICBASE));
	return (u64)high << 32 | low;
}

/* Of this CPU. */
u32 mbectest_apic_id(void)
{
	u32 a = 1, b, c = 0, d;

	asm volatile("cpuid" : "+a" (a), "=b" (b), "+c" (c), "=d" (d));
	return b >> 24;
}

void mbectest_send_ipi(u32 id, u32 command)
{
	if (mbectest_apic_base() & X2APIC_ENABLE) {
		asm volatile("wrmsr" : : "c" (X2APIC_ICR), "a" (command), "d" (id));
		return;
	}
	writel(id << 24, xapic + APIC_ICR2);
	writel(command, xapic + APIC_ICR);
}

int mbectest_apic_init(void)
{
	xapic = ioremap(APIC_DEFAULT_PHYS_BASE, PAGE_SIZE);
	return xapic ? 0 : -ENOMEM;
}

void mbectest_apic_exit(void)
{
	iounmap(xapic);
}

/* ID: an INIT to this local APIC. */
int mbectest_verb_init(const u64 *words, int count, char *text, size_t size)
{
	mbectest_send_ipi(words[0], APIC_INT_ASSERT | APIC_DM_INIT);
	return 0;
}
