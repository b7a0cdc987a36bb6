// SPDX-License-Identifier: GPL-2.0-only
/* What is written to memory that stays executable: by an attacker's mapping, by KVM and by a device of the VMM. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/compiler.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <asm/asm.h>
#include <asm/fpu/api.h>
#include <asm/traps.h>

#include "mbectest.h"

#define FW_CFG_DMA	0x514	/* port; big-endian, as all of fw_cfg */
#define FW_CFG_SELECT	0x08
#define FW_CFG_READ	0x02

/* The two page frames from @pa on, writable; the attacker can set that bit anywhere. */
static u8 *map(u64 pa)
{
	struct page *pages[2] = { pfn_to_page(PHYS_PFN(pa)), pfn_to_page(PHYS_PFN(pa) + 1) };
	u8 *at = vmap(pages, 2, VM_MAP, PAGE_KERNEL);

	return at ? at + offset_in_page(pa) : NULL;
}

static void unmap(u8 *at)
{
	vunmap((void *)((unsigned long)at & PAGE_MASK));
}

/* The trap that a store of @size bytes gets, or -1. */
static int guarded_store(u8 *at, u64 value, int size)
{
	int trapped = 1;
	long trap = 0;

#define STORE(bytes, operand)								\
	case bytes:									\
		asm volatile("1: mov %" operand "[value], (%[at])\n\t"			\
			     "xor %[trapped], %[trapped]\n"				\
			     "2:\n"							\
			     _ASM_EXTABLE_TYPE(1b, 2b, EX_TYPE_FAULT)			\
			     : "+a" (trap), [trapped] "+r" (trapped)			\
			     : [at] "r" (at), [value] "c" (value)			\
			     : "memory", "cc");						\
		break
	switch (size) {
	STORE(1, "b");
	STORE(2, "w");
	STORE(4, "k");
	STORE(8, "q");
	default:
		return -1;
	}
	return trapped ? (int)trap : -1;
}

/* PA VALUE BYTES: "stored", or the trap. */
int mbectest_verb_store(const u64 *words, int count, char *text, size_t size)
{
	u8 *at = map(words[0]);
	unsigned long cr2;
	int trap;

	if (!at)
		return -ENOMEM;
	trap = guarded_store(at, words[1], words[2]);
	cr2 = native_read_cr2();
	unmap(at);
	if (trap < 0)
		return scnprintf(text, size, "stored");
	if (trap != X86_TRAP_PF)
		return scnprintf(text, size, "trap %d", trap);
	return scnprintf(text, size, "trap %d cr2 %s", trap,
			 cr2 == (unsigned long)at ? "target" : "other");
}

/* PA COUNT: so many bad stores in a row, each of which faults, and what became of the last one. */
int mbectest_verb_store_storm(const u64 *words, int count, char *text, size_t size)
{
	u8 *at = map(words[0]);
	int trap = -1;
	u64 i;

	if (!at)
		return -ENOMEM;
	for (i = 0; i < words[1]; i++)
		trap = guarded_store(at, 0x90, 1);
	unmap(at);
	return scnprintf(text, size, trap < 0 ? "stored" : "trap %d", trap);
}

static u8 *victim;
static u64 victim_bytes;

static void cmpxchg_there(void)
{
	u64 *at = (u64 *)victim;

	(void)cmpxchg(at, READ_ONCE(*at), 0x9090909090909090ULL);
}

static void movs_there(void)
{
	static const u8 from[16] = "attacker's code";
	const void *source = from;
	u64 bytes = victim_bytes;
	void *to = victim;

	asm volatile("rep movsb" : "+D" (to), "+S" (source), "+c" (bytes) : : "memory");
}

static void avx_there(void)
{
	kernel_fpu_begin();
	asm volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0\n\t"
		     "vmovdqu %%ymm0, (%0)" : : "r" (victim) : "memory");
	kernel_fpu_end();
}

static int attack(u64 pa, u64 bytes, void (*how)(void), char *text, size_t size)
{
	int r;

	victim = map(pa);
	if (!victim)
		return -ENOMEM;
	victim_bytes = bytes;
	r = mbectest_run_unguarded(how, text, size);
	unmap(victim);
	return r;
}

/* PA: "ran", or "died". */
int mbectest_verb_store_cmpxchg(const u64 *words, int count, char *text, size_t size)
{
	return attack(words[0], 0, cmpxchg_there, text, size);
}

/* PA BYTES: 16 at most. */
int mbectest_verb_store_movs(const u64 *words, int count, char *text, size_t size)
{
	return words[1] > 16 ? -ERANGE : attack(words[0], words[1], movs_there, text, size);
}

int mbectest_verb_store_avx(const u64 *words, int count, char *text, size_t size)
{
	if (!boot_cpu_has(X86_FEATURE_AVX2))
		return scnprintf(text, size, "no AVX");
	return attack(words[0], 0, avx_there, text, size);
}

/* PA: eight bytes there. */
int mbectest_verb_peek(const u64 *words, int count, char *text, size_t size)
{
	u8 *at = map(words[0]);
	int r;

	if (!at)
		return -ENOMEM;
	r = scnprintf(text, size, "%8phN", at);
	unmap(at);
	return r;
}

/* MSR VALUE: what was there. */
int mbectest_verb_wrmsr(const u64 *words, int count, char *text, size_t size)
{
	u64 before = mbectest_read_msr(words[0]);

	if (mbectest_try_msr(words[0], words[1]) >= 0)
		return -EIO;
	return scnprintf(text, size, "%#llx", before);
}

bool mbectest_device_write(u64 to)
{
	struct {
		__be32 control;
		__be32 length;
		__be64 address;
	} *access = kzalloc(sizeof(*access), GFP_KERNEL);
	bool done;
	u64 pa;

	if (!access)
		return false;
	access->control = cpu_to_be32(FW_CFG_SELECT | FW_CFG_READ);
	access->length = cpu_to_be32(4);
	access->address = cpu_to_be64(to);
	pa = virt_to_phys(access);
	outl((__force u32)cpu_to_be32(pa >> 32), FW_CFG_DMA);
	outl((__force u32)cpu_to_be32(pa), FW_CFG_DMA + 4);
	done = !READ_ONCE(access->control);
	kfree(access);
	return done;
}

/* PA: the VMM copies the four bytes of its signature there, as a device does. */
int mbectest_verb_dma(const u64 *words, int count, char *text, size_t size)
{
	return scnprintf(text, size, "%s", mbectest_device_write(words[0]) ? "done" : "failed");
}
