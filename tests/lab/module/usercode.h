/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef USERCODE_H
#define USERCODE_H

/* How the code begins: where its 32-bit part is, and what it does there. */
struct usercode {
	unsigned int offset;
	unsigned short selector;
	unsigned short stack_selector;
	unsigned int number;	/* of the hypercall */
};

extern const char usercode[], usercode_entry[], usercode_entry32[], usercode_end[];

#endif
