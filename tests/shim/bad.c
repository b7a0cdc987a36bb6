// SPDX-License-Identifier: GPL-2.0-or-later
/* Malformed requests, and callers who may not ask. Each has a well-formed twin that is answered otherwise. */
#include <fcntl.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shimtest.h"

#define NOBODY 65534
#define KERNEL_ADDRESS ((void *)0xffff888000000000ul)

/* A request that is answered: with 0, or with this error number where there is no KVM. */
struct request {
	unsigned long command;
	uint32_t size;
	int answer;
	union {
		uint8_t bytes[3 * PAGE];
		struct mbecguard_info info;
		struct mbecguard_mappings mappings;
		struct mbecguard_query query;
		struct mbecguard_protect protect;
		struct mbecguard_pin pin;
		struct mbecguard_probe probe;
		struct mbecguard_hold hold;
		struct mbecguard_text text;
	};
};

#define REQUESTS 8

static struct mbecguard_range range = { 0x3000000000ull, 0x3000001000ull, MBECGUARD_READ };
static struct mbecguard_mapping mapping;
static uint8_t text_page[PAGE];

static struct request valid(int which)
{
	struct request all[REQUESTS] = {
		{ MBECGUARD_IOCTL_INFO, .info.size = sizeof(struct mbecguard_info) },
		{ MBECGUARD_IOCTL_MAPPINGS, .mappings = { sizeof(struct mbecguard_mappings),
			.mappings = (uintptr_t)&mapping, .count = 1 } },
		{ MBECGUARD_IOCTL_QUERY, .answer = EOPNOTSUPP, .query.size = sizeof(struct mbecguard_query) },
		{ MBECGUARD_IOCTL_PROTECT, .answer = EOPNOTSUPP, .protect = { sizeof(struct mbecguard_protect),
			.ranges = (uintptr_t)&range, .count = 1 } },
		{ MBECGUARD_IOCTL_PIN, .answer = EOPNOTSUPP, .pin = { sizeof(struct mbecguard_pin),
			.cr = 4, .bits = 1ul << 20 } },
		{ MBECGUARD_IOCTL_PROBE, .probe = { sizeof(struct mbecguard_probe),
			.kind = MBECGUARD_PROBE_CANARY } },
		{ MBECGUARD_IOCTL_HOLD, .hold = { sizeof(struct mbecguard_hold), .held = 0 } },
		{ MBECGUARD_IOCTL_TEXT, .answer = EOPNOTSUPP, .text = { sizeof(struct mbecguard_text),
			.pages = (uintptr_t)text_page, .count = 1 } },
	};

	all[which].size = all[which].info.size;
	return all[which];
}

static int send(int fd, const struct request *request)
{
	struct request copy = *request;

	errno = 0;
	return ioctl(fd, request->command, copy.bytes) ? errno : 0;
}

static bool answered(int fd, const struct request *request)
{
	int answer = send(fd, request);

	return !answer || answer == request->answer;
}

void test_sizes(char **arguments)
{
	static const uint32_t longer[] = { 1, 4, 8, 100 };
	int fd = device(), which;

	(void)arguments;
	for (which = 0; which < REQUESTS; which++) {
		struct request request = valid(which);
		uint32_t *size = &request.info.size;
		unsigned int i;

		CHECK(answered(fd, &request));
		for (*size = 0; *size < request.size; ++*size)
			CHECK(send(fd, &request) == EINVAL);
		for (i = 0; i < sizeof(longer) / sizeof(*longer); i++) {
			*size = request.size + longer[i];
			CHECK(answered(fd, &request));
			request.bytes[*size - 1] = 1;
			CHECK(send(fd, &request) == E2BIG);
			request.bytes[*size - 1] = 0;
		}
		*size = PAGE;
		CHECK(answered(fd, &request));
		*size = PAGE + 1;
		CHECK(send(fd, &request) == E2BIG);
		*size = UINT32_MAX;
		CHECK(send(fd, &request) == E2BIG);
		/* Newer headers have another size in the command, too. */
		*size = request.size + 8;
		request.command += 8ul << _IOC_SIZESHIFT;
		CHECK(answered(fd, &request));
	}
}

#define BAD(which, field, value, number) do { \
		struct request request = valid(which); \
		CHECK(answered(fd, &request)); \
		request.field = (value); \
		CHECK(send(fd, &request) == (number)); \
	} while (0)

