// SPDX-License-Identifier: GPL-2.0-or-later
/* kvm/PID-FD/mbecguard: one "name value..." a line, for people and for tests. */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "mmu.h"
#include "mbecg.h"

static void show_map(struct seq_file *file, const struct mbecg_map *map)
{
	u32 i;

	seq_printf(file, "boundaries %u\nrestricted %d\nsealed %d\n", map ? map->nr : 0,
		   map && map->restricted, map && map->sealed);
	for (i = 0; map && i < map->nr; i++) {
		u64 start = map->keys[i] >> 4;
		u64 end = i + 1 < map->nr ? map->keys[i + 1] >> 4 : kvm_mmu_max_gfn() + 1;

		if (start < end)
			seq_printf(file, "range %llx %llx %u\n", start, end,
				   mbecg_map_attr(map, start));
	}
}

static void show_log(struct seq_file *file, struct mbecg *vm)
{
	u64 i;

	guard(spinlock)(&vm->log_lock);
	seq_printf(file, "violations %llu\n", vm->violations);
	i = vm->violations > MBECG_LOG_SIZE ? vm->violations - MBECG_LOG_SIZE : 0;
	for (; i < vm->violations; i++) {
		const struct mbecg_violation *is = &vm->log[i % MBECG_LOG_SIZE];

		seq_printf(file, "violation vcpu %u gpa %llx va %llx error %llx\n", is->vcpu,
			   is->gpa, is->va, is->error_code);
	}
}

static int mbecg_show(struct seq_file *file, void *unused)
{
	struct kvm *kvm = file->private;
	struct mbecg *vm = to_mbecg(kvm);

	guard(mutex)(&vm->lock);
	seq_printf(file, "mode %u\ngeneration %llu\n", mbecg_mode, vm->generation);
	seq_printf(file, "pinned %llx %llx\n", (u64)atomic64_read(&vm->pinned_cr0),
		   (u64)atomic64_read(&vm->pinned_cr4));
	seq_printf(file, "granted %d\n", atomic_read(&vm->nr_granted));
	seq_printf(file, "refused %llu\n", (u64)atomic64_read(&vm->refused));
	show_map(file, mbecg_map_locked(kvm));
	mbecg_texts_show(file, &vm->texts);
	show_log(file, vm);
	return 0;
}

static int mbecg_open(struct inode *inode, struct file *file)
{
	struct kvm *kvm = inode->i_private;
	int r;

	if (!kvm_get_kvm_safe(kvm))
		return -ENOENT;
	r = single_open(file, mbecg_show, kvm);
	if (r < 0)
		kvm_put_kvm(kvm);
	return r;
}

static int mbecg_release(struct inode *inode, struct file *file)
{
	kvm_put_kvm(inode->i_private);
	return single_release(inode, file);
}

static const struct file_operations mbecg_fops = {
	.owner = THIS_MODULE,
	.open = mbecg_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = mbecg_release,
};

void mbecg_create_debugfs(struct kvm *kvm)
{
	if (mbecg_mode != MBECG_OFF)
		debugfs_create_file("mbecguard", 0400, kvm->debugfs_dentry, kvm, &mbecg_fops);
}
