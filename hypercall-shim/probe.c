// SPDX-License-Identifier: GPL-2.0-or-later
/* Tries what only ring 0 can: run a page, clear a bit. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/gfp.h>
#include <linux/irqflags.h>
#include <linux/kallsyms.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/security.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/asm.h>
#include <asm/irq_regs.h>
#include <asm/processor-flags.h>
#include <asm/trapnr.h>

#include "canary.h"
#include "compat.h"
#include "shim.h"

#define RET_BYTE	0xc3
#define FIRST_LOOK	(20 * NSEC_PER_MSEC)
#define NEXT_LOOK	(10 * NSEC_PER_MSEC)
#define LOOKS		5	/* a virtual CPU may be away for longer than one of them */
#define TRIES		8

static_assert(MBECG_RAN == MBECGUARD_CANARY_VALUE);

/* Guarded by mbecg_lock, and used on one CPU only: the one that is in mbecg_enter(). */
static struct {
	struct hrtimer timer;
	unsigned long at;
	int looks;
} watch;

/*
 * A host that injects what the guest takes for a spurious fault (Heki's #PF
 * 0x11), or nothing, lets the CPU try the same instruction for ever, with
 * interrupts on. Whoever is there at each look makes no progress.
 */
static enum hrtimer_restart look(struct hrtimer *timer)
{
	struct pt_regs *regs = get_irq_regs();

	watch.looks = regs && regs->ip == watch.at ? watch.looks + 1 : 0;
	if (watch.looks < LOOKS) {
		hrtimer_forward_now(timer, NEXT_LOOK);
		return HRTIMER_RESTART;
	}
	regs->ip = (unsigned long)mbecg_looped;
	return HRTIMER_NORESTART;
}

