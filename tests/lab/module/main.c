// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guest-side test module of the lab: /dev/mbectest takes one verb per write and
 * gives its answer to the next read. It is a weapon against the guest that
 * loads it, and no part of the product.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/string.h>
#include <linux/timex.h>
#include <linux/uaccess.h>
#include <asm/alternative.h>
#include <asm/asm.h>

#include "mbectest.h"

static DEFINE_MUTEX(lock);	/* serialises verbs; guards answer and cost */
static char answer[512];
static u64 cost;

/* Under plain emulation VMCALL is an undefined instruction: a result like any other. */
long mbectest_hypercall(u64 nr, u64 a0, u64 a1, int *trap)
{
	u64 start = rdtsc();
	long result = nr;
	int trapped = 1;

	asm volatile("1: " ALTERNATIVE("vmcall", "vmmcall", X86_FEATURE_VMMCALL) "\n\t"
		     "xor %[trapped], %[trapped]\n"
		     "2:\n"
		     _ASM_EXTABLE_TYPE(1b, 2b, EX_TYPE_FAULT)
		     : "+a" (result), [trapped] "+r" (trapped)
		     : "b" (a0), "c" (a1), "d" (0ul), "S" (0ul)
		     : "memory", "cc");
	cost = rdtsc() - start;
	*trap = trapped ? (int)result : -1;
	return result;
}

static int verb_hypercall(const u64 *words, int count, char *text, size_t size)
{
	int trap;
	long result = mbectest_hypercall(words[0], words[1], words[2], &trap);

	if (trap >= 0)
		return scnprintf(text, size, "trap %d", trap);
	return scnprintf(text, size, "%ld", result);
}

static int verb_cost(const u64 *words, int count, char *text, size_t size)
{
	return scnprintf(text, size, "%llu", cost);
}

static const struct {
	const char *name;
	int words;
	mbectest_verb run;
} verbs[] = {
	{ "hypercall", 3, verb_hypercall },
	{ "cost", 0, verb_cost },
	{ "canary", 1, mbectest_verb_canary },
	{ "run", 1, mbectest_verb_run },
	{ "oops", 1, mbectest_verb_oops },
	{ "clear_cr", 2, mbectest_verb_clear_cr },
	{ "write_cr", 3, mbectest_verb_write_cr },
	{ "toggle_wp", 1, mbectest_verb_toggle_wp },
	{ "flips", 2, mbectest_verb_flips },
	{ "init", 1, mbectest_verb_init },
	{ "start_page", 1, mbectest_verb_start_page },
	{ "start_by_data", 1, mbectest_verb_start_by_data },
	{ "start_by_text", 1, mbectest_verb_start_by_text },
	{ "start_by_code", 1, mbectest_verb_start_by_code },
	{ "start_boot_cpu", 1, mbectest_verb_start_boot_cpu },
	{ "forget_bsp", 0, mbectest_verb_forget_bsp },
	{ "smi", 0, mbectest_verb_smi },
	{ "smi_handler", 2, mbectest_verb_smi_handler },
	{ "smis", 0, mbectest_verb_smis },
	{ "bridge", 2, mbectest_verb_bridge },
	{ "suspend", 0, mbectest_verb_suspend },
	{ "woken", 0, mbectest_verb_woken },
	{ "pair", 1, mbectest_verb_pair },
	{ "pair_run", 1, mbectest_verb_pair_run },
	{ "payload", 1, mbectest_verb_payload },
	{ "payload_run", 1, mbectest_verb_payload_run },
	{ "payload_plant", 1, mbectest_verb_payload_plant },
	{ "pa", 1, mbectest_verb_pa },
	{ "wander", 1, mbectest_verb_wander },
	{ "spot", 1, mbectest_verb_spot },
	{ "frame", 1, mbectest_verb_frame },
	{ "free_space", 1, mbectest_verb_free_space },
	{ "poke", 3, mbectest_verb_poke },
	{ "overwrite", 3, mbectest_verb_overwrite },
	{ "store", 3, mbectest_verb_store },
	{ "store_storm", 2, mbectest_verb_store_storm },
	{ "store_cmpxchg", 1, mbectest_verb_store_cmpxchg },
	{ "store_movs", 2, mbectest_verb_store_movs },
	{ "store_avx", 1, mbectest_verb_store_avx },
	{ "peek", 1, mbectest_verb_peek },
	{ "wrmsr", 2, mbectest_verb_wrmsr },
	{ "dma", 1, mbectest_verb_dma },
	{ "balloon", 1, mbectest_verb_balloon },
	{ "receive", 2, mbectest_verb_receive },
	{ "read_disk", 1, mbectest_verb_read_disk },
	{ "patched_meanwhile", 2, mbectest_verb_patched_meanwhile },
	{ "written_meanwhile", 2, mbectest_verb_written_meanwhile },
	{ "patch_cost", 2, mbectest_verb_patch_cost },
	{ "walk", 1, mbectest_verb_walk },
	{ "call_user", 1, mbectest_verb_call_user },
	{ "call_supervisor", 2, mbectest_verb_call_supervisor },
	{ "huge", 0, mbectest_verb_huge },
	{ "huge_touch", 0, mbectest_verb_huge_touch },
	{ "huge_run", 1, mbectest_verb_huge_run },
	{ "page", 1, mbectest_verb_page },
	{ "set", 3, mbectest_verb_set },
	{ "entry", 4, mbectest_verb_entry },
	{ "many", 5, mbectest_verb_many },
	{ "churn", 3, mbectest_verb_churn },
	{ "wipe", 0, mbectest_verb_wipe },
	{ "race", 2, mbectest_verb_race },
	{ "late_vmxe", 0, mbectest_verb_late_vmxe },
	{ "fuzz", 2, mbectest_verb_fuzz },
	{ "crowd", 3, mbectest_verb_crowd },
};

