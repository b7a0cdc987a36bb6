// SPDX-License-Identifier: GPL-2.0-only
/*
 * What an attacker with a kernel write does with a processor that starts: code
 * of his own without paging, with page tables of his own, or before SMEP is on.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <asm/apicdef.h>
#include <asm/msr-index.h>
#include <asm/realmode.h>

#include "mbectest.h"

#define PAYLOADS	2
#define SEEN_CR0	0x800	/* offsets in a payload's page */
#define SEEN_CR4	0x808
#define NO_IDT		0x810
#define GDT		0x30	/* offset in the start page */

static void *payloads[PAYLOADS];
static u64 *tables, *directory;	/* of 1 GiB, one to one, for user mode */

int mbectest_processors_init(void)
{
	int i;

	for (i = 0; i < PAYLOADS; i++)
		payloads[i] = (void *)get_zeroed_page(GFP_KERNEL | __GFP_DMA32);
	tables = (void *)get_zeroed_page(GFP_KERNEL | __GFP_DMA32);
	directory = (void *)get_zeroed_page(GFP_KERNEL | __GFP_DMA32);
	if (!payloads[0] || !payloads[1] || !tables || !directory)
		goto free;
	for (i = 0; i < PTRS_PER_PMD; i++)
		directory[i] = i * PMD_SIZE | _PAGE_PSE | _PAGE_TABLE | _PAGE_DIRTY;
	tables[0] = virt_to_phys(directory) | _PAGE_TABLE;
	return 0;

free:
	mbectest_processors_exit();
	return -ENOMEM;
}

void mbectest_processors_exit(void)
{
	int i;

	for (i = 0; i < PAYLOADS; i++)
		free_page((unsigned long)payloads[i]);
	free_page((unsigned long)tables);
	free_page((unsigned long)directory);
}

/* PAYLOAD: its physical address. */
int mbectest_verb_start_page(const u64 *words, int count, char *text, size_t size)
{
	if (words[0] >= PAYLOADS)
		return -ERANGE;
	return scnprintf(text, size, "%#llx", (u64)virt_to_phys(payloads[words[0]]));
}

/* The kernel exports none of what an attacker wants to know. The probe is gone before the answer is used. */
static void *symbol(const char *name)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*lookup)(const char *name);

	if (register_kprobe(&probe))
		return NULL;
	lookup = (void *)probe.addr;
	unregister_kprobe(&probe);
	return (void *)lookup(name);
}

static struct real_mode_header *real_mode(void)
{
	struct real_mode_header **header = symbol("real_mode_header");

	return header ? *header : NULL;
}

static void put_code(void *at, const void *code, size_t size)
{
	memset(at + SEEN_CR0, 0, 0x20);
	memcpy(at, code, size);
}

/* 64 bit, anywhere: tell CR4 and CR0, halt. */
static void write_long_code(void *at)
{
	static const u8 code[] = {
		0x0f, 0x20, 0xe0,			/* mov %cr4,%rax */
		0x48, 0x89, 0x05, 0xfe, 0x07, 0x00, 0x00,	/* mov %rax,SEEN_CR4(%rip) */
		0x0f, 0x20, 0xc0,			/* mov %cr0,%rax */
		0x48, 0x89, 0x05, 0xec, 0x07, 0x00, 0x00,	/* mov %rax,SEEN_CR0(%rip) */
		0xfa, 0xf4, 0xeb, 0xfd,			/* cli; 1: hlt; jmp 1b */
	};

	put_code(at, code, sizeof(code));
}

