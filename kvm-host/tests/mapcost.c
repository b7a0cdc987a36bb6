// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The requests of a lock, for a program that counts instructions: deny all and
 * keep RANGES - 1 single pages, then the same for good. mapcost RANGES REQUESTS
 */
#include <stdio.h>
#include <stdlib.h>

#include "mbecg_map.h"

#define LIMIT	(1ULL << 39)

static struct mbecg_list *make_list(u64 ranges, u64 permissions)
{
	u64 pages = (ranges + MBECG_RANGES_PER_PAGE - 1) / MBECG_RANGES_PER_PAGE;
	struct mbecg_list *list = calloc(pages, sizeof(*list));
	u64 i;

	for (i = 0; list && i < ranges; i++) {
		struct mbecg_list *page = &list[i / MBECG_RANGES_PER_PAGE];

		struct mbecg_range kept = { i << 13, (i << 13) + 4096, permissions | MBECG_EXEC };

		page->ranges[page->npages++] =
			i ? kept : (struct mbecg_range){ 0, LIMIT, permissions };
	}
	return list;
}

static bool sealed_by(const struct mbecg_map *map, const struct mbecg_list *list, u64 ranges)
{
	u64 come;

	for (come = 0; come < ranges; come += list->npages, list++)
		if (!mbecg_map_sealed_by(map, ranges, come, list->ranges, list->npages))
			return false;
	return true;
}

static struct mbecg_map *changed(const struct mbecg_map *old, const struct mbecg_list *list,
				 u64 ranges)
{
	u32 room = mbecg_map_room(old, ranges);
	struct mbecg_map *new = malloc(sizeof(*new) + room * sizeof(*new->keys));
	struct mbecg_edit edit;
	u64 start, end, left;

	if (!new)
		exit(2);
	mbecg_map_edit(&edit, old, new, room);
	for (left = ranges; left; left -= list->npages, list++)
		if (mbecg_map_apply(&edit, list->ranges, list->npages))
			exit(1);
	mbecg_map_finish(&edit);
	mbecg_map_changed(old, new, &start, &end);
	return new;
}

/* As the host does it. */
static struct mbecg_map *request(struct mbecg_map *map, const struct mbecg_list *list, u64 ranges)
{
	u64 come, page = 0;

	for (come = 0; come < ranges; come += list[page++].npages)
		if (mbecg_list_check(&list[page], LIMIT >> 12))
			exit(1);
	if (!sealed_by(map, list, ranges))
		return changed(map, list, ranges);
	mbecg_map_seal(map);
	return map;
}

int main(int argc, char **argv)
{
	u64 ranges, requests, i;
	struct mbecg_list *lists[2];
	struct mbecg_map *map = NULL;

	if (argc != 3)
		return 2;
	ranges = strtoull(argv[1], NULL, 10);
	requests = strtoull(argv[2], NULL, 10);
	for (i = 0; i < 2; i++) {
		lists[i] = make_list(ranges, MBECG_READ | MBECG_WRITE | (i ? MBECG_IMMUTABLE : 0));
		if (!lists[i])
			return 2;
	}
	for (i = 0; i < requests && i < 2; i++)
		map = request(map, lists[i], ranges);
	printf("boundaries %u sealed %d\n", map ? map->nr : 0, map && map->sealed);
	return 0;
}