static int parse_words(char *line, u64 *words)
{
	int count = 0, err;
	char *word;

	while ((word = strsep(&line, " ")) && count < MBECTEST_MAX_WORDS) {
		err = kstrtou64(word, 0, &words[count++]);
		if (err)
			return err;
	}
	return word ? -E2BIG : count;
}

static int perform(char *line)
{
	u64 words[MBECTEST_MAX_WORDS];
	char *name = strsep(&line, " ");
	int i, count;

	lockdep_assert_held(&lock);
	count = parse_words(line, words);
	if (count < 0)
		return count;
	for (i = 0; i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(name, verbs[i].name) && count == verbs[i].words)
			return verbs[i].run(words, count, answer, sizeof(answer));
	return -EINVAL;
}

static ssize_t mbectest_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	char line[256];
	int err;

	if (size >= sizeof(line))
		return -E2BIG;
	if (copy_from_user(line, from, size))
		return -EFAULT;
	line[size] = '\0';
	mutex_lock(&lock);
	answer[0] = '\0';
	err = perform(strim(line));
	mutex_unlock(&lock);
	return err < 0 ? err : size;
}

static ssize_t mbectest_read(struct file *file, char __user *to, size_t size, loff_t *pos)
{
	ssize_t done;

	mutex_lock(&lock);
	done = simple_read_from_buffer(to, size, pos, answer, strlen(answer));
	mutex_unlock(&lock);
	return done;
}

/* Page number = canary index: the same frame, as a user page. */
static int mbectest_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (vma->vm_pgoff >= MBECTEST_CANARIES || vma_pages(vma) != 1)
		return -EINVAL;
	return remap_pfn_range(vma, vma->vm_start, PHYS_PFN(mbectest_canary_pa(vma->vm_pgoff)),
			       PAGE_SIZE, vma->vm_page_prot);
}

static const struct file_operations mbectest_fops = {
	.owner = THIS_MODULE,
	.read = mbectest_read,
	.write = mbectest_write,
	.mmap = mbectest_mmap,
};

static struct miscdevice mbectest_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mbectest",
	.fops = &mbectest_fops,
	.mode = 0600,
};

static int __init mbectest_init(void)
{
	int err = mbectest_apic_init();

	if (err)
		return err;
	err = mbectest_pairs_init() ?: mbectest_lists_init();
	if (err)
		goto unmap_apic;
	err = mbectest_payload_init();
	if (err)
		goto free_lists;
	err = mbectest_processors_init();
	if (err)
		goto free_payloads;
	err = misc_register(&mbectest_device);
	if (err)
		goto free_processors;
	return 0;

free_processors:
	mbectest_processors_exit();
free_payloads:
	mbectest_payload_exit();
free_lists:
	mbectest_lists_exit();
unmap_apic:
	mbectest_apic_exit();
	return err;
}
module_init(mbectest_init);

static void __exit mbectest_exit(void)
{
	misc_deregister(&mbectest_device);
	mbectest_processors_exit();
	mbectest_payload_exit();
	mbectest_huge_exit();
	mbectest_lists_exit();
	mbectest_apic_exit();
}
module_exit(mbectest_exit);

MODULE_DESCRIPTION("mbecguard lab: raw hypercalls and canaries");
MODULE_LICENSE("GPL");
