// SPDX-License-Identifier: GPL-2.0-or-later
/* kvm.mbecguard_selftest=1: the map as compiled into this module, on the cases that matter. */
#define pr_fmt(fmt) KBUILD_MODNAME ": mbecguard: " fmt

#include <linux/slab.h>

#include "mbecg.h"

#define PAGES(start, end, permissions) { (start) << PAGE_SHIFT, (end) << PAGE_SHIFT, permissions }
#define GFNS	0x1000UL
#define ROOM	16

#define EXPECT(condition) ({						\
	bool is = (condition);						\
	if (!is)							\
		pr_err("self-test: line %d: %s\n", __LINE__, #condition);	\
	is;								\
})

static const struct mbecg_range deny_all_keep_one[] = {
	PAGES(0UL, GFNS, MBECG_READ | MBECG_IMMUTABLE),
	PAGES(0x201UL, 0x202UL, MBECG_READ | MBECG_EXEC | MBECG_IMMUTABLE),
};

static const struct mbecg_range change_kept[] = { PAGES(0x201UL, 0x202UL, MBECG_RWX) };
static const struct mbecg_range repeat_kept[] = {
	PAGES(0x201UL, 0x202UL, MBECG_READ | MBECG_EXEC | MBECG_IMMUTABLE),
};

/* Make @new of @old by @nr ranges; both have room for ROOM keys. */
static int change(const struct mbecg_map *old, struct mbecg_map *new,
		  const struct mbecg_range *ranges, u32 nr)
{
	struct mbecg_edit edit;
	int r;

	mbecg_map_edit(&edit, old, new, ROOM);
	r = mbecg_map_apply(&edit, ranges, nr);
	mbecg_map_finish(&edit);
	return r;
}

static bool test_map(struct mbecg_map *map, struct mbecg_map *next)
{
	u64 start, end;

	if (!EXPECT(!change(NULL, map, deny_all_keep_one, 2)))
		return false;
	return EXPECT(map->nr == 4 && map->sealed && map->restricted) &&
	       EXPECT(mbecg_map_denies(map, 0) && mbecg_map_denies(map, GFNS - 1)) &&
	       EXPECT(!mbecg_map_denies(map, GFNS) && !mbecg_map_denies(map, 0x201)) &&
	       EXPECT(mbecg_map_denies(map, 0x200) && mbecg_map_denies(map, 0x202)) &&
	       EXPECT(mbecg_map_uniform(map, 0, 0x200) && !mbecg_map_uniform(map, 0x200, 0x400)) &&
	       EXPECT(change(map, next, change_kept, 1) == -EPERM) &&
	       EXPECT(!change(map, next, repeat_kept, 1) && mbecg_map_equal(map, next)) &&
	       EXPECT(mbecg_map_changed(NULL, map, &start, &end)) &&
	       EXPECT(start == 0 && end == GFNS) &&
	       EXPECT(!mbecg_map_changed(map, next, &start, &end));
}

static bool test_list(struct mbecg_list *list)
{
	bool empty = EXPECT(mbecg_list_check(list, GFNS) == -EINVAL);
	bool good, beyond;

	list->npages = MBECG_RANGES_PER_PAGE + 1;
	good = EXPECT(mbecg_list_check(list, GFNS) == -EINVAL);
	list->npages = 1;
	list->ranges[0] = deny_all_keep_one[0];
	good &= EXPECT(!mbecg_list_check(list, GFNS));
	beyond = EXPECT(mbecg_list_check(list, GFNS - 1) == -EINVAL);
	return empty && good && beyond;
}

int mbecg_selftest(void)
{
	const size_t size = struct_size_t(struct mbecg_map, keys, ROOM);
	struct mbecg_map *map __free(kfree) = kzalloc(size, GFP_KERNEL);
	struct mbecg_map *next __free(kfree) = kzalloc(size, GFP_KERNEL);
	struct mbecg_list *list __free(kfree) = kzalloc(sizeof(*list), GFP_KERNEL);

	if (!map || !next || !list)
		return -ENOMEM;
	if (!test_map(map, next) || !test_list(list))
		return -EINVAL;
	pr_info("self-test passed\n");
	return 0;
}
