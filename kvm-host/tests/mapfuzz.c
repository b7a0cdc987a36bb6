// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Random requests to the map and to a naive model, one byte a page; the two
 * must agree on everything. mapfuzz SEED REQUESTS
 */
#include <errno.h>
#include <string.h>

#include "mbecg_map.h"

#define ROUND	"request"
#include "fuzz.h"

#define PAGES		192ULL
#define MAX_RANGES	96

struct model {
	unsigned char attr[PAGES];
};

typedef u32 list_fn(const struct model *model, struct mbecg_range *ranges);

static u64 seals;

static struct mbecg_range random_range(const struct model *model, bool immutable)
{
	u64 start = below(PAGES), end = start + 1 + below(below(4) ? 9 : PAGES);
	u64 permissions = 1 + below(immutable && !below(3) ? 15 : 7);

	end = end > PAGES ? PAGES : end;
	if (!below(4)) {	/* pages that are alike as they are, or all of them as others */
		for (end = start + 1; end < PAGES && model->attr[end] == model->attr[start]; end++)
			;
		while (start && model->attr[start - 1] == model->attr[end - 1])
			start--;
		if (below(2))
			permissions = model->attr[start];
		else if (immutable && below(2)) /* denied, by a key that differs in one bit from none */
			permissions = MBECG_IMMUTABLE;
	}
	return (struct mbecg_range){ start << 12, end << 12, permissions };
}

static int by_start(const void *a, const void *b)
{
	const struct mbecg_range *left = a, *right = b;

	return left->pa < right->pa ? -1 : left->pa > right->pa;
}

/* As agents send it a list ascends, often behind a range of everything. Half of these do not. */
static u32 random_list(const struct model *model, struct mbecg_range *ranges)
{
	u32 i, nr = 1 + below(below(2) ? 4 : MAX_RANGES);
	bool immutable = !below(8);

	for (i = 0; i < nr; i++)
		ranges[i] = random_range(model, immutable);
	if (below(2))
		qsort(ranges, nr, sizeof(*ranges), by_start);
	if (!below(4))
		ranges[0] = (struct mbecg_range){ 0, PAGES << 12, ranges[0].permissions };
	return nr;
}

/* As a lock has it: all of a stretch, then pieces of it; in one of three, three that touch. */
static u32 lock_list(const struct model *model, struct mbecg_range *ranges)
{
	u64 at = below(20), end = PAGES - below(20), denied = 1 + below(3);
	u64 apart = !!below(3);
	u32 nr = 1;

	(void)model;
	ranges[0] = (struct mbecg_range){ at++ << 12, end << 12, denied };
	while (apart ? below(12) && nr < MAX_RANGES : nr < 4) {
		u64 from = at + apart * below(3), to = from + 1 + below(5);

		if (to >= end)
			break;
		ranges[nr] = (struct mbecg_range){ from << 12, to << 12, nr & 1 ? 7 : 5 };
		at = to + apart;
		nr++;
	}
	return nr;
}

/* Has one range say something else, or leaves it out. */
static u32 spoil(struct mbecg_range *ranges, u32 nr)
{
	u32 odd = below(nr);

	switch (below(6)) {
	case 0:
		ranges[odd].permissions ^= 1 << below(4);
		break;
	case 1:
		ranges[odd].permissions = MBECG_IMMUTABLE;
		break;
	case 2:
		ranges[odd].epa += ranges[odd].epa < PAGES << 12 ? 0x1000 : 0;
		break;
	case 3:
		ranges[odd].pa -= ranges[odd].pa ? 0x1000 : 0;
		break;
	case 4:
		ranges[odd] = ranges[below(nr)];
		break;
	case 5:
		memmove(&ranges[odd], &ranges[odd + 1], (nr - odd - 1) * sizeof(*ranges));
		return nr > 1 ? nr - 1 : 1;
	}
	ranges[odd].permissions += !ranges[odd].permissions;
	return nr;
}

/* The seal of what @model says, if that is how a lock has it; one in two is spoilt. */
static u32 seal_list(const struct model *model, struct mbecg_range *ranges)
{
	u64 start = 0, end = PAGES, gfn;
	u32 nr = 1;

	while (start < PAGES - 1 && model->attr[start] == MBECG_RWX)
		start++;
	while (end > start + 1 && model->attr[end - 1] == MBECG_RWX)
		end--;
	ranges[0] = (struct mbecg_range){ start << 12, end << 12, model->attr[start] | 8 };
	for (gfn = start; gfn < end && nr < MAX_RANGES; gfn++) {
		if (model->attr[gfn] == model->attr[start])
			continue;
		ranges[nr].pa = gfn << 12;
		ranges[nr].permissions = model->attr[gfn] | 8;
		while (gfn + 1 < end && model->attr[gfn + 1] == model->attr[gfn])
			gfn++;
		ranges[nr++].epa = (gfn + 1) << 12;
	}
	return below(2) ? spoil(ranges, nr) : nr;
}

