/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One function per page. A denied fetch faults with RIP at the target, so the
 * exception table can catch it after all: its key is the first instruction of
 * the canary itself. Entered behind the ENDBR a canary is not in the table, and
 * oopses. The RET is a plain one: user mode runs the same frame, where the
 * return thunk is out of reach.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>

	.section .text.canary, "ax", @progbits
	.balign 4096
	.globl mbectest_canaries
mbectest_canaries:
	.irp number, 0, 1, 2, 3, 4, 5, 6, 7
	.type canary_\number, @function
canary_\number:
	.byte	0xf3, 0x0f, 0x1e, 0xfa		/* ENDBR64, whatever the configuration */
	mov	$(0x1000 + \number), %eax
	xor	%edx, %edx
	ANNOTATE_UNRET_SAFE
	ret
	int3
	.size canary_\number, . - canary_\number
	.balign 4096, 0xcc

	/* RAX: trap, RDX: CR2, to the caller. Named .cold, or objtool sees a fall-through. */
	.pushsection .text
	.type canary_\number\().cold, @function
canary_\number\().cold:
	mov	%cr2, %rdx
	RET
	.size canary_\number\().cold, . - canary_\number\().cold
	.popsection
	_ASM_EXTABLE_TYPE(canary_\number, canary_\number\().cold, EX_TYPE_FAULT)
	.endr

	/* Text that nobody runs: whoever points its address at another page gets away with it. */
	.globl mbectest_blank
mbectest_blank:
	.fill	4096, 1, 0xcc
