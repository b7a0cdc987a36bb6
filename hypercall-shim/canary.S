/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The page that exists to be denied. A denied fetch faults with RIP at its
 * target, so the exception table can catch it: its keys are the canary's own
 * instructions. User mode runs the same frame, where the return thunk is out of
 * reach: the RET is a plain one. No C in this page: ftrace and kprobes would
 * patch it.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include <asm/unwind_hints.h>

#include "canary.h"

#ifndef ENDBR	/* commit 156ff4a544ae ("x86/ibt: Base IBT bits"), 5.18 */
#define ENDBR
#endif

	.section .text.canary, "ax", @progbits
	.balign 4096
	.globl mbecg_canary
	.type mbecg_canary, @function
mbecg_canary:
	.byte	0xf3, 0x0f, 0x1e, 0xfa		/* ENDBR64, whatever the configuration */
.Lmove:
	mov	$MBECG_RAN, %eax
.Lclear:
	xor	%edx, %edx
.Lreturn:
	ANNOTATE_UNRET_SAFE
	ret
	int3
	.size mbecg_canary, . - mbecg_canary
	.balign 4096, 0xcc

/* The page that exists to be written to, once the host keeps text from that. */
	.section .text.target, "ax", @progbits
	.balign 4096
	.globl mbecg_target
mbecg_target:
	.fill	4096, 1, 0xcc

	.text
/*
 * RAX: exception number, RDX: CR2, to the caller of the canary. Named .cold, or
 * objtool sees a fall-through. FRED comes back to an exception's fix-up still
 * waiting for the ENDBR; behind a NOP, or objtool seals it as unused.
 */
	.type mbecg_canary.cold, @function
mbecg_canary.cold:
	nop
.Ltrapped:
	ENDBR
	mov	%cr2, %rdx
	RET
	.size mbecg_canary.cold, . - mbecg_canary.cold

	_ASM_EXTABLE_FAULT(mbecg_canary, .Ltrapped)
	_ASM_EXTABLE_FAULT(.Lmove, .Ltrapped)
	_ASM_EXTABLE_FAULT(.Lclear, .Ltrapped)
	_ASM_EXTABLE_FAULT(.Lreturn, .Ltrapped)

SYM_FUNC_START(mbecg_looped)
	ENDBR
	mov	$MBECG_LOOPED, %eax
	xor	%edx, %edx
	RET
SYM_FUNC_END(mbecg_looped)

/* A RET may land on any byte: no ENDBR is needed at RDI. */
SYM_FUNC_START(mbecg_enter)
	mov	%rsi, %rax
	xor	%edx, %edx
	ANNOTATE_INTRA_FUNCTION_CALL
	call	.Lgo
	UNWIND_HINT_FUNC	/* objtool does not see the way back */
	RET
.Lgo:
	push	%rdi
	UNWIND_HINT_FUNC
	ANNOTATE_UNRET_SAFE
	ret
	int3
SYM_FUNC_END(mbecg_enter)

_ASM_NOKPROBE(mbecg_canary)
_ASM_NOKPROBE(mbecg_looped)
_ASM_NOKPROBE(mbecg_enter)
