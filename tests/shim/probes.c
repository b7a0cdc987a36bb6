// SPDX-License-Identifier: GPL-2.0-or-later
/* What runs in kernel mode, and the canary's frame in user mode. */
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shimtest.h"

#define CR0_WP (1ul << 16)
#define CR4_UMIP (1ul << 11)
#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)

/* errno, or 0. */
static int probe(int fd, struct mbecguard_probe *request)
{
	request->size = sizeof(*request);
	return ioctl(fd, MBECGUARD_IOCTL_PROBE, request) ? errno : 0;
}

static int run_canary(int fd)
{
	struct mbecguard_probe seen = { .kind = MBECGUARD_PROBE_CANARY, .outcome = 99, .trap = 99, .cr2 = 99 };

	CHECK(!probe(fd, &seen) && !seen.trap && !seen.cr2);
	return seen.outcome;
}

void test_canary(char **arguments)
{
	int fd = device(), cpu, i;
	cpu_set_t cpus;

	(void)arguments;
	for (cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		CPU_ZERO(&cpus);
		CPU_SET(cpu, &cpus);
		CHECK(!sched_setaffinity(0, sizeof(cpus), &cpus));
		for (i = 0; i < 1000; i++)
			CHECK(run_canary(fd) == MBECGUARD_RAN);
	}
}

static int run_user(int fd)
{
	void *page = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	int (*entry)(void);

	CHECK(page != MAP_FAILED);
	memcpy(&entry, &page, sizeof(entry));
	return entry() == MBECGUARD_CANARY_VALUE ? 0 : 1;
}

static int run_readable(int fd)
{
	void *page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	int (*entry)(void);

	CHECK(page != MAP_FAILED);
	memcpy(&entry, &page, sizeof(entry));
	return entry();
}

void test_user(char **arguments)
{
	int fd = device();
	int status = in_child(run_user, fd);

	(void)arguments;
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status));
	status = in_child(run_readable, fd);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	CHECK(run_canary(fd) == MBECGUARD_RAN);
}

static int map(int fd, size_t bytes, int rights, int how, off_t offset)
{
	void *page = mmap(NULL, bytes, rights, how, fd, offset);

	if (page == MAP_FAILED)
		return -1;
	return munmap(page, bytes);
}

