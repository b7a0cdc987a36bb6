// SPDX-License-Identifier: GPL-2.0-only
/* System management mode of the guest's own making: a handler where SMRAM can be written, an SMI to itself. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <asm/apicdef.h>
#include <asm/msr-index.h>

#include "mbectest.h"

#define HANDLER		0x8000	/* from SMBASE on */
#define CR4		0xff48	/* in the state that RSM loads */
#define RAN		0x38100	/* memory that nobody uses, above the start of every processor's SMRAM after a reset */
#define PCI_ADDRESS	0xcf8
#define PCI_DATA	0xcfc
#define PCI_ENABLE	0x80000000

/* SMBASE BITS: a handler there, which clears these of CR4. "kept out", if nothing can be written there. */
int mbectest_verb_smi_handler(const u64 *words, int count, char *text, size_t size)
{
	u32 saved = words[0] + CR4, mask = ~words[1];
	u8 code[] = {
		0x67, 0x66, 0x81, 0x25, 0, 0, 0, 0, 0, 0, 0, 0,	/* andl $mask,saved */
		0x67, 0x66, 0xc7, 0x05, 0x00, 0x81, 0x03, 0x00,	/* movl $1,RAN */
		0x01, 0x00, 0x00, 0x00,
		0x0f, 0xaa,					/* rsm */
	};
	void *at = __va(words[0] + HANDLER);

	memcpy(code + 4, &saved, sizeof(saved));
	memcpy(code + 8, &mask, sizeof(mask));
	memcpy(at, code, sizeof(code));
	barrier();
	return scnprintf(text, size, memcmp(at, code, sizeof(code)) ? "kept out" : "written");
}

/* No words: whether that handler runs in an SMI to this CPU, and what becomes of SMEP. */
int mbectest_verb_smi(const u64 *words, int count, char *text, size_t size)
{
	unsigned long flags, before, after;

	WRITE_ONCE(*(u32 *)__va(RAN), 0);
	local_irq_save(flags);
	before = mbectest_read_cr(4);
	mbectest_send_ipi(mbectest_apic_id(), APIC_DM_SMI | APIC_INT_ASSERT);
	mdelay(10);
	after = mbectest_read_cr(4);
	mbectest_try_cr(4, before);
	local_irq_restore(flags);
	return scnprintf(text, size, "%s, SMEP %d to %d", READ_ONCE(*(u32 *)__va(RAN)) == 1 ? "ran" : "not",
			 !!(before & X86_CR4_SMEP), !!(after & X86_CR4_SMEP));
}

/* No words: how many SMIs this CPU has taken. */
int mbectest_verb_smis(const u64 *words, int count, char *text, size_t size)
{
	u32 low, high;

	asm volatile("rdmsr" : "=a" (low), "=d" (high) : "c" (MSR_SMI_COUNT));
	return scnprintf(text, size, "%u", low);
}

/* REGISTER VALUE: a byte of the host bridge's configuration; what it was, and what it is. */
int mbectest_verb_bridge(const u64 *words, int count, char *text, size_t size)
{
	u16 port = PCI_DATA + (words[0] & 3);
	unsigned long flags;
	u8 before, after;

	local_irq_save(flags);
	outl(PCI_ENABLE | (words[0] & 0xfc), PCI_ADDRESS);
	before = inb(port);
	outb(words[1], port);
	after = inb(port);
	local_irq_restore(flags);
	return scnprintf(text, size, "%#x %#x", before, after);
}
