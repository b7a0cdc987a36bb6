// SPDX-License-Identifier: GPL-2.0-or-later
/* The host's two hypercalls and its query, as in docs/HOST-ABI.md. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/build_bug.h>
#include <linux/cc_platform.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kvm_para.h>
#include <linux/math.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/uaccess.h>
#include <asm/alternative.h>
#include <asm/asm.h>
#include <asm/cpufeature.h>

#include "shim.h"

#define LOCK_CR_UPDATE	13
#define PROTECT_MEMORY	14
#define QUERY_MAGIC	0x59524551494b4548ull
#define TEXT_MAGIC	0x54584554494b4548ull
#define WORD_CR0	11
#define WORD_CR4	12
#define LIST_ENTRIES	169
#define LIST_PAGES	256

struct list_page {
	u64 next;
	u64 next_pa;
	u64 npages;
	struct mbecguard_range entries[LIST_ENTRIES];
};

static_assert(sizeof(struct list_page) <= PAGE_SIZE);
static_assert(LIST_PAGES * LIST_ENTRIES == MBECGUARD_MAX_RANGES);

static_assert(offsetof(struct list_page, entries) == MBECGUARD_TEXT_LINKS);

static bool sealed;	/* written under mbecg_lock; the notifier of sleep only reads it */
static bool stays;	/* mbecg_lock; whoever removes the module only reads it */

bool mbecg_sealed(void)
{
	return READ_ONCE(sealed);
}

bool mbecg_stays(void)
{
	return READ_ONCE(stays);
}

/* Guests with encrypted memory or state: the host could neither read a list nor see the registers. */
bool mbecg_kvm(void)
{
	return kvm_para_available() && !cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT);
}

static int hypercall(u64 nr, u64 a0, u64 a1, s64 *result)
{
	int trapped = 1;

	lockdep_assert_held(&mbecg_lock);
	if (!mbecg_kvm())
		return -EOPNOTSUPP;
	asm volatile("1: " ALTERNATIVE("vmcall", "vmmcall", X86_FEATURE_VMMCALL) "\n\t"
		     "xor %[trapped], %[trapped]\n"
		     "2:\n"
		     _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a" (nr), [trapped] "+r" (trapped)
		     : "b" (a0), "c" (a1), "d" (0ul), "S" (0ul)
		     : "memory", "cc");
	if (trapped)
		return -EOPNOTSUPP;
	*result = nr;
	return 0;
}

int mbecg_query(void *argument)
{
	struct mbecguard_query *query = argument;

	if (query->word > MBECGUARD_MAX_WORD)
		return -EINVAL;
	return hypercall(PROTECT_MEMORY, 0, QUERY_MAGIC + query->word, &query->result);
}

/* Bits of CR0 or CR4 that cannot go from 1 to 0, as this host says: the one that was asked for it may be another. */
u64 mbecg_pinned(u32 cr)
{
	s64 bits;
	int err = hypercall(PROTECT_MEMORY, 0, QUERY_MAGIC + (cr ? WORD_CR4 : WORD_CR0), &bits);

	return err || bits < 0 ? 0 : bits;
}

int mbecg_pin(void *argument)
{
	struct mbecguard_pin *pin = argument;

	if (pin->cr != 0 && pin->cr != 4)
		return -EINVAL;
	if (mbecg_off)
		return -EPERM;
	return hypercall(LOCK_CR_UPDATE, pin->cr, pin->bits, &pin->result);
}

static struct list_page *next_page(const struct list_page *list)
{
	return list->next_pa ? phys_to_virt(list->next_pa) : NULL;
}

static void free_list(struct list_page *list)
{
	while (list) {
		struct list_page *next = next_page(list);

		free_page((unsigned long)list);
		list = next;
	}
}

/* A list page of @count ranges, or of whatever @size bytes these are, in front of @rest; frees @rest if it fails. */
static struct list_page *put_in_front(const void __user *content, size_t size, u32 count,
				      struct list_page *rest)
{
	struct list_page *list = (void *)get_zeroed_page(GFP_KERNEL);
	int err = -ENOMEM;

	if (!list)
		goto free_rest;
	list->next_pa = rest ? virt_to_phys(rest) : 0;
	list->npages = count;
	err = -EFAULT;
	if (copy_from_user(list->entries, content, size))
		goto free_page;
	return list;

free_page:
	free_page((unsigned long)list);
free_rest:
	free_list(rest);
	return ERR_PTR(err);
}

/* The last page comes first: each knows the one behind it. */
static struct list_page *make_list(const struct mbecguard_range __user *ranges, u32 count)
{
	struct list_page *list = NULL;

	while (count && !IS_ERR(list)) {
		u32 first = rounddown(count - 1, LIST_ENTRIES);

		list = put_in_front(ranges + first, (count - first) * sizeof(*ranges),
				    count - first, list);
		count = first;
	}
	return list;
}

static struct list_page *make_text_list(const u8 __user *pages, u32 count)
{
	struct list_page *list = NULL;

	while (count-- && !IS_ERR(list))
		list = put_in_front(pages + (size_t)count * PAGE_SIZE + MBECGUARD_TEXT_LINKS,
				    PAGE_SIZE - MBECGUARD_TEXT_LINKS, 0, list);
	return list;
}

static bool is_immutable(const struct list_page *list)
{
	u64 i;

	for (; list; list = next_page(list))
		for (i = 0; i < list->npages; i++)
			if (list->entries[i].permissions & MBECGUARD_IMMUTABLE)
				return true;
	return false;
}

/* A frame of this module is denied, or read-only, until the machine resets: nobody else may ever get it. */
static void stay(const char *why)
{
	lockdep_assert_held(&mbecg_lock);
	if (stays)
		return;
	WRITE_ONCE(stays, true);
	__module_get(THIS_MODULE);
	pr_info("%s: this module stays\n", why);
}

static void seal(void)
{
	WRITE_ONCE(sealed, true);
	stay("sealed");
}

int mbecg_protect(void *argument)
{
	struct mbecguard_protect *protect = argument;
	struct list_page *list;
	int err;

	if (!protect->count || protect->count > MBECGUARD_MAX_RANGES)
		return -EINVAL;
	if (mbecg_off)
		return -EPERM;
	list = make_list(u64_to_user_ptr(protect->ranges), protect->count);
	if (IS_ERR(list))
		return PTR_ERR(list);
	err = hypercall(PROTECT_MEMORY, virt_to_phys(list), 0, &protect->result);
	if (!err && protect->result >= 0 && is_immutable(list))
		seal();
	free_list(list);
	return err;
}

int mbecg_text(void *argument)
{
	struct mbecguard_text *text = argument;
	struct list_page *list;
	int err;

	if (!text->count || text->count > MBECGUARD_MAX_TEXT_PAGES)
		return -EINVAL;
	if (mbecg_off)
		return -EPERM;
	list = make_text_list(u64_to_user_ptr(text->pages), text->count);
	if (IS_ERR(list))
		return PTR_ERR(list);
	err = hypercall(PROTECT_MEMORY, virt_to_phys(list), TEXT_MAGIC, &text->result);
	if (!err && text->result >= 0)
		stay("text is handed over");
	free_list(list);
	return err;
}