static u32 model_boundaries(const struct model *model)
{
	u32 nr = model->attr[PAGES - 1] != MBECG_RWX;
	u64 gfn;

	for (gfn = 0; gfn < PAGES; gfn++)
		nr += model->attr[gfn] != (gfn ? model->attr[gfn - 1] : MBECG_RWX);
	return nr;
}

static int model_apply(const struct model *published, struct model *model,
		       const struct mbecg_range *range)
{
	u64 gfn;

	for (gfn = range->pa >> 12; gfn < range->epa >> 12; gfn++) {
		if (published->attr[gfn] & 8 && published->attr[gfn] != range->permissions)
			return -EPERM;
		model->attr[gfn] = range->permissions;
	}
	return model_boundaries(model) > MBECG_MAX_BOUNDARIES ? -E2BIG : 0;
}

static bool model_denies(const struct model *model, u64 gfn)
{
	return !(model->attr[gfn] & MBECG_EXEC);
}

static void check_runs(const struct mbecg_map *map, const struct model *model)
{
	u64 from = below(PAGES), to = from + 1 + below(PAGES - from), start, end;
	struct mbecg_gfns run;

	for (start = from; start < to && !model_denies(model, start); start++)
		;
	CHECK(mbecg_map_denied_run(map, from, to, &run) == (start < to));
	if (start == to)
		return;
	for (end = start; end < PAGES && model_denies(model, end); end++)
		;
	while (start && model_denies(model, start - 1))
		start--;
	CHECK(run.start == start && run.end == end);
}

static void check_pages(const struct mbecg_map *map, const struct model *model)
{
	bool restricted = false, sealed = false;
	u64 gfn;

	for (gfn = 0; gfn < PAGES; gfn++) {
		CHECK(mbecg_map_attr(map, gfn) == model->attr[gfn]);
		CHECK(mbecg_map_denies(map, gfn) == model_denies(model, gfn));
		restricted |= model_denies(model, gfn);
		sealed |= !!(model->attr[gfn] & MBECG_IMMUTABLE);
	}
	check_runs(map, model);
	CHECK(map->nr == model_boundaries(model));
	CHECK(map->restricted == restricted && map->sealed == sealed);
	CHECK(mbecg_map_attr(map, PAGES) == MBECG_RWX && !mbecg_map_denies(map, ~0ULL >> 12));
}

static void check_blocks(const struct mbecg_map *map, const struct model *model)
{
	u64 size, start, gfn;

	for (size = 1; size <= 64; size *= 8) {
		for (start = 0; start < PAGES; start += size) {
			bool uniform = true;

			for (gfn = start; gfn < start + size; gfn++)
				uniform &= model_denies(model, gfn) == model_denies(model, start);
			CHECK(mbecg_map_uniform(map, start, start + size) == uniform);
		}
	}
}

static void check_change(const struct mbecg_map *old, const struct mbecg_map *new,
			 const struct model *before, const struct model *after)
{
	u64 gfn, start = 0, end = 0, is_start, is_end;
	bool changed;

	for (gfn = 0; gfn < PAGES; gfn++) {
		if (model_denies(before, gfn) == model_denies(after, gfn))
			continue;
		start = end ? start : gfn;
		end = gfn + 1;
	}
	changed = mbecg_map_changed(old, new, &is_start, &is_end);
	CHECK(changed == !!end && (!changed || (is_start == start && is_end == end)));
	CHECK(mbecg_map_equal(old, new) == !memcmp(before, after, sizeof(*before)));
}

static struct mbecg_edit edit_of(const struct mbecg_map *old, u32 ranges)
{
	u32 room = mbecg_map_room(old, ranges);
	struct mbecg_map *map = malloc(sizeof(*map) + 8 * room);
	struct mbecg_edit edit;

	if (!map)
		exit(2);
	mbecg_map_edit(&edit, old, map, room);
	return edit;
}

/* A list comes in pages. */
static int apply(struct mbecg_edit *edit, const struct mbecg_range *ranges, u32 nr)
{
	while (nr) {
		u32 some = 1 + below(nr);
		int r = mbecg_map_apply(edit, ranges, some);

		if (r)
			return r;
		ranges += some;
		nr -= some;
	}
	return 0;
}

static bool sealed_by(const struct mbecg_map *map, const struct mbecg_range *ranges, u32 all)
{
	u32 come, some;

	for (come = 0; come < all; come += some) {
		some = 1 + below(all - come);
		if (!mbecg_map_sealed_by(map, all, come, ranges + come, some))
			return false;
	}
	return true;
}

