/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two pages that are run from the first into the second. In pairs 0 and 1 one
 * instruction lies on both pages. Pairs 2 and 3 end their first page in KVM's
 * prefix for "emulate what comes next" (kvm.force_emulation_prefix), and that
 * is the second page's. The exception table catches what is denied: its keys
 * are these instructions, so a fault that it catches has the right RIP.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>

	.macro second_page number
	mov	$(0x2000 + \number), %eax
	.endm

	.macro returns number
	xor	%edx, %edx
	ANNOTATE_UNRET_SAFE
	ret
	int3
	.balign 4096, 0xcc
	.endm

	.macro catches number, value
	.pushsection .text
	.type pair_\number\()_\value, @function
pair_\number\()_\value:
	.ifc \value, cr2
	mov	%cr2, %rdx
	.else
	mov	$0x66, %eax
	.endif
	RET
	.size pair_\number\()_\value, . - pair_\number\()_\value
	.popsection
	.endm

	.section .text.canary, "ax", @progbits
	.balign 4096
	.globl mbectest_pairs
mbectest_pairs:
	.irp number, 0, 1
	.skip	4096 - 2, 0xcc
straddling_\number:
	second_page \number
	returns \number
	catches \number, cr2
	_ASM_EXTABLE_TYPE(straddling_\number, pair_\number\()_cr2, EX_TYPE_FAULT)
	.endr

	.irp number, 2, 3
	.skip	4096 - 5, 0xcc
prefix_\number:
	ud2
	nop; nop; nop	/* "kvm" is written over them: no instruction for objtool */
emulated_\number:
	second_page \number
	returns \number
	catches \number, cr2
	catches \number, ud2
	_ASM_EXTABLE_TYPE(prefix_\number, pair_\number\()_ud2, EX_TYPE_FAULT)
	_ASM_EXTABLE_TYPE(emulated_\number, pair_\number\()_cr2, EX_TYPE_FAULT)
	.endr
