// SPDX-License-Identifier: GPL-2.0-or-later
/* Modules that may come, and the shim's own going. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "shimtest.h"

static int load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err;

	CHECK(fd >= 0);
	err = syscall(SYS_finit_module, fd, "", 0);
	close(fd);
	return err;
}

static int unload(const char *name)
{
	return syscall(SYS_delete_module, name, O_NONBLOCK);
}

static bool in_file(const char *path, const char *wanted)
{
	FILE *file = fopen(path, "r");
	char line[4096];
	bool found = false;

	CHECK(file);
	while (fgets(line, sizeof(line), file))
		found |= !!strstr(line, wanted);
	fclose(file);
	return found;
}

/* Symbols and the folder in /sys go as well: nothing is left of a refused module. */
static bool loaded(const char *name)
{
	char line[64], symbols[64], folder[64];

	snprintf(line, sizeof(line), "%s ", name);
	snprintf(symbols, sizeof(symbols), "[%s]", name);
	snprintf(folder, sizeof(folder), "/sys/module/%s", name);
	CHECK(in_file("/proc/modules", line) == in_file("/proc/kallsyms", symbols));
	CHECK(in_file("/proc/modules", line) == !access(folder, F_OK));
	return in_file("/proc/modules", line);
}

static int hold(int fd, uint32_t held)
{
	struct mbecguard_hold request = { sizeof(request), held };

	return ioctl(fd, MBECGUARD_IOCTL_HOLD, &request);
}

static bool held(int fd)
{
	return info(fd).flags & MBECGUARD_INFO_HELD;
}

/* FILE NAME: loads before, is refused while held, loads again after. */
void test_hold(char **arguments)
{
	const char *file = arguments[0], *name = arguments[1];
	int fd = device(), i;
	uint64_t refused = info(fd).refused_modules;

	CHECK(!loaded(name) && !load(file) && loaded(name) && !unload(name) && !loaded(name));
	CHECK(!held(fd) && info(fd).refused_modules == refused);
	for (i = 1; i <= 3; i++) {
		CHECK(!hold(fd, 1) && !hold(fd, 1) && held(fd));
		REFUSED(load(file), EPERM);
		CHECK(!loaded(name) && info(fd).refused_modules == refused + i);
	}
	close(fd);
	fd = device();
	CHECK(held(fd));
	REFUSED(load(file), EPERM);
	CHECK(!hold(fd, 0) && !held(fd));
	CHECK(!load(file) && loaded(name) && !unload(name));
}

/* FILE: the shim goes if nobody uses it, even while it holds modules; and comes back. */
void test_unload(char **arguments)
{
	int fd = device();
	void *page;

	CHECK(!hold(fd, 1) && held(fd));
	REFUSED(unload("mbecguard_shim"), EAGAIN);
	CHECK(!close(fd) && !unload("mbecguard_shim") && access(DEVICE, F_OK));
	CHECK(!load(arguments[0]) && !access(DEVICE, F_OK));
	fd = device();
	CHECK(!held(fd) && !info(fd).refused_modules);
	page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(page != MAP_FAILED && !close(fd));
	REFUSED(unload("mbecguard_shim"), EAGAIN);	/* the mapping uses it */
	CHECK(!munmap(page, PAGE) && !unload("mbecguard_shim") && !load(arguments[0]));
}
