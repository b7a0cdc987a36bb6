// SPDX-License-Identifier: GPL-2.0-or-later
/* The walk against other witnesses: kallsyms, iomem, and kernel memory as /proc/kcore shows it. */
#include <elf.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "shimtest.h"

#define CONTENT (MBECGUARD_MAP_INT3 | MBECGUARD_MAP_THUNKS)

struct maps walk(int fd, uint32_t flags, uint32_t step)
{
	struct maps all = { NULL, 0 };
	struct mbecguard_mappings request = { .size = sizeof(request), .flags = flags };

	do {
		all.at = realloc(all.at, (all.count + step) * sizeof(*all.at));
		CHECK(all.at);
		request.mappings = (uintptr_t)(all.at + all.count);
		request.count = step;
		CHECK(!ioctl(fd, MBECGUARD_IOCTL_MAPPINGS, &request));
		CHECK(request.count <= step && (!request.from_va || request.count == step));
		all.count += request.count;
	} while (request.from_va);
	return all;
}

static bool continues(const struct mbecguard_mapping *one, const struct mbecguard_mapping *next)
{
	return one->va + one->bytes == next->va && one->pa + one->bytes == next->pa && one->flags == next->flags;
}

static void check_form(struct maps maps, uint32_t flags)
{
	size_t i;

	CHECK(maps.count);
	for (i = 0; i < maps.count; i++) {
		const struct mbecguard_mapping *map = &maps.at[i];

		CHECK(map->bytes && !((map->va | map->pa | map->bytes) % PAGE));
		CHECK(map->va >> 56 == 0xff && !(map->flags & ~flags) && !map->reserved);
		CHECK(!i || map[-1].va + map[-1].bytes <= map->va);
		CHECK(!i || !continues(map - 1, map));
	}
}

static bool same(struct maps one, struct maps other)
{
	return one.count == other.count && !memcmp(one.at, other.at, one.count * sizeof(*one.at));
}

static const struct mbecguard_mapping *find(struct maps maps, uint64_t va)
{
	size_t i;

	for (i = 0; i < maps.count; i++)
		if (va >= maps.at[i].va && va < maps.at[i].va + maps.at[i].bytes)
			return &maps.at[i];
	return NULL;
}

static uint64_t symbol(const char *wanted)
{
	FILE *file = fopen("/proc/kallsyms", "r");
	char line[1024], name[512];
	uint64_t address = 0;

	CHECK(file);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%" SCNx64 " %*c %511s", &address, name) == 2 && !strcmp(name, wanted))
			break;
	CHECK(!feof(file) && address);
	fclose(file);
	return address;
}

static uint64_t kernel_code(void)
{
	FILE *file = fopen("/proc/iomem", "r");
	uint64_t start = 0;
	char line[256];

	CHECK(file);
	while (fgets(line, sizeof(line), file))
		if (strstr(line, "Kernel code") && sscanf(line, "%" SCNx64, &start) == 1)
			break;
	fclose(file);
	CHECK(start);
	return start;
}

static void check_text(struct maps maps)
{
	uint64_t va = symbol("_text"), end = symbol("_etext"), code = kernel_code(), at;

	for (at = va; at < end; at += PAGE) {
		const struct mbecguard_mapping *map = find(maps, at);

		CHECK(map && map->pa + (at - map->va) == code + (at - va) && !map->flags);
	}
	CHECK(!find(maps, symbol("__start_rodata")));
	CHECK(!find(maps, symbol("init_task")));
}

/* One page frame of the shim's own text; its alias in the direct map is none. */
static void check_canary(int fd, struct maps maps)
{
	struct mbecguard_info seen = info(fd);
	int found = 0;
	size_t i;

	for (i = 0; i < maps.count; i++)
		found += seen.canary_pa >= maps.at[i].pa && seen.canary_pa < maps.at[i].pa + maps.at[i].bytes;
	CHECK(found == 1 && !find(maps, seen.page_offset + seen.canary_pa));
}

/* From the middle of a mapping on. */
static void check_from(int fd, struct maps maps)
{
	const struct mbecguard_mapping *map = find(maps, symbol("_text"));
	struct mbecguard_mapping part;
	struct mbecguard_mappings request = {
		.size = sizeof(request), .from_va = map->va + 3 * PAGE, .mappings = (uintptr_t)&part, .count = 1,
	};

	CHECK(!ioctl(fd, MBECGUARD_IOCTL_MAPPINGS, &request) && request.count == 1);
	CHECK(part.va == map->va + 3 * PAGE && part.pa == map->pa + 3 * PAGE && part.bytes == map->bytes - 3 * PAGE);
	request.from_va = -PAGE;
	CHECK(!ioctl(fd, MBECGUARD_IOCTL_MAPPINGS, &request) && !request.count && !request.from_va);
}