/* Where the host does not look for more, setting bits has to come to the same. */
static void check_seal(struct mbecg_map *old, const struct mbecg_map *new,
		       const struct mbecg_range *ranges, u32 nr)
{
	if (!sealed_by(old, ranges, nr))
		return;
	CHECK(!mbecg_map_equal(old, new));
	old->digested = true;
	mbecg_map_seal(old);
	CHECK(mbecg_map_equal(old, new) && old->sealed && !old->digested);
	CHECK(old->restricted == new->restricted);
	seals++;
}

/* One request against *published; whether it was granted. */
static bool one_request(struct mbecg_map **published, struct model *model, list_fn *list)
{
	struct mbecg_range ranges[MAX_RANGES];
	u32 i, nr = list(model, ranges);
	struct mbecg_edit edit = edit_of(*published, nr);
	struct mbecg_map *new = edit.new;
	struct model after = *model;
	int expected = 0;

	for (i = 0; i < nr && !expected; i++)
		expected = model_apply(model, &after, &ranges[i]);
	CHECK(apply(&edit, ranges, nr) == expected);
	if (expected) {
		CHECK(!sealed_by(*published, ranges, nr));
		free(new);
		return false;
	}
	mbecg_map_finish(&edit);
	check_pages(new, &after);
	check_blocks(new, &after);
	check_change(*published, new, model, &after);
	check_seal(*published, new, ranges, nr);
	free(*published);
	*published = new;
	*model = after;
	return true;
}

/* One in two is locked, at once. */
static u64 one_vm(void)
{
	static list_fn *const lock[] = { lock_list, seal_list, seal_list, random_list };
	struct mbecg_map *published = NULL;
	u32 i, locks = below(2), nr = locks ? 4 : 8;
	struct model model;
	u64 granted = 0;

	memset(model.attr, MBECG_RWX, sizeof(model.attr));
	for (i = 0; i < nr; i++, round_nr++)
		granted += one_request(&published, &model, locks ? lock[i] : random_list);
	free(published);
	return granted;
}

/* Every second page: as many boundaries as are allowed; one more is refused. */
static void check_bound(void)
{
	u64 i, fit = MBECG_MAX_BOUNDARIES / 2;
	struct mbecg_edit full = edit_of(NULL, fit), edit;
	struct mbecg_range range;

	for (i = 0; i < fit; i++) {
		range = (struct mbecg_range){ i << 13, (i << 13) + 0x1000, MBECG_READ };
		CHECK(!mbecg_map_apply(&full, &range, 1));
	}
	mbecg_map_finish(&full);
	CHECK(full.new->nr == MBECG_MAX_BOUNDARIES);
	range = (struct mbecg_range){ range.epa, range.epa + 0x1000, MBECG_WRITE };
	edit = edit_of(full.new, 1);
	CHECK(mbecg_map_apply(&edit, &range, 1) == -E2BIG);
	free(edit.new);
	free(full.new);
}

static void check_lists(void)
{
	static const struct mbecg_range bad[] = {
		{ 0, 0, 4 }, { 0x2000, 0x1000, 4 }, { 1, 0x1000, 4 }, { 0, 0x1001, 4 },
		{ 0, (PAGES + 1) << 12, 4 }, { 0, 0x1000, 0 }, { 0, 0x1000, 16 },
		{ 0, 0x1000, 1ULL << 63 | 4 }, { 0, ~0xfffULL, 4 }, { ~0xfffULL, 0, 4 },
	};
	struct mbecg_list list = { .npages = MBECG_RANGES_PER_PAGE };
	u64 i, at;

	for (i = 0; i < MBECG_RANGES_PER_PAGE; i++)
		list.ranges[i] = (struct mbecg_range){ 0, PAGES << 12, 15 };
	CHECK(!mbecg_list_check(&list, PAGES));
	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		at = below(MBECG_RANGES_PER_PAGE);
		list.ranges[at] = bad[i];
		CHECK(mbecg_list_check(&list, PAGES) == -EINVAL);
		list.ranges[at] = list.ranges[(at + 1) % MBECG_RANGES_PER_PAGE];
	}
	for (i = 0; i < 3; i++) {
		list.npages = i == 0 ? 0 : i == 1 ? MBECG_RANGES_PER_PAGE + 1 : ~0ULL;
		CHECK(mbecg_list_check(&list, PAGES) == -EINVAL);
	}
}

int main(int argc, char **argv)
{
	u64 granted = 0, requests;

	if (argc != 3)
		return 2;
	state = strtoull(argv[1], NULL, 10) * 0x9e3779b97f4a7c15ULL | 1;
	requests = strtoull(argv[2], NULL, 10);
	check_bound();
	check_lists();
	while (round_nr < requests)
		granted += one_vm();
	printf("requests %llu granted %llu seals %llu\n", (unsigned long long)round_nr,
	       (unsigned long long)granted, (unsigned long long)seals);
	return 0;
}
