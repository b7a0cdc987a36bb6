// SPDX-License-Identifier: GPL-2.0-only
/* System management mode of the guest's own making: an SMI to itself, a handler in plain memory. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <asm/apicdef.h>

#include "mbectest.h"

#define SMBASE	0x30000	/* of every processor after its reset */
#define HANDLER	(SMBASE + 0x8000)
#define RAN	(SMBASE + 0x8100)

/* In the state that RSM loads: clear CR4.SMEP. */
static void write_handler(void)
{
	static const u8 code[] = {
		0x67, 0x66, 0x81, 0x25, 0x48, 0xff, 0x03, 0x00,	/* andl $~SMEP,SMBASE+0xff48 */
		0xff, 0xff, 0xef, 0xff,
		0x67, 0x66, 0xc7, 0x05, 0x00, 0x81, 0x03, 0x00,	/* movl $1,RAN */
		0x01, 0x00, 0x00, 0x00,
		0x0f, 0xaa,					/* rsm */
	};

	*(u32 *)__va(RAN) = 0;
	memcpy(__va(HANDLER), code, sizeof(code));
}

/* No words: whether the handler of an SMI to this CPU runs, and what becomes of SMEP. */
int mbectest_verb_smi(const u64 *words, int count, char *text, size_t size)
{
	unsigned long flags, before, after;

	write_handler();
	local_irq_save(flags);
	before = mbectest_read_cr(4);
	mbectest_send_ipi(mbectest_apic_id(), APIC_DM_SMI | APIC_INT_ASSERT);
	mdelay(10);
	after = mbectest_read_cr(4);
	mbectest_try_cr(4, before);
	local_irq_restore(flags);
	return scnprintf(text, size, "%s, SMEP %d to %d", *(u32 *)__va(RAN) ? "ran" : "not",
			 !!(before & X86_CR4_SMEP), !!(after & X86_CR4_SMEP));
}