void test_mappings(char **arguments)
{
	int fd = device();
	struct maps all = walk(fd, 0, 65536);

	(void)arguments;
	check_form(all, MBECGUARD_MAP_WRITABLE | MBECGUARD_MAP_USER);
	CHECK(same(all, walk(fd, 0, 1)) && same(all, walk(fd, 0, 2)) && same(all, walk(fd, 0, 7)));
	CHECK(same(all, walk(fd, 0, all.count)));
	check_text(all);
	check_canary(fd, all);
	check_from(fd, all);
}

static struct {
	int fd;
	int count;
	Elf64_Phdr segments[64];
} kcore;

static void open_kcore(void)
{
	Elf64_Ehdr header;
	size_t bytes;

	kcore.fd = open("/proc/kcore", O_RDONLY);
	CHECK(kcore.fd >= 0 && pread(kcore.fd, &header, sizeof(header), 0) == sizeof(header));
	kcore.count = header.e_phnum;
	bytes = kcore.count * sizeof(*kcore.segments);
	CHECK(kcore.count <= 64 && pread(kcore.fd, kcore.segments, bytes, header.e_phoff) == (ssize_t)bytes);
}

/* A page frame by the direct map, not by the address that the walk has read it at. */
static void read_frame(uint64_t va, uint8_t *page)
{
	const Elf64_Phdr *segment;

	for (segment = kcore.segments; segment < kcore.segments + kcore.count; segment++)
		if (segment->p_type == PT_LOAD && va >= segment->p_vaddr && va - segment->p_vaddr < segment->p_memsz) {
			CHECK(pread(kcore.fd, page, PAGE, segment->p_offset + (va - segment->p_vaddr)) == PAGE);
			return;
		}
	CHECK(!"in kcore");
}

/* A regular language, by its automaton: (cc | [d6 ea] 75 fd | 41? ff e0-e7 cc)+ */
static uint32_t judge(const uint8_t *page)
{
	enum { BETWEEN, INVALID, BACK, REX, JUMP, END } state = BETWEEN;
	bool jumps = false;
	size_t i;

	for (i = 0; i < PAGE; i++) {
		uint8_t byte = page[i];

		if ((state == BETWEEN || state == END) && byte == 0xcc)
			state = BETWEEN;
		else if (state == BETWEEN && (byte == 0xd6 || byte == 0xea))
			state = INVALID;
		else if (state == INVALID && byte == 0x75)
			state = BACK;
		else if (state == BACK && byte == 0xfd)
			state = BETWEEN, jumps = true;
		else if (state == BETWEEN && byte == 0x41)
			state = REX;
		else if ((state == BETWEEN || state == REX) && byte == 0xff)
			state = JUMP;
		else if (state == JUMP && byte >= 0xe0 && byte <= 0xe7)
			state = END, jumps = true;
		else
			return 0;
	}
	return state != BETWEEN ? 0 : jumps ? MBECGUARD_MAP_THUNKS : MBECGUARD_MAP_INT3;
}

void test_content(char **arguments)
{
	int fd = device();
	struct maps maps = walk(fd, MBECGUARD_MAPPINGS_CONTENT, 100), plain = walk(fd, 0, 65536), merged = { NULL, 0 };
	uint64_t offset = info(fd).page_offset, at;
	unsigned long int3 = 0;
	uint8_t page[PAGE];
	size_t i;

	(void)arguments;
	check_form(maps, MBECGUARD_MAP_WRITABLE | MBECGUARD_MAP_USER | CONTENT);
	open_kcore();
	merged.at = calloc(maps.count, sizeof(*merged.at));
	for (i = 0; i < maps.count; i++) {
		struct mbecguard_mapping map = maps.at[i];

		for (at = 0; at < map.bytes; at += PAGE) {
			read_frame(offset + map.pa + at, page);
			CHECK(judge(page) == (map.flags & CONTENT));
			int3 += !!(map.flags & MBECGUARD_MAP_INT3);
		}
		map.flags &= ~CONTENT;
		if (merged.count && continues(&merged.at[merged.count - 1], &map))
			merged.at[merged.count - 1].bytes += map.bytes;
		else
			merged.at[merged.count++] = map;
	}
	CHECK(int3 > 10 && same(merged, plain));
}