void mbecg_probe_init(void)
{
	hrtimer_setup(&watch.timer, look, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
}

static struct mbecg_seen enter(unsigned long at, u64 value)
{
	struct mbecg_seen seen;

	lockdep_assert_held(&mbecg_lock);
	preempt_disable();
	watch.at = at;
	watch.looks = 0;
	hrtimer_start(&watch.timer, FIRST_LOOK, HRTIMER_MODE_REL_PINNED_HARD);
	seen = mbecg_enter(at, value);
	hrtimer_cancel(&watch.timer);
	preempt_enable();
	return seen;
}

static void tell(struct mbecguard_probe *probe, struct mbecg_seen seen)
{
	switch (seen.value) {
	case MBECG_RAN:
		probe->outcome = MBECGUARD_RAN;
		break;
	case MBECG_LOOPED:
		probe->outcome = MBECGUARD_LOOPED;
		break;
	default:
		probe->outcome = MBECGUARD_TRAPPED;
		probe->trap = seen.value;
		probe->cr2 = seen.value == X86_TRAP_PF ? seen.cr2 : 0;	/* else it is an older fault's */
	}
}

/*
 * Interrupts are on: one that comes before the fix-up has read CR2, and faults
 * itself, leaves its own CR2 there. That is rare, and a denial stays one.
 */
static int probe_canary(struct mbecguard_probe *probe)
{
	unsigned long at = (unsigned long)mbecg_canary;
	struct mbecg_seen seen;
	int tries = TRIES;

	if (probe->va || probe->cr || probe->bits)
		return -EINVAL;
	do {
		seen = enter(at, 0);
	} while (seen.value == X86_TRAP_PF && seen.cr2 != at && --tries);
	tell(probe, seen);
	return 0;
}

phys_addr_t mbecg_canary_pa(void)
{
	return PFN_PHYS(vmalloc_to_pfn(mbecg_canary));
}

/* The kernel's image and modules. BPF and trampolines lie there too, and are as good. */
static bool is_text(u64 va)
{
	return PAGE_ALIGNED(va) && va >= __START_KERNEL_map && va < MODULES_END && mbecg_executable(va);
}

/*
 * With preemption off text that has a symbol stays: symbols go first, then comes a grace period.
 * Before that the module may have made way for another one.
 */
static bool is_ret(unsigned long at)
{
	char name[KSYM_SYMBOL_LEN];
	u8 byte;

	sprint_symbol(name, at);
	return strncmp(name, "0x", 2) &&
	       !copy_from_kernel_nofault(&byte, (void *)at, sizeof(byte)) && byte == RET_BYTE;
}

/* *at: the address of the first RET in the page at @va, 0 if it has none. */
static int find_ret(unsigned long va, unsigned long *at)
{
	void *page = (void *)__get_free_page(GFP_KERNEL), *ret;
	int err;

	if (!page)
		return -ENOMEM;
	err = copy_from_kernel_nofault(page, (void *)va, PAGE_SIZE);
	if (!err) {
		ret = memchr(page, RET_BYTE, PAGE_SIZE);
		*at = ret ? va + (ret - page) : 0;
	}
	free_page((unsigned long)page);
	return err ? -EINVAL : 0;
}

/*
 * A fault of this fetch is no key of any exception table but in the canary: it
 * is an oops. Who denies text that the kernel needs has killed the guest anyway.
 * The RET may be any byte of an instruction, even of one that is being patched:
 * that is over in microseconds, and needs root on both sides.
 */
static int probe_fetch(struct mbecguard_probe *probe)
{
	unsigned long at;
	int err;

	if (probe->cr || probe->bits || !is_text(probe->va))
		return -EINVAL;
	err = find_ret(probe->va, &at);
	if (err)
		return err;
	probe->outcome = MBECGUARD_UNSUITABLE;
	preempt_disable();
	if (at && is_ret(at))
		tell(probe, enter(at, MBECG_RAN));
	preempt_enable();
	return 0;
}

/* MOV to CR by hand: the kernel's own helpers would put a pinned bit back. The trap, or -1. */
static int write_cr0_raw(unsigned long value)
{
	long trap = value;
	int trapped = 1;

	asm volatile("1: mov %[trap], %%cr0\n\t"
		     "xor %[trapped], %[trapped]\n"
		     "2:\n"
		     _ASM_EXTABLE_FAULT(1b, 2b)
		     : [trap] "+a" (trap), [trapped] "+r" (trapped) : : "memory", "cc");
	return trapped ? trap : -1;
}

static int write_cr4_raw(unsigned long value)
{
	long trap = value;
	int trapped = 1;

	asm volatile("1: mov %[trap], %%cr4\n\t"
		     "xor %[trapped], %[trapped]\n"
		     "2:\n"
		     _ASM_EXTABLE_FAULT(1b, 2b)
		     : [trap] "+a" (trap), [trapped] "+r" (trapped) : : "memory", "cc");
	return trapped ? trap : -1;
}

static int write_cr_raw(unsigned int cr, unsigned long value)
{
	return cr ? write_cr4_raw(value) : write_cr0_raw(value);
}

static unsigned long read_cr_raw(unsigned int cr)
{
	unsigned long value;

	if (cr)
		asm volatile("mov %%cr4, %0" : "=r" (value));
	else
		asm volatile("mov %%cr0, %0" : "=r" (value));
	return value;
}

/* What can be off for a few instructions without harm. */
static u64 clearable(u32 cr)
{
	switch (cr) {
	case 0:
		return X86_CR0_WP;
	case 4:
		return X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_UMIP;
	default:
		return 0;
	}
}

static int probe_clear(struct mbecguard_probe *probe)
{
	unsigned long flags, before, after;
	int trap;

	if (probe->va || !probe->bits || probe->bits & ~clearable(probe->cr))
		return -EINVAL;
	/* An NMI would run without the bits, unless the host has pinned them. */
	if (probe->bits & ~mbecg_pinned(probe->cr) && security_locked_down(LOCKDOWN_MSR))
		return -EPERM;
	local_irq_save(flags);
	before = read_cr_raw(probe->cr);
	trap = write_cr_raw(probe->cr, before & ~probe->bits);
	after = read_cr_raw(probe->cr);
	write_cr_raw(probe->cr, before);
	local_irq_restore(flags);
	if (trap >= 0)
		tell(probe, (struct mbecg_seen){ .value = trap });
	else
		probe->outcome = after & probe->bits ? MBECGUARD_UNCHANGED : MBECGUARD_RAN;
	return 0;
}

phys_addr_t mbecg_target_pa(void)
{
	return PFN_PHYS(vmalloc_to_pfn(mbecg_target));
}

/* Interrupts are off: CR2 is that of this store. */
static int store_raw(u8 *at, u8 value, u64 *cr2)
{
	long trap = 0;
	int trapped = 1;

	asm volatile("1: movb %[value], (%[at])\n\t"
		     "xor %[trapped], %[trapped]\n"
		     "2: mov %%cr2, %[cr2]\n"
		     _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a" (trap), [trapped] "+r" (trapped), [cr2] "=r" (*cr2)
		     : [at] "r" (at), [value] "q" (value) : "memory", "cc");
	return trapped ? trap : -1;
}

/* What an attacker does who can map memory: the page tables allow it, so only the host can be against it. */
static int probe_store(struct mbecguard_probe *probe)
{
	struct page *page = vmalloc_to_page(mbecg_target);
	u8 before = READ_ONCE(*mbecg_target), after;
	unsigned long flags;
	u64 cr2, unused;
	u8 *alias;
	int trap;

	if (probe->va || probe->cr || probe->bits)
		return -EINVAL;
	alias = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	if (!alias)
		return -ENOMEM;
	local_irq_save(flags);
	trap = store_raw(alias, (u8)~before, &cr2);
	after = READ_ONCE(*mbecg_target);
	if (after != before)
		store_raw(alias, before, &unused);
	local_irq_restore(flags);
	probe->va = (unsigned long)alias;
	vunmap(alias);
	if (after != before)
		return 0;
	probe->outcome = MBECGUARD_UNCHANGED;
	if (trap >= 0)
		tell(probe, (struct mbecg_seen){ .value = trap, .cr2 = cr2 });
	return 0;
}

int mbecg_probe(void *argument)
{
	struct mbecguard_probe *probe = argument;

	lockdep_assert_held(&mbecg_lock);
	if (probe->reserved)
		return -EINVAL;
	probe->outcome = MBECGUARD_RAN;
	probe->trap = 0;
	probe->cr2 = 0;
	switch (probe->kind) {
	case MBECGUARD_PROBE_CANARY:
		return probe_canary(probe);
	case MBECGUARD_PROBE_FETCH:
		return probe_fetch(probe);
	case MBECGUARD_PROBE_CLEAR:
		return probe_clear(probe);
	case MBECGUARD_PROBE_STORE:
		return probe_store(probe);
	default:
		return -EINVAL;
	}
}
