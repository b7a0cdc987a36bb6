// SPDX-License-Identifier: GPL-2.0-or-later
/* Refuses new modules while a lock is being made, and sleep once it is sealed. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/limits.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/suspend.h>

#include "shim.h"

static bool held;	/* written under mbecg_lock; the notifier only reads it */
static atomic64_t refused;

/*
 * load_module() tells of MODULE_STATE_COMING before it runs anything of the
 * module, parameters included; on an error it takes the module away again
 * (kernel/module/main.c, prepare_coming_module() and bug_cleanup).
 */
static int refuse(struct notifier_block *block, unsigned long state, void *module)
{
	struct module *coming = module;

	if (state != MODULE_STATE_COMING || !READ_ONCE(held))
		return NOTIFY_DONE;
	atomic64_inc(&refused);
	pr_warn_ratelimited("module %s refused: modules are held\n", coming->name);
	return notifier_from_errno(-EPERM);
}

/* Before all others: they need not hear of it. */
static struct notifier_block block = {
	.notifier_call = refuse,
	.priority = INT_MAX,
};

/*
 * A sealed guest that hibernates wakes up in a machine that knows nothing of
 * its map, and one that resumes from memory may: hosts take it for a reset.
 */
static int refuse_sleep(struct notifier_block *block, unsigned long event, void *unused)
{
	if (event != PM_HIBERNATION_PREPARE && event != PM_SUSPEND_PREPARE &&
	    event != PM_RESTORE_PREPARE)
		return NOTIFY_DONE;
	if (!mbecg_sealed())
		return NOTIFY_DONE;
	pr_warn_ratelimited("sleep refused: this guest is sealed\n");
	return notifier_from_errno(-EPERM);
}

static struct notifier_block sleep_block = {
	.notifier_call = refuse_sleep,
	.priority = INT_MAX,
};

int mbecg_hold_init(void)
{
	int err = register_module_notifier(&block);

	if (err)
		return err;
	err = register_pm_notifier(&sleep_block);
	if (err)
		goto unregister_modules;
	return 0;

unregister_modules:
	unregister_module_notifier(&block);
	return err;
}

void mbecg_hold_exit(void)
{
	unregister_pm_notifier(&sleep_block);
	unregister_module_notifier(&block);
}

bool mbecg_held(void)
{
	return READ_ONCE(held);
}

u64 mbecg_refused_modules(void)
{
	return atomic64_read(&refused);
}

int mbecg_hold(void *argument)
{
	const struct mbecguard_hold *hold = argument;

	lockdep_assert_held(&mbecg_lock);
	if (hold->held > 1)
		return -EINVAL;
	if (hold->held && mbecg_off)
		return -EPERM;
	if (!hold->held && mbecg_sealed())
		return -EBUSY;
	WRITE_ONCE(held, hold->held);
	return 0;
}