void test_mmap(char **arguments)
{
	static const uint8_t start[] = { 0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 0x42, 0x4d, 0, 0 };
	int fd = device();
	uint8_t *page;

	(void)arguments;
	CHECK(!map(fd, PAGE, PROT_READ, MAP_SHARED, 0));
	CHECK(!map(fd, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE, 0));
	REFUSED(map(fd, PAGE, PROT_READ, MAP_SHARED, PAGE), EINVAL);
	REFUSED(map(fd, 2 * PAGE, PROT_READ, MAP_SHARED, 0), EINVAL);
	REFUSED(map(fd, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0), EINVAL);
	REFUSED(map(fd, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0), EINVAL);
	page = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(page != MAP_FAILED && !memcmp(page, start, sizeof(start)) && page[PAGE - 1] == 0xcc);
	REFUSED(mprotect(page, PAGE, PROT_READ | PROT_WRITE), EACCES);
	CHECK(!mprotect(page, PAGE, PROT_READ | PROT_EXEC));
	REFUSED((long)mremap(page, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT);
}

static int fetch(int fd, uint64_t va, uint32_t *outcome)
{
	struct mbecguard_probe seen = { .kind = MBECGUARD_PROBE_FETCH, .va = va, .outcome = 99 };
	int err = probe(fd, &seen);

	*outcome = seen.outcome;
	return err;
}

static bool is_text(uint64_t va)
{
	return va >= 0xffffffff80000000 && va < 0xffffffffff000000;
}

void test_fetch(char **arguments)
{
	unsigned long seen[MBECGUARD_UNSUITABLE + 1] = { 0 };
	int fd = device();
	struct maps maps = walk(fd, 0, 65536);
	struct mbecguard_info here = info(fd);
	bool canary = false;
	uint32_t outcome;
	uint64_t at;
	size_t i;

	(void)arguments;
	for (i = 0; i < maps.count; i++) {
		const struct mbecguard_mapping *map = &maps.at[i];

		for (at = 0; at < map->bytes; at += PAGE) {
			if (!is_text(map->va)) {
				CHECK(fetch(fd, map->va + at, &outcome) == EINVAL);
				continue;
			}
			CHECK(!fetch(fd, map->va + at, &outcome));
			CHECK(outcome == MBECGUARD_RAN || outcome == MBECGUARD_UNSUITABLE);
			seen[outcome]++;
			canary |= map->pa + at == here.canary_pa && outcome == MBECGUARD_RAN;
		}
		CHECK(fetch(fd, map->va + 1, &outcome) == EINVAL);
	}
	CHECK(canary && seen[MBECGUARD_RAN] > 1000 && seen[MBECGUARD_UNSUITABLE] > 10);
	CHECK(fetch(fd, here.page_offset + here.canary_pa, &outcome) == EINVAL);
	CHECK(fetch(fd, 0, &outcome) == EINVAL && fetch(fd, -PAGE, &outcome) == EINVAL);
	CHECK(fetch(fd, (uintptr_t)test_fetch & -PAGE, &outcome) == EINVAL);
}

static int clear(int fd, uint32_t cr, uint64_t bits, uint32_t *outcome)
{
	struct mbecguard_probe seen = { .kind = MBECGUARD_PROBE_CLEAR, .cr = cr, .bits = bits, .outcome = 99 };
	int err = probe(fd, &seen);

	*outcome = seen.outcome;
	return err;
}

/* Nobody pins anything here: each can be cleared, and the guest lives on. */
void test_clear(char **arguments)
{
	struct mbecguard_probe with_va = {
		.kind = MBECGUARD_PROBE_CLEAR, .va = PAGE, .cr = 4, .bits = CR4_SMEP,
	};
	uint32_t outcome;
	int fd = device(), bit;

	(void)arguments;
	for (bit = 0; bit < 64; bit++) {
		bool good0 = 1ul << bit & CR0_WP, good4 = 1ul << bit & (CR4_UMIP | CR4_SMEP | CR4_SMAP);

		CHECK(clear(fd, 0, 1ul << bit, &outcome) == (good0 ? 0 : EINVAL));
		CHECK(!good0 || outcome == MBECGUARD_RAN);
		CHECK(clear(fd, 4, 1ul << bit, &outcome) == (good4 ? 0 : EINVAL));
		CHECK(!good4 || outcome == MBECGUARD_RAN);
		CHECK(clear(fd, 3, 1ul << bit, &outcome) == EINVAL);
		CHECK(good4 || clear(fd, 4, 1ul << bit | CR4_SMEP, &outcome) == EINVAL);
	}
	CHECK(!clear(fd, 4, CR4_UMIP | CR4_SMEP | CR4_SMAP, &outcome) && outcome == MBECGUARD_RAN);
	CHECK(clear(fd, 0, 0, &outcome) == EINVAL && clear(fd, 4, 0, &outcome) == EINVAL);
	CHECK(probe(fd, &with_va) == EINVAL);
}

/* No host holds text here: the byte changes, and is put back. */
void test_store(char **arguments)
{
	struct mbecguard_probe with_va = { .kind = MBECGUARD_PROBE_STORE, .va = PAGE };
	struct mbecguard_probe with_bits = { .kind = MBECGUARD_PROBE_STORE, .bits = 1 };
	int fd = device(), i;
	struct mbecguard_info here = info(fd);
	struct maps maps = walk(fd, MBECGUARD_MAPPINGS_CONTENT, 65536);
	bool target = false;
	size_t at;

	(void)arguments;
	for (i = 0; i < 100; i++) {
		struct mbecguard_probe seen = { .kind = MBECGUARD_PROBE_STORE, .outcome = 99, .trap = 99 };

		CHECK(!probe(fd, &seen) && seen.outcome == MBECGUARD_RAN && !seen.trap && !seen.cr2);
		CHECK((int64_t)seen.va < 0 && !(seen.va % PAGE));
	}
	CHECK(probe(fd, &with_va) == EINVAL && probe(fd, &with_bits) == EINVAL);
	for (at = 0; at < maps.count; at++)
		target |= here.target_pa - maps.at[at].pa < maps.at[at].bytes &&
			  maps.at[at].flags & MBECGUARD_MAP_INT3;
	CHECK(here.target_pa != here.canary_pa && target);
}

/* The kernel is locked down, and nobody has pinned anything: the bits stay on. */
void test_locked(char **arguments)
{
	uint32_t outcome;
	int fd = device();

	(void)arguments;
	CHECK(clear(fd, 0, CR0_WP, &outcome) == EPERM && clear(fd, 4, CR4_SMEP, &outcome) == EPERM);
	CHECK(clear(fd, 4, CR4_SMAP, &outcome) == EPERM && clear(fd, 4, CR4_UMIP, &outcome) == EPERM);
	CHECK(clear(fd, 4, 1, &outcome) == EINVAL);
}

void test_info(char **arguments)
{
	struct mbecguard_info seen = info(device());

	(void)arguments;
	CHECK(seen.size == sizeof(seen) && seen.abi == MBECGUARD_ABI);
	CHECK(!(seen.flags & ~(MBECGUARD_INFO_KVM | MBECGUARD_INFO_OFF)));
	CHECK(seen.physical_bits >= 32 && seen.physical_bits <= 52);
	CHECK(seen.canary_pa && !(seen.canary_pa % PAGE) && seen.canary_pa < 1ul << seen.physical_bits);
	CHECK(seen.page_offset >> 56 == 0xff && !(seen.page_offset % (1ul << 30)));
	CHECK(!memcmp(seen.hypervisor + 12, "\0\0\0\0", 4));
	printf("hypervisor %.12s ", (char *)seen.hypervisor);
}
