// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * shimfuzz SEED CALLS: random requests, most of them nearly valid. None can stop
 * the guest, even where a host obeys: ranges lie in a hole above any RAM and are
 * never immutable, and pins are bits that no kernel clears. What is probed is the
 * kernel's own text, which every lock keeps.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mbecguard.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096ul
#define HOLE 0x3000000000ull
#define HOLE_PAGES 256
#define KERNEL_IMAGE 0xffffffff80000000ull
#define KINDS 8

static uint64_t state;
static uint8_t *arena;			/* ends at a page that is not mapped */
static struct mbecguard_mapping text[4096];
static uint32_t texts;

/* splitmix64 */
static uint64_t any(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static uint64_t below(uint64_t end)
{
	return any() % end;
}

/* Mostly @good. */
static uint64_t or_any(uint64_t good)
{
	switch (below(16)) {
	case 0:
		return any() >> below(64);
	case 1:
		return good ^ 1ull << below(64);
	default:
		return good;
	}
}

/* Never other memory of this process: what lies there could be read as ranges. */
static uint64_t pointer(const void *good)
{
	static const uint64_t bad[] = { 0, PAGE, 0x7ffffffff000, 1ull << 47, 0xffff888000000000, UINT64_MAX - 3 };

	return below(16) ? (uintptr_t)good : bad[below(6)];
}

static uint64_t text_address(void)
{
	const struct mbecguard_mapping *map = &text[below(texts)];

	return below(8) ? map->va + below(map->bytes / PAGE) * PAGE : any() >> below(40);
}

static void mappings(struct mbecguard_mappings *request)
{
	uint32_t count = 1 + below(64);

	*request = (struct mbecguard_mappings){
		.size = sizeof(*request),
		.flags = below(64) ? 0 : or_any(MBECGUARD_MAPPINGS_CONTENT),
		.from_va = below(3) ? text_address() : or_any(0),
		.mappings = pointer(arena + PAGE - (1 + below(count)) * sizeof(*text)),
		.count = or_any(count),
		.reserved = below(32) ? 0 : any(),
	};
}

static void protect(struct mbecguard_protect *request)
{
	uint32_t i, count = 1 + below(8);
	struct mbecguard_range *ranges = (void *)(arena + PAGE - count * sizeof(*ranges));

	for (i = 0; i < count; i++) {
		uint64_t start = HOLE + below(HOLE_PAGES) * PAGE;

		ranges[i] = (struct mbecguard_range){ start, start + (1 + below(8)) * PAGE, 1 + below(7) };
		if (!below(16))
			ranges[i].permissions |= 16ull << below(60);
		if (!below(16))
			ranges[i].pa |= 1 + below(PAGE - 1);
	}
	*request = (struct mbecguard_protect){
		.size = sizeof(*request), .count = or_any(count), .ranges = pointer(ranges),
	};
}

static void probe(struct mbecguard_probe *request)
{
	*request = (struct mbecguard_probe){ .size = sizeof(*request), .kind = or_any(below(4)) };
	if (request->kind == MBECGUARD_PROBE_FETCH)
		request->va = text_address();
	if (request->kind == MBECGUARD_PROBE_CLEAR) {
		request->cr = or_any(4 * below(2));
		request->bits = or_any(request->cr ? 1ull << (20 + below(2)) : 1ull << 16);
	}
	if (!below(16))
		request->reserved = any();
}

/* A head of text in the hole, which no host can copy. */
static void hand_over(struct mbecguard_text *request)
{
	uint64_t pages[512] = { 0, 0, 0, 1 | 1ull << 32, HOLE, HOLE + (1 + below(8)) * PAGE };
	uint32_t i;

	for (i = 3; i < 10; i++)
		pages[i] = below(8) ? pages[i] : or_any(pages[i]);
	memcpy(arena, pages, PAGE);
	*request = (struct mbecguard_text){
		.size = sizeof(*request), .count = or_any(1), .pages = pointer(arena),
	};
}

static unsigned long fill(void *request)
{
	static const unsigned long commands[KINDS] = {
		MBECGUARD_IOCTL_INFO, MBECGUARD_IOCTL_MAPPINGS, MBECGUARD_IOCTL_QUERY, MBECGUARD_IOCTL_PROTECT,
		MBECGUARD_IOCTL_PIN, MBECGUARD_IOCTL_PROBE, MBECGUARD_IOCTL_HOLD, MBECGUARD_IOCTL_TEXT,
	};
	int kind = below(KINDS);

	switch (kind) {
	case 0:
		*(struct mbecguard_info *)request = (struct mbecguard_info){ .size = sizeof(struct mbecguard_info) };
		break;
	case 1:
		mappings(request);
		break;
	case 2:
		*(struct mbecguard_query *)request = (struct mbecguard_query){
			.size = sizeof(struct mbecguard_query), .word = below(4) ? 0 : any() };
		break;
	case 3:
		protect(request);
		break;
	case 4:
		*(struct mbecguard_pin *)request = (struct mbecguard_pin){
			.size = sizeof(struct mbecguard_pin), .cr = 4, .bits = 1ull << 20 };
		((struct mbecguard_pin *)request)->cr = or_any(4);
		break;
	case 5:
		probe(request);
		break;
	case 7:
		hand_over(request);
		break;
	default:
		*(struct mbecguard_hold *)request = (struct mbecguard_hold){
			sizeof(struct mbecguard_hold), or_any(below(2)) };
	}
	if (!below(32))
		*(uint32_t *)request = any() >> below(32);
	return below(64) ? commands[kind] : commands[kind] ^ 1ul << below(32);
}

/* The kernel's image is the first and in one piece; modules lie above it. */
static void learn(int fd)
{
	struct mbecguard_mappings request = {
		.size = sizeof(request), .from_va = KERNEL_IMAGE, .mappings = (uintptr_t)text, .count = 4096,
	};

	if (ioctl(fd, MBECGUARD_IOCTL_MAPPINGS, &request) || !request.count)
		return;
	do
		texts++;
	while (texts < request.count && text[texts - 1].va + text[texts - 1].bytes == text[texts].va);
}

static bool expected(int error)
{
	static const int known[] = { EINVAL, E2BIG, EFAULT, ENOTTY, EOPNOTSUPP, EPERM };
	unsigned int i;

	for (i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (error == known[i])
			return true;
	return false;
}

int main(int count, char **words)
{
	unsigned long calls, done, accepted = 0, refused = 0, unexpected = 0;
	struct mbecguard_hold release = { sizeof(release), 0 };
	struct mbecguard_info last = { .size = sizeof(last) };
	int fd = open("/dev/mbecguard", O_RDWR);

	if (count != 3) {
		fputs("shimfuzz SEED CALLS\n", stderr);
		return 2;
	}
	state = strtoull(words[1], NULL, 0);
	calls = strtoul(words[2], NULL, 0);
	arena = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (fd < 0 || arena == MAP_FAILED || munmap(arena + PAGE, PAGE)) {
		perror("/dev/mbecguard");
		return 1;
	}
	learn(fd);
	if (!texts) {
		fputs("no kernel text\n", stderr);
		return 1;
	}
	for (done = 0; done < calls; done++) {
		_Alignas(8) uint8_t request[3 * PAGE] = { 0 };
		unsigned long command = fill(request);

		if (!ioctl(fd, command, below(64) ? request : (void *)pointer(arena + PAGE - 4)))
			accepted++;
		else if (expected(errno))
			refused++;
		else
			unexpected++;
	}
	if (ioctl(fd, MBECGUARD_IOCTL_HOLD, &release) || ioctl(fd, MBECGUARD_IOCTL_INFO, &last) ||
	    last.flags & (MBECGUARD_INFO_HELD | MBECGUARD_INFO_SEALED))
		unexpected++;
	printf("accepted %lu refused %lu unexpected %lu\n", accepted, refused, unexpected);
	return unexpected ? 1 : 0;
}
