// SPDX-License-Identifier: GPL-2.0-or-later
/* No KVM in here: tests/ builds this file in user space as well. */
#include <linux/errno.h>
#include <linux/minmax.h>
#include <linux/string.h>
#include <linux/types.h>

#include "mbecg_map.h"

#define ATTR_BITS	4
#define ATTR_MASK	((1ULL << ATTR_BITS) - 1)
#define GFN_SHIFT	12
#define NO_BOUNDARY	(~0ULL)

static u32 count(const struct mbecg_map *map)
{
	return map ? map->nr : 0;
}

static u64 boundary(const struct mbecg_map *map, u32 i)
{
	return i < count(map) ? map->keys[i] >> ATTR_BITS : NO_BOUNDARY;
}

/* The number of boundaries at or below @gfn. */
static u32 rank_of(const struct mbecg_map *map, u64 gfn)
{
	u32 low = 0, high = count(map);

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (boundary(map, middle) <= gfn)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static u32 attr_of_rank(const struct mbecg_map *map, u32 rank)
{
	return rank ? map->keys[rank - 1] & ATTR_MASK : 0;
}

static bool denied(u32 attr)
{
	return attr && !(attr & MBECG_EXEC);
}

u32 mbecg_map_attr(const struct mbecg_map *map, u64 gfn)
{
	return attr_of_rank(map, rank_of(map, gfn)) ?: MBECG_RWX;
}

bool mbecg_map_denies(const struct mbecg_map *map, u64 gfn)
{
	return denied(attr_of_rank(map, rank_of(map, gfn)));
}

/* Whether all of [@start, @end) is denied, or all of it is not. */
bool mbecg_map_uniform(const struct mbecg_map *map, u64 start, u64 end)
{
	u32 i = rank_of(map, start);
	bool first = denied(attr_of_rank(map, i));

	for (; boundary(map, i) < end; i++)
		if (denied(attr_of_rank(map, i + 1)) != first)
			return false;
	return true;
}

bool mbecg_map_equal(const struct mbecg_map *a, const struct mbecg_map *b)
{
	return count(a) == count(b) &&
	       (!count(a) || !memcmp(a->keys, b->keys, count(a) * sizeof(*a->keys)));
}

/* The hull of all page frames below @limit that are denied in one map only. */
bool mbecg_map_changed(const struct mbecg_map *old, const struct mbecg_map *new,
		       u64 limit, u64 *start, u64 *end)
{
	u32 i = 0, j = 0;
	u64 at = 0;

	*start = 0;
	*end = 0;
	while (at < limit) {
		u64 next = min(limit, min(boundary(old, i), boundary(new, j)));

		if (at < next && denied(attr_of_rank(old, i)) != denied(attr_of_rank(new, j))) {
			if (!*end)
				*start = at;
			*end = next;
		}
		i += boundary(old, i) == next;
		j += boundary(new, j) == next;
		at = next;
	}
	return *end;
}

/* Keys to allocate for @old after @ranges changes; one change adds two at most. */
u32 mbecg_map_room(const struct mbecg_map *old, u32 ranges)
{
	return min(count(old) + 2 * ranges, MBECG_MAX_BOUNDARIES + 2U);
}

void mbecg_map_copy(struct mbecg_map *new, const struct mbecg_map *old)
{
	new->nr = count(old);
	if (new->nr)
		memcpy(new->keys, old->keys, new->nr * sizeof(*new->keys));
}

static bool forbidden(const struct mbecg_map *published, u64 start, u64 end, u32 attr)
{
	u32 i = rank_of(published, start);

	for (;; i++) {
		u32 is = attr_of_rank(published, i);

		if (is & MBECG_IMMUTABLE && is != attr)
			return true;
		if (boundary(published, i) >= end)
			return false;
	}
}

static void put(struct mbecg_map *map, u64 start, u64 end, u32 attr)
{
	u32 first = start ? rank_of(map, start - 1) : 0;
	u32 last = rank_of(map, end);
	u32 below = attr_of_rank(map, first), above = attr_of_rank(map, last);
	u64 keys[2];
	u32 nr = 0;

	if (attr != below)
		keys[nr++] = start << ATTR_BITS | attr;
	if (attr != above)
		keys[nr++] = end << ATTR_BITS | above;
	memmove(map->keys + first + nr, map->keys + last, (map->nr - last) * sizeof(*map->keys));
	memcpy(map->keys + first, keys, nr * sizeof(*map->keys));
	map->nr += nr - (last - first);
}

/*
 * Apply checked ranges to @new in order; the later one wins. Immutable is what
 * is immutable in @old, the published map: one request may change its mind.
 * -EPERM, -E2BIG: @new is of no use any more.
 */
int mbecg_map_apply(const struct mbecg_map *old, struct mbecg_map *new,
		    const struct mbecg_range *ranges, u32 nr)
{
	const struct mbecg_range *range;

	for (range = ranges; range < ranges + nr; range++) {
		u64 start = range->pa >> GFN_SHIFT, end = range->epa >> GFN_SHIFT;
		u32 attr = range->permissions == MBECG_RWX ? 0 : range->permissions;

		if (forbidden(old, start, end, attr))
			return -EPERM;
		put(new, start, end, attr);
		if (new->nr > MBECG_MAX_BOUNDARIES)
			return -E2BIG;
	}
	return 0;
}

/* Compute what the map says as a whole, before it is published. */
void mbecg_map_finish(struct mbecg_map *new)
{
	u32 rank;

	new->restricted = false;
	new->sealed = false;
	for (rank = 1; rank <= new->nr; rank++) {
		new->restricted |= denied(attr_of_rank(new, rank));
		new->sealed |= !!(attr_of_rank(new, rank) & MBECG_IMMUTABLE);
	}
}

static bool acceptable(const struct mbecg_range *range, u64 limit)
{
	u64 unaligned = (range->pa | range->epa) & ((1ULL << GFN_SHIFT) - 1);

	return !unaligned && range->pa < range->epa && range->epa >> GFN_SHIFT <= limit &&
	       range->permissions && !(range->permissions & ~(u64)MBECG_PERMISSIONS);
}

/* Check one list page; @limit: page frames of the guest-physical space. */
int mbecg_list_check(const struct mbecg_list *list, u64 limit)
{
	u64 i;

	if (!list->npages || list->npages > MBECG_RANGES_PER_PAGE)
		return -EINVAL;
	for (i = 0; i < list->npages; i++)
		if (!acceptable(&list->ranges[i], limit))
			return -EINVAL;
	return 0;
}