/* 32 bit, without paging: the same, and then halt, or end the machine. */
static void write_flat_code(void *at, bool shut_down)
{
	static const u8 code[] = {
		0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8,	/* mov $0x10,%ax; mov %eax,%ds */
		0x0f, 0x20, 0xe0, 0xa3, 0, 0, 0, 0,	/* mov %cr4,%eax; mov %eax,SEEN_CR4 */
		0x0f, 0x20, 0xc0, 0xa3, 0, 0, 0, 0,	/* mov %cr0,%eax; mov %eax,SEEN_CR0 */
		0x90, 0xf4, 0xeb, 0xfd, 0, 0, 0,	/* nop; 1: hlt; jmp 1b */
		0xcc,					/* int3 */
	};
	static const u8 lidt[] = { 0x0f, 0x01, 0x1d };	/* lidt NO_IDT */
	u32 pa = virt_to_phys(at);

	put_code(at, code, sizeof(code));
	*(u32 *)(at + 10) = pa + SEEN_CR4;
	*(u32 *)(at + 18) = pa + SEEN_CR0;
	if (!shut_down)
		return;
	memcpy(at + 22, lidt, sizeof(lidt));
	*(u32 *)(at + 25) = pa + NO_IDT;
}

/* In the start page: 16 bit, to 32-bit code at @target. */
static void write_stub(void *at, u32 pa, u32 target)
{
	static const u8 code[] = {
		0xfa,					/* cli */
		0x2e, 0x66, 0x0f, 0x01, 0x16, 0x28, 0x00,	/* lgdtl %cs:0x28 */
		0x0f, 0x20, 0xc0,			/* mov %cr0,%eax */
		0x66, 0x83, 0xc8, 0x01,			/* or $1,%eax */
		0x0f, 0x22, 0xc0,			/* mov %eax,%cr0 */
		0x66, 0xea, 0, 0, 0, 0, 0x08, 0x00,	/* ljmpl $8,$target */
	};
	static const u64 gdt[] = { 0, 0x00cf9b000000ffffull, 0x00cf93000000ffffull };

	memcpy(at, code, sizeof(code));
	*(u32 *)(at + 20) = target;
	*(u16 *)(at + 0x28) = sizeof(gdt) - 1;
	*(u32 *)(at + 0x2a) = pa + GDT;
	memcpy(at + GDT, gdt, sizeof(gdt));
}

/* @code: the start page's address. */
static void start(u32 id, u32 code)
{
	mbectest_send_ipi(id, APIC_INT_ASSERT | APIC_DM_INIT);
	mdelay(10);
	mbectest_send_ipi(id, APIC_DM_STARTUP | code >> PAGE_SHIFT);
	mdelay(1);
	mbectest_send_ipi(id, APIC_DM_STARTUP | code >> PAGE_SHIFT);
}

static int outcome(const void *payload, char *text, size_t size)
{
	int wait;

	for (wait = 0; wait < 50 && !READ_ONCE(*(const u64 *)(payload + SEEN_CR0)); wait++)
		mdelay(10);
	if (!*(const u64 *)(payload + SEEN_CR0))
		return scnprintf(text, size, "not");
	return scnprintf(text, size, "ran, paging %d, SMEP %d",
			 !!(*(const u64 *)(payload + SEEN_CR0) & X86_CR0_PG),
			 !!(*(const u64 *)(payload + SEEN_CR4) & X86_CR4_SMEP));
}

/* Start CPU 1 in the kernel's own start page, and take it back. */
static int try_start(struct real_mode_header *header, const void *payload, char *text, size_t size)
{
	int r;

	start(1, header->trampoline_start);
	r = outcome(payload, text, size);
	mbectest_send_ipi(1, APIC_INT_ASSERT | APIC_DM_INIT);
	return r;
}

/* PAYLOAD: page tables of our own by data alone. CPU 1 is offline. */
int mbectest_verb_start_by_data(const u64 *words, int count, char *text, size_t size)
{
	struct real_mode_header *real = real_mode();
	struct trampoline_header *header, before;
	u64 *pgd, entry;
	void *payload;
	int r;

	if (words[0] >= PAYLOADS || !real)
		return -ERANGE;
	payload = payloads[words[0]];
	write_long_code(payload);
	header = __va(real->trampoline_header);
	pgd = __va(real->trampoline_pgd);
	before = *header;
	entry = pgd[0];
	pgd[0] = virt_to_phys(tables) | _PAGE_TABLE;
	header->start = virt_to_phys(payload);
	header->efer &= ~EFER_NX;
	header->cr4 = X86_CR4_PAE;
	r = try_start(real, payload, text, size);
	*header = before;
	pgd[0] = entry;
	return r;
}

