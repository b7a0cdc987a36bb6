// SPDX-License-Identifier: GPL-2.0-or-later
/* The way out for a machine that its lock has broken: mbecguard=off, as the agent reads it. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/err.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "shim.h"

bool mbecg_off;
module_param_named(off, mbecg_off, bool, 0444);
MODULE_PARM_DESC(off, "Refuse to protect, to pin and to hold (as does mbecguard=off on the kernel's command line)");

/* saved_command_line is not exported; a bootconfig may make it longer than COMMAND_LINE_SIZE. */
static ssize_t read_file(const char *path, char *text, size_t size)
{
	struct file *file = filp_open(path, O_RDONLY, 0);
	ssize_t done, total = 0;
	loff_t at = 0;

	if (IS_ERR(file))
		return PTR_ERR(file);
	do {
		done = kernel_read(file, text + total, size - total, &at);
		total += max_t(ssize_t, done, 0);
	} while (done > 0 && total < size);
	filp_close(file, NULL);
	return done < 0 ? done : total;
}

static bool has_word(char *text, const char *wanted)
{
	char *word;

	while ((word = strsep(&text, " \t\n")))
		if (!strcmp(word, wanted))
			return true;
	return false;
}

int mbecg_read_command_line(void)
{
	char *text = kvzalloc(SZ_64K, GFP_KERNEL);
	ssize_t done;

	if (!text)
		return -ENOMEM;
	done = read_file("/proc/cmdline", text, SZ_64K - 1);
	if (done < 0)
		pr_err("cannot read /proc/cmdline: %zd\n", done);
	else
		mbecg_off |= has_word(text, "mbecguard=off");
	kvfree(text);
	return min_t(ssize_t, done, 0);
}
