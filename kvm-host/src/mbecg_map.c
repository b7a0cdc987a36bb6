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

/* The first run that has a page frame in [@start, @end): all of it. */
bool mbecg_map_denied_run(const struct mbecg_map *map, u64 start, u64 end, struct mbecg_gfns *run)
{
	u32 i = rank_of(map, start), last;

	while (!denied(attr_of_rank(map, i)))
		if (boundary(map, i++) >= end)
			return false;
	for (last = i; last < count(map) && denied(attr_of_rank(map, last + 1)); last++)
		;
	while (denied(attr_of_rank(map, i - 1)))
		i--;
	run->start = boundary(map, i - 1);
	run->end = boundary(map, last);
	return true;
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

static bool differ(const struct mbecg_map *old, u32 i, const struct mbecg_map *new, u32 j)
{
	return denied(attr_of_rank(old, i)) != denied(attr_of_rank(new, j));
}

/* One boundary of both maps, with the same behind it as far as it is denied. */
static bool alike(u64 key, u64 other)
{
	return key == other || (key >> ATTR_BITS == other >> ATTR_BITS &&
				denied(key & ATTR_MASK) == denied(other & ATTR_MASK));
}

/* How many of the first boundaries deny the same: all of them, where a map is sealed as it is. */
static u32 equal_boundaries(const struct mbecg_map *old, const struct mbecg_map *new)
{
	u32 i = 0, nr = min(count(old), count(new));

	while (i < nr && alike(old->keys[i], new->keys[i]))
		i++;
	return i;
}

/* The first page frame that is denied in one map only, or NO_BOUNDARY. */
static u64 first_change(const struct mbecg_map *old, const struct mbecg_map *new)
{
	u32 i = equal_boundaries(old, new), j = i;
	u64 at = 0;

	while (at != NO_BOUNDARY && !differ(old, i, new, j)) {
		u64 of_old = boundary(old, i), of_new = boundary(new, j);

		at = min(of_old, of_new);
		i += of_old == at;
		j += of_new == at;
	}
	return at;
}

/* Behind the last one, if there is one. */
static u64 last_change(const struct mbecg_map *old, const struct mbecg_map *new)
{
	u32 i = count(old), j = count(new);
	u64 end;

	while (i && j && alike(old->keys[i - 1], new->keys[j - 1])) {
		i--;
		j--;
	}
	end = boundary(old, i);
	while (!differ(old, i, new, j)) {
		u64 of_old = i ? boundary(old, i - 1) : 0, of_new = j ? boundary(new, j - 1) : 0;

		end = max(of_old, of_new);
		i -= i && of_old == end;
		j -= j && of_new == end;
	}
	return end;
}

/*
 * The hull of all page frames that are denied in one map only. Each end is
 * looked for from its own side, and seldom far: not in a first map.
 */
bool mbecg_map_changed(const struct mbecg_map *old, const struct mbecg_map *new,
		       u64 *start, u64 *end)
{
	*start = first_change(old, new);
	if (*start == NO_BOUNDARY)
		return false;
	*end = last_change(old, new);
	return true;
}

/* What a range has to say for the pages behind @key to be sealed as they are. */
static u64 sealed_as(u64 key)
{
	return (key & ATTR_MASK ?: MBECG_RWX) | MBECG_IMMUTABLE;
}

static bool bounds(u64 left, u64 right, const struct mbecg_range *range)
{
	return left >> ATTR_BITS == range->pa >> GFN_SHIFT &&
	       right >> ATTR_BITS == range->epa >> GFN_SHIFT;
}

/*
 * Whether a list of @all ranges, of which these @nr come behind @come others,
 * seals @map as it is: so that nothing but bits need be set. The first range is
 * all of the map, and each other one has two boundaries to itself, behind which
 * that of the first goes on. As keys ascend and neighbours differ, so do the
 * ranges. Of any other list this says no, also if it should come to the same.
 */
bool mbecg_map_sealed_by(const struct mbecg_map *map, u32 all, u32 come,
			 const struct mbecg_range *ranges, u32 nr)
{
	const u64 *key, *last;
	u32 i = 0;

	if (!map || map->sealed || map->nr != 2 * all)
		return false;
	last = map->keys + map->nr - 1;
	if (!come) {
		if (!bounds(*map->keys, *last, ranges) ||
		    ranges->permissions != sealed_as(*map->keys))
			return false;
		i = 1;
	}
	for (key = map->keys + 2 * (come + i) - 1; i < nr; i++, key += 2)
		if (!bounds(key[0], key[1], &ranges[i]) ||
		    ranges[i].permissions != sealed_as(key[0]) ||
		    (key[1] ^ *map->keys) & ATTR_MASK)
			return false;
	return true;
}

/* It denies what it did: so whoever looks whether a page is denied may do so meanwhile. */
void mbecg_map_seal(struct mbecg_map *map)
{
	u64 *key, *last = map->keys + map->nr - 1;

	for (key = map->keys; key < last; key++)
		*key |= sealed_as(*key);
	map->sealed = true;
	map->digested = false;
}

/* Keys to allocate for @old after @ranges changes; one change adds two at most. */
u32 mbecg_map_room(const struct mbecg_map *old, u32 ranges)
{
	return min(count(old) + 2 * ranges, MBECG_MAX_BOUNDARIES + 2U);
}

/* @new, which has @room for keys, shall become @old with some changes. */
void mbecg_map_edit(struct mbecg_edit *edit, const struct mbecg_map *old, struct mbecg_map *new,
		    u32 room)
{
	u64 *end = new->keys + room;

	*edit = (struct mbecg_edit){
		.old = old, .new = new, .front = new->keys, .back = end - count(old), .end = end,
	};
	if (!old)
		return;
	edit->key = old->keys;
	memcpy(edit->back, old->keys, old->nr * sizeof(*old->keys));
}

static bool differs(u64 key, u32 attr)
{
	return key & MBECG_IMMUTABLE && (key & ATTR_MASK) != attr;
}

static bool forbidden(struct mbecg_edit *edit, u64 start, u64 end, u32 attr)
{
	const struct mbecg_map *old = edit->old;
	const u64 *key = edit->key, *last;

	if (!old || !old->sealed)
		return false;
	last = old->keys + old->nr;
	while (key > old->keys && key[-1] >= start << ATTR_BITS)
		key--;
	while (key < last && *key <= (start << ATTR_BITS | ATTR_MASK))
		key++;
	edit->key = key;
	if (key > old->keys && differs(key[-1], attr))
		return true;
	for (; key < last && *key < end << ATTR_BITS; key++)
		if (differs(*key, attr))
			return true;
	return false;
}

static void put(struct mbecg_edit *edit, u64 start, u64 end, u32 attr)
{
	const u64 first = start << ATTR_BITS, last = end << ATTR_BITS | ATTR_MASK;
	u64 *keys = edit->new->keys, *front = edit->front, *back = edit->back;
	u32 before, after;

	while (front > keys && front[-1] >= first)
		*--back = *--front;
	while (back < edit->end && *back < first)
		*front++ = *back++;
	before = front > keys ? front[-1] & ATTR_MASK : 0;
	for (after = before; back < edit->end && *back <= last; back++)
		after = *back & ATTR_MASK;
	if (attr != before)
		*front++ = first | attr;
	if (attr != after)
		*front++ = end << ATTR_BITS | after;
	edit->front = front;
	edit->back = back;
}

static u32 edited(const struct mbecg_edit *edit)
{
	return edit->front - edit->new->keys + (edit->end - edit->back);
}

/*
 * Apply checked ranges in order; the later one wins. Immutable is what is
 * immutable in the published map: one request may change its mind.
 * -EPERM, -E2BIG: the new map is of no use any more.
 */
int mbecg_map_apply(struct mbecg_edit *edit, const struct mbecg_range *ranges, u32 nr)
{
	const struct mbecg_range *range;

	for (range = ranges; range < ranges + nr; range++) {
		u64 start = range->pa >> GFN_SHIFT, end = range->epa >> GFN_SHIFT;
		u32 attr = range->permissions == MBECG_RWX ? 0 : range->permissions;

		if (forbidden(edit, start, end, attr))
			return -EPERM;
		put(edit, start, end, attr);
		if (edited(edit) > MBECG_MAX_BOUNDARIES)
			return -E2BIG;
	}
	return 0;
}

/* Close the gap, and tell what the map says as a whole, before it is published. */
void mbecg_map_finish(const struct mbecg_edit *edit)
{
	struct mbecg_map *new = edit->new;
	u32 attr, seen = 0;
	const u64 *key;

	new->nr = edited(edit);
	memmove(edit->front, edit->back, (edit->end - edit->back) * sizeof(*edit->back));
	for (key = new->keys; key < new->keys + new->nr; key++)
		seen |= 1 << (*key & ATTR_MASK);
	new->restricted = false;
	new->sealed = false;
	new->digested = false;
	for (attr = 1; attr <= ATTR_MASK; attr++) {
		if (!(seen & 1 << attr))
			continue;
		new->restricted |= denied(attr);
		new->sealed |= !!(attr & MBECG_IMMUTABLE);
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