static int run_stub(struct real_mode_header *real, u32 id, void *payload, char *text, size_t size)
{
	struct page *page = pfn_to_page(PHYS_PFN(real->trampoline_start));
	void *at = vmap(&page, 1, VM_MAP, PAGE_KERNEL), *before;
	int r;

	if (!at)
		return -ENOMEM;
	before = kmemdup(at, PAGE_SIZE, GFP_KERNEL);
	if (!before) {
		r = -ENOMEM;
		goto unmap;
	}
	write_stub(at, real->trampoline_start, virt_to_phys(payload));
	start(id, real->trampoline_start);
	r = outcome(payload, text, size);
	mbectest_send_ipi(id, APIC_INT_ASSERT | APIC_DM_INIT);
	memcpy(at, before, PAGE_SIZE);
	kfree(before);
unmap:
	vunmap(at);
	return r;
}

/* PAYLOAD: a stub in the start page leads to it. CPU 1 is offline. */
int mbectest_verb_start_by_text(const u64 *words, int count, char *text, size_t size)
{
	struct real_mode_header *real = real_mode();

	if (words[0] >= PAYLOADS || !real)
		return -ERANGE;
	write_flat_code(payloads[words[0]], false);
	return run_stub(real, 1, payloads[words[0]], text, size);
}

/*
 * PAYLOAD: the same with CPU 0, to be called on another one.
 * The code ends the machine, so that its next kernel can tell.
 */
int mbectest_verb_start_boot_cpu(const u64 *words, int count, char *text, size_t size)
{
	struct real_mode_header *real = real_mode();

	if (words[0] >= PAYLOADS || !real)
		return -ERANGE;
	write_flat_code(payloads[words[0]], true);
	return run_stub(real, 0, payloads[words[0]], text, size);
}

/* No words: this CPU says that it is no boot processor. */
int mbectest_verb_forget_bsp(const u64 *words, int count, char *text, size_t size)
{
	u64 base = mbectest_apic_base(), value = base & ~MSR_IA32_APICBASE_BSP;

	asm volatile("wrmsr" : : "c" (MSR_IA32_APICBASE), "a" ((u32)value), "d" ((u32)(value >> 32)));
	return scnprintf(text, size, "%lld to %lld", base >> 8 & 1, mbectest_apic_base() >> 8 & 1);
}

/* For user mode at every level; @root: the kernel's own page table. */
static void open_address(u64 *root, unsigned long address)
{
	pgd_t *pgd = (pgd_t *)root + pgd_index(address);
	p4d_t *p4d = p4d_offset(pgd, address);
	pud_t *pud = pud_offset(p4d, address);
	pmd_t *pmd = pmd_offset(pud, address);
	pte_t *pte = pte_offset_kernel(pmd, address);

	pgd->pgd |= _PAGE_USER;
	p4d->p4d |= _PAGE_USER;
	pud->pud |= _PAGE_USER;
	pmd->pmd |= _PAGE_USER;
	set_pte(pte, __pte((pte_val(*pte) | _PAGE_USER) & ~_PAGE_NX));
}

/* PAYLOAD: a user page before SMEP is on. CPU 1 is offline. */
int mbectest_verb_start_by_code(const u64 *words, int count, char *text, size_t size)
{
	u64 *initial_code = symbol("initial_code"), *root = symbol("init_top_pgt"), before;
	struct real_mode_header *real = real_mode();
	struct page *page;
	void *at;
	int r;

	if (words[0] >= PAYLOADS || !real || !initial_code || !root)
		return -ERANGE;
	page = virt_to_page(payloads[words[0]]);
	at = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	if (!at)
		return -ENOMEM;
	write_long_code(payloads[words[0]]);
	open_address(root, (unsigned long)at);
	before = *initial_code;
	*initial_code = (u64)at;
	r = try_start(real, payloads[words[0]], text, size);
	*initial_code = before;
	vunmap(at);
	return r;
}
