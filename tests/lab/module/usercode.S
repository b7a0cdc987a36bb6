/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Copied to a page below 4 GiB, with the stack at its end: called in 64-bit
 * mode, it makes a hypercall in 32-bit mode. Begins with struct usercode.
 */
	.section .rodata
	.globl	usercode, usercode_entry, usercode_entry32, usercode_end
usercode:
	.long	0
	.word	0, 0
number:
	.long	0
saved:
	.quad	0
usercode_entry:
	push	%rbx
	push	%rbp
	mov	%rsp, saved(%rip)
	mov	usercode + 6(%rip), %ax
	mov	%ax, %ss
	lea	usercode + 4096(%rip), %rsp
	mov	number(%rip), %eax
	lcall	*usercode(%rip)
	mov	saved(%rip), %rsp
	cltq
	pop	%rbp
	pop	%rbx
	ret

	.code32
usercode_entry32:
	xor	%ebx, %ebx
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	vmcall
	lret
usercode_end:
	.section .note.GNU-stack, "", @progbits
