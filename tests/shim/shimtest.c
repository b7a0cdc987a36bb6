// SPDX-License-Identifier: GPL-2.0-or-later
/* Checks of the shim from user space: shimtest NAME [ARGUMENT...] prints one line and exits with 0 if all is well. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shimtest.h"

static const struct {
	const char *name;
	int arguments;
	void (*run)(char **arguments);
} tests[] = {
	{ "sizes", 0, test_sizes },
	{ "fields", 0, test_fields },
	{ "pointers", 0, test_pointers },
	{ "unknown", 0, test_unknown },
	{ "unprivileged", 0, test_unprivileged },
	{ "passed", 0, test_passed },
	{ "info", 0, test_info },
	{ "nokvm", 0, test_nokvm },	/* where the hypervisor is not KVM */
	{ "off", 0, test_off },		/* where mbecguard=off is */
	{ "mappings", 0, test_mappings },
	{ "content", 0, test_content },
	{ "canary", 0, test_canary },
	{ "user", 0, test_user },
	{ "mmap", 0, test_mmap },
	{ "fetch", 0, test_fetch },
	{ "clear", 0, test_clear },
	{ "store", 0, test_store },
	{ "locked", 0, test_locked },	/* not again: the kernel is locked down */
	{ "hold", 2, test_hold },	/* FILE NAME of a module that is not loaded */
	{ "unload", 1, test_unload },	/* FILE of the shim */
};

static const char *running = "?";

_Noreturn void fail(const char *file, int line, const char *what)
{
	printf("%s failed %s:%d %s (%s)\n", running, file, line, what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

int device(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	return fd;
}

struct mbecguard_info info(int fd)
{
	struct mbecguard_info seen = { .size = sizeof(seen) };

	CHECK(!ioctl(fd, MBECGUARD_IOCTL_INFO, &seen));
	return seen;
}

int in_child(int (*run)(int fd), int fd)
{
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (!child)
		_exit(run(fd));
	CHECK(waitpid(child, &status, 0) == child);
	return status;
}

int main(int count, char **words)
{
	size_t i;

	for (i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		if (count < 2 || strcmp(words[1], tests[i].name) || count - 2 != tests[i].arguments)
			continue;
		running = words[1];
		tests[i].run(words + 2);
		printf("%s ok\n", running);
		return 0;
	}
	for (i = 0; i < sizeof(tests) / sizeof(*tests); i++)
		fprintf(stderr, "shimtest %s (%d arguments)\n", tests[i].name, tests[i].arguments);
	return 2;
}
