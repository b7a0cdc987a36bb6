/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MBECG_MAP_H
#define MBECG_MAP_H

#include "mbecg_abi.h"

#define MBECG_DIGEST_SIZE	32

/*
 * Permissions by guest page frame: sorted boundaries, gfn << 4 | permissions.
 * A boundary holds up to the next one. 0 stands for RWX, which is also what
 * holds below the first boundary. Neighbours differ, so equal maps have equal
 * keys. Published maps never change, but for their digest, which is computed
 * when somebody asks, and but for IMMUTABLE, when they are sealed as they are.
 * NULL is the empty map.
 */
struct mbecg_map {
	u32 nr;
	bool restricted;
	bool sealed;
	bool digested;
	u8 digest[MBECG_DIGEST_SIZE];	/* SHA-256 of the keys, if @digested */
	u64 keys[];
};

/*
 * A map in the making: its keys lie before a gap and behind it, and the gap is
 * where the last range was put. So a list that ascends moves each key once; any
 * other is as right, and moves keys to and fro.
 */
struct mbecg_edit {
	const struct mbecg_map *old;	/* published */
	struct mbecg_map *new;
	u64 *front;			/* behind the keys before the gap */
	u64 *back;			/* the first behind it */
	u64 *end;
	const u64 *key;			/* in @old, the first above the start of the last range */
};

/* Denied page frames, with none before or behind them. */
struct mbecg_gfns {
	u64 start;
	u64 end;
};

u32 mbecg_map_attr(const struct mbecg_map *map, u64 gfn);
bool mbecg_map_denies(const struct mbecg_map *map, u64 gfn);
bool mbecg_map_denied_run(const struct mbecg_map *map, u64 start, u64 end, struct mbecg_gfns *run);
bool mbecg_map_uniform(const struct mbecg_map *map, u64 start, u64 end);
bool mbecg_map_equal(const struct mbecg_map *a, const struct mbecg_map *b);
bool mbecg_map_changed(const struct mbecg_map *old, const struct mbecg_map *new,
		       u64 *start, u64 *end);

bool mbecg_map_sealed_by(const struct mbecg_map *map, u32 all, u32 come,
			 const struct mbecg_range *ranges, u32 nr);
void mbecg_map_seal(struct mbecg_map *map);

u32 mbecg_map_room(const struct mbecg_map *old, u32 ranges);
void mbecg_map_edit(struct mbecg_edit *edit, const struct mbecg_map *old, struct mbecg_map *new,
		    u32 room);
int mbecg_map_apply(struct mbecg_edit *edit, const struct mbecg_range *ranges, u32 nr);
void mbecg_map_finish(const struct mbecg_edit *edit);

int mbecg_list_check(const struct mbecg_list *list, u64 limit);

#endif
