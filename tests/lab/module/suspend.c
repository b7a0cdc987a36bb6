// SPDX-License-Identifier: GPL-2.0-only
/* ACPI S3 by hand: the chip set sleeps whether the firmware's tables offer it or not, and wakes up in code of ours. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/acpi.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <asm/special_insns.h>

#include "mbectest.h"

#define WAKE		0x50000	/* below 1 MiB, where nobody is */
#define MARK		0x7f	/* a byte of the CMOS that nobody uses: memory may not outlast the firmware */
#define MARKED		0xa5
#define S3_TYPE		(1 << 10)	/* of QEMU */
#define SLEEP		(1 << 13)

/* No words: does not return. What wakes up notes that it ran, and resets the machine. */
int mbectest_verb_suspend(const u64 *words, int count, char *text, size_t size)
{
	static const u8 code[] = {
		0xb0, MARK, 0xe6, 0x70,		/* mov $MARK,%al; out %al,$0x70 */
		0xb0, MARKED, 0xe6, 0x71,	/* mov $MARKED,%al; out %al,$0x71 */
		0xba, 0xf9, 0x0c,		/* mov $0xcf9,%dx */
		0xb0, 0x06, 0xee,		/* mov $6,%al; out %al,(%dx) */
		0xeb, 0xfe,			/* jmp . */
	};

	memcpy(__va(WAKE), code, sizeof(code));
	acpi_set_firmware_waking_vector(WAKE, 0);
	local_irq_disable();
	wbinvd();
	outw(S3_TYPE | SLEEP, acpi_gbl_FADT.pm1a_control_block);
	for (;;)
		cpu_relax();
}

/* No words: whether it ran since the last time. */
int mbectest_verb_woken(const u64 *words, int count, char *text, size_t size)
{
	unsigned long flags;
	bool ran;

	local_irq_save(flags);
	outb(MARK, 0x70);
	ran = inb(0x71) == MARKED;
	outb(MARK, 0x70);
	outb(0, 0x71);
	local_irq_restore(flags);
	return scnprintf(text, size, ran ? "ran" : "not");
}