void test_fields(char **arguments)
{
	int fd = device();
	int bit;

	(void)arguments;
	for (bit = 0; bit < 32; bit++) {
		BAD(1, mappings.reserved, 1u << bit, EINVAL);
		BAD(2, query.word, 1u << bit, bit < 8 ? EOPNOTSUPP : EINVAL);
		BAD(5, probe.reserved, 1u << bit, EINVAL);
		if (bit)
			BAD(1, mappings.flags, 1u << bit, EINVAL);
		if (bit != 2)
			BAD(4, pin.cr, 1u << bit, EINVAL);
		if (bit)
			BAD(6, hold.held, 1u << bit, EINVAL);
	}
	BAD(1, mappings.count, 0, EINVAL);
	BAD(1, mappings.from_va, 1, EINVAL);
	BAD(1, mappings.from_va, 0x400000, EINVAL);
	BAD(1, mappings.from_va, 0x0000800000000000, EINVAL);
	BAD(1, mappings.from_va, 0xffffffff80000001, EINVAL);
	BAD(1, mappings.from_va, UINT64_MAX, EINVAL);
	BAD(3, protect.count, 0, EINVAL);
	BAD(3, protect.count, MBECGUARD_MAX_RANGES + 1, EINVAL);
	BAD(3, protect.count, UINT32_MAX, EINVAL);
	BAD(7, text.count, 0, EINVAL);
	BAD(7, text.count, MBECGUARD_MAX_TEXT_PAGES + 1, EINVAL);
	BAD(7, text.count, UINT32_MAX, EINVAL);
	BAD(5, probe.kind, 4, EINVAL);
	BAD(5, probe.kind, UINT32_MAX, EINVAL);
	BAD(5, probe.va, PAGE, EINVAL);
	BAD(5, probe.cr, 4, EINVAL);
	BAD(5, probe.bits, 1, EINVAL);
}

/* 170 ranges need two list pages: one of them can be read, the other not. */
static void check_second_page(int fd, const uint8_t *hole)
{
	struct request request = valid(3);

	request.protect.ranges = (uintptr_t)(hole + PAGE) - 169 * sizeof(range);
	request.protect.count = 169;
	CHECK(answered(fd, &request));
	request.protect.count = 170;
	CHECK(send(fd, &request) == EFAULT);
	request.protect.ranges = (uintptr_t)(hole + 2 * PAGE) - 169 * sizeof(range);
	CHECK(send(fd, &request) == EFAULT);
	request.protect.ranges += 169 * sizeof(range);
	request.protect.count = 1;
	CHECK(answered(fd, &request));
}

void test_pointers(char **arguments)
{
	uint8_t *hole = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = device(), which;

	(void)arguments;
	CHECK(hole != MAP_FAILED && !munmap(hole + PAGE, PAGE));
	for (which = 0; which < REQUESTS; which++) {
		struct request request = valid(which);
		uint8_t *end = hole + PAGE - request.size;

		memcpy(end, request.bytes, request.size);
		CHECK(!ioctl(fd, request.command, end) || errno == request.answer);
		REFUSED(ioctl(fd, request.command, NULL), EFAULT);
		REFUSED(ioctl(fd, request.command, hole + PAGE), EFAULT);
		REFUSED(ioctl(fd, request.command, KERNEL_ADDRESS), EFAULT);
		memcpy(end + 4, request.bytes, request.size - 4);
		REFUSED(ioctl(fd, request.command, end + 4), EFAULT);
		memcpy(end + request.size - 4, request.bytes, 4);
		REFUSED(ioctl(fd, request.command, end + request.size - 4), EFAULT);
	}
	BAD(1, mappings.mappings, 0, EFAULT);
	BAD(1, mappings.mappings, (uintptr_t)KERNEL_ADDRESS, EFAULT);
	BAD(1, mappings.mappings, (uintptr_t)hole + PAGE - 8, EFAULT);
	BAD(7, text.pages, 0, EFAULT);
	BAD(7, text.pages, (uintptr_t)KERNEL_ADDRESS, EFAULT);
	BAD(7, text.pages, (uintptr_t)hole + PAGE - 8, EFAULT);
	BAD(3, protect.ranges, 0, EFAULT);
	BAD(3, protect.ranges, (uintptr_t)KERNEL_ADDRESS, EFAULT);
	BAD(3, protect.ranges, (uintptr_t)hole + PAGE - 8, EFAULT);
	check_second_page(fd, hole);
}

