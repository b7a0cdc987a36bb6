// SPDX-License-Identifier: GPL-2.0-or-later
/* /dev/mbecguard: who may ask, and what was asked. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/uaccess.h>
#include <asm/cpufeature.h>

#include "canary.h"
#include "compat.h"
#include "shim.h"

#define HYPERVISOR_LEAF	0x40000000

DEFINE_MUTEX(mbecg_lock);	/* see shim.h */

static void name_hypervisor(u8 *name)
{
	u32 eax, words[3];

	if (!boot_cpu_has(X86_FEATURE_HYPERVISOR))
		return;
	cpuid(HYPERVISOR_LEAF, &eax, &words[0], &words[1], &words[2]);
	memcpy(name, words, sizeof(words));
}

int mbecg_info(void *argument)
{
	struct mbecguard_info *info = argument;

	*info = (struct mbecguard_info){
		.size = info->size,
		.abi = MBECGUARD_ABI,
		.flags = (mbecg_kvm() ? MBECGUARD_INFO_KVM : 0) |
			 (mbecg_off ? MBECGUARD_INFO_OFF : 0) |
			 (mbecg_held() ? MBECGUARD_INFO_HELD : 0) |
			 (mbecg_sealed() ? MBECGUARD_INFO_SEALED : 0),
		.physical_bits = boot_cpu_data.x86_phys_bits,
		.canary_pa = mbecg_canary_pa(),
		.target_pa = mbecg_target_pa(),
		.page_offset = PAGE_OFFSET,
		.refused_modules = mbecg_refused_modules(),
	};
	name_hypervisor(info->hypervisor);
	return 0;
}

static const struct request {
	unsigned int command;
	int (*perform)(void *argument);
	bool unlocked;
} requests[] = {
	{ MBECGUARD_IOCTL_INFO, mbecg_info },
	{ MBECGUARD_IOCTL_MAPPINGS, mbecg_mappings, .unlocked = true },
	{ MBECGUARD_IOCTL_QUERY, mbecg_query },
	{ MBECGUARD_IOCTL_PROTECT, mbecg_protect },
	{ MBECGUARD_IOCTL_PIN, mbecg_pin },
	{ MBECGUARD_IOCTL_PROBE, mbecg_probe },
	{ MBECGUARD_IOCTL_HOLD, mbecg_hold },
	{ MBECGUARD_IOCTL_TEXT, mbecg_text },
};

union argument {
	struct mbecguard_info info;
	struct mbecguard_mappings mappings;
	struct mbecguard_query query;
	struct mbecguard_protect protect;
	struct mbecguard_pin pin;
	struct mbecguard_probe probe;
	struct mbecguard_hold hold;
	struct mbecguard_text text;
};

/* The size in the command is that of the caller's headers: the structure's own decides. */
static const struct request *find_request(unsigned int command)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(requests); i++)
		if (!((command ^ requests[i].command) & ~IOCSIZE_MASK))
			return &requests[i];
	return NULL;
}

static int take(void *argument, size_t size, const void __user *from)
{
	u32 given;

	if (get_user(given, (const u32 __user *)from))
		return -EFAULT;
	if (given < size)
		return -EINVAL;
	if (given > PAGE_SIZE)
		return -E2BIG;
	return copy_struct_from_user(argument, size, from, given);
}

static int perform(const struct request *request, void *argument)
{
	int err;

	if (request->unlocked)
		return request->perform(argument);
	err = mutex_lock_interruptible(&mbecg_lock);
	if (err)
		return err;
	err = request->perform(argument);
	mutex_unlock(&mbecg_lock);
	return err;
}

static long mbecg_ioctl(struct file *file, unsigned int command, unsigned long address)
{
	const struct request *request = find_request(command);
	void __user *user = (void __user *)address;
	union argument argument;
	size_t size;
	int err;

	/* Again: the file may have come from somebody who was allowed to open it. */
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (!request)
		return -ENOTTY;
	size = _IOC_SIZE(request->command);
	err = take(&argument, size, user);
	if (err)
		return err;
	err = perform(request, &argument);
	if (err)
		return err;
	if (request->command & IOC_OUT && copy_to_user(user, &argument, size))
		return -EFAULT;
	return 0;
}

static int mbecg_open(struct inode *inode, struct file *file)
{
	return capable(CAP_SYS_ADMIN) ? 0 : -EPERM;
}

static int mbecg_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	if (vma->vm_pgoff || vma_pages(vma) != 1 || vma->vm_flags & VM_WRITE)
		return -EINVAL;
	vm_flags_clear(vma, VM_MAYWRITE);
	return remap_pfn_range(vma, vma->vm_start, PHYS_PFN(mbecg_canary_pa()), PAGE_SIZE,
			       vma->vm_page_prot);
}

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.open = mbecg_open,
	.unlocked_ioctl = mbecg_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.mmap = mbecg_mmap,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "mbecguard",
	.fops = &fops,
	.mode = 0600,
};

static int __init mbecg_init(void)
{
	int err;

	/* Page tables of machine addresses, and ring 3: not what this is about. */
	if (boot_cpu_has(X86_FEATURE_XENPV))
		return -ENODEV;
	if (WARN_ON(!PAGE_ALIGNED(mbecg_canary) || !PAGE_ALIGNED(mbecg_target)))
		return -ENOEXEC;
	err = mbecg_read_command_line();
	if (err)
		return err;
	mbecg_probe_init();
	err = mbecg_hold_init();
	if (err)
		return err;
	err = misc_register(&device);
	if (err)
		goto exit_hold;
	return 0;

exit_hold:
	mbecg_hold_exit();
	return err;
}
module_init(mbecg_init);

/*
 * `rmmod -f` asks no reference. Returning would give frames that stay denied, or
 * read-only, to the next who allocates one, and take the hold away.
 */
static void stay(void)
{
	pr_alert("the host keeps to what it was asked: this module stays, and whoever wanted to remove it waits\n");
	for (;;)
		schedule_timeout_idle(MAX_SCHEDULE_TIMEOUT);
}

static void __exit mbecg_exit(void)
{
	if (mbecg_stays())
		stay();
	misc_deregister(&device);
	mbecg_hold_exit();
}
module_exit(mbecg_exit);

MODULE_DESCRIPTION("mbecguard: page permissions from the hypervisor");
MODULE_LICENSE("GPL");
MODULE_VERSION(MBECG_VERSION);