void test_unknown(char **arguments)
{
	struct request request = valid(0);
	int fd = device();
	unsigned int nr;

	(void)arguments;
	for (nr = 0; nr < 256; nr++) {
		bool known = nr >= 0xe0 && nr <= 0xe7 && nr != 0xe6; /* 0xe6 is _IOW */

		request.command = _IOWR('m', nr, struct mbecguard_info);
		CHECK((send(fd, &request) == ENOTTY) == !known);
	}
	request.command = _IOR('m', 0xe0, struct mbecguard_info);
	CHECK(send(fd, &request) == ENOTTY);
	request.command = _IO('m', 0xe0);
	CHECK(send(fd, &request) == ENOTTY);
	request.command = _IOWR('M', 0xe0, struct mbecguard_info);
	CHECK(send(fd, &request) == ENOTTY);
	request.command = _IOWR('m', 0xe6, struct mbecguard_hold);
	CHECK(send(fd, &request) == ENOTTY);
	CHECK(write(fd, "x", 1) == -1 && read(fd, &request, 1) == -1);
}

static void become_nobody(void)
{
	CHECK(!setgroups(0, NULL) && !setgid(NOBODY) && !setuid(NOBODY));
}

static int cannot_open(int number)
{
	become_nobody();
	REFUSED(open(DEVICE, O_RDWR), number);
	REFUSED(open(DEVICE, O_RDONLY), number);
	return 0;
}

/* The mode is one lock, the capability another. */
void test_unprivileged(char **arguments)
{
	struct stat node;

	(void)arguments;
	CHECK(!stat(DEVICE, &node) && S_ISCHR(node.st_mode) && (node.st_mode & 07777) == 0600);
	close(device());
	CHECK(!in_child(cannot_open, EACCES));
	CHECK(!chmod(DEVICE, 0666));
	CHECK(!in_child(cannot_open, EPERM));
	CHECK(!chmod(DEVICE, 0600));
}

static int cannot_use(int fd)
{
	int which;

	become_nobody();
	for (which = 0; which < REQUESTS; which++) {
		struct request request = valid(which);

		CHECK(send(fd, &request) == EPERM);
	}
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
	return 0;
}

void test_passed(char **arguments)
{
	int fd = device(), which;

	(void)arguments;
	for (which = 0; which < REQUESTS; which++) {
		struct request request = valid(which);

		CHECK(answered(fd, &request));
	}
	CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED);
	CHECK(!in_child(cannot_use, fd));
}

/* Everything is well-formed; the answer is about the host. */
void test_nokvm(char **arguments)
{
	static struct mbecguard_range ranges[MBECGUARD_MAX_RANGES];
	struct request request = valid(3);
	int fd = device(), i;

	(void)arguments;
	CHECK(!(info(fd).flags & MBECGUARD_INFO_KVM));
	for (i = 2; i <= 4; i++) {
		struct request other = valid(i);

		CHECK(send(fd, &other) == EOPNOTSUPP);
	}
	for (i = 0; i < MBECGUARD_MAX_RANGES; i++)
		ranges[i] = range;
	request.protect.ranges = (uintptr_t)ranges;
	for (i = 168; i <= MBECGUARD_MAX_RANGES; i += i == 170 ? MBECGUARD_MAX_RANGES - 170 : 1) {
		request.protect.count = i;
		CHECK(send(fd, &request) == EOPNOTSUPP);
	}
	CHECK(!(info(fd).flags & MBECGUARD_INFO_SEALED));
}

void test_off(char **arguments)
{
	struct request protect = valid(3), pin = valid(4), hold = valid(6);
	int fd = device(), which;

	(void)arguments;
	CHECK(info(fd).flags & MBECGUARD_INFO_OFF);
	CHECK(send(fd, &protect) == EPERM && send(fd, &pin) == EPERM);
	hold.hold.held = 1;
	CHECK(send(fd, &hold) == EPERM && !(info(fd).flags & MBECGUARD_INFO_HELD));
	protect.protect.count = 0;
	pin.pin.cr = 3;
	CHECK(send(fd, &protect) == EINVAL && send(fd, &pin) == EINVAL);
	for (which = 0; which < REQUESTS; which++) {
		struct request request = valid(which);

		CHECK(which == 3 || which == 4 || answered(fd, &request));
	}
}
